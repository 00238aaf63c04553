//! Looks at a prepared root once more, as its firmware, its boot loader and its kernel will.
//!
//! Why: every tool that ran may have succeeded and done nothing: a search that matched no line, an `update-grub` that
//! writes a menu without entries, an initramfs that was not made again. So the files are read, not the exit codes. What
//! can go wrong: a file that cannot be read here; then it was not checked, and that is said.

mod initramfs;
mod residue;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::inside::Inside;
use super::journal::Journal;
use super::linux::{Installed, wrong_lines};
use super::report::{Finding, Weight};
use super::target::Target;
use super::{Identity, PrepareError};
use crate::tree::RelPath;

/// Directories in which daemons keep their host keys.
const HOST_KEYS: [&str; 3] = ["etc/ssh", "usr/local/etc/ssh", "usr/local/etc"];

/// What is checked, gathered while it was planned.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks {
    /// The words of which one has to be in a boot entry.
    pub(super) root_words: Vec<String>,
    pub(super) installed: Installed,
    /// Whether there has to be a boot loader.
    pub(super) bootloader: bool,
    pub(super) root_device: Option<String>,
    /// Devices that the caller named: they are not looked for.
    pub(super) mapped: Vec<String>,
    pub(super) identity: Identity,
}

/// A root and what it was prepared for.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) inside: &'a Inside,
    pub(super) target: &'a Target,
    pub(super) journal: &'a Journal,
    /// When the preparation began.
    pub(super) since: SystemTime,
    /// Whether commands are left: what they would make is then pending, not wrong.
    pub(super) pending: bool,
    /// Whether anybody reads what boot loaders read.
    pub(super) bootloader: bool,
}

/// Host keys as they are, by content, for the comparison at the end.
pub(super) fn host_keys(inside: &Inside) -> Result<Vec<(RelPath, String)>, PrepareError> {
    let mut keys = Vec::new();
    for directory in HOST_KEYS {
        let directory = RelPath::new(directory).unwrap_or_default();
        for name in inside.list(&directory).map_err(|error| PrepareError::read(&directory, error))? {
            let path = directory.join(&name);
            if name.starts_with(b"ssh_host_")
                && name.ends_with(b"_key.pub")
                && let Ok(Some(content)) = inside.read(&path)
            {
                keys.push((path, blake3::hash(&content).to_hex().to_string()));
            }
        }
    }
    Ok(keys)
}

/// Checks a prepared root.
pub(super) fn check(
    prepared: &Prepared<'_>,
    checks: &Checks,
    old_keys: &[(RelPath, String)],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    identity(prepared, checks, old_keys, &mut findings);
    fstab(prepared, checks, &mut findings);
    initramfs_made(prepared, checks, &mut findings);
    if checks.bootloader {
        boot_files(prepared, checks, &mut findings);
    }
    residue::search(prepared, &mut findings);
    findings
}

impl Prepared<'_> {
    /// Something that a command should have made and did not, or that was to be made by one that is left.
    fn unmade(&self, message: String) -> Finding {
        if self.pending { Finding::pending(message) } else { Finding::failure(message) }
    }

    fn text(&self, path: &str) -> Option<String> {
        let path = RelPath::from_absolute(path.as_bytes()).ok()?;
        let content = self.inside.read(&path).ok()??;
        Some(String::from_utf8_lossy(&content).into_owned())
    }

    fn modified(&self, path: &str) -> Option<SystemTime> {
        let path = RelPath::from_absolute(path.as_bytes()).ok()?;
        let seconds = self.inside.entry(&path).ok()??.mtime.seconds;
        UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
    }
}

fn identity(
    prepared: &Prepared<'_>,
    checks: &Checks,
    old_keys: &[(RelPath, String)],
    findings: &mut Vec<Finding>,
) {
    let id = prepared.text("/etc/machine-id").map(|id| id.trim().to_owned());
    if id.is_some() && id == prepared.journal.source_machine_id {
        findings.push(Finding::failure("/etc/machine-id is production's"));
    }
    if checks.identity == Identity::Takeover {
        return;
    }
    let Ok(keys) = host_keys(prepared.inside) else {
        findings.push(Finding::failure("the host keys cannot be read"));
        return;
    };
    for (path, digest) in keys {
        let replaced = prepared.journal.line(&path).and_then(|line| line.before.clone());
        let old = old_keys.iter().find(|(old, _)| *old == path).map(|(_, digest)| digest.clone());
        if [replaced, old].into_iter().flatten().any(|old| old == digest) {
            let message = "the host key is production's: whoever has it can pose as production";
            findings.push(Finding { path: Some(path), ..prepared.unmade(message.to_owned()) });
        }
    }
}

fn fstab(prepared: &Prepared<'_>, checks: &Checks, findings: &mut Vec<Finding>) {
    let content = prepared.text("/etc/fstab").unwrap_or_default();
    let mut known = checks.mapped.clone();
    known.extend(checks.root_device.clone());
    for wrong in wrong_lines(content.as_bytes(), prepared.target, &known) {
        findings.push(Finding::failure(format!("/etc/fstab: {wrong}")));
    }
}

fn initramfs_made(prepared: &Prepared<'_>, checks: &Checks, findings: &mut Vec<Finding>) {
    // FAT counts in steps of two seconds.
    let since = prepared.since - Duration::from_secs(2);
    for path in &checks.installed.initramfs {
        match prepared.modified(path) {
            None => findings.push(prepared.unmade(format!("there is no {path}"))),
            Some(at) if at < since => {
                findings.push(
                    prepared.unmade(format!("{path} was not made anew: it looks for production's devices")),
                );
            }
            Some(_) => {}
        }
    }
}

fn boot_files(prepared: &Prepared<'_>, checks: &Checks, findings: &mut Vec<Finding>) {
    for path in &checks.installed.files {
        let there = RelPath::from_absolute(path.as_bytes())
            .ok()
            .and_then(|path| prepared.inside.entry(&path).ok()?);
        if there.is_none() {
            findings.push(prepared.unmade(format!("there is no {path}, which firmware tries by itself")));
        }
    }
    for disk in &checks.installed.disks {
        if !has_grub(disk) {
            findings
                .push(prepared.unmade(format!("the first sector of {} does not hold GRUB", disk.display())));
        }
    }
    if checks.installed.entries.is_empty() {
        return;
    }
    let entries =
        checks.installed.entries.iter().map(|path| entries_with_root(prepared, checks, path)).sum::<usize>();
    if entries == 0 {
        findings.push(prepared.unmade(format!(
            "no boot entry starts a kernel with the standby's root ({}): looked in {}",
            checks.root_words.first().map_or("root=", String::as_str),
            checks.installed.entries.join(" ")
        )));
    }
}

fn has_grub(disk: &PathBuf) -> bool {
    let mut sector = [0; 512];
    let read = std::fs::File::open(disk).and_then(|mut file| io_read(&mut file, &mut sector));
    read.is_ok() && sector.windows(4).any(|window| window == b"GRUB")
}

fn io_read(file: &mut std::fs::File, buffer: &mut [u8]) -> std::io::Result<()> {
    std::io::Read::read_exact(file, buffer)
}

/// How many entries in a menu, or in a directory of entries, start a kernel with the standby's root.
fn entries_with_root(prepared: &Prepared<'_>, checks: &Checks, path: &str) -> usize {
    let directory = RelPath::from_absolute(path.as_bytes()).unwrap_or_default();
    let names = prepared.inside.list(&directory).unwrap_or_default();
    let mut texts: Vec<String> = names
        .iter()
        .filter_map(|name| std::str::from_utf8(name).ok().filter(|name| name.ends_with(".conf")))
        .filter_map(|name| prepared.text(&format!("{path}/{name}")))
        .collect();
    if names.is_empty() {
        texts.extend(prepared.text(path));
    }
    let environment =
        ["/boot/grub2/grubenv", "/boot/grub/grubenv"].iter().filter_map(|path| prepared.text(path));
    let kernelopts: Vec<String> = environment
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("kernelopts="))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    let has_root = |words: &str| {
        words.split_ascii_whitespace().any(|word| checks.root_words.iter().any(|root| root == word))
    };
    let starts = |line: &&str| {
        let mut words = line.split_ascii_whitespace();
        if !matches!(words.next(), Some("linux" | "linux16" | "linuxefi" | "options")) {
            return false;
        }
        has_root(line) || line.contains("kernelopts") && kernelopts.iter().any(|words| has_root(words))
    };
    texts.iter().map(|text| text.lines().filter(starts).count()).sum()
}

/// The finding of an id in the boot path: it fails, unless something is left to be made or nobody reads it.
fn in_boot_path(prepared: &Prepared<'_>, path: &RelPath, message: String) -> Finding {
    let menu = [&b"boot/grub"[..], b"boot/loader", b"boot/efi", b"efi"];
    let unread = !prepared.bootloader && menu.iter().any(|place| path.as_bytes().starts_with(place));
    let weight = match (unread, prepared.pending) {
        (true, _) => Weight::Note,
        (false, true) => Weight::Pending,
        (false, false) => Weight::Failure,
    };
    Finding { weight, path: Some(path.clone()), message }
}

#[cfg(test)]
mod tests;
