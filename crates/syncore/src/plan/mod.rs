//! The plan: every change that a run would make, as a value.
//!
//! Why: what is shown by a dry run, judged by limits, approved by its id and carried out must be one and the same
//! thing, made without side effects. What can go wrong: a plan too large for memory (so items are kept in their
//! encoded form and decoded one at a time), and a plan from a hostile peer (so [`Plan::receive`] checks order,
//! bounds and references before anything acts on it).

mod compare;
mod drafts;
mod links;

pub use compare::{Line, Listed, Verdict, bucket_bits, bucket_digests, bucket_of, compare_lines};
pub use drafts::{Doomed, Drafts};
pub use links::{Draft, StandbyInode, resolve_links};

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::tree::{Attributes, Entry, Kind, RelPath};

/// What happens to one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Nothing is there yet.
    Create,
    /// The same kind is there and differs in these attributes.
    Update(Attributes),
    /// Another kind is there and makes way.
    Replace(Kind),
    /// Goes away.
    Delete(Kind),
}

/// One path and what happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which path.
    pub path: RelPath,
    /// What happens.
    pub change: Change,
    /// What the path is afterwards; an entry of the old kind for a deletion.
    pub entry: Entry,
    /// The path of which this becomes another name, instead of getting an inode of its own.
    pub link_to: Option<RelPath>,
    /// A path that goes away and most likely has this file's content: it is taken from there if it does.
    pub moved_from: Option<RelPath>,
}

impl Item {
    /// Whether the peer has to send file content for this item, or to say which it is.
    #[must_use]
    pub fn needs_content(&self) -> bool {
        self.entry.kind == Kind::File
            && self.link_to.is_none()
            && match self.change {
                Change::Create | Change::Replace(_) => true,
                Change::Update(attributes) => attributes.contains(Attributes::CONTENT),
                Change::Delete(_) => false,
            }
    }

    /// The eleven characters of `rsync --itemize-changes`: `*deleting`, or what is done, kind, and what differs.
    #[must_use]
    pub fn itemize(&self) -> String {
        let kind = self.entry.kind.letter();
        match self.change {
            Change::Delete(_) => "*deleting  ".to_owned(),
            _ if self.link_to.is_some() => format!("h{kind}+++++++++"),
            _ if self.moved_from.is_some() => format!("c{kind}+++++++++"),
            Change::Create | Change::Replace(_) => {
                let verb = if kind == 'f' { '>' } else { 'c' };
                format!("{verb}{kind}+++++++++")
            }
            Change::Update(a) => {
                let verb = if a.contains(Attributes::CONTENT) { '>' } else { '.' };
                let mark = |attribute, letter| if a.contains(attribute) { letter } else { '.' };
                [
                    verb,
                    kind,
                    mark(
                        Attributes::CONTENT,
                        if kind == 'f' && !a.contains(Attributes::DRIFT) { 's' } else { 'c' },
                    ),
                    mark(Attributes::LINKS, 'h'),
                    mark(Attributes::MTIME, 't'),
                    mark(Attributes::MODE, 'p'),
                    mark(Attributes::UID, 'o'),
                    mark(Attributes::GID, 'g'),
                    mark(Attributes::FLAGS, 'f'),
                    mark(Attributes::ACL, 'a'),
                    mark(Attributes::XATTRS, 'x'),
                ]
                .iter()
                .collect()
            }
        }
    }
}

/// What a plan amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Paths that come into being, hard links included, and those that replace another kind.
    pub created: u64,
    /// Files with new content, symlinks with a new target, devices with a new number.
    pub updated: u64,
    /// Paths of which only metadata changes.
    pub metadata_only: u64,
    /// Paths that go away, those that make way for another kind included.
    pub deleted: u64,
    /// Files moved on the standby instead of sent again; they count as neither created nor deleted.
    pub moved: u64,
    /// Bytes of file content behind the plan: what would be sent without deltas, moves or compression.
    pub content_bytes: u64,
}

impl Totals {
    /// Adds those of another plan.
    pub(crate) fn add(&mut self, other: &Self) {
        self.created += other.created;
        self.updated += other.updated;
        self.metadata_only += other.metadata_only;
        self.deleted += other.deleted;
        self.moved += other.moved;
        self.content_bytes += other.content_bytes;
    }
}

/// Identifies a plan: BLAKE3 of its encoded items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanId(pub [u8; 32]);

impl std::fmt::Display for PlanId {
    /// The first 16 hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Why a received plan is not acted on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The bytes are no plan.
    #[error("the plan cannot be decoded")]
    Malformed,
    /// A path that is none.
    #[error("the plan names an impossible path: {0}")]
    Path(#[from] crate::tree::PathError),
    /// Items out of order, or twice.
    #[error("the plan is out of order at {0}")]
    Order(RelPath),
    /// An item whose parts contradict each other.
    #[error("the plan contradicts itself at {0}")]
    Contradiction(RelPath),
    /// More items than an index can name, or than a peer may send.
    #[error("the plan is too large")]
    TooLarge,
}

/// How long a received plan may be, in bytes: some ten million items.
const ENCODED_LIMIT_BYTES: usize = 1 << 30;

/// All changes of a run, in the order in which they are carried out: creations and updates from the root down in
/// path order, then deletions in reverse path order, so that a directory is empty when its turn comes.
///
/// ```
/// use syncore::plan::{Change, Item, Plan};
/// use syncore::tree::{Entry, Kind, RelPath};
/// let mut plan = Plan::default();
/// plan.push(&Item {
///     path: RelPath::new("etc").unwrap(),
///     change: Change::Create,
///     entry: Entry::new(Kind::Directory),
///     link_to: None,
///     moved_from: None,
/// })?;
/// assert_eq!(plan.totals().created, 1);
/// assert_eq!(plan.items().next().unwrap().path.to_string(), "/etc");
/// # Ok::<(), syncore::plan::PlanError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Plan {
    encoded: Vec<u8>,
    last: RelPath,
    deleting: bool,
    count: u32,
    totals: Totals,
    /// Where files are moved from whose deletions have not come yet.
    moving: HashSet<RelPath>,
    /// The place in `encoded` of one item in so many, and the path before it.
    marks: Vec<(usize, RelPath)>,
    /// What the paths of the marks take.
    marked_bytes: usize,
}

/// How many items lie between two marks: what [`Plan::item`] decodes at most.
const MARK_ITEMS: u32 = 8;

/// How an item is kept: the path as what it shares with the one before it and the rest.
#[derive(Serialize, Deserialize)]
struct Stored {
    shared: u32,
    #[serde(with = "serde_bytes")]
    rest: Vec<u8>,
    change: Change,
    entry: Entry,
    link_to: Option<RelPath>,
    moved_from: Option<RelPath>,
}

impl Plan {
    /// Appends an item.
    ///
    /// # Errors
    /// [`PlanError`] when the item does not belong after those that are there.
    pub fn push(&mut self, item: &Item) -> Result<(), PlanError> {
        self.check(item)?;
        self.account(item);
        let shared = shared_prefix(self.last.as_bytes(), item.path.as_bytes());
        let stored = Stored {
            shared: u32::try_from(shared).map_err(|_| PlanError::Malformed)?,
            rest: item.path.as_bytes()[shared..].to_vec(),
            change: item.change,
            entry: item.entry.clone(),
            link_to: item.link_to.clone(),
            moved_from: item.moved_from.clone(),
        };
        if self.count.is_multiple_of(MARK_ITEMS) {
            self.marked_bytes += self.last.as_bytes().len();
            self.marks.push((self.encoded.len(), self.last.clone()));
        }
        let encoded = std::mem::take(&mut self.encoded);
        self.encoded = postcard::to_extend(&stored, encoded).map_err(|_| PlanError::Malformed)?;
        self.last = item.path.clone();
        self.deleting = matches!(item.change, Change::Delete(_));
        self.count += 1;
        Ok(())
    }

    fn check(&self, item: &Item) -> Result<(), PlanError> {
        let contradiction = || PlanError::Contradiction(item.path.clone());
        let deleting = matches!(item.change, Change::Delete(_));
        if self.count == u32::MAX {
            return Err(PlanError::TooLarge);
        }
        if self.count > 0 {
            let in_order = match (self.deleting, deleting) {
                (false, false) => item.path > self.last,
                (true, true) => item.path < self.last,
                (false, true) => true,
                (true, false) => false,
            };
            if !in_order {
                return Err(PlanError::Order(item.path.clone()));
            }
        }
        let possible = match item.change {
            Change::Delete(kind) => kind == item.entry.kind && !item.path.is_root(),
            Change::Replace(kind) => kind != item.entry.kind && !item.path.is_root(),
            Change::Update(attributes) => !attributes.is_empty(),
            Change::Create => !item.path.is_root(),
        };
        let linkable = match &item.link_to {
            None => true,
            Some(leader) => *leader != item.path && item.entry.kind != Kind::Directory && !deleting,
        };
        let movable = item.moved_from.is_none()
            || item.change == Change::Create && item.entry.kind == Kind::File && item.link_to.is_none();
        if possible && linkable && movable { Ok(()) } else { Err(contradiction()) }
    }

    fn account(&mut self, item: &Item) {
        let totals = &mut self.totals;
        match item.change {
            _ if item.moved_from.is_some() => {
                totals.moved += 1;
                self.moving.extend(item.moved_from.clone());
                return;
            }
            Change::Delete(_) if self.moving.remove(&item.path) => {}
            Change::Create => totals.created += 1,
            Change::Replace(_) => {
                totals.created += 1;
                totals.deleted += 1;
            }
            Change::Update(a) if a.contains(Attributes::CONTENT) || item.link_to.is_some() => {
                totals.updated += 1;
            }
            Change::Update(_) => totals.metadata_only += 1,
            Change::Delete(_) => totals.deleted += 1,
        }
        if item.needs_content() {
            totals.content_bytes = totals.content_bytes.saturating_add(item.entry.size_bytes);
        }
    }

    /// Appends items that a peer sent in encoded form, checking each.
    ///
    /// # Errors
    /// [`PlanError`] when the bytes are no items that may follow those that are there.
    pub fn receive(&mut self, encoded: &[u8]) -> Result<(), PlanError> {
        self.receive_up_to(encoded, ENCODED_LIMIT_BYTES)
    }

    fn receive_up_to(&mut self, mut encoded: &[u8], limit_bytes: usize) -> Result<(), PlanError> {
        while !encoded.is_empty() {
            if self.encoded.len() + self.marked_bytes > limit_bytes {
                return Err(PlanError::TooLarge);
            }
            let (item, rest) = decode(&self.last, encoded)?;
            item.path.check()?;
            encoded = rest;
            self.push(&item)?;
        }
        Ok(())
    }

    /// The encoded items in pieces of about `piece_bytes`, each a valid argument to [`Plan::receive`] in turn.
    pub fn pieces(&self, piece_bytes: usize) -> impl Iterator<Item = &[u8]> {
        let (mut rest, mut last) = (&self.encoded[..], RelPath::root());
        std::iter::from_fn(move || {
            let start = rest;
            while !rest.is_empty() && start.len() - rest.len() < piece_bytes {
                let Ok((item, after)) = decode(&last, rest) else { return None };
                (last, rest) = (item.path, after);
            }
            (!start.is_empty()).then(|| &start[..start.len() - rest.len()])
        })
    }

    /// The items in order.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        let (mut rest, mut last) = (&self.encoded[..], RelPath::root());
        std::iter::from_fn(move || {
            // Only items that were encoded by `push` are in there, so decoding ends with the last one.
            let (item, after) = decode(&last, rest).ok()?;
            (last, rest) = (item.path.clone(), after);
            Some(item)
        })
    }

    /// The item with this number, counted from 0.
    #[must_use]
    pub fn item(&self, number: u32) -> Option<Item> {
        let (start, last) = self.marks.get((number / MARK_ITEMS) as usize)?;
        let mut last = last.clone();
        let mut rest = self.encoded.get(*start..)?;
        for _ in 0..number % MARK_ITEMS {
            let (item, after) = decode(&last, rest).ok()?;
            (last, rest) = (item.path, after);
        }
        decode(&last, rest).ok().map(|(item, _)| item)
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What the plan amounts to.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The plan's id; the same for the same changes.
    #[must_use]
    pub fn id(&self) -> PlanId {
        PlanId(*blake3::hash(&self.encoded).as_bytes())
    }
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

fn decode<'a>(last: &RelPath, encoded: &'a [u8]) -> Result<(Item, &'a [u8]), PlanError> {
    if encoded.is_empty() {
        return Err(PlanError::Malformed);
    }
    let (stored, rest): (Stored, _) = postcard::take_from_bytes(encoded).map_err(|_| PlanError::Malformed)?;
    let shared = last.as_bytes().get(..stored.shared as usize).ok_or(PlanError::Malformed)?;
    let path = RelPath::new([shared, &stored.rest].concat())?;
    for other in [&stored.link_to, &stored.moved_from].into_iter().flatten() {
        other.check()?;
    }
    let Stored { change, entry, link_to, moved_from, .. } = stored;
    Ok((Item { path, change, entry, link_to, moved_from }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_few_bytes_become_counts() {
        // Each costs little behind the one before it, and some are kept whole.
        let mut plan = Plan::default();
        for number in 0..2000 {
            let path = RelPath::new([&b"long/".repeat(1000)[..], format!("{number:04}").as_bytes()].concat())
                .unwrap();
            let entry = Entry::new(Kind::File);
            plan.push(&Item { path, change: Change::Create, entry, link_to: None, moved_from: None })
                .unwrap();
        }
        let pieces: Vec<&[u8]> = plan.pieces(usize::MAX).collect();
        assert!(pieces[0].len() < 100_000, "{}", pieces[0].len());
        let received = |limit_bytes| Plan::default().receive_up_to(pieces[0], limit_bytes);
        assert!(matches!(received(1 << 20), Err(PlanError::TooLarge)));
        assert!(received(2 << 20).is_ok());
    }
}
