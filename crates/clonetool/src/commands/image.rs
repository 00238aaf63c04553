//! `clonetool image`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanCount};
use syncore::image::{self, CreateOptions, Done, ImageFile};
use syncore::plan::Totals;
use syncore::problem::{Operation, Problem};
use syncore::rules::RuleSet;
use syncore::session::{Options, Report};
use syncore::tree::{Entry, Kind, RelPath, escape};

use crate::arguments::{ConnectionOptions, OutputOptions, Place, ScopeOptions};
use crate::error::CommandError;
use crate::interrupt;
use crate::run::{Outcome, Purpose};
use crate::ui::log::utc;
use crate::ui::summary::seconds;
use crate::ui::{self, Ui, json};

/// Dump a tree to one file, and restore it any number of times
///
/// An image is a pax archive compressed by zstd, with a manifest of BLAKE3 digests: `tar --zstd` reads it, too.
#[derive(Debug, Args)]
pub(crate) struct ImageArguments {
    #[command(subcommand)]
    command: ImageCommand,
}

/// What to do with an image.
#[derive(Debug, Subcommand)]
enum ImageCommand {
    Create(CreateArguments),
    Restore(RestoreArguments),
    List(ListArguments),
}

/// Write an image of SOURCE to FILE
///
/// FILE appears when it is whole, and only its owner may read it: it holds what shadow and private keys hold. Files
/// that change while they are read are problems, and marked in the image.
#[derive(Debug, Args)]
struct CreateArguments {
    /// Read this tree: PATH or [USER@]HOST:PATH
    source: OsString,
    /// Write this file on this host; - is standard output
    file: OsString,
    /// Compress by zstd at LEVEL, from 1 to 19
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// Replace FILE if it is there
    #[arg(long)]
    force: bool,
    /// Do not wait until everything is on stable storage
    #[arg(long)]
    no_durable: bool,
    #[command(flatten)]
    scope: ScopeOptions,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Restore the image in FILE to DESTINATION
///
/// The whole image is checked before anything is written; only what comes through a pipe is checked while it is
/// restored. DESTINATION is made if it is missing; otherwise it has to be empty, but for lost+found and for other
/// empty filesystems that are mounted in it.
#[derive(Debug, Args)]
struct RestoreArguments {
    /// Read this file on this host; - is standard input
    file: OsString,
    /// Fill this tree: PATH or [USER@]HOST:PATH
    destination: OsString,
    /// Do not wait until everything is on stable storage
    #[arg(long)]
    no_durable: bool,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Check the image in FILE and say what is in it
#[derive(Debug, Args)]
struct ListArguments {
    /// Read this file on this host; - is standard input
    file: OsString,
    /// Print every path in it
    #[arg(long)]
    files: bool,
    /// Print one JSON object a line, the summary last
    #[arg(long)]
    json: bool,
}

impl ImageArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        match &self.command {
            ImageCommand::Create(arguments) => arguments.run(),
            ImageCommand::Restore(arguments) => arguments.run(),
            ImageCommand::List(arguments) => arguments.run(),
        }
    }
}

impl CreateArguments {
    fn run(&self) -> Result<Outcome, CommandError> {
        execute(Purpose::Change, &self.output, self.file == "-", |ui| self.create(ui))
    }

    fn create(&self, ui: &Ui) -> Result<(Outcome, Ended), CommandError> {
        let (source, timeout) = self.connection.locate_tree(&self.source)?;
        let file = open(&self.file, || {
            if stdout().is_terminal() {
                return Err(
                    CommandError::usage("an image is not for a terminal").hint("name a file, or use a pipe")
                );
            }
            stdout().as_fd().try_clone_to_owned().map_err(CommandError::failed)
        })?;
        let mut scope = Options::default();
        self.scope.apply(None, &mut scope);
        let options = CreateOptions {
            rules: self.scope.rules(Vec::new())?,
            one_file_system: scope.one_file_system,
            level: self.level,
            replace: self.force,
            durable: !self.no_durable,
            timeout,
        };
        for unreachable in RuleSet::compile(options.rules.clone())?.never_matching() {
            ui.warn(&unreachable.to_string());
        }
        ui.started_from(&ui::place(&source), &shown(&self.file));
        let done = image::create(&source, &file, &options, ui)?;
        let outcome = outcome(&done);
        let mut lines = totals(&done);
        if done.sockets > 0 {
            lines.push(format!(
                "left out  {} sockets, which their programs make again",
                HumanCount(done.sockets)
            ));
        }
        let verdict = match outcome {
            Outcome::Problems => format!("Not whole: {}; the image has all the rest", problems(&done)),
            _ if self.no_durable => "Done, without waiting for stable storage".to_owned(),
            _ if self.file == "-" => "Done".to_owned(),
            _ => "Done: the image is whole and on stable storage".to_owned(),
        };
        Ok((outcome, Ended { done, lines, verdict, created: 0 }))
    }
}

impl RestoreArguments {
    fn run(&self) -> Result<Outcome, CommandError> {
        execute(Purpose::Change, &self.output, false, |ui| self.restore(ui))
    }

    fn restore(&self, ui: &Ui) -> Result<(Outcome, Ended), CommandError> {
        let (destination, timeout) = self.connection.locate_tree(&self.destination)?;
        let file = open(&self.file, || stdin().as_fd().try_clone_to_owned().map_err(CommandError::failed))?;
        ui.started_from(&shown(&self.file), &ui::place(&destination));
        let done = image::restore(&file, &destination, !self.no_durable, timeout, ui)?;
        let outcome = outcome(&done);
        let mut lines = origin(&done);
        lines.extend(totals(&done));
        let verdict = match outcome {
            Outcome::Problems => format!("Not whole: {}; all the rest is restored", problems(&done)),
            _ if self.no_durable => "Done, without waiting for stable storage".to_owned(),
            _ => "Done: what is restored is what the manifest has, and on stable storage".to_owned(),
        };
        let created = done.contents.entries;
        Ok((outcome, Ended { done, lines, verdict, created }))
    }
}

impl ListArguments {
    fn run(&self) -> Result<Outcome, CommandError> {
        let output = OutputOptions { json: self.json, ..OutputOptions::default() };
        execute(Purpose::Plan, &output, false, |ui| self.list(ui))
    }

    fn list(&self, ui: &Ui) -> Result<(Outcome, Ended), CommandError> {
        let file = open(&self.file, || stdin().as_fd().try_clone_to_owned().map_err(CommandError::failed))?;
        let mut out = std::io::BufWriter::new(stdout().lock());
        let mut failed = None;
        let mut each = |path: &RelPath, entry: &Entry, link_to: Option<&RelPath>| {
            if self.files && failed.is_none() {
                let line = match self.json {
                    true => json::entry(path, entry, link_to).to_string(),
                    false => listed(path, entry, link_to),
                };
                failed = writeln!(out, "{line}").err();
            }
        };
        let result = image::list(&file, &mut each, ui);
        if let Some(error) = failed.or(out.flush().err()) {
            return Err(error.into());
        }
        drop(out);
        let mut done = result?;
        let torn =
            "it changed while the image was made; what the image has of it is no state that it ever had";
        let problem = |path: &RelPath| Problem::new(path, Operation::Read, torn);
        done.problems = done.contents.torn.iter().map(problem).collect();
        let outcome = outcome(&done);
        let mut lines = origin(&done);
        lines.extend(totals(&done));
        let verdict = match outcome {
            Outcome::Problems => format!("Whole, as it was made: {}", problems(&done)),
            _ => "Whole: every entry is what the manifest has".to_owned(),
        };
        Ok((outcome, Ended { done, lines, verdict, created: 0 }))
    }
}

/// How a request ended.
struct Ended {
    done: Done,
    lines: Vec<String>,
    verdict: String,
    created: u64,
}

/// Opens the output, does the work and reports how it ended. Where the image itself goes to standard output, nothing
/// else does.
fn execute(
    purpose: Purpose,
    output: &OutputOptions,
    is_stream: bool,
    work: impl FnOnce(&Ui) -> Result<(Outcome, Ended), CommandError>,
) -> Result<Outcome, CommandError> {
    if output.itemize {
        return Err(CommandError::usage("--itemize: an image has no changes")
            .hint("`clonetool image list --files FILE` prints what is in one"));
    }
    if is_stream && (output.json || output.verbose) {
        return Err(CommandError::usage("standard output is taken by the image")
            .hint("leave out --json and --verbose, or name a file"));
    }
    let quiet = OutputOptions { quiet: true, log_file: output.log_file.clone(), ..OutputOptions::default() };
    let output = if is_stream { &quiet } else { output };
    let ui = Ui::open(purpose, output, None)?;
    let result = interrupt::install().and_then(|()| work(&ui)).inspect_err(|error| ui.failed(error))?;
    let (outcome, Ended { done, mut lines, verdict, created }) = result;
    let elapsed = ui.elapsed();
    lines.extend([format!("elapsed   {}", seconds(elapsed)), verdict]);
    let totals = Totals { created, content_bytes: done.contents.content_bytes, ..Totals::default() };
    let entries_scanned = done.contents.entries;
    let report = Report { totals, entries_scanned, problems: done.problems.clone(), ..Report::default() };
    let mut summary = json::summary(outcome, &report, elapsed);
    if let (Some(fields), serde_json::Value::Object(more)) = (summary.as_object_mut(), json::image(&done)) {
        fields.extend(more);
    }
    ui.concluded(outcome, &done.problems, &lines, &summary);
    ui.output_error().map(|()| outcome)
}

fn outcome(done: &Done) -> Outcome {
    if done.problems.is_empty() { Outcome::Done } else { Outcome::Problems }
}

fn problems(done: &Done) -> String {
    match done.problems.len() {
        1 => "1 problem".to_owned(),
        count => format!("{} problems", HumanCount(count as u64)),
    }
}

/// Of what an image is.
fn origin(done: &Done) -> Vec<String> {
    let about = &done.contents.about;
    let plain = |text: &str| crate::error::harmless(text);
    let system = about.system.as_deref().unwrap_or("unknown");
    vec![
        format!("image of  {} on {} ({})", plain(&about.root), plain(&about.host), plain(&about.machine)),
        format!("system    {}", plain(system)),
        format!("made      {} by {}", utc(about.created_seconds), plain(&about.program)),
    ]
}

/// How much is in an image.
fn totals(done: &Done) -> Vec<String> {
    let contents = &done.contents;
    vec![
        format!("entries   {}", HumanCount(contents.entries)),
        format!(
            "content   {}, {} compressed",
            HumanBytes(contents.content_bytes),
            HumanBytes(done.file_bytes)
        ),
        format!("digest    {}", json::hex(&contents.digest)),
    ]
}

/// A line of `--files`: kind, mode, owner, length, time, path, and where a link leads.
fn listed(path: &RelPath, entry: &Entry, link_to: Option<&RelPath>) -> String {
    let kind = match entry.kind {
        _ if link_to.is_some() => 'h',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::BlockDevice => 'b',
        Kind::CharDevice => 'c',
        _ => 'f',
    };
    let time = u64::try_from(entry.mtime.seconds).map_or_else(|_| entry.mtime.seconds.to_string(), utc);
    let line = format!(
        "{kind}{:04o} {}/{} {:>12} {time} {path}",
        entry.mode, entry.uid, entry.gid, entry.size_bytes
    );
    match (link_to, entry.kind) {
        (Some(leader), _) => format!("{line} => {leader}"),
        (None, Kind::Symlink) => format!("{line} -> {}", escape(&entry.target)),
        _ => line,
    }
}

/// The file of an image, which is on this host; `stream` opens what `-` stands for.
fn open<T: Into<File>>(
    file: &OsStr,
    stream: impl FnOnce() -> Result<T, CommandError>,
) -> Result<ImageFile, CommandError> {
    if file == "-" {
        return Ok(ImageFile::Open(stream()?.into()));
    }
    match Place::parse(file)? {
        Place::Local(path) => Ok(ImageFile::Path(path)),
        Place::Remote { .. } => {
            Err(CommandError::usage(format!("{}: the image is a file on this host", shown(file)))
                .hint("run clonetool where the file is; write ./ before a local name that has a colon"))
        }
    }
}

fn shown(file: &OsStr) -> String {
    escape(PathBuf::from(file).as_os_str().as_encoded_bytes())
}
