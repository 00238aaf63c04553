//! What both ends agree on before anything is scanned: rules, boundaries, and whether the run makes sense at all.
//!
//! Why: both ends must leave out the same paths, or equal trees look different and protected ones look deletable. The
//! initiator decides from the facts of both ends. What can go wrong: an unmounted or emptied source that looks like
//! a reason to delete everything; such a run is refused here.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::apply::{ELSEWHERE, PLAIN_HOME};
use crate::profile::{Limits, SNAPSHOT_DIRECTORY};
use crate::rules::{self, Action, Class, Origin, Rule, RuleSet, Scope, Treatment};
use crate::scan::{Boundaries, Mount, Root, mounts_below};
use crate::session::scans::{SCANS, keep_out};
use crate::session::{Job, SessionError};
use crate::tree::{NameKey, RelPath};
use crate::wire::{Facts, Start};

/// Where a root keeps what clonetool did to it.
const OWN_STATE: &str = "/var/lib/clonetool";

/// What this end knows of `root`.
pub(crate) fn facts(root: &Root, rules: Vec<Rule>, standby: bool) -> Facts {
    Facts {
        root: root.canonical_path().unwrap_or_default(),
        boot_id: boot_id(),
        mounts: mounts_below(root),
        rules,
        empty: is_empty(root),
        standby,
        recovered: None,
    }
}

/// Whether nothing is in a root, or it cannot be read.
pub(crate) fn is_empty(root: &Root) -> bool {
    let Ok(directory) = root.open_directory(&RelPath::root()) else { return true };
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut names = rustix::fs::RawDir::new(&directory, &mut buffer);
    while let Some(Ok(name)) = names.next() {
        if !matches!(name.file_name().to_bytes(), b"." | b".." | b"lost+found") {
            return false;
        }
    }
    true
}

/// What can be said of a root that is not there yet; its parent must be, unless something else would make that.
pub(crate) fn facts_of_missing(path: &Path, parent_comes: bool) -> Result<Facts, SessionError> {
    let mut parents = path.ancestors().skip(1).map(|parent| match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    });
    let there = |parent: &&Path| !parent_comes || std::fs::symlink_metadata(parent).is_ok();
    let parent = parents.find(there).unwrap_or(path);
    let root = open_root(parent, "destination")?;
    let mut canonical = root.canonical_path().unwrap_or_default();
    for name in path.strip_prefix(parent).unwrap_or(path) {
        if canonical != b"/" {
            canonical.push(b'/');
        }
        canonical.extend_from_slice(name.as_bytes());
    }
    Ok(Facts {
        root: canonical,
        boot_id: boot_id(),
        mounts: Vec::new(),
        rules: Vec::new(),
        empty: true,
        standby: false,
        recovered: None,
    })
}

fn boot_id() -> Vec<u8> {
    let mut boot_id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // Containers share a kernel, but the same path means another directory in another mount namespace.
    if let Ok(namespace) = std::fs::read_link("/proc/self/ns/mnt") {
        boot_id.extend_from_slice(namespace.as_os_str().as_bytes());
    }
    boot_id
}

/// Opens a root, saying what is wrong with it in words.
pub(crate) fn open_root(path: &Path, role: &'static str) -> Result<Root, SessionError> {
    Root::open(path).map_err(|error| SessionError::Root {
        role,
        path: crate::tree::escape(path.as_os_str().as_bytes()),
        reason: std::io::Error::from(error).to_string(),
    })
}

/// Decides what the run is to do, or why it must not.
pub(crate) fn decide(job: &Job, source: &Facts, standby: &Facts, delta: bool) -> Result<Start, SessionError> {
    let options = &job.options;
    let mut rules = job.rules.clone();
    if !standby.standby {
        keep_apart(&mut rules);
    }
    if source.standby {
        // What was done to this root was done to no copy of it.
        let origin = Origin { file: "clonetool".into(), line: 0 };
        rules.push(Rule::new(Action::Class(Class::A), OWN_STATE, origin));
    }
    for directory in options.scans.as_deref().into_iter().chain([Path::new(SCANS)]) {
        keep_out(directory, [&source.root, &standby.root], &mut rules);
    }
    if options.whole.is_some() {
        rules.extend(areas(&standby.mounts));
    }
    let asked = RuleSet::compile(rules.clone())?;
    // After the sender's, so that the standby's word counts where both speak of the same path.
    rules.extend(standby.rules.iter().filter(|rule| takes_away(rule) || narrows(&asked, rule)).cloned());
    let compiled = RuleSet::compile(rules.clone())?;
    let boundaries = boundaries(job, source, standby);
    check_inside(&compiled, &boundaries, source, standby, options.delete)?;
    if options.refuse_unlisted_filesystems {
        check_filesystems(&compiled, &boundaries, source, standby)?;
    }
    if source.empty && !standby.empty && options.delete {
        return Err(SessionError::Refused(
            "the source root is empty and the destination is not: is the source mounted?".to_owned(),
        ));
    }
    Ok(Start {
        rules,
        boundaries,
        checksum: options.checksum,
        slice: None,
        delete: options.delete,
        durable: options.durable,
        in_place: options.in_place,
        whole: options.whole.clone(),
        limits: options.limits.or_else(|| limits_of_running(standby, options.delete)),
        approved: options.approved.clone(),
        delta,
        names: draw_names(),
    })
}

/// One slip of the hand must not empty the root that a host runs from, whatever else may be deleted without limit.
fn limits_of_running(standby: &Facts, delete: bool) -> Option<Limits> {
    (delete && standby.root == b"/").then(Limits::default)
}

/// What a run keeps to itself: on the standby one that changes all or nothing, on the source one that reads a snapshot.
pub(crate) fn areas(mounts: &[Mount]) -> Vec<Rule> {
    let origin = Origin { file: "clonetool".into(), line: 0 };
    let tops = mounts.iter().filter(|mount| mount.is_local()).map(|mount| mount.path.clone());
    let names = |top: RelPath| [ELSEWHERE, SNAPSHOT_DIRECTORY].map(|name| top.join(name.as_bytes()));
    let elsewhere = tops.chain([RelPath::root()]).flat_map(names);
    let homes = [&OWN_STATE[1..], PLAIN_HOME].into_iter().filter_map(|home| RelPath::new(home).ok());
    let protect = |path: RelPath| {
        let pattern = rules::literal(&[b"/", path.as_bytes()].concat());
        Rule::new(Action::Protect, pattern, origin.clone())
    };
    elsewhere.chain(homes).map(protect).collect()
}

/// A key that nobody could know before: the standard library seeds this from the system's randomness.
fn draw_names() -> NameKey {
    let draw = || RandomState::new().build_hasher().finish();
    NameKey([draw(), draw()])
}

/// Whether a rule of the other end may count: one that only takes away. A standby that could add to the scope would
/// choose what production sends.
pub(crate) fn takes_away(rule: &Rule) -> bool {
    match rule.action {
        Action::Protect | Action::Exclude => true,
        Action::Class(_) => !rule.is_plain_row(),
        Action::Include => false,
    }
}

/// Takes what needs more than a copy out of the scope, for a root where nothing more can be done.
pub(crate) fn keep_apart(rules: &mut [Rule]) {
    for rule in rules {
        if let Action::Class(Class::B | Class::C) = rule.action {
            (rule.action, rule.treatment) = (Action::Class(Class::A), Treatment::Plain);
        }
    }
}

/// Whether a rule of the standby makes a substitution of what would be carried whole.
fn narrows(asked: &RuleSet, rule: &Rule) -> bool {
    let substitutes = matches!(rule.treatment, Treatment::Substitute(_));
    substitutes
        && RelPath::from_absolute(&rule.pattern)
            .is_ok_and(|path| asked.decide(&path, false).scope == Scope::In)
}

fn boundaries(job: &Job, source: &Facts, standby: &Facts) -> Boundaries {
    let mut boundaries = Boundaries {
        one_file_system: job.options.one_file_system,
        also: job.options.also.iter().cloned().collect(),
        ..Boundaries::default()
    };
    let entered = |mount: &Mount| {
        mount.is_local() && (!boundaries.one_file_system || boundaries.also.contains(&mount.path))
    };
    let open: Vec<&RelPath> =
        source.mounts.iter().filter(|mount| entered(mount)).map(|mount| &mount.path).collect();
    let closed = source.mounts.iter().filter(|mount| !entered(mount));
    // What is mounted on the standby is its own, unless the source has a filesystem in the same place.
    let foreign = standby.mounts.iter().filter(|mount| !mount.is_local() || !open.contains(&&mount.path));
    boundaries.barriers = closed.chain(foreign).map(|mount| mount.path.clone()).collect();
    boundaries
}

/// Refuses a destination that the walk of the source reaches, and a source that the destination's deletions reach.
fn check_inside(
    rules: &RuleSet,
    boundaries: &Boundaries,
    source: &Facts,
    standby: &Facts,
    delete: bool,
) -> Result<(), SessionError> {
    // Without /proc nobody can tell; then the paths alone decide.
    let told = !source.boot_id.is_empty() && !standby.boot_id.is_empty();
    if told && source.boot_id != standby.boot_id {
        return Ok(());
    }
    let below = |inner: &Facts, outer: &Facts| {
        let (inner, outer) =
            (RelPath::from_absolute(&inner.root).ok()?, RelPath::from_absolute(&outer.root).ok()?);
        if !inner.starts_with(&outer) {
            return None;
        }
        RelPath::from_absolute(&inner.as_bytes()[outer.as_bytes().len()..]).ok()
    };
    let reached = below(standby, source).is_some_and(|path| reaches(rules, boundaries, &path));
    let reaching = delete && below(source, standby).is_some_and(|path| reaches(rules, boundaries, &path));
    if reached || reaching {
        return Err(SessionError::DestinationInsideSource {
            source_root: crate::tree::escape(&source.root),
            destination_root: crate::tree::escape(&standby.root),
        });
    }
    Ok(())
}

/// Whether a walk under these rules and boundaries comes to the directory `path`.
pub(crate) fn reaches(rules: &RuleSet, boundaries: &Boundaries, path: &RelPath) -> bool {
    let mut at = RelPath::root();
    let (mut cursor, _) = rules.root();
    for name in path.components() {
        at = at.join(name);
        let (decision, below) = rules.enter(&cursor, name, true);
        if boundaries.barriers.contains(&at) || matches!(decision.scope, Scope::Out | Scope::Empty) {
            return false;
        }
        let Some(below) = below else { return false };
        cursor = below;
    }
    true
}

/// Refuses a source filesystem that is neither listed nor excluded, and a listed one that is not mounted on both
/// ends: what is not mounted is not empty.
fn check_filesystems(
    rules: &RuleSet,
    boundaries: &Boundaries,
    source: &Facts,
    standby: &Facts,
) -> Result<(), SessionError> {
    for mount in
        source.mounts.iter().filter(|mount| mount.is_local() && !boundaries.also.contains(&mount.path))
    {
        let decision = rules.decide(&mount.path, true);
        if decision.scope == Scope::In && !matches!(mount.kind.as_str(), "tmpfs" | "overlay" | "squashfs") {
            return Err(SessionError::Refused(format!(
                "the {} filesystem at {} on the source is in scope but not listed: add it to source.also or exclude it",
                mount.kind, mount.path
            )));
        }
    }
    for path in &boundaries.also {
        for (end, mounts) in [("source", &source.mounts), ("standby", &standby.mounts)] {
            if !mounts.iter().any(|mount| mount.path == *path) {
                return Err(SessionError::Refused(format!(
                    "{path} is listed as a filesystem but not mounted on the {end}"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::draw_names;

    #[test]
    fn no_two_runs_have_one_key() {
        let (one, other) = (draw_names(), draw_names());
        assert!(one != other && one.0[0] != one.0[1]);
    }
}
