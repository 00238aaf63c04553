//! Reads one name's metadata, relative to the directory that holds it.
//!
//! Why: this is the hot path of every run: one statx and, unless it is known to be empty, one list of attributes for most
//! names, and nothing twice. What can go wrong: the name may become something else between two calls. Whoever owns the
//! directory may do that at any time, so what is read is only ever shown and compared; the commit pins the inode and
//! looks again.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Statx, ioctl_getflags, lgetxattr, llistxattr, readlinkat, statx};
use rustix::io::{Errno, Result};

use super::batch::Batch;
use super::content::{Stability, hash_file, open_file};
use super::listxattrat::listxattrat;
use super::root::{Identity, identity_of, proc_path_of, statx_mask};
use crate::tree::{Entry, INODE_FLAGS, Kind, STATX_FLAGS, Timestamp, Xattr};

/// Largest xattr value (`XATTR_SIZE_MAX`) and list of names (`XATTR_LIST_MAX`), xattr(7).
const XATTR_LIMIT_BYTES: usize = 64 * 1024;

/// How much all attributes of one inode may have together, so that an entry fits a frame with room to spare. No
/// inode of an operating system comes near it; one that somebody made to be in the way is a problem of its own path.
const XATTRS_LIMIT_BYTES: usize = 512 * 1024;

/// What is offered first for a list of names; nearly all are empty or shorter.
const XATTR_FIRST_BYTES: usize = 256;

/// What is only true of the inode here, not of its copy.
#[derive(Debug, Clone, Copy)]
pub struct Inode {
    /// Which inode on which mount.
    pub identity: Identity,
    /// How many names it has, in scope or not.
    pub links: u32,
}

/// How much is read of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What can be had without opening anything.
    Quick,
    /// Also the inode flags that statx(2) does not report, at the price of opening the file.
    Full,
    /// Also the content of a file, for a digest of it.
    Content,
}

/// Buffers that are used again and again.
#[derive(Debug)]
pub struct Scratch {
    pub(crate) path: Vec<u8>,
    pub(crate) list: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// Whether the last name that was read has attributes.
    pub(crate) had_xattrs: bool,
    /// Whether the kernel said of the last name that was read that it has none, shown or not.
    pub(super) bare: bool,
    pub(super) batch: Batch,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            path: Vec::new(),
            list: vec![0; XATTR_LIMIT_BYTES],
            value: Vec::with_capacity(XATTR_LIMIT_BYTES),
            had_xattrs: false,
            bare: false,
            batch: Batch::default(),
        }
    }
}

/// The kind of what statx saw; an error for what no Unix has.
fn kind_of(stat: &Statx) -> Result<Kind> {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Ok(Kind::File),
        FileType::Directory => Ok(Kind::Directory),
        FileType::Symlink => Ok(Kind::Symlink),
        FileType::Fifo => Ok(Kind::Fifo),
        FileType::Socket => Ok(Kind::Socket),
        FileType::BlockDevice => Ok(Kind::BlockDevice),
        FileType::CharacterDevice => Ok(Kind::CharDevice),
        FileType::Unknown => Err(Errno::NOTSUP),
    }
}

/// What statx alone says of `name` in `directory`: its kind, and which inode it is.
///
/// # Errors
/// Whatever statx(2) says.
pub fn read_kind(directory: BorrowedFd<'_>, name: &CStr) -> Result<(Kind, Inode)> {
    let stat = read_stat(directory, name)?;
    Ok((kind_of(&stat)?, Inode { identity: identity_of(&stat), links: stat.stx_nlink }))
}

/// Reads all metadata of `name` in `directory`, except the other names of its inode.
///
/// # Errors
/// Whatever statx(2), readlinkat(2), llistxattr(2), lgetxattr(2) or pread(2) say; `ENOENT` when it is gone, `EAGAIN`
/// when its content would not hold still.
pub fn read_entry(
    directory: BorrowedFd<'_>,
    name: &CStr,
    detail: Detail,
    scratch: &mut Scratch,
) -> Result<(Entry, Inode)> {
    complete(directory, name, &read_stat(directory, name)?, detail, false, scratch)
}

pub(super) fn read_stat(directory: BorrowedFd<'_>, name: &CStr) -> Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    statx(directory, name, flags, statx_mask())
}

/// Does what [`read_entry`] does for a name of which statx has told `stat`; if `bare`, it is known to have no attributes.
pub(super) fn complete(
    directory: BorrowedFd<'_>,
    name: &CStr,
    stat: &Statx,
    detail: Detail,
    bare: bool,
    scratch: &mut Scratch,
) -> Result<(Entry, Inode)> {
    let (mut entry, inode) = from_statx(stat)?;
    if entry.kind == Kind::Symlink {
        entry.target = readlinkat(directory, name, Vec::new())?.into_bytes();
    }
    if !bare {
        entry.xattrs = read_xattrs(directory, name, scratch)?;
    }
    if detail != Detail::Quick && matches!(entry.kind, Kind::File | Kind::Directory) {
        read_opened(directory, name, detail, stat, &mut entry)?;
    }
    Ok((entry, inode))
}

/// What statx alone says: an entry without symlink target, xattrs and rarer inode flags.
pub(crate) fn from_statx(stat: &Statx) -> Result<(Entry, Inode)> {
    let kind = kind_of(stat)?;
    let mut entry = Entry::new(kind);
    entry.mode = if kind == Kind::Symlink { 0 } else { stat.stx_mode & 0o7777 };
    (entry.uid, entry.gid) = (stat.stx_uid, stat.stx_gid);
    entry.mtime = Timestamp { seconds: stat.stx_mtime.tv_sec, nanoseconds: stat.stx_mtime.tv_nsec };
    match kind {
        Kind::File => entry.size_bytes = stat.stx_size,
        Kind::BlockDevice | Kind::CharDevice => entry.device = (stat.stx_rdev_major, stat.stx_rdev_minor),
        _ => {}
    }
    if matches!(kind, Kind::File | Kind::Directory) {
        // The attribute bits of statx have the values of the inode flags of the same name (linux/stat.h).
        entry.flags = u32::try_from(stat.stx_attributes.bits() & u64::from(STATX_FLAGS)).unwrap_or(0);
    }
    Ok((entry, Inode { identity: identity_of(stat), links: stat.stx_nlink }))
}

/// Adds what only the open file or directory shows: all its inode flags, and its content.
fn read_opened(
    directory: BorrowedFd<'_>,
    name: &CStr,
    detail: Detail,
    stat: &Statx,
    entry: &mut Entry,
) -> Result<()> {
    let content = detail == Detail::Content && entry.kind == Kind::File;
    // RACE: the name may have become a FIFO or a device since statx; O_NONBLOCK keeps the open from waiting, and a
    // device driver's open is the worst that can happen to it.
    let fd = match open_file(directory, name) {
        Ok(fd) => fd,
        // Not readable without root: the flags that statx knows are still true.
        Err(Errno::ACCESS | Errno::PERM) if !content => return Ok(()),
        Err(error) => return Err(error),
    };
    entry.flags = flags_of(fd.as_fd(), entry.flags)?;
    if content {
        entry.content = Some(hash_file(fd.as_fd(), Stability::from_stat(stat, entry))?);
    }
    Ok(())
}

/// The inode flags of an open file, or `quick` where its filesystem has none.
fn flags_of(fd: BorrowedFd<'_>, quick: u32) -> Result<u32> {
    match ioctl_getflags(fd) {
        Ok(flags) => Ok(flags.bits() & INODE_FLAGS),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(quick),
        Err(error) => Err(error),
    }
}

/// Lists the attribute names of `name` into `list`, with as few and as cheap calls as the kernel allows.
fn list_xattrs(directory: BorrowedFd<'_>, name: &CStr, scratch: &mut Scratch) -> Result<usize> {
    static NO_LISTXATTRAT: AtomicBool = AtomicBool::new(false);
    // The kernel allocates as much as is offered, so little is offered first. Nothing at all asks for the length: where
    // there is no attribute that is the whole answer, and the cheapest. Where every file has a label, the next has one, too.
    let mut offered = if scratch.had_xattrs { XATTR_FIRST_BYTES } else { 0 };
    loop {
        let list = &mut scratch.list[..offered];
        let mut listed = Err(Errno::NOSYS);
        if !NO_LISTXATTRAT.load(Ordering::Relaxed) {
            listed = listxattrat(directory, name, list);
        }
        // EPERM is what older container runtimes answer to calls they do not know. It may be the file's own, so it is
        // believed to be the call's only when the other way knows better.
        if let Err(refused @ (Errno::NOSYS | Errno::PERM)) = listed {
            listed = llistxattr(proc_path_of(directory, name.to_bytes(), &mut scratch.path), list);
            if refused == Errno::NOSYS || matches!(listed, Ok(_) | Err(Errno::RANGE | Errno::OPNOTSUPP)) {
                NO_LISTXATTRAT.store(true, Ordering::Relaxed);
            }
        }
        match listed {
            Err(Errno::RANGE) if offered < XATTR_LIMIT_BYTES => offered = XATTR_LIMIT_BYTES,
            Ok(length) if length > offered => offered = XATTR_FIRST_BYTES,
            Err(Errno::OPNOTSUPP | Errno::NODATA) => {
                scratch.bare = false;
                return Ok(0);
            }
            other => {
                (scratch.had_xattrs, scratch.bare) = (matches!(other, Ok(1..)), other == Ok(0));
                return other;
            }
        }
    }
}

fn read_xattrs(directory: BorrowedFd<'_>, name: &CStr, scratch: &mut Scratch) -> Result<Vec<Xattr>> {
    let listed = list_xattrs(directory, name, scratch)?;
    if listed == 0 {
        return Ok(Vec::new());
    }
    let Scratch { path, list, value, .. } = scratch;
    let (path, list) = (proc_path_of(directory, name.to_bytes(), path), &list[..listed]);
    let mut xattrs = Vec::new();
    for name in list.split(|b| *b == 0).filter(|name| carried(name)) {
        value.clear();
        match lgetxattr(path, name, rustix::buffer::spare_capacity(value)) {
            Ok(_) => xattrs.push(Xattr { name: name.to_vec(), value: value.clone() }),
            // Removed in the meantime, or a name that is listed but has no value for us.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    let bytes: usize = xattrs.iter().map(|xattr: &Xattr| xattr.name.len() + xattr.value.len()).sum();
    if bytes > XATTRS_LIMIT_BYTES {
        return Err(Errno::TOOBIG);
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Whether an attribute belongs to the file rather than to the filesystem it happens to be on.
pub(crate) fn carried(name: &[u8]) -> bool {
    // Integrity measurements are over this host's inode; overlay bookkeeping over this mount's layers.
    !name.is_empty() && name != b"security.evm" && !name.starts_with(b"trusted.overlay.")
}
