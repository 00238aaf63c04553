//! The auth set of a run: its files wait for each other, are checked as one, and come into place as one.
//!
//! Why: who logs in, or takes the password lock, must see the set from before or the one from after. What can go wrong:
//! one of the files cannot be had, or together they are broken; the standby then keeps all of its own.

use std::collections::HashMap;

use crate::apply::FileWriter;
use crate::plan::Item;
use crate::problem::Operation;
use crate::session::auth::{PasswordLock, defect};
use crate::session::receive::Receiver;

/// Files of the set that are complete but wait for each other.
pub(super) struct AuthSet {
    expected: usize,
    failed: bool,
    files: Vec<(Item, FileWriter, [u8; 32])>,
}

impl AuthSet {
    pub(super) fn of(expected: usize) -> Self {
        Self { expected, failed: false, files: Vec::new() }
    }

    pub(super) fn take(&mut self) -> Vec<(Item, FileWriter, [u8; 32])> {
        std::mem::take(&mut self.files)
    }
}

impl Receiver<'_> {
    /// Takes a finished file of the auth set, or notes that one cannot be had; the last one decides over all.
    pub(super) fn auth_file(&self, file: Option<(Item, FileWriter, [u8; 32])>) {
        let Ok(mut auth) = self.auth.lock() else { return };
        auth.expected = auth.expected.saturating_sub(1);
        auth.failed |= file.is_none();
        auth.files.extend(file);
        if auth.expected > 0 {
            return;
        }
        if self.committer.is_whole() && !auth.failed {
            // They wait for the rest of the run.
            return;
        }
        let files = auth.take();
        let refused = if auth.failed {
            Some("a file of the set cannot be had".to_owned())
        } else {
            self.swap_auth(files)
        };
        if let Some(reason) = refused {
            let reason = format!("{reason}; the standby keeps all its password files");
            let in_set =
                |item: &Item| item.needs_content() && self.view.rules.decide(&item.path, false).auth_set;
            for item in self.plan.items().filter(in_set) {
                self.committer.fail(&item.path, Operation::Write, &reason);
            }
        }
    }

    /// Checks the new set and swaps it in under the standby's password lock; gives the reason when it does not.
    fn swap_auth(&self, files: Vec<(Item, FileWriter, [u8; 32])>) -> Option<String> {
        let lock = match self.admit_auth(&files) {
            Ok(lock) => lock,
            Err(reason) => return Some(reason),
        };
        let swapped = self.committer.place_together(files);
        drop(lock);
        swapped.err()
    }

    /// Takes the standby's password lock and checks the new set.
    pub(super) fn admit_auth(&self, files: &[(Item, FileWriter, [u8; 32])]) -> Result<PasswordLock, String> {
        let directory = files.first().and_then(|(item, ..)| item.path.parent()).unwrap_or_default();
        let old = |name: &str| {
            let fd = self.open_basis(&directory.join(name.as_bytes())).ok()?;
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut content).ok().map(|_| content)
        };
        let staged: HashMap<Vec<u8>, Vec<u8>> = files
            .iter()
            .filter_map(|(item, writer, _)| Some((item.path.name()?.to_vec(), writer.read_back().ok()?)))
            .collect();
        let new = |name: &str| staged.get(name.as_bytes()).cloned().or_else(|| old(name));
        let lock = PasswordLock::take(&self.view.root).map_err(|error| {
            format!("the standby's password files are locked: {}", std::io::Error::from(error))
        })?;
        match defect(&new, &old) {
            Some(defect) => Err(defect),
            None => Ok(lock),
        }
    }
}
