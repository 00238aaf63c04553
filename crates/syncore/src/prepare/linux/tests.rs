//! A tree in a temporary directory and a target beside it, for the tests of the planners.

use std::path::Path;
use std::sync::Arc;

use super::super::draft::Draft;
use super::super::inside::Inside;
use super::super::system::{Family, Kind, System};
use super::super::target::{Filesystem, Target};
use super::super::{Options, Task};
use crate::scan::Root;
use crate::tree::RelPath;

pub(super) struct Fixture {
    pub(super) directory: tempfile::TempDir,
    pub(super) target: Target,
    pub(super) options: Options,
    pub(super) machine_id: Option<String>,
}

impl Fixture {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let fixture = Self {
            directory: tempfile::tempdir().unwrap(),
            target: Target { architecture: "x86_64".into(), ..Target::default() },
            options: Options::default(),
            machine_id: None,
        };
        for (path, content) in files {
            fixture.put(path, content.as_bytes());
        }
        fixture
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn put(&self, path: &str, content: &[u8]) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A program that the tree is to have.
    pub(super) fn program(&self, name: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = format!("usr/sbin/{name}");
        self.put(&path, b"#!/bin/sh\n");
        std::fs::set_permissions(self.path().join(path), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(super) fn with<T>(&self, test: impl FnOnce(&Task<'_>, &mut Draft<'_>) -> T) -> T {
        let inside = Inside::new(Arc::new(Root::open(self.path()).unwrap()));
        let mut draft = Draft::new(&inside);
        let system = System {
            kind: Kind::Linux(Family::Debian),
            name: "Test".into(),
            hostname: "prod".into(),
            machine_id: self.machine_id.clone(),
            addresses: Vec::new(),
        };
        let task = Task {
            options: &self.options,
            system: &system,
            target: &self.target,
            earlier: None,
            hostname: "standby",
        };
        test(&task, &mut draft)
    }
}

pub(super) fn filesystem(point: &str, kind: &str, uuid: &str) -> Filesystem {
    Filesystem {
        mount_point: (kind != "swap").then(|| RelPath::new(point).unwrap()),
        kind: kind.into(),
        device: "/dev/vda1".into(),
        uuid: Some(uuid.into()),
        label: None,
        partition_uuid: None,
        subvolume: None,
        layers: Vec::new(),
        disks: vec!["/dev/vda".into()],
    }
}
