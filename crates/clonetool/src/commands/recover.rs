//! `clonetool recover`.

use std::path::PathBuf;

use clap::Args;
use syncore::apply::Recovered;
use syncore::session;

use crate::error::CommandError;
use crate::run::Outcome;
use crate::ui;

/// Finish or revert an interrupted run on a standby root
///
/// A run that was cut off before it had changed anything is reverted, one that had begun to is completed from what it
/// had brought; production is not needed. The next run does the same by itself: this is for a standby that has to serve
/// first, and for one that is mounted at a rescue prompt.
#[derive(Debug, Args)]
pub(crate) struct RecoverArguments {
    /// Recover the root that is mounted here
    #[arg(default_value = "/")]
    root: PathBuf,
}

impl RecoverArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        Ok(match session::recover(&self.root)? {
            Recovered::Nothing => {
                ui::print("No run was interrupted\n")?;
                Outcome::Done
            }
            Recovered::Reverted => {
                ui::print(
                    "A run was interrupted before it had changed anything; what it had staged is removed\n",
                )?;
                Outcome::Done
            }
            Recovered::Completed { generation, problems } => {
                let mut text = format!("An interrupted run is complete: the root is in state {generation}\n");
                for problem in &problems {
                    text += &format!("{problem}\n");
                }
                ui::print(&text)?;
                if problems.is_empty() { Outcome::Done } else { Outcome::Problems }
            }
        })
    }
}
