//! What is on a block device: kind, UUID, label, and the UUID of its partition.
//!
//! Why: `blkid` of util-linux is kept for every filesystem there is, and every rescue system has it. What can go wrong:
//! it is not there or is busybox's (said by name), or a dead disk keeps it waiting (it has a deadline).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::super::PrepareError;
use crate::process::{self, Program};
use crate::tree::escape;

const DEADLINE: Duration = Duration::from_secs(60);

/// What `blkid -p` says of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) kind: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) label: Option<String>,
    pub(super) partition_uuid: Option<String>,
}

/// Probes a device, without any cache.
pub(super) fn facts(device: &Path) -> Result<Facts, PrepareError> {
    let failed = |reason: String| PrepareError::Storage {
        device: escape(device.as_os_str().as_encoded_bytes()),
        reason,
    };
    let path = process::find("blkid")
        .ok_or_else(|| failed("there is no blkid (package util-linux) to ask what is on it".to_owned()))?;
    let program = Program {
        path,
        arguments: vec!["-p".into(), "-o".into(), "export".into(), device.into()],
        environment: &[("LC_ALL", "C"), ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")],
        deadline: DEADLINE,
    };
    let outcome = process::run(&program, &|| false).map_err(|error| failed(format!("blkid: {error}")))?;
    // blkid(8): 2 is "nothing was found", as on an empty partition.
    let nothing = matches!(&outcome.ended, process::Ended::With(status) if status.code() == Some(2));
    if !outcome.succeeded() && !nothing {
        return Err(failed(format!("blkid: {}", outcome.describe(DEADLINE))));
    }
    Ok(parse(&String::from_utf8_lossy(&outcome.said)))
}

/// Reads `KEY=value` lines, in which what a shell would read is behind a backslash.
fn parse(text: &str) -> Facts {
    let values: HashMap<&str, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key, plain(value)))
        .collect();
    let value = |key: &str| values.get(key).filter(|value| !value.is_empty()).cloned();
    Facts {
        kind: value("TYPE"),
        uuid: value("UUID"),
        label: value("LABEL"),
        partition_uuid: value("PART_ENTRY_UUID"),
    }
}

fn plain(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        plain.push(if c == '\\' { rest.next().unwrap_or(c) } else { c });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blkid_prints_is_read() {
        let facts = parse(
            "DEVNAME=/dev/sda1\nLABEL=my\\ root\\$\nUUID=0a3407de-014b-458b-b5c1-848e92a327a3\nTYPE=ext4\n\
             PART_ENTRY_UUID=77f2a6a6-01\nPART_ENTRY_NUMBER=1\n",
        );
        assert_eq!(facts.label.as_deref(), Some("my root$"));
        assert_eq!(facts.uuid.as_deref(), Some("0a3407de-014b-458b-b5c1-848e92a327a3"));
        assert_eq!(
            (facts.kind.as_deref(), facts.partition_uuid.as_deref()),
            (Some("ext4"), Some("77f2a6a6-01"))
        );
        assert_eq!(parse(""), Facts::default());
    }
}
