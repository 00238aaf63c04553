//! The command line as a contract: exit codes, messages, output formats, and what bad worlds leave behind.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use serde_json::Value;

use crate::common::compare::{What, assert_none, assert_untouched, compare_ignoring, snapshot_ctimes};
use crate::common::plant::{chmod, mutate, noise, plant, write};
use crate::common::{
    CLONETOOL, Output, Workdir, clone_json, clonetool, clonetool_by, is_empty, lacks, mount,
};

/// The commands that this version must have.
const COMMANDS: [&str; 13] = [
    "clone",
    "sync",
    "plan",
    "verify",
    "explain",
    "history",
    "status",
    "check",
    "metrics",
    "profile",
    "agent",
    "completions",
    "man",
];

pub(crate) fn clone(extra: &[&str], source: &Path, destination: &Path) -> Output {
    let mut args: Vec<&OsStr> = vec!["clone".as_ref()];
    args.extend(extra.iter().map(OsStr::new));
    args.extend([source.as_os_str(), destination.as_os_str()]);
    clonetool(args)
}

/// A source with `count` files of `size` bytes that no compression makes smaller.
pub(crate) fn bulky(root: &Path, count: u64, size: usize) {
    for n in 0..count {
        write(&root.join(format!("file-{n:02}")), noise(1_000 + n, size));
    }
}

/// Asserts that whatever is in `copy` under a name of `source` is whole, and gives how many names are there.
#[track_caller]
pub(crate) fn assert_nothing_half_written(source: &Path, copy: &Path) -> usize {
    let mut whole = 0;
    for entry in fs::read_dir(source).expect("list") {
        let name = entry.expect("entry").file_name();
        let expected = fs::read(source.join(&name)).expect("read the source");
        if let Ok(found) = fs::read(copy.join(&name)) {
            assert!(found == expected, "{} is half-written: {} bytes", name.display(), found.len());
            whole += 1;
        }
    }
    whole
}

#[test]
fn help_names_every_command_and_version_is_the_packages() {
    let help = clonetool(["--help"]).expect_code(0);
    for command in COMMANDS {
        assert!(help.stdout.contains(command), "{command} is not in the help\n{}", help.describe());
        clonetool([command, "--help"]).expect_code(0);
    }
    let version = clonetool(["--version"]).expect_code(0);
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", version.describe());
}

#[test]
fn wrong_usage_is_exit_2() {
    let work = Workdir::new("cli-usage");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("file"), "");
    for args in [
        vec!["clone", "--no-such-option", "a", "b"],
        vec!["clone", "only-one"],
        vec!["no-such-command"],
        vec!["clone", "--transport", "pigeon", "a", "b"],
        vec!["clone", "--compress", "99", "a", "b"],
        vec!["sync", "no-such-profile"],
        vec!["explain", "no-such-profile", "/etc/passwd"],
        vec!["completions", "no-such-shell"],
        vec!["enroll", "root@standby:/"],
    ] {
        let output = clonetool(&args).expect_code(2);
        assert!(!output.stderr.is_empty(), "{args:?} says nothing");
    }
    clonetool(["verify"])
        .expect_code(2)
        .expect_stderr("clonetool verify [OPTIONS] <SOURCE> <DESTINATION>")
        .expect_stderr("clonetool verify [OPTIONS] --profile <PROFILE>");
    let both = clonetool(["clone", "host-a:/x", "host-b:/y"]).expect_code(2);
    assert!(both.stderr.contains("remote"), "{}", both.describe());
    let malformed = clone(&["--exclude", ""], &source, &copy).expect_code(2);
    assert!(!malformed.stderr.is_empty());
    assert!(is_empty(&copy), "a run with wrong usage made the destination");
}

#[test]
fn a_host_that_looks_like_an_option_is_never_one() {
    let work = Workdir::new("cli-injection");
    let source = work.make("source");
    write(&source.join("file"), "");
    // The program runs in the build's scratch directory: a command that got through leaves its mark there.
    let pwned = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pwned");
    assert!(!pwned.exists());
    for host in ["-oProxyCommand=touch${IFS}pwned", "x@-oProxyCommand=touch${IFS}pwned", "-lroot@host"] {
        for transport in ["ssh", "ssh2"] {
            let destination = format!("{host}:/tmp/x");
            let args: [&OsStr; 6] = [
                "clone".as_ref(),
                "--transport".as_ref(),
                transport.as_ref(),
                "--".as_ref(),
                source.as_os_str(),
                destination.as_ref(),
            ];
            clonetool(args).expect_one_of(&[2, 6]);
            assert!(!pwned.exists(), "{host} ran a command");
        }
    }
}

#[test]
fn a_missing_source_is_named_and_nothing_is_made() {
    let work = Workdir::new("cli-missing");
    let (source, copy) = (work.join("not-there"), work.make("copy"));
    let output = clone(&["--delete"], &source, &copy).expect_code(1);
    assert!(output.stderr.contains("not-there"), "{}", output.describe());
    assert!(is_empty(&copy));
    let file = work.join("a-file");
    write(&file, "no directory");
    write(&copy.join("file"), "stays");
    let output = clone(&["--delete"], &file, &copy).expect_one_of(&[1, 2, 3]);
    assert!(output.stderr.contains("a-file"), "{}", output.describe());
    assert_eq!(fs::read(copy.join("file")).expect("read"), b"stays");
}

/// Whether the walk would reach the destination depends on what is mounted, not on the words of the command line,
/// and nothing was changed: that is a refusal (3), not wrong usage (2).
#[test]
fn a_destination_that_the_walk_would_reach_is_refused() {
    let work = Workdir::new("cli-inside");
    let source = work.make("source");
    write(&source.join("file"), "");
    fs::create_dir_all(source.join("a/copy")).expect("mkdir");
    let before = snapshot_ctimes(&source);
    let output = clone(&[], &source, &source.join("a/copy")).expect_code(3);
    assert!(output.stderr.contains("would reach the destination"), "{}", output.describe());
    assert_untouched(&before, &snapshot_ctimes(&source));
    clone(&[], &source, &source).expect_one_of(&[2, 3]);
    assert_untouched(&before, &snapshot_ctimes(&source));
    // By another name it is still inside.
    symlink(&source, work.join("alias")).expect("symlink");
    clone(&[], &source, &work.join("alias/a/copy")).expect_code(3);
    assert_untouched(&before, &snapshot_ctimes(&source));
    // Excluded, it is out of the walk's reach.
    let excluded = source.join("a");
    fs::remove_dir(excluded.join("copy")).expect("rmdir");
    clone(&["--exclude", "/a/"], &source, &excluded).expect_code(0);
    assert_eq!(fs::read(excluded.join("file")).expect("read"), b"");
    assert!(!excluded.join("a").exists());
}

#[test]
fn a_destination_on_a_filesystem_of_its_own_below_the_source_works() {
    let work = Workdir::new("cli-below");
    let source = work.make("source");
    write(&source.join("etc/file"), "content");
    mount::tmpfs(&source.join("a"), "size=8m,mode=0755");
    clone(&["-x"], &source, &source.join("a")).expect_code(0);
    assert_eq!(fs::read(source.join("a/etc/file")).expect("read"), b"content");
    let inner = source.join("a/a");
    assert!(inner.is_dir(), "the mount point was not made");
    assert_eq!(fs::read_dir(inner).expect("list").count(), 0, "the walk went into the copy");
}

#[test]
fn an_empty_source_never_deletes_a_destination() {
    let work = Workdir::new("cli-empty");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&copy.join("dir/file"), "precious");
    let before = snapshot_ctimes(&copy);
    let output = clone(&["--delete"], &source, &copy).expect_code(3);
    assert!(output.stderr.contains("empty"), "{}", output.describe());
    assert_untouched(&before, &snapshot_ctimes(&copy));
}

#[test]
fn a_read_only_destination_fails_with_one_clear_message() {
    let work = Workdir::new("cli-readonly");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("file"), "");
    mount::tmpfs(&copy, "size=1m");
    mount::remount(&copy, "ro");
    let output = clone(&[], &source, &copy).expect_code(1);
    assert!(output.stderr.to_lowercase().contains("read-only"), "{}", output.describe());
    assert!(output.stderr.lines().count() <= 4, "not one clear message\n{}", output.describe());
    mount::remount(&copy, "rw");
    clone(&[], &source, &copy).expect_code(0);
    assert!(copy.join("file").exists());
}

#[test]
fn no_space_left_leaves_nothing_half_written_and_a_rerun_continues() {
    let work = Workdir::new("cli-enospc");
    let (source, copy) = (work.make("source"), work.make("copy"));
    bulky(&source, 12, 700_001);
    mount::tmpfs(&copy, "size=3m,mode=0755");
    // Whether the lack of space is foreseen (3), ends the run (1) or is a problem of some paths (4).
    let output = clone(&[], &source, &copy).expect_one_of(&[1, 3, 4]);
    assert!(output.stderr.to_lowercase().contains("space"), "{}", output.describe());
    let whole = assert_nothing_half_written(&source, &copy);
    assert!(whole < 12);
    mount::remount(&copy, "size=32m");
    let rerun = clone_json(&[], &source, &copy).expect_code(0);
    assert_eq!(rerun.count("created") + rerun.count("updated"), 12 - whole as u64, "{}", rerun.describe());
    assert_none(&compare_ignoring(&source, &copy, &[What::Holes]));
}

#[test]
fn no_space_left_while_updating_keeps_the_old_files() {
    let work = Workdir::new("cli-enospc-update");
    let (source, copy) = (work.make("source"), work.make("copy"));
    bulky(&source, 2, 1_000_001);
    mount::tmpfs(&copy, "size=4m,mode=0755");
    clone(&[], &source, &copy).expect_code(0);
    let old = fs::read(copy.join("file-00")).expect("read");
    write(&source.join("file-00"), noise(9_999, 8_000_000));
    clone(&[], &source, &copy).expect_one_of(&[1, 3, 4]);
    let kept = fs::read(copy.join("file-00")).expect("read");
    assert!(kept == old, "the old file was lost: {} bytes are left", kept.len());
}

/// A directory and a copy of the program in it that an unprivileged user can reach, and how to become that user.
fn unprivileged(name: &str) -> (Workdir, String, [&'static str; 4]) {
    let work = Workdir::public(name);
    let program = work.join("clonetool");
    fs::copy(CLONETOOL, &program).expect("copy the program");
    chmod(&program, 0o755);
    let become_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    (work, program.to_str().expect("a path").to_owned(), become_nobody)
}

#[test]
fn what_an_ordinary_user_may_not_do_is_a_problem_of_that_path() {
    let test = "cli::what_an_ordinary_user_may_not_do_is_a_problem_of_that_path";
    if lacks(test, &["setpriv"]) {
        return;
    }
    let (work, program, nobody) = unprivileged("cli-nobody");
    let (source, copy) = (work.make("source"), work.make("copy"));
    for name in ["readable", "dir/also-readable"] {
        write(&source.join(name), name);
        chown(source.join(name), Some(65_534), Some(65_534)).expect("chown");
    }
    write(&source.join("secret"), "only root reads this");
    chmod(&source.join("secret"), 0o600);
    write(&source.join("locked/inside"), "only root lists this");
    chmod(&source.join("locked"), 0o700);
    for path in [&source, &source.join("dir"), &copy] {
        chown(path, Some(65_534), Some(65_534)).expect("chown");
    }
    let args: [&OsStr; 4] = ["clone".as_ref(), "--json".as_ref(), source.as_os_str(), copy.as_os_str()];
    let output = clonetool_by(&nobody, &program, args).expect_code(4);
    assert!(output.count("problems") >= 2, "{}", output.describe());
    let told = format!("{}{}", output.stdout, output.stderr);
    for path in ["secret", "locked"] {
        assert!(told.contains(path), "{path} is not among the problems\n{}", output.describe());
    }
    assert_eq!(fs::read(copy.join("dir/also-readable")).expect("read"), b"dir/also-readable");
    assert!(!copy.join("secret").exists(), "a file that could not be read is there all the same");
    assert_ne!(output.summary()["outcome"], "in-sync", "{}", output.describe());
}

#[test]
fn what_an_ordinary_user_cannot_set_is_told() {
    let test = "cli::what_an_ordinary_user_cannot_set_is_told";
    if lacks(test, &["setpriv"]) {
        return;
    }
    let (work, program, nobody) = unprivileged("cli-nobody-owner");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("roots-own"), "readable, but of root");
    chown(&copy, Some(65_534), Some(65_534)).expect("chown");
    let args: [&OsStr; 4] = ["clone".as_ref(), "--json".as_ref(), source.as_os_str(), copy.as_os_str()];
    let output = clonetool_by(&nobody, &program, args).expect_code(4);
    assert!(format!("{}{}", output.stdout, output.stderr).contains("roots-own"), "{}", output.describe());
}

#[test]
fn names_are_printed_without_control_characters() {
    let work = Workdir::new("cli-escape");
    let (source, copy) = (work.make("source"), work.make("copy"));
    let names: [&[u8]; 5] =
        [b"esc\x1b[31mred", b"new\nline", b"c1-\xc2\x9b31m", b"bell\x07del\x7f", b"raw\x9b\xff"];
    for name in names {
        write(&source.join(OsStr::from_bytes(name)), "");
    }
    let listed = clone(&["--itemize"], &source, &copy).expect_code(0);
    let lines = listed.itemised().iter().filter(|line| !line.ends_with(" /")).count();
    assert_eq!(
        lines,
        names.len(),
        "each name is one line
{}",
        listed.describe()
    );
    let verified = {
        fs::remove_dir_all(&copy).expect("remove");
        clonetool([OsStr::new("verify"), source.as_os_str(), work.make("copy").as_os_str()]).expect_code(5)
    };
    for text in [&listed.stdout, &listed.stderr, &verified.stdout, &verified.stderr] {
        let control = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(control, None, "a control character reached the output: {text:?}");
    }
    let json = clone_json(&["-n"], &source, &work.make("another")).expect_code(0);
    assert!(json.stdout.bytes().all(|b| b >= 0x20 || b == b'\n'), "{}", json.describe());
    json.objects();
}

#[test]
fn json_ends_with_a_summary_that_has_every_key() {
    let work = Workdir::new("cli-json");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("dir/file"), noise(5, 10_000));
    let output = clone_json(&[], &source, &copy).expect_code(0);
    for object in output.objects() {
        assert!(object["type"].is_string(), "an object without a type: {object}");
    }
    let summary = output.summary();
    for key in [
        "entries_scanned",
        "created",
        "updated",
        "deleted",
        "metadata_only",
        "moved",
        "protected",
        "literal_bytes",
        "copied_bytes",
        "wire_sent_bytes",
        "wire_received_bytes",
        "problems",
    ] {
        assert!(summary[key].is_u64(), "{key} is no number: {summary}");
    }
    assert!(summary["elapsed_seconds"].is_number(), "{summary}");
    assert!(summary["outcome"].is_string(), "{summary}");
    assert!(output.count("entries_scanned") >= 2, "directory and file: {summary}");
    assert!(output.count("created") >= 2, "{summary}");
    assert!(output.count("literal_bytes") <= 10_000, "{summary}");
    assert_eq!(output.stderr, "", "a run without problems says something beside the JSON");
}

#[test]
fn quiet_is_silent_on_success() {
    let work = Workdir::new("cli-quiet");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("file"), "");
    let output = clone(&["-q"], &source, &copy).expect_code(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    let failed = clone(&["-q"], &work.join("missing"), &copy).expect_code(1);
    assert!(!failed.stderr.is_empty(), "silent on failure too");
}

#[test]
fn a_dry_run_changes_nothing_and_shows_what_the_run_does() {
    let work = Workdir::new("cli-dry-run");
    let (source, copy) = (work.join("source"), work.make("copy"));
    plant(&source);
    let first = clone(&["-n", "--itemize"], &source, &copy).expect_code(0);
    assert!(is_empty(&copy), "a dry run wrote something");
    assert!(first.itemised().len() > 3_000, "{}", first.describe());
    assert_eq!(first.itemised(), clone(&["--itemize"], &source, &copy).expect_code(0).itemised());
    mutate(&source);
    let before = snapshot_ctimes(&copy);
    let options = ["--itemize", "--delete"];
    let planned = clone(&["--itemize", "--delete", "--dry-run"], &source, &copy).expect_code(0);
    let counted = clone_json(&["--delete", "-n"], &source, &copy).expect_code(0);
    assert_untouched(&before, &snapshot_ctimes(&copy));
    let done = clone(&options, &source, &copy).expect_code(0);
    assert_eq!(planned.itemised(), done.itemised());
    let counts = counted.changes();
    assert!(counts.iter().sum::<u64>() > 20, "{}", counted.describe());
    let after = clone(&["--itemize", "--delete", "-n"], &source, &copy).expect_code(0);
    assert_eq!(after.itemised(), Vec::<&str>::new(), "a run that has nothing to do itemises something");
}

#[test]
fn verify_is_0_for_equal_trees_and_5_for_others() {
    let work = Workdir::new("cli-verify");
    let (source, copy) = (work.join("source"), work.make("copy"));
    plant(&source);
    clone(&[], &source, &copy).expect_code(0);
    let verify = || clonetool([OsStr::new("verify"), source.as_os_str(), copy.as_os_str()]);
    let before = snapshot_ctimes(&copy);
    verify().expect_code(0);
    // Same size and time: only reading finds it.
    let victim = copy.join("crowd/00042");
    let time = fs::metadata(&victim).expect("stat").modified().expect("mtime");
    let mut bytes = fs::read(&victim).expect("read");
    bytes[0] ^= 1;
    write(&victim, bytes);
    fs::File::options().write(true).open(&victim).and_then(|f| f.set_modified(time)).expect("set the time");
    let found = verify().expect_code(5);
    assert!(found.stdout.contains("crowd/00042"), "{}", found.describe());
    let mut after = snapshot_ctimes(&copy);
    after.insert(b"crowd/00042".to_vec(), before[&b"crowd/00042"[..]]);
    assert_untouched(&before, &after);
}

#[test]
fn completions_and_the_manual_are_printed() {
    for (shell, mark) in
        [("bash", "complete -F"), ("zsh", "#compdef clonetool"), ("fish", "complete -c clonetool")]
    {
        let output = clonetool(["completions", shell]).expect_code(0);
        assert!(output.stdout.contains(mark), "{shell}: {}", output.describe());
        assert!(output.stdout.contains("one-file-system"), "{shell}: {}", output.describe());
    }
    let manual = clonetool(["man"]).expect_code(0);
    assert!(
        manual.stdout.contains(".TH clonetool") || manual.stdout.contains(".TH CLONETOOL"),
        "no manual page"
    );
    for command in COMMANDS {
        assert!(manual.stdout.contains(command), "{command} is not in the manual");
    }
}

#[test]
fn shipped_profiles_are_listed_shown_and_valid() {
    let list = clonetool(["profile", "list"]).expect_code(0);
    for profile in
        ["linux-hourly-auth", "linux-daily", "linux-migrate", "solaris-hourly-auth", "solaris-daily", "full"]
    {
        assert!(list.stdout.contains(profile), "{profile} is not listed\n{}", list.describe());
        clonetool(["profile", "check", profile]).expect_code(0);
        let shown = clonetool(["profile", "show", profile]).expect_code(0);
        assert!(shown.stdout.contains("description"), "{}", shown.describe());
    }
}

#[test]
fn a_bad_profile_is_exit_2_and_names_the_line() {
    let work = Workdir::new("cli-profile");
    let check = |text: &str| {
        let profile = work.join("bad.toml");
        write(&profile, text);
        clonetool([OsStr::new("profile"), OsStr::new("check"), profile.as_os_str()]).expect_code(2)
    };
    let unknown = check("description = \"x\"\n\n[rules]\nexlude = [\"/tmp/\"]\n");
    assert!(
        unknown.stderr.contains("exlude") && unknown.stderr.contains("exclude"),
        "{}",
        unknown.describe()
    );
    assert!(unknown.stderr.contains(":4") || unknown.stderr.contains("line 4"), "{}", unknown.describe());
    let broken = check("description = \"x\"\n[rules\n");
    assert!(broken.stderr.contains(":2") || broken.stderr.contains("line 2"), "{}", broken.describe());
    let cycle = check("description = \"x\"\nextends = [\"no-such-catalogue\"]\n");
    assert!(cycle.stderr.contains("no-such-catalogue"), "{}", cycle.describe());
}

#[test]
fn a_rule_that_can_never_match_is_warned_of() {
    let work = Workdir::new("cli-dead-rule");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("file"), "");
    let output = clone(&["--exclude", "/a/../b"], &source, &copy).expect_one_of(&[0, 2]);
    assert!(output.stderr.contains("/a/../b"), "{}", output.describe());
}

#[test]
fn a_log_file_is_appended_to_and_not_through_a_strangers_symlink() {
    let work = Workdir::new("cli-log");
    let (source, copy, log) = (work.make("source"), work.make("copy"), work.join("log"));
    write(&source.join("file"), "");
    write(&log, "earlier\n");
    clone(&["--log-file", log.to_str().expect("a path")], &source, &copy).expect_code(0);
    let text = fs::read_to_string(&log).expect("read the log");
    assert!(text.starts_with("earlier\n") && text.len() > "earlier\n".len(), "{text:?}");
    let mode = fs::metadata(&log).expect("stat").permissions().mode();
    assert_eq!(mode & 0o002, 0, "the log is writable for everyone");
    // In a directory that anyone may write to, somebody else's symlink chooses no file.
    let victim = work.join("victim");
    write(&victim, "victim\n");
    let open = work.make("open");
    chmod(&open, 0o777);
    symlink(&victim, open.join("log")).expect("symlink");
    std::os::unix::fs::lchown(open.join("log"), Some(65_534), Some(65_534)).expect("lchown");
    let planted = open.join("log");
    clone(&["--log-file", planted.to_str().expect("a path")], &source, &copy).expect_one_of(&[1, 2, 3]);
    assert_eq!(fs::read_to_string(&victim).expect("read"), "victim\n");
}

#[test]
fn explain_speaks_json_too() {
    let explained = clonetool(["explain", "--json", "linux-daily", "/etc/hostname"]).expect_code(0);
    let last: Value = explained.objects().pop().expect("an object");
    assert!(last["type"].is_string(), "{last}");
}
