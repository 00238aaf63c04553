//! The keys of one table, asked for one by one, with an error for each that nobody asked for.
//!
//! Why: each kind of gate has keys of its own, and a key of another kind has no effect: it must not pass. The TOML
//! library knows only the keys of a whole type, and it loses the line where the type depends on a value. What can go
//! wrong: a key that is read and not asked for; [`Keys::finish`] turns it away with its line and a suggestion.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::{Spanned, Value};

use super::document::Text;
use super::error::closest;
use super::times::parse_duration;
use super::{ProfileError, merge};

/// A table as it is written.
pub(super) type Table = BTreeMap<Spanned<String>, Spanned<Value>>;

/// A table, and which of its keys were asked for.
pub(super) struct Keys<'a> {
    text: Text<'a>,
    table: &'a str,
    line: u32,
    left: Table,
    asked: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    /// `table` is what messages call it.
    pub(super) fn new(text: Text<'a>, table: &'a str, keys: Spanned<Table>) -> Self {
        Self { text, table, line: text.line(&keys), left: keys.into_inner(), asked: Vec::new() }
    }

    /// The line in which the table begins.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    fn take<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<Spanned<T>>, ProfileError> {
        self.asked.push(key);
        let Some(value) = self.left.remove(key) else { return Ok(None) };
        match convert(value.get_ref()) {
            Some(converted) => Ok(Some(Spanned::new(value.span(), converted))),
            None => Err(self.bad(key, &value, format!("{wanted} is wanted"))),
        }
    }

    /// The error that a value cannot be meant.
    pub(super) fn bad<T: ToString>(
        &self,
        key: &'static str,
        value: &Spanned<T>,
        reason: impl Into<String>,
    ) -> ProfileError {
        ProfileError::BadValue {
            file: self.text.file.to_string(),
            line: self.text.line(value),
            key,
            value: value.get_ref().to_string(),
            reason: reason.into(),
        }
    }

    pub(super) fn string(&mut self, key: &'static str) -> Result<Option<Spanned<String>>, ProfileError> {
        let value = self.take(key, "a string", |value| value.as_str().map(str::to_owned))?;
        match value {
            Some(value) if value.get_ref().is_empty() || value.get_ref().contains(char::is_control) => {
                Err(self.bad(key, &value, "it is empty or has control characters"))
            }
            value => Ok(value),
        }
    }

    /// A string that must be there.
    pub(super) fn required(&mut self, key: &'static str) -> Result<Spanned<String>, ProfileError> {
        match self.string(key)? {
            Some(value) => Ok(value),
            None => Err(self.missing(key)),
        }
    }

    /// The error that a key is not there: perhaps it is, misspelt.
    pub(super) fn missing(&self, key: &'static str) -> ProfileError {
        let meant = self.left.keys().find(|left| closest(left.get_ref(), [key].into_iter()).is_some());
        if let Some(meant) = meant {
            return self.unknown("key", meant, Some(key.to_owned()));
        }
        ProfileError::Syntax {
            file: self.text.file.to_string(),
            line: self.line,
            reason: format!("the {} lacks the key `{key}`", self.table),
        }
    }

    /// The error that keys which are all right by themselves are not so together.
    pub(super) fn contradiction(&self, reason: &str) -> ProfileError {
        let (file, line) = (self.text.file.to_string(), self.line);
        ProfileError::Syntax { file, line, reason: reason.to_owned() }
    }

    fn unknown(
        &self,
        kind: &'static str,
        word: &Spanned<String>,
        suggestion: Option<String>,
    ) -> ProfileError {
        let (file, line) = (self.text.file.to_string(), self.text.line(word));
        ProfileError::Unknown { file, line, kind, word: word.get_ref().clone(), suggestion }
    }

    /// A name that becomes an argument of a program: it cannot be taken for an option or a path.
    pub(super) fn name(&mut self, key: &'static str) -> Result<Option<Spanned<String>>, ProfileError> {
        let Some(name) = self.string(key)? else { return Ok(None) };
        if is_name(name.get_ref()) {
            return Ok(Some(name));
        }
        let reason =
            "a name has letters, digits and `.`, `_`, `+`, `:`, `-` only, and begins with none of the last";
        Err(self.bad(key, &name, reason))
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Result<Option<T>, ProfileError> {
        let Some(word) = self.string(key)? else { return Ok(None) };
        match words.iter().find(|(known, _)| known == word.get_ref()) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let suggestion = closest(word.get_ref(), words.iter().map(|(known, _)| *known));
                Err(self.unknown("value", &word, suggestion))
            }
        }
    }

    pub(super) fn path(&mut self, key: &'static str) -> Result<Option<PathBuf>, ProfileError> {
        let Some(path) = self.string(key)? else { return Ok(None) };
        merge::absolute(key, &path, self.text).map(Some)
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, ProfileError> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        parse_duration(text.get_ref()).map(Some).map_err(|reason| self.bad(key, &text, reason))
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, ProfileError> {
        Ok(self.take(key, "true or false", Value::as_bool)?.map(Spanned::into_inner))
    }

    /// A number from 0 to `limit`.
    pub(super) fn number(&mut self, key: &'static str, limit: u64) -> Result<Option<u64>, ProfileError> {
        let number = self.take(key, "a number", |value| u64::try_from(value.as_integer()?).ok())?;
        match number {
            Some(number) if *number.get_ref() > limit => {
                Err(self.bad(key, &number, format!("it is more than {limit}")))
            }
            number => Ok(number.map(Spanned::into_inner)),
        }
    }

    /// A number that may have a fraction, above 0.
    pub(super) fn decimal(&mut self, key: &'static str) -> Result<Option<f64>, ProfileError> {
        let convert = |value: &Value| {
            #[allow(clippy::cast_precision_loss)] // A load of 2^53 is none.
            let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))?;
            (number.is_finite() && number > 0.0).then_some(number)
        };
        Ok(self.take(key, "a number above 0", convert)?.map(Spanned::into_inner))
    }

    /// Bytes: a number, or one with the unit KiB, MiB, GiB or TiB.
    pub(super) fn bytes(&mut self, key: &'static str) -> Result<Option<u64>, ProfileError> {
        let wanted = "a number of bytes, or a string such as \"512MiB\" (KiB, MiB, GiB, TiB),";
        let convert = |value: &Value| match value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            Value::String(text) => parse_bytes(text),
            _ => None,
        };
        Ok(self.take(key, wanted, convert)?.map(Spanned::into_inner))
    }

    pub(super) fn strings(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Spanned<Vec<String>>>, ProfileError> {
        let convert = |value: &Value| {
            let strings = value.as_array()?.iter();
            strings.map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        };
        self.take(key, "a list of strings", convert)
    }

    /// The error that a list cannot be meant.
    pub(super) fn bad_list(
        &self,
        key: &'static str,
        value: &Spanned<Vec<String>>,
        reason: impl Into<String>,
    ) -> ProfileError {
        self.bad(key, &Spanned::new(value.span(), value.get_ref().join(" ")), reason)
    }

    /// Turns away what nobody asked for.
    pub(super) fn finish(self) -> Result<(), ProfileError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(key) => Err(self.unknown("key", key, closest(key.get_ref(), self.asked.iter().copied()))),
        }
    }
}

/// Bytes as a person writes them.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (number, shift) = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Whether it can be an argument of a program without being taken for anything but a name.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+:-".contains(&b))
}
