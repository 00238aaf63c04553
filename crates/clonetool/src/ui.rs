//! Everything that a run prints, and the [`Monitor`] through which the library tells what it does.
//!
//! Why: what is printed depends on who watches: a person at a terminal sees progress and a summary, a script asks
//! for JSON, and cron hears nothing unless something is wrong. What can go wrong: a file name that steers the
//! terminal (all names are escaped), and a reader that went away (noticed at the first failed write, after which
//! the run is asked to stop in good order).

pub(crate) mod json;
pub(crate) mod log;
pub(crate) mod preparation;
mod progress;
pub(crate) mod summary;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncore::gate::Answer;
use syncore::monitor::{Monitor, Phase};
use syncore::plan::{Change, Item, Plan};
use syncore::problem::Problem;
use syncore::profile::{Gate, Profile};
use syncore::session::{Job, Location, Options, Report};
use syncore::tree::{Kind, RelPath, escape};

use crate::arguments::OutputOptions;
use crate::error::{CommandError, harmless};
use crate::gates::{self, Moment};
use crate::interrupt;
use crate::recorder::Recorder;
use crate::run::{Outcome, Purpose};
use log::Log;
use progress::Progress;

/// How many problems are printed unless `--verbose` asks for all.
const PROBLEMS_SHOWN: usize = 20;

/// The output of one run.
pub(crate) struct Ui {
    json: bool,
    itemize: bool,
    summary: bool,
    verbose: bool,
    /// Whether somebody wants to know what a run would do.
    foretells: bool,
    progress: Progress,
    log: Option<Log>,
    recorder: Option<Recorder>,
    started: Instant,
    problems: Mutex<Vec<Problem>>,
    output_failed: AtomicBool,
    output_error: Mutex<Option<io::Error>>,
}

impl Ui {
    /// Decides what is printed and where, and opens the log file; when it cannot, it says so in every other form.
    pub(crate) fn open(
        purpose: Purpose,
        options: &OutputOptions,
        recorder: Option<Recorder>,
    ) -> Result<Self, CommandError> {
        let log = options.log_file.as_deref().map(Log::open).transpose().inspect_err(|error| {
            if let Some(recorder) = &recorder {
                recorder.failed(error);
            }
            not_opened(options, error);
        })?;
        // Of a run that changes nothing, what it prints is all there is: it is printed wherever it goes.
        let asked = purpose != Purpose::Change || options.verbose || io::stdout().is_terminal();
        let human = !options.json && !options.quiet;
        Ok(Self {
            json: options.json,
            itemize: human && (options.itemize || purpose != Purpose::Change),
            summary: human && asked,
            verbose: options.verbose,
            foretells: purpose == Purpose::Plan,
            progress: Progress::choose(options),
            log,
            recorder,
            started: Instant::now(),
            problems: Mutex::default(),
            output_failed: AtomicBool::new(false),
            output_error: Mutex::default(),
        })
    }

    /// The profile of the run is known.
    pub(crate) fn profile(&self, profile: &Profile) {
        if let Some(recorder) = &self.recorder {
            recorder.profile(profile);
        }
    }

    /// Says in the log what begins.
    pub(crate) fn started(&self, job: &Job) {
        let (source, destination) = (place(&job.source), place(&job.destination));
        self.started_from(&source, &destination);
        if let Some(recorder) = &self.recorder {
            recorder.ends(Some(&source), &destination);
        }
    }

    /// Says in the log what begins; both ends are escaped.
    pub(crate) fn started_from(&self, source: &str, destination: &str) {
        if let Some(log) = &self.log {
            log.line(&format!("start: {source} to {destination}"));
        }
    }

    /// Prints the plan's changes, in every form that was asked for.
    pub(crate) fn show_plan(&self, plan: &Plan) {
        self.progress.suspend(|| {
            self.print(|out| {
                for item in plan.items() {
                    if self.json {
                        writeln!(out, "{}", json::change(&item))?;
                    } else if self.itemize {
                        writeln!(out, "{}", itemized(&item))?;
                    }
                }
                Ok(())
            });
        });
        if let Some(log) = &self.log {
            log.line(&format!("plan {}: {} changes", plan.id(), plan.len()));
            plan.items().for_each(|item| log.line(&itemized(&item)));
        }
        if let Some(recorder) = &self.recorder {
            recorder.plan(plan);
        }
    }

    /// What was done is a part of what the profile says, and settles nothing about the whole.
    pub(crate) fn partial(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.partial();
        }
    }

    /// Records how a run ended, before anybody is told: without its record it did not end well.
    pub(crate) fn recorded(&self, outcome: Outcome, report: &Report) -> Outcome {
        self.recorder.as_ref().map_or(outcome, |recorder| recorder.finished(outcome, report))
    }

    /// Prints problems and the summary of a run that came to its end.
    pub(crate) fn finished(&self, outcome: Outcome, options: &Options, report: &Report) {
        let elapsed = self.started.elapsed();
        let text = summary::lines(outcome, options, report, elapsed);
        let summary = json::summary(outcome, report, elapsed);
        self.concluded(outcome, &report.problems, &text, &summary);
    }

    /// How long ago the command began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints problems and how it ended, in every form that was asked for; the last line of `text` is the verdict.
    pub(crate) fn concluded(
        &self,
        outcome: Outcome,
        problems: &[Problem],
        text: &[String],
        summary: &serde_json::Value,
    ) {
        self.progress.clear();
        self.show_problems(problems);
        self.print(|out| {
            if self.json {
                problems.iter().try_for_each(|problem| writeln!(out, "{}", json::problem(problem)))?;
                writeln!(out, "{summary}")?;
            } else if self.summary {
                text.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            }
            Ok(())
        });
        // Where the summary is not shown, a run with problems still says in one line why it is not well.
        if outcome == Outcome::Problems
            && !self.summary
            && let Some(verdict) = text.last()
        {
            complain(&format!("clonetool: {verdict}"));
        }
        if let Some(log) = &self.log {
            text.iter().for_each(|line| log.line(line));
        }
    }

    /// Prints what is left to say of a run that failed, but for the error itself.
    pub(crate) fn failed(&self, error: &CommandError) {
        if let Some(recorder) = &self.recorder {
            recorder.failed(error);
        }
        self.progress.clear();
        let problems = std::mem::take(&mut *lock(&self.problems));
        self.show_problems(&problems);
        if self.json {
            self.print(|out| {
                problems.iter().try_for_each(|problem| writeln!(out, "{}", json::problem(problem)))?;
                writeln!(out, "{}", json::failure(error, problems.len(), self.started.elapsed()))
            });
        }
        if let Some(log) = &self.log {
            error.lines().iter().for_each(|line| log.line(line));
        }
    }

    fn show_problems(&self, problems: &[Problem]) {
        let shown = if self.verbose { problems.len() } else { PROBLEMS_SHOWN };
        for problem in problems.iter().take(shown) {
            complain(&format!("clonetool: {problem}"));
        }
        if problems.len() > shown {
            complain(&format!(
                "clonetool: and {} more problems (--verbose shows all)",
                problems.len() - shown
            ));
        }
    }

    /// The error that ended the standard output, once.
    pub(crate) fn output_error(&self) -> Result<(), CommandError> {
        lock(&self.output_error).take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Prints what the user should know and what stops nothing: where the summary is shown, too, so that cron is
    /// not told the same every night.
    pub(crate) fn warn(&self, text: &str) {
        let text = harmless(text);
        if self.summary {
            self.progress.suspend(|| complain(&format!("clonetool: warning: {text}")));
        }
        self.print_event(|| json::warning(&text));
        if let Some(log) = &self.log {
            log.line(&format!("warning: {text}"));
        }
    }

    /// Prints what happened besides the run and somebody has to know, also where nobody watches.
    pub(crate) fn notice(&self, text: &str) {
        let text = harmless(text);
        self.progress.suspend(|| alert(&text));
        self.print_event(|| json::warning(&text));
        if let Some(log) = &self.log {
            log.line(&format!("warning: {text}"));
        }
    }

    /// Says what a gate answered.
    pub(crate) fn gate(&self, gate: &Gate, answer: &Answer, moment: Moment) {
        self.print_event(|| json::gate(gate, answer, moment));
        let lines = gates::lines(gate, answer);
        if self.verbose && self.summary {
            self.progress.suspend(|| {
                self.print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")));
            });
        }
        if let Some(log) = &self.log {
            lines.iter().for_each(|line| log.line(&format!("gate {line}")));
        }
        if let Some(recorder) = &self.recorder {
            recorder.gate(gate, answer, moment);
        }
    }

    fn print(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.output_failed.load(Ordering::Relaxed) {
            return;
        }
        let mut out = BufWriter::new(io::stdout().lock());
        if let Err(error) = write(&mut out).and_then(|()| out.flush()) {
            self.output_failed.store(true, Ordering::Relaxed);
            *lock(&self.output_error) = Some(error);
        }
    }

    fn print_event(&self, event: impl FnOnce() -> serde_json::Value) {
        if self.json {
            self.print(|out| writeln!(out, "{}", event()));
        }
    }
}

impl Monitor for Ui {
    fn phase(&self, phase: Phase) {
        self.progress.phase(phase);
        self.print_event(|| json::phase(phase));
        if let Some(log) = &self.log {
            log.line(progress::word(phase));
        }
        if let Some(recorder) = &self.recorder {
            recorder.phase(progress::word(phase));
        }
    }

    fn scanned(&self, entries: u64) {
        self.progress.scanned(entries);
    }

    fn planned(&self, changes: u64, content_bytes: u64) {
        self.progress.planned(changes, content_bytes);
        self.print_event(|| json::planned(changes, content_bytes));
    }

    fn changed(&self, _path: &RelPath, _change: &Change) {
        self.progress.changed();
    }

    fn transferred(&self, bytes: u64) {
        self.progress.transferred(bytes);
    }

    fn problem(&self, problem: &Problem) {
        if let Some(log) = &self.log {
            log.line(&problem.to_string());
        }
        if let Some(recorder) = &self.recorder {
            recorder.problem(problem);
        }
        lock(&self.problems).push(problem.clone());
    }

    fn recovered(&self, profile: &str, generation: u64, problems: u64) {
        let profile = harmless(profile);
        self.warn(&format!(
            "an interrupted run of {profile} was completed first: the standby was in state {generation}"
        ));
        if let Some(recorder) = &self.recorder {
            recorder.recovered(&profile, generation, problems);
        }
    }

    fn changed_here(&self, generation: u64, paths: &[RelPath]) {
        let line = |path: &RelPath| format!("changed on the standby since state {generation}: {path}");
        self.progress.suspend(|| {
            self.print(|out| {
                for path in paths {
                    if self.json {
                        writeln!(out, "{}", json::changed_here(generation, path))?;
                    } else if self.itemize {
                        writeln!(out, "{}", line(path))?;
                    }
                }
                Ok(())
            });
        });
        if let Some(log) = &self.log {
            paths.iter().for_each(|path| log.line(&line(path)));
        }
        if let Some(recorder) = &self.recorder {
            recorder.changed_here(paths);
        }
    }

    fn would_refuse(&self, reason: &str) {
        if self.foretells {
            self.warn(&format!("a run would be refused: {reason}"));
        }
    }

    fn cancelled(&self) -> bool {
        interrupt::requested() || self.output_failed.load(Ordering::Relaxed)
    }
}

/// Prints the message of an error that ended the command.
pub(crate) fn report_error(error: &CommandError) {
    error.lines().iter().for_each(|line| complain(line));
}

/// Prints the last line of a run whose output could not even be opened.
fn not_opened(options: &OutputOptions, error: &CommandError) {
    if options.json {
        // The exit code says the same, should the standard output be what is broken.
        let _ = writeln!(io::stdout().lock(), "{}", json::failure(error, 0, Duration::ZERO));
    }
}

/// Says on standard error, also where nobody watches, what is wrong and stops nothing.
pub(crate) fn alert(text: &str) {
    complain(&format!("clonetool: warning: {}", harmless(text)));
}

/// Prints what a command has to say that is no run. A reader that went away has seen what it wanted.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints what a command that is no run has to say to a script.
pub(crate) fn print_events(events: &[serde_json::Value]) -> Result<(), CommandError> {
    let lines: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
    print(&lines.concat())
}

/// Writes a line to standard error. When even that is gone, there is nobody left to tell.
fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The line of a change, as rsync prints it: what is done, the path, and where a link leads or a file comes from.
fn itemized(item: &Item) -> String {
    let line = format!("{} {}", item.itemize(), item.path);
    match (&item.link_to, &item.moved_from) {
        (Some(leader), _) => format!("{line} => {leader}"),
        (None, Some(from)) => format!("{line} <= {from}"),
        (None, None) if item.entry.kind == Kind::Symlink && !matches!(item.change, Change::Delete(_)) => {
            format!("{line} -> {}", escape(&item.entry.target))
        }
        (None, None) => line,
    }
}

/// An end of a run for people.
pub(crate) fn place(location: &Location) -> String {
    match location {
        Location::Local(root) => escape(root.as_os_str().as_encoded_bytes()),
        Location::Remote(remote, root) => on_host(&remote.host, root),
    }
}

/// A directory on another host for people.
pub(crate) fn on_host(host: &str, root: &Path) -> String {
    format!("{}:{}", escape(host.as_bytes()), escape(root.as_os_str().as_encoded_bytes()))
}

/// A panic elsewhere leaves no half-done state in what these locks guard.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use syncore::tree::Entry;

    use super::*;

    #[test]
    fn a_line_shows_where_links_lead_and_steers_no_terminal() {
        let mut item = Item {
            path: RelPath::new(&b"a\x1b[2J"[..]).unwrap(),
            change: Change::Create,
            entry: Entry { target: b"../\xff".to_vec(), ..Entry::new(Kind::Symlink) },
            link_to: None,
            moved_from: None,
        };
        assert_eq!(itemized(&item), "cL+++++++++ /a\\x1b[2J -> ../\\xff");
        item.link_to = RelPath::new("b").ok();
        assert_eq!(itemized(&item), "hL+++++++++ /a\\x1b[2J => /b");
        item = Item { entry: Entry::new(Kind::File), moved_from: item.link_to.take(), ..item };
        assert_eq!(itemized(&item), "cf+++++++++ /a\\x1b[2J <= /b");
    }
}
