//! The pair's own key and the host keys pinned for it, on the host that starts the runs.
//!
//! Why: a run at half past two must not hang on the administrator's keys, agent or known hosts, and its key should do
//! nothing else. `enroll` makes these files; a profile's runs take them by themselves. What can go wrong: files that
//! somebody else may read or write; the directory belongs to root (or who runs this) alone, or it is refused.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use syncore::durable;
use syncore::tree::escape;

use crate::error::{CommandError, UNCHANGED};

/// Where they are.
pub(crate) const DIRECTORY: &str = "/etc/clonetool/pair";
const KEY: &str = "id_ed25519";
const KNOWN_HOSTS: &str = "known_hosts";

/// What a run of a profile connects with.
#[derive(Debug, Clone)]
pub(crate) struct PairKeys {
    pub(crate) identity: PathBuf,
    pub(crate) known_hosts: PathBuf,
}

/// The pair's key, if this host was enrolled with another.
pub(crate) fn keys() -> Option<PairKeys> {
    let identity = Path::new(DIRECTORY).join(KEY);
    identity.is_file().then(|| PairKeys { identity, known_hosts: Path::new(DIRECTORY).join(KNOWN_HOSTS) })
}

/// The directory of the pair, private to who runs this.
pub(crate) struct Pair {
    directory: fs::File,
}

impl Pair {
    /// Opens the directory, and makes it where `make` says so; none if it is not there.
    pub(crate) fn open(make: bool) -> Result<Option<Self>, CommandError> {
        if make {
            fs::create_dir_all("/etc/clonetool").map_err(|e| failed("make", "", &e))?;
            match fs::DirBuilder::new().mode(0o700).create(DIRECTORY) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("make", "", &error));
                }
                _ => {}
            }
        }
        let linked = fs::symlink_metadata(DIRECTORY).is_ok_and(|metadata| metadata.is_symlink());
        let directory = match fs::File::open(DIRECTORY) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !linked => return Ok(None),
            Err(error) => return Err(failed("open", "", &error)),
        };
        let metadata = directory.metadata().map_err(|e| failed("open", "", &e))?;
        let owned = metadata.uid() == rustix::process::geteuid().as_raw();
        if linked || !metadata.is_dir() || !owned || metadata.mode() & 0o077 != 0 {
            return Err(CommandError::refused(format!(
                "{DIRECTORY} is not a private directory of this account"
            ))
            .hint("make it one: chown root, chmod 700")
            .hint(UNCHANGED));
        }
        Ok(Some(Self { directory }))
    }

    /// The path of the private key.
    pub(crate) fn key() -> PathBuf {
        Path::new(DIRECTORY).join(KEY)
    }

    /// The path of the pinned host keys.
    pub(crate) fn known_hosts() -> PathBuf {
        Path::new(DIRECTORY).join(KNOWN_HOSTS)
    }

    /// The public key as `ssh-ed25519 BASE64`; none if there is no key yet.
    pub(crate) fn public_key() -> Result<Option<String>, CommandError> {
        let name = format!("{KEY}.pub");
        match fs::read_to_string(Path::new(DIRECTORY).join(&name)) {
            Ok(text) => {
                let words: Vec<&str> = text.split_whitespace().take(2).collect();
                Ok(Some(words.join(" ")))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &name, &error)),
        }
    }

    /// The pinned lines: `HOST TYPE KEY` each.
    pub(crate) fn pinned() -> Result<Vec<String>, CommandError> {
        match fs::read_to_string(Self::known_hosts()) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed("read", KNOWN_HOSTS, &error)),
        }
    }

    /// Writes the pinned lines; a file without any goes.
    pub(crate) fn pin(&self, lines: &[String]) -> Result<(), CommandError> {
        if lines.is_empty() {
            return self.remove(KNOWN_HOSTS);
        }
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        durable::replace(&self.directory, KNOWN_HOSTS, text.as_bytes(), 0o600, None)
            .map_err(|e| failed("write", KNOWN_HOSTS, &e))
    }

    /// Takes the key away, and the directory if nothing else is in it.
    pub(crate) fn remove_key(&self) -> Result<(), CommandError> {
        self.remove(KEY)?;
        self.remove(&format!("{KEY}.pub"))?;
        // What an administrator put there stays, and the directory with it.
        let _ = fs::remove_dir(DIRECTORY);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), CommandError> {
        match rustix::fs::unlinkat(&self.directory, name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove", name, &error.into())),
        }
    }
}

fn failed(action: &str, name: &str, error: &io::Error) -> CommandError {
    let path = Path::new(DIRECTORY).join(name);
    let path = escape(path.as_os_str().as_encoded_bytes());
    CommandError::failed(format!("cannot {action} {}: {error}", path.trim_end_matches('/')))
}
