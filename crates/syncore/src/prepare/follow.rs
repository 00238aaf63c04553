//! What has to be done on a standby after something of class C changed there: the initramfs of a new kernel, the
//! cache of the dynamic linker.
//!
//! Why: a new kernel without its initramfs is a standby that does not boot. So it is written down what has to follow
//! before the first change, done before anything that would be missed is deleted, and crossed out when it is done. What
//! can go wrong: a power cut in between (what is written down is done by the next run), and a command that fails; then
//! the kernels that were there stay, with their modules, and the run says so.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::inside::Inside;
use super::report::Step;
use super::{Command, journal, substitute};
use crate::monitor::Monitor;
use crate::process::{self, Program};
use crate::rules::{FollowUp, RuleSet, Treatment};
use crate::tree::RelPath;

/// What is written down, beside the journal.
const FILE: &str = "follow.json";

/// How long one command may take, on a slow machine with many kernels.
const DEADLINE: Duration = Duration::from_secs(60 * 60);

/// What a command finds around it; the caller's environment is not asked.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LC_ALL", "C"),
    ("DEBIAN_FRONTEND", "noninteractive"),
];

/// Where kernels have their modules.
const MODULES: [&str; 2] = ["usr/lib/modules", "lib/modules"];

/// What follows from a change of these paths, by the standby's own rules.
pub(crate) fn follow_ups<'a>(
    rules: &RuleSet,
    paths: impl Iterator<Item = &'a RelPath>,
) -> BTreeSet<FollowUp> {
    let mut all = BTreeSet::new();
    for path in paths {
        match rules.decide(path, false).row.map(|row| &row.treatment) {
            Some(Treatment::Then(then)) => all.extend(then),
            Some(Treatment::Substitute(kind)) => all.extend(substitute::then(*kind)),
            _ => {}
        }
        if is_library(path) {
            all.insert(FollowUp::Ldconfig);
        }
    }
    all
}

/// Whether the dynamic linker's cache may name it (ldconfig(8)).
fn is_library(path: &RelPath) -> bool {
    let bytes = path.as_bytes();
    let place = [&b"lib"[..], b"usr/lib", b"usr/local/lib", b"opt"].iter().any(|at| bytes.starts_with(at));
    place && path.name().is_some_and(|name| name.ends_with(b".so") || name.windows(4).any(|w| w == b".so."))
}

/// What is left to be done.
pub(super) fn read(inside: &Inside) -> io::Result<BTreeSet<FollowUp>> {
    let content = journal::read_state(inside.root(), FILE)?;
    Ok(content.map(|content| serde_json::from_slice(&content)).transpose()?.unwrap_or_default())
}

/// Writes down what is left to be done, durably.
pub(super) fn write(inside: &Inside, left: &BTreeSet<FollowUp>) -> io::Result<()> {
    if read(inside).is_ok_and(|before| before == *left) {
        return Ok(());
    }
    journal::write_state(inside, FILE, &serde_json::to_vec(left)?)
}

/// Whether a thing is needed for the next boot, so that nothing may be deleted before it is done.
pub(crate) const fn is_for_boot(follow: FollowUp) -> bool {
    matches!(follow, FollowUp::Initramfs | FollowUp::BootLoader | FollowUp::BootConfiguration)
}

/// The release of the kernel that a path belongs to: its image in `/boot`, or its modules.
pub(crate) fn kernel_of(path: &RelPath) -> Option<String> {
    let text = std::str::from_utf8(path.as_bytes()).ok()?;
    let of_image = text.strip_prefix("boot/").and_then(|name| {
        let plain = ["vmlinuz-", "config-", "System.map-", "initrd.img-"];
        plain.iter().find_map(|head| name.strip_prefix(head)).or_else(|| of_dracut(name))
    });
    let of_modules =
        MODULES.iter().find_map(|at| text.strip_prefix(at)?.strip_prefix('/')?.split('/').next());
    of_image.or(of_modules).filter(|release| !release.is_empty()).map(str::to_owned)
}

/// The release in the name that dracut gives to an initramfs, also to one for dumps.
fn of_dracut(name: &str) -> Option<&str> {
    let release = name.strip_prefix("initramfs-")?.strip_suffix(".img")?;
    Some(release.strip_suffix("kdump").unwrap_or(release))
}

/// Whether a name in `/boot` is that of an initramfs for one kernel.
pub(super) fn is_initramfs(name: &[u8]) -> bool {
    name.starts_with(b"initrd.img-") || std::str::from_utf8(name).is_ok_and(|name| of_dracut(name).is_some())
}

/// The commands that do it in the root `inside`, in their order; none where the root has nothing that does it. Kernels
/// that are `leaving` keep what they have until they go: it is what the standby starts with if this fails.
pub(super) fn commands(
    inside: &Inside,
    follow: FollowUp,
    leaving: &BTreeSet<String>,
    live: bool,
) -> Vec<Command> {
    let has = |path: &str| {
        RelPath::new(path).is_ok_and(|path| inside.entry(&path).is_ok_and(|entry| entry.is_some()))
    };
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let first = |choices: &[(&str, &[&str])]| {
        let found = choices.iter().find(|(program, _)| has(program));
        found.map(|(_, words)| command(words)).into_iter().collect::<Vec<_>>()
    };
    let (step, why) = match follow {
        FollowUp::Initramfs => (Step::Initramfs, "the kernel or its modules changed"),
        FollowUp::BootConfiguration => (Step::BootConfiguration, "kernels came or went"),
        _ => (Step::Configuration, "what it is made from changed"),
    };
    let commands = match follow {
        FollowUp::Initramfs => initramfs(inside, &has, leaving, live),
        // By what the preparation wrote down, not by what is in the root.
        FollowUp::BootLoader => Vec::new(),
        FollowUp::BootConfiguration => first(&[
            ("usr/sbin/update-grub", &["update-grub"]),
            ("usr/sbin/grub2-mkconfig", &["grub2-mkconfig", "-o", "/boot/grub2/grub.cfg"]),
            ("usr/bin/grub-mkconfig", &["grub-mkconfig", "-o", "/boot/grub/grub.cfg"]),
        ]),
        FollowUp::Ldconfig => {
            first(&[("sbin/ldconfig", &["ldconfig"]), ("usr/sbin/ldconfig", &["ldconfig"])])
        }
        // A root that is not running reads them when it starts.
        FollowUp::DaemonReload | FollowUp::Sysctl if !live => Vec::new(),
        FollowUp::DaemonReload => first(&[("usr/bin/systemctl", &["systemctl", "daemon-reload"])]),
        FollowUp::Sysctl => first(&[("usr/sbin/sysctl", &["sysctl", "--system"])]),
    };
    commands.into_iter().map(|argv| Command { step, argv, why: why.to_owned() }).collect()
}

/// Runs a command on the running system.
pub(super) fn run_live(command: &Command, monitor: &dyn Monitor) -> Result<(), String> {
    let (name, arguments) = command.argv.split_first().ok_or("an empty command")?;
    let program = Program {
        path: process::find(name).ok_or_else(|| format!("{name} is not there"))?,
        arguments: arguments.iter().map(Into::into).collect(),
        environment: &ENVIRONMENT,
        deadline: DEADLINE,
    };
    let outcome = process::run(&program, &|| monitor.cancelled()).map_err(|error| error.to_string())?;
    if outcome.succeeded() { Ok(()) } else { Err(outcome.describe(DEADLINE)) }
}

/// One initramfs for each kernel that has modules and stays, made new or again.
fn initramfs(
    inside: &Inside,
    has: &dyn Fn(&str) -> bool,
    leaving: &BTreeSet<String>,
    live: bool,
) -> Vec<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut releases: Vec<String> = MODULES
        .iter()
        .filter_map(|at| inside.list(&journal::path(at)).ok())
        .flatten()
        .filter_map(|name| String::from_utf8(name).ok())
        .filter(|release| has(&format!("boot/vmlinuz-{release}")) && !leaving.contains(release))
        .collect();
    releases.sort();
    releases.dedup();
    // Where production has made its list of modules, it came with them; made again it would differ, and come again.
    let listed = |release: &&String| MODULES.iter().any(|at| has(&format!("{at}/{release}/modules.dep")));
    let unlisted = releases.iter().filter(|release| !listed(release));
    let mut commands: Vec<Vec<String>> = unlisted.map(|release| words(&["depmod", release])).collect();
    for release in &releases {
        let image = format!("/boot/initramfs-{release}.img");
        if has("usr/sbin/update-initramfs") {
            let way = if has(&format!("boot/initrd.img-{release}")) { "-u" } else { "-c" };
            commands.push(words(&["update-initramfs", way, "-k", release]));
        } else if has("usr/bin/dracut") && live {
            commands.push(words(&["dracut", "--force", &image, release]));
        } else if has("usr/bin/dracut") {
            // Built elsewhere, it must not be for the machine that it is built on (dracut(8)).
            commands.push(words(&["dracut", "--force", "--no-hostonly", &image, release]));
        }
    }
    if has("usr/bin/mkinitcpio") {
        commands.push(words(&["mkinitcpio", "--allpresets"]));
    }
    commands
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::profile::{Profile, catalogues};
    use crate::scan::Root;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn what_follows_is_said_by_the_catalogue() {
        let (name, text) = catalogues().iter().find(|(name, _)| *name == "linux").unwrap();
        let rules = RuleSet::compile(Profile::parse(name, text, &|_| None).unwrap().rules()).unwrap();
        let of = |paths: &[&str]| {
            let paths: Vec<RelPath> = paths.iter().map(|p| path(p)).collect();
            follow_ups(&rules, paths.iter()).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(of(&["boot/vmlinuz-6.1.0-1-amd64"]), [FollowUp::Initramfs, FollowUp::BootConfiguration]);
        assert_eq!(of(&["usr/lib/x86_64-linux-gnu/libz.so.1"]), [FollowUp::Ldconfig]);
        assert_eq!(of(&["etc/modules", "etc/sysctl.d/x.conf"]), [FollowUp::Initramfs, FollowUp::Sysctl]);
        for path in
            ["usr/lib/grub/i386-pc/modinfo.sh", "usr/lib/shim/shimx64.efi", "usr/lib/systemd/boot/efi/x"]
        {
            assert_eq!(of(&[path]), [FollowUp::BootLoader, FollowUp::BootConfiguration], "{path}");
        }
        assert_eq!(of(&["usr/lib/firmware/intel-ucode/06-55-04"]), [FollowUp::Initramfs]);
        assert_eq!(of(&["etc/default/grub.d/50-x.cfg", "etc/fstab"]), [FollowUp::BootConfiguration]);
        assert_eq!(of(&["etc/cmdline.d/x.conf"]), [FollowUp::Initramfs]);
        assert_eq!(of(&["etc/motd", "home/x/lib/a.so"]), []);
    }

    #[test]
    fn a_kernel_is_known_by_its_files() {
        for (file, release) in [
            ("boot/vmlinuz-6.1.0-1-amd64", Some("6.1.0-1-amd64")),
            ("boot/initrd.img-6.1.0-1-amd64", Some("6.1.0-1-amd64")),
            ("boot/initramfs-6.9-1.x86_64.img", Some("6.9-1.x86_64")),
            ("boot/initramfs-6.9-1.x86_64kdump.img", Some("6.9-1.x86_64")),
            ("boot/initramfs-linux", None),
            ("usr/lib/modules/6.1.0-1-amd64/kernel/fs/ext4.ko", Some("6.1.0-1-amd64")),
            ("usr/lib/modules/6.1.0-1-amd64", Some("6.1.0-1-amd64")),
            ("boot/grub/grub.cfg", None),
            ("usr/lib/modules", None),
            ("etc/vmlinuz-1", None),
        ] {
            assert_eq!(kernel_of(&path(file)).as_deref(), release, "{file}");
        }
    }

    #[test]
    fn each_kernel_that_stays_gets_an_initramfs_and_those_without_an_image_none() {
        let temp = tempfile::tempdir().unwrap();
        for file in [
            "boot/vmlinuz-6.1-old",
            "boot/initrd.img-6.1-old",
            "boot/vmlinuz-6.1-new",
            "boot/vmlinuz-6.1-leaving",
            "usr/lib/modules/6.1-leaving/modules.dep",
            "usr/lib/modules/6.1-old/modules.dep",
            "usr/lib/modules/6.1-new/modules.order",
            "usr/lib/modules/6.1-gone/modules.dep",
            "usr/sbin/update-initramfs",
        ] {
            let file = temp.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let inside = Inside::new(Arc::new(Root::open(temp.path()).unwrap()));
        let leaving = BTreeSet::from(["6.1-leaving".to_owned()]);
        let commands = commands(&inside, FollowUp::Initramfs, &leaving, false);
        let commands: Vec<String> = commands.iter().map(|c| c.argv.join(" ")).collect();
        assert_eq!(
            commands,
            ["depmod 6.1-new", "update-initramfs -c -k 6.1-new", "update-initramfs -u -k 6.1-old"]
        );
    }
}
