//! `role`: the one root may send, and the other may receive.
//!
//! Why: after a failover the standby is production, and the job that cron still runs on the old production would
//! overwrite it. What can go wrong: a root that says nothing; where this gate is asked, that is no yes.

use super::host::{ROLE_FILE, RoleFile};
use super::{Asked, No};
use crate::tree::escape;

/// What may send, with what receives from it.
const PAIRS: [(&str, &str); 2] =
    [("production", "standby"), ("standby_as_production", "production_as_standby")];

/// Passes when both roots say so.
pub(super) fn ask(asked: &Asked<'_>) -> Result<String, No> {
    let mut roles = Vec::new();
    for (end, sight) in asked.both()? {
        match &sight.host.role {
            RoleFile::Says(role) => roles.push(escape(role.as_bytes())),
            RoleFile::Absent => {
                return Err(No::refuse(
                    format!("the {end} says nothing of its role: it has no /{ROLE_FILE}"),
                    format!("write its role into /{ROLE_FILE} there, or take the gate out of the profile"),
                ));
            }
            RoleFile::Unreadable(reason) => {
                return Err(No::cannot_tell(
                    format!("/{ROLE_FILE} of the {end} cannot be read: {}", escape(reason.as_bytes())),
                    "make it a file with one word in it",
                ));
            }
        }
    }
    let [from, to] = &roles[..] else {
        return Err(No::cannot_tell("an end is missing", "report this as a bug"));
    };
    let evidence = format!("the source is {from}, the destination is {to}");
    match PAIRS.contains(&(from, to)) {
        true => Ok(evidence),
        false => Err(No::refuse(
            evidence,
            "a sync goes from production to standby; find out which host serves before anything is changed",
        )),
    }
}
