//! Moments: when a calendar is due next, and how often it was.
//!
//! Why: `status` has to say what cron will do and what it should have done. What can go wrong: the clocks change. Here
//! it is as in Vixie cron: a job at fixed hours and minutes whose time was left out runs once, right after; one whose
//! time comes twice runs the first time. A job every so many minutes, or in every hour (its minute or hour field begins
//! with `*`), goes by the clock on the wall alone: it is frequent enough to need no making up for, and an hour without
//! one would be a gap.

use super::Calendar;

/// By how many seconds local time is ahead of UTC at a moment, given in seconds since 1970 in UTC. It may change at most
/// once within a day; all zones of the time zone database keep to that, but for a few days before 1950.
pub type Offset<'a> = &'a dyn Fn(i64) -> i32;

/// How late a run may begin at most before it is missing.
const LATE_SECONDS: i64 = 3600;
const MINUTE: i64 = 60;
const DAY: i64 = 86_400;

/// Every calendar that comes at all comes within this: the 29th of February on a given day of the week is away 28
/// years, and 40 when a century without that day lies between.
const HORIZON_DAYS: i64 = 41 * 366;

impl Calendar {
    /// The first moment after `after` at which it is due, both in seconds since 1970 in UTC. None beyond the year 9999.
    #[must_use]
    pub fn next_due(&self, after: i64, offset: Offset<'_>) -> Option<i64> {
        const LAST: i64 = 253_402_300_799;
        if !(-LAST..=LAST).contains(&after) {
            return None;
        }
        let (mut from, end) = (after, after + HORIZON_DAYS * DAY);
        while from < end {
            let ahead = i64::from(offset(from));
            let stop = first_change(from, offset).unwrap_or(from + DAY);
            let mut local = from + ahead + 1;
            while let Some(found) = self.first_within(local, stop + ahead) {
                if !self.by_fixed_times() || !was_before(found - ahead, offset) {
                    return Some(found - ahead);
                }
                local = found + 1;
            }
            // Where the clocks were put forward: what was left out, and what is due at that moment itself, are one run.
            let then = i64::from(offset(stop));
            let left_out = self.by_fixed_times() && self.first_within(stop + ahead, stop + then).is_some();
            if left_out || self.due_at(stop, offset) {
                return Some(stop);
            }
            from = stop;
        }
        None
    }

    /// How often it was due after `after` and until `until` (seconds since 1970 in UTC); counting ends at `limit`.
    #[must_use]
    pub fn missed(&self, after: i64, until: i64, limit: usize, offset: Offset<'_>) -> usize {
        let next = |last: &i64| self.next_due(*last, offset);
        std::iter::successors(next(&after), next).take_while(|due| *due <= until).take(limit).count()
    }

    /// How many runs are missing at `now` when the last one began at `after`. A run may begin late, by half the time between
    /// the next two and an hour at most: whatever starts it may delay it. Counting ends at `limit`.
    #[must_use]
    pub fn overdue(&self, after: i64, now: i64, limit: usize, offset: Offset<'_>) -> usize {
        let next = self.next_due(now, offset);
        let between = next.and_then(|next| Some(self.next_due(next, offset)? - next));
        let late = between.map_or(LATE_SECONDS, |between| (between / 2).min(LATE_SECONDS));
        self.missed(after, now - late, limit, offset)
    }

    /// Whether a change of the clocks must neither drop nor double it.
    fn by_fixed_times(&self) -> bool {
        !self.minute.starred() && !self.hour.starred()
    }

    fn due_at(&self, moment: i64, offset: Offset<'_>) -> bool {
        let local = moment + i64::from(offset(moment));
        self.first_within(local, local + 1).is_some()
            && !(self.by_fixed_times() && was_before(moment, offset))
    }

    /// The first local time that it names, in seconds, from `from` on and before `to`.
    fn first_within(&self, from: i64, to: i64) -> Option<i64> {
        let mut minute = (from + MINUTE - 1).div_euclid(MINUTE);
        while minute * MINUTE < to {
            let (day, of_day) = (minute.div_euclid(DAY / MINUTE), minute.rem_euclid(DAY / MINUTE));
            let (month, day_of_month) = month_and_day(day);
            if self.on(month, day_of_month, day_of_week(day)) {
                let times = self.hour.values().flat_map(|hour| {
                    self.minute.values().map(move |minute| i64::from(hour) * 60 + i64::from(minute))
                });
                let found = times.into_iter().find(|time| *time >= of_day);
                if let Some(time) = found {
                    let found = day * DAY + time * MINUTE;
                    return (found < to).then_some(found);
                }
            }
            minute = (day + 1) * (DAY / MINUTE);
        }
        None
    }
}

/// Whether a calendar's day comes at all.
pub(super) fn comes(calendar: &Calendar) -> bool {
    (0..HORIZON_DAYS).any(|day| {
        let (month, day_of_month) = month_and_day(day);
        calendar.on(month, day_of_month, day_of_week(day))
    })
}

/// When the offset changes within a day after `from`.
fn first_change(from: i64, offset: Offset<'_>) -> Option<i64> {
    let before = offset(from);
    let (mut same, mut other) = (from, from + DAY);
    if offset(other) == before {
        return None;
    }
    while other - same > 1 {
        let middle = same.midpoint(other);
        *(if offset(middle) == before { &mut same } else { &mut other }) = middle;
    }
    Some(other)
}

/// Whether the local time of a moment was there once before, since the clocks were put back.
fn was_before(moment: i64, offset: Offset<'_>) -> bool {
    let Some(change) = first_change(moment - DAY, offset).filter(|change| *change <= moment) else {
        return false;
    };
    moment + i64::from(offset(moment)) < change + i64::from(offset(change - 1))
}

/// 1970-01-01 was a Thursday. Sunday is 0.
fn day_of_week(day: i64) -> u8 {
    small((day + 4).rem_euclid(7))
}

/// Month and day of month of a day since 1970-01-01, in the Gregorian calendar. The count begins on the first of March of
/// a year that 400 divides, so that a leap day is the last of its year (Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms").
fn month_and_day(day: i64) -> (u8, u8) {
    let of_era = (day + 719_468).rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    (small(if month < 10 { month + 3 } else { month - 9 }), small(day))
}

/// Only called with what a remainder has made small.
fn small(number: i64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}
