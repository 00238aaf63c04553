//! What a release puts in place: production's latest, as the last sync brought it; nothing of the standby's own is lost.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use syncore::monitor::Silent;
use syncore::prepare::{self, Options, Target};

use crate::common::compare::{What, assert_none, compare_ignoring, xattrs};
use crate::common::plant::{chmod, set_xattr, write};
use crate::common::{Output, Workdir, clonetool, lacks};

/// A host with a job and a unit, as far as a preparation looks.
fn host(root: &Path) {
    write(&root.join("etc/os-release"), "ID=debian\n");
    write(&root.join("etc/hostname"), "production\n");
    write(&root.join("usr/lib/systemd/systemd"), "");
    write(&root.join("etc/cron.d/pay"), "* * * * * root /srv/pay\n");
    write(&root.join("etc/systemd/system/pay.service"), "[Service]\nExecStart=/srv/pay\n");
    for directory in ["etc/systemd/system/multi-user.target.wants", "etc/clonetool", "var/lib/clonetool"] {
        fs::create_dir_all(root.join(directory)).expect("mkdir");
    }
    symlink("../pay.service", root.join("etc/systemd/system/multi-user.target.wants/pay.service"))
        .expect("link");
}

/// Syncs `production` to `root` as the daily profile does, held things included.
fn daily(production: &Path, root: &Path) {
    let run = clonetool([
        "sync".as_ref(),
        "linux-daily".as_ref(),
        "--source".as_ref(),
        production.as_os_str(),
        "--destination".as_ref(),
        root.as_os_str(),
    ]);
    run.expect_code(0);
}

/// Production and a prepared copy of it, as they are when the clone was made.
fn pair(name: &str) -> (Workdir, PathBuf, PathBuf) {
    let work = Workdir::new(name);
    let (production, root) = (work.make("production"), work.make("root"));
    for at in [&production, &root] {
        for (path, content) in [
            ("etc/cron.d/gone", "* * * * * root /srv/gone\n"),
            ("etc/cron.d/own", "* * * * * root /srv/production\n"),
            ("etc/crontab", "* * * * * root /srv/table\n"),
            ("etc/exports", "/srv *(rw)\n"),
            ("etc/samba/smb.conf", "[old]\n"),
            ("etc/systemd/system/old.service", "[Service]\nExecStart=/srv/old\n"),
            ("etc/systemd/system/ours.service", "[Service]\nExecStart=/srv/ours\n"),
            ("var/spool/postfix/deferred/A/sent", "sent since"),
            ("var/spool/postfix/deferred/B/waiting", "waits still"),
        ] {
            write(&at.join(path), content);
        }
        host(at);
    }
    let (hostname, root_device) = (Some("standby".into()), Some("/dev/vda1".into()));
    let options = Options { hostname, root_device, ..Options::default() };
    let plan = prepare::plan(&root, &Target::default(), &options).expect("plan");
    plan.carry_out(&Silent).expect("prepare");
    (work, production, root)
}

/// What happens on production after the clone.
fn changes(production: &Path) {
    let at = |path: &str| production.join(path);
    write(&at("etc/cron.d/pay"), "5 * * * * app /srv/pay --new\n");
    chmod(&at("etc/cron.d/pay"), 0o640);
    set_xattr(&at("etc/cron.d/pay"), "user.owner", b"ops");
    write(&at("etc/cron.d/new"), "* * * * * root /srv/new\n");
    fs::remove_file(at("etc/cron.d/gone")).expect("remove");
    write(&at("etc/cron.d/own"), "* * * * * root /srv/changed\n");
    fs::remove_file(at("etc/exports")).expect("remove");
    write(&at("etc/samba/smb.conf"), "[new]\n");
    write(&at("etc/systemd/system/pay.service"), "[Service]\nExecStart=/srv/pay --new\n");
    write(&at("etc/systemd/system/new.service"), "[Service]\nExecStart=/srv/new\n");
    symlink("../new.service", at("etc/systemd/system/multi-user.target.wants/new.service")).expect("link");
    fs::remove_file(at("etc/systemd/system/old.service")).expect("remove");
    write(&at("etc/systemd/system/ours.service"), "[Service]\nExecStart=/srv/ours --production\n");
    write(&at("var/spool/postfix/deferred/B/queued"), "queued since");
    fs::remove_file(at("var/spool/postfix/deferred/A/sent")).expect("remove");
}

fn release(root: &Path, arguments: &[&str]) -> Output {
    let mut all: Vec<&std::ffi::OsStr> = ["hold", "release", "--root"].map(AsRef::as_ref).to_vec();
    all.push(root.as_os_str());
    all.extend(arguments.iter().map(std::ffi::OsStr::new));
    clonetool(all)
}

#[test]
fn a_release_ends_with_what_production_has_now() {
    let (_work, production, root) = pair("hold-latest");
    changes(&production);
    daily(&production, &root);
    // Nothing of it acts before the release.
    for path in ["etc/cron.d/new", "etc/cron.d/pay", "etc/systemd/system/new.service"] {
        assert!(!root.join(path).exists(), "{path} acts");
    }
    assert!(!root.join("etc/systemd/system/multi-user.target.wants/new.service").is_symlink());
    let text =
        |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    // The standby's own: a job that it was given, mail that it queued, a unit that it changed, its own schedule.
    write(&root.join("etc/cron.d/own"), "the standby's\n");
    write(&root.join("etc/cron.d/clonetool"), "* * * * * root clonetool\n");
    write(&root.join("var/spool/postfix/deferred/C/here"), "queued here");
    write(&root.join("etc/systemd/system/ours.service"), "[Service]\nExecStart=/srv/ours --here\n");
    let list = clonetool(["hold".as_ref(), "list".as_ref(), root.as_os_str()]).expect_code(0).stdout;
    assert!(list.contains("/etc/cron.d/new: production has it since\n"), "{list}");
    let run = release(&root, &["--all"]).expect_code(4);
    for path in [
        "etc/cron.d/pay",
        "etc/cron.d/new",
        "etc/crontab",
        "etc/samba/smb.conf",
        "etc/systemd/system/pay.service",
    ] {
        assert_eq!(text(path), fs::read_to_string(production.join(path)).expect("read"), "{path}");
        let (ours, theirs) = (fs::metadata(root.join(path)), fs::metadata(production.join(path)));
        let (ours, theirs) = (ours.expect("stat"), theirs.expect("stat"));
        assert_eq!(
            (ours.mode(), ours.uid(), ours.mtime(), ours.mtime_nsec()),
            (theirs.mode(), theirs.uid(), theirs.mtime(), theirs.mtime_nsec()),
            "{path}"
        );
        // cron(8) refuses a crontab with another name.
        assert_eq!(ours.nlink(), 1, "{path}");
    }
    assert_eq!(xattrs(&root.join("etc/cron.d/pay")), xattrs(&production.join("etc/cron.d/pay")));
    assert!(root.join("etc/systemd/system/multi-user.target.wants/new.service").is_symlink());
    assert!(!root.join("etc/systemd/system/pay.service.d").exists());
    for gone in [
        "etc/cron.d/gone",
        "etc/exports",
        "etc/systemd/system/old.service",
        "var/spool/postfix/deferred/A/sent",
        "var/lib/clonetool/held/etc/cron.d/gone",
    ] {
        assert!(!root.join(gone).is_symlink() && !root.join(gone).exists(), "{gone} came back");
    }
    assert!(run.stdout.contains("gone       /etc/exports: production deleted it since\n"), "{}", run.stdout);
    for (path, content) in [
        ("etc/cron.d/own", "the standby's\n"),
        ("etc/cron.d/clonetool", "* * * * * root clonetool\n"),
        ("var/spool/postfix/deferred/C/here", "queued here"),
        ("var/spool/postfix/deferred/B/queued", "queued since"),
        ("var/spool/postfix/deferred/B/waiting", "waits still"),
        ("etc/systemd/system/ours.service", "[Service]\nExecStart=/srv/ours --here\n"),
        // The job stays held, as production has it now.
        ("var/lib/clonetool/held/etc/cron.d/own", "* * * * * root /srv/changed\n"),
    ] {
        assert_eq!(text(path), content, "{path}");
    }
    assert!(run.stdout.contains("still held /etc/cron.d/own: "), "{}", run.stdout);
    assert!(
        run.stdout.contains("still held ours.service: /etc/systemd/system/ours.service: "),
        "{}",
        run.stdout
    );
    assert!(root.join("etc/systemd/system/ours.service.d").exists(), "it would start as neither has it");
    // Again, when the standby gave way: it goes on, and then there is nothing left.
    fs::remove_file(root.join("etc/cron.d/own")).expect("remove");
    fs::remove_file(root.join("etc/systemd/system/ours.service")).expect("remove");
    release(&root, &["--all"]).expect_code(0);
    assert_eq!(text("etc/cron.d/own"), "* * * * * root /srv/changed\n");
    assert_eq!(text("etc/systemd/system/ours.service"), "[Service]\nExecStart=/srv/ours --production\n");
    let list = clonetool(["hold".as_ref(), "list".as_ref(), root.as_os_str()]).expect_code(0);
    assert_eq!(list.stdout, "nothing is held\n");
}

#[test]
fn one_thing_is_released_by_name_and_follows_production_from_then_on() {
    let (_work, production, root) = pair("hold-latest-name");
    changes(&production);
    daily(&production, &root);
    let text = |path: &str| fs::read_to_string(root.join(path)).expect("read");
    release(&root, &["pay.service", "/etc/cron.d/new", "/etc/cron.d/pay"]).expect_code(0);
    assert_eq!(text("etc/systemd/system/pay.service"), "[Service]\nExecStart=/srv/pay --new\n");
    assert_eq!(text("etc/cron.d/new"), "* * * * * root /srv/new\n");
    assert_eq!(text("etc/cron.d/pay"), "5 * * * * app /srv/pay --new\n");
    // Nothing else.
    assert!(!root.join("etc/systemd/system/new.service").exists());
    assert!(root.join("etc/systemd/system/old.service").exists());
    assert_eq!(text("etc/samba/smb.conf"), "[old]\n");
    write(&production.join("etc/cron.d/new"), "* * * * * root /srv/newer\n");
    write(&production.join("etc/cron.d/pay"), "7 * * * * app /srv/pay --newer\n");
    daily(&production, &root);
    assert_eq!(text("etc/cron.d/new"), "* * * * * root /srv/new\n");
    release(&root, &["--all"]).expect_code(0);
    assert_eq!(text("etc/cron.d/new"), "* * * * * root /srv/newer\n");
    assert_eq!(text("etc/cron.d/pay"), "7 * * * * app /srv/pay --newer\n");
}

#[test]
fn a_release_that_was_killed_at_any_step_goes_on_when_it_is_run_again() {
    if lacks("latest::a_release_that_was_killed_at_any_step_goes_on_when_it_is_run_again", &["strace", "cp"])
    {
        return;
    }
    let (work, production, root) = pair("hold-latest-crash");
    changes(&production);
    daily(&production, &root);
    let copy = |name: &str| {
        let to = work.join(name);
        let copied = Command::new("cp").arg("-a").args([&root, &to]).status().expect("cp");
        assert!(copied.success());
        to
    };
    let whole = copy("whole");
    let expected = release(&whole, &["--all"]).expect_code(0);
    assert!(expected.stdout.contains("gone       /etc/exports"), "{}", expected.stdout);
    let mut killed = 0;
    loop {
        let part = copy(&format!("killed-{killed}"));
        // Each rename and each removal is a step; all else has no effect before the next of them.
        let calls = "rename,renameat,renameat2,unlink,unlinkat";
        let inject = format!("inject={calls}:signal=SIGKILL:when={}", killed + 1);
        let ended = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &inject])
            .arg(env!("CARGO_BIN_EXE_clonetool"))
            .args(["hold", "release", "--all", "--root"])
            .arg(&part)
            .output()
            .expect("strace");
        if ended.status.success() {
            break;
        }
        assert_eq!(ended.status.signal(), Some(9), "{}", String::from_utf8_lossy(&ended.stderr));
        release(&part, &["--all"]).expect_code(0);
        assert_none(&compare_ignoring(&whole, &part, &[What::Mtime]));
        crate::common::dir::remove_tree(&part);
        killed += 1;
        assert!(killed < 500, "it does not end");
    }
    assert!(killed > 20, "only {killed} steps were seen");
}

#[test]
fn what_a_sync_brings_after_a_promotion_waits_for_a_release_as_before() {
    let (_work, production, root) = pair("hold-latest-promoted");
    changes(&production);
    daily(&production, &root);
    release(&root, &["--all"]).expect_code(0);
    write(&root.join(prepare::PROMOTED), "");
    write(&production.join("etc/cron.d/pay"), "9 * * * * app /srv/pay\n");
    daily(&production, &root);
    let text = |path: &str| fs::read_to_string(root.join(path)).expect("read");
    assert_eq!(text("etc/cron.d/pay"), "5 * * * * app /srv/pay --new\n");
    let list = || clonetool(["hold".as_ref(), "list".as_ref(), root.as_os_str()]).expect_code(0).stdout;
    assert_eq!(list(), "sync  /etc/cron.d/pay: production has another one since\n");
    release(&root, &["--all"]).expect_code(0);
    assert_eq!(text("etc/cron.d/pay"), "9 * * * * app /srv/pay\n");
    assert_eq!(list(), "nothing is held\n");
}

#[test]
fn what_a_sender_puts_beside_what_is_held_stays_where_it_is() {
    let (_work, production, root) = pair("hold-latest-hostile");
    daily(&production, &root);
    let planted = root.join("var/lib/clonetool/production");
    for path in
        ["etc/hostname", "etc/cron.d/clonetool", "etc/ssh/ssh_host_rsa_key", "etc/shadow", "etc/fstab"]
    {
        write(&planted.join(path), "planted\n");
    }
    symlink("/etc", planted.join("etc/cron.d/link")).expect("link");
    write(&root.join("etc/clonetool/standby.toml"), "protect = [\"/etc/cron.d/mine\"]\n");
    write(&planted.join("etc/cron.d/mine"), "planted\n");
    release(&root, &["--all"]).expect_code(0);
    assert_eq!(fs::read_to_string(root.join("etc/hostname")).expect("read"), "standby\n");
    for path in ["etc/cron.d/clonetool", "etc/ssh/ssh_host_rsa_key", "etc/shadow", "etc/cron.d/mine"] {
        assert!(!root.join(path).exists(), "{path} was planted");
    }
    assert_ne!(fs::read_to_string(root.join("etc/fstab")).unwrap_or_default(), "planted\n");
}
