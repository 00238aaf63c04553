//! Snapshots of logical volumes, by lvcreate(8), lvs(8) and lvremove(8).
//!
//! Why: what a database or a mail server does not stop for, LVM does: it holds the filesystem still for a moment. What
//! can go wrong: a classic snapshot keeps what changes on the origin, and is worth nothing once it is full; then
//! reading it gives errors, and its state says so. A volume of somebody else's: ours have the tag of their profile and
//! a name that goes with it, and nothing else is removed.

use std::path::PathBuf;

use serde::Deserialize;

use super::FreezeError;
use super::tools::Tools;
use crate::scan::MountSource;
use crate::tree::RelPath;

/// What is asked of each volume (lvs(8)).
const FIELDS: &str = "vg_name,lv_name,lv_path,lv_kernel_major,lv_kernel_minor,lv_attr,pool_lv,lv_tags";

/// A snapshot.
#[derive(Debug)]
pub(super) struct Volume {
    /// The device of it.
    pub(super) device: PathBuf,
    /// `GROUP/VOLUME`.
    name: String,
}

#[derive(Deserialize)]
struct Report {
    report: Vec<Rows>,
}

#[derive(Deserialize)]
struct Rows {
    lv: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    vg_name: String,
    lv_name: String,
    lv_path: String,
    lv_kernel_major: String,
    lv_kernel_minor: String,
    lv_attr: String,
    pool_lv: String,
    lv_tags: String,
}

impl Row {
    fn name(&self) -> String {
        format!("{}/{}", self.vg_name, self.lv_name)
    }

    fn is_thin(&self) -> bool {
        !self.pool_lv.is_empty()
    }

    /// What is wrong with it, by the fifth and ninth letter of its attributes (lvs(8)); none while it can be read.
    fn fault(&self) -> Option<&'static str> {
        match (self.lv_attr.as_bytes().get(4), self.lv_attr.as_bytes().get(8)) {
            (_, Some(b'F')) => Some("has failed"),
            (Some(b'a'), _) => None,
            (Some(b'I' | b'S'), _) => Some("is full, and what is read of it is worth nothing"),
            _ => Some("is not active any more"),
        }
    }
}

/// All volumes of this host.
fn list(tools: &Tools) -> Result<Vec<Row>, String> {
    let said = tools.run("lvs", &["--reportformat", "json", "-o", FIELDS])?;
    let report: Report =
        serde_json::from_slice(&said).map_err(|error| format!("lvs said what cannot be read: {error}"))?;
    Ok(report.report.into_iter().flat_map(|rows| rows.lv).collect())
}

fn rows(tools: &Tools) -> Result<Vec<Row>, FreezeError> {
    list(tools).map_err(|reason| FreezeError::failed("look at the logical volumes", &reason))
}

/// The tag of a profile's volumes, and what their names begin with; a number follows.
fn mark(tools: &Tools) -> String {
    format!("clonetool.{}", tools.mark)
}

fn is_own(row: &Row, mark: &str) -> bool {
    let number = row.lv_name.strip_prefix(mark).and_then(|rest| rest.strip_prefix('.'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        && row.lv_tags.split(',').any(|tag| tag == mark)
}

/// Removes what earlier runs of the profile left, and says what, for people.
pub(super) fn remove_leftovers(tools: &Tools) -> Result<Vec<String>, FreezeError> {
    let mark = mark(tools);
    let left = rows(tools)?.into_iter().filter(|row| is_own(row, &mark)).map(|row| row.name());
    left.map(|name| remove(&name, tools).map(|()| name)).collect()
}

/// Makes one of the volume that is mounted at `path`, the profile's `number`th.
pub(super) fn make(
    path: &RelPath,
    mount: &MountSource,
    number: usize,
    size_bytes: Option<u64>,
    tools: &Tools,
) -> Result<Volume, FreezeError> {
    let refuse = |reason: &str| Err(FreezeError::impossible(path, reason));
    if mount.kind == "btrfs" {
        return refuse("it is btrfs, of which no two copies can be mounted: use source.snapshot = \"btrfs\"");
    }
    if mount.root != b"/" {
        return refuse("only a part of its filesystem is mounted there");
    }
    let (major, minor) = (mount.device.0.to_string(), mount.device.1.to_string());
    let is_origin = |row: &Row| row.lv_kernel_major == major && row.lv_kernel_minor == minor;
    let Some(origin) = rows(tools)?.into_iter().find(is_origin) else {
        return refuse("what is mounted there is no logical volume; see source.snapshot-except");
    };
    let mark = mark(tools);
    let (name, origin_name) = (format!("{mark}.{number}"), origin.name());
    let mut arguments = vec!["--yes", "--snapshot", "--name", &name, "--addtag", &mark];
    let size = size_bytes.map(|bytes| format!("{bytes}b"));
    match &size {
        // Room is the pool's; it is not skipped when it is activated, as thin snapshots are.
        _ if origin.is_thin() => arguments.extend(["--setactivationskip", "n"]),
        Some(size) => arguments.extend(["--size", size]),
        None => arguments.extend(["--extents", "10%ORIGIN"]),
    }
    arguments.push(&origin_name);
    let name = format!("{}/{name}", origin.vg_name);
    let operation = format!("make the snapshot {name}");
    if let Err(reason) = tools.run("lvcreate", &arguments) {
        // Cut off in the middle it may have made one all the same.
        let left =
            list(tools).is_ok_and(|rows| rows.iter().any(|row| row.name() == name && is_own(row, &mark)));
        if left {
            remove(&name, tools)?;
        }
        return Err(FreezeError::failed(operation, &reason));
    }
    match rows(tools)?.into_iter().find(|row| row.name() == name) {
        Some(made) => Ok(Volume { device: PathBuf::from(made.lv_path), name }),
        None => Err(FreezeError::failed(operation, &"it is not there")),
    }
}

/// Sees to it that all of them can be read, and so could be until now.
pub(super) fn check<'a>(volumes: impl Iterator<Item = &'a Volume>, tools: &Tools) -> Result<(), FreezeError> {
    let mut volumes = volumes.peekable();
    if volumes.peek().is_none() {
        return Ok(());
    }
    let rows = rows(tools)?;
    for volume in volumes {
        let row = rows.iter().find(|row| row.name() == volume.name);
        if let Some(state) = row.map_or(Some("is gone"), Row::fault) {
            return Err(FreezeError::Lost { name: volume.name.clone(), state: state.to_owned() });
        }
    }
    Ok(())
}

impl Volume {
    pub(super) fn remove(self, tools: &Tools) -> Result<(), FreezeError> {
        remove(&self.name, tools)
    }
}

fn remove(name: &str, tools: &Tools) -> Result<(), FreezeError> {
    tools
        .run("lvremove", &["--yes", name])
        .map(drop)
        .map_err(|reason| FreezeError::NotRemoved { name: name.to_owned(), reason })
}
