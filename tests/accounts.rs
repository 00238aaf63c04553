//! The auth set while accounts come and go on both hosts.
//!
//! useradd(8) and userdel(8) of a real system run in a loop on production and on the standby. Whoever takes the password
//! lock (lckpwdf(3): a POSIX lock on /etc/.pwd.lock) must see each account in all of the files or in none, whatever a
//! sync, a rollback or a recovery does at that moment.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::common::debian;
use crate::common::{CLONETOOL, Workdir, clonetool, lacks, run};

const FILES: [&str; 4] = ["passwd", "shadow", "group", "gshadow"];

/// The names in each of the files, in their order.
fn names(root: &Path) -> [Vec<String>; 4] {
    FILES.map(|file| {
        let text = fs::read_to_string(root.join("etc").join(file)).unwrap();
        text.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect()
    })
}

/// What is wrong with the set of a host, whose lock is held; empty if nothing is.
fn mixed(root: &Path) -> String {
    let [passwd, shadow, group, gshadow] = names(root);
    let lacking = passwd.iter().filter(|name| name.starts_with("loop") && !group.contains(name));
    let mut wrong: String = lacking.map(|name| format!("{name} has no group\n")).collect();
    for (one, other, what) in
        [(&passwd, &shadow, "passwd and shadow"), (&group, &gshadow, "group and gshadow")]
    {
        if one != other {
            wrong += &format!("{what} differ: {one:?} {other:?}\n");
        }
    }
    wrong
}

/// Runs `look` while the password lock of a host is held.
fn locked<T>(root: &Path, look: impl FnOnce() -> T) -> T {
    // A POSIX lock belongs to the process: only one reader of each root may be at work in it.
    let lock = File::options().read(true).write(true).open(root.join("etc/.pwd.lock")).unwrap();
    fcntl_lock(&lock, FlockOperation::LockExclusive).unwrap();
    look()
}

/// Adds accounts, and takes some away again, until told to stop.
fn accounts(root: &Path, prefix: &str, stop: &AtomicBool, pause: &Mutex<()>) -> u32 {
    let mut made = 0;
    let tool = |tool: &str, more: &[&str], name: &str| {
        let mut command = Command::new("chroot");
        command.arg(root).arg(tool).args(more).arg(name).stderr(Stdio::null());
        command.status().expect("run chroot").success()
    };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let _held = pause.lock().unwrap();
        // One that another host's set took away in between cannot be deleted; nor can one be added while a sync has the
        // lock for too long.
        made += u32::from(tool("/usr/sbin/useradd", &["-M"], &format!("{prefix}{number}")));
        if number % 3 == 2 {
            tool("/usr/sbin/userdel", &[], &format!("{prefix}{}", number - 1));
        }
    }
    made
}

/// Tells the others to stop when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn who_takes_the_password_lock_sees_no_mixed_set_while_accounts_come_and_go() {
    if lacks("accounts::loop", &["debootstrap", "strace"]) {
        return;
    }
    let dir = Workdir::new("accounts");
    let (production, standby) = (dir.join("production"), dir.join("standby"));
    debian::copy_to(&production);
    // Only what the tools need.
    for away in
        ["usr/share", "usr/lib/git-core", "var/cache", "var/lib/apt", "usr/lib/python3.11", "usr/include"]
    {
        let _ = fs::remove_dir_all(production.join(away));
    }
    run("chroot", [production.as_os_str(), "useradd".as_ref(), "-M".as_ref(), "loop-before".as_ref()]);
    run("cp", ["-a".as_ref(), production.as_os_str(), standby.as_os_str()]);
    let text = |path: &Path| path.display().to_string();
    let sync = || {
        let ends = ["--source".to_owned(), text(&production), "--destination".to_owned(), text(&standby)];
        ["sync".to_owned(), "linux-hourly-auth".to_owned(), "-q".to_owned()].into_iter().chain(ends)
    };
    let (stop, looks) = (AtomicBool::new(false), AtomicU32::new(0));
    let (never, pause) = (Mutex::new(()), Mutex::new(()));
    std::thread::scope(|scope| {
        let on_production = scope.spawn(|| accounts(&production, "loop-p", &stop, &never));
        let on_standby = scope.spawn(|| accounts(&standby, "loop-s", &stop, &pause));
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Not while an interrupted run waits for its recovery: until then nothing is promised.
                let _whole = pause.lock().unwrap();
                let wrong = locked(&standby, || mixed(&standby));
                assert_eq!(wrong, "", "a reader with the lock");
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Also when something below does not hold.
        let _over = Over(&stop);
        let mut swapped = 0;
        for round in 0..12 {
            let before = fs::read(standby.join("etc/passwd")).unwrap();
            // 3: a set that production's tools tore apart is not brought; 4: nor one of which a file changed just now.
            clonetool(sync()).expect_one_of(&[0, 1, 4]);
            swapped += u32::from(fs::read(standby.join("etc/passwd")).unwrap() != before);
            if round % 3 == 1 {
                let _whole = pause.lock().unwrap();
                let kill = format!("inject=renameat:signal=KILL:when={}", 2 + round);
                let strace = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat", "-e", &kill, CLONETOOL];
                let records = dir.path().join("records");
                let arguments = sync().chain(["--records".to_owned(), text(&records)]);
                let _ = Command::new("strace").args(strace).args(arguments).output().expect("run strace");
                clonetool(["recover".as_ref(), standby.as_os_str()]).expect_code(0);
                assert_eq!(mixed(&standby), "", "after a recovery in round {round}");
            }
            if round % 4 == 3 {
                let back = ["rollback", "linux-hourly-auth", "--root"].map(str::to_owned);
                clonetool(back.into_iter().chain([text(&standby)])).expect_code(0);
                clonetool(["schedule", "resume", "--root", &text(&standby)]).expect_code(0);
            }
        }
        stop.store(true, Ordering::Relaxed);
        let made = [on_production.join().unwrap(), on_standby.join().unwrap()];
        reader.join().unwrap();
        assert!(made.iter().all(|made| *made >= 5), "only {made:?} accounts were made");
        assert!(swapped >= 3 && looks.load(Ordering::Relaxed) >= 20, "{swapped} sets, {looks:?} looks");
    });
    clonetool(sync()).expect_code(0);
    assert_eq!(names(&production), names(&standby));
    assert_eq!(mixed(&standby), "");
}
