//! The device tree: none of production's is left, and the kernel is told to make a new one.
//!
//! Why: instance numbers and controller numbers of production's hardware would go on counting on the standby's, if
//! they let it boot at all. The kernel makes `/etc/path_to_inst` anew when it begins with a certain token; an empty
//! or missing file is an error to it, or makes it take `path_to_inst.old`, production's, instead. What can go wrong:
//! up to Solaris 9 nothing boots without nodes in `/dev` and `/devices`, and only the target can make them; so they
//! are cleared only when somebody said that he will see to it there.

use super::super::report::Finding;
use super::super::{DeviceTree, Draft, PrepareError, Solaris, Task};
use super::{Host, find, malformed};
use crate::rules::Class;
use crate::tree::Kind;

/// What the kernel looks for at the very beginning of the file.
const TOKEN: &str = "#path_to_inst_bootstrap_1\n";
/// Directories of Solaris 10 that have links to hardware in them; the others lead to the same pseudo devices anywhere,
/// and its `/dev` is on disk, so that a boot needs them before anything can make them.
const HARDWARE: [&str; 8] =
    ["/dev/dsk", "/dev/rdsk", "/dev/rmt", "/dev/cfg", "/dev/es", "/dev/vx", "/dev/md", "/dev/did"];

/// Whether it can be done at all.
pub(super) fn check(task: &Task<'_>, release: Solaris, draft: &Draft<'_>) -> Result<(), PrepareError> {
    let static_tree = matches!(release, Solaris::UpTo26 | Solaris::From7To9);
    if static_tree && task.options.device_tree == DeviceTree::Auto {
        return Err(PrepareError::Option(
            "its device tree can be rebuilt on the target only, and without one it does not boot: give \
             --device-tree pending, and run finish.sh on the target before it boots"
                .into(),
        ));
    }
    // Clearing a link would clear what it leads to.
    for path in ["/dev", "/devices"] {
        if draft.own_entry(path)?.is_some_and(|entry| entry.kind != Kind::Directory) {
            return Err(malformed(path, "it is no directory"));
        }
    }
    Ok(())
}

/// Plans the tree.
pub(super) fn plan(host: &Host<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let why = "devices of production's hardware";
    draft.write("/etc/path_to_inst", TOKEN, Class::A, "the kernel numbers the standby's devices anew")?;
    draft.remove("/etc/path_to_inst.old", Class::A, "the kernel would fall back to production's numbers")?;
    draft.clear("/devices", Class::A, why)?;
    if host.release == Solaris::Ten {
        for path in HARDWARE {
            if draft.own_entry(path)?.is_some_and(|entry| entry.kind == Kind::Directory) {
                draft.clear(path, Class::A, why)?;
            }
        }
    } else {
        draft.clear("/dev", Class::A, why)?;
    }
    if host.has_devfs() {
        draft.remove_below("/etc/devices", Class::A, "a cache of production's devices")?;
    }
    if !draft.exists("/reconfigure")? {
        draft.write("/reconfigure", Vec::new(), Class::A, "devices are looked for at the next boot")?;
    }
    if host.has_devfs() {
        return drivers(draft);
    }
    draft.find(Finding::pending(
        "/dev and /devices are empty: it does not boot before finish.sh has made them, on the target, booted from the \
         network or a CD",
    ));
    drivers(draft)
}

/// Drivers whose configuration lists disks, paths or ports of one host.
const DRIVERS: [&str; 14] = [
    "sd",
    "ssd",
    "st",
    "qlc",
    "qla",
    "emlxs",
    "lpfc",
    "fcaw",
    "fca-pci",
    "jnic",
    "fp",
    "scsi_vhci",
    "mpt",
    "glm",
];

/// Names the drivers whose configuration came from production; the target's is not known here.
fn drivers(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for driver in DRIVERS {
        for directory in ["/kernel/drv", "/etc/driver/drv"] {
            let path = format!("{directory}/{driver}.conf");
            if draft.exists(&path)? {
                find(
                    draft,
                    &path,
                    Finding::note("it came from production: compare it with what the target's disks need"),
                )?;
            }
        }
    }
    Ok(())
}
