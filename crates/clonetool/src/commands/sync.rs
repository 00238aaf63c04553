//! `clonetool sync`, and the arguments that `plan` shares with it.

use std::ffi::OsString;

use clap::Args;
use syncore::session::{Job, Options};

use crate::arguments::{ChangeOptions, ConnectionOptions, OutputOptions, ScopeOptions};
use crate::error::CommandError;
use crate::profiles;
use crate::run::{self, Outcome, Purpose};

/// Bring a standby up to date under a profile
///
/// Prints nothing on success unless somebody watches or asks.
#[derive(Debug, Args)]
pub(crate) struct SyncArguments {
    #[command(flatten)]
    profile: ProfiledArguments,
    /// Make the plan, print it and stop
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// What `sync` and `plan` have in common.
#[derive(Debug, Args)]
pub(super) struct ProfiledArguments {
    /// Use this profile: a path, or a name in /etc/clonetool/profiles or among the shipped ones
    profile: OsString,
    /// Read this tree in place of the profile's source
    #[arg(long, value_name = "SOURCE")]
    source: Option<OsString>,
    /// Change this tree in place of the profile's standby
    #[arg(long, value_name = "DESTINATION")]
    destination: Option<OsString>,
    #[command(flatten)]
    change: ChangeOptions,
    #[command(flatten)]
    scope: ScopeOptions,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl SyncArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        self.profile.run(if self.dry_run { Purpose::Plan } else { Purpose::Change })
    }
}

impl ProfiledArguments {
    pub(super) fn run(&self, purpose: Purpose) -> Result<Outcome, CommandError> {
        run::execute(purpose, &self.output, |_| self.job(purpose))
    }

    fn job(&self, purpose: Purpose) -> Result<Job, CommandError> {
        let profile = profiles::load_to_run(&self.profile)?;
        let (source, destination) =
            self.connection.locate_profiled(&profile, self.source.as_deref(), self.destination.as_deref())?;
        let mut options = Options {
            dry_run: purpose == Purpose::Plan,
            delete: profile.delete.enabled,
            ..Options::default()
        };
        self.change.apply(&mut options);
        self.scope.apply(Some(&profile), &mut options);
        self.connection.apply(&mut options)?;
        Ok(Job { source, destination, rules: self.scope.rules(profile.rules())?, options })
    }
}
