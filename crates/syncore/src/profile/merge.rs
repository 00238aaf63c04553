//! A profile together with everything it extends.
//!
//! Why: what a site changes is a few lines, and the catalogue it stands on is a few hundred; the site's file
//! names what it extends and says only what differs. What can go wrong: an order that depends on who names whom.
//! What is extended comes before what extends it, each file once; a later value replaces an earlier one, and
//! lists are joined, so that a later catalogue row corrects an earlier one.

use std::path::PathBuf;

use toml::Spanned;

use super::document::{CommitTable, DeleteTable, Document, SetName, Text};
use super::error::closest;
use super::keys::parse_bytes;
use super::shipped;
use super::times::parse_duration;
use super::{OnEvent, Profile, ProfileError, Resolver, Row, gate_keys, snapshot};
use crate::rules::{Action, Class, Rule, Treatment};
use crate::schedule::CalendarError;
use crate::tree::RelPath;

/// The files on the way from the profile to the one being read, and those that have been read.
pub(super) struct Merge<'a> {
    resolver: Resolver<'a>,
    open: Vec<String>,
    done: Vec<String>,
    profile: Profile,
    snapshot: snapshot::Keys,
}

impl<'a> Merge<'a> {
    pub(super) fn new(name: &str, resolver: Resolver<'a>) -> Self {
        Self {
            resolver,
            open: Vec::new(),
            done: Vec::new(),
            profile: Profile::empty(name),
            snapshot: snapshot::Keys::default(),
        }
    }

    /// Reads `text`, and first what it extends.
    pub(super) fn add(&mut self, name: &str, text: Text<'_>) -> Result<(), ProfileError> {
        let document: Document = text.read()?;
        self.open.push(name.to_string());
        for extended in &document.extends {
            self.extend(extended, text)?;
        }
        self.open.pop();
        self.done.push(name.to_string());
        self.apply(document, text)
    }

    fn extend(&mut self, extended: &Spanned<String>, text: Text<'_>) -> Result<(), ProfileError> {
        let name = extended.get_ref().as_str();
        let (file, line) = (text.file.to_string(), text.line(extended));
        // The caller makes a file name of it.
        if name.starts_with('.') || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(text.bad("extends", extended, "a name has letters, digits, '.', '_' and '-' only"));
        }
        // A site's file may have the name of the shipped one that it extends.
        let is_open = self.open.iter().any(|open| open == name);
        let key = if is_open { format!("shipped/{name}") } else { name.to_string() };
        if self.open.contains(&key) {
            return Err(ProfileError::Cycle { file, line, name: name.to_string() });
        }
        if self.done.contains(&key) {
            return Ok(());
        }
        let local = if is_open { None } else { (self.resolver)(name) };
        if let Some(local) = local {
            return self.add(&key, Text { file: name, text: &local });
        }
        match shipped::find(name) {
            // The shipped one of this name is what is being read: it extends itself.
            Some((file_name, _)) if file_name == text.file => {
                Err(ProfileError::Cycle { file, line, name: name.to_string() })
            }
            Some((file_name, shipped)) => self.add(&key, Text { file: &file_name, text: shipped }),
            None if is_open => Err(ProfileError::Cycle { file, line, name: name.to_string() }),
            None => {
                let suggestion = closest(name, shipped::names());
                Err(ProfileError::UnknownExtends { file, line, name: name.to_string(), suggestion })
            }
        }
    }

    /// Lays one file over what has been read.
    fn apply(&mut self, document: Document, text: Text<'_>) -> Result<(), ProfileError> {
        let profile = &mut self.profile;
        if self.open.is_empty() {
            // What a catalogue says of itself says nothing of a profile on it.
            replace(&mut profile.description, document.description);
        }
        if let Some(command) = document.on_event {
            profile.on_event =
                Some(OnEvent { origin: text.origin(&command), command: argv("on-event", command, text)? });
        }
        if let Some(timeout) = document.on_event_timeout {
            let reason = |reason| text.bad("on-event-timeout", &timeout, reason);
            profile.on_event_timeout = parse_duration(timeout.get_ref()).map_err(reason)?;
        }
        let source = document.source;
        if let Some(root) = &source.root {
            profile.source.root = absolute("source.root", root, text)?;
        }
        replace(&mut profile.source.one_file_system, source.one_file_system);
        if let Some(also) = &source.also {
            let below = |path| below_source("source.also", path, text);
            profile.source.also = also.iter().map(below).collect::<Result<_, _>>()?;
        }
        self.snapshot.overlay(source, text)?;
        let standby = document.standby;
        if let Some(address) = standby.address {
            // An address that begins with a dash would be taken for an option of ssh.
            if address.get_ref().is_empty()
                || address.get_ref().starts_with('-')
                || address.get_ref().contains(|c: char| c.is_whitespace() || c.is_control())
            {
                return Err(text.bad("standby.address", &address, "no host has such a name"));
            }
            profile.standby.address = Some(address.into_inner());
        }
        if let Some(root) = standby.root {
            profile.standby.root = absolute("standby.root", &root, text)?;
        }
        replace(&mut profile.standby.transport, standby.transport);
        self.apply_limits(&document.delete, &document.commit, text)?;
        let profile = &mut self.profile;
        if let Some(calendar) = document.schedule.calendar {
            let reason = |error: CalendarError| text.bad("schedule.calendar", &calendar, error.to_string());
            profile.schedule.calendar = Some(calendar.get_ref().parse().map_err(reason)?);
        }
        if let Some(rpo) = document.schedule.rpo {
            let reason = |reason| text.bad("schedule.rpo", &rpo, reason);
            profile.schedule.rpo = Some(parse_duration(rpo.get_ref()).map_err(reason)?);
        }
        replace(&mut profile.schedule.when_busy, document.schedule.when_busy);
        if let Some(limit) = document.schedule.wait_limit {
            let reason = |reason| text.bad("schedule.wait-limit", &limit, reason);
            profile.schedule.wait_limit = parse_duration(limit.get_ref()).map_err(reason)?;
        }
        for table in document.gate {
            let gate = gate_keys::read(table, text)?;
            if let Some(other) = profile.gates.iter().find(|other| other.name == gate.name) {
                return Err(ProfileError::BadValue {
                    file: gate.origin.file,
                    line: gate.origin.line,
                    key: "gate.name",
                    value: gate.name,
                    reason: format!("the gate at {} has this name", other.origin),
                });
            }
            profile.gates.push(gate);
        }
        for row in document.row {
            let treatment = match (row.set, row.substitution, &row.then[..]) {
                (Some(SetName::Auth), None, []) => Treatment::AuthSet,
                (None, Some(substitution), []) if row.class == Class::B => {
                    Treatment::Substitute(substitution)
                }
                (None, None, []) => Treatment::Plain,
                (None, None, _) if row.class == Class::C => Treatment::Then(row.then),
                _ => {
                    let reason = "`substitution` is for class B, `then` for class C, `set` for neither";
                    return Err(text.bad("row.path", &row.path, reason));
                }
            };
            profile.rows.push(Row {
                origin: text.origin(&row.path),
                path: row.path.into_inner(),
                class: row.class,
                what: row.what,
                source: row.source,
                treatment,
            });
        }
        let rules = document.rules;
        let lists = [
            (Action::Include, rules.include),
            (Action::Exclude, rules.exclude),
            (Action::Protect, rules.protect),
        ];
        for (action, list) in lists {
            profile.rules.extend(list.into_iter().map(|pattern| rule(action, pattern, text)));
        }
        Ok(())
    }

    fn apply_limits(
        &mut self,
        delete: &DeleteTable,
        commit: &CommitTable,
        text: Text<'_>,
    ) -> Result<(), ProfileError> {
        let profile = &mut self.profile;
        replace(&mut profile.delete.enabled, delete.enabled);
        if let Some(max) = &delete.max_entries {
            profile.delete.limits.max_entries = *max.get_ref();
        }
        if let Some(max) = &delete.max_percent {
            if *max.get_ref() > 100 {
                return Err(ProfileError::BadValue {
                    file: text.file.to_string(),
                    line: text.line(max),
                    key: "delete.max-percent",
                    value: max.get_ref().to_string(),
                    reason: "it is more than 100".into(),
                });
            }
            profile.delete.limits.max_percent = *max.get_ref();
        }
        if let Some(mode) = &commit.mode {
            profile.commit.mode = *mode.get_ref();
        }
        if let Some(keep) = &commit.keep_generations {
            profile.commit.keep.generations = *keep.get_ref();
        }
        if let Some(days) = &commit.keep_days {
            let max_age_seconds = u64::from(*days.get_ref()) * 24 * 60 * 60;
            profile.commit.keep.max_age_seconds = Some(max_age_seconds);
        }
        if let Some(space) = &commit.max_space {
            let reason = "it is no size such as \"20GiB\" (KiB, MiB, GiB, TiB)";
            let bytes = parse_bytes(space.get_ref());
            let bytes = bytes.ok_or_else(|| text.bad("commit.max-space", space, reason))?;
            profile.commit.keep.max_bytes = Some(bytes);
        }
        Ok(())
    }

    /// The whole.
    pub(super) fn finish(mut self) -> Result<Profile, ProfileError> {
        self.profile.source.snapshot = self.snapshot.finish(&self.profile.source)?;
        Ok(self.profile)
    }
}

fn replace<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

pub(super) fn absolute(
    key: &'static str,
    path: &Spanned<String>,
    text: Text<'_>,
) -> Result<PathBuf, ProfileError> {
    if !path.get_ref().starts_with('/') {
        return Err(text.bad(key, path, "it is not an absolute path"));
    }
    if path.get_ref().contains('\0') {
        return Err(text.bad(key, path, "it has a NUL character"));
    }
    Ok(PathBuf::from(path.get_ref()))
}

/// The words of a program that is called without a shell.
pub(super) fn argv(
    key: &'static str,
    command: Spanned<Vec<String>>,
    text: Text<'_>,
) -> Result<Vec<String>, ProfileError> {
    let is_absolute = command.get_ref().first().is_some_and(|program| program.starts_with('/'));
    let reason = match command.get_ref().iter().any(|word| word.contains('\0')) {
        true => "it has a NUL character",
        false if !is_absolute => "the program is not an absolute path",
        false => return Ok(command.into_inner()),
    };
    let shown = Spanned::new(command.span(), command.get_ref().join(" "));
    Err(text.bad(key, &shown, reason))
}

/// An absolute path as it is below the source root.
pub(super) fn below_source(
    key: &'static str,
    path: &Spanned<String>,
    text: Text<'_>,
) -> Result<RelPath, ProfileError> {
    absolute(key, path, text)?;
    RelPath::from_absolute(path.get_ref().as_bytes()).map_err(|error| text.bad(key, path, error.to_string()))
}

/// A rule from one element of a list.
pub(super) fn rule(action: Action, pattern: Spanned<String>, text: Text<'_>) -> Rule {
    let origin = text.origin(&pattern);
    Rule::new(action, pattern.into_inner(), origin)
}
