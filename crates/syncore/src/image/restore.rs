//! Restores an archive to an empty directory.
//!
//! Why: it is a clone whose source is a file, so it is made by the same hands (`apply`): held directories, no link
//! followed, metadata in the one order, and read back. What can go wrong: the destination is not what was meant;
//! whatever is in it stops the run. What is mounted there (`/boot` on its own partition) takes part, when it is empty.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, RawDir, mkdir};
use rustix::io::Errno;

use super::file::Input;
use super::read::{Nothing, Sink, begin, read, read_on};
use super::tar::Member;
use super::{Contents, Done, ImageError, shown};
use crate::apply::{Committer, Directories, Directory, FileWriter, NamesOf, Problems, WriteError};
use crate::monitor::{Monitor, Phase};
use crate::plan::{Change, Item};
use crate::problem::Operation;
use crate::scan::{Boundaries, Mount, Root, mounts_below};
use crate::session::{RootLock, SessionError, lock_root, open_root};
use crate::tree::{Kind, RelPath};

/// Checks the image, then restores it.
pub(super) fn from_file(
    image: &mut Input,
    destination: &Path,
    durable: bool,
    monitor: &dyn Monitor,
) -> Result<Done, ImageError> {
    look(destination)?;
    let checked = check(image, monitor)?;
    monitor.planned(checked.entries, checked.content_bytes);
    monitor.phase(Phase::Transfer);
    let done = from_stream(image, destination, durable, &|_| Ok(()), monitor)?;
    match done.contents == checked {
        true => Ok(done),
        false => Err(ImageError::Incomplete { reason: "it became another image meanwhile".to_owned() }),
    }
}

/// Reads the image to its end and goes back to its beginning.
pub(super) fn check(image: &mut Input, monitor: &dyn Monitor) -> Result<Contents, ImageError> {
    monitor.phase(Phase::Scan);
    let contents = read(image, &mut Nothing, monitor)?;
    image.rewind()?;
    Ok(contents)
}

/// Says whether the directory at this absolute path may be restored to.
pub(super) type Admit<'a> = &'a dyn Fn(&[u8]) -> Result<(), SessionError>;

/// Restores what comes out of `image`, and checks it meanwhile. `admit` judges the destination when it is held.
pub(super) fn from_stream(
    image: &mut impl Read,
    destination: &Path,
    durable: bool,
    admit: Admit<'_>,
    monitor: &dyn Monitor,
) -> Result<Done, ImageError> {
    look(destination)?;
    let mut image = Counted { input: image, bytes: 0 };
    // What is no image at all is known before anything is made.
    let begun = begin(&mut image)?;
    let mut restorer = Restorer::open(destination, durable, admit, monitor)?;
    let contents = read_on(begun, &mut restorer, monitor).map_err(|error| match error {
        ImageError::Damaged { reason } => ImageError::Incomplete { reason },
        other => other,
    })?;
    monitor.phase(Phase::Finish);
    let problems = restorer.finish(&contents.torn)?;
    Ok(Done { contents, file_bytes: image.bytes, sockets: 0, problems })
}

/// Counts what passes.
struct Counted<'a, R> {
    input: &'a mut R,
    bytes: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Refuses a destination that is not fit, and changes nothing.
pub(super) fn look(destination: &Path) -> Result<(), ImageError> {
    match Root::open(destination) {
        Err(Errno::NOENT) => Ok(()),
        _ => present(&open_root(destination, "destination")?).map(|_| ()),
    }
}

/// The directories that are there already: `lost+found`, mount points, and what leads to these.
fn present(root: &Root) -> Result<(HashSet<RelPath>, Vec<Mount>), ImageError> {
    let mounts = mounts_below(root);
    let mut present = HashSet::new();
    let mut pending = vec![RelPath::root()];
    while let Some(path) = pending.pop() {
        let names = names(root, &path).map_err(|error| SessionError::Fatal {
            operation: "list the destination",
            reason: std::io::Error::from(error).to_string(),
        })?;
        let is_mount = |path: &RelPath| path.is_root() || mounts.iter().any(|mount| mount.path == *path);
        for name in names {
            let child = path.join(&name);
            let is_directory = root.hold_directory(&child).is_ok();
            let leads_to = |mount: &Mount| mount.is_local() && mount.path.starts_with(&child);
            let is_ours = name == b"lost+found" && is_mount(&path);
            if !is_directory || !(is_ours || mounts.iter().any(leads_to)) {
                return Err(ImageError::NotEmpty { path: shown(root.path()), name: child.to_string() });
            }
            if !is_ours {
                pending.push(child.clone());
            }
            present.insert(child);
        }
    }
    Ok((present, mounts))
}

fn names(root: &Root, path: &RelPath) -> rustix::io::Result<Vec<Vec<u8>>> {
    let directory = root.open_directory(path)?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut listing = RawDir::new(&directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(name) = listing.next() {
        let name = match name {
            Err(Errno::INTR) => continue,
            name => name?.file_name().to_bytes().to_vec(),
        };
        if !matches!(&name[..], b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Makes what an archive holds.
struct Restorer<'a> {
    committer: Committer,
    present: HashSet<RelPath>,
    /// Their metadata is set when everything in them is there.
    directories: Vec<Item>,
    /// Where the last file was made: mostly, the next one is its neighbour.
    last: Option<(RelPath, Arc<Directory>)>,
    writer: Option<FileWriter>,
    monitor: &'a dyn Monitor,
    _lock: RootLock,
}

impl<'a> Restorer<'a> {
    fn open(
        destination: &Path,
        durable: bool,
        admit: Admit<'_>,
        monitor: &'a dyn Monitor,
    ) -> Result<Self, ImageError> {
        // It may be there; and when it cannot be made, opening it says why.
        let _ = mkdir(destination, Mode::RWXU);
        let root = Arc::new(open_root(destination, "destination")?);
        admit(&root.canonical_path().unwrap_or_default())?;
        let lock = lock_root(&root)?;
        let (present, mounts) = present(&root)?;
        let fatal = |error: Errno| SessionError::Fatal {
            operation: "look at the destination",
            reason: std::io::Error::from(error).to_string(),
        };
        let directories = Directories::new(root, &Boundaries::default(), &mounts).map_err(fatal)?;
        let committer = Committer::new(
            Arc::new(directories),
            Arc::new(Problems::default()),
            // Nothing that is there is changed but directories, which have one name.
            NamesOf(Box::new(|_, _| 1)),
            durable,
        );
        Ok(Self {
            committer,
            present,
            directories: Vec::new(),
            last: None,
            writer: None,
            monitor,
            _lock: lock,
        })
    }

    fn directory(&mut self, path: &RelPath) -> rustix::io::Result<Arc<Directory>> {
        let parent = path.parent().unwrap_or_default();
        match &self.last {
            Some((last, directory)) if *last == parent => Ok(Arc::clone(directory)),
            _ => {
                let directory = self.committer.directories.open(&parent)?;
                self.last = Some((parent, Arc::clone(&directory)));
                Ok(directory)
            }
        }
    }

    fn write(&mut self, path: &RelPath, write: impl FnOnce(&mut FileWriter) -> Result<(), WriteError>) {
        if let Some(writer) = &mut self.writer
            && let Err(error) = write(writer)
        {
            self.committer.fail(path, Operation::Write, error);
            self.writer = None;
        }
    }

    /// Sets the metadata of directories, flushes, and gives what could not be done.
    fn finish(mut self, torn: &[RelPath]) -> Result<Vec<crate::problem::Problem>, ImageError> {
        self.directories.sort_by_key(|item| std::cmp::Reverse(item.path.depth()));
        for item in &self.directories {
            self.committer.finish_directory(item);
        }
        let planned = self.directories.drain(..).map(|item| item.path).collect();
        let Self { committer, .. } = self;
        committer.directories.settle(&planned, &committer.problems);
        committer.finish().map_err(|error| SessionError::Fatal {
            operation: "flush the destination",
            reason: std::io::Error::from(error).to_string(),
        })?;
        for path in torn {
            let reason = "it changed while the image was made; this is no state that it ever had";
            committer.problems.note(path, Operation::Read, reason);
        }
        let problems = committer.problems.take();
        problems.iter().for_each(|problem| self.monitor.problem(problem));
        Ok(problems)
    }
}

fn item_of(member: &Member) -> Item {
    Item {
        path: member.path.clone(),
        change: Change::Create,
        entry: member.entry.clone(),
        link_to: member.link_to.clone(),
        moved_from: None,
    }
}

impl Sink for Restorer<'_> {
    fn begin(&mut self, member: &Member) -> Result<(), ImageError> {
        let item = item_of(member);
        match member.entry.kind {
            Kind::Directory => {
                if !item.path.is_root() && !self.present.contains(&item.path) {
                    self.committer.make_directory(&item);
                }
                self.directories.push(item);
            }
            _ if item.link_to.is_some() => self.committer.link(&item),
            Kind::File => {
                let made = self
                    .directory(&item.path)
                    .and_then(|directory| FileWriter::create(&self.committer.directories, &directory, None));
                match made {
                    Ok(writer) => self.writer = Some(writer),
                    Err(error) => {
                        self.committer.fail(&item.path, Operation::Create, std::io::Error::from(error));
                    }
                }
            }
            _ => self.committer.without_content(&item),
        }
        Ok(())
    }

    fn data(&mut self, path: &RelPath, bytes: &[u8]) -> Result<(), ImageError> {
        self.write(path, |writer| writer.raw_data(bytes));
        self.monitor.transferred(bytes.len() as u64);
        Ok(())
    }

    fn hole(&mut self, path: &RelPath, length: u64) -> Result<(), ImageError> {
        self.write(path, |writer| writer.hole(length));
        self.monitor.transferred(length);
        Ok(())
    }

    fn end(&mut self, member: &Member) -> Result<(), ImageError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let item = item_of(member);
        if let Err(error) = self.committer.place_file(&item, writer, None) {
            self.committer.fail(&item.path, Operation::Write, error);
        }
        Ok(())
    }
}
