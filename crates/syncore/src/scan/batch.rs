//! Names of one directory that are read together.
//!
//! Why: whether a name has attributes is known of several together ([`BareList`](super::BareList)), once the metadata of
//! the last one is there. What can go wrong: names and metadata of a whole large directory in memory, so a batch is small.

use std::ffi::CStr;

use rustix::fs::Statx;
use rustix::io::Result;

use super::bare::{Seal, Stamps, UniqueMount};
use super::list::Taken;
use super::metadata::read_stat;
use super::root::identity_of;
use super::view::Place;

/// How many names a batch has at most; with their metadata they fit a processor's nearer cache.
const BATCH_NAMES: usize = 256;

/// Names that take part, in the order in which they are listed.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Each with its final NUL.
    names: Vec<u8>,
    taken: Vec<Taken>,
    stats: Vec<Result<Statx>>,
    stamps: Stamps,
}

impl Batch {
    pub(crate) fn push(&mut self, name: &CStr, taken: Taken) {
        self.names.extend_from_slice(name.to_bytes_with_nul());
        self.taken.push(taken);
    }

    pub(crate) fn len(&self) -> usize {
        self.taken.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= BATCH_NAMES
    }

    /// Reads the metadata of all; gives their seal, unless that of one could not be had, or is of another filesystem.
    pub(crate) fn read(&mut self, place: &Place<'_>, mount: UniqueMount) -> Option<Seal> {
        self.stamps.begin(place.stat, mount);
        let (mut rest, mut whole) = (&*self.names, true);
        while let Some(name) = next(&mut rest) {
            let stat = read_stat(place.directory, name);
            match &stat {
                Ok(stat) if !place.identity().boundary_to(&identity_of(stat)) => self.stamps.add(stat),
                _ => whole = false,
            }
            self.stats.push(stat);
        }
        whole.then(|| self.stamps.seal())
    }

    /// Hands over each name with its metadata, and is empty.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(&CStr, Taken, Result<&Statx>)) {
        let mut rest = &*self.names;
        for (taken, stat) in self.taken.drain(..).zip(&self.stats) {
            if let Some(name) = next(&mut rest) {
                each(name, taken, stat.as_ref().map_err(|error| *error));
            }
        }
        self.names.clear();
        self.stats.clear();
    }
}

/// Takes the first name off.
fn next<'n>(names: &mut &'n [u8]) -> Option<&'n CStr> {
    let name = CStr::from_bytes_until_nul(names).ok()?;
    *names = &names[name.to_bytes_with_nul().len()..];
    Some(name)
}
