//! The lines of vfstab(4), and what their devices are.
//!
//! Why: today's table and the one from before encapsulation are read alike. What can go wrong: a line that does not have
//! seven fields; the system would not understand it either, so it is an error.

use super::super::PrepareError;
use super::super::lines::{Lines, fields, is_comment};
use super::{malformed, shown};

const FIELDS: usize = 7;
pub(super) const DEVICE: usize = 0;
pub(super) const RAW: usize = 1;
const MOUNT_POINT: usize = 2;
const KIND: usize = 3;
pub(super) const AT_BOOT: usize = 5;

/// What belongs to the system where it has a filesystem of its own.
pub(crate) const SYSTEM: [&str; 5] = ["/", "/usr", "/var", "/opt", "/usr/openwin"];

/// What a device of the first column is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Device {
    /// `/dev/dsk/c0t0d0s0`.
    Slice,
    /// `/dev/vx/dsk/rootdg/rootvol`.
    Vxvm {
        /// The disk group, if it is said.
        group: Option<String>,
        /// The volume.
        volume: String,
    },
    /// `/dev/md/dsk/d0`.
    Svm(String),
    /// A volume of a disk set or a cluster, which is no system's own.
    Shared,
    /// No device of a disk: `swap`, `/proc`, `host:/export`, `/dev/zvol/dsk/rpool/swap`.
    Other,
}

impl Device {
    pub(crate) fn of(device: &[u8]) -> Self {
        let text = String::from_utf8_lossy(device);
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        match parts[..] {
            ["dev", "dsk", _] => Self::Slice,
            ["dev", "vx", "dsk", volume] => Self::Vxvm { group: None, volume: volume.to_owned() },
            ["dev", "vx", "dsk", group, volume] => {
                Self::Vxvm { group: Some(group.to_owned()), volume: volume.to_owned() }
            }
            ["dev", "md", "dsk", name] => Self::Svm(name.to_owned()),
            ["dev", "md", _, "dsk", _] | ["dev", "did" | "global", "dsk", _] => Self::Shared,
            _ => Self::Other,
        }
    }

    pub(crate) fn is_volume(&self) -> bool {
        matches!(self, Self::Vxvm { .. } | Self::Svm(_) | Self::Shared)
    }
}

/// One line that mounts something.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The line, from 0.
    pub(crate) at: usize,
    fields: Vec<Vec<u8>>,
}

impl Row {
    pub(super) fn field(&self, index: usize) -> &[u8] {
        self.fields.get(index).map_or(b"", Vec::as_slice)
    }

    pub(crate) fn device(&self) -> &[u8] {
        self.field(DEVICE)
    }

    /// The mount point; empty for swap.
    pub(crate) fn mount_point(&self) -> &str {
        match std::str::from_utf8(self.field(MOUNT_POINT)) {
            Ok("-") | Err(_) => "",
            Ok(path) => path,
        }
    }

    pub(crate) fn is_swap(&self) -> bool {
        self.field(KIND) == b"swap" && self.mount_point().is_empty()
    }

    pub(crate) fn is_mounted_at_boot(&self) -> bool {
        self.field(AT_BOOT) == b"yes" || self.is_swap() || SYSTEM.contains(&self.mount_point())
    }

    /// What a person calls it.
    pub(super) fn name(&self) -> String {
        if self.is_swap() { "swap".to_owned() } else { shown(self.field(MOUNT_POINT)) }
    }
}

/// The lines of `content` that mount something.
pub(crate) fn rows(path: &str, lines: &Lines) -> Result<Vec<Row>, PrepareError> {
    let mut rows = Vec::new();
    for (at, line) in lines.0.iter().enumerate().filter(|(_, line)| !is_comment(&line.content, b'#')) {
        let fields: Vec<Vec<u8>> = fields(&line.content).into_iter().map(<[u8]>::to_vec).collect();
        if fields.len() != FIELDS {
            return Err(malformed(path, format!("line {} has {} fields of {FIELDS}", at + 1, fields.len())));
        }
        rows.push(Row { at, fields });
    }
    Ok(rows)
}
