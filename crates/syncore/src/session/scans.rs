//! What an end keeps of its scans for the next one of the same tree.
//!
//! Why: what is known to bear no attributes is not asked again ([`BareList`]). What can go wrong: knowledge of one who is
//! shown less than the next, so that is part of the key; a list that a run which looked closer has refuted, so such a run
//! drops it; lists that are part of what is synced and so change it for ever, so they are out of every run's scope.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::thread::{CapabilitySet, capabilities};

use crate::rules::{self, Action, Origin, Rule};
use crate::scan::BareList;
use crate::wire::Start;

/// Where an agent and the command line keep what they know of their scans.
pub const SCANS: &str = "/var/lib/clonetool/scans";

/// What is kept of scans, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scans<'a> {
    directory: Option<&'a Path>,
    dry_run: bool,
}

impl<'a> Scans<'a> {
    /// Of what is kept in `directory`; a dry run reads it and changes nothing.
    pub(crate) fn new(directory: Option<&'a Path>, dry_run: bool) -> Self {
        Self { directory, dry_run }
    }

    /// What is known of the tree at `root` under `rules`; none where nothing is to be believed.
    pub(crate) fn bare(self, root: &[u8], rules: &[Rule], start: &Start) -> Option<Arc<BareList>> {
        let directory = self.directory?;
        // Who is not allowed everything is not shown all attributes, nor is who only is in a namespace of users.
        let user = rustix::process::geteuid().as_raw();
        let administers =
            capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        let namespace = std::fs::read_link("/proc/self/ns/user").unwrap_or_default();
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        let key = (boot, user, administers, namespace.as_os_str().as_bytes(), root, rules);
        let key = postcard::to_allocvec(&key).ok()?;
        if !start.checksum {
            return Some(Arc::new(BareList::load(directory, &key, !self.dry_run)));
        }
        if !self.dry_run {
            BareList::forget(directory, &key);
        }
        None
    }
}

/// Adds to `out` what takes the directory of what is kept out of the scope of a run, where it is in one of its roots.
pub(crate) fn keep_out(directory: &Path, roots: [&[u8]; 2], out: &mut Vec<Rule>) {
    for root in roots {
        if let Ok(inside) = directory.strip_prefix(OsStr::from_bytes(root))
            && inside != Path::new("")
        {
            let pattern = rules::literal(&[b"/", inside.as_os_str().as_bytes()].concat());
            let origin = Origin { file: "clonetool".into(), line: 0 };
            out.push(Rule::new(Action::Protect, pattern, origin));
        }
    }
}
