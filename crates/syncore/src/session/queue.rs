//! What the sender's lanes have to do.
//!
//! Why: the plan's own work is made as fast as the lanes take it, and what the receiver asks for is never kept waiting
//! behind it, or both ends would wait for each other.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

use crate::delta::BlockSums;
use crate::plan::Item;

/// How many jobs may wait for a lane before the feeder waits, too.
const JOBS_WAITING: usize = 8;

/// How much the descriptions of bases may take that wait for a lane: those of four files of a tebibyte.
const DESCRIBED_LIMIT_BYTES: usize = 1 << 30;

/// Something for a lane to do.
pub(super) enum Job {
    Small(Vec<(u32, Item)>),
    /// Files that the standby most likely has under another name.
    Moved(Vec<(u32, Item)>),
    Large(u32, Box<Item>),
    Delta(u32, Box<Item>, BlockSums),
    /// The auth set, read under one lock.
    AuthSet(Vec<(u32, Item)>),
}

/// Jobs for the lanes. The plan's own are pushed as long as few wait; what the peer asks for always has room, unless it
/// describes more than any honest one: there are never many descriptions under way.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    described_bytes: usize,
    closed: bool,
}

impl Queue {
    /// Adds a job of the plan's own; waits while many are there.
    pub(super) fn push(&self, job: Job) {
        let Ok(mut state) = self.state.lock() else { return };
        while state.jobs.len() >= JOBS_WAITING && !state.closed {
            match self.changed.wait(state) {
                Ok(waited) => state = waited,
                Err(_) => return,
            }
        }
        state.jobs.push_back(job);
        self.changed.notify_all();
    }

    /// Adds what the peer asks for; false when it asks for too much at once.
    pub(super) fn push_asked(&self, number: u32, item: Item, sums: BlockSums) -> bool {
        let Ok(mut state) = self.state.lock() else { return false };
        state.described_bytes += sums.memory_bytes();
        state.jobs.push_back(Job::Delta(number, Box::new(item), sums));
        self.changed.notify_all();
        state.described_bytes <= DESCRIBED_LIMIT_BYTES
    }

    pub(super) fn close(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.closed = true;
        }
        self.changed.notify_all();
    }

    pub(super) fn pop(&self) -> Option<Job> {
        let mut state = self.state.lock().ok()?;
        loop {
            if let Some(job) = state.jobs.pop_front() {
                if let Job::Delta(_, _, sums) = &job {
                    state.described_bytes -= sums.memory_bytes();
                }
                self.changed.notify_all();
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).ok()?;
        }
    }
}
