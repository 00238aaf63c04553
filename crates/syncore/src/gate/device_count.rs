//! `device-count`: the volume group has as many disks as are replicated.
//!
//! Why: a disk that was added to the group and not to the replication is missed on the day of the failover, and not
//! before; the group is then incomplete on the other side. What can go wrong: both counts are wrong in the same way; so
//! they come from two programs that know nothing of each other.

use super::volume_group::{count_vgs, whole_lines};
use super::{Asked, No, replication, tool};
use crate::profile::{Manager, Replication, VolumeGroup};

/// Passes when both counts are the same, and not zero.
pub(super) fn ask(group: &VolumeGroup, replicated: &Replication, asked: &Asked<'_>) -> Result<String, No> {
    let disks = count(group, asked)?;
    let devices = replication::count(replicated, asked)?;
    let evidence = format!("{} has {disks} disks, and {devices} devices are replicated", group.group);
    match disks == devices && disks > 0 {
        true => Ok(evidence),
        false => Err(No::refuse(
            evidence,
            "bring every disk of the group under replication, or take out the device that is none of its disks",
        )),
    }
}

fn count(wanted: &VolumeGroup, asked: &Asked<'_>) -> Result<u64, No> {
    let (group, program) = (&wanted.group[..], wanted.program.as_deref());
    let (tool, words): (_, &[&str]) = match wanted.manager {
        Manager::Lvm => ("vgs", &["--reportformat", "json", "-o", VGS_COLUMNS, group]),
        Manager::Vxvm => ("vxdisk", &["-g", group, "-q", "list"]),
        Manager::Svm => ("metaset", &["-s", group]),
        Manager::Zfs => return Err(No::cannot_tell("disks of a pool are not counted", "correct the gate")),
    };
    let reply = tool::run(tool, program, words, asked)?;
    let count = match wanted.manager {
        Manager::Lvm => count_vgs(&reply.said, group),
        Manager::Vxvm => count_vxdisk(&reply.said, group),
        Manager::Svm | Manager::Zfs => count_metaset(&reply.said),
    };
    count.filter(|_| reply.code == 0).ok_or_else(|| {
        No::cannot_tell(
            format!("{tool} does not say how many disks {group} has: {}", reply.evidence()),
            format!("run `{tool} {}` and see what it says", words.join(" ")),
        )
    })
}

/// As of [`super::volume_group`], whose parser reads it.
const VGS_COLUMNS: &str = "vg_name,vg_attr,vg_exported,vg_partial,vg_missing_pv_count,pv_count";

/// The lines of a group from `vxdisk -g GROUP -q list`: device, type, disk, group, status (vxdisk(1M)).
pub(super) fn count_vxdisk(said: &[u8], group: &str) -> Option<u64> {
    let mut count = 0;
    for line in whole_lines(said)?.into_iter().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.len() >= 5 && words[3] == group).then_some(())?;
        count += 1;
    }
    Some(count)
}

/// The drives of a set from `metaset -s SET`: the lines below the heading `Drive Dbase` (metaset(1M)).
pub(super) fn count_metaset(said: &[u8]) -> Option<u64> {
    let mut lines = whole_lines(said)?.into_iter();
    lines.find(|line| line.starts_with("Set name = "))?;
    lines.find(|line| line.split_whitespace().eq(["Drive", "Dbase"]))?;
    // Some versions leave a line free between drives.
    let drives = lines.take_while(|line| !line.starts_with("Set name = "));
    Some(drives.filter(|line| !line.trim().is_empty()).count() as u64)
}
