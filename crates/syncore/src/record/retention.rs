//! How long records are kept, and what goes.
//!
//! Why: an hourly run leaves nine thousand records a year, and nobody tidies them. What can go wrong: a clock that was
//! wrong for an hour, by which everything is suddenly old, so the latest records stay whatever their age; and runs that are
//! so many that they push out the last word on a standby that is synced once a month, so that word stays.

use std::collections::BTreeMap;

use super::store::{STAGED, SUFFIX};
use super::{Outcome, Record, RecordError, RunId, RunKind, Store};

/// What was staged so long ago belongs to nobody any more.
const STAGED_SECONDS: u64 = 86_400;
/// So many stay whatever their age: by a clock that was set wrong all of them are old.
const ALWAYS_KEPT: usize = 100;

/// How long records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How many; the oldest go first.
    pub max_records: usize,
    /// How long; the latest hundred stay all the same.
    pub max_age_seconds: u64,
}

impl Default for Retention {
    /// 10,000 records and 400 days: more than a year of hourly runs.
    fn default() -> Self {
        Self { max_records: 10_000, max_age_seconds: 400 * 86_400 }
    }
}

/// A profile, and the standby that it was about.
type Subject = (String, Option<String>);

impl Store {
    /// Removes what is older or more than it may be, and what a killed run left half written; says how many records
    /// went. What says how a standby was last good or rolled back does not go because of other records.
    ///
    /// # Errors
    /// [`RecordError`], for the first that cannot be removed.
    pub fn prune(&self, retention: Retention, now_seconds: u64) -> Result<usize, RecordError> {
        let mut runs = Vec::new();
        for name in self.names("tidy")? {
            let staged = name.strip_prefix('.').and_then(|name| name.strip_suffix(STAGED));
            let stem = staged.unwrap_or(&name).strip_suffix(SUFFIX);
            let Some(run) = stem.and_then(|stem| stem.parse::<RunId>().ok()) else { continue };
            match staged {
                Some(_) if run.started_seconds().saturating_add(STAGED_SECONDS) < now_seconds => {
                    self.remove(&name)?;
                }
                Some(_) => {}
                None => runs.push(run),
            }
        }
        runs.sort_unstable_by(|a, b| b.cmp(a));
        let old = |run: &RunId| now_seconds.saturating_sub(run.started_seconds()) > retention.max_age_seconds;
        let kept = ALWAYS_KEPT.min(runs.len());
        let first_old = kept + runs[kept..].partition_point(|run| !old(run));
        let (young, aged) = runs.split_at(first_old);
        let (few, many) = young.split_at(retention.max_records.min(young.len()));
        let words = self.last_words(few, many);
        let goes = many.iter().filter(|run| !words.contains(run)).chain(aged);
        let mut removed = 0;
        for run in goes {
            self.remove(&format!("{run}{SUFFIX}"))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Of the records in `many`, the latest first, those that are the last word on a standby: none in `few`, which are
    /// later, is one on the same.
    fn last_words(&self, few: &[RunId], many: &[RunId]) -> Vec<RunId> {
        let word = |run: &RunId| {
            let name = format!("{run}{SUFFIX}");
            let record = self.record(&name, &run.to_string()).ok().flatten().filter(is_word)?;
            Some((record.profile, record.destination))
        };
        let mut words: BTreeMap<Subject, RunId> = BTreeMap::new();
        for run in many {
            if let Some(subject) = word(run) {
                words.entry(subject).or_insert(*run);
            }
        }
        for run in few {
            if words.is_empty() {
                break;
            }
            if let Some(subject) = word(run) {
                words.remove(&subject);
            }
        }
        words.into_values().collect()
    }
}

/// Whether it says that a standby is good, or is not any more.
fn is_word(record: &Record) -> bool {
    record.is_good() || record.kind == RunKind::Rollback || record.outcome == Outcome::Suspended
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn record(started_seconds: u64, random: u16) -> Record {
        let run = RunId::new(Duration::from_secs(started_seconds), random);
        Record::begin(run, RunKind::Sync, "0.1.0", "p", 0)
    }

    fn store() -> (tempfile::TempDir, Store) {
        let work = tempfile::tempdir().unwrap();
        let store = Store::create(&work.path().join("records")).unwrap();
        (work, store)
    }

    fn times(store: &Store) -> Vec<u64> {
        store.read().unwrap().records.iter().map(|record| record.started_seconds).collect()
    }

    #[test]
    fn of_too_many_records_the_oldest_go() {
        let (_work, store) = store();
        (0..5).for_each(|second| store.write(&record(second, 0)).unwrap());
        let retention = Retention { max_records: 2, ..Retention::default() };
        assert_eq!(store.prune(retention, 5).unwrap(), 3);
        assert_eq!(times(&store), [3, 4]);
        assert_eq!(store.prune(retention, 5).unwrap(), 0);
    }

    #[test]
    fn what_is_too_old_goes_but_for_the_latest_hundred() {
        let (_work, store) = store();
        (0..103).for_each(|second| store.write(&record(second, 0)).unwrap());
        let retention = Retention { max_age_seconds: 100, ..Retention::default() };
        assert_eq!(store.prune(retention, 101).unwrap(), 1);
        // A clock that is a century ahead.
        assert_eq!(store.prune(retention, 4_000_000_000).unwrap(), 2);
        assert_eq!(times(&store), (3..103).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_killed_run_staged_goes_a_day_later() {
        let (work, store) = store();
        let staged = work.path().join("records").join(".9-000000-0000.json.new");
        fs::write(&staged, "{").unwrap();
        store.prune(Retention::default(), 9 + 86_400).unwrap();
        assert!(staged.exists());
        store.prune(Retention::default(), 9 + 86_401).unwrap();
        assert!(!staged.exists());
        assert!(store.read().unwrap().damaged.is_empty());
    }

    #[test]
    fn the_last_word_on_a_standby_is_not_pushed_out_by_runs_of_others() {
        let (_work, store) = store();
        let write = |second, profile: &str, kind, outcome| {
            let mut record = Record { kind, outcome, profile: profile.to_owned(), ..record(second, 0) };
            record.destination = Some("s:/".to_owned());
            store.write(&record).unwrap();
        };
        write(1, "monthly", RunKind::Sync, Outcome::InSync);
        write(2, "monthly", RunKind::Sync, Outcome::InSync);
        write(3, "monthly", RunKind::Sync, Outcome::Failed);
        write(4, "back", RunKind::Sync, Outcome::InSync);
        write(5, "back", RunKind::Rollback, Outcome::Done);
        write(6, "hourly", RunKind::Sync, Outcome::InSync);
        (7..12).for_each(|second| write(second, "hourly", RunKind::Sync, Outcome::InSync));
        let retention = Retention { max_records: 3, ..Retention::default() };
        store.prune(retention, 12).unwrap();
        assert_eq!(times(&store), [2, 5, 9, 10, 11]);
        // They are as old as any in the end.
        let retention = Retention { max_age_seconds: 10, ..retention };
        (12..200).for_each(|second| write(second, "hourly", RunKind::Sync, Outcome::InSync));
        store.prune(retention, 201).unwrap();
        assert_eq!(times(&store), [197, 198, 199]);
    }
}
