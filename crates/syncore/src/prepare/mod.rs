//! Makes a copied root bootable, offline, under an identity of its own.
//!
//! Why: a clone is production's twin: its name, its keys, its disks, its cron jobs. Started as it is, it does not find
//! its root, or it answers for production. So everything that is production's own is replaced, everything that would
//! act is held, and the result is checked before anybody reboots. What can go wrong: an edit that matches nothing, a boot
//! loader that was not installed, a stale id in the initramfs; each is looked for, and the outcome says `failed`.
//!
//! The flow is plan, then do: [`plan`] reads and thinks and changes nothing, [`Preparation::carry_out`] does what was
//! shown. The planners are below `linux` and `solaris`; each takes a draft that lies over the tree.

mod bootloader;
mod carry;
mod chroot;
mod detect;
mod draft;
mod edit;
mod follow;
mod hold;
mod hostkey;
mod inside;
mod journal;
mod latest;
mod lines;
mod linux;
mod menu;
mod mirror;
mod protected;
mod release;
mod report;
mod solaris;
mod standby;
mod substitute;
mod system;
mod target;
mod verify;

pub use bootloader::{Boot, BootDisk};
pub use edit::{Edit, EditChange, Instead};
pub use hold::{InPlace, PROMOTED, Undo};
pub use journal::{Journal, Line, STATE_DIRECTORY};
pub use release::{Released, held, release};
pub use report::{Finding, Held, HostKey, Outcome, Replaced, Report, Step, Weight};
pub use standby::{PRODUCTION, Standby, left};
pub use system::{Family, Kind, Solaris, System};
pub use target::{Disk, Filesystem, Layer, Table, Target};

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use crate::monitor::Monitor;
use crate::scan::Root;
use crate::tree::RelPath;
use chroot::Ran;
use draft::Draft;
use hostkey::NewHostKey;
use inside::Inside;
use verify::{Checks, Prepared};

pub(crate) use follow::{follow_ups, is_for_boot, kernel_of};
pub(crate) use journal::path;
pub(crate) use protected::own_rules;

/// The kind of system that the root is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Linux.
    Linux,
    /// Solaris or illumos.
    Solaris,
}

/// Whose identity the copy boots with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identity {
    /// One of its own.
    #[default]
    Own,
    /// Production's name and host keys, for a cut-over; devices and machine id are its own all the same.
    Takeover,
}

/// What is done about a boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bootloader {
    /// The one that is in the root is installed; that there is none is a failure.
    #[default]
    Auto,
    /// None: a hypervisor or the network starts the kernel.
    None,
}

/// What is done about the device tree of a Solaris root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceTree {
    /// It is rebuilt, where that can be done here.
    #[default]
    Auto,
    /// It is cleared, and rebuilt on the target.
    Pending,
}

/// How an interface of the standby gets its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface, as the standby will name it.
    pub interface: String,
    /// How.
    pub setting: AddressSetting,
}

/// Where an address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSetting {
    /// From a DHCP server.
    Dhcp,
    /// It is this one.
    Static {
        /// The address.
        address: IpAddr,
        /// Length of the network's prefix in bits.
        prefix_bits: u8,
        /// The default gateway.
        gateway: Option<IpAddr>,
    },
}

/// What is asked of a preparation.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The standby's name. None is an error with [`Identity::Own`].
    pub hostname: Option<String>,
    /// The disks that get a boot loader; none: those below the root.
    pub boot_disks: Vec<PathBuf>,
    /// Addresses of the standby; an interface without one stays down.
    pub addresses: Vec<Address>,
    /// How the kernel is to find its root, if not by the UUID of what is mounted: `UUID=…`, `/dev/vg/lv`.
    pub root_device: Option<String>,
    /// Old devices, as production's files name them, and the standby's; none drops the line.
    pub device_map: Vec<(String, Option<String>)>,
    /// What the root is, if it does not say so itself.
    pub platform: Option<Platform>,
    /// Whose identity.
    pub identity: Identity,
    /// Which boot loader.
    pub bootloader: Bootloader,
    /// What becomes of a Solaris device tree.
    pub device_tree: DeviceTree,
    /// Whether a root that is prepared already is prepared once more.
    pub again: bool,
}

/// A command that is run in the prepared root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// When.
    pub step: Step,
    /// Program and arguments; no shell reads them.
    pub argv: Vec<String>,
    /// Why, in words for a person.
    pub why: String,
}

/// Why a root is not prepared.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// It cannot be opened.
    #[error("cannot open {path}: {reason}")]
    Root {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is what this system runs on.
    #[error("{path} is the root that is running")]
    Running {
        /// Which.
        path: String,
    },
    /// There is no operating system in it.
    #[error("there is no operating system in it: neither etc/os-release nor etc/release")]
    NoSystem,
    /// There is one that is not known.
    #[error("the system in it is not one that can be prepared: {name}")]
    UnknownSystem {
        /// As it calls itself.
        name: String,
    },
    /// A filesystem that the system needs is not mounted below the root.
    #[error("{mount_point} is in its fstab and not mounted below {root}")]
    NotMounted {
        /// Where it belongs.
        mount_point: String,
        /// The prepared root.
        root: String,
    },
    /// It was prepared before.
    #[error("it was prepared before, as {hostname}")]
    Again {
        /// The name that it was given.
        hostname: String,
    },
    /// No name was given.
    #[error("the standby needs a name of its own")]
    NoHostname,
    /// Something that was asked for cannot be.
    #[error("{0}")]
    Option(String),
    /// The root lies on something that we do not know how to boot from.
    #[error("cannot boot from {device}: {reason}")]
    Storage {
        /// What it lies on.
        device: String,
        /// Why not.
        reason: String,
    },
    /// A path that is none.
    #[error("{path}: {reason}")]
    Path {
        /// As written.
        path: String,
        /// Why not.
        reason: String,
    },
    /// Something cannot be read.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// What.
        path: RelPath,
        /// Why.
        reason: String,
    },
    /// An edit cannot be made. What was done so far is in the journal.
    #[error("cannot change {path}: {reason}")]
    Edit {
        /// What.
        path: RelPath,
        /// Why.
        reason: String,
    },
    /// A file is not what an edit of it needs; guessing would be a host that does not boot.
    #[error("{path} cannot be understood: {reason}")]
    Malformed {
        /// What.
        path: RelPath,
        /// Why.
        reason: String,
    },
    /// The journal cannot be read or written.
    #[error("cannot keep the journal of the preparation: {0}")]
    Journal(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl PrepareError {
    fn read(path: &RelPath, error: impl std::fmt::Display) -> Self {
        Self::Read { path: path.clone(), reason: error.to_string() }
    }
}

/// What the planners look at, besides the tree itself.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) options: &'a Options,
    pub(crate) system: &'a System,
    pub(crate) target: &'a Target,
    /// What an earlier preparation did.
    pub(crate) earlier: Option<&'a Journal>,
    /// The name that the standby gets.
    pub(crate) hostname: &'a str,
}

/// A preparation that is planned and not done.
#[derive(Debug)]
pub struct Preparation {
    inside: Inside,
    target: Target,
    system: System,
    journal: Journal,
    commands: Vec<Command>,
    host_keys: Vec<NewHostKey>,
    /// What is looked at in the end; none where nothing of it can be seen from here.
    checks: Option<Checks>,
    /// The host keys that came along, by content.
    old_keys: Vec<(RelPath, String)>,
    report: Report,
}

/// Plans the preparation of the root at `path` for `target`. Changes nothing.
///
/// # Errors
/// [`PrepareError`]: each of them before anything was changed.
pub fn plan(path: &Path, target: &Target, options: &Options) -> Result<Preparation, PrepareError> {
    let root = open(path)?;
    let inside = Inside::new(root);
    let earlier = Journal::read(inside.root()).map_err(|error| PrepareError::Journal(error.to_string()))?;
    if let Some(earlier) = earlier.as_ref().filter(|earlier| earlier.complete && !options.again) {
        return Err(PrepareError::Again { hostname: earlier.hostname.clone() });
    }
    let mut draft = Draft::new(&inside);
    let system = System::detect(&draft, options.platform)?;
    let source_hostname =
        earlier.as_ref().map_or_else(|| system.hostname.clone(), |earlier| earlier.source_hostname.clone());
    let hostname = match (&options.hostname, options.identity) {
        (Some(name), _) => name.clone(),
        (None, Identity::Takeover) => source_hostname.clone(),
        (None, Identity::Own) => return Err(PrepareError::NoHostname),
    };
    check_hostname(&hostname)?;
    // What an earlier preparation holds is still held, though it is no longer where it would be found.
    draft.held = earlier.as_ref().map(|earlier| earlier.held.clone()).unwrap_or_default();
    let task = Task { options, system: &system, target, earlier: earlier.as_ref(), hostname: &hostname };
    let checks = match system.kind {
        Kind::Linux(family) => Some(linux::plan(&task, family, &mut draft)?),
        Kind::Solaris(release) => {
            solaris::plan(&task, release, &mut draft)?;
            None
        }
    };
    let old_keys = if earlier.is_none() { verify::host_keys(&inside)? } else { Vec::new() };
    let mut journal = earlier.clone().unwrap_or_else(|| Journal {
        source_hostname,
        source_machine_id: system.machine_id.clone(),
        source_addresses: system.addresses.clone(),
        ..Journal::default()
    });
    journal.hostname.clone_from(&hostname);
    journal.complete = false;
    if matches!(system.kind, Kind::Linux(_)) {
        journal.boot = Some(Boot::of(target, options));
    }
    draft.join_held();
    journal.held = draft.held.clone();
    if draft.machine_id.is_some() {
        journal.machine_id = draft.machine_id.take();
    }
    // What was production's when it was first looked at stays production's.
    if earlier.is_none() {
        journal.source_host_keys = std::mem::take(&mut draft.source_host_keys);
        for address in std::mem::take(&mut draft.source_addresses) {
            if !journal.source_addresses.contains(&address) {
                journal.source_addresses.push(address);
            }
        }
    }
    for id in std::mem::take(&mut draft.source_ids) {
        if !target.has_id(&id) && !journal.source_uuids.contains(&id) {
            journal.source_uuids.push(id);
        }
    }
    journal.source_uuids.retain(|id| !target.has_id(id));
    draft.commands.sort_by_key(|command| command.step);
    let commands = std::mem::take(&mut draft.commands);
    let host_keys = std::mem::take(&mut draft.new_host_keys);
    let report = Report {
        outcome: Report::outcome_of(&draft.findings, !draft.pending.is_empty()),
        system: system.name.clone(),
        replaced: std::mem::take(&mut draft.replaced),
        starts: std::mem::take(&mut draft.starts),
        held: std::mem::take(&mut draft.held),
        host_keys: Vec::new(),
        commands: commands.iter().map(|command| command.argv.clone()).collect(),
        pending: std::mem::take(&mut draft.pending),
        findings: std::mem::take(&mut draft.findings),
        edits: draft.into_edits(),
    };
    Ok(Preparation {
        inside,
        target: target.clone(),
        system,
        journal,
        commands,
        host_keys,
        checks,
        old_keys,
        report,
    })
}

impl Preparation {
    /// What would be done.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Does it.
    ///
    /// # Errors
    /// [`PrepareError`]; what was done so far is in the journal, and the same call again goes on.
    pub fn carry_out(mut self, monitor: &dyn Monitor) -> Result<Report, PrepareError> {
        let since = SystemTime::now();
        if matches!(self.system.kind, Kind::Linux(_)) {
            latest::keep(&self.inside)?;
        }
        carry::carry_out(&self.inside, &self.report.edits, &mut self.journal, monitor)?;
        self.report.host_keys = hostkey::make(&self.inside, &self.host_keys, &mut self.journal)?;
        let ran = match self.system.kind {
            Kind::Linux(_) => chroot::run_all(&self.inside, &self.commands, &self.target, monitor),
            // Its tools run on no other kernel.
            Kind::Solaris(_) => Ran::left(&self.commands),
        };
        if monitor.cancelled() {
            return Err(PrepareError::Cancelled);
        }
        self.report.commands = ran.done;
        self.report.pending.extend(ran.pending);
        self.report.findings.extend(ran.findings);
        if let Some(checks) = &self.checks {
            let prepared = Prepared {
                inside: &self.inside,
                target: &self.target,
                journal: &self.journal,
                since,
                pending: !self.report.pending.is_empty(),
                bootloader: checks.bootloader,
            };
            self.report.findings.extend(verify::check(&prepared, checks, &self.old_keys));
        }
        self.flush()?;
        self.report.outcome = Report::outcome_of(&self.report.findings, !self.report.pending.is_empty());
        // What failed may be tried again without being asked for by name.
        self.journal.complete = self.report.outcome != Outcome::Failed;
        self.journal.write(&self.inside).map_err(|error| PrepareError::Journal(error.to_string()))?;
        Ok(self.report)
    }

    /// Has the filesystems write down what the commands made.
    fn flush(&self) -> Result<(), PrepareError> {
        for filesystem in &self.target.filesystems {
            let Some(point) = &filesystem.mount_point else { continue };
            let held = self.inside.root().open_directory(point);
            let flushed = held.and_then(rustix::fs::syncfs);
            flushed.map_err(|error| PrepareError::Edit { path: point.clone(), reason: error.to_string() })?;
        }
        Ok(())
    }
}

/// Opens the root, unless it is the one that runs.
fn open(path: &Path) -> Result<Arc<Root>, PrepareError> {
    let shown = crate::tree::escape(path.as_os_str().as_encoded_bytes());
    let failed = |error: rustix::io::Errno| PrepareError::Root {
        path: shown.clone(),
        reason: std::io::Error::from(error).to_string(),
    };
    let root = Root::open(path).map_err(failed)?;
    let running = Root::open(Path::new("/")).map_err(failed)?;
    let (this, running) = (root.identity().map_err(failed)?, running.identity().map_err(failed)?);
    // The same directory on another mount is the running root all the same.
    if (this.device, this.inode) == (running.device, running.inode) {
        return Err(PrepareError::Running { path: shown });
    }
    Ok(Arc::new(root))
}

/// Checks a host name: labels of letters, digits and hyphens (RFC 1123, section 2.1), at most 64 bytes (hostname(7)).
fn check_hostname(name: &str) -> Result<(), PrepareError> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(label) {
        return Ok(());
    }
    Err(PrepareError::Option(format!(
        "{} is no host name: letters, digits and hyphens, at most 64",
        crate::tree::escape(name.as_bytes())
    )))
}
