//! `peer`, and the gates that judge both ends, with a standby in a network namespace of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Pair;
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{CLONETOOL, Output, clonetool, lacks, run};

/// What the namespaces of these tests are called, before the process that made them.
const PREFIX: &str = "ct-gates-";

/// A namespace at the other end of a wire; taken away when dropped.
struct Wire {
    namespace: String,
    here: String,
    address: String,
}

impl Wire {
    fn new() -> Self {
        sweep();
        let pid = std::process::id();
        let namespace = format!("{PREFIX}{pid}");
        // 198.18.0.0/15 is for tests of networks (RFC 2544); four addresses for each process.
        let at = (pid % 16_384) * 4;
        let of = |n: u32| format!("198.18.{}.{}", (at + n) >> 8, (at + n) & 255);
        let wire = Self { here: format!("ctg{pid}"), address: of(2), namespace };
        let (here, there, name) = (&wire.here[..], &format!("ctp{pid}")[..], &wire.namespace[..]);
        ip(&["netns", "add", name]);
        ip(&["link", "add", here, "type", "veth", "peer", "name", there, "netns", name]);
        ip(&["addr", "add", &format!("{}/30", of(1)), "dev", here]);
        ip(&["link", "set", here, "up"]);
        ip(&["-n", name, "addr", "add", &format!("{}/30", of(2)), "dev", there]);
        ip(&["-n", name, "link", "set", there, "up"]);
        wire
    }

    fn cut(&self, up: &str) {
        ip(&["link", "set", &self.here, up]);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.here]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

fn ip(words: &[&str]) {
    run("ip", words);
}

/// Takes away what a run that was killed left.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

fn call(command: &str, pair: &Pair, sshd: &Sshd, extra: &[&str]) -> Output {
    let mut words = vec![command.into(), pair.profile.clone().into_os_string()];
    words.extend(["--destination".into(), sshd.remote(&pair.standby)]);
    words.extend(extra.iter().map(Into::into));
    words.extend(sshd.args());
    clonetool(words)
}

fn first(output: &Output) -> (String, String) {
    let gate: &Value = &output.objects()[0];
    let text = |key: &str| gate[key].as_str().unwrap().to_owned();
    (text("verdict"), text("evidence"))
}

const PEER: &str = "[[gate]]\nkind = \"peer\"\nname = \"standby\"\n";

fn release(root: &Path, version: &str) {
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/os-release"), format!("ID=debian\nVERSION_ID=\"{version}\"\n")).unwrap();
}

#[test]
fn a_peer_is_asked_by_name_wire_port_login_and_agent() {
    let test = "gates::a_peer_is_asked_by_name_wire_port_login_and_agent";
    if lacks(test, &["ip", "ping", "ssh"]) {
        return;
    }
    let wire = Wire::new();
    let gates = format!("{PEER}timeout = \"10s\"\n[[gate]]\nkind = \"role\"\nname = \"roles\"\n");
    let pair = Pair::new("gates-peer", &gates);
    release(&pair.production, "12");
    release(&pair.standby, "12");
    pair.roles("production", "standby");
    let sshd = Sshd::start_inside(&pair.work.join("sshd"), &wire.namespace, &wire.address);
    let address = &wire.address;

    let told = call("gates", &pair, &sshd, &["--json"]).expect_code(0);
    let (pass, evidence) = first(&told);
    assert_eq!(pass, "pass");
    let port = sshd.port();
    let begins = format!("{address} is {address}, answers a ping, port {port} takes connections, clonetool ");
    assert!(evidence.starts_with(&begins), "{evidence}");
    assert!(evidence.ends_with(", debian 12"), "{evidence}");
    assert_eq!(told.objects()[1]["evidence"], "the source is production, the destination is standby");
    call("sync", &pair, &sshd, &[]).expect_code(0);

    release(&pair.production, "13");
    let other = call("sync", &pair, &sshd, &[]).expect_code(3);
    assert!(
        other.stderr.contains("the source is debian 13, the destination debian 12"),
        "{}",
        other.describe()
    );
    release(&pair.production, "12");

    // A host whose key nobody vouched for is not asked anything.
    let mut words = vec!["gates".into(), "--json".into(), pair.profile.clone().into_os_string()];
    words.extend(["--destination".into(), sshd.remote(&pair.standby)]);
    words.extend(sshd.args_with(&sshd.wrong_known_hosts(), CLONETOOL));
    let (error, evidence) = first(&clonetool(words).expect_code(3));
    assert_eq!(error, "error");
    assert!(evidence.contains("host key"), "{evidence}");

    wire.cut("down");
    let (verdict, evidence) = first(&call("gates", &pair, &sshd, &["--json"]).expect_code(3));
    assert_ne!(verdict, "pass", "{evidence}");
    assert!(evidence.contains("ping"), "{evidence}");
    wire.cut("up");

    let server = sshd.args();
    drop(sshd);
    let mut words = vec!["gates".into(), "--json".into(), pair.profile.clone().into_os_string()];
    words.extend(["--destination".into(), format!("root@{address}:{}", pair.standby.display()).into()]);
    words.extend(server);
    let (refused, evidence) = first(&clonetool(words).expect_code(3));
    assert_eq!(refused, "refused");
    assert!(evidence.starts_with(&format!("port {port} of {address} takes no connection: ")), "{evidence}");
}

#[test]
fn a_peer_whose_agent_never_answers_times_out() {
    let pair = Pair::new("gates-peer", &format!("{PEER}ping = false\ntimeout = \"3s\"\n"));
    let options = SshdOptions { forced_command: Some("exec cat >/dev/null".to_owned()) };
    let sshd = Sshd::start(&pair.work.join("sshd"), &options);
    let (late, evidence) = first(&call("gates", &pair, &sshd, &["--json"]).expect_code(3));
    assert_eq!(late, "timed-out", "{evidence}");
    let run = call("sync", &pair, &sshd, &[]).expect_code(3);
    assert!(run.stderr.contains("no answer within 3 seconds"), "{}", run.describe());
    assert!(pair.nothing_changed());
}

#[test]
fn an_agent_that_is_bound_to_a_root_answers_gates_within_it_and_writes_nothing() {
    let pair = Pair::new(
        "gates-bound",
        "[[gate]]\nkind = \"role\"\nname = \"roles\"\n[[gate]]\nkind = \"space\"\nname = \"room\"\n",
    );
    pair.roles("production", "standby");
    let bound = |root: &Path| SshdOptions {
        forced_command: Some(format!("{CLONETOOL} agent --read-only --root {}", root.display())),
    };
    let sshd = Sshd::start(&pair.work.join("sshd"), &bound(&pair.standby));
    call("gates", &pair, &sshd, &[]).expect_code(0);
    assert!(pair.nothing_changed());
    let elsewhere = Sshd::start(&pair.work.join("elsewhere"), &bound(&pair.work.make("other")));
    let (error, evidence) = first(&call("gates", &pair, &elsewhere, &["--json"]).expect_code(3));
    assert_eq!(error, "error");
    assert!(evidence.contains("this agent serves only "), "{evidence}");
}

#[test]
fn a_standby_that_pulls_asks_the_same_of_both_ends() {
    let gates = "[[gate]]\nkind = \"peer\"\nname = \"production\"\nping = false\n\
                 [[gate]]\nkind = \"role\"\nname = \"roles\"\n";
    let pair = Pair::new("gates-pull", gates);
    release(&pair.production, "12.1");
    release(&pair.standby, "12.2");
    let sshd = Sshd::start(&pair.work.join("sshd"), &SshdOptions::default());
    let pull = |command: &str| {
        let mut words = vec![command.into(), pair.profile.clone().into_os_string()];
        words.extend(["--source".into(), sshd.remote(&pair.production)]);
        words.extend(sshd.args());
        clonetool(words)
    };
    pair.roles("standby", "production");
    let refused = pull("sync").expect_code(3);
    let evidence = "the source is standby, the destination is production";
    assert!(refused.stderr.contains(evidence), "{}", refused.describe());
    assert!(pair.nothing_changed());
    pair.roles("production", "standby");
    let told = pull("gates").expect_code(0);
    assert!(told.stdout.contains(", debian 12.1\n"), "{}", told.describe());
    pull("sync").expect_code(0);
    assert!(!pair.nothing_changed());
}
