//! Block sums: what the receiver says of the file it has.

use std::io;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ReadAt;
use super::region::{RegionSignature, SignatureError};

/// [`BLOCK_BYTES`] as the rolling sum counts.
pub(crate) const BLOCK_WIDTH: u32 = 64 * 1024;

/// Length of a block of the first level.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Up to this length a file is described by one fine signature, which spares a round trip.
pub const FINE_LIMIT_BYTES: u64 = 1 << 20;

/// How many blocks are described at most: those of a tebibyte. What lies beyond is sent as it is.
const BLOCK_LIMIT: usize = 1 << 24;

/// Bytes of one block's sums: 4 weak, 8 strong.
const SUM_BYTES: usize = 12;

/// Bytes read and summed at once.
const WINDOW_BYTES: usize = 64 * BLOCK_BYTES;

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
pub(crate) fn strong(block: &[u8]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&blake3::hash(block).as_bytes()[..8]);
    short
}

/// A sum that can be rolled along the file byte by byte: Fletcher's two sums (Tridgell 1999, section 3.2), in 32 bits each
/// so that no block length makes one of them vanish.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rolling {
    a: u32,
    b: u32,
}

impl Rolling {
    pub(crate) fn of(block: &[u8]) -> Self {
        /// Bytes added at once: with the weights known beforehand, this becomes vector code.
        const STEP: usize = 64;
        let (mut a, mut b) = (0_u32, 0_u32);
        let (steps, rest) = block.as_chunks::<STEP>();
        for step in steps {
            let (mut sum, mut weighted, mut weight) = (0_u32, 0_u32, 64_u32);
            for byte in step {
                sum += u32::from(*byte);
                weighted += u32::from(*byte) * weight;
                weight -= 1;
            }
            b = b.wrapping_add(a.wrapping_mul(64)).wrapping_add(weighted);
            a = a.wrapping_add(sum);
        }
        for byte in rest {
            a = a.wrapping_add(u32::from(*byte));
            b = b.wrapping_add(a);
        }
        Self { a, b }
    }

    /// Moves the window of `length` bytes on by one.
    pub(crate) fn roll(&mut self, length: u32, out: u8, new: u8) {
        self.a = self.a.wrapping_sub(u32::from(out)).wrapping_add(u32::from(new));
        self.b = self.b.wrapping_sub(length.wrapping_mul(u32::from(out))).wrapping_add(self.a);
    }

    pub(crate) fn weak(self) -> u32 {
        self.a.wrapping_add(self.b.wrapping_mul(0x9e37_79b1))
    }
}

impl BlockSums {
    /// How many blocks are described.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sums.len() / SUM_BYTES
    }

    pub(crate) fn weak(&self, block: usize) -> u32 {
        let sum = &self.sums[block * SUM_BYTES..];
        u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])
    }

    pub(crate) fn strong(&self, block: usize) -> &[u8] {
        &self.sums[block * SUM_BYTES + 4..(block + 1) * SUM_BYTES]
    }

    /// Cuts the sums into parts of at most `blocks` blocks, for frames; [`BlockSums::append`] puts them together.
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
        {
            return Err(SignatureError::Malformed);
        }
        self.fine.as_ref().map_or(Ok(()), RegionSignature::check)
    }
}

/// Sums a file of `length` bytes: a fine signature when it is short, block sums otherwise.
///
/// # Errors
/// Whatever reading says; `UnexpectedEof` when the file is shorter than `length`.
pub fn sum_blocks(file: &(impl ReadAt + ?Sized), length: u64) -> io::Result<BlockSums> {
    if length <= FINE_LIMIT_BYTES {
        let mut content = vec![0; usize::try_from(length).unwrap_or(0)];
        if file.read_full_at(0, &mut content)? < content.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        return Ok(BlockSums { length, sums: Vec::new(), fine: Some(RegionSignature::of(&content)) });
    }
    let mut sums = Vec::with_capacity(usize::try_from(length / BLOCK_BYTES as u64).unwrap_or(0) * SUM_BYTES);
    let mut window = vec![0; WINDOW_BYTES];
    let mut offset = 0;
    while offset < length.min((BLOCK_LIMIT * BLOCK_BYTES) as u64) {
        let want = usize::try_from(length - offset).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        if file.read_full_at(offset, &mut window[..want])? < want {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let blocks: Vec<(u32, [u8; 8])> = window[..want]
            .par_chunks(BLOCK_BYTES)
            .map(|block| (Rolling::of(block).weak(), strong(block)))
            .collect();
        for (weak, strong) in blocks {
            sums.extend_from_slice(&weak.to_le_bytes());
            sums.extend_from_slice(&strong);
        }
        offset += want as u64;
    }
    Ok(BlockSums { length, sums, fine: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolling_equals_summing_afresh() {
        let data: Vec<u8> = (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut rolling = Rolling::of(&data[..1000]);
        for start in 1..4000 {
            rolling.roll(1000, data[start - 1], data[start + 999]);
            assert_eq!(rolling.weak(), Rolling::of(&data[start..start + 1000]).weak());
        }
    }

    #[test]
    fn parts_put_together_are_the_whole() {
        let data = vec![7; 3 << 20];
        let sums = sum_blocks(&data[..], data.len() as u64).unwrap();
        let mut again = BlockSums::default();
        let mut more_follows = Vec::new();
        for (part, more) in sums.clone().parts(20) {
            part.check().unwrap();
            again.append(part).unwrap();
            more_follows.push(more);
        }
        assert_eq!((again, more_follows), (sums, vec![true, true, false]));
    }
}
