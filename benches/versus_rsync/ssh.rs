//! A real sshd on the loopback interface, for this run only.
//!
//! Each connection that is accepted gets an `sshd -i`, as under inetd: there is no daemon to wait for or to stop.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::Result;
use crate::link::{self, Link};

/// What the known hosts are known by, whatever the port.
const HOST_KEY_ALIAS: &str = "versus-rsync";

/// A running server, for as long as this process runs.
pub(crate) struct Server {
    client_config: PathBuf,
}

impl Server {
    /// Makes keys and configuration in `directory`, which must be new, and serves on a free port.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = |name: &str| directory.join(name);
        for key in ["host_key", "user_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "versus-rsync", "-f"])
                .arg(path(key))
                .stdin(Stdio::null())
                .status()?;
            if !made.success() {
                return Err("ssh-keygen failed".into());
            }
        }
        let user = command_output("id", &["-un"])?;
        let host_key = std::fs::read_to_string(path("host_key.pub"))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        // A shell that ssh starts may read what the account has in its home (bash does), which takes as long as a run that
        // has nothing to do. That is this account's, and no tool's, so there is a home without it.
        std::fs::create_dir_all(path("home"))?;
        let key = std::fs::read_to_string(path("user_key.pub"))?;
        let authorized = format!("environment=\"HOME={}\" {key}", path("home").display());
        std::fs::write(path("authorized_keys"), authorized)?;
        std::fs::write(path("known_hosts"), format!("{HOST_KEY_ALIAS} {host_key}"))?;
        let directory = directory.display();
        let mut client_config = String::new();
        for link in Link::REMOTE {
            let port = if link == Link::Loopback { port } else { link::open(link, port)? };
            let _ = writeln!(client_config, "Host {}\n Port {port}", link.host().unwrap_or_default());
        }
        let _ = write!(
            client_config,
            "Host *\n HostName 127.0.0.1\n User {user}\n IdentityFile {directory}/user_key\n IdentitiesOnly yes\n \
             UserKnownHostsFile {directory}/known_hosts\n GlobalKnownHostsFile /dev/null\n \
             HostKeyAlias {HOST_KEY_ALIAS}\n StrictHostKeyChecking yes\n BatchMode yes\n ControlMaster no\n \
             ControlPath none\n LogLevel ERROR\n"
        );
        std::fs::write(path("ssh_config"), client_config)?;
        if user == "root" {
            std::fs::create_dir_all("/run/sshd")?;
        }
        let server_config = path("sshd_config");
        let program = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"]
            .into_iter()
            .find(|candidate| Path::new(candidate).exists())
            .ok_or("there is no sshd: install the OpenSSH server")?;
        let log = path("sshd.log");
        let config = server_config.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let served = serve(program, &config, &log, connection);
                if let Err(error) = served {
                    eprintln!("versus-rsync: sshd: {error}");
                }
            }
        });

        let server = Self { client_config: path("ssh_config") };
        // An account with a locked password may log in by key only where PAM judges it.
        for pam in ["no", "yes"] {
            std::fs::write(
                &server_config,
                format!(
                    "HostKey {directory}/host_key\nAuthorizedKeysFile {directory}/authorized_keys\nPidFile none\n\
                     PermitRootLogin prohibit-password\nPasswordAuthentication no\n\
                     KbdInteractiveAuthentication no\nStrictModes no\nPermitUserEnvironment yes\nUsePAM {pam}\nPrintMotd no\n"
                ),
            )?;
            let mut reached = Command::new("ssh");
            reached.arg("-F").arg(&server.client_config).args(Link::Loopback.host()).arg("true");
            if reached.stdin(Stdio::null()).stderr(Stdio::null()).status()?.success() {
                return Ok(server);
            }
        }
        Err(format!("sshd lets nobody in; see {directory}/sshd.log").into())
    }

    /// The words that run ssh as a client of this server.
    pub(crate) fn client(&self) -> String {
        format!("ssh -F {}", self.client_config.display())
    }
}

/// Hands one connection to an sshd of its own.
fn serve(program: &str, config: &Path, log: &Path, connection: TcpStream) -> Result<()> {
    let input = OwnedFd::from(connection);
    let output = input.try_clone()?;
    let mut child = Command::new(program)
        .args(["-i", "-f"])
        .arg(config)
        .arg("-E")
        .arg(log)
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()?;
    thread::spawn(move || child.wait());
    Ok(())
}

/// What a program prints, without the newline.
pub(crate) fn command_output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
