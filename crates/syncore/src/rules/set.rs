//! Compiled rules, and the two ways to ask them: one path at a time, or along a walk.
//!
//! Why: a decision about a path is made from its ancestors down, and a walk has already made it for the
//! directory it is in; the cursor carries that on, so that a question costs one step and not a whole path. What
//! can go wrong: an answer that depends on how the question was asked. Both ways take every step through
//! `advance` and end in `conclude`.

use std::sync::Arc;

use super::pattern::Pattern;
use super::trie::{Place, Trie};
use super::{Action, Class, Decision, Rule, RuleError, Scope, Substitution, Treatment};
use crate::tree::{RelPath, escape};

/// More rules than this are refused: each wildcard costs memory, and a peer may have sent them.
const RULES_LIMIT: usize = 10_000;

/// Compiled rules.
///
/// ```
/// use syncore::rules::{Action, Origin, Rule, RuleSet, Scope};
/// use syncore::tree::RelPath;
/// let rule = |action, pattern: &str| Rule {
///     action,
///     pattern: pattern.into(),
///     origin: Origin { file: "command line".into(), line: 0 },
///     treatment: Default::default(),
/// };
/// let rules = RuleSet::compile(vec![
///     rule(Action::Include, "/"),
///     rule(Action::Exclude, "/etc/"),
///     rule(Action::Include, "/etc/init.d/"),
/// ])?;
/// let scope = |path: &str| rules.decide(&RelPath::new(path).unwrap(), false).scope;
/// assert_eq!(scope("usr/bin/ls"), Scope::In);
/// assert_eq!(scope("etc/hosts"), Scope::Out);
/// assert_eq!(scope("etc/init.d/cron"), Scope::In);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    facts: Vec<Facts>,
    trie: Trie,
    default_in: bool,
}

/// What a decision needs of a rule, beside the rule.
#[derive(Debug, Clone, Copy)]
struct Facts {
    directory_only: bool,
    literal: bool,
}

/// A place in the tree, from which names are judged; cheap to clone and to pass down.
#[derive(Debug, Clone)]
pub struct Cursor {
    /// None where no pattern has anything left to say, which is most of a tree.
    places: Option<Arc<[Place]>>,
    standing: Standing,
}

/// What holds at a path and is inherited below it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    /// The deepest include or exclude rule so far.
    selection: Option<usize>,
    /// The catalogue row that gives the class.
    row: Option<usize>,
    /// Whether that row matched this very path, and what holds it is plain: where a directory may be created.
    is_row_start: bool,
    /// The protect rule that covers this path.
    pub(super) protect: Option<usize>,
}

/// The rules that match one path, the best of each kind.
#[derive(Default)]
struct Found {
    selection: Option<usize>,
    row: Option<usize>,
    protect: Option<usize>,
}

impl RuleSet {
    /// Compiles rules; none at all means: everything is in scope. So does a set without an include rule, but for
    /// what its other rules keep out.
    ///
    /// # Errors
    /// [`RuleError`], see there.
    pub fn compile(rules: Vec<Rule>) -> Result<Self, RuleError> {
        if rules.len() > RULES_LIMIT {
            return Err(RuleError::TooMany { count: rules.len(), limit: RULES_LIMIT });
        }
        let mut trie = Trie::new();
        let mut facts = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let pattern = Pattern::parse(&rule.pattern).map_err(|reason| RuleError::Pattern {
                file: rule.origin.file.clone(),
                line: rule.origin.line,
                pattern: escape(&rule.pattern),
                reason,
            })?;
            facts.push(Facts { directory_only: pattern.directory_only, literal: pattern.is_literal() });
            trie.insert(pattern, index);
        }
        trie.finish(
            |rule| rules[rule].action == Action::Include,
            |rule| facts[rule].literal && rules[rule].is_plain_row(),
        );
        let default_in = !rules.iter().any(|rule| rule.action == Action::Include);
        Ok(Self { rules, facts, trie, default_in })
    }

    /// The rules, in the order in which they were given.
    pub fn rules(&self) -> impl DoubleEndedIterator<Item = &Rule> + ExactSizeIterator {
        self.rules.iter()
    }

    /// Judges one path.
    #[must_use]
    pub fn decide(&self, path: &RelPath, is_directory: bool) -> Decision<'_> {
        let (mut standing, mut places) = self.start();
        let mut components = path.components().peekable();
        while let Some(name) = components.next() {
            let is_ancestor = components.peek().is_some();
            (standing, places) = self.advance(&places, standing, name, is_directory || is_ancestor);
        }
        self.conclude(standing, &places, is_directory || path.is_root())
    }

    /// How the file at `path` is made from production's and the standby's own, if it is.
    #[must_use]
    pub fn substitution(&self, path: &RelPath) -> Option<Substitution> {
        match self.decide(path, false).row.map(|row| &row.treatment) {
            Some(Treatment::Substitute(substitution)) => Some(*substitution),
            _ => None,
        }
    }

    /// The cursor of the root directory, and the decision about the root itself.
    #[must_use]
    pub fn root(&self) -> (Cursor, Decision<'_>) {
        let (standing, places) = self.start();
        let decision = self.conclude(standing, &places, true);
        (Cursor::new(places, standing, None), decision)
    }

    /// Judges `name` in the directory at `cursor`; for a directory that may hold something in scope
    /// ([`Scope::In`], [`Scope::Implied`]) also gives the cursor for what is in it.
    #[must_use]
    pub fn enter(&self, cursor: &Cursor, name: &[u8], is_directory: bool) -> (Decision<'_>, Option<Cursor>) {
        let from = cursor.places.as_deref().unwrap_or_default();
        let (standing, places) = self.advance(from, cursor.standing, name, is_directory);
        let decision = self.conclude(standing, &places, is_directory);
        let goes_on = is_directory && matches!(decision.scope, Scope::In | Scope::Implied);
        (decision, goes_on.then(|| Cursor::new(places, standing, cursor.places.as_ref())))
    }

    /// The rule with this number.
    pub(super) fn rule(&self, index: usize) -> &Rule {
        &self.rules[index]
    }

    /// What holds at the root.
    pub(super) fn start(&self) -> (Standing, Vec<Place>) {
        let (rules, places) = self.trie.root();
        let mut found = Found::default();
        self.weigh(rules, true, Standing::default(), &mut found);
        (self.below(Standing::default(), &found), places)
    }

    /// What holds at `name`, given what holds in its directory. The places from which names go on are only
    /// gathered for directories: files are most of a tree, and nothing is below them.
    pub(super) fn advance(
        &self,
        from: &[Place],
        above: Standing,
        name: &[u8],
        is_directory: bool,
    ) -> (Standing, Vec<Place>) {
        let mut found = Found::default();
        let mut places = Vec::new();
        self.trie.step(from, name, |place| {
            self.weigh(self.trie.rules(place), is_directory, above, &mut found);
            if is_directory {
                self.trie.reach(place, &mut places);
            }
        });
        if is_directory {
            self.trie.keep(from, &mut places);
        }
        (self.below(above, &found), places)
    }

    /// Puts the rules that match one path, in any order, against the best so far.
    fn weigh(&self, rules: &[usize], is_directory: bool, above: Standing, found: &mut Found) {
        let is_locked = !self.is_plain(above.row);
        for &index in rules {
            let facts = self.facts[index];
            if facts.directory_only && !is_directory {
                continue;
            }
            let slot = match self.rules[index].action {
                Action::Include | Action::Exclude => &mut found.selection,
                Action::Protect => &mut found.protect,
                // Below a protection only a row that names the path itself counts.
                Action::Class(_) if is_locked && !facts.literal => continue,
                Action::Class(_) => &mut found.row,
            };
            if slot.is_none_or(|best| self.beats(index, best)) {
                *slot = Some(index);
            }
        }
    }

    /// What holds one step down from `above`, where `found` matched.
    fn below(&self, above: Standing, found: &Found) -> Standing {
        Standing {
            selection: found.selection.or(above.selection),
            row: found.row.or(above.row),
            is_row_start: found.row.is_some() && self.is_plain(above.row),
            protect: above.protect.or(found.protect),
        }
    }

    /// Whether `rule` has precedence over `best`, which says the same kind of thing about the same path.
    fn beats(&self, rule: usize, best: usize) -> bool {
        match (self.rules[rule].action, self.rules[best].action) {
            (Action::Class(_), _) => {
                // The later one, so that a profile can correct the catalogue that it extends.
                (self.facts[rule].literal, rule) > (self.facts[best].literal, best)
            }
            (Action::Exclude, Action::Include) => true,
            (Action::Include, Action::Exclude) => false,
            _ => rule < best,
        }
    }

    fn class(&self, row: Option<usize>) -> Class {
        match row.map(|index| self.rules[index].action) {
            Some(Action::Class(class)) => class,
            _ => Class::S,
        }
    }

    /// Whether a catalogue row, or that there is none, lets a path take part like any other.
    fn is_plain(&self, row: Option<usize>) -> bool {
        row.is_none_or(|index| self.rules[index].is_plain_row())
    }

    /// The decision about a path, from what holds there.
    fn conclude(&self, standing: Standing, places: &[Place], is_directory: bool) -> Decision<'_> {
        let class = self.class(standing.row);
        let is_plain = self.is_plain(standing.row);
        let is_selected = self.is_selected(standing);
        let scope = if standing.protect.is_some() {
            Scope::Out
        } else if is_plain && is_selected {
            Scope::In
        } else if is_directory && self.may_hold_scope(standing, places) {
            Scope::Implied
        } else if is_directory && is_selected && self.may_be_empty(standing) {
            Scope::Empty
        } else {
            Scope::Out
        };
        let deciding = match (standing.protect, is_plain) {
            (Some(index), _) => Some(index),
            (None, true) => standing.selection.or(standing.row),
            (None, _) => standing.row,
        };
        let rule = |index: Option<usize>| index.map(|index| &self.rules[index]);
        Decision {
            scope,
            class,
            protected: standing.protect.is_some() || (class.is_own() && !is_plain),
            auth_set: rule(standing.row).is_some_and(|row| row.treatment == Treatment::AuthSet),
            rule: rule(deciding),
            selection: rule(standing.selection),
            row: rule(standing.row),
        }
    }

    fn is_selected(&self, standing: Standing) -> bool {
        standing.selection.map_or(self.default_in, |index| self.rules[index].action == Action::Include)
    }

    /// Whether anything below a directory can be in scope. May say yes where in the end nothing is (an include
    /// rule and a row of class S on different paths below); never says no where something is.
    fn may_hold_scope(&self, standing: Standing, places: &[Place]) -> bool {
        self.may_be_plain(standing, places) && (self.is_selected(standing) || self.trie.include_below(places))
    }

    /// As [`RuleSet::may_hold_scope`], without regard to include and exclude.
    pub(super) fn may_be_plain(&self, standing: Standing, places: &[Place]) -> bool {
        self.is_plain(standing.row) || self.trie.lift_below(places)
    }

    /// Whether a directory at this place is created, empty, when an include rule selects it.
    pub(super) fn may_be_empty(&self, standing: Standing) -> bool {
        standing.is_row_start && self.class(standing.row) == Class::D
    }

    /// The catalogue row that gives the class.
    pub(super) fn row_of(&self, standing: Standing) -> Option<&Rule> {
        standing.row.map(|index| &self.rules[index])
    }
}

impl Cursor {
    /// Shares the places of the directory above where they are the same, as in most directories below a `**`.
    fn new(places: Vec<Place>, standing: Standing, above: Option<&Arc<[Place]>>) -> Self {
        let places = match above {
            _ if places.is_empty() => None,
            Some(above) if **above == *places => Some(Arc::clone(above)),
            _ => Some(places.into()),
        };
        Self { places, standing }
    }
}
