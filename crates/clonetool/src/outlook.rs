//! What is known of a standby besides its records: what its profile asks for, when it is due, and what its root says where
//! that is on this host.
//!
//! Why: `status`, `check` and `metrics` judge by the same. What can go wrong: a question that hangs or takes a lock in
//! the way of a run; nothing here connects to another host, and a root is only read. What cannot be told is no good news:
//! it is kept, and said.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncore::prepare::{self, Journal};
use syncore::profile::Profile;
use syncore::record::Standing;
use syncore::rules::FollowUp;
use syncore::scan::Root;
use syncore::session;
use syncore::tree::{escape, unescape};

use crate::arguments::Place;
use crate::error::CommandError;
use crate::local_time::LocalTime;
use crate::profiles;
use crate::ui;

/// So many missed runs are counted.
pub(crate) const MISSED_LIMIT: usize = 1000;

/// What is known of one standby besides its records.
pub(crate) struct Outlook {
    /// The profile as it is now, or why it cannot be read.
    pub(crate) profile: Result<Profile, CommandError>,
    /// When it runs; none without a calendar, and for ends that are not those of the profile: nothing starts such runs.
    pub(crate) due: Option<Result<Due, CommandError>>,
    /// What the root says, where it is on this host and there is something to say.
    pub(crate) root: Option<Result<RootState, CommandError>>,
}

/// When a profile runs.
pub(crate) struct Due {
    /// The next time, in seconds since 1970.
    pub(crate) next: Option<i64>,
    /// How many runs did not begin since the last one that did.
    pub(crate) missed: usize,
    /// The next time for people.
    pub(crate) shown: String,
}

/// What a standby root on this host says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RootState {
    /// What runs have made of it.
    pub(crate) state: session::State,
    /// The name that `prepare-root` gave it; none if it was not prepared.
    pub(crate) prepared_as: Option<String>,
    /// Whether that preparation came to its end.
    pub(crate) complete: bool,
    /// What a sync left undone.
    pub(crate) left: BTreeSet<FollowUp>,
    path: PathBuf,
}

impl Outlook {
    /// What is known of a standby at `now_seconds`.
    pub(crate) fn of(standing: &Standing<'_>, now_seconds: u64) -> Self {
        let name =
            unescape(standing.profile).map_or_else(|| OsString::from(standing.profile), OsString::from_vec);
        let profile = profiles::load(&name);
        let due = profile.as_ref().ok().filter(|profile| is_own(profile, standing)).and_then(|profile| {
            let calendar = profile.schedule.calendar.as_ref()?;
            Some(LocalTime::of(Path::new("/")).map(|zone| {
                let (after, now) = (signed(standing.last.started_seconds), signed(now_seconds));
                let offset = |moment| zone.ahead(moment);
                let next = calendar.next_due(now, &offset);
                let missed = calendar.overdue(after, now, MISSED_LIMIT, &offset);
                let shown = next.map_or_else(|| "never".to_owned(), |next| zone.shown(next));
                Due { next, missed, shown }
            }))
        });
        let root = standing.destination.filter(|place| place.starts_with('/')).and_then(unescape);
        let root = root.and_then(|path| RootState::of(Path::new(&OsString::from_vec(path))).transpose());
        Self { profile, due, root }
    }

    /// How old the standby may be, in seconds; none when that is not said or cannot be told.
    pub(crate) fn rpo_seconds(&self) -> Option<u64> {
        self.profile.as_ref().ok()?.schedule.rpo.map(|rpo| rpo.as_secs())
    }

    /// How many runs did not begin since the last one that did; none when nothing says when they should.
    pub(crate) fn missed(&self) -> Option<usize> {
        Some(self.due.as_ref()?.as_ref().ok()?.missed)
    }

    /// What the root says, as far as it can be told.
    pub(crate) fn root(&self) -> Option<&RootState> {
        self.root.as_ref()?.as_ref().ok()
    }

    /// The state that the standby is in: by its root where that is here, else as far as the records go.
    pub(crate) fn generation(&self, standing: &Standing<'_>) -> Option<u64> {
        let told = self.root().map(|root| root.state.generation).filter(|state| *state > 0);
        told.or(standing.generation)
    }

    /// When the next run is due.
    pub(crate) fn next(&self) -> Option<i64> {
        self.due.as_ref()?.as_ref().ok()?.next
    }
}

impl RootState {
    /// What the root at `path` says; none when it is not there, or there is nothing to say.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>, CommandError> {
        if !path.exists() {
            return Ok(None);
        }
        let state = session::state(path)?;
        let told = |reason: std::io::Error| {
            let path = escape(path.as_os_str().as_encoded_bytes());
            CommandError::failed(format!("cannot read what was prepared in {path}: {reason}"))
        };
        let journal = Root::open(path).map_err(Into::into).and_then(|root| Journal::read(&Arc::new(root)));
        let journal = journal.map_err(told)?;
        if journal.is_none()
            && state == (session::State { generation: 0, suspended: false, interrupted: false })
        {
            return Ok(None);
        }
        let left = prepare::left(path)?;
        let complete = journal.as_ref().is_none_or(|journal| journal.complete);
        let prepared_as = journal.map(|journal| journal.hostname);
        Ok(Some(Self { state, prepared_as, complete, left, path: path.to_owned() }))
    }

    /// How many things are held back in it. It compares what a sync brought since, so only who shows it asks.
    pub(crate) fn held(&self) -> Result<usize, CommandError> {
        if self.prepared_as.is_none() {
            return Ok(0);
        }
        Ok(prepare::held(&self.path)?.len())
    }
}

impl RootState {
    /// What a sync left undone, in words.
    pub(crate) fn left_undone(&self) -> String {
        let left: Vec<&str> = self.left.iter().map(|left| left.words()).collect();
        format!("left undone by a sync: {}", left.join(", "))
    }
}

/// Whether these are the ends that the profile itself names, which are those of the runs that a schedule starts.
fn is_own(profile: &Profile, standing: &Standing<'_>) -> bool {
    let shown = |path: &Path| escape(path.as_os_str().as_encoded_bytes());
    let place = match &profile.standby.address {
        None => Some(shown(&profile.standby.root)),
        Some(address) => match Place::on_host(address, profile.standby.root.clone()) {
            Ok(Place::Remote { host, path, .. }) => Some(ui::on_host(&host, &path)),
            _ => None,
        },
    };
    standing.source == Some(&shown(&profile.source.root)) && standing.destination == place.as_deref()
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
