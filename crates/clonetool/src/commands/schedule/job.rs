//! One profile as a job of cron or systemd: its names, its command, its files.
//!
//! Why: what is shown must be what is written. What can go wrong: a name that cron passes over in silence or that
//! systemd takes for more; a relative path, which means another file when cron starts the run.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use syncore::profile::Profile;
use syncore::schedule::{self, Calendar, Entry};
use syncore::tree::escape;

use super::{EntryOptions, KindOptions};
use crate::error::CommandError;
use crate::installed::mark;
use crate::profiles;
use crate::unattended::LOG_DIRECTORY;

/// Where cron looks for what is no user's crontab.
pub(super) const CRON: &str = "/etc/cron.d";
/// Where an administrator's units are.
pub(super) const UNITS: &str = "/etc/systemd/system";

/// A name that neither a crontab nor a unit takes for anything else (useradd(8) makes no others).
pub(super) fn user(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match first && text.len() <= 32 && text.bytes().all(known) {
        true => Ok(text.to_owned()),
        false => Err("it is no name of an account".to_owned()),
    }
}

/// What is to be started.
pub(super) struct Job {
    /// What files are called after it.
    pub(super) name: String,
    pub(super) profile: Profile,
    command: Vec<String>,
}

impl Job {
    pub(super) fn load(given: &OsStr, options: &EntryOptions) -> Result<Self, CommandError> {
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
        let mut command =
            vec![text(program.into())?, "sync".into(), reference(given, &options.root)?, "-q".into()];
        // The directory is root's.
        if options.user == "root" {
            command.extend(["--log-dir".into(), LOG_DIRECTORY.into()]);
        }
        command.push("--syslog".into());
        Ok(Self { name: name(given)?, profile, command })
    }

    /// The calendar, of a profile that can run unattended.
    pub(super) fn calendar(&self) -> Result<&Calendar, CommandError> {
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

    pub(super) fn entry<'a>(&'a self, calendar: &'a Calendar, options: &'a EntryOptions) -> Entry<'a> {
        Entry { calendar, name: &self.name, user: &options.user, command: &self.command }
    }
}

/// What the files of a profile are called after: its name, or that of its file.
pub(super) fn name(given: &OsStr) -> Result<String, CommandError> {
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
pub(super) fn units(name: &str) -> [String; 2] {
    ["timer", "service"].map(|kind| format!("clonetool-{name}.{kind}"))
}

pub(super) fn cron_name(name: &str) -> String {
    format!("clonetool-{name}")
}

/// A file that install writes.
pub(super) struct Planned {
    directory: &'static str,
    pub(super) file: String,
    pub(super) text: String,
}

impl Planned {
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.directory, self.file)
    }
}

/// What is written for a job, in the order in which it is written: what is started before what starts it.
pub(super) fn files(
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
}
