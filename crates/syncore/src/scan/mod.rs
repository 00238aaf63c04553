//! Reads trees: the held root, one directory, one name, and the parallel walk that digests everything.
//!
//! Why: a clone runs as root over directories that other users write. Every access is relative to a held
//! descriptor, no link is followed, and what cannot be read is a problem, never an absence. What can go wrong: the
//! tree changes while it is read; see `content` and `snapshot` for what that means.

mod bare;
mod batch;
mod boundary;
mod content;
mod list;
mod listxattrat;
mod metadata;
mod root;
mod slice;
mod snapshot;
mod view;
mod walk;

pub use bare::{BareList, SETTLED_SECONDS};
pub use boundary::{Boundaries, Mount, mounts_below, never_entered};
pub use content::{OpenFile, READ_ATTEMPTS, Stability, digest_open, extents, open_file, read_full};
pub use metadata::{Detail, Inode, Scratch, read_entry, read_kind};
pub use root::{Identity, Root, proc_path};
pub use slice::{Measured, Slice, measure};
pub use snapshot::{KEPT_LINES_BYTES, Snapshot};
pub use view::{Named, Place, Presented, STAGE_PREFIX, Seen, View, is_stage_name};
pub use walk::scan;

pub(crate) use boundary::{MountSource, is_btrfs, mount_sources};
pub(crate) use metadata::{carried, from_statx};
pub(crate) use root::{identity_of, statx_mask};
pub(crate) use walk::line_digest;
