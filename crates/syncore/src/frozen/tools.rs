//! Programs that make and remove snapshots: found in fixed places, in the C locale, within the profile's time.
//!
//! Why: all three kinds run programs alike, and what they complain of is what the administrator reads. What can go
//! wrong: one that hangs; it is killed. One that holds filesystems still while it works is not killed for a signal to
//! us.

use std::path::PathBuf;
use std::time::Duration;

use crate::process::{self, Ended, Program};
use crate::tree::escape;

/// How programs are run for one profile.
#[derive(Debug)]
pub(super) struct Tools {
    /// What the snapshots of the profile are called.
    pub(super) mark: String,
    source: String,
    timeout: Duration,
}

impl Tools {
    pub(super) fn new(mark: &str, source: &str, timeout: Duration) -> Self {
        Self { mark: mark.to_owned(), source: source.to_owned(), timeout }
    }

    /// Runs a program of the system to its end and gives what it said; or why it failed.
    pub(super) fn run(&self, name: &str, arguments: &[&str]) -> Result<Vec<u8>, String> {
        let path = process::find(name).ok_or_else(|| format!("there is no {name} on this host"))?;
        self.run_at(path, arguments, &|| false)
    }

    /// As [`Tools::run`], for a program at a place of its own; `stop` is asked while it runs.
    pub(super) fn run_at(
        &self,
        path: PathBuf,
        arguments: &[&str],
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<u8>, String> {
        let shown = escape(path.as_os_str().as_encoded_bytes());
        let program = Program {
            path,
            arguments: arguments.iter().map(Into::into).collect(),
            environment: &[
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"),
                ("LC_ALL", "C"),
                ("LVM_SUPPRESS_FD_WARNINGS", "1"),
                ("CLONETOOL_PROFILE", &self.mark),
                ("CLONETOOL_SOURCE", &self.source),
            ],
            deadline: self.timeout,
        };
        let outcome =
            process::ask(&program, stop).map_err(|error| format!("{shown} cannot be run: {error}"))?;
        if outcome.succeeded() {
            return Ok(outcome.said);
        }
        let how = match outcome.ended {
            Ended::With(status) => status.to_string(),
            Ended::Deadline => format!("not done after {} seconds, and was killed", self.timeout.as_secs()),
            Ended::Cancelled => "interrupted".to_owned(),
        };
        let words = [outcome.complained, outcome.said].map(|said| last_lines(&said));
        match words.into_iter().find(|words| !words.is_empty()) {
            Some(words) => Err(format!("{shown}: {how}: {words}")),
            None => Err(format!("{shown}: {how}")),
        }
    }
}

fn last_lines(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
