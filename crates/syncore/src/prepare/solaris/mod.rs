//! Plans what becomes of a Solaris or illumos root.
//!
//! Why: nothing of it can be run here, so files are edited, and what needs the target's own programs is written down for
//! it in plain Bourne shell. What can go wrong: a spelling of `/etc/system` or `vfstab` that is not recognised;
//! what must match and does not is an error, never a guess.

mod boot;
mod devices;
mod finish;
mod held;
mod hosts;
mod identity;
mod keys;
mod loader;
mod network;
mod start;
mod svm;
mod system_file;
mod table;
mod vfstab;
mod vxvm;

use super::draft::{Draft, parse};
use super::report::Finding;
use super::{Identity, PrepareError, Solaris, Task};
pub(super) use system_file::{in_force, without_root};
pub(super) use table::{Device, Row, SYSTEM, rows};
pub(super) use vfstab::{NEEDED, held_row, out_of_force};

/// What stands before a line that is held or has nothing to mount. Taking it away brings the line back.
pub(super) const HELD_MARK: &[u8] = b"#clonetool-held ";
/// The same for what is held by its name: no program that looks for `S99…`, `qf…` or a time finds it.
const HELD_NAME: &str = "clonetool-held.";

/// The root, as far as every planner has to know.
#[derive(Debug)]
struct Host<'a> {
    release: Solaris,
    sparc: bool,
    /// Whether `/` is ZFS: then no line of vfstab mounts it.
    zfs_root: bool,
    /// Production's name; empty when the tree does not say it.
    source: &'a str,
    /// The standby's.
    own: &'a str,
    /// Whether production's name and keys stay.
    takeover: bool,
}

impl Host<'_> {
    /// Whether the kernel keeps `/devices` itself.
    fn has_devfs(&self) -> bool {
        matches!(self.release, Solaris::Ten | Solaris::Eleven | Solaris::Illumos)
    }
}

/// Plans everything.
pub(super) fn plan(task: &Task<'_>, release: Solaris, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    devices::check(task, release, draft)?;
    let source = task.earlier.map_or(&*task.system.hostname, |earlier| &earlier.source_hostname);
    let mut host = Host {
        release,
        sparc: is_sparc(task, draft)?,
        zfs_root: false,
        source,
        own: task.hostname,
        takeover: task.options.identity == Identity::Takeover,
    };
    // Volumes first: what cannot be backed out ends the preparation.
    let table = vfstab::plan(task, &mut host, draft)?;
    system_file::plan(table.root_on_volume, draft)?;
    vxvm::plan(draft)?;
    svm::plan(draft)?;

    let mut script = finish::Script::default();
    identity::plan(task, &host, draft)?;
    network::plan(task, &host, draft, &mut script)?;
    keys::plan(task, &host, draft, &mut script)?;
    devices::plan(&host, draft)?;
    boot::plan(&host, &table, draft, &mut script)?;
    held::plan(&host, draft, &mut script)?;
    finish::plan(task, &host, &script, draft)?;

    // What an earlier preparation held is held still.
    for held in task.earlier.iter().flat_map(|earlier| &earlier.held) {
        if !draft.held.contains(held) {
            draft.held.push(held.clone());
        }
    }
    Ok(())
}

/// SPARC or x86, by the kernels that are in the root, else by what the release calls itself.
fn is_sparc(task: &Task<'_>, draft: &Draft<'_>) -> Result<bool, PrepareError> {
    if draft.exists("/platform/i86pc")? != draft.exists("/platform/sun4u")? {
        return Ok(!draft.exists("/platform/i86pc")?);
    }
    let name = task.system.name.to_lowercase();
    if name.contains("sparc") || draft.exists("/platform/sun4v")? {
        return Ok(true);
    }
    // Releases for x86 name themselves so; those of sun4m and sun4d only have other platforms.
    Ok(!(name.contains("x86") || name.contains("intel") || draft.exists("/platform/i86pc")?))
}

/// A failure to understand the file at `path`.
fn malformed(path: &str, reason: impl Into<String>) -> PrepareError {
    match parse(path) {
        Ok(path) => PrepareError::Malformed { path, reason: reason.into() },
        Err(error) => error,
    }
}

/// Adds a finding about `path`.
fn find(draft: &mut Draft<'_>, path: &str, finding: Finding) -> Result<(), PrepareError> {
    let path = parse(path)?;
    draft.find(finding.at(&path));
    Ok(())
}

/// Bytes of a file for a person.
fn shown(bytes: &[u8]) -> String {
    crate::tree::escape(bytes)
}
