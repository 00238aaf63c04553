//! A real sshd on loopback with keys of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{CLONETOOL, run};

/// How the server is set up.
#[derive(Debug, Default, Clone)]
pub(crate) struct SshdOptions {
    /// What the client's key may run, whatever it asks for: `restrict,command="…"`.
    pub(crate) forced_command: Option<String>,
}

/// A running server; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Sshd {
    child: Child,
    dir: PathBuf,
    address: String,
    port: u16,
}

impl Sshd {
    /// Starts a server whose files are in `dir`, which is made.
    pub(crate) fn start(dir: &Path, options: &SshdOptions) -> Self {
        Self::start_at(dir, options, None)
    }

    /// As [`Sshd::start`], in this network namespace and at this address there.
    pub(crate) fn start_inside(dir: &Path, namespace: &str, address: &str) -> Self {
        Self::start_at(dir, &SshdOptions::default(), Some((namespace, address)))
    }

    fn start_at(dir: &Path, options: &SshdOptions, inside: Option<(&str, &str)>) -> Self {
        fs::create_dir_all(dir).expect("make the server's directory");
        fs::create_dir_all("/run/sshd").expect("make the privilege separation directory");
        for key in ["host_key", "client_key", "other_key"] {
            let path = dir.join(key);
            run(
                "ssh-keygen",
                ["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", path.to_str().expect("a path")],
            );
        }
        let client = fs::read_to_string(dir.join("client_key.pub")).expect("read the client's key");
        let restriction = options.forced_command.as_ref().map_or(String::new(), |command| {
            format!("restrict,command=\"{}\" ", command.replace('"', "\\\""))
        });
        fs::write(dir.join("authorized_keys"), format!("{restriction}{client}")).expect("authorized_keys");
        // A port may be taken between its choice and its use: then the server ends, and the next one is tried.
        for _ in 0..10 {
            if let Some(server) = Self::try_start(dir, free_port(), inside) {
                return server;
            }
        }
        let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
        panic!("sshd does not start:\n{log}");
    }

    fn try_start(dir: &Path, port: u16, inside: Option<(&str, &str)>) -> Option<Self> {
        let address = inside.map_or("127.0.0.1", |(_, address)| address);
        let directory = dir.display();
        // Without PAM, sshd refuses an account whose password is locked; with it, it does not.
        let shadow = fs::read_to_string("/etc/shadow").unwrap_or_default();
        let locked = shadow.lines().any(|line| line.starts_with("root:!"));
        let config = format!(
            "Port {port}\nListenAddress {address}\nHostKey {directory}/host_key\n\
             AuthorizedKeysFile {directory}/authorized_keys\nPidFile {directory}/pid\nStrictModes no\nUsePAM {}\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             MaxSessions 64\nMaxStartups 64\nLogLevel VERBOSE\n",
            if locked { "yes" } else { "no" },
        );
        fs::write(dir.join("config"), config).expect("write the configuration");
        let host = fs::read_to_string(dir.join("host_key.pub")).expect("read the host key");
        fs::write(dir.join("known_hosts"), format!("[{address}]:{port} {host}")).expect("known_hosts");
        let other = fs::read_to_string(dir.join("other_key.pub")).expect("read the other key");
        fs::write(dir.join("wrong_known_hosts"), format!("[{address}]:{port} {other}")).expect("known_hosts");
        fs::write(dir.join("empty_known_hosts"), "").expect("known_hosts");
        let log = File::create(dir.join("log")).expect("the server's log");
        let mut command = match inside {
            None => Command::new("/usr/sbin/sshd"),
            Some((namespace, _)) => {
                let mut command = Command::new("ip");
                // It becomes sshd: the process that is stopped is the server.
                command.args(["netns", "exec", namespace, "/usr/sbin/sshd"]);
                command
            }
        };
        let child = command
            .args(["-D", "-e", "-f"])
            .arg(dir.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("run /usr/sbin/sshd (package openssh-server)");
        // Dropped on the way out when it does not come up: killed and waited for.
        let mut server = Self { child, dir: dir.to_owned(), address: address.to_owned(), port };
        server.comes_up().then_some(server)
    }

    /// Waits until the server takes connections; false when it ended instead.
    fn comes_up(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.child.try_wait().expect("wait").is_some() {
                return false;
            }
            if TcpStream::connect((&self.address[..], self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The client's private key.
    pub(crate) fn identity(&self) -> PathBuf {
        self.dir.join("client_key")
    }

    /// A known_hosts file with this server's key.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// One with another key for this server.
    pub(crate) fn wrong_known_hosts(&self) -> PathBuf {
        self.dir.join("wrong_known_hosts")
    }

    /// One that does not know this server.
    pub(crate) fn empty_known_hosts(&self) -> PathBuf {
        self.dir.join("empty_known_hosts")
    }

    /// The SHA-256 fingerprint of the server's key, as ssh prints it; of the wrong one when `other`.
    pub(crate) fn fingerprint(&self, other: bool) -> String {
        let key = self.dir.join(if other { "other_key.pub" } else { "host_key.pub" });
        let listed = run("ssh-keygen", ["-l", "-f", key.to_str().expect("a path")]);
        listed.split_whitespace().nth(1).expect("a fingerprint").to_owned()
    }

    /// What the command line needs to reach this server and to find clonetool there.
    pub(crate) fn args(&self) -> Vec<OsString> {
        self.args_with(&self.known_hosts(), CLONETOOL)
    }

    /// As [`Sshd::args`] with another known_hosts file and remote program.
    pub(crate) fn args_with(&self, known_hosts: &Path, remote_program: &str) -> Vec<OsString> {
        vec![
            "-i".into(),
            self.identity().into(),
            "-p".into(),
            self.port.to_string().into(),
            "--known-hosts".into(),
            known_hosts.into(),
            "--remote-path".into(),
            remote_program.into(),
        ]
    }

    /// `root@ADDRESS:PATH`.
    pub(crate) fn remote(&self, path: &Path) -> OsString {
        let mut remote = OsString::from(format!("root@{}:", self.address));
        remote.push(path);
        remote
    }

    /// The `ssh` command, for rsync's `-e`.
    pub(crate) fn rsh(&self) -> String {
        format!(
            "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile={} -i {} -p {}",
            self.known_hosts().display(),
            self.identity().display(),
            self.port,
        )
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
    listener.local_addr().expect("address").port()
}
