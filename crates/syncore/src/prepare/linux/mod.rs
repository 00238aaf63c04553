//! Plans what becomes of a Linux root.
//!
//! Why: the order matters: names before devices, devices before the initramfs that bakes them in, the initramfs before
//! the boot loader that names it. What can go wrong: a file that one distribution has and another has not; each planner
//! looks before it edits.

mod agents;
mod distribution;
mod held;
mod hostkeys;
mod identity;
mod names;
mod network;
#[cfg(test)]
pub(super) mod testing;
mod units;

use super::draft::Draft;
use super::{Family, PrepareError, Task};

/// Plans everything.
pub(super) fn plan(task: &Task<'_>, family: Family, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    identity::plan(task, draft)?;
    let own = network::plan(task, family, draft)?;
    hostkeys::plan(task, &own, draft)?;
    agents::plan(task, draft)?;
    // After everything that removes for good, so that nothing is held that is gone.
    held::plan(draft)
}
