//! What a run tells besides its record: a log file a day, the system's log, and a program of the administrator.
//!
//! Why: nobody watches what cron starts. What can go wrong: a listener that fails or hangs; whatever happens here is said
//! on standard error at most, and changes nothing of how the run ended.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Args;
use syncore::profile::Profile;
use syncore::record::{GateAnswer, Record, announce};

use crate::day_log::DayLog;
use crate::records::now_seconds;
use crate::{syslog, ui};

/// Where schedules have runs of root log.
pub(crate) const LOG_DIRECTORY: &str = "/var/log/clonetool";

/// What a run that nobody watches tells.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Unattended runs")]
pub(crate) struct UnattendedOptions {
    /// Append to a file of the profile and the day in DIR: start, gates, problems, durations and outcome
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Remove such files of the profile after N days
    #[arg(long, value_name = "N", default_value_t = 31, requires = "log_dir")]
    log_days: u64,
    /// Tell syslog how it ended, as user.err if it did not go well, else as user.info
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = syslog::SOCKET)]
    syslog: Option<PathBuf>,
    /// Run PROGRAM when the run has ended, in place of the profile's on-event; its input is the record
    #[arg(long, value_name = "PROGRAM")]
    on_event: Option<PathBuf>,
}

/// Tells it.
#[derive(Default)]
pub(crate) struct Unattended {
    options: UnattendedOptions,
    /// Opened by the first line; none when it cannot be.
    log: OnceLock<Option<DayLog>>,
    /// What the profile says of events.
    on_event: OnceLock<(Vec<String>, Duration)>,
}

/// How long a program may take that no profile has.
const PATIENCE: Duration = Duration::from_secs(60);

impl Unattended {
    pub(crate) fn new(options: UnattendedOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// The profile is known.
    pub(crate) fn profile(&self, profile: &Profile) {
        let command = profile.on_event.as_ref().map(|event| event.command.clone()).unwrap_or_default();
        let _ = self.on_event.set((command, profile.on_event_timeout));
    }

    /// The run knows its ends.
    pub(crate) fn began(&self, run: &Record) {
        if let Some(log) = self.log(run) {
            log.began(run);
        }
    }

    /// A gate answered.
    pub(crate) fn gate(&self, answer: &GateAnswer) {
        if let Some(Some(log)) = self.log.get() {
            log.gate(answer);
        }
    }

    /// The run ended.
    pub(crate) fn ended(&self, run: &Record) {
        // One that ended before it knew its ends has not begun there yet.
        let begun = self.log.get().is_some();
        if let Some(log) = self.log(run) {
            if !begun {
                log.began(run);
            }
            log.ended(run, now_seconds());
        }
        if let Some(socket) = &self.options.syslog {
            syslog::tell(socket, run, now_seconds());
        }
        if let Err(error) = self.announce(run) {
            ui::alert(&format!("on-event: {error}"));
            if let Some(log) = self.log(run) {
                log.line(&format!("on-event: {error}"));
            }
        }
    }

    /// Calls the program that is to be told.
    fn announce(&self, run: &Record) -> Result<(), String> {
        let (command, limit) = match (&self.options.on_event, self.on_event.get()) {
            (Some(program), profile) => {
                let path = std::path::absolute(program).map_err(|error| error.to_string())?;
                let path = path.into_os_string().into_string();
                let path = path.map_err(|_| "the path of the program is not UTF-8".to_owned())?;
                (vec![path], profile.map_or(PATIENCE, |(_, limit)| *limit))
            }
            (None, Some((command, limit))) => (command.clone(), *limit),
            (None, None) => return Ok(()),
        };
        announce(&command, run, limit).map_err(|error| error.to_string())
    }

    fn log(&self, run: &Record) -> Option<&DayLog> {
        let directory = self.options.log_dir.as_ref()?;
        let open = || {
            let opened = DayLog::open(directory, self.options.log_days, run);
            opened.inspect_err(|error| ui::alert(&format!("{}; the run is not logged", error.message))).ok()
        };
        self.log.get_or_init(open).as_ref()
    }
}
