//! A part of a tree whose content is read: the files between two paths, as many as fit a budget.
//!
//! Why: a content check reads everything on both ends, which on a large root is days of disk time; in slices it is an
//! hour a night. Both ends have to read the same files, whatever came or went meanwhile, so a slice is a range of paths in
//! the one order in which trees are listed. What can go wrong: a file that is larger than the budget; it is read alone,
//! or a lap would never get past it.

use serde::{Deserialize, Serialize};

use super::metadata::{Detail, Scratch};
use super::root::statx_mask;
use super::view::{Place, Seen, View};
use crate::monitor::Monitor;
use crate::rules::{Cursor, Scope};
use crate::tree::{Kind, RelPath};
use rustix::fs::{AtFlags, statx};
use std::os::fd::AsFd;

/// The files between two paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Those behind this path; none: from the beginning.
    pub after: Option<RelPath>,
    /// Up to this path, which is part of it; none: to the end.
    pub until: Option<RelPath>,
}

/// A slice, and what is in it on the end where it was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// The slice.
    pub slice: Slice,
    /// Files in scope.
    pub files: u64,
    /// Their lengths together.
    pub bytes: u64,
}

impl Slice {
    /// Whether a file at `path` is part of it.
    #[must_use]
    pub fn contains(&self, path: &RelPath) -> bool {
        self.after.as_ref().is_none_or(|after| path > after)
            && self.until.as_ref().is_none_or(|until| path <= until)
    }
}

/// A directory on the way, and which of its names are still to be visited, the next one last.
struct Level {
    path: RelPath,
    names: Vec<(Vec<u8>, Option<Cursor>, u64)>,
}

/// Finds the slice behind `after` that has at most `budget_bytes` in it, or one file; none when the monitor asked to stop.
///
/// What cannot be read is passed over here: the check itself tells of it.
///
/// # Errors
/// When the root cannot be read.
pub fn measure(
    view: &View,
    after: Option<RelPath>,
    budget_bytes: u64,
    monitor: &dyn Monitor,
) -> rustix::io::Result<Option<Measured>> {
    let root = view.read_root(&mut Scratch::default())?;
    let mut found = Measured { slice: Slice { after, until: None }, ..Measured::default() };
    let mut levels: Vec<Level> = Vec::new();
    levels.extend(root.below.map(|cursor| level(view, RelPath::root(), &cursor, &found.slice)));
    let mut last = None;
    while let Some(level_here) = levels.last_mut() {
        if monitor.cancelled() {
            return Ok(None);
        }
        let Some((name, cursor, size_bytes)) = level_here.names.pop() else {
            levels.pop();
            continue;
        };
        let path = level_here.path.join(&name);
        if let Some(cursor) = cursor {
            levels.push(level(view, path, &cursor, &found.slice));
        } else if found.slice.contains(&path) {
            if found.files > 0 && found.bytes.saturating_add(size_bytes) > budget_bytes {
                found.slice.until = last;
                return Ok(Some(found));
            }
            found.files += 1;
            found.bytes = found.bytes.saturating_add(size_bytes);
            last = Some(path);
        }
    }
    Ok(Some(found))
}

/// The files and directories in one directory that are, or may have something, in the slice.
fn level(view: &View, path: RelPath, cursor: &Cursor, slice: &Slice) -> Level {
    let mut names = Vec::new();
    let Ok(directory) = view.root.open_directory(&path) else { return Level { path, names } };
    let Ok(stat) = statx(&directory, c"", AtFlags::EMPTY_PATH, statx_mask()) else {
        return Level { path, names };
    };
    let place = Place { directory: directory.as_fd(), path: &path, stat: &stat, cursor };
    let ended = |child: &RelPath| {
        // Everything below a directory that is before the path, and not above it, is before it, too.
        slice.after.as_ref().is_some_and(|after| child <= after && !after.starts_with(child))
    };
    let mut scratch = Scratch::default();
    // What was read of a directory that broke off is part of it.
    let _ = view.read_directory(&place, Detail::Quick, &mut scratch, &|_| true, &mut |seen| {
        let Seen::Named(named) = seen else { return };
        let name = named.name.to_bytes();
        let is_file = named.entry.kind == Kind::File && named.scope == Scope::In;
        if (is_file || named.below.is_some()) && !ended(&path.join(name)) {
            names.push((name.to_vec(), named.below, named.entry.size_bytes));
        }
    });
    names.sort_by(|one, other| other.0.cmp(&one.0));
    Level { path, names }
}
