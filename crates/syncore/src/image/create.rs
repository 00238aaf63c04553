//! Reads a tree into an archive.
//!
//! Why: parents come before what is in them, so that any tar can extract in one pass; the files of a directory come
//! before its subdirectories, so that one directory at a time is open. What can go wrong: a file's length is said
//! before its content, and the file goes on living. Small files are read first and said afterwards, again when they
//! change meanwhile. A large one that changes is stored as it was read, filled up with zeros if it became shorter,
//! marked in the manifest, and a problem.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, statx};
use rustix::io::Errno;

use super::about::About;
use super::file::Partial;
use super::sparse::{EXTENTS_LIMIT, encode_map};
use super::tar::Member;
use super::write::Archive;
use super::{CreateOptions, Done, ImageError, OWN_DIRECTORY, shown, unless_cancelled};
use crate::delta::Extent;
use crate::monitor::{Monitor, Phase};
use crate::problem::{Operation, Problem};
use crate::rules::{Cursor, Rule, RuleSet, Scope};
use crate::scan::{
    Boundaries, Detail, Inode, Mount, Named, Place, READ_ATTEMPTS, Scratch, Seen, Stability, View, extents,
    mounts_below, open_file, read_full, statx_mask,
};
use crate::session::{SessionError, open_root, reaches};
use crate::tree::{Entry, Kind, NameKey, RelPath, Timestamp};

/// Files up to this length are read as a whole before anything is said of them.
const READ_FIRST_BYTES: u64 = 8 << 20;

/// Bytes read at once of larger ones.
const READ_BYTES: usize = 256 * 1024;

/// A tree of which an image can be made.
pub(super) struct Tree {
    view: View,
    pub(super) about: About,
}

impl Tree {
    /// Opens the root and decides where the walk goes.
    pub(super) fn open(root: &Path, rules: &[Rule], one_file_system: bool) -> Result<Self, ImageError> {
        let root = Arc::new(open_root(root, "source")?);
        let compiled = RuleSet::compile(rules.to_vec()).map_err(SessionError::from)?;
        let closed = |mount: &Mount| one_file_system || !mount.is_local();
        let barriers = mounts_below(&root).into_iter().filter(closed).map(|mount| mount.path).collect();
        let boundaries = Boundaries { barriers, one_file_system, ..Boundaries::default() };
        let about = About::of(&root, one_file_system, rules.len());
        let (rules, boundaries) = (Arc::new(compiled), Arc::new(boundaries));
        Ok(Self {
            view: View {
                root,
                rules,
                boundaries,
                checksum: false,
                slice: None,
                presented: Arc::default(),
                names: NameKey::default(),
                bare: None,
            },
            about,
        })
    }

    /// Where the root is, as the kernel sees it.
    pub(super) fn canonical_path(&self) -> Vec<u8> {
        self.view.root.canonical_path().unwrap_or_default()
    }

    /// Whether the walk would come to the file at this absolute path.
    fn holds(&self, file: &[u8]) -> bool {
        let below = || {
            let root = RelPath::from_absolute(&self.canonical_path()).ok()?;
            let file = RelPath::from_absolute(file).ok()?;
            file.starts_with(&root)
                .then(|| RelPath::from_absolute(&file.as_bytes()[root.as_bytes().len()..]).ok())?
        };
        let Some(path) = below() else { return false };
        let parent = path.parent().unwrap_or_default();
        reaches(&self.view.rules, &self.view.boundaries, &parent)
            && self.view.rules.decide(&path, false).scope == Scope::In
    }
}

/// Makes an image of the tree at `root` in the file at `path`.
pub(super) fn to_file(
    root: &Path,
    path: &Path,
    options: &CreateOptions,
    monitor: &dyn Monitor,
) -> Result<Done, ImageError> {
    let tree = Tree::open(root, &options.rules, options.one_file_system)?;
    if tree.holds(&Partial::canonical_path(path)?) {
        return Err(ImageError::WithinSource { path: shown(path), root: shown(root) });
    }
    let mut file = Partial::create(path, options.replace)?;
    let mut done = to_stream(&tree, &mut file, &shown(path), options.level, monitor)?;
    monitor.phase(Phase::Finish);
    done.file_bytes = file.finish(options.durable)?;
    Ok(done)
}

/// Writes an image of the tree to `out`, which messages call `name`.
pub(super) fn to_stream(
    tree: &Tree,
    out: impl Write,
    name: &str,
    level: i32,
    monitor: &dyn Monitor,
) -> Result<Done, ImageError> {
    monitor.phase(Phase::Scan);
    let failed = |error: std::io::Error| ImageError::File {
        action: "write",
        path: name.to_owned(),
        reason: error.to_string(),
    };
    let out = Counted { out, bytes: 0 };
    let archive = Archive::new(out, tree.about.clone(), level).map_err(failed)?;
    let mut walk = Walk {
        view: &tree.view,
        archive,
        leaders: HashMap::new(),
        sockets: 0,
        problems: Vec::new(),
        buffer: Vec::new(),
        monitor,
    };
    walk.run().map_err(|stop| match stop {
        Stop::Write(error) => failed(error),
        Stop::Other(error) => error,
    })?;
    let (out, contents) = walk.archive.finish().map_err(failed)?;
    Ok(Done { contents, file_bytes: out.bytes, sockets: walk.sockets, problems: walk.problems })
}

/// Counts what passes.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Why the walk cannot go on.
enum Stop {
    /// The archive cannot be written.
    Write(std::io::Error),
    /// Anything else.
    Other(ImageError),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<ImageError> for Stop {
    fn from(error: ImageError) -> Self {
        Self::Other(error)
    }
}

/// The first name of an inode that has several, and what it was like then.
struct Leader {
    path: RelPath,
    kind: Kind,
    size_bytes: u64,
    mtime: Timestamp,
}

struct Walk<'a, W: Write> {
    view: &'a View,
    archive: Archive<W>,
    leaders: HashMap<((u32, u32), u64), Leader>,
    sockets: u64,
    problems: Vec<Problem>,
    buffer: Vec<u8>,
    monitor: &'a dyn Monitor,
}

/// A name in a directory, kept until its turn comes.
struct Found {
    name: CString,
    entry: Entry,
    inode: Inode,
    /// For a directory that is entered: the rules' cursor within it.
    below: Option<Cursor>,
}

impl From<Named<'_>> for Found {
    fn from(named: Named<'_>) -> Self {
        let Named { name, entry, inode, below, .. } = named;
        Self { name: name.to_owned(), entry, inode, below }
    }
}

impl<W: Write> Walk<'_, W> {
    fn run(&mut self) -> Result<(), Stop> {
        let fatal = |error: Errno| {
            let reason = std::io::Error::from(error).to_string();
            ImageError::from(SessionError::Fatal { operation: "read the source root", reason })
        };
        let root = Found::from(self.view.read_root_in_full().map_err(fatal)?);
        let mut pending = vec![(RelPath::root(), root)];
        let mut scratch = Scratch::default();
        while let Some((path, named)) = pending.pop() {
            unless_cancelled(self.monitor)?;
            self.bare(&path, named.entry.clone())?;
            let before = pending.len();
            let opened = named.below.is_some().then(|| self.list(&path, &named, &mut scratch));
            match opened {
                Some(Ok((directory, names))) => {
                    self.monitor.scanned(names.len() as u64);
                    for named in names {
                        let child = path.join(named.name.to_bytes());
                        if named.entry.kind == Kind::Directory {
                            pending.push((child, named));
                        } else {
                            self.leaf(directory.as_fd(), &child, named)?;
                        }
                    }
                }
                // Gone since its parent was read: it was there, and empty by now.
                None | Some(Err(Errno::NOENT)) => {}
                Some(Err(error)) => self.problem(&path, Operation::List, std::io::Error::from(error)),
            }
            // The next one to be taken is the last.
            pending[before..].reverse();
        }
        Ok(())
    }

    fn problem(&mut self, path: &RelPath, operation: Operation, reason: impl std::fmt::Display) {
        let problem = Problem::new(path, operation, reason);
        self.monitor.problem(&problem);
        self.problems.push(problem);
    }

    /// The names in a directory that take part, in order.
    fn list(
        &mut self,
        path: &RelPath,
        named: &Found,
        scratch: &mut Scratch,
    ) -> rustix::io::Result<(OwnedFd, Vec<Found>)> {
        let directory = self.view.root.open_directory(path)?;
        let Some(cursor) = &named.below else { return Ok((directory, Vec::new())) };
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(&directory, c"", flags, statx_mask())?;
        let place = Place { directory: directory.as_fd(), path, stat: &stat, cursor };
        let (mut names, mut problems) = (Vec::new(), Vec::new());
        let listed =
            self.view.read_directory(&place, Detail::Full, scratch, &|_| true, &mut |seen| match seen {
                Seen::Named(named) => names.push(Found::from(named)),
                Seen::Unreadable(_, problem) => problems.push(problem),
                Seen::Out(..) | Seen::Leftover(_) => {}
            });
        if let Err(error) = listed {
            problems.push(Problem::new(path, Operation::List, std::io::Error::from(error)));
        }
        if path.is_root() && names.iter().any(|named| named.name.to_bytes() == OWN_DIRECTORY) {
            names.retain(|named| named.name.to_bytes() != OWN_DIRECTORY);
            let reason = "an image keeps what it says of itself under this name; it is left out (exclude it)";
            problems.push(Problem::new(&path.join(OWN_DIRECTORY), Operation::Read, reason));
        }
        problems.iter().for_each(|problem| self.monitor.problem(problem));
        self.problems.extend(problems);
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok((directory, names))
    }

    /// Writes a member without content.
    fn bare(&mut self, path: &RelPath, entry: Entry) -> Result<(), Stop> {
        let member = Member::bare(path.clone(), entry);
        Ok(self.archive.member(&member)?.finish(false)?)
    }

    /// Writes anything but a directory.
    fn leaf(&mut self, directory: BorrowedFd<'_>, path: &RelPath, named: Found) -> Result<(), Stop> {
        unless_cancelled(self.monitor)?;
        let Found { name, entry, inode, .. } = named;
        if entry.kind == Kind::Socket {
            self.sockets += 1;
            return Ok(());
        }
        let same = |leader: &Leader| {
            (leader.kind, leader.size_bytes, leader.mtime) == (entry.kind, entry.size_bytes, entry.mtime)
        };
        // RACE: the number of an inode that went away may be given to another one; at worst two that are alike in
        // kind, length and time become one.
        let leader = self.leaders.get(&key(&inode)).filter(|leader| same(leader));
        if let Some(leader) = leader {
            let member = Member::link(path.clone(), leader.path.clone(), &entry);
            return Ok(self.archive.member(&member)?.finish(false)?);
        }
        let (kind, size_bytes, mtime) = (entry.kind, entry.size_bytes, entry.mtime);
        let written = match entry.kind {
            Kind::File => self.file(directory, path, &name, entry)?,
            _ => {
                self.bare(path, entry)?;
                true
            }
        };
        if written && inode.links > 1 {
            self.leaders.insert(key(&inode), Leader { path: path.clone(), kind, size_bytes, mtime });
        }
        Ok(())
    }

    /// Writes a file; false when it is not in the archive.
    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &RelPath,
        name: &CStr,
        mut entry: Entry,
    ) -> Result<bool, Stop> {
        let opened = open_file(directory, name).and_then(|fd| Ok((Opened::look(&fd)?, fd)));
        let (mut seen, fd) = match opened {
            Ok(opened) => opened,
            // Gone since its directory was read.
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => {
                self.problem(path, Operation::Read, std::io::Error::from(error));
                return Ok(false);
            }
        };
        if seen.extents.len() as u64 > EXTENTS_LIMIT {
            self.problem(
                path,
                Operation::Read,
                format!("it has more than {EXTENTS_LIMIT} stretches of data"),
            );
            return Ok(false);
        }
        let mut torn = None;
        let small = seen.stability.size_bytes <= READ_FIRST_BYTES;
        if small {
            let mut buffer = std::mem::take(&mut self.buffer);
            (seen, torn) = read_small(&fd, seen, &mut buffer);
            self.buffer = buffer;
        }
        (entry.size_bytes, entry.mtime) = (seen.stability.size_bytes, seen.stability.mtime);
        let whole = [Extent { offset: 0, length: entry.size_bytes }];
        let sparse = entry.size_bytes > 0 && seen.extents != whole;
        let map = if sparse { encode_map(&seen.extents, entry.size_bytes) } else { Vec::new() };
        let data_bytes: u64 = seen.extents.iter().map(|extent| extent.length).sum();
        let stored_bytes = map.len() as u64 + data_bytes;
        let member = Member { stored_bytes, sparse, ..Member::bare(path.clone(), entry) };
        let mut content = self.archive.member(&member)?;
        content.data(&map)?;
        if small {
            content.data(&self.buffer)?;
        } else {
            let mut hasher = blake3::Hasher::new();
            let mut each = |piece: &[u8]| -> Result<(), Stop> {
                unless_cancelled(self.monitor)?;
                hasher.update(piece);
                Ok(content.data(piece)?)
            };
            torn = seen.read(&fd, &mut self.buffer, &mut each)?;
            torn = torn.or_else(|| seen.moved(&fd, hasher.finalize(), &mut self.buffer));
        }
        content.finish(torn.is_some())?;
        if let Some(reason) = torn {
            self.problem(path, Operation::Read, reason);
        }
        Ok(true)
    }
}

fn key(inode: &Inode) -> ((u32, u32), u64) {
    (inode.identity.device, inode.identity.inode)
}

const CHANGED: &str = "it changed while it was read; what the image has of it is no state that it ever had";

/// How an open file looked before it was read.
struct Opened {
    stability: Stability,
    /// Where its data is; all of it when there are no holes.
    extents: Vec<Extent>,
}

impl Opened {
    fn look(fd: &OwnedFd) -> rustix::io::Result<Self> {
        let stability = Stability::of(fd.as_fd())?;
        let length = stability.size_bytes;
        let extents = match stability.sparse {
            true => extents(fd.as_fd(), length)?,
            false if length > 0 => vec![Extent { offset: 0, length }],
            false => Vec::new(),
        };
        Ok(Self { stability, extents })
    }

    /// Reads all data; says why it is not all there is, if so.
    fn read<E>(
        &self,
        fd: &OwnedFd,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Option<String>, E> {
        buffer.resize(READ_BYTES, 0);
        for extent in &self.extents {
            let (mut offset, end) = (extent.offset, extent.offset + extent.length);
            while offset < end {
                let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(READ_BYTES);
                match read_full(fd.as_fd(), &mut buffer[..want], offset) {
                    Ok(read) if read == want => each(&buffer[..want])?,
                    Ok(_) => return Ok(Some(CHANGED.to_owned())),
                    Err(error) => return Ok(Some(std::io::Error::from(error).to_string())),
                }
                offset += want as u64;
            }
        }
        Ok(None)
    }

    /// Why what was read is no state of the file, if so. One that was only added to is one, as a second reading tells.
    fn moved(&self, fd: &OwnedFd, digest: blake3::Hash, buffer: &mut Vec<u8>) -> Option<String> {
        let after = Stability::of(fd.as_fd());
        if after.as_ref().is_ok_and(|after| after.same_as(&self.stability)) {
            return None;
        }
        let mut again = blake3::Hasher::new();
        let mut each = |piece: &[u8]| {
            again.update(piece);
            Ok::<(), std::convert::Infallible>(())
        };
        let grew = after.is_ok_and(|after| after.grew_since(&self.stability))
            && self.read(fd, buffer, &mut each) == Ok(None)
            && again.finalize() == digest;
        (!grew).then(|| CHANGED.to_owned())
    }
}

/// Reads a small file into `content`, again when it changes meanwhile; says what was read and, if so, why that is no
/// state of the file.
fn read_small(fd: &OwnedFd, mut seen: Opened, content: &mut Vec<u8>) -> (Opened, Option<String>) {
    let mut buffer = Vec::new();
    for attempt in 1.. {
        content.clear();
        let mut each = |piece: &[u8]| {
            content.extend_from_slice(piece);
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(failed) = seen.read(fd, &mut buffer, &mut each);
        let torn = failed.or_else(|| seen.moved(fd, blake3::hash(content), &mut buffer));
        match (&torn, Opened::look(fd)) {
            (Some(_), Ok(again))
                if attempt < READ_ATTEMPTS && again.stability.size_bytes <= READ_FIRST_BYTES =>
            {
                seen = again;
            }
            _ => return (seen, torn),
        }
    }
    (seen, Some(CHANGED.to_owned()))
}
