//! Carries out the steps of a journal, for the first time or once more.
//!
//! Why one way for both: what recovers after a crash is then what every run does. What can go wrong: a path that
//! somebody on the standby has changed since the plan was made. It keeps what he made, and is a problem; anything else
//! that fails stops the run, and the journal stays for the next attempt.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, RenameFlags, linkat, mkdirat, renameat, renameat_with, statx, unlinkat};
use rustix::io::Errno;

use super::areas::same;
use super::journal::{Journal, Step};
use super::{Committed, Ledger, retain};
use crate::apply::commit::{Committer, through_lock};
use crate::apply::directory::Directory;
use crate::apply::metadata::{Failure, LOCKING_FLAGS, XattrState, held, hold, set, unlock};
use crate::plan::{Change, Item};
use crate::problem::Operation;
use crate::scan::{Inode, from_statx, read_kind, statx_mask};
use crate::tree::{Attributes, Entry, Kind, RelPath};

/// Of a path that nothing can be renamed to from where it is staged.
pub(super) const UNREACHABLE: &str =
    "no rename reaches it (a subvolume or a project of its own): leave it out, or use commit.mode = \"file\"";

impl Committer {
    /// Commits what was recorded: first all of it to disk, then the journal, then the names. Removals and the metadata of
    /// directories follow, when they are asked for.
    ///
    /// # Errors
    /// Before the journal is on disk nothing was changed. After that the run has to be recovered.
    pub fn commit(&self) -> io::Result<()> {
        let Some(ledger) = &self.whole else { return Ok(()) };
        // Even where nobody waits for the disk: a journal that is on it must not name what is not.
        self.directories.flush()?;
        let Some(committed) = ledger.commit(&self.directories.root)? else { return Ok(()) };
        let journal = &committed.journal;
        (0..journal.removals_at).try_for_each(|number| self.step(ledger, journal, number))
    }

    /// Carries out the removal that was recorded for `path`.
    pub(in crate::apply) fn removal(&self, ledger: &Ledger, path: &RelPath) {
        self.recorded(ledger, |committed| committed.removals.get(path).copied());
    }

    /// Carries out what was recorded for the metadata of the directory `path`.
    pub(in crate::apply) fn directory(&self, ledger: &Ledger, path: &RelPath) {
        self.recorded(ledger, |committed| committed.directories.get(path).copied());
    }

    fn recorded(&self, ledger: &Ledger, number: impl Fn(&Committed) -> Option<usize>) {
        let Some(committed) = ledger.journal.get() else { return };
        let Some(number) = number(committed) else { return };
        if let Err(error) = self.step(ledger, &committed.journal, number) {
            // The run goes on, and is not concluded: whoever recovers it tries this again.
            self.fail(committed.journal.steps[number].path(), Operation::Commit, &error);
            let _ = ledger.broken.set(error.to_string());
        }
    }

    /// Carries out one step; a path that is not as planned any more is a problem, everything else an error.
    pub(super) fn step(&self, ledger: &Ledger, journal: &Journal, number: usize) -> io::Result<()> {
        let step = &journal.steps[number];
        let (operation, done) = match step {
            Step::MakeDirectory(path) => (Operation::Create, self.made(path)),
            Step::Put { path, change, entry, staged } => {
                let item = item(path, *change, entry);
                (Operation::Rename, self.put(ledger, journal, number, &item, staged))
            }
            Step::Remove { path, before } => {
                (Operation::Delete, self.removed(ledger, journal, number, path, before.kind))
            }
            Step::Dress { path, attributes, after, .. } => {
                (Operation::SetMode, self.dressed(path, *attributes, after))
            }
        };
        let path = step.path();
        match done {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                self.fail(path, operation, "something appeared there since the plan was made");
                Ok(())
            }
            Err(Errno::STALE | Errno::NOTDIR | Errno::LOOP) => {
                self.fail(path, operation, "it became something else since the plan was made");
                Ok(())
            }
            Err(Errno::NOTEMPTY) => {
                self.fail(path, operation, "something appeared in it since the plan was made");
                Ok(())
            }
            Err(Errno::NOENT) => {
                self.fail(path, operation, "the directory that it is in is gone");
                Ok(())
            }
            // A project of XFS, or a filesystem that was mounted there just now. Trying again would not help.
            Err(Errno::XDEV) => {
                self.fail(path, operation, UNREACHABLE);
                Ok(())
            }
            Err(error) => Err(io::Error::other(format!("{path}: {}", io::Error::from(error)))),
        }
    }

    /// RACE: a directory that somebody made in this place since the plan was made is taken for the run's own; what is in
    /// it stays.
    fn made(&self, path: &RelPath) -> rustix::io::Result<()> {
        let directory = self.parent(path)?;
        let name = path.name().unwrap_or_default();
        match mkdirat(&directory, name, Mode::RWXU) {
            Err(Errno::EXIST) if look(&directory, name)?.is_some_and(|(kind, _)| kind == Kind::Directory) => {
            }
            other => other?,
        }
        self.directories.forget(path);
        Ok(())
    }

    /// RACE: what is put in this place between the look and the rename is lost; it was there for an instant only.
    fn put(
        &self,
        ledger: &Ledger,
        journal: &Journal,
        number: usize,
        item: &Item,
        staged: &str,
    ) -> rustix::io::Result<()> {
        let area = ledger.areas.number_of(&item.path);
        let stage = ledger.stage_of(area)?;
        let directory = self.parent(&item.path)?;
        let name = item.path.name().unwrap_or_default();
        let Some((_, new)) = look(&stage, staged.as_bytes())? else {
            // Done before; or somebody emptied the stage, and then it is said of what is not there.
            let found = look(&directory, name)?.map(|(kind, _)| kind);
            self.defer_locks(item);
            return if found == Some(item.entry.kind) { Ok(()) } else { Err(Errno::STALE) };
        };
        let rename = || renameat(&stage, staged, &directory, name);
        let Some((kind, old)) = look(&directory, name)? else {
            rename()?;
            self.defer_locks(item);
            return Ok(());
        };
        if same(&new.identity, &old.identity) {
            // rename(2) does nothing at all between two names of one inode.
            return unlinkat(&stage, staged, AtFlags::empty());
        }
        let planned = match item.change {
            Change::Update(_) => Some(item.entry.kind),
            Change::Replace(kind) | Change::Delete(kind) => Some(kind),
            Change::Create => None,
        };
        match planned {
            None => return Err(Errno::EXIST),
            Some(planned) if planned != kind || kind == Kind::Directory => return Err(Errno::STALE),
            Some(_) => {}
        }
        let kept = ledger.areas.kept(area, journal.generation)?;
        let replace = || {
            match linkat(&directory, name, &kept, number.to_string(), AtFlags::empty()) {
                // Kept before.
                Ok(()) | Err(Errno::EXIST) => rename(),
                // No second name can be had here; for an instant the path has nothing.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => {
                    renameat(&directory, name, &kept, number.to_string())?;
                    rename()
                }
                Err(error) => Err(error),
            }
        };
        if self.is_locked(&directory, name)? {
            through_lock(&directory, name, replace)?;
        } else {
            replace()?;
        }
        self.defer_locks(item);
        Ok(())
    }

    fn removed(
        &self,
        ledger: &Ledger,
        journal: &Journal,
        number: usize,
        path: &RelPath,
        kind: Kind,
    ) -> rustix::io::Result<()> {
        let directory = match self.parent(path) {
            // Gone, perhaps with what it was in.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            other => other?,
        };
        let name = path.name().unwrap_or_default();
        self.directories.forget(path);
        let Some((found, _)) = look(&directory, name)? else { return Ok(()) };
        let locked = self.is_locked(&directory, name)?;
        let free = |change: &dyn Fn() -> rustix::io::Result<()>| {
            if locked { through_lock(&directory, name, change) } else { change() }
        };
        if kind == Kind::Directory {
            if found != kind {
                // What it made way for is there already.
                return Ok(());
            }
            return match free(&|| unlinkat(&directory, name, AtFlags::REMOVEDIR)) {
                Err(Errno::EXIST) => Err(Errno::NOTEMPTY),
                other => other,
            };
        }
        let area = ledger.areas.number_of(path);
        let kept = ledger.areas.kept(area, journal.generation)?;
        if look(&kept, number.to_string().as_bytes())?.is_some() {
            return Ok(());
        }
        if found != kind {
            return Err(Errno::STALE);
        }
        free(&|| renameat_with(&directory, name, &kept, number.to_string(), RenameFlags::empty()))
    }

    fn dressed(&self, path: &RelPath, attributes: Attributes, after: &Entry) -> rustix::io::Result<()> {
        if self.has_failed(path) {
            return Ok(());
        }
        let fd: OwnedFd = if after.kind == Kind::Directory {
            self.directories.root.hold_directory(path)?
        } else {
            hold(self.parent(path)?.as_fd(), path.name().unwrap_or_default())?
        };
        let (found, _) = from_statx(&statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask())?)?;
        if found.kind != after.kind {
            return Err(Errno::STALE);
        }
        if found.flags & LOCKING_FLAGS != 0 {
            unlock(fd.as_fd())?;
        }
        let failures = set(held(&fd), after, attributes, XattrState::Some);
        if let Some(fault) = failures.iter().find_map(Failure::fault) {
            // It may be half done; it is done again.
            return Err(fault);
        }
        for failure in failures {
            self.problems.note(path, failure.operation, failure.reason);
        }
        self.defer_locks(&item(path, Change::Update(attributes), after));
        Ok(())
    }

    fn is_locked(&self, directory: &Directory, name: &[u8]) -> rustix::io::Result<bool> {
        let fd = hold(directory.as_fd(), name)?;
        let (found, _) = from_statx(&statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask())?)?;
        Ok(found.flags & LOCKING_FLAGS != 0)
    }

    /// Ends a run whose steps are all done: the tree is in the new state.
    ///
    /// # Errors
    /// When that cannot be written down. The run has to be recovered then.
    pub fn conclude(&self) -> io::Result<()> {
        match &self.whole {
            Some(ledger) if ledger.is_committed() => match ledger.broken.get() {
                Some(reason) => Err(io::Error::other(reason.clone())),
                None => ledger.conclude(),
            },
            // It had nothing to do; what was kept may have got too old all the same.
            Some(ledger) => ledger.retain(retain::now_seconds()),
            None => Ok(()),
        }
    }
}

pub(super) fn item(path: &RelPath, change: Change, entry: &Entry) -> Item {
    Item { path: path.clone(), change, entry: entry.clone(), link_to: None, moved_from: None }
}

/// What has this name; none if nothing has.
pub(super) fn look(directory: &impl AsFd, name: &[u8]) -> rustix::io::Result<Option<(Kind, Inode)>> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    match read_kind(directory.as_fd(), &name) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
