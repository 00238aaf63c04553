//! The trees and disks of the boot test: a Debian system, a rescue system made of it, and disks with partitions.
//!
//! The kernel of the host may know neither partitions nor vfat, so a partition is only ever mounted here by its
//! offset, and an ESP is changed with mtools; everything else happens inside the rescue system. What can go wrong: a
//! mount outlives a failed test, which [`Mounted`] prevents, and a cached tree is not what the code says, so the
//! mark beside it holds what it was made from.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::debian::{mirror, tail};
use crate::common::dir::remove_tree;
use crate::common::plant::{chmod, write};
use crate::common::{mount, run};

/// What a small server has, what a rescue system needs, and both boot loaders.
const PACKAGES: &str = "linux-image-cloud-amd64,systemd-sysv,udev,dbus,initramfs-tools,lvm2,grub-pc-bin,\
    grub-efi-amd64-bin,grub2-common,openssh-server,openssh-client,ifupdown,iproute2,cron,at,e2fsprogs,dosfstools,fdisk,\
    zstd,kmod,mount";
/// What nobody reads in a test is not copied in it either.
const LEFT_OUT: [&str; 4] = ["man", "doc", "locale", "info"];
/// The init of the rescue system.
const RESCUE: &str = include_str!("guest/rescue.sh");
const SECTOR_BYTES: u64 = 512;
const MIB: u64 = 1 << 20;

/// A Debian system as it is after its installation, and what is made of it.
#[derive(Debug)]
pub(crate) struct Base {
    /// Not to be written to.
    pub(crate) root: PathBuf,
    /// The filesystem of the rescue system: `root` and what only a rescue system has.
    pub(crate) rescue: PathBuf,
}

impl Base {
    /// Builds both in `cache`, unless they are there.
    pub(crate) fn build(cache: &Path) -> Self {
        let base = Self { root: cache.join("base"), rescue: cache.join("rescue.img") };
        let mark = cache.join("base.complete");
        let recipe = format!("{PACKAGES}\n{LEFT_OUT:?}\n{RESCUE}");
        if fs::read_to_string(&mark).is_ok_and(|made_from| made_from == recipe) {
            return base;
        }
        let _ = fs::remove_file(&mark);
        remove_tree(&base.root);
        base.install(&cache.join("base.log"));
        base.make_rescue();
        fs::write(&mark, recipe).expect("mark the cache");
        base
    }

    fn install(&self, log: &Path) {
        let (mirror, suite) = mirror();
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", "--mode=root", &format!("--include={PACKAGES}")]);
        for part in LEFT_OUT {
            command.arg(format!("--dpkgopt=path-exclude=/usr/share/{part}/*"));
        }
        let made = command
            .args([suite.as_ref(), self.root.as_os_str(), mirror.as_ref()])
            .stderr(File::create(log).expect("create the log"))
            .status()
            .expect("run mmdebstrap (package mmdebstrap)");
        let log = fs::read_to_string(log).unwrap_or_default();
        assert!(made.success(), "mmdebstrap {suite} {mirror} failed:\n{}", tail(&log));
    }

    fn make_rescue(&self) {
        // Put into the tree for as long as its image is made.
        let init = self.root.join("rescue");
        write(&init, RESCUE);
        chmod(&init, 0o755);
        for point in ["a", "job"] {
            fs::create_dir_all(self.root.join(point)).expect("make a mount point");
        }
        filesystem(&self.root, &self.rescue, "ext4", 1024 * MIB);
        fs::remove_file(init).expect("take the init out again");
        for point in ["a", "job"] {
            fs::remove_dir(self.root.join(point)).expect("take a mount point out again");
        }
    }

    /// The kernel of the tree and its initramfs.
    pub(crate) fn kernel(&self) -> (PathBuf, PathBuf) {
        (only(&self.root.join("boot"), "vmlinuz-"), only(&self.root.join("boot"), "initrd.img-"))
    }
}

/// Makes the file `image` a filesystem with the content of `tree`.
pub(crate) fn filesystem(tree: &Path, image: &Path, kind: &str, size_bytes: u64) {
    let _ = fs::remove_file(image);
    File::create(image).expect("create the image").set_len(size_bytes).expect("set its size");
    let args = ["-q".as_ref(), "-F".as_ref(), "-t".as_ref(), kind.as_ref(), "-d".as_ref()];
    run("mke2fs", args.into_iter().chain([tree.as_os_str(), image.as_os_str()]));
}

/// The only entry of `dir` whose name begins with `prefix`.
pub(crate) fn only(dir: &Path, prefix: &str) -> PathBuf {
    let listing = fs::read_dir(dir).expect("list").map(|entry| entry.expect("entry").path());
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let found: Vec<_> = listing.filter(named).collect();
    let [one] = found.as_slice() else { panic!("{prefix} in {}: {found:?}", dir.display()) };
    one.clone()
}

/// A part of a disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Partition {
    pub(crate) start_sector: u64,
    pub(crate) sectors: u64,
}

/// An empty disk of `size_mib`.
pub(crate) fn blank(path: &Path, size_mib: u64) {
    let _ = fs::remove_file(path);
    File::create(path).expect("create the disk").set_len(size_mib * MIB).expect("set its size");
}

/// A copy of a disk that a test may spoil; removed when dropped.
#[derive(Debug)]
pub(crate) struct DiskCopy(PathBuf);

impl DiskCopy {
    pub(crate) fn of(disk: &Path, to: &Path) -> Self {
        run("cp", ["--sparse=always".as_ref(), "--reflink=auto".as_ref(), disk.as_os_str(), to.as_os_str()]);
        Self(to.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Mounts the ext4 filesystem of a partition until the answer is dropped.
    pub(crate) fn mount(&self, partition: Partition) -> Mounted {
        let point = self.0.with_extension("mounted");
        fs::create_dir_all(&point).expect("make the mount point");
        let (offset, size) = (partition.start_sector * SECTOR_BYTES, partition.sectors * SECTOR_BYTES);
        let options = format!("loop,offset={offset},sizelimit={size}");
        let args = ["-t".as_ref(), "ext4".as_ref(), "-o".as_ref(), OsStr::new(&options)];
        run("mount", args.into_iter().chain([self.0.as_os_str(), point.as_os_str()]));
        Mounted(point)
    }

    /// Deletes a file on the ESP.
    pub(crate) fn delete_on_esp(&self, partition: Partition, file: &str) {
        let image = format!("{}@@{}", self.0.display(), partition.start_sector * SECTOR_BYTES);
        run("mdel", ["-i", &image, &format!("::{file}")]);
    }
}

impl Drop for DiskCopy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A mounted filesystem; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        mount::unmount_below(&self.0);
        let _ = fs::remove_dir(&self.0);
    }
}
