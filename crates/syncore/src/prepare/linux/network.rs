//! Addresses, and what else makes a host itself on a network.
//!
//! Why: a copy that comes up with production's address takes it away from production. So every address of production's
//! goes, from whatever the root configures its network with, and an interface for which none is given stays down. What
//! can go wrong: a way of configuring that is not known; what is left of production's addresses anywhere is found by the
//! search for residue, and an address that could not be written is left to be done.

mod ifcfg;
mod ifupdown;
mod ini;
mod keyfile;
mod netplan;
mod networkd;

use std::net::IpAddr;

use super::units;
use crate::prepare::draft::Draft;
use crate::prepare::lines::Lines;
use crate::prepare::{Address, AddressSetting, Family, Finding, PrepareError, Task};
use crate::rules::Class;
use ifcfg::Style;

/// Rules that give an interface or a disc drive of production's its name, by its hardware.
const UDEV: [&str; 5] = [
    "70-persistent-net.rules",
    "75-persistent-net-generator.rules",
    "70-persistent-cd.rules",
    "30-net_persistent_names.rules",
    "eno-fix.rules",
];
/// Directories of leases and client ids.
const LEASES: [&str; 8] = [
    "/var/lib/dhcp",
    "/var/lib/dhclient",
    "/var/lib/dhcpcd",
    "/var/lib/dhcpcd5",
    "/var/lib/dhcpv6",
    "/var/lib/wicked",
    "/var/lib/systemd/network",
    "/var/lib/connman",
];

/// The standby's addresses, and production's as far as they were met.
#[derive(Debug, Default)]
pub(super) struct Own {
    addresses: Vec<Address>,
    source: Vec<String>,
}

impl Own {
    /// How an interface is to be addressed.
    fn setting(&self, interface: &str) -> Option<&AddressSetting> {
        self.addresses.iter().find(|address| address.interface == interface).map(|address| &address.setting)
    }

    /// Whether an address is production's.
    pub(super) fn is_sources(&self, address: &str) -> bool {
        self.source.iter().any(|source| source == address)
    }

    /// Takes note of the addresses that a file gives to this host.
    fn learn(&mut self, content: &[u8]) {
        for line in Lines::of(content).0 {
            let text = String::from_utf8_lossy(&line.content).into_owned();
            if text.trim_start().starts_with('#') {
                continue;
            }
            let lower = text.to_ascii_lowercase();
            let gives = lower.contains("addr") && !lower.contains("mac");
            for word in text.split(|c: char| c.is_whitespace() || "\"'=[],".contains(c)) {
                let (bare, length) =
                    word.split_once('/').map_or((word, None), |(bare, length)| (bare, Some(length)));
                let Ok(address) = bare.parse::<IpAddr>() else { continue };
                let ours = self.addresses.iter().any(|own| {
                    matches!(own.setting, AddressSetting::Static { address: own, .. } if own == address)
                });
                let host = length.is_none_or(|length| length.parse::<u8>().is_ok());
                // Of `address1=ADDRESS/LENGTH,GATEWAY` only the first is this host's.
                let takes = host && gives && (length.is_some() || !text.contains('/'));
                if takes && !ours && !address.is_loopback() && !address.is_unspecified() {
                    let address = address.to_string();
                    if !self.source.contains(&address) {
                        self.source.push(address);
                    }
                }
            }
        }
    }
}

/// What a root configures its network with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Native {
    Netplan,
    IfUpDown,
    IfCfg(Style),
    KeyFile,
    Networkd,
}

/// Plans addresses. What is known of them then is answered.
pub(super) fn plan(task: &Task<'_>, family: Family, draft: &mut Draft<'_>) -> Result<Own, PrepareError> {
    let mut own = Own { addresses: task.options.addresses.clone(), source: task.system.addresses.clone() };
    if let Some(earlier) = task.earlier {
        own.source.clone_from(&earlier.source_addresses);
    }
    own.source.retain(|source| {
        !own.addresses.iter().any(|address| match address.setting {
            AddressSetting::Static { address, .. } => address.to_string() == *source,
            AddressSetting::Dhcp => false,
        })
    });
    let native = native(family, draft)?;
    if native == Native::Netplan {
        netplan::plan(&mut own, draft)?;
    }
    ifupdown::plan(&mut own, native == Native::IfUpDown, draft)?;
    for style in [Style::RedHat, Style::Suse] {
        if family == Family::Suse || style == Style::RedHat {
            ifcfg::plan(style, &mut own, native == Native::IfCfg(style), draft)?;
        }
    }
    keyfile::plan(&mut own, native == Native::KeyFile, draft)?;
    networkd::plan(&mut own, native == Native::Networkd, draft)?;
    for address in &task.options.addresses {
        let new = match address.setting {
            AddressSetting::Dhcp => "from DHCP".to_owned(),
            AddressSetting::Static { address, prefix_bits, .. } => format!("{address}/{prefix_bits}"),
        };
        draft.replaced(&format!("address {}", address.interface), own.source.join(" "), new);
    }
    if task.options.addresses.is_empty() {
        draft.replaced("addresses", own.source.join(" "), "none: no interface comes up");
        wait_for_nothing(draft)?;
    }
    draft.source_addresses.clone_from(&own.source);
    leftovers(draft)?;
    initramfs(&own, draft)?;
    Ok(own)
}

fn native(family: Family, draft: &Draft<'_>) -> Result<Native, PrepareError> {
    let networkd =
        ["multi-user.target.wants", "sysinit.target.wants"].iter().try_fold(false, |found, above| {
            let link = format!("/etc/systemd/system/{above}/systemd-networkd.service");
            Ok::<_, PrepareError>(found || draft.own_entry(&link)?.is_some())
        })?;
    Ok(if draft.list("/etc/netplan")?.iter().any(|name| name.ends_with(".yaml")) {
        Native::Netplan
    } else if ifupdown::used(draft)? {
        Native::IfUpDown
    } else if family == Family::RedHat && ifcfg::used(Style::RedHat, draft)? {
        Native::IfCfg(Style::RedHat)
    } else if family == Family::Suse
        && (ifcfg::used(Style::Suse, draft)? || draft.exists("/usr/sbin/wicked")?)
    {
        Native::IfCfg(Style::Suse)
    } else if keyfile::used(draft)? {
        Native::KeyFile
    } else if networkd::used(draft)? || networkd {
        Native::Networkd
    } else if keyfile::installed(draft)? {
        Native::KeyFile
    } else if draft.exists("/etc/network/interfaces")? {
        Native::IfUpDown
    } else if family == Family::RedHat {
        Native::KeyFile
    } else {
        Native::Networkd
    })
}

/// Without an address nothing becomes ready, and waiting for it is a failed unit and two minutes.
fn wait_for_nothing(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for unit in [
        "systemd-networkd-wait-online.service",
        "NetworkManager-wait-online.service",
        "ifupdown-wait-online.service",
    ] {
        let enabled = format!("/etc/systemd/system/network-online.target.wants/{unit}");
        if draft.own_entry(&enabled)?.is_some() {
            units::hold(unit, draft)?;
        }
    }
    Ok(())
}

/// An initramfs may come up with an address of its own, to be unlocked from afar; it would be production's.
fn initramfs(own: &Own, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    const TOOLS: &str = "/etc/initramfs-tools";
    let mut files = vec![format!("{TOOLS}/initramfs.conf")];
    files.extend(draft.list(&format!("{TOOLS}/conf.d"))?.iter().map(|name| format!("{TOOLS}/conf.d/{name}")));
    for file in files {
        super::identity::edit_values(draft, &file, &["IP"], "production's address", Class::A, |value| {
            let asks = matches!(value.trim_ascii(), b"" | b"off" | b"none" | b"dhcp" | b"any" | b"on");
            if asks { value.to_vec() } else { b"off".to_vec() }
        })?;
    }
    for directory in ["/etc/cmdline.d", "/etc/dracut.conf.d"] {
        for name in draft.list(directory)? {
            let path = format!("{directory}/{name}");
            let text = draft.text(&path)?.unwrap_or_default();
            let mut words = text.split(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '.' | ':')));
            let mut parts = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
            if words.any(|word| own.is_sources(word)) || parts.any(|part| own.is_sources(part)) {
                let message =
                    format!("{path} gives the initramfs production's address: change it, and build it again");
                draft.find(Finding::pending(message));
            }
        }
    }
    Ok(())
}

/// What ties a network to production's hardware, leases and ids.
fn leftovers(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for name in draft.list("/etc/udev/rules.d")? {
        if UDEV.iter().any(|end| name.ends_with(end)) {
            let path = format!("/etc/udev/rules.d/{name}");
            draft.remove(&path, Class::A, "it names interfaces by production's hardware")?;
        }
    }
    for directory in LEASES {
        draft.remove_below(directory, Class::D, "leases and client ids of production's")?;
    }
    for name in draft.list("/var/lib/NetworkManager")? {
        let path = format!("/var/lib/NetworkManager/{name}");
        if name == "secret_key" {
            draft.remove(&path, Class::A, "stable addresses and client ids are made from it")?;
        } else if name.ends_with(".lease") || matches!(&name[..], "timestamps" | "seen-bssids" | "internal") {
            draft.remove(&path, Class::D, "leases of production's")?;
        }
    }
    for path in ["/etc/dhcpcd.duid", "/etc/dhcpcd.secret", "/var/lib/dhcpcd/duid"] {
        draft.remove(path, Class::A, "a client id of production's")?;
    }
    if let Some(content) = draft.read("/etc/dhcpcd.conf")? {
        let mut lines = Lines::of(&content);
        lines.edit(|line| (!line.trim_ascii_start().starts_with(b"static ")).then(|| line.to_vec()));
        draft.write("/etc/dhcpcd.conf", lines.to_bytes(), Class::A, "addresses of production's")?;
    }
    for directory in ["/etc/netctl", "/etc/wicked/ifconfig"] {
        for name in draft.list(directory)? {
            let path = format!("{directory}/{name}");
            if draft.entry(&path)?.is_some_and(|entry| entry.kind == crate::tree::Kind::File) {
                draft.remove(&path, Class::A, "addresses of production's")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
