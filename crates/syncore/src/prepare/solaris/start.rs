//! Applications that start by themselves, held: inittab, start scripts, services of SMF.
//!
//! Why: an application that starts on the standby writes to production's data, or answers for it. What can go wrong:
//! a script of the system's that is held, and the standby does not come up. Those of the system's packages stay; those
//! of single-user mode stay whatever they belong to, because they may be what the root's disks need, and are named.

use std::collections::{BTreeMap, BTreeSet};

use super::super::report::Finding;
use super::super::{Draft, PrepareError, Solaris};
use super::finish::Script;
use super::held::{comment_out, hold};
use super::{HELD_NAME, Host, find, shown};
use crate::rules::Class;

/// Plans all of them.
pub(super) fn plan(host: &Host<'_>, draft: &mut Draft<'_>, script: &mut Script) -> Result<(), PrepareError> {
    inittab(draft)?;
    start_scripts(host, draft)?;
    if host.has_devfs() {
        services(draft, script)?;
    }
    Ok(())
}

/// init(1M) starts and starts again what is in inittab; what is not of the system's directories is an application's.
fn inittab(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let path = "/etc/inittab";
    let system = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let parts: Vec<&str> = line.splitn(4, ':').collect();
        let [_, _, action, process] = parts[..] else { return true };
        let program = process.split_whitespace().next().unwrap_or_default();
        let of_system = ["/sbin/", "/usr/sbin/", "/usr/lib/saf/", "/lib/svc/", "/etc/rc", "/usr/bin/"];
        action == "initdefault" || of_system.iter().any(|below| program.starts_with(below))
    };
    let held = comment_out(draft, path, "applications wait until the standby is promoted", system)?;
    if held > 0 {
        hold(draft, "unit", path, format!("{held} lines are comments"));
    }
    Ok(())
}

/// Start scripts that Solaris 11 and illumos bring, which have no package database that could be read here.
const SYSTEM_SCRIPTS: [&str; 12] = [
    "S10lu",
    "S47pppd",
    "S70uucp",
    "S72autoinstall",
    "S73cachefs.daemon",
    "S81dodatadm.udaplt",
    "S89PRESERVE",
    "S89bdconfig",
    "S94ncalogd",
    "S98deallocate",
    "S99dtlogin",
    "S16boot.server",
];

fn start_scripts(host: &Host<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let packages = packages(draft)?;
    let by_list = packages.is_none() && matches!(host.release, Solaris::Eleven | Solaris::Illumos);
    for level in ["rc2.d", "rc3.d", "rcS.d"] {
        let directory = format!("/etc/{level}");
        let scripts: Vec<String> = draft
            .list(&directory)?
            .into_iter()
            .filter(|name| name.len() > 1 && name.starts_with('S'))
            .collect();
        for name in scripts {
            let path = format!("{directory}/{name}");
            let system = match &packages {
                Some(packages) => packages.get(&path).is_some_and(is_system),
                None if by_list => SYSTEM_SCRIPTS.contains(&&*name),
                None => true,
            };
            if system {
                continue;
            }
            if level == "rcS.d" {
                // It may be what the root's disks need.
                draft.starts.push(path);
                continue;
            }
            draft.rename(
                &path,
                &format!("{HELD_NAME}{name}"),
                Class::G,
                "applications wait until the standby is promoted",
            )?;
            hold(draft, "unit", path, format!("it has {HELD_NAME} before its name"));
        }
    }
    if packages.is_none() && !by_list {
        find(
            draft,
            CONTENTS,
            Finding::pending(
                "without it start scripts of applications cannot be told from the system's: look through /etc/rc2.d \
                 and /etc/rc3.d before it boots",
            ),
        )?;
    }
    Ok(())
}

const CONTENTS: &str = "/var/sadm/install/contents";

/// The packages that start scripts belong to, from the package database; none if there is none.
fn packages(draft: &Draft<'_>) -> Result<Option<BTreeMap<String, BTreeSet<String>>>, PrepareError> {
    let Some(content) = draft.read(CONTENTS)? else { return Ok(None) };
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in content.split(|b| *b == b'\n').filter(|line| line.starts_with(b"/etc/rc")) {
        // contents(4): path[=target] type class … package…; the packages are the last words.
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_whitespace();
        let path = words.next().unwrap_or_default();
        let path = path.split('=').next().unwrap_or_default().to_owned();
        let names = words.filter(|word| is_package(word)).map(str::to_owned);
        packages.entry(path).or_default().extend(names);
    }
    Ok(Some(packages))
}

/// A package's abbreviation: capitals first, as SUNWcsr and VRTSvxvm have them.
fn is_package(word: &str) -> bool {
    word.len() > 2 && word.bytes().take(3).all(|b| b.is_ascii_uppercase())
}

fn is_system(packages: &BTreeSet<String>) -> bool {
    packages.iter().any(|name| {
        name.starts_with("SUNW")
            || name.starts_with("SMC")
            || matches!(&**name, "VRTSvxvm" | "VRTSvxfs" | "VRTSvlic")
    })
}

/// Services that a site made itself; where they are enabled is a database that only its own programs write.
fn services(draft: &mut Draft<'_>, script: &mut Script) -> Result<(), PrepareError> {
    for directory in ["/var/svc/manifest/site", "/lib/svc/manifest/site"] {
        for name in draft.list(directory)? {
            let Some(text) = draft.text(&format!("{directory}/{name}"))? else { continue };
            for instance in instances(&text) {
                if !instance.bytes().all(|b| b.is_ascii_alphanumeric() || b"/:._-,".contains(&b)) {
                    draft.find(Finding::pending(format!(
                        "the service {} has a name that cannot be written to finish.sh: disable it on the target",
                        shown(instance.as_bytes())
                    )));
                    continue;
                }
                hold(draft, "unit", format!("svc:/{instance}"), "finish.sh disables it");
                script.services.insert(instance);
            }
        }
    }
    Ok(())
}

/// The instances of a manifest, as `site/app:default`: by its tags, and not by all that XML may be.
fn instances(manifest: &str) -> Vec<String> {
    let mut instances = Vec::new();
    let mut service = None;
    for tag in manifest.split('<').skip(1) {
        let name = ["name=\"", "name='"].iter().find_map(|quote| {
            let (_, rest) = tag.split_once(quote)?;
            rest.split(['"', '\'']).next()
        });
        match tag.split([' ', '\t', '\n', '\r', '/', '>']).next() {
            Some("service") => service = name,
            Some("create_default_instance") => {
                instances.extend(service.map(|service| format!("{service}:default")));
            }
            Some("instance") => {
                instances.extend(service.zip(name).map(|(service, name)| format!("{service}:{name}")));
            }
            _ => {}
        }
    }
    instances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_its_instances() {
        let text = "<?xml version='1.0'?><service_bundle type='manifest' name='app'>\n<service\n name='site/app' \
                    type='service' version='1'><create_default_instance enabled='true'/>\n<instance name=\"b\" \
                    enabled='false'></instance></service></service_bundle>";
        assert_eq!(instances(text), ["site/app:default", "site/app:b"]);
        assert!(instances("not a manifest").is_empty());
    }
}
