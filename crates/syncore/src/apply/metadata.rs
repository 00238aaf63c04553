//! Sets an inode's owner, mode, extended attributes, times and flags, and reads back what came of it.
//!
//! Why the order: chown clears setuid and capabilities, an ACL rewrites the group bits of the mode, writing moves the
//! times, and an immutable inode takes no change at all; so owner, mode, xattrs, times, and flags last (chown(2),
//! capabilities(7), acl(5)). What can go wrong: a filesystem that cannot hold a value (a year, a flag, an
//! attribute) and says so, or does not; hence the look afterwards. Every failure is reported, none is swallowed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat,
    fchmod, futimens, ioctl_getflags, ioctl_setflags, lgetxattr, listxattr, openat, removexattr, setxattr,
    statx, utimensat,
};
use rustix::io::Errno;
use thiserror::Error;

use crate::problem::Operation;
use crate::scan::{carried, from_statx, proc_path, statx_mask};
use crate::tree::{APPEND_FLAG, Attributes, Entry, IMMUTABLE_FLAG, INODE_FLAGS, Kind, Timestamp, Xattr};

/// Flags that make an inode refuse changes; set after everything else, links and renames included.
pub(crate) const LOCKING_FLAGS: u32 = IMMUTABLE_FLAG | APPEND_FLAG;

/// A pinned inode: open for writing, or only held (`O_PATH`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pinned<'a> {
    Open(BorrowedFd<'a>),
    Held(BorrowedFd<'a>),
}

impl Pinned<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) | Self::Held(fd) => *fd,
        }
    }
}

/// Something that could not be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) operation: Operation,
    pub(crate) reason: Reason,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Reason {
    /// The system said so.
    #[error("{}", std::io::Error::from(*.0))]
    Error(Errno),
    /// The filesystem took it, and has something else.
    #[error("the filesystem kept another {0}")]
    Other(&'static str),
}

impl Failure {
    fn new(operation: Operation, error: Errno) -> Self {
        Self { operation, reason: Reason::Error(error) }
    }

    /// The error, if it says that something is broken or full, and not that this filesystem or user cannot have it.
    pub(crate) fn fault(&self) -> Option<Errno> {
        match self.reason {
            Reason::Error(
                error @ (Errno::IO
                | Errno::NOSPC
                | Errno::DQUOT
                | Errno::ROFS
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM),
            ) => Some(error),
            Reason::Error(_) | Reason::Other(_) => None,
        }
    }
}

/// Holds `name` in `directory`, whatever it is, without opening or following it.
pub(crate) fn hold(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// How the xattrs of an inode are brought to what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum XattrState {
    /// The inode is new and has none.
    None,
    /// It may have some: those that are not wanted are removed.
    Some,
}

/// Sets `attributes` of the pinned inode to those of `entry`, except the locking flags, and looks what came of it.
pub(crate) fn set(
    pinned: Pinned<'_>,
    entry: &Entry,
    attributes: Attributes,
    xattrs: XattrState,
) -> Vec<Failure> {
    let failures = apply(pinned, entry, attributes, xattrs);
    if failures.is_empty() { read_back(pinned.fd(), entry, attributes) } else { failures }
}

/// Sets `attributes` of the pinned inode to those of `entry`, except the locking flags.
pub(crate) fn apply(
    pinned: Pinned<'_>,
    entry: &Entry,
    attributes: Attributes,
    xattrs: XattrState,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut check = |operation, result: rustix::io::Result<()>| {
        if let Err(error) = result {
            failures.push(Failure::new(operation, error));
        }
    };
    let fd = pinned.fd();
    let owner = attributes.contains(Attributes::UID) || attributes.contains(Attributes::GID);
    let mut chowned = true;
    if owner {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let result = chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
        chowned = result.is_ok();
        check(Operation::SetOwner, result);
    }
    let mode = attributes.contains(Attributes::MODE) || owner;
    if mode && entry.kind != Kind::Symlink {
        // Never setuid or setgid of somebody else than the source's owner.
        let bits = if chowned { entry.mode } else { entry.mode & !0o6000 };
        check(Operation::SetMode, set_mode(pinned, bits));
    }
    if attributes.contains(Attributes::XATTRS) || attributes.contains(Attributes::ACL) || owner {
        for (operation, result) in set_xattrs(fd, &entry.xattrs, xattrs) {
            check(operation, result);
        }
    }
    let wanted = entry.flags & !LOCKING_FLAGS != 0;
    if attributes.contains(Attributes::FLAGS) && (wanted || xattrs == XattrState::Some) {
        check(Operation::SetFlags, set_plain_flags(pinned, entry));
    }
    if attributes.contains(Attributes::MTIME) {
        check(Operation::SetTimes, set_mtime(pinned, entry.mtime));
    }
    failures
}

fn set_mode(pinned: Pinned<'_>, mode: u16) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(mode.into());
    match pinned {
        Pinned::Open(fd) => fchmod(fd, mode),
        Pinned::Held(fd) => chmod(proc_path(fd), mode),
    }
}

/// Sets the modification time and leaves the access time alone.
pub(crate) fn set_mtime(pinned: Pinned<'_>, mtime: Timestamp) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    };
    match pinned {
        Pinned::Open(fd) => futimens(fd, &times),
        Pinned::Held(fd) => utimensat(fd, c"", &times, AtFlags::EMPTY_PATH),
    }
}

fn set_xattrs(
    fd: BorrowedFd<'_>,
    wanted: &[Xattr],
    state: XattrState,
) -> Vec<(Operation, rustix::io::Result<()>)> {
    if wanted.is_empty() && state == XattrState::None {
        return Vec::new();
    }
    let path = proc_path(fd);
    let mut results = Vec::new();
    let mut present = Vec::new();
    if state == XattrState::Some {
        let mut list = Vec::with_capacity(64 * 1024);
        match listxattr(&path, rustix::buffer::spare_capacity(&mut list)) {
            Ok(_) => present = list.split(|b| *b == 0).filter(|n| carried(n)).map(<[u8]>::to_vec).collect(),
            Err(Errno::OPNOTSUPP) => {}
            Err(error) => results.push((Operation::SetXattr, Err(error))),
        }
    }
    for name in present.iter().filter(|name| !wanted.iter().any(|x| x.name == **name)) {
        // The kernel labels every new inode by policy; a source without labels says nothing about them.
        if name != b"security.selinux" {
            results.push((Operation::SetXattr, removexattr(&path, &name[..])));
        }
    }
    for xattr in wanted {
        let mut value = Vec::with_capacity(xattr.value.len() + 1);
        let same = present.contains(&xattr.name)
            && lgetxattr(&path, &xattr.name[..], rustix::buffer::spare_capacity(&mut value)).is_ok()
            && value == xattr.value;
        if !same {
            let result = setxattr(&path, &xattr.name[..], &xattr.value, XattrFlags::empty());
            results.push((Operation::SetXattr, result));
        }
    }
    results
}

/// Sets all but the locking flags.
fn set_plain_flags(pinned: Pinned<'_>, entry: &Entry) -> rustix::io::Result<()> {
    if !matches!(entry.kind, Kind::File | Kind::Directory) {
        return Ok(());
    }
    set_flags(pinned.fd(), entry.flags & !LOCKING_FLAGS)
}

/// Opens a pinned file or directory for an ioctl, by its magic link: the same inode, whatever its name is now.
fn reopen(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(rustix::fs::CWD, proc_path(fd), flags, Mode::empty())
}

/// Sets the flags that a copy carries and leaves the filesystem's own alone.
pub(crate) fn set_flags(fd: BorrowedFd<'_>, wanted: u32) -> rustix::io::Result<()> {
    let open = reopen(fd)?;
    let current = match ioctl_getflags(&open) {
        Ok(flags) => flags.bits(),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) if wanted == 0 => return Ok(()),
        Err(error) => return Err(error),
    };
    let flags = current & !INODE_FLAGS | wanted;
    if flags == current {
        return Ok(());
    }
    ioctl_setflags(&open, IFlags::from_bits_retain(flags))
}

/// The flags of a pinned file or directory, as far as a copy carries them.
pub(crate) fn locked_flags(fd: BorrowedFd<'_>) -> rustix::io::Result<u32> {
    Ok(ioctl_getflags(reopen(fd)?)?.bits() & INODE_FLAGS)
}

/// Takes the locking flags off a pinned file or directory.
pub(crate) fn unlock(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let open = reopen(fd)?;
    let current = ioctl_getflags(&open)?.bits();
    ioctl_setflags(&open, IFlags::from_bits_retain(current & !LOCKING_FLAGS))
}

/// Looks at what came of setting `attributes`, and names what the filesystem did not take.
fn read_back(fd: BorrowedFd<'_>, entry: &Entry, attributes: Attributes) -> Vec<Failure> {
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH, statx_mask()).and_then(|stat| from_statx(&stat));
    let found = match stat {
        Ok((found, _)) => found,
        Err(error) => return vec![Failure::new(Operation::ReadMetadata, error)],
    };
    let mut failures = Vec::new();
    let mut expect = |attribute, operation, same: bool, what| {
        if attributes.contains(attribute) && !same {
            failures.push(Failure { operation, reason: Reason::Other(what) });
        }
    };
    expect(Attributes::UID, Operation::SetOwner, found.uid == entry.uid, "owner");
    expect(Attributes::GID, Operation::SetOwner, found.gid == entry.gid, "group");
    expect(Attributes::MODE, Operation::SetMode, found.mode == entry.mode, "mode");
    expect(Attributes::MTIME, Operation::SetTimes, found.mtime == entry.mtime, "modification time");
    failures
}

/// Every attribute there is: for an inode that was made just now.
pub(crate) const ALL: Attributes = Attributes(
    Attributes::MTIME.0
        | Attributes::MODE.0
        | Attributes::UID.0
        | Attributes::GID.0
        | Attributes::XATTRS.0
        | Attributes::ACL.0
        | Attributes::FLAGS.0,
);

/// The pinned form of an `O_PATH` descriptor.
pub(crate) fn held(fd: &OwnedFd) -> Pinned<'_> {
    Pinned::Held(fd.as_fd())
}
