//! A strict reader of OpenSSH's files of known host keys, for the built-in client.
//!
//! Why: libssh2 has one, but it takes `@revoked` for a host name and knows neither wildcards nor negation, so a
//! revoked key would be trusted. Here a line is either understood or the file is refused, by file and line. What can
//! go wrong: a key recorded under another spelling of the host (then it is unknown, and refused), a file that
//! somebody else may write (its owner decides whom we trust; that is the same for `ssh`).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::TransportError;
use crate::tree::escape;

/// More than any fleet needs; a device or a log given by mistake ends here.
const FILE_LIMIT_BYTES: u64 = 16 << 20;

/// The keys recorded for one host.
#[derive(Debug)]
pub(super) struct KnownKeys {
    exact: Vec<Recorded>,
    /// Recorded without the port. As with OpenSSH they can vouch for a key, but not call another one changed.
    without_port: Vec<Recorded>,
    shown_host: String,
    first_file: String,
}

#[derive(Debug)]
struct Recorded {
    kind: String,
    key: Vec<u8>,
    place: String,
}

impl KnownKeys {
    /// Reads what `files` record for `host`; a file that does not exist records nothing.
    pub(super) fn read(files: &[PathBuf], host: &str, port: u16) -> Result<Self, TransportError> {
        let bare = host.to_ascii_lowercase();
        let name = if port == 22 { bare.clone() } else { format!("[{bare}]:{port}") };
        let first_file = files.first().map_or_else(|| "known_hosts".into(), |file| shown(file));
        let mut keys = Self { exact: vec![], without_port: vec![], shown_host: name.clone(), first_file };
        for file in files {
            let Some(text) = contents(file).map_err(|error| refused(shown(file), error.to_string()))? else {
                continue;
            };
            for (number, line) in text.split(|&b| b == b'\n').enumerate() {
                let place = format!("{}:{}", shown(file), number + 1);
                let Some((patterns, kind, key)) = fields(line, &place)? else { continue };
                let recorded = |place| Recorded { kind: kind.to_owned(), key: key.clone(), place };
                if applies(patterns, &name, &place)? {
                    keys.exact.push(recorded(place));
                } else if port != 22 && applies(patterns, &bare, &place)? {
                    keys.without_port.push(recorded(place));
                }
            }
        }
        Ok(keys)
    }

    /// The types of key recorded, best first. Negotiation has to ask for one of these: a host has several keys, and
    /// showing one that was never recorded would look like an unknown host.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &str> {
        self.exact.iter().chain(&self.without_port).map(|recorded| recorded.kind.as_str())
    }

    /// Accepts `key` as shown by the host, or says why not.
    pub(super) fn check(&self, key: &[u8]) -> Result<(), TransportError> {
        if self.exact.iter().chain(&self.without_port).any(|recorded| recorded.key == key) {
            return Ok(());
        }
        let host = self.shown_host.clone();
        let shown_kind = kind_of(key);
        let same_kind = self.exact.iter().find(|recorded| recorded.kind == shown_kind);
        match same_kind.or(self.exact.first()) {
            Some(recorded) => Err(TransportError::HostKeyChanged {
                host,
                offered: fingerprint(key),
                known: fingerprint(&recorded.key),
                place: recorded.place.clone(),
            }),
            None => {
                let (key, file) = (fingerprint(key), self.first_file.clone());
                Err(TransportError::HostKeyUnknown { host, key, file })
            }
        }
    }
}

/// The fingerprint recorded at a line of a file, where there is one.
pub(super) fn recorded_at(file: &Path, line: usize) -> Option<String> {
    let text = contents(file).ok()??;
    let line = text.split(|&b| b == b'\n').nth(line.checked_sub(1)?)?;
    let (_, _, key) = fields(line, "").ok()??;
    Some(fingerprint(&key))
}

/// Type and SHA256 fingerprint as OpenSSH writes them.
pub(super) fn fingerprint(key: &[u8]) -> String {
    let digest = BASE64_STANDARD_NO_PAD.encode(Sha256::digest(key));
    format!("{} SHA256:{digest}", escape(kind_of(key).as_bytes()))
}

/// The type that a key blob names in its first field.
fn kind_of(key: &[u8]) -> String {
    let kind = key.split_first_chunk::<4>().and_then(|(length, rest)| {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        rest.get(..length)
    });
    String::from_utf8_lossy(kind.unwrap_or(b"key")).into_owned()
}

fn shown(file: &Path) -> String {
    escape(file.as_os_str().as_encoded_bytes())
}

fn refused(place: String, reason: String) -> TransportError {
    TransportError::KnownHosts { place, reason }
}

fn contents(file: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        return Err(io::Error::other("is too large for a file of known hosts"));
    }
    Ok(Some(text))
}

type Fields<'a> = (&'a str, &'a str, Vec<u8>);

/// Host patterns, key type and key of a line; none for a comment, and for a line OpenSSH would skip as well.
fn fields<'a>(line: &'a [u8], place: &str) -> Result<Option<Fields<'a>>, TransportError> {
    let line = line.trim_ascii();
    if line.first() == Some(&b'@') {
        let marker = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let reason = format!("the marker {} is not honoured by the built-in client", escape(marker));
        return Err(refused(place.to_owned(), reason));
    }
    if line.is_empty() || line[0] == b'#' {
        return Ok(None);
    }
    let Ok(line) = std::str::from_utf8(line) else { return Ok(None) };
    let mut words = line.split_ascii_whitespace();
    let (Some(patterns), Some(kind), Some(key)) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    Ok(BASE64_STANDARD.decode(key).ok().filter(|key| kind_of(key) == kind).map(|key| (patterns, kind, key)))
}

/// Whether a line speaks of `name`. One that might, by a wildcard or with an exception, is refused.
fn applies(patterns: &str, name: &str, place: &str) -> Result<bool, TransportError> {
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        return Ok(hashed_name(hashed, name).unwrap_or(false));
    }
    let mut found = false;
    let mut doubtful = false;
    for pattern in patterns.split(',') {
        let negated = pattern.starts_with('!');
        let wild = pattern.contains(['*', '?']);
        doubtful |= negated || wild;
        found |= !negated && glob(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes());
    }
    if found && doubtful {
        let reason =
            "a wildcard or an exception that concerns this host is not honoured by the built-in client";
        return Err(refused(place.to_owned(), reason.into()));
    }
    Ok(found)
}

/// `SALT|HASH`: the HMAC-SHA1 of the name under the salt.
fn hashed_name(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let (salt, hash) = (BASE64_STANDARD.decode(salt).ok()?, BASE64_STANDARD.decode(hash).ok()?);
    let mut mac = Hmac::<Sha1>::new_from_slice(&salt).ok()?;
    mac.update(name.as_bytes());
    Some(mac.verify_slice(&hash).is_ok())
}

/// `*` any bytes, `?` one byte; nothing else is special, brackets belong to `[host]:port`.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut retry) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    (p, n) = (star + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
#[path = "known_hosts_tests.rs"]
mod tests;
