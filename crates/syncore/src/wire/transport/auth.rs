//! Showing the built-in client's keys to a host: the agent's, then key files. Never a password.
//!
//! Why: runs are unattended; what needs a person is refused with the way around it. What can go wrong: a host that
//! hangs up after a few keys (so a key named by the caller goes alone), a key with a passphrase, an agent that is
//! gone; each ends in the one message, with all that was tried.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ssh2::Session;

use super::error::shown_host;
use super::{Remote, TransportError};
use crate::tree::escape;

/// OpenSSH's sshd hangs up after six attempts (MaxAuthTries); this leaves some for key files.
const AGENT_KEYS_TRIED: usize = 4;
const KEY_FILE_LIMIT_BYTES: u64 = 64 << 10;
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

pub(super) fn authenticate(session: &Session, remote: &Remote, user: &str) -> Result<(), TransportError> {
    let mut tried = Vec::new();
    if let Some(socket) = &remote.agent_socket {
        match with_agent(session, remote, user, socket) {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => tried.push(why),
            Err(error) => tried.push(format!("agent: {}", error.message())),
        }
    }
    for file in key_files(remote) {
        let shown = escape(file.as_os_str().as_bytes());
        match read_key(&file) {
            Err(error) => tried.push(format!("{shown}: {error}")),
            Ok(text) if is_encrypted(&text) => {
                // The key that was asked for, or all there is: then this is the reason. Else one among others.
                if remote.identity.is_some() || tried.is_empty() {
                    return Err(TransportError::KeyEncrypted { file });
                }
                tried.push(format!("{shown}: encrypted"));
            }
            Ok(_) => match session.userauth_pubkey_file(user, None, &file, None) {
                Ok(()) => return Ok(()),
                Err(error) => tried.push(format!("{shown}: {}", escape(error.message().as_bytes()))),
            },
        }
    }
    if tried.is_empty() {
        tried.push("there was no agent and no key file to show".into());
    }
    Err(TransportError::Auth { user: user.to_owned(), host: shown_host(remote), detail: tried.join("; ") })
}

/// None when let in, else why not.
fn with_agent(
    session: &Session,
    remote: &Remote,
    user: &str,
    socket: &Path,
) -> Result<Option<String>, ssh2::Error> {
    let mut agent = session.agent()?;
    // Without this libssh2 asks the environment, which is the caller's to read.
    agent.set_identity_path(socket)?;
    agent.connect()?;
    agent.list_identities()?;
    let mut keys = agent.identities()?;
    if let Some(identity) = &remote.identity {
        // As with IdentitiesOnly: the agent may sign for the key that was named, and for no other.
        let named = public_half(identity);
        keys.retain(|key| Some(key.blob()) == named.as_deref());
    }
    for key in keys.iter().take(AGENT_KEYS_TRIED) {
        if agent.userauth(user, key).is_ok() {
            return Ok(None);
        }
    }
    Ok(Some(format!("agent: none of {} keys accepted", keys.len().min(AGENT_KEYS_TRIED))))
}

fn key_files(remote: &Remote) -> Vec<PathBuf> {
    match (&remote.identity, &remote.home) {
        (Some(file), _) => vec![file.clone()],
        (None, Some(home)) => {
            let files = DEFAULT_KEYS.map(|name| home.join(".ssh").join(name));
            files.into_iter().filter(|file| file.exists()).collect()
        }
        (None, None) => vec![],
    }
}

fn read_key(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?.take(KEY_FILE_LIMIT_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// The blob in `FILE.pub`, which lies beside a private key.
fn public_half(identity: &Path) -> Option<Vec<u8>> {
    let mut name = identity.as_os_str().to_owned();
    name.push(".pub");
    let text = String::from_utf8(read_key(Path::new(&name)).ok()?).ok()?;
    BASE64_STANDARD.decode(text.split_ascii_whitespace().nth(1)?).ok()
}

/// libssh2 reports a wrong passphrase as a broken file, so the question is asked first: PEM says it in clear, the
/// OpenSSH format by the name of its cipher.
fn is_encrypted(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    if text.contains("ENCRYPTED") {
        return true;
    }
    let body: String = text.lines().filter(|line| !line.starts_with('-')).map(str::trim).collect();
    let Ok(bytes) = BASE64_STANDARD.decode(body) else { return false };
    let Some(rest) = bytes.strip_prefix(b"openssh-key-v1\0") else { return false };
    rest.split_first_chunk::<4>()
        .is_some_and(|(length, rest)| *length != 4_u32.to_be_bytes() || !rest.starts_with(b"none"))
}
