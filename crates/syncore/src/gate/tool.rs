//! Runs a program that a gate asks: found in fixed places, in the C locale, within the gate's time.
//!
//! Why: volume managers, databases and the operator's own programs are asked in one way, and what they say is judged
//! apart from how they were run. What can go wrong: a program that is not there, cannot be run, hangs, is killed or
//! says more than fits; none of these is an answer.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::{AGAIN, Asked, No};
use crate::process::{self, Ended, Program};
use crate::tree::escape;

/// How much of what was said goes into evidence, in bytes.
const EVIDENCE_BYTES: usize = 400;

/// What a program answered.
#[derive(Debug)]
pub(super) struct Reply {
    /// Its exit code.
    pub(super) code: i32,
    /// Its standard output.
    pub(super) said: Vec<u8>,
    /// Its standard error.
    pub(super) complained: Vec<u8>,
}

impl Reply {
    /// What it said last, for evidence: its complaint, or else its output.
    pub(super) fn evidence(&self) -> String {
        let (said, complained) = (last_words(&self.said), last_words(&self.complained));
        match (complained.is_empty(), said.is_empty()) {
            (true, true) => format!("exit code {}", self.code),
            (true, false) => format!("exit code {}: {said}", self.code),
            _ => format!("exit code {}: {complained}", self.code),
        }
    }
}

/// Runs the program `name`, or `instead` where the profile names another one.
pub(super) fn run<S: Into<OsString>>(
    name: &str,
    instead: Option<&Path>,
    arguments: impl IntoIterator<Item = S>,
    asked: &Asked<'_>,
) -> Result<Reply, No> {
    let path = match instead {
        Some(path) => path.to_owned(),
        None => find(name, asked)?,
    };
    let search = asked.surroundings.programs.iter().map(|directory| directory.to_string_lossy());
    let search = search.collect::<Vec<_>>().join(":");
    let shown = escape(path.as_os_str().as_encoded_bytes());
    let program = Program {
        path,
        arguments: arguments.into_iter().map(Into::into).collect(),
        environment: &[("PATH", &search), ("LC_ALL", "C"), ("LANG", "C")],
        deadline: asked.left(),
    };
    let outcome = process::ask(&program, &|| asked.stop.load(Ordering::Relaxed)).map_err(|error| {
        No::cannot_tell(format!("{shown} cannot be run: {error}"), format!("make {shown} a program"))
    })?;
    let status = match outcome.ended {
        Ended::With(status) => status,
        Ended::Deadline => {
            let said = [outcome.complained, outcome.said].map(|said| last_words(&said));
            return Err(No::too_late(
                asked.limit,
                said.iter().find(|said| !said.is_empty()).map_or("", |s| s),
            ));
        }
        Ended::Cancelled => return Err(No::cannot_tell("interrupted", AGAIN)),
    };
    match status.code() {
        Some(code) => Ok(Reply { code, said: outcome.said, complained: outcome.complained }),
        None => Err(No::cannot_tell(
            format!("{shown} was ended by a signal ({status})"),
            format!("run {shown} by hand and see why it dies"),
        )),
    }
}

fn find(name: &str, asked: &Asked<'_>) -> Result<PathBuf, No> {
    let places = &asked.surroundings.programs;
    places.iter().map(|directory| directory.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let shown: Vec<_> = places.iter().map(|place| escape(place.as_os_str().as_encoded_bytes())).collect();
        No::cannot_tell(
            format!("there is no {name} in {}", shown.join(", ")),
            format!("install {name}, or say where it is with `program` in the gate"),
        )
    })
}

/// The last lines of what a program said, safe for a terminal.
pub(super) fn last_words(said: &[u8]) -> String {
    let tail = &said[said.len().saturating_sub(EVIDENCE_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<String> =
        text.lines().map(|line| escape(line.trim().as_bytes())).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" | ")
}
