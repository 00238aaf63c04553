//! What each end says first.
//!
//! Why: so that neither takes anything else for its peer, and both speak the same version. What can go wrong: a login
//! script that prints, a program that is no agent, a peer that never answers; each is an error that names itself.

use std::io::Read;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::WireError;

/// What each end says first, so that neither mistakes anything else for its peer.
const PREAMBLE: &[u8; 16] = b"\x7fclonetool-wire\n";

/// The version of the conversation; both ends must speak the same.
pub const PROTOCOL_VERSION: u16 = 1;

/// How long the peer may take to greet, after the transport is up.
const GREETING_DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn greeting() -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let mut bytes = PREAMBLE.to_vec();
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes.push(u8::try_from(version.len()).unwrap_or(0));
    bytes.extend_from_slice(version);
    bytes
}

/// Waits for the peer's greeting, but not for ever.
pub(super) fn await_greeting(
    mut reader: Box<dyn Read + Send>,
) -> Result<(Box<dyn Read + Send>, u64), WireError> {
    let (done, greeted) = sync_channel(1);
    // Should the deadline pass, the thread ends with the transport that is then dropped.
    std::thread::spawn(move || {
        let heard = read_greeting(&mut reader);
        let _ = done.send(heard.map(|heard| (reader, heard)));
    });
    greeted
        .recv_timeout(GREETING_DEADLINE)
        .unwrap_or(Err(WireError::Timeout { seconds: GREETING_DEADLINE.as_secs() }))
}

fn read_greeting(reader: &mut dyn Read) -> Result<u64, WireError> {
    let mut preamble = [0; PREAMBLE.len()];
    let mut heard = 0;
    while heard < preamble.len() {
        match reader.read(&mut preamble[heard..]) {
            Ok(0) if heard == 0 => {
                return Err(WireError::Lost("it ended before the agent answered".to_owned()));
            }
            Ok(0) => break,
            Ok(read) => heard += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(WireError::Lost(e.to_string())),
        }
    }
    if &preamble != PREAMBLE {
        return Err(WireError::NoAgent { heard: crate::tree::escape(&preamble[..heard]) });
    }
    let mut rest = [0; 3];
    let lost = |e: std::io::Error| WireError::Lost(e.to_string());
    reader.read_exact(&mut rest).map_err(lost)?;
    let mut version = vec![0; usize::from(rest[2])];
    reader.read_exact(&mut version).map_err(lost)?;
    let protocol = u16::from_le_bytes([rest[0], rest[1]]);
    if protocol != PROTOCOL_VERSION {
        return Err(WireError::Version {
            ours: format!("{} (protocol {PROTOCOL_VERSION})", env!("CARGO_PKG_VERSION")),
            theirs: format!("{} (protocol {protocol})", crate::tree::escape(&version)),
        });
    }
    Ok((PREAMBLE.len() + 3 + version.len()) as u64)
}
