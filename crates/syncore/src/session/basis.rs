//! What the receiver keeps of a basis between describing it and building on it.
//!
//! Why: to describe a basis all of it is read and digested; whoever builds on it need not do that again as long as it
//! stays what it was. What can go wrong: it is written to meanwhile. Its times tell, if the clock that they are taken
//! from has gone on since they were set last; until then nothing of it is taken for known.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::fstat;

use crate::delta::{BlockSums, KnownBlocks, sum_blocks};
use crate::scan::{OpenFile, Stability, extents};
use crate::tree::Timestamp;

/// A shorter basis has nothing worth finding.
const BASIS_FROM_BYTES: u64 = 4096;

/// Longer than a tick of any kernel's clock.
const TICK: Duration = Duration::from_millis(20);

/// As coarse as times are where they have no fraction.
const COARSE: Duration = Duration::from_secs(2);

/// A basis that was described.
pub(super) struct Basis {
    fd: OwnedFd,
    described: Stability,
    known: KnownBlocks,
}

impl Basis {
    /// Sums a basis for the sender; none when there is nothing to build on.
    pub(super) fn describe(fd: OwnedFd) -> std::io::Result<(BlockSums, Option<Self>)> {
        let now = SystemTime::now();
        let before = Stability::of(fd.as_fd())?;
        if before.size_bytes < BASIS_FROM_BYTES {
            return Ok(Default::default());
        }
        let extents = extents(fd.as_fd(), before.size_bytes)?;
        let (sums, mut known) = sum_blocks(&OpenFile(fd.as_fd()), &extents, before.size_bytes)?;
        if !has_settled(before.ctime, now) {
            known.distrust();
        }
        Ok((sums, Some(Self { fd, described: before, known })))
    }

    fn is_as_described(&self) -> bool {
        Stability::of(self.fd.as_fd()).is_ok_and(|now| now.same_as(&self.described))
    }

    /// What a writer beside the file needs: the basis, and what is known of it.
    pub(super) fn beside(self) -> (OwnedFd, KnownBlocks, Option<Stability>) {
        let as_known = self.known.is_trusted().then_some(self.described);
        (self.fd, self.known, as_known)
    }

    /// What is known of `file`, if that is the same, and was opened for writing by `open`. Opening may take a lock off
    /// the file, which moves its status change time.
    pub(super) fn within<T: AsFd>(
        mut self,
        open: impl FnOnce() -> Option<T>,
    ) -> Result<(T, KnownBlocks, Option<Stability>), Self> {
        let as_described = self.is_as_described();
        let Some(file) = open() else { return Err(self) };
        let same_inode = match (fstat(&self.fd), fstat(&file)) {
            (Ok(basis), Ok(file)) => (basis.st_dev, basis.st_ino) == (file.st_dev, file.st_ino),
            _ => false,
        };
        let now = Stability::of(file.as_fd()).ok().filter(|now| {
            let (before, same) = (&self.described, as_described && same_inode);
            same && (now.size_bytes, now.mtime) == (before.size_bytes, before.mtime)
        });
        if now.is_none() {
            self.known.distrust();
        }
        let as_known = now.filter(|_| self.known.is_trusted());
        Ok((file, self.known, as_known))
    }
}

/// Whether a file that was changed last at `ctime` gets another time if it is changed after `now`.
fn has_settled(ctime: Timestamp, now: SystemTime) -> bool {
    let granularity = if ctime.nanoseconds == 0 { COARSE } else { TICK };
    let Ok(seconds) = u64::try_from(ctime.seconds) else { return true };
    let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, ctime.nanoseconds));
    changed.and_then(|changed| now.duration_since(changed).ok()).is_some_and(|age| age > granularity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_that_a_change_would_move_are_relied_on() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let at = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        for (ctime, settled) in [
            (at(999, 900_000_000), true),
            (at(999, 990_000_000), false),
            (at(1_000, 0), false),
            (at(999, 0), false),
            (at(997, 0), true),
            (at(1_001, 5), false),
            (at(-5, 5), true),
            (at(i64::MAX, 5), false),
        ] {
            assert_eq!(has_settled(ctime, now), settled, "{ctime:?}");
        }
    }
}
