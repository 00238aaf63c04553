//! Reads one directory: every name that the rules let take part, judged and with its metadata.
//!
//! Why: the digest scan, the listings of the comparison and the walk of a new subtree all need the same answer for
//! the same directory, so there is one reader. What can go wrong: a name that cannot be read must not look like one
//! that is not there, or it would be deleted on the standby.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::boundary::{Boundaries, is_hollow, never_entered};
use super::metadata::{Detail, Inode, Scratch, read_entry, read_kind};
use super::root::{Identity, Root};
use super::slice::Slice;
use crate::problem::{Operation, Problem};
use crate::rules::{Cursor, RuleSet, Scope};
use crate::tree::{Entry, Kind, NameKey, PATH_LIMIT_BYTES, RelPath, Timestamp};

/// Bytes of directory entries read by one getdents64 call.
const DIRENT_BYTES: usize = 32 * 1024;

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
    fn put(&self, entry: &mut Entry) {
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

/// A name as [`read_directory`] finds it.
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

    /// Reads the open directory at `path`, handing every name to `each` as it comes.
    ///
    /// `select` may skip a name before anything is read of it.
    ///
    /// # Errors
    /// Whatever getdents64(2) says; the names handed over until then are not all there are.
    pub fn read_directory(
        &self,
        place: &Place<'_>,
        detail: Detail,
        scratch: &mut Scratch,
        select: &dyn Fn(&[u8]) -> bool,
        each: &mut dyn FnMut(Seen<'_>),
    ) -> rustix::io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); DIRENT_BYTES];
        let mut names = RawDir::new(place.directory, &mut buffer);
        while let Some(dirent) = names.next() {
            let dirent = match dirent {
                // Interrupted by a signal, nothing was read yet.
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let name = dirent.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || !select(name.to_bytes()) {
                continue;
            }
            let kind = match dirent.file_type() {
                FileType::Unknown => None,
                kind => Some(kind == FileType::Directory),
            };
            if let Some(seen) = self.judge(place, name, kind, detail, scratch) {
                each(seen);
            }
        }
        Ok(())
    }

    /// Judges one name and reads it if it takes part; none when it is gone.
    fn judge<'n>(
        &self,
        place: &Place<'_>,
        name: &'n CStr,
        is_directory: Option<bool>,
        detail: Detail,
        scratch: &mut Scratch,
    ) -> Option<Seen<'n>> {
        if is_stage_name(name.to_bytes()) {
            return Some(Seen::Leftover(name));
        }
        let problem = |operation, error: Errno| {
            let path = place.path.join(name.to_bytes());
            let reason = std::io::Error::from(error);
            Some(Seen::Unreadable(name, Problem::new(&path, operation, reason)))
        };
        let is_directory = match is_directory {
            Some(known) => known,
            None => match read_kind(place.directory, name) {
                Ok((kind, _)) => kind == Kind::Directory,
                Err(Errno::NOENT) => return None,
                Err(error) => return problem(Operation::ReadMetadata, error),
            },
        };
        let (decision, below) = self.rules.enter(place.cursor, name.to_bytes(), is_directory);
        if decision.scope == Scope::Out {
            return Some(Seen::Out(name, decision.protected));
        }
        if place.path.as_bytes().len() + 1 + name.to_bytes().len() > PATH_LIMIT_BYTES {
            return problem(Operation::ReadMetadata, Errno::NAMETOOLONG);
        }
        let detail =
            if self.reads_content(place, name) || decision.auth_set { Detail::Content } else { detail };
        let (mut entry, inode) = match read_entry(place.directory, name, detail, scratch) {
            Ok(read) => read,
            // Gone, unless it is something else that is missing: procfs, say.
            Err(Errno::NOENT) if read_kind(place.directory, name).is_err() => return None,
            Err(error) if detail == Detail::Content => return problem(Operation::Read, error),
            Err(error) => return problem(Operation::ReadMetadata, error),
        };
        if !self.presented.is_empty()
            && let Some(presented) = self.presented.get(&place.path.join(name.to_bytes()))
        {
            presented.put(&mut entry);
        }
        if (entry.kind == Kind::Directory) != is_directory {
            // RACE: it became another kind while it was judged. The rules may say otherwise of that kind, so it is
            // left alone; the next run sees it settled.
            return problem(Operation::ReadMetadata, Errno::AGAIN);
        }
        let mut named = Named {
            name,
            scope: decision.scope,
            auth_set: decision.auth_set,
            below: below.filter(|_| is_directory && decision.scope != Scope::Empty),
            entry,
            inode,
        };
        if is_directory && named.below.is_some() && !self.enters(place, &named) {
            (named.scope, named.below) = (Scope::Empty, None);
        }
        Some(Seen::Named(named))
    }

    fn reads_content(&self, place: &Place<'_>, name: &CStr) -> bool {
        let in_slice = |slice: &Slice| slice.contains(&place.path.join(name.to_bytes()));
        self.checksum && self.slice.as_ref().is_none_or(in_slice)
    }

    fn enters(&self, place: &Place<'_>, child: &Named<'_>) -> bool {
        if is_hollow(place.directory, child.name, &child.inode.identity) {
            return false;
        }
        let boundary = place.identity.boundary_to(&child.inode.identity);
        if !boundary && self.boundaries.barriers.is_empty() {
            return true;
        }
        let path = place.path.join(child.name.to_bytes());
        if !self.boundaries.enters(&path, &place.identity, &child.inode.identity) {
            return false;
        }
        !boundary || self.root.open_directory(&path).is_ok_and(|directory| !never_entered(directory))
    }
}

/// An open directory and where it is.
#[derive(Debug)]
pub struct Place<'a> {
    /// The directory, open for listing.
    pub directory: BorrowedFd<'a>,
    /// Its path below the root.
    pub path: &'a RelPath,
    /// Its identity, for boundaries.
    pub identity: Identity,
    /// The rules' cursor in it.
    pub cursor: &'a Cursor,
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
