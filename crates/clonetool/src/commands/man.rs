//! `clonetool man`.

use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use syncore::tree::escape;

use super::Arguments;
use crate::error::CommandError;
use crate::run::Outcome;
use crate::ui;

/// Print the manual, or write its pages into a directory
///
/// To read it: clonetool man | man -l -
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Write clonetool.1 and a page for each command here
    directory: Option<PathBuf>,
}

impl ManArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        match &self.directory {
            Some(directory) => {
                clap_mangen::generate_to(Arguments::command(), directory).map_err(|e| {
                    let directory = escape(directory.as_os_str().as_encoded_bytes());
                    CommandError::failed(format!("cannot write the manual into {directory}: {e}"))
                })?;
            }
            None => ui::print(&manual()?)?,
        }
        Ok(Outcome::Done)
    }
}

/// The main page and those of the commands, one after the other.
fn manual() -> Result<String, CommandError> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let mut text = Vec::new();
    write_pages(&command, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn write_pages(command: &Command, into: &mut Vec<u8>) -> Result<(), CommandError> {
    Man::new(command.clone()).render(into)?;
    command.get_subcommands().try_for_each(|subcommand| write_pages(subcommand, into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_command_and_the_exit_codes() {
        let text = manual().unwrap();
        for command in
            ["clone", "sync", "plan", "verify", "explain", "profile", "agent", "completions", "man"]
        {
            assert!(text.contains(&format!(".TH clonetool-{command}")), "{command}");
        }
        assert!(text.contains("refused by a gate or limit"), "exit codes");
    }
}
