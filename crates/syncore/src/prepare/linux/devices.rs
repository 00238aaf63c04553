//! How configuration names a filesystem, and what it is to name instead.
//!
//! Why: `UUID=`, `LABEL=`, `/dev/mapper/vg-root` and `/dev/disk/by-uuid/…` name the same thing, and an administrator
//! who wrote one of them wants to find it again. So the style is kept where it says something lasting; `/dev/sda1` is
//! what a disk happened to be called, and becomes a UUID. What can go wrong: a filesystem without any name that lasts;
//! that is an error, never a guess.

use super::super::target::{Filesystem, Layer, Target};
use super::super::{PrepareError, Task};

/// Prefixes of what names a filesystem, with what stands for the same below `/dev`.
const UUID: [&str; 2] = ["UUID=", "/dev/disk/by-uuid/"];
const LABEL: [&str; 2] = ["LABEL=", "/dev/disk/by-label/"];
const PARTUUID: [&str; 2] = ["PARTUUID=", "/dev/disk/by-partuuid/"];

/// Undoes the octal escapes of fstab(5).
pub(super) fn decode(field: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let value = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Escapes what a field of fstab(5) cannot hold.
pub(super) fn encode(text: &str) -> Vec<u8> {
    text.bytes()
        .flat_map(|b| match b {
            b' ' => b"\\040".to_vec(),
            b'\t' => b"\\011".to_vec(),
            b'\n' => b"\\012".to_vec(),
            b'\\' => b"\\134".to_vec(),
            _ => vec![b],
        })
        .collect()
}

/// The value behind one of these prefixes, without quotes, and with what udev escapes in names of links.
fn behind(spec: &str, prefixes: [&str; 2]) -> Option<String> {
    if let Some(value) = spec.strip_prefix(prefixes[0]) {
        return Some(value.trim_matches('"').to_owned());
    }
    spec.strip_prefix(prefixes[1]).map(|value| {
        let mut parts = value.split("\\x");
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            match (part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()), part.get(2..)) {
                (Some(byte), Some(rest)) if byte.is_ascii() => {
                    plain.push(char::from(byte));
                    plain.push_str(rest);
                }
                _ => {
                    plain.push_str("\\x");
                    plain.push_str(part);
                }
            }
        }
        plain
    })
}

/// The id in a spec that is nobody else's: a UUID of a filesystem or a partition.
pub(super) fn id_of(spec: &str) -> Option<String> {
    behind(spec, UUID).or_else(|| behind(spec, PARTUUID)).filter(|id| !id.is_empty())
}

/// Volume group and logical volume, if the spec can name such.
pub(super) fn volume_of(spec: &str) -> Option<(String, String)> {
    let rest = spec.strip_prefix("/dev/")?;
    if let Some(name) = rest.strip_prefix("mapper/") {
        let bytes = name.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == b'-' && bytes.get(at + 1) != Some(&b'-') {
                return Some((name[..at].replace("--", "-"), name[at + 1..].replace("--", "-")));
            }
            at += if bytes[at] == b'-' { 2 } else { 1 };
        }
        return None;
    }
    let (group, volume) = rest.split_once('/')?;
    (!volume.contains('/') && !matches!(group, "disk" | "md" | "mapper"))
        .then(|| (group.to_owned(), volume.to_owned()))
}

/// The name of a volume below `/dev/mapper`.
pub(super) fn mapper_name(group: &str, volume: &str) -> String {
    format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--"))
}

/// Whether `spec` is a name of `filesystem` that lasts.
pub(super) fn names(spec: &str, filesystem: &Filesystem) -> bool {
    let is = |value: Option<String>, own: &Option<String>| matches!((&value, own), (Some(value), Some(own)) if value.eq_ignore_ascii_case(own));
    let label = behind(spec, LABEL);
    if is(behind(spec, UUID), &filesystem.uuid)
        || is(behind(spec, PARTUUID), &filesystem.partition_uuid)
        || (label.is_some() && label == filesystem.label)
    {
        return true;
    }
    match filesystem.layers.first() {
        Some(Layer::Lvm { group, volume }) => volume_of(spec) == Some((group.clone(), volume.clone())),
        Some(Layer::Luks { name, .. }) => spec.strip_prefix("/dev/mapper/") == Some(name),
        _ => false,
    }
}

/// How a file that named production's filesystem `old` is to name the standby's.
pub(super) fn name_like(old: &str, filesystem: &Filesystem) -> Result<String, PrepareError> {
    if names(old, filesystem) {
        return Ok(old.to_owned());
    }
    if let (Some(Layer::Lvm { group, volume }), Some(_)) = (filesystem.layers.first(), volume_of(old)) {
        return Ok(if old.starts_with("/dev/mapper/") {
            format!("/dev/mapper/{}", mapper_name(group, volume))
        } else {
            format!("/dev/{group}/{volume}")
        });
    }
    if let Some(uuid) = &filesystem.partition_uuid
        && let Some(prefix) = PARTUUID.iter().find(|prefix| old.starts_with(*prefix))
    {
        return Ok(format!("{prefix}{uuid}"));
    }
    let uuid = filesystem.uuid.as_ref().map(|uuid| {
        if old.starts_with(UUID[1]) { format!("{}{uuid}", UUID[1]) } else { format!("UUID={uuid}") }
    });
    let other = || filesystem.partition_uuid.as_ref().map(|uuid| format!("PARTUUID={uuid}"));
    uuid.or_else(other).ok_or_else(|| PrepareError::Storage {
        device: filesystem.device.display().to_string(),
        reason: "it has no UUID to be found by".to_owned(),
    })
}

/// What `--map-device` says of `old`: nothing, that it has no counterpart, or its counterpart.
pub(super) fn mapped<'a>(task: &'a Task<'_>, old: &str) -> Option<Option<&'a str>> {
    let pair = task.options.device_map.iter().find(|(from, _)| from == old)?;
    Some(pair.1.as_deref())
}

/// How the kernel and fstab find the root, as [`name_like`], unless the caller said it.
pub(super) fn root_like(task: &Task<'_>, old: &str) -> Result<String, PrepareError> {
    if let Some(spec) = &task.options.root_device {
        return Ok(spec.clone());
    }
    match task.target.at("/") {
        Some(filesystem) => name_like(old, filesystem),
        None => Err(PrepareError::Storage {
            device: "the root".to_owned(),
            reason: "nothing is mounted there: name what it will lie on with --root-device".to_owned(),
        }),
    }
}

/// The filesystem that `/boot` is on.
pub(super) fn boot_of(target: &Target) -> Option<&Filesystem> {
    target.at("/boot").or_else(|| target.at("/"))
}

/// Where the EFI system partition is mounted, if it is.
pub(in crate::prepare) fn esp_of(target: &Target) -> Option<&'static str> {
    ["/boot/efi", "/efi", "/boot"]
        .into_iter()
        .find(|point| target.at(point).is_some_and(|filesystem| filesystem.kind == "vfat"))
}

/// What has to be there before the root can be: volumes, headers and arrays, of the root, `/usr` and swap.
#[derive(Debug, Default)]
pub(super) struct Needed {
    pub(super) volumes: Vec<(String, String)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) arrays: Vec<String>,
}

impl Needed {
    /// Of everything that is mounted at these places; of everything mounted, and swap, when there are none.
    pub(super) fn of(target: &Target, points: &[&str]) -> Self {
        let mut needed = Self::default();
        for filesystem in &target.filesystems {
            let at = |point: &&str| target.at(point) == Some(filesystem);
            if !points.is_empty() && !points.iter().any(at) && filesystem.kind != "swap" {
                continue;
            }
            for layer in &filesystem.layers {
                match layer {
                    Layer::Lvm { group, volume } => add(&mut needed.volumes, (group.clone(), volume.clone())),
                    Layer::Luks { name, uuid } => add(&mut needed.headers, (name.clone(), uuid.clone())),
                    Layer::Md { uuid } => add(&mut needed.arrays, uuid.clone()),
                    Layer::Partition { .. } | Layer::Disk => {}
                }
            }
        }
        needed
    }

    /// The volume groups, each once.
    pub(super) fn groups(&self) -> Vec<String> {
        let mut groups = Vec::new();
        for (group, _) in &self.volumes {
            add(&mut groups, group.clone());
        }
        groups
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::filesystem;
    use super::*;

    #[test]
    fn the_style_is_kept_where_it_lasts() {
        let mut root = filesystem("", "ext4", "new-uuid");
        root.partition_uuid = Some("new-part".into());
        root.label = Some("my root".into());
        let like = |old: &str, filesystem: &Filesystem| name_like(old, filesystem).unwrap();
        assert_eq!(like("UUID=old", &root), "UUID=new-uuid");
        assert_eq!(like("/dev/sda1", &root), "UUID=new-uuid");
        assert_eq!(like("/dev/disk/by-id/scsi-1", &root), "UUID=new-uuid");
        assert_eq!(like("/dev/disk/by-uuid/old", &root), "/dev/disk/by-uuid/new-uuid");
        assert_eq!(like("PARTUUID=old", &root), "PARTUUID=new-part");
        assert_eq!(like("LABEL=my root", &root), "LABEL=my root");
        assert_eq!(like("/dev/disk/by-label/my\\x20root", &root), "/dev/disk/by-label/my\\x20root");
        assert_eq!(like("LABEL=other", &root), "UUID=new-uuid");
        assert_eq!(like("/dev/mapper/vg-root", &root), "UUID=new-uuid");
        root.layers = vec![Layer::Lvm { group: "new-vg".into(), volume: "root".into() }];
        assert_eq!(like("/dev/mapper/vg-root", &root), "/dev/mapper/new--vg-root");
        assert_eq!(like("/dev/vg/root", &root), "/dev/new-vg/root");
        assert_eq!(like("/dev/new-vg/root", &root), "/dev/new-vg/root");
        (root.uuid, root.partition_uuid) = (None, None);
        assert!(name_like("UUID=old", &root).is_err());
    }

    #[test]
    fn a_field_of_fstab_is_taken_apart_and_put_together() {
        assert_eq!(decode(b"LABEL=a\\040b\\011c\\134"), "LABEL=a b\tc\\");
        assert_eq!(decode(b"\\04 \\999 \\"), "\\04 \\999 \\");
        assert_eq!(encode("a b\\"), b"a\\040b\\134");
    }

    #[test]
    fn a_volume_is_recognised_in_both_spellings() {
        let is = |spec: &str| volume_of(spec);
        assert_eq!(is("/dev/mapper/a--b-c--d"), Some(("a-b".into(), "c-d".into())));
        assert_eq!(is("/dev/a-b/c-d"), Some(("a-b".into(), "c-d".into())));
        assert_eq!(is("/dev/mapper/cryptroot"), None);
        assert_eq!(is("/dev/disk/by-uuid/x"), None);
        assert_eq!(is("/dev/md/0"), None);
        assert_eq!(is("/dev/sda1"), None);
    }
}
