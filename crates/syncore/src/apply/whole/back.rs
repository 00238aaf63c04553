//! Rolls a root back: undoes runs, the latest first, each of them as a whole.
//!
//! Why: a sync copies corruption as faithfully as anything else. Undoing a run is a run itself: its steps are the
//! other's, turned round, so it is written down first, can be recovered and can be undone. What can go wrong: what was
//! kept is gone, because enough was kept since; then there is no way back to that state, and nothing is changed.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, linkat};
use rustix::io::Errno;
use thiserror::Error;

use super::carry::{item, look};
use super::journal::{Journal, MadeBy, Step};
use super::recover::{committer, kept, suspend};
use super::{Areas, Ledger};
use crate::apply::Problems;
use crate::apply::directory::Directories;
use crate::apply::metadata::ALL;
use crate::apply::stage::Staged;
use crate::plan::Change;
use crate::problem::Problem;
use crate::profile::{Keep, Whole};
use crate::scan::{Boundaries, Detail, Root, Scratch, mounts_below, read_entry};
use crate::tree::{Entry, Kind, RelPath};

/// What a rollback does, or did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Back {
    /// The runs that are undone, by the state that each had led to, the latest first.
    pub undone: Vec<u64>,
    /// The state that the root is in then; none of a dry run.
    pub state: Option<u64>,
    /// The paths that become what they were.
    pub paths: Vec<RelPath>,
    /// Those of them that are not as the undone run left them: somebody changed them on the standby since.
    pub changed_since: Vec<RelPath>,
    /// Paths that could not be put back.
    pub problems: Vec<Problem>,
}

/// Why a root did not go back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackError {
    /// There is no such way back; nothing was changed.
    #[error("{0}")]
    NoWay(String),
    /// What was begun has to be recovered.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for BackError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Who has a say while a root goes back.
pub trait OnTheWay {
    /// Before a run is undone: the paths which that changes, and those of them that it takes away.
    ///
    /// # Errors
    /// When what it needs to know cannot be written down; the run is not undone then.
    fn before(&mut self, changed: &[RelPath], taken_away: &[RelPath]) -> io::Result<()>;

    /// Whether what is taken away may go, when everything else is in its place; else it stays.
    fn may_remove(&mut self, path: &RelPath) -> bool;
}

/// Nobody.
impl OnTheWay for () {
    fn before(&mut self, _: &[RelPath], _: &[RelPath]) -> io::Result<()> {
        Ok(())
    }

    fn may_remove(&mut self, _: &RelPath) -> bool {
        true
    }
}

/// Undoes the runs of `profile` on `root` that came after state `to`, or only the latest; with `paths` only what is at
/// or below one of them. Nobody else may be changing it. With `dry_run` nothing is changed. After a rollback no run may
/// change the root until [`super::unsuspend`].
///
/// # Errors
/// [`BackError`] when the way back is not kept, or cannot be gone.
pub fn roll_back(
    root: &Arc<Root>,
    profile: &str,
    to: Option<u64>,
    paths: &[RelPath],
    dry_run: bool,
    way: &mut dyn OnTheWay,
) -> Result<Back, BackError> {
    let mounts = mounts_below(root);
    let directories = Arc::new(Directories::new(Arc::clone(root), &Boundaries::default(), &mounts)?);
    let mut back = Back::default();
    let areas = Areas::of(root, directories.tops())?;
    let journals = undoable(&areas, profile, to)?;
    let within = |path: &RelPath| paths.is_empty() || paths.iter().any(|wanted| path.starts_with(wanted));
    if !journals.iter().flat_map(|journal| &journal.steps).any(|step| within(step.path())) {
        let wanted: Vec<String> = paths.iter().map(ToString::to_string).collect();
        let reason =
            format!("the runs that would be undone changed nothing at or below {}", wanted.join(", "));
        return Err(BackError::NoWay(reason));
    }
    let (mut seen, mut changed) = (BTreeSet::new(), BTreeSet::new());
    for journal in journals {
        back.undone.push(journal.generation);
        let (mut touched, mut taken_away) = (Vec::new(), Vec::new());
        for step in journal.steps.iter().filter(|step| within(step.path())) {
            if seen.insert(step.path().clone()) {
                back.paths.push(step.path().clone());
            }
            touched.push(step.path().clone());
            if matches!(step, Step::Put { change: Change::Create, .. }) {
                taken_away.push(step.path().clone());
            }
            if was_changed(root, step) && changed.insert(step.path().clone()) {
                back.changed_since.push(step.path().clone());
            }
        }
        if dry_run {
            continue;
        }
        way.before(&touched, &taken_away)?;
        // Nothing is forgotten on the way back; the next sync keeps as many as it is told.
        let keep = Keep { generations: u32::MAX, max_age_seconds: None, max_bytes: None };
        let whole = Whole { profile: profile.to_owned(), keep };
        let ledger = Ledger::begin(root, directories.tops(), whole)?;
        let problems = Arc::new(Problems::default());
        let committer = committer(&directories, &problems, ledger);
        if let Some(ledger) = &committer.whole {
            let made_by = match paths {
                [] => MadeBy::Rollback(journal.generation),
                _ => MadeBy::PartialRollback(journal.generation),
            };
            ledger.record(|recorded| recorded.made_by = made_by);
            let steps = || journal.steps.iter().enumerate().filter(|(_, step)| within(step.path()));
            let back_as_files = steps().filter_map(|(_, step)| match step {
                Step::Remove { path, before } if before.kind != Kind::Directory => Some(path.clone()),
                _ => None,
            });
            let back_as_files = back_as_files.collect();
            for numbered in steps().rev() {
                undo(root, (&directories, &areas), ledger, &journal, numbered, &back_as_files)?;
            }
        }
        committer.commit()?;
        if let Some((ledger, committed)) = committer.whole.as_ref().and_then(|l| Some((l, l.journal.get()?)))
        {
            let may_remove = &mut |path: &RelPath| way.may_remove(path);
            committer.rest(ledger, committed, committed.journal.removals_at, may_remove)?;
        }
        back.problems.extend(problems.take());
    }
    if !dry_run {
        back.state = Some(suspend(&areas)?);
    }
    Ok(back)
}

/// The runs of `profile` after state `to` that are not undone yet, the latest first; only the latest if no state is said.
fn undoable(areas: &Areas, profile: &str, to: Option<u64>) -> Result<Vec<Journal>, BackError> {
    let (mut journals, mut undone) = (Vec::<Journal>::new(), BTreeSet::new());
    for generation in areas.generations()?.into_iter().rev() {
        let Some(journal) = kept(areas, generation)?.filter(|kept| kept.profile == profile) else { continue };
        if let MadeBy::Rollback(other) = journal.made_by {
            undone.insert(other);
            continue;
        }
        if undone.contains(&generation) {
            continue;
        }
        if to.map_or(!journals.is_empty(), |to| generation <= to) {
            break;
        }
        journals.push(journal);
    }
    let back_to = journals.last().map(|journal| journal.previous);
    match (back_to, to) {
        (None, None) => Err(BackError::NoWay(format!("no run of {profile} is kept that could be undone"))),
        (None, Some(to)) => {
            Err(BackError::NoWay(format!("no run of {profile} is kept that came after state {to}")))
        }
        (Some(previous), Some(to)) if previous > to => Err(BackError::NoWay(format!(
            "the runs that led from state {to} to state {previous} are not kept any more"
        ))),
        _ => Ok(journals),
    }
}

/// Writes down that something goes that a run had brought: after everything else, where it is not in the way of what
/// comes back.
fn take_away(ledger: &Ledger, path: &RelPath, before: Entry, back_as_files: &BTreeSet<RelPath>) {
    let mut at = Some(path.clone());
    while let Some(place) = at {
        if back_as_files.contains(&place) {
            return ledger.make_way(path, before);
        }
        at = place.parent();
    }
    ledger.remove(path, before);
}

/// Writes down the opposite of a step, when `back_as_files` are the places where something comes back that is no directory.
fn undo(
    root: &Root,
    (directories, areas): (&Directories, &Areas),
    ledger: &Ledger,
    journal: &Journal,
    (number, step): (usize, &Step),
    back_as_files: &BTreeSet<RelPath>,
) -> io::Result<()> {
    let path = step.path();
    let before = match step {
        Step::MakeDirectory(_) => {
            take_away(ledger, path, Entry::new(Kind::Directory), back_as_files);
            return Ok(());
        }
        Step::Dress { before: None, .. } => return Ok(()),
        Step::Dress { attributes, before: Some(before), after, .. } => {
            let now = item(path, Change::Update(*attributes), before);
            ledger.dress(&now, *attributes, Some(after.clone()));
            return Ok(());
        }
        Step::Remove { before, .. } if before.kind == Kind::Directory => {
            if root.hold_directory(path).is_err() {
                ledger.make_directory(path);
                ledger.dress(&item(path, Change::Create, before), ALL, None);
            }
            return Ok(());
        }
        Step::Put { entry, change, .. } => Some((entry, *change)),
        Step::Remove { .. } => None,
    };
    let area = areas.number_of(path);
    let name = number.to_string();
    let kept = match areas.kept_before(area, journal.generation) {
        Ok(kept) => look(&kept, name.as_bytes())?.map(|_| kept),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(error.into()),
    };
    match (kept, before) {
        (Some(kept), put) => {
            let stage = ledger.stage(&path.parent().unwrap_or_default())?;
            let (staged, ()) =
                Staged::make(directories, &stage, |at, to| linkat(&kept, &name, at, to, AtFlags::empty()))?;
            let entry = entry_of(&kept, &name)?;
            let change = match put {
                Some((put, _)) if put.kind == entry.kind => Change::Update(ALL),
                Some((put, _)) => Change::Replace(put.kind),
                None => Change::Create,
            };
            ledger.put(staged, &item(path, change, &entry));
        }
        // The directory that it had replaced comes back.
        (None, Some((put, Change::Replace(_)))) => ledger.make_way(path, put.clone()),
        (None, Some((put, _))) => take_away(ledger, path, put.clone(), back_as_files),
        // It was gone already when it was to be removed.
        (None, None) => {}
    }
    Ok(())
}

fn entry_of(directory: &OwnedFd, name: &str) -> io::Result<Entry> {
    let name = CString::new(name).map_err(io::Error::other)?;
    Ok(read_entry(directory.as_fd(), &name, Detail::Full, &mut Scratch::default())?.0)
}

/// Whether a path is not as the step left it.
fn was_changed(root: &Root, step: &Step) -> bool {
    let (path, left) = match step {
        Step::Put { path, entry, .. } => (path, Some(entry)),
        Step::Dress { path, after, .. } => (path, Some(after)),
        Step::Remove { path, .. } => (path, None),
        Step::MakeDirectory(_) => return false,
    };
    let found = root.hold_directory(&path.parent().unwrap_or_default()).ok().and_then(|directory| {
        let name = CString::new(path.name().unwrap_or(b".")).ok()?;
        Some(read_entry(directory.as_fd(), &name, Detail::Full, &mut Scratch::default()).ok()?.0)
    });
    match (found, left) {
        (None, None) => false,
        (Some(found), Some(left)) => found.kind != left.kind || !found.differences(left).is_empty(),
        _ => true,
    }
}
