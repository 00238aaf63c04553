//! What is known to bear no extended attributes, from one run to the next.
//!
//! Why: nearly no file has any, and asking each costs a third of a scan of what did not change. Whoever sets an
//! attribute sets the inode's change time, which nobody can choose (inode(7)), so a name that had none has none as long as
//! inode and change time are what they were. Kept is a hash of those of some two hundred names together, eight bytes.
//! What can go wrong: a change within the tick of the clock in which the name was read, so what changed a moment ago is
//! asked again; a filesystem that forgets to set the time, so only those are believed that are known to do it; a clock that
//! was set back, or a device written to behind the filesystem's back (debugfs), so a run that compares content asks
//! everywhere. A list that is lost, damaged or not kept costs time and nothing else.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags, Statx, fstatfs, openat};

use crate::durable;

/// What the file begins with.
const MAGIC: &[u8; 16] = b"clonetool bare 1";
/// Bytes of the checksum that it ends with.
const CHECKSUM_BYTES: usize = 32;
/// No list is that long: it would be of two billion names.
const LIMIT_BYTES: u64 = 64 << 20;
/// A tree of fewer names is asked in less time than the file is worth.
const FEWEST_NAMES: u64 = 10_000;
/// How many lists are kept in a directory, one for each tree and set of rules.
const KEPT_LISTS: usize = 32;
/// How long ago the last change must be, in seconds: a multiple of every clock tick.
const SETTLED_SECONDS: i64 = 2;

/// Filesystems whose change time covers attributes (`f_type`, statfs(2)): ext2 to ext4, XFS, btrfs.
const TRUSTED: [u32; 3] = [0xef53, 0x5846_5342, 0x9123_683e];

/// Several names together: their inodes and change times, in the order in which they are listed.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    bytes: Vec<u8>,
    newest_seconds: i64,
}

impl Stamps {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.newest_seconds = i64::MIN;
    }

    pub(crate) fn add(&mut self, stat: &Statx) {
        let changed = &stat.stx_ctime;
        self.bytes.extend_from_slice(&stat.stx_ino.to_le_bytes());
        self.bytes.extend_from_slice(&changed.tv_sec.to_le_bytes());
        self.bytes.extend_from_slice(&changed.tv_nsec.to_le_bytes());
        self.newest_seconds = self.newest_seconds.max(changed.tv_sec);
    }

    fn hash(&self) -> u64 {
        let hash = blake3::hash(&self.bytes);
        hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// Which names of one tree, under one set of rules, bear no extended attributes.
#[derive(Debug)]
pub struct BareList {
    file: PathBuf,
    /// Sorted.
    known: Vec<u64>,
    found: Mutex<Vec<u64>>,
    names: AtomicU64,
    /// What changed before this second is settled.
    settled_seconds: i64,
}

impl BareList {
    /// The list of the tree that `key` stands for, of those that are kept in `directory`. One that cannot be read is empty.
    #[must_use]
    pub fn load(directory: &Path, key: &[u8]) -> Self {
        let file = directory.join(&*blake3::hash(key).to_hex());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            known: read(&file).unwrap_or_default(),
            file,
            found: Mutex::default(),
            names: AtomicU64::new(0),
            settled_seconds: i64::try_from(now.as_secs()).unwrap_or(0) - SETTLED_SECONDS,
        }
    }

    /// Whether the filesystem of `directory` says when an attribute was set.
    pub(crate) fn covers(directory: BorrowedFd<'_>) -> bool {
        // The low half is the number on every architecture; some sign it.
        fstatfs(directory).is_ok_and(|fs| TRUSTED.contains(&((fs.f_type as u64 & 0xffff_ffff) as u32)))
    }

    /// Whether none of these has an attribute.
    pub(crate) fn knows(&self, stamps: &Stamps) -> bool {
        self.known.binary_search(&stamps.hash()).is_ok()
    }

    /// None of these `names` has an attribute.
    pub(crate) fn add(&self, stamps: &Stamps, names: usize) {
        self.names.fetch_add(names as u64, Ordering::Relaxed);
        if stamps.newest_seconds < self.settled_seconds
            && let Ok(mut found) = self.found.lock()
        {
            found.push(stamps.hash());
        }
    }

    /// Keeps what was found, for the next run, in place of what was known; not where that is the same, or little.
    ///
    /// # Errors
    /// When it cannot be written: the next run asks again.
    pub fn save(&self) -> io::Result<()> {
        let mut found = self.found.lock().map(|mut found| std::mem::take(&mut *found)).unwrap_or_default();
        found.sort_unstable();
        found.dedup();
        if found == self.known || self.names.load(Ordering::Relaxed) < FEWEST_NAMES {
            return Ok(());
        }
        let mut content = MAGIC.to_vec();
        content.extend(found.iter().flat_map(|hash| hash.to_le_bytes()));
        let checksum = blake3::hash(&content);
        content.extend_from_slice(checksum.as_bytes());
        let Some(directory) = self.file.parent() else { return Ok(()) };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        drop_oldest(directory)?;
        // Nothing is flushed: half a list after a power failure is none.
        let staged = self.file.with_extension(format!("{}.new", std::process::id()));
        let new = File::options().write(true).create_new(true).mode(0o600).open(&staged);
        let written = new.and_then(|mut file| file.write_all(&content));
        written.and_then(|()| std::fs::rename(&staged, &self.file)).inspect_err(|_| {
            let _ = std::fs::remove_file(&staged);
        })
    }
}

/// The list in `file`; none when there is none, or it is not what was written.
fn read(file: &Path) -> Option<Vec<u64>> {
    let directory = openat(CWD, file.parent()?, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let content = durable::read(directory, file.file_name()?.to_str()?, LIMIT_BYTES).ok()??;
    let (content, checksum) = content.split_at_checked(content.len().checked_sub(CHECKSUM_BYTES)?)?;
    let hashes = content.strip_prefix(MAGIC)?;
    let whole = blake3::hash(content) == *checksum.first_chunk()?;
    whole.then(|| hashes.as_chunks().0.iter().map(|hash| u64::from_le_bytes(*hash)).collect())
}

/// Makes room for one more list: those of trees that are no more would stay for ever.
fn drop_oldest(directory: &Path) -> io::Result<()> {
    let mut lists = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => lists.push((metadata.modified()?, entry.path())),
            Ok(_) => {}
            // Another run made room, too.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    lists.sort_unstable();
    let surplus = (lists.len() + 1).saturating_sub(KEPT_LISTS);
    lists.iter().take(surplus).try_for_each(|(_, list)| match std::fs::remove_file(list) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{AtFlags, statx};

    use super::*;
    use crate::scan::statx_mask;

    const MANY: usize = 20_000;

    /// The stamps of an inode that changed at `seconds`.
    fn stamps(seconds: i64) -> Stamps {
        let mut stat = statx(CWD, c"/", AtFlags::empty(), statx_mask()).unwrap();
        stat.stx_ctime.tv_sec = seconds;
        let mut stamps = Stamps::default();
        stamps.clear();
        stamps.add(&stat);
        stamps
    }

    fn list_in(directory: &Path) -> PathBuf {
        fs::read_dir(directory).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn what_was_found_is_known_the_next_time_and_only_of_the_same_tree() {
        let work = tempfile::tempdir().unwrap();
        let list = BareList::load(work.path(), b"tree");
        assert!(!list.knows(&stamps(1)));
        list.add(&stamps(1), MANY);
        list.save().unwrap();
        let next = BareList::load(work.path(), b"tree");
        assert!(next.knows(&stamps(1)));
        assert!(!next.knows(&stamps(2)));
        assert!(!BareList::load(work.path(), b"other").knows(&stamps(1)));
        // What is not found again is forgotten.
        next.add(&stamps(2), MANY);
        next.save().unwrap();
        let last = BareList::load(work.path(), b"tree");
        assert_eq!((last.knows(&stamps(1)), last.knows(&stamps(2))), (false, true));
    }

    #[test]
    fn what_changed_a_moment_ago_may_change_again_in_the_same_tick() {
        let work = tempfile::tempdir().unwrap();
        let list = BareList::load(work.path(), b"tree");
        for seconds in [list.settled_seconds, list.settled_seconds + SETTLED_SECONDS, i64::MAX] {
            list.add(&stamps(seconds), MANY);
        }
        list.add(&stamps(list.settled_seconds - 1), MANY);
        list.save().unwrap();
        let next = BareList::load(work.path(), b"tree");
        assert_eq!(next.known.len(), 1);
        assert!(next.knows(&stamps(list.settled_seconds - 1)));
    }

    #[test]
    fn a_list_that_is_damaged_is_empty() {
        let work = tempfile::tempdir().unwrap();
        let list = BareList::load(work.path(), b"tree");
        list.add(&stamps(1), MANY);
        list.save().unwrap();
        let file = list_in(work.path());
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file, &damaged).unwrap();
            assert!(BareList::load(work.path(), b"tree").known.is_empty(), "byte {at}");
            fs::write(&file, &whole[..at]).unwrap();
            assert!(BareList::load(work.path(), b"tree").known.is_empty(), "{at} bytes");
        }
    }

    #[test]
    fn little_is_not_kept_and_lists_do_not_pile_up() {
        let work = tempfile::tempdir().unwrap();
        let few = BareList::load(work.path(), b"few");
        few.add(&stamps(1), 10);
        few.save().unwrap();
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
        for number in 0..KEPT_LISTS + 8 {
            let list = BareList::load(work.path(), &number.to_le_bytes());
            list.add(&stamps(1), MANY);
            list.save().unwrap();
        }
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), KEPT_LISTS);
    }
}
