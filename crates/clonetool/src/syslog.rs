//! One line to the system's log when a run ended.
//!
//! Why: what watches a host reads its log. syslog(3) of the C library cannot be told where; the socket's own form is a
//! line: `<priority>time tag[pid]: text` (RFC 3164, without the host, as local senders leave it out), which rsyslog and
//! journald read. What can go wrong: nobody listens, or the listener has stopped; a run waits a second for it at most, and
//! goes on without.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use syncore::record::Record;

use crate::day_log::outcome;
use crate::error::harmless;
use crate::health::one_line;
use crate::local_time::LocalTime;

/// Where the listener of a host is.
pub(crate) const SOCKET: &str = "/dev/log";

/// `user.err` and `user.info` (RFC 3164, 4.1.1): facility 1 times 8, and the severity.
const ERROR: u8 = 8 + 3;
const INFO: u8 = 8 + 6;

/// How long a message may be (RFC 3164, 4.1).
const MESSAGE_BYTES: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells how a run ended: an error when it did not end well.
pub(crate) fn tell(socket: &Path, run: &Record, now_seconds: u64) {
    let priority = if run.exit_code == Some(0) { INFO } else { ERROR };
    let to = run.destination.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
    let text = format!("{} {}{to}: {}", run.kind.word(), harmless(&run.profile), one_line(&outcome(run)));
    // Where nobody listens there is nobody to be told, and the record is there.
    let _ = send(socket, &line(priority, now_seconds, &text));
}

fn send(socket: &Path, message: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(PATIENCE))?;
    sender.send_to(message.as_bytes(), socket).map(drop)
}

fn line(priority: u8, now_seconds: u64, text: &str) -> String {
    let moment = i64::try_from(now_seconds).unwrap_or_default();
    let time = LocalTime::of(Path::new("/")).map(|zone| zone.stamp(moment)).unwrap_or_default();
    let mut line = format!("<{priority}>{time} clonetool[{}]: {text}", std::process::id());
    let end = (0..=MESSAGE_BYTES.min(line.len())).rev().find(|at| line.is_char_boundary(*at));
    line.truncate(end.unwrap_or_default());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_long_as_a_listener_takes_and_whole_characters() {
        let long = line(ERROR, 0, &"é".repeat(2000));
        assert!(long.len() <= MESSAGE_BYTES && long.len() > MESSAGE_BYTES - 4, "{}", long.len());
        assert!(long.starts_with("<11>"), "{long}");
    }
}
