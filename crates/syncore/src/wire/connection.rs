//! A connection: lanes of messages over one byte stream, or over channels within the process.
//!
//! Why: large files, small files and questions share one stream without waiting for each other. Every frame names
//! its lane. What can go wrong: what answers is no agent (the preamble tells a login script's output from one), or it goes
//! away without a word; each end says now and then that it is there, and a watchdog looks at what is written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::frame::{CONTROL, LANE_DEPTH, LANES, Traffic};
use super::greeting::{await_greeting, greeting};
use super::incoming::{Incoming, start_reader};
use super::message::Message;
use super::outgoing::Outgoing;
use super::state::State;
use super::{ByteStream, Compression, TransportError, WireError};

/// How often an end that has nothing to say shows that it is there.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How often the watchdog looks at what is being written.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

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
            Self {
                outgoing: Outgoing::within(senders),
                lanes: receivers.into_iter().map(|lane| Incoming::within(lane, Arc::clone(&state))).collect(),
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
        let lanes = start_reader(reader, &traffic, &state);
        let (sent, shared) = (Arc::clone(&traffic), Arc::clone(&state));
        let outgoing = Outgoing::over(writer, sent, shared, compression, bytes_per_second);
        let helpers = vec![start_alive(outgoing.clone()), start_watchdog(Arc::clone(&state))];
        Ok(Self { outgoing, lanes, traffic, finish, state, helpers })
    }

    /// Ends the connection: closes the stream, and says what the transport thought of it.
    pub fn close(mut self) -> Option<TransportError> {
        // The watchdog stays until the writer is closed: another thread may hold it, waiting for the peer.
        self.outgoing.close();
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
