//! Where the agent is to run, and the checks that keep a name from becoming an option or a shell command.
//!
//! Why: host and user come from a command line or a profile and end in the argument list of `ssh`, perhaps in the
//! `ProxyCommand` of its configuration; the path of clonetool ends in a shell on the other side. What can go wrong:
//! `-oProxyCommand=…` as a host, a quote or a space in a user. Every such argument is refused, none is quoted.

use std::path::PathBuf;
use std::time::Duration;

use super::TransportError;
use crate::tree::escape;

/// Which transport to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportKind {
    /// The system `ssh` where there is one, else the built-in one.
    #[default]
    Auto,
    /// The system `ssh`: it honours ssh_config, ProxyJump, certificates and hardware keys.
    Ssh,
    /// The built-in client, libssh2.
    Ssh2,
}

/// A host on which an agent is to be started, and how to get there.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Host name or address, as ssh understands it.
    pub host: String,
    /// The account there.
    pub user: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// A private key file.
    pub identity: Option<PathBuf>,
    /// The file of known host keys.
    pub known_hosts: Option<PathBuf>,
    /// The command in place of `ssh`, split into words (`-e`).
    pub remote_shell: Option<Vec<String>>,
    /// The path of clonetool on that host.
    pub remote_path: Option<String>,
    /// Which transport.
    pub transport: TransportKind,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// The home directory of the caller, for `~/.ssh` (the library reads no environment).
    pub home: Option<PathBuf>,
    /// `SSH_AUTH_SOCK` of the caller, for the built-in client.
    pub agent_socket: Option<PathBuf>,
}

impl Remote {
    /// The words of the command that is run on the host.
    pub(super) fn command(&self) -> [&str; 2] {
        [self.remote_path.as_deref().unwrap_or("clonetool"), "agent"]
    }

    /// Refuses what `ssh` or a shell could take for something else than a name.
    pub(super) fn check(&self) -> Result<(), TransportError> {
        // Brackets, braces and the like never occur in a name; OpenSSH refuses most of them since 9.6 itself.
        word("host", &self.host, |c| c.is_ascii_alphanumeric() || ".-_:%".contains(c))?;
        if let Some(user) = &self.user {
            word("user", user, |c| !(c.is_whitespace() || "'`\";&<>|(){}$/*?!".contains(c)))?;
        }
        if let Some(path) = &self.remote_path {
            word("remote path", path, |c| c.is_ascii_alphanumeric() || "_./+~-".contains(c))?;
        }
        if self.port == Some(0) {
            return Err(TransportError::BadRemote("port 0 cannot be connected to".into()));
        }
        if self.remote_shell.as_ref().is_some_and(|words| words.first().is_none_or(String::is_empty)) {
            return Err(TransportError::BadRemote("the remote shell command is empty".into()));
        }
        Ok(())
    }
}

fn word(what: &str, value: &str, allowed: impl Fn(char) -> bool) -> Result<(), TransportError> {
    let shown = escape(value.as_bytes());
    if value.is_empty() {
        return Err(TransportError::BadRemote(format!("the {what} is empty")));
    }
    if value.starts_with('-') {
        return Err(TransportError::BadRemote(format!("the {what} {shown} begins with -")));
    }
    match value.chars().find(|&c| c.is_control() || !allowed(c)) {
        Some(c) => {
            let c = escape(c.to_string().as_bytes());
            Err(TransportError::BadRemote(format!("the {what} {shown} contains the character '{c}'")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(host: &str) -> Remote {
        Remote {
            host: host.into(),
            user: None,
            port: None,
            identity: None,
            known_hosts: None,
            remote_shell: None,
            remote_path: None,
            transport: TransportKind::Auto,
            connect_timeout: Duration::from_secs(1),
            home: None,
            agent_socket: None,
        }
    }

    #[test]
    fn names_that_could_be_options_or_commands_are_refused() {
        for host in ["", "-oProxyCommand=id", "a b", "a\nb", "$(id)", "a;b", "a'b", "a@b", "a\u{1b}b"] {
            assert!(remote(host).check().is_err(), "{host:?}");
        }
        for host in ["a", "a.example.org", "10.0.0.1", "fe80::1%eth0", "my_host-2"] {
            assert!(remote(host).check().is_ok(), "{host:?}");
        }
        for user in ["", "-l", "a b", "a`b", "a\u{9b}", "a/b"] {
            assert!(Remote { user: Some(user.into()), ..remote("h") }.check().is_err(), "{user:?}");
        }
        for user in ["root", "DOMAIN\\user", "user@example.org", "svc-backup$x".trim_end_matches("$x")] {
            assert!(Remote { user: Some(user.into()), ..remote("h") }.check().is_ok(), "{user:?}");
        }
        for path in ["", "-x", "a b", "/a;b", "/a'b", "$HOME/x"] {
            assert!(Remote { remote_path: Some(path.into()), ..remote("h") }.check().is_err(), "{path:?}");
        }
        assert!(Remote { remote_path: Some("~/bin/clonetool-1.0+x".into()), ..remote("h") }.check().is_ok());
        assert!(Remote { remote_shell: Some(vec![]), ..remote("h") }.check().is_err());
    }
}
