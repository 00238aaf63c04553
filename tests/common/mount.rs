//! Filesystems for the tests that need their own; [`Workdir`](super::Workdir) unmounts them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::run;

/// Mounts a tmpfs at `at`, which is made.
pub(crate) fn tmpfs(at: &Path, options: &str) {
    fs::create_dir_all(at).expect("make the mount point");
    run("mount", ["-t", "tmpfs", "-o", options, "tmpfs", text(at)]);
}

/// Makes a filesystem in the file `image` and mounts it at `at`, which is made.
pub(crate) fn loop_image(image: &Path, kind: &str, size_bytes: u64, at: &Path) {
    File::create(image).expect("create the image").set_len(size_bytes).expect("set its size");
    run(&format!("mkfs.{kind}"), ["-q", text(image)]);
    fs::create_dir_all(at).expect("make the mount point");
    run("mount", ["-o", "loop", "-t", kind, text(image), text(at)]);
}

/// Mounts the directory `from` at `at` too.
pub(crate) fn bind(from: &Path, at: &Path) {
    fs::create_dir_all(at).expect("make the mount point");
    run("mount", ["--bind", text(from), text(at)]);
}

/// Mounts again with other options.
pub(crate) fn remount(at: &Path, options: &str) {
    run("mount", ["-o", &format!("remount,{options}"), text(at)]);
}

/// Unmounts what is mounted at `at`.
pub(crate) fn unmount(at: &Path) {
    // A test beside this one may start a program just now: until its exec(2) that holds what this process has open.
    for _ in 0..200 {
        if Command::new("umount").arg(at).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        {
            return;
        }
    }
    run("umount", [at]);
}

/// Unmounts everything that is mounted below `root`, last mounted first.
pub(crate) fn unmount_below(root: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let below: Vec<_> = points.filter(|point| point.starts_with(root)).collect();
    for point in below.into_iter().rev() {
        let plain = Command::new("umount").arg("-q").arg(&point).status();
        if !plain.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&point).status();
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("work directories have plain names")
}
