//! Gives a file that is on the standby under another name its new one.
//!
//! Why: a renamed directory would otherwise be sent again as a whole. The old name goes later, with the other
//! deletions, so that what cannot be moved is still there to be kept. What can go wrong: what lies there is not what
//! the source has; the digest of its content decides, and the file is sent instead.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, statx};
use rustix::io::Errno;

use super::commit::Committer;
use super::metadata::{LOCKING_FLAGS, Pinned, XattrState, apply, read_back, unlock};
use super::stage::WriteError;
use crate::plan::Item;
use crate::problem::Operation;
use crate::scan::{Stability, digest_open, from_statx, proc_path, statx_mask};
use crate::tree::{Attributes, Kind, RelPath};

impl Committer {
    /// Makes `item.path` a name of the file at `from`, if that has content of that `digest` and no other name, and
    /// gives it the item's metadata.
    ///
    /// # Errors
    /// [`WriteError::Mismatch`] when the file has to be sent; it is as it was then.
    pub fn adopt(&self, item: &Item, from: &RelPath, digest: [u8; 32]) -> Result<(), WriteError> {
        let directory = self.parent(from)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat(&directory, from.name().unwrap_or_default(), flags, Mode::empty());
        let fd: OwnedFd = opened.map_err(|_| WriteError::Mismatch)?;
        let (found, inode) =
            statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask()).and_then(|s| from_statx(&s))?;
        let alone = found.kind == Kind::File && inode.links == 1;
        if !alone || found.size_bytes != item.entry.size_bytes || digest_now(&fd)? != Some(digest) {
            return Err(WriteError::Mismatch);
        }
        let target = self.parent(&item.path)?;
        if found.flags & LOCKING_FLAGS != 0 {
            unlock(fd.as_fd())?;
        }
        let differing = item.entry.differences(&found) | Attributes::XATTRS | Attributes::ACL;
        let mut failures = apply(Pinned::Open(fd.as_fd()), &item.entry, differing, XattrState::Some);
        if failures.is_empty() {
            failures = read_back(fd.as_fd(), &item.entry, differing);
        }
        for (operation, reason) in failures {
            self.problems.note(&item.path, operation, reason);
        }
        // By the descriptor: it is the inode whose content was looked at.
        let name = item.path.name().unwrap_or_default();
        match linkat(rustix::fs::CWD, proc_path(fd.as_fd()), &target, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let reason = "something appeared there since the plan was made";
                self.fail(&item.path, Operation::Link, reason);
            }
            // Another filesystem, or one without hard links.
            Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK | Errno::NOENT) => {
                return Err(WriteError::Mismatch);
            }
            Err(error) => return Err(error.into()),
        }
        self.defer_locks(item);
        Ok(())
    }
}

/// The digest of an open file; none when it moved meanwhile.
fn digest_now(fd: &OwnedFd) -> rustix::io::Result<Option<[u8; 32]>> {
    let before = Stability::of(fd.as_fd())?;
    let digest = digest_open(fd.as_fd(), &before)?;
    Ok(Stability::of(fd.as_fd())?.same_as(&before).then_some(digest))
}
