//! crypttab: what the system lies on is opened, the rest is held, and what would be formatted is dropped.
//!
//! Why: what it lists is opened at boot. On a standby that sees production's storage too, only what the system itself
//! lies on may be. What can go wrong: a line that formats its device at each boot, whatever is on a device of that name
//! here; it is dropped.

use super::super::draft::Draft;
use super::super::lines::{Lines, fields, is_comment, with_field};
use super::super::report::{Finding, Held};
use super::super::{PrepareError, Task};
use super::devices::{Needed, decode, encode, id_of, mapped};
use super::fstab::Seen;
use crate::rules::Class;

/// A line that opens something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) name: String,
    spec: String,
    key: Vec<u8>,
    pub(crate) options: Vec<String>,
}

impl Mapping {
    /// None for a comment, and for what crypttab(5) does not understand either.
    pub(crate) fn of(line: &[u8]) -> Option<Self> {
        if is_comment(line, b'#') {
            return None;
        }
        let parts = fields(line);
        let options = parts.get(3).map(|field| decode(field).split(',').map(str::to_owned).collect());
        Some(Self {
            name: decode(parts.first()?),
            spec: decode(parts.get(1)?),
            key: parts.get(2).map(|key| key.to_vec()).unwrap_or_default(),
            options: options.unwrap_or_default(),
        })
    }
}

/// Whether its device is made anew at each boot.
pub(crate) fn formats(options: &[String]) -> bool {
    options.iter().any(|option| option == "swap" || option == "tmp" || option.starts_with("tmp="))
}

/// Whether it is opened before the root is there, so that the system must lie on it.
pub(crate) fn is_early(options: &[String]) -> bool {
    options.iter().any(|option| option == "initramfs" || option == "x-initrd.attach")
}

/// Whether it waits for somebody to open it.
pub(crate) fn is_held(options: &[String]) -> bool {
    options.iter().any(|option| option == "noauto")
}

/// The line with options under which nothing opens it before a promotion; as it is, if it has them.
pub(crate) fn held_mapping(line: &[u8]) -> Vec<u8> {
    let Some(Mapping { options, .. }) = Mapping::of(line) else { return line.to_vec() };
    if is_held(&options) {
        return line.to_vec();
    }
    let options = [options, vec!["noauto".to_owned()]].concat();
    let options: Vec<String> = options.into_iter().filter(|option| !option.is_empty()).collect();
    let field = options.join(",");
    match fields(line).len() {
        0..=2 => [line.trim_ascii_end(), b" none ", field.as_bytes()].concat(),
        3 => [line.trim_ascii_end(), b" ", field.as_bytes()].concat(),
        _ => with_field(line, 3, field.as_bytes()),
    }
}

/// Plans the file.
pub(super) fn plan(
    task: &Task<'_>,
    seen: &Seen,
    needed: &Needed,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let path = "/etc/crypttab";
    let content = draft.read(path)?;
    let mut lines = Lines::of(content.as_deref().unwrap_or_default());
    let alone = lines.0.iter().filter(|line| Mapping::of(&line.content).is_some()).count() == 1;
    let mut left = needed.headers.clone();
    left.reverse();
    let mut work = Vec::new();
    let (mut replaced, mut held, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for mut line in std::mem::take(&mut lines.0) {
        let Some(Mapping { name, spec, key, options }) = Mapping::of(&line.content) else {
            work.push(line);
            continue;
        };
        if let Some(new) = mapped(task, &spec) {
            replaced.push((name, spec, new.unwrap_or("(dropped)").to_owned()));
            if let Some(new) = new {
                line.content = with_field(&line.content, 1, &encode(new));
                work.push(line);
            }
            continue;
        }
        let mapping = format!("/dev/mapper/{name}");
        let on_volume = |spec: &String| super::devices::volume_of(spec).is_some();
        let ours = seen.system.contains(&mapping)
            || is_early(&options)
            || alone && seen.system.iter().any(on_volume);
        // Of an earlier preparation, or of an administrator who was here before.
        if let Some(at) = left.iter().position(|(_, uuid)| id_of(&spec).as_ref() == Some(uuid)) {
            left.remove(at);
            work.push(line);
        } else if formats(&options) {
            // It would be made anew at each boot, whatever is on the device of that name here.
            replaced.push((name, spec, "(dropped: it is formatted at each boot)".to_owned()));
        } else if ours {
            ids.extend(id_of(&spec));
            match left.pop() {
                Some((_, uuid)) => {
                    let new = format!("UUID={uuid}");
                    if key.starts_with(b"/") && new != spec {
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
            line.content = held_mapping(&line.content);
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
