//! The other end of a connection: who answers, what a forced command lets it do, and what is left when it goes away.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::cli::{assert_nothing_half_written, bulky, clone};
use crate::common::compare::{assert_equal, assert_untouched, snapshot_ctimes};
use crate::common::plant::{chmod, noise, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{CLONETOOL, Output, Workdir, clonetool, clonetool_by, dir, is_empty};

/// A source with one file, an empty copy, and a server that takes connections.
fn served(name: &str) -> (Workdir, PathBuf, PathBuf, Sshd) {
    let work = Workdir::new(name);
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("file"), "");
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    (work, source, copy, server)
}

fn over(server: &Sshd, extra: &[&str], args: Vec<OsString>, from: &OsStr, to: &OsStr) -> Output {
    let mut all: Vec<OsString> = vec!["clone".into()];
    all.extend(extra.iter().map(OsString::from));
    all.extend(args);
    all.extend([from.to_owned(), to.to_owned()]);
    assert!(server.port() > 0);
    clonetool(all)
}

#[test]
fn a_peer_without_clonetool_is_exit_6_with_a_hint() {
    let (_work, source, copy, server) = served("cli-no-peer");
    for transport in ["ssh", "ssh2"] {
        let args = server.args_with(&server.known_hosts(), "/nonexistent/clonetool");
        let to = server.remote(&copy);
        let output = over(&server, &["--transport", transport], args, source.as_os_str(), &to).expect_code(6);
        assert!(output.stderr.contains("--remote-path"), "{transport}: {}", output.describe());
        assert!(is_empty(&copy));
    }
}

#[test]
fn a_peer_that_is_something_else_is_exit_6() {
    let work = Workdir::new("cli-not-clonetool");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("file"), "");
    for chatter in [
        "echo Welcome to this host",
        "cat /dev/zero",
        "true",
        "printf '\\377\\377\\377\\377\\377\\377\\377\\377'",
    ] {
        let options = SshdOptions { forced_command: Some(chatter.to_owned()) };
        let server = Sshd::start(&work.join(format!("sshd-{}", chatter.len())), &options);
        for transport in ["ssh", "ssh2"] {
            let to = server.remote(&copy);
            let output = over(&server, &["--transport", transport], server.args(), source.as_os_str(), &to)
                .expect_code(6);
            assert!(!output.stderr.is_empty(), "{chatter} by {transport}: {}", output.describe());
        }
        assert!(is_empty(&copy));
    }
}

#[test]
fn an_unknown_or_changed_host_key_is_exit_6_and_names_the_fingerprints() {
    let (_work, source, copy, server) = served("cli-host-key");
    let to = server.remote(&copy);
    let attempt = |transport: &str, known_hosts: PathBuf| {
        let args = server.args_with(&known_hosts, CLONETOOL);
        let output = over(&server, &["--transport", transport], args, source.as_os_str(), &to).expect_code(6);
        assert!(is_empty(&copy), "{transport}: something was sent to a host with a wrong key");
        output
    };
    attempt("ssh", server.wrong_known_hosts());
    attempt("ssh", server.empty_known_hosts());
    let changed = attempt("ssh2", server.wrong_known_hosts());
    for other in [false, true] {
        let fingerprint = server.fingerprint(other);
        assert!(changed.stderr.contains(&fingerprint), "{fingerprint} is not named\n{}", changed.describe());
    }
    let unknown = attempt("ssh2", server.empty_known_hosts());
    assert!(unknown.stderr.contains(&server.fingerprint(false)), "{}", unknown.describe());
}

#[test]
fn a_known_hosts_file_with_markers_is_refused_by_the_built_in_ssh() {
    let (work, source, copy, server) = served("cli-markers");
    let known = fs::read_to_string(server.known_hosts()).expect("read");
    for marker in ["@revoked", "@cert-authority"] {
        let file = work.join(marker);
        write(&file, format!("{marker} {known}{known}"));
        let args = server.args_with(&file, CLONETOOL);
        let to = server.remote(&copy);
        let output = over(&server, &["--transport", "ssh2"], args, source.as_os_str(), &to).expect_code(6);
        assert!(output.stderr.contains(marker), "{}", output.describe());
        assert!(is_empty(&copy));
    }
}

#[test]
fn a_port_that_nobody_listens_on_is_exit_6() {
    let (_work, source, copy, server) = served("cli-refused");
    let (args, to) = (server.args(), server.remote(&copy));
    drop(server);
    for transport in ["ssh", "ssh2"] {
        let mut all: Vec<OsString> = vec!["clone".into(), "--transport".into(), transport.into()];
        all.extend(args.clone());
        all.extend([source.as_os_str().to_owned(), to.clone()]);
        clonetool(all).expect_code(6).expect_stderr("127.0.0.1");
    }
}

/// Writes a remote shell that hands on `bytes` of what clonetool sends and then does `then`.
fn cutting_shell(work: &Workdir, server: &Sshd, bytes: u64, then: &str) -> PathBuf {
    let script = work.join("cutting-shell");
    let rsh = server.rsh();
    // Without stdbuf, head keeps back what does not fill its buffer, and the two ends wait for each other.
    write(&script, format!("#!/bin/sh\n{{ stdbuf -o0 head -c {bytes}; {then}; }} | {rsh} \"$@\"\n"));
    chmod(&script, 0o755);
    script
}

#[test]
fn a_connection_lost_in_the_middle_leaves_nothing_half_written_and_a_rerun_continues() {
    let work = Workdir::new("cli-lost");
    let (source, copy) = (work.make("source"), work.make("copy"));
    bulky(&source, 16, 1_000_003);
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let to = server.remote(&copy);
    let run = |rsh: &Path| {
        let args: [&OsStr; 8] = [
            "clone".as_ref(),
            "--json".as_ref(),
            "-e".as_ref(),
            rsh.as_os_str(),
            "--remote-path".as_ref(),
            CLONETOOL.as_ref(),
            source.as_os_str(),
            &to,
        ];
        clonetool(args)
    };
    for bytes in [0, 10, 3_000, 1_500_000, 9_000_000] {
        let output = run(&cutting_shell(&work, &server, bytes, "true")).expect_code(6);
        assert!(!output.stderr.is_empty(), "{}", output.describe());
        assert!(assert_nothing_half_written(&source, &copy) < 16);
    }
    let output = run(&cutting_shell(&work, &server, 1 << 40, "true")).expect_code(0);
    assert_equal(&source, &copy);
    assert_eq!(output.count("problems"), 0);
}

/// The remote shell sends the signal in the middle of the transfer; what it exits with is either the convention of
/// shells (130) or a failure (1).
#[test]
fn an_interrupt_leaves_nothing_half_written_and_a_rerun_continues() {
    let work = Workdir::new("cli-interrupt");
    let (source, copy) = (work.make("source"), work.make("copy"));
    bulky(&source, 32, 1_000_003);
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let to = server.remote(&copy);
    let rsh = cutting_shell(&work, &server, 4_000_000, "kill -INT $PPID; cat");
    let args: [&OsStr; 7] = [
        "clone".as_ref(),
        "-e".as_ref(),
        rsh.as_os_str(),
        "--remote-path".as_ref(),
        CLONETOOL.as_ref(),
        source.as_os_str(),
        &to,
    ];
    let output = clonetool(args).expect_one_of(&[1, 130]);
    assert!(output.stderr.to_lowercase().contains("interrupt"), "{}", output.describe());
    assert!(assert_nothing_half_written(&source, &copy) < 32);
    clone(&[], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
}

fn forced(work: &Workdir, name: &str, arguments: &str) -> Sshd {
    let options = SshdOptions { forced_command: Some(format!("{CLONETOOL} agent {arguments}")) };
    Sshd::start(&work.join(name), &options)
}

#[test]
fn a_forced_command_confines_the_peer_to_its_root() {
    let work = Workdir::new("cli-forced");
    let (source, inside, outside) = (work.make("source"), work.make("jail/inside"), work.make("outside"));
    write(&source.join("file"), "pushed");
    write(&outside.join("secret"), "not for the peer");
    symlink(&outside, work.join("jail/way-out")).expect("symlink");
    let server = forced(&work, "sshd", &format!("--root {}", work.join("jail").display()));
    for transport in ["ssh", "ssh2"] {
        let extra = ["--transport", transport];
        over(&server, &extra, server.args(), source.as_os_str(), &server.remote(&inside)).expect_code(0);
        assert_equal(&source, &inside);
        dir::remove_tree(&inside.join("file"));
        let before = snapshot_ctimes(&outside);
        let beyond = [
            outside.clone(),
            outside.join("new"),
            work.join("jail/../outside"),
            work.join("jail/way-out"),
            work.join("jail/way-out/new"),
            work.join("jailbreak"),
            work.path().to_owned(),
        ];
        for path in beyond {
            let to = server.remote(&path);
            let push =
                over(&server, &extra, server.args(), source.as_os_str(), &to).expect_one_of(&[1, 3, 6]);
            assert!(!push.stderr.is_empty(), "{}", push.describe());
            assert_untouched(&before, &snapshot_ctimes(&outside));
            assert!(!work.join("jailbreak").exists());
            let pulled = work.make("pulled");
            over(&server, &extra, server.args(), &to, pulled.as_os_str()).expect_one_of(&[1, 3, 6]);
            assert!(!pulled.join("secret").exists(), "{} was read from outside the root", path.display());
        }
    }
}

#[test]
fn a_read_only_forced_command_gives_and_does_not_take() {
    let work = Workdir::new("cli-read-only-agent");
    let (source, jail) = (work.make("source"), work.make("jail"));
    write(&source.join("file"), "pushed");
    write(&jail.join("own"), "pulled");
    let server = forced(&work, "sshd", &format!("--root {} --read-only", jail.display()));
    let before = snapshot_ctimes(&jail);
    for transport in ["ssh", "ssh2"] {
        let extra = ["--transport", transport, "--delete"];
        let push = over(&server, &extra, server.args(), source.as_os_str(), &server.remote(&jail));
        let push = push.expect_one_of(&[1, 3, 6]);
        assert!(push.stderr.contains("read"), "{}", push.describe());
        assert_untouched(&before, &snapshot_ctimes(&jail));
        let pulled = work.make(transport);
        over(&server, &extra, server.args(), &server.remote(&jail), pulled.as_os_str()).expect_code(0);
        assert_equal(&jail, &pulled);
        assert_untouched(&before, &snapshot_ctimes(&jail));
    }
}

#[test]
fn an_agent_that_is_fed_rubbish_ends_with_an_error() {
    let work = Workdir::new("cli-rubbish");
    let rubbish = work.join("rubbish");
    for bytes in [Vec::new(), vec![0xff; 64], noise(77, 100_000), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        write(&rubbish, &bytes);
        let script =
            format!("exec {CLONETOOL} agent --root {} <{}", work.path().display(), rubbish.display());
        let output = clonetool_by(&["sh", "-c"], &script, Vec::<OsString>::new());
        assert!((1..=6).contains(&output.code), "{} bytes of rubbish\n{}", bytes.len(), output.describe());
        assert!(!output.stderr.contains("panicked"), "{}", output.describe());
    }
}
