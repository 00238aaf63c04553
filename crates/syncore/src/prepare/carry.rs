//! Makes the edits of a preparation, journalled, in their order.
//!
//! Why: what was planned and shown is what is done, no more. What can go wrong: a file that changed since it was
//! planned; it is looked at again and the preparation ends there, to be planned anew.

use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, Uid, chownat, mkdirat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::edit::{Edit, EditChange};
use super::inside::Inside;
use super::journal::Journal;
use super::{PrepareError, hold};
use crate::apply::{Directories, Problems, rewrite};
use crate::monitor::Monitor;
use crate::scan::{Boundaries, mounts_below};
use crate::tree::{Entry, Kind, RelPath};

/// Makes all `edits`, adding them to `journal` first.
pub(super) fn carry_out(
    inside: &Inside,
    edits: &[Edit],
    journal: &mut Journal,
    monitor: &dyn Monitor,
) -> Result<(), PrepareError> {
    for edit in edits {
        journal.add(inside, edit).map_err(|error| PrepareError::Journal(error.to_string()))?;
    }
    journal.write(inside).map_err(|error| PrepareError::Journal(error.to_string()))?;
    let mounts = mounts_below(inside.root());
    let failed = |path: &RelPath, error: io::Error| PrepareError::Edit {
        path: path.clone(),
        reason: error.to_string(),
    };
    let directories = Directories::new(Arc::clone(inside.root()), &Boundaries::default(), &mounts)
        .map_err(|error| failed(&RelPath::root(), error.into()))?;
    for edit in edits {
        if monitor.cancelled() {
            return Err(PrepareError::Cancelled);
        }
        make(inside, &directories, edit).map_err(|error| failed(&edit.path, error))?;
    }
    let problems = Problems::default();
    directories.settle(&std::collections::HashSet::new(), &problems);
    for problem in problems.take() {
        monitor.problem(&problem);
    }
    directories.flush().map_err(|error| failed(&RelPath::root(), error.into()))
}

fn make(inside: &Inside, directories: &Directories, edit: &Edit) -> io::Result<()> {
    let path = &edit.path;
    let (parent, name) = (path.parent().unwrap_or_default(), path.name().unwrap_or_default());
    match &edit.change {
        EditChange::Write { before, after, mode } => {
            if inside.read(path)? != *before {
                return Err(io::Error::other("it changed since it was looked at"));
            }
            make_parents(inside, &parent)?;
            let like = inside.own_entry(path)?.filter(|entry| entry.kind == Kind::File);
            rewrite(directories, path, after, &like.unwrap_or_else(|| new_file(*mode)))
        }
        EditChange::Symlink { target } => {
            make_parents(inside, &parent)?;
            remove(directories, &parent, name)?;
            Ok(symlinkat(&target[..], directories.open(&parent)?, name)?)
        }
        EditChange::Directory { .. } if inside.own_entry(path)?.is_some() => Ok(()),
        EditChange::Directory { mode } => {
            make_parents(inside, &parent)?;
            let directory = directories.open(&parent)?;
            mkdirat(&directory, name, Mode::from_raw_mode((*mode).into()))?;
            Ok(chownat(&directory, name, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        EditChange::Remove => remove(directories, &parent, name),
        EditChange::Clear => clear(inside, directories, path),
        EditChange::Rename { to } => {
            let directory = directories.open(&parent)?;
            Ok(renameat(&directory, name, &directory, &to[..])?)
        }
        EditChange::Hold { to, instead } => hold::put_away(inside, directories, path, to, instead),
    }
}

fn new_file(mode: u16) -> Entry {
    let mut entry = Entry::new(Kind::File);
    entry.mode = mode;
    entry
}

fn make_parents(inside: &Inside, directory: &RelPath) -> io::Result<()> {
    let mut at = RelPath::root();
    for name in directory.components() {
        let parent = inside.root().hold_directory(&at)?;
        match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = at.join(name);
    }
    Ok(())
}

fn remove(directories: &Directories, parent: &RelPath, name: &[u8]) -> io::Result<()> {
    let directory = match directories.open(parent) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // unlink(2): EISDIR on Linux, EPERM by POSIX.
        Err(Errno::ISDIR | Errno::PERM) => Ok(unlinkat(&directory, name, AtFlags::REMOVEDIR)?),
        Err(error) => Err(error.into()),
    }
}

fn clear(inside: &Inside, directories: &Directories, directory: &RelPath) -> io::Result<()> {
    for name in inside.list(directory)? {
        let path = directory.join(&name);
        if inside.own_entry(&path)?.is_some_and(|entry| entry.kind == Kind::Directory) {
            clear(inside, directories, &path)?;
        }
        remove(directories, directory, &name)?;
    }
    Ok(())
}
