//! How far the description of bases may run ahead of their content.
//!
//! Why: a description is memory at both ends. What can go wrong: who waits while the other has ended; an end wakes all.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex};

/// How many basis files may be described before the first of them is settled.
const BASES_AHEAD: usize = 4;

/// Lets the summing of bases run only so far ahead.
#[derive(Default)]
pub(super) struct Credit {
    /// The items that are under way, and whether it is over.
    state: Mutex<(HashSet<u32>, bool)>,
    changed: Condvar,
}

impl Credit {
    /// Waits until fewer than [`BASES_AHEAD`] are under way, and adds this item to them; false when it is over.
    pub(super) fn take(&self, item: u32) -> bool {
        let Ok(mut state) = self.state.lock() else { return false };
        while state.0.len() >= BASES_AHEAD && !state.1 {
            match self.changed.wait(state) {
                Ok(waited) => state = waited,
                Err(_) => return false,
            }
        }
        state.0.insert(item);
        !state.1
    }

    /// Says that an item is settled, whatever became of it; true when it was under way.
    pub(super) fn give_back(&self, item: u32) -> bool {
        let was = self.state.lock().is_ok_and(|mut state| state.0.remove(&item));
        if was {
            self.changed.notify_all();
        }
        was
    }

    pub(super) fn end(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.1 = true;
        }
        self.changed.notify_all();
    }
}
