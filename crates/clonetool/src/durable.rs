//! A small file replaced whole, in a directory that is held.
//!
//! Why: cron, systemd and sshd read these files at any moment. What can go wrong: half a file, or one of another owner
//! or mode; so it is written beside, made durable, and renamed.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, fchmod, fchown, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Puts `bytes` in the place of `name` in `directory`, with this mode and, where one is given, this owner.
pub(crate) fn replace(
    directory: impl AsFd,
    name: &str,
    bytes: &[u8],
    mode: u32,
    owner: Option<(Uid, Gid)>,
) -> io::Result<()> {
    // Neither cron nor systemd reads a name that begins with a dot.
    let new = format!(".{name}.new");
    let written = write_new(&directory, &new, bytes, mode, owner).and_then(|()| {
        renameat(&directory, &new, &directory, name)?;
        Ok(fsync(&directory)?)
    });
    written.inspect_err(|_| {
        let _ = unlinkat(&directory, &new, AtFlags::empty());
    })
}

fn write_new(
    directory: impl AsFd,
    name: &str,
    bytes: &[u8],
    mode: u32,
    owner: Option<(Uid, Gid)>,
) -> io::Result<()> {
    // What an interrupted call left behind.
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(&directory, name, flags, Mode::from_raw_mode(0o600))?);
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(uid), Some(gid))?;
    }
    // Whatever the caller's umask is.
    fchmod(&file, Mode::from_raw_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}
