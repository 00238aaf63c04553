//! Messages, frames, limits, and the byte transports that carry them.

mod transport;

pub use transport::{ByteStream, Remote, TransportError, TransportKind, connect, pair};

use thiserror::Error;

/// How frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd, and off where it slows the run.
    Auto,
    /// Never.
    Off,
    /// zstd at this level, 1 to 19.
    Level(i32),
}

/// Why a connection is of no more use.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The byte stream ended or broke.
    #[error("the connection to the peer was lost: {0}")]
    Lost(String),
}
