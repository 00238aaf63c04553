//! Why an agent could not be reached, and the one place that reads the exit status of a transport.
//!
//! Why: the system `ssh` has a single exit status for all that can go wrong, and words for people. A caller needs to
//! tell a changed host key from a missing program. What can go wrong: words nobody foresaw; then they are handed on
//! as they are, escaped, never dropped.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::Remote;

/// Why an agent could not be reached. Text of the peer inside is escaped already.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A host or user that ssh would take for an option, or other unusable input.
    #[error("unusable remote: {0}")]
    BadRemote(String),
    /// There is no `ssh` (or no such remote shell) on this host.
    #[error(
        "there is no program {program} on this host; install an ssh client, or use the built-in one (--transport ssh2)"
    )]
    NoSshProgram {
        /// The program looked for.
        program: String,
    },
    /// The built-in client is not part of this build.
    #[error("this build has no built-in ssh client; use the system one (--transport ssh)")]
    NotBuilt,
    /// Something on this host failed: a pipe, a process, a thread.
    #[error("cannot {action}: {source}")]
    Local {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No connection came about.
    #[error("cannot connect to {host}: {detail}; check name, port and firewall, and that sshd runs there")]
    Connect {
        /// Host, with the port where one was asked for.
        host: String,
        /// What ssh or the system said.
        detail: String,
    },
    /// Nobody vouched for the host's key.
    #[error(
        "the host key of {host} is not known: {key}; compare it on the host with `ssh-keygen -lf \
         /etc/ssh/ssh_host_ed25519_key.pub` (or the file of that key type), then add it to {file}"
    )]
    HostKeyUnknown {
        /// Host, with the port if it is not 22.
        host: String,
        /// Type and SHA256 fingerprint of the key that the host showed, as far as the transport tells.
        key: String,
        /// The file to add it to.
        file: String,
    },
    /// The host shows another key than the one on record.
    #[error(
        "the host key of {host} changed: it shows {offered}, but {place} records {known}; either the host was \
         reinstalled or someone sits in between. Compare on the host's console with `ssh-keygen -lf \
         /etc/ssh/ssh_host_ed25519_key.pub` (or the file of that key type) before touching {place}"
    )]
    HostKeyChanged {
        /// Host, with the port if it is not 22.
        host: String,
        /// Type and SHA256 fingerprint of the key that the host showed.
        offered: String,
        /// Type and SHA256 fingerprint of the recorded one.
        known: String,
        /// File and line of the record.
        place: String,
    },
    /// The host's key was refused for another reason, in ssh's words.
    #[error("the host key of {host} was refused: {detail}")]
    HostKeyRefused {
        /// Host, with the port where one was asked for.
        host: String,
        /// What ssh said.
        detail: String,
    },
    /// A file of known host keys that cannot be read or says something the built-in client cannot honour.
    #[error("{place}: {reason}; use the system ssh (--transport ssh), or another file (--known-hosts FILE)")]
    KnownHosts {
        /// File, and line where there is one.
        place: String,
        /// What it says.
        reason: String,
    },
    /// The host did not let us in.
    #[error(
        "{user}@{host} refused to let us in: {detail}; put the public key into its authorized_keys, and name the key with --identity or load it into the agent"
    )]
    Auth {
        /// The account.
        user: String,
        /// The host.
        host: String,
        /// What was tried.
        detail: String,
    },
    /// A private key with a passphrase; the built-in client asks for none.
    #[error("the key {} is encrypted and nobody can be asked for its passphrase; load it into an ssh-agent (ssh-add {})", file.display(), file.display())]
    KeyEncrypted {
        /// The private key file.
        file: PathBuf,
    },
    /// The host has no clonetool where we looked.
    #[error(
        "there is no {command} on {host} ({detail}); install clonetool there, or say where it is with --remote-path PATH"
    )]
    AgentMissing {
        /// The host.
        host: String,
        /// The program looked for.
        command: String,
        /// What the host said.
        detail: String,
    },
    /// The agent (or the shell around it) ended with a failure.
    #[error("the agent on {host} ended with status {status}{}", behind(stderr))]
    Exit {
        /// The host.
        host: String,
        /// Its exit status.
        status: i32,
        /// The end of its standard error.
        stderr: String,
    },
    /// The agent (or ssh) was killed.
    #[error("the agent on {host} was killed by signal {signal}{}", behind(stderr))]
    Killed {
        /// The host.
        host: String,
        /// The signal, name or number.
        signal: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// The connection came about and was lost.
    #[error(
        "the connection to {host} was lost{}; run the command again, it goes on from what is there",
        behind(detail)
    )]
    Lost {
        /// The host.
        host: String,
        /// What is known about it.
        detail: String,
    },
}

/// What is known besides, if anything is.
fn behind(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// How `remote` is named in messages: with the port where one was asked for.
pub(super) fn shown_host(remote: &Remote) -> String {
    match remote.port {
        Some(port) if port != 22 => format!("[{}]:{port}", remote.host),
        _ => remote.host.clone(),
    }
}

/// What an exit status of the remote command means, none for success. (255 of the system `ssh` is not for here:
/// that is ssh's own.)
pub(super) fn from_status(remote: &Remote, status: i32, stderr: String) -> Option<TransportError> {
    let host = shown_host(remote);
    let command = || remote.command()[0].to_owned();
    // 126 and 127 are the shell's own by POSIX; csh says it with status 1 and these words.
    let missing = matches!(status, 126 | 127) || (status == 1 && stderr.contains("ommand not found"));
    match status {
        0 => None,
        _ if missing => Some(TransportError::AgentMissing { host, command: command(), detail: stderr }),
        _ => Some(TransportError::Exit { host, status, stderr }),
    }
}
