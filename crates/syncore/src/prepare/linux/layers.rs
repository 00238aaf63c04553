//! The layers between a disk and a filesystem: LUKS, md and LVM, by the files that bring them up.
//!
//! Why: each of these files lists production's devices, and what it lists is opened, assembled or activated at boot. On a
//! standby that sees production's storage too, only what the system itself lies on may be. What can go wrong: a line
//! that formats its device at each boot (it is dropped), a filter of LVM's that hides the standby's own disks (said).

use super::super::draft::Draft;
use super::super::lines::{Lines, fields, is_comment, with_field};
use super::super::report::{Finding, Held};
use super::super::{PrepareError, Task};
use super::devices::{Needed, decode, encode, id_of, mapped};
use super::fstab::Seen;
use crate::rules::Class;

/// crypttab: what the system lies on is opened, the rest is held, and what would be formatted is dropped.
pub(super) fn crypttab(
    task: &Task<'_>,
    seen: &Seen,
    needed: &Needed,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let path = "/etc/crypttab";
    let content = draft.read(path)?;
    let mut lines = Lines::of(content.as_deref().unwrap_or_default());
    let entries =
        lines.0.iter().filter(|line| !is_comment(&line.content, b'#') && fields(&line.content).len() >= 2);
    let alone = entries.count() == 1;
    let mut left = needed.headers.clone();
    left.reverse();
    let mut work = Vec::new();
    let (mut replaced, mut held, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for mut line in std::mem::take(&mut lines.0) {
        let parts = fields(&line.content);
        let (Some(name), Some(spec)) = (parts.first(), parts.get(1)) else {
            work.push(line);
            continue;
        };
        if is_comment(&line.content, b'#') {
            work.push(line);
            continue;
        }
        let (name, spec) = (decode(name), decode(spec));
        let options: Vec<String> = parts
            .get(3)
            .map(|field| decode(field).split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        if let Some(new) = mapped(task, &spec) {
            replaced.push((name, spec, new.unwrap_or("(dropped)").to_owned()));
            if let Some(new) = new {
                line.content = with_field(&line.content, 1, &encode(new));
                work.push(line);
            }
            continue;
        }
        let formats =
            options.iter().any(|option| option == "swap" || option == "tmp" || option.starts_with("tmp="));
        let mapping = format!("/dev/mapper/{name}");
        let on_volume = |spec: &String| super::devices::volume_of(spec).is_some();
        let ours = seen.system.contains(&mapping)
            || options.iter().any(|option| option == "initramfs" || option == "x-initrd.attach")
            || alone && seen.system.iter().any(on_volume);
        if formats {
            // It would be made anew at each boot, whatever is on the device of that name here.
            replaced.push((name, spec, "(dropped: it is formatted at each boot)".to_owned()));
        } else if ours {
            ids.extend(id_of(&spec));
            match left.pop() {
                Some((_, uuid)) => {
                    let new = format!("UUID={uuid}");
                    if parts.get(2).is_some_and(|key| key.starts_with(b"/")) && new != spec {
                        draft.find(Finding::note(format!(
                            "{path}: the key file of {name} opens production's volume; see that it opens the standby's"
                        )));
                    }
                    line.content = with_field(&line.content, 1, new.as_bytes());
                    replaced.push((name, spec, new));
                    work.push(line);
                }
                None => {
                    replaced.push((name, spec, "(dropped: the standby is not encrypted there)".to_owned()));
                }
            }
        } else {
            if !options.iter().any(|option| option == "noauto") {
                let options = [options, vec!["noauto".to_owned()]].concat();
                let options: Vec<String> = options.into_iter().filter(|option| !option.is_empty()).collect();
                let field = options.join(",");
                line.content = match parts.len() {
                    2 => [line.content.trim_ascii_end(), b" none ", field.as_bytes()].concat(),
                    3 => [line.content.trim_ascii_end(), b" ", field.as_bytes()].concat(),
                    _ => with_field(&line.content, 3, field.as_bytes()),
                };
            }
            held.push(Held {
                kind: "volume".into(),
                name: format!("{name} ({spec})"),
                how: format!("noauto in {path}"),
                undo: Vec::new(),
            });
            work.push(line);
        }
    }
    lines.0 = work;
    while let Some((name, uuid)) = left.pop() {
        let options = if draft.exists("/etc/initramfs-tools")? { "luks,initramfs" } else { "luks" };
        lines.push(format!("{name} UUID={uuid} none {options}").as_bytes());
        replaced.push((name, "(none)".to_owned(), format!("UUID={uuid}")));
    }
    draft.source_ids.extend(ids);
    for (name, old, new) in replaced {
        draft.replaced(&format!("encrypted {name}"), old, new);
    }
    draft.held.extend(held);
    if content.is_some() || !lines.0.is_empty() {
        draft.write_with_mode(
            path,
            lines.to_bytes(),
            0o600,
            Class::B,
            "what the system lies on is opened, and nothing else",
        )?;
    }
    Ok(())
}

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
        draft.write(path, lines.to_bytes(), Class::B, why)?;
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
