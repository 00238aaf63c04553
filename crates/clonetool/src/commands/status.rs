//! `clonetool status`: a screen that a person reads.
//!
//! Why: one look must tell how old each standby is. What can go wrong: a screen that is calmer than the alarm; the word
//! in front is the one that `check` gives.

mod screen;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use syncore::record::{Age, Record, Standing};

use crate::error::CommandError;
use crate::health::{self, Health, Limits, one_line};
use crate::outlook::{Outlook, RootState};
use crate::records::{Selection, damaged_lines, now_seconds, standby_name};
use crate::run::Outcome;
use crate::ui::{self, alert};

/// Show how old each standby is, how its last run ended and when the next one is due
///
/// A standby is as old as the beginning of its last good run: one after which it was in sync, without a problem and on
/// stable storage. Nothing is asked of other hosts; on a standby, what its own root says is shown as well.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    selection: Selection,
    /// Show what the standby root says of itself that is mounted here
    #[arg(long, value_name = "ROOT", default_value = "/")]
    root: PathBuf,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl StatusArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let history = self.selection.read()?;
        let now = now_seconds();
        let (standings, without) = self.selection.standings(&history);
        let (mut text, mut events) = (String::new(), Vec::new());
        for standing in &standings {
            let outlook = Outlook::of(standing, now);
            let (health, _) =
                health::assess(standing, &outlook, Limits::new(None, outlook.rpo_seconds()), now);
            if self.json {
                events.push(event(standing, health, &outlook, now));
            } else {
                text += &screen::standby(standing, health, &outlook, now);
            }
        }
        for profile in &without {
            text += &format!("{:<9} {profile}\n  no run is recorded\n", Health::Unknown.word());
            events.push(json!({"type": "status", "profile": profile, "health": Health::Unknown.word()}));
        }
        if standings.is_empty() && without.is_empty() {
            text += &format!("no run is recorded in {}\n", self.selection.directory());
        }
        let root = standby_name(&self.root);
        if !standings.iter().any(|standing| standing.destination == Some(&root)) {
            match RootState::of(&self.root) {
                Ok(None) => {}
                Ok(Some(state)) => {
                    text += &screen::root(&root, &state);
                    events.push(root_event(&root, &state));
                }
                Err(error) => alert(&format!("{root}: {}", one_line(&error.message))),
            }
        }
        match self.json {
            true => ui::print_events(&events)?,
            false => ui::print(&text)?,
        }
        let damaged = damaged_lines(&history);
        damaged.iter().for_each(|line| alert(line));
        Ok(if damaged.is_empty() { Outcome::Done } else { Outcome::Problems })
    }
}

fn event(standing: &Standing<'_>, health: Health, outlook: &Outlook, now: u64) -> Value {
    let age = match standing.age(now) {
        Age::Seconds(age) => Some(age),
        Age::Never | Age::Ahead(_) => None,
    };
    let (last, run) = (standing.last, |record: &Record| record.run);
    let protected = outlook.profile.as_ref().ok().map(screen::Protected::of);
    let mut event = json!({
        "type": "status",
        "profile": standing.profile,
        "source": standing.source,
        "destination": standing.destination,
        "health": health.word(),
        "rpo_seconds": outlook.rpo_seconds(),
        "age_seconds": age,
        "last_good_run": standing.last_good.map(run),
        "last_good_seconds": standing.last_good.map(|record| record.started_seconds),
        "last_run": last.run,
        "last_run_seconds": last.started_seconds,
        "last_run_outcome": last.outcome.word(),
        "last_run_exit_code": last.exit_code,
        "problems": last.problem_count,
        "refused_since_good": standing.refused_since_good,
        "next_run_seconds": outlook.next(),
        "missed_runs": outlook.missed(),
        "generation": outlook.generation(standing),
        "rolled_back_run": standing.rolled_back.map(run),
        "recovered_run": standing.recovered.map(run),
        "verified_run": standing.verified.map(run),
        "verified_seconds": standing.verified.map(|record| record.started_seconds),
        "verified_outcome": standing.verified.map(|record| record.outcome.word()),
        "protected_classes": protected.as_ref().map(|protected| &protected.classes),
        "protect_rules": protected.as_ref().map(|protected| protected.rules),
        "root": null,
    });
    if let (Some(root), Some(destination)) = (outlook.root(), standing.destination) {
        event["root"] = root_event(destination, root);
    }
    event
}

fn root_event(path: &str, root: &RootState) -> Value {
    let left: Vec<&str> = root.left.iter().map(|left| left.words()).collect();
    json!({
        "type": "root",
        "path": path,
        "generation": root.state.generation,
        "suspended": root.state.suspended,
        "interrupted": root.state.interrupted,
        "prepared_as": root.prepared_as,
        "preparation_complete": root.complete,
        "left_undone": left,
        "held": root.held().ok(),
    })
}
