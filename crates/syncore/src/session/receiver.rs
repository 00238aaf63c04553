//! The receiving end of one run, whoever started it.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, StatVfsMountFlags};

use crate::apply::{self, Committer, Directories, Ledger, NamesOf, Problems};
use crate::gate::Host;
use crate::monitor::{Monitor, Phase};
use crate::plan::{Item, Line, Listed, Plan};
use crate::prepare::{Standby, own_rules};
use crate::problem::Problem;
use crate::rules::{Rule, RuleSet, Treatment};
use crate::scan::{Root, Snapshot, View, mounts_below};
use crate::session::changed_here::changed_here;
use crate::session::describe::Describer;
use crate::session::examine::{examine_here, examine_root};
use crate::session::judge::check_plan;
use crate::session::local::LocalSource;
use crate::session::lock::{RootLock, lock_root};
use crate::session::receive::{Done, Receiver};
use crate::session::send::send_problems;
use crate::session::sender::{note_all, scan_root, sorted};
use crate::session::{Report, Say, SessionError, agree, ask, last_word, radius, restore, unexpected};
use crate::tree::{Digest, Entry, Kind, NameKey, RelPath};
use crate::wire::{Answer, CONTROL, Connection, Facts, Incoming, Message, Part, Question, Start, WireError};

/// A standby root, open, locked and looked at.
pub(crate) struct Receiving {
    path: PathBuf,
    /// None where nothing is there yet: it is made when the run begins, and only if it may.
    root: Option<Arc<Root>>,
    facts: Facts,
    /// The standby's own rules, exceptions included.
    own: Vec<Rule>,
    /// What makes it a standby, if anything does.
    standby: Option<Standby>,
    dry_run: bool,
    /// Held until the run is over.
    _lock: Option<RootLock>,
}

impl Receiving {
    pub(crate) fn open(path: &Path, dry_run: bool) -> Result<Self, SessionError> {
        let path = path.to_owned();
        let root = match agree::open_root(&path, "destination") {
            Err(_) if std::fs::symlink_metadata(&path).is_err_and(|e| e.kind() == ErrorKind::NotFound) => {
                let facts = agree::facts_of_missing(&path)?;
                let own = Vec::new();
                return Ok(Self { path, root: None, facts, own, standby: None, dry_run, _lock: None });
            }
            other => Arc::new(other?),
        };
        let lock = if dry_run { None } else { Some(lock_root(&root)?) };
        let read_only =
            rustix::fs::fstatvfs(&*root).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
        if read_only && !dry_run {
            return Err(SessionError::Root {
                role: "destination",
                path: crate::tree::escape(path.as_os_str().as_bytes()),
                reason: "its filesystem is mounted read-only".to_owned(),
            });
        }
        let recovered = if dry_run { None } else { restore::ready(&root)? };
        let standby = Standby::of(&root).map_err(|error| {
            SessionError::Refused(format!("the journal of the standby's preparation cannot be read: {error}"))
        })?;
        let mut own = standby.as_ref().map(Standby::rules).unwrap_or_default();
        if apply::has_areas(&root) {
            // What is kept of runs is no part of the tree, whatever is done with it.
            own.extend(agree::areas(&mounts_below(&root)));
        }
        own.extend(own_rules(&root).map_err(SessionError::Refused)?);
        if standby.is_none() {
            agree::keep_apart(&mut own);
        }
        let told = own
            .iter()
            .filter(|rule| agree::takes_away(rule) || matches!(rule.treatment, Treatment::Substitute(_)));
        let facts = agree::facts(&root, told.cloned().collect(), standby.is_some());
        let facts = Facts { recovered, ..facts };
        Ok(Self { path, root: Some(root), facts, own, standby, dry_run, _lock: lock })
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The root, if it is there already.
    pub(crate) fn opened(&self) -> Option<Arc<Root>> {
        self.root.clone()
    }

    /// What gates want to know of this end.
    pub(crate) fn examine(&self) -> Result<Host, SessionError> {
        match &self.root {
            Some(root) => Ok(examine_root(root)),
            None => examine_here(&self.path, Part::Receiver),
        }
    }

    /// The root and its lock, made where nothing was there; none for a dry run that would make it.
    fn root(&self) -> Result<Option<Locked>, SessionError> {
        if let Some(root) = &self.root {
            return Ok(Some((Arc::clone(root), None)));
        }
        if self.dry_run {
            return Ok(None);
        }
        let made = rustix::fs::mkdirat(rustix::fs::CWD, &self.path, Mode::RWXU);
        made.map_err(|error| SessionError::Root {
            role: "destination",
            path: crate::tree::escape(self.path.as_os_str().as_bytes()),
            reason: std::io::Error::from(error).to_string(),
        })?;
        let root = Arc::new(agree::open_root(&self.path, "destination")?);
        if root.canonical_path().unwrap_or_default() != self.facts.root {
            return Err(SessionError::Refused(
                "the destination became another directory as it was made".to_owned(),
            ));
        }
        let lock = lock_root(&root)?;
        Ok(Some((root, Some(lock))))
    }

    /// Scans, describes, judges the plan, asks the initiator if that is this end, and carries the plan out.
    pub(crate) fn run(
        &self,
        connection: &mut Connection,
        start: &Start,
        source: Option<LocalSource<'_>>,
        mut say: Say<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Report, SessionError> {
        let Some((root, _lock)) = self.root()? else {
            return self.run_missing(connection, start.names, say, monitor);
        };
        if self.dry_run {
            restore::comparable(&root)?;
        }
        monitor.phase(Phase::Scan);
        let mut rules = start.rules.clone();
        // The initiator had them from here; should it have lost them, they hold all the same.
        let kept = self.facts.rules.iter().filter(|rule| agree::takes_away(rule));
        if !kept.clone().all(|rule| rules.contains(rule)) {
            rules.extend(kept.cloned());
        }
        let view = View {
            root: Arc::clone(&root),
            rules: Arc::new(RuleSet::compile(rules)?),
            boundaries: Arc::new(start.boundaries.clone()),
            checksum: start.checksum,
            slice: start.slice.clone(),
            presented: Arc::new(self.standby.as_ref().map(Standby::presented).unwrap_or_default()),
            names: start.names,
        };
        let snapshot = Arc::new(scan_root(&view, source.is_some(), monitor)?);
        let problems = Arc::new(Problems::default());
        let initiator = say.is_some();
        if initiator {
            note_all(&problems, snapshot.problems.clone(), &crate::monitor::Silent);
        } else {
            send_problems(&mut connection.outgoing, snapshot.problems.clone())?;
        }
        let Snapshot { entries, protected, .. } = *snapshot;
        connection
            .outgoing
            .send(CONTROL, Message::Scanned { digest: snapshot.digest(), entries, protected })?;
        monitor.phase(Phase::Compare);
        let mut report = Report { entries_scanned: entries, protected, ..Report::default() };
        let describer = Describer::new(&view, &snapshot, &problems);
        let described =
            describe(connection, &problems, monitor, &|questions| describer.answer_all(questions))?;
        let Some(Described { plan, entries: source_entries, tree }) = described else {
            return Ok(report);
        };
        report.tree = Some(tree);
        report.entries_scanned += source_entries;
        report.plan = (!plan.is_empty()).then(|| plan.id());
        report.totals = plan.totals();
        let own = RuleSet::compile(self.own.clone())?;
        check_plan(&view, &own, &plan)?;
        if let Some(limits) = start.limits.as_ref().filter(|_| !self.dry_run && !plan.is_empty()) {
            radius::check(&root, &snapshot, &plan, limits, start.approved.as_deref())?;
        }
        if let Some(whole) = start.whole.as_ref().filter(|_| !self.dry_run && !plan.is_empty()) {
            let read = changed_here(&root, &plan, &whole.profile);
            let found = read.map_err(|error| restore::fatal("read what is kept of earlier runs", &error))?;
            match found {
                Some((generation, paths)) if initiator => monitor.changed_here(generation, &paths),
                Some((generation, paths)) => {
                    for part in paths.chunks(PATHS_PER_MESSAGE) {
                        let message = Message::ChangedHere(generation, part.to_vec());
                        connection.outgoing.send(CONTROL, message)?;
                    }
                }
                None => {}
            }
        }
        // A dry run ends here, whatever the other end makes of it.
        if !ask(&mut say, &plan, start.whole.is_some(), monitor)? || self.dry_run {
            connection.outgoing.send(CONTROL, Message::Decision(false))?;
            report.problems = sorted(problems.take());
            return Ok(report);
        }
        let directories =
            Directories::new(Arc::clone(&root), &view.boundaries, &self.facts.mounts).map_err(|error| {
                SessionError::Fatal {
                    operation: "prepare the destination",
                    reason: std::io::Error::from(error).to_string(),
                }
            })?;
        let directories = Arc::new(directories);
        let left = match (&start.whole, &source) {
            (Some(_), None) => left_over(&root, &directories, &plan)?,
            _ => HashMap::new(),
        };
        let mut resumed: Vec<u32> = left.keys().copied().collect();
        resumed.sort_unstable();
        for part in resumed.chunks(ITEMS_PER_MESSAGE) {
            connection.outgoing.send(CONTROL, Message::Left(part.to_vec()))?;
        }
        if !plan.is_empty() {
            connection.outgoing.send(CONTROL, Message::Decision(true))?;
        }
        monitor.phase(Phase::Transfer);
        let names_of = {
            let snapshot = Arc::clone(&snapshot);
            NamesOf(Box::new(move |device, inode| {
                snapshot.links(device, inode).map_or(1, |group| group.members)
            }))
        };
        let mut committer =
            Committer::new(Arc::clone(&directories), Arc::clone(&problems), names_of, start.durable);
        if let Some(whole) = &start.whole {
            let ledger = Ledger::begin(&root, directories.tops(), whole.clone()).map_err(|error| {
                SessionError::Fatal {
                    operation: "make the place where the run is staged",
                    reason: error.to_string(),
                }
            })?;
            committer = committer.whole(ledger);
        }
        let standby = self.standby.as_ref().map(|standby| (standby, &own));
        let receiver = Receiver::new(&view, &plan, committer, start, source, standby, monitor);
        let receiver = receiver.resuming(left);
        receiver.committer.sweep(&snapshot.leftovers);
        if let Err(error) = receiver.receive(&connection.outgoing, &mut connection.lanes) {
            receiver.committer.leave_staged();
            return Err(error);
        }
        let (mut theirs, mut ended) = (Vec::new(), false);
        let mut outgoing = connection.outgoing.clone();
        let control = &mut connection.lanes[usize::from(CONTROL)];
        let mut may_commit = || match &mut say {
            Some((_, initiator)) => last_word(*initiator),
            None => {
                outgoing.send(CONTROL, Message::Staged)?;
                await_decision(control, &mut theirs, &mut ended, monitor)
            }
        };
        let done = match receiver.finish(&mut may_commit) {
            Ok(done) => done,
            Err(error) => {
                if matches!(error, SessionError::Wire(_)) {
                    receiver.committer.leave_staged();
                }
                // What is known of single paths may be why.
                let known = problems.take();
                if initiator {
                    known.iter().for_each(|problem| monitor.problem(problem));
                } else {
                    send_problems(&mut connection.outgoing, known)?;
                }
                return Err(error);
            }
        };
        let Done { literal_bytes, copied_bytes, generation } = done;
        (report.literal_bytes, report.copied_bytes, report.generation) =
            (literal_bytes, copied_bytes, generation);
        let mut mine = problems.take();
        if !initiator {
            send_problems(&mut connection.outgoing, std::mem::take(&mut mine))?;
        }
        while !ended {
            match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
                Message::Problems(more) => theirs.extend(more),
                Message::LaneEnd => ended = true,
                other => return Err(unexpected(other)),
            }
        }
        theirs.iter().for_each(|problem| monitor.problem(problem));
        mine.extend(theirs);
        connection.outgoing.send(CONTROL, Message::Finished { literal_bytes, copied_bytes, generation })?;
        report.problems = sorted(mine);
        Ok(report)
    }

    /// Makes the plan of a dry run to a root that is not there yet.
    fn run_missing(
        &self,
        connection: &mut Connection,
        names: NameKey,
        mut say: Say<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Report, SessionError> {
        let problems = Problems::default();
        connection.outgoing.send(CONTROL, Message::Scanned { digest: [0; 16], entries: 0, protected: 0 })?;
        let missing = |questions: &[Question]| {
            questions.iter().map(|q| vec![(answer_of_missing(q, names), false)]).collect()
        };
        let described = describe(connection, &problems, monitor, &missing)?;
        let Some(Described { plan, entries: entries_scanned, .. }) = described else {
            return Ok(Report::default());
        };
        ask(&mut say, &plan, false, monitor)?;
        connection.outgoing.send(CONTROL, Message::Decision(false))?;
        let id = (!plan.is_empty()).then(|| plan.id());
        let problems = sorted(problems.take());
        Ok(Report { plan: id, totals: plan.totals(), entries_scanned, problems, ..Report::default() })
    }
}

/// A root, and the lock on it where it was taken only now.
type Locked = (Arc<Root>, Option<RootLock>);

/// Below a frame, however long they are.
const PATHS_PER_MESSAGE: usize = 128;
const ITEMS_PER_MESSAGE: usize = 64 * 1024;

/// Of which items an interrupted run may have staged the content, and where it will be: a file of that length and time.
fn left_over(
    root: &Arc<Root>,
    directories: &Directories,
    plan: &Plan,
) -> Result<HashMap<u32, RelPath>, SessionError> {
    let found = apply::left_over(root, directories.tops())
        .map_err(|error| restore::fatal("look at what an interrupted run had staged", &error))?;
    if found.is_empty() {
        return Ok(HashMap::new());
    }
    let items = (0..).zip(plan.items()).filter(|(_, item)| item.needs_content() && item.entry.size_bytes > 0);
    let place = |item: &Item| found.get(&(item.entry.size_bytes, item.entry.mtime)).cloned();
    Ok(items.filter_map(|(number, item)| Some((number, place(&item)?))).collect())
}

/// How many questions are answered at once; bounds the answers that wait to be sent.
const QUESTIONS_AT_ONCE: usize = 32;

/// Answers questions, each in parts; true when more of the same answer follows.
type AnswerAll<'a> = &'a dyn Fn(&[Question]) -> Vec<Vec<(Answer, bool)>>;

/// The plan, and what the sender scanned for it.
struct Described {
    plan: Plan,
    entries: u64,
    tree: Digest,
}

/// Answers questions until the plan is there; none when there will be no run.
fn describe(
    connection: &mut Connection,
    problems: &Problems,
    monitor: &dyn Monitor,
    answer_all: AnswerAll<'_>,
) -> Result<Option<Described>, SessionError> {
    let mut plan = Plan::default();
    loop {
        match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
            Message::Ask(questions) => {
                for (answer, more) in questions.chunks(QUESTIONS_AT_ONCE).flat_map(answer_all).flatten() {
                    connection.outgoing.send(CONTROL, Message::Answer(answer, more))?;
                }
            }
            Message::PlanPart(part) => {
                plan.receive(&part).map_err(|e| WireError::Protocol(e.to_string()))?;
            }
            Message::PlanEnd { id, entries, tree } if id == plan.id() => {
                return Ok(Some(Described { plan, entries, tree }));
            }
            Message::PlanEnd { .. } => {
                return Err(WireError::Protocol("the plan did not arrive as it was sent".to_owned()).into());
            }
            Message::Problems(theirs) => note_all(problems, theirs, monitor),
            Message::Decision(false) => return Ok(None),
            other => return Err(unexpected(other)),
        }
    }
}

/// Waits for the initiator's last word before the first change; the sender may end before it comes.
fn await_decision(
    control: &mut Incoming,
    problems: &mut Vec<Problem>,
    ended: &mut bool,
    monitor: &dyn Monitor,
) -> Result<(), SessionError> {
    loop {
        match control.receive(monitor)? {
            Message::Problems(theirs) => problems.extend(theirs),
            Message::LaneEnd => *ended = true,
            Message::Decision(true) => return Ok(()),
            Message::Decision(false) => {
                return Err(SessionError::Refused("the other end decided against the commit".to_owned()));
            }
            other => return Err(unexpected(other)),
        }
    }
}

/// What a root that is about to be made would answer: it is there, and empty.
fn answer_of_missing(question: &Question, names: NameKey) -> Answer {
    let mut entry = Entry::new(Kind::Directory);
    entry.mode = 0o700;
    (entry.uid, entry.gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match question {
        Question::Lines(path) if path.is_root() => {
            Answer::Lines(vec![Line::new(names.hash(b""), &[0; 16], None, None)])
        }
        Question::Entries(path, _) if path.is_root() => {
            let name = Vec::new();
            Answer::Entries(vec![Listed { name, in_scope: true, entered: true, entry, inode: 0, links: 2 }])
        }
        _ => Answer::Gone,
    }
}
