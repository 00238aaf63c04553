//! `clonetool profile`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;

use clap::{Args, Subcommand};
use syncore::profile::{Profile, shipped};
use syncore::rules::RuleSet;
use syncore::tree::escape;

use crate::error::{CommandError, harmless};
use crate::profiles;
use crate::run::Outcome;
use crate::ui;

/// List, show, check or export profiles
#[derive(Debug, Args)]
pub(crate) struct ProfileArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the profiles of this host and the shipped ones
    List,
    /// Print a profile as it is written
    Show {
        /// Show this one: a path or a name
        profile: OsString,
    },
    /// Read a profile and say what is wrong with it
    Check {
        /// Check this one: a path or a name
        profile: OsString,
    },
    /// Write a profile in another form
    Export {
        /// Export this one: a path or a name
        profile: OsString,
        /// Write a Bourne shell script around rsync (not built yet)
        #[arg(long, required = true)]
        rsync: bool,
    },
}

impl ProfileArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        match &self.action {
            Action::List => ui::print(&list()?)?,
            Action::Show { profile } => ui::print(&profiles::find(profile)?.text)?,
            Action::Check { profile } => {
                let profile = profiles::load(profile)?;
                ui::print(&check(&profile)?)?;
                if let Some(error) = profiles::refusal(&profile) {
                    return Err(error);
                }
            }
            Action::Export { profile, rsync: _ } => {
                profiles::load(profile)?;
                return Err(CommandError::usage("profile export --rsync is not built yet"));
            }
        }
        Ok(Outcome::Done)
    }
}

/// A line for each profile: its name, where it comes from, and its description.
fn list() -> Result<String, CommandError> {
    let local = profiles::local_names()?;
    let of_host = local.iter().map(|name| (name.as_os_str(), "this host"));
    let others =
        shipped().iter().map(|(name, _)| OsStr::new(*name)).filter(|name| !local.iter().any(|l| l == name));
    let mut text = String::new();
    for (name, place) in of_host.chain(others.map(|name| (name, "shipped"))) {
        let description = match profiles::load(name) {
            Ok(profile) => profile.description,
            // One broken file hides neither itself nor the others.
            Err(error) => format!("broken: {}", error.message),
        };
        let name = escape(name.as_encoded_bytes());
        let _ = writeln!(text, "{name:<22} {place:<10} {}", harmless(&description));
    }
    Ok(text)
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
    }

    #[test]
    fn every_shipped_profile_is_listed() {
        let text = list().unwrap();
        for (name, _) in shipped() {
            assert!(text.lines().any(|line| line.split_whitespace().next() == Some(*name)), "{name}\n{text}");
        }
    }
}
