//! What a standby keeps, whoever sends: the catalogue of its kind, what its preparation changed, and its own file.
//!
//! Why in one place: a sync and a release must agree on what is the standby's own, or the one would undo what the other
//! keeps. What can go wrong: an own file that somebody else may write, or that cannot be read; then nothing is done at
//! all, because what it protects is not known.

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::hold::PROMOTED;
use super::inside::Inside;
use super::journal::{self, Journal};
use crate::profile::{Profile, catalogues, parse_standby_file};
use crate::rules::{Action, Class, Origin, Rule, RuleSet};
use crate::scan::Root;
use crate::tree::RelPath;

/// Where the standby's own protections are, below its root.
const STANDBY_FILE: &str = "etc/clonetool/standby.toml";
/// Largest file of own protections, in bytes.
const STANDBY_FILE_LIMIT_BYTES: i64 = 1 << 20;

/// The rules of the catalogue for the kind of system that is in the root.
pub(super) fn catalogue(inside: &Inside) -> Vec<Rule> {
    let there = |path| inside.entry(&journal::path(path)).ok().flatten().is_some();
    let kind = if there("etc/release") && there("etc/path_to_inst") { "solaris" } else { "linux" };
    let catalogue = catalogues().iter().find(|(name, _)| *name == kind);
    catalogue
        .and_then(|(name, text)| Profile::parse(name, text, &|_| None).ok())
        .map(|profile| profile.rules())
        .unwrap_or_default()
}

/// Whether the root was promoted: what was held acts by now, and is like everything else.
pub(super) fn is_promoted(inside: &Inside) -> bool {
    inside.entry(&journal::path(PROMOTED)).is_ok_and(|entry| entry.is_some())
}

/// The rules that the root holds to: the catalogue, and what the preparation changed; of a `promoted` one without what
/// is held.
pub(super) fn rules(inside: &Inside, journal: Option<&Journal>, promoted: bool) -> Vec<Rule> {
    let mut rules = catalogue(inside);
    // What the catalogue has made of two files is no less the standby's own.
    let compiled = RuleSet::compile(rules.clone()).ok();
    let is_made = |path| compiled.as_ref().is_some_and(|rules| rules.substitution(path).is_some());
    if promoted {
        rules.retain(|rule| rule.action != Action::Class(Class::G));
    }
    let file = format!("/{}/journal.json", journal::STATE_DIRECTORY);
    let lines = journal.iter().flat_map(|journal| &journal.lines);
    rules.extend(lines.filter(|line| !promoted || line.class != Class::G).filter_map(|line| {
        let pattern = crate::rules::literal(&[b"/", line.path.as_bytes()].concat());
        let origin = Origin { file: file.clone(), line: 0 };
        (!is_made(&line.path)).then(|| Rule::new(Action::Class(Class::A), pattern, origin))
    }));
    rules
}

/// The standby's own protections. The file counts only when nobody but root, or the account that runs, can write it.
///
/// # Errors
/// Why it cannot be used, in words.
pub(crate) fn own_rules(root: &Root) -> Result<Vec<Rule>, String> {
    let refuse = |reason: &dyn std::fmt::Display| {
        format!("the standby's own /{STANDBY_FILE} cannot be used: {reason}")
    };
    let path = RelPath::new(STANDBY_FILE).map_err(|e| refuse(&e))?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let parent = path.parent().unwrap_or_default();
    let opened = root
        .hold_directory(&parent)
        .and_then(|directory| openat(directory, path.name().unwrap_or_default(), flags, Mode::empty()));
    let fd = match opened {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        other => other.map_err(|e| refuse(&std::io::Error::from(e)))?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| refuse(&std::io::Error::from(e)))?;
    let trusted = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    if !trusted || stat.st_mode & 0o022 != 0 {
        return Err(refuse(&"others than root may write it"));
    }
    let mut text = String::new();
    if stat.st_size > STANDBY_FILE_LIMIT_BYTES {
        return Err(refuse(&"it is longer than 1 MiB"));
    }
    let mut reader = std::fs::File::from(fd);
    std::io::Read::read_to_string(&mut reader, &mut text).map_err(|e| refuse(&e))?;
    let file = format!("/{STANDBY_FILE}");
    let mut rules = parse_standby_file(&file, &text).map_err(|e| refuse(&e))?;
    // What protects the standby protects itself, or the first sync would be the last that is bound by it.
    let origin = Origin { file: file.clone(), line: 0 };
    rules.push(Rule::new(Action::Protect, file, origin));
    Ok(rules)
}
