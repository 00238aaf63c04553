//! `mounted`: a filesystem is mounted on this host, the right one, with what must be in it.
//!
//! Why: a mount point without its filesystem is an empty directory, and what is not mounted is not empty. What can go
//! wrong: another filesystem in the place, or the right one with other content (a disk that was formatted again); so
//! source, type and a sentinel file can be named as well. Read from the kernel's own table, mountinfo
//! (proc_pid_mountinfo(5)), not from mtab.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{AGAIN, Asked, No};
use crate::profile::Mounted;
use crate::tree::escape;

/// A filesystem of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) source: String,
    pub(super) filesystem: String,
}

/// Passes when it is mounted as wanted.
pub(super) fn ask(wanted: &Mounted, asked: &Asked<'_>) -> Result<String, No> {
    let shown = escape(wanted.path.as_os_str().as_bytes());
    let table = asked.surroundings.proc.join("self/mountinfo");
    let table = fs::read(&table).map_err(|error| {
        No::cannot_tell(
            format!("the table of mounts, {}, cannot be read: {error}", table.display()),
            "mount /proc",
        )
    })?;
    let found = match parse_mountinfo(&table, wanted.path.as_os_str().as_bytes()) {
        Some(Some(found)) => found,
        Some(None) => {
            return Err(No::refuse(
                format!("nothing is mounted at {shown}"),
                format!("mount {shown}, and {AGAIN}"),
            ));
        }
        None => {
            return Err(No::cannot_tell("the table of mounts cannot be understood", "report this as a bug"));
        }
    };
    let is = format!("{} ({}) is mounted at {shown}", found.source, found.filesystem);
    let other =
        |wanted: &Option<String>, found: &String| wanted.as_ref().filter(|wanted| *wanted != found).cloned();
    let other_source = other(&wanted.source, &found.source);
    if let Some(wanted) = other_source.or_else(|| other(&wanted.filesystem, &found.filesystem)) {
        let next = format!("mount {wanted} there, or correct the gate");
        return Err(No::refuse(format!("{is}, not {wanted}"), next));
    }
    if let Some(file) = &wanted.sentinel {
        let (file, name) = (wanted.path.join(file), escape(file.as_os_str().as_bytes()));
        // Not followed: a link may lead out of the filesystem that is in question.
        match fs::symlink_metadata(&file) {
            Ok(metadata) if metadata.is_file() => return Ok(format!("{is}, with {name}")),
            Ok(_) => return Err(No::refuse(format!("{is}, but {name} in it is no file"), content(&shown))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(No::refuse(format!("{is}, without {name}"), content(&shown)));
            }
            Err(error) => {
                return Err(No::cannot_tell(
                    format!("{name} in {shown} cannot be looked at: {error}"),
                    content(&shown),
                ));
            }
        }
    }
    Ok(is)
}

fn content(shown: &str) -> String {
    format!("make sure that {shown} is the right filesystem, with everything in it")
}

/// What is on top at `path` in the text of mountinfo; the inner none when nothing is, the outer one when it is no such
/// text.
pub(super) fn parse_mountinfo(table: &[u8], path: &[u8]) -> Option<Option<Found>> {
    let wanted = Path::new(std::ffi::OsStr::from_bytes(path));
    let (mut found, mut root) = (None, false);
    for line in super::volume_group::whole_lines(table)? {
        let fields: Vec<&str> = line.split(' ').collect();
        let separator = fields.iter().position(|field| *field == "-")?;
        let point = unescape(fields.get(4)?);
        let (filesystem, source) = (*fields.get(separator + 1)?, *fields.get(separator + 2)?);
        root |= point == b"/";
        // A later line lies over an earlier one in the same place.
        if Path::new(std::ffi::OsStr::from_bytes(&point)) == wanted {
            found =
                Some(Found { source: escape(&unescape(source)), filesystem: escape(filesystem.as_bytes()) });
        }
    }
    // Something is always mounted at `/`: without it this is not the whole table.
    root.then_some(found)
}

/// Undoes `\040` and the like.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let octal = bytes.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(octal.unwrap_or(*byte));
        at += if octal.is_some() { 4 } else { 1 };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::testing::Bench;
    use super::*;

    const TABLE: &str = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                         30 21 8:2 / /u\\040x rw - ext3 /dev/sdb rw\n\
                         31 21 253:0 / /data rw - xfs /dev/mapper/one rw\n\
                         32 21 253:1 / /data rw master:1 propagate_from:2 - xfs /dev/mapper/two rw\n";

    fn bench(table: &str) -> Bench {
        let mut bench = Bench::new();
        fs::create_dir_all(bench.path().join("self")).unwrap();
        fs::write(bench.path().join("self/mountinfo"), table).unwrap();
        bench.surroundings.proc = bench.path().to_owned();
        bench
    }

    fn keys(rest: &str) -> String {
        format!("kind = \"mounted\"\nname = \"data\"\n{rest}")
    }

    #[test]
    fn what_is_mounted_passes_and_says_what_it_is() {
        let full = "path = \"/data\"\nsource = \"/dev/mapper/two\"\nfilesystem = \"xfs\"";
        let answer = bench(TABLE).ask(&keys(full));
        assert_eq!(
            (answer.verdict, &answer.evidence[..]),
            (Verdict::Pass, "/dev/mapper/two (xfs) is mounted at /data")
        );
        assert!(bench(TABLE).ask(&keys("path = \"/u x\"")).passed());
        // The real table, with a sentinel that every Linux has.
        let answer =
            Bench::new().ask(&keys("path = \"/proc\"\nfilesystem = \"proc\"\nsentinel = \"version\""));
        assert_eq!(answer.evidence, "proc (proc) is mounted at /proc, with version");
    }

    #[test]
    fn nothing_or_another_filesystem_or_one_without_its_sentinel_refuses() {
        for (rest, evidence) in [
            ("path = \"/dat\"", "nothing is mounted at /dat"),
            ("path = \"/data/x\"", "nothing is mounted at /data/x"),
            (
                "path = \"/data\"\nsource = \"/dev/mapper/one\"",
                "/dev/mapper/two (xfs) is mounted at /data, not /dev/mapper/one",
            ),
            (
                "path = \"/data\"\nfilesystem = \"ext4\"",
                "/dev/mapper/two (xfs) is mounted at /data, not ext4",
            ),
            (
                "path = \"/data\"\nsentinel = \"a/b\"",
                "/dev/mapper/two (xfs) is mounted at /data, without a/b",
            ),
        ] {
            let answer = bench(TABLE).ask(&keys(rest));
            assert_eq!((answer.verdict, &answer.evidence[..]), (Verdict::Refuse, evidence));
        }
        let directory = Bench::new().ask(&keys("path = \"/proc\"\nsentinel = \"sys\""));
        assert_eq!(
            (directory.verdict, &directory.evidence[..]),
            (Verdict::Refuse, "proc (proc) is mounted at /proc, but sys in it is no file")
        );
    }

    #[test]
    fn a_table_that_is_none_cannot_tell() {
        let missing = {
            let mut bench = Bench::new();
            bench.surroundings.proc = "/nonexistent".into();
            bench
        };
        assert_eq!(missing.ask(&keys("path = \"/data\"")).verdict, Verdict::Error);
        for broken in ["", "garbage\n", "31 21 253:0 / /data rw - xfs /dev/x rw\n", &TABLE[..TABLE.len() - 4]]
        {
            let answer = bench(broken).ask(&keys("path = \"/data\""));
            assert_eq!(answer.verdict, Verdict::Error, "{broken:?}");
        }
    }

    #[test]
    fn a_table_that_never_comes_times_out() {
        let bench = bench("");
        let table = bench.path().join("self/mountinfo");
        fs::remove_file(&table).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &table, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let answer = bench.ask(&keys("path = \"/data\"\ntimeout = \"1s\""));
        assert_eq!((answer.verdict, &answer.evidence[..]), (Verdict::TimedOut, "no answer within 1 seconds"));
    }
}
