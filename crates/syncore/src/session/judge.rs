//! Whether a plan may be carried out here: the standby's own word.
//!
//! Why: a plan comes from the other end, which may be wrong or taken over. What can go wrong: a check that is made of
//! the same rules that the sender sent; so the standby's own are compiled apart, and the stricter verdict holds.

use crate::plan::{Change, Plan};
use crate::rules::{RuleSet, Scope};
use crate::scan::View;
use crate::tree::{Kind, RelPath};
use crate::wire::WireError;

/// Checks every item of a received plan against the rules and boundaries of the run, and against `own`, which the
/// sender had no part in: the stricter verdict holds.
///
/// # Errors
/// [`WireError::Protocol`] naming the first item that an honest sender would not have planned.
pub(crate) fn check_plan(view: &View, own: &RuleSet, plan: &Plan) -> Result<(), WireError> {
    let in_scope = |path: &RelPath, kind: Kind, may_be_place: bool| {
        let is_directory = kind == Kind::Directory;
        let (agreed, own) =
            (view.rules.decide(path, is_directory).scope, own.decide(path, is_directory).scope);
        let scope = if own == Scope::In {
            agreed
        } else if agreed == Scope::Out {
            Scope::Out
        } else {
            own
        };
        let mut at = path.parent();
        while let Some(ancestor) = at {
            if view.boundaries.barriers.contains(&ancestor) {
                return false;
            }
            at = ancestor.parent();
        }
        let barrier = view.boundaries.barriers.contains(path);
        match scope {
            Scope::In => !barrier || (may_be_place && is_directory),
            Scope::Implied | Scope::Empty => may_be_place && is_directory,
            Scope::Out => false,
        }
    };
    for item in plan.items() {
        let creates = item.change == Change::Create;
        let old_kind = match item.change {
            Change::Replace(kind) => kind,
            _ => item.entry.kind,
        };
        let allowed = in_scope(&item.path, item.entry.kind, creates)
            && in_scope(&item.path, old_kind, creates)
            && [&item.link_to, &item.moved_from]
                .into_iter()
                .flatten()
                .all(|other| in_scope(other, item.entry.kind, false));
        // What is the standby's own in a file goes with the file.
        let is_made = |path: &RelPath| own.substitution(path).is_some();
        let goes =
            matches!(item.change, Change::Delete(kind) | Change::Replace(kind) if kind != Kind::Directory);
        if goes && is_made(&item.path) || item.moved_from.as_ref().is_some_and(is_made) {
            return Err(WireError::Protocol(format!(
                "the plan for {} takes away what is the standby's own in part",
                item.path
            )));
        }
        if !allowed {
            return Err(WireError::Protocol(format!(
                "the plan names {}, which is out of scope here",
                item.path
            )));
        }
    }
    Ok(())
}
