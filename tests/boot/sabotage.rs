//! One step of the preparation undone at a time, on a copy of a prepared disk.
//!
//! Each leaves the disk as it would be had the preparation forgotten the step: what production had is in its place.
//! What can go wrong is an undo that changes nothing; each checks that it found what it was to spoil.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::plant::write;
use crate::common::{CLONETOOL, run};
use crate::image::{DiskCopy, only};
use crate::production;
use crate::standby::{ESP, ESP_UUID, HOSTNAME, ROOT, ROOT_UUID, SWAP_UUID};

/// The loader's code in the first sector; the partition table follows it.
const LOADER_BYTES: usize = 440;

/// Zeroes the loader in the first sector.
pub(crate) fn no_loader(disk: &DiskCopy, _: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(disk.path()).expect("open the disk");
    let mut code = [0; LOADER_BYTES];
    file.read_exact_at(&mut code, 0).expect("read the first sector");
    assert_ne!(code, [0; LOADER_BYTES], "there was no loader");
    file.write_all_at(&[0; LOADER_BYTES], 0).expect("write the first sector");
}

/// Deletes the fallback loader of the ESP.
pub(crate) fn no_fallback(disk: &DiskCopy, _: &Path) {
    disk.delete_on_esp(ESP, "/EFI/BOOT/BOOTX64.EFI");
}

/// The kernel stays, the initramfs goes.
pub(crate) fn no_initramfs(disk: &DiskCopy, _: &Path) {
    let root = disk.mount(ROOT);
    fs::remove_file(only(&root.path().join("boot"), "initrd.img-")).expect("remove the initramfs");
}

/// The initramfs is the one that production's hardware needs.
pub(crate) fn stale_initramfs(disk: &DiskCopy, production: &Path) {
    let root = disk.mount(ROOT);
    let own = only(&root.path().join("boot"), "initrd.img-");
    fs::copy(only(&production.join("boot"), "initrd.img-"), own).expect("copy production's initramfs");
}

/// The menu names production's root filesystem to the kernel.
pub(crate) fn stale_menu(disk: &DiskCopy, _: &Path) {
    let root = disk.mount(ROOT);
    let old = format!("root=UUID={}", production::ROOT_UUID);
    replace(&root.path().join("boot/grub/grub.cfg"), &format!("root=UUID={ROOT_UUID}"), &old);
}

/// `/etc/fstab` names production's root filesystem.
pub(crate) fn stale_root_line(disk: &DiskCopy, _: &Path) {
    replace(&disk.mount(ROOT).path().join("etc/fstab"), ROOT_UUID, production::ROOT_UUID);
}

/// `/etc/fstab` names production's ESP.
pub(crate) fn stale_esp_line(disk: &DiskCopy, _: &Path) {
    replace(&disk.mount(ROOT).path().join("etc/fstab"), ESP_UUID, production::ESP_UUID);
}

/// `/etc/fstab` names production's swap.
pub(crate) fn stale_swap_line(disk: &DiskCopy, _: &Path) {
    replace(&disk.mount(ROOT).path().join("etc/fstab"), SWAP_UUID, production::SWAP_UUID);
}

/// `/etc/fstab` mounts the data volume that the standby does not have.
pub(crate) fn absent_volume(disk: &DiskCopy, _: &Path) {
    let root = disk.mount(ROOT);
    let path = root.path().join("etc/fstab");
    let fstab = fs::read_to_string(&path).expect("read fstab");
    let kept: Vec<_> = fstab.lines().filter(|line| !line.contains("lv_data")).collect();
    write(&path, format!("{}\n/dev/vg_data/lv_data /srv/data ext4 defaults 0 2\n", kept.join("\n")));
}

pub(crate) fn old_hostname(disk: &DiskCopy, _: &Path) {
    replace(&disk.mount(ROOT).path().join("etc/hostname"), HOSTNAME, production::HOSTNAME);
}

pub(crate) fn old_machine_id(disk: &DiskCopy, _: &Path) {
    production::plant_machine_id(disk.mount(ROOT).path());
}

/// A new machine id that the D-Bus file takes back.
pub(crate) fn emptied_machine_id(disk: &DiskCopy, _: &Path) {
    let root = disk.mount(ROOT);
    production::plant_machine_id(root.path());
    write(&root.path().join("etc/machine-id"), "");
}

pub(crate) fn old_host_keys(disk: &DiskCopy, production: &Path) {
    let root = disk.mount(ROOT);
    for key in production::host_keys(root.path()) {
        fs::remove_file(key).expect("remove a new key");
    }
    for key in production::host_keys(production) {
        let to = root.path().join("etc/ssh").join(key.file_name().expect("a name"));
        run("cp", ["-p".as_ref(), key.as_os_str(), to.as_os_str()]);
    }
}

pub(crate) fn old_network(disk: &DiskCopy, _: &Path) {
    production::plant_network(disk.mount(ROOT).path());
}

/// Every job is where production has it, and acts: what is held is released.
pub(crate) fn unheld_jobs(disk: &DiskCopy, _: &Path) {
    let root = disk.mount(ROOT);
    let arguments = ["hold", "release", "--all", "--root"].map(AsRef::as_ref);
    run(CLONETOOL, arguments.into_iter().chain([root.path().as_os_str()]));
}

/// All that tells one host from another, at once.
pub(crate) fn whole_identity(disk: &DiskCopy, production: &Path) {
    for undo in [old_hostname, old_machine_id, old_host_keys, old_network, unheld_jobs] {
        undo(disk, production);
    }
}

#[track_caller]
fn replace(path: &Path, new: &str, old: &str) {
    let text = fs::read_to_string(path).expect("read");
    assert!(text.contains(new), "{} does not name {new}:\n{text}", path.display());
    write(path, text.replace(new, old));
}
