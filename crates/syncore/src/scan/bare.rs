//! What is known to bear no extended attributes, from one run to the next.
//!
//! Why: nearly no file has any, and asking each costs a third of a scan of what did not change. Whoever sets an
//! attribute sets the inode's change time, and no program can choose that (inode(7)), so a name that had none has none as
//! long as inode and change time are what they were. Kept is a hash of those of some two hundred names of a directory
//! together, and of the directory's own.
//!
//! What can go wrong, each of which would hide an attribute until the inode changes again:
//! * a change within the tick of the clock in which the name was read: what changed a moment ago is asked again;
//! * metadata of one inode and the list of another, when names were exchanged in between (XFS then sets the change time of
//!   neither): the directory's own change time, read before, is part of the hash;
//! * another filesystem with the same inodes, such as a later snapshot or image in the same place: the mount is part of the
//!   hash, by an id that no other mount has until the next boot (`STATX_MNT_ID_UNIQUE`, Linux 6.8), and so is the boot;
//! * a filesystem that forgets to set the time, gets it from another host, has snapshots within one mount (btrfs), or was
//!   mounted so that it hides attributes: only mounts of ext2 to ext4 and XFS are believed, and nothing that is mounted there;
//! * a file server in the kernel that sets the times its clients ask for: where there is one, nothing is believed;
//! * a clock that was set back, or a mounted device written to behind the filesystem's back (debugfs(8)): a run that
//!   compares content asks everywhere, and what was kept is dropped.
//!
//! A list that is lost or damaged costs time and nothing else.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, openat, statx};

use crate::durable;

/// What the file begins with.
const MAGIC: &[u8; 16] = b"clonetool bare 1";
/// Bytes of the checksum that it ends with.
const CHECKSUM_BYTES: usize = 32;
/// No longer list is kept or read: eight million directories.
const LIMIT_BYTES: usize = 64 << 20;
/// A tree of fewer names is asked in less time than the file is worth.
const FEWEST_NAMES: u64 = 10_000;
/// How many lists are kept in a directory, one for each tree and set of rules.
const KEPT_LISTS: usize = 32;
/// How long ago the last change of a name must be for a [`BareList`] to keep it, in seconds: a multiple of every clock tick.
pub const SETTLED_SECONDS: i64 = 2;

/// Filesystems whose change time covers attributes (the type of a mount, proc_pid_mountinfo(5)).
const TRUSTED: [&str; 4] = ["ext2", "ext3", "ext4", "xfs"];
/// Mount options under which attributes that are there are not shown.
const HIDING: [&str; 2] = ["noacl", "nouser_xattr"];
/// File servers in the kernel that set change times at a client's word.
const SERVERS: [&str; 2] = ["/sys/module/ksmbd", "/sys/module/nfsd"];

/// `STATX_MNT_ID_UNIQUE` (linux/stat.h).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// A mount, by an id that is given once between two boots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UniqueMount(u64);

/// Several names of a directory together: its own inode and change time, and theirs in the order in which they are listed.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    bytes: Vec<u8>,
    newest_seconds: i64,
}

impl Stamps {
    /// Begins anew, with what `directory` was before anything in it was read, and the mount that it is on.
    pub(crate) fn begin(&mut self, directory: &Statx, mount: UniqueMount) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&mount.0.to_le_bytes());
        self.newest_seconds = i64::MIN;
        self.add(directory);
    }

    pub(crate) fn add(&mut self, stat: &Statx) {
        let changed = &stat.stx_ctime;
        self.bytes.extend_from_slice(&stat.stx_ino.to_le_bytes());
        self.bytes.extend_from_slice(&changed.tv_sec.to_le_bytes());
        self.bytes.extend_from_slice(&changed.tv_nsec.to_le_bytes());
        self.newest_seconds = self.newest_seconds.max(changed.tv_sec);
    }

    pub(crate) fn seal(&self) -> Seal {
        let hash = blake3::hash(&self.bytes);
        let hash = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Seal { hash, newest_seconds: self.newest_seconds }
    }
}

/// The hash of [`Stamps`], and when the last of what is in them changed.
#[derive(Debug)]
pub(crate) struct Seal {
    hash: u64,
    newest_seconds: i64,
}

/// Which names of one tree, under one set of rules, bear no extended attributes.
#[derive(Debug)]
pub struct BareList {
    file: PathBuf,
    /// Whether what is found is kept.
    keep: bool,
    /// Ids of the mounts that are believed, sorted.
    mounts: Vec<u64>,
    /// Sorted.
    known: Vec<u64>,
    found: Mutex<Vec<u64>>,
    names: AtomicU64,
    /// What changed before this second is settled.
    settled_seconds: i64,
}

impl BareList {
    /// The list of the tree that `key` stands for, of those that are kept in `directory`. One that cannot be read is empty,
    /// and what is found is kept if `keep`.
    ///
    /// Two who are not shown the same attributes must not have the same key, nor two boots of a host.
    #[must_use]
    pub fn load(directory: &Path, key: &[u8], keep: bool) -> Self {
        let file = directory.join(&*blake3::hash(key).to_hex());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mounts = trusted_mounts();
        if mounts.is_empty() && keep {
            // Nobody sees to it as long as nothing is believed.
            let _ = std::fs::remove_file(&file);
        }
        Self {
            known: if mounts.is_empty() { Vec::new() } else { read(&file).unwrap_or_default() },
            file,
            keep,
            mounts,
            found: Mutex::default(),
            names: AtomicU64::new(0),
            settled_seconds: i64::try_from(now.as_secs()).unwrap_or(0) - SETTLED_SECONDS,
        }
    }

    /// Drops what is kept of that tree: every name is asked the next time.
    pub fn forget(directory: &Path, key: &[u8]) {
        let _ = std::fs::remove_file(directory.join(&*blake3::hash(key).to_hex()));
    }

    /// The mount of an open directory, if what is on it says when an attribute was set; `mount` is its id.
    pub(crate) fn covers(&self, directory: BorrowedFd<'_>, mount: u64) -> Option<UniqueMount> {
        self.mounts.binary_search(&mount).ok()?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(directory, c"", flags, MNT_ID_UNIQUE).ok()?;
        (stat.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(UniqueMount(stat.stx_mnt_id))
    }

    /// Whether none of these has an attribute.
    pub(crate) fn knows(&self, seal: &Seal) -> bool {
        self.known.binary_search(&seal.hash).is_ok()
    }

    /// None of these `names` has an attribute.
    pub(crate) fn add(&self, seal: &Seal, names: usize) {
        self.names.fetch_add(names as u64, Ordering::Relaxed);
        if seal.newest_seconds < self.settled_seconds
            && let Ok(mut found) = self.found.lock()
        {
            found.push(seal.hash);
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
        if !self.keep || found == self.known || self.names.load(Ordering::Relaxed) < FEWEST_NAMES {
            return Ok(());
        }
        let mut content = MAGIC.to_vec();
        content.extend(found.iter().flat_map(|hash| hash.to_le_bytes()));
        let checksum = blake3::hash(&content);
        content.extend_from_slice(checksum.as_bytes());
        let Some(directory) = self.file.parent().filter(|_| content.len() <= LIMIT_BYTES) else {
            return Ok(());
        };
        // Only where there is a place for it: nobody's tree gets a directory that nobody asked for.
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !self.file.exists() {
            drop_oldest(directory)?;
        }
        // Nothing is flushed: half a list after a power failure is none.
        let staged = self.file.with_extension(std::process::id().to_string());
        let _ = std::fs::remove_file(&staged);
        let new = File::options().write(true).create_new(true).mode(0o600).open(&staged);
        let written = new.and_then(|mut file| file.write_all(&content));
        written.and_then(|()| std::fs::rename(&staged, &self.file)).inspect_err(|_| {
            let _ = std::fs::remove_file(&staged);
        })
    }
}

/// The ids of the mounts whose change times cover attributes, sorted; none where a file server sets change times.
fn trusted_mounts() -> Vec<u64> {
    if SERVERS.iter().any(|module| Path::new(module).exists()) {
        return Vec::new();
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<u64> = table.lines().filter_map(trusted_mount).collect();
    mounts.sort_unstable();
    mounts
}

/// The id of the mount that a line of `/proc/self/mountinfo` is about, if it is to be believed.
fn trusted_mount(line: &str) -> Option<u64> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let kind = filesystem.split(' ').next()?;
    let mut options = mount.split([' ', ',']).chain(filesystem.split([' ', ',']));
    let hides = options.any(|option| HIDING.contains(&option));
    mount.split(' ').next()?.parse().ok().filter(|_| TRUSTED.contains(&kind) && !hides)
}

/// The list in `file`; none when there is none, or it is not what was written.
fn read(file: &Path) -> Option<Vec<u64>> {
    let directory = openat(CWD, file.parent()?, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let content = durable::read(directory, file.file_name()?.to_str()?, LIMIT_BYTES as u64).ok()??;
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
        let name = entry.file_name();
        let list = name.len() >= 64 && name.as_encoded_bytes()[..64].iter().all(u8::is_ascii_hexdigit);
        match entry.metadata() {
            Ok(metadata) if list && metadata.is_file() => lists.push((metadata.modified()?, entry.path())),
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

    use super::*;
    use crate::scan::statx_mask;

    const MANY: usize = 20_000;

    /// The seal of an inode that changed at `seconds`, in a directory of that mount that changed at `directory_seconds`.
    fn seal_in(mount: u64, directory_seconds: i64, seconds: i64) -> Seal {
        let mut stat = statx(CWD, c"/", AtFlags::empty(), statx_mask()).unwrap();
        stat.stx_ctime.tv_sec = directory_seconds;
        let mut stamps = Stamps::default();
        stamps.begin(&stat, UniqueMount(mount));
        stat.stx_ctime.tv_sec = seconds;
        stamps.add(&stat);
        stamps.seal()
    }

    fn seal(seconds: i64) -> Seal {
        seal_in(7, 1, seconds)
    }

    /// The list of a key where what is on one mount is believed.
    fn load(directory: &Path, key: &[u8]) -> BareList {
        let list = BareList::load(directory, key, true);
        BareList { known: read(&list.file).unwrap_or_default(), mounts: vec![1], ..list }
    }

    fn list_in(directory: &Path) -> PathBuf {
        fs::read_dir(directory).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn what_was_found_is_known_the_next_time_and_only_of_the_same_tree() {
        let work = tempfile::tempdir().unwrap();
        let list = load(work.path(), b"tree");
        assert!(!list.knows(&seal(1)));
        list.add(&seal(1), MANY);
        list.save().unwrap();
        let next = load(work.path(), b"tree");
        assert!(next.knows(&seal(1)));
        assert!(!next.knows(&seal(2)) && !next.knows(&seal_in(8, 1, 1)) && !next.knows(&seal_in(7, 2, 1)));
        assert!(!load(work.path(), b"other").knows(&seal(1)));
        // What is not found again is forgotten.
        next.add(&seal(2), MANY);
        next.save().unwrap();
        let last = load(work.path(), b"tree");
        assert_eq!((last.knows(&seal(1)), last.knows(&seal(2))), (false, true));
    }

    #[test]
    fn what_changed_a_moment_ago_may_change_again_in_the_same_tick() {
        let work = tempfile::tempdir().unwrap();
        let list = load(work.path(), b"tree");
        for seconds in [list.settled_seconds, list.settled_seconds + SETTLED_SECONDS, i64::MAX] {
            list.add(&seal(seconds), MANY);
        }
        list.add(&seal(list.settled_seconds - 1), MANY);
        list.save().unwrap();
        let next = load(work.path(), b"tree");
        assert_eq!(next.known.len(), 1);
        assert!(next.knows(&seal(list.settled_seconds - 1)));
    }

    #[test]
    fn only_mounts_that_tell_and_hide_nothing_are_believed() {
        for (line, id) in [
            ("36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw,errors=continue", Some(36)),
            ("37 35 98:0 / /mnt rw - xfs /dev/sdb rw,attr2", Some(37)),
            ("38 35 0:41 /@ /mnt rw - btrfs /dev/sdc rw,subvol=/@", None),
            ("36 35 98:0 / /mnt rw,noacl - ext4 /dev/root rw", None),
            ("36 35 98:0 / /mnt rw - ext4 /dev/root rw,nouser_xattr", None),
            ("39 35 0:42 / /mnt rw - 9p host rw,trans=virtio", None),
            ("40 35 0:43 / /mnt rw - tmpfs tmpfs rw", None),
            ("41 35 0:44 / /mnt rw - fuse.ext4 ext4 rw", None),
            ("ext4 - ext4", None),
            ("", None),
        ] {
            assert_eq!(trusted_mount(line), id, "{line}");
        }
    }

    #[test]
    fn what_is_forgotten_or_not_to_be_kept_is_not_there_the_next_time() {
        let work = tempfile::tempdir().unwrap();
        let list = BareList { keep: false, ..load(work.path(), b"tree") };
        list.add(&seal(1), MANY);
        list.save().unwrap();
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
        let list = load(work.path(), b"tree");
        list.add(&seal(1), MANY);
        list.save().unwrap();
        assert!(load(work.path(), b"tree").knows(&seal(1)));
        BareList::forget(work.path(), b"tree");
        assert!(!load(work.path(), b"tree").knows(&seal(1)));
    }

    #[test]
    fn a_list_that_is_damaged_is_empty() {
        let work = tempfile::tempdir().unwrap();
        let list = load(work.path(), b"tree");
        list.add(&seal(1), MANY);
        list.save().unwrap();
        let file = list_in(work.path());
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file, &damaged).unwrap();
            assert!(load(work.path(), b"tree").known.is_empty(), "byte {at}");
            fs::write(&file, &whole[..at]).unwrap();
            assert!(load(work.path(), b"tree").known.is_empty(), "{at} bytes");
        }
    }

    #[test]
    fn little_is_not_kept_and_lists_do_not_pile_up() {
        let work = tempfile::tempdir().unwrap();
        let few = load(work.path(), b"few");
        few.add(&seal(1), 10);
        few.save().unwrap();
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
        fs::write(work.path().join("of-somebody-else"), "").unwrap();
        for number in 0..KEPT_LISTS + 8 {
            let list = load(work.path(), &number.to_le_bytes());
            list.add(&seal(1), MANY);
            list.save().unwrap();
        }
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), KEPT_LISTS + 1);
    }
}
