//! `peer`: the other host can be reached, and is what it should be.
//!
//! Why: a refusal that says which step failed (the name, the wire, the port, the login, the agent) is worth more than a
//! run that ends after two minutes with a broken connection. And a host with another system, or another clock, is not
//! the standby that this profile was made for. What can go wrong: a network that swallows packets; each step has its
//! share of the gate's time.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{Asked, End, No, Sight, tool};
use crate::profile::Peer;
use crate::tree::escape;

/// The port where nobody says another.
const SSH_PORT: u16 = 22;
/// How long one ping may take.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// Passes when every step that is asked for does.
pub(super) fn ask(wanted: &Peer, asked: &Asked<'_>) -> Result<String, No> {
    let (source, destination) = (&asked.surroundings.source, &asked.surroundings.destination);
    let Some((end, peer)) = [("destination", destination), ("source", source)]
        .into_iter()
        .find_map(|(name, end)| Some((name, end.as_ref().filter(|end| end.address.is_some())?)))
    else {
        return Err(No::refuse(
            "both ends of the run are on this host, so there is no peer",
            "name the other host in the profile, or take the gate out of it",
        ));
    };
    let (host, port) = peer.address.clone().unwrap_or_default();
    let host = wanted.host.clone().unwrap_or(host);
    let port = wanted.port.or(port).unwrap_or(SSH_PORT);
    let mut told = Vec::new();
    if wanted.ping || wanted.tcp {
        let addresses = resolve(&host, port)?;
        told.push(format!("{host} is {}", addresses[0].ip()));
        if wanted.ping {
            told.push(ping(&host, addresses[0].ip(), asked)?);
        }
        if wanted.tcp {
            told.push(connect(&host, &addresses, asked)?);
        }
    }
    if wanted.agent {
        told.push(agent(wanted, end, peer, asked)?);
    }
    Ok(told.join(", "))
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, No> {
    let next = format!("check the name with `getent hosts {host}`, or set `host` in the gate to an address");
    match (host, port).to_socket_addrs() {
        Ok(addresses) => match addresses.collect::<Vec<_>>() {
            none if none.is_empty() => Err(No::refuse(format!("{host} has no address"), next)),
            some => Ok(some),
        },
        Err(error) => Err(No::refuse(format!("{host} cannot be resolved: {error}"), next)),
    }
}

/// By ping(8), which may open the socket that this process may not.
fn ping(host: &str, address: IpAddr, asked: &Asked<'_>) -> Result<String, No> {
    let seconds = asked.left().min(PING_LIMIT).as_secs().max(1).to_string();
    let reply = tool::run("ping", None, ["-n", "-c", "1", "-w", &seconds, &address.to_string()], asked)?;
    match reply.code {
        0 => Ok("answers a ping".to_owned()),
        1 => Err(No::refuse(
            format!("{host} ({address}) does not answer a ping within {seconds} seconds"),
            "check that it is up and that the way to it is; `ping = false` where a firewall drops it",
        )),
        _ => Err(No::cannot_tell(
            format!("{host} ({address}) cannot be pinged: {}", reply.evidence()),
            "check the network of this host",
        )),
    }
}

fn connect(host: &str, addresses: &[SocketAddr], asked: &Asked<'_>) -> Result<String, No> {
    let port = addresses.first().map_or(0, SocketAddr::port);
    let mut last = None;
    for (at, address) in addresses.iter().enumerate() {
        // Several addresses share what is left of the time.
        let rest = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let limit = (asked.left() / 2 / rest).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(address, limit) {
            Ok(_) => return Ok(format!("port {port} takes connections")),
            Err(error) => last = Some(error),
        }
    }
    let why = last.map_or_else(String::new, |error| format!(": {error}"));
    Err(No::refuse(
        format!("port {port} of {host} takes no connection{why}"),
        "check that sshd runs there, and `port` in the gate; `tcp = false` where ssh goes another way",
    ))
}

fn agent(wanted: &Peer, end: &str, peer: &End, asked: &Asked<'_>) -> Result<String, No> {
    let sight = peer.look(end, asked)?;
    let here = match end {
        "destination" => asked.source()?,
        _ => asked.destination()?,
    };
    let (there, us) = (&sight.host, &here.host);
    let name = escape(there.name.as_bytes());
    let mut told = vec![format!("clonetool {} answers on {name}", escape(there.version.as_bytes()))];
    if let Some(limit) = wanted.max_clock_skew {
        let skew = skew(&sight);
        let seconds = skew.as_secs_f64();
        if skew > limit {
            return Err(No::refuse(
                format!(
                    "the clock of {name} is {seconds:.3} seconds off, at most {} are allowed",
                    limit.as_secs_f64()
                ),
                "set both clocks by the same time server",
            ));
        }
        told.push(format!("its clock is {seconds:.3} seconds off"));
    }
    if wanted.same_machine {
        if there.machine != us.machine {
            return Err(No::refuse(
                format!("{name} is a {}, this host a {}", escape(there.machine.as_bytes()), us.machine),
                "a system runs only on its own kind of machine; check the destination",
            ));
        }
        told.push(us.machine.clone());
    }
    if wanted.same_release {
        told.push(same_release(&here, &sight, end)?);
    }
    Ok(told.join(", "))
}

fn same_release(here: &Sight, there: &Sight, end: &str) -> Result<String, No> {
    let other = if end == "destination" { "source" } else { "destination" };
    let named = |sight: &Sight, end: &str| {
        sight.host.system.clone().ok_or_else(|| {
            No::cannot_tell(
                format!("the {end} does not say which system it is"),
                "give it an etc/os-release, or set `same-release = false`",
            )
        })
    };
    let (ours, theirs) = (named(here, other)?, named(there, end)?);
    let shown = escape(theirs.as_bytes());
    match major(&ours) == major(&theirs) {
        true => Ok(shown),
        false => Err(No::refuse(
            format!("the {other} is {ours}, the {end} {shown}"),
            "bring both to the same release by hand, or set `same-release = false` for a migration",
        )),
    }
}

/// A system and its major release: a minor one is what a sync brings.
fn major(system: &str) -> &str {
    system.find('.').map_or(system, |dot| &system[..dot])
}

/// How far the peer's clock is from any time at which it can have been asked.
fn skew(sight: &Sight) -> Duration {
    let theirs = sight.host.clock_nanoseconds;
    let away = (sight.asked_nanoseconds - theirs).max(theirs - sight.answered_nanoseconds).max(0);
    Duration::from_nanos(u64::try_from(away).unwrap_or(u64::MAX))
}
