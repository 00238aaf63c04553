//! `clonetool rollback`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use syncore::apply::{Back, Generation, MadeBy};
use syncore::monitor::Silent;
use syncore::record::RunKind;
use syncore::session::{self, SessionError};
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
            ui::print(&list(&profile, &kept))?;
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
        let planned = session::roll_back(&self.root, &profile, self.to, &paths, true, &Silent)
            .map_err(|error| self.seen_in_list(error))?;
        if self.dry_run {
            ui::print(&self.report(&planned, &paths))?;
            return Ok(Outcome::of_problems(&planned.problems));
        }
        let recorder = Recorder::begin(&self.records, RunKind::Rollback, &profile, !paths.is_empty());
        recorder.ends(None, &standby_name(&self.root));
        let result = session::roll_back(&self.root, &profile, self.to, &paths, false, &Silent);
        let back = result.map_err(CommandError::from).inspect_err(|error| recorder.failed(error))?;
        let outcome = Outcome::of_problems(&back.problems);
        recorder.restored(back.state, &back.undone, &back.problems, outcome);
        ui::print(&self.report(&back, &paths))?;
        Ok(outcome)
    }

    /// Says where the ways back are, if there is none of the kind that was asked for.
    fn seen_in_list(&self, error: SessionError) -> CommandError {
        let refused = matches!(error, SessionError::Refused(_));
        let error = CommandError::from(error);
        let list =
            format!("what can be undone: clonetool rollback {} --list{}", self.profile.display(), self.at());
        if refused { error.hint(list) } else { error }
    }

    /// What a command about the same root takes.
    fn at(&self) -> String {
        match self.root.as_os_str() == "/" {
            true => String::new(),
            false => format!(" --root {}", self.root.display()),
        }
    }

    fn report(&self, back: &Back, paths: &[RelPath]) -> String {
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
        let count = match back.paths.len() {
            1 => "1 path".to_owned(),
            count => format!("{count} paths"),
        };
        let at = self.at();
        let part = if paths.is_empty() { "" } else { " there" };
        text += &if self.dry_run {
            format!("{count} would be put back by undoing{part} what led to state {states}\n")
        } else {
            format!(
                "{count} put back: what led to state {states} is undone{part}\n\
                 No run changes this standby until: clonetool schedule resume{at}\n"
            )
        };
        text
    }
}

/// That there is no such profile here, and which ones there are: it may have been called by another name.
fn not_kept(profile: &str, kept: &[Generation]) -> CommandError {
    let error = CommandError::refused(format!("no run of {profile} is kept that could be undone"));
    match others(kept) {
        Some(others) => error.hint(others),
        None => error,
    }
}

/// Of which profiles runs are kept.
fn others(kept: &[Generation]) -> Option<String> {
    let profiles: BTreeSet<&str> = kept.iter().map(|generation| &generation.profile[..]).collect();
    let profiles: Vec<&str> = profiles.into_iter().collect();
    (!profiles.is_empty()).then(|| format!("kept are runs of: {}", profiles.join(", ")))
}

fn list(profile: &str, kept: &[Generation]) -> String {
    let mut text = String::new();
    for generation in kept.iter().filter(|generation| generation.profile == profile) {
        let when = ui::log::utc(generation.committed_seconds);
        let what = match generation.made_by {
            MadeBy::Sync => "sync".to_owned(),
            MadeBy::Rollback(state) => format!("rollback of the run to state {state}"),
            MadeBy::PartialRollback(state) => format!("rollback of some paths of the run to state {state}"),
        };
        text += &format!("{:>6}  {when}  {:>7} changes  {what}\n", generation.number, generation.changes);
    }
    if text.is_empty() {
        let others = others(kept).map(|others| format!("; {others}")).unwrap_or_default();
        text += &format!("No run of {profile} is kept{others}\n");
    }
    text
}
