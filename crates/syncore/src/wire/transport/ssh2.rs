//! The built-in client: libssh2, for hosts without an ssh client.
//!
//! Why: one binary is enough on a rescue system. What can go wrong: everything before authentication is decided by
//! whoever answers on that port, so the key is checked before anything of ours is shown, and libssh2-sys below
//! 0.3.3 (memory errors a server can reach before authentication) must not be linked; a test reads the lock file.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ssh2::{Channel, MethodType, Session};

use super::error::shown_host;
use super::known_hosts::KnownKeys;
use super::{ByteStream, Remote, TransportError, auth, pump};

/// What the peer may send before we take it: at 64 MiB a round trip of 0.5 s does not slow a gigabit line down.
const WINDOW_BYTES: u32 = 64 << 20;
/// libssh2 takes packets of up to 40,000 bytes; this is what everyone uses.
const PACKET_BYTES: u32 = 32 << 10;

/// The ones with hardware support first; libssh2 would begin with its own ChaCha20 in portable C.
const CIPHERS: &str = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,\
                       aes192-ctr,aes128-ctr";

/// Nothing with SHA-1 or DSA.
const HOST_KEY_KINDS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

pub(super) fn connect(remote: &Remote) -> Result<ByteStream, TransportError> {
    let port = remote.port.unwrap_or(22);
    let user = match &remote.user {
        Some(user) => user.clone(),
        None => own_name().ok_or_else(|| {
            TransportError::BadRemote("who are we on that host? Say it: USER@HOST".to_owned())
        })?,
    };
    let known = KnownKeys::read(&known_hosts_files(remote), &remote.host, port)?;
    let failed = |error: ssh2::Error| TransportError::Connect {
        host: shown_host(remote),
        detail: crate::tree::escape(error.message().as_bytes()),
    };
    let tcp = dial(remote, port)?;
    let mut session = Session::new().map_err(failed)?;
    let timeout = remote.connect_timeout.max(Duration::from_secs(1)).as_millis();
    session.set_timeout(u32::try_from(timeout).unwrap_or(u32::MAX));
    for direction in [MethodType::CryptCs, MethodType::CryptSc] {
        session.method_pref(direction, CIPHERS).map_err(failed)?;
    }
    session.method_pref(MethodType::HostKey, &host_key_preference(&known)).map_err(failed)?;
    let socket = tcp.try_clone().map_err(local("share the socket"))?;
    session.set_tcp_stream(socket);
    session.handshake().map_err(failed)?;
    // Before anything of ours is shown: not even the name of the account goes to a host nobody vouched for.
    match session.host_key() {
        Some((key, _)) => known.check(key)?,
        None => {
            let detail = "it showed no host key".into();
            return Err(TransportError::HostKeyRefused { host: shown_host(remote), detail });
        }
    }
    auth::authenticate(&session, remote, &user)?;
    let channel = start(&session, remote).map_err(failed)?;
    pump::start(remote, tcp, session, channel)
}

/// One channel, one constant command.
fn start(session: &Session, remote: &Remote) -> Result<Channel, ssh2::Error> {
    let mut channel = session.channel_open("session", WINDOW_BYTES, PACKET_BYTES, None)?;
    channel.exec(&remote.command().join(" "))?;
    Ok(channel)
}

/// The kinds on record first, or the host would show another of its keys, which nobody recorded; the rest behind
/// them, so that a key of a new kind is reported as what it is and not as a failure to agree.
fn host_key_preference(known: &KnownKeys) -> String {
    let mut kinds = Vec::new();
    let recorded = known.kinds().flat_map(|recorded| {
        // One key, several ways to sign with it.
        let signs =
            move |kind: &&&str| **kind == recorded || recorded == "ssh-rsa" && kind.starts_with("rsa-");
        HOST_KEY_KINDS.iter().filter(signs)
    });
    for kind in recorded.chain(&HOST_KEY_KINDS) {
        if !kinds.contains(kind) {
            kinds.push(*kind);
        }
    }
    kinds.join(",")
}

fn known_hosts_files(remote: &Remote) -> Vec<PathBuf> {
    let own = remote.known_hosts.clone();
    let own = own.or_else(|| remote.home.as_ref().map(|home| home.join(".ssh/known_hosts")));
    own.into_iter().chain([PathBuf::from("/etc/ssh/ssh_known_hosts")]).collect()
}

fn local(action: &str) -> impl Fn(std::io::Error) -> TransportError + '_ {
    move |source| TransportError::Local { action: action.to_owned(), source }
}

/// Each address in turn, all within the one time limit.
fn dial(remote: &Remote, port: u16) -> Result<TcpStream, TransportError> {
    let deadline = Instant::now() + remote.connect_timeout;
    let failed = |detail: String| TransportError::Connect { host: shown_host(remote), detail };
    let addresses =
        (remote.host.as_str(), port).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(tcp) => {
                // Our frames are whole messages; waiting for more to send along would only add delay.
                tcp.set_nodelay(true).map_err(local("set up the socket"))?;
                return Ok(tcp);
            }
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(failed(last))
}

/// The name of our own account, as ssh takes it when none is given.
fn own_name() -> Option<String> {
    let id = rustix::process::getuid().as_raw();
    if id == 0 {
        return Some("root".into());
    }
    let accounts = std::fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    /// An older one has memory errors that a server can reach before authentication (CVE-2026-55200 and others).
    #[test]
    fn the_linked_libssh2_is_not_one_of_the_vulnerable() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
        let lock = std::fs::read_to_string(lock).unwrap();
        let (_, entry) = lock.split_once("name = \"libssh2-sys\"\nversion = \"").unwrap();
        let version = entry.split('"').next().unwrap();
        let version: Vec<u32> = version.split(['.', '+', '-']).take(3).map(|n| n.parse().unwrap()).collect();
        assert!(version >= vec![0, 3, 3], "{version:?}");
    }
}
