//! A standby root is made whole after an interrupted run, or taken back to an earlier state, by itself.
//!
//! Why here: both need the root for themselves, as a run does, and what only a standby knows of its kernels. What can go
//! wrong: another run has the root; then nothing is done.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::apply::{self, Back, BackError, Generation, OnTheWay, Recovered};
use crate::monitor::Monitor;
use crate::prepare::{self, Standby, follow_ups, is_for_boot, kernel_of};
use crate::problem::{Operation, Problem};
use crate::rules::RuleSet;
use crate::scan::Root;
use crate::session::auth::{PasswordLock, is_of_set};
use crate::session::lock::lock_root;
use crate::session::{SessionError, agree};
use crate::tree::RelPath;
use crate::wire::Recovery;

/// What a standby root says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The state that it is in; 0 before the first run that changed everything or nothing.
    pub generation: u64,
    /// Whether it was rolled back, and no run may change it until [`resume`].
    pub suspended: bool,
    /// Whether a run has begun to change it and is not complete: it is at work, or was interrupted.
    pub interrupted: bool,
}

/// What the root at `path` says of itself. Nothing is locked or changed.
///
/// # Errors
/// [`SessionError`] when it cannot be opened, or what is kept cannot be read.
pub fn state(path: &Path) -> Result<State, SessionError> {
    let root = agree::open_root(path, "standby")?;
    let told = |error: std::io::Error| fatal("read the standby's state", &error);
    Ok(State {
        generation: apply::generation(&root).map_err(told)?,
        suspended: apply::suspended(&root).map_err(told)?.is_some(),
        interrupted: apply::is_interrupted(&root).map_err(told)?,
    })
}

/// Completes or reverts what an interrupted run left in the root at `path`; production is not needed.
///
/// # Errors
/// [`SessionError`] when another run has the root, or it cannot be made whole.
pub fn recover(path: &Path) -> Result<Recovered, SessionError> {
    let root = Arc::new(agree::open_root(path, "standby")?);
    let _lock = lock_root(&root)?;
    recover_locked(&root)
}

/// As [`recover`], for a root whose lock is held.
pub(super) fn recover_locked(root: &Arc<Root>) -> Result<Recovered, SessionError> {
    let standby = Standby::of(root).map_err(|error| fatal("read the standby's state", &error))?;
    let stays = |path: &RelPath| {
        let Some(kernel) = kernel_of(path) else { return false };
        let Some(standby) = &standby else { return false };
        !standby.is_bootable() || standby.running_kernel().as_ref() == Some(&kernel)
    };
    // Who waits for the password files sees none of the set before all of it is there.
    let told = |error: std::io::Error| fatal("read the standby's state", &error);
    let _accounts = apply::is_interrupted(root).map_err(told)?.then(|| accounts(root)).transpose()?;
    apply::recover(root, &|path| !stays(path)).map_err(|error| fatal("recover the interrupted run", &error))
}

/// The states that the root at `path` can be taken back from, the latest last.
///
/// # Errors
/// [`SessionError`] when what is kept cannot be read.
pub fn generations(path: &Path) -> Result<Vec<Generation>, SessionError> {
    let root = Arc::new(agree::open_root(path, "standby")?);
    apply::generations(&root).map_err(|error| fatal("read what is kept of earlier runs", &error))
}

/// Undoes the runs of `profile` on the root at `path` that came after state `to`, or only the latest; with `paths` only
/// what is at or below one of them; with `dry_run` it only says what that would change. What follows from it is done as
/// after a sync. No run changes the root after that until [`resume`].
///
/// # Errors
/// [`SessionError`] when another run has the root, or the way back is not kept.
pub fn roll_back(
    path: &Path,
    profile: &str,
    to: Option<u64>,
    paths: &[RelPath],
    dry_run: bool,
    monitor: &dyn Monitor,
) -> Result<Back, SessionError> {
    let root = Arc::new(agree::open_root(path, "standby")?);
    let _lock = lock_root(&root)?;
    let told = |error| match error {
        BackError::NoWay(reason) => SessionError::Refused(reason),
        BackError::Io(error) => fatal("roll back", &error),
    };
    let plan = || apply::roll_back(&root, profile, to, paths, true, &mut ()).map_err(told);
    if dry_run {
        return plan();
    }
    if let Some(recovered) = completed(recover_locked(&root)?) {
        monitor.recovered(&recovered.profile, recovered.generation, recovered.problems);
    }
    let standby = Standby::of(&root).map_err(|error| fatal("read the standby's state", &error))?;
    let accounts = plan()?.paths.iter().any(is_of_set).then(|| accounts(&root)).transpose()?;
    let Some(standby) = standby else {
        return apply::roll_back(&root, profile, to, paths, false, &mut ()).map_err(told);
    };
    let rules = RuleSet::compile(standby.rules())?;
    let mut kernels = Kernels::new(&standby, &rules, monitor);
    let mut back = apply::roll_back(&root, profile, to, paths, false, &mut kernels).map_err(told)?;
    drop(accounts);
    let in_vain = kernels.bootable == Some(false);
    back.problems.extend(kernels.problems.into_iter().chain(kernels.failed));
    standby
        .forget_kernels()
        .map_err(|error| fatal("remove what was made for kernels that are gone", &error))?;
    // What has just failed is left to the next sync.
    let wanted = |follow| !(in_vain && is_for_boot(follow));
    back.problems.extend(failures(standby.follow(&wanted, &BTreeSet::new(), monitor)));
    Ok(back)
}

fn failures(failed: Vec<(RelPath, String)>) -> impl Iterator<Item = Problem> {
    failed.into_iter().map(|(path, reason)| Problem::new(&path, Operation::FollowUp, reason))
}

/// Keeps the kernels that a rollback takes away until the ones that it brings back can be booted, and the one that runs.
struct Kernels<'a> {
    standby: &'a Standby,
    rules: &'a RuleSet,
    monitor: &'a dyn Monitor,
    leaving: BTreeSet<String>,
    /// Whether what the next boot needs is there; none until it was made.
    bootable: Option<bool>,
    /// Why it is not.
    failed: Vec<Problem>,
    kept: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Kernels<'a> {
    fn new(standby: &'a Standby, rules: &'a RuleSet, monitor: &'a dyn Monitor) -> Self {
        let (leaving, kept) = (BTreeSet::new(), BTreeSet::new());
        let (failed, problems) = (Vec::new(), Vec::new());
        Self { standby, rules, monitor, leaving, bootable: None, failed, kept, problems }
    }

    /// Makes what the next boot needs, once for each run that is undone.
    fn bootable(&mut self) -> bool {
        *self.bootable.get_or_insert_with(|| {
            self.failed = failures(self.standby.follow(&is_for_boot, &self.leaving, self.monitor)).collect();
            self.standby.is_bootable()
        })
    }
}

impl OnTheWay for Kernels<'_> {
    fn before(&mut self, changed: &[RelPath], taken_away: &[RelPath]) -> std::io::Result<()> {
        (self.bootable, self.failed) = (None, Vec::new());
        let images = taken_away.iter().filter(|path| path.as_bytes().starts_with(b"boot/vmlinuz-"));
        self.leaving = images.filter_map(kernel_of).collect();
        // Written down before anything changes: it is done whatever happens in between.
        self.standby.intend(follow_ups(self.rules, changed.iter()))
    }

    fn may_remove(&mut self, path: &RelPath) -> bool {
        let Some(kernel) = kernel_of(path) else { return true };
        let running = self.standby.running_kernel().as_ref() == Some(&kernel);
        if !running && self.bootable() {
            return true;
        }
        if self.kept.insert(kernel.clone()) {
            let why = if running { "is running here" } else { "stays: what the next boot needs is not made" };
            let reason = format!("kernel {kernel} {why}; the next sync decides about it");
            self.problems.push(Problem::new(&prepare::path("boot"), Operation::Delete, reason));
        }
        false
    }
}

/// Lets runs change the root at `path` again after a rollback; true when they might not.
///
/// # Errors
/// [`SessionError`] when that cannot be written down.
pub fn resume(path: &Path) -> Result<bool, SessionError> {
    let root = agree::open_root(path, "standby")?;
    apply::unsuspend(&root).map_err(|error| fatal("resume", &error))
}

/// Makes a root ready to be changed: whole, and not rolled back; says what had to be completed for that.
pub(super) fn ready(root: &Arc<Root>) -> Result<Option<Recovery>, SessionError> {
    let told = |error: std::io::Error| fatal("read the standby's state", &error);
    let interrupted = apply::is_interrupted(root).map_err(told)?;
    changeable(root)?;
    Ok(if interrupted { completed(recover_locked(root)?) } else { None })
}

/// Refuses to change a root that was rolled back.
pub(super) fn changeable(root: &Arc<Root>) -> Result<(), SessionError> {
    match apply::suspended(root).map_err(|error| fatal("read the standby's state", &error))? {
        Some(state) => Err(SessionError::Suspended { state }),
        None => Ok(()),
    }
}

/// Refuses to compare with a root that is neither old nor new. A gate may ask about it all the same: what it asks before
/// is a run, and that makes it whole.
pub(super) fn comparable(root: &Root) -> Result<(), SessionError> {
    if !apply::is_interrupted(root).map_err(|error| fatal("read the standby's state", &error))? {
        return Ok(());
    }
    let path = crate::tree::escape(root.path().as_os_str().as_encoded_bytes());
    Err(SessionError::Refused(format!(
        "a run was interrupted while it changed {path}: finish it with `clonetool recover {path}`"
    )))
}

/// What there is to tell of a recovery.
fn completed(recovered: Recovered) -> Option<Recovery> {
    let Recovered::Completed { profile, generation, problems } = recovered else { return None };
    Some(Recovery { profile, generation, problems: problems.len() as u64 })
}

/// The standby's password lock.
fn accounts(root: &Root) -> Result<PasswordLock, SessionError> {
    PasswordLock::take(root).map_err(|error| fatal("lock the password files", &error.into()))
}

pub(super) fn fatal(operation: &'static str, error: &std::io::Error) -> SessionError {
    SessionError::Fatal { operation, reason: error.to_string() }
}
