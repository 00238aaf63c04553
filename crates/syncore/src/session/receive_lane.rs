//! One content lane of the receiver: small files in batches, large ones piece by piece.
//!
//! Why: each lane writes its files from beginning to end without waiting for the others. What can go wrong: anything in
//! what arrives; a file that goes wrong is thrown away to its end, so that the lane stays in step.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use crate::apply::{Directory, FileWriter, WriteError};
use crate::delta::{BlockSums, Region, RegionSums};
use crate::monitor::Monitor;
use crate::plan::{Change, Item};
use crate::problem::Operation;
use crate::session::receive::Receiver;
use crate::tree::RelPath;
use crate::wire::{CONTROL, Incoming, Message, MovedFile, Outgoing, SmallFile, WireError};

/// How many regions one message may ask about.
const REGIONS_LIMIT: usize = 256;

/// How many bytes they may have together.
const REGIONS_LIMIT_BYTES: u64 = 32 << 20;

/// Regions answered in one message.
const SUMS_PER_MESSAGE: usize = 64;

/// One content lane.
pub(super) struct Lane<'a> {
    receiver: &'a Receiver<'a>,
    number: u8,
    outgoing: Outgoing,
    incoming: &'a mut Incoming,
    parent: Option<(RelPath, Arc<Directory>)>,
    current: Option<Current>,
}

/// The file that is arriving on a lane.
struct Current {
    number: u32,
    item: Item,
    /// The first thing that went wrong; the rest is taken and thrown away.
    writer: Result<FileWriter, WriteError>,
}

/// Says to a lane that waits for a message when none is wanted any more: the other one may have met the end of the room.
struct Until<'a>(&'a Receiver<'a>);

impl Monitor for Until<'_> {
    fn cancelled(&self) -> bool {
        self.0.monitor.cancelled() || self.0.is_out_of_room()
    }
}

impl<'a> Lane<'a> {
    pub(super) fn new(
        receiver: &'a Receiver<'a>,
        number: u8,
        outgoing: Outgoing,
        incoming: &'a mut Incoming,
    ) -> Self {
        Self { receiver, number, outgoing, incoming, parent: None, current: None }
    }

    /// Takes content until the sender ends the lane.
    ///
    /// # Errors
    /// When the connection fails, or the sender breaks the protocol. What cannot be written is a problem of its path.
    pub(super) fn work(mut self) -> Result<(), WireError> {
        loop {
            match self.incoming.receive(&Until(self.receiver))? {
                Message::Files(files) => files.iter().try_for_each(|file| self.small(file))?,
                Message::Moved(files) => files.iter().try_for_each(|file| self.moved(file))?,
                Message::Begin { item, size_bytes, mtime } => {
                    let mut planned = self.item(item)?;
                    (planned.entry.size_bytes, planned.entry.mtime) = (size_bytes, mtime);
                    let writer = self.begin(item, &planned);
                    self.current = Some(Current { number: item, item: planned, writer });
                }
                Message::Data(data) => {
                    let length = data.len() as u64;
                    self.receiver.monitor.transferred(length);
                    self.write(length, |writer| writer.data(&data))?;
                }
                Message::Hole(length) => self.write(length, |writer| writer.hole(length))?,
                Message::Copy(offset, length) => {
                    self.receiver.monitor.transferred(length);
                    self.write(length, |writer| writer.copy(offset, length))?;
                }
                Message::Patch(offset, region, length, delta) => {
                    self.receiver.monitor.transferred(length.into());
                    self.write(length.into(), |writer| writer.patch(offset, region, length, &delta))?;
                }
                Message::Refine(item, regions) => self.refine(item, &regions)?,
                Message::End(digest) => self.end(digest)?,
                Message::Abandon(number) => {
                    let item = self.item(number)?;
                    if self
                        .current
                        .take()
                        .is_some_and(|current| current.writer.is_ok_and(|w| w.is_in_place()))
                    {
                        self.receiver.committer.fail(
                            &item.path,
                            Operation::Write,
                            "it was rewritten in place in part",
                        );
                    }
                    // The sender reports why.
                    self.receiver.committer.give_up(&item.path);
                    if self.receiver.view.rules.decide(&item.path, false).auth_set {
                        self.receiver.auth_file(None);
                    }
                    self.receiver.settled(number, &mut self.outgoing)?;
                }
                Message::LaneEnd => return Ok(()),
                other => {
                    return Err(WireError::Protocol(format!(
                        "an unexpected message: {}",
                        super::name_of(&other)
                    )));
                }
            }
        }
    }

    fn item(&self, number: u32) -> Result<Item, WireError> {
        self.receiver.item(number).ok_or_else(|| WireError::Protocol(format!("content for item {number}")))
    }

    fn directory(&mut self, path: &RelPath) -> rustix::io::Result<Arc<Directory>> {
        let parent = path.parent().unwrap_or_default();
        match &self.parent {
            Some((held, directory)) if *held == parent => Ok(Arc::clone(directory)),
            _ => {
                let directory = self.receiver.committer.staging(&parent)?;
                self.parent = Some((parent, Arc::clone(&directory)));
                Ok(directory)
            }
        }
    }

    fn small(&mut self, file: &SmallFile) -> Result<(), WireError> {
        let mut item = self.item(file.item)?;
        if self.receiver.view.rules.decide(&item.path, false).auth_set {
            return Err(WireError::Protocol("a password file out of its set".to_owned()));
        }
        (item.entry.size_bytes, item.entry.mtime) = (file.content.len() as u64, file.mtime);
        let length = file.content.len() as u64;
        let written = if blake3::hash(&file.content).as_bytes()[..16] == file.hash {
            self.directory(&item.path).map_err(WriteError::from).and_then(|directory| {
                let mut writer = FileWriter::create(&self.receiver.committer.directories, &directory, None)?;
                writer.raw_data(&file.content)?;
                self.receiver.place(&item, writer, None)
            })
        } else {
            Err(WriteError::Mismatch)
        };
        self.receiver.monitor.transferred(length);
        match written {
            Ok(()) => {
                self.receiver.literal_bytes.fetch_add(length, Ordering::Relaxed);
                self.receiver.monitor.changed(&item.path, &item.change);
            }
            Err(error) => self.receiver.committer.cannot_write(&item.path, Operation::Write, &error),
        }
        self.receiver.settled(file.item, &mut self.outgoing)
    }

    /// Takes a file that is under another name on the standby from there, or asks for it.
    fn moved(&mut self, file: &MovedFile) -> Result<(), WireError> {
        let mut item = self.item(file.item)?;
        let auth_set = self.receiver.view.rules.decide(&item.path, false).auth_set;
        let Some(from) = self.receiver.from(file.item, &item).filter(|_| !auth_set) else {
            return Err(WireError::Protocol("a move that is not in the plan".to_owned()));
        };
        (item.entry.size_bytes, item.entry.mtime) = (file.size_bytes, file.mtime);
        // What is made from production's file has to be made of all of it.
        if self.receiver.substitution(&item.path).is_some() && self.retry(file.item) {
            return self.ask_for_whole(file.item);
        }
        match self.receiver.committer.adopt(&item, &from, file.digest) {
            Ok(()) => {
                if item.moved_from.is_none() {
                    self.receiver.committer.taken(&from);
                }
                self.receiver.copied_bytes.fetch_add(file.size_bytes, Ordering::Relaxed);
                self.receiver.monitor.transferred(file.size_bytes);
                self.receiver.monitor.changed(&item.path, &item.change);
            }
            Err(WriteError::Mismatch) if self.retry(file.item) => {
                return self.ask_for_whole(file.item);
            }
            Err(error) => self.receiver.committer.cannot_write(&item.path, Operation::Link, &error),
        }
        self.receiver.settled(file.item, &mut self.outgoing)
    }

    fn ask_for_whole(&mut self, number: u32) -> Result<(), WireError> {
        self.outgoing.send(CONTROL, Message::Basis(number, BlockSums::default(), false))
    }

    fn begin(&mut self, number: u32, item: &Item) -> Result<FileWriter, WriteError> {
        let directory = self.directory(&item.path)?;
        let receiver = self.receiver;
        let mut basis = receiver.bases.lock().ok().and_then(|mut bases| bases.remove(&number));
        if receiver.in_place && receiver.substitution(&item.path).is_none() {
            let open = || receiver.committer.open_in_place(item, &directory);
            match basis.take().map(|basis| basis.within(open)) {
                Some(Ok((file, known, as_known))) => {
                    return Ok(FileWriter::in_place(file)?.knowing(known, as_known));
                }
                Some(Err(other)) => basis = Some(other),
                None => {
                    if let Some(file) = open() {
                        return Ok(FileWriter::in_place(file)?);
                    }
                }
            }
        }
        let directories = &receiver.committer.directories;
        if let Some(basis) = basis {
            let (fd, known, as_known) = basis.beside();
            return Ok(FileWriter::create(directories, &directory, Some(fd))?.knowing(known, as_known));
        }
        let updates = matches!(item.change, Change::Update(_));
        let basis = if updates { receiver.open_basis(&item.path).ok() } else { None };
        Ok(FileWriter::create(directories, &directory, basis)?)
    }

    /// Writes `length` more bytes of the current file; no more than was announced, so that a peer cannot fill the disk
    /// with one file.
    fn write(
        &mut self,
        length: u64,
        write: impl FnOnce(&mut FileWriter) -> Result<(), WriteError>,
    ) -> Result<(), WireError> {
        let Some(current) = &mut self.current else {
            return Err(WireError::Protocol("content without a file".to_owned()));
        };
        if let Ok(writer) = &mut current.writer {
            let fits =
                writer.position().checked_add(length).is_some_and(|end| end <= current.item.entry.size_bytes);
            let result = if fits { write(writer) } else { Err(WriteError::Mismatch) };
            if let Err(error) = result {
                if error.is_for_want_of_room() {
                    // What is still to come of it is not waited for.
                    let (committer, path) = (&self.receiver.committer, &current.item.path);
                    committer.cannot_write(path, Operation::Write, &error);
                }
                current.writer = Err(error);
            }
        }
        Ok(())
    }

    fn refine(&mut self, number: u32, regions: &[Region]) -> Result<(), WireError> {
        let Some(current) = self.current.as_ref().filter(|current| current.number == number) else {
            return Err(WireError::Protocol("a refinement without its file".to_owned()));
        };
        let bytes: u64 = regions.iter().map(|region| u64::from(region.length)).sum();
        if regions.len() > REGIONS_LIMIT || bytes > REGIONS_LIMIT_BYTES {
            return Err(WireError::Protocol("a refinement of too many regions".to_owned()));
        }
        let writer = current.writer.as_ref().ok();
        let sums: Vec<RegionSums> = regions
            .par_iter()
            .map(|region| {
                let content = writer.and_then(|writer| writer.region(region.offset, region.length).ok());
                RegionSums::of(region, content)
            })
            .collect();
        let mut parts = sums.chunks(SUMS_PER_MESSAGE).peekable();
        while let Some(part) = parts.next() {
            self.outgoing.send(self.number, Message::Refined(part.to_vec(), parts.peek().is_some()))?;
        }
        Ok(())
    }

    fn end(&mut self, digest: [u8; 32]) -> Result<(), WireError> {
        let Some(Current { number, item, writer }) = self.current.take() else {
            return Err(WireError::Protocol("an end without a file".to_owned()));
        };
        let receiver = self.receiver;
        let auth = receiver.view.rules.decide(&item.path, false).auth_set;
        let result = writer.and_then(|writer| {
            if writer.position() != item.entry.size_bytes {
                return Err(WriteError::Mismatch);
            }
            let (literal, copied) = (writer.literal_bytes, writer.copied_bytes);
            if auth {
                receiver.auth_file(Some((item.clone(), writer, digest)));
            } else {
                receiver.place(&item, writer, Some(digest))?;
            }
            receiver.literal_bytes.fetch_add(literal, Ordering::Relaxed);
            receiver.copied_bytes.fetch_add(copied, Ordering::Relaxed);
            Ok(())
        });
        match result {
            Ok(()) => receiver.monitor.changed(&item.path, &item.change),
            Err(WriteError::Mismatch | WriteError::Delta(_)) if !auth && self.retry(number) => {
                return self.ask_for_whole(number);
            }
            Err(error) => {
                receiver.committer.cannot_write(&item.path, Operation::Write, &error);
                if auth {
                    receiver.auth_file(None);
                }
            }
        }
        receiver.settled(number, &mut self.outgoing)
    }

    /// Whether an item that came out wrong may be asked for once more.
    fn retry(&self, number: u32) -> bool {
        self.receiver.retried.lock().is_ok_and(|mut retried| retried.insert(number))
    }
}
