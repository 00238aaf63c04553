//! How much memory clonetool takes at its peak, at the end that starts and at the end that serves.
//!
//! Both processes run under time(1), which asks the kernel for the largest resident set of what it waited for. What
//! can go wrong: a figure of another program is taken (the agent is started by a script that wraps nothing else), or
//! the work was not done (rsync looks at the result).

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::Result;
use crate::fixture::{Fixtures, Prepared, made};
use crate::link::Link;
use crate::measure::{Tools, bounded};
use crate::workload::{Data, Scale, Selection, Workload, thousands};

/// GNU time; the word of the shell is another.
const TIME: &str = "/usr/bin/time";
/// What any run may take.
const GOAL_KIBIBYTES: u64 = 256 << 10;
/// What a run without changes may take, and for each directory and each inode with several names.
const UNCHANGED_KIBIBYTES: u64 = 16 << 10;
const UNCHANGED_BYTES_EACH: u64 = 64;

/// One line of the table.
pub(crate) struct Peak {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) goal_kibibytes: Option<u64>,
    /// The larger of the two processes, or what went wrong.
    pub(crate) kibibytes: std::result::Result<u64, String>,
}

/// Makes or changes the tree at a path.
type OnTree = Box<dyn Fn(&Path) -> Result<()>>;

/// A tree that is cloned, cloned again, changed and cloned again.
struct Subject {
    id: &'static str,
    title: String,
    make: OnTree,
    steps: Vec<Step>,
}

/// One of these clones.
struct Step {
    suffix: &'static str,
    title: &'static str,
    goal_kibibytes: Option<u64>,
    change: Option<OnTree>,
}

impl Step {
    fn new(suffix: &'static str, title: &'static str, goal_kibibytes: Option<u64>) -> Self {
        Self { suffix, title, goal_kibibytes, change: None }
    }

    fn after(mut self, change: impl Fn(&Path) -> Result<()> + 'static) -> Self {
        self.change = Some(Box::new(change));
        self
    }

    fn first() -> Self {
        Self::new("first", "first clone", Some(GOAL_KIBIBYTES))
    }
}

/// What the rows are called.
pub(crate) const IDS: [&str; 4] = ["M1", "M2", "M3", "M4"];

fn subjects(quick: bool) -> Vec<Subject> {
    let scale = if quick { Scale::QUICK } else { Scale::WHOLE };
    let files = scale.most_files;
    let (sparse, dense): (u64, u64) = if quick { (2 << 30, 512 << 20) } else { (20 << 30, 4 << 30) };
    let directories = u64::from(files.div_ceil(made::FILES_A_DIRECTORY)) + 1;
    let unchanged = UNCHANGED_KIBIBYTES + directories * UNCHANGED_BYTES_EACH / 1024;
    let changed = || Step::new("changed", "1 % changed", Some(GOAL_KIBIBYTES));
    vec![
        Subject {
            id: IDS[0],
            title: format!("{} entries", thousands(files.into())),
            make: Box::new(move |root| made::small_files(root, files, 0)),
            steps: vec![
                Step { goal_kibibytes: None, ..Step::first() },
                Step::new("unchanged", "nothing changed", Some(unchanged)),
            ],
        },
        Subject {
            id: IDS[1],
            title: format!("one directory of {} files", thousands(files.into())),
            make: Box::new(move |root| made::one_directory(root, files)),
            steps: vec![
                Step::first(),
                Step::new("unchanged", "nothing changed", Some(GOAL_KIBIBYTES)),
                changed().after(move |root| made::change_one_directory(root, files, files / 100)),
            ],
        },
        Subject {
            id: IDS[2],
            title: format!("{} GiB of holes with few data", sparse >> 30),
            make: Box::new(move |root| sparse_file(&root.join("disk"), sparse)),
            steps: vec![
                Step::first(),
                Step::new("changed", "some data changed", Some(GOAL_KIBIBYTES))
                    .after(move |root| change_sparse_file(&root.join("disk"), sparse)),
            ],
        },
        Subject {
            id: IDS[3],
            title: format!("{} MiB file", thousands(dense >> 20)),
            make: Box::new(move |root| made::large_file(&root.join("database"), dense)),
            steps: vec![
                Step::first(),
                changed()
                    .after(move |root| made::change_pages(&root.join("database"), made::pages_of(dense, 1))),
            ],
        },
    ]
}

/// Measures what is selected; `unasked` without `--only`.
pub(crate) fn measure(
    tools: &Tools,
    fixtures: &mut Fixtures,
    selection: &Selection<'_>,
    unasked: bool,
    quick: bool,
    mut report: impl FnMut(Peak),
) -> Result<()> {
    for subject in subjects(quick).iter().filter(|subject| selection.has(subject.id, unasked)) {
        let mut ready = prepare(fixtures, subject).map_err(|error| error.to_string());
        for step in &subject.steps {
            let kibibytes = ready
                .clone()
                .and_then(|source| clone(tools, fixtures, source, step).map_err(|error| error.to_string()));
            let id = format!("{}-{}", subject.id, step.suffix);
            match &kibibytes {
                Ok(kibibytes) => eprintln!("versus-rsync: {id}: {kibibytes} KiB"),
                Err(error) => {
                    eprintln!("versus-rsync: {id}: {error}");
                    // The next step would start from something else.
                    ready = Err(error.clone());
                }
            }
            let title = format!("{}, {}", subject.title, step.title);
            report(Peak { id, title, goal_kibibytes: step.goal_kibibytes, kibibytes });
        }
    }
    Ok(())
}

fn prepare(fixtures: &mut Fixtures, subject: &Subject) -> Result<PathBuf> {
    if !Path::new(TIME).exists() {
        return Err(format!("skipped: there is no {TIME}").into());
    }
    eprintln!("versus-rsync: making the data: {}", subject.title);
    let source = fixtures.blank()?;
    (subject.make)(&source)?;
    Ok(source)
}

/// One clone; the larger peak of the two processes.
fn clone(tools: &Tools, fixtures: &Fixtures, source: PathBuf, step: &Step) -> Result<u64> {
    if let Some(change) = &step.change {
        change(&source)?;
    }
    let peaks = fixtures.directory().join("peaks");
    let agent = fixtures.directory().join("agent");
    let _ = fs::remove_file(&peaks);
    let measured = format!("{TIME} -f %M -a -o {} {}", peaks.display(), tools.clonetool().display());
    fs::write(&agent, format!("#!/bin/sh\nexec {measured} \"$@\"\n"))?;
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;

    let mut destination = std::ffi::OsString::from(Link::Loopback.host().unwrap_or_default());
    destination.push(":");
    destination.push(fixtures.destination());
    let mut command = bounded(&agent);
    command.args(["clone", "-q", "--no-durable", "--remote-path"]).arg(&agent);
    command.arg("-e").arg(tools.client()).arg(&source).arg(destination);
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, said.trim().lines().last().unwrap_or_default()).into());
    }
    // By size and time: what is in twenty gibibytes of holes takes rsync minutes to say.
    let done = Workload::new("memory", "", Data::SmallFilesTwice, Link::Local, 0.0);
    tools.check(&Prepared { source, initial: None }, fixtures, &done, false)?;

    let text = fs::read_to_string(&peaks)?;
    let all: Vec<u64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    match all[..] {
        // The one that started and at least one that served.
        [_, _, ..] => Ok(all.into_iter().max().unwrap_or(0)),
        _ => Err(format!("time(1) wrote {text:?}").into()),
    }
}

/// Stretches of 64 KiB, evenly spread over holes; 4 MiB in all.
fn sparse_file(path: &Path, length: u64) -> Result<()> {
    File::create_new(path)?.set_len(length)?;
    write_stretches(path, length, 0)
}

fn change_sparse_file(path: &Path, length: u64) -> Result<()> {
    write_stretches(path, length, length / 256)
}

fn write_stretches(path: &Path, length: u64, from: u64) -> Result<()> {
    let mut file = File::options().write(true).open(path)?;
    let bytes: Vec<u8> =
        (0..64_u32 << 10).map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for number in 0..64 {
        file.seek(SeekFrom::Start(from + length / 64 * number))?;
        file.write_all(&bytes)?;
    }
    Ok(made::touch_later(&file)?)
}
