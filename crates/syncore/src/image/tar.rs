//! Members of a POSIX pax archive: to headers and back.
//!
//! Why own code: see `doc/design.md`. A member is what GNU tar writes with `--format=posix --xattrs --acls --sparse`,
//! so that GNU tar reads it: names, times and numbers that a ustar header cannot hold are pax records, attributes are
//! `SCHILY.xattr.*`, ACLs are there as text as well, holes are in GNU's sparse format 1.0, flags are libarchive's
//! `SCHILY.fflags`. What can go wrong: two programs that read one header differently. So a header is only accepted
//! when encoding what it means gives the same bytes again: each member has one form.

use std::io::Read;

use thiserror::Error;

use super::pax::{
    acl_text, add_record, decimal, escape_keyword, fits, flag_names, octal, octal_limit, parse_flags,
    parse_time, parse_xattr, plain_time, split_records, time_text,
};
use crate::tree::{Entry, Kind, PathError, RelPath};

/// Everything in a tar archive is in blocks of this size.
pub(super) const BLOCK_BYTES: usize = 512;

/// Longest pax records of one member: all its attributes, those that are ACLs twice, its path, its target.
const RECORDS_LIMIT_BYTES: u64 = 4 << 20;

/// How much all attributes of one member may have together, as the scan limits it.
const XATTRS_LIMIT_BYTES: usize = 512 * 1024;

/// Length of the name in a ustar header.
pub(super) const NAME_BYTES: usize = 100;

/// What stands in a header for an owner that only a pax record can hold: nobody, should the record be ignored.
const NOBODY: u64 = 65_534;

/// Where extended attributes are (star, GNU tar, libarchive).
pub(super) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// One name in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Which path.
    pub(super) path: RelPath,
    /// Its metadata. Of another name of an inode, only owner, mode and time, and as if it were a file.
    pub(super) entry: Entry,
    /// The earlier path of which it is another name.
    pub(super) link_to: Option<RelPath>,
    /// How many bytes follow the header; those of a sparse file begin with the map of its data.
    pub(super) stored_bytes: u64,
    /// Whether it is stored without its holes.
    pub(super) sparse: bool,
}

/// Why bytes are no member that this program writes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum TarError {
    /// The stream broke.
    #[error("{0}")]
    Read(String),
    /// A path that is none.
    #[error("{0}")]
    Path(#[from] PathError),
    /// A header or its records do not parse.
    #[error("a header with an impossible {0}")]
    Field(&'static str),
    /// The header means something, but is not how that is written.
    #[error("a header that is not in the form of an image")]
    Form,
    /// More than is accepted.
    #[error("{what} beyond the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much.
        limit: u64,
    },
}

impl From<std::io::Error> for TarError {
    fn from(error: std::io::Error) -> Self {
        Self::Read(super::truncated(&error))
    }
}

impl Member {
    /// A member without content.
    pub(super) fn bare(path: RelPath, entry: Entry) -> Self {
        Self { path, entry, link_to: None, stored_bytes: 0, sparse: false }
    }

    /// Another name of the inode at `leader`.
    pub(super) fn link(path: RelPath, leader: RelPath, of: &Entry) -> Self {
        let (mode, uid, gid, mtime) = (of.mode, of.uid, of.gid, of.mtime);
        let entry = Entry { mode, uid, gid, mtime, ..Entry::new(Kind::File) };
        Self { link_to: Some(leader), ..Self::bare(path, entry) }
    }

    /// The letter of a member in the manifest.
    pub(super) fn letter(&self) -> char {
        match self.entry.kind {
            _ if self.link_to.is_some() => 'h',
            Kind::File => 'f',
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::Fifo => 'p',
            Kind::Socket => 's',
            Kind::BlockDevice => 'b',
            Kind::CharDevice => 'c',
        }
    }

    const fn type_flag(&self) -> u8 {
        match self.entry.kind {
            _ if self.link_to.is_some() => b'1',
            // A socket is in no tar archive; it is not written, and no flag is read as one.
            Kind::File | Kind::Socket => b'0',
            Kind::Symlink => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        }
    }

    /// The blocks of headers before the content.
    pub(super) fn encode(&self) -> Vec<u8> {
        let entry = &self.entry;
        let name = name_of(&self.path, self.type_flag() == b'5');
        let target = self.link_to.as_ref().map_or_else(|| entry.target.clone(), |to| name_of(to, false));
        let mut records = Vec::new();
        let mut record = |key: &[u8], value: &[u8]| add_record(&mut records, key, value);
        if self.sparse {
            record(b"GNU.sparse.major", b"1");
            record(b"GNU.sparse.minor", b"0");
            record(b"GNU.sparse.name", &name);
            record(b"GNU.sparse.realsize", entry.size_bytes.to_string().as_bytes());
        } else if !fits(&name) {
            record(b"path", &name);
        }
        if !fits(&target) {
            record(b"linkpath", &target);
        }
        if self.stored_bytes > octal_limit(11) {
            record(b"size", self.stored_bytes.to_string().as_bytes());
        }
        for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
            if u64::from(id) > octal_limit(7) {
                record(key, id.to_string().as_bytes());
            }
        }
        let plain_time = plain_time(entry.mtime);
        if plain_time.is_none() {
            record(b"mtime", time_text(entry.mtime).as_bytes());
        }
        if entry.flags != 0 {
            record(b"SCHILY.fflags", flag_names(entry.flags).as_bytes());
        }
        for xattr in &entry.xattrs {
            // GNU tar sets the ACLs from these, and would take them off without.
            let acl = match &xattr.name[..] {
                b"system.posix_acl_access" => Some(&b"SCHILY.acl.access"[..]),
                b"system.posix_acl_default" => Some(&b"SCHILY.acl.default"[..]),
                _ => None,
            };
            if let Some((key, text)) = acl.and_then(|key| Some((key, acl_text(&xattr.value)?))) {
                record(key, text.as_bytes());
            }
            record(&[XATTR_PREFIX, &escape_keyword(&xattr.name)].concat(), &xattr.value);
        }
        let mut headers = Vec::with_capacity(4 * BLOCK_BYTES);
        if !records.is_empty() {
            let last = self.path.name().unwrap_or(b".");
            let fields =
                Fields { mode: 0o644, size: records.len() as u64, type_flag: b'x', ..Fields::default() };
            fields.write(&[b"./PaxHeaders/", last].concat(), b"", &mut headers);
            headers.extend_from_slice(&records);
            pad(&mut headers);
        }
        let id = |id: u32| Some(u64::from(id)).filter(|id| *id <= octal_limit(7)).unwrap_or(NOBODY);
        let fields = Fields {
            mode: if entry.kind == Kind::Symlink { 0o777 } else { entry.mode.into() },
            uid: id(entry.uid),
            gid: id(entry.gid),
            size: if self.stored_bytes > octal_limit(11) { 0 } else { self.stored_bytes },
            mtime: plain_time.unwrap_or(0),
            type_flag: self.type_flag(),
            device: entry.device,
        };
        fields.write(&name, &target, &mut headers);
        headers
    }

    /// Reads the headers of the next member into `headers`; none at the end of the archive.
    pub(super) fn decode(input: &mut impl Read, headers: &mut Vec<u8>) -> Result<Option<Self>, TarError> {
        headers.clear();
        let mut block = read_block(input, headers)?;
        if block == [0; BLOCK_BYTES] {
            return if read_block(input, headers)? == block { Ok(None) } else { Err(TarError::Field("end")) };
        }
        let mut records = Vec::new();
        if block[156] == b'x' {
            let length = octal(&block[124..136]).ok_or(TarError::Field("length"))?;
            if length > RECORDS_LIMIT_BYTES {
                return Err(TarError::Limit { what: "metadata of one member", limit: RECORDS_LIMIT_BYTES });
            }
            let padded = length.next_multiple_of(BLOCK_BYTES as u64);
            let start = headers.len();
            if input.take(padded).read_to_end(headers)? as u64 != padded {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            let length = usize::try_from(length).map_err(|_| TarError::Field("length"))?;
            records = split_records(&headers[start..start + length]).ok_or(TarError::Field("record"))?;
            block = read_block(input, headers)?;
        }
        let member = Self::from_header(&block, &records)?;
        if member.encode() == *headers { Ok(Some(member)) } else { Err(TarError::Form) }
    }

    fn from_header(block: &[u8; BLOCK_BYTES], records: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, TarError> {
        let text = |range: std::ops::Range<usize>| {
            let field = &block[range];
            field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())].to_vec()
        };
        let number = |range: std::ops::Range<usize>, what| octal(&block[range]).ok_or(TarError::Field(what));
        let (kind, is_link) = match block[156] {
            b'0' => (Kind::File, false),
            b'1' => (Kind::File, true),
            b'2' => (Kind::Symlink, false),
            b'3' => (Kind::CharDevice, false),
            b'4' => (Kind::BlockDevice, false),
            b'5' => (Kind::Directory, false),
            b'6' => (Kind::Fifo, false),
            _ => return Err(TarError::Field("type")),
        };
        let mut entry = Entry::new(kind);
        let mode = number(100..108, "mode")?;
        if kind != Kind::Symlink {
            entry.mode = u16::try_from(mode).ok().filter(|m| *m <= 0o7777).ok_or(TarError::Field("mode"))?;
        }
        let id = |value: u64| u32::try_from(value).map_err(|_| TarError::Field("owner"));
        (entry.uid, entry.gid) = (id(number(108..116, "owner")?)?, id(number(116..124, "group")?)?);
        let mut stored_bytes = number(124..136, "size")?;
        let seconds = number(136..148, "time")?;
        entry.mtime.seconds = i64::try_from(seconds).map_err(|_| TarError::Field("time"))?;
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            let part =
                |range| number(range, "device").and_then(|n| u32::try_from(n).map_err(|_| TarError::Form));
            entry.device = (part(329..337)?, part(337..345)?);
        }
        let (mut name, mut target) = (text(0..NAME_BYTES), text(157..257));
        let mut real_size = None;
        for (key, value) in records {
            let decimal = |what| decimal(value).ok_or(TarError::Field(what));
            match &key[..] {
                b"path" | b"GNU.sparse.name" => name.clone_from(value),
                b"linkpath" => target.clone_from(value),
                b"size" => stored_bytes = decimal("size")?,
                b"uid" => entry.uid = id(decimal("owner")?)?,
                b"gid" => entry.gid = id(decimal("group")?)?,
                b"mtime" => entry.mtime = parse_time(value).ok_or(TarError::Field("time"))?,
                b"GNU.sparse.realsize" => real_size = Some(decimal("size")?),
                b"SCHILY.fflags" => entry.flags = parse_flags(value).ok_or(TarError::Field("flag"))?,
                // They follow from the rest of the member, and are compared with it.
                b"GNU.sparse.major" | b"GNU.sparse.minor" | b"SCHILY.acl.access" | b"SCHILY.acl.default" => {}
                key => entry.xattrs.push(parse_xattr(key, value)?),
            }
        }
        let bytes: usize = entry.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        if bytes > XATTRS_LIMIT_BYTES {
            let limit = XATTRS_LIMIT_BYTES as u64;
            return Err(TarError::Limit { what: "extended attributes of one member", limit });
        }
        if !entry.xattrs.is_sorted_by(|a, b| a.name < b.name) {
            return Err(TarError::Field("order of attributes"));
        }
        let path = path_of(&name, kind == Kind::Directory)?;
        let link_to = is_link.then(|| path_of(&target, false)).transpose()?;
        if kind == Kind::Symlink {
            // PATH_MAX of Linux, with its final NUL.
            if target.is_empty() || target.len() > 4095 || target.contains(&0) {
                return Err(TarError::Field("target"));
            }
            entry.target = target;
        }
        let plain_file = kind == Kind::File && !is_link;
        if !plain_file && (stored_bytes != 0 || real_size.is_some()) {
            return Err(TarError::Field("size"));
        }
        entry.size_bytes = real_size.unwrap_or(stored_bytes);
        if i64::try_from(entry.size_bytes).is_err() || i64::try_from(stored_bytes).is_err() {
            return Err(TarError::Field("size"));
        }
        Ok(Self { path, entry, link_to, stored_bytes, sparse: real_size.is_some() })
    }
}

/// The numbers of a ustar header.
#[derive(Default)]
struct Fields {
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    type_flag: u8,
    device: (u32, u32),
}

impl Fields {
    fn write(&self, name: &[u8], target: &[u8], into: &mut Vec<u8>) {
        let mut block = [0; BLOCK_BYTES];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name[..name.len().min(NAME_BYTES)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.uid).as_bytes());
        put(116, format!("{:07o}", self.gid).as_bytes());
        put(124, format!("{:011o}", self.size).as_bytes());
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[self.type_flag]);
        put(157, &target[..target.len().min(NAME_BYTES)]);
        put(257, b"ustar\x0000");
        if matches!(self.type_flag, b'3' | b'4') {
            // Linux has majors of 12 and minors of 20 bits; seven octal digits are 21.
            put(329, format!("{:07o}", self.device.0 & 0x1f_ffff).as_bytes());
            put(337, format!("{:07o}", self.device.1 & 0x1f_ffff).as_bytes());
        }
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        into.extend_from_slice(&block);
    }
}

/// Fills the last block with zeros.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
}

fn read_block(input: &mut impl Read, headers: &mut Vec<u8>) -> Result<[u8; BLOCK_BYTES], TarError> {
    let mut block = [0; BLOCK_BYTES];
    input.read_exact(&mut block)?;
    headers.extend_from_slice(&block);
    Ok(block)
}

/// The name of a path in the archive: below `.`, and of a directory with a slash at its end.
fn name_of(path: &RelPath, is_directory: bool) -> Vec<u8> {
    let mut name = b"./".to_vec();
    name.extend_from_slice(path.as_bytes());
    if is_directory && !path.is_root() {
        name.push(b'/');
    }
    name
}

fn path_of(name: &[u8], is_directory: bool) -> Result<RelPath, TarError> {
    let below = name.strip_prefix(b"./").ok_or(TarError::Field("name"))?;
    let below = if is_directory && !below.is_empty() {
        below.strip_suffix(b"/").ok_or(TarError::Field("name"))?
    } else {
        below
    };
    let path = RelPath::new(below)?;
    if path.is_root() && !is_directory { Err(TarError::Field("name")) } else { Ok(path) }
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
