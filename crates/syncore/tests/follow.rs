//! A kernel upgrade on production, and what has to follow it on a standby that is mounted and not running.
//!
//! The standby's root holds a real shell, so that its tools are run in it by the real chroot; the tools themselves are
//! scripts that write down how they were called (mocks: real ones are in the boot test).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use syncore::monitor::Silent;
use syncore::prepare::{self, Boot, BootDisk, Journal, STATE_DIRECTORY};
use syncore::profile::{Keep, Profile, Whole, catalogues};
use syncore::rules::FollowUp;
use syncore::session::{Approval, Job, Location, Options, Report, resume, roll_back, run};

fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn script(root: &Path, path: &str, body: &str) {
    put(root, path, &format!("#!/bin/sh\n{body}"));
    fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Copies the shell of this host and what it is linked with.
fn shell(root: &Path) {
    let linked = std::process::Command::new("ldd").arg("/bin/sh").output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/bin/sh"]) {
        let to = root.join(&file[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
}

const LOG: &str = "var/log/calls";

fn tools(root: &Path, initramfs: &str) {
    script(root, "usr/sbin/depmod", "echo depmod $1 >>/var/log/calls\n");
    script(root, "usr/sbin/update-initramfs", initramfs);
    script(root, "usr/sbin/update-grub", "echo update-grub >>/var/log/calls\n");
}

const WORKS: &str = "echo update-initramfs $* >>/var/log/calls\n: >/boot/initrd.img-$3\n";

fn kernel(root: &Path, release: &str) {
    put(root, &format!("boot/vmlinuz-{release}"), release);
    put(root, &format!("usr/lib/modules/{release}/modules.order"), "kernel/fs/ext4.ko\n");
    put(root, &format!("usr/lib/modules/{release}/modules.dep"), "kernel/fs/ext4.ko:\n");
}

/// Makes a root a standby, as far as a sync sees: it has the journal of a preparation.
fn prepared(root: &Path) {
    let journal = Journal { hostname: "standby".into(), complete: true, ..Journal::default() };
    let path = format!("{STATE_DIRECTORY}/journal.json");
    put(root, &path, &serde_json::to_string(&journal).unwrap());
}

fn pair(temp: &Path) -> (PathBuf, PathBuf) {
    let (production, standby) = (temp.join("production"), temp.join("standby"));
    for root in [&production, &standby] {
        put(root, "etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
        put(root, "etc/fstab", "UUID=root / ext4 defaults 0 1\n");
        kernel(root, "6.1-old");
        shell(root);
        tools(root, WORKS);
        for directory in ["dev", "proc", "sys", "run", "var/lib/clonetool", "var/log", "boot"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
    }
    put(&standby, "boot/initrd.img-6.1-old", "made on the standby");
    prepared(&standby);
    (production, standby)
}

fn sync(production: &Path, standby: &Path) -> Report {
    let (name, text) = catalogues().iter().find(|(name, _)| *name == "linux").unwrap();
    let job = Job {
        source: Location::Local(production.into()),
        destination: Location::Local(standby.into()),
        rules: Profile::parse(name, text, &|_| None).unwrap().rules(),
        options: Options { delete: true, ..Options::default() },
    };
    run(&job, &mut |_| Approval::Run, &Silent).unwrap()
}

/// As [`sync`], all or nothing.
fn sync_whole(production: &Path, standby: &Path) -> Report {
    let (name, text) = catalogues().iter().find(|(name, _)| *name == "linux").unwrap();
    let whole = Some(Whole { profile: "daily".into(), keep: Keep::default() });
    let job = Job {
        source: Location::Local(production.into()),
        destination: Location::Local(standby.into()),
        rules: Profile::parse(name, text, &|_| None).unwrap().rules(),
        options: Options { delete: true, whole, ..Options::default() },
    };
    run(&job, &mut |_| Approval::Run, &Silent).unwrap()
}

fn calls(standby: &Path) -> Vec<String> {
    fs::read_to_string(standby.join(LOG)).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn upgrade(production: &Path) {
    kernel(production, "6.1-new");
    fs::remove_file(production.join("boot/vmlinuz-6.1-old")).unwrap();
    fs::remove_dir_all(production.join("usr/lib/modules/6.1-old")).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_new_kernel_gets_its_initramfs_before_the_old_one_goes() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    sync(&production, &standby);
    let _ = fs::remove_file(standby.join(LOG));
    upgrade(&production);
    let report = sync(&production, &standby);
    assert_eq!(report.problems, []);
    assert_eq!(
        calls(&standby),
        [
            // The old one keeps the one that it has, until it goes.
            "update-initramfs -c -k 6.1-new",
            "update-grub",
            // Once more, without the kernel that is gone by now.
            "update-grub"
        ]
    );
    assert!(standby.join("boot/initrd.img-6.1-new").exists());
    for gone in ["boot/vmlinuz-6.1-old", "boot/initrd.img-6.1-old", "usr/lib/modules/6.1-old"] {
        assert!(!standby.join(gone).exists(), "{gone}");
    }
    assert!(sync(&production, &standby).plan.is_none());
    assert_eq!(calls(&standby).len(), 3, "what was done is not done again");
    // Nothing of ours is left mounted or lying around.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(standby.to_str().unwrap()), "{mounts}");
    assert!(!standby.join("usr/sbin/policy-rc.d").exists());
}

#[test]
fn kernels_stay_until_what_the_next_boot_needs_is_made() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    sync(&production, &standby);
    upgrade(&production);
    tools(&production, "echo no space left >&2\nexit 1\n");
    let report = sync(&production, &standby);
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("no space left")), "{problems:?}");
    for stays in ["boot/vmlinuz-6.1-old", "boot/initrd.img-6.1-old", "usr/lib/modules/6.1-old/modules.order"]
    {
        assert!(standby.join(stays).exists(), "{stays}");
    }
    // The same again as long as it fails, though nothing of the kernel is sent any more.
    assert!(!sync(&production, &standby).problems.is_empty());
    assert!(standby.join("usr/lib/modules/6.1-old/modules.order").exists());
    tools(&production, WORKS);
    assert_eq!(sync(&production, &standby).problems, []);
    assert!(standby.join("boot/initrd.img-6.1-new").exists());
    assert!(!standby.join("boot/vmlinuz-6.1-old").exists());
    assert!(!standby.join("usr/lib/modules/6.1-old").exists());
}

#[test]
fn what_is_left_undone_is_told_and_tried_again_though_nothing_is_sent() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    sync(&production, &standby);
    script(&production, "usr/sbin/ldconfig", "[ -e /etc/works ] || exit 1\necho ldconfig >>/var/log/calls\n");
    put(&production, "usr/lib/libz.so.1", "a library");
    let problems = |report: &Report| report.problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let first = sync(&production, &standby);
    assert!(problems(&first)[0].contains("make the cache of the dynamic linker: "), "{:?}", first.problems);
    assert!(problems(&first)[0].ends_with("the next sync tries it again"), "{:?}", first.problems);
    assert_eq!(prepare::left(&standby).unwrap().into_iter().collect::<Vec<_>>(), [FollowUp::Ldconfig]);
    // Nothing is sent, and the standby is no better.
    let second = sync(&production, &standby);
    assert!(second.plan.is_none());
    assert_eq!(second.problems.len(), 1);
    fs::write(production.join("usr/sbin/ldconfig"), "#!/bin/sh\necho ldconfig >>/var/log/calls\n").unwrap();
    assert_eq!(sync(&production, &standby).problems, []);
    assert_eq!(prepare::left(&standby).unwrap().len(), 0);
    assert_eq!(calls(&standby).last().map(String::as_str), Some("ldconfig"));
}

#[test]
fn kernels_stay_while_the_boot_loader_cannot_be_put_where_it_was() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    let disk = BootDisk { device: "/dev/none".into(), by_id: Some("/dev/disk/by-id/none".into()) };
    let boot = |boot| Journal { hostname: "standby".into(), complete: true, boot, ..Journal::default() };
    let write = |journal: &Journal| {
        put(&standby, &format!("{STATE_DIRECTORY}/journal.json"), &serde_json::to_string(journal).unwrap());
    };
    write(&boot(Some(Boot { loader: true, named: true, disks: vec![disk], esp: None })));
    sync(&production, &standby);
    upgrade(&production);
    put(&production, "usr/lib/grub/i386-pc/modinfo.sh", "");
    script(&production, "usr/sbin/grub-install", "echo grub-install $* >>/var/log/calls\n");
    let report = sync(&production, &standby);
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert!(
        problems.iter().any(|problem| problem.contains("/dev/disk/by-id/none is not here")),
        "{problems:?}"
    );
    assert!(
        standby.join("boot/vmlinuz-6.1-old").exists() && standby.join("usr/lib/modules/6.1-old").exists()
    );
    assert!(!calls(&standby).iter().any(|call| call.starts_with("grub-install")), "a disk was guessed");
    assert!(prepare::left(&standby).unwrap().contains(&FollowUp::BootLoader));
    // Something else starts its kernel: then there is nothing to be done, and the old one goes.
    write(&boot(Some(Boot::default())));
    assert_eq!(sync(&production, &standby).problems, []);
    assert!(!standby.join("boot/vmlinuz-6.1-old").exists());
    assert_eq!(prepare::left(&standby).unwrap().len(), 0);
}

#[test]
fn nobody_else_sees_what_is_mounted_so_that_a_kill_leaves_nothing() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    sync(&production, &standby);
    upgrade(&production);
    let (begun, go_on) = (standby.join("var/log/begun"), standby.join("var/log/go-on"));
    for path in [&begun, &go_on] {
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    }
    // Each end of a FIFO waits for the other: no test of time.
    let waits = format!("[ -e /proc/self ] && echo x >/var/log/begun && read x </var/log/go-on\n{WORKS}");
    tools(&production, &waits);
    let mounts = std::thread::scope(|scope| {
        let run = scope.spawn(|| sync(&production, &standby));
        let mut seen = Vec::new();
        fs::read(&begun).unwrap();
        seen.push(fs::read_to_string("/proc/self/mounts").unwrap());
        fs::write(&go_on, "x\n").unwrap();
        assert_eq!(run.join().unwrap().problems, []);
        seen
    });
    for mounts in mounts {
        assert!(!mounts.contains(standby.to_str().unwrap()), "{mounts}");
    }
}

#[test]
fn a_new_kernel_gets_a_boot_entry_of_the_standbys_and_the_old_one_loses_its_own() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    let entry = |root: &str, release: &str| {
        format!(
            "version {release}\nlinux /vmlinuz-{release}\ninitrd /initramfs-{release}.img\noptions root=UUID={root} ro\n"
        )
    };
    put(&production, "boot/loader/entries/pppp-6.1-old.conf", &entry("p", "6.1-old"));
    put(&standby, "boot/loader/entries/ssss-6.1-old.conf", &entry("s", "6.1-old"));
    put(&standby, "boot/initramfs-6.1-old.img", "");
    sync(&production, &standby);
    upgrade(&production);
    put(&production, "boot/loader/entries/pppp-6.1-new.conf", &entry("p", "6.1-new"));
    assert_eq!(sync(&production, &standby).problems, []);
    let entries = standby.join("boot/loader/entries");
    let names: Vec<_> = fs::read_dir(&entries).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ssss-6.1-new.conf"]);
    assert_eq!(fs::read_to_string(entries.join("ssss-6.1-new.conf")).unwrap(), entry("s", "6.1-new"));
    assert!(!standby.join("boot/initramfs-6.1-old.img").exists());
    assert!(sync(&production, &standby).plan.is_none());
}

#[test]
fn a_rollback_of_a_kernel_makes_what_its_boot_needs_again() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (production, standby) = pair(temp.path());
    let full = "[ -e /var/log/full ] && echo full >>/var/log/calls && echo no space left >&2 && exit 1\n";
    let both = "[ -e /boot/vmlinuz-6.1-new ] && [ -e /boot/vmlinuz-6.1-old ] && echo both >>/var/log/calls\n";
    tools(&production, &format!("{full}{both}{WORKS}"));
    assert_eq!(sync_whole(&production, &standby).problems, []);
    upgrade(&production);
    assert_eq!(sync_whole(&production, &standby).problems, []);
    assert!(!standby.join("boot/vmlinuz-6.1-old").exists());
    // While it is made, the new one is still there.
    let _ = fs::remove_file(standby.join(LOG));
    let back = roll_back(&standby, "daily", None, &[], false, &Silent).unwrap();
    assert_eq!(back.problems, []);
    assert_eq!(calls(&standby), ["both", "update-initramfs -c -k 6.1-old", "update-grub", "update-grub"]);
    for there in ["boot/vmlinuz-6.1-old", "boot/initrd.img-6.1-old", "usr/lib/modules/6.1-old/modules.order"]
    {
        assert!(standby.join(there).exists(), "{there}");
    }
    for gone in ["boot/vmlinuz-6.1-new", "boot/initrd.img-6.1-new", "usr/lib/modules/6.1-new"] {
        assert!(!standby.join(gone).exists(), "{gone}");
    }
    assert_eq!(prepare::left(&standby).unwrap().len(), 0);
    resume(&standby).unwrap();
    assert_eq!(sync_whole(&production, &standby).problems, []);
    assert!(!standby.join("boot/vmlinuz-6.1-old").exists());
    // A standby that cannot make what the old kernel needs keeps the new one, and what it boots with.
    put(&standby, "var/log/full", "");
    let back = roll_back(&standby, "daily", None, &[], false, &Silent).unwrap();
    let problems: Vec<String> = back.problems.iter().map(ToString::to_string).collect();
    assert!(problems.iter().any(|problem| problem.contains("kernel 6.1-new stays")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("no space left")), "{problems:?}");
    assert_eq!(
        calls(&standby).iter().filter(|call| *call == "full").count(),
        1,
        "it was tried again at once"
    );
    for kernel in ["6.1-old", "6.1-new"] {
        assert!(standby.join(format!("boot/vmlinuz-{kernel}")).exists(), "{kernel}");
        assert!(standby.join(format!("usr/lib/modules/{kernel}/modules.order")).exists(), "{kernel}");
    }
    assert!(standby.join("boot/initrd.img-6.1-new").exists());
}
