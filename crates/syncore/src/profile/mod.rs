//! Profiles and catalogues: what to sync, where to, and what belongs to the standby.
//!
//! Why: the run that nobody watches obeys a file that somebody wrote a year ago. What can go wrong: a key that is
//! misspelt, or that this version does not obey yet, and a run that quietly does something else. So an unknown
//! key is an error with its line and a suggestion.
//!
//! A profile extends catalogues and other profiles by name. Names are looked up by the caller first, who knows
//! where a host keeps its profiles, and then among the shipped ones.

mod document;
mod error;
mod export;
mod gate;
mod gate_keys;
mod keys;
mod merge;
mod shipped;
mod snapshot;
mod times;

#[cfg(test)]
mod shipped_tests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rules::{Action, Class, Origin, Rule, RuleSet, Scope, Treatment};
use crate::schedule::Calendar;
use crate::tree::RelPath;
use document::{StandbyDocument, Text};
pub use error::ProfileError;
pub use export::{ExportError, StandbyFile};
pub use gate::{Check, Gate, Hours, Manager, Method, Mounted, Peer, Postgresql, Replication, VolumeGroup};
pub use shipped::{catalogues, shipped};
pub(crate) use snapshot::SNAPSHOT_DIRECTORY;
pub use snapshot::{Snapshot, SnapshotBy};
pub use times::parse_duration;

/// Gives the text of the profile or catalogue of a name that the host itself keeps; none where it keeps none.
pub type Resolver<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A profile, with everything it extends.
#[derive(Debug, Clone)]
pub struct Profile {
    /// As it was asked for.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// What is read.
    pub source: Source,
    /// What is changed.
    pub standby: Standby,
    /// What is deleted.
    pub delete: Delete,
    /// How changes become visible.
    pub commit: Commit,
    /// When it runs.
    pub schedule: Schedule,
    /// What must hold before a run.
    pub gates: Vec<Gate>,
    /// Who is told how a run ended.
    pub on_event: Option<OnEvent>,
    /// How long telling may take; a minute by default.
    pub on_event_timeout: Duration,
    /// The catalogue: the class of every known path, in order of growing precedence.
    pub rows: Vec<Row>,
    rules: Vec<Rule>,
}

/// What is read: `[source]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The source root; `/` by default.
    pub root: PathBuf,
    /// Whether the walk stays on the root's filesystem; true by default.
    pub one_file_system: bool,
    /// Filesystems below the root that are entered all the same.
    pub also: Vec<RelPath>,
    /// A moment of it that is read in its place; none by default.
    pub snapshot: Option<Snapshot>,
}

/// What is changed: `[standby]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    /// The host as ssh understands it; none for a path on this host.
    pub address: Option<String>,
    /// The standby root; `/` by default.
    pub root: PathBuf,
    /// How to reach it.
    pub transport: Transport,
}

/// How the other host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// The system's ssh if there is one, else the built-in one.
    #[default]
    Auto,
    /// The system's ssh.
    Ssh,
    /// The built-in ssh.
    Ssh2,
}

/// How much one plan may take away: both have to be exceeded for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// So many entries.
    pub max_entries: u64,
    /// So much of a directory at the top, in percent.
    pub max_percent: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_entries: 500, max_percent: 5 }
    }
}

/// What is deleted: `[delete]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delete {
    /// Whether what is in scope on the standby and not on the source is deleted; false by default.
    pub enabled: bool,
    /// How much may go with one run.
    pub limits: Limits,
}

/// How changes become visible: `[commit]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Commit {
    /// All or nothing, or as they arrive.
    pub mode: CommitMode,
    /// How much is kept of what runs replaced, where they are all or nothing.
    pub keep: Keep,
}

/// How much is kept of what a profile's runs replaced: the least that any of these says, the latest first. The latest run
/// is kept whatever its age and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Of so many runs; 0 for none at all.
    pub generations: u32,
    /// Of runs that were committed at most so many seconds ago; none for no limit.
    pub max_age_seconds: Option<u64>,
    /// At most so many bytes; none for no limit.
    pub max_bytes: Option<u64>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { generations: 3, max_age_seconds: None, max_bytes: None }
    }
}

/// How changes become visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitMode {
    /// Each path is old or new, as it arrives.
    File,
    /// The run as a whole, or nothing of it.
    #[default]
    Run,
}

/// A run that changes everything or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// The profile that it carries out: what is kept is kept under this name.
    pub profile: String,
    /// How much is kept of what this profile's runs replaced, this one included.
    pub keep: Keep,
}

/// When it runs: `[schedule]`. Only data; whoever installs a schedule reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The five fields of crontab(5).
    pub calendar: Option<Calendar>,
    /// How old the last good generation may become.
    pub rpo: Option<Duration>,
    /// What a run does that finds another one at work.
    pub when_busy: WhenBusy,
    /// How long it waits then, if it does.
    pub wait_limit: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        let wait_limit = Duration::from_secs(30 * 60);
        Self { calendar: None, rpo: None, when_busy: WhenBusy::default(), wait_limit }
    }
}

impl Schedule {
    /// How long a run waits for another one to end.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self.when_busy {
            WhenBusy::Yield => Duration::ZERO,
            WhenBusy::Wait => self.wait_limit,
        }
    }
}

/// What a run does that finds another one at work on either root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenBusy {
    /// It gives way and ends.
    #[default]
    Yield,
    /// It waits for the end of the other, within a limit.
    Wait,
}

/// A program that is told how a run ended: `on-event`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnEvent {
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// Where it stands.
    pub origin: Origin,
}

/// A row of a catalogue: `[[row]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Of which paths, as written.
    pub path: String,
    /// How they are treated.
    pub class: Class,
    /// What they are.
    pub what: String,
    /// The public document that says so.
    pub source: String,
    /// What else is done with them (`set`, `substitution`, `then`).
    pub treatment: Treatment,
    /// Where it stands.
    pub origin: Origin,
}

impl Profile {
    /// Reads a profile and everything it extends. `name` is what messages and rules call it: the path of its
    /// file, or the name of a shipped profile.
    ///
    /// ```
    /// use syncore::profile::{Profile, shipped};
    /// let (name, text) = shipped()[0];
    /// let profile = Profile::parse(name, text, &|_| None)?;
    /// assert!(!profile.description.is_empty());
    /// # Ok::<(), syncore::profile::ProfileError>(())
    /// ```
    ///
    /// # Errors
    /// [`ProfileError`], for the first thing that is wrong in any of the files.
    pub fn parse(name: &str, text: &str, resolver: Resolver<'_>) -> Result<Self, ProfileError> {
        let mut merge = merge::Merge::new(name, resolver);
        // A shipped profile says so, wherever a rule of it is named.
        let file = shipped::find(name).filter(|(_, shipped)| *shipped == text).map(|(file, _)| file);
        merge.add(name, Text { file: file.as_deref().unwrap_or(name), text })?;
        let profile = merge.finish()?;
        RuleSet::compile(profile.rules())?;
        Ok(profile)
    }

    /// All rules: the catalogue's rows, then include, exclude and protect of every file, then what keeps snapshots of the
    /// source out.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        let rows = self.rows.iter().map(|row| Rule {
            action: Action::Class(row.class),
            pattern: row.path.clone().into_bytes(),
            origin: row.origin.clone(),
            treatment: row.treatment.clone(),
        });
        let snapshots = self.source.snapshot.iter().flat_map(|snapshot| snapshot.rules(&self.source.also));
        rows.chain(self.rules.iter().cloned()).chain(snapshots).collect()
    }

    /// The rules under which what is held ([`Class::G`]) is brought to where the standby keeps it, apart from where it
    /// would act: of what this profile selects, those rows alone. None when it selects nothing of them.
    #[must_use]
    pub fn held_rules(&self) -> Option<Vec<Rule>> {
        let held: Vec<&Row> = self.rows.iter().filter(|row| row.class == Class::G).collect();
        let first = held.first()?;
        let mut rules = vec![Rule::new(Action::Class(Class::A), "/", first.origin.clone())];
        for row in &self.rows {
            let below =
                |held: &&Row| row.path.strip_prefix(&held.path).is_some_and(|rest| rest.starts_with('/'));
            let class = match row.class {
                Class::G => Class::S,
                class if held.iter().any(below) => class,
                _ => continue,
            };
            rules.push(Rule::new(Action::Class(class), row.path.clone(), row.origin.clone()));
        }
        rules.extend(self.rules.iter().cloned());
        let set = RuleSet::compile(rules.clone()).ok()?;
        let selected = |row: &&Row| {
            RelPath::from_absolute(row.path.as_bytes())
                .is_ok_and(|path| matches!(set.decide(&path, true).scope, Scope::In | Scope::Implied))
        };
        held.iter().any(selected).then_some(rules)
    }

    /// The row that a rule of this profile was made from.
    #[must_use]
    pub fn row(&self, rule: &Rule) -> Option<&Row> {
        self.rows.iter().find(|row| row.origin == rule.origin && row.path.as_bytes() == rule.pattern)
    }

    /// A profile in which every key has its default.
    fn empty(name: &str) -> Self {
        Self {
            name: name.to_string(),
            description: String::new(),
            source: Source { root: "/".into(), one_file_system: true, also: Vec::new(), snapshot: None },
            standby: Standby { address: None, root: "/".into(), transport: Transport::default() },
            delete: Delete::default(),
            commit: Commit::default(),
            schedule: Schedule::default(),
            gates: Vec::new(),
            on_event: None,
            on_event_timeout: Duration::from_secs(60),
            rows: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// Reads the standby's own file, which protects what only the standby knows of: `protect = ["/srv/local/"]`. With
/// `extends = ["linux"]` it also holds to a shipped catalogue, whatever a sender's profile says. `file` is what
/// messages call it.
///
/// # Errors
/// [`ProfileError`], for the first thing that is wrong in it.
pub fn parse_standby_file(file: &str, text: &str) -> Result<Vec<Rule>, ProfileError> {
    let text = Text { file, text };
    let document: StandbyDocument = text.read()?;
    let mut rules = Vec::new();
    for name in document.extends {
        let Some((_, catalogue)) = catalogues().iter().find(|(known, _)| known == name.get_ref()) else {
            let line = text.line(&name);
            let (file, name) = (file.to_string(), name.into_inner());
            return Err(ProfileError::UnknownExtends { file, line, name, suggestion: None });
        };
        rules.extend(Profile::parse(name.get_ref(), catalogue, &|_| None)?.rules());
    }
    rules.extend(document.protect.into_iter().map(|pattern| merge::rule(Action::Protect, pattern, text)));
    RuleSet::compile(rules.clone())?;
    Ok(rules)
}
