//! Byte streams to a peer: the system `ssh`, the built-in `ssh2`, or a pair in memory.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

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

/// A connection to an agent.
pub struct ByteStream {
    /// What the agent says.
    pub reader: Box<dyn Read + Send>,
    /// What it hears.
    pub writer: Box<dyn Write + Send>,
    /// Call after the stream ended: what the transport itself has to say about a failure (ssh's standard error
    /// and exit status), or none if it ended well.
    pub finish: Box<dyn FnOnce() -> Option<TransportError> + Send>,
}

/// Why an agent could not be reached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A host or user that ssh would take for an option, or other unusable input.
    #[error("unusable remote: {0}")]
    BadRemote(String),
}

/// Starts the agent on `remote` and connects to it.
///
/// # Errors
/// [`TransportError`], see there.
pub fn connect(_remote: &Remote) -> Result<ByteStream, TransportError> {
    Err(TransportError::BadRemote(String::new()))
}
