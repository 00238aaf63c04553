//! Records: every sync leaves one, and history, status, check and metrics say what is in them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::common::{CLONETOOL, Output, Workdir, clonetool, clonetool_by, plant, run};

/// A production root with one file, an empty standby, a profile of both, and a place for records.
struct Pair {
    work: Workdir,
    profile: PathBuf,
    records: PathBuf,
}

impl Pair {
    fn new(name: &str, more: &str) -> Self {
        let work = Workdir::new(name);
        let (production, standby) = (work.make("production"), work.make("standby"));
        fs::write(production.join("motd"), "hello").unwrap();
        let profile = work.join("p.toml");
        let (from, to) = (production.display(), standby.display());
        let text = format!("[source]\nroot = \"{from}\"\n[standby]\nroot = \"{to}\"\n{more}");
        fs::write(&profile, text).unwrap();
        let records = work.join("records");
        Self { work, profile, records }
    }

    /// Runs `command PROFILE --records …`.
    fn call(&self, command: &str, extra: &[&str]) -> Output {
        let (profile, records) = (self.profile.to_str().unwrap(), self.records.to_str().unwrap());
        clonetool([&[command, profile, "--records", records], extra].concat())
    }

    fn sync(&self, extra: &[&str]) -> Output {
        self.call("sync", extra)
    }

    /// All records, in the order of their names.
    fn all(&self) -> Vec<Value> {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(&self.records).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }

    /// The only record.
    #[track_caller]
    fn only(&self) -> Value {
        let all = self.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }

    /// Writes a record in its documented form, of a run that began `age` seconds ago (negative: that will begin).
    fn plant(&self, age: i64, outcome: &str, exit_code: Option<u8>) {
        self.plant_to(self.work.join("standby").to_str().unwrap(), age, outcome, exit_code);
    }

    fn plant_to(&self, destination: &str, age: i64, outcome: &str, exit_code: Option<u8>) {
        let now = i64::try_from(now()).unwrap();
        let started = now - age;
        let run = format!("{started}-000000-0001");
        let record = json!({
            "version": 1, "run": run, "program": "0.1.0", "profile": self.profile, "uid": 0,
            "source": self.work.join("production"), "destination": destination, "partial": false,
            "started_seconds": started, "ended_seconds": started + 1, "elapsed_seconds": 1.5,
            "outcome": outcome, "exit_code": exit_code, "message": null, "hints": [], "gates": [], "plan": null,
            "counts": null, "phases": [], "problem_count": 0, "problems": [],
        });
        fs::create_dir_all(&self.records).unwrap();
        fs::write(self.records.join(format!("{run}.json")), record.to_string()).unwrap();
    }

    fn forget(&self) {
        fs::remove_dir_all(&self.records).unwrap();
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn gate(script: &str) -> String {
    format!("[[gate]]\nkind = \"command\"\nname = \"quiet\"\ncommand = [\"/bin/sh\", \"-c\", '{script}']\n")
}

#[test]
fn a_sync_that_is_done_leaves_what_it_did_for_root_alone() {
    let pair = Pair::new("records", &gate("echo calm"));
    let before = now();
    let summary = pair.sync(&["--json"]).expect_code(0).summary();
    let record = pair.only();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let run = record["run"].as_str().unwrap();
    assert_eq!(mode(&pair.records), 0o700);
    assert_eq!(mode(&pair.records.join(format!("{run}.json"))), 0o600);
    assert_eq!((&record["outcome"], &record["exit_code"]), (&json!("in-sync"), &json!(0)));
    assert_eq!(record["profile"], json!(pair.profile));
    assert_eq!(record["destination"], json!(pair.work.join("standby")));
    assert_eq!(record["uid"], 0);
    let times = ["started_seconds", "ended_seconds"].map(|key| record[key].as_u64().unwrap());
    assert!(before <= times[0] && times[0] <= times[1] && times[1] <= now(), "{record}");
    assert_eq!(record["plan"], summary["plan"]);
    for count in ["created", "literal_bytes", "entries_scanned"] {
        assert_eq!(record["counts"][count], summary[count], "{count}");
    }
    assert_eq!(record["gates"][0]["evidence"], "calm");
    assert!(record["phases"].as_array().unwrap().iter().any(|phase| phase["phase"] == "scan"), "{record}");
    let shown =
        clonetool(["history", "--run", run, "--records", pair.records.to_str().unwrap()]).expect_code(0);
    for line in [
        "outcome   in-sync (exit 0)",
        "gate      pass quiet (command, before-plan): calm",
        "changes   1 created",
    ] {
        assert!(shown.stdout.contains(line), "{line}: {}", shown.describe());
    }
    // The latest comes first, also of one second.
    fs::remove_dir_all(pair.work.join("production")).unwrap();
    pair.sync(&[]).expect_code(1);
    let listed = pair.call("history", &["--json"]).expect_code(0).objects();
    assert_eq!([&listed[0]["outcome"], &listed[1]["outcome"]], ["failed", "in-sync"]);
    fs::create_dir(pair.work.join("production")).unwrap();
    // What changes nothing is no run.
    pair.sync(&["-n"]).expect_code(0);
    pair.call("sync", &["--dry-run", "--json"]).expect_code(0);
    assert_eq!(pair.all().len(), 2);
}

#[test]
fn every_other_end_leaves_its_record_too() {
    let refused = Pair::new("records-refused", &gate("echo 3 users; exit 7"));
    refused.sync(&[]).expect_code(3);
    let record = refused.only();
    assert_eq!((&record["outcome"], &record["exit_code"]), (&json!("refused"), &json!(3)));
    assert_eq!((&record["gates"][0]["verdict"], &record["counts"]), (&json!("refused"), &Value::Null));
    assert!(record["message"].as_str().unwrap().contains("exit code 7: 3 users"), "{record}");

    let dirty = Pair::new("records-problems", "");
    fs::create_dir(dirty.work.join("standby/motd")).unwrap();
    fs::write(dirty.work.join("standby/motd/own"), "").unwrap();
    dirty.sync(&["--protect", "own"]).expect_code(4);
    let record = dirty.only();
    assert_eq!((&record["outcome"], &record["exit_code"]), (&json!("problems"), &json!(4)));
    assert_eq!((&record["problem_count"], &record["problems"][0]["path"]), (&json!(1), &json!("/motd")));

    let failed = Pair::new("records-failed", "");
    fs::remove_dir_all(failed.work.join("production")).unwrap();
    failed.sync(&[]).expect_code(1);
    assert_eq!(failed.only()["outcome"], "failed");

    let volatile = Pair::new("records-volatile", "");
    volatile.sync(&["--no-durable"]).expect_code(0);
    assert_eq!(volatile.only()["outcome"], "done");

    let wrong = Pair::new("records-usage", "[rule]\n");
    wrong.sync(&[]).expect_code(2);
    wrong.sync(&["--log-file", "/no/such/place"]).expect_code(2);
    let all = wrong.all();
    assert_eq!(all.iter().map(|record| &record["outcome"]).collect::<Vec<_>>(), ["usage", "usage"]);
    assert_eq!(all[0]["destination"], Value::Null);

    // The keys that a command line may carry are in no record.
    let peer = Pair::new("records-peer", "");
    let secret = "/bin/false --password hunter2";
    peer.sync(&["--destination", "host:/", "-e", secret, "-i", "/root/hunter2"]).expect_code(6);
    let record = peer.only();
    assert_eq!((&record["outcome"], &record["destination"]), (&json!("peer"), &json!("host:/")));
    assert!(!record.to_string().contains("hunter2"), "{record}");
}

#[test]
fn a_run_that_is_ended_leaves_its_record_by_a_signal_or_by_force() {
    let pair = Pair::new("records-signal", "");
    let fifo = pair.work.join("started");
    run("mkfifo", [fifo.to_str().unwrap()]);
    let script = format!("echo $$ >{}; exec sleep 1000", fifo.display());
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, text + &gate(&script)).unwrap();
    for (signal, outcome) in [("-TERM", "interrupted"), ("-KILL", "unfinished")] {
        let mut command = Command::new(CLONETOOL);
        command.args([
            "sync".as_ref(),
            pair.profile.as_os_str(),
            "--records".as_ref(),
            pair.records.as_os_str(),
        ]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let waiting = fs::read_to_string(&fifo).unwrap();
        // While it runs, it can be seen.
        assert_eq!(pair.only()["outcome"], "unfinished");
        run("kill", [signal, &child.id().to_string()]);
        child.wait().unwrap();
        if signal == "-KILL" {
            run("kill", [waiting.trim()]);
        }
        let record = pair.only();
        assert_eq!(record["outcome"], outcome);
        assert_eq!(record["destination"], json!(pair.work.join("standby")));
        assert_eq!(record["exit_code"].as_u64(), (signal == "-TERM").then_some(1));
        let shown = pair.call("history", &["--outcome", "failed"]).expect_code(0);
        assert!(shown.stdout.contains(outcome), "{}", shown.describe());
        pair.forget();
    }
}

#[test]
fn two_runs_at_once_leave_two_records_one_of_them_busy() {
    let pair = Pair::new("records-busy", "");
    let held = pair.work.join("held");
    run("mkfifo", [held.to_str().unwrap()]);
    // The first run waits in its follow-up of the plan: its gate is asked again before the first change.
    let asked = pair.work.join("asked");
    let script = format!("[ -e {0} ] && cat {1} >/dev/null; : >{0}", asked.display(), held.display());
    let gate = gate(&script).replace("\"command\"\n", "\"replication\"\nmethod = \"command\"\n");
    let text = fs::read_to_string(&pair.profile).unwrap();
    let gated = pair.work.join("gated.toml");
    fs::write(&gated, text + &gate).unwrap();
    let mut command = Command::new(CLONETOOL);
    command.args(["sync".as_ref(), gated.as_os_str(), "--records".as_ref(), pair.records.as_os_str()]);
    let child = command.spawn().unwrap();
    // Opening it for writing waits until the gate of the first run reads, and that run holds the standby then.
    let open = fs::OpenOptions::new().write(true).open(&held).unwrap();
    pair.sync(&[]).expect_code(75);
    drop(open);
    assert!(child.wait_with_output().unwrap().status.success());
    let mut outcomes: Vec<String> = pair.all().iter().map(|record| record["outcome"].to_string()).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["\"busy\"", "\"in-sync\""]);
}

#[test]
fn a_run_that_cannot_be_recorded_is_not_well() {
    let pair = Pair::new("records-unwritten", "");
    fs::write(&pair.records, "no directory").unwrap();
    let run = pair.sync(&["--json"]).expect_code(4);
    assert_eq!((&run.summary()["outcome"], &run.summary()["exit_code"]), (&json!("unrecorded"), &json!(4)));
    assert_eq!(run.stderr.matches("warning: cannot keep the records in ").count(), 1, "{}", run.describe());
    assert_eq!(fs::read(pair.work.join("standby/motd")).unwrap(), b"hello");
    // What ended badly ends as badly.
    fs::remove_dir_all(pair.work.join("production")).unwrap();
    pair.sync(&[]).expect_code(1).expect_stderr("warning: cannot keep the records in ");
}

#[test]
fn who_is_not_root_is_warned_once_and_goes_on() {
    let work = Workdir::public("records-user");
    let (from, to) = (work.make("from"), work.make("to"));
    let program = work.join("clonetool");
    fs::copy(CLONETOOL, &program).unwrap();
    fs::write(from.join("motd"), "hello").unwrap();
    for path in [&from, &to, &from.join("motd")] {
        std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
    }
    let profile = work.join("p.toml");
    fs::write(
        &profile,
        format!("[source]\nroot = \"{}\"\n[standby]\nroot = \"{}\"\n", from.display(), to.display()),
    )
    .unwrap();
    plant::chmod(&profile, 0o644);
    let prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    // The helper would name another place; this is about the default one.
    let args = ["-q", "--records", "/var/lib/clonetool/records"];
    let args = [&["sync", profile.to_str().unwrap()], &args[..]].concat();
    let run = clonetool_by(&prefix, program.to_str().unwrap(), args).expect_code(0);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.describe());
    assert!(
        run.stderr.starts_with("clonetool: warning: cannot keep the records in /var/lib/clonetool/records: ")
    );
    assert_eq!(fs::read(to.join("motd")).unwrap(), b"hello");
}

#[test]
fn the_list_is_filtered_and_says_what_it_leaves_out() {
    let pair = Pair::new("records-list", "");
    for (age, outcome, code) in [
        (500_000, "in-sync", 0),
        (400, "problems", 4),
        (300, "refused", 3),
        (200, "peer", 6),
        (100, "in-sync", 0),
    ] {
        pair.plant(age, outcome, Some(code));
    }
    let count = |extra: &[&str]| {
        let listed = pair.call("history", &[extra, &["--json"]].concat()).expect_code(0).objects();
        listed.iter().map(|record| record["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(count(&[]), ["in-sync", "peer", "refused", "problems", "in-sync"]);
    assert_eq!(count(&["--outcome", "ok", "--since", "1h"]), ["in-sync"]);
    assert_eq!(count(&["--outcome", "problems"]), ["problems"]);
    assert_eq!(count(&["--outcome", "refused"]), ["refused"]);
    assert_eq!(count(&["--outcome", "failed"]), ["peer"]);
    let listed = pair.call("history", &["--limit", "2"]).expect_code(0);
    assert_eq!(listed.stdout.lines().count(), 3, "{}", listed.describe());
    assert!(listed.stdout.ends_with("and 3 more: --limit 5 shows them\n"), "{}", listed.describe());
    let records = pair.records.to_str().unwrap();
    let other = clonetool(["history", "linux-daily", "--records", records]).expect_code(0);
    assert_eq!(other.stdout, "no such run is recorded\n");
    clonetool(["history", "--run", "1-000000-0001", "--records", records]).expect_code(1);
    clonetool(["history", "--run", "../x", "--records", records]).expect_code(2);
}

#[test]
fn a_damaged_record_is_named_and_hides_no_other() {
    let pair = Pair::new("records-damaged", "[schedule]\nrpo = \"1h\"\n");
    pair.plant(100, "in-sync", Some(0));
    fs::write(pair.records.join("5-000000-0005.json"), "{\"version\":").unwrap();
    let name =
        format!("a record cannot be read: {}/5-000000-0005.json: it is no record", pair.records.display());
    let listed = pair.call("history", &[]).expect_code(4).expect_stderr(&name);
    assert_eq!(listed.stdout.lines().count(), 1, "{}", listed.describe());
    let status = pair.call("status", &[]).expect_code(4).expect_stderr(&name);
    assert!(status.stdout.starts_with("OK        "), "{}", status.describe());
    let checked = pair.call("check", &[]).expect_code(3);
    assert!(checked.stdout.starts_with(&format!("CLONETOOL UNKNOWN - {name}")), "{}", checked.describe());
    let metrics = clonetool(["metrics", "--records", pair.records.to_str().unwrap()]).expect_code(0);
    assert!(metrics.stdout.ends_with("\nclonetool_damaged_records 1\n"), "{}", metrics.describe());
}

#[test]
fn old_records_go_when_a_run_ends() {
    let pair = Pair::new("records-old", "");
    for age in 0..101 {
        pair.plant(500 * 86_400 + age, "in-sync", Some(0));
    }
    pair.sync(&[]).expect_code(0);
    // The latest hundred stay: the new one and 99 of the old.
    let all = pair.all();
    assert_eq!(all.len(), 100);
    assert_eq!(all.iter().filter(|record| record["counts"] != Value::Null).count(), 1);
}

#[test]
fn status_says_how_old_a_standby_is_and_what_came_since() {
    let pair = Pair::new("records-status", "[schedule]\nrpo = \"1h\"\n");
    let profile = pair.profile.to_str().unwrap();
    let empty = pair.call("status", &[]).expect_code(0);
    assert_eq!(empty.stdout, format!("UNKNOWN   {profile}\n  no run is recorded\n"));
    for (age, outcome, code) in
        [(7200, "in-sync", 0), (300, "refused", 3), (200, "refused", 3), (100, "busy", 75)]
    {
        pair.plant(age, outcome, Some(code));
    }
    let status = pair.call("status", &[]).expect_code(0);
    let lines: Vec<&str> = status.stdout.lines().collect();
    assert_eq!(lines[0], format!("CRITICAL  {profile} to {}", pair.work.join("standby").display()));
    assert!(lines[1].ends_with(", 2 h ago; at most 1 h is allowed"), "{}", status.describe());
    assert!(lines[2].starts_with("  last run  20") && lines[2].ends_with(", busy (exit 75)"), "{}", lines[2]);
    assert!(
        lines[3].starts_with("  before it 20") && lines[3].ends_with(", refused (exit 3)"),
        "{}",
        lines[3]
    );
    assert_eq!(lines[4..], ["  refused   2 since the last good run"]);
    let event = &pair.call("status", &["--json"]).expect_code(0).objects()[0];
    assert_eq!((&event["health"], &event["rpo_seconds"]), (&json!("CRITICAL"), &json!(3600)));
    assert_eq!(event["refused_since_good"], 2);
    assert!((7200..7300).contains(&event["age_seconds"].as_u64().unwrap()), "{event}");
    // All profiles that have records, without naming any.
    let all = clonetool(["status", "--records", pair.records.to_str().unwrap()]).expect_code(0);
    assert_eq!(all.stdout, status.stdout);
}

#[test]
fn check_answers_as_monitoring_plugins_do() {
    let pair = Pair::new("records-check", "[schedule]\nrpo = \"100h\"\n");
    let ok = [(1000_i64, "in-sync", Some(0_u8))];
    let (near, late) = (81 * 3600, 101 * 3600);
    type Case<'a> = (&'a [(i64, &'a str, Option<u8>)], &'a [&'a str], i32, &'a str);
    let table: [Case<'_>; 17] = [
        (&[], &[], 3, "no run is recorded"),
        (&ok, &[], 0, "last good run 16 min ago | "),
        (&[(near, "in-sync", Some(0))], &[], 1, "last good run 3 d 9 h ago, 4 d 4 h allowed"),
        (&[(late, "in-sync", Some(0))], &[], 2, "last good run 4 d 5 h ago, 4 d 4 h allowed"),
        (&[(late, "in-sync", Some(0))], &["--critical", "200h"], 0, "last good run 4 d 5 h ago"),
        (&ok, &["--critical", "10m"], 2, "10 min allowed"),
        (&ok, &["--warning", "10m"], 1, "last good run 16 min ago"),
        (
            &[(2000, "in-sync", Some(0)), (10, "problems", Some(4))],
            &[],
            1,
            "the last run ended with problems (exit 4)",
        ),
        (
            &[(2000, "in-sync", Some(0)), (10, "refused", Some(3))],
            &[],
            1,
            "the last run ended with refused (exit 3)",
        ),
        (&[(2000, "in-sync", Some(0)), (10, "busy", Some(75))], &[], 0, "last good run 33 min ago"),
        (&[(late, "in-sync", Some(0)), (10, "problems", Some(4))], &[], 2, "4 d 4 h allowed"),
        (&[(10, "problems", Some(4))], &[], 2, "no good run is recorded"),
        (&[(10, "unfinished", None)], &[], 2, "no good run is recorded"),
        (&[(-7200, "in-sync", Some(0))], &[], 3, "in the future: a clock is or was wrong"),
        (&[(2000, "in-sync", Some(0)), (-7200, "refused", Some(3))], &[], 3, "in the future"),
        (&ok, &["--destination", "elsewhere:/"], 3, "no run is recorded"),
        (&ok, &["--warning", "3h", "--critical", "2h"], 3, "--warning is longer than --critical"),
    ];
    for (runs, extra, code, text) in table {
        runs.iter().for_each(|(age, outcome, exit)| pair.plant(*age, outcome, *exit));
        let checked = pair.call("check", extra).expect_code(code);
        let word = ["OK", "WARNING", "CRITICAL", "UNKNOWN"][usize::try_from(code).unwrap()];
        assert!(checked.stdout.starts_with(&format!("CLONETOOL {word} - ")), "{}", checked.describe());
        assert!(checked.stdout.contains(text), "{text}: {}", checked.describe());
        assert_eq!(
            (checked.stdout.lines().count(), checked.stderr.as_str()),
            (1, ""),
            "{}",
            checked.describe()
        );
        if !runs.is_empty() {
            pair.forget();
        }
    }
}

#[test]
fn check_gives_the_age_in_seconds_with_its_limits() {
    let pair = Pair::new("records-perfdata", "[schedule]\nrpo = \"100h\"\n");
    pair.plant(1000, "in-sync", Some(0));
    let checked = pair.call("check", &[]).expect_code(0);
    let (_, data) = checked.stdout.trim_end().split_once(" | ").expect("performance data");
    let label = format!("'{} to {}'=", pair.profile.display(), pair.work.join("standby").display());
    let value = data.strip_prefix(&label).expect("the label").strip_suffix("s;288000;360000;0").expect(data);
    assert!((1000..1100).contains(&value.parse::<u64>().unwrap()), "{data}");
}

#[test]
fn of_several_standbys_the_worst_decides_unless_one_is_named() {
    let pair = Pair::new("records-several", "[schedule]\nrpo = \"1h\"\n");
    pair.plant_to("a:/", 10, "in-sync", Some(0));
    pair.plant_to("b:/", 7200, "in-sync", Some(0));
    let profile = pair.profile.display();
    let worst = pair.call("check", &[]).expect_code(2);
    let text = format!(
        "CLONETOOL CRITICAL - {profile} to b:/: last good run 2 h ago, 1 h allowed; {profile} to a:/: "
    );
    assert!(worst.stdout.starts_with(&text), "{}", worst.describe());
    assert_eq!(worst.stdout.matches("s;2880;3600;0").count(), 2, "{}", worst.describe());
    pair.call("check", &["--destination", "a:/"]).expect_code(0);
    pair.call("check", &["--destination", "root@a:/"]).expect_code(0);
    pair.call("check", &["--destination", "b:/"]).expect_code(2);
    assert_eq!(pair.call("status", &[]).expect_code(0).stdout.matches("  last good ").count(), 2);
}

#[test]
fn a_run_whose_options_leave_something_out_does_not_pass_for_a_whole_one() {
    let pair = Pair::new("records-partial", "[schedule]\nrpo = \"1h\"\n");
    for option in ["--exclude=/motd", "--include=/etc", "--protect=/motd", "--rules-from=linux-daily", "-x"] {
        pair.sync(&[option]).expect_code(0);
        assert_eq!(
            (&pair.only()["outcome"], &pair.only()["partial"]),
            (&json!("in-sync"), &json!(true)),
            "{option}"
        );
        let checked = pair.call("check", &[]).expect_code(2);
        assert!(checked.stdout.contains("no good run is recorded"), "{}", checked.describe());
        let listed = pair.call("history", &[]).expect_code(0);
        assert!(
            listed.stdout.contains("in-sync (exit 0), of what its options left"),
            "{}",
            listed.describe()
        );
        pair.forget();
    }
    pair.sync(&[]).expect_code(0);
    pair.call("check", &[]).expect_code(0);
}

#[test]
fn what_check_cannot_judge_is_unknown() {
    let pair = Pair::new("records-unknown", "");
    pair.plant(10, "in-sync", Some(0));
    let unlimited = pair.call("check", &[]).expect_code(3);
    assert!(
        unlimited.stdout.contains("the profile has no schedule.rpo; give --critical"),
        "{}",
        unlimited.describe()
    );
    pair.call("check", &["--critical", "1h"]).expect_code(0);
    // A profile that is gone.
    fs::remove_file(&pair.profile).unwrap();
    let gone = pair.call("check", &[]).expect_code(3);
    assert!(gone.stdout.contains("no profile "), "{}", gone.describe());
    // Arguments that are wrong, and records that cannot be read.
    for arguments in [&["check", "--critical", "26"][..], &["check", "--no-such"], &["check", "-c"]] {
        let wrong = clonetool(arguments).expect_code(3);
        assert!(
            wrong.stdout.starts_with("CLONETOOL UNKNOWN - the arguments are wrong"),
            "{}",
            wrong.describe()
        );
        assert!(wrong.stderr.contains("error: "), "{}", wrong.describe());
    }
    clonetool(["check", "--help"]).expect_code(0);
    let file = pair.work.join("file");
    fs::write(&file, "").unwrap();
    let unread = clonetool(["check", "--records", file.to_str().unwrap()]).expect_code(3);
    assert!(
        unread.stdout.starts_with("CLONETOOL UNKNOWN - cannot read the records in "),
        "{}",
        unread.describe()
    );
    let nothing = clonetool(["check", "--records", "/no/such/place"]).expect_code(3);
    assert_eq!(nothing.stdout, "CLONETOOL UNKNOWN - no run is recorded in /no/such/place\n");
}

/// Samples of an exposition in the text format 0.0.4: metric and labels to value. Each metric is announced before.
fn samples(text: &str) -> Vec<(String, f64)> {
    let (mut announced, mut samples) = (String::new(), Vec::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.split(' ').collect();
            match words[0] {
                "HELP" => announced = words[1].to_owned(),
                "TYPE" => assert_eq!((words[1], words[2]), (&announced[..], "gauge")),
                _ => panic!("{line}"),
            }
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert_eq!(name.split('{').next(), Some(&announced[..]), "{line}");
            samples.push((name.to_owned(), value.parse().expect("a number")));
        }
    }
    assert!(text.ends_with('\n'));
    samples
}

#[test]
fn metrics_are_what_the_runs_were_and_the_file_is_replaced_whole() {
    let pair = Pair::new("records-metrics", "[schedule]\nrpo = \"26h\"\n");
    let summary = pair.sync(&["--json"]).expect_code(0).summary();
    let record = pair.only();
    let file = pair.work.join("clonetool.prom");
    let before = fs::write(&file, "old").and_then(|()| fs::File::open(&file)).unwrap();
    let output = file.to_str().unwrap();
    assert_eq!(pair.call("metrics", &["--output", output]).expect_code(0).stdout, "");
    assert_eq!(std::io::read_to_string(before).unwrap(), "old");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(pair.call("metrics", &[]).expect_code(0).stdout, text);
    let (profile, work) = (pair.profile.display(), pair.work.path().display());
    let labels =
        format!("{{profile=\"{profile}\",source=\"{work}/production\",destination=\"{work}/standby\"}}");
    let samples = samples(&text);
    let value = |name: &str| {
        let name = format!("clonetool_{name}{labels}");
        samples.iter().find(|(found, _)| *found == name).unwrap_or_else(|| panic!("{name}: {text}")).1
    };
    let started = record["started_seconds"].as_f64().unwrap();
    assert_eq!(value("last_success_timestamp_seconds").to_bits(), started.to_bits());
    assert_eq!(value("last_run_timestamp_seconds").to_bits(), started.to_bits());
    for (name, expected) in [
        ("last_run_exit_code", 0.0),
        ("last_run_problems", 0.0),
        ("last_run_entries", summary["entries_scanned"].as_f64().unwrap()),
        ("last_run_content_bytes", 5.0),
        ("last_run_duration_seconds", record["elapsed_seconds"].as_f64().unwrap()),
        ("refused_runs", 0.0),
        ("rpo_seconds", 93_600.0),
    ] {
        assert_eq!(value(name).to_bits(), expected.to_bits(), "{name}");
    }
    pair.call("metrics", &["--output", "/no/such/place/x.prom"]).expect_code(1);
}
