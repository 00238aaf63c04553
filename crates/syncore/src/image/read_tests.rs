use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;

use super::super::restore;
use super::super::write::Archive;
use super::*;
use crate::delta::Extent;
use crate::image::sparse::encode_map;
use crate::image::tar::pad;
use crate::monitor::Silent;
use crate::scan::Root;
use crate::tree::Xattr;

fn about() -> About {
    About::of(&Root::open(Path::new("/")).unwrap(), false, 0)
}

/// A path that no check has seen.
fn unchecked(path: &str) -> RelPath {
    postcard::from_bytes(&postcard::to_allocvec(&serde_bytes::Bytes::new(path.as_bytes())).unwrap()).unwrap()
}

fn directory(path: &str) -> Member {
    Member::bare(unchecked(path), Entry { mode: 0o755, ..Entry::new(Kind::Directory) })
}

fn file(path: &str) -> Member {
    let entry = Entry { mode: 0o644, size_bytes: 4, ..Entry::new(Kind::File) };
    Member { stored_bytes: 4, ..Member::bare(unchecked(path), entry) }
}

/// An archive of these members, with a manifest that is right; files hold `data`.
fn archive(members: &[Member]) -> Vec<u8> {
    let mut archive = Archive::new(Vec::new(), about(), 1).unwrap();
    for member in members {
        let mut content = archive.member(member).unwrap();
        content.data(b"data").unwrap();
        content.finish(false).unwrap();
    }
    archive.finish().unwrap().0
}

fn checked(mut bytes: &[u8]) -> Result<Contents, ImageError> {
    read(&mut bytes, &mut Nothing, &Silent)
}

/// Asserts that such an archive is refused for that reason, and that restoring it reaches nothing outside.
#[track_caller]
fn refused(members: &[Member], reason: &str) {
    let bytes = archive(members);
    let text = checked(&bytes).expect_err("it was taken").to_string();
    assert!(text.contains(reason), "{text}");
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir(temp.path().join("outside")).unwrap();
    let restored =
        restore::from_stream(&mut &bytes[..], &temp.path().join("inside"), false, &|_| Ok(()), &Silent);
    assert!(matches!(restored, Err(ImageError::Incomplete { .. })), "{restored:?}");
    assert_eq!(std::fs::read_dir(temp.path().join("outside")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2);
}

#[test]
fn paths_that_leave_the_root_are_refused() {
    refused(&[directory(""), file("../outside/a")], "'.' or '..'");
    refused(&[directory(""), directory("a"), file("a/../../outside/a")], "'.' or '..'");
    refused(&[directory(""), file("/outside")], "empty component");
    refused(&[directory(""), file("./a")], "'.' or '..'");
    refused(&[directory(""), file(&"n".repeat(256))], "256 bytes");
}

#[test]
fn nothing_is_reached_through_a_link() {
    let link = Entry { target: b"../outside".to_vec(), ..Entry::new(Kind::Symlink) };
    let link = Member::bare(unchecked("link"), link);
    refused(&[directory(""), link.clone(), file("link/a")], "did not come before it");
    refused(&[directory(""), link.clone(), directory("link")], "it comes twice");
    let through = Member::link(unchecked("b"), unchecked("link/a"), &Entry::new(Kind::File));
    refused(&[directory(""), link, through], "did not come before it");
    let beyond = Member::link(unchecked("b"), unchecked("../outside/a"), &Entry::new(Kind::File));
    refused(&[directory(""), beyond], "'.' or '..'");
    let of_directory = Member::link(unchecked("b"), unchecked("a"), &Entry::new(Kind::File));
    refused(&[directory(""), directory("a"), of_directory], "did not come before it");
}

#[test]
fn what_comes_twice_or_out_of_order_is_refused() {
    refused(&[file("a")], "did not come before it");
    refused(&[directory(""), directory("")], "the root comes twice");
    refused(&[directory(""), file("a"), file("a")], "it comes twice");
    refused(&[directory(""), file("a"), file("a/b")], "did not come before it");
    refused(&[directory(""), directory(".clonetool-image")], "what it says of itself");
}

#[test]
fn too_many_attributes_are_refused() {
    let xattr = |n: usize| Xattr { name: format!("user.{n:02}").into_bytes(), value: vec![0; 60_000] };
    let mut member = file("a");
    member.entry.xattrs = (0..9).map(xattr).collect();
    refused(&[directory(""), member], "beyond the limit");
}

/// What is before the manifest, and the manifest with the end, of an archive.
fn parts(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut plain = zstd::decode_all(bytes).unwrap();
    let name = b"./.clonetool-image/manifest\0";
    let at = plain.windows(name.len()).position(|window| window == name).unwrap();
    let manifest = plain.split_off(at);
    (plain, manifest)
}

#[test]
fn an_entry_that_the_manifest_does_not_have_is_noticed_and_so_is_one_that_is_gone() {
    let (all, manifest) = parts(&archive(&[directory(""), file("a"), file("b")]));
    let (fewer, other) = parts(&archive(&[directory(""), file("a")]));
    let text = |plain: Vec<u8>| {
        checked(&zstd::encode_all(&plain[..], 1).unwrap()).expect_err("it was taken").to_string()
    };
    let gone = text([fewer, manifest].concat());
    assert!(gone.contains("its entries are not as many"), "{gone}");
    let more = text([all.clone(), other].concat());
    assert!(more.contains("is not as the manifest has it"), "{more}");
    let none = text([all, vec![0; 1024]].concat());
    assert!(none.contains("without a manifest"), "{none}");
}

#[test]
fn a_declared_length_is_not_believed() {
    let (mut plain, _) = parts(&archive(&[directory("")]));
    let mut huge = file("a");
    (huge.stored_bytes, huge.entry.size_bytes) = (1 << 60, 1 << 60);
    plain.extend_from_slice(&huge.encode());
    let text = checked(&zstd::encode_all(&plain[..], 1).unwrap()).expect_err("it was taken").to_string();
    assert!(text.contains("/a: it ends too early"), "{text}");
}

#[test]
fn a_sparse_file_comes_back_with_its_holes() {
    let extents = [Extent { offset: 1 << 20, length: 4 }];
    let map = encode_map(&extents, 4 << 20);
    let entry = Entry { mode: 0o600, size_bytes: 4 << 20, ..Entry::new(Kind::File) };
    let member =
        Member { stored_bytes: map.len() as u64 + 4, sparse: true, ..Member::bare(unchecked("a"), entry) };
    let mut archive = Archive::new(Vec::new(), about(), 1).unwrap();
    archive.member(&directory("")).unwrap().finish(false).unwrap();
    let mut content = archive.member(&member).unwrap();
    content.data(&map).unwrap();
    content.data(b"data").unwrap();
    content.finish(true).unwrap();
    let (bytes, written) = archive.finish().unwrap();
    assert_eq!(checked(&bytes).unwrap(), written);
    assert_eq!(written.torn, [unchecked("a")]);
    let temp = tempfile::tempdir().unwrap();
    let into = temp.path().join("new");
    let done = restore::from_stream(&mut &bytes[..], &into, false, &|_| Ok(()), &Silent).unwrap();
    // What was torn when the image was made is told again. (Without root, so is the owner.)
    assert!(
        done.problems.iter().any(|problem| problem.to_string().contains("changed while the image was made"))
    );
    let content = std::fs::read(into.join("a")).unwrap();
    assert_eq!((content.len(), &content[1 << 20..(1 << 20) + 4]), (4 << 20, &b"data"[..]));
    use std::os::unix::fs::MetadataExt;
    assert!(std::fs::metadata(into.join("a")).unwrap().blocks() < 1024);
}

#[test]
fn every_changed_byte_and_every_cut_is_noticed() {
    let bytes = archive(&[directory(""), file("a")]);
    let contents = checked(&bytes).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        // One bit of the frame's header means nothing to zstd; what is read then is what was written.
        assert!(checked(&changed).map_or(true, |read| read == contents), "byte {at}");
        assert!(checked(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(checked(&[&bytes[..], b"x"].concat()).is_err());
    assert!(checked(&[&bytes[..], &bytes].concat()).is_err());
    let text = checked(b"no image").expect_err("it was taken").to_string();
    assert!(text.contains("no image of clonetool"), "{text}");
}

#[test]
fn what_is_in_the_destination_stops_the_restore() {
    let bytes = archive(&[directory(""), file("a")]);
    let temp = tempfile::tempdir().unwrap();
    symlink("x", temp.path().join("there")).unwrap();
    let restored = restore::from_stream(&mut &bytes[..], temp.path(), false, &|_| Ok(()), &Silent);
    assert!(matches!(restored, Err(ImageError::NotEmpty { .. })), "{restored:?}");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
}

proptest! {
    #[test]
    fn arbitrary_archives_are_no_reason_to_panic(
        tail in prop::collection::vec(any::<u8>(), 0..4000),
        padded in any::<bool>(),
    ) {
        let (mut plain, _) = parts(&archive(&[directory("")]));
        plain.extend_from_slice(&tail);
        if padded {
            pad(&mut plain);
            plain.write_all(&[0; 1024]).unwrap();
        }
        prop_assert!(checked(&zstd::encode_all(&plain[..], 1).unwrap()).is_err());
        prop_assert!(checked(&tail).is_err());
    }
}
