//! What the threads of one end of a connection share: the clock of progress, and why it is of no more use.
//!
//! Why: whatever ends one lane has to end the others, and a peer that neither reads nor speaks must not hold a run for
//! ever. What can go wrong: a peer that is only slow is taken for dead; so what counts is any sign of life.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::WireError;

/// How long a write may still wait for the peer once the run was interrupted.
pub(super) const HURRIED: Duration = Duration::from_secs(2);

/// What the threads of one end share: the clock of progress, and why the connection is of no more use.
pub(super) struct State {
    pub(super) epoch: Instant,
    pub(super) timeout: Duration,
    /// Milliseconds since `epoch` at the last complete frame.
    pub(super) last_frame: AtomicU64,
    /// Whether a frame waits for room in its lane: then silence is not the peer's fault.
    pub(super) delivering: AtomicBool,
    /// Milliseconds since `epoch` at the last progress of the write that is under way; 0 while there is none.
    pub(super) writing_since: AtomicU64,
    /// The run was interrupted: what waits for the peer gets little time.
    pub(super) hurried: AtomicBool,
    /// Nothing is read or written any more.
    pub(super) aborted: AtomicBool,
    /// Whether `failure` holds something, to be seen without the lock.
    pub(super) failed: AtomicBool,
    /// The first thing that went wrong in a lane; it ends the other lanes.
    pub(super) failure: Mutex<Option<WireError>>,
    /// How the stream ended.
    pub(super) end: Mutex<Option<WireError>>,
    pub(super) abort: Arc<dyn Fn() + Send + Sync>,
}

impl State {
    pub(super) fn new(timeout: Duration, abort: Arc<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            timeout,
            last_frame: AtomicU64::new(0),
            delivering: AtomicBool::new(false),
            writing_since: AtomicU64::new(0),
            hurried: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            end: Mutex::new(None),
            abort,
        })
    }

    /// Milliseconds since `epoch`.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn since(&self, milliseconds: u64) -> Duration {
        self.epoch.elapsed().saturating_sub(Duration::from_millis(milliseconds))
    }

    /// Whether nothing came from the peer for longer than it may take.
    pub(super) fn silent(&self) -> bool {
        self.since(self.last_frame.load(Ordering::Relaxed)) > self.timeout
    }

    pub(super) fn timed_out(&self) -> WireError {
        WireError::Timeout { seconds: self.timeout.as_secs() }
    }

    /// Takes note of what ended a lane.
    pub(super) fn fail(&self, error: &WireError) {
        match error {
            // Every lane sees it by itself, after what came before it: the peer may have said why.
            WireError::Lost(_) => {}
            // Every lane asks the monitor by itself. The peer is to be told, so the stream stays for now.
            WireError::Cancelled => self.hurried.store(true, Ordering::Relaxed),
            error => {
                self.record(error);
                if matches!(error, WireError::Timeout { .. }) {
                    self.abort();
                }
            }
        }
    }

    pub(super) fn record(&self, error: &WireError) {
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert_with(|| copy(error));
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Ends reads and writes that wait for the peer.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        (self.abort)();
    }

    /// Why the connection is of no more use; in `words` if nobody took note of it.
    pub(super) fn reason(&self, words: &str) -> WireError {
        let recorded = |place: &Mutex<Option<WireError>>| place.lock().ok()?.as_ref().map(copy);
        let recorded = recorded(&self.failure).or_else(|| recorded(&self.end));
        recorded.unwrap_or_else(|| WireError::Lost(words.to_owned()))
    }

    /// Ends the connection when a write waits for a peer that gives no sign of life. One that does is only slow (its
    /// disk may take minutes to flush), and its own deadlines are at work; but once the run was interrupted, it gets
    /// little time, too.
    pub(super) fn watch(&self) {
        let writing_since = self.writing_since.load(Ordering::Relaxed);
        if writing_since == 0 {
            return;
        }
        let waiting = self.since(writing_since);
        if waiting > self.timeout && self.silent() {
            self.fail(&self.timed_out());
        } else if waiting > HURRIED && self.hurried.load(Ordering::Relaxed) {
            self.record(&WireError::Cancelled);
            self.abort();
        }
    }
}

/// Errors of a lane concern the others, too.
pub(super) fn copy(error: &WireError) -> WireError {
    match error {
        WireError::Timeout { seconds } => WireError::Timeout { seconds: *seconds },
        WireError::Protocol(what) => WireError::Protocol(what.clone()),
        WireError::Cancelled => WireError::Cancelled,
        WireError::Lost(why) => WireError::Lost(why.clone()),
        other => WireError::Lost(other.to_string()),
    }
}
