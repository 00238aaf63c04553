//! Clone a running Unix root, hold the copy in sync by block-level deltas, protect what belongs to the standby.
//!
//! The engine of `clonetool`. One call of [`session::run`] reads a tree, compares it with another, makes a
//! [`plan::Plan`], shows it to the caller, and carries it out. Either tree may be on another host, where
//! [`session::serve`] answers.
//!
//! # A clone in ten lines
//!
//! ```
//! use syncore::monitor::Silent;
//! use syncore::session::{Approval, Job, Location, Options, run};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (production, standby) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! # let (production, standby) = (production.path(), standby.path());
//! std::fs::write(production.join("motd"), "hello")?;
//! let job = Job {
//!     source: Location::Local(production.into()),
//!     destination: Location::Local(standby.into()),
//!     rules: Vec::new(), // none: everything
//!     options: Options { delete: true, ..Options::default() },
//! };
//! let report = run(&job, &mut |_plan| Approval::Run, &Silent)?;
//! assert_eq!((report.totals.created, report.problems.len()), (1, 0));
//! assert_eq!(std::fs::read(standby.join("motd"))?, b"hello");
//! assert!(run(&job, &mut |_plan| Approval::Run, &Silent)?.plan.is_none()); // again: nothing to do
//! # Ok(())
//! # }
//! ```
//!
//! # The types to know
//!
//! * [`session::Job`]: from which [`session::Location`] to which, under which [`rules::Rule`]s, with which
//!   [`session::Options`].
//! * [`plan::Plan`]: what would be done, one [`plan::Item`] a path, with an id. The second argument of
//!   [`session::run`] sees it before anything changes and answers with a [`session::Approval`].
//! * [`session::Initiator`]: who started a run and is asked again before the first change ([`session::run_under`]).
//!   [`gate::ask`] asks what a profile says must hold then.
//! * [`session::Report`]: what was done, and each [`problem::Problem`]: a path that keeps its old state, or some of it.
//! * [`session::SessionError`]: why a run ended early. One of its kinds is a refusal: nothing was changed.
//! * [`monitor::Monitor`]: hears what happens while it happens, and can ask to stop.
//! * [`profile::Profile`]: a TOML file of rules and options, and the catalogues that it extends.
//! * [`wire::Remote`]: a host, and how to start an agent there. [`session::AgentLimits`] bind such an agent.
//!
//! # Rooms
//!
//! Each module is a room. A room uses only rooms above it in this table; `monitor`, `problem` and `durable` are for all.
//!
//! | room | owns |
//! |---|---|
//! | [`tree`] | byte paths, entries with their metadata, the one order, digests |
//! | [`rules`] | include, exclude, protect and class: the decision about a path, and the rule behind it |
//! | [`delta`] | block sums, matching, copies and literals |
//! | [`schedule`] | when a profile runs, and the text that cron or systemd is given for it |
//! | [`profile`] | profiles, catalogues and the standby's own file: read, merged, checked |
//! | [`scan`] | the held root, the parallel walk, metadata, filesystem boundaries |
//! | [`plan`] | the comparison of two directories, and all changes of a run as a value |
//! | [`gate`] | whether a run may begin: what a profile asks of the pair, and the answers |
//! | [`frozen`] | snapshots of the source, made before a run and removed after it |
//! | [`wire`] | messages, frames, limits, and the transports that carry them |
//! | [`apply`] | staging, renaming, metadata, links, deletions, flushing |
//! | [`record`] | what every run leaves behind, and what that says of a standby |
//! | [`session`] | the two ends of a run, and the function that conducts it |
//! | [`image`] | a tree at one moment in one file, and back |
//!
//! # What the library does not do
//!
//! It prints nothing, reads no environment variable, looks for no profile, installs no signal handler and ends no
//! process. What it needs of the caller's home directory is passed to it ([`wire::Remote`]). One file of configuration
//! it reads itself: the standby's own protections, below the root that it is about to change. There is no async
//! runtime, and no `unsafe` code but for one system call that no safe wrapper has.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)
)]

pub mod apply;
pub mod delta;
pub mod durable;
pub mod frozen;
pub mod gate;
pub mod image;
pub mod monitor;
pub mod plan;
pub mod prepare;
pub mod problem;
mod process;
pub mod profile;
pub mod record;
pub mod rules;
pub mod scan;
pub mod schedule;
pub mod session;
pub mod tree;
pub mod wire;
