//! A real sshd on loopback with keys, accounts and configuration of its own, gone when dropped.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use syncore::wire::{Remote, TransportKind};
use tempfile::TempDir;

pub(crate) struct Sshd {
    child: Child,
    pub(crate) directory: TempDir,
    pub(crate) port: u16,
}

impl Sshd {
    /// `extra` are further lines of its configuration.
    pub(crate) fn start(extra: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("sshd").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, kind) in [("host_ed25519", "ed25519"), ("host_rsa", "rsa"), ("host_ecdsa", "ecdsa")] {
            keygen(&at(name), kind, "");
        }
        keygen(&at("id"), "ed25519", "");
        std::fs::copy(at("id.pub"), at("authorized_keys")).unwrap();
        let _ = std::fs::create_dir_all("/run/sshd");
        for _ in 0..5 {
            let port = free_port();
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\nMaxStartups 100\n\
                 PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nUseDNS no\n\
                 AuthorizedKeysFile {}\nHostKey {}\nHostKey {}\nHostKey {}\n{extra}\n",
                at("authorized_keys").display(),
                at("host_ed25519").display(),
                at("host_rsa").display(),
                at("host_ecdsa").display(),
            );
            std::fs::write(at("config"), config).unwrap();
            if let Some(child) = listen(&at("config")) {
                let sshd = Self { child, directory, port };
                sshd.write("known_hosts", &sshd.line_for("host_ed25519.pub"));
                return sshd;
            }
        }
        panic!("sshd found no free port");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A program to run on "the other host" in place of clonetool.
    pub(crate) fn script(&self, name: &str, body: &str) -> String {
        let path = self.write(name, &format!("#!/bin/sh\n{body}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Type and key of a public key file.
    pub(crate) fn public(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// The line of known_hosts that vouches for a key.
    pub(crate) fn line_for(&self, public: &str) -> String {
        format!("[127.0.0.1]:{} {}\n", self.port, self.public(public))
    }

    /// As ssh-keygen prints it.
    pub(crate) fn fingerprint(&self, name: &str) -> String {
        let output = run(Command::new("ssh-keygen").arg("-lf").arg(self.path(name)));
        output.split(' ').nth(1).unwrap().to_owned()
    }

    pub(crate) fn remote(&self, transport: TransportKind, remote_path: &str) -> Remote {
        Remote {
            host: "127.0.0.1".into(),
            user: Some(run(Command::new("id").arg("-un")).trim().to_owned()),
            port: Some(self.port),
            identity: Some(self.path("id")),
            known_hosts: Some(self.path("known_hosts")),
            remote_shell: None,
            remote_path: Some(remote_path.into()),
            transport,
            connect_timeout: Duration::from_secs(20),
            home: None,
            agent_socket: None,
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An ssh-agent that holds one key, gone when dropped.
pub(crate) struct Agent(Child);

impl Agent {
    pub(crate) fn start(socket: &Path, key: &Path) -> Self {
        let mut agent = Command::new("ssh-agent");
        let mut child = agent.arg("-D").arg("-a").arg(socket).stdout(Stdio::piped()).spawn().unwrap();
        // It prints where it listens once it does.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        run(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", socket));
        Self(child)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn keygen(file: &Path, kind: &str, passphrase: &str) {
    run(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", passphrase, "-C", "test", "-f"]).arg(file));
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// None when the port was taken meanwhile.
fn listen(config: &Path) -> Option<Child> {
    // sshd executes itself for each connection and so wants its whole path.
    let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/lib/ssh/sshd"];
    let sshd = sshd.into_iter().find(|path| Path::new(path).exists());
    let sshd = sshd.expect("these tests need sshd: apt-get install openssh-server openssh-client");
    let mut command = Command::new(sshd);
    command.args(["-D", "-e", "-f"]).arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    loop {
        let before = said.len();
        if log.read_line(&mut said).unwrap() == 0 {
            child.wait().unwrap();
            assert!(said.contains("Address already in use"), "sshd does not start: {said}");
            return None;
        }
        if said[before..].contains("Server listening on") {
            break;
        }
    }
    std::thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            let _ = writeln!(std::io::sink(), "{line}");
        }
    });
    Some(child)
}
