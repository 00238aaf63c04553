//! A kernel upgrade on production, and the daily sync that brings it to the prepared standby.
//!
//! Production installs another kernel of its distribution and removes the one that the standby was made with. What can
//! go wrong: no boot is due until somebody needs the standby, and only then would it show that the new kernel has no
//! initramfs, or that the menu names the old one; so it is booted here, also after a power cut.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::mount;
use crate::common::plant::write;
use crate::common::run;
use crate::image::{Base, DiskCopy};
use crate::production;
use crate::rescue::{Job, Rescue, facts};
use crate::standby::{ROOT, Standby};
use crate::vm::Firmware;

const SYNC: &str = include_str!("guest/sync.sh");

/// Production after the upgrade.
#[derive(Debug)]
pub(crate) struct Upgraded {
    root: PathBuf,
    /// The releases of its kernels.
    old: String,
    new: String,
}

/// How a sync of a case ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// As it should.
    Whole,
    /// The plug is pulled while the initramfs of the new kernel is written.
    Cut,
}

impl Upgraded {
    /// Makes a copy of `production` at `root` and upgrades it.
    pub(crate) fn make(production: &Path, root: PathBuf) -> Self {
        run("cp", ["-a".as_ref(), production.as_os_str(), root.as_os_str()]);
        let old = production::release(&root);
        copy_sources(&root);
        // What follows a kernel in a chroot finds no disk to write a menu for; it is written below.
        let menu = root.join("boot/grub/grub.cfg");
        fs::remove_file(&menu).expect("take production's menu away");
        {
            let _mounts = [Bound::of(&root, "proc"), Bound::of(&root, "dev")];
            let within = |words: &[&str]| {
                run("chroot", [root.as_os_str()].into_iter().chain(words.iter().map(OsStr::new)))
            };
            let environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"];
            within(&[&environment[..], &["apt-get", "-qq", "update"]].concat());
            let known =
                within(&["apt-cache", "search", "--names-only", "^linux-image-[0-9.-]+-cloud-amd64$"]);
            let new = newest(&known, &old);
            let install = ["apt-get", "-qq", "-y", "--no-install-recommends", "install", &new];
            within(&[&environment[..], &install].concat());
            // The package that depends on whatever is newest goes with the one it names now.
            let installed = format!("linux-image-{old}");
            let remove = ["apt-get", "-qq", "-y", "purge", &installed, "linux-image-cloud-amd64"];
            within(&[&environment[..], &remove].concat());
            within(&["apt-get", "clean"]);
        }
        let new = production::release(&root);
        assert_ne!(new, old, "production has its old kernel");
        assert!(
            !root.join("usr/lib/modules").join(&old).exists(),
            "production has the modules of its old kernel"
        );
        production::plant_menu(&root);
        Self { root, old, new }
    }

    /// Lets the rescue system sync the prepared `disk` of `standby`, which is then one with the new kernel.
    pub(crate) fn sync(&self, base: &Base, standby: &mut Standby, disk: &DiskCopy, how: Sync, dir: &Path) {
        let job = Job {
            script: SYNC,
            layout: standby.layout,
            firmware: Firmware::Bios,
            production: &self.root,
            config: &[("NEW_KERNEL", &self.new)],
        };
        let mut rescue = Rescue::start(base, &job, disk.path(), dir);
        if how == Sync::Cut {
            rescue.cut_at("initramfs");
            let root = disk.mount(ROOT);
            let made = root.path().join("boot").join(format!("initrd.img-{}", self.new));
            assert!(!made.exists(), "the initramfs was complete before the plug was pulled");
            return;
        }
        let report = rescue.finish();
        for name in ["kernel", "initramfs", "modules"] {
            assert_eq!(
                facts(&report, name),
                std::slice::from_ref(&self.new),
                "{name} after the sync; it was {}",
                self.old
            );
        }
        standby.kernel.clone_from(&self.new);
    }
}

/// A directory of this host that is mounted below a tree until this is dropped.
#[derive(Debug)]
struct Bound(PathBuf);

impl Bound {
    fn of(root: &Path, name: &str) -> Self {
        let point = root.join(name);
        let from = Path::new("/").join(name);
        run("mount", ["--bind".as_ref(), from.as_os_str(), point.as_os_str()]);
        Self(point)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        mount::unmount_below(&self.0);
    }
}

/// Lets the tree's apt know what this host's knows: newer kernels are in the suite with security updates.
fn copy_sources(root: &Path) {
    for name in ["etc/apt/sources.list", "etc/apt/sources.list.d/debian.sources", "etc/resolv.conf"] {
        let from = Path::new("/").join(name);
        if let Ok(content) = fs::read(&from) {
            write(&root.join(name), content);
        }
    }
}

/// The package of the newest kernel that apt knows, other than `old`.
fn newest(known: &str, old: &str) -> String {
    let packages = known.lines().filter_map(|line| line.split_whitespace().next());
    let numbers = |name: &str| {
        let parts = name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u64>().ok());
        parts.collect::<Vec<_>>()
    };
    // Of the series that it has: another one may need more memory than the test's machine has.
    let series = |name: &str| numbers(name).into_iter().take(2).collect::<Vec<_>>();
    let wanted = series(old);
    let mut found: Vec<_> =
        packages.filter(|name| *name != format!("linux-image-{old}") && series(name) == wanted).collect();
    found.sort_by_key(|name| numbers(name));
    found.last().unwrap_or_else(|| panic!("apt knows no kernel but {old}:\n{known}")).to_string()
}
