//! What follows from the standby's answers: what to ask next, and what has to change.
//!
//! Why apart: each answer is judged by itself, from the scan and the source as it is now, so that many are judged at
//! the same time. What can go wrong: something unreadable on either end. It is never planned to be deleted or created,
//! and a problem says why.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rayon::prelude::*;

use crate::plan::{Change, Draft, Drafts, Item, Line, Listed, StandbyInode, Verdict};
use crate::plan::{bucket_digests, bucket_of, compare_lines};
use crate::problem::{Operation, Problem};
use crate::rules::Scope;
use crate::scan::{Detail, Named, Seen, Snapshot, View};
use crate::session::listing::{lines, links_of, pick, read};
use crate::session::planner::Collected;
use crate::tree::{Entry, Kind, NameHash, NameKey, RelPath};
use crate::wire::{Extra, Question};

/// How many buckets one question asks for at most.
const BUCKETS_PER_QUESTION: usize = 32 * 1024;

/// How many names one question asks for at most, so that it fits a frame.
const NAMES_PER_QUESTION: usize = 16 * 1024;

/// Hashes of names that are there on the source but out of scope or unreadable: never to be taken for missing.
type Keep = Arc<HashSet<NameHash>>;

/// A name on the source, as it waits for what the standby has there; encoded, because there may be a great many.
pub(super) struct Mine {
    scope: Scope,
    entered: bool,
    entry: Vec<u8>,
}

impl Mine {
    fn entry(&self) -> Option<Entry> {
        postcard::from_bytes(&self.entry).ok()
    }
}

/// A question, and what its answer is to be held against.
pub(super) enum Pending {
    Lines(RelPath),
    /// The source's lines in these buckets.
    Buckets(RelPath, u8, Vec<u32>, Vec<Line>),
    Entries(RelPath, Vec<[u8; 8]>, HashMap<Vec<u8>, Mine>, Keep),
    /// A directory that goes away.
    Deletion(RelPath),
    /// A directory that makes way for something else.
    Replacement(RelPath, Mine),
}

impl Pending {
    /// About how long its question is on the wire.
    pub(super) fn encoded_bytes(&self) -> usize {
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

    pub(super) fn question(&self) -> Question {
        match self {
            Self::Lines(path) => Question::Lines(path.clone()),
            Self::Buckets(path, bits, wanted, _) => Question::Buckets(path.clone(), *bits, wanted.clone()),
            Self::Entries(path, names, ..) => Question::Entries(path.clone(), names.clone()),
            Self::Deletion(path) | Self::Replacement(path, _) => Question::Tree(path.clone()),
        }
    }
}

/// What has been found so far.
#[derive(Default)]
pub(super) struct Found {
    pub(super) questions: Vec<Pending>,
    pub(super) drafts: Drafts,
    /// Directories out of scope themselves that are missing on the standby: made only when something is in them.
    pub(super) implied: BTreeMap<RelPath, Entry>,
    pub(super) problems: Vec<Problem>,
}

impl Found {
    pub(super) fn append(&mut self, mut other: Self) {
        self.questions.append(&mut other.questions);
        self.drafts.append(other.drafts);
        self.implied.append(&mut other.implied);
        self.problems.append(&mut other.problems);
    }

    fn problem(&mut self, path: &RelPath, operation: Operation, reason: impl std::fmt::Display) {
        self.problems.push(Problem::new(path, operation, reason));
    }

    fn draft(&mut self, path: RelPath, change: Change, mut entry: Entry, standby: Option<StandbyInode>) {
        // The digest served the comparison; what is sent is digested as it is read.
        entry.content = None;
        let shown = path.clone();
        let item = Item { path, change, entry, link_to: None, moved_from: None };
        if let Err(error) = self.drafts.push(Draft { item, standby }) {
            self.problem(&shown, Operation::ReadMetadata, error);
        }
    }

    fn not_entered(&mut self, path: &RelPath) {
        let reason = "on the standby this directory is another filesystem or cannot be listed; nothing below it was compared";
        self.problem(path, Operation::Protect, reason);
    }
}

/// Judges answers.
pub(super) struct Differ<'a> {
    pub(super) view: &'a View,
    pub(super) snapshot: &'a Snapshot,
    pub(super) delete: bool,
}

impl Differ<'_> {
    /// What follows from one answer.
    pub(super) fn take(&self, pending: Pending, answer: Collected) -> Found {
        let mut found = Found::default();
        let unreadable = "the directory is gone or unreadable on the standby";
        match pending {
            Pending::Lines(path) if answer.gone => found.problem(&path, Operation::List, unreadable),
            Pending::Lines(path) => match lines(self.view, self.snapshot, &path) {
                Ok(mine) => self.lines(&path, &mine, &answer, &mut found),
                // Gone since it was scanned: the next run will see its parent without it.
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => found.problem(&path, Operation::List, std::io::Error::from(error)),
            },
            Pending::Buckets(path, ..) if answer.gone => found.problem(&path, Operation::List, unreadable),
            Pending::Buckets(path, _, _, mine) => {
                self.compare(&path, &mine, &answer.lines, false, &mut found);
            }
            Pending::Entries(path, _, mine, keep) => {
                self.entries(&path, mine, &keep, answer.entries, &mut found);
            }
            Pending::Deletion(path) => delete_tree(&path, answer.tree, &mut found),
            Pending::Replacement(path, mine) => self.replace_tree(&path, &mine, answer.tree, &mut found),
        }
        found
    }

    fn lines(&self, path: &RelPath, mine: &[Line], answer: &Collected, found: &mut Found) {
        let Some((bits, theirs)) = &answer.buckets else {
            return self.compare(path, mine, &answer.lines, true, found);
        };
        let bits = *bits;
        let digests = bucket_digests(mine, bits);
        if theirs.len() != digests.len() {
            return found.problem(path, Operation::List, "the standby described the directory wrongly");
        }
        let wanted: Vec<u32> =
            (0..).zip(digests.iter().zip(theirs)).filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect();
        if wanted.is_empty() {
            return self.ask_for_all(path, found);
        }
        for wanted in wanted.chunks(BUCKETS_PER_QUESTION) {
            let is_wanted = |line: &&Line| wanted.binary_search(&bucket_of(line, bits)).is_ok();
            let part = mine.iter().filter(is_wanted).copied().collect();
            found.questions.push(Pending::Buckets(path.clone(), bits, wanted.to_vec(), part));
        }
    }

    /// Holds the source's lines against the standby's. `whole` says that they are all there are.
    fn compare(&self, path: &RelPath, source: &[Line], standby: &[Line], whole: bool, found: &mut Found) {
        let verdicts = compare_lines(source, standby);
        if verdicts.is_empty() && whole && !standby.is_empty() {
            return self.ask_for_all(path, found);
        }
        let of = |verdict: &Verdict| match *verdict {
            Verdict::SourceOnly(mine) => (Some(source[mine]), None),
            Verdict::StandbyOnly(theirs) => (None, Some(standby[theirs])),
            Verdict::Differs(mine, theirs) | Verdict::BelowDiffers(mine, theirs) => {
                (Some(source[mine]), Some(standby[theirs]))
            }
        };
        let name_of = |verdict: &Verdict| {
            let (mine, theirs) = of(verdict);
            NameHash::from_be_bytes(mine.or(theirs).map_or([0; 8], |line| line.name))
        };
        // The lines are in the order of their names, so the verdicts are as well.
        let find = |name: NameHash| verdicts.binary_search_by_key(&name, name_of).ok();
        let mut gone: Vec<NameHash> = verdicts
            .iter()
            .filter(|verdict| self.delete && matches!(verdict, Verdict::StandbyOnly(_)))
            .map(name_of)
            .collect();
        let mut asked: Vec<(NameHash, Vec<u8>, Mine)> = Vec::new();
        let mut keep = HashSet::new();
        let picked = pick(self.view, path, &|name| find(name).is_some(), &mut |seen| match seen {
            Seen::Named(named) => {
                let name = self.view.names.hash(named.name.to_bytes());
                let child = child_of(path, named.name.to_bytes());
                match find(name).map(|index| of(&verdicts[index])) {
                    Some((Some(_), None)) => self.create(child, named, found),
                    Some((Some(source), Some(standby))) => {
                        if source.below != standby.below {
                            match (source.below, standby.below) {
                                (Some(_), Some(_)) => found.questions.push(Pending::Lines(child)),
                                (Some(_), None) if source.line == standby.line => found.not_entered(&child),
                                _ => {}
                            }
                        }
                        if source.line != standby.line {
                            asked.push((name, named.name.to_bytes().to_vec(), self.held(named)));
                        }
                    }
                    // It appeared since the scan; the next run compares it.
                    _ => {
                        keep.insert(name);
                    }
                }
            }
            other => left_out(other, self.view.names, &mut keep, found),
        });
        match picked {
            Ok(()) => {}
            Err(rustix::io::Errno::NOENT) => return,
            Err(error) => return found.problem(path, Operation::List, std::io::Error::from(error)),
        }
        gone.retain(|name| !keep.contains(name));
        let keep = Arc::new(keep);
        for names in gone.chunks(NAMES_PER_QUESTION) {
            let names = names.iter().map(|name| name.to_be_bytes()).collect();
            found.questions.push(Pending::Entries(path.clone(), names, HashMap::new(), Arc::clone(&keep)));
        }
        while !asked.is_empty() {
            let part = asked.split_off(asked.len().saturating_sub(NAMES_PER_QUESTION));
            let mut names: Vec<_> = part.iter().map(|(name, ..)| name.to_be_bytes()).collect();
            names.sort_unstable();
            names.dedup();
            let mine = part.into_iter().map(|(_, name, mine)| (name, mine)).collect();
            found.questions.push(Pending::Entries(path.clone(), names, mine, Arc::clone(&keep)));
        }
    }

    fn held(&self, named: Named<'_>) -> Mine {
        let (scope, entered) = (named.scope, named.below.is_some());
        // Encoding into memory cannot fail; an empty one would be taken for a name that vanished.
        let entry = postcard::to_allocvec(&self.with_links(named)).unwrap_or_default();
        Mine { scope, entered, entry }
    }

    /// The directory differed when it was scanned and in no line now: either it changed back, or truncated digests
    /// collide. Full entries tell.
    fn ask_for_all(&self, path: &RelPath, found: &mut Found) {
        let (mut mine, mut keep) = (HashMap::new(), HashSet::new());
        let picked = pick(self.view, path, &|_| true, &mut |seen| match seen {
            Seen::Named(named) => {
                mine.insert(named.name.to_bytes().to_vec(), self.held(named));
            }
            other => left_out(other, self.view.names, &mut keep, found),
        });
        match picked {
            Ok(()) => {
                found.questions.push(Pending::Entries(path.clone(), Vec::new(), mine, Arc::new(keep)));
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => found.problem(path, Operation::List, std::io::Error::from(error)),
        }
    }

    fn entries(
        &self,
        path: &RelPath,
        mut mine: HashMap<Vec<u8>, Mine>,
        keep: &HashSet<NameHash>,
        theirs: Vec<Listed>,
        found: &mut Found,
    ) {
        for listed in theirs {
            let child = child_of(path, &listed.name);
            match mine.remove(&listed.name) {
                Some(mine) => self.merge(&child, mine, &listed, found),
                None if keep.contains(&self.view.names.hash(&listed.name)) => {}
                None if !self.delete || !listed.in_scope || listed.name.is_empty() => {}
                None if listed.entered => found.questions.push(Pending::Deletion(child)),
                None if listed.entry.kind == Kind::Directory => {}
                // It has what is the standby's own; production never had that.
                None if self.view.rules.substitution(&child).is_some() => {}
                None => {
                    let movable = listed.entry.kind == Kind::File && listed.links == 1;
                    let content = movable.then_some((listed.entry.size_bytes, listed.entry.mtime));
                    found.drafts.delete(child, (listed.entry.kind, content));
                }
            }
        }
        for name in mine.into_keys() {
            let reason = "it changed or cannot be read on the standby; the next run settles it";
            found.problem(&child_of(path, &name), Operation::ReadMetadata, reason);
        }
    }

    fn merge(&self, path: &RelPath, mine: Mine, listed: &Listed, found: &mut Found) {
        let Some(entry) = mine.entry() else { return };
        let same_kind = entry.kind == listed.entry.kind;
        if mine.scope != Scope::In || listed.scope() != Scope::In {
            if !same_kind {
                let reason = format!("it is out of scope and a {} on the standby", listed.entry.kind.word());
                found.problem(path, Operation::Protect, reason);
            } else if mine.entered && !listed.entered {
                found.not_entered(path);
            }
            return;
        }
        if !same_kind && self.view.rules.substitution(path).is_some() {
            let (here, there) = (entry.kind.word(), listed.entry.kind.word());
            let reason = format!(
                "it is a {here} on the source and a {there} on the standby, which keeps what is its own in it; make it \
                 the same kind on both"
            );
            return found.problem(path, Operation::Protect, reason);
        }
        if !same_kind {
            if listed.entry.kind == Kind::Directory {
                found.questions.push(Pending::Replacement(path.clone(), mine));
            } else {
                found.draft(path.clone(), Change::Replace(listed.entry.kind), entry, None);
                if mine.entered {
                    self.create_below(path.clone(), found);
                }
            }
            return;
        }
        let attributes = entry.differences(&listed.entry);
        if !attributes.is_empty() {
            let standby =
                StandbyInode { inode: listed.inode, links: listed.links, group: listed.entry.links };
            found.draft(path.clone(), Change::Update(attributes), entry, Some(standby));
        }
        if mine.entered && !listed.entered {
            found.not_entered(path);
        }
    }

    fn with_links(&self, named: Named<'_>) -> Entry {
        let links = links_of(self.snapshot, named.entry.kind, named.scope, &named.inode);
        Entry { links, ..named.entry }
    }

    fn create(&self, path: RelPath, named: Named<'_>, found: &mut Found) {
        let entered = named.below.is_some();
        if named.scope == Scope::Implied {
            found.implied.insert(path.clone(), named.entry);
        } else {
            found.draft(path.clone(), Change::Create, self.with_links(named), None);
        }
        if entered {
            self.create_below(path, found);
        }
    }

    /// Everything below a directory that the standby does not have, level by level.
    fn create_below(&self, path: RelPath, found: &mut Found) {
        let mut level = vec![path];
        while !level.is_empty() {
            let made: Vec<(Found, Vec<RelPath>)> =
                level.par_iter().map(|directory| self.create_in(directory)).collect();
            level.clear();
            for (part, mut entered) in made {
                found.append(part);
                level.append(&mut entered);
            }
        }
    }

    /// Everything in one such directory, and which directories in it are entered.
    fn create_in(&self, directory: &RelPath) -> (Found, Vec<RelPath>) {
        let (mut found, mut entered) = (Found::default(), Vec::new());
        let listed = read(self.view, directory, Detail::Full, &|_| true, &mut |seen| match seen {
            Seen::Named(named) => {
                let path = directory.join(named.name.to_bytes());
                if named.below.is_some() {
                    entered.push(path.clone());
                }
                if named.scope == Scope::Implied {
                    found.implied.insert(path, named.entry);
                } else {
                    found.draft(path, Change::Create, self.with_links(named), None);
                }
            }
            Seen::Unreadable(_, problem) => found.problems.push(problem),
            Seen::Out(..) | Seen::Leftover(_) => {}
        });
        if let Err(error) = listed {
            found.problem(directory, Operation::List, std::io::Error::from(error));
        }
        (found, entered)
    }

    fn replace_tree(&self, path: &RelPath, mine: &Mine, tree: Vec<Extra>, found: &mut Found) {
        let blocked = if tree.iter().any(|one| !one.may_go) {
            "the directory on the standby holds something out of scope, so it stays"
        } else if !self.delete && tree.len() > 1 {
            "the directory on the standby is not empty; with --delete it makes way"
        } else {
            let Some(entry) = mine.entry() else { return };
            found.draft(path.clone(), Change::Replace(Kind::Directory), entry, None);
            for one in tree.into_iter().filter(|one| one.path != *path) {
                // It makes way before anything is moved.
                found.drafts.delete(one.path, (one.kind, None));
            }
            return;
        };
        found.problem(path, Operation::Protect, blocked);
    }
}

/// The path of a name in the directory at `path`, which the root has under the empty name, too.
fn child_of(path: &RelPath, name: &[u8]) -> RelPath {
    if name.is_empty() { path.clone() } else { path.join(name) }
}

/// Notes a name that is there and takes no part.
fn left_out(seen: Seen<'_>, names: NameKey, keep: &mut HashSet<NameHash>, found: &mut Found) {
    match seen {
        Seen::Unreadable(name, problem) => {
            keep.insert(names.hash(name.to_bytes()));
            found.problems.push(problem);
        }
        Seen::Out(name, _) => {
            keep.insert(names.hash(name.to_bytes()));
        }
        Seen::Named(_) | Seen::Leftover(_) => {}
    }
}

fn delete_tree(path: &RelPath, tree: Vec<Extra>, found: &mut Found) {
    for one in tree {
        if one.may_go {
            found.drafts.delete(one.path, (one.kind, one.content));
        } else if one.path == *path {
            let reason = "something in it is out of scope or cannot be read, so the directory stays";
            found.problem(path, Operation::Protect, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;
    use crate::scan::scan;
    use crate::session::listing::view_of;

    #[test]
    fn a_name_that_the_standby_does_not_answer_for_is_a_problem_the_root_too() {
        let work = tempfile::tempdir().unwrap();
        std::fs::write(work.path().join("file"), "").unwrap();
        let view = view_of(work.path());
        let snapshot = scan(&view, 0, &Silent).unwrap().unwrap();
        let differ = Differ { view: &view, snapshot: &snapshot, delete: false };
        let mut asked = Found::default();
        differ.ask_for_all(&RelPath::root(), &mut asked);
        let question = asked.questions.pop().unwrap();
        let mut silent = differ.take(question, Collected::default()).problems;
        silent.sort_by(|one, other| one.path.cmp(&other.path));
        let paths: Vec<String> = silent.iter().map(|problem| problem.path.to_string()).collect();
        assert_eq!(paths, ["/", "/file"]);
    }
}
