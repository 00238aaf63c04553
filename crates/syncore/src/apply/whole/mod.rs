//! Runs that change everything or nothing.
//!
//! Why: a standby is needed when production is gone, and then a half-changed one is no standby. So nothing that is in
//! its place is touched while content arrives: it is staged, and what would be done is written down as steps. Only when
//! all of it is on disk, the steps with it, are they carried out, which needs nothing but the standby. What a step
//! replaces or removes is kept: it is what a rollback puts back. What can go wrong: a crash at any point. Before the
//! journal is there, the stage is swept and the tree is what it was; after that, the steps are done again.

mod areas;
mod back;
mod carry;
mod journal;
mod recording;
mod recover;
mod retain;
mod room;
mod since;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{AtFlags, fstat, statx};
use rustix::io::Errno;

pub(crate) use areas::{Areas, ELSEWHERE, PLAIN_HOME, has_areas};
pub use back::{Back, BackError, OnTheWay, roll_back};
pub use recover::{
    Generation, Recovered, generation, generations, is_interrupted, recover, suspended, unsuspend,
};
pub use since::last_change;

use super::directory::Directory;
use super::stage::Staged;
use crate::durable;
use crate::plan::Item;
use crate::profile::Whole;
use crate::scan::{Root, from_statx, statx_mask};
use crate::tree::{Attributes, Entry, RelPath, Timestamp};
pub use journal::MadeBy;
use journal::{Journal, Step};

/// The file in home with the number of the state that the tree is in.
const GENERATION: &str = "generation";
/// No number takes more, in digits.
const NUMBER_BYTES: u64 = 32;

/// What a run will do, while it is only written down; and then the journal of it.
#[derive(Debug)]
pub struct Ledger {
    areas: Areas,
    generation: u64,
    whole: Whole,
    stages: Vec<OnceLock<Arc<Directory>>>,
    recorded: Mutex<Recorded>,
    /// Set once it is on disk.
    journal: OnceLock<Committed>,
    /// Set when what is staged is of use to the next run.
    resumable: OnceLock<()>,
    /// Why a step could not be carried out after that, or it cannot be told whether that is there.
    broken: OnceLock<String>,
}

/// A journal that is on disk, and where in it what is done at the end is.
#[derive(Debug)]
struct Committed {
    journal: Journal,
    removals: HashMap<RelPath, usize>,
    directories: HashMap<RelPath, usize>,
}

impl Committed {
    fn new(journal: Journal) -> Self {
        let numbers = |from: usize, to: usize| {
            let steps = journal.steps.iter().enumerate().take(to).skip(from);
            steps.map(|(number, step)| (step.path().clone(), number)).collect()
        };
        let removals = numbers(journal.removals_at, journal.directories_at);
        let directories = numbers(journal.directories_at, journal.steps.len());
        Self { journal, removals, directories }
    }
}

#[derive(Debug, Default)]
struct Recorded {
    steps: Vec<Step>,
    removals: Vec<Step>,
    directories: Vec<Step>,
    /// Where the staged file of a path is.
    staged: HashMap<RelPath, (usize, String)>,
    made_by: MadeBy,
}

impl Ledger {
    /// Begins a run on `root`, whose filesystems begin at `tops`.
    ///
    /// # Errors
    /// When the areas cannot be made, or an earlier run was interrupted and not recovered yet.
    pub fn begin(root: &Arc<Root>, tops: &[RelPath], whole: Whole) -> io::Result<Self> {
        let areas = Areas::of(root, tops)?;
        let home = areas.open_home()?;
        if Journal::is_there(&home)? {
            return Err(io::Error::other("an interrupted run has to be recovered first"));
        }
        // That there is none is on disk before what it may have named goes.
        rustix::fs::fsync(&home)?;
        areas.set_aside()?;
        let generation = current(&home)? + 1;
        areas.forget(generation)?;
        Ok(Self::with(areas, generation, whole))
    }

    fn with(areas: Areas, generation: u64, whole: Whole) -> Self {
        let stages = (0..areas.count()).map(|_| OnceLock::new()).collect();
        let recorded = Mutex::default();
        let (journal, resumable, broken) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { areas, generation, whole, stages, recorded, journal, resumable, broken }
    }

    /// Says that what is staged is left to the next run, should this one end before it commits.
    pub(super) fn leave_staged(&self) {
        let _ = self.resumable.set(());
    }

    /// The number of the state that this run leads to.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn record(&self, record: impl FnOnce(&mut Recorded)) {
        // A lane that panicked has ended the run already; what it recorded is whole.
        record(&mut self.recorded.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// Whether the steps are on disk, so that they are carried out now.
    pub(super) fn is_committed(&self) -> bool {
        self.journal.get().is_some()
    }

    /// Whether nothing was changed: the steps are not on disk, nor may they be.
    pub(super) fn is_untouched(&self) -> bool {
        self.journal.get().is_none() && self.broken.get().is_none()
    }

    /// Where files for the directory `parent` are staged.
    pub(super) fn stage(&self, parent: &RelPath) -> rustix::io::Result<Arc<Directory>> {
        self.stage_of(self.areas.number_of(&parent.join(b"_")))
    }

    fn stage_of(&self, area: usize) -> rustix::io::Result<Arc<Directory>> {
        if let Some(stage) = self.stages[area].get() {
            return Ok(Arc::clone(stage));
        }
        let stage = self.areas.stage(area)?;
        Ok(Arc::clone(self.stages[area].get_or_init(|| stage)))
    }

    /// Writes down that what is staged gets the item's name.
    pub(super) fn put(&self, staged: Staged, item: &Item) {
        let name = String::from_utf8_lossy(&staged.name).into_owned();
        staged.settled();
        let area = self.areas.number_of(&item.path);
        self.record(|recorded| {
            recorded.staged.insert(item.path.clone(), (area, name.clone()));
            recorded.steps.push(Step::Put {
                path: item.path.clone(),
                change: item.change,
                entry: item.entry.clone(),
                staged: name,
            });
        });
    }

    /// The stage and the name in it of the file that `path` becomes, if it is one that is staged.
    pub(super) fn staged(&self, path: &RelPath) -> Option<(Arc<Directory>, Vec<u8>)> {
        let mut found = None;
        self.record(|recorded| found = recorded.staged.get(path).cloned());
        let (area, name) = found?;
        Some((self.stage_of(area).ok()?, name.into_bytes()))
    }

    pub(super) fn make_directory(&self, path: &RelPath) {
        self.record(|recorded| recorded.steps.push(Step::MakeDirectory(path.clone())));
    }

    /// Writes down that something makes way for what comes.
    pub(super) fn make_way(&self, path: &RelPath, before: Entry) {
        self.record(|recorded| recorded.steps.push(Step::Remove { path: path.clone(), before }));
    }

    /// What is to be put where the filesystem is another than that of its stage.
    fn unreachable(&self, root: &Root) -> Vec<RelPath> {
        let mut devices: HashMap<RelPath, Option<u64>> = HashMap::new();
        let mut found = Vec::new();
        self.record(|recorded| {
            for path in recorded.steps.iter().filter(|step| matches!(step, Step::Put { .. })).map(Step::path)
            {
                let parent = path.parent().unwrap_or_default();
                let there = *devices.entry(parent).or_insert_with_key(|parent| device_of(root, parent));
                let stage = self.stages[self.areas.number_of(path)].get();
                let staged = stage.and_then(|stage| fstat(stage).ok()).map(|stat| stat.st_dev);
                if there.is_some() && staged.is_some() && there != staged {
                    found.push(path.clone());
                }
            }
        });
        found
    }

    /// Forgets what was written down at and below `path`.
    pub(super) fn take_back(&self, path: &RelPath) {
        self.record(|recorded| recorded.steps.retain(|step| !step.path().starts_with(path)));
    }

    /// Writes down that something goes away at the end.
    pub(super) fn remove(&self, path: &RelPath, before: Entry) {
        self.record(|recorded| recorded.removals.push(Step::Remove { path: path.clone(), before }));
    }

    pub(super) fn dress(&self, item: &Item, attributes: Attributes, before: Option<Entry>) {
        let step = Step::Dress { path: item.path.clone(), attributes, before, after: item.entry.clone() };
        self.record(|recorded| match item.entry.kind {
            crate::tree::Kind::Directory => recorded.directories.push(step),
            _ => recorded.steps.push(step),
        });
    }

    /// Puts all steps on disk; none when there are none. From here on the run will be completed.
    fn commit(&self, root: &Root) -> io::Result<Option<&Committed>> {
        let mut recorded = Recorded::default();
        self.record(|all| recorded = std::mem::take(all));
        let Recorded { mut steps, removals, mut directories, made_by, .. } = recorded;
        // A directory's times are set after what is in it is done.
        directories.sort_by_key(|step| std::cmp::Reverse(step.path().depth()));
        let removals_at = steps.len();
        steps.extend(removals);
        let directories_at = steps.len();
        steps.extend(directories);
        if steps.is_empty() {
            return Ok(None);
        }
        room::check(&self.areas, &steps)?;
        let touched = touched(root, &steps)?;
        let previous = self.last_of_profile()?.unwrap_or(self.generation - 1);
        let journal = Journal {
            generation: self.generation,
            previous,
            written_seconds: retain::now_seconds(),
            made_by,
            profile: self.whole.profile.clone(),
            keep: self.whole.keep,
            tops: self.areas.tops(),
            steps,
            removals_at,
            directories_at,
            touched,
        };
        let home = self.areas.open_home()?;
        if let Err(error) = journal.write(&home, journal::NAME) {
            // It may have its name all the same, and must not be found when what it names is gone.
            if Journal::withdraw(&home).is_err() {
                let _ = self.broken.set(error.to_string());
            }
            return Err(error);
        }
        Ok(Some(self.journal.get_or_init(|| Committed::new(journal))))
    }

    /// Says that the tree is in the new state, and forgets what is more than is to be kept. All of it is on disk.
    fn conclude(&self) -> io::Result<()> {
        let home = self.areas.open_home()?;
        let kept = self.areas.kept_home(self.generation)?;
        durable::replace(&home, GENERATION, self.generation.to_string().as_bytes(), 0o600, None)?;
        match rustix::fs::renameat(&home, journal::NAME, &kept, journal::NAME) {
            // Done by a run that was interrupted after it.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        rustix::fs::fsync(&kept)?;
        rustix::fs::fsync(&home)?;
        self.areas.sweep()?;
        self.retain(retain::now_seconds())?;
        since::note_end(&self.areas, self.generation)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if !self.is_committed() && self.broken.get().is_none() && self.resumable.get().is_none() {
            // Best effort: the next run empties the stages.
            let _ = self.areas.sweep();
        }
    }
}

/// What an interrupted run had staged on `root`, whose filesystems begin at `tops`: by length and time, where it will be
/// once the next run has begun.
///
/// # Errors
/// When that cannot be told.
pub fn left_over(root: &Arc<Root>, tops: &[RelPath]) -> io::Result<HashMap<(u64, Timestamp), RelPath>> {
    let found = Areas::of(root, tops)?.left_over()?.into_iter();
    Ok(found.map(|(path, size_bytes, mtime)| ((size_bytes, mtime), path)).collect())
}

/// The device of a directory, or of the one that it will be made in.
fn device_of(root: &Root, path: &RelPath) -> Option<u64> {
    match root.hold_directory(path) {
        Ok(directory) => Some(fstat(directory).ok()?.st_dev),
        Err(_) => device_of(root, &path.parent()?),
    }
}

/// The number of the state that the tree is in; 0 before the first run.
fn current(home: &std::os::fd::OwnedFd) -> io::Result<u64> {
    let Some(text) = durable::read(home, GENERATION, NUMBER_BYTES)? else { return Ok(0) };
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| io::Error::other("the number of the generation is damaged"))
}

/// What the directories are like in which the steps change something.
fn touched(root: &Root, steps: &[Step]) -> io::Result<Vec<(RelPath, Entry)>> {
    let parents: BTreeSet<RelPath> = steps.iter().filter_map(|step| step.path().parent()).collect();
    let mut touched = Vec::new();
    for path in parents {
        let directory = match root.hold_directory(&path) {
            Ok(directory) => directory,
            // It comes into being, or is a file that makes way for one.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error.into()),
        };
        let stat = statx(directory.as_fd(), c"", AtFlags::EMPTY_PATH, statx_mask())?;
        touched.push((path, from_statx(&stat)?.0));
    }
    Ok(touched)
}
