//! Files of systemd-networkd, and `.link` files of udev.
//!
//! Why: a `.network` file that has an address is production's; one that only joins a port to a bond is needed as it is. A
//! `.link` file that gives a MAC address makes two hosts with one. What can go wrong: a file that matches by MAC
//! address; on other hardware it never matches, so it goes.

use super::{Own, ini};
use crate::prepare::draft::Draft;
use crate::prepare::{AddressSetting, Finding, PrepareError};
use crate::rules::Class;

const DIRECTORY: &str = "/etc/systemd/network";
/// Sections that hold addresses and what belongs to them.
const SECTIONS: [&str; 10] = [
    "Address",
    "Route",
    "RoutingPolicyRule",
    "Neighbor",
    "NextHop",
    "DHCP",
    "DHCPv4",
    "DHCPv6",
    "DHCPServer",
    "IPv6AcceptRA",
];
/// Keys of `[Network]` that do.
const KEYS: [&str; 6] = ["Address", "Gateway", "DHCP", "DHCPServer", "IPv6AcceptRA", "LinkLocalAddressing"];

/// Whether it has files here.
pub(super) fn used(draft: &Draft<'_>) -> Result<bool, PrepareError> {
    Ok(draft.list(DIRECTORY)?.iter().any(|name| name.ends_with(".network")))
}

fn hardware(key: &str) -> bool {
    matches!(key, "MACAddress" | "PermanentMACAddress")
}

/// Plans the files; `native` if an interface without one gets one here.
pub(super) fn plan(own: &mut Own, native: bool, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let mut done = Vec::new();
    for name in draft.list(DIRECTORY)? {
        let path = format!("{DIRECTORY}/{name}");
        if name.ends_with(".network.d") {
            for name in draft.list(&path)? {
                drop_in(&format!("{path}/{name}"), own, draft)?;
            }
        }
        let Some(content) = draft.read(&path)? else { continue };
        own.learn(&content);
        if name.ends_with(".network") {
            network(&path, &content, own, &mut done, draft)?;
        } else if name.ends_with(".link") {
            link(&path, &content, draft)?;
        } else if name.ends_with(".netdev") {
            device(&path, &content, draft)?;
        }
    }
    for address in own.addresses.iter().filter(|address| native && !done.contains(&address.interface)) {
        let name = &address.interface;
        let content =
            format!("[Match]\nName={name}\n\n[Network]\n{}\n", settings(&address.setting).join("\n"));
        let path = format!("{DIRECTORY}/10-clonetool-{name}.network");
        draft.write(&path, content, Class::A, "the standby's address")?;
    }
    Ok(())
}

fn settings(setting: &AddressSetting) -> Vec<String> {
    match setting {
        AddressSetting::Dhcp => vec!["DHCP=yes".to_owned()],
        AddressSetting::Static { address, prefix_bits, gateway } => {
            let mut lines = vec![format!("Address={address}/{prefix_bits}")];
            lines.extend(gateway.map(|gateway| format!("Gateway={gateway}")));
            lines
        }
    }
}

fn network(
    path: &str,
    content: &[u8],
    own: &Own,
    done: &mut Vec<String>,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let names: Vec<String> = ini::values(content, "Match", "Name")
        .iter()
        .flat_map(|value| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut addressed = false;
    let mut stripped = ini::filter(content, |section, pair| {
        addressed |= addresses(section, pair) && pair.is_some();
        is_kept(section, pair)
    });
    let setting = names.iter().find_map(|name| own.setting(name).map(|setting| (name, setting)));
    match setting {
        Some((name, setting)) if names.len() == 1 && !done.contains(name) => {
            ini::insert(&mut stripped, "Network", &settings(setting));
            done.push(name.clone());
            draft.write(path, stripped.to_bytes(), Class::A, "the standby's address in place of production's")
        }
        // A port of something, of no address itself.
        _ if !addressed && !names.is_empty() => {
            draft.write(path, stripped.to_bytes(), Class::A, "no address, nor production's hardware")
        }
        _ => draft.remove(path, Class::A, "addresses of production's"),
    }
}

fn addresses(section: &str, pair: Option<(&str, &str)>) -> bool {
    SECTIONS.contains(&section) || section == "Network" && pair.is_some_and(|(key, _)| KEYS.contains(&key))
}

fn is_kept(section: &str, pair: Option<(&str, &str)>) -> bool {
    let by_hardware = matches!(section, "Match" | "Link") && pair.is_some_and(|(key, _)| hardware(key));
    !addresses(section, pair) && !by_hardware
}

/// What adds to a `.network` file may add addresses, too.
fn drop_in(path: &str, own: &mut Own, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let Some(content) = draft.read(path)? else { return Ok(()) };
    own.learn(&content);
    draft.write(path, ini::filter(&content, is_kept).to_bytes(), Class::A, "addresses of production's")
}

fn link(path: &str, content: &[u8], draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let by_hardware = ["MACAddress", "PermanentMACAddress"]
        .iter()
        .any(|key| !ini::values(content, "Match", key).is_empty());
    if by_hardware {
        return draft.remove(path, Class::A, "it names production's hardware");
    }
    let after = ini::filter(content, |section, pair| {
        section != "Link" || !pair.is_some_and(|(key, _)| hardware(key))
    });
    draft.write(path, after.to_bytes(), Class::A, "production's MAC address")
}

fn device(path: &str, content: &[u8], draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let kind = ini::values(content, "NetDev", "Kind").join(" ").to_ascii_lowercase();
    if !matches!(
        &kind[..],
        "bond" | "bridge" | "vlan" | "vrf" | "dummy" | "team" | "veth" | "macvlan" | "ipvlan"
    ) {
        draft.find(Finding::note(format!(
            "{path} made a tunnel ({kind}) under production's identity: it is gone"
        )));
        return draft.remove(path, Class::A, "a tunnel under production's identity");
    }
    let after = ini::filter(content, |_, pair| !pair.is_some_and(|(key, _)| hardware(key)));
    draft.write(path, after.to_bytes(), Class::A, "production's MAC address")
}
