//! Images from and to another host.
//!
//! Why: the other end is the same agent that serves a run, with the same limits (`--root`, `--read-only`) and the same
//! constant command; by its first words it knows which of the two is wanted. The image itself crosses as it is, in
//! frames, so that what goes wrong over there can still be said. What can go wrong: the connection is lost, or the
//! peer is hostile. What comes is checked as any image is, before it gets its name.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::create::{Tree, to_stream};
use super::file::{Input, Partial};
use super::frames::{
    Arriving, FRAME_LIMIT_BYTES, Failure, PREAMBLE, Receiver, Reply, Request, Sender, Tag, decode, lost,
    protocol,
};
use super::read::{Nothing, read};
use super::{Contents, CreateOptions, Done, ImageError, restore};
use crate::monitor::{Monitor, Phase};
use crate::problem::Problem;
use crate::scan::Root;
use crate::session::{AgentLimits, SessionError, check_confined, confine};
use crate::wire::{ByteStream, Remote, WireError, connect};

/// How much of an image is sent at once.
const PIECE_BYTES: usize = 256 * 1024;

/// How often an agent that is busy says that it is there.
const ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How often it is looked whether to stop.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Makes an image of a tree on another host in a file on this one.
pub(super) fn create_to_file(
    remote: &Remote,
    root: &Path,
    path: &Path,
    options: &CreateOptions,
    monitor: &dyn Monitor,
) -> Result<Done, ImageError> {
    let mut file = Partial::create(path, options.replace)?;
    let request = Request::Create {
        root: root.as_os_str().as_bytes().to_vec(),
        rules: options.rules.clone(),
        one_file_system: options.one_file_system,
        level: options.level,
    };
    let mut done = converse(remote, &request, options.timeout, monitor, |frames, _| {
        monitor.phase(Phase::Scan);
        let mut image = Arriving::new(frames, Some(&mut file));
        let contents = read(&mut image, &mut Nothing, monitor);
        let contents = contents.map_err(|error| image.failed.take().unwrap_or(error))?;
        let (reply, problems) = frames.reply(monitor)?;
        done(contents, &reply, problems)
    })?;
    monitor.phase(Phase::Finish);
    done.file_bytes = file.finish(options.durable)?;
    Ok(done)
}

/// Restores an image on this host to a directory on another one.
pub(super) fn restore_from_file(
    remote: &Remote,
    image: &mut Input,
    root: &Path,
    durable: bool,
    timeout: Duration,
    monitor: &dyn Monitor,
) -> Result<Done, ImageError> {
    let request = Request::Restore { root: root.as_os_str().as_bytes().to_vec(), durable };
    converse(remote, &request, timeout, monitor, |frames, sender| {
        // Reached, and fit to be restored to; only now is it worth the time to check the image.
        let mut bytes = Vec::new();
        if frames.next(&mut bytes)? != Tag::Ready {
            return Err(protocol("a frame out of place"));
        }
        let contents = restore::check(image, monitor)?;
        monitor.planned(contents.entries, image.length_bytes());
        monitor.phase(Phase::Transfer);
        let sent = send_image(image, sender, &frames.frames, monitor);
        match sent {
            Ok(()) => {}
            Err(ImageError::Session(SessionError::Wire(WireError::Lost(reason)))) => {
                // It may have said why before it went.
                frames.reply(monitor)?;
                return Err(SessionError::Wire(WireError::Lost(reason)).into());
            }
            Err(error) => return Err(error),
        }
        monitor.phase(Phase::Finish);
        let (reply, problems) = frames.reply(monitor)?;
        let mut done = done(contents, &reply, problems)?;
        done.file_bytes = image.position();
        Ok(done)
    })
}

fn send_image(
    image: &mut Input,
    sender: &mut Sender<Box<dyn Write + Send>>,
    frames: &AtomicU64,
    monitor: &dyn Monitor,
) -> Result<(), ImageError> {
    let lost = |error: io::Error| lost(&error);
    sender.frame(Tag::Ready, b"").map_err(lost)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        super::unless_cancelled(monitor)?;
        let read = image.read(&mut piece).map_err(|error| ImageError::File {
            action: "read",
            path: image.name.clone(),
            reason: error.to_string(),
        })?;
        if read == 0 {
            break;
        }
        sender.frame(Tag::Data, &piece[..read]).map_err(lost)?;
        frames.fetch_add(1, Ordering::Relaxed);
        monitor.transferred(read as u64);
    }
    sender.frame(Tag::End, b"").and_then(|()| sender.0.flush()).map_err(lost)
}

fn done(contents: Contents, reply: &Reply, problems: Vec<Problem>) -> Result<Done, ImageError> {
    if reply.digest != contents.digest {
        return Err(ImageError::Incomplete { reason: "the other end has another image".to_owned() });
    }
    Ok(Done { contents, file_bytes: 0, sockets: reply.sockets, problems })
}

/// Connects, asks, and does the rest; ends it when the monitor wants that or the peer makes no progress.
fn converse<T>(
    remote: &Remote,
    request: &Request,
    timeout: Duration,
    monitor: &dyn Monitor,
    work: impl FnOnce(
        &mut Receiver<Box<dyn Read + Send>>,
        &mut Sender<Box<dyn Write + Send>>,
    ) -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    monitor.phase(Phase::Connect);
    let ByteStream { reader, writer, finish, abort } = connect(remote).map_err(SessionError::from)?;
    let mut sender = Sender(writer);
    let mut frames = Receiver { input: reader, frames: Arc::default() };
    let (timed_out, counted) = (AtomicBool::new(false), Arc::clone(&frames.frames));
    let result = std::thread::scope(|scope| {
        let (stop, stopped) = sync_channel::<()>(0);
        let timed_out = &timed_out;
        scope.spawn(move || {
            let (mut last, mut since) = (0, Instant::now());
            while stopped.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = counted.load(Ordering::Relaxed);
                if now != last {
                    (last, since) = (now, Instant::now());
                }
                timed_out.fetch_or(since.elapsed() > timeout, Ordering::Relaxed);
                if monitor.cancelled() || timed_out.load(Ordering::Relaxed) {
                    abort();
                }
            }
        });
        let greeted = sender.greet().and_then(|()| sender.value(Tag::Request, request));
        let result = greeted
            .map_err(|error| lost(&error))
            .and_then(|()| frames.greeting(true))
            .and_then(|()| work(&mut frames, &mut sender));
        drop(stop);
        result
    });
    // The peer ends when its streams do.
    drop((sender, frames));
    match result {
        Err(_) if monitor.cancelled() => Err(SessionError::Cancelled.into()),
        Err(_) if timed_out.into_inner() => {
            Err(SessionError::Wire(WireError::Timeout { seconds: timeout.as_secs() }).into())
        }
        // What the transport says of a connection that was lost is more than that.
        Err(ImageError::Session(SessionError::Wire(
            error @ (WireError::Lost(_) | WireError::NoAgent { .. }),
        ))) => {
            let error = finish().map_or(SessionError::Wire(error), SessionError::Transport);
            Err(error.into())
        }
        Ok(done) => {
            // All is said; how ssh ends no longer matters.
            let _ = finish();
            Ok(done)
        }
        Err(error) => Err(error),
    }
}

/// What the other end wants of an agent.
pub enum Peer {
    /// An image: for [`serve`].
    Image(Box<dyn Read + Send>),
    /// A run, or nothing that is known: for [`crate::session::serve`].
    Run(Box<dyn Read + Send>),
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Image(_) => "Image",
            Self::Run(_) => "Run",
        })
    }
}

/// Reads the first words of the other end; what is given back begins where each service expects it.
///
/// # Errors
/// Whatever reading says.
pub fn sniff(mut reader: Box<dyn Read + Send>) -> io::Result<Peer> {
    let mut heard = Vec::with_capacity(PREAMBLE.len());
    let mut byte = [0];
    while heard.len() < PREAMBLE.len() && PREAMBLE.starts_with(&heard) {
        match reader.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => heard.extend_from_slice(&byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if heard == PREAMBLE {
        return Ok(Peer::Image(reader));
    }
    Ok(Peer::Run(Box::new(io::Cursor::new(heard).chain(reader))))
}

/// Serves one request for an image, of which the first words were read by [`sniff`], within `limits`.
///
/// # Errors
/// [`ImageError`]; the other end was told, as far as that was possible.
pub fn serve(
    reader: Box<dyn Read + Send>,
    writer: Box<dyn Write + Send>,
    limits: &AgentLimits,
    monitor: &dyn Monitor,
) -> Result<(), ImageError> {
    let sender = Mutex::new(Sender(writer));
    let mut frames = Receiver { input: reader, frames: Arc::default() };
    let result = std::thread::scope(|scope| {
        let (stop, stopped) = sync_channel::<()>(0);
        locked(&sender).greet().map_err(|error| lost(&error))?;
        let alive = &sender;
        scope.spawn(move || {
            while stopped.recv_timeout(ALIVE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let mut sender = locked(alive);
                // When it is gone, whoever writes next finds out.
                let _ = sender.frame(Tag::Alive, b"").and_then(|()| sender.0.flush());
            }
        });
        let result = frames.greeting(false).and_then(|()| answer(&mut frames, &sender, limits, monitor));
        drop(stop);
        result
    });
    if let Err(error) = &result {
        // Nothing is left to be done when this fails, too.
        let _ = locked(&sender).value(Tag::Failed, &Failure::from(error));
    }
    result
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(
    frames: &mut Receiver<Box<dyn Read + Send>>,
    sender: &Mutex<Sender<Box<dyn Write + Send>>>,
    limits: &AgentLimits,
    monitor: &dyn Monitor,
) -> Result<(), ImageError> {
    let mut bytes = Vec::new();
    if frames.next(&mut bytes)? != Tag::Request {
        return Err(protocol("a frame out of place"));
    }
    let limit = limits.root.as_deref().map(|path| {
        Root::hold(path).map_err(|error| SessionError::Root {
            role: "root",
            path: super::shown(path),
            reason: io::Error::from(error).to_string(),
        })
    });
    let limit = limit.transpose()?;
    let admit = |opened: &[u8]| check_confined(opened, limit.as_ref());
    let path = |root: Vec<u8>| confine(&PathBuf::from(OsString::from_vec(root)), limit.as_ref());
    let done = match decode(&bytes)? {
        Request::Create { root, rules, one_file_system, level } => {
            let tree = Tree::open(&path(root)?, &rules, one_file_system)?;
            admit(&tree.canonical_path())?;
            let out = io::BufWriter::with_capacity(PIECE_BYTES, Framed(sender));
            let done = to_stream(&tree, out, "the connection", level.clamp(1, 19), monitor)?;
            locked(sender).frame(Tag::End, b"").map_err(|error| lost(&error))?;
            done
        }
        Request::Restore { .. } if limits.read_only => {
            return Err(SessionError::Refused("this agent only reads".to_owned()).into());
        }
        Request::Restore { root, durable } => {
            let root = path(root)?;
            restore::look(&root)?;
            let ready = |sender: &mut Sender<_>| {
                sender.frame(Tag::Ready, b"")?;
                Write::flush(&mut sender.0)
            };
            ready(&mut *locked(sender)).map_err(|error: io::Error| lost(&error))?;
            if frames.next(&mut bytes)? != Tag::Ready {
                return Err(protocol("a frame out of place"));
            }
            let mut image = Arriving::new(frames, None);
            let done = restore::from_stream(&mut image, &root, durable, &admit, monitor);
            done.map_err(|error| image.failed.take().unwrap_or(error))?
        }
    };
    let mut sender = locked(sender);
    let lost = |error: io::Error| lost(&error);
    for problem in &done.problems {
        sender.value(Tag::Problem, problem).map_err(lost)?;
    }
    sender.value(Tag::Done, &Reply { digest: done.contents.digest, sockets: done.sockets }).map_err(lost)
}

/// Sends what is written as pieces of an image.
struct Framed<'a>(&'a Mutex<Sender<Box<dyn Write + Send>>>);

impl Write for Framed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(FRAME_LIMIT_BYTES)];
        locked(self.0).frame(Tag::Data, piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        locked(self.0).0.flush()
    }
}

#[cfg(test)]
#[path = "over_tests.rs"]
mod tests;
