//! What a run says of itself beside its counts: the digest of what it read, the state that it led to, and that the
//! standby was rolled back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use syncore::monitor::{Monitor, Silent};
use syncore::profile::{Keep, Whole};
use syncore::session::{self, Approval, Job, Location, Options, Report, SessionError, run};
use syncore::tree::Digest;

fn job(source: &Path, standby: &Path, whole: bool) -> Job {
    Job {
        source: Location::Local(source.into()),
        destination: Location::Local(standby.into()),
        rules: Vec::new(),
        options: Options {
            delete: true,
            durable: false,
            whole: whole.then(|| Whole { profile: "p".into(), keep: Keep::default() }),
            ..Options::default()
        },
    }
}

fn sync(source: &Path, standby: &Path, whole: bool) -> Report {
    run(&job(source, standby, whole), &mut |_| Approval::Run, &Silent).unwrap()
}

/// Two directories that have each other's names, and a file with two names.
fn plant(root: &Path) {
    for (path, content) in [("a/x", "one"), ("b/y", "other"), ("linked", "twice")] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::hard_link(root.join("linked"), root.join("also")).unwrap();
}

/// What is changed, and how.
type Change<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn the_digest_of_a_tree_is_the_same_for_equal_trees_and_no_others() {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name);
    plant(&path("source"));
    let first = sync(&path("source"), &path("copy"), false).tree.unwrap();
    // In another run, which hashes names by another key; and of the copy, which is elsewhere.
    assert_eq!(sync(&path("source"), &path("copy"), false).tree, Some(first));
    assert_eq!(sync(&path("copy"), &path("second copy"), false).tree, Some(first));
    let changes: [Change<'_>; 5] = [
        ("a mode", &|root| fs::set_permissions(root.join("a/x"), fs::Permissions::from_mode(0o600)).unwrap()),
        ("a name", &|root| fs::rename(root.join("a/x"), root.join("a/z")).unwrap()),
        ("names of directories", &|root| {
            fs::rename(root.join("a"), root.join("c")).unwrap();
            fs::rename(root.join("b"), root.join("a")).unwrap();
            fs::rename(root.join("c"), root.join("b")).unwrap();
        }),
        ("a link", &|root| {
            fs::copy(root.join("linked"), root.join("new")).unwrap();
            let times = fs::FileTimes::new()
                .set_modified(fs::metadata(root.join("linked")).unwrap().modified().unwrap());
            fs::File::options().write(true).open(root.join("new")).unwrap().set_times(times).unwrap();
            fs::rename(root.join("new"), root.join("linked")).unwrap();
        }),
        ("nothing", &|_| {}),
    ];
    let mut found: Vec<Digest> = Vec::new();
    for (name, change) in changes {
        let changed = path(name);
        sync(&path("source"), &changed, false);
        let before: Vec<_> = ["", "a", "b"]
            .iter()
            .map(|d| fs::metadata(changed.join(d)).unwrap().modified().unwrap())
            .collect();
        change(&changed);
        // What a change of names does to the directories' own times is not what is asked here.
        for (directory, time) in ["", "a", "b"].iter().zip(before) {
            let times = fs::FileTimes::new().set_modified(time);
            fs::File::open(changed.join(directory)).unwrap().set_times(times).unwrap();
        }
        found.push(sync(&changed, &path("target"), false).tree.unwrap());
    }
    assert_eq!(found.pop(), Some(first));
    found.push(first);
    let count = found.len();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), count, "a change left the digest as it was");
}

#[test]
fn a_run_says_which_state_it_led_to() {
    let work = tempfile::tempdir().unwrap();
    let (source, standby) = (work.path().join("source"), work.path().join("standby"));
    plant(&source);
    assert_eq!(sync(&source, &standby, true).generation, Some(1));
    assert_eq!(sync(&source, &standby, true).generation, None, "nothing was to be done");
    fs::write(source.join("a/x"), "changed").unwrap();
    assert_eq!(sync(&source, &standby, true).generation, Some(2));
    assert_eq!(session::generations(&standby).unwrap().last().map(|last| last.number), Some(2));
    fs::write(source.join("a/x"), "changed again").unwrap();
    assert_eq!(sync(&source, &standby, false).generation, None, "path by path");
    let back = session::roll_back(&standby, "p", None, &[], false, &Silent).unwrap();
    assert_eq!((back.undone, back.state), (vec![2], Some(3)));
    let job = job(&source, &standby, true);
    let refused = run(&job, &mut |_| Approval::Run, &Silent);
    assert!(matches!(refused, Err(SessionError::Suspended { state: 3 })), "{refused:?}");
    let dry = Job { options: Options { dry_run: true, ..job.options.clone() }, ..job };
    let foretold = Foretold::default();
    run(&dry, &mut |_| Approval::Run, &foretold).unwrap();
    let reasons = foretold.0.into_inner().unwrap();
    assert!(matches!(&reasons[..], [reason] if reason.contains("it is in state 3")), "{reasons:?}");
}

#[derive(Default)]
struct Foretold(Mutex<Vec<String>>);

impl Monitor for Foretold {
    fn would_refuse(&self, reason: &str) {
        self.0.lock().unwrap().push(reason.to_owned());
    }
}

#[derive(Default)]
struct Hearing(Mutex<Vec<(String, u64, u64)>>);

impl Monitor for Hearing {
    fn recovered(&self, profile: &str, generation: u64, problems: u64) {
        self.0.lock().unwrap().push((profile.to_owned(), generation, problems));
    }
}

#[test]
fn who_starts_a_run_hears_that_an_interrupted_one_was_completed() {
    let work = tempfile::tempdir().unwrap();
    let (source, standby) = (work.path().join("source"), work.path().join("standby"));
    plant(&source);
    sync(&source, &standby, true);
    // As if the power had failed between the last step and the end of the run: its journal is in its place again.
    let home = standby.join(".clonetool");
    fs::rename(home.join("kept/1/journal"), home.join("journal")).unwrap();
    fs::write(home.join("generation"), "0").unwrap();
    let heard = Hearing::default();
    let report = run(&job(&source, &standby, true), &mut |_| Approval::Run, &heard).unwrap();
    assert_eq!(*heard.0.lock().unwrap(), [("p".to_owned(), 1, 0)]);
    assert_eq!(report.totals.created, 0);
}
