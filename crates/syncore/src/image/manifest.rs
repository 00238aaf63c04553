//! The last member of an image: a line for each entry, and a digest over all lines.
//!
//! Why: zstd and tar notice that bytes are wrong, not that a file is missing or was put there later; and a person can
//! read it, and check single files by `b3sum`. What can go wrong: the writer and the reader make different lines of
//! one entry; so both make them here.

use std::io::{BufRead, BufReader, Read, Write};

use super::pax::time_text;
use super::tar::Member;
use crate::tree::{RelPath, escape};

/// The first line.
const TITLE: &str = "clonetool-image-manifest 1";

/// Longest line: the longest path, with every byte escaped, and what stands before it.
const LINE_LIMIT_BYTES: u64 = (4 << 17) + 1024;

/// How a line begins: an entry that is whole.
const WHOLE: u8 = b'=';
/// How a line begins: a file that changed while it was read.
const TORN: u8 = b'!';

/// Collects the lines while an image is written, compressed: those of a million entries are 200 MB.
pub(super) struct Lines {
    spool: zstd::Encoder<'static, Vec<u8>>,
    hasher: blake3::Hasher,
    length_bytes: u64,
    entries: u64,
    content_bytes: u64,
}

/// The finished lines.
pub(super) struct Finished {
    compressed: Vec<u8>,
    last_line: String,
    /// How long they are together.
    pub(super) length_bytes: u64,
    /// How many entries there are.
    pub(super) entries: u64,
    /// The lengths of all files.
    pub(super) content_bytes: u64,
    /// BLAKE3 over all lines but the last, which says it.
    pub(super) digest: [u8; 32],
}

impl Lines {
    /// Begins with the digest of what the image says of itself.
    pub(super) fn new(about: &[u8]) -> std::io::Result<Self> {
        let spool = zstd::Encoder::new(Vec::new(), 1)?;
        let mut lines =
            Self { spool, hasher: blake3::Hasher::new(), length_bytes: 0, entries: 0, content_bytes: 0 };
        lines.add(&about_line(about))?;
        Ok(lines)
    }

    /// Adds the line of a member, with its headers and the digest of what follows them.
    pub(super) fn entry(
        &mut self,
        member: &Member,
        headers: &[u8],
        content: &[u8; 32],
        torn: bool,
    ) -> std::io::Result<()> {
        self.entries += 1;
        self.content_bytes = self.content_bytes.saturating_add(member.entry.size_bytes);
        let mark = char::from(if torn { TORN } else { WHOLE });
        self.add(&format!("{mark}{}\n", entry_line(member, headers, content)))
    }

    fn add(&mut self, line: &str) -> std::io::Result<()> {
        self.length_bytes += line.len() as u64;
        self.hasher.update(line.as_bytes());
        self.spool.write_all(line.as_bytes())
    }

    /// Ends the list.
    pub(super) fn finish(self) -> std::io::Result<Finished> {
        let digest = *self.hasher.finalize().as_bytes();
        let last_line = total_line(self.entries, self.content_bytes, &digest);
        Ok(Finished {
            compressed: self.spool.finish()?,
            length_bytes: self.length_bytes + last_line.len() as u64,
            last_line,
            entries: self.entries,
            content_bytes: self.content_bytes,
            digest,
        })
    }
}

impl Finished {
    /// Writes all lines.
    pub(super) fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        std::io::copy(&mut zstd::Decoder::new(&self.compressed[..])?, out)?;
        out.write_all(self.last_line.as_bytes())
    }
}

/// What the entries of an archive were, to be held against its manifest.
pub(super) struct Expected {
    about: String,
    lines: Vec<[u8; 16]>,
    /// The lengths of all files.
    pub(super) content_bytes: u64,
}

impl Expected {
    pub(super) fn new(about: &[u8]) -> Self {
        Self { about: about_line(about), lines: Vec::new(), content_bytes: 0 }
    }

    /// Adds an entry as it was found.
    pub(super) fn entry(&mut self, member: &Member, headers: &[u8], content: &[u8; 32]) {
        self.content_bytes = self.content_bytes.saturating_add(member.entry.size_bytes);
        self.lines.push(short(entry_line(member, headers, content).as_bytes()));
    }

    /// How many entries there are.
    pub(super) fn entries(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Holds the manifest against what was found; gives its digest and the files that changed while they were read.
    pub(super) fn check(&self, manifest: &mut impl Read) -> Result<([u8; 32], Vec<RelPath>), String> {
        let mut hasher = blake3::Hasher::new();
        let mut manifest = BufReader::new(manifest);
        let mut line = Vec::new();
        let mut next = |line: &mut Vec<u8>| {
            line.clear();
            let mut limited = manifest.by_ref().take(LINE_LIMIT_BYTES);
            limited.read_until(b'\n', line).map_err(|error| super::truncated(&error))
        };
        next(&mut line)?;
        if line != self.about.as_bytes() {
            return Err("what it says of itself is not what its manifest has".to_owned());
        }
        hasher.update(&line);
        let mut torn = Vec::new();
        for expected in &self.lines {
            next(&mut line)?;
            hasher.update(&line);
            let (mark, rest) = line.split_first().unwrap_or((&0, &[]));
            let rest = rest.strip_suffix(b"\n").unwrap_or(rest);
            if !matches!(*mark, WHOLE | TORN) || short(rest) != *expected {
                return Err(format!("an entry is not as the manifest has it: {}", named(rest)));
            }
            if *mark == TORN {
                torn.extend(path_of(rest));
            }
        }
        let digest = *hasher.finalize().as_bytes();
        next(&mut line)?;
        if line != total_line(self.entries(), self.content_bytes, &digest).as_bytes() {
            return Err("its entries are not as many as its manifest has".to_owned());
        }
        if next(&mut line)? > 0 {
            return Err("its manifest goes on after its end".to_owned());
        }
        Ok((digest, torn))
    }
}

fn about_line(about: &[u8]) -> String {
    format!("{TITLE} about {}\n", blake3::hash(about))
}

fn total_line(entries: u64, content_bytes: u64, digest: &[u8; 32]) -> String {
    format!("total {entries} {content_bytes} {}\n", blake3::Hash::from_bytes(*digest))
}

/// Kind, mode, owner, group, length, time, BLAKE3 of the headers (their first half), BLAKE3 of what is stored, path.
fn entry_line(member: &Member, headers: &[u8], content: &[u8; 32]) -> String {
    let entry = &member.entry;
    let content = match member.stored_bytes {
        0 => "-".to_owned(),
        _ => blake3::Hash::from_bytes(*content).to_string(),
    };
    let headers = blake3::hash(headers).to_hex();
    format!(
        "{} {:04o} {} {} {} {} {} {content} {}",
        member.letter(),
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size_bytes,
        time_text(entry.mtime),
        headers.get(..32).unwrap_or_default(),
        escape(&[b"/", member.path.as_bytes()].concat()),
    )
}

fn short(line: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(line).as_bytes()[..16]);
    short
}

/// The escaped path at the end of a line; escaped paths hold blanks, what stands before them does not.
fn escaped_path(line: &[u8]) -> &[u8] {
    line.splitn(9, |b| *b == b' ').nth(8).unwrap_or_default()
}

/// The path of a line for a message: it may be any bytes.
fn named(line: &[u8]) -> String {
    // What is escaped already stays as it is; whatever is not gets no further either.
    let text = String::from_utf8_lossy(escaped_path(line)).into_owned();
    text.chars().filter(|c| !c.is_control()).take(1000).collect()
}

fn path_of(line: &[u8]) -> Option<RelPath> {
    RelPath::new(unescape(escaped_path(line).strip_prefix(b"/")?)?).ok()
}

/// Undoes [`escape`].
fn unescape(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        match (first, rest) {
            (b'\\', [b'\\', rest @ ..]) => {
                bytes.push(b'\\');
                text = rest;
            }
            (b'\\', [b'x', high, low, rest @ ..]) => {
                let digit = |b: u8| char::from(b).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                text = rest;
            }
            (b'\\', _) => return None,
            (byte, rest) => {
                bytes.push(*byte);
                text = rest;
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_escaped_can_be_had_back(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(unescape(escape(&bytes).as_bytes()), Some(bytes));
        }
    }
}
