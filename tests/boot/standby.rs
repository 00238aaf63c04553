//! The standby: a disk that the rescue system partitioned, cloned production to and prepared.
//!
//! All of it happens at a rescue prompt: partitions, filesystems with other UUIDs than production's, `clonetool clone` over
//! SSH from this host, `clonetool prepare-root`. What can go wrong: what is known of the standby is what it says itself;
//! so the harness chooses the UUIDs, and the boot is judged by them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::image::{Base, Partition, blank};
use crate::production;
use crate::rescue::{Job, Rescue, facts};
use crate::vm::Firmware;

pub(crate) const HOSTNAME: &str = "standby";
pub(crate) const ADDRESS: &str = "10.0.2.55";
pub(crate) const ROOT_UUID: &str = "22222222-aaaa-4aaa-8aaa-222222222222";
pub(crate) const SWAP_UUID: &str = "22222222-bbbb-4bbb-8bbb-222222222222";
pub(crate) const ESP_UUID: &str = "2222-CCCC";

const BUILD: &str = include_str!("guest/build.sh");
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
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Lvm => "lvm",
        }
    }

    /// For sfdisk.
    pub(crate) fn table(self) -> String {
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
#[derive(Debug, Clone)]
pub(crate) struct Standby {
    pub(crate) disk: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) machine_id: String,
    /// Their fingerprints, as `ssh-keygen -l` prints them.
    pub(crate) host_keys: BTreeSet<String>,
    pub(crate) keys_of_production: BTreeSet<String>,
    /// The release of the kernel that it starts.
    pub(crate) kernel: String,
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
        let job = Job { script: BUILD, layout, firmware, production, config: &[] };
        let mut rescue = Rescue::start(base, &job, &disk, &dir.join(format!("rescue-{}", layout.name())));
        let report = rescue.finish();
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
        let machine_id = facts(report, "machine-id").pop().unwrap_or_default();
        let host_keys = facts(report, "host-key").iter().map(|line| fingerprint(line)).collect();
        let keys_of_production = production::fingerprints(production);
        assert!(!keys_of_production.is_empty(), "production has no host keys");
        Self {
            disk,
            layout,
            machine_id,
            host_keys,
            keys_of_production,
            kernel: production::release(production),
        }
    }
}

/// The SHA-256 fingerprint in a line of `ssh-keygen -l`.
pub(crate) fn fingerprint(line: &str) -> String {
    line.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap_or_default().to_owned()
}
