//! One directory as both ends describe it to each other.
//!
//! Why: the comparison only works if sender and receiver make the same lines of the same directory, so both use
//! this. What can go wrong: a name that cannot be read must stand in the listing all the same, or the other end
//! takes it for missing.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, statx};

use crate::plan::Line;
use crate::problem::Problem;
use crate::rules::{Cursor, Scope};
use crate::scan::{
    Detail, Inode, Named, Place, Scratch, Seen, Snapshot, View, identity_of, line_digest, statx_mask,
};
use crate::tree::{Kind, LinkGroup, NameHash, RelPath, hash_name};

/// A directory's names, sorted by line.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) rows: Vec<Row>,
    /// Hashes of names that are there but take no part.
    pub(crate) others: HashSet<NameHash>,
    pub(crate) problems: Vec<Problem>,
}

/// A name and its line; no entry where it cannot be read.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) line: Line,
    pub(crate) named: Option<Named>,
}

impl Listing {
    /// Only the lines.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.rows.iter().map(|row| row.line).collect()
    }
}

/// The group of an inode that has more than one name in scope.
pub(crate) fn links_of(snapshot: &Snapshot, kind: Kind, scope: Scope, inode: &Inode) -> Option<LinkGroup> {
    if kind == Kind::Directory || scope != Scope::In || inode.links < 2 {
        return None;
    }
    snapshot.links(inode.identity.device, inode.identity.inode)
}

/// The rules' cursor in the directory at `path`; none where the rules do not lead there.
pub(crate) fn cursor_at(view: &View, path: &RelPath) -> Option<Cursor> {
    let (mut cursor, _) = view.rules.root();
    for name in path.components() {
        let (decision, below) = view.rules.enter(&cursor, name, true);
        if matches!(decision.scope, Scope::Out | Scope::Empty) {
            return None;
        }
        cursor = below?;
    }
    Some(cursor)
}

/// Reads the directory at `path`, handing every name to `each`.
///
/// # Errors
/// When it cannot be opened or listed.
pub(crate) fn read(
    view: &View,
    path: &RelPath,
    detail: Detail,
    select: &dyn Fn(&[u8]) -> bool,
    each: &mut dyn FnMut(Seen),
) -> rustix::io::Result<()> {
    let Some(cursor) = cursor_at(view, path) else { return Err(rustix::io::Errno::NOENT) };
    let directory = view.root.open_directory(path)?;
    let stat = statx(&directory, c"", AtFlags::EMPTY_PATH, statx_mask())?;
    let place = Place { directory: directory.as_fd(), path, identity: identity_of(&stat), cursor: &cursor };
    view.read_directory(&place, detail, &mut Scratch::default(), select, each)
}

/// Lists the directory at `path` with its lines; the root also lists itself, under the empty name.
///
/// # Errors
/// When it cannot be opened or listed.
pub(crate) fn list(view: &View, snapshot: &Snapshot, path: &RelPath) -> rustix::io::Result<Listing> {
    let mut listing = Listing::default();
    let place = snapshot.find(path);
    let mut add = |named: Named| {
        let name = named.name.to_bytes();
        let below = named.below.is_some() && !name.is_empty();
        // A directory that the scan did not see yet differs from any.
        let below = below.then(|| place.and_then(|place| snapshot.below(place, name)).unwrap_or_default());
        let links = links_of(snapshot, named.entry.kind, named.scope, &named.inode);
        let line = Line::new(hash_name(name), &line_digest(&named), links, below);
        listing.rows.push(Row { line, named: Some(named) });
    };
    if path.is_root() {
        add(view.read_root(&mut Scratch::default())?);
    }
    let (mut others, mut unreadable) = (HashSet::new(), Vec::new());
    read(view, path, view.detail(), &|_| true, &mut |seen| match seen {
        Seen::Named(named) => add(*named),
        Seen::Unreadable(name, problem) => unreadable.push((hash_name(name.to_bytes()), problem)),
        // What takes no part has no metadata here; its name alone keeps it from being taken for missing.
        Seen::Out(name, _) => {
            others.insert(hash_name(name.to_bytes()));
        }
        Seen::Leftover(_) => {}
    })?;
    for (name, problem) in unreadable {
        listing.problems.push(problem);
        listing.rows.push(Row { line: Line::new(name, &[0xff; 16], None, None), named: None });
    }
    listing.others = others;
    listing.rows.sort_by_key(|row| row.line);
    Ok(listing)
}
