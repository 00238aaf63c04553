//! The receiver's part until the plan is there: it answers the sender's questions.
//!
//! Why: the sender makes the plan of what the receiver says of the standby. What can go wrong: a plan that did not
//! arrive as it was sent; its own digest tells.

use crate::apply::Problems;
use crate::monitor::Monitor;
use crate::plan::{Line, Listed, Plan};
use crate::session::sender::note_all;
use crate::session::{SessionError, unexpected};
use crate::tree::{Digest, Entry, Kind, NameKey};
use crate::wire::{Answer, CONTROL, Connection, Message, Question, WireError};

/// How many questions are answered at once; bounds the answers that wait to be sent.
const QUESTIONS_AT_ONCE: usize = 32;

/// Answers questions, each in parts; true when more of the same answer follows.
pub(super) type AnswerAll<'a> = &'a dyn Fn(&[Question]) -> Vec<Vec<(Answer, bool)>>;

/// The plan, and what the sender scanned for it.
pub(super) struct Described {
    pub(super) plan: Plan,
    pub(super) entries: u64,
    pub(super) tree: Digest,
}

/// Answers questions until the plan is there; none when there will be no run.
pub(super) fn answer_until_planned(
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

/// What a root that is about to be made would answer: it is there, and empty.
pub(super) fn answer_of_missing(question: &Question, names: NameKey) -> Answer {
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
