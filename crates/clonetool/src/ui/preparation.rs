//! The last screen of a preparation, and its events for a script.
//!
//! Why: the person who reads it reboots next. What can go wrong: text from the copied root that steers the terminal;
//! all of it is made harmless, and the last line is one of three words.

use std::fmt::Write;

use serde_json::{Value, json};
use syncore::monitor::Monitor;
use syncore::prepare::{EditChange, Filesystem, Outcome, Report, Target, Undo, Weight};

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

/// As wide as a list of names gets.
const WIDTH: usize = 100;

/// Everything for a person.
pub(crate) fn screen(report: &Report, target: &Target, dry_run: bool) -> String {
    let mut text = String::new();
    section(&mut text, "system in the root", [report.system.clone()]);
    section(&mut text, "what it will boot from", target_lines(target));
    if dry_run {
        section(&mut text, "edits, each below its reason", edit_lines(report));
        let commands = report.commands.iter().map(|argv| argv.join(" "));
        section(&mut text, "commands that are run in the root afterwards, in this order", commands);
    }
    let widest = |part: fn(&syncore::prepare::Replaced) -> &str| {
        report.replaced.iter().map(|row| part(row).chars().count()).max().unwrap_or(0)
    };
    let (what, old) = (widest(|row| &row.what), widest(|row| &row.old));
    let replaced =
        report.replaced.iter().map(|row| format!("{:what$}  {:old$}  ->  {}", row.what, row.old, row.new));
    section(&mut text, "what was production's, and what the standby has instead", replaced);
    section(&mut text, "starts on the standby as production has changed it", report.starts.iter().cloned());
    section(
        &mut text,
        "held: does nothing until the standby is promoted (clonetool hold)",
        held_lines(report),
    );
    let keys = report.host_keys.iter().map(|key| format!("{}  {}", key.fingerprint, key.path));
    section(&mut text, "new SSH host keys", keys);
    let known = report.host_keys.iter().map(|key| key.known_hosts_line.clone());
    section(&mut text, "lines for known_hosts on production", known);
    let failures = if dry_run { "why the result would be FAILED" } else { "why it FAILED" };
    for (weight, title) in [
        (Weight::Note, "worth knowing"),
        (Weight::Pending, "left to be done by somebody before it is READY"),
        (Weight::Failure, failures),
    ] {
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
    let pending = report.pending.iter().map(|argv| argv.join(" "));
    section(&mut text, "commands that are left to be run in the root", pending);
    text.push('\n');
    if dry_run {
        let verdict = match report.outcome {
            Outcome::Ready => "READY, if its commands succeed",
            other => word(other),
        };
        let _ = writeln!(text, "nothing was changed; the result would be {verdict}");
    } else {
        let _ = writeln!(text, "{}", word(report.outcome));
    }
    text
}

/// Every edit below its reason, which is said once for those that share it. What only keeps a unit from starting is one
/// line each: there are many, and they are alike.
fn edit_lines(report: &Report) -> Vec<String> {
    let blocks: Vec<_> = report
        .held
        .iter()
        .flat_map(|held| &held.undo)
        .filter_map(|undo| match undo {
            Undo::TakeAway { path, .. } => Some(path),
            Undo::PutBack { .. } => None,
        })
        .collect();
    let mut lines = Vec::new();
    let mut said = "";
    for edit in &report.edits {
        if edit.why != said {
            lines.push(format!("# {}", edit.why));
            said = &edit.why;
        }
        if blocks.contains(&&edit.path) {
            lines.push(format!("block  {}", edit.path));
        } else {
            lines.extend(edit.diff().lines().map(str::to_owned));
        }
    }
    lines
}

/// What is held, by kind: names that are held in the same way together.
fn held_lines(report: &Report) -> Vec<String> {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for held in &report.held {
        let head = format!("{}, {}:", held.kind, held.how);
        match groups.iter_mut().find(|(other, _)| *other == head) {
            Some((_, names)) => names.push(&held.name),
            None => groups.push((head, vec![&held.name])),
        }
    }
    let mut lines = Vec::new();
    for (head, names) in groups {
        lines.push(head);
        let mut line = String::new();
        for name in names {
            if !line.is_empty() && line.len() + name.len() > WIDTH {
                lines.push(std::mem::take(&mut line));
            }
            let gap = if line.is_empty() { "  " } else { ", " };
            let _ = write!(line, "{gap}{name}");
        }
        lines.push(line);
    }
    lines
}

/// A title and its lines, with an empty line before it; nothing where there are none.
fn section(text: &mut String, title: &str, lines: impl IntoIterator<Item = String>) {
    let mut lines = lines.into_iter().peekable();
    if lines.peek().is_some() {
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}{title}:");
        for line in lines {
            let _ = writeln!(text, "  {}", harmless(&line.replace('\t', "        ")));
        }
    }
}

fn target_lines(target: &Target) -> Vec<String> {
    let mut lines: Vec<String> = target.filesystems.iter().map(filesystem_line).collect();
    if lines.is_empty() {
        lines.push(
            "no filesystem is mounted at ROOT, so only the devices that were given are known".to_owned(),
        );
    }
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

#[cfg(test)]
mod tests {
    use syncore::prepare::Held;

    use super::*;

    fn held(kind: &str, name: &str, how: &str) -> Held {
        Held { kind: kind.into(), name: name.into(), how: how.into(), undo: Vec::new() }
    }

    #[test]
    fn names_that_are_held_in_one_way_are_said_together() {
        let mut report = Report {
            outcome: Outcome::Pending,
            system: "a system".into(),
            edits: Vec::new(),
            replaced: Vec::new(),
            starts: Vec::new(),
            held: vec![held("unit", "a.service", "blocked"), held("cron", "/x", "moved away")],
            host_keys: Vec::new(),
            commands: Vec::new(),
            pending: Vec::new(),
            findings: Vec::new(),
        };
        report.held.extend((0..20).map(|n| held("unit", &format!("unit-{n}.service"), "blocked")));
        let lines = held_lines(&report);
        assert_eq!(lines[0], "unit, blocked:");
        assert!(lines[1].starts_with("  a.service, unit-0.service, "), "{lines:?}");
        assert!(lines.iter().all(|line| line.len() <= WIDTH + 2), "{lines:?}");
        assert_eq!(lines[lines.len() - 2..], ["cron, moved away:", "  /x"]);
        let text = screen(&report, &Target::default(), true);
        assert!(text.ends_with("nothing was changed; the result would be PENDING\n"), "{text}");
        assert!(screen(&report, &Target::default(), false).ends_with("\nPENDING\n"));
    }
}
