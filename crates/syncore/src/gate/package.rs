//! `package-transaction`: no package manager is at work on either root, and none left work half done.
//!
//! Why: files that a package manager is writing are old and new at once; a copy of them, with the database of an instant
//! later, is a system that no tool can repair. What can go wrong: a lock file is there all the time and says nothing,
//! it is the lock on it that counts (fcntl(2), which another process can ask for without taking it); and a manager that
//! died has no lock any more, but its database says what it left.

use rustix::fs::{FlockOperation, RawDir, flock};
use rustix::process::{Flock, FlockType, fcntl_getlk};
use serde::{Deserialize, Serialize};

use super::host::{open, read};
use super::{Asked, No};
use crate::scan::Root;
use crate::tree::{RelPath, escape};

/// Where dpkg keeps what it is in the middle of: dpkg(1), /var/lib/dpkg.
const DPKG_STATUS: &str = "var/lib/dpkg/status";
const DPKG_UPDATES: &str = "var/lib/dpkg/updates";
/// No status file is longer.
const STATUS_LIMIT_BYTES: u64 = 256 << 20;
/// So many packages are named.
const NAMED: usize = 5;

/// How a package manager marks that it is at work.
#[derive(Clone, Copy)]
enum Mark {
    /// A lock of fcntl(2) on the file.
    Lock,
    /// A lock of flock(2) on the file.
    Flock,
    /// That the file is there.
    Presence,
}

/// Manager, file, and what about it says that it is at work.
const MARKS: [(&str, &str, Mark); 8] = [
    ("dpkg", "var/lib/dpkg/lock-frontend", Mark::Lock),
    ("dpkg", "var/lib/dpkg/lock", Mark::Lock),
    ("rpm", "var/lib/rpm/.rpm.lock", Mark::Lock),
    ("rpm", "usr/lib/sysimage/rpm/.rpm.lock", Mark::Lock),
    ("pacman", "var/lib/pacman/db.lck", Mark::Presence),
    ("pkg", "var/pkg/lock", Mark::Lock),
    ("apk", "lib/apk/db/lock", Mark::Flock),
    ("apk", "usr/lib/apk/db/lock", Mark::Flock),
];

/// What package managers of a root are doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// Managers that are known in this root.
    pub managers: Vec<String>,
    /// What is going on, or was left half done, each in words.
    pub busy: Vec<String>,
    /// What could not be looked at, each in words.
    pub unknown: Vec<String>,
}

/// Looks at all package managers of a root.
pub(super) fn look(root: &Root) -> Packages {
    let mut packages = Packages::default();
    for (manager, path, mark) in MARKS {
        let fd = match open(root, path) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => continue,
            // `/lib` of a merged `/usr` is a link (file-hierarchy(7)); the same file is looked at below that.
            Err(rustix::io::Errno::LOOP) if path.starts_with("lib/") => continue,
            Err(error) => {
                let error = std::io::Error::from(error);
                packages
                    .unknown
                    .push(format!("the lock of {manager}, /{path}, cannot be looked at: {error}"));
                continue;
            }
        };
        packages.know(manager);
        let held = match mark {
            Mark::Presence => Ok(Some("is there".to_owned())),
            // A look, not a lock: nobody is kept out by it.
            Mark::Lock => fcntl_getlk(&fd, &Flock::from(FlockType::WriteLock)).map(|lock| {
                lock.map(|lock| match lock.pid {
                    Some(pid) => format!("is held by process {}", pid.as_raw_nonzero()),
                    None => "is held".to_owned(),
                })
            }),
            // RACE: a manager that asks for its lock in this instant, and does not wait, is turned away.
            Mark::Flock => match flock(&fd, FlockOperation::NonBlockingLockShared) {
                Ok(()) => Ok(None),
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some("is held".to_owned())),
                Err(error) => Err(error),
            },
        };
        match held {
            Ok(None) => {}
            Ok(Some(how)) => packages.busy.push(format!("{manager} is at work: /{path} {how}")),
            Err(error) => {
                let error = std::io::Error::from(error);
                packages.unknown.push(format!("whether /{path} is locked cannot be told: {error}"));
            }
        }
    }
    dpkg(root, &mut packages);
    packages
}

impl Packages {
    fn know(&mut self, manager: &str) {
        if !self.managers.iter().any(|known| known == manager) {
            self.managers.push(manager.to_owned());
        }
    }
}

/// What dpkg left in the middle: a journal of its own, or packages that are neither there nor gone.
fn dpkg(root: &Root, packages: &mut Packages) {
    match read(root, DPKG_STATUS, STATUS_LIMIT_BYTES) {
        Ok(status) => {
            packages.know("dpkg");
            let half = half_done(&String::from_utf8_lossy(&status));
            if !half.is_empty() {
                let more = if half.len() > NAMED { ", …" } else { "" };
                let named: Vec<_> = half.iter().take(NAMED).cloned().collect();
                let (count, named) = (half.len(), named.join(", "));
                packages.busy.push(format!("dpkg left {count} packages half done: {named}{more}"));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => packages.unknown.push(format!("/{DPKG_STATUS} cannot be read: {error}")),
    }
    let Ok(path) = RelPath::new(DPKG_UPDATES) else { return };
    if let Ok(directory) = root.open_directory(&path) {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut names = RawDir::new(&directory, &mut buffer);
        while let Some(Ok(name)) = names.next() {
            // Its journal has numbers for names.
            if name.file_name().to_bytes().iter().all(u8::is_ascii_digit) {
                packages.busy.push(format!("dpkg was interrupted: /{DPKG_UPDATES} has entries"));
                break;
            }
        }
    }
}

/// The packages of a status file (deb822, dpkg(1) "package states") that are neither installed nor gone.
fn half_done(status: &str) -> Vec<String> {
    let (mut half, mut package) = (Vec::new(), "");
    for line in status.lines() {
        if let Some(name) = line.strip_prefix("Package: ") {
            package = name.trim();
        } else if let Some(states) = line.strip_prefix("Status: ") {
            let words: Vec<&str> = states.split_whitespace().collect();
            let well = matches!(words[..], [_, "ok", "installed" | "config-files" | "not-installed"]);
            if !well {
                let state = words[1.min(words.len())..].join(" ");
                half.push(format!("{} ({})", escape(package.as_bytes()), escape(state.as_bytes())));
            }
        }
    }
    half
}

/// Passes when nothing is going on at either end.
pub(super) fn ask(asked: &Asked<'_>) -> Result<String, No> {
    let mut known = Vec::new();
    for (end, sight) in asked.both()? {
        let packages = &sight.host.packages;
        if let Some(busy) = packages.busy.first() {
            let next = match busy.starts_with("dpkg left") || busy.starts_with("dpkg was") {
                true => format!("run `dpkg --audit` and `dpkg --configure -a` on the {end}"),
                false => {
                    format!("wait until it has ended on the {end}; a lock that nobody holds is left over")
                }
            };
            return Err(No::refuse(format!("on the {end}, {}", escape(busy.as_bytes())), next));
        }
        if let Some(unknown) = packages.unknown.first() {
            let next = format!("mend it on the {end}");
            return Err(No::cannot_tell(format!("on the {end}, {}", escape(unknown.as_bytes())), next));
        }
        known.push(match packages.managers.is_empty() {
            true => format!("no package manager on the {end}"),
            false => format!("{} idle on the {end}", escape(packages.managers.join(", ").as_bytes())),
        });
    }
    Ok(known.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_usr_is_no_obstacle() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("usr/lib/apk/db")).unwrap();
        std::os::unix::fs::symlink("usr/lib", temp.path().join("lib")).unwrap();
        let root = Root::open(temp.path()).unwrap();
        assert_eq!(look(&root), Packages::default());
        let lock = std::fs::File::create(temp.path().join("usr/lib/apk/db/lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let found = look(&root);
        assert_eq!(found.busy, ["apk is at work: /usr/lib/apk/db/lock is held"]);
        assert!(found.unknown.is_empty(), "{found:?}");
    }

    #[test]
    fn only_what_is_neither_installed_nor_gone_is_half_done() {
        let status = "Package: a\nStatus: install ok installed\n\nPackage: b\nStatus: deinstall ok config-files\n\n\
                      Package: c\nStatus: install reinstreq half-installed\n\nPackage: d\n\
                      Status: install ok half-configured\n\nPackage: e\nStatus: install ok unpacked\n\n\
                      Package: f\nStatus: install ok triggers-awaited\n\nPackage: g\nStatus:\n\nPackage: h\nStatus: x\n";
        let half = half_done(status);
        assert_eq!(
            half,
            [
                "c (reinstreq half-installed)",
                "d (ok half-configured)",
                "e (ok unpacked)",
                "f (ok triggers-awaited)",
                "h ()"
            ]
        );
    }
}
