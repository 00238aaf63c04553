//! What once went wrong, or could: whole runs of the program in worlds that are a little out of the ordinary.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::XattrFlags;
use syncore::monitor::Monitor;
use syncore::plan::Plan;
use syncore::session::{self, Approval, Job, Location, Options};
use syncore::wire::{Remote, TransportKind};

use crate::common::compare::{assert_equal, assert_untouched, snapshot_ctimes};
use crate::common::plant::{chmod, noise, set_mtime, write};
use crate::common::{CLONETOOL, Output, Workdir, clone_json, clonetool, clonetool_by, dir, lacks, mount};

const NOBODY: u32 = 65_534;

/// A source and a standby of an unprivileged user, and the program where that user can reach it.
struct Unprivileged {
    work: Workdir,
    program: String,
}

impl Unprivileged {
    /// None where the test must be skipped.
    fn new(test: &str) -> Option<Self> {
        if lacks(&format!("regressions::{test}"), &["setpriv"]) {
            return None;
        }
        let work = Workdir::public("regressions-nobody");
        let program = work.join("clonetool");
        fs::copy(CLONETOOL, &program).expect("copy the program");
        chmod(&program, 0o755);
        for name in ["source", "copy"] {
            own(&work.make(name));
        }
        Some(Self { program: program.to_str().expect("a path").to_owned(), work })
    }

    fn source(&self, name: &str) -> PathBuf {
        self.work.join("source").join(name)
    }

    fn copy(&self, name: &str) -> PathBuf {
        self.work.join("copy").join(name)
    }

    /// Writes a file of the user on the source, in a directory of the user.
    fn write(&self, name: &str, content: &str) {
        let path = self.source(name);
        write(&path, content);
        own(&path);
        own(path.parent().expect("a parent"));
    }

    fn clone(&self, extra: &[&str]) -> Output {
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut args: Vec<OsString> = ["clone", "--json"].map(Into::into).into();
        args.extend(extra.iter().map(OsString::from));
        args.extend([self.work.join("source").into(), self.work.join("copy").into()]);
        clonetool_by(&nobody, &self.program, args)
    }
}

fn own(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").permissions().mode() & 0o7777
}

/// A remote shell that runs the command on this host, and notes what it exits with in the file `status`.
fn shell(work: &Workdir) -> PathBuf {
    let (shell, status) = (work.join("shell"), work.join("status"));
    let status = status.display();
    // What remote shells are called with is the host, then the command.
    write(&shell, format!("#!/bin/sh\nshift\n\"$@\"\ncode=$?\necho $code > {status}\nexit $code\n"));
    chmod(&shell, 0o755);
    shell
}

fn remote(path: &Path) -> OsString {
    let mut remote = OsString::from("peer:");
    remote.push(path);
    remote
}

/// `clone --json` where one of the two ends is an agent.
fn clone_over(work: &Workdir, extra: &[&str], source: &OsStr, copy: &OsStr) -> Output {
    let mut args: Vec<OsString> =
        ["clone", "--json", "--no-durable", "--remote-path", CLONETOOL, "-e"].map(Into::into).into();
    args.push(shell(work).into());
    args.extend(extra.iter().map(OsString::from));
    args.extend([source.to_owned(), copy.to_owned()]);
    clonetool(args)
}

fn push(work: &Workdir, extra: &[&str], source: &Path, copy: &Path) -> Output {
    clone_over(work, extra, source.as_os_str(), &remote(copy))
}

fn pull(work: &Workdir, extra: &[&str], source: &Path, copy: &Path) -> Output {
    clone_over(work, extra, &remote(source), copy.as_os_str())
}

/// What the agent of the last run exited with; it may outlive the run a little.
fn agent_status(work: &Workdir) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = fs::read_to_string(work.join("status")).unwrap_or_default();
        if !status.is_empty() || Instant::now() > deadline {
            fs::remove_file(work.join("status")).expect("the agent ended with a status");
            return status.trim().to_owned();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_cannot_be_looked_at_on_the_source_is_not_deleted_on_the_standby() {
    let test = "what_cannot_be_looked_at_on_the_source_is_not_deleted_on_the_standby";
    // A directory whose names can be listed and no more; one that cannot be listed; one of which nothing is known.
    for locked_mode in [0o444, 0o111, 0o000] {
        let Some(world) = Unprivileged::new(test) else { return };
        for name in ["plain/file", "locked/file", "locked/also"] {
            world.write(name, name);
        }
        world.write("locked/below/deep", "in a directory below");
        world.write("gone", "to be deleted");
        world.clone(&[]).expect_code(0);
        fs::remove_file(world.source("gone")).expect("remove");
        fs::remove_file(world.source("plain/file")).expect("remove");
        chmod(&world.source("locked"), locked_mode);
        let output = world.clone(&["--delete"]).expect_code(4);
        for name in ["locked/file", "locked/also", "locked/below/deep"] {
            assert!(world.copy(name).exists(), "{locked_mode:o}: {name} was deleted\n{}", output.describe());
        }
        assert!(format!("{}{}", output.stdout, output.stderr).contains("locked"), "{}", output.describe());
        // All can be looked at again: what was put off is done.
        for root in [world.source("locked"), world.copy("locked")] {
            chmod(&root, 0o755);
        }
        world.clone(&["--delete"]).expect_code(0);
        assert_equal(&world.source(""), &world.copy(""));
    }
}

#[test]
fn what_cannot_be_read_under_checksum_is_not_deleted_on_the_standby() {
    let test = "what_cannot_be_read_under_checksum_is_not_deleted_on_the_standby";
    let Some(world) = Unprivileged::new(test) else { return };
    for name in ["readable", "secret", "dir/secret", "gone"] {
        world.write(name, name);
    }
    world.clone(&["--checksum"]).expect_code(0);
    for name in ["secret", "dir/secret"] {
        chmod(&world.source(name), 0o000);
    }
    fs::remove_file(world.source("gone")).expect("remove");
    let output = world.clone(&["--checksum", "--delete"]).expect_code(4);
    for name in ["secret", "dir/secret"] {
        assert_eq!(fs::read_to_string(world.copy(name)).expect("kept"), name, "{}", output.describe());
    }
    for name in ["secret", "dir/secret"] {
        chmod(&world.source(name), 0o644);
    }
    world.clone(&["--checksum", "--delete"]).expect_code(0);
    assert_equal(&world.source(""), &world.copy(""));
}

#[test]
fn a_directory_that_its_owner_may_not_write_is_so_again_afterwards() {
    let test = "a_directory_that_its_owner_may_not_write_is_so_again_afterwards";
    // With the times of the directory equal on both ends, the directory itself is not part of the plan.
    for same_time in [false, true] {
        let Some(world) = Unprivileged::new(test) else { return };
        world.write("dir/file", "there already");
        chmod(&world.source("dir"), 0o555);
        let time = |path: &Path| set_mtime(path, 1_000_000_000, 0);
        time(&world.source("dir"));
        world.clone(&[]).expect_code(0);
        assert_eq!(mode(&world.copy("dir")), 0o555);
        world.write("dir/new", "new");
        if same_time {
            time(&world.source("dir"));
        }
        let output = world.clone(&["--delete"]).expect_code(0);
        assert_eq!(mode(&world.copy("dir")), 0o555, "same time: {same_time}\n{}", output.describe());
        assert_equal(&world.source(""), &world.copy(""));
        world.clone(&["--delete"]).expect_code(0).expect_no_changes();
    }
}

#[test]
fn a_setuid_file_of_another_user_does_not_become_one_of_the_running_user() {
    let test = "a_setuid_file_of_another_user_does_not_become_one_of_the_running_user";
    for (uid, gid, set_mode) in [(0, 0, 0o4755), (0, 0, 0o6755), (NOBODY, 0, 0o2755), (0, NOBODY, 0o4755)] {
        let Some(world) = Unprivileged::new(test) else { return };
        for round in ["created", "updated", "only metadata"] {
            let source = world.source("program");
            if round != "only metadata" {
                write(&source, format!("#!/bin/sh\n{round}\n"));
            }
            chown(&source, Some(uid), Some(gid)).expect("chown");
            let now = if round == "updated" { 0o755 } else { set_mode };
            chmod(&source, now);
            let output = world.clone(&[]).expect_code(4);
            let copy = fs::metadata(world.copy("program")).expect("the file is there all the same");
            let what = format!("{uid}:{gid} {set_mode:o} {round}: {:o}\n{}", copy.mode(), output.describe());
            assert_eq!((copy.uid(), copy.gid()), (NOBODY, NOBODY), "{what}");
            assert!(uid == NOBODY || copy.mode() & 0o4000 == 0, "{what}");
            assert!(gid == NOBODY || copy.mode() & 0o2000 == 0, "{what}");
        }
    }
}

#[test]
fn a_standby_without_room_for_the_new_name_keeps_the_old_one() {
    let work = Workdir::new("regressions-full");
    let (source, copy) = (work.make("source"), work.join("copy"));
    mount::tmpfs(&copy, "size=2m");
    let content = noise(1, 1_300_000);
    write(&source.join("old"), &content);
    write(&source.join("keep/unrelated"), "goes away too");
    clone_json(&[], &source, &copy).expect_code(0);
    fs::rename(source.join("old"), source.join("new")).expect("rename");
    // Moved and changed: it cannot be taken from where it was.
    let content: Vec<u8> = [&content[..], b"more"].concat();
    write(&source.join("new"), &content);
    let old_content = noise(1, 1_300_000);
    fs::remove_file(source.join("keep/unrelated")).expect("remove");
    // Neither run has room, and neither may take away the only copy.
    for _ in 0..2 {
        let output = clone_json(&["--delete"], &source, &copy).expect_code(4);
        assert!(fs::read(copy.join("old")).is_ok_and(|old| old == old_content), "{}", output.describe());
        assert!(!copy.join("new").exists(), "half a file\n{}", output.describe());
        assert_ne!(output.summary()["outcome"], "in-sync", "{}", output.describe());
    }
    mount::remount(&copy, "size=16m");
    clone_json(&["--delete"], &source, &copy).expect_code(0);
    assert!(fs::read(copy.join("new")).is_ok_and(|new| new == content));
    assert!(!copy.join("old").exists() && !copy.join("keep/unrelated").exists(), "not deleted afterwards");
    clone_json(&["--delete"], &source, &copy).expect_code(0).expect_no_changes();
}

#[test]
fn a_standby_without_room_keeps_a_directory_that_moved() {
    let work = Workdir::new("regressions-full-dir");
    let (source, copy) = (work.make("source"), work.join("copy"));
    mount::tmpfs(&copy, "size=2m");
    for n in 0..4 {
        write(&source.join(format!("old/{n}")), noise(n, 330_000));
    }
    clone_json(&[], &source, &copy).expect_code(0);
    fs::rename(source.join("old"), source.join("a-new")).expect("rename");
    for n in 0..4 {
        write(&source.join(format!("a-new/{n}")), noise(n + 10, 340_000));
    }
    let output = clone_json(&["--delete"], &source, &copy).expect_code(4);
    for n in 0..4 {
        let kept = fs::read(copy.join(format!("old/{n}")));
        assert!(kept.is_ok_and(|kept| kept == noise(n, 330_000)), "{n} is lost\n{}", output.describe());
    }
    mount::remount(&copy, "size=16m");
    clone_json(&["--delete"], &source, &copy).expect_code(0);
    clone_json(&["--delete"], &source, &copy).expect_code(0).expect_no_changes();
    assert!(!copy.join("old").exists());
}

#[test]
fn what_only_moved_needs_no_room_and_is_not_sent() {
    let work = Workdir::new("regressions-moved");
    let (source, copy) = (work.make("source"), work.join("copy"));
    mount::tmpfs(&copy, "size=2m");
    write(&source.join("old/large"), noise(1, 1_300_000));
    write(&source.join("old/plain"), noise(2, 5_000));
    write(&source.join("old/alike"), noise(3, 5_000));
    set_mtime(&source.join("old/alike"), 1_000_000_000, 0);
    push(&work, &[], &source, &copy).expect_code(0);
    fs::rename(source.join("old"), source.join("new")).expect("rename");
    chmod(&source.join("new/plain"), 0o600);
    // Length and time of what it was, and another content: this one has to be sent.
    write(&source.join("new/alike"), noise(4, 5_000));
    set_mtime(&source.join("new/alike"), 1_000_000_000, 0);
    let inode = |path: &str| dir::inode(&copy.join(path));
    let (large, plain) = (inode("old/large"), inode("old/plain"));
    let output = push(&work, &["--delete"], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
    assert_eq!(inode("new/large"), large, "it was moved");
    // Who may write to it changed: somebody may still hold the old inode open for that.
    assert_ne!(inode("new/plain"), plain, "it was copied");
    assert_eq!(output.count("moved"), 3, "{}", output.describe());
    assert_eq!(output.count("literal_bytes"), 5_000, "{}", output.describe());
    assert_eq!(output.count("deleted"), 1, "only the directory\n{}", output.describe());
    push(&work, &["--delete"], &source, &copy).expect_code(0).expect_no_changes();
}

#[test]
fn twenty_thousand_changed_names_in_one_directory_end_in_sync() {
    const NAMES: u64 = 20_000;
    let work = Workdir::new("regressions-crowd");
    let (source, copy) = (work.make("source"), work.make("copy"));
    let name = |n: u64| source.join("crowd").join(format!("{n:05}-{}", "n".repeat(90)));
    for n in 0..NAMES {
        write(&name(n), "");
    }
    push(&work, &[], &source, &copy).expect_code(0);
    for n in 0..NAMES {
        chmod(&name(n), 0o600);
    }
    let output = push(&work, &["--delete"], &source, &copy).expect_code(0);
    assert_eq!(output.count("metadata_only"), NAMES, "{}", output.describe());
    push(&work, &["--delete"], &source, &copy).expect_code(0).expect_no_changes();
    for n in 0..NAMES {
        chmod(&name(n), 0o640);
    }
    let output = pull(&work, &["--delete"], &source, &copy).expect_code(0);
    assert_eq!(output.count("metadata_only"), NAMES, "{}", output.describe());
    pull(&work, &["--delete"], &source, &copy).expect_code(0).expect_no_changes();
}

/// How many extended attributes of 60,000 bytes a file can be given here.
fn give_many_xattrs(path: &Path, wanted: usize) -> usize {
    let value = noise(9, 60_000);
    // Older kernels have no user attributes on a tmpfs.
    for namespace in ["user", "trusted"] {
        let set = |n: &usize| {
            let name = format!("{namespace}.large-{n:03}");
            rustix::fs::lsetxattr(path, name.as_str(), &value, XattrFlags::empty()).is_ok()
        };
        let given = (0..wanted).take_while(set).count();
        if given > 0 {
            return given;
        }
    }
    0
}

#[test]
fn a_file_with_more_attributes_than_a_message_holds_ends_no_run() {
    let test = "regressions::a_file_with_more_attributes_than_a_message_holds_ends_no_run";
    let work = Workdir::new("regressions-xattrs");
    let (source, copy) = (work.join("source"), work.join("copy"));
    mount::tmpfs(&source, "size=64m");
    mount::tmpfs(&copy, "size=64m");
    for name in ["a-before", "laden", "z-after"] {
        write(&source.join(name), name);
    }
    if give_many_xattrs(&source.join("laden"), 40) < 20 {
        return crate::common::skip(test, "a tmpfs does not take so many attributes here");
    }
    let through = |how: fn(&Workdir, &[&str], &Path, &Path) -> Output| {
        let output = how(&work, &["--delete"], &source, &copy).expect_one_of(&[0, 4]);
        for name in ["a-before", "z-after"] {
            assert_eq!(fs::read_to_string(copy.join(name)).expect("copied"), name, "{}", output.describe());
        }
        if output.code == 0 {
            assert_equal(&source, &copy);
        } else {
            let told = format!("{}{}", output.stdout, output.stderr);
            assert!(told.contains("laden"), "it is not named\n{}", output.describe());
        }
    };
    through(push);
    through(pull);
    // The other way about: it is the standby that has them.
    let (bare, laden) = (work.make("bare"), work.join("source"));
    for name in ["a-before", "laden", "z-after"] {
        write(&bare.join(name), format!("{name}, changed"));
    }
    for how in [push, pull] {
        let output = how(&work, &["--delete"], &bare, &laden).expect_one_of(&[0, 4]);
        assert_eq!(fs::read_to_string(laden.join("z-after")).expect("copied"), "z-after, changed");
        if output.code == 0 {
            assert_equal(&bare, &laden);
        }
    }
}

#[test]
fn a_tree_deeper_than_any_path_is_deleted_over_the_wire() {
    const DEPTH: usize = 150;
    let work = Workdir::new("regressions-deep");
    for how in [push, pull] {
        let (source, copy) = (work.make("source"), work.make("copy"));
        write(&source.join("file"), "the source is not empty");
        // Ten names at each depth, so that their paths together are much more than a message.
        let mut at = dir::Dir::open(&source).make(OsStr::new("deep"));
        for _ in 0..DEPTH {
            for n in 0..10 {
                fs::write(at.at(format!("{n}")), "").expect("write");
            }
            at = at.make(OsStr::new(&"d".repeat(200)));
        }
        how(&work, &["--delete"], &source, &copy).expect_code(0);
        dir::remove_tree(&source.join("deep"));
        let output = how(&work, &["--delete"], &source, &copy).expect_code(0);
        assert_eq!(output.count("deleted"), (1 + DEPTH + DEPTH * 10) as u64, "{}", output.describe());
        assert!(!copy.join("deep").exists());
        how(&work, &["--delete"], &source, &copy).expect_code(0).expect_no_changes();
        dir::remove_tree(&copy);
    }
}

#[test]
fn the_agent_of_a_dry_run_ends_well() {
    let work = Workdir::new("regressions-dry");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("dir/file"), "content");
    clone_json(&[], &source, &copy).expect_code(0);
    let rounds = ["equal", "different", "standby not there"];
    for round in rounds {
        if round == "different" {
            write(&source.join("dir/new"), "new");
        }
        let target = if round == "standby not there" { work.join("not-there") } else { copy.clone() };
        for (direction, how) in
            [("push", push as fn(&Workdir, &[&str], &Path, &Path) -> Output), ("pull", pull)]
        {
            let before = snapshot_ctimes(&copy);
            let output = how(&work, &["--dry-run", "--delete"], &source, &target).expect_code(0);
            assert_eq!(agent_status(&work), "0", "{direction}, {round}\n{}", output.describe());
            assert!(output.stderr.is_empty(), "{direction}, {round}\n{}", output.describe());
            assert_untouched(&before, &snapshot_ctimes(&copy));
        }
    }
    assert!(!work.join("not-there").exists());
    for how in [push, pull] {
        how(&work, &["--delete"], &source, &copy).expect_code(0);
        assert_eq!(agent_status(&work), "0");
    }
}

/// Cancels a run that takes far too long.
struct Deadline(Instant);

impl Monitor for Deadline {
    fn cancelled(&self) -> bool {
        self.0.elapsed() > Duration::from_secs(60)
    }
}

#[test]
fn files_that_shrink_before_they_are_read_hold_up_no_other() {
    let work = Workdir::new("regressions-shrink");
    let (source, copy) = (work.make("source"), work.make("copy"));
    let path = |root: &Path, number: u64| root.join(format!("log-{number}"));
    for number in 0..12 {
        write(&path(&source, number), noise(number, 64 << 10));
        write(&path(&copy, number), noise(number + 100, 64 << 10));
        set_mtime(&path(&copy, number), 1_000_000_000, 0);
    }
    let shell = work.remote_shell();
    let remote = Remote {
        host: "standby".to_owned(),
        user: None,
        port: None,
        identity: None,
        known_hosts: None,
        remote_shell: Some(vec![shell.to_str().expect("a path").to_owned()]),
        remote_path: Some(CLONETOOL.to_owned()),
        transport: TransportKind::default(),
        connect_timeout: Duration::from_secs(20),
        home: None,
        agent_socket: None,
    };
    let job = Job {
        source: Location::Local(source.clone()),
        destination: Location::Remote(Box::new(remote), copy.clone()),
        rules: Vec::new(),
        options: Options::default(),
    };
    // As logrotate does: between the plan and the reading most of them become short.
    let mut shrink = |_: &Plan| {
        (0..8).for_each(|number| write(&path(&source, number), "rotated\n"));
        Approval::Run
    };
    let report = session::run(&job, &mut shrink, &Deadline(Instant::now())).expect("it ends");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    for number in 0..12 {
        assert_eq!(fs::read(path(&copy, number)).ok(), fs::read(path(&source, number)).ok(), "{number}");
    }
}

#[test]
fn a_link_that_replaces_a_file_waits_until_the_new_one_is_on_disk() {
    if lacks("regressions::a_link_that_replaces_a_file_waits_until_the_new_one_is_on_disk", &["strace"]) {
        return;
    }
    let work = Workdir::new("regressions-link-flush");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("a"), "new\n");
    fs::hard_link(source.join("a"), source.join("b")).expect("link");
    write(&copy.join("b"), "old, and all there is\n");
    let log = work.join("calls");
    let strace = ["strace", "-f", "-qq", "-e", "trace=syncfs,fsync,renameat,renameat2", "-o"];
    let strace: Vec<&str> = strace.into_iter().chain([log.to_str().expect("a path")]).collect();
    clonetool_by(&strace, CLONETOOL, ["clone".as_ref(), "-q".as_ref(), source.as_os_str(), copy.as_os_str()])
        .expect_code(0);
    let log = fs::read_to_string(log).expect("read the log");
    let call = |what: &dyn Fn(&str) -> bool| log.lines().position(what).unwrap_or_else(|| panic!("{log}"));
    let (made, replaced) = (call(&|line| line.contains("\"a\"")), call(&|line| line.contains("\"b\"")));
    let flushed = log.lines().skip(made).position(|line| line.contains("syncfs(")).map(|at| at + made);
    assert!(flushed.is_some_and(|flushed| flushed < replaced), "{log}");
    assert_equal(&source, &copy);
}
