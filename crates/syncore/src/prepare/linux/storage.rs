//! What a host remembers of its storage besides the layers: multipath, iSCSI, NVMe, ZFS, kdump, where it resumes from.
//!
//! Why: each of them keeps a list of production's devices, and each of them would, on a standby that sees production's
//! storage too, put it into use at boot. So lists are emptied, ids that must be unique are made anew, and only what the
//! system itself lies on is activated before a promotion. What can go wrong: a name that two hosts share on one storage
//! network: both are thrown off.

use super::super::draft::Draft;
use super::super::lines::{Lines, fields};
use super::super::report::{Finding, Held};
use super::super::{PrepareError, Task};
use super::crypttab;
use super::devices::{Needed, id_of, name_like};
use super::fstab::Seen;
use super::layers::{lvm, mdadm};
use crate::rules::Class;

/// Plans all of it but what the initramfs resumes from.
pub(super) fn plan(task: &Task<'_>, seen: &Seen, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let needed = Needed::of(task.target, &[]);
    crypttab::plan(task, seen, &needed, draft)?;
    mdadm(&needed, draft)?;
    lvm(&needed, draft)?;
    for name in ["bindings", "wwids", "prkeys"] {
        let why = "it names production's paths; multipath makes it anew";
        draft.remove(&format!("/etc/multipath/{name}"), Class::A, why)?;
    }
    iscsi(task, draft)?;
    nvme(task, draft)?;
    zfs(draft)?;
    kdump(draft)
}

/// What the initramfs looks for the image of a hibernated system on.
pub(super) fn resume(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let path = "/etc/initramfs-tools/conf.d/resume";
    if !draft.exists("/etc/initramfs-tools")? {
        return Ok(());
    }
    let old = draft.text(path)?;
    let value = old
        .as_deref()
        .and_then(|text| text.lines().rev().find_map(|line| line.trim().strip_prefix("RESUME=")));
    let value = value.map(|value| value.trim_matches(['"', '\'']).to_owned()).unwrap_or_default();
    draft.source_ids.extend(id_of(&value));
    let new = match task.target.swaps().next() {
        Some(area) if !value.is_empty() && value != "none" => name_like(&value, area)?,
        // Without this line the swap of the machine that we run on would be taken.
        _ => "none".to_owned(),
    };
    if new != value {
        draft.replaced("resume", if value.is_empty() { "(none)" } else { &value }, &new);
    }
    draft.write(path, format!("RESUME={new}\n"), Class::A, "a boot does not wait for production's swap")
}

/// An id that is the standby's alone and always the same: of its machine id and name, for one purpose.
fn own_id(task: &Task<'_>, purpose: &str, draft: &Draft<'_>) -> Result<[u8; 16], PrepareError> {
    let machine = draft.text("/etc/machine-id")?.unwrap_or_default();
    let root = task.target.at("/").and_then(|root| root.uuid.clone()).unwrap_or_default();
    let text = [purpose, machine.trim(), task.hostname, &root].join("\n");
    let hash = blake3::derive_key("clonetool prepare-root 2026 storage ids", text.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    Ok(id)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// iSCSI: an initiator name of its own, and no targets that are logged into.
fn iscsi(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let path = "/etc/iscsi/initiatorname.iscsi";
    if let Some(content) = draft.text(path)? {
        let id = hex(&own_id(task, "iscsi", draft)?[..6]);
        let mut lines = Lines::of(content.as_bytes());
        let mut old = None;
        lines.edit(|line| {
            let text = String::from_utf8_lossy(line);
            let Some(name) = text.trim().strip_prefix("InitiatorName=") else { return Some(line.to_vec()) };
            old = Some(name.to_owned());
            let authority = name.rsplit_once(':').map_or(name, |(authority, _)| authority);
            Some(format!("InitiatorName={authority}:{id}").into_bytes())
        });
        if let Some(old) = old {
            draft.replaced("iSCSI initiator", old, id);
        }
        draft.write(path, lines.to_bytes(), Class::A, "two initiators of one name throw each other off")?;
    }
    for directory in [
        "/etc/iscsi/nodes",
        "/etc/iscsi/send_targets",
        "/etc/iscsi/ifaces",
        "/var/lib/iscsi/nodes",
        "/var/lib/iscsi/send_targets",
    ] {
        let names = draft.list(directory)?;
        if names.is_empty() {
            continue;
        }
        if directory.ends_with("nodes") {
            for name in names {
                draft.held.push(Held {
                    kind: "iSCSI target".into(),
                    name,
                    how: format!("forgotten in {directory}"),
                    undo: Vec::new(),
                });
            }
        }
        draft.remove_below(directory, Class::A, "production's targets are not logged into")?;
    }
    Ok(())
}

/// NVMe over fabrics: host id and qualified name, which have to agree.
fn nvme(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let (qualified, id) = ("/etc/nvme/hostnqn", "/etc/nvme/hostid");
    if !draft.exists(qualified)? && !draft.exists(id)? {
        return Ok(());
    }
    let mut bytes = own_id(task, "nvme", draft)?;
    // A UUID of version 4 (RFC 9562).
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes);
    let uuid = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
    let why = "two hosts of one name are one host to an NVMe target";
    draft.replaced("NVMe host", draft.text(id)?.unwrap_or_default().trim(), &uuid);
    draft.write(qualified, format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}\n"), Class::A, why)?;
    draft.write(id, format!("{uuid}\n"), Class::A, why)
}

/// ZFS: no pool is imported by itself.
fn zfs(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let why = "no pool is imported before a promotion";
    let mut found = draft.exists("/etc/zfs/zpool.cache")?;
    draft.remove("/etc/zfs/zpool.cache", Class::A, why)?;
    for name in draft.list("/etc/zfs/zfs-list.cache")? {
        draft.remove(&format!("/etc/zfs/zfs-list.cache/{name}"), Class::A, why)?;
        found = true;
    }
    // Without a cache this one imports whatever it finds.
    let unit = "zfs-import-scan.service";
    let mut there = false;
    for directory in ["/usr/lib/systemd/system", "/lib/systemd/system"] {
        there |= draft.exists(&format!("{directory}/{unit}"))?;
    }
    if there {
        draft.symlink(&format!("/etc/systemd/system/{unit}"), "/dev/null", Class::A, why)?;
    }
    if found || there {
        draft.held.push(Held {
            kind: "pool".into(),
            name: "all of ZFS".into(),
            how: format!("no zpool.cache, {unit} masked; zpool import imports one by hand"),
            undo: Vec::new(),
        });
    }
    Ok(())
}

/// kdump: no dump onto production's disks, and no image that was made for them.
fn kdump(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let path = "/etc/kdump.conf";
    if let Some(content) = draft.read(path)? {
        let mut lines = Lines::of(&content);
        let mut dropped = Vec::new();
        lines.edit(|line| {
            let parts = fields(line);
            let device = parts.first().is_some_and(|word| {
                matches!(*word, b"raw" | b"ext2" | b"ext3" | b"ext4" | b"xfs" | b"btrfs" | b"minix")
            });
            if !device {
                return Some(line.to_vec());
            }
            dropped.push(String::from_utf8_lossy(line).into_owned());
            None
        });
        for line in dropped {
            draft.source_ids.extend(line.split_ascii_whitespace().nth(1).and_then(id_of));
            draft.find(Finding::note(format!(
                "{path} no longer says {line:?}: dumps go to the root filesystem"
            )));
        }
        draft.write(path, lines.to_bytes(), Class::A, "a dump does not go onto production's disk")?;
    }
    for directory in ["/boot", "/var/lib/kdump"] {
        for name in draft.list(directory)? {
            let image = name.starts_with("init") && (name.contains("kdump") || directory != "/boot");
            if image {
                let why = "it was made for production's disks; the kdump service makes a new one";
                draft.remove(&format!("{directory}/{name}"), Class::A, why)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
