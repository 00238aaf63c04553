//! One workload: run by run, tool after tool, with the clock on.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::fixture::{Fixtures, Prepared, must};
use crate::link::Link;
use crate::shim;
use crate::ssh::Server;
use crate::workload::{Flush, Workload};

impl Outcome {
    /// A workload without data.
    pub(crate) fn skipped(workload: &Workload, reason: &str) -> Self {
        eprintln!("versus-rsync: {} is skipped: {reason}", workload.id);
        Self { workload: workload.clone(), rows: Err(format!("skipped: {reason}")) }
    }
}

/// What rsync has to be told to copy as much as clonetool does unasked.
pub(crate) const RSYNC_OPTIONS: &[&str] = &["-aHAXS", "--numeric-ids"];

/// A program under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    Rsync,
    Clonetool,
}

/// The programs and the way to the other end.
pub(crate) struct Tools {
    clonetool: PathBuf,
    rsync: PathBuf,
    server: Server,
    counts: PathBuf,
    this_program: PathBuf,
}

/// Medians of one tool.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) bytes: Option<u64>,
}

/// A row of the table, or why there is none.
pub(crate) struct Row {
    pub(crate) flush: Flush,
    pub(crate) rsync: Sample,
    pub(crate) clonetool: Sample,
}

/// What became of a workload.
pub(crate) struct Outcome {
    pub(crate) workload: Workload,
    /// Both rows, or what went wrong.
    pub(crate) rows: std::result::Result<Vec<Row>, String>,
}

/// The whole path of a program; one without a slash is looked for as a shell does.
pub(crate) fn locate(program: &Path) -> Result<PathBuf> {
    let found = if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        program.to_owned()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|directory| directory.join(program))
            .find(|candidate| candidate.is_file())
            .ok_or_else(|| format!("there is no {} on PATH", program.display()))?
    };
    Ok(std::fs::canonicalize(&found).map_err(|e| format!("there is no {}: {e}", found.display()))?)
}

impl Tools {
    /// Starts the server for the remote rows.
    pub(crate) fn new(clonetool: &Path, rsync: PathBuf, directory: &Path) -> Result<Self> {
        let clonetool = locate(clonetool)?;
        let this_program = std::env::current_exe()?;
        for path in [&*clonetool, &*rsync, &*this_program, directory] {
            if path.as_os_str().as_encoded_bytes().contains(&b' ') {
                return Err(format!("{}: a shell would split this path at the space", path.display()).into());
            }
        }
        // As on every host of a standby: what is known of scans is kept where this is.
        std::fs::create_dir_all("/var/lib/clonetool")?;
        let server = Server::start(&directory.join("ssh"))?;
        Ok(Self { clonetool, rsync, server, counts: directory.join("byte-counts"), this_program })
    }

    /// The clonetool that is measured.
    pub(crate) fn clonetool(&self) -> &Path {
        &self.clonetool
    }

    /// The rsync that it is compared with.
    pub(crate) fn rsync(&self) -> &Path {
        &self.rsync
    }

    /// The words that run ssh without the relay.
    pub(crate) fn client(&self) -> String {
        self.server.client()
    }

    fn command(
        &self,
        tool: Tool,
        workload: &Workload,
        flush: Flush,
        extra: &[&str],
        from: &Path,
        to: &Path,
    ) -> Command {
        let (mut source, mut destination) = (from.as_os_str().to_owned(), OsString::new());
        if let Some(host) = workload.link.host() {
            destination.push(host);
            destination.push(":");
        }
        let remote = workload.link != Link::Local;
        destination.push(to);
        let shell = format!(
            "{} shim {} {}",
            self.this_program.display(),
            self.counts.display(),
            self.server.client()
        );
        let mut command;
        match tool {
            Tool::Rsync => {
                command = bounded(&self.rsync);
                command.args(RSYNC_OPTIONS).args(workload.rsync);
                if remote {
                    command.arg("--rsync-path").arg(&self.rsync);
                }
                source.push("/");
                destination.push("/");
            }
            Tool::Clonetool => {
                command = bounded(&self.clonetool);
                command.args(["clone", "-q"]).args(workload.clonetool);
                if remote {
                    command.arg("--remote-path").arg(&self.clonetool);
                }
                if flush == Flush::No {
                    command.arg("--no-durable");
                }
            }
        }
        if remote {
            command.arg("-e").arg(shell);
        }
        command.args(extra).arg(source).arg(destination);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Resets the destination and times one run.
    fn time(
        &self,
        tool: Tool,
        workload: &Workload,
        flush: Flush,
        extra: &[&str],
        data: &Prepared,
        fixtures: &Fixtures,
    ) -> Result<Sample> {
        let destination = fixtures.destination();
        fixtures.reset(data)?;
        if workload.cold {
            Fixtures::chill()?;
        }
        let _ = std::fs::remove_file(&self.counts);
        let mut command = self.command(tool, workload, flush, extra, &data.source, &destination);

        let started = Instant::now();
        let output = command.output()?;
        if flush == Flush::Yes && tool == Tool::Rsync {
            must("sync", &["-f".as_ref(), destination.as_os_str()])?;
        }
        let elapsed = started.elapsed();

        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().lines().last().unwrap_or("nothing said").to_owned();
            return Err(format!("{tool:?}: {}: {said}", output.status).into());
        }
        let bytes = (workload.link != Link::Local).then(|| shim::count(&self.counts)).transpose()?;
        Ok(Sample { seconds: seconds(elapsed), bytes })
    }

    /// A tool that is fast because it does not do the work is found out: rsync has nothing to add to what clonetool
    /// did.
    pub(crate) fn check(
        &self,
        data: &Prepared,
        fixtures: &Fixtures,
        workload: &Workload,
        content: bool,
    ) -> Result<()> {
        let (mut source, mut destination) =
            (data.source.clone().into_os_string(), fixtures.destination().into_os_string());
        source.push("/");
        destination.push("/");
        let mut command = Command::new(&self.rsync);
        command.args(RSYNC_OPTIONS).args(["--dry-run", "--itemize-changes"]).args(workload.rsync);
        if content {
            command.arg("--checksum");
        }
        let output = command.arg(source).arg(destination).output()?;
        let differences = String::from_utf8_lossy(&output.stdout);
        match differences.lines().next() {
            None if output.status.success() => Ok(()),
            None => Err(format!("the check could not be made: {}", output.status).into()),
            Some(first) => {
                Err(format!("clonetool left {} differences, such as {first}", differences.lines().count())
                    .into())
            }
        }
    }
}

/// How long one run may take, in seconds: a tool that hangs is a row of the table, not the end of it.
const RUN_LIMIT_SECONDS: &str = "300";

/// `program` under timeout(1), which ends everything that it started.
pub(crate) fn bounded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", RUN_LIMIT_SECONDS]).arg(program);
    command
}

fn seconds(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64()
}

/// Measures both rows of a workload. A tool that fails ends the workload, not the benchmark.
pub(crate) fn workload(
    tools: &Tools,
    workload: &Workload,
    data: &Prepared,
    fixtures: &Fixtures,
    runs: u32,
) -> Result<Outcome> {
    let rows = measure(tools, workload, data, fixtures, runs).map_err(|error| error.to_string());
    if workload.cold {
        fixtures.warm(data)?;
    }
    if let Err(error) = &rows {
        eprintln!("versus-rsync: {}: {error}", workload.id);
    }
    Ok(Outcome { workload: workload.clone(), rows })
}

fn measure(
    tools: &Tools,
    workload: &Workload,
    data: &Prepared,
    fixtures: &Fixtures,
    runs: u32,
) -> Result<Vec<Row>> {
    let runs = runs.min(workload.most_runs);
    let mut samples = Vec::new();
    for run in 0..runs {
        for &flush in workload.flushes {
            // Who goes first changes, so that neither always finds what the other left.
            let order =
                if run % 2 == 0 { [Tool::Rsync, Tool::Clonetool] } else { [Tool::Clonetool, Tool::Rsync] };
            for tool in order {
                let sample = tools.time(tool, workload, flush, &[], data, fixtures)?;
                eprintln!(
                    "versus-rsync: {:12} run {} of {runs}, flush {flush:?}: {tool:9?} {:8.3} s {:>12}",
                    workload.id,
                    run + 1,
                    sample.seconds,
                    sample.bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
                );
                if run == 0 && tool == Tool::Clonetool {
                    tools.check(data, fixtures, workload, true)?;
                }
                samples.push((flush, tool, sample));
            }
        }
    }
    let median_of = |flush, tool| {
        let of: Vec<Sample> = samples.iter().filter(|s| s.0 == flush && s.1 == tool).map(|s| s.2).collect();
        median(&of)
    };
    let mut rows: Vec<Row> = workload
        .flushes
        .iter()
        .map(|&flush| Row {
            flush,
            rsync: median_of(flush, Tool::Rsync),
            clonetool: median_of(flush, Tool::Clonetool),
        })
        .collect();
    if !workload.rsync_for_bytes.is_empty() {
        let extra = workload.rsync_for_bytes;
        let reference = tools.time(Tool::Rsync, workload, Flush::No, extra, data, fixtures)?;
        rows.iter_mut().for_each(|row| row.rsync.bytes = reference.bytes);
    }
    Ok(rows)
}

fn median(samples: &[Sample]) -> Sample {
    let mut seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let mut bytes: Vec<Option<u64>> = samples.iter().map(|sample| sample.bytes).collect();
    bytes.sort_unstable();
    Sample { seconds: seconds[seconds.len() / 2], bytes: bytes[bytes.len() / 2] }
}
