//! What a committer writes down in place of doing it, in a run that changes everything or nothing.
//!
//! Why: until all content has arrived nothing may change that is in its place, and what there is now must be known to
//! be kept. What can go wrong: something cannot be looked at; that path has a problem then, and keeps its state.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, linkat, unlinkat};
use rustix::io::Errno;

use super::Ledger;
use super::carry::UNREACHABLE;
use crate::apply::commit::{Committer, directory_attributes};
use crate::apply::directory::Directory;
use crate::apply::stage::Staged;
use crate::plan::{Change, Item};
use crate::problem::Operation;
use crate::scan::{Detail, Scratch, read_entry};
use crate::tree::{Attributes, Entry, Kind, RelPath};

impl Committer {
    /// Whether the run changes everything or nothing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// Whether a run that changes all or nothing has changed nothing, and never will.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.whole.as_ref().is_some_and(Ledger::is_untouched)
    }

    /// The state that the run led to; none when it changed nothing, or path by path.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.whole.as_ref().filter(|ledger| ledger.is_committed()).map(Ledger::generation)
    }

    /// What an interrupted run had staged at `from` is staged again, and has no use for that name. Should it stay, the
    /// end of the run removes it.
    pub fn taken(&self, from: &RelPath) {
        let directory = self.directories.root.hold_directory(&from.parent().unwrap_or_default());
        let _ =
            directory.map(|directory| unlinkat(directory, from.name().unwrap_or_default(), AtFlags::empty()));
    }

    /// In a run that changes all or nothing, leaves what is staged to the next one should this one end now.
    pub fn leave_staged(&self) {
        if let Some(ledger) = &self.whole {
            ledger.leave_staged();
        }
    }

    /// The ledger, as long as things are only written down in it.
    pub(in crate::apply) fn recording(&self) -> Option<&Ledger> {
        self.whole.as_ref().filter(|ledger| !ledger.is_committed())
    }

    /// Where files are staged that belong into the directory `parent`.
    ///
    /// # Errors
    /// Whatever opening it says.
    pub fn staging(&self, parent: &RelPath) -> rustix::io::Result<Arc<Directory>> {
        match &self.whole {
            Some(ledger) => ledger.stage(parent),
            None => self.directories.open(parent),
        }
    }

    /// What is at `path` now.
    fn before(&self, path: &RelPath) -> rustix::io::Result<Entry> {
        let directory = self.directories.root.hold_directory(&path.parent().unwrap_or_default())?;
        let name = std::ffi::CString::new(path.name().unwrap_or(b".")).map_err(|_| Errno::INVAL)?;
        Ok(read_entry(directory.as_fd(), &name, Detail::Full, &mut Scratch::default())?.0)
    }

    /// Stages another name of the leader, which is staged itself or in its place.
    pub(in crate::apply) fn link_staged(
        &self,
        ledger: &Ledger,
        leader: &RelPath,
        item: &Item,
    ) -> rustix::io::Result<()> {
        let stage = ledger.stage(&item.path.parent().unwrap_or_default())?;
        let link = |from: BorrowedFd<'_>, name: &[u8]| {
            Staged::make(&self.directories, &stage, |at, to| linkat(from, name, at, to, AtFlags::empty()))
        };
        let (staged, ()) = match ledger.staged(leader) {
            Some((from, name)) => link(from.as_fd(), &name)?,
            None => {
                let from = self.directories.root.hold_directory(&leader.parent().unwrap_or_default())?;
                link(from.as_fd(), leader.name().unwrap_or_default())?
            }
        };
        ledger.put(staged, item);
        Ok(())
    }

    /// Takes back what was written down at and below `path`, if the item there could not be carried out.
    pub fn keep_if_failed(&self, path: &RelPath) {
        if let Some(ledger) = self.recording().filter(|_| self.has_failed(path)) {
            ledger.take_back(path);
        }
    }

    /// Gives up what can be told to be out of reach: a rename goes from one subvolume to another as little as from one
    /// filesystem to another (rename(2), `EXDEV`).
    pub fn give_up_unreachable(&self) {
        let Some(ledger) = self.recording() else { return };
        for path in ledger.unreachable(&self.directories.root) {
            self.fail(&path, Operation::Rename, UNREACHABLE);
            ledger.take_back(&path);
        }
    }

    /// Writes down that a path is deleted at the end, in a run that changes all or nothing.
    pub fn plan_removal(&self, item: &Item) {
        if let Some(ledger) = self.recording() {
            match self.before(&item.path) {
                Ok(before) => ledger.remove(&item.path, before),
                // Already gone.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => self.io(&item.path, Operation::Read, error),
            }
        }
    }

    /// Writes down a change of metadata, in a run that changes all or nothing; true when that is all for now.
    pub(in crate::apply) fn record_metadata(&self, item: &Item, attributes: Attributes) -> bool {
        let Some(ledger) = self.recording() else { return false };
        match self.before(&item.path) {
            Ok(before) => ledger.dress(item, attributes, Some(before)),
            Err(error) => self.io(&item.path, Operation::ReadMetadata, error),
        }
        true
    }

    /// Writes down what a directory is like at the end, in a run that changes all or nothing.
    pub fn plan_directory(&self, item: &Item) {
        if let Some(ledger) = self.recording()
            && !self.has_failed(&item.path)
        {
            let before = match item.change {
                Change::Update(_) => match self.before(&item.path) {
                    Ok(before) => Some(before),
                    // Without it a rollback could not put it back.
                    Err(error) => return self.io(&item.path, Operation::ReadMetadata, error),
                },
                _ => None,
            };
            ledger.dress(item, directory_attributes(item), before);
        }
    }

    /// Writes down that a directory comes into being, where something else may make way.
    pub(in crate::apply) fn plan_directory_made(&self, ledger: &Ledger, item: &Item) {
        if matches!(item.change, Change::Replace(kind) if kind != Kind::Directory) {
            match self.before(&item.path) {
                Ok(before) => ledger.make_way(&item.path, before),
                Err(error) => return self.io(&item.path, Operation::Read, error),
            }
        }
        ledger.make_directory(&item.path);
    }

    /// Writes down that a path makes way for something else.
    pub(in crate::apply) fn plan_way(&self, ledger: &Ledger, item: &Item) {
        match self.before(&item.path) {
            Ok(before) => ledger.make_way(&item.path, before),
            // Already gone.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => self.io(&item.path, Operation::Read, error),
        }
    }
}
