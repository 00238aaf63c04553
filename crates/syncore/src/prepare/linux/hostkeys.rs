//! SSH host keys of the standby's own, and an SSH server that listens where the standby is.
//!
//! Why: with production's keys the standby can pose as production, and clients cannot tell them apart. Keys lie where
//! the configuration says: a server below `/usr/local` is as common as the distribution's. What can go wrong: a key in
//! a place that no configuration names (so whatever is called like a host key goes, too), a certificate of the old key,
//! a key that only another program can make; the last two are said as left to be done.

use super::network::Own;
use crate::prepare::draft::Draft;
use crate::prepare::hostkey::{NewHostKey, fingerprint, fingerprint_of_private, program, public_words};
use crate::prepare::lines::{Lines, fields, is_comment};
use crate::prepare::{Finding, Identity, PrepareError, Step, Task};
use crate::rules::Class;
use crate::tree::Kind;

/// Directories of an SSH server's configuration.
const DIRECTORIES: [&str; 6] = [
    "/etc/ssh",
    "/usr/local/etc",
    "/usr/local/etc/ssh",
    "/usr/local/ssh/etc",
    "/opt/openssh/etc",
    "/etc/openssh",
];
/// Keys that a server without a `HostKey` line uses (sshd_config(5)).
const DEFAULT_KINDS: [&str; 3] = ["rsa", "ecdsa", "ed25519"];
/// Keys of dropbear(8), of the host and of its initramfs.
const DROPBEAR: [&str; 3] = ["/etc/dropbear", "/etc/dropbear-initramfs", "/etc/dropbear/initramfs"];
/// As deep as files include each other.
const INCLUDES_LIMIT: usize = 64;

/// What the configuration of one server says.
#[derive(Debug, Default)]
struct Server {
    keys: Vec<String>,
    certificates: Vec<String>,
    files: Vec<String>,
    /// A program or device that holds keys.
    agent: bool,
}

/// Plans host keys.
pub(super) fn plan(task: &Task<'_>, own: &Own, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let mut keys: Vec<String> = Vec::new();
    for directory in DIRECTORIES {
        let server = configured(directory, draft)?;
        for file in &server.files {
            listen_addresses(file, own, draft)?;
        }
        if task.options.identity == Identity::Takeover {
            continue;
        }
        if server.agent {
            let message =
                format!("the SSH server of {directory} takes its keys from an agent: give it new ones");
            draft.find(Finding::pending(message));
        }
        for certificate in &server.certificates {
            if draft.own_entry(certificate)?.is_some() {
                draft.remove(certificate, Class::A, "a certificate of production's host key")?;
                let message =
                    format!("{certificate} was production's: have a certificate made for the new key");
                draft.find(Finding::pending(message));
            }
        }
        keys.extend(server.keys);
        for name in draft.list(directory)? {
            if name.starts_with("ssh_host_") && name.ends_with("_key") {
                keys.push(format!("{directory}/{name}"));
            }
        }
    }
    if task.options.identity == Identity::Takeover {
        return note_kept(draft);
    }
    keys.sort();
    keys.dedup();
    for key in keys {
        renew(task, &key, draft)?;
    }
    for directory in DROPBEAR {
        dropbear(directory, draft)?;
    }
    Ok(())
}

/// Reads the configuration of the server whose files are in `directory`, with what it includes.
fn configured(directory: &str, draft: &Draft<'_>) -> Result<Server, PrepareError> {
    let mut server = Server::default();
    let mut files = vec![format!("{directory}/sshd_config")];
    while let Some(file) = files.pop() {
        if server.files.len() > INCLUDES_LIMIT || server.files.contains(&file) {
            continue;
        }
        let Some(content) = draft.text(&file)? else { continue };
        for line in content.lines().filter(|line| !is_comment(line.as_bytes(), b'#')) {
            let mut words =
                line.split(|c: char| c.is_whitespace() || c == '=').filter(|word| !word.is_empty());
            let key = words.next().unwrap_or_default().to_ascii_lowercase();
            let values = words.map(|word| {
                let word = word.trim_matches('"');
                if word.starts_with('/') { word.to_owned() } else { format!("{directory}/{word}") }
            });
            match &key[..] {
                "hostkey" => server.keys.extend(values),
                "hostcertificate" => server.certificates.extend(values),
                "hostkeyagent" => server.agent = true,
                "include" => {
                    for pattern in values {
                        files.extend(matching(&pattern, draft)?);
                    }
                }
                _ => {}
            }
        }
        server.files.push(file);
    }
    let has_one = |name: &String| name.starts_with("ssh_host_") && name.ends_with("_key");
    if server.keys.is_empty() && !server.files.is_empty() && !draft.list(directory)?.iter().any(has_one) {
        server.keys.extend(DEFAULT_KINDS.map(|kind| format!("{directory}/ssh_host_{kind}_key")));
    }
    Ok(server)
}

/// The files that a pattern with `*` in its last part names.
fn matching(pattern: &str, draft: &Draft<'_>) -> Result<Vec<String>, PrepareError> {
    let (directory, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let Some((start, end)) = name.split_once('*') else { return Ok(vec![pattern.to_owned()]) };
    let names = draft.list(if directory.is_empty() { "/" } else { directory })?;
    Ok(names
        .into_iter()
        .filter(|name| name.starts_with(start) && name.ends_with(end))
        .map(|name| format!("{directory}/{name}"))
        .collect())
}

/// Has one key made anew, in place of production's.
fn renew(task: &Task<'_>, key: &str, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let real = draft.real(key)?;
    if key.rsplit_once('/').is_some_and(|(above, _)| draft.entry(above).is_ok_and(|entry| entry.is_none())) {
        draft.find(Finding::note(format!(
            "{key} is configured as a host key, and there is no such directory"
        )));
        return Ok(());
    }
    let old = draft.read(key)?;
    let public_path = format!("{key}.pub");
    let public = draft.read(&public_path)?;
    let print = match (&public, &old) {
        (Some(public), _) => fingerprint(public),
        (None, Some(private)) => fingerprint_of_private(private),
        (None, None) => None,
    };
    if let (Some(earlier), Some(print), Some(_)) = (task.earlier, &print, &old)
        && !earlier.source_host_keys.contains(print)
        && earlier.line(&real).is_some()
    {
        // An earlier preparation made it.
        return Ok(());
    }
    draft.source_host_keys.extend(print);
    let Some(kind) = kind_of(key, public.as_deref()) else {
        if old.is_some() {
            let message = format!("{key} is production's and of no kind that is made today: it is gone");
            draft.remove(key, Class::A, "production's host key")?;
            draft.remove(&public_path, Class::A, "production's host key")?;
            draft.find(Finding::note(message));
        }
        return Ok(());
    };
    let entry = draft.entry(key)?;
    let (owner, mode) = entry.map_or(((0, 0), 0o600), |entry| ((entry.uid, entry.gid), entry.mode & 0o640));
    let place = format!("/{}", String::from_utf8_lossy(real.as_bytes()));
    // Removed where they are: the configuration may name a link.
    for path in [place.clone(), format!("{place}.pub"), format!("{place}-cert.pub")] {
        draft.remove(&path, Class::A, "production's host key; the standby gets one of its own")?;
    }
    draft.replaced("host key", key, format!("new {kind} key"));
    if program().is_some() {
        draft.new_host_keys.push(NewHostKey { path: real, kind: kind.to_owned(), owner, mode });
        return Ok(());
    }
    let comment = format!("root@{}", task.hostname);
    let argv = ["/usr/bin/ssh-keygen", "-q", "-N", "", "-t", kind, "-C", &comment, "-f", key];
    if draft.exists("/usr/bin/ssh-keygen")? {
        draft.command(Step::HostKeys, &argv, "a host key of the standby's own");
    } else {
        let message =
            format!("there is no ssh-keygen here nor in the root: make {key} with {}", argv.join(" "));
        draft.find(Finding::pending(message));
    }
    Ok(())
}

/// What kind of key a file is: by its name, else by its public half.
fn kind_of(key: &str, public: Option<&[u8]>) -> Option<&'static str> {
    let name = key.rsplit('/').next().unwrap_or_default();
    let said = public.and_then(public_words).map(|(kind, _)| kind).unwrap_or_default();
    let kinds = ["ed25519", "ecdsa", "rsa"];
    let old = name.contains("dsa") && !name.contains("ecdsa") || said == "ssh-dss" || name == "ssh_host_key";
    if old {
        return None;
    }
    kinds
        .into_iter()
        .find(|kind| said.contains(kind))
        .or_else(|| kinds.into_iter().find(|kind| name.contains(kind)))
        .or(Some("ed25519"))
}

/// Keys of dropbear, which only its own program makes.
fn dropbear(directory: &str, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for name in draft.list(directory)? {
        let Some(kind) = name.strip_prefix("dropbear_").and_then(|rest| rest.strip_suffix("_host_key"))
        else {
            continue;
        };
        let path = format!("{directory}/{name}");
        draft.remove(&path, Class::A, "production's host key; the standby gets one of its own")?;
        draft.replaced("host key", &path[..], format!("new {kind} key"));
        if let "rsa" | "ecdsa" | "ed25519" = kind {
            let argv = ["/usr/bin/dropbearkey", "-t", kind, "-f", &path];
            if draft.exists("/usr/bin/dropbearkey")? {
                draft.command(Step::HostKeys, &argv, "a host key of the standby's own");
            } else {
                draft.find(Finding::pending(format!("make {path} with {}", argv.join(" "))));
            }
        }
    }
    Ok(())
}

/// `ListenAddress` lines with production's addresses: the server would not start.
fn listen_addresses(file: &str, own: &Own, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let Some(content) = draft.read(file)? else { return Ok(()) };
    let mut lines = Lines::of(&content);
    lines.edit(|line| {
        let words = fields(line);
        let listens = words.first().is_some_and(|key| key.eq_ignore_ascii_case(b"ListenAddress"));
        let address = words.get(1).map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default();
        let bare = match address.rsplit_once(':') {
            Some((bare, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !bare.contains(':') => bare,
            _ => address.split(']').next().unwrap_or_default().trim_start_matches('['),
        };
        if !listens || !own.is_sources(bare) {
            return Some(line.to_vec());
        }
        // Not dropped: who reads the file should see that the address was chosen by somebody.
        Some([b"# on production: ", line].concat())
    });
    draft.write(
        file,
        lines.to_bytes(),
        Class::A,
        "production's address is not here; the server listens on all",
    )
}

fn note_kept(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for directory in DIRECTORIES {
        for name in draft.list(directory)? {
            let path = format!("{directory}/{name}");
            let is_key = name.starts_with("ssh_host_") && name.ends_with("_key");
            if is_key && draft.entry(&path)?.is_some_and(|entry| entry.kind == Kind::File) {
                let real = draft.real(&path)?;
                let message =
                    "production's host key stays, for a takeover: never let both hosts be reached at once";
                draft.find(Finding::note(message).at(&real));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "hostkeys_tests.rs"]
mod tests;
