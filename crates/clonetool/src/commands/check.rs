//! `clonetool check`: the question that Nagios, Icinga and their like ask.
//!
//! Why: a standby that nobody watches gets old. The form is that of the Monitoring Plugins guidelines: one line, its
//! word, performance data behind a bar, and the exit codes 0, 1, 2 and 3. What can go wrong: an answer that is taken for
//! another one; whatever keeps this from judging, a mistake in its arguments included, is UNKNOWN and 3.

use std::time::Duration;

use clap::Args;
use syncore::profile::parse_duration;
use syncore::record::{Age, History, Standing};

use crate::error::CommandError;
use crate::health::{self, Health, Limits, one_line};
use crate::outlook::Outlook;
use crate::records::{Selection, now_seconds};
use crate::ui;

/// Tell monitoring whether the standbys are young enough
///
/// One line and the exit codes of the Monitoring Plugins guidelines: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. A standby is
/// as old as the beginning of its last good run. It is CRITICAL beyond the profile's schedule.rpo or when it was rolled
/// back, and WARNING beyond four fifths of the RPO, when the last run did not end well, or when scheduled runs are missing.
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    selection: Selection,
    /// Warn of a standby older than DURATION: 90m, 20h, 2d
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    warning: Option<Duration>,
    /// Call a standby critical that is older than DURATION, whatever its profile says
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    critical: Option<Duration>,
}

/// What is said when the arguments are wrong; clap has explained on standard error.
pub(crate) fn usage() -> u8 {
    say(Health::Unknown, "the arguments are wrong: see clonetool check --help", "")
}

/// Prints the line, and answers with its exit code.
fn say(health: Health, text: &str, performance: &str) -> u8 {
    // A bar begins the performance data, wherever it stands.
    let text = text.replace('|', "/");
    let bar = if performance.is_empty() { "" } else { " | " };
    match ui::print(&format!("CLONETOOL {} - {text}{bar}{performance}\n", health.word())) {
        Ok(()) => health.exit_code(),
        Err(_) => Health::Unknown.exit_code(),
    }
}

impl CheckArguments {
    pub(super) fn run(&self) -> u8 {
        match self.judge() {
            Ok((health, text, performance)) => say(health, &text, &performance),
            Err(error) => {
                let hint =
                    error.hints.first().map(|hint| format!(" ({})", one_line(hint))).unwrap_or_default();
                say(Health::Unknown, &format!("{}{hint}", one_line(&error.message)), "")
            }
        }
    }

    fn judge(&self) -> Result<(Health, String, String), CommandError> {
        if let (Some(warning), Some(critical)) = (self.warning, self.critical)
            && warning > critical
        {
            return Err(CommandError::usage("--warning is longer than --critical"));
        }
        let history = self.selection.read()?;
        let now = now_seconds();
        let (standings, without) = self.selection.standings(&history);
        let mut answers = Vec::new();
        let mut performance = Vec::new();
        for standing in &standings {
            let outlook = Outlook::of(standing, now);
            let (limits, unreadable) = self.limits(&outlook);
            let (mut health, mut text) = health::assess(standing, &outlook, limits, now);
            if let Some(reason) = unreadable {
                health = health.max(Health::Unknown);
                text = format!("{text}: {reason}");
            }
            let name = name(standing);
            answers.push((health, format!("{name}: {text}")));
            performance.push(performance_data(&name, standing.age(now), limits));
            performance.extend(outlook.missed().map(|missed| missed_data(&name, missed)));
        }
        answers.extend(without.iter().map(|name| (Health::Unknown, format!("{name}: no run is recorded"))));
        answers.extend(self.whole(&history, answers.is_empty()));
        // The worst is read first, also where a line is cut.
        answers.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
        let worst = answers.first().map_or(Health::Unknown, |(health, _)| *health);
        let text: Vec<String> = answers.into_iter().map(|(_, text)| text).collect();
        Ok((worst, text.join("; "), performance.join(" ")))
    }

    /// What is wrong with the records as such.
    fn whole(&self, history: &History, nothing: bool) -> Option<(Health, String)> {
        let directory = self.selection.directory();
        match (&history.damaged[..], nothing) {
            ([first, rest @ ..], _) => {
                let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
                let reason = one_line(&first.reason);
                Some((Health::Unknown, format!("a record cannot be read: {}: {reason}{more}", first.path)))
            }
            ([], true) => Some((Health::Unknown, format!("no run is recorded in {directory}"))),
            ([], false) => None,
        }
    }

    /// The limits of a profile, and why they cannot be known.
    fn limits(&self, outlook: &Outlook) -> (Limits, Option<String>) {
        let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs());
        let warning = seconds(self.warning);
        match (self.critical, &outlook.profile) {
            (Some(critical), _) => (Limits::new(warning, Some(critical.as_secs())), None),
            (None, Ok(_)) => {
                let rpo = outlook.rpo_seconds();
                let none =
                    rpo.is_none().then(|| "the profile has no schedule.rpo; give --critical".to_owned());
                (Limits::new(warning, rpo), none)
            }
            (None, Err(error)) => (Limits::new(warning, None), Some(one_line(&error.message))),
        }
    }
}

/// A standby in one word or three.
pub(super) fn name(standing: &Standing<'_>) -> String {
    match standing.destination {
        Some(destination) => format!("{} to {destination}", standing.profile),
        None => standing.profile.to_owned(),
    }
}

/// `'label'=value[UOM];[warn];[crit];[min];[max]`; a value that cannot be told is `U`.
fn performance_data(name: &str, age: Age, limits: Limits) -> String {
    let label = label(name);
    let Age::Seconds(age) = age else { return format!("'{label}'=U") };
    let limit = |limit: Option<u64>| limit.map(|seconds| seconds.to_string()).unwrap_or_default();
    format!("'{label}'={age}s;{};{};0", limit(limits.warning_seconds), limit(limits.critical_seconds))
}

/// The same of runs that did not begin: one is enough for a warning.
fn missed_data(name: &str, missed: usize) -> String {
    format!("'{} missed'={missed};0;;0", label(name))
}

/// What has no meaning of its own in performance data.
fn label(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '=' | '|' | '\'') { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn performance_data_has_the_form_of_the_guidelines() {
        let limits = Limits::new(None, Some(93_600));
        assert_eq!(performance_data("p to s:/", Age::Seconds(5), limits), "'p to s:/'=5s;74880;93600;0");
        assert_eq!(performance_data("p", Age::Seconds(5), Limits::default()), "'p'=5s;;;0");
        assert_eq!(performance_data("a='|b", Age::Never, limits), "'a___b'=U");
        assert_eq!(performance_data("p", Age::Ahead(1), limits), "'p'=U");
        assert_eq!(missed_data("p", 2), "'p missed'=2;0;;0");
    }
}
