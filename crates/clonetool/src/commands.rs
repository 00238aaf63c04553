//! The commands, one file each: its arguments, one call into the library, its output.
//!
//! Why: a command can be read on one page, and its doc comments are its help and its man page. What can go wrong:
//! a name or option that changes under the scripts that use it; the tests keep the list.

mod accept_key;
mod agent;
mod check;
mod clone;
mod completions;
mod enroll;
mod explain;
mod gates;
mod history;
mod hold;
mod image;
mod man;
mod metrics;
mod plan;
mod prepare_root;
mod profile;
mod recover;
mod rollback;
mod schedule;
mod status;
mod sync;
mod verify;

use clap::{Parser, Subcommand};

use crate::error::{CommandError, EXIT_CODES};
use crate::run::Outcome;

pub(crate) use check::usage as check_usage;

/// Clone a running Unix host to its standby and hold it in sync
///
/// SOURCE and DESTINATION are PATH or [USER@]HOST:PATH, at most one of them on another host. The contents of
/// SOURCE become the contents of DESTINATION; a slash at the end changes nothing.
#[derive(Debug, Parser)]
#[command(name = "clonetool", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Clone(clone::CloneArguments),
    Sync(sync::SyncArguments),
    Plan(plan::PlanArguments),
    Verify(verify::VerifyArguments),
    Gates(gates::GatesArguments),
    Explain(explain::ExplainArguments),
    Hold(hold::HoldArguments),
    PrepareRoot(prepare_root::PrepareRootArguments),
    Image(image::ImageArguments),
    Profile(profile::ProfileArguments),
    Enroll(enroll::EnrollArguments),
    Schedule(schedule::ScheduleArguments),
    Rollback(rollback::RollbackArguments),
    Recover(recover::RecoverArguments),
    History(history::HistoryArguments),
    Status(status::StatusArguments),
    Check(check::CheckArguments),
    Metrics(metrics::MetricsArguments),
    #[command(hide = true)]
    AcceptKey(accept_key::AcceptKeyArguments),
    Agent(agent::AgentArguments),
    Completions(completions::CompletionsArguments),
    Man(man::ManArguments),
}

impl Command {
    /// Does it, and answers with the exit code.
    pub(crate) fn run(&self) -> Result<u8, CommandError> {
        let outcome = match self {
            Self::Clone(arguments) => arguments.run(),
            Self::Sync(arguments) => arguments.run(),
            Self::Plan(arguments) => arguments.run(),
            Self::Verify(arguments) => arguments.run(),
            Self::Gates(arguments) => arguments.run(),
            Self::Explain(arguments) => arguments.run(),
            Self::Hold(arguments) => arguments.run(),
            Self::PrepareRoot(arguments) => return arguments.run(),
            Self::Image(arguments) => arguments.run(),
            Self::Profile(arguments) => arguments.run(),
            Self::Enroll(arguments) => arguments.run(),
            Self::AcceptKey(arguments) => arguments.run(),
            Self::Schedule(arguments) => return arguments.run(),
            Self::Rollback(arguments) => arguments.run(),
            Self::Recover(arguments) => arguments.run(),
            Self::History(arguments) => arguments.run(),
            Self::Status(arguments) => arguments.run(),
            Self::Check(arguments) => return Ok(arguments.run()),
            Self::Metrics(arguments) => arguments.run(),
            Self::Agent(arguments) => arguments.run(),
            Self::Completions(arguments) => arguments.run(),
            Self::Man(arguments) => arguments.run(),
        };
        outcome.map(Outcome::exit_code)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    fn check_help(command: &clap::Command) {
        let help =
            |text: Option<&clap::builder::StyledStr>| text.map(ToString::to_string).unwrap_or_default();
        let is_help_line = |text: &str| text.starts_with(char::is_uppercase) && !text.ends_with('.');
        let about = help(command.get_about());
        assert!(is_help_line(&about), "{}: {about}", command.get_name());
        for argument in command.get_arguments() {
            let line = help(argument.get_help());
            assert!(is_help_line(&line), "{} {}: {line}", command.get_name(), argument.get_id());
        }
        command.get_subcommands().for_each(check_help);
    }

    #[test]
    fn every_help_line_is_one_without_a_full_stop() {
        check_help(&Arguments::command());
    }

    #[test]
    fn the_contract_of_names_holds() {
        let accepted: &[&[&str]] = &[
            &["clone", "/", "host:/"],
            &["clone", "-n", "-c", "-x", "-e", "ssh -v", "-i", "key", "-p", "22", "-q", "/", "root@h:/a"],
            &["clone", "--delete", "--exclude", "/a", "--include", "/b", "--protect", "/c", "/", "/a"],
            &[
                "clone",
                "--rules-from",
                "linux-daily",
                "--dry-run",
                "--checksum",
                "--one-file-system",
                "/",
                "/a",
            ],
            &["clone", "--rsh", "ssh", "--remote-path", "/opt/clonetool", "--transport", "ssh2", "/", "h:/"],
            &[
                "clone",
                "--identity",
                "f",
                "--port",
                "22",
                "--known-hosts",
                "f",
                "--compress",
                "3",
                "/",
                "h:/",
            ],
            &["clone", "--bwlimit", "1M", "--connections", "1", "--in-place", "--no-durable", "/", "/a"],
            &["clone", "--itemize", "-v", "--progress", "--log-file", "f", "--timeout", "60", "/", "/a"],
            &["clone", "--json", "/", "/a"],
            &["sync", "linux-daily", "--source", "/", "--destination", "h:/", "--dry-run"],
            &["sync", "a", "-q", "--log-dir", "/a", "--log-days", "7", "--syslog", "--on-event", "/b"],
            &["sync", "--syslog=/a/log", "a", "--records", "/a"],
            &["rollback", "a", "--to", "3", "--path", "/b", "--root", "/a", "--records", "/c"],
            &["recover", "/a", "--records", "/c"],
            &["status", "a", "--root", "/a"],
            &["plan", "./a.toml", "--json"],
            &["verify", "/", "h:/"],
            &["verify", "--profile", "linux-daily", "--destination", "h:/"],
            &["gates", "linux-daily", "--source", "/", "--destination", "h:/", "--json"],
            &["gates", "./a.toml", "-q"],
            &["explain", "linux-daily", "/etc/hostname"],
            &["hold", "list"],
            &["hold", "list", "/a", "--json"],
            &["hold", "release", "/etc/cron.d/pay", "pay.timer"],
            &["hold", "release", "--all", "--root", "/a", "--json"],
            &[
                "prepare-root",
                "/a",
                "--hostname",
                "standby",
                "--boot-disk",
                "/dev/sda",
                "--boot-disk",
                "/dev/sdb",
            ],
            &["prepare-root", "/a", "--hostname", "s", "--address", "eth0=192.0.2.7/24,gw=192.0.2.1"],
            &[
                "prepare-root",
                "/a",
                "--map-device",
                "/dev/sda1",
                "none",
                "--identity",
                "takeover",
                "--json",
                "-n",
            ],
            &[
                "prepare-root",
                "/a",
                "--platform",
                "solaris",
                "--device-tree",
                "pending",
                "--bootloader",
                "none",
            ],
            &["image", "create", "-x", "--exclude", "/srv/", "--level", "19", "--force", "/", "root.img"],
            &[
                "image",
                "create",
                "-e",
                "ssh",
                "-i",
                "key",
                "-p",
                "22",
                "--no-durable",
                "root@h:/",
                "root.img",
            ],
            &["image", "restore", "--progress", "root.img", "h:/a"],
            &["image", "restore", "-", "/a"],
            &["image", "list", "--files", "--json", "root.img"],
            &["profile", "list"],
            &["profile", "export", "linux-daily", "--rsync"],
            &["history"],
            &["history", "linux-daily", "--limit", "5", "--since", "7d", "--outcome", "refused", "--json"],
            &["history", "--run", "1795275160-482113-9f3c", "--records", "/a"],
            &["status", "linux-daily", "linux-hourly-auth", "--json"],
            &["check", "linux-daily", "--warning", "20h", "--critical", "26h", "--destination", "h:/"],
            &["metrics", "--output", "/a/clonetool.prom"],
            &["enroll", "root@standby", "-p", "22", "-i", "key", "--accept-fingerprint", "SHA256:x"],
            &["enroll", "standby", "--remove", "--remote-path", "/opt/clonetool", "--known-hosts", "f"],
            &["enroll", "standby", "--root", "/", "--authorized-keys", "/etc/ssh/keys/root"],
            &["accept-key"],
            &["schedule", "show"],
            &["schedule", "show", "linux-daily", "--solaris", "--json"],
            &["schedule", "install", "a", "b", "--cron", "--user", "backup", "--root", "/a"],
            &["schedule", "install", "a", "--systemd", "--jitter", "5m", "--program", "/usr/bin/clonetool"],
            &["schedule", "remove", "a", "--root", "/a"],
            &["agent", "--root", "/", "--read-only"],
            &["completions", "bash"],
            &["man"],
        ];
        for arguments in accepted {
            let parsed = Arguments::try_parse_from([&["clonetool"], *arguments].concat());
            assert!(parsed.is_ok(), "{arguments:?}: {}", parsed.unwrap_err());
        }
        let refused: &[&[&str]] = &[
            &[],
            &["clone", "/"],
            &["clone", "-q", "-v", "/", "/a"],
            &["clone", "--compress", "20", "/", "/a"],
            &["clone", "--connections", "0", "/", "/a"],
            &["prepare-root"],
            &["prepare-root", "/a", "--map-device", "/dev/sda1"],
            &["prepare-root", "/a", "--address", "eth0"],
            &["verify", "/"],
            &["verify", "--profile", "p", "/", "/a"],
            &["verify", "--source", "/", "/", "/a"],
            &["sync"],
            &["sync", "a", "--log-days", "7"],
            &["gates"],
            &["gates", "-q", "--json", "linux-daily"],
            &["image", "create", "--level", "0", "/", "root.img"],
            &["image", "restore", "root.img"],
            &["history", "--run", "../x"],
            &["history", "--run", "1795275160-482113-9f3c", "linux-daily"],
            &["check", "--critical", "26"],
            &["hold", "release"],
            &["enroll"],
            &["schedule", "install", "--cron"],
            &["schedule", "install", "a", "--cron", "--systemd"],
            &["schedule", "remove"],
            &["hold", "release", "--all", "pay.timer"],
        ];
        for arguments in refused {
            let parsed = Arguments::try_parse_from([&["clonetool"], *arguments].concat());
            assert!(parsed.is_err(), "{arguments:?} was accepted");
        }
    }
}
