//! A sync to a root that has an identity of its own: what is synced with a substitution arrives as the standby's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use syncore::monitor::Silent;
use syncore::prepare::{Journal, PROMOTED, STATE_DIRECTORY};
use syncore::profile::{Profile, catalogues};
use syncore::rules::Rule;
use syncore::session::{Approval, Job, Location, Options, Report, run};

const FSTAB: &str =
    "UUID=p-root / ext4 defaults 0 1\nUUID=p-swap none swap sw 0 0\n/dev/vg/data /srv xfs defaults 0 2\n";
const HOSTS: &str = "127.0.0.1 localhost\n192.0.2.1 production\n192.0.2.9 printer\n";

fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn get(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap()
}

/// Makes a root a standby, as far as a sync sees: it has the journal of a preparation.
fn prepared(root: &Path) {
    let journal = Journal { hostname: "standby".into(), complete: true, ..Journal::default() };
    let path = format!("{STATE_DIRECTORY}/journal.json");
    put(root, &path, &serde_json::to_string(&journal).unwrap());
}

/// Production, and a standby that was prepared.
fn pair(temp: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (production, standby) = (temp.join("production"), temp.join("standby"));
    for root in [&production, &standby] {
        put(root, "etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
    }
    fs::create_dir_all(production.join("var/lib/clonetool")).unwrap();
    put(&production, "etc/hostname", "production\n");
    put(&production, "etc/fstab", FSTAB);
    put(&production, "etc/hosts", HOSTS);
    put(&standby, "etc/hostname", "standby\n");
    put(&standby, "etc/fstab", "UUID=s-root / ext4 defaults 0 1\nUUID=s-swap none swap sw 0 0\n");
    put(&standby, "etc/hosts", "127.0.0.1 localhost\n192.0.2.2 standby\n");
    prepared(&standby);
    (production, standby)
}

fn rules() -> Vec<Rule> {
    let (name, text) = catalogues().iter().find(|(name, _)| *name == "linux").unwrap();
    Profile::parse(name, text, &|_| None).unwrap().rules()
}

fn sync_with(production: &Path, standby: &Path, rules: Vec<Rule>, options: Options) -> Report {
    let job = Job {
        source: Location::Local(production.into()),
        destination: Location::Local(standby.into()),
        rules,
        options,
    };
    run(&job, &mut |_| Approval::Run, &Silent).unwrap()
}

fn sync(production: &Path, standby: &Path) -> Report {
    sync_with(production, standby, rules(), Options { delete: true, ..Options::default() })
}

const MADE_FSTAB: &str = "UUID=s-root / ext4 defaults 0 1\nUUID=s-swap none swap sw 0 0\n/dev/vg/data /srv xfs noauto,x-clonetool.held 0 2\n";

#[test]
fn the_standby_keeps_what_is_its_own_in_a_file_that_is_synced() {
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    let report = sync(&production, &standby);
    assert_eq!(report.problems, []);
    let mut lines: Vec<String> = get(&standby, "etc/fstab").lines().map(str::to_owned).collect();
    lines.sort();
    let mut expected: Vec<&str> = MADE_FSTAB.lines().collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    assert_eq!(
        get(&standby, "etc/hosts"),
        "127.0.0.1 localhost\n192.0.2.2 standby\n192.0.2.1 production\n192.0.2.9 printer\n"
    );
    assert_eq!(get(&standby, "etc/hostname"), "standby\n");
    // What was made passes for production's: by metadata, and by content.
    assert!(sync(&production, &standby).plan.is_none());
    let checksum = Options { delete: true, checksum: true, ..Options::default() };
    assert!(sync_with(&production, &standby, rules(), checksum.clone()).plan.is_none());
    // Until somebody changes it, even without a change of length and time.
    let path = standby.join("etc/hosts");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    put(&standby, "etc/hosts", &get(&standby, "etc/hosts").replace("printer", "intruder"));
    put(&standby, "etc/hosts", &get(&standby, "etc/hosts").replace("intruder", "printeX"));
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(sync_with(&production, &standby, rules(), checksum).totals.updated, 1);
    assert!(get(&standby, "etc/hosts").contains("printer"));
}

#[test]
fn a_change_on_either_side_is_merged() {
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    sync(&production, &standby);
    put(&production, "etc/hosts", &format!("{HOSTS}192.0.2.10 scanner\n"));
    put(
        &standby,
        "etc/fstab",
        &get(&standby, "etc/fstab").replace("UUID=s-root / ext4 defaults", "UUID=s-root / ext4 noatime"),
    );
    assert_eq!(sync(&production, &standby).totals.updated, 2);
    assert!(get(&standby, "etc/hosts").ends_with("192.0.2.10 scanner\n"));
    assert!(get(&standby, "etc/fstab").starts_with("UUID=s-root / ext4 noatime 0 1\n"));
    assert!(sync(&production, &standby).plan.is_none());
}

#[test]
fn what_cannot_be_made_stays_as_it_is_and_is_reported() {
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    sync(&production, &standby);
    let before = get(&standby, "etc/fstab");
    put(&production, "etc/fstab", &format!("{FSTAB}UUID=p-usr /usr ext4 defaults 0 1\n"));
    put(&production, "etc/motd", "hello\n");
    let report = sync(&production, &standby);
    assert_eq!(report.problems.len(), 1);
    let problem = report.problems[0].to_string();
    assert_eq!(problem, "/etc/fstab: cannot write the content: the standby has no filesystem for /usr");
    assert_eq!((get(&standby, "etc/fstab"), get(&standby, "etc/motd")), (before, "hello\n".into()));
}

#[test]
fn a_sender_without_the_catalogue_cannot_take_the_standbys_own() {
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    let report = sync_with(&production, &standby, Vec::new(), Options { delete: true, ..Options::default() });
    assert_eq!(report.problems, []);
    assert_eq!(get(&standby, "etc/hostname"), "standby\n");
    assert!(get(&standby, "etc/fstab").contains("UUID=s-root"));
    assert!(!get(&standby, "etc/fstab").contains("p-root"));
    assert!(standby.join(STATE_DIRECTORY).join("journal.json").exists());
}

#[test]
fn what_only_a_standby_can_make_does_not_come_to_a_plain_copy() {
    let temp = tempfile::tempdir().unwrap();
    let (production, _) = pair(temp.path());
    let copy = temp.path().join("copy");
    put(&copy, "etc/fstab", "theirs\n");
    put(&production, "boot/vmlinuz-6.1", "kernel");
    sync(&production, &copy);
    assert_eq!(get(&copy, "etc/fstab"), "theirs\n");
    // A kernel without what follows from it would be one that does not boot.
    assert!(!copy.join("boot/vmlinuz-6.1").exists());
}

#[test]
fn what_is_held_is_brought_to_where_it_does_not_act() {
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    put(&production, "etc/cron.d/backup", "* * * * * root backup\n");
    put(&production, "var/spool/cron/crontabs/root", "* * * * * job\n");
    put(&production, "etc/exports", "/srv *(rw)\n");
    put(&production, "etc/apt/sources.list", "deb x\n");
    sync(&production, &standby);
    let (name, text) = catalogues().iter().find(|(name, _)| *name == "linux").unwrap();
    let held = Profile::parse(name, text, &|_| None).unwrap().held_rules().unwrap();
    let kept = standby.join("var/lib/clonetool/production");
    let report = sync_with(&production, &kept, held.clone(), Options { delete: true, ..Options::default() });
    assert_eq!(report.problems, []);
    for path in ["etc/cron.d/backup", "var/spool/cron/crontabs/root", "etc/exports"] {
        assert_eq!(get(&kept, path), get(&production, path));
        assert!(!standby.join(path).exists(), "{path} would act");
    }
    assert!(!kept.join("etc/apt").exists() && !kept.join("etc/fstab").exists());
    assert!(get(&standby, "etc/apt/sources.list").contains("deb"));
    let again = sync_with(&production, &kept, held, Options { delete: true, ..Options::default() });
    assert!(again.plan.is_none());
    // A standby that was promoted is production: what is held is to act there.
    put(&standby, PROMOTED, "");
    let everything = sync_with(&production, &standby, Vec::new(), Options::default());
    assert_eq!(everything.problems, []);
    assert_eq!(get(&standby, "etc/cron.d/backup"), "* * * * * root backup\n");
    assert_eq!(get(&standby, "etc/hostname"), "standby\n");
}

#[test]
fn what_was_done_to_a_root_is_not_copied_with_it() {
    let temp = tempfile::tempdir().unwrap();
    let (_, standby) = pair(temp.path());
    put(&standby, PROMOTED, "");
    let next = temp.path().join("next");
    let report = sync_with(&standby, &next, Vec::new(), Options { delete: true, ..Options::default() });
    assert_eq!(report.problems, []);
    assert!(next.join("etc/hostname").exists() && next.join("var/lib").exists());
    assert!(!next.join("var/lib/clonetool").exists());
    let again = sync_with(&standby, &next, Vec::new(), Options { delete: true, ..Options::default() });
    assert!(again.plan.is_none());
}
