//! Releasing: what is held comes back exactly as it was.
//!
//! Why: a promotion must be able to undo every hold, and an administrator one of them by name. What can go wrong: the
//! place was used meanwhile. Nothing is overwritten then; the thing stays held and is named, with the reason. A crash
//! between two things leaves a journal that says so; releasing again goes on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::hold::{HELD, HELD_ELSEWHERE, InPlace, Undo, digest, split};
use super::inside::Inside;
use super::journal::Journal;
use super::{Held, PrepareError};
use crate::apply::{displace, replace};
use crate::scan::Root;
use crate::tree::{Entry, Kind, RelPath};

/// What came of releasing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// What is as it was before it was held.
    pub released: Vec<Held>,
    /// What is still held, and why.
    pub kept: Vec<(Held, String)>,
}

/// What is held in the prepared root at `path`.
///
/// # Errors
/// [`PrepareError::Root`] and [`PrepareError::Journal`].
pub fn held(path: &Path) -> Result<Vec<Held>, PrepareError> {
    Ok(journal(&open(path)?)?.held)
}

/// Releases what is held in the prepared root at `path`: everything, or what has one of `names`. It may be the running
/// root. What cannot be put back without losing something stays held.
///
/// # Errors
/// [`PrepareError::Option`] for a name that nothing held has; [`PrepareError::Root`] and [`PrepareError::Journal`].
pub fn release(path: &Path, names: Option<&[String]>) -> Result<Released, PrepareError> {
    let root = open(path)?;
    let inside = Inside::new(Arc::clone(&root));
    let mut journal = journal(&root)?;
    let wanted = |held: &Held| names.is_none_or(|names| names.contains(&held.name));
    for name in names.unwrap_or_default() {
        if !journal.held.iter().any(|held| held.name == *name) {
            let name = crate::tree::escape(name.as_bytes());
            return Err(PrepareError::Option(format!("nothing that is held is called {name}")));
        }
    }
    let mut released = Released::default();
    for held in journal.held.clone() {
        if !wanted(&held) {
            continue;
        }
        match held.undo.iter().rev().try_for_each(|undo| undone(&inside, undo)) {
            Ok(()) => {
                journal.held.retain(|other| *other != held);
                // Each is on disk before the next: what a crash leaves undone is released again, to no effect.
                journal.write(&inside).map_err(|error| PrepareError::Journal(error.to_string()))?;
                released.released.push(held);
            }
            Err(reason) => released.kept.push((held, reason.to_string())),
        }
    }
    Ok(released)
}

/// Undoes one thing; what is undone already stays so.
fn undone(inside: &Inside, undo: &Undo) -> io::Result<()> {
    match undo {
        Undo::TakeAway { path, content } => {
            match inside.read_at(path)? {
                None => return Ok(()),
                Some(found) if digest(&found) == *content => {}
                Some(_) => {
                    return Err(io::Error::other(format!("{path} was changed; remove it if that is right")));
                }
            }
            let (parent, name) = split(path)?;
            unlinkat(inside.root().hold_directory(&parent)?, name, AtFlags::empty())?;
            let (above, name) = split(&parent)?;
            match unlinkat(inside.root().hold_directory(&above)?, name, AtFlags::REMOVEDIR) {
                // The drop-in directory had others.
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        Undo::PutBack { path, from, instead } => {
            let Some(held) = inside.entry_at(from)? else {
                return match inside.entry_at(path)? {
                    Some(_) => Ok(()),
                    None => Err(io::Error::other(format!("{from} is gone"))),
                };
            };
            put_back(inside, path, from, instead, &held)?;
            remove_empty(inside.root(), from);
            Ok(())
        }
    }
}

fn put_back(
    inside: &Inside,
    path: &RelPath,
    from: &RelPath,
    instead: &InPlace,
    held: &Entry,
) -> io::Result<()> {
    let (source, destination) = (parent_of(inside.root(), from)?, parent_of(inside.root(), path)?);
    let here = (source.as_fd(), split(from)?.1);
    let there = (destination.as_fd(), split(path)?.1);
    let taken = |path: &RelPath| {
        io::Error::other(format!("{path} was made meanwhile; move it away, or join the two"))
    };
    let Some(is) = inside.entry_at(path)? else {
        displace(here, there)?;
        return Ok(rustix::fs::fsync(inside.root().open_directory(&split(path)?.0)?)?);
    };
    match instead {
        InPlace::File { content } if is.kind == Kind::File => {
            if inside.read_at(path)?.is_none_or(|found| digest(&found) != *content) {
                return Err(io::Error::other(format!("{path} was changed; {from} is what it was")));
            }
            replace(here, there)?;
        }
        InPlace::Directory if is.kind == Kind::Directory && held.kind == Kind::Directory => {
            if inside.list_at(path)?.is_empty() {
                replace(here, there)?;
            } else {
                // The standby's own mail was queued there meanwhile; both queues become one.
                join(inside, path, from)?;
            }
        }
        _ => return Err(taken(path)),
    }
    Ok(rustix::fs::fsync(inside.root().open_directory(&split(path)?.0)?)?)
}

/// Moves what is in the directory `from` into the directory `path`, unless a name is in both.
fn join(inside: &Inside, path: &RelPath, from: &RelPath) -> io::Result<()> {
    for name in inside.list_at(from)? {
        let (source, destination) = (from.join(&name), path.join(&name));
        match (inside.entry_at(&source)?, inside.entry_at(&destination)?) {
            (Some(_), None) => {
                let (here, there) =
                    (inside.root().hold_directory(from)?, inside.root().hold_directory(path)?);
                displace((here.as_fd(), &name), (there.as_fd(), &name))?;
            }
            (Some(one), Some(other)) if one.kind == Kind::Directory && other.kind == Kind::Directory => {
                join(inside, &destination, &source)?;
            }
            _ => return Err(io::Error::other(format!("{destination} is also held, as {source}"))),
        }
    }
    let (parent, name) = split(from)?;
    Ok(unlinkat(inside.root().hold_directory(&parent)?, name, AtFlags::REMOVEDIR)?)
}

/// Removes the directories above `from` that hold nothing any more. That one stays is no failure.
fn remove_empty(root: &Root, from: &RelPath) {
    let mut at = from.parent();
    while let Some(directory) = at {
        let ours = directory.as_bytes().starts_with(HELD.as_bytes())
            || directory.components().any(|name| name == HELD_ELSEWHERE.as_bytes());
        let (Some(parent), Some(name), true) = (directory.parent(), directory.name(), ours) else { return };
        let removed = root.hold_directory(&parent).and_then(|held| unlinkat(held, name, AtFlags::REMOVEDIR));
        if removed.is_err() {
            return;
        }
        at = Some(parent);
    }
}

fn open(path: &Path) -> Result<Arc<Root>, PrepareError> {
    Root::open(path).map(Arc::new).map_err(|error| PrepareError::Root {
        path: crate::tree::escape(path.as_os_str().as_encoded_bytes()),
        reason: io::Error::from(error).to_string(),
    })
}

fn journal(root: &Arc<Root>) -> Result<Journal, PrepareError> {
    Ok(Journal::read(root).map_err(|error| PrepareError::Journal(error.to_string()))?.unwrap_or_default())
}

fn parent_of(root: &Root, path: &RelPath) -> io::Result<OwnedFd> {
    Ok(root.hold_directory(&split(path)?.0)?)
}
