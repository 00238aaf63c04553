//! Byte paths below a root, and the one order in which trees are listed.
//!
//! Why: file names are bytes, and a path that reaches a privileged `*at` call must be incapable of naming
//! anything outside its root. So the only way to a [`RelPath`] is through validation: no empty component, no
//! `.` or `..`, no NUL, no component over 255 bytes. What can go wrong: comparing paths as plain byte strings
//! sorts `a.b` between `a` and `a/c`; [`RelPath`]'s order keeps a directory directly before its descendants.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest file name in bytes (`NAME_MAX`, limits.h(0P)).
pub const NAME_MAX_BYTES: usize = 255;

/// Longest path accepted from a peer, in bytes; far above `PATH_MAX`, because trees may be deeper than that.
pub const PATH_LIMIT_BYTES: usize = 1 << 17;

/// A path relative to a root: components joined by `/`, no leading or trailing slash; the root itself is empty.
///
/// ```
/// use syncore::tree::RelPath;
/// let path = RelPath::new("etc/init.d")?;
/// assert_eq!(path.name(), Some(&b"init.d"[..]));
/// assert!(RelPath::new("../etc/shadow").is_err());
/// # Ok::<(), syncore::tree::PathError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelPath(#[serde(with = "serde_bytes")] Vec<u8>);

/// Why bytes are no path below a root.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathError {
    /// An empty component: `//`, or a slash at either end.
    #[error("the path has an empty component")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("the path has a '.' or '..' component")]
    DotComponent,
    /// A NUL byte.
    #[error("the path has a NUL byte")]
    Nul,
    /// A component above [`NAME_MAX_BYTES`].
    #[error("a path component has {length_bytes} bytes, the limit is {NAME_MAX_BYTES}")]
    NameTooLong {
        /// Its length.
        length_bytes: usize,
    },
    /// A path above [`PATH_LIMIT_BYTES`].
    #[error("the path has {length_bytes} bytes, the limit is {PATH_LIMIT_BYTES}")]
    TooLong {
        /// Its length.
        length_bytes: usize,
    },
}

/// Checks one path component.
///
/// # Errors
/// [`PathError`] when `name` is empty, `.`, `..`, too long, or holds a NUL or a slash.
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::EmptyComponent),
        b"." | b".." => Err(PathError::DotComponent),
        _ if name.len() > NAME_MAX_BYTES => Err(PathError::NameTooLong { length_bytes: name.len() }),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ if name.contains(&b'/') => Err(PathError::EmptyComponent),
        _ => Ok(()),
    }
}

impl RelPath {
    /// The root itself.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Validates `bytes` as a path below a root.
    ///
    /// # Errors
    /// [`PathError`], see there.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let path = Self(bytes.into());
        path.check()?;
        Ok(path)
    }

    /// Takes an absolute path, as rules and users write it, and strips the slashes around it.
    ///
    /// # Errors
    /// [`PathError`] as for [`RelPath::new`].
    pub fn from_absolute(bytes: &[u8]) -> Result<Self, PathError> {
        let start = bytes.iter().position(|b| *b != b'/').unwrap_or(bytes.len());
        let end = bytes.iter().rposition(|b| *b != b'/').map_or(start, |last| last + 1);
        Self::new(&bytes[start..end])
    }

    /// Checks a path that came off the wire by deserialisation, which cannot validate.
    ///
    /// # Errors
    /// [`PathError`], see there.
    pub fn check(&self) -> Result<(), PathError> {
        if self.0.len() > PATH_LIMIT_BYTES {
            return Err(PathError::TooLong { length_bytes: self.0.len() });
        }
        self.components().try_for_each(check_name)
    }

    /// Whether this is the root itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components from the root down; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|_| !self.0.is_empty())
    }

    /// The path of `name` in this directory. `name` is trusted to be a valid component: it comes from the
    /// kernel or was checked by [`check_name`].
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !self.0.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// The last component; none for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The directory that holds this path; none for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// Whether this path is `ancestor` or lies below it.
    #[must_use]
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        ancestor.is_root()
            || self.0 == ancestor.0
            || (self.0.starts_with(&ancestor.0) && self.0.get(ancestor.0.len()) == Some(&b'/'))
    }

    /// The number of components.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().count()
    }
}

/// The order of paths: a directory directly before everything below it, so bytes compare as numbers and `/` comes before
/// all others.
#[must_use]
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    let differing = a.iter().zip(b).find(|(x, y)| x != y);
    differing.map_or_else(|| a.len().cmp(&b.len()), |(x, y)| rank(*x).cmp(&rank(*y)))
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        path_order(&self.0, &other.0)
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Writes bytes for a terminal or a log: printable UTF-8 as it is, everything else as `\xNN`. A file name is
/// chosen by whoever owns the directory, so control characters (C0, C1, DEL) and invalid UTF-8 never pass.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            // Bidirectional overrides reorder what an administrator reads; they are escaped like controls.
            let reorders =
                matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
            if c == '\\' {
                text.push_str("\\\\");
            } else if c.is_control() || reorders {
                let mut buffer = [0; 4];
                for b in c.encode_utf8(&mut buffer).bytes() {
                    let _ = write!(text, "\\x{b:02x}");
                }
            } else {
                text.push(c);
            }
        }
        for b in chunk.invalid() {
            let _ = write!(text, "\\x{b:02x}");
        }
    }
    text
}

/// Reads what [`escape`] wrote; none where a backslash begins nothing that it writes.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (kind, after) = rest.split_first()?;
        rest = after;
        if *kind == b'\\' {
            bytes.push(b'\\');
            continue;
        }
        let digits = rest.get(..2).filter(|_| *kind == b'x')?;
        rest = &rest[2..];
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
    }
    Some(bytes)
}

impl fmt::Display for RelPath {
    /// With a leading slash, escaped for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", escape(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_every_name_that_could_leave_the_root() {
        for bad in ["..", "a/..", "../a", "a//b", "/a", "a/", ".", "a/./b", "a\0b"] {
            assert!(RelPath::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(RelPath::new([b'x'; 256]).is_err());
        assert!(RelPath::new([b'x'; 255]).is_ok());
        assert!(RelPath::new([0xff, b'/', 0xfe]).is_ok());
    }

    #[test]
    fn a_directory_sorts_directly_before_its_descendants() {
        let mut paths: Vec<RelPath> = ["a.b", "a/c", "a", "a/b/z", "a/b", "b", "a!"]
            .map(|p| RelPath::new(p).unwrap_or_default())
            .to_vec();
        paths.sort();
        let sorted: Vec<String> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(sorted, ["/a", "/a/b", "/a/b/z", "/a/c", "/a!", "/a.b", "/b"]);
    }

    #[test]
    fn control_characters_and_overrides_never_reach_a_terminal() {
        assert_eq!(escape(b"a\x1b[31m\xffb\n"), "a\\x1b[31m\\xffb\\x0a");
        assert_eq!(escape("\u{9b}\u{202e}é\\".as_bytes()), "\\xc2\\x9b\\xe2\\x80\\xaeé\\\\");
    }

    #[test]
    fn what_was_escaped_can_be_read_again() {
        for bytes in [&b"etc/a b"[..], b"a\x1b\xff\\x41\n", "é\u{202e}".as_bytes(), b""] {
            assert_eq!(unescape(&escape(bytes)).unwrap(), bytes);
        }
        for bad in ["\\", "\\x", "\\x4", "\\xzz", "\\n"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    #[test]
    fn ancestry_is_by_component() {
        let path = |p: &str| RelPath::new(p).unwrap_or_default();
        assert!(path("a/b").starts_with(&path("a")));
        assert!(!path("ab").starts_with(&path("a")));
        assert!(path("ab").starts_with(&RelPath::root()));
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(RelPath::root()));
    }
}
