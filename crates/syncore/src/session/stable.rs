//! Whether a large file held still while it was sent.
//!
//! Why: a file that was rewritten under the reader must not pass for one that only grew. What can go wrong: clocks too
//! coarse to show a change; then the content itself, read again, decides.

use std::os::fd::{AsFd, OwnedFd};

use crate::delta::{ContentHasher, Extent};
use crate::scan::{Stability, extents, read_full};

/// Pieces of one length in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    length: u64,
    count: u64,
    hole: bool,
}

/// Digests a file as it is sent, and remembers where it was cut into pieces.
#[derive(Debug, Default)]
pub(super) struct Sent {
    hasher: ContentHasher,
    cuts: Vec<Cut>,
}

impl Sent {
    /// Adds a piece of bytes.
    pub(super) fn data(&mut self, piece: &[u8]) {
        self.piece(piece.len() as u64, blake3::hash(piece).as_bytes());
    }

    /// Adds a piece of bytes whose BLAKE3 is known.
    pub(super) fn piece(&mut self, length: u64, hash: &[u8; 32]) {
        if length > 0 {
            self.hasher.piece(length, hash);
            self.cut(length, false);
        }
    }

    /// Adds a hole.
    pub(super) fn hole(&mut self, length: u64) {
        self.hasher.hole(length);
        self.cut(length, true);
    }

    fn cut(&mut self, length: u64, hole: bool) {
        match self.cuts.last_mut() {
            Some(last) if (last.length, last.hole) == (length, hole) => last.count += 1,
            _ => self.cuts.push(Cut { length, count: 1, hole }),
        }
    }

    /// The digest of everything added, if the file held still since `before`, when it had these extents. One that grew
    /// may have been rewritten as well: what reads twice alike was only added to.
    pub(super) fn finish(
        self,
        fd: &OwnedFd,
        before: &Stability,
        extents_before: &[Extent],
    ) -> std::io::Result<Option<[u8; 32]>> {
        let digest = self.hasher.finish();
        let after = Stability::of(fd.as_fd())?;
        let stayed = after.same_as(before)
            || after.grew_since(before)
                && extents(fd.as_fd(), before.size_bytes)? == extents_before
                && digest_of(fd, &self.cuts)? == Some(digest);
        Ok(stayed.then_some(digest))
    }
}

/// The digest of a file as it is now, cut as it was; none when it has become shorter.
fn digest_of(fd: &OwnedFd, cuts: &[Cut]) -> std::io::Result<Option<[u8; 32]>> {
    let mut hasher = ContentHasher::default();
    let mut buffer = Vec::new();
    let mut position = 0;
    for cut in cuts {
        for _ in 0..cut.count {
            if cut.hole {
                hasher.hole(cut.length);
            } else {
                buffer.resize(usize::try_from(cut.length).unwrap_or(0), 0);
                if read_full(fd.as_fd(), &mut buffer, position)? < buffer.len() {
                    return Ok(None);
                }
                hasher.data(&buffer);
            }
            position += cut.length;
        }
    }
    Ok(Some(hasher.finish()))
}
