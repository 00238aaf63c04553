//! Releasing: what is held comes back exactly as it was, or as production has it by now.
//!
//! Why: a promotion must be able to undo every hold, and an administrator one of them by name. What a sync brought
//! since is put where the held things lie first, so that each still comes back by one rename. What can go wrong: the
//! place was used meanwhile. Nothing is overwritten then; the thing stays held and is named, with the reason. A crash between two
//! things leaves a journal that says so; releasing again goes on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::hold::{HELD, HELD_ELSEWHERE, InPlace, Undo, digest, split};
use super::inside::Inside;
use super::journal::{self, Journal};
use super::latest::{Brought, Fate, Latest, belongs, from_sync};
use super::mirror::Mirror;
use super::standby::PRODUCTION;
use super::{Held, PrepareError};
use crate::apply::{displace, replace};
use crate::scan::Root;
use crate::tree::{Entry, Kind, RelPath};

/// What came of releasing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// What is as production has it by the last sync, or as it was before it was held.
    pub released: Vec<Held>,
    /// What does not come back, because production deleted it since.
    pub gone: Vec<Held>,
    /// What is still held, and why.
    pub kept: Vec<(Held, String)>,
}

/// What is held in the prepared root at `path`, and what a sync brought since and does not act (of the kind `sync`).
///
/// # Errors
/// [`PrepareError::Root`], [`PrepareError::Journal`], and [`PrepareError::Read`].
pub fn held(path: &Path) -> Result<Vec<Held>, PrepareError> {
    let inside = Inside::new(open(path)?);
    let journal = journal(inside.root())?;
    let mut held = journal.held.clone();
    if let Some(latest) = latest(&inside, &journal)? {
        held.extend(latest.list(&journal.held).map_err(unreadable)?);
    }
    Ok(held)
}

/// Releases what is held in the prepared root at `path`: everything, or what has one of `names`. It may be the running
/// root. What a sync brought since the clone is put in place of what was held; what production deleted does not come
/// back. What cannot be put in place without losing something of the standby's own stays held.
///
/// # Errors
/// [`PrepareError::Option`] for a name that nothing held has, and for a `standby.toml` that cannot be used;
/// [`PrepareError::Root`], [`PrepareError::Journal`], and [`PrepareError::Read`]. The same call again goes on.
pub fn release(path: &Path, names: Option<&[String]>) -> Result<Released, PrepareError> {
    let root = open(path)?;
    let inside = Inside::new(Arc::clone(&root));
    let mut journal = journal(&root)?;
    let mut latest = latest(&inside, &journal)?;
    for name in names.unwrap_or_default() {
        let brought = latest.as_ref().map_or(Ok(false), |latest| latest.has(name, &journal.held));
        if !brought.map_err(unreadable)? && !journal.held.iter().any(|held| held.name == *name) {
            let name = crate::tree::escape(name.as_bytes());
            return Err(PrepareError::Option(format!("nothing that is held is called {name}")));
        }
    }
    let named = |held: &&Held| names.is_none_or(|names| names.contains(&held.name));
    let wanted: Vec<Held> = journal.held.iter().filter(named).cloned().collect();
    let mut brought = Brought::default();
    if let Some(latest) = &mut latest {
        brought = latest.bring(&journal.held, &wanted, names).map_err(unreadable)?;
    }
    let mut released = Released { released: brought.put, gone: brought.gone, kept: Vec::new() };
    for held in wanted {
        // A unit would start as neither of the two has it.
        let reason = brought.kept.iter().find(|(path, _)| belongs(path, &held.name));
        if let Some((path, reason)) = reason {
            released.kept.push((held, format!("{path}: {reason}")));
            continue;
        }
        let fate = |undo: &Undo| match undo {
            Undo::PutBack { path, .. } => brought.fates.get(path).copied(),
            Undo::TakeAway { .. } => None,
        };
        match held.undo.iter().rev().try_for_each(|undo| match fate(undo) {
            Some(fate) => given_up(&inside, undo, fate),
            None => undone(&inside, undo),
        }) {
            Ok(()) => {
                journal.held.retain(|other| *other != held);
                // Each is on disk before the next: what a crash leaves undone is released again, to no effect.
                journal.write(&inside).map_err(|error| PrepareError::Journal(error.to_string()))?;
                let gone =
                    !held.undo.is_empty() && held.undo.iter().all(|undo| fate(undo) == Some(Fate::Gone));
                if gone { released.gone.push(held) } else { released.released.push(held) }
            }
            Err(reason) => released.kept.push((held, reason.to_string())),
        }
    }
    for (path, reason) in brought.kept {
        if !released.kept.iter().any(|(held, _)| belongs(&path, &held.name)) {
            released.kept.push((from_sync(&path, &reason), reason));
        }
    }
    Ok(released)
}

/// Removes what lies elsewhere and does not go back, and the note that is in its place.
fn given_up(inside: &Inside, undo: &Undo, fate: Fate) -> io::Result<()> {
    let Undo::PutBack { path, from, instead } = undo else { return Ok(()) };
    if fate == Fate::Gone
        && let InPlace::File { content } = instead
        && inside.read_at(path)?.is_some_and(|found| digest(&found) == *content)
    {
        let (parent, name) = split(path)?;
        unlinkat(inside.root().hold_directory(&parent)?, name, AtFlags::empty())?;
    }
    let mirror = Mirror::new(inside)?;
    mirror.remove(from)?;
    if let Some(problem) = mirror.finish()?.into_iter().next() {
        return Err(io::Error::other(problem.to_string()));
    }
    remove_empty(inside.root(), from);
    Ok(())
}

/// Undoes one thing; what is undone already stays so.
fn undone(inside: &Inside, undo: &Undo) -> io::Result<()> {
    match undo {
        Undo::TakeAway { path, content } => {
            let (parent, name) = split(path)?;
            match inside.read_at(path)? {
                None => {}
                Some(found) if digest(&found) == *content => {
                    unlinkat(inside.root().hold_directory(&parent)?, name, AtFlags::empty())?;
                }
                Some(_) => {
                    return Err(io::Error::other(format!("{path} was changed; remove it if that is right")));
                }
            }
            let (above, name) = split(&parent)?;
            let removed = inside
                .root()
                .hold_directory(&above)
                .and_then(|held| unlinkat(held, name, AtFlags::REMOVEDIR));
            match removed {
                // The drop-in directory had others, or went when this was undone before.
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        Undo::PutBack { path, from, instead } => {
            let Some(held) = inside.entry_at(from)? else {
                remove_empty(inside.root(), from);
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
        // What an interrupted release has removed already is no reason to stop.
        if !matches!(removed, Ok(()) | Err(Errno::NOENT)) {
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

/// What a sync brought; nothing for a root that was never prepared.
fn latest<'a>(inside: &'a Inside, journal: &Journal) -> Result<Option<Latest<'a>>, PrepareError> {
    if journal.hostname.is_empty() { Ok(None) } else { Latest::open(inside, journal) }
}

fn unreadable(error: io::Error) -> PrepareError {
    PrepareError::read(&journal::path(PRODUCTION), error)
}

fn parent_of(root: &Root, path: &RelPath) -> io::Result<OwnedFd> {
    Ok(root.hold_directory(&split(path)?.0)?)
}
