//! `clonetool accept-key`: the half of `enroll` that runs where the key is let in.
//!
//! Why: a file that lets people in is edited with the care of `authorized_keys.rs`, not by shell. What can go wrong: a
//! request that smuggles an option or a second line into the file; each part of it has its own narrow form. It gives
//! nobody more than they have: who can start it could edit the file as well.

use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::authorized_keys::{Line, apply};
use crate::error::CommandError;
use crate::run::Outcome;
use crate::ui;

/// Let the key of a pair in, as enroll asks on standard input
///
/// `clonetool enroll` starts it; nobody needs to call it.
#[derive(Debug, Args)]
pub(crate) struct AcceptKeyArguments {}

const REQUEST_LIMIT_BYTES: u64 = 64 << 10;

impl AcceptKeyArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let mut text = String::new();
        stdin()
            .take(REQUEST_LIMIT_BYTES)
            .read_to_string(&mut text)
            .map_err(|e| CommandError::failed(format!("cannot read standard input: {e}")))?;
        // What is refused is an answer, too: a program reads it.
        let answer = match answer(&text) {
            Ok(answer) => answer,
            Err(reason) => json!({ "type": "accept-key", "refused": reason }),
        };
        ui::print_events(&[answer])?;
        Ok(Outcome::Done)
    }
}

fn answer(text: &str) -> Result<Value, String> {
    let request: Value = serde_json::from_str(text).map_err(|_| "the request is none")?;
    let word = |name: &str, good: fn(&str) -> bool| {
        let value = request[name].as_str().filter(|value| good(value));
        value.ok_or_else(|| format!("the {name} of the request is malformed"))
    };
    let key = word("key", is_key)?;
    let name = word("name", is_name)?;
    let root = word("root", is_path)?;
    let remove = request["remove"].as_bool().unwrap_or(false);
    let file = match &request["file"] {
        Value::Null => None,
        _ => Some(PathBuf::from(word("file", is_path)?)),
    };
    let program = std::env::current_exe().map_err(|e| format!("cannot tell where clonetool is: {e}"))?;
    let program = program.to_str().filter(|path| is_path(path));
    let program = program.ok_or("the path of clonetool cannot stand in authorized_keys")?;
    let path = match &file {
        Some(file) => file.clone(),
        None => std::env::home_dir().ok_or("the account has no home directory")?.join(".ssh/authorized_keys"),
    };
    let comment = format!("clonetool-pair@{name}");
    let command = format!("{program} agent --root {root}");
    let line = Line { key, comment: &comment, command: (!remove).then_some(&command) };
    let changed = apply(&path, &line, file.is_none())?;
    Ok(
        json!({ "type": "accept-key", "changed": changed, "file": path.to_string_lossy(), "command": command }),
    )
}

/// `ssh-ed25519` and the 68 characters of its 51 bytes.
pub(super) fn is_key(text: &str) -> bool {
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    text.strip_prefix("ssh-ed25519 ").is_some_and(|key| key.len() == 68 && key.bytes().all(base64))
}

pub(super) fn is_name(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(known)
}

/// A path that neither the quotes of the file nor the shell that sshd starts takes for anything else.
pub(super) fn is_path(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"/._+-,@".contains(&b);
    Path::new(text).is_absolute() && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_could_be_more_than_a_key_is_refused() {
        let key = format!("ssh-ed25519 {}", "A".repeat(68));
        assert!(is_key(&key) && is_name("a.example-1") && is_path("/srv/a_b"));
        for bad in
            ["", "ssh-ed25519 AAAA", &format!("{key}\nssh-rsa A"), &key.replace("ssh-", "command=\"x\" ssh-")]
        {
            assert!(!is_key(bad), "{bad}");
        }
        for bad in ["", "a b", "a\nb", "a\"b"] {
            assert!(!is_name(bad) && !is_path(&format!("/{bad}\"")), "{bad}");
        }
        for bad in ["a", "/a b", "/a\"", "/a;id", "/$HOME", "/a\n"] {
            assert!(!is_path(bad), "{bad}");
        }
        assert!(answer("{}").is_err() && answer("x").is_err());
    }
}
