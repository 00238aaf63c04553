//! Messages, frames, limits, and the byte transports that carry them.
//!
//! Why: everything that crosses to the other end is defined here, so that it can be bounded, checked and written
//! down (`doc/protocol.md`). What can go wrong: a hostile or broken peer, a login script that prints, a version that
//! is not ours; each is an error that names itself.

mod compress;
mod connection;
mod frame;
mod greeting;
mod incoming;
mod message;
mod outgoing;
mod state;
mod transport;

pub use connection::Connection;
pub use frame::{CONTENT_LANES, CONTROL, FRAME_LIMIT_BYTES, Traffic};
pub use greeting::PROTOCOL_VERSION;
pub use incoming::Incoming;
pub use message::{
    Answer, Extra, Facts, Failure, Message, MovedFile, Open, Part, Question, Recovery, SmallFile, Start,
};
pub use outgoing::Outgoing;
pub use transport::{ByteStream, Remote, TransportError, TransportKind, connect, pair};

use thiserror::Error;

/// How frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd at a level that suits the link.
    Auto,
    /// Never.
    Off,
    /// zstd at this level, 1 to 19.
    Level(i32),
}

impl Compression {
    /// The level that was asked for.
    const fn fixed_level(self) -> Option<i32> {
        match self {
            Self::Auto | Self::Off => None,
            Self::Level(level) => Some(level),
        }
    }
}

/// Why a connection is of no more use.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The byte stream ended or broke.
    #[error("the connection to the peer was lost: {0}")]
    Lost(String),
    /// What answered is no agent.
    #[error("what answered is no clonetool agent; it said: {heard}")]
    NoAgent {
        /// Its first bytes, escaped.
        heard: String,
    },
    /// The peer speaks another version.
    #[error("versions do not match: here {ours}, there {theirs}")]
    Version {
        /// This end's.
        ours: String,
        /// The peer's.
        theirs: String,
    },
    /// The peer said something that no honest peer says.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// The peer made no progress.
    #[error("the peer made no progress for {seconds} seconds")]
    Timeout {
        /// The deadline.
        seconds: u64,
    },
    /// The transport failed before the agent answered.
    #[error(transparent)]
    Transport(TransportError),
    /// The monitor asked to stop.
    #[error("interrupted")]
    Cancelled,
}
