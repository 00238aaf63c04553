//! The last screen of a preparation, and its events for a script.
//!
//! Why: the person who reads it reboots next. What can go wrong: text from the copied root that steers the terminal;
//! all of it is made harmless, and the last line is one of three words.

use std::fmt::Write;

use serde_json::{Value, json};
use syncore::monitor::Monitor;
use syncore::prepare::{EditChange, Filesystem, Outcome, Report, Target, Weight};

use crate::error::harmless;
use crate::interrupt;

/// Listens for the signal to stop, and to nothing else.
pub(crate) struct Interrupted;

impl Monitor for Interrupted {
    fn cancelled(&self) -> bool {
        interrupt::requested()
    }
}

/// The word of the last line.
const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ready => "READY",
        Outcome::Pending => "PENDING",
        Outcome::Failed => "FAILED",
    }
}

/// Everything for a person.
pub(crate) fn screen(report: &Report, target: &Target, dry_run: bool) -> String {
    let mut text = String::new();
    section(&mut text, "system", [report.system.clone()]);
    section(&mut text, "target", target_lines(target));
    if dry_run {
        let edits = report.edits.iter().map(|edit| format!("# {}\n{}", edit.why, edit.diff()));
        section(
            &mut text,
            "edits",
            edits.flat_map(|edit| edit.lines().map(str::to_owned).collect::<Vec<_>>()),
        );
        section(&mut text, "commands in the root", report.commands.iter().map(|argv| argv.join(" ")));
    }
    let widest = |part: fn(&syncore::prepare::Replaced) -> &str| {
        report.replaced.iter().map(|row| part(row).chars().count()).max().unwrap_or(0)
    };
    let (what, old) = (widest(|row| &row.what), widest(|row| &row.old));
    let replaced =
        report.replaced.iter().map(|row| format!("{:what$}  {:old$}  ->  {}", row.what, row.old, row.new));
    section(&mut text, "old and new", replaced);
    section(&mut text, "will start", report.starts.iter().cloned());
    let held = report.held.iter().map(|held| format!("{}: {} ({})", held.kind, held.name, held.how));
    section(&mut text, "held until promoted", held);
    let keys = report.host_keys.iter().map(|key| format!("{}  {}", key.fingerprint, key.path));
    section(&mut text, "new host keys", keys);
    let known = report.host_keys.iter().map(|key| key.known_hosts_line.clone());
    section(&mut text, "for production's known_hosts", known);
    for (weight, title) in
        [(Weight::Note, "notes"), (Weight::Pending, "left to be done"), (Weight::Failure, "in the way")]
    {
        let findings = report.findings.iter().filter(|finding| finding.weight == weight);
        section(
            &mut text,
            title,
            findings.map(|finding| match &finding.path {
                Some(path) => format!("{path}: {}", finding.message),
                None => finding.message.clone(),
            }),
        );
    }
    section(&mut text, "pending commands", report.pending.iter().map(|argv| argv.join(" ")));
    if dry_run {
        text.push_str("nothing was changed\n");
    } else {
        let _ = writeln!(text, "{}", word(report.outcome));
    }
    text
}

fn section(text: &mut String, title: &str, lines: impl IntoIterator<Item = String>) {
    let mut lines = lines.into_iter().peekable();
    if lines.peek().is_some() {
        let _ = writeln!(text, "{title}:");
        for line in lines {
            let _ = writeln!(text, "  {}", harmless(&line.replace('\t', "        ")));
        }
    }
}

fn target_lines(target: &Target) -> Vec<String> {
    let mut lines: Vec<String> = target.filesystems.iter().map(filesystem_line).collect();
    let disks: Vec<String> = target.boot_disks.iter().map(|disk| disk.display().to_string()).collect();
    let firmware = if target.uefi { "UEFI" } else { "BIOS" };
    lines.push(format!(
        "boot disks {}; this machine: {}, started by {firmware}",
        if disks.is_empty() { "none".to_owned() } else { disks.join(" ") },
        target.architecture
    ));
    lines
}

fn filesystem_line(filesystem: &Filesystem) -> String {
    let place = filesystem.mount_point.as_ref().map_or_else(|| "swap".to_owned(), ToString::to_string);
    let uuid = filesystem.uuid.as_deref().unwrap_or("no UUID");
    format!("{place}  {}  {}  {uuid}", filesystem.kind, filesystem.device.display())
}

/// Everything for a script: one event a line, the summary last.
pub(crate) fn events(report: &Report, dry_run: bool) -> Vec<Value> {
    let mut events = Vec::new();
    for edit in &report.edits {
        let change = match edit.change {
            EditChange::Write { .. } => "write",
            EditChange::Symlink { .. } => "symlink",
            EditChange::Directory { .. } => "directory",
            EditChange::Remove => "remove",
            EditChange::Clear => "clear",
            EditChange::Rename { .. } => "rename",
            EditChange::Hold { .. } => "hold",
        };
        events.push(json!({
            "type": "edit", "path": edit.path.to_string(), "class": edit.class.to_string(),
            "change": change, "why": edit.why, "diff": edit.diff(),
        }));
    }
    events.extend(
        report
            .replaced
            .iter()
            .map(|row| json!({"type": "replaced", "what": row.what, "old": row.old, "new": row.new})),
    );
    events.extend(
        report
            .held
            .iter()
            .map(|held| json!({"type": "held", "kind": held.kind, "name": held.name, "how": held.how})),
    );
    events.extend(report.host_keys.iter().map(|key| {
        json!({
            "type": "host-key", "path": key.path.to_string(), "fingerprint": key.fingerprint,
            "known_hosts_line": key.known_hosts_line,
        })
    }));
    events.extend(report.findings.iter().map(|finding| {
        json!({
            "type": "finding", "weight": weight_word(finding.weight), "message": finding.message,
            "path": finding.path.as_ref().map(ToString::to_string),
        })
    }));
    events.extend(report.commands.iter().map(|argv| json!({"type": "command", "argv": argv})));
    events.push(json!({
        "type": "summary",
        "outcome": if dry_run { "planned".to_owned() } else { word(report.outcome).to_ascii_lowercase() },
        "system": report.system,
        "starts": report.starts,
        "pending": report.pending,
        "edits": report.edits.len(),
        "held": report.held.len(),
    }));
    events
}

const fn weight_word(weight: Weight) -> &'static str {
    match weight {
        Weight::Note => "note",
        Weight::Pending => "pending",
        Weight::Failure => "failure",
    }
}
