//! Properties over random pairs of trees and random rules, judged by an evaluator that is nothing but the sentence:
//! between include and exclude the deepest matching rule decides and is inherited below it, at one depth exclude
//! beats include; protect is absolute.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::common::compare::{What, assert_none, compare_ignoring, kind};
use crate::common::plant::{noise, set_mtime, write};
use crate::common::trees::{DIRS, Tree, grow, trees};
use crate::common::{Workdir, clonetool};

const RULES: [&str; 20] = [
    "/d0/",
    "/d1/",
    "/d0/d0/",
    "/d0/d1/",
    "/d1/d0/",
    "/d0/d1/d0/",
    "/f0",
    "/x0",
    "/d0/f0",
    "/d0/x0",
    "/d0/d1/f1",
    "/d1/d0/x0",
    "/d0/*",
    "/*/f1",
    "/d?/d0/",
    "/**/f0",
    "/**/d0/",
    "/d0/**",
    "/x0/f0",
    "/**/x0/f0",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Include,
    Exclude,
    Protect,
}

type Rule = (Verb, &'static str);

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let verb =
        prop_oneof![Just(Verb::Include), Just(Verb::Exclude), Just(Verb::Exclude), Just(Verb::Protect)];
    prop::collection::vec((verb, prop::sample::select(&RULES[..])), 0..6)
}

/// Whether the rule `pattern` matches the entry `path` itself.
fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<_> = pattern.trim_matches('/').split('/').collect();
    let path: Vec<_> = path.split('/').collect();
    matches_parts(&pattern, &path)
}

fn matches_parts(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**"], rest) => !rest.is_empty(),
        (["**", after @ ..], rest) => (0..=rest.len()).any(|skipped| matches_parts(after, &rest[skipped..])),
        ([part, after @ ..], [name, rest @ ..]) => matches_name(part, name) && matches_parts(after, rest),
        _ => false,
    }
}

fn matches_name(part: &str, name: &str) -> bool {
    part == "*" || part.len() == name.len() && part.chars().zip(name.chars()).all(|(p, n)| p == '?' || p == n)
}

/// The sentence.
fn in_scope(rules: &[Rule], path: &str) -> bool {
    if path.is_empty() {
        return true;
    }
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let ancestors: Vec<_> = ends.map(|end| &path[..end]).collect();
    let any = |verb: Verb, entry: &str| rules.iter().any(|rule| rule.0 == verb && matches(rule.1, entry));
    if ancestors.iter().any(|entry| any(Verb::Protect, entry)) {
        return false;
    }
    for entry in ancestors.iter().rev() {
        if any(Verb::Exclude, entry) {
            return false;
        }
        if any(Verb::Include, entry) {
            return true;
        }
    }
    true
}

/// What a user sees of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: &'static str,
    mode: u32,
    mtime: (i64, i64),
    content: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    seen: Seen,
    inode: u64,
    ctime: (i64, i64),
}

/// Everything below `root`, and the root itself as the empty path.
fn look(root: &Path) -> BTreeMap<String, Found> {
    let mut all = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.expect("walk");
        let metadata = entry.metadata().expect("stat");
        let kind = kind(&metadata);
        let content = match kind {
            "file" => fs::read(entry.path()).expect("read"),
            "symlink" => {
                fs::read_link(entry.path()).expect("read link").into_os_string().into_encoded_bytes()
            }
            _ => Vec::new(),
        };
        let mode = metadata.mode() & 0o7777;
        let seen = Seen { kind, mode, mtime: (metadata.mtime(), metadata.mtime_nsec()), content };
        let path = entry.path().strip_prefix(root).expect("below").to_str().expect("plain names").to_owned();
        let ctime = (metadata.ctime(), metadata.ctime_nsec());
        all.insert(path, Found { seen, inode: metadata.ino(), ctime });
    }
    all
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

struct Case<'a> {
    rules: &'a [Rule],
    source: BTreeMap<String, Found>,
    before: BTreeMap<String, Found>,
    after: BTreeMap<String, Found>,
}

impl Case<'_> {
    fn in_scope(&self, path: &str) -> bool {
        in_scope(self.rules, path)
    }

    /// A directory of the standby that holds something out of scope: it may be neither deleted nor replaced.
    fn guarded(&self, path: &str) -> bool {
        self.before.get(path).is_some_and(|found| found.seen.kind == "directory")
            && self.before.keys().any(|other| is_below(other, path) && !self.in_scope(other))
    }

    /// The source has something else than a directory where the standby has a guarded one.
    fn blocked(&self, path: &str) -> bool {
        self.guarded(path) && self.source.get(path).is_some_and(|found| found.seen.kind != "directory")
    }

    /// In scope, but below something out of scope that is no directory on the standby.
    fn unreachable(&self, path: &str) -> bool {
        parents(path).any(|parent| {
            let is_directory = |found: &Found| found.seen.kind == "directory";
            !self.in_scope(parent) && !self.before.get(parent).is_some_and(is_directory)
        })
    }

    /// Whether everything in scope could be made equal.
    fn all_possible(&self) -> bool {
        let in_scope = |path: &&String| self.in_scope(path);
        !self.source.keys().filter(in_scope).any(|path| self.unreachable(path) || self.blocked(path))
            && !self.before.keys().filter(in_scope).any(|p| self.guarded(p) && !self.source.contains_key(p))
    }

    fn check(&self) {
        let paths: BTreeSet<_> =
            self.source.keys().chain(self.before.keys()).chain(self.after.keys()).cloned().collect();
        for path in &paths {
            if self.in_scope(path) {
                self.check_in_scope(path);
            } else {
                self.check_out_of_scope(path);
            }
        }
        self.check_links(&paths);
    }

    fn check_out_of_scope(&self, path: &str) {
        let (Some(before), Some(after)) = (self.before.get(path), self.after.get(path)) else {
            let sides = (self.before.contains_key(path), self.after.contains_key(path));
            assert_eq!(sides.0, sides.1, "/{path} is out of scope and was there (left) or is there (right)");
            return;
        };
        assert_eq!(before.inode, after.inode, "/{path} is out of scope and was replaced");
        let related = |other: &&String| self.in_scope(other) && *other != path;
        if before.seen.kind == "directory" {
            assert_eq!(before.seen.mode, after.seen.mode, "/{path} is out of scope and was changed");
            let all = || self.source.keys().chain(self.before.keys());
            if all().filter(|other| is_below(other, path)).any(|other| self.in_scope(other)) {
                return;
            }
        } else {
            assert_eq!(before.seen, after.seen, "/{path} is out of scope and was changed");
            // Where another name of the inode is in scope and is replaced, the link count takes the ctime along.
            if self.before.keys().filter(related).any(|other| self.before[other].inode == before.inode) {
                return;
            }
        }
        assert_eq!(before.ctime, after.ctime, "/{path} is out of scope and was touched");
    }

    fn check_in_scope(&self, path: &str) {
        if self.unreachable(path) || parents(path).any(|parent| self.blocked(parent)) {
            return;
        }
        let after = self.after.get(path);
        match self.source.get(path) {
            _ if self.blocked(path) => {
                assert_eq!(after.map(|found| found.inode), self.before.get(path).map(|found| found.inode));
            }
            Some(source) => {
                let after = after.unwrap_or_else(|| panic!("/{path} is in scope and missing"));
                let mut expected = source.seen.clone();
                if expected.kind == "symlink" {
                    expected.mode = after.seen.mode;
                }
                assert_eq!(after.seen, expected, "/{path} is in scope and differs");
            }
            None if self.guarded(path) => {
                assert_eq!(after.map(|found| found.inode), self.before.get(path).map(|found| found.inode));
            }
            None => assert!(after.is_none(), "/{path} is in scope and was not deleted"),
        }
    }

    /// Names in scope are one inode exactly where they are in the source.
    fn check_links(&self, paths: &BTreeSet<String>) {
        let files = paths.iter().filter(|path| {
            let is_file =
                |side: &BTreeMap<String, Found>| side.get(*path).is_some_and(|f| f.seen.kind == "file");
            self.in_scope(path) && is_file(&self.source) && is_file(&self.after) && !self.unreachable(path)
        });
        let files: Vec<_> = files.collect();
        for (n, one) in files.iter().enumerate() {
            for other in &files[n + 1..] {
                let linked = |side: &BTreeMap<String, Found>| side[*one].inode == side[*other].inode;
                assert_eq!(
                    linked(&self.source),
                    linked(&self.after),
                    "/{one} and /{other} (source, standby)"
                );
            }
        }
    }
}

/// The options that give `rules`, or a profile that does.
fn arguments(rules: &[Rule], profile: Option<&Path>) -> Vec<OsString> {
    let Some(profile) = profile else {
        let option = |rule: &Rule| match rule.0 {
            Verb::Include => ["--include".into(), rule.1.into()],
            Verb::Exclude => ["--exclude".into(), rule.1.into()],
            Verb::Protect => ["--protect".into(), rule.1.into()],
        };
        // What no rule matches is nobody's decision: the root is always included here.
        return ["--include".into(), "/".into()].into_iter().chain(rules.iter().flat_map(option)).collect();
    };
    let list = |verb: Verb| {
        let chosen = rules.iter().filter(|rule| rule.0 == verb).map(|rule| format!("{:?}", rule.1));
        let root = (verb == Verb::Include).then(|| "\"/\"".to_owned());
        root.into_iter().chain(chosen).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "description = \"random\"\n[rules]\ninclude = [{}]\nexclude = [{}]\nprotect = [{}]\n",
        list(Verb::Include),
        list(Verb::Exclude),
        list(Verb::Protect),
    );
    write(profile, text);
    vec!["--rules-from".into(), profile.into()]
}

fn scoped_clone(source_tree: &Tree, standby_tree: &Tree, rules: &[Rule], by_profile: bool) {
    let work = Workdir::new("props");
    let (source, standby) = (work.join("source"), work.join("standby"));
    grow(source_tree, &source);
    write(&source.join("always"), "so that the source is never empty");
    set_mtime(&source, 1_600_000_000, 1);
    grow(standby_tree, &standby);
    // A directory out of scope with something in scope below it exists on a standby; else the case says nothing.
    for path in look(&source).keys().filter(|path| in_scope(rules, path)) {
        for parent in parents(path).filter(|parent| !in_scope(rules, parent)) {
            if DIRS.contains(&parent) {
                fs::create_dir_all(standby.join(parent)).expect("mkdir");
            }
        }
    }
    let profile = by_profile.then(|| work.join("rules.toml"));
    let rule_arguments = arguments(rules, profile.as_deref());
    let run = |options: &[&str]| {
        let mut args: Vec<OsString> = vec!["clone".into(), "--delete".into()];
        args.extend(options.iter().map(OsString::from));
        args.extend(rule_arguments.clone());
        args.extend([source.clone().into(), standby.clone().into()]);
        clonetool(args)
    };
    let (source_before, before) = (look(&source), look(&standby));
    let planned = run(&["-n", "--itemize"]).expect_one_of(&[0, 4]);
    assert_eq!(look(&standby), before, "a dry run changed something");
    let done = run(&["--itemize"]).expect_one_of(&[0, 4]);
    let case = Case { rules, source: source_before, before, after: look(&standby) };
    case.check();
    if case.all_possible() {
        assert_eq!(done.code, 0, "all could be done\n{}", done.describe());
    }
    assert_eq!(planned.itemised(), done.itemised(), "the plan is not what was done\n{}", done.describe());
    run(&["--json"]).expect_one_of(&[0, 4]).expect_no_changes();
    assert_eq!(look(&standby), case.after, "a run that had nothing to do touched something");
    assert_eq!(look(&source), case.source, "the source was touched");
}

/// What a user sees below `root`, but for what runs keep to themselves.
fn seen(root: &Path) -> BTreeMap<String, Seen> {
    let all = look(root).into_iter().filter(|(path, _)| !path.starts_with(".clonetool"));
    all.map(|(path, found)| (path, found.seen)).collect()
}

/// Which names are one inode, but for those that runs keep.
fn joined(root: &Path) -> BTreeSet<BTreeSet<String>> {
    let mut by_inode: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for (path, found) in look(root).into_iter().filter(|(path, _)| !path.starts_with(".clonetool")) {
        by_inode.entry(found.inode).or_default().insert(path);
    }
    by_inode.into_values().collect()
}

/// A run that changes all or nothing does what any run does, and what it did can be undone.
fn whole_and_back(source_tree: &Tree, standby_tree: &Tree, rules: &[Rule]) {
    let work = Workdir::new("props-whole");
    let (source, standby, by_file) = (work.join("source"), work.join("standby"), work.join("by-file"));
    grow(source_tree, &source);
    write(&source.join("always"), "so that the source is never empty");
    set_mtime(&source, 1_600_000_000, 1);
    grow(standby_tree, &standby);
    grow(standby_tree, &by_file);
    let (before, joined_before) = (seen(&standby), joined(&standby));
    let profile = work.join("rules.toml");
    arguments(rules, Some(&profile));
    let text = fs::read_to_string(&profile).expect("read the profile");
    let sync = |mode: &str, to: &Path| {
        write(&profile, format!("{text}[delete]\nenabled = true\n[commit]\nmode = \"{mode}\"\n"));
        let args = [OsString::from("sync"), profile.clone().into(), "--source".into(), source.clone().into()];
        clonetool(args.into_iter().chain(["--destination".into(), to.into()])).expect_one_of(&[0, 4]).code
    };
    let codes = (sync("file", &by_file), sync("run", &standby));
    assert_eq!(codes.0, codes.1, "one mode has problems and the other has none");
    assert_eq!(seen(&by_file), seen(&standby));
    assert_eq!(joined(&by_file), joined(&standby));
    if seen(&standby) == before && joined(&standby) == joined_before {
        return;
    }
    let back = ["rollback".into(), profile.clone().into(), "--root".into(), OsString::from(&standby)];
    clonetool(back).expect_code(0);
    assert_eq!(seen(&standby), before, "the rollback does not put back what was there");
    assert_eq!(joined(&standby), joined_before, "the rollback does not join what was one");
}

/// The old and the new content of a file that was edited in some places.
fn edits() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let edit = (any::<prop::sample::Index>(), 0..40_000_usize, 0..20_000_usize, any::<u8>());
    (0..600_000_usize, any::<u8>(), prop::collection::vec(edit, 0..5)).prop_map(|(length, seed, edits)| {
        let old = noise(u64::from(seed), length);
        let mut new = old.clone();
        for (at, removed, added, seed) in edits {
            let from = at.index(new.len() + 1);
            let to = (from + removed).min(new.len());
            new.splice(from..to, noise(1_000 + u64::from(seed), added));
        }
        (old, new)
    })
}

fn deterministic(cases: u32, seed: u64) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(deterministic(48, 2_026))]

    #[test]
    fn in_scope_is_equal_and_all_else_is_untouched(
        (source, standby) in trees(),
        rules in rules(),
        by_profile in any::<bool>(),
    ) {
        scoped_clone(&source, &standby, &rules, by_profile);
    }
}

proptest! {
    #![proptest_config(deterministic(48, 5))]

    #[test]
    fn a_whole_run_is_like_any_other_and_can_be_undone((source, standby) in trees(), rules in rules()) {
        whole_and_back(&source, &standby, &rules);
    }
}

proptest! {
    #![proptest_config(deterministic(8, 11))]

    #[test]
    fn every_edit_of_a_file_is_followed(pairs in prop::collection::vec(edits(), 1..8), in_place in any::<bool>()) {
        let work = Workdir::new("props-edits");
        let (source, copy) = (work.make("source"), work.make("copy"));
        for (n, (old, new)) in pairs.iter().enumerate() {
            write(&source.join(format!("file-{n}")), new);
            write(&copy.join(format!("file-{n}")), old);
            set_mtime(&copy.join(format!("file-{n}")), 1, 1);
        }
        let mut args: Vec<OsString> = vec!["clone".into(), "--json".into()];
        args.extend(in_place.then(|| "--in-place".into()));
        args.extend([source.clone().into(), copy.clone().into()]);
        clonetool(args).expect_code(0);
        assert_none(&compare_ignoring(&source, &copy, &[What::Holes]));
    }
}

#[test]
fn the_evaluator_says_what_the_sentence_says() {
    use Verb::{Exclude, Include, Protect};
    let seed = [(Include, "/"), (Exclude, "/etc/"), (Include, "/etc/init.d/"), (Include, "/etc/passwd")];
    for (path, expected) in [
        ("usr/bin", true),
        ("etc", false),
        ("etc/hostname", false),
        ("etc/init.d", true),
        ("etc/init.d/ssh", true),
        ("etc/passwd", true),
    ] {
        assert_eq!(in_scope(&seed, path), expected, "{path}");
    }
    assert!(!in_scope(&[(Include, "/a"), (Exclude, "/a")], "a/b"), "at one depth exclude wins");
    assert!(!in_scope(&[(Protect, "/a/"), (Include, "/a/b")], "a/b"), "protect is absolute");
    assert!(!in_scope(&[(Exclude, "/**/f0")], "f0") && !in_scope(&[(Exclude, "/**/f0")], "a/b/f0"));
    assert!(in_scope(&[(Exclude, "/*/f1")], "a/b/f1"), "a star does not cross a slash");
    assert!(in_scope(&[(Exclude, "/d0/**")], "d0") && !in_scope(&[(Exclude, "/d0/**")], "d0/a/b"));
}
