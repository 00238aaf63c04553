//! The sending end of one run, whoever started it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::apply::Problems;
use crate::frozen::Frozen;
use crate::monitor::{Monitor, Phase};
use crate::plan::Plan;
use crate::prepare::Journal;
use crate::problem::{Operation, Problem};
use crate::rules::{RuleSet, Scope};
use crate::scan::{KEPT_LINES_BYTES, Root, Snapshot, View, scan};
use crate::session::changed_here::CHANGED_HERE_NAMED;
use crate::session::planner::Planner;
use crate::session::receiver::REFUSALS_TOLD;
use crate::session::scans::Scans;
use crate::session::send::{Transfer, send_problems};
use crate::session::{Report, Say, SessionError, agree, ask, last_word, unexpected};
use crate::wire::{CONTROL, Connection, Facts, Incoming, Message, Start};

/// Bytes of encoded plan in one message.
const PLAN_PART_BYTES: usize = 128 * 1024;

/// A source root, open and looked at.
pub(crate) struct Sender<'m> {
    root: Arc<Root>,
    facts: Facts,
    frozen: Option<&'m Frozen>,
    scans: Scans<'m>,
}

impl<'m> Sender<'m> {
    /// What is frozen of it is read in its place; what is mounted where, and where it is, is the source's own all the same.
    pub(crate) fn open(
        path: &Path,
        frozen: Option<&'m Frozen>,
        scans: Scans<'m>,
    ) -> Result<Self, SessionError> {
        let live = match frozen {
            Some(frozen) => frozen.live(),
            None => Arc::new(agree::open_root(path, "source")?),
        };
        // One that cannot be read is there all the same.
        let prepared = Journal::read(&live).map_or(true, |journal| journal.is_some());
        let mut facts = agree::facts(&live, Vec::new(), prepared);
        let root = frozen.and_then(Frozen::root).unwrap_or(live);
        facts.empty |= agree::is_empty(&root);
        // What is frozen is a mount of its own each time.
        let scans = if frozen.is_some() { Scans::new(None, true) } else { scans };
        Ok(Self { root, facts, frozen, scans })
    }

    pub(crate) fn root(&self) -> Arc<Root> {
        Arc::clone(&self.root)
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Scans, compares, plans, asks the initiator if that is this end, and sends.
    pub(crate) fn run(
        &self,
        connection: &mut Connection,
        start: Start,
        mut say: Say<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Report, SessionError> {
        monitor.phase(Phase::Scan);
        let bare = self.scans.bare(&self.facts.root, &start.rules, &start);
        let view = View {
            root: Arc::clone(&self.root),
            rules: Arc::new(RuleSet::compile(start.rules)?),
            boundaries: Arc::new(start.boundaries),
            checksum: start.checksum,
            slice: start.slice,
            presented: Arc::default(),
            names: start.names,
            bare,
        };
        let snapshot = scan_root(&view, !start.delta, monitor)?;
        self.check()?;
        let problems = Problems::default();
        snapshot.problems.iter().cloned().for_each(|problem| problems.add(problem));
        self.foreign_mounts(&view, &problems, monitor);
        let (entries, tree) = (snapshot.entries, snapshot.tree);
        let mut report = Report { entries_scanned: entries, tree: Some(tree), ..Report::default() };
        let standby_digest = loop {
            match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
                Message::Scanned { digest, entries, protected } => {
                    report.entries_scanned += entries;
                    report.protected = protected;
                    break digest;
                }
                Message::Problems(theirs) => note_all(&problems, theirs, monitor),
                other => return Err(unexpected(other)),
            }
        };
        let mut plan = Plan::default();
        if standby_digest != snapshot.digest() {
            let planner = Planner::new(&view, &snapshot, start.delete, monitor);
            let found;
            (plan, found) =
                planner.plan(&mut connection.outgoing, &mut connection.lanes[usize::from(CONTROL)])?;
            note_all(&problems, found, monitor);
        }
        report.plan = (!plan.is_empty()).then(|| plan.id());
        report.totals = plan.totals();
        let initiator = say.is_some();
        let approved = ask(&mut say, &plan, start.whole.is_some(), monitor)?;
        // Only the standby can tell what was changed on it and what it would refuse: it sees the plan of a dry run, too.
        let judged_there = start.whole.is_some() || start.limits.is_some();
        if !approved && (!judged_there || plan.is_empty()) {
            connection.outgoing.send(CONTROL, Message::Decision(false))?;
            report.problems = sorted(problems.take());
            return Ok(report);
        }
        if approved {
            monitor.phase(Phase::Transfer);
        }
        if !initiator {
            // Before the plan, so that they are part of what the initiator decides on.
            send_problems(&mut connection.outgoing, problems.take())?;
        }
        for part in plan.pieces(PLAN_PART_BYTES) {
            connection.outgoing.send(CONTROL, Message::PlanPart(part.to_vec()))?;
        }
        connection.outgoing.send(CONTROL, Message::PlanEnd { id: plan.id(), entries, tree })?;
        if !plan.is_empty() {
            let control = &mut connection.lanes[usize::from(CONTROL)];
            let left = decision(control, &plan, monitor)?.filter(|_| approved);
            let Some(left) = left else {
                report.problems = sorted(problems.take());
                return Ok(report);
            };
            if plan.items().any(|item| item.needs_content()) {
                let transfer = Transfer {
                    view: &view,
                    plan: &plan,
                    delta: start.delta,
                    in_place: start.in_place,
                    left: &left,
                    problems: &problems,
                    monitor,
                };
                transfer.run(&connection.outgoing, &mut connection.lanes)?;
            }
        }
        let mut mine = problems.take();
        if !initiator {
            send_problems(&mut connection.outgoing, std::mem::take(&mut mine))?;
        }
        connection.outgoing.send(CONTROL, Message::LaneEnd)?;
        monitor.phase(Phase::Finish);
        loop {
            match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
                Message::Problems(theirs) => {
                    theirs.iter().for_each(|problem| monitor.problem(problem));
                    mine.extend(theirs);
                }
                Message::Staged if say.is_some() => {
                    let word = say.as_mut().map_or(Ok(()), |(_, initiator)| last_word(*initiator));
                    let decided = self.check().and(word);
                    connection.outgoing.send(CONTROL, Message::Decision(decided.is_ok()))?;
                    decided?;
                }
                // An initiator that only wanted to see an empty plan.
                Message::Decision(false) => break,
                Message::Finished { literal_bytes, copied_bytes, generation } => {
                    if start.whole.is_none() {
                        self.check()?;
                    }
                    (report.literal_bytes, report.copied_bytes) = (literal_bytes, copied_bytes);
                    report.generation = generation;
                    break;
                }
                other => return Err(unexpected(other)),
            }
        }
        report.problems = sorted(mine);
        Ok(report)
    }

    /// Sees to it that what was read was right.
    fn check(&self) -> Result<(), SessionError> {
        self.frozen.map_or(Ok(()), |frozen| Ok(frozen.check()?))
    }

    /// Reports directories that hold something here but cannot be copied into, because the standby has another
    /// filesystem mounted there.
    fn foreign_mounts(&self, view: &View, problems: &Problems, monitor: &dyn Monitor) {
        for path in &view.boundaries.barriers {
            let own = self.facts.mounts.iter().any(|mount| mount.path == *path);
            if own || view.rules.decide(path, true).scope != Scope::In {
                continue;
            }
            let Ok(directory) = view.root.open_directory(path) else { continue };
            let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
            let mut names = rustix::fs::RawDir::new(&directory, &mut buffer);
            let mut empty = true;
            while let Some(Ok(name)) = names.next() {
                empty &= matches!(name.file_name().to_bytes(), b"." | b"..");
            }
            if !empty {
                let reason =
                    "another filesystem is mounted there on the standby; what is in it here was not copied";
                let problem = Problem::new(path, Operation::Protect, reason);
                monitor.problem(&problem);
                problems.add(problem);
            }
        }
    }
}

/// Waits for the receiver's decision on the plan: of which items it may have the content if it is yes, none if it is no.
fn decision(
    control: &mut Incoming,
    plan: &Plan,
    monitor: &dyn Monitor,
) -> Result<Option<HashSet<u32>>, SessionError> {
    let (mut left, mut named, mut refusals) = (HashSet::new(), 0, 0);
    loop {
        match control.receive(monitor)? {
            Message::Left(items) => left.extend(items.into_iter().filter(|item| plan.item(*item).is_some())),
            Message::ChangedHere(generation, paths) if named + paths.len() <= CHANGED_HERE_NAMED => {
                named += paths.len();
                monitor.changed_here(generation, &paths);
            }
            Message::WouldRefuse(reason) if refusals < REFUSALS_TOLD => {
                refusals += 1;
                monitor.would_refuse(&reason);
            }
            Message::Decision(true) => return Ok(Some(left)),
            Message::Decision(false) => return Ok(None),
            other => return Err(unexpected(other)),
        }
    }
}

/// Scans a whole root; `local` says that this process scans both.
pub(crate) fn scan_root(view: &View, local: bool, monitor: &dyn Monitor) -> Result<Snapshot, SessionError> {
    let kept_bytes = if local { KEPT_LINES_BYTES / 2 } else { KEPT_LINES_BYTES };
    match scan(view, kept_bytes, monitor) {
        Ok(Some(snapshot)) => {
            // Not kept, it costs the next scan time, and this run nothing.
            let _ = view.bare.as_ref().map(|bare| bare.save());
            Ok(snapshot)
        }
        Ok(None) => Err(SessionError::Cancelled),
        Err(error) => Err(SessionError::Fatal {
            operation: "read the root directory",
            reason: std::io::Error::from(error).to_string(),
        }),
    }
}

/// Collects problems and tells the monitor of them.
pub(crate) fn note_all(problems: &Problems, found: Vec<Problem>, monitor: &dyn Monitor) {
    for problem in found {
        monitor.problem(&problem);
        problems.add(problem);
    }
}

/// In path order, each once.
pub(crate) fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|a, b| (&a.path, &a.reason).cmp(&(&b.path, &b.reason)));
    problems.dedup();
    problems
}
