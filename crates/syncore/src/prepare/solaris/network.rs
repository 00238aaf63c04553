//! Addresses: none of production's is configured, and the standby's are if they were said.
//!
//! Why: a standby that comes up with production's address takes it away from production. An interface without a
//! file of its own stays down. What can go wrong: an address that was said and is production's; it is refused. On
//! Solaris 11 and illumos addresses are set by a program on the running target, so they are in finish.sh.

use std::net::{IpAddr, Ipv4Addr};

use super::super::lines::{Lines, fields, is_comment};
use super::super::{Address, AddressSetting, Draft, PrepareError, Solaris, Task};
use super::finish::Script;
use super::hosts::{Names, hosts};
use super::identity::words;
use super::{Host, shown};
use crate::rules::Class;

/// Plans addresses, and the hosts file that they are in.
pub(super) fn plan(
    task: &Task<'_>,
    host: &Host<'_>,
    draft: &mut Draft<'_>,
    script: &mut Script,
) -> Result<(), PrepareError> {
    let addresses = &task.options.addresses;
    check(task, host)?;
    let named = named(host, addresses);
    forget(host, addresses, draft)?;
    if host.takeover {
        // The names are production's, and so is the file.
    } else {
        let names = Names { source: host.source, own: host.own };
        for path in ["/etc/inet/hosts", "/etc/hosts", "/etc/inet/ipnodes"] {
            let content = draft.read(path)?;
            // What /etc/hosts or ipnodes lead to, if they are links, has been done.
            if path != "/etc/inet/hosts" && content.is_none() {
                continue;
            }
            let after = hosts(&content.unwrap_or_default(), names, &named);
            draft.write(path, after, Class::B, "the standby's own line, beside production's")?;
        }
    }
    if matches!(host.release, Solaris::Eleven | Solaris::Illumos) {
        script.addresses = addresses.clone();
    } else {
        for address in addresses {
            configure(host, address, addresses, draft)?;
        }
    }
    let gateway = addresses.iter().find_map(|address| match address.setting {
        AddressSetting::Static { gateway, .. } => gateway,
        AddressSetting::Dhcp => None,
    });
    match gateway {
        Some(gateway) if host.release != Solaris::Eleven => {
            draft.write("/etc/defaultrouter", format!("{gateway}\n"), Class::A, "the standby's router")
        }
        _ => draft.remove("/etc/defaultrouter", Class::A, "no interface of the standby is in its network"),
    }
}

fn check(task: &Task<'_>, host: &Host<'_>) -> Result<(), PrepareError> {
    let production = task.earlier.map_or(&task.system.addresses, |earlier| &earlier.source_addresses);
    for address in &task.options.addresses {
        // The name becomes part of a file's name and of a script.
        let name = &address.interface;
        let ordinary = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':');
        if name.is_empty() || !name.bytes().all(ordinary) {
            return Err(PrepareError::Option(format!("{} is no interface", shown(name.as_bytes()))));
        }
        if let AddressSetting::Static { address, prefix_bits, .. } = address.setting {
            if u32::from(prefix_bits) > if address.is_ipv6() { 128 } else { 32 } {
                return Err(PrepareError::Option(format!("{address}/{prefix_bits}: no such length")));
            }
            if !host.takeover && production.iter().any(|of| of.parse() == Ok(address)) {
                return Err(PrepareError::Option(format!("{address} is production's address")));
            }
        }
    }
    Ok(())
}

/// The standby's static addresses with the names that they have in hosts: the first its own, the others with their
/// interface.
fn named(host: &Host<'_>, addresses: &[Address]) -> Vec<(String, IpAddr)> {
    let mut named: Vec<(String, IpAddr)> = Vec::new();
    for it in addresses {
        if let AddressSetting::Static { address, .. } = it.setting {
            named.push((name_of(host, &it.interface, addresses), address));
        }
    }
    named
}

fn name_of(host: &Host<'_>, interface: &str, addresses: &[Address]) -> String {
    let is_static = |it: &&Address| matches!(it.setting, AddressSetting::Static { .. });
    match addresses.iter().find(is_static) {
        Some(first) if first.interface == interface => host.own.to_owned(),
        _ => format!("{}-{}", host.own, interface.replace([':', '_'], "-")),
    }
}

/// Removes what production's interfaces are configured by.
fn forget(host: &Host<'_>, addresses: &[Address], draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let why = "production's interface: one without an address of the standby's stays down";
    for name in draft.list("/etc")? {
        let Some((kind, interface)) = name.split_once('.') else { continue };
        if !matches!(kind, "hostname" | "hostname6" | "dhcp") || interface.is_empty() {
            continue;
        }
        let path = format!("/etc/{name}");
        if files(host, addresses).contains(&path) {
            continue;
        }
        let old = draft.read(&path).ok().flatten().map(|content| words(&content).join(" "));
        draft.remove(&path, Class::A, why)?;
        if kind == "hostname" && !addresses.iter().any(|address| address.interface == interface) {
            draft.replaced(&format!("address {interface}"), old.unwrap_or_default(), "none");
        }
    }
    if matches!(host.release, Solaris::Eleven | Solaris::Illumos) {
        let settings = ["/etc/ipadm/ipadm.conf", "/etc/dladm/datalink.conf", "/etc/dladm/linkprop.conf"];
        for path in settings {
            if let Some(content) = draft.read(path)? {
                let mut lines = Lines::of(&content);
                lines.edit(|line| is_comment(line, b'#').then(|| line.to_vec()));
                draft.write(path, lines.to_bytes(), Class::A, "production's links and addresses")?;
            }
        }
    }
    for name in draft.list("/etc/inet")? {
        if name.starts_with("static_routes") {
            draft.remove(&format!("/etc/inet/{name}"), Class::A, "routes of production's interfaces")?;
        }
    }
    Ok(())
}

/// The files that configure the standby's interfaces, up to Solaris 10.
fn files(host: &Host<'_>, addresses: &[Address]) -> Vec<String> {
    if matches!(host.release, Solaris::Eleven | Solaris::Illumos) {
        return Vec::new();
    }
    let mut files = Vec::new();
    for Address { interface, setting } in addresses {
        let kinds: &[&str] = match setting {
            AddressSetting::Dhcp => &["hostname", "dhcp"],
            AddressSetting::Static { address: IpAddr::V4(_), .. } => &["hostname"],
            AddressSetting::Static { address: IpAddr::V6(_), .. } => &["hostname6"],
        };
        files.extend(kinds.iter().map(|kind| format!("/etc/{kind}.{interface}")));
    }
    files
}

/// Writes the files of one interface, up to Solaris 10.
fn configure(
    host: &Host<'_>,
    address: &Address,
    addresses: &[Address],
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let interface = &address.interface;
    let why = "the standby's address";
    let ipv4 = format!("/etc/hostname.{interface}");
    match address.setting {
        AddressSetting::Dhcp => {
            draft.write(&ipv4, Vec::new(), Class::A, why)?;
            // ifconfig(1M): the primary interface gives the host's parameters; only one may.
            let primary: &[u8] = if addresses.first() == Some(address) { b"primary\n" } else { b"" };
            draft.write(&format!("/etc/dhcp.{interface}"), primary, Class::A, why)?;
            draft.replaced(&format!("address {interface}"), "production's", "dhcp");
        }
        AddressSetting::Static { address: ip, prefix_bits, .. } => {
            draft.replaced(&format!("address {interface}"), "production's", format!("{ip}/{prefix_bits}"));
            match ip {
                IpAddr::V4(ip) => {
                    // A name and not a number: what reads it up to Solaris 8 hands it to ifconfig as it is, and the
                    // mask comes from netmasks.
                    let name = name_of(host, interface, addresses);
                    draft.write(&ipv4, format!("{name}\n"), Class::A, why)?;
                    netmask(ip, prefix_bits, draft)?;
                }
                IpAddr::V6(ip) => {
                    let line = format!("addif {ip}/{prefix_bits} up\n");
                    draft.write(&format!("/etc/hostname6.{interface}"), line, Class::A, why)?;
                }
            }
        }
    }
    Ok(())
}

/// Says the mask of an address's network in netmasks(4).
fn netmask(address: Ipv4Addr, prefix_bits: u8, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_bits)).unwrap_or(0);
    let network = Ipv4Addr::from(u32::from(address) & mask).to_string();
    let line = format!("{network}\t{}", Ipv4Addr::from(mask));
    let path = "/etc/inet/netmasks";
    let mut lines = Lines::of(&draft.read(path)?.unwrap_or_default());
    let there = lines.0.iter_mut().find(|line| {
        !is_comment(&line.content, b'#') && fields(&line.content).first() == Some(&network.as_bytes())
    });
    match there {
        Some(there) if fields(&there.content) == fields(line.as_bytes()) => return Ok(()),
        Some(there) => there.content = line.into_bytes(),
        None => lines.push(line.as_bytes()),
    }
    draft.write(path, lines.to_bytes(), Class::A, "the mask of the standby's network")
}
