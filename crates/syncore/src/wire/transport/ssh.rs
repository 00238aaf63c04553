//! The system `ssh` (or the command given in its place) as a child process.
//!
//! Why: it honours what an administrator has configured: ssh_config, jump hosts, certificates, hardware keys, revoked
//! host keys; and no parser of network data runs in our process. What can go wrong: it asks a question nobody
//! answers (BatchMode), shares a connection with something else (ControlPath), hangs with a dead peer (ServerAlive),
//! outlives us (the guard kills it), or fails with words only (`classify` reads them).

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::cut::{Cut, Guarded};
use super::error::{from_status, shown_host};
use super::{ByteStream, FINISH_DEADLINE, Remote, Tail, TransportError, enlarge};

/// How long standard error may stay open after the process itself is gone (a helper of it may hold it).
const STDERR_DEADLINE: Duration = Duration::from_secs(1);

/// The status by which ssh says that it, not the remote command, failed.
const SSH_FAILED: i32 = 255;

pub(super) fn connect(remote: &Remote) -> Result<ByteStream, TransportError> {
    let mut command = match &remote.remote_shell {
        Some(words) => other_shell(words, remote),
        None => system_ssh(remote)?,
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = crate::tree::escape(command.get_program().as_bytes());
    let mut child = command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => TransportError::NoSshProgram { program: program.clone() },
        _ => TransportError::Local { action: format!("start {program}"), source },
    })?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let heard = Arc::new(AtomicBool::new(false));
    let (stderr_gone, stderr_ended) = sync_channel(1);
    let tail = Arc::new(Mutex::new(Tail::default()));
    let running = Running {
        child: Some(child),
        own_group: remote.remote_shell.is_none(),
        tail: Arc::clone(&tail),
        stderr_ended,
        heard: Arc::clone(&heard),
        remote: remote.clone(),
    };
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        let source = io::Error::other("a standard stream is missing");
        return Err(TransportError::Local { action: format!("start {program}"), source });
    };
    enlarge(&stdin);
    enlarge(&stdout);
    let cut = Cut::new()?;
    let (stdin, stdout) = (cut.guard(stdin)?, cut.guard(stdout)?);
    std::thread::Builder::new()
        .name("ssh-stderr".into())
        .spawn(move || {
            collect(stderr, &tail);
            let _ = stderr_gone.send(());
        })
        .map_err(|source| TransportError::Local { action: "start a thread".into(), source })?;
    Ok(ByteStream {
        reader: Box::new(Listening { stdout, heard }),
        writer: Box::new(stdin),
        finish: Box::new(move || running.finish()),
        abort: cut.into_abort(),
    })
}

fn system_ssh(remote: &Remote) -> Result<Command, TransportError> {
    let mut command = Command::new("ssh");
    let timeout = remote.connect_timeout.as_secs().max(1);
    command.arg("-T");
    for option in [
        "BatchMode=yes",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
        "Compression=no",
        "ControlPath=none",
        "StrictHostKeyChecking=yes",
        &format!("ConnectTimeout={timeout}"),
    ] {
        command.args(["-o", option]);
    }
    if let Some(file) = &remote.known_hosts {
        command.arg("-o").arg(file_option("UserKnownHostsFile", file)?);
    }
    if let Some(file) = &remote.identity {
        command.args(["-o", "IdentitiesOnly=yes"]).arg("-o").arg(file_option("IdentityFile", file)?);
    }
    account(&mut command, remote);
    command.arg("--").arg(&remote.host).args(remote.command());
    // A Ctrl-C at the terminal is ours to handle; ssh must live until what is under way is put in order. In
    // BatchMode it never reads the terminal, so a group in the background cannot stop it.
    command.process_group(0);
    Ok(command)
}

/// As rsync does it: the words, then host and command. It stays in our process group, for it may ask for a password.
fn other_shell(words: &[String], remote: &Remote) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().map_or("ssh", String::as_str));
    command.args(words);
    account(&mut command, remote);
    command.arg(&remote.host).args(remote.command());
    command
}

fn account(command: &mut Command, remote: &Remote) {
    if let Some(user) = &remote.user {
        command.args(["-l", user]);
    }
    if let Some(port) = remote.port {
        command.arg("-p").arg(port.to_string());
    }
}

/// `NAME="FILE"`. ssh expands `%` and `${}` in these and splits at blanks; what quoting cannot save is refused.
fn file_option(name: &str, file: &Path) -> Result<OsString, TransportError> {
    let bytes = file.as_os_str().as_bytes();
    let forbidden = |b: &u8| b.is_ascii_control() || b"%$\"\\".contains(b);
    if bytes.is_empty() || bytes.iter().any(forbidden) {
        let shown = crate::tree::escape(bytes);
        let why = format!("ssh cannot be given the file name '{shown}' (empty, or one of % $ \" \\ in it)");
        return Err(TransportError::BadRemote(why));
    }
    let mut option = OsString::from(format!("{name}=\""));
    // A name that begins with a tilde would become somebody's home directory.
    if bytes[0] == b'~' {
        option.push("./");
    }
    option.push(OsStr::from_bytes(bytes));
    option.push("\"");
    Ok(option)
}

fn collect(mut stderr: ChildStderr, tail: &Mutex<Tail>) {
    let mut buffer = [0; 4096];
    loop {
        match stderr.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => tail.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Notes whether the peer ever said anything: "cannot connect" and "connection lost" have the same exit status.
struct Listening {
    stdout: Guarded<ChildStdout>,
    heard: Arc<AtomicBool>,
}

impl Read for Listening {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stdout.read(buffer)?;
        if n > 0 {
            self.heard.store(true, Ordering::Relaxed);
        }
        Ok(n)
    }
}

/// The child, killed when this is dropped before it ended.
struct Running {
    child: Option<Child>,
    own_group: bool,
    tail: Arc<Mutex<Tail>>,
    stderr_ended: Receiver<()>,
    heard: Arc<AtomicBool>,
    remote: Remote,
}

impl Running {
    fn finish(mut self) -> Option<TransportError> {
        let mut child = self.child.take()?;
        let ended = wait_until(&mut child, Instant::now() + FINISH_DEADLINE);
        let status = match ended {
            Ok(Some(status)) => status,
            Ok(None) => {
                self.child = Some(child);
                let host = shown_host(&self.remote);
                let seconds = FINISH_DEADLINE.as_secs();
                let detail = format!("it did not end within {seconds} s after its streams did");
                return Some(TransportError::Lost { host, detail });
            }
            Err(source) => {
                self.child = Some(child);
                return Some(TransportError::Local { action: "wait for ssh".into(), source });
            }
        };
        let _ = self.stderr_ended.recv_timeout(STDERR_DEADLINE);
        let tail = std::mem::take(&mut *self.tail.lock().unwrap_or_else(PoisonError::into_inner));
        classify(&self.remote, status, &tail, self.heard.load(Ordering::Relaxed))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // The child was not waited for yet, so its number is still its own, and its group's.
        if self.own_group
            && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The exit status, none when the deadline passes first.
fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(Ok(descriptor)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        // A kernel without process descriptors (before 5.3) has no wait with a deadline; an unbounded one is right
        // whenever ssh is, and its ServerAlive options bound it.
        return child.wait().map(Some);
    };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn classify(remote: &Remote, status: ExitStatus, tail: &Tail, heard: bool) -> Option<TransportError> {
    let host = shown_host(remote);
    let words = tail.text();
    let Some(code) = status.code() else {
        let signal = status.signal().map_or_else(|| "?".into(), |number| number.to_string());
        return Some(TransportError::Killed { host, signal, stderr: words });
    };
    if code != SSH_FAILED {
        return from_status(remote, code, words);
    }
    if heard {
        return Some(TransportError::Lost { host, detail: words });
    }
    if let Some(error) = host_key_refused(remote, &words) {
        return Some(error);
    }
    let detail = if words.is_empty() { "ssh failed and did not say why".into() } else { words };
    if ["Permission denied (", "Too many authentication failures"].iter().any(|said| detail.contains(said)) {
        let user = remote.user.clone().unwrap_or_else(|| "(you)".into());
        return Some(TransportError::Auth { user, host, detail });
    }
    Some(TransportError::Connect { host, detail })
}

fn host_key_refused(remote: &Remote, words: &str) -> Option<TransportError> {
    let host = shown_host(remote);
    let between = |before: &str, after: &str| {
        let (_, rest) = words.split_once(before)?;
        rest.split_once(after).map(|(found, _)| found.trim().to_owned())
    };
    if words.contains("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        let shown = between("The fingerprint for the ", " key sent by the remote host is");
        let fingerprint = between(" key sent by the remote host is; ", ".;");
        if let (Some(kind), Some(fingerprint)) = (shown, fingerprint) {
            let place = between("Offending ", ";").and_then(|o| Some(o.split_once(" key in ")?.1.to_owned()));
            let place = place.unwrap_or_else(|| "the file of known hosts".into());
            let known = recorded(&place).unwrap_or_else(|| "another key".into());
            let offered = format!("{kind} {fingerprint}");
            return Some(TransportError::HostKeyChanged { host, offered, known, place });
        }
    } else if let Some(kind) = between("No ", " host key is known for ") {
        let own = || remote.home.as_deref().unwrap_or(Path::new("~")).join(".ssh/known_hosts");
        let file = remote.known_hosts.clone().unwrap_or_else(own);
        let file = crate::tree::escape(file.as_os_str().as_bytes());
        let key = format!("a key of type {kind} (ssh does not show it; ssh-keyscan does)");
        return Some(TransportError::HostKeyUnknown { host, key, file });
    }
    let refused = words.contains("Host key verification failed") || words.contains("REVOKED HOST KEY");
    refused.then(|| TransportError::HostKeyRefused { host, detail: words.to_owned() })
}

/// The fingerprint recorded at `FILE:LINE`; ssh names only the one that was shown.
#[cfg(feature = "ssh2")]
fn recorded(place: &str) -> Option<String> {
    let (file, line) = place.rsplit_once(':')?;
    super::known_hosts::recorded_at(Path::new(file), line.parse().ok()?)
}

#[cfg(not(feature = "ssh2"))]
fn recorded(_place: &str) -> Option<String> {
    None
}

#[cfg(test)]
#[path = "ssh_tests.rs"]
mod tests;
