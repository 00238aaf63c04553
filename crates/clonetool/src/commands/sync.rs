//! `clonetool sync`, and the arguments that `plan` shares with it.

use std::ffi::OsStr;
use std::path::Path;

use clap::Args;
use syncore::prepare::PRODUCTION;
use syncore::profile::{CommitMode, Profile, Row, Whole};
use syncore::record::RunKind;
use syncore::rules::Class;
use syncore::session::{Job, Location, Options, SCANS};

use crate::arguments::{
    ChangeOptions, ConnectionOptions, DeleteOptions, OutputOptions, ProfileArguments, ScopeOptions,
};
use crate::error::CommandError;
use crate::profiles;
use crate::recorder::Recorder;
use crate::records::RecordsOptions;
use crate::run::{self, Freezing, Outcome, Purpose, Undertaking};
use crate::ui::Ui;
use crate::unattended::UnattendedOptions;

/// Bring a standby up to date under a profile
///
/// Prints nothing on success unless somebody watches or asks.
#[derive(Debug, Args)]
pub(crate) struct SyncArguments {
    #[command(flatten)]
    what: RunArguments,
    /// Make the plan, print it and stop
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    deletes: DeleteOptions,
    #[command(flatten)]
    unattended: UnattendedOptions,
    #[command(flatten)]
    records: RecordsOptions,
}

/// What `sync` and `plan` have in common.
#[derive(Debug, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    profile: ProfileArguments,
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
        if self.dry_run {
            return self.what.run(Purpose::Plan, &self.deletes, None);
        }
        let recorder = Recorder::begin(
            &self.records,
            RunKind::Sync,
            &profiles::kept_name(&self.what.profile.profile),
            self.what.scope.any(),
        )
        .telling(&self.unattended);
        self.what.run(Purpose::Change, &self.deletes, Some(recorder))
    }
}

impl RunArguments {
    pub(super) fn run(
        &self,
        purpose: Purpose,
        deletes: &DeleteOptions,
        recorder: Option<Recorder>,
    ) -> Result<Outcome, CommandError> {
        run::execute_recorded(purpose, &self.output, recorder, |ui| self.work(purpose, deletes, ui))
    }

    fn work(&self, purpose: Purpose, deletes: &DeleteOptions, ui: &Ui) -> Result<Undertaking, CommandError> {
        let (profile, source, destination) = self.profile.load(&self.connection)?;
        ui.profile(&profile);
        if let Location::Local(root) = &source {
            for row in not_carried(&profile, root) {
                ui.warn(&format!(
                    "{} was not carried: {} needs a replication or dump of its own",
                    row.path, row.what
                ));
            }
        }
        let mut options = Options {
            dry_run: purpose == Purpose::Plan,
            delete: profile.delete.enabled,
            scans: Some(SCANS.into()),
            ..Options::default()
        };
        self.change.apply(&mut options);
        self.scope.apply(Some(&profile), &mut options);
        self.connection.apply(&mut options)?;
        options.whole = whole(&profile, &self.profile.profile);
        options.limits = Some(profile.delete.limits);
        deletes.apply(&mut options);
        if options.whole.is_some() && options.in_place {
            return Err(CommandError::usage(
                "--in-place changes files as it goes, and this profile all or nothing",
            )
            .hint("use a profile with commit.mode = \"file\" for it"));
        }
        let held = match profile.held_rules() {
            Some(rules) => Some(Job {
                source: source.clone(),
                destination: below(destination.clone(), PRODUCTION),
                rules: self.scope.rules(rules)?,
                // Its own deletions only, and without the conditions that the first job was checked for.
                options: Options {
                    refuse_unlisted_filesystems: false,
                    whole: None,
                    limits: None,
                    approved: None,
                    ..options.clone()
                },
            }),
            None => None,
        };
        let job = Job { source, destination, rules: self.scope.rules(profile.rules())?, options };
        let name = profiles::kept_name(&self.profile.profile);
        let snapshot = profile.source.snapshot.map(|settings| Freezing { profile: name, settings });
        let patience = profile.schedule.patience();
        Ok(Undertaking { job, held, gates: profile.gates, snapshot, patience })
    }
}

/// How the profile that was called `name` commits, if it changes all or nothing.
fn whole(profile: &Profile, name: &OsStr) -> Option<Whole> {
    let keep = profile.commit.keep;
    (profile.commit.mode == CommitMode::Run).then(|| Whole { profile: profiles::kept_name(name), keep })
}

/// The directory at `path` below a destination.
fn below(destination: Location, path: &str) -> Location {
    match destination {
        Location::Local(root) => Location::Local(root.join(path)),
        Location::Remote(remote, root) => Location::Remote(remote, root.join(path)),
    }
}

/// The rows of what is on the source, needs a replication of its own, and is therefore left out.
fn not_carried<'a>(profile: &'a Profile, root: &Path) -> impl Iterator<Item = &'a Row> {
    let there = move |row: &&Row| {
        let path = root.join(row.path.trim_start_matches('/'));
        std::fs::read_dir(path).is_ok_and(|mut names| names.next().is_some())
    };
    profile.rows.iter().filter(|row| row.class == Class::R).filter(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_its_own_replication_is_named_when_it_is_there() {
        let root = tempfile::tempdir().expect("a directory");
        let (_, text) = syncore::profile::shipped()[1];
        let profile = Profile::parse("linux-daily", text, &|_| None).expect("a profile");
        assert_eq!(not_carried(&profile, root.path()).count(), 0);
        std::fs::create_dir_all(root.path().join("var/lib/postgresql/15")).expect("a directory");
        let found: Vec<&str> = not_carried(&profile, root.path()).map(|row| row.path.as_str()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("/var/lib/postgresql"), "{found:?}");
    }
}
