//! What one end of a run tells of itself when a gate asks: host, system, clock, role, package managers, filesystems.
//!
//! Why: gates judge both ends, and only the end itself can look. It is looked at when a gate asks and not in every
//! run, so a run without gates costs nothing. What can go wrong: all of it may come from a peer that was taken over, or
//! from files that are links or without end; files are read bounded and links are not followed, and nothing here does
//! more than keep a run from going on.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, fstatvfs, openat};
use serde::{Deserialize, Serialize};

use super::package::{self, Packages};
use crate::scan::{Mount, Root, mounts_below};
use crate::tree::{RelPath, escape};

/// Where a root says which role its host has, below the root.
pub const ROLE_FILE: &str = "var/lib/clonetool/role";

/// How much of a file that names something is looked at.
const NAME_BYTES: u64 = 16 * 1024;

/// What an end tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The version of clonetool there.
    pub version: String,
    /// The name that the host gives itself.
    pub name: String,
    /// Its kind of machine (uname -m).
    pub machine: String,
    /// Its clock when it was asked, in nanoseconds since 1970.
    pub clock_nanoseconds: i128,
    /// The system in the root: `ID` and `VERSION_ID` of os-release(5), or the first line of etc/release; none where
    /// neither is there.
    pub system: Option<String>,
    /// What the root says of its role.
    pub role: RoleFile,
    /// What package managers of the root are doing.
    pub packages: Packages,
    /// The filesystem of the root, and local ones mounted below it.
    pub filesystems: Vec<Filesystem>,
}

/// What [`ROLE_FILE`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleFile {
    /// It is not there.
    Absent,
    /// Its first word.
    Says(String),
    /// It cannot be read, and why.
    Unreadable(String),
}

/// Room on a filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Where it is mounted, relative to the root.
    pub path: RelPath,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Inodes that can still be made; none where the filesystem has no limit.
    pub free_inodes: Option<u64>,
}

/// Looks at the root and its host. `system` says that it is a root that is there already, and not the directory in
/// which one is going to be made: of such a directory only the filesystem counts.
#[must_use]
pub fn examine(root: &Root, system: bool) -> Host {
    let uname = rustix::system::uname();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    Host {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: escape(uname.nodename().to_bytes()),
        machine: escape(uname.machine().to_bytes()),
        clock_nanoseconds: i128::try_from(now).unwrap_or_default(),
        system: system.then(|| release(root)).flatten(),
        role: if system { role(root) } else { RoleFile::Absent },
        packages: if system { package::look(root) } else { Packages::default() },
        filesystems: filesystems(root, system),
    }
}

/// Opens a file below the root; no link is followed, and no FIFO waited for.
pub(super) fn open(root: &Root, path: &str) -> rustix::io::Result<OwnedFd> {
    let path = RelPath::new(path).map_err(|_| rustix::io::Errno::INVAL)?;
    let directory = root.hold_directory(&path.parent().unwrap_or_default())?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(directory, path.name().unwrap_or_default(), flags, Mode::empty())
}

/// Reads a file below the root, as far as `limit`.
pub(super) fn read(root: &Root, path: &str, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::from(open(root, path)?).take(limit).read_to_end(&mut content)?;
    Ok(content)
}

fn release(root: &Root) -> Option<String> {
    let text =
        |path| read(root, path, NAME_BYTES).ok().map(|text| String::from_utf8_lossy(&text).into_owned());
    // In the root the first may be a link, which is not followed, to the second.
    if let Some(text) = text("etc/os-release").or_else(|| text("usr/lib/os-release")) {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
            Some(escape(line.trim().trim_matches(['"', '\'']).as_bytes()))
        };
        let id = value("ID")?;
        return Some(value("VERSION_ID").map_or(id.clone(), |version| format!("{id} {version}")));
    }
    let text = text("etc/release")?;
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(|line| escape(line.as_bytes()))
}

fn role(root: &Root) -> RoleFile {
    match read(root, ROLE_FILE, NAME_BYTES) {
        Ok(text) => {
            let text = String::from_utf8_lossy(&text);
            RoleFile::Says(escape(text.split_whitespace().next().unwrap_or_default().as_bytes()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => RoleFile::Absent,
        Err(error) => RoleFile::Unreadable(error.to_string()),
    }
}

fn filesystems(root: &Root, below: bool) -> Vec<Filesystem> {
    let mounts = if below { mounts_below(root) } else { Vec::new() };
    let paths = mounts.into_iter().filter(Mount::is_local).map(|mount| mount.path);
    let room = |path: RelPath| {
        let directory = root.open_directory(&path).ok()?;
        let stat = fstatvfs(&directory).ok()?;
        let free_inodes = (stat.f_files > 0).then_some(stat.f_favail);
        Some(Filesystem { path, free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize), free_inodes })
    };
    std::iter::once(RelPath::root()).chain(paths).filter_map(room).collect()
}
