//! Runs between two local trees that once went wrong, or could.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::IFlags;
use syncore::monitor::{Monitor, Phase, Silent};
use syncore::plan::{Item, Plan};
use syncore::rules::{Action, Origin, Rule};
use syncore::session::{Approval, Job, Location, Options, Report, run};

/// A source and a standby, on a filesystem that knows inode flags.
struct Pair(tempfile::TempDir);

impl Drop for Pair {
    fn drop(&mut self) {
        // What is immutable cannot be removed.
        for entry in walkdir::WalkDir::new(self.0.path()).into_iter().flatten() {
            if entry.file_type().is_file() {
                set_immutable(entry.path(), false);
            }
        }
    }
}

impl Pair {
    fn new() -> Self {
        let pair = Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        fs::create_dir(pair.source("")).unwrap();
        fs::create_dir(pair.standby("")).unwrap();
        pair
    }

    fn source(&self, name: &str) -> PathBuf {
        self.0.path().join("source").join(name)
    }

    fn standby(&self, name: &str) -> PathBuf {
        self.0.path().join("standby").join(name)
    }

    /// Runs with `--delete`; gives the plan and the report.
    fn run(&self, rules: Vec<Rule>, monitor: &dyn Monitor) -> (Vec<Item>, Report) {
        let job = Job {
            source: Location::Local(self.source("")),
            destination: Location::Local(self.standby("")),
            rules,
            options: Options { delete: true, durable: false, ..Options::default() },
        };
        let mut items = Vec::new();
        let mut approve = |plan: &Plan| {
            items = plan.items().collect();
            Approval::Run
        };
        let report = run(&job, &mut approve, monitor).expect("the run as a whole goes on");
        (items, report)
    }

    /// One run does what there is to do, without problems.
    #[track_caller]
    fn sync(&self) -> Vec<Item> {
        let (items, report) = self.run(Vec::new(), &Silent);
        assert_eq!(report.problems, []);
        items
    }

    /// There is nothing left to do.
    #[track_caller]
    fn settled(&self) {
        let items = self.sync();
        assert!(items.is_empty(), "a second run has something to do: {items:?}");
    }
}

fn write(path: &Path, content: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set_mtime(path, 1_000_000_000);
}

fn set_mtime(path: &Path, seconds: u64) {
    fs::File::open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

/// By the system call: a command started here would hold the locks of runs beside it for a moment.
fn set_immutable(path: &Path, immutable: bool) {
    let file = fs::File::open(path).unwrap();
    let flags = rustix::fs::ioctl_getflags(&file).unwrap();
    if flags.contains(IFlags::IMMUTABLE) != immutable {
        rustix::fs::ioctl_setflags(&file, flags ^ IFlags::IMMUTABLE).unwrap();
    }
}

fn is_immutable(path: &Path) -> bool {
    let file = fs::File::open(path).unwrap();
    rustix::fs::ioctl_getflags(&file).unwrap().contains(IFlags::IMMUTABLE)
}

fn rule(action: Action, pattern: &str) -> Rule {
    let origin = Origin { file: "test".to_owned(), line: 1 };
    Rule::new(action, pattern, origin)
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Does something once, between the scan and the comparison.
struct BeforeComparing<F>(Mutex<Option<F>>);

impl<F: FnOnce() + Send> BeforeComparing<F> {
    fn new(happening: F) -> Self {
        Self(Mutex::new(Some(happening)))
    }

    fn happened(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }
}

impl<F: FnOnce() + Send> Monitor for BeforeComparing<F> {
    fn phase(&self, phase: Phase) {
        if phase == Phase::Compare
            && let Some(happening) = self.0.lock().unwrap().take()
        {
            happening();
        }
    }
}

/// Inode numbers and change times of everything below `root`.
fn identities(root: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let entries = walkdir::WalkDir::new(root).into_iter().map(|entry| {
        let metadata = entry.as_ref().unwrap().path().symlink_metadata().unwrap();
        (entry.unwrap().into_path(), (metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
    });
    entries.collect()
}

/// How many names a directory has: few, and so many that it is compared by parts.
const SIZES: [usize; 6] = [1, 47, 48, 49, 200, 1000];

/// A pair in sync with `names` names in `directory`.
fn crowded(directory: &str, names: usize) -> Pair {
    let pair = Pair::new();
    write(&pair.source("anchor/file"), "the source is not empty", 0o644);
    for number in 0..names {
        write(&pair.source(directory).join(format!("name-{number:04}")), "x", 0o644);
    }
    assert!(!pair.sync().is_empty());
    pair.settled();
    pair
}

/// Asserts that a run with `happening` between scan and comparison plans hardly anything.
#[track_caller]
fn assert_almost_nothing(pair: &Pair, what: &str, happening: impl FnOnce() + Send) {
    let before = identities(&pair.standby(""));
    let hook = BeforeComparing::new(happening);
    let (items, report) = pair.run(Vec::new(), &hook);
    assert!(hook.happened(), "{what}: nothing was compared");
    let shown: Vec<_> =
        items.iter().take(5).map(|item| format!("{} {}", item.itemize(), item.path)).collect();
    assert!(items.len() <= 2, "{what}: {} items: {shown:?}", items.len());
    assert_eq!((report.totals.created, report.totals.deleted), (0, 0), "{what}: {shown:?}");
    assert_eq!(report.problems, [], "{what}");
    let after = identities(&pair.standby(""));
    let inodes = |all: &BTreeMap<PathBuf, (u64, i64, i64)>| -> Vec<_> {
        all.iter().map(|(path, identity)| (path.clone(), identity.0)).collect()
    };
    assert_eq!(inodes(&after), inodes(&before), "{what}");
    pair.sync();
    pair.settled();
}

#[test]
fn a_difference_that_vanishes_before_it_is_looked_at_leaves_nothing_to_do() {
    for directory in ["crowd", ""] {
        for names in SIZES {
            let pair = crowded(directory, names);
            let extra = pair.source(directory).join("name-extra");
            write(&extra, "not there for long", 0o644);
            assert_almost_nothing(&pair, &format!("extra in /{directory} of {names}"), || {
                fs::remove_file(&extra).unwrap();
            });
        }
    }
}

#[test]
fn a_difference_in_metadata_that_vanishes_leaves_nothing_to_do() {
    for directory in ["crowd", ""] {
        for names in SIZES {
            let pair = crowded(directory, names);
            let name = pair.source(directory).join("name-0000");
            fs::set_permissions(&name, fs::Permissions::from_mode(0o600)).unwrap();
            assert_almost_nothing(&pair, &format!("mode in /{directory} of {names}"), || {
                fs::set_permissions(&name, fs::Permissions::from_mode(0o644)).unwrap();
            });
        }
    }
}

#[test]
fn a_name_that_comes_back_before_it_is_looked_at_is_not_deleted() {
    for directory in ["crowd", ""] {
        for names in SIZES {
            let pair = crowded(directory, names);
            let (name, aside) = (pair.source(directory).join("name-0000"), pair.0.path().join("aside"));
            fs::rename(&name, &aside).unwrap();
            assert_almost_nothing(&pair, &format!("back in /{directory} of {names}"), || {
                fs::rename(&aside, &name).unwrap();
            });
        }
    }
}

/// A directory that shrinks below the number from which it is compared by parts.
#[test]
fn a_crowd_that_shrinks_before_it_is_looked_at_is_followed() {
    let pair = crowded("crowd", 60);
    let extra = pair.source("crowd/name-extra");
    write(&extra, "not there for long", 0o644);
    let gone: Vec<_> = (20..60).map(|number| pair.source(&format!("crowd/name-{number:04}"))).collect();
    let hook = BeforeComparing::new(|| {
        gone.iter().chain([&extra]).for_each(|path| fs::remove_file(path).unwrap());
    });
    let (items, report) = pair.run(Vec::new(), &hook);
    assert_eq!(report.problems, []);
    assert_eq!(report.totals.created, 0, "{} items", items.len());
    for number in 0..20 {
        assert!(pair.standby(&format!("crowd/name-{number:04}")).exists());
    }
    pair.sync();
    pair.settled();
    assert_eq!(fs::read_dir(pair.standby("crowd")).unwrap().count(), 20);
}

/// One inode under all of `names`, with `mode`.
#[track_caller]
fn assert_one(pair: &Pair, names: &[&str], expected_mode: u32) {
    let inodes: Vec<_> = names.iter().map(|name| inode(&pair.standby(name))).collect();
    assert!(inodes.iter().all(|one| *one == inodes[0]), "{names:?}: {inodes:?}");
    for name in names {
        assert_eq!(mode(&pair.standby(name)), expected_mode, "{name}");
    }
}

#[test]
fn a_hard_link_group_that_grows_is_settled_by_one_run() {
    // Which name of the group was not linked, and how its mode and that of the others were.
    for lone in ["a", "b", "c"] {
        for (linked_mode, lone_mode) in [(0o644, 0o644), (0o644, 0o600), (0o600, 0o644), (0o600, 0o600)] {
            let pair = Pair::new();
            write(&pair.source("a"), "content", 0o600);
            for name in ["b", "c"] {
                fs::hard_link(pair.source("a"), pair.source(name)).unwrap();
            }
            let linked: Vec<_> = ["a", "b", "c"].into_iter().filter(|name| *name != lone).collect();
            write(&pair.standby(linked[0]), "content", linked_mode);
            fs::hard_link(pair.standby(linked[0]), pair.standby(linked[1])).unwrap();
            write(&pair.standby(lone), "content", lone_mode);
            pair.sync();
            assert_one(&pair, &["a", "b", "c"], 0o600);
            pair.settled();
        }
    }
}

#[test]
fn a_hard_link_group_gets_a_new_name_and_another_mode_in_one_run() {
    let pair = Pair::new();
    write(&pair.source("b"), "content", 0o600);
    for name in ["a", "c", "d"] {
        fs::hard_link(pair.source("b"), pair.source(name)).unwrap();
    }
    write(&pair.standby("b"), "content", 0o644);
    fs::hard_link(pair.standby("b"), pair.standby("d")).unwrap();
    pair.sync();
    assert_one(&pair, &["a", "b", "c", "d"], 0o600);
    pair.settled();
}

/// Two groups on the standby that are one on the source.
#[test]
fn two_hard_link_groups_become_one_in_one_run() {
    for (first, second) in [(0o600, 0o600), (0o644, 0o600), (0o600, 0o644), (0o644, 0o640)] {
        let pair = Pair::new();
        write(&pair.source("a"), "content", 0o600);
        for name in ["b", "c", "d"] {
            fs::hard_link(pair.source("a"), pair.source(name)).unwrap();
        }
        write(&pair.standby("a"), "content", first);
        fs::hard_link(pair.standby("a"), pair.standby("c")).unwrap();
        write(&pair.standby("b"), "content", second);
        fs::hard_link(pair.standby("b"), pair.standby("d")).unwrap();
        pair.sync();
        assert_one(&pair, &["a", "b", "c", "d"], 0o600);
        pair.settled();
    }
}

#[test]
fn an_immutable_file_gets_another_name_and_stays_immutable() {
    for there in ["a", "b"] {
        for (immutable_there, old_mode) in [(false, 0o600), (true, 0o600), (true, 0o644)] {
            let pair = Pair::new();
            write(&pair.source("a"), "content", 0o600);
            fs::hard_link(pair.source("a"), pair.source("b")).unwrap();
            set_immutable(&pair.source("a"), true);
            write(&pair.standby(there), "content", old_mode);
            if immutable_there {
                set_immutable(&pair.standby(there), true);
            }
            pair.sync();
            assert_one(&pair, &["a", "b"], 0o600);
            assert!(is_immutable(&pair.standby("a")), "/{there} was there, immutable: {immutable_there}");
            pair.settled();
        }
    }
}

#[test]
fn a_new_group_of_immutable_names_is_made_in_one_run() {
    let pair = Pair::new();
    write(&pair.source("a"), "content", 0o600);
    for name in ["b", "c"] {
        fs::hard_link(pair.source("a"), pair.source(name)).unwrap();
    }
    set_immutable(&pair.source("a"), true);
    pair.sync();
    assert_one(&pair, &["a", "b", "c"], 0o600);
    assert!(is_immutable(&pair.standby("a")));
    pair.settled();
}

/// Deleting, replacing or changing one name of an immutable inode takes the flag off for that; the names that stay
/// have it again.
#[test]
fn the_protected_name_of_an_immutable_inode_stays_immutable() {
    let before = |pair: &Pair| {
        write(&pair.source("other"), "the source is not empty", 0o644);
        write(&pair.standby("own"), "own", 0o644);
        fs::hard_link(pair.standby("own"), pair.standby("z")).unwrap();
        set_immutable(&pair.standby("own"), true);
    };
    type Edit = fn(&Pair);
    let edits: [(&str, Edit); 4] = [
        ("deleted", |_| ()),
        ("new content", |pair| write(&pair.source("z"), "changed", 0o644)),
        ("new mode", |pair| write(&pair.source("z"), "own", 0o600)),
        ("now a directory", |pair| fs::create_dir(pair.source("z")).unwrap()),
    ];
    for (what, edit) in edits {
        let pair = Pair::new();
        before(&pair);
        edit(&pair);
        let inode_before = inode(&pair.standby("own"));
        let (_, report) = pair.run(vec![rule(Action::Protect, "/own")], &Silent);
        assert_eq!(report.problems, [], "{what}");
        assert_eq!(pair.standby("z").exists(), what != "deleted", "{what}");
        assert_eq!(inode(&pair.standby("own")), inode_before, "{what}");
        assert_eq!(fs::read(pair.standby("own")).unwrap(), b"own", "{what}");
        assert_eq!(mode(&pair.standby("own")), 0o644, "{what}");
        assert!(is_immutable(&pair.standby("own")), "{what}: the flag is gone");
        let (items, _) = pair.run(vec![rule(Action::Protect, "/own")], &Silent);
        assert!(items.is_empty(), "{what}: a second run has something to do: {items:?}");
    }
}
