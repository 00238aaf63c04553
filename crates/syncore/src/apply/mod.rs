//! The receiver's hands: makes, replaces, links and deletes on the standby.
//!
//! Why: here is where an error costs a server. Every operation names one component in a held directory; what is
//! new is made under a stage name beside its place, finished and checked there, and renamed; nothing is ever
//! half-written under its final name. What can go wrong: the standby is alive, too. Whatever was planned is looked
//! at again before it is replaced, and what is no longer as planned becomes a problem instead of being overwritten.

mod behind;
pub(in crate::apply) mod commit;
mod copy;
mod directory;
mod displace;
mod metadata;
mod moved;
mod rewrite;
mod stage;
mod together;
mod update;
mod whole;

pub use commit::{Committer, NamesOf};
pub use copy::Copied;
pub use directory::{Directories, Directory};
pub use stage::{FileWriter, WriteError};
pub use whole::{
    Back, BackError, Generation, Ledger, MadeBy, OnTheWay, Recovered, generation, generations,
    is_interrupted, last_change, left_over, recover, roll_back, suspended, unsuspend,
};

pub(crate) use displace::{directory_like, displace, exchange, replace};
pub(crate) use metadata::{ALL, LOCKING_FLAGS};
pub(crate) use rewrite::rewrite;
pub(crate) use whole::{ELSEWHERE, PLAIN_HOME, has_areas};

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::problem::{Operation, Problem};
use crate::tree::RelPath;

/// Problems of one end, collected from all its threads.
#[derive(Debug, Default)]
pub struct Problems(Mutex<Vec<Problem>>);

impl Problems {
    /// Adds one.
    pub fn add(&self, problem: Problem) {
        if let Ok(mut problems) = self.0.lock() {
            problems.push(problem);
        }
    }

    /// Adds one for `path`.
    pub fn note(&self, path: &RelPath, operation: Operation, reason: impl std::fmt::Display) {
        self.add(Problem::new(path, operation, reason));
    }

    /// Takes all that were added.
    #[must_use]
    pub fn take(&self) -> Vec<Problem> {
        self.0.lock().map(|mut problems| std::mem::take(&mut *problems)).unwrap_or_default()
    }
}

/// Makes stage names that no other run uses.
#[derive(Debug)]
pub(crate) struct StageNames {
    next: AtomicU64,
}

impl StageNames {
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher, Hasher};
        // The standard library seeds this from the system's randomness; a clash would only cost a retry.
        let seed = std::collections::hash_map::RandomState::new().build_hasher().finish();
        Self { next: AtomicU64::new(seed) }
    }

    pub(crate) fn next(&self) -> Vec<u8> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut name = crate::scan::STAGE_PREFIX.to_vec();
        name.extend_from_slice(format!("{number:016x}").as_bytes());
        name
    }
}
