//! Power that fails at any moment of a run, a rollback or a clone.
//!
//! A kill keeps the page cache, a power failure does not. So the block writes of a run are recorded, in their order and
//! with the flushes between them: the standby lies on a loop device on a file that qemu-storage-daemon serves, whose
//! `blklogwrites` filter writes the log (the format is that of dm-log-writes, Linux
//! Documentation/admin-guide/device-mapper/log-writes.rst). What a disk may hold when the power comes back is what was
//! written before some flush, and any part of what was written after it. Each such image is mounted, recovered, and
//! judged by the independent comparer.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::compare::{Difference, assert_none, compare};
use crate::common::plant::write;
use crate::common::{Output, Workdir, clonetool, lacks, mount, run};
use crate::whole::{Pair, bare, differences, killed, lines, plant_after, plant_before, staged};

const SECTOR_BYTES: u64 = 512;
/// What filesystems take for written whole or not at all.
const BLOCK_BYTES: u64 = 4096;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// One entry of a log.
struct Entry {
    offset: u64,
    length: u64,
    flags: u64,
    /// Where in the log the content is.
    at: u64,
}

/// Reads as much of a log as its head says is there.
fn entries(log: &Path) -> Vec<Entry> {
    let file = File::open(log).unwrap();
    let number = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    };
    assert_eq!(number(0), 0x006a_7366_7773_6872, "no log of writes");
    let mut at = SECTOR_BYTES;
    let mut found = Vec::new();
    for _ in 0..number(16) {
        let (offset, length, flags) =
            (number(at) * SECTOR_BYTES, number(at + 8) * SECTOR_BYTES, number(at + 16));
        at += SECTOR_BYTES;
        found.push(Entry { offset, length, flags, at });
        if flags & DISCARD == 0 {
            at += length;
        }
    }
    found
}

/// Does to `image` what an entry says.
fn replay(log: &File, image: &File, entry: &Entry) {
    let mut content = vec![0; usize::try_from(entry.length).unwrap()];
    if entry.flags & DISCARD == 0 {
        log.read_exact_at(&mut content, entry.at).unwrap();
    }
    image.write_all_at(&content, entry.offset).unwrap();
}

/// A disk of which each write is logged.
struct Recorder {
    pid: PathBuf,
    log: PathBuf,
    export: PathBuf,
}

impl Recorder {
    fn start(dir: &Workdir, image: &Path) -> Self {
        let (pid, log, export) = (dir.join("recorder.pid"), dir.join("writes"), dir.join("export"));
        write(&export, "");
        File::create(&log).unwrap().set_len(2 << 30).unwrap();
        let file =
            |node: &str, path: &Path| format!("driver=file,node-name={node},filename={}", path.display());
        run(
            "qemu-storage-daemon",
            [
                "--blockdev",
                &file("disk", image),
                "--blockdev",
                &file("log", &log),
                "--blockdev",
                "driver=blklogwrites,node-name=logged,file=disk,log=log",
                "--export",
                &format!("type=fuse,id=export,node-name=logged,mountpoint={},writable=on", export.display()),
                "--pidfile",
                pid.to_str().unwrap(),
                "--daemonize",
            ],
        );
        Self { pid, log, export }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.pid).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse().map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::TERM);
        }
    }
}

/// A disk: one filesystem, or two of one size, of which the second belongs at `opt` in the first.
#[derive(Clone, Copy)]
struct Layout {
    kind: &'static str,
    size_bytes: u64,
    parts: u64,
}

impl Layout {
    const fn one(kind: &'static str, size_bytes: u64) -> Self {
        Self { kind, size_bytes, parts: 1 }
    }

    fn points(self, at: &Path) -> Vec<(u64, PathBuf)> {
        let point = |part| (part * self.size_bytes, if part == 0 { at.to_owned() } else { at.join("opt") });
        (0..self.parts).map(point).collect()
    }

    /// Makes the filesystems in the file `image`.
    fn make(self, image: &Path) {
        File::create(image).unwrap().set_len(self.size_bytes * self.parts).unwrap();
        for part in 0..self.parts {
            let (offset, size) = ((part * self.size_bytes).to_string(), self.size_bytes.to_string());
            let image = image.to_str().unwrap();
            let device = run("losetup", ["--find", "--show", "-o", &offset, "--sizelimit", &size, image]);
            run(&format!("mkfs.{}", self.kind), ["-q", device.trim()]);
            run("losetup", ["-d", device.trim()]);
        }
    }

    fn mount(self, image: &Path, at: &Path) {
        for (offset, at) in self.points(at) {
            mount_part(image, &at, offset, &self.size_bytes.to_string());
        }
    }

    fn unmount(self, at: &Path) {
        self.points(at).iter().rev().for_each(|(_, at)| mount::unmount(at));
    }
}

fn mount_part(image: &Path, at: &Path, offset: u64, size: &str) {
    fs::create_dir_all(at).unwrap();
    let options = format!("loop,offset={offset},sizelimit={size}");
    run("mount", ["-o".as_ref(), options.as_ref(), image.as_os_str(), at.as_os_str()]);
}

/// The images that a disk may hold after power failed while `act` worked on the standby: `look` sees each of them
/// mounted, and is told whether `act` had ended when the last write was flushed that is in it.
fn cut_power(
    pair: &Pair,
    (image, layout): (&Path, Layout),
    act: &dyn Fn() -> Output,
    look: &mut dyn FnMut(&Path, bool),
) -> usize {
    let base = pair.dir.join("base");
    run("cp", ["--sparse=always".as_ref(), image.as_os_str(), base.as_os_str()]);
    let recorder = Recorder::start(&pair.dir, image);
    layout.mount(&recorder.export, &pair.standby);
    act().expect_code(0);
    let ended = entries(&recorder.log).len();
    layout.unmount(&pair.standby);
    drop(recorder);
    let path = pair.dir.join("writes");
    let (log, all) = (File::open(&path).unwrap(), entries(&path));
    let current = File::options().write(true).open(&base).unwrap();
    let (victim, at) = (pair.dir.join("victim"), pair.dir.join("mounted"));
    let mut inspect = |lost: &[Entry], done: bool| {
        run("cp", ["--sparse=always".as_ref(), base.as_os_str(), victim.as_os_str()]);
        let image = File::options().write(true).open(&victim).unwrap();
        lost.iter().for_each(|entry| replay(&log, &image, entry));
        drop(image);
        layout.mount(&victim, &at);
        look(&at, done);
        layout.unmount(&at);
    };
    let mut looks = 0;
    let mut since = 0;
    for (number, entry) in all.iter().enumerate() {
        replay(&log, &current, entry);
        if entry.flags & FLUSH == 0 || number == since {
            continue;
        }
        // Everything up to this flush; and with it every other of those writes that no flush had followed yet.
        inspect(&[], number + 1 >= ended);
        looks += 1;
        since = number + 1;
        let next = all[since..].iter().take_while(|entry| entry.flags & FLUSH == 0);
        let mut part: Vec<Entry> = Vec::new();
        for (place, entry) in next.enumerate() {
            if (place + number) % 2 == 0 {
                part.push(Entry { ..*entry });
            }
        }
        if !part.is_empty() {
            // The last of them may have been cut short, at a block.
            let last = part.last_mut().unwrap();
            last.length = last.length.min(BLOCK_BYTES.max(last.length / 2 / BLOCK_BYTES * BLOCK_BYTES));
            inspect(&part, number + 1 >= ended);
            looks += 1;
        }
    }
    looks
}

/// A standby on an image of its own, as the first sync left it; the source has changed since.
fn pair(name: &str, layout: Layout) -> (Pair, PathBuf) {
    let pair = Pair::new(name);
    let image = pair.dir.join("image");
    layout.make(&image);
    layout.mount(&image, &pair.standby);
    for (_, at) in layout.points(&pair.standby) {
        let _ = fs::remove_dir(at.join("lost+found"));
    }
    fs::create_dir_all(pair.standby.join("var/lib")).unwrap();
    if layout.parts > 1 {
        // A filesystem of its own on both ends, and listed.
        mount::bind(&pair.dir.make("source-opt"), &pair.source.join("opt"));
        let profile = fs::read_to_string(&pair.profile).unwrap();
        write(&pair.profile, profile + "[source]\nalso = [\"/opt\"]\n");
    }
    plant_before(&pair.source);
    sync(&pair, &pair.standby).expect_code(0);
    (pair, image)
}

fn sync(pair: &Pair, standby: &Path) -> Output {
    let records = tempfile::tempdir().unwrap();
    let mut arguments = pair.sync(standby);
    arguments.extend(["--records".to_owned(), records.path().display().to_string()]);
    clonetool(arguments)
}

/// Cuts the power at every moment of `act`, which leads from `before` to `after`.
fn all_or_nothing(pair: &Pair, disk: (&Path, Layout), before: &Path, after: &Path, act: &dyn Fn() -> Output) {
    let (bare_before, bare_after) = (pair.dir.join("bare-before"), pair.dir.join("bare-after"));
    bare(before, &bare_before);
    bare(after, &bare_after);
    let mut completed = 0;
    let looks = cut_power(pair, disk, act, &mut |victim, done| {
        clonetool(["recover".as_ref(), victim.as_os_str()]).expect_code(0);
        assert_eq!(staged(victim), 0, "something is left in the stage");
        let (old, new) = (differences(&bare_before, victim), differences(&bare_after, victim));
        assert!(
            new.is_empty() || (old.is_empty() && !done),
            "neither old nor new, or old when it was said to be new:\n{}\n{}",
            lines(&old),
            lines(&new)
        );
        completed += usize::from(new.is_empty());
    });
    assert!(looks >= 10, "only {looks} moments");
    assert!(completed >= 2 && completed < looks, "{completed} of {looks} were completed");
}

fn run_and_rollback(name: &str, layout: Layout) {
    if lacks(&format!("power::{name}"), &["qemu-storage-daemon", &format!("mkfs.{}", layout.kind)]) {
        return;
    }
    let (pair, image) = pair(name, layout);
    let before = pair.copy("before");
    layout.unmount(&pair.standby);
    plant_after(&pair.source);
    let kept = pair.dir.join("image-before");
    run("cp", ["--sparse=always".as_ref(), image.as_os_str(), kept.as_os_str()]);
    layout.mount(&kept, &pair.standby);
    sync(&pair, &pair.standby).expect_code(0);
    let after = pair.copy("after");
    layout.unmount(&pair.standby);
    all_or_nothing(&pair, (&image, layout), &before, &after, &|| sync(&pair, &pair.standby));
    for made in ["bare-before", "bare-after"] {
        crate::common::dir::remove_tree(&pair.dir.join(made));
    }
    all_or_nothing(&pair, (&kept, layout), &after, &before, &|| {
        let profile = pair.profile.as_os_str();
        clonetool(["rollback".as_ref(), profile, "--root".as_ref(), pair.standby.as_os_str()])
    });
}

#[test]
fn a_run_and_its_rollback_survive_power_loss_on_ext4() {
    run_and_rollback("power-ext4", Layout::one("ext4", 64 << 20));
}

#[test]
fn a_run_and_its_rollback_survive_power_loss_on_xfs() {
    run_and_rollback("power-xfs", Layout::one("xfs", 300 << 20));
}

#[test]
fn a_run_and_its_rollback_survive_power_loss_on_btrfs() {
    run_and_rollback("power-btrfs", Layout::one("btrfs", 128 << 20));
}

#[test]
fn a_run_and_its_rollback_survive_power_loss_over_two_filesystems() {
    run_and_rollback("power-two", Layout { kind: "ext4", size_bytes: 64 << 20, parts: 2 });
}

#[test]
fn a_recovery_survives_power_loss() {
    if lacks("power::recovery", &["qemu-storage-daemon", "strace"]) {
        return;
    }
    let layout = Layout::one("ext4", 64 << 20);
    let (pair, image) = pair("power-recovery", layout);
    plant_after(&pair.source);
    let journal = pair.standby.join("var/lib/clonetool/run/journal");
    let interrupted = (1..).find(|count| {
        assert!(killed("renameat", *count, &pair.sync(&pair.standby)), "it was never interrupted");
        journal.exists()
    });
    assert!(interrupted.is_some());
    layout.unmount(&pair.standby);
    let recover = |root: &Path| clonetool(["recover".as_ref(), root.as_os_str()]);
    let looks = cut_power(&pair, (&image, layout), &|| recover(&pair.standby), &mut |victim, _| {
        recover(victim).expect_code(0);
        assert_eq!(staged(victim), 0, "something is left in the stage");
        assert_none(&differences(&pair.source, victim));
    });
    assert!(looks >= 5, "only {looks} moments");
}

#[test]
fn in_a_clone_each_file_is_old_or_new_after_power_loss() {
    if lacks("power::clone", &["qemu-storage-daemon"]) {
        return;
    }
    let layout = Layout::one("ext4", 64 << 20);
    let (pair, image) = pair("power-clone", layout);
    let before = pair.copy("before");
    layout.unmount(&pair.standby);
    plant_after(&pair.source);
    let act = || {
        let ends = [pair.source.as_os_str(), pair.standby.as_os_str()];
        clonetool(["clone".as_ref(), "--delete".as_ref()].into_iter().chain(ends))
    };
    let torn = |victim: &Path, path: &str| {
        let read = |root: &Path| fs::read(root.join(path)).ok();
        let found = read(victim);
        found != read(&before) && found != read(&pair.source)
    };
    let mut completed = 0;
    let looks = cut_power(&pair, (&image, layout), &act, &mut |victim, done| {
        for path in
            ["etc/changed", "etc/locked", "etc/gone", "opt/new/large", "opt/kept/third", "etc/dressed"]
        {
            assert!(!torn(victim, path), "{path} is neither old nor new");
        }
        let left: Vec<Difference> = compare(&pair.source, victim);
        if done {
            assert_none(&differences(&pair.source, victim));
        }
        completed += usize::from(left.is_empty());
    });
    assert!(looks >= 10, "only {looks} moments");
    // A run that was cut short is made up for by the next one.
    layout.mount(&pair.dir.join("victim"), &pair.standby);
    act().expect_code(0);
    assert_none(&differences(&pair.source, &pair.standby));
}
