//! What the built-in client does when nothing can be done: nothing. And what is left of it afterwards: nothing.
//!
//! Why a file of its own: this looks at the threads of its process, so no other test may run in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "transport/sshd.rs"]
mod sshd;

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use sshd::Sshd;
use syncore::wire::{ByteStream, Remote, TransportKind, connect};

/// How long the thread is looked at, and how much of that it may work. A spinning one works all of it.
const WATCHED: Duration = Duration::from_millis(400);
const ALLOWED: Duration = Duration::from_millis(40);

#[test]
fn a_waiting_pump_sleeps_and_a_dropped_one_is_gone() {
    // A child of this very test, in an environment without an ssh.
    if let Some(port) = std::env::var_os("TEST_PORT") {
        return without_a_system_ssh(port.to_str().unwrap().parse().unwrap());
    }
    let sshd = Sshd::start("");
    let idle = sshd.script("idle", "exec cat");
    let talking = sshd.script("talking", "exec cat /dev/zero");
    // A peer that reads nothing does not see the connection end; this one ends with the directory of this test.
    let wait = format!("while [ -d {} ]; do sleep 1; done", sshd.directory.path().display());
    let deaf = sshd.script("deaf", &wait);
    let both = sshd.script("both", &format!("cat /dev/zero & {wait}"));
    let half_ended = sshd.script("half_ended", &format!("exec >&- 2>&-; {wait}"));
    for (name, peer) in [
        ("idle", idle),
        ("nobody reads what the peer says", talking.clone()),
        ("nobody reads, and something is to be said", talking),
        ("the peer reads nothing", deaf),
        ("neither reads", both),
        ("the peer says no more", half_ended),
    ] {
        let stream = connect(&sshd.remote(TransportKind::Ssh2, &peer)).unwrap();
        let ByteStream { reader, mut writer, finish, .. } = stream;
        let writing = std::thread::spawn(move || {
            let quiet = ["idle", "nobody reads what the peer says"].contains(&name);
            let all = (0..if quiet { 0 } else { usize::MAX }).try_for_each(|_| writer.write_all(&[1; 4096]));
            // Kept: its end would be the end of the peer.
            all.map(|()| writer)
        });
        the_pump_starts(name);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let before = worked();
            std::thread::sleep(WATCHED);
            let worked = worked() - before;
            if worked < ALLOWED {
                break;
            }
            assert!(Instant::now() < deadline, "{name}: {worked:?} of {WATCHED:?} at work");
        }
        drop(reader);
        drop(finish);
        assert!(pumps().is_empty(), "{name}");
        // The end of the pump is the end of the writer.
        let _ = writing.join().unwrap();
    }
    falls_back(&sshd);
}

/// Where there is no `ssh`, `auto` means the built-in client.
fn falls_back(sshd: &Sshd) {
    let echo = sshd.script("echo", "exec cat");
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.arg("--nocapture").env("PATH", "/nowhere").env("TEST_PORT", sshd.port.to_string());
    again.env("TEST_DIRECTORY", sshd.directory.path()).env("TEST_PEER", echo);
    again.env("TEST_USER", sshd.remote(TransportKind::Auto, "x").user.unwrap());
    assert!(sshd::run(&mut again).contains("1 passed"));
}

fn without_a_system_ssh(port: u16) {
    let given = |name: &str| std::env::var(name).unwrap();
    let directory = PathBuf::from(given("TEST_DIRECTORY"));
    let remote = Remote {
        host: "127.0.0.1".into(),
        user: Some(given("TEST_USER")),
        port: Some(port),
        identity: Some(directory.join("id")),
        known_hosts: Some(directory.join("known_hosts")),
        remote_shell: None,
        remote_path: Some(given("TEST_PEER")),
        transport: TransportKind::Auto,
        connect_timeout: Duration::from_secs(20),
        home: None,
        agent_socket: None,
    };
    let mut stream = connect(&remote).unwrap();
    the_pump_starts("the built-in client");
    drop(stream.writer);
    assert_eq!(std::io::copy(&mut stream.reader, &mut std::io::sink()).unwrap(), 0);
    assert!((stream.finish)().is_none());
    assert!(connect(&Remote { transport: TransportKind::Ssh, ..remote }).is_err());
}

/// A thread takes its name only when it first runs.
fn the_pump_starts(name: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while pumps().is_empty() {
        assert!(Instant::now() < deadline, "{name}: there is no pump");
        std::thread::yield_now();
    }
}

fn pumps() -> Vec<PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let named = |task: &PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "ssh2-pump")
    };
    tasks.filter(named).collect()
}

/// The time that the pump has been on a processor.
fn worked() -> Duration {
    let statistics = std::fs::read_to_string(pumps()[0].join("schedstat")).unwrap();
    Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
}
