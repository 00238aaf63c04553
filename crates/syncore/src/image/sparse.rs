//! The map of a sparse file's data, which stands before the data.
//!
//! Why: holes are not sent and not stored. What can go wrong: a map that claims more than there is, or so many stretches
//! that memory runs out; both are refused.

use std::io::Read;

use super::pax::decimal;
use super::tar::{BLOCK_BYTES, TarError, pad};
use crate::delta::Extent;

/// More stretches of data than this in one sparse file are refused: each is kept in memory while the file is read.
pub(super) const EXTENTS_LIMIT: u64 = 1 << 22;

/// The map of a sparse file's data, as it is stored before the data (GNU tar manual, "PAX Format, Version 1.0").
pub(super) fn encode_map(extents: &[Extent], size_bytes: u64) -> Vec<u8> {
    let end = extents.last().map_or(0, |extent| extent.offset + extent.length);
    // The length of a file that ends in a hole is an extent without bytes.
    let open_end = (end < size_bytes).then_some(Extent { offset: size_bytes, length: 0 });
    let mut map = format!("{}\n", extents.len() + usize::from(open_end.is_some())).into_bytes();
    for extent in extents.iter().chain(&open_end) {
        map.extend_from_slice(format!("{}\n{}\n", extent.offset, extent.length).as_bytes());
    }
    pad(&mut map);
    map
}

/// Reads the map of a sparse file of `size_bytes`, of which `stored_bytes` are stored with the map; every byte of it is
/// added to `hasher`.
pub(super) fn decode_map(
    input: &mut impl Read,
    size_bytes: u64,
    stored_bytes: u64,
    hasher: &mut blake3::Hasher,
) -> Result<Vec<Extent>, TarError> {
    let mut numbers = MapNumbers { input, text: Vec::new(), at: 0, read: Vec::new(), left: stored_bytes };
    let count = numbers.next()?;
    if count > EXTENTS_LIMIT {
        return Err(TarError::Limit { what: "stretches of data in one file", limit: EXTENTS_LIMIT });
    }
    let (mut extents, mut end, mut data) = (Vec::new(), 0_u64, 0_u64);
    for _ in 0..count {
        let extent = Extent { offset: numbers.next()?, length: numbers.next()? };
        let next = extent.offset.checked_add(extent.length).filter(|next| *next <= size_bytes);
        if extent.offset < end {
            return Err(TarError::Field("map of data"));
        }
        end = next.ok_or(TarError::Field("map of data"))?;
        data += extent.length;
        extents.push(extent);
    }
    if extents.last().is_some_and(|last| last.length == 0) {
        extents.pop();
    }
    let map = numbers.read;
    if encode_map(&extents, size_bytes) != map || map.len() as u64 + data != stored_bytes {
        return Err(TarError::Field("map of data"));
    }
    hasher.update(&map);
    Ok(extents)
}

/// Decimal numbers, one a line, read in blocks.
struct MapNumbers<'a, R> {
    input: &'a mut R,
    text: Vec<u8>,
    at: usize,
    read: Vec<u8>,
    left: u64,
}

impl<R: Read> MapNumbers<'_, R> {
    fn next(&mut self) -> Result<u64, TarError> {
        let mut digits = Vec::new();
        loop {
            if self.at == self.text.len() {
                self.left =
                    self.left.checked_sub(BLOCK_BYTES as u64).ok_or(TarError::Field("map of data"))?;
                self.text.resize(BLOCK_BYTES, 0);
                self.input.read_exact(&mut self.text)?;
                self.read.extend_from_slice(&self.text);
                self.at = 0;
            }
            let byte = self.text[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits).ok_or(TarError::Field("map of data")),
                _ if digits.len() >= 20 => return Err(TarError::Field("map of data")),
                byte => digits.push(byte),
            }
        }
    }
}
