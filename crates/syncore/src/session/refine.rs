//! The sender's questions about single regions of a basis.
//!
//! Why: the second level of a delta needs fine signatures of just the regions that differ; asking a little ahead hides the
//! round trip, asking too far ahead would fill both directions at once.

use std::collections::VecDeque;

use crate::delta::{RegionSignature, Segment};
use crate::session::send::Lane;
use crate::wire::{Message, WireError};

/// How many regions are refined by one message, and how many bytes they have together at most.
const REFINE_REGIONS: usize = 256;
const REFINE_BYTES: u64 = 16 << 20;

/// Asks for the signatures of a file's gaps, two messages ahead of their use.
pub(super) struct Refinements {
    number: u32,
    batches: VecDeque<Vec<(u64, u32)>>,
    outstanding: VecDeque<usize>,
    ready: VecDeque<RegionSignature>,
}

impl Refinements {
    pub(super) fn new(number: u32, segments: &[Segment]) -> Self {
        let mut batches: VecDeque<Vec<(u64, u32)>> = VecDeque::new();
        let mut bytes = 0;
        for segment in segments {
            let Segment::Gap { region: Some(region), .. } = segment else { continue };
            match batches.back_mut() {
                Some(batch) if batch.len() < REFINE_REGIONS && bytes < REFINE_BYTES => batch.push(*region),
                _ => {
                    batches.push_back(vec![*region]);
                    bytes = 0;
                }
            }
            bytes += u64::from(region.1);
        }
        Self { number, batches, outstanding: VecDeque::new(), ready: VecDeque::new() }
    }

    pub(super) fn next(&mut self, lane: &mut Lane<'_>) -> Result<RegionSignature, WireError> {
        while self.outstanding.len() < 2 {
            let Some(batch) = self.batches.pop_front() else { break };
            self.outstanding.push_back(batch.len());
            lane.send(Message::Refine(self.number, batch))?;
        }
        if self.ready.is_empty() {
            self.receive(lane)?;
        }
        self.ready.pop_front().ok_or_else(|| WireError::Protocol("too few signatures".to_owned()))
    }

    fn receive(&mut self, lane: &mut Lane<'_>) -> Result<(), WireError> {
        let Some(expected) = self.outstanding.pop_front() else { return Ok(()) };
        let mut received = 0;
        loop {
            match lane.incoming.receive(lane.transfer.monitor)? {
                Message::Refined(signatures, more) => {
                    received += signatures.len();
                    self.ready.extend(signatures);
                    if received > expected || (!more && received < expected) {
                        return Err(WireError::Protocol("the number of signatures is wrong".to_owned()));
                    }
                    if !more {
                        return Ok(());
                    }
                }
                _ => return Err(WireError::Protocol("no signatures".to_owned())),
            }
        }
    }

    pub(super) fn drain(&mut self, lane: &mut Lane<'_>) -> Result<(), WireError> {
        while !self.outstanding.is_empty() {
            self.receive(lane)?;
        }
        Ok(())
    }
}
