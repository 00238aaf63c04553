//! Plans what becomes of a Linux root.
//!
//! Why: the order matters: names before devices, devices before the initramfs that bakes them in, the initramfs before
//! the boot loader that names it. What can go wrong: a file that one distribution has and another has not; each planner
//! looks before it edits.

mod distribution;
mod held;
mod identity;
mod names;
#[cfg(test)]
pub(super) mod testing;
mod units;

use super::draft::Draft;
use super::{Family, PrepareError, Task};

/// Plans everything.
pub(super) fn plan(task: &Task<'_>, family: Family, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let _ = family;
    identity::plan(task, draft)?;
    held::plan(draft)
}
