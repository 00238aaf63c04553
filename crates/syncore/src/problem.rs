//! What went wrong with one path while the run as a whole went on.
//!
//! Why: an operating system has a hundred thousand files, and one that vanished must neither stop the run nor be
//! forgotten. Problems are collected and counted, and a run that has any is not "in sync" (exit code 4).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tree::RelPath;

/// What was being done when a [`Problem`] came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Operation {
    /// Listing a directory.
    List,
    /// Reading metadata, extended attributes or inode flags.
    ReadMetadata,
    /// Reading content.
    Read,
    /// Making a file, directory, link or special file.
    Create,
    /// Writing content.
    Write,
    /// Setting the owner.
    SetOwner,
    /// Setting permission bits.
    SetMode,
    /// Setting an extended attribute or ACL.
    SetXattr,
    /// Setting the modification time.
    SetTimes,
    /// Setting inode flags.
    SetFlags,
    /// Making a hard link.
    Link,
    /// Renaming into place.
    Rename,
    /// Deleting.
    Delete,
    /// Doing what has to follow a change on the standby.
    FollowUp,
    /// Keeping what the rules, a mount or a limit protect.
    Protect,
    /// Carrying out what is committed already.
    Commit,
    /// Removing the snapshot of the source.
    RemoveSnapshot,
}

impl Operation {
    /// The words for messages: "cannot …".
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::List => "list the directory",
            Self::ReadMetadata => "read the metadata",
            Self::Read => "read the content",
            Self::Create => "create it",
            Self::Write => "write the content",
            Self::SetOwner => "set the owner",
            Self::SetMode => "set the permission bits",
            Self::SetXattr => "set an extended attribute",
            Self::SetTimes => "set the modification time",
            Self::SetFlags => "set the inode flags",
            Self::Link => "make the hard link",
            Self::Rename => "rename it into place",
            Self::Delete => "delete it",
            Self::FollowUp => "do what has to follow its change",
            Self::Commit => "carry out what is committed",
            Self::RemoveSnapshot => "remove the snapshot that was read",
            Self::Protect => "change it",
        }
    }
}

/// Something that could not be done to one path, on one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which path.
    pub path: RelPath,
    /// What was being done.
    pub operation: Operation,
    /// Why it could not be done, in words for a person.
    pub reason: String,
}

impl Problem {
    /// A problem with `path`; `reason` is an error or a sentence.
    #[must_use]
    pub fn new(path: &RelPath, operation: Operation, reason: impl fmt::Display) -> Self {
        Self { path: path.clone(), operation, reason: reason.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: cannot {}: {}",
            self.path,
            self.operation.words(),
            crate::tree::escape(self.reason.as_bytes())
        )
    }
}
