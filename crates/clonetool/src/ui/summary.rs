//! The summary that a person reads after a run.
//!
//! Why: one look must tell whether the standby is in sync, what it took, and what is missing. What can go wrong: a
//! summary that says more than is known; "in sync" appears only for the outcome of that name, and says what was
//! compared how.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use syncore::plan::Totals;
use syncore::session::{Options, Report};

use crate::run::Outcome;

/// The lines of the summary, the verdict last.
pub(super) fn lines(outcome: Outcome, options: &Options, report: &Report, elapsed: Duration) -> Vec<String> {
    let totals = report.totals;
    let mut lines = vec![
        changes(outcome, totals),
        format!("scanned   {} entries on both ends", HumanCount(report.entries_scanned)),
    ];
    if report.protected > 0 {
        lines.push(format!("protected {} left alone on the standby", HumanCount(report.protected)));
    }
    if report.literal_bytes > 0 || report.copied_bytes > 0 {
        lines.push(format!(
            "content   {} sent, {} found on the standby",
            HumanBytes(report.literal_bytes),
            HumanBytes(report.copied_bytes)
        ));
    } else if matches!(outcome, Outcome::Planned) && totals.content_bytes > 0 {
        lines.push(format!("content   {} behind the changes", HumanBytes(totals.content_bytes)));
    }
    if report.wire_sent_bytes > 0 || report.wire_received_bytes > 0 {
        lines.push(format!(
            "wire      {} out, {} in",
            HumanBytes(report.wire_sent_bytes),
            HumanBytes(report.wire_received_bytes)
        ));
    }
    lines.push(format!("elapsed   {}{}", seconds(elapsed), rate(report, elapsed)));
    if let Some(id) = report.plan {
        lines.push(format!("plan      {id}"));
    }
    lines.push(verdict(outcome, options, report));
    lines
}

/// How many of each kind: what was done, or, of a comparison, what differs.
fn changes(outcome: Outcome, totals: Totals) -> String {
    let compared = matches!(outcome, Outcome::Equal | Outcome::Differences);
    let (lead, words) = match compared {
        true => ("differ   ", ["missing", "other content", "other metadata only", "moved", "extra"]),
        false => ("changes  ", ["created", "updated", "metadata only", "moved", "deleted"]),
    };
    let counts = [totals.created, totals.updated, totals.metadata_only, totals.moved, totals.deleted];
    let counts: Vec<String> = counts
        .into_iter()
        .zip(words)
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{} {word}", HumanCount(count)))
        .collect();
    let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    format!("{lead} {counts}")
}

/// The one line that counts.
fn verdict(outcome: Outcome, options: &Options, report: &Report) -> String {
    let compared = if options.checksum { "content and metadata" } else { "metadata" };
    let problems = match report.problems.len() {
        1 => "1 problem".to_owned(),
        count => format!("{} problems", HumanCount(count as u64)),
    };
    let nothing = report.totals == Totals::default();
    match outcome {
        Outcome::InSync if nothing => format!("In sync: nothing to do, all is equal by {compared}"),
        Outcome::InSync => {
            format!(
                "In sync: what was sent is verified and on stable storage, the rest is equal by {compared}"
            )
        }
        Outcome::Done => "Done, without waiting for stable storage".to_owned(),
        Outcome::Planned if nothing => format!("Nothing to do: all is equal by {compared}"),
        Outcome::Planned => "Planned; nothing was changed".to_owned(),
        Outcome::Equal => format!("Equal: no difference in {compared}"),
        Outcome::Unrecorded => "Done, and not recorded: see the warning".to_owned(),
        Outcome::Problems => format!("Not in sync: {problems}; these paths keep their old state"),
        Outcome::Differences if report.problems.is_empty() => {
            "Different: these changes would make DESTINATION equal to SOURCE".to_owned()
        }
        Outcome::Differences => format!("Different, and not all could be compared: {problems}"),
    }
}

pub(crate) fn seconds(elapsed: Duration) -> String {
    let whole = elapsed.as_secs();
    match whole {
        0..60 => format!("{:.1} s", elapsed.as_secs_f64()),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// Content done a second, sent or found; nothing where there was none or no time to measure.
fn rate(report: &Report, elapsed: Duration) -> String {
    let bytes = u128::from(report.literal_bytes) + u128::from(report.copied_bytes);
    let per_second = (bytes * 1000).checked_div(elapsed.as_millis()).unwrap_or(0);
    match u64::try_from(per_second) {
        Ok(per_second @ 1..) => format!(", {}/s", HumanBytes(per_second)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use syncore::problem::{Operation, Problem};
    use syncore::tree::RelPath;

    use super::*;

    #[test]
    fn a_summary_reads_well() {
        let totals = Totals { created: 1200, updated: 3, deleted: 2, ..Totals::default() };
        let report = Report {
            totals,
            entries_scanned: 53_214,
            protected: 5,
            literal_bytes: 3 << 20,
            copied_bytes: 61 << 20,
            wire_sent_bytes: 2 << 20,
            wire_received_bytes: 4096,
            ..Report::default()
        };
        let lines = lines(Outcome::InSync, &Options::default(), &report, Duration::from_secs(4));
        assert_eq!(
            lines,
            [
                "changes   1,200 created, 3 updated, 2 deleted",
                "scanned   53,214 entries on both ends",
                "protected 5 left alone on the standby",
                "content   3.00 MiB sent, 61.00 MiB found on the standby",
                "wire      2.00 MiB out, 4.00 KiB in",
                "elapsed   4.0 s, 16.00 MiB/s",
                "In sync: what was sent is verified and on stable storage, the rest is equal by metadata",
            ]
        );
    }

    #[test]
    fn a_comparison_speaks_of_differences() {
        let totals = Totals { created: 1, deleted: 2, ..Totals::default() };
        assert_eq!(changes(Outcome::Differences, totals), "differ    1 missing, 2 extra");
        assert_eq!(changes(Outcome::Equal, Totals::default()), "differ    none");
    }

    #[test]
    fn in_sync_is_said_for_that_outcome_only() {
        let problem = Problem::new(&RelPath::root(), Operation::Read, "no");
        let report = Report { problems: vec![problem], ..Report::default() };
        for outcome in
            [Outcome::Done, Outcome::Planned, Outcome::Equal, Outcome::Problems, Outcome::Differences]
        {
            assert!(!verdict(outcome, &Options::default(), &report).starts_with("In sync"));
        }
        let checked = Options { checksum: true, ..Options::default() };
        let text = verdict(Outcome::InSync, &checked, &Report::default());
        assert_eq!(text, "In sync: nothing to do, all is equal by content and metadata");
    }
}
