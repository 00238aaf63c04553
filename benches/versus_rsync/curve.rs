//! How cost grows with the size of a tree, and with what changed in it: the points of two charts.

use std::path::Path;

use crate::Result;
use crate::chart::{Chart, Line, Panel};
use crate::fixture::Fixtures;
use crate::link::Link;
use crate::measure::{self, Row, Tools};
use crate::workload::{Data, Selection, Workload, thousands};

/// What the charts are called.
pub(crate) const IDS: [&str; 2] = ["C1", "C2"];
/// Where a chart with a logarithmic axis has its place for none at all, in percent.
const NONE_PERCENT: f64 = 0.01;

/// A chart and what is measured for it.
struct Curve {
    id: &'static str,
    file: &'static str,
    title: String,
    x_title: &'static str,
    points: Vec<Point>,
    /// Whether the first point is none at all, which has no place on the axis.
    none_first: bool,
}

struct Point {
    x: f64,
    label: String,
    data: Data,
}

fn curves(quick: bool) -> [Curve; 2] {
    let (sizes, changed): (&[u32], _) = if quick {
        (&[1_000, 3_162, 10_000, 31_623], 10)
    } else {
        (&[10_000, 31_623, 100_000, 316_228, 1_000_000], 100)
    };
    let files = if quick { 10_000 } else { 100_000 };
    // In thousandths, to stay with whole numbers.
    let shares: &[(u32, &str)] = &[(0, "0"), (1, "0.1 %"), (10, "1 %"), (100, "10 %"), (1000, "100 %")];
    [
        Curve {
            id: IDS[0],
            file: "cost-by-size.svg",
            title: format!("{changed} files changed, SSH: cost by size of the tree"),
            x_title: "files in the tree",
            points: sizes
                .iter()
                .map(|&files| Point {
                    x: f64::from(files),
                    label: short(files),
                    data: Data::SmallFilesChanged { files, changed },
                })
                .collect(),
            none_first: false,
        },
        Curve {
            id: IDS[1],
            file: "cost-by-change.svg",
            title: format!("{} files, SSH: cost by what changed", thousands(files.into())),
            x_title: "share of the files that changed",
            points: shares
                .iter()
                .map(|&(thousandths, label)| Point {
                    x: if thousandths == 0 { NONE_PERCENT } else { f64::from(thousandths) / 10.0 },
                    label: label.to_owned(),
                    data: Data::SmallFilesChanged { files, changed: files / 1000 * thousandths },
                })
                .collect(),
            none_first: true,
        },
    ]
}

/// `31623` as `31 k`.
fn short(number: u32) -> String {
    match number {
        1_000_000.. => format!("{} M", number / 1_000_000),
        1000.. => format!("{} k", number / 1000),
        _ => number.to_string(),
    }
}

/// Measures what is selected, three times at most, and draws it into `directory`.
pub(crate) fn draw(
    tools: &Tools,
    fixtures: &mut Fixtures,
    selection: &Selection<'_>,
    directory: &Path,
    quick: bool,
    runs: u32,
) -> Result<()> {
    for curve in curves(quick).iter().filter(|curve| selection.has(curve.id, true)) {
        let mut rows = Vec::new();
        for point in &curve.points {
            let id = format!("{}-{}", curve.id, point.label.replace(' ', ""));
            let workload = Workload::new(id, &curve.title, point.data, Link::Loopback, f64::INFINITY).slow();
            let data = fixtures.make(point.data)?;
            let outcome = measure::workload(tools, &workload, &data, fixtures, runs)?;
            let row = outcome.rows?.pop().ok_or("no row was measured")?;
            rows.push((point.x, row));
        }
        let file = directory.join(curve.file);
        std::fs::write(&file, chart(curve, &rows).svg()).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(())
}

fn chart(curve: &Curve, rows: &[(f64, Row)]) -> Chart {
    let lines = |rsync: fn(&Row) -> f64, clonetool: fn(&Row) -> f64| {
        [("rsync", rsync), ("clonetool", clonetool)]
            .map(|(name, of)| Line { name, points: rows.iter().map(|(x, row)| (*x, of(row))).collect() })
    };
    Chart {
        title: curve.title.clone(),
        x_title: curve.x_title,
        x_ticks: curve.points.iter().map(|point| (point.x, point.label.clone())).collect(),
        first_apart: curve.none_first,
        panels: [
            Panel {
                title: "time, seconds",
                tick: seconds,
                lines: lines(|row| row.rsync.seconds, |row| row.clonetool.seconds),
            },
            Panel {
                title: "bytes through ssh, both directions",
                tick: bytes,
                lines: lines(|row| wire(row.rsync.bytes), |row| wire(row.clonetool.bytes)),
            },
        ],
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place on a chart needs no more than 52 bits")]
fn wire(bytes: Option<u64>) -> f64 {
    bytes.unwrap_or(0) as f64
}

fn seconds(value: f64) -> String {
    format!("{value} s")
}

fn bytes(value: f64) -> String {
    match value {
        1e9.. => format!("{} GB", value / 1e9),
        1e6.. => format!("{} MB", value / 1e6),
        1e3.. => format!("{} kB", value / 1e3),
        _ => format!("{value} B"),
    }
}
