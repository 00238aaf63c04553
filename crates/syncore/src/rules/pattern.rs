//! One pattern, split into the steps that a walk takes from directory to directory.
//!
//! Why: `*`, `?`, `[…]` and `{a,b}` must never cross a slash. A negated class of globset does (`[!a]` matches
//! `/`), so every component becomes a glob of its own, and a glob only ever sees one name. What can go wrong: a
//! pattern that a peer chose. Length and nesting are bounded before anything is built from them, and what does
//! not compile is an error, never a pattern that silently matches nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::tree::{PATH_LIMIT_BYTES, check_name};

/// Longest component that may hold wildcards; a regular expression is built from it.
const GLOB_LIMIT_BYTES: usize = 1024;
/// Deepest nesting of `{}`; each level is a level of recursion in whoever compiles it.
const BRACE_DEPTH_LIMIT: usize = 8;

/// Most `**` in one pattern; each is a place that a walk may have to carry on.
const ANY_DEPTH_LIMIT: usize = 16;

/// What matches one name, or any number of directories.
#[derive(Debug)]
pub(super) enum Step {
    /// Exactly this name.
    Name(Vec<u8>),
    /// A name that this wildcard matches.
    Glob(Glob),
    /// `**`: no directory, or any number of them.
    AnyDepth,
}

/// A pattern as written, taken apart.
#[derive(Debug)]
pub(super) struct Pattern {
    /// From the root down; none for the root itself. Never ends in [`Step::AnyDepth`].
    pub(super) steps: Vec<Step>,
    /// Whether it ends in a slash, and so only matches directories.
    pub(super) directory_only: bool,
}

/// The pattern that matches exactly `path`, whatever characters are in it.
#[must_use]
pub fn literal(path: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(path.len());
    for byte in path {
        if b"*?[]{}\\,!^".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern
}

impl Pattern {
    /// Takes `text` apart.
    ///
    /// # Errors
    /// The reason, for a person.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".into());
        }
        if text.len() > PATH_LIMIT_BYTES {
            return Err(format!("it has {} bytes, the limit is {PATH_LIMIT_BYTES}", text.len()));
        }
        let (anchored, body) = match text.strip_prefix(b"/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if anchored && body.is_empty() {
            return Ok(Self { steps: Vec::new(), directory_only: true });
        }
        let (directory_only, body) = match body.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, body),
        };
        let mut steps = Vec::new();
        if !anchored {
            steps.push(Step::AnyDepth);
        }
        for component in body.split(|b| *b == b'/') {
            if component != b"**" {
                steps.push(step(component)?);
            } else if !matches!(steps.last(), Some(Step::AnyDepth)) {
                steps.push(Step::AnyDepth);
            }
        }
        if steps.iter().filter(|step| matches!(step, Step::AnyDepth)).count() > ANY_DEPTH_LIMIT {
            return Err(format!("it has more than {ANY_DEPTH_LIMIT} `**`"));
        }
        if matches!(steps.last(), Some(Step::AnyDepth)) {
            // What ends in `**` means everything inside, not the directory itself.
            steps.push(Step::Glob(Glob::any()));
        }
        Ok(Self { steps, directory_only })
    }

    /// Whether it names one path and nothing else.
    pub(super) fn is_literal(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Name(_)))
    }
}

/// One component: a name if nothing in it is a wildcard, else a glob.
fn step(component: &[u8]) -> Result<Step, String> {
    let mut name = Vec::with_capacity(component.len());
    let mut bytes = component.iter().copied();
    let mut depth = 0_usize;
    let mut wild = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => name.push(bytes.next().ok_or("a backslash ends a component")?),
            b'*' | b'?' | b'[' | b']' | b'{' | b'}' => {
                wild = true;
                depth =
                    depth.saturating_add(usize::from(byte == b'{')).saturating_sub(usize::from(byte == b'}'));
                if depth > BRACE_DEPTH_LIMIT {
                    return Err(format!("braces are nested more than {BRACE_DEPTH_LIMIT} deep"));
                }
            }
            _ => name.push(byte),
        }
    }
    if component.contains(&0) {
        return Err("it has a NUL byte".into());
    }
    if wild {
        return Ok(Step::Glob(Glob::new(component)?));
    }
    check_name(&name).map_err(|error| error.to_string())?;
    Ok(Step::Name(name))
}

/// A wildcard for one name.
#[derive(Debug)]
pub(super) struct Glob {
    text: Vec<u8>,
    matcher: Matcher,
}

/// How a wildcard is matched. Most are a `*` between two fixed ends, which needs no regular expression: the scan
/// asks once per file.
#[derive(Debug)]
enum Matcher {
    Ends { start: Vec<u8>, end: Vec<u8> },
    Set(GlobSet),
}

impl Glob {
    fn any() -> Self {
        Self { text: b"*".to_vec(), matcher: Matcher::Ends { start: Vec::new(), end: Vec::new() } }
    }

    fn new(component: &[u8]) -> Result<Self, String> {
        if component.len() > GLOB_LIMIT_BYTES {
            return Err(format!("a component with wildcards is longer than {GLOB_LIMIT_BYTES} bytes"));
        }
        let text = std::str::from_utf8(component)
            .map_err(|_| "a component with wildcards is not UTF-8; `?` stands for any one byte")?;
        // Built in any case, so that what is accepted does not depend on the shortcut below.
        let glob = GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(true)
            .empty_alternates(true)
            .build()
            .map_err(|error| format!("{} (none of [] and {{}} may hold a slash)", error.kind()))?;
        let matcher = if let Some((start, end)) = ends(component) {
            Matcher::Ends { start: start.to_vec(), end: end.to_vec() }
        } else {
            let set = GlobSetBuilder::new().add(glob).build().map_err(|error| error.kind().to_string())?;
            Matcher::Set(set)
        };
        Ok(Self { text: component.to_vec(), matcher })
    }

    /// As written; equal text matches equally.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether it matches `name`.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Ends { start, end } => {
                name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
            }
            Matcher::Set(set) => set.is_match(OsStr::from_bytes(name)),
        }
    }
}

/// What stands before and after the only `*`, if that is the only wildcard.
fn ends(component: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_special = |b: &u8| b"*?[]{}\\".contains(b);
    let star = component.iter().position(|b| *b == b'*')?;
    let (start, end) = (&component[..star], &component[star + 1..]);
    (!start.iter().any(is_special) && !end.iter().any(is_special)).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_can_match_nothing_or_leaves_the_root() {
        for bad in [
            &b""[..],
            b"//",
            b"a//b",
            b"/a//",
            b"..",
            b"/a/../b",
            b"/./a",
            b"/a\0",
            b"/a*\0",
            b"/[z-a]",
            b"/a[",
            b"/{a",
            b"/{a/b}",
            b"/[a/b]",
            b"/a\\",
            b"/\\./a",
            b"/\xff*",
            b"/{{{{{{{{{a}}}}}}}}}",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{} was accepted", crate::tree::escape(bad));
        }
        assert!(Pattern::parse(&[&b"/"[..], &[b'x'; 256]].concat()).is_err());
        assert!(Pattern::parse(&[&b"/*"[..], &[b'x'; 1024]].concat()).is_err());
        assert!(Pattern::parse("/**/a".repeat(17).as_bytes()).is_err());
        assert!(Pattern::parse("/**/a".repeat(16).as_bytes()).is_ok());
        assert!(Pattern::parse(b"/\xff\xfe/").is_ok());
    }

    #[test]
    fn a_backslash_makes_a_wildcard_a_name() {
        let pattern = Pattern::parse(b"/a\\*b/\\[x\\]").unwrap();
        assert!(pattern.is_literal());
        assert!(matches!(&pattern.steps[..], [Step::Name(a), Step::Name(b)] if a == b"a*b" && b == b"[x]"));
    }

    #[test]
    fn the_shortcut_agrees_with_globset() {
        for text in ["*", "a*", "*a", "a*b", "ab*ba", "*.", ".*"] {
            let fast = Glob::new(text.as_bytes()).unwrap();
            assert!(matches!(fast.matcher, Matcher::Ends { .. }));
            let slow = GlobBuilder::new(text).literal_separator(true).build().unwrap().compile_matcher();
            for name in ["a", "ab", "aba", "abba", "abcba", "b", ".", ".a", "a.", "a.b", "é"] {
                assert_eq!(fast.matches(name.as_bytes()), slow.is_match(name), "{text} on {name}");
            }
        }
    }
}
