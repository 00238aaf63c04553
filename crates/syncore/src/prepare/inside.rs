//! Files inside the root that is being prepared, as the system in it would see them.
//!
//! Why: the tree is somebody else's, mounted under a system that is running. `/etc/hosts` is a link to
//! `./inet/hosts` on Solaris, `/bin/sh` one to `/usr/bin/sh`, and an absolute target means the prepared root's, never the
//! running one's. So links are resolved here, by name and within the root, and what they lead to is opened without
//! following any. What can go wrong: a link that leads outside (it cannot: `..` stops at the root), a loop of links
//! (counted), a file that is a device or a FIFO (refused before it is read).

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, OFlags, RawDir, statx};
use rustix::io::Errno;

use crate::scan::{Detail, Root, Scratch, identity_of, open_file, read_entry, statx_mask};
use crate::tree::{Entry, Kind, RelPath};

/// As many links as the kernel follows in one path (path_resolution(7)).
const LINKS_LIMIT: u32 = 40;

/// The largest file that is read to be edited or searched. Nothing that is configuration comes near.
pub(super) const FILE_LIMIT_BYTES: u64 = 64 << 20;

/// The prepared root, seen from within.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    root: Arc<Root>,
}

impl Inside {
    pub(crate) fn new(root: Arc<Root>) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Where `path` really is, all links resolved within the root. What is not there resolves to the place where it
    /// would be made.
    pub(crate) fn resolve(&self, path: &RelPath) -> io::Result<RelPath> {
        self.walk(path, true)
    }

    /// As [`Inside::resolve`], but a link in the last place is not followed.
    pub(crate) fn place(&self, path: &RelPath) -> io::Result<RelPath> {
        self.walk(path, false)
    }

    fn walk(&self, path: &RelPath, follow_last: bool) -> io::Result<RelPath> {
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut rest: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            let here = RelPath::new(at.join(&b'/')).map_err(invalid)?;
            let target = if rest.is_empty() && !follow_last { None } else { self.link_at(&here, &name)? };
            let Some(target) = target else {
                at.push(name);
                continue;
            };
            links += 1;
            if links > LINKS_LIMIT {
                return Err(Errno::LOOP.into());
            }
            if target.first() == Some(&b'/') {
                at.clear();
            }
            for component in target.split(|b| *b == b'/').rev() {
                rest.push_front(component.to_vec());
            }
        }
        RelPath::new(at.join(&b'/')).map_err(invalid)
    }

    /// The target of `name` in `directory` if it is a link.
    fn link_at(&self, directory: &RelPath, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let held = match self.root.hold_directory(directory) {
            Ok(held) => held,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::readlinkat(held, name, Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All that is known of what `path` leads to, links followed; none if there is nothing.
    pub(crate) fn entry(&self, path: &RelPath) -> io::Result<Option<Entry>> {
        self.entry_at(&self.resolve(path)?)
    }

    /// As [`Inside::entry`], of the link itself where there is one.
    pub(crate) fn own_entry(&self, path: &RelPath) -> io::Result<Option<Entry>> {
        self.entry_at(&self.place(path)?)
    }

    /// As [`Inside::entry`], of exactly this path: no link on the way is followed, nor the last.
    pub(crate) fn entry_at(&self, real: &RelPath) -> io::Result<Option<Entry>> {
        let (Some(parent), Some(name)) = (real.parent(), real.name()) else {
            let mut root = Entry::new(Kind::Directory);
            root.mode = 0o755;
            return Ok(Some(root));
        };
        let held = match self.root.hold_directory(&parent) {
            Ok(held) => held,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let name = CString::new(name).map_err(invalid)?;
        match read_entry(held.as_fd(), &name, Detail::Full, &mut Scratch::default()) {
            Ok((entry, _)) => Ok(Some(entry)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The content of the file that `path` leads to; none if there is nothing.
    pub(crate) fn read(&self, path: &RelPath) -> io::Result<Option<Vec<u8>>> {
        self.read_at(&self.resolve(path)?)
    }

    /// As [`Inside::read`], of exactly this path: no link is followed.
    pub(crate) fn read_at(&self, real: &RelPath) -> io::Result<Option<Vec<u8>>> {
        let (Some(parent), Some(name)) = (real.parent(), real.name()) else {
            return Err(Errno::ISDIR.into());
        };
        let name = CString::new(name).map_err(invalid)?;
        let opened = self.root.hold_directory(&parent).and_then(|held| open_file(held.as_fd(), &name));
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&fd)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(invalid("it is no regular file"));
        }
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        if length > FILE_LIMIT_BYTES {
            return Err(Errno::FBIG.into());
        }
        let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        io::Read::read_to_end(&mut io::Read::take(std::fs::File::from(fd), FILE_LIMIT_BYTES), &mut content)?;
        Ok(Some(content))
    }

    /// The names in the directory that `path` leads to, sorted; none if there is no directory.
    pub(crate) fn list(&self, path: &RelPath) -> io::Result<Vec<Vec<u8>>> {
        self.list_at(&self.resolve(path)?)
    }

    /// As [`Inside::list`], of exactly this path: no link is followed.
    pub(crate) fn list_at(&self, real: &RelPath) -> io::Result<Vec<Vec<u8>>> {
        let directory = match self.root.open_directory(real) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut names = Vec::new();
        let mut buffer = vec![std::mem::MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(&directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The highest directory from which a rename can take what is in the directory `real`: the top of its mount, or of
    /// its btrfs subvolume. Of what is not there, the one that it would be in.
    pub(crate) fn top_of(&self, real: &RelPath) -> io::Result<RelPath> {
        let identity = |path: &RelPath| match self.root.hold_directory(path) {
            Ok(held) => {
                let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
                Ok(Some(identity_of(&statx(&held, c"", flags, statx_mask())?)))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        };
        let (mut top, mut below) = (real.clone(), identity(real)?);
        while let Some(parent) = top.parent() {
            let above = identity(&parent)?;
            if let (Some(above), Some(below)) = (above, below)
                && above.boundary_to(&below)
            {
                break;
            }
            (top, below) = (parent, above);
        }
        Ok(top)
    }

    /// Holds the directory that `path` leads to.
    pub(crate) fn hold(&self, path: &RelPath) -> io::Result<std::os::fd::OwnedFd> {
        Ok(self.root.hold_directory(&self.resolve(path)?)?)
    }

    /// Opens a file that is where it is, for reading.
    pub(crate) fn open(&self, path: &RelPath) -> io::Result<std::fs::File> {
        let real = self.resolve(path)?;
        let held = self.root.hold_directory(&real.parent().unwrap_or_default())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(held, real.name().unwrap_or_default(), flags, rustix::fs::Mode::empty())?;
        Ok(std::fs::File::from(fd))
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn links_mean_what_they_mean_inside_the_root() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        std::fs::create_dir_all(root.join("etc/inet")).unwrap();
        std::fs::create_dir_all(root.join("usr/lib")).unwrap();
        std::fs::write(temp.path().join("outside"), "outside").unwrap();
        std::fs::write(root.join("etc/inet/hosts"), "inside").unwrap();
        std::fs::write(root.join("outside"), "within").unwrap();
        symlink("./inet/hosts", root.join("etc/hosts")).unwrap();
        symlink("/usr/lib", root.join("lib")).unwrap();
        symlink("../../../../outside", root.join("etc/escape")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let inside = Inside::new(Arc::new(Root::open(&root).unwrap()));
        assert_eq!(inside.resolve(&path("etc/hosts")).unwrap(), path("etc/inet/hosts"));
        assert_eq!(inside.read(&path("etc/hosts")).unwrap().unwrap(), b"inside");
        assert_eq!(inside.resolve(&path("lib/new/file")).unwrap(), path("usr/lib/new/file"));
        // More steps up than there are end at the root, as for a process that is chrooted there.
        assert_eq!(inside.read(&path("etc/escape")).unwrap().unwrap(), b"within");
        assert!(inside.read(&path("loop")).is_err());
        assert_eq!(inside.place(&path("loop")).unwrap(), path("loop"));
        assert!(inside.read(&path("etc/none")).unwrap().is_none());
        assert_eq!(inside.list(&path("etc")).unwrap(), [&b"escape"[..], b"hosts", b"inet"]);
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let held = rustix::fs::openat(
            rustix::fs::CWD,
            temp.path(),
            OFlags::RDONLY | OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        rustix::fs::mknodat(held, "fstab", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let inside = Inside::new(Arc::new(Root::open(temp.path()).unwrap()));
        assert!(inside.read(&path("fstab")).is_err());
    }
}
