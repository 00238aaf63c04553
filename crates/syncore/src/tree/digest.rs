//! Digests of entries and directories.
//!
//! Why: two equal trees are recognised by comparing one digest, and unequal ones by descending only where
//! digests differ. What can go wrong: a truncated hash that an attacker can collide. Directory digests and link
//! keys are 128 bits of BLAKE3 (2^64 work for a collision, and a collision only hides a change in files that
//! its maker owned anyway); the 64-bit name hash is an index, never proof of equality. Two names of a directory with one
//! hash cannot be told apart, so the hash has a key that nobody knows before the run.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};

use super::{Entry, RelPath};

/// 128 bits of BLAKE3.
pub type Digest = [u8; 16];

/// The order of names within a directory digest, and the key of range splits: what a [`NameKey`] makes of a name.
pub type NameHash = u64;

/// The key of a run's name hashes. Who could foresee it could make two names that have one hash, and so keep a directory
/// from ever being compared; should it happen by chance, the next run has another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NameKey(pub [u64; 2]);

impl NameKey {
    /// The sort key of a name within its directory: its SipHash-2-4.
    #[must_use]
    pub fn hash(self, name: &[u8]) -> NameHash {
        // Deprecated for hash maps only; the standard library has no other SipHash that takes a key.
        #[expect(deprecated, reason = "see above")]
        let mut hasher = std::hash::SipHasher::new_with_keys(self.0[0], self.0[1]);
        hasher.write(name);
        hasher.finish()
    }
}

fn truncate(hash: &blake3::Hash) -> Digest {
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.as_bytes()[..16]);
    digest
}

/// The digest of one name of which only the existence counts.
#[must_use]
pub fn digest_name(name: &[u8]) -> Digest {
    let mut digest = truncate(&blake3::hash(name));
    digest[0] ^= 0x5a;
    digest
}

/// The digest of one name and its entry, without its link group and without what is below a directory.
/// `buffer` is scratch space, so that a scan allocates once.
#[must_use]
pub fn digest_entry(name: &[u8], entry: &Entry, buffer: &mut Vec<u8>) -> Digest {
    buffer.clear();
    // One block of the hash, for most: no name is longer than 255 bytes.
    buffer.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    buffer.extend_from_slice(name);
    entry.encode(buffer);
    truncate(&blake3::hash(buffer))
}

/// The hash of a whole path, from which [`link_key`] is made.
#[must_use]
pub fn path_hash(path: &RelPath) -> Digest {
    truncate(&blake3::hash(path.as_bytes()))
}

/// The digest of a whole tree that is the same under every [`NameKey`], from the [`place_digest`]s of its directories
/// and the [`link_key`]s of its groups.
#[must_use]
pub fn tree_digest(directories: &mut [Digest], groups: &mut [Digest]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in [directories, groups] {
        part.sort_unstable();
        hasher.update(&(part.len() as u64).to_le_bytes());
        for digest in part.iter() {
            hasher.update(digest);
        }
    }
    truncate(&hasher.finalize())
}

/// The key of a hard-link group: the digest of its members' sorted [`path_hash`]es.
#[must_use]
pub fn link_key(members: &mut [Digest]) -> Digest {
    members.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for member in members.iter() {
        hasher.update(member);
    }
    truncate(&hasher.finalize())
}

/// What is kept of a name and its line: enough to see which names of a directory differ.
pub type ShortLine = (NameHash, [u8; 8]);

/// Collects a directory's lines, in any order, into its digest.
#[derive(Debug, Default)]
pub struct DirectoryDigest {
    lines: Vec<(NameHash, Digest)>,
}

impl DirectoryDigest {
    /// Adds the line of a name: the hash of the name, and the digest of it and what is known of it.
    pub fn add(&mut self, key: NameHash, digest: Digest) {
        self.lines.push((key, digest));
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The digest of all lines, whatever the order in which they were added and the [`NameKey`]: each line has its name
    /// in its own digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut digests: Vec<Digest> = self.lines.iter().map(|(_, digest)| *digest).collect();
        digests.sort_unstable_by_key(|digest| u128::from_be_bytes(*digest));
        truncate(&blake3::hash(digests.as_flattened()))
    }

    /// The lines, shortened, in the order of the name hash.
    #[must_use]
    pub fn short_lines(&self) -> Box<[ShortLine]> {
        let mut lines: Box<[ShortLine]> =
            self.lines.iter().map(|(name, digest)| shorten(*name, digest)).collect();
        lines.sort_unstable();
        lines
    }
}

fn shorten(name: NameHash, digest: &Digest) -> ShortLine {
    let mut short = [0; 8];
    short.copy_from_slice(&digest[..8]);
    (name, short)
}

/// What stands for the directory at `path` in a [`tree_digest`]: where it is, and the digest of its lines.
#[must_use]
pub fn place_digest(path: &RelPath, lines: &Digest) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&path_hash(path)).update(lines);
    truncate(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hashed_by_siphash_2_4_whatever_built_either_end() {
        // The test vector of the paper: key 00 … 0f, input 00 … 0e.
        let key = NameKey([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        let name: Vec<u8> = (0..15).collect();
        assert_eq!(key.hash(&name), 0xa129_ca61_49be_45e5);
        assert_ne!(NameKey::default().hash(&name), key.hash(&name));
    }
}
