//! The second level: questions about single regions of the basis, and `fast_rsync` for those that were not just edited
//! page by page.
//!
//! Why it is wrapped: the crate works in memory, takes a peer's signature at its word (a block length of zero makes
//! `diff` loop, a hash length of zero makes everything match), and applies a delta without a bound unless told
//! one. Each is a limit here, not an option.

use fast_rsync::{Signature, SignatureOptions};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::PageSums;

/// Bytes of MD4 kept for each block. The whole file's BLAKE3 decides in the end, so this only has to keep chance
/// matches out of one region.
const HASH_BYTES: u32 = 8;

/// Header of a librsync signature: magic, block length, hash length.
const HEADER_BYTES: usize = 12;

/// librsync's `RS_MD4_SIG_MAGIC`.
const MAGIC: [u8; 4] = 0x7273_0136_u32.to_be_bytes();

/// Longest region, in bytes.
pub(crate) const REGION_LIMIT_BYTES: usize = 4 << 20;

/// Why a signature from a peer is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// It is none, or its numbers are out of bounds.
    #[error("a signature is malformed")]
    Malformed,
    /// A delta does not make what it should.
    #[error("a delta does not apply")]
    Delta,
}

/// A stretch of the basis that the sender asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Where in the basis.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
    /// Whether its pages are to be summed, and not its signature made.
    pub by_page: bool,
}

/// The receiver's answer about one [`Region`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegionSums {
    /// A signature, to be matched at any offset.
    Signature(RegionSignature),
    /// Sums of pages at their places.
    Pages(PageSums),
}

impl RegionSums {
    /// Answers with what is there. What was asked for and is not there any more counts as zeros: the file's digest will
    /// say that the basis changed.
    #[must_use]
    pub fn of(region: &Region, content: Option<Vec<u8>>) -> Self {
        let mut content = content.unwrap_or_default();
        if !region.by_page {
            return Self::Signature(RegionSignature::of(&content));
        }
        content.resize((region.length as usize).min(REGION_LIMIT_BYTES), 0);
        Self::Pages(PageSums::of(&content))
    }
}

/// A `fast_rsync` signature of a region of the basis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionSignature(#[serde(with = "serde_bytes")] Vec<u8>);

/// Block length for a region: about the square root of 24 times its length (Tridgell 1999), which balances
/// signature against literals, within bounds that `fast_rsync` serves well (never a multiple of 65536).
fn block_bytes(length: usize) -> u32 {
    let balanced = (length.saturating_mul(24)).isqrt().next_multiple_of(64);
    u32::try_from(balanced.clamp(1024, 8192)).unwrap_or(8192)
}

impl RegionSignature {
    /// Signs a region of at most 4 MiB; a longer one is signed up to there.
    #[must_use]
    pub fn of(region: &[u8]) -> Self {
        let region = &region[..region.len().min(REGION_LIMIT_BYTES)];
        let options =
            SignatureOptions { block_size: block_bytes(region.len()), crypto_hash_size: HASH_BYTES };
        Self(Signature::calculate(region, options).into_serialized())
    }

    /// Checks a signature that came from a peer, before anything reads it.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`].
    pub fn check(&self) -> Result<(), SignatureError> {
        let field = |at: usize| {
            let bytes = self.0.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
            bytes.map(u32::from_be_bytes).ok_or(SignatureError::Malformed)
        };
        let entry_bytes = 4 + HASH_BYTES as usize;
        let entries = self.0.len().checked_sub(HEADER_BYTES).ok_or(SignatureError::Malformed)?;
        let block = field(4)? as usize;
        let sound = self.0[..4] == MAGIC
            && (1024..=8192).contains(&block)
            && field(8)? == HASH_BYTES
            && entries % entry_bytes == 0
            && entries / entry_bytes <= REGION_LIMIT_BYTES / block + 1;
        if sound { Ok(()) } else { Err(SignatureError::Malformed) }
    }

    /// The delta that makes `source` of the signed region; none when it would not be shorter than `source`.
    ///
    /// # Errors
    /// [`SignatureError`] when this is no sound signature.
    pub fn diff(&self, source: &[u8]) -> Result<Option<Vec<u8>>, SignatureError> {
        self.check()?;
        let signature = Signature::deserialize(self.0.clone()).map_err(|_| SignatureError::Malformed)?;
        let mut delta = Vec::new();
        fast_rsync::diff(&signature.index(), source, &mut delta).map_err(|_| SignatureError::Malformed)?;
        Ok((delta.len() < source.len()).then_some(delta))
    }
}

/// Applies a delta to the region it was made against; the result must have exactly `length` bytes.
///
/// # Errors
/// [`SignatureError::Delta`] when it does not.
pub fn apply_delta(region: &[u8], delta: &[u8], length: usize) -> Result<Vec<u8>, SignatureError> {
    let mut made = Vec::new();
    fast_rsync::apply_limited(region, delta, &mut made, length).map_err(|_| SignatureError::Delta)?;
    if made.len() == length { Ok(made) } else { Err(SignatureError::Delta) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_in_the_middle_costs_about_a_block() {
        let basis: Vec<u8> = (0..60_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut source = basis.clone();
        source.splice(30_000..30_000, *b"inserted");
        let delta = RegionSignature::of(&basis).diff(&source).unwrap().unwrap();
        assert!(delta.len() < 5_000, "{} bytes", delta.len());
        assert_eq!(apply_delta(&basis, &delta, source.len()).unwrap(), source);
        assert_eq!(apply_delta(&basis, &delta, source.len() - 1), Err(SignatureError::Delta));
    }

    #[test]
    fn hostile_headers_are_turned_away_before_they_are_read() {
        let good = RegionSignature::of(&[1; 4096]);
        good.check().unwrap();
        let with = |at: usize, value: u32| {
            let mut bytes = good.0.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            RegionSignature(bytes)
        };
        for bad in [
            with(4, 0),
            with(4, 65536),
            with(4, u32::MAX),
            with(8, 0),
            with(8, 17),
            with(8, u32::MAX),
            with(0, 1),
        ] {
            assert_eq!(bad.diff(b"anything"), Err(SignatureError::Malformed));
        }
        assert!(RegionSignature(vec![]).check().is_err());
        assert!(RegionSignature(good.0[..good.0.len() - 1].to_vec()).check().is_err());
    }
}
