//! `clonetool rollback`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use syncore::apply::{Back, Generation, MadeBy};
use syncore::monitor::Silent;
use syncore::record::RunKind;
use syncore::session;
use syncore::tree::RelPath;

use super::recover::recover;
use crate::error::CommandError;
use crate::profiles;
use crate::recorder::Recorder;
use crate::records::{RecordsOptions, standby_name};
use crate::run::Outcome;
use crate::ui;

/// Put a standby back to what it was before a run
///
/// Run it on the standby. Undoes the latest run of PROFILE, or with --to all that came after that state, exactly: content,
/// metadata and names. No run changes the standby after that until `clonetool schedule resume`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArguments {
    /// Undo runs of this profile: its name, or the path of its file as it was on the host that ran it
    profile: OsString,
    /// Go back to this state, as --list shows them
    #[arg(long, value_name = "STATE")]
    to: Option<u64>,
    /// Put back only what is at or below PATH
    #[arg(long, value_name = "PATH")]
    path: Vec<OsString>,
    /// Roll back the root that is mounted here
    #[arg(long, value_name = "ROOT", default_value = "/")]
    root: PathBuf,
    /// List the runs that can be undone, and stop
    #[arg(long, conflicts_with_all = ["to", "path", "dry_run"])]
    list: bool,
    /// Say what would be put back, and stop
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    records: RecordsOptions,
}

impl RollbackArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let profile = profiles::kept_name(&self.profile);
        if !self.list && !self.dry_run {
            recover(&self.root, &self.records)?;
        }
        let kept = session::generations(&self.root)?;
        if self.list {
            ui::print(&list(kept.iter().filter(|generation| generation.profile == profile)))?;
            return Ok(Outcome::Done);
        }
        if !kept.iter().any(|generation| generation.profile == profile) {
            return Err(not_kept(&profile, &kept));
        }
        let path = |path: &OsString| {
            RelPath::from_absolute(path.as_bytes())
                .map_err(|error| CommandError::usage(format!("--path {}: {error}", path.display())))
        };
        let paths = self.path.iter().map(path).collect::<Result<Vec<_>, _>>()?;
        // What cannot be is said before anything is done, and is no run.
        let planned = session::roll_back(&self.root, &profile, self.to, &paths, true, &Silent)?;
        if self.dry_run {
            ui::print(&report(&planned, true))?;
            return Ok(Outcome::of_problems(&planned.problems));
        }
        let recorder = Recorder::begin(&self.records, RunKind::Rollback, &profile, !paths.is_empty());
        recorder.ends(None, &standby_name(&self.root));
        let result = session::roll_back(&self.root, &profile, self.to, &paths, false, &Silent);
        let back = result.map_err(CommandError::from).inspect_err(|error| recorder.failed(error))?;
        let outcome = Outcome::of_problems(&back.problems);
        recorder.restored(back.state, &back.undone, &back.problems, outcome);
        ui::print(&report(&back, false))?;
        Ok(outcome)
    }
}

/// That there is no such profile here, and which ones there are: it may have been called by another name.
fn not_kept(profile: &str, kept: &[Generation]) -> CommandError {
    let others: BTreeSet<&str> = kept.iter().map(|generation| &generation.profile[..]).collect();
    let others = others.into_iter().collect::<Vec<_>>().join(", ");
    let error = CommandError::failed(format!("no run of {profile} is kept that could be undone"));
    if others.is_empty() { error } else { error.hint(format!("kept are runs of: {others}")) }
}

fn list<'a>(kept: impl Iterator<Item = &'a Generation>) -> String {
    let mut text = String::new();
    for generation in kept {
        let when = ui::log::utc(generation.committed_seconds);
        let what = match generation.made_by {
            MadeBy::Sync => "sync".to_owned(),
            MadeBy::Rollback(state) => format!("rollback of the run to state {state}"),
            MadeBy::PartialRollback(state) => format!("rollback of some paths of the run to state {state}"),
        };
        text += &format!("{:>6}  {when}  {:>7} changes  {what}\n", generation.number, generation.changes);
    }
    if text.is_empty() {
        text += "No run of this profile is kept\n";
    }
    text
}

fn report(back: &Back, dry_run: bool) -> String {
    let mut text = String::new();
    for path in &back.paths {
        let changed = back.changed_since.contains(path);
        text += &format!("{path}{}\n", if changed { "  (changed here since)" } else { "" });
    }
    for problem in &back.problems {
        text += &format!("{problem}\n");
    }
    let states: Vec<String> = back.undone.iter().map(ToString::to_string).collect();
    let states = states.join(", ");
    text += &if dry_run {
        format!("{} paths would be put back by undoing the runs to state {states}\n", back.paths.len())
    } else {
        format!(
            "{} paths are put back: the runs to state {states} are undone\n\
             No run changes this standby until: clonetool schedule resume\n",
            back.paths.len()
        )
    };
    text
}
