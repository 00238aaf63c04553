//! Why a profile is none, with the line and what was probably meant.
//!
//! Why: a profile is written by hand, at night, on the host that must not break. What can go wrong: a message
//! that names no line, or a misspelt key that is taken for a default. The TOML library knows the line and the
//! keys that it would have accepted; both are taken from its error.

use thiserror::Error;

use crate::rules::RuleError;

/// Why a profile, a catalogue or the standby's own file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Not TOML, or a value of the wrong kind.
    #[error("{file}:{line}: {reason}")]
    Syntax {
        /// File.
        file: String,
        /// Line, from 1.
        line: u32,
        /// What the parser says.
        reason: String,
    },
    /// A key, or a fixed word as a value, that means nothing.
    #[error("{file}:{line}: unknown {kind} `{word}`{}", did_you_mean(.suggestion.as_deref()))]
    Unknown {
        /// File.
        file: String,
        /// Line, from 1.
        line: u32,
        /// `key` or `value`.
        kind: &'static str,
        /// The word.
        word: String,
        /// What it is close to, if it is close to anything.
        suggestion: Option<String>,
    },
    /// `extends` names what is neither a profile nor a catalogue.
    #[error("{file}:{line}: no profile or catalogue `{name}`{}", did_you_mean(.suggestion.as_deref()))]
    UnknownExtends {
        /// File.
        file: String,
        /// Line, from 1.
        line: u32,
        /// The name.
        name: String,
        /// What it is close to, if it is close to anything.
        suggestion: Option<String>,
    },
    /// A profile that extends itself in the end.
    #[error("{file}:{line}: `{name}` extends itself")]
    Cycle {
        /// File.
        file: String,
        /// Line, from 1.
        line: u32,
        /// The name.
        name: String,
    },
    /// A value that cannot be meant.
    #[error("{file}:{line}: bad {key} `{value}`: {reason}")]
    BadValue {
        /// File.
        file: String,
        /// Line, from 1.
        line: u32,
        /// The key.
        key: &'static str,
        /// The value as written.
        value: String,
        /// Why.
        reason: String,
    },
    /// A rule that does not compile.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |word| format!("; did you mean `{word}`?"))
}

/// The line, from 1, in which the byte at `offset` stands.
pub(super) fn line_of(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    u32::try_from(before.iter().filter(|b| **b == b'\n').count())
        .map_or(u32::MAX, |lines| lines.saturating_add(1))
}

/// Turns the TOML library's error into ours.
pub(super) fn from_toml(file: &str, text: &str, error: &toml::de::Error) -> ProfileError {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    let file = file.to_string();
    // serde words it: unknown field `x`, expected one of `a`, `b`.
    let message = error.message();
    let kind = match message {
        _ if message.starts_with("unknown field") => "key",
        _ if message.starts_with("unknown variant") => "value",
        _ => return ProfileError::Syntax { file, line, reason: message.replace('\n', "; ") },
    };
    let mut words = message.split('`').skip(1).step_by(2);
    let word = words.next().unwrap_or_default().to_string();
    let suggestion = closest(&word, words);
    ProfileError::Unknown { file, line, kind, word, suggestion }
}

/// The candidate that `word` was probably meant to be.
pub(super) fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    // A third of the letters wrong is another word.
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate.to_string())
}

/// How many letters have to be added, dropped or changed (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_close_and_nothing_else() {
        let keys = ["include", "exclude", "protect"];
        assert_eq!(closest("inlcude", keys.into_iter()).as_deref(), Some("include"));
        assert_eq!(closest("protects", keys.into_iter()).as_deref(), Some("protect"));
        assert_eq!(closest("wholly-other", keys.into_iter()), None);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn counts_lines_from_one() {
        assert_eq!([line_of("a\nb\n", 0), line_of("a\nb\n", 2), line_of("a\nb\n", 99)], [1, 2, 3]);
    }
}
