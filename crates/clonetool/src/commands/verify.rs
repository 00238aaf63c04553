//! `clonetool verify`.

use std::ffi::OsString;

use clap::Args;
use syncore::profile::Profile;
use syncore::record::RunKind;
use syncore::session::{Job, Options};

use crate::arguments::quantity::budget;
use crate::arguments::{ConnectionOptions, OutputOptions, Place, ScopeOptions};
use crate::attest;
use crate::error::CommandError;
use crate::profiles;
use crate::recorder::Recorder;
use crate::records::RecordsOptions;
use crate::run::{self, Outcome, Purpose};

/// Compare content and metadata, and change nothing
///
/// Prints a line for each difference, in the form of rsync's --itemize-changes: what would have to happen to
/// DESTINATION. What is only in DESTINATION is a difference, too.
#[derive(Debug, Args)]
#[command(override_usage = "clonetool verify [OPTIONS] <SOURCE> <DESTINATION>\n       \
                            clonetool verify [OPTIONS] --profile <PROFILE>")]
pub(crate) struct VerifyArguments {
    /// Compare this tree: PATH or [USER@]HOST:PATH
    #[arg(value_name = "SOURCE", required_unless_present = "profile", requires = "to")]
    from: Option<OsString>,
    /// With this one: PATH or [USER@]HOST:PATH
    #[arg(value_name = "DESTINATION")]
    to: Option<OsString>,
    /// Compare what this profile syncs, under its rules
    #[arg(long, value_name = "PROFILE", conflicts_with_all = ["from", "to"])]
    profile: Option<OsString>,
    /// Read this tree in place of the profile's source
    #[arg(long, value_name = "SOURCE", requires = "profile", conflicts_with_all = ["from", "to"])]
    source: Option<OsString>,
    /// Compare with this tree in place of the profile's standby
    #[arg(long, value_name = "DESTINATION", requires = "profile", conflicts_with_all = ["from", "to"])]
    destination: Option<OsString>,
    /// Look for drift alone, and read SIZE of content on each end (500M, 2GiB): the next run goes on from there
    ///
    /// Drift is a file whose content differs although size and time agree, which no sync sees. What else differs is
    /// counted, and is for the next sync. Of what the profile syncs, a part is read that is no longer than SIZE, but a
    /// file at least; at the end of the tree the lap ends and the next run begins anew.
    #[arg(long, value_name = "SIZE", requires = "profile", conflicts_with_all = ["from", "to"], value_parser = budget)]
    budget: Option<u64>,
    #[command(flatten)]
    scope: ScopeOptions,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    records: RecordsOptions,
}

impl VerifyArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let Some(profile) = &self.profile else {
            return run::execute(Purpose::Verify, &self.output, |_| self.job().map(Into::into));
        };
        let name = profiles::kept_name(profile);
        let recorder = Recorder::begin(&self.records, RunKind::Verify, &name, self.scope.any());
        match self.budget {
            Some(budget_bytes) => {
                let place = (self.records.directory(), &name[..]);
                attest::execute(place, budget_bytes, &self.output, recorder, || self.job())
            }
            None => run::execute_recorded(Purpose::Verify, &self.output, Some(recorder), |_| {
                self.job().map(Into::into)
            }),
        }
    }

    fn job(&self) -> Result<Job, CommandError> {
        // Deletions are asked for so that what is only in the destination is seen; the dry run carries none out.
        let mut options = Options { dry_run: true, checksum: true, delete: true, ..Options::default() };
        let profile = self.profile.as_deref().map(profiles::load).transpose()?;
        let (source, destination) = match (&profile, &self.from, &self.to) {
            (Some(profile), ..) => self.connection.locate_profiled(
                profile,
                self.source.as_deref(),
                self.destination.as_deref(),
            )?,
            (None, Some(from), Some(to)) => {
                self.connection.locate(Place::parse(from)?, Place::parse(to)?, None)?
            }
            _ => return Err(CommandError::usage("name SOURCE and DESTINATION, or --profile PROFILE")),
        };
        let rules = self.scope.rules(profile.as_ref().map(Profile::rules).unwrap_or_default())?;
        self.scope.apply(profile.as_ref(), &mut options);
        self.connection.apply(&mut options)?;
        Ok(Job { source, destination, rules, options })
    }
}
