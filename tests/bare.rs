//! What is known to bear no extended attributes is not asked again, and one that is set is missed by no run.

use std::fs;
use std::path::Path;

use syncore::monitor::Silent;
use syncore::session::{self, Approval, Job, Location, Options, Report};

use crate::common::compare::assert_equal;
use crate::common::plant::{set_xattr, write};
use crate::common::{Workdir, mount, run, skip};

/// More than a list is worth the trouble for.
const FILES: usize = 10_200;
const FILES_PER_DIRECTORY: usize = 200;
/// How many runs may pass until the last change is settled: a run takes a tenth of a second, and that two.
const RUNS_UNTIL_SETTLED: usize = 200;

/// A source and a copy of it on a filesystem of their own.
struct Pair {
    work: Workdir,
}

impl Pair {
    fn new(kind: &str) -> Self {
        let pair = Self { work: Workdir::new(&format!("bare-{kind}")) };
        let kind = kind.split('-').next().expect("a filesystem");
        mount::loop_image(&pair.work.join("image"), kind, 320 << 20, &pair.work.join("mounted"));
        fs::create_dir_all(pair.copy()).expect("make the copy");
        for number in 0..FILES {
            let (directory, file) = (number / FILES_PER_DIRECTORY, number % FILES_PER_DIRECTORY);
            write(&pair.source().join(format!("{directory}/{file}")), "");
        }
        pair
    }

    fn source(&self) -> std::path::PathBuf {
        self.work.join("mounted/source")
    }

    fn copy(&self) -> std::path::PathBuf {
        self.work.join("mounted/copy")
    }

    fn lists(&self) -> usize {
        fs::read_dir(self.work.join("scans")).map_or(0, Iterator::count)
    }

    fn run(&self, options: Options) -> Report {
        self.run_with(Options { scans: Some(self.work.join("scans")), ..options })
    }

    fn run_with(&self, options: Options) -> Report {
        let job = Job {
            source: Location::Local(self.source()),
            destination: Location::Local(self.copy()),
            rules: Vec::new(),
            options: Options { durable: false, ..options },
        };
        let report = session::run(&job, &mut |_| Approval::Run, &Silent).expect("a run");
        assert_eq!(report.problems, []);
        report
    }

    /// Runs until both trees are known.
    fn learn(&self) {
        let learnt = (0..RUNS_UNTIL_SETTLED).any(|_| {
            self.run(Options::default());
            self.lists() == 2
        });
        assert!(learnt, "no list was kept");
    }
}

/// Whether this kernel tells no mount from a later one (`STATX_MNT_ID_UNIQUE`), or serves files, and `test` is skipped for it.
pub(crate) fn nothing_can_be_known(test: &str) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0_u32));
    let old = (numbers.next(), numbers.next()) < (Some(6), Some(8));
    let serves = ["nfsd", "ksmbd"].iter().any(|module| Path::new("/sys/module").join(module).exists());
    if old || serves {
        skip(test, "the kernel is older than 6.8, or has a file server in it");
    }
    old || serves
}

fn an_attribute_set_later_is_carried(kind: &str) {
    let pair = Pair::new(kind);
    pair.learn();
    let file = |root: &Path, name: &str| root.join(name);
    set_xattr(&file(&pair.source(), "3/17"), "user.later", b"1");
    run("setfacl", ["-m", "u:12345:r", file(&pair.source(), "7/0").to_str().expect("a path")]);
    set_xattr(&file(&pair.source(), "9"), "user.directory", b"2");
    set_xattr(&file(&pair.copy(), "11/199"), "user.here", b"3");
    let report = pair.run(Options::default());
    assert_eq!(report.totals.metadata_only, 4, "{kind}: {:?}", report.totals);
    assert_equal(&pair.source(), &pair.copy());
    // And goes again.
    rustix::fs::lremovexattr(file(&pair.source(), "3/17"), "user.later").expect("remove");
    assert_eq!(pair.run(Options::default()).totals.metadata_only, 1, "{kind}");
    assert_equal(&pair.source(), &pair.copy());
    assert!(pair.run(Options::default()).plan.is_none(), "{kind}: changes for ever");
}

#[test]
fn an_attribute_set_later_is_carried_on_ext4() {
    if !nothing_can_be_known("bare::an_attribute_set_later_is_carried_on_ext4") {
        an_attribute_set_later_is_carried("ext4-later");
    }
}

#[test]
fn an_attribute_set_later_is_carried_on_xfs() {
    if !nothing_can_be_known("bare::an_attribute_set_later_is_carried_on_xfs") {
        an_attribute_set_later_is_carried("xfs-later");
    }
}

/// debugfs(8) sets no change time, but what it writes to is mounted again.
#[test]
fn what_was_known_of_a_mount_is_not_believed_of_the_next_one() {
    if nothing_can_be_known("bare::what_was_known_of_a_mount_is_not_believed_of_the_next_one") {
        return;
    }
    let pair = Pair::new("ext4-behind");
    pair.learn();
    let mounted = pair.work.join("mounted");
    run("sync", ["-f", mounted.to_str().expect("a path")]);
    mount::unmount(&mounted);
    // The mount may live on in a namespace that a test beside this one has just made: a copy of the image has no other user.
    let image = pair.work.join("copied-image");
    fs::copy(pair.work.join("image"), &image).expect("copy the image");
    let image = image.to_str().expect("a path");
    run("sh", ["-c", "e2fsck -fy \"$0\" || test $? = 1", image]);
    run("debugfs", ["-w", "-R", "ea_set /source/3/17 user.behind 1", image]);
    run("mount", ["-o", "loop", image, mounted.to_str().expect("a path")]);
    let set = rustix::fs::lgetxattr(pair.source().join("3/17"), "user.behind", &mut [0; 8]);
    assert_eq!(set, Ok(1), "debugfs did not set it");
    assert_eq!(pair.run(Options::default()).totals.metadata_only, 1);
    assert_equal(&pair.source(), &pair.copy());
}

#[test]
fn a_run_that_compares_content_drops_what_is_known() {
    if nothing_can_be_known("bare::a_run_that_compares_content_drops_what_is_known") {
        return;
    }
    let pair = Pair::new("ext4-dropped");
    pair.learn();
    pair.run(Options { dry_run: true, checksum: true, ..Options::default() });
    assert_eq!(pair.lists(), 2, "a dry run keeps nothing and drops nothing");
    pair.run(Options { checksum: true, ..Options::default() });
    assert_eq!(pair.lists(), 0);
}

/// tmpfs did not always set a change time, and btrfs has snapshots within a mount.
#[test]
fn a_filesystem_that_does_not_tell_is_asked() {
    let (tmpfs, btrfs) = (Pair { work: Workdir::new("bare-tmpfs") }, Pair::new("btrfs"));
    mount::tmpfs(&tmpfs.work.join("mounted"), "size=64m");
    fs::create_dir_all(tmpfs.copy()).expect("make the copy");
    for number in 0..FILES {
        write(&tmpfs.source().join(number.to_string()), "");
    }
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < 4 {
        tmpfs.run(Options::default());
        btrfs.run(Options::default());
    }
    assert_eq!((tmpfs.lists(), btrfs.lists()), (0, 0));
}

/// The lists are in the tree that is copied, as in one of `/` or `/var`.
#[test]
fn what_is_kept_of_scans_is_neither_copied_nor_deleted_nor_changed_for_ever() {
    let test = "bare::what_is_kept_of_scans_is_neither_copied_nor_deleted_nor_changed_for_ever";
    if nothing_can_be_known(test) {
        return;
    }
    let pair = Pair { work: Workdir::new("bare-own") };
    mount::loop_image(&pair.work.join("image"), "ext4", 320 << 20, &pair.work.join("mounted"));
    fs::create_dir_all(pair.copy()).expect("make the copy");
    for number in 0..FILES {
        write(&pair.source().join(number.to_string()), "");
    }
    write(&pair.source().join("lib/state/beside"), "like any other");
    let scans = pair.source().join("lib/state/scans");
    let options = || Options { delete: true, scans: Some(scans.clone()), ..Options::default() };
    let lists = || fs::read_dir(&scans).map_or(0, Iterator::count);
    let mut quiet = 0;
    for _ in 0..RUNS_UNTIL_SETTLED {
        let report = pair.run_with(options());
        quiet = if report.plan.is_none() && lists() == 2 { quiet + 1 } else { 0 };
        if quiet == 3 {
            break;
        }
    }
    assert_eq!(quiet, 3, "each run changes what the next one finds");
    assert!(pair.copy().join("lib/state/beside").exists() && !pair.copy().join("lib/state/scans").exists());
    // Nor does the way back delete it.
    let back = Job {
        source: Location::Local(pair.copy()),
        destination: Location::Local(pair.source()),
        rules: Vec::new(),
        options: options(),
    };
    session::run(&back, &mut |_| Approval::Run, &Silent).expect("a run");
    assert!(lists() >= 2, "the lists were deleted");
}

#[test]
fn a_dry_run_keeps_nothing() {
    let pair = Pair::new("ext4-dry");
    pair.run(Options::default());
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < 4 {
        pair.run(Options { dry_run: true, ..Options::default() });
    }
    assert_eq!(pair.lists(), 0);
}

/// On XFS an exchange sets the change time of neither file.
#[test]
fn a_file_that_took_the_place_of_another_is_asked() {
    if nothing_can_be_known("bare::a_file_that_took_the_place_of_another_is_asked") {
        return;
    }
    let pair = Pair::new("xfs");
    set_xattr(&pair.source().join("3/17"), "user.one", b"1");
    pair.learn();
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        pair.source().join("3/17"),
        rustix::fs::CWD,
        pair.source().join("5/9"),
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .expect("exchange");
    pair.run(Options::default());
    assert_equal(&pair.source(), &pair.copy());
}
