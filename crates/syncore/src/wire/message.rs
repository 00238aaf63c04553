//! What the two ends say to each other.
//!
//! Why: one vocabulary for push, pull and local runs; `doc/protocol.md` tells the conversation. What can go wrong:
//! everything here may come from a hostile peer. Decoding allocates no more than the frame that carries it, and
//! [`Message::check`] turns away what the types cannot: impossible paths, counts and sizes.

use serde::{Deserialize, Serialize};

use super::WireError;
use crate::delta::{BlockSums, Region, RegionSums};
use crate::gate::Host;
use crate::plan::{Line, Listed, PlanId};
use crate::problem::Problem;
use crate::profile::{Limits, Whole};
use crate::rules::Rule;
use crate::scan::{Boundaries, Mount, Slice};
use crate::tree::{Digest, Kind, NameKey, RelPath, Timestamp, check_name};

/// Which part the agent plays in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// It reads its tree and makes the plan.
    Sender,
    /// It describes its tree and carries out the plan.
    Receiver,
}

/// Where and how the agent is to work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The agent's part.
    pub part: Part,
    /// The root directory there.
    #[serde(with = "serde_bytes")]
    pub root: Vec<u8>,
    /// The plan will not be carried out.
    pub dry_run: bool,
}

/// What an end knows of its root before anything is scanned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The root's absolute path without links.
    #[serde(with = "serde_bytes")]
    pub root: Vec<u8>,
    /// Identifies the running kernel (`/proc/sys/kernel/random/boot_id`), so that two ends see that they are one
    /// host.
    #[serde(with = "serde_bytes")]
    pub boot_id: Vec<u8>,
    /// Filesystems mounted below the root.
    pub mounts: Vec<Mount>,
    /// Rules of that end itself: the standby's own protections.
    pub rules: Vec<Rule>,
    /// Whether the root directory has no entry at all.
    pub empty: bool,
    /// Whether it was prepared, or at the receiving end is the running root: it has an identity of its own. What is synced with a substitution or a consequence
    /// ([`Class::B`](crate::rules::Class::B), [`Class::C`](crate::rules::Class::C)) may only come to such a root.
    pub standby: bool,
    /// Of a receiving end: the interrupted run that was completed when the root was opened.
    pub recovered: Option<Recovery>,
}

/// An interrupted run that was completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The profile whose run it was.
    pub profile: String,
    /// The state that the root is in.
    pub generation: u64,
    /// How many paths are not as that run would have them.
    pub problems: u64,
}

/// What both ends scan under; decided by the initiator from its own and the peer's [`Facts`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// All rules of the run.
    pub rules: Vec<Rule>,
    /// All boundaries of the run.
    pub boundaries: Boundaries,
    /// Whether content is compared.
    pub checksum: bool,
    /// Of which files; none: of all.
    pub slice: Option<Slice>,
    /// Whether deletions are planned.
    pub delete: bool,
    /// Whether the receiver flushes before it reports success.
    pub durable: bool,
    /// Whether changed blocks are written into the existing file.
    pub in_place: bool,
    /// Whether everything is changed or nothing, and then what is kept.
    pub whole: Option<Whole>,
    /// How much the plan may take away; none for no limit.
    pub limits: Option<Limits>,
    /// The id of the one plan that is carried out whatever it takes away.
    pub approved: Option<String>,
    /// Whether the receiver offers signatures of what it has, instead of taking files whole.
    pub delta: bool,
    /// The key of this run's name hashes.
    pub names: NameKey,
}

/// What the sender asks of one directory on the standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Its lines, or its buckets when it is large.
    Lines(RelPath),
    /// The lines in these buckets of `2^bits`.
    Buckets(RelPath, u8, Vec<u32>),
    /// The entries with these name hashes; with none given, all.
    Entries(RelPath, Vec<[u8; 8]>),
    /// Everything at and below the path, for its deletion.
    Tree(RelPath),
}

/// Something that only the standby has, at or below a directory that is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// Where it is.
    pub path: RelPath,
    /// What it is.
    pub kind: Kind,
    /// Whether it may go; false for what must stay.
    pub may_go: bool,
    /// Length and modification time of a file with no other name: its content may be wanted elsewhere.
    pub content: Option<(u64, Timestamp)>,
}

/// A part of the answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Sorted lines.
    Lines(Vec<Line>),
    /// One digest a bucket.
    Buckets(u8, Vec<[u8; 8]>),
    /// Entries in full.
    Entries(Vec<Listed>),
    /// What is there, in path order.
    Tree(Vec<Extra>),
    /// The directory is not there, not a directory, or cannot be read.
    Gone,
}

/// The content of one small file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallFile {
    /// The item of the plan.
    pub item: u32,
    /// When it was last modified as of reading.
    pub mtime: Timestamp,
    /// BLAKE3 of `content`, truncated to 128 bits.
    pub hash: Digest,
    /// All of it.
    #[serde(with = "serde_bytes")]
    pub content: Vec<u8>,
}

/// A file that the standby most likely has under the name that the plan gives for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedFile {
    /// The item of the plan.
    pub item: u32,
    /// Its length as of reading.
    pub size_bytes: u64,
    /// When it was last modified as of reading.
    pub mtime: Timestamp,
    /// The digest of its content ([`digest_open`](crate::scan::digest_open)).
    pub digest: [u8; 32],
}

/// A message of either direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Initiator to agent: the first message.
    Open(Open),
    /// Agent to initiator: the answer to [`Message::Open`].
    Opened(Facts),
    /// Initiator to agent: scan now.
    Start(Start),
    /// Either: the run cannot go on; in words for a person, and the exit code's kind.
    Failed(Failure, String),
    /// Receiver to sender: the standby is scanned.
    Scanned {
        /// Digest of the whole tree.
        digest: Digest,
        /// Names that take part.
        entries: u64,
        /// Names that are protected.
        protected: u64,
    },
    /// Sender to receiver.
    Ask(Vec<Question>),
    /// Receiver to sender; true when more of the same answer follows.
    Answer(Answer, bool),
    /// Sender to receiver: encoded items.
    PlanPart(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Sender to receiver: the plan is complete, and what the sender scanned.
    PlanEnd {
        /// Its id, to be checked.
        id: PlanId,
        /// Names that took part at the source.
        entries: u64,
        /// Their digest ([`Snapshot::tree`](crate::scan::Snapshot::tree)).
        tree: Digest,
    },
    /// Receiver to sender, and in a push run the sender's own decision before it and after [`Message::Staged`]: carry it
    /// out, or do not.
    Decision(bool),
    /// Sender to receiver: small files.
    Files(Vec<SmallFile>),
    /// Sender to receiver: files that are there under another name.
    Moved(Vec<MovedFile>),
    /// Sender to receiver: a larger file begins on this lane, as it was when opened.
    Begin {
        /// The item of the plan.
        item: u32,
        /// Its length then.
        size_bytes: u64,
        /// Its modification time then.
        mtime: Timestamp,
    },
    /// Literal bytes of the file: one piece of its digest.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A hole of that many bytes.
    Hole(u64),
    /// Bytes of the basis: offset, length.
    Copy(u64, u64),
    /// A `fast_rsync` delta against a region of the basis: offset, length, bytes it makes, delta.
    Patch(u64, u32, u32, #[serde(with = "serde_bytes")] Vec<u8>),
    /// The file is complete; its [`ContentHasher`](crate::delta::ContentHasher) digest.
    End([u8; 32]),
    /// The item's content cannot be had; what it replaces stays.
    Abandon(u32),
    /// Receiver to sender: block sums of an item's basis; true when more follow. An empty basis asks for the whole
    /// file, also a second time when what was built did not come out right.
    Basis(u32, BlockSums, bool),
    /// Sender to receiver: fine sums of these regions of the basis, please (on the file's lane).
    Refine(u32, Vec<Region>),
    /// Receiver to sender: one answer to [`Message::Refine`], in order; true when more follow.
    Refined(Vec<RegionSums>, bool),
    /// Receiver to sender: no item waits for content any more.
    Settled,
    /// Sender to receiver: this lane has no more content.
    LaneEnd,
    /// Either: problems on that end.
    Problems(Vec<Problem>),
    /// Receiver to sender: everything is done.
    Finished {
        /// Bytes of content that came as themselves.
        literal_bytes: u64,
        /// Bytes of content found on the standby.
        copied_bytes: u64,
        /// The state that the run led to; none when it changed nothing, or path by path.
        generation: Option<u64>,
    },
    /// Still here.
    Alive,
    /// Initiator to agent, in place of [`Message::Start`]: what gates want to know of you, please.
    Examine,
    /// Agent to initiator: the answer to [`Message::Examine`].
    Examined(Box<Host>),
    /// Receiver to an initiator that sends, in a run that changes all or nothing: all of it is staged and on stable
    /// storage, and a [`Message::Decision`] is awaited before the first change.
    Staged,
    /// Receiver to an initiator that sends: somebody changed these paths on the standby since the state of that number,
    /// and the plan replaces them.
    ChangedHere(u64, Vec<RelPath>),
    /// Receiver to sender, before its [`Message::Decision`]: of these items it may have the content, from a run that was
    /// interrupted. Each is answered like one that moved.
    Left(Vec<u32>),
    /// Receiver to an initiator that sends, in a dry run: the run would be refused, for this reason.
    WouldRefuse(String),
}

/// What kind of failure a peer reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Nothing was changed; a human has to decide.
    Refused,
    /// Another run holds the root.
    Busy,
    /// The root cannot be opened.
    Root,
    /// Anything else.
    Failed,
    /// The root was rolled back, to the state in the words, and no run may change it.
    Suspended,
}

impl Message {
    /// Turns away what no honest peer sends.
    ///
    /// # Errors
    /// [`WireError::Protocol`] naming what is wrong.
    pub fn check(&self) -> Result<(), WireError> {
        let path = |path: &RelPath| path.check().map_err(|e| WireError::Protocol(e.to_string()));
        match self {
            Self::Ask(questions) => questions.iter().try_for_each(|question| match question {
                Question::Buckets(_, bits, _) if *bits > 24 => {
                    Err(WireError::Protocol("too many buckets".to_owned()))
                }
                Question::Lines(p)
                | Question::Buckets(p, ..)
                | Question::Entries(p, _)
                | Question::Tree(p) => path(p),
            }),
            Self::Answer(Answer::Buckets(bits, _), _) if *bits > 24 => {
                Err(WireError::Protocol("too many buckets".to_owned()))
            }
            Self::Answer(Answer::Tree(found), _) => found.iter().try_for_each(|one| path(&one.path)),
            Self::Answer(Answer::Entries(listed), _) => listed.iter().try_for_each(|one| {
                if one.name.is_empty() {
                    return Ok(());
                }
                check_name(&one.name).map_err(|e| WireError::Protocol(e.to_string()))
            }),
            Self::Opened(facts) => facts.mounts.iter().try_for_each(|mount| path(&mount.path)),
            Self::Start(start) => {
                let slice = start.slice.iter().flat_map(|slice| slice.after.iter().chain(&slice.until));
                start.boundaries.barriers.iter().chain(&start.boundaries.also).chain(slice).try_for_each(path)
            }
            Self::Examined(host) => host.filesystems.iter().try_for_each(|one| path(&one.path)),
            Self::Problems(problems) => problems.iter().try_for_each(|problem| path(&problem.path)),
            Self::ChangedHere(_, paths) => paths.iter().try_for_each(path),
            Self::Basis(_, sums, _) => sums.check().map_err(|e| WireError::Protocol(e.to_string())),
            _ => Ok(()),
        }
    }
}
