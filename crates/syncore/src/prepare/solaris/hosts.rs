//! The standby's own line in hosts(4) and its kin.
//!
//! Why: the standby has to know its own name before any network is up, and has to find production by name. So
//! production's line stays, and the standby gets one beside it. What can go wrong: `loghost` on production's line sends
//! the standby's log there; a name that is part of another (`db1` in `db10`) is not that name.

use std::net::IpAddr;

use super::super::lines::{Lines, fields, with_field};

/// A name of production's and the standby's, with the domain that either may carry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) source: &'a str,
    pub(super) own: &'a str,
}

impl Names<'_> {
    /// Whether `name` is production's, with or without a domain.
    pub(super) fn is_source(&self, name: &[u8]) -> bool {
        let short = short(self.source).as_bytes();
        !short.is_empty()
            && (name == short || name.strip_prefix(short).is_some_and(|rest| rest.starts_with(b".")))
    }

    fn is_own(&self, name: &[u8]) -> bool {
        name == self.own.as_bytes() || name == short(self.own).as_bytes()
    }

    /// The standby's name in place of production's, in the form that this one has.
    fn renamed(&self, name: &[u8]) -> Vec<u8> {
        let domain = &name[short(self.source).len().min(name.len())..];
        if domain.is_empty() {
            return short(self.own).as_bytes().to_vec();
        }
        [short(self.own).as_bytes(), domain].concat()
    }
}

fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// Line and comment, apart.
fn parts(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(line.iter().position(|b| *b == b'#').unwrap_or(line.len()))
}

fn is_loopback(address: &[u8]) -> bool {
    address.starts_with(b"127.") || address == b"::1"
}

/// A hosts(4) file in which the standby has its name, at `addresses` or, without any, at the loopback address.
pub(super) fn hosts(content: &[u8], names: Names<'_>, addresses: &[(String, IpAddr)]) -> Vec<u8> {
    let mut lines = Lines::of(content);
    lines.edit(|line| Some(own_names(line, names)));
    for (name, address) in addresses {
        set_address(&mut lines, name, *address);
    }
    let named = |lines: &Lines| {
        lines.0.iter().position(|line| {
            let (body, _) = parts(&line.content);
            fields(body).iter().skip(1).any(|name| names.is_own(name))
        })
    };
    if named(&lines).is_none() {
        let loopback = lines.0.iter().position(|line| {
            fields(parts(&line.content).0).first().is_some_and(|address| address.starts_with(b"127."))
        });
        match loopback {
            Some(at) => lines.0[at].content = with_name(&lines.0[at].content, names.own),
            None => lines.push(format!("127.0.0.1\tlocalhost {}", names.own).as_bytes()),
        }
    }
    let has_log_host = lines
        .0
        .iter()
        .any(|line| fields(parts(&line.content).0).iter().skip(1).any(|name| *name == b"loghost"));
    if let (false, Some(at)) = (has_log_host, named(&lines)) {
        lines.0[at].content = with_name(&lines.0[at].content, "loghost");
    }
    lines.to_bytes()
}

/// A line with the standby's name where it is at the loopback address, and no `loghost` where it is production's.
fn own_names(line: &[u8], names: Names<'_>) -> Vec<u8> {
    let (body, comment) = parts(line);
    let words = fields(body);
    let Some((address, aliases)) = words.split_first() else { return line.to_vec() };
    let mut body = body.to_vec();
    if is_loopback(address) {
        for (index, name) in aliases.iter().enumerate() {
            if names.is_source(name) {
                body = with_field(&body, index + 1, &names.renamed(name));
            }
        }
    } else if aliases.iter().any(|name| names.is_source(name))
        && let Some(index) = aliases.iter().position(|name| *name == b"loghost")
    {
        body = with_field(&body, index + 1, b"");
        if comment.is_empty() {
            body.truncate(body.trim_ascii_end().len());
        }
    }
    [&body, comment].concat()
}

/// Puts `name` at `address`, in its line of the same family or a new one.
fn set_address(lines: &mut Lines, name: &str, address: IpAddr) {
    let there = lines.0.iter_mut().find(|line| {
        let words = fields(parts(&line.content).0);
        let same =
            words.first().is_some_and(|word| !is_loopback(word) && word.contains(&b':') == address.is_ipv6());
        same && words.iter().skip(1).any(|word| *word == name.as_bytes())
    });
    match there {
        Some(line) => line.content = with_field(&line.content, 0, address.to_string().as_bytes()),
        None => lines.push(format!("{address}\t{name}").as_bytes()),
    }
}

/// Adds a name after the last one of a line.
fn with_name(line: &[u8], name: &str) -> Vec<u8> {
    let (body, comment) = parts(line);
    let end = body.trim_ascii_end().len();
    [&body[..end], b" ", name.as_bytes(), &body[end..], comment].concat()
}

/// A `/etc/net/tic*/hosts` file: the name in both fields.
pub(super) fn transport_hosts(content: &[u8], names: Names<'_>) -> Vec<u8> {
    let mut lines = Lines::of(content);
    let mut own = false;
    lines.edit(|line| {
        let (body, comment) = parts(line);
        let mut body = body.to_vec();
        let words: Vec<Vec<u8>> = fields(&body).into_iter().map(<[u8]>::to_vec).collect();
        for (index, name) in words.iter().enumerate() {
            if names.is_source(name) {
                body = with_field(&body, index, &names.renamed(name));
            }
            own |= names.is_source(name) || names.is_own(name);
        }
        Some([&body, comment].concat())
    });
    if !own {
        lines.push(format!("{0}\t{0}", names.own).as_bytes());
    }
    lines.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> = Names { source: "db1", own: "standby1" };

    fn edited(content: &str, addresses: &[(String, IpAddr)]) -> String {
        let once = hosts(content.as_bytes(), NAMES, addresses);
        assert_eq!(hosts(&once, NAMES, addresses), once, "a second time changes more");
        String::from_utf8(once).unwrap()
    }

    #[test]
    fn production_keeps_its_line_and_loses_the_log() {
        let before =
            "127.0.0.1\tlocalhost\n10.0.0.5\tdb1 db1.example.org loghost # db1\n10.0.0.6 db10 loghost1\n";
        assert_eq!(
            edited(before, &[]),
            "127.0.0.1\tlocalhost standby1 loghost\n10.0.0.5\tdb1 db1.example.org  # db1\n10.0.0.6 db10 loghost1\n"
        );
        let at = [("standby1".to_owned(), "10.0.0.7".parse().unwrap())];
        assert_eq!(
            edited(before, &at),
            "127.0.0.1\tlocalhost\n10.0.0.5\tdb1 db1.example.org  # db1\n10.0.0.6 db10 loghost1\n\
             10.0.0.7\tstandby1 loghost\n"
        );
    }

    #[test]
    fn a_line_that_the_standby_has_is_used() {
        let before = "127.0.0.1 localhost loghost\r\n10.0.0.5 db1\r\n10.0.0.9 standby1 sb";
        assert_eq!(edited(before, &[]), before);
        let at = [("standby1".to_owned(), "10.0.0.7".parse().unwrap())];
        assert_eq!(edited(before, &at), before.replace("10.0.0.9", "10.0.0.7"));
    }

    #[test]
    fn production_is_not_at_the_loopback_address() {
        assert_eq!(
            edited("::1\tdb1.example.org db1 localhost\n127.0.0.1 db1 localhost loghost db12\n", &[]),
            "::1\tstandby1.example.org standby1 localhost\n127.0.0.1 standby1 localhost loghost db12\n"
        );
        assert_eq!(edited("", &[]), "127.0.0.1\tlocalhost standby1 loghost\n");
    }

    #[test]
    fn a_transport_host_has_its_name_twice() {
        let edited = |content: &[u8]| String::from_utf8(transport_hosts(content, NAMES)).unwrap();
        assert_eq!(edited(b"#ident\ndb1\tdb1\ndb10 db10"), "#ident\nstandby1\tstandby1\ndb10 db10");
        assert_eq!(edited(b"#ident\n"), "#ident\nstandby1\tstandby1\n");
        assert_eq!(edited(b"standby1\tstandby1\n"), "standby1\tstandby1\n");
    }
}
