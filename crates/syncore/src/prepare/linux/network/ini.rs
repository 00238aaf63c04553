//! Files of sections and keys: units of systemd-networkd, keyfiles of NetworkManager.
//!
//! Why: a file that keeps its device and loses its addresses must keep everything else byte for byte. What can go wrong:
//! a section that occurs twice, which both formats allow; each occurrence is judged.

use crate::prepare::lines::{Lines, is_comment};

/// The section that a line opens.
fn opens(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii();
    let name = line.strip_prefix(b"[")?.strip_suffix(b"]")?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn pair(line: &[u8]) -> Option<(String, String)> {
    if is_comment(line, b'#') || is_comment(line, b';') {
        return None;
    }
    let text = String::from_utf8_lossy(line);
    let (key, value) = text.split_once('=')?;
    Some((key.trim().to_owned(), value.trim().to_owned()))
}

/// The lines for which `keep` says so. It is asked with the section, and the key and value if the line has any.
pub(super) fn filter(content: &[u8], mut keep: impl FnMut(&str, Option<(&str, &str)>) -> bool) -> Lines {
    let (mut lines, mut section) = (Lines::of(content), String::new());
    lines.edit(|line| {
        if let Some(name) = opens(line) {
            section = name;
        }
        let pair = pair(line);
        let pair = pair.as_ref().map(|(key, value)| (&key[..], &value[..]));
        keep(&section, pair).then(|| line.to_vec())
    });
    lines
}

/// All values of a key in sections of that name.
pub(super) fn values(content: &[u8], section: &str, key: &str) -> Vec<String> {
    let mut values = Vec::new();
    filter(content, |here, pair| {
        if let Some((_, value)) = pair.filter(|(name, _)| here == section && *name == key) {
            values.push(value.to_owned());
        }
        true
    });
    values
}

/// Adds lines at the start of the first section of that name, which is made at the end if there is none.
pub(super) fn insert(lines: &mut Lines, section: &str, added: &[String]) {
    let header = lines.0.iter().position(|line| opens(&line.content).as_deref() == Some(section));
    let at = match header {
        Some(header) => header + 1,
        None => {
            if lines.0.last().is_some_and(|line| !line.content.is_empty()) {
                lines.push(b"");
            }
            lines.push(format!("[{section}]").as_bytes());
            lines.0.len()
        }
    };
    for (offset, line) in added.iter().enumerate() {
        lines.insert(at + offset, line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_left_out_and_another_is_added_to() {
        let content = b"# top\r\n[Match]\r\nName=eth0\r\n[Address]\r\nAddress=10.0.0.5/24\r\n[Network]\r\n";
        let mut lines = filter(content, |section, _| section != "Address");
        insert(&mut lines, "Network", &["DHCP=yes".to_owned()]);
        insert(&mut lines, "Link", &["MTUBytes=9000".to_owned()]);
        assert_eq!(
            String::from_utf8(lines.to_bytes()).unwrap(),
            "# top\r\n[Match]\r\nName=eth0\r\n[Network]\r\nDHCP=yes\r\n\r\n[Link]\r\nMTUBytes=9000\r\n"
        );
        assert_eq!(values(content, "Match", "Name"), ["eth0"]);
    }
}
