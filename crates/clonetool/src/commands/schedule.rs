//! `clonetool schedule`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use syncore::profile::Profile;
use syncore::schedule::{self, Calendar, Entry};
use syncore::tree::escape;

use crate::arguments::quantity;
use crate::error::{self, CommandError, UNCHANGED};
use crate::installed::{Change, Directory, WANTS, mark};
use crate::local_time::{self, LocalTime};
use crate::{profiles, ui};

/// Where cron looks for what is no user's crontab.
const CRON: &str = "/etc/cron.d";
/// Where an administrator's units are.
const UNITS: &str = "/etc/systemd/system";
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
    #[arg(long, default_value = "root", value_parser = user)]
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

/// A name that neither a crontab nor a unit takes for anything else (useradd(8) makes no others).
fn user(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match first && text.len() <= 32 && text.bytes().all(known) {
        true => Ok(text.to_owned()),
        false => Err("it is no name of an account".to_owned()),
    }
}

/// What is to be started.
struct Job {
    /// What files are called after it.
    name: String,
    profile: Profile,
    command: Vec<String>,
}

impl Job {
    fn load(given: &OsStr, options: &EntryOptions) -> Result<Self, CommandError> {
        let profile = profiles::load(given)?;
        let program = match &options.program {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(|e| CommandError::failed(format!("cannot tell where clonetool is: {e}")))?,
        };
        if !program.is_absolute() {
            let shown = escape(program.as_os_str().as_encoded_bytes());
            return Err(CommandError::usage(format!("--program {shown} is no absolute path")));
        }
        let words = [text(program.into())?, "sync".into(), reference(given, &options.root)?, "-q".into()];
        Ok(Self { name: name(given)?, profile, command: words.into() })
    }

    /// The calendar, of a profile that can run unattended.
    fn calendar(&self) -> Result<&Calendar, CommandError> {
        if let Some(error) = profiles::refusal(&self.profile) {
            return Err(error);
        }
        let Profile { standby, source, schedule, .. } = &self.profile;
        let here = standby.address.is_none() && standby.root == source.root;
        if here {
            return Err(CommandError::usage(format!("the profile {} names no standby", self.name)).hint(
                "write one in /etc/clonetool/profiles that extends it and has an address in [standby]",
            ));
        }
        schedule.calendar.as_ref().ok_or_else(|| {
            CommandError::usage(format!("the profile {} has no calendar", self.name))
                .hint("give it one: [schedule] calendar = \"30 2 * * *\"")
        })
    }

    fn entry<'a>(&'a self, calendar: &'a Calendar, options: &'a EntryOptions) -> Entry<'a> {
        Entry { calendar, name: &self.name, user: &options.user, command: &self.command }
    }
}

/// What the files of a profile are called after: its name, or that of its file.
fn name(given: &OsStr) -> Result<String, CommandError> {
    let shown = escape(given.as_encoded_bytes());
    let is_path = shown.contains('/') || shown.ends_with(".toml");
    let name = if is_path { Path::new(given).file_stem().unwrap_or_default() } else { given };
    let plain = |name: &&str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !name.is_empty() && name.len() <= 100 && name.bytes().all(known)
    };
    // cron passes over names with other characters in silence (run-parts(8)), systemd has a meaning for some.
    name.to_str().filter(plain).map(str::to_owned).ok_or_else(|| {
        CommandError::usage(format!(
            "{shown}: a schedule is a file of that name, and cron would pass over it"
        ))
        .hint("call the profile by letters, digits, - and _")
    })
}

/// What the run calls the profile by: its name, or the whole path of its file as the host calls it.
fn reference(given: &OsStr, root: &Path) -> Result<String, CommandError> {
    let shown = escape(given.as_encoded_bytes());
    if !shown.contains('/') && !shown.ends_with(".toml") {
        return text(given.to_owned());
    }
    let path = std::fs::canonicalize(given).map_err(|e| profiles::unreadable(Path::new(given), &e))?;
    let root = std::fs::canonicalize(root).map_err(|e| profiles::unreadable(root, &e))?;
    text(path.strip_prefix(&root).map_or(path.clone(), |below| Path::new("/").join(below)).into())
}

fn text(word: OsString) -> Result<String, CommandError> {
    word.into_string().map_err(|word| {
        let shown = escape(word.as_encoded_bytes());
        CommandError::usage(format!("{shown} is not UTF-8, and a schedule is text"))
    })
}

/// The names of the two units of a profile: timer and service.
fn units(name: &str) -> [String; 2] {
    ["timer", "service"].map(|kind| format!("clonetool-{name}.{kind}"))
}

fn cron_name(name: &str) -> String {
    format!("clonetool-{name}")
}

impl ScheduleArguments {
    pub(super) fn run(&self) -> Result<u8, CommandError> {
        match &self.action {
            Action::Show { profile, kind, solaris, entry, json } => {
                show(profile, kind, *solaris, entry, *json).map(|()| 0)
            }
            Action::Install { profile, kind, entry } => install(profile, kind, entry),
            Action::Remove { profile, root } => remove(profile, root),
        }
    }
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

/// A file that install writes.
struct Planned {
    directory: &'static str,
    file: String,
    text: String,
}

impl Planned {
    fn path(&self) -> String {
        format!("{}/{}", self.directory, self.file)
    }
}

/// What is written for a job, in the order in which it is written: what is started before what starts it.
fn files(
    job: &Job,
    calendar: &Calendar,
    kind: &KindOptions,
    options: &EntryOptions,
) -> Result<Vec<Planned>, CommandError> {
    let (entry, mark) = (job.entry(calendar, options), mark(&job.name));
    if !kind.systemd {
        if options.jitter.is_some() {
            return Err(CommandError::usage("--jitter: cron has none")
                .hint("choose another minute in the calendar, or use --systemd"));
        }
        let text = schedule::cron_file(&mark, &entry).map_err(CommandError::usage)?;
        return Ok(vec![Planned { directory: CRON, file: cron_name(&job.name), text }]);
    }
    let [timer, service] = units(&job.name);
    let text = schedule::service(&mark, &entry).map_err(CommandError::usage)?;
    let when = schedule::timer(&mark, &entry, options.jitter);
    Ok(vec![
        Planned { directory: UNITS, file: service, text },
        Planned { directory: UNITS, file: timer, text: when },
    ])
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
    fn a_name_that_cron_or_systemd_would_misread_is_refused() {
        for (given, expected) in
            [("linux-daily", "linux-daily"), ("./a/our_own.toml", "our_own"), ("x.toml", "x")]
        {
            assert_eq!(name(OsStr::new(given)).unwrap(), expected);
        }
        for bad in ["a.b", "a@b", "", "/", "a b.toml", "..", "/x/.toml"] {
            assert_eq!(name(OsStr::new(bad)).err().map(|e| e.exit_code()), Some(2), "{bad}");
        }
        for bad in ["", "-x", "a b", "a\nb", "root:x", "%u", "0"] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
        assert_eq!(user("svc_sync.1"), Ok("svc_sync.1".to_owned()));
    }

    #[test]
    fn lengths_of_time_keep_their_unit() {
        for (seconds, shown) in
            [(93_600, "26 h"), (7200, "2 h"), (172_800, "2 d"), (5400, "90 min"), (61, "61 s")]
        {
            assert_eq!(hours(Duration::from_secs(seconds)), shown);
        }
    }
}
