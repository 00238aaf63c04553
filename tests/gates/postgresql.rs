//! `replication` against a real PostgreSQL: a primary and a streaming standby that the test starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Pair;
use crate::common::{Workdir, skip};

const TEST: &str = "gates::a_standby_database_that_lags_or_is_gone_keeps_a_sync_away";

/// Two servers on sockets below one short directory; stopped when dropped.
struct Cluster {
    programs: PathBuf,
    work: Workdir,
}

impl Cluster {
    fn new(programs: PathBuf) -> Self {
        let work = Workdir::public("pg");
        let cluster = Self { programs, work };
        run_as("chown", &["postgres", cluster.work.path().to_str().unwrap()], None);
        cluster.server("initdb", &["-D", &cluster.data("a"), "-A", "trust", "-N"]);
        cluster.start("a", 1);
        let connection = format!("host={} port=1 application_name=standby", cluster.socket());
        cluster.server(
            "pg_basebackup",
            &["-R", "-X", "stream", "-c", "fast", "-d", &connection, "-D", &cluster.data("b")],
        );
        cluster.start("b", 2);
        cluster.until("t", "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn IS NOT NULL");
        cluster
    }

    fn socket(&self) -> String {
        self.work.path().display().to_string()
    }

    fn data(&self, name: &str) -> String {
        self.work.join(name).display().to_string()
    }

    fn server(&self, program: &str, words: &[&str]) {
        run_as(self.programs.join(program).to_str().unwrap(), words, Some("postgres"));
    }

    fn start(&self, name: &str, port: u16) {
        let options = format!("-c listen_addresses='' -c fsync=off -k {} -p {port}", self.socket());
        let log = self.work.join(format!("{name}.log"));
        self.server(
            "pg_ctl",
            &["-w", "-D", &self.data(name), "-l", log.to_str().unwrap(), "-o", &options, "start"],
        );
    }

    fn stop(&self, name: &str) {
        self.server("pg_ctl", &["-w", "-m", "immediate", "-D", &self.data(name), "stop"]);
    }

    fn query(&self, port: u16, query: &str) -> String {
        let socket = self.socket();
        let words = ["-X", "-A", "-t", "-h", &socket, "-p", &port.to_string(), "-d", "postgres", "-c", query];
        run_as("psql", &words, Some("postgres")).trim().to_owned()
    }

    /// Waits until the primary answers `wanted`.
    fn until(&self, wanted: &str, query: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.query(1, query) != wanted {
            assert!(Instant::now() < deadline, "never: {query}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, name: &str, signal: &str) {
        let pid = fs::read_to_string(self.work.join(name).join("postmaster.pid")).unwrap();
        run_as("kill", &[signal, pid.lines().next().unwrap()], None);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for name in ["a", "b"] {
            if let Ok(pid) = fs::read_to_string(self.work.join(name).join("postmaster.pid")) {
                let pid = pid.lines().next().unwrap_or_default().to_owned();
                // One that was stopped cannot end.
                let _ = Command::new("kill").args(["-CONT", &pid]).status();
                let mut stop = Command::new("runuser");
                stop.args(["-u", "postgres", "--"]).arg(self.programs.join("pg_ctl"));
                let _ = stop.args(["-w", "-m", "immediate", "-D", &self.data(name), "stop"]).output();
            }
        }
    }
}

fn run_as(program: &str, words: &[&str], user: Option<&str>) -> String {
    let mut command = match user {
        Some(user) => {
            let mut command = Command::new("runuser");
            command.args(["-u", user, "--", program]);
            command
        }
        None => Command::new(program),
    };
    // A server inherits what it is started with, and would hold a pipe for as long as it runs.
    let output = match program.ends_with("pg_ctl") {
        true => {
            let null = std::process::Stdio::null;
            command.args(words).stdin(null()).stdout(null()).stderr(null()).current_dir("/");
            let status = command.status().unwrap();
            assert!(status.success(), "{command:?}: {status}");
            return String::new();
        }
        false => command.args(words).current_dir("/").output().unwrap(),
    };
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The directory of the newest server's programs.
fn programs() -> Option<PathBuf> {
    let found = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    found.filter(|path| path.join("initdb").exists() && Path::new("/usr/bin/psql").exists()).max()
}

#[test]
fn a_standby_database_that_lags_or_is_gone_keeps_a_sync_away() {
    let Some(programs) = programs() else { return skip(TEST, "not installed: postgresql") };
    let cluster = Cluster::new(programs);
    let gate = |port: u16, standby: &str| {
        format!(
            "[[gate]]\nkind = \"replication\"\nname = \"database\"\nmethod = \"postgresql\"\nhost = \"{}\"\n\
             port = {port}\nstandby = \"{standby}\"\nmax-lag = 65536\ntimeout = \"5s\"\n",
            cluster.socket()
        )
    };
    let pair = Pair::new("gates-pg", &gate(1, "standby"));
    let verdict = |pair: &Pair, code: i32| {
        let gate = pair.gates(&["--json"]).expect_code(code).objects().remove(0);
        let text = |key: &str| gate[key].as_str().unwrap().to_owned();
        (text("verdict"), text("evidence"))
    };
    let (pass, evidence) = verdict(&pair, 0);
    assert_eq!(pass, "pass");
    assert!(evidence.starts_with("standby is streaming (async), "), "{evidence}");
    pair.sync(&[]).expect_code(0);

    // Another name is not connected, a server that is itself a standby is no source, and one
    // that is not there cannot tell.
    let (refused, evidence) = verdict(&Pair::new("gates-pg", &gate(1, "other")), 3);
    assert_eq!((&refused[..], &evidence[..]), ("refused", "other is not connected to the primary"));
    let (refused, evidence) = verdict(&Pair::new("gates-pg", &gate(2, "standby")), 3);
    assert_eq!((&refused[..], &evidence[..]), ("refused", "the server on this host is itself a standby"));
    let (error, evidence) = verdict(&Pair::new("gates-pg", &gate(3, "standby")), 3);
    assert_eq!(error, "error");
    assert!(evidence.contains("exit code 2"), "{evidence}");

    // It receives and does not replay.
    cluster.query(2, "SELECT pg_wal_replay_pause()");
    cluster.query(1, "CREATE TABLE t AS SELECT generate_series(1, 20000) AS n");
    cluster.until(
        "t",
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > 65536 FROM pg_stat_replication",
    );
    let run = pair.sync(&[]).expect_code(3);
    assert!(run.stderr.contains("standby is in state streaming, "), "{}", run.describe());
    assert!(run.stderr.contains(" bytes behind (65536 allowed)"), "{}", run.describe());
    cluster.query(2, "SELECT pg_wal_replay_resume()");
    cluster
        .until("t", "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) = 0 FROM pg_stat_replication");
    assert_eq!(verdict(&pair, 0).0, "pass");

    // A server that takes no connection any more does not answer.
    cluster.signal("a", "-STOP");
    let (late, evidence) = verdict(&pair, 3);
    cluster.signal("a", "-CONT");
    assert_eq!(late, "timed-out", "{evidence}");

    cluster.stop("b");
    cluster.until("0", "SELECT count(*) FROM pg_stat_replication");
    let (refused, evidence) = verdict(&pair, 3);
    assert_eq!((&refused[..], &evidence[..]), ("refused", "standby is not connected to the primary"));
}
