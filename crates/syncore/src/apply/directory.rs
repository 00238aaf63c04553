//! Directories on the standby, opened once and put back as they were.
//!
//! Why: making a file in a directory moves the directory's times, an immutable directory must be opened first, and a
//! default ACL colours what is made in it. All of that is looked at when a directory is first touched and settled at
//! the end. What can go wrong: a filesystem mounted since the scan; its identity is checked at every open.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Mode, chmod, getxattr, statx};
use rustix::io::Errno;

use super::metadata::{LOCKING_FLAGS, Pinned, set_flags, set_mtime, unlock};
use super::{Problems, StageNames};
use crate::problem::Operation;
use crate::scan::{Boundaries, Identity, Mount, Root, from_statx, identity_of, proc_path, statx_mask};
use crate::tree::{Entry, RelPath};

/// A held directory in which something will be changed.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    /// Whether what is made in it inherits an ACL that must be taken off again.
    pub(crate) default_acl: bool,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    /// One that is for us alone: nothing is inherited from it, and its times are nobody's business.
    pub(crate) fn private(fd: OwnedFd) -> Self {
        Self { fd, default_acl: false }
    }
}

/// Which filesystems below the root may be written to.
#[derive(Debug)]
struct Writable {
    mounts: HashSet<u64>,
    devices: Option<HashSet<(u32, u32)>>,
}

/// All directories of the standby that this run touches.
#[derive(Debug)]
pub struct Directories {
    pub(crate) root: Arc<Root>,
    pub(crate) names: StageNames,
    writable: Writable,
    /// One open directory on each filesystem that may be written to.
    filesystems: Vec<OwnedFd>,
    /// Where those below the root begin.
    tops: Vec<RelPath>,
    /// What each was like when first touched.
    touched: Mutex<BTreeMap<RelPath, Entry>>,
    privileged: bool,
}

impl Directories {
    /// Prepares to write below `root` within `boundaries`.
    ///
    /// # Errors
    /// When the root itself cannot be looked at.
    pub fn new(root: Arc<Root>, boundaries: &Boundaries, mounts: &[Mount]) -> rustix::io::Result<Self> {
        let identity = root.identity()?;
        let mut entered: Vec<Identity> = vec![identity];
        let mut filesystems = vec![root.open_directory(&RelPath::root())?];
        let mut tops = Vec::new();
        for mount in
            mounts.iter().filter(|mount| mount.is_local() && !boundaries.barriers.contains(&mount.path))
        {
            if boundaries.one_file_system && !boundaries.also.contains(&mount.path) {
                continue;
            }
            if let Ok(directory) = root.open_directory(&mount.path) {
                let stat = statx(&directory, c"", AtFlags::EMPTY_PATH, statx_mask())?;
                entered.push(identity_of(&stat));
                filesystems.push(directory);
                tops.push(mount.path.clone());
            }
        }
        let writable = Writable {
            mounts: entered.iter().map(|identity| identity.mount).collect(),
            devices: boundaries
                .one_file_system
                .then(|| entered.iter().map(|identity| identity.device).collect()),
        };
        Ok(Self {
            root,
            names: StageNames::new(),
            writable,
            filesystems,
            tops,
            touched: Mutex::default(),
            privileged: rustix::process::geteuid().is_root(),
        })
    }

    /// Holds the directory at `path` to change something in it; remembers what it was like.
    ///
    /// # Errors
    /// `EXDEV` when another filesystem is there now, and whatever opening it says.
    pub fn open(&self, path: &RelPath) -> rustix::io::Result<Arc<Directory>> {
        let fd = self.root.hold_directory(path)?;
        let stat = statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask())?;
        let identity = identity_of(&stat);
        let foreign = !self.writable.mounts.contains(&identity.mount)
            || self.writable.devices.as_ref().is_some_and(|devices| !devices.contains(&identity.device));
        if foreign {
            return Err(Errno::XDEV);
        }
        let (entry, _) = from_statx(&stat)?;
        let mut touched = self.touched.lock().map_err(|_| Errno::DEADLK)?;
        if !touched.contains_key(path) {
            if entry.flags & LOCKING_FLAGS != 0 {
                unlock(fd.as_fd())?;
            }
            // Without privilege the owner's own bits count, even the owner's.
            if !self.privileged && entry.mode & 0o300 != 0o300 {
                chmod(proc_path(fd.as_fd()), Mode::from_raw_mode((entry.mode | 0o700).into()))?;
            }
            touched.insert(path.clone(), entry);
        }
        drop(touched);
        let mut acl = [0; 4];
        let default_acl = match getxattr(proc_path(fd.as_fd()), c"system.posix_acl_default", &mut acl) {
            Ok(_) | Err(Errno::RANGE) => true,
            Err(_) => false,
        };
        Ok(Arc::new(Directory { fd, default_acl }))
    }

    /// Where the filesystems below the root begin that may be written to.
    #[must_use]
    pub fn tops(&self) -> &[RelPath] {
        &self.tops
    }

    /// Says what directories were like before they were touched by a run that was interrupted.
    pub(crate) fn touched_before(&self, before: &[(RelPath, Entry)]) {
        if let Ok(mut touched) = self.touched.lock() {
            touched.extend(before.iter().cloned());
        }
    }

    /// Flushes every filesystem that may be written to (syncfs(2)).
    ///
    /// # Errors
    /// Whatever syncfs(2) says: something that was written is not on stable storage.
    pub fn flush(&self) -> rustix::io::Result<()> {
        self.filesystems.iter().try_for_each(rustix::fs::syncfs)
    }

    /// Forgets what the directory at `path` was like: it is new, and the plan says what it becomes.
    pub(crate) fn forget(&self, path: &RelPath) {
        if let Ok(mut touched) = self.touched.lock() {
            touched.remove(path);
        }
    }

    /// Puts every touched directory back as it was, deepest first, except those in `planned`, whose times and flags
    /// the plan sets.
    pub fn settle(&self, planned: &HashSet<RelPath>, problems: &Problems) {
        let Ok(touched) = self.touched.lock().map(|mut touched| std::mem::take(&mut *touched)) else {
            return;
        };
        for (path, before) in touched.iter().rev().filter(|(path, _)| !planned.contains(*path)) {
            let fd = match self.root.hold_directory(path) {
                Ok(fd) => fd,
                // Deleted by this very run, perhaps to make way for a file.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => {
                    problems.note(path, Operation::SetTimes, std::io::Error::from(error));
                    continue;
                }
            };
            let check = |operation, result: rustix::io::Result<()>| {
                if let Err(error) = result {
                    problems.note(path, operation, std::io::Error::from(error));
                }
            };
            if !self.privileged && before.mode & 0o300 != 0o300 {
                let mode = Mode::from_raw_mode(before.mode.into());
                check(Operation::SetMode, chmod(proc_path(fd.as_fd()), mode));
            }
            check(Operation::SetTimes, set_mtime(Pinned::Held(fd.as_fd()), before.mtime));
            if before.flags & LOCKING_FLAGS != 0 {
                check(Operation::SetFlags, relock(fd.as_fd(), before.flags));
            }
        }
    }
}

/// Sets the locking flags again that were taken off, and touches no other.
fn relock(fd: BorrowedFd<'_>, before: u32) -> rustix::io::Result<()> {
    let open = rustix::fs::openat(
        rustix::fs::CWD,
        proc_path(fd),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let current = rustix::fs::ioctl_getflags(&open)?.bits() & crate::tree::INODE_FLAGS;
    set_flags(open.as_fd(), current | before & LOCKING_FLAGS)
}
