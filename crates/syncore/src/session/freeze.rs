//! A moment of the source is made for a run.
//!
//! Why here: the password files make sense together only under their lock, and in a snapshot it is too late to take it.
//! So where a run carries them, the lock of the live system is held while the snapshot is made, and what it shows is
//! whole. What can go wrong: somebody who holds that lock for long; then there is no snapshot and no run.

use crate::frozen::{FreezeError, Frozen};
use crate::monitor::Monitor;
use crate::profile::Snapshot;
use crate::rules::RuleSet;
use crate::session::auth::{self, PasswordLock};
use crate::session::{Job, Location, SessionError, agree};

/// Makes the moment of `job`'s source that [`run_under`](crate::session::run_under) reads, under the name of `profile`.
/// [`Frozen::remove`] ends it.
///
/// # Errors
/// [`SessionError::Freeze`] when none can be made; [`SessionError::Refused`] when the source is on another host.
pub fn freeze(
    job: &Job,
    profile: &str,
    settings: &Snapshot,
    monitor: &dyn Monitor,
) -> Result<Frozen, SessionError> {
    let Location::Local(source) = &job.source else {
        return Err(SessionError::Refused(
            "source.snapshot is for a source on this host, and this one is on another: run the profile there"
                .to_owned(),
        ));
    };
    let _lock = match auth::files(&RuleSet::compile(job.rules.clone())?).is_empty() {
        true => None,
        false => {
            let lock = PasswordLock::take(&agree::open_root(source, "source")?);
            let failed = |error| FreezeError::Failed {
                operation: "make the snapshot while nobody changes the password files".to_owned(),
                reason: std::io::Error::from(error).to_string(),
            };
            Some(lock.map_err(failed)?)
        }
    };
    Ok(Frozen::make(source, &job.options.also, profile, settings, monitor)?)
}
