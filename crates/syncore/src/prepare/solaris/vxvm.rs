//! Veritas Volume Manager: the root disk out of its hands.
//!
//! Why: production's root disk was encapsulated: `/` is a volume, and the volume manager starts before it. On the
//! standby there is no such disk group. So VxVM is kept from starting, forgets which host it was, and the filesystems
//! go back to the partitions that were encapsulated. What can go wrong: a `vfstab.prevm` of long ago that knows
//! nothing of a filesystem made since; it counts only when it knows all of them. `volboot` has the name by which disk
//! groups are imported by themselves: with production's, a standby that sees the replicated disks would take them.

use std::collections::BTreeMap;

use super::super::lines::Lines;
use super::super::{Draft, PrepareError};
use super::svm::is_slice;
use super::table::{Device, Row, SYSTEM, rows};
use crate::rules::Class;

const PREVM: &str = "/etc/vfstab.prevm";
const STATE: &str = "/etc/vx/reconfig.d/state.d";
/// What precedes the volume in the comment that encapsulation leaves at the end of vfstab.
const TRAILER: &str = "#NOTE: volume ";

/// Partitions below encapsulated volumes.
#[derive(Debug, Default)]
pub(super) struct Encapsulated {
    /// By the line's place, from 0, in today's table.
    before: BTreeMap<String, String>,
    /// Volume, mount point, partition.
    trailers: Vec<(String, String, String)>,
}

impl Encapsulated {
    /// Reads `vfstab.prevm` if it knows every volume of the system, and the comments in vfstab.
    pub(super) fn read(lines: &Lines, table: &[Row], draft: &Draft<'_>) -> Result<Self, PrepareError> {
        let mut encapsulated = Self::default();
        for line in &lines.0 {
            if let Some(trailer) = trailer(&String::from_utf8_lossy(&line.content)) {
                encapsulated.trailers.push(trailer);
            }
        }
        if let Some(content) = draft.read(PREVM)? {
            let before = rows(PREVM, &Lines::of(&content))?;
            encapsulated.before = covering(table, &before).unwrap_or_default();
        }
        Ok(encapsulated)
    }

    /// The partition below a volume that `row` mounts.
    pub(super) fn slice_of(&self, group: Option<&str>, volume: &str, row: &Row) -> Option<String> {
        // The root's disk group is rootdg, or the one that bootdg stands for; of the latter's own name nothing is
        // said here, so what the mount point tells has to agree.
        let swap = row.is_swap();
        if let Some(slice) = self.before.get(&key(group, volume)) {
            return Some(slice.clone());
        }
        let mut found = self.trailers.iter().filter(|(name, mount_point, _)| {
            name == volume
                && if swap {
                    matches!(&**mount_point, "" | "swap" | "-")
                } else {
                    mount_point == row.mount_point()
                }
        });
        match (found.next(), found.next()) {
            (Some((_, _, slice)), None) => Some(slice.clone()),
            // Two comments that disagree are as good as none.
            (Some((_, _, slice)), Some((_, _, other))) if slice == other => Some(slice.clone()),
            _ => None,
        }
    }
}

fn key(group: Option<&str>, volume: &str) -> String {
    format!("{}/{volume}", group.unwrap_or("-"))
}

/// The partitions of all volumes that are the system's, if `before` knows each of them.
fn covering(table: &[Row], before: &[Row]) -> Option<BTreeMap<String, String>> {
    let slice = |row: &Row| {
        let name = String::from_utf8_lossy(row.device()).into_owned();
        (Device::of(row.device()) == Device::Slice)
            .then(|| name.strip_prefix("/dev/dsk/").map(str::to_owned))
            .flatten()
    };
    let mut swaps = before.iter().filter(|row| row.is_swap());
    let mut slices = BTreeMap::new();
    for row in table {
        let Device::Vxvm { group, volume } = Device::of(row.device()) else { continue };
        if !row.is_swap() && !SYSTEM.contains(&row.mount_point()) {
            continue;
        }
        let was = if row.is_swap() {
            swaps.next()
        } else {
            before.iter().find(|old| old.mount_point() == row.mount_point())
        };
        slices.insert(key(group.as_deref(), &volume), slice(was?)?);
    }
    Some(slices)
}

/// `#NOTE: volume rootvol (/) encapsulated partition c0t0d0s0`.
fn trailer(line: &str) -> Option<(String, String, String)> {
    let rest = line.trim().strip_prefix(TRAILER)?;
    let (volume, rest) = rest.split_once('(')?;
    let (mount_point, rest) = rest.split_once(')')?;
    let slice = rest.trim().strip_prefix("encapsulated partition")?.trim();
    let slice = slice.strip_prefix("/dev/dsk/").unwrap_or(slice);
    is_slice(slice).then(|| (volume.trim().to_owned(), mount_point.trim().to_owned(), slice.to_owned()))
}

/// Plans the state of VxVM itself.
pub(super) fn plan(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    if !draft.exists("/etc/vx")? {
        return Ok(());
    }
    let install = format!("{STATE}/install-db");
    if !draft.exists(&install)? {
        draft.write(&install, Vec::new(), Class::A, "VxVM does not start until it is set up here")?;
    }
    draft.remove(&format!("{STATE}/root-done"), Class::A, "the root disk is not encapsulated")?;
    draft.remove(
        "/etc/vx/volboot",
        Class::A,
        "it names the host whose disk groups are imported: production",
    )?;
    for name in draft.list("/etc/vx")? {
        let lists = matches!(&*name, "array.info" | "disk.info" | "jbod.info");
        if lists || (name.starts_with("dmp") && name.ends_with(".info")) {
            draft.remove(&format!("/etc/vx/{name}"), Class::A, "a list of production's disks")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_names_volume_mount_point_and_partition() {
        let read = |line| {
            trailer(line).map(|(volume, mount_point, slice)| format!("{volume} {mount_point} {slice}"))
        };
        let expect = |line, expected: &str| assert_eq!(read(line).as_deref(), Some(expected), "{line}");
        expect("#NOTE: volume rootvol (/) encapsulated partition c0t0d0s0", "rootvol / c0t0d0s0");
        expect("#NOTE: volume swapvol () encapsulated partition c0t0d0s1\r", "swapvol  c0t0d0s1");
        expect("#NOTE: volume usr (/usr) encapsulated partition /dev/dsk/c12d1s6", "usr /usr c12d1s6");
        assert!(read("#NOTE: volume rootvol (/) encapsulated partition rootdisk-01").is_none());
        assert!(read("# volume rootvol (/) encapsulated partition c0t0d0s0").is_none());
    }

    #[test]
    fn of_two_comments_that_disagree_none_counts() {
        let lines = Lines::of(
            b"/dev/vx/dsk/rootvol /dev/vx/rdsk/rootvol / ufs 1 no -\n\
              #NOTE: volume rootvol (/) encapsulated partition c0t0d0s0\n\
              #NOTE: volume rootvol (/) encapsulated partition c1t0d0s0\n",
        );
        let table = rows("/etc/vfstab", &lines).unwrap();
        let trailers = lines.0.iter().filter_map(|line| trailer(std::str::from_utf8(&line.content).unwrap()));
        let mut read = Encapsulated { trailers: trailers.collect(), ..Encapsulated::default() };
        assert_eq!(read.slice_of(None, "rootvol", &table[0]), None);
        read.trailers.pop();
        assert_eq!(read.slice_of(Some("rootdg"), "rootvol", &table[0]).as_deref(), Some("c0t0d0s0"));
        assert_eq!(read.slice_of(None, "othervol", &table[0]), None);
    }
}
