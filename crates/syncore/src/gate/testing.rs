//! What the tests of all gates share: a host made of a directory, with programs that say what was recorded.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{Answer, Surroundings, ask};
use crate::monitor::Silent;
use crate::profile::{Gate, Profile, ProfileError};

/// The gate that a profile with this `[[gate]]` has.
pub(super) fn gate(keys: &str) -> Result<Gate, ProfileError> {
    let profile = Profile::parse("x.toml", &format!("[[gate]]\n{keys}\n"), &|_| None)?;
    Ok(profile.gates.into_iter().next().unwrap())
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
