//! Plans what becomes of a Linux root.
//!
//! Why: the order matters: names before devices, devices before the initramfs that bakes them in, the initramfs before
//! the boot loader that names it. What can go wrong: a file that one distribution has and another has not; each planner
//! looks before it edits.

mod agents;
mod boot;
mod cmdline;
pub(super) mod crypttab;
mod devices;
mod distribution;
mod entries;
mod fstab;
mod held;
mod hostkeys;
mod identity;
mod initramfs;
mod layers;
mod names;
mod network;
mod storage;
#[cfg(test)]
pub(super) mod testing;
mod units;
pub(super) mod words;

use super::draft::Draft;
use super::report::Finding;
use super::verify::Checks;
use super::{Bootloader, Family, PrepareError, Task};
pub(super) use boot::{Installed, loader_commands};
pub(super) use devices::esp_of;
pub(super) use fstab::{held_line, wrong_lines};

/// Plans everything.
pub(super) fn plan(task: &Task<'_>, family: Family, draft: &mut Draft<'_>) -> Result<Checks, PrepareError> {
    fstab::guard(task, draft)?;
    if task.target.at("/").is_none() && task.options.root_device.is_none() {
        return Err(PrepareError::Storage {
            device: draft.inside().root().path().display().to_string(),
            reason: "nothing is mounted there: mount the standby's root filesystem at it, or name what it will lie \
                     on with --root-device"
                .to_owned(),
        });
    }
    identity::plan(task, draft)?;
    let own = network::plan(task, family, draft)?;
    hostkeys::plan(task, &own, draft)?;
    agents::plan(task, draft)?;
    // After everything that removes for good, so that nothing is held that is gone.
    held::plan(draft)?;
    let seen = fstab::plan(task, draft)?;
    storage::plan(task, &seen, draft)?;
    let mut rewriter = cmdline::Rewriter::new(task, boot::program(draft, "dracut")?);
    cmdline::plan(task, &mut rewriter, draft)?;
    entries::plan(task, &mut rewriter, draft)?;
    let (ids, network) = (std::mem::take(&mut rewriter.ids), std::mem::take(&mut rewriter.network));
    draft.source_ids.extend(ids);
    for word in network {
        draft.find(Finding::note(format!("the kernel is no longer told {word}: it is production's network")));
    }
    storage::resume(task, draft)?;
    draft.source_ids.extend(menu_ids(draft)?);
    // Data keeps its ids, and is named by them.
    draft.source_ids.retain(|id| !seen.data.iter().any(|spec| devices::id_of(spec).as_ref() == Some(id)));
    // The command line may have opened what crypttab now holds, and keeps by its id.
    let encrypted = draft.text("/etc/crypttab")?.unwrap_or_default();
    let held = |id: &str| encrypted.lines().any(|line| line.contains("noauto") && line.contains(id));
    draft.source_ids.retain(|id| !held(id));
    let installed = boot::plan(task, family, draft)?;
    boot::labels(draft)?;
    Ok(Checks {
        root_words: cmdline::root_words(task),
        installed,
        bootloader: task.options.bootloader == Bootloader::Auto,
        root_device: task.options.root_device.clone(),
        mapped: task.options.device_map.iter().filter_map(|(_, new)| new.clone()).collect(),
        identity: task.options.identity,
    })
}

/// The UUIDs in the boot menu that came along.
fn menu_ids(draft: &Draft<'_>) -> Result<Vec<String>, PrepareError> {
    let mut ids: Vec<String> = Vec::new();
    for path in ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"] {
        let text = draft.text(path)?.unwrap_or_default();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        for word in words.filter(|word| word.len() == 36 && entries::is_uuid(word)) {
            if !ids.iter().any(|id| id == word) {
                ids.push(word.to_owned());
            }
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests;
