//! Runs that change everything or nothing: killed at every step, recovered, undone.
//!
//! A kill is a real one, at a system call: strace delivers SIGKILL as the k-th call of a kind is entered, until a run
//! is over before its k-th. What follows is judged against the tree before and the tree after, by the independent
//! comparer. A kill keeps the page cache; what power loss does is in `power`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use syncore::tree::escape;

use crate::common::compare::{Difference, assert_none, compare};
use crate::common::dir::inode_flags;
use crate::common::plant::{chattr, chmod, next_tick, noise, set_mtime, set_xattr, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{CLONETOOL, Output, Workdir, clonetool, lacks, mount, run};

/// What changes names or makes something durable.
pub(crate) const STEPS: [&str; 8] =
    ["renameat", "renameat2", "linkat", "unlinkat", "mkdirat", "utimensat", "fsync", "syncfs"];

/// Where runs keep what is theirs: at home, and at the top of another filesystem.
const OWN: [&str; 2] = ["var/lib/clonetool", "opt/.clonetool-run"];

/// A source, a standby that is like an earlier one, and a profile.
pub(crate) struct Pair {
    pub(crate) dir: Workdir,
    pub(crate) source: PathBuf,
    pub(crate) standby: PathBuf,
    pub(crate) profile: PathBuf,
}

impl Pair {
    pub(crate) fn new(name: &str) -> Self {
        let dir = Workdir::new(name);
        let (source, standby) = (dir.make("source"), dir.make("standby"));
        fs::create_dir_all(standby.join("var/lib")).unwrap();
        let profile = dir.join("daily.toml");
        write(
            &profile,
            "description = \"all or nothing\"\n[rules]\ninclude = [\"/\"]\n[delete]\nenabled = true\n\
             [commit]\nmode = \"run\"\n",
        );
        Self { dir, source, standby, profile }
    }

    /// The arguments of a sync to `standby`.
    pub(crate) fn sync(&self, standby: &Path) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let arguments =
            ["sync", "-q", &text(&self.profile), "--source", &text(&self.source), "--destination"];
        arguments.into_iter().map(str::to_owned).chain([text(standby)]).collect()
    }

    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        let to = self.dir.join(name);
        run("cp", ["-a".as_ref(), self.standby.as_os_str(), to.as_os_str()]);
        to
    }
}

/// Of everything that a plan can say, something: what comes, goes, changes, moves, or becomes another kind.
pub(crate) fn plant_before(root: &Path) {
    for dir in ["var/lib", "etc", "opt/old/deep", "opt/kept", "becomes-file/inner"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    write(&root.join("etc/changed"), "before\n");
    write(&root.join("etc/same"), "same\n");
    write(&root.join("etc/dressed"), "content stays\n");
    write(&root.join("etc/gone"), "gone\n");
    write(&root.join("etc/locked"), "before\n");
    write(&root.join("opt/old/deep/gone"), noise(1, 9000));
    write(&root.join("opt/old/large"), noise(2, 300_000));
    write(&root.join("opt/kept/linked"), "two names\n");
    fs::hard_link(root.join("opt/kept/linked"), root.join("opt/kept/other")).unwrap();
    write(&root.join("becomes-directory"), "a file\n");
    write(&root.join("becomes-file/inner/leaf"), "leaf\n");
    symlink("before", root.join("etc/link")).unwrap();
    set_xattr(&root.join("etc/changed"), "user.origin", b"before");
    for (number, path) in
        ["etc/changed", "etc/same", "etc", "opt", "opt/old", "var/lib", ""].iter().enumerate()
    {
        set_mtime(&root.join(path), 1_000_000_000 + i64::try_from(number).unwrap(), 7);
    }
}

/// What the source is like then.
pub(crate) fn plant_after(root: &Path) {
    write(&root.join("etc/changed"), "after, and longer\n");
    set_xattr(&root.join("etc/changed"), "user.origin", b"after");
    chmod(&root.join("etc/dressed"), 0o600);
    set_mtime(&root.join("etc/dressed"), 1_100_000_000, 1);
    fs::remove_file(root.join("etc/gone")).unwrap();
    write(&root.join("etc/locked"), "after\n");
    fs::create_dir_all(root.join("opt/new/deeper")).unwrap();
    write(&root.join("opt/new/deeper/file"), noise(3, 20_000));
    // Moved: found by its content.
    fs::rename(root.join("opt/old/large"), root.join("opt/new/large")).unwrap();
    fs::remove_dir_all(root.join("opt/old")).unwrap();
    fs::remove_file(root.join("opt/kept/other")).unwrap();
    fs::hard_link(root.join("opt/kept/linked"), root.join("opt/kept/third")).unwrap();
    fs::remove_file(root.join("becomes-directory")).unwrap();
    fs::create_dir(root.join("becomes-directory")).unwrap();
    write(&root.join("becomes-directory/leaf"), "now inside\n");
    fs::remove_dir_all(root.join("becomes-file")).unwrap();
    write(&root.join("becomes-file"), "now a file\n");
    fs::remove_file(root.join("etc/link")).unwrap();
    symlink("after", root.join("etc/link")).unwrap();
}

/// Copies a standby to `to` without what runs keep to themselves.
pub(crate) fn bare(standby: &Path, to: &Path) {
    run("cp", ["-a".as_ref(), standby.as_os_str(), to.as_os_str()]);
    strip(to);
}

/// Takes away what runs keep to themselves, as if it had never been there.
fn strip(standby: &Path) {
    for own in OWN {
        let own = standby.join(own);
        let parent = own.parent().unwrap();
        let Ok(before) = fs::metadata(parent) else { continue };
        crate::common::dir::remove_tree(&own);
        set_mtime(parent, before.mtime(), before.mtime_nsec());
    }
}

/// How a standby differs from a bare one; it is bare itself afterwards.
pub(crate) fn differences(bare: &Path, standby: &Path) -> Vec<Difference> {
    strip(standby);
    compare(bare, standby)
}

pub(crate) fn lines(differences: &[Difference]) -> String {
    let line =
        |one: &Difference| format!("{} {:?} {} {}\n", escape(&one.path), one.what, one.left, one.right);
    differences.iter().map(line).collect()
}

pub(crate) fn staged(standby: &Path) -> usize {
    ["var/lib/clonetool/run", OWN[1]]
        .map(|area| ["stage", "left"].map(|stage| standby.join(area).join(stage)))
        .as_flattened()
        .iter()
        .map(|stage| fs::read_dir(stage).map_or(0, Iterator::count))
        .sum()
}

/// Whether the program was killed at its `count`-th call of `step`; it is as good as over before that otherwise.
pub(crate) fn killed(step: &str, count: u32, arguments: &[String]) -> bool {
    let inject = format!("inject={step}:signal=KILL:when={count}");
    // Those of the machine that runs the tests are not to be written to.
    let records = tempfile::tempdir().unwrap();
    let recorded = ["--records".as_ref(), records.path().as_os_str()];
    let ended = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={step}"), "-e", &inject, CLONETOOL])
        .args(arguments)
        .args(recorded.iter().filter(|_| arguments[0] == "sync"))
        .output()
        .expect("run strace");
    let code = ended.status.code();
    assert!(code.is_none() || code == Some(0), "{arguments:?}: {ended:?}");
    code.is_none()
}

/// Kills the command that `arguments` gives for a standby at each step, and looks at what is there after a recovery.
/// Says how many kills there were, and how many of them ended in the new state.
fn kill_everywhere(
    pair: &Pair,
    before: &Path,
    after: &Path,
    arguments: &dyn Fn(&Path) -> Vec<String>,
) -> (usize, usize) {
    let (bare_before, bare_after) = (pair.dir.join("bare-before"), pair.dir.join("bare-after"));
    bare(before, &bare_before);
    bare(after, &bare_after);
    let (mut kills, mut completed) = (0, 0);
    for step in STEPS {
        for count in 1.. {
            let victim = pair.dir.join("victim");
            run("cp", ["-a".as_ref(), before.as_os_str(), victim.as_os_str()]);
            let was_killed = killed(step, count, &arguments(&victim));
            if was_killed {
                kills += 1;
                // The recovery may be killed as well.
                let recover = ["recover".to_owned(), victim.display().to_string()];
                for second in ["renameat", "unlinkat"] {
                    killed(second, 1 + count % 5, &recover);
                }
                clonetool(&recover).expect_code(0);
                assert_eq!(staged(&victim), 0, "{step} {count}: something is left in the stage");
                let old = differences(&bare_before, &victim);
                let new = differences(&bare_after, &victim);
                assert!(
                    old.is_empty() || new.is_empty(),
                    "killed at {step} {count}: neither old nor new:\n{}\n{}",
                    lines(&old),
                    lines(&new)
                );
                completed += usize::from(new.is_empty());
            } else {
                assert_none(&differences(&bare_after, &victim));
            }
            crate::common::dir::remove_tree(&victim);
            if !was_killed {
                break;
            }
        }
    }
    (kills, completed)
}

#[test]
fn a_run_that_is_killed_at_any_step_is_all_or_nothing() {
    if lacks("whole::killed", &["strace"]) {
        return;
    }
    let pair = Pair::new("whole-killed");
    plant_before(&pair.source);
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    plant_after(&pair.source);
    let before = pair.copy("before");
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    let after = pair.copy("after");
    assert_none(&differences(&pair.source, &pair.standby));
    let (kills, completed) = kill_everywhere(&pair, &before, &after, &|victim| pair.sync(victim));
    assert!(kills >= 40, "only {kills} kills");
    assert!(completed >= 15 && completed < kills, "{completed} of {kills} were completed");
}

#[test]
fn a_rollback_that_is_killed_at_any_step_is_all_or_nothing() {
    if lacks("whole::rollback_killed", &["strace"]) {
        return;
    }
    let pair = Pair::new("whole-rollback-killed");
    plant_before(&pair.source);
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    let before = pair.copy("before");
    plant_after(&pair.source);
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    let after = pair.copy("after");
    let profile = pair.profile.display().to_string();
    let back = |victim: &Path| {
        ["rollback", &profile, "--root", &victim.display().to_string()].map(str::to_owned).to_vec()
    };
    let (kills, completed) = kill_everywhere(&pair, &after, &before, &back);
    assert!(kills >= 30, "only {kills} kills");
    assert!(completed >= 10 && completed < kills, "{completed} of {kills} were completed");
}

#[test]
fn a_rollback_puts_back_exactly_what_was_there() {
    let pair = Pair::new("whole-rollback");
    let profile = fs::read_to_string(&pair.profile).unwrap();
    write(&pair.profile, profile + "keep-generations = 10\n");
    plant_before(&pair.source);
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    chattr("+i", &pair.source.join("opt/kept/linked"));
    let first = pair.copy("state-1");
    plant_unlocked(&pair.source);
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    write(&pair.source.join("etc/third"), "third\n");
    write(&pair.source.join("etc/changed"), "third time\n");
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    let (standby, profile) = (pair.standby.display().to_string(), pair.profile.display().to_string());
    let back = |more: &[&str]| {
        let always = ["rollback", &profile, "--root", &standby];
        clonetool(always.iter().chain(more)).expect_code(0)
    };
    let listed = back(&["--list"]).stdout;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    // A dry run changes nothing, and says what somebody changed here.
    write(&pair.standby.join("etc/third"), "edited on the standby\n");
    let told = back(&["--dry-run"]).stdout;
    assert!(told.contains("/etc/third  (changed here since)") && told.contains("/etc/changed\n"), "{told}");
    assert_eq!(fs::read(pair.standby.join("etc/third")).unwrap(), b"edited on the standby\n");
    // One path only.
    back(&["--path", "/etc/changed"]);
    assert_eq!(fs::read(pair.standby.join("etc/changed")).unwrap(), b"after, and longer\n");
    assert!(pair.standby.join("etc/third").exists());
    // A run would undo it, and is refused until somebody says otherwise.
    clonetool(pair.sync(&pair.standby)).expect_code(3).expect_stderr("schedule resume");
    clonetool(["schedule", "resume", "--root", &standby]).expect_code(0);
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    // cp(1) does not carry the flag.
    assert_ne!(inode_flags(&pair.standby.join("opt/kept/third")) & 0x10, 0);
    let again = pair.copy("again");
    chattr("-i", &pair.source.join("opt/kept/linked"));
    assert_none(&differences(&pair.source, &again));
    // To the first state, over several runs.
    back(&["--to", "1"]);
    strip(&first);
    assert_none(&differences(&first, &pair.standby));
}

/// As [`plant_after`], but for the name that is locked.
fn plant_unlocked(root: &Path) {
    chattr("-i", &root.join("opt/kept/linked"));
    plant_after(root);
    chattr("+i", &root.join("opt/kept/linked"));
}

#[test]
fn only_so_many_runs_are_kept() {
    let pair = Pair::new("whole-kept");
    fs::create_dir_all(pair.source.join("var/lib")).unwrap();
    for number in 0..6 {
        write(&pair.source.join("counter"), format!("{number}\n"));
        clonetool(pair.sync(&pair.standby)).expect_code(0);
    }
    let (standby, profile) = (pair.standby.display().to_string(), pair.profile.display().to_string());
    let listed = clonetool(["rollback", &profile, "--list", "--root", &standby]).expect_code(0).stdout;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    // The way back to the third state is kept, the one to the second is not.
    clonetool(["rollback", &profile, "--to", "2", "--root", &standby])
        .expect_code(3)
        .expect_stderr("not kept any more");
    assert_eq!(fs::read(pair.standby.join("counter")).unwrap(), b"5\n");
    // A path that no run changed is a slip, and nothing is undone for it.
    clonetool(["rollback", &profile, "--path", "/cuonter", "--root", &standby])
        .expect_code(3)
        .expect_stderr("changed nothing at or below /cuonter")
        .expect_stderr(&format!("--list --root {standby}"));
    assert_eq!(fs::read(pair.standby.join("counter")).unwrap(), b"5\n");
    assert!(!pair.standby.join("var/lib/clonetool/run/suspended").exists());
    clonetool(["rollback", &profile, "--to", "3", "--root", &standby]).expect_code(0);
    assert_eq!(fs::read(pair.standby.join("counter")).unwrap(), b"2\n");
}

#[test]
fn what_is_kept_takes_only_so_much_room() {
    let pair = Pair::new("whole-room");
    let profile = fs::read_to_string(&pair.profile).unwrap();
    fs::create_dir_all(pair.source.join("var/lib")).unwrap();
    let sync = |limit: &str| {
        write(&pair.profile, format!("{profile}keep-generations = 10\n{limit}"));
        clonetool(pair.sync(&pair.standby)).expect_code(0);
        let (standby, profile) = (pair.standby.to_str().unwrap(), pair.profile.to_str().unwrap());
        let listed = clonetool(["rollback", profile, "--list", "--root", standby]).expect_code(0).stdout;
        listed
            .lines()
            .map(|line| line.split_whitespace().next().unwrap().parse::<u32>().unwrap())
            .collect::<Vec<_>>()
    };
    for number in 0..5 {
        write(&pair.source.join("large"), noise(number, 60 << 10));
        sync("");
    }
    // Each of the last four keeps a file of 60 KiB and a journal of 4.
    assert_eq!(sync(""), [1, 2, 3, 4, 5]);
    // Also a run that has nothing to do keeps to the limits.
    assert_eq!(sync("max-space = \"150KiB\"\n"), [4, 5]);
    write(&pair.source.join("large"), noise(9, 60 << 10));
    assert_eq!(sync("max-space = \"150KiB\"\n"), [5, 6]);
    assert_eq!(sync("max-space = \"1KiB\"\nkeep-days = 14\n"), [6]);
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let pair = Pair::new("whole-full");
    mount::loop_image(&pair.dir.join("image"), "ext4", 16 << 20, &pair.standby);
    fs::remove_dir(pair.standby.join("lost+found")).unwrap();
    fs::create_dir_all(pair.standby.join("var/lib")).unwrap();
    plant_before(&pair.source);
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    let before = pair.copy("before");
    plant_after(&pair.source);
    fs::create_dir_all(pair.source.join("usr/lib")).unwrap();
    write(&pair.source.join("usr/lib/large"), noise(9, 24 << 20));
    // A part of the system cannot be brought: then none of the rest is either.
    clonetool(pair.sync(&pair.standby)).expect_code(1).expect_stderr("nothing was changed");
    assert_eq!(staged(&pair.standby), 0);
    strip(&before);
    assert_none(&differences(&before, &pair.standby));
}

#[test]
fn what_is_kept_is_no_part_of_the_tree() {
    for home in ["var/lib", ""] {
        let pair = Pair::new("whole-own");
        fs::remove_dir_all(pair.standby.join("var")).unwrap();
        fs::create_dir_all(pair.standby.join(home)).unwrap();
        plant_before(&pair.source);
        clonetool(pair.sync(&pair.standby)).expect_code(0);
        let (profile, source) = (pair.profile.as_os_str(), pair.source.as_os_str());
        let to = pair.standby.as_os_str();
        let verify = ["verify".as_ref(), "--profile".as_ref(), profile, "--source".as_ref(), source];
        clonetool(verify.into_iter().chain(["--destination".as_ref(), to])).expect_code(0);
        // Not even by a clone that deletes: what is kept is needed when such a clone was a mistake.
        clonetool(["clone".as_ref(), "--json".as_ref(), "--delete".as_ref(), source, to])
            .expect_code(0)
            .expect_no_changes();
        let standby = pair.standby.to_str().unwrap();
        let list = ["rollback", pair.profile.to_str().unwrap(), "--list", "--root", standby];
        assert_eq!(clonetool(list).expect_code(0).stdout.lines().count(), 1);
    }
}

#[test]
fn two_files_of_one_name_are_two_profiles_on_one_standby() {
    let pair = Pair::new("whole-names");
    let other = pair.dir.make("other").join("daily.toml");
    fs::copy(&pair.profile, &other).unwrap();
    fs::create_dir_all(pair.source.join("var/lib")).unwrap();
    write(&pair.source.join("counter"), "1\n");
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    write(&pair.source.join("counter"), "2\n");
    let second = Pair { profile: other.clone(), ..pair };
    clonetool(second.sync(&second.standby)).expect_code(0);
    let standby = second.standby.display().to_string();
    let back = |profile: &str| clonetool(["rollback", profile, "--root", &standby]);
    // Neither the stem of both nor what nobody ran is taken for one of them, and both are named.
    let first = second.dir.join("daily.toml");
    let named = format!("kept are runs of: {}, {}\n", first.display(), other.display());
    back("daily").expect_code(3).expect_stderr(&named);
    back(other.to_str().unwrap()).expect_code(0);
    assert_eq!(fs::read(second.standby.join("counter")).unwrap(), b"1\n");
}

#[test]
fn a_gate_that_asks_the_standby_does_not_keep_an_interrupted_run_from_its_end() {
    if lacks("whole::gate", &["strace"]) {
        return;
    }
    let pair = Pair::new("whole-gate");
    let profile = fs::read_to_string(&pair.profile).unwrap();
    write(&pair.profile, profile + "[[gate]]\nkind = \"space\"\nname = \"room\"\n");
    plant_before(&pair.source);
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    plant_after(&pair.source);
    let journal = pair.standby.join("var/lib/clonetool/run/journal");
    let mut count = 1;
    while !journal.exists() {
        assert!(killed("renameat", count, &pair.sync(&pair.standby)), "it was never interrupted");
        count += 1;
    }
    // Nothing is compared with what is neither old nor new, and a run makes it whole first.
    let mut plan = pair.sync(&pair.standby);
    plan.push("--dry-run".to_owned());
    clonetool(plan).expect_code(3).expect_stderr("clonetool recover");
    clonetool(pair.sync(&pair.standby)).expect_code(0);
    assert_none(&differences(&pair.source, &pair.standby));
}

#[test]
fn what_somebody_changed_on_the_standby_is_named_before_it_is_replaced() {
    let pair = Pair::new("whole-changed-here");
    let server = Sshd::start(&pair.dir.join("sshd"), &SshdOptions::default());
    fs::create_dir_all(pair.source.join("var/lib")).unwrap();
    for path in ["etc/edited", "etc/deleted", "etc/left", "etc/untouched"] {
        write(&pair.source.join(path), "first\n");
    }
    let records = pair.dir.make("records");
    let sync = |remote: bool, dry_run: bool| {
        let mut all: Vec<OsString> = pair.sync(&pair.standby).into_iter().map(Into::into).collect();
        all.retain(|one| one != "-q");
        if remote {
            all.pop();
            all.push(server.remote(&pair.standby));
            all.extend(server.args());
        }
        all.extend(["--json".into(), "--records".into(), records.clone().into()]);
        all.extend(dry_run.then(|| "--dry-run".into()));
        clonetool(all).expect_code(0)
    };
    let named = |said: &Output| -> Vec<String> {
        let events = said.objects().into_iter().filter(|event| event["type"] == "changed-here");
        events.map(|event| event["path"].as_str().unwrap().to_owned()).collect()
    };
    sync(false, false);
    for remote in [false, true] {
        next_tick(pair.dir.path());
        write(&pair.standby.join("etc/edited"), "a correction in the wrong place\n");
        chmod(&pair.standby.join("etc/deleted"), 0o600);
        for path in ["etc/edited", "etc/untouched"] {
            write(&pair.source.join(path), format!("then, remote {remote}\n"));
        }
        fs::remove_file(pair.source.join("etc/deleted")).unwrap();
        for dry_run in [true, false] {
            let said = sync(remote, dry_run);
            assert_eq!(named(&said), ["/etc/edited", "/etc/deleted"], "{}", said.describe());
        }
        write(&pair.source.join("etc/deleted"), "again\n");
        // What only the runs themselves changed is not.
        let said = sync(remote, false);
        assert_eq!(named(&said), Vec::<String>::new(), "{}", said.describe());
    }
    let history =
        ["history", pair.profile.to_str().unwrap(), "--json", "--records", records.to_str().unwrap()];
    let kept = clonetool(history).expect_code(0).objects();
    assert_eq!(kept[1]["changed_here"], serde_json::json!(["/etc/edited", "/etc/deleted"]), "{}", kept[1]);
}
