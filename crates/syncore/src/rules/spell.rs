//! A pattern spelt out for a tool that has only part of the words: no braces, and a `**` that stands for at least one
//! directory.
//!
//! Why: rsync and a shell know `*`, `?` and `[…]`, and differ in all else. What can go wrong: a pattern that means a
//! little more or less there; so braces are multiplied out and each `**` is written with and without directories, and
//! what cannot be said is none, never something near it.

use super::pattern::{Pattern, Step};

/// The most spellings of one pattern.
const SPELLINGS_LIMIT: usize = 256;

/// What stands for one or more bytes of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// This byte.
    Byte(u8),
    /// Any one byte.
    One,
    /// Any number of any bytes.
    Many,
    /// One of these bytes, or one that is none of these.
    Class {
        /// Whether it is none of these.
        negated: bool,
        /// First and last byte of each range; all are ASCII.
        ranges: Vec<(u8, u8)>,
    },
}

/// One component of a spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Exactly this name.
    Name(Vec<u8>),
    /// A name that these match, one after the other.
    Glob(Vec<Token>),
    /// At least one directory; as the first of two parts, any number of them.
    AnyDepth,
}

/// All spellings, each from the root down; none when there are too many, or a class with a byte that is not ASCII.
pub(super) fn spellings(pattern: &Pattern) -> Option<Vec<Vec<Part>>> {
    let mut all: Vec<Vec<Part>> = vec![Vec::new()];
    let floats = matches!(pattern.steps[..], [Step::AnyDepth, _]);
    for step in &pattern.steps {
        let choices: Vec<Option<Part>> = match step {
            Step::Name(name) => vec![Some(Part::Name(name.clone()))],
            Step::AnyDepth if floats => vec![Some(Part::AnyDepth)],
            Step::AnyDepth => vec![None, Some(Part::AnyDepth)],
            Step::Glob(glob) => {
                Globs { text: glob.text(), at: 0 }.all()?.into_iter().map(part).map(Some).collect()
            }
        };
        if all.len().checked_mul(choices.len())? > SPELLINGS_LIMIT {
            return None;
        }
        let longer = |spelling: &Vec<Part>, choice: &Option<Part>| {
            spelling.iter().chain(choice.iter()).cloned().collect::<Vec<Part>>()
        };
        all = all.iter().flat_map(|spelling| choices.iter().map(|choice| longer(spelling, choice))).collect();
    }
    Some(all)
}

/// A name where no wildcard is left once the braces are gone.
fn part(tokens: Vec<Token>) -> Part {
    let byte = |token: &Token| match token {
        Token::Byte(byte) => Some(*byte),
        _ => None,
    };
    match tokens.iter().map(byte).collect() {
        Some(name) => Part::Name(name),
        None => Part::Glob(tokens),
    }
}

/// A wildcard that is read from left to right. It compiled before, so it is well formed and its nesting is bounded.
struct Globs<'a> {
    text: &'a [u8],
    at: usize,
}

impl Globs<'_> {
    fn all(mut self) -> Option<Vec<Vec<Token>>> {
        self.sequence(false)
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.text.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    /// What stands in a row, up to the end, or `inside` braces up to what ends an alternative.
    fn sequence(&mut self, inside: bool) -> Option<Vec<Vec<Token>>> {
        let mut all = vec![Vec::new()];
        while let Some(&byte) = self.text.get(self.at) {
            if inside && matches!(byte, b',' | b'}') {
                break;
            }
            self.at += 1;
            let choices = match byte {
                b'{' => self.braces()?,
                b'*' => vec![vec![Token::Many]],
                b'?' => vec![vec![Token::One]],
                b'[' => vec![vec![self.class()?]],
                b'\\' => vec![vec![Token::Byte(self.next()?)]],
                byte => vec![vec![Token::Byte(byte)]],
            };
            if all.len().checked_mul(choices.len())? > SPELLINGS_LIMIT {
                return None;
            }
            let longer = |start: &Vec<Token>, end: &Vec<Token>| {
                let mut tokens = start.clone();
                // Two stars in a row would cross slashes elsewhere.
                let end = if start.last() == Some(&Token::Many) && end.first() == Some(&Token::Many) {
                    &end[1..]
                } else {
                    &end[..]
                };
                tokens.extend_from_slice(end);
                tokens
            };
            all = all.iter().flat_map(|start| choices.iter().map(|end| longer(start, end))).collect();
        }
        Some(all)
    }

    fn braces(&mut self) -> Option<Vec<Vec<Token>>> {
        let mut all = Vec::new();
        loop {
            all.extend(self.sequence(true)?);
            if all.len() > SPELLINGS_LIMIT {
                return None;
            }
            if self.next()? == b'}' {
                return Some(all);
            }
        }
    }

    /// Reads a class as globset does: a bracket or a dash in the first place stands for itself, a backslash anywhere.
    fn class(&mut self) -> Option<Token> {
        let negated = matches!(self.text.get(self.at), Some(b'!' | b'^'));
        self.at += usize::from(negated);
        let mut ranges: Vec<(u8, u8)> = Vec::new();
        let mut open_range = false;
        let mut first = true;
        loop {
            let byte = self.next()?;
            if !byte.is_ascii() {
                return None;
            }
            match byte {
                b']' if !first => break,
                b'-' if !first && !open_range => open_range = true,
                byte if open_range => {
                    ranges.last_mut()?.1 = byte;
                    open_range = false;
                }
                byte => ranges.push((byte, byte)),
            }
            first = false;
        }
        if open_range {
            ranges.push((b'-', b'-'));
        }
        Some(Token::Class { negated, ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelt(text: &str) -> Vec<String> {
        let one = |part: &Part| match part {
            Part::Name(name) => String::from_utf8_lossy(name).into_owned(),
            Part::AnyDepth => "**".to_owned(),
            Part::Glob(tokens) => tokens.iter().map(token).collect(),
        };
        let all = spellings(&Pattern::parse(text.as_bytes()).unwrap()).unwrap();
        all.iter().map(|parts| parts.iter().map(one).collect::<Vec<_>>().join("/")).collect()
    }

    fn token(token: &Token) -> String {
        match token {
            Token::Byte(byte) => char::from(*byte).to_string(),
            Token::One => "?".to_owned(),
            Token::Many => "*".to_owned(),
            Token::Class { negated, ranges } => format!("<{negated} {ranges:?}>"),
        }
    }

    #[test]
    fn braces_are_multiplied_out_and_two_stars_stand_for_some_or_no_directories() {
        assert_eq!(spelt("/a/{b,c{d,}}x"), ["a/bx", "a/cdx", "a/cx"]);
        assert_eq!(spelt("/a/**/b"), ["a/b", "a/**/b"]);
        assert_eq!(spelt("/a/**"), ["a/*", "a/**/*"]);
        assert_eq!(spelt("*.o"), ["**/*.o"]);
        assert_eq!(spelt("a/b"), ["a/b", "**/a/b"]);
        assert_eq!(spelt("/{*,a}{*,b}"), ["*", "*b", "a*", "ab"]);
    }

    #[test]
    fn a_class_is_read_as_where_it_is_matched() {
        assert_eq!(spelt("/[]a-c-]"), ["<false [(93, 93), (97, 99), (45, 45)]>"]);
        assert_eq!(spelt("/[!\\-^]"), ["<true [(92, 94)]>"]);
        let parse = |text: &str| spellings(&Pattern::parse(text.as_bytes()).unwrap());
        assert!(parse("/[é]").is_none() && parse(&"{a,b}".repeat(9)).is_none());
    }
}
