//! Sending from a moment in time: what is written meanwhile is not seen, and no snapshot outlives its run.
//!
//! What happens in the middle of a run is done by a gate: it is asked a second time when the plan is made and nothing
//! is changed yet, and its program is a script that then acts on the source or on the run itself.

mod command;
mod lvm;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::compare::{assert_equal, assert_untouched, snapshot_ctimes};
use crate::common::plant::{chmod, noise, write};
use crate::common::{Output, Workdir, clonetool, clonetool_by, is_empty, lacks, mount, run};

/// A source that is a filesystem of its own, a standby beside it, and a profile that is called as no other.
pub(crate) struct Pair {
    pub(crate) work: Workdir,
    pub(crate) source: PathBuf,
    pub(crate) standby: PathBuf,
    pub(crate) name: String,
    /// Put before the command line.
    pub(crate) prefix: Vec<String>,
    /// Of the commits: in `file` the gates have their last word before anything is read for it, in `run` when all is
    /// staged.
    pub(crate) mode: &'static str,
}

impl Pair {
    pub(crate) fn new(name: &str) -> Self {
        let work = Workdir::new(name);
        let (source, standby) = (work.join("source"), work.make("standby"));
        // The locks of snapshots are named after their profiles, for the whole host.
        let name = work.path().file_name().unwrap().to_str().unwrap().to_owned();
        Self { work, source, standby, name, prefix: Vec::new(), mode: "file" }
    }

    /// What its snapshots are called, once there was one: the profile's name, and digits for where it is.
    pub(crate) fn mark(&self) -> String {
        let names = fs::read_dir("/run/clonetool").unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut marks = names.filter_map(|name| Some(name.strip_prefix("snapshot.")?.to_owned()));
        marks.find(|mark| mark.starts_with(&format!("{}-", self.name))).expect("there was a snapshot")
    }

    pub(crate) fn profile(&self) -> PathBuf {
        self.work.join(format!("{}.toml", self.name))
    }

    /// Writes the profile with these keys of the source; `second` is what is done in the middle of a run.
    pub(crate) fn plan(&self, source_keys: &str, second: &str) {
        let (asked, program) = (self.work.join("asked"), self.work.join("zpool"));
        let _ = fs::remove_file(&asked);
        let script = format!(
            "#!/bin/sh\nif [ -e {0} ]; then\n:\n{second}\nfi\n: >{0}\nprintf 'data\\tONLINE\\n'\n",
            asked.display()
        );
        write(&program, script);
        chmod(&program, 0o755);
        let text = format!(
            "[source]\nroot = \"{}\"\n{source_keys}\n[standby]\nroot = \"{}\"\n[rules]\ninclude = [\"/\"]\n\
             [delete]\nenabled = true\n[commit]\nmode = \"{}\"\n[[gate]]\nkind = \"volume-group\"\nname = \"data\"\nmanager = \"zfs\"\n\
             program = \"{}\"\n",
            self.source.display(),
            self.standby.display(),
            self.mode,
            program.display()
        );
        write(&self.profile(), text);
        chmod(&self.profile(), 0o644);
    }

    pub(crate) fn sync(&self, more: &[&str]) -> Output {
        let _ = fs::remove_file(self.work.join("asked"));
        let (prefix, profile) = (self.prefix.iter().map(String::as_str).collect::<Vec<_>>(), self.profile());
        let args = [&["sync", profile.to_str().unwrap()], more].concat();
        clonetool_by(&prefix, crate::common::CLONETOOL, args)
    }

    /// The ways in which a run ends before its time, and what its exit code is then. A signal is heard when the gate that
    /// sent it is stopped.
    pub(crate) const ENDS: [(&str, i32); 3] =
        [("exit 1", 3), ("kill -TERM $PPID; exec sleep 600", 1), ("kill -KILL $PPID; exit 9", -1)];
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Stays on a host for the next run; the name of this profile does not come again.
        for place in fs::read_dir("/run/clonetool").into_iter().flatten().flatten() {
            if place.file_name().to_string_lossy().starts_with(&format!("snapshot.{}-", self.name)) {
                let _ = fs::remove_dir(place.path());
            }
        }
    }
}

fn subvolume(path: &Path) {
    run("btrfs", ["-q", "subvolume", "create", path.to_str().unwrap()]);
}

/// Where the snapshot of the source is while a run lasts.
fn place(pair: &Pair) -> PathBuf {
    pair.source.join(".clonetool-snapshot").join(pair.mark())
}

fn btrfs(name: &str) -> Pair {
    let pair = Pair::new(name);
    mount::loop_image(&pair.work.join("source.img"), "btrfs", 256 << 20, &pair.source);
    write(&pair.source.join("etc/file"), "before");
    write(&pair.source.join("etc/large"), noise(1, 3 << 20));
    pair
}

#[test]
fn what_is_written_in_the_middle_of_a_run_is_not_seen() {
    if lacks("snapshots::what_is_written_in_the_middle_of_a_run_is_not_seen", &["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let pair = btrfs("snapshots-moment");
    let (source, shell, far) = (pair.source.display(), pair.work.remote_shell(), pair.work.make("far"));
    let there = format!("standby:{}", far.display());
    let over =
        ["--destination", &there, "-e", shell.to_str().unwrap(), "--remote-path", crate::common::CLONETOOL];
    for (standby, options) in [(&pair.standby, &[][..]), (&far, &over[..])] {
        write(&pair.source.join("etc/file"), "before");
        write(&pair.source.join("etc/large"), noise(1, 3 << 20));
        pair.plan(
            "snapshot = \"btrfs\"",
            &format!("printf later >{source}/etc/file; rm {source}/etc/large; : >{source}/etc/new"),
        );
        assert_eq!(pair.sync(options).expect_code(0).stderr, "");
        assert_eq!(fs::read(standby.join("etc/file")).unwrap(), b"before");
        assert_eq!(fs::read(standby.join("etc/large")).unwrap(), noise(1, 3 << 20));
        assert!(!standby.join("etc/new").exists());
        assert!(is_empty(&pair.source.join(".clonetool-snapshot")));
        fs::remove_file(pair.source.join("etc/new")).unwrap();
    }
    pair.plan("snapshot = \"btrfs\"", "");
    pair.sync(&[]).expect_code(0);
    assert_equal(&pair.source.join("etc"), &pair.standby.join("etc"));
    // Neither the directory of the snapshots goes over, nor does its use show in the tree.
    assert!(!pair.standby.join(".clonetool-snapshot").exists());
    pair.sync(&["--json"]).expect_code(0).expect_no_changes();
}

#[test]
fn a_snapshot_goes_with_its_run_however_that_ends() {
    if lacks("snapshots::a_snapshot_goes_with_its_run_however_that_ends", &["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let mut pair = btrfs("snapshots-ends");
    for (mode, (end, code)) in ["run", "file"].iter().flat_map(|mode| Pair::ENDS.map(|end| (mode, end))) {
        pair.mode = mode;
        pair.plan(
            "snapshot = \"btrfs\"",
            &format!("[ -d {}/.clonetool-snapshot/*/etc ] || exit 9; {end}", pair.source.display()),
        );
        pair.sync(&[]).expect_code(code);
        assert!(!pair.standby.join("etc").exists(), "{end}");
        assert_eq!(place(&pair).exists(), code == -1, "{end}");
    }
    // What is left says whose it is, and belongs to nobody else.
    let other = place(&pair).with_file_name("other");
    subvolume(&other);
    pair.plan("snapshot = \"btrfs\"", "");
    let shown = format!("/.clonetool-snapshot/{}", pair.mark());
    pair.sync(&[]).expect_code(0).expect_stderr(&format!(
        "clonetool: warning: removed the snapshot {shown}, which a run that was cut off had left"
    ));
    assert!(!place(&pair).exists() && other.exists());
    assert_eq!(fs::read(pair.standby.join("etc/file")).unwrap(), b"before");
    // Something else under that name is nothing of ours.
    write(&place(&pair).join("file"), "somebody's");
    pair.sync(&[])
        .expect_code(1)
        .expect_stderr("it is no snapshot, and was not made by clonetool; move it away");
    assert!(place(&pair).join("file").exists());
}

#[test]
fn a_nested_subvolume_is_never_an_empty_directory() {
    if lacks("snapshots::a_nested_subvolume_is_never_an_empty_directory", &["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let pair = btrfs("snapshots-nested");
    subvolume(&pair.source.join("var"));
    write(&pair.source.join("var/inside"), "not listed");
    write(&pair.standby.join("var/precious"), "the standby's");
    let before = snapshot_ctimes(&pair.standby.join("var"));
    for source_keys in ["", "snapshot = \"btrfs\""] {
        pair.plan(source_keys, "");
        pair.sync(&[]).expect_code(0);
        assert_untouched(&before, &snapshot_ctimes(&pair.standby.join("var")));
    }
    // A snapshot that is itself the source has the same holes, also where the walk crosses filesystems.
    let snapshot = pair.source.join("kept");
    run("btrfs", ["-q", "subvolume", "snapshot", pair.source.to_str().unwrap(), snapshot.to_str().unwrap()]);
    let copy = pair.work.make("copy");
    write(&copy.join("var/precious"), "the copy's");
    crate::common::clone_json(&["--delete"], &snapshot, &copy).expect_code(0);
    assert_eq!(fs::read(copy.join("var/precious")).unwrap(), b"the copy's");
}

#[test]
fn listed_filesystems_are_of_the_same_moment_and_others_are_what_they_are_without_a_snapshot() {
    let test = "snapshots::listed_filesystems_are_of_the_same_moment_and_others_are_what_they_are_without_a_snapshot";
    if lacks(test, &["mkfs.btrfs", "btrfs", "mkfs.ext4"]) {
        return;
    }
    let pair = btrfs("snapshots-listed");
    let (source, standby) = (&pair.source, &pair.standby);
    subvolume(&source.join("@var"));
    let device = run("findmnt", ["-n", "-o", "SOURCE", source.to_str().unwrap()]);
    fs::create_dir(source.join("var")).unwrap();
    run("mount", ["-o", "subvol=@var", device.trim(), source.join("var").to_str().unwrap()]);
    mount::loop_image(&pair.work.join("boot.img"), "ext4", 16 << 20, &source.join("boot"));
    mount::tmpfs(&source.join("tmp"), "size=1m");
    for listed in ["var", "boot"] {
        mount::tmpfs(&standby.join(listed), "size=8m");
        write(&source.join(listed).join("file"), "before");
    }
    write(&source.join("tmp/file"), "of the running system");
    write(&standby.join("tmp/file"), "the standby's");
    let keys = "also = [\"/var\", \"/boot\"]\nsnapshot = \"btrfs\"";
    pair.plan(keys, "");
    pair.sync(&[]).expect_code(3).expect_stderr(
        "no snapshot can be made of /boot: it is no btrfs subvolume; see source.snapshot-except\n  nothing was changed",
    );
    assert!(is_empty(&source.join("var/.clonetool-snapshot")));
    let write_now = format!("printf later >{0}/var/file; printf later >{0}/boot/file", source.display());
    pair.plan(&format!("{keys}\nsnapshot-except = [\"/boot\"]"), &write_now);
    pair.sync(&[]).expect_code(0);
    assert_eq!(fs::read(standby.join("var/file")).unwrap(), b"before");
    assert_eq!(fs::read(standby.join("boot/file")).unwrap(), b"later");
    assert_eq!(fs::read(standby.join("tmp/file")).unwrap(), b"the standby's");
    assert!(standby.join("@var").is_dir() && is_empty(&standby.join("@var")));
    assert!(
        is_empty(&source.join(".clonetool-snapshot")) && is_empty(&source.join("var/.clonetool-snapshot"))
    );
    // Where a listed filesystem is not mounted there is no run, with a snapshot as without.
    run("umount", [source.join("boot")]);
    pair.plan(&format!("{keys}\nsnapshot-except = [\"/boot\"]"), "");
    pair.sync(&[]).expect_code(3).expect_stderr("/boot");
    assert_eq!(fs::read(standby.join("boot/file")).unwrap(), b"later");
}

#[test]
fn what_cannot_be_frozen_is_refused_with_its_reason() {
    let pair = Pair::new("snapshots-refused");
    write(&pair.source.join("file"), "file");
    let refused = |keys: &str, code: i32, message: &str| {
        pair.plan(keys, "");
        pair.sync(&[]).expect_code(code).expect_stderr(message);
        assert!(is_empty(&pair.standby), "{keys}");
    };
    refused("snapshot = \"btrfs\"", 3, "no snapshot can be made of /: it is no btrfs subvolume");
    refused("snapshot = \"zfs\"", 2, "unknown value `zfs`");
    refused("snapshot-size = \"1GiB\"", 2, "`source.snapshot` is missing: without it this key has no effect");
    refused(
        "snapshot = \"btrfs\"\nsnapshot-size = \"1GiB\"",
        2,
        "`snapshot-size` is for `snapshot = \"lvm\"`",
    );
    refused("snapshot = \"lvm\"\nsnapshot-size = \"much\"", 2, "bad source.snapshot-size `much`");
    refused("snapshot = \"lvm\"\none-file-system = false", 2, "it needs `source.one-file-system = true`");
    refused("snapshot = \"lvm\"\nsnapshot-except = [\"/x\"]", 2, "/x is not in `source.also`");
    refused(
        "snapshot = \"command\"\nalso = [\"/x\"]\nsnapshot-except = [\"/x\"]",
        2,
        "`snapshot-except` is for `lvm` and `btrfs`",
    );
    refused("snapshot = \"command\"", 2, "needs `snapshot-command` and `snapshot-remove`");
    pair.plan("snapshot = \"btrfs\"", "");
    pair.sync(&["--source", "root@localhost:/"])
        .expect_code(3)
        .expect_stderr("source.snapshot is for a source on this host, and this one is on another");
    clonetool(["profile".as_ref(), "export".as_ref(), "--rsync".as_ref(), pair.profile().as_os_str()])
        .expect_code(3)
        .expect_stderr("source.snapshot cannot be exported: a script reads the source as it is");
    // A profile that says what root runs is root's own.
    fs::set_permissions(pair.profile(), fs::Permissions::from_mode(0o666)).unwrap();
    pair.sync(&[]).expect_code(2).expect_stderr("has gates, and others than root may write it");
    // A plan is made of the source as it is, and leaves nothing.
    fs::set_permissions(pair.profile(), fs::Permissions::from_mode(0o644)).unwrap();
    pair.sync(&["--dry-run"]).expect_code(0);
}

#[test]
fn the_accounts_are_those_of_the_snapshot() {
    if lacks("snapshots::the_accounts_are_those_of_the_snapshot", &["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let pair = btrfs("snapshots-accounts");
    let (passwd, shadow) = ("root:x:0:0:root:/root:/bin/sh\n", "root:*:1::::::\n");
    for (name, text) in [("passwd", passwd), ("group", "root:x:0:\n"), ("shadow", shadow), (".pwd.lock", "")]
    {
        write(&pair.source.join("etc").join(name), text);
    }
    let add = format!("echo ann:x:1000:1000::/:/bin/sh >>{}/etc/passwd", pair.source.display());
    pair.plan("snapshot = \"btrfs\"", &add);
    let text = fs::read_to_string(pair.profile()).unwrap();
    let accounts = "extends = [\"linux\"]\n";
    write(&pair.profile(), format!("{accounts}{text}"));
    pair.sync(&[]).expect_code(0);
    assert_eq!(fs::read_to_string(pair.standby.join("etc/passwd")).unwrap(), passwd);
    assert_eq!(fs::read_to_string(pair.standby.join("etc/shadow")).unwrap(), shadow);
    assert_ne!(fs::read_to_string(pair.source.join("etc/passwd")).unwrap(), passwd);
}

#[test]
fn two_runs_of_a_profile_do_not_share_a_snapshot() {
    if lacks("snapshots::two_runs_of_a_profile_do_not_share_a_snapshot", &["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let pair = btrfs("snapshots-two");
    let (elsewhere, said) = (pair.work.make("elsewhere"), pair.work.join("said"));
    let second = format!(
        "rm {0}; {1} sync {2} --records {3} --destination {4} 2>{5}; echo $? >>{5}; : >{0}",
        pair.work.join("asked").display(),
        crate::common::CLONETOOL,
        pair.profile().display(),
        pair.work.join("records").display(),
        elsewhere.display(),
        said.display(),
    );
    pair.plan("snapshot = \"btrfs\"", &second);
    pair.sync(&[]).expect_code(0);
    let said = fs::read_to_string(&said).unwrap();
    assert!(said.ends_with("\n75\n"), "{said}");
    assert!(is_empty(&elsewhere));
    assert_eq!(fs::read(pair.standby.join("etc/file")).unwrap(), b"before");
}

/// A command of the system, whose end does not matter.
fn attempt(program: &str, args: &[&str]) {
    let _ = Command::new(program).args(args).output();
}
