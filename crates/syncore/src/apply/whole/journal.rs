//! The journal of a run that changes everything or nothing: what is done once it is on disk.
//!
//! Why: between the first rename and the last the tree is neither old nor new. Whoever finds a journal goes on with
//! it, and needs neither production nor what the run knew. What can go wrong: half a journal; it carries its own digest,
//! gets its name when it is on disk, and is none before.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, statat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::plan::Change;
use crate::profile::Keep;
use crate::tree::{Attributes, Entry, RelPath};

/// One step. Each can be done again when it is not known whether it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// A directory comes into being; what it is like is set by a later [`Step::Dress`].
    MakeDirectory(RelPath),
    /// What is staged gets its name, and what has the name is kept.
    Put {
        /// The name.
        path: RelPath,
        /// What happens there.
        change: Change,
        /// What it is afterwards.
        entry: Entry,
        /// Its name in the stage.
        staged: String,
    },
    /// Something goes away and is kept; a directory is empty by then, and its metadata is all that there is to keep.
    Remove {
        /// What.
        path: RelPath,
        /// What it was like.
        before: Entry,
    },
    /// Metadata changes, of these attributes.
    Dress {
        /// Of what.
        path: RelPath,
        /// Which.
        attributes: Attributes,
        /// What it was like; none for what this run makes.
        before: Option<Entry>,
        /// What it is afterwards.
        after: Entry,
    },
}

impl Step {
    /// The path that it changes.
    pub(super) fn path(&self) -> &RelPath {
        match self {
            Self::MakeDirectory(path)
            | Self::Put { path, .. }
            | Self::Remove { path, .. }
            | Self::Dress { path, .. } => path,
        }
    }
}

/// What led to a state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MadeBy {
    /// A sync.
    #[default]
    Sync,
    /// A rollback of the run that had led to this state.
    Rollback(u64),
    /// A rollback of some paths of the run that had led to this state.
    PartialRollback(u64),
}

/// All steps of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// The profile that is carried out.
    pub(super) profile: String,
    /// The number of the state that they lead to.
    pub(super) generation: u64,
    /// The state that the run of this profile before it had led to.
    pub(super) previous: u64,
    /// When they were written down, in seconds since the epoch.
    pub(super) written_seconds: u64,
    /// What kind of run it is.
    pub(super) made_by: MadeBy,
    /// How much is kept of the profile's runs, this one included.
    pub(super) keep: Keep,
    /// Where the filesystems begin that they touch.
    pub(super) tops: Vec<RelPath>,
    /// The steps in their order; a number in it names what is kept.
    pub(super) steps: Vec<Step>,
    /// Where the removals begin that come after everything else.
    pub(super) removals_at: usize,
    /// Where the metadata of directories begins, which comes last.
    pub(super) directories_at: usize,
    /// Directories in which something changes, and what they were like.
    pub(super) touched: Vec<(RelPath, Entry)>,
}

/// What a journal begins with, in the order of its fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Head {
    pub(super) profile: String,
    _generation: u64,
    _previous: u64,
    pub(super) written_seconds: u64,
}

/// The name in home.
pub(super) const NAME: &str = "journal";
const DIGEST_BYTES: usize = 32;
/// Above the longest [`Head`]: a profile's name is that of a file.
const HEAD_BYTES: u64 = 8 << 10;
/// Above any journal of a plan that fits its own limit.
const LIMIT_BYTES: u64 = 4 << 30;

impl Journal {
    /// Writes it as `name`, durably; there is none of that name before all of it is on disk.
    pub(super) fn write(&self, directory: &OwnedFd, name: &str) -> io::Result<()> {
        let mut content = postcard::to_allocvec(self).map_err(io::Error::other)?;
        let digest = *blake3::hash(&content).as_bytes();
        content.extend_from_slice(&digest);
        durable::replace(directory, name, &content, 0o600, None)
    }

    /// Whether there is one in `home`, whole or not.
    pub(super) fn is_there(home: &OwnedFd) -> io::Result<bool> {
        match statat(home, NAME, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes it away from `home`, durably.
    pub(super) fn withdraw(home: &OwnedFd) -> io::Result<()> {
        match unlinkat(home, NAME, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(fsync(home)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads it; none if there is none, or none that is whole.
    pub(super) fn read(directory: &OwnedFd, name: &str) -> io::Result<Option<Self>> {
        let Some(content) = durable::read(directory, name, LIMIT_BYTES)? else { return Ok(None) };
        let Some((content, digest)) = content.split_last_chunk::<DIGEST_BYTES>() else { return Ok(None) };
        if blake3::hash(content).as_bytes() != digest {
            return Ok(None);
        }
        // Of another version: what it says is not known, and must not be taken for nothing.
        postcard::from_bytes(content).map(Some).map_err(io::Error::other)
    }

    /// Whose it is and of when, whether it is whole or not: a journal is as long as its run, and these are asked of all
    /// that are kept, in every run. None if there is none, or nothing that begins like one.
    pub(super) fn read_head(directory: &OwnedFd, name: &str) -> io::Result<Option<Head>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(directory, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut content = Vec::new();
        file.take(HEAD_BYTES).read_to_end(&mut content)?;
        Ok(postcard::take_from_bytes(&content).ok().map(|(head, _)| head))
    }
}
