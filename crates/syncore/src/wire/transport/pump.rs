//! The one thread that owns an ssh2 session and moves bytes between its channel and our pipes.
//!
//! Why: all objects of a session share a lock, so a reader blocked in libssh2 would block the writer for ever. Here
//! nothing blocks but `poll`. What can go wrong: a full window opens only by reading; waiting for an event that nobody
//! consumes would spin; a peer that is gone without a word is noticed only by its silence.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{Channel, Session};

use super::cut::Cut;
use super::error::{from_status, shown_host};
use super::line::{Buffer, Call, Line};
use super::{ByteStream, FINISH_DEADLINE, Remote, Tail, TransportError, pipe};

const KEEPALIVE_SECONDS: u32 = 15;
/// As ServerAliveInterval times ServerAliveCountMax of the other transport.
const SILENCE: Duration = Duration::from_secs(60);
/// How often keepalive and silence are looked at.
const TICK: Duration = Duration::from_secs(5);

/// How the channel ended.
struct Ended {
    outcome: Result<(i32, Option<String>), String>,
    stderr: Tail,
}

/// Starts the thread. The ends of its life: the channel was closed and all its bytes were handed on, the connection
/// broke, or the `finish` of the stream was dropped.
pub(super) fn start(
    remote: &Remote,
    tcp: TcpStream,
    session: Session,
    channel: Channel,
) -> Result<ByteStream, TransportError> {
    let local = |source| TransportError::Local { action: "set up the transport".into(), source };
    let (reader, from_peer) = pipe()?;
    let (to_peer, writer) = pipe()?;
    let (cut, control) = pipe()?;
    let ours = Cut::new()?;
    let (reader, writer) = (ours.guard(reader)?, ours.guard(writer)?);
    rustix::io::ioctl_fionbio(&from_peer, true).map_err(|errno| local(errno.into()))?;
    rustix::io::ioctl_fionbio(&to_peer, true).map_err(|errno| local(errno.into()))?;
    session.set_keepalive(true, KEEPALIVE_SECONDS);
    let mut pump = Pump {
        line: Line::new(session, channel),
        tcp,
        cut,
        to_peer: Some(to_peer),
        outgoing: Buffer::new(),
        end_sent: false,
        from_peer: Some(from_peer),
        incoming: Buffer::new(),
        peer_ended: false,
        stderr_ended: false,
        closed: false,
        stderr: Tail::default(),
    };
    let (sender, ended) = sync_channel(1);
    let thread = std::thread::Builder::new().name("ssh2-pump".into());
    let thread = thread.spawn(move || {
        let outcome = pump.run();
        let stderr = std::mem::take(&mut pump.stderr);
        drop(pump);
        let _ = sender.send(Ended { outcome, stderr });
    });
    let thread = thread.map_err(local)?;
    let running = Running { control: Some(control), ended, thread: Some(thread), remote: remote.clone() };
    Ok(ByteStream {
        reader: Box::new(reader),
        writer: Box::new(writer),
        finish: Box::new(move || running.finish()),
        abort: ours.into_abort(),
    })
}

/// Our hold on the thread: dropping `control` ends it.
struct Running {
    control: Option<PipeWriter>,
    ended: Receiver<Ended>,
    thread: Option<JoinHandle<()>>,
    remote: Remote,
}

impl Running {
    fn finish(self) -> Option<TransportError> {
        let host = shown_host(&self.remote);
        let Ok(Ended { outcome, stderr }) = self.ended.recv_timeout(FINISH_DEADLINE) else {
            let seconds = FINISH_DEADLINE.as_secs();
            let detail = format!("it did not end within {seconds} s after its streams did");
            return Some(TransportError::Lost { host, detail });
        };
        let stderr = stderr.text();
        match outcome {
            Ok((_, Some(signal))) => Some(TransportError::Killed { host, signal, stderr }),
            Ok((status, None)) => from_status(&self.remote, status, stderr),
            Err(detail) if stderr.is_empty() => Some(TransportError::Lost { host, detail }),
            Err(detail) => Some(TransportError::Lost { host, detail: format!("{detail} ({stderr})") }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Pump {
    line: Line,
    tcp: TcpStream,
    cut: PipeReader,
    to_peer: Option<PipeReader>,
    outgoing: Buffer,
    end_sent: bool,
    from_peer: Option<PipeWriter>,
    incoming: Buffer,
    peer_ended: bool,
    stderr_ended: bool,
    closed: bool,
    stderr: Tail,
}

impl Pump {
    fn run(&mut self) -> Result<(i32, Option<String>), String> {
        loop {
            // All of them, in every turn: libssh2 keeps packets of its own, which `poll` knows nothing of.
            let mut moved = self.inbound()?;
            moved |= self.outbound()?;
            moved |= self.ending()?;
            if self.closed && self.from_peer.is_none() && self.stderr_ended {
                let broken = |error: ssh2::Error| crate::tree::escape(error.message().as_bytes());
                let signal = self.line.channel.exit_signal().map_err(broken)?.exit_signal;
                let signal = signal.map(|name| crate::tree::escape(name.as_bytes()));
                return Ok((self.line.channel.exit_status().map_err(broken)?, signal));
            }
            if !moved {
                self.wait()?;
            }
        }
    }

    fn inbound(&mut self) -> Result<bool, String> {
        let mut moved = false;
        if self.incoming.is_empty() && !self.peer_ended {
            let buffer = &mut self.incoming;
            let read = self.line.attempt(Call::Read, |channel| channel.read(&mut buffer.bytes))?;
            if let Some(n) = read {
                self.peer_ended = n == 0;
                buffer.filled = 0..n;
                moved = true;
            }
        }
        if self.incoming.is_empty() && !self.stderr_ended {
            let mut bytes = [0; 4096];
            let read = self.line.attempt(Call::ReadStderr, |channel| channel.stderr().read(&mut bytes))?;
            if let Some(n) = read {
                self.stderr_ended = n == 0;
                self.stderr.push(&bytes[..n]);
                moved = true;
            }
        }
        if !self.incoming.is_empty() {
            match self.from_peer.as_mut().map(|pipe| pipe.write(self.incoming.waiting())) {
                Some(Ok(n)) => self.incoming.filled.start += n,
                Some(Err(error)) if would_block(&error) => return Ok(moved),
                // Nobody reads any more. The peer may still have to be let finish, so its bytes are taken and dropped.
                Some(Err(_)) | None => {
                    self.from_peer = None;
                    self.incoming.filled = 0..0;
                }
            }
            moved = true;
        }
        if self.peer_ended && self.incoming.is_empty() && self.from_peer.take().is_some() {
            moved = true;
        }
        Ok(moved)
    }

    fn outbound(&mut self) -> Result<bool, String> {
        let mut moved = false;
        if self.outgoing.is_empty()
            && let Some(pipe) = &mut self.to_peer
        {
            match pipe.read(&mut self.outgoing.bytes) {
                Err(error) if would_block(&error) => {}
                Ok(n) if n > 0 => {
                    self.outgoing.filled = 0..n;
                    moved = true;
                }
                Ok(_) | Err(_) => {
                    self.to_peer = None;
                    moved = true;
                }
            }
        }
        while !self.outgoing.is_empty() {
            let bytes = self.outgoing.waiting();
            // 0 is how libssh2 says that the peer's window is full.
            match self.line.attempt(Call::Write, |channel| channel.write(bytes))? {
                None | Some(0) => return Ok(moved),
                Some(n) => self.outgoing.filled.start += n,
            }
            moved = true;
        }
        if self.to_peer.is_none() && !self.end_sent && !self.closed {
            let sent = self.line.attempt(Call::SendEnd, |channel| channel.send_eof().map_err(Into::into))?;
            self.end_sent = sent.is_some();
            moved |= self.end_sent;
        }
        Ok(moved)
    }

    fn ending(&mut self) -> Result<bool, String> {
        if !self.peer_ended || self.closed {
            return Ok(false);
        }
        let closed =
            self.line.attempt(Call::AwaitClose, |channel| channel.wait_close().map_err(Into::into))?;
        if closed.is_some() {
            self.closed = true;
            // What is still to be sent has no reader; the writer learns it as with any broken pipe.
            self.to_peer = None;
            self.outgoing.filled = 0..0;
        }
        Ok(self.closed)
    }

    /// Sleeps until something can be done. Only what the next turn would consume is waited for.
    fn wait(&mut self) -> Result<(), String> {
        self.keep_alive()?;
        let mut network = PollFlags::empty();
        if self.line.half.is_some() {
            // The rest of that packet goes first; there may well be something to read, and nobody to read it.
            network = PollFlags::OUT;
        } else if self.incoming.is_empty() || !self.outgoing.is_empty() {
            // To read, or for the peer to open its window.
            network = PollFlags::IN;
        }
        let mut fds = vec![PollFd::new(&self.cut, PollFlags::IN)];
        if !network.is_empty() {
            fds.push(PollFd::new(&self.tcp, network));
        }
        if let Some(pipe) = self.to_peer.as_ref().filter(|_| self.outgoing.is_empty()) {
            fds.push(PollFd::new(pipe, PollFlags::IN));
        }
        if let Some(pipe) = self.from_peer.as_ref().filter(|_| !self.incoming.is_empty()) {
            fds.push(PollFd::new(pipe, PollFlags::OUT));
        }
        poll_for(&mut fds, TICK)?;
        if !fds[0].revents().is_empty() {
            return Err("it was cut on this side".into());
        }
        // The clock of silence runs only while we listen.
        if network.is_empty() || !fds[1].revents().is_empty() {
            self.line.heard = Instant::now();
        }
        if self.line.heard.elapsed() > SILENCE {
            return Err(format!("no sign of life for {} s", SILENCE.as_secs()));
        }
        Ok(())
    }

    /// libssh2 sends it from its stack and forgets it when it would block, so it may only be tried when it goes out
    /// whole: with nothing out by half and room in the socket.
    fn keep_alive(&mut self) -> Result<(), String> {
        if self.line.half.is_some() {
            return Ok(());
        }
        let mut fds = [PollFd::new(&self.tcp, PollFlags::OUT)];
        poll_for(&mut fds, Duration::ZERO)?;
        if fds[0].revents().contains(PollFlags::OUT) {
            let sent = self.line.session.keepalive_send();
            sent.map_err(|error| crate::tree::escape(error.message().as_bytes()))?;
        }
        Ok(())
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        // Asked for politely while the line is good; without an open socket libssh2 frees all without trying to talk.
        if self.closed {
            let _ = self.line.channel.close();
            let _ = self.line.session.disconnect(None, "done", None);
        }
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn poll_for(fds: &mut [PollFd<'_>], timeout: Duration) -> Result<(), String> {
    let timeout = Timespec::try_from(timeout).map_err(|error| error.to_string())?;
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
