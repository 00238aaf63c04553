//! The hardware that the copy is to boot on: filesystems below the root, the devices they lie on, disks, firmware.
//!
//! Why: nobody at a rescue prompt wants to type UUIDs. What is mounted at and below the root says it all. What can go
//! wrong: a root on something that we do not know how to boot from; it is named and refused, never guessed.

use std::path::{Path, PathBuf};

use super::{PrepareError, detect};
use crate::tree::RelPath;

/// What a filesystem lies on, from the filesystem down to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// A logical volume of LVM.
    Lvm {
        /// Volume group.
        group: String,
        /// Logical volume.
        volume: String,
    },
    /// A LUKS mapping.
    Luks {
        /// Name below `/dev/mapper`.
        name: String,
        /// UUID of the LUKS header.
        uuid: String,
    },
    /// An md array.
    Md {
        /// UUID of the array, as mdadm(8) writes it.
        uuid: String,
    },
    /// A partition.
    Partition {
        /// Its number.
        number: u32,
    },
    /// A disk, or what stands for one.
    Disk,
}

/// A filesystem, swap area or EFI system partition of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Where it is mounted, below the prepared root; the root itself is empty. None for swap.
    pub mount_point: Option<RelPath>,
    /// As mount(8) calls it: `ext4`, `vfat`, `swap`.
    pub kind: String,
    /// The device as this host names it.
    pub device: PathBuf,
    /// UUID of the filesystem or swap area.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// UUID of its partition.
    pub partition_uuid: Option<String>,
    /// The btrfs subvolume that is mounted, with a leading slash.
    pub subvolume: Option<String>,
    /// What it lies on, from the top; empty when that is unknown.
    pub layers: Vec<Layer>,
    /// The disks below it.
    pub disks: Vec<PathBuf>,
}

/// The partition table of a disk, as far as a boot loader cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// The old one.
    Mbr {
        /// Sectors of 512 bytes between it and the first partition.
        gap_sectors: u64,
    },
    /// GUID partition table.
    Gpt {
        /// Whether there is a BIOS boot partition.
        bios_boot: bool,
    },
}

/// A disk that the firmware boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// As this host names it.
    pub device: PathBuf,
    /// Its partition table; none for a disk that is one filesystem.
    pub table: Option<Table>,
    /// A name below `/dev/disk/by-id`, if udev made one.
    pub by_id: Option<PathBuf>,
}

/// Where and how the copy will boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The filesystems mounted at and below the prepared root, the root's first, and swap areas on the same disks.
    pub filesystems: Vec<Filesystem>,
    /// The disks that the firmware boots from.
    pub boot_disks: Vec<PathBuf>,
    /// What is known of these disks.
    pub disks: Vec<Disk>,
    /// Whether the machine we run on was started by UEFI.
    pub uefi: bool,
    /// The processor that we run on, as uname(1) names it.
    pub architecture: String,
}

impl Target {
    /// Finds out what the copy at `root` lies on; `boot_disks` are those that were named.
    ///
    /// # Errors
    /// [`PrepareError::Storage`] when the root lies on something that we do not know how to boot from.
    pub fn detect(root: &Path, boot_disks: &[PathBuf]) -> Result<Self, PrepareError> {
        detect::detect(root, boot_disks)
    }

    /// The filesystem that is mounted at `mount_point`, below the prepared root.
    #[must_use]
    pub fn at(&self, mount_point: &str) -> Option<&Filesystem> {
        let wanted = RelPath::from_absolute(mount_point.as_bytes()).ok()?;
        self.filesystems.iter().find(|filesystem| filesystem.mount_point.as_ref() == Some(&wanted))
    }

    /// Whether an id is that of a filesystem, swap area or partition of the target.
    #[must_use]
    pub fn has_id(&self, id: &str) -> bool {
        let is = |own: &Option<String>| own.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(id));
        self.filesystems.iter().any(|one| {
            is(&one.uuid)
                || is(&one.partition_uuid)
                || one.layers.iter().any(|layer| match layer {
                    Layer::Luks { uuid, .. } | Layer::Md { uuid } => uuid.eq_ignore_ascii_case(id),
                    Layer::Lvm { .. } | Layer::Partition { .. } | Layer::Disk => false,
                })
        })
    }

    /// Swap areas.
    pub fn swaps(&self) -> impl Iterator<Item = &Filesystem> {
        self.filesystems.iter().filter(|filesystem| filesystem.kind == "swap")
    }
}
