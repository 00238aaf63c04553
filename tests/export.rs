//! `profile export --rsync`: the script does to a standby what clonetool does, path for path, with nothing but dash and
//! rsync. Each case runs both on copies of one standby and compares what they leave.

mod refusals;
mod rules;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use syncore::profile::Profile;
use syncore::rules::{RuleSet, Scope};
use syncore::tree::RelPath;

use crate::common::compare::{Difference, What, assert_none, assert_untouched, compare, snapshot_ctimes};
use crate::common::plant::{chmod, set_mtime, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{Output, Workdir, clonetool, mount, rsync, rsync_limit, run};
use refusals::assert_nothing_done;

/// Production, a standby, and a copy of it for the script.
struct Pair {
    work: Workdir,
    source: PathBuf,
    ours: PathBuf,
    scripts: PathBuf,
}

/// How a script ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
    log: String,
}

impl Pair {
    fn new(name: &str) -> Self {
        let work = Workdir::new(name);
        let [source, ours, scripts] = ["source", "ours", "scripts"].map(|name| work.join(name));
        fs::create_dir_all(&source).unwrap();
        fs::create_dir_all(&ours).unwrap();
        Self { work, source, ours, scripts }
    }

    /// Writes a profile of these tables.
    fn profile(&self, text: &str) -> PathBuf {
        let path = self.work.join("p.toml");
        write(&path, format!("{text}\n[commit]\nmode = \"file\"\n"));
        chmod(&path, 0o644);
        path
    }

    /// The standby as it is now, once more.
    fn fork(&self) {
        assert_eq!(rsync(&self.ours, &self.scripts), 0);
    }

    /// Exports a profile and runs the script.
    fn script(&self, profile: &OsStr, extra: &[&str]) -> Ran {
        let script = self.work.join("script.sh");
        export(profile, &script).expect_code(0);
        self.run(&script, extra)
    }

    fn run(&self, script: &Path, extra: &[&str]) -> Ran {
        let state = self.work.join("state");
        let source = snapshot_ctimes(&self.source);
        let mut command = Command::new("dash");
        command.arg(script).arg("-s").arg(&self.source).arg("-d").arg(&self.scripts).arg("-w").arg(&state);
        let output = command.args(extra).stdin(Stdio::null()).output().expect("run dash");
        assert_untouched(&source, &snapshot_ctimes(&self.source));
        let logs = fs::read_dir(&state).into_iter().flatten().flatten().map(|entry| entry.path());
        let log = logs.filter(|path| path.to_string_lossy().contains(".log."));
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            log: log.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()).collect(),
        }
    }

    fn sync(&self, profile: &OsStr) -> Output {
        let (from, to) = (self.source.as_os_str(), self.ours.as_os_str());
        let fixed = ["sync", "--no-durable", "--allow-deletes", "1000000"].map(OsStr::new);
        clonetool(fixed.into_iter().chain([profile, "--source".as_ref(), from, "--destination".as_ref(), to]))
    }

    /// Where what the script left differs from what clonetool left.
    fn differences(&self, profile: &OsStr) -> Vec<Difference> {
        let (name, text) = (profile.to_string_lossy(), fs::read_to_string(profile).unwrap());
        let rules = RuleSet::compile(Profile::parse(&name, &text, &|_| None).unwrap().rules()).unwrap();
        let mut found = compare(&self.ours, &self.scripts);
        found.retain(|difference| !is_nobodys(&rules, &self.source, difference));
        found
    }

    /// Runs both and compares.
    fn assert_same(&self, profile: &OsStr, code: i32) -> Ran {
        self.fork();
        self.sync(profile).expect_code(code);
        let ran = self.script(profile, &["-D", "1000000"]);
        assert_eq!(ran.code, code, "{ran:#?}");
        assert_none(&self.differences(profile));
        ran
    }
}

impl Ran {
    #[track_caller]
    fn expect(self, code: i32, stderr: &str) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(self.stderr.contains(stderr), "{self:#?}");
        self
    }
}

/// The times of directories that production has no time for, in which something was made or deleted, and what rsync
/// takes for equal.
fn is_nobodys(rules: &RuleSet, source: &Path, difference: &Difference) -> bool {
    let apart = || {
        let path = RelPath::new(difference.path.clone()).unwrap();
        let there = fs::symlink_metadata(source.join(OsStr::from_bytes(path.as_bytes())));
        rules.decide(&path, true).scope != Scope::In || !there.is_ok_and(|found| found.is_dir())
    };
    difference.what == What::Mtime && (rsync_limit(difference).is_some() || apart())
}

fn export(profile: &OsStr, output: &Path) -> Output {
    let words = ["profile", "export", "--rsync", "-o"].map(OsStr::new);
    clonetool(words.into_iter().chain([output.as_os_str(), profile]))
}

/// Makes files, each with its own path and `host` in it, and the directories that end in a slash.
fn plant(root: &Path, host: &str, paths: &[&str]) {
    for (n, path) in paths.iter().enumerate() {
        match path.strip_suffix('/') {
            Some(path) => fs::create_dir_all(root.join(path)).unwrap(),
            None => {
                write(&root.join(path), format!("{path} of {host}, {}\n", "x".repeat(n % 7)));
                set_mtime(&root.join(path), 1_600_000_000 + host.len() as i64, 0);
            }
        }
    }
}
#[test]
fn every_shipped_profile_is_a_script_that_a_bourne_shell_reads() {
    let work = Workdir::new("export-shipped");
    for profile in
        ["linux-hourly-auth", "linux-daily", "linux-migrate", "solaris-hourly-auth", "solaris-daily"]
    {
        let script = work.join(profile);
        export(profile.as_ref(), &script).expect_code(0);
        run("dash", ["-n".as_ref(), script.as_os_str()]);
        assert_eq!(fs::metadata(&script).unwrap().mode() & 0o777, 0o755);
        let text = fs::read_to_string(&script).unwrap();
        assert_eq!(clonetool(["profile", "export", "--rsync", profile]).expect_code(0).stdout, text);
        // What the Bourne shell of Solaris 2.6 has not.
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            for word in [
                "$(",
                "[[",
                "local ",
                "export PATH=",
                "test -e",
                "-nt ",
                "${#",
                "%}",
                "##",
                "if !",
                "while !",
            ] {
                assert!(!line.contains(word), "{profile}:{}: {line}", number + 1);
            }
        }
    }
    // Its gates are of every kind, and a script without one of them would run when it must not.
    let refused = clonetool(["profile", "export", "--rsync", "full"]).expect_code(3);
    assert!(refused.stdout.is_empty() && refused.stderr.contains("the gate database-copy (replication)"));
    // Neither is one that takes in by a wildcard, crosses every filesystem, or reads a moment that it cannot hold.
    for (text, reason) in [
        (
            "[rules]\ninclude = ['/etc/*.conf']\n",
            "p.toml:2: include /etc/*.conf: a rule that takes something in",
        ),
        ("[source]\none-file-system = false\n", "source.one-file-system = false cannot be exported"),
        ("[source]\nsnapshot = 'btrfs'\n", "source.snapshot cannot be exported"),
        ("[[row]]\npath = '/a/*/b'\nclass = 'D'\nwhat = 'x'\nsource = 'x'\n", "in its last name only"),
        ("[[gate]]\nkind = 'space'\nname = 'room'\n", "the gate room (space) cannot be asked"),
        (
            "[[gate]]\nkind = 'package-transaction'\nname = 'p'\n",
            "the gate p (package-transaction) cannot be asked",
        ),
    ] {
        let profile = work.join("p.toml");
        write(&profile, text);
        chmod(&profile, 0o644);
        export(profile.as_os_str(), &work.join("none")).expect_code(3).expect_stderr(reason);
        assert!(!work.join("none").exists());
    }
}
#[test]
fn the_daily_and_the_hourly_script_bring_a_standby_what_clonetool_brings() {
    let pair = Pair::new("export-daily");
    let both = [
        "etc/hostname",
        "etc/fstab",
        "etc/motd",
        "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/sshd_config",
        "etc/cron.d/job",
        "usr/bin/tool",
        "var/lib/dpkg/status",
        "etc/machine-id",
        "boot/vmlinuz-1",
        "var/log/syslog",
        "home/u/.profile",
        "var/cache/apt/x",
        "etc/gshadow",
        "root/.ssh/authorized_keys",
        "root/.bashrc",
    ];
    let solaris = [
        "etc/inet/hosts",
        "etc/inet/services",
        "etc/init.d/app",
        "etc/hostname.hme0",
        "etc/vfstab",
        "etc/system",
        "kernel/drv/sd.conf",
        "kernel/drv/other.conf",
        "var/adm/messages",
        "etc/path_to_inst",
        "etc/release",
    ];
    for (root, host) in [(&pair.source, "production"), (&pair.ours, "standby")] {
        plant(root, host, &both);
        plant(root, host, &solaris);
        for (file, text) in
            [("passwd", "root:x:0:0::/:/bin/sh\n"), ("shadow", "root:*:1::::::\n"), ("group", "root:x:0:\n")]
        {
            write(&root.join("etc").join(file), format!("{text}{host}:x:1:1:::\n"));
            set_mtime(&root.join("etc").join(file), 1_600_000_000, 0);
        }
        fs::create_dir_all(root.join("tmp")).unwrap();
    }
    plant(
        &pair.source,
        "production",
        &["tmp/x", "var/cache/.hidden/x", "proc/1/stat", "usr/new", "var/lib/postgresql/15/data"],
    );
    plant(&pair.ours, "standby", &["usr/gone", "etc/gone", "tmp/own"]);
    // As a generation on its own would be: the script keeps none, and commits as it goes.
    let text = |name: &str| pair.profile(&format!("extends = ['{name}']\n"));
    for name in ["linux-daily", "solaris-daily", "linux-hourly-auth", "solaris-hourly-auth"] {
        let profile = text(name);
        pair.fork();
        let arguments =
            ["--source".as_ref(), pair.source.as_os_str(), "--destination".as_ref(), pair.ours.as_os_str()];
        let fixed = ["sync", "--no-durable"].map(OsStr::new);
        clonetool(fixed.into_iter().chain([profile.as_os_str()]).chain(arguments)).expect_code(0);
        let ran = pair.script(profile.as_os_str(), &[]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        let mut found = compare(&pair.ours, &pair.scripts);
        found.retain(|difference| difference.what != What::Mtime);
        assert_none(&found);
    }
    assert!(fs::read_to_string(pair.scripts.join("etc/passwd")).unwrap().contains("production"));
    assert!(fs::read_to_string(pair.scripts.join("etc/hostname")).unwrap().contains("standby"));
    // An account file without its root, and one that is being edited, are left where they are.
    let script = pair.work.join("script.sh");
    write(&pair.source.join("etc/ptmp"), "");
    pair.run(&script, &[]).expect(75, "/etc/ptmp is there");
    fs::remove_file(pair.source.join("etc/ptmp")).unwrap();
    write(&pair.source.join("etc/shadow"), "");
    assert_nothing_done(&pair, &script, &[], 3, "/etc/shadow has no line for root");
}

#[test]
fn what_the_standby_protects_and_what_was_prepared_there_stays() {
    let pair = Pair::new("export-own");
    plant(&pair.source, "production", &["etc/edited", "etc/plain", "srv/own/f", "etc/made [x]", "var/lib/x"]);
    plant(&pair.ours, "standby", &["etc/edited", "etc/plain", "srv/own/f", "etc/made [x]"]);
    let own = pair.ours.join("etc/clonetool/standby.toml");
    write(&own, "# ours\nprotect = [\n\"/srv/own/\",\n]\n");
    chmod(&own, 0o644);
    let journal = r#"{ "lines": [
    {
      "path": "/etc/edited",
      "class": "A"
    },
    {
      "path": "/etc/made [x]",
      "class": "B"
    }
  ] }"#;
    write(&pair.ours.join("var/lib/clonetool/prepare/journal.json"), journal);
    pair.fork();
    let profile = pair
        .profile("[rules]\nprotect = ['/etc/clonetool', '/var/lib/clonetool']\n[delete]\nenabled = true\n");
    let script = pair.work.join("script.sh");
    export(profile.as_os_str(), &script).expect_code(0);
    assert_nothing_done(
        &pair,
        &script,
        &[],
        3,
        "standby.toml as it is now: export it again with --standby-file",
    );
    let known = pair.work.join("standby.toml");
    fs::copy(&own, &known).unwrap();
    let words = ["profile", "export", "--rsync", "--standby-file"].map(OsStr::new);
    let words =
        words.into_iter().chain([known.as_os_str(), "-o".as_ref(), script.as_os_str(), profile.as_os_str()]);
    clonetool(words).expect_code(0);
    pair.run(&script, &[]).expect(0, "");
    for (path, host) in [
        ("etc/edited", "standby"),
        ("etc/made [x]", "standby"),
        ("srv/own/f", "standby"),
        ("etc/plain", "production"),
    ] {
        let found = fs::read_to_string(pair.scripts.join(path)).unwrap();
        assert!(found.contains(host), "{path}: {found}");
    }
    write(&pair.scripts.join("etc/clonetool/standby.toml"), "protect = [\"/etc/plain\"]\n");
    assert_nothing_done(&pair, &script, &[], 3, "export it again with --standby-file");
}

#[test]
fn over_ssh_the_script_does_the_same() {
    let pair = Pair::new("export-ssh");
    let sshd = Sshd::start(&pair.work.join("sshd"), &SshdOptions::default());
    plant(&pair.source, "production", &["etc/init.d/it's", "etc/init.d/$(x)", "etc/passwd", "usr/a b"]);
    plant(&pair.ours, "standby", &["etc/init.d/old", "etc/passwd", "usr/gone"]);
    let rules = "[rules]\ninclude = ['/', '/etc/init.d/']\nexclude = ['/etc/']\n[delete]\nenabled = true\n";
    pair.fork();
    // For clonetool both ends are on this host, so it has no peer to ask.
    pair.sync(pair.profile(rules).as_os_str()).expect_code(0);
    let profile = pair.profile(&format!("{rules}[[gate]]\nkind = 'peer'\nname = 'peer'\nping = false\n"));
    let script = pair.work.join("script.sh");
    export(profile.as_os_str(), &script).expect_code(0);
    let to = format!("127.0.0.1:{}", pair.scripts.display());
    let ran = pair.run(&script, &["-d", &to, "-e", &sshd.rsh()]).expect(0, "");
    assert!(ran.log.contains("gate peer: pass 127.0.0.1 answers"), "{ran:#?}");
    assert_none(&pair.differences(profile.as_os_str()));
    drop(sshd);
    let before = snapshot_ctimes(&pair.scripts);
    pair.run(&script, &["-d", &to, "-e", "ssh -o BatchMode=yes -p 1"])
        .expect(3, "refused by the gate peer: ssh to");
    assert_untouched(&before, &snapshot_ctimes(&pair.scripts));
}

#[test]
fn another_filesystem_is_entered_when_it_is_listed_and_asked_about_otherwise() {
    let pair = Pair::new("export-mounts");
    plant(&pair.source, "production", &["plain", "run/"]);
    plant(&pair.ours, "standby", &["plain", "local/own", "data/f"]);
    pair.fork();
    mount::tmpfs(&pair.source.join("run/state"), "size=1m");
    plant(&pair.source, "production", &["run/state/x"]);
    mount::loop_image(&pair.work.join("data.img"), "ext4", 16 << 20, &pair.source.join("data"));
    plant(&pair.source, "production", &["data/f", "data/new"]);
    mount::tmpfs(&pair.scripts.join("theirs"), "size=1m");
    plant(&pair.scripts, "standby", &["theirs/own"]);
    let script = pair.work.join("script.sh");
    let made = |text: &str| export(pair.profile(text).as_os_str(), &script).expect_code(0);
    made("[delete]\nenabled = true\n");
    assert_nothing_done(&pair, &script, &[], 3, "the filesystem at /data is in scope but not listed");
    made("[source]\nalso = ['/data']\n[delete]\nenabled = true\n");
    assert_nothing_done(&pair, &script, &[], 3, "/data is listed as a filesystem but not mounted there");
    mount::bind(&pair.work.make("elsewhere"), &pair.scripts.join("data"));
    plant(&pair.scripts, "standby", &["data/old"]);
    pair.run(&script, &[]).expect(0, "");
    let names = |path: &str| {
        let listed = fs::read_dir(pair.scripts.join(path)).unwrap();
        let mut names: Vec<_> =
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lost+found");
        names.sort();
        names
    };
    assert_eq!(names(""), ["data", "plain", "run", "theirs"]);
    assert_eq!(
        (names("data"), names("run"), names("run/state")),
        (vec!["f".into(), "new".into()], vec!["state".into()], vec![])
    );
    assert_eq!(names("theirs"), ["own"], "what is mounted on the standby alone is its own");
    made("[rules]\ninclude = ['/']\nexclude = ['/data/']\n[delete]\nenabled = true\n");
    let before = snapshot_ctimes(&pair.scripts);
    pair.run(&script, &[]).expect(0, "");
    assert_untouched(&before, &snapshot_ctimes(&pair.scripts));
}
