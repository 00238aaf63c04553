//! Snapshots by programs of the administrator: here by cp, in a directory of the test.

use std::fs;

use super::Pair;
use crate::common::plant::{chmod, write};

/// A source with a file, and a profile whose programs keep a list of what they were asked.
fn pair(name: &str, make: &str) -> Pair {
    let pair = Pair::new(name);
    write(&pair.source.join("etc/file"), "before");
    let (work, source) = (pair.work.path().display(), pair.source.display());
    for (program, script) in [
        ("make", format!("echo make $CLONETOOL_PROFILE $CLONETOOL_SOURCE >>{work}/asked-for\n{make}")),
        ("remove", format!("echo remove $CLONETOOL_PROFILE >>{work}/asked-for\nrm -rf {work}/copy")),
    ] {
        let path = pair.work.join(program);
        let script = script.replace("COPY", &format!("cp -a {source} {work}/copy; echo {work}/copy"));
        write(&path, format!("#!/bin/sh\n{script}\n"));
        chmod(&path, 0o755);
    }
    pair
}

fn keys(pair: &Pair) -> String {
    let work = pair.work.path().display();
    format!(
        "snapshot = \"command\"\nsnapshot-command = [\"{work}/make\"]\nsnapshot-remove = [\"{work}/remove\"]\n\
         snapshot-timeout = \"1m\""
    )
}

fn asked(pair: &Pair) -> Vec<String> {
    let path = pair.work.join("asked-for");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(path);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_command_makes_what_is_read_and_another_removes_it() {
    let pair = pair("snapshots-command", "COPY");
    let words =
        || (format!("remove {}", pair.mark()), format!("make {} {}", pair.mark(), pair.source.display()));
    for (end, code) in Pair::ENDS {
        pair.plan(&keys(&pair), end);
        pair.sync(&[]).expect_code(code);
        assert_eq!(pair.work.join("copy").exists(), code == -1);
        let (remove, make) = words();
        let expected = [&remove, &make, &remove];
        assert_eq!(
            asked(&pair),
            expected[..if code == -1 { 2 } else { 3 }].iter().map(|s| &s[..]).collect::<Vec<_>>()
        );
        assert!(!pair.standby.join("etc").exists());
    }
    // What the killed run left is removed before anything is made.
    let rewrite = format!("printf later >{}/etc/file", pair.source.display());
    pair.plan(&keys(&pair), &rewrite);
    pair.sync(&[]).expect_code(0);
    let (remove, make) = words();
    assert_eq!(asked(&pair), [&remove[..], &make, &remove]);
    assert_eq!(fs::read(pair.standby.join("etc/file")).unwrap(), b"before");
}

#[test]
fn a_command_that_makes_no_snapshot_leaves_the_standby_alone() {
    let source = |pair: &Pair| pair.source.display().to_string();
    for (make, code, message) in [
        ("echo full >&2; exit 3", 1, "make: exit status: 3: full"),
        ("exit 0", 1, "\"\" was printed, which is not the absolute path of a directory"),
        ("echo somewhere", 1, "\"somewhere\" was printed, which is not the absolute path of a directory"),
        ("echo /nowhere/at-all", 1, "which cannot be opened: No such file or directory"),
        ("echo SOURCE", 1, "which is the source itself"),
        // An empty directory is not an empty source.
        ("mkdir -p WORK/copy; echo WORK/copy", 3, "the source root is empty and the destination is not"),
    ] {
        let pair = pair("snapshots-wrong", make);
        let program = pair.work.join("make");
        let script = fs::read_to_string(&program).unwrap();
        let work = pair.work.path().display().to_string();
        write(&program, script.replace("SOURCE\n", &(source(&pair) + "\n")).replace("WORK", &work));
        write(&pair.standby.join("kept"), "kept");
        pair.plan(&keys(&pair), "");
        pair.sync(&[]).expect_code(code).expect_stderr(message);
        assert!(pair.standby.join("kept").exists());
        assert_eq!(asked(&pair).len(), 3, "{make}");
    }
}

#[test]
fn an_interrupt_while_the_snapshot_is_made_is_heard_and_nothing_is_left() {
    let pair = pair("snapshots-interrupted", "COPY; kill -TERM $PPID; exec sleep 600");
    pair.plan(&keys(&pair), "");
    pair.sync(&[]).expect_code(1).expect_stderr("interrupted; nothing was changed");
    let asked: Vec<_> = asked(&pair).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(asked, ["remove", "make", "remove"]);
    assert!(!pair.work.join("copy").exists() && !pair.standby.join("etc").exists());
}

#[test]
fn a_listed_filesystem_that_the_command_left_out_is_not_empty() {
    let pair = pair("snapshots-left-out", "COPY");
    for root in [&pair.source, &pair.standby] {
        crate::common::mount::tmpfs(&root.join("var"), "size=1m");
        write(&root.join("var/file"), "file");
    }
    pair.plan(&format!("{}\nalso = [\"/var\"]", keys(&pair)), "");
    pair.sync(&[])
        .expect_code(3)
        .expect_stderr("no snapshot can be made of /var: what was made has no filesystem there");
    assert!(pair.standby.join("var/file").exists());
}

#[test]
fn a_snapshot_that_stays_is_a_problem_of_its_run() {
    let pair = pair("snapshots-stays", "COPY; : >WORK-made");
    let (work, remove) = (pair.work.path().display().to_string(), pair.work.join("remove"));
    let script = fs::read_to_string(pair.work.join("make")).unwrap();
    write(&pair.work.join("make"), script.replace("WORK-made", &format!("{work}/made")));
    write(&remove, format!("#!/bin/sh\n[ ! -e {work}/made ] || {{ echo busy >&2; exit 1; }}\n"));
    pair.plan(&keys(&pair), "");
    let run = pair.sync(&[]).expect_code(4);
    let said =
        format!("/: cannot remove the snapshot that was read: the snapshot of the profile {}", pair.mark());
    assert!(run.stderr.contains(&said) && run.stderr.contains("busy"), "{}", run.describe());
    assert_eq!(fs::read(pair.standby.join("etc/file")).unwrap(), b"before");
}

#[test]
fn a_snapshot_that_is_to_carry_the_accounts_is_made_under_the_password_lock() {
    let pair =
        pair("snapshots-accounts", "COPY; grep -c \"POSIX .*:$(stat -c %i LOCK) \" /proc/locks >HELD || :");
    for (name, text) in [
        ("passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("group", "root:x:0:\n"),
        ("shadow", "root:*:1::::::\n"),
        (".pwd.lock", ""),
    ] {
        write(&pair.source.join("etc").join(name), text);
    }
    let (program, held) = (pair.work.join("make"), pair.work.join("held"));
    let lock = pair.source.join("etc/.pwd.lock").display().to_string();
    let script = fs::read_to_string(&program).unwrap().replace("HELD", &held.display().to_string());
    write(&program, script.replace("LOCK", &lock));
    for (exclude, expected) in [("[]", "1\n"), ("[\"/etc/passwd\", \"/etc/group\", \"/etc/shadow\"]", "0\n")]
    {
        pair.plan(&keys(&pair), "");
        let rest = fs::read_to_string(pair.profile()).unwrap();
        let files = "\"/etc/gshadow\", \"/etc/subuid\", \"/etc/subgid\"";
        let excluded =
            exclude.replacen('[', &format!("[{files}{}", if exclude == "[]" { "" } else { ", " }), 1);
        let rest = rest.replace("[rules]\n", &format!("[rules]\nexclude = {excluded}\n"));
        write(&pair.profile(), format!("extends = [\"linux\"]\n{rest}"));
        pair.sync(&[]).expect_code(0);
        assert_eq!(fs::read_to_string(&held).unwrap(), expected);
    }
    assert_eq!(fs::read(pair.standby.join("etc/shadow")).unwrap(), b"root:*:1::::::\n");
}
