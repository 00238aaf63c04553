//! Runs the copy's own tools in the copy.
//!
//! Why: an initramfs and a boot loader are only right when the copy's own tools make them, and these want to find
//! themselves at `/` with devices and the kernel's tables around them. What can go wrong: a tool that starts one of
//! production's services (none can: service managers are told that there is no system to start anything in), that asks
//! something (nobody answers), that hangs (it has a deadline), that is not there or is for another processor (it is
//! pending, and said), a process that is killed (then nothing is mounted either).
//!
//! How: the mounts are bind mounts on held directories, made by system calls in a mount namespace of a thread's own
//! (unshare(2)), which the programs that it starts are in as well and nobody else is: nobody else sees them, and they
//! are gone with the last of these. The change of root is chroot(8) of the system that we run on, given our held descriptor
//! of the root; the system call itself would need code between fork and exec, which is `unsafe`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::Command;
use super::inside::Inside;
use super::report::{Finding, Step};
use super::target::Target;
use crate::monitor::Monitor;
use crate::process::{self, Ended, Program};
use crate::scan::{Root, proc_path};
use crate::tree::{Kind, RelPath};

/// What a tool finds around it. `/run` has what udev knows: without it LVM asks every disk and waits ten seconds each.
/// The firmware's variables below `/sys` are not among them: they are the machine's that we run on.
const BINDS: [&str; 4] = ["dev", "proc", "sys", "run"];
const ENVIRONMENT: [(&str, &str); 10] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LC_ALL", "C"),
    ("TERM", "dumb"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("SYSTEMD_OFFLINE", "1"),
    ("SYSTEMD_IN_CHROOT", "1"),
    // The EFI partition is where it was mounted; what udev would say of it is not known here.
    ("SYSTEMD_RELAX_ESP_CHECKS", "1"),
    ("GRUB_DISABLE_OS_PROBER", "true"),
    ("LVM_SUPPRESS_FD_WARNINGS", "1"),
];
/// Where programs of the copy are looked for, in the order of its PATH.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Forbids invoke-rc.d of Debian to start or stop anything.
const POLICY: &str = "policy-rc.d";
const POLICY_CONTENT: &[u8] = b"#!/bin/sh\n# clonetool prepare-root: removed when it is done\nexit 101\n";

/// What came of the commands.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// Those that were run.
    pub(super) done: Vec<Vec<String>>,
    /// Those that are left to be run.
    pub(super) pending: Vec<Vec<String>>,
    pub(super) findings: Vec<Finding>,
}

impl Ran {
    /// None was run, and that was known beforehand.
    pub(super) fn left(commands: &[Command]) -> Self {
        Self { pending: commands.iter().map(|command| command.argv.clone()).collect(), ..Self::default() }
    }
}

/// How long a command of a step may take, on a slow machine with many kernels.
const fn deadline(step: Step) -> Duration {
    Duration::from_secs(match step {
        Step::Initramfs | Step::Labels => 60 * 60,
        _ => 10 * 60,
    })
}

/// Runs all commands in the copy, in their order.
pub(super) fn run_all(inside: &Inside, commands: &[Command], target: &Target, monitor: &dyn Monitor) -> Ran {
    let architecture = target.architecture.as_str();
    let mut ran = Ran::default();
    if commands.is_empty() {
        return ran;
    }
    let leave = |reason: String| {
        let mut ran = Ran::left(commands);
        ran.findings.push(Finding::pending(reason));
        ran
    };
    match machine_of(inside) {
        Some(machine) if !runs_here(machine, architecture) => {
            return leave(format!(
                "the copy is for another processor than this machine ({architecture}): run the pending commands in \
                 it, on a machine of its kind"
            ));
        }
        _ => {}
    }
    let Some(program) = process::find("chroot") else {
        return leave(
            "there is no chroot program here to run the pending commands in the copy with".to_owned(),
        );
    };
    if !rustix::process::geteuid().is_root() {
        return leave("only root can run the pending commands in the copy".to_owned());
    }
    let cannot = |error: io::Error| format!("the pending commands cannot be run in the copy here: {error}");
    let done = apart(inside, |inside| {
        let mut surroundings = Surroundings::default();
        if let Err(error) = surroundings.make(inside, target) {
            let mut ran = leave(cannot(error));
            ran.findings.extend(surroundings.undo(inside));
            return ran;
        }
        for command in commands {
            if monitor.cancelled() {
                ran.pending.push(command.argv.clone());
                continue;
            }
            run_one(inside, &program, command, monitor, &mut ran);
        }
        ran.findings.extend(surroundings.undo(inside));
        ran
    });
    done.unwrap_or_else(|error| leave(cannot(error)))
}

/// Does `work` in a mount namespace of its own, with the root as it is seen there.
fn apart(inside: &Inside, work: impl FnOnce(&Inside) -> Ran + Send) -> io::Result<Ran> {
    let here = || -> io::Result<Ran> {
        let outside = std::fs::File::open("/proc/thread-self/ns/mnt")?;
        // Deprecated because of file descriptors, which stay shared.
        #[expect(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNS)?;
        let done = seen_anew(inside).map(|inside| work(&inside));
        // Threads that read what the programs said are joined, but the kernel may not have cleared them away yet; as long
        // as they share our root and working directory nobody may leave (setns(2)).
        #[expect(deprecated)]
        rustix::thread::unshare(UnshareFlags::FS)?;
        // Left at once, not when the thread is gone at last: whoever unmounts the root next is not to find it busy.
        rustix::thread::move_into_link_name_space(outside.as_fd(), Some(LinkNameSpaceType::Mount))?;
        done
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chroot".into()).spawn_scoped(scope, here)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread failed")))
    })
}

/// The same root in a mount namespace that was just made: a descriptor from outside leads to the mounts there.
fn seen_anew(inside: &Inside) -> io::Result<Inside> {
    let to_nobody = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", to_nobody)?;
    let root = Root::open(Path::new(&OsString::from_vec(inside.root().canonical_path()?)))?;
    let (held, found) = (inside.root().identity()?, root.identity()?);
    if (held.device, held.inode) != (found.device, found.inode) {
        return Err(io::Error::other("its path leads to something else by now"));
    }
    Ok(Inside::new(Arc::new(root)))
}

fn run_one(inside: &Inside, chroot: &Path, command: &Command, monitor: &dyn Monitor, ran: &mut Ran) {
    let shown = command.argv.join(" ");
    let name = command.argv.first().map(String::as_str).unwrap_or_default();
    let Some(program) = find_program(inside, name) else {
        ran.pending.push(command.argv.clone());
        ran.findings.push(Finding::pending(format!("{name} is not in the copy: {} ({shown})", command.why)));
        return;
    };
    let limit = deadline(command.step);
    let outcome = process::run(&program_in(inside, chroot, &program, &command.argv[1..], limit), &|| {
        monitor.cancelled()
    });
    match outcome {
        Ok(outcome) if outcome.succeeded() => ran.done.push(command.argv.clone()),
        Ok(outcome) if outcome.ended == Ended::Cancelled => ran.pending.push(command.argv.clone()),
        Ok(outcome) => {
            ran.done.push(command.argv.clone());
            ran.findings.push(Finding::failure(format!("{shown}: {}", outcome.describe(limit))));
        }
        Err(error) => {
            ran.pending.push(command.argv.clone());
            ran.findings.push(Finding::failure(format!("{shown}: {error}")));
        }
    }
}

/// A program of the copy, to be run in it.
pub(super) fn program_in<'a>(
    inside: &Inside,
    chroot: &Path,
    program: &str,
    arguments: &[String],
    deadline: Duration,
) -> Program<'a> {
    // Our descriptor, by way of our process: the root is the one that is held, wherever its path leads by now.
    let held = format!("/proc/{}/fd/{}", std::process::id(), inside.root().as_fd().as_raw_fd());
    let head = [OsString::from(held), OsString::from(program)];
    Program {
        path: chroot.to_owned(),
        arguments: head.into_iter().chain(arguments.iter().map(OsString::from)).collect(),
        environment: &ENVIRONMENT,
        deadline,
    }
}

/// Where a program is in the copy, as the copy sees it.
pub(super) fn find_program(inside: &Inside, name: &str) -> Option<String> {
    let executable = |path: &str| {
        let path = RelPath::from_absolute(path.as_bytes()).ok()?;
        let entry = inside.entry(&path).ok()??;
        (entry.kind == Kind::File && entry.mode & 0o111 != 0).then_some(())
    };
    if name.starts_with('/') {
        return executable(name).map(|()| name.to_owned());
    }
    PROGRAMS.iter().map(|directory| format!("{directory}/{name}")).find(|path| executable(path).is_some())
}

/// Word size and processor of the copy's programs, as ELF has them; none when there is no program to tell.
fn machine_of(inside: &Inside) -> Option<(u8, u16)> {
    ["/bin/sh", "/usr/bin/sh", "/sbin/init", "/bin/ls", "/usr/bin/env"].iter().find_map(|path| {
        let path = RelPath::from_absolute(path.as_bytes()).ok()?;
        let mut head = [0; 20];
        io::Read::read_exact(&mut inside.open(&path).ok()?, &mut head).ok()?;
        let number = [head[18], head[19]];
        let machine = if head[5] == 2 { u16::from_be_bytes(number) } else { u16::from_le_bytes(number) };
        (head[..4] == *b"\x7fELF").then_some((head[4], machine))
    })
}

/// Whether a processor that uname(2) calls `architecture` runs programs of this kind.
fn runs_here((class, machine): (u8, u16), architecture: &str) -> bool {
    match architecture {
        "x86_64" => matches!((class, machine), (_, 62) | (1, 3)),
        "i386" | "i486" | "i586" | "i686" => (class, machine) == (1, 3),
        "aarch64" => (class, machine) == (2, 183),
        "ppc64" | "ppc64le" => machine == 21,
        "s390x" => (class, machine) == (2, 22),
        "riscv64" => (class, machine) == (2, 243),
        _ if architecture.starts_with("arm") => (class, machine) == (1, 40),
        _ => false,
    }
}

/// What was put around the copy, to be taken away again.
#[derive(Debug, Default)]
struct Surroundings {
    mounted: Vec<PathBuf>,
    /// Links that udev would have made, and directories for them.
    links: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    policy: Option<RelPath>,
}

impl Surroundings {
    fn make(&mut self, inside: &Inside, target: &Target) -> io::Result<()> {
        for filesystem in &target.filesystems {
            if let Some(uuid) = filesystem.uuid.as_ref().filter(|uuid| !uuid.contains('/')) {
                self.name_by_uuid(uuid, &filesystem.device)?;
            }
        }
        let canonical = PathBuf::from(OsString::from_vec(inside.root().canonical_path()?));
        for name in BINDS {
            let root = inside.root();
            match mkdirat(root.as_fd(), name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            // Held without following a link: a bind on what a link leads to could be a bind on our own /dev.
            let held = root.hold_directory(&RelPath::root().join(name.as_bytes())).map_err(|error| {
                io::Error::new(io::Error::from(error).kind(), format!("/{name} of the copy is no directory"))
            })?;
            mount_bind(format!("/{name}"), proc_path(held.as_fd())).map_err(|error| {
                io::Error::new(io::Error::from(error).kind(), format!("cannot bind /{name}: {error}"))
            })?;
            self.mounted.push(canonical.join(name));
        }
        self.forbid_services(inside)
    }

    /// Makes the link to a device that udev makes. Where no udev runs, as in many a rescue system, grub-mkconfig would
    /// take what the device happens to be called for the kernel's root.
    fn name_by_uuid(&mut self, uuid: &str, device: &Path) -> io::Result<()> {
        let directory = Path::new("/dev/disk/by-uuid");
        let link = directory.join(uuid);
        if link.symlink_metadata().is_ok() {
            return Ok(());
        }
        for directory in [Path::new("/dev/disk"), directory] {
            match std::fs::create_dir(directory) {
                Ok(()) => self.directories.push(directory.to_owned()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        std::os::unix::fs::symlink(device, &link)?;
        self.links.push(link);
        Ok(())
    }

    /// Puts a policy in place, unless the administrator has one.
    fn forbid_services(&mut self, inside: &Inside) -> io::Result<()> {
        if find_program(inside, "invoke-rc.d").is_none() {
            return Ok(());
        }
        let directory = inside.resolve(&RelPath::from_absolute(b"/usr/sbin").map_err(io::Error::other)?)?;
        let path = directory.join(POLICY.as_bytes());
        if inside.own_entry(&path)?.is_some() {
            // One that an interrupted run of ours left is taken over, and removed at the end.
            if inside.read(&path).ok().flatten().as_deref() == Some(POLICY_CONTENT) {
                self.policy = Some(directory);
            }
            return Ok(());
        }
        let held = inside.root().hold_directory(&directory)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&held, POLICY, flags, Mode::from_raw_mode(0o755))?;
        self.policy = Some(directory);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o755))?;
        io::Write::write_all(&mut std::fs::File::from(file), POLICY_CONTENT)
    }

    /// Takes everything away, last first, and says what could not be.
    fn undo(self, inside: &Inside) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(directory) = self.policy {
            let removed = inside
                .root()
                .hold_directory(&directory)
                .and_then(|held| unlinkat(held, POLICY, AtFlags::empty()));
            if let Err(error) = removed {
                findings.push(
                    Finding::failure(format!(
                        "remove {POLICY}: {error}; no service can be started while it is there"
                    ))
                    .at(&directory),
                );
            }
        }
        for point in self.mounted.into_iter().rev() {
            let plain = unmount(&point, UnmountFlags::NOFOLLOW);
            // Something in the kernel may still have it open; then it goes when that does.
            let gone = plain.or_else(|_| unmount(&point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH));
            if let Err(error) = gone {
                findings.push(Finding::failure(format!("cannot unmount {}: {error}", point.display())));
            }
        }
        for link in &self.links {
            // Somebody who took it away did what is done here.
            let _ = std::fs::remove_file(link);
        }
        for directory in self.directories.iter().rev() {
            // One that udev or another preparation uses by now stays.
            let _ = std::fs::remove_dir(directory);
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::mounts_below;

    fn tree() -> (tempfile::TempDir, Inside) {
        let temp = tempfile::tempdir().unwrap();
        let inside = Inside::new(Arc::new(Root::open(temp.path()).unwrap()));
        (temp, inside)
    }

    fn put(temp: &tempfile::TempDir, path: &str, content: &[u8]) {
        use std::os::unix::fs::PermissionsExt;
        let path = temp.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn target() -> Target {
        Target { architecture: "x86_64".into(), ..Target::default() }
    }

    struct Quiet;
    impl Monitor for Quiet {}

    fn command(name: &str) -> Command {
        Command { step: Step::Initramfs, argv: vec![name.into()], why: "a reason".into() }
    }

    #[test]
    fn a_copy_for_another_processor_is_pending_and_nothing_is_mounted() {
        let (temp, inside) = tree();
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(20, 0);
        elf[18] = 183;
        put(&temp, "bin/sh", &elf);
        let ran = run_all(&inside, &[command("update-initramfs")], &target(), &Quiet);
        assert_eq!((ran.done.len(), ran.pending.len()), (0, 1));
        assert!(ran.findings[0].message.contains("another processor"));
        assert!(!temp.path().join("dev").exists());
    }

    #[test]
    fn processors_run_what_they_run() {
        assert!(runs_here((2, 62), "x86_64") && runs_here((1, 3), "x86_64"));
        assert!(!runs_here((2, 183), "x86_64") && !runs_here((2, 62), "i686"));
        assert!(!runs_here((2, 2), "x86_64") && runs_here((2, 183), "aarch64"));
    }

    #[test]
    fn everything_is_unmounted_when_a_program_is_missing_or_fails() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (temp, inside) = tree();
        put(&temp, "usr/sbin/broken", b"#!/no/such/interpreter\n");
        put(&temp, "usr/sbin/invoke-rc.d", b"");
        let ran = run_all(&inside, &[command("not-there"), command("broken")], &target(), &Quiet);
        assert_eq!(ran.pending, [["not-there"]]);
        assert_eq!(ran.done, [["broken"]]);
        let weights: Vec<_> = ran.findings.iter().map(|finding| finding.weight).collect();
        assert_eq!(weights, [super::super::Weight::Pending, super::super::Weight::Failure]);
        assert_eq!(mounts_below(inside.root()), []);
        assert!(!temp.path().join("usr/sbin/policy-rc.d").exists());
    }

    #[test]
    fn a_link_in_place_of_dev_is_not_mounted_upon() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (temp, inside) = tree();
        std::fs::create_dir(temp.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", temp.path().join("sys")).unwrap();
        let ran = run_all(&inside, &[command("not-there")], &target(), &Quiet);
        assert_eq!(ran.pending.len(), 1);
        assert!(ran.findings[0].message.contains("/sys"), "{:?}", ran.findings);
        assert_eq!(mounts_below(inside.root()), []);
    }
}
