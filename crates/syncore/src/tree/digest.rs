//! Digests of entries and directories.
//!
//! Why: two equal trees are recognised by comparing one digest, and unequal ones by descending only where
//! digests differ. What can go wrong: a truncated hash that an attacker can collide. Directory digests and link
//! keys are 128 bits of BLAKE3 (2^64 work for a collision, and a collision only hides a change in files that
//! its maker owned anyway); the 64-bit name hash is an index, never proof of equality.

use super::{Entry, RelPath};

/// 128 bits of BLAKE3.
pub type Digest = [u8; 16];

/// The order of names within a directory digest, and the key of range splits: 64 bits of BLAKE3 of the name.
pub type NameHash = u64;

fn truncate(hash: &blake3::Hash) -> Digest {
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.as_bytes()[..16]);
    digest
}

/// The sort key of a name within its directory.
#[must_use]
pub fn hash_name(name: &[u8]) -> NameHash {
    let mut key = [0; 8];
    key.copy_from_slice(&blake3::hash(name).as_bytes()[..8]);
    u64::from_be_bytes(key)
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
    /// Adds one line: an entry, or what the caller folds in beside entries (a subtree, a link group).
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

    /// The digest of all lines, independent of the order in which they were added.
    #[must_use]
    pub fn digest(&mut self) -> Digest {
        self.lines.sort_unstable();
        let mut bytes = Vec::with_capacity(self.lines.len() * 24);
        for (key, digest) in &self.lines {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(digest);
        }
        truncate(&blake3::hash(&bytes))
    }

    /// The lines, shortened.
    pub fn short_lines(&self) -> impl Iterator<Item = ShortLine> {
        self.lines.iter().map(|(name, digest)| {
            let mut short = [0; 8];
            short.copy_from_slice(&digest[..8]);
            (*name, short)
        })
    }
}
