//! Runs one program to its end or its deadline, and keeps the last of what it said.
//!
//! Why: what is run here asks volume managers and databases from cron, or builds boot files at a rescue prompt, where
//! nobody sees a command that hangs. What can go wrong: a program that waits for ever (it and its whole group are killed), that
//! talks without end (only the last lines are kept), that leaves a daemon behind which holds the pipe and keeps the
//! binds busy (what is left of its group is killed too), or that sleeps in the kernel and cannot be killed (it is left
//! behind, and said).

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How much of what a program says is kept when it says too much.
const SAID_LIMIT_BYTES: usize = 256 * 1024;
/// How often it is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long a killed program may take to be gone, and what it said to arrive.
const GRACE: Duration = Duration::from_secs(5);
/// Where programs of a rescue system are; its environment is not asked.
const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: &'a [(&'a str, &'a str)],
    pub(crate) deadline: Duration,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself.
    With(ExitStatus),
    /// It did not, and was killed.
    Deadline,
    /// The caller asked to stop, and it was killed.
    Cancelled,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ended: Ended,
    /// Both its outputs, the last of it; of one that was asked ([`ask`]) the standard output alone.
    pub(crate) said: Vec<u8>,
    /// Of one that was asked its standard error, the last of it.
    pub(crate) complained: Vec<u8>,
}

impl Outcome {
    pub(crate) fn succeeded(&self) -> bool {
        matches!(self.ended, Ended::With(status) if status.success())
    }

    /// The last lines, for a message.
    pub(crate) fn last_lines(&self, count: usize) -> String {
        let text = String::from_utf8_lossy(&self.said);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].join(" | ")
    }

    /// How it ended, in words for a person.
    pub(crate) fn describe(&self, deadline: Duration) -> String {
        let how = match self.ended {
            Ended::With(status) => match status.code() {
                Some(code) => format!("exit code {code}"),
                None => "ended by a signal".to_owned(),
            },
            Ended::Deadline => format!("not done after {} seconds, and was killed", deadline.as_secs()),
            Ended::Cancelled => "interrupted".to_owned(),
        };
        match self.last_lines(4) {
            said if said.is_empty() => how,
            said => format!("{how}: {said}"),
        }
    }
}

/// Finds a program of the system that we run on.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Runs it. `stop` is asked while it runs.
pub(crate) fn run(program: &Program<'_>, stop: &dyn Fn() -> bool) -> io::Result<Outcome> {
    let (reader, writer) = io::pipe()?;
    let errors = writer.try_clone()?;
    let mut command = command(program);
    command.stdin(Stdio::null()).stdout(writer).stderr(errors);
    let child = command.spawn()?;
    // The command holds our ends of the pipe; while they are open there is no end of what is read.
    drop(command);
    let said = Said::listen(reader)?;
    let ended = wait(child, program.deadline, stop)?;
    Ok(Outcome { ended, said: said.all(), complained: Vec::new() })
}

/// Runs it with `input` on its standard input, and keeps what it says as [`run`] does.
pub(crate) fn tell(program: &Program<'_>, input: Vec<u8>) -> io::Result<Outcome> {
    let (reader, writer) = io::pipe()?;
    let errors = writer.try_clone()?;
    let mut command = command(program);
    let mut child = command.stdin(Stdio::piped()).stdout(writer).stderr(errors).spawn()?;
    drop(command);
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read is killed in the end, which ends the writing, too.
        std::thread::Builder::new().name("told".into()).spawn(move || drop(stdin.write_all(&input)))?;
    }
    let said = Said::listen(reader)?;
    let ended = wait(child, program.deadline, &|| false)?;
    Ok(Outcome { ended, said: said.all(), complained: Vec::new() })
}

/// Runs it for what it answers: what it says and what it complains of are kept apart. `stop` is asked while it runs.
pub(crate) fn ask(program: &Program<'_>, stop: &dyn Fn() -> bool) -> io::Result<Outcome> {
    let (reader, writer) = io::pipe()?;
    let (errors, error_writer) = io::pipe()?;
    let mut command = command(program);
    command.stdin(Stdio::null()).stdout(writer).stderr(error_writer);
    let child = command.spawn()?;
    drop(command);
    let (said, complained) = (Said::listen(reader)?, Said::listen(errors)?);
    let ended = wait(child, program.deadline, stop)?;
    Ok(Outcome { ended, said: said.all(), complained: complained.all() })
}

/// What arrives on a pipe, as it is collected.
struct Said {
    kept: Arc<Mutex<Vec<u8>>>,
    finished: Receiver<()>,
}

impl Said {
    fn listen(reader: impl Read + Send + 'static) -> io::Result<Self> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (done, finished) = channel();
        let keeper = Arc::clone(&kept);
        std::thread::Builder::new().name("said".into()).spawn(move || keep(reader, &keeper, &done))?;
        Ok(Self { kept, finished })
    }

    fn all(self) -> Vec<u8> {
        wait_for_output(&self.finished);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs it as a filter: `input` goes in, and `output` reads what comes out. Its errors are not kept.
pub(crate) fn filter<T>(
    program: &Program<'_>,
    mut input: impl Read + Send,
    output: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    let mut command = command(program);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else {
        return Err(io::Error::other("no pipes"));
    };
    std::thread::scope(|scope| {
        let (over, watched) = channel::<()>();
        let deadline = program.deadline;
        let waiting = scope.spawn(move || {
            let stopped = || watched.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty);
            wait(child, deadline, &stopped)
        });
        scope.spawn(move || {
            // A filter that has enough closes its end; what it made of the rest is judged by who reads.
            let _ = io::copy(&mut input, &mut stdin).and_then(|_| stdin.flush());
        });
        let read = output(&mut stdout);
        drop(stdout);
        if read.is_err() {
            drop(over);
            let _ = waiting.join();
            return read;
        }
        let ended = waiting.join().map_err(|_| io::Error::other("its waiter died"))??;
        drop(over);
        match ended {
            Ended::With(status) if status.success() => read,
            _ => Err(io::Error::other("it failed")),
        }
    })
}

fn command(program: &Program<'_>) -> Command {
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .env_clear()
        .envs(program.environment.iter().copied())
        .current_dir("/")
        // Its own group, so that what it starts can be killed with it.
        .process_group(0);
    command
}

/// Waits for the end of a group leader, kills what is left of its group, and reaps it.
fn wait(mut child: Child, limit: Duration, stop: &dyn Fn() -> bool) -> io::Result<Ended> {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return Err(io::Error::other("a process without a number"));
    };
    let kill = || {
        // Gone already is as good.
        let _ = kill_process_group(pid, Signal::KILL);
    };
    let start = Instant::now();
    let mut killed: Option<(Ended, Instant)> = None;
    loop {
        // Not reaped yet: its number, which names the group, is still its own when the group is killed.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(pid), options)?.is_some() {
            kill();
            let status = child.wait()?;
            return Ok(killed.map_or(Ended::With(status), |(ended, _)| ended));
        }
        match &killed {
            None if start.elapsed() >= limit => {
                kill();
                killed = Some((Ended::Deadline, Instant::now()));
            }
            None if stop() => {
                kill();
                killed = Some((Ended::Cancelled, Instant::now()));
            }
            Some((ended, at)) if at.elapsed() > GRACE => return Ok(ended.clone()),
            _ => {}
        }
        std::thread::sleep(TICK);
    }
}

fn keep(mut reader: impl Read, said: &Mutex<Vec<u8>>, done: &Sender<()>) {
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = reader.read(&mut buffer) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&buffer[..length]);
        if said.len() > 2 * SAID_LIMIT_BYTES {
            let surplus = said.len() - SAID_LIMIT_BYTES;
            said.drain(..surplus);
        }
    }
    // Nobody may be listening any more.
    let _ = done.send(());
}

fn wait_for_output(finished: &Receiver<()>) {
    match finished.recv_timeout(GRACE) {
        Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Program<'static> {
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: &[("PATH", "/usr/bin:/bin")],
            deadline,
        }
    }

    #[test]
    fn what_it_says_and_how_it_ends_is_kept() {
        let outcome =
            run(&shell("echo out; echo err >&2; exit 3", Duration::from_secs(60)), &|| false).unwrap();
        assert!(!outcome.succeeded());
        assert_eq!(outcome.describe(Duration::from_secs(60)), "exit code 3: out | err");
    }

    #[test]
    fn of_what_is_asked_answer_and_complaint_are_kept_apart() {
        let outcome =
            ask(&shell("echo out; echo err >&2; exit 3", Duration::from_secs(60)), &|| false).unwrap();
        assert_eq!((&outcome.said[..], &outcome.complained[..]), (&b"out\n"[..], &b"err\n"[..]));
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_everything_it_started() {
        let temp = tempfile::tempdir().unwrap();
        let alive = temp.path().join("alive");
        // The child in the background holds the pipe, and would write its file if it were left.
        let script = format!("(sleep 3; echo x > {}) & echo started; sleep 1000", alive.display());
        let outcome = run(&shell(&script, Duration::from_millis(300)), &|| false).unwrap();
        assert_eq!(outcome.ended, Ended::Deadline);
        assert_eq!(outcome.last_lines(1), "started");
        let group = run(&shell("exec sleep 3", Duration::from_secs(60)), &|| false).unwrap();
        assert!(group.succeeded());
        assert!(!alive.exists(), "what the killed command had started lived on");
    }

    #[test]
    fn what_it_leaves_in_the_background_does_not_keep_us_waiting() {
        let outcome = run(&shell("sleep 1000 & echo done", Duration::from_secs(600)), &|| false).unwrap();
        assert!(outcome.succeeded());
        assert_eq!(outcome.last_lines(1), "done");
    }

    #[test]
    fn somebody_who_wants_to_stop_is_heard() {
        let outcome = run(&shell("sleep 1000", Duration::from_secs(600)), &|| true).unwrap();
        assert_eq!(outcome.ended, Ended::Cancelled);
    }

    #[test]
    fn a_filter_gives_what_it_makes_or_fails() {
        let read = |output: &mut dyn Read| {
            let mut all = Vec::new();
            output.read_to_end(&mut all).map(|_| all)
        };
        let upper = shell("tr a-z A-Z", Duration::from_secs(60));
        assert_eq!(filter(&upper, &b"abc"[..], read).unwrap(), b"ABC");
        let failing = shell("cat; exit 1", Duration::from_secs(60));
        assert!(filter(&failing, &b"abc"[..], read).is_err());
    }
}
