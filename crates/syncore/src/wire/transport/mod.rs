//! Byte streams to a peer: the system `ssh`, the built-in libssh2, or a pair in memory.
//!
//! Why: the engine wants a reader and a writer; who authenticates, which key is trusted and what went wrong is
//! settled here, once, the same for every transport. What can go wrong: a host or user that ssh would take for an
//! option, a key nobody vouched for, a peer without clonetool, a connection that dies half way. Each has its own
//! [`TransportError`], because each has another next step. The remote command is constant: what a shell on the
//! other side sees is never made from file names or profiles.

mod cut;
mod error;
mod memory;
mod remote;
mod ssh;

#[cfg(feature = "ssh2")]
mod auth;
#[cfg(feature = "ssh2")]
mod known_hosts;
#[cfg(feature = "ssh2")]
mod line;
#[cfg(feature = "ssh2")]
mod pump;
#[cfg(feature = "ssh2")]
mod ssh2;

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

pub use error::TransportError;
pub use memory::pair;
pub use remote::{Remote, TransportKind};

/// How long a transport may take to end after both of its streams did. As long as a dead peer stays unnoticed
/// elsewhere: a live one on a slow line needs time for what is still in its buffers.
const FINISH_DEADLINE: Duration = Duration::from_secs(60);

/// How much of the peer's standard error is kept: the end of it, where the reason is.
const STDERR_KEPT_BYTES: usize = 4096;

/// What the pipes between us and a transport should hold; the default of 64 KiB costs a context switch a frame.
const PIPE_BYTES: usize = 1 << 20;

/// A connection to an agent.
///
/// Drop `writer` to tell the peer that no more comes. Dropping all of it ends the transport and leaves no process
/// and no thread behind.
pub struct ByteStream {
    /// What the agent says.
    pub reader: Box<dyn Read + Send>,
    /// What it hears.
    pub writer: Box<dyn Write + Send>,
    /// Call after the stream ended: what the transport itself has to say about a failure (ssh's standard error
    /// and exit status), or none if it ended well. Waits a bounded time for the peer to end.
    pub finish: Box<dyn FnOnce() -> Option<TransportError> + Send>,
    /// Ends reads and writes that wait for the peer, and all that would. It does not wait itself. Where a stream cannot
    /// be ended from this side (an agent's own standard streams) it does nothing, and the peer's end ends them.
    pub abort: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByteStream")
    }
}

/// Starts the agent on `remote` and connects to it.
///
/// The system `ssh` connects in the background: its refusals come out of `finish` after the stream ended at once.
/// The built-in client is connected, authenticated and has started the command when this returns.
///
/// # Errors
/// [`TransportError`], see there.
pub fn connect(remote: &Remote) -> Result<ByteStream, TransportError> {
    remote.check()?;
    // Who names a remote shell wants that one, whatever else is said.
    if remote.remote_shell.is_some() {
        return ssh::connect(remote);
    }
    match remote.transport {
        TransportKind::Ssh => ssh::connect(remote),
        TransportKind::Ssh2 => built_in(remote),
        TransportKind::Auto => match ssh::connect(remote) {
            Err(TransportError::NoSshProgram { .. }) if cfg!(feature = "ssh2") => built_in(remote),
            answer => answer,
        },
    }
}

#[cfg(feature = "ssh2")]
fn built_in(remote: &Remote) -> Result<ByteStream, TransportError> {
    ssh2::connect(remote)
}

#[cfg(not(feature = "ssh2"))]
fn built_in(_remote: &Remote) -> Result<ByteStream, TransportError> {
    Err(TransportError::NotBuilt)
}

/// A pipe as large as the system allows.
fn pipe() -> Result<(PipeReader, PipeWriter), TransportError> {
    let made = std::io::pipe();
    let (reader, writer) =
        made.map_err(|source| TransportError::Local { action: "make a pipe".into(), source })?;
    enlarge(&writer);
    Ok((reader, writer))
}

/// Best effort: over its quota of pipe memory a user keeps the default size, which is slower and still right.
fn enlarge(pipe: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
}

/// The end of a peer's standard error: bounded, so that a chatty or hostile peer costs nothing.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(STDERR_KEPT_BYTES)..];
        let excess = (self.0.len() + bytes.len()).saturating_sub(STDERR_KEPT_BYTES);
        self.0.drain(..excess);
        self.0.extend_from_slice(bytes);
    }

    /// As text for a person: control characters escaped, line ends turned into `; `.
    fn text(&self) -> String {
        let lines = self.0.split(|&b| b == b'\n' || b == b'\r');
        let lines = lines.map(|line| crate::tree::escape(line.trim_ascii())).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_end_and_escapes_it() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; 10_000]);
        tail.push(b"\r\nthe \x1b[31mend\n");
        assert_eq!(tail.0.len(), STDERR_KEPT_BYTES);
        assert!(tail.text().ends_with("x; the \\x1b[31mend"), "{}", tail.text());
    }
}
