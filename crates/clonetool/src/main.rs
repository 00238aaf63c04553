//! The command line of clonetool: parse the arguments, make one library call, print what came of it.
//!
//! Why: the library is silent and reads no environment, so everything that touches the terminal, the caller's
//! environment, signals and exit codes is here. What can go wrong: an exit code or a line that a script relies on
//! changes; the texts and codes have tests where they are defined (`error.rs`).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arguments;
mod attest;
mod authorized_keys;
mod commands;
mod day_log;
mod error;
mod gates;
mod health;
mod host_keys;
mod installed;
mod interrupt;
mod local_time;
mod outlook;
mod pair;
mod profiles;
mod recorder;
mod records;
mod run;
mod syslog;
mod ui;
mod unattended;

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    raise_open_file_limit();
    let arguments = match commands::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            // Help and version come here, too; clap knows which of the two streams and which exit code is right.
            // When even that stream is gone, the exit code is all that is left to say.
            let _ = usage.print();
            // What monitoring asks has codes of its own.
            if usage.exit_code() != 0 && std::env::args_os().nth(1).is_some_and(|command| command == "check")
            {
                return ExitCode::from(commands::check_usage());
            }
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(error::USAGE));
        }
    };
    match arguments.command.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            ui::report_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Raises the soft limit of open files to the hard one. Deep trees are walked on held directory descriptors, one
/// a level and thread, and the usual soft limit of 1024 is there only for programs that call select(2). Where it
/// cannot be raised the walk does with fewer descriptors, so a failure is no error.
fn raise_open_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
