//! `clonetool enroll` against a real sshd: what it makes on both hosts, what it refuses, and that it undoes all of it.
//!
//! The pair's directory is below /etc/clonetool; each test has one of its own there, in a mount namespace.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::plant::{chmod, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{CLONETOOL, Output, Workdir, clonetool_by, lacks};

struct Hosts {
    work: Workdir,
    sshd: Sshd,
    /// /etc/clonetool of production.
    etc: PathBuf,
    /// The standby's root.
    standby: PathBuf,
    authorized_keys: PathBuf,
    /// What was in it before.
    theirs: Vec<u8>,
}

fn hosts(name: &str) -> Option<Hosts> {
    if lacks(&format!("enroll::{name}"), &["unshare", "ssh-keyscan"]) {
        return None;
    }
    fs::create_dir_all("/etc/clonetool").expect("a place to mount on");
    let work = Workdir::new("enroll");
    let sshd = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let authorized_keys = work.join("sshd/authorized_keys");
    let mut theirs = b"# \xff ours\r\n".to_vec();
    theirs.extend(fs::read(&authorized_keys).expect("read"));
    theirs.extend(b"\n  # the last line has no end");
    fs::write(&authorized_keys, &theirs).expect("write");
    chmod(&authorized_keys, 0o640);
    let (etc, standby) = (work.make("etc"), work.make("standby"));
    Some(Hosts { work, sshd, etc, standby, authorized_keys, theirs })
}

impl Hosts {
    fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        let script = format!("mount --bind {} /etc/clonetool && exec \"$0\" \"$@\"", self.etc.display());
        clonetool_by(&["unshare", "-m", "sh", "-c", &script], CLONETOOL, arguments)
    }

    fn enroll_with(&self, identity: &Path, known_hosts: &Path, keys: &Path, more: &[&str]) -> Output {
        let port = self.sshd.port().to_string();
        let mut all: Vec<OsString> = ["enroll", "root@127.0.0.1", "-p", &port].map(OsString::from).to_vec();
        all.extend(["-i".into(), identity.into(), "--known-hosts".into(), known_hosts.into()]);
        all.extend(["--authorized-keys".into(), keys.into()]);
        all.extend(["--root".into(), self.standby.clone().into()]);
        all.extend(["--remote-path", CLONETOOL].map(OsString::from));
        all.extend(more.iter().map(OsString::from));
        self.run(all)
    }

    fn enroll(&self, known_hosts: &Path, more: &[&str]) -> Output {
        self.enroll_with(&self.sshd.identity(), known_hosts, &self.authorized_keys, more)
    }

    fn accepted(&self, more: &[&str]) -> Output {
        let fingerprint = self.sshd.fingerprint(false);
        self.enroll(
            &self.sshd.empty_known_hosts(),
            &[&["--accept-fingerprint", &fingerprint][..], more].concat(),
        )
    }

    fn keys(&self) -> Vec<u8> {
        fs::read(&self.authorized_keys).expect("read")
    }

    /// Neither host was changed.
    fn untouched(&self) {
        assert_eq!(self.keys(), self.theirs);
        assert!(!self.etc.join("pair").exists());
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").permissions().mode() & 0o7777
}

#[test]
fn a_pair_is_enrolled_once_syncs_by_its_own_key_and_is_undone() {
    let Some(hosts) = hosts("a_pair_is_enrolled_once_syncs_by_its_own_key_and_is_undone") else { return };
    let source = hosts.work.make("source");
    write(&source.join("motd"), "hello");
    let profile = hosts.work.join("ours.toml");
    let text = format!(
        "description = \"ours\"\n[source]\nroot = \"{}\"\n[standby]\naddress = \"root@127.0.0.1\"\nroot = \"{}\"\n",
        source.display(),
        hosts.standby.display()
    );
    write(&profile, text);
    let port = hosts.sshd.port().to_string();
    let sync = || {
        let words = ["sync", "-q", "-p", &port, "--remote-path", CLONETOOL, profile.to_str().expect("UTF-8")];
        hosts.run(words)
    };
    sync().expect_code(6);

    let first = hosts.accepted(&[]).expect_code(0);
    let pair = hosts.etc.join("pair");
    for line in [
        &format!(
            "pinned     {} for [127.0.0.1]:{port} (accepted by fingerprint)",
            hosts.sshd.fingerprint(false)
        ),
        "made       key /etc/clonetool/pair/id_ed25519",
        "tested     the key runs no other command",
    ] {
        assert!(first.stdout.lines().any(|found| found == line), "{line}\n{}", first.stdout);
    }
    assert!(first.stdout.contains("tested     clonetool "), "{}", first.stdout);
    assert_eq!((mode(&pair), mode(&pair.join("id_ed25519"))), (0o700, 0o600));
    let public = fs::read_to_string(pair.join("id_ed25519.pub")).expect("a key");
    let key = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let standby = hosts.standby.display();
    let line =
        format!("restrict,command=\"{CLONETOOL} agent --root {standby}\" {key} clonetool-pair@{node}\n");
    assert_eq!(hosts.keys(), [&hosts.theirs[..], b"\n", line.as_bytes()].concat());
    assert_eq!(mode(&hosts.authorized_keys), 0o640);

    let before = (hosts.keys(), fs::read(pair.join("known_hosts")).expect("read"), public);
    let again = hosts.accepted(&[]).expect_code(0);
    assert_eq!(again.stdout.matches("unchanged  ").count(), 3, "{}", again.stdout);
    let after = fs::read_to_string(pair.join("id_ed25519.pub")).expect("a key");
    assert_eq!((hosts.keys(), fs::read(pair.join("known_hosts")).expect("read"), after), before);

    sync().expect_code(0);
    assert_eq!(fs::read_to_string(hosts.standby.join("motd")).expect("read"), "hello");
    // By hand: with this key, whatever is asked for, a command does not run.
    let tried = Command::new("ssh")
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-p", &port, "-i"])
        .arg(pair.join("id_ed25519"))
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", pair.join("known_hosts").display()))
        .args(["root@127.0.0.1", "id"])
        .output()
        .expect("run ssh");
    assert!(!String::from_utf8_lossy(&tried.stdout).contains("uid="), "{tried:?}");

    hosts.accepted(&["--remove"]).expect_code(0);
    assert_eq!(hosts.keys(), [&hosts.theirs[..], b"\n"].concat());
    assert!(!pair.exists());
    sync().expect_code(6);
    let gone = hosts.accepted(&["--remove"]).expect_code(0);
    assert_eq!(gone.stdout, "unchanged  there is no key of a pair here\n");
}

#[test]
fn a_host_key_is_never_taken_on_trust() {
    let Some(hosts) = hosts("a_host_key_is_never_taken_on_trust") else { return };
    let unknown = hosts.sshd.empty_known_hosts();
    hosts
        .enroll(&unknown, &[])
        .expect_code(6)
        .expect_stderr("is not known")
        .expect_stderr(&hosts.sshd.fingerprint(false));
    let other = hosts.sshd.fingerprint(true);
    hosts
        .enroll(&unknown, &["--accept-fingerprint", &other])
        .expect_code(6)
        .expect_stderr("shows no key with the accepted fingerprint");
    // What the administrator's file says counts for more than what was typed.
    let right = hosts.sshd.fingerprint(false);
    hosts
        .enroll(&hosts.sshd.wrong_known_hosts(), &["--accept-fingerprint", &right])
        .expect_code(6)
        .expect_stderr("shows another key than the one on record");
    let key = fs::read_to_string(hosts.sshd.known_hosts()).expect("read");
    let revoked = hosts.work.join("revoked");
    write(&revoked, format!("@revoked {key}{key}"));
    hosts.enroll(&revoked, &[]).expect_code(6).expect_stderr("shows a key that ");
    hosts.untouched();
    let known = hosts.enroll(&hosts.sshd.known_hosts(), &[]).expect_code(0);
    assert!(known.stdout.contains("(known before)\n"), "{}", known.stdout);
    // Once pinned, another key is refused, whoever vouches for it.
    let pinned = hosts.etc.join("pair/known_hosts");
    let wrong = fs::read_to_string(hosts.sshd.wrong_known_hosts()).expect("read");
    write(&pinned, wrong.split(' ').take(3).collect::<Vec<_>>().join(" "));
    hosts
        .accepted(&[])
        .expect_code(6)
        .expect_stderr("on record in /etc/clonetool/pair; if it changed for a reason");
}

#[test]
fn a_login_that_is_refused_says_so() {
    let Some(hosts) = hosts("a_login_that_is_refused_says_so") else { return };
    let other = hosts.work.join("sshd/other_key");
    hosts
        .enroll_with(&other, &hosts.sshd.known_hosts(), &hosts.authorized_keys, &[])
        .expect_code(6)
        .expect_stderr("cannot log in to root@127.0.0.1");
    assert_eq!(hosts.keys(), hosts.theirs);
    let port = hosts.sshd.port().to_string();
    let identity = hosts.sshd.identity();
    let known = hosts.sshd.known_hosts();
    let words = ["enroll", "root@127.0.0.1", "-p", &port, "--remote-path", "/nowhere/clonetool", "-i"];
    let words =
        words.map(OsString::from).into_iter().chain([identity.into(), "--known-hosts".into(), known.into()]);
    hosts.run(words).expect_code(6).expect_stderr("no clonetool of this version answered");
}

#[test]
fn a_file_that_others_decide_over_is_refused() {
    let Some(hosts) = hosts("a_file_that_others_decide_over_is_refused") else { return };
    let refused = |keys: &Path, reason: &str| {
        hosts
            .enroll_with(&hosts.sshd.identity(), &hosts.sshd.known_hosts(), keys, &[])
            .expect_code(3)
            .expect_stderr(reason);
    };
    let link = hosts.work.join("link");
    symlink(&hosts.authorized_keys, &link).expect("link");
    refused(&link, "is a link");
    let hard = hosts.work.join("hard");
    fs::hard_link(&hosts.authorized_keys, &hard).expect("link");
    refused(&hosts.authorized_keys, "is no plain file of one name");
    fs::remove_file(&hard).expect("remove");
    chmod(&hosts.authorized_keys, 0o660);
    refused(&hosts.authorized_keys, "may be written by others");
    chmod(&hosts.authorized_keys, 0o640);
    let open = hosts.work.make("open");
    chmod(&open, 0o777);
    refused(&open.join("keys"), "may be written by others");
    let through = hosts.work.join("through");
    symlink(hosts.work.make("behind"), &through).expect("link");
    refused(&through.join("keys"), "is a link or no directory");
    assert_eq!(hosts.keys(), hosts.theirs);
    // The pair's key in a line of somebody else, without the restriction.
    let public = fs::read(hosts.etc.join("pair/id_ed25519.pub")).expect("a key");
    let with_key = [&hosts.theirs[..], b"\n", &public].concat();
    fs::write(&hosts.authorized_keys, &with_key).expect("write");
    refused(&hosts.authorized_keys, "has the pair's key in a line that enroll did not write");
    assert_eq!(hosts.keys(), with_key);
    // sshd takes that line, and enroll's own one is in a file that it does not read.
    hosts
        .enroll_with(&hosts.sshd.identity(), &hosts.sshd.known_hosts(), &hosts.work.join("unread"), &[])
        .expect_code(1)
        .expect_stderr("the key runs any command there, not the agent alone");
    fs::write(&hosts.authorized_keys, &hosts.theirs).expect("write");
    hosts
        .enroll_with(&hosts.sshd.identity(), &hosts.sshd.known_hosts(), &hosts.work.join("unread"), &[])
        .expect_code(6)
        .expect_stderr("the key is in place and the connection fails");
}

#[test]
fn a_directory_of_the_pair_that_others_may_read_is_refused() {
    let Some(hosts) = hosts("a_directory_of_the_pair_that_others_may_read_is_refused") else { return };
    fs::create_dir(hosts.etc.join("pair")).expect("mkdir");
    chmod(&hosts.etc.join("pair"), 0o755);
    hosts
        .accepted(&[])
        .expect_code(3)
        .expect_stderr("/etc/clonetool/pair is not a private directory of this account");
    assert_eq!(hosts.keys(), hosts.theirs);
}
