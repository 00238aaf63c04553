//! What a preparation came to, for the last screen and for JSON.
//!
//! Why: the person at the prompt reboots on the strength of one word. So the word is worked out here, from everything
//! that was found, and nowhere else. What can go wrong: a failure that counts as a note; a [`Finding`] says how
//! much it weighs where it is found.

use super::{Edit, Undo};
use crate::tree::RelPath;

/// The one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It boots as itself, as far as can be known without booting it.
    Ready,
    /// It boots when the pending commands have been run.
    Pending,
    /// It does not boot, or not as itself.
    Failed,
}

/// Something of production's that became something of the standby's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// What: `hostname`, `machine-id`, `/`, `address eth0`.
    pub what: String,
    /// Production's.
    pub old: String,
    /// The standby's.
    pub new: String,
}

/// Something that is on the standby and does nothing until it is promoted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// What kind: `cron`, `timer`, `unit`, `at`, `mail queue`, `export`, `data`.
    pub kind: String,
    /// Its name, as an administrator knows it.
    pub name: String,
    /// How it is held, in words for a person.
    pub how: String,
    /// What was done to hold it, in this order; undone backwards when it is released.
    #[serde(default)]
    pub undo: Vec<Undo>,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Worth knowing.
    Note,
    /// Something is left to be done, here or on the target, before it boots.
    Pending,
    /// It will not boot, or not as itself.
    Failure,
}

/// Something that a person has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it weighs.
    pub weight: Weight,
    /// Where, if it is somewhere.
    pub path: Option<RelPath>,
    /// What, in one sentence without a full stop, and what to do.
    pub message: String,
}

impl Finding {
    /// Worth knowing.
    pub(crate) fn note(message: impl Into<String>) -> Self {
        Self { weight: Weight::Note, path: None, message: message.into() }
    }

    /// Left to be done.
    pub(crate) fn pending(message: impl Into<String>) -> Self {
        Self { weight: Weight::Pending, path: None, message: message.into() }
    }

    /// In the way of a boot.
    pub(crate) fn failure(message: impl Into<String>) -> Self {
        Self { weight: Weight::Failure, path: None, message: message.into() }
    }

    /// Says where.
    pub(crate) fn at(mut self, path: &RelPath) -> Self {
        self.path = Some(path.clone());
        self
    }
}

/// When a command is run; commands of one step keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// New host keys.
    HostKeys,
    /// Databases that the configuration is compiled into.
    Configuration,
    /// Module dependencies.
    Depmod,
    /// Initramfs or boot archive.
    Initramfs,
    /// The boot loader on the disks.
    Bootloader,
    /// What the boot loader reads.
    BootConfiguration,
    /// The path that firmware tries without an entry in its memory.
    FallbackPath,
    /// Labels of what was written.
    Labels,
}

/// A public host key of the standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// The file.
    pub path: RelPath,
    /// Its SHA256 fingerprint as ssh-keygen(1) prints it.
    pub fingerprint: String,
    /// The line for a known_hosts file.
    pub known_hosts_line: String,
}

/// Everything there is to say at the end.
#[derive(Debug, Clone)]
pub struct Report {
    /// The one word.
    pub outcome: Outcome,
    /// What the root is: `Debian GNU/Linux 12 (bookworm)`.
    pub system: String,
    /// Old and new names and devices.
    pub replaced: Vec<Replaced>,
    /// What will start at the next boot besides the distribution's own.
    pub starts: Vec<String>,
    /// What is there and does nothing.
    pub held: Vec<Held>,
    /// The standby's new host keys.
    pub host_keys: Vec<HostKey>,
    /// Every edit.
    pub edits: Vec<Edit>,
    /// Commands that were run, or in a dry run would be, in this order.
    pub commands: Vec<Vec<String>>,
    /// Commands that are left to be run, and where: on the target, in the prepared root.
    pub pending: Vec<Vec<String>>,
    /// What a person has to know.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The word that follows from what was found.
    #[must_use]
    pub(crate) fn outcome_of(findings: &[Finding], pending: bool) -> Outcome {
        match findings.iter().map(|finding| finding.weight).max() {
            Some(Weight::Failure) => Outcome::Failed,
            Some(Weight::Pending) => Outcome::Pending,
            _ if pending => Outcome::Pending,
            _ => Outcome::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_outweighs_everything() {
        let (note, pending, failure) = (Finding::note("a"), Finding::pending("b"), Finding::failure("c"));
        assert_eq!(Report::outcome_of(&[], false), Outcome::Ready);
        assert_eq!(Report::outcome_of(std::slice::from_ref(&note), false), Outcome::Ready);
        assert_eq!(Report::outcome_of(&[], true), Outcome::Pending);
        assert_eq!(Report::outcome_of(&[pending.clone(), note], false), Outcome::Pending);
        assert_eq!(Report::outcome_of(&[failure, pending], true), Outcome::Failed);
    }
}
