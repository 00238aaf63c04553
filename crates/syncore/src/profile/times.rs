//! Durations as profiles write them.
//!
//! Why: `rpo = "26"` is 26 of what? An error of the profile, found when it is read and not at half past two. What can
//! go wrong: a number that overflows, or a unit that is guessed.

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
}
