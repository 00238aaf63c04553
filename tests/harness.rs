//! The measure measured: the planter plants what it says, and the comparer finds every difference and no other.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::FileType;

use crate::common::compare::{
    What, assert_equal, assert_none, assert_untouched, compare, snapshot_ctimes, snapshot_inodes,
};
use crate::common::plant::{chattr, chmod, mknod, mutate, noise, plant, set_mtime, set_xattr, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{Workdir, debian, dir, rsync, run};

/// A small tree with one entry for each mutation of the next test.
fn small(root: &Path) {
    write(&root.join("file"), noise(1, 200_000));
    write(&root.join("other"), "other");
    write(&root.join("dir/inside"), "inside");
    fs::hard_link(root.join("other"), root.join("dir/other")).expect("link");
    symlink("target", root.join("link")).expect("symlink");
    mknod(&root.join("device"), FileType::CharacterDevice, 1, 3);
    fs::File::create(root.join("sparse")).expect("create").set_len(1 << 20).expect("length");
    set_xattr(&root.join("file"), "user.plain", b"value");
    for (path, seconds) in [("file", 1), ("other", 2), ("link", 3), ("device", 4), ("sparse", 5), ("dir", 6)]
    {
        set_mtime(&root.join(path), seconds, 7);
    }
    set_mtime(&root.join("dir/inside"), 8, 7);
    set_mtime(root, 9, 7);
}

#[test]
fn the_comparer_finds_each_difference_and_no_other() {
    type Mutation = (&'static str, What, fn(&Path));
    let mutations: &[Mutation] = &[
        ("new", What::Presence, |root| write(&root.join("new"), "")),
        ("file", What::Mode, |root| chmod(&root.join("file"), 0o4644)),
        ("dir", What::Mode, |root| chmod(&root.join("dir"), 0o1755)),
        ("file", What::Owner, |root| chown(root.join("file"), Some(1), None).expect("chown")),
        ("link", What::Owner, |root| {
            std::os::unix::fs::lchown(root.join("link"), None, Some(1)).expect("lchown");
        }),
        ("link", What::Mtime, |root| set_mtime(&root.join("link"), 3, 8)),
        ("", What::Mtime, |root| set_mtime(root, 9, 8)),
        ("file", What::Size, |root| {
            fs::OpenOptions::new()
                .append(true)
                .open(root.join("file"))
                .expect("open")
                .set_len(200_001)
                .expect("grow");
        }),
        ("file", What::Content, |root| {
            let mut bytes = noise(1, 200_000);
            bytes[123_456] ^= 1;
            write(&root.join("file"), bytes);
        }),
        ("link", What::Target, |root| {
            fs::remove_file(root.join("link")).expect("remove");
            symlink("elsewhere", root.join("link")).expect("symlink");
        }),
        ("link", What::Kind, |root| {
            fs::remove_file(root.join("link")).expect("remove");
            write(&root.join("link"), "");
        }),
        ("device", What::Device, |root| {
            fs::remove_file(root.join("device")).expect("remove");
            mknod(&root.join("device"), FileType::CharacterDevice, 1, 5);
        }),
        ("device", What::Kind, |root| {
            fs::remove_file(root.join("device")).expect("remove");
            mknod(&root.join("device"), FileType::BlockDevice, 1, 3);
        }),
        ("file", What::Xattr, |root| set_xattr(&root.join("file"), "user.plain", b"other")),
        ("link", What::Xattr, |root| set_xattr(&root.join("link"), "trusted.new", b"")),
        ("file", What::Acl, |root| {
            run("setfacl", [OsStr::new("-m"), OsStr::new("u:1:r,m::r"), root.join("file").as_os_str()]);
        }),
        ("dir", What::Acl, |root| {
            run("setfacl", [OsStr::new("-m"), OsStr::new("d:u:1:r"), root.join("dir").as_os_str()]);
        }),
        ("file", What::Capability, |root| {
            run("setcap", [OsStr::new("cap_chown+ep"), root.join("file").as_os_str()]);
        }),
        ("file", What::Flags, |root| chattr("+i", &root.join("file"))),
        ("dir", What::Flags, |root| chattr("+a", &root.join("dir"))),
        ("other", What::Links, |root| {
            fs::remove_file(root.join("dir/other")).expect("remove");
            write(&root.join("dir/other"), "other");
            set_mtime(&root.join("dir/other"), 2, 7);
        }),
        ("sparse", What::Holes, |root| write(&root.join("sparse"), vec![0_u8; 1 << 20])),
    ];
    let work = Workdir::new("comparer");
    let left = work.make("left");
    small(&left);
    for (n, (path, what, mutate)) in mutations.iter().enumerate() {
        let right = work.join(format!("right-{n}"));
        run("cp", [OsStr::new("-a"), OsStr::new("--sparse=always"), left.as_os_str(), right.as_os_str()]);
        assert_equal(&left, &right);
        mutate(&right);
        let found = compare(&left, &right);
        let hit = found.iter().any(|d| d.path == path.as_bytes() && d.what == *what);
        assert!(hit, "{what:?} of {path:?} was not found, only {found:?}");
        // Times follow from some of the mutations, and one link group has two names; nothing else may differ.
        let related =
            |d: &&crate::common::compare::Difference| d.what != What::Mtime && d.what != What::Links;
        let others: Vec<_> = found.iter().filter(related).filter(|d| d.path != path.as_bytes()).collect();
        assert!(others.is_empty(), "{what:?} of {path:?}: also found {others:?}");
    }
}

#[test]
fn rsync_copies_the_planted_tree_but_for_its_known_limits() {
    let work = Workdir::new("rsync-planted");
    let (left, right) = (work.join("left"), work.join("right"));
    plant(&left);
    rsync(&left, &right);
    let unexplained: Vec<_> =
        compare(&left, &right).into_iter().filter(|d| crate::common::rsync_limit(d).is_none()).collect();
    assert_none(&unexplained);
}

#[test]
fn rsync_copies_a_debian_root_but_for_its_known_limits() {
    let work = Workdir::new("rsync-debian");
    let (left, right) = (work.join("left"), work.join("right"));
    debian::copy_to(&left);
    assert!(snapshot_inodes(&left).len() >= debian::ENTRIES);
    rsync(&left, &right);
    let unexplained: Vec<_> =
        compare(&left, &right).into_iter().filter(|d| crate::common::rsync_limit(d).is_none()).collect();
    assert_none(&unexplained);
}

#[test]
fn a_mutation_of_the_planted_tree_touches_every_attribute() {
    let work = Workdir::new("mutation");
    let (left, right) = (work.join("left"), work.join("right"));
    plant(&left);
    plant(&right);
    // Two plantings differ in the times that nobody set, and in nothing else.
    let found: Vec<_> = compare(&left, &right).into_iter().filter(|d| d.what != What::Mtime).collect();
    assert_none(&found);
    mutate(&right);
    let found = compare(&left, &right);
    for what in [
        What::Presence,
        What::Kind,
        What::Mode,
        What::Owner,
        What::Size,
        What::Mtime,
        What::Target,
        What::Device,
        What::Xattr,
        What::Acl,
        What::Capability,
        What::Flags,
        What::Links,
        What::Holes,
        What::Content,
    ] {
        assert!(found.iter().any(|d| d.what == what), "no mutation of {what:?}");
    }
}

#[test]
fn snapshots_see_a_touch_that_changes_nothing() {
    let work = Workdir::new("snapshot");
    let root = work.make("root");
    small(&root);
    let (inodes, ctimes) = (snapshot_inodes(&root), snapshot_ctimes(&root));
    assert!(ctimes.contains_key(&b"dir/inside"[..]) && ctimes.contains_key(&b""[..]));
    compare(&root, &root);
    assert_untouched(&ctimes, &snapshot_ctimes(&root));
    chmod(&root.join("dir/inside"), 0o644);
    assert_untouched(&inodes, &snapshot_inodes(&root));
    let after = snapshot_ctimes(&root);
    let touched: Vec<_> = ctimes.iter().filter(|(path, identity)| after[*path] != **identity).collect();
    assert_eq!(touched.len(), 1, "{touched:?}");
}

#[test]
fn the_server_accepts_its_key_and_forces_its_command() {
    let work = Workdir::new("sshd");
    let ssh = |server: &Sshd| {
        let rsh = server.rsh();
        let words: Vec<_> = rsh.split(' ').collect();
        let output = Command::new(words[0]).args(&words[1..]).args(["root@127.0.0.1", "echo asked"]).output();
        String::from_utf8_lossy(&output.expect("run ssh").stdout).into_owned()
    };
    let open = Sshd::start(&work.join("open"), &SshdOptions::default());
    assert_eq!(ssh(&open), "asked\n");
    let options = SshdOptions { forced_command: Some("echo forced".to_owned()) };
    let forced = Sshd::start(&work.join("forced"), &options);
    assert_eq!(ssh(&forced), "forced\n");
    assert!(open.fingerprint(false).starts_with("SHA256:"));
    assert_ne!(open.fingerprint(false), open.fingerprint(true));
    // rsync over it, as the stand-in for the program under test.
    let source = work.make("source");
    small(&source);
    let copy = work.join("copy");
    let mut from = source.as_os_str().to_owned();
    from.push("/");
    let to = open.remote(&copy);
    run("rsync", [OsStr::new("-aHAXS"), OsStr::new("-e"), OsStr::new(&open.rsh()), from.as_os_str(), &to]);
    assert_equal(&source, &copy);
    let port = open.port();
    drop(open);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "the server outlives its guard");
}

#[test]
fn a_work_directory_leaves_nothing_behind() {
    let path = {
        let work = Workdir::new("leftovers");
        plant(&work.join("planted"));
        crate::common::mount::tmpfs(&work.join("mounted/here"), "size=1m");
        write(&work.join("mounted/here/file"), "on the tmpfs");
        work.path().to_owned()
    };
    assert!(!path.exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(path.to_str().expect("a path")));
    dir::remove_tree(&path);
}
