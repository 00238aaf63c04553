//! `prepare-root` on a real Debian root on a filesystem of its own: real blkid, real chroot, real update-initramfs.
//!
//! What no partition table is needed for: this kernel may scan none. Boots are tested elsewhere.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::{Output, Workdir, clonetool, debian, lacks, run};

const OLD_ROOT: &str = "11111111-2222-3333-4444-555555555555";
const OLD_SWAP: &str = "99999999-2222-3333-4444-555555555555";
/// `update-grub` passes over a root on a loop device of one digit, and writes a menu without entries.
const LOOPS: std::ops::Range<u32> = 40..120;

/// A loop device with a file behind it; detached in the end.
struct Loop(PathBuf);

impl Loop {
    fn of(image: &Path) -> Self {
        for number in LOOPS {
            let device = PathBuf::from(format!("/dev/loop{number}"));
            if !device.exists() {
                let made = Command::new("mknod").arg(&device).args(["b", "7", &number.to_string()]).status();
                assert!(made.expect("run mknod").success());
            }
            let attached = Command::new("losetup").arg(&device).arg(image).output().expect("run losetup");
            if attached.status.success() {
                return Self(device);
            }
        }
        panic!("no loop device is free");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A mount of it may still be there; then it goes with the mount.
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// A Debian root as a clone of production leaves it, mounted from an image.
struct Standby {
    root: PathBuf,
    uuid: String,
    // In this order: unmounted, then detached.
    _workdir: Workdir,
    _device: Loop,
}

impl Standby {
    /// An empty filesystem.
    fn empty(name: &str) -> Self {
        let workdir = Workdir::new(name);
        let (image, root) = (workdir.join("image"), workdir.make("a"));
        File::create(&image).unwrap().set_len(2 << 30).unwrap();
        run("mkfs.ext4", ["-q", image.to_str().unwrap()]);
        let device = Loop::of(&image);
        run("mount", [device.0.as_path(), &root]);
        let uuid =
            Command::new("blkid").args(["-p", "-s", "UUID", "-o", "value"]).arg(&device.0).output().unwrap();
        let uuid = String::from_utf8(uuid.stdout).unwrap().trim().to_owned();
        assert_eq!(uuid.len(), 36);
        Self { root, uuid, _workdir: workdir, _device: device }
    }

    /// A Debian root as production has it.
    fn new(name: &str) -> Self {
        let standby = Self::empty(name);
        debian::copy_bootable_to(&standby.root);
        // As if it had never had any: what becomes of them is another test's.
        for name in fs::read_dir(standby.root.join("etc/ssh")).unwrap().map(|entry| entry.unwrap().path()) {
            if name.file_name().unwrap().to_str().unwrap().starts_with("ssh_host_") {
                fs::remove_file(name).unwrap();
            }
        }
        let _ = fs::remove_file(standby.root.join("etc/machine-id"));
        standby.put("etc/hostname", "prod\n");
        standby.put("etc/hosts", "127.0.0.1 localhost\n10.0.0.5 prod\n");
        standby.put(
            "etc/fstab",
            &format!(
                "# / was on /dev/sda1 during installation\n\
                 UUID={OLD_ROOT} / ext4 errors=remount-ro 0 1\n\
                 UUID={OLD_SWAP} none swap sw 0 0\n\
                 /dev/mapper/data-db /srv/db xfs defaults,x-systemd.automount 0 2\n"
            ),
        );
        standby.put("etc/initramfs-tools/conf.d/resume", &format!("RESUME=UUID={OLD_SWAP}\n"));
        standby.put("etc/default/grub", &format!("GRUB_CMDLINE_LINUX=\"resume=UUID={OLD_SWAP} quiet\"\n"));
        standby.put("boot/grub/grub.cfg", &format!("linux /vmlinuz root=UUID={OLD_ROOT} ro\n"));
        standby
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    fn prepare(&self, arguments: &[&str]) -> Output {
        let head = ["prepare-root", self.root.to_str().unwrap(), "--hostname", "standby1", "--json"];
        clonetool(head.iter().chain(arguments))
    }

    /// What is mounted below the root.
    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let below = points.filter(|point| Path::new(point).starts_with(&self.root) && **point != *self.root);
        below.map(str::to_owned).collect()
    }
}

fn cannot_run(test: &str) -> bool {
    lacks(test, &["debootstrap", "mkfs.ext4", "losetup", "blkid"])
}

fn findings(output: &Output, weight: &str) -> Vec<String> {
    let is = |event: &&Value| event["type"] == "finding" && event["weight"] == weight;
    let text = |event: &Value| format!("{} {}", event["path"].as_str().unwrap_or_default(), event["message"]);
    output.objects().iter().filter(is).map(text).collect()
}

#[test]
fn a_debian_copy_gets_its_own_initramfs_and_menu_in_a_chroot() {
    if cannot_run("a_debian_copy_gets_its_own_initramfs_and_menu_in_a_chroot") {
        return;
    }
    let standby = Standby::new("prepare");
    let dry = standby.prepare(&["--bootloader", "none", "--dry-run"]).expect_code(0);
    assert!(dry.stdout.contains("update-initramfs"));
    assert!(standby.text("etc/fstab").contains(OLD_ROOT), "a dry run changed something");
    let boot = standby.root.join("boot");
    let image = fs::read_dir(&boot).unwrap().map(|entry| entry.unwrap().path());
    let image = image.into_iter().find(|path| path.to_string_lossy().contains("initrd.img-")).unwrap();
    let before = fs::metadata(&image).unwrap().modified().unwrap();

    let output = standby.prepare(&["--bootloader", "none"]).expect_code(0);
    assert_eq!(output.summary()["outcome"], "ready", "{}", output.describe());
    let fstab = standby.text("etc/fstab");
    assert!(fstab.contains(&format!("\nUUID={} / ext4 errors=remount-ro 0 1\n", standby.uuid)), "{fstab}");
    assert!(fstab.contains("noauto,x-clonetool.held") && !fstab.contains(OLD_SWAP), "{fstab}");
    assert_eq!(standby.text("etc/initramfs-tools/conf.d/resume"), "RESUME=none\n");
    assert!(fs::metadata(&image).unwrap().modified().unwrap() > before, "the initramfs is the old one");
    let menu = standby.text("boot/grub/grub.cfg");
    let root = format!("root=UUID={}", standby.uuid);
    assert!(menu.lines().any(|line| line.trim().starts_with("linux") && line.contains(&root)), "{menu}");
    assert!(!menu.contains(OLD_ROOT));
    // LVM itself says what it will activate.
    let lvm = ["lvmconfig", "activation/auto_activation_volume_list"];
    run("mount", ["--bind", "/proc", standby.root.join("proc").to_str().unwrap()]);
    let lvm = Command::new("chroot").arg(&standby.root).args(lvm).output().unwrap();
    run("umount", [standby.root.join("proc")]);
    let said = String::from_utf8(lvm.stdout).unwrap();
    assert_eq!(said.trim(), "auto_activation_volume_list=[]");
    assert_eq!(standby.mounts(), Vec::<String>::new());
    assert!(!standby.root.join("usr/sbin/policy-rc.d").exists());

    // Once more: nothing is left to be edited.
    standby.prepare(&["--bootloader", "none"]).expect_code(3);
    let again = standby.prepare(&["--bootloader", "none", "--again", "--dry-run"]).expect_code(0);
    assert_eq!(again.summary()["edits"], 0, "{}", again.describe());
}

#[test]
fn a_copy_on_a_disk_without_room_for_a_boot_loader_fails() {
    if cannot_run("a_copy_on_a_disk_without_room_for_a_boot_loader_fails") {
        return;
    }
    let standby = Standby::new("prepare-loader");
    // This one is read through the copy's own gzip.
    standby.put("etc/initramfs-tools/conf.d/compress", "COMPRESS=gzip\n");
    // What only one place knows, and no planner.
    standby.put(
        "etc/initramfs-tools/hooks/plant",
        &format!("#!/bin/sh\n[ \"$1\" = prereqs ] && exit 0\necho {OLD_ROOT} >$DESTDIR/planted\n"),
    );
    run("chmod", ["755", standby.root.join("etc/initramfs-tools/hooks/plant").to_str().unwrap()]);
    let output = standby.prepare(&[]).expect_code(1);
    let failures = findings(&output, "failure");
    let has = |text: &str| failures.iter().any(|failure| failure.contains(text));
    assert!(has("no boot loader can be installed") && has("has no partition table"), "{failures:?}");
    assert!(has("planted in it still has production's UUID"), "{failures:?}");
    assert!(has("/etc/initramfs-tools/hooks/plant"), "{failures:?}");
    assert_eq!(standby.mounts(), Vec::<String>::new());
}

#[test]
fn a_copy_that_is_mounted_in_part_is_refused_and_not_touched() {
    if cannot_run("a_copy_that_is_mounted_in_part_is_refused_and_not_touched") {
        return;
    }
    let standby = Standby::empty("prepare-part");
    standby.put("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian\"\n");
    standby.put("etc/fstab", "UUID=1 / ext4 defaults 0 1\nUUID=2 /boot ext4 defaults 0 2\n");
    standby.prepare(&[]).expect_code(3).expect_stderr("/boot");
    assert!(!standby.root.join("var/lib/clonetool").exists());
    assert_eq!(standby.text("etc/fstab"), "UUID=1 / ext4 defaults 0 1\nUUID=2 /boot ext4 defaults 0 2\n");
}

#[test]
fn a_subvolume_and_a_boot_filesystem_of_their_own_are_found() {
    let test = "a_subvolume_and_a_boot_filesystem_of_their_own_are_found";
    if lacks(test, &["mkfs.btrfs", "btrfs", "mkfs.ext4", "losetup", "blkid"]) {
        return;
    }
    // Dropped last: by then nothing is mounted any more.
    let devices: Vec<Loop>;
    let workdir = Workdir::new("prepare-layers");
    let [images, root] = ["images", "a"].map(|name| workdir.make(name));
    let image = |name: &str, size_bytes: u64| {
        let image = images.join(name);
        File::create(&image).unwrap().set_len(size_bytes).unwrap();
        image
    };
    let (system, boot) = (image("system", 256 << 20), image("boot", 64 << 20));
    run("mkfs.btrfs", ["-q", system.to_str().unwrap()]);
    run("mkfs.ext4", ["-q", "-L", "boot of it", boot.to_str().unwrap()]);
    devices = vec![Loop::of(&system), Loop::of(&boot)];
    let (system, boot) = (devices[0].0.as_path(), devices[1].0.as_path());
    run("mount", [system, &root]);
    run("btrfs", ["-q", "subvolume", "create", root.join("@root").to_str().unwrap()]);
    run("umount", [&root]);
    run("mount", ["-o".as_ref(), "subvol=@root".as_ref(), system.as_os_str(), root.as_os_str()]);
    fs::create_dir_all(root.join("boot")).unwrap();
    run("mount", [boot, &root.join("boot")]);
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/os-release"), "ID=sles\nID_LIKE=suse\n").unwrap();
    let fstab = "UUID=1 / btrfs subvol=/@/.snapshots/1/snapshot,noatime 0 0\n\
                 LABEL=boot\\040of\\040it /boot ext4 ro 0 2\n";
    fs::write(root.join("etc/fstab"), fstab).unwrap();
    let arguments = ["prepare-root", root.to_str().unwrap(), "--hostname", "standby1", "--json", "--dry-run"];
    let output = clonetool(arguments).expect_code(0);
    let edits = output.objects();
    let edit = edits.iter().find(|event| event["path"] == "/etc/fstab").unwrap();
    let diff = edit["diff"].as_str().unwrap();
    let uuid = Command::new("blkid").args(["-p", "-s", "UUID", "-o", "value"]).arg(system).output().unwrap();
    let uuid = String::from_utf8(uuid.stdout).unwrap();
    assert!(diff.contains(&format!("+UUID={} / btrfs noatime,subvol=/@root 0 0\n", uuid.trim())), "{diff}");
    assert!(diff.contains("\n LABEL=boot"), "the label is right, and was changed: {diff}");
}
