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
use crate::plan::{Item, Plan};
use crate::prepare::{PRODUCTION, Standby, own_rules};
use crate::problem::Problem;
use crate::rules::{Rule, RuleSet, Treatment};
use crate::scan::{Root, Snapshot, View, mounts_below};
use crate::session::changed_here::changed_here;
use crate::session::describe::Describer;
use crate::session::examine::{examine_here, examine_root};
use crate::session::judge::check_plan;
use crate::session::local::LocalSource;
use crate::session::lock::{RootLock, lock_root};
use crate::session::questions::{Described, answer_of_missing, answer_until_planned};
use crate::session::receive::{Done, Receiver};
use crate::session::scans::Scans;
use crate::session::send::send_problems;
use crate::session::sender::{note_all, scan_root, sorted};
use crate::session::{Report, Say, SessionError, agree, ask, last_word, radius, restore, unexpected};
use crate::tree::{NameKey, RelPath};
use crate::wire::{CONTROL, Connection, Facts, Incoming, Message, Part, Question, Start};

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
    scans: Option<PathBuf>,
    /// Held until the run is over.
    _lock: Option<RootLock>,
}

impl Receiving {
    pub(crate) fn open(path: &Path, dry_run: bool, scans: Option<&Path>) -> Result<Self, SessionError> {
        let scans = scans.map(Path::to_owned);
        let path = path.to_owned();
        let root = match agree::open_root(&path, "destination") {
            Err(_) if std::fs::symlink_metadata(&path).is_err_and(|e| e.kind() == ErrorKind::NotFound) => {
                // What holds production's own would have been made by the first part of the same run.
                let parent_comes = dry_run && path.ends_with(PRODUCTION);
                let facts = agree::facts_of_missing(&path, parent_comes)?;
                let own = Vec::new();
                return Ok(Self { path, root: None, facts, own, standby: None, dry_run, scans, _lock: None });
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
        Ok(Self { path, root: Some(root), facts, own, standby, dry_run, scans, _lock: lock })
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
        let view = self.view(&root, start)?;
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
        let described = answer_until_planned(connection, &problems, monitor, &|questions| {
            describer.answer_all(questions)
        })?;
        let Some(Described { plan, entries: source_entries, tree }) = described else {
            return Ok(report);
        };
        report.tree = Some(tree);
        report.entries_scanned += source_entries;
        report.plan = (!plan.is_empty()).then(|| plan.id());
        report.totals = plan.totals();
        let own = RuleSet::compile(self.own.clone())?;
        check_plan(&view, &own, &plan)?;
        let limits = start.limits.as_ref().filter(|_| !plan.is_empty());
        let within = limits.map_or(Ok(()), |limits| {
            radius::check(&root, &snapshot, &plan, limits, start.approved.as_deref())
        });
        if self.dry_run {
            foretell([restore::changeable(&root), within], connection, initiator.then_some(monitor))?;
        } else {
            within?;
        }
        if let Some(whole) = start.whole.as_ref().filter(|_| !plan.is_empty()) {
            tell_changed_here(&root, &plan, &whole.profile, connection, initiator.then_some(monitor))?;
        }
        // A dry run ends here, whatever the other end makes of it.
        if !ask(&mut say, &plan, start.whole.is_some(), monitor)? || self.dry_run {
            connection.outgoing.send(CONTROL, Message::Decision(false))?;
            report.problems = sorted(problems.take());
            return Ok(report);
        }
        let (directories, left) = self.prepare(&view, start, &plan, source.is_some(), connection)?;
        monitor.phase(Phase::Transfer);
        let committer = committer(&view, start, directories, &snapshot, &problems)?;
        let standby = self.standby.as_ref().map(|standby| (standby, &own));
        let receiver = Receiver::new(&view, &plan, committer, start, source, standby, monitor).resuming(left);
        receiver.committer.sweep(&snapshot.leftovers);
        let (done, theirs) = carry_out(&receiver, connection, &mut say, &problems)?;
        theirs.iter().for_each(|problem| monitor.problem(problem));
        let Done { literal_bytes, copied_bytes, generation } = done;
        (report.literal_bytes, report.copied_bytes, report.generation) =
            (literal_bytes, copied_bytes, generation);
        let mine = if initiator { problems.take() } else { Vec::new() };
        connection.outgoing.send(CONTROL, Message::Finished { literal_bytes, copied_bytes, generation })?;
        report.problems = sorted(mine.into_iter().chain(theirs).collect());
        Ok(report)
    }

    /// The standby as the rules of both ends show it.
    fn view(&self, root: &Arc<Root>, start: &Start) -> Result<View, SessionError> {
        let mut rules = start.rules.clone();
        // The initiator had them from here; should it have lost them, they hold all the same.
        let kept = self.facts.rules.iter().filter(|rule| agree::takes_away(rule));
        if !kept.clone().all(|rule| rules.contains(rule)) {
            rules.extend(kept.cloned());
        }
        let scans = Scans::new(self.scans.as_deref(), self.dry_run);
        let bare = scans.bare(&self.facts.root, &rules, start);
        Ok(View {
            root: Arc::clone(root),
            rules: Arc::new(RuleSet::compile(rules)?),
            boundaries: Arc::new(start.boundaries.clone()),
            checksum: start.checksum,
            slice: start.slice.clone(),
            presented: Arc::new(self.standby.as_ref().map(Standby::presented).unwrap_or_default()),
            names: start.names,
            bare,
        })
    }

    /// Makes ready for an approved plan, and tells the sender to begin; gives where content of items may be already.
    fn prepare(
        &self,
        view: &View,
        start: &Start,
        plan: &Plan,
        local: bool,
        connection: &mut Connection,
    ) -> Result<(Arc<Directories>, HashMap<u32, RelPath>), SessionError> {
        let directories = Directories::new(Arc::clone(&view.root), &view.boundaries, &self.facts.mounts)
            .map_err(|error| restore::fatal("prepare the destination", &error.into()))?;
        let left = match &start.whole {
            Some(_) if !local => left_over(&view.root, &directories, plan)?,
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
        Ok((Arc::new(directories), left))
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
        let described = answer_until_planned(connection, &problems, monitor, &missing)?;
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
/// For so many reasons a run can be refused of which a dry run knows.
pub(super) const REFUSALS_TOLD: usize = 2;
const ITEMS_PER_MESSAGE: usize = 64 * 1024;

/// What carries out the changes: each path as it comes, or all of them at the end.
fn committer(
    view: &View,
    start: &Start,
    directories: Arc<Directories>,
    snapshot: &Arc<Snapshot>,
    problems: &Arc<Problems>,
) -> Result<Committer, SessionError> {
    let names_of = {
        let snapshot = Arc::clone(snapshot);
        NamesOf(Box::new(move |device, inode| snapshot.links(device, inode).map_or(1, |group| group.members)))
    };
    let tops = directories.tops().to_vec();
    let committer = Committer::new(directories, Arc::clone(problems), names_of, start.durable);
    let Some(whole) = &start.whole else { return Ok(committer) };
    let ledger = Ledger::begin(&view.root, &tops, whole.clone())
        .map_err(|error| restore::fatal("make the place where the run is staged", &error))?;
    Ok(committer.whole(ledger))
}

/// Receives and changes what was planned, and hears the sender out; gives its problems, too. Where this end is not the
/// initiator its own are sent.
fn carry_out(
    receiver: &Receiver<'_>,
    connection: &mut Connection,
    say: &mut Say<'_>,
    problems: &Problems,
) -> Result<(Done, Vec<Problem>), SessionError> {
    let (monitor, initiator) = (receiver.monitor, say.is_some());
    if let Err(error) = receiver.receive(&connection.outgoing, &mut connection.lanes) {
        // What cannot be brought as a whole would only take the room that is to be made.
        if !matches!(error, SessionError::Fatal { .. }) {
            receiver.committer.leave_staged();
        }
        return Err(error);
    }
    let (mut theirs, mut ended) = (Vec::new(), false);
    let mut outgoing = connection.outgoing.clone();
    let control = &mut connection.lanes[usize::from(CONTROL)];
    let mut may_commit = || match say {
        Some((_, initiator)) => last_word(*initiator),
        None => {
            outgoing.send(CONTROL, Message::Staged)?;
            await_decision(control, &mut theirs, &mut ended, monitor)
        }
    };
    let done = receiver.finish(&mut may_commit);
    if matches!(done, Err(SessionError::Wire(_))) {
        receiver.committer.leave_staged();
    }
    if !initiator {
        send_problems(&mut connection.outgoing, problems.take())?;
    } else if done.is_err() {
        // What is known of single paths may be why.
        problems.take().iter().for_each(|problem| monitor.problem(problem));
    }
    let done = done?;
    while !ended {
        match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
            Message::Problems(more) => theirs.extend(more),
            Message::LaneEnd => ended = true,
            other => return Err(unexpected(other)),
        }
    }
    Ok((done, theirs))
}

/// Tells the initiator what was changed here and is about to be replaced: `own`, when that is this end.
fn tell_changed_here(
    root: &Arc<Root>,
    plan: &Plan,
    profile: &str,
    connection: &mut Connection,
    own: Option<&dyn Monitor>,
) -> Result<(), SessionError> {
    let found = changed_here(root, plan, profile)
        .map_err(|error| restore::fatal("read what is kept of earlier runs", &error))?;
    let Some((generation, paths)) = found else { return Ok(()) };
    if let Some(monitor) = own {
        monitor.changed_here(generation, &paths);
        return Ok(());
    }
    for part in paths.chunks(PATHS_PER_MESSAGE) {
        connection.outgoing.send(CONTROL, Message::ChangedHere(generation, part.to_vec()))?;
    }
    Ok(())
}

/// Tells the initiator of a dry run for what a run would be refused: `own`, when that is this end.
fn foretell(
    judged: [Result<(), SessionError>; REFUSALS_TOLD],
    connection: &mut Connection,
    own: Option<&dyn Monitor>,
) -> Result<(), SessionError> {
    for error in judged.into_iter().filter_map(Result::err) {
        if !matches!(error, SessionError::Refused(_) | SessionError::Suspended { .. }) {
            return Err(error);
        }
        let told = error.to_string();
        let reason = told.strip_prefix("refused: ").unwrap_or(&told).to_owned();
        match own {
            Some(monitor) => monitor.would_refuse(&reason),
            None => connection.outgoing.send(CONTROL, Message::WouldRefuse(reason))?,
        }
    }
    Ok(())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A running system is a standby without a file of ours, and the first part of a run would have made the parent.
    #[test]
    fn what_is_held_can_be_planned_before_anything_was_synced() {
        let work = tempfile::tempdir().unwrap();
        let held = work.path().join(PRODUCTION);
        let receiving = Receiving::open(&held, true, None).unwrap();
        assert!(receiving.facts().root.ends_with(PRODUCTION.as_bytes()) && receiving.facts().empty);
        assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0, "a plan makes nothing");
        assert!(Receiving::open(&held, false, None).is_err());
        assert!(Receiving::open(&work.path().join("no/such"), true, None).is_err());
    }
}
