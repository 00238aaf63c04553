//! The relay that counts bytes: it stands in for ssh on the command line of both tools (`-e`), starts the real ssh,
//! and passes on what goes in and comes out.
//!
//! What can go wrong: rsync gives its remote shell a standard output that does not block, and a relay that takes "not
//! now" for an error stops reading; ssh then waits for the relay and the run for ssh, for ever.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use crate::Result;

/// Bytes that crossed the wire in the two directions together.
pub(crate) fn count(file: &Path) -> Result<u64> {
    let text =
        std::fs::read_to_string(file).map_err(|e| format!("no byte count in {}: {e}", file.display()))?;
    // One line for each connection that a run opened.
    text.split_whitespace().map(|number| Ok(number.parse::<u64>()?)).sum()
}

/// `shim COUNTFILE PROGRAM ARGUMENTS…`: runs the program and appends `sent received` to the file.
pub(crate) fn run(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(file), Some(program)) = (words.next(), words.next()) else {
        eprintln!("usage: shim COUNTFILE PROGRAM ARGUMENTS…");
        return ExitCode::FAILURE;
    };
    match relay(Path::new(&file), &program, words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn relay(file: &Path, program: &OsString, arguments: impl Iterator<Item = OsString>) -> Result<u8> {
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (Some(mut to_child), Some(mut from_child)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the pipes to ssh are missing".into());
    };
    // Files, not the handles of the standard library: these buffer, and forget how much of a write went through.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    // Not joined: it may wait for input that never comes when ssh has already ended.
    thread::spawn(move || copy(&mut input, &mut to_child, &counter));
    let received = AtomicU64::new(0);
    let copied = copy(&mut from_child, &mut output, &received);
    // An ssh that still has something to say has to notice that nobody listens.
    drop(from_child);
    let status = child.wait()?;
    match copied {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }

    let line = format!("{} {}\n", sent.load(Ordering::Relaxed), received.load(Ordering::Relaxed));
    std::fs::OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes())?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255))
}

/// Passes bytes on as they come until the end of the input, and counts them.
fn copy(from: &mut (impl Read + AsFd), to: &mut (impl Write + AsFd), counter: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) => {
                until_ready(&error, from, PollFlags::IN).ok_or(error)?;
                continue;
            }
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) => until_ready(&error, to, PollFlags::OUT).ok_or(error)?,
            }
        }
        counter.fetch_add(u64::try_from(length).unwrap_or(0), Ordering::Relaxed);
    }
}

/// Waits if the error says no more than "not now"; nothing for any other error.
fn until_ready(error: &io::Error, end: &impl AsFd, event: PollFlags) -> Option<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Some(()),
        io::ErrorKind::WouldBlock => {
            // Interrupted or not, the caller tries again.
            let _ = poll(&mut [PollFd::new(end, event)], None);
            Some(())
        }
        _ => None,
    }
}
