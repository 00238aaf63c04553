//! `clonetool clone`.

use std::ffi::OsString;

use clap::Args;
use syncore::session::{Job, Options, SCANS};

use crate::arguments::{ChangeOptions, ConnectionOptions, DeleteOptions, OutputOptions, Place, ScopeOptions};
use crate::error::CommandError;
use crate::run::{self, Outcome, Purpose};

/// Copy a tree whole; run again to make it equal again
///
/// Without --delete, what is only in the destination is left alone. With it no limit holds, but in the root that a host
/// runs from: there no more than 500 entries and 5 % of a directory go without --approve.
#[derive(Debug, Args)]
pub(crate) struct CloneArguments {
    /// Read this tree: PATH or [USER@]HOST:PATH
    source: OsString,
    /// Change this tree: PATH or [USER@]HOST:PATH
    destination: OsString,
    /// Make the plan, print it and stop
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    change: ChangeOptions,
    #[command(flatten)]
    deletes: DeleteOptions,
    #[command(flatten)]
    scope: ScopeOptions,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl CloneArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let purpose = if self.dry_run { Purpose::Plan } else { Purpose::Change };
        run::execute(purpose, &self.output, |_| self.job().map(Into::into))
    }

    fn job(&self) -> Result<Job, CommandError> {
        let (from, to) = (Place::parse(&self.source)?, Place::parse(&self.destination)?);
        let (source, destination) = self.connection.locate(from, to, None)?;
        let mut options = Options { dry_run: self.dry_run, scans: Some(SCANS.into()), ..Options::default() };
        self.change.apply(&mut options);
        self.deletes.apply(&mut options);
        self.scope.apply(None, &mut options);
        self.connection.apply(&mut options)?;
        Ok(Job { source, destination, rules: self.scope.rules(Vec::new())?, options })
    }
}
