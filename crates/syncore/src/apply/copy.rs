//! Copies a file from one descriptor to a staged one, within this host.
//!
//! Why: where both roots are on one host, nothing needs to be encoded, and the kernel copies from cache to cache, or
//! shares the blocks where the filesystem can (copy_file_range(2)). What can go wrong: the source lives; what moved
//! under the copy is copied again, and what will not hold still is left as it was on the standby.

use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, copy_file_range, ftruncate, openat};
use rustix::io::Errno;

use super::behind::Behind;
use super::commit::Committer;
use super::directory::Directory;
use super::metadata::{ALL, Pinned};
use super::stage::{Staged, WriteError, write_full};
use crate::plan::Item;
use crate::scan::{Stability, extents, read_full};

/// Bytes copied at once.
const COPY_BYTES: usize = 256 * 1024;

/// Up to this length a file is read and written, which is two calls; beyond it the kernel copies.
const SHORT_BYTES: u64 = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; COPY_BYTES]);
}

/// How copying a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// It is in its place.
    Placed,
    /// The source changed under the copy; nothing was replaced.
    Moved,
}

impl Committer {
    /// Copies the open `source`, which was as `before` says, to the item's path; `each` hears of every piece.
    ///
    /// # Errors
    /// [`WriteError::Io`]; nothing was replaced then.
    pub fn copy_file(
        &self,
        item: &Item,
        source: BorrowedFd<'_>,
        before: &Stability,
        directory: &Arc<Directory>,
        each: &dyn Fn(u64),
    ) -> Result<Copied, WriteError> {
        let (staged, fd) = Staged::make(&self.directories, directory, |at, name| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(at, name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        let ends_in_hole = match copy_content(source, &fd, before, each) {
            Ok(ends_in_hole) => ends_in_hole,
            // It became shorter under our hands.
            Err(WriteError::Mismatch) => return Ok(Copied::Moved),
            Err(error) => return Err(error),
        };
        let after = Stability::of(source)?;
        let grew = after.grew_since(before) && same_content(source, fd.as_fd(), before.size_bytes)?;
        if !after.same_as(before) && !grew {
            return Ok(Copied::Moved);
        }
        if ends_in_hole && self.durable {
            // Its length is on disk before its data may be, and would make it look whole.
            rustix::fs::fdatasync(&fd)?;
        }
        let mut item = item.clone();
        (item.entry.size_bytes, item.entry.mtime) = (before.size_bytes, before.mtime);
        self.dress(&item, Pinned::Open(fd.as_fd()), staged.directory.default_acl, ALL);
        self.trail.add(fd, before.size_bytes);
        self.place(staged, &item);
        Ok(Copied::Placed)
    }
}

/// Copies data and holes; says whether the file ends in a hole. [`WriteError::Mismatch`] when the source is shorter than
/// it was.
pub(super) fn copy_content(
    source: BorrowedFd<'_>,
    target: &OwnedFd,
    before: &Stability,
    each: &dyn Fn(u64),
) -> Result<bool, WriteError> {
    let (length, mut behind) = (before.size_bytes, Behind::default());
    if !before.sparse {
        copy_range(source, target.as_fd(), 0..length, &mut behind, each)?;
        return Ok(false);
    }
    let mut end = 0;
    for extent in extents(source, length)? {
        end = extent.offset + extent.length;
        copy_range(source, target.as_fd(), extent.offset..end, &mut behind, each)?;
    }
    if end < length {
        ftruncate(target, length)?;
    }
    Ok(end < length)
}

fn copy_range(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    Range { start, end }: Range<u64>,
    behind: &mut Behind,
    each: &dyn Fn(u64),
) -> Result<(), WriteError> {
    let mut position = start;
    let mut by_kernel = end - start > SHORT_BYTES;
    while position < end {
        let want = usize::try_from(end - position).unwrap_or(usize::MAX).min(COPY_BYTES);
        let copied = if by_kernel {
            let (mut from, mut to) = (position, position);
            match copy_file_range(source, Some(&mut from), target, Some(&mut to), want) {
                Ok(copied) => copied,
                Err(Errno::INTR) => continue,
                // Not between these filesystems, or not on this kernel.
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    by_kernel = false;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        } else {
            BUFFER.with_borrow_mut(|buffer| {
                let buffer = &mut buffer[..want];
                let read = read_full(source, buffer, position)?;
                write_full(target, &buffer[..read], position).map(|()| read)
            })?
        };
        if copied == 0 {
            return Err(WriteError::Mismatch);
        }
        position += copied as u64;
        behind.reached(target, position);
        each(copied as u64);
    }
    Ok(())
}

/// Whether two files have the same first `length` bytes.
fn same_content(a: BorrowedFd<'_>, b: BorrowedFd<'_>, length: u64) -> rustix::io::Result<bool> {
    let (mut mine, mut theirs) = (vec![0; COPY_BYTES], vec![0; COPY_BYTES]);
    let mut position = 0;
    while position < length {
        let want = usize::try_from(length - position).unwrap_or(usize::MAX).min(COPY_BYTES);
        let read = read_full(a, &mut mine[..want], position)?;
        if read < want
            || read_full(b, &mut theirs[..want], position)? < want
            || mine[..want] != theirs[..want]
        {
            return Ok(false);
        }
        position += want as u64;
    }
    Ok(true)
}
