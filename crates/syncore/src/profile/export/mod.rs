//! A profile as a plain Bourne shell script around rsync, for a production host on which this program does not run.
//!
//! Why: Solaris 2.6 to 9 are what a standby is needed for most, and no Rust runs there. What can go wrong: a script that
//! does nearly what the profile says. So the rules are turned into rsync's by way of [`crate::rules::Flat`], whose
//! decisions are theirs; what needs more than a copy stays the standby's; and what cannot be said in a script makes the
//! export fail and names the line.

mod blocks;
mod gates;
mod text;

use std::collections::HashMap;

use thiserror::Error;

use super::Profile;
use crate::rules::{Action, Class, Flat, FlatError, Origin, Rule, RuleError, RuleSet, Treatment};
use crate::tree::escape;
use blocks::Blocks;

/// The script up to where rsync is asked, and from there on, with a line `@NAME@` for each part that depends on the
/// profile.
const SCRIPT: [&str; 2] = [include_str!("before.sh"), include_str!("run.sh")];

/// The standby's own file, as it is at the time of the export: what `parse_standby_file` made of it, and its text.
#[derive(Debug, Clone, Default)]
pub struct StandbyFile {
    /// Its rules.
    pub rules: Vec<Rule>,
    /// Its text, which the script compares with what is on the standby.
    pub text: String,
}

/// Why a profile cannot be said in a script.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A gate that a shell cannot ask. Without it the script would run when the profile says that it must not.
    #[error("{origin}: the gate {name} ({kind}) cannot be asked by a shell script: {reason}")]
    Gate {
        /// Its name.
        name: String,
        /// Its kind.
        kind: &'static str,
        /// Where it stands.
        origin: Origin,
        /// What is in the way.
        reason: &'static str,
    },
    /// A rule that rsync cannot be told.
    #[error(transparent)]
    Rules(#[from] FlatError),
    /// A key whose value a script cannot honour.
    #[error("{key} cannot be exported: {reason}")]
    Key {
        /// The key.
        key: &'static str,
        /// What is in the way.
        reason: &'static str,
    },
}

impl From<RuleError> for ExportError {
    fn from(error: RuleError) -> Self {
        Self::Rules(error.into())
    }
}

impl Profile {
    /// The profile as a script for `/bin/sh` of every Unix since SVR4, around rsync 2.6.7 or later. `name` is what its
    /// logs are called. With `standby` the script honours, and insists on, that own file of the standby's.
    ///
    /// # Errors
    /// [`ExportError`]: what of the profile a script cannot carry out.
    pub fn to_rsync_script(&self, name: &str, standby: &StandbyFile) -> Result<String, ExportError> {
        self.check_exportable()?;
        let rules = self.copied_rules(standby);
        let set = RuleSet::compile(rules)?;
        let flat = set.flatten()?;
        let gates = gates::functions(&self.gates).map_err(|(gate, reason)| ExportError::Gate {
            name: gate.name.clone(),
            kind: gate.check.kind(),
            origin: gate.origin.clone(),
            reason,
        })?;
        let blocks = Blocks { profile: self, name, flat: &flat };
        Ok(fill(&HashMap::from([
            ("ABOUT", self.about(&set, &flat)),
            ("SETTINGS", blocks.settings()),
            ("GATES", gates),
            ("TURNS", blocks.turns()),
            ("LISTED", blocks.listed()),
            // Behind a bar no line of it can end what the script takes for its text.
            ("STANDBY_FILE", standby.text.trim_end().lines().map(|line| format!("|{line}\n")).collect()),
            ("SPELL", blocks.spell()),
            ("FILTERS", blocks.filters()),
            ("DIRECTORY_RULES", blocks.directory_rules()),
            ("TREES", blocks.trees()),
            ("TOPS", blocks.tops()),
            ("VANISHED", blocks.vanished()),
            ("IMPLIED", blocks.implied()),
            ("EMPTY", blocks.empty()),
            ("AUTH", blocks.auth()),
        ])))
    }

    fn check_exportable(&self) -> Result<(), ExportError> {
        let key = |key, reason| Err(ExportError::Key { key, reason });
        let is_plain =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._+,=@%-".contains(&b));
        if !self.source.one_file_system {
            return key(
                "source.one-file-system = false",
                "a script enters the filesystems that are named, no others: list them in source.also",
            );
        }
        if self.source.snapshot.is_some() {
            return key(
                "source.snapshot",
                "a script reads the source as it is, and not as it was at one moment",
            );
        }
        if !is_plain(&self.source.root.to_string_lossy()) || !is_plain(&self.standby.root.to_string_lossy()) {
            return key("a root", "it holds what a remote shell takes for something else");
        }
        if !self.source.also.iter().all(|path| is_plain(&escape(path.as_bytes()))) {
            return key("source.also", "it holds what a shell cannot look for in a table of mounts");
        }
        if !self.standby.address.iter().all(|address| is_plain(address)) {
            return key("standby.address", "rsync takes it for something else");
        }
        if self.rules.iter().any(|rule| rule.pattern.contains(&text::LINE_END)) {
            return key("a rule with a byte 1", "the script uses it for the end of a line");
        }
        Ok(())
    }

    /// The rules under which nothing takes part that needs more than a copy: what is made from two files, what something
    /// has to follow, and what is held are the standby's own.
    fn copied_rules(&self, standby: &StandbyFile) -> Vec<Rule> {
        let mut rules = self.rules();
        for rule in &mut rules {
            if let Action::Class(Class::B | Class::C | Class::G) = rule.action {
                (rule.action, rule.treatment) = (Action::Class(Class::A), Treatment::Plain);
            }
        }
        rules.extend(standby.rules.iter().filter(|rule| !matches!(rule.action, Action::Include)).cloned());
        // What clonetool keeps on a standby to itself.
        let origin = Origin { file: "clonetool".into(), line: 0 };
        let stage = format!(".clonetool-stage-{}", "[0-9a-f]".repeat(16));
        let mut own = vec!["/.clonetool".to_owned(), "/.clonetool-run".to_owned(), stage];
        own.extend(
            self.source.also.iter().map(|path| format!("/{}/.clonetool-run", escape(path.as_bytes()))),
        );
        rules.extend(own.into_iter().map(|path| Rule::new(Action::Protect, path, origin.clone())));
        rules
    }

    /// What the administrator reads first: what it is made of, and what it leaves alone.
    fn about(&self, set: &RuleSet, flat: &Flat<'_>) -> String {
        let mut lines = vec![
            format!(
                "Made from the clonetool profile {} by clonetool {}:",
                self.name,
                env!("CARGO_PKG_VERSION")
            ),
            format!("{}.", self.description.trim_end_matches('.')),
            String::new(),
            "It brings a standby up to date from this host. Change the profile and export it again; what is"
                .to_owned(),
            "changed in here is lost then. Try it with -n, which says what would be done and does nothing."
                .to_owned(),
        ];
        let no_include = !set.rules().any(|rule| rule.action == Action::Include);
        let selected = |path: &str| {
            let path = crate::tree::RelPath::from_absolute(path.as_bytes()).unwrap_or_default();
            let decision = set.decide(&path, true);
            decision.selection.map_or(no_include, |rule| rule.action == Action::Include)
        };
        for (class, what) in [
            (
                Class::B,
                "Made from production's and the standby's own, which rsync cannot do; the standby keeps:",
            ),
            (Class::C, "Something has to follow on the standby, which nobody would do; not carried:"),
            (Class::G, "Held until the standby is promoted, which nobody would do; not carried:"),
            (Class::R, "Needs a replication or dump of its own; not carried:"),
        ] {
            let rows: Vec<_> =
                self.rows.iter().filter(|row| row.class == class && selected(&row.path)).collect();
            if !rows.is_empty() {
                lines.extend([String::new(), what.to_owned()]);
                lines.extend(rows.iter().map(|row| format!("  {}  {}", row.path, row.what)));
            }
        }
        if self.on_event.is_some() {
            let line =
                "The profile's on-event is not called: syslog and standard error are all that tell of a run.";
            lines.extend([String::new(), line.to_owned()]);
        }
        if !flat.auth_set.is_empty() {
            lines.push(String::new());
            lines.extend(AUTH_ABOUT.iter().map(|line| (*line).to_owned()));
        }
        let comment = |line: &String| format!("# {}", escape(line.as_bytes())).trim_end().to_owned();
        lines.iter().map(comment).collect::<Vec<_>>().join("\n")
    }
}

const AUTH_ABOUT: [&str; 7] = [
    "The account files are brought one after the other. Each is whole and they take their places within",
    "moments, but they are no one swap: a reader in between sees new passwords beside old groups, and a run",
    "that is cut off there leaves it so until the next one. The lock of the account tools is not taken on",
    "either host, which a shell cannot do: the script waits for no edit, it ends with 75 when it sees one, and",
    "brings the files again when they changed meanwhile. Who edits accounts on the standby may lose the edit.",
    "They are compared by content, and not brought when one is empty or root is not in it; nothing else",
    "in them is checked. There is no undoing it: keep a copy of the standby's.",
];

/// The script with its parts in place. A part is taken as it is: nothing in it is taken for another one.
fn fill(parts: &HashMap<&str, String>) -> String {
    let mut script = String::new();
    for line in SCRIPT.iter().flat_map(|part| part.lines()) {
        let part =
            line.strip_prefix('@').and_then(|line| line.strip_suffix('@')).and_then(|name| parts.get(name));
        let text = part.map_or(line, |part| part.trim_end_matches('\n'));
        if part.is_none() || !text.is_empty() {
            script.push_str(text);
            script.push('\n');
        }
    }
    script
}
