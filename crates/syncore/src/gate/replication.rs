//! `replication`: what replicates the data between the hosts is in sync.
//!
//! Why: the standby's system is worth what its data is worth; a system that is synced over while its data lags behind or
//! flows the other way makes a standby that is neither. What can go wrong: a tool that answers for nothing at all (no
//! peer is connected, so none is behind); each parser wants to see a peer, and that it is up to date.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::volume_group::whole_lines;
use super::{Asked, No, command, postgresql, tool};
use crate::profile::{Method, Replication};
use crate::tree::escape;

/// What a tool says of replication.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In sync, with so many devices.
    InSync { devices: u64, evidence: String },
    /// Not, for this reason.
    Behind(String),
}

/// Passes when everything is in sync.
pub(super) fn ask(wanted: &Replication, asked: &Asked<'_>) -> Result<String, No> {
    match &wanted.method {
        Method::Srdf { group } => srdf(group, wanted, asked),
        Method::Command { command: words } => command::ask(words, asked),
        Method::Postgresql(server) => postgresql::ask(server, wanted.program.as_deref(), asked),
        Method::Zfs { dataset, max_age } => {
            let words = [
                "list",
                "-H",
                "-p",
                "-t",
                "snapshot",
                "-d",
                "1",
                "-o",
                "creation,name",
                "-S",
                "creation",
                dataset,
            ];
            let reply = tool::run("zfs", wanted.program.as_deref(), words, asked)?;
            let next = format!("look with `zfs list -t snapshot {dataset}`, and at what sends the snapshots");
            if reply.code != 0 {
                return Err(No::cannot_tell(format!("zfs knows no {dataset}: {}", reply.evidence()), next));
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            judge(parse_zfs(&reply.said, now, max_age.as_secs()), "zfs", &reply.said, &next)
        }
        Method::Drbd { resource } => {
            let reply = tool::run("drbdsetup", wanted.program.as_deref(), drbd_words(resource), asked)?;
            let next =
                format!("look with `drbdsetup status {resource}`; wait for the resync, or connect the peer");
            if reply.code != 0 {
                return Err(No::cannot_tell(
                    format!("drbdsetup knows no {resource}: {}", reply.evidence()),
                    next,
                ));
            }
            judge(parse_drbd(&reply.said, resource), "drbdsetup", &reply.said, &next)
        }
        Method::Md { array } => {
            let said = mdstat(asked)?;
            let next =
                format!("look at /proc/mdstat and with `mdadm --detail /dev/{array}`; wait for the resync");
            judge(parse_mdstat(&said, array), "/proc/mdstat", &said, &next)
        }
    }
}

/// How many devices are replicated; what is asked of [`super::device_count`].
pub(super) fn count(wanted: &Replication, asked: &Asked<'_>) -> Result<u64, No> {
    let unclear = |tool: &str, said: &[u8]| {
        No::cannot_tell(
            format!("{tool} does not say how many devices there are: {:?}", tool::last_words(said)),
            format!("run {tool} by hand and see what it says"),
        )
    };
    match &wanted.method {
        Method::Srdf { group } => {
            let reply = tool::run("symdg", wanted.program.as_deref(), ["show", group], asked)?;
            parse_symdg(&reply.said).filter(|_| reply.code == 0).ok_or_else(|| {
                unclear("symdg show", if reply.said.is_empty() { &reply.complained } else { &reply.said })
            })
        }
        Method::Drbd { resource } => {
            let reply = tool::run("drbdsetup", wanted.program.as_deref(), drbd_words(resource), asked)?;
            let found = read_drbd(&reply.said, resource).filter(|_| reply.code == 0);
            found
                .map(|found| found.devices.len() as u64)
                .ok_or_else(|| unclear("drbdsetup status", &reply.said))
        }
        Method::Md { array } => {
            let said = mdstat(asked)?;
            let found = read_mdstat(&said, array).flatten();
            found.map(|found| found.wanted).ok_or_else(|| unclear("/proc/mdstat", &said))
        }
        Method::Zfs { .. } | Method::Postgresql(_) | Method::Command { .. } => {
            Err(No::cannot_tell("it has no devices to count", "correct `method` in the gate"))
        }
    }
}

fn judge(state: Option<State>, tool: &str, said: &[u8], next: &str) -> Result<String, No> {
    match state {
        Some(State::InSync { evidence, .. }) => Ok(evidence),
        Some(State::Behind(evidence)) => Err(No::refuse(evidence, next)),
        None => {
            let said = tool::last_words(said);
            Err(No::cannot_tell(format!("{tool} said what cannot be read: {said:?}"), next))
        }
    }
}

/// SRDF: the exit code of `symrdf verify` is the answer (Solutions Enabler, symrdf(1)).
fn srdf(group: &str, wanted: &Replication, asked: &Asked<'_>) -> Result<String, No> {
    let words = ["-g", group, "-synchronized", "verify"];
    let reply = tool::run("symrdf", wanted.program.as_deref(), words, asked)?;
    match reply.code {
        0 => Ok(format!("symrdf verifies that all of {group} is synchronized")),
        _ => Err(No::refuse(
            format!("symrdf does not verify that {group} is synchronized: {}", reply.evidence()),
            format!("look with `symrdf -g {group} query`; wait until the pairs are Synchronized"),
        )),
    }
}

/// The number behind `Number of STD Devices in Group` of `symdg show` (symdg(1)).
pub(super) fn parse_symdg(said: &[u8]) -> Option<u64> {
    let mut counts = whole_lines(said)?.into_iter().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "Number of STD Devices in Group").then(|| value.trim().parse().ok())
    });
    counts.next().flatten().filter(|_| counts.next().is_none())
}

fn drbd_words(resource: &str) -> [&str; 3] {
    ["status", resource, "--json"]
}

/// A resource in `drbdsetup status --json` (drbdsetup(8)).
#[derive(Deserialize)]
struct DrbdResource {
    name: String,
    role: String,
    #[serde(default)]
    devices: Vec<DrbdDevice>,
    #[serde(default)]
    connections: Vec<DrbdConnection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DrbdDevice {
    disk_state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DrbdConnection {
    name: String,
    connection_state: String,
    #[serde(rename = "peer_devices", default)]
    peer_devices: Vec<DrbdPeerDevice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DrbdPeerDevice {
    replication_state: String,
    peer_disk_state: String,
}

fn read_drbd(said: &[u8], resource: &str) -> Option<DrbdResource> {
    let found: Vec<DrbdResource> = serde_json::from_slice(said).ok()?;
    found.into_iter().find(|found| found.name == resource)
}

/// Whether every disk of a resource is up to date here and at every peer.
pub(super) fn parse_drbd(said: &[u8], resource: &str) -> Option<State> {
    let found = read_drbd(said, resource)?;
    let behind = |text: String| Some(State::Behind(format!("{resource}: {}", escape(text.as_bytes()))));
    if found.devices.is_empty() || found.connections.is_empty() {
        return behind("there is no disk or no peer".to_owned());
    }
    if let Some(device) = found.devices.iter().find(|device| device.disk_state != "UpToDate") {
        return behind(format!("the disk here is {}", device.disk_state));
    }
    for connection in &found.connections {
        let peer = &connection.name;
        if connection.connection_state != "Connected" {
            return behind(format!("the connection to {peer} is {}", connection.connection_state));
        }
        if connection.peer_devices.len() != found.devices.len() {
            return behind(format!(
                "{peer} has {} of {} disks",
                connection.peer_devices.len(),
                found.devices.len()
            ));
        }
        let lagging = |device: &&DrbdPeerDevice| {
            device.replication_state != "Established" || device.peer_disk_state != "UpToDate"
        };
        if let Some(device) = connection.peer_devices.iter().find(lagging) {
            return behind(format!(
                "replication to {peer} is {}, its disk is {}",
                device.replication_state, device.peer_disk_state
            ));
        }
    }
    let devices = found.devices.len() as u64;
    let (peers, role) = (found.connections.len(), escape(found.role.as_bytes()));
    let evidence = format!("{resource} is {role}: {devices} disks up to date here and at {peers} peers");
    Some(State::InSync { devices, evidence })
}

fn mdstat(asked: &Asked<'_>) -> Result<Vec<u8>, No> {
    let path = asked.surroundings.proc.join("mdstat");
    fs::read(&path).map_err(|error| {
        No::cannot_tell(
            format!("{} cannot be read: {error}", path.display()),
            "load the md driver, or mount /proc",
        )
    })
}

/// An array in the text of /proc/mdstat.
struct Array {
    active: bool,
    wanted: u64,
    working: u64,
    busy: Option<String>,
}

/// The array in the text of /proc/mdstat (md(4)); the inner none when it is not there, or is no mirror.
fn read_mdstat(said: &[u8], array: &str) -> Option<Option<Array>> {
    let lines = whole_lines(said)?;
    if !lines.first()?.starts_with("Personalities :") || !lines.last()?.starts_with("unused devices:") {
        return None;
    }
    let mut lines = lines.into_iter();
    let Some(head) = lines.find_map(|line| line.strip_prefix(array)?.strip_prefix(" : ")) else {
        return Some(None);
    };
    let (mut counts, mut busy) = (None, None);
    for line in lines.take_while(|line| line.starts_with(' ') && !line.trim().is_empty()) {
        // `[2/1]`: devices that it should have, and that work.
        counts = counts.or_else(|| {
            let inner = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix('[')?.strip_suffix(']')?.split_once('/'))?;
            Some((inner.0.parse::<u64>().ok()?, inner.1.parse::<u64>().ok()?))
        });
        let action = ["recovery", "resync", "reshape"].into_iter().find(|action| line.contains(*action));
        busy = busy.or_else(|| action.map(|_| escape(line.trim().as_bytes())));
    }
    Some(counts.map(|(wanted, working)| Array { active: head.starts_with("active"), wanted, working, busy }))
}

/// Whether an array has all its devices and rebuilds none.
pub(super) fn parse_mdstat(said: &[u8], array: &str) -> Option<State> {
    let Some(found) = read_mdstat(said, array)? else {
        return Some(State::Behind(format!("there is no redundant array {array}")));
    };
    let Array { active, wanted, working, busy } = found;
    Some(match busy {
        _ if !active => State::Behind(format!("{array} is not active")),
        _ if working < wanted => State::Behind(format!("{array}: {working} of {wanted} devices work")),
        Some(busy) => State::Behind(format!("{array}: {busy}")),
        None if wanted < 2 => State::Behind(format!("{array} has {wanted} device, and so no copy")),
        None => State::InSync {
            devices: wanted,
            evidence: format!("{array}: {working} of {wanted} devices work"),
        },
    })
}

/// Whether the newest snapshot is young, from `zfs list -H -p -o creation,name` (zfsprops(7)): seconds and a name.
pub(super) fn parse_zfs(said: &[u8], now: u64, max_age: u64) -> Option<State> {
    let mut newest: Option<(u64, &str)> = None;
    for line in whole_lines(said)? {
        let (creation, name) = line.split_once('\t')?;
        let creation = creation.parse().ok()?;
        newest = newest.max(Some((creation, name)));
    }
    let Some((creation, name)) = newest else {
        return Some(State::Behind("there is no snapshot".to_owned()));
    };
    let (age, name) = (now.saturating_sub(creation), escape(name.as_bytes()));
    let evidence =
        format!("the newest snapshot, {name}, is {age} seconds old, at most {max_age} are allowed");
    Some(match age <= max_age {
        true => State::InSync { devices: 1, evidence },
        false => State::Behind(evidence),
    })
}
