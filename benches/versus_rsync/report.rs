//! The table: what was measured, what was to be reached, and whether it was.

use std::fmt::Write as _;

use crate::Result;
use crate::measure::{Flush, Outcome, RSYNC_OPTIONS, Row, Tools};
use crate::ssh::command_output;
use crate::workload::{ByteGoal, Workload, thousands};

const HEADERS: [&str; 10] = [
    "",
    "workload",
    "to disk",
    "rsync",
    "clonetool",
    "time ratio (goal)",
    "rsync bytes",
    "clonetool bytes",
    "bytes ratio (goal)",
    "verdict",
];

/// Collects outcomes and prints them.
pub(crate) struct Report {
    outcomes: Vec<Outcome>,
    machine: Vec<String>,
    quick: bool,
}

impl Report {
    /// Notes what everything is measured on.
    pub(crate) fn new(tools: &Tools, runs: u32, quick: bool) -> Result<Self> {
        let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu_info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1))
            .unwrap_or("an unknown processor")
            .trim();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
        let (clonetool, rsync) = (tools.clonetool().to_string_lossy(), tools.rsync().to_string_lossy());
        let machine = vec![
            format!("{cores} cores of {cpu}, Linux {}", command_output("uname", &["-rm"])?),
            format!(
                "rsync: {}, {}",
                first_line(command_output(&rsync, &["--version"])?),
                RSYNC_OPTIONS.join(" ")
            ),
            format!("clonetool: {}", first_line(command_output(&clonetool, &["--version"])?)),
            format!("median of {runs}, warm caches, sshd on the loopback interface"),
        ];
        Ok(Self { outcomes: Vec::new(), machine, quick })
    }

    /// A workload that was measured, or was tried.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// A workload without data.
    pub(crate) fn skip(&mut self, workload: &Workload, reason: &str) {
        eprintln!("versus-rsync: {} is skipped: {reason}", workload.id);
        self.outcomes.push(Outcome { workload: workload.clone(), rows: Err(format!("skipped: {reason}")) });
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let rows = self.rows();
        let widths: Vec<usize> = (0..HEADERS.len())
            .map(|column| {
                let cells = rows.iter().map(|row| row[column].chars().count());
                cells.chain([HEADERS[column].len()]).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        let mut line = |cells: &[String]| {
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let _ = match column {
                    3..=8 => write!(text, "{cell:>width$}  "),
                    _ => write!(text, "{cell:width$}  "),
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        };
        line(&HEADERS.map(str::to_owned));
        rows.iter().for_each(|row| line(row));
        format!("\n{}\n\n{text}{}", self.machine.join("\n"), self.caveat())
    }

    /// For `doc/performance.md`.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from(
            "# Performance\n\nWritten by `make bench BENCH_ARGS=\"--runs 5 --markdown doc/performance.md\"`; do not edit.\n\n\
             Both tools do the same work in one run on one machine, in turn, and the destination is put back to its\n\
             initial state before each. *To disk: no* is the time until the program ends (clonetool with\n\
             `--no-durable`); *to disk: yes* is the time until everything is on stable storage (clonetool as it is,\n\
             rsync followed by `sync -f` of the destination). Bytes are what passes through ssh, in both directions\n\
             together, counted by one relay for both. After its first run rsync compares what clonetool made, content\n\
             included, and must find nothing to do. A ratio is clonetool to rsync: less is better.\n\n",
        );
        for line in &self.machine {
            let _ = writeln!(text, "* {line}");
        }
        let _ = writeln!(text, "\n| {} |", HEADERS.join(" | "));
        let _ = writeln!(text, "|---|---|---|--:|--:|--:|--:|--:|--:|---|");
        for row in self.rows() {
            let _ = writeln!(text, "| {} |", row.map(|cell| cell.replace('|', "\\|")).join(" | "));
        }
        text + &self.caveat()
    }

    fn caveat(&self) -> String {
        if self.quick {
            "\nSmall data (--quick): the goals are for the whole.\n".to_owned()
        } else {
            String::new()
        }
    }

    fn rows(&self) -> Vec<[String; 10]> {
        let mut rows = Vec::new();
        for outcome in &self.outcomes {
            match &outcome.rows {
                Ok(measured) => rows.extend(measured.iter().map(|row| cells(&outcome.workload, row))),
                Err(reason) => {
                    let mut row: [String; 10] = Default::default();
                    row[0] = outcome.workload.id.to_owned();
                    row[1].clone_from(&outcome.workload.title);
                    row[9].clone_from(reason);
                    rows.push(row);
                }
            }
        }
        rows
    }
}

fn cells(workload: &Workload, row: &Row) -> [String; 10] {
    let time = row.clonetool.seconds / row.rsync.seconds;
    let mut missed = Vec::new();
    if time > workload.time_goal {
        missed.push("time");
    }
    let bytes = match (row.rsync.bytes, row.clonetool.bytes) {
        (Some(rsync), Some(clonetool)) => {
            let ratio = as_f64(clonetool) / as_f64(rsync.max(1));
            let (goal, met) = match workload.byte_goal {
                Some(ByteGoal::Ratio(goal)) => (format!(" (≤ {goal})"), ratio <= goal),
                Some(ByteGoal::AtMost(goal)) => (format!(" (≤ {} B)", thousands(goal)), clonetool <= goal),
                None => (String::new(), true),
            };
            if !met {
                missed.push("bytes");
            }
            [thousands(rsync), thousands(clonetool), format!("{ratio:.4}{goal}")]
        }
        _ => Default::default(),
    };
    let verdict = if missed.is_empty() { "met".to_owned() } else { format!("missed: {}", missed.join(", ")) };
    let [rsync_bytes, clonetool_bytes, byte_ratio] = bytes;
    [
        workload.id.to_owned(),
        workload.title.clone(),
        if row.flush == Flush::Yes { "yes" } else { "no" }.to_owned(),
        format!("{:.2} s", row.rsync.seconds),
        format!("{:.2} s", row.clonetool.seconds),
        format!("{time:.2} (≤ {})", workload.time_goal),
        rsync_bytes,
        clonetool_bytes,
        byte_ratio,
        verdict,
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 52 bits")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
