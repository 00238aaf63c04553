//! Durations and calendars as profiles write them.
//!
//! Why: `rpo = "26"` is 26 of what, and a calendar with six fields runs at another time than meant; both are
//! errors of the profile, found when it is read and not at half past two. What can go wrong: accepting more than
//! crontab(5) does, for a schedule is handed to cron in the end.

use std::time::Duration;

/// Reads `26h`, `90s`, `1h30m`: numbers, each with one of the units s, m, h, d, w.
///
/// # Errors
/// The reason, for a person.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const HINT: &str = "write a number with a unit: 30s, 15m, 26h, 7d, 2w, or 1h30m";
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(HINT)?;
        let (number, tail) = rest.split_at(digits);
        let mut tail = tail.chars();
        let unit = match tail.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            Some('w') => 604_800,
            _ => return Err(HINT.into()),
        };
        let number: u64 = number.parse().map_err(|_| HINT)?;
        let part = number.checked_mul(unit).ok_or("it is too long")?;
        seconds = seconds.checked_add(part).ok_or("it is too long")?;
        rest = tail.as_str();
    }
    match seconds {
        0 => Err(HINT.into()),
        _ => Ok(Duration::from_secs(seconds)),
    }
}

/// A field of a calendar: its name, its smallest and largest number, and names for numbers from the smallest on.
type Field = (&'static str, u8, u8, &'static [&'static str]);

const FIELDS: [Field; 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of week", 0, 7, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Checks a calendar of five fields as in crontab(5).
///
/// # Errors
/// The reason, for a person.
pub(super) fn check_calendar(text: &str) -> Result<(), String> {
    let given: Vec<&str> = text.split_ascii_whitespace().collect();
    if given.len() != FIELDS.len() {
        return Err(format!(
            "it has {} fields, not the five of crontab(5): minute, hour, day of month, month, day of week",
            given.len()
        ));
    }
    for (field, text) in FIELDS.iter().zip(given) {
        for item in text.split(',') {
            check_item(field, item).map_err(|reason| format!("{} `{item}`: {reason}", field.0))?;
        }
    }
    Ok(())
}

/// Checks `*`, `5`, `1-5`, `*/10` or `1-5/2`.
fn check_item(field: &Field, item: &str) -> Result<(), String> {
    let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
    if let Some(step) = step {
        if !step.parse::<u8>().is_ok_and(|step| step > 0) {
            return Err("the step is no number above 0".into());
        }
        if range != "*" && !range.contains('-') {
            return Err("a step needs a range or `*`".into());
        }
    }
    if range == "*" {
        return Ok(());
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let (from, to) = (number(field, from)?, number(field, to)?);
    if from > to {
        return Err("the range ends before it begins".into());
    }
    Ok(())
}

fn number((_, min, max, names): &Field, text: &str) -> Result<u8, String> {
    let named = names.iter().zip(*min..).find(|(name, _)| name.eq_ignore_ascii_case(text));
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    named
        .map(|(_, number)| number)
        .or_else(|| text.parse().ok().filter(|number| is_number && (min..=max).contains(&number)))
        .ok_or_else(|| format!("`{text}` is not within {min}-{max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        for (text, seconds) in
            [("30s", 30), ("26h", 93_600), ("1h30m", 5400), ("2w", 1_209_600), ("7d", 604_800)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "26",
            "h",
            "26 h",
            "-1h",
            "1.5h",
            "0s",
            "1y",
            "99999999999999999999h",
            "18446744073709551615w",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn checks_calendars() {
        for good in ["30 2 * * *", "*/10 * * * *", "0 0 1,15 jan-mar mon-FRI/2", "5 4 31 12 7"] {
            assert_eq!(check_calendar(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "30 2 * *",
            "0 30 2 * * *",
            "60 2 * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "5/2 * * * *",
            "+5 * * * *",
            "* * 0 * *",
            "* * * foo *",
            ", * * * *",
            "@daily",
        ] {
            assert!(check_calendar(bad).is_err(), "{bad} was accepted");
        }
    }
}
