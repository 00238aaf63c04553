//! `clonetool hold`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use syncore::prepare::{self, Held, Released};
use syncore::rules::FollowUp;
use syncore::session;
use syncore::tree::escape;

use crate::error::{CommandError, harmless};
use crate::run::Outcome;
use crate::ui;

/// Show or release what a prepared root holds back
///
/// A prepared copy has production's jobs, units, queued mail and exports, and none of them acts until the standby is
/// promoted or they are released here.
#[derive(Debug, Args)]
pub(crate) struct HoldArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is held, and how, and what a sync left undone
    List {
        /// Look at the prepared root that is mounted here
        #[arg(default_value = "/")]
        root: PathBuf,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Put held things back as they were; not while a run changes the root
    Release {
        /// Release what has this name, as the list shows it
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Vec<String>,
        /// Release everything
        #[arg(long)]
        all: bool,
        /// Release in the prepared root that is mounted here
        #[arg(long, value_name = "ROOT", default_value = "/")]
        root: PathBuf,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
}

impl HoldArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        match &self.action {
            Action::List { root, json } => {
                let (held, left) = (prepare::held(root)?, prepare::left(root)?);
                if *json {
                    let held = held.iter().map(|held| event("held", held, None));
                    let left = left.iter().map(|left| json!({ "type": "left", "what": left.words() }));
                    ui::print_events(&held.chain(left).collect::<Vec<_>>())?;
                } else {
                    ui::print(&list(&held, &left))?;
                }
                Ok(Outcome::Done)
            }
            Action::Release { name, all, root, json } => {
                // A sync changes what is released, and is to find it as it was planned.
                let _lock = session::lock(root)?;
                let released = prepare::release(root, (!all).then_some(&name[..]))?;
                if *json {
                    ui::print_events(&events(&released))?;
                } else {
                    ui::print(&report(&released))?;
                }
                Ok(if released.kept.is_empty() { Outcome::Done } else { Outcome::Problems })
            }
        }
    }
}

fn list(held: &[Held], left: &BTreeSet<FollowUp>) -> String {
    let mut text = String::new();
    let width = held.iter().map(|held| held.kind.len()).max().unwrap_or(0);
    for held in held {
        let (kind, name, how) = (harmless(&held.kind), escape(held.name.as_bytes()), harmless(&held.how));
        let _ = writeln!(text, "{kind:<width$}  {name}: {how}");
    }
    if held.is_empty() {
        text.push_str("nothing is held\n");
    }
    for left in left {
        let _ = writeln!(text, "left undone by a sync: {}; sync again, and it is tried again", left.words());
    }
    text
}

fn report(released: &Released) -> String {
    let mut text = String::new();
    let mut units = false;
    for held in &released.released {
        units |= matches!(&held.kind[..], "unit" | "timer");
        let _ = writeln!(text, "released   {}", escape(held.name.as_bytes()));
    }
    for held in &released.gone {
        let _ = writeln!(text, "gone       {}: production deleted it since", escape(held.name.as_bytes()));
    }
    for (held, reason) in &released.kept {
        let _ = writeln!(text, "still held {}: {}", escape(held.name.as_bytes()), harmless(reason));
    }
    if units {
        text.push_str(
            "units start at the next boot; now: systemctl daemon-reload, then systemctl start UNIT\n",
        );
    }
    if text.is_empty() {
        text.push_str("nothing is held\n");
    }
    text
}

fn event(kind: &str, held: &Held, reason: Option<&str>) -> Value {
    let mut event = json!({ "type": kind, "kind": held.kind, "name": held.name, "how": held.how });
    if let Some(reason) = reason {
        event["reason"] = reason.into();
    }
    event
}

fn events(released: &Released) -> Vec<Value> {
    let done = released.released.iter().map(|held| event("released", held, None));
    let gone = released.gone.iter().map(|held| event("gone", held, None));
    done.chain(gone)
        .chain(released.kept.iter().map(|(held, reason)| event("still-held", held, Some(reason))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(kind: &str, name: &str) -> Held {
        Held { kind: kind.into(), name: name.into(), how: "moved away".into(), undo: Vec::new() }
    }

    #[test]
    fn a_list_names_kind_and_how() {
        let text = list(&[held("cron", "/etc/cron.d/a\x1b"), held("mail queue", "/q")], &BTreeSet::new());
        assert_eq!(text, "cron        /etc/cron.d/a\\x1b: moved away\nmail queue  /q: moved away\n");
        assert_eq!(
            list(&[], &BTreeSet::from([FollowUp::Initramfs])),
            "nothing is held\nleft undone by a sync: make the initramfs of each kernel; sync again, and it is tried again\n"
        );
    }

    #[test]
    fn what_stays_held_is_said_with_its_reason() {
        let released = Released {
            released: vec![held("unit", "a.service")],
            gone: vec![held("cron", "/etc/cron.d/b")],
            kept: vec![(held("cron", "/etc/cron.d/a"), "it was made meanwhile".into())],
        };
        assert_eq!(
            report(&released),
            "released   a.service\ngone       /etc/cron.d/b: production deleted it since\nstill held /etc/cron.d/a: it was made meanwhile\n\
             units start at the next boot; now: systemctl daemon-reload, then systemctl start UNIT\n"
        );
        assert_eq!(events(&released)[2]["type"], "still-held");
    }
}
