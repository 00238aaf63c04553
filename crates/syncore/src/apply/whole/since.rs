//! When a profile's last run was at its end: what changed after that was changed by somebody else.
//!
//! Why: production's content replaces what an administrator of the standby did there, and nobody would know. What can go
//! wrong: the inode of a file changes for another reason, as when a second profile carries it, or another name of it
//! goes; it is then named without need.

use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, UTIME_NOW, UTIME_OMIT, fstat, utimensat};

use super::Areas;
use super::recover::kept_head;
use crate::scan::Root;
use crate::tree::Timestamp;

/// The state that the last run of `profile` led to that changed anything, and when that run was at its end; none if what
/// it replaced is not kept.
///
/// # Errors
/// When what is kept cannot be read.
pub fn last_change(root: &Arc<Root>, profile: &str) -> io::Result<Option<(u64, Timestamp)>> {
    let areas = Areas::of(root, &[])?;
    for generation in areas.generations()?.into_iter().rev() {
        if kept_head(&areas, generation)?.is_some_and(|kept| kept.profile == profile) {
            let stat = fstat(areas.kept_home_before(generation)?)?;
            let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
            return Ok(Some((generation, Timestamp { seconds: stat.st_mtime, nanoseconds })));
        }
    }
    Ok(None)
}

/// Notes that the run that led to `generation` is at its end.
pub(super) fn note_end(areas: &Areas, generation: u64) -> io::Result<()> {
    let now = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    let kept = areas.kept_home(generation)?;
    Ok(utimensat(kept, c"", &now, AtFlags::EMPTY_PATH)?)
}
