//! The boots of the test: what each is, and what has to be wrong with it.
//!
//! A boot from which a step was left out must show the faults of that step and no others; a boot from which none was
//! left out must show none. The short form has one of each kind, and the quick ones.

use std::collections::BTreeSet;
use std::path::Path;

use crate::image::DiskCopy;
use crate::production::{ADDRESS, HOSTNAME, MACHINE_ID, MARKERS, ROOT_UUID};
use crate::proof::{Fault, Finding, faults};
use crate::sabotage;
use crate::standby::{self, Layout};
use crate::upgrade::Sync;
use crate::vm::Firmware;

/// One boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Only in the long form.
    pub(crate) long: bool,
    pub(crate) layout: Layout,
    pub(crate) firmware: Firmware,
    /// What is undone before, on a copy of the disk, with what production has.
    pub(crate) undo: Option<fn(&DiskCopy, &Path)>,
    /// The syncs from an upgraded production that are done before, with a boot after each.
    pub(crate) syncs: &'static [Sync],
    /// The faults that it shows, and what is said of each.
    pub(crate) expected: &'static [(Fault, &'static [&'static str])],
}

impl Case {
    /// How `findings` are other than expected; empty when they are not.
    pub(crate) fn wrong(&self, findings: &[Finding]) -> Vec<String> {
        let mut wrong = Vec::new();
        let expected: BTreeSet<_> = self.expected.iter().map(|(fault, _)| *fault).collect();
        for unexpected in faults(findings).difference(&expected) {
            wrong.push(format!("{unexpected:?} was not to be expected"));
        }
        for (fault, texts) in self.expected {
            let found: Vec<_> =
                findings.iter().filter(|(one, _)| one == fault).map(|(_, text)| text).collect();
            if found.is_empty() {
                wrong.push(format!("{fault:?} was to be expected"));
            }
            for text in *texts {
                if !found.iter().any(|one| one.contains(text)) {
                    wrong.push(format!("{fault:?} was to be expected with {text:?}"));
                }
            }
        }
        wrong
    }
}

/// A boot of a plain disk by BIOS, in the short form.
const BOOT: Case = Case {
    name: "",
    long: false,
    layout: Layout::Plain,
    firmware: Firmware::Bios,
    undo: None,
    syncs: &[],
    expected: &[],
};
const LONG: Case = Case { long: true, ..BOOT };

pub(crate) const CASES: &[Case] = &[
    Case { name: "bios", ..BOOT },
    Case { name: "uefi-fallback", firmware: Firmware::Uefi, ..BOOT },
    Case { name: "lvm-bios", layout: Layout::Lvm, ..LONG },
    Case { name: "lvm-uefi-fallback", layout: Layout::Lvm, firmware: Firmware::Uefi, ..LONG },
    Case { name: "kernel-upgrade", syncs: &[Sync::Whole], ..LONG },
    Case { name: "kernel-upgrade-cut-short", syncs: &[Sync::Cut, Sync::Whole], ..BOOT },
    Case {
        name: "without-loader",
        undo: Some(sabotage::no_loader),
        expected: &[(Fault::NoLoader, &["Booting from Hard Disk"])],
        ..BOOT
    },
    Case {
        name: "without-fallback",
        firmware: Firmware::Uefi,
        undo: Some(sabotage::no_fallback),
        expected: &[(Fault::NoLoader, &["BdsDxe: failed to load"])],
        ..BOOT
    },
    Case {
        name: "without-initramfs",
        undo: Some(sabotage::no_initramfs),
        expected: &[(Fault::NoInitramfs, &["VFS"])],
        ..BOOT
    },
    Case {
        name: "menu-of-production",
        undo: Some(sabotage::stale_menu),
        expected: &[(Fault::NoRoot, &[ROOT_UUID])],
        ..BOOT
    },
    Case {
        name: "identity-of-production",
        undo: Some(sabotage::whole_identity),
        expected: &[
            (Fault::Hostname, &[HOSTNAME]),
            (Fault::MachineId, &[MACHINE_ID]),
            (Fault::HostKeys, &[]),
            (Fault::Sshd, &["no key is offered"]),
            (Fault::Address, &[ADDRESS]),
            (Fault::Marker, &MARKERS),
        ],
        ..BOOT
    },
    Case {
        name: "initramfs-of-production",
        undo: Some(sabotage::stale_initramfs),
        expected: &[(Fault::NoRoot, &[standby::ROOT_UUID])],
        ..LONG
    },
    Case {
        // It boots all the same, read-only, because the loader names the right one.
        name: "root-line-of-production",
        undo: Some(sabotage::stale_root_line),
        expected: &[
            (Fault::FailedUnit, &["systemd-remount-fs.service"]),
            (Fault::Root, &[" ro,"]),
            (Fault::Cron, &[]),
        ],
        ..LONG
    },
    Case {
        name: "esp-line-of-production",
        undo: Some(sabotage::stale_esp_line),
        expected: &[(Fault::DeviceTimeout, &["1111-CCCC"]), (Fault::Stuck, &["emergency"])],
        ..LONG
    },
    Case {
        // What systemd says of it is shortened in the middle, to the width of the console.
        name: "swap-line-of-production",
        undo: Some(sabotage::stale_swap_line),
        expected: &[(Fault::DeviceTimeout, &["4bbb-8bbb-111111111111"]), (Fault::Swap, &[])],
        ..LONG
    },
    Case {
        name: "volume-of-production",
        undo: Some(sabotage::absent_volume),
        expected: &[(Fault::DeviceTimeout, &["vg_data"]), (Fault::Stuck, &["emergency"])],
        ..LONG
    },
    Case {
        name: "hostname-of-production",
        undo: Some(sabotage::old_hostname),
        expected: &[(Fault::Hostname, &[HOSTNAME])],
        ..LONG
    },
    Case {
        name: "machine-id-of-production",
        undo: Some(sabotage::old_machine_id),
        expected: &[(Fault::MachineId, &[MACHINE_ID])],
        ..LONG
    },
    Case {
        name: "emptied-machine-id",
        undo: Some(sabotage::emptied_machine_id),
        expected: &[(Fault::MachineId, &[MACHINE_ID])],
        ..LONG
    },
    Case {
        name: "host-keys-of-production",
        undo: Some(sabotage::old_host_keys),
        expected: &[(Fault::HostKeys, &[])],
        ..LONG
    },
    Case {
        name: "network-of-production",
        undo: Some(sabotage::old_network),
        expected: &[(Fault::Address, &[ADDRESS]), (Fault::Sshd, &["no key is offered"])],
        ..LONG
    },
    Case {
        name: "jobs-of-production",
        undo: Some(sabotage::unheld_jobs),
        expected: &[(Fault::Marker, &MARKERS)],
        ..LONG
    },
];
