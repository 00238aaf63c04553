//! Has the kernel write a long file to disk while it is being made, and drop from memory what is there already.
//!
//! Why: a flush before the rename has to wait for all of it, and ext4 begins with it in the rename at the latest: better
//! while the sender still looks. And what is written once and not read again would push out of memory what the host needs;
//! each new page has to be found and cleared, which takes several times as long as writing into one that was just let go.
//! What can go wrong: nothing that matters. These are requests (posix_fadvise(2)): what cannot be written yet is written
//! later, and what is not on disk yet stays in memory.

use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;

use rustix::fs::{Advice, fadvise};

/// So much is made before the kernel is asked to begin with it.
pub(super) const WINDOW_BYTES: u64 = 8 << 20;

/// So far behind it is asked to drop it: on disk by then, where the disk keeps up.
const LAG_BYTES: u64 = 4 * WINDOW_BYTES;

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

/// To begin writing what is in memory only, and to drop what is on disk.
fn request(file: BorrowedFd<'_>, from: u64, to: u64) {
    if let Some(length) = NonZeroU64::new(to.saturating_sub(from)) {
        let _ = fadvise(file, from, Some(length), Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{Mode, OFlags, openat};

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

    #[test]
    fn of_a_long_file_only_the_end_stays_in_memory() {
        // Beside the build, where there is a disk: a filesystem in memory has nothing to drop.
        let build = std::env::current_exe().unwrap();
        let temp = tempfile::tempdir_in(build.parent().unwrap()).unwrap();
        let path = temp.path().join("long");
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = openat(rustix::fs::CWD, &path, flags, Mode::RUSR | Mode::WUSR).unwrap();
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
