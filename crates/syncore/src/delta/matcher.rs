//! The sender's side of the first level: which parts of the source the basis already has.
//!
//! Aligned blocks are compared first, all at the same offset, at the speed of hashing. Where many in a row differ,
//! something was inserted or removed: a rolling window looks for any block of the basis, and from a hit on blocks
//! are compared at hash speed again, at the new offset. What can go wrong: crafted data that makes the window
//! hash at every step, so the number of strong hashes is bounded by the bytes searched.

use std::io;

use super::sums::{BLOCK_BYTES, BLOCK_WIDTH, Rolling, strong};
use super::{BlockSums, ContentHasher, ReadAt};
use crate::delta::region::REGION_LIMIT_BYTES;

/// Bytes read, hashed and compared at once.
const WINDOW_BYTES: usize = 64 * BLOCK_BYTES;

/// A run of differing blocks at least this long is searched for a shift; a shorter one is left to the second level.
const SEARCH_FROM_BLOCKS: usize = 16;

/// How many blocks beyond a differing one are tried at the same shift before the window rolls on.
const SKIP_BLOCKS: usize = 4;

/// How many blocks with the same weak sum are tried at one position.
const CANDIDATES: usize = 8;

/// A stretch of the file that is data, not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// A stretch of the source and where its content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// The basis has it.
    Copy {
        /// Where in the source.
        offset: u64,
        /// Where in the basis.
        basis: u64,
        /// How many bytes.
        length: u64,
    },
    /// It is sent, perhaps against that region of the basis.
    Gap {
        /// Where in the source.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Offset and length of the region that is likely similar.
        region: Option<(u64, u32)>,
    },
    /// A hole.
    Hole {
        /// How many bytes.
        length: u64,
    },
}

/// Compares a source of `length` bytes, of which only `extents` are data, with the sums of the basis. Gives the
/// segments of the whole source in order, and the digest of its content.
///
/// # Errors
/// Whatever reading says; `UnexpectedEof` when the source is shorter than `length`.
pub fn find_unchanged(
    source: &(impl ReadAt + ?Sized),
    extents: &[Extent],
    length: u64,
    sums: &BlockSums,
) -> io::Result<(Vec<Segment>, [u8; 32])> {
    let (aligned, digest) = compare_aligned(source, extents, length, sums)?;
    let mut segments = Vec::new();
    let mut position = 0;
    let index = Index::new(sums);
    for extent in extents {
        if extent.offset > position {
            segments.push(Segment::Hole { length: extent.offset - position });
        }
        position = extent.offset;
        let end = extent.offset + extent.length;
        while position < end {
            let (run_end, same) = aligned.run(position, end);
            if same {
                push(
                    &mut segments,
                    Segment::Copy { offset: position, basis: position, length: run_end - position },
                );
            } else if run_end - position >= (SEARCH_FROM_BLOCKS * BLOCK_BYTES) as u64 && sums.count() > 0 {
                search(source, position, run_end, &index, &mut segments)?;
            } else {
                push(
                    &mut segments,
                    Segment::Gap { offset: position, length: run_end - position, region: None },
                );
            }
            position = run_end;
        }
    }
    if position < length {
        segments.push(Segment::Hole { length: length - position });
    }
    assign_regions(&mut segments, sums.length);
    Ok((segments, digest))
}

/// Which aligned blocks of the source equal the block of the basis at the same offset.
struct Aligned(Vec<bool>);

impl Aligned {
    /// The end of the run of equally judged bytes from `position`, at most `end`, and the judgement.
    fn run(&self, position: u64, end: u64) -> (u64, bool) {
        let block = |at: u64| usize::try_from(at / BLOCK_BYTES as u64).unwrap_or(usize::MAX);
        // A block that a hole cuts is judged unequal as a whole, so a run of equal blocks starts at one's start.
        let same = self.0.get(block(position)).copied().unwrap_or(false);
        let mut at = position;
        while at < end && self.0.get(block(at)).copied().unwrap_or(false) == same {
            at = (at / BLOCK_BYTES as u64 + 1) * BLOCK_BYTES as u64;
        }
        (at.min(end), same)
    }
}

fn compare_aligned(
    source: &(impl ReadAt + ?Sized),
    extents: &[Extent],
    length: u64,
    sums: &BlockSums,
) -> io::Result<(Aligned, [u8; 32])> {
    let mut hasher = ContentHasher::default();
    let mut same = vec![false; sums.count()];
    let mut window = vec![0; usize::try_from(length).unwrap_or(usize::MAX).clamp(1, WINDOW_BYTES)];
    let mut position = 0;
    for extent in extents {
        if extent.offset > position {
            hasher.hole(extent.offset - position);
        }
        position = extent.offset;
        let end = extent.offset + extent.length;
        while position < end {
            // Windows end where blocks do, so that later ones are whole blocks.
            let aligned_end = (position / WINDOW_BYTES as u64 + 1) * WINDOW_BYTES as u64;
            let want = usize::try_from(end.min(aligned_end) - position).unwrap_or(WINDOW_BYTES);
            if source.read_full_at(position, &mut window[..want])? < want {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.data_by_block(&window[..want], |offset, hash| {
                let block = usize::try_from(offset / BLOCK_BYTES as u64).unwrap_or(usize::MAX);
                if offset + BLOCK_BYTES as u64 <= sums.length && block < sums.count() {
                    same[block] = hash.as_bytes()[..8] == *sums.strong(block);
                }
            });
            // The last block may be shorter than a block, on both ends.
            let tail = length - length % BLOCK_BYTES as u64;
            let last = usize::try_from(tail / BLOCK_BYTES as u64).unwrap_or(usize::MAX);
            if sums.length == length
                && tail < length
                && position + want as u64 == length
                && position <= tail
                && last < sums.count()
            {
                let start = usize::try_from(tail - position).unwrap_or(0);
                same[last] = strong(&window[start..want]) == *sums.strong(last);
            }
            position += want as u64;
        }
    }
    if position < length {
        hasher.hole(length - position);
    }
    Ok((Aligned(same), hasher.finish()))
}

/// The basis' whole blocks by weak sum.
struct Index<'a> {
    sums: &'a BlockSums,
    by_weak: Vec<(u32, u32)>,
    /// A bit for each value of the weak sum's low 20 bits: most positions are settled by one look at it.
    filter: Vec<u64>,
}

impl<'a> Index<'a> {
    fn new(sums: &'a BlockSums) -> Self {
        let whole = usize::try_from(sums.length / BLOCK_BYTES as u64).unwrap_or(usize::MAX).min(sums.count());
        let mut by_weak: Vec<(u32, u32)> =
            (0..whole).map(|block| (sums.weak(block), u32::try_from(block).unwrap_or(u32::MAX))).collect();
        by_weak.sort_unstable();
        let mut filter = vec![0; 1 << 14];
        for (weak, _) in &by_weak {
            filter[(weak >> 6 & 0x3fff) as usize] |= 1 << (weak & 63);
        }
        Self { sums, by_weak, filter }
    }

    fn may_have(&self, weak: u32) -> bool {
        self.filter[(weak >> 6 & 0x3fff) as usize] & 1 << (weak & 63) != 0
    }

    /// The blocks with this weak sum, at most [`CANDIDATES`].
    fn candidates(&self, weak: u32) -> &[(u32, u32)] {
        let start = self.by_weak.partition_point(|(other, _)| *other < weak);
        let same =
            self.by_weak[start..].iter().take(CANDIDATES).take_while(|(other, _)| *other == weak).count();
        &self.by_weak[start..start + same]
    }
}

/// Looks for blocks of the basis anywhere in `start..end` of the source.
fn search(
    source: &(impl ReadAt + ?Sized),
    start: u64,
    end: u64,
    index: &Index<'_>,
    segments: &mut Vec<Segment>,
) -> io::Result<()> {
    let mut reader = Reader { source, buffer: Vec::new(), start, end };
    let mut gap = start;
    let mut position = start;
    // One strong hash per 1 KiB searched is far more than honest data needs.
    let mut hashes_left = (end - start) / 1024 + 1024;
    let mut rolling: Option<Rolling> = None;
    while position + BLOCK_BYTES as u64 <= end {
        let Some(window) = reader.window(position, BLOCK_BYTES + 1)? else { break };
        let (block, next) = window.split_at(BLOCK_BYTES.min(window.len()));
        let sum = rolling.unwrap_or_else(|| Rolling::of(block));
        let hit = if index.may_have(sum.weak()) && hashes_left > 0 {
            let candidates = index.candidates(sum.weak());
            hashes_left -= u64::from(!candidates.is_empty());
            let hash = if candidates.is_empty() { [0; 8] } else { strong(block) };
            candidates.iter().find(|(_, block)| index.sums.strong(*block as usize) == hash)
        } else {
            None
        };
        if let Some((_, block)) = hit {
            if position > gap {
                push(segments, Segment::Gap { offset: gap, length: position - gap, region: None });
            }
            position = extend(&mut reader, position, *block as usize, index.sums, segments)?;
            gap = position;
            rolling = None;
            continue;
        }
        let Some(new) = next.first() else { break };
        let mut sum = sum;
        sum.roll(BLOCK_WIDTH, block[0], *new);
        rolling = Some(sum);
        position += 1;
    }
    if end > gap {
        push(segments, Segment::Gap { offset: gap, length: end - gap, region: None });
    }
    Ok(())
}

/// Follows a match block by block, across differing blocks as long as one of the next few matches; gives where it
/// ends.
fn extend(
    reader: &mut Reader<'_, impl ReadAt + ?Sized>,
    mut position: u64,
    mut block: usize,
    sums: &BlockSums,
    segments: &mut Vec<Segment>,
) -> io::Result<u64> {
    let whole = usize::try_from(sums.length / BLOCK_BYTES as u64).unwrap_or(usize::MAX).min(sums.count());
    'follow: loop {
        for ahead in 0..=SKIP_BLOCKS {
            let at = position + (ahead * BLOCK_BYTES) as u64;
            if block + ahead >= whole {
                break 'follow;
            }
            let Some(window) = reader.window(at, BLOCK_BYTES)?.filter(|w| w.len() == BLOCK_BYTES) else {
                break 'follow;
            };
            if strong(window) == sums.strong(block + ahead) {
                if ahead > 0 {
                    push(segments, Segment::Gap { offset: position, length: at - position, region: None });
                }
                let basis = ((block + ahead) * BLOCK_BYTES) as u64;
                push(segments, Segment::Copy { offset: at, basis, length: BLOCK_BYTES as u64 });
                position = at + BLOCK_BYTES as u64;
                block += ahead + 1;
                continue 'follow;
            }
        }
        break;
    }
    Ok(position)
}

/// Reads ahead of a position that only moves forward, but for the few blocks that [`extend`] looked ahead.
struct Reader<'a, S: ReadAt + ?Sized> {
    source: &'a S,
    buffer: Vec<u8>,
    start: u64,
    end: u64,
}

impl<S: ReadAt + ?Sized> Reader<'_, S> {
    /// `length` bytes from `position`, fewer only before the end; none when there are none.
    fn window(&mut self, position: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let want = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX).min(length);
        if want == 0 {
            return Ok(None);
        }
        let held = position.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        if held.is_none_or(|skip| skip + want > self.buffer.len()) {
            let fill = usize::try_from(self.end - position).unwrap_or(usize::MAX).min(WINDOW_BYTES);
            self.buffer.resize(fill, 0);
            if self.source.read_full_at(position, &mut self.buffer)? < fill {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.start = position;
        }
        let skip = usize::try_from(position - self.start).unwrap_or(0);
        Ok(Some(&self.buffer[skip..skip + want]))
    }
}

/// Appends a segment, joining it to the one before where they are one.
fn push(segments: &mut Vec<Segment>, segment: Segment) {
    match (segments.last_mut(), segment) {
        (Some(Segment::Copy { basis, length, .. }), Segment::Copy { basis: next, length: more, .. })
            if *basis + *length == next =>
        {
            *length += more;
        }
        (Some(Segment::Gap { length, .. }), Segment::Gap { length: more, .. }) => *length += more,
        _ => segments.push(segment),
    }
}

/// Names for each gap the stretch of the basis between its neighbours: what was there before the edit.
fn assign_regions(segments: &mut [Segment], basis_length: u64) {
    /// A shorter gap is not worth a signature.
    const WORTH_BYTES: u64 = 3072;
    let mut next_basis = basis_length;
    let mut after = vec![basis_length; segments.len()];
    for (index, segment) in segments.iter().enumerate().rev() {
        after[index] = next_basis;
        if let Segment::Copy { basis, .. } = segment {
            next_basis = *basis;
        }
    }
    let mut before = 0;
    for (segment, after) in segments.iter_mut().zip(after) {
        match segment {
            Segment::Copy { basis, length, .. } => before = *basis + *length,
            Segment::Gap { length, region, .. } => {
                let between = after.saturating_sub(before);
                if *length >= WORTH_BYTES && *length <= REGION_LIMIT_BYTES as u64 && between >= 512 {
                    let length = u32::try_from(between.min(REGION_LIMIT_BYTES as u64)).unwrap_or(0);
                    *region = Some((before, length));
                }
            }
            Segment::Hole { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sum_blocks;
    use super::*;

    /// Bytes without structure, the same for the same seed.
    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
        }
        bytes.truncate(length);
        bytes
    }

    fn segments(basis: &[u8], source: &[u8]) -> Vec<Segment> {
        let sums = sum_blocks(basis, basis.len() as u64).unwrap();
        let all = [Extent { offset: 0, length: source.len() as u64 }];
        let (segments, _) = find_unchanged(source, &all, source.len() as u64, &sums).unwrap();
        // Whatever is found must be true.
        let mut position = 0;
        for segment in &segments {
            match *segment {
                Segment::Copy { offset, basis: from, length } => {
                    let (o, b, l) = (offset as usize, from as usize, length as usize);
                    assert_eq!(offset, position);
                    assert!(source[o..o + l] == basis[b..b + l]);
                    position += length;
                }
                Segment::Gap { offset, length, .. } => {
                    assert_eq!(offset, position);
                    position += length;
                }
                Segment::Hole { length } => position += length,
            }
        }
        assert_eq!(position, source.len() as u64);
        segments
    }

    fn gap_bytes(segments: &[Segment]) -> u64 {
        segments.iter().map(|s| if let Segment::Gap { length, .. } = s { *length } else { 0 }).sum()
    }

    #[test]
    fn identical_is_one_copy() {
        let data = noise(5 * 1024 * 1024 + 77, 1);
        assert_eq!(
            segments(&data, &data),
            [Segment::Copy { offset: 0, basis: 0, length: data.len() as u64 }]
        );
    }

    #[test]
    fn a_page_edit_costs_its_block() {
        let basis = noise(8 << 20, 2);
        let mut source = basis.clone();
        source[3_000_000..3_008_192].copy_from_slice(&noise(8192, 3));
        let found = segments(&basis, &source);
        assert!(gap_bytes(&found) <= 2 * BLOCK_BYTES as u64);
        let gap = found.iter().find(|s| matches!(s, Segment::Gap { .. }));
        assert!(matches!(gap, Some(Segment::Gap { offset, length, region: Some((at, len)) })
            if offset == at && u64::from(*len) == *length));
    }

    #[test]
    fn insertions_at_odd_places_do_not_spoil_what_follows() {
        let basis = noise(24 << 20, 4);
        let mut source = basis.clone();
        source.splice(15_000_001..15_000_001, noise(17, 5));
        source.splice(2_000_001..2_000_001, noise(1_048_573, 6));
        let found = segments(&basis, &source);
        assert!(gap_bytes(&found) < 1_048_573 + 6 * BLOCK_BYTES as u64, "{}", gap_bytes(&found));
    }

    #[test]
    fn a_removal_is_followed_too() {
        let basis = noise(12 << 20, 7);
        let mut source = basis.clone();
        source.drain(1_000_003..3_000_000);
        assert!(gap_bytes(&segments(&basis, &source)) < 4 * BLOCK_BYTES as u64);
    }

    #[test]
    fn nothing_alike_is_all_gap() {
        let found = segments(&noise(4 << 20, 8), &noise(4 << 20, 9));
        assert_eq!(gap_bytes(&found), 4 << 20);
    }

    #[test]
    fn holes_stay_holes() {
        let basis = noise(4 << 20, 10);
        let mut source = basis.clone();
        source[1 << 20..2 << 20].fill(0);
        let sums = sum_blocks(&basis[..], basis.len() as u64).unwrap();
        let extents = [Extent { offset: 0, length: 1 << 20 }, Extent { offset: 2 << 20, length: 2 << 20 }];
        let (found, _) = find_unchanged(&source[..], &extents, 4 << 20, &sums).unwrap();
        assert_eq!(
            found,
            [
                Segment::Copy { offset: 0, basis: 0, length: 1 << 20 },
                Segment::Hole { length: 1 << 20 },
                Segment::Copy { offset: 2 << 20, basis: 2 << 20, length: 2 << 20 },
            ]
        );
    }
}
