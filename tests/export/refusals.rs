//! What keeps the script from running, and how it ends: gates, limits, the lock, and what rsync ends with.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Pair, Ran, export, plant};
use crate::common::Workdir;
use crate::common::compare::{assert_untouched, snapshot_ctimes};
use crate::common::plant::{chmod, write};

/// A pair with one file to bring and one to delete, and the script of a profile with these gates.
fn gated(name: &str, gates: &str) -> (Pair, PathBuf) {
    let pair = Pair::new(name);
    plant(&pair.source, "production", &["new", "dir/same"]);
    plant(&pair.ours, "standby", &["old"]);
    pair.fork();
    let profile = pair.profile(&format!("[delete]\nenabled = true\n{gates}"));
    let script = pair.work.join("script.sh");
    export(profile.as_os_str(), &script).expect_code(0);
    (pair, script)
}

/// Asserts that a run ends with `code`, says `stderr`, and leaves the standby as it is.
pub(super) fn assert_nothing_done(
    pair: &Pair,
    script: &Path,
    extra: &[&str],
    code: i32,
    stderr: &str,
) -> Ran {
    let before = snapshot_ctimes(&pair.scripts);
    let ran = pair.run(script, extra).expect(code, stderr);
    assert_untouched(&before, &snapshot_ctimes(&pair.scripts));
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    assert!(ran.log.contains(&format!("exit {code}: ")), "{ran:#?}");
    assert!(fs::symlink_metadata(pair.work.join("state/lock")).is_err(), "the lock is still there");
    ran
}

/// A tool of this name that says `answer` and ends with `code`.
fn tool(work: &Workdir, name: &str, answer: &str, code: u8) -> String {
    let path = work.join(name);
    write(&path, format!("#!/bin/sh\ncat <<'ANSWER'\n{answer}\nANSWER\nexit {code}\n"));
    chmod(&path, 0o755);
    path.display().to_string()
}

#[test]
fn each_gate_refuses_before_anything_is_changed_and_passes_when_it_holds() {
    let work = Workdir::new("export-tools");
    let tool = |name: &str, answer: &str, code| tool(&work, name, answer, code);
    let lvm = |answer: &str| {
        let program = tool(&format!("vgs{}", answer.replace(' ', "")), answer, 0);
        format!("kind = 'volume-group'\nname = 'g'\nmanager = 'lvm'\ngroup = 'vg0'\nprogram = '{program}'")
    };
    let group = |manager: &str, name: &str, answer: &str, code| {
        let program = tool(name, answer, code);
        format!(
            "kind = 'volume-group'\nname = 'g'\nmanager = '{manager}'\ngroup = 'database'\nprogram = '{program}'"
        )
    };
    let replication = |name: &str, code| {
        let program = tool(name, "x", code);
        format!(
            "kind = 'replication'\nname = 'g'\nmethod = 'srdf'\ngroup = 'database'\nprogram = '{program}'"
        )
    };
    let count = |name: &str, devices: u8| {
        let list = tool(
            "vxdisk",
            "c1t0d0s2 sliced disk01 database online\nc1t1d0s2 sliced disk02 database online",
            0,
        );
        let show = tool(name, &format!("    Number of STD Devices in Group               :    {devices}"), 0);
        format!(
            "kind = 'device-count'\nname = 'g'\nmanager = 'vxvm'\ngroup = 'database'\nprogram = '{list}'\n\
             method = 'srdf'\nreplication-program = '{show}'"
        )
    };
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let metaset = |owner: &str| {
        format!(
            "Set name = database, Set number = 1\n\nHost                Owner\n  {owner}\n  other\n\nDrive   Dbase\n"
        )
    };
    let hours = |hours: &str| format!("kind = 'window'\nname = 'g'\nhours = ['{hours}']");
    let command = |argv: &str| format!("kind = 'command'\nname = 'g'\ntimeout = '1s'\ncommand = [{argv}]");
    let table = [
        (lvm("  vg0,wz--n-,0,2"), true),
        (lvm("  vg0,wzx-n-,0,2"), false),
        (lvm("  vg0,wz-pn-,1,22"), false),
        (lvm(""), false),
        (group("vxvm", "vxdg", "database     enabled              1064939431.1025.production", 0), true),
        (
            group("vxvm", "vxdg-other", "rootdg       enabled              1064939431.1025.production", 0),
            false,
        ),
        (group("vxvm", "vxdg-off", "database     disabled             1064939431.1025.production", 0), false),
        (
            group("vxvm", "vxdg-fails", "database     enabled              1064939431.1025.production", 11),
            false,
        ),
        (group("zfs", "zpool", "database\tONLINE", 0), true),
        (group("zfs", "zpool-degraded", "database\tDEGRADED", 0), false),
        (group("svm", "metaset", &metaset(&format!("{host}     Yes")), 0), true),
        (group("svm", "metaset-not", &metaset("elsewhere   Yes"), 0), false),
        (group("svm", "metaset-none", &metaset(&host), 0), false),
        (replication("symrdf", 0), true),
        (replication("symrdf-not", 6), false),
        ("kind = 'replication'\nname = 'g'\nmethod = 'command'\ncommand = ['/bin/false']".to_owned(), false),
        (count("symdg", 2), true),
        (count("symdg-more", 3), false),
        (
            "kind = 'mounted'\nname = 'g'\npath = '/proc'\nfilesystem = 'proc'\nsentinel = 'version'"
                .to_owned(),
            true,
        ),
        ("kind = 'mounted'\nname = 'g'\npath = '/proc'\nfilesystem = 'xfs'".to_owned(), false),
        ("kind = 'mounted'\nname = 'g'\npath = '/proc'\nsentinel = 'sys'".to_owned(), false),
        ("kind = 'mounted'\nname = 'g'\npath = '/nowhere'".to_owned(), false),
        ("kind = 'load'\nname = 'g'\nmax = 100000.0".to_owned(), true),
        ("kind = 'load'\nname = 'g'\nmax = 0.001\nover = '15m'".to_owned(), false),
        (hours("00:00-24:00"), true),
        (command("'/bin/test', \"it's $HOME\", '=', \"it's $HOME\""), true),
        (command("'/bin/sleep', '60'"), false),
        (command("'/nowhere/at/all'"), false),
        ("kind = 'peer'\nname = 'g'\nping = false\ntcp = false".to_owned(), false),
    ];
    for (gate, passes) in table {
        let (pair, script) = gated("export-gate", &format!("[[gate]]\n{gate}\n"));
        if passes {
            let ran = pair.run(&script, &[]).expect(0, "");
            assert!(
                ran.log.contains("gate g: pass") && pair.scripts.join("new").exists(),
                "{gate}\n{ran:#?}"
            );
        } else {
            assert_nothing_done(&pair, &script, &[], 3, "refused by the gate g: ");
        }
    }
}

#[test]
fn roles_decide_for_the_script_too() {
    let (pair, script) = gated("export-role", "[[gate]]\nkind = 'role'\nname = 'roles'\n");
    let role = |root: &Path, role: &str| write(&root.join("var/lib/clonetool/role"), format!("{role}\n"));
    assert_nothing_done(&pair, &script, &[], 3, "refused by the gate roles: the source is silent");
    role(&pair.source, "standby");
    role(&pair.scripts, "production");
    assert_nothing_done(&pair, &script, &[], 3, "the source is standby, the destination is production");
    role(&pair.source, "production");
    role(&pair.scripts, "standby");
    pair.run(&script, &[]).expect(0, "");
}

#[test]
fn more_deletions_than_are_allowed_an_empty_source_and_a_held_lock_change_nothing() {
    let (pair, _) = gated("export-limits", "");
    for n in 0..6 {
        plant(&pair.scripts, "standby", &[&format!("gone/{n}")]);
    }
    let profile = pair.work.join("p.toml");
    let text =
        fs::read_to_string(&profile).unwrap().replace("enabled = true", "enabled = true\nmax-entries = 7");
    write(&profile, text);
    let script = pair.work.join("script.sh");
    export(profile.as_os_str(), &script).expect_code(0);
    let listed = assert_nothing_done(&pair, &script, &[], 3, "8 entries would be deleted, 7 are allowed");
    assert!(listed.log.contains("*deleting   gone/3"), "{listed:#?}");
    // Saying what would be done is no run.
    let before = snapshot_ctimes(&pair.scripts);
    let planned = pair.run(&script, &["-n"]).expect(0, "");
    assert!(planned.stdout.contains("*deleting   old\n") && planned.stdout.contains(">f+++++++++ new\n"));
    assert_untouched(&before, &snapshot_ctimes(&pair.scripts));
    // Another run: a process that lives holds the lock, then one that is gone.
    let lock = pair.work.join("state/lock");
    symlink(format!("pid.{}", std::process::id()), &lock).unwrap();
    pair.run(&script, &["-D", "8"]).expect(75, "another run is at work: process");
    assert_untouched(&before, &snapshot_ctimes(&pair.scripts));
    fs::remove_file(&lock).unwrap();
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    symlink(format!("pid.{}", gone.id()), &lock).unwrap();
    pair.run(&script, &["-D", "8"]).expect(0, "");
    assert!(!pair.scripts.join("gone").exists() && fs::symlink_metadata(&lock).is_err());
    // What is not mounted is not empty.
    let before = snapshot_ctimes(&pair.scripts);
    fs::remove_dir_all(&pair.source).unwrap();
    fs::create_dir(&pair.source).unwrap();
    pair.run(&script, &["-D", "100"]).expect(3, "the source root is empty");
    assert_untouched(&before, &snapshot_ctimes(&pair.scripts));
}

#[test]
fn the_exit_status_of_rsync_is_never_taken_for_success() {
    let (pair, script) = gated("export-status", "");
    let work = &pair.work;
    // Answers as rsync does, and fails once it is in earnest.
    for (status, code) in
        [(23, 4), (24, 4), (25, 4), (10, 6), (12, 6), (255, 6), (30, 6), (11, 1), (13, 1), (2, 6)]
    {
        let path = work.join("rsync");
        write(
            &path,
            format!(
                "#!/bin/sh\ncase \" $* \" in *' --version '*|*' -n '*) exec rsync \"$@\" ;; esac\nrsync \"$@\"\nexit {status}\n"
            ),
        );
        chmod(&path, 0o755);
        let ran = pair.run(&script, &["-r", path.to_str().unwrap()]);
        assert_eq!((ran.code, ran.stderr.lines().count()), (code, 1), "{status}: {ran:#?}");
        assert!(ran.log.contains(&format!("rsync ended with {status}")), "{ran:#?}");
    }
    pair.run(&script, &["-r", "/nowhere/rsync"]).expect(1, "there is no rsync here");
    let old = tool(work, "rsync-old", "rsync  version 2.6.3  protocol version 28", 0);
    pair.run(&script, &["-r", &old]).expect(2, "rsync 2.6.3 is too old");
    for (extra, stderr) in [
        (vec!["-x"], "-x is no option"),
        (vec!["-D"], "needs a value"),
        (vec!["-D", "x"], "no number"),
        (vec!["-d", "relative"], "is no [HOST:]/PATH"),
        (vec!["-d", "/a/../b"], "no usable path"),
        (vec!["-s", "/a'b"], "no usable path"),
        (vec!["-d", "-oProxyCommand=x:/a"], "no usable host"),
    ] {
        pair.run(&script, &extra).expect(2, stderr);
    }
}

#[test]
fn what_the_script_writes_itself_is_not_carried() {
    let (pair, script) = gated("export-state", "");
    let state = pair.source.join("var/log/sync");
    let mut command = Command::new("dash");
    command.arg(&script).arg("-s").arg(&pair.source).arg("-d").arg(&pair.scripts).arg("-w").arg(&state);
    assert!(command.status().unwrap().success());
    assert!(pair.scripts.join("var/log").exists() && !pair.scripts.join("var/log/sync").exists());
}
