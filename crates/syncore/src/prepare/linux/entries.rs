//! What boot loaders read and no tool makes anew: boot entries, GRUB's environment, stubs on the EFI partition, and
//! where the distribution remembers which disk its boot loader is on.
//!
//! Why: entries that carry production's machine id sort before the new ones and win; GRUB's environment holds a command
//! line on RHEL 8; a remembered disk that is not there leaves the next upgrade of GRUB half done, and the host
//! unbootable. What can go wrong: a file of exactly 1024 bytes that becomes another length; GRUB then ignores it.

use super::super::draft::Draft;
use super::super::lines::Lines;
use super::super::report::Finding;
use super::super::system::is_machine_id;
use super::super::{PrepareError, Task};
use super::cmdline::{Part, Rewriter};
use super::devices::{boot_of, esp_of};
use crate::rules::Class;
use crate::tree::RelPath;

/// Where entries of the Boot Loader Specification may be.
const DIRECTORIES: [&str; 4] =
    ["/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries", "/boot/grub2/entries"];
/// Where kernels and what starts them may be.
const PLACES: [&str; 3] = ["/boot", "/boot/efi", "/efi"];
/// The size of GRUB's environment block (grub-editenv).
const BLOCK_BYTES: usize = 1024;
const BLOCK_HEAD: &str = "# GRUB Environment Block\n";

/// Where entries are.
pub(super) fn directories(draft: &Draft<'_>) -> Result<Vec<String>, PrepareError> {
    let mut found = Vec::new();
    for directory in DIRECTORIES {
        let path = RelPath::from_absolute(directory.as_bytes()).unwrap_or_default();
        let names = draft.inside().list(&path).map_err(|error| PrepareError::read(&path, error))?;
        if names.iter().any(|name| name.ends_with(b".conf")) {
            found.push(directory.to_owned());
        }
    }
    Ok(found)
}

/// Plans all of them.
pub(super) fn plan(
    task: &Task<'_>,
    rewriter: &mut Rewriter<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let new_id = draft.text("/etc/machine-id")?.map(|id| id.trim().to_owned()).filter(|id| is_machine_id(id));
    rescue(draft)?;
    for directory in directories(draft)? {
        for name in draft.list(&directory)? {
            if name.ends_with(".conf") {
                entry(&directory, &name, new_id.as_deref(), rewriter, draft)?;
            }
        }
    }
    if let (Some(old), Some(new)) = (old_id(task), &new_id)
        && old != *new
    {
        id_directories(&old, new, draft)?;
    }
    for path in ["/boot/grub/grubenv", "/boot/grub2/grubenv"] {
        environment(path, task, new_id.as_deref(), rewriter, draft)?;
    }
    for place in PLACES {
        let seed = format!("{place}/loader/random-seed");
        draft.remove(&seed, Class::A, "a seed that two machines have is none")?;
    }
    for path in ["/boot/grub/device.map", "/boot/grub2/device.map"] {
        draft.remove(path, Class::A, "it names production's disks; GRUB does not need it")?;
    }
    stubs(task, rewriter, draft)?;
    debconf(task, draft)?;
    suse(task, draft)
}

/// Production's machine id.
fn old_id(task: &Task<'_>) -> Option<String> {
    task.earlier
        .and_then(|earlier| earlier.source_machine_id.clone())
        .or_else(|| task.system.machine_id.clone())
}

fn has_id(name: &str) -> Option<&str> {
    name.get(..32).filter(|id| is_machine_id(id) && matches!(name.as_bytes().get(32), Some(b'-')))
}

/// One boot entry: another command line, the new machine id in its name and in the paths it names.
fn entry(
    directory: &str,
    name: &str,
    new_id: Option<&str>,
    rewriter: &mut Rewriter<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let path = format!("{directory}/{name}");
    let Some(content) = draft.read(&path)? else { return Ok(()) };
    let old_id = has_id(name);
    let mut lines = Lines::of(&content);
    for line in &mut lines.0 {
        let mut text = String::from_utf8_lossy(&line.content).into_owned();
        if let (Some(old), Some(new)) = (old_id, new_id) {
            text = text.replace(old, new);
        }
        if let Some(options) = text.strip_prefix("options").filter(|rest| rest.starts_with([' ', '\t'])) {
            // On RHEL 8 the words are in GRUB's environment.
            let elsewhere = options.contains("$kernelopts") || options.contains("${kernelopts}");
            let part = if elsewhere { Part::Words } else { Part::Whole };
            text = format!("options {}", rewriter.rewrite(options, part)?);
        }
        if text.as_bytes() != line.content {
            line.content = text.into_bytes();
        }
    }
    let why = "the boot entry has the standby's machine id and finds its root";
    let renamed = match (old_id, new_id) {
        (Some(old), Some(new)) if old != new => name.replacen(old, new, 1),
        _ => name.to_owned(),
    };
    if renamed != name {
        draft.remove(
            &path,
            Class::A,
            "an entry with production's machine id would be chosen before the new one",
        )?;
    }
    draft.write(&format!("{directory}/{renamed}"), lines.to_bytes(), Class::A, why)
}

/// The rescue kernel, its image and its entry are for production's devices, and are made again with the next kernel.
fn rescue(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for directory in ["/boot"].into_iter().chain(DIRECTORIES) {
        for name in draft.list(directory)? {
            if name.contains("-0-rescue") {
                let why =
                    "the rescue entry is production's; the next kernel that is installed makes a new one";
                draft.remove(&format!("{directory}/{name}"), Class::A, why)?;
            }
        }
    }
    Ok(())
}

/// Directories of kernels that are named for the machine, as kernel-install(8) makes them.
fn id_directories(old: &str, new: &str, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for place in PLACES {
        let path = format!("{place}/{old}");
        if draft.own_entry(&path)?.is_some() {
            draft.rename(&path, new, Class::A, "kernels are where the new machine id says")?;
        }
    }
    let token = "/etc/kernel/entry-token";
    if let Some(text) = draft.text(token)?
        && text.contains(old)
    {
        draft.write(token, text.replace(old, new), Class::A, "kernels are named for the new machine id")?;
    }
    Ok(())
}

/// GRUB's environment: `name=value` lines in a block that is always as long.
fn environment(
    path: &str,
    task: &Task<'_>,
    new_id: Option<&str>,
    rewriter: &mut Rewriter<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let Some(content) = draft.text(path)? else { return Ok(()) };
    let malformed = |reason: &str| PrepareError::Malformed {
        path: RelPath::from_absolute(path.as_bytes()).unwrap_or_default(),
        reason: reason.to_owned(),
    };
    if !content.starts_with(BLOCK_HEAD) {
        return Err(malformed("it is no environment block of GRUB; remove it, GRUB makes a new one"));
    }
    let old_id = old_id(task);
    let mut block = BLOCK_HEAD.to_owned();
    for line in content[BLOCK_HEAD.len()..].lines() {
        let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.starts_with('#')) else {
            continue;
        };
        let value = match name {
            "kernelopts" => rewriter.rewrite(value, Part::Whole)?,
            // Debian's ids of entries hold the UUID of the root; without one GRUB takes the newest kernel.
            "saved_entry" if value.starts_with("gnulinux-") => continue,
            "saved_entry" => match (&old_id, new_id) {
                (Some(old), Some(new)) => value.replace(old.as_str(), new),
                _ => value.to_owned(),
            },
            "next_entry" | "prev_saved_entry" => continue,
            _ => value.to_owned(),
        };
        block.push_str(&format!("{name}={value}\n"));
    }
    if block.len() > BLOCK_BYTES {
        return Err(malformed("what it has to hold is longer than its 1024 bytes"));
    }
    block.push_str(&"#".repeat(BLOCK_BYTES - block.len()));
    draft.write(path, block, Class::A, "GRUB starts the standby's kernel from the standby's root")
}

/// Small configurations on the EFI partition, which say on which filesystem the large one is.
fn stubs(task: &Task<'_>, rewriter: &mut Rewriter<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let (Some(esp), Some(boot)) = (esp_of(task.target), boot_of(task.target)) else { return Ok(()) };
    let Some(uuid) = &boot.uuid else { return Ok(()) };
    let own_boot = task.target.at("/boot").is_some();
    for vendor in draft.list(&format!("{esp}/EFI"))? {
        let path = format!("{esp}/EFI/{vendor}/grub.cfg");
        let Some(content) = draft.text(&path)? else { continue };
        if content.contains("menuentry ") || content.contains("blscfg") {
            continue;
        }
        let mut lines = Lines::of(content.as_bytes());
        lines.edit(|line| {
            let text = String::from_utf8_lossy(line).into_owned();
            if text.contains("--fs-uuid") || text.trim_start().starts_with("search.fs_uuid") {
                let words = text.split(' ').map(|word| {
                    if is_uuid(word) {
                        rewriter.ids.push(word.to_owned());
                        uuid.clone()
                    } else {
                        word.to_owned()
                    }
                });
                return Some(words.collect::<Vec<_>>().join(" ").into_bytes());
            }
            // Whether /boot is a filesystem of its own decides where GRUB's directory is on it.
            let (with, without) = (")/boot/grub", ")/grub");
            let text = match (text.contains("prefix="), own_boot) {
                (true, true) => text.replace(with, without),
                (true, false) => text.replace(without, with),
                _ => text,
            };
            Some(text.into_bytes())
        });
        draft.write(
            &path,
            lines.to_bytes(),
            Class::A,
            "the boot loader finds its configuration on the standby's disk",
        )?;
    }
    Ok(())
}

/// Whether a word looks like the UUID of a filesystem: of ext4, or the eight digits of FAT.
pub(super) fn is_uuid(word: &str) -> bool {
    let parts: Vec<usize> = word.split('-').map(str::len).collect();
    (parts == [8, 4, 4, 4, 12] || parts == [4, 4]) && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// The disk as the distribution is to remember it.
fn remembered(task: &Task<'_>) -> Vec<String> {
    let disks = task.target.disks.iter().filter(|disk| disk.table.is_some());
    disks.map(|disk| disk.by_id.as_ref().unwrap_or(&disk.device).display().to_string()).collect()
}

/// Debian's answers to the questions of GRUB's packages.
fn debconf(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let path = "/var/cache/debconf/config.dat";
    let Some(content) = draft.read(path)? else { return Ok(()) };
    let mut lines = Lines::of(&content);
    let mut question = Vec::new();
    let disks = remembered(task).join(", ");
    lines.edit(|line| {
        if let Some(name) = line.strip_prefix(b"Name: ") {
            question = name.to_vec();
        }
        let answer = match &question[..] {
            b"grub-pc/install_devices" => Some(disks.clone()),
            b"grub-pc/install_devices_disks_changed"
            | b"grub-efi/install_devices_disks_changed"
            | b"grub-efi/install_devices" => Some(String::new()),
            // So that the next upgrade of GRUB also renews what firmware tries by itself.
            b"grub2/force_efi_extra_removable" => Some("true".to_owned()),
            _ => None,
        };
        match answer {
            Some(answer) if line.starts_with(b"Value:") => {
                Some(format!("Value: {answer}").trim_end().as_bytes().to_vec())
            }
            _ => Some(line.to_vec()),
        }
    });
    draft.write(
        path,
        lines.to_bytes(),
        Class::A,
        "the next upgrade of GRUB installs it on the standby's disk",
    )
}

/// Where SUSE remembers the disk.
fn suse(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let path = "/etc/default/grub_installdevice";
    let Some(content) = draft.read(path)? else { return Ok(()) };
    let mut disks = remembered(task);
    if disks.is_empty() {
        draft.find(Finding::note(format!("{path} names no disk any more: no boot disk is known")));
    }
    disks.reverse();
    let mut lines = Lines::of(&content);
    lines.edit(|line| {
        let text = String::from_utf8_lossy(line);
        if text.trim_start().starts_with('/') || text.starts_with("(hd") {
            return disks.pop().map(String::into_bytes);
        }
        Some(line.to_vec())
    });
    draft.write(
        path,
        lines.to_bytes(),
        Class::A,
        "the next upgrade of GRUB installs it on the standby's disk",
    )
}

#[cfg(test)]
mod tests;
