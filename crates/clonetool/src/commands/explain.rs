//! `clonetool explain`.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use syncore::profile::{Profile, parse_standby_file};
use syncore::rules::{Decision, Rule, RuleSet, Scope};
use syncore::tree::{RelPath, escape};

use crate::error::{CommandError, harmless};
use crate::profiles;
use crate::run::Outcome;
use crate::ui::{self, json};

/// Where a standby keeps its own rules, below its root.
const STANDBY_FILE: &str = "etc/clonetool/standby.toml";

/// Say what a profile does with a path, and which rule decides
///
/// Prints the class, and the decision and the deciding rule for both ends; the standby's end also has its own
/// file of protected paths.
#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// Use this profile: a path, or a name in /etc/clonetool/profiles or among the shipped ones
    profile: OsString,
    /// Explain this path, as it is below the source root; a slash at the end says that it is a directory
    path: OsString,
    /// Read the standby's own rules from FILE, not from etc/clonetool/standby.toml below a local standby root
    #[arg(long, value_name = "FILE")]
    standby_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is known of the standby's own file.
enum Own {
    /// Its rules.
    Rules(Vec<Rule>),
    /// It is not there.
    Missing(String),
    /// The standby is another host.
    Elsewhere(String),
}

impl ExplainArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let profile = profiles::load(&self.profile)?;
        let path = RelPath::from_absolute(self.path.as_bytes())
            .map_err(|e| CommandError::usage(format!("{}: {e}", escape(self.path.as_bytes()))))?;
        let own = self.standby_rules(&profile)?;
        let is_directory = kind(&profile, &path, &self.path);
        if self.json {
            ui::print_events(&[event(&profile, &path, is_directory, &own)?])?;
        } else {
            ui::print(&explain(&profile, &path, is_directory, &own)?)?;
        }
        Ok(Outcome::Done)
    }

    fn standby_rules(&self, profile: &Profile) -> Result<Own, CommandError> {
        let (path, text) = match (&self.standby_file, &profile.standby.address) {
            (Some(path), _) => {
                (path.clone(), profiles::read(path).map_err(|error| profiles::unreadable(path, &error))?)
            }
            (None, Some(host)) => return Ok(Own::Elsewhere(host.clone())),
            (None, None) => {
                let path = profile.standby.root.join(STANDBY_FILE);
                match read_below(&profile.standby.root, STANDBY_FILE) {
                    Ok(text) => (path, text),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Ok(Own::Missing(escape(path.as_os_str().as_bytes())));
                    }
                    Err(error) => return Err(profiles::unreadable(&path, &error)),
                }
            }
        };
        Ok(Own::Rules(parse_standby_file(&escape(path.as_os_str().as_bytes()), &text)?))
    }
}

/// Reads a file below `root` without following a symbolic link out of it or anywhere else.
fn read_below(root: &Path, name: &str) -> io::Result<String> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = match openat2(&root, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Err(Errno::LOOP) => return Err(io::Error::other("there is a symbolic link on the way")),
        result => result?,
    };
    profiles::read_bounded(File::from(file))
}

/// Whether the path is a directory: as it was written, else as it is on this host; none when nothing tells.
fn kind(profile: &Profile, path: &RelPath, written: &OsString) -> Option<bool> {
    if path.is_root() || written.as_bytes().ends_with(b"/") {
        return Some(true);
    }
    let below = PathBuf::from(OsString::from_vec(path.as_bytes().to_vec()));
    std::fs::symlink_metadata(profile.source.root.join(below)).ok().map(|metadata| metadata.is_dir())
}

/// The whole answer.
fn explain(
    profile: &Profile,
    path: &RelPath,
    is_directory: Option<bool>,
    own: &Own,
) -> Result<String, CommandError> {
    let rules = RuleSet::compile(profile.rules())?;
    let as_directory = is_directory.unwrap_or(false);
    let decision = rules.decide(path, as_directory);
    let mut text = format!("{path}{}\n", if as_directory && !path.is_root() { "/" } else { "" });
    let mut line = |lead: &str, words: &str| {
        let _ = writeln!(text, "  {lead:<12}{}", harmless(words));
    };
    line("class", &format!("{}: {}", decision.class, decision.class.meaning()));
    if let Some(row) = decision.row.and_then(|rule| profile.row(rule)) {
        line("what", &format!("{} ({})", row.what, row.source));
    }
    if decision.auth_set {
        line("auth set", "read under the password lock, checked and swapped as one");
    }
    line("decision", words(&decision));
    line("rule", &by(decision.rule));
    match decision.selection {
        Some(selection) if decision.rule != Some(selection) => line("overruled", &by(Some(selection))),
        _ => {}
    }
    match own {
        Own::Rules(own) => {
            let with_own = with_own(profile, own)?;
            let there = with_own.decide(path, as_directory);
            if (there.scope, there.protected, there.rule)
                == (decision.scope, decision.protected, decision.rule)
            {
                line("standby", "the same; its own file says nothing else");
            } else {
                line("standby", &format!("{}; both ends obey its own file", words(&there)));
                line("", &by(there.rule));
            }
        }
        Own::Missing(file) => line("standby", &format!("the same; it has no file of its own ({file})")),
        Own::Elsewhere(host) => line(
            "standby",
            &format!(
                "the same, unless /{STANDBY_FILE} on {host} protects it (--standby-file FILE reads a copy)"
            ),
        ),
    }
    let other = rules.decide(path, true);
    if is_directory.is_none() && (other.scope, other.rule) != (decision.scope, decision.rule) {
        line("note", "as a directory it is decided otherwise: write a slash at the end to see how");
    }
    Ok(text)
}

/// The rules as the standby obeys them.
fn with_own(profile: &Profile, own: &[Rule]) -> Result<RuleSet, CommandError> {
    Ok(RuleSet::compile(profile.rules().into_iter().chain(own.iter().cloned()).collect())?)
}

/// The whole answer for a script.
fn event(
    profile: &Profile,
    path: &RelPath,
    is_directory: Option<bool>,
    own: &Own,
) -> Result<serde_json::Value, CommandError> {
    let own = match own {
        Own::Rules(own) => Some(own.as_slice()),
        Own::Missing(_) => Some([].as_slice()),
        Own::Elsewhere(_) => None,
    };
    let here = RuleSet::compile(profile.rules())?;
    let there = own.map(|own| with_own(profile, own)).transpose()?;
    let as_directory = is_directory.unwrap_or(false);
    let decision = here.decide(path, as_directory);
    let standby = there.as_ref().map(|rules| rules.decide(path, as_directory));
    let row = decision.row.and_then(|rule| profile.row(rule));
    Ok(json::explanation(path, is_directory, &decision, row, standby.as_ref()))
}

/// The decision in words.
fn words(decision: &Decision<'_>) -> &'static str {
    match (decision.scope, decision.protected) {
        (Scope::In, _) => "in scope: synced",
        (Scope::Implied, _) => {
            "implied: created if missing, because something below is in scope; else not touched"
        }
        (Scope::Empty, _) => "created empty if missing; nothing in it is read, written or deleted",
        (Scope::Out, true) => "out of scope and protected: never sent, written or deleted",
        (Scope::Out, false) => "out of scope: not read, written or deleted",
    }
}

/// The rule and where it stands.
fn by(rule: Option<&Rule>) -> String {
    match rule {
        Some(rule) => format!("{} {} ({})", rule.action, escape(&rule.pattern), rule.origin),
        None => "none matches".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "[rules]\ninclude = [\"/\"]\nexclude = [\"/etc/\"]\nprotect = [\"/srv/own\"]\n";

    fn explained(path: &str, own: &Own) -> String {
        let profile = Profile::parse("p.toml", PROFILE, &|_| None).unwrap();
        explain(&profile, &RelPath::from_absolute(path.as_bytes()).unwrap(), Some(false), own).unwrap()
    }

    #[test]
    fn the_deciding_rule_is_named_with_file_and_line() {
        let missing = Own::Missing("/b/etc/clonetool/standby.toml".to_owned());
        assert_eq!(
            explained("/etc/motd", &missing),
            "/etc/motd\n  \
             class       S: synced\n  \
             decision    out of scope: not read, written or deleted\n  \
             rule        exclude /etc/ (p.toml:3)\n  \
             standby     the same; it has no file of its own (/b/etc/clonetool/standby.toml)\n"
        );
        let protected = explained("/srv/own", &missing);
        assert!(protected.contains("rule        protect /srv/own (p.toml:4)\n"), "{protected}");
        assert!(protected.contains("overruled   include / (p.toml:2)\n"), "{protected}");
    }

    #[test]
    fn the_standbys_own_file_is_heard() {
        let own = Own::Rules(parse_standby_file("s.toml", "protect = [\"/opt/\"]\n").unwrap());
        let text = explained("/opt/x", &own);
        assert!(text.contains("decision    in scope: synced\n"), "{text}");
        assert!(text.contains("standby     out of scope and protected"), "{text}");
        assert!(text.contains("protect /opt/ (s.toml:1)\n"), "{text}");
        assert!(explained("/usr", &own).contains("the same; its own file says nothing else"));
    }

    #[test]
    fn a_script_is_told_the_same() {
        let profile = Profile::parse("p.toml", PROFILE, &|_| None).unwrap();
        let path = RelPath::new("opt/x").unwrap();
        let own = Own::Rules(parse_standby_file("s.toml", "protect = [\"/opt/\"]\n").unwrap());
        let told = event(&profile, &path, Some(false), &own).unwrap();
        assert_eq!(
            (&told["path"], &told["decision"], &told["class"]),
            (&"/opt/x".into(), &"in".into(), &"S".into())
        );
        assert_eq!((&told["rule"], &told["rule_file"]), (&"/".into(), &"p.toml".into()));
        assert_eq!((&told["rule_line"], &told["protected"]), (&2.into(), &false.into()));
        assert_eq!((&told["standby_decision"], &told["standby_protected"]), (&"out".into(), &true.into()));
        assert_eq!((&told["standby_rule"], &told["standby_rule_line"]), (&"/opt/".into(), &1.into()));
        let elsewhere = event(&profile, &path, None, &Own::Elsewhere("b".to_owned())).unwrap();
        assert!(
            elsewhere["standby_decision"].is_null() && elsewhere["is_directory"].is_null(),
            "{elsewhere}"
        );
    }

    #[test]
    fn no_link_is_followed_to_the_standbys_own_file() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("real")).unwrap();
        std::fs::write(root.path().join("real/f"), "text").unwrap();
        std::os::unix::fs::symlink("real", root.path().join("link")).unwrap();
        assert_eq!(read_below(root.path(), "real/f").unwrap(), "text");
        assert!(read_below(root.path(), "link/f").is_err());
        assert_eq!(read_below(root.path(), "no/f").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
