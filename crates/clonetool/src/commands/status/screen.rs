//! What `status` shows of one standby.
//!
//! Why: it has to fit a screen with all the standbys of a host on it, so a line is there only when it has something to
//! say. What can go wrong: a name or a message from elsewhere that steers the terminal; all of them are made harmless.

use std::collections::BTreeMap;
use std::fmt::Write;

use syncore::problem::Operation;
use syncore::profile::Profile;
use syncore::record::{Age, Outcome, Record, Standing};
use syncore::rules::{Action, Class};

use super::super::check::name;
use crate::error::harmless;
use crate::health::{Health, SUSPENDED, ending, missed_runs, one_line, rolled_back, span};
use crate::outlook::{Outlook, RootState};
use crate::ui::log::utc;

/// How many paths a profile treats as not production's, by class, and how many rules protect beyond that.
pub(super) struct Protected {
    pub(super) classes: BTreeMap<String, usize>,
    pub(super) rules: usize,
}

impl Protected {
    pub(super) fn of(profile: &Profile) -> Self {
        let mut protected = Self { classes: BTreeMap::new(), rules: 0 };
        for rule in profile.rules() {
            match rule.action {
                Action::Class(class @ (Class::A | Class::B | Class::D | Class::G | Class::R)) => {
                    *protected.classes.entry(class.to_string()).or_default() += 1;
                }
                Action::Protect => protected.rules += 1,
                _ => {}
            }
        }
        protected
    }

    fn words(&self) -> String {
        let words = [
            (Class::A, "own"),
            (Class::B, "in part"),
            (Class::D, "runtime"),
            (Class::G, "held"),
            (Class::R, "apart"),
        ];
        let count = |class: Class| self.classes.get(&class.to_string());
        let mut words: Vec<String> = words
            .into_iter()
            .filter_map(|(class, word)| Some(format!("{} {word} ({class})", count(class)?)))
            .collect();
        if self.rules > 0 {
            words.push(format!("{} by rule", self.rules));
        }
        words.join(", ")
    }
}

/// A standby and what is known of it.
pub(super) fn standby(standing: &Standing<'_>, health: Health, outlook: &Outlook, now: u64) -> String {
    let mut text = format!("{:<9} {}\n", health.word(), name(standing));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    let when = |record: &Record| utc(record.started_seconds);
    let ago = |record: &Record| {
        format!("{}, {} ago", when(record), span(now.saturating_sub(record.started_seconds)))
    };
    let good = match (standing.last_good, standing.age(now)) {
        (None, _) if standing.rolled_back.is_some() => "none since it was rolled back".to_owned(),
        (None, _) => "never".to_owned(),
        (Some(good), Age::Seconds(_)) => ago(good),
        (Some(good), _) => format!("{}, but a run began in the future: a clock is or was wrong", when(good)),
    };
    let rpo = match (&outlook.profile, outlook.rpo_seconds()) {
        (_, Some(rpo)) => format!("at most {} is allowed", span(rpo)),
        (Ok(_), None) => "nothing says how old it may be: the profile has no schedule.rpo".to_owned(),
        (Err(error), None) => format!("it cannot be told how old it may be: {}", one_line(&error.message)),
    };
    line("last good", format!("{good}; {rpo}"));
    line("last run", format!("{}, {}", when(standing.last), ending(standing.last)));
    let ended = standing.last_ended;
    if let Some(ended) = ended.filter(|ended| ended.run != standing.last.run) {
        line("before it", format!("{}, {}", when(ended), ending(ended)));
    }
    if standing.refused_since_good > 0 {
        line("refused", format!("{} since the last good run", standing.refused_since_good));
    }
    if let Some(problem) = ended.and_then(|ended| ended.problems.first()) {
        let (path, operation, reason) = (&problem.path, &problem.operation, &problem.reason);
        line("problem", one_line(&format!("{path}: cannot {operation}: {reason}")));
        let more = ended.map_or(0, |ended| ended.problem_count.saturating_sub(1));
        if let (1.., Some(ended)) = (more, ended) {
            line("", format!("and {more} more: clonetool history --run {}", ended.run));
        }
    }
    if let Some(back) = standing.rolled_back {
        line("back", rolled_back(back, now));
    }
    if let Some(recovered) = standing.recovered {
        line("recovered", format!("{}, {}", ago(recovered), ending(recovered)));
    }
    match &outlook.due {
        Some(Ok(due)) if due.missed > 0 => {
            line("next run", format!("{}; {}", due.shown, missed_runs(due.missed)));
        }
        Some(Ok(due)) => line("next run", due.shown.clone()),
        Some(Err(error)) => line("next run", one_line(&error.message)),
        None => {}
    }
    if let Some(state) = outlook.generation(standing) {
        line("state", state.to_string());
    }
    if let Some(verified) = standing.verified {
        line("verified", format!("{}, {}", ago(verified), drift(verified)));
    }
    let protected = outlook.profile.as_ref().ok().map(|profile| Protected::of(profile).words());
    if let Some(protected) = protected.filter(|protected| !protected.is_empty()) {
        line("protected", format!("{protected}: clonetool explain {} PATH", harmless(standing.profile)));
    }
    match &outlook.root {
        Some(Ok(root)) => of_root("", root, &mut line),
        Some(Err(error)) => line("root", one_line(&error.message)),
        None => {
            if let Some(boot) = ended.and_then(boot) {
                line("boot", boot);
            }
        }
    }
    text
}

/// A standby root on this host.
pub(super) fn root(path: &str, root: &RootState) -> String {
    let mut text = format!("{:<9} {path}\n", "standby");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    if root.state.generation > 0 {
        line("state", root.state.generation.to_string());
    }
    let at = if path == "/" { String::new() } else { format!(" {path}") };
    of_root(&at, root, &mut line);
    text
}

/// `at` is what a command about it takes behind its name.
fn of_root(at: &str, root: &RootState, line: &mut dyn FnMut(&str, String)) {
    if root.state.suspended {
        line("suspended", SUSPENDED.to_owned());
    }
    if root.state.interrupted {
        line(
            "run",
            format!("one is being committed, or was interrupted: clonetool recover{at} completes it"),
        );
    }
    let Some(prepared_as) = &root.prepared_as else { return };
    let prepared_as = harmless(prepared_as);
    let boot = match (root.complete, root.left.is_empty()) {
        (false, _) => "its preparation did not come to its end: run prepare-root again".to_owned(),
        (true, true) => format!("prepared as {prepared_as}; nothing is left undone"),
        (true, false) => format!("prepared as {prepared_as}; {}", root.left_undone()),
    };
    line("boot", boot);
    match root.held() {
        Ok(0) => {}
        Ok(held) => line("held", format!("{held} of production's: clonetool hold list{at}")),
        Err(error) => line("held", one_line(&error.message)),
    }
}

/// What a verification found, in words.
fn drift(verified: &Record) -> String {
    let Some(counts) = &verified.counts else { return ending(verified) };
    let paths = counts.created + counts.updated + counts.metadata_only + counts.deleted + counts.moved;
    match verified.outcome {
        Outcome::Differences => format!("{paths} paths differed"),
        _ => ending(verified),
    }
}

/// What the last run says of the next boot of a standby on another host; none when it is none, or was not reached.
fn boot(ended: &Record) -> Option<String> {
    let undone = ended.problems.iter().find(|problem| problem.operation == Operation::FollowUp.words());
    match undone {
        Some(problem) => Some(format!("left undone by the last run: {}", one_line(&problem.reason))),
        None if ended.standby => Some("nothing was left undone by the last run".to_owned()),
        None => None,
    }
}
