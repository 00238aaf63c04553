//! GRUB's defaults, `/etc/default/grub` and what is in `grub.d`: assignments of a shell, some of them command lines.
//!
//! Why: a parameter that production's kernel gets is to be the standby's too; the root, the swap to resume from and what
//! `prepare-root` set are not production's to say. What can go wrong: a value that goes on in the next line, or is put
//! together of several; what it holds is not known then, and nothing is made.

use super::super::lines::Lines;
use super::super::linux::words::{Assignment, Value, is_own, is_own_setting, split};
use super::cmdline::{is_closed, with_own};

/// What a line is about.
enum Part<'a> {
    /// A command line, of this name.
    Words(&'a str, Assignment<'a>, Value<'a>),
    /// A setting that is each host's own.
    Own(&'a str),
    Other,
}

fn part(line: &[u8]) -> Result<Part<'_>, String> {
    let Ok(text) = std::str::from_utf8(line) else {
        let escaped = crate::tree::escape(line);
        // In a comment, or in the name of a menu, any bytes may be.
        let known = Assignment::of(&escaped).is_some_and(|of| of.name.starts_with("GRUB_CMDLINE_"));
        return if known { Err(format!("a line is no UTF-8: {escaped}")) } else { Ok(Part::Other) };
    };
    let Some(assignment) = Assignment::of(text) else { return Ok(Part::Other) };
    let name = assignment.name.trim_end_matches('+');
    if is_own_setting(name) {
        return Ok(Part::Own(name));
    }
    if !name.starts_with("GRUB_CMDLINE_") {
        return Ok(Part::Other);
    }
    let value =
        assignment.value().ok_or_else(|| format!("{name} goes on in the next line; write it on one"))?;
    let rest = value.rest.trim_start();
    if !rest.is_empty() && (rest.len() == value.rest.len() || !rest.starts_with('#')) {
        return Err(format!("{name} is put together of several; write it in one pair of quotes"));
    }
    if !is_closed(value.inner) {
        return Err(format!("a quote in {name} does not end"));
    }
    Ok(Part::Words(name, assignment, value))
}

/// What is the standby's own, by the names of the settings.
#[derive(Default)]
struct Own {
    words: Vec<(String, Vec<String>)>,
    lines: Vec<(String, Vec<u8>)>,
}

impl Own {
    fn of(lines: &Lines) -> Result<Self, String> {
        let mut own = Self::default();
        for line in &lines.0 {
            match part(&line.content)? {
                Part::Other => {}
                Part::Own(name) => own.lines.push((name.to_owned(), line.content.clone())),
                Part::Words(name, _, value) => {
                    let at = own.words.iter().position(|(of, _)| of == name).unwrap_or_else(|| {
                        own.words.push((name.to_owned(), Vec::new()));
                        own.words.len() - 1
                    });
                    for word in split(value.inner).into_iter().filter(|word| is_own(word)) {
                        // It may come to stand between other quotes than it does now.
                        if word.contains(['"', '\'', '$', '`', '\\']) {
                            return Err(format!("{name} has a word that the shell changes: {word}"));
                        }
                        let words = &mut own.words[at].1;
                        if !words.iter().any(|one| one == word) {
                            words.push(word.to_owned());
                        }
                    }
                }
            }
        }
        Ok(own)
    }

    fn words(&self, name: &str) -> &[String] {
        self.words.iter().find(|(of, _)| of == name).map_or(&[], |(_, words)| words)
    }
}

/// The words and settings that name devices are the standby's, everything else production's.
pub(super) fn grub(production: &[u8], standby: &[u8]) -> Result<Vec<u8>, String> {
    let own = Own::of(&Lines::of(standby)).map_err(|reason| format!("the standby's own: {reason}"))?;
    let production = Lines::of(production);
    let parts = production.0.iter().map(|line| part(&line.content)).collect::<Result<Vec<_>, _>>()?;
    // Of several assignments to one name the last one counts, alone or with the others in it.
    let last = |name: &str| parts.iter().rposition(|part| matches!(part, Part::Words(of, ..) if *of == name));
    let mut made = Lines::default();
    let mut seen: Vec<&str> = Vec::new();
    for (at, (line, part)) in production.0.iter().zip(&parts).enumerate() {
        let mut line = line.clone();
        match part {
            Part::Other => made.0.push(line),
            Part::Own(name) => {
                if !seen.contains(name) {
                    seen.push(name);
                    for (_, content) in own.lines.iter().filter(|(of, _)| of == name) {
                        line.content.clone_from(content);
                        made.0.push(line.clone());
                    }
                }
            }
            Part::Words(name, Assignment { before, name: written, .. }, Value { quote, inner, rest }) => {
                let words = if last(name) == Some(at) { own.words(name) } else { &[] };
                if let Some(new) = with_own(inner, words) {
                    let quote = quote.unwrap_or('"');
                    line.content = format!("{before}{written}={quote}{new}{quote}{rest}").into_bytes();
                }
                made.0.push(line);
            }
        }
    }
    let words = own.words.iter().filter(|(name, words)| !words.is_empty() && last(name).is_none());
    let words = words.map(|(name, words)| format!("{name}=\"{}\"", words.join(" ")).into_bytes());
    let lines =
        own.lines.iter().filter(|(name, _)| !seen.contains(&name.as_str())).map(|(_, line)| line.clone());
    let added: Vec<Vec<u8>> = words.chain(lines).collect();
    if !added.is_empty() && made.0.last().is_some_and(|line| line.content.ends_with(b"\\")) {
        return Err("its last line goes on in another one".to_owned());
    }
    added.iter().for_each(|line| made.push(line));
    Ok(made.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(production: &str, standby: &str) -> Result<String, String> {
        let once = grub(production.as_bytes(), standby.as_bytes())?;
        assert_eq!(grub(production.as_bytes(), &once).unwrap(), once, "a second time changes more");
        Ok(String::from_utf8(once).unwrap())
    }

    #[test]
    fn a_parameter_of_productions_comes_and_its_devices_do_not() {
        let production = "# If you change this file, run 'update-grub'\nGRUB_DEFAULT=0\n\
                          GRUB_CMDLINE_LINUX_DEFAULT=\"quiet resume=UUID=p mitigations=off\" # fast\n\
                          GRUB_CMDLINE_LINUX='crashkernel=256M rd.lvm.lv=vg/root rd.luks.uuid=p rhgb'\n\
                          GRUB_DISABLE_OS_PROBER=false\nGRUB_DEVICE=/dev/sda1\n";
        let standby = "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"rd.luks=0 rd.lvm.lv=new/root rhgb\"\n\
                       GRUB_DISABLE_OS_PROBER=true\nGRUB_ENABLE_CRYPTODISK=y\n";
        assert_eq!(
            made(production, standby).unwrap(),
            "# If you change this file, run 'update-grub'\nGRUB_DEFAULT=0\n\
             GRUB_CMDLINE_LINUX_DEFAULT=\"quiet mitigations=off\" # fast\n\
             GRUB_CMDLINE_LINUX='crashkernel=256M rd.luks=0 rd.lvm.lv=new/root rhgb'\n\
             GRUB_DISABLE_OS_PROBER=true\nGRUB_ENABLE_CRYPTODISK=y\n"
        );
    }

    #[test]
    fn the_last_of_several_assignments_has_the_standbys_words() {
        assert_eq!(
            made(
                "GRUB_CMDLINE_LINUX=resume=p\r\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX a  b\"",
                "GRUB_CMDLINE_LINUX=\"resume=s\"\n"
            )
            .unwrap(),
            "GRUB_CMDLINE_LINUX=\"\"\r\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX a b resume=s\""
        );
        assert_eq!(
            made("GRUB_TIMEOUT=5", "GRUB_CMDLINE_LINUX+=resume=s\n").unwrap(),
            "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"resume=s\"\n"
        );
        let kept = "export GRUB_CMDLINE_LINUX=\"dyndbg=\\\"file a +p\\\"  b\"\nGRUB_CMDLINE_LINUX_DEFAULT=quiet # x\n  if true\n";
        assert_eq!(made(kept, "").unwrap(), kept);
    }

    #[test]
    fn what_cannot_be_told_apart_is_an_error() {
        for line in [
            "GRUB_CMDLINE_LINUX=\"root=a \\\n b\"\n",
            "GRUB_CMDLINE_LINUX='a\nb'\n",
            "GRUB_CMDLINE_LINUX=\"a\"'b'\n",
            "GRUB_CMDLINE_LINUX='x=\"a'\n",
            "GRUB_CMDLINE_LINUX=\"a\" update-grub\n",
        ] {
            assert!(made(line, "").is_err(), "{line}");
            assert!(made("GRUB_TIMEOUT=5\n", line).unwrap_err().starts_with("the standby's own: "), "{line}");
        }
        assert!(made("GRUB_X=a\\\n", "GRUB_DEVICE=/x\n").unwrap_err().contains("goes on"));
        assert!(made("", "GRUB_CMDLINE_LINUX=\"root=$ROOT\"\n").is_err());
        assert!(grub(b"GRUB_CMDLINE_LINUX=\"\xff\"\n", b"").is_err());
        assert_eq!(grub(b"GRUB_DISTRIBUTOR=\"\xff\"\n", b"").unwrap(), b"GRUB_DISTRIBUTOR=\"\xff\"\n");
    }
}
