//! The documents keep to the program: the commands, options and exit codes that they name are those it has.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::clonetool;

const DOCUMENTS: [&str; 15] = [
    "doc/gates.md",
    "doc/export.md",
    "doc/operations.md",
    "doc/prepare-root.md",
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "doc/design.md",
    "doc/format.md",
    "doc/image.md",
    "doc/protocol.md",
    "doc/schedule.md",
    "doc/enroll.md",
    "doc/rollback.md",
    "doc/snapshots.md",
];

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What follows `clonetool` wherever a document shows a call of it, in a block of code or within a line.
fn calls(text: &str) -> Vec<Vec<String>> {
    let (mut code, mut prose, mut in_block) = (Vec::new(), String::new(), false);
    for line in text.lines() {
        match line.starts_with("```") {
            true => in_block = !in_block,
            false if in_block => code.push(line.split(" #").next().unwrap_or_default().to_owned()),
            false => prose.extend([line, " "]),
        }
    }
    code.extend(prose.split('`').skip(1).step_by(2).map(str::to_owned));
    let words = |code: &String| -> Option<Vec<String>> {
        let words = code.split([' ', '"']).filter(|word| !word.is_empty());
        let words: Vec<String> =
            words.skip_while(|word| *word != "clonetool").skip(1).map(str::to_owned).collect();
        words.first()?.bytes().all(|b| b.is_ascii_lowercase()).then_some(words)
    };
    code.iter().filter_map(words).collect()
}

#[test]
fn every_command_and_option_in_the_documents_is_the_programs() {
    let mut options = 0;
    for name in DOCUMENTS {
        for call in calls(&document(name)) {
            // Of these the next word is a command, too.
            let nested = matches!(&call[0][..], "profile" | "image" | "hold" | "schedule");
            let commands = if nested { 2.min(call.len()) } else { 1 };
            let help = ["help"].into_iter().chain(call[..commands].iter().map(String::as_str));
            let help = clonetool(help).expect_code(0);
            for option in call.iter().filter(|word| word.starts_with('-')) {
                let option = option.split('=').next().unwrap_or_default();
                let known = help.stdout.split([' ', ',', '\n']).any(|word| word == option);
                assert!(known, "{name}: `clonetool {}`: there is no {option}", call.join(" "));
                options += 1;
            }
        }
    }
    assert!(options > 10, "only {options} options were found: the documents are read wrongly");
}

/// The table below a document's heading of that name: code and meaning.
fn exit_codes(name: &str) -> BTreeMap<u8, String> {
    let text = document(name);
    let section = text.split("\n## ").find(|section| section.starts_with("Exit codes\n")).expect("a section");
    let rows = section.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter_map(|row| Some((row.get(1)?.parse().ok()?, (*row.get(2)?).to_owned()))).collect()
}

#[test]
fn the_exit_codes_are_the_same_everywhere() {
    let codes = exit_codes("doc/format.md");
    assert_eq!(exit_codes("README.md"), codes);
    let help = clonetool(["--help"]).expect_code(0).stdout;
    let (_, listed) = help.split_once("Exit codes:").expect("exit codes in the help");
    let listed = listed.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u8>().ok());
    assert_eq!(listed.collect::<Vec<_>>(), codes.keys().copied().collect::<Vec<_>>());
}
