//! A small file replaced whole, in a directory that is held.
//!
//! Why: journals, records, schedules and keys are read at any moment, also after a power failure. What can go wrong:
//! half a file, or one of another owner or mode; so it is written beside, made durable, and renamed, and the rename is
//! made durable, too.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, fchmod, fchown, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

/// The content of `name` in `directory`, which is a file of our own: none if there is none. No link is followed.
///
/// # Errors
/// When it cannot be read, or is longer than `limit_bytes`.
pub fn read(directory: impl AsFd, name: &str, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut content = Vec::new();
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > limit_bytes {
        return Err(Errno::FBIG.into());
    }
    Ok(Some(content))
}

/// Puts `content` in the place of `name` in `directory`, with this mode, whatever the umask is, and, where one is given,
/// this owner. Others see the old file or the new one, whole; the new one is on stable storage when this returns.
///
/// It is first written as `.NAME.new`, which neither cron nor systemd reads; nobody else may do the same at once.
///
/// # Errors
/// When any of it fails; what was there is there still, unless only the last flush failed.
pub fn replace(
    directory: impl AsFd,
    name: impl AsRef<[u8]>,
    content: &[u8],
    mode: u32,
    owner: Option<(Uid, Gid)>,
) -> io::Result<()> {
    let name = name.as_ref();
    replace_by(directory, &[b".", name, b".new"].concat(), name, content, mode, owner)
}

/// Does what [`replace`] does, and writes it as `new` first. What an interrupted call left there is lost.
///
/// # Errors
/// As [`replace`].
pub fn replace_by(
    directory: impl AsFd,
    new: &[u8],
    name: &[u8],
    content: &[u8],
    mode: u32,
    owner: Option<(Uid, Gid)>,
) -> io::Result<()> {
    match unlinkat(&directory, new, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let written = write_new(&directory, new, content, mode, owner)
        .and_then(|()| Ok(renameat(&directory, new, &directory, name)?));
    written.inspect_err(|_| {
        let _ = unlinkat(&directory, new, AtFlags::empty());
    })?;
    Ok(fsync(directory)?)
}

fn write_new(
    directory: impl AsFd,
    name: &[u8],
    content: &[u8],
    mode: u32,
    owner: Option<(Uid, Gid)>,
) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?);
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(uid), Some(gid))?;
    }
    fchmod(&file, Mode::from_raw_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_read_within_its_limit() {
        let work = tempfile::tempdir().unwrap();
        let directory = File::open(work.path()).unwrap();
        fs::write(work.path().join("state"), "old").unwrap();
        // As if a call had been killed.
        fs::write(work.path().join(".state.new"), "half").unwrap();
        assert_eq!(read(&directory, "none", 9).unwrap(), None);
        replace(&directory, "state", b"new state", 0o640, None).unwrap();
        assert_eq!(read(&directory, "state", 9).unwrap().unwrap(), b"new state");
        read(&directory, "state", 8).unwrap_err();
        assert_eq!(fs::metadata(work.path().join("state")).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_leaves_nothing_behind_and_no_link_is_followed() {
        let work = tempfile::tempdir().unwrap();
        let directory = File::open(work.path()).unwrap();
        fs::create_dir(work.path().join("taken")).unwrap();
        replace(&directory, "taken", b"x", 0o600, None).unwrap_err();
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 1);
        std::os::unix::fs::symlink("/etc/hostname", work.path().join("link")).unwrap();
        read(&directory, "link", 100).unwrap_err();
        replace(&directory, "link", b"ours", 0o600, None).unwrap();
        assert_eq!(fs::read_link(work.path().join("link")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
