//! The receiver's side: describes the standby, judges the plan by its own rules, and carries it out.
//!
//! Why: the sender decides what changes, but the standby decides what may. What can go wrong: everything that comes
//! from the sender may be wrong or hostile; a plan with one item out of scope is turned away as a whole, before
//! anything is touched.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, openat};

use crate::apply::Committer;
use crate::monitor::Monitor;
use crate::plan::{Change, Item, Plan};
use crate::prepare::{self, Standby, is_for_boot, kernel_of};
use crate::problem::Operation;
use crate::rules::RuleSet;
use crate::scan::View;
use crate::session::SessionError;
use crate::session::auth_set::AuthSet;
use crate::session::basis::Basis;
use crate::session::credit::Credit;
use crate::session::local::LocalSource;
use crate::session::planner::is_delta_item;
use crate::session::receive_lane::Lane;
use crate::tree::{Kind, RelPath};
use crate::wire::{CONTENT_LANES, CONTROL, Incoming, Message, Outgoing, Start, WireError};

/// Blocks described by one message.
const SUMS_PER_MESSAGE: usize = 32 * 1024;

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
    pub(crate) generation: Option<u64>,
}

/// Carries out an approved plan.
pub(crate) struct Receiver<'a> {
    pub(crate) view: &'a View,
    pub(crate) plan: &'a Plan,
    pub(crate) committer: Committer,
    pub(crate) delta: bool,
    pub(super) in_place: bool,
    pub(crate) monitor: &'a dyn Monitor,
    /// How many items need content.
    needing: usize,
    /// Where the content is, when both roots are on this host.
    source: Option<LocalSource<'a>>,
    /// Where content of items may be that an interrupted run had staged.
    left: HashMap<u32, RelPath>,
    /// What makes the root a standby, and the rules that it holds to.
    pub(super) standby: Option<(&'a Standby, &'a RuleSet)>,
    /// Items of the auth set that are complete but wait for each other.
    pub(super) auth: Mutex<AuthSet>,
    /// Items that are dealt with, by number.
    done: Mutex<HashSet<u32>>,
    pub(super) literal_bytes: AtomicU64,
    pub(super) copied_bytes: AtomicU64,
    credit: Credit,
    pub(super) retried: Mutex<HashSet<u32>>,
    /// Bases that are described and wait for their content, by item.
    pub(super) bases: Mutex<HashMap<u32, Basis>>,
}

impl<'a> Receiver<'a> {
    pub(crate) fn new(
        view: &'a View,
        plan: &'a Plan,
        committer: Committer,
        start: &Start,
        source: Option<LocalSource<'a>>,
        standby: Option<(&'a Standby, &'a RuleSet)>,
        monitor: &'a dyn Monitor,
    ) -> Self {
        let is_auth = |item: &Item| view.rules.decide(&item.path, false).auth_set;
        let (mut needing, mut expected) = (0, 0);
        for item in plan.items().filter(Item::needs_content) {
            needing += 1;
            expected += usize::from(is_auth(&item));
        }
        Self {
            view,
            plan,
            committer,
            delta: start.delta,
            in_place: start.in_place,
            left: HashMap::new(),
            source,
            standby,
            monitor,
            done: Mutex::default(),
            needing,
            auth: Mutex::new(AuthSet::of(expected)),
            literal_bytes: AtomicU64::new(0),
            copied_bytes: AtomicU64::new(0),
            credit: Credit::default(),
            retried: Mutex::default(),
            bases: Mutex::default(),
        }
    }

    /// Lets content be taken from there that an interrupted run had staged, by item.
    pub(crate) fn resuming(self, left: HashMap<u32, RelPath>) -> Self {
        Self { left, ..self }
    }

    /// Where the content of an item may be already, under another name.
    pub(super) fn from(&self, number: u32, item: &Item) -> Option<RelPath> {
        item.moved_from.clone().or_else(|| self.left.get(&number).cloned())
    }

    /// Makes what needs no content, and receives the content.
    ///
    /// # Errors
    /// When the connection fails, or what will be needed after the run cannot be written down.
    pub(crate) fn receive(&self, outgoing: &Outgoing, lanes: &mut [Incoming]) -> Result<(), SessionError> {
        self.intend()?;
        self.make_way();
        self.directories();
        self.without_content();
        if self.needing > 0 {
            self.content(outgoing, lanes).map_err(|error| self.no_room().unwrap_or(error))?;
        }
        Ok(())
    }

    /// Whether nothing more needs to come: a run that changes all or nothing cannot have all.
    pub(super) fn is_out_of_room(&self) -> bool {
        self.committer.is_whole() && self.committer.without_room().is_some()
    }

    fn no_room(&self) -> Option<SessionError> {
        let path = self.committer.without_room().filter(|_| self.committer.is_whole())?;
        Some(stopped(format!("there is no room for {path}: make room on its filesystem")))
    }

    /// Carries out the rest of the plan. In a run that changes all or nothing `may_commit` has the last word.
    ///
    /// # Errors
    /// When what was written cannot be made durable, or the last word is no.
    pub(crate) fn finish(
        &self,
        may_commit: &mut dyn FnMut() -> Result<(), SessionError>,
    ) -> Result<Done, SessionError> {
        self.committer.flush();
        // A name that is replaced by a link gets an inode that came now, and that nothing has made durable yet.
        let replaces = |item: &Item| item.link_to.is_some() && item.change != Change::Create;
        if self.plan.items().any(|item| replaces(&item)) {
            self.committer.flush_all().map_err(|error| SessionError::Fatal {
                operation: "flush what was written",
                reason: std::io::Error::from(error).to_string(),
            })?;
        }
        self.plan.items().filter(|item| item.link_to.is_some()).for_each(|item| self.link(&item));
        self.commit(may_commit)?;
        self.remember();
        // What the next boot needs is made before anything goes that the last one needed.
        let bootable = self.follow(is_for_boot);
        let kernels_gone = self.delete(bootable);
        if bootable && kernels_gone {
            self.forget_kernels();
        }
        self.follow(|follow| bootable || !is_for_boot(follow));
        self.finish_directories();
        self.committer.finish().map_err(|error| SessionError::Fatal {
            operation: "flush the standby to stable storage",
            reason: std::io::Error::from(error).to_string(),
        })?;
        self.committer.conclude().map_err(|error| unfinished(&error))?;
        Ok(Done {
            literal_bytes: self.literal_bytes.load(Ordering::Relaxed),
            copied_bytes: self.copied_bytes.load(Ordering::Relaxed),
            generation: self.committer.generation(),
        })
    }

    /// In a run that changes all or nothing, puts everything in its place: up to here nothing was changed.
    fn commit(&self, may_commit: &mut dyn FnMut() -> Result<(), SessionError>) -> Result<(), SessionError> {
        if !self.committer.is_whole() || self.plan.is_empty() {
            return Ok(());
        }
        if let Some(error) = self.no_room() {
            return Err(error);
        }
        self.committer.give_up_unreachable();
        let is_critical = |path: &RelPath| is_system(path) || self.view.rules.decide(path, false).auth_set;
        if let Some(path) = self.committer.failed().into_iter().find(is_critical) {
            let reason = format!("{path} could not be brought, and the system would be half of another one");
            return Err(stopped(reason));
        }
        // A directory stays when what was to take its place cannot be had.
        self.replaced_directories().iter().for_each(|item| self.committer.keep_if_failed(&item.path));
        // Now, so that little is left to be done between the answer and the first change.
        self.committer
            .directories
            .flush()
            .map_err(|error| stopped(std::io::Error::from(error).to_string()))?;
        may_commit()?;
        // Readers that take the lock see all of the set from before or all of it from after.
        let set = self.auth.lock().map(|mut auth| auth.take()).unwrap_or_default();
        let _lock = match set.is_empty() {
            true => None,
            false => {
                let lock = self.admit_auth(&set).map_err(stopped)?;
                self.committer.place_together(set).map_err(stopped)?;
                Some(lock)
            }
        };
        if !self.committer.failed_any() {
            self.deletions().for_each(|item| self.committer.plan_removal(&item));
        }
        let directories = self.plan.items().filter(|item| item.entry.kind == Kind::Directory);
        directories
            .filter(|item| !matches!(item.change, Change::Delete(_)))
            .for_each(|item| self.committer.plan_directory(&item));
        self.committer.commit().map_err(|error| match self.committer.is_untouched() {
            true => stopped(error.to_string()),
            false => unfinished(&error),
        })
    }

    /// What is deleted at the end; what was in the way of something else is gone already.
    fn deletions(&self) -> impl Iterator<Item = Item> {
        let replaced = self.replaced_directories();
        self.plan.items().filter(move |item| {
            let deleted = matches!(item.change, Change::Delete(_));
            deleted && !replaced.iter().any(|replaced| item.path.starts_with(&replaced.path))
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
        let is_one = |item: &Item| {
            let deleted = matches!(item.change, Change::Delete(_));
            !deleted && item.entry.kind != Kind::Directory && !item.needs_content() && item.link_to.is_none()
        };
        self.plan.items().filter(is_one).par_bridge().for_each(|item| {
            self.committer.without_content(&item);
            self.monitor.changed(&item.path, &item.change);
        });
    }

    /// Deletes last, and not at all when something could not be made: what is to be deleted may be the only copy of
    /// what was moved.
    ///
    /// Kernels stay while what the next boot needs is not there (`bootable`), and so does the one that is running. True
    /// when kernels were deleted.
    fn delete(&self, bootable: bool) -> bool {
        let count = self.deletions().count();
        if count > 0 && self.committer.failed_any() {
            let reason = format!("{count} deletions were put off, because not everything could be made");
            self.committer.problems.note(&RelPath::root(), Operation::Delete, reason);
            return false;
        }
        let running = self.standby.and_then(|(standby, _)| standby.running_kernel());
        let (mut kept, mut gone) = (BTreeSet::new(), false);
        for item in self.deletions() {
            if let Some(kernel) = self.standby.and_then(|_| kernel_of(&item.path)) {
                if !bootable || running.as_ref() == Some(&kernel) {
                    kept.insert(kernel);
                    continue;
                }
                gone = true;
            }
            self.committer.delete(&item);
            self.monitor.changed(&item.path, &item.change);
        }
        for kernel in kept {
            let reason = if bootable {
                format!(
                    "kernel {kernel} is running here; boot into the new one, and the next sync removes it"
                )
            } else {
                format!("kernel {kernel} stays until what the next boot needs has been made")
            };
            self.committer.problems.note(&prepare::path("boot"), Operation::Delete, reason);
        }
        gone
    }

    fn replaced_directories(&self) -> Vec<Item> {
        self.plan.items().filter(|item| item.change == Change::Replace(Kind::Directory)).collect()
    }

    fn finish_directories(&self) {
        let mut directories: Vec<Item> = self
            .plan
            .items()
            .filter(|item| item.entry.kind == Kind::Directory && !matches!(item.change, Change::Delete(_)))
            .collect();
        // The deepest first: without privilege what is in a closed directory cannot be reached.
        let depth = |item: &Item| std::cmp::Reverse(item.path.components().count());
        directories.sort_by_key(depth);
        for level in directories.chunk_by(|a, b| depth(a) == depth(b)) {
            level.par_iter().for_each(|item| self.committer.finish_directory(item));
        }
        let mut planned: HashSet<RelPath> = directories.into_iter().map(|item| item.path).collect();
        // What could not be done to one is a problem, and it is put back with the others.
        for path in self.committer.failed() {
            planned.remove(&path);
        }
        self.committer.directories.settle(&planned, &self.committer.problems);
    }

    /// Receives all content.
    fn content(&self, outgoing: &Outgoing, lanes: &mut [Incoming]) -> Result<(), SessionError> {
        let Some((_, content)) = lanes.split_first_mut() else { return Ok(()) };
        std::thread::scope(|scope| {
            let summing = scope.spawn(|| match &self.source {
                Some(source) => source.copy_all(self, outgoing),
                None => self.describe_bases(outgoing.clone()),
            });
            let workers: Vec<_> = (1..=CONTENT_LANES)
                .zip(content)
                .map(|(number, incoming)| {
                    let outgoing = outgoing.clone();
                    scope.spawn(move || {
                        let result = Lane::new(self, number, outgoing, &mut *incoming).work();
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
            if failed.is_none() && done < self.needing {
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
            if !self.credit.take(number) {
                return Ok(());
            }
            let described = self.open_basis(&item.path).map_err(Into::into).and_then(Basis::describe);
            let (sums, basis) = described.unwrap_or_default();
            if let Ok(mut bases) = self.bases.lock() {
                bases.extend(basis.map(|basis| (number, basis)));
            }
            for (part, more) in sums.parts(SUMS_PER_MESSAGE) {
                outgoing.send(CONTROL, Message::Basis(number, part, more))?;
            }
        }
        Ok(())
    }

    pub(super) fn open_basis(&self, path: &RelPath) -> rustix::io::Result<OwnedFd> {
        let directory = self.view.root.hold_directory(&path.parent().unwrap_or_default())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        openat(directory, path.name().unwrap_or_default(), flags, Mode::empty())
    }

    /// Counts bytes of content that were taken from the source.
    pub(super) fn count_literal(&self, bytes: u64) {
        self.literal_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The item with this number, if it needs content.
    pub(super) fn item(&self, number: u32) -> Option<Item> {
        self.plan.item(number).filter(Item::needs_content)
    }

    /// Counts an item as dealt with; the last one tells the sender that nothing more is needed.
    pub(super) fn settled(&self, number: u32, outgoing: &mut Outgoing) -> Result<(), WireError> {
        if self.credit.give_back(number)
            && let Ok(mut bases) = self.bases.lock()
        {
            bases.remove(&number);
        }
        let Ok(mut done) = self.done.lock() else { return Ok(()) };
        if !done.insert(number) {
            return Err(WireError::Protocol(format!("item {number} came twice")));
        }
        let all = done.len() == self.needing;
        drop(done);
        if all {
            outgoing.send(CONTROL, Message::Settled)?;
        }
        Ok(())
    }
}

/// Paths of which a standby must not have some from before a run and some from after it.
fn is_system(path: &RelPath) -> bool {
    const CRITICAL: [&[u8]; 12] = [
        b"boot",
        b"lib",
        b"lib32",
        b"lib64",
        b"usr/lib",
        b"usr/lib32",
        b"usr/lib64",
        b"var/lib/dpkg",
        b"var/lib/rpm",
        b"usr/lib/sysimage/rpm",
        b"var/lib/pacman",
        b"var/sadm",
    ];
    let below =
        |top: &[u8]| path.as_bytes().strip_prefix(top).is_some_and(|rest| rest.first() == Some(&b'/'));
    CRITICAL.iter().any(|top| below(top))
}

/// Why a run that changes all or nothing ended before it changed anything.
fn stopped(reason: String) -> SessionError {
    SessionError::Fatal { operation: "commit the run, and nothing was changed", reason }
}

fn unfinished(error: &std::io::Error) -> SessionError {
    SessionError::Fatal { operation: "finish the run", reason: error.to_string() }
}
