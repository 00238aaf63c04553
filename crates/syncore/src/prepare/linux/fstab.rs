//! fstab: the system's own lines name the standby's devices, the others are held.
//!
//! Why: a line whose device is not there costs a boot 90 seconds, or ends it in an emergency shell; a line whose device
//! is there, because the standby sees production's storage too, mounts what production writes to. So each line is one of:
//! the system's (something is mounted at its place below the root: it gets that device), swap (the standby's, or
//! dropped), made up by the kernel (kept), or data (kept, and `noauto` until the standby is promoted). What can go
//! wrong: a filesystem that the system needs and that is not mounted below the root; the preparation refuses.

use super::super::draft::Draft;
use super::super::lines::{Lines, fields, is_comment, with_field};
use super::super::report::{Finding, Held};
use super::super::target::{Filesystem, Target};
use super::super::{PrepareError, Task};
use super::devices::{decode, encode, id_of, mapped, name_like, root_like};
use crate::rules::Class;
use crate::tree::{RelPath, escape};

/// Where it is.
pub(super) const FSTAB: &str = "/etc/fstab";
/// Says in a line's options that it is held, for people and for the promotion.
const MARK: &str = "x-clonetool.held";
/// What the system cannot be prepared without when its fstab has it.
const NEEDED: [&str; 6] = ["/", "/boot", "/boot/efi", "/efi", "/usr", "/var"];
/// Made by the kernel, on no device.
const NO_DEVICE: [&str; 22] = [
    "proc",
    "sysfs",
    "devpts",
    "tmpfs",
    "devtmpfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "securityfs",
    "tracefs",
    "mqueue",
    "hugetlbfs",
    "binfmt_misc",
    "efivarfs",
    "pstore",
    "configfs",
    "fusectl",
    "rpc_pipefs",
    "nfsd",
    "ramfs",
    "usbfs",
    "overlay",
];
/// Options that any filesystem knows (mount(8)).
const COMMON: [&str; 20] = [
    "defaults",
    "ro",
    "rw",
    "auto",
    "noauto",
    "atime",
    "noatime",
    "relatime",
    "strictatime",
    "nodiratime",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "nofail",
    "_netdev",
];

/// What fstab says of production's devices, for the files that name them too.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// How it named what the system itself is on, and its swap.
    pub(super) system: Vec<String>,
    /// How it named the rest.
    pub(super) data: Vec<String>,
    /// Where it mounts something of its own.
    pub(super) points: Vec<String>,
}

/// One line, read.
#[derive(Debug, Clone)]
struct Entry {
    spec: String,
    point: String,
    kind: String,
    options: Vec<String>,
    fields: usize,
}

impl Entry {
    /// None for a comment, and for what mount(8) does not understand either.
    fn of(line: &[u8]) -> Option<Self> {
        if is_comment(line, b'#') {
            return None;
        }
        let fields = fields(line);
        let (spec, point) = (fields.first()?, fields.get(1)?);
        let text = |at: usize| fields.get(at).map(|field| String::from_utf8_lossy(field).into_owned());
        Some(Self {
            spec: decode(spec),
            point: normal(&decode(point)),
            kind: text(2).unwrap_or_default(),
            options: text(3).unwrap_or_default().split(',').map(str::to_owned).collect(),
            fields: fields.len(),
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|one| one == option)
    }

    fn is_swap(&self) -> bool {
        self.kind == "swap"
    }

    fn is_bind(&self) -> bool {
        self.has("bind") || self.has("rbind")
    }

    fn is_without_device(&self) -> bool {
        NO_DEVICE.contains(&self.kind.as_str()) || self.is_bind()
    }
}

/// A mount point without the slashes that mean nothing.
fn normal(point: &str) -> String {
    if !point.starts_with('/') {
        return point.to_owned();
    }
    let parts: Vec<&str> = point.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

fn is_below(point: &str, directory: &str) -> bool {
    point == directory || point.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// Refuses when the system needs a filesystem that is not mounted below the root.
pub(super) fn guard(task: &Task<'_>, draft: &Draft<'_>) -> Result<(), PrepareError> {
    let content = draft.read(FSTAB)?.unwrap_or_default();
    for entry in Lines::of(&content).0.iter().filter_map(|line| Entry::of(&line.content)) {
        let dropped = mapped(task, &entry.spec) == Some(None);
        let root_named = entry.point == "/" && task.options.root_device.is_some();
        if NEEDED.contains(&entry.point.as_str())
            && !entry.is_without_device()
            && !dropped
            && !root_named
            && task.target.at(&entry.point).is_none()
        {
            return Err(PrepareError::NotMounted {
                mount_point: entry.point,
                root: draft.inside().root().path().display().to_string(),
            });
        }
    }
    Ok(())
}

/// Plans the new fstab.
pub(super) fn plan(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<Seen, PrepareError> {
    let before = draft.read(FSTAB)?;
    let content = before.clone().unwrap_or_default();
    if content.contains(&0) {
        return Err(PrepareError::Malformed {
            path: RelPath::from_absolute(FSTAB.as_bytes()).unwrap_or_default(),
            reason: "there are NUL bytes in it".to_owned(),
        });
    }
    let mut lines = Lines::of(&content);
    let mut work = Work { task, seen: Seen::default(), swaps: 0, roots: 0, held: held_points(task, &lines) };
    let mut kept = Vec::with_capacity(lines.0.len());
    for mut line in std::mem::take(&mut lines.0) {
        let Some(entry) = Entry::of(&line.content) else {
            if !is_comment(&line.content, b'#') {
                draft.find(Finding::note(format!(
                    "a line of {FSTAB} has no mount point, and mount ignores it: {}",
                    escape(&line.content)
                )));
            }
            kept.push(line);
            continue;
        };
        if let Some(content) = work.line(&line.content, &entry, draft)? {
            line.content = content;
            kept.push(line);
        }
    }
    lines.0 = kept;
    if work.roots > 1 {
        draft.find(Finding::note(format!("{FSTAB} has {} lines for /; the last one counts", work.roots)));
    }
    let mut points = std::mem::take(&mut work.seen.points);
    for filesystem in task.target.filesystems.iter().filter(|one| one.mount_point.is_some()) {
        let point = filesystem.mount_point.as_ref().map(ToString::to_string).unwrap_or_default();
        if !points.contains(&point) {
            lines.push(&new_line(&point, filesystem)?);
            draft.replaced(&point, "(none)", filesystem.device.display().to_string());
        }
    }
    points.sort();
    work.seen.points = points;
    let why = "the system's filesystems are on the standby's devices; the others wait for a promotion";
    if before.is_some() || !lines.0.is_empty() {
        draft.write(FSTAB, lines.to_bytes(), Class::B, why)?;
    }
    Ok(work.seen)
}

/// The mount points of the lines that will be held.
fn held_points(task: &Task<'_>, lines: &Lines) -> Vec<String> {
    let entries = lines.0.iter().filter_map(|line| Entry::of(&line.content));
    let held = entries.filter(|entry| {
        entry.point.starts_with('/')
            && entry.point != "/"
            && !entry.is_swap()
            && !entry.is_without_device()
            && task.target.at(&entry.point).is_none()
            && mapped(task, &entry.spec).is_none()
    });
    held.map(|entry| entry.point).collect()
}

/// What is carried from line to line.
struct Work<'a> {
    task: &'a Task<'a>,
    seen: Seen,
    swaps: usize,
    roots: usize,
    held: Vec<String>,
}

impl Work<'_> {
    /// What becomes of a line; none if it is dropped.
    fn line(
        &mut self,
        line: &[u8],
        entry: &Entry,
        draft: &mut Draft<'_>,
    ) -> Result<Option<Vec<u8>>, PrepareError> {
        let (task, point) = (self.task, entry.point.as_str());
        self.roots += usize::from(point == "/");
        self.seen.points.push(point.to_owned());
        let what = if entry.is_swap() { "swap" } else { point };
        if let Some(new) = mapped(task, &entry.spec) {
            self.seen.system.push(entry.spec.clone());
            draft.replaced(what, &entry.spec, new.unwrap_or("(dropped)"));
            return Ok(new.map(|new| with_field(line, 0, &encode(new))));
        }
        if entry.is_swap() {
            return self.swap(line, entry, draft);
        }
        let root = point == "/" && (task.options.root_device.is_some() || task.target.at("/").is_some());
        if entry.is_without_device() && !root {
            let needs_held = |path: &str| self.held.iter().any(|held| is_below(path, held));
            if needs_held(point) || entry.is_bind() && needs_held(&entry.spec) {
                return Ok(Some(hold(line, entry, draft)));
            }
            return Ok(Some(line.to_vec()));
        }
        if let Some(filesystem) = task.target.at(point) {
            let name = if point == "/" {
                root_like(task, &entry.spec)?
            } else {
                name_like(&entry.spec, filesystem)?
            };
            return Ok(Some(self.ours(line, entry, &name, Some(filesystem), draft)));
        }
        if root {
            let name = root_like(task, &entry.spec)?;
            return Ok(Some(self.ours(line, entry, &name, None, draft)));
        }
        self.seen.data.push(entry.spec.clone());
        Ok(Some(hold(line, entry, draft)))
    }

    fn ours(
        &mut self,
        line: &[u8],
        entry: &Entry,
        name: &str,
        filesystem: Option<&Filesystem>,
        draft: &mut Draft<'_>,
    ) -> Vec<u8> {
        self.seen.system.push(entry.spec.clone());
        draft.source_ids.extend(id_of(&entry.spec));
        draft.replaced(&entry.point, &entry.spec, name);
        let mut line = if name == entry.spec { line.to_vec() } else { with_field(line, 0, &encode(name)) };
        let Some(filesystem) = filesystem else { return line };
        let mut options = entry.options.clone();
        if entry.fields > 2 && entry.kind != "auto" && entry.kind != filesystem.kind {
            line = with_field(&line, 2, filesystem.kind.as_bytes());
            // An option of one filesystem keeps another from being mounted at all.
            options.retain(|option| COMMON.contains(&option.as_str()) || option.starts_with("x-"));
            if options.is_empty() {
                options.push("defaults".to_owned());
            }
            draft.find(Finding::note(format!(
                "{} was {} on production and is {} here; options that only {} knows are gone",
                entry.point, entry.kind, filesystem.kind, entry.kind
            )));
        }
        subvolume(&mut options, filesystem);
        if entry.fields > 3 && options != entry.options {
            line = with_field(&line, 3, options.join(",").as_bytes());
        }
        line
    }

    fn swap(
        &mut self,
        line: &[u8],
        entry: &Entry,
        draft: &mut Draft<'_>,
    ) -> Result<Option<Vec<u8>>, PrepareError> {
        if entry.spec.starts_with("/dev/zram") {
            return Ok(Some(line.to_vec()));
        }
        let is_file = entry.spec.starts_with('/') && !entry.spec.starts_with("/dev/");
        if is_file && draft.exists(&entry.spec)? {
            return Ok(Some(line.to_vec()));
        }
        self.seen.system.push(entry.spec.clone());
        draft.source_ids.extend(id_of(&entry.spec));
        let area = if is_file { None } else { self.task.target.swaps().nth(self.swaps) };
        let Some(area) = area else {
            draft.replaced("swap", &entry.spec, "(dropped)");
            return Ok(None);
        };
        self.swaps += 1;
        let name = name_like(&entry.spec, area)?;
        draft.replaced("swap", &entry.spec, &name);
        Ok(Some(if name == entry.spec { line.to_vec() } else { with_field(line, 0, &encode(&name)) }))
    }
}

/// Holds a line, and says so.
fn hold(line: &[u8], entry: &Entry, draft: &mut Draft<'_>) -> Vec<u8> {
    let after = held_line(line);
    if after != line || entry.has(MARK) {
        draft.held.push(held(entry));
    }
    after
}

/// The line with options under which nothing mounts it before a promotion; as it is, if it has them.
pub(crate) fn held_line(line: &[u8]) -> Vec<u8> {
    let Some(entry) = Entry::of(line) else { return line.to_vec() };
    let starts = |option: &&String| {
        ["x-systemd.automount", "comment=systemd.automount", "x-systemd.wanted-by=", "x-systemd.required-by="]
            .iter()
            .any(|prefix| option.starts_with(prefix))
    };
    if entry.has("noauto") && !entry.options.iter().any(|option| starts(&option)) {
        return line.to_vec();
    }
    let mut options: Vec<String> = Vec::new();
    for option in &entry.options {
        match option.as_str() {
            "" | "defaults" | "auto" | "noauto" => {}
            // systemd makes an automount of a noauto line too (systemd.mount(5)).
            _ if starts(&option) => {
                let option = option.trim_start_matches("x-systemd.").trim_start_matches("comment=systemd.");
                options.push(format!("x-clonetool.{option}"));
            }
            _ => options.push(option.clone()),
        }
    }
    options.extend(["noauto".to_owned(), MARK.to_owned()]);
    let options = options.join(",");
    match entry.fields {
        0..=2 => [line.trim_ascii_end(), b" auto ", options.as_bytes()].concat(),
        3 => [line.trim_ascii_end(), b" ", options.as_bytes()].concat(),
        _ => with_field(line, 3, options.as_bytes()),
    }
}

fn held(entry: &Entry) -> Held {
    Held {
        kind: "mount".to_owned(),
        name: format!("{} ({})", entry.point, entry.spec),
        how: "noauto in /etc/fstab".to_owned(),
        undo: Vec::new(),
    }
}

/// Has the options name the subvolume that is mounted.
fn subvolume(options: &mut Vec<String>, filesystem: &Filesystem) {
    let wanted = filesystem.subvolume.as_deref().filter(|path| *path != "/");
    let named = options.iter().find_map(|option| option.strip_prefix("subvol=")).map(str::to_owned);
    let by_id = options.iter().any(|option| option.starts_with("subvolid="));
    let right = match (&named, wanted) {
        (Some(named), Some(wanted)) => named.trim_matches('/') == wanted.trim_matches('/') && !by_id,
        (None, None) => !by_id,
        _ => false,
    };
    if right {
        return;
    }
    options.retain(|option| !option.starts_with("subvol=") && !option.starts_with("subvolid="));
    if let Some(wanted) = wanted {
        options.push(format!("subvol={wanted}"));
    }
    if options.is_empty() {
        options.push("defaults".to_owned());
    }
}

/// A line for what is mounted below the root and was no filesystem of its own on production.
fn new_line(point: &str, filesystem: &Filesystem) -> Result<Vec<u8>, PrepareError> {
    let mut options = vec![if filesystem.kind == "vfat" { "umask=0077" } else { "defaults" }.to_owned()];
    subvolume(&mut options, filesystem);
    let check = match (filesystem.kind.as_str(), point) {
        ("btrfs" | "xfs", _) => 0,
        (_, "/") => 1,
        _ => 2,
    };
    let head = format!("{}\t", name_like("", filesystem)?).into_bytes();
    let tail = format!("\t{}\t{}\t0 {check}", filesystem.kind, options.join(","));
    Ok([&head[..], &encode(point), tail.as_bytes()].concat())
}

/// What is wrong with the lines that the next boot acts upon, for the check at the end. Devices that the caller `named`
/// are not looked for.
pub(crate) fn wrong_lines(content: &[u8], target: &Target, named: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    for entry in Lines::of(content).0.iter().filter_map(|line| Entry::of(&line.content)) {
        let is_file = entry.spec.starts_with('/') && !entry.spec.starts_with("/dev/");
        let network = entry.spec.contains(':') || entry.spec.starts_with("//");
        if entry.has("noauto") || entry.is_without_device() || is_file || network {
            continue;
        }
        let candidates = target.filesystems.iter();
        let known =
            candidates
                .filter(|one| {
                    if entry.is_swap() { one.kind == "swap" } else { target.at(&entry.point) == Some(*one) }
                })
                .any(|one| super::devices::names(&entry.spec, one));
        if !named.contains(&entry.spec) && !known && !entry.spec.starts_with("/dev/zram") {
            wrong.push(format!(
                "{} is to be mounted from {}, which the standby does not have",
                entry.point, entry.spec
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests;
