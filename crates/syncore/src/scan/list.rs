//! Reads one directory: every name that the rules let take part, judged and with its metadata.
//!
//! Why: the digest scan, the listings of the comparison and the walk of a new subtree all need the same answer for
//! the same directory, so there is one reader. What can go wrong: a name that cannot be read must not look like one
//! that is not there, or it would be deleted on the standby.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use rustix::fs::{FileType, RawDir, Statx};
use rustix::io::Errno;

use super::bare::{BareList, UniqueMount};
use super::batch::Batch;
use super::boundary::{is_hollow, never_entered};
use super::metadata::{Detail, Scratch, complete, read_entry, read_kind, read_stat};
use super::root::Identity;
use super::slice::Slice;
use super::view::{Named, Place, Seen, View, is_stage_name};
use crate::problem::Operation;
use crate::rules::{Cursor, Scope};
use crate::tree::{Kind, PATH_LIMIT_BYTES};

/// Bytes of directory entries read by one getdents64 call.
const DIRENT_BYTES: usize = 32 * 1024;

/// What the rules make of a name.
enum Judged<'n> {
    /// All that there is to say; nothing when it is gone.
    Seen(Option<Seen<'n>>),
    /// It takes part: its metadata is to be read.
    Taken(Taken),
}

/// A name that takes part.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) is_directory: bool,
    pub(super) scope: Scope,
    pub(super) auth_set: bool,
    pub(super) below: Option<Cursor>,
    pub(super) detail: Detail,
}

impl View {
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
        let bare = self
            .bare
            .as_deref()
            .filter(|_| detail == Detail::Quick)
            .and_then(|bare| Some((bare, bare.covers(place.directory, place.identity().mount)?)));
        let mut batch = std::mem::take(&mut scratch.batch);
        let listed = loop {
            let Some(dirent) = names.next() else { break Ok(()) };
            let dirent = match dirent {
                // Interrupted by a signal, nothing was read yet.
                Err(Errno::INTR) => continue,
                Err(error) => break Err(error),
                Ok(dirent) => dirent,
            };
            let name = dirent.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || !select(name.to_bytes()) {
                continue;
            }
            let kind = match dirent.file_type() {
                FileType::Unknown => None,
                kind => Some(kind == FileType::Directory),
            };
            match (self.judge(place, name, kind, detail), bare) {
                (Judged::Seen(seen), _) => seen.into_iter().for_each(&mut *each),
                (Judged::Taken(taken), Some(bare)) if taken.detail == Detail::Quick => {
                    batch.push(name, taken);
                    if batch.is_full() {
                        self.read_batch(place, &mut batch, bare, scratch, each);
                    }
                }
                (Judged::Taken(taken), _) => {
                    let stat = read_stat(place.directory, name);
                    let stat = stat.as_ref().map_err(|error| *error);
                    self.read(place, name, taken, stat, false, scratch, each);
                }
            }
        };
        if let Some(bare) = bare {
            self.read_batch(place, &mut batch, bare, scratch, each);
        }
        scratch.batch = batch;
        listed
    }

    /// Reads the names of `batch`, and their attributes unless it is known that none has any.
    fn read_batch(
        &self,
        place: &Place<'_>,
        batch: &mut Batch,
        (list, mount): (&BareList, UniqueMount),
        scratch: &mut Scratch,
        each: &mut dyn FnMut(Seen<'_>),
    ) {
        let count = batch.len();
        if count == 0 {
            return;
        }
        let seal = batch.read(place, mount);
        let known = seal.as_ref().is_some_and(|seal| list.knows(seal));
        let mut bare = true;
        batch.drain(|name, taken, stat| bare &= self.read(place, name, taken, stat, known, scratch, each));
        if let Some(seal) = seal.filter(|_| bare) {
            list.add(&seal, count);
        }
    }

    /// Says by the rules what is to be made of a name.
    fn judge<'n>(
        &self,
        place: &Place<'_>,
        name: &'n CStr,
        is_directory: Option<bool>,
        detail: Detail,
    ) -> Judged<'n> {
        if is_stage_name(name.to_bytes()) {
            return Judged::Seen(Some(Seen::Leftover(name)));
        }
        let is_directory = match is_directory {
            Some(known) => known,
            None => match read_kind(place.directory, name) {
                Ok((kind, _)) => kind == Kind::Directory,
                Err(Errno::NOENT) => return Judged::Seen(None),
                Err(error) => return Judged::Seen(Some(place.problem(name, Operation::ReadMetadata, error))),
            },
        };
        let (decision, below) = self.rules.enter(place.cursor, name.to_bytes(), is_directory);
        if decision.scope == Scope::Out {
            return Judged::Seen(Some(Seen::Out(name, decision.protected)));
        }
        if place.path.as_bytes().len() + 1 + name.to_bytes().len() > PATH_LIMIT_BYTES {
            let problem = place.problem(name, Operation::ReadMetadata, Errno::NAMETOOLONG);
            return Judged::Seen(Some(problem));
        }
        let content = self.reads_content(place, name) || decision.auth_set;
        let detail = if content { Detail::Content } else { detail };
        let (scope, auth_set) = (decision.scope, decision.auth_set);
        Judged::Taken(Taken { is_directory, scope, auth_set, below, detail })
    }

    /// Reads a name that takes part, of which `stat` is known and, if `bare`, that it has no attributes, and hands it
    /// over unless it is gone; says whether it is there and has none.
    #[expect(clippy::too_many_arguments, reason = "the hot path: what is handed over is never copied")]
    fn read(
        &self,
        place: &Place<'_>,
        name: &CStr,
        taken: Taken,
        stat: rustix::io::Result<&Statx>,
        bare: bool,
        scratch: &mut Scratch,
        each: &mut dyn FnMut(Seen<'_>),
    ) -> bool {
        let Taken { is_directory, mut scope, auth_set, below, detail } = taken;
        let mut read = stat.and_then(|stat| complete(place.directory, name, stat, detail, bare, scratch));
        // It may have become something else since; of that, nothing is known.
        let again = read.is_err() && stat.is_ok() && detail == Detail::Quick;
        if again {
            read = read_entry(place.directory, name, detail, scratch);
        }
        let operation = if detail == Detail::Content { Operation::Read } else { Operation::ReadMetadata };
        let (mut entry, inode) = match read {
            Ok(read) => read,
            // Gone, unless it is something else that is missing: procfs, say.
            Err(Errno::NOENT) if read_kind(place.directory, name).is_err() => return false,
            Err(error) => {
                each(place.problem(name, operation, error));
                return false;
            }
        };
        if !self.presented.is_empty()
            && let Some(presented) = self.presented.get(&place.path.join(name.to_bytes()))
        {
            presented.put(&mut entry);
        }
        if (entry.kind == Kind::Directory) != is_directory {
            // RACE: it became another kind while it was judged. The rules may say otherwise of that kind, so it is
            // left alone; the next run sees it settled.
            each(place.problem(name, Operation::ReadMetadata, Errno::AGAIN));
            return false;
        }
        let bare = !again && (bare || scratch.bare);
        let mut below = below.filter(|_| is_directory && scope != Scope::Empty);
        if is_directory && below.is_some() && !self.enters(place, name, &inode.identity) {
            (scope, below) = (Scope::Empty, None);
        }
        each(Seen::Named(Named { name, scope, auth_set, below, entry, inode }));
        bare
    }

    fn reads_content(&self, place: &Place<'_>, name: &CStr) -> bool {
        let in_slice = |slice: &Slice| slice.contains(&place.path.join(name.to_bytes()));
        self.checksum && self.slice.as_ref().is_none_or(in_slice)
    }

    fn enters(&self, place: &Place<'_>, name: &CStr, child: &Identity) -> bool {
        if is_hollow(place.directory, name, child) {
            return false;
        }
        let boundary = place.identity().boundary_to(child);
        if !boundary && self.boundaries.barriers.is_empty() {
            return true;
        }
        let path = place.path.join(name.to_bytes());
        if !self.boundaries.enters(&path, &place.identity(), child) {
            return false;
        }
        !boundary || self.root.open_directory(&path).is_ok_and(|directory| !never_entered(directory))
    }
}
