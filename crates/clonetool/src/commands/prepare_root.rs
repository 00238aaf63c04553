//! `clonetool prepare-root`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use syncore::prepare::{
    self, Address, AddressSetting, Bootloader, DeviceTree, Identity, Options, Outcome, Platform, Target,
};

use crate::error::{self, CommandError};
use crate::interrupt;
use crate::ui::{self, preparation};

/// Make a copied root bootable under its own identity
///
/// ROOT is where the copy is mounted, with everything that its fstab needs mounted below it. Disks, filesystems,
/// firmware and distribution are found out and shown. The last line is READY, PENDING or FAILED.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 READY, 11 PENDING (commands are left to be run), 1 FAILED, 2 usage, 3 refused, nothing changed; a dry run that could be made: 0")]
pub(crate) struct PrepareRootArguments {
    /// Prepare the root that is mounted here
    root: PathBuf,
    /// Give the standby this name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Install the boot loader on DISK (repeat it for mirrors; default: the disks below ROOT)
    #[arg(long, value_name = "DISK")]
    boot_disk: Vec<PathBuf>,
    /// Give an interface an address: IF=IP/LEN[,gw=IP] or IF=dhcp (without it every interface stays down)
    #[arg(long, value_name = "IF=ADDRESS", value_parser = address)]
    address: Vec<Address>,
    /// Have the kernel find its root as SPEC instead of by the UUID of what is mounted
    #[arg(long, value_name = "SPEC")]
    root_device: Option<String>,
    /// Put device NEW in place of OLD in fstab and its kin; NEW may be `none`, which drops the line
    #[arg(long, value_names = ["OLD", "NEW"], num_args = 2)]
    map_device: Vec<String>,
    /// Say what the root is, if it does not say so itself
    #[arg(long, value_name = "KIND", default_value = "auto")]
    platform: PlatformChoice,
    /// Boot under an identity of its own, or take over production's name and host keys
    #[arg(long, value_name = "WHOSE", default_value = "own")]
    identity: IdentityChoice,
    /// Install the boot loader that is in ROOT, or none
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    bootloader: BootloaderChoice,
    /// Rebuild the device tree of an old Solaris here, or leave that to the target
    #[arg(long, value_name = "WHERE", default_value = "auto")]
    device_tree: DeviceTreeChoice,
    /// Prepare a root once more that is prepared already
    #[arg(long)]
    again: bool,
    /// Print every edit as a difference, and every command, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print one JSON object a line, the summary last
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlatformChoice {
    /// What its release file says
    Auto,
    /// Linux
    Linux,
    /// Solaris or illumos
    Solaris,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IdentityChoice {
    /// One of its own
    Own,
    /// Production's, for a cut-over
    Takeover,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BootloaderChoice {
    /// The one that is in the root
    Auto,
    /// None: a hypervisor or the network starts the kernel
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DeviceTreeChoice {
    /// Here, where that can be done
    Auto,
    /// On the target
    Pending,
}

impl PrepareRootArguments {
    pub(super) fn run(&self) -> Result<u8, CommandError> {
        let options = self.options()?;
        interrupt::install()?;
        let target = Target::detect(&self.root, &self.boot_disk)?;
        let preparation = prepare::plan(&self.root, &target, &options)?;
        let report = if self.dry_run {
            preparation.report().clone()
        } else {
            preparation.carry_out(&preparation::Interrupted)?
        };
        if self.json {
            ui::print_events(&preparation::events(&report, self.dry_run))?;
        } else {
            ui::print(&preparation::screen(&report, &target, self.dry_run))?;
        }
        Ok(match report.outcome {
            _ if self.dry_run => 0,
            Outcome::Ready => 0,
            Outcome::Pending => error::INCOMPLETE,
            Outcome::Failed => error::FAILED,
        })
    }

    fn options(&self) -> Result<Options, CommandError> {
        if self.hostname.is_none() && self.identity == IdentityChoice::Own {
            return Err(CommandError::usage("the standby needs a name of its own")
                .hint("give it with --hostname NAME, or take production's with --identity takeover"));
        }
        let device_map = self.map_device.chunks_exact(2).map(|pair| {
            let new = (pair[1] != "none").then(|| pair[1].clone());
            (pair[0].clone(), new)
        });
        Ok(Options {
            hostname: self.hostname.clone(),
            boot_disks: self.boot_disk.clone(),
            addresses: self.address.clone(),
            root_device: self.root_device.clone(),
            device_map: device_map.collect(),
            platform: match self.platform {
                PlatformChoice::Auto => None,
                PlatformChoice::Linux => Some(Platform::Linux),
                PlatformChoice::Solaris => Some(Platform::Solaris),
            },
            identity: match self.identity {
                IdentityChoice::Own => Identity::Own,
                IdentityChoice::Takeover => Identity::Takeover,
            },
            bootloader: match self.bootloader {
                BootloaderChoice::Auto => Bootloader::Auto,
                BootloaderChoice::None => Bootloader::None,
            },
            device_tree: match self.device_tree {
                DeviceTreeChoice::Auto => DeviceTree::Auto,
                DeviceTreeChoice::Pending => DeviceTree::Pending,
            },
            again: self.again,
        })
    }
}

/// Reads `eth0=dhcp`, `eth0=192.0.2.7/24`, `eth0=192.0.2.7/24,gw=192.0.2.1`.
fn address(text: &str) -> Result<Address, String> {
    let (interface, setting) = text.split_once('=').ok_or("write it as IF=IP/LEN[,gw=IP] or IF=dhcp")?;
    // As the kernel limits names of interfaces (dev_valid_name in net/core/dev.c, IFNAMSIZ).
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    if interface.is_empty() || interface.len() > 15 || !interface.bytes().all(known) {
        return Err(format!("{interface:?} is no name of an interface"));
    }
    let interface = interface.to_owned();
    if setting == "dhcp" {
        return Ok(Address { interface, setting: AddressSetting::Dhcp });
    }
    let (network, gateway) = match setting.split_once(",gw=") {
        Some((network, gateway)) => (network, Some(ip(gateway)?)),
        None => (setting, None),
    };
    let (address, prefix) = network.split_once('/').ok_or("the address has no prefix length: IP/LEN")?;
    let address = ip(address)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = prefix.parse().ok().filter(|bits| (1..=longest).contains(bits));
    let prefix_bits = prefix_bits.ok_or(format!("{prefix:?} is no prefix length from 1 to {longest}"))?;
    if gateway.is_some_and(|gateway| gateway.is_ipv4() != address.is_ipv4()) {
        return Err("address and gateway are of different families".to_owned());
    }
    Ok(Address { interface, setting: AddressSetting::Static { address, prefix_bits, gateway } })
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no IP address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_whole_or_refused() {
        let read = |text| address(text).map(|address| (address.interface, address.setting));
        assert_eq!(read("eth0=dhcp"), Ok(("eth0".into(), AddressSetting::Dhcp)));
        let setting = AddressSetting::Static {
            address: "192.0.2.7".parse().unwrap(),
            prefix_bits: 24,
            gateway: Some("192.0.2.1".parse().unwrap()),
        };
        assert_eq!(read("bond0.7=192.0.2.7/24,gw=192.0.2.1"), Ok(("bond0.7".into(), setting)));
        for bad in [
            "eth0",
            "eth0=",
            "=dhcp",
            "eth0=192.0.2.7",
            "eth0=192.0.2.7/33",
            "eth0=192.0.2.7/24,gw=fe80::1",
            "eth0=x/24",
            "a b=dhcp",
            "interface-name-too-long=dhcp",
        ] {
            assert!(address(bad).is_err(), "{bad} was accepted");
        }
    }
}
