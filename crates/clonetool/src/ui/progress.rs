//! Progress: a bar for who watches a terminal, plain lines for who asks for them elsewhere.
//!
//! Why: a first clone takes minutes, and a person wants to know how many. What can go wrong: a total that is made
//! up. Before the plan is made there is none, so only what was counted is shown; after it the total is the plan's.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use syncore::monitor::Phase;

use super::{complain, lock};
use crate::arguments::OutputOptions;

/// How often plain lines say how far the transfer is.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The word for a phase, also in JSON.
pub(super) const fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect => "connect",
        Phase::Scan => "scan",
        Phase::Compare => "compare",
        Phase::Transfer => "transfer",
        Phase::Finish => "finish",
        _ => "run",
    }
}

/// What the bar looks like in a phase, when `bytes` of content are planned.
const fn template(phase: Phase, bytes: u64) -> &'static str {
    match phase {
        Phase::Transfer if bytes > 0 => {
            "{prefix} [{bar:24}] {percent}% {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left {msg}"
        }
        Phase::Transfer => "{prefix} [{bar:24}] {percent}% {msg}",
        _ => "{spinner} {prefix} {msg}",
    }
}

/// Where progress is shown.
enum Form {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

/// What was counted so far, and how it is shown.
pub(super) struct Progress {
    form: Form,
    scanned: AtomicU64,
    changes_planned: AtomicU64,
    bytes_planned: AtomicU64,
    changes_done: AtomicU64,
    bytes_done: AtomicU64,
    /// When the transfer began and when its last plain line was printed.
    transfer: Mutex<Option<(Instant, Instant)>>,
}

impl Progress {
    /// Chooses the form: a bar where standard error is a terminal and the output is for people.
    pub(super) fn choose(options: &OutputOptions) -> Self {
        let form = if options.quiet {
            Form::Nothing
        } else if io::stderr().is_terminal() && (options.progress || !options.json) {
            Form::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10)))
        } else if options.progress || options.verbose {
            Form::Lines
        } else {
            Form::Nothing
        };
        Self::new(form)
    }

    fn new(form: Form) -> Self {
        Self {
            form,
            scanned: AtomicU64::new(0),
            changes_planned: AtomicU64::new(0),
            bytes_planned: AtomicU64::new(0),
            changes_done: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            transfer: Mutex::default(),
        }
    }

    pub(super) fn phase(&self, phase: Phase) {
        if phase == Phase::Transfer {
            let now = Instant::now();
            *lock(&self.transfer) = Some((now, now));
        }
        match &self.form {
            Form::Bar(bar) => self.restyle(bar, phase),
            Form::Lines => complain(&self.phase_line(phase)),
            Form::Nothing => {}
        }
    }

    fn restyle(&self, bar: &ProgressBar, phase: Phase) {
        let (bytes, changes) =
            (self.bytes_planned.load(Ordering::Relaxed), self.changes_planned.load(Ordering::Relaxed));
        if let Ok(style) = ProgressStyle::with_template(template(phase, bytes)) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(word(phase));
        bar.set_message("");
        if phase == Phase::Transfer {
            bar.set_position(0);
            bar.set_length(if bytes > 0 { bytes } else { changes });
            bar.reset_eta();
        }
        bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn phase_line(&self, phase: Phase) -> String {
        match phase {
            Phase::Transfer => format!(
                "transfer: {} changes, {} of content",
                HumanCount(self.changes_planned.load(Ordering::Relaxed)),
                HumanBytes(self.bytes_planned.load(Ordering::Relaxed))
            ),
            Phase::Compare => {
                format!("compare: {} entries scanned", HumanCount(self.scanned.load(Ordering::Relaxed)))
            }
            _ => word(phase).to_owned(),
        }
    }

    pub(super) fn scanned(&self, entries: u64) {
        let all = self.scanned.fetch_add(entries, Ordering::Relaxed) + entries;
        if let Form::Bar(bar) = &self.form {
            bar.set_message(format!("{} entries", HumanCount(all)));
        }
    }

    pub(super) fn planned(&self, changes: u64, content_bytes: u64) {
        self.changes_planned.store(changes, Ordering::Relaxed);
        self.bytes_planned.store(content_bytes, Ordering::Relaxed);
    }

    pub(super) fn changed(&self) {
        let done = self.changes_done.fetch_add(1, Ordering::Relaxed) + 1;
        if let Form::Bar(bar) = &self.form {
            let planned = self.changes_planned.load(Ordering::Relaxed);
            bar.set_message(format!("({} of {} changes)", HumanCount(done), HumanCount(planned)));
            if self.bytes_planned.load(Ordering::Relaxed) == 0 {
                bar.set_position(done);
            }
        }
    }

    pub(super) fn transferred(&self, bytes: u64) {
        let done = self.bytes_done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.form {
            Form::Bar(bar) => bar.set_position(done),
            Form::Lines => {
                let mut transfer = lock(&self.transfer);
                let Some((began, last)) = transfer.as_mut() else { return };
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    complain(&transfer_line(
                        done,
                        self.bytes_planned.load(Ordering::Relaxed),
                        began.elapsed(),
                    ));
                }
            }
            Form::Nothing => {}
        }
    }

    /// Runs `print` with the bar out of the way.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        match &self.form {
            Form::Bar(bar) => bar.suspend(print),
            Form::Lines | Form::Nothing => print(),
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }
}

/// How far the transfer is, how fast it goes and how long it will take if it goes on like that.
fn transfer_line(done: u64, planned: u64, elapsed: Duration) -> String {
    let per_second = (u128::from(done) * 1000).checked_div(elapsed.as_millis()).unwrap_or(0);
    let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
    let left = match planned.saturating_sub(done).checked_div(per_second) {
        Some(seconds) => format!(", {seconds} s left"),
        None => String::new(),
    };
    format!("transfer: {} of {}, {}/s{left}", HumanBytes(done), HumanBytes(planned), HumanBytes(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_and_the_time_left_follow_from_what_was_counted() {
        assert_eq!(
            transfer_line(10 << 20, 40 << 20, Duration::from_secs(10)),
            "transfer: 10.00 MiB of 40.00 MiB, 1.00 MiB/s, 30 s left"
        );
        assert_eq!(transfer_line(0, 40, Duration::ZERO), "transfer: 0 B of 40 B, 0 B/s");
    }

    #[test]
    fn every_template_is_one() {
        for (phase, bytes) in [(Phase::Scan, 0), (Phase::Transfer, 0), (Phase::Transfer, 1)] {
            assert!(ProgressStyle::with_template(template(phase, bytes)).is_ok(), "{phase:?} {bytes}");
        }
    }

    #[test]
    fn totals_come_from_the_plan_only() {
        let progress = Progress::new(Form::Lines);
        progress.scanned(3);
        progress.scanned(4);
        assert_eq!(progress.phase_line(Phase::Compare), "compare: 7 entries scanned");
        progress.planned(5, 2048);
        assert_eq!(progress.phase_line(Phase::Transfer), "transfer: 5 changes, 2.00 KiB of content");
    }
}
