//! The sender's side of the transfer: reads what the plan needs and sends it over the content lanes.
//!
//! Why: reading, digesting, compressing and sending overlap, and no file waits for another's round trip. Small files
//! travel many to a message; large ones have a lane to themselves until they end. What can go wrong: the source
//! lives. What is read is looked at before and after; what will not hold still is a problem, and the standby keeps
//! what it has.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use crate::apply::Problems;
use crate::delta::{BlockSums, ContentHasher};
use crate::monitor::Monitor;
use crate::plan::{Item, Plan};
use crate::problem::Operation;
use crate::scan::{READ_ATTEMPTS, Stability, View, digest_open, open_file, read_full};
use crate::session::auth::PasswordLock;
use crate::session::local::{is_apart, is_copied};
use crate::session::planner::is_delta_item;
use crate::session::queue::{Job, Queue};
use crate::session::receive::note_failure;
use crate::session::{SessionError, unexpected};
use crate::tree::RelPath;
use crate::wire::{CONTENT_LANES, CONTROL, Incoming, Message, MovedFile, Outgoing, SmallFile, WireError};

/// Files up to this length travel in batches.
const SMALL_BYTES: u64 = 128 * 1024;

/// About how much content goes into one message of small files.
const MESSAGE_BYTES: usize = 256 * 1024;

/// About how much content a lane takes at once: neighbours resemble each other, and compress best together.
const BATCH_BYTES: usize = 4 * MESSAGE_BYTES;

/// How many files it takes at most.
const BATCH_FILES: usize = 512;

/// How many files are in one message at most.
const MESSAGE_FILES: usize = 256;

/// How many bases are described at once at most: one in the plan's order, and one for each lane that asks again.
const DESCRIBED_AT_ONCE: usize = 1 + CONTENT_LANES as usize;

/// Bytes of one [`Message::Data`].
pub(super) const DATA_BYTES: usize = 256 * 1024;

/// What all lanes share.
pub(crate) struct Transfer<'a> {
    pub(crate) view: &'a View,
    pub(crate) plan: &'a Plan,
    pub(crate) delta: bool,
    /// Copies may only come from where the file has not been written over yet.
    pub(crate) in_place: bool,
    /// Items of which the receiver may have the content.
    pub(crate) left: &'a HashSet<u32>,
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
            } else if item.moved_from.is_some()
                || self.left.contains(&number) && !is_delta_item(&item, self.delta)
            {
                moved.push((number, item));
                if moved.len() >= MESSAGE_FILES {
                    queue.push(Job::Moved(std::mem::take(&mut moved)));
                }
            } else if !self.delta && is_copied(&item, self.in_place, is_apart(&self.view.rules, &item))
                || is_delta_item(&item, self.delta)
            {
                // Between two roots on one host the receiver helps itself; otherwise it waits for its basis.
            } else if item.entry.size_bytes > SMALL_BYTES {
                queue.push(Job::Large(number, Box::new(item)));
            } else {
                batch_bytes += usize::try_from(item.entry.size_bytes).unwrap_or(BATCH_BYTES);
                batch.push((number, item));
                if batch_bytes >= BATCH_BYTES || batch.len() >= BATCH_FILES {
                    queue.push(Job::Small(std::mem::take(&mut batch)));
                    batch_bytes = 0;
                }
            }
        }
        if !batch.is_empty() {
            queue.push(Job::Small(batch));
        }
        if !moved.is_empty() {
            queue.push(Job::Moved(moved));
        }
        if !auth.is_empty() {
            queue.push(Job::AuthSet(auth));
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
                    if !collecting.contains_key(&number) && collecting.len() >= DESCRIBED_AT_ONCE {
                        return Err(WireError::Protocol("too many bases at once".to_owned()).into());
                    }
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
                    if !queue.push_asked(number, item, sums) {
                        return Err(WireError::Protocol("too many bases at once".to_owned()).into());
                    }
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

    pub(super) fn open(&mut self, path: &RelPath) -> rustix::io::Result<OwnedFd> {
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

    pub(super) fn abandon(
        &mut self,
        number: u32,
        item: &Item,
        reason: impl std::fmt::Display,
    ) -> Result<(), WireError> {
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
                    batch_bytes += file.content.len();
                    batch.push(file);
                    // One more small file, and the frame's limit holds all the same.
                    if batch_bytes >= MESSAGE_BYTES || batch.len() >= MESSAGE_FILES {
                        self.send(Message::Files(std::mem::take(&mut batch)))?;
                        batch_bytes = 0;
                    }
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
            self.send(Message::Begin { item: *number, size_bytes: before.size_bytes, mtime: before.mtime })?;
            for data in content.chunks(DATA_BYTES) {
                self.transfer.monitor.transferred(data.len() as u64);
                hasher.data(data);
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
