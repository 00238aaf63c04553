//! The preparation while it is being thought out: files as they will be, commands, and what a person has to know.
//!
//! Why: one planner empties a file's network settings and another changes the same file's host name; each must see
//! what the one before it did, and nothing may touch the disk until all of it is known. So planners read and write a
//! draft that lies over the tree. What can go wrong: an edit of a path that was removed or renamed in the same draft;
//! the later word counts, and what is removed reads as not there.

use std::collections::HashMap;

use super::edit::{Edit, EditChange, Instead};
use super::hostkey::NewHostKey;
use super::inside::Inside;
use super::report::{Finding, Held, Replaced, Step};
use super::{Command, PrepareError};
use crate::rules::Class;
use crate::tree::{Entry, Kind, RelPath};

/// Edits, commands and notes, gathered.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    inside: &'a Inside,
    edits: Vec<Edit>,
    /// The last edit of each path.
    at: HashMap<RelPath, usize>,
    pub(crate) commands: Vec<Command>,
    /// Commands that are known to be left for the target.
    pub(crate) pending: Vec<Vec<String>>,
    pub(crate) replaced: Vec<Replaced>,
    pub(crate) held: Vec<Held>,
    pub(crate) starts: Vec<String>,
    pub(crate) findings: Vec<Finding>,
    /// The machine id that the standby gets.
    pub(crate) machine_id: Option<String>,
    /// Addresses of production's that its network configuration names.
    pub(crate) source_addresses: Vec<String>,
    /// Fingerprints of production's host keys.
    pub(crate) source_host_keys: Vec<String>,
    /// Host keys that are made once the edits are.
    pub(crate) new_host_keys: Vec<NewHostKey>,
    /// Ids of production's filesystems and partitions, which nothing of the standby's boot may name.
    pub(crate) source_ids: Vec<String>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(inside: &'a Inside) -> Self {
        Self {
            inside,
            edits: Vec::new(),
            at: HashMap::new(),
            commands: Vec::new(),
            pending: Vec::new(),
            replaced: Vec::new(),
            held: Vec::new(),
            starts: Vec::new(),
            findings: Vec::new(),
            machine_id: None,
            source_addresses: Vec::new(),
            source_host_keys: Vec::new(),
            new_host_keys: Vec::new(),
            source_ids: Vec::new(),
        }
    }

    /// All edits, in the order in which they are to be made. One planner may have taken away what another put back.
    pub(crate) fn into_edits(self) -> Vec<Edit> {
        let changes = |edit: &Edit| !matches!(&edit.change, EditChange::Write { before: Some(before), after, .. } if before == after);
        self.edits.into_iter().filter(changes).collect()
    }

    #[cfg(test)]
    pub(crate) fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// The tree as it is, without the draft.
    pub(crate) fn inside(&self) -> &'a Inside {
        self.inside
    }

    /// The content of `path` as it will be; none if there will be no such file, or it is a directory.
    pub(crate) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, PrepareError> {
        let real = self.real(path)?;
        match self.pending(&real) {
            Some(
                EditChange::Write { after, .. }
                | EditChange::Hold { instead: Instead::File { after, .. }, .. },
            ) => Ok(Some(after.clone())),
            Some(EditChange::Remove | EditChange::Rename { .. } | EditChange::Hold { .. }) => Ok(None),
            _ if self.gone(&real) => Ok(None),
            _ => match self.inside.entry_at(&real) {
                Ok(entry) if entry.as_ref().is_none_or(|entry| entry.kind == Kind::Directory) => Ok(None),
                Ok(_) => self.inside.read_at(&real).map_err(|error| PrepareError::read(&real, error)),
                Err(error) => Err(PrepareError::read(&real, error)),
            },
        }
    }

    /// As [`Draft::read`], as text: bytes that are no UTF-8 become U+FFFD. For looking, not for writing back.
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>, PrepareError> {
        Ok(self.read(path)?.map(|content| String::from_utf8_lossy(&content).into_owned()))
    }

    /// What is at `path`, links followed, as it is now.
    pub(crate) fn entry(&self, path: &str) -> Result<Option<Entry>, PrepareError> {
        let real = self.real(path)?;
        if self.gone(&real) || self.pending(&real).is_some_and(leaves_nothing) {
            return Ok(None);
        }
        self.inside.entry(&real).map_err(|error| PrepareError::read(&real, error))
    }

    /// What is at `path`, a link itself if it is one, as it is now.
    pub(crate) fn own_entry(&self, path: &str) -> Result<Option<Entry>, PrepareError> {
        let place = self.place(path)?;
        if self.gone(&place) || self.pending(&place).is_some_and(leaves_nothing) {
            return Ok(None);
        }
        self.inside.own_entry(&place).map_err(|error| PrepareError::read(&place, error))
    }

    /// Whether there is something at `path`, links followed.
    pub(crate) fn exists(&self, path: &str) -> Result<bool, PrepareError> {
        let real = self.real(path)?;
        let written = matches!(
            self.pending(&real),
            Some(EditChange::Write { .. } | EditChange::Symlink { .. } | EditChange::Directory { .. })
        );
        Ok(written || self.entry(path)?.is_some())
    }

    /// The names in the directory `path`, sorted, as it is now less what is removed; none where there is no directory.
    /// Names that are no UTF-8 are not among them: no file of configuration has one.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<String>, PrepareError> {
        let real = self.real(path)?;
        let names = self.inside.list(&real).map_err(|error| PrepareError::read(&real, error))?;
        Ok(names
            .into_iter()
            .filter(|name| !self.pending(&real.join(name)).is_some_and(leaves_nothing))
            .filter_map(|name| String::from_utf8(name).ok())
            .collect())
    }

    /// Gives `path`, links followed, this content. Nothing happens when it has it already.
    pub(crate) fn write(
        &mut self,
        path: &str,
        after: impl Into<Vec<u8>>,
        class: Class,
        why: &str,
    ) -> Result<(), PrepareError> {
        self.write_with_mode(path, after, 0o644, class, why)
    }

    /// As [`Draft::write`]; what is new gets these permission bits.
    pub(crate) fn write_with_mode(
        &mut self,
        path: &str,
        after: impl Into<Vec<u8>>,
        mode: u16,
        class: Class,
        why: &str,
    ) -> Result<(), PrepareError> {
        let (real, after) = (self.real(path)?, after.into());
        let before = self.inside.read(&real).map_err(|error| PrepareError::read(&real, error))?;
        if before.as_ref() == Some(&after) && self.pending(&real).is_none() {
            return Ok(());
        }
        let entry = self.inside.entry(&real).map_err(|error| PrepareError::read(&real, error))?;
        let mode = entry.map_or(mode, |entry| entry.mode);
        self.put(real, class, why, EditChange::Write { before, after, mode });
        Ok(())
    }

    /// As [`Draft::write_with_mode`], but a link at `path` is replaced by a file instead of being followed.
    pub(crate) fn write_here(
        &mut self,
        path: &str,
        after: impl Into<Vec<u8>>,
        mode: u16,
        class: Class,
        why: &str,
    ) -> Result<(), PrepareError> {
        let place = self.place(path)?;
        let is = self.inside.own_entry(&place).map_err(|error| PrepareError::read(&place, error))?;
        if is.as_ref().is_none_or(|entry| entry.kind == Kind::File) {
            return self.write_with_mode(path, after, mode, class, why);
        }
        // What is looked at again before the write is what the link leads to.
        let before = self.inside.read(&place).map_err(|error| PrepareError::read(&place, error))?;
        self.put(place, class, why, EditChange::Write { before, after: after.into(), mode });
        Ok(())
    }

    /// Makes `path` a symbolic link in place of what is there. Nothing happens when it is that link already.
    pub(crate) fn symlink(
        &mut self,
        path: &str,
        target: &str,
        class: Class,
        why: &str,
    ) -> Result<(), PrepareError> {
        let place = self.place(path)?;
        let is = self.inside.own_entry(&place).map_err(|error| PrepareError::read(&place, error))?;
        if is.is_some_and(|entry| entry.kind == Kind::Symlink && entry.target == target.as_bytes()) {
            return Ok(());
        }
        self.put(place, class, why, EditChange::Symlink { target: target.into() });
        Ok(())
    }

    /// Makes an empty directory, if there is none.
    pub(crate) fn directory(
        &mut self,
        path: &str,
        mode: u16,
        class: Class,
        why: &str,
    ) -> Result<(), PrepareError> {
        let real = self.real(path)?;
        if self.pending(&real).is_none() && self.entry(path)?.is_none() {
            self.put(real, class, why, EditChange::Directory { mode });
        }
        Ok(())
    }

    /// Removes a file or link, not what a link leads to. Nothing happens when there is none.
    pub(crate) fn remove(&mut self, path: &str, class: Class, why: &str) -> Result<(), PrepareError> {
        let place = self.place(path)?;
        let there = self.inside.own_entry(&place).map_err(|error| PrepareError::read(&place, error))?;
        if there.is_none() {
            if let Some(at) = self.at.remove(&place) {
                self.edits[at].change = EditChange::Remove;
            }
            return Ok(());
        }
        self.put(place, class, why, EditChange::Remove);
        Ok(())
    }

    /// Removes everything in a directory, name by name, and leaves the directory.
    pub(crate) fn remove_below(&mut self, path: &str, class: Class, why: &str) -> Result<(), PrepareError> {
        let real = self.real(path)?;
        self.remove_all(&real, class, why)
    }

    fn remove_all(&mut self, directory: &RelPath, class: Class, why: &str) -> Result<(), PrepareError> {
        let names = self.inside.list(directory).map_err(|error| PrepareError::read(directory, error))?;
        for name in names {
            let path = directory.join(&name);
            let entry = self.inside.own_entry(&path).map_err(|error| PrepareError::read(&path, error))?;
            if entry.is_some_and(|entry| entry.kind == Kind::Directory) {
                self.remove_all(&path, class, why)?;
            }
            self.put(path, class, why, EditChange::Remove);
        }
        Ok(())
    }

    /// Empties a directory whose content is made again, keeping no originals.
    pub(crate) fn clear(&mut self, path: &str, class: Class, why: &str) -> Result<(), PrepareError> {
        let real = self.real(path)?;
        if !self.inside.list(&real).map_err(|error| PrepareError::read(&real, error))?.is_empty() {
            self.put(real, class, why, EditChange::Clear);
        }
        Ok(())
    }

    /// Gives a file or directory another name in the same directory.
    pub(crate) fn rename(
        &mut self,
        path: &str,
        to: &str,
        class: Class,
        why: &str,
    ) -> Result<(), PrepareError> {
        let place = self.place(path)?;
        if self.own_entry(path)?.is_some() {
            self.put(place, class, why, EditChange::Rename { to: to.into() });
        }
        Ok(())
    }

    /// Says that something of production's became something of the standby's.
    pub(crate) fn replaced(&mut self, what: &str, old: impl Into<String>, new: impl Into<String>) {
        let (old, new) = (old.into(), new.into());
        // A second preparation finds what the first one put there.
        if old != new {
            self.replaced.push(Replaced { what: what.to_owned(), old, new });
        }
    }

    /// Adds something a person has to know.
    pub(crate) fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Adds a command to be run in the prepared root, in the order of its step.
    pub(crate) fn command(&mut self, step: Step, argv: &[&str], why: &str) {
        self.commands.push(Command {
            step,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            why: why.to_owned(),
        });
    }

    /// Has one row for each thing that is held, with everything that undoes it.
    pub(super) fn join_held(&mut self) {
        for held in std::mem::take(&mut self.held) {
            self.hold(&held.kind, &held.name, &held.how, held.undo);
        }
    }

    pub(super) fn put(&mut self, path: RelPath, class: Class, why: &str, change: EditChange) {
        if let Some(at) = self.at.get(&path) {
            let edit = &mut self.edits[*at];
            if !edit.why.split("; ").any(|part| part == why) {
                edit.why = format!("{}; {why}", edit.why);
            }
            (edit.class, edit.change) = (class, change);
            return;
        }
        self.at.insert(path.clone(), self.edits.len());
        self.edits.push(Edit { path, class, why: why.to_owned(), change });
    }

    pub(super) fn pending(&self, path: &RelPath) -> Option<&EditChange> {
        self.at.get(path).map(|at| &self.edits[*at].change)
    }

    /// Whether a directory above `path` is emptied or renamed.
    fn gone(&self, path: &RelPath) -> bool {
        let mut above = path.parent();
        while let Some(directory) = above {
            if matches!(
                self.pending(&directory),
                Some(EditChange::Clear | EditChange::Rename { .. } | EditChange::Hold { .. })
            ) {
                return true;
            }
            above = directory.parent();
        }
        false
    }

    pub(super) fn real(&self, path: &str) -> Result<RelPath, PrepareError> {
        let wanted = parse(path)?;
        self.inside.resolve(&wanted).map_err(|error| PrepareError::read(&wanted, error))
    }

    pub(super) fn place(&self, path: &str) -> Result<RelPath, PrepareError> {
        let wanted = parse(path)?;
        self.inside.place(&wanted).map_err(|error| PrepareError::read(&wanted, error))
    }
}

/// Whether nothing is at a path after this.
fn leaves_nothing(change: &EditChange) -> bool {
    matches!(
        change,
        EditChange::Remove | EditChange::Rename { .. } | EditChange::Hold { instead: Instead::Nothing, .. }
    )
}

/// An absolute path as planners write it, below the root.
pub(super) fn parse(path: &str) -> Result<RelPath, PrepareError> {
    RelPath::from_absolute(path.as_bytes()).map_err(|error| PrepareError::Path {
        path: crate::tree::escape(path.as_bytes()),
        reason: error.to_string(),
    })
}
