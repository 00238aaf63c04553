//! What `status`, `check` and `metrics` say of the standbys by the records of their runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use syncore::prepare::{Held, Journal};

use crate::common::clonetool;
use crate::common::recorded::{Pair, now};

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

#[test]
fn runs_that_did_not_begin_are_missed_by_the_calendar_of_the_profile() {
    let pair = Pair::new("status-missed", "[schedule]\nrpo = \"1000h\"\ncalendar = \"0 * * * *\"\n");
    pair.plant(600, "in-sync", Some(0));
    let fresh = pair.call("check", &[]).expect_one_of(&[0, 1]).stdout;
    assert!(fresh.contains(" missed'=0;0;;0") || fresh.contains(" missed'=1;0;;0"), "{fresh}");
    pair.forget();
    let began = now() - 36_000;
    pair.plant(36_000, "in-sync", Some(0));
    // Those to another standby are started by nobody's schedule.
    pair.plant_to("elsewhere:/", 35_000, "in-sync", Some(0));
    // Due at each full hour since, and late half an hour after it.
    let missing = (now() - 1800) / 3600 - began / 3600;
    let text = format!("{missing} runs are missing since the last one");
    let checked = pair.call("check", &[]).expect_code(1);
    assert!(checked.stdout.contains(&format!("h ago; {text}")), "{}", checked.describe());
    assert!(checked.stdout.contains(&format!("standby missed'={missing};0;;0")), "{}", checked.describe());
    assert_eq!(checked.stdout.matches("missing").count(), 1, "{}", checked.describe());
    pair.call("check", &["--destination", "elsewhere:/"]).expect_code(0);
    let status = pair.call("status", &[]).expect_code(0);
    assert!(status.stdout.starts_with("WARNING   ") || status.stdout.contains("\nWARNING   "));
    let next = status.stdout.lines().find(|line| line.starts_with("  next run  ")).expect("a next run");
    assert!(next.ends_with(&format!(":00 UTC; {text}")), "{}", status.describe());
    let event = &pair.call("status", &["--json"]).expect_code(0).objects();
    let own = event.iter().find(|event| event["missed_runs"] == json!(missing)).expect("the own one");
    let due = own["next_run_seconds"].as_u64().unwrap();
    assert!(due % 3600 == 0 && due > now() - 10 && due <= now() + 3600, "{own}");
    let metrics = samples(&pair.call("metrics", &[]).expect_code(0).stdout);
    let of = |name: &str| metrics.iter().filter(|(sample, _)| sample.starts_with(name)).collect::<Vec<_>>();
    assert_eq!(of("clonetool_missed_runs").len(), 1);
    assert_eq!(
        of("clonetool_missed_runs")[0].1.to_bits(),
        f64::from(u32::try_from(missing).unwrap()).to_bits()
    );
    assert_eq!(of("clonetool_next_run_timestamp_seconds").len(), 1);
}

#[test]
fn a_standby_that_was_rolled_back_looks_healthy_nowhere() {
    let pair = Pair::new("status-back", "[schedule]\nrpo = \"26h\"\n");
    let root = pair.work.join("standby").display().to_string();
    pair.sync(&[]).expect_code(0);
    let value = |name: &str| {
        let metrics = samples(&pair.call("metrics", &[]).expect_code(0).stdout);
        metrics.iter().find(|(sample, _)| sample.starts_with(name)).expect(name).1
    };
    assert_eq!(value("clonetool_suspended").to_bits(), 0.0_f64.to_bits());
    assert_eq!(value("clonetool_generation").to_bits(), 1.0_f64.to_bits());
    pair.call("rollback", &["--root", &root]).expect_code(0);
    let check = || {
        pair.call("check", &[]).expect_code(2);
        let status = pair.call("status", &[]).expect_code(0);
        assert!(status.stdout.starts_with("CRITICAL  "), "{}", status.describe());
        assert!(status.stdout.contains("\n  suspended no run may change it since"), "{}", status.describe());
        assert!(status.stdout.contains("\n  state     2\n"), "{}", status.describe());
        assert_eq!(value("clonetool_suspended").to_bits(), 1.0_f64.to_bits());
        assert_eq!(value("clonetool_generation").to_bits(), 2.0_f64.to_bits());
    };
    check();
    assert_eq!(value("clonetool_last_success_timestamp_seconds").to_bits(), 0.0_f64.to_bits());
    // Production only learns it from a sync that is refused.
    pair.sync(&[]).expect_code(3);
    let refused = pair.all().pop().unwrap();
    assert_eq!((&refused["outcome"], &refused["generation"]), (&json!("suspended"), &json!(2)));
    fs::remove_file(pair.records.join(format!("{}.json", refused["run"].as_str().unwrap()))).unwrap();
    // Somebody did so from elsewhere, so that no record is here: the root itself says it.
    let back = pair.all().pop().unwrap();
    fs::remove_file(pair.records.join(format!("{}.json", back["run"].as_str().unwrap()))).unwrap();
    check();
    // On the standby, where no sync is recorded.
    pair.forget();
    let there = ["status", "--root", &root, "--records", pair.records.to_str().unwrap()];
    let status = clonetool(there).expect_code(0);
    let expected = format!("\nstandby   {root}\n  state     2\n  suspended no run may change it");
    assert!(status.stdout.contains(&expected), "{}", status.describe());
    let event = &clonetool([&there[..], &["--json"]].concat()).expect_code(0).objects()[0];
    assert_eq!((&event["type"], &event["suspended"]), (&json!("root"), &json!(true)));
}

#[test]
fn status_says_what_is_left_undone_for_the_next_boot_and_what_is_held() {
    let pair = Pair::new("status-boot", "[schedule]\nrpo = \"26h\"\n");
    pair.sync(&[]).expect_code(0);
    let state = pair.work.make("standby/var/lib/clonetool/prepare");
    let held =
        Held { kind: "cron".into(), name: "/etc/cron.d/pay".into(), how: "moved".into(), undo: vec![] };
    let journal =
        Journal { hostname: "standby1".into(), complete: true, held: vec![held], ..Journal::default() };
    fs::write(state.join("journal.json"), serde_json::to_vec(&journal).unwrap()).unwrap();
    let told = |text: &str, code: i32| {
        let status = pair.call("status", &[]).expect_code(0);
        assert!(status.stdout.contains(text), "{text}: {}", status.describe());
        pair.call("check", &[]).expect_code(code);
    };
    told("\n  boot      prepared as standby1; nothing is left undone\n", 0);
    told("\n  held      1 of production's: clonetool hold list\n", 0);
    fs::write(state.join("follow.json"), "[\"initramfs\"]").unwrap();
    told("prepared as standby1; left undone by a sync: make the initramfs of each kernel\n", 1);
    // What cannot be told is no good news.
    fs::write(state.join("follow.json"), "[").unwrap();
    let checked = pair.call("check", &[]).expect_code(3);
    assert!(checked.stdout.starts_with("CLONETOOL UNKNOWN - "), "{}", checked.describe());
    assert!(pair.call("status", &[]).expect_code(0).stdout.contains("\n  root      "));
    fs::write(state.join("follow.json"), "[\"initramfs\"]").unwrap();
    let journal = Journal { complete: false, ..journal };
    fs::write(state.join("journal.json"), serde_json::to_vec(&journal).unwrap()).unwrap();
    told("\n  boot      its preparation did not come to its end: run prepare-root again\n", 1);
}

#[test]
fn status_says_when_content_was_last_compared_and_what_is_protected() {
    let rules = "[rules]\nprotect = [\"/a\", \"/b\"]\n[[row]]\npath = \"/etc/hostname\"\nclass = \"A\"\n\
                 what = \"host name\"\nsource = \"hostname(5)\"\n";
    let pair = Pair::new("status-verified", rules);
    let (profile, records) = (pair.profile.to_str().unwrap(), pair.records.to_str().unwrap());
    pair.sync(&[]).expect_code(0);
    let verify =
        |code| clonetool(["verify", "-q", "--profile", profile, "--records", records]).expect_code(code);
    let line = |name: &str| {
        let status = pair.call("status", &[]).expect_code(0).stdout;
        status.lines().find(|line| line.starts_with(&format!("  {name} "))).map(str::to_owned)
    };
    assert_eq!(line("verified"), None);
    verify(0);
    assert!(line("verified").unwrap().ends_with(" ago, equal (exit 0)"), "{:?}", line("verified"));
    // As large and as old, and not the same.
    let (motd, there) = (pair.work.join("production/motd"), pair.work.join("standby/motd"));
    fs::write(&there, "HELLO").unwrap();
    let times = fs::FileTimes::new().set_modified(fs::metadata(motd).unwrap().modified().unwrap());
    fs::File::options().write(true).open(&there).unwrap().set_times(times).unwrap();
    verify(5);
    assert!(line("verified").unwrap().ends_with(" ago, 1 paths differed"), "{:?}", line("verified"));
    let protected = format!("  protected 1 own (A), 2 by rule: clonetool explain {profile} PATH");
    assert_eq!(line("protected"), Some(protected));
    // A comparison is no sync.
    let listed = pair.call("history", &["--json"]).expect_code(0).objects();
    assert_eq!([&listed[0]["kind"], &listed[0]["outcome"]], ["verify", "differences"]);
    let event = &pair.call("status", &["--json"]).expect_code(0).objects()[0];
    assert_eq!([&event["last_run_outcome"], &event["verified_outcome"]], ["in-sync", "differences"]);
    assert_eq!((&event["protected_classes"], &event["protect_rules"]), (&json!({"A": 1}), &json!(2)));
}
