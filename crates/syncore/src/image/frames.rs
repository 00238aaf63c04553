//! The frames in which an image crosses to another host, and what is said beside it.
//!
//! Why frames: the image itself crosses as it is, and what goes wrong over there can still be said. What can go wrong:
//! the peer is hostile; every length is bounded before anything is allocated, and a frame out of place is an error.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ImageError;
use super::file::Partial;
use crate::monitor::Monitor;
use crate::problem::Problem;
use crate::rules::Rule;
use crate::session::SessionError;
use crate::wire::WireError;

/// What each end says first.
pub(super) const PREAMBLE: &[u8; 16] = b"\x7fclonetool-image";

/// What an agent says first that knows no images.
const OTHER_PREAMBLE: &[u8] = b"\x7fclonetool-wire";

/// The version of this conversation; both ends must speak the same.
const VERSION: u16 = 1;

/// Largest frame.
pub(super) const FRAME_LIMIT_BYTES: usize = 1 << 20;

/// How many problems are accepted from a peer.
pub(super) const PROBLEMS_LIMIT: usize = 1_000_000;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// What the initiator wants.
    Request = 1,
    /// The agent is ready, or the initiator wants it to begin.
    Ready = 2,
    /// A piece of the image.
    Data = 3,
    /// The image is whole.
    End = 4,
    /// The agent is busy.
    Alive = 5,
    /// A problem of one path.
    Problem = 6,
    /// It is done.
    Done = 7,
    /// It failed.
    Failed = 8,
}

/// What the initiator wants.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Create {
        #[serde(with = "serde_bytes")]
        root: Vec<u8>,
        rules: Vec<Rule>,
        one_file_system: bool,
        level: i32,
    },
    Restore {
        #[serde(with = "serde_bytes")]
        root: Vec<u8>,
        durable: bool,
    },
}

/// What the agent did.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) digest: [u8; 32],
    pub(super) sockets: u64,
}

/// Why the agent failed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    Refused(String),
    Busy(String),
    Root { destination: bool, path: String, reason: String },
    Incomplete(String),
    Other(String),
}

impl From<&ImageError> for Failure {
    fn from(error: &ImageError) -> Self {
        match error {
            ImageError::Session(SessionError::Refused(reason)) => Self::Refused(reason.clone()),
            ImageError::Session(SessionError::Busy(what)) => Self::Busy(what.clone()),
            ImageError::Session(SessionError::Root { role, path, reason }) => {
                Self::Root { destination: *role == "destination", path: path.clone(), reason: reason.clone() }
            }
            ImageError::NotEmpty { .. } => Self::Refused(error.to_string()),
            ImageError::Incomplete { reason } => Self::Incomplete(reason.clone()),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Failure> for ImageError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(reason) => SessionError::Refused(reason).into(),
            Failure::Busy(what) => SessionError::Busy(what).into(),
            Failure::Root { destination, path, reason } => {
                let role = if destination { "destination" } else { "source" };
                SessionError::Root { role, path, reason }.into()
            }
            Failure::Incomplete(reason) => Self::Incomplete { reason },
            Failure::Other(text) => SessionError::Peer(text).into(),
        }
    }
}

pub(super) fn protocol(what: &str) -> ImageError {
    SessionError::Wire(WireError::Protocol(what.to_owned())).into()
}

pub(super) fn lost(error: &io::Error) -> ImageError {
    SessionError::Wire(WireError::Lost(super::truncated(error))).into()
}

/// Writes frames.
pub(super) struct Sender<W: Write>(pub(super) W);

impl<W: Write> Sender<W> {
    pub(super) fn frame(&mut self, tag: Tag, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.0.write_all(&[tag as u8])?;
        self.0.write_all(&length.to_le_bytes())?;
        self.0.write_all(bytes)
    }

    pub(super) fn value(&mut self, tag: Tag, value: &impl Serialize) -> io::Result<()> {
        let bytes = postcard::to_allocvec(value).map_err(io::Error::other)?;
        if bytes.len() > FRAME_LIMIT_BYTES {
            return Err(io::Error::other("a message beyond the limit of a frame"));
        }
        self.frame(tag, &bytes)?;
        self.0.flush()
    }

    pub(super) fn greet(&mut self) -> io::Result<()> {
        self.0.write_all(PREAMBLE)?;
        self.0.write_all(&VERSION.to_le_bytes())?;
        self.0.flush()
    }
}

/// Reads frames.
pub(super) struct Receiver<R: Read> {
    pub(super) input: R,
    /// Counts the frames, for who watches whether there are any.
    pub(super) frames: Arc<AtomicU64>,
}

impl<R: Read> Receiver<R> {
    /// Reads what the peer says first; `preamble` of it may have been read already.
    pub(super) fn greeting(&mut self, preamble: bool) -> Result<(), ImageError> {
        let lost = |error: io::Error| lost(&error);
        if preamble {
            let mut heard = [0; PREAMBLE.len()];
            let mut length = 0;
            while length < heard.len() {
                match self.input.read(&mut heard[length..]) {
                    Ok(0) if length == 0 => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
                    Ok(0) => break,
                    Ok(read) => length += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(lost(error)),
                }
            }
            let error = match &heard {
                PREAMBLE => None,
                other if other.starts_with(OTHER_PREAMBLE) => Some(WireError::Version {
                    ours: format!("{} with images", env!("CARGO_PKG_VERSION")),
                    theirs: "one without".to_owned(),
                }),
                _ => Some(WireError::NoAgent { heard: crate::tree::escape(&heard[..length]) }),
            };
            if let Some(error) = error {
                return Err(SessionError::Wire(error).into());
            }
        }
        let mut version = [0; 2];
        self.input.read_exact(&mut version).map_err(lost)?;
        match u16::from_le_bytes(version) {
            VERSION => Ok(()),
            theirs => Err(SessionError::Wire(WireError::Version {
                ours: format!("{} (images {VERSION})", env!("CARGO_PKG_VERSION")),
                theirs: format!("images {theirs}"),
            })
            .into()),
        }
    }

    /// The next frame that says something; what the peer says of its own failure is an error.
    pub(super) fn next(&mut self, bytes: &mut Vec<u8>) -> Result<Tag, ImageError> {
        loop {
            let mut head = [0; 5];
            self.input.read_exact(&mut head).map_err(|error| lost(&error))?;
            let [tag, length @ ..] = head;
            let length = u32::from_le_bytes(length) as usize;
            if length > FRAME_LIMIT_BYTES {
                return Err(protocol("a frame beyond the limit"));
            }
            bytes.resize(length, 0);
            self.input.read_exact(bytes).map_err(|error| lost(&error))?;
            self.frames.fetch_add(1, Ordering::Relaxed);
            let tags = [
                Tag::Request,
                Tag::Ready,
                Tag::Data,
                Tag::End,
                Tag::Alive,
                Tag::Problem,
                Tag::Done,
                Tag::Failed,
            ];
            match tags.into_iter().find(|known| *known as u8 == tag) {
                Some(Tag::Alive) => {}
                Some(Tag::Failed) => return Err(decode::<Failure>(bytes)?.into()),
                Some(tag) => return Ok(tag),
                None => return Err(protocol("an unknown frame")),
            }
        }
    }

    /// Reads what comes after the image: problems, and that it is done.
    pub(super) fn reply(&mut self, monitor: &dyn Monitor) -> Result<(Reply, Vec<Problem>), ImageError> {
        let (mut bytes, mut problems) = (Vec::new(), Vec::new());
        loop {
            match self.next(&mut bytes)? {
                Tag::Problem if problems.len() < PROBLEMS_LIMIT => {
                    let problem: Problem = decode(&bytes)?;
                    problem.path.check().map_err(|_| protocol("a problem of an impossible path"))?;
                    monitor.problem(&problem);
                    problems.push(problem);
                }
                Tag::Done => return Ok((decode(&bytes)?, problems)),
                _ => return Err(protocol("a frame out of place")),
            }
        }
    }
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ImageError> {
    postcard::from_bytes(bytes).map_err(|_| protocol("a message that cannot be decoded"))
}

/// The image that comes in frames, as something to read; what it gives may be kept as well.
pub(super) struct Arriving<'a, R: Read> {
    frames: &'a mut Receiver<R>,
    keep: Option<&'a mut Partial>,
    piece: Vec<u8>,
    at: usize,
    pub(super) ended: bool,
    /// Why reading ended with an error.
    pub(super) failed: Option<ImageError>,
}

impl<'a, R: Read> Arriving<'a, R> {
    pub(super) fn new(frames: &'a mut Receiver<R>, keep: Option<&'a mut Partial>) -> Self {
        Self { frames, keep, piece: Vec::new(), at: 0, ended: false, failed: None }
    }

    fn fill(&mut self) -> Result<(), ImageError> {
        self.at = 0;
        match self.frames.next(&mut self.piece) {
            Ok(Tag::Data) => {}
            Ok(Tag::End) => {
                self.piece.clear();
                self.ended = true;
            }
            Ok(_) => return Err(protocol("a frame out of place")),
            Err(error) => {
                self.piece.clear();
                return Err(error);
            }
        }
        if let Some(file) = &mut self.keep {
            file.keep(&self.piece)?;
        }
        Ok(())
    }
}

impl<R: Read> Read for Arriving<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.ended {
            if let Err(error) = self.fill() {
                let text = error.to_string();
                self.failed.get_or_insert(error);
                return Err(io::Error::other(text));
            }
        }
        let taken = buffer.len().min(self.piece.len() - self.at);
        buffer[..taken].copy_from_slice(&self.piece[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}
