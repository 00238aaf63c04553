//! `clonetool schedule`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use syncore::session;

use crate::error::CommandError;
use crate::run::Outcome;
use crate::ui;

/// Say when runs may change a standby
#[derive(Debug, Args)]
pub(crate) struct ScheduleArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Let runs change the standby again after a rollback
    Resume {
        /// Of the root that is mounted here
        #[arg(long, value_name = "ROOT", default_value = "/")]
        root: PathBuf,
    },
}

impl ScheduleArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let Action::Resume { root } = &self.action;
        let text = if session::resume(root)? {
            "Runs may change this standby again\n"
        } else {
            "Runs were not suspended\n"
        };
        ui::print(text)?;
        Ok(Outcome::Done)
    }
}
