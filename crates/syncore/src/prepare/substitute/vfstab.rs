//! vfstab(4): the standby's lines for the system, production's for its data, not mounted at boot.
//!
//! Why: as with fstab(5): a new data slice belongs into the standby's table, and production's root does not. What can go
//! wrong: a line that does not have seven fields, or a filesystem of the system that the standby does not have; nothing
//! is made then. One fsck(1M) that fails stops the boot for all, so a volume is a comment, as `prepare-root` has it.

use super::super::lines::{Lines, fields};
use super::super::solaris::{Device, HELD_MARK, NEEDED, Row, SYSTEM, held_row, out_of_force, rows};
use super::{own_reason, reason};

/// The column of the mount point.
const MOUNT_POINT: usize = 2;

/// The system's lines are the standby's. Data of production is there to be mounted by whoever promotes the standby.
pub(super) fn vfstab(production: &[u8], standby: &[u8]) -> Result<Vec<u8>, String> {
    let own = Own::of(standby)?;
    let lines = Lines::of(production);
    let theirs = rows("/etc/vfstab", &lines).map_err(reason)?;
    let has_root = theirs.iter().any(|row| row.mount_point() == "/");
    if has_root != own.at("/").is_some() {
        let without = if has_root { "the standby's own has" } else { "there is" };
        return Err(format!("{without} no line for /"));
    }
    let mut made = Lines::default();
    for (at, line) in lines.0.iter().enumerate() {
        let content = match theirs.iter().find(|row| row.at == at) {
            Some(row) => own.instead(row, &line.content)?,
            None => Some(line.content.clone()),
        };
        if let Some(content) = content {
            made.0.push(super::super::lines::Line { content, end: line.end });
        }
    }
    let alone = |row: &&Row| {
        row.is_swap()
            || SYSTEM.contains(&row.mount_point())
                && !theirs.iter().any(|other| other.mount_point() == row.mount_point())
    };
    for row in own.rows.iter().filter(alone) {
        made.push(own.line(row));
    }
    Ok(made.to_bytes())
}

/// The standby's table.
struct Own {
    lines: Lines,
    rows: Vec<Row>,
}

impl Own {
    fn of(standby: &[u8]) -> Result<Self, String> {
        let lines = Lines::of(standby);
        let rows = rows("/etc/vfstab", &lines).map_err(own_reason)?;
        Ok(Self { lines, rows })
    }

    fn at(&self, mount_point: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.mount_point() == mount_point && !row.is_swap())
    }

    fn line(&self, row: &Row) -> &[u8] {
        self.lines.0.get(row.at).map_or(b"", |line| &line.content)
    }

    /// Whether a line for it is there, put out of force.
    fn is_out_of_force(&self, mount_point: &str) -> bool {
        self.lines.0.iter().any(|line| {
            let held = line.content.strip_prefix(HELD_MARK);
            held.is_some_and(|held| fields(held).get(MOUNT_POINT) == Some(&mount_point.as_bytes()))
        })
    }

    /// What becomes of a line of production's; none when it goes, because the standby's come in its place.
    fn instead(&self, row: &Row, line: &[u8]) -> Result<Option<Vec<u8>>, String> {
        if row.is_swap() {
            return Ok(None);
        }
        let point = row.mount_point();
        let device = Device::of(row.device());
        let is_system = SYSTEM.contains(&point);
        let own = self.at(point).filter(|_| !point.is_empty());
        let mounts = |own: &Row| own.is_mounted_at_boot() && Device::of(own.device()) != Device::Other;
        if let Some(own) = own.filter(|own| is_system || mounts(own) || device.is_volume()) {
            return Ok(Some(self.line(own).to_vec()));
        }
        if is_system && (NEEDED.contains(&point) || !self.is_out_of_force(point)) {
            return Err(format!("the standby has no filesystem for {point}"));
        }
        if !row.is_mounted_at_boot() || device == Device::Other && !is_system {
            return Ok(Some(line.to_vec()));
        }
        Ok(Some(if device.is_volume() || is_system { out_of_force(line) } else { held_row(line) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(production: &str, standby: &str) -> Result<String, String> {
        let once = vfstab(production.as_bytes(), standby.as_bytes())?;
        assert_eq!(vfstab(production.as_bytes(), &once).unwrap(), once, "a second time changes more");
        Ok(String::from_utf8(once).unwrap())
    }

    const STANDBY: &str = "fd - /dev/fd fd - no -\n/dev/dsk/c1t0d0s1 - - swap - no -\n\
                           /dev/dsk/c1t0d0s0\t/dev/rdsk/c1t0d0s0\t/\tufs\t1\tno\tlogging\n\
                           /dev/dsk/c1t0d0s7 /dev/rdsk/c1t0d0s7 /export ufs 2 yes -\n\
                           /dev/dsk/c1t0d0s5 /dev/rdsk/c1t0d0s5 /u01 ufs 2 no -\n\
                           #clonetool-held /dev/md/dsk/d60 /dev/md/rdsk/d60 /opt ufs 2 yes -\n";

    #[test]
    fn the_system_is_the_standbys_and_the_data_is_not_mounted() {
        let production = "#device\nfd - /dev/fd fd - no -\n/proc - /proc proc - no -\n/dev/md/dsk/d1 - - swap - no -\n\
                          /dev/md/dsk/d0 /dev/md/rdsk/d0 / ufs 1 no -\n/dev/md/dsk/d60 /dev/md/rdsk/d60 /opt ufs 2 yes ro\n\
                          /dev/dsk/c0t0d0s7 /dev/rdsk/c0t0d0s7 /export ufs 2 yes -\n/dev/md/dsk/d50 /dev/md/rdsk/d50 /u01 ufs 2 yes -\n\
                          /dev/dsk/c2t0d0s6\t/dev/rdsk/c2t0d0s6 /u02 ufs 2 yes -\n/dev/vx/dsk/dg/v /dev/vx/rdsk/dg/v /u03 vxfs 2 yes -\n\
                          db9:/x - /mnt/x nfs - yes -\nswap - /tmp tmpfs - yes -";
        assert_eq!(
            made(production, STANDBY).unwrap(),
            "#device\nfd - /dev/fd fd - no -\n/proc - /proc proc - no -\n\
             /dev/dsk/c1t0d0s0\t/dev/rdsk/c1t0d0s0\t/\tufs\t1\tno\tlogging\n\
             #clonetool-held /dev/md/dsk/d60 /dev/md/rdsk/d60 /opt ufs 2 yes ro\n\
             /dev/dsk/c1t0d0s7 /dev/rdsk/c1t0d0s7 /export ufs 2 yes -\n/dev/dsk/c1t0d0s5 /dev/rdsk/c1t0d0s5 /u01 ufs 2 no -\n\
             /dev/dsk/c2t0d0s6\t/dev/rdsk/c2t0d0s6 /u02 ufs 2 no -\n\
             #clonetool-held /dev/vx/dsk/dg/v /dev/vx/rdsk/dg/v /u03 vxfs 2 yes -\n\
             db9:/x - /mnt/x nfs - yes -\nswap - /tmp tmpfs - yes -\n/dev/dsk/c1t0d0s1 - - swap - no -\n"
        );
    }

    #[test]
    fn what_is_not_understood_changes_nothing() {
        let root = "/dev/md/dsk/d0 /dev/md/rdsk/d0 / ufs 1 no -\n";
        for production in ["", "/dev/md/dsk/d0 / ufs 1 no -\n"] {
            assert!(made(production, STANDBY).is_err(), "{production}");
        }
        let usr = format!("{root}/dev/md/dsk/d6 /dev/md/rdsk/d6 /usr ufs 1 no -\n");
        assert_eq!(made(&usr, STANDBY).unwrap_err(), "the standby has no filesystem for /usr");
        let openwin = format!("{root}/dev/dsk/c0t0d0s3 /dev/rdsk/c0t0d0s3 /usr/openwin ufs 2 yes -\n");
        assert!(made(&openwin, STANDBY).is_err());
        assert_eq!(made(root, "# ZFS\n").unwrap_err(), "the standby's own has no line for /");
        assert!(made(root, "/dev/dsk/c0t0d0s0 /\n").unwrap_err().starts_with("the standby's own: "));
    }

    #[test]
    fn a_root_on_zfs_has_no_line_on_either_side() {
        let production = "/proc - /proc proc - no -\r\n/dev/zvol/dsk/rpool/swap - - swap - no -\r\n";
        let standby =
            "/dev/zvol/dsk/tank/swap - - swap - no -\n/dev/dsk/c0d0s3 /dev/rdsk/c0d0s3 /var ufs 1 no -\n";
        assert_eq!(
            made(production, standby).unwrap(),
            "/proc - /proc proc - no -\r\n/dev/zvol/dsk/tank/swap - - swap - no -\r\n\
             /dev/dsk/c0d0s3 /dev/rdsk/c0d0s3 /var ufs 1 no -\r\n"
        );
    }
}
