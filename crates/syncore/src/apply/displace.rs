//! One name moved out of the way and back, as it is: what holding something needs.
//!
//! Why: a rename keeps the inode, so owner, mode, attributes, times and bytes come back exactly. What can go wrong: a
//! flag that forbids renaming; it is taken off for the move and put back. A place that is taken; nothing is overwritten.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, RenameFlags, mkdirat, renameat_with, statat};
use rustix::io::Errno;

use super::metadata::{
    ALL, Failure, LOCKING_FLAGS, Pinned, XattrState, apply, hold, locked_flags, set_flags, unlock,
};
use crate::tree::{Attributes, Entry};

/// A directory and a name in it.
pub(crate) type Name<'a> = (BorrowedFd<'a>, &'a [u8]);

/// Moves `from` to `to`, which must be free.
pub(crate) fn displace(from: Name<'_>, to: Name<'_>) -> io::Result<()> {
    unlocked(from, || match renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        // RACE: a filesystem without that flag: what is put there between the look and the rename is lost.
        Err(Errno::INVAL | Errno::NOSYS) => match statat(to.0, to.1, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(from.0, from.1, to.0, to.1),
            Err(error) => Err(error),
        },
        other => other,
    })
}

/// Moves `from` to `to` in place of what is there.
pub(crate) fn replace(from: Name<'_>, to: Name<'_>) -> io::Result<()> {
    unlocked(from, || rustix::fs::renameat(from.0, from.1, to.0, to.1))
}

/// Lets two names change places, so that neither place is ever empty.
pub(crate) fn exchange(one: Name<'_>, other: Name<'_>) -> io::Result<()> {
    unlocked(one, || match renameat_with(one.0, one.1, other.0, other.1, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            // RACE: here the place is empty for a moment; a crash leaves what was in it under the third name.
            let third = [other.1, b".moving"].concat();
            rustix::fs::renameat(one.0, one.1, other.0, &third[..])?;
            rustix::fs::renameat(other.0, other.1, one.0, one.1)?;
            rustix::fs::renameat(other.0, &third[..], other.0, other.1)
        }
        other => other,
    })
}

/// Makes an empty directory with the owner, mode and attributes of `like`; one that is there is given them.
pub(crate) fn directory_like(place: Name<'_>, like: &Entry) -> io::Result<()> {
    match mkdirat(place.0, place.1, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let held = hold(place.0, place.1)?;
    let kept = Attributes(ALL.0 & !Attributes::MTIME.0);
    match apply(Pinned::Held(held.as_fd()), like, kept, XattrState::Some).into_iter().next() {
        Some(Failure { operation, reason }) => {
            Err(io::Error::other(format!("cannot {}: {reason}", operation.words())))
        }
        None => Ok(()),
    }
}

/// Does `work` while `name` is free of the flags that forbid a rename.
fn unlocked(name: Name<'_>, work: impl FnOnce() -> rustix::io::Result<()>) -> io::Result<()> {
    let held = hold(name.0, name.1)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode);
    let may_be_locked = matches!(kind, rustix::fs::FileType::RegularFile | rustix::fs::FileType::Directory);
    let flags = if may_be_locked { locked_flags(held.as_fd()).unwrap_or(0) } else { 0 };
    if flags & LOCKING_FLAGS == 0 {
        return Ok(work()?);
    }
    unlock(held.as_fd())?;
    let done = work();
    // The descriptor is the inode's, wherever its name is now.
    set_flags(held.as_fd(), flags)?;
    Ok(done?)
}
