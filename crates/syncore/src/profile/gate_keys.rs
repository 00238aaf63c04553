//! How the keys of a `[[gate]]` are read, kind by kind.
//!
//! Why: each kind has its own keys, and whatever becomes an argument of a program is checked here, once. What can go
//! wrong: a key that belongs to another kind and would have no effect, or a name that a volume manager takes for an
//! option; both are errors with their line.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::ProfileError;
use super::document::Text;
use super::gate::{Check, Gate, Hours, Manager, Method, Mounted, Peer, Postgresql, Replication, VolumeGroup};
use super::keys::{Keys, Table, is_name};
use crate::rules::Origin;

/// How long a gate may take to answer where its profile does not say.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How far clocks may be apart where the profile does not say.
const CLOCK_SKEW: Duration = Duration::from_secs(2);
/// How much WAL a standby may lack where the profile does not say: one segment of PostgreSQL's default length.
const LAG_BYTES: u64 = 16 << 20;
/// How old the newest snapshot may be where the profile does not say.
const SNAPSHOT_AGE: Duration = Duration::from_secs(24 * 3600);
/// What stays free where the profile does not say.
const RESERVE_BYTES: u64 = 64 << 20;
const RESERVE_INODES: u64 = 1000;

/// Reads the keys of one kind; the second argument is the gate's name.
type Read = fn(&mut Keys<'_>, &str) -> Result<Check, ProfileError>;

const KINDS: [(&str, Read); 12] = [
    ("volume-group", |keys, name| volume_group(keys, name).map(Check::VolumeGroup)),
    ("mounted", mounted),
    ("peer", peer),
    ("replication", |keys, name| replication(keys, name).map(Check::Replication)),
    ("device-count", device_count),
    ("role", |_, _| Ok(Check::Role)),
    ("package-transaction", |_, _| Ok(Check::PackageTransaction)),
    ("space", |keys, _| Ok(Check::Space { reserve_bytes: keys.bytes("reserve")?.unwrap_or(RESERVE_BYTES) })),
    ("inodes", |keys, _| {
        Ok(Check::Inodes { reserve: keys.number("reserve", u64::MAX)?.unwrap_or(RESERVE_INODES) })
    }),
    ("load", load),
    ("window", window),
    ("command", |keys, _| command(keys).map(|command| Check::Command { command })),
];

const MANAGERS: [(&str, Manager); 4] =
    [("lvm", Manager::Lvm), ("vxvm", Manager::Vxvm), ("zfs", Manager::Zfs), ("svm", Manager::Svm)];

/// Reads one `[[gate]]`.
pub(super) fn read(table: Spanned<Table>, text: Text<'_>) -> Result<Gate, ProfileError> {
    let mut keys = Keys::new(text, "gate", table);
    let Some(read) = keys.word("kind", &KINDS)? else { return Err(keys.missing("kind")) };
    let Some(name) = keys.name("name")? else { return Err(keys.missing("name")) };
    let timeout = keys.duration("timeout")?.unwrap_or(TIMEOUT);
    let check = read(&mut keys, name.get_ref())?;
    let origin = Origin { file: text.file.to_string(), line: keys.line() };
    keys.finish()?;
    Ok(Gate { name: name.into_inner(), check, timeout, origin })
}

/// A name, or else that of the gate.
fn name_or(keys: &mut Keys<'_>, key: &'static str, name: &str) -> Result<String, ProfileError> {
    Ok(keys.name(key)?.map_or_else(|| name.to_owned(), Spanned::into_inner))
}

fn volume_group(keys: &mut Keys<'_>, name: &str) -> Result<VolumeGroup, ProfileError> {
    managed(keys, name, &MANAGERS)
}

fn managed(
    keys: &mut Keys<'_>,
    name: &str,
    managers: &[(&'static str, Manager)],
) -> Result<VolumeGroup, ProfileError> {
    let Some(manager) = keys.word("manager", managers)? else { return Err(keys.missing("manager")) };
    Ok(VolumeGroup { manager, group: name_or(keys, "group", name)?, program: keys.path("program")? })
}

fn mounted(keys: &mut Keys<'_>, _: &str) -> Result<Check, ProfileError> {
    let Some(path) = keys.path("path")? else { return Err(keys.missing("path")) };
    let sentinel = match keys.string("sentinel")? {
        Some(file) if !Path::new(file.get_ref()).components().all(|c| matches!(c, Component::Normal(_))) => {
            return Err(keys.bad("sentinel", &file, "it is no path below `path`"));
        }
        file => file.map(|file| PathBuf::from(file.into_inner())),
    };
    let source = keys.string("source")?.map(Spanned::into_inner);
    let filesystem = keys.string("filesystem")?.map(Spanned::into_inner);
    Ok(Check::Mounted(Mounted { path, source, filesystem, sentinel }))
}

fn peer(keys: &mut Keys<'_>, _: &str) -> Result<Check, ProfileError> {
    let on = |keys: &mut Keys<'_>, key| Ok::<_, ProfileError>(keys.flag(key)?.unwrap_or(true));
    let (ping, tcp, agent) = (on(keys, "ping")?, on(keys, "tcp")?, on(keys, "agent")?);
    let port = keys.number("port", u64::from(u16::MAX))?.and_then(|port| u16::try_from(port).ok());
    let host = keys.name("host")?.map(Spanned::into_inner);
    let max_clock_skew = keys.duration("max-clock-skew")?;
    let (same_release, same_machine) = (keys.flag("same-release")?, keys.flag("same-machine")?);
    // A gate that asks nothing always passes, and a key that is not asked for would have no effect.
    if !(ping || tcp || agent) {
        return Err(keys.contradiction("the gate asks nothing: `ping`, `tcp` and `agent` are all false"));
    }
    if !agent && (max_clock_skew.is_some() || same_release.is_some() || same_machine.is_some()) {
        let reason = "`max-clock-skew`, `same-release` and `same-machine` are asked of the agent, and `agent` is false";
        return Err(keys.contradiction(reason));
    }
    if !(ping || tcp) && (host.is_some() || port.is_some()) {
        return Err(keys.contradiction("`host` and `port` are for `ping` and `tcp`, and both are false"));
    }
    let peer = Peer {
        host,
        ping,
        tcp,
        port: port.filter(|port| *port > 0),
        agent,
        max_clock_skew: max_clock_skew.or(Some(CLOCK_SKEW)).filter(|_| agent),
        same_release: same_release.unwrap_or(true) && agent,
        same_machine: same_machine.unwrap_or(true) && agent,
    };
    Ok(Check::Peer(peer))
}

/// The ways to replicate, each with what reads its keys.
type ReadMethod = fn(&mut Keys<'_>, &str) -> Result<Method, ProfileError>;

const METHODS: [(&str, ReadMethod); 6] = [
    ("srdf", |keys, name| Ok(Method::Srdf { group: name_or(keys, "group", name)? })),
    ("drbd", |keys, name| Ok(Method::Drbd { resource: name_or(keys, "resource", name)? })),
    ("md", |keys, name| Ok(Method::Md { array: name_or(keys, "array", name)? })),
    ("zfs", zfs),
    ("postgresql", postgresql),
    ("command", |keys, _| Ok(Method::Command { command: command(keys)? })),
];

fn replication(keys: &mut Keys<'_>, name: &str) -> Result<Replication, ProfileError> {
    let Some(read) = keys.word("method", &METHODS)? else { return Err(keys.missing("method")) };
    let method = read(keys, name)?;
    // The program of a command is the command, and the one of an array is a file of the kernel.
    let program = match method {
        Method::Command { .. } | Method::Md { .. } => None,
        _ => keys.path("program")?,
    };
    Ok(Replication { method, program })
}

fn zfs(keys: &mut Keys<'_>, _: &str) -> Result<Method, ProfileError> {
    let dataset = keys.required("dataset")?;
    if !dataset.get_ref().split('/').all(is_name) {
        return Err(keys.bad("dataset", &dataset, "it is no name of a dataset, such as tank/data"));
    }
    let max_age = keys.duration("max-age")?.unwrap_or(SNAPSHOT_AGE);
    Ok(Method::Zfs { dataset: dataset.into_inner(), max_age })
}

fn postgresql(keys: &mut Keys<'_>, _: &str) -> Result<Method, ProfileError> {
    let host = match keys.string("host")? {
        Some(host) if !host.get_ref().starts_with('/') && !is_name(host.get_ref()) => {
            return Err(keys.bad(
                "host",
                &host,
                "it is neither the directory of a socket nor the name of a host",
            ));
        }
        host => host.map(Spanned::into_inner),
    };
    let port = keys.number("port", u64::from(u16::MAX))?.and_then(|port| u16::try_from(port).ok());
    Ok(Method::Postgresql(Postgresql {
        run_as: name_or(keys, "run-as", "postgres")?,
        host,
        port: port.filter(|port| *port > 0).unwrap_or(5432),
        database: name_or(keys, "database", "postgres")?,
        standby: keys.name("standby")?.map(Spanned::into_inner),
        max_lag_bytes: keys.bytes("max-lag")?.unwrap_or(LAG_BYTES),
    }))
}

fn device_count(keys: &mut Keys<'_>, name: &str) -> Result<Check, ProfileError> {
    type Counted = fn(String) -> Method;
    const COUNTED: [(&str, Counted); 3] = [
        ("srdf", |group| Method::Srdf { group }),
        ("drbd", |resource| Method::Drbd { resource }),
        ("md", |array| Method::Md { array }),
    ];
    // The disks of a pool are not counted.
    let managers = MANAGERS.into_iter();
    let managers: Vec<_> = managers.filter(|(_, manager)| *manager != Manager::Zfs).collect();
    let group = managed(keys, name, &managers)?;
    let Some(method) = keys.word("method", &COUNTED)? else { return Err(keys.missing("method")) };
    let replicated = name_or(keys, "replicated", &group.group)?;
    let program = keys.path("replication-program")?;
    Ok(Check::DeviceCount { group, replication: Replication { method: method(replicated), program } })
}

fn load(keys: &mut Keys<'_>, _: &str) -> Result<Check, ProfileError> {
    let Some(max) = keys.decimal("max")? else { return Err(keys.missing("max")) };
    let minutes = keys.word("over", &[("1m", 1), ("5m", 5), ("15m", 15)])?.unwrap_or(5);
    Ok(Check::Load { max, minutes })
}

fn window(keys: &mut Keys<'_>, _: &str) -> Result<Check, ProfileError> {
    let Some(list) = keys.strings("hours")? else { return Err(keys.missing("hours")) };
    let hours: Option<Vec<Hours>> = list.get_ref().iter().map(|text| parse_hours(text)).collect();
    match hours.filter(|hours| !hours.is_empty()) {
        Some(hours) => Ok(Check::Window { hours }),
        None => Err(keys.bad_list("hours", &list, "write them as \"22:00-05:30\", at least one")),
    }
}

fn parse_hours(text: &str) -> Option<Hours> {
    let minute = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let number = |text: &str, limit: u16| {
            let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|number| digits && *number <= limit)
        };
        let (hour, minute) = (number(hour, 24)?, number(minute, 59)?);
        Some(hour * 60 + minute).filter(|minute| *minute <= 24 * 60)
    };
    let (from, to) = text.split_once('-')?;
    Some(Hours { from: minute(from).filter(|from| *from < 24 * 60)?, to: minute(to)? })
}

fn command(keys: &mut Keys<'_>) -> Result<Vec<String>, ProfileError> {
    let Some(command) = keys.strings("command")? else { return Err(keys.missing("command")) };
    if !command.get_ref().first().is_some_and(|program| program.starts_with('/')) {
        return Err(keys.bad_list("command", &command, "the program is not an absolute path"));
    }
    if command.get_ref().iter().any(|word| word.contains('\0')) {
        return Err(keys.bad_list("command", &command, "it has a NUL character"));
    }
    Ok(command.into_inner())
}
