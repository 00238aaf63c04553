//! Content of a run whose two roots are on one host: the receiver takes it from the source itself.
//!
//! Why: to pass it through messages would read, digest and copy everything twice. What can go wrong: what the sender's
//! reading meets as well, a source that changes; it is read again, and after that a problem.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rayon::prelude::*;

use crate::apply::{Copied, Directory, WriteError};
use crate::monitor::Monitor;
use crate::plan::{Change, Item};
use crate::problem::Operation;
use crate::rules::RuleSet;
use crate::scan::{READ_ATTEMPTS, Root, Stability, open_file};
use crate::session::receive::Receiver;
use crate::tree::RelPath;
use crate::wire::{Outgoing, WireError};

/// How many files one task copies at most, neighbours in one directory.
const FILES_AT_ONCE: usize = 64;

/// The monitor of the other end of a local run: what both ends would say is said once, by the sender.
pub(crate) struct Quiet<'a>(pub(crate) &'a dyn Monitor);

impl Monitor for Quiet<'_> {
    fn scanned(&self, entries: u64) {
        self.0.scanned(entries);
    }
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// Where the receiver finds the source of a local run.
#[derive(Clone)]
pub(crate) struct LocalSource<'a> {
    pub(crate) root: Arc<Root>,
    /// Who hears of what is copied; the receiver's own monitor is silent in such a run.
    pub(crate) monitor: &'a dyn Monitor,
}

/// Whether the receiver of a local run copies this item itself; not what is written into an existing file.
pub(crate) fn is_copied(item: &Item, in_place: bool, apart: bool) -> bool {
    let new = !(in_place && matches!(item.change, Change::Update(_)));
    item.needs_content() && item.moved_from.is_none() && !apart && new
}

/// Whether a file goes through the sender all the same: it is one of a set, or something is made from it.
pub(crate) fn is_apart(rules: &RuleSet, item: &Item) -> bool {
    rules.decide(&item.path, false).auth_set || rules.substitution(&item.path).is_some()
}

impl LocalSource<'_> {
    /// Copies everything that [`is_copied`] says.
    ///
    /// # Errors
    /// When the other end cannot be told that all is settled, or the monitor asks to stop.
    pub(crate) fn copy_all(&self, receiver: &Receiver<'_>, outgoing: &Outgoing) -> Result<(), WireError> {
        let apart = |item: &Item| is_apart(&receiver.view.rules, item);
        let copied = |item: &Item| is_copied(item, receiver.in_place, apart(item));
        let mut items = (0..).zip(receiver.plan.items()).filter(|(_, item)| copied(item));
        let mut next = items.next();
        let neighbours = std::iter::from_fn(|| {
            let (number, item) = next.take()?;
            let parent = item.path.parent().unwrap_or_default();
            let mut together = vec![(number, item)];
            for (number, item) in items.by_ref() {
                if together.len() == FILES_AT_ONCE || item.path.parent().unwrap_or_default() != parent {
                    next = Some((number, item));
                    break;
                }
                together.push((number, item));
            }
            Some((parent, together))
        });
        neighbours.par_bridge().try_for_each_with(outgoing.clone(), |outgoing, (parent, together)| {
            let opened = self.open(receiver, &parent);
            for (number, item) in together {
                if self.monitor.cancelled() {
                    return Err(WireError::Cancelled);
                }
                match &opened {
                    Ok((from, to)) => self.copy(receiver, &item, from, to),
                    Err((operation, error)) => {
                        let error = std::io::Error::from(*error).into();
                        receiver.committer.cannot_write(&item.path, *operation, &error);
                    }
                }
                receiver.settled(number, outgoing)?;
            }
            Ok(())
        })
    }

    fn open(
        &self,
        receiver: &Receiver<'_>,
        parent: &RelPath,
    ) -> Result<(OwnedFd, Arc<Directory>), (Operation, rustix::io::Errno)> {
        let from = self.root.hold_directory(parent).map_err(|error| (Operation::Read, error))?;
        let to = receiver.committer.staging(parent).map_err(|error| (Operation::Create, error))?;
        Ok((from, to))
    }

    fn copy(&self, receiver: &Receiver<'_>, item: &Item, from: &OwnedFd, to: &Arc<Directory>) {
        if receiver.substitution(&item.path).is_some() {
            let reason = "it is the standby's own in part, which the rules of this run do not know";
            return receiver.committer.fail(&item.path, Operation::Protect, reason);
        }
        if receiver.is_out_of_room() {
            return receiver.committer.give_up(&item.path);
        }
        let Ok(name) = std::ffi::CString::new(item.path.name().unwrap_or_default()) else { return };
        let read_failed = |reason: &dyn std::fmt::Display| {
            receiver.committer.fail(&item.path, Operation::Read, reason);
        };
        for _ in 0..READ_ATTEMPTS {
            let opened = open_file(from.as_fd(), &name).and_then(|fd| Ok((Stability::of(fd.as_fd())?, fd)));
            let (before, source) = match opened {
                Ok(opened) => opened,
                Err(error) => return read_failed(&std::io::Error::from(error)),
            };
            let each = |bytes| self.monitor.transferred(bytes);
            match receiver.committer.copy_file(item, source.as_fd(), &before, to, &each) {
                Ok(Copied::Placed) => {
                    receiver.count_literal(item.entry.size_bytes);
                    return self.monitor.changed(&item.path, &item.change);
                }
                Ok(Copied::Moved) => {}
                Err(error @ WriteError::Io(_)) => {
                    return receiver.committer.cannot_write(&item.path, Operation::Write, &error);
                }
                Err(error) => return read_failed(&error),
            }
        }
        read_failed(&"it changed each time while it was read; the standby keeps what it has");
    }
}
