//! interfaces(5), of Debian.
//!
//! Why: a stanza says both what an interface is (a bond of two, a bridge) and which address it has. The first stays for
//! an interface that gets an address; the second is production's. What can go wrong: commands in a stanza, which do
//! anything at all, production's address included; they go, and the difference shows which.

use super::Own;
use crate::prepare::draft::Draft;
use crate::prepare::lines::{Lines, fields, is_comment};
use crate::prepare::{AddressSetting, PrepareError};
use crate::rules::Class;

const MAIN: &str = "/etc/network/interfaces";
const MORE: &str = "/etc/network/interfaces.d";
/// Options that are production's: its addresses, its hardware, its commands.
const DROPPED: [&str; 20] = [
    "address",
    "netmask",
    "gateway",
    "broadcast",
    "network",
    "pointopoint",
    "metric",
    "scope",
    "hwaddress",
    "hostname",
    "client",
    "clientid",
    "up",
    "down",
    "pre-up",
    "post-up",
    "pre-down",
    "post-down",
    "accept_ra",
    "autoconf",
];

/// Whether the root uses it for more than loopback.
pub(super) fn used(draft: &Draft<'_>) -> Result<bool, PrepareError> {
    for file in files(draft)? {
        let content = draft.read(&file)?.unwrap_or_default();
        if Lines::of(&content)
            .0
            .iter()
            .any(|line| interface_of(&line.content).is_some_and(|name| name != "lo"))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn files(draft: &Draft<'_>) -> Result<Vec<String>, PrepareError> {
    let mut files = vec![MAIN.to_owned()];
    files.extend(draft.list(MORE)?.into_iter().map(|name| format!("{MORE}/{name}")));
    Ok(files)
}

/// Plans the files; `native` if an interface without a stanza gets one here.
pub(super) fn plan(own: &mut Own, native: bool, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let mut contents = Vec::new();
    for file in files(draft)? {
        if let Some(content) = draft.read(&file)? {
            own.learn(&content);
            contents.push((file, content));
        }
    }
    let all: Vec<u8> = contents.iter().flat_map(|(_, content)| [&content[..], b"\n"].concat()).collect();
    let ports = ports(&all, own);
    let mut done = Vec::new();
    for (file, content) in contents {
        let mut after = transformed(&content, own, &ports, &mut done);
        if file == MAIN && native {
            for address in &own.addresses {
                let elsewhere = mentions(&all, &address.interface);
                if !elsewhere && !done.contains(&address.interface) {
                    after.push(b"");
                    after.push(format!("auto {}", address.interface).as_bytes());
                    for line in stanza(&address.interface, &address.setting) {
                        after.push(line.as_bytes());
                    }
                    done.push(address.interface.clone());
                }
            }
        }
        let says_nothing = after.0.iter().all(|line| is_comment(&line.content, b'#'));
        if file != MAIN && says_nothing {
            draft.remove(&file, Class::A, "addresses of production's")?;
        } else {
            draft.write(
                &file,
                after.to_bytes(),
                Class::A,
                "the standby's addresses in place of production's",
            )?;
        }
    }
    Ok(())
}

fn mentions(content: &[u8], interface: &str) -> bool {
    Lines::of(content).0.iter().any(|line| interface_of(&line.content).as_deref() == Some(interface))
}

/// The interface that a line opens a stanza for.
fn interface_of(line: &[u8]) -> Option<String> {
    let words = fields(line);
    let name = words.get(1).filter(|_| words.first() == Some(&&b"iface"[..]))?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Interfaces that an addressed one is made of.
fn ports(content: &[u8], own: &Own) -> Vec<String> {
    let (mut ports, mut inside) = (Vec::new(), false);
    for line in Lines::of(content).0 {
        let words = fields(&line.content);
        match words.first().copied().unwrap_or_default() {
            b"iface" => inside = interface_of(&line.content).is_some_and(|name| own.setting(&name).is_some()),
            b"bond-slaves" | b"slaves" | b"bridge_ports" | b"bridge-ports" | b"vlan-raw-device"
            | b"vlan_raw_device"
                if inside =>
            {
                ports.extend(words.iter().skip(1).map(|word| String::from_utf8_lossy(word).into_owned()));
            }
            _ => {}
        }
    }
    ports
}

/// One file with the standby's addresses.
fn transformed(content: &[u8], own: &Own, ports: &[String], done: &mut Vec<String>) -> Lines {
    #[derive(PartialEq)]
    enum In {
        Kept,
        Stripped,
        Dropped,
    }
    let kept =
        |name: &str| name == "lo" || own.setting(name).is_some() || ports.iter().any(|port| port == name);
    let mut lines = Lines::default();
    let (mut state, mut follows) = (In::Kept, None);
    for line in Lines::of(content).0 {
        // A line that ends with a backslash goes on, and shares its fate.
        let goes_on = line.content.ends_with(b"\\");
        if let Some(keep) = follows {
            if keep {
                lines.0.push(line);
            }
            follows = goes_on.then_some(keep);
            continue;
        }
        let words = fields(&line.content);
        let first = String::from_utf8_lossy(words.first().copied().unwrap_or_default()).into_owned();
        let mut keep = true;
        if is_comment(&line.content, b'#') {
            keep = state != In::Dropped || line.content.is_empty();
        } else if first == "auto" || first.starts_with("allow-") || first.starts_with("no-") {
            state = In::Kept;
            let names: Vec<String> = words
                .iter()
                .skip(1)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .filter(|name| kept(name))
                .collect();
            if names.len() + 1 != words.len() {
                keep = false;
                if !names.is_empty() {
                    let mut line = line.clone();
                    line.content = format!("{first} {}", names.join(" ")).into_bytes();
                    lines.0.push(line);
                }
            }
        } else if first == "mapping" {
            (state, keep) = (In::Dropped, false);
        } else if let Some(name) = interface_of(&line.content) {
            let loopback = name == "lo" && words.get(3) == Some(&&b"loopback"[..]);
            let setting = own.setting(&name).filter(|_| !done.contains(&name));
            if let Some(setting) = setting {
                let mut at = line.clone();
                for new in stanza(&name, setting) {
                    at.content = new.into_bytes();
                    lines.0.push(at.clone());
                }
                done.push(name);
                (state, keep) = (In::Stripped, false);
            } else if loopback {
                state = In::Stripped;
            } else if ports.contains(&name) && own.setting(&name).is_none() {
                let mut at = line.clone();
                at.content = format!("iface {name} inet manual").into_bytes();
                lines.0.push(at);
                (state, keep) = (In::Stripped, false);
            } else {
                (state, keep) = (In::Dropped, false);
            }
        } else if matches!(&first[..], "source" | "source-directory" | "rename" | "template") {
            state = In::Kept;
        } else {
            keep = match state {
                In::Kept => true,
                In::Stripped => !DROPPED.contains(&&first[..]),
                In::Dropped => false,
            };
        }
        follows = goes_on.then_some(keep);
        if keep {
            lines.0.push(line);
        }
    }
    lines
}

fn stanza(interface: &str, setting: &AddressSetting) -> Vec<String> {
    match setting {
        AddressSetting::Dhcp => vec![format!("iface {interface} inet dhcp")],
        AddressSetting::Static { address, prefix_bits, gateway } => {
            let family = if address.is_ipv4() { "inet" } else { "inet6" };
            let mut lines = vec![
                format!("iface {interface} {family} static"),
                format!("    address {address}/{prefix_bits}"),
            ];
            lines.extend(gateway.map(|gateway| format!("    gateway {gateway}")));
            lines
        }
    }
}
