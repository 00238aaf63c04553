use proptest::prelude::*;

use super::*;
use crate::delta::Extent;
use crate::image::sparse::{decode_map, encode_map};
use crate::tree::{Timestamp, Xattr};

fn decoded(bytes: &[u8]) -> Result<Option<Member>, TarError> {
    Member::decode(&mut &bytes[..], &mut Vec::new())
}

fn text(headers: &[u8]) -> String {
    String::from_utf8_lossy(headers).into_owned()
}

#[test]
fn a_plain_file_is_one_header_as_posix_has_it() {
    let mut entry = Entry::new(Kind::File);
    (entry.mode, entry.uid, entry.gid, entry.size_bytes) = (0o644, 1000, 100, 5);
    entry.mtime.seconds = 1_234_567_890;
    let member = Member { stored_bytes: 5, ..Member::bare(RelPath::new("etc/motd").unwrap(), entry) };
    let header = member.encode();
    assert_eq!(header.len(), 512);
    assert_eq!(&header[..11], b"./etc/motd\0");
    assert_eq!(&header[100..136], b"0000644\x000001750\x000000144\x0000000000005\0");
    assert_eq!(&header[136..148], b"11145401322\0");
    assert_eq!(&header[156..158], b"0\0");
    assert_eq!(&header[257..265], b"ustar\x0000");
    // The sum of all bytes, with blanks in its own place.
    let sum: u32 = header[..148].iter().chain(b"        ").chain(&header[156..]).map(|b| u32::from(*b)).sum();
    assert_eq!(&header[148..156], format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(decoded(&header).unwrap(), Some(member));
}

#[test]
fn what_a_header_cannot_hold_is_in_records_as_gnu_tar_writes_them() {
    let mut entry = Entry::new(Kind::File);
    (entry.mode, entry.uid) = (0o4755, 4_294_967_294);
    entry.mtime = Timestamp { seconds: -2, nanoseconds: 500_000_000 };
    entry.flags = 0x30;
    let acl =
        b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x06\x0090\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x06\0\
        \xff\xff\xff\xff \0\x04\0\xff\xff\xff\xff";
    entry.xattrs = vec![
        Xattr { name: b"system.posix_acl_access".to_vec(), value: acl.to_vec() },
        Xattr { name: b"user.a=b%c".to_vec(), value: b"\n\0".to_vec() },
    ];
    let member = Member::bare(RelPath::new(b"caf\xe9".to_vec()).unwrap(), entry);
    let headers = member.encode();
    let records = [
        &b"15 path=./caf\xe9\n18 uid=4294967294\n22 mtime=-1.500000000\n29 SCHILY.fflags=sappnd,schg\n"[..],
        b"79 SCHILY.acl.access=user::rw-\nuser:12345:rw-\ngroup::r--\nmask::rw-\nother::r--\n\n",
        b"85 SCHILY.xattr.system.posix_acl_access=",
        acl,
        b"\n34 SCHILY.xattr.user.a%3Db%25c=\n\0\n",
    ]
    .concat();
    assert_eq!(text(&headers[512..512 + records.len()]), text(&records));
    assert_eq!(headers.len(), 3 * 512);
    assert_eq!(decoded(&headers).unwrap(), Some(member));
}

#[test]
fn the_map_of_a_sparse_file_is_gnus() {
    let extents = [Extent { offset: 499_712, length: 4096 }];
    let map = encode_map(&extents, 1 << 20);
    assert_eq!(map.len(), 512);
    assert_eq!(&map[..24], b"2\n499712\n4096\n1048576\n0\n");
    let mut hasher = blake3::Hasher::new();
    let read = decode_map(&mut &map[..], 1 << 20, 512 + 4096, &mut hasher).unwrap();
    assert_eq!((read, hasher.finalize()), (extents.to_vec(), blake3::hash(&map)));
    assert_eq!(encode_map(&[], 7)[..6], *b"1\n7\n0\n");
}

#[test]
fn maps_that_lie_are_refused() {
    let refused = |text: &str, size_bytes, stored_bytes| {
        let mut map = text.as_bytes().to_vec();
        pad(&mut map);
        let error = decode_map(&mut &map[..], size_bytes, stored_bytes, &mut blake3::Hasher::new());
        assert!(error.is_err(), "{text:?} was taken");
    };
    refused("2\n0\n10\n5\n10\n", 100, 532);
    refused("1\n90\n20\n", 100, 532);
    refused("1\n18446744073709551615\n2\n", 100, 532);
    refused("1\n0\n10\n90\n0\n", 100, 532);
    refused("1\n0\n10\n", 100, 522);
    refused("99999999999\n", 100, 512);
    refused("x\n", 100, 512);
    refused("2\n0\n10\n100\n0\n", 100, 600);
    refused("", 100, 512);
}

#[test]
fn a_header_in_another_form_is_refused() {
    let member = Member::bare(RelPath::new("a").unwrap(), Entry::new(Kind::Fifo));
    let good = member.encode();
    // Every byte counts: the header has one form.
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_ne!(decoded(&bad).ok().flatten(), Some(member.clone()), "byte {at}");
    }
}

#[test]
fn nothing_is_read_or_kept_beyond_the_limits() {
    let mut huge = Vec::new();
    let fields = Fields { size: 1_000_000_000, type_flag: b'x', ..Fields::default() };
    fields.write(b"./PaxHeaders/a", b"", &mut huge);
    assert!(matches!(decoded(&huge), Err(TarError::Limit { .. })));
    let mut entry = Entry::new(Kind::File);
    let xattr = |n: usize| Xattr { name: format!("user.{n:02}").into_bytes(), value: vec![0; 60_000] };
    entry.xattrs = (0..10).map(xattr).collect();
    let headers = Member::bare(RelPath::new("a").unwrap(), entry).encode();
    assert!(matches!(decoded(&headers), Err(TarError::Limit { .. })));
}

fn a_path() -> impl Strategy<Value = RelPath> {
    let byte = any::<u8>().prop_map(|b| if matches!(b, 0 | b'/') { b'_' } else { b });
    let name = prop::collection::vec(byte, 1..120)
        .prop_map(|name| if matches!(&name[..], b"." | b"..") { b"dot".to_vec() } else { name });
    prop::collection::vec(name, 1..4).prop_map(|names| RelPath::new(names.join(&b'/')).unwrap())
}

fn a_member() -> impl Strategy<Value = Member> {
    let kinds = prop::sample::select(vec![
        Kind::File,
        Kind::Directory,
        Kind::Symlink,
        Kind::Fifo,
        Kind::BlockDevice,
        Kind::CharDevice,
    ]);
    let names = prop::sample::select(vec![
        "user.plain",
        "user.a=b%25",
        "system.posix_acl_access",
        "system.posix_acl_default",
        "security.capability",
    ]);
    let xattrs = prop::collection::btree_map(names, prop::collection::vec(any::<u8>(), 0..40), 0..4);
    let numbers = (0_u16..0o10000, any::<u32>(), any::<u32>(), any::<i64>(), 0_u32..1_000_000_000);
    let sizes = (0_u64..1 << 62, any::<bool>(), prop::sample::select(vec![0, 1, 512, 1 << 33, 1 << 40]));
    (a_path(), kinds, numbers, xattrs, any::<u32>(), sizes, a_path(), any::<bool>()).prop_map(
        |(path, kind, (mode, uid, gid, seconds, nanoseconds), xattrs, flags, sizes, other, link)| {
            let mut entry = Entry::new(kind);
            entry.mode = if kind == Kind::Symlink { 0 } else { mode };
            (entry.uid, entry.gid, entry.mtime) = (uid, gid, Timestamp { seconds, nanoseconds });
            if link {
                return Member::link(path, other, &entry);
            }
            entry.flags = flags & crate::tree::INODE_FLAGS;
            entry.xattrs =
                xattrs.into_iter().map(|(name, value)| Xattr { name: name.into(), value }).collect();
            let mut member = Member::bare(path, entry);
            let (size, sparse, stored) = sizes;
            match kind {
                Kind::File => {
                    member.sparse = sparse;
                    member.stored_bytes = stored;
                    member.entry.size_bytes = if sparse { size } else { stored };
                }
                Kind::Symlink => member.entry.target = other.as_bytes().to_vec(),
                Kind::BlockDevice | Kind::CharDevice => member.entry.device = (uid & 0xfff, gid & 0xf_ffff),
                _ => {}
            }
            member
        },
    )
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_again(member in a_member()) {
        let mut bytes = member.encode();
        bytes.extend_from_slice(&[0; 1024]);
        let mut input = &bytes[..];
        let mut headers = Vec::new();
        prop_assert_eq!(Member::decode(&mut input, &mut headers), Ok(Some(member)));
        prop_assert_eq!(Member::decode(&mut input, &mut headers), Ok(None));
    }

    #[test]
    fn what_is_decoded_has_one_form(member in a_member(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = member.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(Some(other)) = decoded(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_reason_to_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = decoded(&bytes);
        let _ = split_records(&bytes);
        let _ = parse_time(&bytes);
        let _ = acl_text(&bytes);
        let _ = decode_map(&mut &bytes[..], 1 << 40, 1 << 40, &mut blake3::Hasher::new());
    }

    #[test]
    fn arbitrary_records_are_no_reason_to_panic(
        records in prop::collection::vec(("[a-z.A-Z]{1,30}", prop::collection::vec(any::<u8>(), 0..50)), 0..9),
        type_flag in prop::sample::select(b"0123456x".to_vec()),
    ) {
        let mut bytes = Vec::new();
        for (key, value) in &records {
            add_record(&mut bytes, key.as_bytes(), value);
        }
        let mut headers = Vec::new();
        let fields = Fields { size: bytes.len() as u64, type_flag: b'x', ..Fields::default() };
        fields.write(b"./PaxHeaders/a", b"", &mut headers);
        headers.extend_from_slice(&bytes);
        pad(&mut headers);
        Fields { type_flag, ..Fields::default() }.write(b"./a", b"./b", &mut headers);
        let _ = decoded(&headers);
    }
}
