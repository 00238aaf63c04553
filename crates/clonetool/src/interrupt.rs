//! Ctrl-C and the other termination signals.
//!
//! Why: a run that is told to stop must stop in good order, with nothing half-written under its final name. The
//! first SIGINT, SIGTERM or SIGHUP only sets a flag, which the monitor reports to the library; the second one ends
//! the process at once, for the user who does not want to wait.

use std::sync::atomic::{AtomicBool, Ordering};

use syncore::session::SessionError;

use crate::error::{self, CommandError};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs the handlers; call once, before a run begins.
pub(crate) fn install() -> Result<(), CommandError> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(error::FAILED));
        }
    })
    .map_err(|e| CommandError::failed(format!("cannot install the signal handlers: {e}")))
}

/// Whether a signal asked the run to stop.
pub(crate) fn requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Ends what a signal asked to stop.
///
/// # Errors
/// That it was interrupted.
pub(crate) fn check() -> Result<(), CommandError> {
    if requested() { Err(SessionError::Cancelled.into()) } else { Ok(()) }
}
