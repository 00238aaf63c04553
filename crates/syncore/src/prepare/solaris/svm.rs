//! Solaris Volume Manager, DiskSuite before it: the slices below mirrors, and no state database of production's.
//!
//! Why: `/dev/md/dsk/d0` means what the state database on production's disks says. Here there is none, and a list of
//! its replicas left behind would look for it on disks that are somebody else's. What can go wrong: a metadevice that is
//! more than one slice (a stripe, a RAID, a soft partition): there is no filesystem on any single one, so no slice is
//! known for it.

use std::collections::BTreeMap;

use super::super::lines::{Lines, fields, is_comment};
use super::super::{Draft, PrepareError};
use super::system_file::without_block;
use crate::rules::Class;

/// As configured first, as written by hand after it; SVM and then DiskSuite 4.
const TABLES: [&str; 4] =
    ["/etc/lvm/md.cf", "/etc/lvm/md.tab", "/etc/opt/SUNWmd/md.cf", "/etc/opt/SUNWmd/md.tab"];
const MD_CONF: &str = "/kernel/drv/md.conf";
const DATABASE: (&[u8], &[u8]) =
    (b"# Begin MDD database info (do not edit)", b"# End MDD database info (do not edit)");
/// Mirrors of mirrors are not a thing; a table that says so is not followed far.
const DEPTH_LIMIT: u32 = 4;

/// What metadevices are made of.
#[derive(Debug, Default)]
pub(super) struct Metadevices {
    /// One for each file: name, and the words after it.
    tables: Vec<BTreeMap<String, Vec<String>>>,
}

impl Metadevices {
    pub(super) fn read(draft: &Draft<'_>) -> Result<Self, PrepareError> {
        let mut tables = Vec::new();
        for path in TABLES {
            if let Some(content) = draft.read(path)? {
                tables.push(table(&content));
            }
        }
        Ok(Self { tables })
    }

    /// The slice that `name` is, or the first of a mirror's halves is; none if it is more than one slice.
    pub(super) fn slice_of(&self, name: &str) -> Option<String> {
        self.tables.iter().find_map(|table| slice_in(table, name, DEPTH_LIMIT))
    }
}

fn slice_in(table: &BTreeMap<String, Vec<String>>, name: &str, depth: u32) -> Option<String> {
    let words: Vec<&str> = table.get(name)?.iter().map(String::as_str).collect();
    let below = |part: &str| slice_in(table, plain(part), depth.checked_sub(1)?);
    match words[..] {
        // A mirror: -m and its halves, then a pass.
        ["-m", ref halves @ ..] => halves
            .iter()
            .filter(|half| !half.starts_with('-') && half.parse::<u32>().is_err())
            .find_map(|half| below(half)),
        // A logging device: -t, the filesystem, its log.
        ["-t", master, ..] if is_slice(plain(master)) => Some(plain(master).to_owned()),
        ["-t", master, ..] => below(master),
        // One stripe of one slice.
        ["1", "1", slice, ..] if is_slice(plain(slice)) => Some(plain(slice).to_owned()),
        _ => None,
    }
}

/// A device without the directories before it.
fn plain(device: &str) -> &str {
    device.rsplit('/').next().unwrap_or(device)
}

/// The lines of md.tab(4), joined where a backslash says so.
fn table(content: &[u8]) -> BTreeMap<String, Vec<String>> {
    let mut table = BTreeMap::new();
    let mut joined: Vec<u8> = Vec::new();
    for line in Lines::of(content).0 {
        if joined.is_empty() && is_comment(&line.content, b'#') {
            continue;
        }
        if let Some(begun) = line.content.strip_suffix(b"\\") {
            joined.extend_from_slice(begun);
            joined.push(b' ');
            continue;
        }
        joined.extend_from_slice(&line.content);
        let words: Vec<String> =
            fields(&joined).into_iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        joined.clear();
        if let Some((name, rest)) = words.split_first() {
            table.insert(plain(name).to_owned(), rest.to_vec());
        }
    }
    table
}

/// Whether this is a slice as `/dev/dsk` names them: `c0t0d0s0`, `c1d0s7`, `c4t600A0B8000D2s3`.
pub(super) fn is_slice(name: &str) -> bool {
    let Some((disk, slice)) = name.rsplit_once(['s', 'p']) else { return false };
    let Some(rest) = disk.strip_prefix('c') else { return false };
    slice.parse::<u8>().is_ok_and(|slice| slice < 16)
        && rest.starts_with(|c: char| c.is_ascii_digit())
        && rest.contains('d')
        && rest.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase() || matches!(b, b't' | b'd'))
}

/// Plans the state of SVM itself.
pub(super) fn plan(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    if let Some(content) = draft.read(MD_CONF)? {
        let mut lines = Lines::of(&content);
        without_block(MD_CONF, &mut lines, DATABASE.0, DATABASE.1)?;
        lines.edit(|line| {
            let replicas = line.trim_ascii_start().starts_with(b"mddb_bootlist");
            Some(if replicas { [b"#", line].concat() } else { line.to_vec() })
        });
        draft.write(MD_CONF, lines.to_bytes(), Class::A, "no state database on production's disks")?;
    }
    for path in ["/etc/lvm/mddb.cf", "/etc/opt/SUNWmd/mddb.cf"] {
        if let Some(content) = draft.read(path)? {
            let mut lines = Lines::of(&content);
            lines.edit(|line| is_comment(line, b'#').then(|| line.to_vec()));
            draft.write(path, lines.to_bytes(), Class::A, "no state database on production's disks")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_the_first_slice_below_it() {
        let table = table(
            b"# comment\nd0 -m d10 d20 1\nd10 1 1 c0t0d0s0\n/dev/md/dsk/d20 1 1 /dev/rdsk/c1t0d0s0\n\
              d3 -m \\\n   d13\nd13 1 1 /dev/dsk/c0t0d0s3\nd5 -t d15 d16\nd15 1 1 c0t0d0s5\n\
              d6 2 1 c0t0d0s6 1 c0t0d0s7\nd7 -p d0 -o 1 -b 2\nd8 1 2 c1t0d0s0 c1t1d0s0 -i 32b\nd9 -m d9\nd4 -m d24 d20 1\n",
        );
        let slice = |name| slice_in(&table, name, DEPTH_LIMIT);
        assert_eq!(slice("d0").as_deref(), Some("c0t0d0s0"));
        assert_eq!(slice("d20").as_deref(), Some("c1t0d0s0"));
        assert_eq!(slice("d3").as_deref(), Some("c0t0d0s3"));
        assert_eq!(slice("d5").as_deref(), Some("c0t0d0s5"));
        // A half that is not in the table leaves the other.
        assert_eq!(slice("d4").as_deref(), Some("c1t0d0s0"));
        for more in ["d6", "d7", "d8", "d9", "d99"] {
            assert_eq!(slice(more), None, "{more}");
        }
    }

    #[test]
    fn a_slice_has_a_controller_a_disk_and_a_number() {
        for name in ["c0t0d0s0", "c1d0s7", "c24t5d128s15", "c4t600A0B8000D2d0s3", "c1d0p1"] {
            assert!(is_slice(name), "{name}");
        }
        for name in
            ["c0t0d0", "rootdisk", "c0t0d0s", "c0t0d0s16", "d10", "ct0d0s0", "c0t0d0s0;x", "../c0t0d0s0"]
        {
            assert!(!is_slice(name), "{name}");
        }
    }
}
