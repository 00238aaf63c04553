//! The password files as one transaction: read under production's lock, checked, swapped under the standby's.
//!
//! Why: passwd, group, shadow and their companions only make sense together. A set of which one file is an hour older
//! locks people out. What can go wrong: a file torn by a crash on production, or a set in which root or the account
//! that syncs is missing; such a set is turned away as a whole and the standby keeps its own.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock, openat};
use rustix::io::Errno;

use crate::rules::{RuleSet, Scope, Treatment};
use crate::scan::Root;
use crate::tree::RelPath;

/// The files of the set, in `/etc`.
const SET: [&str; 6] = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"];

/// Whether a path is one of the set.
pub(crate) fn is_of_set(path: &RelPath) -> bool {
    path.as_bytes().strip_prefix(b"etc/").is_some_and(|name| SET.iter().any(|one| one.as_bytes() == name))
}

/// How long lckpwdf(3) waits for the lock, and so do we.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);

/// How often a held lock is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// The lock that lckpwdf(3) takes: a POSIX lock on all of `/etc/.pwd.lock`. Released when dropped.
#[derive(Debug)]
pub(crate) struct PasswordLock {
    /// None where the root has no lock file: then no tool there uses it either.
    _file: Option<OwnedFd>,
}

impl PasswordLock {
    /// Takes the lock of the system below `root`; waits as long as lckpwdf(3) does.
    ///
    /// # Errors
    /// `EAGAIN` when somebody held it all the time, and whatever opening it says.
    pub(crate) fn take(root: &Root) -> rustix::io::Result<Self> {
        let etc =
            match RelPath::new("etc").map_err(|_| Errno::INVAL).and_then(|etc| root.hold_directory(&etc)) {
                Err(Errno::NOENT) => return Ok(Self { _file: None }),
                other => other?,
            };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(etc.as_fd(), c".pwd.lock", flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::ROFS) => return Ok(Self { _file: None }),
            other => other?,
        };
        let started = Instant::now();
        loop {
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::AGAIN | Errno::ACCESS) if started.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(LOCK_INTERVAL);
                }
                other => return other.map(|()| Self { _file: Some(file) }),
            }
        }
    }
}

/// The files of the set that are in scope.
pub(crate) fn files(rules: &RuleSet) -> Vec<RelPath> {
    let rows = rules.rules().filter(|rule| rule.treatment == Treatment::AuthSet);
    let paths = rows.filter_map(|rule| RelPath::from_absolute(&rule.pattern).ok());
    let carried = |path: &RelPath| {
        let decision = rules.decide(path, false);
        decision.auth_set && decision.scope == Scope::In
    };
    paths.filter(carried).collect()
}

/// Why a set of password files is turned away.
///
/// `file` gives the set as it would be on the standby: the new file where there is one, else the standby's own.
pub(crate) fn defect(
    file: &dyn Fn(&str) -> Option<Vec<u8>>,
    before: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Option<String> {
    let passwd = file("passwd").unwrap_or_default();
    for name in SET {
        let content = file(name);
        if content.as_ref().is_some_and(|content| content.contains(&0)) {
            return Some(format!("{name} holds NUL bytes, as files do after a crash"));
        }
        let is_empty = content.as_ref().is_none_or(Vec::is_empty);
        if is_empty
            && before(name).is_some_and(|content| !content.is_empty())
            && matches!(name, "passwd" | "group" | "shadow")
        {
            return Some(format!("{name} would be empty or missing"));
        }
    }
    let account = |content: &[u8], wanted: &dyn Fn(&[&[u8]]) -> bool| {
        content.split(|b| *b == b'\n').any(|line| {
            let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
            wanted(&fields)
        })
    };
    if !account(&passwd, &|fields| fields.len() >= 7 && fields[2] == b"0" && !fields[0].is_empty()) {
        return Some("passwd has no account with uid 0".to_owned());
    }
    let has_root = |content: &[u8]| account(content, &|fields| fields.len() > 1 && fields[0] == b"root");
    let shadow_needed =
        account(&passwd, &|fields| fields.len() >= 7 && fields[0] == b"root" && fields[1] == b"x");
    let shadow = file("shadow").unwrap_or_default();
    if shadow_needed && !shadow.is_empty() && !has_root(&shadow) {
        return Some("shadow has no line for root".to_owned());
    }
    // The account that receives must still be there, or this was the last sync.
    let uid = rustix::process::geteuid().as_raw().to_string();
    let mine = |content: &[u8]| account(content, &|fields| fields.len() >= 7 && fields[2] == uid.as_bytes());
    if before("passwd").is_some_and(|old| mine(&old)) && !mine(&passwd) {
        return Some(format!("passwd has no account with uid {uid}, which is the one that syncs"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n+::::::\n";
    const SHADOW: &str = "root:*:1::::::\nann:!:1::::::\n";

    fn check(passwd: &str, shadow: &str) -> Option<String> {
        let file = |name: &str| match name {
            "passwd" => Some(passwd.as_bytes().to_vec()),
            "shadow" => Some(shadow.as_bytes().to_vec()),
            _ => None,
        };
        let before = |name: &str| match name {
            "passwd" => Some(PASSWD.as_bytes().to_vec()),
            "shadow" => Some(SHADOW.as_bytes().to_vec()),
            _ => None,
        };
        defect(&file, &before)
    }

    #[test]
    fn what_production_may_have_passes_and_what_locks_out_does_not() {
        assert_eq!(check(PASSWD, SHADOW), None);
        let shared_ids = "root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n";
        assert_eq!(check(shared_ids, SHADOW), None);
        assert!(check("", SHADOW).is_some());
        assert!(check("ann:x:1000:1000::/:/bin/sh\n", SHADOW).is_some());
        assert!(check(PASSWD, "ann:!:1::::::\n").is_some());
        assert!(check(PASSWD, "").is_some());
        assert!(check("root:x:0:0::/:/bin/sh\0\0\0", SHADOW).is_some());
    }
}
