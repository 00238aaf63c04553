//! The record of the run that this process makes.
//!
//! Why: `Ui` hears everything that happens in a run, and this keeps of it what is asked for in a year. What can go
//! wrong: the record cannot be written. A run that cannot be told from no run is not well: it is said on standard
//! error, once, and what would have been exit code 0 becomes 4. Who is not root and did not say where records go has no
//! place for them; that is said, and changes no exit code.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncore::gate::Answer;
use syncore::plan::Plan;
use syncore::problem::Problem;
use syncore::profile::{Gate, Profile};
use syncore::record::{
    Counts, GateAnswer, Outcome as Recorded, PhaseTime, Record, RecordError, Retention, RunId, RunKind, Store,
};
use syncore::session::Report;
use syncore::tree::RelPath;

use crate::error::{CommandError, Kind};
use crate::gates::Moment;
use crate::records::{DIRECTORY, RecordsOptions, now_seconds, since_epoch};
use crate::run::Outcome;
use crate::ui;
use crate::unattended::{Unattended, UnattendedOptions};

/// Writes the record of one run.
pub(crate) struct Recorder {
    directory: PathBuf,
    /// After the epoch.
    began: Duration,
    started: Instant,
    state: Mutex<State>,
    unattended: Unattended,
}

struct State {
    record: Record,
    phase: Option<(&'static str, Instant)>,
    told: bool,
}

impl Recorder {
    /// Begins the record of a run of what is kept as `profile`, in memory; `partial` where options changed what takes
    /// part.
    pub(crate) fn begin(options: &RecordsOptions, kind: RunKind, profile: &str, partial: bool) -> Self {
        let began = since_epoch();
        let mut record = new_record(began, kind, profile);
        record.partial = partial;
        let state = Mutex::new(State { record, phase: None, told: false });
        let unattended = Unattended::default();
        Self { directory: options.directory().to_owned(), began, started: Instant::now(), state, unattended }
    }

    /// Tells what nobody watches as `options` say.
    #[must_use]
    pub(crate) fn telling(self, options: &UnattendedOptions) -> Self {
        Self { unattended: Unattended::new(options.clone()), ..self }
    }

    /// The profile is known.
    pub(crate) fn profile(&self, profile: &Profile) {
        self.unattended.profile(profile);
    }

    /// The ends are known, where there is one: from now on the run leaves a trace, however it ends.
    pub(crate) fn ends(&self, source: Option<&str>, destination: &str) {
        let mut state = self.state();
        state.record.source = source.map(str::to_owned);
        state.record.destination = Some(destination.to_owned());
        self.write(&mut state);
        self.unattended.began(&state.record);
    }

    /// Before the run began, an interrupted one was completed: that has a record of its own.
    pub(crate) fn recovered(&self, profile: &str, generation: u64, problems: u64) {
        let mut state = self.state();
        // It came before this run, and is listed so.
        let began = self.began.saturating_sub(Duration::from_micros(1));
        let mut record = new_record(began, RunKind::Recovery, profile);
        record.destination.clone_from(&state.record.destination);
        record.generation = Some(generation);
        record.problem_count = problems;
        record.outcome = if problems == 0 { Recorded::Done } else { Recorded::Problems };
        record.ended_seconds = Some(now_seconds());
        let written = Store::create(&self.directory).and_then(|store| store.write(&record));
        if let Err(error) = written {
            state.tell(&error);
        }
    }

    /// Somebody changed these paths on the standby, and the run replaces them.
    pub(crate) fn changed_here(&self, paths: &[RelPath]) {
        paths.iter().for_each(|path| self.state().record.changed_here(path));
    }

    /// A rollback or a recovery came to its end: the standby is in state `generation` if it was changed.
    pub(crate) fn restored(
        &self,
        generation: Option<u64>,
        undone: &[u64],
        problems: &[Problem],
        outcome: Outcome,
    ) {
        let mut state = self.state();
        let record = &mut state.record;
        (record.generation, record.undone) = (generation, undone.to_vec());
        problems.iter().for_each(|problem| record.problem(problem));
        let recorded = if problems.is_empty() { Recorded::Done } else { Recorded::Problems };
        self.end(&mut state, recorded, outcome.exit_code());
    }

    /// What a gate answered.
    pub(crate) fn gate(&self, gate: &Gate, answer: &Answer, moment: Moment) {
        let mut state = self.state();
        state.record.gate(GateAnswer {
            name: gate.name.clone(),
            kind: gate.check.kind().to_owned(),
            moment: moment.word().to_owned(),
            verdict: answer.verdict.word().to_owned(),
            evidence: answer.evidence.clone(),
            elapsed_seconds: answer.elapsed.as_secs_f64(),
        });
        // As it is kept.
        if let Some(answer) = state.record.gates.last() {
            self.unattended.gate(answer);
        }
    }

    /// The plan is made; of two, the first that has anything in it is that of the run.
    pub(crate) fn plan(&self, plan: &Plan) {
        let mut state = self.state();
        if state.record.plan.is_none() && !plan.is_empty() {
            state.record.plan = Some(plan.id().to_string());
        }
    }

    /// A phase began.
    pub(crate) fn phase(&self, word: &'static str) {
        let mut state = self.state();
        state.end_phase();
        state.phase = Some((word, Instant::now()));
    }

    /// A problem came up.
    pub(crate) fn problem(&self, problem: &Problem) {
        self.state().record.problem(problem);
    }

    /// It was a part of what the profile says, and settles nothing about the whole.
    pub(crate) fn partial(&self) {
        self.state().record.partial = true;
    }

    /// The run came to its end. Says how it ended, which is not well if it cannot be recorded.
    pub(crate) fn finished(&self, outcome: Outcome, report: &Report) -> Outcome {
        let mut state = self.state();
        let record = &mut state.record;
        record.counts = Some(counts(report));
        (record.generation, record.standby) = (report.generation, report.standby);
        record.tree = report.tree.map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect());
        (record.problem_count, record.problems) = (0, Vec::new());
        report.problems.iter().for_each(|problem| record.problem(problem));
        let recorded = match outcome {
            Outcome::InSync => Recorded::InSync,
            Outcome::Problems => Recorded::Problems,
            Outcome::Equal => Recorded::Equal,
            Outcome::Differences => Recorded::Differences,
            _ => Recorded::Done,
        };
        if self.end(&mut state, recorded, outcome.exit_code()) { outcome } else { Outcome::Unrecorded }
    }

    /// The run ended early.
    pub(crate) fn failed(&self, error: &CommandError) {
        let mut state = self.state();
        state.record.explain(&error.message, &error.hints);
        let outcome = match error.kind {
            Kind::Failed | Kind::BrokenPipe => Recorded::Failed,
            Kind::Usage => Recorded::Usage,
            Kind::Refused => Recorded::Refused,
            Kind::Suspended { state: generation } => {
                state.record.generation = Some(generation);
                Recorded::Suspended
            }
            Kind::Peer => Recorded::Peer,
            Kind::Busy => Recorded::Busy,
            Kind::Interrupted => Recorded::Interrupted,
        };
        self.end(&mut state, outcome, error.exit_code());
    }

    /// Ends the record, and tells who is to be told; false when the run is not well because it is not recorded.
    fn end(&self, state: &mut State, outcome: Recorded, exit_code: u8) -> bool {
        state.end_phase();
        let record = &mut state.record;
        record.outcome = outcome;
        record.exit_code = Some(exit_code);
        record.ended_seconds = Some(now_seconds());
        record.elapsed_seconds = self.started.elapsed().as_secs_f64();
        let written = self.write(state);
        if written {
            let pruned = Store::create(&self.directory)
                .and_then(|store| store.prune(Retention::default(), now_seconds()));
            if let Err(error) = pruned {
                state.tell(&error);
            }
        }
        // Who compares has the answer before him, and who is not root no place of his own.
        let matters = state.record.kind == RunKind::Sync
            && (self.directory != Path::new(DIRECTORY) || rustix::process::geteuid().is_root());
        let well = written || exit_code != 0 || !matters;
        if !well {
            state.record.exit_code = Some(Outcome::Unrecorded.exit_code());
            state.record.explain("no record of it could be written", &[]);
        }
        self.unattended.ended(&state.record);
        well
    }

    /// Writes the record as it is; says whether it could.
    fn write(&self, state: &mut State) -> bool {
        let written = Store::create(&self.directory).and_then(|store| store.write(&state.record));
        if let Err(error) = &written {
            state.tell(error);
        }
        written.is_ok()
    }

    /// A panic elsewhere leaves no half-done state in it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Says once what is wrong with the records.
    fn tell(&mut self, error: &RecordError) {
        if !std::mem::replace(&mut self.told, true) {
            ui::alert(&format!("{error}; `history`, `status` and `check` will not know of this run"));
        }
    }

    fn end_phase(&mut self) {
        if let Some((word, since)) = self.phase.take() {
            add_phase(&mut self.record.phases, word, since.elapsed());
        }
    }
}

/// The record of a run that began so long after the epoch.
fn new_record(began: Duration, kind: RunKind, profile: &str) -> Record {
    let drawn = RandomState::new().build_hasher().finish();
    let run = RunId::new(began, u16::try_from(drawn >> 48).unwrap_or(0));
    Record::begin(run, kind, env!("CARGO_PKG_VERSION"), profile, rustix::process::getuid().as_raw())
}

/// A run that has two parts goes through each phase twice.
fn add_phase(phases: &mut Vec<PhaseTime>, word: &str, elapsed: Duration) {
    let elapsed_seconds = elapsed.as_secs_f64();
    match phases.iter_mut().find(|time| time.phase == word) {
        Some(time) => time.elapsed_seconds += elapsed_seconds,
        None => phases.push(PhaseTime { phase: word.to_owned(), elapsed_seconds }),
    }
}

fn counts(report: &Report) -> Counts {
    let totals = &report.totals;
    Counts {
        entries_scanned: report.entries_scanned,
        created: totals.created,
        updated: totals.updated,
        metadata_only: totals.metadata_only,
        deleted: totals.deleted,
        moved: totals.moved,
        protected: report.protected,
        content_bytes: totals.content_bytes,
        literal_bytes: report.literal_bytes,
        copied_bytes: report.copied_bytes,
        wire_sent_bytes: report.wire_sent_bytes,
        wire_received_bytes: report.wire_received_bytes,
    }
}
