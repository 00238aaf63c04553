//! `clonetool gates`.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use syncore::gate;
use syncore::monitor::Monitor;
use syncore::session;

use crate::arguments::{ConnectionOptions, ProfileArguments};
use crate::error::{CommandError, REFUSED};
use crate::gates::{self, Moment};
use crate::interrupt;
use crate::run::Outcome;
use crate::ui::{self, json};

/// Ask the gates of a profile and change nothing
///
/// Asks all of them, also after one that does not pass. `sync` asks the same before it plans, stops at the first that
/// does not pass, and asks those that can turn meanwhile again before it changes anything.
#[derive(Debug, Args)]
pub(crate) struct GatesArguments {
    #[command(flatten)]
    profile: ProfileArguments,
    #[command(flatten)]
    connection: ConnectionOptions,
    /// Print refusals only
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object a line, the summary last
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

/// Only the signals are of interest.
struct Watch;

impl Monitor for Watch {
    fn cancelled(&self) -> bool {
        interrupt::requested()
    }
}

impl GatesArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        interrupt::install()?;
        let started = Instant::now();
        self.connection.refuse_traffic_options(["gates send no content"; 3])?;
        let (profile, source, destination) = self.profile.load(&self.connection)?;
        let surroundings = Arc::new(session::surroundings(&source, &destination));
        let mut refusals = Vec::new();
        for gate in &profile.gates {
            let answer = gate::ask(gate, &surroundings, &Watch);
            interrupt::check()?;
            if self.json {
                ui::print_events(&[json::gate(gate, &answer, Moment::Alone)])?;
            } else if !self.quiet {
                ui::print(
                    &gates::lines(gate, &answer).iter().map(|line| format!("{line}\n")).collect::<String>(),
                )?;
            }
            if !answer.passed() {
                refusals.push((gate, answer));
            }
        }
        let (asked, passed) = (profile.gates.len(), profile.gates.len() - refusals.len());
        if self.json {
            let code = if refusals.is_empty() { 0 } else { REFUSED };
            ui::print_events(&[json::gates_summary(asked, passed, code, started.elapsed())])?;
        } else if !self.quiet {
            ui::print(&match asked {
                0 => "the profile has no gates\n".to_owned(),
                _ => format!("{passed} of {asked} gates pass\n"),
            })?;
        }
        match &refusals[..] {
            [] => Ok(Outcome::Done),
            [(gate, answer), rest @ ..] => {
                let error = gates::refusal(gate, answer);
                let more: Vec<&str> = rest.iter().map(|(gate, _)| gate.name.as_str()).collect();
                Err(if more.is_empty() { error } else { error.hint(format!("and by {}", more.join(", "))) })
            }
        }
    }
}
