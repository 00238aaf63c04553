//! Completes or reverts a run that was interrupted, and says which states of a root can be gone back to.
//!
//! Why: a standby whose power failed in the middle of a run must be whole before anybody relies on it, and production may
//! be gone by then. What can go wrong: the recovery is interrupted, too; it is done again from its beginning.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::areas::{Areas, home};
use super::journal::{self, Head, Journal, MadeBy, Step};
use super::{Committed, Ledger, NUMBER_BYTES, current};
use crate::apply::Problems;
use crate::apply::commit::{Committer, NamesOf};
use crate::apply::directory::Directories;
use crate::durable;
use crate::problem::Problem;
use crate::profile::Whole;
use crate::scan::{Boundaries, Root, mounts_below};
use crate::tree::RelPath;

/// The file in home that says that the root was rolled back.
const SUSPENDED: &str = "suspended";

/// What a recovery found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// No run was interrupted.
    Nothing,
    /// One was, before it changed anything; what it had staged is removed.
    Reverted,
    /// One was, and is complete now.
    Completed {
        /// The profile whose run it was.
        profile: String,
        /// The state that the root is in.
        generation: u64,
        /// Paths that are not as that run would have them.
        problems: Vec<Problem>,
    },
}

/// A state that a root can be gone back from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// The profile whose run led to it.
    pub profile: String,
    /// When the run that led to it was committed, in seconds since the epoch.
    pub committed_seconds: u64,
    /// What kind of run that was.
    pub made_by: MadeBy,
    /// How many paths that run changed.
    pub changes: usize,
}

/// Completes or reverts what an interrupted run left in `root`. Nobody else may be changing it. Removals for which
/// `may_remove` says no are left to the next run.
///
/// # Errors
/// What keeps it from being whole; it can be tried again.
pub fn recover(root: &Arc<Root>, may_remove: &dyn Fn(&RelPath) -> bool) -> io::Result<Recovered> {
    let mounts = mounts_below(root);
    let directories = Arc::new(Directories::new(Arc::clone(root), &Boundaries::default(), &mounts)?);
    let Some(found) = interrupted(root)? else {
        let areas = Areas::of(root, directories.tops())?;
        return Ok(if areas.discard()? { Recovered::Reverted } else { Recovered::Nothing });
    };
    let problems = Arc::new(Problems::default());
    let (profile, generation) = (found.profile.clone(), found.generation);
    let ledger = Ledger::resumed(Areas::of(root, &found.tops)?, found);
    let committer = committer(&directories, &problems, ledger);
    committer.again(may_remove)?;
    Ok(Recovered::Completed { profile, generation, problems: problems.take() })
}

/// One that carries out what is in a ledger, durably.
pub(super) fn committer(
    directories: &Arc<Directories>,
    problems: &Arc<Problems>,
    ledger: Ledger,
) -> Committer {
    let names_of = NamesOf(Box::new(|_, _| 1));
    Committer::new(Arc::clone(directories), Arc::clone(problems), names_of, true).whole(ledger)
}

impl Ledger {
    /// That of a run whose journal is on disk.
    fn resumed(areas: Areas, journal: Journal) -> Self {
        let whole = Whole { profile: journal.profile.clone(), keep: journal.keep };
        let ledger = Self::with(areas, journal.generation, whole);
        let _ = ledger.journal.set(Committed::new(journal));
        ledger
    }
}

impl Committer {
    /// Carries out every step once more, and concludes.
    fn again(&self, may_remove: &dyn Fn(&RelPath) -> bool) -> io::Result<()> {
        let Some((ledger, committed)) = self.whole.as_ref().and_then(|l| Some((l, l.journal.get()?))) else {
            return Ok(());
        };
        self.directories.touched_before(&committed.journal.touched);
        self.rest(ledger, committed, 0, &mut |path| may_remove(path))
    }

    /// Carries out the steps from number `from` on, and concludes.
    pub(super) fn rest(
        &self,
        ledger: &Ledger,
        committed: &Committed,
        from: usize,
        may_remove: &mut dyn FnMut(&RelPath) -> bool,
    ) -> io::Result<()> {
        let journal = &committed.journal;
        for number in from..journal.steps.len() {
            let step = &journal.steps[number];
            let last = (journal.removals_at..journal.directories_at).contains(&number);
            if !last || may_remove(step.path()) {
                self.step(ledger, journal, number)?;
            }
        }
        let planned: HashSet<RelPath> =
            journal.steps[journal.directories_at..].iter().map(|step| step.path().clone()).collect();
        self.directories.settle(&planned, &self.problems);
        self.finish()?;
        self.conclude()
    }
}

impl Areas {
    /// Empties the stages; true when there was something in them.
    fn discard(&self) -> io::Result<bool> {
        let staged = self.staged()?;
        self.sweep()?;
        Ok(staged)
    }
}

/// The journal of a run that was interrupted after it was committed.
pub(super) fn interrupted(root: &Root) -> io::Result<Option<Journal>> {
    match root.open_directory(&home(root)?) {
        Ok(home) => Journal::read(&home, journal::NAME),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a run was committed to `root` and is not complete, so that the tree is neither old nor new.
///
/// # Errors
/// When that cannot be told.
pub fn is_interrupted(root: &Root) -> io::Result<bool> {
    Ok(interrupted(root)?.is_some())
}

/// The state that `root` is in; 0 before the first run that changed everything or nothing.
///
/// # Errors
/// When that cannot be told.
pub fn generation(root: &Root) -> io::Result<u64> {
    match root.open_directory(&home(root)?) {
        Ok(home) => current(&home),
        Err(Errno::NOENT) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// The states that `root` can be gone back from, the latest last.
///
/// # Errors
/// When what is kept of them cannot be read.
pub fn generations(root: &Arc<Root>) -> io::Result<Vec<Generation>> {
    let areas = Areas::of(root, &[])?;
    let mut found = Vec::new();
    for number in areas.generations()? {
        let Some(journal) = kept(&areas, number)? else { continue };
        let changes = journal.steps.iter().filter(|step| !matches!(step, Step::Dress { before: None, .. }));
        found.push(Generation {
            number,
            profile: journal.profile,
            committed_seconds: journal.written_seconds,
            made_by: journal.made_by,
            changes: changes.count(),
        });
    }
    Ok(found)
}

/// The journal of the run that led to `generation`, if what it replaced is still kept.
pub(super) fn kept(areas: &Areas, generation: u64) -> io::Result<Option<Journal>> {
    match areas.kept_home_before(generation) {
        Ok(kept) => Journal::read(&kept, journal::NAME),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whose run led to `generation`, and when, if what it replaced is still kept.
pub(super) fn kept_head(areas: &Areas, generation: u64) -> io::Result<Option<Head>> {
    match areas.kept_home_before(generation) {
        Ok(kept) => Journal::read_head(&kept, journal::NAME),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The state that `root` was rolled back to, while no run may change it.
///
/// # Errors
/// When that cannot be told.
pub fn suspended(root: &Root) -> io::Result<Option<u64>> {
    let home = match root.open_directory(&home(root)?) {
        Ok(home) => home,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(text) = durable::read(&home, SUSPENDED, NUMBER_BYTES)? else { return Ok(None) };
    // Whatever it says: it is there.
    Ok(Some(String::from_utf8_lossy(&text).trim().parse().unwrap_or_default()))
}

/// Says that runs may change `root` again; true when they might not.
///
/// # Errors
/// When that cannot be written down.
pub fn unsuspend(root: &Root) -> io::Result<bool> {
    let home = match root.open_directory(&home(root)?) {
        Ok(home) => home,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match unlinkat(&home, SUSPENDED, AtFlags::empty()) {
        Ok(()) => Ok(rustix::fs::fsync(&home).map(|()| true)?),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Says that no run may change the root until somebody says so; gives the state that it is in.
pub(super) fn suspend(areas: &Areas) -> io::Result<u64> {
    let home = areas.open_home()?;
    let state = current(&home)?;
    durable::replace(&home, SUSPENDED, state.to_string().as_bytes(), 0o600, None)?;
    Ok(state)
}
