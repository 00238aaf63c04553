//! The events of `--json`: one object a line, the summary last.
//!
//! Why: scripts read these, so a field never changes its name or its meaning. What can go wrong: a file name that
//! is not UTF-8 has no JSON form; `path` is the escaped name, and `path_bytes` is there as well where the two
//! differ.

use std::time::Duration;

use serde_json::{Value, json};
use syncore::gate::Answer;
use syncore::image::{Contents, Done};
use syncore::monitor::Phase;
use syncore::plan::{Change, Item};
use syncore::problem::Problem;
use syncore::profile::{Gate, Row};
use syncore::rules::{Decision, Rule, Scope};
use syncore::session::Report;
use syncore::tree::{Attributes, Entry, Kind, RelPath, escape};

use super::log::utc;
use super::progress;
use crate::error::CommandError;
use crate::gates::Moment;
use crate::run::Outcome;

/// A change of the plan.
pub(super) fn change(item: &Item) -> Value {
    let (word, attributes) = match item.change {
        Change::Create => ("create", Vec::new()),
        Change::Update(attributes) => ("update", attribute_words(attributes)),
        Change::Replace(_) => ("replace", Vec::new()),
        Change::Delete(_) => ("delete", Vec::new()),
    };
    let mut event = json!({
        "type": "change",
        "change": word,
        "kind": item.entry.kind.word(),
        "size_bytes": item.entry.size_bytes,
        "attributes": attributes,
        "itemize": item.itemize(),
    });
    add_path(&mut event, "path", &item.path);
    if let Some(leader) = &item.link_to {
        add_path(&mut event, "link_to", leader);
    }
    if let Some(from) = &item.moved_from {
        add_path(&mut event, "moved_from", from);
    }
    event
}

/// Something that somebody changed on the standby and that is about to be replaced.
pub(super) fn changed_here(generation: u64, path: &RelPath) -> Value {
    let mut event = json!({ "type": "changed-here", "since_generation": generation });
    add_path(&mut event, "path", path);
    event
}

/// A problem of one path.
pub(super) fn problem(problem: &Problem) -> Value {
    let mut event = json!({
        "type": "problem",
        "operation": problem.operation.words(),
        "reason": problem.reason,
    });
    add_path(&mut event, "path", &problem.path);
    event
}

/// What the user should know and what stops nothing.
pub(crate) fn warning(message: &str) -> Value {
    json!({"type": "warning", "message": message})
}

/// What a gate answered.
pub(crate) fn gate(gate: &Gate, answer: &Answer, moment: Moment) -> Value {
    json!({
        "type": "gate",
        "name": gate.name,
        "kind": gate.check.kind(),
        "place": gate.origin.to_string(),
        "moment": moment.word(),
        "verdict": answer.verdict.word(),
        "evidence": answer.evidence,
        "next": answer.next,
        "elapsed_seconds": answer.elapsed.as_secs_f64(),
    })
}

/// The last line of a command that only asked gates.
pub(crate) fn gates_summary(asked: usize, passed: usize, exit_code: u8, elapsed: Duration) -> Value {
    json!({
        "type": "summary",
        "outcome": if asked == passed { "pass" } else { "refused" },
        "exit_code": exit_code,
        "gates": asked,
        "passed": passed,
        "elapsed_seconds": elapsed.as_secs_f64(),
    })
}

/// A new phase.
pub(super) fn phase(phase: Phase) -> Value {
    json!({"type": "phase", "phase": progress::word(phase)})
}

/// The plan's totals, before anything is changed.
pub(super) fn planned(changes: u64, content_bytes: u64) -> Value {
    json!({"type": "planned", "changes": changes, "content_bytes": content_bytes})
}

/// The last line of a run that came to its end.
pub(crate) fn summary(outcome: Outcome, report: &Report, elapsed: Duration) -> Value {
    json!({
        "type": "summary",
        "outcome": outcome.word(),
        "exit_code": outcome.exit_code(),
        "plan": report.plan.map(|id| id.to_string()),
        "entries_scanned": report.entries_scanned,
        "created": report.totals.created,
        "updated": report.totals.updated,
        "deleted": report.totals.deleted,
        "metadata_only": report.totals.metadata_only,
        "moved": report.totals.moved,
        "protected": report.protected,
        "content_bytes": report.totals.content_bytes,
        "literal_bytes": report.literal_bytes,
        "copied_bytes": report.copied_bytes,
        "wire_sent_bytes": report.wire_sent_bytes,
        "wire_received_bytes": report.wire_received_bytes,
        "elapsed_seconds": elapsed.as_secs_f64(),
        "problems": report.problems.len(),
    })
}

/// What is in an image, for the fields of a summary.
pub(crate) fn image(done: &Done) -> Value {
    let Contents { about, entries, content_bytes, digest, torn } = &done.contents;
    json!({
        "host": about.host,
        "root": about.root,
        "made_seconds": about.created_seconds,
        "made": utc(about.created_seconds),
        "program": about.program,
        "system": about.system,
        "machine": about.machine,
        "one_file_system": about.one_file_system,
        "rules": about.rules,
        "entries": entries,
        "image_content_bytes": content_bytes,
        "image_bytes": done.file_bytes,
        "digest": hex(digest),
        "torn": torn.len(),
        "sockets": done.sockets,
    })
}

/// An entry of an image.
pub(crate) fn entry(path: &RelPath, entry: &Entry, link_to: Option<&RelPath>) -> Value {
    let mut event = json!({
        "type": "entry",
        "kind": if link_to.is_some() { "hard link" } else { entry.kind.word() },
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "size_bytes": entry.size_bytes,
        "mtime_seconds": entry.mtime.seconds,
        "mtime_nanoseconds": entry.mtime.nanoseconds,
    });
    add_path(&mut event, "path", path);
    if let Some(leader) = link_to {
        add_path(&mut event, "link_to", leader);
    }
    if entry.kind == Kind::Symlink {
        event["target"] = json!(escape(&entry.target));
    }
    event
}

/// A digest for people and scripts.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The last line of a run that failed: the same fields, and why. What was counted before the failure is not known
/// here, so the counts are null and not zero.
pub(super) fn failure(error: &CommandError, problems: usize, elapsed: Duration) -> Value {
    let mut value = json!({
        "type": "summary",
        "outcome": error.kind.outcome(),
        "exit_code": error.exit_code(),
        "message": error.message,
        "hints": error.hints,
        "elapsed_seconds": elapsed.as_secs_f64(),
        "problems": problems,
    });
    let unknown = [
        "plan",
        "entries_scanned",
        "created",
        "updated",
        "deleted",
        "metadata_only",
        "moved",
        "protected",
        "content_bytes",
        "literal_bytes",
        "copied_bytes",
        "wire_sent_bytes",
        "wire_received_bytes",
    ];
    if let Value::Object(fields) = &mut value {
        fields.extend(unknown.map(|name| (name.to_owned(), Value::Null)));
    }
    value
}

/// What a profile does with a path; `standby` is the decision there, null where its own file is not known.
pub(crate) fn explanation(
    path: &RelPath,
    is_directory: Option<bool>,
    decision: &Decision<'_>,
    row: Option<&Row>,
    standby: Option<&Decision<'_>>,
) -> Value {
    let mut event = json!({
        "type": "explain",
        "is_directory": is_directory,
        "class": decision.class.to_string(),
        "class_meaning": decision.class.meaning(),
        "what": row.map(|row| &row.what),
        "what_source": row.map(|row| &row.source),
        "decision": scope_word(decision.scope),
        "protected": decision.protected,
        "auth_set": decision.auth_set,
        "standby_decision": standby.map(|standby| scope_word(standby.scope)),
        "standby_protected": standby.map(|standby| standby.protected),
    });
    add_path(&mut event, "path", path);
    add_rule(&mut event, "rule", decision.rule);
    add_rule(&mut event, "overruled", decision.selection.filter(|rule| decision.rule != Some(rule)));
    add_rule(&mut event, "standby_rule", standby.and_then(|standby| standby.rule));
    event
}

/// One profile of a list; `broken` says why it cannot be read.
pub(crate) fn listed_profile(
    name: &str,
    place: &str,
    description: Option<&str>,
    broken: Option<&str>,
) -> Value {
    json!({"type": "profile", "name": name, "place": place, "description": description, "broken": broken})
}

/// A profile that was checked; `refused` says why it is not run.
pub(crate) fn checked_profile(name: &str, rules: usize, rows: usize) -> Value {
    json!({"type": "check", "name": name, "rules": rules, "catalogue_rows": rows})
}

/// Adds a rule as `name`, `NAME_action`, `NAME_file` and `NAME_line`, all null where there is none.
fn add_rule(event: &mut Value, name: &str, rule: Option<&Rule>) {
    if let Value::Object(fields) = event {
        fields.insert(name.to_owned(), json!(rule.map(|rule| escape(&rule.pattern))));
        fields.insert(format!("{name}_action"), json!(rule.map(|rule| rule.action.to_string())));
        fields.insert(format!("{name}_file"), json!(rule.map(|rule| &rule.origin.file)));
        fields.insert(
            format!("{name}_line"),
            json!(rule.map(|rule| rule.origin.line).filter(|line| *line > 0)),
        );
    }
}

const fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::In => "in",
        Scope::Implied => "implied",
        Scope::Empty => "empty",
        Scope::Out => "out",
    }
}

/// Adds `path` as `name`, and as `NAME_bytes` where the escaped form is not the name itself.
fn add_path(event: &mut Value, name: &str, path: &RelPath) {
    if let Value::Object(fields) = event {
        fields.insert(name.to_owned(), json!(path.to_string()));
        if escape(path.as_bytes()).as_bytes() != path.as_bytes() {
            let bytes = [b"/", path.as_bytes()].concat();
            fields.insert(format!("{name}_bytes"), json!(bytes));
        }
    }
}

fn attribute_words(attributes: Attributes) -> Vec<&'static str> {
    let words = [
        (Attributes::CONTENT, "content"),
        (Attributes::MTIME, "mtime"),
        (Attributes::MODE, "mode"),
        (Attributes::UID, "uid"),
        (Attributes::GID, "gid"),
        (Attributes::XATTRS, "xattrs"),
        (Attributes::ACL, "acl"),
        (Attributes::FLAGS, "flags"),
        (Attributes::LINKS, "links"),
        (Attributes::DRIFT, "drift"),
    ];
    words.into_iter().filter(|(attribute, _)| attributes.contains(*attribute)).map(|(_, word)| word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_json_cannot_hold_come_as_bytes_too() {
        let item = |path: &[u8]| Item {
            path: RelPath::new(path).unwrap(),
            change: Change::Update(Attributes::MODE | Attributes::MTIME),
            entry: Entry::new(Kind::File),
            link_to: RelPath::new("etc/leader").ok(),
            moved_from: None,
        };
        let plain = change(&item("etc/é".as_bytes()));
        assert_eq!(plain["path"], "/etc/é");
        assert_eq!(plain["attributes"], json!(["mtime", "mode"]));
        assert_eq!(plain["link_to"], "/etc/leader");
        assert!(plain.get("path_bytes").is_none());
        let odd = change(&item(b"a\xff\n"));
        assert_eq!(odd["path"], "/a\\xff\\x0a");
        assert_eq!(odd["path_bytes"], json!([47, 97, 255, 10]));
        assert!(!odd.to_string().contains('\n'));
    }

    #[test]
    fn both_summaries_have_every_promised_field() {
        let done = summary(Outcome::InSync, &Report::default(), Duration::ZERO);
        let failed = failure(&CommandError::failed("x"), 0, Duration::ZERO);
        let promised = [
            "entries_scanned",
            "created",
            "updated",
            "deleted",
            "metadata_only",
            "moved",
            "protected",
            "literal_bytes",
            "copied_bytes",
            "wire_sent_bytes",
            "wire_received_bytes",
            "elapsed_seconds",
            "problems",
            "outcome",
            "exit_code",
            "plan",
        ];
        for field in promised {
            assert!(done.get(field).is_some(), "{field} in a summary");
            assert!(failed.get(field).is_some(), "{field} in a failure");
        }
        assert_eq!((&failed["outcome"], &failed["message"]), (&json!("failed"), &json!("x")));
    }
}
