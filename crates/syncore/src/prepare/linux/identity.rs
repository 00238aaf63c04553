//! The standby's own name and ids.
//!
//! Why: two hosts with one name answer for each other, two with one machine id get one DHCP lease. What can go wrong: a
//! machine id that is empty or `uninitialized` makes the first boot apply unit presets, which starts what an
//! administrator had disabled, and an old copy for D-Bus brings the old id back (machine-id(5)); so a valid one is written
//! at once and D-Bus's is a link to it.

use std::io::Read;

use super::names::Names;
use crate::prepare::draft::Draft;
use crate::prepare::lines::{Lines, fields, is_comment, with_field};
use crate::prepare::system::is_machine_id;
use crate::prepare::{AddressSetting, Finding, Identity, PrepareError, Task};
use crate::rules::Class;

/// Name files whose every value is a host name.
const NAME_FILES: [&str; 4] =
    ["/etc/mailname", "/etc/mail/local-host-names", "/etc/HOSTNAME", "/etc/qmail/control/me"];
/// Settings of postfix(1) that hold this host's own names.
const POSTFIX: [&str; 4] = ["myhostname", "mydestination", "myorigin", "mydomain"];
/// Settings of exim's Debian configuration that do.
const EXIM: [&str; 3] = ["dc_other_hostnames", "dc_readhost", "dc_visible_name"];

/// Plans names and ids.
pub(super) fn plan(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let names = Names::of(task, &draft.read("/etc/hosts")?.unwrap_or_default());
    hostname(task, &names, draft)?;
    hosts(task, &names, draft)?;
    mail(&names, draft)?;
    machine_id(task, draft)?;
    host_id(task, draft)
}

fn hostname(task: &Task<'_>, names: &Names, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let why = "the standby's name";
    draft.write("/etc/hostname", format!("{}\n", task.hostname), Class::A, why)?;
    let old = task.earlier.map_or(&task.system.hostname, |earlier| &earlier.source_hostname);
    if old != task.hostname {
        draft.replaced("hostname", old.clone(), task.hostname);
    }
    // Of Red Hat up to 6, and read by some scripts since.
    edit_values(draft, "/etc/sysconfig/network", &["HOSTNAME"], why, Class::A, |_| {
        task.hostname.as_bytes().to_vec()
    })?;
    edit_values(draft, "/etc/machine-info", &["PRETTY_HOSTNAME"], why, Class::A, |value| {
        let own = names.replaced_in(value);
        if own == value && task.options.identity == Identity::Own { quoted(task.hostname) } else { own }
    })
}

fn quoted(name: &str) -> Vec<u8> {
    format!("\"{name}\"").into_bytes()
}

/// Rewrites the values of `KEY=value` lines.
pub(super) fn edit_values(
    draft: &mut Draft<'_>,
    path: &str,
    keys: &[&str],
    why: &str,
    class: Class,
    mut change: impl FnMut(&[u8]) -> Vec<u8>,
) -> Result<(), PrepareError> {
    let Some(content) = draft.read(path)? else { return Ok(()) };
    let mut lines = Lines::of(&content);
    lines.edit(|line| {
        let Some(at) = line.iter().position(|b| *b == b'=') else { return Some(line.to_vec()) };
        let key = line[..at].trim_ascii();
        if !keys.iter().any(|wanted| key == wanted.as_bytes()) {
            return Some(line.to_vec());
        }
        let value = line[at + 1..].trim_ascii_start();
        let blanks = line.len() - at - 1 - value.len();
        Some([&line[..=at + blanks], &change(value)].concat())
    });
    draft.write(path, lines.to_bytes(), class, why)
}

/// hosts(5): loopback lines name this host, production's line stays for those who ask for it, and the standby has a line.
fn hosts(task: &Task<'_>, names: &Names, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let own = task.options.addresses.iter().find_map(|address| match address.setting {
        AddressSetting::Static { address, .. } => Some(address.to_string()),
        AddressSetting::Dhcp => None,
    });
    let content = draft.read("/etc/hosts")?.unwrap_or_default();
    let after = own_hosts(&content, names, own.as_deref());
    draft.write("/etc/hosts", after, Class::B, "the standby's own line; production's stays")
}

/// The hosts(5) file of the standby.
fn own_hosts(content: &[u8], names: &Names, address: Option<&str>) -> Vec<u8> {
    let mut lines = Lines::of(content);
    // Whether a line gives the standby's name the address that it has.
    let mut named = lines.0.iter().any(|line| {
        let words = words_of(&line.content);
        let own = words.iter().skip(1).any(|word| names.is_own(word));
        own && address.is_none_or(|address| words.first().is_some_and(|is| **is == *address.as_bytes()))
    });
    lines.edit(|line| {
        let words = words_of(line);
        let (Some(is), names_in_it) = (words.first(), words.get(1..).unwrap_or_default()) else {
            return Some(line.to_vec());
        };
        let of_source = names_in_it.iter().any(|word| names.is_source(word));
        if is_loopback(is) && of_source {
            named |= address.is_none();
            return Some(swapped(line, words.len(), names));
        }
        match address {
            // A line of old for the standby itself. One that names production, too, is production's.
            Some(address)
                if !named
                    && !of_source
                    && !is_loopback(is)
                    && is.contains(&b':') == address.contains(':')
                    && names_in_it.iter().any(|word| names.is_own(word)) =>
            {
                named = true;
                Some(with_field(line, 0, address.as_bytes()))
            }
            _ => Some(line.to_vec()),
        }
    });
    if !named {
        // 127.0.1.1 is what Debian gives to a host without an address of its own (hosts(5) there).
        lines.push(format!("{}\t{}", address.unwrap_or("127.0.1.1"), names.for_hosts()).as_bytes());
    }
    lines.to_bytes()
}

/// Address and names of a line of hosts(5); none of a comment.
fn words_of(line: &[u8]) -> Vec<&[u8]> {
    fields(line.split(|b| *b == b'#').next().unwrap_or_default())
}

fn is_loopback(address: &[u8]) -> bool {
    address.starts_with(b"127.") || address == b"::1"
}

/// A loopback line, of so many words, that names this host in place of production.
fn swapped(line: &[u8], words: usize, names: &Names) -> Vec<u8> {
    let mut line = line.to_vec();
    for index in 1..words {
        let own = fields(&line).get(index).and_then(|word| names.own_for(word)).map(<[u8]>::to_vec);
        if let Some(own) = own {
            line = with_field(&line, index, &own);
        }
    }
    line
}

fn mail(names: &Names, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let why = "the name under which this host sends mail";
    for path in NAME_FILES {
        if let Some(content) = draft.read(path)? {
            draft.write(path, names.replaced_in(&content), Class::A, why)?;
        }
    }
    edit_values(draft, "/etc/exim4/update-exim4.conf.conf", &EXIM, why, Class::A, |value| {
        names.replaced_in(value)
    })?;
    edit_values(draft, "/etc/exim4/exim4.conf", &["primary_hostname"], why, Class::A, |value| {
        names.replaced_in(value)
    })?;
    let Some(content) = draft.read("/etc/postfix/main.cf")? else { return Ok(()) };
    let mut lines = Lines::of(&content);
    let mut ours = false;
    lines.edit(|line| {
        if is_comment(line, b'#') {
            return Some(line.to_vec());
        }
        // postconf(5): a line that starts with a blank goes on with the one before it.
        if !line.first().is_some_and(u8::is_ascii_whitespace) {
            let key = line.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
            ours = POSTFIX.iter().any(|wanted| key == wanted.as_bytes());
        }
        Some(if ours { names.replaced_in(line) } else { line.to_vec() })
    });
    draft.write("/etc/postfix/main.cf", lines.to_bytes(), Class::A, why)
}

fn machine_id(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let earlier = task.earlier.and_then(|earlier| earlier.machine_id.clone());
    let old = match task.earlier {
        Some(earlier) => earlier.source_machine_id.clone(),
        None => task.system.machine_id.clone(),
    };
    let dbus = draft.own_entry("/var/lib/dbus/machine-id")?.is_some();
    // A root that never had one, on a system without systemd, needs none.
    if old.is_none() && draft.own_entry("/etc/machine-id")?.is_none() && !dbus && !has_systemd(draft)? {
        return Ok(());
    }
    let id = match earlier.filter(|id| is_machine_id(id) && Some(id) != old.as_ref()) {
        Some(id) => id,
        None => new_machine_id()?,
    };
    draft.write_here(
        "/etc/machine-id",
        format!("{id}\n"),
        0o444,
        Class::A,
        "an id of its own, valid at once",
    )?;
    if dbus || draft.entry("/var/lib/dbus")?.is_some() {
        let why = "D-Bus uses the same id, and can bring no old one back";
        draft.symlink("/var/lib/dbus/machine-id", "/etc/machine-id", Class::A, why)?;
    }
    draft.replaced("machine-id", old.unwrap_or_default(), id.clone());
    draft.machine_id = Some(id);
    Ok(())
}

/// Whether systemd starts the root.
pub(super) fn has_systemd(draft: &Draft<'_>) -> Result<bool, PrepareError> {
    Ok(draft.exists("/usr/lib/systemd/systemd")? || draft.exists("/lib/systemd/systemd")?)
}

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N], PrepareError> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| PrepareError::Option(format!("cannot make a random id: {error}")))?;
    Ok(bytes)
}

fn new_machine_id() -> Result<String, PrepareError> {
    let mut bytes: [u8; 16] = random()?;
    // As systemd makes them: a UUID of version 4 without its hyphens.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The four bytes by which ZFS knows whose pool it is.
fn host_id(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let path = "/etc/hostid";
    let old = draft.read(path)?;
    let zfs = draft.exists("/etc/zfs")?;
    let ours = task.earlier.is_some_and(|earlier| {
        earlier.lines.iter().any(|line| line.path.as_bytes() == b"etc/hostid" && line.after.is_some())
    });
    if old.is_none() && !zfs || ours && old.is_some() {
        return Ok(());
    }
    let hex = |bytes: &[u8]| bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    let new: [u8; 4] = random()?;
    draft.replaced("hostid", old.as_deref().map(hex).unwrap_or_default(), hex(&new));
    draft.write(
        path,
        new,
        Class::A,
        "ZFS takes a pool for another host's by this id; it is in the initramfs, too",
    )?;
    if zfs && old.is_none() {
        draft
            .find(Finding::note("/etc/hostid is new: a pool that was imported without one asks for -f once"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
