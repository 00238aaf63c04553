//! Tells a program of the administrator how a run ended.
//!
//! Why: a pager, a chat or a ticket is told by what the site has for that. What can go wrong: a program that is not there,
//! fails or hangs; the run is over by then, so its failure is told and changes nothing, and it is killed after its time.
//! It gets nothing of the caller's environment and no word of a shell.

use std::ffi::OsString;
use std::time::Duration;

use thiserror::Error;

use super::Record;
use crate::process::{self, Program};
use crate::tree::escape;

/// Where it finds programs of its own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program was not told.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EventError {
    /// It cannot be started.
    #[error("{program} cannot be run: {reason}")]
    Start {
        /// Which program, escaped.
        program: String,
        /// Why.
        reason: std::io::Error,
    },
    /// It did not end well.
    #[error("{program}: {how}")]
    Ended {
        /// Which program, escaped.
        program: String,
        /// How it ended, and what it said last.
        how: String,
    },
}

/// Runs `command` (a program by its absolute path, and its arguments) for a run that ended: the record is on its standard
/// input as in its file, and what is asked for first in its environment (`CLONETOOL_OUTCOME` and others; what is not known
/// is empty). It is killed after `limit`, with what it started.
///
/// # Errors
/// [`EventError`] when it cannot be started, ends with another exit code than 0, or does not end in time.
pub fn announce(command: &[String], run: &Record, limit: Duration) -> Result<(), EventError> {
    let Some((path, arguments)) = command.split_first() else { return Ok(()) };
    let program = escape(path.as_bytes());
    let start = |reason| EventError::Start { program: program.clone(), reason };
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default().replace('\0', "");
    let variables = [
        ("CLONETOOL_KIND", run.kind.word().to_owned()),
        ("CLONETOOL_OUTCOME", run.outcome.word().to_owned()),
        ("CLONETOOL_EXIT_CODE", number(run.exit_code.map(u64::from))),
        ("CLONETOOL_RUN", run.run.to_string()),
        ("CLONETOOL_PROFILE", run.profile.replace('\0', "")),
        ("CLONETOOL_SOURCE", text(&run.source)),
        ("CLONETOOL_DESTINATION", text(&run.destination)),
        ("CLONETOOL_GENERATION", number(run.generation)),
        ("CLONETOOL_PROBLEMS", run.problem_count.to_string()),
        ("CLONETOOL_MESSAGE", text(&run.message)),
    ];
    let fixed = [("PATH", PATH), ("LC_ALL", "C")];
    let environment: Vec<(&str, &str)> =
        fixed.into_iter().chain(variables.iter().map(|(name, value)| (*name, &value[..]))).collect();
    let told = Program {
        path: path.into(),
        arguments: arguments.iter().map(OsString::from).collect(),
        environment: &environment,
        deadline: limit,
    };
    let mut input = serde_json::to_vec(run).map_err(|error| start(error.into()))?;
    input.push(b'\n');
    let outcome = process::tell(&told, input).map_err(start)?;
    match outcome.succeeded() {
        true => Ok(()),
        false => Err(EventError::Ended { program, how: escape(outcome.describe(limit).as_bytes()) }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Outcome, RunId, RunKind};
    use super::*;

    fn tell(script: &str, limit: Duration) -> Result<(), EventError> {
        let mut run = Record::begin(RunId::new(Duration::from_secs(5), 7), RunKind::Sync, "0.1.0", "p", 0);
        (run.outcome, run.exit_code, run.generation) = (Outcome::InSync, Some(0), Some(9));
        // More than a pipe holds, so that one that does not read is waited for.
        run.hints = vec!["long".repeat(50_000)];
        announce(&["/bin/sh", "-c", script].map(str::to_owned), &run, limit)
    }

    #[test]
    fn it_gets_the_record_and_its_variables_and_nothing_else() {
        let work = tempfile::tempdir().unwrap();
        let at = |name: &str| work.path().join(name).display().to_string();
        let script = format!("cat >{}; /usr/bin/env | sort >{}", at("record"), at("environment"));
        tell(&script, Duration::from_secs(60)).unwrap();
        let record: Record = serde_json::from_slice(&std::fs::read(at("record")).unwrap()).unwrap();
        assert_eq!((record.run.started_seconds(), record.hints[0].len()), (5, 200_000));
        let environment = std::fs::read_to_string(at("environment")).unwrap();
        let expected = "CLONETOOL_DESTINATION=\nCLONETOOL_EXIT_CODE=0\nCLONETOOL_GENERATION=9\nCLONETOOL_KIND=sync\n\
                        CLONETOOL_MESSAGE=\nCLONETOOL_OUTCOME=in-sync\nCLONETOOL_PROBLEMS=0\nCLONETOOL_PROFILE=p\n\
                        CLONETOOL_RUN=5-000000-0007\nCLONETOOL_SOURCE=\nLC_ALL=C\n";
        let own = |line: &&str| {
            !["PATH=", "PWD=", "OLDPWD=", "SHLVL=", "_="].iter().any(|name| line.starts_with(name))
        };
        let found: String = environment.lines().filter(own).map(|line| format!("{line}\n")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn one_that_fails_hangs_or_is_not_there_is_an_error_in_its_time() {
        let long = Duration::from_secs(60);
        assert_eq!(
            tell("echo no route; exit 7", long).unwrap_err().to_string(),
            "/bin/sh: exit code 7: no route"
        );
        let hung = tell("echo waiting; exec sleep 1000", Duration::from_secs(1)).unwrap_err().to_string();
        assert_eq!(hung, "/bin/sh: not done after 1 seconds, and was killed: waiting");
        let run = Record::begin(RunId::new(Duration::from_secs(5), 7), RunKind::Sync, "0.1.0", "p", 0);
        let absent = announce(&["/nonexistent/tell".to_owned()], &run, long).unwrap_err();
        assert!(absent.to_string().starts_with("/nonexistent/tell cannot be run: "), "{absent}");
    }
}
