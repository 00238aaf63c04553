//! What production has now of what is held, and how it gets into place.
//!
//! Why: a promotion must end with production's jobs and units as they are today, not as they were when the clone was
//! made. So what production had then is kept below [`PRODUCTION`] before the first edit, each sync brings it up to
//! date there, where it does not act, and a release puts it in its place. What was there at the time of the clone is
//! known by digest: a file that still has it is production's, and follows production's; any other is the standby's own.
//!
//! What can go wrong: both have changed a file. Nothing is overwritten then; it is named. A crash: what is in its place
//! already is found equal, so releasing again goes on. A sender that put more below [`PRODUCTION`] than what is held:
//! only what it could send to a promoted standby as it is goes into place, and nothing of the standby's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::hold::{Undo, make_held_parents};
use super::inside::Inside;
use super::journal::{self, Journal};
use super::mirror::{Mirror, described, digest_of, same};
use super::report::Held;
use super::standby::PRODUCTION;
use super::{PrepareError, protected};
use crate::rules::{Action, Class, RuleSet, Scope};
use crate::scan::is_stage_name;
use crate::tree::{Entry, Kind, RelPath, unescape};

/// What production had when it was cloned, by path: kept beside the journal.
const CLONED: &str = "cloned.json";
/// What the list calls what a sync brought.
const KIND: &str = "sync";

/// Production's latest, and what of it the standby has in place.
pub(super) struct Latest<'a> {
    inside: &'a Inside,
    top: RelPath,
    rules: RuleSet,
    /// Digests of what production had when it was last put in place, by path.
    cloned: BTreeMap<String, String>,
}

/// What is to be done at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Put,
    Remove,
    Keep(&'static str),
}

/// What became of a thing that lies elsewhere while it is held, besides that it can go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Production has it no more.
    Gone,
    /// Production's latest is in its place already.
    There,
}

/// What came of bringing production's latest.
#[derive(Debug, Default)]
pub(super) struct Brought {
    pub(super) put: Vec<Held>,
    pub(super) gone: Vec<Held>,
    pub(super) kept: BTreeMap<RelPath, String>,
    pub(super) fates: BTreeMap<RelPath, Fate>,
}

/// Keeps what production had when it was cloned, unless an earlier preparation did.
pub(super) fn keep(inside: &Inside) -> Result<(), PrepareError> {
    let top = journal::path(PRODUCTION);
    let failed = |error: io::Error| PrepareError::Edit { path: top.clone(), reason: error.to_string() };
    if journal::read_state(inside.root(), CLONED).map_err(failed)?.is_some() {
        return Ok(());
    }
    let rules = rules(inside, None)?;
    let mut mirror = Mirror::new(inside).map_err(failed)?;
    // What an interrupted preparation left may be of another clone.
    mirror.remove(&top).map_err(failed)?;
    make_held_parents(inside.root(), &top).map_err(failed)?;
    let mut cloned = BTreeMap::new();
    for rule in protected::catalogue(inside) {
        let Some(row) = (rule.action == Action::Class(Class::G)).then_some(&rule.pattern) else { continue };
        let Ok(row) = RelPath::from_absolute(row) else { continue };
        if inside.entry_at(&row).map_err(failed)?.is_none() {
            continue;
        }
        let mut above: Vec<RelPath> = std::iter::successors(row.parent(), RelPath::parent).collect();
        above.retain(|path| !path.is_root());
        for path in above.iter().rev() {
            mirror.one(path, &below(&top, path)).map_err(failed)?;
        }
        let mut todo = vec![row];
        while let Some(path) = todo.pop() {
            let Some(entry) = described(inside, &path).map_err(failed)? else { continue };
            if !is_plain(&rules, &path, entry.kind) {
                continue;
            }
            mirror.one(&path, &below(&top, &path)).map_err(failed)?;
            cloned.insert(path.to_string(), digest_of(&entry));
            todo.extend(inside.list_at(&path).map_err(failed)?.iter().map(|name| path.join(name)));
        }
    }
    if let Some(problem) = mirror.finish().map_err(failed)?.into_iter().next() {
        return Err(PrepareError::Edit { path: top, reason: problem.to_string() });
    }
    write(inside, &cloned).map_err(failed)
}

fn write(inside: &Inside, cloned: &BTreeMap<String, String>) -> io::Result<()> {
    journal::write_state(inside, CLONED, &serde_json::to_vec_pretty(cloned)?)
}

/// The rules of a promoted standby: what is out of them is its own, promoted or not.
fn rules(inside: &Inside, journal: Option<&Journal>) -> Result<RuleSet, PrepareError> {
    let mut rules = protected::rules(inside, journal, true);
    rules.extend(protected::own_rules(inside.root()).map_err(PrepareError::Option)?);
    RuleSet::compile(rules).map_err(|error| PrepareError::Option(error.to_string()))
}

/// Whether a promoted standby takes the path from production as it is.
fn is_plain(rules: &RuleSet, path: &RelPath, kind: Kind) -> bool {
    let decision = rules.decide(path, kind == Kind::Directory);
    decision.scope == Scope::In && decision.class == Class::S && !decision.auth_set
}

fn below(top: &RelPath, path: &RelPath) -> RelPath {
    path.components().fold(top.clone(), |at, name| at.join(name))
}

impl<'a> Latest<'a> {
    /// What a sync brought; none where none ever did, and nothing was kept for it.
    pub(super) fn open(inside: &'a Inside, journal: &Journal) -> Result<Option<Self>, PrepareError> {
        let top = journal::path(PRODUCTION);
        let failed = |error: io::Error| PrepareError::read(&top, error);
        if inside.entry_at(&top).map_err(failed)?.is_none_or(|entry| entry.kind != Kind::Directory) {
            return Ok(None);
        }
        let rules = rules(inside, Some(journal))?;
        let cloned = journal::read_state(inside.root(), CLONED).map_err(failed)?;
        let cloned = cloned.map(|cloned| serde_json::from_slice(&cloned)).transpose();
        let cloned = cloned.map_err(|error| PrepareError::Journal(format!("{CLONED}: {error}")))?;
        Ok(Some(Self { inside, top, rules, cloned: cloned.unwrap_or_default() }))
    }

    /// What production has otherwise than the standby, except for what lies elsewhere while it is held.
    pub(super) fn list(&self, held: &[Held]) -> io::Result<Vec<Held>> {
        let steps = self.steps(held, None)?;
        Ok(steps.iter().map(|(path, step)| self.held(path, *step)).collect())
    }

    /// Whether a release of that name has anything to do here.
    pub(super) fn has(&self, name: &str, held: &[Held]) -> io::Result<bool> {
        Ok(!self.steps(held, Some(&[name.to_owned()]))?.is_empty())
    }

    fn held(&self, path: &RelPath, step: Step) -> Held {
        let how = match step {
            Step::Put if self.cloned.contains_key(&path.to_string()) => "production has another one since",
            Step::Put => "production has it since",
            Step::Remove => "production deleted it since",
            Step::Keep(why) => why,
        };
        from_sync(path, how)
    }

    /// Every path at which something is to be done, in the order of the tree.
    fn steps(&self, held: &[Held], names: Option<&[String]>) -> io::Result<Vec<(RelPath, Step)>> {
        let mut elsewhere = Vec::new();
        for undo in held.iter().flat_map(|held| &held.undo) {
            if let Undo::PutBack { path, from, .. } = undo
                && self.inside.entry_at(from)?.is_some()
            {
                elsewhere.push(path);
            }
        }
        let mut steps = Vec::new();
        for path in self.paths()? {
            let named = names.is_none_or(|names| names.iter().any(|name| belongs(&path, name)));
            if !named || elsewhere.iter().any(|held| path.starts_with(held)) {
                continue;
            }
            let production = described(self.inside, &below(&self.top, &path))?;
            let own = described(self.inside, &path)?;
            let Some(kind) = production.as_ref().or(own.as_ref()).map(|entry| entry.kind) else { continue };
            if let Some(step) = self.step(&path, production.as_ref(), own.as_ref())
                && is_plain(&self.rules, &path, kind)
            {
                steps.push((path, step));
            }
        }
        // A directory goes only with all that is in it.
        let mut going: BTreeSet<RelPath> = BTreeSet::new();
        for (path, _) in steps.iter().rev().filter(|(_, step)| *step == Step::Remove) {
            if self.inside.list_at(path)?.iter().all(|name| going.contains(&path.join(name))) {
                going.insert(path.clone());
            }
        }
        steps.retain(|(path, step)| *step != Step::Remove || going.contains(path));
        Ok(steps)
    }

    /// What is to be done where production has `production` and the standby `own`; none if nothing.
    fn step(&self, path: &RelPath, production: Option<&Entry>, own: Option<&Entry>) -> Option<Step> {
        let cloned = self.cloned.get(&path.to_string());
        let is_cloned = |entry: &Entry| cloned == Some(&digest_of(entry));
        match (production, own) {
            (None, None) => None,
            // A program makes its own when it starts.
            (Some(entry), _) if matches!(entry.kind, Kind::Socket | Kind::Fifo) => None,
            (Some(_), None) => Some(Step::Put),
            (Some(production), Some(own)) if same(production, own) => None,
            (Some(production), Some(own)) if own.kind == Kind::Directory => match production.kind {
                Kind::Directory => is_cloned(own).then_some(Step::Put),
                _ => Some(Step::Keep("it is a directory here")),
            },
            (Some(_), Some(own)) if is_cloned(own) => Some(Step::Put),
            (Some(production), Some(_)) if is_cloned(production) => None,
            (Some(_), Some(_)) => {
                Some(Step::Keep("it was made or changed here, and production has another one"))
            }
            (None, Some(own)) if is_cloned(own) => Some(Step::Remove),
            (None, Some(own)) if own.kind == Kind::Directory || cloned.is_none() => None,
            (None, Some(_)) => Some(Step::Keep("production deleted it since, and it was changed here")),
        }
    }

    /// Puts in place what production has of what is `wanted`, or, with `names`, of what has one of them; what lies
    /// elsewhere while it is held becomes production's latest there.
    pub(super) fn bring(
        &mut self,
        held: &[Held],
        wanted: &[Held],
        names: Option<&[String]>,
    ) -> io::Result<Brought> {
        let mut brought = Brought::default();
        let steps = self.steps(held, names)?;
        let mut mirror = Mirror::new(self.inside)?;
        let tried = |path: &RelPath, mirror: &Mirror<'_>, result: io::Result<()>| {
            if let Err(error) = result {
                mirror.note(path, error);
            }
        };
        for (path, _) in steps.iter().rev().filter(|(_, step)| *step == Step::Remove) {
            tried(path, &mirror, mirror.remove_one(path));
        }
        for (path, _) in steps.iter().filter(|(_, step)| *step == Step::Put) {
            let result = mirror.one(&below(&self.top, path), path).map(drop);
            tried(path, &mirror, result);
        }
        let mut refreshed = Vec::new();
        for undo in wanted.iter().flat_map(|held| &held.undo) {
            let Undo::PutBack { path, from, .. } = undo else { continue };
            let lies = self.inside.entry_at(from)?.is_some();
            let from_production = below(&self.top, path);
            match described(self.inside, &from_production)? {
                None if self.cloned.contains_key(&path.to_string())
                    && (lies || self.inside.entry_at(path)?.is_none()) =>
                {
                    brought.fates.insert(path.clone(), Fate::Gone);
                }
                // What is held and no sync brings goes back as it is.
                None => {}
                Some(_) if !lies => {}
                Some(entry) => {
                    let own = described(self.inside, path)?;
                    if entry.kind != Kind::Directory && own.is_some_and(|own| same(&entry, &own)) {
                        brought.fates.insert(path.clone(), Fate::There);
                    } else {
                        let result = mirror.tree(&from_production, from);
                        tried(path, &mirror, result);
                        refreshed.push((path.clone(), from.clone()));
                    }
                }
            }
        }
        for problem in mirror.finish()? {
            let place = refreshed.iter().find(|(_, from)| problem.path.starts_with(from));
            let path = place.map_or_else(|| problem.path.clone(), |(path, _)| path.clone());
            brought.kept.insert(path, problem.to_string());
        }
        for (path, step) in steps {
            match step {
                Step::Keep(why) => drop(brought.kept.insert(path, why.to_owned())),
                _ if brought.kept.contains_key(&path) => {}
                Step::Put => brought.put.push(self.held(&path, step)),
                Step::Remove => brought.gone.push(self.held(&path, step)),
            }
        }
        self.remember(&refreshed)?;
        Ok(brought)
    }

    /// Writes down what of production's is in place now, or about to be: the next release goes on from that.
    fn remember(&mut self, refreshed: &[(RelPath, RelPath)]) -> io::Result<()> {
        let before = self.cloned.clone();
        for path in self.paths()? {
            let production = described(self.inside, &below(&self.top, &path))?;
            let own = described(self.inside, &path)?;
            let name = path.to_string();
            let held = refreshed.iter().any(|(held, _)| path.starts_with(held));
            let Some(production) = production else { continue };
            // Directories that only lead to what is held are the plain sync's.
            let known = |path: &RelPath| self.cloned.contains_key(&path.to_string());
            let counts = production.kind != Kind::Directory
                || known(&path)
                || path.parent().is_some_and(|p| known(&p));
            if counts && (held || own.is_some_and(|own| same(&production, &own))) {
                self.cloned.insert(name, digest_of(&production));
            }
        }
        if self.cloned == before { Ok(()) } else { write(self.inside, &self.cloned) }
    }

    /// Every path that production has or had, in the order of the tree.
    fn paths(&self) -> io::Result<BTreeSet<RelPath>> {
        let cloned = self.cloned.keys().filter_map(|path| RelPath::from_absolute(&unescape(path)?).ok());
        let mut paths: BTreeSet<RelPath> = cloned.collect();
        let mut todo = vec![RelPath::root()];
        while let Some(path) = todo.pop() {
            let names = self.inside.list_at(&below(&self.top, &path))?;
            todo.extend(names.iter().filter(|name| !is_stage_name(name)).map(|name| path.join(name)));
            if !path.is_root() {
                paths.insert(path);
            }
        }
        Ok(paths)
    }
}

/// What a sync brought to `path`, and how it stands.
pub(super) fn from_sync(path: &RelPath, how: &str) -> Held {
    Held { kind: KIND.to_owned(), name: path.to_string(), how: how.to_owned(), undo: Vec::new() }
}

/// Whether a path is named: itself or what it is in, or a unit of which it is a part.
pub(super) fn belongs(path: &RelPath, name: &str) -> bool {
    if name.starts_with('/') {
        let named = unescape(name).and_then(|name| RelPath::from_absolute(&name).ok());
        return named.is_some_and(|named| path.starts_with(&named));
    }
    let (stem, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    path.components().any(|component| {
        let rest = component.strip_prefix(name.as_bytes());
        let instance = stem.ends_with('@')
            && component.starts_with(stem.as_bytes())
            && component.ends_with(format!(".{kind}").as_bytes());
        instance || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
    })
}
