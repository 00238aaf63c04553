//! The sender's side of the transfer: reads what the plan needs and sends it over the content lanes.
//!
//! Why: reading, digesting, compressing and sending overlap, and no file waits for another's round trip. Small files
//! travel many to a message; large ones have a lane to themselves until they end. What can go wrong: the source
//! lives. What is read is looked at before and after; what will not hold still is a problem, and the standby keeps
//! what it has.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use crate::apply::Problems;
use crate::delta::{BlockSums, ContentHasher, Extent, RegionSignature, Segment, find_unchanged};
use crate::monitor::Monitor;
use crate::plan::{Item, Plan};
use crate::problem::Operation;
use crate::scan::{OpenFile, READ_ATTEMPTS, Stability, View, digest_open, extents, open_file, read_full};
use crate::session::auth::PasswordLock;
use crate::session::local::is_copied;
use crate::session::planner::is_delta_item;
use crate::session::queue::{Job, Queue};
use crate::session::receive::note_failure;
use crate::session::refine::Refinements;
use crate::session::stable::stayed;
use crate::session::{SessionError, unexpected};
use crate::tree::RelPath;
use crate::wire::{CONTENT_LANES, CONTROL, Incoming, Message, MovedFile, Outgoing, SmallFile, WireError};

/// Files up to this length travel in batches.
const SMALL_BYTES: u64 = 128 * 1024;

/// About how much content goes into one batch.
const BATCH_BYTES: usize = 256 * 1024;

/// How many files go into one batch at most.
const BATCH_FILES: usize = 256;

/// Bytes of one [`Message::Data`].
const DATA_BYTES: usize = 256 * 1024;

/// What all lanes share.
pub(crate) struct Transfer<'a> {
    pub(crate) view: &'a View,
    pub(crate) plan: &'a Plan,
    pub(crate) delta: bool,
    /// Copies may only come from where the file has not been written over yet.
    pub(crate) in_place: bool,
    pub(crate) problems: &'a Problems,
    pub(crate) monitor: &'a dyn Monitor,
}

impl Transfer<'_> {
    /// Sends all content that the plan needs, and returns when the receiver has settled every item.
    ///
    /// # Errors
    /// When the connection fails, or the receiver gives up.
    pub(crate) fn run(&self, outgoing: &Outgoing, lanes: &mut [Incoming]) -> Result<(), SessionError> {
        let queue = Queue::default();
        let Some((control, content)) = lanes.split_first_mut() else { return Ok(()) };
        std::thread::scope(|scope| {
            scope.spawn(|| self.feed(&queue));
            let workers: Vec<_> = (1..=CONTENT_LANES)
                .zip(content)
                .map(|(number, incoming)| {
                    let (queue, outgoing) = (&queue, outgoing.clone());
                    scope.spawn(move || {
                        let lane =
                            Lane { transfer: self, number, outgoing, incoming: &mut *incoming, parent: None };
                        let result = lane.work(queue);
                        if let Err(error) = &result {
                            incoming.fail(error);
                            queue.close();
                        }
                        result
                    })
                })
                .collect();
            let result = self.answer(control, &queue);
            if let Err(SessionError::Wire(error)) = &result {
                control.fail(error);
            }
            queue.close();
            let mut failed = None;
            for worker in workers {
                note_failure(&mut failed, worker.join());
            }
            // What the receiver said counts for more than what the lanes made of it.
            result.and_then(|()| failed.map_or(Ok(()), |error| Err(error.into())))
        })
    }

    /// Makes jobs of the plan's items.
    fn feed(&self, queue: &Queue) {
        let (mut batch, mut batch_bytes, mut auth) = (Vec::new(), 0, Vec::new());
        let mut moved = Vec::new();
        for (number, item) in (0..).zip(self.plan.items()) {
            if !item.needs_content() {
                continue;
            }
            if self.view.rules.decide(&item.path, false).auth_set {
                auth.push((number, item));
            } else if item.moved_from.is_some() {
                moved.push((number, item));
                if moved.len() >= BATCH_FILES {
                    queue.push(Job::Moved(std::mem::take(&mut moved)), true);
                }
            } else if !self.delta && is_copied(&item, self.in_place, false)
                || is_delta_item(&item, self.delta)
            {
                // Between two roots on one host the receiver helps itself; otherwise it waits for its basis.
            } else if item.entry.size_bytes > SMALL_BYTES {
                queue.push(Job::Large(number, Box::new(item)), true);
            } else {
                batch_bytes += usize::try_from(item.entry.size_bytes).unwrap_or(BATCH_BYTES);
                batch.push((number, item));
                if batch_bytes >= BATCH_BYTES || batch.len() >= BATCH_FILES {
                    queue.push(Job::Small(std::mem::take(&mut batch)), true);
                    batch_bytes = 0;
                }
            }
        }
        if !batch.is_empty() {
            queue.push(Job::Small(batch), true);
        }
        if !moved.is_empty() {
            queue.push(Job::Moved(moved), true);
        }
        if !auth.is_empty() {
            queue.push(Job::AuthSet(auth), true);
        }
    }

    /// Takes what the receiver asks for, until it says that everything is settled.
    fn answer(&self, control: &mut Incoming, queue: &Queue) -> Result<(), SessionError> {
        let mut collecting: HashMap<u32, BlockSums> = HashMap::new();
        let mut repeated: HashSet<u32> = HashSet::new();
        let mut described: HashSet<u32> = HashSet::new();
        loop {
            match control.receive(self.monitor)? {
                Message::Basis(number, part, more) => {
                    let sums = collecting.entry(number).or_default();
                    sums.append(part).map_err(|e| WireError::Protocol(e.to_string()))?;
                    if more {
                        continue;
                    }
                    let sums = collecting.remove(&number).unwrap_or_default();
                    // The basis it waits for, or asked for again, once: it did not come out right the first time.
                    let item = self.plan.item(number).filter(Item::needs_content).filter(|item| {
                        is_delta_item(item, self.delta) && described.insert(number) || repeated.insert(number)
                    });
                    let Some(item) = item else {
                        return Err(WireError::Protocol(format!("a basis for item {number}")).into());
                    };
                    queue.push(Job::Delta(number, Box::new(item), sums), false);
                }
                Message::Settled => return Ok(()),
                Message::Problems(problems) => problems.into_iter().for_each(|problem| {
                    self.monitor.problem(&problem);
                    self.problems.add(problem);
                }),
                other => return Err(unexpected(other)),
            }
        }
    }
}

/// One content lane.
pub(super) struct Lane<'a> {
    pub(super) transfer: &'a Transfer<'a>,
    number: u8,
    outgoing: Outgoing,
    pub(super) incoming: &'a mut Incoming,
    /// The directory of the last file, held for its neighbours.
    parent: Option<(RelPath, OwnedFd)>,
}

/// How reading a file ended.
enum Outcome {
    Sent,
    /// It changed while it was read.
    Moved,
}

impl Lane<'_> {
    fn work(mut self, queue: &Queue) -> Result<(), WireError> {
        while let Some(job) = queue.pop() {
            if self.transfer.monitor.cancelled() {
                return Err(WireError::Cancelled);
            }
            match job {
                Job::Small(files) => self.small(files)?,
                Job::Moved(files) => self.moved(files)?,
                Job::Large(number, item) => self.large(number, &item, &BlockSums::default())?,
                Job::Delta(number, item, sums) => self.large(number, &item, &sums)?,
                Job::AuthSet(files) => self.auth_set(&files)?,
            }
        }
        self.send(Message::LaneEnd)
    }

    pub(super) fn send(&mut self, message: Message) -> Result<(), WireError> {
        self.outgoing.send(self.number, message)
    }

    fn open(&mut self, path: &RelPath) -> rustix::io::Result<OwnedFd> {
        let parent = path.parent().unwrap_or_default();
        let directory = match self.parent.take() {
            Some((held, fd)) if held == parent => fd,
            _ => self.transfer.view.root.hold_directory(&parent)?,
        };
        let name =
            std::ffi::CString::new(path.name().unwrap_or_default()).map_err(|_| rustix::io::Errno::INVAL)?;
        let file = open_file(directory.as_fd(), &name);
        self.parent = Some((parent, directory));
        file
    }

    fn abandon(&mut self, number: u32, item: &Item, reason: impl std::fmt::Display) -> Result<(), WireError> {
        self.transfer.problems.note(&item.path, Operation::Read, reason);
        self.send(Message::Abandon(number))
    }

    /// Says which content files have that the standby most likely has under another name.
    fn moved(&mut self, files: Vec<(u32, Item)>) -> Result<(), WireError> {
        let mut batch = Vec::new();
        for (number, item) in files {
            let digest = self.open(&item.path).and_then(|fd| {
                let before = Stability::of(fd.as_fd())?;
                let digest = digest_open(fd.as_fd(), &before)?;
                Ok((before, digest, Stability::of(fd.as_fd())?.same_as(&before)))
            });
            match digest {
                Ok((Stability { size_bytes, mtime, .. }, digest, true)) => {
                    self.transfer.monitor.transferred(size_bytes);
                    self.transfer.monitor.changed(&item.path, &item.change);
                    batch.push(MovedFile { item: number, size_bytes, mtime, digest });
                }
                Ok(_) => self.large(number, &item, &BlockSums::default())?,
                Err(error) => self.abandon(number, &item, std::io::Error::from(error))?,
            }
        }
        if batch.is_empty() { Ok(()) } else { self.send(Message::Moved(batch)) }
    }

    fn small(&mut self, files: Vec<(u32, Item)>) -> Result<(), WireError> {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for (number, item) in files {
            match self.read_small(number, &item) {
                Ok(Some(file)) => {
                    self.transfer.monitor.transferred(file.content.len() as u64);
                    self.transfer.monitor.changed(&item.path, &item.change);
                    // A file may have grown since it was planned; the frame's limit holds all the same.
                    if batch_bytes + file.content.len() > 2 * BATCH_BYTES {
                        self.send(Message::Files(std::mem::take(&mut batch)))?;
                        batch_bytes = 0;
                    }
                    batch_bytes += file.content.len();
                    batch.push(file);
                }
                Ok(None) => self.large(number, &item, &BlockSums::default())?,
                Err(error) => self.abandon(number, &item, std::io::Error::from(error))?,
            }
        }
        if batch.is_empty() { Ok(()) } else { self.send(Message::Files(batch)) }
    }

    /// Reads a small file whole; none when it has to travel as a large one.
    fn read_small(&mut self, number: u32, item: &Item) -> rustix::io::Result<Option<SmallFile>> {
        for _ in 0..READ_ATTEMPTS {
            let fd = self.open(&item.path)?;
            let before = Stability::of(fd.as_fd())?;
            if before.size_bytes > SMALL_BYTES || before.sparse {
                return Ok(None);
            }
            let mut content = vec![0; usize::try_from(before.size_bytes).unwrap_or(0)];
            let read = read_full(fd.as_fd(), &mut content, 0)?;
            if read == content.len() && Stability::of(fd.as_fd())?.same_as(&before) {
                let mut hash = [0; 16];
                hash.copy_from_slice(&blake3::hash(&content).as_bytes()[..16]);
                return Ok(Some(SmallFile { item: number, mtime: before.mtime, hash, content }));
            }
        }
        // It will not hold still: as a large file it is read once more and judged there.
        Ok(None)
    }

    fn large(&mut self, number: u32, item: &Item, sums: &BlockSums) -> Result<(), WireError> {
        let mut sums = sums;
        let whole = BlockSums::default();
        for _ in 0..READ_ATTEMPTS {
            let read = self.open(&item.path).map_err(std::io::Error::from).and_then(|fd| {
                let before = Stability::of(fd.as_fd())?;
                let extents = extents(fd.as_fd(), before.size_bytes)?;
                Ok((fd, before, extents))
            });
            let outcome = match read {
                Ok((fd, before, extents)) => self.large_once(number, &fd, before, &extents, sums)?,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Outcome::Sent) => {
                    self.transfer.monitor.changed(&item.path, &item.change);
                    return Ok(());
                }
                Ok(Outcome::Moved) => sums = &whole,
                Err(error) => return self.abandon(number, item, error),
            }
        }
        self.abandon(number, item, "it changed each time while it was read; the standby keeps what it has")
    }

    /// Sends one file; the inner result is the file's, the outer one the connection's.
    fn large_once(
        &mut self,
        number: u32,
        fd: &OwnedFd,
        before: Stability,
        extents: &[Extent],
        sums: &BlockSums,
    ) -> Result<std::io::Result<Outcome>, WireError> {
        let source = OpenFile(fd.as_fd());
        self.send(Message::Begin { item: number, size_bytes: before.size_bytes, mtime: before.mtime })?;
        let digest = if sums.length == 0 {
            self.send_whole(source, extents, before.size_bytes)?
        } else {
            match find_unchanged(&source, extents, before.size_bytes, sums) {
                Ok((mut segments, digest)) => {
                    if self.transfer.in_place {
                        keep_ahead(&mut segments);
                    }
                    self.send_segments(number, source, &segments, sums)?.map(|()| digest)
                }
                Err(error) => Err(error),
            }
        };
        let digest = match digest {
            Ok(digest) => digest,
            // It became shorter under our hands.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(Ok(Outcome::Moved)),
            Err(error) => return Ok(Err(error)),
        };
        match stayed(fd, &before, &digest) {
            Ok(true) => {
                self.send(Message::End(digest))?;
                Ok(Ok(Outcome::Sent))
            }
            Ok(false) => Ok(Ok(Outcome::Moved)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn send_whole(
        &mut self,
        source: OpenFile<'_>,
        extents: &[Extent],
        length: u64,
    ) -> Result<std::io::Result<[u8; 32]>, WireError> {
        let mut hasher = ContentHasher::default();
        let mut position = 0;
        for extent in extents {
            if extent.offset > position {
                hasher.hole(extent.offset - position);
                self.send(Message::Hole(extent.offset - position))?;
            }
            if let Err(error) =
                self.send_data(source, extent.offset, extent.length, &mut |data| hasher.data(data))?
            {
                return Ok(Err(error));
            }
            position = extent.offset + extent.length;
        }
        if position < length {
            hasher.hole(length - position);
            self.send(Message::Hole(length - position))?;
        }
        Ok(Ok(hasher.finish()))
    }

    fn send_data(
        &mut self,
        source: OpenFile<'_>,
        offset: u64,
        length: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<std::io::Result<()>, WireError> {
        let (mut position, end) = (offset, offset + length);
        while position < end {
            let want = usize::try_from(end - position).unwrap_or(usize::MAX).min(DATA_BYTES);
            let mut data = vec![0; want];
            match read_full(source.0, &mut data, position) {
                Ok(read) if read == want => {}
                Ok(_) => return Ok(Err(std::io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Ok(Err(error.into())),
            }
            each(&data);
            self.transfer.monitor.transferred(want as u64);
            self.send(Message::Data(data))?;
            position += want as u64;
        }
        Ok(Ok(()))
    }

    /// Sends the segments in order, with the regions of several gaps refined ahead of them.
    fn send_segments(
        &mut self,
        number: u32,
        source: OpenFile<'_>,
        segments: &[Segment],
        sums: &BlockSums,
    ) -> Result<std::io::Result<()>, WireError> {
        let mut ahead = Refinements::new(number, if sums.fine.is_some() { &[] } else { segments });
        for segment in segments {
            let sent = match *segment {
                Segment::Copy { basis, length, .. } => {
                    self.transfer.monitor.transferred(length);
                    self.send(Message::Copy(basis, length))?;
                    Ok(())
                }
                Segment::Hole { length } => {
                    self.send(Message::Hole(length))?;
                    Ok(())
                }
                Segment::Gap { offset, length, region: None } => {
                    self.send_data(source, offset, length, &mut |_| ())?
                }
                Segment::Gap { offset, length, region: Some(region) } => {
                    let (region, signature) = match &sums.fine {
                        // It covers the whole of a short basis.
                        Some(_) if self.transfer.in_place => (region, RegionSignature::of(&[])),
                        Some(fine) => ((0, u32::try_from(sums.length).unwrap_or(u32::MAX)), fine.clone()),
                        None => (region, ahead.next(self)?),
                    };
                    self.send_patch(source, offset, length, region, &signature)?
                }
            };
            if sent.is_err() {
                // What was asked for still comes; it is taken, so that the lane is clear for the next file.
                ahead.drain(self)?;
                return Ok(sent);
            }
        }
        Ok(Ok(()))
    }

    fn send_patch(
        &mut self,
        source: OpenFile<'_>,
        offset: u64,
        length: u64,
        region: (u64, u32),
        signature: &RegionSignature,
    ) -> Result<std::io::Result<()>, WireError> {
        let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
        match read_full(source.0, &mut data, offset) {
            Ok(read) if read == data.len() => {}
            Ok(_) => return Ok(Err(std::io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Ok(Err(error.into())),
        }
        let delta = signature.diff(&data).map_err(|e| WireError::Protocol(e.to_string()))?;
        match delta {
            // A frame must hold it; what is that long has little in common with the region anyway.
            Some(delta) if delta.len() <= 2 * DATA_BYTES => {
                self.transfer.monitor.transferred(length);
                let made = u32::try_from(length).unwrap_or(u32::MAX);
                self.send(Message::Patch(region.0, region.1, made, delta))?;
                Ok(Ok(()))
            }
            _ => self.send_data(source, offset, length, &mut |_| ()),
        }
    }

    /// Reads the auth set under the password lock, and sends it when the lock is free again: production's users do not
    /// wait for the network. The receiver holds the files back until all are there.
    fn auth_set(&mut self, files: &[(u32, Item)]) -> Result<(), WireError> {
        let contents = PasswordLock::take(&self.transfer.view.root)
            .map_err(|error| format!("the password files are locked: {}", std::io::Error::from(error)))
            .and_then(|_lock| {
                files.iter().map(|(_, item)| self.read_auth(item)).collect::<Result<Vec<_>, _>>()
            });
        let contents = match contents {
            Ok(contents) => contents,
            Err(reason) => {
                return files.iter().try_for_each(|(number, item)| self.abandon(*number, item, &reason));
            }
        };
        for ((number, item), (before, content)) in files.iter().zip(contents) {
            let mut hasher = ContentHasher::default();
            hasher.data(&content);
            self.send(Message::Begin { item: *number, size_bytes: before.size_bytes, mtime: before.mtime })?;
            for data in content.chunks(DATA_BYTES) {
                self.transfer.monitor.transferred(data.len() as u64);
                self.send(Message::Data(data.to_vec()))?;
            }
            self.send(Message::End(hasher.finish()))?;
            self.transfer.monitor.changed(&item.path, &item.change);
        }
        Ok(())
    }

    /// Reads one file of the auth set whole.
    fn read_auth(&mut self, item: &Item) -> Result<(Stability, Vec<u8>), String> {
        /// Longer than any set of accounts, and short enough for memory.
        const LIMIT_BYTES: u64 = 64 << 20;
        let failed = |error: rustix::io::Errno| format!("{}: {}", item.path, std::io::Error::from(error));
        let fd = self.open(&item.path).map_err(failed)?;
        let before = Stability::of(fd.as_fd()).map_err(failed)?;
        if before.size_bytes > LIMIT_BYTES {
            return Err(format!("{} is longer than 64 MiB", item.path));
        }
        let mut content = vec![0; usize::try_from(before.size_bytes).unwrap_or(0)];
        let read = read_full(fd.as_fd(), &mut content, 0).map_err(failed)?;
        if read < content.len() || !Stability::of(fd.as_fd()).map_err(failed)?.same_as(&before) {
            return Err(format!("{} changed while the password lock was held", item.path));
        }
        Ok((before, content))
    }
}

/// Turns copies from before their own place into gaps: in place, that part of the basis is gone by then.
fn keep_ahead(segments: &mut [Segment]) {
    for segment in segments {
        match *segment {
            Segment::Copy { offset, basis, length } if basis < offset => {
                *segment = Segment::Gap { offset, length, region: None };
            }
            Segment::Gap { offset, length, region: Some((basis, _)) } if basis < offset => {
                *segment = Segment::Gap { offset, length, region: None };
            }
            _ => {}
        }
    }
}

/// Sends problems in messages that fit a frame.
pub(crate) fn send_problems(
    outgoing: &mut Outgoing,
    problems: Vec<crate::problem::Problem>,
) -> Result<(), WireError> {
    /// About how many bytes of problems go into one message.
    const MESSAGE_BYTES: usize = 256 * 1024;
    let (mut part, mut bytes) = (Vec::new(), 0);
    for problem in problems {
        let length = 16 + problem.path.as_bytes().len() + problem.reason.len();
        if bytes + length > MESSAGE_BYTES && !part.is_empty() {
            outgoing.send(CONTROL, Message::Problems(std::mem::take(&mut part)))?;
            bytes = 0;
        }
        bytes += length;
        part.push(problem);
    }
    if part.is_empty() { Ok(()) } else { outgoing.send(CONTROL, Message::Problems(part)) }
}
