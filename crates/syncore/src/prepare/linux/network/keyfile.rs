//! Connections of NetworkManager, as keyfiles.
//!
//! Why: a connection says what a device is and which addresses it has; the second is production's. What can go wrong:
//! without any connection NetworkManager makes one up and asks DHCP (NetworkManager.conf(5), `no-auto-default`), so an
//! interface that should stay down comes up.

use super::{Own, ini};
use crate::prepare::draft::Draft;
use crate::prepare::{AddressSetting, Finding, PrepareError};
use crate::rules::Class;

const DIRECTORY: &str = "/etc/NetworkManager/system-connections";

/// Whether NetworkManager is there.
pub(super) fn installed(draft: &Draft<'_>) -> Result<bool, PrepareError> {
    Ok(draft.exists("/usr/sbin/NetworkManager")? || draft.exists("/usr/bin/NetworkManager")?)
}

/// Whether it has connections here.
pub(super) fn used(draft: &Draft<'_>) -> Result<bool, PrepareError> {
    Ok(!draft.list(DIRECTORY)?.is_empty())
}

/// Plans the connections; `native` if an interface without one gets one here.
pub(super) fn plan(own: &mut Own, native: bool, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let mut done = Vec::new();
    for name in draft.list(DIRECTORY)? {
        let path = format!("{DIRECTORY}/{name}");
        let Some(content) = draft.read(&path)? else { continue };
        own.learn(&content);
        connection(&path, &content, own, &mut done, draft)?;
    }
    for address in own.addresses.iter().filter(|address| native && !done.contains(&address.interface)) {
        let name = &address.interface;
        let (four, six) = methods(&address.setting);
        let content = format!(
            "[connection]\nid={name}\ntype=ethernet\ninterface-name={name}\nautoconnect=true\n\n[ipv4]\n{}\n\n\
             [ipv6]\n{}\n",
            four.join("\n"),
            six.join("\n")
        );
        let path = format!("{DIRECTORY}/clonetool-{name}.nmconnection");
        draft.write_with_mode(&path, content, 0o600, Class::A, "the standby's address")?;
    }
    if installed(draft)? {
        let content = "# An interface without a connection stays down.\n[main]\nno-auto-default=*\n";
        let path = "/etc/NetworkManager/conf.d/90-clonetool.conf";
        draft.write(path, content, Class::A, "no address is asked for that was not given")?;
    }
    Ok(())
}

/// Settings of IPv4 and of IPv6.
fn methods(setting: &AddressSetting) -> (Vec<String>, Vec<String>) {
    let none = |method: &str| vec![format!("method={method}")];
    match setting {
        AddressSetting::Dhcp => (none("auto"), none("auto")),
        AddressSetting::Static { address, prefix_bits, gateway } => {
            let gateway = gateway.map(|gateway| format!(",{gateway}")).unwrap_or_default();
            let given =
                vec!["method=manual".to_owned(), format!("address1={address}/{prefix_bits}{gateway}")];
            if address.is_ipv4() { (given, none("link-local")) } else { (none("disabled"), given) }
        }
    }
}

fn connection(
    path: &str,
    content: &[u8],
    own: &Own,
    done: &mut Vec<String>,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let one = |key: &str| ini::values(content, "connection", key).pop().unwrap_or_default();
    let (interface, kind) = (one("interface-name"), one("type"));
    let port = !one("master").is_empty() || !one("controller").is_empty();
    let mut kept = ini::filter(content, |section, pair| {
        let key = pair.map_or("", |(key, _)| key);
        let addresses = matches!(section, "ipv4" | "ipv6" | "proxy");
        let hardware = matches!(key, "mac-address" | "cloned-mac-address" | "permissions");
        let starts = section == "connection" && matches!(key, "autoconnect" | "timestamp");
        !(addresses || hardware || starts)
    });
    let made = matches!(
        &kind[..],
        "ethernet" | "802-3-ethernet" | "bond" | "bridge" | "team" | "vlan" | "infiniband"
    );
    match own.setting(&interface) {
        Some(setting) if made && !done.contains(&interface) => {
            let (four, six) = methods(setting);
            ini::insert(&mut kept, "ipv4", &four);
            ini::insert(&mut kept, "ipv6", &six);
            done.push(interface);
            draft.write(path, kept.to_bytes(), Class::A, "the standby's address in place of production's")
        }
        None if made && port && !interface.is_empty() && !own.addresses.is_empty() => draft.write(
            path,
            kept.to_bytes(),
            Class::A,
            "a port of another device, without production's hardware",
        ),
        _ => {
            if !made {
                draft.find(Finding::note(format!("{path} ({kind}) connected as production: it is gone")));
            }
            draft.remove(path, Class::A, "a connection of production's")
        }
    }
}
