//! The real boot: a copy of production, made by clonetool at a rescue prompt, is booted and has to be the standby.
//!
//!     cargo test --test boot -- [--short] [--reuse] [NAME…]
//!
//! `make test-boot` runs it; `cargo test` does not. Emulated without acceleration, the short form takes about twenty
//! minutes on two processors. A case is a boot of a prepared disk, or of a copy on which one step was undone. `NAME`
//! picks cases; `--reuse` boots the disks of the last run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs)]

mod cases;
#[allow(dead_code, reason = "the other integration tests use the rest of it")]
#[path = "../common/mod.rs"]
mod common;
mod image;
mod production;
mod proof;
mod rescue;
mod sabotage;
mod standby;
mod traffic;
mod upgrade;
mod vm;

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use rustix::fs::FlockOperation;

use crate::cases::{CASES, Case};
use crate::image::{Base, DiskCopy};
use crate::standby::{Layout, Standby};
use crate::upgrade::Upgraded;
use crate::vm::Firmware;

/// What is run by name besides what every integration test needs.
const COMMANDS: [&str; 9] = [
    "qemu-system-x86_64",
    "mmdebstrap",
    "mke2fs",
    "mdel",
    "ssh-keyscan",
    "ssh-keygen",
    "strip",
    "chroot",
    "timeout",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().any(|arg| arg == name);
    let names: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |case: &&Case| {
        if names.is_empty() {
            !(case.long && option("--short"))
        } else {
            names.iter().any(|name| case.name == *name)
        }
    };
    if let Some(unknown) = names.iter().find(|name| CASES.iter().all(|case| case.name != **name)) {
        let known: Vec<_> = CASES.iter().map(|case| case.name).collect();
        println!("boot: there is no case {unknown}, only {}", known.join(", "));
        return ExitCode::FAILURE;
    }
    let mut cases: Vec<_> = CASES.iter().filter(wanted).collect();
    if common::lacks("boot", &COMMANDS) {
        return ExitCode::SUCCESS;
    }
    cases.retain(|case| {
        let installed = case.firmware.installed();
        if !installed {
            common::skip(&format!("boot::{}", case.name), "no UEFI firmware (package ovmf)");
        }
        installed
    });

    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boot");
    fs::create_dir_all(&cache).expect("make the cache");
    let lock = File::create(cache.join("lock")).expect("create the lock");
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("another boot test is running");
    let started = Instant::now();
    let lab = Lab::prepare(&cache, &cases, option("--reuse"));
    let failed: Vec<_> = cases.iter().filter(|case| !lab.passes(case)).map(|case| case.name).collect();
    println!(
        "boot: {} of {} as expected, {} s",
        cases.len() - failed.len(),
        cases.len(),
        started.elapsed().as_secs()
    );
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("boot: FAILED: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// What the boots share.
struct Lab {
    run: PathBuf,
    base: Base,
    production: PathBuf,
    /// Production with another kernel, where a case needs it.
    upgraded: Option<Upgraded>,
    standbys: Vec<Standby>,
}

impl Lab {
    /// Makes production, and a standby for each layout that `cases` boot.
    fn prepare(cache: &Path, cases: &[&Case], reuse: bool) -> Self {
        assert!(rustix::process::geteuid().is_root(), "the boot test needs root");
        let run = cache.join("run");
        let base = stage("a Debian system and a rescue system", || Base::build(cache));
        let production = run.join("production");
        let reuse = reuse && production.exists();
        // A killed run may have left a mount behind.
        common::mount::unmount_below(&run);
        if !reuse {
            common::dir::remove_tree(&run);
            fs::create_dir_all(&run).expect("make the directory of this run");
            stage("production", || production::plant(&base, &production));
        }
        let upgraded = run.join("upgraded");
        common::dir::remove_tree(&upgraded);
        let upgraded = cases
            .iter()
            .any(|case| !case.syncs.is_empty())
            .then(|| stage("production, upgraded", || Upgraded::make(&production, upgraded)));
        let mut lab = Self { base, production, upgraded, run, standbys: Vec::new() };
        // The two ways that a rescue system is started itself.
        for (layout, firmware) in [(Layout::Plain, Firmware::Bios), (Layout::Lvm, Firmware::Uefi)] {
            if cases.iter().any(|case| case.layout == layout) {
                let old = reuse.then(|| Standby::made_before(&lab.run, &lab.production, layout)).flatten();
                let make = || Standby::make(&lab.base, &lab.production, &lab.run, layout, firmware);
                let standby = old.unwrap_or_else(|| stage(&format!("a standby, {layout:?}"), make));
                lab.standbys.push(standby);
            }
        }
        lab
    }

    /// Boots the case; true when it is as expected.
    fn passes(&self, case: &Case) -> bool {
        let attempt = || stage(&format!("boot {}", case.name), || self.boot(case));
        catch_unwind(AssertUnwindSafe(attempt)).unwrap_or(false)
    }

    fn boot(&self, case: &Case) -> bool {
        let standby = self.standbys.iter().find(|standby| standby.layout == case.layout).expect("prepared");
        let disk = DiskCopy::of(&standby.disk, &self.run.join("boot.img"));
        if let Some(undo) = case.undo {
            undo(&disk, &self.production);
        }
        let dir = self.run.join(case.name);
        let mut standby = standby.clone();
        for (number, how) in case.syncs.iter().enumerate() {
            if number > 0 && !self.starts(case, &standby, &disk, &dir) {
                return false;
            }
            let upgraded = self.upgraded.as_ref().expect("upgraded");
            upgraded.sync(
                &self.base,
                &mut standby,
                &disk,
                *how,
                &self.run.join(format!("{}-sync-{number}", case.name)),
            );
        }
        self.starts(case, &standby, &disk, &dir)
    }

    /// Starts the standby on `disk`; true when what it shows is what the case expects.
    fn starts(&self, case: &Case, standby: &Standby, disk: &DiskCopy, dir: &Path) -> bool {
        let (findings, vm) = proof::boot(standby, disk.path(), case.firmware, dir);
        let wrong = case.wrong(&findings);
        if wrong.is_empty() {
            return true;
        }
        println!("{}", vm.describe());
        for finding in &findings {
            println!("    found {finding:?}");
        }
        for line in &wrong {
            println!("    WRONG: {line}");
        }
        false
    }
}

/// Does `what`, and says how long it took.
fn stage<T>(name: &str, what: impl FnOnce() -> T) -> T {
    println!("boot: {name} …");
    let started = Instant::now();
    let result = what();
    println!("boot: {name}: {} s", started.elapsed().as_secs());
    result
}
