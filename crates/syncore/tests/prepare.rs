//! Phony trees, prepared: what becomes of each is written beside it.
//!
//! Why: a planner is judged by the files that it leaves, and those of a system that cannot be booted here are best
//! read as files. A case is a directory below `prepare/`:
//!
//! * `case.toml`: what is asked, and the hardware (`case.rs` has the keys);
//! * `before/` and `before.txt`: the tree, and what git does not hold of it (`tree.rs` has the words);
//! * `after/` and `after.txt`: the tree as it has to be, but for the journal; neither is there when nothing may change;
//! * `report.txt`: what the report has to say, or the error.
//!
//! Each is planned, which may change nothing, carried out, compared, and planned again, which may find nothing to do.
//! No command is run: a phony target is of no architecture, or the shell in the tree is for another processor, so
//! whatever would be run in the tree is pending.
//!
//! What can go wrong: an expectation that nobody read. `PREPARE_CASE=NAME` runs one case (a part of its name does);
//! `PREPARE_WRITE=1` writes `after/`, `after.txt` and `report.txt` as they come out, to be read in the diff before they
//! are committed; the test fails all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "prepare/case.rs"]
mod case;
#[path = "prepare/finish.rs"]
mod finish;
#[path = "prepare/tree.rs"]
mod tree;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use similar::TextDiff;
use syncore::monitor::Silent;
use syncore::prepare::{EditChange, Outcome, PrepareError, Report, plan};

use case::Case;
use tree::Tree;

#[test]
fn every_phony_tree_comes_out_as_is_written_beside_it() {
    if !rustix::process::geteuid().is_root() {
        let name = "every_phony_tree_comes_out_as_is_written_beside_it";
        return skip(name, "only root can lay out a tree with owners");
    }
    let names = cases();
    let write = std::env::var_os("PREPARE_WRITE").is_some();
    let mut failures = String::new();
    for directory in &names {
        let found = check(directory, write);
        if !found.is_empty() {
            write!(failures, "\n=== {} ===\n{found}", directory.file_name().unwrap().to_string_lossy())
                .unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn a_second_preparation_keeps_the_keys_that_the_standby_made_and_no_others() {
    if !rustix::process::geteuid().is_root() {
        let name = "a_second_preparation_keeps_the_keys_that_the_standby_made_and_no_others";
        return skip(name, "only root can lay out a tree with owners");
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prepare/solaris-8-svm");
    let mut case = Case::read(&directory.join("case.toml"));
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = temp.path().join("root");
    Tree::read(&directory.join("before"), &directory.join("before.txt")).lay_out(&root);
    let key = root.join("etc/ssh/ssh_host_rsa_key");
    let production = std::fs::read(&key).unwrap();
    plan(&root, &case.target, &case.options).unwrap().carry_out(&Silent).unwrap();
    assert!(!key.exists());
    case.options.again = true;
    let edits = || {
        let again = plan(&root, &case.target, &case.options).unwrap();
        again.report().edits.iter().map(syncore::prepare::Edit::diff).collect::<Vec<_>>()
    };
    // finish.sh made one; then somebody copied production's again.
    std::fs::write(&key, "the standby's\n").unwrap();
    assert_eq!(edits(), [""; 0]);
    std::fs::write(&key, production).unwrap();
    assert_eq!(edits(), ["remove /etc/ssh/ssh_host_rsa_key\n"]);
}

/// The directories of all cases, or of those that are asked for.
fn cases() -> Vec<PathBuf> {
    let wanted = std::env::var("PREPARE_CASE").unwrap_or_default();
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prepare"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir() && path.file_name().unwrap().to_string_lossy().contains(&wanted))
            .collect();
    names.sort();
    names
}

/// Runs one case; what is wrong, for a person.
fn check(directory: &Path, write: bool) -> String {
    let case = Case::read(&directory.join("case.toml"));
    let before = Tree::read(&directory.join("before"), &directory.join("before.txt"));
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = temp.path().join("root");
    before.lay_out(&root);
    let laid_out = Tree::scan(&root);

    let mut wrong = String::new();
    let outcome = prepare(&case, &root, &laid_out, &mut wrong);
    let mut after = Tree::scan(&root);
    let mut report = match &outcome {
        Ok(report) => render(report),
        Err(error) => format!("error: {error}\n"),
    };
    case.mask(&root, &laid_out, &mut after, &mut report, &mut wrong);
    // What is written is the whole tree if anything changed, and no tree if nothing did.
    let changed = after != laid_out;
    if write {
        for stale in ["after", "after.txt", "report.txt"] {
            let stale = directory.join(stale);
            let _ = if stale.is_dir() { std::fs::remove_dir_all(stale) } else { std::fs::remove_file(stale) };
        }
        if changed {
            after.write(&directory.join("after"), &directory.join("after.txt"));
        }
        std::fs::write(directory.join("report.txt"), &report).unwrap();
        return wrong + "written as it came out; read it\n";
    }
    let expected = if directory.join("after").exists() {
        Tree::read(&directory.join("after"), &directory.join("after.txt"))
    } else {
        laid_out
    };
    wrong += &expected.difference(&after);
    let expected = std::fs::read_to_string(directory.join("report.txt")).unwrap_or_default();
    wrong + &unified("report.txt", &expected, &report)
}

/// Plans, carries out, and plans again.
fn prepare(case: &Case, root: &Path, laid_out: &Tree, wrong: &mut String) -> Result<Report, PrepareError> {
    let mut unchanged = |when: &str| {
        let difference = laid_out.difference(&Tree::scan(root));
        if !difference.is_empty() || root.join("var/lib/clonetool").exists() {
            write!(wrong, "{when} changed the tree\n{difference}").unwrap();
        }
    };
    let preparation =
        plan(root, &case.target, &case.options).inspect_err(|_| unchanged("a plan that failed"))?;
    unchanged("a plan");
    let planned = preparation.report().edits.clone();
    let report = preparation.carry_out(&Silent)?;
    if report.edits != planned {
        wrong.push_str("what was done is not what was planned\n");
    }
    let mut again = case.options.clone();
    match plan(root, &case.target, &again) {
        Err(PrepareError::Again { .. }) => {}
        // What failed may be tried again without being asked for by name.
        Ok(_) if report.outcome == Outcome::Failed => {}
        other => writeln!(wrong, "a second preparation was not refused: {other:?}").unwrap(),
    }
    again.again = true;
    match plan(root, &case.target, &again) {
        Ok(second) => {
            for edit in &second.report().edits {
                writeln!(wrong, "planned again, there is more to do: {}{}", edit.diff(), edit.why).unwrap();
            }
            // Whether a command can be run in the tree is seen when it is to be.
            let left = report.pending.iter().any(|argv| argv.first().is_some_and(|name| name != "sh"));
            if second.report().outcome != report.outcome && !left {
                writeln!(wrong, "planned again, the outcome is {:?}", second.report().outcome).unwrap();
            }
        }
        Err(error) => writeln!(wrong, "it cannot be planned again: {error}").unwrap(),
    }
    Ok(report)
}

/// The report in words, each list in its own order.
fn render(report: &Report) -> String {
    let mut text = format!("system: {}\noutcome: {:?}\n", report.system, report.outcome);
    let mut list = |name: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            writeln!(text, "{name}:").unwrap();
            for line in lines {
                writeln!(text, "  {}", line.replace('\n', "\n    ")).unwrap();
            }
        }
    };
    let commands = |commands: &[Vec<String>]| commands.iter().map(|argv| argv.join(" ")).collect();
    list(
        "replaced",
        report.replaced.iter().map(|it| format!("{}: {} -> {}", it.what, it.old, it.new)).collect(),
    );
    list("starts", report.starts.clone());
    list("held", report.held.iter().map(|it| format!("{} {}: {}", it.kind, it.name, it.how)).collect());
    list("host keys", report.host_keys.iter().map(|it| format!("{}", it.path)).collect());
    list("commands", commands(&report.commands));
    list("pending", commands(&report.pending));
    list(
        "findings",
        report
            .findings
            .iter()
            .map(|it| {
                let path = it.path.as_ref().map(|path| format!(" {path}")).unwrap_or_default();
                format!("{:?}{path}: {}", it.weight, it.message)
            })
            .collect(),
    );
    let edit = |it: &syncore::prepare::Edit| {
        let verb = match &it.change {
            EditChange::Write { before: None, .. } => "new",
            EditChange::Write { .. } => "edit",
            EditChange::Symlink { .. } => "link",
            EditChange::Directory { .. } => "mkdir",
            EditChange::Remove => "remove",
            EditChange::Clear => "empty",
            EditChange::Rename { .. } => "rename",
            EditChange::Hold { .. } => "hold",
        };
        format!("{} {verb} {}: {}", it.class.letter(), it.path, it.why)
    };
    list("edits", report.edits.iter().map(edit).collect());
    text
}

/// A unified difference; nothing when there is none.
fn unified(name: &str, expected: &str, found: &str) -> String {
    if expected == found {
        return String::new();
    }
    let diff = TextDiff::from_lines(expected, found);
    let (from, to) = (format!("expected {name}"), format!("found {name}"));
    diff.unified_diff().context_radius(3).header(&from, &to).to_string()
}

/// Says that the test was not run, in the file that `make test` compares.
fn skip(name: &str, reason: &str) {
    if let Some(log) = std::env::var_os("CLONETOOL_SKIP_LOG") {
        let line = format!("{name}: {reason}\n");
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        std::io::Write::write_all(&mut log, line.as_bytes()).unwrap();
    }
    eprintln!("SKIPPED: {name}: {reason}");
}
