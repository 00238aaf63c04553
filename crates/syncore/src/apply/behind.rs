//! Has the kernel write files to disk while the run goes on, and drop from memory what is there already.
//!
//! Why: a flush before the rename has to wait for all of it, and ext4 begins with it in the rename at the latest: better
//! while the sender still looks. And what is written once and not read again would push out of memory what the host needs;
//! each new page has to be found and cleared, which takes several times as long as writing into one that was just let go.
//! A long file is followed while it is made ([`Behind`]), shorter ones one after the other when they are done ([`Trail`]).
//! What can go wrong: nothing that matters. These are requests (posix_fadvise(2)): what cannot be written yet is written
//! later, and what is not on disk yet stays in memory.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{Advice, CWD, Mode, OFlags, fadvise, openat};

use crate::scan::proc_path;

/// So much is made before the kernel is asked to begin with it.
pub(super) const WINDOW_BYTES: u64 = 8 << 20;

/// So many bytes later it is asked to drop it: on disk by then, where the disk keeps up.
const LAG_BYTES: u64 = 4 * WINDOW_BYTES;

/// Shorter files are left to the kernel: two calls for each would cost more than its pages.
const WORTH_BYTES: u64 = 64 << 10;

/// How many files are held open for that at most; where they are short, the lag is as much shorter.
const TRAIL_FILES: usize = 128;

/// How far a file has come.
#[derive(Debug, Default)]
pub(super) struct Behind {
    begun: u64,
    dropped: u64,
}

impl Behind {
    /// Says that `file` is made up to `position`.
    pub(super) fn reached(&mut self, file: BorrowedFd<'_>, position: u64) {
        if position.saturating_sub(self.begun) < WINDOW_BYTES {
            return;
        }
        request(file, self.begun, position);
        self.begun = position;
        let dropped = position.saturating_sub(LAG_BYTES);
        request(file, self.dropped, dropped);
        self.dropped = self.dropped.max(dropped);
    }
}

/// The files that were finished last, the oldest first: they are not dropped yet.
#[derive(Debug, Default)]
pub(super) struct Trail(Mutex<Finished>);

#[derive(Debug, Default)]
struct Finished {
    files: VecDeque<(OwnedFd, u64)>,
    bytes: u64,
}

impl Trail {
    /// Takes a finished file of that length, and drops what was finished long enough before it.
    pub(super) fn add(&self, file: OwnedFd, length: u64) {
        if length < WORTH_BYTES {
            return;
        }
        // A program cannot be run while anybody has it open for writing (`ETXTBSY`, execve(2)).
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let reader = openat(CWD, proc_path(file.as_fd()), flags, Mode::empty());
        drop(file);
        let Ok(file) = reader else { return };
        request(file.as_fd(), 0, length);
        let due = self.0.lock().map(|mut finished| finished.push(file, length)).unwrap_or_default();
        for (file, length) in due {
            request(file.as_fd(), 0, length);
        }
    }
}

impl Finished {
    /// Adds a file; gives those that have [`LAG_BYTES`] behind them now, or too many files.
    fn push(&mut self, file: OwnedFd, length: u64) -> Vec<(OwnedFd, u64)> {
        self.files.push_back((file, length));
        self.bytes += length;
        let mut due = Vec::new();
        while let Some((_, first)) = self.files.front()
            && (self.bytes - first >= LAG_BYTES || self.files.len() > TRAIL_FILES)
        {
            self.bytes -= first;
            due.extend(self.files.pop_front());
        }
        due
    }
}

/// To begin writing what is in memory only, and to drop what is on disk.
fn request(file: BorrowedFd<'_>, from: u64, to: u64) {
    if let Some(length) = NonZeroU64::new(to.saturating_sub(from)) {
        let _ = fadvise(file, from, Some(length), Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::apply::stage::write_full;

    /// How much of a file can be read without waiting for a disk (preadv2(2)): what is in memory.
    fn cached_bytes(file: BorrowedFd<'_>, length: u64) -> u64 {
        let mut page = [0; 4096];
        let mut is_cached = |at: u64| {
            let to = &mut [std::io::IoSliceMut::new(&mut page)];
            rustix::io::preadv2(file, to, at, rustix::io::ReadWriteFlags::NOWAIT).is_ok()
        };
        (0..length).step_by(4096).filter(|at| is_cached(*at)).count() as u64 * 4096
    }

    /// Beside the build, where there is a disk: a filesystem in memory has nothing to drop.
    fn on_disk() -> tempfile::TempDir {
        let build = std::env::current_exe().unwrap();
        tempfile::tempdir_in(build.parent().unwrap()).unwrap()
    }

    fn create(path: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDWR | OFlags::CREATE;
        openat(CWD, path, flags, Mode::RUSR | Mode::WUSR).unwrap()
    }

    #[test]
    fn of_files_one_after_the_other_only_the_last_stay_in_memory() {
        const FILE_BYTES: u64 = 1 << 20;
        let (temp, trail) = (on_disk(), Trail::default());
        let paths: Vec<_> = (0..64).map(|number| temp.path().join(number.to_string())).collect();
        for path in &paths {
            let file = create(path);
            write_full(file.as_fd(), &vec![7; FILE_BYTES as usize], 0).unwrap();
            trail.add(file, FILE_BYTES);
            // The disk keeps up.
            rustix::fs::fdatasync(create(path)).unwrap();
        }
        let control = create(&temp.path().join("control"));
        write_full(control.as_fd(), &[7; 4096], 0).unwrap();
        assert_eq!(cached_bytes(control.as_fd(), 4096), 4096, "nothing tells what is in memory");
        let gone = &paths[..paths.len() - usize::try_from(LAG_BYTES / FILE_BYTES).unwrap() - 1];
        let cached: Vec<u64> =
            gone.iter().map(|path| cached_bytes(create(path).as_fd(), FILE_BYTES)).collect();
        // The kernel keeps a page here and there that it had in hand itself when it was asked.
        assert!(cached.iter().sum::<u64>() < gone.len() as u64 * FILE_BYTES / 4, "{cached:?}");
    }

    #[test]
    fn a_file_is_due_when_the_lag_is_behind_it() {
        let (temp, mut finished) = (on_disk(), Finished::default());
        let mut due = |length| -> Vec<u64> {
            let file = create(&temp.path().join("any"));
            finished.push(file, length).into_iter().map(|(_, length)| length).collect()
        };
        // However long it is itself, what is behind it counts.
        assert!(due(5 * LAG_BYTES).is_empty());
        assert!(due(LAG_BYTES / 2).is_empty());
        assert_eq!(due(LAG_BYTES / 2), [5 * LAG_BYTES]);
        assert_eq!(due(LAG_BYTES), [LAG_BYTES / 2, LAG_BYTES / 2]);
    }

    #[test]
    fn many_files_are_not_held_open_for_long() {
        let (temp, trail) = (on_disk(), Trail::default());
        for number in 0..3 * TRAIL_FILES {
            trail.add(create(&temp.path().join(number.to_string())), WORTH_BYTES);
        }
        assert_eq!(trail.0.lock().unwrap().files.len(), TRAIL_FILES);
        trail.add(create(&temp.path().join("short")), WORTH_BYTES - 1);
        let finished = trail.0.lock().unwrap();
        assert_eq!(finished.bytes, TRAIL_FILES as u64 * WORTH_BYTES);
        // Or none of them could be run until the end.
        let written =
            |file: &OwnedFd| rustix::fs::fcntl_getfl(file).unwrap().intersects(OFlags::WRONLY | OFlags::RDWR);
        assert!(!finished.files.iter().any(|(file, _)| written(file)));
    }

    #[test]
    fn of_a_long_file_only_the_end_stays_in_memory() {
        let temp = on_disk();
        let file = create(&temp.path().join("long"));
        let (mut behind, piece, length) = (Behind::default(), vec![7; 1 << 20], 128_u64 << 20);
        for position in (0..length).step_by(piece.len()) {
            write_full(file.as_fd(), &piece, position).unwrap();
            behind.reached(file.as_fd(), position + piece.len() as u64);
            if (position >> 20) % 8 == 7 {
                // The disk keeps up.
                rustix::fs::fdatasync(&file).unwrap();
            }
        }
        let cached = cached_bytes(file.as_fd(), length);
        assert!(cached > 0, "nothing tells what is in memory");
        assert!(cached <= LAG_BYTES + 2 * WINDOW_BYTES, "{cached} bytes are in memory");
    }
}
