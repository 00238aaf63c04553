//! `/etc/vfstab`: the system's filesystems on slices, and no disk of production's mounted.
//!
//! Why: a root that was mirrored or encapsulated on production boots here only from the slice below it, and both
//! columns, block and raw, have to say so. What can go wrong: a volume below which there is no slice. For a filesystem
//! that the boot needs that is an error; any other line is put out of force and reported, because one fsck(1M) that
//! fails stops the boot for all. A line that does not have seven fields is an error, as it is for the system.

use super::super::lines::{Lines, with_field};
use super::super::report::{Finding, Held};
use super::super::{Draft, PrepareError, Task};
use super::table::{AT_BOOT, DEVICE, Device, RAW, Row, SYSTEM, rows};
use super::{HELD_MARK, Host, find, malformed, shown, svm, vxvm};
use crate::rules::Class;

const VFSTAB: &str = "/etc/vfstab";

/// What has to be there before a boot comes to its end.
pub(crate) const NEEDED: [&str; 3] = ["/", "/usr", "/var"];
/// What the file said of the root.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Whether `/` was on a volume of VxVM or SVM.
    pub(super) root_on_volume: bool,
    /// Where `/` is now; none for ZFS.
    pub(super) root: Option<String>,
}

/// What becomes of a device.
enum Fate {
    /// It is this slice.
    Slice(Vec<u8>),
    /// Its line goes.
    Dropped,
    /// It stays what it is.
    Same,
    /// There is nothing below it.
    Nothing,
}

/// Plans the file.
pub(super) fn plan(
    task: &Task<'_>,
    host: &mut Host<'_>,
    draft: &mut Draft<'_>,
) -> Result<Table, PrepareError> {
    let content = draft.read(VFSTAB)?.ok_or_else(|| malformed(VFSTAB, "it is not there"))?;
    let mut lines = Lines::of(&content);
    let rows = rows(VFSTAB, &lines)?;
    let mut roots = rows.iter().filter(|row| row.mount_point() == "/");
    let table = match (roots.next(), roots.next()) {
        (Some(_), Some(_)) => return Err(malformed(VFSTAB, "two lines mount /")),
        (Some(root), None) => {
            Table { root_on_volume: Device::of(root.device()).is_volume(), ..Table::default() }
        }
        (None, _) if host.has_devfs() => Table::default(),
        (None, _) => return Err(malformed(VFSTAB, "no line mounts /")),
    };
    host.zfs_root = !rows.iter().any(|row| row.mount_point() == "/");
    for row in &rows {
        check_mounted(row, draft)?;
    }
    let sources = Sources {
        map: map(task)?,
        vxvm: vxvm::Encapsulated::read(&lines, &rows, draft)?,
        svm: svm::Metadevices::read(draft)?,
    };
    let mut table = table;
    let mut used = vec![false; sources.map.len()];
    let mut dropped = Vec::new();
    for row in &rows {
        // What was copied is the standby's, and so is what somebody gave a device of the standby's.
        let system = row.is_swap()
            || SYSTEM.contains(&row.mount_point())
            || (!row.mount_point().is_empty() && task.target.at(row.mount_point()).is_some());
        let mapped = |device: &[u8]| sources.map.iter().any(|(_, new)| new.as_deref() == Some(device));
        match sources.fate(row, &mut used) {
            Fate::Slice(slice) => {
                rewrite(&mut lines, row, &slice)?;
                draft.replaced(&row.name(), shown(row.device()), shown(&slice));
                if row.mount_point() == "/" {
                    table.root = Some(shown(&slice));
                }
                if !system && !mapped(&slice) && row.is_mounted_at_boot() {
                    hold(&mut lines, row, &slice, draft);
                }
            }
            Fate::Dropped if row.mount_point() == "/" => {
                return Err(PrepareError::Option("--map-device would drop the line of /".into()));
            }
            Fate::Dropped => {
                dropped.push(row.at);
                draft.replaced(&row.name(), shown(row.device()), "none");
            }
            Fate::Same if row.mount_point() == "/" => table.root = Some(shown(row.device())),
            Fate::Same => {
                let of_disk = Device::of(row.device()) == Device::Slice;
                if of_disk && !system && !mapped(row.device()) && row.is_mounted_at_boot() {
                    hold(&mut lines, row, row.device(), draft);
                }
            }
            Fate::Nothing if NEEDED.contains(&row.mount_point()) => {
                return Err(malformed(
                    VFSTAB,
                    format!(
                        "{} is on {}, and no slice below it is known; say --map-device {} /dev/dsk/…",
                        row.name(),
                        shown(row.device()),
                        shown(row.device())
                    ),
                ));
            }
            Fate::Nothing if row.is_mounted_at_boot() => put_out_of_force(&mut lines, row, system, draft)?,
            Fate::Nothing => {}
        }
    }
    for ((old, new), used) in sources.map.iter().zip(used) {
        let there = new.as_ref().is_some_and(|new| rows.iter().any(|row| row.device() == &new[..]));
        if !used && !there && task.earlier.is_none() {
            return Err(PrepareError::Option(format!(
                "--map-device {}: no line of {VFSTAB} names it",
                shown(old)
            )));
        }
    }
    for at in dropped.into_iter().rev() {
        lines.0.remove(at);
    }
    draft.write(
        VFSTAB,
        lines.to_bytes(),
        Class::B,
        "the system's filesystems are on slices of the standby",
    )?;
    if table.root.is_some() {
        find(
            draft,
            VFSTAB,
            Finding::note(
                "the slices are those that production's files name; if the target's disk has another name, give \
                 --map-device OLD NEW; finish.sh stops when one is not there",
            ),
        )?;
    }
    Ok(table)
}

/// A device of production's and the standby's; none drops its line.
type Mapped = (Vec<u8>, Option<Vec<u8>>);

/// Where the slice of a volume may be read.
struct Sources {
    map: Vec<Mapped>,
    vxvm: vxvm::Encapsulated,
    svm: svm::Metadevices,
}

impl Sources {
    fn fate(&self, row: &Row, used: &mut [bool]) -> Fate {
        if let Some(at) = self.map.iter().position(|(old, _)| old == row.device()) {
            used[at] = true;
            return self.map[at].1.clone().map_or(Fate::Dropped, Fate::Slice);
        }
        let slice = match Device::of(row.device()) {
            Device::Slice | Device::Other => return Fate::Same,
            Device::Vxvm { group, volume } => self.vxvm.slice_of(group.as_deref(), &volume, row),
            Device::Svm(name) => self.svm.slice_of(&name),
            Device::Shared => None,
        };
        slice.map_or(Fate::Nothing, |slice| Fate::Slice(format!("/dev/dsk/{slice}").into_bytes()))
    }
}

/// The devices of `--map-device`, as block devices.
fn map(task: &Task<'_>) -> Result<Vec<Mapped>, PrepareError> {
    let block = |device: &str| match device.split_once("/rdsk/") {
        Some((before, after)) => format!("{before}/dsk/{after}"),
        None if svm::is_slice(device) => format!("/dev/dsk/{device}"),
        None => device.to_owned(),
    };
    task.options
        .device_map
        .iter()
        .map(|(old, new)| {
            let new = new.as_deref().map(block);
            if let Some(new) = &new
                && (!new.contains("/dsk/") || !new.starts_with("/dev/") || new.bytes().any(|b| b <= b' '))
            {
                return Err(PrepareError::Option(format!(
                    "--map-device: {} is no /dev/dsk/…",
                    shown(new.as_bytes())
                )));
            }
            Ok((block(old).into_bytes(), new.map(String::into_bytes)))
        })
        .collect()
}

/// Puts `slice` into both columns of a line.
fn rewrite(lines: &mut Lines, row: &Row, slice: &[u8]) -> Result<(), PrepareError> {
    let (device, raw) = (shown(row.device()), shown(row.field(RAW)));
    if raw != "-" && raw.replacen("/rdsk/", "/dsk/", 1) != device {
        return Err(malformed(VFSTAB, format!("line {}: {device} and {raw} are not one device", row.at + 1)));
    }
    let line = &mut lines.0[row.at];
    line.content = with_field(&line.content, DEVICE, slice);
    if raw != "-" {
        let raw = String::from_utf8_lossy(slice).replacen("/dsk/", "/rdsk/", 1);
        line.content = with_field(&line.content, RAW, raw.as_bytes());
    }
    Ok(())
}

/// The line of a filesystem that is not mounted at boot.
pub(crate) fn held_row(line: &[u8]) -> Vec<u8> {
    with_field(line, AT_BOOT, b"no")
}

/// The line as a comment.
pub(crate) fn out_of_force(line: &[u8]) -> Vec<u8> {
    [HELD_MARK, line].concat()
}

/// Keeps a disk of production's from being mounted at boot.
fn hold(lines: &mut Lines, row: &Row, device: &[u8], draft: &mut Draft<'_>) {
    let line = &mut lines.0[row.at];
    line.content = held_row(&line.content);
    draft.held.push(Held {
        kind: "data".into(),
        name: row.name(),
        how: format!("{} is not mounted at boot (no in {VFSTAB})", shown(device)),
        undo: Vec::new(),
    });
}

/// Makes a comment of a line whose volume is not there.
fn put_out_of_force(
    lines: &mut Lines,
    row: &Row,
    system: bool,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let line = &mut lines.0[row.at];
    line.content = out_of_force(&line.content);
    let (name, device) = (row.name(), shown(row.device()));
    if system {
        let finding = Finding::note(format!(
            "{name} was on {device}, below which no slice is known: its line is a comment now; give it one with \
             --map-device {device} /dev/dsk/…"
        ));
        return find(draft, VFSTAB, finding);
    }
    draft.held.push(Held {
        kind: "data".into(),
        name,
        how: format!(
            "the line of {device} is a comment in {VFSTAB}: no volume manager runs until it is set up"
        ),
        undo: Vec::new(),
    });
    Ok(())
}

/// Refuses a root below which a filesystem of the system is not mounted.
fn check_mounted(row: &Row, draft: &Draft<'_>) -> Result<(), PrepareError> {
    let mount_point = row.mount_point();
    if matches!(mount_point, "/usr" | "/var") && draft.list(mount_point)?.is_empty() {
        return Err(PrepareError::NotMounted {
            mount_point: mount_point.to_owned(),
            root: "the root".to_owned(),
        });
    }
    Ok(())
}
