//! Changes that need nothing from the sender but the plan: symlinks, specials, metadata, and inodes set apart.
//!
//! Why here: they run before any content arrives. What can go wrong: an inode with names that are out of scope; it is
//! replaced by one of its own instead of being changed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev, mknodat, openat, symlinkat};

use super::commit::Committer;
use super::directory::Directory;
use super::metadata::{ALL, LOCKING_FLAGS, XattrState, held, hold, set, unlock};
use super::stage::{FileWriter, Staged, WriteError};
use crate::plan::{Change, Item};
use crate::problem::Operation;
use crate::scan::{from_statx, proc_path, statx_mask};
use crate::tree::{Attributes, Entry, Kind};

impl Committer {
    /// Makes a symlink, FIFO, socket or device, or changes what can be changed without content.
    pub fn without_content(&self, item: &Item) {
        let staging = match self.staging(&item.path.parent().unwrap_or_default()) {
            Ok(staging) => staging,
            Err(error) => return self.io(&item.path, Operation::Create, error),
        };
        match item.change {
            Change::Update(attributes)
                if !attributes.contains(Attributes::CONTENT) && !attributes.contains(Attributes::LINKS) =>
            {
                self.change_metadata(item, &staging, attributes);
            }
            _ if item.entry.kind == Kind::File => self.separate(item, &staging),
            _ => self.make_special(item, &staging),
        }
    }

    fn make_special(&self, item: &Item, staging: &Arc<Directory>) {
        let entry = &item.entry;
        let made = Staged::make(&self.directories, staging, |at, name| {
            if entry.kind == Kind::Symlink {
                return symlinkat(&entry.target[..], at, name);
            }
            let kind = match entry.kind {
                Kind::Fifo => FileType::Fifo,
                Kind::Socket => FileType::Socket,
                Kind::BlockDevice => FileType::BlockDevice,
                _ => FileType::CharacterDevice,
            };
            mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, makedev(entry.device.0, entry.device.1))
        });
        let staged = made.and_then(|(staged, ())| Ok((hold(staging.as_fd(), &staged.name)?, staged)));
        match staged {
            Ok((fd, staged)) => {
                self.dress(item, held(&fd), staging.default_acl, ALL);
                self.place(staged, item);
            }
            Err(error) => self.io(&item.path, Operation::Create, error),
        }
    }

    fn change_metadata(&self, item: &Item, staging: &Arc<Directory>, attributes: Attributes) {
        let fd = match self.held(item) {
            Ok(fd) => fd,
            Err(error) => return self.io(&item.path, Operation::SetMode, error),
        };
        let stat =
            rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask()).and_then(|s| from_statx(&s));
        let (found, inode) = match stat {
            Ok(found) => found,
            Err(error) => return self.io(&item.path, Operation::ReadMetadata, error),
        };
        if found.kind != item.entry.kind {
            return self.fail(
                &item.path,
                Operation::SetMode,
                "it became something else since the plan was made",
            );
        }
        if inode.links != (self.names_of.0)(inode.identity.device, inode.identity.inode) {
            // It has a name that is out of scope, or new. The inode is left to it.
            return if item.entry.kind == Kind::File {
                self.separate(item, staging);
            } else {
                self.make_special(item, staging);
            };
        }
        if self.record_metadata(item, attributes) {
            return;
        }
        if found.flags & LOCKING_FLAGS != 0
            && let Err(error) = unlock(fd.as_fd())
        {
            return self.io(&item.path, Operation::SetFlags, error);
        }
        for failure in set(held(&fd), &item.entry, attributes, XattrState::Some) {
            self.fail(&item.path, failure.operation, failure.reason);
        }
        self.defer_locks(item);
    }

    /// Holds what an item changes.
    fn held(&self, item: &Item) -> rustix::io::Result<OwnedFd> {
        let name = item.path.name().unwrap_or_default();
        // Nothing is touched while it is only written down.
        if self.recording().is_some() {
            let parent = item.path.parent().unwrap_or_default();
            return hold(self.directories.root.hold_directory(&parent)?.as_fd(), name);
        }
        hold(self.parent(&item.path)?.as_fd(), name)
    }

    /// Gives a file an inode of its own with the content it has: it had names that must not change with it.
    fn separate(&self, item: &Item, staging: &Arc<Directory>) {
        let opened = self.held(item).and_then(|fd| {
            let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, statx_mask())?;
            let (found, _) = from_statx(&stat)?;
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let open: OwnedFd = openat(rustix::fs::CWD, proc_path(fd.as_fd()), flags, Mode::empty())?;
            Ok((found, open))
        });
        let (found, basis) = match opened {
            Ok((found, _)) if !is_as_planned(&found, item) => {
                return self.fail(
                    &item.path,
                    Operation::Read,
                    "it became something else since the plan was made",
                );
            }
            Ok(opened) => opened,
            Err(error) => return self.io(&item.path, Operation::Read, error),
        };
        let written = FileWriter::create(&self.directories, staging, Some(basis))
            .map_err(WriteError::from)
            .and_then(|mut writer| {
                writer.copy_basis(found.size_bytes)?;
                self.place_file(item, writer, None)
            });
        if let Err(error) = written {
            self.cannot_write(&item.path, Operation::Write, &error);
        }
    }
}

/// Whether a file still has the content that the plan takes it to have.
fn is_as_planned(found: &Entry, item: &Item) -> bool {
    let Change::Update(attributes) = item.change else { return false };
    let same_time = attributes.contains(Attributes::MTIME) || found.mtime == item.entry.mtime;
    found.kind == Kind::File && found.size_bytes == item.entry.size_bytes && same_time
}
