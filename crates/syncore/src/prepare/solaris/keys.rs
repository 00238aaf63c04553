//! SSH host keys: production's go, and new ones are made on the target.
//!
//! Why: with production's keys, whoever holds the standby can be production. Keys are not only in `/etc/ssh`: before
//! Solaris 9 everybody built their own OpenSSH, below `/usr/local` or elsewhere. What can go wrong: a key that a
//! `HostKey` line names somewhere else, which is looked for; and a second preparation that would throw away the
//! standby's own keys: only those are removed that are still what production's were.

use std::collections::BTreeSet;

use super::super::lines::{Lines, fields};
use super::super::report::Finding;
use super::super::{Draft, PrepareError, Task, draft::parse};
use super::Host;
use super::finish::{Key, Script};
use crate::rules::Class;
use crate::tree::Kind;

const WHY: &str = "a host key of production's";
/// Where configurations of sshd are, of the system, of packages, and of one's own build.
const DIRECTORIES: [&str; 12] = [
    "/etc/ssh",
    "/etc/ssh2",
    "/etc",
    "/usr/local/etc",
    "/usr/local/etc/ssh",
    "/usr/local/ssh/etc",
    "/etc/opt/ssh",
    "/opt/csw/etc",
    "/opt/csw/etc/ssh",
    "/etc/opt/csw/ssh",
    "/opt/openssh/etc",
    "/opt/local/etc/ssh",
];
const PROGRAMS: [(&str, &str); 6] = [
    ("/usr/local/", "/usr/local/bin/ssh-keygen"),
    ("/opt/csw/", "/opt/csw/bin/ssh-keygen"),
    ("/etc/opt/csw/", "/opt/csw/bin/ssh-keygen"),
    ("/opt/openssh/", "/opt/openssh/bin/ssh-keygen"),
    ("/", "/usr/bin/ssh-keygen"),
    ("/", "/usr/local/bin/ssh-keygen"),
];

/// Plans all host keys.
pub(super) fn plan(
    task: &Task<'_>,
    host: &Host<'_>,
    draft: &mut Draft<'_>,
    script: &mut Script,
) -> Result<(), PrepareError> {
    if host.takeover {
        return Ok(());
    }
    let mut keys = BTreeSet::new();
    for line in task.earlier.iter().flat_map(|earlier| &earlier.lines) {
        if line.why.split("; ").any(|why| why == WHY) {
            keys.insert(line.path.to_string());
        }
    }
    for directory in DIRECTORIES {
        for name in draft.list(directory)? {
            if name.starts_with("ssh_host_") || (directory == "/etc/ssh2" && name.starts_with("hostkey")) {
                keys.insert(format!("{directory}/{name}"));
            }
        }
        for file in ["sshd_config", "sshd2_config"] {
            if let Some(content) = draft.read(&format!("{directory}/{file}"))? {
                keys.extend(configured(&content));
            }
        }
    }
    // Where they really are: that is what the journal has, and so a second preparation finds the same ones.
    let keys = keys.iter().map(|path| place(path, draft)).collect::<Result<BTreeSet<_>, _>>()?;
    let private: Vec<&String> = keys.iter().filter(|path| !path.ends_with(".pub")).collect();
    for path in private {
        if path.ends_with("-cert") || path.contains("_revoked") {
            continue;
        }
        let kind = kind_of(path);
        match program(path, draft)? {
            Some(program) => script.keys.push(Key { kind, path: path.clone(), program }),
            None => draft.find(
                Finding::pending("no ssh-keygen is in the root: make this host key on the target by hand")
                    .at(&parse(path)?),
            ),
        }
    }
    for path in &keys {
        remove(path, task, draft)?;
    }
    Ok(())
}

/// The files that the lines `HostKey` and `HostCertificate` name, each with its public half.
fn configured(content: &[u8]) -> Vec<String> {
    let mut paths = Vec::new();
    for line in Lines::of(content).0 {
        let line = String::from_utf8_lossy(&line.content).replacen('=', " ", 1);
        let words = fields(line.as_bytes());
        let [keyword, path] = words[..] else { continue };
        let path = String::from_utf8_lossy(path).trim_matches('"').to_owned();
        if path.starts_with('/') && keyword.eq_ignore_ascii_case(b"hostkey") {
            paths.push(format!("{path}.pub"));
            paths.push(path);
        } else if path.starts_with('/') && keyword.eq_ignore_ascii_case(b"hostcertificate") {
            paths.push(path);
        }
    }
    paths
}

/// A path without links in the directories before its name.
fn place(path: &str, draft: &Draft<'_>) -> Result<String, PrepareError> {
    let wanted = parse(path)?;
    let place = draft.inside().place(&wanted).map_err(|error| PrepareError::read(&wanted, error))?;
    Ok(place.to_string())
}

/// Removes a key, and what it leads to if it is a link, unless it is the standby's by now.
fn remove(path: &str, task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let Some(entry) = draft.own_entry(path)? else { return Ok(()) };
    let before = task.earlier.and_then(|earlier| earlier.line(&parse(path).ok()?)?.before.clone());
    if let Some(before) = before {
        let now = draft.read(path)?.map(|content| blake3::hash(&content).to_hex().to_string());
        if now.is_some_and(|now| now != before) {
            return Ok(());
        }
    }
    if entry.kind == Kind::Symlink {
        let wanted = parse(path)?;
        let real = draft.inside().resolve(&wanted).map_err(|error| PrepareError::read(&wanted, error))?;
        draft.remove(&real.to_string(), Class::A, "what a link to a host key leads to")?;
    }
    if matches!(entry.kind, Kind::File | Kind::Symlink) {
        draft.remove(path, Class::A, WHY)?;
    }
    Ok(())
}

/// What `ssh-keygen -t` calls the kind of a private key. By the name alone: when this is planned again, the name is all
/// that is left, and sshd takes a key of any kind from a file of any name.
fn kind_of(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name {
        "ssh_host_key" => "rsa1",
        _ if name.contains("ed25519") => "ed25519",
        _ if name.contains("ecdsa") => "ecdsa",
        _ if name.contains("dsa") => "dsa",
        _ => "rsa",
    }
}

/// The program that makes this key: the one of the same installation.
fn program(path: &str, draft: &Draft<'_>) -> Result<Option<String>, PrepareError> {
    for (below, program) in PROGRAMS {
        if path.starts_with(below) && draft.exists(program)? {
            return Ok(Some(program.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_the_configuration_says() {
        let config = b"# HostKey /no\nhostkey /opt/keys/host\nHostCertificate=/opt/keys/host-cert.pub\nHostKey relative\n";
        assert_eq!(configured(config), ["/opt/keys/host.pub", "/opt/keys/host", "/opt/keys/host-cert.pub"]);
    }
}
