//! Text for cron: a file for `/etc/cron.d`, and a line for a cron that knows less.
//!
//! Why: cron's own syntax has traps that show at half past two: `%` is a newline, PATH is nearly empty, a name or a step
//! is unknown on Solaris. What can go wrong: a word that the shell reads as more than a word. So every word that is not
//! plain is quoted, and what no line can hold is an error.

use std::fmt::Write;

use super::calendar::Set;
use super::{Entry, EntryError};

/// Where programs are looked for: by clonetool itself for `ssh`, and by what a gate runs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A file for `/etc/cron.d`: crontab(5) with the account as the sixth field. `mark` is its first line, a comment.
///
/// # Errors
/// [`EntryError`], for a command that no line can hold.
pub fn cron_file(mark: &str, entry: &Entry<'_>) -> Result<String, EntryError> {
    let Entry { calendar, user, command, .. } = entry;
    let command = command_line(command)?;
    Ok(format!("{mark}\nSHELL=/bin/sh\nPATH={PATH}\n{calendar} {user} {command}\n"))
}

/// A line for the crontab of an account where cron is that of Solaris (crontab(1) there): no field for the account, no
/// names, no steps, no variables set by lines of their own, and the shell is Bourne's.
///
/// # Errors
/// [`EntryError::BothDays`] for a calendar that needs steps to be said; [`EntryError::Control`].
pub fn solaris_entry(entry: &Entry<'_>) -> Result<String, EntryError> {
    let Entry { calendar, command, .. } = entry;
    let (date, week) = (calendar.day_of_month, calendar.day_of_week);
    let (date, week) = match (date.everything(), week.everything()) {
        // Either day is enough, and one of them is every day.
        (true, false) if calendar.either_day() => ("*".into(), "*".into()),
        (false, true) if calendar.either_day() => ("*".into(), "*".into()),
        (false, false) if !calendar.either_day() => {
            return Err(EntryError::BothDays { calendar: calendar.to_string() });
        }
        _ => (listed(date), listed(week)),
    };
    let (minute, hour, month) = (listed(calendar.minute), listed(calendar.hour), listed(calendar.month));
    let command = command_line(command)?;
    Ok(format!("{minute} {hour} {date} {month} {week} PATH={PATH} {command}\n"))
}

/// Every number by itself, or `*`.
fn listed(set: Set) -> String {
    if set.everything() {
        return "*".into();
    }
    set.values().map(|value| value.to_string()).collect::<Vec<_>>().join(",")
}

/// The words as cron hands them to a Bourne shell: quoted for the shell, then `%` escaped for cron.
fn command_line(command: &[String]) -> Result<String, EntryError> {
    let mut line = String::new();
    for word in command {
        if word.chars().any(char::is_control) {
            return Err(EntryError::Control { word: word.clone() });
        }
        let lead = if line.is_empty() { "" } else { " " };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+,:@".contains(&b);
        let quoted = match !word.is_empty() && word.bytes().all(plain) {
            true => word.clone(),
            // cron takes the backslash before a percent sign away, within quotes as well.
            false => format!("'{}'", word.replace('\'', "'\\''").replace('%', "\\%")),
        };
        let _ = write!(line, "{lead}{quoted}");
    }
    Ok(line)
}
