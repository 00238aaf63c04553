//! crypttab(5): the standby opens what it opens, and nothing else of production's.
//!
//! Why: a new encrypted data volume is to be known to whoever promotes the standby, and not to be opened before. What
//! can go wrong: a line that is opened early or formats its device: of production's none arrives, as `prepare-root` has
//! it, and the others arrive held by the same hand.

use super::super::lines::Lines;
use super::super::linux::crypttab::{Mapping, formats, held_mapping, is_early, is_held};

/// What is not held on the standby is its own.
pub(super) fn crypttab(production: &[u8], standby: &[u8]) -> Vec<u8> {
    let mut own: Vec<(String, Vec<u8>)> = Vec::new();
    for line in Lines::of(standby).0 {
        let Some(Mapping { name, options, .. }) = Mapping::of(&line.content) else { continue };
        let opened = !is_held(&options) || is_early(&options);
        if opened && !own.iter().any(|(of, _)| *of == name) {
            own.push((name, line.content));
        }
    }
    let mut left = own.clone();
    let mut made = Lines::of(production);
    made.edit(|line| {
        let Some(Mapping { name, options, .. }) = Mapping::of(line) else { return Some(line.to_vec()) };
        if own.iter().any(|(of, _)| *of == name) {
            let at = left.iter().position(|(of, _)| *of == name)?;
            return Some(left.remove(at).1);
        }
        (!is_early(&options) && !formats(&options)).then(|| held_mapping(line))
    });
    left.iter().for_each(|(_, line)| made.push(line));
    made.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(production: &str, standby: &str) -> String {
        let once = crypttab(production.as_bytes(), standby.as_bytes());
        assert_eq!(crypttab(production.as_bytes(), &once), once, "a second time changes more");
        String::from_utf8(once).unwrap()
    }

    #[test]
    fn the_system_is_opened_and_data_waits() {
        let production = "# <name> <device>\nroot\tUUID=p-root none luks,initramfs\r\nswap /dev/sda5 /dev/urandom swap\n\
                          data UUID=p-data /etc/key luks\nlogs UUID=p-logs\nold UUID=p-old none noauto,luks\nbroken\nhome UUID=p-home";
        let standby = "root UUID=s-root none luks,initramfs\nhome UUID=s-home none luks\ndata UUID=x none noauto\nvar UUID=s-var\n";
        assert_eq!(
            made(production, standby),
            "# <name> <device>\nroot UUID=s-root none luks,initramfs\r\ndata UUID=p-data /etc/key luks,noauto\n\
             logs UUID=p-logs none noauto\nold UUID=p-old none noauto,luks\nbroken\nhome UUID=s-home none luks\nvar UUID=s-var\n"
        );
    }

    #[test]
    fn a_standby_that_is_not_encrypted_opens_nothing() {
        assert_eq!(
            made("root UUID=p none luks,initramfs\ndata UUID=d none luks", ""),
            "data UUID=d none luks,noauto"
        );
        assert_eq!(made("", "root UUID=s none luks"), "root UUID=s none luks\n");
    }
}
