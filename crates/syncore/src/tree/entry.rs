//! What one name in a tree is: its kind and all metadata that a faithful copy carries.
//!
//! Why: one type travels from the scan through the plan and the wire to the commit, and its encoding is what
//! digests cover, so that "equal" means the same thing everywhere. What can go wrong: a field left out of
//! [`Entry::encode`] is a difference that no sync will ever see.

use serde::{Deserialize, Serialize};

/// The inode kinds of inode(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
}

impl Kind {
    /// The letter `rsync --itemize-changes` and `ls -l` users know: f d L S (special) D (device).
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::File => 'f',
            Self::Directory => 'd',
            Self::Symlink => 'L',
            Self::Fifo | Self::Socket => 'S',
            Self::BlockDevice | Self::CharDevice => 'D',
        }
    }

    /// The word for messages.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symbolic link",
            Self::Fifo => "FIFO",
            Self::Socket => "socket",
            Self::BlockDevice => "block device",
            Self::CharDevice => "character device",
        }
    }
}

/// A point in time: seconds since the epoch, negative before it, and nanoseconds in `0..1_000_000_000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds, rounded towards the past.
    pub seconds: i64,
    /// The rest.
    pub nanoseconds: u32,
}

/// An extended attribute: its full name (`security.capability`) and its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Xattr {
    /// Name with its namespace.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Raw value; POSIX ACLs and capabilities are values like any other (xattr(7), acl(5)).
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// A set of names that are one inode: the digest of the sorted in-scope paths of all its links, so that the two
/// ends agree on a group without ever comparing inode numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkGroup {
    /// Digest of the members' paths.
    pub key: [u8; 16],
    /// How many names in scope the inode has; 2 or more.
    pub members: u32,
}

/// One name in a tree with all metadata that a copy must carry.
///
/// What does not apply to a kind is zero, empty or none: only files have a size, only symlinks a target, only
/// devices a device number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`); 0 for symlinks, where it has no meaning.
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Length in bytes (files only).
    pub size_bytes: u64,
    /// Last modification.
    pub mtime: Timestamp,
    /// Where a symlink points.
    #[serde(with = "serde_bytes")]
    pub target: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// Inode flags as of `FS_IOC_GETFLAGS`, masked to [`INODE_FLAGS`](crate::tree::INODE_FLAGS).
    pub flags: u32,
    /// BLAKE3 of the content, where the scan was asked to read it.
    pub content: Option<[u8; 32]>,
    /// The other names of this inode, if there are any in scope.
    pub links: Option<LinkGroup>,
}

/// Inode flags that a user may set and a copy carries (ioctl_iflags(2)): secure deletion, undelete, compress,
/// sync, immutable, append, nodump, noatime, journal data, no tail, dirsync, topdir, no CoW, project inherit.
pub const INODE_FLAGS: u32 = 0x0000_0001
    | 0x0000_0002
    | 0x0000_0004
    | 0x0000_0008
    | IMMUTABLE_FLAG
    | APPEND_FLAG
    | 0x0000_0040
    | 0x0000_0080
    | 0x0000_4000
    | 0x0000_8000
    | 0x0001_0000
    | 0x0002_0000
    | 0x0080_0000
    | 0x2000_0000;

/// `FS_IMMUTABLE_FL`.
pub const IMMUTABLE_FLAG: u32 = 0x0000_0010;
/// `FS_APPEND_FL`.
pub const APPEND_FLAG: u32 = 0x0000_0020;
/// The flags that statx(2) reports without opening the file: compress, immutable, append, nodump. Only these can
/// be compared for free; the rest are compared where a file is opened anyway.
pub const STATX_FLAGS: u32 = 0x0000_0004 | IMMUTABLE_FLAG | APPEND_FLAG | 0x0000_0040;

/// The attributes in which two entries of the same kind may differ, as a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Attributes(pub u16);

impl Attributes {
    /// File content (by size and mtime, or by digest where both sides have one), symlink target, device number.
    pub const CONTENT: Self = Self(1);
    /// Modification time.
    pub const MTIME: Self = Self(1 << 1);
    /// Permission bits.
    pub const MODE: Self = Self(1 << 2);
    /// Owner.
    pub const UID: Self = Self(1 << 3);
    /// Group.
    pub const GID: Self = Self(1 << 4);
    /// Extended attributes other than ACLs.
    pub const XATTRS: Self = Self(1 << 5);
    /// POSIX ACLs.
    pub const ACL: Self = Self(1 << 6);
    /// Inode flags.
    pub const FLAGS: Self = Self(1 << 7);
    /// Which names are one inode.
    pub const LINKS: Self = Self(1 << 8);
    /// The content of a file, although size and mtime are the same: nothing but a digest shows it.
    pub const DRIFT: Self = Self(1 << 9);

    /// Whether all of `other` are in the set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing differs.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// This set without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn add(&mut self, other: Self, differs: bool) {
        if differs {
            self.0 |= other.0;
        }
    }
}

impl std::ops::BitOr for Attributes {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Entry {
    /// An entry of `kind` with nothing else set.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            size_bytes: 0,
            mtime: Timestamp { seconds: 0, nanoseconds: 0 },
            target: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            flags: 0,
            content: None,
            links: None,
        }
    }

    /// In what `self` differs from `other`, which must be of the same kind. Content counts as equal when size and
    /// mtime are, unless both sides carry a digest of it: then the digest decides.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Attributes {
        let mut found = Attributes::default();
        let content_differs = match (self.kind, self.content, other.content) {
            (Kind::File, Some(mine), Some(theirs)) => mine != theirs,
            (Kind::File, ..) => self.size_bytes != other.size_bytes || self.mtime != other.mtime,
            _ => self.target != other.target || self.device != other.device,
        };
        found.add(Attributes::CONTENT, content_differs);
        let same_look = self.size_bytes == other.size_bytes && self.mtime == other.mtime;
        found.add(Attributes::DRIFT, content_differs && self.kind == Kind::File && same_look);
        found.add(Attributes::MTIME, self.mtime != other.mtime);
        found.add(Attributes::MODE, self.mode != other.mode);
        found.add(Attributes::UID, self.uid != other.uid);
        found.add(Attributes::GID, self.gid != other.gid);
        found.add(Attributes::XATTRS, !self.xattrs(false).eq(other.xattrs(false)));
        found.add(Attributes::ACL, !self.xattrs(true).eq(other.xattrs(true)));
        found.add(Attributes::FLAGS, self.flags != other.flags);
        found.add(Attributes::LINKS, self.links != other.links);
        found
    }

    fn xattrs(&self, acl: bool) -> impl Iterator<Item = &Xattr> {
        self.xattrs.iter().filter(move |x| x.name.starts_with(b"system.posix_acl_") == acl)
    }

    /// The canonical bytes that digests cover: which of the rarer fields there are, the fixed-width little-endian
    /// fields that every entry has, then the rarer ones, those of any length behind their length. The link group is
    /// left out; it is only known when the whole tree has been read.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let rare = [
            !self.target.is_empty(),
            self.device != (0, 0),
            self.flags != 0,
            !self.xattrs.is_empty(),
            self.content.is_some(),
        ];
        into.push(rare.iter().fold(0, |bits, there| bits << 1 | u8::from(*there)));
        into.push(self.kind as u8);
        into.extend_from_slice(&self.mode.to_le_bytes());
        into.extend_from_slice(&self.uid.to_le_bytes());
        into.extend_from_slice(&self.gid.to_le_bytes());
        into.extend_from_slice(&self.size_bytes.to_le_bytes());
        into.extend_from_slice(&self.mtime.seconds.to_le_bytes());
        into.extend_from_slice(&self.mtime.nanoseconds.to_le_bytes());
        let field = |into: &mut Vec<u8>, bytes: &[u8]| {
            into.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            into.extend_from_slice(bytes);
        };
        let [target, device, flags, xattrs, _] = rare;
        if target {
            field(into, &self.target);
        }
        if device {
            into.extend_from_slice(&self.device.0.to_le_bytes());
            into.extend_from_slice(&self.device.1.to_le_bytes());
        }
        if flags {
            into.extend_from_slice(&self.flags.to_le_bytes());
        }
        if xattrs {
            into.extend_from_slice(&(self.xattrs.len() as u64).to_le_bytes());
            for xattr in &self.xattrs {
                field(into, &xattr.name);
                field(into, &xattr.value);
            }
        }
        if let Some(content) = &self.content {
            into.extend_from_slice(content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        bytes
    }

    #[test]
    fn every_field_but_the_link_group_changes_the_encoding_and_the_difference() {
        let base = Entry::new(Kind::File);
        type Edit = fn(&mut Entry);
        let changes: [(Edit, Attributes); 10] = [
            (|e| e.mode = 0o4755, Attributes::MODE),
            (|e| e.uid = 7, Attributes::UID),
            (|e| e.gid = 7, Attributes::GID),
            (|e| e.size_bytes = 7, Attributes::CONTENT),
            (|e| e.mtime.nanoseconds = 1, Attributes(Attributes::CONTENT.0 | Attributes::MTIME.0)),
            (|e| e.xattrs.push(Xattr { name: b"user.a".to_vec(), value: vec![] }), Attributes::XATTRS),
            (
                |e| e.xattrs.push(Xattr { name: b"system.posix_acl_access".to_vec(), value: vec![] }),
                Attributes::ACL,
            ),
            (|e| e.flags = IMMUTABLE_FLAG, Attributes::FLAGS),
            (|e| e.target = b"a".to_vec(), Attributes::default()),
            (|e| e.device = (1, 0), Attributes::default()),
        ];
        for (change, expected) in changes {
            let mut other = base.clone();
            change(&mut other);
            assert_eq!(other.differences(&base), expected);
            assert_ne!(encoded(&other), encoded(&base));
        }
    }

    #[test]
    fn a_digest_on_both_sides_decides_over_size_and_time() {
        let mut a = Entry { content: Some([1; 32]), ..Entry::new(Kind::File) };
        let mut b = Entry { content: Some([2; 32]), ..Entry::new(Kind::File) };
        assert_eq!(a.differences(&b), Attributes::CONTENT | Attributes::DRIFT);
        b.size_bytes = 7;
        assert_eq!(a.differences(&b), Attributes::CONTENT, "a sync sees that one");
        a.mtime.seconds = 5;
        b.content = Some([1; 32]);
        assert_eq!(a.differences(&b), Attributes::MTIME);
    }
}
