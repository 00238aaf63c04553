//! clonetool against the rsync of this machine: the same work, side by side, in one run.
//!
//! Why: a claim such as "twice as fast as rsync" holds for one pair of programs on one machine on one day, so both
//! are measured here and now. What can go wrong, and what is done about it: one tool profits from what the other
//! left in the caches (both trees are read beforehand, the destination is put back before each run, and the order
//! of the two changes from run to run); bytes are counted in two ways (one relay counts for both); the work is not
//! done at all (an independent comparison follows); the disk is not yet written when the clock stops (each row is
//! measured without and with flushing).
//!
//! The remote rows go through a real sshd on the loopback interface, with keys made for this run.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod chart;
mod curve;
mod fixture;
mod link;
mod measure;
mod memory;
mod report;
mod shim;
mod ssh;
mod table;
mod workload;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use fixture::Fixtures;
use measure::Outcome;
use report::Report;
use workload::{Data, Scale, Selection, Workload};

/// Any failure of the benchmark itself; the messages are for whoever started it.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Compare clonetool with rsync.
#[derive(Parser)]
struct Arguments {
    /// Runs of each tool for each row; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Smaller data: 20,000 files in place of 200,000 and 256 MiB in place of 2 GiB. The goals do not apply.
    #[arg(long)]
    quick: bool,
    /// Also the workload of a million entries.
    #[arg(long)]
    full: bool,
    /// Only these: rows as W3 or L-W2, memory as M1, charts as C1 (with --charts).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Also the peak memory of clonetool.
    #[arg(long)]
    memory: bool,
    /// Write the tables to this Markdown file, between its lines `<!-- measured: begin -->` and `… end -->`.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Also draw how cost grows into this directory, as cost-by-size.svg and cost-by-change.svg.
    #[arg(long, value_name = "DIRECTORY")]
    charts: Option<PathBuf>,
    /// The clonetool to measure, in place of the one just built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_clonetool"))]
    clonetool: PathBuf,
    /// The rsync to compare with, at both ends.
    #[arg(long, value_name = "PATH", default_value = "rsync")]
    rsync: PathBuf,
    /// Where the data goes: up to 20 GB, on the filesystem that is to be measured.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    directory: PathBuf,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "shim") {
        return shim::run(words);
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versus-rsync: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.bench {
        // `cargo bench` starts this in the package; whoever typed a relative path stood at the top.
        std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))?;
    }
    let scale = if arguments.quick { Scale::QUICK } else { Scale::WHOLE };
    let selection = Selection { only: &arguments.only };
    let all = workload::all(scale);
    let ids = all.iter().map(|workload| workload.id.clone()).chain(memory::IDS.map(str::to_owned));
    let ids = ids.chain(curve::IDS.map(str::to_owned));
    selection.check(&ids.collect::<Vec<_>>())?;
    let wanted = |w: &&Workload| selection.has(&w.id, arguments.full || w.data != Data::MostFilesTwice);
    let workloads: Vec<Workload> = all.iter().filter(wanted).cloned().collect();
    if let Some(directory) = arguments.charts.as_ref().filter(|directory| !directory.is_dir()) {
        return Err(format!("{}: there is no such directory", directory.display()).into());
    }
    if arguments.charts.is_none() && curve::IDS.iter().any(|id| selection.has(id, false)) {
        return Err("a chart needs --charts DIRECTORY".into());
    }
    arguments.markdown.as_deref().map_or(Ok(()), table::check_page)?;
    let rsync = measure::locate(&arguments.rsync)?;
    let mut fixtures = Fixtures::new(&arguments.directory, scale, &rsync)?;
    let tools = measure::Tools::new(&arguments.clonetool, rsync, fixtures.directory())?;
    let mut report = Report::new(&tools, arguments.runs, arguments.quick)?;
    for index in workload::by_data(&workloads) {
        let workload = &workloads[index];
        let outcome = match fixtures.make(workload.data) {
            Ok(data) => measure::workload(&tools, workload, &data, &fixtures, arguments.runs)?,
            Err(error) => Outcome::skipped(workload, &error.to_string()),
        };
        report.add(index, outcome);
    }
    memory::measure(&tools, &mut fixtures, &selection, arguments.memory, arguments.quick, |peak| {
        report.add_peak(peak);
    })?;
    if let Some(directory) = &arguments.charts {
        curve::draw(&tools, &mut fixtures, &selection, directory, arguments.quick, arguments.runs)?;
    }
    println!("{}", report.text());
    if let Some(file) = &arguments.markdown {
        table::replace_measured(file, &report.markdown())?;
    }
    Ok(())
}
