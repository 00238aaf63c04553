//! What the records say of each standby: when it was last good, and what came after.
//!
//! Why: `status`, `check` and `metrics` must not differ in what they call good. What can go wrong: a standby that looks
//! healthy because another one is. One profile may serve two standbys, so what is judged is a profile together with
//! both ends; and a run that ended before its ends were known counts against all of them.

use std::collections::BTreeSet;

use super::{Outcome, Record};

/// Two clocks, or one that is being slewed, may be so far apart.
const CLOCK_TOLERANCE_SECONDS: u64 = 60;

/// A profile with both ends of its runs.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The profile.
    pub profile: &'a str,
    /// What is read, if any run came to know.
    pub source: Option<&'a str>,
    /// What is changed, if any run came to know.
    pub destination: Option<&'a str>,
    /// The last run that began.
    pub last: &'a Record,
    /// The last run that came to an end; one that found another at work does not count.
    pub last_ended: Option<&'a Record>,
    /// The last run after which the standby was in sync.
    pub last_good: Option<&'a Record>,
    /// How many runs were refused since then, or at all.
    pub refused_since_good: u64,
}

/// How old a standby is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// It never was in sync, as far as the records go.
    Never,
    /// So many seconds ago the last good run began: nothing that happened on production since need be there.
    Seconds(u64),
    /// It cannot be told: a run began so many seconds from now, so a clock is or was wrong.
    Ahead(u64),
}

impl Standing<'_> {
    /// How old the standby is at `now_seconds`, in seconds since the epoch.
    #[must_use]
    pub fn age(&self, now_seconds: u64) -> Age {
        let ahead = self.last.started_seconds.saturating_sub(now_seconds);
        match self.last_good {
            _ if ahead > CLOCK_TOLERANCE_SECONDS => Age::Ahead(ahead),
            None => Age::Never,
            Some(good) => Age::Seconds(now_seconds.saturating_sub(good.started_seconds)),
        }
    }
}

/// Every pair of ends of every profile in `records`, which are in the order in which the runs began.
#[must_use]
pub fn standings(records: &[Record]) -> Vec<Standing<'_>> {
    type Subject<'a> = (&'a str, Option<&'a str>, Option<&'a str>);
    let knows_ends = |record: &Record| record.source.is_some() || record.destination.is_some();
    let mut subjects: BTreeSet<Subject<'_>> = records
        .iter()
        .filter(|record| knows_ends(record))
        .map(|record| (&record.profile[..], record.source.as_deref(), record.destination.as_deref()))
        .collect();
    for record in records {
        let nothing = (&record.profile[..], None, None);
        // Without ends a profile comes before those with any.
        if subjects.range(nothing..).next().is_none_or(|(found, ..)| *found != nothing.0) {
            subjects.insert(nothing);
        }
    }
    let standing = |(profile, source, destination): Subject<'_>| {
        let mut own = records.iter().filter(|record| {
            let ends = (record.source.as_deref(), record.destination.as_deref());
            record.profile == profile && (ends == (source, destination) || !knows_ends(record))
        });
        let first = own.next()?;
        let mut standing = Standing {
            profile: &first.profile,
            source: None,
            destination: None,
            last: first,
            last_ended: None,
            last_good: None,
            refused_since_good: 0,
        };
        for record in std::iter::once(first).chain(own) {
            standing.source = standing.source.or(record.source.as_deref());
            standing.destination = standing.destination.or(record.destination.as_deref());
            standing.last = record;
            if record.outcome.ended() {
                standing.last_ended = Some(record);
            }
            if record.is_good() {
                standing.last_good = Some(record);
                standing.refused_since_good = 0;
            } else if record.outcome == Outcome::Refused {
                standing.refused_since_good += 1;
            }
        }
        Some(standing)
    };
    subjects.iter().filter_map(|subject| standing(*subject)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::RunId;
    use super::*;

    fn run(started_seconds: u64, profile: &str, destination: Option<&str>, outcome: Outcome) -> Record {
        let mut record =
            Record::begin(RunId::new(Duration::from_secs(started_seconds), 0), "0.1.0", profile, 0);
        record.source = destination.map(|_| "/".to_owned());
        record.destination = destination.map(str::to_owned);
        record.outcome = outcome;
        record
    }

    #[test]
    fn a_standby_is_not_good_because_another_one_is() {
        let records = [
            run(1, "p", Some("a:/"), Outcome::InSync),
            run(2, "p", Some("b:/"), Outcome::InSync),
            run(3, "p", Some("a:/"), Outcome::InSync),
            run(4, "q", Some("b:/"), Outcome::InSync),
        ];
        let found: Vec<_> =
            standings(&records).iter().map(|s| (s.profile, s.destination, s.age(10))).collect();
        let expected = [
            ("p", Some("a:/"), Age::Seconds(7)),
            ("p", Some("b:/"), Age::Seconds(8)),
            ("q", Some("b:/"), Age::Seconds(6)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_run_that_did_not_learn_its_ends_counts_against_each_standby_of_the_profile() {
        let records = [
            run(1, "p", Some("a:/"), Outcome::InSync),
            run(2, "p", Some("b:/"), Outcome::InSync),
            run(3, "p", None, Outcome::Usage),
            run(4, "q", None, Outcome::Usage),
        ];
        let standings = standings(&records);
        let last: Vec<_> = standings.iter().map(|s| (s.profile, s.last.outcome, s.age(5))).collect();
        let expected = [
            ("p", Outcome::Usage, Age::Seconds(4)),
            ("p", Outcome::Usage, Age::Seconds(3)),
            ("q", Outcome::Usage, Age::Never),
        ];
        assert_eq!(last, expected);
    }

    #[test]
    fn only_in_sync_is_good() {
        let all = [
            (Outcome::Unfinished, false),
            (Outcome::InSync, true),
            (Outcome::Done, false),
            (Outcome::Problems, false),
            (Outcome::Refused, false),
            (Outcome::Busy, false),
            (Outcome::Interrupted, false),
            (Outcome::Usage, false),
            (Outcome::Peer, false),
            (Outcome::Failed, false),
        ];
        for (outcome, good) in all {
            let records = [run(1, "p", Some("a:/"), outcome)];
            assert_eq!(standings(&records)[0].last_good.is_some(), good, "{outcome:?}");
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.word());
        }
    }

    #[test]
    fn a_run_of_a_part_makes_no_standby_good() {
        let mut records =
            [run(1, "p", Some("a:/"), Outcome::InSync), run(5, "p", Some("a:/"), Outcome::InSync)];
        records[1].partial = true;
        assert_eq!(standings(&records)[0].age(6), Age::Seconds(5));
    }

    #[test]
    fn refusals_are_counted_since_the_last_good_run_and_runs_that_have_not_ended_are_told_apart() {
        let records = [
            run(1, "p", Some("a:/"), Outcome::Refused),
            run(2, "p", Some("a:/"), Outcome::InSync),
            run(3, "p", Some("a:/"), Outcome::Refused),
            run(4, "p", Some("a:/"), Outcome::Refused),
            run(5, "p", Some("a:/"), Outcome::Busy),
            run(6, "p", Some("a:/"), Outcome::Unfinished),
        ];
        let standings = standings(&records);
        let standing = standings[0];
        assert_eq!(standing.refused_since_good, 2);
        assert_eq!(standing.last.started_seconds, 6);
        assert_eq!(standing.last_ended.map(|record| record.started_seconds), Some(4));
        assert_eq!(standing.age(9), Age::Seconds(7));
    }

    #[test]
    fn a_clock_that_is_wrong_makes_no_standby_young() {
        let records =
            [run(1, "p", Some("a:/"), Outcome::InSync), run(1000, "p", Some("a:/"), Outcome::Refused)];
        let standings = standings(&records);
        assert_eq!(standings[0].age(939), Age::Ahead(61));
        assert_eq!(standings[0].age(940), Age::Seconds(939));
        assert_eq!(standings[0].age(u64::MAX), Age::Seconds(u64::MAX - 1));
    }
}
