//! How the library tells its caller what it is doing, and is told to stop.
//!
//! Why: the library is silent. It prints nothing and reads no environment; whoever calls it passes a [`Monitor`]
//! as the last argument and decides what becomes of the news. All methods may be called from several threads.

use crate::plan::Change;
use crate::problem::Problem;
use crate::tree::RelPath;

/// What a run is doing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Connecting and agreeing with the peer.
    Connect,
    /// Reading both trees' metadata.
    Scan,
    /// Finding where the trees differ.
    Compare,
    /// Sending and committing what changed.
    Transfer,
    /// Deletions, directory times, flushing to disk.
    Finish,
}

/// Receives the news of a run. Every method has a default that ignores it.
pub trait Monitor: Send + Sync {
    /// A new phase began.
    fn phase(&self, _phase: Phase) {}
    /// `entries` more were scanned on this end.
    fn scanned(&self, _entries: u64) {}
    /// The plan is made: that many changes, and that many bytes of file content behind them.
    fn planned(&self, _changes: u64, _content_bytes: u64) {}
    /// A change was carried out or handed to the peer.
    fn changed(&self, _path: &RelPath, _change: &Change) {}
    /// `bytes` more of file content are done: sent, received or found on the standby.
    fn transferred(&self, _bytes: u64) {}
    /// Something could not be done to one path, here or on the peer.
    fn problem(&self, _problem: &Problem) {}
    /// An interrupted run of `profile` was completed before anything else was done: the standby is in state `generation`,
    /// and so many paths are not as that run would have them.
    fn recovered(&self, _profile: &str, _generation: u64, _problems: u64) {}
    /// Somebody changed these paths on the standby since the run that led to state `generation`, and this run is about to
    /// replace or delete them. At most 1000 are named.
    fn changed_here(&self, _generation: u64, _paths: &[RelPath]) {}
    /// In a dry run: the standby would refuse the run, for this reason.
    fn would_refuse(&self, _reason: &str) {}
    /// Asked now and then: whether the run should stop in good order.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {}
