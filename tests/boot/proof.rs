//! What a boot showed, and what is wrong with it.
//!
//! A boot is judged by what the standby reports, what its console says and what was on its wire. Every judgement has
//! a [`Fault`], so that a test which leaves one step out can demand that this fault appears and no other. What can go
//! wrong is that an assertion never fires; there is a boot for each that makes it fire.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::standby::{Standby, fingerprint};
use crate::traffic::addresses;
use crate::vm::{Disk, Event, Firmware, Machine, Vm};
use crate::{production, standby};

/// Far above what a boot takes on a busy machine: two minutes, and four when it waits for a device.
const LIMIT: Duration = Duration::from_secs(900);

/// A firmware that finds code to start may jump into zeros, and is silent from then on. GRUB says its name within
/// seconds.
const FIRMWARE_LIMIT: Duration = Duration::from_secs(60);

/// What can be wrong with a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The firmware found nothing to start.
    NoLoader,
    /// The loader started a kernel without an initramfs, or none at all.
    NoInitramfs,
    /// The initramfs waited in vain for the root filesystem.
    NoRoot,
    /// It ended in emergency mode, or silently, or not at all.
    Stuck,
    /// Another kernel than the standby's.
    Kernel,
    Hostname,
    MachineId,
    Root,
    Swap,
    HostKeys,
    Sshd,
    FailedUnit,
    DeviceTimeout,
    Mounts,
    /// A job of production's has run.
    Marker,
    /// Production's address was configured, or on the wire.
    Address,
    /// Cron runs nothing, so that the silence of production's jobs says nothing.
    Cron,
}

/// A fault and what showed it.
pub(crate) type Finding = (Fault, String);

/// What the console says when a boot is over without success; the reason is on the same line or before it.
const ENDS: [(&str, Fault); 7] = [
    ("No bootable device", Fault::NoLoader),
    ("BdsDxe: failed to load", Fault::NoLoader),
    ("Unable to mount root fs", Fault::NoInitramfs),
    ("does not exist.  Dropping to a shell!", Fault::NoRoot),
    ("You are in emergency mode", Fault::Stuck),
    ("grub rescue>", Fault::Stuck),
    ("Kernel panic", Fault::Stuck),
];

/// Boots `disk`, a copy of the standby's, in a machine of its own with another name for the disk, and judges it.
pub(crate) fn boot(standby: &Standby, disk: &Path, firmware: Firmware, dir: &Path) -> (Vec<Finding>, Vm) {
    let machine = Machine {
        firmware,
        disks: vec![Disk::Scsi(disk.to_owned())],
        kernel: None,
        ssh_address: Some(standby::ADDRESS),
    };
    let mut vm = Vm::start(&machine, dir);
    let failed = |console: &str| ENDS.iter().find(|(text, _)| console.contains(text));
    let loaded = vm.wait(FIRMWARE_LIMIT, |console, _| console.contains("GRUB") || failed(console).is_some());
    let limit = if loaded == Event::Seen { LIMIT } else { Duration::ZERO };
    let event = vm.wait(limit, |console, report| has(report, "ready") || failed(console).is_some());
    let mut findings = Vec::new();
    if has(&vm.report(), "ready") {
        let offered = offered_keys(vm.ssh_port());
        let event = vm.wait(LIMIT, |_, report| has(report, "end"));
        vm.stop();
        if event != Event::Seen {
            findings.push((Fault::Stuck, format!("the report does not end: {event:?}")));
        }
        findings.extend(judge(standby, &vm.report(), &offered));
        findings.extend(judge_packets(&vm.packets()));
    } else {
        vm.stop();
        let console = vm.console();
        let finding = match failed(&console) {
            Some((text, fault)) => (*fault, around(&console, text)),
            None if loaded != Event::Seen => (Fault::NoLoader, console),
            None => (Fault::Stuck, format!("{event:?}")),
        };
        findings.push(finding);
    }
    findings.extend(timeouts(&vm.console()));
    (findings, vm)
}

/// The faults among findings.
pub(crate) fn faults(findings: &[Finding]) -> BTreeSet<Fault> {
    findings.iter().map(|(fault, _)| *fault).collect()
}

fn has(report: &str, name: &str) -> bool {
    report.lines().any(|line| line.strip_prefix("PROOF ") == Some(name))
}

/// The lines around the one with `text`.
fn around(console: &str, text: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    let at = lines.iter().position(|line| line.contains(text)).unwrap_or_default();
    lines[at.saturating_sub(8)..lines.len().min(at + 2)].join("\n")
}

/// What systemd says of a device that did not come.
fn timeouts(console: &str) -> Vec<Finding> {
    let told = ["Timed out waiting", "[DEPEND]", "[ TIME ]", "Dependency failed"];
    let lines = console.lines().filter(|line| told.iter().any(|text| line.contains(text)));
    lines.map(|line| (Fault::DeviceTimeout, line.trim().to_owned())).collect()
}

/// The fingerprints of the keys that the standby's sshd offers.
fn offered_keys(port: u16) -> BTreeSet<String> {
    let scan = Command::new("ssh-keyscan").args(["-T", "60", "-p", &port.to_string(), "127.0.0.1"]).output();
    let keys = scan.expect("run ssh-keyscan (package openssh-client)").stdout;
    let keys = String::from_utf8_lossy(&keys).into_owned();
    keys.lines().filter(|line| !line.starts_with('#')).map(key_fingerprint).collect()
}

/// The fingerprint of a line of known_hosts.
fn key_fingerprint(line: &str) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file for a key");
    std::fs::write(file.path(), line).expect("write the key");
    fingerprint(&crate::common::run("ssh-keygen", ["-l".as_ref(), "-f".as_ref(), file.path().as_os_str()]))
}

fn judge(standby: &Standby, report: &str, offered: &BTreeSet<String>) -> Vec<Finding> {
    let facts = |name: &str| {
        let prefix = format!("PROOF {name} ");
        report
            .lines()
            .filter_map(move |line| line.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let fact = |name: &str| facts(name).pop().unwrap_or_default();
    let mut findings = Vec::new();
    // An assertion that holds is silent.
    let mut demand = |holds: bool, fault: Fault, found: String| {
        if !holds {
            findings.push((fault, found));
        }
    };
    demand(fact("kernel") == standby.kernel, Fault::Kernel, fact("kernel"));
    demand(fact("hostname") == standby::HOSTNAME, Fault::Hostname, fact("hostname"));
    let (id, bus) = (fact("machine-id"), fact("dbus-machine-id"));
    let valid = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let own = valid && id == standby.machine_id && id != production::MACHINE_ID && bus == id;
    demand(own, Fault::MachineId, format!("{id}, D-Bus {bus}, prepared {}", standby.machine_id));
    let root = fact("root");
    let mut words = root.split_whitespace();
    let own = words.next() == Some(standby::ROOT_UUID);
    let device = words.next().unwrap_or_default();
    let named =
        device.starts_with(if standby.layout == standby::Layout::Lvm { "/dev/mapper/" } else { "/dev/sda" });
    let writable = words.next().is_some_and(|options| options.split(',').any(|option| option == "rw"));
    demand(own && named && writable, Fault::Root, root.clone());
    let swaps = facts("swap");
    let own = swaps.len() == 1 && swaps[0].starts_with(standby::SWAP_UUID);
    demand(own, Fault::Swap, format!("{swaps:?}"));
    let mounts = facts("mount");
    let mounted = |point: &str| mounts.iter().any(|line| line.split(' ').next() == Some(point));
    demand(
        mounted("/boot/efi") && !mounts.iter().any(|line| line.starts_with("/srv/")),
        Fault::Mounts,
        format!("{mounts:?}"),
    );
    let reported: BTreeSet<_> = facts("host-key").iter().map(|line| fingerprint(line)).collect();
    let prepared = &standby.host_keys;
    // A standby that cannot be reached is another fault than one with wrong keys.
    demand(!offered.is_empty(), Fault::Sshd, "no key is offered at the standby's address".to_owned());
    let own = !prepared.is_empty() && reported == *prepared && offered.is_subset(prepared);
    let new = prepared.is_disjoint(&standby.keys_of_production);
    demand(
        own && new,
        Fault::HostKeys,
        format!("prepared {prepared:?}, reported {reported:?}, offered {offered:?}"),
    );
    demand(fact("sshd") == "active", Fault::Sshd, fact("sshd"));
    demand(report.lines().any(|line| line == "PROOF minute"), Fault::Cron, "no minute passed".to_owned());
    let own = facts("address")
        .iter()
        .map(|line| line.split('/').next().unwrap_or_default().to_owned())
        .collect::<Vec<_>>();
    demand(own == [standby::ADDRESS], Fault::Address, format!("{own:?}"));
    findings.extend(facts("failed").into_iter().map(|unit| (Fault::FailedUnit, unit)));
    findings.extend(facts("marker").into_iter().map(|marker| (Fault::Marker, marker)));
    findings
}

fn judge_packets(packets: &[u8]) -> Vec<Finding> {
    let seen = addresses(packets);
    let named = |address: &str| seen.iter().any(|one| one.to_string() == address);
    // Without the standby's own address the capture would be blind, and the absence of production's mean nothing.
    let blind = !named(standby::ADDRESS);
    let used = named(production::ADDRESS);
    if blind || used { vec![(Fault::Address, format!("on the wire: {seen:?}"))] } else { Vec::new() }
}
