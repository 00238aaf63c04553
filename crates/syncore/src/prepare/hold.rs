//! Holding: something is on the standby, does nothing, and comes back exactly as it was.
//!
//! Why: nothing of production's may run on the standby until it is promoted, and then all of it has to. Two ways are
//! enough. What acts because it lies in a certain place (a crontab, an at job, a queued mail) is *moved*: a rename
//! keeps the inode, so bytes, owner, mode, attributes and times come back exactly, and no tool finds it meanwhile. What
//! a service manager starts is *blocked* by a drop-in that adds a condition: the unit's own files stay as production
//! has them, so a sync and a package upgrade may replace them; `systemctl preset` and `enable` change links, which do
//! not matter; a skipped unit does not fail, nor does what requires it, as it would if it were masked.
//!
//! What can go wrong: a place on another filesystem than the state directory (the held things then lie at the top of
//! their own filesystem); a place that somebody used meanwhile (nothing is overwritten: that thing stays held, and is
//! named); a power cut (the journal is on disk first, and each step is one rename).

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::edit::{EditChange, Instead};
use super::inside::Inside;
use super::journal::{read_path, write_path};
use super::{Held, PrepareError};
use crate::apply::{Directories, LOCKING_FLAGS, directory_like, displace, exchange, rewrite};
use crate::rules::Class;
use crate::scan::Root;
use crate::tree::RelPath;

/// While this file is there, below the root, no unit is held back. It is made by a promotion and never cloned.
pub const PROMOTED: &str = "var/lib/clonetool/promoted";
/// Where held things lie, below the root, with the paths that they had.
pub(super) const HELD: &str = "var/lib/clonetool/held";
/// The same on another filesystem, below its top.
pub(super) const HELD_ELSEWHERE: &str = ".clonetool-held";
/// As many names are tried where the place for a held thing is taken by one of an earlier life.
const NAMES_LIMIT: usize = 100;

/// How one thing that was done to hold something is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    /// What lies at `from` goes back to `path`.
    PutBack {
        /// Where it belongs.
        #[serde(serialize_with = "write_path", deserialize_with = "read_path")]
        path: RelPath,
        /// Where it lies.
        #[serde(serialize_with = "write_path", deserialize_with = "read_path")]
        from: RelPath,
        /// What is in its place.
        instead: InPlace,
    },
    /// The file at `path`, which is ours, goes away.
    TakeAway {
        /// Which.
        #[serde(serialize_with = "write_path", deserialize_with = "read_path")]
        path: RelPath,
        /// BLAKE3 of its content, in hexadecimal.
        content: String,
    },
}

/// What was put in the place of a held thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum InPlace {
    /// Nothing.
    Nothing,
    /// An empty directory.
    Directory,
    /// A file.
    File {
        /// BLAKE3 of its content, in hexadecimal.
        content: String,
    },
}

impl Draft<'_> {
    /// Plans to move `path` away, a link itself if it is one; none if there is nothing, or only what an earlier hold
    /// put there.
    pub(super) fn put_away(
        &mut self,
        path: &str,
        instead: Instead,
        why: &str,
    ) -> Result<Option<Undo>, PrepareError> {
        let place = self.place(path)?;
        if self.own_entry(path)?.is_none() {
            return Ok(None);
        }
        let in_place = match &instead {
            Instead::Nothing => InPlace::Nothing,
            Instead::Directory => InPlace::Directory,
            Instead::File { before, after } if before == after => return Ok(None),
            Instead::File { after, .. } => InPlace::File { content: digest(after) },
        };
        let to = self.held_place(&place).map_err(|error| PrepareError::read(&place, error))?;
        self.put(place.clone(), Class::G, why, EditChange::Hold { to: to.clone(), instead });
        Ok(Some(Undo::PutBack { path: place, from: to, instead: in_place }))
    }

    /// Plans a file of ours that keeps something from acting.
    pub(super) fn block(&mut self, path: &str, content: &str, why: &str) -> Result<Undo, PrepareError> {
        let real = self.real(path)?;
        self.write(path, content, Class::A, why)?;
        Ok(Undo::TakeAway { path: real, content: digest(content.as_bytes()) })
    }

    /// Says that something is held by what was planned; what is held already is so by this, too.
    pub(super) fn hold(&mut self, kind: &str, name: &str, how: &str, undo: Vec<Undo>) {
        if let Some(held) = self.held.iter_mut().find(|held| held.kind == kind && held.name == name) {
            for undo in undo {
                if !held.undo.contains(&undo) {
                    held.undo.push(undo);
                }
            }
            return;
        }
        self.held.push(Held { kind: kind.to_owned(), name: name.to_owned(), how: how.to_owned(), undo });
    }

    /// Where something may lie while it is held: on its own filesystem, so that a rename takes it there.
    fn held_place(&self, place: &RelPath) -> io::Result<RelPath> {
        let inside = self.inside();
        let parent = place.parent().unwrap_or_default();
        let top = inside.top_of(&parent)?;
        let usual = RelPath::new(HELD).map_err(io::Error::other)?;
        let below = if top == inside.top_of(&usual)? { usual } else { top.join(HELD_ELSEWHERE.as_bytes()) };
        let mut to = below.as_bytes().to_vec();
        to.push(b'/');
        to.extend_from_slice(place.as_bytes());
        for _ in 0..NAMES_LIMIT {
            let wanted = RelPath::new(to.clone()).map_err(io::Error::other)?;
            if inside.entry_at(&wanted)?.is_none() {
                return Ok(wanted);
            }
            to.push(b'~');
        }
        Err(io::Error::other("there is something held under each of its names"))
    }
}

/// Carries out an [`EditChange::Hold`].
pub(super) fn put_away(
    inside: &Inside,
    directories: &Directories,
    path: &RelPath,
    to: &RelPath,
    instead: &Instead,
) -> io::Result<()> {
    let (parent, name) = split(path)?;
    let (held_parent, held_name) = split(to)?;
    let like = inside.entry_at(path)?;
    make_held_parents(inside.root(), &held_parent)?;
    let source = directories.open(&parent)?;
    let destination = inside.root().hold_directory(&held_parent)?;
    let there = (destination.as_fd(), held_name);
    let here = (source.as_fd(), name);
    let Some(mut like) = like else { return Err(Errno::NOENT.into()) };
    like.flags &= !LOCKING_FLAGS;
    match instead {
        Instead::Nothing => displace(here, there)?,
        Instead::Directory => {
            directory_like(there, &like)?;
            exchange(here, there)?;
        }
        Instead::File { before, after } => {
            if inside.read(path)?.as_ref() != Some(before) {
                return Err(io::Error::other("it changed since it was looked at"));
            }
            rewrite(directories, to, after, &like)?;
            exchange(here, there)?;
        }
    }
    rustix::fs::fsync(inside.root().open_directory(&held_parent)?)?;
    Ok(rustix::fs::fsync(inside.root().open_directory(&parent)?)?)
}

/// Makes the directories that lead to a held thing, and `directory` itself, for root alone.
pub(super) fn make_held_parents(root: &Root, directory: &RelPath) -> io::Result<()> {
    let mut at = RelPath::root();
    for name in directory.components() {
        let parent = root.hold_directory(&at)?;
        // /var/lib is everybody's to enter; what is below ours is not.
        let open = matches!(name, b"var" | b"lib") && at.depth() < 2;
        let mode = if open { 0o755 } else { 0o700 };
        match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = at.join(name);
    }
    Ok(())
}

pub(super) fn split(path: &RelPath) -> io::Result<(RelPath, &[u8])> {
    match (path.parent(), path.name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(Errno::ISDIR.into()),
    }
}

pub(super) fn digest(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;
