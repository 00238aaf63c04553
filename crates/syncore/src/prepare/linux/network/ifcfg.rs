//! `ifcfg-*` files: of Red Hat's network scripts and NetworkManager's reader of them, and of SUSE's wicked.
//!
//! Why: they are shell assignments, with the same keys in both families but for a few. What can go wrong: a file for an
//! alias (`ifcfg-eth0:1`), which is a further address and nothing else; and copies of files that the scripts ignore.

use super::Own;
use crate::prepare::draft::Draft;
use crate::prepare::lines::{Lines, is_comment};
use crate::prepare::{AddressSetting, PrepareError};
use crate::rules::Class;

/// Which family's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `/etc/sysconfig/network-scripts`.
    RedHat,
    /// `/etc/sysconfig/network`.
    Suse,
}

impl Style {
    fn directory(self) -> &'static str {
        match self {
            Self::RedHat => "/etc/sysconfig/network-scripts",
            Self::Suse => "/etc/sysconfig/network",
        }
    }
}

/// Beginnings of keys that hold addresses, hardware, names, or whether the interface starts.
const DROPPED: [&str; 30] = [
    "IPADDR",
    "PREFIX",
    "NETMASK",
    "GATEWAY",
    "BROADCAST",
    "NETWORK",
    "IPV6ADDR",
    "IPV6_DEFAULTGW",
    "IPV6_AUTOCONF",
    "IPV6INIT",
    "DHCPV6",
    "HWADDR",
    "MACADDR",
    "LLADDR",
    "UUID",
    "HOSTNAME",
    "DHCP_HOSTNAME",
    "DHCP_CLIENT_ID",
    "DHCLIENT",
    "BOOTPROTO",
    "ONBOOT",
    "STARTMODE",
    "SRCADDR",
    "REMOTE_IPADDR",
    "LABEL",
    "SCOPE",
    "PTPADDR",
    "POST_UP_SCRIPT",
    "PRE_DOWN_SCRIPT",
    "PRE_UP_SCRIPT",
];

/// Beginnings of files with routes and rules.
const ROUTES: [&str; 6] = ["route-", "route6-", "rule-", "rule6-", "ifroute-", "ifrule-"];

/// Whether there are files of it for more than loopback.
pub(super) fn used(style: Style, draft: &Draft<'_>) -> Result<bool, PrepareError> {
    Ok(draft.list(style.directory())?.iter().any(|name| interface(name).is_some_and(|name| name != "lo")))
}

/// The interface of a file, unless it is a copy that the scripts ignore.
fn interface(name: &str) -> Option<&str> {
    let interface = name.strip_prefix("ifcfg-")?;
    let ignored =
        [".bak", ".orig", ".old", ".rpmnew", ".rpmsave", ".rpmorig", ".template", "~", ".scpmbackup"];
    (!ignored.iter().any(|end| interface.ends_with(end))).then_some(interface)
}

fn key_of(line: &[u8]) -> Option<(String, String)> {
    if is_comment(line, b'#') {
        return None;
    }
    let text = String::from_utf8_lossy(line);
    let (key, value) = text.trim_start().split_once('=')?;
    Some((key.to_owned(), value.trim().trim_matches(['"', '\'']).to_owned()))
}

/// Plans the files; `native` if an interface without one gets one here.
pub(super) fn plan(
    style: Style,
    own: &mut Own,
    native: bool,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let directory = style.directory();
    let mut done = Vec::new();
    for name in draft.list(directory)? {
        let path = format!("{directory}/{name}");
        let of = ROUTES.iter().find_map(|start| name.strip_prefix(start));
        let ours = of.and_then(|interface| default_route(style, interface, own.setting(interface)?));
        // One that an earlier preparation wrote stays.
        if of.is_some() && (ours.is_none() || draft.text(&path)? != ours) {
            draft.remove(&path, Class::A, "routes of production's addresses")?;
        }
    }
    for name in draft.list(directory)? {
        let path = format!("{directory}/{name}");
        let Some(of_file) = interface(&name).filter(|name| *name != "lo") else { continue };
        let Some(content) = draft.read(&path)? else { continue };
        own.learn(&content);
        let lines = Lines::of(&content);
        let get = |wanted: &str| {
            let mut pairs = lines.0.iter().filter_map(|line| key_of(&line.content));
            pairs.find(|(key, _)| key == wanted).map(|(_, value)| value).filter(|value| !value.is_empty())
        };
        let device = get("DEVICE").unwrap_or_else(|| of_file.to_owned());
        if of_file.contains(':') || device.contains(':') || device.starts_with("lo") {
            draft.remove(&path, Class::A, "a further address of production's")?;
            continue;
        }
        let port =
            ["MASTER", "BRIDGE", "TEAM_MASTER", "BONDING_MASTER_NAME"].iter().any(|key| get(key).is_some());
        let setting = own.setting(&device).filter(|_| !done.contains(&device));
        let mut after = lines.clone();
        after.edit(|line| {
            let drops =
                key_of(line).is_some_and(|(key, _)| DROPPED.iter().any(|start| key.starts_with(start)));
            (!drops).then(|| line.to_vec())
        });
        let up = setting.is_some() || port && !own.addresses.is_empty();
        for line in state(style, setting, up) {
            after.push(line.as_bytes());
        }
        if setting.is_some() {
            done.push(device.clone());
            route(style, &device, setting, draft)?;
        }
        // Once more, it is as it is: what is dropped and added is the same.
        draft.write(&path, after.to_bytes(), Class::A, "the standby's address in place of production's")?;
    }
    for address in own.addresses.iter().filter(|address| native && !done.contains(&address.interface)) {
        let name = &address.interface;
        let mut lines = match style {
            Style::RedHat => {
                vec![format!("DEVICE={name}"), format!("NAME={name}"), "TYPE=Ethernet".to_owned()]
            }
            Style::Suse => Vec::new(),
        };
        lines.extend(state(style, Some(&address.setting), true));
        let path = format!("{directory}/ifcfg-{name}");
        draft.write(&path, lines.join("\n") + "\n", Class::A, "the standby's address")?;
        route(style, name, Some(&address.setting), draft)?;
    }
    shared(style, draft)
}

/// Lines that say how the interface starts and what its address is.
fn state(style: Style, setting: Option<&AddressSetting>, up: bool) -> Vec<String> {
    let mut lines = match style {
        Style::RedHat => vec![format!("ONBOOT={}", if up { "yes" } else { "no" })],
        Style::Suse => vec![format!("STARTMODE='{}'", if up { "auto" } else { "off" })],
    };
    let line = match (style, setting) {
        (Style::RedHat, Some(AddressSetting::Dhcp)) => "BOOTPROTO=dhcp",
        (Style::RedHat, _) => "BOOTPROTO=none",
        (Style::Suse, Some(AddressSetting::Dhcp)) => "BOOTPROTO='dhcp'",
        (Style::Suse, Some(_)) => "BOOTPROTO='static'",
        (Style::Suse, None) => "BOOTPROTO='none'",
    };
    lines.push(line.to_owned());
    let Some(AddressSetting::Static { address, prefix_bits, gateway }) = setting else { return lines };
    match (style, address.is_ipv4()) {
        (Style::Suse, _) => lines.push(format!("IPADDR='{address}/{prefix_bits}'")),
        (Style::RedHat, true) => {
            lines.extend([format!("IPADDR={address}"), format!("PREFIX={prefix_bits}")]);
            lines.extend(gateway.map(|gateway| format!("GATEWAY={gateway}")));
        }
        (Style::RedHat, false) => {
            lines.extend(["IPV6INIT=yes".to_owned(), format!("IPV6ADDR={address}/{prefix_bits}")]);
            lines.extend(gateway.map(|gateway| format!("IPV6_DEFAULTGW={gateway}")));
        }
    }
    lines
}

/// SUSE has the default route in a file of its own; its content.
fn default_route(style: Style, interface: &str, setting: &AddressSetting) -> Option<String> {
    match (style, setting) {
        (Style::Suse, AddressSetting::Static { gateway: Some(gateway), .. }) => {
            Some(format!("default {gateway} - {interface}\n"))
        }
        _ => None,
    }
}

fn route(
    style: Style,
    interface: &str,
    setting: Option<&AddressSetting>,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let Some(line) = setting.and_then(|setting| default_route(style, interface, setting)) else {
        return Ok(());
    };
    let path = format!("{}/ifroute-{interface}", style.directory());
    draft.write(&path, line, Class::A, "the standby's route")
}

/// What all interfaces share.
fn shared(style: Style, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let drop_from = |path: &str, draft: &mut Draft<'_>, drops: fn(&[u8]) -> bool| {
        let Some(content) = draft.read(path)? else { return Ok(()) };
        let mut lines = Lines::of(&content);
        lines.edit(|line| (is_comment(line, b'#') || !drops(line)).then(|| line.to_vec()));
        draft.write(path, lines.to_bytes(), Class::A, "production's route or client id")
    };
    match style {
        Style::RedHat => drop_from("/etc/sysconfig/network", draft, |line| {
            key_of(line)
                .is_some_and(|(key, _)| matches!(&key[..], "GATEWAY" | "GATEWAYDEV" | "IPV6_DEFAULTGW"))
        }),
        Style::Suse => {
            drop_from("/etc/sysconfig/network/routes", draft, |line| {
                line.trim_ascii_start().starts_with(b"default")
            })?;
            drop_from("/etc/sysconfig/network/dhcp", draft, |line| {
                key_of(line).is_some_and(|(key, value)| key.ends_with("CLIENT_ID") && !value.is_empty())
            })
        }
    }
}
