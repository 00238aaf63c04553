//! The receiving half of a connection: reads frames, hands them to their lanes, decodes them where they are received.
//!
//! Why: one thread reads for all lanes, so that none waits for another, and each lane decodes for itself. What can go
//! wrong: a peer that sends too much (frames are bounded, and so is what they decompress to), too little (the progress
//! deadline), or nonsense. What ends one lane ends all of them.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::WireError;
use super::compress::StreamDecoder;
use super::frame::{
    COMPRESSED, CONTROL, FRAME_LIMIT_BYTES, HEADER_BYTES, LANE_DEPTH, LANES, STREAMED, Traffic,
};
use super::message::Message;
use super::state::State;
use crate::monitor::Monitor;

/// How often a waiting end looks whether it should stop.
pub(super) const CANCEL_INTERVAL: Duration = Duration::from_millis(200);

/// A frame as it came: flags and payload.
type Frame = (u8, Vec<u8>);

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
    /// The end of a lane on which messages are handed over within the process.
    pub(super) fn within(lane: Receiver<Message>, state: Arc<State>) -> Self {
        Self::of(Source::Memory(lane), state)
    }

    fn of(source: Source, state: Arc<State>) -> Self {
        Self { source, state, decompressor: None, decoder: None }
    }

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

/// Reads the stream in a thread of its own; gives the lanes.
pub(super) fn start_reader(
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
    receivers.into_iter().map(|lane| Incoming::of(Source::Stream(lane), Arc::clone(state))).collect()
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
