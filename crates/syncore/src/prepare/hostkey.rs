//! New SSH host keys, made by this host's ssh-keygen in the directory that is held.
//!
//! Why: a key that is made here needs no program of the prepared root, so its architecture does not matter, and its
//! fingerprint can be shown before the first boot. What can go wrong: a link below the root that leads out of it;
//! ssh-keygen is given the held directory itself, as `/proc/PID/fd/N`, and a name that is not there yet.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chmodat, chownat, openat, renameat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::edit::{Edit, EditChange};
use super::inside::Inside;
use super::journal::Journal;
use super::report::HostKey;
use super::{PrepareError, hold};
use crate::rules::Class;
use crate::tree::RelPath;

/// Where ssh-keygen is, on any host that has it.
const PROGRAMS: [&str; 3] = ["/usr/bin/ssh-keygen", "/usr/local/bin/ssh-keygen", "/bin/ssh-keygen"];
/// The name under which a key is made.
const STAGED: &str = ".clonetool-new-host-key";

/// A host key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewHostKey {
    /// Where, links resolved; the public key goes beside it.
    pub(crate) path: RelPath,
    /// `rsa`, `ecdsa` or `ed25519`.
    pub(crate) kind: String,
    /// Owner, group and permission bits of the private key.
    pub(crate) owner: (u32, u32),
    pub(crate) mode: u16,
}

/// This host's ssh-keygen.
pub(super) fn program() -> Option<&'static Path> {
    PROGRAMS.iter().map(Path::new).find(|path| path.is_file())
}

/// Makes `keys`, and adds them to the journal as the standby's own.
pub(super) fn make(
    inside: &Inside,
    keys: &[NewHostKey],
    journal: &mut Journal,
) -> Result<Vec<HostKey>, PrepareError> {
    let hostname = &journal.hostname.clone();
    let mut made = Vec::new();
    for key in keys {
        let failed = |reason: String| PrepareError::Edit { path: key.path.clone(), reason };
        let public = make_one(inside, key, hostname).map_err(|error| failed(error.to_string()))?;
        let fingerprint =
            fingerprint(&public).ok_or_else(|| failed("ssh-keygen wrote no public key".to_owned()))?;
        let line = public_words(&public).map(|(kind, blob)| format!("{hostname} {kind} {blob}"));
        for path in [key.path.clone(), beside(&key.path)] {
            let content = inside.read_at(&path).map_err(|error| failed(error.to_string()))?;
            let edit = Edit {
                path,
                class: Class::A,
                why: "a host key of the standby's own".to_owned(),
                change: EditChange::Write { before: None, after: content.unwrap_or_default(), mode: 0 },
            };
            journal.add(inside, &edit).map_err(|error| PrepareError::Journal(error.to_string()))?;
        }
        made.push(HostKey {
            path: key.path.clone(),
            fingerprint,
            known_hosts_line: line.unwrap_or_default(),
        });
    }
    Ok(made)
}

fn make_one(inside: &Inside, key: &NewHostKey, hostname: &str) -> io::Result<Vec<u8>> {
    let (parent, name) = hold::split(&key.path)?;
    let program = program().ok_or_else(|| io::Error::other("there is no ssh-keygen on this host"))?;
    let directory = inside.root().open_directory(&parent)?;
    let staged_public = format!("{STAGED}.pub");
    for leftover in [STAGED, &staged_public] {
        match unlinkat(&directory, leftover, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let place = format!("/proc/{}/fd/{}/{STAGED}", std::process::id(), directory.as_raw_fd());
    let output = Command::new(program)
        .args(["-q", "-N", "", "-t", &key.kind, "-C", &format!("root@{hostname}"), "-f", &place])
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = crate::tree::escape(output.stderr.trim_ascii());
        return Err(io::Error::other(format!("ssh-keygen failed: {said}")));
    }
    let (uid, gid) = (Uid::from_raw(key.owner.0), Gid::from_raw(key.owner.1));
    chownat(&directory, STAGED, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    chmodat(&directory, STAGED, Mode::from_raw_mode(u32::from(key.mode)), AtFlags::empty())?;
    let public = RelPath::new([parent.as_bytes(), b"/", staged_public.as_bytes()].concat());
    let public = inside.read_at(&public.map_err(io::Error::other)?)?.unwrap_or_default();
    for file in [STAGED, &staged_public] {
        let fd =
            openat(&directory, file, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::fsync(fd)?;
    }
    renameat(&directory, staged_public, &directory, [name, b".pub"].concat())?;
    renameat(&directory, STAGED, &directory, name)?;
    rustix::fs::fsync(&directory)?;
    Ok(public)
}

/// The public key's file beside a private one.
pub(super) fn beside(path: &RelPath) -> RelPath {
    match (path.parent(), path.name()) {
        (Some(parent), Some(name)) => parent.join(&[name, b".pub"].concat()),
        _ => path.clone(),
    }
}

/// Kind and key of a public key file.
pub(super) fn public_words(content: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8(content.to_vec()).ok()?;
    let mut words = text.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

/// The SHA256 fingerprint of a public key file, as ssh-keygen(1) prints it.
pub(super) fn fingerprint(public: &[u8]) -> Option<String> {
    let (_, blob) = public_words(public)?;
    Some(fingerprint_of(&STANDARD.decode(blob).ok()?))
}

fn fingerprint_of(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}

/// The fingerprint of a private key in OpenSSH's own format, whose public part is not encrypted (PROTOCOL.key of
/// OpenSSH): magic, cipher, KDF, its options, number of keys, public key.
pub(super) fn fingerprint_of_private(content: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content).ok()?;
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let bytes = STANDARD.decode(body).ok()?;
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    for _ in 0..3 {
        rest = string(rest)?.1;
    }
    Some(fingerprint_of(string(rest.get(4..)?)?.0))
}

/// A string of the SSH protocols: its length in four bytes, then itself.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(4)?;
    Some((bytes.get(4..end)?, bytes.get(end..)?))
}
