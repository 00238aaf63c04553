//! Production's names and the standby's, and where one stands for the other in a text.
//!
//! Why: `db1` is production, `db10` is a third host. A name is replaced where it is a whole name and nowhere else. What
//! can go wrong: a name that is also a word of the file's language; so callers hand over the values that hold host names,
//! not whole files.

use crate::prepare::Task;

/// Both hosts, with and without their domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// Each name of production's and the standby's for it; the longer one first.
    pairs: Vec<(String, String)>,
    /// The standby's name with its domain, if one is known.
    pub(super) full: String,
    /// The standby's name without its domain.
    pub(super) short: String,
}

impl Names {
    /// The names of a task; `hosts` tells production's domain where its host name does not.
    pub(super) fn of(task: &Task<'_>, hosts: &[u8]) -> Self {
        let source = task.earlier.map_or(&task.system.hostname[..], |earlier| &earlier.source_hostname);
        Self::new(source, task.hostname, hosts)
    }

    pub(super) fn new(source: &str, hostname: &str, hosts: &[u8]) -> Self {
        let short_of = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let (source_short, short) = (short_of(source), short_of(hostname));
        let domain = match source.split_once('.') {
            Some((_, domain)) => Some(domain.to_owned()),
            None => domain_in(&source_short, hosts),
        };
        let full = match &domain {
            Some(domain) if !hostname.contains('.') => format!("{hostname}.{domain}"),
            _ => hostname.to_owned(),
        };
        let mut pairs = Vec::new();
        if let Some(domain) = domain.filter(|_| !source_short.is_empty()) {
            pairs.push((format!("{source_short}.{domain}"), full.clone()));
        }
        if !source_short.is_empty() {
            pairs.push((source_short, short.clone()));
        }
        pairs.retain(|(old, new)| !old.eq_ignore_ascii_case(new));
        Self { pairs, full, short }
    }

    /// Whether `word` is one of production's names.
    pub(super) fn is_source(&self, word: &[u8]) -> bool {
        self.pairs.iter().any(|(old, _)| word.eq_ignore_ascii_case(old.as_bytes()))
    }

    /// Whether `word` is one of the standby's names.
    pub(super) fn is_own(&self, word: &[u8]) -> bool {
        [&self.full, &self.short].iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The standby's name in place of one of production's; none for another word.
    pub(super) fn own_for(&self, word: &[u8]) -> Option<&[u8]> {
        let pair = self.pairs.iter().find(|(old, _)| word.eq_ignore_ascii_case(old.as_bytes()));
        pair.map(|(_, new)| new.as_bytes())
    }

    /// `text` with each of production's names replaced that stands alone: `db1` in `db1`, `db1:/x`, `root@db1`, `'db1'`,
    /// and not in `db10`, `db1-old`, `www.db1`, `db1.elsewhere`.
    pub(super) fn replaced_in(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let word = rest.iter().position(|b| !of_a_name(*b)).unwrap_or(rest.len());
            if word == 0 {
                out.push(rest[0]);
                rest = &rest[1..];
                continue;
            }
            let name = &rest[..word];
            // A full stop at the end makes it absolute, or ends a sentence.
            let bare = name.strip_suffix(b".").unwrap_or(name);
            match self.own_for(bare) {
                Some(own) => out.extend_from_slice(&[own, &name[bare.len()..]].concat()),
                None => out.extend_from_slice(name),
            }
            rest = &rest[word..];
        }
        out
    }

    /// The names as a line of hosts(5) has them.
    pub(super) fn for_hosts(&self) -> String {
        if self.full == self.short { self.full.clone() } else { format!("{} {}", self.full, self.short) }
    }
}

fn of_a_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
}

/// The domain that a hosts(5) file gives to `short`, on a line that names both.
fn domain_in(short: &str, hosts: &[u8]) -> Option<String> {
    if short.is_empty() {
        return None;
    }
    let wanted = format!("{short}.").to_ascii_lowercase();
    for line in hosts.split(|b| *b == b'\n') {
        let line = line.split(|b| *b == b'#').next().unwrap_or_default();
        for name in line.split(u8::is_ascii_whitespace).skip(1) {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            match name.strip_prefix(&wanted) {
                Some(domain) if !domain.is_empty() && !domain.starts_with("localdomain") => {
                    return Some(domain.to_owned());
                }
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_replaced_where_it_stands_alone() {
        let names = Names::new("db1", "db2", b"10.0.0.5 db1.example.org db1\n");
        let cases: [(&str, &str); 10] = [
            ("db1", "db2"),
            ("DB1.example.org.", "db2.example.org."),
            ("root@db1, db1.example.org", "root@db2, db2.example.org"),
            ("'db1:db1.example.org'", "'db2:db2.example.org'"),
            ("db10 db1-old xdb1 db1_a", "db10 db1-old xdb1 db1_a"),
            ("www.db1 db1.elsewhere", "www.db1 db1.elsewhere"),
            ("db1.example.org.uk", "db1.example.org.uk"),
            ("", ""),
            ("(db1)", "(db2)"),
            ("db1.", "db2."),
        ];
        for (text, expected) in cases {
            assert_eq!(String::from_utf8(names.replaced_in(text.as_bytes())).unwrap(), expected, "{text}");
        }
        assert_eq!(names.for_hosts(), "db2.example.org db2");
    }

    #[test]
    fn a_takeover_and_a_root_without_a_name_replace_nothing() {
        assert_eq!(Names::new("db1", "db1", b"").replaced_in(b"db1"), b"db1");
        assert_eq!(Names::new("", "db2", b"1.1.1.1 .x").replaced_in(b" . db2"), b" . db2");
    }

    proptest! {
        #[test]
        fn text_without_the_name_stays_as_it_is(text: Vec<u8>) {
            let names = Names::new("db1.example.org", "db2", b"");
            let lower = text.to_ascii_lowercase();
            prop_assume!(!lower.windows(3).any(|window| window == b"db1"));
            prop_assert_eq!(names.replaced_in(&text), text);
        }

        #[test]
        fn replacing_twice_is_replacing_once(text in "[db1. @-]{0,40}") {
            let names = Names::new("db1", "db2", b"");
            let once = names.replaced_in(text.as_bytes());
            prop_assert_eq!(names.replaced_in(&once), once);
        }
    }
}
