//! The initramfs of each kernel: by which tool, and what keeps it from fitting the standby.
//!
//! Why: an initramfs that was made for one machine lacks the drivers of another, and is found out when it has no disk. So
//! it is made for any hardware, once, after everything that it copies was edited. What can go wrong: a copy that has none
//! of the known tools; that is pending, by name.

use super::super::draft::Draft;
use super::super::lines::{Lines, is_comment};
use super::super::report::{Finding, Step};
use super::super::{Family, PrepareError};
use super::boot::{Installed, program};
use crate::rules::Class;

/// The versions of kernels that have both an image and modules.
pub(super) fn kernels(draft: &Draft<'_>) -> Result<Vec<String>, PrepareError> {
    let mut kernels = Vec::new();
    for version in draft.list("/lib/modules")? {
        let image = [
            format!("/boot/vmlinuz-{version}"),
            format!("/boot/vmlinux-{version}"),
            format!("/boot/Image-{version}"),
            format!("/lib/modules/{version}/vmlinuz"),
        ];
        for path in &image {
            if draft.exists(path)? {
                kernels.push(version);
                break;
            }
        }
    }
    Ok(kernels)
}

/// Plans the command, and what it reads.
pub(super) fn plan(
    family: Family,
    kernels: &[String],
    draft: &mut Draft<'_>,
    installed: &mut Installed,
) -> Result<(), PrepareError> {
    let why = "early user space for any hardware, with the standby's devices";
    if program(draft, "update-initramfs")? && draft.exists("/etc/initramfs-tools")? {
        most_modules(draft)?;
        for kernel in kernels {
            let image = format!("/boot/initrd.img-{kernel}");
            // -u refuses what is not there, and older versions' -c what is.
            let mode = if draft.exists(&image)? { "-u" } else { "-c" };
            draft.command(Step::Initramfs, &["update-initramfs", mode, "-k", kernel], why);
            installed.initramfs.push(image);
        }
    } else if program(draft, "dracut")? {
        draft.command(Step::Initramfs, &["dracut", "--regenerate-all", "--force", "--no-hostonly"], why);
        let prefix = if family == Family::Suse { "initrd-" } else { "initramfs-" };
        let suffix = if family == Family::Suse { "" } else { ".img" };
        installed.initramfs.extend(kernels.iter().map(|kernel| format!("/boot/{prefix}{kernel}{suffix}")));
    } else if program(draft, "mkinitcpio")? {
        without_autodetect(draft)?;
        draft.command(Step::Initramfs, &["mkinitcpio", "-P"], why);
    } else {
        draft.find(Finding::pending(
            "the copy has none of update-initramfs, dracut and mkinitcpio: make its initramfs by other means, or its \
             kernel will look for production's devices",
        ));
    }
    Ok(())
}

/// Has initramfs-tools take every driver, not those of the machine that we run on.
fn most_modules(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let own = "zz-clonetool";
    let mut files = vec!["/etc/initramfs-tools/initramfs.conf".to_owned()];
    for name in draft.list("/etc/initramfs-tools/conf.d")? {
        if name != own {
            files.push(format!("/etc/initramfs-tools/conf.d/{name}"));
        }
    }
    let mut modules = "most".to_owned();
    for path in files {
        for line in draft.text(&path)?.unwrap_or_default().lines() {
            if let Some(value) = line.trim().strip_prefix("MODULES=") {
                modules = value.trim_matches(['"', '\'']).to_owned();
            }
        }
    }
    if modules != "most" {
        draft.write(
            &format!("/etc/initramfs-tools/conf.d/{own}"),
            "MODULES=most\n",
            Class::A,
            "the initramfs fits any hardware; what production chose fits production's",
        )?;
    }
    Ok(())
}

/// Takes `autodetect` out of mkinitcpio's hooks: it keeps the drivers of the machine that we run on and no others.
fn without_autodetect(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let mut files = vec!["/etc/mkinitcpio.conf".to_owned()];
    for name in draft.list("/etc/mkinitcpio.conf.d")? {
        files.push(format!("/etc/mkinitcpio.conf.d/{name}"));
    }
    for path in files {
        let Some(content) = draft.read(&path)? else { continue };
        let mut lines = Lines::of(&content);
        lines.edit(|line| {
            let text = String::from_utf8_lossy(line).into_owned();
            if is_comment(line, b'#')
                || !text.trim_start().starts_with("HOOKS=")
                || !text.contains("autodetect")
            {
                return Some(line.to_vec());
            }
            let text =
                text.replace(" autodetect", "").replace("(autodetect ", "(").replace("\"autodetect ", "\"");
            Some(text.into_bytes())
        });
        draft.write(&path, lines.to_bytes(), Class::A, "the initramfs fits any hardware")?;
    }
    Ok(())
}
