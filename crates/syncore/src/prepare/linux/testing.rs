//! Trees of a few files for the tests of the planners.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use crate::monitor::Silent;
use crate::prepare::draft::Draft;
use crate::prepare::inside::Inside;
use crate::prepare::{Journal, Options, PrepareError, Report, System, Target, Task};
use crate::scan::Root;

/// A root in a temporary directory.
pub(in crate::prepare) struct Tree(tempfile::TempDir);

/// The options of a preparation under `hostname`.
pub(in crate::prepare) fn own(hostname: &str) -> Options {
    Options { hostname: Some(hostname.to_owned()), ..Options::default() }
}

impl Tree {
    /// With these files, and what makes it a Debian root.
    pub(in crate::prepare) fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.file("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian 12\"\n");
        for (path, content) in files {
            tree.file(path, content);
        }
        tree
    }

    pub(in crate::prepare) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub(in crate::prepare) fn file(&self, path: &str, content: &str) {
        std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        std::fs::write(self.path(path), content).unwrap();
    }

    pub(in crate::prepare) fn link(&self, path: &str, target: &str) {
        std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        symlink(target, self.path(path)).unwrap();
    }

    pub(in crate::prepare) fn mode(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(in crate::prepare) fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    pub(in crate::prepare) fn is(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// Lets one planner work, and `look` at what came of it.
    pub(in crate::prepare) fn planned(
        &self,
        options: &Options,
        plan: impl Fn(&Task<'_>, &mut Draft<'_>) -> Result<(), PrepareError>,
        look: impl FnOnce(&Draft<'_>),
    ) {
        let inside = Inside::new(Arc::new(Root::open(self.0.path()).unwrap()));
        let earlier = Journal::read(inside.root()).unwrap();
        let mut draft = Draft::new(&inside);
        let system = System::detect(&draft, options.platform).unwrap();
        let hostname = options.hostname.clone().unwrap_or_else(|| system.hostname.clone());
        let target = Target::default();
        let task = Task {
            options,
            system: &system,
            target: &target,
            earlier: earlier.as_ref(),
            hostname: &hostname,
        };
        plan(&task, &mut draft).unwrap();
        look(&draft);
    }

    /// Prepares it, whole.
    pub(in crate::prepare) fn prepare(&self, options: &Options) -> Report {
        let options = Options { root_device: Some("/dev/vda1".into()), ..options.clone() };
        let plan = crate::prepare::plan(self.0.path(), &Target::default(), &options).unwrap();
        plan.carry_out(&Silent).unwrap()
    }

    /// What a second preparation would do; it does it, too.
    pub(in crate::prepare) fn again(&self, options: &Options) -> Report {
        self.prepare(&Options { again: true, ..options.clone() })
    }
}
