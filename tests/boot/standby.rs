//! The standby: a disk that the rescue system partitioned, cloned production to and prepared.
//!
//! All of it happens in a machine of its own, as at a rescue prompt: partitions, filesystems with other UUIDs than
//! production's, `clonetool clone` over SSH from this host, and the preparation, chosen in [`preparation`]. What can
//! go wrong: the job fails in its middle, so each of its steps says how it ended.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::plant::write;
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{CLONETOOL, run};
use crate::image::{Base, Partition, blank, filesystem};
use crate::production;
use crate::vm::{Disk, Event, Firmware, Kernel, Machine, Vm};

pub(crate) const HOSTNAME: &str = "standby";
pub(crate) const ADDRESS: &str = "10.0.2.55";
pub(crate) const ROOT_UUID: &str = "22222222-aaaa-4aaa-8aaa-222222222222";
pub(crate) const SWAP_UUID: &str = "22222222-bbbb-4bbb-8bbb-222222222222";
pub(crate) const ESP_UUID: &str = "2222-CCCC";

/// What the rescue system runs, sourced, with production's copy mounted at `/a` and the disk in `$target`.
const PREPARE_ROOT: &str = include_str!("guest/prepare-root.sh");

const JOB: &str = include_str!("guest/job.sh");
const PROOF: &str = include_str!("guest/proof.sh");
const PROOF_UNIT: &str = include_str!("guest/proof.service");
/// Far above what it takes on a busy machine: seven minutes.
const LIMIT: Duration = Duration::from_secs(2400);
const DISK_MIB: u64 = 2048;

/// How the standby's disk is divided. Both forms have a place for the BIOS loader and an ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Partitions for root and swap.
    Plain,
    /// Root and swap are logical volumes.
    Lvm,
}

pub(crate) const ESP: Partition = Partition { start_sector: 4096, sectors: 131_072 };
/// Root on a [`Layout::Plain`] disk.
pub(crate) const ROOT: Partition = Partition { start_sector: 135_168, sectors: 3_145_728 };

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Lvm => "lvm",
        }
    }

    /// For sfdisk.
    fn table(self) -> String {
        let line = |part: Partition, kind: &str| {
            format!("start={}, size={}, type={kind}\n", part.start_sector, part.sectors)
        };
        let bios = Partition { start_sector: 2048, sectors: 2048 };
        let mut table = "label: gpt\n".to_owned();
        table += &line(bios, "21686148-6449-6E6F-744E-656564454649");
        table += &line(ESP, "uefi");
        table += &line(ROOT, if self == Self::Lvm { "lvm" } else { "linux" });
        if self == Self::Plain {
            let swap = Partition { start_sector: ROOT.start_sector + ROOT.sectors, sectors: 262_144 };
            table += &line(swap, "swap");
        }
        table
    }
}

/// A prepared disk, and what the rescue system knew of it when it was done.
#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) disk: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) machine_id: String,
    /// Their fingerprints, as `ssh-keygen -l` prints them.
    pub(crate) host_keys: BTreeSet<String>,
    pub(crate) keys_of_production: BTreeSet<String>,
}

impl Standby {
    /// Clones the production at `production` to a new disk in `dir` and prepares it there, in a machine that was
    /// started by `firmware`.
    pub(crate) fn make(
        base: &Base,
        production: &Path,
        dir: &Path,
        layout: Layout,
        firmware: Firmware,
    ) -> Self {
        let disk = dir.join(format!("{}.img", layout.name()));
        blank(&disk, DISK_MIB);
        let server = Sshd::start(&dir.join(format!("sshd-{}", layout.name())), &SshdOptions::default());
        let job = job(dir, &server, production, layout);
        let (image, initramfs) = base.kernel();
        let command_line = "root=/dev/vda rw init=/rescue console=ttyS0,115200 panic=1".to_owned();
        let machine = Machine {
            firmware,
            disks: vec![
                Disk::Scratch(base.rescue.clone(), "rescue"),
                Disk::Scratch(job, "job"),
                Disk::Virtio(disk.clone(), "target"),
            ],
            kernel: Some(Kernel { image, initramfs, command_line }),
            ssh_address: None,
        };
        let started = Instant::now();
        let mut vm = Vm::start(&machine, &dir.join(format!("rescue-{}", layout.name())));
        let over = |_: &str, report: &str| report.lines().any(|line| line.starts_with("RESCUE "));
        let event = vm.wait(LIMIT, over);
        let report = vm.report();
        assert!(
            event == Event::Seen && report.lines().any(|line| line.starts_with("RESCUE done 0")),
            "the standby was not prepared ({event:?})\n{}",
            vm.describe()
        );
        // It powers off by itself, after its last write.
        let event = vm.wait(Duration::from_secs(120), |_, _| false);
        assert_eq!(event, Event::Ended, "the rescue system does not power off\n{}", vm.describe());
        for line in report.lines().filter(|line| line.starts_with("END ")) {
            println!("    {line}");
        }
        println!("    rescue system: {} s", started.elapsed().as_secs());
        Self::from_report(disk, layout, production, &report)
    }

    /// The standby that an earlier run made in `dir`.
    pub(crate) fn made_before(dir: &Path, production: &Path, layout: Layout) -> Option<Self> {
        let disk = dir.join(format!("{}.img", layout.name()));
        let report = fs::read_to_string(dir.join(format!("rescue-{}/report.log", layout.name()))).ok()?;
        (disk.exists() && report.contains("RESCUE done 0"))
            .then(|| Self::from_report(disk, layout, production, &report.replace('\r', "")))
    }

    fn from_report(disk: PathBuf, layout: Layout, production: &Path, report: &str) -> Self {
        let facts = |name: &str| {
            let prefix = format!("FACT {name} ");
            report
                .lines()
                .filter_map(move |line| line.strip_prefix(&prefix).map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let machine_id = facts("machine-id").pop().unwrap_or_default();
        let host_keys = facts("host-key").iter().map(|line| fingerprint(line)).collect();
        let keys_of_production = production::fingerprints(production);
        assert!(!keys_of_production.is_empty(), "production has no host keys");
        Self { disk, layout, machine_id, host_keys, keys_of_production }
    }
}

/// The SHA-256 fingerprint in a line of `ssh-keygen -l`.
pub(crate) fn fingerprint(line: &str) -> String {
    line.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap_or_default().to_owned()
}

/// A disk with everything that the rescue system is to do.
fn job(dir: &Path, server: &Sshd, production: &Path, layout: Layout) -> PathBuf {
    let tree = dir.join("job");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(&tree).expect("make the job");
    let known = fs::read_to_string(server.known_hosts()).expect("read known_hosts");
    write(&tree.join("known_hosts"), known.replace("127.0.0.1", "10.0.2.2"));
    fs::copy(server.identity(), tree.join("client_key")).expect("copy the client's key");
    // Symbols are nine tenths of a debug build.
    let stripped = tree.join("clonetool");
    run("strip", ["-o".as_ref(), stripped.as_os_str(), CLONETOOL.as_ref()]);
    let config = [
        ("ROOT_ON", layout.name()),
        ("SSH_PORT", &server.port().to_string()),
        ("REMOTE_CLONETOOL", CLONETOOL),
        ("PRODUCTION", &production.display().to_string()),
        ("STANDBY", HOSTNAME),
        ("ADDRESS", ADDRESS),
        ("ROOT_UUID", ROOT_UUID),
        ("SWAP_UUID", SWAP_UUID),
        ("ESP_UUID", ESP_UUID),
    ];
    let lines: Vec<_> = config.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
    write(&tree.join("config"), lines.concat());
    write(&tree.join("layout"), layout.table());
    for (name, content) in
        [("run", JOB), ("prepare", PREPARE_ROOT), ("proof", PROOF), ("proof.service", PROOF_UNIT)]
    {
        write(&tree.join(name), content);
    }
    let image = dir.join("job.img");
    filesystem(&tree, &image, "ext2", 256 << 20);
    image
}
