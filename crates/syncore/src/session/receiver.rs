//! The receiving end of one run, whoever started it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};

use crate::apply::{Directories, Problems};
use crate::monitor::{Monitor, Phase};
use crate::plan::Plan;
use crate::profile::parse_standby_file;
use crate::rules::{Rule, RuleSet};
use crate::scan::{Root, Snapshot, View};
use crate::session::describe::Describer;
use crate::session::receive::{Receiver, check_plan, lock_root};
use crate::session::send::send_problems;
use crate::session::sender::{note_all, scan_root, sorted};
use crate::session::{Report, Say, SessionError, agree, ask, unexpected};
use crate::tree::RelPath;
use crate::wire::{CONTROL, Connection, Facts, Message, Start, WireError};

/// Largest file of own protections, in bytes.
const STANDBY_FILE_LIMIT_BYTES: u64 = 1 << 20;

/// A standby root, open, locked and looked at.
pub(crate) struct Receiving {
    root: Arc<Root>,
    facts: Facts,
    /// Held until the run is over.
    _lock: Option<OwnedFd>,
}

impl Receiving {
    pub(crate) fn open(path: &Path, dry_run: bool) -> Result<Self, SessionError> {
        let root = Arc::new(agree::open_root(path, "destination")?);
        let lock = if dry_run { None } else { Some(lock_root(&root)?) };
        let facts = agree::facts(&root, own_rules(&root)?);
        Ok(Self { root, facts, _lock: lock })
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Scans, describes, judges the plan, asks the initiator if that is this end, and carries the plan out.
    pub(crate) fn run(
        &self,
        connection: &mut Connection,
        start: Start,
        mut say: Say<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Report, SessionError> {
        monitor.phase(Phase::Scan);
        let mut rules = start.rules;
        // The initiator had them from here; should it have lost them, they hold all the same.
        rules.extend(self.facts.rules.iter().filter(|own| !rules.contains(own)).cloned().collect::<Vec<_>>());
        let view = View {
            root: Arc::clone(&self.root),
            rules: Arc::new(RuleSet::compile(rules)?),
            boundaries: Arc::new(start.boundaries),
            checksum: start.checksum,
        };
        let snapshot = scan_root(&view, monitor)?;
        let problems = Arc::new(Problems::default());
        let initiator = say.is_some();
        if initiator {
            note_all(&problems, snapshot.problems.clone(), &crate::monitor::Silent);
        } else {
            send_problems(&mut connection.outgoing, snapshot.problems.clone())?;
        }
        let Snapshot { entries, protected, .. } = snapshot;
        connection
            .outgoing
            .send(CONTROL, Message::Scanned { digest: snapshot.digest(), entries, protected })?;
        monitor.phase(Phase::Compare);
        let mut report = Report { entries_scanned: entries, protected, ..Report::default() };
        let described = self.describe(connection, &view, &snapshot, &problems, monitor)?;
        let Some((plan, source_entries)) = described else {
            return Ok(report);
        };
        report.entries_scanned += source_entries;
        report.plan = (!plan.is_empty()).then(|| plan.id());
        report.totals = plan.totals();
        check_plan(&view, &plan)?;
        if !ask(&mut say, &plan, monitor)? {
            connection.outgoing.send(CONTROL, Message::Decision(false))?;
            report.problems = sorted(problems.take());
            return Ok(report);
        }
        if !plan.is_empty() {
            connection.outgoing.send(CONTROL, Message::Decision(true))?;
        }
        monitor.phase(Phase::Transfer);
        let directories = Directories::new(Arc::clone(&self.root), &view.boundaries, &self.facts.mounts)
            .map_err(|error| SessionError::Fatal {
                operation: "prepare the destination",
                reason: std::io::Error::from(error).to_string(),
            })?;
        let receiver =
            Receiver::new(&view, &plan, directories, &problems, (start.delta, start.durable), monitor);
        receiver.committer.sweep(&snapshot.leftovers);
        let done = receiver.run(&connection.outgoing, &mut connection.lanes)?;
        (report.literal_bytes, report.copied_bytes) = (done.literal_bytes, done.copied_bytes);
        let mut mine = problems.take();
        if !initiator {
            send_problems(&mut connection.outgoing, std::mem::take(&mut mine))?;
        }
        loop {
            match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
                Message::Problems(theirs) => {
                    theirs.iter().for_each(|problem| monitor.problem(problem));
                    mine.extend(theirs);
                }
                Message::LaneEnd => break,
                other => return Err(unexpected(other)),
            }
        }
        let Report { literal_bytes, copied_bytes, .. } = report;
        connection.outgoing.send(CONTROL, Message::Finished { literal_bytes, copied_bytes })?;
        report.problems = sorted(mine);
        Ok(report)
    }

    /// Answers questions until the plan is there; none when there will be no run.
    fn describe(
        &self,
        connection: &mut Connection,
        view: &View,
        snapshot: &Snapshot,
        problems: &Problems,
        monitor: &dyn Monitor,
    ) -> Result<Option<(Plan, u64)>, SessionError> {
        let describer = Describer { view, snapshot };
        let mut plan = Plan::default();
        loop {
            match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
                Message::Ask(questions) => {
                    for question in &questions {
                        describer.answer(question, &mut |answer, more| {
                            connection.outgoing.send(CONTROL, Message::Answer(answer, more))
                        })?;
                    }
                }
                Message::PlanPart(part) => {
                    plan.receive(&part).map_err(|e| WireError::Protocol(e.to_string()))?;
                }
                Message::PlanEnd { id, entries } if id == plan.id() => return Ok(Some((plan, entries))),
                Message::PlanEnd { .. } => {
                    return Err(
                        WireError::Protocol("the plan did not arrive as it was sent".to_owned()).into()
                    );
                }
                Message::Problems(theirs) => note_all(problems, theirs, monitor),
                Message::Decision(false) => return Ok(None),
                other => return Err(unexpected(other)),
            }
        }
    }
}

/// The standby's own protections. The file counts only when nobody but root, or the account that runs, can write it.
fn own_rules(root: &Root) -> Result<Vec<Rule>, SessionError> {
    let refuse = |reason: &dyn std::fmt::Display| {
        SessionError::Refused(format!("the standby's own /{} cannot be used: {reason}", agree::STANDBY_FILE))
    };
    let path = RelPath::new(agree::STANDBY_FILE).map_err(|e| refuse(&e))?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let parent = path.parent().unwrap_or_default();
    let opened = root
        .hold_directory(&parent)
        .and_then(|directory| openat(directory, path.name().unwrap_or_default(), flags, Mode::empty()));
    let fd = match opened {
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        other => other.map_err(|e| refuse(&std::io::Error::from(e)))?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| refuse(&std::io::Error::from(e)))?;
    let trusted = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    if !trusted || stat.st_mode & 0o022 != 0 {
        return Err(refuse(&"others than root may write it"));
    }
    let mut text = String::new();
    let mut reader = std::io::Read::take(std::fs::File::from(fd), STANDBY_FILE_LIMIT_BYTES);
    std::io::Read::read_to_string(&mut reader, &mut text).map_err(|e| refuse(&e))?;
    parse_standby_file(&format!("/{}", agree::STANDBY_FILE), &text).map_err(|e| refuse(&e))
}
