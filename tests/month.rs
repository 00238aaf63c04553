//! A month of hourly and daily runs, in simulated time, on a production that changes, with faults, refusals, rollbacks
//! and reboots at random: it ends in sync, and the records say what happened.
//!
//! The clock that the program sees is that of faketime(1); file times stay those of the kernel. Whatever is random comes
//! from one seed, so that a failure can be repeated.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::plant::{chmod, noise, write};
use crate::common::{CLONETOOL, Output, Workdir, clonetool, clonetool_by, lacks};

const HOURS: i64 = 30 * 24;
/// 1 March 2026, 00:00 UTC.
const BEGIN_SECONDS: i64 = 1_772_323_200;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    With(i32),
    Killed,
    /// With a call that failed: perhaps that which wrote the record.
    Failing(i32),
}

struct Month {
    dir: Workdir,
    production: PathBuf,
    standby: PathBuf,
    records: PathBuf,
    quiet: PathBuf,
    random: Random,
    users: u64,
    /// By profile and the second in which it began.
    runs: BTreeMap<(&'static str, i64), Ended>,
}

const HOURLY: &str = "hourly";
const DAILY: &str = "daily";

impl Month {
    fn new() -> Self {
        let dir = Workdir::new("month");
        let (production, standby) = (dir.make("production"), dir.make("standby"));
        let (records, quiet) = (dir.make("records"), dir.join("quiet"));
        for path in ["etc/app", "var/lib", "opt/data", "home"] {
            fs::create_dir_all(production.join(path)).unwrap();
        }
        fs::create_dir_all(standby.join("var/lib")).unwrap();
        fs::create_dir_all(standby.join("etc")).unwrap();
        for (file, line) in [
            ("passwd", "root:x:0:0::/root:/bin/sh"),
            ("group", "root:x:0:"),
            ("shadow", "root:*:20000:0:99999:7:::"),
            ("gshadow", "root:*::"),
        ] {
            write(&production.join("etc").join(file), format!("{line}\n"));
            write(&standby.join("etc").join(file), format!("{line}\n"));
        }
        write(&standby.join("etc/hostname"), "standby\n");
        write(&production.join("etc/hostname"), "production\n");
        for number in 0..40 {
            write(&production.join(format!("opt/data/{number}")), noise(number, 3_000));
        }
        write(&quiet, "");
        let ends = format!(
            "[source]\nroot = \"{}\"\n[standby]\nroot = \"{}\"\n",
            production.display(),
            standby.display()
        );
        write(
            &dir.join("hourly.toml"),
            format!(
                "description = \"accounts\"\nextends = [\"linux\"]\n{ends}[rules]\ninclude = [\"/etc/passwd\", \
                 \"/etc/group\", \"/etc/shadow\", \"/etc/gshadow\"]\n[schedule]\ncalendar = \"5 * * * *\"\nrpo = \"3h\"\n"
            ),
        );
        write(
            &dir.join("daily.toml"),
            format!(
                "description = \"all else\"\nextends = [\"linux\"]\n{ends}[rules]\ninclude = [\"/\"]\n\
                 exclude = [\"/etc/passwd\", \"/etc/group\", \"/etc/shadow\", \"/etc/gshadow\"]\n\
                 [delete]\nenabled = true\n[schedule]\ncalendar = \"30 2 * * *\"\nrpo = \"26h\"\n\
                 [[gate]]\nkind = \"command\"\nname = \"quiet\"\ncommand = [\"/usr/bin/test\", \"-e\", \"{}\"]\n",
                quiet.display()
            ),
        );
        let random = Random(0x5eed_0026_0301_0005);
        Self { dir, production, standby, records, quiet, random, users: 0, runs: BTreeMap::new() }
    }

    fn profile(&self, name: &str) -> String {
        self.dir.join(format!("{name}.toml")).display().to_string()
    }

    /// Something happens on production.
    fn change(&mut self) {
        let number = self.random.below(60);
        let file = self.production.join(format!("opt/data/{number}"));
        match self.random.below(7) {
            0 | 1 => write(&file, noise(self.random.below(1000), 2_000)),
            2 => drop(fs::remove_file(&file)),
            3 => drop(fs::rename(&file, self.production.join(format!("opt/data/{}", (number + 7) % 60)))),
            4 => chmod(&self.production.join("etc/app"), if number < 30 { 0o755 } else { 0o750 }),
            5 => write(&self.production.join("etc/app/configuration"), format!("value = {number}\n")),
            _ => {
                self.users += 1;
                let (name, id) = (format!("user{}", self.users), 1000 + self.users);
                for (file, line) in [
                    ("passwd", format!("{name}:x:{id}:{id}::/home/{name}:/bin/sh\n")),
                    ("group", format!("{name}:x:{id}:\n")),
                    ("shadow", format!("{name}:!:20000:0:99999:7:::\n")),
                    ("gshadow", format!("{name}:!::\n")),
                ] {
                    let path = self.production.join("etc").join(file);
                    write(&path, fs::read_to_string(&path).unwrap() + &line);
                }
            }
        }
    }

    /// Runs the program as if it were `at`.
    fn at(&self, at: i64, prefix: &[&str], arguments: &[&str]) -> Output {
        let time = format!("@{}", run_date(at));
        let mut by = vec!["env", "NO_FAKE_STAT=1", "TZ=UTC", "faketime", "--exclude-monotonic", "-f", &time];
        by.extend(prefix);
        clonetool_by(&by, CLONETOOL, arguments)
    }

    /// One run by the clock, perhaps with a fault.
    fn sync(&mut self, profile: &'static str, at: i64) -> Ended {
        let path = self.profile(profile);
        let records = self.records.display().to_string();
        let arguments = ["sync", &path, "--records", &records];
        let call = ["renameat", "openat2", "write", "fsync", "linkat", "mkdirat", "syncfs"];
        let call = call[usize::try_from(self.random.below(7)).unwrap()];
        let count = 1 + self.random.below(14);
        let (fault, ended): (_, fn(i32) -> Ended) = match self.random.below(16) {
            // What was not killed ends by itself: faketime(1) makes 1 of a signal.
            0 | 1 => {
                ("signal=KILL", |code| if [0, 3].contains(&code) { Ended::With(code) } else { Ended::Killed })
            }
            2 => ("error=EIO", Ended::Failing),
            3 => ("error=ENOSPC", Ended::Failing),
            _ => ("", Ended::With),
        };
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{fault}:when={count}"));
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let prefix = if fault.is_empty() { &[][..] } else { &strace[..] };
        let said = self.at(at, prefix, &arguments);
        let ended = ended(said.code);
        assert!(![101, 134].contains(&said.code), "{}", said.describe());
        if let Ended::With(0) = ended {
            assert_eq!(said.stdout.clone() + &said.stderr, "", "cron would send mail: {}", said.describe());
        }
        self.runs.insert((profile, at), ended);
        ended
    }

    fn events(&self, at: i64, command: &str, profile: &str) -> Vec<Value> {
        let (path, records) = (self.profile(profile), self.records.display().to_string());
        let mut arguments = vec![command, &path, "--records", &records, "--json"];
        if command == "history" {
            arguments.extend(["--limit", "100000"]);
        }
        let said = self.at(at, &[], &arguments);
        assert!([0, 4].contains(&said.code), "{}", said.describe());
        said.objects()
    }
}

/// A time as faketime reads it.
fn run_date(seconds: i64) -> String {
    let time = crate::common::run("date", ["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d %H:%M:%S"]);
    time.trim().to_owned()
}

#[test]
fn a_month_with_faults_ends_in_sync_with_records_that_say_what_happened() {
    if lacks("month", &["faketime", "strace"]) {
        return;
    }
    let mut month = Month::new();
    let standby = month.standby.display().to_string();
    let mut resume_at = i64::MAX;
    let mut down = 0;
    for hour in 0..HOURS {
        let at = BEGIN_SECONDS + hour * 3600;
        for _ in 0..month.random.below(3) {
            month.change();
        }
        if month.random.below(40) == 0 {
            // The host is down for an hour.
            down += 1;
            continue;
        }
        if hour == resume_at {
            month.at(at + 60, &[], &["schedule", "resume", "--root", &standby]).expect_code(0);
        }
        let suspended = resume_at != i64::MAX && hour < resume_at;
        let mut due = vec![(HOURLY, at + 5 * 60)];
        if hour % 24 == 2 {
            due.push((DAILY, at + 30 * 60));
        }
        for (profile, at) in due {
            let busy = profile == DAILY && month.random.below(10) == 0;
            if busy {
                fs::remove_file(&month.quiet).unwrap();
            }
            let ended = month.sync(profile, at);
            if let Ended::With(code) = ended {
                match (suspended, busy) {
                    (true, _) => assert_eq!(code, 3, "{profile} {hour}: it was rolled back"),
                    (false, true) => assert_eq!(code, 3, "{profile} {hour}: the gate was not open"),
                    _ => assert_eq!(code, 0, "{profile} {hour}: nothing was wrong"),
                }
            }
            if busy {
                write(&month.quiet, "");
            }
            if ended == Ended::Killed && month.random.below(2) == 0 {
                // The boot unit of the standby; else the next run does it.
                clonetool(["recover", &standby]).expect_one_of(&[0, 4]);
            }
        }
        if hour == 10 * 24 + 12 || hour == 20 * 24 + 12 {
            clonetool(["recover", &standby]).expect_one_of(&[0, 4]);
            let daily = month.profile(DAILY);
            let back = ["rollback", &daily, "--root", &standby];
            month.at(at + 40 * 60, &[], &back).expect_code(0);
            resume_at = hour + 5;
        }
    }
    assert!(down > 3, "the host was hardly ever down");
    // What the last of them left is put right by the next without a fault.
    let end = BEGIN_SECONDS + HOURS * 3600;
    let records = month.records.display().to_string();
    for (profile, at) in [(HOURLY, end + 300), (DAILY, end + 600)] {
        month.at(at, &[], &["sync", &month.profile(profile), "--records", &records]).expect_code(0);
        month.runs.insert((profile, at), Ended::With(0));
        clonetool(["verify", "--profile", &month.profile(profile)]).expect_code(0);
    }
    for file in ["passwd", "group", "shadow", "gshadow"] {
        let read = |root: &Path| fs::read_to_string(root.join("etc").join(file)).unwrap();
        assert_eq!(read(&month.production), read(&month.standby), "{file}");
    }
    assert_eq!(fs::read_to_string(month.standby.join("etc/hostname")).unwrap(), "standby\n");
    for profile in [HOURLY, DAILY] {
        history_is_true(&month, profile, end + 900);
    }
    // A day later nothing is well any more.
    for (at, code) in [(end + 1200, 0), (end + 30 * 3600, 2)] {
        let (path, records) = (month.profile(DAILY), month.records.display().to_string());
        month.at(at, &[], &["check", &path, "--records", &records]).expect_code(code);
    }
}

/// Holds the records of a profile against what was seen of its runs.
fn history_is_true(month: &Month, profile: &str, now: i64) {
    let found: BTreeMap<i64, Value> = month
        .events(now, "history", profile)
        .into_iter()
        .filter(|event| event["type"] == "record" && event["kind"] == "sync")
        .map(|event| (event["started_seconds"].as_i64().unwrap(), event))
        .collect();
    let runs: Vec<_> = month.runs.iter().filter(|((of, _), _)| *of == profile).collect();
    let mut last_good = 0;
    for ((_, at), ended) in &runs {
        // The clock goes on while the program starts.
        let record = found.range(*at..at + 60).next().map(|(_, record)| record);
        let exit = |record: &Value| record["exit_code"].as_i64();
        match (ended, record) {
            (Ended::With(code), Some(record)) => {
                assert_eq!(exit(record), Some(i64::from(*code)), "{profile} at {at}: {record}");
            }
            (Ended::Killed, Some(record)) => {
                let over = record["outcome"] == "unfinished" || exit(record).is_some();
                assert!(over, "{profile} at {at}: {record}");
            }
            (Ended::Failing(code), Some(record)) => {
                // 4 is also the end of a run that was well, and whose record may be lost with the next power failure.
                let unsure = *code == 4 && record["outcome"] == "in-sync";
                let told = record["outcome"] == "unfinished" || exit(record) == Some(i64::from(*code));
                assert!(told || unsure, "{profile} at {at}, exit {code}: {record}");
            }
            (Ended::Killed | Ended::Failing(_), None) => {}
            (Ended::With(code), None) => panic!("{profile} at {at} has no record, and ended with {code}"),
        }
        if record.is_some_and(|record| record["outcome"] == "in-sync") {
            assert!(!matches!(ended, Ended::With(1..)), "{profile} at {at}: {ended:?} is called in sync");
            last_good = *at;
        }
    }
    assert!(found.len() <= runs.len(), "{} records of {} runs", found.len(), runs.len());
    let events = month.events(now, "status", profile);
    let status = events.iter().find(|event| event["type"] == "status").unwrap();
    let told = status["last_good_seconds"].as_i64().unwrap();
    assert!((last_good..last_good + 60).contains(&told), "{status}, {last_good}");
    assert_eq!(status["health"], "OK", "{status}");
    assert_eq!(status["missed_runs"], 0, "{status}");
}
