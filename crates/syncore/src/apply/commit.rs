//! Puts staged objects in their places, links, deletes, and finishes what must come last.
//!
//! Why an order: links need their leader, deletions come after everything that could still fail, a directory's times
//! after everything in it, and immutable flags after everything else. What can go wrong: each step can fail for one
//! path; that path then keeps its old state, together with the names that were to be linked to it.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, linkat, mkdirat, openat, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::Problems;
use super::behind::Trail;
use super::directory::{Directories, Directory};
use super::metadata::{
    ALL, LOCKING_FLAGS, Pinned, XattrState, held, hold, locked_flags, set, set_flags, unlock,
};
use super::stage::{FileWriter, Staged, WriteError};
use super::whole::Ledger;
use crate::plan::{Change, Item};
use crate::problem::Operation;
use crate::scan::{from_statx, proc_path, read_kind, statx_mask};
use crate::tree::{Attributes, Kind, RelPath};

/// How many finished files wait for one flush before they are renamed, at most: each holds a descriptor or two.
const PENDING_LIMIT: usize = 256;

/// Says how many names in scope the inode of that device and number had when the standby was scanned.
pub struct NamesOf(pub Box<dyn Fn((u32, u32), u64) -> u32 + Send + Sync>);

impl std::fmt::Debug for NamesOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NamesOf")
    }
}

/// Carries out the items of an approved plan.
#[derive(Debug)]
pub struct Committer {
    /// The standby's directories.
    pub directories: Arc<Directories>,
    /// What could not be done.
    pub problems: Arc<Problems>,
    pub(super) durable: bool,
    /// How many names in scope an inode of the standby had when it was scanned.
    pub(super) names_of: NamesOf,
    pending: Mutex<Vec<(Staged, Item)>>,
    locks: Mutex<Vec<(RelPath, u32)>>,
    failed: Mutex<HashSet<RelPath>>,
    /// The first path that there was no room for.
    without_room: OnceLock<RelPath>,
    /// What is to leave memory soon.
    pub(super) trail: Trail,
    /// Where everything is written down first, in a run that changes all or nothing.
    pub(super) whole: Option<Ledger>,
}

impl Committer {
    /// A committer that flushes before it replaces anything if `durable`.
    #[must_use]
    pub fn new(
        directories: Arc<Directories>,
        problems: Arc<Problems>,
        names_of: NamesOf,
        durable: bool,
    ) -> Self {
        Self {
            directories,
            problems,
            durable,
            names_of,
            pending: Mutex::default(),
            locks: Mutex::default(),
            failed: Mutex::default(),
            without_room: OnceLock::new(),
            trail: Trail::default(),
            whole: None,
        }
    }

    /// Lets the run change everything or nothing.
    #[must_use]
    pub fn whole(mut self, ledger: Ledger) -> Self {
        self.whole = Some(ledger);
        self
    }

    /// Records that an item could not be carried out.
    pub fn fail(&self, path: &RelPath, operation: Operation, reason: impl std::fmt::Display) {
        self.problems.note(path, operation, reason);
        self.give_up(path);
    }

    /// Records that an item cannot be carried out, where the other end says why.
    pub fn give_up(&self, path: &RelPath) {
        if let Ok(mut failed) = self.failed.lock() {
            failed.insert(path.clone());
        }
    }

    pub(super) fn io(&self, path: &RelPath, operation: Operation, error: Errno) {
        self.cannot_write(path, operation, &std::io::Error::from(error).into());
    }

    /// Records that an item could not be carried out, and remembers if that was for want of room.
    pub fn cannot_write(&self, path: &RelPath, operation: Operation, error: &WriteError) {
        if error.is_for_want_of_room() {
            let _ = self.without_room.set(path.clone());
        }
        self.fail(path, operation, error);
    }

    /// The first path that there was no room for.
    #[must_use]
    pub fn without_room(&self) -> Option<&RelPath> {
        self.without_room.get()
    }

    /// Whether any item could not be carried out.
    #[must_use]
    pub fn failed_any(&self) -> bool {
        self.failed.lock().map_or(true, |failed| !failed.is_empty())
    }

    /// The paths that could not be carried out.
    #[must_use]
    pub fn failed(&self) -> Vec<RelPath> {
        self.failed.lock().map(|failed| failed.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn has_failed(&self, path: &RelPath) -> bool {
        self.failed.lock().is_ok_and(|failed| failed.contains(path))
    }

    /// Opens the directory that holds `path`.
    pub(super) fn parent(&self, path: &RelPath) -> rustix::io::Result<Arc<Directory>> {
        self.directories.open(&path.parent().ok_or(Errno::INVAL)?)
    }

    /// Removes what an interrupted run left behind.
    pub fn sweep(&self, leftovers: &[RelPath]) {
        for path in leftovers {
            let name = path.name().unwrap_or_default();
            let Ok(directory) = self.parent(path) else { continue };
            let result = match unlinkat(&directory, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => unlinkat(&directory, name, AtFlags::REMOVEDIR),
                other => other,
            };
            if let Err(error) = result {
                self.problems.note(path, Operation::Delete, std::io::Error::from(error));
            }
        }
    }

    /// Makes a directory that is missing, or holds the place of something else that makes way. Its metadata is set at
    /// the end by [`Committer::finish_directory`].
    pub fn make_directory(&self, item: &Item) {
        if let Some(ledger) = self.recording() {
            return self.plan_directory_made(ledger, item);
        }
        let name = item.path.name().unwrap_or_default();
        let made = self.parent(&item.path).and_then(|directory| {
            if matches!(item.change, Change::Replace(kind) if kind != Kind::Directory) {
                self.check_planned(&directory, item)?;
                self.remove(&directory, name, false)?;
            }
            mkdirat(&directory, name, Mode::RWXU)
        });
        match made {
            Ok(()) => self.directories.forget(&item.path),
            Err(Errno::STALE) => {
                self.fail(&item.path, Operation::Create, "it became something else since the plan was made");
            }
            Err(error) => self.io(&item.path, Operation::Create, error),
        }
    }

    /// Gives a new inode its metadata, and reports what it did not take. In a run that changes all or nothing the item
    /// is given up when something is broken or full: its path keeps what it has.
    pub(super) fn dress(
        &self,
        item: &Item,
        pinned: Pinned<'_>,
        may_have_xattrs: bool,
        attributes: Attributes,
    ) {
        let state = if may_have_xattrs { XattrState::Some } else { XattrState::None };
        for failure in set(pinned, &item.entry, attributes, state) {
            match failure.fault() {
                Some(fault) if self.is_whole() => self.io(&item.path, failure.operation, fault),
                _ => self.problems.note(&item.path, failure.operation, &failure.reason),
            }
        }
    }

    /// Finishes a written file and puts it in its place.
    ///
    /// # Errors
    /// [`WriteError`] when the content is not what it should be; nothing was replaced then.
    pub fn place_file(
        &self,
        item: &Item,
        writer: FileWriter,
        digest: Option<[u8; 32]>,
    ) -> Result<(), WriteError> {
        let must_be_down = self.durable && writer.looks_whole_too_early();
        let (fd, staged) = writer.finish(digest)?;
        if must_be_down {
            rustix::fs::fdatasync(&fd)?;
        }
        match staged {
            Some(staged) => {
                self.dress(item, Pinned::Open(fd.as_fd()), staged.directory.default_acl, ALL);
                self.trail.add(fd, item.entry.size_bytes);
                self.place(staged, item);
            }
            None => {
                self.dress(item, Pinned::Open(fd.as_fd()), true, ALL);
                self.defer_locks(item);
            }
        }
        Ok(())
    }

    /// Opens the file that an item updates, to be written in place; none when that would change more than this path,
    /// so that it is replaced instead.
    #[must_use]
    pub fn open_in_place(&self, item: &Item, directory: &Directory) -> Option<OwnedFd> {
        let Change::Update(attributes) = item.change else { return None };
        if attributes.contains(Attributes::LINKS) {
            return None;
        }
        let fd = hold(directory.as_fd(), item.path.name()?).ok()?;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask()).ok()?;
        let (found, inode) = from_statx(&stat).ok()?;
        if found.kind != Kind::File || inode.links != 1 {
            return None;
        }
        if found.flags & LOCKING_FLAGS != 0 {
            unlock(fd.as_fd()).ok()?;
        }
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(rustix::fs::CWD, proc_path(fd.as_fd()), flags, Mode::empty()).ok()
    }

    /// Renames into place: at once what is new, after a flush what replaces something.
    pub(super) fn place(&self, staged: Staged, item: &Item) {
        if let Some(ledger) = &self.whole {
            if !self.has_failed(&item.path) {
                ledger.put(staged, item);
            }
            return;
        }
        if !self.durable || item.change == Change::Create {
            return self.rename(staged, item);
        }
        let full = self.pending.lock().map(|mut pending| {
            pending.push((staged, item.clone()));
            pending.len() >= PENDING_LIMIT
        });
        if full.unwrap_or(false) {
            self.flush();
        }
    }

    /// Flushes what is staged, then renames it into place: after a power failure each path is old or new.
    pub fn flush(&self) {
        let Ok(pending) = self.pending.lock().map(|mut pending| std::mem::take(&mut *pending)) else {
            return;
        };
        if pending.is_empty() {
            return;
        }
        let flushed = self.directories.flush();
        for (staged, item) in pending {
            match flushed {
                Ok(()) => self.rename(staged, &item),
                Err(error) => self.io(&item.path, Operation::Write, error),
            }
        }
    }

    /// Flushes whatever was written, where somebody waits for the disk.
    ///
    /// # Errors
    /// Whatever syncfs(2) says.
    pub fn flush_all(&self) -> rustix::io::Result<()> {
        if self.durable && self.whole.is_none() { self.directories.flush() } else { Ok(()) }
    }

    pub(super) fn rename(&self, staged: Staged, item: &Item) {
        let name = item.path.name().unwrap_or_default();
        let result = self.check_planned(&staged.directory, item).and_then(|()| {
            let rename = || match item.change {
                Change::Create => rename_new(staged.directory.as_fd(), &staged.name, name),
                _ => renameat(&staged.directory, &staged.name[..], &staged.directory, name),
            };
            match rename() {
                // An immutable file in the way.
                Err(Errno::PERM) => through_lock(&staged.directory, name, rename),
                other => other,
            }
        });
        match result {
            Ok(()) => {
                self.defer_locks(item);
                staged.settled();
            }
            Err(Errno::EXIST) => {
                self.fail(&item.path, Operation::Rename, "something appeared there since the plan was made");
            }
            Err(Errno::STALE) => {
                self.fail(&item.path, Operation::Rename, "it became something else since the plan was made");
            }
            Err(error) => self.io(&item.path, Operation::Rename, error),
        }
    }

    /// Looks whether what is about to be replaced is still what the plan says; `ESTALE` when not.
    ///
    /// RACE: it may change between this look and the rename. At worst something that a user of the standby made in
    /// that instant is replaced by what production has there.
    fn check_planned(&self, directory: &Directory, item: &Item) -> rustix::io::Result<()> {
        let expected = match item.change {
            Change::Update(_) => Some(item.entry.kind),
            Change::Replace(Kind::Directory) | Change::Create => None,
            Change::Replace(kind) => Some(kind),
            Change::Delete(kind) => Some(kind),
        };
        let Some(expected) = expected else { return Ok(()) };
        let name = std::ffi::CString::new(item.path.name().unwrap_or_default()).map_err(|_| Errno::INVAL)?;
        match read_kind(directory.as_fd(), &name) {
            Ok((kind, _)) if kind == expected => Ok(()),
            Ok(_) => Err(Errno::STALE),
            // Gone meanwhile: then nothing is in the way.
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn defer_locks(&self, item: &Item) {
        let flags = item.entry.flags;
        if flags & LOCKING_FLAGS != 0
            && matches!(item.entry.kind, Kind::File | Kind::Directory)
            && let Ok(mut locks) = self.locks.lock()
        {
            locks.push((item.path.clone(), flags));
        }
    }

    /// Makes a path another name of the item's leader.
    pub fn link(&self, item: &Item) {
        let Some(leader) = &item.link_to else { return };
        if self.has_failed(leader) {
            return self.fail(
                &item.path,
                Operation::Link,
                format!("{leader}, of which it is a name, has a problem"),
            );
        }
        if let Some(ledger) = &self.whole {
            return match self.link_staged(ledger, leader, item) {
                Ok(()) => {}
                Err(error) => self.io(&item.path, Operation::Link, error),
            };
        }
        let result = (|| {
            let from = self.parent(leader)?;
            let directory = self.parent(&item.path)?;
            let leader_name = leader.name().ok_or(Errno::INVAL)?;
            let link = || {
                Staged::make(&self.directories, &directory, |at, name| {
                    linkat(&from, leader_name, at, name, AtFlags::empty())
                })
            };
            let (staged, ()) = match link() {
                Err(Errno::PERM) => {
                    // An immutable leader takes no new name; it is opened for this and closed again at the end.
                    self.open_lock(&from, leader_name, leader)?;
                    link()?
                }
                other => other?,
            };
            Ok(staged)
        })();
        match result {
            Ok(staged) => {
                let stage = staged.name.clone();
                let directory = Arc::clone(&staged.directory);
                self.rename(staged, item);
                // rename(2) does nothing at all between two names of one inode, and leaves the stage name.
                let _ = unlinkat(&directory, &stage[..], AtFlags::empty());
            }
            Err(error) => self.io(&item.path, Operation::Link, error),
        }
    }

    /// Takes the locking flags off a name, and remembers to set them again.
    fn open_lock(&self, directory: &Directory, name: &[u8], path: &RelPath) -> rustix::io::Result<()> {
        let fd = hold(directory.as_fd(), name)?;
        let flags = locked_flags(fd.as_fd())?;
        unlock(fd.as_fd())?;
        if let Ok(mut locks) = self.locks.lock() {
            locks.push((path.clone(), flags));
        }
        Ok(())
    }

    /// Deletes one path; a directory only when it is empty.
    pub fn delete(&self, item: &Item) {
        if let Some(ledger) = self.recording() {
            return self.plan_way(ledger, item);
        }
        if let Some(ledger) = &self.whole {
            return self.removal(ledger, &item.path);
        }
        let name = item.path.name().unwrap_or_default();
        let result = self.parent(&item.path).and_then(|directory| {
            self.check_planned(&directory, item)?;
            self.remove(&directory, name, item.entry.kind == Kind::Directory)
        });
        match result {
            // Already gone, perhaps with what it was in.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                self.fail(&item.path, Operation::Delete, "something appeared in it since the plan was made");
            }
            Err(Errno::STALE) => {
                self.fail(&item.path, Operation::Delete, "it became something else since the plan was made");
            }
            Err(error) => self.io(&item.path, Operation::Delete, error),
        }
        self.directories.forget(&item.path);
    }

    fn remove(&self, directory: &Directory, name: &[u8], is_directory: bool) -> rustix::io::Result<()> {
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(directory, name, flags) {
            Err(Errno::PERM) => through_lock(directory, name, || unlinkat(directory, name, flags)),
            other => other,
        }
    }

    /// Sets a directory's own metadata, after everything in it is done.
    pub fn finish_directory(&self, item: &Item) {
        if self.has_failed(&item.path) {
            return;
        }
        if let Some(ledger) = &self.whole {
            return self.directory(ledger, &item.path);
        }
        let fd: OwnedFd = match self.directories.root.hold_directory(&item.path) {
            Ok(fd) => fd,
            Err(error) => return self.io(&item.path, Operation::SetMode, error),
        };
        let attributes = directory_attributes(item);
        let stat =
            rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask()).and_then(|s| from_statx(&s));
        if stat.is_ok_and(|(found, _)| found.flags & LOCKING_FLAGS != 0)
            && let Err(error) = unlock(fd.as_fd())
        {
            self.problems.note(&item.path, Operation::SetFlags, std::io::Error::from(error));
        }
        for failure in set(held(&fd), &item.entry, attributes, XattrState::Some) {
            self.problems.note(&item.path, failure.operation, failure.reason);
        }
        self.defer_locks(item);
    }

    /// Sets the locking flags that had to wait, deepest path first, and flushes if durable.
    ///
    /// # Errors
    /// When the flush fails: then nothing may be called durable.
    pub fn finish(&self) -> rustix::io::Result<()> {
        let mut locks = self.locks.lock().map(|mut locks| std::mem::take(&mut *locks)).unwrap_or_default();
        locks.sort();
        for (path, flags) in locks.into_iter().rev().filter(|(path, _)| !self.has_failed(path)) {
            let set = match path.parent() {
                None => self.directories.root.open_directory(&path),
                Some(parent) => self
                    .directories
                    .root
                    .hold_directory(&parent)
                    .and_then(|directory| hold(directory.as_fd(), path.name().unwrap_or_default())),
            };
            if let Err(error) = set.and_then(|fd| set_flags(fd.as_fd(), flags)) {
                self.io(&path, Operation::SetFlags, error);
            }
        }
        if self.durable { self.directories.flush() } else { Ok(()) }
    }
}

/// What is set of a directory at the end.
pub(super) fn directory_attributes(item: &Item) -> Attributes {
    match item.change {
        // The mode, too: without privilege the directory may have been opened for what was made in it.
        Change::Update(attributes) => attributes | Attributes::MTIME | Attributes::MODE,
        _ => ALL,
    }
}

/// Takes the locking flags off `name` for as long as `change` needs. Should the inode still have a name afterwards, one
/// that is no part of this run perhaps, or should the change fail, it gets them back.
pub(super) fn through_lock(
    directory: &impl AsFd,
    name: &[u8],
    change: impl FnOnce() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let fd = hold(directory.as_fd(), name)?;
    let flags = locked_flags(fd.as_fd())?;
    unlock(fd.as_fd())?;
    let changed = change();
    let links = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask())?.stx_nlink;
    if links > 0 || changed.is_err() {
        set_flags(fd.as_fd(), flags)?;
    }
    changed
}

/// Renames to a name that must be free.
fn rename_new(directory: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> rustix::io::Result<()> {
    match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        // A filesystem that does not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {
            linkat(directory, from, directory, to, AtFlags::empty())?;
            unlinkat(directory, from, AtFlags::empty())
        }
        other => other,
    }
}
