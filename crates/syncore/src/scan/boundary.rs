//! Where a walk stops: filesystem boundaries.
//!
//! Why: what is mounted on one end only must not be mistaken for what is there, and a pseudo filesystem must never
//! be read. Both ends list their mounts beforehand and agree on the same barriers, so that their digests leave out
//! the same paths; boundaries that no list shows (btrfs subvolumes, a mount made since) are seen by the walk
//! itself. What can go wrong: `/proc` is not mounted, so that mounts cannot be listed: then only the walk sees them.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, fstatfs, openat};
use serde::{Deserialize, Serialize};

use super::root::{Identity, Root};
use crate::tree::RelPath;

/// A filesystem mounted below a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, relative to the root.
    pub path: RelPath,
    /// Its type as the kernel names it (`ext4`, `proc`, `nfs4`).
    pub kind: String,
}

impl Mount {
    /// Whether it holds files of this host: neither made up by the kernel nor on another machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        // proc(5) and filesystems(5); a type that is not listed here is taken for a disk filesystem, so that it is
        // asked about instead of being left out in silence.
        const NOT_LOCAL: [&str; 44] = [
            "9p",
            "afs",
            "autofs",
            "bdev",
            "binder",
            "binfmt_misc",
            "bpf",
            "ceph",
            "cgroup",
            "cgroup2",
            "cifs",
            "coda",
            "configfs",
            "debugfs",
            "devfs",
            "devpts",
            "devtmpfs",
            "efivarfs",
            "fuse.lxcfs",
            "fuse.sshfs",
            "fuse.gvfsd-fuse",
            "fuse.portal",
            "fusectl",
            "glusterfs",
            "hugetlbfs",
            "lustre",
            "mqueue",
            "ncpfs",
            "nfs",
            "nfs4",
            "nfsd",
            "nsfs",
            "ocfs2",
            "pipefs",
            "proc",
            "pstore",
            "ramfs",
            "resctrl",
            "rpc_pipefs",
            "securityfs",
            "selinuxfs",
            "smb3",
            "sysfs",
            "tracefs",
        ];
        !NOT_LOCAL.contains(&self.kind.as_str())
    }
}

/// A filesystem mounted at or below a root, and what it was mounted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountSource {
    /// Where, relative to the root; empty at the root itself.
    pub(crate) path: RelPath,
    /// Its type as the kernel names it.
    pub(crate) kind: String,
    /// Which directory of the filesystem is mounted: `/`, or a subvolume, or what a bind mount shows.
    pub(crate) root: Vec<u8>,
    /// The device, as it was named to mount(8).
    pub(crate) source: Vec<u8>,
    /// Number of the device; its first part is 0 where the filesystem has no device of its own.
    pub(crate) device: (u32, u32),
}

impl MountSource {
    /// As [`Mount::is_local`].
    pub(crate) fn is_local(&self) -> bool {
        Mount { path: RelPath::root(), kind: self.kind.clone() }.is_local()
    }
}

/// Which directories a walk does not enter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boundaries {
    /// Never entered, whatever is there: agreed between both ends.
    pub barriers: HashSet<RelPath>,
    /// Stay on the filesystem of the root, except for [`Boundaries::also`].
    pub one_file_system: bool,
    /// Filesystems that are entered although [`Boundaries::one_file_system`] is set.
    pub also: HashSet<RelPath>,
}

impl Boundaries {
    /// Whether the walk may go from a directory into the directory `path` in it.
    #[must_use]
    pub fn enters(&self, path: &RelPath, parent: &Identity, child: &Identity) -> bool {
        if self.barriers.contains(path) {
            return false;
        }
        !parent.boundary_to(child) || !self.one_file_system || self.also.contains(path)
    }
}

/// Magic numbers of filesystems that are never entered (statfs(2)): proc, sysfs, devpts, cgroup, cgroup2, debugfs,
/// tracefs, securityfs, selinuxfs, bpf, pstore, efivarfs, mqueue, hugetlbfs, binfmt_misc, configfs, autofs, nfs,
/// smb, smb2, cifs, afs, ceph, 9p, coda, nsfs, rpc_pipefs.
const NEVER_ENTERED: [u32; 27] = [
    0x9fa0,
    0x6265_6572,
    0x1cd1,
    0x27_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xf97c_ff8c,
    0xcafe_4a11,
    0x6165_676c,
    0xde5e_81e4,
    0x1980_0202,
    0x9584_58f6,
    0x4249_4e4d,
    0x6265_6570,
    0x0187,
    0x6969,
    0x517b,
    0xfe53_4d42,
    0xff53_4d42,
    0x5346_414f,
    0x00c3_6400,
    0x0102_1997,
    0x7375_7245,
    0x6e73_6673,
    0x6759_6969,
];

/// Whether the filesystem behind an open directory is one that is never entered.
#[must_use]
pub fn never_entered(directory: impl AsFd) -> bool {
    // A filesystem that does not even answer this is not read either.
    fstatfs(directory).map_or(true, |fs| {
        u32::try_from(fs.f_type & 0xffff_ffff).map_or(true, |magic| NEVER_ENTERED.contains(&magic))
    })
}

/// `BTRFS_SUPER_MAGIC` (statfs(2)).
const BTRFS: u32 = 0x9123_683e;
/// What a snapshot has in place of a subvolume that was nested in what it is of (`BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`).
const HOLLOW_INODE: u64 = 2;

/// Whether an open directory is on btrfs.
pub(crate) fn is_btrfs(directory: impl AsFd) -> bool {
    fstatfs(directory).is_ok_and(|fs| u32::try_from(fs.f_type & 0xffff_ffff) == Ok(BTRFS))
}

/// Whether the directory `name` in the open `parent` only stands where a subvolume is in what this is a snapshot of. It is
/// empty, and says nothing of what is in the subvolume. What the top of a mounted filesystem may have as its number too,
/// no other directory of btrfs has.
pub(super) fn is_hollow(parent: impl AsFd, name: &CStr, child: &Identity) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    child.inode == HOLLOW_INODE && openat(parent, name, flags, Mode::empty()).is_ok_and(is_btrfs)
}

/// The filesystems mounted below `root`, sorted by path; none when `/proc` cannot be read.
#[must_use]
pub fn mounts_below(root: &Root) -> Vec<Mount> {
    let sources = mount_sources(root).into_iter();
    sources.filter(|m| !m.path.is_root()).map(|m| Mount { path: m.path, kind: m.kind }).collect()
}

/// As [`mounts_below`], with what is mounted at the root itself, and with what each was mounted from.
pub(crate) fn mount_sources(root: &Root) -> Vec<MountSource> {
    let Ok(canonical) = root.canonical_path() else { return Vec::new() };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(fd) = openat(rustix::fs::CWD, "/proc/self/mountinfo", flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut table = Vec::new();
    if std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut table).is_err() {
        return Vec::new();
    }
    parse_mountinfo(&table, &canonical)
}

/// Picks the mount points at and below `root` from the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn parse_mountinfo(table: &[u8], root: &[u8]) -> Vec<MountSource> {
    let mut mounts: Vec<MountSource> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
            let point = unescape(fields.get(4)?);
            let separator = fields.iter().position(|f| *f == b"-")?;
            let kind = String::from_utf8_lossy(fields.get(separator + 1)?).into_owned();
            let below = point.strip_prefix(root.strip_suffix(b"/").unwrap_or(root))?;
            if !matches!(below, [] | [b'/', ..]) {
                return None;
            }
            let (major, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
            Some(MountSource {
                path: RelPath::from_absolute(below).ok()?,
                kind,
                root: unescape(fields.get(3)?),
                source: unescape(fields.get(separator + 2)?),
                device: (major.parse().ok()?, minor.parse().ok()?),
            })
        })
        .collect();
    mounts.sort_by(|a, b| a.path.cmp(&b.path));
    // Mounts stacked on one point: the last one is what is seen there.
    mounts.reverse();
    mounts.dedup_by(|a, b| a.path == b.path);
    mounts.reverse();
    mounts
}

/// Undoes the kernel's `\040` escapes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| *first == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0_u32, |n, d| n * 8 + u32::from(d - b'0'));
            bytes.push(u8::try_from(value & 0xff).unwrap_or_default());
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_become_paths_below_the_root() {
        let table = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            25 22 0:5 / /proc rw shared:5 - proc proc rw\n\
            30 22 8:1 / /srv/a\\040b rw - xfs /dev/sda1 rw\n\
            31 22 8:2 / /srv/a\\040b rw - ext4 /dev/sda2 rw\n\
            32 22 8:3 / /srvx rw - ext4 /dev/sda3 rw\n";
        let at_root = parse_mountinfo(table, b"/");
        let names: Vec<String> = at_root.iter().map(|m| format!("{} {}", m.path, m.kind)).collect();
        assert_eq!(names, ["/ ext4", "/proc proc", "/srv/a b ext4", "/srvx ext4"]);
        assert!(!at_root[1].is_local() && at_root[2].is_local());
        assert_eq!((&at_root[2].source[..], at_root[2].device), (&b"/dev/sda2"[..], (8, 2)));
        let below = parse_mountinfo(table, b"/srv");
        assert_eq!(below.len(), 1);
        assert_eq!(below[0].path.as_bytes(), b"a b");
    }

    #[test]
    fn proc_is_never_entered() {
        assert!(never_entered(Root::open(std::path::Path::new("/proc")).unwrap()));
        assert!(!never_entered(Root::open(std::path::Path::new("/")).unwrap()));
    }
}
