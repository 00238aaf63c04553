//! The table: what was measured, what was to be reached, and whether it was.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::Result;
use crate::measure::{Outcome, RSYNC_OPTIONS, Row, Tools};
use crate::memory::Peak;
use crate::ssh::command_output;
use crate::table::Table;
use crate::workload::{ByteGoal, Flush, Workload, thousands};

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
const MEMORY_HEADERS: [&str; 5] =
    ["", "peak memory of the larger clonetool, SSH", "clonetool", "goal", "verdict"];

/// Collects outcomes and prints them.
pub(crate) struct Report {
    outcomes: BTreeMap<usize, Outcome>,
    peaks: Vec<Peak>,
    machine: Vec<String>,
    quick: bool,
}

/// One figure that is held against a goal.
struct Number {
    name: String,
    met: bool,
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
        let rsync = first_line(command_output(&rsync, &["--version"])?);
        let machine = vec![
            format!("{cores} cores of {cpu}, Linux {}", command_output("uname", &["-rm"])?),
            // It says `rsync  version 3.5.0  protocol version 32`.
            format!(
                "{}, {}",
                rsync.split_whitespace().collect::<Vec<_>>().join(" "),
                RSYNC_OPTIONS.join(" ")
            ),
            first_line(command_output(&clonetool, &["--version"])?),
            format!("median of {runs} (rows L: of at most 3), warm caches unless a row says cold"),
            "sshd on the loopback interface".to_owned(),
        ];
        Ok(Self { outcomes: BTreeMap::new(), peaks: Vec::new(), machine, quick })
    }

    /// A workload that was measured, or was tried; `position` is its place in the table.
    pub(crate) fn add(&mut self, position: usize, outcome: Outcome) {
        self.outcomes.insert(position, outcome);
    }

    /// A line of the table of memory.
    pub(crate) fn add_peak(&mut self, peak: Peak) {
        self.peaks.push(peak);
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("\n{}\n", self.machine.join("\n"));
        for table in self.tables() {
            let _ = write!(text, "\n{}", table.text());
        }
        text + "\n" + &self.summary()
    }

    /// For `doc/performance.md`.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for line in &self.machine {
            let _ = writeln!(text, "* {line}");
        }
        for table in self.tables() {
            let _ = write!(text, "\n{}", table.markdown());
        }
        text + "\n" + &self.summary()
    }

    fn tables(&self) -> Vec<Table> {
        let mut times = Table::new(&HEADERS, 3..=8);
        for outcome in self.outcomes.values() {
            match &outcome.rows {
                Ok(rows) => rows.iter().for_each(|row| times.row(cells(&outcome.workload, row))),
                Err(reason) => times.row(failed(&outcome.workload, reason)),
            }
        }
        let mut memory = Table::new(&MEMORY_HEADERS, 2..=3);
        self.peaks.iter().for_each(|peak| memory.row(peak_cells(peak)));
        [times, memory].into_iter().filter(|table| !table.is_empty()).collect()
    }

    /// How many goals were reached, and which were not.
    fn summary(&self) -> String {
        let mut all = Vec::new();
        let mut unmeasured = Vec::new();
        for outcome in self.outcomes.values() {
            match &outcome.rows {
                Ok(rows) => rows.iter().for_each(|row| all.extend(numbers(&outcome.workload, row))),
                Err(_) => unmeasured.push(outcome.workload.id.clone()),
            }
        }
        for peak in &self.peaks {
            match (&peak.kibibytes, peak.goal_kibibytes) {
                (Ok(kibibytes), Some(goal)) => {
                    all.push(Number { name: format!("{} memory", peak.id), met: *kibibytes <= goal });
                }
                (Ok(_), None) => {}
                (Err(_), _) => unmeasured.push(peak.id.clone()),
            }
        }
        let missed: Vec<_> = all.iter().filter(|n| !n.met).map(|n| n.name.as_str()).collect();
        let mut text = format!("{} of {} numbers met", all.len() - missed.len(), all.len());
        if !missed.is_empty() {
            let _ = write!(text, ", these missed: {}", missed.join(", "));
        }
        if !unmeasured.is_empty() {
            let _ = write!(text, "; not measured: {}", unmeasured.join(", "));
        }
        text.push_str(".\n");
        if self.quick {
            text.push_str("Small data (--quick): the goals are for the whole.\n");
        }
        text
    }
}

/// The goals of a row. `W5 time (flushed)` is the row that runs until everything is on disk.
fn numbers(workload: &Workload, row: &Row) -> Vec<Number> {
    let flushed = if row.flush == Flush::Yes { " (flushed)" } else { "" };
    let mut numbers = vec![Number {
        name: format!("{} time{flushed}", workload.id),
        met: row.clonetool.seconds / row.rsync.seconds <= workload.time_goal,
    }];
    if let (Some(goal), Some(rsync), Some(clonetool)) =
        (workload.byte_goal, row.rsync.bytes, row.clonetool.bytes)
    {
        let met = match goal {
            ByteGoal::Ratio(goal) => as_f64(clonetool) / as_f64(rsync.max(1)) <= goal,
            ByteGoal::AtMost(goal) => clonetool <= goal,
        };
        numbers.push(Number { name: format!("{} bytes{flushed}", workload.id), met });
    }
    numbers
}

fn cells(workload: &Workload, row: &Row) -> Vec<String> {
    let bytes = match (row.rsync.bytes, row.clonetool.bytes) {
        (Some(rsync), Some(clonetool)) => {
            let goal = match workload.byte_goal {
                Some(ByteGoal::Ratio(goal)) => format!(" (≤ {goal})"),
                Some(ByteGoal::AtMost(goal)) => format!(" (≤ {} B)", thousands(goal)),
                None => String::new(),
            };
            let ratio = as_f64(clonetool) / as_f64(rsync.max(1));
            [thousands(rsync), thousands(clonetool), format!("{ratio:.4}{goal}")]
        }
        _ => Default::default(),
    };
    let words = numbers(workload, row).into_iter().zip(["time", "bytes"]);
    let verdict: Vec<_> =
        words.map(|(number, word)| format!("{word} {}", if number.met { "met" } else { "missed" })).collect();
    let [rsync_bytes, clonetool_bytes, byte_ratio] = bytes;
    vec![
        workload.id.clone(),
        workload.title.clone(),
        if row.flush == Flush::Yes { "yes" } else { "no" }.to_owned(),
        format!("{:.2} s", row.rsync.seconds),
        format!("{:.2} s", row.clonetool.seconds),
        format!("{:.2} (≤ {})", row.clonetool.seconds / row.rsync.seconds, workload.time_goal),
        rsync_bytes,
        clonetool_bytes,
        byte_ratio,
        verdict.join(", "),
    ]
}

fn failed(workload: &Workload, reason: &str) -> Vec<String> {
    let mut row = vec![String::new(); HEADERS.len()];
    row[0].clone_from(&workload.id);
    row[1].clone_from(&workload.title);
    reason.clone_into(&mut row[HEADERS.len() - 1]);
    row
}

fn peak_cells(peak: &Peak) -> Vec<String> {
    let mebibytes = |kibibytes: u64| format!("{:.1} MiB", as_f64(kibibytes) / 1024.0);
    let goal = peak.goal_kibibytes.map(|goal| format!("≤ {}", mebibytes(goal))).unwrap_or_default();
    let (measured, verdict) = match (&peak.kibibytes, peak.goal_kibibytes) {
        (Ok(kibibytes), goal) => {
            let verdict = goal.map(|goal| if *kibibytes <= goal { "met" } else { "missed" });
            (mebibytes(*kibibytes), verdict.unwrap_or_default().to_owned())
        }
        (Err(reason), _) => (String::new(), reason.clone()),
    };
    vec![peak.id.clone(), peak.title.clone(), measured, goal, verdict]
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 52 bits")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
