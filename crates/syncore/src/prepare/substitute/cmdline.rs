//! A kernel's command line in a file of its own: `/etc/kernel/cmdline`, and what is in `/etc/cmdline.d`.
//!
//! Why: what production tells its kernel is to be told to the standby's, but for the words that name devices. What can
//! go wrong: `root=` without which the next kernel finds no root. The words that `prepare-root` rewrites are the
//! standby's here, and no others.

use super::super::lines::{Lines, is_comment};
use super::super::linux::words::{is_own, key_of, split};

/// The words that name devices are the standby's, at the place of production's first one; all others production's.
pub(super) fn cmdline(production: &[u8], standby: &[u8]) -> Result<Vec<u8>, String> {
    let mut own = Vec::new();
    for line in Lines::of(standby).0 {
        let text = text(&line.content).map_err(|reason| format!("the standby's own: {reason}"))?;
        own.extend(split(text).into_iter().filter(|word| is_own(word)).map(str::to_owned));
    }
    let mut made = Lines::of(production);
    let (mut place, mut last, mut root) = (None, None, false);
    for (at, line) in made.0.iter().enumerate().filter(|(_, line)| !is_comment(&line.content, b'#')) {
        let words = split(text(&line.content)?);
        if words.iter().any(|word| is_own(word)) {
            place.get_or_insert(at);
        }
        root |= words.iter().any(|word| key_of(word) == "root");
        last = Some(at);
    }
    if root && !own.iter().any(|word| key_of(word) == "root") {
        return Err("it says root=, and the standby's own does not; write the standby's into it".to_owned());
    }
    let place = place.or(last);
    for (at, line) in made.0.iter_mut().enumerate() {
        let own = if place == Some(at) { &own[..] } else { &[] };
        if let Some(new) = with_own(text(&line.content)?, own) {
            line.content = new.into_bytes();
        }
    }
    if place.is_none() && !own.is_empty() {
        made.push(own.join(" ").as_bytes());
    }
    Ok(made.to_bytes())
}

/// The line as text whose words can be told apart; nothing of a comment, which may be of any bytes.
fn text(line: &[u8]) -> Result<&str, String> {
    if is_comment(line, b'#') {
        return Ok("");
    }
    let text = std::str::from_utf8(line)
        .map_err(|_| format!("a line is no UTF-8: {}", crate::tree::escape(line)))?;
    if !is_closed(text) {
        return Err(format!("a quote does not end: {}", crate::tree::escape(line)));
    }
    Ok(text)
}

/// Whether each quote of a command line ends on it: another word would else become part of the last one.
pub(super) fn is_closed(line: &str) -> bool {
    line.matches('"').count().is_multiple_of(2)
}

/// A command line with these words of a host's own in place of those that it has; none when that changes nothing.
pub(super) fn with_own(line: &str, own: &[String]) -> Option<String> {
    let words = split(line);
    // What follows `--` is for init and not for the kernel.
    let at = words.iter().position(|word| is_own(word) || *word == "--").unwrap_or(words.len());
    let (before, after) = words.split_at(at);
    let after = after.iter().copied().filter(|word| !is_own(word));
    let made: Vec<&str> = before.iter().copied().chain(own.iter().map(String::as_str)).chain(after).collect();
    (made != words).then(|| made.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(production: &str, standby: &str) -> Result<String, String> {
        let once = cmdline(production.as_bytes(), standby.as_bytes())?;
        assert_eq!(cmdline(production.as_bytes(), &once).unwrap(), once, "a second time changes more");
        Ok(String::from_utf8(once).unwrap())
    }

    #[test]
    fn the_kernel_is_told_of_the_standbys_root_and_of_all_else() {
        let standby = "ro quiet root=UUID=s rd.luks=0 rd.lvm.lv=vg/root\n";
        assert_eq!(
            made(
                "root=UUID=p rootflags=subvol=@ ro  quiet resume=UUID=swap ip=dhcp console=ttyS0 -- single",
                standby
            )
            .unwrap(),
            "root=UUID=s rd.luks=0 rd.lvm.lv=vg/root ro quiet console=ttyS0 -- single"
        );
        assert_eq!(made("# x\r\nquiet  splash\r\n", "").unwrap(), "# x\r\nquiet  splash\r\n");
        assert_eq!(
            made("quiet -- single\n", standby).unwrap(),
            "quiet root=UUID=s rd.luks=0 rd.lvm.lv=vg/root -- single\n"
        );
        assert_eq!(made("", "root=UUID=s").unwrap(), "root=UUID=s\n");
        assert_eq!(made("a\nresume=x\nb resume=y\n", "resume=z\n").unwrap(), "a\nresume=z\nb\n");
    }

    #[test]
    fn a_root_that_cannot_be_replaced_is_an_error() {
        assert!(made("root=UUID=p ro\n", "ro quiet\n").unwrap_err().contains("root="));
        assert!(made("dyndbg=\"file x\n", "root=UUID=s\n").unwrap_err().contains("a quote does not end"));
        assert!(cmdline(b"quiet \xff\n", b"").is_err() && cmdline(b"quiet\n", b"\xff\n").is_err());
        assert_eq!(cmdline(b"# \xff\nquiet", b"# \xfe").unwrap(), b"# \xff\nquiet");
    }
}
