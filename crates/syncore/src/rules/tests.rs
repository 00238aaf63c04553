//! The decision: by table where a person can check it, by property against the naive evaluator where not.

use proptest::prelude::*;

use super::naive;
use super::*;
use crate::tree::RelPath;

fn rule(line: u32, action: Action, pattern: &str) -> Rule {
    let origin = Origin { file: "test.toml".into(), line };
    Rule::new(action, pattern, origin)
}

fn rules(list: &[(Action, &str)]) -> Vec<Rule> {
    let mut line = 0;
    let mut next = |(action, pattern): &(Action, &str)| {
        line += 1;
        rule(line, *action, pattern)
    };
    list.iter().map(&mut next).collect()
}

fn compile(list: &[(Action, &str)]) -> RuleSet {
    RuleSet::compile(rules(list)).unwrap()
}

const IN: Action = Action::Include;
const EX: Action = Action::Exclude;
const KEEP: Action = Action::Protect;
const A: Action = Action::Class(Class::A);
const D: Action = Action::Class(Class::D);
const S: Action = Action::Class(Class::S);

/// A path that ends in `/` is asked for as a directory.
fn scopes(set: &RuleSet, expected: &[(&str, Scope)]) {
    for (path, scope) in expected {
        let relative = RelPath::from_absolute(path.as_bytes()).unwrap();
        assert_eq!(set.decide(&relative, path.ends_with('/')).scope, *scope, "{path}");
    }
}

#[test]
fn the_deepest_rule_decides_and_is_inherited() {
    let set =
        compile(&[(IN, "/"), (EX, "/etc/"), (IN, "/etc/init.d/"), (EX, "/etc/init.d/x"), (EX, "/k/sd.conf")]);
    let expected = [
        ("/", Scope::In),
        ("/usr/bin/", Scope::In),
        ("/etc/", Scope::Implied),
        ("/etc/hosts", Scope::Out),
        ("/etc/ssh/", Scope::Out),
        ("/etc/init.d/", Scope::In),
        ("/etc/init.d/cron", Scope::In),
        ("/etc/init.d/x", Scope::Out),
        ("/k/sd.conf", Scope::Out),
        ("/k/sd.conf.old", Scope::In),
        // A file of that name is not what the rule with the slash means.
        ("/etc", Scope::In),
    ];
    scopes(&set, &expected);
}

#[test]
fn without_an_include_rule_everything_else_is_in() {
    scopes(&compile(&[]), &[("/", Scope::In), ("/a", Scope::In)]);
    let set = compile(&[(EX, "*.o"), (KEEP, "/keep")]);
    scopes(
        &set,
        &[("/a/b", Scope::In), ("/a/b.o", Scope::Out), ("/keep/", Scope::Out), ("/keep/b", Scope::Out)],
    );
    scopes(
        &compile(&[(IN, "/a/b")]),
        &[("/", Scope::Implied), ("/a/", Scope::Implied), ("/a/c", Scope::Out)],
    );
}

#[test]
fn at_one_depth_exclude_wins_whatever_the_order() {
    for list in [[(IN, "/a"), (EX, "/a")], [(EX, "/a"), (IN, "/a")], [(EX, "*"), (IN, "/a")]] {
        scopes(&compile(&list), &[("/a/", Scope::Out), ("/a/b", Scope::Out)]);
    }
}

#[test]
fn an_include_that_may_match_anywhere_keeps_excluded_directories_open() {
    let set = compile(&[(IN, "*.conf"), (EX, "/a/")]);
    let expected = [
        ("/a/", Scope::Implied),
        ("/a/b/c/", Scope::Implied),
        ("/a/b/x.conf", Scope::In),
        ("/a/b/x", Scope::Out),
    ];
    scopes(&set, &expected);
    let set = compile(&[(IN, "/"), (EX, "/a/"), (IN, "/a/b*/c")]);
    scopes(
        &set,
        &[("/a/", Scope::Implied), ("/a/bx/", Scope::Implied), ("/a/x/", Scope::Out), ("/a/bx/c", Scope::In)],
    );
}

#[test]
fn only_a_literal_row_lifts_a_protection_and_nothing_lifts_a_protect_rule() {
    let set = compile(&[
        (A, "/lvm"),
        (S, "/lvm/lvm.conf"),
        (S, "/lvm/*.local"),
        (S, "/lvm/sub/"),
        (A, "/lvm/sub/own"),
    ]);
    let expected = [
        ("/lvm/", Scope::Implied),
        ("/lvm/lvm.conf", Scope::In),
        ("/lvm/x.local", Scope::Out),
        ("/lvm/sub/", Scope::In),
        ("/lvm/sub/b/c", Scope::In),
        ("/lvm/sub/own", Scope::Out),
        ("/lvm/other/", Scope::Out),
    ];
    scopes(&set, &expected);
    let set = compile(&[(KEEP, "/lvm/"), (S, "/lvm/lvm.conf"), (IN, "/"), (IN, "/lvm/lvm.conf")]);
    scopes(&set, &[("/lvm/", Scope::Out), ("/lvm/lvm.conf", Scope::Out)]);
    let decision = set.decide(&RelPath::new("lvm/lvm.conf").unwrap(), false);
    assert!(decision.protected);
    assert_eq!(decision.rule.unwrap().action, KEEP);
}

#[test]
fn an_include_cannot_reach_into_what_the_catalogue_keeps() {
    let set = compile(&[(A, "/etc/fstab"), (IN, "/"), (IN, "/etc/fstab")]);
    let decision = set.decide(&RelPath::new("etc/fstab").unwrap(), false);
    assert_eq!((decision.scope, decision.protected), (Scope::Out, true));
    assert_eq!(decision.rule.unwrap().origin.to_string(), "test.toml:1");
    assert_eq!(decision.selection.unwrap().origin.line, 3);
}

#[test]
fn runtime_state_is_an_empty_directory() {
    let set = compile(&[(D, "/proc"), (D, "/cache/*"), (S, "/cache/keep/this"), (EX, "/tmp"), (D, "/tmp")]);
    let expected = [
        ("/proc/", Scope::Empty),
        ("/proc", Scope::Out),
        ("/proc/1/", Scope::Out),
        ("/cache/", Scope::In),
        ("/cache/x/", Scope::Empty),
        ("/cache/file", Scope::Out),
        ("/cache/keep/", Scope::Implied),
        ("/cache/keep/this", Scope::In),
        ("/cache/keep/that", Scope::Out),
        ("/tmp/", Scope::Out),
    ];
    scopes(&set, &expected);
}

#[test]
fn a_later_row_corrects_an_earlier_one_and_a_literal_beats_a_glob() {
    let set = compile(&[(A, "/a"), (S, "/a"), (S, "/b"), (A, "/b*"), (A, "/c*"), (S, "/c?")]);
    scopes(
        &set,
        &[("/a", Scope::In), ("/b", Scope::In), ("/bb", Scope::Out), ("/cc", Scope::In), ("/c", Scope::Out)],
    );
}

#[test]
fn wildcards_stay_within_one_name() {
    let set = compile(&[(IN, "/a/*/c"), (IN, "/[!x]y"), (IN, "/{p,q}/z"), (IN, "/w/**/end"), (IN, "/v/**")]);
    let expected = [
        ("/a/b/c", Scope::In),
        ("/a/b/b/c", Scope::Out),
        ("/ay", Scope::In),
        ("/x/y", Scope::Out),
        ("/q/z", Scope::In),
        ("/w/end", Scope::In),
        ("/w/1/2/end", Scope::In),
        ("/v/", Scope::Implied),
        ("/v/1/2", Scope::In),
    ];
    scopes(&set, &expected);
}

#[test]
fn names_are_bytes() {
    let mut list = rules(&[(EX, "/a/?")]);
    list.push(Rule { pattern: b"/\xff/".to_vec(), ..rule(9, EX, "") });
    let set = RuleSet::compile(list).unwrap();
    let scope = |path: &[u8]| set.decide(&RelPath::new(path).unwrap(), true).scope;
    assert_eq!(
        [scope(b"\xff"), scope(b"\xff/b"), scope(b"\xfe"), scope(b"a/\xfd")],
        [Scope::Out, Scope::Out, Scope::In, Scope::Out]
    );
}

#[test]
fn an_error_names_the_line_and_the_pattern() {
    let error = RuleSet::compile(rules(&[(IN, "/"), (EX, "/a/../b")])).unwrap_err();
    assert_eq!(error.to_string(), "test.toml:2: bad pattern /a/../b: the path has a '.' or '..' component");
    let bad = Rule { origin: Origin { file: "command line".into(), line: 0 }, ..rule(0, EX, "/[") };
    let error = RuleSet::compile(vec![bad]).unwrap_err().to_string();
    assert!(error.starts_with("command line: bad pattern /[: "), "{error}");
    let many = vec![rule(1, EX, "/a"); 10_001];
    assert_eq!(RuleSet::compile(many).unwrap_err().to_string(), "10001 rules, the limit is 10000");
}

#[test]
fn says_which_rules_have_no_effect() {
    let set = compile(&[
        (A, "/etc/fstab"),
        (A, "/own/"),
        (S, "/own/shared"),
        (KEEP, "/keep/"),
        (IN, "/"),
        (IN, "/etc/fstab"),
        (IN, "/own/"),
        (IN, "/keep/a*/b"),
        (IN, "/keep/a"),
        (IN, "/keep"),
        (EX, "/x"),
        (IN, "/x"),
        (EX, "/x"),
    ]);
    let lines: Vec<(u32, u32)> = set
        .never_matching()
        .iter()
        .map(|unreachable| (unreachable.rule.origin.line, unreachable.because_of.origin.line))
        .collect();
    assert_eq!(lines, [(6, 1), (8, 4), (9, 4), (12, 11), (13, 11)]);
    let first = set.never_matching()[0].to_string();
    assert_eq!(
        first,
        "test.toml:6: include /etc/fstab has no effect: the path is kept by class A /etc/fstab (test.toml:1)"
    );
}

#[test]
fn classes_round_trip() {
    for class in Class::ALL {
        assert_eq!(Class::from_letter(&class.to_string()), Some(class));
    }
    assert_eq!(Class::from_letter("SS"), None);
    assert_eq!(Class::from_letter(""), None);
}

#[test]
fn rules_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<RuleSet>();
    shared::<Cursor>();
}

fn a_component() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "ab", "a", "b", "*", "a*", "?", "[ab]", "{a,ab}", "*b", "**"])
}

fn a_pattern() -> impl Strategy<Value = String> {
    let body = prop::collection::vec(a_component(), 1..5).prop_map(|parts| {
        let mut parts = parts;
        // Two in a row mean the same as one, which globset does not promise.
        parts.dedup_by(|x, y| *x == "**" && *y == "**");
        parts.join("/")
    });
    let anchored =
        (prop::bool::weighted(0.8), body, prop::bool::weighted(0.3)).prop_map(|(anchor, body, slash)| {
            format!("{}{body}{}", if anchor { "/" } else { "" }, if slash { "/" } else { "" })
        });
    prop_oneof![1 => Just("/".to_string()), 12 => anchored]
}

fn an_action() -> impl Strategy<Value = Action> {
    let classes: Vec<Action> = Class::ALL.map(Action::Class).to_vec();
    prop_oneof![
        3 => Just(IN),
        3 => Just(EX),
        1 => Just(KEEP),
        2 => Just(S),
        4 => prop::sample::select(classes),
    ]
}

/// Rules whose line is their place in the list.
fn numbered(list: &[(Action, String)]) -> Vec<Rule> {
    (0..).zip(list).map(|(line, (action, pattern))| rule(line, *action, pattern)).collect()
}

/// Every path of up to four components over the alphabet of the patterns.
fn every_path() -> Vec<String> {
    let mut all = vec!["/".to_string()];
    let mut level = vec![String::new()];
    for _ in 0..4 {
        level = level.iter().flat_map(|at| ["a", "b", "ab"].map(|name| format!("{at}/{name}"))).collect();
        all.extend_from_slice(&level);
    }
    all
}

/// Compares what `decide` says of a path with the sentence, and what a walk was told of it as a directory with both.
fn compare(
    set: &RuleSet,
    sentence: &naive::Sentence<'_>,
    path: &str,
    asked: &Decision<'_>,
) -> Result<(), TestCaseError> {
    let relative = RelPath::from_absolute(path.as_bytes()).unwrap();
    for is_directory in [true, false] {
        if !is_directory && path == "/" {
            continue;
        }
        let decided = set.decide(&relative, is_directory);
        let expected = sentence.decide(path, is_directory);
        let scope = if decided.scope == Scope::Implied { expected.scope } else { decided.scope };
        let line = |rule: Option<&Rule>| rule.map(|rule| rule.origin.line as usize);
        let got = naive::Verdict {
            scope,
            class: decided.class,
            protected: decided.protected,
            rule: line(decided.rule),
        };
        prop_assert_eq!(got, expected, "{} {}", path, is_directory);
        prop_assert!(decided.scope != Scope::Implied || is_directory);
        if is_directory {
            prop_assert_eq!(asked.scope, decided.scope, "{}", path);
            prop_assert_eq!(line(asked.rule), line(decided.rule));
            prop_assert_eq!(asked.class, decided.class);
        }
    }
    Ok(())
}

#[test]
fn a_very_deep_pattern_is_only_deep() {
    let deep = "/a".repeat(60_000);
    let set = compile(&[(IN, &deep), (A, "/a")]);
    scopes(&set, &[("/", Scope::Implied), ("/a/", Scope::Out), ("/b", Scope::Out)]);
    assert_eq!(set.never_matching().len(), 1);
}

proptest! {
    #[test]
    fn no_pattern_of_a_peer_ends_the_program(
        pattern in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(prop::sample::select(b"a{},*?!/^[]\\-\xc3\xa9".to_vec()), 0..24),
        ],
        name in "[a{},é-]{1,4}",
    ) {
        let list = vec![Rule { pattern, ..rule(1, IN, "") }];
        if let Ok(set) = RuleSet::compile(list) {
            let _ = set.decide(&RelPath::new(name).unwrap(), true);
            let _ = set.never_matching();
        }
    }

    #[test]
    fn agrees_with_the_sentence(list in prop::collection::vec((an_action(), a_pattern()), 0..9)) {
        let list = numbered(&list);
        let set = RuleSet::compile(list.clone()).unwrap();
        let sentence = naive::Sentence::new(&list);
        let paths = every_path();
        // As the scan asks: from directory to directory, files too.
        let mut cursors = std::collections::HashMap::new();
        let (cursor, root) = set.root();
        compare(&set, &sentence, "/", &root)?;
        cursors.insert("/".to_string(), cursor);
        for path in &paths[1..] {
            let (parent, name) = path.rsplit_once('/').unwrap();
            let parent = if parent.is_empty() { "/" } else { parent };
            let Some(above) = cursors.get(parent).cloned() else {
                // Pruned: the sentence must not put anything there into scope.
                for is_directory in [true, false] {
                    let scope = sentence.decide(path, is_directory).scope;
                    prop_assert!(scope == Scope::Out, "{} below a pruned directory is {:?}", path, scope);
                }
                continue;
            };
            let (file, none) = set.enter(&above, name.as_bytes(), false);
            prop_assert!(none.is_none());
            prop_assert_eq!(file.scope, sentence.decide(path, false).scope);
            let (directory, below) = set.enter(&above, name.as_bytes(), true);
            compare(&set, &sentence, path, &directory)?;
            if let Some(below) = below {
                cursors.insert(path.clone(), below);
            }
        }
    }

    #[test]
    fn what_is_reported_as_without_effect_has_none(list in prop::collection::vec((an_action(), a_pattern()), 0..9)) {
        let list = numbered(&list);
        let set = RuleSet::compile(list.clone()).unwrap();
        let sentence = naive::Sentence::new(&list);
        for unreachable in set.never_matching() {
            let mut without = list.clone();
            let index = unreachable.rule.origin.line as usize;
            if without.iter().filter(|rule| rule.action == IN).count() == 1 && list[index].action == IN {
                // The last include rule also says that everything else is out.
                continue;
            }
            without.remove(index);
            let shorter = naive::Sentence::new(&without);
            for path in every_path() {
                for is_directory in [true, false] {
                    let with = sentence.decide(&path, is_directory).scope;
                    prop_assert_eq!(with, shorter.decide(&path, is_directory).scope, "{}", path);
                }
            }
        }
    }
}
