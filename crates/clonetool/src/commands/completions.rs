//! `clonetool completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Arguments;
use crate::error::CommandError;
use crate::run::Outcome;
use crate::ui;

/// Print the completion script of a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// Write it for this shell
    shell: Shell,
}

impl CompletionsArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        // Into memory first: the generator panics when its writer fails, and memory does not.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "clonetool", &mut script);
        ui::print(&String::from_utf8_lossy(&script))?;
        Ok(Outcome::Done)
    }
}
