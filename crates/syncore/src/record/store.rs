//! The directory of records: one JSON file a run.
//!
//! Why: a file of its own can be written at once and flushed, and one that is damaged takes no other with it. What can
//! go wrong: power is lost while one is written, so it is staged, flushed, and renamed; two runs end together, so
//! nothing is shared between them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::{Record, RecordError, RunId, VERSION};
use crate::durable;
use crate::tree::escape;

/// What the name of a record ends in.
pub(super) const SUFFIX: &str = ".json";
/// What the name of one ends in that is being written.
pub(super) const STAGED: &str = ".new";
/// No record is that long; whatever is, is none.
const RECORD_LIMIT_BYTES: u64 = 8 << 20;

/// A file among the records that cannot be read as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Which file, escaped.
    pub path: String,
    /// Why, for a person.
    pub reason: String,
}

/// What there is to read.
#[derive(Debug, Default)]
pub struct History {
    /// The records, in the order in which the runs began.
    pub records: Vec<Record>,
    /// What is there and cannot be read.
    pub damaged: Vec<Damaged>,
}

/// The directory of records.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    directory: OwnedFd,
}

impl Store {
    /// Opens the directory; makes it, for its owner alone, where it is missing.
    ///
    /// # Errors
    /// [`RecordError::Directory`].
    pub fn create(path: &Path) -> Result<Self, RecordError> {
        let fail = |reason| failed("keep", path, reason);
        if !path.is_dir() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|parent| parent.sync_all())
                .map_err(fail)?;
        }
        Self::held(path).map_err(fail)
    }

    /// Opens the directory to read it; none when it is not there.
    ///
    /// # Errors
    /// [`RecordError::Directory`].
    pub fn open(path: &Path) -> Result<Option<Self>, RecordError> {
        match Self::held(path) {
            Ok(store) => Ok(Some(store)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path, error)),
        }
    }

    fn held(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(rustix::fs::CWD, path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), directory })
    }

    /// Writes a record, or replaces that of the same run: old or new, on stable storage when this returns.
    ///
    /// # Errors
    /// [`RecordError::File`].
    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        let name = format!("{}{SUFFIX}", record.run);
        let written = serde_json::to_vec(record).map_err(io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            durable::replace(&self.directory, &name, &text, 0o600, None)
        });
        written.map_err(|reason| RecordError::File { path: shown(&self.path.join(name)), reason })
    }

    /// Reads all records. What is damaged is named, and stops nothing.
    ///
    /// # Errors
    /// [`RecordError::Directory`].
    pub fn read(&self) -> Result<History, RecordError> {
        let mut history = History::default();
        for name in self.names("read")? {
            let Some(stem) = name.strip_suffix(SUFFIX).filter(|_| !name.starts_with('.')) else { continue };
            match self.record(&name, stem) {
                Ok(Some(record)) => history.records.push(record),
                Ok(None) => {}
                Err(reason) => {
                    history.damaged.push(Damaged { path: shown(&self.path.join(&name)), reason });
                }
            }
        }
        history.records.sort_by_key(|record| record.run);
        history.damaged.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(history)
    }

    /// Reads one record; none when another run has removed it meanwhile.
    pub(super) fn record(&self, name: &str, stem: &str) -> Result<Option<Record>, String> {
        let run: RunId = stem.parse().map_err(|error: super::NoRunId| error.to_string())?;
        // Without waiting: a FIFO is no record either.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        if !file.metadata().map_err(|error| error.to_string())?.is_file() {
            return Err("it is no file".into());
        }
        let mut text = Vec::new();
        file.take(RECORD_LIMIT_BYTES + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
        if text.len() as u64 > RECORD_LIMIT_BYTES {
            return Err(format!("it is longer than {RECORD_LIMIT_BYTES} bytes"));
        }
        let record: Record =
            serde_json::from_slice(&text).map_err(|error| format!("it is no record: {error}"))?;
        if record.version > VERSION {
            return Err(format!("a later clonetool wrote it, in form {}", record.version));
        }
        if (record.run, record.started_seconds) != (run, run.started_seconds()) {
            return Err(format!("it is the record of another run, {}", record.run));
        }
        Ok(Some(record))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), RecordError> {
        match unlinkat(&self.directory, name, AtFlags::empty()) {
            // Another run does the same.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("tidy", &self.path, error.into())),
        }
    }

    /// The names in the directory; what is not UTF-8 is nothing of ours.
    pub(super) fn names(&self, action: &'static str) -> Result<Vec<String>, RecordError> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&self.directory)? {
                names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
            }
            Ok(names)
        };
        list().map_err(|reason| failed(action, &self.path, reason))
    }
}

/// Replaces the file at `path`, which everybody may read: others see the old one or the new one, whole.
///
/// # Errors
/// [`RecordError::File`].
pub fn replace_file(path: &Path, content: &[u8]) -> Result<(), RecordError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let replace = || -> io::Result<()> {
        let name = path.file_name().ok_or(Errno::ISDIR)?.as_bytes();
        let directory = Store::held(parent)?.directory;
        // Of the process: two may write it at once.
        let new = [b".", name, format!(".{}{STAGED}", std::process::id()).as_bytes()].concat();
        durable::replace_by(&directory, &new, name, content, 0o644, None)
    };
    replace().map_err(|reason| RecordError::File { path: shown(path), reason })
}

fn failed(action: &'static str, path: &Path, reason: io::Error) -> RecordError {
    RecordError::Directory { action, path: shown(path), reason }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::super::RunKind;
    use super::*;

    fn record(started_seconds: u64, random: u16) -> Record {
        Record::begin(
            RunId::new(Duration::from_secs(started_seconds), random),
            RunKind::Sync,
            "0.1.0",
            "p",
            0,
        )
    }

    fn store() -> (tempfile::TempDir, Store) {
        let work = tempfile::tempdir().unwrap();
        let store = Store::create(&work.path().join("a/records")).unwrap();
        (work, store)
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_belongs_to_its_owner_alone() {
        let (_work, store) = store();
        let mut written = record(5, 7);
        store.write(&written).unwrap();
        written.outcome = super::super::Outcome::InSync;
        written.elapsed_seconds = 0.25;
        store.write(&written).unwrap();
        let history = store.read().unwrap();
        assert_eq!((history.records, history.damaged), (vec![written], vec![]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.path), 0o700);
        assert_eq!(mode(&store.path.join("5-000000-0007.json")), 0o600);
        assert_eq!(fs::read_dir(&store.path).unwrap().count(), 1, "what was staged is left");
    }

    #[test]
    fn no_directory_is_no_record() {
        let work = tempfile::tempdir().unwrap();
        assert!(Store::open(&work.path().join("records")).unwrap().is_none());
        fs::write(work.path().join("records"), "").unwrap();
        assert!(Store::open(&work.path().join("records")).is_err());
    }

    #[test]
    fn what_is_damaged_is_named_and_takes_no_other_record_with_it() {
        let (work, store) = store();
        store.write(&record(1, 1)).unwrap();
        let whole = fs::read(store.path.join("1-000000-0001.json")).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        fs::write(store.path.join("2-000000-0002.json"), &whole[..whole.len() / 2]).unwrap();
        fs::write(store.path.join("3-000000-0003.json"), &whole).unwrap();
        fs::write(store.path.join("1-1.json"), &whole).unwrap();
        fs::write(store.path.join("4-000000-0004.json"), "").unwrap();
        let later = text.replace("\"version\":1", "\"version\":2").replace("1-000000-0001", "5-000000-0005");
        fs::write(store.path.join("5-000000-0005.json"), later).unwrap();
        fs::create_dir(store.path.join("6-000000-0006.json")).unwrap();
        std::os::unix::fs::symlink("1-000000-0001.json", store.path.join("7-000000-0007.json")).unwrap();
        fs::write(store.path.join("8-000000-0008.json"), "[".repeat(1 << 20)).unwrap();
        let fifo = store.path.join("9-000000-0009.json");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        fs::write(store.path.join("notes"), "").unwrap();
        let history = store.read().unwrap();
        assert_eq!(history.records, [record(1, 1)]);
        let named: Vec<&str> =
            history.damaged.iter().filter_map(|damaged| damaged.path.rsplit('/').next()).collect();
        assert_eq!(named.len(), 9, "{named:?}");
        assert!(history.damaged[0].path.starts_with(work.path().to_str().unwrap()));
    }

    #[test]
    fn a_file_is_replaced_whole_and_may_be_read_by_all() {
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("c.prom");
        replace_file(&path, b"one").unwrap();
        let old = File::open(&path).unwrap();
        replace_file(&path, b"two").unwrap();
        assert_eq!(io::read_to_string(old).unwrap(), "one");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 1);
        assert!(replace_file(&work.path().join("no/c.prom"), b"").is_err());
        assert!(replace_file(Path::new("/"), b"").is_err());
    }
}
