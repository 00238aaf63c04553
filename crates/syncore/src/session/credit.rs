//! How far the description of bases may run ahead of their content.
//!
//! Why: a description is memory at both ends. What can go wrong: who waits while the other has ended; an end wakes all.

use std::sync::{Condvar, Mutex};

/// How many basis files may be described before the first of them is settled.
const BASES_AHEAD: usize = 4;

/// Lets the summing of bases run only so far ahead.
#[derive(Default)]
pub(super) struct Credit {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Credit {
    /// Waits until fewer than [`BASES_AHEAD`] are under way; false when it is over.
    pub(super) fn take(&self) -> bool {
        let Ok(mut state) = self.state.lock() else { return false };
        while state.0 >= BASES_AHEAD && !state.1 {
            match self.changed.wait(state) {
                Ok(waited) => state = waited,
                Err(_) => return false,
            }
        }
        state.0 += 1;
        !state.1
    }

    pub(super) fn give_back(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.0 = state.0.saturating_sub(1);
        }
        self.changed.notify_all();
    }

    pub(super) fn end(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.1 = true;
        }
        self.changed.notify_all();
    }
}
