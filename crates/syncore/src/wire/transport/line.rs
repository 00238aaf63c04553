//! Calls into libssh2 that do not block, made in the order it demands.
//!
//! Why: a packet that left by half must be completed by the very call that began it, with the same bytes, before
//! anything else is sent. What can go wrong: any other call in between stalls the session, or breaks it; so all calls
//! go through [`Line::attempt`], which lets none through that may not be made now.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::time::Instant;

use ssh2::{BlockDirections, Channel, Session};

const BUFFER_BYTES: usize = 256 << 10;

/// Bytes on their way. Filled only when empty, never moved: libssh2 wants a call that could not complete to be made
/// again with the same bytes.
pub(super) struct Buffer {
    pub(super) bytes: Box<[u8]>,
    pub(super) filled: Range<usize>,
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES].into_boxed_slice(), filled: 0..0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.filled.clone()]
    }
}

/// The calls that may send something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    ReadStderr,
    Write,
    SendEnd,
    AwaitClose,
}

/// A session in non-blocking mode with its one channel.
pub(super) struct Line {
    pub(super) session: Session,
    pub(super) channel: Channel,
    /// The call that has a packet out by half. Until it is through no other may be made.
    pub(super) half: Option<Call>,
    /// When the network last took or gave something.
    pub(super) heard: Instant,
}

impl Line {
    pub(super) fn new(session: Session, channel: Channel) -> Self {
        session.set_blocking(false);
        Self { session, channel, half: None, heard: Instant::now() }
    }

    /// Makes a call; none when it would block.
    pub(super) fn attempt<T>(
        &mut self,
        call: Call,
        make: impl FnOnce(&mut Channel) -> io::Result<T>,
    ) -> Result<Option<T>, String> {
        if self.half.is_some_and(|half| half != call) {
            return Ok(None);
        }
        match make(&mut self.channel) {
            Ok(value) => {
                self.half = None;
                self.heard = Instant::now();
                Ok(Some(value))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let directions = self.session.block_directions();
                let outbound = matches!(directions, BlockDirections::Outbound | BlockDirections::Both);
                self.half = outbound.then_some(call);
                Ok(None)
            }
            Err(error) => Err(crate::tree::escape(error.to_string().as_bytes())),
        }
    }
}
