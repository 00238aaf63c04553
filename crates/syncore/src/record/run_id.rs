//! The name of a run, which is that of its record's file.
//!
//! Why: records are listed in the order in which the runs began, and two that end together must not write one file.
//! What can go wrong: a name from a command line that leads out of the directory; only what a run was ever called is one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names a run: when it began, and a number drawn for it. Runs are in the order in which they began, also those of one
/// second.
///
/// ```
/// use std::time::Duration;
/// use syncore::record::RunId;
/// let run = RunId::new(Duration::new(1_795_275_160, 482_113_000), 0x9f3c);
/// assert_eq!(run.to_string(), "1795275160-482113-9f3c");
/// assert_eq!("1795275160-482113-9f3c".parse(), Ok(run));
/// assert!("../1795275160-482113-9f3c".parse::<RunId>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId {
    started_seconds: u64,
    microseconds: u32,
    random: u16,
}

impl RunId {
    /// A run that began so long after the epoch; `random` tells apart what began in the same microsecond.
    #[must_use]
    pub fn new(since_epoch: Duration, random: u16) -> Self {
        Self { started_seconds: since_epoch.as_secs(), microseconds: since_epoch.subsec_micros(), random }
    }

    /// When it began, in seconds since the epoch.
    #[must_use]
    pub fn started_seconds(self) -> u64 {
        self.started_seconds
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:06}-{:04x}", self.started_seconds, self.microseconds, self.random)
    }
}

/// A text that names no run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it is no run's name, as 1795275160-482113-9f3c is one")]
pub struct NoRunId;

impl FromStr for RunId {
    type Err = NoRunId;

    fn from_str(text: &str) -> Result<Self, NoRunId> {
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or(NoRunId);
        let started_seconds = part()?.parse().map_err(|_| NoRunId)?;
        let microseconds = part()?.parse().map_err(|_| NoRunId)?;
        let random = u16::from_str_radix(part()?, 16).map_err(|_| NoRunId)?;
        let run = Self { started_seconds, microseconds, random };
        // One run, one name: it is that of a file, too.
        if run.to_string() == text && microseconds < 1_000_000 { Ok(run) } else { Err(NoRunId) }
    }
}

impl TryFrom<String> for RunId {
    type Error = NoRunId;

    fn try_from(text: String) -> Result<Self, NoRunId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(run: RunId) -> Self {
        run.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_one_name() {
        let bad = [
            "",
            "1",
            "1-000000",
            "1-000000-00000",
            "01-000000-0000",
            "+1-000000-0000",
            "1-00000-0000",
            "1-1000000-0000",
            "1-000000-000G",
            "1-000000-+000",
            "1-000000-0000/",
            "1-000000-ABCD",
            "1-000000-0000-0",
        ];
        for bad in bad {
            assert_eq!(bad.parse::<RunId>(), Err(NoRunId), "{bad}");
        }
        let run = RunId::new(Duration::new(u64::MAX, 999_999_999), u16::MAX);
        assert_eq!(run.to_string().parse(), Ok(run));
    }

    #[test]
    fn runs_of_one_second_are_in_the_order_in_which_they_began() {
        let first = RunId::new(Duration::new(1, 999_000), u16::MAX);
        let second = RunId::new(Duration::new(1, 2_000_000), 0);
        assert!(first < second && second < RunId::new(Duration::from_secs(2), 0));
    }
}
