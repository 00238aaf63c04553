//! A connection: lanes of messages over one byte stream, or over channels within the process.
//!
//! Why: large files, small files and questions share one stream without waiting for each other. Every frame names
//! its lane; a reader thread hands frames to bounded queues, one a lane, and who receives decompresses and decodes,
//! so that this work spreads over threads. What can go wrong: a peer that sends too much (frames are bounded, and
//! so is what they decompress to), too little (the progress deadline), or garbage (the preamble tells a login
//! script's output from an agent).

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::message::Message;
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

/// What each end says first, so that neither mistakes anything else for its peer.
const PREAMBLE: &[u8; 16] = b"\x7fclonetool-wire\n";

/// The version of the conversation; both ends must speak the same.
pub const PROTOCOL_VERSION: u16 = 1;

/// How long the peer may take to greet, after the transport is up.
const GREETING_DEADLINE: Duration = Duration::from_secs(30);

/// How often an end that has nothing to say shows that it is there.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How often a waiting end looks whether it should stop.
const CANCEL_INTERVAL: Duration = Duration::from_millis(200);

/// A frame as it came: flags and payload.
type Frame = (u8, Vec<u8>);

/// Set in a frame's flags when its payload is compressed.
const COMPRESSED: u8 = 1;

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

struct StreamWriter {
    writer: Mutex<Option<Box<dyn Write + Send>>>,
    traffic: Arc<Traffic>,
    bytes_per_second: Option<u64>,
}

impl StreamWriter {
    fn write(&self, bytes: &[u8]) -> Result<(), WireError> {
        let mut writer = self.writer.lock().map_err(|_| WireError::Lost("a thread failed".to_owned()))?;
        let writer = writer.as_mut().ok_or_else(|| WireError::Lost("it is closed".to_owned()))?;
        let started = Instant::now();
        writer.write_all(bytes).and_then(|()| writer.flush()).map_err(|e| WireError::Lost(e.to_string()))?;
        self.traffic.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(rate) = self.bytes_per_second {
            let due = Duration::from_secs_f64(bytes.len() as f64 / rate.max(1) as f64);
            // Holding the lock while waiting is what slows the other lanes, too.
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        Ok(())
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
    /// Frames to send uncompressed because the last one did not shrink.
    skip: u32,
}

impl Clone for Outgoing {
    fn clone(&self) -> Self {
        let way = match &self.way {
            Way::Stream(writer) => Way::Stream(Arc::clone(writer)),
            Way::Memory(lanes) => Way::Memory(lanes.clone()),
        };
        Self { way, compression: self.compression, compressor: None, encoded: Vec::new(), skip: 0 }
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
        let flags = self.compress(&mut frame)?;
        let length = u32::try_from(frame.len() - HEADER_BYTES).unwrap_or(u32::MAX);
        frame[..4].copy_from_slice(&length.to_le_bytes());
        (frame[4], frame[5]) = (lane, flags);
        let result = writer.write(&frame);
        self.encoded = frame;
        result
    }

    /// Compresses the payload in place where that pays; gives the flags.
    fn compress(&mut self, frame: &mut Vec<u8>) -> Result<u8, WireError> {
        /// Payloads below this many bytes are not worth a try.
        const WORTH_BYTES: usize = 200;
        let level = match self.compression {
            Compression::Off => return Ok(0),
            Compression::Auto => 1,
            Compression::Level(level) => level,
        };
        let payload = frame.len() - HEADER_BYTES;
        if payload < WORTH_BYTES {
            return Ok(0);
        }
        if self.skip > 0 && payload > 4096 {
            self.skip -= 1;
            return Ok(0);
        }
        let lost = |e: std::io::Error| WireError::Protocol(e.to_string());
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(level).map_err(lost)?),
        };
        let compressed = compressor.compress(&frame[HEADER_BYTES..]).map_err(lost)?;
        if compressed.len() + payload / 16 > payload {
            self.skip = 15;
            return Ok(0);
        }
        frame.truncate(HEADER_BYTES);
        frame.extend_from_slice(&compressed);
        Ok(COMPRESSED)
    }
}

/// Length (4, little-endian), lane (1), flags (1).
const HEADER_BYTES: usize = 6;

enum Source {
    Stream(Receiver<Frame>),
    Memory(Receiver<Message>),
}

/// The receiving half of one lane.
pub struct Incoming {
    source: Source,
    state: Arc<ReaderState>,
    timeout: Duration,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

/// What the reader thread shares with those who wait for it.
struct ReaderState {
    epoch: Instant,
    /// Milliseconds since `epoch` at the last complete frame.
    last_frame: AtomicU64,
    /// Whether the reader waits for a lane of this end: then it is not the peer that makes no progress.
    delivering: AtomicBool,
    end: Mutex<Option<WireError>>,
}

impl Incoming {
    /// Waits for the next message of this lane.
    ///
    /// # Errors
    /// [`WireError`] when the connection ended, broke, timed out, or the peer spoke nonsense.
    pub fn receive(&mut self, monitor: &dyn Monitor) -> Result<Message, WireError> {
        loop {
            if monitor.cancelled() {
                return Err(WireError::Cancelled);
            }
            let message = match &self.source {
                Source::Memory(channel) => channel.recv_timeout(CANCEL_INTERVAL),
                Source::Stream(channel) => match channel.recv_timeout(CANCEL_INTERVAL) {
                    Ok((flags, payload)) => Ok(self.decode(flags, &payload)?),
                    Err(error) => Err(error),
                },
            };
            match message {
                Ok(Message::Alive) => {}
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Disconnected) => return Err(self.end()),
                Err(RecvTimeoutError::Timeout) => self.check_deadline()?,
            }
        }
    }

    fn end(&self) -> WireError {
        let recorded = self.state.end.lock().ok().and_then(|mut end| end.take());
        recorded.unwrap_or_else(|| WireError::Lost("the peer ended".to_owned()))
    }

    fn check_deadline(&self) -> Result<(), WireError> {
        if matches!(self.source, Source::Memory(_)) {
            return Ok(());
        }
        let last = Duration::from_millis(self.state.last_frame.load(Ordering::Relaxed));
        if self.state.delivering.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.state.epoch.elapsed().saturating_sub(last) > self.timeout {
            return Err(WireError::Timeout { seconds: self.timeout.as_secs() });
        }
        Ok(())
    }

    fn decode(&mut self, flags: u8, payload: &[u8]) -> Result<Message, WireError> {
        let nonsense = |e: &dyn std::fmt::Display| WireError::Protocol(e.to_string());
        let message: Message = if flags & COMPRESSED == 0 {
            postcard::from_bytes(payload).map_err(|e| nonsense(&e))?
        } else {
            let decompressor = match &mut self.decompressor {
                Some(decompressor) => decompressor,
                none => none.insert(zstd::bulk::Decompressor::new().map_err(|e| nonsense(&e))?),
            };
            let plain = decompressor.decompress(payload, FRAME_LIMIT_BYTES).map_err(|e| nonsense(&e))?;
            postcard::from_bytes(&plain).map_err(|e| nonsense(&e))?
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
    alive: Option<SyncSender<()>>,
}

impl Connection {
    /// Two connected ends within the process. Messages are handed over as they are; nothing is encoded.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let channels = || -> (Vec<_>, Vec<_>) { (0..LANES).map(|_| sync_channel(LANE_DEPTH)).unzip() };
        let ((to_a, at_a), (to_b, at_b)) = (channels(), channels());
        let end = |senders, receivers: Vec<Receiver<Message>>| {
            let state = ReaderState::new();
            let lane = |channel| Incoming {
                source: Source::Memory(channel),
                state: Arc::clone(&state),
                timeout: Duration::MAX,
                decompressor: None,
            };
            Self {
                outgoing: Outgoing {
                    way: Way::Memory(senders),
                    compression: Compression::Off,
                    compressor: None,
                    encoded: Vec::new(),
                    skip: 0,
                },
                lanes: receivers.into_iter().map(lane).collect(),
                traffic: Arc::default(),
                finish: None,
                alive: None,
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
        let ByteStream { reader, mut writer, finish } = stream;
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
            Err(error) => return Err(error),
        };
        let finish = Some(finish);
        let traffic = Arc::new(Traffic::default());
        traffic.sent.store(greeting.len() as u64, Ordering::Relaxed);
        traffic.received.store(heard, Ordering::Relaxed);
        let writer = Arc::new(StreamWriter {
            writer: Mutex::new(Some(writer)),
            traffic: Arc::clone(&traffic),
            bytes_per_second,
        });
        let (lanes, state) = start_reader(reader, &traffic, timeout);
        let outgoing = Outgoing {
            way: Way::Stream(Arc::clone(&writer)),
            compression,
            compressor: None,
            encoded: Vec::new(),
            skip: 0,
        };
        let alive = start_alive(outgoing.clone());
        drop(state);
        Ok(Self { outgoing, lanes, traffic, finish, alive: Some(alive) })
    }

    /// Ends the connection: closes the stream, and says what the transport thought of it.
    pub fn close(mut self) -> Option<TransportError> {
        self.alive = None;
        if let Way::Stream(writer) = &self.outgoing.way
            && let Ok(mut writer) = writer.writer.lock()
        {
            *writer = None;
        }
        self.lanes.clear();
        self.finish.take().and_then(|finish| finish())
    }
}

impl ReaderState {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            last_frame: AtomicU64::new(0),
            delivering: AtomicBool::new(false),
            end: Mutex::new(None),
        })
    }

    fn heard(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_frame.store(now, Ordering::Relaxed);
    }
}

fn greeting() -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let mut bytes = PREAMBLE.to_vec();
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes.push(u8::try_from(version.len()).unwrap_or(0));
    bytes.extend_from_slice(version);
    bytes
}

/// Waits for the peer's greeting, but not for ever.
fn await_greeting(mut reader: Box<dyn Read + Send>) -> Result<(Box<dyn Read + Send>, u64), WireError> {
    let (done, greeted) = sync_channel(1);
    // Should the deadline pass, the thread ends with the transport that is then dropped.
    std::thread::spawn(move || {
        let heard = read_greeting(&mut reader);
        let _ = done.send(heard.map(|heard| (reader, heard)));
    });
    greeted
        .recv_timeout(GREETING_DEADLINE)
        .unwrap_or(Err(WireError::Timeout { seconds: GREETING_DEADLINE.as_secs() }))
}

fn read_greeting(reader: &mut dyn Read) -> Result<u64, WireError> {
    let mut preamble = [0; PREAMBLE.len()];
    let mut heard = 0;
    while heard < preamble.len() {
        match reader.read(&mut preamble[heard..]) {
            Ok(0) if heard == 0 => {
                return Err(WireError::Lost("it ended before the agent answered".to_owned()));
            }
            Ok(0) => break,
            Ok(read) => heard += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(WireError::Lost(e.to_string())),
        }
    }
    if &preamble != PREAMBLE {
        return Err(WireError::NoAgent { heard: crate::tree::escape(&preamble[..heard]) });
    }
    let mut rest = [0; 3];
    let lost = |e: std::io::Error| WireError::Lost(e.to_string());
    reader.read_exact(&mut rest).map_err(lost)?;
    let mut version = vec![0; usize::from(rest[2])];
    reader.read_exact(&mut version).map_err(lost)?;
    let protocol = u16::from_le_bytes([rest[0], rest[1]]);
    if protocol != PROTOCOL_VERSION {
        return Err(WireError::Version {
            ours: format!("{} (protocol {PROTOCOL_VERSION})", env!("CARGO_PKG_VERSION")),
            theirs: format!("{} (protocol {protocol})", crate::tree::escape(&version)),
        });
    }
    Ok((PREAMBLE.len() + 3 + version.len()) as u64)
}

fn start_reader(
    mut reader: Box<dyn Read + Send>,
    traffic: &Arc<Traffic>,
    timeout: Duration,
) -> (Vec<Incoming>, Arc<ReaderState>) {
    let state = ReaderState::new();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..LANES).map(|_| sync_channel(LANE_DEPTH)).unzip();
    let (shared, traffic) = (Arc::clone(&state), Arc::clone(traffic));
    // The thread ends with the stream; nobody has to wait for it.
    std::thread::spawn(move || {
        let error = read_frames(&mut reader, &senders, &traffic, &shared);
        if let Ok(mut end) = shared.end.lock() {
            *end = error;
        }
    });
    let lane = |channel| Incoming {
        source: Source::Stream(channel),
        state: Arc::clone(&state),
        timeout,
        decompressor: None,
    };
    (receivers.into_iter().map(lane).collect(), state)
}

/// Reads frames until the stream ends; gives the reason if that was no orderly end.
fn read_frames(
    reader: &mut dyn Read,
    lanes: &[SyncSender<Frame>],
    traffic: &Traffic,
    state: &ReaderState,
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
        let mut payload = Vec::new();
        // Grows with what arrives, so that a peer cannot make us allocate by announcing.
        match Read::take(&mut *reader, length as u64).read_to_end(&mut payload) {
            Ok(read) if read == length => {}
            Ok(_) => return Some(WireError::Lost("it was closed in the middle of a frame".to_owned())),
            Err(error) => return Some(WireError::Lost(error.to_string())),
        }
        traffic.received.fetch_add((HEADER_BYTES + length) as u64, Ordering::Relaxed);
        state.heard();
        // A sign of life is for this thread; nobody may be reading that lane for hours.
        if header[5] == 0 && payload == alive {
            continue;
        }
        state.delivering.store(true, Ordering::Relaxed);
        // A lane that nobody reads any more belongs to a part of the run that is over.
        let _ = lane.send((header[5], payload));
        state.heard();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;
    use crate::wire::pair;

    fn connected() -> (Connection, Connection) {
        let (a, b) = pair().unwrap();
        let over = |stream| Connection::over(stream, Compression::Auto, None, Duration::from_secs(20));
        let other = std::thread::spawn(move || over(b).unwrap());
        (over(a).unwrap(), other.join().unwrap())
    }

    #[test]
    fn signs_of_life_do_not_fill_a_lane_that_nobody_reads() {
        let (mut here, mut there) = connected();
        for _ in 0..10 * LANE_DEPTH {
            here.outgoing.send(CONTROL, Message::Alive).unwrap();
        }
        here.outgoing.send(1, Message::Data(vec![7; 9])).unwrap();
        assert_eq!(there.lanes[1].receive(&Silent).unwrap(), Message::Data(vec![7; 9]));
    }

    #[test]
    fn messages_arrive_as_they_were_sent_compressed_or_not() {
        let (mut here, mut there) = connected();
        let noise: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        for message in [Message::Data(vec![1; 300_000]), Message::Data(noise), Message::Hole(u64::MAX)] {
            here.outgoing.send(2, message.clone()).unwrap();
            assert_eq!(there.lanes[2].receive(&Silent).unwrap(), message);
        }
        assert!(here.traffic.sent_bytes() < 110_000);
    }

    #[test]
    fn a_message_that_does_not_fit_a_frame_is_an_error_and_not_a_broken_stream() {
        let (mut here, mut there) = connected();
        let long = Message::Data(vec![0; FRAME_LIMIT_BYTES + 1]);
        assert!(matches!(here.outgoing.send(1, long), Err(WireError::Protocol(_))));
        here.outgoing.send(1, Message::LaneEnd).unwrap();
        assert_eq!(there.lanes[1].receive(&Silent).unwrap(), Message::LaneEnd);
    }

    #[test]
    fn garbage_ends_in_an_error_that_names_it() {
        let greeted = |bytes: &'static [u8]| {
            let stream = ByteStream {
                reader: Box::new(bytes),
                writer: Box::new(std::io::sink()),
                finish: Box::new(|| None),
            };
            Connection::over(stream, Compression::Off, None, Duration::from_secs(5)).map(|_| ())
        };
        assert!(
            matches!(greeted(b"Welcome to this host\n"), Err(WireError::NoAgent { heard }) if heard.contains("Welcome"))
        );
        assert!(
            matches!(greeted(b"\x7fclonetool-wire\n\x63\x00\x039.9"), Err(WireError::Version { theirs, .. }) if theirs.contains("9.9"))
        );
        assert!(matches!(greeted(b""), Err(WireError::Lost(_))));
        let mut frames = greeting();
        frames.extend_from_slice(&[0xff, 0xff, 0xff, 0x7f, 0, 0]);
        let stream = ByteStream {
            reader: Box::new(std::io::Cursor::new(frames)),
            writer: Box::new(std::io::sink()),
            finish: Box::new(|| None),
        };
        let mut connection =
            Connection::over(stream, Compression::Off, None, Duration::from_secs(5)).unwrap();
        assert!(matches!(connection.lanes[0].receive(&Silent), Err(WireError::Protocol(_))));
    }
}
