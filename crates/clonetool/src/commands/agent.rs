//! `clonetool agent`.

use std::fs::File;
use std::io::{self, stdin, stdout};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use syncore::image::{self, Peer};
use syncore::monitor::Monitor;
use syncore::session::{self, AgentLimits, SCANS};

use crate::error::CommandError;
use crate::interrupt;
use crate::run::Outcome;

/// Serve as the remote end, on standard input and output
///
/// The other end starts it; nobody needs to call it. In authorized_keys, restrict what a key may do with
///
///     restrict,command="clonetool agent --root DIR --read-only"
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct AgentArguments {
    /// Refuse everything outside DIR
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Refuse every change
    #[arg(long)]
    read_only: bool,
}

/// How long the other end may take to say what it wants.
const FIRST_WORD_SECONDS: i64 = 30;

/// The other end watches and reports; here only the signals are of interest.
struct Watch;

impl Monitor for Watch {
    fn cancelled(&self) -> bool {
        interrupt::requested()
    }
}

impl AgentArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        interrupt::install()?;
        // Who may only read keeps nothing either.
        let scans = (!self.read_only).then(|| SCANS.into());
        let limits = AgentLimits { root: self.root.clone(), read_only: self.read_only, scans };
        // Rust's own standard output writes at every newline, which binary data has at random places: bare files.
        let reader = stdin().as_fd().try_clone_to_owned().map(File::from);
        let writer = stdout().as_fd().try_clone_to_owned().map(File::from);
        let (reader, writer) = reader
            .and_then(|reader| Ok((reader, writer?)))
            .map_err(|e| CommandError::failed(format!("cannot use standard input and output: {e}")))?;
        let failed = |e: io::Error| CommandError::failed(format!("cannot read standard input: {e}"));
        // Who says nothing at all is left to the deadline of a run.
        let deadline = Timespec { tv_sec: FIRST_WORD_SECONDS, tv_nsec: 0 };
        let heard = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&deadline));
        let peer = match heard.map_err(|e| failed(e.into()))? {
            0 => Peer::Run(Box::new(reader)),
            _ => image::sniff(Box::new(reader)).map_err(failed)?,
        };
        match peer {
            Peer::Image(reader) => image::serve(reader, Box::new(writer), &limits, &Watch)?,
            Peer::Run(reader) => session::serve(reader, Box::new(writer), &limits, &Watch)?,
        }
        Ok(Outcome::Done)
    }
}
