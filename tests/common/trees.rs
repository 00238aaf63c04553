//! Random pairs of trees that have much in common, for properties.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::FileType;

use super::plant::{chmod, mknod, noise, set_mtime, write};

/// Names that are directories wherever they exist, parents first.
pub(crate) const DIRS: [&str; 7] = ["", "d0", "d1", "d0/d0", "d0/d1", "d1/d0", "d0/d1/d0"];
/// Names that may be in each of them: files of some kind, and one that may be a directory on one side only.
pub(crate) const LEAVES: [&str; 3] = ["f0", "f1", "x0"];
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaf {
    Absent,
    File {
        content: u8,
        executable: bool,
        time: u8,
    },
    /// Another name of the nearest file before it, if there is one.
    LinkToPrevious,
    /// Equal to the nearest file before it, but an inode of its own.
    CopyOfPrevious,
    Symlink {
        target: u8,
    },
    Fifo,
    /// Only of names that begin with x.
    DirectoryWithFile {
        content: u8,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) dirs: Vec<Option<u8>>,
    pub(crate) leaves: Vec<Leaf>,
}

pub(crate) fn leaf() -> impl Strategy<Value = Leaf> {
    prop_oneof![
        3 => Just(Leaf::Absent),
        5 => (0..4_u8, any::<bool>(), 0..3_u8)
            .prop_map(|(content, executable, time)| Leaf::File { content, executable, time }),
        3 => Just(Leaf::LinkToPrevious),
        1 => Just(Leaf::CopyOfPrevious),
        1 => (0..3_u8).prop_map(|target| Leaf::Symlink { target }),
        1 => Just(Leaf::Fifo),
        2 => (0..3_u8).prop_map(|content| Leaf::DirectoryWithFile { content }),
    ]
}

pub(crate) fn tree() -> impl Strategy<Value = Tree> {
    let dirs = prop::collection::vec(prop::option::weighted(0.8, 0..3_u8), DIRS.len());
    let leaves = prop::collection::vec(leaf(), DIRS.len() * LEAVES.len());
    (dirs, leaves).prop_map(|(dirs, leaves)| Tree { dirs, leaves })
}

/// How an entry of the standby came to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Drift {
    Same,
    Other,
    /// What is linked on one side is a copy on the other.
    Relinked,
}

/// Source and standby: two trees that have much in common.
pub(crate) fn trees() -> impl Strategy<Value = (Tree, Tree)> {
    let drift = prop_oneof![4 => Just(Drift::Same), 4 => Just(Drift::Other), 2 => Just(Drift::Relinked)];
    let drifts = prop::collection::vec(drift, DIRS.len() * LEAVES.len());
    (tree(), tree(), drifts).prop_map(|(source, mut standby, drifts)| {
        for (n, drift) in drifts.into_iter().enumerate() {
            standby.leaves[n] = match (drift, source.leaves[n]) {
                (Drift::Relinked, Leaf::LinkToPrevious) => Leaf::CopyOfPrevious,
                (Drift::Relinked, Leaf::CopyOfPrevious) => Leaf::LinkToPrevious,
                (Drift::Other, _) => standby.leaves[n],
                (_, same) => same,
            };
        }
        (source, standby)
    })
}

/// Makes the tree on disk.
pub(crate) fn grow(tree: &Tree, root: &Path) {
    let mut times = Vec::new();
    fs::create_dir_all(root).expect("mkdir");
    for (n, dir) in DIRS.iter().enumerate() {
        let path = root.join(dir);
        let parent_exists = path.parent().is_some_and(Path::is_dir);
        if let Some(time) = tree.dirs[n].filter(|_| parent_exists) {
            fs::create_dir_all(&path).expect("mkdir");
            chmod(&path, if time == 0 { 0o700 } else { 0o755 });
            times.push((path, time));
        }
    }
    let mut previous = None;
    for (n, leaf) in tree.leaves.iter().enumerate() {
        let (dir, name) = (root.join(DIRS[n / LEAVES.len()]), LEAVES[n % LEAVES.len()]);
        if !dir.is_dir() {
            continue;
        }
        let path = dir.join(name);
        match *leaf {
            Leaf::Absent => continue,
            Leaf::File { content, executable, time } => {
                // Every content has a size of its own: a change is seen without reading.
                write(&path, noise(u64::from(content), 10 + 3_000 * usize::from(content)));
                chmod(&path, if executable { 0o755 } else { 0o644 });
                previous = Some((path.clone(), time));
                times.push((path, time));
            }
            Leaf::CopyOfPrevious => {
                let Some((of, time)) = &previous else { continue };
                // With its mode; the time is set below.
                fs::copy(of, &path).expect("copy");
                times.push((path, *time));
            }
            Leaf::LinkToPrevious => {
                let Some((to, time)) = &previous else { continue };
                fs::hard_link(to, &path).expect("hard link");
                times.push((path, *time));
            }
            Leaf::Symlink { target } => {
                symlink(format!("target-{target}"), &path).expect("symlink");
                times.push((path, target));
            }
            Leaf::Fifo => {
                mknod(&path, FileType::Fifo, 0, 0);
                times.push((path, 1));
            }
            Leaf::DirectoryWithFile { content } if name.starts_with('x') => {
                write(&path.join("f0"), noise(u64::from(content), 5 + usize::from(content)));
                times.push((path.join("f0"), content));
                times.push((path, 2));
            }
            Leaf::DirectoryWithFile { .. } => continue,
        }
    }
    for (path, time) in times.iter().rev() {
        set_mtime(path, 1_600_000_000 + i64::from(*time), 1_000 + i64::from(*time));
    }
}
