//! New files under a stage name.
//!
//! Why: a file appears under its final name complete or not at all. It is written beside its place, so that the
//! rename stays on one filesystem, and it is digested as it is written: what does not come out as the sender said
//! is thrown away. Blocks of the basis that were digested when it was described are not read again: the kernel copies
//! them, and the file's times say whether they still were what they had been. What can go wrong: the run ends in the
//! middle. A dropped writer removes its file; what a killed process leaves has a name that the next run recognises.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FallocateFlags, Mode, OFlags, copy_file_range, fallocate, ftruncate, openat, unlinkat,
};
use rustix::io::Errno;
use thiserror::Error;

use super::behind::{Behind, WINDOW_BYTES};
use super::directory::{Directories, Directory};
use crate::delta::{
    ContentHasher, KnownBlocks, REGION_LIMIT_BYTES, SignatureError, apply_delta, copy_pieces,
};
use crate::scan::{Stability, extents, read_full};

/// Bytes copied through memory at once.
const COPY_BYTES: usize = 256 * 1024;

/// Within the kernel whole pages are copied; what lies across them is copied faster through memory.
const PAGE_BYTES: u64 = 4096;

/// Why staged content is thrown away.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Writing failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The result is not what the sender has: the basis changed meanwhile, or truncated sums collided.
    #[error("the content did not come out as it is on the source")]
    Mismatch,
    /// The sender described something impossible.
    #[error("{0}")]
    Delta(#[from] SignatureError),
}

impl WriteError {
    /// Whether the filesystem is full, or the quota.
    #[must_use]
    pub fn is_for_want_of_room(&self) -> bool {
        let Self::Io(error) = self else { return false };
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }
}

impl From<Errno> for WriteError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Something under a stage name, removed when dropped unless it was renamed.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) directory: Arc<Directory>,
    pub(crate) name: Vec<u8>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // Best effort: the next run finds what is left.
            let _ = unlinkat(&self.directory, &self.name[..], AtFlags::empty());
        }
    }
}

impl Staged {
    /// Runs `make` with fresh names until one is free.
    pub(crate) fn make<T>(
        directories: &Directories,
        directory: &Arc<Directory>,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<(Self, T)> {
        loop {
            let name = directories.names.next();
            match make(directory.as_fd(), &name) {
                Ok(made) => return Ok((Self { directory: Arc::clone(directory), name }, made)),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Says that it has its final name now, or is gone.
    pub(crate) fn settled(mut self) {
        self.name.clear();
    }
}

/// Writes one file from data, holes, copies and patches.
#[derive(Debug)]
pub struct FileWriter {
    /// None when an existing file is written in place.
    staged: Option<Staged>,
    fd: OwnedFd,
    basis: Option<OwnedFd>,
    /// What is known of the basis' content, and how it looked when that was known; none when nothing is to be checked.
    known: KnownBlocks,
    as_known: Option<Stability>,
    hasher: ContentHasher,
    position: u64,
    behind: Behind,
    /// Whether the file ends in a hole that nothing has given a length yet.
    open_end: bool,
    buffer: Vec<u8>,
    /// Bytes that came from the basis.
    pub copied_bytes: u64,
    /// Bytes that came as themselves.
    pub literal_bytes: u64,
}

impl FileWriter {
    /// Begins a file in `directory`, perhaps to be built from `basis`.
    ///
    /// # Errors
    /// Whatever creating it says.
    pub fn create(
        directories: &Directories,
        directory: &Arc<Directory>,
        basis: Option<OwnedFd>,
    ) -> rustix::io::Result<Self> {
        let (staged, fd) = Staged::make(directories, directory, |at, name| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(at, name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        Ok(Self::new(Some(staged), fd, basis))
    }

    /// Begins to write into an existing file, which is its own basis. What is there already is read, not written.
    ///
    /// # Errors
    /// Whatever duplicating the descriptor says.
    pub fn in_place(file: OwnedFd) -> rustix::io::Result<Self> {
        let basis = rustix::io::fcntl_dupfd_cloexec(&file, 0)?;
        Ok(Self::new(None, file, Some(basis)))
    }

    fn new(staged: Option<Staged>, fd: OwnedFd, basis: Option<OwnedFd>) -> Self {
        Self {
            staged,
            fd,
            basis,
            known: KnownBlocks::default(),
            as_known: None,
            hasher: ContentHasher::default(),
            position: 0,
            behind: Behind::default(),
            open_end: false,
            buffer: Vec::new(),
            copied_bytes: 0,
            literal_bytes: 0,
        }
    }

    /// Says what is known of the basis, as long as it looks as it did then.
    pub(crate) fn knowing(mut self, known: KnownBlocks, as_known: Option<Stability>) -> Self {
        (self.known, self.as_known) = (known, as_known);
        self
    }

    /// What is known of the basis must have been true up to here. In place, our own writing makes that impossible to
    /// tell later.
    ///
    /// RACE: in place, who else writes to the file after that is not noticed, no more than who does so after we are
    /// done. Neither is who writes through a mapping to pages that were not on disk yet when they were described; at
    /// worst the file has that until its content is compared.
    fn check_known(&mut self) -> Result<(), WriteError> {
        let (Some(expected), Some(basis)) = (self.as_known.take(), &self.basis) else { return Ok(()) };
        if Stability::of(basis.as_fd())?.same_as(&expected) { Ok(()) } else { Err(WriteError::Mismatch) }
    }

    fn before_writing(&mut self) -> Result<(), WriteError> {
        if self.staged.is_none() { self.check_known() } else { Ok(()) }
    }

    /// Writes bytes without digesting them: for small files, whose digest was checked before.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn raw_data(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.before_writing()?;
        write_full(self.fd.as_fd(), bytes, self.position)?;
        self.reach(self.position + bytes.len() as u64);
        self.literal_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Adds bytes, as one piece of the digest.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.hasher.data(bytes);
        self.raw_data(bytes)
    }

    /// Adds a hole.
    ///
    /// # Errors
    /// [`WriteError::Mismatch`] when the file would become impossibly long.
    pub fn hole(&mut self, length: u64) -> Result<(), WriteError> {
        self.hasher.hole(length);
        if self.staged.is_none() {
            self.before_writing()?;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&self.fd, flags, self.position, length)?;
        }
        self.position = self.position.checked_add(length).ok_or(WriteError::Mismatch)?;
        self.open_end = true;
        Ok(())
    }

    /// Adds bytes of the basis.
    ///
    /// # Errors
    /// [`WriteError::Mismatch`] when the basis does not have them, [`WriteError::Io`].
    pub fn copy(&mut self, offset: u64, length: u64) -> Result<(), WriteError> {
        offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok()).ok_or(WriteError::Mismatch)?;
        if self.staged.is_none() && offset < self.position {
            // It has been written over already.
            return Err(WriteError::Mismatch);
        }
        // What need not be read is put off, to be copied at once.
        let mut unread = 0;
        for (at, piece) in copy_pieces(offset, length) {
            if let Some(hash) = self.known.hash(at, piece) {
                self.hasher.piece(piece, hash);
                unread += piece;
                continue;
            }
            self.copy_unread(at - unread, std::mem::take(&mut unread))?;
            self.copy_read(at, piece)?;
        }
        self.copy_unread(offset + length - unread, unread)?;
        self.copied_bytes += length;
        Ok(())
    }

    /// Goes on to `position`, up to which the file is made.
    fn reach(&mut self, position: u64) {
        self.position = position;
        self.open_end = false;
        // In place what is in memory may be somebody's.
        if self.staged.is_some() {
            self.behind.reached(self.fd.as_fd(), position);
        }
    }

    /// Whether bytes of the basis are where they belong.
    fn stays(&self, offset: u64) -> bool {
        self.staged.is_none() && offset == self.position
    }

    /// Copies a piece through memory, and digests it.
    fn copy_read(&mut self, offset: u64, length: u64) -> Result<(), WriteError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(usize::try_from(length).unwrap_or(0), 0);
        let basis = self.basis.as_ref().ok_or(WriteError::Mismatch)?;
        if read_full(basis.as_fd(), &mut buffer, offset)? < buffer.len() {
            return Err(WriteError::Mismatch);
        }
        self.hasher.data(&buffer);
        // What may be a hole is written even to its own place: the source has data there.
        if !(self.stays(offset) && self.known.is_data(offset)) {
            self.before_writing()?;
            write_full(self.fd.as_fd(), &buffer, self.position)?;
        }
        self.reach(self.position + length);
        self.buffer = buffer;
        Ok(())
    }

    /// Copies without looking, within the kernel where that can be; a filesystem may let both files have the same
    /// blocks.
    fn copy_unread(&mut self, mut offset: u64, length: u64) -> Result<(), WriteError> {
        let end = offset + length;
        if length == 0 {
            return Ok(());
        }
        if self.stays(offset) {
            self.reach(self.position + length);
            return Ok(());
        }
        self.before_writing()?;
        if offset % PAGE_BYTES != self.position % PAGE_BYTES {
            return self.copy_through(offset, end);
        }
        while offset < end {
            let want = usize::try_from((end - offset).min(WINDOW_BYTES)).unwrap_or(usize::MAX);
            let basis = self.basis.as_ref().ok_or(WriteError::Mismatch)?;
            let (mut from, mut to) = (offset, self.position);
            let copied = match copy_file_range(basis, Some(&mut from), &self.fd, Some(&mut to), want) {
                Ok(copied) => copied,
                Err(Errno::INTR) => continue,
                // Two filesystems, stretches of one file that overlap, an old kernel; and what is really wrong shows
                // again.
                Err(_) => return self.copy_through(offset, end),
            };
            if copied == 0 {
                // The end of the basis, or a filesystem that says so wrongly.
                return self.copy_through(offset, end);
            }
            offset += copied as u64;
            self.reach(self.position + copied as u64);
        }
        Ok(())
    }

    /// Copies through memory without digesting. Whatever is wrong with the files shows here.
    fn copy_through(&mut self, mut offset: u64, end: u64) -> Result<(), WriteError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while offset < end {
            let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(COPY_BYTES);
            buffer.resize(want, 0);
            let basis = self.basis.as_ref().ok_or(WriteError::Mismatch)?;
            if read_full(basis.as_fd(), &mut buffer, offset)? < want {
                return Err(WriteError::Mismatch);
            }
            write_full(self.fd.as_fd(), &buffer, self.position)?;
            offset += want as u64;
            self.reach(self.position + want as u64);
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Adds what `delta` makes of a region of the basis.
    ///
    /// # Errors
    /// [`WriteError`] when it does not make `length` bytes.
    pub fn patch(
        &mut self,
        offset: u64,
        region_length: u32,
        length: u32,
        delta: &[u8],
    ) -> Result<(), WriteError> {
        if length as usize > REGION_LIMIT_BYTES {
            return Err(WriteError::Mismatch);
        }
        let region = self.region(offset, region_length)?;
        let made = apply_delta(&region, delta, length as usize)?;
        self.data(&made)?;
        let literal = (delta.len() as u64).min(made.len() as u64);
        self.literal_bytes -= made.len() as u64 - literal;
        self.copied_bytes += made.len() as u64 - literal;
        Ok(())
    }

    /// Reads a region of the basis, at most 4 MiB.
    ///
    /// # Errors
    /// [`WriteError::Mismatch`] when there is no basis, [`WriteError::Io`].
    pub fn region(&self, offset: u64, length: u32) -> Result<Vec<u8>, WriteError> {
        let basis = self.basis.as_ref().ok_or(WriteError::Mismatch)?;
        let mut region = vec![0; (length as usize).min(REGION_LIMIT_BYTES)];
        let read = read_full(basis.as_fd(), &mut region, offset)?;
        region.truncate(read);
        Ok(region)
    }

    /// Copies the whole basis, hole by hole: the same content in an inode of its own.
    pub(crate) fn copy_basis(&mut self, length: u64) -> Result<(), WriteError> {
        let basis = self.basis.as_ref().ok_or(WriteError::Mismatch)?;
        for extent in extents(basis.as_fd(), length)? {
            if extent.offset > self.position {
                self.hole(extent.offset - self.position)?;
            }
            self.copy_unread(extent.offset, extent.length)?;
        }
        if self.position < length {
            self.hole(length - self.position)?;
        }
        Ok(())
    }

    /// Whether an existing file is being written.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.staged.is_none()
    }

    /// Whether a look at length and modification time would take the file for whole before its data is on stable
    /// storage: written in place, or with a length that was set and not written.
    pub(crate) fn looks_whole_too_early(&self) -> bool {
        self.staged.is_none() || self.open_end
    }

    /// Ends the file and checks it against the sender's digest, if there is one to check. Gives the descriptor, and
    /// the stage name unless the file was written in place.
    ///
    /// # Errors
    /// [`WriteError::Mismatch`], [`WriteError::Io`].
    pub(crate) fn finish(
        mut self,
        digest: Option<[u8; 32]>,
    ) -> Result<(OwnedFd, Option<Staged>), WriteError> {
        self.check_known()?;
        if digest.is_some_and(|digest| digest != self.hasher.finish()) {
            return Err(WriteError::Mismatch);
        }
        if self.open_end || self.staged.is_none() {
            ftruncate(&self.fd, self.position)?;
        }
        Ok((self.fd, self.staged))
    }

    /// What was written so far, for a file that fits memory.
    ///
    /// # Errors
    /// Whatever pread(2) says.
    pub(crate) fn read_back(&self) -> rustix::io::Result<Vec<u8>> {
        let mut content = vec![0; usize::try_from(self.position).unwrap_or(0)];
        let read = read_full(self.fd.as_fd(), &mut content, 0)?;
        content.truncate(read);
        Ok(content)
    }

    /// How long the file is so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }
}

pub(super) fn write_full(fd: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Result<(), WriteError> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(std::io::Error::from(ErrorKind::WriteZero).into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
