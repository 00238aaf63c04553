//! One slice of a check of content, with everything around it: where it goes on, what it found, how far it came.
//!
//! Why: what was corrupted without a trace, or changed with its times put back, is what no sync sees. What can go wrong:
//! a change since the last sync that is taken for it. So only a file counts of which both ends have the same size and the
//! same time, and not the same content. And a check that broke off must not move on: the place is written at the end.

use std::path::Path;

use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};
use syncore::plan::{Change, Item, Plan};
use syncore::record::{Finished, Lap, Laps};
use syncore::session::{self, Approval, Job, Portion, Report, SessionError};
use syncore::tree::Attributes;
use syncore::wire::WireError;

use crate::arguments::OutputOptions;
use crate::error::CommandError;
use crate::health::span;
use crate::interrupt;
use crate::recorder::Recorder;
use crate::records::now_seconds;
use crate::run::{Outcome, Purpose};
use crate::ui::log::utc;
use crate::ui::{Ui, json as events, place, summary};

/// Checks the next slice of `budget_bytes` of what `prepare` says, and moves the place that is kept for a profile below
/// the directory of records.
pub(crate) fn execute(
    (records, profile): (&Path, &str),
    budget_bytes: u64,
    output: &OutputOptions,
    recorder: Recorder,
    prepare: impl FnOnce() -> Result<Job, CommandError>,
) -> Result<Outcome, CommandError> {
    let ui = Ui::open(Purpose::Verify, output, Some(recorder))?;
    let result = interrupt::install()
        .and_then(|()| prepare())
        .and_then(|job| check(records, profile, budget_bytes, job, &ui));
    if let Err(error) = &result {
        ui.failed(error);
    }
    result
}

fn check(
    records: &Path,
    profile: &str,
    budget_bytes: u64,
    mut job: Job,
    ui: &Ui,
) -> Result<Outcome, CommandError> {
    ui.started(&job);
    let (source, destination) = (place(&job.source), place(&job.destination));
    let laps = Laps::open(records, profile, &source, &destination)?;
    let laps = laps.ok_or_else(|| SessionError::Busy("the check of this standby".to_owned()))?;
    let (mut lap, wrong) = laps.read(profile, &source, &destination);
    if let Some(wrong) = wrong {
        ui.warn(&format!("the place of the last check is lost, a new lap begins: {wrong}"));
    }
    job.options.portion = Some(Portion { after: lap.cursor(), budget_bytes });
    let began_seconds = now_seconds();
    let mut found = Found::default();
    let mut approve = |plan: &Plan| {
        found = Found::of(plan);
        ui.show_plan(&found.drift);
        Approval::Run
    };
    let report = match session::run(&job, &mut approve, ui) {
        Err(SessionError::Cancelled | SessionError::Wire(WireError::Cancelled))
            if !interrupt::requested() =>
        {
            ui.output_error()?;
            return Err(SessionError::Cancelled.into());
        }
        result => result?,
    };
    let drift = found.drift.len() as u64;
    if let Some(measured) = &report.portion {
        lap.add(measured, drift, report.problems.len() as u64, (began_seconds, now_seconds()));
        laps.write(&lap)?;
    }
    let outcome = match (drift, report.problems.len()) {
        (1.., _) => Outcome::Differences,
        (0, 1..) => Outcome::Problems,
        (0, 0) => Outcome::Equal,
    };
    if drift == 0 && !settles(&report, &lap) {
        ui.partial();
    }
    // What else differs is no finding of this check.
    let told = Report { totals: found.drift.totals(), ..report.clone() };
    let outcome = ui.recorded(outcome, &told);
    let text = lines(&found, &report, &lap, outcome, ui);
    let mut summary = events::summary(outcome, &report, ui.elapsed());
    add(&mut summary, &found, &report, &lap);
    ui.concluded(outcome, &report.problems, &text, &summary);
    Ok(outcome)
}

/// Whether a slice without drift ends a lap without drift: only that says that all content is equal.
fn settles(report: &Report, lap: &Lap) -> bool {
    let at_the_end = report.portion.as_ref().is_some_and(|measured| measured.slice.until.is_none());
    at_the_end && lap.last.is_some_and(|last| last.checked.drift == 0 && last.checked.problems == 0)
}

/// What a comparison came to.
#[derive(Default)]
struct Found {
    /// The files whose content differs although size and time agree.
    drift: Plan,
    /// How many other paths differ: the next sync sees to them.
    changed: u64,
}

impl Found {
    fn of(plan: &Plan) -> Self {
        let mut found = Self::default();
        for item in plan.items() {
            if !is_drift(&item) || found.drift.push(&item).is_err() {
                found.changed += 1;
            }
        }
        found
    }
}

fn is_drift(item: &Item) -> bool {
    matches!(item.change, Change::Update(attributes) if attributes.contains(Attributes::DRIFT))
}

fn lines(found: &Found, report: &Report, lap: &Lap, outcome: Outcome, ui: &Ui) -> Vec<String> {
    let count = |count: u64, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{} {what}s", HumanCount(count)),
    };
    let mut lines = Vec::new();
    if let Some(measured) = &report.portion {
        let from =
            measured.slice.after.as_ref().map_or("the beginning".to_owned(), |path| format!("behind {path}"));
        let to = measured.slice.until.as_ref().map_or("the end".to_owned(), ToString::to_string);
        lines.push(format!(
            "checked   {}, {} on each end, from {from} to {to}",
            count(measured.files, "file"),
            HumanBytes(measured.bytes)
        ));
    }
    lines.push(format!("drift     {}", count(found.drift.len() as u64, "file")));
    if found.changed > 0 {
        lines.push(format!(
            "changed   {} since the last sync, which is no drift",
            count(found.changed, "path")
        ));
    }
    if let Some(began) = lap.began_seconds {
        let so_far = lap.so_far;
        lines.push(format!(
            "lap       began {}, so far {}, {}, drift in {}",
            utc(began),
            count(so_far.files, "file"),
            HumanBytes(so_far.bytes),
            count(so_far.drift, "file")
        ));
    }
    if let Some(last) = lap.last {
        lines.push(format!(
            "last lap  {} to {}, {}: {}, {}, drift in {}, {}",
            utc(last.began_seconds),
            utc(last.ended_seconds),
            span(last.ended_seconds.saturating_sub(last.began_seconds)),
            count(last.checked.files, "file"),
            HumanBytes(last.checked.bytes),
            count(last.checked.drift, "file"),
            count(last.checked.problems, "problem")
        ));
    }
    lines.push(format!("elapsed   {}", summary::seconds(ui.elapsed())));
    lines.push(match outcome {
        Outcome::Differences => "Drift: these files differ although size and time agree".to_owned(),
        Outcome::Problems => {
            format!("Not all could be checked: {}", count(report.problems.len() as u64, "problem"))
        }
        _ => "No drift in what was checked".to_owned(),
    });
    lines
}

/// The same for a script.
fn add(summary: &mut Value, found: &Found, report: &Report, lap: &Lap) {
    let last = lap.last.map(|Finished { began_seconds, ended_seconds, checked }| {
        json!({
            "began_seconds": began_seconds,
            "ended_seconds": ended_seconds,
            "files": checked.files,
            "bytes": checked.bytes,
            "drift": checked.drift,
            "problems": checked.problems,
        })
    });
    let measured = report.portion.clone().unwrap_or_default();
    summary["drift"] = json!(found.drift.len());
    summary["changed"] = json!(found.changed);
    summary["checked_files"] = json!(measured.files);
    summary["checked_bytes"] = json!(measured.bytes);
    summary["after"] = json!(measured.slice.after.map(|path| path.to_string()));
    summary["until"] = json!(measured.slice.until.map(|path| path.to_string()));
    summary["last_lap"] = json!(last);
}
