//! Gates: what must hold before a run, asked in the order of the profile.
//!
//! Why: cron starts a run at half past two, whatever state the pair is in. A gate looks first, and a run begins only
//! when every gate has said yes. What can go wrong: a gate that cannot tell and is taken for a yes. So there is one
//! good answer and three bad ones: it does not hold, it cannot be told, no answer in time; and each bad one has its
//! evidence and what to do next.
//!
//! A gate is asked on a thread of its own, because what it asks may sleep in the kernel (a dead disk, a lost NFS
//! server, a resolver) where nothing can wake it. Such a thread is left behind; it holds nothing.

mod command;
mod device_count;
mod end;
mod host;
mod load;
mod mounted;
mod package;
mod peer;
mod postgresql;
mod replication;
mod role;
mod space;
mod tool;
mod volume_group;
mod window;

#[cfg(test)]
mod end_tests;
#[cfg(test)]
mod replication_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod volume_group_tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::monitor::Monitor;
use crate::profile::{Check, Gate};

pub use end::{End, Look, Sight, Unseen};
pub use host::{Filesystem, Host, ROLE_FILE, RoleFile, examine};
pub use package::Packages;
pub use space::Demand;

/// How often the caller is asked whether to go on waiting.
const TICK: Duration = Duration::from_millis(50);
/// What a gate gets beyond its time to say itself what kept it; a program that it runs is killed before.
const GRACE: Duration = Duration::from_secs(1);

/// How long evidence may be.
const EVIDENCE_CHARS: usize = 1000;

/// How a gate answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It does not hold.
    Refuse,
    /// It cannot be told whether it holds.
    Error,
    /// There was no answer in time.
    TimedOut,
}

impl Verdict {
    /// The word for scripts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Refuse => "refused",
            Self::Error => "error",
            Self::TimedOut => "timed-out",
        }
    }
}

/// What a gate answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// In one word; anything but [`Verdict::Pass`] keeps a run from going on.
    pub verdict: Verdict,
    /// What was found.
    pub evidence: String,
    /// What to do next; empty where it passed.
    pub next: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Answer {
    /// Whether the run may go on.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Pass
    }
}

/// What gates look at: this host, and the two ends of the run.
#[derive(Debug)]
pub struct Surroundings {
    /// The directories in which programs are looked for, in order; the environment is not asked.
    pub programs: Vec<PathBuf>,
    /// Where proc(5) is mounted.
    pub proc: PathBuf,
    /// The end that is read.
    pub source: Option<End>,
    /// The end that is changed.
    pub destination: Option<End>,
    /// What the plan needs of the destination, once there is one.
    pub demand: Option<Demand>,
}

impl Default for Surroundings {
    fn default() -> Self {
        let programs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
        let programs = programs.map(PathBuf::from).to_vec();
        Self { programs, proc: "/proc".into(), source: None, destination: None, demand: None }
    }
}

/// Asks one gate.
pub fn ask(gate: &Gate, surroundings: &Arc<Surroundings>, monitor: &dyn Monitor) -> Answer {
    let start = Instant::now();
    let result = ask_apart(gate, surroundings, start, monitor);
    let elapsed = start.elapsed();
    match result {
        Ok(evidence) => {
            Answer { verdict: Verdict::Pass, evidence: clip(evidence), next: String::new(), elapsed }
        }
        Err(No { verdict, evidence, next }) => Answer { verdict, evidence: clip(evidence), next, elapsed },
    }
}

/// A peer may tell as much as a message holds; a person reads so much of it.
fn clip(evidence: String) -> String {
    match evidence.char_indices().nth(EVIDENCE_CHARS) {
        Some((at, _)) => format!("{}…", &evidence[..at]),
        None => evidence,
    }
}

fn ask_apart(
    gate: &Gate,
    surroundings: &Arc<Surroundings>,
    start: Instant,
    monitor: &dyn Monitor,
) -> Result<String, No> {
    let stop = Arc::new(AtomicBool::new(false));
    let (say, said) = channel();
    let asking = {
        let (gate, surroundings, stop) = (gate.clone(), Arc::clone(surroundings), Arc::clone(&stop));
        move || {
            let limit = gate.timeout;
            let asked = Asked { surroundings: &surroundings, start, limit, stop: &stop };
            // Who asked may have stopped waiting.
            let _ = say.send(check(&gate.check, &asked));
        }
    };
    if let Err(error) = std::thread::Builder::new().name("gate".into()).spawn(asking) {
        return Err(No::cannot_tell(format!("no thread to ask it on: {error}"), AGAIN));
    }
    loop {
        match said.recv_timeout(TICK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(No::cannot_tell("it ended without an answer", "report this as a bug"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if monitor.cancelled() {
            stop.store(true, Ordering::Relaxed);
            // So that nothing that was started outlives who asked; what cannot be stopped is not waited for.
            let _ = said.recv_timeout(GRACE);
            return Err(No::cannot_tell("interrupted", AGAIN));
        }
        if start.elapsed() > gate.timeout + GRACE {
            stop.store(true, Ordering::Relaxed);
            return Err(No::too_late(gate.timeout, ""));
        }
    }
}

/// The next step where only trying again helps.
const AGAIN: &str = "run the same command again";

fn check(check: &Check, asked: &Asked<'_>) -> Result<String, No> {
    match check {
        Check::VolumeGroup(group) => volume_group::ask(group, asked),
        Check::Mounted(mounted) => mounted::ask(mounted, asked),
        Check::Replication(replication) => replication::ask(replication, asked),
        Check::DeviceCount { group, replication } => device_count::ask(group, replication, asked),
        Check::Load { max, minutes } => load::ask(*max, *minutes, asked),
        Check::Window { hours } => window::ask(hours, asked),
        Check::Command { command } => command::ask(command, asked),
        Check::Peer(peer) => peer::ask(peer, asked),
        Check::Role => role::ask(asked),
        Check::PackageTransaction => package::ask(asked),
        Check::Space { reserve_bytes } => space::ask(*reserve_bytes, asked),
        Check::Inodes { reserve } => space::ask_inodes(*reserve, asked),
    }
}

/// A gate that is being asked: what it may look at, and until when.
struct Asked<'a> {
    surroundings: &'a Surroundings,
    start: Instant,
    limit: Duration,
    stop: &'a AtomicBool,
}

impl Asked<'_> {
    /// What is left of the gate's time.
    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.start.elapsed())
    }

    /// What the end that is read tells of itself.
    fn source(&self) -> Result<Sight, No> {
        self.look("source", self.surroundings.source.as_ref())
    }

    /// What the end that is changed tells of itself.
    fn destination(&self) -> Result<Sight, No> {
        self.look("destination", self.surroundings.destination.as_ref())
    }

    /// Both, with what messages call them.
    fn both(&self) -> Result<[(&'static str, Sight); 2], No> {
        Ok([("source", self.source()?), ("destination", self.destination()?)])
    }

    fn look(&self, name: &str, end: Option<&End>) -> Result<Sight, No> {
        match end {
            Some(end) => end.look(name, self),
            None => {
                Err(No::cannot_tell(format!("there is no {name} to look at"), "name both ends of the run"))
            }
        }
    }
}

/// Why a gate does not pass.
#[derive(Debug, PartialEq, Eq)]
struct No {
    verdict: Verdict,
    evidence: String,
    next: String,
}

impl No {
    fn refuse(evidence: impl Into<String>, next: impl Into<String>) -> Self {
        Self { verdict: Verdict::Refuse, evidence: evidence.into(), next: next.into() }
    }

    fn cannot_tell(evidence: impl Into<String>, next: impl Into<String>) -> Self {
        Self { verdict: Verdict::Error, evidence: evidence.into(), next: next.into() }
    }

    /// `said` is what was heard until then.
    fn too_late(limit: Duration, said: &str) -> Self {
        let mut evidence = format!("no answer within {} seconds", limit.as_secs());
        if !said.is_empty() {
            evidence = format!("{evidence}; until then: {said}");
        }
        let next = "find out what it waits for, or give it more time with `timeout` in the profile";
        Self { verdict: Verdict::TimedOut, evidence, next: next.into() }
    }
}
