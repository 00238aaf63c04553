//! Looking at an end for a gate: here, or by an agent that is started for nothing else.
//!
//! Why: a gate wants to know whether the other host answers, and what it is, before a run connects; and again before the
//! first change, when the run's own connection is busy. What can go wrong: a hung connection; the time that the gate
//! has bounds each step.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::gate::{self, End, Host, Sight, Surroundings, Unseen};
use crate::monitor::Silent;
use crate::scan::Root;
use crate::session::{Location, SessionError, agree, unexpected};
use crate::wire::{
    CONTROL, Compression, Connection, Failure, Message, Open, Part, Remote, WireError, connect,
};

/// What gates look at when the run goes from `source` to `destination`.
#[must_use]
pub fn surroundings(source: &Location, destination: &Location) -> Surroundings {
    let end = |location: &Location, part: Part| {
        let address = match location {
            Location::Local(_) => None,
            Location::Remote(remote, _) => Some((remote.host.clone(), remote.port)),
        };
        let location = location.clone();
        Some(End::new(address, Arc::new(move |limit| examine(&location, part, limit))))
    };
    Surroundings {
        source: end(source, Part::Sender),
        destination: end(destination, Part::Receiver),
        ..Surroundings::default()
    }
}

fn examine(location: &Location, part: Part, limit: Duration) -> Result<Sight, Unseen> {
    let result = match location {
        Location::Local(path) => {
            let asked_nanoseconds = now();
            examine_here(path, part).map(|host| Sight {
                host,
                asked_nanoseconds,
                answered_nanoseconds: now(),
            })
        }
        Location::Remote(remote, path) => examine_there(remote, path, part, limit),
    };
    result.map_err(|error| match error {
        SessionError::Wire(WireError::Timeout { .. }) => Unseen::Late,
        error => Unseen::Failed(error.to_string()),
    })
}

fn now() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or_default()
}

/// Looks at a root of this host; of one that is not there yet at the directory in which it will be.
pub(super) fn examine_here(path: &Path, part: Part) -> Result<Host, SessionError> {
    let role = if part == Part::Sender { "source" } else { "destination" };
    let missing = std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    match path.parent().filter(|_| missing && part == Part::Receiver) {
        Some(parent) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(gate::examine(&agree::open_root(parent, role)?, false))
        }
        None => Ok(gate::examine(&agree::open_root(path, role)?, true)),
    }
}

/// Looks at a root that is held.
pub(super) fn examine_root(root: &Root) -> Host {
    gate::examine(root, true)
}

fn examine_there(remote: &Remote, path: &Path, part: Part, limit: Duration) -> Result<Sight, SessionError> {
    let remote = Remote { connect_timeout: remote.connect_timeout.min(limit), ..remote.clone() };
    let stream = connect(&remote)?;
    let mut connection = Connection::over(stream, Compression::Off, None, limit)?;
    let result = converse(&mut connection, path, part);
    let transport = connection.close();
    match (result, transport) {
        // The transport knows better why the connection went away.
        (Err(SessionError::Wire(WireError::Lost(_))), Some(error)) => Err(SessionError::Transport(error)),
        (result, _) => result,
    }
}

fn converse(connection: &mut Connection, path: &Path, part: Part) -> Result<Sight, SessionError> {
    // A dry run takes no lock: a gate may ask while a run holds it.
    let open = Open { part, root: path.as_os_str().as_bytes().to_vec(), dry_run: true };
    connection.outgoing.send(CONTROL, Message::Open(open))?;
    match connection.lanes[usize::from(CONTROL)].receive(&Silent)? {
        Message::Opened(_) => {}
        other => return Err(unexpected(other)),
    }
    let asked_nanoseconds = now();
    connection.outgoing.send(CONTROL, Message::Examine)?;
    let host = match connection.lanes[usize::from(CONTROL)].receive(&Silent)? {
        Message::Examined(host) => *host,
        other => return Err(unexpected(other)),
    };
    let answered_nanoseconds = now();
    // There will be no run.
    connection.outgoing.send(CONTROL, Message::Failed(Failure::Refused, "only asked".to_owned()))?;
    Ok(Sight { host, asked_nanoseconds, answered_nanoseconds })
}
