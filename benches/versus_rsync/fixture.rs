//! The data that workloads run on, made before the clock starts; the same bytes every time.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::workload::{Data, Scale};

/// Files of one directory of a made-up tree.
const FILES_A_DIRECTORY: u32 = 200;
/// What a database writes at once.
const PAGE: u64 = 8192;

/// Trees for one workload.
#[derive(Clone)]
pub(crate) struct Prepared {
    /// What is copied.
    pub(crate) source: PathBuf,
    /// What the destination is made equal to before each run; nothing at all if none.
    pub(crate) initial: Option<PathBuf>,
}

/// Makes the data, one kind at a time; removes everything when dropped, except the Debian root.
pub(crate) struct Fixtures {
    directory: PathBuf,
    cache: PathBuf,
    rsync: PathBuf,
    scale: Scale,
    current: Option<(Data, Prepared)>,
}

impl Drop for Fixtures {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Fixtures {
    /// Works in a directory of its own below `base`, which also keeps the Debian root for the next time.
    pub(crate) fn new(base: &Path, scale: Scale, rsync: &Path) -> Result<Self> {
        let directory = base.join("versus-rsync");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, cache: base.to_owned(), rsync: rsync.to_owned(), scale, current: None })
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
        self.current = None;
        for old in ["source", "initial", "destination"] {
            let old = self.directory.join(old);
            if old.exists() {
                fs::remove_dir_all(old)?;
            }
        }
        eprintln!("versus-rsync: making the data: {data:?}");
        let prepared = self.fresh(data)?;
        warm(&prepared.source)?;
        if let Some(initial) = &prepared.initial {
            warm(initial)?;
        }
        self.current = Some((data, prepared.clone()));
        Ok(prepared)
    }

    fn fresh(&self, data: Data) -> Result<Prepared> {
        let source = self.directory.join("source");
        let initial = self.directory.join("initial");
        if !matches!(data, Data::DebianRootToNothing | Data::DebianRootTwice) {
            fs::create_dir_all(&source)?;
            fs::create_dir_all(&initial)?;
        }
        let twice = |source: PathBuf| Prepared { initial: Some(source.clone()), source };
        Ok(match data {
            Data::DebianRootToNothing => Prepared { source: self.debian_root()?, initial: None },
            Data::DebianRootTwice => twice(self.debian_root()?),
            Data::SmallFilesTwice => {
                small_files(&source, self.scale.small_files, 700)?;
                twice(source)
            }
            Data::MostFilesTwice => {
                small_files(&source, self.scale.most_files, 0)?;
                twice(source)
            }
            Data::SmallFilesChanged => {
                small_files(&initial, self.scale.small_files, 700)?;
                self.mirror(&initial, &source)?;
                for index in (0..self.scale.small_files).step_by(100) {
                    let mut file =
                        fs::OpenOptions::new().append(true).open(source.join(small_name(index)))?;
                    writeln!(file, "changed = {index}")?;
                }
                Prepared { source, initial: Some(initial) }
            }
            Data::LargeFilePages => {
                let length = self.scale.large_file;
                large_file(&initial.join("database"), length)?;
                self.mirror(&initial, &source)?;
                let mut random = Random::new(6);
                let mut file = fs::OpenOptions::new().write(true).open(source.join("database"))?;
                let mut page = vec![0; usize::try_from(PAGE)?];
                for _ in 0..length / PAGE / 100 {
                    random.fill(&mut page);
                    file.seek(SeekFrom::Start(random.below(length / PAGE) * PAGE))?;
                    file.write_all(&page)?;
                }
                Prepared { source, initial: Some(initial) }
            }
            Data::LargeFileInsertions => {
                let length = self.scale.large_file;
                large_file(&initial.join("archive"), length)?;
                insert(&initial.join("archive"), &source.join("archive"), length)?;
                Prepared { source, initial: Some(initial) }
            }
            Data::Renamed => {
                small_files(&initial.join("release-1"), self.scale.renamed_files, 96 * 1024)?;
                self.mirror(&initial, &source)?;
                fs::rename(source.join("release-1"), source.join("release-2"))?;
                Prepared { source, initial: Some(initial) }
            }
        })
    }

    /// Puts the destination into its initial state, on disk.
    pub(crate) fn reset(&self, prepared: &Prepared) -> Result<()> {
        let destination = self.destination();
        match &prepared.initial {
            Some(initial) => self.mirror(initial, &destination)?,
            None => {
                if destination.exists() {
                    fs::remove_dir_all(&destination)?;
                }
                fs::create_dir(&destination)?;
            }
        }
        must("sync", &["-f".as_ref(), destination.as_os_str()])
    }

    /// Makes `to` equal to `from`, with everything that the measured runs copy.
    fn mirror(&self, from: &Path, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        let (mut from, mut to) = (from.as_os_str().to_owned(), to.as_os_str().to_owned());
        from.push("/");
        to.push("/");
        // Inode numbers and unchanged files stay as they are, so that caches stay warm.
        let options: [&OsStr; 3] = ["-aHAXS".as_ref(), "--numeric-ids".as_ref(), "--delete".as_ref()];
        must(&self.rsync, &[&options[..], &[&from, &to]].concat())
    }

    /// A Debian root, made once and kept.
    fn debian_root(&self) -> Result<PathBuf> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/debian-root.sh");
        let output = Command::new(script).arg(&self.cache).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err("there is no Debian root".into());
        }
        Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
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

/// Reads every file, so that the first run finds what the later ones find.
fn warm(tree: &Path) -> Result<()> {
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

fn small_name(index: u32) -> PathBuf {
    PathBuf::from(format!("dir-{:05}/file-{:03}", index / FILES_A_DIRECTORY, index % FILES_A_DIRECTORY))
}

/// Text-like files of up to `longest` bytes.
fn small_files(root: &Path, count: u32, longest: u64) -> Result<()> {
    let mut random = Random::new(u64::from(count));
    for index in 0..count {
        let path = root.join(small_name(index));
        if index % FILES_A_DIRECTORY == 0
            && let Some(directory) = path.parent()
        {
            fs::create_dir_all(directory)?;
        }
        let mut bytes = vec![0; usize::try_from(random.below(longest + 1))?];
        random.fill(&mut bytes);
        // Six of eight bits, as in text.
        bytes.iter_mut().for_each(|byte| *byte = 32 + (*byte & 63));
        fs::write(path, bytes)?;
    }
    Ok(())
}

fn large_file(path: &Path, length: u64) -> Result<()> {
    let mut random = Random::new(length);
    let mut file = File::create(path)?;
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..length >> 20 {
        random.fill(&mut buffer);
        file.write_all(&buffer)?;
    }
    Ok(())
}

/// Copies `from` with one insertion of 1,048,573 bytes at an odd offset and five small ones.
fn insert(from: &Path, to: &Path, length: u64) -> Result<()> {
    let insertions: [(u64, usize); 6] = [
        (length / 16 + 1, 13),
        (length / 8 + 7, 1),
        (length / 4 + 4321, 1_048_573),
        (length / 2 + 99, 251),
        (length / 4 * 3 + 1, 3),
        (length / 8 * 7 + 12_345, 4099),
    ];
    let mut random = Random::new(7);
    let mut from = File::open(from)?;
    let mut to = BufWriter::with_capacity(1 << 20, File::create(to)?);
    let mut position = 0;
    for (offset, inserted) in insertions {
        std::io::copy(&mut Read::by_ref(&mut from).take(offset - position), &mut to)?;
        let mut bytes = vec![0; inserted];
        random.fill(&mut bytes);
        to.write_all(&bytes)?;
        position = offset;
    }
    std::io::copy(&mut from, &mut to)?;
    to.flush()?;
    Ok(())
}

/// xorshift64*: fast, and the same on every machine.
struct Random(u64);

impl Random {
    fn new(start: u64) -> Self {
        Self(start.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}
