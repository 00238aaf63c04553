//! Images: a tree at one moment in one file, and back.
//!
//! Why: a dump can be kept, copied, and restored many times, by a system that has clonetool or by any that has `tar`
//! and `zstd`. The file is one zstd stream of a pax archive (`tar`), in which a manifest comes last. What can go
//! wrong: the file is damaged, cut off or hostile. It is read to its end and held against its manifest before
//! anything is restored from it, every path in it is checked, and no more of it is kept in memory than a digest or
//! two for each path. The file format is described in `doc/format.md`.

mod about;
mod create;
mod file;
mod frames;
mod manifest;
mod over;
mod pax;
mod read;
mod restore;
mod sparse;
mod tar;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::monitor::{Monitor, Phase};
use crate::problem::Problem;
use crate::rules::Rule;
use crate::session::{Location, SessionError};
use crate::tree::{Entry, RelPath};

pub use about::About;
pub use over::{Peer, serve, sniff};

/// The directory in the archive, and where plain `tar` extracts it, that holds what is said about the image. A tree's
/// own entry of that name is never part of an image.
pub const OWN_DIRECTORY: &[u8] = b".clonetool-image";

/// How many entries an image may have: for each, some 50 bytes are kept while it is read.
pub const ENTRIES_LIMIT: u64 = 50_000_000;

/// How an image is made.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Include, exclude, protect and class rules. None at all means: everything.
    pub rules: Vec<Rule>,
    /// Stay on the filesystem of the root.
    pub one_file_system: bool,
    /// The zstd level, 1 to 19.
    pub level: i32,
    /// Replace a file that is there.
    pub replace: bool,
    /// Flush to stable storage before success is reported.
    pub durable: bool,
    /// How long a peer may make no progress.
    pub timeout: Duration,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            one_file_system: false,
            level: 3,
            replace: false,
            durable: true,
            timeout: Duration::from_secs(120),
        }
    }
}

/// What an image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Of what, where and when it was made.
    pub about: About,
    /// How many names are in it.
    pub entries: u64,
    /// The lengths of its files, holes included.
    pub content_bytes: u64,
    /// BLAKE3 over the manifest: the identity of the image.
    pub digest: [u8; 32],
    /// Files that changed while they were read: what is there of them is no state that they ever had.
    pub torn: Vec<RelPath>,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Done {
    /// What is in the image.
    pub contents: Contents,
    /// How long the image is.
    pub file_bytes: u64,
    /// Sockets, which no tar archive can hold; their programs make them again. Only known where an image is made.
    pub sockets: u64,
    /// What could not be done to single paths.
    pub problems: Vec<Problem>,
}

/// Why an image cannot be made, read or restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// What can happen to any run.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The file cannot be opened, read or written.
    #[error("cannot {action} {path}: {reason}")]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file, escaped.
        path: String,
        /// Why it failed.
        reason: String,
    },
    /// The file is there already.
    #[error("{path} is there already")]
    Exists {
        /// Which file, escaped.
        path: String,
    },
    /// The walk would come to the file that it writes.
    #[error("the image {path} would be part of itself: it lies within {root}")]
    WithinSource {
        /// The file, escaped.
        path: String,
        /// The source root, escaped.
        root: String,
    },
    /// The destination holds something.
    #[error("the destination {path} is not empty: it holds {name}")]
    NotEmpty {
        /// The destination, escaped.
        path: String,
        /// One of the names in it.
        name: String,
    },
    /// It is no image at all.
    #[error("it is no image of clonetool: {reason}")]
    NoImage {
        /// Why not.
        reason: String,
    },
    /// It is an image, and not whole.
    #[error("the image is damaged or was changed: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// It was damaged on the way, after it had been checked.
    #[error("the image did not arrive as it was checked, the destination is incomplete: {reason}")]
    Incomplete {
        /// What is wrong with it.
        reason: String,
    },
}

/// Where an image is, or goes to.
#[derive(Debug)]
pub enum ImageFile {
    /// A file on this host.
    Path(PathBuf),
    /// What is open already: standard input or output.
    Open(File),
}

/// Makes an image of `source` in `file`.
///
/// The file appears under its name when it is whole, and only its owner may read it. An image that comes from another
/// host is checked while it is written. What cannot be read is a problem; a file that changes while it is read is one,
/// too, and is in the image as it was read.
///
/// # Errors
/// [`ImageError`], see there; no file is left then.
pub fn create(
    source: &Location,
    file: &ImageFile,
    options: &CreateOptions,
    monitor: &dyn Monitor,
) -> Result<Done, ImageError> {
    match (source, file) {
        (Location::Local(root), ImageFile::Path(path)) => create::to_file(root, path, options, monitor),
        (Location::Local(root), ImageFile::Open(out)) => {
            let tree = create::Tree::open(root, &options.rules, options.one_file_system)?;
            create::to_stream(&tree, out, "standard output", options.level, monitor)
        }
        (Location::Remote(remote, root), ImageFile::Path(path)) => {
            over::create_to_file(remote, root, path, options, monitor)
        }
        (Location::Remote(..), ImageFile::Open(_)) => Err(SessionError::BothRemote.into()),
    }
}

/// Restores the image in `file` to `destination`, which must be empty but for `lost+found` and mount points.
///
/// A file is read to its end and checked before anything is written, and checked again while it is restored. What
/// comes from a pipe cannot be read twice: it is checked while it is restored, and what was restored of a damaged one
/// is incomplete ([`ImageError::Incomplete`]).
///
/// # Errors
/// [`ImageError`], see there; nothing was changed then, unless it says so.
pub fn restore(
    file: &ImageFile,
    destination: &Location,
    durable: bool,
    timeout: Duration,
    monitor: &dyn Monitor,
) -> Result<Done, ImageError> {
    let mut image = file::Input::open(file)?;
    if !image.can_be_read_again() {
        monitor.phase(Phase::Scan);
        return match destination {
            Location::Local(root) => restore::from_stream(&mut image, root, durable, &|_| Ok(()), monitor),
            Location::Remote(..) => Err(SessionError::BothRemote.into()),
        };
    }
    match destination {
        Location::Local(root) => restore::from_file(&mut image, root, durable, monitor),
        Location::Remote(remote, root) => {
            over::restore_from_file(remote, &mut image, root, durable, timeout, monitor)
        }
    }
}

/// Reads and checks the image in `file`; `each` sees every path with its metadata, the other names of an inode with
/// the path of which they are one.
///
/// # Errors
/// [`ImageError`], see there.
pub fn list(
    file: &ImageFile,
    each: &mut dyn FnMut(&RelPath, &Entry, Option<&RelPath>),
    monitor: &dyn Monitor,
) -> Result<Done, ImageError> {
    let mut image = file::Input::open(file)?;
    monitor.phase(Phase::Scan);
    let contents = read::read(&mut image, &mut read::Listing(each), monitor)?;
    Ok(Done { contents, file_bytes: image.position(), sockets: 0, problems: Vec::new() })
}

/// A path of the caller's for a message.
fn shown(path: &Path) -> String {
    crate::tree::escape(path.as_os_str().as_encoded_bytes())
}

/// What an error of a stream says of an archive.
fn truncated(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => error.to_string(),
    }
}

/// Ends with the error of a monitor that asked to stop.
fn unless_cancelled(monitor: &dyn Monitor) -> Result<(), ImageError> {
    if monitor.cancelled() { Err(SessionError::Cancelled.into()) } else { Ok(()) }
}
