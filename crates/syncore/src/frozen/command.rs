//! Snapshots by programs of the administrator: one makes it and prints its directory, one removes it.
//!
//! Why: ZFS, a storage array, a volume manager that is not LVM. What can go wrong: a program that prints the source
//! itself or nothing, and a snapshot of a run that was killed. Nobody but the program knows that one, so the removing
//! program is run before the making one as well, and has to succeed where there is nothing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::FreezeError;
use super::tools::Tools;
use crate::monitor::Monitor;
use crate::scan::Root;
use crate::tree::escape;

/// Has the snapshot made, and opens the directory that the program printed.
pub(super) fn make(
    argv: &[String],
    live: &Root,
    tools: &Tools,
    monitor: &dyn Monitor,
) -> Result<Root, FreezeError> {
    let failed = |reason: String| match monitor.cancelled() {
        true => FreezeError::Cancelled,
        false => FreezeError::failed("make the snapshot", &reason),
    };
    let mut said = run(argv, tools, &|| monitor.cancelled()).map_err(failed)?;
    while said.last() == Some(&b'\n') {
        said.pop();
    }
    let shown = escape(&said);
    let wrong =
        |reason: &str| FreezeError::failed("make the snapshot", &format!("{shown:?} was printed, {reason}"));
    if said.first() != Some(&b'/') || said.contains(&b'\n') || said.contains(&0) {
        return Err(wrong("which is not the absolute path of a directory"));
    }
    let root = Root::open(&PathBuf::from(OsString::from_vec(said)))
        .map_err(|error| wrong(&format!("which cannot be opened: {}", std::io::Error::from(error))))?;
    match (root.identity(), live.identity()) {
        (Ok(made), Ok(live)) if (made.device, made.inode) != (live.device, live.inode) => Ok(root),
        (Ok(_), Ok(_)) => Err(wrong("which is the source itself")),
        (Err(error), _) | (_, Err(error)) => Err(wrong(&std::io::Error::from(error).to_string())),
    }
}

/// Has it removed, or what an earlier run left of it.
pub(super) fn remove(argv: &[String], tools: &Tools) -> Result<(), FreezeError> {
    run(argv, tools, &|| false).map(drop).map_err(|reason| {
        let name = format!("of the profile {}", tools.mark);
        FreezeError::NotRemoved { name, reason }
    })
}

fn run(argv: &[String], tools: &Tools, stop: &dyn Fn() -> bool) -> Result<Vec<u8>, String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("no program".to_owned()) };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    tools.run_at(PathBuf::from(program), &arguments, stop)
}
