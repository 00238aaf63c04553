//! What an image says of itself.
//!
//! Why: in a year nobody knows which host `root.img` is of. It is the first member, so that it is found without
//! reading the rest. What can go wrong: text from a file that somebody else made; whoever shows it escapes it.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use crate::scan::{Root, read_full};
use crate::tree::{RelPath, escape};

/// The version of the file format.
pub(super) const FORMAT: u32 = 1;

/// More than this is no description.
pub(super) const ABOUT_LIMIT_BYTES: u64 = 64 * 1024;

/// How much of os-release is looked at.
const OS_RELEASE_BYTES: usize = 16 * 1024;

/// Of what, where and when an image was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct About {
    /// The version of the file format.
    pub format: u32,
    /// The program that made it, with its version.
    pub program: String,
    /// The name of the host on which it was made.
    pub host: String,
    /// The root of which it is, escaped.
    pub root: String,
    /// When it was begun, in seconds since the epoch.
    pub created_seconds: u64,
    /// The name of the system in the root, from its os-release(5).
    pub system: Option<String>,
    /// The machine on which it was made (uname -m).
    pub machine: String,
    /// Whether it stayed on the filesystem of the root.
    pub one_file_system: bool,
    /// How many rules chose what is in it; 0: everything.
    pub rules: usize,
}

impl About {
    /// Describes an image of `root` that begins now.
    pub(super) fn of(root: &Root, one_file_system: bool, rules: usize) -> Self {
        let uname = rustix::system::uname();
        Self {
            format: FORMAT,
            program: format!("clonetool {}", env!("CARGO_PKG_VERSION")),
            host: escape(uname.nodename().to_bytes()),
            root: escape(&root.canonical_path().unwrap_or_default()),
            created_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            system: system(root),
            machine: escape(uname.machine().to_bytes()),
            one_file_system,
            rules,
        }
    }

    pub(super) fn encode(&self) -> String {
        // Plain fields of plain types: there is nothing that TOML could not write.
        toml::to_string(self).unwrap_or_default()
    }

    /// What the first member says; none when it is no description of this format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let about: Self = toml::from_str(std::str::from_utf8(bytes).ok()?).ok()?;
        (about.format == FORMAT).then_some(about)
    }
}

/// `PRETTY_NAME` of the root's os-release. In the root it may be a link, which is not followed: the file to which it
/// leads is looked at as well.
fn system(root: &Root) -> Option<String> {
    let read = |directory: &str| {
        let held = root.hold_directory(&RelPath::new(directory).ok()?).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(held, "os-release", flags, Mode::empty()).ok()?;
        let mut text = vec![0; OS_RELEASE_BYTES];
        let read = read_full(std::os::fd::AsFd::as_fd(&fd), &mut text, 0).ok()?;
        text.truncate(read);
        let text = String::from_utf8_lossy(&text);
        let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(escape(name.trim().trim_matches(['"', '\'']).as_bytes()))
    };
    read("etc").or_else(|| read("usr/lib"))
}
