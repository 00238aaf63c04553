//! `clonetool profile`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;
use syncore::durable;
use syncore::profile::{Profile, StandbyFile, parse_standby_file, shipped};
use syncore::rules::RuleSet;
use syncore::tree::escape;

use crate::error::{CommandError, harmless};
use crate::profiles;
use crate::run::Outcome;
use crate::ui::{self, json};

/// List, show, check or export profiles
#[derive(Debug, Args)]
pub(crate) struct ProfileArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the profiles of this host and the shipped ones
    List {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Print a profile as it is written
    Show {
        /// Show this one: a path or a name
        profile: OsString,
    },
    /// Read a profile and say what is wrong with it
    Check {
        /// Check this one: a path or a name
        profile: OsString,
        /// Print one JSON object a line, the result last
        #[arg(long)]
        json: bool,
    },
    /// Write a profile in another form
    ///
    /// What of it cannot be said in that form is named, and nothing is written (exit code 3).
    Export {
        /// Export this one: a path or a name
        profile: OsString,
        /// Write a Bourne shell script around rsync, for a production host on which clonetool does not run
        #[arg(long, required = true)]
        rsync: bool,
        /// Keep what the standby's own /etc/clonetool/standby.toml protects: a copy of it
        #[arg(long, value_name = "FILE")]
        standby_file: Option<PathBuf>,
        /// Write to FILE, which can be run, instead of to standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

impl ProfileArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        match &self.action {
            Action::List { json: false } => ui::print(&list()?)?,
            Action::List { json: true } => ui::print_events(&list_events()?)?,
            Action::Show { profile } => ui::print(&profiles::find(profile)?.text)?,
            Action::Check { profile, json } => {
                let profile = profiles::load(profile)?;
                if *json {
                    ui::print_events(&check_events(&profile)?)?;
                } else {
                    ui::print(&check(&profile)?)?;
                }
            }
            Action::Export { profile, rsync: _, standby_file, output } => {
                let script = export(profile, standby_file.as_deref())?;
                match output {
                    Some(file) => write_script(file, &script)?,
                    None => ui::print(&script)?,
                }
            }
        }
        Ok(Outcome::Done)
    }
}

/// A profile of the list: its name, where it comes from, and its description or why it cannot be read.
struct Listed {
    name: String,
    place: &'static str,
    description: Result<String, CommandError>,
}

/// The profiles of this host, then the shipped ones that none of this host's hides.
fn listed() -> Result<Vec<Listed>, CommandError> {
    let local = profiles::local_names()?;
    let of_host = local.iter().map(|name| (name.as_os_str(), "this host"));
    let others =
        shipped().iter().map(|(name, _)| OsStr::new(*name)).filter(|name| !local.iter().any(|l| l == name));
    let all = of_host.chain(others.map(|name| (name, "shipped")));
    // One broken file hides neither itself nor the others.
    let listed = all.map(|(name, place)| Listed {
        name: escape(name.as_encoded_bytes()),
        place,
        description: profiles::load(name).map(|profile| profile.description),
    });
    Ok(listed.collect())
}

/// A line for each profile.
fn list() -> Result<String, CommandError> {
    let mut text = String::new();
    for Listed { name, place, description } in listed()? {
        let description = description.unwrap_or_else(|error| format!("broken: {}", error.message));
        let _ = writeln!(text, "{name:<22} {place:<10} {}", harmless(&description));
    }
    Ok(text)
}

/// An object for each profile.
fn list_events() -> Result<Vec<Value>, CommandError> {
    let event = |Listed { name, place, description }| {
        let broken = description.as_ref().err().map(|error| error.message.as_str());
        json::listed_profile(&name, place, description.as_deref().ok(), broken)
    };
    Ok(listed()?.into_iter().map(event).collect())
}

/// What the profile amounts to, and what of it has no effect.
fn check(profile: &Profile) -> Result<String, CommandError> {
    let rules = RuleSet::compile(profile.rules())?;
    let mut text = String::new();
    for unreachable in rules.never_matching() {
        let _ = writeln!(text, "warning: {}", harmless(&unreachable.to_string()));
    }
    let (name, rows) = (harmless(&profile.name), profile.rows.len());
    let own_rules = rules.rules().len() - rows;
    let _ = writeln!(text, "{name}: {own_rules} rules, {rows} catalogue rows");
    Ok(text)
}

/// The same for a script.
fn check_events(profile: &Profile) -> Result<Vec<Value>, CommandError> {
    let rules = RuleSet::compile(profile.rules())?;
    let rows = profile.rows.len();
    let warnings =
        rules.never_matching().into_iter().map(|unreachable| json::warning(&unreachable.to_string()));
    let result = json::checked_profile(&profile.name, rules.rules().len() - rows, rows);
    Ok(warnings.chain([result]).collect())
}

/// The profile as a script.
fn export(profile: &OsStr, standby_file: Option<&Path>) -> Result<String, CommandError> {
    let name = Path::new(profile).file_stem().unwrap_or(profile).to_string_lossy().into_owned();
    let profile = profiles::load(profile)?;
    let standby = match standby_file {
        None => StandbyFile::default(),
        Some(file) => {
            let text = profiles::read(file).map_err(|error| profiles::unreadable(file, &error))?;
            let rules = parse_standby_file(&escape(file.as_os_str().as_encoded_bytes()), &text)?;
            StandbyFile { rules, text }
        }
    };
    Ok(profile.to_rsync_script(&name, &standby)?)
}

/// Puts a script where it can be run.
fn write_script(file: &Path, script: &str) -> Result<(), CommandError> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().and_then(OsStr::to_str);
    let name = name.ok_or_else(|| CommandError::usage("the output is no name of a file"))?;
    let failed = |error: &io::Error| {
        CommandError::failed(format!("cannot write {}: {error}", escape(file.as_os_str().as_encoded_bytes())))
    };
    let directory = File::open(parent).map_err(|error| failed(&error))?;
    durable::replace(&directory, name, script.as_bytes(), 0o755, None).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_names_the_rules_without_effect() {
        let text = "[rules]\ninclude = [\"/a\", \"/a\"]\n";
        let profile = Profile::parse("x.toml", text, &|_| None).unwrap();
        let report = check(&profile).unwrap();
        assert!(report.starts_with("warning: x.toml:2: include /a has no effect"), "{report}");
        assert!(report.ends_with("x.toml: 2 rules, 0 catalogue rows\n"), "{report}");
        let events = check_events(&profile).unwrap();
        assert_eq!((events.len(), &events[0]["type"]), (2, &"warning".into()));
        assert_eq!((&events[1]["type"], &events[1]["rules"]), (&"check".into(), &2.into()));
    }

    #[test]
    fn every_shipped_profile_is_listed() {
        let text = list().unwrap();
        for (name, _) in shipped() {
            assert!(text.lines().any(|line| line.split_whitespace().next() == Some(*name)), "{name}\n{text}");
        }
        assert_eq!(list_events().unwrap().len(), text.lines().count());
    }
}
