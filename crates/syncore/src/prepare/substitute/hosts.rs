//! hosts(5): the standby's lines for itself, production's for everybody else.
//!
//! Why: a standby looks up its own name before any network is up, and finds production by name. What can go wrong: at a
//! loopback address production's file names production; taken over, the standby would take itself for it. And what
//! production calls itself besides, `loghost` above all, may be the standby's name for itself.

use super::super::lines::{Lines, fields, with_field};
use super::Names;

/// The lines that name the standby are its own; production's own stay, so that the two find each other.
pub(super) fn hosts(production: &[u8], standby: &[u8], names: &Names) -> Result<Vec<u8>, String> {
    if names.own.is_empty() {
        return Err("the standby has no name".to_owned());
    }
    let names_standby = |line: &[u8]| words(line).iter().skip(1).any(|name| names.is_own(name));
    let own: Vec<Vec<u8>> = Lines::of(standby)
        .0
        .into_iter()
        .map(|line| line.content)
        .filter(|line| names_standby(line))
        .collect();
    let mut made = Lines::of(production);
    // Production may know the standby by another address than the standby itself does.
    let (mut kept, mut replaced) = (0, None);
    made.edit(|line| {
        let other = (!names_standby(line)).then(|| others(line, &own, names)).flatten();
        if other.as_ref().is_some_and(|other| own.iter().any(|own| says_all_of(own, other))) {
            replaced.get_or_insert(kept);
            return None;
        }
        kept += usize::from(other.is_some());
        other
    });
    // After the loopback lines, where resolvers look first and people expect it.
    let loopback = made
        .0
        .iter()
        .rposition(|line| fields(&line.content).first().is_some_and(|address| is_loopback(address)));
    let after = loopback.map(|at| at + 1).or(replaced).unwrap_or(0);
    for (offset, line) in own.iter().enumerate() {
        made.insert(after + offset, line);
    }
    Ok(made.to_bytes())
}

/// Address and names of a line; none of a comment.
fn words(line: &[u8]) -> Vec<&[u8]> {
    fields(body(line))
}

fn body(line: &[u8]) -> &[u8] {
    line.split(|b| *b == b'#').next().unwrap_or_default()
}

fn is_loopback(address: &[u8]) -> bool {
    address.starts_with(b"127.") || address == b"::1"
}

/// Whether `own` gives its address each name that `line` does, so that there is no need for both.
fn says_all_of(own: &[u8], line: &[u8]) -> bool {
    let (own, said) = (words(own), words(line));
    said.len() > 1
        && body(line).len() == line.len()
        && said.first() == own.first()
        && said.iter().all(|word| own.contains(word))
}

/// A line for somebody else, without names that would be the standby's; none when no name is left.
fn others(line: &[u8], own: &[Vec<u8>], names: &Names) -> Option<Vec<u8>> {
    let said = words(line);
    let [address, aliases @ ..] = &said[..] else { return Some(line.to_vec()) };
    if !aliases.iter().any(|name| names.is_production(name)) {
        return Some(line.to_vec());
    }
    let is_taken = |name: &&[u8]| {
        if is_loopback(address) {
            return names.is_production(name);
        }
        !names.is_production(name) && own.iter().any(|own| words(own).iter().skip(1).any(|word| word == name))
    };
    if aliases.iter().all(&is_taken) {
        return None;
    }
    let body = body(line);
    let mut left = body.to_vec();
    // From the end, so that the places of those before stay what they are.
    for (index, _) in said.iter().enumerate().skip(1).rev().filter(|(_, name)| is_taken(name)) {
        left = with_field(&left, index, b"");
    }
    if left != body && body.len() == line.len() {
        left.truncate(left.trim_ascii_end().len());
    }
    Some([&left, &line[body.len()..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(production: &str, standby: &str, names: &Names) -> String {
        let once = hosts(production.as_bytes(), standby.as_bytes(), names).unwrap();
        assert_eq!(hosts(production.as_bytes(), &once, names).unwrap(), once, "a second time changes more");
        String::from_utf8(once).unwrap()
    }

    #[test]
    fn its_own_lines_of_hosts_stay() {
        let names = Names::new(&["db2.example.org"], &[]);
        let production = "127.0.0.1\tlocalhost\n::1 localhost\n10.0.0.1 db1.example.org db1\n10.0.0.99 db2\n10.0.0.3 db20\n";
        let standby = "127.0.0.1\tlocalhost\n127.0.1.1 db2.example.org db2\n10.0.0.2 DB2\n10.0.0.1 old-db1\n";
        assert_eq!(
            made(production, standby, &names),
            "127.0.0.1\tlocalhost\n::1 localhost\n127.0.1.1 db2.example.org db2\n10.0.0.2 DB2\n\
             10.0.0.1 db1.example.org db1\n10.0.0.3 db20\n"
        );
        assert!(hosts(b"", b"", &Names::default()).is_err());
    }

    #[test]
    fn production_is_not_at_the_standbys_loopback_address() {
        let names = Names::new(&["db2"], &["db1"]);
        let standby = "127.0.0.1 localhost\n127.0.1.1 db2\n";
        let production = "127.0.0.1 localhost db1 # here\r\n127.0.1.1 db1.example.org db1\r\n10.0.0.1 db1\r\n127.0.0.1 advertiser.example";
        assert_eq!(
            made(production, standby, &names),
            "127.0.0.1 localhost  # here\r\n10.0.0.1 db1\r\n127.0.0.1 advertiser.example\r\n127.0.1.1 db2\r\n"
        );
        let taken = Names::new(&["db1"], &["db1"]);
        assert_eq!(made("127.0.1.1 db1\n", "127.0.1.1 db1\n", &taken), "127.0.1.1 db1\n");
    }

    #[test]
    fn the_log_stays_where_the_standby_has_it() {
        let names = Names::new(&["standby1"], &["db1"]);
        let production = "# Internet host table\n127.0.0.1\tlocalhost\n10.0.0.5\tdb1 db1.example.org loghost\n10.0.0.6 db10\n";
        assert_eq!(
            made(production, "127.0.0.1\tlocalhost standby1 loghost\n10.0.0.5\tdb1\n", &names),
            "# Internet host table\n127.0.0.1\tlocalhost standby1 loghost\n10.0.0.5\tdb1 db1.example.org\n10.0.0.6 db10\n"
        );
        assert_eq!(
            made(production, "127.0.0.1\tlocalhost\n10.0.0.7 standby1\n", &names),
            "# Internet host table\n127.0.0.1\tlocalhost\n10.0.0.7 standby1\n10.0.0.5\tdb1 db1.example.org loghost\n10.0.0.6 db10\n"
        );
    }
}
