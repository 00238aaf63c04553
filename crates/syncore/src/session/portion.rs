//! Which part of the files a content check reads this time.
//!
//! Why: the end that starts the run has one of the two trees, and what is in scope of it is about as long as that of the
//! other, so it measures there and tells both. What can go wrong: a tree that changes meanwhile; a slice has its ends by
//! name, so both read between the same names whatever came or went.

use std::sync::Arc;

use crate::monitor::Monitor;
use crate::rules::RuleSet;
use crate::scan::{Measured, Root, View, measure};
use crate::session::{Job, SessionError};
use crate::wire::Start;

/// Measures the part that `job` asks for in the tree at `root`, and has `start` say it.
///
/// # Errors
/// [`SessionError`] when the root cannot be read, or the monitor asked to stop.
pub(super) fn choose(
    job: &Job,
    start: &mut Start,
    root: Option<Arc<Root>>,
    monitor: &dyn Monitor,
) -> Result<Option<Measured>, SessionError> {
    let (Some(portion), Some(root)) = (&job.options.portion, root) else { return Ok(None) };
    let view = View {
        root,
        rules: Arc::new(RuleSet::compile(start.rules.clone())?),
        boundaries: Arc::new(start.boundaries.clone()),
        checksum: false,
        slice: None,
        presented: Arc::default(),
        names: start.names,
        bare: None,
    };
    let measured = measure(&view, portion.after.clone(), portion.budget_bytes, monitor);
    let measured = measured.map_err(|error| SessionError::Fatal {
        operation: "measure what is to be checked",
        reason: std::io::Error::from(error).to_string(),
    })?;
    let measured = measured.ok_or(SessionError::Cancelled)?;
    start.slice = Some(measured.slice.clone());
    Ok(Some(measured))
}
