//! What the integration tests share.

pub(crate) mod compare;
pub(crate) mod debian;
pub(crate) mod dir;
pub(crate) mod mount;
pub(crate) mod plant;
pub(crate) mod recorded;
pub(crate) mod sshd;
pub(crate) mod trees;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The program under test.
pub(crate) const CLONETOOL: &str = env!("CARGO_BIN_EXE_clonetool");

/// Where the records of syncs go of which no test asks.
const RECORDS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/records");

/// How long one run of the program may take before it is killed and the test fails.
const RUN_LIMIT_SECONDS: &str = "600";

/// A directory for one test, removed with whatever is in it and whatever is mounted below it.
#[derive(Debug)]
pub(crate) struct Workdir(PathBuf);

impl Workdir {
    /// Makes one beside the build, on a real filesystem.
    pub(crate) fn new(name: &str) -> Self {
        Self::below(Path::new(env!("CARGO_TARGET_TMPDIR")), name)
    }

    /// Makes one that every user of the machine can reach.
    pub(crate) fn public(name: &str) -> Self {
        let workdir = Self::below(&std::env::temp_dir(), name);
        plant::chmod(workdir.path(), 0o755);
        workdir
    }

    fn below(base: &Path, name: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "the integration tests need root");
        fs::create_dir_all(base).expect("make the base of the work directories");
        let dir =
            tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(base).expect("work directory");
        Self(dir.keep())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A remote shell whose other host is this one: it is called with a host, and then the command.
    pub(crate) fn remote_shell(&self) -> PathBuf {
        let shell = self.join("shell");
        plant::write(&shell, "#!/bin/sh\nshift\nexec \"$@\"\n");
        plant::chmod(&shell, 0o755);
        shell
    }

    /// A path in it.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// A new, empty directory in it.
    pub(crate) fn make(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).expect("make a directory");
        path
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if std::env::var_os("CLONETOOL_KEEP").is_some() {
            eprintln!("kept: {}", self.0.display());
            return;
        }
        mount::unmount_below(&self.0);
        // A second panic while unwinding would abort the whole run and hide the first.
        if std::panic::catch_unwind(|| dir::remove_tree(&self.0)).is_err() {
            eprintln!("not removed: {}", self.0.display());
        }
    }
}

/// What a run of the program gave.
#[derive(Debug)]
pub(crate) struct Output {
    /// Its exit code; -1 when a signal ended it.
    pub(crate) code: i32,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
    command: String,
}

impl Output {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        self.expect_one_of(&[code])
    }

    /// Asserts that the exit code is one of `codes`.
    #[track_caller]
    pub(crate) fn expect_one_of(self, codes: &[i32]) -> Self {
        assert!(
            codes.contains(&self.code),
            "exit {} where {codes:?} was expected\n{}",
            self.code,
            self.describe()
        );
        self
    }

    /// Asserts that standard error holds `text`.
    #[track_caller]
    pub(crate) fn expect_stderr(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "standard error lacks {text:?}\n{}", self.describe());
        self
    }

    /// Everything about the run, for a failure message.
    pub(crate) fn describe(&self) -> String {
        let (command, code) = (&self.command, self.code);
        format!(
            "$ {command}\nexit {code}\n--- stdout\n{}\n--- stderr\n{}",
            clip(&self.stdout),
            clip(&self.stderr)
        )
    }

    /// The lines that `--itemize` printed, sorted: what happens, and the path, which begins with a slash.
    pub(crate) fn itemised(&self) -> Vec<&str> {
        let is_item = |line: &&str| line.split_whitespace().nth(1).is_some_and(|path| path.starts_with('/'));
        let mut lines: Vec<_> = self.stdout.lines().filter(is_item).collect();
        lines.sort_unstable();
        lines
    }

    /// The objects that `--json` printed.
    #[track_caller]
    pub(crate) fn objects(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line)
                .unwrap_or_else(|e| panic!("{line:?} is no JSON: {e}\n{}", self.describe()))
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The summary: the last line that `--json` printed.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        let last = self.objects().pop().unwrap_or_else(|| panic!("no summary\n{}", self.describe()));
        assert_eq!(last["type"], "summary", "the last line is no summary\n{}", self.describe());
        last
    }

    /// A number of the summary.
    #[track_caller]
    pub(crate) fn count(&self, key: &str) -> u64 {
        let summary = self.summary();
        summary[key].as_u64().unwrap_or_else(|| panic!("{key} is no number\n{}", self.describe()))
    }

    /// What the run changed: created, updated, deleted, only in metadata, moved.
    #[track_caller]
    pub(crate) fn changes(&self) -> [u64; 5] {
        ["created", "updated", "deleted", "metadata_only", "moved"].map(|key| self.count(key))
    }

    /// Asserts that the run changed nothing.
    #[track_caller]
    pub(crate) fn expect_no_changes(self) -> Self {
        assert_eq!(
            self.changes(),
            [0; 5],
            "a run that had nothing to do changed something\n{}",
            self.describe()
        );
        self
    }
}

fn clip(text: &str) -> String {
    const LIMIT: usize = 4_000;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    format!("{}…", text.chars().take(LIMIT).collect::<String>())
}

/// Runs the program with `args`.
pub(crate) fn clonetool<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    clonetool_by(&[], CLONETOOL, args)
}

/// Runs `program`, a copy of the program, by way of the command `prefix` (`setpriv …`, `chroot …`).
pub(crate) fn clonetool_by<S: AsRef<OsStr>>(
    prefix: &[&str],
    program: &str,
    args: impl IntoIterator<Item = S>,
) -> Output {
    let mut args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    // Tests leave no records on the host that they run on.
    let recorded =
        |first: &OsString| ["sync", "rollback", "recover", "verify"].iter().any(|command| first == command);
    if args.first().is_some_and(recorded) && !args.iter().any(|arg| arg == "--records") {
        args.splice(1..1, ["--records".into(), RECORDS.into()]);
    }
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", RUN_LIMIT_SECONDS]).args(prefix).arg(program).args(&args);
    command
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .env_remove("SSH_AUTH_SOCK")
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C.UTF-8");
    let output = command.stdin(Stdio::null()).output().expect("run clonetool");
    let shown: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        command: format!("{} {program} {}", prefix.join(" "), shown.join(" ")),
    }
}

/// `clonetool clone --json EXTRA… SOURCE DESTINATION`.
pub(crate) fn clone_json(extra: &[&str], source: &Path, destination: &Path) -> Output {
    let mut args: Vec<&OsStr> = vec!["clone".as_ref(), "--json".as_ref()];
    args.extend(extra.iter().map(OsStr::new));
    args.extend([source.as_os_str(), destination.as_os_str()]);
    clonetool(args)
}

/// Whether a directory has no entries.
pub(crate) fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap_or_else(|e| panic!("list {}: {e}", dir.display())).next().is_none()
}

/// Runs a command of the system, which must succeed, and gives its output.
#[track_caller]
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|e| panic!("run {program}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Copies a tree by rsync as faithfully as it can and gives its exit code.
pub(crate) fn rsync(from: &Path, to: &Path) -> i32 {
    let mut source = from.as_os_str().to_owned();
    source.push("/");
    let mut command = Command::new("rsync");
    command.args(["-aHAXS", "--numeric-ids"]).arg(source).arg(to);
    let output = command.output().expect("run rsync (package rsync)");
    output.status.code().unwrap_or(-1)
}

/// Says loudly that `test` cannot run, and notes it where the count of skipped tests is kept.
pub(crate) fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED: {test}: {why}");
    if let Some(log) = std::env::var_os("CLONETOOL_SKIP_LOG") {
        let mut log = fs::OpenOptions::new().create(true).append(true).open(log).expect("open the skip log");
        writeln!(log, "{test}: {why}").expect("write the skip log");
    }
}

/// Whether `test` must be skipped because a command that it needs is not installed.
pub(crate) fn lacks(test: &str, commands: &[&str]) -> bool {
    let missing: Vec<_> = commands.iter().filter(|command| !installed(command)).copied().collect();
    if !missing.is_empty() {
        skip(test, &format!("not installed: {}", missing.join(", ")));
    }
    !missing.is_empty()
}

fn installed(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].into_iter().map(PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|dir| dir.join(command).exists())
}

/// Why a copy by `rsync -aHAXS --numeric-ids` may differ from its source there; none if it may not.
pub(crate) fn rsync_limit(difference: &compare::Difference) -> Option<&'static str> {
    use compare::What;
    let below = |name: &[u8]| difference.path.windows(name.len()).any(|part| part == name);
    match difference.what {
        What::Mtime if same_second(&difference.left, &difference.right) => {
            Some("rsync takes a directory's time for equal when its whole seconds are")
        }
        What::Flags => Some("rsync knows no inode flags"),
        What::Holes => Some("rsync makes holes of zeros and of nothing else, block by block"),
        What::Presence if below(b"dddddddddd") => Some("rsync gives up on paths longer than PATH_MAX"),
        What::Links if difference.path.ends_with(b"also-at-the-top") => {
            Some("its other name is too deep for rsync")
        }
        _ => None,
    }
}

fn same_second(left: &str, right: &str) -> bool {
    left.split('.').next() == right.split('.').next()
}
