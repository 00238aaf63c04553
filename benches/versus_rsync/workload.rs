//! The workloads: what is done, on which data, and what is to be reached.

use crate::Result;
use crate::link::Link;

/// How large the made-up data is.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Files of the tree of small files.
    pub(crate) small_files: u32,
    /// Bytes of the large file.
    pub(crate) large_file: u64,
    /// Files of the directory that is renamed.
    pub(crate) renamed_files: u32,
    /// Entries of the largest tree.
    pub(crate) most_files: u32,
    /// What `pgbench -i -s` is told: 15 MB each.
    pub(crate) database: u32,
    /// Transactions of each of its four clients.
    pub(crate) transactions: u32,
}

impl Scale {
    /// What the goals are about.
    pub(crate) const WHOLE: Self = Self {
        small_files: 200_000,
        large_file: 2 << 30,
        renamed_files: 22_000,
        most_files: 1_000_000,
        database: 40,
        transactions: 10_000,
    };
    /// For a first look.
    pub(crate) const QUICK: Self = Self {
        small_files: 20_000,
        large_file: 256 << 20,
        renamed_files: 2_000,
        most_files: 100_000,
        database: 4,
        transactions: 1_000,
    };
}

/// Which data a workload runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Data {
    /// A Debian root, and no destination.
    DebianRootToNothing,
    /// A Debian root, and an equal destination.
    DebianRootTwice,
    /// A Debian root after 30 packages were installed, and as it was before.
    DebianRootUpgraded,
    /// The directory of a PostgreSQL server after many transactions, and as it was before.
    Database,
    /// Small files, and an equal destination.
    SmallFilesTwice,
    /// This many small files, of which so many changed.
    SmallFilesChanged {
        /// All.
        files: u32,
        /// Those that differ, evenly spread.
        changed: u32,
    },
    /// A large file, one in a hundred of its 8 KiB pages changed.
    LargeFilePages,
    /// A large file with insertions of odd lengths at odd offsets.
    LargeFileInsertions,
    /// A directory under a new name.
    Renamed,
    /// A great many entries, and an equal destination.
    MostFilesTwice,
}

/// Whether the clock runs until the data is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flush {
    /// It stops when the program ends; clonetool with `--no-durable`.
    No,
    /// clonetool as it is; after rsync, `sync -f` of the destination.
    Yes,
}

/// What the bytes of clonetool are held against.
#[derive(Clone, Copy)]
pub(crate) enum ByteGoal {
    /// This fraction of what rsync needs.
    Ratio(f64),
    /// This many.
    AtMost(u64),
}

/// A row of the table for each way to flush.
#[derive(Clone)]
pub(crate) struct Workload {
    /// What `--only` calls it.
    pub(crate) id: String,
    /// What is done.
    pub(crate) title: String,
    /// On which data.
    pub(crate) data: Data,
    /// Over what.
    pub(crate) link: Link,
    /// Whether the kernel forgets all files before each run.
    pub(crate) cold: bool,
    /// How it is measured.
    pub(crate) flushes: &'static [Flush],
    /// Runs that are enough where a run is slow.
    pub(crate) most_runs: u32,
    /// Options for rsync on top of the usual ones.
    pub(crate) rsync: &'static [&'static str],
    /// Options for clonetool on top of the usual ones.
    pub(crate) clonetool: &'static [&'static str],
    /// Options of one more run of rsync whose bytes, but not time, are the measure.
    pub(crate) rsync_for_bytes: &'static [&'static str],
    /// Time in relation to rsync's that is to be reached.
    pub(crate) time_goal: f64,
    /// Bytes that are to be reached.
    pub(crate) byte_goal: Option<ByteGoal>,
}

impl Workload {
    pub(crate) fn new(id: impl Into<String>, title: &str, data: Data, link: Link, time_goal: f64) -> Self {
        Self {
            id: id.into(),
            title: format!("{title}, {}", link.title()),
            data,
            link,
            cold: false,
            flushes: &[Flush::No, Flush::Yes],
            most_runs: u32::MAX,
            rsync: &[],
            clonetool: &[],
            rsync_for_bytes: &[],
            time_goal,
            byte_goal: None,
        }
    }

    /// The options of the two tools.
    pub(crate) fn options(
        mut self,
        rsync: &'static [&'static str],
        clonetool: &'static [&'static str],
    ) -> Self {
        (self.rsync, self.clonetool) = (rsync, clonetool);
        self
    }

    fn ratio(mut self, goal: f64) -> Self {
        self.byte_goal = Some(ByteGoal::Ratio(goal));
        self
    }

    fn few_bytes(mut self) -> Self {
        self.byte_goal = Some(ByteGoal::AtMost(4096));
        self
    }

    fn cold(mut self) -> Self {
        self.cold = true;
        self.title += ", cold caches";
        self
    }

    /// One row, without flushing, and no more than three runs.
    pub(crate) fn slow(mut self) -> Self {
        self.flushes = &[Flush::No];
        self.most_runs = 3;
        self
    }
}

/// All workloads in order.
pub(crate) fn all(scale: Scale) -> Vec<Workload> {
    use Link::{Local, Long, Loopback, Narrow};
    let new = Workload::new;
    let files = format!("{} files", thousands(scale.small_files.into()));
    let many = format!("{} entries, nothing changed", thousands(scale.most_files.into()));
    let large = format!("{} MiB file", thousands(scale.large_file >> 20));
    let renamed = format!("directory of {} files renamed", thousands(scale.renamed_files.into()));
    let first = "first clone of a Debian root";
    let same_root = "Debian root, nothing changed";
    let same_files = format!("{files}, nothing changed");
    let changed_files = format!("{files}, 1 % changed");
    let pages = format!("{large}, 1 % of its pages changed");
    let changed = Data::SmallFilesChanged { files: scale.small_files, changed: scale.small_files / 100 };

    let mut all = vec![
        new("W1", first, Data::DebianRootToNothing, Local, 0.5),
        Workload {
            rsync_for_bytes: &["-z"],
            title: format!("{first}, SSH (bytes: rsync -z)"),
            ..new("W2", first, Data::DebianRootToNothing, Loopback, 0.6).ratio(0.95)
        },
        new("W3", same_root, Data::DebianRootTwice, Loopback, 0.6).few_bytes(),
        new("W3c", same_root, Data::DebianRootTwice, Loopback, 1.0).cold(),
        new("W4", &same_files, Data::SmallFilesTwice, Local, 0.2),
        new("W4c", &same_files, Data::SmallFilesTwice, Local, 1.0).cold(),
        new("W5", &changed_files, changed, Loopback, 0.5).ratio(0.4),
        new("W6", &pages, Data::LargeFilePages, Loopback, 0.45).ratio(0.18),
        new("W6i", &format!("{pages}, --in-place"), Data::LargeFilePages, Loopback, 0.25)
            .ratio(0.18)
            .options(&[], &["--in-place"]),
        new("W7", &format!("{large}, odd insertions"), Data::LargeFileInsertions, Loopback, 0.45).ratio(0.95),
        new("W8", &renamed, Data::Renamed, Loopback, 0.4).ratio(0.003).options(&["--delete"], &["--delete"]),
        new("W9", "Debian root, all content compared", Data::DebianRootTwice, Loopback, 0.6)
            .options(&["-c"], &["-c"]),
        new("W10", &many, Data::MostFilesTwice, Local, 0.22),
        new("W10s", &many, Data::MostFilesTwice, Loopback, 0.15).few_bytes(),
        new("P1", "PostgreSQL after pgbench (rsync -z)", Data::Database, Loopback, 0.6)
            .ratio(0.9)
            .options(&["-z", "--delete"], &["--delete"]),
        new("P2", "Debian root after 30 new packages (rsync -z)", Data::DebianRootUpgraded, Loopback, 0.6)
            .ratio(0.9)
            .options(&["-z", "--delete"], &["--delete"]),
    ];
    for (id, title, data) in [
        ("L-W2", first, Data::DebianRootToNothing),
        ("L-W3", same_root, Data::DebianRootTwice),
        ("L-W5", &changed_files, changed),
        ("L-W6", &pages, Data::LargeFilePages),
    ] {
        for (suffix, link) in [("100ms", Long), ("100Mbit", Narrow)] {
            let title = format!("{title} (rsync -z)");
            let row = Workload::new(format!("{id}-{suffix}"), &title, data, link, 1.0);
            all.push(row.options(&["-z"], &[]).slow());
        }
    }
    all
}

/// What a run is asked to measure, by the ids of rows.
pub(crate) struct Selection<'a> {
    /// Only these, or all if there are none.
    pub(crate) only: &'a [String],
}

impl Selection<'_> {
    /// Whether to measure it: `L-W2` names both `L-W2-100ms` and `L-W2-100Mbit`. Without `--only`, as the caller says.
    pub(crate) fn has(&self, id: &str, unasked: bool) -> bool {
        if self.only.is_empty() { unasked } else { self.only.iter().any(|word| names(word, id)) }
    }

    /// Refuses a word that names none of `ids`.
    pub(crate) fn check(&self, ids: &[String]) -> Result<()> {
        match self.only.iter().find(|word| !ids.iter().any(|id| names(word, id))) {
            Some(unknown) => Err(format!("there is no {unknown}; there are {}", ids.join(", ")).into()),
            None => Ok(()),
        }
    }
}

fn names(word: &str, id: &str) -> bool {
    id.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
        && (id.len() == word.len() || id[word.len()..].starts_with('-'))
}

/// The order to measure in: those with the same data one after another, as making it takes longer than using it.
pub(crate) fn by_data(workloads: &[Workload]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..workloads.len()).collect();
    order.sort_by_key(|&index| workloads.iter().position(|other| other.data == workloads[index].data));
    order
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
