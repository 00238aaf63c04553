//! What a run is asked to do, what it did, and why it did not.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::plan::{Plan, PlanId, Totals};
use crate::problem::Problem;
use crate::profile::{Limits, Whole};
use crate::rules::Rule;
use crate::scan::Measured;
use crate::tree::{Digest, RelPath};
use crate::wire::{Compression, Remote, TransportError, WireError};

/// One end of a run.
#[derive(Debug, Clone)]
pub enum Location {
    /// A directory on this host.
    Local(PathBuf),
    /// A directory on another host, reached through a transport.
    Remote(Box<Remote>, PathBuf),
}

/// How to run; the default is what `clonetool clone` does without options.
#[derive(Debug, Clone)]
pub struct Options {
    /// Delete what is in scope on the standby and not on the source.
    pub delete: bool,
    /// Make the plan and stop.
    pub dry_run: bool,
    /// Compare content, not only size and modification time.
    pub checksum: bool,
    /// Of which files content is compared; none: of all.
    pub portion: Option<Portion>,
    /// Stay on the filesystem (and btrfs subvolume) of each root.
    pub one_file_system: bool,
    /// Filesystems below the root that are crossed into although `one_file_system` is set.
    pub also: Vec<RelPath>,
    /// Refuse to run while a local filesystem of the source is in scope but not listed in `also`, or a listed one is
    /// not mounted on both ends.
    pub refuse_unlisted_filesystems: bool,
    /// Flush to stable storage before success is reported.
    pub durable: bool,
    /// Change everything or nothing, and keep what that replaces; none to change each path as it arrives.
    pub whole: Option<Whole>,
    /// Write changed blocks into the existing file instead of building a new one.
    pub in_place: bool,
    /// Refuse a plan that takes away more than this; none for no limit.
    pub limits: Option<Limits>,
    /// The id of the one plan that is carried out whatever it takes away, as it is shown; any other is refused then.
    pub approved: Option<String>,
    /// How to compress what is sent.
    pub compression: Compression,
    /// Upper bound of what is sent, in bytes a second.
    pub bandwidth_limit: Option<u64>,
    /// How long the peer may make no progress.
    pub timeout: Duration,
    /// The directory of what makes the next scan of the same tree cheaper; none to keep nothing.
    pub scans: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            delete: false,
            dry_run: false,
            checksum: false,
            portion: None,
            one_file_system: false,
            also: Vec::new(),
            refuse_unlisted_filesystems: false,
            durable: true,
            whole: None,
            limits: None,
            approved: None,
            in_place: false,
            compression: Compression::Auto,
            bandwidth_limit: None,
            timeout: Duration::from_secs(120),
            scans: None,
        }
    }
}

/// A part of the files: as much as is read at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Portion {
    /// Those behind this path; none: from the beginning.
    pub after: Option<RelPath>,
    /// So much of them, but at least one.
    pub budget_bytes: u64,
}

/// What to run: from where to where, under which rules.
#[derive(Debug, Clone)]
pub struct Job {
    /// The tree that is read.
    pub source: Location,
    /// The tree that is changed.
    pub destination: Location,
    /// Include, exclude, protect and class rules. None at all means: everything.
    pub rules: Vec<Rule>,
    /// How to run.
    pub options: Options,
}

/// What a run did, as far as it got.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The plan's id; none when the plan was empty.
    pub plan: Option<PlanId>,
    /// What was planned and, unless it was a dry run or there are problems, done.
    pub totals: Totals,
    /// Entries scanned on both ends together.
    pub entries_scanned: u64,
    /// Entries on the standby that the rules protected, a protected directory counted once.
    pub protected: u64,
    /// File content that crossed the wire as itself, before compression.
    pub literal_bytes: u64,
    /// File content that was found on the standby.
    pub copied_bytes: u64,
    /// What crossed the wire from this host.
    pub wire_sent_bytes: u64,
    /// What crossed the wire to this host.
    pub wire_received_bytes: u64,
    /// What could not be done to single paths, on either end.
    pub problems: Vec<Problem>,
    /// Of which files content was compared; none: of all, or of none.
    pub portion: Option<Measured>,
    /// Whether the destination is a standby: a root that has an identity of its own.
    pub standby: bool,
    /// The state that the run led to; none when it changed nothing, or path by path.
    pub generation: Option<u64>,
    /// The digest of everything in scope on the source as it was scanned
    /// ([`Snapshot::tree`](crate::scan::Snapshot::tree)); none when the run ended before it was known.
    pub tree: Option<Digest>,
}

impl Report {
    /// Adds what another run did, which was part of the same undertaking.
    pub fn add(&mut self, other: Self) {
        let Self { plan, totals, entries_scanned, protected, literal_bytes, copied_bytes, .. } = other;
        self.plan = self.plan.or(plan);
        self.totals.add(&totals);
        self.entries_scanned += entries_scanned;
        self.protected += protected;
        self.literal_bytes += literal_bytes;
        self.copied_bytes += copied_bytes;
        self.wire_sent_bytes += other.wire_sent_bytes;
        self.wire_received_bytes += other.wire_received_bytes;
        self.problems.extend(other.problems);
    }
}

/// The answer to a finished plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Approval {
    /// Carry it out.
    Run,
    /// Change nothing; the reason is for a person.
    Refuse(String),
}

/// Who started a run, and may still say no. A no changes nothing.
pub trait Initiator {
    /// Sees the finished plan, also of a dry run, before anything is changed.
    fn approve(&mut self, plan: &Plan) -> Approval;

    /// Is asked immediately before the first change, if there is one: for what may have turned meanwhile. That is when
    /// the plan is approved, or, in a run that changes all or nothing, when all of it is staged.
    fn before_commit(&mut self) -> Approval {
        Approval::Run
    }
}

/// Why a run ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// SOURCE and DESTINATION are both on other hosts.
    #[error("source and destination are both remote")]
    BothRemote,
    /// A root that cannot be opened.
    #[error("cannot open {role} {path}: {reason}")]
    Root {
        /// `source` or `destination`.
        role: &'static str,
        /// Which path.
        path: String,
        /// Why.
        reason: String,
    },
    /// The walk of the source would reach the destination.
    #[error("the walk of {source_root} would reach the destination {destination_root}")]
    DestinationInsideSource {
        /// The source root.
        source_root: String,
        /// The destination root.
        destination_root: String,
    },
    /// A human has to decide: nothing was changed.
    #[error("refused: {0}")]
    Refused(String),
    /// The standby was rolled back, and nobody has said yet that runs may change it: nothing was changed.
    #[error(
        "refused: the standby was rolled back (it is in state {state}), and a run would undo that; \
         `clonetool schedule resume` on the standby lets runs change it again"
    )]
    Suspended {
        /// The state that it is in.
        state: u64,
    },
    /// Another run holds a root.
    #[error("another run holds {0}")]
    Busy(String),
    /// The source cannot be read as it was at one moment.
    #[error(transparent)]
    Freeze(#[from] crate::frozen::FreezeError),
    /// The rules do not compile.
    #[error(transparent)]
    Rules(#[from] crate::rules::RuleError),
    /// The peer could not be reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The connection broke, or the peer spoke nonsense.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The peer gave up, and says why.
    #[error("the peer gave up: {0}")]
    Peer(String),
    /// An operation on which the whole run depends failed.
    #[error("cannot {operation}: {reason}")]
    Fatal {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// The monitor asked to stop.
    #[error("interrupted; nothing is half-written, run the same command again to continue")]
    Cancelled,
}

/// What an agent permits, whatever the initiator asks for.
#[derive(Debug, Clone, Default)]
pub struct AgentLimits {
    /// Everything outside this directory is refused.
    pub root: Option<PathBuf>,
    /// Every change is refused: the agent only reads.
    pub read_only: bool,
    /// Where it may keep what makes the next scan of the same tree cheaper ([`Options::scans`]).
    pub scans: Option<PathBuf>,
}
