//! A calendar: the five fields of crontab(5), read strictly.
//!
//! Why: whatever is accepted here is handed to cron, years before anybody looks at it again. What can go wrong:
//! accepting what some cron reads in another way, or a day that never comes. So what is doubtful is an error that names
//! the field, and what is written again has no names and no sixth field.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

use super::due;

/// One of the five.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// 0 to 59.
    Minute,
    /// 0 to 23.
    Hour,
    /// 1 to 31.
    DayOfMonth,
    /// 1 to 12, or `jan` to `dec`.
    Month,
    /// 0 to 7, or `sun` to `sat`; 0 and 7 are Sunday.
    DayOfWeek,
}

impl Field {
    const ALL: [Self; 5] = [Self::Minute, Self::Hour, Self::DayOfMonth, Self::Month, Self::DayOfWeek];

    pub(super) const fn range(self) -> RangeInclusive<u8> {
        match self {
            Self::Minute => 0..=59,
            Self::Hour => 0..=23,
            Self::DayOfMonth => 1..=31,
            Self::Month => 1..=12,
            Self::DayOfWeek => 0..=7,
        }
    }

    /// Names, for the numbers of the range from the first one on.
    pub(super) const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => {
                &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
            }
            Self::DayOfWeek => &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
            Self::Minute | Self::Hour | Self::DayOfMonth => &[],
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        })
    }
}

/// Why a text is no calendar.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CalendarError {
    /// Not five fields.
    #[error(
        "it has {found} fields, not the five of crontab(5): minute, hour, day of month, month, day of week"
    )]
    Fields {
        /// How many.
        found: usize,
    },
    /// A number or name that the field does not have.
    #[error("{field} `{item}`: `{word}` is not within {}-{}", .field.range().start(), .field.range().end())]
    Value {
        /// The field.
        field: Field,
        /// The element of its list.
        item: String,
        /// What is wrong in it.
        word: String,
    },
    /// As `fri-sun`.
    #[error("{field} `{item}`: the range ends before it begins{}", if *.field == Field::DayOfWeek { "; Sunday is 7, too" } else { "" })]
    Backwards {
        /// The field.
        field: Field,
        /// The element of its list.
        item: String,
    },
    /// A step of 0, one that is no number, or one that is larger than the range.
    #[error("{field} `{item}`: the step is no number from 1 to {largest}")]
    Step {
        /// The field.
        field: Field,
        /// The element of its list.
        item: String,
        /// The largest that still means something.
        largest: u8,
    },
    /// As `5/10`, which every cron reads in its own way.
    #[error("{field} `{item}`: a step needs a range or `*`")]
    StepOfNumber {
        /// The field.
        field: Field,
        /// The element of its list.
        item: String,
    },
    /// As `*,5`: crons differ over whether that restricts the field.
    #[error("{field} `{text}`: `*` stands alone, or with a step")]
    StarInList {
        /// The field.
        field: Field,
        /// The whole field.
        text: String,
    },
    /// As the 31st of February.
    #[error("this day never comes")]
    Never,
}

/// The numbers that a field names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) field: Field,
    /// Bit n: n is among them. Sunday is 0 here.
    bits: u64,
    /// The step of a field that begins with `*`, 1 where none is given. For crontab(5) such a field restricts nothing
    /// when the two kinds of day are joined, and leaves a job alone when the clocks change.
    star: Option<u8>,
}

impl Set {
    fn parse(field: Field, text: &str) -> Result<Self, CalendarError> {
        let (first, last) = field.range().into_inner();
        let mut set = Self { field, bits: 0, star: None };
        for item in text.split(',') {
            let (range, step) =
                item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
            let (from, to) = if range == "*" {
                if item != text {
                    return Err(CalendarError::StarInList { field, text: text.into() });
                }
                (first, last)
            } else {
                let (from, to) = range.split_once('-').unwrap_or((range, range));
                (number(field, item, from)?, number(field, item, to)?)
            };
            if from > to {
                return Err(CalendarError::Backwards { field, item: item.into() });
            }
            let step = match step {
                None => 1,
                Some(_) if range != "*" && !range.contains('-') => {
                    return Err(CalendarError::StepOfNumber { field, item: item.into() });
                }
                Some(step) => {
                    let largest = (to - from).max(1);
                    decimal(step)
                        .filter(|step| (1..=largest).contains(step))
                        .ok_or_else(|| CalendarError::Step { field, item: item.into(), largest })?
                }
            };
            if range == "*" {
                set.star = Some(step);
            }
            for value in (from..=to).step_by(step.into()) {
                set.bits |= 1 << if field == Field::DayOfWeek { value % 7 } else { value };
            }
        }
        Ok(set)
    }

    pub(super) fn has(self, value: u8) -> bool {
        self.bits >> value & 1 == 1
    }

    pub(super) const fn starred(self) -> bool {
        self.star.is_some()
    }

    /// The numbers in ascending order; Sunday is 0.
    pub(super) fn values(self) -> impl Iterator<Item = u8> {
        self.field.range().filter(move |value| self.has(*value))
    }

    /// Whether every number of the field is among them.
    pub(super) fn everything(self) -> bool {
        let days = self.field == Field::DayOfWeek;
        self.field.range().all(|value| self.has(value) || (days && value == 7))
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.star {
            Some(1) => return f.write_str("*"),
            Some(step) => return write!(f, "*/{step}"),
            None => {}
        }
        let mut values = self.values().peekable();
        let mut comma = "";
        while let Some(from) = values.next() {
            let mut to = from;
            while let Some(next) = values.next_if_eq(&(to + 1)) {
                to = next;
            }
            match to - from {
                0 => write!(f, "{comma}{from}")?,
                1 => write!(f, "{comma}{from},{to}")?,
                _ => write!(f, "{comma}{from}-{to}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

fn decimal(text: &str) -> Option<u8> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

fn number(field: Field, item: &str, word: &str) -> Result<u8, CalendarError> {
    let named = field.names().iter().zip(field.range()).find(|(name, _)| name.eq_ignore_ascii_case(word));
    named
        .map(|(_, value)| value)
        .or_else(|| decimal(word).filter(|value| field.range().contains(value)))
        .ok_or_else(|| CalendarError::Value { field, item: item.into(), word: word.into() })
}

/// When something runs, to the minute, as crontab(5) says it: five fields of numbers, names, ranges, lists and steps.
///
/// As in Vixie cron, a job whose two kinds of day are both restricted runs on days that are either; a field that begins
/// with `*` restricts none, and then both must hold. Displayed, it has no names and reads the same again.
///
/// ```
/// use syncore::schedule::Calendar;
/// let calendar: Calendar = "30 2 * * mon-fri".parse()?;
/// assert_eq!(calendar.to_string(), "30 2 * * 1-5");
/// let monday = 1_700_445_600; // 2023-11-20 02:00 UTC
/// assert_eq!(calendar.next_due(monday, &|_| 0), Some(monday + 30 * 60));
/// # Ok::<(), syncore::schedule::CalendarError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    pub(super) minute: Set,
    pub(super) hour: Set,
    pub(super) day_of_month: Set,
    pub(super) month: Set,
    pub(super) day_of_week: Set,
}

impl Calendar {
    /// Whether either kind of day is enough: both are restricted.
    pub(super) const fn either_day(&self) -> bool {
        !self.day_of_month.starred() && !self.day_of_week.starred()
    }

    /// Whether it runs on a day. `day_of_week` counts from Sunday, 0.
    pub(super) fn on(&self, month: u8, day_of_month: u8, day_of_week: u8) -> bool {
        let (date, week) = (self.day_of_month.has(day_of_month), self.day_of_week.has(day_of_week));
        self.month.has(month) && if self.either_day() { date || week } else { date && week }
    }
}

impl FromStr for Calendar {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Self, CalendarError> {
        let given: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week] = given[..] else {
            return Err(CalendarError::Fields { found: given.len() });
        };
        let [minute_field, hour_field, date_field, month_field, week_field] = Field::ALL;
        let calendar = Self {
            minute: Set::parse(minute_field, minute)?,
            hour: Set::parse(hour_field, hour)?,
            day_of_month: Set::parse(date_field, day_of_month)?,
            month: Set::parse(month_field, month)?,
            day_of_week: Set::parse(week_field, day_of_week)?,
        };
        if due::comes(&calendar) { Ok(calendar) } else { Err(CalendarError::Never) }
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { minute, hour, day_of_month, month, day_of_week } = self;
        write!(f, "{minute} {hour} {day_of_month} {month} {day_of_week}")
    }
}
