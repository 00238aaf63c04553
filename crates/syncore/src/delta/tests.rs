//! The first level held against the files themselves, and both levels put together again.

use super::matcher::{Extent, Matcher, Segment};
use super::{BLOCK_BYTES, PageSums, RegionSignature, apply_delta, sum_blocks};

/// Bytes without structure, the same for the same seed.
pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn all(bytes: &[u8]) -> [Extent; 1] {
    [Extent { offset: 0, length: bytes.len() as u64 }]
}

/// What is found, copies that go on put together. Whatever is found must be true.
fn segments_of(basis: &[u8], source: &[u8], extents: &[Extent]) -> Vec<Segment> {
    let (sums, _) = sum_blocks(basis, &all(basis), basis.len() as u64).unwrap();
    let mut position = 0;
    let mut segments: Vec<Segment> = Vec::new();
    for segment in Matcher::new(source, extents, source.len() as u64, &sums) {
        let segment = segment.unwrap();
        match &segment {
            Segment::Copy { offset, basis: from, length, hashes } => {
                let (o, b, l) = (*offset as usize, *from as usize, *length as usize);
                assert_eq!(*offset, position);
                assert!(source[o..o + l] == basis[b..b + l]);
                let expected: Vec<_> = source[o..o + l]
                    .chunks(BLOCK_BYTES)
                    .map(|piece| *blake3::hash(piece).as_bytes())
                    .collect();
                assert_eq!((b % BLOCK_BYTES, hashes), (0, &expected));
                position += length;
            }
            Segment::Gap { offset, length, region } => {
                assert_eq!(*offset, position);
                let region_end = region.map_or(0, |(at, length)| at + u64::from(length));
                assert!(region_end <= basis.len() as u64);
                position += length;
            }
            Segment::Hole { length } => position += length,
        }
        match (segments.last_mut(), segment) {
            (
                Some(Segment::Copy { basis, length, hashes, .. }),
                Segment::Copy { basis: next, length: more, hashes: more_hashes, .. },
            ) if *basis + *length == next => {
                *length += more;
                hashes.extend(more_hashes);
            }
            (_, segment) => segments.push(segment),
        }
    }
    assert_eq!(position, source.len() as u64);
    segments
}

fn segments(basis: &[u8], source: &[u8]) -> Vec<Segment> {
    segments_of(basis, source, &all(source))
}

fn gap_bytes(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| if let Segment::Gap { length, .. } = s { *length } else { 0 }).sum()
}

/// Puts the source together again of both levels' answers; gives what was literal of it.
fn literal_bytes(basis: &[u8], source: &[u8], segments: &[Segment]) -> usize {
    let (mut made, mut literal) = (Vec::new(), 0);
    for segment in segments {
        match segment {
            Segment::Copy { basis: from, length, .. } => {
                made.extend_from_slice(&basis[*from as usize..(*from + *length) as usize]);
            }
            Segment::Gap { offset, length, region } => {
                let data = &source[*offset as usize..(*offset + *length) as usize];
                let region = region.map(|(at, length)| (at as usize, length as usize));
                match region {
                    Some((at, length)) if length == data.len() => {
                        let runs = PageSums::of(&basis[at..at + length]).compare(data).unwrap();
                        for (from, length, same) in runs {
                            let of = if same { &basis[at..] } else { data };
                            made.extend_from_slice(&of[from..from + length]);
                            literal += if same { 0 } else { length };
                        }
                    }
                    Some((at, length)) => {
                        let region = &basis[at..at + length];
                        match RegionSignature::of(region).diff(data).unwrap() {
                            Some(delta) => {
                                made.extend(apply_delta(region, &delta, data.len()).unwrap());
                                literal += delta.len();
                            }
                            None => {
                                made.extend_from_slice(data);
                                literal += data.len();
                            }
                        }
                    }
                    None => {
                        made.extend_from_slice(data);
                        literal += data.len();
                    }
                }
            }
            Segment::Hole { length } => made.resize(made.len() + *length as usize, 0),
        }
    }
    assert!(made == source, "what was put together is not the source");
    literal
}

#[test]
fn identical_is_one_copy() {
    let data = noise(5 * 1024 * 1024 + 77, 1);
    let found = segments(&data, &data);
    let copied =
        |s: &Segment| matches!(s, Segment::Copy { offset: 0, basis: 0, length, .. } if *length == 5_242_957);
    assert!(found.len() == 1 && copied(&found[0]), "{found:?}");
}

#[test]
fn edited_pages_cost_themselves() {
    let basis = noise(40 << 20, 2);
    let mut source = basis.clone();
    let pages = [0, 1, 500, 515, 516, 3000, 10_239];
    for page in pages {
        source[page * 4096..(page + 1) * 4096].copy_from_slice(&noise(4096, 100 + page as u64));
    }
    let found = segments(&basis, &source);
    assert_eq!(literal_bytes(&basis, &source, &found), pages.len() * 4096);
}

#[test]
fn a_stretch_where_every_block_was_edited_costs_its_pages() {
    let basis = noise(24 << 20, 3);
    let mut source = basis.clone();
    for block in 32..32 + 256 {
        source[block * BLOCK_BYTES + 5000] ^= 1;
    }
    let found = segments(&basis, &source);
    assert_eq!(literal_bytes(&basis, &source, &found), 256 * 4096);
}

#[test]
fn insertions_at_odd_places_do_not_spoil_what_follows() {
    let basis = noise(24 << 20, 4);
    let mut source = basis.clone();
    source.splice(15_000_001..15_000_001, noise(17, 5));
    source.splice(2_000_001..2_000_001, noise(1_048_573, 6));
    let found = segments(&basis, &source);
    assert!(gap_bytes(&found) < 1_048_573 + 6 * BLOCK_BYTES as u64, "{}", gap_bytes(&found));
    let literal = literal_bytes(&basis, &source, &found);
    assert!(literal < 1_048_573 + 40_000, "{literal}");
}

#[test]
fn a_removal_is_followed_too() {
    let basis = noise(12 << 20, 7);
    let mut source = basis.clone();
    source.drain(1_000_003..3_000_000);
    let found = segments(&basis, &source);
    assert!(gap_bytes(&found) < 4 * BLOCK_BYTES as u64);
    assert!(literal_bytes(&basis, &source, &found) < 32_768);
}

#[test]
fn blocks_that_changed_places_are_found() {
    let basis = noise(16 << 20, 8);
    let mut source = Vec::new();
    for index in 0..16_usize {
        let from = (index * 7 % 16) << 20;
        source.extend_from_slice(&basis[from..from + (1 << 20)]);
    }
    assert_eq!(gap_bytes(&segments(&basis, &source)), 0);
}

#[test]
fn nothing_alike_is_all_literal() {
    let (basis, source) = (noise(14 << 20, 9), noise((14 << 20) + 5, 10));
    let found = segments(&basis, &source);
    assert_eq!(gap_bytes(&found), source.len() as u64);
    assert_eq!(literal_bytes(&basis, &source, &found), source.len());
}

#[test]
fn holes_stay_holes() {
    let basis = noise(4 << 20, 11);
    let mut source = basis.clone();
    source[1 << 20..2 << 20].fill(0);
    let extents = [Extent { offset: 0, length: 1 << 20 }, Extent { offset: 2 << 20, length: 2 << 20 }];
    let found = segments_of(&basis, &source, &extents);
    assert!(
        matches!(
            found[..],
            [
                Segment::Copy { offset: 0, basis: 0, length: 0x10_0000, .. },
                Segment::Hole { length: 0x10_0000 },
                Segment::Copy { offset: 0x20_0000, basis: 0x20_0000, length: 0x20_0000, .. },
            ]
        ),
        "{found:?}"
    );
}

#[test]
fn a_source_that_became_shorter_is_an_error_and_the_last_thing() {
    let data = noise(3 << 20, 12);
    let (sums, _) = sum_blocks(&data[..], &all(&data), data.len() as u64).unwrap();
    let extents = all(&data);
    let mut found = Matcher::new(&data[..2 << 20], &extents, 3 << 20, &sums);
    let error = found.by_ref().find_map(Result::err).unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(found.next().is_none());
}

/// Edits of every kind, at any place: what is put together must be the source, and no more literal than was touched.
#[test]
fn any_edits_come_out_right() {
    let mut state = 99_u64;
    let mut below = move |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    for round in 0..40 {
        let mut basis = noise((1 << 20) + 1 + below(6 << 20), round);
        if round % 4 == 0 {
            // Much that is alike, for which the weak sum is no help.
            let (at, length) = (below(1 << 20), below(basis.len() - (1 << 20)));
            basis[at..at + length].fill(0);
        }
        let mut source = basis.clone();
        let mut touched = 0;
        for edit in 0..below(6) {
            let at = below(source.len());
            let length = [1, 17, 4096, 70_000, 1_500_000][below(5)].min(source.len() - at);
            let new = noise(length, round * 100 + edit as u64);
            touched += length;
            match below(4) {
                0 => source[at..at + length].copy_from_slice(&new),
                1 => drop(source.splice(at..at, new)),
                2 => drop(source.drain(at..at + length)),
                _ => {
                    let moved: Vec<u8> = source.drain(at..at + length).collect();
                    let to = below(source.len() + 1);
                    source.splice(to..to, moved);
                }
            }
        }
        let found = segments(&basis, &source);
        let literal = literal_bytes(&basis, &source, &found);
        let bound = touched + 12 * 2 * BLOCK_BYTES;
        assert!(literal <= bound, "round {round}: {literal} literal bytes for {touched} touched");
    }
}
