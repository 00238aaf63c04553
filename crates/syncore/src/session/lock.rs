//! One run for each root: of a standby that is changed, and of a source that is read for it.
//!
//! Why: two runs that change one tree, or a run and a rollback, make a tree that is neither's; and the hourly run would
//! bring accounts between those that the daily one reads. The kernel holds the lock (flock(2) on the directory itself,
//! so nothing is created and a source may be read-only), and a process that is killed has lost it. What can go wrong: a
//! filesystem of the network that has no such lock for what is only read; a source there goes without.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::scan::Root;
use crate::session::{Job, Location, SessionError, agree};
use crate::tree::RelPath;

/// How often a lock that is taken is tried, and how long after the last time.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// A root that nobody else changes, or sends from, while this is there.
#[derive(Debug)]
pub struct RootLock {
    _directory: OwnedFd,
}

/// Takes the lock of the root at `path` of this host, for who changes it and is no run.
///
/// # Errors
/// [`SessionError::Busy`] when somebody has it, and [`SessionError::Root`].
pub fn lock(path: &Path) -> Result<RootLock, SessionError> {
    lock_root(&agree::open_root(path, "root")?)
}

/// Takes the lock of `job`'s source for as long as what is returned is there; none where the source is on another host,
/// whose agent takes it, and none for a dry run.
///
/// # Errors
/// As of [`lock`].
pub fn claim(job: &Job) -> Result<Option<RootLock>, SessionError> {
    let Location::Local(path) = &job.source else { return Ok(None) };
    if job.options.dry_run {
        return Ok(None);
    }
    let source = agree::open_root(path, "source")?;
    // Where both are one directory the run is refused for that, and not by its own lock.
    if let Location::Local(destination) = &job.destination
        && let Ok(destination) = Root::hold(destination)
        && place(&destination) == place(&source)
    {
        return Ok(None);
    }
    claim_root(&source)
}

fn place(root: &Root) -> Option<((u32, u32), u64)> {
    root.identity().ok().map(|identity| (identity.device, identity.inode))
}

/// The lock of a source root, where there is such a thing.
pub(crate) fn claim_root(root: &Root) -> Result<Option<RootLock>, SessionError> {
    match take(root) {
        Ok(lock) => Ok(Some(lock)),
        // As flock(2) says of NFS, which needs the right to write for it.
        Err(Errno::BADF | Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(refused(root, error)),
    }
}

/// The lock of a root that is changed.
pub(crate) fn lock_root(root: &Root) -> Result<RootLock, SessionError> {
    take(root).map_err(|error| refused(root, error))
}

fn refused(root: &Root, error: Errno) -> SessionError {
    match error {
        Errno::WOULDBLOCK => {
            SessionError::Busy(crate::tree::escape(root.path().as_os_str().as_encoded_bytes()))
        }
        error => SessionError::Fatal {
            operation: "lock the root",
            reason: std::io::Error::from(error).to_string(),
        },
    }
}

fn take(root: &Root) -> rustix::io::Result<RootLock> {
    let directory = root.open_directory(&RelPath::root())?;
    // RACE: a program that another thread is about to start has our descriptors, the lock of an earlier run among them,
    // until it runs. So a lock that is taken is looked at again before it is called busy; at worst it is called so.
    for attempt in 1.. {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if attempt < LOCK_ATTEMPTS => std::thread::sleep(LOCK_PAUSE),
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    Ok(RootLock { _directory: directory })
}
