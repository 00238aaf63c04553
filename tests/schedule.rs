//! Schedules as cron and systemd read them: installed below a root of their own, and judged by systemd's own tools.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::plant::write;
use crate::common::{CLONETOOL, Output, Workdir, clonetool, lacks, run};

/// A root with the directories of both schedulers, and a profile that can be installed.
fn root(work: &Workdir) -> PathBuf {
    let root = work.make("root");
    for directory in ["etc/cron.d", "etc/systemd/system"] {
        fs::create_dir_all(root.join(directory)).expect("mkdir");
    }
    profile(&root, "etc/clonetool/ours.toml", "30 2 * * *");
    root
}

fn profile(root: &Path, path: &str, calendar: &str) {
    let text = format!(
        "description = \"ours\"\n[standby]\naddress = \"standby\"\n[schedule]\ncalendar = \"{calendar}\"\nrpo = \"26h\"\n"
    );
    write(&root.join(path), text);
}

/// `clonetool schedule ACTION PROFILE --root ROOT …`.
fn schedule(action: &str, profile: &Path, root: &Path, more: &[&str]) -> Output {
    let mut all: Vec<OsString> = ["schedule", action].map(OsString::from).to_vec();
    all.extend([profile.into(), "--root".into(), root.into()]);
    if action != "remove" {
        all.extend(["--program", "/usr/local/bin/clonetool"].map(OsString::from));
    }
    all.extend(more.iter().map(OsString::from));
    clonetool(all)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_crontab_is_written_once_and_taken_away_whole() {
    let work = Workdir::new("schedule-cron");
    let root = root(&work);
    let (ours, file) = (root.join("etc/clonetool/ours.toml"), root.join("etc/cron.d/clonetool-ours"));
    let installed = schedule("install", &ours, &root, &["--cron", "--user", "backup"]).expect_code(0);
    assert_eq!(installed.stdout, "wrote      /etc/cron.d/clonetool-ours\n");
    assert_eq!(
        read(&file),
        "# Written by `clonetool schedule install`; `clonetool schedule remove ours` takes it away.\n\
         SHELL=/bin/sh\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         30 2 * * * backup /usr/local/bin/clonetool sync /etc/clonetool/ours.toml -q --syslog\n"
    );
    assert_eq!(fs::metadata(&file).expect("stat").permissions().mode() & 0o7777, 0o644);
    let before = fs::metadata(&file).expect("stat").modified().expect("a time");
    let again = schedule("install", &ours, &root, &["--cron", "--user", "backup"]).expect_code(0);
    assert_eq!(again.stdout, "unchanged  /etc/cron.d/clonetool-ours\n");
    assert_eq!(fs::metadata(&file).expect("stat").modified().expect("a time"), before);
    // A changed profile is installed over it, and it is shown where it is.
    profile(&root, "etc/clonetool/ours.toml", "*/10 1-3 * * *");
    schedule("install", &ours, &root, &["--cron"]).expect_code(0);
    assert!(read(&file).contains("\n*/10 1-3 * * * root "));
    let shown = schedule("show", &ours, &root, &[]).expect_code(0);
    assert!(shown.stdout.contains("\n  installed  /etc/cron.d/clonetool-ours\n"), "{}", shown.stdout);
    // By both it would run twice.
    schedule("install", &ours, &root, &["--systemd"])
        .expect_code(3)
        .expect_stderr("ours is started by /etc/cron.d/clonetool-ours already");
    fs::remove_file(&ours).expect("remove the profile");
    let removed = schedule("remove", Path::new("ours"), &root, &[]).expect_code(0);
    assert_eq!(removed.stdout, "removed    /etc/cron.d/clonetool-ours\n");
    let removed = schedule("remove", Path::new("ours"), &root, &[]).expect_code(0);
    assert_eq!(removed.stdout, "ours: nothing was installed\n");
    assert_eq!(fs::read_dir(root.join("etc/cron.d")).expect("list").count(), 0);
}

#[test]
fn what_somebody_else_wrote_is_not_touched() {
    let work = Workdir::new("schedule-foreign");
    let root = root(&work);
    let (ours, file) = (root.join("etc/clonetool/ours.toml"), root.join("etc/cron.d/clonetool-ours"));
    let theirs = work.join("theirs");
    write(&theirs, "theirs\n");
    let refused = || {
        for action in ["install", "remove"] {
            let more: &[&str] = if action == "install" { &["--cron"] } else { &[] };
            schedule(action, &ours, &root, more)
                .expect_code(3)
                .expect_stderr("/etc/cron.d/clonetool-ours was not written by clonetool");
        }
    };
    write(&file, "30 2 * * * root clonetool sync ours\n");
    refused();
    assert_eq!(read(&file), "30 2 * * * root clonetool sync ours\n");
    fs::remove_file(&file).expect("remove");
    symlink(&theirs, &file).expect("link");
    refused();
    fs::remove_file(&file).expect("remove");
    fs::create_dir(&file).expect("mkdir");
    refused();
    assert_eq!(read(theirs), "theirs\n");
}

#[test]
fn links_of_a_mounted_root_do_not_lead_out_of_it() {
    let work = Workdir::new("schedule-links");
    let root = root(&work);
    let outside = work.make("outside");
    fs::remove_dir(root.join("etc/cron.d")).expect("rmdir");
    symlink(&outside, root.join("etc/cron.d")).expect("link");
    let ours = root.join("etc/clonetool/ours.toml");
    schedule("install", &ours, &root, &["--cron"]).expect_code(3).expect_stderr("there is no /etc/cron.d");
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
}

#[test]
fn what_cannot_run_unattended_is_not_installed() {
    let work = Workdir::new("schedule-refused");
    let root = root(&work);
    let ours = root.join("etc/clonetool/ours.toml");
    schedule("install", &ours, &root, &[]).expect_code(2).expect_stderr("say --cron or --systemd");
    schedule("install", &ours, &root, &["--cron", "--jitter", "5m"])
        .expect_code(2)
        .expect_stderr("--jitter: cron has none");
    write(&ours, "description = \"ours\"\n[schedule]\ncalendar = \"30 2 * * *\"\n");
    schedule("install", &ours, &root, &["--cron"])
        .expect_code(2)
        .expect_stderr("the profile ours names no standby");
    write(&ours, "description = \"ours\"\n[standby]\naddress = \"standby\"\n");
    schedule("install", &ours, &root, &["--cron"]).expect_code(2).expect_stderr("has no calendar");
    let never = "description = \"ours\"\n[schedule]\ncalendar = \"0 0 31 2 *\"\n";
    write(&ours, never);
    schedule("install", &ours, &root, &["--cron"]).expect_code(2).expect_stderr("this day never comes");
    assert_eq!(fs::read_dir(root.join("etc/cron.d")).expect("list").count(), 0);
}

#[test]
fn the_shell_gets_the_words_that_were_meant() {
    let work = Workdir::new("schedule-shell");
    let root = root(&work);
    let odd = "etc/clonetool/it's 50% $HOME;x/ours.toml";
    profile(&root, odd, "0 0 * * *");
    schedule("install", &root.join(odd), &root, &["--cron"]).expect_code(0);
    let text = read(root.join("etc/cron.d/clonetool-ours"));
    let line = text.lines().last().expect("a line");
    let command = line.split_once(" root /usr/local/bin/clonetool ").expect("a command").1;
    // As cron does before it calls the shell.
    assert!(!command.replace("\\%", "").contains('%'), "{command}");
    let words = run("sh", ["-c", &format!("printf '%s\\n' {}", command.replace("\\%", "%"))]);
    assert_eq!(words, format!("sync\n/{odd}\n-q\n--log-dir\n/var/log/clonetool\n--syslog\n"));
    let solaris = schedule("show", &root.join(odd), &root, &["--solaris"]).expect_code(0).stdout;
    let line = solaris.lines().find(|line| line.starts_with("0 0 * * * PATH=")).expect("a line");
    assert!(line.ends_with(&command), "{line}");
}

#[test]
fn units_are_installed_and_systemd_finds_nothing_wrong_with_them() {
    if lacks("schedule::units_are_installed_and_systemd_finds_nothing_wrong_with_them", &["systemd-analyze"])
    {
        return;
    }
    let work = Workdir::new("schedule-units");
    let root = root(&work);
    let ours = root.join("etc/clonetool/ours.toml");
    let installed = schedule("install", &ours, &root, &["--systemd", "--jitter", "5m"]).expect_code(0);
    assert_eq!(
        installed.stdout,
        "wrote      /etc/systemd/system/clonetool-ours.service\n\
         wrote      /etc/systemd/system/clonetool-ours.timer\n\
         linked     /etc/systemd/system/timers.target.wants/clonetool-ours.timer\n"
    );
    let units = root.join("etc/systemd/system");
    let link = units.join("timers.target.wants/clonetool-ours.timer");
    assert_eq!(fs::read_link(&link).expect("a link"), Path::new("/etc/systemd/system/clonetool-ours.timer"));
    let timer = read(units.join("clonetool-ours.timer"));
    assert!(timer.contains("\nOnCalendar=*-*-* 02:30:00\n") && timer.contains("\nRandomizedDelaySec=300\n"));
    let again = schedule("install", &ours, &root, &["--systemd", "--jitter", "5m"]).expect_code(0);
    assert_eq!(again.stdout.matches("unchanged  ").count(), 3, "{}", again.stdout);
    // The program has to be there for it.
    let service = units.join("clonetool-ours.service");
    write(&service, read(&service).replace("/usr/local/bin/clonetool", CLONETOOL));
    let judged = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args([service, units.join("clonetool-ours.timer")])
        .output()
        .expect("run systemd-analyze");
    let said = String::from_utf8_lossy(&judged.stderr);
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("clonetool-ours")).collect();
    assert!(about_ours.is_empty(), "{about_ours:#?}");
    schedule("remove", &ours, &root, &[]).expect_code(0);
    assert_eq!(fs::read_dir(units.join("timers.target.wants")).expect("list").count(), 0);
    assert_eq!(fs::read_dir(&units).expect("list").count(), 1);
}

#[test]
fn systemd_reads_the_calendar_as_it_is_shown() {
    if lacks("schedule::systemd_reads_the_calendar_as_it_is_shown", &["systemd-analyze"]) {
        return;
    }
    let work = Workdir::new("schedule-calendar");
    let root = root(&work);
    let ours = root.join("etc/clonetool/ours.toml");
    for calendar in
        ["30 2 * * *", "*/20 1-3 * jan-jun mon-fri", "5 4 13 * fri", "0 0 */10 2 sun", "59 23 29 2 *"]
    {
        profile(&root, "etc/clonetool/ours.toml", calendar);
        let shown = schedule("show", &ours, &root, &["--json"]).expect_code(0).objects();
        let next = shown[0]["next"][0].as_i64().expect("a moment");
        let text = schedule("show", &ours, &root, &["--systemd"]).expect_code(0).stdout;
        let lines = text.lines().filter_map(|line| line.strip_prefix("OnCalendar="));
        let elapse = |line: &str| {
            let said = Command::new("systemd-analyze")
                .args(["calendar", line])
                .env("TZ", "UTC")
                .env("LC_ALL", "C")
                .output()
                .expect("run systemd-analyze");
            let said = String::from_utf8(said.stdout).expect("text");
            let (_, at) = said.split_once("Next elapse: ").expect("a moment");
            let at = run("date", ["-u", "+%s", "-d", at.lines().next().expect("a line")]);
            at.trim().parse::<i64>().expect("a number")
        };
        assert_eq!(lines.map(elapse).min(), Some(next), "{calendar}:\n{text}");
    }
}

#[test]
fn runs_are_in_the_local_time_of_the_root() {
    let work = Workdir::new("schedule-zone");
    let root = root(&work);
    let ours = root.join("etc/clonetool/ours.toml");
    for zone in ["America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"] {
        let file = Path::new("/usr/share/zoneinfo").join(zone);
        assert!(file.exists(), "{} (package tzdata)", file.display());
        fs::copy(file, root.join("etc/localtime")).expect("copy");
        let shown = schedule("show", &ours, &root, &["--json"]).expect_code(0).objects();
        let next = shown[0]["next"].as_array().expect("moments");
        assert_eq!(next.len(), 3);
        for moment in next {
            let date =
                Command::new("date").args(["+%H:%M", "-d", &format!("@{moment}")]).env("TZ", zone).output();
            let at = String::from_utf8(date.expect("run date").stdout).expect("text");
            // Where the clocks are put forward, the run is made up for a little later.
            assert!(at.starts_with("02:30") || at.starts_with("03:00"), "{zone}: {at}");
        }
    }
    write(&root.join("etc/localtime"), "no zone");
    schedule("show", &ours, &root, &[]).expect_code(2).expect_stderr("cannot tell local time by ");
}

#[test]
fn where_systemd_runs_it_is_told() {
    let name = "schedule::where_systemd_runs_it_is_told";
    if lacks(name, &["unshare"]) {
        return;
    }
    let work = Workdir::new("schedule-running");
    let root = root(&work);
    let (units, run_dir, bin) = (work.make("units"), work.make("run/systemd/system"), work.make("bin"));
    let log = work.join("log");
    write(
        &bin.join("systemctl"),
        format!(
            "#!/bin/sh\necho \"$*\" >>{0}\n[ ! -e {0}.fail ] || {{ echo broken >&2; exit 1; }}\n",
            log.display()
        ),
    );
    fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::create_dir_all("/run/systemd").expect("mkdir");
    // Of this host only what is bound over is seen, and by nobody else.
    let ours = root.join("etc/clonetool/ours.toml");
    let inside = |arguments: &str| {
        let script = format!(
            "mount --bind {} /etc/systemd/system && mount --bind {} /run/systemd && PATH={}:$PATH exec {CLONETOOL} \
             schedule {arguments}",
            units.display(),
            run_dir.parent().expect("a parent").display(),
            bin.display(),
        );
        let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().expect("run unshare");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let install = format!("install --systemd {}", ours.display());
    let (code, said) = inside(&install);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("ran        systemctl enable --now clonetool-ours.timer\n"), "{said}");
    assert_eq!(read(&log), "daemon-reload\nenable --now clonetool-ours.timer\n");
    write(&work.join("log.fail"), "");
    let (code, said) = inside(&install);
    assert_eq!(code, Some(11), "{said}");
    assert!(said.contains("failed     systemctl daemon-reload: broken\n"), "{said}");
    fs::remove_file(work.join("log.fail")).expect("remove");
    let (code, said) = inside("remove ours");
    assert_eq!(code, Some(0), "{said}");
    assert!(read(log).ends_with("disable --now clonetool-ours.timer\ndaemon-reload\n"));
    assert_eq!(fs::read_dir(&units).expect("list").count(), 0);
}
