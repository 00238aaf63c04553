//! `clonetool history`: the runs, and one of them whole.
//!
//! Why: after a bad night somebody asks what ran and what came of it. What can go wrong: a run that is not in the list
//! and was there; what cannot be read and what is left out is said.

use std::ffi::OsString;
use std::fmt::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use syncore::profile::parse_duration;
use syncore::record::{Outcome as Recorded, Record, RunId, RunKind};

use crate::error::{CommandError, harmless};
use crate::health::{ending, one_line};
use crate::profiles;
use crate::records::{RecordsOptions, damaged_lines, now_seconds};
use crate::run::Outcome;
use crate::ui::log::utc;
use crate::ui::summary::seconds;
use crate::ui::{self, alert};

/// List the runs of sync, rollback, recover and verify, the latest first, or show one
#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// List runs of this profile
    profile: Option<OsString>,
    /// List at most N runs
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// List runs that began no longer ago than DURATION: 90m, 26h, 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    /// List runs that ended so
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<Ending>,
    /// Show this run, with its gates, phases and problems
    #[arg(long, value_name = "ID", conflicts_with_all = ["profile", "limit", "since", "outcome"])]
    run: Option<RunId>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    records: RecordsOptions,
}

/// How runs ended, as a person asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ending {
    /// Done, without a problem
    Ok,
    /// Done, but some paths keep their old state, or something differs
    Problems,
    /// Not begun: a gate or limit said no, or another run was at work
    Refused,
    /// Everything else: failed, interrupted, wrong configuration, no peer, killed
    Failed,
}

impl Ending {
    const fn of(outcome: Recorded) -> Self {
        match outcome {
            Recorded::InSync | Recorded::Done | Recorded::Equal => Self::Ok,
            Recorded::Problems | Recorded::Differences => Self::Problems,
            Recorded::Refused | Recorded::Suspended | Recorded::Busy => Self::Refused,
            Recorded::Unfinished
            | Recorded::Interrupted
            | Recorded::Usage
            | Recorded::Peer
            | Recorded::Failed => Self::Failed,
        }
    }
}

impl HistoryArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let history = self.records.read()?;
        if let Some(run) = self.run {
            let record = history.records.iter().find(|record| record.run == run).ok_or_else(|| {
                CommandError::failed(format!("there is no record of run {run} that can be read"))
                    .hint("clonetool history lists the runs")
            })?;
            match self.json {
                true => ui::print_events(&[event(record)])?,
                false => ui::print(&whole(record))?,
            }
            return Ok(Outcome::Done);
        }
        let profile = self.profile.as_deref().map(profiles::kept_name);
        let from = self.since.map(|since| now_seconds().saturating_sub(since.as_secs()));
        let meant = |record: &&Record| {
            profile.as_ref().is_none_or(|profile| *profile == record.profile)
                && from.is_none_or(|from| record.started_seconds >= from)
                && self.outcome.is_none_or(|ending| ending == Ending::of(record.outcome))
        };
        let runs: Vec<&Record> = history.records.iter().rev().filter(meant).collect();
        let (shown, rest) = runs.split_at(self.limit.min(runs.len()));
        match self.json {
            true => ui::print_events(&shown.iter().map(|record| event(record)).collect::<Vec<_>>())?,
            false => ui::print(&list(shown, rest.len()))?,
        }
        let damaged = damaged_lines(&history);
        damaged.iter().for_each(|line| alert(line));
        Ok(if damaged.is_empty() { Outcome::Done } else { Outcome::Problems })
    }
}

fn event(record: &Record) -> Value {
    let mut event = json!(record);
    event["type"] = "record".into();
    event
}

fn list(runs: &[&Record], more: usize) -> String {
    let mut text = String::new();
    for record in runs {
        let to = record.destination.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
        let took = seconds(Duration::try_from_secs_f64(record.elapsed_seconds).unwrap_or_default());
        let came = match (&record.counts, record.kind) {
            (None, _) => String::new(),
            (Some(_), RunKind::Verify) if record.outcome == Recorded::Equal => String::new(),
            (Some(counts), RunKind::Verify) => format!("; to make it equal: {}", counts.words()),
            (Some(counts), _) => format!("; {}", counts.words()),
        };
        let state = record.generation.map(|state| format!("; state {state}")).unwrap_or_default();
        let kind = match record.kind {
            RunKind::Sync => "",
            RunKind::Rollback => "rollback of ",
            RunKind::Recovery => "recovery of ",
            RunKind::Verify => "verify of ",
        };
        let (run, began, profile) = (record.run, utc(record.started_seconds), harmless(&record.profile));
        let ending = ending(record);
        let _ = writeln!(text, "{run}  {began}  {kind}{profile}{to}: {took}, {ending}{came}{state}");
    }
    match (runs.len(), more) {
        (0, 0) => text.push_str("no such run is recorded\n"),
        (_, 0) => {}
        (shown, more) => {
            let _ = writeln!(text, "and {more} more: --limit {} shows them", shown + more);
        }
    }
    text
}

/// Everything that is recorded of a run.
fn whole(record: &Record) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<9} {}", one_line(value));
    };
    let unknown = "not known when it ended";
    line("run", &record.run.to_string());
    line("kind", record.kind.word());
    line("profile", &record.profile);
    if matches!(record.kind, RunKind::Sync | RunKind::Verify) {
        line("from", record.source.as_deref().unwrap_or(unknown));
    }
    line("to", record.destination.as_deref().unwrap_or(unknown));
    line("by", &format!("uid {}, clonetool {}", record.uid, record.program));
    line("began", &utc(record.started_seconds));
    let took = |elapsed: f64| seconds(Duration::try_from_secs_f64(elapsed).unwrap_or_default());
    match record.ended_seconds {
        Some(ended) => line("ended", &format!("{}, after {}", utc(ended), took(record.elapsed_seconds))),
        None => line("ended", "no: it is under way, or was killed, or the host lost power"),
    }
    line("outcome", &ending(record));
    record.hints.iter().for_each(|hint| line("next", hint));
    for gate in &record.gates {
        let (name, kind, moment) = (&gate.name, &gate.kind, &gate.moment);
        line("gate", &format!("{} {name} ({kind}, {moment}): {}", gate.verdict, gate.evidence));
    }
    if let Some(plan) = &record.plan {
        line("plan", plan);
    }
    if !record.undone.is_empty() {
        let undone: Vec<String> = record.undone.iter().map(ToString::to_string).collect();
        line("undone", &format!("the runs to state {}", undone.join(", ")));
    }
    if let Some(state) = record.generation {
        line("state", &state.to_string());
    }
    if let Some(tree) = &record.tree {
        line("tree", tree);
    }
    if let Some(counts) = &record.counts {
        line("changes", &counts.words());
        let (scanned, protected) = (counts.entries_scanned, counts.protected);
        line("scanned", &format!("{scanned} entries on both ends, {protected} protected on the standby"));
        let (sent, found) = (HumanBytes(counts.literal_bytes), HumanBytes(counts.copied_bytes));
        line("content", &format!("{sent} sent, {found} found on the standby"));
        let (out, back) = (HumanBytes(counts.wire_sent_bytes), HumanBytes(counts.wire_received_bytes));
        line("wire", &format!("{out} out, {back} in"));
    }
    for phase in &record.phases {
        line("phase", &format!("{} {}", phase.phase, took(phase.elapsed_seconds)));
    }
    for path in &record.changed_here {
        line("replaced", &format!("{path}, which was changed on the standby"));
    }
    let more = record.changed_here_count.saturating_sub(record.changed_here.len() as u64);
    if more > 0 {
        line("replaced", &format!("and {more} more of them"));
    }
    for problem in &record.problems {
        line("problem", &format!("{}: cannot {}: {}", problem.path, problem.operation, problem.reason));
    }
    let more = record.problem_count.saturating_sub(record.problems.len() as u64);
    if more > 0 {
        line("problem", &format!("and {more} more"));
    }
    text
}
