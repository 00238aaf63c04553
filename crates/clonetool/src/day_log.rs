//! The log file of a day: what unattended runs did, a few lines each.
//!
//! Why: the records answer questions; a file that is there every morning is read without one, and by programs that
//! collect logs. What can go wrong: a directory that fills for years (files of a profile go when they are old enough), a
//! file of somebody else in it (only names that a profile's day makes are touched), and a log that cannot be written: the
//! run is what counts, so that is said, and changes nothing.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use syncore::record::{GateAnswer, Record};
use syncore::tree::escape;

use crate::error::{CommandError, harmless};
use crate::health::{ending, one_line};
use crate::ui::log::{Log, utc};
use crate::ui::summary::seconds;

/// How much of a profile's name the name of a file has; with a date behind it, it stays within NAME_MAX.
const NAME_BYTES: usize = 200;

/// The file of one day, open.
pub(crate) struct DayLog {
    directory: PathBuf,
    profile: String,
    keep_days: u64,
    log: Log,
}

impl DayLog {
    /// Opens the file of the day on which the run began, and makes it and its directory where they are missing.
    pub(crate) fn open(directory: &Path, keep_days: u64, run: &Record) -> Result<Self, CommandError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| {
            let shown = escape(directory.as_os_str().as_encoded_bytes());
            CommandError::failed(format!("cannot make {shown}: {error}"))
        })?;
        let profile = file_name(&run.profile);
        let log = Log::open(&directory.join(format!("{profile}-{}.log", day(run.started_seconds))))?;
        Ok(Self { directory: directory.to_owned(), profile, keep_days, log })
    }

    /// The run knows its ends.
    pub(crate) fn began(&self, run: &Record) {
        let ends = match (&run.source, &run.destination) {
            (Some(from), Some(to)) => format!(" from {from} to {to}"),
            _ => String::new(),
        };
        self.log.line(&format!("start {}: {}{ends}, by uid {}", run.run, harmless(&run.profile), run.uid));
    }

    /// A gate answered.
    pub(crate) fn gate(&self, answer: &GateAnswer) {
        let GateAnswer { name, kind, moment, verdict, evidence, .. } = answer;
        self.log.line(&one_line(&format!("gate {verdict} {name} ({kind}, {moment}): {evidence}")));
    }

    /// Something else that is to be known.
    pub(crate) fn line(&self, text: &str) {
        self.log.line(&one_line(text));
    }

    /// The run ended.
    pub(crate) fn ended(&self, run: &Record, now_seconds: u64) {
        for problem in &run.problems {
            let (path, operation, reason) = (&problem.path, &problem.operation, &problem.reason);
            self.log.line(&one_line(&format!("problem {path}: cannot {operation}: {reason}")));
        }
        let took = |elapsed: f64| seconds(Duration::try_from_secs_f64(elapsed).unwrap_or_default());
        if !run.phases.is_empty() {
            let mut text = format!("duration {}", took(run.elapsed_seconds));
            for phase in &run.phases {
                let _ = write!(text, ", {} {}", phase.phase, took(phase.elapsed_seconds));
            }
            self.log.line(&text);
        }
        self.log.line(&format!("end {}: {}", run.run, outcome(run)));
        if let Err(error) = self.prune(now_seconds) {
            self.log.line(&format!("cannot remove old logs: {error}"));
        }
    }

    /// Removes the files of this profile whose day is more than so many days ago.
    fn prune(&self, now_seconds: u64) -> io::Result<()> {
        let oldest = day(now_seconds.saturating_sub(self.keep_days.saturating_mul(86_400)));
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let day = name
                .to_str()
                .and_then(|name| name.strip_prefix(&self.profile)?.strip_prefix('-')?.strip_suffix(".log"));
            // Days of this form are in the order of their text.
            if day.is_some_and(|day| is_day(day) && day < &oldest[..]) {
                match fs::remove_file(entry.path()) {
                    // Another run does the same.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

/// How a run ended and what it did, in one line.
pub(crate) fn outcome(run: &Record) -> String {
    let mut text = ending(run);
    if let Some(counts) = &run.counts {
        let _ = write!(text, "; {}", counts.words());
    }
    if let Some(state) = run.generation {
        let _ = write!(text, "; state {state}");
    }
    text
}

/// The day of a moment in UTC, as in the lines: `2026-11-21`.
fn day(seconds: u64) -> String {
    utc(seconds).chars().take(10).collect()
}

fn is_day(text: &str) -> bool {
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    match text.split('-').collect::<Vec<_>>()[..] {
        [year, month, day] => {
            (year.len(), month.len(), day.len()) == (4, 2, 2) && digits(year) && digits(month) && digits(day)
        }
        _ => false,
    }
}

/// What files of a profile are called after: its name, with what no name of a file should have replaced.
fn file_name(profile: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = profile.trim_start_matches(['/', '.']).chars().map(plain).collect();
    name[name.len().saturating_sub(NAME_BYTES)..].to_owned()
}

#[cfg(test)]
mod tests {
    use syncore::record::{RunId, RunKind};

    use super::*;

    #[test]
    fn a_file_is_called_after_profile_and_day_whatever_the_profile_is_called() {
        assert_eq!(file_name("linux-daily"), "linux-daily");
        assert_eq!(file_name("/srv/pair/d\\x1b/../daily.toml"), "srv_pair_d_x1b_.._daily.toml");
        assert_eq!(file_name(&"é/".repeat(500)).len(), NAME_BYTES);
        assert_eq!(day(951_782_400), "2000-02-29");
    }

    #[test]
    fn only_old_files_of_the_profile_go() {
        let work = tempfile::tempdir().unwrap();
        let directory = work.path().join("a/log");
        let now = 951_868_800; // 2000-03-01
        let run = Record::begin(RunId::new(Duration::from_secs(now), 0), RunKind::Sync, "0.1.0", "p", 0);
        let log = DayLog::open(&directory, 1, &run).unwrap();
        let others =
            ["p-2000-02-29.log", "q-1999-01-01.log", "p-1999-1-1.log", "p-q-1999-01-01.log", "p.log"];
        for name in others.iter().chain(&["p-2000-02-28.log", "p-1999-12-31.log"]) {
            fs::write(directory.join(name), "").unwrap();
        }
        log.ended(&run, now);
        let mut left: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut expected = [&others[..], &["p-2000-03-01.log"]].concat();
        expected.sort_unstable();
        assert_eq!(left, expected);
    }
}
