//! Searches the files inside an initramfs.
//!
//! Why: an initramfs has copies of crypttab, mdadm.conf and the like, and one that was made before they were edited
//! fails long before anybody can log in. An image is a row of cpio archives (the kernel's
//! early-userspace/buffer-format), each plain or compressed as a whole. Plain and zstd are read here, gzip, xz, lzma,
//! bzip2, lz4 and lzo by the program of that name in the copy, which made them. What can go wrong: a
//! compression whose program the copy does not have, a damaged archive; then it was not searched, and that is said.
//! Sizes in headers are the image's word only: nothing is reserved for them.

use std::io::{self, BufReader, Read};
use std::time::Duration;

use super::residue::contains;
use crate::prepare::chroot::{find_program, program_in};
use crate::prepare::inside::Inside;
use crate::process;
use crate::tree::{RelPath, escape};

/// Larger members are modules and firmware.
const MEMBER_LIMIT_BYTES: u64 = 1 << 20;
/// More than any image unpacks to.
const TOTAL_LIMIT_BYTES: u64 = 4 << 30;
const NAME_LIMIT_BYTES: u64 = 4096;
const HEADER_BYTES: usize = 110;
const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// Where something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) member: String,
    /// Which of the needles.
    pub(super) needle: usize,
}

/// Whether a file of /boot is an initramfs, by its name.
pub(super) fn is_one(name: &[u8]) -> bool {
    name.starts_with(b"initrd") || name.starts_with(b"initramfs")
}

/// Searches all members of the image at `path`.
pub(super) fn search(inside: &Inside, path: &RelPath, needles: &[&[u8]]) -> io::Result<Vec<Hit>> {
    let mut hits = Vec::new();
    let mut image = BufReader::new(inside.open(path)?);
    let head = archives(&mut image, needles, &mut hits)?;
    if head.is_empty() {
        return Ok(hits);
    }
    let rest = io::Cursor::new(head.clone()).chain(image);
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut plain = BufReader::new(zstd::stream::read::Decoder::new(rest)?.take(TOTAL_LIMIT_BYTES));
        all(&mut plain, needles, &mut hits)?;
        return Ok(hits);
    }
    let tool = match head[..] {
        [0x1f, 0x8b, ..] => "gzip",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x5d, 0, 0, ..] => "lzma",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x02, 0x21, 0x4c, 0x18, ..] | [0x04, 0x22, 0x4d, 0x18, ..] => "lz4",
        [0x89, b'L', b'Z', b'O', ..] => "lzop",
        _ => return Err(io::Error::other("its compression is not known")),
    };
    let missing = || io::Error::other(format!("there is no {tool} in the copy to read it with"));
    let program = find_program(inside, tool).ok_or_else(missing)?;
    let chroot = process::find("chroot").ok_or_else(missing)?;
    let program = program_in(inside, &chroot, &program, &["-dc".to_owned()], DEADLINE);
    process::filter(&program, rest, |output| {
        let mut found = Vec::new();
        all(&mut BufReader::new(output.take(TOTAL_LIMIT_BYTES)), needles, &mut found)?;
        hits.append(&mut found);
        Ok(())
    })?;
    Ok(hits)
}

/// Archives to the end; anything else is an error.
fn all(image: &mut impl Read, needles: &[&[u8]], hits: &mut Vec<Hit>) -> io::Result<()> {
    let after = archives(image, needles, hits)?;
    if after.is_empty() { Ok(()) } else { Err(io::Error::other("there is something after the archive")) }
}

/// Plain archives, and the zeros between them, up to something else, of which it answers the first bytes.
fn archives(image: &mut impl Read, needles: &[&[u8]], hits: &mut Vec<Hit>) -> io::Result<Vec<u8>> {
    loop {
        let head = next_head(image)?;
        // Both forms of newc begin so.
        if !head.starts_with(b"0707") {
            return Ok(head);
        }
        if member(&mut head.chain(&mut *image), needles, hits)? {
            while member(image, needles, hits)? {}
        }
    }
}

/// The next bytes that are not zero; fewer than six at the end.
fn next_head(image: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut byte = [0];
    loop {
        if image.read(&mut byte)? == 0 {
            return Ok(Vec::new());
        }
        if byte[0] != 0 {
            break;
        }
    }
    let mut head = vec![byte[0]];
    image.take(5).read_to_end(&mut head)?;
    Ok(head)
}

/// One member; false when it was the last.
fn member(image: &mut impl Read, needles: &[&[u8]], hits: &mut Vec<Hit>) -> io::Result<bool> {
    let mut header = [0; HEADER_BYTES];
    image.read_exact(&mut header)?;
    if !matches!(&header[..6], b"070701" | b"070702") {
        return Err(io::Error::other("a damaged archive"));
    }
    let number = |field: usize| {
        let digits = std::str::from_utf8(&header[6 + field * 8..14 + field * 8]).map_err(io::Error::other)?;
        u64::from_str_radix(digits, 16).map_err(io::Error::other)
    };
    let (mode, size, name_bytes) = (number(1)?, number(6)?, number(11)?);
    if name_bytes == 0 || name_bytes > NAME_LIMIT_BYTES {
        return Err(io::Error::other("a damaged archive"));
    }
    let mut name = Vec::new();
    let header_bytes = HEADER_BYTES as u64;
    take(image, name_bytes, Some(&mut name))?;
    take(image, padding(header_bytes + name_bytes), None)?;
    name.pop();
    let is_file = mode & 0o170_000 == 0o100_000;
    let mut content = Vec::new();
    take(image, size, (is_file && size <= MEMBER_LIMIT_BYTES).then_some(&mut content))?;
    take(image, padding(size), None)?;
    if name == b"TRAILER!!!" {
        return Ok(false);
    }
    for (at, needle) in needles.iter().enumerate() {
        if contains(&content, needle) || contains(&name, needle) {
            hits.push(Hit { member: escape(&name), needle: at });
        }
    }
    Ok(true)
}

/// Members and their names end at multiples of four.
const fn padding(length: u64) -> u64 {
    (4 - length % 4) % 4
}

/// Reads `count` bytes, and keeps them if somebody wants them.
fn take(image: &mut impl Read, count: u64, keep: Option<&mut Vec<u8>>) -> io::Result<()> {
    let mut part = image.take(count);
    let read = match keep {
        Some(keep) => part.read_to_end(keep)? as u64,
        None => io::copy(&mut part, &mut io::sink())?,
    };
    if read == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An archive of these files.
    pub(in crate::prepare::verify) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in files.iter().chain(&[("TRAILER!!!", &b""[..])]) {
            let fields = [1, 0o100_644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
            bytes.extend(b"070701");
            bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(*content);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn found(image: &[u8]) -> io::Result<Vec<Hit>> {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("initrd"), image).unwrap();
        let inside = Inside::new(std::sync::Arc::new(crate::scan::Root::open(temp.path()).unwrap()));
        search(&inside, &RelPath::new("initrd").unwrap(), &[b"old-uuid", b"other"])
    }

    #[test]
    fn every_archive_of_an_image_is_searched() {
        let early = archive(&[("kernel/x86/microcode/x.bin", b"old-uuid?")]);
        let main = archive(&[("etc/fstab", b"a"), ("cryptroot/crypttab", b"UUID=OLD-UUID luks")]);
        let hit = |member: &str| Hit { member: member.into(), needle: 0 };
        let plain = [&early[..], &[0; 300], &main].concat();
        assert_eq!(found(&plain).unwrap(), [hit("kernel/x86/microcode/x.bin"), hit("cryptroot/crypttab")]);
        let compressed = [&early[..], &[0; 512], &zstd::encode_all(&main[..], 1).unwrap()].concat();
        assert_eq!(found(&compressed).unwrap(), found(&plain).unwrap());
        assert_eq!(found(&zstd::encode_all(&early[..], 1).unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_never_clean() {
        let main = archive(&[("etc/fstab", b"a")]);
        assert!(found(&main[..main.len() / 2]).is_err());
        assert!(found(b"070701 not a header at all").is_err());
        assert!(found(b"MZ something").is_err());
        let mut damaged = zstd::encode_all(&main[..], 1).unwrap();
        damaged.truncate(damaged.len() - 4);
        assert!(found(&damaged).is_err());
        // gzip, and no gzip in this root.
        assert!(found(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).is_err());
        let mut huge = archive(&[("x", b"")]);
        huge[6 + 8 * 6..14 + 8 * 6].copy_from_slice(b"ffffffff");
        assert!(found(&huge).is_err());
    }
}
