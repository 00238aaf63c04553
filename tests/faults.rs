//! System calls that fail, connections that are cut and ends that are killed, at every step of a run that changes
//! everything or nothing.
//!
//! A call fails for the program alone: strace has the k-th call of a kind end with an error, until a run is over before
//! its k-th. Whatever the run says of itself is then held against the tree, after a recovery without faults: "in sync"
//! is the new tree, with problems of single paths it is old or new path by path, and else old or new as a whole.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::compare::{Difference, What, assert_none};
use crate::common::plant::{chmod, noise, set_mtime, write};
use crate::common::{CLONETOOL, Output, clonetool, clonetool_by, lacks, run};
use crate::whole::{Pair, STEPS, bare, differences, lines, plant_after, plant_before, staged};

/// What a run calls, and how that may fail.
const FAULTS: [(&str, &str); 24] = [
    ("openat", "EMFILE"),
    ("openat2", "EMFILE"),
    ("openat2", "EIO"),
    ("statx", "EIO"),
    ("getdents64", "EIO"),
    ("read", "EIO"),
    ("write", "ENOSPC"),
    ("pwrite64", "ENOSPC"),
    ("copy_file_range", "EIO"),
    ("mkdirat", "ENOSPC"),
    ("mkdirat", "EROFS"),
    ("symlinkat", "ENOSPC"),
    ("linkat", "EIO"),
    ("linkat", "ENOSPC"),
    ("renameat", "EIO"),
    ("renameat", "EROFS"),
    ("unlinkat", "EIO"),
    ("fchmod", "EIO"),
    ("fchownat", "EIO"),
    ("setxattr", "ENOSPC"),
    ("utimensat", "EIO"),
    ("fsync", "EIO"),
    ("fsync", "ENOSPC"),
    ("syncfs", "EIO"),
];

/// So many calls of a kind are made to fail one by one, and of those that come after every other, or less.
const EACH_CALL: u32 = 12;

/// The states that a standby may be in.
struct States {
    pair: Pair,
    before: PathBuf,
    bare_before: PathBuf,
    bare_after: PathBuf,
}

impl States {
    fn new(name: &str) -> Self {
        let pair = Pair::new(name);
        plant_before(&pair.source);
        clonetool(pair.sync(&pair.standby)).expect_code(0);
        plant_after(&pair.source);
        let before = pair.copy("before");
        clonetool(pair.sync(&pair.standby)).expect_code(0);
        let (bare_before, bare_after) = (pair.dir.join("bare-before"), pair.dir.join("bare-after"));
        bare(&before, &bare_before);
        bare(&pair.standby, &bare_after);
        Self { pair, before, bare_before, bare_after }
    }

    /// A standby as it was before the run.
    fn victim(&self) -> PathBuf {
        self.copy(&self.before, "victim")
    }

    fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.pair.dir.join(name);
        if to.exists() {
            crate::common::dir::remove_tree(&to);
        }
        run("cp", ["-a".as_ref(), from.as_os_str(), to.as_os_str()]);
        to
    }

    /// Whether all that a run changed can be undone, whatever failed in it.
    fn undo(&self, victim: &Path, said: &Output, what: &str) {
        let undone = self.copy(victim, "undone");
        let (profile, root) = (self.pair.profile.display().to_string(), undone.display().to_string());
        let back = clonetool(["rollback", &profile, "--to", "1", "--root", &root]).expect_one_of(&[0, 3, 4]);
        let found = differences(&self.bare_before, &undone);
        assert!(
            found.is_empty(),
            "{what}: {}\nwas not undone: {}\n{}",
            said.describe(),
            back.describe(),
            lines(&found)
        );
    }

    /// Holds what is there against what was said; true when it is the new tree.
    fn judge(&self, victim: &Path, said: &Output, what: &str) -> bool {
        let told = |how: &str| format!("{what}: {how}: {}", said.describe());
        assert!(![101, 134, 139].contains(&said.code), "{}", told("it crashed"));
        if said.code == 0 {
            let found = differences(&self.bare_after, victim);
            assert!(found.is_empty(), "{}\n{}", told("it is not in sync"), lines(&found));
            return true;
        }
        assert!(!said.stderr.is_empty(), "{}", told("it said nothing"));
        let recovery = clonetool(["recover".as_ref(), victim.as_os_str()]).expect_one_of(&[0, 4]);
        assert_eq!(staged(victim), 0, "{}", told("something is left in the stage"));
        let old = differences(&self.bare_before, victim);
        let new = differences(&self.bare_after, victim);
        let problems = said.stderr.lines().any(|line| line.starts_with("clonetool: /"));
        if problems || recovery.code == 4 {
            // What differs from the new tree is as it was, but that a group of names may have old and new ones.
            let itself = |one: &&Difference| one.what != What::Links;
            let is_old = |path: &[u8]| !old.iter().filter(itself).any(|other| other.path == path);
            let neither: Vec<_> =
                new.iter().filter(itself).filter(|one| !is_old(&one.path)).cloned().collect();
            assert!(neither.is_empty(), "{}\n{}", told("neither old nor new"), lines(&neither));
        } else {
            assert!(
                old.is_empty() || new.is_empty(),
                "{}\n{}\n{}",
                told("neither old nor new"),
                lines(&old),
                lines(&new)
            );
        }
        new.is_empty()
    }
}

#[test]
fn whatever_fails_once_a_run_is_all_or_nothing_or_says_what_it_is_not() {
    if lacks("faults::calls", &["strace"]) {
        return;
    }
    let states = States::new("faults-calls");
    let log = states.pair.dir.join("calls");
    let (mut faults, mut codes) = (0, [0_u32; 128]);
    for (call, error) in FAULTS {
        let mut count = 0;
        loop {
            count += if count < EACH_CALL { 1 } else { count / 4 };
            let victim = states.victim();
            let inject = format!("inject={call}:error={error}:when={count}");
            let trace = format!("trace={call}");
            let log_path = log.display().to_string();
            let strace = ["strace", "-f", "-qq", "-o", &log_path, "-e", &trace, "-e", &inject];
            let said = clonetool_by(&strace, CLONETOOL, states.pair.sync(&victim));
            let injected = fs::read_to_string(&log).unwrap().contains("(INJECTED)");
            let what = format!("{call} {count} {error}");
            if matches!(said.code, 0 | 4) {
                states.undo(&victim, &said, &what);
            }
            states.judge(&victim, &said, &what);
            if !injected {
                assert_eq!(said.code, 0, "{}", said.describe());
                break;
            }
            faults += 1;
            codes[usize::try_from(said.code).unwrap()] += 1;
        }
    }
    assert!(faults >= 200, "only {faults} faults");
    assert!(codes[1] >= 50 && codes[4] >= 10, "{codes:?}");
}

/// What takes the place of ssh: an agent on this host, started by `command`. It holds the lock file as long as anything
/// of it lives.
fn shell(states: &States, command: &str) -> PathBuf {
    let script = states.pair.dir.join("shell");
    let lock = states.pair.dir.join("agent-lock");
    write(&script, format!("#!/bin/sh\nexec 9>{}\nflock 9\n{command}\n", lock.display()));
    chmod(&script, 0o755);
    script
}

/// A sync to `victim` as if it were on another host.
fn push(states: &States, prefix: &[&str], victim: &Path, command: &str) -> Output {
    let script = shell(states, command);
    let mut arguments = states.pair.sync(victim);
    if let Some(to) = arguments.last_mut() {
        *to = format!("standby:{to}");
    }
    arguments.extend(["--rsh".to_owned(), script.display().to_string(), "--json".to_owned()]);
    arguments.retain(|argument| argument != "-q");
    let said = clonetool_by(prefix, CLONETOOL, arguments);
    // Until all of the other end is gone.
    run("flock", [states.pair.dir.join("agent-lock").as_os_str(), "true".as_ref()]);
    said
}

#[test]
fn a_connection_that_is_cut_anywhere_leaves_all_or_nothing() {
    let states = States::new("faults-cut");
    let agent = format!("{CLONETOOL} agent");
    let whole = push(&states, &[], &states.victim(), &agent).expect_code(0);
    let (mut cuts, mut completed) = (0, 0);
    for (direction, bytes) in
        [("sent", whole.count("wire_sent_bytes")), ("received", whole.count("wire_received_bytes"))]
    {
        for part in 0..24 {
            let kept = bytes * part / 24;
            // Without stdbuf, head keeps back what does not fill its buffer, and the two ends wait for each other.
            let cut = format!("stdbuf -o0 head -c {kept}");
            let command = match direction {
                "sent" => format!("{cut} | {agent}"),
                // The shell itself must not keep the stream open that is to be cut.
                _ => format!(
                    "exec 3<&0 4>&1 </dev/null >/dev/null\n\
                     {agent} <&3 3<&- 4>&- | {cut} 3<&- >&4 4>&- &\n\
                     exec 3<&- 4>&-\nwait"
                ),
            };
            let victim = states.victim();
            let said = push(&states, &[], &victim, &command);
            assert_ne!(said.code, 0, "{}", said.describe());
            completed += usize::from(states.judge(&victim, &said, &format!("{kept} bytes {direction}")));
            cuts += 1;
            // The next run makes up for it, whatever was left.
            if part % 6 == 5 {
                push(&states, &[], &states.victim(), &agent).expect_code(0);
            }
        }
    }
    assert!(completed < cuts, "{completed} of {cuts}");
}

#[test]
fn whichever_end_is_killed_the_standby_is_old_or_new() {
    if lacks("faults::killed", &["strace"]) {
        return;
    }
    let states = States::new("faults-killed");
    let (mut kills, mut completed) = (0, 0);
    for agent_dies in [true, false] {
        let steps = if agent_dies { &STEPS[..] } else { &["read", "write"] };
        for step in steps {
            for count in (1..8).chain((8..).step_by(7)) {
                let victim = states.victim();
                let (trace, inject) =
                    (format!("trace={step}"), format!("inject={step}:signal=KILL:when={count}"));
                let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
                let said = match agent_dies {
                    true => push(&states, &[], &victim, &format!("{} {CLONETOOL} agent", strace.join(" "))),
                    false => push(&states, &strace, &victim, &format!("{CLONETOOL} agent")),
                };
                if said.code == 0 {
                    states.judge(&victim, &said, "no kill");
                    break;
                }
                kills += 1;
                let what = format!("{step} {count}, agent {agent_dies}");
                if kills % 2 == 0 {
                    // The next run recovers by itself.
                    push(&states, &[], &victim, &format!("{CLONETOOL} agent")).expect_code(0);
                    assert_none(&differences(&states.bare_after, &victim));
                    continue;
                }
                clonetool(["recover".as_ref(), victim.as_os_str()]).expect_code(0);
                assert_eq!(staged(&victim), 0, "{what}: something is left in the stage");
                let old = differences(&states.bare_before, &victim);
                let new = differences(&states.bare_after, &victim);
                assert!(old.is_empty() || new.is_empty(), "{what}:\n{}\n{}", lines(&old), lines(&new));
                completed += usize::from(new.is_empty());
            }
        }
    }
    assert!(kills >= 40, "only {kills} kills");
    assert!(completed >= 5, "{completed} of {kills}");
}

#[test]
fn what_an_interrupted_run_had_staged_is_not_sent_again() {
    let states = States::new("faults-resume");
    let names: Vec<String> = (0..40).map(|number| format!("bulk/file-{number:02}")).collect();
    for (number, name) in (0..).zip(&names) {
        write(
            &states.pair.source.join(name),
            noise(500 + number, 100_000 + usize::try_from(number).unwrap()),
        );
    }
    let agent = format!("{CLONETOOL} agent");
    let whole = push(&states, &[], &states.victim(), &agent).expect_code(0);
    let bytes = whole.count("wire_sent_bytes");
    assert!(bytes > 4_000_000, "{bytes}");
    let victim = states.victim();
    let cut = format!("stdbuf -o0 head -c {} | {agent}", bytes / 2);
    push(&states, &[], &victim, &cut).expect_code(6);
    assert!(staged(&victim) >= 10, "only {} files were staged", staged(&victim));
    // Cut again, hardly begun: what there was is not lost.
    push(&states, &[], &victim, &format!("stdbuf -o0 head -c {} | {agent}", bytes / 20)).expect_code(6);
    // One of them is not what production has any more, and has kept its length and time.
    let stage = victim.join("var/lib/clonetool/run/left");
    let large = |entry: &fs::DirEntry| entry.metadata().unwrap().len() > 90_000;
    let damaged = fs::read_dir(&stage).unwrap().map(Result::unwrap).find(large).unwrap().path();
    let before = fs::metadata(&damaged).unwrap();
    let mut content = fs::read(&damaged).unwrap();
    content[5] ^= 1;
    write(&damaged, content);
    set_mtime(&damaged, before.mtime(), before.mtime_nsec());
    let rest = push(&states, &[], &victim, &agent).expect_code(0);
    let sent = rest.count("wire_sent_bytes");
    assert!(sent < bytes * 7 / 10, "{sent} of {bytes} bytes were sent again");
    assert!(rest.count("copied_bytes") > bytes / 4, "{}", rest.describe());
    assert_eq!(staged(&victim), 0, "something is left in the stage");
    assert_none(&differences(&states.pair.source, &victim));
}
