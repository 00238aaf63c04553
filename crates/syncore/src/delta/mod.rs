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
#[derive(Debug, Default)]
pub struct ContentHasher {
    data: blake3::Hasher,
    map: blake3::Hasher,
    offset: u64,
}

impl ContentHasher {
    /// Adds bytes that are there.
    pub fn data(&mut self, bytes: &[u8]) {
        /// From here on the work of hashing outweighs that of dividing it.
        const PARALLEL_BYTES: usize = 512 * 1024;
        if bytes.len() >= PARALLEL_BYTES {
            self.data.update_rayon(bytes);
        } else {
            self.data.update(bytes);
        }
        self.offset += bytes.len() as u64;
    }

    /// Adds a hole.
    pub fn hole(&mut self, length: u64) {
        self.map.update(&self.offset.to_le_bytes()).update(&length.to_le_bytes());
        self.offset += length;
    }

    /// The digest of everything added, and its length.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.data.finalize().as_bytes());
        hasher.update(self.map.finalize().as_bytes());
        hasher.update(&self.offset.to_le_bytes());
        *hasher.finalize().as_bytes()
    }
}
