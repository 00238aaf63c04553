//! Opens and reads file content honestly: a file that changes under the reader is noticed.
//!
//! Why: whole-machine copies of running hosts always meet files in motion; a torn copy must never be taken for a
//! good one. So the file is opened without following a link, looked at before and after, and read with read(2),
//! never mapped: a mapped file that shrinks kills the reader. What can go wrong: see [`Stability`].

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, Statx, openat, seek, statx};
use rustix::io::{Errno, Result};

use super::metadata::from_statx;
use super::root::statx_mask;
use crate::delta::{Extent, ReadAt};
use crate::tree::{Entry, Kind, Timestamp};

/// How often a small file that changes while it is read is read again.
pub const READ_ATTEMPTS: u32 = 3;

/// Bytes read at once: still in the processor's nearest caches when they are hashed.
const READ_BYTES: usize = 64 * 1024;

/// What of a file moves when its content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stability {
    /// Length in bytes.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Status change time: moves when mtime is set back.
    pub ctime: Timestamp,
    /// Whether less is allocated than the length: there are holes, or the filesystem compresses.
    pub sparse: bool,
}

impl Stability {
    /// Looks at an open file.
    ///
    /// # Errors
    /// Whatever statx(2) says; `EAGAIN` when it is no regular file.
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self> {
        let stat = statx(fd, c"", AtFlags::EMPTY_PATH, statx_mask())?;
        let (entry, _) = from_statx(&stat)?;
        if entry.kind != Kind::File {
            return Err(Errno::AGAIN);
        }
        Ok(Self::from_stat(&stat, &entry))
    }

    /// What statx said, of which `entry` was made.
    pub(super) fn from_stat(stat: &Statx, entry: &Entry) -> Self {
        let ctime = Timestamp { seconds: stat.stx_ctime.tv_sec, nanoseconds: stat.stx_ctime.tv_nsec };
        let sparse = stat.stx_blocks.saturating_mul(512) < entry.size_bytes;
        Self { size_bytes: entry.size_bytes, mtime: entry.mtime, ctime, sparse }
    }

    /// Whether nothing moved since `before`. Allocation does not count: delayed allocation moves it on its own.
    #[must_use]
    pub fn same_as(&self, before: &Self) -> bool {
        (self.size_bytes, self.mtime, self.ctime) == (before.size_bytes, before.mtime, before.ctime)
    }

    /// Whether the file became longer since `before`. Whether it was only added to, a second reading tells.
    #[must_use]
    pub fn grew_since(&self, before: &Self) -> bool {
        self.size_bytes > before.size_bytes && self.mtime >= before.mtime
    }
}

/// Opens the regular file `name` for reading, without touching its access time where that is allowed.
///
/// # Errors
/// Whatever openat(2) says, `ELOOP` for a link.
pub fn open_file(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    // RACE: the name may have become a FIFO or a device since it was judged; O_NONBLOCK keeps the open from waiting,
    // and `Stability::of` then turns it away.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner and root may leave the access time alone.
        Err(Errno::PERM) => openat(directory, name, flags, Mode::empty()),
        other => other,
    }
}

/// Reads until `buffer` is full or the file ends; says how much was read.
///
/// # Errors
/// Whatever pread(2) says.
pub fn read_full(fd: BorrowedFd<'_>, mut buffer: &mut [u8], mut offset: u64) -> Result<usize> {
    let mut total = 0;
    while !buffer.is_empty() {
        match rustix::io::pread(fd, &mut *buffer, offset) {
            Ok(0) => break,
            Ok(read) => {
                total += read;
                offset += read as u64;
                buffer = &mut buffer[read..];
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// The BLAKE3 digest of an open file's content, which looked like `before` when its name was read; read again when it
/// changes meanwhile.
///
/// # Errors
/// Whatever pread(2) says; `EAGAIN` when it will not stay as long as it was.
pub(super) fn hash_file(fd: BorrowedFd<'_>, mut before: Stability) -> Result<[u8; 32]> {
    let size_bytes = before.size_bytes;
    for _ in 0..READ_ATTEMPTS {
        let mut hasher = blake3::Hasher::new();
        hash_extent(fd, &Extent { offset: 0, length: before.size_bytes }, &mut hasher)?;
        let after = Stability::of(fd)?;
        if after.same_as(&before) && after.size_bytes == size_bytes {
            return Ok(*hasher.finalize().as_bytes());
        }
        before = after;
    }
    Err(Errno::AGAIN)
}

/// The digest of an open file's content as long as `stability` says: BLAKE3 of its data, and where it has holes, of
/// where its data lies as well.
///
/// # Errors
/// Whatever pread(2) and lseek(2) say.
pub fn digest_open(fd: BorrowedFd<'_>, stability: &Stability) -> Result<[u8; 32]> {
    let length = stability.size_bytes;
    let whole = Extent { offset: 0, length };
    let data = if stability.sparse { extents(fd, length)? } else { vec![whole] };
    let mut hasher = blake3::Hasher::new();
    for extent in &data {
        hash_extent(fd, extent, &mut hasher)?;
    }
    if data != [whole] {
        for extent in &data {
            hasher.update(&extent.offset.to_le_bytes()).update(&extent.length.to_le_bytes());
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

fn hash_extent(fd: BorrowedFd<'_>, extent: &Extent, hasher: &mut blake3::Hasher) -> Result<()> {
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ_BYTES]);
    }
    let (mut offset, end) = (extent.offset, extent.offset + extent.length);
    BUFFER.with_borrow_mut(|buffer| {
        while offset < end {
            let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(READ_BYTES);
            let read = read_full(fd, &mut buffer[..want], offset)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            offset += read as u64;
        }
        Ok(())
    })
}

/// An open file as something to read from at any offset.
#[derive(Debug, Clone, Copy)]
pub struct OpenFile<'a>(pub BorrowedFd<'a>);

impl ReadAt for OpenFile<'_> {
    fn read_full_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        Ok(read_full(self.0, buffer, offset)?)
    }
}

/// The stretches of the first `length` bytes of an open file that are data (lseek(2), `SEEK_DATA` and `SEEK_HOLE`);
/// all of it where the filesystem cannot tell.
///
/// # Errors
/// Whatever lseek(2) says.
pub fn extents(fd: BorrowedFd<'_>, length: u64) -> Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut position = 0;
    while position < length {
        let start = match seek(fd, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![Extent { offset: 0, length }]),
            Err(error) => return Err(error),
        };
        if start >= length {
            break;
        }
        let end = seek(fd, SeekFrom::Hole(start))?.min(length);
        if end <= start {
            // RACE: the file is being rewritten; taking the rest for data is always true.
            extents.push(Extent { offset: start, length: length - start });
            break;
        }
        extents.push(Extent { offset: start, length: end - start });
        position = end;
    }
    Ok(extents)
}
