//! `volume-group`: the data's volume group is imported on this host, and whole.
//!
//! Why: where the data is imported is where the service runs. A group that was deported here has failed over, and what
//! syncs to the other host now would overwrite production. What can go wrong: a tool that warns and succeeds, that
//! prints nothing, or that was cut off in the middle; only a line that names the group and says that it is well is a
//! yes. The parsers are pure, and what they read is the tools' own, in the C locale.

use serde::Deserialize;

use super::{Asked, No, tool};
use crate::profile::{Manager, VolumeGroup};
use crate::tree::escape;

/// What a manager says of a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// Imported and whole, with what else was said of it.
    Imported(String),
    /// There, and in this state.
    Not(String),
    /// Not known on this host.
    Unknown,
}

/// Passes when the group is imported and nothing of it is missing.
pub(super) fn ask(wanted: &VolumeGroup, asked: &Asked<'_>) -> Result<String, No> {
    let (group, program) = (&wanted.group, wanted.program.as_deref());
    let (tool, arguments) = question(wanted.manager, group);
    let reply = tool::run(tool, program, arguments, asked)?;
    let known = match wanted.manager {
        Manager::Lvm => parse_vgs(&reply.said, group),
        Manager::Vxvm => parse_vxdg(&reply.said, group),
        Manager::Zfs => parse_zpool(&reply.said, group),
        Manager::Svm => parse_metaset(&reply.said, &host_name()),
    };
    let next = match wanted.manager {
        Manager::Lvm => format!("look with `vgs -o +vg_exported,vg_missing_pv_count {group}`"),
        Manager::Vxvm => {
            format!("look with `vxdg list` and `vxdisk -o alldgs list`; {group} is imported there")
        }
        Manager::Zfs => format!("look with `zpool status {group}` and `zpool import`"),
        Manager::Svm => format!("look with `metaset -s {group}`"),
    };
    let next = format!("{next}; sync only from the host that has it");
    match known {
        // A tool that fails has not finished its answer, whatever it said before.
        Some(Group::Imported(state)) if reply.code == 0 => Ok(format!("{group} is imported here: {state}")),
        Some(Group::Not(state)) => Err(No::refuse(format!("{group} is {state}"), next)),
        Some(Group::Unknown) if reply.code == 0 => {
            Err(No::refuse(format!("{group} is not imported here"), next))
        }
        // Of the tools that fail for a group that they do not know, the exit code is the answer.
        _ if reply.code != 0 => {
            Err(No::refuse(format!("{tool} knows no usable {group} here: {}", reply.evidence()), next))
        }
        _ => Err(No::cannot_tell(
            format!("{tool} said what cannot be read: {:?}", tool::last_words(&reply.said)),
            next,
        )),
    }
}

fn question(manager: Manager, group: &str) -> (&'static str, Vec<String>) {
    let words: (&str, &[&str]) = match manager {
        Manager::Lvm => (
            "vgs",
            &[
                "--reportformat",
                "json",
                "-o",
                "vg_name,vg_attr,vg_exported,vg_partial,vg_missing_pv_count,pv_count",
            ],
        ),
        // The whole list: with a group in its arguments it prints pages of details instead.
        Manager::Vxvm => return ("vxdg", vec!["-q".into(), "list".into()]),
        Manager::Zfs => ("zpool", &["list", "-H", "-p", "-o", "name,health"]),
        Manager::Svm => ("metaset", &["-s"]),
    };
    let mut arguments: Vec<String> = words.1.iter().map(|word| (*word).to_owned()).collect();
    arguments.push(group.to_owned());
    (words.0, arguments)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The report of vgs(8), `--reportformat json` (lvmreport(7)).
#[derive(Deserialize)]
struct VgsReport {
    report: Vec<VgsPart>,
}

#[derive(Deserialize)]
struct VgsPart {
    vg: Vec<VgsGroup>,
}

#[derive(Deserialize)]
struct VgsGroup {
    vg_name: String,
    vg_exported: String,
    vg_partial: String,
    vg_missing_pv_count: String,
    pv_count: String,
}

fn read_vgs(said: &[u8], group: &str) -> Option<Vec<VgsGroup>> {
    let report: VgsReport = serde_json::from_slice(said).ok()?;
    let groups = report.report.into_iter().flat_map(|part| part.vg);
    Some(groups.filter(|found| found.vg_name == group).collect())
}

/// The state of a group from the report of vgs(8); none for what is no such report.
pub(super) fn parse_vgs(said: &[u8], group: &str) -> Option<Group> {
    let mut groups = read_vgs(said, group)?;
    let found = match (groups.pop(), groups.is_empty()) {
        (None, _) => return Some(Group::Unknown),
        (Some(_), false) => return Some(Group::Not("the name of more than one volume group".to_owned())),
        (Some(found), true) => found,
    };
    let (missing, disks): (u64, u64) =
        (found.vg_missing_pv_count.parse().ok()?, found.pv_count.parse().ok()?);
    Some(match (&found.vg_exported[..], &found.vg_partial[..]) {
        ("exported", _) => Group::Not("exported".to_owned()),
        ("", "") if missing == 0 && disks > 0 => {
            Group::Imported(format!("{disks} physical volumes, none missing"))
        }
        ("", _) => Group::Not(format!("incomplete: {missing} of {disks} physical volumes are missing")),
        _ => return None,
    })
}

/// The number of physical volumes of a group, from the same report.
pub(super) fn count_vgs(said: &[u8], group: &str) -> Option<u64> {
    match &read_vgs(said, group)?[..] {
        [found] => found.pv_count.parse().ok(),
        _ => None,
    }
}

/// The state of a disk group from `vxdg list`: name, state and id in columns (vxdg(1M)). Only imported groups are
/// listed; the state is words with commas between.
pub(super) fn parse_vxdg(said: &[u8], group: &str) -> Option<Group> {
    let mut found = None;
    for line in whole_lines(said)? {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] | ["NAME", "STATE", "ID"] => {}
            // An id has a time, a number and a host, with dots between.
            [_, _, id] if !id.contains('.') => return None,
            [name, state, _] if name == group => {
                let well = state.split(',').any(|word| word == "enabled");
                found = Some(match well {
                    true => Group::Imported(escape(state.as_bytes())),
                    false => Group::Not(escape(state.as_bytes())),
                });
            }
            [_, _, _] => {}
            _ => return None,
        }
    }
    Some(found.unwrap_or(Group::Unknown))
}

/// The health of a pool from `zpool list -H -o name,health` (zpoolconcepts(7)).
pub(super) fn parse_zpool(said: &[u8], pool: &str) -> Option<Group> {
    for line in whole_lines(said)? {
        let (name, health) = line.split_once('\t')?;
        if name == pool {
            return Some(match health {
                "ONLINE" => Group::Imported("health ONLINE".to_owned()),
                "DEGRADED" | "FAULTED" | "OFFLINE" | "REMOVED" | "UNAVAIL" | "SUSPENDED" => {
                    Group::Not(format!("imported with health {health}"))
                }
                _ => return None,
            });
        }
    }
    Some(Group::Unknown)
}

/// The owner of a disk set from `metaset -s SET` (metaset(1M)): below the heading `Host Owner` a line for each host,
/// with `Yes` behind the one that has taken the set.
pub(super) fn parse_metaset(said: &[u8], host: &str) -> Option<Group> {
    let mut lines = whole_lines(said)?.into_iter();
    lines.find(|line| line.starts_with("Set name = "))?;
    lines.find(|line| line.split_whitespace().eq(["Host", "Owner"]))?;
    let (mut owner, mut here) = (None, false);
    for line in lines.take_while(|line| line.starts_with(char::is_whitespace)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let short = words.first()?.split('.').next()?;
        here |= short == host.split('.').next()?;
        match words[1..] {
            [] => {}
            // `auto` behind it says that the set is taken at boot.
            ["Yes"] | ["Yes", _] => owner = Some(short.to_owned()),
            _ => return None,
        }
    }
    Some(match owner {
        Some(owner) if Some(&owner[..]) == host.split('.').next() => {
            Group::Imported(format!("owned by {owner}"))
        }
        Some(owner) => Group::Not(format!("owned by {}", escape(owner.as_bytes()))),
        None if here => Group::Not("owned by no host".to_owned()),
        None => Group::Not("none of this host's".to_owned()),
    })
}

/// The lines of what was said; none when it is not text, or its last line was cut off.
pub(super) fn whole_lines(said: &[u8]) -> Option<Vec<&str>> {
    let text = std::str::from_utf8(said).ok()?;
    (text.is_empty() || text.ends_with('\n')).then(|| text.lines().collect())
}
