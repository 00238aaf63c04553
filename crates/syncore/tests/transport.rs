//! One suite over all transports, against a real sshd: bytes, ends, failures, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "transport/sshd.rs"]
mod sshd;
#[path = "transport/trust.rs"]
mod trust;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use sshd::Sshd;
use syncore::wire::{ByteStream, Remote, TransportError, TransportKind, connect, pair};

const MIB: usize = 1 << 20;

/// The transports that reach a host. `-e` runs a script that ignores the host and executes the rest, as in rsync's
/// own tests.
fn to_hosts(sshd: &Sshd, remote_path: &str) -> Vec<(&'static str, Remote)> {
    let shell = sshd.script("shell", "while [ \"$1\" != 127.0.0.1 ]; do shift; done; shift\nexec \"$@\"");
    let mut other = sshd.remote(TransportKind::Auto, remote_path);
    other.remote_shell = Some(vec![shell, "-v".into()]);
    vec![
        ("ssh", sshd.remote(TransportKind::Ssh, remote_path)),
        ("ssh2", sshd.remote(TransportKind::Ssh2, remote_path)),
        ("-e", other),
    ]
}

/// Every transport with a peer that sends back what it hears.
fn echoes(sshd: &Sshd) -> Vec<(&'static str, ByteStream)> {
    let echo = sshd.script("echo", "exec cat");
    let mut all = vec![("memory", memory_echo())];
    for (name, remote) in to_hosts(sshd, &echo) {
        all.push((name, connect(&remote).unwrap_or_else(|error| panic!("{name}: {error}"))));
    }
    all
}

fn memory_echo() -> ByteStream {
    let (here, mut there) = pair().unwrap();
    std::thread::spawn(move || std::io::copy(&mut there.reader, &mut there.writer));
    here
}

/// Bytes that repeat nowhere near, so that one lost, doubled or swapped shows.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&self.0.to_be_bytes()[..word.len()]);
        }
    }
}

/// Writes and reads `total` bytes at once, in pieces of `piece`, and checks what comes back.
fn flood(name: &str, stream: ByteStream, total: usize, piece: usize) {
    let ByteStream { mut reader, mut writer, finish, .. } = stream;
    let sending = std::thread::spawn(move || {
        let mut pattern = Pattern(1);
        let mut bytes = vec![0; piece];
        for _ in 0..total / piece {
            pattern.fill(&mut bytes);
            writer.write_all(&bytes).unwrap();
        }
        writer.flush().unwrap();
    });
    let mut pattern = Pattern(1);
    let (mut bytes, mut expected) = (vec![0; piece], vec![0; piece]);
    for number in 0..total / piece {
        reader.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{name}, piece {number}: {error}"));
        pattern.fill(&mut expected);
        assert!(bytes == expected, "{name}: piece {number} differs");
    }
    sending.join().unwrap();
    assert_eq!(reader.read(&mut bytes).unwrap(), 0, "{name}: end of file");
    drop(reader);
    let end = finish();
    assert!(end.is_none(), "{name}: {end:?}");
}

#[test]
fn a_byte_comes_back_and_the_end_too() {
    let sshd = Sshd::start("");
    for (name, mut stream) in echoes(&sshd) {
        stream.writer.write_all(b"x").unwrap();
        stream.writer.flush().unwrap();
        let mut byte = [0; 2];
        assert_eq!(stream.reader.read(&mut byte).unwrap(), 1, "{name}");
        assert_eq!(byte[0], b'x', "{name}");
        drop(stream.writer);
        assert_eq!(stream.reader.read(&mut byte).unwrap(), 0, "{name}");
        let end = (stream.finish)();
        assert!(end.is_none(), "{name}: {end:?}");
    }
}

#[test]
fn an_end_without_a_byte() {
    let sshd = Sshd::start("");
    for (name, stream) in echoes(&sshd) {
        flood(name, stream, 0, 1);
    }
}

#[test]
fn sixty_four_mebibytes_both_ways_at_once() {
    let sshd = Sshd::start("");
    for (name, stream) in echoes(&sshd) {
        flood(name, stream, 64 * MIB, 8192);
    }
}

#[test]
fn frames_larger_than_every_buffer() {
    let sshd = Sshd::start("");
    for (name, stream) in echoes(&sshd) {
        flood(name, stream, 64 * MIB, 16 * MIB);
    }
}

#[test]
fn new_session_keys_in_the_middle() {
    let sshd = Sshd::start("RekeyLimit 4M");
    for (name, stream) in echoes(&sshd) {
        flood(name, stream, 64 * MIB, 32768);
    }
}

#[test]
fn a_peer_that_writes_all_before_it_reads_stops_nobody_for_ever() {
    let sshd = Sshd::start("");
    // 80 MiB before it reads: more than all windows and pipes together, so that the writer has to wait.
    let body = "head -c 83886080 /dev/zero; head -c 83886080 | wc -c";
    let peer = sshd.script("peer", body);
    for (name, remote) in to_hosts(&sshd, &peer) {
        let ByteStream { mut reader, mut writer, finish, .. } = connect(&remote).unwrap();
        let sending = std::thread::spawn(move || {
            for _ in 0..80 {
                writer.write_all(&vec![7; MIB]).unwrap();
            }
        });
        let mut bytes = vec![1; MIB];
        for _ in 0..80 {
            reader.read_exact(&mut bytes).unwrap();
            assert!(bytes.iter().all(|&b| b == 0), "{name}");
        }
        let mut count = String::new();
        reader.read_to_string(&mut count).unwrap();
        assert_eq!(count.trim(), "83886080", "{name}");
        sending.join().unwrap();
        assert!(finish().is_none(), "{name}");
    }
}

#[test]
fn a_peer_that_ends_first_is_noticed_by_reader_and_writer() {
    let sshd = Sshd::start("");
    let peer = sshd.script("peer", "echo bye");
    for (name, remote) in to_hosts(&sshd, &peer) {
        let mut stream = connect(&remote).unwrap();
        let mut said = String::new();
        stream.reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "bye\n", "{name}");
        // The writer may still fill the pipe while the transport goes down, but not for ever.
        let broken = (0..64).any(|_| stream.writer.write_all(&vec![0; MIB]).is_err());
        assert!(broken, "{name}");
        assert!((stream.finish)().is_none(), "{name}");
    }
}

#[test]
fn a_failing_peer_is_heard_and_its_words_are_escaped_and_bounded() {
    let sshd = Sshd::start("");
    let body = "i=0; while [ $i -lt 3000 ]; do echo noise noise >&2; i=$((i+1)); done\n\
                printf 'no \\033[31mspace\\n' >&2; exit 7";
    let peer = sshd.script("peer", body);
    for (name, remote) in to_hosts(&sshd, &peer) {
        let stream = connect(&remote).unwrap();
        let end = after_the_end(stream);
        let Some(TransportError::Exit { status: 7, stderr, .. }) = end else { panic!("{name}: {end:?}") };
        assert!(stderr.ends_with("no \\x1b[31mspace"), "{name}: {stderr}");
        assert!(stderr.len() < 16 * 1024, "{name}");
    }
}

#[test]
fn a_killed_peer_is_a_failure() {
    let sshd = Sshd::start("");
    let peer = sshd.script("peer", "kill -9 $$");
    for (name, remote) in to_hosts(&sshd, &peer) {
        let end = after_the_end(connect(&remote).unwrap());
        assert!(end.is_some(), "{name}");
    }
}

#[test]
fn a_host_without_clonetool_is_told_apart() {
    let sshd = Sshd::start("");
    for (name, remote) in to_hosts(&sshd, "/nowhere/clonetool").into_iter().take(2) {
        let end = after_the_end(connect(&remote).unwrap());
        let Some(TransportError::AgentMissing { command, .. }) = &end else { panic!("{name}: {end:?}") };
        assert_eq!(command, "/nowhere/clonetool", "{name}");
        assert!(end.unwrap().to_string().contains("--remote-path"), "{name}");
    }
}

#[test]
fn nobody_listening_is_a_connect_error() {
    let sshd = Sshd::start("");
    for (name, mut remote) in to_hosts(&sshd, "/nowhere").into_iter().take(2) {
        remote.port = Some(sshd::free_port());
        let end = refusal(&remote);
        assert!(matches!(end, TransportError::Connect { .. }), "{name}: {end:?}");
        assert!(end.to_string().contains("refused"), "{name}: {end}");
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let sshd = Sshd::start("");
    let mut remote = sshd.remote(TransportKind::Auto, "x");
    remote.remote_shell = Some(vec!["/nowhere/rsh".into()]);
    let end = refusal(&remote);
    assert!(matches!(&end, TransportError::NoSshProgram { program } if program == "/nowhere/rsh"), "{end:?}");
}

#[test]
fn a_dropped_stream_leaves_no_process() {
    let sshd = Sshd::start("");
    let note = sshd.path("pid");
    let peer = sshd.script("peer", &format!("echo $$ > {}; echo up; exec cat", note.display()));
    for (name, remote) in to_hosts(&sshd, &peer) {
        let mut stream = connect(&remote).unwrap();
        let mut up = [0; 3];
        stream.reader.read_exact(&mut up).unwrap();
        let pid = std::fs::read_to_string(&note).unwrap();
        let process = std::path::PathBuf::from(format!("/proc/{}", pid.trim()));
        assert!(process.exists(), "{name}");
        drop(stream);
        // sshd needs a moment to notice.
        let deadline = Instant::now() + Duration::from_secs(20);
        while process.exists() {
            assert!(Instant::now() < deadline, "{name}: the peer lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Reads to the end, as a session would, and asks the transport.
fn after_the_end(mut stream: ByteStream) -> Option<TransportError> {
    drop(stream.writer);
    std::io::copy(&mut stream.reader, &mut std::io::sink()).unwrap();
    (stream.finish)()
}

/// Why a connection is refused, at once or after the stream ended.
fn refusal(remote: &Remote) -> TransportError {
    match connect(remote) {
        Err(error) => error,
        Ok(stream) => after_the_end(stream).expect("this must not connect"),
    }
}
