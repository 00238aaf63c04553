//! The second level where a stretch was edited and kept its place: sums of small pages.
//!
//! Why: databases write whole pages. Comparing those at their places costs eight bytes each and the speed of hashing,
//! and sends the page and nothing around it. What can go wrong: sums for more or fewer pages than were asked for; they
//! are turned away.

use serde::{Deserialize, Serialize};

use super::region::{REGION_LIMIT_BYTES, SignatureError};
use super::sums::strong;

/// Length of a page.
const PAGE_BYTES: usize = 4096;

/// Bytes of one page's sum.
const SUM_BYTES: usize = 8;

/// 64 bits of BLAKE3 for each page of a region, the last of which may be shorter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PageSums(#[serde(with = "serde_bytes")] Vec<u8>);

impl PageSums {
    /// Sums a region of at most 4 MiB; a longer one is summed up to there.
    #[must_use]
    pub fn of(region: &[u8]) -> Self {
        let region = &region[..region.len().min(REGION_LIMIT_BYTES)];
        Self(region.chunks(PAGE_BYTES).flat_map(strong).collect())
    }

    /// Which stretches of `source` equal the region at the same place: offset, length and the judgement, in order.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`] when these are not the sums of as many pages as `source` has.
    pub fn compare(&self, source: &[u8]) -> Result<Vec<(usize, usize, bool)>, SignatureError> {
        if self.0.len() != source.len().div_ceil(PAGE_BYTES) * SUM_BYTES {
            return Err(SignatureError::Malformed);
        }
        let mut runs: Vec<(usize, usize, bool)> = Vec::new();
        for (index, (page, sum)) in source.chunks(PAGE_BYTES).zip(self.0.chunks(SUM_BYTES)).enumerate() {
            let same = strong(page) == sum;
            match runs.last_mut() {
                Some((_, length, as_before)) if *as_before == same => *length += page.len(),
                _ => runs.push((index * PAGE_BYTES, page.len(), same)),
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_page_is_found_and_nothing_else() {
        let basis: Vec<u8> = (0..60_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut source = basis.clone();
        for at in [8192, 12_000, 59_999] {
            source[at] ^= 1;
        }
        let found = PageSums::of(&basis).compare(&source).unwrap();
        let last = 60_000 / 4096 * 4096;
        assert_eq!(
            found,
            [
                (0, 8192, true),
                (8192, 4096, false),
                (12_288, last - 12_288, true),
                (last, 60_000 - last, false)
            ]
        );
    }

    #[test]
    fn sums_of_another_number_of_pages_are_turned_away() {
        let source = vec![1; 10_000];
        for sums in [PageSums::default(), PageSums::of(&source[..8192]), PageSums::of(&vec![1; 12_289])] {
            assert_eq!(sums.compare(&source), Err(SignatureError::Malformed));
        }
        assert_eq!(PageSums(vec![0; 23]).compare(&source), Err(SignatureError::Malformed));
        assert!(PageSums(vec![0; 24]).compare(&source).is_ok());
    }
}
