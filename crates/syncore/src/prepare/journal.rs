//! What was done to a prepared root, kept in it, with the originals.
//!
//! Why: a later sync must not undo what the preparation did, a second preparation must know what the first one made, and
//! an administrator may want a file back. What can go wrong: the power fails between an edit and its line; so the
//! original and the line are on disk before the edit is made, and a line without its edit is harmless.

use std::io;
use std::sync::Arc;

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bootloader::Boot;
use super::edit::{Edit, EditChange, Instead};
use super::inside::Inside;
use super::report::Held;
use crate::durable;
use crate::rules::Class;
use crate::scan::Root;
use crate::tree::{RelPath, unescape};

/// Where the journal and the originals are, below the prepared root.
pub const STATE_DIRECTORY: &str = "var/lib/clonetool/prepare";
const JOURNAL: &str = "journal.json";
const ORIGINALS: &str = "originals";
/// The longest journal that is read.
const LIMIT_BYTES: u64 = 16 << 20;

/// What was done to one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Which path, below the root.
    #[serde(serialize_with = "write_path", deserialize_with = "read_path")]
    pub path: RelPath,
    /// Its class for every later sync.
    pub class: Class,
    /// Why it was changed.
    pub why: String,
    /// BLAKE3 of what was there, in hexadecimal; none if nothing was, or no file.
    pub before: Option<String>,
    /// BLAKE3 of what was put there; none if it was removed, or is no file.
    pub after: Option<String>,
    /// The name of the original below `originals/`, if one was kept.
    pub original: Option<String>,
}

/// Everything that was done to a prepared root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The name that the standby was given.
    pub hostname: String,
    /// The name that it had on production.
    pub source_hostname: String,
    /// The machine id that it was given.
    pub machine_id: Option<String>,
    /// The machine id that it had on production.
    pub source_machine_id: Option<String>,
    /// Addresses that belong to production.
    pub source_addresses: Vec<String>,
    /// UUIDs of filesystems that belong to production's disks.
    pub source_uuids: Vec<String>,
    /// Fingerprints of production's host keys.
    pub source_host_keys: Vec<String>,
    /// Where its boot loader is; none in a journal that does not say.
    #[serde(default)]
    pub boot: Option<Boot>,
    /// Whether the last preparation came to its end.
    pub complete: bool,
    /// What is held until the standby is promoted.
    pub held: Vec<Held>,
    /// One line a path; the first original of a path is the one that counts.
    pub lines: Vec<Line>,
}

impl Journal {
    /// Reads the journal of a prepared root; none if there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is no journal.
    pub fn read(root: &Arc<Root>) -> io::Result<Option<Self>> {
        read_state(root, JOURNAL)?.map(|content| Ok(serde_json::from_slice(&content)?)).transpose()
    }

    /// The line of a path, if it has one.
    #[must_use]
    pub fn line(&self, path: &RelPath) -> Option<&Line> {
        self.lines.iter().find(|line| line.path == *path)
    }

    /// Keeps the original of what `edit` changes, unless an earlier preparation did, and adds its line.
    pub(super) fn add(&mut self, inside: &Inside, edit: &Edit) -> io::Result<()> {
        let digest = |content: &[u8]| blake3::hash(content).to_hex().to_string();
        let before = match &edit.change {
            EditChange::Write { before, .. } => before.clone(),
            EditChange::Remove => inside.read(&edit.path).unwrap_or_default(),
            _ => None,
        };
        let after = match &edit.change {
            EditChange::Write { after, .. }
            | EditChange::Hold { instead: Instead::File { after, .. }, .. } => Some(digest(after)),
            _ => None,
        };
        if let Some(line) = self.lines.iter_mut().find(|line| line.path == edit.path) {
            (line.class, line.after) = (edit.class, after);
            line.why.clone_from(&edit.why);
            return Ok(());
        }
        let mut original = None;
        if let Some(content) = &before {
            let name = format!("{:04}", self.lines.len());
            durable::replace(state(inside, ORIGINALS)?, &name, content, 0o600, None)?;
            original = Some(name);
        }
        self.lines.push(Line {
            path: edit.path.clone(),
            class: edit.class,
            why: edit.why.clone(),
            before: before.as_deref().map(digest),
            after,
            original,
        });
        Ok(())
    }

    /// Writes the journal: old or new, on disk when this returns.
    pub(super) fn write(&self, inside: &Inside) -> io::Result<()> {
        write_state(inside, JOURNAL, &serde_json::to_vec_pretty(self)?)
    }
}

/// A path that is written in this program.
pub(crate) fn path(text: &'static str) -> RelPath {
    RelPath::new(text).unwrap_or_default()
}

/// Reads a file of the state directory; none if there is none.
pub(super) fn read_state(root: &Root, name: &str) -> io::Result<Option<Vec<u8>>> {
    // Not through links: whoever could plant one here could choose what a sync protects.
    let directory = match root.hold_directory(&path(STATE_DIRECTORY)) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    durable::read(directory, name, LIMIT_BYTES)
}

/// Writes a file of the state directory: old or new, on disk when this returns.
pub(super) fn write_state(inside: &Inside, name: &str, content: &[u8]) -> io::Result<()> {
    durable::replace(state(inside, "")?, name, content, 0o600, None)
}

pub(super) fn write_path<S: Serializer>(path: &RelPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

pub(super) fn read_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RelPath, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = unescape(&text).ok_or_else(|| D::Error::custom("a path with a stray backslash"))?;
    RelPath::from_absolute(&bytes).map_err(D::Error::custom)
}

/// Opens the state directory, or one below it, which only root may enter; makes what is missing.
fn state(inside: &Inside, below: &str) -> io::Result<std::os::fd::OwnedFd> {
    let mut at = RelPath::root();
    for name in STATE_DIRECTORY.split('/').chain(Some(below)).filter(|name| !name.is_empty()) {
        let parent = inside.root().hold_directory(&at)?;
        // /var may be there with any mode; what is ours is for root alone.
        let mode = if at.depth() < 2 { 0o755 } else { 0o700 };
        match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = at.join(name.as_bytes());
    }
    Ok(inside.root().open_directory(&at)?)
}
