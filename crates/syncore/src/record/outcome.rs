//! What a run was for, and how it ended.
//!
//! Why: the words are those of records and of scripts that read them. What can go wrong: an end that passes for a good
//! one; only one of them is, and only of a sync.

use serde::{Deserialize, Serialize};

/// What a run was for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// To bring a standby up to date.
    #[default]
    Sync,
    /// To put a standby back to what it was.
    Rollback,
    /// To complete or revert a run that was interrupted.
    Recovery,
    /// To say what differs.
    Verify,
}

impl RunKind {
    /// The word in a record.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Rollback => "rollback",
            Self::Recovery => "recovery",
            Self::Verify => "verify",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It has not said so: it is under way, or was killed, or the host lost power.
    Unfinished,
    /// Everything in scope is equal and on stable storage.
    InSync,
    /// The same, without waiting for stable storage.
    Done,
    /// Of a verification: nothing differs.
    Equal,
    /// Of a verification: something differs.
    Differences,
    /// Done, but some paths keep their old state; of a verification, could not be compared.
    Problems,
    /// A human has to decide; nothing was changed.
    Refused,
    /// The standby was rolled back and no run may change it; nothing was changed.
    Suspended,
    /// Another run held the standby root.
    Busy,
    /// A signal ended it.
    Interrupted,
    /// The command line, the profile or a rule is wrong.
    Usage,
    /// The peer, the way to it, or its host key.
    Peer,
    /// The run as a whole failed.
    Failed,
}

impl Outcome {
    /// The word in a record.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::InSync => "in-sync",
            Self::Done => "done",
            Self::Equal => "equal",
            Self::Differences => "differences",
            Self::Problems => "problems",
            Self::Refused => "refused",
            Self::Suspended => "suspended",
            Self::Busy => "busy",
            Self::Interrupted => "interrupted",
            Self::Usage => "usage",
            Self::Peer => "peer",
            Self::Failed => "failed",
        }
    }

    /// Whether the run came to an end of its own. One that found another run at work has not begun.
    #[must_use]
    pub const fn ended(self) -> bool {
        !matches!(self, Self::Unfinished | Self::Busy)
    }
}
