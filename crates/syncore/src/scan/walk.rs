//! Walks a whole tree in parallel and digests it.
//!
//! Why: this is what an hourly run does on a hundred thousand unchanged files, so each directory costs one open and
//! its getdents, each name one statx and at most one list of attributes, and nothing is kept but a digest a directory.
//! What can go wrong: a tree that is deeper than descriptors or stack reach, so the walk is a set of independent tasks (no
//! recursion), and beyond [`HELD_DIRECTORIES`] open directories a task finds its own way from the root.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Mode, OFlags, openat, statx};
use rustix::io::Errno;

use super::metadata::Scratch;
use super::root::statx_mask;
use super::snapshot::{Builder, DirectoryFindings, Snapshot, member_of};
use super::view::{Named, Place, Seen, View};
use crate::monitor::Monitor;
use crate::problem::{Operation, Problem};
use crate::rules::{Cursor, Scope};
use crate::tree::{DirectoryDigest, Kind, NameHash, RelPath, digest_entry, digest_name, place_digest};

/// How many directories may be held open for their children at once; the usual limit of a process is 1024.
const HELD_DIRECTORIES: usize = 400;

/// An open directory that counts itself.
struct Held<'s> {
    fd: OwnedFd,
    count: &'s AtomicUsize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a task gets to its directory.
enum Parent<'s> {
    Held(Arc<Held<'s>>),
    FromRoot,
}

struct Task<'s> {
    parent: Parent<'s>,
    path: RelPath,
    node: u32,
    cursor: Cursor,
}

struct Walk<'s> {
    view: &'s View,
    monitor: &'s dyn Monitor,
    builder: Mutex<Builder>,
    held: AtomicUsize,
    cancelled: AtomicBool,
}

/// Scans the whole tree and keeps up to `kept_bytes` of what it sees of single names; none when the monitor asked to
/// stop.
///
/// # Errors
/// When the root directory itself cannot be read. Everything else is a problem in the snapshot.
pub fn scan(view: &View, kept_bytes: usize, monitor: &dyn Monitor) -> rustix::io::Result<Option<Snapshot>> {
    let root = view.read_root(&mut Scratch::default())?;
    let Some(cursor) = root.below.clone() else { return Err(Errno::INVAL) };
    let walk = Walk {
        view,
        monitor,
        builder: Mutex::new(Builder::root(view.names, kept_bytes)),
        held: AtomicUsize::new(0),
        cancelled: AtomicBool::new(false),
    };
    view.root.open_directory(&RelPath::root())?;
    let task = Task { parent: Parent::FromRoot, path: RelPath::root(), node: 0, cursor };
    rayon::in_place_scope(|scope| walk.directory(scope, &task, Some(&root)));
    if walk.cancelled.into_inner() {
        return Ok(None);
    }
    Ok(walk.builder.into_inner().ok().map(Builder::finish))
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

impl<'s> Walk<'s> {
    fn directory<'w: 's>(&'w self, scope: &rayon::Scope<'w>, task: &Task<'w>, root: Option<&Named<'_>>)
    where
        's: 'w,
    {
        if self.monitor.cancelled() {
            self.cancelled.store(true, Ordering::Relaxed);
            return;
        }
        let mut found = DirectoryFindings::default();
        let mut digest = DirectoryDigest::default();
        let mut children: Vec<(CString, Cursor)> = Vec::new();
        let opened = self.open(task);
        if let Some(named) = root {
            self.line(&task.path, named, &mut digest, &mut found, &mut Vec::new());
        }
        let mut whole = true;
        match &opened {
            Ok(directory) => {
                let listed = self.list(task, directory, &mut digest, &mut found, &mut children);
                if let Err(error) = listed {
                    found.problems.push(Problem::new(
                        &task.path,
                        Operation::List,
                        std::io::Error::from(error),
                    ));
                    poison(&mut digest, u64::MAX);
                    whole = false;
                }
            }
            // Gone since its parent was read: the parent's own change will show.
            Err(Errno::NOENT) => {}
            Err(error) => {
                found.problems.push(Problem::new(&task.path, Operation::List, std::io::Error::from(*error)));
                poison(&mut digest, u64::MAX);
            }
        }
        whole &= opened.is_ok();
        self.monitor.scanned(found.entries);
        for problem in &found.problems {
            self.monitor.problem(problem);
        }
        let names: Vec<_> = children.iter().map(|(name, _)| self.view.names.hash(name.to_bytes())).collect();
        found.digest = digest.digest();
        found.place = place_digest(&task.path, &found.digest);
        let Ok(mut builder) = self.builder.lock() else { return };
        if let Some(top) = task.path.components().next() {
            builder.count(top, found.entries);
        }
        let first = builder.add(task.node, &digest, whole, &names, found);
        drop(builder);
        let Ok(directory) = opened else { return };
        self.held.fetch_add(1, Ordering::Relaxed);
        let held = Arc::new(Held { fd: directory, count: &self.held });
        for (index, (name, cursor)) in children.into_iter().enumerate() {
            let near = self.held.load(Ordering::Relaxed) < HELD_DIRECTORIES;
            let task = Task {
                parent: if near { Parent::Held(Arc::clone(&held)) } else { Parent::FromRoot },
                path: task.path.join(name.to_bytes()),
                node: first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX)),
                cursor,
            };
            scope.spawn(move |scope| self.directory(scope, &task, None));
        }
    }

    fn open(&self, task: &Task<'_>) -> rustix::io::Result<OwnedFd> {
        let Parent::Held(parent) = &task.parent else { return self.view.root.open_directory(&task.path) };
        let flags =
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        openat(&parent.fd, task.path.name().unwrap_or_default(), flags, Mode::empty())
    }

    fn list(
        &self,
        task: &Task<'_>,
        directory: &OwnedFd,
        digest: &mut DirectoryDigest,
        found: &mut DirectoryFindings,
        children: &mut Vec<(CString, Cursor)>,
    ) -> rustix::io::Result<()> {
        let stat = statx(directory, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, statx_mask())?;
        let place =
            Place { directory: directory.as_fd(), path: &task.path, stat: &stat, cursor: &task.cursor };
        let mut buffer = Vec::new();
        SCRATCH.with_borrow_mut(|scratch| {
            let detail = self.view.detail();
            self.view.read_directory(&place, detail, scratch, &|_| true, &mut |seen| match seen {
                Seen::Named(named) => {
                    found.entries += 1;
                    self.line(&task.path, &named, digest, found, &mut buffer);
                    if let Some(cursor) = named.below {
                        children.push((named.name.to_owned(), cursor));
                    }
                }
                Seen::Out(_, protected) => found.protected += u64::from(protected),
                Seen::Leftover(name) => found.leftovers.push(task.path.join(name.to_bytes())),
                Seen::Unreadable(name, problem) => {
                    found.problems.push(problem);
                    poison(digest, self.view.names.hash(name.to_bytes()));
                }
            })
        })
    }

    /// Adds a name's line to its directory's digest. Of a directory that is out of scope itself, only that it is
    /// there counts.
    fn line(
        &self,
        directory: &RelPath,
        named: &Named<'_>,
        digest: &mut DirectoryDigest,
        found: &mut DirectoryFindings,
        buffer: &mut Vec<u8>,
    ) {
        let name = self.view.names.hash(named.name.to_bytes());
        digest.add(name, line_digest(named, buffer));
        if named.scope == Scope::In && named.entry.kind != Kind::Directory && named.inode.links > 1 {
            let path = directory.join(named.name.to_bytes());
            found.members.push(member_of(&named.inode.identity, name, &path));
        }
    }
}

/// The digest of one name: of its metadata when it is in scope, of its existence otherwise.
/// `buffer` is scratch space.
pub(crate) fn line_digest(named: &Named<'_>, buffer: &mut Vec<u8>) -> crate::tree::Digest {
    let name = named.name.to_bytes();
    if named.scope == Scope::In { digest_entry(name, &named.entry, buffer) } else { digest_name(name) }
}

/// Makes the line of a name, and with it the directory's digest, differ from every other, because it could not be read.
fn poison(digest: &mut DirectoryDigest, name: NameHash) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) as u64;
    let mut unique = [0xee; 16];
    unique[..8].copy_from_slice(&count.to_le_bytes());
    unique[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    digest.add(name, unique);
}
