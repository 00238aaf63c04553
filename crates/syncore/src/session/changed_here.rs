//! What somebody changed on the standby since the last run, and this one is about to replace.
//!
//! Why: a correction that was made in the wrong place, on the standby, is lost with the next sync; it is named first, and
//! what was there is kept. What can go wrong: an inode whose change time moved for another reason is named as well.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::apply;
use crate::plan::{Change, Plan};
use crate::scan::Root;
use crate::tree::{Kind, RelPath, Timestamp};

/// So many are named.
pub(super) const CHANGED_HERE_NAMED: usize = 1000;

/// The state since when it is, and the paths; none when no state of `profile` is kept, or nothing was changed.
///
/// RACE: what is changed after this look, or within the kernel's tick (up to ten milliseconds) in which the last run
/// ended, is replaced without being named; it is kept all the same.
///
/// # Errors
/// When what is kept of runs cannot be read.
pub(super) fn changed_here(
    root: &Arc<Root>,
    plan: &Plan,
    profile: &str,
) -> std::io::Result<Option<(u64, Vec<RelPath>)>> {
    let Some((generation, since)) = apply::last_change(root, profile)? else { return Ok(None) };
    let mut found = Vec::new();
    let mut held: Option<(RelPath, OwnedFd)> = None;
    // Of a directory the times move with each name in it.
    let replaced = plan.items().filter(|item| {
        item.entry.kind != Kind::Directory
            && !matches!(item.change, Change::Create | Change::Replace(Kind::Directory))
    });
    for item in replaced {
        let (Some(parent), Some(name)) = (item.path.parent(), item.path.name()) else { continue };
        if held.as_ref().is_none_or(|(path, _)| *path != parent) {
            held = root.hold_directory(&parent).ok().map(|directory| (parent, directory));
        }
        let Some((_, directory)) = &held else { continue };
        // What is not there any more is not replaced.
        let stat = statx(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::CTIME);
        let changed = stat
            .map(|stat| Timestamp { seconds: stat.stx_ctime.tv_sec, nanoseconds: stat.stx_ctime.tv_nsec });
        if changed.is_ok_and(|changed| changed > since) {
            found.push(item.path);
        }
        if found.len() == CHANGED_HERE_NAMED {
            break;
        }
    }
    Ok((!found.is_empty()).then_some((generation, found)))
}
