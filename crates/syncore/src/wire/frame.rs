//! What one frame is, and how many lanes they go over.
//!
//! Why: both directions must agree to the byte on what is in front of a payload. What can go wrong: a length that a peer
//! only announces; no frame is longer than [`FRAME_LIMIT_BYTES`].

use std::sync::atomic::{AtomicU64, Ordering};

/// Longest frame, in bytes, before and after decompression.
pub const FRAME_LIMIT_BYTES: usize = 1 << 20;

/// How many frames wait in a lane at most.
pub(super) const LANE_DEPTH: usize = 8;

/// The lane of the conversation; the others carry content.
pub const CONTROL: u8 = 0;

/// How many lanes carry content.
pub const CONTENT_LANES: u8 = 2;

/// All lanes.
pub(super) const LANES: usize = CONTENT_LANES as usize + 1;

/// Set in a frame's flags when its payload is compressed by itself.
pub(super) const COMPRESSED: u8 = 1;

/// Set in a frame's flags when its payload is the next part of its lane's compressed content.
pub(super) const STREAMED: u8 = 2;

/// Length (4, little-endian), lane (1), flags (1).
pub(super) const HEADER_BYTES: usize = 6;

pub(super) fn put_header(frame: &mut [u8], lane: u8, flags: u8) {
    let length = u32::try_from(frame.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    (frame[4], frame[5]) = (lane, flags);
}

/// What crossed the stream, in bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

impl Traffic {
    /// Bytes written to the stream.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes read from the stream.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
