//! Plants a tree that holds everything a faithful copy must carry, and changes it in every way.
//!
//! Needs root and a filesystem with extended attributes, ACLs, inode flags and nanosecond times: ext4.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt as _, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::dir::Dir;
use super::run;

/// How many levels of [`DEEP_NAME_BYTES`] the deep path has: more than `PATH_MAX` together.
const DEEP_LEVELS: usize = 30;
const DEEP_NAME_BYTES: usize = 200;
/// How many small files the crowded directory has.
const CROWD: usize = 3_000;
/// 1950-01-01 and 2400-01-01.
const PAST: i64 = -631_152_000;
const FAR_FUTURE: i64 = 13_569_465_600;

/// Plants the whole tree in `root`, which is made if it does not exist.
pub(crate) fn plant(root: &Path) {
    fs::create_dir_all(root).expect("make the planted root");
    kinds(&root.join("kinds"));
    links(&root.join("links"));
    holes(&root.join("holes"));
    modes(&root.join("modes"));
    xattrs(&root.join("xattrs"));
    acls(&root.join("acls"));
    names(&root.join("names"));
    deep(&root.join("deep"));
    crowd(&root.join("crowd"));
    flags(&root.join("flags"));
    times(&root.join("times"));
    set_mtime(root, 1_234_567_890, 123_456_789);
}

/// Bytes that neither compress nor repeat, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes a file, with its parents.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("make the parents");
    fs::write(path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}

/// Sets the modification time of the inode at `path`, which may be a symlink.
pub(crate) fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("set the mtime");
}

/// Returns when what changes in the filesystem of `directory` gets a later time than what changed before the call: inodes
/// have the time of the kernel's last tick, which is up to ten milliseconds long.
pub(crate) fn next_tick(directory: &Path) {
    let probe = directory.join("tick");
    write(&probe, "");
    let changed =
        || fs::symlink_metadata(&probe).map(|stat| (stat.ctime(), stat.ctime_nsec())).expect("stat");
    let before = changed();
    while changed() == before {
        chmod(&probe, 0o600);
    }
    fs::remove_file(probe).expect("remove the probe");
}

/// Sets the permission bits.
pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Sets an extended attribute of the inode at `path`, which may be a symlink.
pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|e| panic!("set {name} of {}: {e}", path.display()));
}

/// Runs `chattr` with `change` (`+i`, `-a`).
pub(crate) fn chattr(change: &str, path: &Path) {
    run("chattr", [OsStr::new(change), path.as_os_str()]);
}

/// Makes a FIFO, socket or device node.
pub(crate) fn mknod(path: &Path, kind: FileType, major: u32, minor: u32) {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).expect("mknod");
}

fn setfacl(rules: &str, path: &Path) {
    run("setfacl", [OsStr::new("-m"), OsStr::new(rules), path.as_os_str()]);
}

fn link(from: &Path, to: &Path) {
    // Not `fs::hard_link`: the link is of the symlink itself, not of what it points to.
    rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty()).expect("hard link");
}

fn make(dir: &Path) {
    fs::create_dir_all(dir).unwrap_or_else(|e| panic!("make {}: {e}", dir.display()));
}

/// Every inode kind, and files of several sizes.
fn kinds(dir: &Path) {
    make(&dir.join("directory/empty"));
    write(&dir.join("empty-file"), "");
    write(&dir.join("one-byte"), "x");
    write(&dir.join("64k"), noise(1, 64 << 10));
    write(&dir.join("3m"), noise(2, 3 << 20));
    write(&dir.join("3m-and-a-bit"), noise(3, (3 << 20) + 17));
    write(&dir.join("text"), "one line after the other\n".repeat(5_000));
    symlink("nowhere/at all", dir.join("dangling")).expect("symlink");
    symlink("/etc/passwd", dir.join("absolute")).expect("symlink");
    symlink("directory", dir.join("to-directory")).expect("symlink");
    symlink("..", dir.join("directory/up")).expect("symlink");
    symlink("loop", dir.join("loop")).expect("symlink");
    symlink(OsStr::from_bytes(&[b'l'; 4095]), dir.join("long-target")).expect("symlink");
    symlink(OsStr::from_bytes(b"caf\xe9\n\x1b[1m"), dir.join("odd-target")).expect("symlink");
    symlink("text", dir.join("owned-link")).expect("symlink");
    lchown(dir.join("owned-link"), Some(12_345), Some(54_321)).expect("lchown");
    set_mtime(&dir.join("owned-link"), 1_000_000_000, 1);
    for (name, kind, major, minor) in [
        ("fifo", FileType::Fifo, 0, 0),
        ("socket", FileType::Socket, 0, 0),
        ("block", FileType::BlockDevice, 7, 200),
        ("character", FileType::CharacterDevice, 1, 3),
        ("big-minor", FileType::CharacterDevice, 4_000, 1_000_000),
    ] {
        let path = dir.join(name);
        mknod(&path, kind, major, minor);
        chown(&path, Some(7), Some(8)).expect("chown");
        chmod(&path, 0o2606);
        set_mtime(&path, 1_111_111_111, 222_222_222);
    }
}

/// Hard-link groups: of files across directories, and of every other kind that can have them.
fn links(dir: &Path) {
    make(&dir.join("a"));
    make(&dir.join("b/c"));
    write(&dir.join("a/first"), noise(10, 100_000));
    link(&dir.join("a/first"), &dir.join("b/c/second"));
    link(&dir.join("a/first"), &dir.join("third"));
    // Of one content and one time, but not one inode.
    write(&dir.join("a/twin"), noise(10, 100_000));
    write(&dir.join("b/pair"), "");
    link(&dir.join("b/pair"), &dir.join("b/pair2"));
    symlink("target", dir.join("a/link")).expect("symlink");
    link(&dir.join("a/link"), &dir.join("b/link"));
    for (name, kind) in [
        ("fifo", FileType::Fifo),
        ("socket", FileType::Socket),
        ("block", FileType::BlockDevice),
        ("character", FileType::CharacterDevice),
    ] {
        mknod(&dir.join("a").join(name), kind, 7, 200);
        link(&dir.join("a").join(name), &dir.join("b").join(name));
    }
    // One name inside the tree, one outside of every scope: an inode with two links and one path here.
    write(&dir.join("b/sixteen-0"), "sixteen names");
    for n in 1..16 {
        link(&dir.join("b/sixteen-0"), &dir.join(format!("b/c/sixteen-{n}")));
    }
}

/// Sparse files.
fn holes(dir: &Path) {
    make(dir);
    let sparse = |name: &str, size: u64, extents: &[(u64, usize)]| {
        let file = File::create(dir.join(name)).expect("create a sparse file");
        file.set_len(size).expect("set its length");
        for (at, length) in extents {
            file.write_all_at(&noise(*at + 20, *length), *at).expect("write an extent");
        }
    };
    sparse("at-start", (1 << 20) + (64 << 10), &[(1 << 20, 64 << 10)]);
    sparse("in-middle", 3 << 20, &[(0, 64 << 10), (2 << 20, 1 << 20)]);
    sparse("at-end", 2 << 20, &[(0, 64 << 10)]);
    sparse("only-hole", 1 << 20, &[]);
    sparse("huge", 1 << 30, &[(600 << 20, 4096)]);
    sparse("odd-length", (1 << 20) + 13, &[(8192, 5)]);
    let alternating: Vec<_> = (0..64).map(|n| (n * 8192, 4096)).collect();
    sparse("alternating", 64 * 8192, &alternating);
    // Zeros that are data, not a hole: both must stay what they are.
    write(&dir.join("written-zeros"), vec![0_u8; 1 << 20]);
}

/// Permission bits and owners.
fn modes(dir: &Path) {
    make(dir);
    for mode in [0o000, 0o200, 0o444, 0o777, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777] {
        let path = dir.join(format!("file-{mode:04o}"));
        write(&path, format!("{mode:o}"));
        chown(&path, Some(65_534), Some(4_294_967_294)).expect("chown");
        chmod(&path, mode);
        let path = dir.join(format!("dir-{mode:04o}"));
        write(&path.join("inside/file"), "inside");
        chown(&path, Some(4_294_967_294), Some(65_534)).expect("chown");
        chmod(&path, mode);
    }
    // What is made in a setgid directory takes its group, unless the copy sets it.
    let setgid = dir.join("setgid");
    write(&setgid.join("other-group"), "");
    chown(&setgid, Some(1), Some(2)).expect("chown");
    chmod(&setgid, 0o2775);
    make(&dir.join("dir-0300"));
    write(&dir.join("dir-0300/hidden"), "no one may list this");
    chmod(&dir.join("dir-0300"), 0o300);
}

/// Extended attributes of every namespace that root may write, and capabilities.
fn xattrs(dir: &Path) {
    make(&dir.join("directory"));
    for (name, target) in [("file", dir.join("file")), ("directory", dir.join("directory"))] {
        if name == "file" {
            write(&target, "with attributes");
        }
        set_xattr(&target, "user.plain", b"value");
        set_xattr(&target, "user.empty", b"");
        set_xattr(&target, "user.binary", b"\x00\x01\xff\n");
        set_xattr(&target, "user.long", &noise(30, 2_000));
        set_xattr(&target, "trusted.secret", b"only root reads this");
        set_xattr(&target, "security.label", b"system_u:object_r:etc_t:s0\0");
    }
    symlink("file", dir.join("link")).expect("symlink");
    set_xattr(&dir.join("link"), "trusted.on-a-link", b"yes");
    mknod(&dir.join("fifo"), FileType::Fifo, 0, 0);
    set_xattr(&dir.join("fifo"), "trusted.on-a-fifo", b"yes");
    mknod(&dir.join("device"), FileType::CharacterDevice, 1, 3);
    set_xattr(&dir.join("device"), "security.on-a-device", b"yes");
    let capable = dir.join("capable");
    write(&capable, "#!/bin/true\n");
    chown(&capable, Some(1_000), Some(1_000)).expect("chown");
    chmod(&capable, 0o755);
    run("setcap", [OsStr::new("cap_net_raw,cap_net_bind_service+ep"), capable.as_os_str()]);
    let read_only = dir.join("read-only");
    write(&read_only, "0400");
    set_xattr(&read_only, "user.on-read-only", b"yes");
    chmod(&read_only, 0o400);
}

/// POSIX ACLs.
fn acls(dir: &Path) {
    make(dir);
    write(&dir.join("file"), "");
    setfacl("u:12345:rw,g:54321:r,m::rw", &dir.join("file"));
    write(&dir.join("mask-below-group"), "");
    chmod(&dir.join("mask-below-group"), 0o664);
    setfacl("u:12345:rwx,m::r", &dir.join("mask-below-group"));
    let inherits = dir.join("default");
    write(&inherits.join("file-without"), "");
    make(&inherits.join("dir-without"));
    mknod(&inherits.join("fifo-without"), FileType::Fifo, 0, 0);
    setfacl("u:12345:rwx,d:u:12345:rwx,d:g:54321:r-x,d:o::---", &inherits);
    write(&inherits.join("file-with"), "inherited");
    make(&inherits.join("dir-with"));
    mknod(&dir.join("fifo"), FileType::Fifo, 0, 0);
    setfacl("u:12345:rw", &dir.join("fifo"));
}

/// Names that are only bytes.
fn names(dir: &Path) {
    make(dir);
    let longest = [b'n'; 255];
    let names: &[&[u8]] = &[
        b" leading and trailing spaces ",
        b"new\nline",
        b"carriage\rreturn\ttab",
        b"esc\x1b[31mred\x1b[0m",
        b"latin1-caf\xe9",
        b"invalid-\xff\xfe\x80",
        b"c1-\x9b31m",
        "utf8-käse-チーズ".as_bytes(),
        &longest,
        b"-rf",
        b"--delete",
        b"*",
        b"?",
        b"[a-z]",
        b"{a,b}",
        b"**",
        b"!bang",
        b"#hash",
        b"trailing-dot.",
        b"...",
        b".hidden",
        b"back\\slash",
        b"single'quote",
        b"double\"quote",
        b"$(touch pwned)",
        b"`id`;|&<>",
        b"colon:name",
        b"host:/path",
        b"%s%n",
        b"\x01\x7f",
        b"a",
        b"a.b",
        b"a-b",
        b".clonetool-stage",
        b".~tmp~",
    ];
    for name in names {
        write(&dir.join(OsStr::from_bytes(name)), name);
        let below = dir.join("directories").join(OsStr::from_bytes(name));
        write(&below.join("file"), "");
        symlink(OsStr::from_bytes(name), below.join("link")).expect("symlink");
    }
}

/// A path longer than `PATH_MAX`, with entries at its end.
fn deep(dir: &Path) {
    make(dir);
    let top = Dir::open(dir);
    let mut here = Dir::open(dir);
    for level in 0..DEEP_LEVELS {
        let name = format!("{level:02}{}", "d".repeat(DEEP_NAME_BYTES - 2));
        here = here.make(OsStr::new(&name));
    }
    fs::write(here.at("bottom"), noise(40, 70_000)).expect("write at the bottom");
    set_xattr(&here.at("bottom"), "user.deep", b"down here");
    run("setfacl", [OsStr::new("-m"), OsStr::new("u:12345:r"), proc_path_of(&here, "bottom").as_os_str()]);
    symlink("bottom", here.at("link")).expect("symlink");
    mknod(&here.at("fifo"), FileType::Fifo, 0, 0);
    here.make(OsStr::new("last"));
    rustix::fs::linkat(&here, "bottom", &top, "also-at-the-top", AtFlags::empty()).expect("hard link");
    set_mtime(&here.at("."), 1_222_333_444, 555_666_777);
}

/// As [`Dir::at`], for another process to use.
fn proc_path_of(dir: &Dir, name: &str) -> std::path::PathBuf {
    use std::os::fd::{AsFd, AsRawFd};
    format!("/proc/{}/fd/{}/{name}", std::process::id(), dir.as_fd().as_raw_fd()).into()
}

/// One directory with many small files.
fn crowd(dir: &Path) {
    make(dir);
    for n in 0..CROWD {
        let path = dir.join(format!("{n:05}"));
        let mut file = File::create(&path).expect("create");
        write!(file, "small file {n}\n{}", "z".repeat(n % 97)).expect("write");
        set_mtime(&path, 1_600_000_000 + i64::try_from(n).expect("small"), 7);
    }
}

/// Inode flags.
fn flags(dir: &Path) {
    make(dir);
    for flag in ["i", "a", "d", "A", "S", "ia"] {
        let path = dir.join(format!("file+{flag}"));
        write(&path, format!("flag {flag}"));
        chown(&path, Some(33), Some(33)).expect("chown");
        set_mtime(&path, 1_500_000_000, 5);
        chattr(&format!("+{flag}"), &path);
    }
    for flag in ["i", "a", "d", "A", "S", "D", "T"] {
        let path = dir.join(format!("dir+{flag}"));
        // Made before the flag is set: a new child would inherit some of the flags.
        write(&path.join("below/child"), "child of a flagged directory");
        write(&path.join("plain"), "");
        chattr("+i", &path.join("plain"));
        chattr(&format!("+{flag}"), &path);
    }
    // An immutable name of a hard-link group.
    make(&dir.join("linked"));
    write(&dir.join("linked/one"), "immutable and linked");
    link(&dir.join("linked/one"), &dir.join("linked/two"));
    chattr("+i", &dir.join("linked/one"));
}

/// Modification times of every kind that has an own.
fn times(dir: &Path) {
    make(dir);
    let times = [
        ("past", PAST, 987_654_321),
        ("before-epoch", -1, 999_999_999),
        ("epoch", 0, 0),
        ("nanosecond", 1, 1),
        ("after-2038", 4_000_000_000, 123),
        ("far-future", FAR_FUTURE, 1),
    ];
    for (name, seconds, nanoseconds) in times {
        write(&dir.join(format!("file-{name}")), name);
        symlink(name, dir.join(format!("link-{name}"))).expect("symlink");
        mknod(&dir.join(format!("fifo-{name}")), FileType::Fifo, 0, 0);
        write(&dir.join(format!("dir-{name}/file")), "");
        for kind in ["file", "link", "fifo", "dir"] {
            set_mtime(&dir.join(format!("{kind}-{name}")), seconds, nanoseconds);
        }
    }
    set_mtime(dir, PAST, 1);
}

/// Changes a planted tree in every way that an update must follow.
pub(crate) fn mutate(root: &Path) {
    mutate_content(root);
    mutate_kinds(&root.join("kinds"));
    mutate_links(&root.join("links"));
    mutate_metadata(root);
    mutate_flags(&root.join("flags"));
    mutate_names(root);
}

fn edit(path: &Path, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("open for an edit");
    file.write_all_at(bytes, at).expect("edit");
}

fn mutate_content(root: &Path) {
    let kinds = root.join("kinds");
    edit(&kinds.join("3m"), 1_500_000, b"an edit in the middle");
    edit(&kinds.join("3m"), 4 << 20, b"growth behind a new hole");
    let shrunk = fs::OpenOptions::new().write(true).open(kinds.join("3m-and-a-bit")).expect("open");
    shrunk.set_len(1_000_003).expect("shrink");
    let mut inserted = noise(1, 64 << 10);
    inserted.splice(1_001..1_001, *b"inserted");
    write(&kinds.join("64k"), inserted);
    write(&kinds.join("one-byte"), "");
    write(&kinds.join("empty-file"), "no longer empty");
    let mut log = fs::OpenOptions::new().append(true).open(kinds.join("text")).expect("open");
    log.write_all(b"appended\n").expect("append");
    let holes = root.join("holes");
    edit(&holes.join("only-hole"), 500_000, b"data now");
    write(&holes.join("alternating"), noise(50, 64 * 8192));
    let punched = fs::OpenOptions::new().write(true).open(holes.join("in-middle")).expect("open");
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&punched, punch, 2 << 20, 256 << 10).expect("punch a hole");
    edit(&holes.join("huge"), 900 << 20, &noise(51, 4096));
    // The crowd: some changed, one in the middle gone, some new.
    let crowd = root.join("crowd");
    for n in (0..CROWD).step_by(100) {
        write(&crowd.join(format!("{n:05}")), format!("changed {n}"));
    }
    fs::remove_file(crowd.join("01501")).expect("remove");
    write(&crowd.join("00500-new"), "new");
}

fn mutate_kinds(dir: &Path) {
    let replace = |name: &str| {
        let path = dir.join(name);
        super::dir::remove_tree(&path);
        path
    };
    fs::create_dir(replace("dangling")).expect("symlink to directory");
    write(&dir.join("dangling/file"), "below what was a symlink");
    symlink("text", replace("directory")).expect("directory to symlink");
    mknod(&replace("to-directory"), FileType::Fifo, 0, 0);
    write(&replace("fifo"), "fifo to file");
    mknod(&replace("socket"), FileType::CharacterDevice, 1, 5);
    mknod(&replace("block"), FileType::BlockDevice, 7, 201);
    mknod(&replace("character"), FileType::BlockDevice, 1, 3);
    mknod(&replace("big-minor"), FileType::Socket, 0, 0);
    write(&replace("loop"), "symlink to file");
    symlink("elsewhere", replace("absolute")).expect("another target");
    symlink(OsStr::from_bytes(&[b'm'; 4095]), replace("long-target")).expect("another long target");
    lchown(dir.join("odd-target"), Some(1), Some(1)).expect("lchown");
}

fn mutate_links(dir: &Path) {
    // Taken out of its group; a member more; two groups regrouped; a group of symlinks broken up.
    fs::remove_file(dir.join("third")).expect("remove");
    write(&dir.join("third"), noise(10, 100_000));
    link(&dir.join("a/first"), &dir.join("b/fourth"));
    fs::remove_file(dir.join("b/pair2")).expect("remove");
    link(&dir.join("a/twin"), &dir.join("b/pair2"));
    fs::remove_file(dir.join("b/link")).expect("remove");
    symlink("target", dir.join("b/link")).expect("symlink");
    fs::remove_file(dir.join("b/fifo")).expect("remove");
    link(&dir.join("a/fifo"), &dir.join("b/c/fifo"));
    edit(&dir.join("b/c/sixteen-7"), 3, b"TEEN");
    fs::remove_file(dir.join("b/c/sixteen-9")).expect("remove");
}

fn mutate_metadata(root: &Path) {
    let modes = root.join("modes");
    chmod(&modes.join("file-0000"), 0o640);
    chmod(&modes.join("file-0777"), 0o000);
    chmod(&modes.join("dir-0777"), 0o000);
    chmod(&modes.join("dir-0300"), 0o1777);
    chown(modes.join("file-4755"), Some(5), None).expect("chown");
    chmod(&modes.join("file-4755"), 0o4755);
    chown(modes.join("dir-2755"), None, Some(6)).expect("chown");
    set_mtime(&modes.join("file-0444"), PAST, 3);
    set_mtime(&root.join("times/file-past"), 1_700_000_000, 1);
    set_mtime(&root.join("times/link-epoch"), FAR_FUTURE, 2);
    set_mtime(&root.join("times/dir-epoch"), -2, 2);
    let xattrs = root.join("xattrs");
    set_xattr(&xattrs.join("file"), "user.plain", b"changed");
    set_xattr(&xattrs.join("file"), "user.added", b"added");
    rustix::fs::removexattr(xattrs.join("file"), "trusted.secret").expect("remove an xattr");
    rustix::fs::removexattr(xattrs.join("directory"), "user.empty").expect("remove an xattr");
    set_xattr(&xattrs.join("link"), "trusted.on-a-link", b"changed");
    run("setcap", [OsStr::new("cap_chown+ep"), xattrs.join("capable").as_os_str()]);
    set_xattr(&xattrs.join("read-only"), "user.on-read-only", b"changed");
    let acls = root.join("acls");
    setfacl("u:12345:r,u:777:x", &acls.join("file"));
    run("setfacl", [OsStr::new("-b"), acls.join("fifo").as_os_str()]);
    run("setfacl", [OsStr::new("-k"), acls.join("default/dir-with").as_os_str()]);
    setfacl("d:u:777:r", &acls.join("default"));
}

fn mutate_flags(dir: &Path) {
    let change_below = |flag: &str, path: &Path, change: &dyn Fn(&Path)| {
        chattr(&format!("-{flag}"), path);
        change(path);
        chattr(&format!("+{flag}"), path);
    };
    change_below("i", &dir.join("file+i"), &|path| write(path, "immutable, and changed all the same"));
    change_below("a", &dir.join("file+a"), &|path| write(path, "shorter"));
    change_below("i", &dir.join("dir+i"), &|path| write(&path.join("new"), "in an immutable directory"));
    change_below("a", &dir.join("dir+a"), &|path| super::dir::remove_tree(&path.join("below")));
    chattr("-d", &dir.join("file+d"));
    chattr("+i", &dir.join("file+A"));
    chattr("-ia", &dir.join("file+ia"));
    chattr("+d", &dir.join("dir+T"));
    write(&dir.join("dir+S/below/child"), "changed");
    change_below("i", &dir.join("linked/one"), &|path| chmod(path, 0o600));
    // An immutable file and a directory with immutable content that an update must be able to delete.
    super::dir::remove_tree(&dir.join("dir+D"));
}

fn mutate_names(root: &Path) {
    let names = root.join("names");
    fs::rename(names.join("back\\slash"), names.join("renamed\\slash")).expect("rename");
    fs::rename(names.join("directories/..."), names.join("moved out")).expect("rename a directory");
    fs::remove_file(names.join("*")).expect("remove");
    write(&names.join("-rf"), "changed");
    let deep = root.join("deep");
    fs::rename(deep.join("also-at-the-top"), deep.join("renamed-at-the-top")).expect("rename");
    edit(&deep.join("renamed-at-the-top"), 1_000, b"seen at the bottom too");
}
