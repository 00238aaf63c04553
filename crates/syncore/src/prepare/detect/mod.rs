//! Finds out what a mounted copy lies on.
//!
//! Why: the mounts below the root, and the devices under them, are all that an administrator would otherwise have to
//! type. What can go wrong: a stack that we do not know how to boot from (it is refused by name when the system needs it
//! to boot), a program that probes a dead disk for ever (it has a deadline), a rescue system without `blkid`.

mod probe;
mod stack;
mod table;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::PrepareError;
use super::target::{Disk, Filesystem, Target};
use crate::scan::{MountSource, Root, mount_sources};
use crate::tree::escape;

/// Where what the kernel must find by itself, and what the firmware reads, may be mounted.
const NEEDED: [&[u8]; 6] = [b"", b"boot", b"boot/efi", b"efi", b"usr", b"var"];

/// The target below `root`.
pub(super) fn detect(root: &Path, boot_disks: &[PathBuf]) -> Result<Target, PrepareError> {
    let failed = |error: rustix::io::Errno| PrepareError::Root {
        path: escape(root.as_os_str().as_bytes()),
        reason: std::io::Error::from(error).to_string(),
    };
    let held = Root::open(root).map_err(failed)?;
    let mut filesystems = Vec::new();
    for mount in mount_sources(&held) {
        if let Some(filesystem) = filesystem(&mount)? {
            filesystems.push(filesystem);
        }
    }
    let below: BTreeSet<PathBuf> =
        filesystems.iter().flat_map(|filesystem| filesystem.disks.iter().cloned()).collect();
    swaps(&below, &mut filesystems);
    let boot_disks = if boot_disks.is_empty() {
        default_boot_disks(&filesystems)
    } else {
        boot_disks.iter().map(|disk| named_disk(disk)).collect::<Result<_, _>>()?
    };
    let disks = boot_disks.iter().map(|disk| disk_of(disk)).collect();
    Ok(Target {
        filesystems,
        boot_disks,
        disks,
        uefi: Path::new("/sys/firmware/efi").is_dir(),
        architecture: rustix::system::uname().machine().to_string_lossy().into_owned(),
    })
}

/// One mount; none when it is no filesystem of a disk.
fn filesystem(mount: &MountSource) -> Result<Option<Filesystem>, PrepareError> {
    if !mount.is_local() || matches!(mount.kind.as_str(), "tmpfs" | "overlay" | "squashfs") {
        return Ok(None);
    }
    // What a bind mount shows is part of a filesystem that is somewhere else.
    if mount.root != b"/" && mount.kind != "btrfs" {
        return Ok(None);
    }
    let needed = NEEDED.contains(&mount.path.as_bytes());
    let refused = |reason: &str| PrepareError::Storage {
        device: format!("{} ({})", escape(&mount.source), mount.path),
        reason: reason.to_owned(),
    };
    if !matches!(mount.kind.as_str(), "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "vfat" | "f2fs" | "jfs") {
        return if needed {
            Err(refused(&format!("{} is no filesystem that this can prepare", mount.kind)))
        } else {
            Ok(None)
        };
    }
    // btrfs has device numbers of its own; what it was mounted from is the only way to the disk.
    let number = if mount.device.0 == 0 { block_number(&mount.source) } else { Some(mount.device) };
    let Some(number) = number else {
        return if needed { Err(refused("the block device below it cannot be found")) } else { Ok(None) };
    };
    let stack = match stack::below(number) {
        Ok(stack) => stack,
        Err(reason) if needed => return Err(refused(&reason)),
        Err(_) => return Ok(None),
    };
    let device = device_path(&mount.source, &stack);
    let facts = probe::facts(&device)?;
    Ok(Some(Filesystem {
        mount_point: Some(mount.path.clone()),
        kind: mount.kind.clone(),
        uuid: facts.uuid,
        label: facts.label,
        partition_uuid: stack.partition_uuid(facts.partition_uuid),
        subvolume: (mount.kind == "btrfs").then(|| String::from_utf8_lossy(&mount.root).into_owned()),
        layers: stack.layers,
        disks: stack.disks,
        device,
    }))
}

/// What it was mounted from, if that is there; `/dev/root` and the like are not.
fn device_path(source: &[u8], stack: &stack::Stack) -> PathBuf {
    let source = PathBuf::from(std::ffi::OsStr::from_bytes(source));
    if block_number(source.as_os_str().as_bytes()) == Some(stack.number) {
        source
    } else {
        stack.device.clone()
    }
}

/// The number of the block device at a path.
fn block_number(path: &[u8]) -> Option<(u32, u32)> {
    if !path.starts_with(b"/dev/") {
        return None;
    }
    let metadata = std::fs::metadata(std::ffi::OsStr::from_bytes(path)).ok()?;
    let block = std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type());
    block.then(|| (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev())))
}

/// Adds the swap areas on the same disks.
fn swaps(disks: &BTreeSet<PathBuf>, filesystems: &mut Vec<Filesystem>) {
    for number in stack::everything_on(disks) {
        let Ok(stack) = stack::below(number) else { continue };
        if filesystems.iter().any(|filesystem| filesystem.device == stack.device) {
            continue;
        }
        // A disk with two signatures, an extended partition: no swap area that anybody could use.
        let Ok(facts) = probe::facts(&stack.device) else { continue };
        if facts.kind.as_deref() == Some("swap") {
            filesystems.push(Filesystem {
                mount_point: None,
                kind: "swap".to_owned(),
                uuid: facts.uuid,
                label: facts.label,
                partition_uuid: stack.partition_uuid(facts.partition_uuid),
                subvolume: None,
                layers: stack.layers,
                disks: stack.disks,
                device: stack.device,
            });
        }
    }
}

/// The disks below what the firmware and the boot loader read; the root's without a `/boot` of its own.
fn default_boot_disks(filesystems: &[Filesystem]) -> Vec<PathBuf> {
    let at = |path: &[u8]| {
        filesystems.iter().find(|one| one.mount_point.as_ref().is_some_and(|point| point.as_bytes() == path))
    };
    let first = [&b"boot"[..], b""].iter().find_map(|path| at(path));
    let mut disks: Vec<PathBuf> = Vec::new();
    for filesystem in first.into_iter().chain(at(b"boot/efi")).chain(at(b"efi")) {
        for disk in &filesystem.disks {
            if !disks.contains(disk) {
                disks.push(disk.clone());
            }
        }
    }
    disks
}

/// A disk that was named: it has to be one, by whatever name.
fn named_disk(disk: &Path) -> Result<PathBuf, PrepareError> {
    let shown = escape(disk.as_os_str().as_bytes());
    let refused = |reason: &str| PrepareError::Storage { device: shown.clone(), reason: reason.to_owned() };
    let number = block_number(disk.as_os_str().as_bytes()).ok_or_else(|| refused("it is no block device"))?;
    let stack = stack::below(number).map_err(|reason| refused(&reason))?;
    if !stack.is_disk() {
        return Err(refused("it is no disk; a boot loader goes onto the disk, not onto a partition"));
    }
    Ok(stack.device)
}

fn disk_of(device: &Path) -> Disk {
    let names = std::fs::read_dir("/dev/disk/by-id").into_iter().flatten().filter_map(Result::ok);
    let mut ids: Vec<PathBuf> = names
        .map(|name| name.path())
        .filter(|link| link.canonicalize().is_ok_and(|to| to == device))
        .collect();
    ids.sort();
    Disk { device: device.to_owned(), table: table::read(device), by_id: ids.into_iter().next() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::RelPath;

    fn on(point: &str, disk: &str) -> Filesystem {
        Filesystem {
            mount_point: Some(RelPath::new(point).unwrap()),
            kind: "ext4".into(),
            device: disk.into(),
            uuid: None,
            label: None,
            partition_uuid: None,
            subvolume: None,
            layers: Vec::new(),
            disks: vec![disk.into()],
        }
    }

    #[test]
    fn the_firmware_boots_from_where_boot_is() {
        let root = on("", "/dev/sda");
        assert_eq!(default_boot_disks(std::slice::from_ref(&root)), [PathBuf::from("/dev/sda")]);
        let all = [root, on("boot", "/dev/sdb"), on("boot/efi", "/dev/sdc"), on("srv", "/dev/sdd")];
        assert_eq!(default_boot_disks(&all), [PathBuf::from("/dev/sdb"), PathBuf::from("/dev/sdc")]);
    }

    #[test]
    fn a_tree_on_no_filesystem_of_its_own_has_no_root_filesystem() {
        let temp = tempfile::tempdir().unwrap();
        let target = detect(temp.path(), &[]).unwrap();
        assert!(target.at("/").is_none());
        assert!(!target.architecture.is_empty());
    }

    #[test]
    fn a_boot_disk_that_is_none_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        for bad in ["/dev/null", "/dev/there-is-none", "relative"] {
            assert!(matches!(
                detect(temp.path(), &[bad.into()]),
                Err(PrepareError::Storage { device, .. }) if device == bad
            ));
        }
    }
}
