//! The file of an image on this host.
//!
//! Why: an image holds shadow and private keys, and half an image is none. It is written under another name, readable
//! by its owner only, and gets its name when it is whole and on stable storage. What can go wrong: the run is killed;
//! then `FILE.partial` is left, which the next run of the same name writes over. Two runs at once: a lock on it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, fchmod, flock, fstat, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::{ImageError, ImageFile, shown};
use crate::scan::Root;
use crate::session::SessionError;

/// What an image is called until it is whole.
const SUFFIX: &str = ".partial";

fn failed(action: &'static str, path: &Path, error: impl Into<io::Error>) -> ImageError {
    ImageError::File { action, path: shown(path), reason: error.into().to_string() }
}

/// An image that is being written.
pub(super) struct Partial {
    directory: OwnedFd,
    path: PathBuf,
    name: OsString,
    partial: OsString,
    file: File,
    replace: bool,
    written_bytes: u64,
    settled: bool,
}

impl Partial {
    /// Where a file of that name would be: its directory, which must be there, and its name in it.
    fn split(path: &Path) -> Result<(&Path, OsString), ImageError> {
        let name = path.file_name().ok_or_else(|| failed("create", path, Errno::ISDIR))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok((parent, name.to_owned()))
    }

    /// Where the file will be, as the kernel sees it.
    pub(super) fn canonical_path(path: &Path) -> Result<Vec<u8>, ImageError> {
        let (parent, name) = Self::split(path)?;
        let canonical = Root::hold(parent).and_then(|parent| parent.canonical_path());
        let mut canonical = canonical.map_err(|error| failed("create", path, error))?;
        canonical.push(b'/');
        canonical.extend_from_slice(name.as_bytes());
        Ok(canonical)
    }

    /// Begins the file at `path`.
    ///
    /// # Errors
    /// [`ImageError::Exists`] unless `replace`, busy when another run writes it, [`ImageError::File`].
    pub(super) fn create(path: &Path, replace: bool) -> Result<Self, ImageError> {
        let (parent, name) = Self::split(path)?;
        let fail = |error: Errno| failed("create", path, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(rustix::fs::CWD, parent, flags, Mode::empty()).map_err(fail)?;
        match statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(fail(Errno::ISDIR));
            }
            Ok(_) if !replace => return Err(ImageError::Exists { path: shown(path) }),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(fail(error)),
        }
        let mut partial = name.clone();
        partial.push(SUFFIX);
        let file = open_partial(&directory, &partial).map_err(|error| match error {
            Errno::WOULDBLOCK => SessionError::Busy(shown(path)).into(),
            error => failed("create", &parent.join(&partial), error),
        })?;
        let path = path.to_owned();
        Ok(Self { directory, path, name, partial, file, replace, written_bytes: 0, settled: false })
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.write_all(bytes).map_err(|error| failed("write", &self.path, error))
    }

    /// Gives the file its name; says how long it is.
    ///
    /// # Errors
    /// [`ImageError::Exists`] when something has that name by now, [`ImageError::File`].
    pub(super) fn finish(mut self, durable: bool) -> Result<u64, ImageError> {
        let fail = |path: &Path, error: Errno| failed("write", path, error);
        if durable {
            self.file.sync_all().map_err(|error| failed("write", &self.path, error))?;
        }
        let (at, from, to) = (&self.directory, &self.partial, &self.name);
        let renamed = match self.replace {
            true => renameat(at, from, at, to),
            false => match renameat_with(at, from, at, to, RenameFlags::NOREPLACE) {
                // A filesystem that does not know the flag. RACE: what appears there now is replaced.
                Err(Errno::INVAL | Errno::NOSYS) => match statat(at, to, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => Err(Errno::EXIST),
                    Err(_) => renameat(at, from, at, to),
                },
                other => other,
            },
        };
        match renamed {
            Ok(()) => self.settled = true,
            Err(Errno::EXIST) => return Err(ImageError::Exists { path: shown(&self.path) }),
            Err(error) => return Err(fail(&self.path, error)),
        }
        if durable {
            rustix::fs::fsync(&self.directory).map_err(|error| fail(&self.path, error))?;
        }
        Ok(self.written_bytes)
    }
}

/// Opens and locks the file that is written to, empty and private, whether it is there already or not.
fn open_partial(directory: &OwnedFd, name: &OsString) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    // Who held the lock may have given the file its name since it was opened. And what somebody else put there, or
    // has another name for, is left alone.
    let there = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| match error {
        Errno::NOENT => Errno::WOULDBLOCK,
        error => error,
    });
    let (open, there) = (fstat(&fd)?, there?);
    if (open.st_dev, open.st_ino) != (there.st_dev, there.st_ino) {
        return Err(Errno::WOULDBLOCK);
    }
    let own = open.st_uid == rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(open.st_mode) != FileType::RegularFile || open.st_nlink != 1 || !own {
        return Err(Errno::EXIST);
    }
    fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&fd, 0)?;
    Ok(File::from(fd))
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.settled {
            // Best effort: the next run of the same name writes over what is left.
            let _ = unlinkat(&self.directory, &self.partial, AtFlags::empty());
        }
    }
}

/// An image that is read.
pub(super) struct Input {
    file: File,
    /// Its name for messages.
    pub(super) name: String,
    start: u64,
    is_file: bool,
    read_bytes: u64,
}

impl Input {
    /// Opens the file; of standard input, looks whether it is one.
    pub(super) fn open(file: &ImageFile) -> Result<Self, ImageError> {
        let (mut file, name) = match file {
            ImageFile::Path(path) => {
                (File::open(path).map_err(|error| failed("open", path, error))?, shown(path))
            }
            ImageFile::Open(file) => {
                let name = "standard input";
                (file.try_clone().map_err(|error| failed("open", Path::new(name), error))?, name.to_owned())
            }
        };
        let metadata = file.metadata().map_err(|error| failed("open", Path::new(&name), error))?;
        if metadata.is_dir() {
            return Err(failed("read", Path::new(&name), Errno::ISDIR));
        }
        let start = file.stream_position();
        let is_file = metadata.is_file() && start.is_ok();
        Ok(Self { file, name, start: start.unwrap_or(0), is_file, read_bytes: 0 })
    }

    /// Whether it can be read again from its beginning.
    pub(super) fn can_be_read_again(&self) -> bool {
        self.is_file
    }

    /// Goes back to its beginning.
    pub(super) fn rewind(&mut self) -> Result<(), ImageError> {
        self.read_bytes = 0;
        let sought = self.file.seek(SeekFrom::Start(self.start));
        sought.map(|_| ()).map_err(|error| failed("read", Path::new(&self.name), error))
    }

    /// How long it is, as far as that can be told.
    pub(super) fn length_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len().saturating_sub(self.start))
    }

    /// How many bytes were read since the beginning.
    pub(super) fn position(&self) -> u64 {
        self.read_bytes
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read_bytes += read as u64;
        Ok(read)
    }
}
