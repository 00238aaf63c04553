//! Text for systemd: a timer that says when, and a service that says what.
//!
//! Why: a timer makes up for a run that was missed while the host was off, which cron does not. What can go wrong: a
//! calendar that systemd.time(7) reads in another way; hardening that breaks what the run has to do. A sync reads, and
//! where it pulls writes, everywhere, makes device nodes and set-id files, judges mounts by their identity, and runs
//! ssh and whatever gates name. So nothing here gives it a mount namespace or a filter (ProtectSystem, PrivateTmp,
//! PrivateDevices, ProtectKernelTunables, RestrictSUIDSGID, NoNewPrivileges, …): only what no sync ever needs is taken.

use std::fmt::Write;
use std::time::Duration;

use super::calendar::{Field, Set};
use super::{Calendar, Entry, EntryError};

/// The calendar as `OnCalendar=` takes it (systemd.time(7)): two, when either kind of day is enough, which systemd joins
/// by running at each and at both only once.
#[must_use]
pub fn on_calendar(calendar: &Calendar) -> Vec<String> {
    let Calendar { minute, hour, day_of_month, month, day_of_week } = calendar;
    let times = format!("{}:{}:00", component(*hour), component(*minute));
    let (month, date) = (component(*month), component(*day_of_month));
    let week = weekdays(*day_of_week);
    if calendar.either_day() && (day_of_month.everything() || day_of_week.everything()) {
        return vec![format!("*-{month}-* {times}")];
    }
    if calendar.either_day() {
        return vec![format!("*-{month}-{date} {times}"), format!("{week}*-{month}-* {times}")];
    }
    vec![format!("{week}*-{month}-{date} {times}")]
}

/// Numbers of two digits in a list, or `*`.
fn component(set: Set) -> String {
    if set.everything() {
        return "*".into();
    }
    set.values().map(|value| format!("{value:02}")).collect::<Vec<_>>().join(",")
}

/// The days by name, with the space that ends them; nothing for all of them.
fn weekdays(set: Set) -> String {
    if set.everything() {
        return String::new();
    }
    let name = |value: u8| -> String {
        let name = Field::DayOfWeek.names().get(usize::from(value)).copied().unwrap_or_default();
        name.char_indices().map(|(at, c)| if at == 0 { c.to_ascii_uppercase() } else { c }).collect()
    };
    set.values().map(name).collect::<Vec<_>>().join(",") + " "
}

/// The timer. `mark` is its first line, a comment; `jitter` is the longest random delay of a run.
#[must_use]
pub fn timer(mark: &str, entry: &Entry<'_>, jitter: Option<Duration>) -> String {
    let mut text = format!(
        "{mark}\n[Unit]\nDescription=When clonetool syncs under the profile {}\n\
         Documentation=man:clonetool(1)\n\n[Timer]\n# crontab(5): {}\n",
        entry.name, entry.calendar
    );
    for line in on_calendar(entry.calendar) {
        let _ = writeln!(text, "OnCalendar={line}");
    }
    text.push_str("# A run that was missed while the host was off is made up for.\nPersistent=true\n");
    if let Some(jitter) = jitter {
        let _ = writeln!(text, "RandomizedDelaySec={}", jitter.as_secs());
    }
    text.push_str("\n[Install]\nWantedBy=timers.target\n");
    text
}

/// The service. `mark` is its first line, a comment.
///
/// # Errors
/// [`EntryError`], for a command that no unit can hold.
pub fn service(mark: &str, entry: &Entry<'_>) -> Result<String, EntryError> {
    let command = entry.command.iter().map(|word| quoted(word)).collect::<Result<Vec<_>, _>>()?.join(" ");
    let (name, user) = (entry.name, entry.user);
    Ok(format!(
        "{mark}\n[Unit]\nDescription=clonetool syncs under the profile {name}\nDocumentation=man:clonetool(1)\n\
         Wants=network-online.target\nAfter=network-online.target\n\n\
         [Service]\nType=oneshot\nUser={user}\nExecStart={command}\n\
         # What runs beside it comes first.\nNice=10\nIOSchedulingClass=best-effort\nIOSchedulingPriority=7\n\
         # A stop lets clonetool put what is under way in order before its ssh goes.\nKillMode=mixed\n\
         # It reads or writes the whole system and runs ssh and gates: what would hide a part of it, or filter\n\
         # calls, is left out on purpose.\n\
         CapabilityBoundingSet=~CAP_SYS_BOOT CAP_SYS_TIME\nLockPersonality=yes\nRestrictRealtime=yes\n\
         KeyringMode=private\n"
    ))
}

/// A word of `ExecStart=` (systemd.service(5)): nothing in it is expanded.
fn quoted(word: &str) -> Result<String, EntryError> {
    if word.chars().any(char::is_control) {
        return Err(EntryError::Control { word: word.to_owned() });
    }
    let expanded = word.replace('%', "%%").replace('$', "$$");
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+,:@%$".contains(&b);
    Ok(match !word.is_empty() && expanded.bytes().all(plain) {
        true => expanded,
        false => format!("\"{}\"", expanded.replace('\\', "\\\\").replace('"', "\\\"")),
    })
}
