//! What a tree is made of: byte paths, entries with their metadata, the one sort order, digests.
//!
//! Why: both ends must mean the same by "path", "entry" and "equal". Nothing in this room touches a filesystem.
//! What can go wrong: a path that escapes its root, or a metadata field that no digest covers.

mod digest;
mod entry;
mod path;

pub use digest::{
    Digest, DirectoryDigest, NameHash, NameKey, ShortLine, digest_entry, digest_name, link_key, path_hash,
    place_digest, tree_digest,
};
pub use entry::{
    APPEND_FLAG, Attributes, Entry, IMMUTABLE_FLAG, INODE_FLAGS, Kind, LinkGroup, STATX_FLAGS, Timestamp,
    Xattr,
};
pub use path::{
    NAME_MAX_BYTES, PATH_LIMIT_BYTES, PathError, RelPath, check_name, escape, path_order, unescape,
};
