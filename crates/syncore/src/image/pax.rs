//! What pax records and header fields say, as text: numbers, times, flags, attribute names, ACLs.
//!
//! Why apart: each is a small language of its own with one right form. What can go wrong: a text that means something and
//! is not how it is written; then the member does not give the same bytes again, and is refused (see `tar`).

use super::tar::{NAME_BYTES, TarError, XATTR_PREFIX};
use crate::tree::{Timestamp, Xattr};

/// Inode flags by their names in libarchive, in the order in which they are written.
const FLAG_NAMES: [(u32, &str); 14] = [
    (0x0000_0020, "sappnd"),
    (0x0000_0010, "schg"),
    (0x0000_0040, "nodump"),
    (0x0000_0002, "undel"),
    (0x0000_0004, "compress"),
    (0x0000_0080, "noatime"),
    (0x0001_0000, "dirsync"),
    (0x0000_4000, "journal-data"),
    (0x0000_0001, "securedeletion"),
    (0x0000_0008, "sync"),
    (0x0000_8000, "notail"),
    (0x0002_0000, "topdir"),
    (0x0080_0000, "nocow"),
    (0x2000_0000, "projinherit"),
];

/// Whether a ustar header holds the text as it is, so that every tar reads the same.
pub(super) fn fits(text: &[u8]) -> bool {
    text.len() <= NAME_BYTES && text.iter().all(|b| b.is_ascii() && *b != 0)
}

/// The largest number in a field of `bytes` octal digits (with a NUL or blank behind them).
pub(super) const fn octal_limit(digits: u32) -> u64 {
    (1 << (3 * digits)) - 1
}

pub(super) fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.strip_suffix(b"\0").unwrap_or(field);
    let digit = |b: &u8| (b'0'..=b'7').contains(b).then(|| u64::from(b - b'0'));
    digits
        .iter()
        .try_fold(0_u64, |n, b| n.checked_mul(8)?.checked_add(digit(b)?))
        .filter(|_| !digits.is_empty())
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let digit = |b: &u8| b.is_ascii_digit().then(|| u64::from(b - b'0'));
    text.iter().try_fold(0_u64, |n, b| n.checked_mul(10)?.checked_add(digit(b)?)).filter(|_| !text.is_empty())
}

/// Adds `LENGTH KEY=VALUE\n`, where the length counts itself (pax(1)).
pub(super) fn add_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Takes records apart by their lengths; none when they do not add up.
pub(super) fn split_records(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().take(20).position(|b| *b == b' ')?;
        let length = usize::try_from(decimal(&bytes[..blank])?).ok()?;
        let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = &bytes[length..];
    }
    Some(records)
}

/// The seconds for a ustar header, when they are all there is to say.
pub(super) fn plain_time(time: Timestamp) -> Option<u64> {
    let seconds = u64::try_from(time.seconds).ok().filter(|seconds| *seconds <= octal_limit(11));
    seconds.filter(|_| time.nanoseconds == 0)
}

/// A time as a decimal number of seconds, negative before the epoch.
pub(super) fn time_text(time: Timestamp) -> String {
    match (time.seconds, time.nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        (seconds, nanoseconds) => {
            format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000_u32.saturating_sub(nanoseconds))
        }
    }
}

pub(super) fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |b| *b == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let nanoseconds = match parts.next() {
        Some(fraction) if fraction.len() == 9 => u32::try_from(decimal(fraction)?).ok()?,
        Some(_) => return None,
        None => 0,
    };
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds: whole, nanoseconds },
        (true, 0) => Timestamp { seconds: -whole, nanoseconds: 0 },
        (true, nanoseconds) => {
            Timestamp { seconds: (-whole).checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds }
        }
    })
}

pub(super) fn flag_names(flags: u32) -> String {
    let names = FLAG_NAMES.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name);
    names.collect::<Vec<_>>().join(",")
}

pub(super) fn parse_flags(text: &[u8]) -> Option<u32> {
    text.split(|b| *b == b',').try_fold(0, |flags, name| {
        let (flag, _) = FLAG_NAMES.iter().find(|(_, known)| known.as_bytes() == name)?;
        Some(flags | flag)
    })
}

pub(super) fn parse_xattr(key: &[u8], value: &[u8]) -> Result<Xattr, TarError> {
    let name = key.strip_prefix(XATTR_PREFIX).and_then(unescape_keyword).ok_or(TarError::Field("record"))?;
    // xattr(7): XATTR_NAME_MAX, XATTR_SIZE_MAX.
    if name.is_empty() || name.len() > 255 || name.contains(&0) || value.len() > 64 * 1024 {
        return Err(TarError::Field("attribute"));
    }
    Ok(Xattr { name, value: value.to_vec() })
}

/// An equals sign would end the keyword; GNU tar writes it so (since 1.30).
pub(super) fn escape_keyword(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => escaped.extend_from_slice(b"%25"),
            b'=' => escaped.extend_from_slice(b"%3D"),
            byte => escaped.push(*byte),
        }
    }
    escaped
}

pub(super) fn unescape_keyword(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        (text, name) = match (first, rest) {
            (b'%', [b'2', b'5', rest @ ..]) => (rest, [&name[..], b"%"].concat()),
            (b'%', [b'3', b'D', rest @ ..]) => (rest, [&name[..], b"="].concat()),
            (b'%', _) => return None,
            (byte, rest) => {
                name.push(*byte);
                (rest, name)
            }
        };
    }
    Some(name)
}

/// A POSIX ACL as acl(5) writes it, by numbers; none when the value is no ACL (`linux/posix_acl_xattr.h`).
pub(super) fn acl_text(value: &[u8]) -> Option<String> {
    let entries = value.strip_prefix(&2_u32.to_le_bytes())?;
    if entries.len() % 8 != 0 {
        return None;
    }
    let mut text = String::new();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let who = match tag {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let letter = |bit: u16, letter: char| if permissions & bit != 0 { letter } else { '-' };
        text.push_str(&who);
        text.extend([':', letter(4, 'r'), letter(2, 'w'), letter(1, 'x'), '\n']);
    }
    Some(text)
}
