//! What is read: the keys `source.snapshot…`, each overlaid by itself, and judged when all files are read.
//!
//! Why: a site may take the kind from one profile and the size from another, so what fits together is only known at the
//! end. What can go wrong: a key of another kind, which would have no effect; it is turned away with its line.

use std::time::Duration;

use toml::Spanned;

use super::document::{SnapshotWord, SourceTable, Text};
use super::merge::{argv, below_source};
use super::times::parse_duration;
use super::{ProfileError, Source};
use crate::rules::{self, Action, Origin, Rule};
use crate::tree::RelPath;

/// How long making or removing one snapshot may take.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Where the snapshots of a btrfs subvolume are, at its top; out of scope.
pub(crate) const SNAPSHOT_DIRECTORY: &str = ".clonetool-snapshot";

/// A moment of the source that is read in place of the source itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// By what it is made.
    pub by: SnapshotBy,
    /// Filesystems of `source.also` that are read as they are.
    pub except: Vec<RelPath>,
    /// How long making or removing one may take.
    pub timeout: Duration,
    /// Where the kind stands; of commands, where the command does.
    pub origin: Origin,
}

impl Snapshot {
    /// What keeps the snapshots themselves out of the scope, for a source with the filesystems `also`.
    pub(super) fn rules(&self, also: &[RelPath]) -> Vec<Rule> {
        let root = RelPath::root();
        let tops = std::iter::once(&root).chain(also).filter(|_| self.by == SnapshotBy::Btrfs);
        let path = |top: &RelPath| top.join(SNAPSHOT_DIRECTORY.as_bytes());
        let pattern = |path: RelPath| rules::literal(&[b"/", path.as_bytes()].concat());
        tops.map(|top| Rule::new(Action::Protect, pattern(path(top)), self.origin.clone())).collect()
    }
}

/// By what a snapshot is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotBy {
    /// The logical volume manager.
    Lvm {
        /// Room for what changes meanwhile, in bytes, where the volume is not thin; none for a tenth of the volume.
        size_bytes: Option<u64>,
    },
    /// The filesystem itself.
    Btrfs,
    /// Programs of the administrator: argument lists.
    Command {
        /// Makes it and prints its directory.
        make: Vec<String>,
        /// Removes it, or what is left of it.
        remove: Vec<String>,
    },
}

/// The keys as far as they are read.
#[derive(Debug, Default)]
pub(super) struct Keys {
    word: Option<(SnapshotWord, Origin)>,
    size: Option<(u64, Origin)>,
    make: Option<(Vec<String>, Origin)>,
    remove: Option<(Vec<String>, Origin)>,
    except: Vec<(RelPath, Origin)>,
    timeout: Option<Duration>,
}

impl Keys {
    /// Overlays what one file says.
    pub(super) fn overlay(&mut self, source: SourceTable, text: Text<'_>) -> Result<(), ProfileError> {
        if let Some(word) = source.snapshot {
            self.word = Some((*word.get_ref(), text.origin(&word)));
        }
        if let Some(size) = source.snapshot_size {
            let bytes = super::keys::parse_bytes(size.get_ref()).filter(|bytes| *bytes > 0);
            let reason = "it is no size such as \"4GiB\" (KiB, MiB, GiB, TiB)";
            let bytes = bytes.ok_or_else(|| text.bad("source.snapshot-size", &size, reason))?;
            self.size = Some((bytes, text.origin(&size)));
        }
        if let Some(make) = source.snapshot_command {
            let origin = text.origin(&make);
            self.make = Some((argv("source.snapshot-command", make, text)?, origin));
        }
        if let Some(remove) = source.snapshot_remove {
            let origin = text.origin(&remove);
            self.remove = Some((argv("source.snapshot-remove", remove, text)?, origin));
        }
        if let Some(except) = source.snapshot_except {
            let below = |path: &Spanned<String>| {
                Ok((below_source("source.snapshot-except", path, text)?, text.origin(path)))
            };
            self.except = except.iter().map(below).collect::<Result<_, ProfileError>>()?;
        }
        if let Some(timeout) = source.snapshot_timeout {
            let reason = |reason| text.bad("source.snapshot-timeout", &timeout, reason);
            self.timeout = Some(parse_duration(timeout.get_ref()).map_err(reason)?);
        }
        Ok(())
    }

    /// What they amount to.
    pub(super) fn finish(self, source: &Source) -> Result<Option<Snapshot>, ProfileError> {
        let Some((word, mut origin)) = self.word else {
            let first = self.size.map(|(_, origin)| origin).or(self.make.map(|(_, origin)| origin));
            let first = first.or(self.remove.map(|(_, origin)| origin));
            return match first {
                Some(origin) => {
                    Err(wrong(origin, "`source.snapshot` is missing: without it this key has no effect"))
                }
                None => Ok(None),
            };
        };
        if word == SnapshotWord::None {
            return Ok(None);
        }
        if !source.one_file_system {
            let reason =
                "a snapshot is of one filesystem: it needs `source.one-file-system = true`, and `also`";
            return Err(wrong(origin, reason));
        }
        if let Some((path, origin)) = self.except.iter().find(|(path, _)| !source.also.contains(path)) {
            return Err(wrong(origin.clone(), format!("{path} is not in `source.also`")));
        }
        if let Some((_, origin)) = self.size.as_ref().filter(|_| word != SnapshotWord::Lvm) {
            return Err(wrong(origin.clone(), "`snapshot-size` is for `snapshot = \"lvm\"`"));
        }
        if let Some((_, origin)) = self.except.first().filter(|_| word == SnapshotWord::Command) {
            return Err(wrong(origin.clone(), "`snapshot-except` is for `lvm` and `btrfs`"));
        }
        let commands = [&self.make, &self.remove].into_iter().flatten().next();
        if let Some((_, origin)) = commands.filter(|_| word != SnapshotWord::Command) {
            let reason = "`snapshot-command` and `snapshot-remove` are for `snapshot = \"command\"`";
            return Err(wrong(origin.clone(), reason));
        }
        let by = match (word, self.make, self.remove) {
            (SnapshotWord::Lvm, ..) => SnapshotBy::Lvm { size_bytes: self.size.map(|(bytes, _)| bytes) },
            (SnapshotWord::Btrfs, ..) => SnapshotBy::Btrfs,
            (_, Some((make, at)), Some((remove, _))) => {
                origin = at;
                SnapshotBy::Command { make, remove }
            }
            _ => {
                let reason = "`snapshot = \"command\"` needs `snapshot-command` and `snapshot-remove`";
                return Err(wrong(origin, reason));
            }
        };
        let except = self.except.into_iter().map(|(path, _)| path).collect();
        Ok(Some(Snapshot { by, except, timeout: self.timeout.unwrap_or(TIMEOUT), origin }))
    }
}

fn wrong(origin: Origin, reason: impl Into<String>) -> ProfileError {
    ProfileError::Syntax { file: origin.file, line: origin.line, reason: reason.into() }
}
