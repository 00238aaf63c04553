//! A real Debian root, made once by debootstrap and kept beside the build.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;

use super::dir::{remove_tree, walk};

/// What is in it besides the minimal base; changing this makes a new one.
const PACKAGES: &str = "python3,perl,openssh-server,locales,git,vim-runtime,tzdata,manpages-dev,golang-src";
/// What the other one has, which could boot.
const BOOTABLE: &str = "systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,zstd,grub-pc-bin,\
    grub-efi-amd64-bin,grub2-common,lvm2,openssh-server,ifupdown,cron";
/// The least it must have to stand for a real host.
pub(crate) const ENTRIES: usize = 25_000;

/// Copies the Debian root to `to`, which must not exist.
pub(crate) fn copy_to(to: &Path) {
    let cached = cached("integration-debian-root", PACKAGES);
    let copied = Command::new("cp").arg("-a").arg(&cached).arg(to).status().expect("run cp");
    assert!(copied.success(), "cp -a {} {} failed", cached.display(), to.display());
}

/// Copies a Debian root with a kernel, initramfs-tools and GRUB into the directory `to`.
pub(crate) fn copy_bootable_to(to: &Path) {
    let content = cached("integration-debian-bootable", BOOTABLE).join(".");
    let copied = Command::new("cp").arg("-a").arg(&content).arg(to).status().expect("run cp");
    assert!(copied.success(), "cp -a {} {} failed", content.display(), to.display());
}

/// The Debian root of that name with these packages, built now if it is not there yet. Not to be written to.
fn cached(name: &str, packages: &str) -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(base).expect("make the cache");
    // Several test processes may share one cache.
    let lock = File::create(base.join(format!("{name}.lock"))).expect("create the lock");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("lock the cache");
    let (root, complete) = (base.join(name), base.join(format!("{name}.complete")));
    if fs::read_to_string(&complete).is_ok_and(|built| built == packages) {
        return root;
    }
    let (mirror, suite) = mirror();
    remove_tree(&root);
    let log = base.join(format!("{name}.log"));
    let built = Command::new("debootstrap")
        .args(["--variant=minbase", &format!("--include={packages}"), &suite])
        .arg(&root)
        .arg(&mirror)
        .stdout(File::create(&log).expect("create the log"))
        .status()
        .expect("run debootstrap (package debootstrap)");
    let log = fs::read_to_string(&log).unwrap_or_default();
    assert!(built.success(), "debootstrap {suite} {mirror} failed:\n{}", tail(&log));
    let mut entries = 0;
    walk(&root, &mut |_, _, _| entries += 1);
    assert!(packages != PACKAGES || entries >= ENTRIES, "the Debian root has only {entries} entries");
    fs::write(&complete, packages).expect("mark the cache");
    root
}

/// The last lines of a log.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The first mirror and suite in this machine's apt configuration that carry `main`.
pub(crate) fn mirror() -> (String, String) {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(listing) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(listing.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let texts: Vec<_> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let stanzas = texts.iter().flat_map(|text| text.split("\n\n")).filter_map(stanza);
    let lines = texts.iter().flat_map(|text| text.lines()).filter_map(one_line);
    let found = lines.chain(stanzas).find(|(_, suite)| !suite.contains(['-', '/']));
    found.expect("an apt source with a Debian suite in /etc/apt/sources.list*")
}

/// `deb [options] URI SUITE main …`
fn one_line(line: &str) -> Option<(String, String)> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
    let words: Vec<_> = rest.split_whitespace().collect();
    match words.as_slice() {
        [uri, suite, components @ ..] if components.contains(&"main") && uri.contains("debian") => {
            Some(((*uri).to_owned(), (*suite).to_owned()))
        }
        _ => None,
    }
}

/// A deb822 stanza with `Types`, `URIs`, `Suites` and `Components`.
fn stanza(text: &str) -> Option<(String, String)> {
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let first = |words: String| Some(words.split_whitespace().next()?.to_owned());
    let usable = field("Types")?.contains("deb") && field("Components")?.contains("main");
    let uri = first(field("URIs")?)?;
    (usable && uri.contains("debian")).then_some((uri, first(field("Suites")?)?))
}
