//! The sending half of a connection: compresses, frames and writes.
//!
//! Why: who sends compresses, so that this work spreads over threads; the content of each lane is one compressed stream.
//! What can go wrong: a peer that does not read (a watchdog holds each piece that is written to the deadline), and half a
//! frame, after which nothing can be said any more.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::compress::StreamEncoder;
use super::frame::{
    COMPRESSED, CONTENT_LANES, CONTROL, FRAME_LIMIT_BYTES, HEADER_BYTES, STREAMED, Traffic, put_header,
};
use super::incoming::CANCEL_INTERVAL;
use super::message::Message;
use super::state::State;
use super::{Compression, WireError};

/// Bytes handed to the stream at once: a pipe takes all of them or none, so this is what progress is measured in.
const WRITE_BYTES: usize = 64 << 10;

/// What compresses the content of one lane.
#[derive(Default)]
struct Packer {
    encoder: Option<StreamEncoder>,
    packed: Vec<u8>,
}

/// The stream while it is of use.
struct Open {
    stream: Box<dyn Write + Send>,
    /// From when on the rate allows the next frame.
    free_at: Instant,
}

struct StreamWriter {
    writer: Mutex<Option<Open>>,
    /// One for each content lane. Held from the compression to the end of the write, for the order of the one is that of
    /// the other.
    packers: [Mutex<Packer>; CONTENT_LANES as usize],
    state: Arc<State>,
    traffic: Arc<Traffic>,
    bytes_per_second: Option<u64>,
}

fn thread_failed<T>(_: T) -> WireError {
    WireError::Lost("a thread failed".to_owned())
}

impl StreamWriter {
    /// Writes a frame, whose header is made here, with the payload as the next part of the lane's compressed content.
    fn write_streamed(&self, frame: &[u8], lane: u8, compression: Compression) -> Result<(), WireError> {
        let lost = |e: std::io::Error| WireError::Protocol(e.to_string());
        let packer = &self.packers[usize::from(lane) - 1];
        let mut packer = packer.lock().map_err(thread_failed)?;
        let Packer { encoder, packed } = &mut *packer;
        let encoder = match encoder {
            Some(encoder) => encoder,
            none => none.insert(StreamEncoder::new(compression.fixed_level()).map_err(lost)?),
        };
        packed.clear();
        packed.resize(HEADER_BYTES, 0);
        encoder.compress(&frame[HEADER_BYTES..], packed).map_err(lost)?;
        encoder.written(self.write(packed, lane, STREAMED)?);
        Ok(())
    }

    /// Writes a frame, whose header is made here; says how long the stream took.
    fn write(&self, frame: &mut [u8], lane: u8, flags: u8) -> Result<Duration, WireError> {
        put_header(frame, lane, flags);
        let mut writer = self.writer.lock().map_err(thread_failed)?;
        let Open { stream, free_at } = writer.as_mut().ok_or_else(|| self.state.reason("it is closed"))?;
        // Holding the lock while waiting is what slows the other lanes, too.
        while let Some(left) = free_at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.state.aborted.load(Ordering::Relaxed) {
                return Err(self.state.reason("it was cut on this side"));
            }
            std::thread::sleep(left.min(CANCEL_INTERVAL));
        }
        let started = Instant::now();
        if let Some(rate) = self.bytes_per_second {
            *free_at = started + Duration::from_secs_f64(frame.len() as f64 / rate.max(1) as f64);
        }
        if let Err(error) = self.write_pieces(stream, frame) {
            // Half a frame may be out; whatever followed it would be nonsense to the peer.
            *writer = None;
            return Err(self.state.reason(&error.to_string()));
        }
        self.traffic.sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Ok(started.elapsed())
    }

    fn write_pieces(&self, stream: &mut dyn Write, bytes: &[u8]) -> std::io::Result<()> {
        let result = bytes.chunks(WRITE_BYTES).try_for_each(|piece| {
            if self.state.aborted.load(Ordering::Relaxed) {
                return Err(std::io::Error::other("it was cut on this side"));
            }
            self.state.writing_since.store(self.state.now().max(1), Ordering::Relaxed);
            stream.write_all(piece)
        });
        let result = result.and_then(|()| stream.flush());
        self.state.writing_since.store(0, Ordering::Relaxed);
        result
    }
}

enum Way {
    Stream(Arc<StreamWriter>),
    Memory(Vec<SyncSender<Message>>),
}

/// The sending half; clone one for each thread that sends.
pub struct Outgoing {
    way: Way,
    compression: Compression,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    encoded: Vec<u8>,
}

impl Clone for Outgoing {
    fn clone(&self) -> Self {
        let way = match &self.way {
            Way::Stream(writer) => Way::Stream(Arc::clone(writer)),
            Way::Memory(lanes) => Way::Memory(lanes.clone()),
        };
        Self { way, compression: self.compression, compressor: None, encoded: Vec::new() }
    }
}

impl Outgoing {
    /// Sends over a byte stream, at most so many bytes a second.
    pub(super) fn over(
        stream: Box<dyn Write + Send>,
        traffic: Arc<Traffic>,
        state: Arc<State>,
        compression: Compression,
        bytes_per_second: Option<u64>,
    ) -> Self {
        let way = Way::Stream(Arc::new(StreamWriter {
            writer: Mutex::new(Some(Open { stream, free_at: Instant::now() })),
            packers: Default::default(),
            state,
            traffic,
            bytes_per_second,
        }));
        Self { way, compression, compressor: None, encoded: Vec::new() }
    }

    /// Hands messages over within the process, by a channel for each lane.
    pub(super) fn within(lanes: Vec<SyncSender<Message>>) -> Self {
        let way = Way::Memory(lanes);
        Self { way, compression: Compression::Off, compressor: None, encoded: Vec::new() }
    }

    /// Closes the stream for all who send on it; waits for the one who does.
    pub(super) fn close(&self) {
        if let Way::Stream(writer) = &self.way
            && let Ok(mut writer) = writer.writer.lock()
        {
            *writer = None;
        }
    }

    /// Sends one message on a lane; waits while the peer is behind.
    ///
    /// # Errors
    /// [`WireError`] when the connection is of no more use.
    pub fn send(&mut self, lane: u8, message: Message) -> Result<(), WireError> {
        let writer = match &self.way {
            Way::Memory(lanes) => {
                return lanes[usize::from(lane)]
                    .send(message)
                    .map_err(|_| WireError::Lost("the peer ended".to_owned()));
            }
            Way::Stream(writer) => Arc::clone(writer),
        };
        // The header's place is kept free in front of the payload, so that a frame is one write.
        let mut frame = std::mem::take(&mut self.encoded);
        frame.clear();
        frame.resize(HEADER_BYTES, 0);
        let mut frame =
            postcard::to_extend(&message, frame).map_err(|e| WireError::Protocol(e.to_string()))?;
        if frame.len() - HEADER_BYTES > FRAME_LIMIT_BYTES {
            return Err(WireError::Protocol(format!(
                "a message of {} bytes does not fit a frame",
                frame.len()
            )));
        }
        /// Payloads below this many bytes are not worth a try.
        const WORTH_BYTES: usize = 200;
        /// Longer ones could become longer than a frame.
        const WORTH_LIMIT_BYTES: usize = FRAME_LIMIT_BYTES - (8 << 10);
        let compression = Some(self.compression).filter(|compression| {
            let payload = frame.len() - HEADER_BYTES;
            *compression != Compression::Off && (WORTH_BYTES..=WORTH_LIMIT_BYTES).contains(&payload)
        });
        let result = match compression {
            Some(compression) if lane == CONTROL => {
                let flags = self.compress(&mut frame, compression.fixed_level().unwrap_or(1))?;
                writer.write(&mut frame, lane, flags).map(drop)
            }
            Some(compression) => writer.write_streamed(&frame, lane, compression),
            None => writer.write(&mut frame, lane, 0).map(drop),
        };
        self.encoded = frame;
        result
    }

    /// Compresses the payload by itself, in place, where that pays; gives the flags.
    fn compress(&mut self, frame: &mut Vec<u8>, level: i32) -> Result<u8, WireError> {
        let payload = frame.len() - HEADER_BYTES;
        let lost = |e: std::io::Error| WireError::Protocol(e.to_string());
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(level).map_err(lost)?),
        };
        let compressed = compressor.compress(&frame[HEADER_BYTES..]).map_err(lost)?;
        if compressed.len() + payload / 16 > payload {
            return Ok(0);
        }
        frame.truncate(HEADER_BYTES);
        frame.extend_from_slice(&compressed);
        Ok(COMPRESSED)
    }
}
