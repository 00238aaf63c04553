//! `clonetool metrics`: the same for Prometheus.
//!
//! Why: a graph of the age of a standby, and an alert on it, in the text format 0.0.4 that the textfile collector of
//! node_exporter reads. What can go wrong: a rule that compares with a sample that is not there is silent; so what was
//! never good, or cannot be told because a clock is wrong, is 0, which is older than any limit. A profile without an RPO
//! has no sample of it: an alert on that is the reader's to write.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use syncore::record::{Age, Record, Standing, replace_file};

use crate::error::CommandError;
use crate::outlook::Outlook;
use crate::records::{Selection, now_seconds};
use crate::run::Outcome;
use crate::ui;

/// Print figures of the last runs for Prometheus
///
/// The text format of Prometheus, version 0.0.4. With --output a file is replaced as a whole, for the textfile collector
/// of node_exporter.
#[derive(Debug, Args)]
pub(crate) struct MetricsArguments {
    #[command(flatten)]
    selection: Selection,
    /// Write to FILE in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl MetricsArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let history = self.selection.read()?;
        let (standings, _) = self.selection.standings(&history);
        let now = now_seconds();
        let figures: Vec<(Standing<'_>, Outlook)> =
            standings.into_iter().map(|standing| (standing, Outlook::of(&standing, now))).collect();
        let text = exposition(&figures, history.damaged.len(), now);
        match &self.output {
            Some(path) => replace_file(path, text.as_bytes())?,
            None => ui::print(&text)?,
        }
        Ok(Outcome::Done)
    }
}

/// A metric: its name, what it is, and its value, if there is one.
type Metric = (&'static str, &'static str, fn(&Standing<'_>, &Outlook, u64) -> Option<f64>);

const METRICS: [Metric; 13] = [
    (
        "clonetool_last_success_timestamp_seconds",
        "When the last run began that left the standby in sync; 0: never, or a clock is wrong.",
        |standing, _, now| match (standing.age(now), standing.last_good) {
            (Age::Seconds(_), Some(good)) => Some(figure(good.started_seconds)),
            _ => Some(0.0),
        },
    ),
    (
        "clonetool_last_run_timestamp_seconds",
        "When the last run began that came to an end.",
        |standing, _, _| standing.last_ended.map(|last| figure(last.started_seconds)),
    ),
    ("clonetool_last_run_exit_code", "The exit code of that run.", |standing, _, _| {
        standing.last_ended?.exit_code.map(f64::from)
    }),
    ("clonetool_last_run_problems", "How many problems that run had.", |standing, _, _| {
        standing.last_ended.map(|last| figure(last.problem_count))
    }),
    ("clonetool_last_run_entries", "Entries that run scanned on both ends.", |standing, _, _| {
        counted(standing.last_ended, |counts| counts.entries_scanned)
    }),
    (
        "clonetool_last_run_content_bytes",
        "File content that run brought: sent, or found on the standby.",
        |standing, _, _| {
            counted(standing.last_ended, |counts| counts.literal_bytes.saturating_add(counts.copied_bytes))
        },
    ),
    ("clonetool_last_run_duration_seconds", "How long that run took.", |standing, _, _| {
        standing.last_ended.map(|last| last.elapsed_seconds)
    }),
    ("clonetool_refused_runs", "Runs that were refused since the last success.", |standing, _, _| {
        Some(figure(standing.refused_since_good))
    }),
    ("clonetool_rpo_seconds", "How old the standby may be, by its profile.", |_, outlook, _| {
        outlook.rpo_seconds().map(figure)
    }),
    ("clonetool_next_run_timestamp_seconds", "When the next scheduled run is due.", |_, outlook, _| {
        u64::try_from(outlook.next()?).ok().map(figure)
    }),
    (
        "clonetool_missed_runs",
        "Scheduled runs that did not begin since the last one that did.",
        |_, outlook, _| outlook.missed().map(|missed| figure(missed as u64)),
    ),
    (
        "clonetool_suspended",
        "Whether the standby was rolled back and no run was good since, or none may run.",
        |standing, outlook, _| {
            let waits = outlook.root().is_some_and(|root| root.state.suspended);
            Some(if waits || standing.rolled_back.is_some() { 1.0 } else { 0.0 })
        },
    ),
    (
        "clonetool_generation",
        "The state that the standby is in, as far as is known.",
        |standing, outlook, _| outlook.generation(standing).map(figure),
    ),
];

/// Of a run that ended early it is not known.
fn counted(last: Option<&Record>, count: fn(&syncore::record::Counts) -> u64) -> Option<f64> {
    last?.counts.as_ref().map(|counts| figure(count(counts)))
}

/// Prometheus knows floating-point numbers only; whole ones are exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn figure(value: u64) -> f64 {
    value as f64
}

fn exposition(figures: &[(Standing<'_>, Outlook)], damaged: usize, now_seconds: u64) -> String {
    let mut text = String::new();
    for (name, help, value) in METRICS {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (standing, outlook) in figures {
            if let Some(value) = value(standing, outlook, now_seconds) {
                let _ = writeln!(text, "{name}{} {value}", labels(standing));
            }
        }
    }
    let name = "clonetool_damaged_records";
    let _ =
        writeln!(text, "# HELP {name} Records that cannot be read.\n# TYPE {name} gauge\n{name} {damaged}");
    text
}

fn labels(standing: &Standing<'_>) -> String {
    let value = |text: Option<&str>| {
        text.unwrap_or_default().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
    };
    let (profile, source) = (value(Some(standing.profile)), value(standing.source));
    format!("{{profile=\"{profile}\",source=\"{source}\",destination=\"{}\"}}", value(standing.destination))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use syncore::profile::Profile;
    use syncore::record::{Outcome as Recorded, RunId, RunKind, standings};

    use super::*;

    fn run(started_seconds: u64, outcome: Recorded) -> Record {
        let mut record = Record::begin(
            RunId::new(Duration::from_secs(started_seconds), 0),
            RunKind::Sync,
            "0.1.0",
            "a\"b\\c\nd",
            0,
        );
        (record.source, record.destination) = (Some("/".into()), Some("s:/".into()));
        record.outcome = outcome;
        record
    }

    fn outlook(schedule: &str) -> Outlook {
        let text = format!("[schedule]\n{schedule}\n");
        let profile = Profile::parse("p.toml", &text, &|_| None).unwrap();
        Outlook { profile: Ok(profile), due: None, root: None }
    }

    #[test]
    fn label_values_are_escaped_and_each_metric_says_what_it_is() {
        let records = [run(5, Recorded::InSync)];
        let standing = standings(&records)[0];
        let text = exposition(&[(standing, outlook("rpo = \"26h\""))], 2, 10);
        let labels = r#"{profile="a\"b\\c\nd",source="/",destination="s:/"}"#;
        assert!(text.contains(&format!("clonetool_last_success_timestamp_seconds{labels} 5\n")), "{text}");
        assert!(text.contains(&format!("clonetool_rpo_seconds{labels} 93600\n")), "{text}");
        assert!(text.ends_with("# TYPE clonetool_damaged_records gauge\nclonetool_damaged_records 2\n"));
        assert_eq!(text.matches("# HELP ").count(), METRICS.len() + 1);
        assert_eq!(text.matches("# TYPE ").count(), METRICS.len() + 1);
    }

    #[test]
    fn what_was_never_good_or_cannot_be_told_is_older_than_any_limit() {
        for (outcome, now) in [(Recorded::Problems, 10), (Recorded::InSync, 0)] {
            let records = [run(1000, outcome)];
            let text = exposition(&[(standings(&records)[0], outlook(""))], 0, now);
            let line = text.lines().find(|line| line.starts_with("clonetool_last_success"));
            assert!(line.is_some_and(|line| line.ends_with("} 0")), "{text}");
            assert!(!text.contains("clonetool_rpo_seconds{"));
        }
    }
}
