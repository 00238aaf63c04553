//! Which host keys a host shows, and why they may be trusted.
//!
//! Why: a pair whose host key was taken on trust the first time is a pair with whoever answered then. What can go wrong:
//! just that; so a key is pinned only when it is pinned already, when the administrator's own known_hosts has it, when
//! its fingerprint was given, or when a person at a terminal says so. A key that contradicts any of these is refused.
//!
//! All asking is done by OpenSSH's own programs, which know ssh_config, hashed names and every type of key.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use syncore::tree::escape;

use crate::error::{CommandError, Kind};

/// Where ssh would go for a host.
pub(crate) struct Address {
    /// As known_hosts has it: `HOST`, or `[HOST]:PORT`.
    pub(crate) name: String,
    host: String,
    port: String,
    known_hosts: Vec<PathBuf>,
}

/// A key that a host shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostKey {
    /// `TYPE BASE64`.
    pub(crate) key: String,
    /// `SHA256:…`.
    pub(crate) fingerprint: String,
}

impl HostKey {
    fn kind(&self) -> &str {
        self.key.split(' ').next().unwrap_or_default()
    }
}

/// Runs a program of OpenSSH and gives its standard output, whatever its exit status: an empty one means no.
fn ask(program: &str, arguments: &[&str], stdin: &[u8]) -> Result<String, CommandError> {
    let failed = |error: io::Error| {
        CommandError::failed(format!("cannot run {program}: {error}"))
            .hint("install OpenSSH's client programs")
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not want to read it says so by its answer.
        let _ = pipe.write_all(stdin);
    }
    let output = child.wait_with_output().map_err(failed)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Address {
    /// Asks ssh where it would go. `known_hosts` stands for the administrator's own files.
    pub(crate) fn of(
        host: &str,
        port: Option<u16>,
        known_hosts: Option<&Path>,
    ) -> Result<Self, CommandError> {
        let port_words = port.map(|port| port.to_string());
        let mut arguments = vec!["-G"];
        if let Some(port) = &port_words {
            arguments.extend(["-p", port]);
        }
        arguments.extend(["--", host]);
        let said = ask("ssh", &arguments, b"")?;
        let value = |name: &str| {
            said.lines().find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name)).map(|(_, v)| v)
        };
        let (Some(host), Some(port)) = (value("hostname"), value("port")) else {
            return Err(CommandError::usage(format!(
                "ssh does not take {} for a host",
                escape(host.as_bytes())
            )));
        };
        let known_hosts = match known_hosts {
            Some(file) => vec![file.to_owned()],
            None => ["userknownhostsfile", "globalknownhostsfile"]
                .iter()
                .filter_map(|name| value(name))
                .flat_map(str::split_whitespace)
                .map(at_home)
                .collect(),
        };
        let looked_up = value("hostkeyalias").filter(|alias| *alias != "none").unwrap_or(host);
        let name =
            if port == "22" || looked_up != host { looked_up.into() } else { format!("[{host}]:{port}") };
        Ok(Self { name, host: host.into(), port: port.into(), known_hosts })
    }

    /// The keys that the host shows now.
    pub(crate) fn scan(&self) -> Result<Vec<HostKey>, CommandError> {
        let said = ask("ssh-keyscan", &["-T", "10", "-p", &self.port, "--", &self.host], b"")?;
        let mut keys = Vec::new();
        for line in said.lines().filter(|line| !line.starts_with('#')) {
            let Some((_, key)) = line.split_once(' ') else { continue };
            let listed = ask("ssh-keygen", &["-l", "-f", "-"], format!("{line}\n").as_bytes())?;
            let Some(fingerprint) = listed.split(' ').nth(1) else { continue };
            keys.push(HostKey { key: key.trim().to_owned(), fingerprint: fingerprint.to_owned() });
        }
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        if keys.is_empty() {
            let shown = escape(self.name.as_bytes());
            return Err(peer(format!("{shown} shows no host key"))
                .hint("check that sshd runs there; through a jump host keys cannot be scanned"));
        }
        Ok(keys)
    }

    /// What the administrator's own files say of the host: `TYPE BASE64` each. A key revoked there is an error.
    fn known(&self, shown: &[HostKey]) -> Result<Vec<String>, CommandError> {
        let mut known = Vec::new();
        for file in &self.known_hosts {
            let Some(file) = file.to_str().filter(|_| file.is_file()) else { continue };
            let said = ask("ssh-keygen", &["-F", &self.name, "-f", file], b"")?;
            for line in said.lines().filter(|line| !line.starts_with('#')) {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words[..] {
                    ["@revoked", _, kind, key, ..]
                        if shown.iter().any(|s| s.key == format!("{kind} {key}")) =>
                    {
                        return Err(peer(format!(
                            "{} shows a key that {file} revokes",
                            escape(self.name.as_bytes())
                        ))
                        .hint("do not connect; ask who runs that host"));
                    }
                    [host, kind, key, ..] if !host.starts_with('@') => known.push(format!("{kind} {key}")),
                    _ => {}
                }
            }
        }
        Ok(known)
    }

    /// Of the keys shown those that may be pinned, with the reason. `pinned` is what is pinned for the host already.
    pub(crate) fn trusted(
        &self,
        shown: &[HostKey],
        pinned: &[String],
        accepted: Option<&str>,
    ) -> Result<(Vec<HostKey>, &'static str), CommandError> {
        if !pinned.is_empty() {
            return Ok((self.vouched(shown, pinned, crate::pair::DIRECTORY)?, "pinned before"));
        }
        let known = self.known(shown)?;
        let vouched = match known.is_empty() {
            true => Vec::new(),
            false => self.vouched(shown, &known, "known_hosts")?,
        };
        if let Some(fingerprint) = accepted {
            let keys: Vec<HostKey> =
                shown.iter().filter(|key| key.fingerprint == fingerprint).cloned().collect();
            return match keys.is_empty() {
                true => Err(self.not_trusted(shown, "shows no key with the accepted fingerprint")),
                false => Ok((keys, "accepted by fingerprint")),
            };
        }
        if !vouched.is_empty() {
            return Ok((vouched, "known before"));
        }
        if !io::stdin().is_terminal() {
            return Err(self
                .not_trusted(shown, "is not known")
                .hint("compare them with `ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub` on its console")
                .hint("then give one with --accept-fingerprint SHA256:…"));
        }
        self.confirm(shown).map(|()| (shown.to_vec(), "confirmed"))
    }

    /// The keys shown that `known` has; refused when it has none of them, or another one of a type that is shown.
    fn vouched(
        &self,
        shown: &[HostKey],
        known: &[String],
        place: &str,
    ) -> Result<Vec<HostKey>, CommandError> {
        let vouched: Vec<HostKey> = shown.iter().filter(|key| known.contains(&key.key)).cloned().collect();
        let kinds: Vec<&str> = known.iter().filter_map(|key| key.split(' ').next()).collect();
        let changed = shown.iter().any(|key| kinds.contains(&key.kind()) && !known.contains(&key.key));
        if vouched.is_empty() || changed {
            return Err(self
                .not_trusted(shown, "shows another key than the one on record")
                .hint(format!("on record in {place}; if it changed for a reason, take it out there first")));
        }
        Ok(vouched)
    }

    fn not_trusted(&self, shown: &[HostKey], what: &str) -> CommandError {
        let error = peer(format!("{} {what}", escape(self.name.as_bytes())));
        let lines = shown.iter().map(|key| format!("it shows {} {}", key.kind(), key.fingerprint));
        lines.fold(error, CommandError::hint)
    }

    fn confirm(&self, shown: &[HostKey]) -> Result<(), CommandError> {
        let mut screen = io::stderr().lock();
        let mut lines: Vec<String> = shown
            .iter()
            .map(|key| format!("  {} {}", escape(key.kind().as_bytes()), key.fingerprint))
            .collect();
        lines.insert(0, format!("{} is not known. It shows", escape(self.name.as_bytes())));
        let question = "Are these what its console says? [yes/no] ";
        let mut answer = String::new();
        write!(screen, "{}\n{question}", lines.join("\n"))
            .and_then(|()| screen.flush())
            .and_then(|()| io::stdin().lock().read_line(&mut answer).map(drop))
            .map_err(|e| CommandError::failed(format!("cannot ask: {e}")))?;
        match answer.trim() {
            "yes" => Ok(()),
            _ => Err(self.not_trusted(shown, "was not confirmed")),
        }
    }
}

fn at_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(below), Some(home)) => home.join(below),
        _ => PathBuf::from(path),
    }
}

fn peer(message: String) -> CommandError {
    CommandError { kind: Kind::Peer, message, hints: Vec::new() }
}
