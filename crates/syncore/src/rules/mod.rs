//! Include, exclude, protect and class rules, and the decision about a path.
//!
//! Why: one sentence has to mean the same on both ends and in every room: between include and exclude the deepest
//! matching rule decides and is inherited below it, at one depth exclude beats include; protect is absolute:
//! nothing at or below a protected path is in scope, except where the catalogue itself names a deeper literal
//! path. What can go wrong: the scan prunes a directory that holds something in scope, or walks into one that
//! belongs to the standby. So `enter`, which the scan uses, and `decide`, which everybody else uses, share every
//! step, and both are tested against an evaluator that is written from the sentence alone.
//!
//! A pattern that begins with `/` starts at the root; one that does not matches at any depth. One that ends in
//! `/` only matches directories. `*`, `?` (one byte), `[…]` and `{a,b}` stay within one name, `**` does not, and a
//! backslash takes the meaning of the character after it away. `/` alone is the root.

mod flat;
mod pattern;
mod set;
mod spell;
mod trie;
mod unreachable;

#[cfg(test)]
mod naive;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use flat::{Filter, Flat, FlatError, Matching, Top};
pub use pattern::literal;
pub use set::{Cursor, RuleSet};
pub use spell::{Part, Token};
pub use unreachable::Unreachable;

/// What a catalogue says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Plain sync.
    S,
    /// The standby's own: never sent, written or deleted.
    A,
    /// Synced with a declared substitution ([`Treatment::Substitute`]); treated as [`Class::A`] where none is declared.
    B,
    /// Synced, then something follows ([`Treatment::Then`]).
    C,
    /// Runtime state: a directory is created, empty; nothing is read.
    D,
    /// Needs its own replication or a dump: left alone and reported.
    R,
    /// Held: synced but inert until failover. Not built yet: treated as [`Class::A`].
    G,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 7] = [Self::S, Self::A, Self::B, Self::C, Self::D, Self::R, Self::G];

    /// The letter that catalogues use.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::S => 'S',
            Self::A => 'A',
            Self::B => 'B',
            Self::C => 'C',
            Self::D => 'D',
            Self::R => 'R',
            Self::G => 'G',
        }
    }

    /// The class of a catalogue's letter; none for any other text.
    #[must_use]
    pub fn from_letter(letter: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| letter.chars().eq([class.letter()]))
    }

    /// What it means, for people.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::S => "synced",
            Self::A => "the standby's own: never sent, written or deleted",
            Self::B => {
                "synced, but for what is the standby's own in it; its own altogether where nothing is declared"
            }
            Self::C => "synced, and what has to follow is done on the standby",
            Self::D => "runtime state: the directory is created, nothing in it is read",
            Self::R => "needs its own replication or dump: left alone and reported",
            Self::G => "held: brought to where it does not act, until the standby is promoted",
        }
    }

    /// Whether it counts as the standby's own. [`Class::B`] does where no substitution is declared, [`Class::G`] as
    /// long as what makes it safe to sync is not built.
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::A | Self::B | Self::G)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// How a file of [`Class::B`] is made from production's and the standby's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Substitution {
    /// fstab(5): the lines of the system are the standby's, those of data are production's and `noauto`.
    Fstab,
    /// hosts(5): the lines that name the standby are its own, all others production's.
    Hosts,
    /// A kernel's command line: the words that name devices are the standby's, all others production's.
    Cmdline,
    /// GRUB's defaults: the same of each command line in them, and the settings that name devices are the standby's.
    Grub,
    /// crypttab(5): what the standby opens by itself is its own, what production opens besides is `noauto`.
    Crypttab,
    /// vfstab(4): the lines of the system are the standby's, those of data are production's and not mounted at boot.
    Vfstab,
    /// system(4): what tells the kernel of a root on a volume is the standby's, all else production's.
    System,
}

/// What follows on the standby when something of [`Class::C`] changed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FollowUp {
    /// Module dependencies and the initramfs of every kernel.
    Initramfs,
    /// The boot loader itself, on the disks that the firmware boots from.
    BootLoader,
    /// What the boot loader reads.
    BootConfiguration,
    /// The cache of the dynamic linker.
    Ldconfig,
    /// systemd reads its units again.
    DaemonReload,
    /// Kernel parameters are set again.
    Sysctl,
}

impl FollowUp {
    /// What is done, in words for a person.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Initramfs => "make the initramfs of each kernel",
            Self::BootLoader => "put the boot loader on the boot disks",
            Self::BootConfiguration => "make the boot menu",
            Self::Ldconfig => "make the cache of the dynamic linker",
            Self::DaemonReload => "have systemd read its units",
            Self::Sysctl => "set the kernel's parameters",
        }
    }
}

/// What a catalogue says of a path besides its class.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Treatment {
    /// Nothing.
    #[default]
    Plain,
    /// It belongs to the auth set, which is read, checked and swapped as one.
    AuthSet,
    /// It is made from two files.
    Substitute(Substitution),
    /// Something follows.
    Then(Vec<FollowUp>),
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// In scope.
    Include,
    /// Out of scope.
    Exclude,
    /// Absolutely out of scope: no rule and no catalogue row below it changes that.
    Protect,
    /// A catalogue row.
    Class(Class),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Include => f.write_str("include"),
            Self::Exclude => f.write_str("exclude"),
            Self::Protect => f.write_str("protect"),
            Self::Class(class) => write!(f, "class {class}"),
        }
    }
}

/// Where a rule was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// File, or `command line`.
    pub file: String,
    /// Line, from 1; 0 where there is none.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
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
    /// What else is to be done with the path. Only an [`Action::Class`] rule says anything.
    pub treatment: Treatment,
}

impl Rule {
    /// A rule that says no more than its action.
    #[must_use]
    pub fn new(action: Action, pattern: impl Into<Vec<u8>>, origin: Origin) -> Self {
        Self { action, pattern: pattern.into(), origin, treatment: Treatment::Plain }
    }

    /// Whether it is a catalogue row that lets the path take part like any other.
    #[must_use]
    pub fn is_plain_row(&self) -> bool {
        match self.action {
            Action::Class(Class::S | Class::C) => true,
            Action::Class(Class::B) => matches!(self.treatment, Treatment::Substitute(_)),
            _ => false,
        }
    }
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
    /// The rule that decided: the protect rule, else the catalogue row of any class but [`Class::S`], else the
    /// deepest include or exclude rule, else the row of class S; none when no rule matches.
    pub rule: Option<&'a Rule>,
    /// The deepest include or exclude rule, whether or not it had the last word.
    pub selection: Option<&'a Rule>,
    /// The catalogue row that gave the class, whether or not it had the last word.
    pub row: Option<&'a Rule>,
}

/// Why rules do not compile.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A pattern that is none.
    #[error("{}: bad pattern {pattern}: {reason}", place(file, *line))]
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
    /// More rules than anybody writes; they come from peers too.
    #[error("{count} rules, the limit is {limit}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// File and line, as [`Origin`] shows them.
fn place(file: &str, line: u32) -> String {
    Origin { file: file.to_string(), line }.to_string()
}
