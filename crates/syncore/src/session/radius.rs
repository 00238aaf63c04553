//! How much a plan may take away from the standby: judged there, before the first write.
//!
//! Why: an unmounted filesystem or a slip of a hand on production looks like a wish to delete. A plan that deletes many
//! entries and a good part of a directory is refused, unless somebody has read it. What can go wrong: a limit that is
//! hit every month is switched off for good; so what a package manager or a kernel that goes explains does not count,
//! and neither does what only moves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;

use rustix::fs::{Mode, OFlags, openat};

use crate::plan::{Change, Plan};
use crate::prepare::kernel_of;
use crate::profile::Limits;
use crate::scan::{Root, Snapshot};
use crate::session::SessionError;
use crate::tree::{Kind, RelPath};

/// Where dpkg(1) has the list of what each package brought.
const DPKG_LISTS: &[u8] = b"var/lib/dpkg/info/";
/// Longest list that is read; the longest of Debian has two megabytes.
const LIST_LIMIT_BYTES: u64 = 64 << 20;
/// Where a merged `/usr` has what packages still name without it (file-hierarchy(7)).
const MERGED: [&[u8]; 5] = [b"bin", b"lib", b"lib32", b"lib64", b"sbin"];

/// Refuses a plan that takes away more than `limits` allow, unless it is the one with the id `approved`.
///
/// # Errors
/// [`SessionError::Refused`], saying where how much would go, and how to run it all the same.
pub(super) fn check(
    root: &Root,
    snapshot: &Snapshot,
    plan: &Plan,
    limits: &Limits,
    approved: Option<&str>,
) -> Result<(), SessionError> {
    let id = plan.id().to_string();
    if approved == Some(&id) {
        return Ok(());
    }
    if let Some(approved) = approved {
        return Err(SessionError::Refused(format!(
            "the plan is {id} now, and {approved} was approved: something changed since it was read"
        )));
    }
    let explained = Explained::by(root, plan);
    let mut moved = Moved::by(plan);
    let (mut deleted, mut replaced) = (Count::default(), Count::default());
    for item in plan.items() {
        match item.change {
            Change::Delete(kind) if !moved.takes(kind, &item.path) && !explained.is(&item.path) => {
                deleted.add(&item.path);
            }
            Change::Replace(_) => replaced.add(&item.path),
            _ => {}
        }
    }
    for (count, verb, how) in
        [(deleted, "deletes", ""), (replaced, "replaces", " by something of another kind")]
    {
        let Some((top, part, of)) = count.excess(snapshot, limits) else { continue };
        return Err(SessionError::Refused(format!(
            "the plan {verb} {} entries{how}, {part} of {of} in /{}: more than {} and more than {} % of a directory; \
             read it with --dry-run, and if it is right, run it with --approve {id} or --allow-deletes {}",
            count.all,
            crate::tree::escape(&top),
            limits.max_entries,
            limits.max_percent,
            count.all
        )));
    }
    Ok(())
}

/// Entries by the directory at the top that they are in.
#[derive(Debug, Default)]
struct Count {
    all: u64,
    by_top: BTreeMap<Vec<u8>, u64>,
}

impl Count {
    fn add(&mut self, path: &RelPath) {
        self.all += 1;
        if let Some(top) = path.components().next() {
            *self.by_top.entry(top.to_vec()).or_default() += 1;
        }
    }

    /// Of the directories of which more goes than may the one that loses most, how much of it, and how much it has.
    fn excess(&self, snapshot: &Snapshot, limits: &Limits) -> Option<(Vec<u8>, u64, u64)> {
        if self.all <= limits.max_entries {
            return None;
        }
        let of = |top: &[u8]| 1 + snapshot.tops.get(top).copied().unwrap_or_default();
        let share =
            |part: u64, of: u64| u128::from(part) * 100 > u128::from(limits.max_percent) * u128::from(of);
        let exceeded = self.by_top.iter().filter(|(top, part)| share(**part, of(top)));
        let (top, part) = exceeded.max_by_key(|(_, part)| **part)?;
        Some((top.clone(), *part, of(top)))
    }
}

/// What comes under a name that goes elsewhere: mostly the same, and small files are sent again rather than searched for.
#[derive(Debug)]
struct Moved {
    from: HashSet<RelPath>,
    /// How many of a kind and a name come and were not found to be moved.
    come: HashMap<(Kind, Vec<u8>), u64>,
}

impl Moved {
    fn by(plan: &Plan) -> Self {
        let (mut from, mut come) = (HashSet::new(), HashMap::new());
        for item in plan.items().filter(|item| item.change == Change::Create) {
            if let Some(path) = item.moved_from {
                from.insert(path);
            } else {
                *come.entry((item.entry.kind, name_of(&item.path))).or_default() += 1;
            }
        }
        Self { from, come }
    }

    /// Whether what goes from `path` comes elsewhere.
    fn takes(&mut self, kind: Kind, path: &RelPath) -> bool {
        if self.from.contains(path) {
            return true;
        }
        match self.come.get_mut(&(kind, name_of(path))) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

fn name_of(path: &RelPath) -> Vec<u8> {
    path.name().unwrap_or_default().to_vec()
}

/// What goes for a reason that the plan itself shows.
#[derive(Debug)]
struct Explained {
    /// What packages had brought that go or come in another version.
    packaged: HashSet<Vec<u8>>,
    /// Kernels that go as a whole while another one is in the plan or stays.
    kernels: HashSet<String>,
}

impl Explained {
    fn by(root: &Root, plan: &Plan) -> Self {
        let (mut packaged, mut kernels) = (HashSet::new(), HashSet::new());
        let mut images_that_come = 0;
        for item in plan.items() {
            let path = item.path.as_bytes();
            let goes = matches!(item.change, Change::Delete(_));
            let is_list = path.strip_prefix(DPKG_LISTS).is_some_and(|name| name.ends_with(b".list"));
            if is_list && item.change != Change::Create {
                packaged.extend(listed(root, &item.path));
            }
            if path.starts_with(b"boot/vmlinuz-") {
                if goes {
                    kernels.extend(kernel_of(&item.path));
                } else {
                    images_that_come += 1;
                }
            }
        }
        if images_that_come == 0 && !keeps_a_kernel(root, &kernels) {
            kernels.clear();
        }
        Self { packaged, kernels }
    }

    fn is(&self, path: &RelPath) -> bool {
        self.packaged.contains(path.as_bytes()) || kernel_of(path).is_some_and(|k| self.kernels.contains(&k))
    }
}

/// Whether a kernel is on the standby that is not among those that go.
fn keeps_a_kernel(root: &Root, going: &HashSet<String>) -> bool {
    let Ok(boot) = root.open_directory(&crate::prepare::path("boot")) else { return false };
    let mut buffer = [std::mem::MaybeUninit::uninit(); 8192];
    let mut names = rustix::fs::RawDir::new(&boot, &mut buffer);
    while let Some(Ok(entry)) = names.next() {
        let name = String::from_utf8_lossy(entry.file_name().to_bytes()).into_owned();
        if name.strip_prefix("vmlinuz-").is_some_and(|release| !going.contains(release)) {
            return true;
        }
    }
    false
}

/// The paths in a package's list, as they are below the root. What cannot be read explains nothing.
fn listed(root: &Root, list: &RelPath) -> Vec<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = root
        .hold_directory(&list.parent().unwrap_or_default())
        .and_then(|directory| openat(directory, list.name().unwrap_or_default(), flags, Mode::empty()));
    let mut content = Vec::new();
    if let Ok(fd) = opened {
        let _ = std::fs::File::from(fd).take(LIST_LIMIT_BYTES).read_to_end(&mut content);
    }
    let mut paths = Vec::new();
    for line in content.split(|byte| *byte == b'\n') {
        let Some(path) = line.strip_prefix(b"/").filter(|path| !path.is_empty() && *path != b".") else {
            continue;
        };
        let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        if MERGED.contains(&top) {
            paths.push([b"usr/", path].concat());
        }
        paths.push(path.to_vec());
    }
    paths
}
