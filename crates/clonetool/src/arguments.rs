//! The options that several commands share, and what they mean to the library.
//!
//! Why: the same option must mean the same in every command. What can go wrong: an option that is accepted and
//! has no effect. So each is either handed to the library or refused with a message, and options about another
//! host are refused where there is none.

mod location;
pub(crate) mod quantity;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use syncore::profile::{Limits, Profile, Transport};
use syncore::rules::{Action, Origin, Rule};
use syncore::session::{Location, Options};
use syncore::tree::escape;
use syncore::wire::{Compression, Remote, TransportKind};

pub(crate) use location::Place;

use crate::error::CommandError;
use crate::pair::{self, PairKeys};
use crate::profiles;

/// A profile, and the ends that take the place of those that it names.
#[derive(Debug, Args)]
pub(crate) struct ProfileArguments {
    /// Use this profile: a path, or a name in /etc/clonetool/profiles or among the shipped ones
    pub(crate) profile: OsString,
    /// Take this tree in place of the profile's source
    #[arg(long, value_name = "SOURCE")]
    pub(crate) source: Option<OsString>,
    /// Take this tree in place of the profile's standby
    #[arg(long, value_name = "DESTINATION")]
    pub(crate) destination: Option<OsString>,
}

impl ProfileArguments {
    /// The profile, and where its two ends are.
    pub(crate) fn load(
        &self,
        connection: &ConnectionOptions,
    ) -> Result<(Profile, Location, Location), CommandError> {
        let profile = profiles::load(&self.profile)?;
        let (source, destination) =
            connection.locate_profiled(&profile, self.source.as_deref(), self.destination.as_deref())?;
        Ok((profile, source, destination))
    }
}

/// How to reach another host and what to send there.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionOptions {
    /// Run COMMAND in place of ssh (words are split at spaces; quotes as in rsync's -e)
    #[arg(short = 'e', long, value_name = "COMMAND")]
    rsh: Option<String>,
    /// Start the remote clonetool from PATH
    #[arg(long, value_name = "PATH")]
    remote_path: Option<String>,
    /// Choose how to connect: auto is the system ssh where there is one, else the built-in client
    #[arg(long, value_name = "KIND")]
    transport: Option<TransportChoice>,
    /// Log in with the private key in FILE
    #[arg(short, long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Connect to PORT
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Check host keys against FILE
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
    /// Compress what is sent: auto, off, or a zstd level from 1 to 19
    #[arg(long, value_name = "LEVEL", value_parser = quantity::compression)]
    compress: Option<Compression>,
    /// Send at most RATE a second: 500K, 1.5M, 1G; a bare number is KiB, as in rsync
    #[arg(long, value_name = "RATE", value_parser = quantity::rate)]
    bwlimit: Option<u64>,
    /// Use N connections (more than 1 is not built yet)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    connections: Option<u16>,
    /// Give up when the peer makes no progress for TIME: 90, 90s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    timeout: Option<Duration>,
}

/// A way to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportChoice {
    /// The system ssh where there is one, else the built-in client
    Auto,
    /// The system ssh: honours ssh_config, ProxyJump, certificates and hardware keys
    Ssh,
    /// The built-in client
    Ssh2,
}

impl From<TransportChoice> for TransportKind {
    fn from(choice: TransportChoice) -> Self {
        match choice {
            TransportChoice::Auto => Self::Auto,
            TransportChoice::Ssh => Self::Ssh,
            TransportChoice::Ssh2 => Self::Ssh2,
        }
    }
}

/// What takes part.
#[derive(Debug, Args)]
#[command(next_help_heading = "What takes part")]
pub(crate) struct ScopeOptions {
    /// Leave out what matches RULE (the deepest matching include or exclude decides)
    #[arg(long, value_name = "RULE")]
    exclude: Vec<OsString>,
    /// Take in what matches RULE
    #[arg(long, value_name = "RULE")]
    include: Vec<OsString>,
    /// Never touch what matches RULE, or anything below it, whatever else is said
    #[arg(long, value_name = "RULE")]
    protect: Vec<OsString>,
    /// Use the rules of PROFILE, too
    #[arg(long, value_name = "PROFILE")]
    rules_from: Vec<OsString>,
    /// Stay on the filesystem of each root; mount points are created empty
    #[arg(short = 'x', long)]
    one_file_system: bool,
}

/// How the destination is changed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Changing the destination")]
pub(crate) struct ChangeOptions {
    /// Delete from the destination what is not in the source
    #[arg(long)]
    delete: bool,
    /// Compare content, not only size and modification time
    #[arg(short, long)]
    checksum: bool,
    /// Write changed blocks into the existing file instead of building a new one
    #[arg(long)]
    in_place: bool,
    /// Do not wait until everything is on stable storage
    #[arg(long)]
    no_durable: bool,
}

/// What one run may delete beyond its limit.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Changing the destination")]
pub(crate) struct DeleteOptions {
    /// Let this one run delete up to N entries, whatever its limit says
    #[arg(long, value_name = "N", conflicts_with = "approve")]
    allow_deletes: Option<u64>,
    /// Run exactly the plan with this id, as it was printed and read, whatever it deletes
    #[arg(long, value_name = "PLAN-ID")]
    approve: Option<String>,
}

/// What is printed.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputOptions {
    /// Print a line for each change, in the form of rsync's --itemize-changes
    #[arg(long)]
    pub(crate) itemize: bool,
    /// Print problems and errors only
    #[arg(short, long, conflicts_with_all = ["verbose", "progress"])]
    pub(crate) quiet: bool,
    /// Print phases, every problem and the summary, also where nobody watches
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Show progress, also where the output is no terminal
    #[arg(long)]
    pub(crate) progress: bool,
    /// Print one JSON object a line, the summary last
    #[arg(long, conflicts_with = "itemize")]
    pub(crate) json: bool,
    /// Append what happens to FILE, with the time of each line
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
}

impl DeleteOptions {
    pub(crate) fn apply(&self, options: &mut Options) {
        if let Some(max_entries) = self.allow_deletes {
            options.limits = Some(Limits { max_entries, max_percent: 0 });
        }
        if let Some(plan) = &self.approve {
            // Where nothing limits a run, what was approved is all that it may do.
            options.limits.get_or_insert_default();
            options.approved = Some(plan.clone());
        }
    }
}

impl ConnectionOptions {
    /// Turns the ends that a profile names, or what replaces them, into the two ends of a job.
    pub(crate) fn locate_profiled(
        &self,
        profile: &Profile,
        source: Option<&OsStr>,
        destination: Option<&OsStr>,
    ) -> Result<(Location, Location), CommandError> {
        let standby = &profile.standby;
        let source = match source {
            Some(text) => Place::parse(text)?,
            None => Place::Local(profile.source.root.clone()),
        };
        let destination = match (destination, &standby.address) {
            (Some(text), _) => Place::parse(text)?,
            (None, Some(address)) => Place::on_host(address, standby.root.clone())?,
            (None, None) => Place::Local(standby.root.clone()),
        };
        let kind = match standby.transport {
            Transport::Auto => TransportKind::Auto,
            Transport::Ssh => TransportKind::Ssh,
            Transport::Ssh2 => TransportKind::Ssh2,
        };
        self.locate_ends(source, destination, Some(kind), pair::keys())
    }

    /// Turns two places into the two ends of a job. `kind` is the profile's transport, where there is a profile.
    pub(crate) fn locate(
        &self,
        source: Place,
        destination: Place,
        kind: Option<TransportKind>,
    ) -> Result<(Location, Location), CommandError> {
        self.locate_ends(source, destination, kind, None)
    }

    /// `root` on an enrolled host, reached as the run of a profile reaches it that names no option but these.
    pub(crate) fn enrolled(
        place: Place,
        port: Option<u16>,
        remote_path: Option<String>,
    ) -> Result<Location, CommandError> {
        Self { port, remote_path, ..Self::default() }.location(place, None, pair::keys())
    }

    fn locate_ends(
        &self,
        source: Place,
        destination: Place,
        kind: Option<TransportKind>,
        pair: Option<PairKeys>,
    ) -> Result<(Location, Location), CommandError> {
        if let (Place::Local(from), Place::Local(to)) = (&source, &destination) {
            self.refuse_without_remote()?;
            if from == to {
                let same = escape(from.as_os_str().as_encoded_bytes());
                return Err(CommandError::usage(format!(
                    "source and destination are both {same} on this host"
                ))
                .hint("name the other end; for a profile without a standby, with --destination"));
            }
        }
        Ok((self.location(source, kind, pair.clone())?, self.location(destination, kind, pair)?))
    }

    fn refuse_without_remote(&self) -> Result<(), CommandError> {
        let given = [
            ("--rsh", self.rsh.is_some()),
            ("--remote-path", self.remote_path.is_some()),
            ("--transport", self.transport.is_some()),
            ("--identity", self.identity.is_some()),
            ("--port", self.port.is_some()),
            ("--known-hosts", self.known_hosts.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((option, _)) => Err(CommandError::usage(format!(
                "{option} has nothing to act on: both ends are on this host"
            ))
            .hint("write the other end as [USER@]HOST:PATH, or leave the option out")),
        }
    }

    /// The place of an image's tree, the other end being a file on this host, and how long a peer may be silent; what
    /// an image has no use for is refused.
    pub(crate) fn locate_tree(&self, tree: &OsStr) -> Result<(Location, Duration), CommandError> {
        self.refuse_traffic_options([
            "an image is compressed already: see --level",
            "an image goes over as fast as it can",
            "an image goes over in one connection",
        ])?;
        let tree = Place::parse(tree)?;
        if matches!(tree, Place::Local(_)) {
            self.refuse_without_remote()?;
        }
        Ok((self.location(tree, None, None)?, self.timeout.unwrap_or(Options::default().timeout)))
    }

    /// Refuses what says how content goes over, with the reasons why it has no effect here.
    pub(crate) fn refuse_traffic_options(&self, reasons: [&str; 3]) -> Result<(), CommandError> {
        let given = [
            ("--compress", self.compress.is_some()),
            ("--bwlimit", self.bwlimit.is_some()),
            ("--connections", self.connections.is_some()),
        ];
        match given.iter().zip(reasons).find(|((_, given), _)| *given) {
            None => Ok(()),
            Some(((option, _), reason)) => {
                Err(CommandError::usage(format!("{option}: {reason}")).hint("leave the option out"))
            }
        }
    }

    /// The pair's own key is only taken where nothing was said about keys, known hosts or the program that connects.
    fn location(
        &self,
        place: Place,
        kind: Option<TransportKind>,
        pair: Option<PairKeys>,
    ) -> Result<Location, CommandError> {
        let (user, host, path) = match place {
            Place::Local(path) => return Ok(Location::Local(path)),
            Place::Remote { user, host, path } => (user, host, path),
        };
        let remote_shell = self
            .rsh
            .as_deref()
            .map(quantity::words)
            .transpose()
            .map_err(|reason| CommandError::usage(format!("--rsh: {reason}")))?;
        let transport = self.transport.map(TransportKind::from).or(kind).unwrap_or_default();
        if remote_shell.is_some() && transport == TransportKind::Ssh2 {
            return Err(CommandError::usage("--rsh cannot be combined with the built-in client")
                .hint("leave out --rsh, or choose --transport ssh"));
        }
        let chosen = self.identity.is_some() || self.known_hosts.is_some() || self.rsh.is_some();
        let (identity, known_hosts) = match pair.filter(|_| !chosen) {
            Some(pair) => (Some(pair.identity), Some(pair.known_hosts)),
            None => (self.identity.clone(), self.known_hosts.clone()),
        };
        let remote = Remote {
            host,
            user,
            port: self.port,
            identity,
            known_hosts,
            remote_shell,
            remote_path: self.remote_path.clone(),
            transport,
            connect_timeout: self.timeout.unwrap_or(CONNECT_TIMEOUT),
            // The library reads no environment, so what it needs of the caller's is read here.
            home: std::env::home_dir(),
            agent_socket: std::env::var_os("SSH_AUTH_SOCK")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        };
        Ok(Location::Remote(Box::new(remote), path))
    }

    /// Enters into `options` what belongs to the connection.
    pub(crate) fn apply(&self, options: &mut Options) -> Result<(), CommandError> {
        if self.connections.is_some_and(|count| count > 1) {
            return Err(CommandError::usage("--connections: more than one connection is not built yet")
                .hint("leave the option out"));
        }
        if let Some(compression) = self.compress {
            options.compression = compression;
        }
        if let Some(timeout) = self.timeout {
            options.timeout = timeout;
        }
        // A rate of zero means "no limit", as in rsync.
        options.bandwidth_limit = self.bwlimit.filter(|rate| *rate > 0);
        Ok(())
    }
}

/// How long connecting may take where `--timeout` does not say; ssh itself would wait for the kernel's two minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

impl ScopeOptions {
    /// Whether any of them is given: such a run need not cover what its profile says.
    pub(crate) fn any(&self) -> bool {
        let Self { exclude, include, protect, rules_from, one_file_system } = self;
        *one_file_system || [exclude, include, protect, rules_from].iter().any(|rules| !rules.is_empty())
    }

    /// The rules of the command line and of the profiles it names, after those in `rules`.
    pub(crate) fn rules(&self, mut rules: Vec<Rule>) -> Result<Vec<Rule>, CommandError> {
        if rules.is_empty() && self.rules_from.is_empty() && !self.include.is_empty() {
            // Without a profile a clone is of everything; an include then only reaches into what is excluded.
            rules.push(from_command_line(Action::Include, "/".into()));
        }
        for name in &self.rules_from {
            rules.extend(profiles::load(name)?.rules());
        }
        let given = [
            (Action::Include, &self.include),
            (Action::Exclude, &self.exclude),
            (Action::Protect, &self.protect),
        ];
        for (action, patterns) in given {
            rules.extend(patterns.iter().map(|pattern| from_command_line(action, pattern.clone())));
        }
        Ok(rules)
    }

    /// Enters into `options` what belongs to the scope, after what the profile says of it.
    pub(crate) fn apply(&self, profile: Option<&Profile>, options: &mut Options) {
        if let Some(profile) = profile {
            options.one_file_system = profile.source.one_file_system;
            options.refuse_unlisted_filesystems = profile.source.one_file_system;
            options.also.clone_from(&profile.source.also);
        }
        options.one_file_system |= self.one_file_system;
    }
}

fn from_command_line(action: Action, pattern: OsString) -> Rule {
    let origin = Origin { file: "command line".to_owned(), line: 0 };
    Rule::new(action, pattern.into_vec(), origin)
}

impl ChangeOptions {
    /// Enters these options into `options`; what is already switched on there stays on.
    pub(crate) fn apply(&self, options: &mut Options) {
        options.delete |= self.delete;
        options.checksum |= self.checksum;
        options.in_place |= self.in_place;
        options.durable &= !self.no_durable;
    }
}
