//! Production: a tree with an identity of its own, and with every kind of job that must not run on a standby.
//!
//! Each job would write a marker if it ever ran. What can go wrong is that a job could not run anyway, and its
//! silence proves nothing; so the tests also boot a standby on which the jobs were put back.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::common::plant::{chmod, write};
use crate::common::run;
use crate::image::Base;
use crate::standby::fingerprint;

pub(crate) const HOSTNAME: &str = "production";
pub(crate) const ADDRESS: &str = "10.0.2.77";
pub(crate) const MACHINE_ID: &str = "11111111111111111111111111111111";
pub(crate) const ROOT_UUID: &str = "11111111-aaaa-4aaa-8aaa-111111111111";
pub(crate) const SWAP_UUID: &str = "11111111-bbbb-4bbb-8bbb-111111111111";
pub(crate) const ESP_UUID: &str = "1111-CCCC";

/// Where the jobs are.
pub(crate) const JOBS: [&str; 11] = [
    "/etc/cron.d/production",
    "/var/spool/cron/crontabs/root",
    AT_JOB,
    "/etc/systemd/system/production-job.timer",
    "/etc/systemd/system/timers.target.wants/production-job.timer",
    "/etc/systemd/system/production-app.service",
    "/etc/systemd/system/multi-user.target.wants/production-app.service",
    "/etc/init.d/production-rc",
    "/etc/rc2.d/S01production-rc",
    "/var/spool/mqueue/qfproduction",
    "/var/spool/postfix/deferred/production",
];
/// Queue `a`, the first job, due long ago: the daemon runs it as soon as it starts.
const AT_JOB: &str = "/var/spool/cron/atjobs/a00001010f8a00";
/// The marks that the jobs leave; the mail is counted by the proof.
pub(crate) const MARKERS: [&str; 7] = ["cron.d", "crontab", "at", "timer", "unit", "rc", "mail"];

/// Makes production out of `base` at `root`.
pub(crate) fn plant(base: &Base, root: &Path) {
    run("cp", ["-a".as_ref(), base.root.as_os_str(), root.as_os_str()]);
    plant_identity(root);
    plant_devices(root);
    plant_network(root);
    plant_jobs(root);
    plant_initramfs(root);
}

/// Names, ids and keys.
fn plant_identity(root: &Path) {
    write(&root.join("etc/hostname"), format!("{HOSTNAME}\n"));
    let hosts = format!("127.0.0.1\tlocalhost\n{ADDRESS}\t{HOSTNAME}.example.org {HOSTNAME}\n");
    write(&root.join("etc/hosts"), hosts);
    plant_machine_id(root);
    let _ = fs::create_dir_all(root.join("etc/ssh"));
    for key in host_keys(root) {
        fs::remove_file(key).expect("remove a key of the installation");
    }
    run("ssh-keygen", ["-q".as_ref(), "-A".as_ref(), "-f".as_ref(), root.as_os_str()]);
}

/// Both places of the machine id, neither a link: the D-Bus one would bring the other one back.
pub(crate) fn plant_machine_id(root: &Path) {
    for file in ["etc/machine-id", "var/lib/dbus/machine-id"] {
        let path = root.join(file);
        let _ = fs::remove_file(&path);
        write(&path, format!("{MACHINE_ID}\n"));
    }
}

/// The files of the host keys below `root`, private and public.
pub(crate) fn host_keys(root: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(root.join("etc/ssh")).expect("list").map(|entry| entry.expect("entry").path());
    let is_key =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_"));
    listing.filter(is_key).collect()
}

/// The fingerprints of its host keys.
pub(crate) fn fingerprints(root: &Path) -> BTreeSet<String> {
    let public = host_keys(root).into_iter().filter(|path| path.extension().is_some_and(|end| end == "pub"));
    let listed = public.map(|key| run("ssh-keygen", ["-l".as_ref(), "-f".as_ref(), key.as_os_str()]));
    listed.map(|line| fingerprint(&line)).collect()
}

/// `/etc/fstab` with a volume and a filesystem that the standby does not have, and what was made of it.
fn plant_devices(root: &Path) {
    let fstab = format!(
        "# <file system> <mount point> <type> <options> <dump> <pass>\n\
         UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n\
         UUID={ESP_UUID} /boot/efi vfat umask=0077 0 1\n\
         UUID={SWAP_UUID} none swap sw 0 0\n\
         /dev/vg_data/lv_data /srv/data ext4 defaults 0 2\n\
         UUID=11111111-dddd-4ddd-8ddd-111111111111 /srv/archive ext4 defaults 0 2\n"
    );
    write(&root.join("etc/fstab"), fstab);
    for point in ["boot/efi", "srv/data", "srv/archive"] {
        fs::create_dir_all(root.join(point)).expect("make a mount point");
    }
    // A headless machine: everything is said on the serial line, and who fails starts again.
    let grub = "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_DISTRIBUTOR=Debian\nGRUB_CMDLINE_LINUX_DEFAULT=\"\"\n\
                GRUB_CMDLINE_LINUX=\"console=ttyS0,115200 systemd.show_status=1 panic=1\"\nGRUB_TERMINAL=serial\n\
                GRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"\n";
    write(&root.join("etc/default/grub"), grub);
    plant_menu(root);
}

/// The boot menu of production's kernel.
pub(crate) fn plant_menu(root: &Path) {
    let release = release(root);
    let menu = format!(
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\nset timeout=1\n\
         search --no-floppy --fs-uuid --set=root {ROOT_UUID}\nmenuentry 'Debian GNU/Linux' {{\n\
         \tlinux /boot/vmlinuz-{release} root=UUID={ROOT_UUID} ro console=ttyS0,115200 panic=1\n\
         \tinitrd /boot/initrd.img-{release}\n}}\n"
    );
    write(&root.join("boot/grub/grub.cfg"), menu);
}

/// The kernel's release.
pub(crate) fn release(root: &Path) -> String {
    let kernel = crate::image::only(&root.join("boot"), "vmlinuz-");
    let name = kernel.file_name().expect("a name").to_string_lossy().into_owned();
    name.trim_start_matches("vmlinuz-").to_owned()
}

/// A fixed address, on the interface that the standby has too.
pub(crate) fn plant_network(root: &Path) {
    let interfaces = format!(
        "auto lo\niface lo inet loopback\n\nauto ens3\niface ens3 inet static\n    address {ADDRESS}/24\n    \
         gateway 10.0.2.2\n"
    );
    write(&root.join("etc/network/interfaces"), interfaces);
}

/// Puts every job in its place, and the marker that each of them would leave.
fn plant_jobs(root: &Path) {
    let file = |name: &str, mode: u32, content: &str| {
        let path = root.join(name.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        write(&path, content);
        chmod(&path, mode);
        path
    };
    let link = |target: &str, name: &str| {
        let path = root.join(name.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        let _ = fs::remove_file(&path);
        symlink(target, path).expect("symlink");
    };
    file("/usr/local/sbin/marker", 0o755, "#!/bin/sh\necho \"$1\" >>/var/marker\n");
    file(JOBS[0], 0o644, "* * * * * root /usr/local/sbin/marker cron.d\n");
    let crontab = file(JOBS[1], 0o600, "* * * * * /usr/local/sbin/marker crontab\n");
    let group = |path: &Path| fs::metadata(path.parent().expect("a parent")).expect("metadata").gid();
    chown(&crontab, Some(0), Some(group(&crontab))).expect("chown");
    let at = "#!/bin/sh\n# atrun uid=0 gid=0\n# mail root 0\numask 22\n/usr/local/sbin/marker at\n";
    file(AT_JOB, 0o700, at);
    let unit = |mark: &str, more: &str| {
        format!(
            "[Unit]\nDescription={mark} of production\n\n{more}\nExecStart=/usr/local/sbin/marker {mark}\n"
        )
    };
    file(JOBS[3], 0o644, "[Timer]\nOnBootSec=5\nAccuracySec=1\n\n[Install]\nWantedBy=timers.target\n");
    file("/etc/systemd/system/production-job.service", 0o644, &unit("timer", "[Service]\nType=oneshot"));
    link("../production-job.timer", JOBS[4]);
    let wanted = "[Install]\nWantedBy=multi-user.target\n\n[Service]\nType=oneshot";
    file(JOBS[5], 0o644, &unit("unit", wanted));
    link("../production-app.service", JOBS[6]);
    let header = "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: production-rc\n# Required-Start: $remote_fs\n\
                  # Required-Stop:\n# Default-Start: 2 3 4 5\n# Default-Stop:\n### END INIT INFO\n";
    file(JOBS[7], 0o755, &format!("{header}[ \"$1\" != start ] || /usr/local/sbin/marker rc\n"));
    for level in 2..=5 {
        link("../init.d/production-rc", &format!("/etc/rc{level}.d/S01production-rc"));
    }
    for queued in &JOBS[9..] {
        file(queued, 0o600, "a message that production has not sent yet\n");
    }
}

/// An initramfs for production's own disks, with the policy that made it: it knows no SCSI.
fn plant_initramfs(root: &Path) {
    write(&root.join("etc/initramfs-tools/conf.d/resume"), format!("RESUME=UUID={SWAP_UUID}\n"));
    write(&root.join("etc/initramfs-tools/conf.d/modules"), "MODULES=list\n");
    // Packing well takes longer than the rest of a boot without acceleration.
    write(&root.join("etc/initramfs-tools/conf.d/compression"), "COMPRESS=zstd\nCOMPRESSLEVEL=1\n");
    write(&root.join("etc/initramfs-tools/modules"), "virtio_pci\nvirtio_blk\next4\n");
    let args = [root.as_os_str(), OsStr::new("update-initramfs"), OsStr::new("-u")];
    run("chroot", args);
}
