//! The receiver's side: describes the standby, judges the plan by its own rules, and carries it out.
//!
//! Why: the sender decides what changes, but the standby decides what may. What can go wrong: everything that comes
//! from the sender may be wrong or hostile; a plan with one item out of scope is turned away as a whole, before
//! anything is touched.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use rustix::fs::{Mode, OFlags, openat};

use crate::apply::{Committer, Directories, Directory, FileWriter, NamesOf, Problems, WriteError};
use crate::delta::{BlockSums, RegionSignature, sum_blocks};
use crate::monitor::Monitor;
use crate::plan::{Change, Item, Plan};
use crate::problem::Operation;
use crate::rules::{RuleSet, Scope};
use crate::scan::{OpenFile, Root, Stability, View};
use crate::session::SessionError;
use crate::session::auth::{PasswordLock, defect};
use crate::session::planner::is_delta_item;
use crate::tree::{Kind, RelPath};
use crate::wire::{CONTENT_LANES, CONTROL, Incoming, Message, Outgoing, SmallFile, Start, WireError};

/// How many basis files may be described before the first of them is settled.
const BASES_AHEAD: usize = 4;

/// Blocks described by one message.
const SUMS_PER_MESSAGE: usize = 32 * 1024;

/// How many regions one message may ask about.
const REGIONS_LIMIT: usize = 1024;

/// Signatures in one message.
const SIGNATURES_PER_MESSAGE: usize = 64;

/// Checks every item of a received plan against the rules and boundaries of the run, and against `own`, which the
/// sender had no part in: the stricter verdict holds.
///
/// # Errors
/// [`WireError::Protocol`] naming the first item that an honest sender would not have planned.
pub(crate) fn check_plan(view: &View, own: &RuleSet, plan: &Plan) -> Result<(), WireError> {
    let in_scope = |path: &RelPath, kind: Kind, may_be_place: bool| {
        let is_directory = kind == Kind::Directory;
        let (agreed, own) =
            (view.rules.decide(path, is_directory).scope, own.decide(path, is_directory).scope);
        let scope = if own == Scope::In {
            agreed
        } else if agreed == Scope::Out {
            Scope::Out
        } else {
            own
        };
        let mut at = path.parent();
        while let Some(ancestor) = at {
            if view.boundaries.barriers.contains(&ancestor) {
                return false;
            }
            at = ancestor.parent();
        }
        let barrier = view.boundaries.barriers.contains(path);
        match scope {
            Scope::In => !barrier || (may_be_place && is_directory),
            Scope::Implied | Scope::Empty => may_be_place && is_directory,
            Scope::Out => false,
        }
    };
    for item in plan.items() {
        let creates = item.change == Change::Create;
        let old_kind = match item.change {
            Change::Replace(kind) => kind,
            _ => item.entry.kind,
        };
        let allowed = in_scope(&item.path, item.entry.kind, creates)
            && in_scope(&item.path, old_kind, creates)
            && item.link_to.as_ref().is_none_or(|leader| in_scope(leader, item.entry.kind, false));
        if !allowed {
            return Err(WireError::Protocol(format!(
                "the plan names {}, which is out of scope here",
                item.path
            )));
        }
    }
    Ok(())
}

/// Keeps the first failure of several threads; one that panicked has failed.
pub(crate) fn note_failure(
    failed: &mut Option<WireError>,
    ended: std::thread::Result<Result<(), WireError>>,
) {
    let error = match ended {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => WireError::Protocol("a thread failed".to_owned()),
    };
    failed.get_or_insert(error);
}

/// What was carried out.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) literal_bytes: u64,
    pub(crate) copied_bytes: u64,
}

/// Carries out an approved plan.
pub(crate) struct Receiver<'a> {
    pub(crate) view: &'a View,
    pub(crate) plan: &'a Plan,
    pub(crate) committer: Committer,
    pub(crate) delta: bool,
    in_place: bool,
    pub(crate) monitor: &'a dyn Monitor,
    /// Items that need content, by number.
    pub(crate) items: HashMap<u32, Item>,
    /// Items of the auth set that are complete but wait for each other.
    auth: Mutex<AuthSet>,
    /// Items that are dealt with, by number.
    done: Mutex<HashSet<u32>>,
    literal_bytes: AtomicU64,
    copied_bytes: AtomicU64,
    credit: Credit,
    retried: Mutex<HashSet<u32>>,
}

#[derive(Default)]
struct AuthSet {
    expected: usize,
    failed: bool,
    files: Vec<(Item, FileWriter, [u8; 32])>,
}

/// Lets the summing of bases run only so far ahead.
#[derive(Default)]
struct Credit {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Credit {
    /// Waits until fewer than [`BASES_AHEAD`] are under way; false when it is over.
    fn take(&self) -> bool {
        let Ok(mut state) = self.state.lock() else { return false };
        while state.0 >= BASES_AHEAD && !state.1 {
            match self.changed.wait(state) {
                Ok(waited) => state = waited,
                Err(_) => return false,
            }
        }
        state.0 += 1;
        !state.1
    }

    fn give_back(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.0 = state.0.saturating_sub(1);
        }
        self.changed.notify_all();
    }

    fn end(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.1 = true;
        }
        self.changed.notify_all();
    }
}

impl<'a> Receiver<'a> {
    pub(crate) fn new(
        view: &'a View,
        plan: &'a Plan,
        directories: Directories,
        problems: &Arc<Problems>,
        names_of: NamesOf,
        start: &Start,
        monitor: &'a dyn Monitor,
    ) -> Self {
        let items: HashMap<u32, Item> =
            (0..).zip(plan.items()).filter(|(_, item)| item.needs_content()).collect();
        let is_auth = |item: &Item| view.rules.decide(&item.path, false).auth_set;
        let expected = items.values().filter(|item| is_auth(item)).count();
        Self {
            view,
            plan,
            committer: Committer::new(Arc::new(directories), Arc::clone(problems), names_of, start.durable),
            delta: start.delta,
            in_place: start.in_place,

            monitor,
            done: Mutex::default(),
            items,
            auth: Mutex::new(AuthSet { expected, ..AuthSet::default() }),
            literal_bytes: AtomicU64::new(0),
            copied_bytes: AtomicU64::new(0),
            credit: Credit::default(),
            retried: Mutex::default(),
        }
    }

    /// Runs the plan to its end.
    ///
    /// # Errors
    /// When the connection fails, or what was written cannot be made durable.
    pub(crate) fn run(&self, outgoing: &Outgoing, lanes: &mut [Incoming]) -> Result<Done, SessionError> {
        self.make_way();
        self.directories();
        self.without_content();
        if !self.items.is_empty() {
            self.content(outgoing, lanes)?;
        }
        self.committer.flush();
        self.plan.items().filter(|item| item.link_to.is_some()).for_each(|item| self.committer.link(&item));
        self.delete();
        self.finish_directories();
        self.committer.finish().map_err(|error| SessionError::Fatal {
            operation: "flush the standby to stable storage",
            reason: std::io::Error::from(error).to_string(),
        })?;
        Ok(Done {
            literal_bytes: self.literal_bytes.load(Ordering::Relaxed),
            copied_bytes: self.copied_bytes.load(Ordering::Relaxed),
        })
    }

    /// Empties and removes directories that become something else. What is in them is in the plan, too, as deletions;
    /// nothing that the plan does not name is removed.
    fn make_way(&self) {
        let replaced = self.replaced_directories();
        if replaced.is_empty() {
            return;
        }
        for item in self.plan.items().filter(|item| matches!(item.change, Change::Delete(_))) {
            if replaced.iter().any(|replaced| item.path.starts_with(&replaced.path)) {
                self.committer.delete(&item);
            }
        }
        for mut item in replaced {
            (item.change, item.entry.kind) = (Change::Delete(Kind::Directory), Kind::Directory);
            self.committer.delete(&item);
        }
    }

    fn directories(&self) {
        for item in self.plan.items().filter(|item| item.entry.kind == Kind::Directory) {
            if matches!(item.change, Change::Create | Change::Replace(_)) {
                self.committer.make_directory(&item);
            }
        }
    }

    fn without_content(&self) {
        for item in self.plan.items() {
            let deleted = matches!(item.change, Change::Delete(_));
            if deleted || item.entry.kind == Kind::Directory || item.needs_content() || item.link_to.is_some()
            {
                continue;
            }
            self.committer.without_content(&item);
            self.monitor.changed(&item.path, &item.change);
        }
    }

    /// Deletes last, and not at all when something could not be made: what is to be deleted may be the only copy of
    /// what was moved.
    fn delete(&self) {
        // What was in the way of something else is gone already.
        let replaced = self.replaced_directories();
        let left = |item: &Item| {
            let deleted = matches!(item.change, Change::Delete(_));
            deleted && !replaced.iter().any(|replaced| item.path.starts_with(&replaced.path))
        };
        let count = self.plan.items().filter(left).count();
        if count > 0 && self.committer.failed_any() {
            let reason = format!("{count} deletions were put off, because not everything could be made");
            return self.committer.problems.note(&RelPath::root(), Operation::Delete, reason);
        }
        for item in self.plan.items().filter(left) {
            self.committer.delete(&item);
            self.monitor.changed(&item.path, &item.change);
        }
    }

    fn replaced_directories(&self) -> Vec<Item> {
        self.plan.items().filter(|item| item.change == Change::Replace(Kind::Directory)).collect()
    }

    fn finish_directories(&self) {
        let directories: Vec<Item> = self
            .plan
            .items()
            .filter(|item| item.entry.kind == Kind::Directory && !matches!(item.change, Change::Delete(_)))
            .collect();
        directories.iter().rev().for_each(|item| self.committer.finish_directory(item));
        let planned: HashSet<RelPath> = directories.into_iter().map(|item| item.path).collect();
        self.committer.directories.settle(&planned, &self.committer.problems);
    }

    /// Receives all content.
    fn content(&self, outgoing: &Outgoing, lanes: &mut [Incoming]) -> Result<(), SessionError> {
        let Some((_, content)) = lanes.split_first_mut() else { return Ok(()) };
        std::thread::scope(|scope| {
            let summing = scope.spawn(|| self.describe_bases(outgoing.clone()));
            let workers: Vec<_> = (1..=CONTENT_LANES)
                .zip(content)
                .map(|(number, incoming)| {
                    let outgoing = outgoing.clone();
                    scope.spawn(move || {
                        let lane = Lane {
                            receiver: self,
                            number,
                            outgoing,
                            incoming: &mut *incoming,
                            parent: None,
                            current: None,
                        };
                        let result = lane.work();
                        if let Err(error) = &result {
                            incoming.fail(error);
                            self.credit.end();
                        }
                        result
                    })
                })
                .collect();
            let mut failed = None;
            for worker in workers {
                note_failure(&mut failed, worker.join());
            }
            self.credit.end();
            note_failure(&mut failed, summing.join());
            let done = self.done.lock().map_or(0, |done| done.len());
            if failed.is_none() && done < self.items.len() {
                failed =
                    Some(WireError::Protocol("the sender ended before all content was there".to_owned()));
            }
            failed.map_or(Ok(()), |error| Err(error.into()))
        })
    }

    /// Describes the basis of every delta item, in the plan's order.
    fn describe_bases(&self, mut outgoing: Outgoing) -> Result<(), WireError> {
        for (number, item) in (0..).zip(self.plan.items()) {
            if !is_delta_item(&item, self.delta) || self.view.rules.decide(&item.path, false).auth_set {
                continue;
            }
            if !self.credit.take() {
                return Ok(());
            }
            let sums = self.sum_basis(&item.path).unwrap_or_default();
            for (part, more) in sums.parts(SUMS_PER_MESSAGE) {
                outgoing.send(CONTROL, Message::Basis(number, part, more))?;
            }
        }
        Ok(())
    }

    fn open_basis(&self, path: &RelPath) -> rustix::io::Result<OwnedFd> {
        let directory = self.view.root.hold_directory(&path.parent().unwrap_or_default())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        openat(directory, path.name().unwrap_or_default(), flags, Mode::empty())
    }

    fn sum_basis(&self, path: &RelPath) -> std::io::Result<BlockSums> {
        /// A shorter basis has nothing worth finding.
        const BASIS_FROM_BYTES: u64 = 4096;
        let fd = self.open_basis(path)?;
        let before = Stability::of(fd.as_fd())?;
        if before.size_bytes < BASIS_FROM_BYTES {
            return Ok(BlockSums::default());
        }
        sum_blocks(&OpenFile(fd.as_fd()), before.size_bytes)
    }

    /// Counts an item as dealt with; the last one tells the sender that nothing more is needed.
    fn settled(&self, number: u32, item: &Item, outgoing: &mut Outgoing) -> Result<(), WireError> {
        if is_delta_item(item, self.delta) {
            self.credit.give_back();
        }
        let Ok(mut done) = self.done.lock() else { return Ok(()) };
        if !done.insert(number) {
            return Err(WireError::Protocol(format!("item {number} came twice")));
        }
        let all = done.len() == self.items.len();
        drop(done);
        if all {
            outgoing.send(CONTROL, Message::Settled)?;
        }
        Ok(())
    }

    /// Takes a finished file of the auth set, or notes that one cannot be had; the last one decides over all.
    fn auth_file(&self, file: Option<(Item, FileWriter, [u8; 32])>) {
        let Ok(mut auth) = self.auth.lock() else { return };
        auth.expected = auth.expected.saturating_sub(1);
        auth.failed |= file.is_none();
        auth.files.extend(file);
        if auth.expected > 0 {
            return;
        }
        let files = std::mem::take(&mut auth.files);
        let refused = if auth.failed {
            Some("a file of the set cannot be had".to_owned())
        } else {
            self.swap_auth(files)
        };
        if let Some(reason) = refused {
            let reason = format!("{reason}; the standby keeps all its password files");
            for item in self.items.values().filter(|item| self.view.rules.decide(&item.path, false).auth_set)
            {
                self.committer.fail(&item.path, Operation::Write, &reason);
            }
        }
    }

    /// Checks the new set and swaps it in under the standby's password lock; gives the reason when it does not.
    fn swap_auth(&self, files: Vec<(Item, FileWriter, [u8; 32])>) -> Option<String> {
        let directory = files.first().and_then(|(item, ..)| item.path.parent())?;
        let old = |name: &str| {
            let fd = self.open_basis(&directory.join(name.as_bytes())).ok()?;
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut content).ok().map(|_| content)
        };
        let staged: HashMap<Vec<u8>, Vec<u8>> = files
            .iter()
            .filter_map(|(item, writer, _)| Some((item.path.name()?.to_vec(), writer.read_back().ok()?)))
            .collect();
        let new = |name: &str| staged.get(name.as_bytes()).cloned().or_else(|| old(name));
        let lock = match PasswordLock::take(&self.view.root) {
            Ok(lock) => lock,
            Err(error) => {
                return Some(format!(
                    "the standby's password files are locked: {}",
                    std::io::Error::from(error)
                ));
            }
        };
        if let Some(defect) = defect(&new, &old) {
            return Some(defect);
        }
        let swapped = self.committer.place_together(files);
        drop(lock);
        swapped.err()
    }
}

/// One content lane.
struct Lane<'a> {
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

impl Lane<'_> {
    fn work(mut self) -> Result<(), WireError> {
        loop {
            match self.incoming.receive(self.receiver.monitor)? {
                Message::Files(files) => files.iter().try_for_each(|file| self.small(file))?,
                Message::Begin { item, size_bytes, mtime } => {
                    let mut planned = self.item(item)?;
                    (planned.entry.size_bytes, planned.entry.mtime) = (size_bytes, mtime);
                    let writer = self.begin(&planned);
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
                    self.receiver.settled(number, &item, &mut self.outgoing)?;
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
        let known = self.receiver.items.get(&number).cloned();
        known.ok_or_else(|| WireError::Protocol(format!("content for item {number}")))
    }

    fn directory(&mut self, path: &RelPath) -> rustix::io::Result<Arc<Directory>> {
        let parent = path.parent().unwrap_or_default();
        match &self.parent {
            Some((held, directory)) if *held == parent => Ok(Arc::clone(directory)),
            _ => {
                let directory = self.receiver.committer.directories.open(&parent)?;
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
                self.receiver.committer.place_file(&item, writer, None)
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
            Err(error) => self.receiver.committer.fail(&item.path, Operation::Write, error),
        }
        self.receiver.settled(file.item, &item, &mut self.outgoing)
    }

    fn begin(&mut self, item: &Item) -> Result<FileWriter, WriteError> {
        let directory = self.directory(&item.path)?;
        if self.receiver.in_place
            && let Some(file) = self.receiver.committer.open_in_place(item, &directory)
        {
            return Ok(FileWriter::in_place(file)?);
        }
        let updates = matches!(item.change, Change::Update(_));
        let basis = if updates { self.receiver.open_basis(&item.path).ok() } else { None };
        Ok(FileWriter::create(&self.receiver.committer.directories, &directory, basis)?)
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
                current.writer = Err(error);
            }
        }
        Ok(())
    }

    fn refine(&mut self, number: u32, regions: &[(u64, u32)]) -> Result<(), WireError> {
        let Some(current) = self.current.as_ref().filter(|current| current.number == number) else {
            return Err(WireError::Protocol("a refinement without its file".to_owned()));
        };
        if regions.len() > REGIONS_LIMIT {
            return Err(WireError::Protocol("a refinement of too many regions".to_owned()));
        }
        let signatures: Vec<RegionSignature> = regions
            .iter()
            .map(|(offset, length)| {
                let region =
                    current.writer.as_ref().ok().and_then(|writer| writer.region(*offset, *length).ok());
                RegionSignature::of(&region.unwrap_or_default())
            })
            .collect();
        let mut parts = signatures.chunks(SIGNATURES_PER_MESSAGE).peekable();
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
            let (literal, copied) = (writer.literal_bytes, writer.copied_bytes);
            if auth {
                receiver.auth_file(Some((item.clone(), writer, digest)));
            } else {
                receiver.committer.place_file(&item, writer, Some(digest))?;
            }
            receiver.literal_bytes.fetch_add(literal, Ordering::Relaxed);
            receiver.copied_bytes.fetch_add(copied, Ordering::Relaxed);
            Ok(())
        });
        match result {
            Ok(()) => receiver.monitor.changed(&item.path, &item.change),
            Err(WriteError::Mismatch | WriteError::Delta(_)) if !auth && self.retry(number) => {
                return self.outgoing.send(CONTROL, Message::Basis(number, BlockSums::default(), false));
            }
            Err(error) => {
                receiver.committer.fail(&item.path, Operation::Write, error);
                if auth {
                    receiver.auth_file(None);
                }
            }
        }
        receiver.settled(number, &item, &mut self.outgoing)
    }

    /// Whether an item that came out wrong may be asked for once more.
    fn retry(&self, number: u32) -> bool {
        self.receiver.retried.lock().is_ok_and(|mut retried| retried.insert(number))
    }
}

/// Takes the exclusive lock of a standby root (flock(2) on the directory itself, so nothing is created); it is held as
/// long as the descriptor.
pub(crate) fn lock_root(root: &Root) -> Result<OwnedFd, SessionError> {
    let path = crate::tree::escape(root.path().as_os_str().as_encoded_bytes());
    let fatal = |error: rustix::io::Errno| SessionError::Fatal {
        operation: "lock the standby root",
        reason: std::io::Error::from(error).to_string(),
    };
    let fd = root.open_directory(&RelPath::root()).map_err(fatal)?;
    match rustix::fs::flock(&fd, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fd),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SessionError::Busy(path)),
        Err(error) => Err(fatal(error)),
    }
}
