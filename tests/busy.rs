//! One run for each root at a time, and what the second one does.
//!
//! The first run is stopped by a gate whose program reads from a pipe: when the test could open the pipe for writing,
//! that program is at work and the run holds what it holds then; when the test closes it, the run goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::plant::write;
use crate::common::{CLONETOOL, Output, Workdir, clonetool, run};

/// A source and two standbys, and profiles of them.
struct Hosts {
    work: Workdir,
    source: PathBuf,
    standby: PathBuf,
    pipe: PathBuf,
}

/// A run that is stopped at its gate.
struct Stopped {
    child: Child,
    pipe: File,
}

impl Stopped {
    fn goes_on(self) {
        drop(self.pipe);
        assert!(self.child.wait_with_output().unwrap().status.success());
    }
}

impl Hosts {
    fn new(name: &str) -> Self {
        let work = Workdir::new(name);
        let (source, standby, pipe) = (work.make("source"), work.make("standby"), work.join("pipe"));
        write(&source.join("etc/file"), "file");
        run("mkfifo", [pipe.to_str().unwrap()]);
        Self { work, source, standby, pipe }
    }

    fn profile(&self, name: &str, schedule: &str, gate: &str, standby: &Path) -> PathBuf {
        let path = self.work.join(format!("{name}.toml"));
        let (from, to) = (self.source.display(), standby.display());
        let text = format!(
            "[source]\nroot = \"{from}\"\n[standby]\nroot = \"{to}\"\n[schedule]\n{schedule}\n{gate}"
        );
        write(&path, text);
        path
    }

    fn command(&self, profile: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(CLONETOOL);
        command.arg("sync").arg(profile).arg("--records").arg(self.work.join("records")).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Begins a run that reaches its gate before there is a plan, when it holds the source; or, `staged`, before the
    /// commit, when it holds the standby too.
    fn stopped(&self, staged: bool) -> Stopped {
        let (pipe, asked) = (self.pipe.display(), self.work.join("asked"));
        let asked = asked.display();
        let script = match staged {
            true => format!("[ -e {asked} ] && cat {pipe} >/dev/null; : >{asked}"),
            false => format!("[ -e {asked} ] || cat {pipe} >/dev/null; : >{asked}"),
        };
        let gate = format!(
            "[[gate]]\nkind = \"replication\"\nmethod = \"command\"\nname = \"hold\"\ntimeout = \"10m\"\n\
             command = [\"/bin/sh\", \"-c\", '{script}']\n"
        );
        let profile = self.profile("first", "", &gate, &self.standby);
        let child = self.command(&profile, &[]).spawn().unwrap();
        let pipe = OpenOptions::new().write(true).open(&self.pipe).unwrap();
        Stopped { child, pipe }
    }

    fn sync(&self, profile: &Path) -> Output {
        clonetool(["sync".as_ref(), profile.as_os_str()])
    }

    /// Begins a run that waits, and comes back when it says so.
    fn waiting(&self, profile: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = self.command(profile, &["--json"]).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("waiting for up to 600 s") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended and did not wait");
        }
        (child, said)
    }
}

const WAIT: &str = "when-busy = \"wait\"\nwait-limit = \"10m\"";

#[test]
fn one_source_has_one_run_whatever_the_standby() {
    let hosts = Hosts::new("busy-source");
    let other = hosts.work.make("other");
    let stopped = hosts.stopped(false);
    let second = hosts.profile("second", "", "", &other);
    hosts.sync(&second).expect_code(75).expect_stderr(&format!(
        "clonetool: another run holds {}\n  run the same command again when it has ended",
        hosts.source.display()
    ));
    assert!(fs::read_dir(&other).unwrap().next().is_none());
    // What changes nothing waits for nobody, and a source of which only a part is the same is another one.
    clonetool(["plan".as_ref(), second.as_os_str()]).expect_code(0);
    clonetool([
        "sync".as_ref(),
        second.as_os_str(),
        "--source".as_ref(),
        hosts.source.join("etc").as_os_str(),
    ])
    .expect_code(0);
    stopped.goes_on();
    hosts.sync(&second).expect_code(0);
    assert!(other.join("etc/file").exists() && hosts.standby.join("etc/file").exists());
}

#[test]
fn a_source_on_another_host_has_one_run_as_well() {
    let hosts = Hosts::new("busy-far");
    let (other, shell) = (hosts.work.make("other"), hosts.work.remote_shell());
    let pull = |stand: &Path| {
        let source = format!("production:{}", hosts.source.display());
        let shell = shell.to_str().unwrap();
        clonetool(["clone", "--remote-path", CLONETOOL, "-e", shell, &source, stand.to_str().unwrap()])
    };
    let stopped = hosts.stopped(false);
    pull(&other).expect_code(75);
    stopped.goes_on();
    pull(&other).expect_code(0);
    assert!(other.join("etc/file").exists());
}

#[test]
fn a_run_that_waits_runs_when_the_other_has_ended() {
    let hosts = Hosts::new("busy-wait");
    let other = hosts.work.make("other");
    let second = hosts.profile("second", WAIT, "", &other);
    let stopped = hosts.stopped(false);
    let (mut child, said) = hosts.waiting(&second);
    assert!(fs::read_dir(&other).unwrap().next().is_none());
    stopped.goes_on();
    let last = said.lines().map(Result::unwrap).last().unwrap();
    assert!(last.contains("\"outcome\":\"in-sync\""), "{last}");
    assert!(child.wait().unwrap().success());
    assert!(other.join("etc/file").exists());
}

#[test]
fn a_run_waits_for_the_standby_too() {
    let hosts = Hosts::new("busy-standby");
    let elsewhere = hosts.work.make("elsewhere");
    write(&elsewhere.join("etc/file"), "of another source");
    let stopped = hosts.stopped(true);
    let second = hosts.profile("second", WAIT, "", &hosts.standby);
    let text = fs::read_to_string(&second).unwrap();
    write(&second, text.replace(hosts.source.to_str().unwrap(), elsewhere.to_str().unwrap()));
    let (mut child, _said) = hosts.waiting(&second);
    stopped.goes_on();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read(hosts.standby.join("etc/file")).unwrap(), b"of another source");
}

#[test]
fn waiting_has_an_end() {
    let hosts = Hosts::new("busy-limit");
    let stopped = hosts.stopped(false);
    let second =
        hosts.profile("second", "when-busy = \"wait\"\nwait-limit = \"1s\"", "", &hosts.work.make("other"));
    hosts.sync(&second).expect_code(75).expect_stderr("it was waited for, for 1 s");
    let patient = hosts.profile("patient", WAIT, "", &hosts.work.make("other"));
    let (mut child, _said) = hosts.waiting(&patient);
    run("kill", ["-TERM", &child.id().to_string()]);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    stopped.goes_on();
}

#[test]
fn what_is_held_is_not_released_under_a_run() {
    let hosts = Hosts::new("busy-release");
    let release = || {
        clonetool([
            "hold".as_ref(),
            "release".as_ref(),
            "--all".as_ref(),
            "--root".as_ref(),
            hosts.standby.as_os_str(),
        ])
    };
    let stopped = hosts.stopped(true);
    release().expect_code(75).expect_stderr(&format!("another run holds {}", hosts.standby.display()));
    stopped.goes_on();
    // It gets as far as to find that nothing was prepared there.
    assert_ne!(release().code, 75);
}
