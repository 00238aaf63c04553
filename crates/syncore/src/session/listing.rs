//! One directory as both ends describe it to each other.
//!
//! Why: the comparison only works if sender and receiver make the same lines of the same directory, so both use
//! this. The lines are those of the scan where it kept them; names and metadata are read only of what differs. What
//! can go wrong: a name that cannot be read must stand in the lines all the same, or the other end takes it for
//! missing.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, statx};

use crate::plan::Line;
use crate::rules::{Cursor, Scope};
use crate::scan::{Detail, Inode, Named, Place, Scratch, Seen, Snapshot, View, line_digest, statx_mask};
use crate::tree::{Kind, LinkGroup, NameHash, RelPath};

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
    each: &mut dyn FnMut(Seen<'_>),
) -> rustix::io::Result<()> {
    let Some(cursor) = cursor_at(view, path) else { return Err(rustix::io::Errno::NOENT) };
    let directory = view.root.open_directory(path)?;
    let stat = statx(&directory, c"", AtFlags::EMPTY_PATH, statx_mask())?;
    let place = Place { directory: directory.as_fd(), path, stat: &stat, cursor: &cursor };
    view.read_directory(&place, detail, &mut Scratch::default(), select, each)
}

/// The sorted lines of the directory at `path`; the root also lists itself, under the empty name.
///
/// # Errors
/// When it cannot be opened or listed.
pub(crate) fn lines(view: &View, snapshot: &Snapshot, path: &RelPath) -> rustix::io::Result<Vec<Line>> {
    let place = snapshot.find(path);
    if let Some(kept) = place.and_then(|place| snapshot.kept_lines(place)) {
        let mut lines: Vec<Line> = kept.map(|(name, line, below)| Line::short(name, line, below)).collect();
        lines.sort();
        return Ok(lines);
    }
    let (mut lines, mut buffer) = (Vec::new(), Vec::new());
    let mut add = |named: &Named<'_>| {
        let name = named.name.to_bytes();
        let below = named.below.is_some() && !name.is_empty();
        // A directory that the scan did not see yet differs from any.
        let below = below.then(|| place.and_then(|place| snapshot.below(place, name)).unwrap_or_default());
        let links = links_of(snapshot, named.entry.kind, named.scope, &named.inode);
        lines.push(Line::new(view.names.hash(name), &line_digest(named, &mut buffer), links, below));
    };
    if path.is_root() {
        add(&view.read_root(&mut Scratch::default())?);
    }
    let mut unreadable = Vec::new();
    read(view, path, view.detail(), &|_| true, &mut |seen| match seen {
        Seen::Named(named) => add(&named),
        Seen::Unreadable(name, _) => unreadable.push(view.names.hash(name.to_bytes())),
        Seen::Out(..) | Seen::Leftover(_) => {}
    })?;
    lines.extend(unreadable.into_iter().map(|name| Line::short(name, [0xff; 8], None)));
    lines.sort();
    Ok(lines)
}

/// Reads the names that `select` chooses by their hashes in the directory at `path`, in full, and hands each to `each`;
/// the root also has itself, under the empty name.
///
/// # Errors
/// When it cannot be opened or listed.
pub(crate) fn pick(
    view: &View,
    path: &RelPath,
    select: &dyn Fn(NameHash) -> bool,
    each: &mut dyn FnMut(Seen<'_>),
) -> rustix::io::Result<()> {
    if path.is_root() && select(view.names.hash(b"")) {
        each(Seen::Named(view.read_root_in_full()?));
    }
    read(view, path, Detail::Full, &|name| select(view.names.hash(name)), each)
}

/// A view of all of the tree at `root`.
#[cfg(test)]
pub(crate) fn view_of(root: &std::path::Path) -> View {
    use std::sync::Arc;
    View {
        root: Arc::new(crate::scan::Root::open(root).unwrap()),
        rules: Arc::new(crate::rules::RuleSet::compile(Vec::new()).unwrap()),
        boundaries: Arc::default(),
        checksum: false,
        slice: None,
        presented: Arc::default(),
        names: crate::tree::NameKey::default(),
        bare: None,
    }
}
