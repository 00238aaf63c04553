//! Asks the gates of a profile and says what they answered: alone, before a plan, and before a commit.
//!
//! Why: `gates` and `sync` ask the same gates, and a refusal reads the same in both. What can go wrong: a gate that is
//! skipped; whoever wants to go on needs the answer of [`hold`], which stops at the first that does not pass.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use syncore::gate::{self, Answer, Demand, Surroundings};
use syncore::plan::Plan;
use syncore::profile::Gate;
use syncore::session::{self, Job, Location};

use crate::error::{CommandError, UNCHANGED, harmless};
use crate::interrupt;
use crate::ui::Ui;

/// When gates are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// By `clonetool gates`.
    Alone,
    /// By a run, before anything else.
    BeforePlan,
    /// By a run, when it knows what it needs: those that ask for that.
    AfterPlan,
    /// By a run, before its first change: those that can turn meanwhile.
    BeforeCommit,
}

impl Moment {
    /// The word for scripts.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::BeforePlan => "before-plan",
            Self::AfterPlan => "after-plan",
            Self::BeforeCommit => "before-commit",
        }
    }
}

/// Asks the gates that belong to `moment`, in order, until one does not pass; that one is the error.
pub(crate) fn hold(
    gates: &[Gate],
    moment: Moment,
    job: &Job,
    demand: Option<Demand>,
    ui: &Ui,
) -> Result<(), CommandError> {
    let belongs = |gate: &&Gate| match moment {
        Moment::Alone | Moment::BeforePlan => true,
        Moment::AfterPlan => gate.check.needs_plan(),
        Moment::BeforeCommit => gate.check.again_before_commit(),
    };
    // New in each round: what was seen before the plan may have turned.
    let surroundings = session::surroundings(&job.source, &job.destination);
    let surroundings = Arc::new(Surroundings { demand, ..surroundings });
    for gate in gates.iter().filter(belongs) {
        let answer = gate::ask(gate, &surroundings, ui);
        interrupt::check()?;
        ui.gate(gate, &answer, moment);
        if !answer.passed() {
            return Err(refusal(gate, &answer).hint(UNCHANGED));
        }
    }
    Ok(())
}

/// What `plan` needs of the destination, where a gate asks.
pub(crate) fn demand(gates: &[Gate], job: &Job, plan: &Plan) -> Option<Demand> {
    gates.iter().any(|gate| gate.check.needs_plan()).then(|| {
        Demand::of(plan, &|path| {
            // Holes take no room. An estimate: what is sent is read again, from a held directory.
            let Location::Local(root) = &job.source else { return None };
            let path = root.join(OsStr::from_bytes(path.as_bytes()));
            std::fs::symlink_metadata(path).ok().map(|file| file.blocks().saturating_mul(512))
        })
    })
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
