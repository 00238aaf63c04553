//! What the benchmarks of the library share: the median of some runs, and a table.
//!
//! Why no framework: a median of a few runs of half a second says what is needed, and one that is printed beside its
//! neighbours says it at a glance. What can go wrong: a machine that does something else meanwhile; the spread beside
//! each median shows it.

use std::error::Error;
use std::time::{Duration, Instant};

/// Any failure of a benchmark; the message is for whoever started it.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How much to measure.
pub(crate) struct Arguments {
    /// Runs of each row; the median counts.
    pub(crate) runs: usize,
    /// Only the smaller data.
    pub(crate) quick: bool,
}

impl Arguments {
    /// Reads `--quick` and `--runs N`.
    pub(crate) fn read() -> Result<Self> {
        let (mut runs, mut quick) = (None, false);
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => quick = true,
                "--runs" => runs = Some(words.next().ok_or("--runs needs a number")?.parse()?),
                // Passed by `cargo bench`.
                "--bench" => {}
                other => return Err(format!("{other} is neither --quick nor --runs N").into()),
            }
        }
        let runs = runs.unwrap_or(if quick { 3 } else { 5 });
        if runs == 0 { Err("--runs needs at least 1".into()) } else { Ok(Self { runs, quick }) }
    }
}

/// The median and the spread of some runs.
#[derive(Clone, Copy)]
pub(crate) struct Timing {
    /// The run in the middle.
    pub(crate) median: Duration,
    /// How much longer the longest took than the shortest, in percent of the median.
    pub(crate) spread_percent: f64,
}

impl Timing {
    /// Of `runs` calls of `work`, whose results are thrown away after the clock has stopped.
    pub(crate) fn of<T>(runs: usize, mut work: impl FnMut() -> Result<T>) -> Result<Self> {
        let mut taken = Vec::new();
        for _ in 0..runs {
            let started = Instant::now();
            let result = std::hint::black_box(work()?);
            taken.push(started.elapsed());
            drop(result);
        }
        taken.sort_unstable();
        let (first, last) = (taken[0], taken[taken.len() - 1]);
        let median = taken[taken.len() / 2];
        let spread_percent = (last - first).as_secs_f64() / median.as_secs_f64().max(1e-9) * 100.0;
        Ok(Self { median, spread_percent })
    }

    /// How many of `count` things a second.
    pub(crate) fn rate(&self, count: u64) -> f64 {
        count as f64 / self.median.as_secs_f64().max(1e-9)
    }
}

/// Lines of equal columns, the first of them text.
#[derive(Default)]
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self(vec![headings.iter().map(|text| (*text).to_owned()).collect()])
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, cells: &[String]) {
        self.0.push(cells.to_vec());
    }

    /// The whole, as Markdown that reads well as it is.
    pub(crate) fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.0.iter().filter_map(|line| line.get(column)).map(String::len).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for (number, line) in self.0.iter().enumerate() {
            let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
            if number == 0 {
                let rule = widths.iter().enumerate().map(|(column, width)| {
                    let dashes = "-".repeat(width.saturating_sub(1));
                    if column == 0 { format!("-{dashes}") } else { format!("{dashes}:") }
                });
                text.push_str(&format!("| {} |\n", rule.collect::<Vec<_>>().join(" | ")));
            }
        }
        text
    }
}
