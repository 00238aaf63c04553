//! `package-transaction` with a dpkg that is really at work in one of the roots, and with locks that are really held.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Pair;
use crate::common::{lacks, run};

const GATE: &str = "[[gate]]\nkind = \"package-transaction\"\nname = \"packages\"\n";

/// Makes a root that dpkg can install into, and a package whose last step asks a FIFO how it is to end.
fn prepare(pair: &Pair, root: &Path) -> (PathBuf, PathBuf) {
    for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "usr/bin"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let (tree, fifo) = (pair.work.make("package"), pair.work.join("fifo"));
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control =
        "Package: slow\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: slow\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let script = tree.join("DEBIAN/postinst");
    fs::write(&script, format!("#!/bin/sh\nexit \"$(cat {})\"\n", fifo.display())).unwrap();
    run("chmod", ["755", script.to_str().unwrap()]);
    run("mkfifo", [fifo.to_str().unwrap()]);
    let package = pair.work.join("slow.deb");
    run("dpkg-deb", ["--build", "--root-owner-group", tree.to_str().unwrap(), package.to_str().unwrap()]);
    (package, fifo)
}

fn dpkg(root: &Path, words: &[&str]) -> Child {
    let mut command = Command::new("dpkg");
    command.arg(format!("--root={}", root.display())).arg("--force-script-chrootless").args(words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run dpkg")
}

/// Waits until the package's script asks, calls `meanwhile`, and has the script end with `code`.
fn answer(fifo: &Path, code: &str, meanwhile: impl FnOnce()) {
    let mut fifo = fs::OpenOptions::new().write(true).open(fifo).unwrap();
    meanwhile();
    fifo.write_all(code.as_bytes()).unwrap();
}

#[test]
fn a_dpkg_at_work_or_interrupted_on_either_end_keeps_a_sync_away() {
    if lacks("gates::a_dpkg_at_work_or_interrupted_on_either_end_keeps_a_sync_away", &["dpkg", "dpkg-deb"]) {
        return;
    }
    for end in ["source", "destination"] {
        let pair = Pair::new("gates-dpkg", GATE);
        let root = if end == "source" { &pair.production } else { &pair.standby };
        let (package, fifo) = prepare(&pair, root);
        assert!(pair.gates(&[]).expect_code(0).stdout.contains(&format!("dpkg idle on the {end}")));
        let mut installing = dpkg(root, &["-i", package.to_str().unwrap()]);
        answer(&fifo, "1", || {
            let refused = pair.sync(&[]).expect_code(3);
            let evidence =
                format!("on the {end}, dpkg is at work: /var/lib/dpkg/lock-frontend is held by process ");
            assert!(refused.stderr.contains(&evidence), "{}", refused.describe());
        });
        assert!(!installing.wait().unwrap().success());
        let refused = pair.sync(&[]).expect_code(3);
        let evidence = format!("on the {end}, dpkg left 1 packages half done: slow (ok half-configured)\n");
        assert!(refused.stderr.contains(&evidence), "{}", refused.describe());
        assert!(refused.stderr.contains("`dpkg --configure -a`"), "{}", refused.describe());
        assert!(pair.nothing_changed());
        let mut configuring = dpkg(root, &["--configure", "-a"]);
        answer(&fifo, "0", || ());
        assert!(configuring.wait().unwrap().success());
        pair.sync(&[]).expect_code(0);
    }
}

#[test]
fn a_journal_that_dpkg_did_not_finish_refuses() {
    let pair = Pair::new("gates-dpkg", GATE);
    fs::create_dir_all(pair.production.join("var/lib/dpkg/updates")).unwrap();
    fs::write(pair.production.join("var/lib/dpkg/status"), "").unwrap();
    fs::write(pair.production.join("var/lib/dpkg/updates/tmp.i"), "").unwrap();
    pair.gates(&[]).expect_code(0);
    fs::write(pair.production.join("var/lib/dpkg/updates/0000"), "Package: x\n").unwrap();
    let refused = pair.sync(&[]).expect_code(3);
    let evidence = "on the source, dpkg was interrupted: /var/lib/dpkg/updates has entries";
    assert!(refused.stderr.contains(evidence), "{}", refused.describe());
}

#[test]
fn locks_of_other_managers_count_when_they_are_held() {
    let pair = Pair::new("gates-locks", GATE);
    let lock = pair.production.join("lib/apk/db/lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    fs::write(&lock, "").unwrap();
    assert!(pair.gates(&[]).expect_code(0).stdout.contains("apk idle on the source"));
    // It holds the lock until its standard input ends, and says when it has it.
    let mut holder = Command::new("flock");
    holder.arg(&lock).args(["sh", "-c", "echo; read _"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("run flock (package util-linux)");
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let refused = pair.gates(&[]).expect_code(3);
    assert!(refused.stdout.contains("apk is at work: /lib/apk/db/lock is held"), "{}", refused.describe());
    drop(holder.stdin.take());
    holder.wait().unwrap();
    pair.gates(&[]).expect_code(0);
    // Of pacman the file itself is the lock.
    fs::create_dir_all(pair.standby.join("var/lib/pacman")).unwrap();
    fs::write(pair.standby.join("var/lib/pacman/db.lck"), "").unwrap();
    let refused = pair.gates(&[]).expect_code(3);
    assert!(refused.stdout.contains("on the destination, pacman is at work"), "{}", refused.describe());
    // A lock that is a link is not looked behind.
    fs::remove_file(pair.standby.join("var/lib/pacman/db.lck")).unwrap();
    fs::create_dir_all(pair.standby.join("var/pkg")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", pair.standby.join("var/pkg/lock")).unwrap();
    let error = pair.gates(&["--json"]).expect_code(3);
    assert_eq!(error.objects()[0]["verdict"], "error", "{}", error.describe());
}
