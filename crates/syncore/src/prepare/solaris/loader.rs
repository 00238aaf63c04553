//! The part of finish.sh that makes the firmware find the kernel.
//!
//! Why: boot blocks are sectors, not files, and which program writes them depends on release, processor and filesystem.
//! What can go wrong: the wrong platform's block, which is why the target's own `uname -i` names it; the wrong disk,
//! which is why it is the one that the root is mounted from unless somebody named others.

use std::fmt::Write as _;

use super::super::{PrepareError, Task};
use super::finish::{Script, quoted};
use super::{Host, shown, svm};

/// How the firmware finds the kernel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum BootLoader {
    /// installboot(1M) with the platform's block for UFS.
    #[default]
    SparcUfs,
    /// The same, for ZFS.
    SparcZfs,
    /// Boot blocks of x86 before GRUB.
    X86Ufs,
    /// installgrub(1M).
    Grub,
    /// bootadm(1M) knows.
    Bootadm,
}

/// The raw device that the root is on.
const DISKS: &str = r#"
if [ -z "$DISKS" ]; then
    DISKS=`while read dev dir rest; do if [ "$dir" = "$R" ]; then echo "$dev"; fi; done </etc/mnttab | sed -n 's:^/dev/dsk/:/dev/rdsk/:p'`
fi
[ -n "$DISKS" ] || stop "no disk is known to hold $R" "name the slices that hold it: sh $P/var/lib/clonetool/finish.sh $R /dev/rdsk/c0t0d0s0"
"#;

/// The path of the root's disk on x86 with UFS.
pub(super) fn boot_path(script: &Script, text: &mut String) {
    let (true, Some(root)) = (script.boot_path, &script.root) else { return };
    let root = quoted(root);
    let _ = write!(
        text,
        "\n# The kernel finds a root on UFS by the path of its disk.\n\
         if grep '^setprop bootpath' \"$P/boot/solaris/bootenv.rc\" >/dev/null; then\n\
         \x20   :\n\
         else\n\
         \x20   path=`ls -l \"$P\"{root} | sed -n 's:^.*/devices/:/:p'`\n\
         \x20   [ -n \"$path\" ] || stop \"the path of \"{root}\" is not known\" \"add it to $P/boot/solaris/bootenv.rc: \
         setprop bootpath PATH\"\n\
         \x20   echo \"setprop bootpath '$path'\" >>\"$P/boot/solaris/bootenv.rc\"\n\
         fi\n",
    );
}

/// The boot blocks, or what is there in their place.
pub(super) fn boot_loader(
    task: &Task<'_>,
    host: &Host<'_>,
    script: &Script,
    text: &mut String,
) -> Result<(), PrepareError> {
    let hint = "without it the disk does not boot: is this machine running the release of $R, and is the slice right?";
    if script.boot_loader == BootLoader::Bootadm {
        let _ = write!(
            text,
            "\n# The boot loader, on the disks of the root's pool.\n\
             POOL=`df -k \"$R\" | sed -n '2s:[/ ].*$::p'`\n\
             [ -n \"$POOL\" ] || stop \"the pool of $R is not known\" \"mount the boot environment at $R\"\n\
             run \"{hint}\" bootadm install-bootloader -f -R \"$R\" -P \"$POOL\"\n"
        );
        return Ok(());
    }
    text.push_str("\n# The boot loader, on the slice that holds the root.\n");
    let mut disks = Vec::new();
    for disk in &task.options.boot_disks {
        disks.push(raw(&disk.to_string_lossy())?);
    }
    if !disks.is_empty() {
        let _ = writeln!(text, "DISKS=${{DISKS:-\"{}\"}}", disks.join(" "));
    }
    if host.zfs_root {
        text.push_str(
            "[ -n \"$DISKS\" ] || stop \"the disks of the root's pool are not known\" \"name their slices: sh \
             $P/var/lib/clonetool/finish.sh $R /dev/rdsk/c0t0d0s0\"\n",
        );
    } else {
        text.push_str(DISKS.trim_start());
    }
    let platform = "$P/usr/platform/$PLATFORM/lib/fs";
    let (block, command) = match script.boot_loader {
        BootLoader::SparcUfs => {
            (format!("{platform}/ufs/bootblk"), format!("installboot \"{platform}/ufs/bootblk\" \"$d\""))
        }
        BootLoader::SparcZfs => (
            format!("{platform}/zfs/bootblk"),
            format!("installboot -F zfs \"{platform}/zfs/bootblk\" \"$d\""),
        ),
        BootLoader::X86Ufs => (
            "$P/usr/platform/i86pc/lib/fs/ufs/bootblk".to_owned(),
            "installboot \"$P/usr/platform/i86pc/lib/fs/ufs/pboot\" \
             \"$P/usr/platform/i86pc/lib/fs/ufs/bootblk\" \"$d\""
                .to_owned(),
        ),
        BootLoader::Grub | BootLoader::Bootadm => (
            "$P/boot/grub/stage2".to_owned(),
            "installgrub -f \"$P/boot/grub/stage1\" \"$P/boot/grub/stage2\" \"$d\"".to_owned(),
        ),
    };
    if host.sparc {
        text.push_str("PLATFORM=`uname -i`\n");
    }
    if script.boot_loader == BootLoader::X86Ufs {
        text.push_str("DISKS=`for d in $DISKS; do echo \"$d\" | sed 's:s[0-9]*$:s2:'; done`\n");
    }
    let _ = write!(
        text,
        "[ -f \"{block}\" ] || stop \"{block} is not there\" \"mount /usr of the prepared root below $R; if it is, \
         the root has no support for this machine\"\n\
         for d in $DISKS; do\n\
         \x20   run \"{hint}\" {command}\n\
         done\n"
    );
    Ok(())
}

/// The raw device of a boot disk as it was said: `c0t0d0s0`, `/dev/dsk/c0t0d0s0`, `/dev/rdsk/c0t0d0s0`.
fn raw(disk: &str) -> Result<String, PrepareError> {
    let slice = disk.strip_prefix("/dev/").map_or(disk, |rest| {
        rest.strip_prefix("rdsk/").or_else(|| rest.strip_prefix("dsk/")).unwrap_or(disk)
    });
    if svm::is_slice(slice) {
        return Ok(format!("/dev/rdsk/{slice}"));
    }
    Err(PrepareError::Option(format!(
        "--boot-disk {}: a slice as the target names it is needed, such as c0t0d0s0",
        shown(disk.as_bytes())
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_disk_is_a_slice() {
        for said in ["c0t0d0s0", "/dev/dsk/c0t0d0s0", "/dev/rdsk/c0t0d0s0"] {
            assert_eq!(raw(said).unwrap(), "/dev/rdsk/c0t0d0s0");
        }
        for said in ["/dev/sda", "c0t0d0", "c0t0d0s0; reboot", "/dev/dsk/../sda"] {
            assert!(raw(said).is_err(), "{said}");
        }
    }
}
