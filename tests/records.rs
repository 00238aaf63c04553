//! Records: every sync leaves one, and history says what is in them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use syncore::prepare::Journal;

use crate::common::recorded::{Pair, gate, now};
use crate::common::{CLONETOOL, Workdir, clonetool, clonetool_by, plant, run};

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
    assert_eq!((&record["kind"], &record["generation"]), (&json!("sync"), &json!(1)));
    assert_eq!(record["tree"].as_str().map(str::len), Some(32), "{record}");
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
fn a_refusal_of_what_is_held_after_the_rest_was_synced_is_a_problem_and_else_a_refusal() {
    let row = "[[row]]\npath = \"/etc/cron.d\"\nclass = \"G\"\nwhat = \"jobs\"\nsource = \"cron(8)\"\n";
    let pair = Pair::new("records-held", row);
    let at = |path: &str| pair.work.join(path);
    plant::write(&at("production/etc/cron.d/pay"), "* * * * * root /srv/pay\n");
    let journal = Journal { hostname: "standby".into(), complete: true, ..Journal::default() };
    plant::write(
        &at("standby/var/lib/clonetool/prepare/journal.json"),
        serde_json::to_vec(&journal).unwrap(),
    );
    // Asked before the plan, and again before what is changed of each part: the third time it refuses.
    let count = at("asked");
    let script = format!("n=$(cat {0}); echo $((n + 1)) >{0}; [ $n -lt 2 ]", count.display());
    let gate = gate(&script).replace("\"command\"\n", "\"replication\"\nmethod = \"command\"\n");
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, text + &gate).unwrap();
    fs::write(&count, "0").unwrap();
    let run = pair.sync(&["--json"]).expect_code(4);
    assert_eq!((run.count("created") > 0, run.count("problems")), (true, 1), "{}", run.describe());
    assert!(at("standby/motd").exists() && !at("standby/var/lib/clonetool/production/etc").exists());
    let problem = &pair.only()["problems"][0];
    assert_eq!(problem["path"], "/var/lib/clonetool/production");
    assert!(problem["reason"].as_str().unwrap().starts_with("refused by the gate quiet "), "{problem}");
    // Nothing else is to be done: then nothing was changed.
    fs::write(&count, "1").unwrap();
    pair.sync(&[]).expect_code(3).expect_stderr("nothing was changed");
    fs::write(&count, "0").unwrap();
    pair.sync(&[]).expect_code(0);
    assert!(at("standby/var/lib/clonetool/production/etc/cron.d/pay").exists());
}

#[test]
fn of_more_than_ten_thousand_records_the_oldest_go_but_for_the_last_word_on_a_standby() {
    let pair = Pair::new("records-many", "");
    pair.plant_to("elsewhere:/", 30_000, "in-sync", Some(0));
    pair.plant(20_000, "in-sync", Some(0));
    let planted = pair.all().pop().unwrap();
    let (started, text) = (planted["started_seconds"].as_u64().unwrap(), planted.to_string());
    let failed = text.replace("in-sync", "failed");
    for second in started + 1..started + 10_010 {
        let text = failed.replace(&started.to_string(), &second.to_string());
        fs::write(pair.records.join(format!("{second}-000000-0001.json")), text).unwrap();
    }
    pair.sync(&[]).expect_code(0);
    let all = pair.all();
    assert_eq!(all.len(), 10_001);
    assert_eq!((&all[0]["destination"], &all[0]["outcome"]), (&json!("elsewhere:/"), &json!("in-sync")));
    // The new one is the last word on the other.
    let good = all.iter().filter(|record| record["outcome"] == "in-sync").count();
    assert_eq!(good, 2);
}

#[test]
fn a_rollback_and_a_recovery_leave_records_of_their_own_and_no_good_run() {
    let pair = Pair::new("records-restored", "[schedule]\nrpo = \"26h\"\n");
    let (profile, standby) = (pair.profile.to_str().unwrap(), pair.work.join("standby"));
    let (records, root) = (pair.records.to_str().unwrap(), standby.to_str().unwrap());
    pair.sync(&[]).expect_code(0);
    fs::write(pair.work.join("production/motd"), "changed").unwrap();
    pair.sync(&[]).expect_code(0);
    pair.call("check", &[]).expect_code(0);
    // As if the power had failed before the end of the last run: its journal is in its place again.
    let home = standby.join(".clonetool");
    fs::rename(home.join("kept/2/journal"), home.join("journal")).unwrap();
    clonetool(["recover", root, "--records", records]).expect_code(0);
    let recovery = pair.all().pop().unwrap();
    assert_eq!([&recovery["kind"], &recovery["outcome"]], ["recovery", "done"]);
    assert_eq!((&recovery["generation"], &recovery["profile"]), (&json!(2), &json!(profile)));
    pair.call("check", &[]).expect_code(0);
    // Nothing to recover is no run, and neither is a rollback that cannot be or only looks.
    clonetool(["recover", root, "--records", records]).expect_code(0);
    let rollback = |extra: &[&str]| pair.call("rollback", &[&["--root", root], extra].concat());
    rollback(&["--dry-run"]).expect_code(0);
    rollback(&["--to", "7"]).expect_code(3);
    assert_eq!(pair.all().len(), 3);
    rollback(&[]).expect_code(0);
    let back = pair.all().pop().unwrap();
    assert_eq!([&back["kind"], &back["outcome"], &back["destination"]], ["rollback", "done", root]);
    assert_eq!(
        (&back["undone"], &back["generation"], &back["counts"]),
        (&json!([2]), &json!(3), &Value::Null)
    );
    let checked = pair.call("check", &[]).expect_code(2);
    assert!(checked.stdout.contains(": rolled back 0 s ago; no good run since"), "{}", checked.describe());
    let listed = pair.call("history", &[]).expect_code(0).stdout;
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].contains(&format!("  rollback of {profile} to {root}: ")), "{listed}");
    assert!(lines[0].ends_with(", done (exit 0); state 3"), "{listed}");
    assert!(lines[1].contains(&format!("  recovery of {profile} to {root}: ")), "{listed}");
    assert!(lines[2].ends_with("; 1 updated; state 2"), "{listed}");
    let shown = clonetool(["history", "--run", back["run"].as_str().unwrap(), "--records", records]);
    for line in ["kind      rollback\n", "undone    the runs to state 2\n", "state     3\n"] {
        assert!(shown.stdout.contains(line), "{line}: {}", shown.describe());
    }
    // A host that only sees its syncs refused knows it, too.
    let refused = pair.sync(&["--json"]).expect_code(3);
    assert_eq!(refused.summary()["outcome"], "refused");
    fs::remove_file(pair.records.join(format!("{}.json", back["run"].as_str().unwrap()))).unwrap();
    let checked = pair.call("check", &[]).expect_code(2);
    assert!(checked.stdout.contains(": rolled back, as a run found "), "{}", checked.describe());
    clonetool(["schedule", "resume", "--root", root]).expect_code(0);
    pair.sync(&[]).expect_code(0);
    pair.call("check", &[]).expect_code(0);
}

#[test]
fn a_sync_that_completes_an_interrupted_run_first_records_both() {
    let pair = Pair::new("records-completed", "");
    pair.sync(&[]).expect_code(0);
    let home = pair.work.join("standby/.clonetool");
    fs::rename(home.join("kept/1/journal"), home.join("journal")).unwrap();
    let run = pair.sync(&["-v"]).expect_code(0);
    run.expect_stderr("was completed first: the standby was in state 1");
    let kinds: Vec<Value> = pair.all().iter().map(|record| record["kind"].clone()).collect();
    assert_eq!(kinds, ["sync", "recovery", "sync"]);
    assert_eq!(pair.all()[1]["generation"], 1);
}
