//! What a block device lies on, down to the disks, as sysfs has it.
//!
//! Why: the kernel's command line has to name volume groups, LUKS headers and arrays, and a boot loader needs the disk.
//! What can go wrong: a layer that nobody here knows how to boot from; it is named, and the caller refuses.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::super::target::Layer;
use super::probe;

/// More layers, or devices on one disk, than anybody has.
const LAYERS_LIMIT: usize = 16;
const DEVICES_LIMIT: usize = 512;

/// A device and what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stack {
    pub(super) number: (u32, u32),
    pub(super) device: PathBuf,
    pub(super) layers: Vec<Layer>,
    pub(super) disks: Vec<PathBuf>,
}

impl Stack {
    /// Whether it is a disk itself, or an array of whole disks.
    pub(super) fn is_disk(&self) -> bool {
        !matches!(
            self.layers.first(),
            Some(Layer::Partition { .. } | Layer::Lvm { .. } | Layer::Luks { .. }) | None
        )
    }

    /// `uuid`, if the device itself is a partition: what lies deeper has another one.
    pub(super) fn partition_uuid(&self, uuid: Option<String>) -> Option<String> {
        uuid.filter(|_| matches!(self.layers.first(), Some(Layer::Partition { .. })))
    }
}

/// What is below device `number`.
pub(super) fn below(number: (u32, u32)) -> Result<Stack, String> {
    let directory = Path::new("/sys/dev/block").join(format!("{}:{}", number.0, number.1));
    let directory = directory
        .canonicalize()
        .map_err(|error| format!("device {}:{} is not in /sys: {error}", number.0, number.1))?;
    let mut layers = Vec::new();
    let mut disks = BTreeSet::new();
    descend(&directory, 0, Some(&mut layers), &mut disks)?;
    Ok(Stack { number, device: device(&directory), layers, disks: disks.into_iter().collect() })
}

/// Adds what `directory` is to `layers` and the disks below it to `disks`.
fn descend(
    directory: &Path,
    depth: usize,
    mut layers: Option<&mut Vec<Layer>>,
    disks: &mut BTreeSet<PathBuf>,
) -> Result<(), String> {
    if depth > LAYERS_LIMIT {
        return Err("there are too many layers below it".to_owned());
    }
    let mut add = |layer: Layer| {
        if let Some(layers) = layers.as_deref_mut()
            && layers.last() != Some(&layer)
        {
            layers.push(layer);
        }
    };
    if let Some(number) = text(&directory.join("partition")).and_then(|number| number.parse().ok()) {
        add(Layer::Partition { number });
        let disk = directory.parent().ok_or("a partition without a disk")?;
        return descend(disk, depth + 1, layers, disks);
    }
    if let Some(uuid) = text(&directory.join("dm/uuid")) {
        let name = text(&directory.join("dm/name")).unwrap_or_default();
        let layer = mapping(&uuid, &name)?;
        // What a logical volume is made of within LVM (mirrors, caches) is not a layer of its own.
        let inner = |is: &Layer| matches!((is, &layer), (Layer::Lvm { .. }, Layer::Lvm { .. }));
        if let Some(layers) = layers.as_deref_mut()
            && !layers.last().is_some_and(inner)
        {
            layers.push(layer);
        }
    } else if directory.join("md").is_dir() {
        let uuid = array_uuid(directory)
            .ok_or_else(|| format!("the UUID of the array {} is not known", device(directory).display()))?;
        add(Layer::Md { uuid });
    } else if directory.join("bcache").exists() {
        return Err("bcache is a layer that this does not know how to boot from".to_owned());
    } else {
        add(Layer::Disk);
        disks.insert(device(directory));
        return Ok(());
    }
    let members = names(&directory.join("slaves"));
    if members.is_empty() {
        return Err(format!("what {} lies on is not known", device(directory).display()));
    }
    for (at, member) in members.iter().enumerate() {
        let member = directory.join("slaves").join(member);
        let member = member.canonicalize().map_err(|error| format!("{}: {error}", member.display()))?;
        // The layers of the first are those of all, or nobody could name them on a command line.
        descend(&member, depth + 1, if at == 0 { layers.as_deref_mut() } else { None }, disks)?;
    }
    Ok(())
}

/// A device-mapper mapping, by the prefix of its uuid.
fn mapping(uuid: &str, name: &str) -> Result<Layer, String> {
    if uuid.starts_with("LVM-") {
        let (group, volume) = volume_of(name).ok_or_else(|| format!("{name} is no name of LVM"))?;
        return Ok(Layer::Lvm { group, volume });
    }
    if uuid.starts_with("CRYPT-LUKS") {
        let digits = uuid.split('-').nth(2).filter(|digits| digits.len() == 32 && digits.is_ascii());
        let digits = digits.ok_or_else(|| format!("{name} has no LUKS UUID"))?;
        let uuid = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
        return Ok(Layer::Luks { name: name.to_owned(), uuid });
    }
    let kind = uuid.split('-').next().unwrap_or_default();
    let kind = match kind {
        "" => "a mapping without a uuid",
        "mpath" => "multipath",
        _ if kind.starts_with("part") => "a partition mapped by kpartx or multipath",
        "DMRAID" => "dmraid",
        _ => kind,
    };
    Err(format!("{kind} ({name}) is a layer that this does not know how to boot from"))
}

/// Takes `vg--a-root` apart: a hyphen of a name is doubled, the one between the names is not.
fn volume_of(name: &str) -> Option<(String, String)> {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'-' {
            if bytes.get(at + 1) != Some(&b'-') {
                let (group, volume) = (&name[..at], &name[at + 1..]);
                return Some((group.replace("--", "-"), volume.replace("--", "-")));
            }
            at += 1;
        }
        at += 1;
    }
    None
}

/// The UUID of an md array as mdadm(8) writes it, from one of its members.
fn array_uuid(directory: &Path) -> Option<String> {
    let member = names(&directory.join("slaves")).into_iter().next()?;
    let member = directory.join("slaves").join(member).canonicalize().ok()?;
    let uuid = probe::facts(&device(&member)).ok()?.uuid?;
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    (digits.len() == 32).then(|| {
        [&digits[..8], &digits[8..16], &digits[16..24], &digits[24..]].join(":").to_ascii_lowercase()
    })
}

/// The numbers of all devices on these disks: partitions, and what is made of them.
pub(super) fn everything_on(disks: &BTreeSet<PathBuf>) -> Vec<(u32, u32)> {
    let mut waiting: Vec<PathBuf> = disks
        .iter()
        .filter_map(|disk| Path::new("/sys/class/block").join(disk.file_name()?).canonicalize().ok())
        .collect();
    let mut seen = HashSet::new();
    let mut numbers = BTreeSet::new();
    while let Some(directory) = waiting.pop() {
        if seen.len() > DEVICES_LIMIT || !seen.insert(directory.clone()) {
            continue;
        }
        if let Some((major, minor)) =
            text(&directory.join("dev")).as_deref().and_then(|dev| dev.split_once(':'))
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            numbers.insert((major, minor));
        }
        waiting.extend(
            names(&directory)
                .iter()
                .map(|name| directory.join(name))
                .filter(|p| p.join("partition").exists()),
        );
        let holders = directory.join("holders");
        waiting.extend(names(&holders).iter().filter_map(|name| holders.join(name).canonicalize().ok()));
    }
    numbers.into_iter().collect()
}

/// The device node of a directory of sysfs, in which a slash of a name is an exclamation mark.
fn device(directory: &Path) -> PathBuf {
    let name = directory.file_name().unwrap_or_default().to_string_lossy().replace('!', "/");
    match text(&directory.join("dm/name")) {
        // udev(7) may not run; device-mapper's own nodes have the mapping's name.
        Some(mapped) if Path::new("/dev/mapper").join(&mapped).exists() => {
            Path::new("/dev/mapper").join(mapped)
        }
        _ => Path::new("/dev").join(name),
    }
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_known_by_its_uuid_or_named_and_refused() {
        let lvm = |group: &str, volume: &str| Ok(Layer::Lvm { group: group.into(), volume: volume.into() });
        assert_eq!(mapping("LVM-x", "vg-root"), lvm("vg", "root"));
        assert_eq!(mapping("LVM-x", "my--vg-my--root--2"), lvm("my-vg", "my-root-2"));
        assert_eq!(
            mapping("CRYPT-LUKS2-0a3407de014b458bb5c1848e92a327a3-cryptroot", "cryptroot"),
            Ok(Layer::Luks { name: "cryptroot".into(), uuid: "0a3407de-014b-458b-b5c1-848e92a327a3".into() })
        );
        for (uuid, word) in [
            ("mpath-360", "multipath"),
            ("part1-mpath-360", "kpartx"),
            ("DMRAID-x", "dmraid"),
            ("CRYPT-PLAIN-x", "CRYPT"),
            ("", "without a uuid"),
            ("CRYPT-LUKS1-short", "no LUKS UUID"),
        ] {
            assert!(mapping(uuid, "name").is_err_and(|reason| reason.contains(word)), "{uuid}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert!(below((4095, 1)).is_err());
    }
}
