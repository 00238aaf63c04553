//! Reads an archive to its end, checks it, and hands what is in it to whoever wants it.
//!
//! Why: restoring, listing and checking are the same reading. What can go wrong: an archive that was made to do harm.
//! A path must be one below the root, come once, and lie in a directory that came before it; another name must be of
//! a file that came before it; so there is no link to go through and nothing above the root to reach. Lengths are
//! counted down as bytes arrive and never taken to size memory.

use std::collections::HashMap;
use std::io::{BufReader, Read};

use super::about::{ABOUT_LIMIT_BYTES, About};
use super::manifest::Expected;
use super::sparse::decode_map;
use super::tar::{BLOCK_BYTES, Member, TarError};
use super::write::{own_member, own_path};
use super::{Contents, ENTRIES_LIMIT, ImageError, OWN_DIRECTORY, truncated, unless_cancelled};
use crate::monitor::Monitor;
use crate::tree::{Digest, Entry, Kind, RelPath, path_hash};

/// Bytes of content handed on at once.
const PIECE_BYTES: usize = 128 * 1024;

/// What zstd may use for its window, as a power of two: its own limit for who does not ask for more.
const WINDOW_LOG: u32 = 27;

/// How many entries are read before the monitor hears of them.
const ENTRIES_AT_ONCE: u64 = 64;

/// Takes what is in an archive, in its order.
pub(super) trait Sink {
    /// A member begins.
    fn begin(&mut self, _member: &Member) -> Result<(), ImageError> {
        Ok(())
    }
    /// The next bytes of the file that began.
    fn data(&mut self, _path: &RelPath, _bytes: &[u8]) -> Result<(), ImageError> {
        Ok(())
    }
    /// The next bytes of the file that began are a hole.
    fn hole(&mut self, _path: &RelPath, _length: u64) -> Result<(), ImageError> {
        Ok(())
    }
    /// The member is whole.
    fn end(&mut self, _member: &Member) -> Result<(), ImageError> {
        Ok(())
    }
}

/// Takes nothing: the archive is only checked.
pub(super) struct Nothing;

impl Sink for Nothing {}

/// Hands paths and metadata to a function.
pub(super) struct Listing<'a>(pub(super) &'a mut dyn FnMut(&RelPath, &Entry, Option<&RelPath>));

impl Sink for Listing<'_> {
    fn begin(&mut self, member: &Member) -> Result<(), ImageError> {
        (self.0)(&member.path, &member.entry, member.link_to.as_ref());
        Ok(())
    }
}

fn damaged(reason: impl std::fmt::Display) -> ImageError {
    ImageError::Damaged { reason: reason.to_string() }
}

fn no_image(reason: impl std::fmt::Display) -> ImageError {
    ImageError::NoImage { reason: reason.to_string() }
}

/// An archive of which the beginning was read: it is an image.
pub(super) struct Begun<'a, R: Read> {
    stream: zstd::Decoder<'static, BufReader<&'a mut R>>,
    about: About,
    text: Vec<u8>,
}

/// Reads the beginning of the archive in `input`.
pub(super) fn begin<R: Read>(input: &mut R) -> Result<Begun<'_, R>, ImageError> {
    let mut stream = zstd::Decoder::new(input).map_err(no_image)?.single_frame();
    stream.window_log_max(WINDOW_LOG).map_err(no_image)?;
    let (about, text) = read_about(&mut stream)?;
    Ok(Begun { stream, about, text })
}

/// Reads the archive in `input` to its end; what it gives is checked only when this returns.
pub(super) fn read(
    input: &mut impl Read,
    sink: &mut dyn Sink,
    monitor: &dyn Monitor,
) -> Result<Contents, ImageError> {
    read_on(begin(input)?, sink, monitor)
}

/// As [`read`], of an archive that was begun.
pub(super) fn read_on<R: Read>(
    begun: Begun<'_, R>,
    sink: &mut dyn Sink,
    monitor: &dyn Monitor,
) -> Result<Contents, ImageError> {
    let Begun { mut stream, about, text } = begun;
    let mut headers = Vec::new();
    let mut checked = Checked { expected: Expected::new(&text), seen: HashMap::new() };
    let mut buffer = vec![0; PIECE_BYTES];
    let mut unreported = 0;
    loop {
        unless_cancelled(monitor)?;
        let member = Member::decode(&mut stream, &mut headers).map_err(|error| checked.after_last(&error))?;
        let Some(member) = member else { return Err(damaged("it ends without a manifest")) };
        if member.path == own_path("manifest") {
            if member != own_member("manifest", member.stored_bytes, &about) {
                return Err(damaged("its manifest is no plain file"));
            }
            monitor.scanned(unreported);
            let (digest, torn) = finish(stream, &checked.expected, member.stored_bytes)?;
            let (entries, content_bytes) = (checked.expected.entries(), checked.expected.content_bytes);
            return Ok(Contents { about, entries, content_bytes, digest, torn });
        }
        checked.admit(&member)?;
        sink.begin(&member)?;
        let broken = |error: TarError| damaged(format!("{}: {error}", member.path));
        let mut content = Content { stream: &mut stream, buffer: &mut buffer, hasher: blake3::Hasher::new() };
        content.read(&member, sink, monitor, &broken)?;
        let digest = *content.hasher.finalize().as_bytes();
        skip_padding(&mut stream, member.stored_bytes).map_err(broken)?;
        checked.expected.entry(&member, &headers, &digest);
        sink.end(&member)?;
        unreported += 1;
        if unreported == ENTRIES_AT_ONCE {
            monitor.scanned(std::mem::take(&mut unreported));
        }
    }
}

/// Reads the first member, by which an image is known.
fn read_about(stream: &mut impl Read) -> Result<(About, Vec<u8>), ImageError> {
    let member = Member::decode(stream, &mut Vec::new()).map_err(no_image)?;
    let member = member.filter(|member| member.path == own_path("about"));
    let member = member.ok_or_else(|| no_image("it does not begin with what it is of"))?;
    if member.stored_bytes > ABOUT_LIMIT_BYTES {
        return Err(no_image("what it says of itself is too long"));
    }
    let mut text = Vec::new();
    stream.take(member.stored_bytes).read_to_end(&mut text).map_err(|error| damaged(truncated(&error)))?;
    let about = About::decode(&text).ok_or_else(|| no_image("it is of another version, or none"))?;
    if member != own_member("about", text.len() as u64, &about) {
        return Err(no_image("what it says of itself is no plain file"));
    }
    skip_padding(stream, member.stored_bytes).map_err(damaged)?;
    Ok((about, text))
}

/// Reads the manifest and what must be, and must not be, behind it.
fn finish<R: Read>(
    mut stream: zstd::Decoder<'static, BufReader<&mut R>>,
    expected: &Expected,
    length: u64,
) -> Result<([u8; 32], Vec<RelPath>), ImageError> {
    let mut manifest = stream.by_ref().take(length);
    let checked = expected.check(&mut manifest).map_err(damaged)?;
    if manifest.limit() > 0 {
        return Err(damaged("its manifest is too short"));
    }
    skip_padding(&mut stream, length).map_err(damaged)?;
    if Member::decode(&mut stream, &mut Vec::new()).map_err(damaged)?.is_some() {
        return Err(damaged("something follows its manifest"));
    }
    // Reading on to the end of the stream has zstd check its own sum.
    let mut rest = [0];
    let more = |result: std::io::Result<usize>| result.map_err(|error| damaged(truncated(&error)));
    if more(stream.read(&mut rest))? > 0 || more(stream.finish().read(&mut rest))? > 0 {
        return Err(damaged("something follows its end"));
    }
    Ok(checked)
}

fn skip_padding(stream: &mut impl Read, length: u64) -> Result<(), TarError> {
    let rest = length.next_multiple_of(BLOCK_BYTES as u64) - length;
    let mut padding = [0; BLOCK_BYTES];
    let padding = &mut padding[..usize::try_from(rest).unwrap_or(0)];
    stream.read_exact(padding)?;
    if padding.iter().any(|b| *b != 0) { Err(TarError::Form) } else { Ok(()) }
}

/// What was found so far.
struct Checked {
    expected: Expected,
    /// Which paths there are, and whether each is a directory.
    seen: HashMap<Digest, bool>,
}

impl Checked {
    /// Refuses what no image has.
    fn admit(&mut self, member: &Member) -> Result<(), ImageError> {
        let path = &member.path;
        let refuse = |reason: &str| Err(damaged(format!("{path}: {reason}")));
        if self.expected.entries() >= ENTRIES_LIMIT {
            return refuse("more entries than an image may have");
        }
        if path.components().next() == Some(OWN_DIRECTORY) {
            return refuse("it is where an image has what it says of itself");
        }
        let is_directory = member.entry.kind == Kind::Directory;
        let known = |path: &RelPath| self.seen.get(&path_hash(path)).copied();
        match path.parent() {
            None if !self.seen.is_empty() => return refuse("the root comes twice"),
            Some(parent) if known(&parent) != Some(true) => {
                return refuse("the directory it is in did not come before it");
            }
            _ => {}
        }
        if let Some(leader) = &member.link_to
            && known(leader) != Some(false)
        {
            return refuse("what it is another name of did not come before it");
        }
        if self.seen.insert(path_hash(path), is_directory).is_some() {
            return refuse("it comes twice");
        }
        Ok(())
    }

    fn after_last(&self, error: &TarError) -> ImageError {
        damaged(format!("after {} entries: {error}", self.expected.entries()))
    }
}

/// The content of one member.
struct Content<'a, R> {
    stream: &'a mut R,
    buffer: &'a mut [u8],
    hasher: blake3::Hasher,
}

impl<R: Read> Content<'_, R> {
    fn read(
        &mut self,
        member: &Member,
        sink: &mut dyn Sink,
        monitor: &dyn Monitor,
        broken: &dyn Fn(TarError) -> ImageError,
    ) -> Result<(), ImageError> {
        let path = &member.path;
        if !member.sparse {
            return self.data(path, member.stored_bytes, sink, monitor, broken);
        }
        let size_bytes = member.entry.size_bytes;
        let extents =
            decode_map(self.stream, size_bytes, member.stored_bytes, &mut self.hasher).map_err(broken)?;
        let mut position = 0;
        for extent in extents {
            if extent.offset > position {
                sink.hole(path, extent.offset - position)?;
            }
            self.data(path, extent.length, sink, monitor, broken)?;
            position = extent.offset + extent.length;
        }
        if position < size_bytes { sink.hole(path, size_bytes - position) } else { Ok(()) }
    }

    fn data(
        &mut self,
        path: &RelPath,
        mut left: u64,
        sink: &mut dyn Sink,
        monitor: &dyn Monitor,
        broken: &dyn Fn(TarError) -> ImageError,
    ) -> Result<(), ImageError> {
        while left > 0 {
            unless_cancelled(monitor)?;
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let piece = &mut self.buffer[..want];
            self.stream.read_exact(piece).map_err(|error| broken(error.into()))?;
            self.hasher.update(piece);
            sink.data(path, piece)?;
            left -= want as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
