//! Gives a file that is on the standby under another name its new one.
//!
//! Why: a renamed directory would otherwise be sent again as a whole. The old name goes later, with the other
//! deletions, so that what cannot be moved is still there to be kept. What can go wrong: what lies there is not what
//! the source has; the digest of its content decides, and the file is sent instead. Or somebody on the standby has put
//! it there and holds it open for writing: an inode keeps its writers, so only one whose owner, mode and attributes are
//! those of the new file gets the new name. Any other is copied.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, statx};
use rustix::io::Errno;

use super::commit::Committer;
use super::copy::copy_content;
use super::directory::Directory;
use super::metadata::{ALL, LOCKING_FLAGS, Pinned, set_mtime};
use super::stage::{Staged, WriteError};
use crate::plan::Item;
use crate::problem::Operation;
use crate::scan::{
    Detail, Scratch, Stability, digest_open, identity_of, open_file, proc_path, read_entry, statx_mask,
};
use crate::tree::{Attributes, Kind, RelPath};

impl Committer {
    /// Makes a file at `item.path` of the one at `from`, if that has content of that `digest` and no other name.
    ///
    /// # Errors
    /// [`WriteError::Mismatch`] when the file has to be sent; what is at `from` is as it was then.
    pub fn adopt(&self, item: &Item, from: &RelPath, digest: [u8; 32]) -> Result<(), WriteError> {
        let directory = self.directories.root.hold_directory(&from.parent().unwrap_or_default())?;
        let name = CString::new(from.name().unwrap_or_default()).map_err(|_| WriteError::Mismatch)?;
        let (fd, same) = self.look(item, &directory, &name).map_err(|_| WriteError::Mismatch)?;
        let before = Stability::of(fd.as_fd())?;
        if before.size_bytes != item.entry.size_bytes {
            return Err(WriteError::Mismatch);
        }
        let target = self.staging(&item.path.parent().unwrap_or_default())?;
        // While it is only written down, the time of what is in its place stays as it is.
        let untouched = self.whole.is_none() || before.mtime == item.entry.mtime;
        if same && untouched {
            self.link_moved(item, &fd, &before, &target, digest)
        } else {
            self.copy_moved(item, &fd, &before, &target, digest)
        }
    }

    /// Opens what lies there, and says whether it may become the new file itself.
    fn look(&self, item: &Item, directory: &OwnedFd, name: &CString) -> rustix::io::Result<(OwnedFd, bool)> {
        let (found, inode) = read_entry(directory.as_fd(), name, Detail::Full, &mut Scratch::default())?;
        if found.kind != Kind::File || inode.links != 1 {
            return Err(Errno::STALE);
        }
        let fd = open_file(directory.as_fd(), name)?;
        let opened = identity_of(&statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask())?);
        if (opened.inode, opened.device) != (inode.identity.inode, inode.identity.device) {
            return Err(Errno::STALE);
        }
        let differing = item.entry.differences(&found);
        let harmless = differing.without(Attributes::MTIME).without(Attributes::CONTENT).is_empty();
        Ok((fd, harmless && found.flags & LOCKING_FLAGS == 0))
    }

    fn link_moved(
        &self,
        item: &Item,
        fd: &OwnedFd,
        before: &Stability,
        target: &Arc<Directory>,
        digest: [u8; 32],
    ) -> Result<(), WriteError> {
        if digest_open(fd.as_fd(), before)? != digest || !Stability::of(fd.as_fd())?.same_as(before) {
            return Err(WriteError::Mismatch);
        }
        if before.mtime != item.entry.mtime {
            set_mtime(Pinned::Open(fd.as_fd()), item.entry.mtime)?;
        }
        // By the descriptor: it is the inode whose content was looked at.
        if let Some(ledger) = &self.whole {
            let from = proc_path(fd.as_fd());
            let staged = Staged::make(&self.directories, target, |at, name| {
                linkat(rustix::fs::CWD, &from, at, name, AtFlags::SYMLINK_FOLLOW)
            });
            let (staged, ()) = staged.map_err(|_| WriteError::Mismatch)?;
            ledger.put(staged, item);
            return Ok(());
        }
        let name = item.path.name().unwrap_or_default();
        match linkat(rustix::fs::CWD, proc_path(fd.as_fd()), target, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                self.fail(&item.path, Operation::Link, "something appeared there since the plan was made");
                Ok(())
            }
            // Another filesystem, or one without hard links.
            Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK | Errno::NOENT) => {
                Err(WriteError::Mismatch)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is compared is the copy: nobody else can write to that.
    fn copy_moved(
        &self,
        item: &Item,
        fd: &OwnedFd,
        before: &Stability,
        target: &Arc<Directory>,
        digest: [u8; 32],
    ) -> Result<(), WriteError> {
        let (staged, copy) = Staged::make(&self.directories, target, |at, name| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(at, name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        let ends_in_hole = copy_content(fd.as_fd(), &copy, before, &|_| ())?;
        if digest_open(copy.as_fd(), &Stability::of(copy.as_fd())?)? != digest {
            return Err(WriteError::Mismatch);
        }
        if ends_in_hole && self.durable {
            rustix::fs::fdatasync(&copy)?;
        }
        self.dress(item, Pinned::Open(copy.as_fd()), staged.directory.default_acl, ALL);
        drop(copy);
        self.place(staged, item);
        Ok(())
    }
}
