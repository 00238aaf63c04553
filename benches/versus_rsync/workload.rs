//! The workloads: what is done, on which data, and what is to be reached.

use crate::Result;

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
}

impl Scale {
    /// What the goals are about.
    pub(crate) const WHOLE: Self =
        Self { small_files: 200_000, large_file: 2 << 30, renamed_files: 22_000, most_files: 1_000_000 };
    /// For a first look.
    pub(crate) const QUICK: Self =
        Self { small_files: 20_000, large_file: 256 << 20, renamed_files: 2_000, most_files: 100_000 };
}

/// Which data a workload runs on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Data {
    /// A Debian root, and no destination.
    DebianRootToNothing,
    /// A Debian root, and an equal destination.
    DebianRootTwice,
    /// Small files, and an equal destination.
    SmallFilesTwice,
    /// Small files, one in a hundred changed.
    SmallFilesChanged,
    /// A large file, one in a hundred of its 8 KiB pages changed.
    LargeFilePages,
    /// A large file with insertions of odd lengths at odd offsets.
    LargeFileInsertions,
    /// A directory under a new name.
    Renamed,
    /// A great many entries, and an equal destination.
    MostFilesTwice,
}

/// What the bytes of clonetool are held against.
#[derive(Clone, Copy)]
pub(crate) enum ByteGoal {
    /// This fraction of what rsync needs.
    Ratio(f64),
    /// This many.
    AtMost(u64),
}

/// One row of the table, measured twice: without and with flushing to disk.
#[derive(Clone)]
pub(crate) struct Workload {
    /// What `--only` calls it.
    pub(crate) id: &'static str,
    /// What is done.
    pub(crate) title: String,
    /// On which data.
    pub(crate) data: Data,
    /// Whether over SSH.
    pub(crate) remote: bool,
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

/// All workloads in order.
pub(crate) fn all(scale: Scale) -> Vec<Workload> {
    const DELETE: &[&str] = &["--delete"];
    const CHECKSUM: &[&str] = &["-c"];
    const IN_PLACE: &[&str] = &["--in-place"];
    const COMPRESS: &[&str] = &["-z"];
    let plain = |id, title: String, data, remote, time_goal, byte_goal| Workload {
        id,
        title,
        data,
        remote,
        rsync: &[],
        clonetool: &[],
        rsync_for_bytes: &[],
        time_goal,
        byte_goal,
    };
    let files = format!("{} files", thousands(scale.small_files.into()));
    let many = format!("{} files", thousands(scale.most_files.into()));
    let large = format!("{} MiB file", thousands(scale.large_file >> 20));
    let renamed = thousands(scale.renamed_files.into());
    let few = Some(ByteGoal::AtMost(4096));
    let ratio = |ratio| Some(ByteGoal::Ratio(ratio));
    vec![
        plain(
            "W1",
            "first clone of a Debian root, local".into(),
            Data::DebianRootToNothing,
            false,
            0.5,
            None,
        ),
        Workload {
            rsync_for_bytes: COMPRESS,
            ..plain(
                "W2",
                "first clone of a Debian root, SSH (bytes: rsync -z)".into(),
                Data::DebianRootToNothing,
                true,
                0.6,
                ratio(0.95),
            )
        },
        plain("W3", "Debian root, nothing changed, SSH".into(), Data::DebianRootTwice, true, 0.6, few),
        plain("W4", format!("{files}, nothing changed, local"), Data::SmallFilesTwice, false, 0.2, None),
        plain("W5", format!("{files}, 1 % changed, SSH"), Data::SmallFilesChanged, true, 0.5, ratio(0.4)),
        plain(
            "W6",
            format!("{large}, 1 % of pages changed, SSH"),
            Data::LargeFilePages,
            true,
            0.45,
            ratio(0.18),
        ),
        Workload {
            clonetool: IN_PLACE,
            ..plain(
                "W6i",
                format!("{large}, the same, clonetool --in-place"),
                Data::LargeFilePages,
                true,
                0.25,
                ratio(0.18),
            )
        },
        plain(
            "W7",
            format!("{large}, odd insertions, SSH"),
            Data::LargeFileInsertions,
            true,
            0.45,
            ratio(0.95),
        ),
        Workload {
            rsync: DELETE,
            clonetool: DELETE,
            ..plain(
                "W8",
                format!("directory of {renamed} files renamed, SSH"),
                Data::Renamed,
                true,
                0.4,
                ratio(0.003),
            )
        },
        Workload {
            rsync: CHECKSUM,
            clonetool: CHECKSUM,
            ..plain(
                "W9",
                "Debian root, all content compared, SSH".into(),
                Data::DebianRootTwice,
                true,
                0.6,
                None,
            )
        },
        plain("W10", format!("{many}, nothing changed, local"), Data::MostFilesTwice, false, 0.22, None),
        plain("W10s", format!("{many}, nothing changed, SSH"), Data::MostFilesTwice, true, 0.15, few),
    ]
}

/// Those that are asked for; without `only` all but the largest, and these too with `full`.
pub(crate) fn select(all: &[Workload], only: &[String], full: bool) -> Result<Vec<Workload>> {
    if let Some(unknown) = only.iter().find(|id| !all.iter().any(|w| w.id.eq_ignore_ascii_case(id))) {
        let known: Vec<_> = all.iter().map(|w| w.id).collect();
        return Err(format!("there is no workload {unknown}; there are {}", known.join(", ")).into());
    }
    let wanted = |w: &&Workload| {
        if only.is_empty() {
            full || w.data != Data::MostFilesTwice
        } else {
            only.iter().any(|id| w.id.eq_ignore_ascii_case(id))
        }
    };
    Ok(all.iter().filter(wanted).cloned().collect())
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
