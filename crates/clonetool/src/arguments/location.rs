//! `PATH` or `[USER@]HOST:PATH`.
//!
//! Why: the form that scp and rsync users type. What can go wrong: a local name with a colon taken for a host (a
//! slash before the first colon makes it local: `./a:b`), and a host or user that starts with a dash and would
//! become an option of ssh.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use syncore::tree::escape;

use crate::error::CommandError;

/// Where a tree is, as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this host.
    Local(PathBuf),
    /// On another host.
    Remote {
        /// The account there, if one was named.
        user: Option<String>,
        /// The host, without the brackets of an IPv6 address.
        host: String,
        /// The directory there; relative to the login directory when it does not start with a slash.
        path: PathBuf,
    },
}

impl Place {
    /// Parses what the user wrote.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, CommandError> {
        let bytes = text.as_bytes();
        let wrong = |reason: &str| {
            CommandError::usage(format!("{}: {reason}", escape(bytes)))
                .hint("write PATH or [USER@]HOST:PATH; ./ before a local name that has a colon")
        };
        if bytes.is_empty() {
            return Err(wrong("an empty path"));
        }
        for scheme in [&b"ssh://"[..], b"rsync://", b"sftp://"] {
            if bytes.starts_with(scheme) {
                return Err(wrong("URLs are not understood"));
            }
        }
        let Some((address, path)) = split(bytes).map_err(wrong)? else {
            return Ok(Self::Local(PathBuf::from(text)));
        };
        if path.first() == Some(&b':') {
            return Err(wrong("the rsync daemon form HOST::MODULE is not understood"));
        }
        if path.is_empty() {
            return Err(wrong("no path after the host; HOST:. is the login directory"));
        }
        let (user, host) = parse_address(address).map_err(wrong)?;
        Ok(Self::Remote { user, host, path: PathBuf::from(OsString::from_vec(path.to_vec())) })
    }

    /// The place of `root` on the host at `address`, which is `[USER@]HOST` as a profile says it.
    pub(crate) fn on_host(address: &str, root: PathBuf) -> Result<Self, CommandError> {
        let (user, host) = parse_address(address.as_bytes()).map_err(|reason| {
            CommandError::usage(format!("standby address {}: {reason}", escape(address.as_bytes())))
        })?;
        Ok(Self::Remote { user, host, path: root })
    }
}

/// What stands before and after the colon.
type AddressAndPath<'a> = (&'a [u8], &'a [u8]);

/// Splits at the colon between host and path; none for a local path.
fn split(bytes: &[u8]) -> Result<Option<AddressAndPath<'_>>, &'static str> {
    let slash = bytes.iter().position(|b| *b == b'/').unwrap_or(bytes.len());
    let before_slash = &bytes[..slash];
    let Some(first_colon) = before_slash.iter().position(|b| *b == b':') else { return Ok(None) };
    let colon = match before_slash.iter().position(|b| *b == b'[') {
        // In brackets the colons belong to an IPv6 address.
        Some(open) if open < first_colon => {
            let close = before_slash.iter().position(|b| *b == b']').ok_or("no ] after the address")?;
            if before_slash.get(close + 1) != Some(&b':') {
                return Err("no colon after the address in brackets");
            }
            close + 1
        }
        _ => first_colon,
    };
    Ok(Some((&bytes[..colon], &bytes[colon + 1..])))
}

/// `[USER@]HOST`, where HOST may be an address in brackets.
fn parse_address(address: &[u8]) -> Result<(Option<String>, String), &'static str> {
    let address = std::str::from_utf8(address).map_err(|_| "the host is not UTF-8")?;
    if address.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("a host or user has no blanks");
    }
    // The last @ divides, as in ssh: user names with an @ exist.
    let (user, host) = match address.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, address),
    };
    if host.contains('/') {
        return Err("a host has no slash");
    }
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || user == Some("") {
        return Err("an empty host or user");
    }
    if host.starts_with('-') || user.is_some_and(|user| user.starts_with('-')) {
        return Err("a host or user that starts with a dash would be an option of ssh");
    }
    Ok((user.map(str::to_owned), host.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(user: Option<&str>, host: &str, path: &str) -> Place {
        Place::Remote { user: user.map(str::to_owned), host: host.to_owned(), path: path.into() }
    }

    #[test]
    fn what_is_local_and_what_is_remote() {
        let table = [
            ("/", Place::Local("/".into())),
            ("a/b", Place::Local("a/b".into())),
            ("./a:b", Place::Local("./a:b".into())),
            ("/srv/a:b", Place::Local("/srv/a:b".into())),
            ("[odd]", Place::Local("[odd]".into())),
            ("host:/", remote(None, "host", "/")),
            ("host:dir", remote(None, "host", "dir")),
            ("root@host:/a:b", remote(Some("root"), "host", "/a:b")),
            ("me@corp@host:/", remote(Some("me@corp"), "host", "/")),
            ("[::1]:/path", remote(None, "::1", "/path")),
            ("root@[fe80::1%eth0]:/", remote(Some("root"), "fe80::1%eth0", "/")),
        ];
        for (text, expected) in table {
            assert_eq!(Place::parse(OsStr::new(text)).unwrap(), expected, "{text}");
        }
        let bytes = OsStr::from_bytes(b"host:/\xff");
        let path = PathBuf::from(OsString::from_vec(b"/\xff".to_vec()));
        let expected = Place::Remote { user: None, host: "host".to_owned(), path };
        assert_eq!(Place::parse(bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_refused() {
        let table = [
            ("", "an empty path"),
            (":/x", "an empty host"),
            ("@host:/x", "an empty host or user"),
            ("host:", "no path after the host"),
            ("host::module", "rsync daemon"),
            ("ssh://host/x", "URLs"),
            ("-oProxyCommand=id:/x", "a dash"),
            ("-l@host:/x", "a dash"),
            ("two words:/x", "no blanks"),
            ("[::1]/x:y", "no colon"),
            ("[::1:/x", "no ]"),
        ];
        for (text, expected) in table {
            let error = Place::parse(OsStr::new(text)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.message.contains(expected), "{text}: {}", error.message);
        }
        let place = Place::on_host("root@standby:/", "/".into()).unwrap_err();
        assert_eq!(
            (place.exit_code(), &place.message[..]),
            (2, "standby address root@standby:/: a host has no slash")
        );
        let control = Place::parse(OsStr::new("a\x1b[31m:/x")).unwrap_err();
        assert!(!control.message.contains('\x1b'));
    }
}
