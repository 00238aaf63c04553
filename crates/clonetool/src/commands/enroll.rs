//! `clonetool enroll`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use syncore::gate;
use syncore::monitor::Silent;
use syncore::profile::Profile;
use syncore::session::{self, Location};
use syncore::tree::escape;

use super::accept_key::{is_key, is_name, is_path};
use crate::arguments::{ConnectionOptions, Place};
use crate::error::{CommandError, Kind, UNCHANGED};
use crate::host_keys::Address;
use crate::pair::Pair;
use crate::run::Outcome;
use crate::ui;

/// Make the pair's own key, let it in on a standby for nothing but syncs, and pin the host key
///
/// Run it on production. It logs in once as you would, with your keys or password. Run again it changes nothing.
#[derive(Debug, Args)]
pub(crate) struct EnrollArguments {
    /// Let the key in to this account of this host
    #[arg(value_name = "[USER@]HOST")]
    host: String,
    /// Connect to PORT; runs need the same, by -p or ssh_config
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Log in with the private key in FILE, this once
    #[arg(short, long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Look for the host key in FILE in place of your own known hosts
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
    /// Trust the host key that has this fingerprint, as `ssh-keygen -l` prints it
    #[arg(long, value_name = "SHA256:…")]
    accept_fingerprint: Option<String>,
    /// Start the remote clonetool from PATH
    #[arg(long, value_name = "PATH", default_value = "clonetool")]
    remote_path: String,
    /// Let the key change nothing outside DIR
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: String,
    /// The file there in which sshd looks, where it is not ~/.ssh/authorized_keys
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<String>,
    /// Undo it on both hosts
    #[arg(long)]
    remove: bool,
}

/// Asks what a run asks first, by the same code: who answers, and in which version. The rest is for the profile's gates.
const HELLO: &str = r#"
[[gate]]
kind = "peer"
name = "enroll"
ping = false
tcp = false
agent = true
same-machine = false
same-release = false
max-clock-skew = "52w"
"#;

/// One enrolment under way.
struct Enrolment<'a> {
    arguments: &'a EnrollArguments,
    user: Option<String>,
    host: String,
    address: Address,
    name: String,
    screen: String,
}

impl EnrollArguments {
    pub(super) fn run(&self) -> Result<Outcome, CommandError> {
        let malformed = |what: &str, text: &str| {
            CommandError::usage(format!("{what} {} cannot stand in authorized_keys", escape(text.as_bytes())))
                .hint("use an absolute path of letters, digits and / . _ - + , @")
        };
        for (what, path) in
            [("--root", Some(&self.root)), ("--authorized-keys", self.authorized_keys.as_ref())]
        {
            if let Some(path) = path.filter(|path| !is_path(path)) {
                return Err(malformed(what, path));
            }
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._+~-".contains(&b);
        if !self.remote_path.bytes().all(plain) || self.remote_path.starts_with('-') {
            return Err(malformed("--remote-path", &self.remote_path));
        }
        let Place::Remote { user, host, .. } = Place::on_host(&self.host, "/".into())? else {
            return Err(CommandError::usage("name another host"));
        };
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = if is_name(&node) { node } else { "production".to_owned() };
        let address = Address::of(&host, self.port, self.known_hosts.as_deref())?;
        let mut enrolment = Enrolment { arguments: self, user, host, address, name, screen: String::new() };
        let result = if self.remove { enrolment.remove() } else { enrolment.enroll() };
        // Also when it failed half way: what was changed until then, was changed.
        ui::print(&enrolment.screen)?;
        result.map(|()| Outcome::Done)
    }
}

impl Enrolment<'_> {
    fn enroll(&mut self) -> Result<(), CommandError> {
        // Nothing is made before it is known whom it is for.
        let shown = self.address.scan()?;
        let pinned = Pair::pinned()?;
        let ours = format!("{} ", self.address.name);
        let pinned_keys: Vec<String> =
            pinned.iter().filter_map(|line| line.strip_prefix(&ours)).map(str::to_owned).collect();
        let accepted = self.arguments.accept_fingerprint.as_deref();
        let (trusted, why) = self.address.trusted(&shown, &pinned_keys, accepted)?;
        let pair = Pair::open(true)?.ok_or_else(|| CommandError::failed("the pair's directory is gone"))?;
        let key = self.key()?;
        if pinned_keys.is_empty() {
            let new = trusted.iter().map(|key| format!("{ours}{}", key.key));
            pair.pin(&pinned.iter().cloned().chain(new).collect::<Vec<_>>())?;
            for key in &trusted {
                self.say("pinned", &format!("{} for {ours}({why})", key.fingerprint));
            }
        } else {
            self.say("unchanged", &format!("host key of {ours}({why})"));
        }
        let answer = self.ask(&key, &Pair::known_hosts())?;
        let file = answer["file"].as_str().unwrap_or_default();
        let place = format!("{}:{}", self.arguments.host, escape(file.as_bytes()));
        let what = if answer["changed"] == true { "added" } else { "unchanged" };
        let command = escape(answer["command"].as_str().unwrap_or_default().as_bytes());
        self.say(what, &format!("the key in {place}, for: {command}"));
        self.test()
    }

    /// The public key; made if there is none.
    fn key(&mut self) -> Result<String, CommandError> {
        if let Some(key) = Pair::public_key()? {
            self.say("unchanged", &format!("key {}", Pair::key().display()));
            return checked(key);
        }
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", &format!("clonetool-pair@{}", self.name), "-f"])
            .arg(Pair::key())
            .stdin(Stdio::null())
            .output()
            .map_err(|e| CommandError::failed(format!("cannot run ssh-keygen: {e}")))?;
        match Pair::public_key()?.filter(|_| made.status.success()) {
            Some(key) => {
                self.say("made", &format!("key {}", Pair::key().display()));
                checked(key)
            }
            None => {
                let said = escape(made.stderr.trim_ascii());
                Err(CommandError::failed(format!("ssh-keygen made no key {}: {said}", Pair::key().display())))
            }
        }
    }

    /// Connects as a run of a profile will, and then tries to do more with the key than that.
    fn test(&mut self) -> Result<(), CommandError> {
        let EnrollArguments { port, remote_path, root, .. } = self.arguments;
        let place = Place::Remote { user: self.user.clone(), host: self.host.clone(), path: root.into() };
        let there = ConnectionOptions::enrolled(place, *port, Some(remote_path.clone()))?;
        let profile = Profile::parse("enroll", HELLO, &|_| None)?;
        let surroundings = Arc::new(session::surroundings(&Location::Local("/".into()), &there));
        for hello in &profile.gates {
            let answer = gate::ask(hello, &surroundings, &Silent);
            if !answer.passed() {
                return Err(peer(format!(
                    "the key is in place and the connection fails: {}",
                    answer.evidence
                ))
                .hint(answer.next)
                .hint("does sshd read that file? its log says why a key was not taken"));
            }
            self.say("tested", &answer.evidence);
        }
        let mut ssh = self.ssh(&[Pair::key()], &Pair::known_hosts());
        ssh.args(["-o", "BatchMode=yes", "--", &self.host, "id"]).stdin(Stdio::null());
        let output = ssh.output().map_err(|e| CommandError::failed(format!("cannot run ssh: {e}")))?;
        if output.stdout.starts_with(b"uid=") {
            return Err(CommandError::failed("the key runs any command there, not the agent alone")
                .hint("does sshd, or another key in your ssh_config, let it in before that line?")
                .hint("undo it with --remove"));
        }
        self.say("tested", "the key runs no other command");
        Ok(())
    }

    fn remove(&mut self) -> Result<(), CommandError> {
        let pair = Pair::open(false)?;
        let key = match &pair {
            Some(_) => Pair::public_key()?,
            None => None,
        };
        let (Some(pair), Some(key)) = (pair, key) else {
            self.say("unchanged", "there is no key of a pair here");
            return Ok(());
        };
        let ours = format!("{} ", self.address.name);
        let (gone, left): (Vec<String>, Vec<String>) =
            Pair::pinned()?.into_iter().partition(|line| line.starts_with(&ours));
        if gone.is_empty() {
            return Err(CommandError::refused(format!("{ours}was not enrolled from here")).hint(UNCHANGED));
        }
        let answer = self.ask(&checked(key)?, &Pair::known_hosts())?;
        let what = if answer["changed"] == true { "removed" } else { "unchanged" };
        let file = escape(answer["file"].as_str().unwrap_or_default().as_bytes());
        self.say(what, &format!("the key in {}:{file}", self.arguments.host));
        pair.pin(&left)?;
        self.say("removed", format!("host key of {ours}").trim_end());
        if left.is_empty() {
            pair.remove_key()?;
            self.say("removed", &format!("key {}", Pair::key().display()));
        } else {
            self.say("kept", &format!("key {}: other hosts are enrolled", Pair::key().display()));
        }
        Ok(())
    }

    /// Logs in as the administrator does and has `accept-key` change the file there.
    fn ask(&self, key: &str, known_hosts: &Path) -> Result<Value, CommandError> {
        let EnrollArguments { remote_path, root, remove, authorized_keys: file, identity, .. } =
            self.arguments;
        let request = json!({ "key": key, "name": self.name, "root": root, "remove": remove, "file": file })
            .to_string();
        let mut ssh = self.ssh(identity, known_hosts);
        ssh.args(["--", &self.host, remote_path, "accept-key"]);
        let output = talk(ssh, request.as_bytes())?;
        let line = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
        let answer =
            serde_json::from_str::<Value>(&line).ok().filter(|answer| answer["type"] == "accept-key");
        let Some(answer) = answer else {
            // What ssh or a shell had to say went to standard error, which is the terminal's.
            return Err(match output.status.code() {
                Some(255) => peer(format!("cannot log in to {} as administrator", self.arguments.host))
                    .hint("try `ssh` to it; -i FILE names another key"),
                _ => peer(format!("no clonetool of this version answered on {}", self.arguments.host))
                    .hint("install it there, or say where it is with --remote-path"),
            });
        };
        match answer["refused"].as_str() {
            Some(reason) => Err(CommandError::refused(format!(
                "on {}: {}",
                self.arguments.host,
                escape(reason.as_bytes())
            ))
            .hint("nothing was changed there")),
            None => Ok(answer),
        }
    }

    /// ssh to the account, held to the pinned host keys.
    fn ssh(&self, identities: &[PathBuf], known_hosts: &Path) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-T",
            "-o",
            "ControlPath=none",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "ConnectTimeout=30",
        ]);
        let option = |name: &str, path: &Path| {
            let mut option = OsString::from(name);
            option.push(path);
            option
        };
        ssh.arg("-o")
            .arg(option("UserKnownHostsFile=", known_hosts))
            .args(["-o", "GlobalKnownHostsFile=none"]);
        if !identities.is_empty() {
            ssh.args(["-o", "IdentitiesOnly=yes"]);
        }
        for identity in identities {
            ssh.arg("-i").arg(identity);
        }
        if let Some(port) = self.arguments.port {
            ssh.arg("-p").arg(port.to_string());
        }
        if let Some(user) = &self.user {
            ssh.args(["-l", user]);
        }
        ssh
    }

    fn say(&mut self, what: &str, of: &str) {
        let _ = writeln!(self.screen, "{what:<10} {of}");
    }
}

fn talk(mut ssh: Command, request: &[u8]) -> Result<Output, CommandError> {
    let failed = |e: std::io::Error| CommandError::failed(format!("cannot run ssh: {e}"));
    let mut child = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // Who does not read it does not answer, which is told below.
        let _ = pipe.write_all(request);
    }
    child.wait_with_output().map_err(failed)
}

fn checked(key: String) -> Result<String, CommandError> {
    match is_key(&key) {
        true => Ok(key),
        false => Err(CommandError::refused(format!("{}.pub is no ed25519 key", Pair::key().display()))
            .hint("move it away, and enroll makes another")
            .hint(UNCHANGED)),
    }
}

fn peer(message: String) -> CommandError {
    CommandError { kind: Kind::Peer, message, hints: Vec::new() }
}
