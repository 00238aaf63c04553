//! The pair's line in an account's authorized_keys (sshd(8)), on the host that is logged in to.
//!
//! Why: that file lets people in; one wrong byte locks them out or lets others in. What can go wrong: a link or a file
//! that others may write, through which somebody else decides; a line of somebody else changed; the pair's key there a
//! second time without its restriction, which sshd would take if it came first. Each is refused, and what is not ours
//! stays as it is, byte for byte.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, fsync, openat, unlinkat};
use rustix::io::Errno;
use syncore::durable;
use syncore::tree::escape;

/// No account has that many keys.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

/// A line as it is to be.
pub(crate) struct Line<'a> {
    /// `ssh-ed25519 BASE64`.
    pub(crate) key: &'a str,
    /// The comment behind it, by which it is known again.
    pub(crate) comment: &'a str,
    /// What the key may run; none: the line is to go.
    pub(crate) command: Option<&'a str>,
}

impl Line<'_> {
    fn text(&self) -> Option<String> {
        let Self { key, comment, command } = self;
        command.map(|command| format!("restrict,command=\"{command}\" {key} {comment}\n"))
    }
}

/// Brings the file at `path` to have the line, or not to have it. True when something was changed. `make` makes the
/// directory if there is none.
///
/// RACE: what another program writes to the file between our reading and our rename is lost; so it is with every editor.
pub(crate) fn apply(path: &Path, line: &Line<'_>, make: bool) -> Result<bool, String> {
    let shown = escape(path.as_os_str().as_encoded_bytes());
    let parts = path.parent().zip(path.file_name().and_then(|name| name.to_str()));
    let Some((parent, name)) = parts.filter(|_| path.is_absolute()) else {
        return Err(format!("{shown} is no path of a file"));
    };
    let failed = |error: io::Error| format!("cannot change {shown}: {error}");
    if make && line.command.is_some() {
        match fs::DirBuilder::new().mode(0o700).create(parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(directory) => File::from(directory),
        Err(Errno::NOENT) if line.command.is_none() => return Ok(false),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(format!(
                "{} is a link or no directory",
                escape(parent.as_os_str().as_encoded_bytes())
            ));
        }
        Err(error) => return Err(failed(error.into())),
    };
    private(&directory.metadata().map_err(failed)?, parent)?;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let (mut old, mut mode, mut owner) = (Vec::new(), 0o600, None);
    match openat(&directory, name, flags, Mode::empty()) {
        Ok(file) => {
            let file = File::from(file);
            let metadata = file.metadata().map_err(failed)?;
            if !metadata.is_file() || metadata.nlink() > 1 {
                return Err(format!("{shown} is no plain file of one name"));
            }
            private(&metadata, path)?;
            file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut old).map_err(failed)?;
            if old.len() as u64 > FILE_LIMIT_BYTES {
                return Err(format!("{shown} is too large for a file of keys"));
            }
            mode = metadata.mode() & 0o7777;
            owner = Some((Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid())));
        }
        Err(Errno::NOENT) => {}
        Err(Errno::LOOP) => return Err(format!("{shown} is a link")),
        Err(error) => return Err(failed(error.into())),
    }
    let Some(new) = edited(&old, line).map_err(|number| {
        format!("{shown}:{number} has the pair's key in a line that enroll did not write; take the line out")
    })?
    else {
        return Ok(false);
    };
    if new.is_empty() {
        unlinkat(&directory, name, AtFlags::empty()).map_err(|e| failed(e.into()))?;
        fsync(&directory).map_err(|e| failed(e.into()))?;
    } else {
        durable::replace(&directory, name, &new, mode, owner).map_err(failed)?;
    }
    Ok(true)
}

/// Refuses what others than root and this account own or may write.
fn private(metadata: &fs::Metadata, path: &Path) -> Result<(), String> {
    let shown = escape(path.as_os_str().as_encoded_bytes());
    if ![0, rustix::process::geteuid().as_raw()].contains(&metadata.uid()) {
        return Err(format!("{shown} belongs to another account"));
    }
    match metadata.mode() & 0o022 {
        0 => Ok(()),
        _ => Err(format!("{shown} may be written by others; chmod go-w")),
    }
}

/// The new content; none where nothing is to change. The error is the number of a line that has the key and is not ours.
fn edited(old: &[u8], line: &Line<'_>) -> Result<Option<Vec<u8>>, usize> {
    let blob = line.key.split(' ').nth(1).unwrap_or_default().as_bytes();
    let wanted = line.text().map(String::into_bytes);
    let (mut new, mut found, mut other) = (Vec::new(), 0, 0);
    for (index, text) in old.split_inclusive(|b| *b == b'\n').enumerate() {
        let has_key = text.split(u8::is_ascii_whitespace).any(|word| word == blob);
        if !has_key || text.trim_ascii_start().starts_with(b"#") {
            new.extend_from_slice(text);
            continue;
        }
        let ending = format!(" {} {}", line.key, line.comment);
        let ours =
            text.starts_with(b"restrict,command=\"") && text.trim_ascii_end().ends_with(ending.as_bytes());
        if !ours {
            return Err(index + 1);
        }
        *(if Some(text) == wanted.as_deref() { &mut found } else { &mut other }) += 1;
    }
    if other == 0 && found == usize::from(wanted.is_some()) {
        return Ok(None);
    }
    if let Some(wanted) = wanted {
        if new.last().is_some_and(|last| *last != b'\n') {
            new.push(b'\n');
        }
        new.extend(wanted);
    }
    Ok(Some(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3Nz";
    const OURS: &str = "restrict,command=\"/bin/c agent\" ssh-ed25519 AAAAC3Nz clonetool-pair@p\n";

    fn line(command: Option<&'static str>) -> Line<'static> {
        Line { key: KEY, comment: "clonetool-pair@p", command }
    }

    #[test]
    fn what_is_not_ours_stays_byte_for_byte() {
        let theirs = b"# \xff\r\nssh-rsa AAAAB3 me\n\n  no-pty ssh-ed25519 AAAAC4 you".to_vec();
        let added = edited(&theirs, &line(Some("/bin/c agent"))).unwrap().unwrap();
        assert_eq!(added, [&theirs[..], b"\n", OURS.as_bytes()].concat());
        assert_eq!(edited(&added, &line(Some("/bin/c agent"))), Ok(None));
        // Another root: one line, the new one.
        let changed = edited(&added, &line(Some("/bin/c agent --root /a"))).unwrap().unwrap();
        assert!(!String::from_utf8_lossy(&changed).contains("/bin/c agent\""));
        assert_eq!(edited(&added, &line(None)).unwrap().unwrap(), [&theirs[..], b"\n"].concat());
        assert_eq!(edited(&theirs, &line(None)), Ok(None));
        // Twice the same is once too often.
        let twice = OURS.repeat(2);
        assert_eq!(edited(twice.as_bytes(), &line(Some("/bin/c agent"))).unwrap().unwrap(), OURS.as_bytes());
    }

    #[test]
    fn the_key_without_its_restriction_is_refused() {
        for text in [
            "ssh-rsa A x\nssh-ed25519 AAAAC3Nz clonetool-pair@p\n",
            "ssh-rsa A x\nrestrict,command=\"/bin/c agent\" ssh-ed25519 AAAAC3Nz mine\n",
            "ssh-rsa A x\ncommand=\"/bin/c agent\" ssh-ed25519 AAAAC3Nz clonetool-pair@p",
        ] {
            assert_eq!(edited(text.as_bytes(), &line(None)), Err(2), "{text}");
        }
    }
}
