//! What the boot reads before the root is mounted: boot archive, boot path, pools.
//!
//! Why: on x86 the kernel sees the copies of these files in the boot archive, so the archive is made anew after the
//! last edit, by the target. What can go wrong: a boot path that names production's disk; a menu that looks for a
//! signature that the root has not.

use super::super::lines::{Lines, fields, is_comment};
use super::super::report::Finding;
use super::super::{Draft, PrepareError, Solaris};
use super::finish::Script;
use super::loader::BootLoader;
use super::vfstab::Table;
use super::{Host, find, shown};
use crate::rules::Class;

const BOOTENV: &str = "/boot/solaris/bootenv.rc";
const MENUS: [&str; 2] = ["/boot/grub/menu.lst", "/rpool/boot/grub/menu.lst"];

/// Plans them.
pub(super) fn plan(
    host: &Host<'_>,
    table: &Table,
    draft: &mut Draft<'_>,
    script: &mut Script,
) -> Result<(), PrepareError> {
    draft.remove(
        "/etc/zfs/zpool.cache",
        Class::A,
        "production's data pools are not imported by themselves",
    )?;
    if host.has_devfs() && !host.sparc {
        boot_path(host, draft, script)?;
        signatures(draft)?;
    }
    script.boot_archive = host.has_devfs() && draft.exists("/sbin/bootadm")?;
    if host.has_devfs() && !host.sparc && !script.boot_archive {
        draft.find(Finding::failure("/sbin/bootadm is not in the root: no boot archive can be made"));
    }
    script.boot_loader = match (host.release, host.sparc, host.zfs_root) {
        (Solaris::Eleven | Solaris::Illumos, _, true) => BootLoader::Bootadm,
        (_, true, false) => BootLoader::SparcUfs,
        (_, true, true) => BootLoader::SparcZfs,
        (Solaris::Ten | Solaris::Eleven | Solaris::Illumos, false, _) => BootLoader::Grub,
        (Solaris::UpTo26 | Solaris::From7To9, false, _) => BootLoader::X86Ufs,
    };
    script.root = table.root.clone();
    Ok(())
}

/// The boot path of bootenv.rc, which is a path of production's hardware.
fn boot_path(host: &Host<'_>, draft: &mut Draft<'_>, script: &mut Script) -> Result<(), PrepareError> {
    let Some(content) = draft.read(BOOTENV)? else { return Ok(()) };
    let mut lines = Lines::of(&content);
    lines.edit(|line| {
        let words = fields(line);
        let stale = words.len() > 2 && words[0] == b"setprop" && words[1] == b"bootpath";
        Some(if stale { [b"#", line].concat() } else { line.to_vec() })
    });
    draft.write(BOOTENV, lines.to_bytes(), Class::A, "the boot path is one of production's hardware")?;
    // A ZFS root is found by its pool.
    script.boot_path = !host.zfs_root;
    Ok(())
}

/// GRUB finds the root by a file of a certain name in it.
fn signatures(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for menu in MENUS {
        let Some(content) = draft.read(menu)? else { continue };
        let mut missing = Vec::new();
        for line in Lines::of(&content).0.iter().filter(|line| !is_comment(&line.content, b'#')) {
            let text = String::from_utf8_lossy(&line.content).into_owned();
            let Some((_, sign)) = text.split_once("findroot") else { continue };
            let sign =
                sign.trim().trim_start_matches('(').split([',', ')']).next().unwrap_or_default().trim();
            if sign.is_empty() || sign.contains('/') {
                missing.push(shown(sign.as_bytes()));
                continue;
            }
            let there = draft.exists(&format!("/boot/grub/bootsign/{sign}"))?
                || draft.exists(&format!("/rpool/boot/grub/bootsign/{sign}"))?;
            if !there && !missing.iter().any(|other| other == sign) {
                missing.push(sign.to_owned());
            }
        }
        for sign in missing {
            find(
                draft,
                menu,
                Finding::failure(format!(
                    "it looks for the signature {sign}, which is in no boot/grub/bootsign"
                )),
            )?;
        }
    }
    Ok(())
}
