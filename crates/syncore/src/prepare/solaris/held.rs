//! What would act for production, held.
//!
//! Why: a copy that boots runs production's cron jobs, sends its mail, starts its applications and tells its NFS
//! clients that it is back. All of that waits until the standby is promoted. What can go wrong: the system's own jobs
//! are held too and its logs grow for ever; so lines that run the system's programs and nothing else stay.

use super::super::lines::{Lines, is_comment};
use super::super::report::Held;
use super::super::{Draft, PrepareError};
use super::finish::Script;
use super::{HELD_MARK, HELD_NAME, Host, start};
use crate::rules::Class;

/// Plans everything that is held.
pub(super) fn plan(host: &Host<'_>, draft: &mut Draft<'_>, script: &mut Script) -> Result<(), PrepareError> {
    crontabs(draft)?;
    at_jobs(draft)?;
    mail(draft)?;
    shares(draft)?;
    start::plan(host, draft, script)?;
    zones(draft)?;
    runtime(host, draft)
}

pub(super) fn hold(draft: &mut Draft<'_>, kind: &str, name: impl Into<String>, how: impl Into<String>) {
    draft.held.push(Held { kind: kind.to_owned(), name: name.into(), how: how.into(), undo: Vec::new() });
}

/// Makes comments of the lines of `path` that are not the system's; how many.
pub(super) fn comment_out(
    draft: &mut Draft<'_>,
    path: &str,
    why: &str,
    system: impl Fn(&[u8]) -> bool,
) -> Result<usize, PrepareError> {
    let Some(content) = draft.read(path)? else { return Ok(0) };
    let mut lines = Lines::of(&content);
    let mut count = 0;
    lines.edit(|line| {
        if is_comment(line, b'#') || system(line) {
            return Some(line.to_vec());
        }
        count += 1;
        Some([HELD_MARK, line].concat())
    });
    draft.write(path, lines.to_bytes(), Class::G, why)?;
    Ok(count)
}

/// What the system's own crontabs run, of all releases; a line with any other program is production's.
const SYSTEM_JOBS: [&str; 14] = [
    "/etc/cron.d/logchecker",
    "/usr/lib/newsyslog",
    "/usr/sbin/logadm",
    "/usr/lib/fs/nfs/nfsfind",
    "/usr/sbin/rtc",
    "/usr/lib/gss/gsscred_clean",
    "/usr/lib/acct/",
    "/usr/lib/sa/sa",
    "/usr/lib/uucp/",
    "/etc/cron.d/man",
    "/usr/lib/krb5/kprop_script",
    "/usr/share/lib/unittab",
    "/usr/lib/spell/compress",
    "/var/lp/logs",
];

fn crontabs(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for name in draft.list("/var/spool/cron/crontabs")? {
        let system_user = matches!(&*name, "root" | "sys" | "adm" | "lp" | "uucp");
        let path = format!("/var/spool/cron/crontabs/{name}");
        let why = "jobs of production's wait until the standby is promoted";
        let held = comment_out(draft, &path, why, |line| system_user && is_system_job(line))?;
        if held > 0 {
            hold(draft, "cron", &name, format!("{held} lines of {path} are comments"));
        }
    }
    Ok(())
}

/// Whether a line of a crontab runs the system's programs and nothing else that has a path.
fn is_system_job(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    let mut paths = line
        .split(|c: char| c.is_whitespace() || ";&|()<>[]{}\"'`=".contains(c))
        .filter(|word| word.starts_with('/'));
    let job = |path: &str| SYSTEM_JOBS.iter().any(|job| path.starts_with(job));
    let tool = |path: &str| path == "/dev/null" || path.starts_with("/usr/bin/") || path.starts_with("/bin/");
    paths.clone().any(job) && paths.all(|path| job(path) || tool(path))
}

/// The names in `directory` that `is_job` knows, each given a name that no program looks for.
fn set_aside(
    draft: &mut Draft<'_>,
    directory: &str,
    why: &str,
    is_job: impl Fn(&str) -> bool,
) -> Result<usize, PrepareError> {
    let mut count = 0;
    for name in draft.list(directory)? {
        if is_job(&name) {
            draft.rename(&format!("{directory}/{name}"), &format!("{HELD_NAME}{name}"), Class::G, why)?;
            count += 1;
        }
    }
    Ok(count)
}

fn at_jobs(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let directory = "/var/spool/cron/atjobs";
    // A job is called by its time and its queue: 1234567890.a.
    let job = |name: &str| name.starts_with(|c: char| c.is_ascii_digit());
    let held = set_aside(draft, directory, "jobs of production's wait until the standby is promoted", job)?;
    if held > 0 {
        hold(draft, "at", directory, format!("{held} jobs have {HELD_NAME} before their names"));
    }
    Ok(())
}

fn mail(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let mut queues = vec!["/var/spool/mqueue".to_owned(), "/var/spool/clientmqueue".to_owned()];
    for above in queues.clone() {
        for name in draft.list(&above)? {
            // Queue groups have directories of their own, and those may have one for control files.
            queues.push(format!("{above}/{name}"));
            queues.push(format!("{above}/{name}/qf"));
        }
    }
    for queue in queues {
        let why = "production sends its mail itself";
        let held = set_aside(draft, &queue, why, |name| name.len() > 2 && name.starts_with("qf"))?;
        if held > 0 {
            hold(draft, "mail queue", &queue, format!("{held} messages have {HELD_NAME} before their names"));
        }
    }
    Ok(())
}

fn shares(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let path = "/etc/dfs/dfstab";
    let held = comment_out(draft, path, "nothing is shared before the standby is promoted", |_| false)?;
    if held > 0 {
        hold(draft, "export", path, format!("{held} lines are comments"));
    }
    Ok(())
}

fn zones(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for name in draft.list("/etc/zones")? {
        let Some(zone) = name.strip_suffix(".xml") else { continue };
        let path = format!("/etc/zones/{name}");
        let Some(content) = draft.read(&path)? else { continue };
        let text = String::from_utf8_lossy(&content);
        // The templates SUNWdefault.xml and the like are no zones, and none of them boots by itself.
        let after = text.replace("autoboot=\"true\"", "autoboot=\"false\"");
        if after != text {
            let after = after.into_bytes();
            draft.write(&path, after, Class::G, "no zone boots before the standby is promoted")?;
            hold(draft, "zone", zone, format!("autoboot is false in {path}"));
        }
    }
    Ok(())
}

/// What production left running.
fn runtime(host: &Host<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    if !host.has_devfs() {
        let mounted = draft.read("/etc/mnttab").ok().flatten();
        if mounted.is_some_and(|content| !content.is_empty()) {
            draft.write("/etc/mnttab", Vec::new(), Class::D, "what production had mounted")?;
        }
        draft.remove("/etc/dfs/sharetab", Class::D, "what production shared")?;
    }
    draft.remove("/etc/rmtab", Class::D, "who had mounted from production")?;
    for directory in ["/var/statmon/sm", "/var/statmon/sm.bak"] {
        draft.remove_below(
            directory,
            Class::D,
            "the standby does not tell production's clients that it is back",
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_the_system_runs_nothing_else() {
        for line in [
            "10 3 * * 0 /usr/lib/newsyslog",
            "1 2 * * * [ -x /usr/sbin/rtc ] && /usr/sbin/rtc -c > /dev/null 2>&1",
            "13 3 * * 0 cd /var/lp/logs; if [ -f requests ]; then /usr/bin/mv requests requests.0; fi",
        ] {
            assert!(is_system_job(line.as_bytes()), "{line}");
        }
        for line in [
            "10 3 * * 0 /usr/lib/newsyslog; /opt/backup/nightly",
            "0 * * * * /usr/bin/mailx -s x root",
            "0 * * * * backup",
            "0 * * * * /opt/usr/lib/newsyslog",
        ] {
            assert!(!is_system_job(line.as_bytes()), "{line}");
        }
    }
}
