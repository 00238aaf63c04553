//! Copies within one root: makes what is at one path equal to what is at another.
//!
//! Why: production's latest is kept where it does not act, and has to be put where it does, with owner, mode,
//! attributes and times. A second name of the same inode would be quicker, but cron(8) refuses a crontab that has two, and an edit
//! of the one would be an edit of the other. What can go wrong: a crash; every path is old or new then, and doing it
//! again goes on, because what is equal already is left alone. A file that cannot be made: it is named, and what was in
//! its place stays.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::hold::split;
use super::inside::Inside;
use crate::apply::{ALL, Committer, Copied, Directories, NamesOf};
use crate::plan::{Change, Item};
use crate::problem::{Operation, Problem};
use crate::scan::{Boundaries, Stability, is_stage_name, mounts_below, open_file};
use crate::tree::{Attributes, Entry, Kind, RelPath};

/// Copies that are under way; what they come to is known when it is finished.
pub(super) struct Mirror<'a> {
    inside: &'a Inside,
    committer: Committer,
    /// Directories whose owner, mode and times are set when everything in them is done.
    directories: Vec<Item>,
    /// Directories in which nothing is left of an interrupted copy.
    swept: BTreeSet<RelPath>,
}

impl<'a> Mirror<'a> {
    pub(super) fn new(inside: &'a Inside) -> io::Result<Self> {
        let mounts = mounts_below(inside.root());
        let directories = Directories::new(Arc::clone(inside.root()), &Boundaries::default(), &mounts)?;
        // Its other names, if it has any, are not known here: such an inode is replaced, never written into.
        let names_of = NamesOf(Box::new(|_, _| 1));
        let committer = Committer::new(Arc::new(directories), Arc::default(), names_of, true);
        Ok(Self { inside, committer, directories: Vec::new(), swept: BTreeSet::new() })
    }

    /// Makes `to` what `from` is, but not what is in it; says whether there was anything to do.
    pub(super) fn one(&mut self, from: &RelPath, to: &RelPath) -> io::Result<bool> {
        let entry = described(self.inside, from)?.ok_or(io::ErrorKind::NotFound)?;
        let there = described(self.inside, to)?;
        let change = match &there {
            Some(there) if same(&entry, there) => return Ok(false),
            Some(there) if there.kind == entry.kind => Change::Update(ALL),
            Some(there) if there.kind == Kind::Directory => {
                return Err(io::Error::other(format!("{to} is a directory")));
            }
            Some(there) => Change::Replace(there.kind),
            None => Change::Create,
        };
        self.sweep(&split(to)?.0)?;
        let item = Item { path: to.clone(), change, entry, link_to: None, moved_from: None };
        match item.entry.kind {
            Kind::Directory => {
                if there.is_none_or(|there| there.kind != Kind::Directory) {
                    self.committer.make_directory(&item);
                }
                self.directories.push(item);
            }
            Kind::File => self.file(from, &item)?,
            _ => self.committer.without_content(&item),
        }
        Ok(true)
    }

    fn sweep(&mut self, directory: &RelPath) -> io::Result<()> {
        if self.swept.insert(directory.clone()) {
            let mut names = self.inside.list_at(directory)?;
            names.retain(|name| is_stage_name(name));
            let left: Vec<RelPath> = names.iter().map(|name| directory.join(name)).collect();
            self.committer.sweep(&left);
        }
        Ok(())
    }

    fn file(&self, from: &RelPath, item: &Item) -> io::Result<()> {
        let (parent, name) = split(from)?;
        let name = CString::new(name)?;
        let source = open_file(self.inside.root().hold_directory(&parent)?.as_fd(), &name)?;
        let before = Stability::of(source.as_fd())?;
        let directory = self.committer.directories.open(&split(&item.path)?.0)?;
        let copied = self.committer.copy_file(item, source.as_fd(), &before, &directory, &|_| {});
        match copied.map_err(io::Error::other)? {
            Copied::Placed => Ok(()),
            Copied::Moved => Err(io::Error::other(format!("{from} changed while it was read"))),
        }
    }

    /// Makes `to` what `from` is, with all that is in it, and nothing else in it.
    pub(super) fn tree(&mut self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let mut todo = vec![(from.clone(), to.clone())];
        while let Some((from, to)) = todo.pop() {
            let kind = self.inside.entry_at(&from)?.map(|entry| entry.kind);
            let there = self.inside.entry_at(&to)?.map(|entry| entry.kind);
            if kind != Some(Kind::Directory) && there == Some(Kind::Directory) {
                self.remove(&to)?;
            }
            self.one(&from, &to)?;
            if kind != Some(Kind::Directory) {
                continue;
            }
            let names = self.inside.list_at(&from)?;
            for name in self.inside.list_at(&to)?.iter().filter(|name| !names.contains(name)) {
                self.remove(&to.join(name))?;
            }
            let carried = names.iter().filter(|name| !is_stage_name(name));
            todo.extend(carried.map(|name| (from.join(name), to.join(name))));
        }
        Ok(())
    }

    /// Removes a path, with all that is in it.
    pub(super) fn remove(&self, path: &RelPath) -> io::Result<()> {
        let mut found = vec![path.clone()];
        let mut next = 0;
        while let Some(path) = found.get(next).cloned() {
            found.extend(self.inside.list_at(&path)?.iter().map(|name| path.join(name)));
            next += 1;
        }
        for path in found.iter().rev() {
            self.remove_one(path)?;
        }
        Ok(())
    }

    /// Removes a path; a directory only when there is nothing in it.
    pub(super) fn remove_one(&self, path: &RelPath) -> io::Result<()> {
        let Some(entry) = self.inside.entry_at(path)? else { return Ok(()) };
        if entry.kind == Kind::Directory && !self.inside.list_at(path)?.is_empty() {
            return Ok(());
        }
        let change = Change::Delete(entry.kind);
        let item = Item { path: path.clone(), change, entry, link_to: None, moved_from: None };
        self.committer.delete(&item);
        Ok(())
    }

    /// Says that something could not be done at `path`.
    pub(super) fn note(&self, path: &RelPath, reason: impl std::fmt::Display) {
        self.committer.problems.note(path, Operation::Write, reason);
    }

    /// Has everything in its place and on disk; gives what could not be done.
    pub(super) fn finish(self) -> io::Result<Vec<Problem>> {
        let Self { committer, mut directories, .. } = self;
        committer.flush();
        directories.sort_by_key(|item| std::cmp::Reverse(item.path.depth()));
        directories.iter().for_each(|item| committer.finish_directory(item));
        let planned = directories.into_iter().map(|item| item.path).collect();
        committer.directories.settle(&planned, &committer.problems);
        committer.finish()?;
        Ok(committer.problems.take())
    }
}

/// All that is known of `path`, with the digest of a file's content; none if there is nothing.
pub(super) fn described(inside: &Inside, path: &RelPath) -> io::Result<Option<Entry>> {
    let Some(mut entry) = inside.entry_at(path)? else { return Ok(None) };
    if entry.kind == Kind::File {
        let (parent, name) = split(path)?;
        let name = CString::new(name)?;
        let file = open_file(inside.root().hold_directory(&parent)?.as_fd(), &name)?;
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut std::fs::File::from(file), &mut hasher)?;
        entry.content = Some(*hasher.finalize().as_bytes());
    }
    entry.links = None;
    Ok(Some(entry))
}

/// Whether two are equal in all that a copy carries.
pub(super) fn same(one: &Entry, other: &Entry) -> bool {
    let kept = if one.kind == Kind::Directory { Attributes::MTIME } else { Attributes::default() };
    one.kind == other.kind && one.differences(other).without(kept).is_empty()
}

/// A digest of all that a copy carries, in hexadecimal; of a directory without its time, which what is in it moves.
pub(super) fn digest_of(entry: &Entry) -> String {
    let mut entry = entry.clone();
    if entry.kind == Kind::Directory {
        entry.mtime = crate::tree::Timestamp { seconds: 0, nanoseconds: 0 };
    }
    let mut bytes = Vec::new();
    entry.encode(&mut bytes);
    blake3::hash(&bytes).to_hex().to_string()
}
