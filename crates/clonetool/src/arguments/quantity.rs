//! Rates, times, compression levels and command words, as they are written on the command line.
//!
//! Why: users bring the values of their rsync scripts along, so rates and quotes mean what they mean there. What
//! can go wrong: a number that overflows, or a unit that is off by a thousand.

use std::time::Duration;

use syncore::wire::Compression;

/// `auto`, `off`, or a zstd level from 1 to 19.
pub(super) fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "auto" => Ok(Compression::Auto),
        "off" => Ok(Compression::Off),
        _ => match text.parse() {
            Ok(level @ 1..=19) => Ok(Compression::Level(level)),
            _ => Err("expected auto, off, or a level from 1 to 19".to_owned()),
        },
    }
}

/// A rate in bytes a second: a decimal number with K, M, G (powers of 1024), B, or none, which is K as in rsync.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number with K, M or G, such as 500K or 1.5M".to_owned();
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit_bytes: u64 = match unit.to_ascii_uppercase().as_str() {
        "B" => 1,
        "" | "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 9 {
        return Err(wrong());
    }
    let digits = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u64>() };
    let whole = digits(whole).map_err(|_| wrong())?;
    let scale = fraction.chars().fold(1_u64, |scale, _| scale * 10);
    let part = digits(fraction).map_err(|_| wrong())? * unit_bytes / scale;
    whole
        .checked_mul(unit_bytes)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or_else(|| "too large".to_owned())
}

/// How much is read at a time: a number with its unit, as of a rate, and more than nothing.
pub(crate) fn budget(text: &str) -> Result<u64, String> {
    match rate(text) {
        Ok(0) => Err("must be more than zero".to_owned()),
        Ok(_) if text.ends_with(|c: char| c.is_ascii_digit()) => {
            Err("expected a unit, such as 500M or 2GiB".to_owned())
        }
        result => result,
    }
}

/// A time: a whole number of seconds, or with `s`, `m`, `h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let number_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit_seconds: u64 = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("expected seconds, or a number with s, m or h".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "expected seconds, or a number with s, m or h".to_owned())?;
    match number.checked_mul(unit_seconds) {
        Some(0) => Err("must be more than zero".to_owned()),
        Some(seconds) if seconds <= 7 * 24 * 3600 => Ok(Duration::from_secs(seconds)),
        _ => Err("must not be more than a week".to_owned()),
    }
}

/// Splits a command as rsync's `-e` does: at spaces; single or double quotes hold words together, a doubled quote
/// inside is that quote, and a backslash is nothing special.
pub(super) fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = command.chars().peekable();
    while let Some(c) = characters.next() {
        match quote {
            Some(open) if c == open => {
                if characters.next_if_eq(&open).is_some() {
                    word.get_or_insert_default().push(c);
                } else {
                    quote = None;
                }
            }
            None if c == ' ' => words.extend(word.take()),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        Some(open) => Err(format!("no closing {open} in {command:?}")),
        None if words.is_empty() => Err("an empty command".to_owned()),
        None => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rsyncs() {
        let table = [
            ("1000", 1_024_000),
            ("500K", 512_000),
            ("1.5m", 1_572_864),
            ("2G", 2 << 30),
            ("17B", 17),
            (".5M", 524_288),
            ("0", 0),
        ];
        for (text, expected) in table {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for bad in
            ["", "K", ".", "1.2.3M", "-1M", "1T", "1e3", "99999999999999999999", "18446744073709551615G"]
        {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_units_and_bounds() {
        let table = [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600)];
        for (text, seconds) in table {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "0", "s", "1.5s", "5 m", "-1", "1d", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn compression_levels_end_at_19() {
        assert_eq!(compression("auto"), Ok(Compression::Auto));
        assert_eq!(compression("off"), Ok(Compression::Off));
        assert_eq!(compression("19"), Ok(Compression::Level(19)));
        for bad in ["0", "20", "-3", "zstd", ""] {
            assert!(compression(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn remote_shells_are_split_as_by_rsync() {
        let table: [(&str, &[&str]); 5] = [
            ("ssh -p 22", &["ssh", "-p", "22"]),
            ("  ssh   -v ", &["ssh", "-v"]),
            ("ssh -o 'ProxyCommand nc %h %p'", &["ssh", "-o", "ProxyCommand nc %h %p"]),
            (r#"a "it""s" 'it''s' '' b\"#, &["a", "it\"s", "it's", "", "b\\"]),
            ("x'y'z", &["xyz"]),
        ];
        for (text, expected) in table {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
        assert!(words("ssh 'open").is_err());
        assert!(words("  ").is_err());
    }
}
