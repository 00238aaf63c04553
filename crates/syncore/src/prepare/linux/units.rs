//! Units, timers, sockets and start scripts that do production's work, each held by a condition.
//!
//! Why a condition in a drop-in, and not a mask or a removed link: the unit's own file and its links stay as
//! production has them, so neither a sync nor an upgrade of the package has anything to undo; `systemctl preset` and
//! `enable` change links, which decide nothing here; start scripts of System V and units that a generator makes take
//! drop-ins, too; and a unit whose condition is false is skipped, not failed, so what requires it does not fail either.
//! The drop-in's name sorts last, because a later empty `ConditionPathExists=` would undo it.
//!
//! What can go wrong: a condition does not keep systemd from starting what the unit wants (systemd.unit(5)); so what a
//! held unit pulls in, triggers or is a template for is held as well, unless it is the system's.

use std::collections::{BTreeMap, BTreeSet};

use super::distribution::{Owners, is_system_unit};
use super::identity::has_systemd;
use crate::prepare::draft::Draft;
use crate::prepare::edit::Instead;
use crate::prepare::hold::PROMOTED;
use crate::prepare::{Finding, PrepareError};
use crate::tree::Kind;

/// The drop-in.
const DROP_IN: &str = "zz-clonetool-held.conf";
/// Where an administrator's units are.
const OWN: [&str; 2] = ["/etc/systemd/system", "/usr/local/lib/systemd/system"];
/// Where packages put units.
const VENDOR: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// Kinds of unit that act. The others are mounts, groups and orders of them.
const ACTING: [&str; 4] = [".service", ".timer", ".socket", ".path"];
/// What wants units so early that only plumbing is there; a package's own is left alone.
const EARLY: [&str; 9] = [
    "sysinit.target",
    "basic.target",
    "local-fs.target",
    "local-fs-pre.target",
    "network-pre.target",
    "cryptsetup.target",
    "swap.target",
    "initrd.target",
    "getty.target",
];
/// Scripts that run at the end of the boot, and the unit that runs them.
const LOCAL_SCRIPTS: [(&str, &str); 4] = [
    ("/etc/rc.local", "rc-local.service"),
    ("/etc/rc.d/rc.local", "rc-local.service"),
    ("/etc/init.d/boot.local", "boot-local.service"),
    ("/etc/init.d/after.local", "after-local.service"),
];
/// Settings of a unit that name others which start with it or by it.
const PULLS: [&str; 7] = ["Wants", "Requires", "BindsTo", "Requisite", "Upholds", "Unit", "Sockets"];

/// Plans what becomes of units and start scripts.
pub(super) fn plan(owners: &Owners, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    if draft.own_entry(&format!("/{PROMOTED}"))?.is_some() {
        let why = "a promotion of the host it was cloned from; it would release everything";
        draft.remove(&format!("/{PROMOTED}"), crate::rules::Class::A, why)?;
    }
    if !has_systemd(draft)? {
        return start_scripts(owners, draft);
    }
    let mut wanted = candidates(owners, draft)?;
    let mut seen = BTreeSet::new();
    while let Some((unit, wanted_by)) = wanted.pop_first() {
        if !seen.insert(unit.clone()) {
            continue;
        }
        if let Some(file) = system_unit(&unit, &wanted_by, owners, draft)? {
            note_own_version(&unit, &file, owners, draft)?;
            continue;
        }
        for pulled in pulled_by(&unit, draft)? {
            wanted.entry(pulled).or_default().insert(unit.clone());
        }
        hold(&unit, draft)?;
    }
    for (script, unit) in LOCAL_SCRIPTS {
        let there = draft.entry(script)?;
        if there.is_some_and(|entry| entry.kind == Kind::File && entry.mode & 0o111 != 0)
            && !seen.contains(unit)
        {
            seen.insert(unit.to_owned());
            hold(unit, draft)?;
        }
    }
    Ok(())
}

/// Units that start, or that production made, with what wants them.
fn candidates(
    owners: &Owners,
    draft: &Draft<'_>,
) -> Result<BTreeMap<String, BTreeSet<String>>, PrepareError> {
    let mut units: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for directory in OWN.iter().chain(&VENDOR) {
        let own = OWN.contains(directory);
        for name in draft.list(directory)? {
            let path = format!("{directory}/{name}");
            let by = [".wants", ".requires", ".upholds"].iter().find_map(|end| name.strip_suffix(end));
            if let Some(by) = by {
                for unit in draft.list(&path)? {
                    // What a vendor wires up belongs to the system, unless no package knows the unit.
                    if own || unknown_to_packages(&unit, owners, draft)? {
                        let unit = real_name(&format!("{path}/{unit}"), &unit, draft)?;
                        units.entry(unit).or_default().insert(by.to_owned());
                    }
                }
            } else if own && (name.ends_with(".target") || name.ends_with(".d")) {
                // A target, or an addition to a unit of the system, may want units by name.
                let mut files = vec![path.clone()];
                files.extend(draft.list(&path)?.into_iter().map(|file| format!("{path}/{file}")));
                for file in files {
                    for unit in wanted_in(&draft.text(&file)?.unwrap_or_default()) {
                        let unit = real_name(&format!("{directory}/{unit}"), &unit, draft)?;
                        units.entry(unit).or_default().insert(name.clone());
                    }
                }
            } else if own && ACTING.iter().any(|end| name.ends_with(end)) {
                let unit = real_name(&path, &name, draft)?;
                units.entry(unit).or_default();
            }
        }
    }
    for (script, _) in scripts(draft)? {
        if unit_file(&format!("{script}.service"), draft)?.is_none() {
            units.entry(format!("{script}.service")).or_default();
        }
    }
    units.retain(|unit, _| !unit.is_empty() && ACTING.iter().any(|end| unit.ends_with(end)));
    Ok(units)
}

fn unknown_to_packages(unit: &str, owners: &Owners, draft: &Draft<'_>) -> Result<bool, PrepareError> {
    Ok(unit_file(unit, draft)?.is_some_and(|file| owners.disown(&file)))
}

/// The unit that a file or link stands for: a template for its instance, the target of an alias, nothing when masked.
fn real_name(path: &str, name: &str, draft: &Draft<'_>) -> Result<String, PrepareError> {
    let mut unit = name.to_owned();
    if let Some(entry) = draft.own_entry(path)?.filter(|entry| entry.kind == Kind::Symlink) {
        let target = String::from_utf8_lossy(&entry.target).into_owned();
        if target == "/dev/null" {
            return Ok(String::new());
        }
        let last = target.rsplit('/').next().unwrap_or_default().to_owned();
        if ACTING.iter().any(|end| last.ends_with(end)) {
            unit = last;
        }
    }
    Ok(match (unit.split_once('@'), unit.rsplit_once('.')) {
        (Some((stem, _)), Some((_, kind))) => format!("{stem}@.{kind}"),
        _ => unit,
    })
}

/// The file that defines a unit, if it is one of its own.
fn unit_file(unit: &str, draft: &Draft<'_>) -> Result<Option<String>, PrepareError> {
    for directory in OWN.iter().chain(&VENDOR) {
        let path = format!("{directory}/{unit}");
        if draft.entry(&path)?.is_some_and(|entry| entry.kind == Kind::File) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The file of a unit that is left to start, as part of the system.
fn system_unit(
    unit: &str,
    wanted_by: &BTreeSet<String>,
    owners: &Owners,
    draft: &Draft<'_>,
) -> Result<Option<String>, PrepareError> {
    let file = unit_file(unit, draft)?;
    if is_system_unit(unit) {
        return Ok(Some(file.unwrap_or_default()));
    }
    let plumbing = !wanted_by.is_empty() && wanted_by.iter().all(|by| EARLY.contains(&&by[..]));
    Ok(file.filter(|file| {
        plumbing && VENDOR.iter().any(|vendor| file.starts_with(vendor)) && !owners.disown(file)
    }))
}

/// A system service that production changed starts, or nobody could log in; but it is said.
fn note_own_version(
    unit: &str,
    file: &str,
    owners: &Owners,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let own = OWN.iter().any(|directory| file.starts_with(directory)) || owners.disown(file);
    if !file.is_empty() && own && !unit.starts_with("clonetool") {
        draft.starts.push(unit.to_owned());
        let message =
            format!("{unit} starts as production defined it in {file}; hold it by hand if it must not");
        draft.find(Finding::note(message));
    }
    let drop_ins = format!("{}/{unit}.d", OWN[0]);
    for name in draft.list(&drop_ins)? {
        let path = format!("{drop_ins}/{name}");
        let content = draft.text(&path)?.unwrap_or_default();
        if content.lines().any(|line| line.trim_start().starts_with("Exec")) {
            draft.starts.push(unit.to_owned());
            draft.find(Finding::note(format!("{unit} starts with commands of production's from {path}")));
        }
    }
    Ok(())
}

/// Units that the text of a unit names as starting with it or by it.
fn wanted_in(text: &str) -> Vec<String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let pulls = pairs.filter(|(key, _)| PULLS.contains(&key.trim()));
    let units = pulls.flat_map(|(_, value)| value.split_whitespace());
    units.filter(|unit| !unit.contains('%') && !unit.contains('/')).map(str::to_owned).collect()
}

/// What starts because this unit does, or would.
fn pulled_by(unit: &str, draft: &Draft<'_>) -> Result<BTreeSet<String>, PrepareError> {
    let mut pulled = BTreeSet::new();
    let (stem, kind) = unit.rsplit_once('.').unwrap_or((unit, ""));
    if !stem.ends_with('@') {
        let template = format!("{stem}@.service");
        if unit_file(&template, draft)?.is_some() {
            pulled.insert(template);
        }
    }
    if matches!(kind, "timer" | "socket" | "path") {
        pulled.insert(format!("{stem}.service"));
    }
    let mut files: Vec<String> = unit_file(unit, draft)?.into_iter().collect();
    for directory in OWN.iter().chain(&VENDOR) {
        for name in draft.list(&format!("{directory}/{unit}.d"))? {
            files.push(format!("{directory}/{unit}.d/{name}"));
        }
    }
    for file in files {
        pulled.extend(wanted_in(&draft.text(&file)?.unwrap_or_default()));
    }
    let mut names = BTreeSet::new();
    for unit in pulled {
        if ACTING.iter().any(|end| unit.ends_with(end)) {
            let name = real_name(&format!("{}/{unit}", OWN[0]), &unit, draft)?;
            // The service of a socket or timer need not be there under that name.
            if unit_file(&name, draft)?.is_some() {
                names.insert(name);
            }
        }
    }
    Ok(names)
}

/// Holds a unit.
pub(super) fn hold(unit: &str, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let content = format!(
        "# Held until this standby is promoted: clonetool hold list, clonetool hold release {unit}\n[Unit]\n\
         ConditionPathExists=/{PROMOTED}\n"
    );
    let path = format!("{}/{unit}.d/{DROP_IN}", OWN[0]);
    let undo = draft.block(&path, &content, "production's work does not start here")?;
    let kind = if unit.ends_with(".timer") { "timer" } else { "unit" };
    draft.hold(kind, unit, "a condition keeps it from starting", vec![undo]);
    Ok(())
}

/// Start scripts that some runlevel of System V starts: their names, and the links that do.
fn scripts(draft: &Draft<'_>) -> Result<BTreeMap<String, Vec<String>>, PrepareError> {
    let mut scripts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for above in ["/etc", "/etc/rc.d", "/etc/init.d"] {
        for level in ["S", "1", "2", "3", "4", "5"] {
            let directory = format!("{above}/rc{level}.d");
            // Where one of them is a link to the other, the links are found under both names.
            if draft.own_entry(&directory)?.is_some_and(|entry| entry.kind == Kind::Symlink)
                || draft.own_entry(above)?.is_some_and(|entry| entry.kind == Kind::Symlink)
            {
                continue;
            }
            for link in draft.list(&directory)? {
                let name =
                    link.strip_prefix('S').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
                if let Some(name) = name.filter(|name| !name.is_empty()) {
                    scripts.entry(name.to_owned()).or_default().push(format!("{directory}/{link}"));
                }
            }
        }
    }
    Ok(scripts)
}

/// Where System V's init starts the root: links of runlevels that are moved away.
fn start_scripts(owners: &Owners, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for (name, links) in scripts(draft)? {
        if is_system_unit(&name) && !owners.disown(&format!("/etc/init.d/{name}")) {
            continue;
        }
        let mut undo = Vec::new();
        for link in &links {
            undo.extend(draft.put_away(link, Instead::Nothing, "production's work does not start here")?);
        }
        draft.hold("rc script", &name, "its links are moved away", undo);
    }
    for (script, _) in LOCAL_SCRIPTS {
        let undo = draft.put_away(script, Instead::Nothing, "production's work does not start here")?;
        if let Some(undo) = undo {
            draft.hold("rc script", script, "moved away", vec![undo]);
        }
    }
    if draft.exists("/etc/inittab")? {
        draft.find(Finding::note("/etc/inittab is as production has it: look what it starts"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
