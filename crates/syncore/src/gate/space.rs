//! `space` and `inodes`: the whole plan fits the standby's filesystems.
//!
//! Why: a run that stops at a full filesystem has changed half of what it was to change, and a full root is no standby.
//! What can go wrong: a sum that is too small; so everything new is counted whole and nothing that goes away, since it
//! is staged beside the old, which may be kept as a generation.

use std::collections::BTreeMap;

use super::host::Filesystem;
use super::{Asked, No};
use crate::plan::{Change, Plan};
use crate::tree::{Kind, RelPath};

/// What a plan needs of the filesystems, by the directory in which it needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    needs: BTreeMap<RelPath, Need>,
}

/// What is needed in one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Need {
    bytes: u64,
    inodes: u64,
}

impl Demand {
    /// What `plan` needs. `allocated` may know how many bytes of a long file are no holes.
    #[must_use]
    pub fn of(plan: &Plan, allocated: &dyn Fn(&RelPath) -> Option<u64>) -> Self {
        /// What a directory or a long symbolic link takes.
        const BLOCK_BYTES: u64 = 4096;
        /// From this length on holes are worth a look.
        const LONG_BYTES: u64 = 1 << 20;
        let mut needs: BTreeMap<RelPath, Need> = BTreeMap::new();
        for item in plan.items() {
            if matches!(item.change, Change::Delete(_)) || item.link_to.is_some() {
                continue;
            }
            let made = matches!(item.change, Change::Create | Change::Replace(_));
            if !made && !item.needs_content() {
                continue;
            }
            let bytes = match item.entry.kind {
                Kind::File => {
                    let length = item.entry.size_bytes;
                    let known = (length >= LONG_BYTES).then(|| allocated(&item.path)).flatten();
                    known.map_or(length, |known| known.min(length)).next_multiple_of(BLOCK_BYTES)
                }
                Kind::Directory | Kind::Symlink => BLOCK_BYTES,
                _ => 0,
            };
            let need = needs.entry(item.path.parent().unwrap_or_default()).or_default();
            need.bytes = need.bytes.saturating_add(bytes);
            need.inodes += 1;
        }
        Self { needs }
    }

    /// The same by filesystem, in their order; what is below several belongs to the deepest.
    fn by_filesystem(&self, filesystems: &[Filesystem]) -> Vec<Need> {
        let mut sums = vec![Need::default(); filesystems.len()];
        for (directory, need) in &self.needs {
            let holds = |(_, filesystem): &(usize, &Filesystem)| directory.starts_with(&filesystem.path);
            let deepest =
                filesystems.iter().enumerate().filter(holds).max_by_key(|(_, f)| f.path.as_bytes().len());
            if let Some(sum) = deepest.and_then(|(at, _)| sums.get_mut(at)) {
                sum.bytes = sum.bytes.saturating_add(need.bytes);
                sum.inodes += need.inodes;
            }
        }
        sums
    }
}

/// Passes when each filesystem has the bytes, and keeps `reserve` of them.
pub(super) fn ask(reserve_bytes: u64, asked: &Asked<'_>) -> Result<String, No> {
    judge(asked, reserve_bytes, "bytes", |filesystem, need| (Some(filesystem.free_bytes), need.bytes))
}

/// Passes when each filesystem has the inodes, and keeps `reserve` of them.
pub(super) fn ask_inodes(reserve: u64, asked: &Asked<'_>) -> Result<String, No> {
    judge(asked, reserve, "inodes", |filesystem, need| (filesystem.free_inodes, need.inodes))
}

fn judge(
    asked: &Asked<'_>,
    reserve: u64,
    unit: &str,
    pick: impl Fn(&Filesystem, &Need) -> (Option<u64>, u64),
) -> Result<String, No> {
    let sight = asked.destination()?;
    let filesystems = &sight.host.filesystems;
    if !filesystems.iter().any(|filesystem| filesystem.path.is_root()) {
        return Err(No::cannot_tell(
            "the room on the destination's filesystem is not known",
            "look at it with df",
        ));
    }
    let demand = asked.surroundings.demand.as_ref();
    let needs = demand.cloned().unwrap_or_default().by_filesystem(filesystems);
    let mut told = Vec::new();
    for (filesystem, need) in filesystems.iter().zip(&needs) {
        let (free, needed) = pick(filesystem, need);
        // Where nothing is written nothing is asked for, but at the root.
        let concerned = needed > 0 || filesystem.path.is_root();
        let Some(free) = free.filter(|_| concerned) else { continue };
        let path = &filesystem.path;
        let evidence = match demand {
            Some(_) => format!("{path} on the destination has {free} {unit} free, the plan needs {needed}"),
            None => format!("{path} on the destination has {free} {unit} free, without a plan"),
        };
        if free < needed.saturating_add(reserve) {
            return Err(No::refuse(
                format!("{evidence}, and {reserve} are to stay free"),
                format!("make room at {path} on the destination, or lower `reserve` in the gate"),
            ));
        }
        told.push(evidence);
    }
    Ok(if told.is_empty() { format!("no filesystem has a limit of {unit}") } else { told.join("; ") })
}
