//! What the records say of each standby: when it was last good, and what came after.
//!
//! Why: `status`, `check` and `metrics` must not differ in what they call good. What can go wrong: a standby that looks
//! healthy because another one is. One profile may serve two standbys, so what is judged is a profile together with
//! both ends; and a run that ended before its ends were known counts against all of them.

use std::collections::BTreeSet;

use super::{Outcome, Record, RunKind};

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
    /// The last sync that began.
    pub last: &'a Record,
    /// The last sync that came to an end; one that found another at work does not count.
    pub last_ended: Option<&'a Record>,
    /// The last sync after which the standby was in sync, and not rolled back since.
    pub last_good: Option<&'a Record>,
    /// The run that rolled the standby back, or the first sync that was refused because somebody had; none once a sync
    /// was good again.
    pub rolled_back: Option<&'a Record>,
    /// The last recovery since the last good sync.
    pub recovered: Option<&'a Record>,
    /// The last verification that came to its end.
    pub verified: Option<&'a Record>,
    /// The last state of the standby that is known, whatever profile's run led to it.
    pub generation: Option<u64>,
    /// How many syncs were refused since the last good one, or at all.
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

impl<'a> Standing<'a> {
    fn begin(first: &'a Record) -> Self {
        Self {
            profile: &first.profile,
            source: None,
            destination: None,
            last: first,
            last_ended: None,
            last_good: None,
            rolled_back: None,
            recovered: None,
            verified: None,
            generation: None,
            refused_since_good: 0,
        }
    }

    fn sync(&mut self, record: &'a Record) {
        self.source = self.source.or(record.source.as_deref());
        self.destination = self.destination.or(record.destination.as_deref());
        self.last = record;
        if record.outcome.ended() {
            self.last_ended = Some(record);
        }
        match record.outcome {
            _ if record.is_good() => {
                self.last_good = Some(record);
                (self.rolled_back, self.recovered, self.refused_since_good) = (None, None, 0);
            }
            Outcome::Refused => self.refused_since_good += 1,
            Outcome::Suspended => {
                self.refused_since_good += 1;
                // Somebody did so on the standby, whose records are there.
                self.last_good = None;
                self.rolled_back = self.rolled_back.or(Some(record));
            }
            _ => {}
        }
    }

    fn rollback(&mut self, record: &'a Record) {
        // One that was killed or failed may have put something back.
        if !matches!(record.outcome, Outcome::Busy | Outcome::Refused | Outcome::Usage) {
            self.last_good = None;
            self.rolled_back = Some(record);
        }
    }
}

/// Whether a verification says something of all that the profile covers.
fn is_verdict(record: &Record) -> bool {
    !record.partial && matches!(record.outcome, Outcome::Equal | Outcome::Differences | Outcome::Problems)
}

/// Every pair of ends of every profile that was synced in `records`, which are in the order in which the runs began.
#[must_use]
pub fn standings(records: &[Record]) -> Vec<Standing<'_>> {
    type Subject<'a> = (&'a str, Option<&'a str>, Option<&'a str>);
    let knows_ends = |record: &Record| record.source.is_some() || record.destination.is_some();
    let syncs = || records.iter().filter(|record| record.kind == RunKind::Sync);
    let mut subjects: BTreeSet<Subject<'_>> = syncs()
        .filter(|record| knows_ends(record))
        .map(|record| (&record.profile[..], record.source.as_deref(), record.destination.as_deref()))
        .collect();
    for record in syncs() {
        let nothing = (&record.profile[..], None, None);
        // Without ends a profile comes before those with any.
        if subjects.range(nothing..).next().is_none_or(|(found, ..)| *found != nothing.0) {
            subjects.insert(nothing);
        }
    }
    let standing = |(profile, source, destination): Subject<'_>| {
        let is_own = |record: &&Record| match record.kind {
            _ if record.profile != profile => false,
            RunKind::Sync | RunKind::Verify => {
                let ends = (record.source.as_deref(), record.destination.as_deref());
                ends == (source, destination) || !knows_ends(record)
            }
            // They know nothing of production.
            RunKind::Rollback | RunKind::Recovery => record.destination.as_deref() == destination,
        };
        let mut standing = Standing::begin(syncs().find(is_own)?);
        for record in records.iter().filter(is_own) {
            match record.kind {
                RunKind::Sync => standing.sync(record),
                RunKind::Rollback => standing.rollback(record),
                RunKind::Recovery => standing.recovered = Some(record),
                RunKind::Verify if is_verdict(record) => standing.verified = Some(record),
                RunKind::Verify => {}
            }
        }
        // Whatever profile's run led to it, it is the state of the standby.
        let there = |record: &&Record| destination.is_some() && record.destination.as_deref() == destination;
        standing.generation = records.iter().filter(there).filter_map(|record| record.generation).next_back();
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
        let mut record = Record::begin(
            RunId::new(Duration::from_secs(started_seconds), 0),
            RunKind::Sync,
            "0.1.0",
            profile,
            0,
        );
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
            (Outcome::Equal, false),
            (Outcome::Differences, false),
            (Outcome::Problems, false),
            (Outcome::Refused, false),
            (Outcome::Suspended, false),
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

    fn of_kind(kind: RunKind, record: Record, generation: Option<u64>) -> Record {
        Record { kind, generation, source: None, ..record }
    }

    #[test]
    fn after_a_rollback_no_earlier_run_is_good_and_the_next_good_one_is() {
        let to = Some("/s");
        for (outcome, rolled_back) in [
            (Outcome::Done, true),
            (Outcome::Problems, true),
            (Outcome::Failed, true),
            (Outcome::Unfinished, true),
            (Outcome::Busy, false),
            (Outcome::Usage, false),
        ] {
            let rollback = of_kind(RunKind::Rollback, run(2, "p", to, outcome), Some(8));
            let mut records = vec![run(1, "p", to, Outcome::InSync), rollback];
            let age = |records: &[Record]| standings(records)[0].age(5);
            assert_eq!(age(&records) == Age::Never, rolled_back, "{outcome:?}");
            let standing = standings(&records)[0];
            assert_eq!((standing.rolled_back.is_some(), standing.generation), (rolled_back, Some(8)));
            assert_eq!(standing.last.started_seconds, 1, "a rollback is no sync");
            records.push(run(3, "p", to, Outcome::InSync));
            assert_eq!((age(&records), standings(&records)[0].rolled_back), (Age::Seconds(2), None));
        }
        // That of another standby, or of another profile, is nothing to this one.
        for (profile, to) in [("p", "/other"), ("q", "/s")] {
            let rollback = of_kind(RunKind::Rollback, run(2, profile, Some(to), Outcome::Done), None);
            let records = [run(1, "p", Some("/s"), Outcome::InSync), rollback];
            assert_eq!(standings(&records).len(), 1, "what was only rolled back was never synced from here");
            assert_eq!(standings(&records)[0].age(5), Age::Seconds(4));
        }
    }

    #[test]
    fn a_sync_that_is_refused_because_of_a_rollback_tells_of_it() {
        let records =
            [run(1, "p", Some("s:/"), Outcome::InSync), run(2, "p", Some("s:/"), Outcome::Suspended)];
        let standing = standings(&records)[0];
        assert_eq!((standing.age(5), standing.refused_since_good), (Age::Never, 1));
        assert_eq!(standing.rolled_back.map(|record| record.started_seconds), Some(2));
    }

    #[test]
    fn the_state_of_a_standby_is_that_of_the_last_run_whatever_its_profile() {
        let led = |started, profile, to, generation| Record {
            generation,
            ..run(started, profile, Some(to), Outcome::InSync)
        };
        let records = [
            led(1, "p", "s:/", Some(4)),
            led(2, "q", "s:/", Some(5)),
            led(3, "p", "s:/", None),
            led(4, "q", "t:/", Some(9)),
        ];
        let states: Vec<_> =
            standings(&records).iter().map(|s| (s.profile, s.destination, s.generation)).collect();
        let (s, t) = (Some("s:/"), Some("t:/"));
        assert_eq!(states, [("p", s, Some(5)), ("q", s, Some(5)), ("q", t, Some(9))]);
    }

    #[test]
    fn a_recovery_makes_no_standby_good_and_none_bad() {
        let recovery = of_kind(RunKind::Recovery, run(3, "p", Some("s:/"), Outcome::Done), Some(7));
        let records =
            [run(1, "p", Some("s:/"), Outcome::InSync), run(2, "p", Some("s:/"), Outcome::Failed), recovery];
        let standing = standings(&records)[0];
        assert_eq!((standing.age(5), standing.generation), (Age::Seconds(4), Some(7)));
        assert_eq!(standing.last_ended.map(|record| record.outcome), Some(Outcome::Failed));
        assert_eq!(standing.recovered.map(|record| record.started_seconds), Some(3));
    }

    #[test]
    fn a_verification_is_no_sync_and_one_that_failed_says_nothing() {
        let verify =
            |started, outcome| Record { kind: RunKind::Verify, ..run(started, "p", Some("s:/"), outcome) };
        let records = [
            run(1, "p", Some("s:/"), Outcome::InSync),
            verify(2, Outcome::Differences),
            verify(3, Outcome::Peer),
            Record { partial: true, ..verify(4, Outcome::Equal) },
        ];
        let standing = standings(&records)[0];
        assert_eq!(standing.verified.map(|record| record.started_seconds), Some(2));
        assert_eq!((standing.last.started_seconds, standing.age(5)), (1, Age::Seconds(4)));
        assert!(standings(&records[1..]).is_empty());
    }
}
