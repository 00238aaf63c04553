//! `verify --budget`: content is checked in slices over many runs, and only what no sync would see is called drift.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::common::plant::{chmod, noise, set_mtime, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{Output, Workdir, clone_json, clonetool};

/// How long each planted file is.
const FILE_BYTES: u32 = 100_000;
/// As many files as fit a slice.
const SLICE_FILES: u64 = 3;

/// What a file has, by a seed.
fn content(seed: u64) -> Vec<u8> {
    noise(seed, usize::try_from(FILE_BYTES).unwrap())
}

struct Pair {
    work: Workdir,
    source: PathBuf,
    standby: PathBuf,
    files: Vec<String>,
}

/// Production with files in several directories, and a standby that is equal to it.
fn pair(name: &str) -> Pair {
    let work = Workdir::new(name);
    let (source, standby) = (work.make("source"), work.make("standby"));
    let directories = ["", "a/", "a/deep/er/", "a.b/", "b c/", "out/"];
    let all = directories.iter().flat_map(|directory| (0..4).map(move |n| format!("{directory}f{n}")));
    let all: Vec<String> = all.collect();
    for (n, path) in all.iter().enumerate() {
        write(&source.join(path), content(n as u64));
        set_mtime(&source.join(path), 1_600_000_000 + n as i64, 5);
    }
    clone_json(&[], &source, &standby).expect_code(0);
    let profile = work.join("p.toml");
    write(&profile, "[rules]\ninclude = [\"/\"]\nexclude = [\"/out/\"]\n");
    chmod(&profile, 0o644);
    let files = all.into_iter().filter(|path| !path.starts_with("out/")).collect();
    Pair { work, source, standby, files }
}

/// Changes one byte of a file and puts its times back.
fn corrupt(path: &Path) {
    let metadata = fs::metadata(path).unwrap();
    let mut content = fs::read(path).unwrap();
    content[77_777] ^= 1;
    fs::write(path, content).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
}

impl Pair {
    fn check_between(&self, budget: &str, from: &OsStr, to: &OsStr, extra: &[&OsStr]) -> Output {
        let (profile, records) = (self.work.join("p.toml"), self.work.join("records"));
        let words: [&OsStr; 11] = [
            "verify".as_ref(),
            "--json".as_ref(),
            "--profile".as_ref(),
            profile.as_os_str(),
            "--budget".as_ref(),
            budget.as_ref(),
            "--records".as_ref(),
            records.as_os_str(),
            "--source".as_ref(),
            from,
            "--destination".as_ref(),
        ];
        clonetool(words.into_iter().chain([to]).chain(extra.iter().copied()))
    }

    fn check(&self, budget: &str) -> Output {
        self.check_between(budget, self.source.as_os_str(), self.standby.as_os_str(), &[])
    }
}

/// The paths that a check called drift.
fn drifted(output: &Output) -> Vec<String> {
    let objects = output.objects();
    let changes = objects.iter().filter(|object| object["type"] == "change");
    changes.map(|change| change["path"].as_str().unwrap().trim_start_matches('/').to_owned()).collect()
}

#[test]
fn a_corrupted_file_is_found_within_one_lap_and_no_file_is_read_twice_in_it() {
    let pair = pair("attest-lap");
    let bad = ["a/deep/er/f2", "f3"];
    bad.iter().for_each(|path| corrupt(&pair.standby.join(path)));
    corrupt(&pair.standby.join("out/f1"));
    for lap in 0..2 {
        let (mut files, mut bytes, mut found) = (0, 0, Vec::new());
        let mut until = serde_json::Value::Null;
        loop {
            let output = pair.check("300000B").expect_one_of(&[0, 5]);
            let summary = output.summary();
            assert_eq!(
                summary["after"],
                until,
                "a slice begins where the one before ended\n{}",
                output.describe()
            );
            assert!(output.count("checked_files") <= SLICE_FILES && output.count("checked_files") > 0);
            assert_eq!(output.count("checked_bytes"), output.count("checked_files") * u64::from(FILE_BYTES));
            let drift = drifted(&output);
            assert_eq!((output.code == 5, output.count("drift")), (!drift.is_empty(), drift.len() as u64));
            files += output.count("checked_files");
            bytes += output.count("checked_bytes");
            found.extend(drift);
            until = summary["until"].clone();
            assert!(files <= pair.files.len() as u64, "a file was read twice\n{}", output.describe());
            if until.is_null() {
                let last = &summary["last_lap"];
                assert_eq!(
                    (&last["files"], &last["bytes"], &last["drift"]),
                    (&files.into(), &bytes.into(), &2.into())
                );
                assert!(last["ended_seconds"].as_u64() >= last["began_seconds"].as_u64());
                break;
            }
        }
        assert_eq!(
            (files, bytes),
            (pair.files.len() as u64, pair.files.len() as u64 * u64::from(FILE_BYTES)),
            "lap {lap}"
        );
        found.sort();
        assert_eq!(found, bad, "lap {lap}");
    }
}

#[test]
fn what_changed_since_the_last_sync_is_no_drift() {
    let pair = pair("attest-changed");
    write(&pair.source.join("a/f1"), content(1_000));
    fs::remove_file(pair.standby.join("a/f2")).unwrap();
    write(&pair.standby.join("extra"), "only there");
    chmod(&pair.standby.join("f0"), 0o600);
    let output = pair.check("1G").expect_code(0);
    // The directories in which names came or went differ in their times, too.
    assert_eq!((output.count("drift"), output.count("changed")), (0, 6), "{}", output.describe());
    assert!(drifted(&output).is_empty());
    // An edit that put its time back is, on whichever end it was made.
    corrupt(&pair.source.join("a/f3"));
    corrupt(&pair.standby.join("f0"));
    let output = pair.check("1G").expect_code(5);
    assert_eq!(
        drifted(&output).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from(["a/f3".into(), "f0".into()])
    );
    // A sync sees nothing of it; a plain verify sees everything.
    let profile = pair.work.join("p.toml");
    let ends =
        [OsStr::new("--source"), pair.source.as_os_str(), "--destination".as_ref(), pair.standby.as_os_str()];
    let plan =
        clonetool([OsStr::new("plan"), "--json".as_ref(), profile.as_os_str()].into_iter().chain(ends));
    assert!(!drifted(&plan.expect_code(0)).contains(&"a/f3".to_owned()));
    let words = [OsStr::new("verify"), "--profile".as_ref(), profile.as_os_str()];
    let plain = clonetool(words.into_iter().chain(ends)).expect_code(5);
    assert!(plain.itemised().contains(&">fc........ /a/f3"), "{}", plain.describe());
}

#[test]
fn status_tells_of_drift_at_once_and_of_none_when_a_lap_is_over() {
    let pair = pair("attest-status");
    let (profile, records) = (pair.work.join("p.toml"), pair.work.join("records"));
    let kept = [OsStr::new("--records"), records.as_os_str()];
    let ends =
        [OsStr::new("--source"), pair.source.as_os_str(), "--destination".as_ref(), pair.standby.as_os_str()];
    let words = [OsStr::new("sync"), profile.as_os_str()];
    clonetool(words.into_iter().chain(kept).chain(ends)).expect_code(0);
    let verified = || {
        let output = clonetool([OsStr::new("status"), "--json".as_ref()].into_iter().chain(kept));
        output.objects()[0]["verified_outcome"].clone()
    };
    assert!(verified().is_null());
    // Two slices are a lap; drift is in the first of the second.
    pair.check("1500000B").expect_code(0);
    assert!(verified().is_null(), "a slice says nothing of the rest");
    pair.check("1500000B").expect_code(0);
    assert_eq!(verified(), "equal");
    corrupt(&pair.standby.join("a/f1"));
    pair.check("1500000B").expect_code(5);
    assert_eq!(verified(), "differences", "drift does not wait for the end of the lap");
    pair.check("1500000B").expect_code(0);
    assert_eq!(verified(), "differences", "the lap had drift in it");
    fs::copy(pair.source.join("a/f1"), pair.standby.join("a/f1")).unwrap();
    set_mtime(&pair.standby.join("a/f1"), 1_600_000_005, 5);
    pair.check("1500000B").expect_code(0);
    assert_eq!(verified(), "differences", "the slice without drift is not the whole");
    pair.check("1500000B").expect_code(0);
    assert_eq!(verified(), "equal");
}

#[test]
fn what_comes_or_goes_between_slices_confuses_nothing() {
    let pair = pair("attest-moves");
    let first = pair.check("300000B").expect_code(0).summary();
    let until = first["until"].as_str().unwrap().trim_start_matches('/').to_owned();
    for root in [&pair.source, &pair.standby] {
        // The very path at which the next slice begins goes, and others come before and behind it.
        fs::remove_file(root.join(&until)).unwrap();
        for (path, seed) in [("0-before", 1), ("zz-behind", 2)] {
            write(&root.join(path), content(seed));
            set_mtime(&root.join(path), 1_650_000_000, 0);
        }
        set_mtime(root, 1_650_000_000, 0);
    }
    corrupt(&pair.standby.join("zz-behind"));
    corrupt(&pair.standby.join("0-before"));
    let (mut files, mut found) = (0, Vec::new());
    loop {
        let output = pair.check("300000B").expect_one_of(&[0, 5]);
        files += output.count("checked_files");
        found.extend(drifted(&output));
        if output.summary()["until"].is_null() {
            break;
        }
    }
    // Behind the first slice: all that was there, and what came behind it. What came before waits for the next lap.
    assert_eq!((files, found), (pair.files.len() as u64 - SLICE_FILES + 1, vec!["zz-behind".to_owned()]));
    assert_eq!(drifted(&pair.check("300000B").expect_code(5)), ["0-before"]);
    // A file longer than the budget is read alone; the lap gets past it.
    let output = pair.check("1B").expect_code(0);
    assert_eq!((output.count("checked_files"), output.count("checked_bytes")), (1, FILE_BYTES.into()));
    let next = pair.check("1B").expect_code(0);
    assert_eq!(next.summary()["after"], output.summary()["until"]);
}

#[test]
fn a_check_that_breaks_off_does_not_move_on() {
    let pair = pair("attest-breaks");
    let until = pair.check("300000B").expect_code(0).summary()["until"].clone();
    let hidden = pair.work.join("hidden");
    fs::rename(&pair.source, &hidden).unwrap();
    pair.check("300000B").expect_code(1);
    fs::rename(&hidden, &pair.source).unwrap();
    let checks = pair.work.join("records/checks");
    let named = |end: &str| {
        let paths = fs::read_dir(&checks).unwrap().map(|entry| entry.unwrap().path());
        paths.into_iter().find(|path| path.to_string_lossy().ends_with(end)).unwrap()
    };
    let lock = File::open(named(".lock")).unwrap();
    flock(lock.as_fd(), FlockOperation::LockExclusive).unwrap();
    pair.check("300000B").expect_code(75);
    drop(lock);
    assert_eq!(pair.check("300000B").expect_code(0).summary()["after"], until);
    write(&named(".json"), "half of i");
    let output = pair.check("300000B").expect_code(0);
    assert!(output.summary()["after"].is_null(), "{}", output.describe());
    assert!(output.objects().iter().any(|object| object["type"] == "warning"), "{}", output.describe());
    clonetool(["verify", "--profile", "x", "--budget", "500"])
        .expect_code(2)
        .expect_stderr("expected a unit");
    clonetool(["verify", "--budget", "1M", "/a", "/b"]).expect_code(2);
}

#[test]
fn over_ssh_both_ways_each_end_reads_its_slice() {
    let pair = pair("attest-ssh");
    let sshd = Sshd::start(&pair.work.join("sshd"), &SshdOptions::default());
    corrupt(&pair.standby.join("b c/f1"));
    let arguments = sshd.args();
    let extra: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let (there, here) = (sshd.remote(&pair.standby), pair.source.as_os_str());
    let (from_there, to_here) = (sshd.remote(&pair.source), pair.standby.as_os_str());
    for (from, to) in [(here, there.as_os_str()), (from_there.as_os_str(), to_here)] {
        let (mut files, mut found) = (0, Vec::new());
        loop {
            let output = pair.check_between("700000B", from, to, &extra).expect_one_of(&[0, 5]);
            files += output.count("checked_files");
            found.extend(drifted(&output));
            if output.summary()["until"].is_null() {
                break;
            }
        }
        assert_eq!((files, found), (pair.files.len() as u64, vec!["b c/f1".to_owned()]));
    }
}
