//! What is to be read of a tree, under which rules, and how what is read is told.
//!
//! Why: scan, comparison, image and content check read the same tree for different ends, and must see the same. What can
//! go wrong: two ends with different views take equal trees for different ones; so all that a view depends on is in it.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::Statx;
use rustix::io::Errno;

use super::bare::BareList;
use super::boundary::Boundaries;
use super::metadata::{Detail, Inode, Scratch, read_entry};
use super::root::{Identity, Root, identity_of};
use super::slice::Slice;
use crate::problem::{Operation, Problem};
use crate::rules::{Cursor, RuleSet, Scope};
use crate::tree::{Entry, Kind, NameKey, RelPath, Timestamp};

/// What is to be read of a tree, and how.
#[derive(Debug, Clone)]
pub struct View {
    /// Below which directory.
    pub root: Arc<Root>,
    /// Under which rules.
    pub rules: Arc<RuleSet>,
    /// Within which boundaries.
    pub boundaries: Arc<Boundaries>,
    /// Whether content is read and digested, and with it the inode flags that only an open file shows.
    pub checksum: bool,
    /// Of which files content is read, where it is; none: of all.
    pub slice: Option<Slice>,
    /// Files that are taken for others as long as they are what was made of those.
    pub presented: Arc<BTreeMap<RelPath, Presented>>,
    /// The key of the name hashes: that of the other end's view.
    pub names: NameKey,
    /// Which names are known to bear no extended attributes; none: each is asked.
    pub bare: Option<Arc<BareList>>,
}

/// A file that was made here of one that the source has, and passes for that one in a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// The length of what was made.
    pub found_bytes: u64,
    /// The digest of its content ([`digest_open`](crate::scan::digest_open)).
    pub found_digest: [u8; 32],
    /// The modification time of both.
    pub mtime: Timestamp,
    /// The length of the source's file.
    pub as_bytes: u64,
    /// The digest of its content.
    pub as_digest: [u8; 32],
}

impl Presented {
    /// Puts the source's length and digest in place of those of what was made, if that is what `entry` still is.
    pub(super) fn put(&self, entry: &mut Entry) {
        let same = entry.kind == Kind::File
            && (entry.size_bytes, entry.mtime) == (self.found_bytes, self.mtime)
            && entry.content.is_none_or(|digest| digest == self.found_digest);
        if same {
            entry.size_bytes = self.as_bytes;
            entry.content = entry.content.map(|_| self.as_digest);
        }
    }
}

/// A name in a directory that takes part in the run.
#[derive(Debug)]
pub struct Named<'n> {
    /// The name; empty for the root itself.
    pub name: &'n CStr,
    /// In scope, or a directory of which only the existence matters.
    pub scope: Scope,
    /// Its metadata.
    pub entry: Entry,
    /// Its inode.
    pub inode: Inode,
    /// For a directory that is entered: the rules' cursor within it.
    pub below: Option<Cursor>,
    /// Whether it belongs to the auth set.
    pub auth_set: bool,
}

/// A name as [`View::read_directory`] finds it.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of that kind, and none is kept")]
pub enum Seen<'n> {
    /// It takes part.
    Named(Named<'n>),
    /// It is out of scope; true if because it is protected.
    Out(&'n CStr, bool),
    /// It takes part, but cannot be read.
    Unreadable(&'n CStr, Problem),
    /// It is what an interrupted run left behind.
    Leftover(&'n CStr),
}

/// The prefix of every name that is only ever used while something is staged beside its final place.
pub const STAGE_PREFIX: &[u8] = b".clonetool-stage-";

/// Whether `name` is one that staging made: the prefix and 16 hexadecimal digits, nothing else.
#[must_use]
pub fn is_stage_name(name: &[u8]) -> bool {
    name.strip_prefix(STAGE_PREFIX).is_some_and(|rest| {
        rest.len() == 16 && rest.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
    })
}

impl View {
    /// Judges and reads the root directory itself.
    ///
    /// # Errors
    /// Whatever statx(2) says.
    pub fn read_root(&self, scratch: &mut Scratch) -> rustix::io::Result<Named<'static>> {
        self.root_with(self.detail(), scratch)
    }

    /// As [`View::read_root`], with everything that only an open directory shows.
    ///
    /// # Errors
    /// Whatever statx(2) says.
    pub fn read_root_in_full(&self) -> rustix::io::Result<Named<'static>> {
        self.root_with(Detail::Full, &mut Scratch::default())
    }

    fn root_with(&self, detail: Detail, scratch: &mut Scratch) -> rustix::io::Result<Named<'static>> {
        let (cursor, decision) = self.rules.root();
        let (entry, inode) = read_entry(self.root.as_fd(), c".", detail, scratch)?;
        let (scope, auth_set) = (decision.scope, decision.auth_set);
        Ok(Named { name: c"", scope, entry, inode, below: Some(cursor), auth_set })
    }

    /// Reads the metadata of a name that was judged before, with everything that only an open file shows.
    ///
    /// # Errors
    /// Whatever statx(2) says; `ENOENT` when it is gone.
    pub fn read_again(&self, directory: &impl AsFd, name: &CStr) -> rustix::io::Result<Entry> {
        let read = read_entry(directory.as_fd(), name, Detail::Full, &mut Scratch::default());
        read.map(|(entry, _)| entry)
    }

    /// How much a scan reads of each name.
    #[must_use]
    pub fn detail(&self) -> Detail {
        if self.checksum && self.slice.is_none() { Detail::Full } else { Detail::Quick }
    }
}

/// An open directory and where it is.
#[derive(Debug)]
pub struct Place<'a> {
    /// The directory, open for listing.
    pub directory: BorrowedFd<'a>,
    /// Its path below the root.
    pub path: &'a RelPath,
    /// What it was before anything in it was read.
    pub stat: &'a Statx,
    /// The rules' cursor in it.
    pub cursor: &'a Cursor,
}

impl Place<'_> {
    /// Its identity, for boundaries.
    #[must_use]
    pub fn identity(&self) -> Identity {
        identity_of(self.stat)
    }

    pub(super) fn problem<'n>(&self, name: &'n CStr, operation: Operation, error: Errno) -> Seen<'n> {
        let path = self.path.join(name.to_bytes());
        Seen::Unreadable(name, Problem::new(&path, operation, std::io::Error::from(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::is_stage_name;

    #[test]
    fn only_exact_stage_names_are_taken_for_leftovers() {
        assert!(is_stage_name(b".clonetool-stage-0123456789abcdef"));
        for other in [
            &b".clonetool-stage-"[..],
            b".clonetool-stage-0123456789abcdeg",
            b"x.clonetool-stage-0123456789abcdef",
        ] {
            assert!(!is_stage_name(other));
        }
    }
}
