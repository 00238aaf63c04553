//! Gates: asked before a plan and before a commit, and a run begins only when each has said yes.

mod lvm;
mod network;
mod packages;
mod postgresql;
mod room;

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{CLONETOOL, Output, Workdir, clonetool, plant, run};

/// What each end keeps to itself; four lines of the profile.
const RULES: &str = "[rules]\nexclude = [\"/var/lib/\"]\n";

/// A production root with one file, an empty standby, and a profile of both with these gates.
pub(crate) struct Pair {
    pub(crate) work: Workdir,
    pub(crate) production: PathBuf,
    pub(crate) standby: PathBuf,
    pub(crate) profile: PathBuf,
}

impl Pair {
    pub(crate) fn new(name: &str, gates: &str) -> Self {
        let work = Workdir::new(name);
        let (production, standby) = (work.make("production"), work.make("standby"));
        fs::write(production.join("motd"), "hello").unwrap();
        let profile = work.join("p.toml");
        let (from, to) = (production.display(), standby.display());
        let text = format!("[source]\nroot = \"{from}\"\n[standby]\nroot = \"{to}\"\n{RULES}{gates}");
        fs::write(&profile, text).unwrap();
        Self { work, production, standby, profile }
    }

    pub(crate) fn gates(&self, extra: &[&str]) -> Output {
        self.run("gates", extra)
    }

    pub(crate) fn sync(&self, extra: &[&str]) -> Output {
        self.run("sync", extra)
    }

    fn run(&self, command: &str, extra: &[&str]) -> Output {
        clonetool([&[command, self.profile.to_str().unwrap()], extra].concat())
    }

    pub(crate) fn nothing_changed(&self) -> bool {
        !self.standby.join("motd").exists()
    }

    /// Writes the role of both ends.
    fn roles(&self, production: &str, standby: &str) {
        for (root, role) in [(&self.production, production), (&self.standby, standby)] {
            fs::create_dir_all(root.join("var/lib/clonetool")).unwrap();
            fs::write(root.join("var/lib/clonetool/role"), format!("{role}\n")).unwrap();
        }
    }
}

/// A gate that runs this shell script.
fn command(name: &str, script: &str) -> String {
    format!("[[gate]]\nkind = \"command\"\nname = \"{name}\"\ncommand = [\"/bin/sh\", \"-c\", '{script}']\n")
}

#[test]
fn a_run_with_gates_that_pass_is_a_run() {
    let pair = Pair::new("gates", &(command("one", "echo quiet") + &command("two", "true")));
    let told = pair.gates(&[]).expect_code(0);
    assert_eq!(
        told.stdout,
        "pass      one (command): quiet\npass      two (command): exit code 0\n2 of 2 gates pass\n"
    );
    assert!(pair.nothing_changed());
    assert_eq!(pair.sync(&[]).expect_code(0).stdout, "");
    assert_eq!(fs::read(pair.standby.join("motd")).unwrap(), b"hello");
}

#[test]
fn a_gate_that_does_not_pass_keeps_a_sync_from_changing_anything() {
    let gates =
        command("one", "true") + &command("two", "echo 3 users >&2; exit 7") + &command("three", "false");
    let pair = Pair::new("gates", &gates);
    let told = pair.gates(&[]).expect_code(3);
    let place = format!("{}:11", pair.profile.display());
    assert_eq!(
        told.stdout,
        "pass      one (command): exit code 0\n\
         refused   two (command): exit code 7: 3 users\n          \
         next: do what /bin/sh asks for; it ends with 0 then\n\
         refused   three (command): exit code 1\n          \
         next: do what /bin/sh asks for; it ends with 0 then\n\
         1 of 3 gates pass\n"
    );
    let refused = format!(
        "clonetool: refused by the gate two (command, {place}): exit code 7: 3 users\n  \
         do what /bin/sh asks for; it ends with 0 then\n"
    );
    assert_eq!(told.stderr, format!("{refused}  and by three\n"));
    assert_eq!(pair.gates(&["-q"]).expect_code(3).stdout, "");
    assert_eq!(pair.sync(&[]).expect_code(3).stderr, format!("{refused}  nothing was changed\n"));
    assert!(pair.nothing_changed());
}

#[test]
fn scripts_get_each_answer_and_a_summary() {
    let pair = Pair::new("gates", &(command("one", "true") + &command("two", "exit 7")));
    let objects = pair.gates(&["--json"]).expect_code(3).objects();
    assert_eq!(objects.len(), 3);
    let two = &objects[1];
    for (key, value) in [
        ("type", "gate"),
        ("name", "two"),
        ("kind", "command"),
        ("moment", "alone"),
        ("verdict", "refused"),
        ("evidence", "exit code 7"),
    ] {
        assert_eq!(two[key], value, "{two}");
    }
    let summary = &objects[2];
    assert_eq!((&summary["type"], &summary["outcome"]), (&"summary".into(), &"refused".into()));
    assert_eq!((summary["exit_code"].as_u64(), summary["passed"].as_u64()), (Some(3), Some(1)));
    let run = pair.sync(&["--json"]).expect_code(3);
    assert_eq!(run.objects()[0]["moment"], "before-plan");
    assert_eq!(run.summary()["outcome"], "refused");
}

#[test]
fn gates_are_asked_in_order_and_a_sync_stops_at_the_first_that_refuses() {
    let mark = |work: &Path, name: &str| format!("echo {name} >>{}/asked", work.display());
    let pair = Pair::new("gates", "");
    let work = pair.work.path();
    let gates = command("b", &mark(work, "b"))
        + &command("a", &(mark(work, "a") + "; exit 1"))
        + &command("c", &mark(work, "c"));
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, text + &gates).unwrap();
    pair.sync(&[]).expect_code(3);
    assert_eq!(fs::read_to_string(pair.work.join("asked")).unwrap(), "b\na\n");
    // A plan is harmless and is made all the same, without asking.
    let planned = pair.run("plan", &[]).expect_code(0);
    assert!(planned.stdout.contains("/motd"), "{}", planned.describe());
    assert_eq!(fs::read_to_string(pair.work.join("asked")).unwrap(), "b\na\n");
    pair.gates(&[]).expect_code(3);
    assert_eq!(fs::read_to_string(pair.work.join("asked")).unwrap(), "b\na\nb\na\nc\n");
}

#[test]
fn a_profile_whose_gates_cannot_be_read_asks_none() {
    let pair = Pair::new("gates", &command("one", "true"));
    let text = fs::read_to_string(&pair.profile).unwrap().replace("command =", "comand =");
    fs::write(&pair.profile, text).unwrap();
    let place = format!("{}:10: unknown key `comand`; did you mean `command`?", pair.profile.display());
    pair.gates(&[]).expect_code(2).expect_stderr(&place);
    pair.sync(&[]).expect_code(2).expect_stderr(&place);
    assert!(pair.nothing_changed());
    pair.gates(&["--bwlimit", "1M"]).expect_code(2).expect_stderr("gates send no content");
}

const ROLE: &str = "[[gate]]\nkind = \"role\"\nname = \"roles\"\n";

#[test]
fn only_a_production_syncs_and_only_to_its_standby() {
    let pair = Pair::new("gates-role", ROLE);
    let silent = pair.sync(&[]).expect_code(3);
    assert!(silent.stderr.contains("the source says nothing of its role"), "{}", silent.describe());
    pair.roles("standby", "production");
    let swapped = pair.sync(&[]).expect_code(3);
    let evidence = "refused by the gate roles (role, ";
    assert!(swapped.stderr.contains(evidence), "{}", swapped.describe());
    assert!(swapped.stderr.contains("the source is standby, the destination is production"));
    assert!(pair.nothing_changed());
    pair.roles("production", "standby");
    pair.sync(&[]).expect_code(0);
    assert!(!pair.nothing_changed());
}

#[test]
fn what_turns_between_the_plan_and_the_first_change_is_seen() {
    // The second gate is asked after the first, and before the plan: it turns what the first one checks.
    let pair = Pair::new("gates-again", "");
    let role = pair.standby.join("var/lib/clonetool/role");
    let turn = format!("echo production_alone >{}", role.display());
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, format!("{text}{ROLE}{}", command("turn", &turn))).unwrap();
    pair.roles("production", "standby");
    let run = pair.sync(&["--json"]).expect_code(3);
    assert!(pair.nothing_changed());
    let asked: Vec<String> = run
        .objects()
        .iter()
        .filter(|object| object["type"] == "gate")
        .map(|gate| format!("{} {} {}", gate["name"], gate["moment"], gate["verdict"]).replace('"', ""))
        .collect();
    assert_eq!(asked, ["roles before-plan pass", "turn before-plan pass", "roles before-commit refused"]);
    assert!(run.objects().iter().any(|object| object["type"] == "change"), "no plan was made before");
    assert_eq!(run.summary()["outcome"], "refused");
    assert!(run.stderr.contains("the source is production, the destination is production_alone"));
}

#[test]
fn a_replication_that_breaks_while_the_plan_is_made_keeps_the_standby_as_it_was() {
    let pair = Pair::new("gates-again", "");
    let mark = pair.work.join("asked");
    let once = format!("[ ! -e {0} ] && : >{0}", mark.display());
    let text = fs::read_to_string(&pair.profile).unwrap();
    let gate = command("copies", &once).replace("\"command\"\n", "\"replication\"\nmethod = \"command\"\n");
    let gated = format!("{text}{gate}");
    fs::write(&pair.profile, &gated).unwrap();
    let run = pair.sync(&[]).expect_code(3);
    assert!(run.stderr.contains("refused by the gate copies (replication, "), "{}", run.describe());
    assert!(pair.nothing_changed());
    // A run that has nothing to change has no first change to ask before.
    fs::write(&pair.profile, text).unwrap();
    pair.sync(&[]).expect_code(0);
    fs::remove_file(&mark).unwrap();
    fs::write(&pair.profile, gated).unwrap();
    pair.sync(&[]).expect_code(0);
    assert!(mark.exists());
}

#[test]
fn a_signal_ends_a_gate_that_waits_and_what_it_runs() {
    let pair = Pair::new("gates-signal", "");
    let fifo = pair.work.join("started");
    run("mkfifo", [fifo.to_str().unwrap()]);
    let script = format!("echo $$ >{}; exec sleep 1000", fifo.display());
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, text + &command("waits", &script)).unwrap();
    for asking in ["gates", "sync"] {
        let mut command = std::process::Command::new(CLONETOOL);
        command.args([asking, pair.profile.to_str().unwrap()]).stderr(std::process::Stdio::piped());
        if asking == "sync" {
            command.arg("--records").arg(pair.work.join("records"));
        }
        let child = command.spawn().unwrap();
        let waiting = fs::read_to_string(&fifo).unwrap();
        run("kill", ["-TERM", &child.id().to_string()]);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{asking}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("clonetool: interrupted"), "{said}");
        assert!(!Path::new("/proc").join(waiting.trim()).exists(), "the gate's program lives on");
    }
    assert!(pair.nothing_changed());
}

#[test]
fn a_profile_that_others_may_write_runs_nothing() {
    let pair = Pair::new("gates-trust", "");
    let mark = pair.work.join("ran");
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, text.clone() + &command("mark", &format!(": >{}", mark.display()))).unwrap();
    let reason = "has gates, and others than root may write it";
    plant::chmod(&pair.profile, 0o664);
    pair.gates(&[]).expect_code(2).expect_stderr(reason);
    pair.sync(&[]).expect_code(2).expect_stderr(reason);
    plant::chmod(&pair.profile, 0o644);
    std::os::unix::fs::chown(&pair.profile, Some(12_345), None).unwrap();
    pair.sync(&[]).expect_code(2).expect_stderr(reason);
    assert!(!mark.exists() && pair.nothing_changed());
    // Without a gate nothing is run, and a profile is only read.
    fs::write(&pair.profile, text).unwrap();
    pair.sync(&[]).expect_code(0);
}

#[test]
fn the_last_word_is_asked_for_when_all_is_staged_and_nothing_is_changed() {
    let pair = Pair::new("gates-last-word", "");
    fs::write(pair.standby.join("motd"), "before").unwrap();
    let server = Sshd::start(&pair.work.join("sshd"), &SshdOptions::default());
    let (seen, stage) = (pair.work.join("seen"), pair.standby.join(".clonetool/stage"));
    // What is staged and what is in place each time the gate is asked; the second time it does not pass.
    let look = format!(
        "find {} -type f -exec cat {{}} + >>{1} 2>/dev/null; cat {2} >>{1}; echo >>{1}; [ `wc -l <{1}` -lt 2 ]",
        stage.display(),
        seen.display(),
        pair.standby.join("motd").display()
    );
    let gate = command("copies", &look).replace("\"command\"\n", "\"replication\"\nmethod = \"command\"\n");
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, text + &gate).unwrap();
    let [local_from, local_to] = [&pair.production, &pair.standby].map(|path| path.as_os_str().to_owned());
    let [remote_from, remote_to] = [&pair.production, &pair.standby].map(|path| server.remote(path));
    for (from, to) in [(&local_from, &local_to), (&local_from, &remote_to), (&remote_from, &local_to)] {
        let mut arguments = vec!["sync".into(), pair.profile.clone().into(), "--source".into(), from.clone()];
        arguments.extend(["--destination".into(), to.clone()]);
        if from != &local_from || to != &local_to {
            arguments.extend(server.args());
        }
        clonetool(arguments).expect_code(3).expect_stderr("refused by the gate copies (replication, ");
        assert_eq!(fs::read_to_string(&seen).unwrap(), "before\nhellobefore\n", "{from:?} {to:?}");
        assert_eq!(fs::read(pair.standby.join("motd")).unwrap(), b"before");
        assert_eq!(fs::read_dir(&stage).unwrap().count(), 0, "something is left in the stage");
        fs::remove_file(&seen).unwrap();
    }
}
