//! An independent comparison of two trees: shares no code with the program under test.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::dir::{Dir, inode_flags, join, walk};

/// In what two entries may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum What {
    /// One side has the name, the other has not; what is below is not reported again.
    Presence,
    /// The inode kind.
    Kind,
    /// Permission bits.
    Mode,
    /// Numeric owner or group.
    Owner,
    /// Length of a file.
    Size,
    /// Modification time, to the nanosecond.
    Mtime,
    /// Target of a symlink.
    Target,
    /// Device number.
    Device,
    /// An extended attribute that is neither ACL nor capability.
    Xattr,
    /// POSIX ACL, access or default.
    Acl,
    /// `security.capability`.
    Capability,
    /// Inode flags that chattr may set.
    Flags,
    /// Which names are one inode.
    Links,
    /// Where the holes are.
    Holes,
    /// The bytes.
    Content,
}

/// One difference between two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Path below the roots; empty for the roots themselves.
    pub(crate) path: Vec<u8>,
    /// In what they differ.
    pub(crate) what: What,
    /// The left side's value.
    pub(crate) left: String,
    /// The right side's value.
    pub(crate) right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut path = self.path.escape_ascii().to_string();
        if path.len() > 200 {
            path = format!("{}… ({} bytes)", &path[..200], self.path.len());
        }
        write!(f, "/{path}: {:?}: {} | {}", self.what, self.left, self.right)
    }
}

/// Every difference between the trees `left` and `right`.
pub(crate) fn compare(left: &Path, right: &Path) -> Vec<Difference> {
    compare_ignoring(left, right, &[])
}

/// Every difference but those in `ignore`.
pub(crate) fn compare_ignoring(left: &Path, right: &Path, ignore: &[What]) -> Vec<Difference> {
    let mut comparison = Comparison::default();
    comparison.entry(b"", (&Dir::open(left), &Dir::open(right)), OsStr::new("."));
    comparison.link_groups();
    let mut found = comparison.found;
    found.retain(|difference| !ignore.contains(&difference.what));
    found
}

/// Asserts that the two trees are equal in everything.
#[track_caller]
pub(crate) fn assert_equal(left: &Path, right: &Path) {
    assert_none(&compare(left, right));
}

/// Asserts that there is no difference in `found`, and shows the first thirty otherwise.
#[track_caller]
pub(crate) fn assert_none(found: &[Difference]) {
    let mut list = String::new();
    for difference in found.iter().take(30) {
        writeln!(list, "  {difference}").expect("write to a string");
    }
    assert!(found.is_empty(), "{} differences (left | right):\n{list}", found.len());
}

type Sides<'a, T> = (&'a T, &'a T);
/// Device and inode number.
type Inode = (u64, u64);

#[derive(Default)]
struct Comparison {
    found: Vec<Difference>,
    /// Per side: the names of each inode that has more than one.
    links: [HashMap<Inode, BTreeSet<Vec<u8>>>; 2],
    /// Per side: the inode of each of those names.
    linked: [BTreeMap<Vec<u8>, Inode>; 2],
}

impl Comparison {
    fn differ<T: PartialEq>(
        &mut self,
        path: &[u8],
        what: What,
        sides: Sides<'_, T>,
        show: impl Fn(&T) -> String,
    ) {
        if sides.0 != sides.1 {
            self.report(path, what, show(sides.0), show(sides.1));
        }
    }

    fn report(&mut self, path: &[u8], what: What, left: String, right: String) {
        self.found.push(Difference { path: path.to_vec(), what, left, right });
    }

    fn entry(&mut self, path: &[u8], parents: Sides<'_, Dir>, name: &OsStr) {
        let paths = (parents.0.at(name), parents.1.at(name));
        let nodes = (stat(&paths.0), stat(&paths.1));
        for (side, node) in [&nodes.0, &nodes.1].into_iter().enumerate() {
            if node.nlink() > 1 && !node.is_dir() {
                let inode = (node.dev(), node.ino());
                self.links[side].entry(inode).or_default().insert(path.to_vec());
                self.linked[side].insert(path.to_vec(), inode);
            }
        }
        let kinds = (kind(&nodes.0), kind(&nodes.1));
        if kinds.0 != kinds.1 {
            self.report(path, What::Kind, kinds.0.to_owned(), kinds.1.to_owned());
            return;
        }
        let both = (&nodes.0, &nodes.1);
        let of = |get: fn(&Metadata) -> u64| (get(both.0), get(both.1));
        if kinds.0 != "symlink" {
            let mode = of(|m| u64::from(m.mode() & 0o7777));
            self.differ(path, What::Mode, (&mode.0, &mode.1), |m| format!("{m:04o}"));
        }
        let owner = |m: &Metadata| (m.uid(), m.gid());
        self.differ(path, What::Owner, (&owner(both.0), &owner(both.1)), |o| format!("{}:{}", o.0, o.1));
        let mtime = |m: &Metadata| (m.mtime(), m.mtime_nsec());
        self.differ(path, What::Mtime, (&mtime(both.0), &mtime(both.1)), |t| format!("{}.{:09}", t.0, t.1));
        self.attributes(path, (&xattrs(&paths.0), &xattrs(&paths.1)));
        match kinds.0 {
            "symlink" => {
                let target = |path: &Path| fs::read_link(path).expect("read link").into_os_string();
                let targets = (target(&paths.0), target(&paths.1));
                self.differ(path, What::Target, (&targets.0, &targets.1), |t| {
                    t.as_bytes().escape_ascii().to_string()
                });
            }
            "block device" | "character device" => {
                let device = of(MetadataExt::rdev);
                self.differ(path, What::Device, (&device.0, &device.1), |d| format!("{d:#x}"));
            }
            "file" => {
                let flags = (inode_flags(&paths.0), inode_flags(&paths.1));
                self.differ(path, What::Flags, (&flags.0, &flags.1), |f| format!("{f:#010x}"));
                self.content(path, (&paths.0, &paths.1), both);
            }
            "directory" => {
                let flags = (inode_flags(&paths.0), inode_flags(&paths.1));
                self.differ(path, What::Flags, (&flags.0, &flags.1), |f| format!("{f:#010x}"));
                self.children(path, (&parents.0.child(name), &parents.1.child(name)));
            }
            _ => {}
        }
    }

    fn children(&mut self, path: &[u8], dirs: Sides<'_, Dir>) {
        let names: (BTreeSet<_>, BTreeSet<_>) =
            (dirs.0.names().into_iter().collect(), dirs.1.names().into_iter().collect());
        for name in names.0.union(&names.1) {
            let child = join(path, name);
            match (names.0.contains(name), names.1.contains(name)) {
                (true, true) => self.entry(&child, dirs, name),
                (true, false) => self.report(&child, What::Presence, "present".into(), "missing".into()),
                _ => self.report(&child, What::Presence, "missing".into(), "present".into()),
            }
        }
    }

    fn attributes(&mut self, path: &[u8], sides: Sides<'_, BTreeMap<Vec<u8>, Vec<u8>>>) {
        let names: BTreeSet<_> = sides.0.keys().chain(sides.1.keys()).collect();
        for name in names {
            let what = match name.as_slice() {
                b"security.capability" => What::Capability,
                b"system.posix_acl_access" | b"system.posix_acl_default" => What::Acl,
                _ => What::Xattr,
            };
            let values = (sides.0.get(name), sides.1.get(name));
            self.differ(path, what, (&values.0, &values.1), |value| {
                let value = value.map_or("none".to_owned(), |v| format!("{} bytes", v.len()));
                format!("{}: {value}", name.escape_ascii())
            });
        }
    }

    fn content(&mut self, path: &[u8], paths: Sides<'_, std::path::PathBuf>, nodes: Sides<'_, Metadata>) {
        let sizes = (nodes.0.size(), nodes.1.size());
        self.differ(path, What::Size, (&sizes.0, &sizes.1), u64::to_string);
        let files = (open(paths.0), open(paths.1));
        let maps = (data_map(&files.0, sizes.0), data_map(&files.1, sizes.1));
        self.differ(path, What::Holes, (&maps.0, &maps.1), |map| {
            let extents: Vec<_> = map.iter().take(6).map(|(from, to)| format!("{from}..{to}")).collect();
            format!("{} data extents: {}", map.len(), extents.join(" "))
        });
        if sizes.0 != sizes.1 {
            return;
        }
        // What is a hole on both sides is equal without reading.
        let extents = if maps.0 == maps.1 { maps.0 } else { vec![(0, sizes.0)] };
        for (from, to) in extents {
            if let Some(at) = first_difference((&files.0, &files.1), from, to) {
                self.report(path, What::Content, format!("differs at byte {at}"), String::new());
                return;
            }
        }
    }

    /// Compares which names are one inode, among the names that both sides have.
    fn link_groups(&mut self) {
        let single = BTreeSet::new();
        let mut differences = Vec::new();
        let paths: BTreeSet<_> = self.linked[0].keys().chain(self.linked[1].keys()).collect();
        for path in paths {
            let group = |side: usize| {
                let inode = self.linked[side].get(path);
                inode.and_then(|inode| self.links[side].get(inode)).filter(|g| g.len() > 1).unwrap_or(&single)
            };
            if group(0) != group(1) {
                let show = |group: &BTreeSet<Vec<u8>>| {
                    let names: Vec<_> = group.iter().take(5).map(|n| n.escape_ascii().to_string()).collect();
                    format!("{} names [{}]", group.len(), names.join(", "))
                };
                differences.push((path.clone(), show(group(0)), show(group(1))));
            }
        }
        for (path, left, right) in differences {
            self.report(&path, What::Links, left, right);
        }
    }
}

fn stat(path: &Path) -> Metadata {
    fs::symlink_metadata(path).unwrap_or_else(|e| panic!("stat {}: {e}", path.display()))
}

/// The word for an inode's kind.
pub(crate) fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match kind {
        _ if kind.is_file() => "file",
        _ if kind.is_dir() => "directory",
        _ if kind.is_symlink() => "symlink",
        _ if kind.is_fifo() => "fifo",
        _ if kind.is_socket() => "socket",
        _ if kind.is_block_device() => "block device",
        _ => "character device",
    }
}

/// All extended attributes of the inode at `path`, which may be a symlink.
pub(crate) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0_u8; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => panic!("list xattrs of {}: {error}", path.display()),
    };
    let names: Vec<Vec<u8>> =
        buffer[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    let value = |name: &[u8]| {
        let mut buffer = vec![0_u8; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut buffer[..]).expect("read an xattr");
        buffer.truncate(length);
        buffer
    };
    names.into_iter().map(|name| (name.clone(), value(&name))).collect()
}

fn open(path: &Path) -> File {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    fs::OpenOptions::new().read(true).custom_flags(flags).open(path).expect("open a file to compare")
}

/// Where `file` holds data, as half-open ranges; the rest are holes.
fn data_map(file: &File, size: u64) -> Vec<(u64, u64)> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(from) => from,
            Err(Errno::NXIO) => break,
            Err(error) => panic!("SEEK_DATA: {error}"),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(from)).expect("SEEK_HOLE");
        extents.push((from, at));
    }
    extents
}

fn first_difference(files: Sides<'_, File>, from: u64, to: u64) -> Option<u64> {
    const STEP: u64 = 1 << 18;
    let mut buffers = (vec![0_u8; 1 << 18], vec![0_u8; 1 << 18]);
    let mut at = from;
    while at < to {
        let length = usize::try_from(STEP.min(to - at)).expect("a buffer's length");
        files.0.read_exact_at(&mut buffers.0[..length], at).expect("read the left file");
        files.1.read_exact_at(&mut buffers.1[..length], at).expect("read the right file");
        if buffers.0[..length] != buffers.1[..length] {
            let offset = buffers.0.iter().zip(&buffers.1).position(|(a, b)| a != b).unwrap_or(0);
            return Some(at + offset as u64);
        }
        at += length as u64;
    }
    None
}

/// What tells whether an inode was touched: its number and its ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Device and inode number.
    pub(crate) inode: (u64, u64),
    /// Seconds and nanoseconds of the last change of anything in the inode.
    pub(crate) ctime: (i64, i64),
}

/// The identity of the inode at `path`.
pub(crate) fn identity(path: &Path) -> Identity {
    let node = stat(path);
    Identity { inode: (node.dev(), node.ino()), ctime: (node.ctime(), node.ctime_nsec()) }
}

/// The identity of everything in the tree, by path.
pub(crate) fn snapshot_ctimes(root: &Path) -> BTreeMap<Vec<u8>, Identity> {
    let mut all = BTreeMap::new();
    walk(root, &mut |path, dir, name| {
        all.insert(path.to_vec(), identity(&dir.at(name)));
    });
    all
}

/// The inode number of everything in the tree, by path.
pub(crate) fn snapshot_inodes(root: &Path) -> BTreeMap<Vec<u8>, (u64, u64)> {
    snapshot_ctimes(root).into_iter().map(|(path, identity)| (path, identity.inode)).collect()
}

/// Asserts that two snapshots of one tree are equal.
#[track_caller]
pub(crate) fn assert_untouched<T: PartialEq + fmt::Debug>(
    before: &BTreeMap<Vec<u8>, T>,
    after: &BTreeMap<Vec<u8>, T>,
) {
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let touched: Vec<_> = paths.into_iter().filter(|path| before.get(*path) != after.get(*path)).collect();
    let shown: Vec<_> = touched
        .iter()
        .take(20)
        .map(|path| format!("/{}: {:?} -> {:?}", path.escape_ascii(), before.get(*path), after.get(*path)))
        .collect();
    assert!(touched.is_empty(), "{} entries were touched:\n  {}", touched.len(), shown.join("\n  "));
}
