//! Looks for blocks of the basis at any offset of the source.
//!
//! Why apart: this is what an insertion costs, and it is some times slower than comparing at known places. What can go
//! wrong: crafted data that makes every offset worth a strong hash; their number is bounded by the bytes searched.

use rayon::prelude::*;

use super::BlockSums;
use super::rolling::Rolling;
use super::sums::{BLOCK_BYTES, strong};

/// [`BLOCK_BYTES`] as the rolling sum counts.
const BLOCK_WIDTH: u32 = 64 * 1024;

/// How many blocks with the same weak sum are tried at one offset.
const CANDIDATES: usize = 8;

/// Offsets that one thread looks at; each begins by summing a whole block.
const TASK_OFFSETS: usize = 256 * 1024;

/// One strong hash for so many offsets is more than honest data needs, but for the first few.
const OFFSETS_PER_HASH: usize = 4096;

/// The basis' whole blocks by weak sum.
pub(super) struct Index {
    by_weak: Vec<(u32, u32)>,
    /// A bit for each value of 20 bits of the weak sum: most offsets are settled by one look at it.
    filter: Vec<u64>,
}

/// Where a search prefers to find a block, among several that are alike.
#[derive(Clone, Copy)]
pub(super) struct Preference {
    /// The offset in the basis that the first byte searched had if nothing had been inserted or removed.
    pub(super) basis: u64,
}

impl Index {
    pub(super) fn new(sums: &BlockSums) -> Self {
        let mut by_weak: Vec<(u32, u32)> = (0..sums.whole())
            .map(|block| (sums.weak(block), u32::try_from(block).unwrap_or(u32::MAX)))
            .collect();
        by_weak.sort_unstable();
        let mut filter = vec![0; 1 << 14];
        for (weak, _) in &by_weak {
            filter[(weak >> 6 & 0x3fff) as usize] |= 1 << (weak & 63);
        }
        Self { by_weak, filter }
    }

    fn may_have(&self, weak: u32) -> bool {
        self.filter[(weak >> 6 & 0x3fff) as usize] & 1 << (weak & 63) != 0
    }

    /// The blocks with this weak sum from block `from` on.
    fn candidates(&self, weak: u32, from: u32) -> impl Iterator<Item = usize> {
        let start = self.by_weak.partition_point(|entry| *entry < (weak, from));
        let same = self.by_weak[start..].iter().take(CANDIDATES);
        same.take_while(move |(other, _)| *other == weak).map(|(_, block)| *block as usize)
    }

    /// The first place in `bytes` where a block of the basis begins, at most `offsets` from the start, and that block.
    pub(super) fn find(
        &self,
        bytes: &[u8],
        offsets: usize,
        sums: &BlockSums,
        preference: Preference,
    ) -> Option<(usize, usize)> {
        let offsets = offsets.min((bytes.len() + 1).saturating_sub(BLOCK_BYTES));
        let tasks: Vec<usize> = (0..offsets).step_by(TASK_OFFSETS).collect();
        tasks.into_par_iter().find_map_first(|start| {
            let count = TASK_OFFSETS.min(offsets - start);
            let end = start + count + BLOCK_BYTES - 1;
            let basis = preference.basis + start as u64;
            let found = self.find_here(&bytes[start..end], sums, Preference { basis })?;
            Some((start + found.0, found.1))
        })
    }

    fn find_here(&self, bytes: &[u8], sums: &BlockSums, preference: Preference) -> Option<(usize, usize)> {
        let mut hashes_left = bytes.len() / OFFSETS_PER_HASH + 16;
        let mut rolling = Rolling::of(bytes.get(..BLOCK_BYTES)?);
        let mut look = |offset: usize, weak: u32| {
            if hashes_left == 0 {
                return None;
            }
            let likely = preference.basis + offset as u64;
            let from = u32::try_from(likely / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
            let mut candidates = self.candidates(weak, from).chain(self.candidates(weak, 0)).peekable();
            candidates.peek()?;
            hashes_left -= 1;
            let hash = strong(&bytes[offset..offset + BLOCK_BYTES]);
            candidates.find(|block| *sums.strong(*block) == hash).map(|block| (offset, block))
        };
        let found = look(0, rolling.weak());
        if found.is_some() {
            return found;
        }
        for (offset, (out, new)) in bytes.iter().zip(&bytes[BLOCK_BYTES..]).enumerate() {
            rolling.roll(BLOCK_WIDTH, *out, *new);
            let weak = rolling.weak();
            if self.may_have(weak)
                && let Some(found) = look(offset + 1, weak)
            {
                return Some(found);
            }
        }
        None
    }
}
