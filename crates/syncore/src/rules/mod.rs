//! Include, exclude, protect and class rules, and the decision about a path.
//! (API stub; see the task of this room.)

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::tree::RelPath;

/// What a catalogue says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Plain sync.
    S,
    /// The standby's own.
    A,
    /// Substituted.
    B,
    /// Action afterwards.
    C,
    /// Runtime state.
    D,
    /// Own replication.
    R,
    /// Held.
    G,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// In scope.
    Include,
    /// Out of scope.
    Exclude,
    /// Absolutely out of scope.
    Protect,
    /// A catalogue row.
    Class(Class),
}

/// Where a rule was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// File, or `command line`.
    pub file: String,
    /// Line, from 1; 0 where there is none.
    pub line: u32,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// What it says.
    pub action: Action,
    /// Of which paths, as written.
    #[serde(with = "serde_bytes")]
    pub pattern: Vec<u8>,
    /// Where it stands.
    pub origin: Origin,
    /// Whether the path belongs to the auth set, which is read, checked and swapped as one.
    pub auth_set: bool,
}

/// Whether a path takes part in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Takes part.
    In,
    /// A directory that is out of scope itself but may have descendants in scope: created if missing, otherwise
    /// never touched.
    Implied,
    /// A directory that is created, empty, if missing; never read.
    Empty,
    /// Not read, written or deleted, and nothing below it is.
    Out,
}

/// The decision about a path.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// Whether it takes part.
    pub scope: Scope,
    /// Its class.
    pub class: Class,
    /// Whether a protect rule or a class that counts as one keeps it.
    pub protected: bool,
    /// Whether it belongs to the auth set.
    pub auth_set: bool,
    /// The rule that decided; none when no rule matches.
    pub rule: Option<&'a Rule>,
}

/// Why rules do not compile.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A pattern that is none.
    #[error("{file}:{line}: bad pattern {pattern}: {reason}")]
    Pattern {
        /// File.
        file: String,
        /// Line.
        line: u32,
        /// As written.
        pattern: String,
        /// Why.
        reason: String,
    },
}

/// Compiled rules.
#[derive(Debug)]
pub struct RuleSet {}

/// A place in the tree, from which names are judged; cheap to clone and to pass down.
#[derive(Debug, Clone)]
pub struct Cursor {}

impl RuleSet {
    /// Compiles rules; none at all means: everything is in scope.
    ///
    /// # Errors
    /// [`RuleError`], see there.
    pub fn compile(_rules: Vec<Rule>) -> Result<Self, RuleError> {
        Ok(Self {})
    }

    /// Judges one path.
    #[must_use]
    pub fn decide(&self, _path: &RelPath, _is_directory: bool) -> Decision<'_> {
        Decision { scope: Scope::In, class: Class::S, protected: false, auth_set: false, rule: None }
    }

    /// The cursor of the root directory, and the decision about the root itself.
    #[must_use]
    pub fn root(&self) -> (Cursor, Decision<'_>) {
        (Cursor {}, self.decide(&RelPath::root(), true))
    }

    /// Judges `name` in the directory at `cursor`; for a directory, also gives the cursor for what is in it.
    #[must_use]
    pub fn enter(
        &self,
        _cursor: &Cursor,
        _name: &[u8],
        is_directory: bool,
    ) -> (Decision<'_>, Option<Cursor>) {
        (self.decide(&RelPath::root(), is_directory), Some(Cursor {}))
    }
}
