//! `clonetool status`: a screen that a person reads.
//!
//! Why: one look must tell how old each standby is. What can go wrong: a screen that is calmer than the alarm; the word
//! in front is the one that `check` gives.

use clap::Args;
use serde_json::{Value, json};
use syncore::record::{Age, Record, Standing};

use super::check::name;
use crate::error::CommandError;
use crate::health::{self, Health, Limits, ending, one_line, span};
use crate::records::{self, Selection, damaged_lines, now_seconds};
use crate::run::Outcome;
use crate::ui::log::utc;
use crate::ui::{self, alert};

/// Show how old each standby is and how its last run ended
///
/// A standby is as old as the beginning of its last good run: one after which it was in sync, without a problem and on
/// stable storage.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    selection: Selection,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// How old the standby may be: by its profile, if it says so and can be read.
type Rpo = Result<Option<u64>, CommandError>;

impl StatusArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let history = self.selection.read()?;
        let now = now_seconds();
        let (standings, without) = self.selection.standings(&history);
        let (mut text, mut events) = (String::new(), Vec::new());
        for standing in &standings {
            let rpo = records::rpo_seconds(standing.profile);
            let limits = Limits::new(None, rpo.as_ref().ok().copied().flatten());
            let (health, _) = health::judge(standing, limits, now);
            if self.json {
                events.push(event(standing, health, &rpo, now));
            } else {
                text += &screen(standing, health, &rpo, now);
            }
        }
        for profile in &without {
            text += &format!("{:<9} {profile}\n  no run is recorded\n", Health::Unknown.word());
            events.push(json!({"type": "status", "profile": profile, "health": Health::Unknown.word()}));
        }
        if standings.is_empty() && without.is_empty() {
            text += &format!("no run is recorded in {}\n", self.selection.directory());
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

fn screen(standing: &Standing<'_>, health: Health, rpo: &Rpo, now: u64) -> String {
    let when = |record: &Record| utc(record.started_seconds);
    let good = match (standing.last_good, standing.age(now)) {
        (None, _) => "never".to_owned(),
        (Some(good), Age::Seconds(age)) => format!("{}, {} ago", when(good), span(age)),
        (Some(good), _) => format!("{}, but a run began in the future: a clock is or was wrong", when(good)),
    };
    let rpo = match rpo {
        Ok(Some(rpo)) => format!("at most {} is allowed", span(*rpo)),
        Ok(None) => "nothing says how old it may be: the profile has no schedule.rpo".to_owned(),
        Err(error) => format!("it cannot be told how old it may be: {}", one_line(&error.message)),
    };
    let mut text = format!(
        "{:<9} {}\n  last good {good}; {rpo}\n  last run  {}, {}\n",
        health.word(),
        name(standing),
        when(standing.last),
        ending(standing.last)
    );
    if let Some(ended) = standing.last_ended.filter(|ended| ended.run != standing.last.run) {
        text += &format!("  before it {}, {}\n", when(ended), ending(ended));
    }
    if standing.refused_since_good > 0 {
        text += &format!("  refused   {} since the last good run\n", standing.refused_since_good);
    }
    text
}

fn event(standing: &Standing<'_>, health: Health, rpo: &Rpo, now: u64) -> Value {
    let age = match standing.age(now) {
        Age::Seconds(age) => Some(age),
        Age::Never | Age::Ahead(_) => None,
    };
    let last = standing.last;
    json!({
        "type": "status",
        "profile": standing.profile,
        "source": standing.source,
        "destination": standing.destination,
        "health": health.word(),
        "rpo_seconds": rpo.as_ref().ok().copied().flatten(),
        "age_seconds": age,
        "last_good_run": standing.last_good.map(|record| record.run),
        "last_good_seconds": standing.last_good.map(|record| record.started_seconds),
        "last_run": last.run,
        "last_run_seconds": last.started_seconds,
        "last_run_outcome": last.outcome.word(),
        "last_run_exit_code": last.exit_code,
        "problems": last.problem_count,
        "refused_since_good": standing.refused_since_good,
    })
}
