//! What the receiver does beyond a copy when its root is a standby: files made from two, and what follows a change.
//!
//! Why: the sender knows nothing of it; which file is made how, and what follows, is said by the standby's own rules. What
//! can go wrong: a file that cannot be made, or a command that fails. The standby then keeps what it has, and the run
//! says so.

use std::collections::BTreeSet;

use crate::apply::{FileWriter, WriteError};
use crate::plan::{Change, Item};
use crate::prepare::{self, Standby, follow_ups};
use crate::problem::Operation;
use crate::rules::{FollowUp, Substitution};
use crate::session::SessionError;
use crate::session::receive::Receiver;
use crate::tree::RelPath;

/// The longest file that another is made of: it has to fit memory, and no file of configuration comes near.
const MADE_LIMIT_BYTES: u64 = 64 << 20;

/// Directories in scope in which what follows a sync makes files that are not.
const FOLLOWED: [&str; 4] = ["boot", "boot/grub", "boot/grub2", "etc"];

impl<'a> Receiver<'a> {
    /// How the file at `path` is made from production's, if it is not production's as it is.
    pub(super) fn substitution(&self, path: &RelPath) -> Option<(&'a Standby, Substitution)> {
        let (standby, own) = self.standby?;
        Some((standby, own.substitution(path).or_else(|| self.view.rules.substitution(path))?))
    }

    /// Makes a name of another, unless one of the two is a file that is made here.
    pub(super) fn link(&self, item: &Item) {
        let is_made = |path: &RelPath| self.substitution(path).is_some();
        if is_made(&item.path) || item.link_to.as_ref().is_some_and(is_made) {
            let reason = "it is the standby's own in part and has another name on production: make it a file of one name";
            return self.committer.fail(&item.path, Operation::Protect, reason);
        }
        self.committer.link(item);
    }

    /// Puts a complete file in its place; what is made from it, where that is declared.
    ///
    /// # Errors
    /// [`WriteError`]; nothing was replaced then.
    pub(super) fn place(
        &self,
        item: &Item,
        writer: FileWriter,
        digest: Option<[u8; 32]>,
    ) -> Result<(), WriteError> {
        let Some((standby, substitution)) = self.substitution(&item.path) else {
            return self.committer.place_file(item, writer, digest);
        };
        if writer.position() > MADE_LIMIT_BYTES {
            return Err(WriteError::Io(rustix::io::Errno::FBIG.into()));
        }
        let production = writer.read_back()?;
        // Checked, and thrown away: it was only staged to be read.
        drop(writer.finish(digest)?);
        let made = standby
            .make(substitution, &item.path, &production)
            .map_err(|reason| WriteError::Io(std::io::Error::other(reason)))?;
        let directory = self.committer.staging(&item.path.parent().unwrap_or_default())?;
        let mut writer = FileWriter::create(&self.committer.directories, &directory, None)?;
        writer.raw_data(&made)?;
        let sum = |content: &[u8]| (content.len() as u64, *blake3::hash(content).as_bytes());
        standby.made(&item.path, item.entry.mtime, sum(&production), sum(&made));
        self.committer.place_file(item, writer, None)
    }

    /// Writes down what was made from production's files.
    pub(super) fn remember(&self) {
        if let Some((standby, _)) = self.standby
            && let Err(error) = standby.store()
        {
            self.committer.problems.note(&RelPath::root(), Operation::Write, error);
        }
    }

    /// Writes down what has to follow this plan, and what is left to be done from before.
    pub(super) fn intend(&self) -> Result<(), SessionError> {
        let Some((standby, own)) = self.standby else { return Ok(()) };
        let paths: Vec<RelPath> = self.plan.items().map(|item| item.path).collect();
        standby.intend(follow_ups(own, paths.iter())).map_err(|error| SessionError::Fatal {
            operation: "write down what has to follow",
            reason: error.to_string(),
        })
    }

    /// Does what has to follow, as far as it is `wanted` now; true when nothing failed.
    pub(super) fn follow(&self, wanted: impl Fn(FollowUp) -> bool) -> bool {
        let Some((standby, _)) = self.standby else { return true };
        for path in FOLLOWED {
            // Remembered, so that what is made in them leaves their times as they are; not all of them are there.
            let _ = self.committer.directories.open(&prepare::path(path));
        }
        let failed = standby.follow(&wanted, &self.leaving_kernels(), self.monitor);
        for (path, reason) in &failed {
            self.committer.problems.note(path, Operation::FollowUp, reason);
        }
        failed.is_empty()
    }

    /// The kernels that the plan deletes.
    fn leaving_kernels(&self) -> BTreeSet<String> {
        let gone = self.plan.items().filter(|item| matches!(item.change, Change::Delete(_)));
        let images = gone.filter(|item| item.path.as_bytes().starts_with(b"boot/vmlinuz-"));
        images.filter_map(|item| prepare::kernel_of(&item.path)).collect()
    }

    /// Takes what was made here for kernels that are gone away, and has the boot loader know.
    pub(super) fn forget_kernels(&self) {
        let Some((standby, _)) = self.standby else { return };
        if let Err(error) = standby.forget_kernels() {
            self.committer.problems.note(&prepare::path("boot"), Operation::Delete, error);
        }
    }
}
