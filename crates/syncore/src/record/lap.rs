//! How far the check of content has come, for each profile and standby.
//!
//! Why: a check that reads everything takes days, so it is done in slices, and each goes on where the one before ended. What
//! can go wrong: the place is lost, or two checks move it at once. So it is replaced as a whole and flushed, whoever moves
//! it holds a lock, and a file that cannot be read begins a new lap instead of ending all checks.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::RecordError;
use crate::durable;
use crate::scan::Measured;
use crate::tree::{RelPath, escape, unescape};

/// Where they are, below the directory of records.
const DIRECTORY: &str = "checks";
/// The form of the file; a reader takes no other.
const VERSION: u32 = 1;
/// No such file is that long.
const LIMIT_BYTES: u64 = 1 << 20;

/// How far the check of one standby has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lap {
    version: u32,
    /// The profile, as records name it.
    pub profile: String,
    /// What is read.
    pub source: String,
    /// What it is compared with.
    pub destination: String,
    /// The last path that was checked, escaped; none at the beginning of a lap.
    cursor: Option<String>,
    /// When this lap began; none where none has.
    pub began_seconds: Option<u64>,
    /// What was checked in it so far.
    pub so_far: Checked,
    /// The last lap that came to its end.
    pub last: Option<Finished>,
}

/// What was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Files in scope.
    pub files: u64,
    /// Their lengths together.
    pub bytes: u64,
    /// Of these, how many differ although size and time agree.
    pub drift: u64,
    /// How many paths could not be checked.
    pub problems: u64,
}

/// A lap that came to its end: every file that was there all the time was checked in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// When it began.
    pub began_seconds: u64,
    /// When it ended.
    pub ended_seconds: u64,
    /// What was checked in it.
    pub checked: Checked,
}

/// A lap that this process alone moves.
#[derive(Debug)]
pub struct Laps {
    path: PathBuf,
    name: String,
    directory: OwnedFd,
    _lock: File,
}

impl Lap {
    /// Behind which path the check goes on; none at the beginning.
    #[must_use]
    pub fn cursor(&self) -> Option<RelPath> {
        self.cursor.as_ref().and_then(|text| RelPath::new(unescape(text)?).ok())
    }

    /// Adds a slice that was checked from `began_seconds` to `ended_seconds`. Where it is the last one the lap ends, and
    /// the next begins at the beginning.
    pub fn add(&mut self, measured: &Measured, drift: u64, problems: u64, times: (u64, u64)) {
        let began_seconds = *self.began_seconds.get_or_insert(times.0);
        let so_far = &mut self.so_far;
        so_far.files += measured.files;
        so_far.bytes = so_far.bytes.saturating_add(measured.bytes);
        so_far.drift += drift;
        so_far.problems += problems;
        match &measured.slice.until {
            Some(until) => self.cursor = Some(escape(until.as_bytes())),
            None => {
                self.last = Some(Finished { began_seconds, ended_seconds: times.1, checked: *so_far });
                (self.cursor, self.began_seconds, self.so_far) = (None, None, Checked::default());
            }
        }
    }
}

impl Laps {
    /// Opens the place of one profile's check from `source` to `destination` below the directory of records, which is
    /// made where it is missing; none while another process checks the same.
    ///
    /// # Errors
    /// [`RecordError::Directory`].
    pub fn open(
        records: &Path,
        profile: &str,
        source: &str,
        destination: &str,
    ) -> Result<Option<Self>, RecordError> {
        let path = records.join(DIRECTORY);
        let fail = |reason: io::Error| RecordError::Directory {
            action: "keep",
            path: escape(path.as_os_str().as_bytes()),
            reason,
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fail)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            openat(rustix::fs::CWD, &path, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
        let digest = blake3::hash([profile, source, destination].join("\0").as_bytes());
        let name = digest.to_hex()[..16].to_owned();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(&directory, format!("{name}.lock"), flags, Mode::from_raw_mode(0o600));
        let lock = lock.map_err(|error| fail(error.into()))?;
        match flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { path, name: format!("{name}.json"), directory, _lock: lock.into() })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(fail(error.into())),
        }
    }

    /// Reads the lap; a new one where there is none. The second is why the file that is there counts for nothing.
    #[must_use]
    pub fn read(&self, profile: &str, source: &str, destination: &str) -> (Lap, Option<String>) {
        let new = Lap {
            version: VERSION,
            profile: profile.to_owned(),
            source: source.to_owned(),
            destination: destination.to_owned(),
            ..Lap::default()
        };
        let read = durable::read(&self.directory, &self.name, LIMIT_BYTES);
        let lap = read.and_then(|text| {
            text.map(|text| serde_json::from_slice::<Lap>(&text).map_err(io::Error::from)).transpose()
        });
        match lap {
            Ok(None) => (new, None),
            Ok(Some(lap)) if lap.version == VERSION => (lap, None),
            Ok(Some(lap)) => (new, Some(format!("{}: version {}", self.shown(), lap.version))),
            Err(error) => (new, Some(format!("{}: {error}", self.shown()))),
        }
    }

    /// Puts the lap in the place of what was there: old or new, on stable storage when this returns.
    ///
    /// # Errors
    /// [`RecordError::File`].
    pub fn write(&self, lap: &Lap) -> Result<(), RecordError> {
        let written = serde_json::to_vec(lap).map_err(io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            durable::replace(&self.directory, &self.name, &text, 0o600, None)
        });
        written.map_err(|reason| RecordError::File { path: self.shown(), reason })
    }

    fn shown(&self) -> String {
        escape(self.path.join(&self.name).as_os_str().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Slice;

    fn measured(until: Option<&[u8]>) -> Measured {
        let until = until.map(|path| RelPath::new(path).unwrap());
        Measured { slice: Slice { after: None, until }, files: 2, bytes: 10 }
    }

    #[test]
    fn a_lap_goes_on_where_it_stopped_and_begins_anew_behind_its_end() {
        let temp = tempfile::tempdir().unwrap();
        let open = || Laps::open(temp.path(), "p", "/", "h:/").unwrap();
        let laps = open().unwrap();
        assert!(open().is_none(), "two move it at once");
        assert!(Laps::open(temp.path(), "p", "/", "other:/").unwrap().is_some());
        let (mut lap, _) = laps.read("p", "/", "h:/");
        assert_eq!(lap.cursor(), None);
        let name = b"a\n\xff\\b/c";
        lap.add(&measured(Some(name)), 1, 0, (100, 110));
        laps.write(&lap).unwrap();
        drop(laps);
        let laps = open().unwrap();
        let (mut lap, wrong) = laps.read("p", "/", "h:/");
        assert_eq!((lap.cursor(), wrong), (Some(RelPath::new(&name[..]).unwrap()), None));
        lap.add(&measured(None), 2, 3, (200, 210));
        let checked = Checked { files: 4, bytes: 20, drift: 3, problems: 3 };
        assert_eq!(lap.last, Some(Finished { began_seconds: 100, ended_seconds: 210, checked }));
        assert_eq!((lap.cursor(), lap.began_seconds, lap.so_far), (None, None, Checked::default()));
        std::fs::write(temp.path().join(DIRECTORY).join(&laps.name), "half of i").unwrap();
        let (lap, wrong) = laps.read("p", "/", "h:/");
        assert!(lap.cursor().is_none() && wrong.is_some());
    }
}
