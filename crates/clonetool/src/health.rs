//! What the state of a standby is called: the one judgement behind `status` and `check`.
//!
//! Why: a screen that says "fine" while the alarm rings, or the other way round, is worse than neither. What can go
//! wrong: a standby that looks healthy and is not. So nothing is well that is not known to be: without a limit, without
//! a record, or by a clock that is wrong, it is unknown.

use syncore::record::{Age, Outcome, Record, RunKind, Standing};

use crate::error::harmless;
use crate::outlook::{Due, MISSED_LIMIT, Outlook};

/// How it is, the worse later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Ok,
    Unknown,
    Warning,
    Critical,
}

impl Health {
    /// The word of the Monitoring Plugins guidelines.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Unknown => "UNKNOWN",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }

    /// The exit code of the same guidelines.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }
}

/// How old a standby may become before somebody is told, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    pub(crate) warning_seconds: Option<u64>,
    pub(crate) critical_seconds: Option<u64>,
}

impl Limits {
    /// A warning comes at four fifths of the way, unless somebody says when.
    pub(crate) fn new(warning_seconds: Option<u64>, critical_seconds: Option<u64>) -> Self {
        let early = critical_seconds.map(|seconds| seconds - seconds / 5);
        Self { warning_seconds: warning_seconds.or(early), critical_seconds }
    }
}

/// Says how a standby is, and why, at `now_seconds`.
pub(crate) fn judge(standing: &Standing<'_>, limits: Limits, now_seconds: u64) -> (Health, String) {
    let over = |limit: Option<u64>, age: u64| limit.is_some_and(|limit| age > limit);
    let (mut health, mut text) = match standing.age(now_seconds) {
        Age::Ahead(seconds) => {
            // What came last cannot be told either.
            let (run, ahead) = (standing.last.run, span(seconds));
            let text = format!("run {run} began {ahead} in the future: a clock is or was wrong");
            return (Health::Unknown, text);
        }
        Age::Never => match standing.rolled_back {
            Some(back) => {
                (Health::Critical, format!("{}; no good run since", rolled_back(back, now_seconds)))
            }
            None => (Health::Critical, "no good run is recorded".to_owned()),
        },
        Age::Seconds(age) => {
            let ago = format!("last good run {} ago", span(age));
            match limits.critical_seconds {
                Some(limit) if age > limit => (Health::Critical, format!("{ago}, {} allowed", span(limit))),
                Some(limit) if over(limits.warning_seconds, age) => {
                    (Health::Warning, format!("{ago}, {} allowed", span(limit)))
                }
                Some(_) => (Health::Ok, ago),
                None if over(limits.warning_seconds, age) => (Health::Warning, ago),
                None => (Health::Unknown, format!("{ago}, and nothing says how old it may be")),
            }
        }
    };
    if let Some(last) =
        standing.last_ended.filter(|last| !matches!(last.outcome, Outcome::InSync | Outcome::Done))
    {
        health = health.max(Health::Warning);
        text = format!("{text}; the last run ended with {}", ending(last));
    }
    if let Some(recovered) = standing.recovered.filter(|recovered| recovered.outcome != Outcome::Done) {
        health = health.max(Health::Warning);
        text = format!("{text}; a recovery ended with {}", ending(recovered));
    }
    (health, text)
}

/// The same with what is known besides the records.
pub(crate) fn assess(
    standing: &Standing<'_>,
    outlook: &Outlook,
    limits: Limits,
    now_seconds: u64,
) -> (Health, String) {
    let (mut health, mut text) = judge(standing, limits, now_seconds);
    let mut worse = |found: Health, why: String| {
        health = health.max(found);
        text = format!("{text}; {why}");
    };
    match outlook.due.as_ref().map(Result::as_ref) {
        Some(Ok(Due { missed: count @ 1.., .. })) => worse(Health::Warning, missed_runs(*count)),
        Some(Err(error)) => worse(Health::Unknown, one_line(&error.message)),
        _ => {}
    }
    match &outlook.root {
        None => {}
        Some(Err(error)) => worse(Health::Unknown, one_line(&error.message)),
        Some(Ok(root)) => {
            if root.state.suspended {
                worse(Health::Critical, SUSPENDED.to_owned());
            }
            // One that is at work has not ended.
            if root.state.interrupted && standing.last.outcome != Outcome::Unfinished {
                worse(Health::Warning, "a run was interrupted: clonetool recover completes it".to_owned());
            }
            if !root.left.is_empty() {
                worse(Health::Warning, root.left_undone());
            }
        }
    }
    (health, text)
}

/// That a root waits for somebody after a rollback.
pub(crate) const SUSPENDED: &str =
    "no run may change it since it was rolled back: clonetool schedule resume on the standby";

/// How many runs did not begin, in words.
pub(crate) fn missed_runs(count: usize) -> String {
    match count {
        1 => "1 run is missing since the last one".to_owned(),
        MISSED_LIMIT.. => format!("{MISSED_LIMIT} runs or more are missing since the last one"),
        _ => format!("{count} runs are missing since the last one"),
    }
}

/// That a standby was rolled back, and since when that is known.
pub(crate) fn rolled_back(record: &Record, now_seconds: u64) -> String {
    let ago = span(now_seconds.saturating_sub(record.started_seconds));
    match record.kind {
        RunKind::Rollback => format!("rolled back {ago} ago"),
        _ => format!("rolled back, as a run found {ago} ago"),
    }
}

/// How a run ended, in words.
pub(crate) fn ending(record: &Record) -> String {
    let code = record.exit_code.map(|code| format!(" (exit {code})")).unwrap_or_default();
    let problems = match record.problem_count {
        0 => String::new(),
        1 => ", 1 problem".to_owned(),
        count => format!(", {count} problems"),
    };
    let message =
        record.message.as_ref().map(|message| format!(": {}", one_line(message))).unwrap_or_default();
    let partial = if record.partial { ", of what its options left" } else { "" };
    format!("{}{code}{problems}{partial}{message}", record.outcome.word())
}

/// A message may quote ssh, which says what it has to say in several lines.
pub(crate) fn one_line(text: &str) -> String {
    harmless(&text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
}

/// Seconds in the two largest units, for people.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60 % 60, seconds / 3600 % 24, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..172_800 if minutes == 0 => format!("{} h", seconds / 3600),
        3600..172_800 => format!("{} h {minutes} min", seconds / 3600),
        _ if hours == 0 => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use syncore::record::{RunId, standings};

    use super::*;

    /// Runs with their beginnings, limits, now, and what comes of it.
    type Case<'a> = (&'a [(u64, Outcome)], Limits, u64, Health);

    fn judged(runs: &[(u64, Outcome)], limits: Limits, now_seconds: u64) -> (Health, String) {
        let record = |(started_seconds, outcome): &(u64, Outcome)| {
            let run = RunId::new(Duration::from_secs(*started_seconds), 0);
            let mut record = Record::begin(run, RunKind::Sync, "0.1.0", "p", 0);
            (record.source, record.destination) = (Some("/".into()), Some("s:/".into()));
            record.outcome = *outcome;
            record
        };
        let records: Vec<Record> = runs.iter().map(record).collect();
        judge(&standings(&records)[0], limits, now_seconds)
    }

    #[test]
    fn nothing_is_well_that_is_not_known_to_be() {
        use Outcome::{Busy, Done, Failed, InSync, Interrupted, Peer, Problems, Refused, Unfinished, Usage};
        let limits = Limits::new(None, Some(100));
        assert_eq!(limits.warning_seconds, Some(80));
        let none = Limits::default();
        let only_warning = Limits::new(Some(80), None);
        let table: [Case<'_>; 20] = [
            (&[(1000, InSync)], limits, 1080, Health::Ok),
            (&[(1000, InSync)], limits, 1081, Health::Warning),
            (&[(1000, InSync)], limits, 1100, Health::Warning),
            (&[(1000, InSync)], limits, 1101, Health::Critical),
            (&[(1000, InSync)], none, 1001, Health::Unknown),
            (&[(1000, InSync)], only_warning, 1001, Health::Unknown),
            (&[(1000, InSync)], only_warning, 1081, Health::Warning),
            (&[(1000, InSync)], limits, 939, Health::Unknown),
            (&[(1000, InSync)], limits, 940, Health::Ok),
            (&[(1000, Done)], limits, 1001, Health::Critical),
            (&[(1000, Unfinished)], limits, 1001, Health::Critical),
            (&[(1000, InSync), (1010, Done)], limits, 1020, Health::Ok),
            (&[(1000, InSync), (1010, Busy)], limits, 1020, Health::Ok),
            (&[(1000, InSync), (1010, Unfinished)], limits, 1020, Health::Ok),
            (&[(1000, InSync), (1010, Problems), (1011, Busy)], limits, 1020, Health::Warning),
            (&[(1000, InSync), (1010, Refused)], limits, 1020, Health::Warning),
            (&[(1000, InSync), (1010, Interrupted)], limits, 1020, Health::Warning),
            (&[(1000, InSync), (1010, Failed)], none, 1020, Health::Warning),
            (&[(1000, InSync), (1010, Peer)], limits, 1101, Health::Critical),
            (&[(1000, InSync), (1010, Usage), (1011, InSync)], limits, 1020, Health::Ok),
        ];
        for (runs, limits, now, health) in table {
            let (found, text) = judged(runs, limits, now);
            assert_eq!(found, health, "{runs:?} at {now}: {text}");
        }
    }

    #[test]
    fn spans_are_short() {
        let table = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3600, "1 h"),
            (93_600, "26 h"),
            (93_661, "26 h 1 min"),
        ];
        for (seconds, text) in table {
            assert_eq!(span(seconds), text);
        }
        assert_eq!((span(172_800), span(176_400)), ("2 d".to_owned(), "2 d 1 h".to_owned()));
    }
}
