//! `clonetool agent`.

use std::fs::File;
use std::io::{stdin, stdout};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use syncore::monitor::Monitor;
use syncore::session::{self, AgentLimits};

use crate::error::CommandError;
use crate::interrupt;
use crate::run::Outcome;

/// Serve as the remote end, on standard input and output
///
/// The other end starts it; nobody needs to call it. In authorized_keys, restrict what a key may do with
///
///     restrict,command="clonetool agent --root DIR --read-only"
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct AgentArguments {
    /// Refuse everything outside DIR
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Refuse every change
    #[arg(long)]
    read_only: bool,
}

/// The other end watches and reports; here only the signals are of interest.
struct Watch;

impl Monitor for Watch {
    fn cancelled(&self) -> bool {
        interrupt::requested()
    }
}

impl AgentArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        interrupt::install()?;
        let limits = AgentLimits { root: self.root.clone(), read_only: self.read_only };
        // Rust's own standard output writes at every newline, which binary data has at random places: bare files.
        let reader = stdin().as_fd().try_clone_to_owned().map(File::from);
        let writer = stdout().as_fd().try_clone_to_owned().map(File::from);
        let (reader, writer) = reader
            .and_then(|reader| Ok((reader, writer?)))
            .map_err(|e| CommandError::failed(format!("cannot use standard input and output: {e}")))?;
        session::serve(Box::new(reader), Box::new(writer), &limits, &Watch)?;
        Ok(Outcome::Done)
    }
}
