//! What a scan leaves behind: one digest a directory, and which inodes have several names.
//!
//! Why: comparing two trees needs to know which subtrees are equal, not what is in them; a million entries fit in
//! the memory of their directories (36 bytes each). The lines of single names are kept as well as long as they fit
//! the limit that is given, so that a directory that differs is not read a second time to find out in what. What can go
//! wrong: the tree goes on living. A snapshot says what was there when each directory was read; whatever differs is
//! read again before it is acted on.

use std::collections::HashMap;

use super::root::Identity;
use crate::problem::Problem;
use crate::tree::{
    Digest, DirectoryDigest, LinkGroup, NameHash, NameKey, RelPath, ShortLine, link_key, path_hash,
    tree_digest,
};

/// How much memory the lines of single names may take for one tree in one process: those of some 220,000 names.
pub const KEPT_LINES_BYTES: usize = 7 << 19;

/// A directory of the tree.
#[derive(Debug, Clone, Copy)]
struct Node {
    parent: u32,
    name: NameHash,
    /// Of its own lines while the scan runs, of its whole subtree afterwards.
    digest: Digest,
}

/// A name in scope of an inode that has several names.
#[derive(Debug, Clone, Copy)]
struct Member {
    inode: ((u32, u32), u64),
    directory: u32,
    name: NameHash,
    path: Digest,
}

/// Collects what the walk finds; directories are numbered so that a parent precedes its children.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    names: NameKey,
    nodes: Vec<Node>,
    members: Vec<Member>,
    kept: HashMap<u32, Box<[ShortLine]>>,
    /// How many more bytes may be kept.
    room_bytes: usize,
    pub(crate) problems: Vec<Problem>,
    pub(crate) leftovers: Vec<RelPath>,
    pub(crate) entries: u64,
    pub(crate) protected: u64,
    /// How many names are below each directory at the top.
    tops: HashMap<Vec<u8>, u64>,
    /// What stands for each directory in the digest of the tree.
    places: Vec<Digest>,
}

/// What one directory adds.
#[derive(Debug, Default)]
pub(crate) struct DirectoryFindings {
    pub(crate) members: Vec<((u32, u32), u64, NameHash, Digest)>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) leftovers: Vec<RelPath>,
    pub(crate) entries: u64,
    pub(crate) protected: u64,
    /// The digest of its lines.
    pub(crate) digest: Digest,
    /// What stands for it in the digest of the tree.
    pub(crate) place: Digest,
}

impl Builder {
    /// Adds the root directory; of the lines of names, `kept_bytes` are kept at most. `names` is the key of the hashes
    /// that will be added.
    pub(crate) fn root(names: NameKey, kept_bytes: usize) -> Self {
        let node = Node { parent: 0, name: 0, digest: [0; 16] };
        Self { names, nodes: vec![node], room_bytes: kept_bytes, ..Self::default() }
    }

    /// Sets what was found in a directory, of which `lines` are all there are if `whole`, and adds its subdirectories;
    /// gives the number of the first of them.
    pub(crate) fn add(
        &mut self,
        directory: u32,
        lines: &DirectoryDigest,
        whole: bool,
        children: &[NameHash],
        found: DirectoryFindings,
    ) -> u32 {
        self.nodes[directory as usize].digest = found.digest;
        let bytes = size_of::<(u32, Box<[ShortLine]>)>() + lines.len() * size_of::<ShortLine>();
        if whole && bytes <= self.room_bytes {
            self.kept.insert(directory, lines.short_lines());
            self.room_bytes -= bytes;
        }
        let first = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.extend(children.iter().map(|name| Node {
            parent: directory,
            name: *name,
            digest: [0; 16],
        }));
        self.members.extend(found.members.iter().map(|&(device, inode, name, path)| Member {
            inode: (device, inode),
            directory,
            name,
            path,
        }));
        self.problems.extend(found.problems);
        self.leftovers.extend(found.leftovers);
        self.entries += found.entries;
        self.protected += found.protected;
        self.places.push(found.place);
        first
    }

    /// Counts names below a directory at the top.
    pub(crate) fn count(&mut self, top: &[u8], names: u64) {
        match self.tops.get_mut(top) {
            Some(count) => *count += names,
            None => drop(self.tops.insert(top.to_vec(), names)),
        }
    }

    /// Folds link groups and subdirectories into every directory's digest, leaves first.
    pub(crate) fn finish(mut self) -> Snapshot {
        let (groups, mut lines) = group(std::mem::take(&mut self.members));
        // A kept line says nothing of its link group: such directories are read again.
        for (directory, ..) in &lines {
            self.kept.remove(directory);
        }
        let mut children: Vec<u32> = (1..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).collect();
        children.sort_unstable_by_key(|id| {
            let node = &self.nodes[*id as usize];
            (node.parent, node.name)
        });
        lines.sort_unstable();
        let mut lines = lines.into_iter().rev().peekable();
        let mut end = children.len();
        for id in (0..self.nodes.len()).rev() {
            let node = u32::try_from(id).unwrap_or(u32::MAX);
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.nodes[id].digest);
            let start = children[..end].partition_point(|child| self.nodes[*child as usize].parent < node);
            for child in &children[start..end] {
                let child = &self.nodes[*child as usize];
                hasher.update(&child.name.to_le_bytes()).update(&child.digest);
            }
            end = start;
            while let Some((_, name, key)) = lines.next_if(|line| line.0 == node) {
                hasher.update(&name.to_le_bytes()).update(&key);
            }
            self.nodes[id].digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        }
        let mut keys: Vec<Digest> = groups.values().map(|group| group.key).collect();
        Snapshot {
            tree: tree_digest(&mut self.places, &mut keys),
            names: self.names,
            nodes: self.nodes,
            children,
            groups,
            kept: self.kept,
            problems: self.problems,
            leftovers: self.leftovers,
            entries: self.entries,
            protected: self.protected,
            tops: self.tops,
        }
    }
}

type Groups = HashMap<((u32, u32), u64), LinkGroup>;

/// Groups members by inode; gives the groups of two or more, and a line for each of their members.
fn group(mut members: Vec<Member>) -> (Groups, Vec<(u32, NameHash, Digest)>) {
    members.sort_unstable_by_key(|m| (m.inode, m.path));
    let (mut groups, mut lines) = (Groups::new(), Vec::new());
    for same in members.chunk_by(|a, b| a.inode == b.inode).filter(|same| same.len() > 1) {
        let mut paths: Vec<Digest> = same.iter().map(|m| m.path).collect();
        let key = link_key(&mut paths);
        let members = u32::try_from(same.len()).unwrap_or(u32::MAX);
        groups.insert(same[0].inode, LinkGroup { key, members });
        lines.extend(same.iter().map(|m| (m.directory, m.name, key)));
    }
    (groups, lines)
}

/// A scanned tree.
#[derive(Debug)]
pub struct Snapshot {
    /// The digest of everything that takes part: of names, metadata and hard links, and of content where that is
    /// compared. It is the same for equal trees whatever host, path or run; of a tree that could not be read as a whole
    /// it is like no other.
    pub tree: Digest,
    names: NameKey,
    nodes: Vec<Node>,
    /// All nodes but the root, by parent and then by name.
    children: Vec<u32>,
    groups: Groups,
    /// Lines by directory, in the order of their name hashes.
    kept: HashMap<u32, Box<[ShortLine]>>,
    /// What could not be read.
    pub problems: Vec<Problem>,
    /// What an interrupted run left behind.
    pub leftovers: Vec<RelPath>,
    /// How many names took part.
    pub entries: u64,
    /// How many names a rule protected, a directory counted once.
    pub protected: u64,
    /// How many names that took part are below each directory at the top.
    pub tops: HashMap<Vec<u8>, u64>,
}

impl Snapshot {
    /// The digest of the whole tree, which only that of another scan with the same name key can be compared with.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.nodes[0].digest
    }

    /// The place of a directory in the snapshot, for [`Snapshot::below`]; none when it was not entered.
    #[must_use]
    pub fn find(&self, path: &RelPath) -> Option<u32> {
        path.components().try_fold(0, |node, name| self.child(node, name))
    }

    fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let name = self.names.hash(name);
        let key = |id: &u32| {
            let node = &self.nodes[*id as usize];
            (node.parent, node.name)
        };
        self.children.binary_search_by_key(&(parent, name), key).ok().map(|index| self.children[index])
    }

    /// The digest of the subtree `name` in the directory at `place`; none when it was not entered.
    #[must_use]
    pub fn below(&self, place: u32, name: &[u8]) -> Option<Digest> {
        self.child(place, name).map(|id| self.nodes[id as usize].digest)
    }

    /// The lines of the directory at `place` as it was scanned, each with the digest of the subtree below it if it is
    /// entered; none when they were not kept.
    #[must_use]
    pub fn kept_lines(
        &self,
        place: u32,
    ) -> Option<impl Iterator<Item = (NameHash, [u8; 8], Option<Digest>)>> {
        let lines = self.kept.get(&place)?;
        let start = self.children.partition_point(|id| self.nodes[*id as usize].parent < place);
        let end = self.children.partition_point(|id| self.nodes[*id as usize].parent <= place);
        let below = self.children[start..end].iter().map(|id| {
            let node = &self.nodes[*id as usize];
            (node.name, node.digest)
        });
        let mut below = below.peekable();
        Some(lines.iter().map(move |(name, line)| {
            // Both are in the order of the hash, and only names of directories are below.
            while below.next_if(|(other, _)| other < name).is_some() {}
            (*name, *line, below.next_if(|(other, _)| other == name).map(|(_, digest)| digest))
        }))
    }

    /// The group of an inode that has several names in scope.
    #[must_use]
    pub fn links(&self, device: (u32, u32), inode: u64) -> Option<LinkGroup> {
        self.groups.get(&(device, inode)).copied()
    }
}

/// The line of a name in its directory: where it sorts, and the hash of its whole path for link groups.
pub(crate) fn member_of(
    inode: &Identity,
    name: NameHash,
    path: &RelPath,
) -> ((u32, u32), u64, NameHash, Digest) {
    (inode.device, inode.inode, name, path_hash(path))
}
