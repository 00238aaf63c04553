//! Snapshots of btrfs subvolumes, by btrfs(8): read-only, in a directory at the top of each subvolume.
//!
//! Why there: a snapshot can only be on its own filesystem, and this directory is out of every run's scope. It stays,
//! so that making it does not change the top's times with every run. What can go wrong: a snapshot does not contain the
//! subvolumes nested in what it is of; there it has empty directories, which the walk knows for what they are
//! (`scan::list`).

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, statx};
use rustix::io::Errno;

use super::FreezeError;
use super::tools::Tools;
use crate::profile::SNAPSHOT_DIRECTORY as DIRECTORY;
use crate::scan::{Identity, Root, identity_of, is_btrfs, statx_mask};
use crate::tree::RelPath;

/// The inode number of the top of every subvolume (`BTRFS_FIRST_FREE_OBJECTID`, btrfs(5)).
const TOP_INODE: u64 = 256;

/// A snapshot.
#[derive(Debug)]
pub(super) struct Subvolume {
    /// Where it is on this host.
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    directory: OwnedFd,
}

/// Makes one of the subvolume whose top is at `path` below `live`; with it what was removed for it, for people.
pub(super) fn make(
    path: &RelPath,
    live: &Root,
    tools: &Tools,
) -> Result<(Subvolume, Option<String>), FreezeError> {
    let failed = |error: Errno| {
        FreezeError::failed(format!("make {DIRECTORY} in {path}"), &std::io::Error::from(error))
    };
    let top = live.open_directory(path).map_err(failed)?;
    if !is_btrfs(&top) || identity(top.as_fd()).map_err(failed)?.inode != TOP_INODE {
        return Err(FreezeError::impossible(path, "it is no btrfs subvolume; see source.snapshot-except"));
    }
    let directory = own_directory(&top, path)?;
    let name = &tools.mark;
    let leftover = match found(&directory, name).map_err(failed)? {
        None => None,
        Some(found) if found.inode == TOP_INODE => {
            delete(&directory, name, tools).map_err(|reason| not_removed(path, name, reason))?;
            Some(shown(path, name))
        }
        Some(_) => {
            let reason = "it is no snapshot, and was not made by clonetool; move it away";
            return Err(not_removed(path, name, reason.to_owned()));
        }
    };
    let (from, to) = (held(&top), format!("{}/{name}", held(&directory)));
    let operation = format!("make the snapshot {}", shown(path, name));
    tools
        .run("btrfs", &["subvolume", "snapshot", "-r", &from, &to])
        .map_err(|reason| FreezeError::failed(&operation, &reason))?;
    let place = Root::open(Path::new(&held(&directory))).and_then(|root| root.canonical_path());
    let identity = found(&directory, name).map_err(failed)?;
    match (place, identity) {
        (Ok(place), Some(identity)) => {
            let path = PathBuf::from(OsString::from_vec(place)).join(name);
            Ok((Subvolume { path, identity, directory }, leftover))
        }
        _ => Err(FreezeError::failed(operation, &"it is not there")),
    }
}

impl Subvolume {
    pub(super) fn remove(self, tools: &Tools) -> Result<(), FreezeError> {
        delete(&self.directory, &tools.mark, tools).map_err(|reason| FreezeError::NotRemoved {
            name: crate::tree::escape(self.path.as_os_str().as_encoded_bytes()),
            reason,
        })
    }
}

/// The directory of the snapshots, for this account alone.
fn own_directory(top: &OwnedFd, path: &RelPath) -> Result<OwnedFd, FreezeError> {
    let failed = |reason: std::io::Error| FreezeError::failed(format!("use {}", shown(path, "")), &reason);
    match mkdirat(top, DIRECTORY, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed(error.into())),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(top, DIRECTORY, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let stat = rustix::fs::fstat(&directory).map_err(|error| failed(error.into()))?;
    if stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o077 == 0 {
        return Ok(directory);
    }
    Err(failed(std::io::Error::other("it is not this account's alone; move it away")))
}

fn delete(directory: &OwnedFd, name: &str, tools: &Tools) -> Result<(), String> {
    tools.run("btrfs", &["subvolume", "delete", &format!("{}/{name}", held(directory))]).map(drop)
}

/// A held directory, for a program that we start.
fn held(directory: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), directory.as_raw_fd())
}

fn identity(fd: impl AsFd) -> rustix::io::Result<Identity> {
    Ok(identity_of(&statx(fd, c"", AtFlags::EMPTY_PATH, statx_mask())?))
}

fn found(directory: &OwnedFd, name: &str) -> rustix::io::Result<Option<Identity>> {
    match statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, statx_mask()) {
        Ok(stat) => Ok(Some(identity_of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn shown(path: &RelPath, name: &str) -> String {
    path.join(DIRECTORY.as_bytes()).join(name.as_bytes()).to_string()
}

fn not_removed(path: &RelPath, name: &str, reason: String) -> FreezeError {
    FreezeError::NotRemoved { name: shown(path, name), reason }
}
