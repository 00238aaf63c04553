//! What acts because it lies in a certain place: crontabs, at jobs, queued mail, exports, hooks; and cloned databases.
//!
//! Why: each of these works for production at the standby's first boot: a job runs twice, a mail is sent twice, a share
//! is offered twice. They are moved away, where no daemon looks. What can go wrong: a place that is not known here; so
//! the units that would work on it are held as well, and a directory of hooks is judged name by name.

use super::distribution::{Owners, is_system_hook, is_system_job};
use super::{identity, units};
use crate::prepare::draft::Draft;
use crate::prepare::edit::Instead;
use crate::prepare::lines::{Lines, is_comment};
use crate::prepare::{Finding, PrepareError};
use crate::tree::Kind;

/// Crontabs of users: of Red Hat and Arch, Debian, SUSE.
const CRONTABS: [&str; 3] = ["/var/spool/cron", "/var/spool/cron/crontabs", "/var/spool/cron/tabs"];
/// Directories whose files cron runs.
const CRON_DIRECTORIES: [&str; 6] = [
    "/etc/cron.d",
    "/etc/cron.hourly",
    "/etc/cron.daily",
    "/etc/cron.weekly",
    "/etc/cron.monthly",
    "/etc/cron.yearly",
];
/// Jobs of at(1).
const AT: [&str; 3] = ["/var/spool/cron/atjobs", "/var/spool/at", "/var/spool/atjobs"];
/// Below a queue directory of postfix, where mail is.
const POSTFIX: [&str; 11] = [
    "incoming", "active", "deferred", "hold", "maildrop", "bounce", "defer", "trace", "corrupt", "flush",
    "saved",
];
/// Other mail queues.
const QUEUES: [&str; 14] = [
    "/var/spool/exim4/input",
    "/var/spool/exim4/msglog",
    "/var/spool/exim/input",
    "/var/spool/exim/msglog",
    "/var/spool/mqueue",
    "/var/spool/mqueue-client",
    "/var/spool/clientmqueue",
    "/var/spool/smtpd/queue",
    "/var/spool/smtpd/offline",
    "/var/spool/nullmailer/queue",
    "/var/spool/dma",
    "/var/spool/mailman/out",
    "/var/spool/uucp",
    "/var/spool/cups",
];
/// Directories of programs that run when an interface comes up, the host sleeps, or systemd starts.
const HOOKS: [&str; 17] = [
    "/etc/network/if-pre-up.d",
    "/etc/network/if-up.d",
    "/etc/network/if-down.d",
    "/etc/network/if-post-down.d",
    "/etc/NetworkManager/dispatcher.d",
    "/etc/NetworkManager/dispatcher.d/pre-up.d",
    "/etc/NetworkManager/dispatcher.d/pre-down.d",
    "/etc/NetworkManager/dispatcher.d/no-wait.d",
    "/etc/networkd-dispatcher/routable.d",
    "/etc/networkd-dispatcher/configured.d",
    "/etc/dhcp/dhclient-enter-hooks.d",
    "/etc/dhcp/dhclient-exit-hooks.d",
    "/etc/ppp/ip-up.d",
    "/etc/systemd/system-generators",
    "/etc/systemd/system-sleep",
    "/etc/systemd/system-shutdown",
    "/usr/local/lib/systemd/system-generators",
];
/// Data that a running server writes all the time; a copy of it is torn, or is another server's work.
const DATA: [(&str, &str); 17] = [
    ("/var/lib/postgresql", "PostgreSQL"),
    ("/var/lib/pgsql", "PostgreSQL"),
    ("/var/lib/mysql", "MySQL or MariaDB"),
    ("/var/lib/mongodb", "MongoDB"),
    ("/var/lib/mongo", "MongoDB"),
    ("/var/lib/redis", "Redis"),
    ("/var/lib/valkey", "Valkey"),
    ("/var/lib/ldap", "OpenLDAP"),
    ("/var/lib/etcd", "etcd"),
    ("/var/lib/elasticsearch", "Elasticsearch"),
    ("/var/lib/cassandra", "Cassandra"),
    ("/var/lib/rabbitmq", "RabbitMQ"),
    ("/var/lib/docker", "Docker"),
    ("/var/lib/containerd", "containerd"),
    ("/var/lib/containers/storage", "Podman"),
    ("/var/lib/libvirt/images", "libvirt"),
    ("/var/lib/lxd", "LXD"),
];
/// What a held line of a crontab begins with.
const MARK: &[u8] = b"# held by clonetool: ";

/// Plans what becomes of everything that would act.
pub(super) fn plan(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let owners = Owners::read(draft)?;
    cron(&owners, draft)?;
    mail(draft)?;
    exports(draft)?;
    hooks(&owners, draft)?;
    units::plan(&owners, draft)?;
    data(draft)?;
    if !owners.known() {
        let message = "what belongs to the distribution was told by name alone: its package database is not one \
                       that can be read here";
        draft.find(Finding::note(message));
    }
    Ok(())
}

/// Moves one thing away and says so.
fn away(kind: &str, path: &str, why: &str, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    if let Some(undo) = draft.put_away(path, Instead::Nothing, why)? {
        draft.hold(kind, path, "moved away", vec![undo]);
    }
    Ok(())
}

fn is_a(kind: Kind, path: &str, draft: &Draft<'_>) -> Result<bool, PrepareError> {
    Ok(draft.own_entry(path)?.is_some_and(|entry| entry.kind == kind))
}

fn cron(owners: &Owners, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let why = "production's jobs do not run here";
    for directory in CRONTABS.iter().chain(&AT) {
        let kind = if AT.contains(directory) { "at" } else { "crontab" };
        for name in draft.list(directory)? {
            let path = format!("{directory}/{name}");
            // .SEQ and .lockfile are at's own; a directory is one of those above, or at's spool of output.
            if !name.starts_with('.') && !is_a(Kind::Directory, &path, draft)? {
                away(kind, &path, why, draft)?;
            }
        }
    }
    for directory in CRON_DIRECTORIES {
        for name in draft.list(directory)? {
            let path = format!("{directory}/{name}");
            let system = is_system_job(&name) && (name.starts_with("clonetool") || !owners.disown(&path));
            if !system && !is_a(Kind::Directory, &path, draft)? {
                away("cron", &path, why, draft)?;
            }
        }
    }
    for path in ["/etc/crontab", "/etc/anacrontab"] {
        let Some(before) = draft.read(path)? else { continue };
        let after = without_jobs(&before);
        if let Some(undo) = draft.put_away(path, Instead::File { before, after }, why)? {
            draft.hold("cron", path, "its jobs are comments; the original is kept", vec![undo]);
        }
    }
    // Units of users run without anybody logged in where they linger.
    for name in draft.list("/var/lib/systemd/linger")? {
        away("lingering user", &format!("/var/lib/systemd/linger/{name}"), why, draft)?;
    }
    Ok(())
}

/// A system crontab whose lines, but for the distribution's, are comments.
fn without_jobs(content: &[u8]) -> Vec<u8> {
    let mut lines = Lines::of(content);
    lines.edit(|line| {
        let keep = is_comment(line, b'#') || is_variable(line) || is_run_parts(line);
        Some(if keep { line.to_vec() } else { [MARK, line].concat() })
    });
    lines.to_bytes()
}

fn is_variable(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|b| !(b.is_ascii_alphanumeric() || *b == b'_')).unwrap_or(line.len());
    let starts_well = line.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    starts_well && line[end..].trim_ascii_start().starts_with(b"=")
}

/// Whether a job only runs the directories of cron: it names one, and no other path of its own.
fn is_run_parts(line: &[u8]) -> bool {
    const OTHERS: [&str; 9] = [
        "/",
        "/dev/null",
        "/usr/sbin/anacron",
        "/usr/lib/cron/run-crons",
        "/etc/anacrontab",
        "/bin/run-parts",
        "/usr/bin/run-parts",
        "/bin/test",
        "/var/spool/anacron",
    ];
    let text = String::from_utf8_lossy(line);
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || "&|;(){}'\"`$<>".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    let runs = words.iter().any(|word| word.ends_with("run-parts") || word.ends_with("run-crons"));
    let known = |word: &str| {
        OTHERS.contains(&word)
            || word.starts_with("/etc/cron.") && !word.contains("..")
            || word.starts_with("/var/spool/cron/lastrun") && !word.contains("..")
    };
    let paths: Vec<&&str> =
        words.iter().filter(|word| word.contains('/') && !word.starts_with("*/")).collect();
    runs && !text.contains(['`', '$']) && paths.iter().all(|word| known(word) || word.starts_with("-*/"))
}

fn mail(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let mut queues: Vec<String> = QUEUES.iter().map(|queue| (*queue).to_owned()).collect();
    let mut postfix: Vec<String> =
        draft.list("/var/spool")?.into_iter().filter(|name| name.starts_with("postfix")).collect();
    postfix.iter_mut().for_each(|name| *name = format!("/var/spool/{name}"));
    for line in draft.text("/etc/postfix/main.cf")?.unwrap_or_default().lines() {
        if let Some(("queue_directory", value)) =
            line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))
            && value.starts_with('/')
        {
            postfix.push(value.to_owned());
        }
    }
    for above in postfix {
        queues.extend(POSTFIX.iter().map(|queue| format!("{above}/{queue}")));
    }
    for queue in queues {
        if !is_a(Kind::Directory, &queue, draft)? || !holds_a_file(&queue, draft, 0)? {
            continue;
        }
        let why = "production sends what production has queued";
        if let Some(undo) = draft.put_away(&queue, Instead::Directory, why)? {
            let how = "moved away, with an empty directory in its place";
            draft.hold("mail queue", &queue, how, vec![undo]);
        }
    }
    Ok(())
}

/// Whether there is anything but directories below a directory. Queues are at most a few deep.
fn holds_a_file(directory: &str, draft: &Draft<'_>, depth: u32) -> Result<bool, PrepareError> {
    for name in draft.list(directory)? {
        let path = format!("{directory}/{name}");
        if !is_a(Kind::Directory, &path, draft)? || depth > 8 || holds_a_file(&path, draft, depth + 1)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn exports(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let why = "production's exports are not offered from here";
    if let Some(before) = draft.read("/etc/exports")? {
        let mut lines = Lines::of(&before);
        lines.edit(|line| Some(if is_comment(line, b'#') { line.to_vec() } else { [MARK, line].concat() }));
        let after = lines.to_bytes();
        if let Some(undo) = draft.put_away("/etc/exports", Instead::File { before, after }, why)? {
            draft.hold("export", "/etc/exports", "its lines are comments; the original is kept", vec![undo]);
        }
    }
    for name in draft.list("/etc/exports.d")? {
        if name.ends_with(".exports") {
            away("export", &format!("/etc/exports.d/{name}"), why, draft)?;
        }
    }
    Ok(())
}

fn hooks(owners: &Owners, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for directory in HOOKS {
        for name in draft.list(directory)? {
            let path = format!("{directory}/{name}");
            let masked = draft.own_entry(&path)?.is_some_and(|entry| entry.target == b"/dev/null");
            if masked || is_a(Kind::Directory, &path, draft)? {
                continue;
            }
            let system = if owners.known() { !owners.disown(&path) } else { is_system_hook(&name) };
            if !system {
                away("hook", &path, "production's programs do not run here", draft)?;
            }
        }
    }
    for name in draft.list("/etc/udev/rules.d")? {
        let path = format!("/etc/udev/rules.d/{name}");
        let runs = draft.text(&path)?.is_some_and(|text| {
            text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains("RUN"))
        });
        if runs && (!owners.known() || owners.disown(&path)) {
            draft.find(Finding::note(format!(
                "{path} runs a program when a device appears: look whether it may here"
            )));
        }
    }
    Ok(())
}

/// Says which cloned data nothing may serve. Its services are held with everything that is not the system's.
fn data(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for (path, what) in DATA {
        if !is_a(Kind::Directory, path, draft)? || draft.list(path)?.is_empty() {
            continue;
        }
        let how = "its services are held; a copy that was taken while they ran is torn: replicate or restore it first";
        draft.hold("data", path, how, Vec::new());
        draft.find(Finding::note(format!("{path} is {what} data of production's; {how}")));
    }
    if !identity::has_systemd(draft)? && draft.exists("/etc/init")? {
        draft.find(Finding::note("jobs of upstart in /etc/init are not looked at"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
