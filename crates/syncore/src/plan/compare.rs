//! Finds which names of a directory differ, from digests alone.
//!
//! Why: a directory of two hundred files with one change must not cost two hundred entries on the wire. The
//! receiver describes a directory by one short line a name, or, when it is large, by one digest for each bucket of
//! names, and only what differs is asked for in full. What can go wrong: lines are truncated to 64 bits; two that
//! collide hide a change. So when a directory's full digest differs and no line does, everything is asked for.

use serde::{Deserialize, Serialize};

use crate::rules::Scope;
use crate::tree::{Digest, Entry, LinkGroup, NameHash};

/// How many names a directory has at least before it is described by buckets.
const BUCKETS_FROM: usize = 48;

/// About how many names share a bucket.
const NAMES_PER_BUCKET: usize = 8;

/// The short description of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Line {
    /// Hash of the name.
    pub name: [u8; 8],
    /// Digest of its metadata and link group, truncated.
    pub line: [u8; 8],
    /// Digest of its subtree, truncated; none for what is not entered.
    pub below: Option<[u8; 8]>,
}

impl Line {
    /// Builds the line of a name from its full digests.
    #[must_use]
    pub fn new(name: NameHash, line: &Digest, links: Option<LinkGroup>, below: Option<Digest>) -> Self {
        let Some(group) = links else { return Self::short(name, truncate(line), below) };
        let mut hasher = blake3::Hasher::new();
        hasher.update(line).update(&group.key);
        let mut line = [0; 8];
        line.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self::short(name, line, below)
    }

    /// Builds the line of a name without a link group from what a scan kept of it.
    #[must_use]
    pub fn short(name: NameHash, line: [u8; 8], below: Option<Digest>) -> Self {
        Self { name: name.to_be_bytes(), line, below: below.as_ref().map(truncate) }
    }
}

fn truncate(digest: &Digest) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&digest[..8]);
    short
}

/// A name on the standby in full, as the sender needs it to plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The name; empty for the root.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Whether it takes part as a whole, or only exists.
    pub in_scope: bool,
    /// Whether it is a directory that is entered.
    pub entered: bool,
    /// Its metadata, link group included.
    pub entry: Entry,
    /// A number that is equal for two names exactly if they are one inode.
    pub inode: u64,
    /// How many names the inode has, in scope or not.
    pub links: u32,
}

impl Listed {
    /// The scope as the sender compares it.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match (self.in_scope, self.entered) {
            (true, _) => Scope::In,
            (false, true) => Scope::Implied,
            (false, false) => Scope::Empty,
        }
    }
}

/// How many bits of the name hash number the buckets of a directory with `names` names; none when it is described
/// line by line.
#[must_use]
pub fn bucket_bits(names: usize) -> Option<u8> {
    if names < BUCKETS_FROM {
        return None;
    }
    // At most 2^24 buckets; names of 2^28 files in one directory would be the first to share more.
    Some(u8::try_from((names / NAMES_PER_BUCKET).ilog2().min(24)).unwrap_or(24))
}

/// The bucket of a line among `2^bits`.
#[must_use]
pub fn bucket_of(line: &Line, bits: u8) -> u32 {
    let [a, b, c, d, ..] = line.name;
    u32::from_be_bytes([a, b, c, d]).checked_shr(32 - u32::from(bits)).unwrap_or(0)
}

/// One digest for each of `2^bits` buckets of `lines`, which are sorted.
#[must_use]
pub fn bucket_digests(lines: &[Line], bits: u8) -> Vec<[u8; 8]> {
    let mut digests = vec![[0; 8]; 1 << bits];
    for bucket in lines.chunk_by(|a, b| bucket_of(a, bits) == bucket_of(b, bits)) {
        let mut hasher = blake3::Hasher::new();
        for line in bucket {
            hasher.update(&line.name).update(&line.line).update(&line.below.unwrap_or_default());
            hasher.update(&[u8::from(line.below.is_some())]);
        }
        digests[bucket_of(&bucket[0], bits) as usize].copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    }
    digests
}

/// What the lines say of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Only on the source: that index of the source's lines.
    SourceOnly(usize),
    /// Only on the standby: that index of the standby's lines.
    StandbyOnly(usize),
    /// On both; the metadata differs.
    Differs(usize, usize),
    /// On both; only what is below differs.
    BelowDiffers(usize, usize),
}

/// Merges the sorted lines of both ends and gives a verdict for each name that differs.
#[must_use]
pub fn compare_lines(source: &[Line], standby: &[Line]) -> Vec<Verdict> {
    let (mut s, mut r) = (0, 0);
    let mut verdicts = Vec::new();
    while s < source.len() || r < standby.len() {
        let order = match (source.get(s), standby.get(r)) {
            (Some(a), Some(b)) => a.name.cmp(&b.name),
            (Some(_), None) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        match order {
            std::cmp::Ordering::Less => {
                verdicts.push(Verdict::SourceOnly(s));
                s += 1;
            }
            std::cmp::Ordering::Greater => {
                verdicts.push(Verdict::StandbyOnly(r));
                r += 1;
            }
            std::cmp::Ordering::Equal => {
                if source[s].line != standby[r].line {
                    verdicts.push(Verdict::Differs(s, r));
                } else if source[s].below != standby[r].below {
                    verdicts.push(Verdict::BelowDiffers(s, r));
                }
                s += 1;
                r += 1;
            }
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: u64, content: u8) -> Line {
        Line::new(name, &[content; 16], None, None)
    }

    #[test]
    fn the_merge_sees_each_kind_of_difference_once() {
        let below = |name: u64, digest: u8| Line::new(name, &[0; 16], None, Some([digest; 16]));
        let source = [line(1, 1), line(2, 1), line(4, 1), below(5, 1), below(6, 1)];
        let standby = [line(2, 2), line(3, 1), line(4, 1), below(5, 2), below(6, 1)];
        assert_eq!(
            compare_lines(&source, &standby),
            [
                Verdict::SourceOnly(0),
                Verdict::Differs(1, 0),
                Verdict::StandbyOnly(1),
                Verdict::BelowDiffers(3, 3)
            ]
        );
    }

    #[test]
    fn one_changed_name_changes_one_bucket() {
        let name = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut lines: Vec<Line> = (0..1000).map(|i| line(name(i), 1)).collect();
        lines.sort();
        let bits = bucket_bits(lines.len()).unwrap();
        let before = bucket_digests(&lines, bits);
        lines[500].line = [9; 8];
        let after = bucket_digests(&lines, bits);
        assert_eq!(before.iter().zip(&after).filter(|(a, b)| a != b).count(), 1);
        assert_eq!(bucket_bits(10), None);
    }

    #[test]
    fn a_link_group_is_part_of_the_line() {
        let group = LinkGroup { key: [3; 16], members: 2 };
        assert_ne!(Line::new(1, &[0; 16], Some(group), None), line(1, 0));
    }
}
