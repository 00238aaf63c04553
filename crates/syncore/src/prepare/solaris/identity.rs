//! Names, and what a host is told from another by.
//!
//! Why: two hosts of one name confuse every service between them. What can go wrong: a flag that starts the
//! installation's questions at the next boot, `/etc/.UNCONFIGURED`; a standby in another room waits for an answer
//! for ever, so it goes.

use super::super::lines::{Lines, fields, is_comment};
use super::super::report::Finding;
use super::super::{Draft, PrepareError, Solaris, Task};
use super::hosts::{Names, transport_hosts};
use super::{Host, find, shown};
use crate::rules::Class;

/// Plans names and ids.
pub(super) fn plan(task: &Task<'_>, host: &Host<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    if !host.takeover {
        names(task, host, draft)?;
    }
    for path in ["/etc/.UNCONFIGURED", "/etc/sysidcfg"] {
        draft.remove(path, Class::A, "no questions of the installation at the next boot")?;
    }
    draft.remove("/etc/.rootkey", Class::A, "production's secret key of secure RPC")?;
    if matches!(host.release, Solaris::Eleven | Solaris::Illumos) {
        draft.remove("/etc/hostid", Class::A, "the system makes one of its own")?;
    }
    if host.release == Solaris::Ten && !host.sparc && draft.exists("/kernel/misc/sysinit")? {
        find(
            draft,
            "/kernel/misc/sysinit",
            Finding::note(
                "Solaris 10 for x86 keeps the host id here: it is production's, and what is licensed by it",
            ),
        )?;
    }
    dump(host, draft)?;
    faults(draft)?;
    cluster(draft)
}

fn names(task: &Task<'_>, host: &Host<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    // Solaris 11 has the name in SMF; a file that is there is read all the same.
    if host.release != Solaris::Eleven || draft.exists("/etc/nodename")? {
        draft.write("/etc/nodename", format!("{}\n", host.own), Class::A, "the standby's name")?;
    }
    let old = if host.source.is_empty() { "unknown" } else { host.source };
    draft.replaced("hostname", old, host.own);
    if host.source.is_empty() && task.earlier.is_none() {
        draft.find(Finding::note(
            "no nodename says what production is called: its name is not looked for in hosts and other files",
        ));
    }
    let names = Names { source: host.source, own: host.own };
    for path in ["/etc/net/ticlts/hosts", "/etc/net/ticots/hosts", "/etc/net/ticotsord/hosts"] {
        if let Some(content) = draft.read(path)? {
            draft.write(path, transport_hosts(&content, names), Class::A, "the standby's name")?;
        }
    }
    Ok(())
}

/// Where a panic is written to, and where it is saved: both are production's in the copy.
fn dump(host: &Host<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    const DUMPADM: &str = "/etc/dumpadm.conf";
    let Some(content) = draft.read(DUMPADM)? else { return Ok(()) };
    let names = Names { source: host.source, own: host.own };
    let mut directory = None;
    let mut lines = Lines::of(&content);
    lines.edit(|line| {
        let text = String::from_utf8_lossy(line);
        if let Some(device) = text.trim().strip_prefix("DUMPADM_DEVICE=") {
            // dumpadm(1M): `swap` is the most suitable of the swap areas, whatever they are called here.
            let own = device == "swap" || device.starts_with("/dev/zvol/");
            return Some(if own { line.to_vec() } else { b"DUMPADM_DEVICE=swap".to_vec() });
        }
        if let Some(path) = text.trim().strip_prefix("DUMPADM_SAVDIR=")
            && let Some((above, last)) = path.rsplit_once('/')
            && names.is_source(last.as_bytes())
            && !host.takeover
        {
            let path = format!("{above}/{}", host.own);
            directory = Some(path.clone());
            return Some(format!("DUMPADM_SAVDIR={path}").into_bytes());
        }
        Some(line.to_vec())
    });
    draft.write(
        DUMPADM,
        lines.to_bytes(),
        Class::A,
        "crash dumps go to the standby's own swap and directory",
    )?;
    if let Some(path) = directory.filter(|path| path.starts_with('/')) {
        draft.directory(&path, 0o700, Class::A, "where crash dumps of the standby are saved")?;
    }
    Ok(())
}

/// What the fault manager knows is of production's hardware.
fn faults(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let why = "faults of production's hardware";
    for name in draft.list("/var/fm/fmd")? {
        let path = format!("/var/fm/fmd/{name}");
        if matches!(&*name, "ckpt" | "rsrc" | "case" | "xprt") {
            draft.clear(&path, Class::A, why)?;
        } else if name.starts_with("errlog") || name.starts_with("fltlog") {
            draft.remove(&path, Class::A, why)?;
        }
    }
    Ok(())
}

/// A node of a cluster would join production's.
fn cluster(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    draft.remove("/etc/cluster/nodeid", Class::A, "the standby is no node of production's cluster")?;
    if draft.exists("/etc/cluster/ccr")? {
        find(
            draft,
            "/etc/cluster/ccr",
            Finding::failure(
                "it is a node of a cluster, and would join production's when it boots: boot it with -x and take it \
                 out of the cluster's configuration first",
            ),
        )?;
    }
    Ok(())
}

/// The words of a file that says one thing a line, without its comments.
pub(super) fn words(content: &[u8]) -> Vec<String> {
    let lines = Lines::of(content).0.into_iter().filter(|line| !is_comment(&line.content, b'#'));
    lines.flat_map(|line| fields(&line.content).into_iter().map(shown).collect::<Vec<_>>()).collect()
}
