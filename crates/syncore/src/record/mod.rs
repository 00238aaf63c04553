//! Records: what every run was asked, what it found and how it ended, kept for years.
//!
//! Why: cron runs when nobody watches, and the day the standby is needed somebody asks how old it is. The answer is
//! read from what the runs themselves left behind. What can go wrong: a run that leaves nothing and looks like no run
//! at all, so a record is there from the moment the run knows its ends, says [`Outcome::Unfinished`], and is replaced
//! at the end; a record that grows without limit with what a peer or a gate says, so every text and list in it is
//! bounded; a secret, so there is no place in it for options, environment or arguments, and what others say is masked.
//!
//! Times are seconds since the epoch by the clock of the host that ran. Nothing here asks for the time: whoever calls
//! passes it.

mod event;
mod lap;
mod mask;
mod outcome;
mod retention;
mod run_id;
mod standing;
mod store;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::problem::Problem;
use crate::tree::{RelPath, escape};

pub use event::{EventError, announce};
pub use lap::{Checked, Finished, Lap, Laps};
use mask::{clipped, masked};
pub use outcome::{Outcome, RunKind};
pub use retention::Retention;
pub use run_id::{NoRunId, RunId};
pub use standing::{Age, Standing, standings};
pub use store::{Damaged, History, Store, replace_file};

/// The form of a record; a reader refuses later ones.
const VERSION: u32 = 1;
/// How many problems a record names; the rest are counted.
const PROBLEMS_NAMED: usize = 100;
/// How many answers of gates a record keeps: those of a profile, twice.
const GATES_KEPT: usize = 200;

/// What a gate answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateAnswer {
    /// Its name in the profile.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// When it was asked: `before-plan`, `after-plan` or `before-commit`.
    pub moment: String,
    /// `pass`, `refused`, `error` or `timed-out`.
    pub verdict: String,
    /// What was found.
    pub evidence: String,
    /// How long it took.
    pub elapsed_seconds: f64,
}

/// What a run counted; the fields are those of the summary of `--json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Entries scanned on both ends together.
    pub entries_scanned: u64,
    /// Paths that came into being.
    pub created: u64,
    /// Files with new content.
    pub updated: u64,
    /// Paths of which only metadata changed.
    pub metadata_only: u64,
    /// Paths that went away.
    pub deleted: u64,
    /// Files moved on the standby instead of sent.
    pub moved: u64,
    /// Entries on the standby that were protected.
    pub protected: u64,
    /// File content behind the plan.
    pub content_bytes: u64,
    /// Of it, sent as itself.
    pub literal_bytes: u64,
    /// Of it, found on the standby.
    pub copied_bytes: u64,
    /// What crossed the wire from this host.
    pub wire_sent_bytes: u64,
    /// What crossed the wire to this host.
    pub wire_received_bytes: u64,
}

impl Counts {
    /// What was done, for people.
    #[must_use]
    pub fn words(&self) -> String {
        let Self { created, updated, metadata_only, moved, deleted, .. } = *self;
        let words = ["created", "updated", "metadata only", "moved", "deleted"];
        let counts = [created, updated, metadata_only, moved, deleted].into_iter().zip(words);
        let counts: Vec<String> =
            counts.filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
        if counts.is_empty() { "nothing to do".to_owned() } else { counts.join(", ") }
    }
}

/// A phase of a run and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Its word, as in `--json`.
    pub phase: String,
    /// How long the run was in it.
    pub elapsed_seconds: f64,
}

/// A problem with one path, in words; the path is escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedProblem {
    /// Which path.
    pub path: String,
    /// What was being done: words that follow "cannot".
    pub operation: String,
    /// Why it could not be done.
    pub reason: String,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The form of the record.
    pub version: u32,
    /// Which run.
    pub run: RunId,
    /// What it was for.
    #[serde(default)]
    pub kind: RunKind,
    /// The version of the program that ran.
    pub program: String,
    /// The profile, by the name under which all that is kept of its runs is kept.
    pub profile: String,
    /// Who ran it: the real user id.
    pub uid: u32,
    /// What was read; none when the run ended before that was known.
    pub source: Option<String>,
    /// What was to be changed; none as above.
    pub destination: Option<String>,
    /// Whether options changed what takes part, so that it need not have covered what the profile says.
    pub partial: bool,
    /// When it began, in seconds since the epoch.
    pub started_seconds: u64,
    /// When it ended, in seconds since the epoch; none while it has not.
    pub ended_seconds: Option<u64>,
    /// How long it took, by a clock that nobody sets.
    pub elapsed_seconds: f64,
    /// How it ended.
    pub outcome: Outcome,
    /// The exit code; none while it has not ended.
    pub exit_code: Option<u8>,
    /// What went wrong, in one sentence, when it ended early.
    pub message: Option<String>,
    /// What to do next.
    pub hints: Vec<String>,
    /// What the gates answered, in order.
    pub gates: Vec<GateAnswer>,
    /// The plan's id; none when there was no plan or nothing in it.
    pub plan: Option<String>,
    /// The digest of everything in scope on the source as it was scanned, in hexadecimal
    /// ([`Snapshot::tree`](crate::scan::Snapshot::tree)); none when the run ended before it was known.
    #[serde(default)]
    pub tree: Option<String>,
    /// The state of the standby that the run led to; none when it changed nothing, or path by path. Of a run that was
    /// refused because the standby was rolled back, the state that it is in.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Whether the destination has an identity of its own.
    #[serde(default)]
    pub standby: bool,
    /// Of a rollback the states whose runs it undid, the latest first.
    #[serde(default)]
    pub undone: Vec<u64>,
    /// What was done; none of a run that ended early, for then it is not known.
    pub counts: Option<Counts>,
    /// How long each phase took.
    pub phases: Vec<PhaseTime>,
    /// How many problems there were.
    pub problem_count: u64,
    /// The first of them.
    pub problems: Vec<NamedProblem>,
    /// How many paths were replaced that somebody had changed on the standby since the run before; at most 1000 are
    /// counted.
    #[serde(default)]
    pub changed_here_count: u64,
    /// The first of them.
    #[serde(default)]
    pub changed_here: Vec<String>,
}

impl Record {
    /// A run that begins now.
    #[must_use]
    pub fn begin(run: RunId, kind: RunKind, program: &str, profile: &str, uid: u32) -> Self {
        Self {
            version: VERSION,
            run,
            kind,
            program: program.to_owned(),
            profile: clipped(profile),
            uid,
            source: None,
            destination: None,
            partial: false,
            started_seconds: run.started_seconds(),
            ended_seconds: None,
            elapsed_seconds: 0.0,
            outcome: Outcome::Unfinished,
            exit_code: None,
            message: None,
            hints: Vec::new(),
            gates: Vec::new(),
            plan: None,
            tree: None,
            generation: None,
            standby: false,
            undone: Vec::new(),
            counts: None,
            phases: Vec::new(),
            problem_count: 0,
            problems: Vec::new(),
            changed_here_count: 0,
            changed_here: Vec::new(),
        }
    }

    /// Adds what a gate answered.
    pub fn gate(&mut self, mut answer: GateAnswer) {
        if self.gates.len() < GATES_KEPT {
            answer.evidence = masked(&answer.evidence);
            self.gates.push(answer);
        }
    }

    /// Counts a path that somebody had changed on the standby and the run replaces, and names it if there is room.
    pub fn changed_here(&mut self, path: &RelPath) {
        self.changed_here_count += 1;
        if self.changed_here.len() < PROBLEMS_NAMED {
            self.changed_here.push(clipped(&path.to_string()));
        }
    }

    /// Counts a problem, and names it if there is room.
    pub fn problem(&mut self, problem: &Problem) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_NAMED {
            self.problems.push(NamedProblem {
                path: clipped(&problem.path.to_string()),
                operation: problem.operation.words().to_owned(),
                reason: masked(&escape(problem.reason.as_bytes())),
            });
        }
    }

    /// Says why the run ended early, and what to do next.
    pub fn explain(&mut self, message: &str, hints: &[String]) {
        self.message = Some(masked(message));
        self.hints = hints.iter().map(|hint| masked(hint)).collect();
    }

    /// Whether the standby was in sync after it: all that the profile covers, without a problem, on stable storage.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.kind == RunKind::Sync && self.outcome == Outcome::InSync && !self.partial
    }
}

/// Why records cannot be kept or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The directory cannot be made, opened or listed.
    #[error("cannot {action} the records in {path}: {reason}")]
    Directory {
        /// What was being done.
        action: &'static str,
        /// Which directory, escaped.
        path: String,
        /// Why it failed.
        reason: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {reason}")]
    File {
        /// Which file, escaped.
        path: String,
        /// Why it failed.
        reason: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::problem::Operation;

    use super::*;

    #[test]
    fn a_record_does_not_grow_with_what_goes_wrong() {
        let mut record = Record::begin(RunId::new(Duration::from_secs(1), 2), RunKind::Sync, "0.1.0", "p", 0);
        let path = RelPath::new(vec![b'\\'; 200]).unwrap();
        for _ in 0..10_000 {
            record.problem(&Problem::new(&path, Operation::Read, "\u{1b}".repeat(9000)));
            record.gate(GateAnswer {
                name: "g".into(),
                kind: "command".into(),
                moment: "before-plan".into(),
                verdict: "pass".into(),
                evidence: "e".repeat(9000),
                elapsed_seconds: 0.0,
            });
        }
        record.explain(&"m".repeat(1 << 20), &["h".repeat(1 << 20)]);
        assert_eq!((record.problem_count, record.problems.len(), record.gates.len()), (10_000, 100, 200));
        assert!(serde_json::to_vec(&record).unwrap().len() < 1 << 20);
    }
}
