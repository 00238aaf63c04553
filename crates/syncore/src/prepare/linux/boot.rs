//! The commands that make the copy boot: module dependencies, initramfs, boot loader, its configuration.
//!
//! Why: an initramfs and a boot loader hold copies of ids that were edited, and are only right when they are made
//! afterwards, once, by the copy's own tools. They are made generic: the standby's hardware is not the one that we run
//! on, or not yet. What can go wrong: a tool that is not in the copy (then it is pending, by name), a disk that has no
//! place for a boot loader, no boot loader at all: that is a failure, because such a host does not boot.

use super::super::draft::Draft;
use super::super::inside::Inside;
use super::super::report::{Finding, Step, Weight};
use super::super::target::{Table, Target};
use super::super::{Bootloader, Command, Family, Kind as SystemKind, PrepareError, System, Task};
use super::devices::esp_of;
use super::initramfs;
use crate::rules::Class;
use crate::tree::Kind;

/// Sectors that GRUB's core image needs before the first partition; its largest is about 140 KiB.
const GAP_SECTORS: u64 = 300;

/// What will be checked when the commands have run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    /// Files that have to be there.
    pub(crate) files: Vec<String>,
    /// Disks whose first sector has to hold GRUB.
    pub(crate) disks: Vec<std::path::PathBuf>,
    /// The configuration that has to have an entry with the root; none where there is no boot loader.
    pub(crate) entries: Vec<String>,
    /// The initramfs of each kernel.
    pub(crate) initramfs: Vec<String>,
}

/// Plans the commands.
pub(super) fn plan(
    task: &Task<'_>,
    family: Family,
    draft: &mut Draft<'_>,
) -> Result<Installed, PrepareError> {
    let mut installed = Installed::default();
    let kernels = initramfs::kernels(draft)?;
    if kernels.is_empty() {
        draft.find(Finding::failure("there is no kernel in /boot that has modules: install one in the copy"));
    }
    for kernel in &kernels {
        draft.command(Step::Depmod, &["depmod", "-a", kernel], "which module needs which");
    }
    initramfs::plan(family, &kernels, draft, &mut installed)?;
    if task.options.bootloader == Bootloader::Auto {
        loader(task.target, family, draft, &mut installed)?;
    } else {
        draft.find(Finding::note(
            "no boot loader was asked for: a hypervisor or the network has to start the kernel",
        ));
        // What is there still names production's root, and whoever reads it would too.
        configuration(draft, None)?;
    }
    Ok(installed)
}

/// Whether the copy has a program of that name.
pub(super) fn program(draft: &Draft<'_>, name: &str) -> Result<bool, PrepareError> {
    for directory in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        let entry = draft.entry(&format!("{directory}/{name}"))?;
        if entry.is_some_and(|entry| entry.kind == Kind::File && entry.mode & 0o111 != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a processor's firmware and GRUB call it: BIOS platform, EFI platform, name of the file it tries by itself.
fn platforms(architecture: &str) -> (Option<&'static str>, Option<(&'static str, &'static str)>) {
    match architecture {
        "x86_64" => (Some("i386-pc"), Some(("x86_64-efi", "BOOTX64.EFI"))),
        "i386" | "i486" | "i586" | "i686" => (Some("i386-pc"), Some(("i386-efi", "BOOTIA32.EFI"))),
        "aarch64" => (None, Some(("arm64-efi", "BOOTAA64.EFI"))),
        "riscv64" => (None, Some(("riscv64-efi", "BOOTRISCV64.EFI"))),
        _ => (None, None),
    }
}

/// The commands that put the boot loader of a root that was prepared on its disks once more, in the same form; or why
/// there is none that can be.
pub(in crate::prepare) fn loader_commands(inside: &Inside, target: &Target) -> Result<Vec<Command>, String> {
    let mut draft = Draft::new(inside);
    let planned = System::detect(&draft, None).and_then(|system| match system.kind {
        SystemKind::Linux(family) => loader(target, family, &mut draft, &mut Installed::default()),
        SystemKind::Solaris(_) => Ok(()),
    });
    planned.map_err(|error| error.to_string())?;
    if let Some(failure) = draft.findings.iter().find(|finding| finding.weight == Weight::Failure) {
        return Err(failure.message.clone());
    }
    let mut commands = std::mem::take(&mut draft.commands);
    commands.retain(|command| matches!(command.step, Step::Bootloader | Step::FallbackPath));
    commands.sort_by_key(|command| command.step);
    Ok(commands)
}

fn loader(
    target: &Target,
    family: Family,
    draft: &mut Draft<'_>,
    installed: &mut Installed,
) -> Result<(), PrepareError> {
    let esp = esp_of(target);
    let (bios, efi) = platforms(&target.architecture);
    let mut obstacles: Vec<String> = Vec::new();
    let mut planned = false;
    if let Some(esp) = esp
        && systemd_boot(esp, draft)?
    {
        draft.command(
            Step::Bootloader,
            &["bootctl", "--no-variables", "install"],
            "systemd-boot, also where firmware looks without being told",
        );
        if let Some((_, name)) = efi {
            installed.files.push(format!("{esp}/EFI/BOOT/{name}"));
        }
        planned = true;
        // Its entries were rewritten as files.
        installed.entries.extend(super::entries::directories(draft)?);
    }
    let grub = ["grub-install", "grub2-install"];
    let mut install = None;
    for name in grub {
        if install.is_none() && program(draft, name)? {
            install = Some(name);
        }
    }
    let mut grub_planned = false;
    match (bios, install) {
        (Some(platform), Some(install)) if modules(draft, platform)? => {
            for disk in &target.disks {
                let name = disk.device.display().to_string();
                match disk.table {
                    Some(Table::Gpt { bios_boot: true }) => {}
                    Some(Table::Mbr { gap_sectors }) if gap_sectors >= GAP_SECTORS => {}
                    Some(Table::Gpt { .. }) => {
                        obstacles.push(format!("{name} has no BIOS boot partition"));
                        continue;
                    }
                    Some(Table::Mbr { gap_sectors }) => {
                        obstacles.push(format!(
                            "{name} has only {gap_sectors} sectors before its first partition"
                        ));
                        continue;
                    }
                    None => {
                        obstacles.push(format!("{name} has no partition table"));
                        continue;
                    }
                }
                let platform = format!("--target={platform}");
                draft.command(Step::Bootloader, &[install, &platform, &name], "GRUB for BIOS");
                installed.disks.push(disk.device.clone());
                grub_planned = true;
            }
            if target.disks.is_empty() {
                obstacles.push("there is no disk to install it on: name one with --boot-disk".to_owned());
            }
        }
        (Some(platform), _) => obstacles.push(format!("the copy has no GRUB for BIOS ({platform})")),
        (None, _) => {}
    }
    match (efi, esp) {
        (Some((platform, name)), Some(esp)) => {
            let signed = matches!(family, Family::RedHat | Family::Suse) && signed(esp, name, draft)?;
            if signed {
                installed.files.push(format!("{esp}/EFI/BOOT/{name}"));
                grub_planned = true;
            } else if let Some(install) =
                install.filter(|_| matches!(family, Family::Debian | Family::Arch | Family::Suse))
                && modules(draft, platform)?
            {
                let (platform, directory) =
                    (format!("--target={platform}"), format!("--efi-directory={esp}"));
                let own = [install, &platform, &directory, "--no-nvram"];
                draft.command(Step::Bootloader, &own, "GRUB for UEFI");
                let fallback = [install, &platform, &directory, "--no-nvram", "--removable"];
                draft.command(Step::FallbackPath, &fallback, "where firmware looks without being told");
                installed.files.push(format!("{esp}/EFI/BOOT/{name}"));
                grub_planned = true;
            } else if !planned {
                obstacles.push(format!("the copy has no boot loader for UEFI ({platform})"));
            }
        }
        (Some(_), None) => obstacles.push("no EFI system partition is mounted below the root".to_owned()),
        (None, _) => {}
    }
    if grub_planned {
        configuration(draft, Some(installed))?;
        installed.entries.extend(super::entries::directories(draft)?);
    }
    if grub_planned || planned {
        for obstacle in obstacles {
            draft.find(Finding::note(format!("one way to boot is not there: {obstacle}")));
        }
    } else {
        let why = if obstacles.is_empty() {
            format!("none is known for {}", target.architecture)
        } else {
            obstacles.join("; ")
        };
        draft.find(Finding::failure(format!(
            "no boot loader can be installed: {why}; if something else starts the kernel, say --bootloader none"
        )));
    }
    Ok(())
}

/// Whether GRUB's modules for a platform are in the copy.
fn modules(draft: &Draft<'_>, platform: &str) -> Result<bool, PrepareError> {
    for directory in ["/usr/lib/grub", "/usr/share/grub2", "/usr/lib/grub2"] {
        if draft.exists(&format!("{directory}/{platform}/modinfo.sh"))?
            || draft.exists(&format!("{directory}/{platform}/moddep.lst"))?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn systemd_boot(esp: &str, draft: &Draft<'_>) -> Result<bool, PrepareError> {
    Ok(program(draft, "bootctl")?
        && draft.exists(&format!("{esp}/loader/loader.conf"))?
        && !draft.list(&format!("{esp}/EFI/systemd"))?.is_empty())
}

/// Copies the distribution's signed boot loader to where firmware looks without being told. `grub2-install` would put an
/// unsigned one in its place, which Secure Boot refuses.
fn signed(esp: &str, name: &str, draft: &mut Draft<'_>) -> Result<bool, PrepareError> {
    let suffix = name.trim_start_matches("BOOT").trim_end_matches(".EFI").to_ascii_lowercase();
    for vendor in draft.list(&format!("{esp}/EFI"))? {
        if vendor.eq_ignore_ascii_case("boot") {
            continue;
        }
        let directory = format!("{esp}/EFI/{vendor}");
        let files = draft.list(&directory)?;
        let find = |wanted: &[String]| {
            wanted
                .iter()
                .find_map(|wanted| files.iter().find(|file| file.eq_ignore_ascii_case(wanted)).cloned())
        };
        let Some(shim) = find(&[format!("shim{suffix}.efi"), "shim.efi".to_owned()]) else { continue };
        let Some(grub) = find(&[format!("grub{suffix}.efi"), "grub.efi".to_owned()]) else { continue };
        let fallback = format!("{esp}/EFI/BOOT");
        draft.command(
            Step::FallbackPath,
            &["mkdir", "-p", &fallback],
            "where firmware looks without being told",
        );
        let mut copies = vec![(shim, name.to_owned()), (grub.clone(), grub)];
        copies.extend(
            find(&[format!("mm{suffix}.efi"), "MokManager.efi".to_owned()]).map(|file| (file.clone(), file)),
        );
        // SUSE's GRUB reads the configuration beside itself.
        copies.extend(find(&["grub.cfg".to_owned()]).map(|file| (file.clone(), file)));
        for (from, to) in copies {
            let (from, to) = (format!("{directory}/{from}"), format!("{fallback}/{to}"));
            draft.command(
                Step::FallbackPath,
                &["cp", "--no-preserve=all", &from, &to],
                "the signed boot loader",
            );
        }
        // It writes entries into the firmware's memory and resets, for ever where that memory does not last.
        for file in draft.list(&fallback)? {
            if file.to_ascii_lowercase().starts_with("fb") {
                draft.command(
                    Step::FallbackPath,
                    &["rm", "-f", &format!("{fallback}/{file}")],
                    "it resets the machine",
                );
            }
        }
        return Ok(true);
    }
    Ok(false)
}

/// Has GRUB's configuration made anew, where there is one.
fn configuration(draft: &mut Draft<'_>, mut installed: Option<&mut Installed>) -> Result<(), PrepareError> {
    let why = "the boot menu, with the standby's root";
    let mut found = false;
    for (directory, tool) in [("/boot/grub2", "grub2-mkconfig"), ("/boot/grub", "grub-mkconfig")] {
        let there = draft.exists(directory)?;
        if !program(draft, tool)?
            || !there && found
            || installed.is_none() && !draft.exists(&format!("{directory}/grub.cfg"))?
        {
            continue;
        }
        let path = format!("{directory}/grub.cfg");
        draft.command(Step::BootConfiguration, &[tool, "-o", &path], why);
        if let Some(installed) = installed.as_deref_mut() {
            installed.entries.push(path);
        }
        found = true;
    }
    if !found && installed.is_some() {
        draft.find(Finding::pending("the copy has no grub-mkconfig: write its boot menu by other means"));
    }
    Ok(())
}

/// The labels of what was written, in a copy that has a policy of SELinux.
pub(super) fn labels(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let config = draft.text("/etc/selinux/config")?.unwrap_or_default();
    let value = |key: &str| {
        let line = config.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim().to_owned()).unwrap_or_default()
    };
    if !matches!(value("SELINUX").as_str(), "enforcing" | "permissive") {
        return Ok(());
    }
    let contexts = format!("/etc/selinux/{}/contexts/files/file_contexts", value("SELINUXTYPE"));
    if program(draft, "setfiles")? && draft.exists(&contexts)? {
        let mut argv = vec!["setfiles", "-F", contexts.as_str()];
        for directory in ["/etc", "/boot", "/var/lib", "/var/spool", "/usr/lib/modules", "/root"] {
            if draft.exists(directory)? {
                argv.push(directory);
            }
        }
        draft.command(Step::Labels, &argv, "what was written gets the labels of SELinux's policy");
    } else {
        draft.write("/.autorelabel", "", Class::A, "SELinux labels everything at the next boot")?;
        draft.find(Finding::pending(
            "SELinux is on and its labels cannot be set here: boot once with enforcing=0, and let it relabel",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
