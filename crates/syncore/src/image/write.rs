//! Writes an archive: members one after the other, the manifest last, all of it one zstd stream.

use std::io::{self, Write};

use super::about::About;
use super::manifest::Lines;
use super::tar::{BLOCK_BYTES, Member};
use super::{Contents, OWN_DIRECTORY};
use crate::tree::{Entry, Kind, RelPath, Timestamp};

/// An archive that is being written.
pub(super) struct Archive<W: Write> {
    out: zstd::Encoder<'static, W>,
    about: About,
    lines: Lines,
    torn: Vec<RelPath>,
}

/// The content of one member that is being written.
pub(super) struct Content<'a, W: Write> {
    archive: &'a mut Archive<W>,
    member: &'a Member,
    headers: Vec<u8>,
    hasher: blake3::Hasher,
    /// How many bytes are left to write.
    pub(super) left_bytes: u64,
}

impl<W: Write> Archive<W> {
    /// Begins an archive; level and threads are zstd's.
    pub(super) fn new(out: W, about: About, level: i32) -> io::Result<Self> {
        let mut out = zstd::Encoder::new(out, level)?;
        out.include_checksum(true)?;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        out.multithread(u32::try_from(threads).unwrap_or(1))?;
        let text = about.encode();
        let lines = Lines::new(text.as_bytes())?;
        own(&mut out, &about, "about", text.len() as u64, |out| out.write_all(text.as_bytes()))?;
        Ok(Self { out, about, lines, torn: Vec::new() })
    }

    /// Adds a member; what it stores is written to what is given back.
    pub(super) fn member<'a>(&'a mut self, member: &'a Member) -> io::Result<Content<'a, W>> {
        let headers = member.encode();
        self.out.write_all(&headers)?;
        let left_bytes = member.stored_bytes;
        Ok(Content { archive: self, member, headers, hasher: blake3::Hasher::new(), left_bytes })
    }

    /// Ends the archive and says what is in it.
    pub(super) fn finish(self) -> io::Result<(W, Contents)> {
        let Self { mut out, about, lines, torn } = self;
        let lines = lines.finish()?;
        own(&mut out, &about, "manifest", lines.length_bytes, |out| lines.write(out))?;
        out.write_all(&[0; 2 * BLOCK_BYTES])?;
        let (entries, content_bytes, digest) = (lines.entries, lines.content_bytes, lines.digest);
        let mut out = out.finish()?;
        out.flush()?;
        Ok((out, Contents { about, entries, content_bytes, digest, torn }))
    }
}

/// Writes a member of our own, which is in no manifest.
fn own<W: Write>(
    out: &mut zstd::Encoder<'static, W>,
    about: &About,
    name: &str,
    length: u64,
    content: impl FnOnce(&mut zstd::Encoder<'static, W>) -> io::Result<()>,
) -> io::Result<()> {
    out.write_all(&own_member(name, length, about).encode())?;
    content(out)?;
    pad(out, length)
}

fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    let rest = length.next_multiple_of(BLOCK_BYTES as u64) - length;
    out.write_all(&[0; BLOCK_BYTES][..usize::try_from(rest).unwrap_or(0)])
}

impl<W: Write> Content<'_, W> {
    /// Adds bytes, as many as there is room for.
    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let taken = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(bytes.len());
        self.left_bytes -= taken as u64;
        self.hasher.update(&bytes[..taken]);
        self.archive.out.write_all(&bytes[..taken])
    }

    /// Ends the member; what is missing is zeros, and it counts as torn then.
    pub(super) fn finish(mut self, torn: bool) -> io::Result<()> {
        let torn = torn || self.left_bytes > 0;
        while self.left_bytes > 0 {
            self.data(&[0; 16 * 1024])?;
        }
        pad(&mut self.archive.out, self.member.stored_bytes)?;
        if torn {
            self.archive.torn.push(self.member.path.clone());
        }
        let content = *self.hasher.finalize().as_bytes();
        self.archive.lines.entry(self.member, &self.headers, &content, torn)
    }
}

/// The member `name` in our own directory.
pub(super) fn own_member(name: &str, length: u64, about: &About) -> Member {
    let seconds = i64::try_from(about.created_seconds).unwrap_or(0);
    let entry = Entry {
        mode: 0o600,
        size_bytes: length,
        mtime: Timestamp { seconds, nanoseconds: 0 },
        ..Entry::new(Kind::File)
    };
    Member { stored_bytes: length, ..Member::bare(own_path(name), entry) }
}

/// The path `name` in our own directory.
pub(super) fn own_path(name: &str) -> RelPath {
    RelPath::root().join(OWN_DIRECTORY).join(name.as_bytes())
}
