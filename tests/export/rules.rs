//! Every rule means to the script what it means to clonetool: fixed cases, names of all kinds, and random profiles over
//! random trees.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{Pair, export, plant};
use crate::common::compare::{What, assert_none, assert_untouched, snapshot_ctimes};
use crate::common::plant::{chmod, set_mtime, write};

#[test]
fn the_deepest_rule_decides_for_the_script_too() {
    let pair = Pair::new("export-deepest");
    let both = [
        "etc/passwd",
        "etc/init.d/a",
        "etc/init.d/keep/own",
        "etc/init.d/keep/back/in",
        "etc/other",
        "usr/x",
    ];
    plant(&pair.source, "production", &both);
    plant(
        &pair.source,
        "production",
        &["etc/init.d/new", "etc/opt/only/here", "dev/null", "usr/d/e/", "tmp/scratch"],
    );
    plant(&pair.ours, "standby", &both);
    plant(
        &pair.ours,
        "standby",
        &["etc/init.d/old/file", "etc/gone/file", "etc/gone/kept", "usr/old", "dev/tty", "usr/l/own"],
    );
    symlink("nowhere", pair.source.join("etc/init.d/link")).unwrap();
    fs::create_dir(pair.ours.join("etc/init.d/link")).unwrap();
    chmod(&pair.source.join("etc"), 0o700);
    let profile = pair.profile(
        "[rules]\ninclude = ['/', '/etc/init.d/', '/etc/init.d/keep/back/', '/etc/opt/', '/etc/gone/']\n\
         exclude = ['/etc/', '/etc/init.d/keep/', '/dev/', '/etc/gone/kept']\nprotect = ['/usr/l/own']\n\
         [delete]\nenabled = true\n\
         [[row]]\npath = '/tmp'\nclass = 'D'\nwhat = 'x'\nsource = 'x'\n",
    );
    pair.assert_same(profile.as_os_str(), 4);
    let left = fs::read(pair.scripts.join("etc/init.d/keep/own")).unwrap();
    assert!(left.starts_with(b"etc/init.d/keep/own of standby"));
    assert!(!pair.scripts.join("etc/gone/file").exists() && pair.scripts.join("etc/gone/kept").exists());
    assert!(fs::read_dir(pair.scripts.join("tmp")).unwrap().next().is_none());
    assert_eq!(
        fs::metadata(pair.scripts.join("etc")).unwrap().mode() & 0o777,
        0o755,
        "/etc does not take part"
    );
    // Once more, and nothing is left to do.
    let before = snapshot_ctimes(&pair.scripts);
    pair.run(&pair.work.join("script.sh"), &[]);
    assert_untouched(&before, &snapshot_ctimes(&pair.scripts));
}

#[test]
fn no_name_is_anything_but_a_name() {
    // No rule names these: they show that a rule for another one means no more than it says.
    const BESIDE: [&str; 7] = ["a b ", "star-not", "qq", "a", "back\\xstar", "line-end", "semi"];
    let pair = Pair::new("export-names");
    let names = [
        "it's",
        "a b ",
        "-n",
        "$(touch owned)",
        "`touch owned`",
        "x;touch owned",
        "star*",
        "star-not",
        "q?",
        "qq",
        "[ab]",
        "a",
        "back\\slash",
        "back\\*star",
        "back\\xstar",
        "quote\"",
        "host:name",
        "#hash",
        "!bang",
        "+ plus",
        "- minus",
        "{a,b}",
        "RULES",
        "line\nend",
        "line-end",
        "return\rhere",
        "é",
        ";semi",
        "semi",
        "***",
        "~",
        "$HOME",
        "&",
        "|",
    ];
    for name in names {
        for place in ["out", "deep/lifted", "plain"] {
            plant(&pair.source, "production", &[&format!("{place}/{name}/f"), &format!("{place}/{name}/g")]);
            plant(&pair.ours, "standby", &[&format!("{place}/{name}/f"), &format!("{place}/{name}/old")]);
        }
        plant(&pair.ours, "standby", &[&format!("deep/gone/{name}/file"), &format!("deep/gone/{name}/kept")]);
    }
    fs::create_dir_all(pair.source.join("deep/gone")).unwrap();
    let list = |form: &dyn Fn(String) -> String| {
        let literal = |name: &str| String::from_utf8(syncore::rules::literal(name.as_bytes())).unwrap();
        let names = names
            .iter()
            .filter(|name| !BESIDE.contains(name))
            .map(|name| format!("{:?}", form(literal(name))));
        names.collect::<Vec<_>>().join(", ")
    };
    let profile = pair.profile(&format!(
        "[rules]\ninclude = ['/', {}, {}]\nexclude = ['/deep/', {}]\nprotect = [{}]\n[delete]\nenabled = true\n",
        list(&|name| format!("/deep/lifted/{name}/")),
        list(&|name| format!("/deep/gone/{name}/")),
        list(&|name| format!("/out/{name}")),
        list(&|name| format!("/deep/gone/{name}/kept")),
    ));
    pair.assert_same(profile.as_os_str(), 4);
    assert!(!pair.source.join("owned").exists() && !pair.scripts.join("owned").exists());
    let gone = |name| pair.scripts.join("deep/gone").join(name).join("file");
    assert!(!gone("it's").exists() && gone("a b ").exists() && !gone("line\nend").exists());
    // Without an end of line in a rule the list is one of lines.
    let profile = pair.profile(
        "[rules]\ninclude = ['/', '/deep/lifted/back\\\\slash/', '/deep/lifted/\\[ab\\]/f']\n\
         exclude = ['/deep/', '/out/back*', '/plain/[!a-z]*', '/plain/{a,b}*/', '/plain/st?r-not', '**/g', 'x;*']\n\
         [delete]\nenabled = true\n",
    );
    plant(
        &pair.source,
        "changed",
        &["deep/lifted/[ab]/f", "deep/lifted/a/f", "out/back\\slash/f", "out/a/f"],
    );
    pair.assert_same(profile.as_os_str(), 0);
}

const DIRECTORIES: [&str; 8] = ["", "a", "b", "a/a", "a/b", "b/a", "a/b/a", "a/b/b"];
const LEAVES: [&str; 3] = ["f", "g", "b"];
const PATTERNS: [&str; 26] = [
    "/a",
    "/a/",
    "/b/",
    "/a/a/",
    "/a/b",
    "/a/b/",
    "/b/a/",
    "/a/b/a/",
    "/a/b/b",
    "/f",
    "/a/f",
    "/a/b/f",
    "/b/g",
    "/a/b/a/g",
    "/b",
    "/a/*",
    "/*/f",
    "/?/b",
    "f",
    "b",
    "**/a",
    "/a/**",
    "/a/**/g",
    "/[!a]/*",
    "/{a,b}/{f,g}",
    "b/f",
];

#[derive(Debug, Clone, Copy)]
enum Leaf {
    Absent,
    File(u8),
    Link,
    Directory,
}

fn leaves() -> impl Strategy<Value = Vec<Leaf>> {
    let leaf = prop_oneof![
        2 => Just(Leaf::Absent),
        5 => (0..3_u8).prop_map(Leaf::File),
        1 => Just(Leaf::Link),
        1 => Just(Leaf::Directory),
    ];
    prop::collection::vec(leaf, DIRECTORIES.len() * LEAVES.len())
}

fn grow(root: &Path, leaves: &[Leaf]) {
    for (n, leaf) in leaves.iter().enumerate() {
        let (directory, name) = (root.join(DIRECTORIES[n / LEAVES.len()]), LEAVES[n % LEAVES.len()]);
        let path = directory.join(name);
        // What is there already was made by one before, and a link leads nowhere.
        let is_no_directory = |above: &Path| above.is_symlink() || above.is_file();
        let mut above = directory.ancestors().take_while(|above| above.starts_with(root) && *above != root);
        if fs::symlink_metadata(&path).is_ok() || above.any(is_no_directory) {
            continue;
        }
        match leaf {
            Leaf::Absent => {}
            Leaf::File(content) => {
                write(&path, vec![b'x'; usize::from(*content)]);
                chmod(&path, 0o600 + u32::from(*content));
                set_mtime(&path, 1_600_000_000 + i64::from(*content), 0);
            }
            Leaf::Link => {
                fs::create_dir_all(&directory).unwrap();
                symlink("f", &path).unwrap();
            }
            Leaf::Directory => plant(&path, "x", &["f", "deep/g"]),
        }
    }
    for directory in DIRECTORIES.iter().rev().map(|name| root.join(name)).filter(|path| path.is_dir()) {
        set_mtime(&directory, 1_500_000_000, 0);
    }
}

/// What a random profile is made of: kind of list, and pattern.
fn rules() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let kind = prop_oneof![
        3 => Just("include"), 4 => Just("exclude"), 1 => Just("protect"),
        1 => Just("S"), 2 => Just("A"), 1 => Just("D"), 1 => Just("R"), 1 => Just("C"),
    ];
    prop::collection::vec((kind, prop::sample::select(&PATTERNS[..])), 1..8)
}

fn written(rules: &[(&str, &str)]) -> String {
    let list = |wanted: &str| {
        let chosen =
            rules.iter().filter(|(kind, _)| *kind == wanted).map(|(_, pattern)| format!("'{pattern}'"));
        format!("{wanted} = [{}]\n", chosen.collect::<Vec<_>>().join(", "))
    };
    let rows = rules.iter().filter(|(kind, _)| kind.len() == 1).map(|(class, pattern)| {
        format!("[[row]]\npath = '{pattern}'\nclass = '{class}'\nwhat = 'x'\nsource = 'x'\n")
    });
    let lists = ["include", "exclude", "protect"].map(list).concat();
    format!("[rules]\n{lists}[delete]\nenabled = true\n{}", rows.collect::<String>())
}

#[test]
fn whatever_the_rules_are_the_script_leaves_what_clonetool_leaves() {
    let refused = std::cell::Cell::new(0);
    let config = ProptestConfig {
        cases: 60,
        rng_seed: RngSeed::Fixed(20_051_025),
        failure_persistence: None,
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    };
    proptest!(config, |(rules in rules(), root in any::<bool>(), source in leaves(), standby in leaves())| {
        let mut rules = rules;
        if root {
            rules.push(("include", "/"));
        }
        let pair = Pair::new("export-any");
        grow(&pair.source, &source);
        grow(&pair.ours, &standby);
        // A root with nothing in it is refused.
        plant(&pair.source, "x", &["always"]);
        let profile = pair.profile(&written(&rules));
        let exported = export(profile.as_os_str(), &pair.work.join("script.sh"));
        if exported.code == 3 {
            // What takes something in by a wildcard, or empties a directory by more than its last name.
            let wild = |pattern: &str| pattern.contains(['*', '?', '[', '{']) || !pattern.starts_with('/');
            assert!(rules.iter().any(|(kind, pattern)| matches!(*kind, "include" | "D") && wild(pattern)), "{exported:?}");
            refused.set(refused.get() + 1);
            return Ok(());
        }
        exported.expect_code(0);
        pair.fork();
        let ours = pair.sync(profile.as_os_str()).expect_one_of(&[0, 4]);
        let ran = pair.script(profile.as_os_str(), &["-D", "1000000"]);
        // A directory that does not take part, and is one on one end only, is worth a word to clonetool even where nothing
        // below it takes part either.
        let mentioned = ran.code == 0 && ours.stderr.contains("it is out of scope and a");
        if !mentioned {
            prop_assert_eq!(ran.code, ours.code, "{:#?}\n{}", ran, ours.describe());
        }
        let mut found = pair.differences(profile.as_os_str());
        // Where something is in the way each may put deletions off, and the other does not see it coming.
        let put_off = ours.stderr.contains("put off") || ran.log.contains("put off");
        let is_gone = |path: &[u8]| fs::symlink_metadata(pair.source.join(OsStr::from_bytes(path))).is_err();
        found.retain(|found| !(put_off && found.what == What::Presence && is_gone(&found.path)));
        assert_none(&found);
    });
    assert!(refused.get() < 40, "{} of the cases say nothing", refused.get());
}

#[test]
fn what_the_standby_has_of_its_own_in_the_way_stays_and_is_no_success() {
    // A file where a directory is on the way to what takes part.
    let pair = Pair::new("export-obstructed");
    plant(&pair.source, "production", &["way/in/f", "way/out", "else/f"]);
    plant(&pair.ours, "standby", &["way"]);
    let text = "[rules]\ninclude = ['/way/in/', '/else/']\n[delete]\nenabled = true\n";
    pair.assert_same(pair.profile(text).as_os_str(), 4);
    assert!(pair.scripts.join("way").is_file() && pair.scripts.join("else/f").exists());
    // Nothing that takes part is on that way: it is not in the way of anything.
    fs::remove_dir_all(pair.source.join("way/in")).unwrap();
    fs::remove_dir_all(&pair.scripts).unwrap();
    pair.fork();
    assert_eq!(pair.script(pair.profile(text).as_os_str(), &[]).code, 0);
    // A directory that would go, but holds nothing that may.
    let pair = Pair::new("export-stays");
    plant(&pair.source, "production", &["f"]);
    plant(&pair.ours, "standby", &["gone/own"]);
    let text = "[rules]\nprotect = ['/gone/own']\n[delete]\nenabled = true\n";
    pair.assert_same(pair.profile(text).as_os_str(), 4);
}
