//! The files of a schedule below a root: written, left alone, taken away.
//!
//! Why: cron and systemd read directories that belong to the administrator. What can go wrong: a file of theirs
//! overwritten, half a file read by cron, or a mounted root whose links lead out of it. So a file is ours by its first
//! line or is not touched, it appears by a rename, and everything is done in a directory that is held and was resolved
//! within the root.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, unlinkat};
use rustix::fs::{fsync, readlinkat, symlinkat};
use rustix::io::Errno;
use syncore::durable;
use syncore::tree::escape;

use crate::error::{CommandError, UNCHANGED};
use crate::profiles::read_bounded;

/// How the first line of a file begins that `schedule install` wrote.
const MARK: &str = "# Written by `clonetool schedule install`";

/// The first line of the files of a profile.
pub(crate) fn mark(name: &str) -> String {
    format!("{MARK}; `clonetool schedule remove {name}` takes it away.")
}

/// A directory of schedules below a root, held open.
pub(crate) struct Directory {
    held: OwnedFd,
    /// As the host that boots this root calls it.
    path: &'static str,
}

/// Whether something was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Made,
    None,
}

impl Directory {
    /// Opens `path` below `root`; none if it is not there.
    pub(crate) fn open(root: &Path, path: &'static str) -> Result<Option<Self>, CommandError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty()).and_then(|root| {
            let below = path.trim_start_matches('/');
            openat2(root, below, flags, Mode::empty(), ResolveFlags::IN_ROOT)
        });
        match opened {
            Ok(held) => Ok(Some(Self { held, path })),
            Err(Errno::NOENT) if root.is_dir() => Ok(None),
            Err(error) => Err(failed("open", &root.join(path.trim_start_matches('/')), &error.into())),
        }
    }

    /// The path of a name in it, for people.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(self.path).join(name)
    }

    /// Makes a directory in it, if there is none, and opens it.
    fn below(&self, name: &'static str) -> Result<OwnedFd, CommandError> {
        let failed = |error: Errno| failed("make", &self.path(name), &error.into());
        match mkdirat(&self.held, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.held, name, flags, Mode::empty()).map_err(failed)
    }

    /// The text of a file that we wrote; none if there is no file. What somebody else put there is a refusal.
    pub(crate) fn ours(&self, name: &str) -> Result<Option<String>, CommandError> {
        let foreign = || {
            let path = escape(self.path(name).as_os_str().as_encoded_bytes());
            CommandError::refused(format!("{path} was not written by clonetool"))
                .hint("look at it; move it away if it is not needed")
                .hint(UNCHANGED)
        };
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.held, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(foreign()),
            Err(error) => return Err(failed("read", &self.path(name), &error.into())),
        };
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(foreign());
        }
        match read_bounded(file) {
            Ok(text) if text.starts_with(MARK) => Ok(Some(text)),
            Ok(_) => Err(foreign()),
            Err(error) => Err(failed("read", &self.path(name), &error)),
        }
    }

    /// Writes a file, whole or not at all.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<Change, CommandError> {
        if self.ours(name)?.as_deref() == Some(text) {
            return Ok(Change::None);
        }
        durable::replace(&self.held, name, text.as_bytes(), 0o644, None)
            .map_err(|error| failed("write", &self.path(name), &error))?;
        Ok(Change::Made)
    }

    /// Takes a file away that we wrote.
    pub(crate) fn remove(&self, name: &str) -> Result<Change, CommandError> {
        if self.ours(name)?.is_none() {
            return Ok(Change::None);
        }
        unlink(&self.held, name).map_err(|error| failed("remove", &self.path(name), &error))
    }

    /// Enables a timer of this directory of units as `systemctl --root enable` does: a link in its `.wants`.
    pub(crate) fn enable(&self, timer: &str) -> Result<Change, CommandError> {
        let wants = self.below(WANTS)?;
        let target = self.path(timer);
        let failed = |error: Errno| failed("make", &self.path(WANTS).join(timer), &error.into());
        match readlinkat(&wants, timer, Vec::new()) {
            Ok(found) if found.as_bytes() == target.as_os_str().as_encoded_bytes() => {
                return Ok(Change::None);
            }
            Ok(_) => unlinkat(&wants, timer, AtFlags::empty()).map_err(failed)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        symlinkat(&target, &wants, timer).map_err(failed)?;
        fsync(&wants).map_err(failed)?;
        Ok(Change::Made)
    }

    /// Takes the link away again.
    pub(crate) fn disable(&self, timer: &str) -> Result<Change, CommandError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |error: io::Error| failed("remove", &self.path(WANTS).join(timer), &error);
        match openat(&self.held, WANTS, flags, Mode::empty()) {
            Ok(wants) => unlink(&wants, timer).map_err(failed),
            Err(Errno::NOENT) => Ok(Change::None),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// Where the links of enabled timers are.
pub(crate) const WANTS: &str = "timers.target.wants";

fn unlink(directory: impl AsFd, name: &str) -> io::Result<Change> {
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) => {
            fsync(&directory)?;
            Ok(Change::Made)
        }
        Err(Errno::NOENT) => Ok(Change::None),
        Err(error) => Err(error.into()),
    }
}

fn failed(action: &str, path: &Path, error: &io::Error) -> CommandError {
    CommandError::failed(format!("cannot {action} {}: {error}", escape(path.as_os_str().as_encoded_bytes())))
}
