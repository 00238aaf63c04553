//! One file with other content: what an edit of a configuration file needs.
//!
//! Why: an edited file keeps its owner, mode, ACL, label and flags, is old or new at any time, and is on disk before
//! the next step relies on it. What can go wrong: an attribute that cannot be given to the new inode; then the old file
//! stays.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{fsync, renameat};
use rustix::io::Errno;

use super::metadata::{
    Failure, LOCKING_FLAGS, Pinned, XattrState, apply, hold, locked_flags, set_flags, unlock,
};
use super::{Directories, FileWriter, WriteError};
use crate::tree::{Attributes, Entry, RelPath};

/// All but the time: an edited file is new.
const KEPT: Attributes = Attributes(super::metadata::ALL.0 & !Attributes::MTIME.0);

/// Puts a file with `content` and the owner, mode, attributes and flags of `like` at `path`, durably.
///
/// # Errors
/// Whatever opening, writing, setting an attribute or renaming says; the old file is then still there.
pub(crate) fn rewrite(
    directories: &Directories,
    path: &RelPath,
    content: &[u8],
    like: &Entry,
) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
        return Err(Errno::ISDIR.into());
    };
    let directory = directories.open(&parent)?;
    let written = |error| match error {
        WriteError::Io(error) => error,
        other => io::Error::other(other),
    };
    let mut writer = FileWriter::create(directories, &directory, None)?;
    writer.raw_data(content).map_err(written)?;
    let (fd, staged) = writer.finish(None).map_err(written)?;
    let failures = apply(Pinned::Open(fd.as_fd()), like, KEPT, XattrState::Some);
    if let Some(Failure { operation, reason }) = failures.into_iter().next() {
        return Err(io::Error::other(format!("cannot {}: {reason}", operation.words())));
    }
    fsync(&fd)?;
    if let Ok(old) = hold(directory.as_fd(), name)
        && locked_flags(old.as_fd()).is_ok_and(|flags| flags & LOCKING_FLAGS != 0)
    {
        unlock(old.as_fd())?;
    }
    let staged = staged.ok_or(Errno::NOENT)?;
    renameat(&directory, &staged.name[..], &directory, name)?;
    staged.settled();
    if like.flags & LOCKING_FLAGS != 0 {
        set_flags(fd.as_fd(), like.flags)?;
    }
    Ok(())
}
