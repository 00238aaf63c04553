//! Gathers the changes of a plan in any order and puts them into the plan's.
//!
//! Why: the comparison finds changes directory by directory, in parallel; a plan is in path order, and hard-link groups
//! can only be settled when all of their names are known. What can go wrong: a first clone of millions of files. So
//! what has no links, nearly all, is kept encoded, in less than a hundred bytes each.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Change, Draft, Item, Plan, PlanError, resolve_links};
use crate::tree::{Attributes, Entry, Kind, RelPath, Timestamp, path_order};

/// What goes away: its kind, and of a file that could be moved, length and modification time.
pub type Doomed = (Kind, Option<(u64, Timestamp)>);

/// A shorter file costs no more to send than to look for.
const MOVE_FROM_BYTES: u64 = 256;

/// Files of the same length at least this long are taken for the same file even when name and time differ, unless it is
/// a multiple of [`ALLOTTED_BYTES`]; whether they are is found out before anything is made of it.
const ALIKE_FROM_BYTES: u64 = 64 * 1024;

/// What is made of whole pages, logs of a database say, has the same length in many files.
const ALLOTTED_BYTES: u64 = 4096;

/// A change in one piece of memory: path, change and entry, encoded.
#[derive(Debug)]
struct Packed(Box<[u8]>);

impl Packed {
    fn new(path: &RelPath, change: Change, entry: &Entry) -> Result<Self, PlanError> {
        let encoded = postcard::to_allocvec(&(path, change, entry)).map_err(|_| PlanError::Malformed)?;
        Ok(Self(encoded.into_boxed_slice()))
    }

    fn path(&self) -> RelPath {
        // It was encoded here, so it is one.
        postcard::take_from_bytes(&self.0).map(|(path, _)| path).unwrap_or_default()
    }

    /// The path's bytes, for comparing.
    fn path_bytes(&self) -> &[u8] {
        postcard::take_from_bytes::<&serde_bytes::Bytes>(&self.0)
            .map(|(path, _)| &path[..])
            .unwrap_or_default()
    }

    fn item(&self) -> Result<Item, PlanError> {
        let (path, change, entry) = postcard::from_bytes(&self.0).map_err(|_| PlanError::Malformed)?;
        Ok(Item { path, change, entry, link_to: None, moved_from: None })
    }
}

/// Changes in any order.
#[derive(Debug, Default)]
pub struct Drafts {
    /// Changes that no hard link concerns.
    plain: Vec<Packed>,
    linked: Vec<Draft>,
    deletions: BTreeMap<RelPath, Doomed>,
}

impl Drafts {
    /// Adds a change.
    ///
    /// # Errors
    /// [`PlanError::Malformed`] when it cannot be encoded.
    pub fn push(&mut self, draft: Draft) -> Result<(), PlanError> {
        let alone =
            draft.item.entry.links.is_none() && draft.standby.is_none_or(|standby| standby.links <= 1);
        if !alone && draft.item.entry.kind != Kind::Directory {
            self.linked.push(draft);
            return Ok(());
        }
        let Item { path, change, entry, .. } = draft.item;
        self.plain.push(Packed::new(&path, change, &entry)?);
        Ok(())
    }

    /// Adds something that goes away.
    pub fn delete(&mut self, path: RelPath, doomed: Doomed) {
        self.deletions.insert(path, doomed);
    }

    /// Adds all changes of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.plain.append(&mut other.plain);
        self.linked.append(&mut other.linked);
        self.deletions.append(&mut other.deletions);
    }

    /// The paths of all changes but deletions.
    pub fn paths(&self) -> impl Iterator<Item = RelPath> {
        self.plain.iter().map(Packed::path).chain(self.linked.iter().map(|draft| draft.item.path.clone()))
    }

    /// How many deletions there are.
    #[must_use]
    pub fn deletions(&self) -> usize {
        self.deletions.len()
    }

    /// Drops every deletion.
    pub fn keep_all(&mut self) {
        self.deletions.clear();
    }

    /// The change at `path`.
    #[must_use]
    pub fn find(&self, path: &RelPath) -> Option<Item> {
        if let Some(draft) = self.linked.iter().find(|draft| draft.item.path == *path) {
            return Some(draft.item.clone());
        }
        let packed = self.plain.iter().find(|packed| packed.path_bytes() == path.as_bytes())?;
        packed.item().ok()
    }

    /// Makes the change at `path` an update of content, too; false when there is none.
    pub fn add_content(&mut self, path: &RelPath) -> bool {
        let widen = |change: &mut Change| {
            if let Change::Update(attributes) = change {
                *attributes = *attributes | Attributes::CONTENT;
            }
        };
        if let Some(draft) = self.linked.iter_mut().find(|draft| draft.item.path == *path) {
            widen(&mut draft.item.change);
            return true;
        }
        let Some(packed) = self.plain.iter_mut().find(|packed| packed.path_bytes() == path.as_bytes()) else {
            return false;
        };
        let widened = packed.item().and_then(|mut item| {
            widen(&mut item.change);
            Packed::new(&item.path, item.change, &item.entry)
        });
        widened.is_ok_and(|widened| {
            *packed = widened;
            true
        })
    }

    /// Settles hard links, finds what was only moved, and makes the plan.
    ///
    /// # Errors
    /// [`PlanError`] when the parts make no plan.
    pub fn into_plan(self) -> Result<Plan, PlanError> {
        let Self { mut plain, mut linked, deletions } = self;
        plain.sort_unstable_by(|a, b| path_order(a.path_bytes(), b.path_bytes()));
        linked.sort_by(|a, b| a.item.path.cmp(&b.item.path));
        linked.dedup_by(|later, first| later.item.path == first.item.path);
        let mut linked = resolve_links(linked).into_iter().peekable();
        let mut moves = Moves::new(&deletions);
        let mut plan = Plan::default();
        let mut last: Option<RelPath> = None;
        for packed in plain {
            let mut item = packed.item()?;
            while let Some(item) = linked.next_if(|linked| linked.path < item.path) {
                plan.push(&item)?;
            }
            if last.as_ref() == Some(&item.path) || linked.peek().is_some_and(|l| l.path == item.path) {
                continue;
            }
            item.moved_from = moves.find(&item);
            plan.push(&item)?;
            last = Some(item.path);
        }
        linked.try_for_each(|item| plan.push(&item))?;
        for (path, (kind, _)) in deletions.into_iter().rev() {
            let entry = Entry::new(kind);
            plan.push(&Item { path, change: Change::Delete(kind), entry, link_to: None, moved_from: None })?;
        }
        Ok(plan)
    }
}

/// Finds for a new file one that goes away and is likely to have its content.
struct Moves<'a> {
    by_length: HashMap<u64, VecDeque<(&'a RelPath, Timestamp)>>,
}

impl<'a> Moves<'a> {
    fn new(deletions: &'a BTreeMap<RelPath, Doomed>) -> Self {
        let mut by_length: HashMap<u64, VecDeque<(&RelPath, Timestamp)>> = HashMap::new();
        for (path, (_, content)) in deletions {
            if let Some((length, mtime)) = content.filter(|(length, _)| *length >= MOVE_FROM_BYTES) {
                by_length.entry(length).or_default().push_back((path, mtime));
            }
        }
        Self { by_length }
    }

    /// The same time and name, or the same time, or the same name, or a length that is none by chance: in that order.
    fn find(&mut self, item: &Item) -> Option<RelPath> {
        /// How many candidates are looked at: more of one length are no help.
        const LOOKED_AT: usize = 64;
        if item.change != Change::Create || item.entry.kind != Kind::File {
            return None;
        }
        let candidates = self.by_length.get_mut(&item.entry.size_bytes)?;
        let rank = |(path, mtime): &(&RelPath, Timestamp)| {
            (*mtime == item.entry.mtime, path.name() == item.path.name())
        };
        let ranked = candidates.iter().take(LOOKED_AT).map(rank).enumerate();
        // Of equals the first: both lists are in path order.
        let (index, rank) = ranked.rev().max_by_key(|(_, rank)| *rank)?;
        let length = item.entry.size_bytes;
        let by_chance = length < ALIKE_FROM_BYTES || length.is_multiple_of(ALLOTTED_BYTES);
        if rank == (false, false) && by_chance {
            return None;
        }
        candidates.remove(index).map(|(path, _)| path.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size_bytes: u64, seconds: i64) -> Draft {
        let mtime = Timestamp { seconds, nanoseconds: 0 };
        let entry = Entry { size_bytes, mtime, ..Entry::new(Kind::File) };
        let path = RelPath::new(path).unwrap();
        Draft {
            item: Item { path, change: Change::Create, entry, link_to: None, moved_from: None },
            standby: None,
        }
    }

    /// Who is moved from where when these files appear and those go away.
    fn moved(new: &[(&str, u64, i64)], old: &[(&str, u64, i64)]) -> Vec<(String, Option<String>)> {
        let mut drafts = Drafts::default();
        for (path, size_bytes, seconds) in new.iter().rev() {
            drafts.push(file(path, *size_bytes, *seconds)).unwrap();
        }
        for (path, size_bytes, seconds) in old {
            let mtime = Timestamp { seconds: *seconds, nanoseconds: 0 };
            drafts.delete(RelPath::new(*path).unwrap(), (Kind::File, Some((*size_bytes, mtime))));
        }
        let plan = drafts.into_plan().unwrap();
        let shown = |item: Item| (item.path.to_string(), item.moved_from.map(|path| path.to_string()));
        plan.items().filter(|item| item.change == Change::Create).map(shown).collect()
    }

    fn shown(pairs: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
        pairs.iter().map(|(path, from)| ((*path).to_owned(), from.map(str::to_owned))).collect()
    }

    #[test]
    fn a_renamed_directory_is_recognised_name_by_name() {
        let found = moved(&[("b/x", 500, 1), ("b/y", 500, 1)], &[("a/x", 500, 1), ("a/y", 500, 1)]);
        assert_eq!(found, shown(&[("/b/x", Some("/a/x")), ("/b/y", Some("/a/y"))]));
    }

    #[test]
    fn each_file_that_goes_away_is_moved_once() {
        let found = moved(&[("b", 500, 1), ("c", 500, 1)], &[("a", 500, 1)]);
        assert_eq!(found, shown(&[("/b", Some("/a")), ("/c", None)]));
    }

    #[test]
    fn another_length_or_nothing_in_common_is_no_move() {
        let found = moved(&[("b", 500, 1), ("c", 600, 1)], &[("a", 600, 2), ("d", 501, 1)]);
        assert_eq!(found, shown(&[("/b", None), ("/c", None)]));
        let found = moved(&[("b", 1 << 20, 1)], &[("a", 1 << 20, 2)]);
        assert_eq!(found, shown(&[("/b", None)]));
        let found = moved(&[("b", 1_000_001, 1)], &[("a", 1_000_001, 2)]);
        assert_eq!(found, shown(&[("/b", Some("/a"))]));
    }

    #[test]
    fn a_moved_file_is_neither_created_nor_deleted_in_the_totals() {
        let mut drafts = Drafts::default();
        drafts.push(file("b", 500, 1)).unwrap();
        let mtime = Timestamp { seconds: 1, nanoseconds: 0 };
        drafts.delete(RelPath::new("a").unwrap(), (Kind::File, Some((500, mtime))));
        let totals = drafts.into_plan().unwrap().totals();
        assert_eq!((totals.moved, totals.created, totals.deleted, totals.content_bytes), (1, 0, 0, 0));
    }
}
