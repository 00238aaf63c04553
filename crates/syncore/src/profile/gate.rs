//! What a profile says of its gates: `[[gate]]`, one typed value for each kind.
//!
//! Why: a gate guards a run that nobody watches, so what it is to check is settled when the profile is read. What can
//! go wrong: a key that belongs to another kind and would have no effect, or a name that a volume manager takes for
//! an option; both are errors with their line. Who asks a gate is the room of that name.

use std::time::Duration;

use toml::Spanned;

use super::ProfileError;
use super::document::Text;
use super::keys::{Keys, Table};
use crate::rules::Origin;

/// How long a gate may take to answer where its profile does not say.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What must hold before a run: `[[gate]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// What refusals call it; no other gate of the profile has it.
    pub name: String,
    /// What is checked.
    pub check: Check,
    /// How long it may take to answer; 30 seconds by default.
    pub timeout: Duration,
    /// Where it stands.
    pub origin: Origin,
}

/// What a gate checks.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Check {
    /// A program of the operator ends with exit code 0.
    Command {
        /// Program and arguments, without a shell; the program is an absolute path.
        command: Vec<String>,
    },
}

impl Check {
    /// The word of the profile for this kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Command { .. } => "command",
        }
    }

    /// Whether the gate is asked again immediately before the first change: what it checks can turn while a plan is
    /// made.
    #[must_use]
    pub const fn again_before_commit(&self) -> bool {
        match self {
            Self::Command { .. } => false,
        }
    }
}

/// The kinds, each with what reads its keys.
type Read = fn(&mut Keys<'_>, &str) -> Result<Check, ProfileError>;
const KINDS: [(&str, Read); 1] = [("command", command)];

/// Reads one `[[gate]]`.
pub(super) fn read(table: Spanned<Table>, text: Text<'_>) -> Result<Gate, ProfileError> {
    let mut keys = Keys::new(text, "gate", table);
    let Some(read) = keys.word("kind", &KINDS)? else { return Err(keys.missing("kind")) };
    let Some(name) = keys.name("name")? else { return Err(keys.missing("name")) };
    let timeout = keys.duration("timeout")?.unwrap_or(TIMEOUT);
    let check = read(&mut keys, name.get_ref())?;
    let origin = Origin { file: text.file.to_string(), line: keys.line() };
    keys.finish()?;
    Ok(Gate { name: name.into_inner(), check, timeout, origin })
}

fn command(keys: &mut Keys<'_>, _: &str) -> Result<Check, ProfileError> {
    let Some(command) = keys.strings("command")? else { return Err(keys.missing("command")) };
    if !command.get_ref().first().is_some_and(|program| program.starts_with('/')) {
        return Err(keys.bad_list("command", &command, "the program is not an absolute path"));
    }
    if command.get_ref().iter().any(|word| word.contains('\0')) {
        return Err(keys.bad_list("command", &command, "it has a NUL character"));
    }
    Ok(Check::Command { command: command.into_inner() })
}
