//! What the tests of all gates share: a host made of a directory, with programs that say what was recorded.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{Answer, End, Filesystem, Host, Packages, RoleFile, Sight, Surroundings, Unseen, ask};
use crate::monitor::Silent;
use crate::profile::{Gate, Profile, ProfileError};
use crate::tree::RelPath;

/// The gate that a profile with this `[[gate]]` has.
pub(super) fn gate(keys: &str) -> Result<Gate, ProfileError> {
    let profile = Profile::parse("x.toml", &format!("[[gate]]\n{keys}\n"), &|_| None)?;
    Ok(profile.gates.into_iter().next().unwrap())
}

/// What an end like any other tells of itself.
pub(super) fn host(name: &str) -> Host {
    Host {
        version: "0.1.0".into(),
        name: name.into(),
        machine: "x86_64".into(),
        clock_nanoseconds: 1_000_000_000,
        system: Some("debian 12".into()),
        role: RoleFile::Absent,
        packages: Packages::default(),
        filesystems: vec![Filesystem {
            path: RelPath::root(),
            free_bytes: 1 << 30,
            free_inodes: Some(100_000),
        }],
    }
}

/// A host for gates.
pub(super) struct Bench {
    directory: tempfile::TempDir,
    pub(super) surroundings: Surroundings,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), surroundings: Surroundings::default() }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Two ends that tell this of themselves; the second is on another host.
    pub(super) fn ends(mut self, source: Host, destination: Host) -> Self {
        let end = |address: Option<&str>, host: Host| {
            let sight = Sight { host, asked_nanoseconds: 900_000_000, answered_nanoseconds: 1_100_000_000 };
            Some(End::new(address.map(|name| (name.into(), None)), Arc::new(move |_| Ok(sight.clone()))))
        };
        self.surroundings.source = end(None, source);
        self.surroundings.destination = end(Some("127.0.0.1"), destination);
        self
    }

    /// The destination answers this instead.
    pub(super) fn unseen(mut self, look: impl Fn() -> Unseen + Send + Sync + 'static) -> Self {
        let address = Some(("127.0.0.1".to_owned(), None));
        self.surroundings.destination = Some(End::new(address, Arc::new(move |_| Err(look()))));
        self
    }

    /// Puts a shell script where programs are looked for first.
    pub(super) fn program(&mut self, name: &str, script: &str) -> PathBuf {
        let bin = self.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let path = bin.join(name);
        // Written by a process of its own: a descriptor of ours that another test's fork takes with it would make the
        // script busy.
        let mut writer = Command::new("/bin/sh");
        writer.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(&path).stdin(Stdio::piped());
        let mut writer = writer.spawn().unwrap();
        write!(writer.stdin.take().unwrap(), "#!/bin/sh\n{script}\n").unwrap();
        assert!(writer.wait().unwrap().success());
        if !self.surroundings.programs.contains(&bin) {
            self.surroundings.programs.insert(0, bin);
        }
        path
    }

    /// The same, for who names it in the profile.
    pub(super) fn program_at(mut self, name: &str, script: &str) -> (Self, PathBuf) {
        let path = self.program(name, script);
        (self, path)
    }

    pub(super) fn ask(self, keys: &str) -> Answer {
        let gate = gate(keys).unwrap();
        let answer = ask(&gate, &Arc::new(self.surroundings), &Silent);
        assert_eq!(answer.next.is_empty(), answer.passed(), "{answer:?}");
        assert!(!answer.evidence.is_empty(), "{answer:?}");
        answer
    }
}
