//! A root: the held descriptor below which every path operation happens.
//!
//! Why: a path that is looked up twice may be two different files. A root is opened once, and whatever lies below
//! it is opened relative to that descriptor, component by component without following a link, by `openat2` where
//! the kernel has it (openat2(2), Linux 5.6). What can go wrong: paths longer than `PATH_MAX`, so long ones are
//! descended in pieces; and a directory that moves while it is open, which stays the same directory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx};
use rustix::io::{Errno, Result};

use crate::tree::RelPath;

/// Longest path handed to one system call, in bytes; `PATH_MAX` (4096) includes the final NUL.
const PIECE_BYTES: usize = 4000;

/// A directory tree's root, held open.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    /// Directories that lie elsewhere below the root than where a run sees them.
    elsewhere: Vec<(RelPath, RelPath)>,
}

/// Which filesystem object an inode is, and on which mount it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Device of the filesystem; on btrfs, of the subvolume.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Mount id (statx(2), `STATX_MNT_ID`, Linux 5.8), or 0.
    pub mount: u64,
}

pub(crate) fn statx_mask() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::MNT_ID
}

pub(crate) fn identity_of(stat: &rustix::fs::Statx) -> Identity {
    Identity {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        mount: if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 { 0 } else { stat.stx_mnt_id },
    }
}

impl Identity {
    /// Whether `child`, found in a directory with this identity, lies behind a boundary: another mount, or
    /// another btrfs subvolume on the same mount.
    #[must_use]
    pub fn boundary_to(&self, child: &Self) -> bool {
        self.mount != child.mount || self.device != child.device
    }
}

impl Root {
    /// Opens the directory that the operator named. Links in `path` itself are followed: it is the operator's.
    ///
    /// # Errors
    /// Whatever open(2) says; `ENOTDIR` when it is no directory.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = openat(rustix::fs::CWD, path, directory_flags(), Mode::empty())?;
        Ok(Self { fd, path: path.to_owned(), elsewhere: Vec::new() })
    }

    /// As [`Root::open`], without the right to list the directory: enough to know where it is.
    pub(crate) fn hold(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(rustix::fs::CWD, path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned(), elsewhere: Vec::new() })
    }

    /// The same root, in which each of these directories is looked for where the second path says: what is held on a
    /// standby lies apart from where it would act.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn with_elsewhere(&self, elsewhere: Vec<(RelPath, RelPath)>) -> Result<Self> {
        Ok(Self { fd: rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?, path: self.path.clone(), elsewhere })
    }

    /// Where the directory at `path` lies, if that is elsewhere.
    #[must_use]
    pub fn lies_at(&self, path: &RelPath) -> Option<RelPath> {
        let (seen, lies) = self.elsewhere.iter().find(|(seen, _)| path.starts_with(seen))?;
        let rest = path.as_bytes()[seen.as_bytes().len()..].split(|b| *b == b'/');
        Some(rest.filter(|name| !name.is_empty()).fold(lies.clone(), |at, name| at.join(name)))
    }

    /// Whether any directory lies elsewhere.
    #[must_use]
    pub fn has_elsewhere(&self) -> bool {
        !self.elsewhere.is_empty()
    }

    /// Whether `path` itself is one of the directories that lie elsewhere.
    #[must_use]
    pub fn is_elsewhere(&self, path: &RelPath) -> bool {
        self.elsewhere.iter().any(|(seen, _)| seen == path)
    }

    /// The path as the operator wrote it, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the root is now, as the kernel sees it: absolute, without links.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn canonical_path(&self) -> Result<Vec<u8>> {
        Ok(rustix::fs::readlink(proc_path(self.fd.as_fd()), Vec::new())?.into_bytes())
    }

    /// What the root directory is.
    ///
    /// # Errors
    /// Whatever statx(2) says.
    pub fn identity(&self) -> Result<Identity> {
        let stat = statx(&self.fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, statx_mask())?;
        Ok(identity_of(&stat))
    }

    /// Opens the directory at `path` for listing.
    ///
    /// # Errors
    /// `ENOTDIR` or `ELOOP` where a component is no directory (any more), and whatever openat2(2) says.
    pub fn open_directory(&self, path: &RelPath) -> Result<OwnedFd> {
        self.descend(path, directory_flags())
    }

    /// Holds the directory at `path` without the right to list it: enough for every `*at` call on what is in it.
    ///
    /// # Errors
    /// As [`Root::open_directory`].
    pub fn hold_directory(&self, path: &RelPath) -> Result<OwnedFd> {
        self.descend(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
    }

    fn descend(&self, path: &RelPath, flags: OFlags) -> Result<OwnedFd> {
        let hold = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lies = self.lies_at(path);
        let mut rest = lies.as_ref().unwrap_or(path).as_bytes();
        let mut held: Option<OwnedFd> = None;
        while rest.len() > PIECE_BYTES {
            let end = rest[..PIECE_BYTES].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
            let at = held.as_ref().unwrap_or(&self.fd);
            held = Some(open_beneath(at.as_fd(), &rest[..end], hold)?);
            rest = &rest[end + 1..];
        }
        let at = held.as_ref().unwrap_or(&self.fd);
        open_beneath(at.as_fd(), if rest.is_empty() { b"." } else { rest }, flags)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK
}

/// Opens `path`, relative and free of `..`, below `at` without following any link.
fn open_beneath(at: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::NOFOLLOW;
    loop {
        match openat2(at, path, flags, Mode::empty(), resolve) {
            // The kernel asks for a retry when a rename elsewhere raced with the look-up (openat2(2)).
            Err(Errno::AGAIN) => {}
            Err(Errno::NOSYS) => break,
            other => return other,
        }
    }
    // An older kernel: one component at a time is the same guarantee, because each is opened relative to a held
    // directory and none is a link or `..`.
    let mut held: Option<OwnedFd> = None;
    let hold = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut components = path.split(|b| *b == b'/').peekable();
    while let Some(component) = components.next() {
        let at = held.as_ref().map_or(at, AsFd::as_fd);
        let flags = if components.peek().is_some() { hold } else { flags };
        held = Some(openat(at, component, flags, Mode::empty())?);
    }
    held.ok_or(Errno::NOENT)
}

/// The magic link of a held descriptor: the way to calls that know no descriptor of the kind we hold (xattrs by
/// name in a directory, anything on an `O_PATH` descriptor). It pins the inode; nothing is looked up again.
#[must_use]
pub fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// As [`proc_path`], for `name` in the held directory; `buffer` is scratch space.
pub(crate) fn proc_path_of<'a>(directory: BorrowedFd<'_>, name: &[u8], buffer: &'a mut Vec<u8>) -> &'a Path {
    use std::io::Write;
    buffer.clear();
    // Writing to memory cannot fail.
    let _ = write!(buffer, "/proc/self/fd/{}/", directory.as_raw_fd());
    buffer.extend_from_slice(name);
    Path::new(std::ffi::OsStr::from_bytes(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_is_followed_and_nothing_above_is_reached() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("root/real")).unwrap();
        std::fs::create_dir(temp.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", temp.path().join("root/link")).unwrap();
        std::os::unix::fs::symlink("real", temp.path().join("root/inner")).unwrap();
        let root = Root::open(&temp.path().join("root")).unwrap();
        let open = |p: &str| root.open_directory(&RelPath::new(p).unwrap());
        assert!(open("real").is_ok());
        assert!(open("link").is_err());
        assert!(open("inner").is_err());
        assert!(root.open_directory(&RelPath::root()).is_ok());
    }

    #[test]
    fn what_lies_elsewhere_is_found_there_and_nothing_beside_it() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("held/cron/root")).unwrap();
        std::fs::create_dir_all(temp.path().join("spool/cronies")).unwrap();
        std::fs::create_dir_all(temp.path().join("spool/cron")).unwrap();
        let path = |text: &str| RelPath::new(text).unwrap();
        let root = Root::open(temp.path()).unwrap();
        let root = root.with_elsewhere(vec![(path("spool/cron"), path("held/cron"))]).unwrap();
        assert_eq!(root.lies_at(&path("spool/cron/root/x")), Some(path("held/cron/root/x")));
        assert_eq!(root.lies_at(&path("spool/cronies")), None);
        assert!(root.open_directory(&path("spool/cron/root")).is_ok());
        assert!(root.open_directory(&path("spool/cronies")).is_ok());
        assert!(root.is_elsewhere(&path("spool/cron")) && !root.is_elsewhere(&path("spool/cron/root")));
    }

    #[test]
    fn deeper_than_path_max() {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::open(temp.path()).unwrap();
        let name = [b'd'; 200];
        let mut path = RelPath::root();
        for _ in 0..50 {
            let parent = root.hold_directory(&path).unwrap();
            rustix::fs::mkdirat(&parent, &name[..], Mode::RWXU).unwrap();
            path = path.join(&name);
        }
        assert!(path.as_bytes().len() > 2 * 4096);
        assert!(root.open_directory(&path).is_ok());
        // Taken apart here: the temporary directory's own removal knows no such paths.
        while let (Some(parent), Some(name)) = (path.parent(), path.name()) {
            let held = root.hold_directory(&parent).unwrap();
            rustix::fs::unlinkat(&held, name, AtFlags::REMOVEDIR).unwrap();
            path = parent;
        }
    }
}
