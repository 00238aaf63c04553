//! A text file as its lines, each with the end that it had.
//!
//! Why: an edit changes the lines that it means to and no other byte. Files come with CRLF, without a newline at the
//! end, in Latin-1. What can go wrong: bytes that are no UTF-8; nothing here asks for text.

/// One line: its bytes, and how it ended: `\n`, `\r\n`, or nothing at the end of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) content: Vec<u8>,
    pub(crate) end: &'static [u8],
}

/// A file's lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lines(pub(crate) Vec<Line>);

impl Lines {
    /// Splits a file.
    pub(crate) fn of(content: &[u8]) -> Self {
        let lines = content.split_inclusive(|b| *b == b'\n').map(|line| {
            let (content, end): (&[u8], &'static [u8]) = if let Some(content) = line.strip_suffix(b"\r\n") {
                (content, b"\r\n")
            } else if let Some(content) = line.strip_suffix(b"\n") {
                (content, b"\n")
            } else {
                (line, b"")
            };
            Line { content: content.to_vec(), end }
        });
        Self(lines.collect())
    }

    /// The file again.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|line| [&line.content[..], line.end]).collect::<Vec<_>>().concat()
    }

    /// How lines of this file end.
    fn end(&self) -> &'static [u8] {
        self.0.first().map_or(b"\n", |line| if line.end == b"\r\n" { b"\r\n" } else { b"\n" })
    }

    /// Adds a line at the end, after one that now ends.
    pub(crate) fn push(&mut self, content: &[u8]) {
        self.insert(self.0.len(), content);
    }

    /// Adds a line before line `at`, counted from 0.
    pub(crate) fn insert(&mut self, at: usize, content: &[u8]) {
        let end = self.end();
        if at == self.0.len()
            && let Some(last) = self.0.last_mut()
            && last.end.is_empty()
        {
            last.end = end;
        }
        self.0.insert(at.min(self.0.len()), Line { content: content.to_vec(), end });
    }

    /// Puts what `change` answers in place of each line: other content, or none to drop the line.
    pub(crate) fn edit(&mut self, mut change: impl FnMut(&[u8]) -> Option<Vec<u8>>) {
        self.0.retain_mut(|line| match change(&line.content) {
            Some(content) => {
                line.content = content;
                true
            }
            None => false,
        });
    }
}

/// The fields of a line between blanks, as fstab(5) and its kin have them.
pub(crate) fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|b| matches!(b, b' ' | b'\t')).filter(|field| !field.is_empty()).collect()
}

/// Puts `value` in place of field `index` (from 0) and leaves all blanks as they are; the line as it is when it has no
/// such field.
pub(crate) fn with_field(line: &[u8], index: usize, value: &[u8]) -> Vec<u8> {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let (mut at, mut seen) = (0, 0);
    while at < line.len() {
        let start = at + line[at..].iter().position(|b| !blank(b)).unwrap_or(line.len() - at);
        let end = start + line[start..].iter().position(blank).unwrap_or(line.len() - start);
        if start < end && seen == index {
            return [&line[..start], value, &line[end..]].concat();
        }
        (at, seen) = (end, seen + 1);
    }
    line.to_vec()
}

/// Whether a line says nothing: blank, or a comment that begins with `mark`.
pub(crate) fn is_comment(line: &[u8], mark: u8) -> bool {
    line.iter().find(|b| !matches!(b, b' ' | b'\t')).is_none_or(|first| *first == mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_edited_stays_as_it_was() {
        let mut lines = Lines::of(b"a  b\r\n\xff\r\nlast");
        lines.edit(|line| Some(if line == b"a  b" { with_field(line, 1, b"c") } else { line.to_vec() }));
        assert_eq!(lines.to_bytes(), b"a  c\r\n\xff\r\nlast");
        lines.push(b"new");
        assert_eq!(lines.to_bytes(), b"a  c\r\n\xff\r\nlast\r\nnew\r\n");
        lines.edit(|line| (line != b"last").then(|| line.to_vec()));
        assert_eq!(lines.to_bytes(), b"a  c\r\n\xff\r\nnew\r\n");
    }

    #[test]
    fn a_field_is_found_between_any_blanks() {
        assert_eq!(with_field(b"  UUID=1\t/  ext4", 0, b"UUID=2"), b"  UUID=2\t/  ext4");
        assert_eq!(with_field(b"UUID=1\t/  ext4", 2, b"xfs"), b"UUID=1\t/  xfs");
        assert_eq!(with_field(b"a b", 5, b"x"), b"a b");
        assert_eq!(fields(b" a\t b "), [b"a", b"b"]);
        assert!(is_comment(b"", b'#') && is_comment(b" # x", b'#') && !is_comment(b" x", b'#'));
    }

    proptest! {
        #[test]
        fn splitting_loses_nothing(content: Vec<u8>) {
            prop_assert_eq!(Lines::of(&content).to_bytes(), content);
        }
    }
}
