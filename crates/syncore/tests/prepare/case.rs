//! What a case asks for: `case.toml`.
//!
//! Why: options and hardware of a case are read from words, as an administrator would give them. What can go wrong: a
//! key that is misspelt and does nothing; unknown ones are refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use syncore::prepare::{
    Address, AddressSetting, Bootloader, DeviceTree, Filesystem, Identity, Layer, Options, Platform, Target,
};
use syncore::tree::RelPath;

use super::tree::Tree;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// What it is a case of, for whoever reads it.
    #[serde(rename = "about")]
    _about: String,
    #[serde(default)]
    options: OptionsTable,
    #[serde(default)]
    target: TargetTable,
    /// Files whose new content is random: the path, and the word that stands for its content in `after/`, in names
    /// of files, and in `report.txt`.
    #[serde(default)]
    random: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OptionsTable {
    hostname: Option<String>,
    boot_disks: Vec<PathBuf>,
    addresses: Vec<AddressTable>,
    root_device: Option<String>,
    /// Pairs; `none` drops the line.
    device_map: Vec<(String, String)>,
    /// `linux` or `solaris`.
    platform: Option<String>,
    /// `own` or `takeover`.
    identity: Option<String>,
    /// `auto` or `none`.
    bootloader: Option<String>,
    /// `auto` or `pending`.
    device_tree: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressTable {
    interface: String,
    /// `10.0.0.5/24`, or `dhcp`.
    address: String,
    gateway: Option<std::net::IpAddr>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TargetTable {
    filesystems: Vec<FilesystemTable>,
    boot_disks: Vec<PathBuf>,
    uefi: bool,
    /// `none`, the default, is the architecture of no program in any tree.
    architecture: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FilesystemTable {
    /// As the system in the tree will see it; none for swap.
    mount_point: Option<String>,
    kind: String,
    device: PathBuf,
    uuid: Option<String>,
    label: Option<String>,
    partition_uuid: Option<String>,
    subvolume: Option<String>,
    /// From the top: `lvm GROUP VOLUME`, `luks NAME UUID`, `md UUID`, `partition NUMBER`, `disk`.
    layers: Vec<String>,
    disks: Vec<PathBuf>,
}

pub(super) struct Case {
    pub(super) options: Options,
    pub(super) target: Target,
    random: BTreeMap<String, String>,
}

impl Case {
    pub(super) fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let document: Document =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let filesystems = document.target.filesystems.into_iter().map(filesystem).collect();
        let target = Target {
            disks: Vec::new(),
            filesystems,
            boot_disks: document.target.boot_disks,
            uefi: document.target.uefi,
            architecture: document.target.architecture.unwrap_or_else(|| "none".into()),
        };
        Self { options: options(document.options), target, random: document.random }
    }

    /// Puts the words in place of what is random, and says what is not.
    pub(super) fn mask(
        &self,
        root: &Path,
        before: &Tree,
        after: &mut Tree,
        report: &mut String,
        wrong: &mut String,
    ) {
        for (path, word) in &self.random {
            let Ok(new) = std::fs::read(root.join(path.trim_start_matches('/'))) else {
                writeln!(wrong, "{path} is not there").unwrap();
                continue;
            };
            if before.content(path).is_some_and(|old| old == new) {
                writeln!(wrong, "{path} is what it was").unwrap();
            }
            after.mask(path, new.trim_ascii(), word);
            if let Ok(new) = std::str::from_utf8(new.trim_ascii()) {
                *report = report.replace(new, word);
            }
        }
    }
}

fn options(table: OptionsTable) -> Options {
    let word = |value: Option<String>, words: &[&str]| {
        value.map(|value| words.iter().position(|word| *word == value).unwrap_or_else(|| panic!("{value}")))
    };
    Options {
        hostname: table.hostname,
        boot_disks: table.boot_disks,
        addresses: table.addresses.into_iter().map(address).collect(),
        root_device: table.root_device,
        device_map: table
            .device_map
            .into_iter()
            .map(|(old, new)| (old, (new != "none").then_some(new)))
            .collect(),
        platform: word(table.platform, &["linux", "solaris"])
            .map(|at| [Platform::Linux, Platform::Solaris][at]),
        identity: [Identity::Own, Identity::Takeover]
            [word(table.identity, &["own", "takeover"]).unwrap_or(0)],
        bootloader: [Bootloader::Auto, Bootloader::None]
            [word(table.bootloader, &["auto", "none"]).unwrap_or(0)],
        device_tree: [DeviceTree::Auto, DeviceTree::Pending]
            [word(table.device_tree, &["auto", "pending"]).unwrap_or(0)],
        ..Options::default()
    }
}

fn address(table: AddressTable) -> Address {
    let setting = match table.address.split_once('/') {
        None if table.address == "dhcp" => AddressSetting::Dhcp,
        None => panic!("{}: neither dhcp nor ADDRESS/BITS", table.address),
        Some((address, bits)) => AddressSetting::Static {
            address: address.parse().unwrap(),
            prefix_bits: bits.parse().unwrap(),
            gateway: table.gateway,
        },
    };
    Address { interface: table.interface, setting }
}

fn filesystem(table: FilesystemTable) -> Filesystem {
    Filesystem {
        mount_point: table.mount_point.map(|path| RelPath::from_absolute(path.as_bytes()).unwrap()),
        kind: table.kind,
        device: table.device,
        uuid: table.uuid,
        label: table.label,
        partition_uuid: table.partition_uuid,
        subvolume: table.subvolume,
        layers: table.layers.iter().map(|layer| self::layer(layer)).collect(),
        disks: table.disks,
    }
}

fn layer(text: &str) -> Layer {
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        ["lvm", group, volume] => Layer::Lvm { group: group.into(), volume: volume.into() },
        ["luks", name, uuid] => Layer::Luks { name: name.into(), uuid: uuid.into() },
        ["md", uuid] => Layer::Md { uuid: uuid.into() },
        ["partition", number] => Layer::Partition { number: number.parse().unwrap() },
        ["disk"] => Layer::Disk,
        _ => panic!("{text}: no layer"),
    }
}
