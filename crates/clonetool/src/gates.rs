//! Asks the gates of a profile and says what they answered: alone, before a plan, and before a commit.
//!
//! Why: `gates` and `sync` ask the same gates, and a refusal reads the same in both. What can go wrong: a gate that is
//! skipped; whoever wants to go on needs the answer of [`hold`], which stops at the first that does not pass.

use std::sync::Arc;

use syncore::gate::{self, Answer, Surroundings};
use syncore::profile::Gate;
use syncore::session::Job;

use crate::error::{CommandError, UNCHANGED, harmless};
use crate::ui::Ui;

/// When gates are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// By `clonetool gates`.
    Alone,
    /// By a run, before anything else.
    BeforePlan,
    /// By a run, before its first change: those that can turn meanwhile.
    BeforeCommit,
}

impl Moment {
    /// The word for scripts.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::BeforePlan => "before-plan",
            Self::BeforeCommit => "before-commit",
        }
    }
}

/// Asks the gates that belong to `moment`, in order, until one does not pass; that one is the error.
pub(crate) fn hold(gates: &[Gate], moment: Moment, _job: &Job, ui: &Ui) -> Result<(), CommandError> {
    let again = |gate: &&Gate| moment != Moment::BeforeCommit || gate.check.again_before_commit();
    let surroundings = Arc::new(Surroundings::default());
    for gate in gates.iter().filter(again) {
        let answer = gate::ask(gate, &surroundings, ui);
        ui.gate(gate, &answer, moment);
        if !answer.passed() {
            return Err(refusal(gate, &answer).hint(UNCHANGED));
        }
    }
    Ok(())
}

/// The error that a gate does not pass.
pub(crate) fn refusal(gate: &Gate, answer: &Answer) -> CommandError {
    let (name, kind, place) = (&gate.name, gate.check.kind(), &gate.origin);
    CommandError::refused(format!("refused by the gate {name} ({kind}, {place}): {}", answer.evidence))
        .hint(answer.next.clone())
}

/// An answer for people: verdict, gate, evidence, and what to do next.
pub(crate) fn lines(gate: &Gate, answer: &Answer) -> Vec<String> {
    let verdict = answer.verdict.word();
    let first = format!("{verdict:<9} {} ({}): {}", gate.name, gate.check.kind(), harmless(&answer.evidence));
    match answer.passed() {
        true => vec![first],
        false => vec![first, format!("          next: {}", harmless(&answer.next))],
    }
}
