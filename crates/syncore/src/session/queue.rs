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

/// Jobs for the lanes. The plan's own are pushed as long as few wait; what the peer asks for always has room.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<(VecDeque<Job>, bool)>,
    changed: Condvar,
}

impl Queue {
    pub(super) fn push(&self, job: Job, wait: bool) {
        let Ok(mut state) = self.state.lock() else { return };
        while wait && state.0.len() >= JOBS_WAITING && !state.1 {
            match self.changed.wait(state) {
                Ok(waited) => state = waited,
                Err(_) => return,
            }
        }
        state.0.push_back(job);
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.1 = true;
        }
        self.changed.notify_all();
    }

    pub(super) fn pop(&self) -> Option<Job> {
        let mut state = self.state.lock().ok()?;
        loop {
            if let Some(job) = state.0.pop_front() {
                self.changed.notify_all();
                return Some(job);
            }
            if state.1 {
                return None;
            }
            state = self.changed.wait(state).ok()?;
        }
    }
}
