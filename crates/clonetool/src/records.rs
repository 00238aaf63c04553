//! Where records are, and which of them a question is about.
//!
//! Why: `history`, `status`, `check` and `metrics` read the same records and mean the same profiles. What can go wrong:
//! two files that pass for one profile, or one that passes for two; so all of them go by [`profiles::kept_name`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use syncore::record::{History, RecordError, Standing, Store, standings};
use syncore::tree::escape;

use crate::error::CommandError;
use crate::profiles;

/// Where records are unless somebody says otherwise.
pub(crate) const DIRECTORY: &str = "/var/lib/clonetool/records";

/// Where records are.
#[derive(Debug, Args)]
pub(crate) struct RecordsOptions {
    /// Keep and look for the records of runs in DIR
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    records: PathBuf,
}

impl RecordsOptions {
    /// The directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.records
    }

    /// Reads all records; none when there is no such directory.
    pub(crate) fn read(&self) -> Result<History, CommandError> {
        let store = Store::open(&self.records).map_err(CommandError::from)?;
        store.map_or_else(|| Ok(History::default()), |store| store.read().map_err(CommandError::from))
    }
}

impl From<RecordError> for CommandError {
    fn from(error: RecordError) -> Self {
        let hint = match &error {
            RecordError::Directory { .. } => {
                "they are root's own: run it as root, or name another place with --records"
            }
            _ => "make room or a place for it, and run the same command again",
        };
        Self::failed(error).hint(hint)
    }
}

/// The time by this host's clock; 0 when that is before the epoch.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same in whole seconds.
pub(crate) fn now_seconds() -> u64 {
    since_epoch().as_secs()
}

/// How records name a standby root that is mounted on this host, as those of a sync to it do.
pub(crate) fn standby_name(root: &Path) -> String {
    let path = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    escape(path.as_os_str().as_encoded_bytes())
}

/// Which standbys are asked about.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Ask about these profiles: all that have records, unless some are named
    profile: Vec<OsString>,
    /// Ask about this standby alone, where a profile has several
    #[arg(long, value_name = "DESTINATION")]
    destination: Option<String>,
    #[command(flatten)]
    records: RecordsOptions,
}

impl Selection {
    /// Reads all records.
    pub(crate) fn read(&self) -> Result<History, CommandError> {
        self.records.read()
    }

    /// The directory of the records.
    pub(crate) fn directory(&self) -> String {
        escape(self.records.records.as_os_str().as_encoded_bytes())
    }

    /// What the records say of the selected standbys, and the named profiles of which there is no record.
    pub(crate) fn standings<'a>(&self, history: &'a History) -> (Vec<Standing<'a>>, Vec<String>) {
        let named: Vec<String> = self.profile.iter().map(|name| profiles::kept_name(name)).collect();
        // Records do not say as whom a host is reached.
        let host = |place: &str| place.split_once('@').map_or(place.to_owned(), |(_, rest)| rest.to_owned());
        let meant = |standing: &Standing<'_>| {
            let profile = named.is_empty() || named.iter().any(|name| name == standing.profile);
            let place = self.destination.as_ref();
            profile
                && place.is_none_or(|place| {
                    standing.destination.is_some_and(|to| to == place || to == host(place))
                })
        };
        let found: Vec<Standing<'_>> = standings(&history.records).into_iter().filter(meant).collect();
        let absent = |name: &String| !found.iter().any(|standing| standing.profile == name);
        let without = named.into_iter().filter(absent).collect();
        (found, without)
    }
}

/// What is damaged, for people.
pub(crate) fn damaged_lines(history: &History) -> Vec<String> {
    let line = |damaged: &syncore::record::Damaged| {
        format!("a record cannot be read: {}: {}", damaged.path, escape(damaged.reason.as_bytes()))
    };
    history.damaged.iter().map(line).collect()
}
