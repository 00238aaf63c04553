//! How much is kept of earlier runs, and what is forgotten.
//!
//! Why: what a run replaced is kept for a rollback, and takes room, and may be what should not lie about for ever, such
//! as passwords that were changed. A rollback goes from run to run, the latest first, so what is forgotten is the
//! oldest, and nothing in between. What can go wrong: limits that leave nothing; the latest run can be undone whatever
//! its age and size, unless none is to be kept at all. A clock that was ahead: what is of the future is not old.

use std::collections::HashSet;
use std::io;
use std::time::SystemTime;

use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;

use super::Ledger;
use super::areas::{Areas, names};
use super::recover::kept_head;

/// A run of the profile of which something is kept.
struct Kept {
    generation: u64,
    written_seconds: u64,
}

/// Seconds since the epoch.
pub(super) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Ledger {
    /// Forgets of this profile's runs what is more than is to be kept at `now_seconds`.
    ///
    /// # Errors
    /// When what is kept cannot be read or removed; the next run tries again.
    pub(super) fn retain(&self, now_seconds: u64) -> io::Result<()> {
        let (mut all, keep) = (self.of_profile()?, self.whole.keep);
        all.reverse();
        let (mut staying, mut used_bytes, mut counted) = (0, 0_u64, HashSet::new());
        for (number, run) in all.iter().enumerate() {
            if number >= keep.generations as usize {
                break;
            }
            let age_seconds = now_seconds.saturating_sub(run.written_seconds);
            let too_old = keep.max_age_seconds.is_some_and(|max| age_seconds > max);
            let mut too_much = false;
            if let Some(max_bytes) = keep.max_bytes {
                used_bytes =
                    used_bytes.saturating_add(held_bytes(&self.areas, run.generation, &mut counted)?);
                too_much = used_bytes > max_bytes;
            }
            if number > 0 && (too_old || too_much) {
                break;
            }
            staying += 1;
        }
        // The oldest first: cut off in the middle, what is left is still without a gap.
        all[staying..].iter().rev().try_for_each(|run| Ok(self.areas.forget(run.generation)?))
    }

    /// The state that the last run of this profile led to, as far as it is kept.
    pub(super) fn last_of_profile(&self) -> io::Result<Option<u64>> {
        Ok(self.of_profile()?.last().map(|run| run.generation))
    }

    /// The runs of this profile that are kept, in their order.
    fn of_profile(&self) -> io::Result<Vec<Kept>> {
        let mut found = Vec::new();
        for generation in self.areas.generations()? {
            let head = kept_head(&self.areas, generation)?;
            if let Some(head) = head.filter(|head| head.profile == self.whole.profile) {
                found.push(Kept { generation, written_seconds: head.written_seconds });
            }
        }
        Ok(found)
    }
}

/// What is in use for `generation`, in bytes, without what is `counted` already: an inode may have several names.
fn held_bytes(areas: &Areas, generation: u64, counted: &mut HashSet<(u64, u64)>) -> rustix::io::Result<u64> {
    /// Of `st_blocks`, on every filesystem (stat(2)).
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0_u64;
    for area in 0..areas.count() {
        let kept = match areas.kept_before(area, generation) {
            Ok(kept) => kept,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        for name in names(&kept)? {
            let stat = statat(&kept, &name[..], AtFlags::SYMLINK_NOFOLLOW)?;
            if counted.insert((stat.st_dev, stat.st_ino)) {
                let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
                bytes = bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::journal::{Journal, NAME};
    use super::*;
    use crate::profile::{Keep, Whole};
    use crate::scan::Root;

    const DAY: u64 = 24 * 60 * 60;
    const NOW: u64 = 1_800_000_000;

    /// A root of which six runs of `daily` are kept, each a day after the one before it, with 64 KiB each, and one of
    /// `hourly` that is older than all.
    fn root() -> (tempfile::TempDir, Arc<Root>) {
        let temp = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(temp.path()).unwrap());
        let areas = Areas::of(&root, &[]).unwrap();
        for generation in 1..=7_u64 {
            let kept = areas.kept_home(generation).unwrap();
            let profile = if generation == 1 { "hourly" } else { "daily" };
            let written_seconds = NOW - (8 - generation) * DAY;
            let journal =
                Journal { profile: profile.into(), generation, written_seconds, ..Journal::default() };
            journal.write(&kept, NAME).unwrap();
            let at = temp.path().join(".clonetool/kept").join(generation.to_string());
            std::fs::write(at.join("0"), vec![1; 60 << 10]).unwrap();
            // A second name of what an earlier run kept costs nothing.
            if generation > 2 {
                std::fs::hard_link(temp.path().join(".clonetool/kept/2/0"), at.join("1")).unwrap();
            }
        }
        std::fs::write(temp.path().join(".clonetool/generation"), "7").unwrap();
        (temp, root)
    }

    /// The states that are left after a run that keeps so much.
    fn left(root: &Arc<Root>, keep: Keep) -> Vec<u64> {
        let whole = Whole { profile: "daily".into(), keep };
        let ledger = Ledger::begin(root, &[], whole).unwrap();
        ledger.retain(NOW).unwrap();
        ledger.areas.generations().unwrap()
    }

    const ALL: Keep = Keep { generations: u32::MAX, max_age_seconds: None, max_bytes: None };

    #[test]
    fn each_limit_takes_the_oldest_and_another_profiles_runs_stay() {
        for (keep, expected) in [
            (ALL, &[1, 2, 3, 4, 5, 6, 7][..]),
            (Keep { generations: 4, ..ALL }, &[1, 4, 5, 6, 7]),
            (Keep { max_age_seconds: Some(3 * DAY), ..ALL }, &[1, 5, 6, 7]),
            (Keep { max_age_seconds: Some(3 * DAY - 1), ..ALL }, &[1, 6, 7]),
            // 64 KiB each with its journal, and 60 once for the file that all have a name of.
            (Keep { max_bytes: Some(290 << 10), ..ALL }, &[1, 5, 6, 7]),
        ] {
            let (_temp, root) = root();
            assert_eq!(left(&root, keep), expected, "{keep:?}");
        }
    }

    #[test]
    fn of_several_limits_the_narrowest_counts() {
        let (_temp, root) = root();
        let keep = Keep { generations: 5, max_age_seconds: Some(4 * DAY), max_bytes: Some(1 << 30) };
        assert_eq!(left(&root, keep), [1, 4, 5, 6, 7]);
        assert_eq!(left(&root, Keep { generations: 2, ..keep }), [1, 6, 7]);
    }

    #[test]
    fn the_latest_run_can_be_undone_whatever_its_age_and_size() {
        let (_temp, root) = root();
        assert_eq!(left(&root, Keep { max_age_seconds: Some(0), max_bytes: Some(0), ..ALL }), [1, 7]);
        assert_eq!(left(&root, Keep { generations: 0, ..ALL }), [1]);
    }

    #[test]
    fn what_is_of_the_future_is_not_old() {
        let (_temp, root) = root();
        let whole = Whole { profile: "daily".into(), keep: Keep { max_age_seconds: Some(DAY), ..ALL } };
        let ledger = Ledger::begin(&root, &[], whole).unwrap();
        ledger.retain(DAY).unwrap();
        assert_eq!(ledger.areas.generations().unwrap().len(), 7);
    }
}
