//! When a profile runs: its calendar, the next moment and the missed ones, and the text that cron or systemd is given.
//!
//! Why: one calendar is read by several programs: cron or systemd starts the run, `status` says when it is due and what
//! was missed. They must mean the same moments. What can go wrong: the rule by which crontab(5) joins the two kinds of
//! day, an hour that a change of the clocks leaves out or repeats, a name or a step that another cron does not know.
//!
//! Nothing here opens a file or asks for the time: moments are seconds since 1970 in UTC, and the caller says by how
//! much local time is ahead of them ([`Offset`]).

mod calendar;
mod cron;
mod due;
mod systemd;

#[cfg(test)]
mod tests;

pub use calendar::{Calendar, CalendarError, Field};
pub use cron::{cron_file, solaris_entry};
pub use due::Offset;
pub use systemd::{on_calendar, service, timer};

/// One profile's entry, for any scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// When.
    pub calendar: &'a Calendar,
    /// The profile's name; of ASCII letters, digits, `-` and `_` alone, as it becomes part of file names.
    pub name: &'a str,
    /// The account that runs it.
    pub user: &'a str,
    /// The program, by its absolute path, and its arguments.
    pub command: &'a [String],
}

/// Why a calendar or a command cannot be written for a scheduler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A line of a crontab or a unit would end within it.
    #[error("the argument {word:?} has a control character, which no crontab and no unit can hold")]
    Control {
        /// The argument.
        word: String,
    },
    /// Both days restricted, and both to hold: cron elsewhere runs when either does.
    #[error(
        "a cron without steps cannot say `{calendar}`: it would run on either day, not on days that are both"
    )]
    BothDays {
        /// The calendar.
        calendar: String,
    },
}
