//! Local time, as cron and systemd keep it on a host.
//!
//! Why: a calendar is in local time, the library knows none, and the standard library neither. `jiff` reads the file of
//! the host's zone. What can go wrong: the caller's TZ, which cron and systemd do not see, so it is not asked; a zone
//! file that cannot be read, which is an error and no UTC.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use syncore::tree::escape;

use crate::error::CommandError;

/// The zone of a host.
pub(crate) struct LocalTime(TimeZone);

impl LocalTime {
    /// Reads the zone of the host whose root is `root`; without a file it is UTC (localtime(5)).
    pub(crate) fn of(root: &Path) -> Result<Self, CommandError> {
        let path = root.join("etc/localtime");
        let wrong = |reason: String| {
            let path = escape(path.as_os_str().as_encoded_bytes());
            CommandError::usage(format!("cannot tell local time by {path}: {reason}"))
                .hint("let it be a file, or a link to one, of the time zone database")
        };
        match fs::read(&path) {
            Ok(zone) => TimeZone::tzif("local", &zone).map(Self).map_err(|e| wrong(e.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self(TimeZone::UTC)),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// By how many seconds local time is ahead of UTC at a moment, in seconds since 1970.
    pub(crate) fn ahead(&self, moment: i64) -> i32 {
        Timestamp::from_second(moment).map_or(0, |moment| self.0.to_offset(moment).seconds())
    }

    /// A moment as syslog has it (RFC 3164, 4.1.2): `Nov  2 02:30:05`.
    pub(crate) fn stamp(&self, moment: i64) -> String {
        let shown =
            |moment: Timestamp| moment.to_zoned(self.0.clone()).strftime("%b %e %H:%M:%S").to_string();
        Timestamp::from_second(moment).map(shown).unwrap_or_default()
    }

    /// A moment for people: `Sun 2026-11-22 02:30 UTC`.
    pub(crate) fn shown(&self, moment: i64) -> String {
        let shown =
            |moment: Timestamp| moment.to_zoned(self.0.clone()).strftime("%a %Y-%m-%d %H:%M %Z").to_string();
        Timestamp::from_second(moment).map_or_else(|_| moment.to_string(), shown)
    }
}

/// Now, in seconds since 1970; 0 on a host whose clock was never set.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_a_zone_keeps_utc_and_a_broken_one_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let utc = LocalTime::of(root.path()).unwrap();
        assert_eq!(utc.ahead(1_700_000_000), 0);
        assert_eq!(utc.shown(1_700_000_000), "Tue 2023-11-14 22:13 UTC");
        assert_eq!(utc.stamp(1_699_000_000), "Nov  3 08:26:40");
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/localtime"), "Europe/Berlin").unwrap();
        let error = LocalTime::of(root.path()).err().unwrap();
        assert_eq!(error.exit_code(), 2);
    }
}
