//! Trees that move while a run is on its way. The run's own call-backs are the hooks, so nothing here waits or races.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use syncore::monitor::{Monitor, Silent};
use syncore::plan::Change;
use syncore::problem::Operation;
use syncore::scan::is_stage_name;
use syncore::session::{Approval, Job, Location, Options, Report, run};
use syncore::tree::RelPath;

/// What a large file is read in; a small one is never that long.
const CHUNK_BYTES: u64 = 256 * 1024;
const LARGE_BYTES: usize = 4 << 20;
const SMALL_BYTES: usize = 5_000;

/// A source and a standby.
struct Pair(tempfile::TempDir);

impl Pair {
    fn new() -> Self {
        let pair = Self(tempfile::tempdir().unwrap());
        // An empty source is refused.
        write(&pair.source("anchor"), b"");
        fs::create_dir(pair.standby("")).unwrap();
        pair
    }

    fn source(&self, name: &str) -> PathBuf {
        self.0.path().join("source").join(name)
    }

    fn standby(&self, name: &str) -> PathBuf {
        self.0.path().join("standby").join(name)
    }

    /// Runs with `meanwhile` called when the plan is made and nothing is read yet.
    fn run(&self, meanwhile: impl FnOnce(), monitor: &dyn Monitor) -> Report {
        let job = Job {
            source: Location::Local(self.source("")),
            destination: Location::Local(self.standby("")),
            rules: Vec::new(),
            options: Options { delete: true, durable: false, ..Options::default() },
        };
        let mut meanwhile = Some(meanwhile);
        let mut approve = |_: &syncore::plan::Plan| {
            meanwhile.take().expect("one plan")();
            Approval::Run
        };
        let report = run(&job, &mut approve, monitor).expect("the run as a whole goes on");
        let staged: Vec<_> = listing(&self.standby("")).into_keys().filter(|p| has_stage_name(p)).collect();
        assert!(staged.is_empty(), "left behind: {staged:?}");
        report
    }

    /// Runs with nothing in motion: whatever was left undone is done now.
    #[track_caller]
    fn settle(&self) {
        let report = self.run(|| (), &Silent);
        assert_eq!(report.problems, []);
        assert_eq!(listing(&self.standby("")), listing(&self.source("")));
    }
}

fn has_stage_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| is_stage_name(name.as_encoded_bytes()))
}

/// Kind, mode, time and content of everything below `root`.
fn listing(root: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let entries = walkdir::WalkDir::new(root).into_iter().map(|entry| {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        let content = match metadata.file_type() {
            kind if kind.is_file() => fs::read(entry.path()).unwrap(),
            kind if kind.is_symlink() => {
                fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
            }
            _ => Vec::new(),
        };
        let path = entry.path().strip_prefix(root).unwrap().to_owned();
        (path, (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content))
    });
    entries.collect()
}

/// `length` bytes that no other `seed` gives, nor any other offset.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Writes the content of an older version, whose time no later one has.
fn write_old(path: &Path, content: &[u8]) {
    write(path, content);
    let old = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
}

fn append(path: &Path, content: &[u8]) {
    fs::File::options().append(true).open(path).unwrap().write_all(content).unwrap();
}

/// Writes over what is there without making it shorter first.
fn overwrite(path: &Path, content: &[u8]) {
    fs::File::options().write(true).open(path).unwrap().write_all_at(content, 0).unwrap();
}

fn make_fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// Asserts that exactly these paths have problems of reading.
#[track_caller]
fn assert_unread(report: &Report, paths: &[&str]) {
    let found: Vec<_> = report.problems.iter().map(|p| (p.path.to_string(), p.operation)).collect();
    let expected: Vec<_> = paths.iter().map(|path| (format!("/{path}"), Operation::Read)).collect();
    assert_eq!(found, expected, "{:?}", report.problems);
}

/// Something that happens to a path.
type Happening = fn(&Path);

fn becomes_a_link(path: &Path) {
    fs::remove_file(path).unwrap();
    symlink("../beside", path).unwrap();
}

fn becomes_a_fifo(path: &Path) {
    fs::remove_file(path).unwrap();
    make_fifo(path);
}

fn becomes_a_directory(path: &Path) {
    fs::remove_file(path).unwrap();
    write(&path.join("inside"), b"a file in what was one");
}

fn vanishes(path: &Path) {
    fs::remove_file(path).unwrap();
}

#[test]
fn a_planned_file_that_is_not_there_any_more_is_a_problem_of_its_own() {
    let happenings: [(&str, Happening); 4] = [
        ("vanishes", vanishes),
        ("becomes a link", becomes_a_link),
        ("becomes a FIFO", becomes_a_fifo),
        ("becomes a directory", becomes_a_directory),
    ];
    for (what, happen) in happenings {
        for length in [SMALL_BYTES, LARGE_BYTES] {
            let pair = Pair::new();
            for name in ["beside", "new/moving", "updated/moving", "updated/other", "z"] {
                write(&pair.source(name), &noise(1, length));
            }
            write_old(&pair.standby("updated/moving"), &noise(2, length));
            write_old(&pair.standby("updated/other"), &noise(3, length));
            let meanwhile = || {
                happen(&pair.source("new/moving"));
                happen(&pair.source("updated/moving"));
            };
            let report = pair.run(meanwhile, &Silent);
            assert_unread(&report, &["new/moving", "updated/moving"]);
            let kept = fs::read(pair.standby("updated/moving")).unwrap();
            assert!(kept == noise(2, length), "{what}: the old content is gone");
            assert!(!pair.standby("new/moving").exists(), "{what}: made out of nothing");
            for name in ["beside", "updated/other", "z"] {
                assert!(
                    fs::read(pair.standby(name)).unwrap() == noise(1, length),
                    "{what}: {name} is not done"
                );
            }
            pair.settle();
        }
    }
}

#[test]
fn a_planned_file_that_changed_before_it_is_read_arrives_as_it_is_now() {
    for length in [SMALL_BYTES, LARGE_BYTES] {
        let pair = Pair::new();
        for name in ["grows", "is-rewritten", "shrinks", "shrinks-to-nothing", "outgrows-its-batch"] {
            write(&pair.source(name), &noise(1, length));
            write_old(&pair.standby(name), &noise(2, length));
        }
        let meanwhile = || {
            append(&pair.source("grows"), b"a line more");
            overwrite(&pair.source("is-rewritten"), &noise(3, length));
            write(&pair.source("shrinks"), &noise(1, 100));
            write(&pair.source("shrinks-to-nothing"), b"");
            write(&pair.source("outgrows-its-batch"), &noise(4, 3 << 20));
        };
        let report = pair.run(meanwhile, &Silent);
        assert_eq!(report.problems, []);
        assert_eq!(listing(&pair.standby("")), listing(&pair.source("")));
    }
}

#[test]
fn a_directory_that_becomes_a_link_leads_the_reader_nowhere() {
    let pair = Pair::new();
    let outside = tempfile::tempdir().unwrap();
    for name in ["small", "large"] {
        let length = if name == "small" { SMALL_BYTES } else { LARGE_BYTES };
        write(&pair.source("dir").join(name), &noise(1, length));
        write(&outside.path().join(name), b"not of this tree");
    }
    write(&pair.source("other"), b"other");
    let meanwhile = || {
        fs::rename(pair.source("dir"), pair.source("moved")).unwrap();
        symlink(outside.path(), pair.source("dir")).unwrap();
    };
    let report = pair.run(meanwhile, &Silent);
    assert_unread(&report, &["dir/large", "dir/small"]);
    assert_eq!(fs::read_dir(pair.standby("dir")).unwrap().count(), 0);
    assert_eq!(fs::read(pair.standby("other")).unwrap(), b"other");
    pair.settle();
}

/// Calls `happen` with the count of chunks of large files that were read so far.
struct InTheMiddle<F>(F, AtomicUsize);

impl<F: Fn(usize) + Send + Sync> Monitor for InTheMiddle<F> {
    fn transferred(&self, bytes: u64) {
        if bytes == CHUNK_BYTES {
            self.0(self.1.fetch_add(1, Ordering::SeqCst));
        }
    }
}

/// Runs with one large file, and small ones beside it; `happen` is called after every chunk that is read of it.
fn in_the_middle(happen: impl Fn(usize, &Path) + Send + Sync) -> (Pair, Report) {
    let pair = Pair::new();
    write(&pair.source("moving"), &noise(1, LARGE_BYTES));
    write_old(&pair.standby("moving"), &noise(2, LARGE_BYTES));
    for name in ["a", "z"] {
        write(&pair.source(name), name.as_bytes());
    }
    let path = pair.source("moving");
    let report = pair.run(|| (), &InTheMiddle(|count| happen(count, &path), AtomicUsize::new(0)));
    for name in ["a", "z"] {
        assert_eq!(fs::read(pair.standby(name)).unwrap(), name.as_bytes());
    }
    (pair, report)
}

#[test]
fn a_log_that_grows_under_the_reader_is_no_problem() {
    // Each chunk is followed by a line more, so it is never still.
    let (pair, report) = in_the_middle(|_, path| append(path, b"a line more"));
    assert_eq!(report.problems, []);
    let found = fs::read(pair.standby("moving")).unwrap();
    let now = fs::read(pair.source("moving")).unwrap();
    assert!(found.len() >= LARGE_BYTES && now.starts_with(&found), "no honest prefix");
    pair.settle();
}

#[test]
fn what_changed_once_under_the_reader_is_read_again() {
    type Once = fn(&Path);
    let happenings: [(&str, Once); 5] = [
        ("rewritten in place", |path| overwrite(path, &noise(3, LARGE_BYTES))),
        ("rewritten and longer", |path| overwrite(path, &noise(3, LARGE_BYTES + 1000))),
        ("shorter", |path| fs::File::options().write(true).open(path).unwrap().set_len(300_000).unwrap()),
        ("one byte, behind the reader", |path| overwrite(path, b"x")),
        ("replaced by rename", |path| {
            let other = path.with_file_name("other");
            write(&other, &noise(4, LARGE_BYTES));
            fs::rename(other, path).unwrap();
        }),
    ];
    for (what, happen) in happenings {
        let (pair, report) = in_the_middle(|count, path| {
            if count == 1 {
                happen(path);
            }
        });
        assert_eq!(report.problems, [], "{what}");
        let (found, now) =
            (fs::read(pair.standby("moving")).unwrap(), fs::read(pair.source("moving")).unwrap());
        assert!(found == now, "{what}: {} bytes, and not those of the source", found.len());
        pair.settle();
    }
}

#[test]
fn what_never_holds_still_keeps_its_old_copy() {
    type Happening = fn(usize, &Path);
    let happenings: [(&str, Happening); 3] = [
        ("rewritten", |count, path| overwrite(path, &noise(10 + count as u64, LARGE_BYTES))),
        ("rewritten and longer", |count, path| {
            overwrite(path, &noise(10 + count as u64, LARGE_BYTES + 1000 * (count + 1)));
        }),
        ("vanished", |count, path| {
            if count == 1 {
                fs::remove_file(path).unwrap();
            }
        }),
    ];
    for (what, happen) in happenings {
        let (pair, report) = in_the_middle(happen);
        assert_unread(&report, &["moving"]);
        let kept = fs::read(pair.standby("moving")).unwrap();
        assert!(kept == noise(2, LARGE_BYTES), "{what}: the old content is gone");
        pair.settle();
    }
}

/// Calls the hook when the sender is done with a path.
struct WhenDone<F>(&'static str, F);

impl<F: Fn() + Send + Sync> Monitor for WhenDone<F> {
    fn changed(&self, path: &RelPath, _: &Change) {
        if path.as_bytes() == self.0.as_bytes() {
            self.1();
        }
    }
}

#[test]
fn what_vanishes_after_it_was_sent_was_sent() {
    let pair = Pair::new();
    write(&pair.source("moving"), &noise(1, LARGE_BYTES));
    let path = pair.source("moving");
    let report = pair.run(|| (), &WhenDone("moving", || fs::remove_file(&path).unwrap()));
    assert_eq!(report.problems, []);
    assert!(fs::read(pair.standby("moving")).unwrap() == noise(1, LARGE_BYTES));
    pair.settle();
}

#[test]
fn names_of_a_file_that_cannot_be_read_keep_what_they_are() {
    let pair = Pair::new();
    write(&pair.source("a"), b"new");
    fs::hard_link(pair.source("a"), pair.source("b")).unwrap();
    write_old(&pair.standby("a"), b"old");
    fs::hard_link(pair.standby("a"), pair.standby("b")).unwrap();
    let meanwhile = || {
        fs::remove_file(pair.source("a")).unwrap();
        fs::remove_file(pair.source("b")).unwrap();
    };
    let report = pair.run(meanwhile, &Silent);
    assert!(!report.problems.is_empty());
    for name in ["a", "b"] {
        assert_eq!(fs::read(pair.standby(name)).unwrap(), b"old", "{name}");
    }
    pair.settle();
}

/// Asserts that each path, and none but these, has a problem.
#[track_caller]
fn assert_problems(report: &Report, paths: &[&str]) {
    let mut found: Vec<_> = report.problems.iter().map(|problem| problem.path.to_string()).collect();
    found.dedup();
    assert_eq!(found, paths, "{:?}", report.problems);
}

#[test]
fn what_appeared_on_the_standby_is_not_overwritten() {
    for length in [SMALL_BYTES, LARGE_BYTES] {
        let pair = Pair::new();
        for name in ["dir/file", "file", "other"] {
            write(&pair.source(name), &noise(1, length));
        }
        symlink("there", pair.source("link")).unwrap();
        make_fifo(&pair.source("pipe"));
        let meanwhile = || {
            for name in ["dir", "file", "link", "pipe"] {
                write(&pair.standby(name), b"of the standby");
            }
        };
        let report = pair.run(meanwhile, &Silent);
        assert_problems(&report, &["/dir", "/dir/file", "/file", "/link", "/pipe"]);
        for name in ["dir", "file", "link", "pipe"] {
            assert_eq!(fs::read(pair.standby(name)).unwrap(), b"of the standby", "{name}");
        }
        assert!(fs::read(pair.standby("other")).unwrap() == noise(1, length));
        pair.settle();
    }
}

#[test]
fn what_became_something_else_on_the_standby_is_left_alone() {
    let pair = Pair::new();
    for name in ["becomes-directory", "becomes-link", "other"] {
        write(&pair.source(name), b"new");
        write_old(&pair.standby(name), b"old");
    }
    // Here the source has a directory and the standby a link, which is to make way.
    write(&pair.source("link-to-directory/file"), b"new");
    symlink("nowhere", pair.standby("link-to-directory")).unwrap();
    write_old(&pair.standby("deleted"), b"old");
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("target"), b"outside");
    let meanwhile = || {
        for name in ["becomes-directory", "becomes-link", "deleted", "link-to-directory"] {
            fs::remove_file(pair.standby(name)).unwrap();
        }
        write(&pair.standby("becomes-directory/inside"), b"of the standby");
        write(&pair.standby("deleted/inside"), b"of the standby");
        write(&pair.standby("link-to-directory"), b"of the standby");
        symlink(outside.path().join("target"), pair.standby("becomes-link")).unwrap();
    };
    let report = pair.run(meanwhile, &Silent);
    assert_problems(
        &report,
        // Deletions wait for better times when anything went wrong.
        &["/", "/becomes-directory", "/becomes-link", "/link-to-directory", "/link-to-directory/file"],
    );
    for name in ["becomes-directory/inside", "deleted/inside", "link-to-directory"] {
        assert_eq!(fs::read(pair.standby(name)).unwrap(), b"of the standby", "{name}");
    }
    assert!(pair.standby("becomes-link").is_symlink());
    assert_eq!(fs::read(outside.path().join("target")).unwrap(), b"outside");
    assert_eq!(fs::read(pair.standby("other")).unwrap(), b"new");
    pair.settle();
}

#[test]
fn a_new_file_keeps_its_directory_from_being_deleted() {
    for directory in ["deleted", "replaced"] {
        let pair = Pair::new();
        // One is to be deleted, one to be replaced by a file.
        if directory == "replaced" {
            write(&pair.source(directory), b"a file");
        }
        write_old(&pair.standby(directory).join("known"), b"known");
        let meanwhile = || write(&pair.standby(directory).join("new"), b"of the standby");
        let report = pair.run(meanwhile, &Silent);
        assert_problems(&report, &[&format!("/{directory}")]);
        assert_eq!(fs::read(pair.standby(directory).join("new")).unwrap(), b"of the standby", "{directory}");
        assert!(!pair.standby(directory).join("known").exists(), "{directory}");
        pair.settle();
    }
}

#[test]
fn a_directory_that_became_a_link_on_the_standby_is_not_written_through() {
    let pair = Pair::new();
    let outside = tempfile::tempdir().unwrap();
    write(&pair.source("dir/file"), b"new");
    write(&pair.source("dir/created"), b"new");
    write_old(&pair.standby("dir/file"), b"old");
    write_old(&pair.standby("dir/deleted"), b"old");
    for name in ["file", "deleted"] {
        write(&outside.path().join(name), b"outside");
    }
    let before = listing(outside.path());
    let meanwhile = || {
        fs::rename(pair.standby("dir"), pair.standby("moved")).unwrap();
        symlink(outside.path(), pair.standby("dir")).unwrap();
    };
    let report = pair.run(meanwhile, &Silent);
    assert!(report.problems.iter().any(|problem| problem.path.as_bytes() == b"dir/file"), "{report:?}");
    assert_eq!(listing(outside.path()), before);
    assert_eq!(fs::read(pair.standby("moved/file")).unwrap(), b"old");
    pair.settle();
}
