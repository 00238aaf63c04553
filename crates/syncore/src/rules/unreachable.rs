//! Rules that can never have an effect.
//!
//! Why: an administrator who wrote `include = ["/etc/fstab"]` believes that it is synced. What can go wrong: a
//! warning for a rule that does have an effect teaches people to ignore warnings. So only what is certain is
//! reported: what a rule's fixed leading names already settle.

use std::collections::HashMap;

use super::pattern::{Pattern, Step};
use super::{Action, Rule, RuleSet};

/// A rule that never has an effect, and why.
#[derive(Debug, Clone)]
pub struct Unreachable<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The rule that is in its way.
    pub because_of: &'a Rule,
    /// Why, for a person, to stand between the two.
    pub reason: &'static str,
}

impl std::fmt::Display for Unreachable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |rule: &Rule| format!("{} {}", rule.action, crate::tree::escape(&rule.pattern));
        let (rule, other) = (self.rule, self.because_of);
        write!(f, "{}: {} has no effect: ", rule.origin, text(rule))?;
        write!(f, "{} {} ({})", self.reason, text(other), other.origin)
    }
}

impl RuleSet {
    /// The include, exclude and protect rules that never have an effect, where that can be told cheaply.
    #[must_use]
    pub fn never_matching(&self) -> Vec<Unreachable<'_>> {
        let mut seen: HashMap<(Action, &[u8]), &Rule> = HashMap::new();
        let excluded: HashMap<&[u8], &Rule> = self
            .rules()
            .rev()
            .filter(|rule| rule.action == Action::Exclude)
            .map(|rule| (rule.pattern.as_slice(), rule))
            .collect();
        let mut found = Vec::new();
        for rule in self.rules().filter(|rule| !matches!(rule.action, Action::Class(_))) {
            let mut report = |because_of, reason| found.push(Unreachable { rule, because_of, reason });
            if let Some(first) = seen.get(&(rule.action, rule.pattern.as_slice())) {
                report(first, "it repeats");
                continue;
            }
            seen.insert((rule.action, &rule.pattern), rule);
            if rule.action != Action::Include {
                continue;
            }
            if let Some(other) = excluded.get(rule.pattern.as_slice()) {
                report(other, "at the same depth exclude wins:");
            } else if let Some((other, reason)) = self.kept_out(rule) {
                report(other, reason);
            }
        }
        found
    }

    /// What keeps everything out that an include rule can match.
    fn kept_out(&self, rule: &Rule) -> Option<(&Rule, &'static str)> {
        let pattern = Pattern::parse(&rule.pattern).ok()?;
        let last = pattern.steps.len().checked_sub(1)?;
        let (mut standing, mut places) = self.start();
        for (index, step) in pattern.steps.iter().enumerate() {
            let Step::Name(name) = step else { return None };
            // Whether the last name is a directory is not known; what is certain holds either way.
            let is_directory = index != last || pattern.directory_only;
            let (otherwise, _) = self.advance(&places, standing, name, is_directory);
            (standing, places) = self.advance(&places, standing, name, true);
            if let (Some(protect), Some(_)) = (standing.protect, otherwise.protect) {
                return Some((self.rule(protect), "everything there is kept by"));
            }
            let is_kept = !self.may_be_plain(standing, &places) && !self.may_be_plain(otherwise, &[]);
            if index == last && is_kept && !self.may_be_empty(standing) {
                return self.row_of(standing).map(|row| (row, "the path is kept by"));
            }
        }
        None
    }
}
