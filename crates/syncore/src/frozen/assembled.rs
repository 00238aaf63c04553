//! Snapshots mounted as one tree, in a mount namespace of a thread's own.
//!
//! Why: the filesystems below the source belong into the tree that is read, each as it was; and nobody else is to see
//! them mounted, or find them mounted after us. What can go wrong: a path that leads elsewhere in the new namespace
//! (what is bound is compared with what is held); somebody who still has a file open when they are unmounted (they are
//! detached then, and whoever removes the volumes is told that they are in use). The namespace ends with the thread:
//! what is held of the tree then has lost what was mounted in it, so the thread stays until it is released.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::thread::UnshareFlags;

use super::{FreezeError, identity_at};
use crate::scan::{Identity, Root, proc_path};
use crate::tree::RelPath;

/// How often what is in use is tried to be unmounted, and how long after the last time.
const UNMOUNT_ATTEMPTS: u32 = 10;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(20);

/// What is mounted at one path of the tree.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: RelPath,
    from: From,
}

#[derive(Debug)]
enum From {
    /// A filesystem of a kind.
    Device(PathBuf, String),
    /// A directory, which is this one and no other.
    Directory(PathBuf, Identity),
}

impl Part {
    /// A device with a filesystem of `kind`.
    pub(super) fn device(path: &RelPath, device: PathBuf, kind: &str) -> Self {
        Self { path: path.clone(), from: From::Device(device, kind.to_owned()) }
    }

    /// The directory `from`.
    pub(super) fn directory(path: &RelPath, from: PathBuf, identity: Identity) -> Self {
        Self { path: path.clone(), from: From::Directory(from, identity) }
    }

    /// What is there in the source itself.
    pub(super) fn live(path: &RelPath, live: &Root) -> Result<Self, FreezeError> {
        let failed =
            |error: rustix::io::Errno| FreezeError::failed(format!("open {path}"), &io::Error::from(error));
        let held = live.open_directory(path).map_err(failed)?;
        let identity = identity_at(live, path).map_err(failed)?;
        let place = rustix::fs::readlink(proc_path(held.as_fd()), Vec::new()).map_err(failed)?;
        Ok(Self::directory(path, PathBuf::from(OsString::from_vec(place.into_bytes())), identity))
    }
}

/// The tree, mounted.
#[derive(Debug)]
pub(super) struct Assembled {
    root: Arc<Root>,
    release: Sender<()>,
    keeper: JoinHandle<()>,
}

/// Mounts `parts`, of which the first is the root, at `place`, seen by nobody else.
pub(super) fn assemble(place: &Path, parts: Vec<Part>) -> io::Result<Assembled> {
    let (done, result) = channel();
    let (release, released) = channel();
    let place = place.to_owned();
    let keeper = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
        let mut mounted = Vec::new();
        let made = enter().and_then(|()| mount_all(&place, &parts, &mut mounted));
        let failed = made.is_err();
        // Whoever waits for it has gone only if it panicked; then nothing is left to be done but this.
        if done.send(made).is_ok() && !failed {
            wait(&released);
        }
        mounted.into_iter().rev().for_each(|place| take_away(&place));
    })?;
    match result.recv().map_err(io::Error::other).and_then(|made| made) {
        Ok(root) => Ok(Assembled { root: Arc::new(root), release, keeper }),
        Err(error) => {
            // It has failed already, and says why.
            let _ = keeper.join();
            Err(error)
        }
    }
}

/// Until it is released, or nobody is left who could.
fn wait(released: &Receiver<()>) {
    let _ = released.recv();
}

impl Assembled {
    pub(super) fn root(&self) -> Arc<Root> {
        Arc::clone(&self.root)
    }

    /// Unmounts everything.
    pub(super) fn release(self) {
        let Self { root, release, keeper } = self;
        drop(root);
        drop(release);
        // It only unmounts now; what is left mounted, if anything, its end takes away.
        let _ = keeper.join();
    }
}

/// Leaves the mount namespace of the process. What is unmounted outside goes here as well, so that a filesystem that
/// the administrator unmounts is free; nothing goes the other way.
fn enter() -> io::Result<()> {
    // Deprecated because of file descriptors, which stay shared.
    #[expect(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

fn mount_all(place: &Path, parts: &[Part], mounted: &mut Vec<PathBuf>) -> io::Result<Root> {
    for part in parts {
        let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", part.path));
        let at = place.join(OsString::from_vec(part.path.as_bytes().to_vec()));
        if part.path.is_root() {
            put(part, place).map_err(told)?;
        } else {
            // Held, so that no link of the snapshot leads elsewhere.
            let root = Root::open(place)?;
            let held = root.hold_directory(&part.path).map_err(|error| told(error.into()))?;
            put(part, &proc_path(held.as_fd())).map_err(told)?;
        }
        mounted.push(at);
    }
    Ok(Root::open(place)?)
}

fn put(part: &Part, at: &Path) -> io::Result<()> {
    let harmless = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    match &part.from {
        From::Device(device, kind) => {
            // The origin is mounted too, and has the same identity.
            let options = if kind == "xfs" { c"nouuid" } else { c"" };
            Ok(mount(device.as_path(), at, kind.as_str(), harmless, options)?)
        }
        From::Directory(from, identity) => {
            let found = Root::open(from)?.identity()?;
            if (found.device, found.inode) != (identity.device, identity.inode) {
                return Err(io::Error::other("its path leads to something else by now"));
            }
            Ok(mount_bind(from.as_path(), at)?)
        }
    }
}

fn take_away(place: &Path) {
    for _ in 0..UNMOUNT_ATTEMPTS {
        match unmount(place, UnmountFlags::NOFOLLOW) {
            // A program that another thread is about to start has our descriptors until it runs.
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(UNMOUNT_PAUSE),
            _ => return,
        }
    }
    // Whoever uses it keeps it, and keeps it alone.
    let _ = unmount(place, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
}
