//! Several files swapped in together: the auth set.
//!
//! Why: a new passwd with an old shadow locks people out. What can go wrong: one rename fails after others were made;
//! then those are taken back. After a power failure in between only a run that changes all or nothing is whole again.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, linkat, renameat};
use rustix::io::Errno;

use super::commit::Committer;
use super::metadata::{ALL, Pinned};
use super::stage::{FileWriter, Staged};
use crate::plan::Item;
use crate::problem::Operation;

impl Committer {
    /// Swaps several finished files in together: all or, when one cannot be, none.
    ///
    /// RACE: who reads without the password lock may see the milliseconds between the first rename and the last.
    ///
    /// # Errors
    /// Why not, in words; every path is as it was.
    pub fn place_together(&self, files: Vec<(Item, FileWriter, [u8; 32])>) -> Result<(), String> {
        // What waits already is renamed first, so that these are renamed in one go.
        self.flush();
        let mut ready: Vec<(Staged, Item)> = Vec::new();
        for (item, writer, digest) in files {
            let (fd, staged) = writer.finish(Some(digest)).map_err(|e| format!("{}: {e}", item.path))?;
            let staged = staged.ok_or_else(|| format!("{}: it is not staged", item.path))?;
            self.dress(&item, Pinned::Open(fd.as_fd()), staged.directory.default_acl, ALL);
            if self.has_failed(&item.path) {
                return Err(format!("{}: its metadata cannot be set", item.path));
            }
            ready.push((staged, item));
        }
        if let Some(ledger) = &self.whole {
            ready.into_iter().for_each(|(staged, item)| ledger.put(staged, &item));
            return Ok(());
        }
        if self.durable {
            self.directories.flush().map_err(|e| std::io::Error::from(e).to_string())?;
        }
        let mut backups: Vec<(Staged, Item)> = Vec::new();
        for (_, item) in &ready {
            let name = item.path.name().unwrap_or_default();
            let backup = self.parent(&item.path).and_then(|directory| {
                Staged::make(&self.directories, &directory, |at, stage| {
                    linkat(&directory, name, at, stage, AtFlags::empty())
                })
            });
            match backup {
                Ok((backup, ())) => backups.push((backup, item.clone())),
                // Nothing was there before.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(format!("{}: {}", item.path, std::io::Error::from(error))),
            }
        }
        let mut wrong = None;
        for (staged, item) in ready {
            self.rename(staged, &item);
            if self.has_failed(&item.path) {
                wrong = Some(format!("{} could not be renamed into place", item.path));
                break;
            }
        }
        let Some(wrong) = wrong else { return Ok(()) };
        for (backup, item) in backups {
            let name = item.path.name().unwrap_or_default();
            let restored = renameat(&backup.directory, &backup.name[..], &backup.directory, name);
            if let Err(error) = restored {
                self.io(&item.path, Operation::Rename, error);
            }
        }
        Err(wrong)
    }
}
