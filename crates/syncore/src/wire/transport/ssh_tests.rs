//! What ssh's exit statuses and words are taken for.

use super::*;

fn remote() -> Remote {
    Remote {
        host: "h".into(),
        user: None,
        port: Some(2222),
        identity: None,
        known_hosts: None,
        remote_shell: None,
        remote_path: None,
        transport: super::super::TransportKind::Ssh,
        connect_timeout: Duration::from_secs(7),
        home: None,
        agent_socket: None,
    }
}

fn said(code: i32, words: &str, heard: bool) -> Option<TransportError> {
    let mut tail = Tail::default();
    tail.push(words.as_bytes());
    classify(&remote(), ExitStatus::from_raw(code << 8), &tail, heard)
}

#[test]
fn every_status_has_its_meaning() {
    assert!(said(0, "warning\n", true).is_none());
    assert!(matches!(
        said(127, "sh: 1: clonetool: not found\n", false),
        Some(TransportError::AgentMissing { .. })
    ));
    assert!(matches!(
        said(1, "clonetool: Command not found.\n", false),
        Some(TransportError::AgentMissing { .. })
    ));
    assert!(matches!(said(3, "x", true), Some(TransportError::Exit { status: 3, .. })));
    assert!(matches!(said(255, "client_loop: send disconnect", true), Some(TransportError::Lost { .. })));
    assert!(matches!(said(255, "", false), Some(TransportError::Connect { .. })));
    let denied = "a@h: Permission denied (publickey,password).\r\n";
    assert!(matches!(said(255, denied, false), Some(TransportError::Auth { .. })));
    let unknown = "No ED25519 host key is known for [h]:2222 and you have requested strict checking.\r\n\
                   Host key verification failed.\r\n";
    assert!(matches!(said(255, unknown, false), Some(TransportError::HostKeyUnknown { .. })));
    let killed = classify(&remote(), ExitStatus::from_raw(9), &Tail::default(), false);
    assert!(matches!(killed, Some(TransportError::Killed { .. })));
}

#[test]
fn a_changed_key_is_named_with_its_place() {
    let words = "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n\
        The fingerprint for the ED25519 key sent by the remote host is\nSHA256:abc.\n\
        Please contact your system administrator.\nOffending ED25519 key in /nowhere/known_hosts:3\n\
        Host key verification failed.\r\n";
    let Some(TransportError::HostKeyChanged { offered, place, .. }) = said(255, words, false) else {
        panic!()
    };
    assert_eq!((offered.as_str(), place.as_str()), ("ED25519 SHA256:abc", "/nowhere/known_hosts:3"));
}

#[test]
fn the_command_line_is_constant_and_guarded() {
    let remote = Remote { user: Some("u".into()), known_hosts: Some("/a b/k".into()), ..remote() };
    let command = system_ssh(&remote).unwrap();
    let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
    assert!(words.contains(&"UserKnownHostsFile=\"/a b/k\""));
    assert!(words.contains(&"ConnectTimeout=7"));
    assert_eq!(words[words.len() - 8..], ["-l", "u", "-p", "2222", "--", "h", "clonetool", "agent"]);
    let command = other_shell(&["rsh".into(), "-x".into()], &remote);
    let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
    assert_eq!(words, ["-x", "-l", "u", "-p", "2222", "h", "clonetool", "agent"]);
    assert!(file_option("IdentityFile", Path::new("/a%h")).is_err());
}

/// What the command given in place of ssh does not read fills the pipe; the helper of it holds the pipe open.
#[test]
fn abort_ends_a_write_and_a_read_that_wait_for_a_stopped_child() {
    let words = ["sh", "-c", "sleep 20 & kill -STOP $$"].map(str::to_owned).to_vec();
    let ByteStream { mut reader, mut writer, finish, abort } =
        connect(&Remote { remote_shell: Some(words), ..remote() }).unwrap();
    let started = Instant::now();
    let writing = std::thread::spawn(move || io::Write::write_all(&mut writer, &vec![0; 4 << 20]));
    let reading = std::thread::spawn(move || reader.read(&mut [0; 1]));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!writing.is_finished() && !reading.is_finished());
    abort();
    assert!(writing.join().unwrap().is_err());
    assert!(reading.join().unwrap().is_err());
    drop(finish);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
