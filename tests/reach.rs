//! What no rename reaches from where a run stages it: a btrfs subvolume, a project of XFS.

use std::fs;
use std::path::Path;

use crate::common::compare::assert_equal;
use crate::common::plant::write;
use crate::common::{clonetool, lacks, mount, run};
use crate::whole::{Pair, staged};

/// A source that changes two files, one of them at `apart`, which is out of reach on the standby.
fn pair(name: &str, kind: &str, set_apart: &dyn Fn(&Path)) -> Pair {
    let pair = Pair::new(name);
    mount::loop_image(&pair.dir.join("image"), kind, 320 << 20, &pair.standby);
    fs::create_dir_all(pair.standby.join("var/lib")).unwrap();
    let profile = fs::read_to_string(&pair.profile).unwrap();
    write(&pair.profile, format!("{profile}[source]\none-file-system = false\n"));
    fs::create_dir_all(pair.source.join("var/lib")).unwrap();
    write(&pair.source.join("etc/motd"), "new\n");
    write(&pair.source.join("srv/apart/file"), "new\n");
    fs::create_dir_all(pair.standby.join("srv")).unwrap();
    set_apart(&pair.standby.join("srv/apart"));
    pair
}

/// The rest is brought, the path is named, and nothing is left that had to be completed.
fn is_a_problem_of_its_path(pair: &Pair) {
    let output = clonetool(pair.sync(&pair.standby)).expect_code(4);
    output.expect_stderr("/srv/apart/file").expect_stderr("no rename");
    assert_equal(&pair.source.join("etc"), &pair.standby.join("etc"));
    assert!(!pair.standby.join("srv/apart/file").exists());
    assert!(!pair.standby.join("var/lib/clonetool/run/journal").exists(), "it is to be completed");
    assert_eq!(staged(&pair.standby), 0);
}

#[test]
fn a_subvolume_is_a_problem_of_what_is_in_it() {
    if lacks("reach::a_subvolume_is_a_problem_of_what_is_in_it", &["mkfs.btrfs"]) {
        return;
    }
    let make = |at: &Path| drop(run("btrfs", ["subvolume".as_ref(), "create".as_ref(), at.as_os_str()]));
    let pair = pair("reach-subvolume", "btrfs", &make);
    is_a_problem_of_its_path(&pair);
    is_a_problem_of_its_path(&pair);
}

#[test]
fn a_project_is_a_problem_of_what_is_in_it() {
    if lacks("reach::a_project_is_a_problem_of_what_is_in_it", &["mkfs.xfs"]) {
        return;
    }
    let make = |at: &Path| {
        fs::create_dir(at).unwrap();
        run("chattr", ["-p".as_ref(), "42".as_ref(), "+P".as_ref(), at.as_os_str()]);
    };
    let pair = pair("reach-project", "xfs", &make);
    is_a_problem_of_its_path(&pair);
    // Without the project it is a directory like any other.
    let apart = pair.standby.join("srv/apart");
    run("chattr", ["-p".as_ref(), "0".as_ref(), "-P".as_ref(), apart.as_os_str()]);
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    assert_equal(&pair.source.join("srv"), &pair.standby.join("srv"));
}
