//! The file of `--log-file`.
//!
//! Why: an unattended run leaves a trace that a person can read later. What can go wrong: a symbolic link planted
//! where root writes its log (never followed), and lines that are forged by a file name with a newline (every line
//! comes here escaped).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use syncore::tree::escape;

use super::{complain, lock};
use crate::error::CommandError;

/// A log file, open for appending.
pub(crate) struct Log {
    file: Mutex<File>,
    failed: AtomicBool,
}

impl Log {
    /// Opens or makes the file.
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
        let file =
            OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(no_follow).open(path);
        let file = file.map_err(|e| {
            CommandError::usage(format!(
                "cannot open the log file {}: {e}",
                escape(path.as_os_str().as_encoded_bytes())
            ))
        })?;
        Ok(Self { file: Mutex::new(file), failed: AtomicBool::new(false) })
    }

    /// Appends a line, which is already escaped, with the time and the process.
    pub(crate) fn line(&self, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let line = format!("{} clonetool[{}] {text}\n", utc(now), std::process::id());
        // One write a line: with O_APPEND, runs that share a log do not tear each other's lines.
        let result = lock(&self.file).write_all(line.as_bytes());
        if let Err(error) = result
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            complain(&format!("clonetool: cannot write to the log file: {error}"));
        }
    }
}

/// Seconds since the epoch as RFC 3339 in UTC; the days-to-date steps of Howard Hinnant's `civil_from_days`.
pub(crate) fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        let table = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
        ];
        for (seconds, expected) in table {
            assert_eq!(utc(seconds), expected);
        }
    }

    #[test]
    fn a_log_is_private_appended_to_and_never_behind_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        Log::open(&path).unwrap().line("one");
        Log::open(&path).unwrap().line("two");
        let text = std::fs::read_to_string(&path).unwrap();
        let endings: Vec<&str> = text.lines().filter_map(|line| line.split("] ").nth(1)).collect();
        assert_eq!(endings, ["one", "two"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Log::open(&link).is_err());
    }
}
