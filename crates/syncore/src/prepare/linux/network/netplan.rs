//! netplan(5), of Ubuntu.
//!
//! Why: its files are taken away, and one of the standby's is written. What can go wrong: what is not an address in them
//! (bonds, bridges, VLANs) goes, too, and that is said: YAML that somebody wrote by hand is not edited by guessing.

use super::Own;
use crate::prepare::draft::Draft;
use crate::prepare::{AddressSetting, Finding, PrepareError};
use crate::rules::Class;

/// Plans the files.
pub(super) fn plan(own: &mut Own, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    const FILE: &str = "/etc/netplan/60-clonetool.yaml";
    let (mut renderer, mut devices) = (String::new(), false);
    for name in draft.list("/etc/netplan")?.into_iter().filter(|name| name.ends_with(".yaml")) {
        let path = format!("/etc/netplan/{name}");
        let text = draft.text(&path)?.unwrap_or_default();
        // Addresses stand in lists, on lines of their own.
        own.learn(text.replace("- ", "addr ").as_bytes());
        if let Some(line) = text.lines().find(|line| line.trim_start().starts_with("renderer:")) {
            renderer = format!("  {}\n", line.trim());
        }
        devices |= ["bonds:", "bridges:", "vlans:", "tunnels:"].iter().any(|word| text.contains(word));
        if path != FILE {
            draft.remove(&path, Class::A, "addresses of production's")?;
        }
    }
    let mut content = format!("network:\n  version: 2\n{renderer}");
    if !own.addresses.is_empty() {
        content.push_str("  ethernets:\n");
    }
    for address in &own.addresses {
        content.push_str(&format!("    {}:\n", address.interface));
        match address.setting {
            AddressSetting::Dhcp => content.push_str("      dhcp4: true\n"),
            AddressSetting::Static { address, prefix_bits, gateway } => {
                content.push_str(&format!("      addresses: [\"{address}/{prefix_bits}\"]\n"));
                if let Some(gateway) = gateway {
                    let every = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                    content.push_str(&format!(
                        "      routes:\n      - to: \"{every}\"\n        via: \"{gateway}\"\n"
                    ));
                }
            }
        }
    }
    if devices {
        let message =
            format!("bonds, bridges, VLANs or tunnels of netplan are not carried over: write them to {FILE}");
        let weighs =
            if own.addresses.is_empty() { Finding::note(message) } else { Finding::pending(message) };
        draft.find(weighs);
    }
    draft.write_with_mode(FILE, content, 0o600, Class::A, "the standby's addresses in place of production's")
}
