//! A table as text or as Markdown, and the place in a page where one goes.

use std::ops::RangeInclusive;
use std::path::Path;

use crate::Result;

/// What stands between these two lines of a page is ours; the rest is somebody's prose.
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// Rows of cells.
pub(crate) struct Table {
    headers: Vec<String>,
    /// The columns that are aligned to the right.
    figures: RangeInclusive<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headers: &[&str], figures: RangeInclusive<usize>) -> Self {
        Self { headers: headers.iter().map(|&header| header.to_owned()).collect(), figures, rows: Vec::new() }
    }

    /// Adds a row, with a cell for each header.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let lines = || std::iter::once(&self.headers).chain(&self.rows);
        let widths: Vec<usize> = (0..self.headers.len())
            .map(|column| lines().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in lines() {
            let cells: Vec<_> = (row.iter().zip(&widths).enumerate())
                .map(|(column, (cell, width))| {
                    if self.figures.contains(&column) {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:width$}")
                    }
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// For a page.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let rules = (0..self.headers.len())
            .map(|column| if self.figures.contains(&column) { "--:" } else { "---" }.to_owned());
        let mut text = line(self.headers.clone()) + &line(rules.collect());
        for row in &self.rows {
            text.push_str(&line(row.iter().map(|cell| cell.replace('|', "\\|")).collect()));
        }
        text
    }
}

/// Refuses a page without markers: better before everything is measured than after.
pub(crate) fn check_page(file: &Path) -> Result<()> {
    replaced(file, "").map(drop)
}

/// Replaces what stands between the two markers of a page, and nothing else.
pub(crate) fn replace_measured(file: &Path, measured: &str) -> Result<()> {
    Ok(std::fs::write(file, replaced(file, measured)?).map_err(|e| format!("{}: {e}", file.display()))?)
}

fn replaced(file: &Path, measured: &str) -> Result<String> {
    let name = file.display();
    let page = std::fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
    let lines: Vec<&str> = page.split_inclusive('\n').collect();
    let only = |marker: &str| {
        let mut places = (0..lines.len()).filter(|&index| lines[index].trim_end() == marker);
        places.next().filter(|_| places.next().is_none())
    };
    match (only(BEGIN), only(END)) {
        (Some(begin), Some(end)) if begin < end => {
            Ok(format!("{}\n{measured}\n{}", lines[..=begin].concat(), lines[end..].concat()))
        }
        _ => Err(format!("{name}: needs the line {BEGIN} and after it the line {END}, once each").into()),
    }
}
