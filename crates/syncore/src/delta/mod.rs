//! Finds what of a file is already on the standby, and describes the rest.
//!
//! Why in two levels: comparing aligned 64 KiB blocks by BLAKE3 runs at the speed of memory and settles almost all
//! of a large file; only where blocks differ is it worth rolling a window or running `fast_rsync` with small
//! blocks, which is twenty times slower. Source: Tridgell, "Efficient Algorithms for Sorting and Synchronization"
//! (1999), for the rolling match; the aligned first level is ours. What can go wrong: truncated sums collide, by
//! accident or on purpose, so the whole file's BLAKE3 decides in the end; and a hostile signature, so everything
//! that comes from a peer is checked before it is used.

mod matcher;
mod region;
mod sums;

pub use matcher::{Extent, Segment, find_unchanged};
pub use region::{RegionSignature, SignatureError, apply_delta};
pub use sums::{BLOCK_BYTES, BlockSums, FINE_LIMIT_BYTES, sum_blocks};

use std::io;

use rayon::prelude::*;

/// Random access to bytes that someone else may be changing.
pub trait ReadAt: Sync {
    /// Reads at `offset` until `buffer` is full or the end is reached; says how much was read.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn read_full_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn read_full_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let length = buffer.len().min(self.len() - start);
        buffer[..length].copy_from_slice(&self[start..start + length]);
        Ok(length)
    }
}

/// Digests a file's content as it is described on the wire: data and holes apart, so that a hole of terabytes costs
/// nothing and a hole is never taken for zeros that are really there.
///
/// Data is digested in pieces that end where aligned blocks of [`BLOCK_BYTES`] do and where holes begin, and the
/// digest is over the digests of the pieces: so the sender's one pass over the file serves the comparison of blocks
/// as well, and pieces are digested on all cores.
#[derive(Debug, Default)]
pub struct ContentHasher {
    pieces: blake3::Hasher,
    map: blake3::Hasher,
    /// The piece that is not complete yet.
    open: blake3::Hasher,
    open_bytes: usize,
    offset: u64,
}

impl ContentHasher {
    /// Adds bytes that are there.
    pub fn data(&mut self, bytes: &[u8]) {
        self.data_by_block(bytes, |_, _| ());
    }

    /// Adds bytes that are there, and hands over offset and digest of each whole aligned block among them.
    pub(crate) fn data_by_block(&mut self, bytes: &[u8], mut each: impl FnMut(u64, &blake3::Hash)) {
        let block = BLOCK_BYTES as u64;
        let to_boundary = usize::try_from(self.offset.next_multiple_of(block) - self.offset).unwrap_or(0);
        let (head, rest) = bytes.split_at(to_boundary.min(bytes.len()));
        self.extend(head);
        if !self.offset.is_multiple_of(block) {
            return;
        }
        self.close();
        let (whole, tail) = rest.split_at(rest.len() - rest.len() % BLOCK_BYTES);
        let digest = |hash: &blake3::Hash, pieces: &mut blake3::Hasher| {
            pieces.update(hash.as_bytes());
        };
        if whole.len() > 4 * BLOCK_BYTES {
            let hashes: Vec<blake3::Hash> = whole.par_chunks(BLOCK_BYTES).map(blake3::hash).collect();
            for hash in &hashes {
                each(self.offset, hash);
                digest(hash, &mut self.pieces);
                self.offset += block;
            }
        } else {
            for piece in whole.chunks(BLOCK_BYTES) {
                let hash = blake3::hash(piece);
                each(self.offset, &hash);
                digest(&hash, &mut self.pieces);
                self.offset += block;
            }
        }
        self.extend(tail);
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.open.update(bytes);
        self.open_bytes += bytes.len();
        self.offset += bytes.len() as u64;
    }

    fn close(&mut self) {
        if self.open_bytes > 0 {
            self.pieces.update(self.open.finalize().as_bytes());
            self.open.reset();
            self.open_bytes = 0;
        }
    }

    /// Adds a hole.
    pub fn hole(&mut self, length: u64) {
        self.close();
        self.map.update(&self.offset.to_le_bytes()).update(&length.to_le_bytes());
        self.offset += length;
    }

    /// The digest of everything added, and its length.
    #[must_use]
    pub fn finish(mut self) -> [u8; 32] {
        self.close();
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.pieces.finalize().as_bytes());
        hasher.update(self.map.finalize().as_bytes());
        hasher.update(&self.offset.to_le_bytes());
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_does_not_depend_on_how_the_data_comes() {
        let data: Vec<u8> = (0..700_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
        let digest = |sizes: &[usize]| {
            let mut hasher = ContentHasher::default();
            let mut rest = &data[..];
            for size in sizes.iter().cycle() {
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                hasher.data(piece);
                rest = after;
                if rest.is_empty() {
                    return hasher.finish();
                }
            }
            unreachable!("the sizes are not all zero")
        };
        let whole = digest(&[700_000]);
        for sizes in [&[1000][..], &[65_536], &[65_535, 1, 65_537], &[300_000, 1], &[7, 200_000]] {
            assert_eq!(digest(sizes), whole, "{sizes:?}");
        }
    }

    #[test]
    fn holes_data_and_length_all_count() {
        let digest = |build: &dyn Fn(&mut ContentHasher)| {
            let mut hasher = ContentHasher::default();
            build(&mut hasher);
            hasher.finish()
        };
        let zeros = digest(&|h| h.data(&[0; 4096]));
        let hole = digest(&|h| h.hole(4096));
        let data_hole = digest(&|h| {
            h.data(&[1; 4096]);
            h.hole(4096);
        });
        let hole_data = digest(&|h| {
            h.hole(4096);
            h.data(&[1; 4096]);
        });
        let all = [zeros, hole, data_hole, hole_data, digest(&|_| ()), digest(&|h| h.data(&[0; 4097]))];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one));
        }
    }
}
