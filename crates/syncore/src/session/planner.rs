//! The sender's side of the comparison: asks about what differs, and makes the plan.
//!
//! Why: the plan has no side effects and is complete before anything changes. The planner descends from the root
//! into the directories whose digests differ, many questions in one message, so that the number of round trips
//! is that of levels, not of directories. What can go wrong: something unreadable on either end. It is never
//! planned to be deleted or created, and a problem says why.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use rayon::prelude::*;

use crate::monitor::{Monitor, Phase};
use crate::plan::Item;
use crate::plan::{Change, Draft, Line, Listed, Plan, PlanError, StandbyInode, Verdict};
use crate::plan::{bucket_digests, compare_lines, resolve_links};
use crate::problem::{Operation, Problem};
use crate::rules::Scope;
use crate::scan::{Detail, Named, Seen, Snapshot, View};
use crate::session::SessionError;
use crate::session::describe::take_buckets;
use crate::session::listing::{Listing, links_of, list, read};
use crate::tree::{Attributes, Entry, Kind, NameHash, RelPath, hash_name};
use crate::wire::{Answer, CONTROL, Incoming, Message, Outgoing, Question, WireError};

/// How many questions are under way at once; bounds the listings that are kept for their answers.
const QUESTIONS_AT_ONCE: usize = 256;

/// How many buckets one question asks for at most.
const BUCKETS_PER_QUESTION: usize = 32 * 1024;

/// About how many bytes of questions go into one message.
const ASK_BYTES: usize = 256 * 1024;

/// How many names one question asks for at most, so that a batch of questions fits a frame.
const NAMES_PER_QUESTION: usize = 256;

/// How many lines, entries or paths one answer has at most: more names than that are in no directory.
const ANSWER_LIMIT: usize = 1 << 24;

/// Compares the source with the standby and makes the plan.
pub(crate) struct Planner<'a> {
    view: &'a View,
    snapshot: &'a Snapshot,
    delete: bool,
    monitor: &'a dyn Monitor,
    questions: VecDeque<Pending>,
    drafts: Vec<Draft>,
    deletions: BTreeMap<RelPath, Kind>,
    /// Directories out of scope themselves that are missing on the standby: made only when something is in them.
    implied: BTreeMap<RelPath, Entry>,
    pub(crate) problems: Vec<Problem>,
}

/// Hashes of names that are there on the source but out of scope or unreadable: never to be taken for missing.
type Keep = HashSet<NameHash>;

/// A question, and what its answer is to be held against.
enum Pending {
    Lines(RelPath),
    Buckets(RelPath, u8, Vec<u32>, Listing),
    Entries(RelPath, Vec<[u8; 8]>, HashMap<Vec<u8>, Named>, Keep),
    /// A directory that goes away.
    Deletion(RelPath),
    /// A directory that makes way for something else.
    Replacement(RelPath, Box<Named>),
}

impl Pending {
    /// About how long its question is on the wire.
    fn encoded_bytes(&self) -> usize {
        let (Self::Lines(path)
        | Self::Buckets(path, ..)
        | Self::Entries(path, ..)
        | Self::Deletion(path)
        | Self::Replacement(path, _)) = self;
        let list = match self {
            Self::Buckets(_, _, wanted, _) => wanted.len() * 5,
            Self::Entries(_, names, ..) => names.len() * 8,
            _ => 0,
        };
        16 + path.as_bytes().len() + list
    }

    fn question(&self) -> Question {
        match self {
            Self::Lines(path) => Question::Lines(path.clone()),
            Self::Buckets(path, bits, wanted, _) => Question::Buckets(path.clone(), *bits, wanted.clone()),
            Self::Entries(path, names, ..) => Question::Entries(path.clone(), names.clone()),
            Self::Deletion(path) | Self::Replacement(path, _) => Question::Tree(path.clone()),
        }
    }
}

/// The parts of an answer put together.
#[derive(Default)]
struct Collected {
    lines: Vec<Line>,
    buckets: Option<(u8, Vec<[u8; 8]>)>,
    entries: Vec<Listed>,
    tree: Vec<(RelPath, Kind, bool)>,
    gone: bool,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        view: &'a View,
        snapshot: &'a Snapshot,
        delete: bool,
        monitor: &'a dyn Monitor,
    ) -> Self {
        Self {
            view,
            snapshot,
            delete,
            monitor,
            questions: VecDeque::from([Pending::Lines(RelPath::root())]),
            drafts: Vec::new(),
            deletions: BTreeMap::new(),
            implied: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Asks until nothing is open, and makes the plan.
    ///
    /// # Errors
    /// When the connection fails, or the parts make no plan.
    pub(crate) fn plan(
        mut self,
        outgoing: &mut Outgoing,
        control: &mut Incoming,
    ) -> Result<(Plan, Vec<Problem>), SessionError> {
        self.monitor.phase(Phase::Compare);
        while !self.questions.is_empty() {
            let batch = self.batch();
            outgoing.send(CONTROL, Message::Ask(batch.iter().map(Pending::question).collect()))?;
            // This end's listings are made while the other end makes its own.
            let listings: Vec<_> = batch
                .par_iter()
                .map(|pending| match pending {
                    Pending::Lines(path) => Some(list(self.view, self.snapshot, path)),
                    _ => None,
                })
                .collect();
            for (pending, listing) in batch.into_iter().zip(listings) {
                let collected = self.collect(control)?;
                self.take(pending, listing, collected);
            }
        }
        let plan = self
            .finish()
            .map_err(|e| SessionError::Fatal { operation: "make the plan", reason: e.to_string() })?;
        Ok((plan, self.problems))
    }

    /// The next questions, as many as fit a frame.
    fn batch(&mut self) -> Vec<Pending> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(pending) = self.questions.pop_front() {
            bytes += pending.encoded_bytes();
            if !batch.is_empty() && (bytes > ASK_BYTES || batch.len() == QUESTIONS_AT_ONCE) {
                self.questions.push_front(pending);
                break;
            }
            batch.push(pending);
        }
        batch
    }

    fn collect(&self, control: &mut Incoming) -> Result<Collected, SessionError> {
        let mut collected = Collected::default();
        loop {
            let (answer, more) = match control.receive(self.monitor)? {
                Message::Answer(answer, more) => (answer, more),
                other => return Err(super::unexpected(other)),
            };
            match answer {
                Answer::Lines(lines) => collected.lines.extend(lines),
                Answer::Buckets(bits, digests) => {
                    collected.buckets.get_or_insert((bits, Vec::new())).1.extend(digests);
                }
                Answer::Entries(entries) => collected.entries.extend(entries),
                Answer::Tree(paths) => collected.tree.extend(paths),
                Answer::Gone => collected.gone = true,
            }
            let tree = collected.tree.len() + collected.lines.len() + collected.entries.len();
            if tree > ANSWER_LIMIT {
                return Err(WireError::Protocol("an answer without end".to_owned()).into());
            }
            if !more {
                return Ok(collected);
            }
        }
    }

    fn take(&mut self, pending: Pending, listing: Option<rustix::io::Result<Listing>>, answer: Collected) {
        match pending {
            Pending::Lines(path) => match listing.unwrap_or_else(|| Ok(Listing::default())) {
                Ok(_) if answer.gone => self.problems.push(Problem::new(
                    &path,
                    Operation::List,
                    "the directory is gone or unreadable on the standby",
                )),
                Ok(listing) => self.lines(&path, listing, answer),
                // Gone since it was scanned: the next run will see its parent without it.
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => {
                    self.problems.push(Problem::new(&path, Operation::List, std::io::Error::from(error)));
                }
            },
            Pending::Buckets(path, _, _, listing) => {
                if answer.gone {
                    let reason = "the directory is gone or unreadable on the standby";
                    self.problems.push(Problem::new(&path, Operation::List, reason));
                } else {
                    self.compare(&path, listing, &answer.lines, false);
                }
            }
            Pending::Entries(path, _, mine, keep) => self.entries(&path, mine, &keep, answer.entries),
            Pending::Deletion(path) => self.delete_tree(&path, answer.tree),
            Pending::Replacement(path, named) => self.replace_tree(&path, &named, answer.tree),
        }
    }

    fn lines(&mut self, path: &RelPath, mut listing: Listing, answer: Collected) {
        let Some((bits, theirs)) = answer.buckets else {
            return self.compare(path, listing, &answer.lines, true);
        };
        let mine = bucket_digests(&listing.lines(), bits);
        let wanted: Vec<u32> =
            (0..).zip(mine.iter().zip(&theirs)).filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect();
        self.problems.append(&mut listing.problems);
        if theirs.len() != mine.len() {
            let reason = "the standby described the directory wrongly";
            return self.problems.push(Problem::new(path, Operation::List, reason));
        }
        if wanted.is_empty() {
            return self.ask_for_all(path, listing);
        }
        for wanted in wanted.chunks(BUCKETS_PER_QUESTION).rev() {
            let part = take_buckets(&mut listing, bits, wanted);
            self.questions.push_back(Pending::Buckets(path.clone(), bits, wanted.to_vec(), part));
        }
    }

    /// Holds this end's rows against the standby's lines. `whole` says that they are all there are.
    fn compare(&mut self, path: &RelPath, mut listing: Listing, standby: &[Line], whole: bool) {
        self.problems.append(&mut listing.problems);
        let source = listing.lines();
        let verdicts = compare_lines(&source, standby);
        if verdicts.is_empty() && whole && !standby.is_empty() {
            return self.ask_for_all(path, listing);
        }
        let mut wanted: Vec<[u8; 8]> = Vec::new();
        let mut differing: Vec<usize> = Vec::new();
        for verdict in verdicts {
            match verdict {
                Verdict::SourceOnly(index) => {
                    if let Some(named) = listing.rows[index].named.take() {
                        self.create(&path.join(named.name.to_bytes()), named);
                    }
                }
                Verdict::StandbyOnly(index) => {
                    let name = standby[index].name;
                    if self.delete && !listing.others.contains(&u64::from_be_bytes(name)) {
                        wanted.push(name);
                    }
                }
                // It cannot be read here; what the standby has of it stays.
                Verdict::Differs(mine, _) if listing.rows[mine].named.is_none() => {}
                Verdict::Differs(mine, theirs) => {
                    if let (Some(named), true) =
                        (&listing.rows[mine].named, source[mine].below != standby[theirs].below)
                    {
                        self.descend(path, named, &source[mine], &standby[theirs]);
                    }
                    wanted.push(source[mine].name);
                    differing.push(mine);
                }
                Verdict::BelowDiffers(mine, theirs) => {
                    if let Some(named) = &listing.rows[mine].named {
                        self.descend(path, named, &source[mine], &standby[theirs]);
                    }
                }
            }
        }
        let keep = keep(&listing);
        let mut mine = named_rows(listing, |index| differing.binary_search(&index).is_ok());
        for names in wanted.chunks(NAMES_PER_QUESTION) {
            let asked = |name: &[u8]| names.contains(&hash_name(name).to_be_bytes());
            let mine = mine.extract_if(|name, _| asked(name)).collect();
            self.questions.push_back(Pending::Entries(path.clone(), names.to_vec(), mine, keep.clone()));
        }
    }

    /// The directory differed when it was scanned and in no line now: either it changed back, or truncated digests
    /// collide. Full entries tell.
    fn ask_for_all(&mut self, path: &RelPath, listing: Listing) {
        let keep = keep(&listing);
        let mine = named_rows(listing, |_| true);
        self.questions.push_back(Pending::Entries(path.clone(), Vec::new(), mine, keep));
    }

    fn descend(&mut self, path: &RelPath, named: &Named, mine: &Line, theirs: &Line) {
        match (mine.below, theirs.below) {
            (Some(_), Some(_)) => self.questions.push_back(Pending::Lines(path.join(named.name.to_bytes()))),
            (Some(_), None) if mine.line == theirs.line => {
                self.not_entered(&path.join(named.name.to_bytes()));
            }
            _ => {}
        }
    }

    fn not_entered(&mut self, path: &RelPath) {
        let reason = "on the standby this directory is another filesystem or cannot be listed; nothing below it was compared";
        self.problems.push(Problem::new(path, Operation::Protect, reason));
    }

    fn entries(
        &mut self,
        path: &RelPath,
        mut mine: HashMap<Vec<u8>, Named>,
        keep: &Keep,
        theirs: Vec<Listed>,
    ) {
        for listed in theirs {
            let child = if listed.name.is_empty() { path.clone() } else { path.join(&listed.name) };
            match mine.remove(&listed.name) {
                Some(named) => self.merge(&child, named, &listed),
                None if keep.contains(&hash_name(&listed.name)) => {}
                None if !self.delete || !listed.in_scope || listed.name.is_empty() => {}
                None if listed.entered => self.questions.push_back(Pending::Deletion(child)),
                None if listed.entry.kind == Kind::Directory => {}
                None => {
                    self.deletions.insert(child, listed.entry.kind);
                }
            }
        }
        for name in mine.into_keys().filter(|name| !name.is_empty()) {
            let reason = "it changed or cannot be read on the standby; the next run settles it";
            self.problems.push(Problem::new(&path.join(&name), Operation::ReadMetadata, reason));
        }
    }

    fn merge(&mut self, path: &RelPath, named: Named, listed: &Listed) {
        let same_kind = named.entry.kind == listed.entry.kind;
        if named.scope != Scope::In || listed.scope() != Scope::In {
            if !same_kind {
                let reason = format!("it is out of scope and a {} on the standby", listed.entry.kind.word());
                self.problems.push(Problem::new(path, Operation::Protect, reason));
            } else if named.below.is_some() && !listed.entered {
                self.not_entered(path);
            }
            return;
        }
        if !same_kind {
            if listed.entry.kind == Kind::Directory {
                self.questions.push_back(Pending::Replacement(path.clone(), Box::new(named)));
            } else {
                self.replace(path, &named, listed.entry.kind);
            }
            return;
        }
        let Some(entry) = self.full_entry(path, &named) else { return };
        let attributes = entry.differences(&listed.entry);
        if !attributes.is_empty() {
            let standby =
                StandbyInode { inode: listed.inode, links: listed.links, group: listed.entry.links };
            self.draft(path.clone(), Change::Update(attributes), entry, Some(standby));
        }
        if named.below.is_some() && !listed.entered {
            self.not_entered(path);
        }
    }

    /// Reads again what will be in the plan, with everything that only an open file shows.
    fn full_entry(&mut self, path: &RelPath, named: &Named) -> Option<Entry> {
        let reread = match path.parent() {
            None => self.view.read_root_in_full(),
            Some(parent) => self
                .view
                .root
                .hold_directory(&parent)
                .and_then(|directory| self.view.read_again(&directory, &named.name, named.auth_set)),
        };
        match reread {
            Ok((entry, _)) if entry.kind != named.entry.kind => {
                let reason = "it became something else while it was compared; the next run settles it";
                self.problems.push(Problem::new(path, Operation::ReadMetadata, reason));
                None
            }
            Ok((mut entry, inode)) => {
                entry.links = links_of(self.snapshot, entry.kind, named.scope, &inode);
                Some(entry)
            }
            // Vanished: the next run will see it gone.
            Err(rustix::io::Errno::NOENT) => None,
            Err(error) => {
                self.problems.push(Problem::new(path, Operation::ReadMetadata, std::io::Error::from(error)));
                None
            }
        }
    }

    fn draft(&mut self, path: RelPath, change: Change, mut entry: Entry, standby: Option<StandbyInode>) {
        // The digest served the comparison; what is sent is digested as it is read.
        entry.content = None;
        self.drafts.push(Draft { item: Item { path, change, entry, link_to: None }, standby });
    }

    fn create(&mut self, path: &RelPath, named: Named) {
        if named.scope == Scope::Implied {
            self.implied.insert(path.clone(), named.entry);
        } else if let Some(entry) = self.full_entry(path, &named) {
            self.draft(path.clone(), Change::Create, entry, None);
        }
        if named.below.is_some() {
            self.create_below(path);
        }
    }

    /// Everything below a directory that the standby does not have.
    fn create_below(&mut self, path: &RelPath) {
        let mut pending = vec![path.clone()];
        while let Some(directory) = pending.pop() {
            let mut found = Vec::new();
            let listed = read(self.view, &directory, Detail::Full, &|_| true, &mut |seen| match seen {
                Seen::Named(named) => found.push(*named),
                Seen::Unreadable(_, problem) => self.problems.push(problem),
                Seen::Out(..) | Seen::Leftover(_) => {}
            });
            if let Err(error) = listed {
                self.problems.push(Problem::new(&directory, Operation::List, std::io::Error::from(error)));
            }
            for named in found {
                let path = directory.join(named.name.to_bytes());
                if named.below.is_some() {
                    pending.push(path.clone());
                }
                let mut entry = named.entry;
                entry.links = links_of(self.snapshot, entry.kind, named.scope, &named.inode);
                if named.scope == Scope::Implied {
                    self.implied.insert(path, entry);
                } else {
                    self.draft(path, Change::Create, entry, None);
                }
            }
        }
    }

    fn replace(&mut self, path: &RelPath, named: &Named, was: Kind) {
        let Some(entry) = self.full_entry(path, named) else { return };
        self.draft(path.clone(), Change::Replace(was), entry, None);
        if named.below.is_some() {
            self.create_below(path);
        }
    }

    fn delete_tree(&mut self, path: &RelPath, tree: Vec<(RelPath, Kind, bool)>) {
        for (child, kind, may_go) in tree {
            if may_go {
                self.deletions.insert(child, kind);
            } else if child == *path {
                self.blocked(
                    path,
                    "something in it is out of scope or cannot be read, so the directory stays",
                );
            }
        }
    }

    fn replace_tree(&mut self, path: &RelPath, named: &Named, tree: Vec<(RelPath, Kind, bool)>) {
        if tree.iter().any(|(.., may_go)| !may_go) {
            return self
                .blocked(path, "the directory on the standby holds something out of scope, so it stays");
        }
        if !self.delete && tree.len() > 1 {
            return self
                .blocked(path, "the directory on the standby is not empty; with --delete it makes way");
        }
        let Some(entry) = self.full_entry(path, named) else { return };
        self.draft(path.clone(), Change::Replace(Kind::Directory), entry, None);
        self.deletions.extend(
            tree.into_iter().filter(|(child, ..)| child != path).map(|(child, kind, _)| (child, kind)),
        );
    }

    fn blocked(&mut self, path: &RelPath, reason: &str) {
        self.problems.push(Problem::new(path, Operation::Protect, reason));
    }

    /// Adds the rest of the auth set when any of it is planned: the files only make sense together, and those that
    /// looked equal may have changed since.
    fn complete_auth_set(&mut self) {
        let rules = &self.view.rules;
        let is_auth = |path: &RelPath| rules.decide(path, false).auth_set;
        if !self.drafts.iter().any(|draft| draft.item.needs_content() && is_auth(&draft.item.path)) {
            return;
        }
        let set: Vec<RelPath> = rules
            .rules()
            .filter(|rule| rule.auth_set)
            .filter_map(|rule| RelPath::from_absolute(&rule.pattern).ok())
            .filter(|path| is_auth(path) && rules.decide(path, false).scope == Scope::In)
            .collect();
        for path in set {
            let (Some(parent), Some(name)) = (path.parent(), path.name()) else { continue };
            let Ok(name) = std::ffi::CString::new(name) else { continue };
            let read =
                self.view.root.hold_directory(&parent).and_then(|at| self.view.read_again(&at, &name, false));
            if let Some(draft) = self.drafts.iter_mut().find(|draft| draft.item.path == path) {
                if let Change::Update(attributes) = draft.item.change {
                    draft.item.change = Change::Update(attributes | Attributes::CONTENT);
                }
            } else if let Ok((entry, _)) = read
                && entry.kind == Kind::File
            {
                self.draft(path, Change::Update(Attributes::CONTENT), entry, None);
            }
        }
    }

    fn finish(&mut self) -> Result<Plan, PlanError> {
        self.complete_auth_set();
        let mut needed: BTreeMap<RelPath, Entry> = BTreeMap::new();
        for draft in &self.drafts {
            let mut at = draft.item.path.parent();
            while let Some(path) = at {
                let Some(entry) = self.implied.get(&path).filter(|_| !needed.contains_key(&path)) else {
                    break;
                };
                at = path.parent();
                needed.insert(path, entry.clone());
            }
        }
        for (path, entry) in needed {
            self.draft(path, Change::Create, entry, None);
        }
        let mut drafts = std::mem::take(&mut self.drafts);
        drafts.sort_by(|a, b| a.item.path.cmp(&b.item.path));
        drafts.dedup_by(|later, first| later.item.path == first.item.path);
        let mut plan = Plan::default();
        for item in resolve_links(drafts) {
            plan.push(&item)?;
        }
        let deletions = std::mem::take(&mut self.deletions);
        let unread = |problem: &Problem| {
            matches!(problem.operation, Operation::List | Operation::Read | Operation::ReadMetadata)
        };
        if !deletions.is_empty() && self.snapshot.problems.iter().chain(&self.problems).any(unread) {
            // What could not be read may be where something that is gone went to.
            let reason =
                format!("{} deletions were left out, because not everything could be read", deletions.len());
            self.problems.push(Problem::new(&RelPath::root(), Operation::Delete, reason));
            return Ok(plan);
        }
        for (path, kind) in deletions.into_iter().rev() {
            let entry = Entry::new(kind);
            plan.push(&Item { path, change: Change::Delete(kind), entry, link_to: None })?;
        }
        Ok(plan)
    }
}

/// The names of a listing that must not be taken for missing.
fn keep(listing: &Listing) -> Keep {
    let unreadable = listing.rows.iter().filter(|row| row.named.is_none());
    unreadable
        .map(|row| NameHash::from_be_bytes(row.line.name))
        .chain(listing.others.iter().copied())
        .collect()
}

/// The readable rows for which `keep` holds, by name.
fn named_rows(listing: Listing, keep: impl Fn(usize) -> bool) -> HashMap<Vec<u8>, Named> {
    let kept = listing.rows.into_iter().enumerate().filter(|(index, _)| keep(*index));
    kept.filter_map(|(_, row)| row.named).map(|named| (named.name.to_bytes().to_vec(), named)).collect()
}

/// Whether a file of this item goes through the delta protocol: both ends must say the same.
pub(crate) fn is_delta_item(item: &Item, delta: bool) -> bool {
    /// A shorter file is sent whole: its signature would cost a round trip and a good part of its length.
    const DELTA_FROM_BYTES: u64 = 16 * 1024;
    let update =
        matches!(item.change, Change::Update(attributes) if attributes.contains(Attributes::CONTENT));
    delta && update && item.needs_content() && item.entry.size_bytes >= DELTA_FROM_BYTES
}
