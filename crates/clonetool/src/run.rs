//! One run of the library with everything around it: signals, output, the summary, the outcome.
//!
//! Why: `clone`, `sync`, `plan` and `verify` differ in the job and in what its result means, and in nothing else.
//! What can go wrong: an outcome that claims more than was done; [`Outcome`] is derived from the report in one
//! place.

use std::time::{Duration, Instant};

use syncore::frozen::Frozen;
use syncore::gate::Demand;
use syncore::monitor::Monitor;
use syncore::plan::Plan;
use syncore::prepare::PRODUCTION;
use syncore::problem::{Operation, Problem};
use syncore::profile::{Gate, Snapshot};
use syncore::rules::RuleSet;
use syncore::session::{self, Approval, Initiator, Job, Options, Report, SessionError};
use syncore::tree::RelPath;
use syncore::wire::WireError;

use crate::arguments::OutputOptions;
use crate::error::{self, CommandError, Kind, UNCHANGED};
use crate::gates::{self, Moment};
use crate::interrupt;
use crate::recorder::Recorder;
use crate::ui::Ui;

/// How long a run that waits for another one lets pass before it looks again: at first, and when that took long. A look
/// at another host is a connection.
const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_LONGEST: Duration = Duration::from_secs(8);
/// How often it looks meanwhile whether it is to stop.
const WAIT_TICK: Duration = Duration::from_millis(50);

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Make the destination equal to the source.
    Change,
    /// Say what would be changed.
    Plan,
    /// Say what differs.
    Verify,
}

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything transferred was verified and is on stable storage, the rest is equal.
    InSync,
    /// The same, but without waiting for stable storage; also a command that is no run.
    Done,
    /// A plan was made.
    Planned,
    /// Nothing differs.
    Equal,
    /// Done, but some paths keep their old state.
    Problems,
    /// Something differs.
    Differences,
    /// Done and without a problem, but no record says so.
    Unrecorded,
}

impl Outcome {
    fn of(purpose: Purpose, options: &Options, report: &Report, planned_changes: usize) -> Self {
        match purpose {
            // What was found to differ, differs, whatever could not be compared.
            Purpose::Verify if planned_changes > 0 => Self::Differences,
            _ if !report.problems.is_empty() => Self::Problems,
            Purpose::Verify => Self::Equal,
            Purpose::Plan => Self::Planned,
            Purpose::Change if options.durable => Self::InSync,
            Purpose::Change => Self::Done,
        }
    }

    /// How a command ended that has problems at most.
    pub(crate) fn of_problems(problems: &[Problem]) -> Self {
        if problems.is_empty() { Self::Done } else { Self::Problems }
    }

    /// The exit code.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::InSync | Self::Done | Self::Planned | Self::Equal => 0,
            Self::Problems | Self::Unrecorded => error::PROBLEMS,
            Self::Differences => error::DIFFERENCES,
        }
    }

    /// The `outcome` of the JSON summary.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Done => "done",
            Self::Planned => "planned",
            Self::Equal => "equal",
            Self::Problems => "problems",
            Self::Differences => "differences",
            Self::Unrecorded => "unrecorded",
        }
    }
}

/// Opens the output, has `prepare` make the job, runs it, and reports how it ended in every form that was asked
/// for; only the message of an error is left to the caller.
pub(crate) fn execute(
    purpose: Purpose,
    output: &OutputOptions,
    prepare: impl FnOnce(&Ui) -> Result<Undertaking, CommandError>,
) -> Result<Outcome, CommandError> {
    execute_recorded(purpose, output, None, prepare)
}

/// The same, and `recorder` hears of it.
pub(crate) fn execute_recorded(
    purpose: Purpose,
    output: &OutputOptions,
    recorder: Option<Recorder>,
    prepare: impl FnOnce(&Ui) -> Result<Undertaking, CommandError>,
) -> Result<Outcome, CommandError> {
    let ui = Ui::open(purpose, output, recorder)?;
    let result =
        interrupt::install().and_then(|()| prepare(&ui)).and_then(|work| carry_out(purpose, &work, &ui));
    if let Err(error) = &result {
        ui.failed(error);
    }
    result
}

/// What one command has to do: a job, and with a standby one more, for what is held there.
pub(crate) struct Undertaking {
    /// The first, and mostly the only one.
    pub(crate) job: Job,
    /// What is done after it, if the destination turns out to be a standby.
    pub(crate) held: Option<Job>,
    /// What must hold before anything is done, and again before anything is changed.
    pub(crate) gates: Vec<Gate>,
    /// The moment of the source that is read instead, if anything is to be changed.
    pub(crate) snapshot: Option<Freezing>,
    /// How long it waits while another run is at work.
    pub(crate) patience: Duration,
}

/// The moment of a source that is to be made, and the name under which.
pub(crate) struct Freezing {
    pub(crate) profile: String,
    pub(crate) settings: Snapshot,
}

impl From<Job> for Undertaking {
    fn from(job: Job) -> Self {
        Self { job, held: None, gates: Vec::new(), snapshot: None, patience: Duration::ZERO }
    }
}

fn carry_out(purpose: Purpose, work: &Undertaking, ui: &Ui) -> Result<Outcome, CommandError> {
    let job = &work.job;
    ui.started(job);
    // The library compiles the rules again on both ends; here a bad one is told before anything is connected.
    for unreachable in RuleSet::compile(job.rules.clone())?.never_matching() {
        ui.warn(&unreachable.to_string());
    }
    let (report, planned_changes) = in_turn(work.patience, ui, || attempt(purpose, work, ui))?;
    let outcome = ui.recorded(Outcome::of(purpose, &job.options, &report, planned_changes), &report);
    ui.finished(outcome, &job.options, &report);
    match ui.output_error() {
        // The run is at its end, so its outcome stands even when whoever read the output has seen enough.
        Err(error) if error.kind != Kind::BrokenPipe => Err(error),
        _ => Ok(outcome),
    }
}

/// Does what there is to be done, as the only run of its source; what was done, and how many changes were planned.
fn attempt(purpose: Purpose, work: &Undertaking, ui: &Ui) -> Result<(Report, usize), CommandError> {
    let job = &work.job;
    let _lock = if purpose == Purpose::Change { session::claim(job)? } else { None };
    let gates = if purpose == Purpose::Change { &work.gates[..] } else { &[] };
    gates::hold(gates, Moment::BeforePlan, job, None, ui)?;
    let freezing = work.snapshot.as_ref().filter(|_| purpose == Purpose::Change);
    let frozen = freezing.map(|freezing| freeze(freezing, job, ui)).transpose()?;
    let mut deciding =
        Deciding { gates, job, frozen: frozen.as_ref(), ui, planned_changes: 0, refused: None };
    let result = deciding.run_all(purpose, work.held.as_ref());
    let planned_changes = deciding.planned_changes;
    Ok((melt(frozen, result, ui)?, planned_changes))
}

/// Tries it again, from its gates on, while another run is at work, as long as `patience` lasts.
fn in_turn<T>(
    patience: Duration,
    ui: &Ui,
    mut attempt: impl FnMut() -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let started = Instant::now();
    let mut pause = WAIT_FIRST;
    loop {
        let error = match attempt() {
            Err(error) if error.kind == Kind::Busy && !patience.is_zero() => error,
            other => return other,
        };
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(error.hint(format!("it was waited for, for {} s", patience.as_secs())));
        }
        if pause == WAIT_FIRST {
            ui.warn(&format!("{}: waiting for up to {} s", error.message, patience.as_secs()));
        }
        let until = Instant::now() + pause.min(left);
        while Instant::now() < until {
            interrupt::check()?;
            std::thread::sleep(WAIT_TICK);
        }
        pause = (pause * 2).min(WAIT_LONGEST);
    }
}

/// What is held keeps its old state, because its part of the run was refused.
fn held_back(refusal: &CommandError) -> Problem {
    let path = RelPath::new(PRODUCTION).unwrap_or_default();
    let next = refusal.hints.iter().find(|hint| *hint != UNCHANGED);
    let next = next.map(|hint| format!("; {hint}")).unwrap_or_default();
    let reason = format!("{}{next}; what is not held was synced before", refusal.message);
    Problem::new(&path, Operation::Protect, reason)
}

/// Makes the moment that is read, and says what was left of an earlier one.
fn freeze(freezing: &Freezing, job: &Job, ui: &Ui) -> Result<Frozen, CommandError> {
    let frozen = session::freeze(job, &freezing.profile, &freezing.settings, ui)?;
    for leftover in frozen.leftovers() {
        ui.notice(&format!("removed the snapshot {leftover}, which a run that was cut off had left"));
    }
    Ok(frozen)
}

/// Removes what was read, however the run ended; that it is still there is a problem of the run.
fn melt(
    frozen: Option<Frozen>,
    mut result: Result<Report, CommandError>,
    ui: &Ui,
) -> Result<Report, CommandError> {
    if let Err(error) = frozen.map_or(Ok(()), Frozen::remove) {
        match &mut result {
            Ok(report) => {
                let problem = Problem::new(&RelPath::root(), Operation::RemoveSnapshot, error);
                ui.problem(&problem);
                report.problems.push(problem);
            }
            Err(_) => ui.notice(&error.to_string()),
        }
    }
    result
}

/// Who started the run: shows the plan, and asks the gates again before it is carried out.
struct Deciding<'a> {
    gates: &'a [Gate],
    job: &'a Job,
    frozen: Option<&'a Frozen>,
    ui: &'a Ui,
    planned_changes: usize,
    /// What a gate said when it was asked again.
    refused: Option<CommandError>,
}

impl Initiator for Deciding<'_> {
    fn approve(&mut self, plan: &Plan) -> Approval {
        self.planned_changes += plan.len();
        // Before the first change, so that what is printed is what was decided, complete and in order.
        self.ui.show_plan(plan);
        match gates::demand(self.gates, self.job, plan).filter(|_| !plan.is_empty()) {
            Some(demand) => self.ask(Moment::AfterPlan, Some(demand)),
            None => Approval::Run,
        }
    }

    fn before_commit(&mut self) -> Approval {
        self.ask(Moment::BeforeCommit, None)
    }
}

impl<'a> Deciding<'a> {
    fn ask(&mut self, moment: Moment, demand: Option<Demand>) -> Approval {
        match gates::hold(self.gates, moment, self.job, demand, self.ui) {
            Ok(()) => Approval::Run,
            Err(error) => {
                let reason = error.message.clone();
                self.refused = Some(error);
                Approval::Refuse(reason)
            }
        }
    }

    /// Runs the job, and `held` after it, if the destination turns out to be a standby.
    fn run_all(&mut self, purpose: Purpose, held: Option<&'a Job>) -> Result<Report, CommandError> {
        let mut report = self.run()?;
        let Some(held) = held.filter(|_| report.standby) else { return Ok(report) };
        self.job = held;
        match self.run() {
            Ok(more) => report.add(more),
            // Of a refusal scripts know that nothing was changed, and the first part has changed something.
            Err(error)
                if error.kind == Kind::Refused && purpose == Purpose::Change && report.plan.is_some() =>
            {
                report.problems.push(held_back(&error));
            }
            Err(error) => return Err(error),
        }
        Ok(report)
    }

    fn run(&mut self) -> Result<Report, CommandError> {
        let (job, ui) = (self.job, self.ui);
        match session::run_under(job, self.frozen, self, ui) {
            Err(SessionError::Cancelled | SessionError::Wire(WireError::Cancelled))
                if !interrupt::requested() =>
            {
                // The output failed and the run stopped for it; that error is what there is to say, if anything is.
                ui.output_error()?;
                Err(SessionError::Cancelled.into())
            }
            result => result.map_err(|error| self.refused.take().unwrap_or_else(|| error.into())),
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn an_outcome_never_claims_more_than_was_done() {
        let clean = Report::default();
        let problem = Problem::new(&RelPath::root(), Operation::Read, "no");
        let dirty = Report { problems: vec![problem], ..Report::default() };
        let durable = Options::default();
        let volatile = Options { durable: false, ..Options::default() };
        let table = [
            (Purpose::Change, &durable, &clean, 5, Outcome::InSync, 0),
            (Purpose::Change, &volatile, &clean, 5, Outcome::Done, 0),
            (Purpose::Change, &durable, &dirty, 5, Outcome::Problems, 4),
            (Purpose::Plan, &durable, &clean, 5, Outcome::Planned, 0),
            (Purpose::Plan, &durable, &dirty, 0, Outcome::Problems, 4),
            (Purpose::Verify, &durable, &clean, 0, Outcome::Equal, 0),
            (Purpose::Verify, &durable, &dirty, 0, Outcome::Problems, 4),
            (Purpose::Verify, &durable, &clean, 1, Outcome::Differences, 5),
            (Purpose::Verify, &durable, &dirty, 1, Outcome::Differences, 5),
        ];
        for (purpose, options, report, changes, outcome, code) in table {
            let found = Outcome::of(purpose, options, report, changes);
            assert_eq!((found, found.exit_code()), (outcome, code), "{purpose:?} {changes}");
        }
    }
}
