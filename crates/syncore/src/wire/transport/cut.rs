//! Pipe ends whose blocked reads and writes can be ended from another thread.
//!
//! Why: a peer that is stopped reads nothing and says nothing; a thread that waits for it in the kernel would wait for
//! ever, and who joins that thread, too. Killing the process at the other end is not enough: a helper of it may hold
//! the pipe. What can go wrong: nothing that was not wrong before; what already lies in the pipe can still be read.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::TransportError;

/// What cuts the pipe ends made by it.
pub(super) struct Cut(Arc<OwnedFd>);

impl Cut {
    pub(super) fn new() -> Result<Self, TransportError> {
        let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self(Arc::new(made.map_err(local)?)))
    }

    /// Makes our end of a pipe one that can be cut. The other end has its own mode and keeps it.
    pub(super) fn guard<T: AsFd>(&self, pipe: T) -> Result<Guarded<T>, TransportError> {
        rustix::io::ioctl_fionbio(&pipe, true).map_err(local)?;
        Ok(Guarded { pipe, cut: Arc::clone(&self.0) })
    }

    /// The function that cuts; once is enough, more does no harm.
    pub(super) fn into_abort(self) -> Arc<dyn Fn() + Send + Sync> {
        Arc::new(move || {
            // Nobody ever reads it, so it stays readable for all. It can only fail when it is full, and then it is.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        })
    }
}

fn local(errno: rustix::io::Errno) -> TransportError {
    TransportError::Local { action: "set up the transport".into(), source: errno.into() }
}

/// Our end of a pipe.
pub(super) struct Guarded<T> {
    pipe: T,
    cut: Arc<OwnedFd>,
}

impl<T: AsFd> Guarded<T> {
    fn attempt<R>(
        &mut self,
        event: PollFlags,
        mut call: impl FnMut(&mut T) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            match call(&mut self.pipe) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
            let mut fds = [PollFd::new(&self.cut, PollFlags::IN), PollFd::new(&self.pipe, event)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !fds[0].revents().is_empty() {
                return Err(io::Error::new(ErrorKind::ConnectionAborted, "it was cut on this side"));
            }
        }
    }
}

impl<T: AsFd + Read> Read for Guarded<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.attempt(PollFlags::IN, |pipe| pipe.read(buffer))
    }
}

impl<T: AsFd + Write> Write for Guarded<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(PollFlags::OUT, |pipe| pipe.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(PollFlags::OUT, T::flush)
    }
}
