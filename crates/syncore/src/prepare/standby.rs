//! A root as a standby: what is its own in it, and what of production's files becomes of them there.
//!
//! Why: a sync must know, whoever sends it, that the root it changes has an identity of its own, and keep it. What can
//! go wrong: a root that is only a copy and not yet a standby; nothing here applies to it, and `prepare-root` makes it
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::inside::Inside;
use super::journal::{self, Journal};
use super::report::Weight;
use super::substitute::{Names, may_be_new, substitute};
use super::{Command, PrepareError, Target, bootloader, chroot, follow, menu, protected};
use crate::monitor::Monitor;
use crate::rules::{FollowUp, Rule, Substitution};
use crate::scan::{Presented, Root};
use crate::tree::{RelPath, Timestamp, unescape};

/// Where it is kept which files were made from production's, beside the journal.
const SUBSTITUTED: &str = "substituted.json";

/// Where production's files of class G are kept as they are, below the standby's root, until it is promoted.
pub const PRODUCTION: &str = "var/lib/clonetool/production";

/// A root that has an identity of its own.
#[derive(Debug)]
pub struct Standby {
    inside: Inside,
    journal: Option<Journal>,
    /// Whether it is the root that is running.
    live: bool,
    substituted: Mutex<BTreeMap<String, Substituted>>,
}

/// A file that was made from production's: what was made, and from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Substituted {
    made_bytes: u64,
    made_digest: [u8; 32],
    mtime: Timestamp,
    production_bytes: u64,
    production_digest: [u8; 32],
}

/// What a sync left undone in the root at `path`: as long as there is anything, the standby has everything of
/// production's and may still not do what production does. The next sync tries again, also when nothing changed.
///
/// # Errors
/// [`PrepareError::Root`], and [`PrepareError::Journal`] when what was written down cannot be read.
pub fn left(path: &Path) -> Result<BTreeSet<FollowUp>, PrepareError> {
    let root = Root::open(path).map_err(|error| PrepareError::Root {
        path: crate::tree::escape(path.as_os_str().as_encoded_bytes()),
        reason: io::Error::from(error).to_string(),
    })?;
    follow::read(&Inside::new(Arc::new(root))).map_err(|error| PrepareError::Journal(error.to_string()))
}

impl Standby {
    /// What `root` is as a standby: one that was prepared, or the running system itself; none for any other tree.
    ///
    /// # Errors
    /// When its journal is there and cannot be read: what it protects is then not known.
    pub fn of(root: &Arc<Root>) -> io::Result<Option<Self>> {
        let journal = Journal::read(root)?;
        let live = Root::open(Path::new("/"))?.identity()? == root.identity()?;
        if journal.is_none() && !live {
            return Ok(None);
        }
        let inside = Inside::new(Arc::clone(root));
        let substituted = match journal::read_state(root, SUBSTITUTED)? {
            // What was made is made again when it is not known; nothing is lost.
            Some(content) => serde_json::from_slice(&content).unwrap_or_default(),
            None => BTreeMap::new(),
        };
        Ok(Some(Self { inside, journal, live, substituted: Mutex::new(substituted) }))
    }

    /// Whether it is the running system.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The rules that it holds to, whoever sends: the catalogue of its kind, and what the preparation changed.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        protected::rules(&self.inside, self.journal.as_ref(), protected::is_promoted(&self.inside))
    }

    /// The release of the kernel that runs on it; none if it does not run.
    pub(crate) fn running_kernel(&self) -> Option<String> {
        self.live.then(|| rustix::system::uname().release().to_string_lossy().into_owned())
    }

    /// Whether nothing is left to be done for the next boot.
    pub(crate) fn is_bootable(&self) -> bool {
        follow::read(&self.inside).is_ok_and(|left| !left.into_iter().any(follow::is_for_boot))
    }

    /// Writes down what has to follow, with what is left from before, durably.
    pub(crate) fn intend(&self, mut wanted: BTreeSet<FollowUp>) -> io::Result<()> {
        wanted.extend(follow::read(&self.inside)?);
        follow::write(&self.inside, &wanted)
    }

    /// Does what was written down and is `wanted` now, and crosses it out; gives what failed, and where it shows.
    /// Nothing is made for the kernels that are `leaving`.
    pub(crate) fn follow(
        &self,
        wanted: &dyn Fn(FollowUp) -> bool,
        leaving: &BTreeSet<String>,
        monitor: &dyn Monitor,
    ) -> Vec<(RelPath, String)> {
        let mut left = match follow::read(&self.inside) {
            Ok(left) => left,
            Err(error) => return vec![(RelPath::root(), error.to_string())],
        };
        let mut failed = Vec::new();
        for one in left.clone().into_iter().filter(|one| wanted(*one)) {
            let boot = self.journal.as_ref().and_then(|journal| journal.boot.as_ref());
            let commands = match one {
                FollowUp::BootLoader => bootloader::commands(&self.inside, &self.path(), boot),
                FollowUp::BootConfiguration => menu::settle(&self.inside)
                    .map(|()| follow::commands(&self.inside, one, leaving, self.live)),
                _ => Ok(follow::commands(&self.inside, one, leaving, self.live)),
            };
            match commands.and_then(|commands| self.run(&commands, monitor)) {
                Ok(()) => drop(left.remove(&one)),
                Err(why) => {
                    let place = if follow::is_for_boot(one) { "boot" } else { "etc" };
                    let why = format!("{}: {why}; the next sync tries it again", one.words());
                    failed.push((journal::path(place), why));
                }
            }
        }
        if let Err(error) = follow::write(&self.inside, &left) {
            failed.push((RelPath::root(), error.to_string()));
        }
        failed
    }

    /// Runs all of them, or fails with what the first failure says.
    fn run(&self, commands: &[Command], monitor: &dyn Monitor) -> Result<(), String> {
        if self.live {
            return commands.iter().try_for_each(|command| {
                follow::run_live(command, monitor).map_err(|why| format!("{}: {why}", command.argv.join(" ")))
            });
        }
        let ran = chroot::run_all(&self.inside, commands, &self.target(), monitor);
        let wrong = ran.findings.iter().find(|finding| finding.weight > Weight::Note);
        match (wrong, ran.pending.first()) {
            (Some(finding), _) => Err(finding.message.clone()),
            (None, Some(argv)) => Err(format!("{} was not run", argv.join(" "))),
            (None, None) => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        let root = self.inside.root();
        root.canonical_path().map_or_else(|_| root.path().to_owned(), |path| OsString::from_vec(path).into())
    }

    /// What the root lies on, as far as that can be told: the tools find their devices by it.
    fn target(&self) -> Target {
        Target::detect(&self.path(), &[]).unwrap_or_else(|_| Target {
            architecture: rustix::system::uname().machine().to_string_lossy().into_owned(),
            ..Target::default()
        })
    }

    /// Removes the initramfs of every kernel whose image is gone, and writes down that the boot loader has to know.
    pub(crate) fn forget_kernels(&self) -> io::Result<()> {
        let boot = journal::path("boot");
        let names = self.inside.list(&boot)?;
        let directory = self.inside.hold(&boot)?;
        let mut gone = false;
        for name in &names {
            let Some(kernel) = follow::kernel_of(&boot.join(name)) else { continue };
            let image = format!("vmlinuz-{kernel}");
            if follow::is_initramfs(name) && !names.iter().any(|name| *name == image.as_bytes()) {
                rustix::fs::unlinkat(&directory, &name[..], rustix::fs::AtFlags::empty())?;
                gone = true;
            }
        }
        if gone {
            self.intend(BTreeSet::from([FollowUp::BootConfiguration]))?;
        }
        Ok(())
    }

    /// The names that it goes by, and production's.
    fn names(&self) -> Names {
        let read = |path| self.inside.read(&journal::path(path)).ok().flatten().unwrap_or_default();
        let name = |path| String::from_utf8_lossy(&read(path)).trim().to_owned();
        let (linux, solaris) = (name("etc/hostname"), name("etc/nodename"));
        let prepared = self.journal.as_ref().map_or("", |journal| &journal.hostname);
        let source = self.journal.as_ref().map_or("", |journal| &journal.source_hostname);
        let names = Names::new(&[&linux, &solaris, prepared], &[source]);
        let etc = journal::path("etc");
        self.inside.list(&etc).unwrap_or_default().iter().fold(names, |names, file| {
            let text = String::from_utf8_lossy(file);
            let interface = text.strip_prefix("hostname.").or_else(|| text.strip_prefix("hostname6."));
            let Some(interface) = interface else { return names };
            let content = self.inside.read(&etc.join(file)).ok().flatten().unwrap_or_default();
            names.with_interface(interface, &content)
        })
    }

    /// Makes the file at `path` from `production`'s.
    ///
    /// # Errors
    /// In words; the standby then keeps what it has.
    pub(crate) fn make(
        &self,
        kind: Substitution,
        path: &RelPath,
        production: &[u8],
    ) -> Result<Vec<u8>, String> {
        let own = self.inside.read(path).map_err(|error| error.to_string())?;
        let own = match own {
            Some(own) => own,
            None if may_be_new(kind) => Vec::new(),
            None => {
                return Err(
                    "the standby has no such file, so nothing in it is known to be its own".to_owned()
                );
            }
        };
        substitute(kind, production, &own, &self.names())
    }

    /// Remembers what was made of which file, so that the next comparison takes it for production's.
    pub(crate) fn made(
        &self,
        path: &RelPath,
        mtime: Timestamp,
        production: (u64, [u8; 32]),
        made: (u64, [u8; 32]),
    ) {
        let record = Substituted {
            made_bytes: made.0,
            made_digest: made.1,
            mtime,
            production_bytes: production.0,
            production_digest: production.1,
        };
        if let Ok(mut substituted) = self.substituted.lock() {
            substituted.insert(path.to_string(), record);
        }
    }

    /// What a scan is to take the files for that were made here.
    pub(crate) fn presented(&self) -> BTreeMap<RelPath, Presented> {
        let Ok(substituted) = self.substituted.lock() else { return BTreeMap::new() };
        let presented = substituted.iter().filter_map(|(path, record)| {
            let path = RelPath::from_absolute(&unescape(path)?).ok()?;
            Some((
                path,
                Presented {
                    found_bytes: record.made_bytes,
                    found_digest: record.made_digest,
                    mtime: record.mtime,
                    as_bytes: record.production_bytes,
                    as_digest: record.production_digest,
                },
            ))
        });
        presented.collect()
    }

    /// Writes down what was made, durably.
    pub(crate) fn store(&self) -> io::Result<()> {
        let Ok(substituted) = self.substituted.lock() else { return Ok(()) };
        let before = journal::read_state(self.inside.root(), SUBSTITUTED)?;
        let now = serde_json::to_vec_pretty(&*substituted)?;
        if substituted.is_empty() && before.is_none() || before.as_ref() == Some(&now) {
            return Ok(());
        }
        journal::write_state(&self.inside, SUBSTITUTED, &now)
    }
}
