//! The data that workloads run on, made before the clock starts.

pub(crate) mod made;
mod real;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::workload::{Data, Scale};

/// Trees for one workload.
#[derive(Clone)]
pub(crate) struct Prepared {
    /// What is copied.
    pub(crate) source: PathBuf,
    /// What the destination is made equal to before each run; nothing at all if none.
    pub(crate) initial: Option<PathBuf>,
}

/// Makes the data, one kind at a time; removes everything when dropped, except what `real` keeps.
pub(crate) struct Fixtures {
    directory: PathBuf,
    cache: PathBuf,
    rsync: PathBuf,
    scale: Scale,
    current: Option<(Data, Prepared)>,
    /// How many destinations were set aside.
    used: Cell<u32>,
    /// When data were removed last.
    freed: Option<Instant>,
}

impl Drop for Fixtures {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// After how many deletions the inodes that were freed would be what is measured.
const FREED_AT_ONCE: usize = 1000;
/// How long ext4 looks past an inode that was freed (`RECENTCY_MIN`, fs/ext4/ialloc.c), and some.
const FREED_RECENTLY: Duration = Duration::from_secs(65);

impl Fixtures {
    /// Works in a directory of its own below `base`, which also keeps what takes long to make for the next time.
    pub(crate) fn new(base: &Path, scale: Scale, rsync: &Path) -> Result<Self> {
        let directory = base.join("versus-rsync");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            cache: base.to_owned(),
            rsync: rsync.to_owned(),
            scale,
            current: None,
            used: Cell::new(0),
            freed: Some(Instant::now()),
        })
    }

    /// The working directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the tools write to.
    pub(crate) fn destination(&self) -> PathBuf {
        self.directory.join("destination")
    }

    /// The data of that kind; what was made before goes away.
    pub(crate) fn make(&mut self, data: Data) -> Result<Prepared> {
        if let Some((kind, prepared)) = &self.current
            && *kind == data
        {
            return Ok(prepared.clone());
        }
        self.clear()?;
        eprintln!("versus-rsync: making the data: {data:?}");
        let prepared = self.fresh(data)?;
        self.warm(&prepared)?;
        // On disk, or it counts as freed for five minutes.
        must("sync", &[])?;
        if let Some(freed) = self.freed.take() {
            thread::sleep(FREED_RECENTLY.saturating_sub(freed.elapsed()));
        }
        self.current = Some((data, prepared.clone()));
        Ok(prepared)
    }

    /// Reads everything that a run reads, so that the first finds what the later ones find.
    pub(crate) fn warm(&self, prepared: &Prepared) -> Result<()> {
        read_all(&prepared.source)?;
        prepared.initial.as_deref().map_or(Ok(()), read_all)?;
        let destination = self.destination();
        if destination.exists() { read_all(&destination) } else { Ok(()) }
    }

    /// Makes the kernel forget every file.
    pub(crate) fn chill() -> Result<()> {
        must("sync", &[])?;
        fs::write("/proc/sys/vm/drop_caches", "3")
            .map_err(|e| format!("skipped: the caches cannot be dropped: {e}").into())
    }

    /// An empty directory for data of somebody else's making; what was made before goes away.
    pub(crate) fn blank(&mut self) -> Result<PathBuf> {
        self.clear()?;
        let source = self.directory.join("source");
        fs::create_dir(&source)?;
        fs::create_dir(self.destination())?;
        Ok(source)
    }

    fn clear(&mut self) -> Result<()> {
        self.current = None;
        let used = (0..self.used.take()).map(|number| format!("used-{number}"));
        for old in ["source", "initial", "destination"].map(str::to_owned).into_iter().chain(used) {
            let old = self.directory.join(old);
            if old.exists() {
                fs::remove_dir_all(old)?;
                self.freed = Some(Instant::now());
            }
        }
        Ok(())
    }

    fn fresh(&self, data: Data) -> Result<Prepared> {
        let source = self.directory.join("source");
        let initial = self.directory.join("initial");
        fs::create_dir_all(&source)?;
        fs::create_dir_all(&initial)?;
        let twice = |source: PathBuf| Prepared { initial: Some(source.clone()), source };
        Ok(match data {
            Data::DebianRootToNothing => Prepared { source: real::debian_root(&self.cache)?, initial: None },
            Data::DebianRootTwice => twice(real::debian_root(&self.cache)?),
            Data::DebianRootUpgraded => real::debian_upgrade(&self.cache)?,
            Data::Database => real::database(&self.cache, self.scale.database, self.scale.transactions)?,
            Data::SmallFilesTwice => {
                made::small_files(&source, self.scale.small_files, 700)?;
                twice(source)
            }
            Data::MostFilesTwice => {
                made::small_files(&source, self.scale.most_files, 0)?;
                twice(source)
            }
            Data::SmallFilesChanged { files, changed } => {
                made::small_files(&initial, files, 700)?;
                self.mirror(&initial, &source, &[])?;
                made::change_small_files(&source, files, changed)?;
                Prepared { source, initial: Some(initial) }
            }
            Data::LargeFilePages => {
                let length = self.scale.large_file;
                made::large_file(&initial.join("database"), length)?;
                self.mirror(&initial, &source, &[])?;
                made::change_pages(&source.join("database"), made::pages_of(length, 1))?;
                Prepared { source, initial: Some(initial) }
            }
            Data::LargeFileInsertions => {
                let length = self.scale.large_file;
                made::large_file(&initial.join("archive"), length)?;
                made::insert(&initial.join("archive"), &source.join("archive"), length)?;
                Prepared { source, initial: Some(initial) }
            }
            Data::Renamed => {
                made::small_files(&initial.join("release-1"), self.scale.renamed_files, 96 * 1024)?;
                self.mirror(&initial, &source, &[])?;
                fs::rename(source.join("release-1"), source.join("release-2"))?;
                Prepared { source, initial: Some(initial) }
            }
        })
    }

    /// Puts the destination into its initial state, on disk.
    pub(crate) fn reset(&self, prepared: &Prepared) -> Result<()> {
        let destination = self.destination();
        match &prepared.initial {
            Some(initial) => {
                if self.mirror(initial, &destination, &["--dry-run"])? > FREED_AT_ONCE {
                    self.set_aside(&destination)?;
                }
                self.mirror(initial, &destination, &[])?;
            }
            None => {
                self.set_aside(&destination)?;
                fs::create_dir(&destination)?;
            }
        }
        must("sync", &["-f".as_ref(), destination.as_os_str()])
    }

    /// Not removed: ext4 looks past inodes that were freed a moment ago, one by one, and no standby is full of them when
    /// its run begins.
    fn set_aside(&self, destination: &Path) -> Result<()> {
        if destination.exists() {
            let used = self.used.get();
            fs::rename(destination, self.directory.join(format!("used-{used}")))?;
            self.used.set(used + 1);
        }
        Ok(())
    }

    /// Makes `to` equal to `from`, with everything that the measured runs copy; says how many names had to go.
    fn mirror(&self, from: &Path, to: &Path, options: &[&str]) -> Result<usize> {
        fs::create_dir_all(to)?;
        let (mut from, mut to) = (from.as_os_str().to_owned(), to.as_os_str().to_owned());
        from.push("/");
        to.push("/");
        // Inode numbers and unchanged files stay as they are, so that caches stay warm.
        let output = Command::new(&self.rsync)
            .args(["-aHAXS", "--numeric-ids", "--delete", "--itemize-changes"])
            .args(options)
            .args([&from, &to])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("{}: {}", self.rsync.display(), output.status).into());
        }
        Ok(output.stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"*deleting")).count())
    }
}

/// Runs a program that has to succeed.
pub(crate) fn must(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> Result<()> {
    let program = program.as_ref();
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", program.display()).into()),
        Err(error) => Err(format!("{}: {error}", program.display()).into()),
    }
}

fn read_all(tree: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for entry in walkdir::WalkDir::new(tree) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let mut file = File::open(entry.path())?;
            while file.read(&mut buffer)? > 0 {}
        }
    }
    Ok(())
}
