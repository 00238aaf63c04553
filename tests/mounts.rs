//! Filesystem boundaries: what is mounted on the standby is not touched, and `-x` stays on one filesystem.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::compare::{assert_equal, assert_untouched, snapshot_ctimes};
use crate::common::plant::{chmod, write};
use crate::common::{CLONETOOL, Workdir, clone_json, clonetool_by, dir, lacks, mount, run};

/// How many entries a directory has.
fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap_or_else(|e| panic!("list {}: {e}", dir.display())).count()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").permissions().mode() & 0o7777
}

/// A source and a copy of it that has, at `name`, something mounted which the source has not.
fn mounted_on_the_standby(work: &Workdir, mount_at: &dyn Fn(&Path)) -> (PathBuf, PathBuf, PathBuf) {
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("kept/file"), "kept");
    clone_json(&[], &source, &copy).expect_code(0);
    let mounted = copy.join("kept/mounted");
    mount_at(&mounted);
    write(&mounted.join("data/precious"), "on a filesystem of its own");
    chmod(&mounted, 0o751);
    (source, copy, mounted)
}

fn deletes_nothing_mounted(name: &str, options: &[&str], mount_at: &dyn Fn(&Workdir, &Path)) {
    let work = Workdir::new(name);
    let (source, copy, mounted) = mounted_on_the_standby(&work, &|path| mount_at(&work, path));
    write(&copy.join("extra"), "to be deleted");
    let before = snapshot_ctimes(&mounted);
    // The directory under the mount point cannot go: done, or done with that one problem.
    clone_json(options, &source, &copy).expect_one_of(&[0, 4]);
    assert_untouched(&before, &snapshot_ctimes(&mounted));
    assert!(!copy.join("extra").exists(), "the rest was not deleted");
    // The whole parent has gone from the source.
    fs::remove_dir_all(source.join("kept")).expect("remove");
    write(&source.join("other"), "the source is not empty");
    clone_json(options, &source, &copy).expect_one_of(&[0, 4]);
    assert_untouched(&before, &snapshot_ctimes(&mounted));
    assert!(!copy.join("kept/file").exists(), "the rest was not deleted");
    // Something else has come in its place.
    write(&source.join("kept"), "a file where the standby has a mount point below");
    clone_json(options, &source, &copy).expect_one_of(&[3, 4]);
    assert_untouched(&before, &snapshot_ctimes(&mounted));
}

#[test]
fn a_filesystem_mounted_on_the_standby_is_not_deleted_into() {
    deletes_nothing_mounted("mounts-tmpfs", &["--delete"], &|_, path| mount::tmpfs(path, "size=1m"));
}

#[test]
fn a_filesystem_mounted_on_the_standby_is_not_deleted_into_with_x() {
    deletes_nothing_mounted("mounts-tmpfs-x", &["--delete", "-x"], &|_, path| mount::tmpfs(path, "size=1m"));
}

/// A bind mount has the device number of its surroundings: only the mount id tells.
#[test]
fn a_bind_mount_on_the_standby_is_not_deleted_into() {
    deletes_nothing_mounted("mounts-bind", &["--delete", "-x"], &|work, path| {
        mount::bind(&work.make("elsewhere"), path);
    });
}

#[test]
fn a_filesystem_mounted_on_the_standby_is_not_written_into() {
    let work = Workdir::new("mounts-write");
    let (source, copy, mounted) = mounted_on_the_standby(&work, &|path| mount::tmpfs(path, "size=1m"));
    let before = snapshot_ctimes(&mounted);
    write(&source.join("kept/mounted/data/precious"), "the source has a plain directory there");
    write(&source.join("kept/mounted/new"), "new");
    write(&source.join("kept/beside"), "beside");
    let told = clone_json(&["-x", "--delete"], &source, &copy).expect_one_of(&[3, 4]);
    assert_untouched(&before, &snapshot_ctimes(&mounted));
    assert!(format!("{}{}", told.stdout, told.stderr).contains("kept/mounted"), "{}", told.describe());
}

#[test]
fn one_file_system_makes_mount_points_and_leaves_them_empty() {
    let work = Workdir::new("mounts-x");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("etc/file"), "file");
    mount::tmpfs(&source.join("tmp"), "size=1m,mode=1777");
    write(&source.join("tmp/file"), "not copied");
    mount::bind(&work.make("elsewhere"), &source.join("bound"));
    chmod(&source.join("bound"), 0o710);
    write(&source.join("bound/file"), "not copied either");
    // A link to another filesystem is a link.
    symlink("tmp", source.join("link-to-tmp")).expect("symlink");
    clone_json(&["-x"], &source, &copy).expect_code(0);
    assert_eq!((entries(&copy.join("tmp")), mode(&copy.join("tmp"))), (0, 0o1777));
    assert_eq!((entries(&copy.join("bound")), mode(&copy.join("bound"))), (0, 0o710));
    assert_eq!(fs::read_link(copy.join("link-to-tmp")).expect("read link"), Path::new("tmp"));
    assert_eq!(fs::read(copy.join("etc/file")).expect("read"), b"file");
    let copied = snapshot_ctimes(&copy);
    clone_json(&["-x", "--delete"], &source, &copy).expect_code(0).expect_no_changes();
    assert_untouched(&copied, &snapshot_ctimes(&copy));
}

#[test]
fn pseudo_filesystems_are_never_entered() {
    let work = Workdir::new("mounts-proc");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("file"), "file");
    fs::create_dir(source.join("proc")).expect("mkdir");
    run("mount", ["-t", "proc", "proc", source.join("proc").to_str().expect("a path")]);
    clone_json(&[], &source, &copy).expect_one_of(&[0, 3]);
    if copy.join("proc").exists() {
        assert_eq!(entries(&copy.join("proc")), 0);
    }
    clone_json(&["-x"], &source, &copy).expect_code(0);
    assert_eq!((entries(&copy.join("proc")), mode(&copy.join("proc"))), (0, 0o555));
}

#[test]
fn a_btrfs_subvolume_is_a_boundary() {
    if lacks("mounts::a_btrfs_subvolume_is_a_boundary", &["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let work = Workdir::new("mounts-btrfs");
    let (source, far) = (work.join("source"), work.join("far"));
    mount::loop_image(&work.join("source.img"), "btrfs", 256 << 20, &source);
    mount::loop_image(&work.join("far.img"), "btrfs", 256 << 20, &far);
    let subvolume = |path: &Path| {
        run("btrfs", [OsStr::new("subvolume"), OsStr::new("create"), path.as_os_str()]);
    };
    write(&source.join("etc/file"), "file");
    subvolume(&source.join("etc/sub"));
    write(&source.join("etc/sub/inside"), "in the subvolume");
    let copy = far.join("copy");
    fs::create_dir(&copy).expect("mkdir");
    clone_json(&["-x"], &source, &copy).expect_code(0);
    assert_eq!(fs::read(copy.join("etc/file")).expect("read"), b"file");
    assert!(copy.join("etc/sub").is_dir());
    assert_eq!(entries(&copy.join("etc/sub")), 0);
    // A subvolume on the standby that the source has not is another filesystem: nothing in it is deleted.
    subvolume(&copy.join("etc/own"));
    write(&copy.join("etc/own/inside"), "the standby's own");
    let before = snapshot_ctimes(&copy.join("etc/own"));
    clone_json(&["-x", "--delete"], &source, &copy).expect_one_of(&[0, 4]);
    assert_untouched(&before, &snapshot_ctimes(&copy.join("etc/own")));
    // The whole of one subvolume is a tree like any other.
    fs::create_dir(far.join("of-sub")).expect("mkdir");
    clone_json(&["-x"], &source.join("etc/sub"), &far.join("of-sub")).expect_code(0);
    assert_equal(&source.join("etc/sub"), &far.join("of-sub"));
}

/// A root with the program in it, in which `chroot` can run it: `/proc` and `/a` are mounted there.
fn small_root(work: &Workdir) -> PathBuf {
    let root = work.join("root");
    mount::loop_image(&work.join("root.img"), "ext4", 512 << 20, &root);
    fs::create_dir_all(root.join("usr/bin")).expect("mkdir");
    fs::copy(CLONETOOL, root.join("usr/bin/clonetool")).expect("copy the program");
    // Nothing is listed where the program is linked statically.
    let listed = Command::new("ldd").arg(CLONETOOL).output().expect("run ldd").stdout;
    let listed = String::from_utf8_lossy(&listed);
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(&library[1..]);
        fs::create_dir_all(to.parent().expect("a parent")).expect("mkdir");
        fs::copy(library, to).expect("copy a library");
    }
    write(&root.join("etc/hostname"), "production\n");
    fs::create_dir_all(root.join("proc")).expect("mkdir");
    run("mount", ["-t", "proc", "proc", root.join("proc").to_str().expect("a path")]);
    root
}

#[test]
fn the_running_root_is_cloned_onto_a_disk_mounted_below_it() {
    let work = Workdir::new("mounts-classic");
    let root = small_root(&work);
    mount::loop_image(&work.join("a.img"), "ext4", 512 << 20, &root.join("a"));
    dir::remove_tree(&root.join("a/lost+found"));
    let chroot = ["chroot", root.to_str().expect("a path")];
    let classic =
        || clonetool_by(&chroot, "/usr/bin/clonetool", ["clone", "--json", "-x", "--delete", "/", "/a"]);
    classic().expect_code(0);
    assert_eq!(fs::read(root.join("a/etc/hostname")).expect("read"), b"production\n");
    assert_eq!(entries(&root.join("a/a")), 0, "the walk went into the copy");
    assert_eq!(entries(&root.join("a/proc")), 0);
    assert_equal(&root.join("usr"), &root.join("a/usr"));
    classic().expect_code(0).expect_no_changes();
}

#[test]
fn the_running_root_is_not_emptied_by_one_letter() {
    let work = Workdir::new("mounts-letter");
    let root = small_root(&work);
    mount::tmpfs(&root.join("a"), "size=4m");
    write(&root.join("a/etc/hostname"), "production\n");
    (0..600).for_each(|number| write(&root.join(format!("srv/file-{number}")), "of this host\n"));
    let chroot = ["chroot", root.to_str().expect("a path")];
    let clone = |more: &[&str], to: &str| {
        let words = ["clone", "--json", "-x", "--delete", "/a", to];
        clonetool_by(&chroot, "/usr/bin/clonetool", words.iter().chain(more))
    };
    let refused = clone(&[], "/").expect_code(3);
    assert!(refused.stderr.contains("601 of 601 in /srv"), "{}", refused.describe());
    assert_eq!(entries(&root.join("srv")), 600);
    // A root that is only mounted here may be emptied: that is what a clone onto it does.
    fs::create_dir_all(root.join("b/srv")).expect("mkdir");
    (0..600).for_each(|number| write(&root.join(format!("b/srv/file-{number}")), "old\n"));
    clone(&[], "/b").expect_code(0);
    assert!(!root.join("b/srv").exists());
    // And so may this one by who has read the plan.
    let planned =
        clone(&["-n", "--exclude", "/usr/", "--exclude", "/lib*", "--exclude", "/b/"], "/").expect_code(0);
    let id = planned.summary()["plan"].as_str().expect("a plan").to_owned();
    let excluded = ["--exclude", "/usr/", "--exclude", "/lib*", "--exclude", "/b/", "--approve"];
    clone(&[&excluded[..], &["0123456789abcdef"]].concat(), "/").expect_code(3).expect_stderr("was approved");
    clone(&[&excluded[..], &[&id]].concat(), "/").expect_code(0);
    assert!(!root.join("srv").exists());
}

#[test]
fn the_running_root_is_not_cloned_into_a_directory_of_itself() {
    let work = Workdir::new("mounts-itself");
    let root = small_root(&work);
    let chroot = ["chroot", root.to_str().expect("a path")];
    fs::create_dir(root.join("a")).expect("mkdir");
    let before = snapshot_ctimes(&root.join("etc"));
    clonetool_by(&chroot, "/usr/bin/clonetool", ["clone", "-x", "/", "/a"]).expect_code(3);
    assert!(!root.join("a/etc").exists());
    assert_untouched(&before, &snapshot_ctimes(&root.join("etc")));
}
