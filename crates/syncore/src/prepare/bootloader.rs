//! The boot loader of a standby, put on its disks again after a sync changed what it is made from.
//!
//! Why: the code that the firmware starts lies outside every file that is synced, and is made from files that are: a
//! standby with an old first stage and new modules may end in GRUB's rescue prompt. So `prepare-root` writes down where
//! the boot loader is, and it is put there again in the same form. What can go wrong: a disk that was written down is
//! not there, or the EFI partition is not mounted. Then nothing is installed anywhere: a guess could overwrite what another
//! disk boots.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::inside::Inside;
use super::linux;
use super::target::Target;
use super::{Bootloader, Command, Options};

/// Where a preparation put the boot loader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Whether there is one at all; a hypervisor or the network starts the kernel otherwise.
    pub loader: bool,
    /// Whether the disks were named, and not those that the root lay on.
    pub named: bool,
    /// The disks that the firmware boots from.
    pub disks: Vec<BootDisk>,
    /// Where the EFI system partition is mounted, if there is one.
    pub esp: Option<String>,
}

/// A disk that the firmware boots from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootDisk {
    /// As the host called it that prepared the root.
    pub device: PathBuf,
    /// Its name below `/dev/disk/by-id`, which it has on every host, if udev made one.
    pub by_id: Option<PathBuf>,
}

impl Boot {
    /// What is to be remembered of `target`.
    pub(super) fn of(target: &Target, options: &Options) -> Self {
        let disks = target.disks.iter();
        Self {
            loader: options.bootloader == Bootloader::Auto,
            named: !options.boot_disks.is_empty(),
            disks: disks
                .map(|disk| BootDisk { device: disk.device.clone(), by_id: disk.by_id.clone() })
                .collect(),
            esp: linux::esp_of(target).map(str::to_owned),
        }
    }

    /// The disks that were written down, as they are called here, where the root lies on what `found` says.
    fn disks(&self, found: &Target, is_there: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>, String> {
        let below = |device: &PathBuf| found.filesystems.iter().any(|one| one.disks.contains(device));
        let mut disks = Vec::new();
        let mut missing = Vec::new();
        for disk in &self.disks {
            match &disk.by_id {
                Some(by_id) if is_there(by_id) => disks.push(by_id.clone()),
                // A name such as /dev/sda may be another disk's by now; what is mounted tells.
                None if below(&disk.device) => disks.push(disk.device.clone()),
                _ => missing.push(disk.by_id.as_ref().unwrap_or(&disk.device).display().to_string()),
            }
        }
        if missing.is_empty() {
            return Ok(disks);
        }
        // Those that the root lay on then are those that it lies on now, by whatever name.
        if !self.named && found.boot_disks.len() == self.disks.len() {
            return Ok(found.boot_disks.clone());
        }
        Err(format!(
            "the boot disk {} is not here: connect it and sync again, or prepare the root again with --boot-disk",
            missing.join(", ")
        ))
    }
}

/// The commands that put the boot loader of the root `inside` at `path` where `boot` says it is; none where something
/// else starts the kernel.
pub(super) fn commands(inside: &Inside, path: &Path, boot: Option<&Boot>) -> Result<Vec<Command>, String> {
    let Some(boot) = boot else {
        return Err(
            "where the boot loader is was never written down: prepare the root with clonetool prepare-root, \
                    or install it by hand"
                .to_owned(),
        );
    };
    if !boot.loader {
        return Ok(Vec::new());
    }
    let found = Target::detect(path, &[]).map_err(|error| error.to_string())?;
    let disks = boot.disks(&found, &Path::exists)?;
    let target = Target::detect(path, &disks).map_err(|error| error.to_string())?;
    if let Some(esp) = &boot.esp
        && linux::esp_of(&target) != Some(esp)
    {
        return Err(format!("the EFI system partition is not mounted on {esp}: mount it and sync again"));
    }
    linux::loader_commands(inside, &target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::target::Filesystem;
    use crate::tree::RelPath;

    fn lies_on(disks: &[&str]) -> Target {
        let disks: Vec<PathBuf> = disks.iter().map(PathBuf::from).collect();
        let root = Filesystem {
            mount_point: Some(RelPath::root()),
            kind: "ext4".into(),
            device: "/dev/md0".into(),
            uuid: None,
            label: None,
            partition_uuid: None,
            subvolume: None,
            layers: Vec::new(),
            disks: disks.clone(),
        };
        Target { filesystems: vec![root], boot_disks: disks, ..Target::default() }
    }

    fn boot(named: bool, disks: &[(&str, Option<&str>)]) -> Boot {
        let disk = |(device, by_id): &(&str, Option<&str>)| BootDisk {
            device: device.into(),
            by_id: by_id.map(PathBuf::from),
        };
        Boot { loader: true, named, disks: disks.iter().map(disk).collect(), esp: None }
    }

    #[test]
    fn a_disk_is_known_by_its_own_name_and_never_guessed() {
        let here = |path: &Path| path == Path::new("/dev/disk/by-id/one");
        let disks = |boot: &Boot, found: &Target| boot.disks(found, &here);
        let one = ("/dev/sda", Some("/dev/disk/by-id/one"));
        let two = ("/dev/sdb", Some("/dev/disk/by-id/two"));
        let nameless = ("/dev/vda", None);
        // By its id, whatever it is called here.
        assert_eq!(
            disks(&boot(true, &[one]), &lies_on(&["/dev/vdz"])),
            Ok(vec!["/dev/disk/by-id/one".into()])
        );
        // Without an id, only when what is mounted lies on it.
        assert_eq!(disks(&boot(true, &[nameless]), &lies_on(&["/dev/vda"])), Ok(vec!["/dev/vda".into()]));
        assert!(disks(&boot(true, &[nameless]), &lies_on(&["/dev/vdb"])).unwrap_err().contains("/dev/vda"));
        // One of a mirror is gone.
        let error = disks(&boot(false, &[one, two]), &lies_on(&["/dev/sda"])).unwrap_err();
        assert!(error.contains("/dev/disk/by-id/two is not here"), "{error}");
        // It was not named, and the root lies on as many as then: by another name.
        assert_eq!(disks(&boot(false, &[nameless]), &lies_on(&["/dev/sdc"])), Ok(vec!["/dev/sdc".into()]));
        // A named one is not replaced by the one that the root lies on.
        assert!(disks(&boot(true, &[two]), &lies_on(&["/dev/sda"])).is_err());
    }

    #[test]
    fn without_anything_written_down_nothing_is_installed() {
        let temp = tempfile::tempdir().unwrap();
        let root = crate::scan::Root::open(temp.path()).unwrap();
        let inside = Inside::new(std::sync::Arc::new(root));
        assert!(commands(&inside, temp.path(), None).unwrap_err().contains("never written down"));
        assert_eq!(commands(&inside, temp.path(), Some(&Boot::default())), Ok(Vec::new()));
        let efi = Boot { loader: true, esp: Some("/boot/efi".into()), ..Boot::default() };
        assert!(commands(&inside, temp.path(), Some(&efi)).unwrap_err().contains("not mounted on /boot/efi"));
    }
}
