//! PostgreSQL's streaming replication: a standby is connected to this primary, and not far behind.
//!
//! Why: `pg_stat_replication` is the primary's own view of its standbys. What can go wrong: a server that is itself a
//! standby (it has no WAL position of its own, and the query fails), a role that may not see the columns (they are
//! null), a standby that is connected and still catching up. The query is constant; whatever the profile says goes into
//! options of psql, and names were checked when it was read.

use std::ffi::OsString;
use std::path::Path;

use super::volume_group::whole_lines;
use super::{Asked, No, tool};
use crate::profile::Postgresql;
use crate::tree::escape;

/// Whether the server is itself a standby: then it sees none, and is not asked how far one is behind.
const ROLE_QUERY: &str = "SELECT pg_is_in_recovery()";
/// State, bytes not yet replayed, whether it is synchronous, and the name, which may hold anything and so comes last.
const QUERY: &str = "SELECT coalesce(state, ''), \
                     coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint, -1), \
                     coalesce(sync_state, ''), application_name FROM pg_stat_replication";

/// A standby that the primary knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standby {
    pub(super) state: String,
    /// None when the role that asks may not see it.
    pub(super) lag_bytes: Option<u64>,
    pub(super) sync_state: String,
    pub(super) name: String,
}

/// Passes when the standby streams and lacks at most the allowed WAL.
pub(super) fn ask(server: &Postgresql, program: Option<&Path>, asked: &Asked<'_>) -> Result<String, No> {
    let mut words: Vec<OsString> = Vec::new();
    // Without root nobody else can be; then it is the caller who asks.
    let tool = if rustix::process::geteuid().is_root() { "runuser" } else { "psql" };
    let psql = program.map_or_else(|| "psql".into(), |path| path.as_os_str().to_owned());
    if tool == "runuser" {
        words.extend(["-u".into(), OsString::from(&server.run_as), "--".into(), psql]);
    }
    // No start-up file, no password prompt, nothing but the rows.
    words.extend(["-X", "-w", "-q", "-A", "-t", "-F", "|", "-v", "ON_ERROR_STOP=1"].map(OsString::from));
    words.extend([
        "-p".into(),
        server.port.to_string().into(),
        "-d".into(),
        OsString::from(&server.database),
    ]);
    if let Some(host) = &server.host {
        words.extend(["-h".into(), OsString::from(host)]);
    }
    words.extend(["-c", ROLE_QUERY, "-c", QUERY].map(OsString::from));
    let instead = program.filter(|_| tool == "psql");
    let reply = tool::run(tool, instead, words, asked)?;
    let next = "look at pg_stat_replication on the primary and at the log of the standby";
    let standbys = match parse(&reply.said) {
        // The second query fails there, and need not be answered.
        Some(Server::Standby) => {
            return Err(No::refuse(
                "the server on this host is itself a standby",
                "sync from the host whose server is the primary",
            ));
        }
        _ if reply.code != 0 => {
            let next =
                "check that the server runs here as the primary, and `host`, `port` and `run-as` of the gate";
            return Err(No::cannot_tell(format!("psql cannot ask: {}", reply.evidence()), next));
        }
        Some(Server::Primary(standbys)) => standbys,
        None => {
            let said = tool::last_words(&reply.said);
            return Err(No::cannot_tell(format!("psql said what cannot be read: {said:?}"), next));
        }
    };
    judge(&standbys, server, next)
}

fn judge(standbys: &[Standby], server: &Postgresql, next: &str) -> Result<String, No> {
    let wanted = |standby: &&Standby| server.standby.as_ref().is_none_or(|name| *name == standby.name);
    let who = server.standby.as_deref().unwrap_or("a standby");
    let mut nearest: Option<No> = None;
    for standby in standbys.iter().filter(wanted) {
        let (name, state) = (escape(standby.name.as_bytes()), escape(standby.state.as_bytes()));
        let no = match standby.lag_bytes {
            None => No::cannot_tell(
                format!("the position of {name} is not shown to {}", server.run_as),
                format!("grant pg_monitor to {}, or set `run-as`", server.run_as),
            ),
            Some(lag) if state == "streaming" && lag <= server.max_lag_bytes => {
                let sync = escape(standby.sync_state.as_bytes());
                return Ok(format!("{name} is streaming ({sync}), {lag} bytes behind"));
            }
            Some(lag) => {
                let allowed = server.max_lag_bytes;
                No::refuse(
                    format!("{name} is in state {state}, {lag} bytes behind ({allowed} allowed)"),
                    next,
                )
            }
        };
        nearest.get_or_insert(no);
    }
    Err(nearest.unwrap_or_else(|| No::refuse(format!("{who} is not connected to the primary"), next)))
}

/// What a server says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// It knows these standbys.
    Primary(Vec<Standby>),
    /// It is one.
    Standby,
}

/// The answers to [`ROLE_QUERY`] and [`QUERY`]; none for what are no such rows.
pub(super) fn parse(said: &[u8]) -> Option<Server> {
    let row = |line: &str| {
        let mut fields = line.splitn(4, '|');
        let (state, lag) = (fields.next()?.to_owned(), fields.next()?.parse::<i64>().ok()?);
        let (sync_state, name) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        // A standby may be ahead of what the primary saw when it read its own position.
        let lag_bytes = (lag != -1).then(|| u64::try_from(lag).unwrap_or(0));
        Some(Standby { state, lag_bytes, sync_state, name })
    };
    match whole_lines(said)?.split_first()? {
        (&"t", _) => Some(Server::Standby),
        (&"f", rows) => rows.iter().map(|line| row(line)).collect::<Option<_>>().map(Server::Primary),
        _ => None,
    }
}
