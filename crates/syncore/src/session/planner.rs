//! The sender's side of the comparison: asks about what differs, and makes the plan.
//!
//! Why: the plan has no side effects and is complete before anything changes. The planner descends from the root
//! into the directories whose digests differ, many questions in one message and several messages under way, so that
//! the number of round trips is that of levels, not of directories. What follows from an answer is the business of
//! `differ`. What can go wrong: an answer without end, which is cut off; and more questions under way than the other
//! end takes in, which would make both ends wait for each other.

use std::collections::{BTreeMap, VecDeque};

use rayon::prelude::*;
use rustix::io::Errno;

use crate::monitor::{Monitor, Phase};
use crate::plan::{Change, Draft, Item, Line, Listed, Plan, PlanError};
use crate::problem::{Operation, Problem};
use crate::scan::{Snapshot, View};
use crate::session::differ::{Differ, Found, Pending};
use crate::session::{SessionError, auth};
use crate::tree::{Attributes, Entry, Kind, RelPath};
use crate::wire::{Answer, CONTROL, Extra, Incoming, Message, Outgoing, WireError};

/// How many questions one message has at most; bounds what is kept for their answers.
const QUESTIONS_AT_ONCE: usize = 256;

/// How many messages of questions are under way at once. The other end takes in more than that before it answers, so
/// nobody waits to send while nobody receives.
const MESSAGES_AHEAD: usize = 6;

/// About how many bytes of questions go into one message.
const ASK_BYTES: usize = 256 * 1024;

/// How many lines, entries or paths one answer has at most: more names than that are in no directory.
const ANSWER_LIMIT: usize = 1 << 24;

/// The parts of an answer put together.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) lines: Vec<Line>,
    pub(super) buckets: Option<(u8, Vec<[u8; 8]>)>,
    pub(super) entries: Vec<Listed>,
    pub(super) tree: Vec<Extra>,
    pub(super) gone: bool,
}

/// Compares the source with the standby and makes the plan.
pub(crate) struct Planner<'a> {
    differ: Differ<'a>,
    monitor: &'a dyn Monitor,
    questions: VecDeque<Pending>,
    found: Found,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        view: &'a View,
        snapshot: &'a Snapshot,
        delete: bool,
        monitor: &'a dyn Monitor,
    ) -> Self {
        Self {
            differ: Differ { view, snapshot, delete },
            monitor,
            questions: VecDeque::from([Pending::Lines(RelPath::root())]),
            found: Found::default(),
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
        let mut asked: VecDeque<Vec<Pending>> = VecDeque::new();
        loop {
            while asked.len() < MESSAGES_AHEAD && !self.questions.is_empty() {
                let batch = self.batch();
                outgoing.send(CONTROL, Message::Ask(batch.iter().map(Pending::question).collect()))?;
                asked.push_back(batch);
            }
            let Some(batch) = asked.pop_front() else { break };
            let answers = batch.iter().map(|_| self.collect(control)).collect::<Result<Vec<_>, _>>()?;
            let differ = &self.differ;
            let found: Vec<Found> = batch
                .into_par_iter()
                .zip(answers)
                .map(|(pending, answer)| differ.take(pending, answer))
                .collect();
            for mut found in found {
                self.questions.extend(found.questions.drain(..));
                self.found.append(found);
            }
        }
        let plan = self
            .finish()
            .map_err(|e| SessionError::Fatal { operation: "make the plan", reason: e.to_string() })?;
        Ok((plan, self.found.problems))
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
                    let (first, all) = collected.buckets.get_or_insert((bits, Vec::new()));
                    all.extend(digests);
                    if *first != bits || all.len() > 1 << bits {
                        return Err(WireError::Protocol("more buckets than were announced".to_owned()).into());
                    }
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

    /// Adds the rest of the auth set when any of it is planned: the files only make sense together, and those that
    /// looked equal may have changed since.
    fn complete_auth_set(&mut self) -> Result<(), PlanError> {
        let view = self.differ.view;
        let set = auth::files(&view.rules);
        let sent = |path| self.found.drafts.find(path).is_some_and(|item| item.needs_content());
        if !set.iter().any(sent) {
            return Ok(());
        }
        for path in set {
            if self.found.drafts.add_content(&path) {
                continue;
            }
            let (Some(parent), Some(name)) = (path.parent(), path.name()) else { continue };
            let Ok(name) = std::ffi::CString::new(name) else { continue };
            let read = view.root.hold_directory(&parent).and_then(|at| view.read_again(&at, &name));
            match read {
                Ok(entry) if entry.kind == Kind::File => {
                    let change = Change::Update(Attributes::CONTENT);
                    let item = Item { path, change, entry, link_to: None, moved_from: None };
                    self.found.drafts.push(Draft { item, standby: None })?;
                }
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => {
                    let reason = std::io::Error::from(error);
                    self.found.problems.push(Problem::new(&path, Operation::ReadMetadata, reason));
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Plan, PlanError> {
        self.complete_auth_set()?;
        let mut needed: BTreeMap<RelPath, Entry> = BTreeMap::new();
        if !self.found.implied.is_empty() {
            for path in self.found.drafts.paths() {
                let mut at = path.parent();
                while let Some(path) = at {
                    let Some(entry) = self.found.implied.get(&path).filter(|_| !needed.contains_key(&path))
                    else {
                        break;
                    };
                    at = path.parent();
                    needed.insert(path, entry.clone());
                }
            }
        }
        for (path, entry) in needed {
            let item = Item { path, change: Change::Create, entry, link_to: None, moved_from: None };
            self.found.drafts.push(Draft { item, standby: None })?;
        }
        let mut drafts = std::mem::take(&mut self.found.drafts);
        let unread = |problem: &Problem| {
            matches!(problem.operation, Operation::List | Operation::Read | Operation::ReadMetadata)
        };
        if drafts.deletions() > 0
            && self.differ.snapshot.problems.iter().chain(&self.found.problems).any(unread)
        {
            // What could not be read may be where something that is gone went to.
            let reason = format!(
                "{} deletions were left out, because not everything could be read",
                drafts.deletions()
            );
            self.found.problems.push(Problem::new(&RelPath::root(), Operation::Delete, reason));
            drafts.keep_all();
        }
        drafts.into_plan()
    }
}

/// Whether a file of this item goes through the delta protocol: both ends must say the same.
pub(crate) fn is_delta_item(item: &Item, delta: bool) -> bool {
    /// A shorter file is sent whole: its signature would cost a round trip and a good part of its length.
    const DELTA_FROM_BYTES: u64 = 16 * 1024;
    let update =
        matches!(item.change, Change::Update(attributes) if attributes.contains(Attributes::CONTENT));
    delta && update && item.needs_content() && item.entry.size_bytes >= DELTA_FROM_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;
    use crate::rules::{Action, Class, Origin, Rule, RuleSet, Treatment};
    use crate::scan::scan;
    use crate::session::listing::view_of;

    #[test]
    fn a_file_of_the_auth_set_that_cannot_be_read_is_a_problem_and_one_that_is_not_there_is_none() {
        let work = tempfile::tempdir().unwrap();
        let snapshot = scan(&view_of(work.path()), 0, &Silent).unwrap().unwrap();
        // Of a process that ended and was not waited for, some files cannot be opened.
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&ended));
        let until = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(id, until).unwrap();
        let set = ["/stat", "/status", "/missing", "/status/below", "/cwd/a/behind-a-link", "/mountinfo"];
        let row = |pattern: &str| {
            let origin = Origin { file: "test".into(), line: 1 };
            let rule = Rule::new(Action::Class(Class::S), pattern, origin);
            Rule { treatment: Treatment::AuthSet, ..rule }
        };
        let rules = RuleSet::compile(set.map(row).into()).unwrap();
        let view = View { rules: rules.into(), ..view_of(format!("/proc/{}", ended.id()).as_ref()) };
        assert_eq!(auth::files(&view.rules).len(), set.len());
        let mut planner = Planner::new(&view, &snapshot, false, &Silent);
        let path = |path: &str| RelPath::new(path).unwrap();
        let entry = Entry { size_bytes: 3, ..Entry::new(Kind::File) };
        let change = Change::Create;
        let item = Item { path: path("stat"), change, entry, link_to: None, moved_from: None };
        planner.found.drafts.push(Draft { item, standby: None }).unwrap();
        planner.complete_auth_set().unwrap();
        assert!(planner.found.drafts.find(&path("status")).is_some());
        let problems: Vec<String> = planner.found.problems.iter().map(|one| one.path.to_string()).collect();
        assert_eq!(problems, ["/mountinfo"]);
        ended.wait().unwrap();
    }
}
