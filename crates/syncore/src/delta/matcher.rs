//! The sender's side of the first level: which parts of the source the basis already has.
//!
//! One pass from beginning to end, at a *shift*: how far a byte of the source is from its place in the basis. Blocks
//! are compared at the shift that held last, at the speed of hashing. Where many in a row differ, something was
//! inserted or removed: a rolling window looks for any block of the basis, and what it finds is the next shift. Each
//! segment is given away as soon as it is known. What can go wrong: crafted data that leads to one wrong shift after
//! the other; trust in a shift grows with what it has matched, and with it what is read at it without looking further.

use std::collections::VecDeque;
use std::io;

use rayon::prelude::*;

use super::region::REGION_LIMIT_BYTES;
use super::search::{Index, Preference};
use super::sums::{BLOCK_BYTES, TASK_BLOCKS, short};
use super::{BlockSums, ReadAt};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Blocks read, hashed and compared at once, at a shift that has proved right.
const WINDOW_BLOCKS: usize = 64;

/// So many differing blocks in a row are searched for another shift; fewer are left to the second level.
const PATIENCE_BLOCKS: usize = 16;

/// The least trust in a shift: as many blocks are compared before it has to have matched one.
const LEAST_TRUST: usize = 4;

/// Offsets searched at once: few at first, for mostly the next block is not far.
const SEARCH_OFFSETS: std::ops::RangeInclusive<usize> = 128 * 1024..=4 << 20;

/// Pages of a stretch of this many bytes are compared with one question.
const PIECE_BYTES: u64 = 1 << 20;

/// A stretch of the file that is data, not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// A stretch of the source and where its content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// The basis has it.
    Copy {
        /// Where in the source.
        offset: u64,
        /// Where in the basis.
        basis: u64,
        /// How many bytes.
        length: u64,
        /// BLAKE3 of each of the basis' blocks in it.
        hashes: Vec<[u8; 32]>,
    },
    /// It is sent, perhaps against that region of the basis.
    Gap {
        /// Where in the source.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Offset and length of the region that is likely similar; of the same length where it is likely the same but
        /// for some pages.
        region: Option<(u64, u32)>,
    },
    /// A hole.
    Hole {
        /// How many bytes.
        length: u64,
    },
}

/// Compares a source with the sums of the basis, and gives the segments of the whole source in order. An error is the
/// last thing it gives; `UnexpectedEof` when the source is shorter than it should be.
pub struct Matcher<'a, S: ReadAt + ?Sized> {
    source: &'a S,
    extents: &'a [Extent],
    length: u64,
    sums: &'a BlockSums,
    /// Made when it is needed first.
    index: Option<Index>,
    /// Where the next look begins. What is between `gap` and here differs as far as is known.
    position: u64,
    gap: u64,
    /// The end of the extent that `position` is in.
    end: u64,
    /// What to take from an offset of the source to have its place in the basis; may be below zero.
    shift: i64,
    trust: usize,
    /// Blocks in a row that differ.
    missed: usize,
    /// How many offsets are searched next, while no shift holds.
    searching: Option<usize>,
    ready: VecDeque<Segment>,
    window: Vec<u8>,
    failed: bool,
}

impl<'a, S: ReadAt + ?Sized> Matcher<'a, S> {
    /// Begins with a source of `length` bytes, of which only `extents` are data.
    pub fn new(source: &'a S, extents: &'a [Extent], length: u64, sums: &'a BlockSums) -> Self {
        Self {
            source,
            extents,
            length,
            sums,
            index: None,
            position: 0,
            gap: 0,
            end: 0,
            shift: 0,
            trust: WINDOW_BLOCKS,
            missed: 0,
            searching: None,
            ready: VecDeque::new(),
            window: Vec::new(),
            failed: false,
        }
    }

    /// Does the next bit of work; `position` moves on.
    fn step(&mut self) -> io::Result<()> {
        if self.position >= self.end {
            self.close_gap(None);
            self.next_extent();
            return Ok(());
        }
        if self.searching.is_some() {
            return self.search();
        }
        let Some(basis) =
            self.basis_of(self.position).filter(|basis| *basis < self.sums.whole() as u64 * BLOCK)
        else {
            return self.beyond_the_basis();
        };
        if !basis.is_multiple_of(BLOCK) {
            // A block that a hole cuts is left to the second level.
            self.position = (self.position + (BLOCK - basis % BLOCK)).min(self.end);
            return Ok(());
        }
        let block = usize::try_from(basis / BLOCK).unwrap_or(usize::MAX);
        let here = usize::try_from((self.end - self.position) / BLOCK).unwrap_or(usize::MAX);
        let blocks = here.min(self.sums.whole() - block).min(self.trust);
        if blocks == 0 {
            self.position = self.end;
            return Ok(());
        }
        let hashes = self.hash(blocks)?;
        self.compare(block, &hashes);
        Ok(())
    }

    fn next_extent(&mut self) {
        let next = self.extents.split_first();
        let start = next.map_or(self.length, |(extent, _)| extent.offset);
        if start > self.position {
            self.ready.push_back(Segment::Hole { length: start - self.position });
        }
        self.position = start;
        if let Some((extent, rest)) = next {
            self.end = extent.offset + extent.length;
            self.extents = rest;
        }
        (self.gap, self.missed, self.searching) = (self.position, 0, None);
    }

    /// What is at `offset` of the source is there in the basis, as far as is known.
    fn basis_of(&self, offset: u64) -> Option<u64> {
        offset.checked_add_signed(self.shift.checked_neg()?)
    }

    /// There are no whole blocks left at this shift: the last one of the basis, or what has no place there.
    fn beyond_the_basis(&mut self) -> io::Result<()> {
        let last = self.sums.whole();
        let rest = self.sums.length - last as u64 * BLOCK;
        let is_last = self.basis_of(self.position) == Some(last as u64 * BLOCK);
        if is_last && self.sums.count() > last && self.end == self.length && self.end - self.position == rest
        {
            let mut tail = vec![0; usize::try_from(rest).unwrap_or(0)];
            if self.source.read_full_at(self.position, &mut tail)? < tail.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let hash = *blake3::hash(&tail).as_bytes();
            if *self.sums.strong(last) == short(&hash) {
                self.copy(self.position, last, vec![hash], rest);
            }
            self.position = self.end;
            return Ok(());
        }
        if self.sums.whole() > 0 && self.end - self.position >= BLOCK {
            self.searching = Some(*SEARCH_OFFSETS.start());
        } else {
            self.position = self.end;
        }
        Ok(())
    }

    /// The digests of the next `blocks` blocks.
    fn hash(&mut self, blocks: usize) -> io::Result<Vec<[u8; 32]>> {
        let (source, position) = (self.source, self.position);
        self.window.resize(self.window.len().max(blocks * BLOCK_BYTES), 0);
        let mut hashes = vec![[0; 32]; blocks];
        let tasks = self.window[..blocks * BLOCK_BYTES].par_chunks_mut(TASK_BLOCKS * BLOCK_BYTES);
        tasks.zip(hashes.par_chunks_mut(TASK_BLOCKS)).enumerate().try_for_each(
            |(task, (part, hashes))| {
                let offset = position + (task * TASK_BLOCKS * BLOCK_BYTES) as u64;
                if source.read_full_at(offset, part)? < part.len() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                for (block, hash) in part.chunks(BLOCK_BYTES).zip(hashes) {
                    *hash = *blake3::hash(block).as_bytes();
                }
                Ok(())
            },
        )?;
        Ok(hashes)
    }

    /// Compares blocks, beginning with `first` of the basis, with the source from `position` on.
    fn compare(&mut self, first: usize, hashes: &[[u8; 32]]) {
        let same = |index: usize| *self.sums.strong(first + index) == short(&hashes[index]);
        let runs: Vec<(usize, bool)> = (0..hashes.len()).map(same).fold(Vec::new(), |mut runs, same| {
            match runs.last_mut() {
                Some((count, as_before)) if *as_before == same => *count += 1,
                _ => runs.push((1, same)),
            }
            runs
        });
        let mut index = 0;
        for (count, same) in runs {
            let length = count as u64 * BLOCK;
            if same {
                let copied = hashes[index..index + count].to_vec();
                self.copy(self.position, first + index, copied, length);
                (self.trust, self.missed) = ((self.trust + count).min(WINDOW_BLOCKS), 0);
            } else {
                self.missed += count;
                if self.missed >= self.trust.min(PATIENCE_BLOCKS) {
                    // From where the run began, which may have been before this window.
                    self.position -= (self.missed - count) as u64 * BLOCK;
                    self.searching = Some(*SEARCH_OFFSETS.start());
                    return;
                }
            }
            self.position += length;
            index += count;
        }
    }

    /// Looks for a block of the basis at the next offsets.
    fn search(&mut self) -> io::Result<()> {
        let offsets = self.searching.unwrap_or(*SEARCH_OFFSETS.start());
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let want = left.min(offsets + BLOCK_BYTES - 1);
        self.window.resize(self.window.len().max(want), 0);
        if self.source.read_full_at(self.position, &mut self.window[..want])? < want {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let preference = Preference { basis: self.basis_of(self.position).unwrap_or(0) };
        let index = self.index.get_or_insert_with(|| Index::new(self.sums));
        if let Some((found, block)) = index.find(&self.window[..want], offsets, self.sums, preference) {
            self.position += found as u64;
            let basis = block as u64 * BLOCK;
            self.close_gap(Some(basis));
            self.shift = i64::try_from(self.position).unwrap_or(0) - i64::try_from(basis).unwrap_or(0);
            (self.trust, self.missed, self.searching) = (LEAST_TRUST, 0, None);
        } else if want == left {
            self.position = self.end;
        } else {
            self.position += offsets as u64;
            self.searching = Some((offsets * 2).min(*SEARCH_OFFSETS.end()));
            if self.position - self.gap >= REGION_LIMIT_BYTES as u64 {
                self.close_gap(None);
            }
        }
        Ok(())
    }

    /// The basis has what is at `offset`; what was before it is a gap.
    fn copy(&mut self, offset: u64, block: usize, hashes: Vec<[u8; 32]>, length: u64) {
        self.position = offset;
        let basis = block as u64 * BLOCK;
        self.close_gap(Some(basis));
        self.gap = offset + length;
        self.ready.push_back(Segment::Copy { offset, basis, length, hashes });
    }

    /// What is before `position` and has not been found is a gap. What was there before the edit is between the ends
    /// of what is known of the basis on both sides; `after` is where the next found block is in it.
    fn close_gap(&mut self, after: Option<u64>) {
        /// A shorter gap is not worth a signature.
        const WORTH_BYTES: u64 = 3072;
        /// In a shorter region nothing is found.
        const LEAST_REGION_BYTES: u64 = 512;
        let (offset, length) = (self.gap, self.position - self.gap);
        self.gap = self.position;
        if length == 0 {
            return;
        }
        // A file's end is where what follows it would be.
        let at_end = (self.position == self.length).then_some(self.sums.length);
        let region = self.basis_of(offset).map(|start| {
            let end = after.or(at_end).unwrap_or(start.saturating_add(length)).min(self.sums.length);
            (start, end.saturating_sub(start))
        });
        let worth = |bytes: u64| bytes >= LEAST_REGION_BYTES && self.sums.count() > 0;
        match region {
            // As long as before: likely pages were edited.
            Some((start, between)) if between == length && worth(between) => {
                self.push_pieces(offset, length, start);
            }
            Some((start, between))
                if worth(between) && length >= WORTH_BYTES && length <= REGION_LIMIT_BYTES as u64 =>
            {
                let between = u32::try_from(between.min(REGION_LIMIT_BYTES as u64)).unwrap_or(0);
                self.ready.push_back(Segment::Gap { offset, length, region: Some((start, between)) });
            }
            _ => self.ready.push_back(Segment::Gap { offset, length, region: None }),
        }
    }

    fn push_pieces(&mut self, offset: u64, length: u64, basis: u64) {
        let mut done = 0;
        while done < length {
            let piece = PIECE_BYTES.min(length - done);
            let region = u32::try_from(piece).ok().map(|bytes| (basis + done, bytes));
            self.ready.push_back(Segment::Gap { offset: offset + done, length: piece, region });
            done += piece;
        }
    }
}

impl<S: ReadAt + ?Sized> Iterator for Matcher<'_, S> {
    type Item = io::Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(segment) = self.ready.pop_front() {
                return Some(Ok(segment));
            }
            if self.failed || (self.position >= self.length && self.gap >= self.position) {
                return None;
            }
            if let Err(error) = self.step() {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }
}
