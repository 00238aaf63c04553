//! `clonetool schedule`.

mod job;

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use syncore::schedule;
use syncore::session;
use syncore::tree::escape;

use job::{CRON, Job, UNITS, cron_name, files, name, units};

use crate::arguments::quantity;
use crate::error::{self, CommandError, UNCHANGED};
use crate::installed::{Change, Directory, WANTS};
use crate::local_time::{self, LocalTime};
use crate::{profiles, ui};

/// How many of the next runs are shown.
const SHOWN_RUNS: usize = 3;

/// Show, install or remove what starts the runs of profiles
///
/// A profile says when in `[schedule] calendar`; cron or systemd is told so.
#[derive(Debug, Args)]
pub(crate) struct ScheduleArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the next runs, and what install would write
    Show {
        /// Show these profiles; without any, those in /etc/clonetool/profiles that have a calendar
        profile: Vec<OsString>,
        #[command(flatten)]
        kind: KindOptions,
        /// Show a line for the crontab of a cron without names and steps, as Solaris has it
        #[arg(long, conflicts_with_all = ["cron", "systemd"])]
        solaris: bool,
        #[command(flatten)]
        entry: EntryOptions,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Have the runs of profiles started
    Install {
        /// Start these profiles
        #[arg(required = true)]
        profile: Vec<OsString>,
        #[command(flatten)]
        kind: KindOptions,
        #[command(flatten)]
        entry: EntryOptions,
    },
    /// Take away what install wrote
    Remove {
        /// Start these profiles no more; they need not exist any longer
        #[arg(required = true)]
        profile: Vec<OsString>,
        /// Look below DIR, where the root of a standby is mounted
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
    /// Let runs change this standby again after a rollback
    Resume {
        /// Of the root that is mounted here
        #[arg(long, value_name = "ROOT", default_value = "/")]
        root: PathBuf,
    },
}

#[derive(Debug, Args)]
struct KindOptions {
    /// Use a file in /etc/cron.d
    #[arg(long, conflicts_with = "systemd")]
    cron: bool,
    /// Use a timer and a service of systemd
    #[arg(long)]
    systemd: bool,
}

#[derive(Debug, Args)]
struct EntryOptions {
    /// Run as USER
    #[arg(long, default_value = "root", value_parser = job::user)]
    user: String,
    /// Delay each run by a random time up to DURATION: 90s, 5m, 1h (systemd only)
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    jitter: Option<Duration>,
    /// Start the clonetool at PATH in place of this one
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Write below DIR, where the root of a standby is mounted
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl ScheduleArguments {
    pub(super) fn run(&self) -> Result<u8, CommandError> {
        match &self.action {
            Action::Show { profile, kind, solaris, entry, json } => {
                show(profile, kind, *solaris, entry, *json).map(|()| 0)
            }
            Action::Install { profile, kind, entry } => install(profile, kind, entry),
            Action::Remove { profile, root } => remove(profile, root),
            Action::Resume { root } => resume(root).map(|()| 0),
        }
    }
}

fn resume(root: &Path) -> Result<(), CommandError> {
    let suspended = session::resume(root)?;
    let text = if suspended { "Runs may change this standby again\n" } else { "Runs were not suspended\n" };
    ui::print(text)
}

fn show(
    given: &[OsString],
    kind: &KindOptions,
    solaris: bool,
    options: &EntryOptions,
    json: bool,
) -> Result<(), CommandError> {
    let every = given.is_empty();
    let names = if every { profiles::local_names()? } else { given.to_vec() };
    let zone = LocalTime::of(&options.root)?;
    let (mut screen, mut events) = (String::new(), Vec::new());
    for name in &names {
        let job = Job::load(name, options)?;
        let Some(calendar) = &job.profile.schedule.calendar else {
            if every {
                continue;
            }
            job.calendar()?;
            continue;
        };
        let next = |last: &i64| calendar.next_due(*last, &|moment| zone.ahead(moment));
        let runs: Vec<i64> = std::iter::successors(next(&local_time::now()), next).take(SHOWN_RUNS).collect();
        let installed = installed(&options.root, &job.name)?;
        let rpo = job.profile.schedule.rpo;
        if json {
            events.push(json!({
                "type": "schedule", "profile": job.name, "calendar": calendar.to_string(),
                "rpo_seconds": rpo.map(|rpo| rpo.as_secs()), "next": runs, "installed": installed,
            }));
            continue;
        }
        let _ = writeln!(screen, "{}\n  calendar   {calendar}", job.name);
        let _ = writeln!(screen, "  RPO        {}", rpo.map_or("none".to_owned(), hours));
        for (index, run) in runs.iter().enumerate() {
            let _ = writeln!(
                screen,
                "  {}   {}",
                if index == 0 { "next    " } else { "        " },
                zone.shown(*run)
            );
        }
        let _ = writeln!(screen, "  installed  {}", installed.as_deref().unwrap_or("no"));
        match job.calendar() {
            Err(error) => {
                let _ = writeln!(screen, "  cannot be installed: {}", error.message);
            }
            Ok(_) if solaris => {
                let line =
                    schedule::solaris_entry(&job.entry(calendar, options)).map_err(CommandError::usage)?;
                let _ = write!(screen, "\nin the crontab of {}:\n\n{line}\n", options.user);
            }
            Ok(_) => {
                for file in files(&job, calendar, kind, options)? {
                    let _ = write!(screen, "\n{}:\n\n{}\n", file.path(), file.text);
                }
            }
        }
    }
    if json {
        return ui::print_events(&events);
    }
    if screen.is_empty() {
        screen.push_str("no profile in /etc/clonetool/profiles has a calendar\n");
    }
    ui::print(&screen)
}

/// A length of time in its largest whole unit.
fn hours(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    let unit = units.iter().find(|(unit, _)| seconds.is_multiple_of(*unit) && seconds / unit > 1);
    unit.map_or_else(|| format!("{seconds} s"), |(unit, name)| format!("{} {name}", seconds / unit))
}

/// The path of what starts a profile now, as the host calls it.
fn installed(root: &Path, name: &str) -> Result<Option<String>, CommandError> {
    let timer = units(name)[0].clone();
    for (directory, file) in [(CRON, cron_name(name)), (UNITS, timer)] {
        let Some(directory) = Directory::open(root, directory)? else { continue };
        // Somebody else's file is not what we installed; install and remove refuse it.
        if directory.ours(&file).is_ok_and(|text| text.is_some()) {
            return Ok(Some(directory.path(&file).display().to_string()));
        }
    }
    Ok(None)
}

fn install(given: &[OsString], kind: &KindOptions, options: &EntryOptions) -> Result<u8, CommandError> {
    if !kind.cron && !kind.systemd {
        return Err(CommandError::usage("what is to start the runs?").hint("say --cron or --systemd"));
    }
    let path = if kind.systemd { UNITS } else { CRON };
    let Some(directory) = Directory::open(&options.root, path)? else {
        return Err(CommandError::refused(format!("there is no {path}"))
            .hint(if kind.systemd { "use --cron" } else { "install cron, or use --systemd" })
            .hint(UNCHANGED));
    };
    // Everything that can be refused, before the first file.
    let mut jobs = Vec::new();
    for name in given {
        let job = Job::load(name, options)?;
        let planned = files(&job, job.calendar()?, kind, options)?;
        for file in &planned {
            directory.ours(&file.file)?;
        }
        let other = installed(&options.root, &job.name)?.filter(|found| !found.starts_with(path));
        if let Some(other) = other {
            return Err(CommandError::refused(format!("{} is started by {other} already", job.name))
                .hint(format!("first clonetool schedule remove {}, or it would run twice", job.name))
                .hint(UNCHANGED));
        }
        jobs.push((job, planned));
    }
    let mut done = Done::new(&options.root);
    for (_, planned) in &jobs {
        for file in planned {
            let change = directory.write(&file.file, &file.text)?;
            done.file(if change == Change::Made { "wrote" } else { "unchanged" }, &file.path());
        }
    }
    if kind.systemd {
        done.systemctl(&["daemon-reload"]);
        for (job, _) in &jobs {
            let timer = &units(&job.name)[0];
            if !done.running {
                let change = directory.enable(timer)?;
                let path = format!("{UNITS}/{WANTS}/{timer}");
                done.file(if change == Change::Made { "linked" } else { "unchanged" }, &path);
            }
            done.systemctl(&["enable", "--now", timer]);
        }
    }
    done.finish()
}

fn remove(given: &[OsString], root: &Path) -> Result<u8, CommandError> {
    let names = given.iter().map(|given| name(given)).collect::<Result<Vec<_>, _>>()?;
    let (cron, unit) = (Directory::open(root, CRON)?, Directory::open(root, UNITS)?);
    for name in &names {
        if let Some(cron) = &cron {
            cron.ours(&cron_name(name))?;
        }
        for file in units(name) {
            unit.as_ref().map(|unit| unit.ours(&file)).transpose()?;
        }
    }
    let mut done = Done::new(root);
    for name in &names {
        let before = done.screen.len();
        if let Some(cron) = &cron {
            done.removed(cron.remove(&cron_name(name))?, CRON, &cron_name(name));
        }
        if let Some(unit) = &unit {
            let [timer, service] = units(name);
            if unit.ours(&timer)?.is_some() || unit.ours(&service)?.is_some() {
                done.systemctl(&["disable", "--now", &timer]);
                done.removed(unit.disable(&timer)?, &format!("{UNITS}/{WANTS}"), &timer);
                done.removed(unit.remove(&timer)?, UNITS, &timer);
                done.removed(unit.remove(&service)?, UNITS, &service);
                done.systemctl(&["daemon-reload"]);
            }
        }
        if done.screen.len() == before {
            let _ = writeln!(done.screen, "{name}: nothing was installed");
        }
    }
    done.finish()
}

/// What was done, line by line, and what is left.
struct Done {
    screen: String,
    /// Whether the root is that of this host, and systemd runs on it.
    running: bool,
    /// Whether the root is that of this host.
    here: bool,
    failed: bool,
}

impl Done {
    fn new(root: &Path) -> Self {
        let here = std::fs::canonicalize(root).is_ok_and(|root| root == Path::new("/"));
        // As sd_booted(3) tells.
        let running = here && Path::new("/run/systemd/system").is_dir();
        Self { screen: String::new(), running, here, failed: false }
    }

    fn file(&mut self, what: &str, path: &str) {
        let _ = writeln!(self.screen, "{what:<10} {path}");
    }

    fn removed(&mut self, change: Change, directory: &str, file: &str) {
        if change == Change::Made {
            self.file("removed", &format!("{directory}/{file}"));
        }
    }

    /// Runs systemctl where systemd runs, and says what would have to be run on this host elsewhere. On a mounted root
    /// there is nothing to tell: the next boot reads the files.
    fn systemctl(&mut self, words: &[&str]) {
        let line = format!("systemctl {}", words.join(" "));
        if !self.running {
            if self.here {
                let _ = writeln!(self.screen, "left       {line}: systemd does not run here");
            }
            return;
        }
        let output = Command::new("systemctl").args(words).stdin(Stdio::null()).output();
        let reason = match output {
            Ok(output) if output.status.success() => {
                let _ = writeln!(self.screen, "ran        {line}");
                return;
            }
            Ok(output) => escape(output.stderr.trim_ascii()),
            Err(error) => error.to_string(),
        };
        self.failed = true;
        let _ = writeln!(self.screen, "failed     {line}: {reason}");
    }

    fn finish(self) -> Result<u8, CommandError> {
        ui::print(&self.screen)?;
        Ok(if self.failed { error::INCOMPLETE } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_keep_their_unit() {
        for (seconds, shown) in
            [(93_600, "26 h"), (7200, "2 h"), (172_800, "2 d"), (5400, "90 min"), (61, "61 s")]
        {
            assert_eq!(hours(Duration::from_secs(seconds)), shown);
        }
    }
}
