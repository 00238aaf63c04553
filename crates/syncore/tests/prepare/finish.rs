//! finish.sh of every case: read by a plain shell, and run with programs that only write down how they were called.
//!
//! Why: nothing of Solaris runs here. So the shell is dash, which knows less than most, what it would let through and a
//! Bourne shell would not is looked for, and each command is compared with the forms of its manual page. What can go
//! wrong: a form that was written down wrong here; each names its page.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::skip;
use super::tree::Tree;

/// Forms of commands; `*` is one word.
const FORMS: [&str; 22] = [
    "drvconfig -r *",                          // drvconfig(1M), 2.6
    "devlinks -r *",                           // devlinks(1M)
    "disks -r *",                              // disks(1M)
    "tapes -r *",                              // tapes(1M)
    "ports -r *",                              // ports(1M)
    "devfsadm -r *",                           // devfsadm(1M), 7 and later
    "installboot * *",                         // installboot(1M): bootblk raw-disk-device
    "installboot -F zfs * *",                  // the same, 10 10/08 and later
    "installboot * * *",                       // the same for x86: pboot bootblk raw-disk-device
    "installgrub -f * * *",                    // installgrub(1M): stage1 stage2 raw-device
    "bootadm update-archive -f -R *",          // bootadm(1M)
    "bootadm install-bootloader -f -R * -P *", // bootadm(1M), 11 and illumos
    "chroot * * -q -t * -N '' -f *",           // chroot(1M), ssh-keygen(1)
    "svccfg -s * setprop * = astring: *",      // svccfg(1M)
    "svccfg -s * setprop * = boolean: false",  // the same
    "svccfg -s * refresh",                     // the same
    "ipadm create-if *",                       // ipadm(1M), illumos
    "ipadm create-ip *",                       // ipadm(1M), 11
    "ipadm create-addr -T static -a * *",      // the same
    "ipadm create-addr -T dhcp *",             // the same
    "route -p add default *",                  // route(1M)
    "touch *",                                 // touch(1)
];

/// What the Bourne shell of Solaris 2.6 does not know, and dash does.
const UNKNOWN: [&str; 16] = [
    "$(",
    "[[",
    "local ",
    "! ",
    "==",
    " -e ",
    "${#",
    "%}",
    "##",
    "%%",
    "$((",
    "function ",
    "&>",
    "source ",
    "printf",
    "~",
];

/// The script of each case that has one.
fn scripts() -> Vec<PathBuf> {
    let scripts = super::cases().into_iter().map(|case| case.join("after/var/lib/clonetool/finish.sh"));
    scripts.filter(|script| script.exists()).collect()
}

#[test]
fn a_shell_of_1997_understands_finish_sh() {
    for script in scripts() {
        let shown = script.display();
        let Ok(read) = Command::new("dash").arg("-n").arg(&script).output() else {
            return skip("a_shell_of_1997_understands_finish_sh", "not installed: dash");
        };
        assert!(read.status.success(), "{shown}: {}", String::from_utf8_lossy(&read.stderr));
        for line in code(&script) {
            // What is between single quotes is for awk and sed.
            let line = line.split('\'').step_by(2).collect::<Vec<_>>().join("''");
            for unknown in UNKNOWN {
                assert!(!line.contains(unknown), "{shown}: {unknown} in {line}");
            }
            let export = line.trim().strip_prefix("export ");
            assert!(!export.is_some_and(|names| names.contains('=')), "{shown}: {line}");
        }
    }
}

#[test]
fn finish_sh_calls_programs_as_their_manual_pages_have_it() {
    let mut seen = std::collections::BTreeSet::new();
    for script in scripts() {
        for line in code(&script) {
            let Some((_, call)) = line.split_once("run \"") else { continue };
            let (_, command) =
                call.split_once("\" ").unwrap_or_else(|| panic!("{line}: a hint without an end"));
            let form = FORMS.iter().find(|form| matches(form, command));
            seen.insert(*form.unwrap_or_else(|| panic!("{}: {command}: no such form", script.display())));
        }
    }
    if std::env::var_os("PREPARE_CASE").is_none() {
        let unused: Vec<_> = FORMS.iter().filter(|form| !seen.contains(**form)).collect();
        assert!(unused.is_empty(), "no case has {unused:?}");
    }
}

fn code(script: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(script).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_owned).collect()
}

fn matches(form: &str, command: &str) -> bool {
    let (form, command): (Vec<&str>, Vec<&str>) = (form.split(' ').collect(), command.split(' ').collect());
    form.len() == command.len() && form.iter().zip(&command).all(|(form, word)| *form == "*" || form == word)
}

/// A prepared root, and programs of a machine that do nothing but write down how they were called.
struct Machine {
    temp: tempfile::TempDir,
}

impl Machine {
    /// The tree of `case` after its preparation; none where it cannot be made.
    fn of(test: &str, case: &str, stubs: &[(&str, &str)]) -> Option<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prepare").join(case);
        if !rustix::process::geteuid().is_root() {
            skip(test, "only root can lay out a tree with owners");
            return None;
        }
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let machine = Self { temp };
        Tree::read(&directory.join("after"), &directory.join("after.txt")).lay_out(&machine.root());
        let disk = machine.temp.path().join("disk");
        let (mode, device) = (rustix::fs::Mode::from_raw_mode(0o600), rustix::fs::makedev(7, 0));
        let kind = rustix::fs::FileType::BlockDevice;
        if rustix::fs::mknodat(rustix::fs::CWD, &disk, kind, mode, device).is_err() {
            skip(test, "no device node can be made here");
            return None;
        }
        std::fs::create_dir(machine.temp.path().join("bin")).unwrap();
        for (name, body) in stubs {
            machine.stub(name, body);
        }
        Some(machine)
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("a")
    }

    /// A program that writes its call into the log, then does `body`.
    fn stub(&self, name: &str, body: &str) {
        use std::os::unix::fs::PermissionsExt;
        let temp = self.temp.path().display();
        let text =
            format!("#!/bin/sh\nR={temp}/a\nDISK={temp}/disk\necho \"{name} $*\" >>{temp}/log\n{body}\n");
        let path = self.temp.path().join("bin").join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs the script; what it said, and the calls with the root as `/a`.
    fn finish(&self, disks: &[&str]) -> (Output, Vec<String>) {
        let log = self.temp.path().join("log");
        let _ = std::fs::remove_file(&log);
        let output = Command::new("dash")
            .arg(self.root().join("var/lib/clonetool/finish.sh"))
            .arg(self.root())
            .args(disks)
            .env("PATH", format!("{}:/usr/bin:/bin", self.temp.path().join("bin").display()))
            .output()
            .unwrap();
        let calls = std::fs::read_to_string(log).unwrap_or_default();
        let calls = calls.replace(&self.root().display().to_string(), "/a");
        let asks = |line: &&str| !line.starts_with("uname ") && !line.starts_with("id ");
        (output, calls.lines().filter(asks).map(str::to_owned).collect())
    }
}

const UNAME: (&str, &str) =
    ("uname", "case $1 in -s) echo SunOS;; -p) echo sparc;; -i) echo SUNW,Ultra-Enterprise-10000;; esac");
const ID: (&str, &str) = ("id", "echo 'uid=0(root) gid=1(other)'");
/// An `ssh-keygen` in a `chroot`: root program -q -t kind -N passphrase -f file.
const CHROOT: (&str, &str) = ("chroot", "mkdir -p \"`dirname \"$1$9\"`\"; echo key >\"$1$9\"");

fn enterprise_10000(test: &str) -> Option<Machine> {
    let machine = Machine::of(
        test,
        "solaris-2.6-vxvm",
        &[
            UNAME,
            ID,
            CHROOT,
            ("drvconfig", "mkdir -p $R/devices/pseudo"),
            ("devlinks", "for d in console null zero; do ln -sf /dev/null $R/dev/$d; done"),
            ("disks", "mkdir -p $R/dev/dsk; for s in 0 1 3 6; do ln -sf $DISK $R/dev/dsk/c0t0d0s$s; done"),
            ("tapes", ""),
            ("ports", ""),
            ("installboot", ""),
        ],
    )?;
    let block = machine.root().join("usr/platform/SUNW,Ultra-Enterprise-10000/lib/fs/ufs");
    std::fs::create_dir_all(&block).unwrap();
    std::fs::write(block.join("bootblk"), "block").unwrap();
    Some(machine)
}

const DEVICES: [&str; 5] =
    ["drvconfig -r /a/devices", "devlinks -r /a", "disks -r /a", "tapes -r /a", "ports -r /a"];
const BOOT_BLOCK: &str =
    "installboot /a/usr/platform/SUNW,Ultra-Enterprise-10000/lib/fs/ufs/bootblk /dev/rdsk/c0t0d0s0";

#[test]
fn finish_sh_makes_devices_keys_and_a_boot_block_and_can_be_run_again() {
    let name = "finish_sh_makes_devices_keys_and_a_boot_block_and_can_be_run_again";
    let Some(machine) = enterprise_10000(name) else { return };
    let keygen = "chroot /a /usr/local/bin/ssh-keygen -q -t";
    let keys = [
        format!("{keygen} rsa -N  -f /opt/keys/extra"),
        format!("{keygen} rsa1 -N  -f /usr/local/etc/ssh_host_key"),
        format!("{keygen} rsa -N  -f /usr/local/etc/ssh_host_rsa_key"),
    ];
    let (output, calls) = machine.finish(&["/dev/rdsk/c0t0d0s0"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Vec<&str> =
        DEVICES.into_iter().chain(keys.iter().map(String::as_str)).chain([BOOT_BLOCK]).collect();
    assert_eq!(calls, expected);
    // Again: everything but the keys, which are there.
    let (output, calls) = machine.finish(&["/dev/rdsk/c0t0d0s0"]);
    assert!(output.status.success());
    assert_eq!(calls, DEVICES.into_iter().chain([BOOT_BLOCK]).collect::<Vec<_>>());
}

#[test]
fn finish_sh_stops_at_the_first_failure_and_says_what_to_do() {
    let name = "finish_sh_stops_at_the_first_failure_and_says_what_to_do";
    let Some(machine) = enterprise_10000(name) else { return };
    let failed = |(output, calls): (Output, Vec<String>)| {
        assert_eq!(output.status.code(), Some(1));
        let said =
            String::from_utf8(output.stderr).unwrap().replace(&machine.root().display().to_string(), "/a");
        (said, calls)
    };
    // A disk of another name, after all devices have been made.
    machine.stub("disks", "mkdir -p $R/dev/dsk; ln -sf $DISK $R/dev/dsk/c1t0d0s0");
    let (said, calls) = failed(machine.finish(&[]));
    assert!(said.contains("FAILED: /dev/dsk/c0t0d0s1 is not there"), "{said}");
    assert!(said.contains("change both columns in /a/etc/vfstab"), "{said}");
    assert_eq!(calls, DEVICES);
    // A program that fails.
    machine.stub("disks", "exit 3");
    let (said, calls) = failed(machine.finish(&[]));
    assert!(said.contains("FAILED: disks -r /a\nfinish.sh: it makes /dev/dsk"), "{said}");
    assert_eq!(calls, DEVICES[..3]);
    // Not the machine that it is for, and not root.
    machine.stub("uname", "case $1 in -s) echo SunOS;; -p) echo i386;; esac");
    let (said, calls) = failed(machine.finish(&[]));
    assert!(said.contains("this root boots on sparc only"), "{said}");
    machine.stub("uname", "echo Linux");
    assert!(failed(machine.finish(&[])).0.contains("this is not Solaris"));
    assert_eq!(calls, [""; 0]);
}
