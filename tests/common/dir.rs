//! A directory held open, so that names below it can be reached however deep it lies.
//!
//! A name in a held directory is addressed as `/proc/self/fd/N/name`, which keeps every path short: the trees of
//! these tests are deeper than `PATH_MAX`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags};
use rustix::io::Errno;

const OPEN_DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory held by its descriptor.
#[derive(Debug)]
pub(crate) struct Dir(OwnedFd);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// Opens the directory at `path`.
    pub(crate) fn open(path: &Path) -> Self {
        let opened = rustix::fs::openat(CWD, path, OPEN_DIRECTORY, Mode::empty());
        Self(opened.unwrap_or_else(|e| panic!("open directory {}: {e}", path.display())))
    }

    /// Opens the directory `name` in this one.
    pub(crate) fn child(&self, name: &OsStr) -> Self {
        let opened = rustix::fs::openat(self, name, OPEN_DIRECTORY, Mode::empty());
        Self(opened.unwrap_or_else(|e| panic!("open directory {}: {e}", Path::new(name).display())))
    }

    /// Makes the directory `name` and opens it.
    pub(crate) fn make(&self, name: &OsStr) -> Self {
        rustix::fs::mkdirat(self, name, Mode::from_raw_mode(0o755)).expect("mkdirat");
        self.child(name)
    }

    /// A short path of `name` in this directory; valid while this value lives.
    pub(crate) fn at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        path.push(name.as_ref());
        path
    }

    /// The names in this directory, sorted.
    pub(crate) fn names(&self) -> Vec<OsString> {
        let listing = fs::read_dir(self.at("")).expect("list directory");
        let mut names: Vec<_> = listing.map(|entry| entry.expect("directory entry").file_name()).collect();
        names.sort();
        names
    }
}

/// Calls `visit` with the path, the holding directory and the name of everything below `root`, parents first; the
/// root itself comes as the empty path and the name `.`.
pub(crate) fn walk(root: &Path, visit: &mut dyn FnMut(&[u8], &Dir, &OsStr)) {
    let dir = Dir::open(root);
    visit(b"", &dir, OsStr::new("."));
    walk_below(&dir, b"", visit);
}

fn walk_below(dir: &Dir, path: &[u8], visit: &mut dyn FnMut(&[u8], &Dir, &OsStr)) {
    for name in dir.names() {
        let child_path = join(path, &name);
        visit(&child_path, dir, &name);
        let metadata = fs::symlink_metadata(dir.at(&name)).expect("stat");
        if metadata.is_dir() {
            walk_below(&dir.child(&name), &child_path, visit);
        }
    }
}

/// `path/name` as bytes, without a leading slash.
pub(crate) fn join(path: &[u8], name: &OsStr) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.as_bytes());
    joined
}

/// Reads the inode flags of a file or directory that `chattr` may set; 0 where there is no such thing.
pub(crate) fn inode_flags(path: &Path) -> u32 {
    match open_for_flags(path).and_then(rustix::fs::ioctl_getflags) {
        Ok(flags) => flags.intersection(IFlags::all()).bits(),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => 0,
        Err(error) => panic!("flags of {}: {error}", path.display()),
    }
}

fn open_for_flags(path: &Path) -> rustix::io::Result<OwnedFd> {
    let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, how, Mode::empty())
}

/// Removes the tree at `path` whatever it holds: immutable files, paths longer than `PATH_MAX`.
pub(crate) fn remove_tree(path: &Path) {
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return };
    if fs::symlink_metadata(path).is_ok() {
        remove_at(&Dir::open(parent), name);
    }
}

fn remove_at(parent: &Dir, name: &OsStr) {
    let path = parent.at(name);
    let is_dir = fs::symlink_metadata(&path).expect("stat").is_dir();
    if is_dir {
        release(&path);
        let dir = parent.child(name);
        for child in dir.names() {
            remove_at(&dir, &child);
        }
    }
    let how = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    if rustix::fs::unlinkat(parent, name, how) == Err(Errno::PERM) {
        release(&path);
        rustix::fs::unlinkat(parent, name, how).unwrap_or_else(|e| panic!("remove {}: {e}", path.display()));
    }
}

/// Takes the immutable and append-only flags off a file or directory.
fn release(path: &Path) {
    let held = IFlags::IMMUTABLE | IFlags::APPEND;
    if let Ok(fd) = open_for_flags(path)
        && let Ok(flags) = rustix::fs::ioctl_getflags(&fd)
        && flags.intersects(held)
    {
        rustix::fs::ioctl_setflags(&fd, flags.difference(held)).expect("take the immutable flag off");
    }
}

/// Device and inode number.
pub(crate) fn inode(path: &Path) -> (u64, u64) {
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
    (metadata.dev(), metadata.ino())
}
