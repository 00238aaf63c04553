//! Whom the transports trust, with which key they come, and what they say when they refuse.

use std::io::Read;
use std::net::TcpListener;
use std::process::Command;

use syncore::wire::{Remote, TransportError, TransportKind, connect};

use super::sshd::{Agent, Sshd, keygen, run};
use super::{flood, refusal};

const BOTH: [TransportKind; 2] = [TransportKind::Ssh, TransportKind::Ssh2];

fn accepted(remote: &Remote) {
    flood("trusted", connect(remote).unwrap(), 4096, 4096);
}

#[test]
fn an_unknown_host_is_refused() {
    let sshd = Sshd::start("");
    sshd.write("known_hosts", "");
    for kind in BOTH {
        let error = refusal(&sshd.remote(kind, "x"));
        let TransportError::HostKeyUnknown { host, key, file } = &error else {
            panic!("{kind:?}: {error:?}")
        };
        assert_eq!(*host, format!("[127.0.0.1]:{}", sshd.port));
        assert_eq!(*file, sshd.path("known_hosts").to_str().unwrap());
        if kind == TransportKind::Ssh2 {
            assert_eq!(*key, format!("ssh-ed25519 {}", sshd.fingerprint("host_ed25519.pub")));
        }
        assert!(error.to_string().contains("ssh-keygen -lf"), "{error}");
    }
}

#[test]
fn a_changed_key_is_refused_naming_both() {
    let sshd = Sshd::start("");
    keygen(&sshd.path("old"), "ed25519", "");
    sshd.write("known_hosts", &format!("# fleet\n{}", sshd.line_for("old.pub")));
    for kind in BOTH {
        let error = refusal(&sshd.remote(kind, "x"));
        let TransportError::HostKeyChanged { offered, known, place, .. } = &error else {
            panic!("{kind:?}: {error:?}")
        };
        assert!(offered.ends_with(&sshd.fingerprint("host_ed25519.pub")), "{kind:?}: {offered}");
        assert!(known.ends_with(&sshd.fingerprint("old.pub")), "{kind:?}: {known}");
        assert_eq!(*place, format!("{}:2", sshd.path("known_hosts").display()), "{kind:?}");
    }
}

#[test]
fn the_kind_of_key_on_record_is_asked_for() {
    let sshd = Sshd::start("");
    let echo = sshd.script("echo", "exec cat");
    for key in ["host_rsa.pub", "host_ecdsa.pub", "host_ed25519.pub"] {
        sshd.write("known_hosts", &sshd.line_for(key));
        for kind in BOTH {
            accepted(&sshd.remote(kind, &echo));
        }
    }
}

#[test]
fn hashed_names_are_understood() {
    let sshd = Sshd::start("");
    let echo = sshd.script("echo", "exec cat");
    run(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(sshd.path("known_hosts")));
    assert!(std::fs::read_to_string(sshd.path("known_hosts")).unwrap().starts_with("|1|"));
    for kind in BOTH {
        accepted(&sshd.remote(kind, &echo));
    }
}

#[test]
fn a_revoked_key_is_refused_though_it_is_on_record_too() {
    let sshd = Sshd::start("");
    let line = sshd.line_for("host_ed25519.pub");
    sshd.write("known_hosts", &format!("{line}@revoked * {}\n", sshd.public("host_ed25519.pub")));
    let error = refusal(&sshd.remote(TransportKind::Ssh, "x"));
    assert!(matches!(error, TransportError::HostKeyRefused { .. }), "{error:?}");
    let error = refusal(&sshd.remote(TransportKind::Ssh2, "x"));
    let TransportError::KnownHosts { place, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*place, format!("{}:2", sshd.path("known_hosts").display()));
}

#[test]
fn a_key_that_the_host_does_not_accept() {
    let sshd = Sshd::start("");
    keygen(&sshd.path("stranger"), "ed25519", "");
    for kind in BOTH {
        let remote = Remote { identity: Some(sshd.path("stranger")), ..sshd.remote(kind, "x") };
        let error = refusal(&remote);
        assert!(matches!(error, TransportError::Auth { .. }), "{kind:?}: {error:?}");
    }
}

#[test]
fn every_usual_kind_of_key_file_is_accepted() {
    let sshd = Sshd::start("");
    let echo = sshd.script("echo", "exec cat");
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let home = sshd.path(kind);
        std::fs::create_dir_all(home.join(".ssh")).unwrap();
        let file = home.join(format!(".ssh/id_{kind}"));
        keygen(&file, kind, "");
        std::fs::copy(file.with_extension("pub"), sshd.path("authorized_keys")).unwrap();
        // Found under the home directory that is given, and nowhere else.
        let remote = sshd.remote(TransportKind::Ssh2, &echo);
        accepted(&Remote { identity: None, home: Some(home), ..remote.clone() });
        accepted(&Remote { identity: Some(file), ..remote.clone() });
        let error = refusal(&Remote { identity: None, ..remote });
        assert!(matches!(error, TransportError::Auth { .. }), "{error:?}");
    }
}

#[test]
fn an_encrypted_key_points_to_the_agent_and_the_agent_serves_it() {
    let sshd = Sshd::start("");
    let echo = sshd.script("echo", "exec cat");
    for (name, pem) in [("openssh", false), ("pem", true)] {
        let key = sshd.path(name);
        keygen(&key, "rsa", "");
        std::fs::copy(key.with_extension("pub"), sshd.path("authorized_keys")).unwrap();
        let socket = sshd.path(&format!("agent-{name}"));
        let _agent = Agent::start(&socket, &key);
        let format: &[&str] = if pem { &["-m", "PEM"] } else { &[] };
        let mut change = Command::new("ssh-keygen");
        run(change.args(["-q", "-p", "-P", "", "-N", "secret"]).args(format).arg("-f").arg(&key));
        let remote = Remote { identity: Some(key.clone()), ..sshd.remote(TransportKind::Ssh2, &echo) };
        let error = refusal(&remote);
        assert!(matches!(&error, TransportError::KeyEncrypted { file } if *file == key), "{error:?}");
        assert!(error.to_string().contains("ssh-add"), "{error}");
        accepted(&Remote { agent_socket: Some(socket.clone()), ..remote.clone() });
        accepted(&Remote { agent_socket: Some(socket), identity: None, ..remote });
    }
}

#[test]
fn a_host_that_is_an_option_is_refused_before_anything_runs() {
    let sshd = Sshd::start("");
    let touched = sshd.path("touched");
    for kind in [TransportKind::Auto, TransportKind::Ssh, TransportKind::Ssh2] {
        let host = format!("-oProxyCommand=touch${{IFS}}{}", touched.display());
        let error = refusal(&Remote { host, ..sshd.remote(kind, "x") });
        assert!(matches!(error, TransportError::BadRemote(_)), "{error:?}");
    }
    assert!(!touched.exists());
}

/// Lengths that libssh2 once took at their word, before any key was checked.
#[test]
fn a_hostile_server_gets_an_error() {
    let sshd = Sshd::start("");
    for length in [u32::MAX, 0x7fff_ffff, 0, 1, 40_001] {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || {
            let (mut tcp, _) = server.accept().unwrap();
            let mut bytes = b"SSH-2.0-OpenSSH_9.9\r\n".to_vec();
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&[0xff; 8192]);
            std::io::Write::write_all(&mut tcp, &bytes).unwrap();
            // Held open: the length alone must be the reason.
            let _ = std::io::copy(&mut tcp.take(1 << 20), &mut std::io::sink());
        });
        let timeout = std::time::Duration::from_secs(3);
        let remote = sshd.remote(TransportKind::Ssh2, "x");
        let error = refusal(&Remote { port: Some(port), connect_timeout: timeout, ..remote });
        assert!(matches!(error, TransportError::Connect { .. }), "{length:#x}: {error:?}");
        serving.join().unwrap();
    }
}
