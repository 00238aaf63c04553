//! The ways to the other end: none, loopback, and two that are made slow: a long line and a narrow one.
//!
//! No kernel feature is needed: a relay between ssh and sshd holds each piece back until it may arrive. What can go
//! wrong: the relay itself becomes the limit (its queue is larger than what a long line holds); it hides what the line
//! does to its users by buffering without end (what has not yet left is not read, and the kernel's buffer in front of
//! it is kept small); several connections get more than one (they share the line).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// Pieces on their way in one direction; at 64 KiB each more than any loopback sends in the delay.
const QUEUE_PIECES: usize = 4096;
/// What the kernel may hold in front of a narrow line.
const NARROW_BUFFER_BYTES: usize = 128 << 10;

/// Where the destination is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// Here: no connection at all.
    Local,
    /// Over SSH on the loopback interface.
    Loopback,
    /// The same with a round trip of 100 ms.
    Long,
    /// The same with 100 Mbit/s in each direction.
    Narrow,
}

impl Link {
    /// Those that need a port of their own.
    pub(crate) const REMOTE: [Self; 3] = [Self::Loopback, Self::Long, Self::Narrow];

    /// What the tools call the host at the other end.
    pub(crate) fn host(self) -> Option<&'static str> {
        match self {
            Self::Local => None,
            Self::Loopback => Some("versus-rsync-standby"),
            Self::Long => Some("versus-rsync-standby-long"),
            Self::Narrow => Some("versus-rsync-standby-narrow"),
        }
    }

    /// Over what, in the title of a row.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Loopback => "SSH",
            Self::Long => "SSH, 100 ms round trip",
            Self::Narrow => "SSH, 100 Mbit/s",
        }
    }

    fn one_way(self) -> Duration {
        if self == Self::Long { Duration::from_millis(50) } else { Duration::ZERO }
    }

    fn bytes_a_second(self) -> Option<f64> {
        (self == Self::Narrow).then_some(100e6 / 8.0)
    }
}

/// One direction of a link; all its connections share it.
struct Line {
    link: Link,
    /// When it has taken what it was given.
    free: Mutex<Instant>,
}

impl Line {
    /// When that many more bytes have left.
    fn departure(&self, length: usize) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.link.bytes_a_second() else { return now };
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free =
            now.max(*free) + Duration::from_secs_f64(f64::from(u32::try_from(length).unwrap_or(0)) / rate);
        *free
    }
}

/// Opens a port that leads to `port` over this link, for as long as the process runs.
pub(crate) fn open(link: Link, port: u16) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    if link.bytes_a_second().is_some() {
        // Connections that are accepted inherit it.
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, NARROW_BUFFER_BYTES)?;
    }
    let near_port = listener.local_addr()?.port();
    let lines = [(); 2].map(|()| Arc::new(Line { link, free: Mutex::new(Instant::now()) }));
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            if let Err(error) = connect(&lines, near, port) {
                eprintln!("versus-rsync: {link:?} link: {error}");
            }
        }
    });
    Ok(near_port)
}

fn connect(lines: &[Arc<Line>; 2], near: TcpStream, port: u16) -> Result<()> {
    let [out, back] = lines;
    let far = TcpStream::connect(("127.0.0.1", port))?;
    if out.link.bytes_a_second().is_some() {
        rustix::net::sockopt::set_socket_recv_buffer_size(&far, NARROW_BUFFER_BYTES)?;
    }
    for end in [&near, &far] {
        // The link's delay is the only one.
        end.set_nodelay(true)?;
    }
    carry(Arc::clone(out), near.try_clone()?, far.try_clone()?);
    carry(Arc::clone(back), far, near);
    Ok(())
}

/// Moves bytes in one direction until either end closes.
fn carry(line: Arc<Line>, mut from: TcpStream, mut to: TcpStream) {
    let (queue, arrivals) = mpsc::sync_channel::<(Instant, Vec<u8>)>(QUEUE_PIECES);
    thread::spawn(move || {
        for (due, piece) in arrivals {
            sleep_until(due);
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let mut buffer = vec![0; if line.link.bytes_a_second().is_some() { 16 << 10 } else { 64 << 10 }];
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let departure = line.departure(length);
            sleep_until(departure);
            if queue.send((departure + line.link.one_way(), buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        // Nobody reads the rest: whoever sends it has to notice.
        let _ = from.shutdown(Shutdown::Read);
    });
}

fn sleep_until(due: Instant) {
    let rest = due.saturating_duration_since(Instant::now());
    if !rest.is_zero() {
        thread::sleep(rest);
    }
}
