//! The one place that turns errors into a message, the next step, and an exit code.
//!
//! Why: scripts depend on the codes and people on the texts. What can go wrong: text from a peer, a file name or
//! ssh reaches the terminal with control characters in it; [`CommandError::lines`] lets none pass.

use std::fmt;
use std::io;

use syncore::frozen::FreezeError;
use syncore::image::ImageError;
use syncore::prepare::PrepareError;
use syncore::profile::{ExportError, ProfileError};
use syncore::rules::{FlatError, RuleError};
use syncore::session::SessionError;
use syncore::wire::{TransportError, WireError};

/// The run as a whole failed.
pub(crate) const FAILED: u8 = 1;
/// Usage or configuration; nothing was tried.
pub(crate) const USAGE: u8 = 2;
/// A human has to decide; nothing was changed.
pub(crate) const REFUSED: u8 = 3;
/// Done, with problems on some paths.
pub(crate) const PROBLEMS: u8 = 4;
/// `verify` found differences.
pub(crate) const DIFFERENCES: u8 = 5;
/// The peer, the way to it, or its host key.
pub(crate) const PEER: u8 = 6;
/// Changed, but something is left to be done.
pub(crate) const INCOMPLETE: u8 = 11;
/// Another run holds the lock (`EX_TEMPFAIL` of sysexits.h).
pub(crate) const BUSY: u8 = 75;

/// The codes, for help and man page.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
   0  done and in sync
   1  failed
   2  usage or configuration
   3  refused by a gate or limit, nothing changed
   4  done with problems on some paths
   5  verify found differences
   6  peer, transport or host key
  11  changed but incomplete: commands are left to be run
  75  busy: another run holds the lock";

/// What every refusal says.
pub(crate) const UNCHANGED: &str = "nothing was changed";

/// What kind of failure ended the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The run as a whole failed.
    Failed,
    /// The command line, a profile or a rule is wrong.
    Usage,
    /// A human has to decide; nothing was changed.
    Refused,
    /// The standby was rolled back, to this state, and nobody has said yet that runs may change it; nothing was changed.
    Suspended { state: u64 },
    /// The peer or the way to it.
    Peer,
    /// Another run holds the source or the standby.
    Busy,
    /// A signal asked to stop.
    Interrupted,
    /// Whoever read the standard output has gone: nobody is there to be told.
    BrokenPipe,
}

impl Kind {
    /// The `outcome` of the JSON summary.
    pub(crate) const fn outcome(self) -> &'static str {
        match self {
            Self::Failed | Self::BrokenPipe => "failed",
            Self::Usage => "usage",
            Self::Refused | Self::Suspended { .. } => "refused",
            Self::Peer => "peer",
            Self::Busy => "busy",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why a command ended, for a person.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// What kind of failure.
    pub(crate) kind: Kind,
    /// What is wrong, in one sentence without a full stop.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hints: Vec<String>,
}

impl CommandError {
    fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), hints: Vec::new() }
    }

    /// The run as a whole failed.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The command line or a configuration file is wrong.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Adds the next step.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// A human has to decide.
    pub(crate) fn refused(message: impl fmt::Display) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// The exit code.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Failed | Kind::Interrupted | Kind::BrokenPipe => FAILED,
            Kind::Usage => USAGE,
            Kind::Refused | Kind::Suspended { .. } => REFUSED,
            Kind::Peer => PEER,
            Kind::Busy => BUSY,
        }
    }

    /// The lines for standard error, safe for a terminal; none when nobody is there to be told.
    pub(crate) fn lines(&self) -> Vec<String> {
        if self.kind == Kind::BrokenPipe {
            return Vec::new();
        }
        // The message may quote ssh, which says what it has to say in several lines.
        let message = self.message.lines().enumerate().map(|(index, line)| {
            let lead = if index == 0 { "clonetool: " } else { "  " };
            format!("{lead}{}", harmless(line))
        });
        message.chain(self.hints.iter().map(|hint| format!("  {}", harmless(hint)))).collect()
    }
}

/// `text` with control characters escaped and backslashes left alone: file names in it are already escaped.
pub(crate) fn harmless(text: &str) -> String {
    let parts: Vec<String> = text.split('\\').map(|part| syncore::tree::escape(part.as_bytes())).collect();
    parts.join("\\")
}

impl From<SessionError> for CommandError {
    fn from(error: SessionError) -> Self {
        let text = error.to_string();
        match error {
            SessionError::BothRemote => {
                Self::usage(text).hint("run clonetool on one of the two hosts and name the other one")
            }
            // What is mounted decides over it as much as the arguments do.
            SessionError::DestinationInsideSource { .. } => Self::new(Kind::Refused, text)
                .hint("exclude the destination, or have it on another filesystem and stay on one with --one-file-system"),
            SessionError::Root { role, .. } => {
                Self::failed(text).hint(format!("check that the {role} is there, mounted, and may be read"))
            }
            SessionError::Refused(_) => Self::new(Kind::Refused, text).hint(UNCHANGED),
            SessionError::Suspended { state } => Self::new(Kind::Suspended { state }, text).hint(UNCHANGED),
            SessionError::Busy(_) => {
                Self::new(Kind::Busy, text).hint("run the same command again when it has ended")
            }
            SessionError::Freeze(freeze) => freeze.into(),
            SessionError::Rules(rules) => rules.into(),
            SessionError::Transport(transport) => transport.into(),
            SessionError::Wire(wire) => wire.into(),
            SessionError::Peer(_) => Self::new(Kind::Peer, text)
                .hint("mend on that host what it names, and run the same command again"),
            SessionError::Cancelled => Self::new(Kind::Interrupted, text),
            SessionError::Fatal { .. } => Self::failed(text).hint(
                "nothing is half-written; mend what it names, and run the same command again to continue",
            ),
            // A new kind of error is a failure until this table says more.
            _ => Self::failed(text),
        }
    }
}

impl From<FreezeError> for CommandError {
    fn from(error: FreezeError) -> Self {
        let text = error.to_string();
        match error {
            FreezeError::Impossible { .. } => Self::new(Kind::Refused, text).hint(UNCHANGED),
            FreezeError::Busy(_) => {
                Self::new(Kind::Busy, text).hint("run the same command again when it has ended")
            }
            FreezeError::Lost { .. } => Self::failed(text)
                .hint("give it more room with source.snapshot-size, or run when less is written")
                .hint("what was read until then is not trusted; run the same command again"),
            FreezeError::NotRemoved { .. } => Self::failed(text).hint(UNCHANGED),
            FreezeError::Cancelled => Self::new(Kind::Interrupted, text),
            // What failed says what to do, as far as that can be known.
            _ => Self::failed(text).hint(UNCHANGED),
        }
    }
}

impl From<PrepareError> for CommandError {
    fn from(error: PrepareError) -> Self {
        let text = error.to_string();
        let refused = |hint: &str| Self::new(Kind::Refused, &text).hint(hint);
        match error {
            PrepareError::Running { .. } => refused("name the directory where the copy is mounted"),
            PrepareError::NoSystem | PrepareError::UnknownSystem { .. } => refused(
                "check that the copy is mounted there; --platform says what it is if it does not say so",
            ),
            PrepareError::NotMounted { .. } => refused("mount it, and run the same command again"),
            PrepareError::Again { .. } => refused("prepare it once more with --again"),
            PrepareError::Storage { .. } => {
                refused("name what the kernel is to find with --root-device SPEC")
            }
            PrepareError::NoHostname => Self::usage(text).hint("give it with --hostname NAME"),
            PrepareError::Option(_) => Self::usage(text),
            PrepareError::Malformed { .. } => {
                refused("mend the file in the copy, and run the same command again")
            }
            PrepareError::Cancelled => Self::new(Kind::Interrupted, text)
                .hint("it is not finished; run the same command again to go on"),
            PrepareError::Edit { .. } => {
                Self::failed(text).hint("it is not finished; run the same command again to go on")
            }
            _ => Self::failed(text),
        }
    }
}

impl From<ImageError> for CommandError {
    fn from(error: ImageError) -> Self {
        let text = error.to_string();
        match error {
            ImageError::Session(session) => session.into(),
            ImageError::Exists { .. } => {
                Self::new(Kind::Refused, text).hint("name another file, or replace it with --force")
            }
            ImageError::WithinSource { .. } => Self::new(Kind::Refused, text)
                .hint("write it to another filesystem and stay on one with --one-file-system, or exclude it"),
            ImageError::NotEmpty { .. } => Self::new(Kind::Refused, text)
                .hint("restore to an empty directory or a new filesystem; nothing was changed"),
            ImageError::NoImage { .. } | ImageError::Damaged { .. } => {
                Self::failed(text).hint("nothing was changed; use another copy of the image")
            }
            ImageError::Incomplete { .. } => Self::failed(text)
                .hint("do not use what is there; empty it and restore again from a good copy"),
            // The file and the reason say what to do.
            _ => Self::failed(text),
        }
    }
}

impl From<RuleError> for CommandError {
    fn from(error: RuleError) -> Self {
        let text = match &error {
            // What was typed has no line.
            RuleError::Pattern { file, line: 0, pattern, reason } => {
                format!("{file}: bad pattern {pattern}: {reason}")
            }
            _ => error.to_string(),
        };
        Self::usage(text)
            .hint("a rule is a path or pattern such as /etc/, /srv/*.log, /home/**/cache/ or *.tmp")
    }
}

impl From<ExportError> for CommandError {
    fn from(error: ExportError) -> Self {
        let hint = match &error {
            ExportError::Gate { .. } => {
                "make a profile for the export that extends this one's rules with gates a shell can ask: a command, say"
            }
            ExportError::Rules(FlatError::Rule { .. }) => "write the rule out in a profile for the export",
            ExportError::Rules(_) | ExportError::Key { .. } | _ => "change it in a profile for the export",
        };
        Self::refused(&error).hint(hint)
    }
}

impl From<ProfileError> for CommandError {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::Rule(rule) => rule.into(),
            error => Self::usage(error),
        }
    }
}

impl From<TransportError> for CommandError {
    fn from(error: TransportError) -> Self {
        let text = error.to_string();
        match error {
            TransportError::BadRemote(_) => Self::usage(text).hint("write the other end as [USER@]HOST:PATH"),
            // The others say themselves what to do next.
            _ => Self::new(Kind::Peer, text),
        }
    }
}

impl From<WireError> for CommandError {
    fn from(error: WireError) -> Self {
        let text = error.to_string();
        let peer = |hint| Self::new(Kind::Peer, &text).hint(hint);
        match error {
            WireError::Transport(transport) => transport.into(),
            WireError::Cancelled => SessionError::Cancelled.into(),
            WireError::Lost(_) | WireError::Timeout { .. } => {
                peer("nothing is half-written; run the same command again to continue")
            }
            WireError::NoAgent { .. } => peer(
                "a login script that prints is in the way, or --remote-path names another program; \
                 `ssh HOST clonetool --version` shows which",
            ),
            WireError::Version { .. } => {
                peer("install the same version on both hosts, or name one that matches with --remote-path")
            }
            // A broken protocol has no next step that a user could take.
            _ => Self::new(Kind::Peer, text),
        }
    }
}

impl From<io::Error> for CommandError {
    /// For failures to write what a command prints; everything else is named by what was being done.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::BrokenPipe, error),
            _ => Self::failed(format!("cannot write to standard output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(error: impl Into<CommandError>) -> (u8, String) {
        let error = error.into();
        (error.exit_code(), error.lines().join("\n"))
    }

    #[test]
    fn every_error_has_its_code_and_its_next_step() {
        let table: [(SessionError, u8, &str); 12] = [
            (
                SessionError::Suspended { state: 42 },
                3,
                "clonetool: refused: the standby was rolled back (it is in state 42), and a run would undo that; \
                 `clonetool schedule resume` on the standby lets runs change it again\n  nothing was changed",
            ),
            (
                SessionError::BothRemote,
                2,
                "clonetool: source and destination are both remote\n  \
                 run clonetool on one of the two hosts and name the other one",
            ),
            (
                SessionError::DestinationInsideSource {
                    source_root: "/".into(),
                    destination_root: "/a".into(),
                },
                3,
                "clonetool: the walk of / would reach the destination /a\n  \
                 exclude the destination, or have it on another filesystem and stay on one with --one-file-system",
            ),
            (
                SessionError::Root { role: "source", path: "/x".into(), reason: "No such file".into() },
                1,
                "clonetool: cannot open source /x: No such file\n  \
                 check that the source is there, mounted, and may be read",
            ),
            (
                SessionError::Refused("the source root is empty".into()),
                3,
                "clonetool: refused: the source root is empty\n  nothing was changed",
            ),
            (
                SessionError::Busy("/standby".into()),
                75,
                "clonetool: another run holds /standby\n  run the same command again when it has ended",
            ),
            (
                SessionError::Peer("read-only".into()),
                6,
                "clonetool: the peer gave up: read-only\n  \
                 mend on that host what it names, and run the same command again",
            ),
            (
                SessionError::Wire(WireError::Lost("end of file".into())),
                6,
                "clonetool: the connection to the peer was lost: end of file\n  \
                 nothing is half-written; run the same command again to continue",
            ),
            (
                SessionError::Wire(WireError::Version { ours: "0.1.0".into(), theirs: "0.2.0".into() }),
                6,
                "clonetool: versions do not match: here 0.1.0, there 0.2.0\n  \
                 install the same version on both hosts, or name one that matches with --remote-path",
            ),
            (
                SessionError::Wire(WireError::Cancelled),
                1,
                "clonetool: interrupted; nothing is half-written, run the same command again to continue",
            ),
            (
                SessionError::Fatal { operation: "flush", reason: "I/O error".into() },
                1,
                "clonetool: cannot flush: I/O error\n  \
                 nothing is half-written; mend what it names, and run the same command again to continue",
            ),
            (
                SessionError::Cancelled,
                1,
                "clonetool: interrupted; nothing is half-written, run the same command again to continue",
            ),
        ];
        for (error, code, text) in table {
            assert_eq!(shown(error), (code, text.to_owned()));
        }
    }

    #[test]
    fn every_error_of_an_image_has_its_code_and_its_next_step() {
        let table: [(ImageError, u8, &str); 7] = [
            (ImageError::Exists { path: "/a.img".into() }, 3, "with --force"),
            (ImageError::WithinSource { path: "/a.img".into(), root: "/".into() }, 3, "exclude it"),
            (ImageError::NotEmpty { path: "/a".into(), name: "/etc".into() }, 3, "it holds /etc"),
            (ImageError::NoImage { reason: "x".into() }, 1, "nothing was changed"),
            (ImageError::Damaged { reason: "x".into() }, 1, "nothing was changed"),
            (ImageError::Incomplete { reason: "x".into() }, 1, "do not use what is there"),
            (SessionError::Busy("/a".into()).into(), 75, "when it has ended"),
        ];
        for (error, code, hint) in table {
            let (found, text) = shown(error);
            assert_eq!(found, code, "{text}");
            assert!(text.contains(hint), "{text}");
        }
    }

    #[test]
    fn rules_and_remotes_are_usage() {
        let rule = RuleError::Pattern {
            file: "a.toml".into(),
            line: 3,
            pattern: "[".into(),
            reason: "unclosed".into(),
        };
        let (code, text) = shown(rule);
        assert_eq!(code, 2);
        assert!(text.starts_with("clonetool: a.toml:3: bad pattern [: unclosed"), "{text}");
        let typed = RuleError::Pattern {
            file: "command line".into(),
            line: 0,
            pattern: "[".into(),
            reason: "unclosed".into(),
        };
        assert!(shown(typed).1.starts_with("clonetool: command line: bad pattern [: unclosed\n"));
        assert_eq!(shown(TransportError::BadRemote("-x".into())).0, 2);
    }

    #[test]
    fn a_broken_pipe_is_quiet() {
        let (code, text) = shown(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((code, text.as_str()), (1, ""));
        let (code, text) = shown(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(code, 1);
        assert!(text.starts_with("clonetool: cannot write to standard output: "), "{text}");
    }

    #[test]
    fn nothing_from_a_peer_steers_the_terminal() {
        let (_, text) = shown(SessionError::Peer("a\x1b]0;x\x07\n/b\\x0a".into()));
        let told = text.strip_suffix("\n  mend on that host what it names, and run the same command again");
        assert_eq!(told, Some("clonetool: the peer gave up: a\\x1b]0;x\\x07\n  /b\\x0a"));
    }
}
