//! The sender's questions about single regions of a basis.
//!
//! Why: the second level of a delta needs fine sums of just the regions that differ; asking while the first level is
//! still looking hides the round trip, asking too far ahead would fill both directions at once.

use std::collections::VecDeque;

use crate::delta::{Region, RegionSums};
use crate::session::send::Lane;
use crate::wire::{Message, WireError};

/// How many regions are refined by one message, and how many bytes they have together at most. The answer is one frame.
const REFINE_REGIONS: usize = 64;
const REFINE_BYTES: u64 = 8 << 20;

/// A question waits for company until so much of the source was looked at.
const COMPANY_BYTES: u64 = 8 << 20;

/// An answer is waited for when so much of the source was looked at since it was asked for: it should be there, and the
/// receiver is not to be idle.
const DUE_BYTES: u64 = 32 << 20;

/// How many messages are unanswered at most; fewer than the frames that a lane may hold.
const AHEAD: usize = 6;

/// Asks for the sums of a file's gaps, some messages ahead of their use.
pub(super) struct Refinements {
    number: u32,
    batch: Vec<Region>,
    batch_bytes: u64,
    /// How much of the source was looked at, and at which point the batch begins.
    looked_bytes: u64,
    batch_from: u64,
    /// How many regions each message asks about, and from when on its answer is due.
    outstanding: VecDeque<(usize, u64)>,
    ready: VecDeque<RegionSums>,
}

impl Refinements {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            batch: Vec::new(),
            batch_bytes: 0,
            looked_bytes: 0,
            batch_from: 0,
            outstanding: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    /// Will ask about one region more.
    pub(super) fn ask(&mut self, region: Region, lane: &mut Lane<'_>) -> Result<(), WireError> {
        let bytes = u64::from(region.length);
        if self.batch.len() >= REFINE_REGIONS || self.batch_bytes + bytes > REFINE_BYTES {
            self.flush(lane)?;
        }
        if self.batch.is_empty() {
            self.batch_from = self.looked_bytes;
        }
        self.batch.push(region);
        self.batch_bytes += bytes;
        Ok(())
    }

    /// So much more of the source has been looked at.
    pub(super) fn looked(&mut self, bytes: u64, lane: &mut Lane<'_>) -> Result<(), WireError> {
        self.looked_bytes = self.looked_bytes.saturating_add(bytes);
        if self.looked_bytes - self.batch_from >= COMPANY_BYTES { self.flush(lane) } else { Ok(()) }
    }

    fn flush(&mut self, lane: &mut Lane<'_>) -> Result<(), WireError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        while self.outstanding.len() >= AHEAD {
            self.receive(lane)?;
        }
        let batch = std::mem::take(&mut self.batch);
        self.outstanding.push_back((batch.len(), self.looked_bytes.saturating_add(DUE_BYTES)));
        lane.send(Message::Refine(self.number, batch))
    }

    /// Whether an answer is there, or is to be waited for before more is asked.
    pub(super) fn is_due(&self) -> bool {
        let overdue = self.outstanding.front().is_some_and(|(_, due)| self.looked_bytes >= *due);
        !self.ready.is_empty() || self.outstanding.len() >= AHEAD || overdue
    }

    /// The next answer.
    pub(super) fn next(&mut self, lane: &mut Lane<'_>) -> Result<RegionSums, WireError> {
        if self.ready.is_empty() && self.outstanding.is_empty() {
            self.flush(lane)?;
        }
        if self.ready.is_empty() {
            self.receive(lane)?;
        }
        self.ready.pop_front().ok_or_else(|| WireError::Protocol("too few regions are answered".to_owned()))
    }

    fn receive(&mut self, lane: &mut Lane<'_>) -> Result<(), WireError> {
        let Some((expected, _)) = self.outstanding.pop_front() else { return Ok(()) };
        let mut received = 0;
        loop {
            match lane.incoming.receive(lane.transfer.monitor)? {
                Message::Refined(sums, more) => {
                    received += sums.len();
                    self.ready.extend(sums);
                    if received > expected || (!more && received < expected) {
                        return Err(WireError::Protocol(
                            "the number of regions answered is wrong".to_owned(),
                        ));
                    }
                    if !more {
                        return Ok(());
                    }
                }
                _ => return Err(WireError::Protocol("no answer about regions".to_owned())),
            }
        }
    }

    /// Takes what was asked for and still comes, so that the lane is clear for the next file.
    pub(super) fn drain(&mut self, lane: &mut Lane<'_>) -> Result<(), WireError> {
        while !self.outstanding.is_empty() {
            self.receive(lane)?;
        }
        Ok(())
    }
}
