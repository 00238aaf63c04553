//! A pair whose runs are recorded, and records of runs that never were.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::common::{Output, Workdir, clonetool};

/// A production root with one file, an empty standby, a profile of both, and a place for records.
pub(crate) struct Pair {
    pub(crate) work: Workdir,
    pub(crate) profile: PathBuf,
    pub(crate) records: PathBuf,
}

impl Pair {
    pub(crate) fn new(name: &str, more: &str) -> Self {
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
    pub(crate) fn call(&self, command: &str, extra: &[&str]) -> Output {
        let (profile, records) = (self.profile.to_str().unwrap(), self.records.to_str().unwrap());
        clonetool([&[command, profile, "--records", records], extra].concat())
    }

    pub(crate) fn sync(&self, extra: &[&str]) -> Output {
        self.call("sync", extra)
    }

    /// All records, in the order of their names.
    pub(crate) fn all(&self) -> Vec<Value> {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(&self.records).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }

    /// The only record.
    #[track_caller]
    pub(crate) fn only(&self) -> Value {
        let all = self.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }

    /// Writes a record in its documented form, of a run that began `age` seconds ago (negative: that will begin).
    pub(crate) fn plant(&self, age: i64, outcome: &str, exit_code: Option<u8>) {
        self.plant_to(self.work.join("standby").to_str().unwrap(), age, outcome, exit_code);
    }

    pub(crate) fn plant_to(&self, destination: &str, age: i64, outcome: &str, exit_code: Option<u8>) {
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

    pub(crate) fn forget(&self) {
        fs::remove_dir_all(&self.records).unwrap();
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn gate(script: &str) -> String {
    format!("[[gate]]\nkind = \"command\"\nname = \"quiet\"\ncommand = [\"/bin/sh\", \"-c\", '{script}']\n")
}
