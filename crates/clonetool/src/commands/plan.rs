//! `clonetool plan`.

use clap::Args;

use super::sync::RunArguments;
use crate::arguments::DeleteOptions;
use crate::error::CommandError;
use crate::run::{Outcome, Purpose};

/// Say what sync would do (the same as sync --dry-run)
///
/// Prints a line for each change, in the form of rsync's --itemize-changes, and changes nothing. If the standby would
/// refuse the run, because too much would be deleted or it was rolled back, it says so.
#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    profile: RunArguments,
}

impl PlanArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        self.profile.run(Purpose::Plan, &DeleteOptions::default(), None)
    }
}
