//! The sender's side of a large file: whole, or as what the standby's basis does not have.
//!
//! Why: each piece is sent as soon as it is known, so that the receiver writes while the sender still looks. What can go
//! wrong: the file moves under the reader; what was sent then is taken back, and the file begins again.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use crate::delta::{
    BLOCK_BYTES, BlockSums, Extent, Matcher, REGION_LIMIT_BYTES, Region, RegionSignature, RegionSums,
    Segment, copy_pieces,
};
use crate::plan::Item;
use crate::scan::{OpenFile, READ_ATTEMPTS, Stability, extents, read_full};
use crate::session::refine::Refinements;
use crate::session::send::{DATA_BYTES, Lane};
use crate::session::stable::Sent;
use crate::wire::{Message, WireError};

/// A shorter stretch is not worth a patch.
const PATCH_FROM_BYTES: u64 = 3072;

/// How reading a file ended.
enum Outcome {
    Sent,
    /// It changed while it was read.
    Moved,
}

/// The inner result is the file's, the outer one the connection's.
type Both<T> = Result<std::io::Result<T>, WireError>;

impl Lane<'_> {
    pub(super) fn large(&mut self, number: u32, item: &Item, sums: &BlockSums) -> Result<(), WireError> {
        let mut sums = sums;
        let whole = BlockSums::default();
        for _ in 0..READ_ATTEMPTS {
            let read = self.open(&item.path).map_err(std::io::Error::from).and_then(|fd| {
                let before = Stability::of(fd.as_fd())?;
                let extents = extents(fd.as_fd(), before.size_bytes)?;
                Ok((fd, before, extents))
            });
            let outcome = match read {
                Ok((fd, before, extents)) => self.large_once(number, &fd, before, &extents, sums)?,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Outcome::Sent) => {
                    self.transfer.monitor.changed(&item.path, &item.change);
                    return Ok(());
                }
                Ok(Outcome::Moved) => sums = &whole,
                Err(error) => return self.abandon(number, item, error),
            }
        }
        self.abandon(number, item, "it changed each time while it was read; the standby keeps what it has")
    }

    fn large_once(
        &mut self,
        number: u32,
        fd: &OwnedFd,
        before: Stability,
        extents: &[Extent],
        sums: &BlockSums,
    ) -> Both<Outcome> {
        self.send(Message::Begin { item: number, size_bytes: before.size_bytes, mtime: before.mtime })?;
        let mut content = Content { source: OpenFile(fd.as_fd()), sent: Sent::default() };
        let read = if sums.length == 0 {
            self.send_whole(&mut content, extents, before.size_bytes)?
        } else {
            self.send_delta(number, &mut content, extents, before.size_bytes, sums)?
        };
        match read {
            Ok(()) => {}
            // It became shorter under our hands.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(Ok(Outcome::Moved)),
            Err(error) => return Ok(Err(error)),
        }
        match content.sent.finish(fd, &before, extents) {
            Ok(Some(digest)) => {
                self.send(Message::End(digest))?;
                Ok(Ok(Outcome::Sent))
            }
            Ok(None) => Ok(Ok(Outcome::Moved)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn send_whole(&mut self, content: &mut Content<'_>, extents: &[Extent], length: u64) -> Both<()> {
        let mut position = 0;
        for extent in extents {
            if extent.offset > position {
                self.send_hole(content, extent.offset - position)?;
            }
            if let Err(error) = self.send_data(content, extent.offset, extent.length)? {
                return Ok(Err(error));
            }
            position = extent.offset + extent.length;
        }
        if position < length {
            self.send_hole(content, length - position)?;
        }
        Ok(Ok(()))
    }

    fn send_hole(&mut self, content: &mut Content<'_>, length: u64) -> Result<(), WireError> {
        content.sent.hole(length);
        self.send(Message::Hole(length))
    }

    fn send_data(&mut self, content: &mut Content<'_>, offset: u64, length: u64) -> Both<()> {
        let (mut position, end) = (offset, offset + length);
        while position < end {
            let want = usize::try_from(end - position).unwrap_or(usize::MAX).min(DATA_BYTES);
            match content.read(position, want) {
                Ok(data) => self.send_read(content, data)?,
                Err(error) => return Ok(Err(error)),
            }
            position += want as u64;
        }
        Ok(Ok(()))
    }

    fn send_read(&mut self, content: &mut Content<'_>, data: Vec<u8>) -> Result<(), WireError> {
        content.sent.data(&data);
        self.transfer.monitor.transferred(data.len() as u64);
        self.send(Message::Data(data))
    }

    /// Sends the segments as they are found. Those behind a gap that is asked about wait for the answer, while more are
    /// looked for.
    fn send_delta(
        &mut self,
        number: u32,
        content: &mut Content<'_>,
        extents: &[Extent],
        length: u64,
        sums: &BlockSums,
    ) -> Both<()> {
        let source = content.source;
        let mut segments = Matcher::new(&source, extents, length, sums);
        let mut ahead = Refinements::new(number);
        let mut waiting: VecDeque<Segment> = VecDeque::new();
        loop {
            let found = match segments.next().transpose() {
                Ok(found) => found,
                Err(error) => {
                    ahead.drain(self)?;
                    return Ok(Err(error));
                }
            };
            let ended = found.is_none();
            if let Some(mut segment) = found {
                if self.transfer.in_place {
                    keep_ahead(&mut segment);
                }
                if let Some(region) = question(&segment) {
                    ahead.ask(region, self)?;
                }
                ahead.looked(length_of(&segment), self)?;
                waiting.push_back(segment);
            }
            while let Some(segment) = waiting.front() {
                let region = question(segment);
                if region.is_some() && !ended && !ahead.is_due() {
                    break;
                }
                let Some(segment) = waiting.pop_front() else { break };
                let answer = match region {
                    Some(region) => Some((region, ahead.next(self)?)),
                    None => None,
                };
                if let Err(error) = self.send_segment(content, segment, answer, sums)? {
                    ahead.drain(self)?;
                    return Ok(Err(error));
                }
            }
            if ended {
                return Ok(Ok(()));
            }
        }
    }

    fn send_segment(
        &mut self,
        content: &mut Content<'_>,
        segment: Segment,
        answer: Option<(Region, RegionSums)>,
        sums: &BlockSums,
    ) -> Both<()> {
        match segment {
            Segment::Copy { basis, length, hashes, .. } => {
                self.transfer.monitor.transferred(length);
                for ((_, piece), hash) in copy_pieces(basis, length).zip(&hashes) {
                    content.sent.piece(piece, hash);
                }
                self.send(Message::Copy(basis, length))?;
                Ok(Ok(()))
            }
            Segment::Hole { length } => {
                self.send_hole(content, length)?;
                Ok(Ok(()))
            }
            Segment::Gap { offset, length, .. } => match (answer, &sums.fine) {
                (Some((region, RegionSums::Pages(pages))), _) if region.by_page => {
                    let data = match content.read_gap(offset, length) {
                        Ok(data) => data,
                        Err(error) => return Ok(Err(error)),
                    };
                    let runs = pages.compare(&data).map_err(|e| WireError::Protocol(e.to_string()))?;
                    self.send_pages(content, &data, region.offset, &runs)?;
                    Ok(Ok(()))
                }
                (Some((region, RegionSums::Signature(signature))), _) if !region.by_page => {
                    self.send_patch(content, (offset, length), region, &signature)
                }
                (Some(_), _) => Err(WireError::Protocol("another answer than was asked for".to_owned())),
                // It covers the whole of a short basis; in place, that is not there any more.
                (None, Some(fine))
                    if !self.transfer.in_place
                        && (PATCH_FROM_BYTES..=REGION_LIMIT_BYTES as u64).contains(&length) =>
                {
                    let whole = u32::try_from(sums.length).unwrap_or(u32::MAX);
                    let region = Region { offset: 0, length: whole, by_page: false };
                    self.send_patch(content, (offset, length), region, fine)
                }
                (None, _) => self.send_data(content, offset, length),
            },
        }
    }

    /// Sends the pages that differ, and has the others copied.
    fn send_pages(
        &mut self,
        content: &mut Content<'_>,
        data: &[u8],
        basis: u64,
        runs: &[(usize, usize, bool)],
    ) -> Result<(), WireError> {
        for (at, length, same) in runs {
            let run = &data[*at..*at + *length];
            if !same {
                run.chunks(DATA_BYTES).try_for_each(|data| self.send_read(content, data.to_vec()))?;
                continue;
            }
            let from = basis + *at as u64;
            let mut rest = run;
            for (_, piece) in copy_pieces(from, run.len() as u64) {
                let (piece, after) = rest.split_at(usize::try_from(piece).unwrap_or(BLOCK_BYTES));
                content.sent.data(piece);
                rest = after;
            }
            self.transfer.monitor.transferred(run.len() as u64);
            self.send(Message::Copy(from, run.len() as u64))?;
        }
        Ok(())
    }

    fn send_patch(
        &mut self,
        content: &mut Content<'_>,
        (offset, length): (u64, u64),
        region: Region,
        signature: &RegionSignature,
    ) -> Both<()> {
        let data = match content.read_gap(offset, length) {
            Ok(data) => data,
            Err(error) => return Ok(Err(error)),
        };
        let delta = signature.diff(&data).map_err(|e| WireError::Protocol(e.to_string()))?;
        match delta {
            // A frame must hold it; what is that long has little in common with the region anyway.
            Some(delta) if delta.len() <= 2 * DATA_BYTES => {
                content.sent.data(&data);
                self.transfer.monitor.transferred(length);
                let made = u32::try_from(length).unwrap_or(u32::MAX);
                self.send(Message::Patch(region.offset, region.length, made, delta))?;
            }
            _ => data.chunks(DATA_BYTES).try_for_each(|data| self.send_read(content, data.to_vec()))?,
        }
        Ok(Ok(()))
    }
}

/// A file while it is sent.
struct Content<'a> {
    source: OpenFile<'a>,
    sent: Sent,
}

impl Content<'_> {
    /// Reads exactly so many bytes.
    fn read(&self, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
        let mut data = vec![0; length];
        if read_full(self.source.0, &mut data, offset)? < length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(data)
    }

    /// Reads a gap that is asked about; none is longer than a region may be.
    fn read_gap(&self, offset: u64, length: u64) -> std::io::Result<Vec<u8>> {
        self.read(offset, usize::try_from(length).unwrap_or(0).min(REGION_LIMIT_BYTES))
    }
}

/// What the receiver is asked about for a segment.
fn question(segment: &Segment) -> Option<Region> {
    let Segment::Gap { length, region: Some((offset, bytes)), .. } = segment else { return None };
    Some(Region { offset: *offset, length: *bytes, by_page: u64::from(*bytes) == *length })
}

fn length_of(segment: &Segment) -> u64 {
    match segment {
        Segment::Copy { length, .. } | Segment::Gap { length, .. } | Segment::Hole { length } => *length,
    }
}

/// Turns a copy from before its own place into a gap: in place, that part of the basis is gone by then.
fn keep_ahead(segment: &mut Segment) {
    match *segment {
        Segment::Copy { offset, basis, length, .. } if basis < offset => {
            *segment = Segment::Gap { offset, length, region: None };
        }
        Segment::Gap { offset, length, region: Some((basis, _)) } if basis < offset => {
            *segment = Segment::Gap { offset, length, region: None };
        }
        _ => {}
    }
}
