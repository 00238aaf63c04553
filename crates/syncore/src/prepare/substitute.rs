//! Files that are production's but for what is the standby's own in them (class B).
//!
//! Why: a new data volume belongs into the standby's fstab, and production's root device does not. So such a file is
//! made on the standby, from what arrives and what is there. What can go wrong: an fstab of which half is not
//! understood; then nothing is made and the standby keeps what it has, because a guess is a host that does not boot.

use super::lines::{Lines, fields, is_comment};
use super::linux::held_line;
use crate::rules::Substitution;

/// Mount points without which a system does not come up (fstab(5), hier(7)).
const SYSTEM_MOUNTS: [&[u8]; 8] =
    [b"/", b"/usr", b"/var", b"/boot", b"/boot/efi", b"/efi", b"/var/log", b"/var/tmp"];

/// Kinds of filesystems that are no device.
const DEVICELESS: [&[u8]; 9] =
    [b"proc", b"sysfs", b"tmpfs", b"devpts", b"devtmpfs", b"cgroup", b"cgroup2", b"efivarfs", b"securityfs"];

/// Makes the standby's file from `production`'s and the `standby`'s own. `names` are the standby's names.
///
/// # Errors
/// In words, when one of the two is not what it should be.
pub(crate) fn substitute(
    kind: Substitution,
    production: &[u8],
    standby: &[u8],
    names: &[String],
) -> Result<Vec<u8>, String> {
    match kind {
        Substitution::Fstab => fstab(production, standby),
        Substitution::Hosts => hosts(production, standby, names),
    }
}

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
fn fstab(production: &[u8], standby: &[u8]) -> Result<Vec<u8>, String> {
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

/// The lines that name the standby are its own; production's own stay, so that the two find each other.
fn hosts(production: &[u8], standby: &[u8], names: &[String]) -> Result<Vec<u8>, String> {
    if names.iter().all(String::is_empty) {
        return Err("the standby has no name".to_owned());
    }
    let names_standby = |line: &[u8]| {
        let line = line.split(|b| *b == b'#').next().unwrap_or_default();
        let is_name = |field: &[u8]| {
            names.iter().any(|name| !name.is_empty() && name.as_bytes().eq_ignore_ascii_case(field))
        };
        fields(line).iter().skip(1).any(|field| is_name(field))
    };
    let own: Vec<Vec<u8>> = Lines::of(standby)
        .0
        .into_iter()
        .map(|line| line.content)
        .filter(|line| names_standby(line))
        .collect();
    let mut made = Lines::of(production);
    // Production may know the standby by another address than the standby itself does.
    made.edit(|line| (!names_standby(line)).then(|| line.to_vec()));
    // After the loopback lines, where resolvers look first and people expect it.
    let after = made
        .0
        .iter()
        .rposition(|line| {
            fields(&line.content).first().is_some_and(|a| a.starts_with(b"127.") || *a == b"::1")
        })
        .map_or(0, |at| at + 1);
    for (offset, line) in own.iter().enumerate() {
        made.insert(after + offset, line);
    }
    Ok(made.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STANDBY: &str = "# standby\nUUID=s-root / ext4 errors=remount-ro 0 1\nUUID=s-boot /boot ext4 defaults 0 2\n\
                           UUID=s-swap none swap sw 0 0\nUUID=p-data /srv/data xfs noauto 0 0\n";

    fn fstab_of(production: &str) -> Result<String, String> {
        substitute(Substitution::Fstab, production.as_bytes(), STANDBY.as_bytes(), &[])
            .map(|made| String::from_utf8(made).unwrap())
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
        let own = substitute(Substitution::Fstab, b"UUID=p / ext4 defaults\n", b"broken line\n", &[]);
        assert!(own.is_err());
    }

    #[test]
    fn its_own_lines_of_hosts_stay() {
        let names = ["db2".to_owned(), "db2.example.org".to_owned()];
        let production = "127.0.0.1\tlocalhost\n::1 localhost\n10.0.0.1 db1.example.org db1\n10.0.0.99 db2\n10.0.0.3 db20\n";
        let standby = "127.0.0.1\tlocalhost\n127.0.1.1 db2.example.org db2\n10.0.0.2 DB2\n10.0.0.1 old-db1\n";
        let made =
            substitute(Substitution::Hosts, production.as_bytes(), standby.as_bytes(), &names).unwrap();
        assert_eq!(
            String::from_utf8(made).unwrap(),
            "127.0.0.1\tlocalhost\n::1 localhost\n127.0.1.1 db2.example.org db2\n10.0.0.2 DB2\n\
             10.0.0.1 db1.example.org db1\n10.0.0.3 db20\n"
        );
        assert!(substitute(Substitution::Hosts, b"", b"", &[]).is_err());
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
            let twice = substitute(Substitution::Fstab, production.as_bytes(), once.as_bytes(), &[]).unwrap();
            prop_assert_eq!(String::from_utf8(twice).unwrap(), once);
        }
    }
}
