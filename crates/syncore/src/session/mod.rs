//! The two endpoints and the one function that runs the flow: agree, scan, compare, plan, approve, transfer,
//! commit, verify.
//!
//! Why: push, pull and local runs are the same run; only where the two ends stand differs. What can go wrong: an
//! end that trusts the other. The sender reads only what the rules put in scope below its root; the receiver
//! judges every item of the plan by its own rules before it accepts the plan.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod agree;
mod auth;
mod auth_set;
mod basis;
mod changed_here;
mod credit;
mod describe;
mod differ;
mod examine;
mod freeze;
mod job;
mod judge;
mod large;
mod listing;
mod local;
mod lock;
mod planner;
mod portion;
mod questions;
mod queue;
mod radius;
mod receive;
mod receive_lane;
mod receiver;
mod refine;
mod restore;
mod scans;
mod send;
mod sender;
mod stable;
mod standby;

use crate::frozen::Frozen;
use crate::gate::Host;
use crate::monitor::{Monitor, Phase};
use crate::plan::Plan;
use crate::scan::Root;
use crate::wire::{
    CONTROL, Compression, Connection, Facts, Failure, Message, Open, Part, Remote, WireError, connect,
};

pub(crate) use agree::{open_root, reaches};
pub use examine::surroundings;
pub use freeze::freeze;
pub use job::{AgentLimits, Approval, Initiator, Job, Location, Options, Portion, Report, SessionError};
pub(crate) use lock::lock_root;
pub use lock::{RootLock, claim, lock};
pub use restore::{State, generations, recover, resume, roll_back, state};
pub use scans::SCANS;
use scans::Scans;

/// Runs `job` to its end and says what was done.
///
/// `approve` sees the finished plan before anything is changed; a dry run shows it the plan, too, and ends there.
///
/// ```
/// use syncore::monitor::Silent;
/// use syncore::session::{Approval, Job, Location, Options, run};
/// # let temp = tempfile::tempdir()?;
/// # let (source, standby) = (temp.path().join("source"), temp.path().join("standby"));
/// # std::fs::create_dir(&source)?;
/// # std::fs::create_dir(&standby)?;
/// # std::fs::write(source.join("motd"), "hello")?;
/// let job = Job {
///     source: Location::Local(source),
///     destination: Location::Local(standby.clone()),
///     rules: Vec::new(),
///     options: Options::default(),
/// };
/// let report = run(&job, &mut |_plan| Approval::Run, &Silent)?;
/// assert_eq!(report.totals.created, 1);
/// assert_eq!(std::fs::read(standby.join("motd"))?, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`SessionError`] when the run as a whole could not go on. Problems of single paths are in the report.
pub fn run(
    job: &Job,
    approve: &mut dyn FnMut(&Plan) -> Approval,
    monitor: &dyn Monitor,
) -> Result<Report, SessionError> {
    run_under(job, None, &mut Approving(approve), monitor)
}

/// As [`run`], for who wants to be asked more than once: `initiator` sees the finished plan, and is asked again
/// immediately before the first change. With the job's source `frozen`, that is what is read.
///
/// # Errors
/// As of [`run`]; [`SessionError::Freeze`] when that cannot be read any more.
pub fn run_under(
    job: &Job,
    frozen: Option<&Frozen>,
    initiator: &mut dyn Initiator,
    monitor: &dyn Monitor,
) -> Result<Report, SessionError> {
    monitor.phase(Phase::Connect);
    match (&job.source, &job.destination) {
        (Location::Remote(..), Location::Remote(..)) => Err(SessionError::BothRemote),
        (Location::Local(source), Location::Local(destination)) => {
            run_local(job, (source, frozen), destination, initiator, monitor)
        }
        (Location::Local(source), Location::Remote(remote, path)) => {
            let sender = sender::Sender::open(
                source,
                frozen,
                Scans::new(job.options.scans.as_deref(), job.options.dry_run),
            )?;
            run_remote(job, remote, path, Part::Receiver, monitor, |connection, peer| {
                tell_recovery(peer, monitor);
                let mut start = agree::decide(job, sender.facts(), peer, true)?;
                let portion = portion::choose(job, &mut start, Some(sender.root()), monitor)?;
                connection.outgoing.send(CONTROL, Message::Start(start.clone()))?;
                let report =
                    sender.run(connection, start, Some((job.options.dry_run, initiator)), monitor)?;
                Ok(Report { standby: peer.standby, portion, ..report })
            })
        }
        (Location::Remote(..), Location::Local(_)) if frozen.is_some() => {
            Err(SessionError::Refused("a snapshot is of this host, and the source is on another".to_owned()))
        }
        (Location::Remote(remote, path), Location::Local(destination)) => {
            let receiver =
                receiver::Receiving::open(destination, job.options.dry_run, job.options.scans.as_deref())?;
            tell_recovery(receiver.facts(), monitor);
            run_remote(job, remote, path, Part::Sender, monitor, |connection, peer| {
                let mut start = agree::decide(job, peer, receiver.facts(), true)?;
                let portion = portion::choose(job, &mut start, receiver.opened(), monitor)?;
                connection.outgoing.send(CONTROL, Message::Start(start.clone()))?;
                let say = Some((job.options.dry_run, initiator));
                let report = receiver.run(connection, &start, None, say, monitor)?;
                Ok(Report { standby: receiver.facts().standby, portion, ..report })
            })
        }
    }
}

/// An initiator that has only the plan to decide on.
struct Approving<'a>(&'a mut dyn FnMut(&Plan) -> Approval);

impl Initiator for Approving<'_> {
    fn approve(&mut self, plan: &Plan) -> Approval {
        (self.0)(plan)
    }
}

/// An initiator's say: whether it is a dry run, and who decides otherwise.
pub(crate) type Say<'a> = Option<(bool, &'a mut dyn Initiator)>;

/// Asks the initiator; true to carry the plan out, false to end here. With `whole` it is asked once more by
/// [`last_word`].
///
/// # Errors
/// [`SessionError::Refused`] when the answer is no.
pub(crate) fn ask(
    say: &mut Say<'_>,
    plan: &Plan,
    whole: bool,
    monitor: &dyn Monitor,
) -> Result<bool, SessionError> {
    monitor.planned(plan.len() as u64, plan.totals().content_bytes);
    let Some((dry_run, initiator)) = say else { return Ok(true) };
    let mut answer = initiator.approve(plan);
    // Where each path is committed as it arrives this is the last moment before the first change.
    if answer == Approval::Run && !*dry_run && !plan.is_empty() && !whole {
        answer = initiator.before_commit();
    }
    match answer {
        Approval::Refuse(reason) => Err(SessionError::Refused(reason)),
        Approval::Run => Ok(!*dry_run),
    }
}

/// Asks the initiator whether what is staged may be committed.
///
/// # Errors
/// [`SessionError::Refused`] when it may not.
pub(crate) fn last_word(initiator: &mut dyn Initiator) -> Result<(), SessionError> {
    match initiator.before_commit() {
        Approval::Run => Ok(()),
        Approval::Refuse(reason) => Err(SessionError::Refused(reason)),
    }
}

/// Tells of an interrupted run that the receiving end has completed.
fn tell_recovery(receiver: &Facts, monitor: &dyn Monitor) {
    if let Some(recovered) = &receiver.recovered {
        monitor.recovered(&recovered.profile, recovered.generation, recovered.problems);
    }
}

fn run_local(
    job: &Job,
    (source, frozen): (&Path, Option<&Frozen>),
    destination: &Path,
    initiator: &mut dyn Initiator,
    monitor: &dyn Monitor,
) -> Result<Report, SessionError> {
    let sender =
        sender::Sender::open(source, frozen, Scans::new(job.options.scans.as_deref(), job.options.dry_run))?;
    let receiver = receiver::Receiving::open(destination, job.options.dry_run, job.options.scans.as_deref())?;
    tell_recovery(receiver.facts(), monitor);
    let mut start = agree::decide(job, sender.facts(), receiver.facts(), false)?;
    let portion = portion::choose(job, &mut start, Some(sender.root()), monitor)?;
    let standby = receiver.facts().standby;
    let (mut here, mut there) = Connection::pair();
    std::thread::scope(|scope| {
        let receiving = {
            let start = start.clone();
            let quiet = local::Quiet(monitor);
            let local = local::LocalSource { root: sender.root(), monitor };
            scope.spawn(move || {
                let result = receiver.run(&mut there, &start, Some(local), None, &quiet);
                if let Err(error) = &result {
                    report_failure(&mut there, error);
                }
                result
            })
        };
        let result = sender.run(&mut here, start, Some((job.options.dry_run, initiator)), monitor);
        drop(here);
        match (result, receiving.join()) {
            // The receiver's own words are better than what the sender heard of them.
            (Err(SessionError::Peer(_) | SessionError::Wire(WireError::Lost(_))), Ok(Err(error))) => {
                Err(error)
            }
            (result, _) => result.map(|report| Report { standby, portion, ..report }),
        }
    })
}

/// Connects to an agent and runs one end here against it.
fn run_remote(
    job: &Job,
    remote: &Remote,
    path: &Path,
    part: Part,
    monitor: &dyn Monitor,
    run: impl FnOnce(&mut Connection, &Facts) -> Result<Report, SessionError>,
) -> Result<Report, SessionError> {
    let options = &job.options;
    let stream = connect(remote)?;
    let mut connection =
        Connection::over(stream, options.compression, options.bandwidth_limit, options.timeout).map_err(
            |error| match error {
                WireError::Transport(error) => SessionError::Transport(error),
                other => SessionError::Wire(other),
            },
        )?;
    let traffic = Arc::clone(&connection.traffic);
    let root = path.as_os_str().as_bytes().to_vec();
    let open = Message::Open(Open { part, root, dry_run: options.dry_run });
    let result = connection.outgoing.send(CONTROL, open).map_err(SessionError::from).and_then(|()| {
        match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
            Message::Opened(facts) => {
                let result = run(&mut connection, &facts);
                if let Err(error) = &result {
                    report_failure(&mut connection, error);
                }
                result
            }
            other => Err(unexpected(other)),
        }
    });
    let transport = connection.close();
    match (result, transport) {
        // The transport knows better why the connection went away.
        (Err(SessionError::Wire(WireError::Lost(_))), Some(error)) => Err(SessionError::Transport(error)),
        (Ok(mut report), _) => {
            report.wire_sent_bytes = traffic.sent_bytes();
            report.wire_received_bytes = traffic.received_bytes();
            Ok(report)
        }
        (result, _) => result,
    }
}

/// Serves one run as the remote end, on a byte stream in each direction; what `clonetool agent` does.
///
/// # Errors
/// [`SessionError`] when the run as a whole could not go on; the initiator has been told, if it could be.
pub fn serve(
    reader: Box<dyn std::io::Read + Send>,
    writer: Box<dyn std::io::Write + Send>,
    limits: &AgentLimits,
    monitor: &dyn Monitor,
) -> Result<(), SessionError> {
    // Our standard streams cannot be ended from this side; the transport that holds their other ends ends them.
    let stream =
        crate::wire::ByteStream { reader, writer, finish: Box::new(|| None), abort: Arc::new(|| ()) };
    let timeout = Options::default().timeout;
    let mut connection = Connection::over(stream, Compression::Auto, None, timeout)?;
    let result = serve_on(&mut connection, limits, monitor);
    if let Err(error) = &result {
        report_failure(&mut connection, error);
    }
    connection.close();
    result.map(|_| ())
}

fn serve_on(
    connection: &mut Connection,
    limits: &AgentLimits,
    monitor: &dyn Monitor,
) -> Result<Report, SessionError> {
    let open = match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
        Message::Open(open) => open,
        other => return Err(unexpected(other)),
    };
    let path = PathBuf::from(std::ffi::OsString::from_vec(open.root));
    let limit =
        limits.root.as_deref().map(|root| Root::hold(root).map_err(|error| no_root(root, &error.into())));
    let limit = limit.transpose()?;
    let path = confine(&path, limit.as_ref())?;
    match open.part {
        Part::Sender => {
            let sender =
                sender::Sender::open(&path, None, Scans::new(limits.scans.as_deref(), open.dry_run))?;
            check_confined(&sender.facts().root, limit.as_ref())?;
            let _lock = if open.dry_run { None } else { lock::claim_root(&sender.root())? };
            connection.outgoing.send(CONTROL, Message::Opened(sender.facts().clone()))?;
            let examine = || Ok(examine::examine_root(&sender.root()));
            let Some(start) = receive_start(connection, &examine, monitor)? else {
                return Ok(Report::default());
            };
            sender.run(connection, start, None, monitor)
        }
        Part::Receiver if limits.read_only && !open.dry_run => {
            Err(SessionError::Refused("this agent only reads".to_owned()))
        }
        Part::Receiver => {
            let receiver = receiver::Receiving::open(&path, open.dry_run, limits.scans.as_deref())?;
            check_confined(&receiver.facts().root, limit.as_ref())?;
            connection.outgoing.send(CONTROL, Message::Opened(receiver.facts().clone()))?;
            let examine = || receiver.examine();
            let Some(start) = receive_start(connection, &examine, monitor)? else {
                return Ok(Report::default());
            };
            receiver.run(connection, &start, None, None, monitor)
        }
    }
}

/// Waits for the start, and tells meanwhile what gates want to know; none when the initiator decided against a run.
fn receive_start(
    connection: &mut Connection,
    examine: &dyn Fn() -> Result<Host, SessionError>,
    monitor: &dyn Monitor,
) -> Result<Option<crate::wire::Start>, SessionError> {
    loop {
        match connection.lanes[usize::from(CONTROL)].receive(monitor)? {
            Message::Start(start) => return Ok(Some(start)),
            Message::Failed(..) => return Ok(None),
            Message::Examine => {
                connection.outgoing.send(CONTROL, Message::Examined(Box::new(examine()?)))?;
            }
            other => return Err(unexpected(other)),
        }
    }
}

fn no_root(path: &Path, error: &std::io::Error) -> SessionError {
    SessionError::Root {
        role: "root",
        path: crate::tree::escape(path.as_os_str().as_bytes()),
        reason: error.to_string(),
    }
}

/// Turns a path outside the agent's root away, before it is opened. Who may write below that root can make the resolved
/// path another one until then; [`check_confined`] looks at what was opened.
pub(crate) fn confine(path: &Path, limit: Option<&Root>) -> Result<PathBuf, SessionError> {
    let Some(limit) = limit else { return Ok(path.to_owned()) };
    let resolve = |path: &Path| path.canonicalize().map_err(|error| no_root(path, &error));
    // A destination that is not there yet is where its parent is.
    let path = match (path.symlink_metadata(), path.parent(), path.file_name()) {
        (Err(_), Some(parent), Some(name)) => resolve(parent)?.join(name),
        _ => resolve(path)?,
    };
    check_confined(path.as_os_str().as_bytes(), Some(limit))?;
    Ok(path)
}

/// Refuses a root that is not the agent's or below it. `opened` is where the kernel says that the held descriptor is, so
/// no link that was changed while it was opened can hide where it led.
pub(crate) fn check_confined(opened: &[u8], limit: Option<&Root>) -> Result<(), SessionError> {
    let Some(limit) = limit else { return Ok(()) };
    // Without /proc neither is known, and nothing is served.
    let allowed = limit.canonical_path().unwrap_or_default();
    let path = |bytes| Path::new(std::ffi::OsStr::from_bytes(bytes));
    if !allowed.is_empty() && path(opened).starts_with(path(&allowed)) {
        return Ok(());
    }
    Err(SessionError::Refused(format!("this agent serves only {}", crate::tree::escape(&allowed))))
}

/// Tells the peer why this end gives up, as far as it can still be told.
fn report_failure(connection: &mut Connection, error: &SessionError) {
    let kind = match error {
        // It told us, or cannot be told.
        SessionError::Peer(_) | SessionError::Wire(WireError::Lost(_) | WireError::Timeout { .. }) => return,
        SessionError::Refused(_) => Failure::Refused,
        SessionError::Busy(_) => Failure::Busy,
        SessionError::Suspended { .. } => Failure::Suspended,
        SessionError::Root { .. } => Failure::Root,
        _ => Failure::Failed,
    };
    let text = match error {
        SessionError::Refused(reason) | SessionError::Busy(reason) => reason.clone(),
        SessionError::Suspended { state } => state.to_string(),
        other => other.to_string(),
    };
    // Nothing is left to be done when this fails, too.
    let _ = connection.outgoing.send(CONTROL, Message::Failed(kind, text));
}

/// The error for a message that does not belong here: what the peer says of its own failure, or nonsense.
pub(crate) fn unexpected(message: Message) -> SessionError {
    match message {
        Message::Failed(Failure::Refused, text) => SessionError::Refused(text),
        Message::Failed(Failure::Busy, text) => SessionError::Busy(text),
        Message::Failed(Failure::Suspended, text) => {
            SessionError::Suspended { state: text.parse().unwrap_or_default() }
        }
        Message::Failed(Failure::Root | Failure::Failed, text) => SessionError::Peer(text),
        other => {
            SessionError::Wire(WireError::Protocol(format!("an unexpected message: {}", name_of(&other))))
        }
    }
}

/// The name of a message's kind, without what is in it.
pub(crate) fn name_of(message: &Message) -> String {
    let debug = format!("{message:.0?}");
    debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;
    use std::time::Duration;

    /// What an agent bound to `limit` answers to an initiator that asks for `path`.
    fn answer(limit: &Path, path: &Path, part: Part) -> Message {
        let (here, there) = crate::wire::pair().unwrap();
        let limits = AgentLimits { root: Some(limit.to_owned()), ..AgentLimits::default() };
        let agent = std::thread::spawn(move || serve(there.reader, there.writer, &limits, &Silent));
        let mut connection = Connection::over(here, Compression::Off, None, Duration::from_secs(10)).unwrap();
        let root = path.as_os_str().as_bytes().to_vec();
        connection.outgoing.send(CONTROL, Message::Open(Open { part, root, dry_run: true })).unwrap();
        let answer = connection.lanes[0].receive(&Silent).unwrap();
        connection.close();
        let _ = agent.join();
        answer
    }

    #[test]
    fn an_agent_with_a_root_serves_nothing_outside() {
        let temp = tempfile::tempdir().unwrap();
        let (jail, outside) = (temp.path().join("jail"), temp.path().join("jail-not"));
        std::fs::create_dir_all(jail.join("inside")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, jail.join("out")).unwrap();
        std::os::unix::fs::symlink("inside", jail.join("in")).unwrap();
        for part in [Part::Sender, Part::Receiver] {
            for refused in [&outside, &jail.join("out"), &jail.join("../jail-not"), temp.path()] {
                let answer = answer(&jail, refused, part);
                assert!(matches!(answer, Message::Failed(Failure::Refused, _)), "{refused:?}: {answer:?}");
            }
            for served in [&jail, &jail.join("inside"), &jail.join("in")] {
                let answer = answer(&jail, served, part);
                assert!(matches!(answer, Message::Opened(_)), "{served:?}: {answer:?}");
            }
        }
        let answer_to_missing = answer(&jail, &jail.join("new"), Part::Receiver);
        assert!(matches!(answer_to_missing, Message::Opened(_)), "{answer_to_missing:?}");
        let answer_to_missing = answer(&jail, &jail.join("out/new"), Part::Receiver);
        assert!(matches!(answer_to_missing, Message::Failed(Failure::Refused, _)), "{answer_to_missing:?}");
    }

    #[test]
    fn what_was_opened_is_judged_not_what_was_asked_for() {
        let temp = tempfile::tempdir().unwrap();
        let (jail, outside) = (temp.path().join("jail"), temp.path().join("outside"));
        std::fs::create_dir_all(jail.join("swapped")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let limit = Root::open(&jail).unwrap();
        let resolved = confine(&jail.join("swapped"), Some(&limit)).unwrap();
        // Between the look and the opening.
        std::fs::remove_dir(jail.join("swapped")).unwrap();
        std::os::unix::fs::symlink(&outside, jail.join("swapped")).unwrap();
        let sender = sender::Sender::open(&resolved, None, Scans::new(None, true)).unwrap();
        let judged = check_confined(&sender.facts().root, Some(&limit));
        assert!(matches!(judged, Err(SessionError::Refused(_))), "{judged:?}");
    }
}
