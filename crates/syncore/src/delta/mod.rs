//! Finds what of a file is already on the standby, and describes the rest.
//!
//! Why in two levels: comparing aligned 64 KiB blocks by BLAKE3 runs at the speed of memory and settles almost all
//! of a large file; only where blocks differ is it worth looking at pages, rolling a window, or running `fast_rsync`
//! with small blocks, which is twenty times slower. Source: Tridgell, "Efficient Algorithms for Sorting and
//! Synchronization"
//! (1999), for the rolling match; the aligned first level is ours. What can go wrong: truncated sums collide, by
//! accident or on purpose, so the whole file's BLAKE3 decides in the end; and a hostile signature, so everything
//! that comes from a peer is checked before it is used.

mod digest;
mod matcher;
mod pages;
mod region;
mod rolling;
mod search;
mod sums;
#[cfg(test)]
mod tests;

pub use digest::ContentHasher;
pub(crate) use digest::copy_pieces;
pub use matcher::{Extent, Matcher, Segment};
pub use pages::PageSums;
pub(crate) use region::REGION_LIMIT_BYTES;
pub use region::{Region, RegionSignature, RegionSums, SignatureError, apply_delta};
pub use sums::{BLOCK_BYTES, BlockSums, FINE_LIMIT_BYTES, KnownBlocks, sum_blocks};

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
