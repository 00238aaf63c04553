//! `space` and `inodes` on filesystems that are too small.

use std::fs::{self, File};

use super::Pair;
use crate::common::mount;

const GATES: &str = "[[gate]]\nkind = \"space\"\nname = \"room\"\nreserve = \"64KiB\"\n\
                     [[gate]]\nkind = \"inodes\"\nname = \"inodes\"\nreserve = 2\n";

#[test]
fn a_plan_that_does_not_fit_the_standby_changes_nothing() {
    let pair = Pair::new("gates-space", GATES);
    mount::tmpfs(&pair.standby, "size=4m,nr_inodes=40");
    fs::write(pair.production.join("big"), vec![1; 5 << 20]).unwrap();
    // Before there is a plan there is room.
    pair.gates(&[]).expect_code(0);
    let run = pair.sync(&[]).expect_code(3);
    assert!(run.stderr.contains("refused by the gate room (space, "), "{}", run.describe());
    assert!(run.stderr.contains("bytes free, the plan needs 5246976, and 65536 are to stay free"));
    assert!(pair.nothing_changed());
    // A hole of that length takes no room.
    File::create(pair.production.join("big")).unwrap().set_len(5 << 20).unwrap();
    pair.sync(&[]).expect_code(0);
    assert!(!pair.nothing_changed());
}

#[test]
fn a_plan_with_more_names_than_the_standby_has_inodes_changes_nothing() {
    let pair = Pair::new("gates-inodes", GATES);
    mount::tmpfs(&pair.standby, "size=4m,nr_inodes=40");
    (0..60).for_each(|n| fs::write(pair.production.join(format!("f{n}")), "").unwrap());
    let run = pair.sync(&[]).expect_code(3);
    assert!(run.stderr.contains("refused by the gate inodes (inodes, "), "{}", run.describe());
    assert!(
        run.stderr.contains("inodes free, the plan needs 61, and 2 are to stay free"),
        "{}",
        run.describe()
    );
    assert!(pair.nothing_changed());
    (30..60).for_each(|n| fs::remove_file(pair.production.join(format!("f{n}"))).unwrap());
    pair.sync(&[]).expect_code(0);
}

#[test]
fn a_filesystem_below_the_standby_root_is_judged_by_itself() {
    let pair = Pair::new("gates-below", GATES);
    let profile = fs::read_to_string(&pair.profile).unwrap();
    let profile = profile.replacen("[source]\n", "[source]\nalso = [\"/srv\"]\n", 1);
    fs::write(&pair.profile, profile).unwrap();
    mount::tmpfs(&pair.production.join("srv"), "size=8m");
    mount::tmpfs(&pair.standby.join("srv"), "size=1m");
    fs::write(pair.production.join("srv/big"), vec![1; 2 << 20]).unwrap();
    let run = pair.sync(&[]).expect_code(3);
    assert!(run.stderr.contains("): /srv on the destination has "), "{}", run.describe());
    assert!(pair.nothing_changed());
}
