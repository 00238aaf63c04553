//! Throughput of the delta: describing a basis, finding what did not change, and the fine level.
//!
//! All data is in memory and warm, so this is the work of the processor and nothing else. Rates are of the longer
//! file's bytes, in MB (10^6 bytes) a second.
#![allow(clippy::print_stdout)]

mod common;

use common::{Arguments, Result, Table, Timing};
use syncore::delta::{
    BlockSums, Extent, Matcher, PageSums, RegionSignature, Segment, apply_delta, sum_blocks,
};

const MIB: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;

/// What one region of the second table is long.
const REGION_BYTES: usize = MIB;

/// A basis and what became of it.
struct Case {
    name: &'static str,
    basis: Vec<u8>,
    source: Vec<u8>,
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Changes one page in each hundred, never at the same place of it.
fn edit_pages(basis: &[u8]) -> Vec<u8> {
    let mut source = basis.to_vec();
    let pages = basis.len() / PAGE_BYTES;
    for edit in 0..pages / 100 {
        let page = edit * 100 + edit * 37 % 100;
        let content = noise(1_000 + edit as u64, PAGE_BYTES);
        source[page * PAGE_BYTES..(page + 1) * PAGE_BYTES].copy_from_slice(&content);
    }
    source
}

/// Inserts a few bytes at an odd offset in the first third.
fn insert(basis: &[u8]) -> Vec<u8> {
    let at = (basis.len() / 3) | 1;
    [&basis[..at], &noise(2, 12_345), &basis[at..]].concat()
}

fn case(name: &'static str, length: usize) -> Case {
    let basis = noise(1, length);
    let source = match name {
        "identical" => basis.clone(),
        "1 % of pages" => edit_pages(&basis),
        "insertion" => insert(&basis),
        _ => noise(3, length),
    };
    Case { name, basis, source }
}

const NAMES: [&str; 4] = ["identical", "1 % of pages", "insertion", "random"];

fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    let sizes: &[usize] = if arguments.quick { &[64] } else { &[64, 256] };
    println!("median of {}, {} processors\n", arguments.runs, std::thread::available_parallelism()?);
    let mut whole = Table::new(&[
        "whole file",
        "MiB",
        "sum_blocks MB/s",
        "Matcher MB/s",
        "gaps MiB",
        "fine level MB/s",
        "literal MiB",
        "spread %",
    ]);
    for size in sizes {
        for name in NAMES {
            whole.line(&whole_file(&case(name, size * MIB), arguments.runs)?);
        }
    }
    println!("{}", whole.text());
    let mut regions = Table::new(&[
        "regions of 1 MiB",
        "MiB",
        "of MB/s",
        "diff MB/s",
        "apply MB/s",
        "delta MiB",
        "spread %",
    ]);
    for name in NAMES {
        regions.line(&by_regions(&case(name, sizes[0] * MIB), arguments.runs)?);
    }
    println!("{}", regions.text());
    Ok(())
}

/// Both levels, as a run uses them.
fn whole_file(case: &Case, runs: usize) -> Result<Vec<String>> {
    let (basis, source) = (&case.basis[..], &case.source[..]);
    let length = source.len() as u64;
    let all = [Extent { offset: 0, length: basis.len() as u64 }];
    let summing = Timing::of(runs, || Ok(sum_blocks(basis, &all, basis.len() as u64)?))?;
    let (sums, _) = sum_blocks(basis, &all, basis.len() as u64)?;
    let finding = Timing::of(runs, || find(source, &sums))?;
    let segments = find(source, &sums)?;
    let gaps: u64 = segments.iter().map(gap_bytes).sum();
    let refining = Timing::of(runs, || refine(case, &segments))?;
    let literal = refine(case, &segments)?;
    let spread = [summing, finding, refining].map(|timing| timing.spread_percent);
    // Gaps that resemble no region of the basis go as they are.
    let similar: u64 = segments.iter().filter(|gap| has_region(gap)).map(gap_bytes).sum();
    let refined = if similar == 0 { "-".to_owned() } else { megabytes(&refining, similar) };
    Ok(vec![
        case.name.to_owned(),
        (basis.len() / MIB).to_string(),
        megabytes(&summing, basis.len() as u64),
        megabytes(&finding, length),
        mebibytes(gaps),
        refined,
        mebibytes(literal),
        widest(if similar == 0 { &spread[..2] } else { &spread }),
    ])
}

fn find(source: &[u8], sums: &BlockSums) -> Result<Vec<Segment>> {
    let length = source.len() as u64;
    Ok(Matcher::new(source, &[Extent { offset: 0, length }], length, sums).collect::<std::io::Result<_>>()?)
}

fn gap_bytes(segment: &Segment) -> u64 {
    if let Segment::Gap { length, .. } = segment { *length } else { 0 }
}

fn has_region(segment: &Segment) -> bool {
    matches!(segment, Segment::Gap { region: Some(_), .. })
}

/// Signs, compares and applies every gap; gives the bytes that would be sent.
fn refine(case: &Case, segments: &[Segment]) -> Result<u64> {
    let mut literal = 0;
    for segment in segments {
        let Segment::Gap { offset, length, region } = *segment else { continue };
        let made = slice(&case.source, offset, length)?;
        let delta = match region {
            None => None,
            Some((at, region_length)) if u64::from(region_length) == length => {
                let runs = PageSums::of(slice(&case.basis, at, length)?).compare(made)?;
                literal +=
                    runs.iter().map(|(_, length, same)| if *same { 0 } else { *length as u64 }).sum::<u64>();
                continue;
            }
            Some((at, region_length)) => {
                let region = slice(&case.basis, at, region_length.into())?;
                let delta = RegionSignature::of(region).diff(made)?;
                if let Some(delta) = &delta {
                    std::hint::black_box(apply_delta(region, delta, made.len())?);
                }
                delta
            }
        };
        literal += delta.map_or(length, |delta| delta.len() as u64);
    }
    Ok(literal)
}

fn slice(bytes: &[u8], offset: u64, length: u64) -> Result<&[u8]> {
    let start = usize::try_from(offset)?;
    let end = (start + usize::try_from(length)?).min(bytes.len());
    Ok(bytes.get(start..end).ok_or("a region beyond the end")?)
}

/// The fine level alone, region against region.
fn by_regions(case: &Case, runs: usize) -> Result<Vec<String>> {
    let pairs = || case.basis.chunks(REGION_BYTES).zip(case.source.chunks(REGION_BYTES));
    let length = pairs().map(|(_, source)| source.len() as u64).sum();
    let signing =
        Timing::of(runs, || Ok(pairs().map(|(basis, _)| RegionSignature::of(basis)).collect::<Vec<_>>()))?;
    let signatures: Vec<_> = pairs().map(|(basis, _)| RegionSignature::of(basis)).collect();
    let diff = || -> Result<Vec<Option<Vec<u8>>>> {
        let deltas = signatures.iter().zip(pairs()).map(|(signature, (_, source))| signature.diff(source));
        Ok(deltas.collect::<std::result::Result<_, _>>()?)
    };
    let diffing = Timing::of(runs, diff)?;
    let deltas = diff()?;
    let deltas_bytes = deltas
        .iter()
        .zip(pairs())
        .map(|(delta, (_, source))| delta.as_ref().map_or(source.len(), Vec::len) as u64);
    let deltas_bytes = deltas_bytes.sum();
    let applicable = || deltas.iter().zip(pairs()).filter_map(|(delta, pair)| Some((delta.as_ref()?, pair)));
    let applied = applicable().map(|(_, (_, source))| source.len() as u64).sum();
    let applying = Timing::of(runs, || {
        let made = applicable().map(|(delta, (basis, source))| apply_delta(basis, delta, source.len()));
        Ok(made.collect::<std::result::Result<Vec<_>, _>>()?)
    })?;
    Ok(vec![
        case.name.to_owned(),
        mebibytes(length),
        megabytes(&signing, length),
        megabytes(&diffing, length),
        // Unrelated data has no delta that is worth it.
        if applied == 0 { "-".to_owned() } else { megabytes(&applying, applied) },
        mebibytes(deltas_bytes),
        widest(&[signing.spread_percent, diffing.spread_percent]),
    ])
}

fn megabytes(timing: &Timing, bytes: u64) -> String {
    format!("{:.0}", timing.rate(bytes) / 1e6)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / MIB as f64)
}

fn widest(spreads: &[f64]) -> String {
    format!("{:.0}", spreads.iter().copied().fold(0.0, f64::max))
}
