//! Rate of the scan, and of a whole comparison of two trees, in entries a second.
//!
//! The trees are generated, small files two hundred to a directory, and warm in the caches: what is measured is the
//! work for each entry, not the disk. A comparison is a dry run between two roots on this host and scans both. The
//! floor is what no scan can do without: each directory listed and each name asked for its metadata once.
#![allow(clippy::print_stdout)]

mod common;

use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use common::{Arguments, Result, Table, Timing};
use rayon::prelude::*;
use rustix::fs::{AtFlags, RawDir, StatxFlags, statx};
use syncore::monitor::Silent;
use syncore::profile::{Profile, shipped};
use syncore::rules::{Rule, RuleSet};
use syncore::scan::{BareList, Boundaries, KEPT_LINES_BYTES, Root, SETTLED_SECONDS, View, scan};
use syncore::session::{Approval, Job, Location, Options, Report, run};
use syncore::tree::NameKey;

const FILES_PER_DIRECTORY: u64 = 200;

fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    let sizes: &[u64] = if arguments.quick { &[20_000] } else { &[20_000, 200_000] };
    println!("median of {}, {} processors\n", arguments.runs, std::thread::available_parallelism()?);
    let mut table = Table::new(&["work", "entries", "changes", "seconds", "entries/s", "spread %"]);
    for size in sizes {
        measure(*size, arguments.runs, &mut table)?;
    }
    println!("{}", table.text());
    Ok(())
}

fn measure(entries: u64, runs: usize, table: &mut Table) -> Result<()> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (source, copy) = (directory.path().join("source"), directory.path().join("copy"));
    let empty = directory.path().join("empty");
    for root in [&source, &copy, &empty] {
        std::fs::create_dir(root)?;
    }
    generate(&source, entries)?;
    line(table, "floor", floor(&source)?, 0, Timing::of(runs, || floor(&source))?);
    let view = |rules, bare| -> Result<View> {
        Ok(View {
            root: Arc::new(Root::open(&source)?),
            rules: Arc::new(RuleSet::compile(rules)?),
            boundaries: Arc::new(Boundaries::default()),
            checksum: false,
            slice: None,
            presented: Arc::default(),
            names: NameKey::default(),
            bare,
        })
    };
    let mut scanned = |work, view: &View| -> Result<()> {
        let scanned = || Ok(scan(view, KEPT_LINES_BYTES, &Silent)?.ok_or("the scan stopped")?.entries);
        let count = scanned()?;
        line(table, work, count, 0, Timing::of(runs, scanned)?);
        Ok(())
    };
    scanned("scan", &view(Vec::new(), None)?)?;
    scanned("scan, linux-daily", &view(daily()?, None)?)?;
    // The trees are younger than what is kept may be; nothing tells of that moment but the clock.
    std::thread::sleep(Duration::from_secs(SETTLED_SECONDS.unsigned_abs() + 1));
    let lists = directory.path().join("lists");
    let list = || Arc::new(BareList::load(&lists, b"source", true));
    let learning = list();
    scan(&view(Vec::new(), Some(Arc::clone(&learning)))?, KEPT_LINES_BYTES, &Silent)?;
    learning.save()?;
    if lists.exists() {
        scanned("scan, attributes known", &view(Vec::new(), Some(list()))?)?;
    } else {
        println!("not measured: a scan that knows the attributes; nothing is believed of this filesystem\n");
    }
    compare(&source, &copy, false)?;
    let mut comparison = |work, standby: &Path| -> Result<()> {
        let (report, changes) = compare(&source, standby, true)?;
        let timing = Timing::of(runs, || compare(&source, standby, true))?;
        line(table, work, report.entries_scanned, changes, timing);
        Ok(())
    };
    comparison("compare, equal", &copy)?;
    comparison("compare, empty standby", &empty)?;
    for number in (0..entries).step_by(100) {
        let later = UNIX_EPOCH + Duration::from_secs(1_100_000_000);
        std::fs::File::options().write(true).open(file(&source, number))?.set_modified(later)?;
    }
    comparison("compare, 1 % touched", &copy)
}

fn line(table: &mut Table, work: &str, entries: u64, changes: usize, timing: Timing) {
    table.line(&[
        work.to_owned(),
        entries.to_string(),
        changes.to_string(),
        format!("{:.3}", timing.median.as_secs_f64()),
        format!("{:.0}", timing.rate(entries)),
        format!("{:.0}", timing.spread_percent),
    ]);
}

fn file(root: &Path, number: u64) -> std::path::PathBuf {
    let (directory, file) = (number / FILES_PER_DIRECTORY, number % FILES_PER_DIRECTORY);
    root.join(format!("directory-{directory:04}/file-{file:03}"))
}

fn generate(root: &Path, entries: u64) -> Result<()> {
    for number in 0..entries {
        let path = file(root, number);
        if number % FILES_PER_DIRECTORY == 0 {
            std::fs::create_dir(path.parent().ok_or("no parent")?)?;
        }
        std::fs::write(path, format!("content of file {number}\n"))?;
    }
    Ok(())
}

/// Lists every directory below `root` and asks each name once, on all processors; gives how many names there are.
fn floor(root: &Path) -> Result<u64> {
    let top: Vec<_> = std::fs::read_dir(root)?.collect::<std::io::Result<_>>()?;
    let names = |directory: &std::fs::DirEntry| -> std::io::Result<u64> {
        let directory = std::fs::File::open(directory.path())?;
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut listed = RawDir::new(&directory, &mut buffer);
        directory.metadata()?;
        let mut count = 1;
        while let Some(name) = listed.next() {
            let name = name?;
            if !matches!(name.file_name().to_bytes(), b"." | b"..") {
                let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
                statx(&directory, name.file_name(), flags, StatxFlags::BASIC_STATS)?;
                count += 1;
            }
        }
        Ok(count)
    };
    let counts: Vec<u64> = top.par_iter().map(names).collect::<std::io::Result<_>>()?;
    Ok(counts.iter().sum())
}

fn daily() -> Result<Vec<Rule>> {
    let (name, text) = shipped().iter().find(|(name, _)| *name == "linux-daily").ok_or("no linux-daily")?;
    Ok(Profile::parse(name, text, &|_| None)?.rules())
}

/// Clones, or makes the plan of that only.
fn compare(source: &Path, standby: &Path, dry_run: bool) -> Result<(Report, usize)> {
    let job = Job {
        source: Location::Local(source.to_owned()),
        destination: Location::Local(standby.to_owned()),
        rules: Vec::new(),
        options: Options { dry_run, delete: true, durable: false, ..Options::default() },
    };
    let mut changes = 0;
    let mut approve = |plan: &syncore::plan::Plan| {
        changes = plan.len();
        Approval::Run
    };
    let report = run(&job, &mut approve, &Silent)?;
    Ok((report, changes))
}
