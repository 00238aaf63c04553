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
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::apply::{Directories, FileWriter, WriteError};
    use crate::delta::{ContentHasher, copy_pieces};
    use crate::scan::{Boundaries, Root};
    use crate::tree::RelPath;

    const LENGTH: u64 = (3 << 20) + 77;

    fn noise(seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(LENGTH).unwrap()];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Describes a file again and again until its times can be relied on.
    fn described(path: &Path) -> Basis {
        loop {
            let (_, basis) = Basis::describe(File::open(path).unwrap().into()).unwrap();
            if let Some(basis) = basis.filter(|basis| basis.known.is_trusted()) {
                return basis;
            }
            std::thread::yield_now();
        }
    }

    /// A writer for a new version of `path`, beside it or within it.
    fn writer(root: &Path, path: &Path, basis: Basis, in_place: bool) -> FileWriter {
        if in_place {
            let open = || File::options().read(true).write(true).open(path).ok().map(OwnedFd::from);
            let Ok((file, known, as_known)) = basis.within(open) else { unreachable!("it can be opened") };
            return FileWriter::in_place(file).unwrap().knowing(known, as_known);
        }
        let root = Arc::new(Root::open(root).unwrap());
        let directories = Directories::new(root, &Boundaries::default(), &[]).unwrap();
        let directory = directories.open(&RelPath::root()).unwrap();
        let (fd, known, as_known) = basis.beside();
        FileWriter::create(&directories, &directory, Some(fd)).unwrap().knowing(known, as_known)
    }

    fn digest_of_copy(content: &[u8], copies: &[(u64, u64)]) -> [u8; 32] {
        let mut hasher = ContentHasher::default();
        for (offset, length) in copies.iter().flat_map(|(offset, length)| copy_pieces(*offset, *length)) {
            hasher.data(&content[offset as usize..(offset + length) as usize]);
        }
        hasher.finish()
    }

    fn is_mismatch<T>(result: &Result<T, WriteError>) -> bool {
        matches!(result, Err(WriteError::Mismatch))
    }

    #[test]
    fn a_basis_that_changes_after_it_was_described_is_noticed() {
        let content = noise(1);
        let digest = digest_of_copy(&content, &[(0, LENGTH)]);
        for in_place in [false, true] {
            // Never, before it is opened, before it is copied, and after that.
            for change_at in [None, Some(0), Some(1), Some(2)] {
                let root = tempfile::tempdir().unwrap();
                let path = root.path().join("basis");
                fs::write(&path, &content).unwrap();
                let change = |now| {
                    if change_at == Some(now) {
                        let file = File::options().write(true).open(&path).unwrap();
                        file.write_all_at(&[content[1_000_000] ^ 1], 1_000_000).unwrap();
                    }
                };
                let basis = described(&path);
                change(0);
                let mut writer = writer(root.path(), &path, basis, in_place);
                change(1);
                let copied = writer.copy(0, LENGTH);
                change(2);
                let result = copied.and_then(|()| writer.finish(Some(digest)));
                let what = format!("in place: {in_place}, changed at {change_at:?}: {result:?}");
                assert_eq!(is_mismatch(&result), change_at.is_some(), "{what}");
                assert_eq!(result.is_ok(), change_at.is_none(), "{what}");
            }
        }
    }

    #[test]
    fn what_is_copied_is_what_both_ends_digest() {
        let content = noise(2);
        // Whole blocks, parts of them, at their places, shifted by pages and by bytes; forwards only, as in place.
        let copies = [
            (0, 65_536),
            (65_536, 8192),
            (77_824, 262_144 + 5),
            (400_000, 1),
            (458_752, 1_000_000),
            (1_507_328, LENGTH - 1_507_328),
        ];
        let digest = digest_of_copy(&content, &copies);
        for (in_place, distrusted) in [(false, false), (false, true), (true, false), (true, true)] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("basis");
            fs::write(&path, &content).unwrap();
            let mut basis = described(&path);
            if distrusted {
                basis.known.distrust();
            }
            let mut writer = writer(root.path(), &path, basis, in_place);
            for (offset, length) in copies {
                writer.copy(offset, length).unwrap();
            }
            let expected: Vec<u8> =
                copies.iter().flat_map(|(o, l)| &content[*o as usize..(o + l) as usize]).copied().collect();
            assert_eq!(writer.position(), expected.len() as u64);
            let (fd, _staged) = writer.finish(Some(digest)).unwrap();
            let file = File::from(fd);
            let mut made = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
            file.read_exact_at(&mut made, 0).unwrap();
            assert!(made == expected, "in place: {in_place}, distrusted: {distrusted}");
        }
    }

    #[test]
    fn what_the_basis_does_not_have_is_not_copied() {
        let content = noise(3);
        for in_place in [false, true] {
            for (offset, length) in
                [(LENGTH, 1), (0, LENGTH + 1), (65_536, u64::MAX), (u64::MAX, u64::MAX), (1, u64::MAX - 1)]
            {
                let root = tempfile::tempdir().unwrap();
                let path = root.path().join("basis");
                fs::write(&path, &content).unwrap();
                let mut writer = writer(root.path(), &path, described(&path), in_place);
                let copied = writer.copy(offset, length);
                assert!(is_mismatch(&copied), "{offset} {length}: {copied:?}");
            }
        }
    }

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
