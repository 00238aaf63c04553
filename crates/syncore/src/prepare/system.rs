//! Which operating system is in the root, and who it was where it came from.
//!
//! Why: everything else depends on it, and a guess here is a host that does not boot. What can go wrong: a tree that is
//! no system at all (a data volume, an empty mount point), which is refused by name.

use super::draft::Draft;
use super::lines::fields;
use super::{Platform, PrepareError};

/// A family of Linux distributions that keep things in the same places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Debian, Ubuntu and what is made of them.
    Debian,
    /// Red Hat Enterprise Linux, Fedora and what is made of them.
    RedHat,
    /// SUSE Linux Enterprise, openSUSE.
    Suse,
    /// Arch Linux and what is made of it.
    Arch,
}

/// Solaris, by what its boot and device tree look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Solaris {
    /// 2.6 and before (SunOS 5.6): `drvconfig`, `devlinks`, `disks`.
    UpTo26,
    /// 7, 8 and 9 (SunOS 5.7 to 5.9): `devfsadm`.
    From7To9,
    /// 10: the kernel keeps `/devices`, SMF starts services.
    Ten,
    /// 11: identity in SMF, boot environments on ZFS.
    Eleven,
    /// illumos distributions.
    Illumos,
}

/// The kind of system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Linux.
    Linux(Family),
    /// Solaris or illumos.
    Solaris(Solaris),
}

/// The system in the root, as it came from its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// What it is.
    pub kind: Kind,
    /// As it calls itself.
    pub name: String,
    /// `/etc/hostname` or `/etc/nodename`, without the newline; empty if there is none.
    pub hostname: String,
    /// `/etc/machine-id`, if there is a valid one.
    pub machine_id: Option<String>,
    /// The addresses that `/etc/hosts` gives to its own name.
    pub addresses: Vec<String>,
}

impl System {
    /// Looks at the root.
    pub(crate) fn detect(draft: &Draft<'_>, platform: Option<Platform>) -> Result<Self, PrepareError> {
        // A root that lost its path_to_inst is Solaris all the same; illumos has an os-release too.
        let solaris = match platform {
            Some(platform) => platform == Platform::Solaris,
            None => draft.exists("/etc/path_to_inst")? || solaris_release(draft).is_ok(),
        };
        let (kind, name) = if solaris { solaris_release(draft)? } else { linux_release(draft)? };
        let hostname = match kind {
            Kind::Linux(_) => first_word(draft.text("/etc/hostname")?),
            // Solaris 11 has its name in SMF, and a copy of it in hosts.
            Kind::Solaris(_) => match first_word(draft.text("/etc/nodename")?) {
                name if name.is_empty() => loopback_name(&draft.text("/etc/hosts")?.unwrap_or_default()),
                name => name,
            },
        };
        let addresses = addresses_of(&hostname, &draft.read("/etc/hosts")?.unwrap_or_default());
        let machine_id = draft.text("/etc/machine-id")?.map(|id| id.trim().to_owned());
        let machine_id = machine_id.filter(|id| is_machine_id(id));
        Ok(Self { kind, name, hostname, machine_id, addresses })
    }
}

/// Whether this is an id of machine-id(5): 32 lower-case hexadecimal digits, not all zero.
pub(crate) fn is_machine_id(id: &str) -> bool {
    id.len() == 32
        && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && id.bytes().any(|b| b != b'0')
}

fn first_word(text: Option<String>) -> String {
    let text = text.unwrap_or_default();
    let line = text.lines().find(|line| !line.trim().is_empty() && !line.trim().starts_with('#'));
    line.and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_owned()
}

/// The name that a host has at its loopback address; empty if it has none but `localhost`.
fn loopback_name(hosts: &str) -> String {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut names = lines
        .filter(|line| line.trim_start().starts_with("127.") || line.trim_start().starts_with("::1"))
        .flat_map(|line| line.split_whitespace().skip(1))
        .filter(|name| !name.starts_with("localhost") && *name != "loghost");
    names.next().unwrap_or_default().to_owned()
}

/// The addresses of the lines of a hosts(5) file that name `hostname` or its first label, loopback excepted.
fn addresses_of(hostname: &str, hosts: &[u8]) -> Vec<String> {
    let short = hostname.split('.').next().unwrap_or_default();
    let mut addresses = Vec::new();
    for line in hosts.split(|b| *b == b'\n') {
        let line = line.split(|b| *b == b'#').next().unwrap_or_default();
        let line: Vec<&[u8]> = fields(line).into_iter().map(<[u8]>::trim_ascii).collect();
        let Some((address, names)) = line.split_first() else { continue };
        let names_it = |name: &&[u8]| {
            !short.is_empty() && (**name == *hostname.as_bytes() || **name == *short.as_bytes())
        };
        let Ok(address) = String::from_utf8(address.to_vec()) else { continue };
        let loopback = address.starts_with("127.") || address == "::1";
        if names.iter().any(names_it) && !loopback && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn linux_release(draft: &Draft<'_>) -> Result<(Kind, String), PrepareError> {
    let text = match draft.text("/etc/os-release")? {
        Some(text) => text,
        None => draft.text("/usr/lib/os-release")?.ok_or(PrepareError::NoSystem)?,
    };
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
            .next_back()
            .unwrap_or_default()
    };
    let name = value("PRETTY_NAME");
    let ids = format!("{} {}", value("ID"), value("ID_LIKE"));
    let family = ids.split_whitespace().find_map(|id| match id {
        "debian" | "ubuntu" => Some(Family::Debian),
        "rhel" | "fedora" | "centos" | "rocky" | "almalinux" | "ol" => Some(Family::RedHat),
        "suse" | "sles" | "opensuse" | "opensuse-leap" | "opensuse-tumbleweed" => Some(Family::Suse),
        "arch" | "archlinux" => Some(Family::Arch),
        _ => None,
    });
    let family = family.ok_or_else(|| PrepareError::UnknownSystem { name: name.clone() })?;
    Ok((Kind::Linux(family), name))
}

fn solaris_release(draft: &Draft<'_>) -> Result<(Kind, String), PrepareError> {
    let release = draft.text("/etc/release")?.unwrap_or_default();
    let name = release.lines().next().unwrap_or_default().trim().to_owned();
    let is = |words: &[&str]| words.iter().any(|word| release.contains(word));
    let solaris = if is(&["illumos", "OmniOS", "OpenIndiana", "SmartOS", "Tribblix"]) {
        Solaris::Illumos
    } else if is(&["Solaris 11", "SunOS 5.11"]) {
        Solaris::Eleven
    } else if is(&["Solaris 10", "SunOS 5.10"]) {
        Solaris::Ten
    } else if is(&["Solaris 9", "Solaris 8", "Solaris 7", "SunOS 5.9", "SunOS 5.8", "SunOS 5.7"]) {
        Solaris::From7To9
    } else if is(&["Solaris 2.", "SunOS 5.6", "SunOS 5.5"]) {
        Solaris::UpTo26
    } else if name.is_empty() {
        return Err(PrepareError::NoSystem);
    } else {
        return Err(PrepareError::UnknownSystem { name });
    };
    Ok((Kind::Solaris(solaris), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_addresses_are_those_of_its_own_name() {
        let hosts = b"127.0.0.1 localhost db1\n10.0.0.5\tdb1.example.org db1 # db1\n10.0.0.9 db10\r\n10.0.0.6 db1\r\n";
        assert_eq!(addresses_of("db1", hosts), ["10.0.0.5", "10.0.0.6"]);
        assert_eq!(addresses_of("db1.example.org", hosts), ["10.0.0.5", "10.0.0.6"]);
        assert!(addresses_of("", hosts).is_empty());
    }

    #[test]
    fn a_name_at_the_loopback_address_is_its_own() {
        assert_eq!(loopback_name("::1 db1 localhost\n127.0.0.1 db1 localhost loghost\n"), "db1");
        assert_eq!(loopback_name("127.0.0.1 localhost loghost # db1\n10.0.0.5 db1\n"), "");
    }

    #[test]
    fn an_id_is_32_digits() {
        assert!(is_machine_id("0123456789abcdef0123456789abcdef"));
        assert!(!is_machine_id("0123456789ABCDEF0123456789abcdef"));
        assert!(!is_machine_id("00000000000000000000000000000000"));
        assert!(!is_machine_id("uninitialized"));
    }
}
