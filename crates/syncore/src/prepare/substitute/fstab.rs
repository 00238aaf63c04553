//! fstab(5): the standby's lines for the system, production's for its data, held.
//!
//! Why: a new data volume belongs into the standby's fstab, and production's root device does not. What can go wrong: a
//! file of which half is not understood, or a filesystem of the system that the standby does not have; then nothing is
//! made.

use super::super::lines::{Lines, fields, is_comment};
use super::super::linux::held_line;

/// Mount points without which a system does not come up (fstab(5), hier(7)).
const SYSTEM_MOUNTS: [&[u8]; 8] =
    [b"/", b"/usr", b"/var", b"/boot", b"/boot/efi", b"/efi", b"/var/log", b"/var/tmp"];

/// Kinds of filesystems that are no device.
const DEVICELESS: [&[u8]; 9] =
    [b"proc", b"sysfs", b"tmpfs", b"devpts", b"devtmpfs", b"cgroup", b"cgroup2", b"efivarfs", b"securityfs"];

/// What a line of fstab is about.
enum Mount<'a> {
    /// Comments, and what is mounted from no device.
    Other,
    Swap,
    At(&'a [u8]),
}

fn mount_of(line: &[u8]) -> Result<Mount<'_>, String> {
    if is_comment(line, b'#') {
        return Ok(Mount::Other);
    }
    let fields = fields(line);
    let [device, at, kind, ..] = fields[..] else {
        return Err(format!("a line has fewer than three fields: {}", crate::tree::escape(line)));
    };
    Ok(match kind {
        b"swap" => Mount::Swap,
        _ if DEVICELESS.contains(&kind) || device == kind => Mount::Other,
        _ => Mount::At(at),
    })
}

fn is_system(at: &[u8]) -> bool {
    SYSTEM_MOUNTS.contains(&at)
}

/// The system's lines are the standby's. Data of production is there to be mounted by whoever promotes the standby.
pub(super) fn fstab(production: &[u8], standby: &[u8]) -> Result<Vec<u8>, String> {
    let own = Lines::of(standby);
    let (mut mounts, mut swaps) = (Vec::new(), Vec::new());
    for line in &own.0 {
        match mount_of(&line.content).map_err(|reason| format!("the standby's own: {reason}"))? {
            Mount::At(at) => mounts.push((at, &line.content)),
            Mount::Swap => swaps.push(&line.content),
            Mount::Other => {}
        }
    }
    let own_at = |at: &[u8]| mounts.iter().find(|(own, _)| *own == at).map(|(_, line)| (*line).clone());
    if own_at(b"/").is_none() {
        return Err("the standby's own has no line for /".to_owned());
    }
    let mut made = Lines::of(production);
    let mut failed = None;
    let (mut root, mut swapped) = (false, false);
    let mut extra: Vec<Vec<u8>> = Vec::new();
    made.edit(|line| match mount_of(line) {
        Err(reason) => {
            failed.get_or_insert(reason);
            None
        }
        Ok(Mount::Other) => Some(line.to_vec()),
        Ok(Mount::Swap) => {
            if !std::mem::replace(&mut swapped, true) {
                extra.extend(swaps.iter().map(|line| (*line).clone()));
            }
            None
        }
        Ok(Mount::At(at)) => {
            root |= at == b"/";
            match own_at(at) {
                // What the standby mounts by itself, it mounts from its own.
                Some(own) if is_system(at) || !is_held(&own) => Some(own),
                _ if is_system(at) => {
                    let at = crate::tree::escape(at);
                    failed.get_or_insert(format!("the standby has no filesystem for {at}"));
                    None
                }
                _ => Some(held_line(line)),
            }
        }
    });
    if let Some(reason) = failed {
        return Err(reason);
    }
    if !root {
        return Err("there is no line for /".to_owned());
    }
    if !swapped {
        extra.extend(swaps.into_iter().cloned());
    }
    // A system filesystem that only the standby has apart.
    let text = made.to_bytes();
    let there = |at: &[u8]| {
        Lines::of(&text)
            .0
            .iter()
            .any(|line| matches!(mount_of(&line.content), Ok(Mount::At(found)) if found == at))
    };
    extra
        .extend(mounts.iter().filter(|(at, _)| is_system(at) && !there(at)).map(|(_, line)| (*line).clone()));
    extra.iter().for_each(|line| made.push(line));
    Ok(made.to_bytes())
}

/// Whether a line waits for somebody to mount it.
fn is_held(line: &[u8]) -> bool {
    fields(line).get(3).is_some_and(|options| options.split(|b| *b == b',').any(|option| option == b"noauto"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STANDBY: &str = "# standby\nUUID=s-root / ext4 errors=remount-ro 0 1\nUUID=s-boot /boot ext4 defaults 0 2\n\
                           UUID=s-swap none swap sw 0 0\nUUID=p-data /srv/data xfs noauto 0 0\n";

    fn fstab_of(production: &str) -> Result<String, String> {
        fstab(production.as_bytes(), STANDBY.as_bytes()).map(|made| String::from_utf8(made).unwrap())
    }

    #[test]
    fn the_system_is_the_standbys_and_the_data_waits() {
        let production = "# <file system>\nUUID=p-root\t/\text4\terrors=remount-ro\t0 1\nproc /proc proc defaults 0 0\n\
                          UUID=p-swap none swap sw 0 0\nUUID=p-boot /boot ext4 defaults 0 2\n\
                          /dev/vg/new /srv/new xfs defaults,nofail,x-systemd.automount 0 2\nUUID=p-data /srv/data xfs defaults 0 2";
        assert_eq!(
            fstab_of(production).unwrap(),
            "# <file system>\nUUID=s-root / ext4 errors=remount-ro 0 1\nproc /proc proc defaults 0 0\n\
             UUID=s-boot /boot ext4 defaults 0 2\n/dev/vg/new /srv/new xfs nofail,x-clonetool.automount,noauto,x-clonetool.held 0 2\n\
             UUID=p-data /srv/data xfs noauto,x-clonetool.held 0 2\nUUID=s-swap none swap sw 0 0\n"
        );
    }

    #[test]
    fn what_is_not_understood_changes_nothing() {
        assert!(fstab_of("UUID=p-root /\n").is_err());
        assert!(fstab_of("UUID=p-data /srv xfs defaults 0 2\n").is_err());
        assert!(fstab_of("").is_err());
        let usr = "UUID=p / ext4 defaults 0 1\nUUID=p-usr /usr ext4 defaults 0 1\n";
        assert_eq!(fstab_of(usr).unwrap_err(), "the standby has no filesystem for /usr");
        let own = fstab(b"UUID=p / ext4 defaults\n", b"broken line\n");
        assert!(own.is_err());
    }

    proptest! {
        #[test]
        fn doing_it_again_changes_nothing(
            lines in prop::collection::vec(
                ("[a-z]{1,4}", prop::sample::select(vec!["/srv", "/home", "none", "/opt"]),
                 prop::sample::select(vec!["xfs", "swap", "tmpfs"]),
                 prop::sample::select(vec!["defaults", "noauto", "ro"])), 0..6),
            newline: bool,
        ) {
            let mut production = String::from("UUID=p-root / ext4 defaults 0 1\nUUID=p-boot /boot ext4 defaults 0 2\n");
            for (device, at, kind, options) in lines {
                production.push_str(&format!("UUID={device} {at} {kind} {options} 0 0\n"));
            }
            if !newline { production.pop(); }
            let once = fstab_of(&production).unwrap();
            let twice = fstab(production.as_bytes(), once.as_bytes()).unwrap();
            prop_assert_eq!(String::from_utf8(twice).unwrap(), once);
        }
    }
}
