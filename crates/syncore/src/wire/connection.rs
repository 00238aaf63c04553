//! A connection: lanes of messages over one byte stream, or over channels within the process.
//!
//! Why: large files, small files and questions share one stream without waiting for each other. Every frame names
//! its lane; a reader thread hands frames to bounded queues, one a lane. Who sends compresses and who receives decodes, so
//! that this work spreads over threads: the content of each lane is one compressed stream. What can go wrong: a peer that
//! sends too much (frames are bounded, and so is what they decompress to), too little (the progress deadline; a watchdog
//! holds writes to it), or garbage (the preamble tells a login script's output from an agent). What ends one lane ends all
//! of them.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::compress::{StreamDecoder, StreamEncoder};
use super::greeting::{await_greeting, greeting};
use super::message::Message;
use super::state::State;
use super::{ByteStream, Compression, TransportError, WireError};
use crate::monitor::Monitor;

/// Longest frame, in bytes, before and after decompression.
pub const FRAME_LIMIT_BYTES: usize = 1 << 20;

/// How many frames wait in a lane at most.
const LANE_DEPTH: usize = 8;

/// The lane of the conversation; the others carry content.
pub const CONTROL: u8 = 0;

/// How many lanes carry content.
pub const CONTENT_LANES: u8 = 2;

/// All lanes.
const LANES: usize = CONTENT_LANES as usize + 1;

/// How often an end that has nothing to say shows that it is there.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How often a waiting end looks whether it should stop.
const CANCEL_INTERVAL: Duration = Duration::from_millis(200);

/// How often the watchdog looks at what is being written.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Bytes handed to the stream at once: a pipe takes all of them or none, so this is what progress is measured in.
const WRITE_BYTES: usize = 64 << 10;

/// A frame as it came: flags and payload.
type Frame = (u8, Vec<u8>);

/// Set in a frame's flags when its payload is compressed by itself.
const COMPRESSED: u8 = 1;

/// Set in a frame's flags when its payload is the next part of its lane's compressed content.
const STREAMED: u8 = 2;

/// What crossed the stream, in bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// Bytes written to the stream.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes read from the stream.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

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

/// Length (4, little-endian), lane (1), flags (1).
const HEADER_BYTES: usize = 6;

fn put_header(frame: &mut [u8], lane: u8, flags: u8) {
    let length = u32::try_from(frame.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    (frame[4], frame[5]) = (lane, flags);
}

enum Source {
    Stream(Receiver<Frame>),
    Memory(Receiver<Message>),
    /// Nobody reads it any more: what comes for it is thrown away.
    Closed,
}

/// The receiving half of one lane.
pub struct Incoming {
    source: Source,
    state: Arc<State>,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
    decoder: Option<StreamDecoder>,
}

impl Incoming {
    /// Waits for the next message of this lane. An error closes the lane, as [`Incoming::fail`] does.
    ///
    /// # Errors
    /// [`WireError`] when the connection ended, broke, timed out, or the peer spoke nonsense; or when another lane
    /// failed.
    pub fn receive(&mut self, monitor: &dyn Monitor) -> Result<Message, WireError> {
        let result = self.next(monitor);
        if let Err(error) = &result {
            self.fail(error);
        }
        result
    }

    /// Says that nobody will receive from this lane any more, and why. What comes for it is thrown away, so that the
    /// other lanes do not wait behind it; they end with the same error, unless it is the end of the stream, which each
    /// of them sees after what came before it. Sending remains possible, for the peer is to be told.
    pub fn fail(&mut self, error: &WireError) {
        self.source = Source::Closed;
        self.state.fail(error);
    }

    fn next(&mut self, monitor: &dyn Monitor) -> Result<Message, WireError> {
        loop {
            if monitor.cancelled() {
                return Err(WireError::Cancelled);
            }
            if self.state.failed.load(Ordering::Relaxed) {
                return Err(self.state.reason("another lane failed"));
            }
            let message = match &self.source {
                Source::Closed => return Err(self.state.reason("this lane is closed")),
                Source::Memory(channel) => channel.recv_timeout(CANCEL_INTERVAL),
                Source::Stream(channel) => match channel.recv_timeout(CANCEL_INTERVAL) {
                    Ok((flags, payload)) => Ok(self.decode(flags, &payload)?),
                    Err(error) => Err(error),
                },
            };
            match message {
                Ok(Message::Alive) => {}
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Disconnected) => return Err(self.state.reason("the peer ended")),
                Err(RecvTimeoutError::Timeout) => self.check_deadline()?,
            }
        }
    }

    fn check_deadline(&self) -> Result<(), WireError> {
        if matches!(self.source, Source::Memory(_)) {
            return Ok(());
        }
        if !self.state.delivering.load(Ordering::Relaxed) && self.state.silent() {
            return Err(self.state.timed_out());
        }
        Ok(())
    }

    fn decode(&mut self, flags: u8, payload: &[u8]) -> Result<Message, WireError> {
        let nonsense = |e: &dyn std::fmt::Display| WireError::Protocol(e.to_string());
        let message: Message = if flags & STREAMED != 0 {
            let decoder = match &mut self.decoder {
                Some(decoder) => decoder,
                none => none.insert(StreamDecoder::new().map_err(|e| nonsense(&e))?),
            };
            let plain = decoder.decompress(payload, FRAME_LIMIT_BYTES).map_err(|e| nonsense(&e))?;
            postcard::from_bytes(&plain).map_err(|e| nonsense(&e))?
        } else if flags & COMPRESSED != 0 {
            let decompressor = match &mut self.decompressor {
                Some(decompressor) => decompressor,
                none => none.insert(zstd::bulk::Decompressor::new().map_err(|e| nonsense(&e))?),
            };
            let plain = decompressor.decompress(payload, FRAME_LIMIT_BYTES).map_err(|e| nonsense(&e))?;
            postcard::from_bytes(&plain).map_err(|e| nonsense(&e))?
        } else {
            postcard::from_bytes(payload).map_err(|e| nonsense(&e))?
        };
        message.check()?;
        Ok(message)
    }
}

/// What a transport has to say after the stream ended.
type Finish = Box<dyn FnOnce() -> Option<TransportError> + Send>;

/// Both halves, and what to ask the transport when they end.
pub struct Connection {
    /// Sends on any lane.
    pub outgoing: Outgoing,
    /// Receives, one a lane; [`CONTROL`] first.
    pub lanes: Vec<Incoming>,
    /// Bytes that crossed the stream; none within the process.
    pub traffic: Arc<Traffic>,
    finish: Option<Finish>,
    state: Arc<State>,
    /// Dropping them ends the threads that say [`Message::Alive`] and watch the writes.
    helpers: Vec<SyncSender<()>>,
}

impl Connection {
    /// Two connected ends within the process. Messages are handed over as they are; nothing is encoded.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let channels = || -> (Vec<_>, Vec<_>) { (0..LANES).map(|_| sync_channel(LANE_DEPTH)).unzip() };
        let ((to_a, at_a), (to_b, at_b)) = (channels(), channels());
        let end = |senders, receivers: Vec<Receiver<Message>>| {
            let state = State::new(Duration::MAX, Arc::new(|| ()));
            let lane = |channel| Incoming {
                source: Source::Memory(channel),
                state: Arc::clone(&state),
                decompressor: None,
                decoder: None,
            };
            Self {
                outgoing: Outgoing {
                    way: Way::Memory(senders),
                    compression: Compression::Off,
                    compressor: None,
                    encoded: Vec::new(),
                },
                lanes: receivers.into_iter().map(lane).collect(),
                traffic: Arc::default(),
                finish: None,
                state,
                helpers: Vec::new(),
            }
        };
        (end(to_b, at_a), end(to_a, at_b))
    }

    /// Greets the peer on a byte stream and sets up the lanes.
    ///
    /// # Errors
    /// [`WireError`] when what answers is no agent, or one of another version.
    pub fn over(
        stream: ByteStream,
        compression: Compression,
        bytes_per_second: Option<u64>,
        timeout: Duration,
    ) -> Result<Self, WireError> {
        let ByteStream { reader, mut writer, finish, abort } = stream;
        let greeting = greeting();
        let sent = writer.write_all(&greeting).and_then(|()| writer.flush());
        let greeted = sent.map_err(|e| WireError::Lost(e.to_string())).and_then(|()| await_greeting(reader));
        let (reader, heard) = match greeted {
            Ok(greeted) => greeted,
            // Nobody is there: the transport knows better why.
            Err(error @ WireError::Lost(_)) => {
                drop(writer);
                return Err(finish().map_or(error, WireError::Transport));
            }
            // Somebody is there, but no agent. It is not waited for; dropping the transport ends it.
            Err(error) => {
                abort();
                return Err(error);
            }
        };
        let finish = Some(finish);
        let traffic = Arc::new(Traffic::default());
        traffic.sent.store(greeting.len() as u64, Ordering::Relaxed);
        traffic.received.store(heard, Ordering::Relaxed);
        let state = State::new(timeout, abort);
        let writer = Arc::new(StreamWriter {
            writer: Mutex::new(Some(Open { stream: writer, free_at: Instant::now() })),
            packers: Default::default(),
            state: Arc::clone(&state),
            traffic: Arc::clone(&traffic),
            bytes_per_second,
        });
        let lanes = start_reader(reader, &traffic, &state);
        let outgoing = Outgoing {
            way: Way::Stream(Arc::clone(&writer)),
            compression,
            compressor: None,
            encoded: Vec::new(),
        };
        let helpers = vec![start_alive(outgoing.clone()), start_watchdog(Arc::clone(&state))];
        Ok(Self { outgoing, lanes, traffic, finish, state, helpers })
    }

    /// Ends the connection: closes the stream, and says what the transport thought of it.
    pub fn close(mut self) -> Option<TransportError> {
        // The watchdog stays until the writer is closed: another thread may hold it, waiting for the peer.
        if let Way::Stream(writer) = &self.outgoing.way
            && let Ok(mut writer) = writer.writer.lock()
        {
            *writer = None;
        }
        self.helpers.clear();
        self.lanes.clear();
        // A transport whose peer did not move is not waited for; dropping it ends it.
        let finish = self.finish.take().filter(|_| !self.state.aborted.load(Ordering::Relaxed));
        let said = finish.and_then(|finish| finish());
        // Should the reader thread still wait, it waits for nothing.
        self.state.abort();
        said
    }
}

fn start_reader(
    mut reader: Box<dyn Read + Send>,
    traffic: &Arc<Traffic>,
    state: &Arc<State>,
) -> Vec<Incoming> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..LANES).map(|_| sync_channel(LANE_DEPTH)).unzip();
    let (shared, traffic) = (Arc::clone(state), Arc::clone(traffic));
    // The thread ends with the stream; nobody has to wait for it.
    std::thread::spawn(move || {
        let error = read_frames(&mut reader, &senders, &traffic, &shared);
        if let Ok(mut end) = shared.end.lock() {
            *end = error;
        }
    });
    let lane = |channel| Incoming {
        source: Source::Stream(channel),
        state: Arc::clone(state),
        decompressor: None,
        decoder: None,
    };
    receivers.into_iter().map(lane).collect()
}

/// Reads frames until the stream ends; gives the reason if that was no orderly end.
fn read_frames(
    reader: &mut dyn Read,
    lanes: &[SyncSender<Frame>],
    traffic: &Traffic,
    state: &State,
) -> Option<WireError> {
    let alive = postcard::to_allocvec(&Message::Alive).unwrap_or_default();
    loop {
        let mut header = [0; HEADER_BYTES];
        if let Err(error) = reader.read_exact(&mut header) {
            return Some(WireError::Lost(match error.kind() {
                std::io::ErrorKind::UnexpectedEof => "it was closed by the peer".to_owned(),
                _ => error.to_string(),
            }));
        }
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length > FRAME_LIMIT_BYTES {
            return Some(WireError::Protocol(format!("a frame of {length} bytes")));
        }
        let Some(lane) = lanes.get(usize::from(header[4])) else {
            return Some(WireError::Protocol(format!("a frame for lane {}", header[4])));
        };
        if header[4] == CONTROL && header[5] & STREAMED != 0 {
            return Some(WireError::Protocol("content on the lane of the conversation".to_owned()));
        }
        // A frame's limit is what a peer can make us set aside by announcing it.
        let mut payload = Vec::with_capacity(length);
        match Read::take(&mut *reader, length as u64).read_to_end(&mut payload) {
            Ok(read) if read == length => {}
            Ok(_) => return Some(WireError::Lost("it was closed in the middle of a frame".to_owned())),
            Err(error) => return Some(WireError::Lost(error.to_string())),
        }
        traffic.received.fetch_add((HEADER_BYTES + length) as u64, Ordering::Relaxed);
        state.last_frame.store(state.now(), Ordering::Relaxed);
        // A sign of life is for this thread; nobody may be reading that lane for hours.
        if header[5] == 0 && payload == alive {
            continue;
        }
        state.delivering.store(true, Ordering::Relaxed);
        // A lane that nobody reads any more belongs to a part of the run that is over.
        if lane.send((header[5], payload)).is_ok() {
            state.last_frame.store(state.now(), Ordering::Relaxed);
        }
        state.delivering.store(false, Ordering::Relaxed);
    }
}

/// Says [`Message::Alive`] now and then until the returned sender is dropped.
fn start_alive(mut outgoing: Outgoing) -> SyncSender<()> {
    let (stop, stopped) = sync_channel(0);
    std::thread::spawn(move || {
        while stopped.recv_timeout(ALIVE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if outgoing.send(CONTROL, Message::Alive).is_err() {
                return;
            }
        }
    });
    stop
}

/// Watches the writes until the returned sender is dropped.
fn start_watchdog(state: Arc<State>) -> SyncSender<()> {
    let (stop, stopped) = sync_channel(0);
    std::thread::spawn(move || {
        while stopped.recv_timeout(WATCH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            state.watch();
        }
    });
    stop
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
