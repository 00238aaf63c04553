//! The source as it was at one moment: snapshots of its filesystems, made before a run and removed after it.
//!
//! Why: a file that is written while a run reads it is torn, and files that belong together are read at different
//! times. What is read here stands still. What can go wrong: a snapshot that outlives its run and fills a volume, so
//! each has a name that says whose it is, and the next run of the profile removes what is left; a filesystem or
//! subvolume that a snapshot does not contain and that would look like an empty directory, so what is listed must be
//! there as a boundary and what is not listed is one; a snapshot that ran full and gives errors, so its state is asked
//! after the scan.
//!
//! The snapshots are put together in a mount namespace of one thread's own: nobody else sees them, and a process that
//! is killed leaves nothing mounted.

mod assembled;
mod btrfs;
mod command;
mod lvm;
mod tools;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, flock, statx};
use rustix::io::Errno;
use thiserror::Error;

use crate::monitor::Monitor;
use crate::profile::{Snapshot, SnapshotBy};
use crate::scan::{Identity, MountSource, Root, identity_of, mount_sources, statx_mask};
use crate::tree::{RelPath, escape};

use assembled::{Assembled, Part};
use tools::Tools;

/// Where this host's runs lock their snapshots and put them together.
const RUNTIME: &str = "/run/clonetool";
/// Longest name of a profile in the name of a snapshot, as lvm(8) leaves room for it, and what it is cut to with a digest.
const NAME_BYTES: usize = 60;
const FILE_BYTES: usize = 40;
const DIGEST_DIGITS: usize = 8;

/// Why there is no snapshot, or it is of no use, or it is still there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// There is something in the source of which none can be made.
    #[error("no snapshot can be made of {path}: {reason}")]
    Impossible {
        /// Of which path below the source root.
        path: String,
        /// Why.
        reason: String,
    },
    /// A run of the same profile is at work with it.
    #[error("another run of the profile {0} has its snapshot")]
    Busy(String),
    /// A program failed or could not be run, or what it made is not what it should be.
    #[error("cannot {operation}: {reason}")]
    Failed {
        /// What was being done.
        operation: String,
        /// Why it failed.
        reason: String,
    },
    /// It cannot be read any more.
    #[error("the snapshot {name} {state}")]
    Lost {
        /// Which one.
        name: String,
        /// What became of it.
        state: String,
    },
    /// It is still there; the next run of the profile removes it.
    #[error("the snapshot {name} is still there: {reason}")]
    NotRemoved {
        /// Which one.
        name: String,
        /// Why.
        reason: String,
    },
    /// The monitor asked to stop.
    #[error("interrupted; nothing was changed")]
    Cancelled,
}

impl FreezeError {
    fn impossible(path: &RelPath, reason: impl Into<String>) -> Self {
        Self::Impossible { path: path.to_string(), reason: reason.into() }
    }

    fn failed(operation: impl Into<String>, reason: &dyn fmt::Display) -> Self {
        Self::Failed { operation: operation.into(), reason: reason.to_string() }
    }
}

/// What a run reads in place of the source. It is there until [`Frozen::remove`]; that of a process that is killed is
/// removed by the next run of its profile.
#[derive(Debug)]
pub struct Frozen {
    live: Arc<Root>,
    tree: Option<Tree>,
    made: Vec<Made>,
    tools: Tools,
    leftovers: Vec<String>,
    /// Held as long as the snapshots are there: one that nobody holds is left over.
    _lock: OwnedFd,
}

/// Where it is read.
#[derive(Debug)]
enum Tree {
    Assembled(Assembled),
    Directory(Arc<Root>),
}

/// What was made, and has to be removed.
#[derive(Debug)]
enum Made {
    Lvm(lvm::Volume),
    Btrfs(btrfs::Subvolume),
    Command(Vec<String>),
}

impl Frozen {
    /// Makes snapshots of the filesystem at `source` and of those in `also`, below it, under the name of `profile`;
    /// what an earlier run of that profile left is removed first. It takes root.
    ///
    /// # Errors
    /// [`FreezeError`]. Of what was made until then nothing is left but what the error names.
    pub fn make(
        source: &Path,
        also: &[RelPath],
        profile: &str,
        settings: &Snapshot,
        monitor: &dyn Monitor,
    ) -> Result<Self, FreezeError> {
        let shown = escape(source.as_os_str().as_encoded_bytes());
        let live = Root::open(source)
            .map_err(|error| FreezeError::failed(format!("open {shown}"), &std::io::Error::from(error)))?;
        let mark = mark(profile);
        let (place, lock) = own_place(&mark)?;
        let tools = Tools::new(&mark, &shown, settings.timeout);
        let (tree, made, leftovers) = (None, Vec::new(), Vec::new());
        let mut frozen = Self { live: Arc::new(live), tree, made, tools, leftovers, _lock: lock };
        match frozen.fill(also, settings, &place, monitor) {
            Ok(()) => Ok(frozen),
            Err(error) => match frozen.remove() {
                Ok(()) => Err(error),
                Err(left) => {
                    Err(FreezeError::failed("read from a snapshot", &format!("{error}; and {left}")))
                }
            },
        }
    }

    fn fill(
        &mut self,
        also: &[RelPath],
        settings: &Snapshot,
        place: &Path,
        monitor: &dyn Monitor,
    ) -> Result<(), FreezeError> {
        let root = RelPath::root();
        let paths: Vec<&RelPath> = std::iter::once(&root)
            .chain(also.iter().filter(|path| !settings.except.contains(path)))
            .collect();
        let mut parts = Vec::new();
        match &settings.by {
            SnapshotBy::Command { make, remove } => {
                command::remove(remove, &self.tools)?;
                self.made.push(Made::Command(remove.clone()));
                let made = command::make(make, &self.live, &self.tools, monitor)?;
                self.tree = Some(Tree::Directory(Arc::new(made)));
            }
            SnapshotBy::Lvm { size_bytes } => {
                let mounts = mount_sources(&self.live);
                self.leftovers = lvm::remove_leftovers(&self.tools)?;
                for (number, path) in paths.iter().enumerate() {
                    stop(monitor)?;
                    let mount = mount_at(&mounts, path)?;
                    let volume = lvm::make(path, mount, number, *size_bytes, &self.tools)?;
                    parts.push(Part::device(path, volume.device.clone(), &mount.kind));
                    self.made.push(Made::Lvm(volume));
                }
            }
            SnapshotBy::Btrfs => {
                for path in &paths {
                    stop(monitor)?;
                    let (subvolume, leftover) = btrfs::make(path, &self.live, &self.tools)?;
                    self.leftovers.extend(leftover);
                    parts.push(Part::directory(path, subvolume.path.clone(), subvolume.identity));
                    self.made.push(Made::Btrfs(subvolume));
                }
            }
        }
        if self.tree.is_none() {
            for path in &settings.except {
                parts.push(Part::live(path, &self.live)?);
            }
            // What lies in another is mounted after it.
            parts.sort_by(|a, b| a.path.cmp(&b.path));
            let assembled = assembled::assemble(place, parts)
                .map_err(|error| FreezeError::failed("mount the snapshot", &error))?;
            self.tree = Some(Tree::Assembled(assembled));
        }
        stop(monitor)?;
        self.check_listed(also)
    }

    /// Sees to it that what is listed as a filesystem is one in what is read: what is not there is not empty.
    fn check_listed(&self, also: &[RelPath]) -> Result<(), FreezeError> {
        let Some(root) = self.root() else { return Ok(()) };
        for path in also {
            let parent = identity_at(&root, &path.parent().unwrap_or_default());
            let boundary = parent.and_then(|parent| Ok(parent.boundary_to(&identity_at(&root, path)?)));
            if !boundary.unwrap_or(false) {
                return Err(FreezeError::impossible(path, "what was made has no filesystem there"));
            }
        }
        Ok(())
    }

    /// The source itself.
    pub(crate) fn live(&self) -> Arc<Root> {
        Arc::clone(&self.live)
    }

    /// What is read. Whoever has it gives it back before [`Frozen::remove`].
    pub(crate) fn root(&self) -> Option<Arc<Root>> {
        self.tree.as_ref().map(|tree| match tree {
            Tree::Assembled(assembled) => assembled.root(),
            Tree::Directory(root) => Arc::clone(root),
        })
    }

    /// Sees to it that what was read until now was right.
    pub(crate) fn check(&self) -> Result<(), FreezeError> {
        let volumes = self.made.iter().filter_map(|made| match made {
            Made::Lvm(volume) => Some(volume),
            Made::Btrfs(_) | Made::Command(_) => None,
        });
        lvm::check(volumes, &self.tools)
    }

    /// What an earlier run had left and was removed, for people.
    #[must_use]
    pub fn leftovers(&self) -> &[String] {
        &self.leftovers
    }

    /// Removes everything that was made.
    ///
    /// # Errors
    /// [`FreezeError::NotRemoved`] for the first that could not be; the others are gone.
    pub fn remove(mut self) -> Result<(), FreezeError> {
        if let Some(Tree::Assembled(assembled)) = self.tree.take() {
            assembled.release();
        }
        let mut result = Ok(());
        for made in self.made.drain(..).rev() {
            let removed = match made {
                Made::Lvm(volume) => volume.remove(&self.tools),
                Made::Btrfs(subvolume) => subvolume.remove(&self.tools),
                Made::Command(argv) => command::remove(&argv, &self.tools),
            };
            result = result.and(removed);
        }
        result
    }
}

fn stop(monitor: &dyn Monitor) -> Result<(), FreezeError> {
    if monitor.cancelled() { Err(FreezeError::Cancelled) } else { Ok(()) }
}

fn identity_at(root: &Root, path: &RelPath) -> rustix::io::Result<Identity> {
    let held = root.hold_directory(path)?;
    Ok(identity_of(&statx(&held, c"", AtFlags::EMPTY_PATH, statx_mask())?))
}

fn mount_at<'a>(mounts: &'a [MountSource], path: &RelPath) -> Result<&'a MountSource, FreezeError> {
    mounts.iter().find(|mount| mount.path == *path).ok_or_else(|| {
        FreezeError::impossible(path, "no filesystem is mounted there, and a snapshot is of a whole one")
    })
}

/// What the snapshots of a profile are called: its name, or, where that is a path or fits no volume, the name of its file
/// and a digest of all of it.
fn mark(profile: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !profile.is_empty() && profile.len() <= NAME_BYTES && profile.chars().all(plain) {
        return profile.to_owned();
    }
    let digest = blake3::hash(profile.as_bytes()).to_hex();
    let file = profile.rsplit('/').next().unwrap_or_default();
    let file: String =
        file.trim_end_matches(".toml").chars().filter(|c| plain(*c)).take(FILE_BYTES).collect();
    format!("{file}-{}", &digest[..DIGEST_DIGITS])
}

/// The directory of a profile's snapshots, and the lock on it; for this account alone.
fn own_place(mark: &str) -> Result<(PathBuf, OwnedFd), FreezeError> {
    let place = Path::new(RUNTIME).join(format!("snapshot.{mark}"));
    let failed = |error: std::io::Error| FreezeError::failed(format!("make {}", place.display()), &error);
    for directory in [Path::new(RUNTIME), &place] {
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let found = std::fs::symlink_metadata(directory).map_err(failed)?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0
        {
            return Err(failed(std::io::Error::other("others than this account may write it")));
        }
    }
    let lock = Root::open(&place).and_then(|root| root.open_directory(&RelPath::root()));
    let lock = lock.map_err(|error| failed(error.into()))?;
    match flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((place, lock)),
        Err(Errno::WOULDBLOCK) => Err(FreezeError::Busy(mark.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::mark;

    #[test]
    fn every_profile_has_a_name_that_fits_and_is_its_own() {
        assert_eq!(mark("linux-daily"), "linux-daily");
        let (one, other) = (mark("/srv/one/daily.toml"), mark("/srv/other/daily.toml"));
        assert!(one.starts_with("daily-") && other.starts_with("daily-") && one != other, "{one} {other}");
        for name in [String::new(), "x".repeat(300), "/a/\u{e4} b\\x0a.toml".to_owned(), "..".repeat(99)] {
            let mark = mark(&name);
            let fits =
                mark.len() <= 60 && mark.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            assert!(fits, "{mark}");
        }
    }
}
