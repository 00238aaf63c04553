//! `clonetool recover`.

use std::path::{Path, PathBuf};

use clap::Args;
use syncore::apply::Recovered;
use syncore::record::RunKind;
use syncore::session::{self, SessionError};

use crate::error::{CommandError, harmless};
use crate::recorder::Recorder;
use crate::records::{RecordsOptions, standby_name};
use crate::run::Outcome;
use crate::ui;

/// Of a run that wrote no journal it is not known whose it was.
const UNKNOWN: &str = "?";

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
    #[command(flatten)]
    records: RecordsOptions,
}

impl RecoverArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let (text, outcome) = match recover(&self.root, &self.records)? {
            Recovered::Nothing => (nothing(&self.root)?, Outcome::Done),
            Recovered::Reverted => {
                let text =
                    "A run was interrupted before it had changed anything; what it had staged is removed\n";
                (text.to_owned(), Outcome::Done)
            }
            Recovered::Completed { generation, problems, .. } => {
                let mut text = format!("An interrupted run is complete: the root is in state {generation}\n");
                for problem in &problems {
                    text += &format!("{problem}\n");
                }
                (text, Outcome::of_problems(&problems))
            }
        };
        ui::print(&text)?;
        Ok(outcome)
    }
}

/// Makes the root whole, and records that if there was anything to do.
pub(super) fn recover(root: &Path, records: &RecordsOptions) -> Result<Recovered, CommandError> {
    let recorder = |profile: &str| {
        let recorder = Recorder::begin(records, RunKind::Recovery, &harmless(profile), false);
        recorder.ends(None, &standby_name(root));
        recorder
    };
    let recovered = match session::recover(root) {
        // It has begun to, or would have to.
        Err(error @ SessionError::Fatal { .. }) => {
            let error = CommandError::from(error);
            recorder(UNKNOWN).failed(&error);
            return Err(error);
        }
        result => result?,
    };
    match &recovered {
        Recovered::Nothing => {}
        Recovered::Reverted => recorder(UNKNOWN).restored(None, &[], &[], Outcome::Done),
        Recovered::Completed { profile, generation, problems } => {
            let outcome = Outcome::of_problems(problems);
            recorder(profile).restored(Some(*generation), &[], problems, outcome);
        }
    }
    Ok(recovered)
}

/// That no run was interrupted, and what else that may mean.
fn nothing(root: &Path) -> Result<String, CommandError> {
    let bare = session::state(root)?.generation == 0;
    let doubt = "\nNo run that changes all or nothing ever ended here: is all of the root mounted?";
    Ok(format!("No run was interrupted{}\n", if bare { doubt } else { "" }))
}
