//! The digest that decides whether a file came out right.
//!
//! Why over pieces: what the sender hashed to find it, and the receiver to describe it, need not be hashed again by
//! either when the file is put together. What can go wrong: the two ends cut differently; so the cuts follow from the
//! messages alone, and from [`BLOCK_BYTES`].

use super::sums::BLOCK_BYTES;

/// Says that a piece is bytes.
const DATA: u8 = 0;

/// Says that a piece is a hole.
const HOLE: u8 = 1;

/// Digests a file's content as it is described on the wire: BLAKE3 over kind, length and BLAKE3 of each piece. Holes
/// are pieces without bytes, so that a hole of terabytes costs nothing and is never taken for zeros that are really
/// there.
#[derive(Debug, Default)]
pub struct ContentHasher(blake3::Hasher);

impl ContentHasher {
    /// Adds a piece of bytes.
    pub fn data(&mut self, piece: &[u8]) {
        if !piece.is_empty() {
            self.piece(piece.len() as u64, blake3::hash(piece).as_bytes());
        }
    }

    /// Adds a piece of bytes whose BLAKE3 is known.
    pub(crate) fn piece(&mut self, length: u64, hash: &[u8; 32]) {
        self.0.update(&[DATA]).update(&length.to_le_bytes()).update(hash);
    }

    /// Adds a hole.
    pub fn hole(&mut self, length: u64) {
        self.0.update(&[HOLE]).update(&length.to_le_bytes());
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The pieces of what is copied from the basis: it is cut where the basis' blocks end. Gives offset and length of each.
pub(crate) fn copy_pieces(mut offset: u64, mut length: u64) -> impl Iterator<Item = (u64, u64)> {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    std::iter::from_fn(move || {
        let piece = (offset, length.min(BLOCK - offset % BLOCK));
        (offset, length) = (offset.checked_add(piece.1)?, length - piece.1);
        (piece.1 > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_holes_and_lengths_all_count() {
        let digest = |build: &dyn Fn(&mut ContentHasher)| {
            let mut hasher = ContentHasher::default();
            build(&mut hasher);
            hasher.finish()
        };
        let all = [
            digest(&|_| ()),
            digest(&|h| h.data(&[0; 4096])),
            digest(&|h| h.data(&[0; 4097])),
            digest(&|h| h.hole(4096)),
            digest(&|h| {
                h.data(&[1; 4096]);
                h.hole(4096);
            }),
            digest(&|h| {
                h.hole(4096);
                h.data(&[1; 4096]);
            }),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one));
        }
        let mut known = ContentHasher::default();
        known.piece(4096, blake3::hash(&[0; 4096]).as_bytes());
        assert_eq!(known.finish(), all[1]);
    }

    #[test]
    fn copies_are_cut_where_blocks_of_the_basis_end() {
        let cut = |offset, length| copy_pieces(offset, length).collect::<Vec<_>>();
        assert_eq!(cut(0, 65_536), [(0, 65_536)]);
        assert_eq!(cut(65_535, 65_538), [(65_535, 1), (65_536, 65_536), (131_072, 1)]);
        assert_eq!(cut(5, 0), []);
        // What no file has is cut without end, not wrongly.
        assert_eq!(copy_pieces(u64::MAX, u64::MAX).count(), 0);
        assert_eq!(copy_pieces(1, u64::MAX).take(2).collect::<Vec<_>>(), [(1, 65_535), (65_536, 65_536)]);
    }
}
