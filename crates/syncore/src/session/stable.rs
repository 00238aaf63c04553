//! Whether a large file held still while it was sent.
//!
//! Why: a file that was rewritten under the reader must not pass for one that only grew. What can go wrong: clocks too
//! coarse to show a change; then the content itself, read again, decides.

use std::os::fd::{AsFd, OwnedFd};

use crate::delta::ContentHasher;
use crate::scan::{Stability, extents, read_full};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// Whether what was read of a large file since `before` is what it held at one moment. One that grew may have been
/// rewritten as well: what reads twice alike was only added to.
pub(super) fn stayed(fd: &OwnedFd, before: &Stability, digest: &[u8; 32]) -> std::io::Result<bool> {
    let after = Stability::of(fd.as_fd())?;
    Ok(after.same_as(before)
        || after.grew_since(before) && digest_of(fd, before.size_bytes)? == Some(*digest))
}

/// The digest of the first `length` bytes of a file as they are now; none when it has become shorter.
fn digest_of(fd: &OwnedFd, length: u64) -> std::io::Result<Option<[u8; 32]>> {
    let mut hasher = ContentHasher::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut position = 0;
    for extent in extents(fd.as_fd(), length)? {
        if extent.offset > position {
            hasher.hole(extent.offset - position);
        }
        position = extent.offset;
        while position < extent.offset + extent.length {
            let left = usize::try_from(extent.offset + extent.length - position).unwrap_or(usize::MAX);
            let part = &mut buffer[..left.min(READ_BYTES)];
            if read_full(fd.as_fd(), part, position)? < part.len() {
                return Ok(None);
            }
            hasher.data(part);
            position += part.len() as u64;
        }
    }
    if position < length {
        hasher.hole(length - position);
    }
    Ok(Some(hasher.finish()))
}
