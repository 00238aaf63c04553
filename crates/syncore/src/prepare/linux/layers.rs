//! The layers between a disk and a filesystem: md and LVM, by the files that bring them up.
//!
//! Why: each of these files lists production's devices, and what it lists is assembled or activated at boot. On a
//! standby that sees production's storage too, only what the system itself lies on may be. What can go wrong: a filter
//! of LVM's that hides the standby's own disks (said).

use super::super::PrepareError;
use super::super::draft::Draft;
use super::super::lines::Lines;
use super::super::report::{Finding, Held};
use super::devices::Needed;
use crate::rules::Class;

/// mdadm.conf: the arrays that the system lies on, and no others.
pub(super) fn mdadm(needed: &Needed, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for path in ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"] {
        let Some(content) = draft.read(path)? else { continue };
        let mut lines = Lines::of(&content);
        let mut missing = needed.arrays.clone();
        let (mut dropped, mut ids) = (Vec::new(), Vec::new());
        let mut continued = false;
        lines.edit(|line| {
            let text = String::from_utf8_lossy(line).into_owned();
            // A line that begins with a blank goes on with the one before (mdadm.conf(5)).
            if continued && text.starts_with([' ', '\t']) {
                return None;
            }
            continued = false;
            let word = text.split_ascii_whitespace().next().unwrap_or_default().to_ascii_lowercase();
            if word == "auto" {
                return None;
            }
            if word != "array" {
                return Some(line.to_vec());
            }
            let uuid = text.split_ascii_whitespace().find_map(|word| {
                word.get(..5)
                    .filter(|key| key.eq_ignore_ascii_case("uuid="))
                    .map(|_| word[5..].to_ascii_lowercase())
            });
            if let Some(at) = missing.iter().position(|array| uuid.as_ref() == Some(array)) {
                missing.remove(at);
                return Some(line.to_vec());
            }
            continued = true;
            ids.extend(uuid);
            dropped.push(text.split_ascii_whitespace().nth(1).unwrap_or_default().to_owned());
            None
        });
        for (at, uuid) in missing.iter().enumerate() {
            lines.push(format!("ARRAY /dev/md/{at} UUID={uuid}").as_bytes());
        }
        // What is not listed is not assembled: production's arrays may be within reach.
        lines.push(b"AUTO -all");
        draft.source_ids.extend(ids);
        for name in dropped {
            draft.held.push(Held {
                kind: "array".into(),
                name,
                how: format!("not assembled: AUTO -all in {path}"),
                undo: Vec::new(),
            });
        }
        draft.write(
            path,
            lines.to_bytes(),
            Class::A,
            "the arrays that the system lies on are assembled, and no others",
        )?;
    }
    Ok(())
}

/// LVM: no list of production's devices, and only the system's volume groups come up by themselves.
pub(super) fn lvm(needed: &Needed, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    if !draft.exists("/etc/lvm")? {
        return Ok(());
    }
    let why = "it lists production's disks, and hides all others";
    if draft.exists("/etc/lvm/devices/system.devices")? {
        draft.rename("/etc/lvm/devices/system.devices", "system.devices.cloned", Class::A, why)?;
    }
    for directory in ["archive", "backup", "cache"] {
        draft.remove_below(
            &format!("/etc/lvm/{directory}"),
            Class::A,
            "it describes production's volume groups",
        )?;
    }
    let groups: Vec<String> = needed.groups().iter().map(|group| format!("\"{group}\"")).collect();
    let list = format!("[ {} ]", groups.join(", ")).replace("[  ]", "[ ]");
    let setting = format!("\tauto_activation_volume_list = {list}");
    let path = "/etc/lvm/lvm.conf";
    let content = draft.read(path)?;
    let mut lines = Lines::of(content.as_deref().unwrap_or_default());
    let mut section: Option<usize> = None;
    let mut found = Vec::new();
    for (at, line) in lines.0.iter_mut().enumerate() {
        let text = String::from_utf8_lossy(&line.content).into_owned();
        let code = text.split('#').next().unwrap_or_default().trim();
        if code.starts_with("activation") && code.ends_with('{') {
            section = Some(at + 1);
        }
        let key = code.split('=').next().unwrap_or_default().trim();
        match key {
            "auto_activation_volume_list" | "activation/auto_activation_volume_list"
                if code.contains('=') =>
            {
                line.content = [b"# " as &[u8], &line.content].concat();
            }
            "volume_list" | "filter" | "global_filter" if code.contains('=') => found.push(key.to_owned()),
            _ => {}
        }
    }
    match section {
        Some(at) => lines.insert(at, setting.as_bytes()),
        None => {
            for line in [b"activation {" as &[u8], setting.as_bytes(), b"}"] {
                lines.push(line);
            }
        }
    }
    let present =
        content.as_deref().map(|content| String::from_utf8_lossy(content).into_owned()).unwrap_or_default();
    let already = present.lines().filter(|line| line.trim() == setting.trim()).count() == 1;
    if !already {
        let why = "only the system's volume groups come up by themselves; others wait for a promotion";
        draft.write(path, lines.to_bytes(), Class::A, why)?;
    }
    draft.held.push(Held {
        kind: "volume groups".into(),
        name: if groups.is_empty() { "all".into() } else { format!("all but {}", groups.join(", ")) },
        how: format!("activation/auto_activation_volume_list in {path}; vgchange -ay activates one by hand"),
        undo: Vec::new(),
    });
    for key in found {
        draft.find(Finding::note(format!("{path} sets {key}: see that it lets the standby's disks through")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
