//! Whether the steps of a run find the room that they need.
//!
//! Why: a run whose journal is on disk is only completed, never taken back; on a full filesystem neither it nor who
//! recovers it could make the next directory. So there is room for all steps before the first of them is promised. What
//! can go wrong: what a name costs is the filesystem's own affair; what is asked for here is more than any takes.
//!
//! RACE: somebody else may fill the filesystem between this look and the last step. At worst the run has to be completed
//! by `recover` when there is room again.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, fallocate, fstatvfs, openat, unlinkat};
use rustix::io::Errno;

use super::areas::Areas;
use super::journal::Step;
use crate::tree::RelPath;

/// A file in the stage; nothing that is staged is called so.
const NAME: &str = "room";

/// A block or two of a directory that is made, or that names are added to.
const DIRECTORY_BYTES: u64 = 8 << 10;

/// A step in the journal, or a name here and one in what is kept, besides the bytes of the path.
const STEP_BYTES: u64 = 256;

/// A block for an attribute, besides its value.
const XATTR_BYTES: u64 = 4 << 10;

/// What is written down at the end, and a little more.
const SPARE_BYTES: u64 = 64 << 10;

/// The journal, the number of the state, and the directory of what is kept.
const SPARE_INODES: u64 = 3;

/// As much room as steps may take on one filesystem.
#[derive(Debug, Clone, Default)]
struct Need {
    bytes: u64,
    inodes: u64,
}

/// Fails when a filesystem has less room than the steps may take there.
pub(super) fn check(areas: &Areas, steps: &[Step]) -> Result<()> {
    for (area, need) in needs(areas, steps).into_iter().enumerate().filter(|(_, need)| need.bytes > 0) {
        let stage = areas.stage(area)?;
        let fs = fstatvfs(&stage)?;
        // Where there is no limit the numbers are zero.
        let lacks_inodes = fs.f_files > 0 && fs.f_ffree < need.inodes;
        let lacks_bytes = match try_out(stage.as_fd(), need.bytes) {
            Ok(()) => false,
            Err(Errno::NOSPC | Errno::DQUOT) => true,
            // Somebody else's numbers, and not those of root.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                fs.f_blocks > 0 && fs.f_bavail.saturating_mul(fs.f_frsize) < need.bytes
            }
            Err(error) => return Err(error.into()),
        };
        if lacks_bytes || lacks_inodes {
            let Need { bytes, inodes } = need;
            let top = areas.top(area);
            let reason = format!("make room on the filesystem of {top}: {bytes} bytes and {inodes} inodes");
            return Err(Error::new(ErrorKind::StorageFull, reason));
        }
    }
    Ok(())
}

/// Takes that many bytes, which is all that tells what is kept back for whom (fallocate(2)), and gives them back.
fn try_out(stage: BorrowedFd<'_>, bytes: u64) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(stage, NAME, flags, Mode::RUSR | Mode::WUSR)?;
    let taken = fallocate(&file, FallocateFlags::empty(), 0, bytes);
    unlinkat(stage, NAME, AtFlags::empty())?;
    taken
}

/// By area.
fn needs(areas: &Areas, steps: &[Step]) -> Vec<Need> {
    let mut needs = vec![Need::default(); areas.count()];
    let mut counted: BTreeSet<RelPath> = BTreeSet::new();
    for step in steps {
        let path = step.path();
        let written_bytes = STEP_BYTES + 2 * path.as_bytes().len() as u64;
        needs[areas.number_of_home()].bytes += written_bytes;
        let need = &mut needs[areas.number_of(path)];
        need.bytes += written_bytes;
        match step {
            Step::MakeDirectory(_) => {
                need.bytes += DIRECTORY_BYTES;
                need.inodes += 1;
                counted.insert(path.clone());
            }
            Step::Dress { after, .. } => {
                need.bytes +=
                    after.xattrs.iter().map(|xattr| XATTR_BYTES + xattr.value.len() as u64).sum::<u64>();
            }
            Step::Put { .. } | Step::Remove { .. } => {}
        }
        let parent = path.parent().unwrap_or_default();
        if !counted.contains(&parent) {
            need.bytes += DIRECTORY_BYTES;
            counted.insert(parent);
        }
    }
    for need in needs.iter_mut().filter(|need| need.bytes > 0) {
        need.bytes += SPARE_BYTES;
        need.inodes += SPARE_INODES;
    }
    needs
}
