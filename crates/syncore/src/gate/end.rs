//! The two ends of a run as gates see them: looked at when the first gate asks, once in each round.
//!
//! Why: a gate judges what an end tells of itself, and how it is reached is not its business. What can go wrong: an end
//! that does not answer; every gate that needs it then says so, and none takes the silence for an answer.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::host::Host;
use super::{Asked, No};

/// An end that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// What it tells of itself.
    pub host: Host,
    /// This host's clock before it was asked, in nanoseconds since 1970.
    pub asked_nanoseconds: i128,
    /// This host's clock after it had answered.
    pub answered_nanoseconds: i128,
}

/// Why an end could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseen {
    /// It did not answer in time.
    Late,
    /// This is wrong with it, in words for a person.
    Failed(String),
}

/// Looks at an end within a time.
pub type Look = Arc<dyn Fn(Duration) -> Result<Sight, Unseen> + Send + Sync>;

/// One end of a run.
pub struct End {
    /// Host and port, where it is on another one.
    pub address: Option<(String, Option<u16>)>,
    look: Look,
    seen: OnceLock<Result<Sight, Unseen>>,
}

impl End {
    /// An end that `look` looks at.
    #[must_use]
    pub fn new(address: Option<(String, Option<u16>)>, look: Look) -> Self {
        Self { address, look, seen: OnceLock::new() }
    }

    /// What it tells of itself; `name` is what messages call it.
    pub(super) fn look(&self, name: &str, asked: &Asked<'_>) -> Result<Sight, No> {
        let limit = asked.left().max(Duration::from_secs(1));
        match self.seen.get_or_init(|| (self.look)(limit)) {
            Ok(sight) => Ok(sight.clone()),
            Err(Unseen::Late) => Err(No::too_late(asked.limit, &format!("the {name} was being asked"))),
            Err(Unseen::Failed(reason)) => Err(No::cannot_tell(
                format!("the {name} cannot be looked at: {reason}"),
                "make the connection work; `clonetool plan` with the same profile uses it, too",
            )),
        }
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("address", &self.address)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}
