//! Where a run keeps what is not in its place: files that are staged, and what earlier runs replaced.
//!
//! Why: a rename does not cross filesystems, so each filesystem of the standby has an area of its own. One is home: it
//! has the journal, too. Below a root with an operating system that is `/var/lib/clonetool/run`, else `/.clonetool`.
//! What can go wrong: somebody else than root reads in it what he could not read in its place; it is for root alone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, mkdirat, renameat, statx, unlinkat};
use rustix::io::Errno;

use crate::apply::commit::through_lock;
use crate::apply::directory::Directory;
use crate::apply::metadata::{Pinned, set_mtime};
use crate::scan::{Identity, Root, from_statx, statx_mask};
use crate::tree::{Kind, RelPath, Timestamp};

/// Home below any other root.
pub(crate) const PLAIN_HOME: &str = ".clonetool";
/// At the top of every filesystem but that of home.
pub(crate) const ELSEWHERE: &str = ".clonetool-run";

const STAGE: &str = "stage";
/// What an interrupted run had staged, for the next one to find.
const LEFT: &str = "left";
const KEPT: &str = "kept";

/// The area of one filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Area {
    /// Where the filesystem begins.
    pub(super) top: RelPath,
    /// Where the area is.
    at: RelPath,
}

/// The areas of a root.
#[derive(Debug)]
pub(crate) struct Areas {
    root: Arc<Root>,
    home: RelPath,
    areas: Vec<Area>,
}

impl Areas {
    /// Finds or plans the areas of `root`, whose filesystems begin at the root and at `tops`. Nothing is made.
    ///
    /// # Errors
    /// When the root cannot be looked at.
    pub(crate) fn of(root: &Arc<Root>, tops: &[RelPath]) -> io::Result<Self> {
        let home = home(root)?;
        let mut tops: Vec<RelPath> = tops.iter().cloned().chain([RelPath::root()]).collect();
        // The deepest first: the first that a path lies below is its own.
        tops.sort_by_key(|top| std::cmp::Reverse(top.depth()));
        tops.dedup();
        let own = tops.iter().find(|top| home.starts_with(top)).cloned().unwrap_or_default();
        let area = |top: RelPath| {
            let at = if top == own { home.clone() } else { top.join(ELSEWHERE.as_bytes()) };
            Area { top, at }
        };
        Ok(Self { root: Arc::clone(root), areas: tops.into_iter().map(area).collect(), home })
    }

    pub(super) fn count(&self) -> usize {
        self.areas.len()
    }

    /// Where the filesystems begin.
    pub(super) fn tops(&self) -> Vec<RelPath> {
        self.areas.iter().map(|area| area.top.clone()).collect()
    }

    /// Where the filesystem of an area begins.
    pub(super) fn top(&self, area: usize) -> &RelPath {
        &self.areas[area].top
    }

    /// The area that home is in.
    pub(super) fn number_of_home(&self) -> usize {
        self.areas.iter().position(|area| area.at == self.home).unwrap_or_default()
    }

    /// What run `generation` keeps at home, where its journal is kept, too.
    pub(super) fn kept_home(&self, generation: u64) -> rustix::io::Result<OwnedFd> {
        self.make(&self.home.join(KEPT.as_bytes()).join(generation.to_string().as_bytes()))
    }

    /// The same, if it is there.
    pub(super) fn kept_home_before(&self, generation: u64) -> rustix::io::Result<OwnedFd> {
        self.root.open_directory(&self.home.join(KEPT.as_bytes()).join(generation.to_string().as_bytes()))
    }

    /// Whether anything is staged.
    pub(super) fn staged(&self) -> rustix::io::Result<bool> {
        for at in self.stages() {
            match self.root.open_directory(&at) {
                Ok(stage) if !names(&stage)?.is_empty() => return Ok(true),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The generations of which something is kept at home, in their order.
    pub(super) fn generations(&self) -> rustix::io::Result<Vec<u64>> {
        let kept = match self.root.open_directory(&self.home.join(KEPT.as_bytes())) {
            Ok(kept) => kept,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let numbers =
            names(&kept)?.into_iter().filter_map(|name| std::str::from_utf8(&name).ok()?.parse().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The area for what belongs at `path`, whether its parent is there yet or not.
    pub(super) fn number_of(&self, path: &RelPath) -> usize {
        let parent = path.parent().unwrap_or_default();
        self.areas.iter().position(|area| parent.starts_with(&area.top)).unwrap_or_default()
    }

    /// The directory for staged files of an area, made if need be.
    pub(super) fn stage(&self, area: usize) -> rustix::io::Result<Arc<Directory>> {
        let fd = self.make(&self.areas[area].at.join(STAGE.as_bytes()))?;
        Ok(Arc::new(Directory::private(fd)))
    }

    /// The directory for what run `generation` replaces on an area, made if need be.
    pub(super) fn kept(&self, area: usize, generation: u64) -> rustix::io::Result<OwnedFd> {
        self.make(&self.kept_at(area, generation))
    }

    /// The same, if it is there.
    pub(super) fn kept_before(&self, area: usize, generation: u64) -> rustix::io::Result<OwnedFd> {
        self.root.open_directory(&self.kept_at(area, generation))
    }

    fn kept_at(&self, area: usize, generation: u64) -> RelPath {
        self.areas[area].at.join(KEPT.as_bytes()).join(generation.to_string().as_bytes())
    }

    /// Opens home, made if need be.
    pub(super) fn open_home(&self) -> rustix::io::Result<OwnedFd> {
        self.make(&self.home)
    }

    fn stages(&self) -> impl Iterator<Item = RelPath> {
        self.areas.iter().flat_map(|area| [STAGE, LEFT].map(|name| area.at.join(name.as_bytes())))
    }

    /// Empties the stages, and what was set aside.
    pub(super) fn sweep(&self) -> rustix::io::Result<()> {
        self.stages().try_for_each(|at| empty(&self.root, &at))
    }

    /// Sets aside what an interrupted run had staged, beside what had been set aside before it.
    pub(super) fn set_aside(&self) -> rustix::io::Result<()> {
        for area in &self.areas {
            let stage = match self.root.open_directory(&area.at.join(STAGE.as_bytes())) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let staged = names(&stage)?;
            if staged.is_empty() {
                continue;
            }
            let left = self.make(&area.at.join(LEFT.as_bytes()))?;
            for name in staged {
                renameat(&stage, &name[..], &left, &name[..])?;
            }
        }
        Ok(())
    }

    /// The files that an interrupted run had staged: where each is once it is set aside, its length and its time.
    pub(super) fn left_over(&self) -> rustix::io::Result<Vec<(RelPath, u64, Timestamp)>> {
        let mut found = Vec::new();
        for (area, now) in self.areas.iter().flat_map(|area| [(area, STAGE), (area, LEFT)]) {
            let directory = match self.root.open_directory(&area.at.join(now.as_bytes())) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            for name in names(&directory)? {
                let stat = statx(&directory, &name[..], AtFlags::SYMLINK_NOFOLLOW, statx_mask())?;
                let (entry, _) = from_statx(&stat)?;
                if entry.kind == Kind::File {
                    let path = area.at.join(LEFT.as_bytes()).join(&name);
                    found.push((path, entry.size_bytes, entry.mtime));
                }
            }
        }
        Ok(found)
    }

    /// Removes what run `generation` replaced.
    pub(super) fn forget(&self, generation: u64) -> rustix::io::Result<()> {
        for number in 0..self.areas.len() {
            let at = self.kept_at(number, generation);
            empty(&self.root, &at)?;
            let Some((parent, name)) = at.parent().zip(at.name()) else { continue };
            match self.root.hold_directory(&parent).and_then(|d| unlinkat(d, name, AtFlags::REMOVEDIR)) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Opens a directory of an area for root alone, making what is missing on the way. The directory of the tree in which
    /// the first one is made keeps its time.
    ///
    /// RACE: a crash in between leaves that directory with the time of now.
    fn make(&self, path: &RelPath) -> rustix::io::Result<OwnedFd> {
        let mut at = RelPath::root();
        for name in path.components() {
            let parent = self.root.hold_directory(&at)?;
            // /var/lib is everybody's to enter; what is below ours is not.
            let open = matches!(name, b"var" | b"lib") && at.depth() < 2;
            let mode = if open { 0o755 } else { 0o700 };
            let before = from_statx(&statx(&parent, c"", AtFlags::EMPTY_PATH, statx_mask())?)?.0.mtime;
            match mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
                Ok(()) => set_mtime(Pinned::Held(parent.as_fd()), before)?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            at = at.join(name);
        }
        self.root.open_directory(&at)
    }
}

/// Where home is below `root`, or would be.
pub(crate) fn home(root: &Root) -> io::Result<RelPath> {
    let there = |path: &str| {
        let path = RelPath::new(path).map_err(io::Error::other)?;
        match root.hold_directory(&path) {
            Ok(_) => Ok(Some(path)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(io::Error::from(error)),
        }
    };
    if let Some(home) = there(PLAIN_HOME)? {
        return Ok(home);
    }
    let plain = RelPath::new(PLAIN_HOME).map_err(io::Error::other)?;
    Ok(match there("var/lib")? {
        Some(lib) => lib.join(b"clonetool").join(b"run"),
        None => plain,
    })
}

/// Whether anything was ever kept of a run on `root`. What cannot be told is taken for yes.
pub(crate) fn has_areas(root: &Root) -> bool {
    let there = |home: RelPath| {
        !matches!(root.hold_directory(&home), Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
    };
    home(root).map_or(true, there)
}

/// Removes the files in a directory of ours; no directory is ever in it.
fn empty(root: &Root, path: &RelPath) -> rustix::io::Result<()> {
    let directory = match root.open_directory(path) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names(&directory)? {
        match unlinkat(&directory, &name[..], AtFlags::empty()) {
            Err(Errno::PERM) => {
                through_lock(&directory, &name, || unlinkat(&directory, &name[..], AtFlags::empty()))?;
            }
            other => other?,
        }
    }
    Ok(())
}

/// The names in an open directory, but for `.` and `..`.
pub(super) fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 8192];
    let mut reader = rustix::fs::RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = reader.next() {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether two inodes are one.
pub(super) fn same(one: &Identity, other: &Identity) -> bool {
    (one.device, one.inode) == (other.device, other.inode)
}
