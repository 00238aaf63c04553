//! The rules without depth: a list of patterns of which the first that matches decides, and the places where a walk has
//! to begin anew.
//!
//! Why: rsync asks one list about each path and never enters what it left out, so it cannot be told that the deepest
//! rule decides. But where the directory above is in scope, only what matches the very path counts, and a list can say
//! that; and what is in scope below something that is not is there because a rule names it, so a walk can be begun
//! there. What can go wrong: an include rule with a wildcard, which names no place to begin at. It is refused.

use super::pattern::Pattern;
use super::spell::{Part, spellings};
use super::{Action, Class, Rule, RuleError, RuleSet, Scope};
use crate::tree::RelPath;

/// Rules as a list and places to begin at.
#[derive(Debug, Clone, Default)]
pub struct Flat<'a> {
    /// Whether the root is in scope.
    pub root: bool,
    /// The first that matches a path says whether it is in scope; one that none matches is as its directory. Holds only
    /// where the directory above is in scope.
    pub filters: Vec<Filter<'a>>,
    /// What is in scope below a directory that is not, in the order of its paths.
    pub tops: Vec<Top>,
    /// Directories that are made if missing, because something below them may be in scope; otherwise left alone.
    pub implied: Vec<RelPath>,
    /// Directories that are made if missing, and never read.
    pub empty: Vec<RelPath>,
    /// The same, for all names that match.
    pub empty_matching: Vec<Matching>,
    /// Paths that take part unless they are directories. Where the two ends differ in what is there, nothing is touched.
    pub no_directories: Vec<RelPath>,
    /// The files of the auth set that are in scope; the filters leave them out.
    pub auth_set: Vec<RelPath>,
    /// Where along the literal rules a directory begins or ceases to be in scope; the deepest counts.
    pub turns: Vec<(RelPath, bool)>,
}

/// One line of the list.
#[derive(Debug, Clone)]
pub struct Filter<'a> {
    /// Whether what matches is in scope.
    pub show: bool,
    /// Whether only directories match.
    pub directory_only: bool,
    /// Any of these.
    pub spellings: Vec<Vec<Part>>,
    /// The rule that says so.
    pub rule: &'a Rule,
}

/// A place where a walk begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    /// Where.
    pub path: RelPath,
    /// Whether it is in scope when it is a directory.
    pub directory: bool,
    /// Whether it is in scope when it is anything else.
    pub file: bool,
}

/// Directories of one directory, by name.
#[derive(Debug, Clone)]
pub struct Matching {
    /// The directory, which is in scope.
    pub parent: RelPath,
    /// The whole pattern.
    pub spellings: Vec<Vec<Part>>,
    /// But for what these match.
    pub except: Vec<Vec<Part>>,
}

/// Why rules cannot be said without depth.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlatError {
    /// A rule for which there is no way to say it.
    #[error("{}: {} {}: {reason}", rule.origin, rule.action, crate::tree::escape(&rule.pattern))]
    Rule {
        /// The rule.
        rule: Rule,
        /// What is in the way.
        reason: &'static str,
    },
    /// Rules that are none.
    #[error(transparent)]
    Rules(#[from] RuleError),
}

impl RuleSet {
    /// The rules as a list and places to begin at.
    ///
    /// # Errors
    /// [`FlatError`]: an include rule with a wildcard, or a pattern with too many spellings.
    pub fn flatten(&self) -> Result<Flat<'_>, FlatError> {
        let mut flat = Flat { root: self.root().1.scope == Scope::In, ..Flat::default() };
        let mut literal = Vec::new();
        for rule in self.rules() {
            let pattern = self.parsed(rule)?;
            if pattern.is_literal() {
                literal.extend(RelPath::from_absolute(&trimmed(&rule.pattern, &pattern)));
            } else if rule.action == Action::Include {
                let reason = "a rule that takes something in must name it without a wildcard";
                return Err(FlatError::Rule { rule: rule.clone(), reason });
            }
        }
        literal.sort();
        literal.dedup();
        for path in literal.iter().filter(|path| !path.is_root()) {
            self.place(path, &mut flat);
        }
        flat.filters = self.filters(&flat.auth_set)?;
        self.empty_matching(&mut flat)?;
        Ok(flat)
    }

    fn parsed(&self, rule: &Rule) -> Result<Pattern, FlatError> {
        let bad = |reason| RuleError::Pattern {
            file: rule.origin.file.clone(),
            line: rule.origin.line,
            pattern: crate::tree::escape(&rule.pattern),
            reason,
        };
        Ok(Pattern::parse(&rule.pattern).map_err(bad)?)
    }

    /// What a path that a rule names is.
    fn place<'a>(&'a self, path: &RelPath, flat: &mut Flat<'a>) {
        let is_in = |path: &RelPath, directory| self.decide(path, directory).scope == Scope::In;
        let parent = path.parent().unwrap_or_default();
        let (directory, file, above) = (is_in(path, true), is_in(path, false), is_in(&parent, true));
        if directory != above {
            flat.turns.push((path.clone(), directory));
        }
        if file && !directory {
            flat.no_directories.push(path.clone());
        }
        if file && self.decide(path, false).auth_set {
            flat.auth_set.push(path.clone());
        } else if (directory || file) && !above {
            flat.tops.push(Top { path: path.clone(), directory, file });
        }
        if self.decide(path, true).scope == Scope::Empty {
            flat.empty.push(path.clone());
        }
        let mut at = RelPath::root();
        for name in path.components() {
            at = at.join(name);
            if self.decide(&at, true).scope == Scope::Implied && !flat.implied.contains(&at) {
                flat.implied.push(at.clone());
            }
        }
    }

    /// The list: what is kept out first, then the rows, the one with the most precedence first.
    fn filters(&self, auth_set: &[RelPath]) -> Result<Vec<Filter<'_>>, FlatError> {
        let mut out = Vec::new();
        let mut rows = Vec::new();
        for (index, rule) in self.rules().enumerate() {
            let pattern = self.parsed(rule)?;
            if pattern.steps.is_empty() || rule.action == Action::Include {
                continue;
            }
            let Some(spellings) = spellings(&pattern) else {
                let reason = "it has too many spellings, or a class with what is not ASCII";
                return Err(FlatError::Rule { rule: rule.clone(), reason });
            };
            let is_auth = |path: &RelPath| [b"/", path.as_bytes()].concat() == rule.pattern;
            let show = rule.is_plain_row() && !auth_set.iter().any(is_auth);
            let filter = Filter { show, directory_only: pattern.directory_only, spellings, rule };
            match rule.action {
                Action::Class(_) => rows.push(((pattern.is_literal(), index), filter)),
                _ => out.push(filter),
            }
        }
        rows.sort_by_key(|(precedence, _)| std::cmp::Reverse(*precedence));
        // What shows a path has an effect only where a later line may hide it.
        let mut kept: Vec<Filter<'_>> = Vec::new();
        for ((literal, _), filter) in rows.into_iter().rev() {
            let hides = |later: &Filter<'_>| !later.show && (!literal || may_match(later, &filter));
            if !filter.show || kept.iter().any(hides) {
                kept.push(filter);
            }
        }
        out.extend(kept.into_iter().rev());
        Ok(out)
    }

    /// The rows of class D with a wildcard in their last name.
    fn empty_matching(&self, flat: &mut Flat<'_>) -> Result<(), FlatError> {
        for (at, filter) in flat.filters.iter().enumerate() {
            let Some(parts) = filter.spellings.first() else { continue };
            if filter.rule.action != Action::Class(Class::D) || self.parsed(filter.rule)?.is_literal() {
                continue;
            }
            let names = parts[..parts.len() - 1].iter().map(|part| match part {
                Part::Name(name) => Some(&name[..]),
                _ => None,
            });
            let Some(names) = names.collect::<Option<Vec<&[u8]>>>().filter(|_| filter.spellings.len() == 1)
            else {
                let reason = "a row of class D may have a wildcard in its last name only";
                return Err(FlatError::Rule { rule: filter.rule.clone(), reason });
            };
            let parent = names.iter().fold(RelPath::root(), |path, name| path.join(name));
            if self.decide(&parent, true).scope == Scope::In {
                let except = flat.filters[..at].iter().flat_map(|other| other.spellings.clone()).collect();
                let spellings = filter.spellings.clone();
                flat.empty_matching.push(Matching { parent, spellings, except });
            }
        }
        Ok(())
    }
}

/// The path that a literal pattern names.
fn trimmed(text: &[u8], pattern: &Pattern) -> Vec<u8> {
    let names = pattern.steps.iter().filter_map(|step| match step {
        super::pattern::Step::Name(name) => Some(&name[..]),
        _ => None,
    });
    match pattern.steps.is_empty() {
        true => text.to_vec(),
        false => names.fold(Vec::new(), |path, name| [&path[..], b"/", name].concat()),
    }
}

/// Whether a line may match the one path of another; says yes where it cannot tell.
fn may_match(line: &Filter<'_>, literal: &Filter<'_>) -> bool {
    let (Some(path), true) = (literal.spellings.first(), line.spellings.len() == 1) else { return true };
    let Some(pattern) = line.spellings.first() else { return true };
    let same = |(one, other): (&Part, &Part)| match (one, other) {
        (Part::Name(one), Part::Name(other)) => one == other,
        _ => true,
    };
    pattern.contains(&Part::AnyDepth) || (pattern.len() == path.len() && pattern.iter().zip(path).all(same))
}
