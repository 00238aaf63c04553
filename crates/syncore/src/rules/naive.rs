//! The rules again, written from the sentence alone and as slowly as it reads; only tests use it.
//!
//! Why: the compiled rules prune, share and carry state. What can go wrong: that both are wrong in the same way.
//! So nothing here is shared with them: whole paths against whole globs, every ancestor looked at every time.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobMatcher};

use super::{Action, Class, Rule, Scope, Treatment};

/// What the sentence says of a path, except that a directory never is [`Scope::Implied`]: that follows from what
/// is below it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) scope: Scope,
    pub(super) class: Class,
    pub(super) protected: bool,
    pub(super) rule: Option<usize>,
}

fn is_literal(rule: &Rule) -> bool {
    rule.pattern.starts_with(b"/") && !rule.pattern.iter().any(|b| b"*?[{".contains(b))
}

/// Rules with their patterns as globs over whole paths.
pub(super) struct Sentence<'a> {
    rules: &'a [Rule],
    globs: Vec<GlobMatcher>,
}

impl<'a> Sentence<'a> {
    pub(super) fn new(rules: &'a [Rule]) -> Self {
        let glob = |rule: &Rule| {
            let body = std::str::from_utf8(&rule.pattern).unwrap().trim_end_matches('/');
            let glob = if body.starts_with('/') { body.to_string() } else { format!("/**/{body}") };
            GlobBuilder::new(&glob).literal_separator(true).build().unwrap().compile_matcher()
        };
        Self { rules, globs: rules.iter().map(glob).collect() }
    }

    /// Whether a rule matches exactly `path` (absolute; `/` is the root).
    fn matches(&self, index: usize, path: &str, is_directory: bool) -> bool {
        let text = &self.rules[index].pattern;
        if text == b"/" || path == "/" {
            return text == path.as_bytes();
        }
        (is_directory || !text.ends_with(b"/"))
            && self.globs[index].is_match(OsStr::from_bytes(path.as_bytes()))
    }

    pub(super) fn decide(&self, path: &str, is_directory: bool) -> Verdict {
        let rules = self.rules;
        let line = from_root(path);
        let matching = |at: &str, wanted: &dyn Fn(Action) -> bool| -> Vec<usize> {
            let is_directory = is_directory || at != path;
            let hits = |index: &usize| wanted(rules[*index].action) && self.matches(*index, at, is_directory);
            (0..rules.len()).filter(hits).collect()
        };
        // Between include and exclude the deepest matching rule decides, at one depth exclude beats include.
        let selection = line.iter().rev().find_map(|at| {
            let of = |action| matching(at, &|other| other == action).first().copied();
            of(Action::Exclude).or(of(Action::Include))
        });
        let no_include = rules.iter().all(|rule| rule.action != Action::Include);
        let is_selected = selection.map_or(no_include, |index| rules[index].action == Action::Include);
        // Nothing at or below a protected path is in scope.
        let protect = line.iter().find_map(|at| matching(at, &|a| a == Action::Protect).first().copied());
        // Except where the catalogue itself names a deeper literal path.
        let (mut class, mut row, mut is_start, mut plain) = (Class::S, None, false, true);
        for at in &line {
            let mut rows = matching(at, &|action| matches!(action, Action::Class(_)));
            if !plain {
                rows.retain(|index| is_literal(&rules[*index]));
            }
            if let Some(best) = rows.into_iter().max_by_key(|index| (is_literal(&rules[*index]), *index)) {
                let Action::Class(of) = rules[best].action else { continue };
                // What is not in scope itself cannot have a directory created in it.
                is_start = *at == path && plain;
                let substituted = matches!(rules[best].treatment, Treatment::Substitute(_));
                plain = matches!(of, Class::S | Class::C) || (of == Class::B && substituted);
                (class, row) = (of, Some(best));
            }
        }
        let scope = match class {
            _ if protect.is_some() || !is_selected => Scope::Out,
            _ if plain => Scope::In,
            Class::D if is_directory && is_start => Scope::Empty,
            _ => Scope::Out,
        };
        let own = !plain && matches!(class, Class::A | Class::B | Class::G);
        let rule = protect.or(if plain { selection.or(row) } else { row });
        Verdict { scope, class, protected: protect.is_some() || own, rule }
    }
}

/// The path itself, and its ancestors from the root down.
fn from_root(path: &str) -> Vec<&str> {
    let mut all = vec!["/"];
    all.extend(path.match_indices('/').skip(1).map(|(end, _)| &path[..end]));
    if path != "/" {
        all.push(path);
    }
    all
}
