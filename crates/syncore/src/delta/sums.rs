//! Block sums: what the receiver says of the file it has, and what it keeps to itself.

use std::io;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::region::{RegionSignature, SignatureError};
use super::rolling::Rolling;
use super::{Extent, ReadAt};

/// Length of a block of the first level.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Up to this length a file is described by one fine signature, which spares a round trip.
pub const FINE_LIMIT_BYTES: u64 = 1 << 20;

/// How many blocks are described at most: those of a tebibyte. What lies beyond is sent as it is.
const BLOCK_LIMIT: usize = 1 << 24;

/// How many blocks' digests are kept for the writing, in 32 MiB: those of 64 GiB. Blocks beyond are read again.
const KNOWN_LIMIT: usize = 1 << 20;

/// Bytes of one block's sums: 4 weak, 8 strong.
const SUM_BYTES: usize = 12;

/// Blocks summed before the next are begun.
const WINDOW_BLOCKS: usize = 64;

/// Blocks that one thread reads and sums at once: what it has just read is still in its cache.
pub(super) const TASK_BLOCKS: usize = 4;

/// The sums of a file's aligned blocks, the last of which may be shorter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockSums {
    /// Length of the file; 0 when there is nothing to build on.
    pub length: u64,
    #[serde(with = "serde_bytes")]
    sums: Vec<u8>,
    /// The fine signature of a short file, in place of block sums.
    pub fine: Option<RegionSignature>,
}

/// The first 64 bits of BLAKE3.
pub(super) fn strong(block: &[u8]) -> [u8; 8] {
    short(blake3::hash(block).as_bytes())
}

/// The first 64 bits of a digest.
pub(super) fn short(hash: &[u8; 32]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&hash[..8]);
    short
}

impl BlockSums {
    /// How many blocks are described.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sums.len() / SUM_BYTES
    }

    /// About how much memory they take.
    pub(crate) fn memory_bytes(&self) -> usize {
        /// A fine signature is not longer.
        const FINE_BYTES: usize = 64 << 10;
        self.sums.len() + if self.fine.is_some() { FINE_BYTES } else { 0 }
    }

    /// How many of them are as long as a block.
    pub(super) fn whole(&self) -> usize {
        usize::try_from(self.length / BLOCK_BYTES as u64).unwrap_or(usize::MAX).min(self.count())
    }

    pub(super) fn weak(&self, block: usize) -> u32 {
        let at = block * SUM_BYTES;
        u32::from_le_bytes([self.sums[at], self.sums[at + 1], self.sums[at + 2], self.sums[at + 3]])
    }

    pub(super) fn strong(&self, block: usize) -> &[u8] {
        &self.sums[block * SUM_BYTES + 4..][..8]
    }

    fn push(&mut self, sum: &Sum) {
        self.sums.extend_from_slice(&sum.weak.to_le_bytes());
        self.sums.extend_from_slice(&sum.hash[..8]);
    }

    /// The same in parts of at most `blocks` blocks, for frames; [`BlockSums::append`] puts them together.
    pub fn parts(self, blocks: usize) -> impl Iterator<Item = (Self, bool)> {
        let Self { length, sums, fine } = self;
        let pieces: Vec<Vec<u8>> = if sums.is_empty() {
            vec![Vec::new()]
        } else {
            sums.chunks(blocks * SUM_BYTES).map(<[u8]>::to_vec).collect()
        };
        let last = pieces.len() - 1;
        pieces
            .into_iter()
            .enumerate()
            .map(move |(index, sums)| (Self { length, sums, fine: fine.clone() }, index < last))
    }

    /// Adds the next part.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`] when the parts are more than the whole.
    pub fn append(&mut self, part: Self) -> Result<(), SignatureError> {
        self.length = part.length;
        self.sums.extend_from_slice(&part.sums);
        self.fine = part.fine;
        self.check()
    }

    /// Checks one part that came from a peer.
    ///
    /// # Errors
    /// [`SignatureError`] when it is none.
    pub fn check(&self) -> Result<(), SignatureError> {
        if self.count() > BLOCK_LIMIT
            || !self.sums.len().is_multiple_of(SUM_BYTES)
            || self.count() as u64 > self.length.div_ceil(BLOCK_BYTES as u64)
            || self.length > i64::MAX as u64
        {
            return Err(SignatureError::Malformed);
        }
        self.fine.as_ref().map_or(Ok(()), RegionSignature::check)
    }
}

/// Digests of a basis' blocks as they were when it was summed, for a writer that need not read them again.
#[derive(Debug, Clone, Default)]
pub struct KnownBlocks {
    length: u64,
    /// All zeros for a block that is not data from end to end: what is copied of it has to be written as data.
    hashes: Vec<[u8; 32]>,
    distrusted: bool,
}

impl KnownBlocks {
    /// The digest of what is at `offset`, if that is one whole block.
    pub(crate) fn hash(&self, offset: u64, length: u64) -> Option<&[u8; 32]> {
        let whole = length == BLOCK_BYTES as u64 || offset.checked_add(length) == Some(self.length);
        let hash = self.block(offset).filter(|_| whole && offset.is_multiple_of(BLOCK_BYTES as u64));
        hash.filter(|_| !self.distrusted)
    }

    /// Whether there is no hole in the block that has this offset.
    pub(crate) fn is_data(&self, offset: u64) -> bool {
        self.block(offset).is_some()
    }

    fn block(&self, offset: u64) -> Option<&[u8; 32]> {
        let hash = self.hashes.get(usize::try_from(offset / BLOCK_BYTES as u64).ok()?)?;
        (*hash != [0; 32]).then_some(hash)
    }

    /// Whether anything is known at all.
    pub(crate) fn is_trusted(&self) -> bool {
        !self.distrusted && !self.hashes.is_empty()
    }

    /// Says that content may have changed since, so that it is read again where it is used.
    pub(crate) fn distrust(&mut self) {
        self.distrusted = true;
    }
}

/// One block's sums.
#[derive(Clone, Copy)]
struct Sum {
    weak: u32,
    hash: [u8; 32],
    /// Whether no part of it is a hole.
    data: bool,
}

/// Sums a file of `length` bytes, of which only `extents` are read: a fine signature when it is short, block sums
/// otherwise.
///
/// # Errors
/// Whatever reading says; `UnexpectedEof` when the file is shorter than `length`.
pub fn sum_blocks(
    file: &(impl ReadAt + ?Sized),
    extents: &[Extent],
    length: u64,
) -> io::Result<(BlockSums, KnownBlocks)> {
    if length <= FINE_LIMIT_BYTES {
        let mut content = vec![0; usize::try_from(length).unwrap_or(0)];
        if file.read_full_at(0, &mut content)? < content.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let sums = BlockSums { length, sums: Vec::new(), fine: Some(RegionSignature::of(&content)) };
        return Ok((sums, KnownBlocks::default()));
    }
    let count = usize::try_from(length.div_ceil(BLOCK_BYTES as u64)).unwrap_or(usize::MAX).min(BLOCK_LIMIT);
    let mut sums = BlockSums { length, sums: Vec::with_capacity(count * SUM_BYTES), fine: None };
    let mut known =
        KnownBlocks { length, hashes: Vec::with_capacity(count.min(KNOWN_LIMIT)), distrusted: false };
    let zeros = [0; BLOCK_BYTES];
    let of_hole =
        Sum { weak: Rolling::of(&zeros).weak(), hash: *blake3::hash(&zeros).as_bytes(), data: false };
    let mut window = vec![0; WINDOW_BLOCKS * BLOCK_BYTES];
    let mut extents = Coverage { extents, next: 0 };
    let mut first = 0;
    while first < count {
        let blocks = WINDOW_BLOCKS.min(count - first);
        let mut found = [of_hole; WINDOW_BLOCKS];
        let covers: Vec<Cover> = (first..first + blocks).map(|block| extents.of(block, length)).collect();
        if covers.iter().any(|cover| *cover != Cover::Hole) {
            let tasks =
                window.par_chunks_mut(TASK_BLOCKS * BLOCK_BYTES).zip(found.par_chunks_mut(TASK_BLOCKS));
            tasks.zip(covers.par_chunks(TASK_BLOCKS)).enumerate().try_for_each(
                |(task, ((buffer, found), covers))| {
                    sum_some(file, first + task * TASK_BLOCKS, length, covers, buffer, found)
                },
            )?;
        }
        for sum in &found[..blocks] {
            sums.push(sum);
            if known.hashes.len() < KNOWN_LIMIT {
                known.hashes.push(if sum.data { sum.hash } else { [0; 32] });
            }
        }
        first += blocks;
    }
    Ok((sums, known))
}

/// Reads and sums a few blocks beginning at `first`, but for holes.
fn sum_some(
    file: &(impl ReadAt + ?Sized),
    first: usize,
    length: u64,
    covers: &[Cover],
    buffer: &mut [u8],
    found: &mut [Sum],
) -> io::Result<()> {
    let mut start = 0;
    while start < covers.len() {
        let run = covers[start..].iter().take_while(|cover| **cover != Cover::Hole).count();
        if run == 0 {
            start += 1;
            continue;
        }
        let offset = ((first + start) * BLOCK_BYTES) as u64;
        let want = usize::try_from(length - offset).unwrap_or(usize::MAX).min(run * BLOCK_BYTES);
        if file.read_full_at(offset, &mut buffer[..want])? < want {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = buffer[..want].chunks(BLOCK_BYTES);
        for ((block, cover), sum) in read.zip(&covers[start..]).zip(&mut found[start..]) {
            *sum = Sum {
                weak: Rolling::of(block).weak(),
                hash: *blake3::hash(block).as_bytes(),
                data: *cover == Cover::Data,
            };
        }
        start += run;
    }
    Ok(())
}

/// What of a block is data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cover {
    Data,
    Part,
    Hole,
}

/// Judges blocks in order.
struct Coverage<'a> {
    extents: &'a [Extent],
    next: usize,
}

impl Coverage<'_> {
    fn of(&mut self, block: usize, length: u64) -> Cover {
        let start = block as u64 * BLOCK_BYTES as u64;
        let end = (start + BLOCK_BYTES as u64).min(length);
        while self.extents.get(self.next).is_some_and(|extent| extent.offset + extent.length <= start) {
            self.next += 1;
        }
        match self.extents.get(self.next) {
            Some(extent) if extent.offset <= start && extent.offset + extent.length >= end => Cover::Data,
            Some(extent) if extent.offset < end => Cover::Part,
            // The sum of a shorter one is not that of a block of zeros.
            _ if end - start < BLOCK_BYTES as u64 => Cover::Part,
            _ => Cover::Hole,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Counts what is read of it.
    struct Counting(Vec<u8>, AtomicU64);

    impl ReadAt for Counting {
        fn read_full_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            self.0.read_full_at(offset, buffer)
        }
    }

    #[test]
    fn parts_put_together_are_the_whole() {
        let data = vec![7; 3 << 20];
        let all = [Extent { offset: 0, length: data.len() as u64 }];
        let (sums, _) = sum_blocks(&data[..], &all, data.len() as u64).unwrap();
        let mut again = BlockSums::default();
        let mut more_follows = Vec::new();
        for (part, more) in sums.clone().parts(20) {
            part.check().unwrap();
            again.append(part).unwrap();
            more_follows.push(more);
        }
        assert_eq!((again, more_follows), (sums, vec![true, true, false]));
    }

    #[test]
    fn holes_are_summed_as_zeros_without_being_read() {
        let block = BLOCK_BYTES as u64;
        let length = 700 * block + 77;
        let mut data = vec![0; usize::try_from(length).unwrap()];
        for at in [300 * BLOCK_BYTES + 5000, 301 * BLOCK_BYTES, 650 * BLOCK_BYTES] {
            data[at] = 1;
        }
        let file = Counting(data, AtomicU64::new(0));
        let extents = [
            Extent { offset: 300 * block + 4096, length: 2 * block },
            Extent { offset: 650 * block, length: block },
        ];
        let (sums, known) = sum_blocks(&file, &extents, length).unwrap();
        let read = file.1.load(Ordering::Relaxed);
        // Three that the first extent touches, one, and the short one at the end.
        assert_eq!(read, 4 * block + 77);
        let all = [Extent { offset: 0, length }];
        let (read_all, _) = sum_blocks(&file.0[..], &all, length).unwrap();
        assert!(sums == read_all, "the sums of what is read and of what is not differ");
        for index in 0..=700 {
            // Only what is data from end to end may be taken over without a look.
            let (offset, end) = (index * block, ((index + 1) * block).min(length));
            let covered = extents.iter().any(|e| e.offset <= offset && e.offset + e.length >= end);
            assert_eq!(known.is_data(offset), covered, "block {index}");
            let hash = blake3::hash(&file.0[offset as usize..end as usize]);
            assert_eq!(known.hash(offset, end - offset), covered.then_some(hash.as_bytes()), "block {index}");
        }
    }

    #[test]
    fn only_whole_blocks_of_a_basis_that_did_not_change_are_known() {
        let length = (2 << 20) + 100;
        let data = vec![3; length];
        let all = [Extent { offset: 0, length: length as u64 }];
        let (_, mut known) = sum_blocks(&data[..], &all, length as u64).unwrap();
        let block = BLOCK_BYTES as u64;
        let whole = Some(*blake3::hash(&data[..BLOCK_BYTES]).as_bytes());
        assert_eq!(known.hash(block, block).copied(), whole);
        assert_eq!(known.hash(2 << 20, 100).copied(), Some(*blake3::hash(&data[..100]).as_bytes()));
        for (offset, length) in
            [(block, block - 1), (block + 1, block), (block, 100), (u64::MAX - 5, 6), (u64::MAX, u64::MAX)]
        {
            assert_eq!(known.hash(offset, length), None, "{offset} {length}");
        }
        known.distrust();
        assert_eq!(known.hash(block, block), None);
        assert!(known.is_data(block));
    }
}
