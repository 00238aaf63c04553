//! What a run that nobody watches tells: a log file a day, and the system's log.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::clonetool;
use crate::common::recorded::{Pair, gate};

/// The only file in a directory of logs, and its lines without time and process.
#[track_caller]
fn log(directory: &Path) -> (PathBuf, Vec<String>) {
    let files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let text = fs::read_to_string(&files[0]).unwrap();
    let lines = text.lines().map(|line| line.split_once("] ").expect("a process").1.to_owned());
    (files[0].clone(), lines.collect())
}

#[test]
fn the_log_of_a_day_has_start_gates_problems_durations_and_outcome() {
    let pair = Pair::new("unattended-log", &gate("echo calm"));
    let directory = pair.work.join("a/log");
    let options = ["-q", "--log-dir", directory.to_str().unwrap()];
    assert_eq!(pair.sync(&options).expect_code(0).stdout, "");
    let (path, lines) = log(&directory);
    let record = pair.only();
    let (profile, work) = (pair.profile.display(), pair.work.path().display());
    let run = record["run"].as_str().unwrap();
    assert_eq!(
        lines[0],
        format!("start {run}: {profile} from {work}/production to {work}/standby, by uid 0")
    );
    assert_eq!(lines[1], "gate pass quiet (command, before-plan): calm");
    assert!(lines[2].starts_with("duration 0.") && lines[2].contains(", scan 0."), "{lines:?}");
    assert_eq!(lines[3..], [format!("end {run}: in-sync (exit 0); 1 created; state 1")]);
    // One file for the day, for root alone, called after profile and day.
    let time = fs::read_to_string(&path).unwrap();
    let name = format!("{}-{}.log", &profile.to_string()[1..].replace('/', "_"), &time[..10]);
    assert!(path.to_str().unwrap().ends_with(&name[name.len().saturating_sub(200)..]), "{path:?} {name}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(pair.work.join("standby/motd")).unwrap();
    fs::create_dir_all(pair.work.join("standby/motd/own")).unwrap();
    pair.sync(&[&options[..], &["--protect", "own"]].concat()).expect_code(4);
    let (_, lines) = log(&directory);
    assert!(lines.iter().any(|line| line.starts_with("problem /motd: cannot ")), "{lines:?}");
    assert!(
        lines.last().unwrap().contains(": problems (exit 4), 1 problem, of what its options left"),
        "{lines:?}"
    );
    // A run that ended before it knew its ends has its two lines.
    fs::write(&pair.profile, "[rule]\n").unwrap();
    pair.sync(&options).expect_code(2);
    let (_, lines) = log(&directory);
    assert!(lines[lines.len() - 2].ends_with(&format!(": {profile}, by uid 0")), "{lines:?}");
    assert!(lines.last().unwrap().contains(": usage (exit 2): "), "{lines:?}");
}

#[test]
fn old_logs_go_and_a_log_that_cannot_be_written_changes_nothing() {
    let pair = Pair::new("unattended-old", "");
    let directory = pair.work.join("log");
    let options = ["--log-dir", directory.to_str().unwrap(), "--log-days", "5"];
    pair.sync(&options).expect_code(0);
    let (today, _) = log(&directory);
    let name = today.file_name().unwrap().to_str().unwrap();
    let old = directory.join(format!("{}2001-01-01.log", &name[..name.len() - "2001-01-01.log".len()]));
    for path in [&old, &directory.join("other-2001-01-01.log")] {
        fs::write(path, "").unwrap();
    }
    pair.sync(&options).expect_code(0);
    assert!(!old.exists() && directory.join("other-2001-01-01.log").exists() && today.exists());
    let file = pair.work.join("file");
    fs::write(&file, "").unwrap();
    let run = pair.sync(&["-q", "--log-dir", file.to_str().unwrap()]).expect_code(0);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.describe());
    assert!(run.stderr.ends_with("; the run is not logged\n"), "{}", run.describe());
}

/// A listener as rsyslog and journald are.
fn listen(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket
}

fn hear(socket: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let length = socket.recv(&mut message).unwrap();
    String::from_utf8(message[..length].to_vec()).unwrap()
}

#[test]
fn syslog_hears_an_error_of_a_run_that_did_not_go_well_and_one_line_of_any() {
    let pair = Pair::new("unattended-syslog", &gate("printf \"  3 users\\nnow\\n\" >&2; exit 1"));
    let path = pair.work.join("log");
    let (socket, option) = (listen(&path), format!("--syslog={}", path.display()));
    let (profile, standby) = (pair.profile.display(), pair.work.join("standby").display().to_string());
    pair.sync(&[&option]).expect_code(3);
    let heard = hear(&socket);
    // <11>: facility user, severity err; then the time as `Nov 21 19:05:13`.
    let (priority, rest) = heard.split_at(4);
    assert_eq!(priority, "<11>");
    let is_time = |(at, c): (usize, char)| match at {
        0..=2 => c.is_ascii_alphabetic(),
        3 | 6 | 15 => c == ' ',
        9 | 12 => c == ':',
        _ => c.is_ascii_digit() || (at == 4 && c == ' '),
    };
    assert!(rest.char_indices().take(16).all(is_time), "{heard}");
    let (tag, text) = rest[16..].split_once("]: ").unwrap();
    assert!(tag.starts_with("clonetool["), "{heard}");
    let expected = format!("sync {profile} to {standby}: refused (exit 3): refused by the gate quiet ");
    assert!(text.starts_with(&expected), "{heard}");
    assert!(text.ends_with("exit code 1: 3 users | now"), "{heard}");
    assert!(!heard.contains('\n'), "{heard}");
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, text.split("[[gate]]").next().unwrap()).unwrap();
    pair.sync(&[&option]).expect_code(0);
    let heard = hear(&socket);
    assert!(heard.starts_with("<14>") && heard.contains(": in-sync (exit 0); 1 created"), "{heard}");
    // One line a run, and none unless it is asked for.
    pair.sync(&[]).expect_code(0);
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 10]).is_err());
    // A run that cannot be recorded is not well.
    let unrecorded = ["sync", pair.profile.to_str().unwrap(), "--records", path.to_str().unwrap(), &option];
    clonetool(unrecorded).expect_code(4);
    assert!(hear(&socket).starts_with("<11>"));
}

#[test]
fn a_listener_that_is_not_there_or_does_not_listen_holds_no_run_up() {
    let pair = Pair::new("unattended-deaf", "");
    let path = pair.work.join("log");
    let option = format!("--syslog={}", path.display());
    let absent = pair.sync(&["-q", &option]).expect_code(0);
    assert_eq!(absent.stderr, "");
    let socket = listen(&path);
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"x", &path).is_ok() {}
    let deaf = pair.sync(&["-q", &option]).expect_code(0);
    assert_eq!(deaf.stderr, "");
    drop(socket);
}

#[test]
fn no_password_reaches_a_record_a_log_or_syslog() {
    let said = "cannot reach https://backup:hunter2@example.org/state";
    let pair = Pair::new("unattended-secret", &gate(&format!("echo {said}; exit 1")));
    let (directory, path) = (pair.work.join("log"), pair.work.join("socket"));
    let (socket, syslog) = (listen(&path), format!("--syslog={}", path.display()));
    let options = ["--log-dir", directory.to_str().unwrap(), &syslog];
    // What is on the command line is not told at all.
    let secret = ["--destination", "host:/", "-e", "/bin/false --password hunter2", "-i", "/root/hunter2"];
    pair.sync(&[&options[..], &secret].concat()).expect_code(3);
    pair.sync(&options).expect_code(3).expect_stderr(said);
    let (_, lines) = log(&directory);
    let heard = [hear(&socket), hear(&socket)].concat();
    for told in [lines.concat(), heard, pair.all().iter().map(ToString::to_string).collect()] {
        assert!(told.contains("https://backup:***@example.org/state"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn a_program_is_told_of_every_end_and_its_own_changes_nothing() {
    let pair = Pair::new("unattended-event", "[schedule]\nrpo = \"26h\"\n");
    let told = pair.work.join("told");
    let text = fs::read_to_string(&pair.profile).unwrap();
    let script = "echo $CLONETOOL_OUTCOME $CLONETOOL_EXIT_CODE $CLONETOOL_GENERATION $1; cat";
    let profile = |script: &str, more: &str| {
        let command = format!("on-event = [\"/bin/sh\", \"-c\", '{script}', \"sh\", \"%s;x\"]\n");
        fs::write(&pair.profile, format!("{command}on-event-timeout = \"2s\"\n{text}{more}")).unwrap();
    };
    let telling = |more: &str| profile(&format!("{{ {script}; }} >{}", told.display()), more);
    let heard = |expected: &str| {
        let text = fs::read_to_string(&told).unwrap();
        let (first, record) = text.split_once('\n').unwrap();
        assert_eq!(first, expected);
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        assert_eq!(record["run"], pair.all().pop().unwrap()["run"]);
        fs::remove_file(&told).unwrap();
    };
    // No shell reads the words, and cron hears nothing of a good run.
    telling("");
    let run = pair.sync(&["-q"]).expect_code(0);
    assert_eq!((&run.stdout[..], &run.stderr[..]), ("", ""));
    heard("in-sync 0 1 %s;x");
    telling(&gate("exit 1"));
    pair.sync(&[]).expect_code(3);
    heard("refused 3 %s;x");
    fs::rename(pair.work.join("production"), pair.work.join("away")).unwrap();
    telling("");
    pair.sync(&[]).expect_code(1);
    heard("failed 1 %s;x");
    fs::rename(pair.work.join("away"), pair.work.join("production")).unwrap();
    pair.sync(&["-n"]).expect_code(0);
    assert!(!told.exists(), "a dry run is no run");
    // One that fails, hangs or is not there is said, and the run was good all the same.
    for (script, reason) in [
        ("echo no route; exit 9", "warning: on-event: /bin/sh: exit code 9: no route\n"),
        ("exec sleep 1000", "warning: on-event: /bin/sh: not done after 2 seconds, and was killed\n"),
    ] {
        profile(script, "");
        let run = pair.sync(&["-q"]).expect_code(0).expect_stderr(reason);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.describe());
    }
    pair.sync(&["-q", "--on-event", "/nonexistent/tell"])
        .expect_code(0)
        .expect_stderr("/nonexistent/tell cannot be run");
    pair.call("check", &[]).expect_code(0);
    // The option takes the place of the key, also of one in a profile that cannot be read.
    let program = pair.work.join("tell");
    fs::write(&program, format!("#!/bin/sh\necho $CLONETOOL_OUTCOME >{}\n", told.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&pair.profile, "[rule]\n").unwrap();
    pair.sync(&["--on-event", program.to_str().unwrap()]).expect_code(2);
    assert_eq!(fs::read_to_string(&told).unwrap(), "usage\n");
}

#[test]
fn what_others_may_write_names_no_program() {
    let pair = Pair::new("unattended-untrusted", "");
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, format!("on-event = [\"/bin/true\"]\n{text}")).unwrap();
    fs::set_permissions(&pair.profile, fs::Permissions::from_mode(0o666)).unwrap();
    pair.sync(&[]).expect_code(2).expect_stderr("has on-event, and others than root may write it");
    for (command, reason) in [
        ("[]", "bad on-event ``: the program is not an absolute path"),
        ("[\"tell\"]", "bad on-event `tell`: the program is not an absolute path"),
    ] {
        fs::write(&pair.profile, format!("on-event = {command}\n{text}")).unwrap();
        pair.sync(&[]).expect_code(2).expect_stderr(reason);
    }
}
