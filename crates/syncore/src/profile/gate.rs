//! What a profile says of its gates: `[[gate]]`, one typed value for each kind.
//!
//! Why: a gate guards a run that nobody watches, so what it is to check is settled when the profile is read. What can
//! go wrong: a value that means one thing here and another where it is asked; so units and meanings stand with each
//! field. How the keys are read is in `gate_keys`; who asks a gate is the room of that name.

use std::path::PathBuf;
use std::time::Duration;

use crate::rules::Origin;

/// What must hold before a run: `[[gate]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// What refusals call it; no other gate of the profile has it.
    pub name: String,
    /// What is checked.
    pub check: Check,
    /// How long it may take to answer; 30 seconds by default.
    pub timeout: Duration,
    /// Where it stands.
    pub origin: Origin,
}

/// What a gate checks.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Check {
    /// A volume group is imported on this host, and whole.
    VolumeGroup(VolumeGroup),
    /// A filesystem is mounted on this host.
    Mounted(Mounted),
    /// The other host can be reached, and is what it should be.
    Peer(Peer),
    /// What replicates the data between the hosts is in sync.
    Replication(Replication),
    /// A volume group has as many disks as are replicated.
    DeviceCount {
        /// Whose disks are counted.
        group: VolumeGroup,
        /// Whose devices are counted.
        replication: Replication,
    },
    /// The source root may send and the standby root may receive.
    Role,
    /// No package manager is at work on either root, and none left work half done.
    PackageTransaction,
    /// The whole plan fits the standby's filesystems.
    Space {
        /// Bytes that must stay free on each.
        reserve_bytes: u64,
    },
    /// The standby's filesystems have inodes for the whole plan.
    Inodes {
        /// Inodes that must stay free on each.
        reserve: u64,
    },
    /// This host is not too busy.
    Load {
        /// The load average may not be above this.
        max: f64,
        /// Over how many minutes: 1, 5 or 15.
        minutes: u8,
    },
    /// It is an hour in which a run may begin, in this host's local time.
    Window {
        /// Any of these.
        hours: Vec<Hours>,
    },
    /// A program of the operator ends with exit code 0.
    Command {
        /// Program and arguments, without a shell; the program is an absolute path.
        command: Vec<String>,
    },
}

/// A volume group and how to ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeGroup {
    /// Whose it is.
    pub manager: Manager,
    /// Its name there: a volume group, disk group, pool or disk set.
    pub group: String,
    /// The manager's program, where it is not in a usual place.
    pub program: Option<PathBuf>,
}

/// A volume manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// The logical volume manager of Linux: vgs(8).
    Lvm,
    /// Veritas Volume Manager: vxdg(1M).
    Vxvm,
    /// ZFS: zpool(8).
    Zfs,
    /// Solaris Volume Manager: metaset(1M).
    Svm,
}

/// A filesystem that must be mounted; what is none is not asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub path: PathBuf,
    /// From what, as mountinfo names it.
    pub source: Option<String>,
    /// Its type, as the kernel names it.
    pub filesystem: Option<String>,
    /// A file that must be in it, relative to `path`.
    pub sentinel: Option<PathBuf>,
}

/// What is asked of the other host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name to resolve, ping and connect to; the host of the run by default.
    pub host: Option<String>,
    /// Whether it must answer a ping.
    pub ping: bool,
    /// Whether its port must take a connection.
    pub tcp: bool,
    /// Which port; that of the run by default, else 22.
    pub port: Option<u16>,
    /// Whether the agent must answer there. Without it nothing below is known.
    pub agent: bool,
    /// By how much its clock may differ; none: not asked.
    pub max_clock_skew: Option<Duration>,
    /// Whether both roots must have the same system in the same major release.
    pub same_release: bool,
    /// Whether both hosts must be the same kind of machine.
    pub same_machine: bool,
}

/// What replicates data, and how to ask it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// What.
    pub method: Method,
    /// Its program, where it is not in a usual place.
    pub program: Option<PathBuf>,
}

/// A way to replicate data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// EMC SRDF: symrdf of Solutions Enabler.
    Srdf {
        /// The device group.
        group: String,
    },
    /// DRBD: drbdsetup(8).
    Drbd {
        /// The resource.
        resource: String,
    },
    /// A Linux software RAID over devices of both hosts: md(4).
    Md {
        /// The array, as /proc/mdstat names it.
        array: String,
    },
    /// Snapshots of a ZFS dataset that are sent: the newest must be young.
    Zfs {
        /// The dataset.
        dataset: String,
        /// How old its newest snapshot may be.
        max_age: Duration,
    },
    /// Streaming replication of PostgreSQL.
    Postgresql(Postgresql),
    /// A program of the operator, as of [`Check::Command`].
    Command {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// A primary server of PostgreSQL and what is asked of its standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgresql {
    /// The account that asks, by runuser(1); `postgres` by default.
    pub run_as: String,
    /// The directory of its socket, or a host name; psql's default where none is given.
    pub host: Option<String>,
    /// Its port.
    pub port: u16,
    /// The database to connect to.
    pub database: String,
    /// The standby's `application_name`; none: any one standby is enough.
    pub standby: Option<String>,
    /// How many bytes of WAL the standby may not have replayed yet.
    pub max_lag_bytes: u64,
}

/// Hours of a day, in minutes from midnight; the end is not part of it, and may be on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// From this minute.
    pub from: u16,
    /// To this one.
    pub to: u16,
}

impl Hours {
    /// Whether a minute of the day is within. Equal ends mean the whole day.
    #[must_use]
    pub const fn contains(self, minute: u16) -> bool {
        match self.from < self.to {
            true => self.from <= minute && minute < self.to,
            false => minute >= self.from || minute < self.to,
        }
    }
}

impl Check {
    /// The word of the profile for this kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::VolumeGroup(_) => "volume-group",
            Self::Mounted(_) => "mounted",
            Self::Peer(_) => "peer",
            Self::Replication(_) => "replication",
            Self::DeviceCount { .. } => "device-count",
            Self::Role => "role",
            Self::PackageTransaction => "package-transaction",
            Self::Space { .. } => "space",
            Self::Inodes { .. } => "inodes",
            Self::Load { .. } => "load",
            Self::Window { .. } => "window",
            Self::Command { .. } => "command",
        }
    }

    /// Whether the gate is asked again immediately before the first change: what it checks can turn meanwhile.
    #[must_use]
    pub const fn again_before_commit(&self) -> bool {
        match self {
            Self::VolumeGroup(_) | Self::Replication(_) | Self::Role | Self::PackageTransaction => true,
            Self::Space { .. }
            | Self::Inodes { .. }
            | Self::Mounted(_)
            | Self::Peer(_)
            | Self::DeviceCount { .. }
            | Self::Load { .. }
            | Self::Window { .. }
            | Self::Command { .. } => false,
        }
    }

    /// Whether it judges a plan.
    #[must_use]
    pub const fn needs_plan(&self) -> bool {
        matches!(self, Self::Space { .. } | Self::Inodes { .. })
    }
}
