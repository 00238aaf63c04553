//! Text from elsewhere as it is kept: without the passwords of addresses, and not longer than a person reads.
//!
//! Why: what a gate's program or ssh says is kept for years, and a program that fails likes to quote the address that it
//! was given. What can go wrong: a secret in another form; nothing here knows those, so who writes a gate must not print
//! them.

/// How long one text in a record may be.
const TEXT_CHARS: usize = 1000;

/// Cuts off what is longer than a person reads of it.
pub(super) fn clipped(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The same of what somebody said: `scheme://user:password@host` without the password (RFC 3986, 3.2.1).
pub(super) fn masked(text: &str) -> String {
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/?#\"'<>".contains(c)).unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@').and_then(|(who, host)| Some((who.split_once(':')?.0, host))) {
            Some((user, host)) => shown.extend([user, ":***@", host]),
            None => shown.push_str(authority),
        }
        rest = tail;
    }
    shown.push_str(rest);
    clipped(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_no_password() {
        let table = [
            (
                "cannot reach https://backup:hunter2@example.org/x: 403",
                "cannot reach https://backup:***@example.org/x: 403",
            ),
            ("a://u:p@h b://:p@h \"c://u:p@w@h\"", "a://u:***@h b://:***@h \"c://u:***@h\""),
            (
                "ssh://git@example.org:22/ and http://[::1]:80/?a@b:c",
                "ssh://git@example.org:22/ and http://[::1]:80/?a@b:c",
            ),
            ("no address: a@b, ://, x://", "no address: a@b, ://, x://"),
        ];
        for (said, kept) in table {
            assert_eq!(masked(said), kept);
        }
        assert_eq!(masked(&"é".repeat(2000)).chars().count(), 1001);
    }
}
