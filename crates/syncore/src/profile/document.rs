//! One TOML file, read strictly, before it is merged with what it extends.
//!
//! Why: every value remembers the line it was written in, so that `explain` can name the line that decides, and a
//! value can be refused by its place. What can go wrong: a key that the types below do not know is an error, so
//! a key is added here before it is written anywhere else.

use serde::Deserialize;
use toml::Spanned;

use super::error::{from_toml, line_of};
use super::keys::Table;
use super::{CommitMode, ProfileError, Transport, WhenBusy};
use crate::rules::{Class, FollowUp, Origin, Substitution};

/// A profile or catalogue file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Document {
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) extends: Vec<Spanned<String>>,
    pub(super) on_event: Option<Spanned<Vec<String>>>,
    pub(super) on_event_timeout: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) source: SourceTable,
    #[serde(default)]
    pub(super) standby: StandbyTable,
    #[serde(default)]
    pub(super) rules: RulesTable,
    #[serde(default)]
    pub(super) delete: DeleteTable,
    #[serde(default)]
    pub(super) commit: CommitTable,
    #[serde(default)]
    pub(super) schedule: ScheduleTable,
    #[serde(default)]
    pub(super) gate: Vec<Spanned<Table>>,
    #[serde(default)]
    pub(super) row: Vec<RowTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct SourceTable {
    pub(super) root: Option<Spanned<String>>,
    pub(super) one_file_system: Option<bool>,
    pub(super) also: Option<Vec<Spanned<String>>>,
    pub(super) snapshot: Option<Spanned<SnapshotWord>>,
    pub(super) snapshot_size: Option<Spanned<String>>,
    pub(super) snapshot_command: Option<Spanned<Vec<String>>>,
    pub(super) snapshot_remove: Option<Spanned<Vec<String>>>,
    pub(super) snapshot_except: Option<Vec<Spanned<String>>>,
    pub(super) snapshot_timeout: Option<Spanned<String>>,
}

/// By what a snapshot of the source is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SnapshotWord {
    None,
    Lvm,
    Btrfs,
    Command,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct StandbyTable {
    pub(super) address: Option<Spanned<String>>,
    pub(super) root: Option<Spanned<String>>,
    pub(super) transport: Option<Transport>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RulesTable {
    #[serde(default)]
    pub(super) include: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) exclude: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) protect: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct DeleteTable {
    pub(super) enabled: Option<bool>,
    pub(super) max_entries: Option<Spanned<u64>>,
    pub(super) max_percent: Option<Spanned<u8>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct CommitTable {
    pub(super) mode: Option<Spanned<CommitMode>>,
    pub(super) keep_generations: Option<Spanned<u32>>,
    pub(super) keep_days: Option<Spanned<u32>>,
    pub(super) max_space: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ScheduleTable {
    pub(super) calendar: Option<Spanned<String>>,
    pub(super) rpo: Option<Spanned<String>>,
    pub(super) when_busy: Option<WhenBusy>,
    pub(super) wait_limit: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RowTable {
    pub(super) path: Spanned<String>,
    pub(super) class: Class,
    pub(super) what: String,
    pub(super) source: String,
    pub(super) set: Option<SetName>,
    pub(super) substitution: Option<Substitution>,
    #[serde(default)]
    pub(super) then: Vec<FollowUp>,
}

/// The sets of files that are read, checked and swapped as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SetName {
    Auth,
}

/// The standby's own file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct StandbyDocument {
    #[serde(rename = "description")]
    pub(super) _description: Option<String>,
    #[serde(default)]
    pub(super) extends: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) protect: Vec<Spanned<String>>,
}

/// A file's name and text: what turns a place in it into a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Text<'_> {
    /// Reads the file as `T`.
    pub(super) fn read<T: for<'de> Deserialize<'de>>(&self) -> Result<T, ProfileError> {
        toml::from_str(self.text).map_err(|error| from_toml(self.file, self.text, &error))
    }

    /// The line of a value.
    pub(super) fn line<T>(&self, value: &Spanned<T>) -> u32 {
        line_of(self.text, value.span().start)
    }

    /// File and line of a value.
    pub(super) fn origin<T>(&self, value: &Spanned<T>) -> Origin {
        Origin { file: self.file.to_string(), line: self.line(value) }
    }

    /// The error that a value cannot be meant.
    pub(super) fn bad(
        &self,
        key: &'static str,
        value: &Spanned<String>,
        reason: impl Into<String>,
    ) -> ProfileError {
        ProfileError::BadValue {
            file: self.file.to_string(),
            line: self.line(value),
            key,
            value: value.get_ref().clone(),
            reason: reason.into(),
        }
    }
}
