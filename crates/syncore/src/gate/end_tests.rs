//! Gates that judge the two ends, with ends that tell what they are told to.

use std::net::TcpListener;

use super::testing::{Bench, gate, host};
use super::{Demand, Filesystem, Host, Packages, RoleFile, Unseen, Verdict};
use crate::plan::{Change, Item, Plan};
use crate::tree::{Attributes, Entry, Kind, RelPath};

const ROLE: &str = "kind = \"role\"\nname = \"roles\"\n";
const PACKAGES: &str = "kind = \"package-transaction\"\nname = \"packages\"\n";

fn with_role(role: &str) -> Host {
    Host { role: RoleFile::Says(role.into()), ..host(role) }
}

/// What never answers: it waits for a sender that is kept.
fn never() -> Bench {
    let (keep, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new((keep, wait));
    Bench::new().ends(host("a"), host("b")).unseen(move || {
        let _ = wait.lock().unwrap().1.recv();
        Unseen::Late
    })
}

#[test]
fn only_a_production_sends_and_only_its_standby_receives() {
    let ask = |from: &str, to: &str| Bench::new().ends(with_role(from), with_role(to)).ask(ROLE);
    let pass = ask("production", "standby");
    assert_eq!(
        (pass.verdict, &pass.evidence[..]),
        (Verdict::Pass, "the source is production, the destination is standby")
    );
    assert!(ask("standby_as_production", "production_as_standby").passed());
    for (from, to) in [
        ("standby", "production"),
        ("production", "production"),
        ("production_alone", "standby"),
        ("production", "production_as_standby"),
        ("down", "standby"),
        ("", ""),
        ("PRODUCTION", "standby"),
    ] {
        assert_eq!(ask(from, to).verdict, Verdict::Refuse, "{from} to {to}");
    }
    let silent = Bench::new().ends(with_role("production"), host("b")).ask(ROLE);
    assert_eq!(silent.verdict, Verdict::Refuse);
    assert_eq!(
        silent.evidence,
        "the destination says nothing of its role: it has no /var/lib/clonetool/role"
    );
}

#[test]
fn a_role_that_cannot_be_read_or_an_end_that_does_not_answer_is_no_yes() {
    let unreadable = Host { role: RoleFile::Unreadable("Is a directory".into()), ..host("b") };
    let answer = Bench::new().ends(with_role("production"), unreadable).ask(ROLE);
    assert_eq!(answer.verdict, Verdict::Error);
    let failed = Bench::new().ends(with_role("production"), host("b"));
    let answer = failed.unseen(|| Unseen::Failed("no route".into())).ask(ROLE);
    assert_eq!(answer.verdict, Verdict::Error);
    assert!(answer.evidence.contains("the source says nothing") || answer.evidence.contains("no route"));
    assert_eq!(Bench::new().ask(ROLE).verdict, Verdict::Error);
    assert_eq!(never().ask(&format!("{ROLE}timeout = \"1s\"")).verdict, Verdict::TimedOut);
    let late = Bench::new().ends(host("a"), host("b")).unseen(|| Unseen::Late).ask(ROLE);
    assert_eq!(late.verdict, Verdict::TimedOut);
}

#[test]
fn a_package_manager_at_work_on_either_end_refuses() {
    let with = |packages: Packages| Host { packages, ..host("a") };
    let idle = || with(Packages { managers: vec!["dpkg".into()], ..Packages::default() });
    let busy = || with(Packages { busy: vec!["rpm is at work: /x is held".into()], ..Packages::default() });
    let unknown = || with(Packages { unknown: vec!["/x cannot be read".into()], ..Packages::default() });
    let ask = |from: Host, to: Host| Bench::new().ends(from, to).ask(PACKAGES);
    let pass = ask(idle(), host("b"));
    assert_eq!(pass.evidence, "dpkg idle on the source; no package manager on the destination");
    assert!(pass.passed());
    let refused = ask(idle(), busy());
    assert_eq!(refused.verdict, Verdict::Refuse);
    assert_eq!(refused.evidence, "on the destination, rpm is at work: /x is held");
    assert_eq!(ask(busy(), idle()).evidence, "on the source, rpm is at work: /x is held");
    assert_eq!(ask(unknown(), idle()).verdict, Verdict::Error);
    assert_eq!(never().ask(&format!("{PACKAGES}timeout = \"1s\"")).verdict, Verdict::TimedOut);
}

fn plan(items: &[(&str, Change, Kind, u64)]) -> Plan {
    let mut plan = Plan::default();
    for (path, change, kind, size_bytes) in items {
        let entry = Entry { size_bytes: *size_bytes, ..Entry::new(*kind) };
        let path = RelPath::new(*path).unwrap();
        plan.push(&Item { path, change: *change, entry, link_to: None, moved_from: None }).unwrap();
    }
    plan
}

fn room(path: &str, free_bytes: u64, free_inodes: Option<u64>) -> Filesystem {
    Filesystem { path: RelPath::new(path).unwrap(), free_bytes, free_inodes }
}

fn standby(filesystems: Vec<Filesystem>, demand: Option<Demand>) -> Bench {
    let mut bench = Bench::new().ends(host("a"), Host { filesystems, ..host("b") });
    bench.surroundings.demand = demand;
    bench
}

const SPACE: &str = "kind = \"space\"\nname = \"room\"\nreserve = 0\n";
const INODES: &str = "kind = \"inodes\"\nname = \"room\"\nreserve = 10\n";

#[test]
fn a_plan_is_held_against_each_filesystem_that_it_writes_to() {
    let plan = plan(&[
        ("big", Change::Create, Kind::File, 1 << 20),
        ("etc", Change::Create, Kind::Directory, 0),
        ("etc/x", Change::Update(Attributes::CONTENT), Kind::File, 5000),
        ("etc/y", Change::Update(Attributes::MODE), Kind::File, 1 << 30),
        ("var/log/a", Change::Create, Kind::File, 10_000),
        ("gone", Change::Delete(Kind::File), Kind::File, 0),
    ]);
    let demand = || Some(Demand::of(&plan, &|_| None));
    // A directory of 4 KiB, and files in whole blocks.
    let needed = (1 << 20) + 4096 + 8192;
    let mounts =
        |free: u64| vec![room("", free, None), room("var", 12_288, Some(11)), room("va", 0, Some(0))];
    let pass = standby(mounts(needed), demand()).ask(SPACE);
    assert_eq!(
        pass.evidence,
        format!(
            "/ on the destination has {needed} bytes free, the plan needs {needed}; \
             /var on the destination has 12288 bytes free, the plan needs 12288"
        )
    );
    assert!(pass.passed());
    let refused = standby(mounts(needed - 1), demand()).ask(SPACE);
    assert_eq!(refused.verdict, Verdict::Refuse);
    assert!(refused.evidence.starts_with("/ on the destination has "), "{}", refused.evidence);
    // One inode below /var, and ten that are to stay.
    assert!(standby(mounts(0), demand()).ask(INODES).passed());
    let few = standby(vec![room("", 0, None), room("var", 0, Some(10))], demand()).ask(INODES);
    assert_eq!(few.verdict, Verdict::Refuse);
    assert!(
        few.evidence.contains("10 inodes free, the plan needs 1, and 10 are to stay free"),
        "{}",
        few.evidence
    );
}

#[test]
fn holes_take_no_room_and_before_a_plan_the_reserve_counts() {
    let plan = plan(&[("lastlog", Change::Create, Kind::File, 1 << 40)]);
    let demand = Demand::of(&plan, &|path| (path.as_bytes() == b"lastlog").then_some(8192));
    assert!(standby(vec![room("", 8192, None)], Some(demand)).ask(SPACE).passed());
    let reserve = "kind = \"space\"\nname = \"room\"\nreserve = \"1MiB\"\n";
    assert!(standby(vec![room("", 1 << 20, None)], None).ask(reserve).passed());
    assert_eq!(standby(vec![room("", (1 << 20) - 1, None)], None).ask(reserve).verdict, Verdict::Refuse);
    assert_eq!(
        standby(vec![room("", 0, None)], None).ask(INODES).evidence,
        "no filesystem has a limit of inodes"
    );
}

#[test]
fn room_that_is_not_known_is_none() {
    assert_eq!(standby(Vec::new(), None).ask(SPACE).verdict, Verdict::Error);
    assert_eq!(standby(vec![room("var", 1, None)], None).ask(INODES).verdict, Verdict::Error);
    assert_eq!(never().ask(&format!("{SPACE}timeout = \"1s\"")).verdict, Verdict::TimedOut);
    assert_eq!(never().ask(&format!("{INODES}timeout = \"1s\"")).verdict, Verdict::TimedOut);
}

/// The agent alone: what answers is told by the test.
const AGENT: &str = "kind = \"peer\"\nname = \"peer\"\nping = false\ntcp = false\n";

#[test]
fn a_peer_like_this_host_passes_and_says_what_it_is() {
    let answer = Bench::new().ends(host("a"), host("b")).ask(AGENT);
    assert_eq!(
        answer.evidence,
        "clonetool 0.1.0 answers on b, its clock is 0.000 seconds off, x86_64, debian 12"
    );
    assert!(answer.passed());
    // A minor release is what a sync brings.
    let minor = |version: &str| Host { system: Some(format!("rhel {version}")), ..host("a") };
    assert!(Bench::new().ends(minor("8.9"), minor("8.10")).ask(AGENT).passed());
}

#[test]
fn a_peer_with_another_clock_system_or_machine_refuses() {
    for (there, evidence) in [
        (
            Host { clock_nanoseconds: 3_600_000_000, ..host("b") },
            "the clock of b is 2.500 seconds off, at most 2 are allowed",
        ),
        (
            Host { clock_nanoseconds: -1_200_000_000, ..host("b") },
            "the clock of b is 2.100 seconds off, at most 2 are allowed",
        ),
        (Host { machine: "sparc\x1b".into(), ..host("b") }, "b is a sparc\\x1b, this host a x86_64"),
        (
            Host { system: Some("debian 13".into()), ..host("b") },
            "the source is debian 12, the destination debian 13",
        ),
    ] {
        let answer = Bench::new().ends(host("a"), there).ask(AGENT);
        assert_eq!((answer.verdict, &answer.evidence[..]), (Verdict::Refuse, evidence));
    }
    let here = Bench::new().ends(host("a"), host("b"));
    let mut local = here;
    local.surroundings.destination.as_mut().unwrap().address = None;
    assert_eq!(local.ask(AGENT).verdict, Verdict::Refuse);
}

#[test]
fn a_peer_that_cannot_be_asked_cannot_tell_and_one_that_hangs_times_out() {
    let failed =
        Bench::new().ends(host("a"), host("b")).unseen(|| Unseen::Failed("host key".into())).ask(AGENT);
    assert_eq!(
        (failed.verdict, &failed.evidence[..]),
        (Verdict::Error, "the destination cannot be looked at: host key")
    );
    let unnamed = Bench::new().ends(host("a"), Host { system: None, ..host("b") }).ask(AGENT);
    assert_eq!(unnamed.verdict, Verdict::Error);
    assert_eq!(never().ask(&format!("{AGENT}timeout = \"1s\"")).verdict, Verdict::TimedOut);
}

#[test]
fn the_name_the_ping_and_the_port_are_asked_before_the_agent() {
    let bench = |ping: &str| {
        let mut bench = Bench::new().ends(host("a"), host("b"));
        bench.program("ping", ping);
        bench
    };
    let keys = |rest: &str| format!("kind = \"peer\"\nname = \"peer\"\nagent = false\n{rest}");
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = "[ \"$1$2$3$4 $6\" = '-n-c1-w 127.0.0.1' ] || exit 2";
    let answer = bench(asked).ask(&keys(&format!("port = {port}\n")));
    assert_eq!(
        answer.evidence,
        format!("127.0.0.1 is 127.0.0.1, answers a ping, port {port} takes connections")
    );
    drop(listener);
    let closed = bench("exit 0").ask(&keys(&format!("port = {port}\n")));
    assert_eq!(closed.verdict, Verdict::Refuse);
    assert!(closed.evidence.starts_with(&format!("port {port} of 127.0.0.1 takes no connection: ")));
    assert_eq!(bench("exit 1").ask(&keys("")).verdict, Verdict::Refuse);
    let unreachable = bench("echo connect: Network is unreachable >&2; exit 2").ask(&keys(""));
    assert_eq!(unreachable.verdict, Verdict::Error);
    assert!(unreachable.evidence.ends_with("Network is unreachable"), "{}", unreachable.evidence);
    let unknown = bench("exit 0").ask(&keys("host = \"no-such-host.invalid\"\n"));
    assert_eq!(unknown.verdict, Verdict::Refuse);
    assert!(
        unknown.evidence.starts_with("no-such-host.invalid cannot be resolved: "),
        "{}",
        unknown.evidence
    );
    assert_eq!(bench("exec sleep 1000").ask(&keys("timeout = \"1s\"\n")).verdict, Verdict::TimedOut);
}

#[test]
fn a_gate_that_would_ask_nothing_or_has_a_key_without_effect_is_an_error_of_the_profile() {
    for (rest, reason) in [
        ("ping = false\ntcp = false\nagent = false", "the gate asks nothing"),
        ("agent = false\nmax-clock-skew = \"1s\"", "`max-clock-skew`, `same-release`"),
        ("agent = false\nsame-machine = true", "`max-clock-skew`, `same-release`"),
        ("ping = false\ntcp = false\nport = 22", "`host` and `port` are for"),
    ] {
        let error = gate(&format!("kind = \"peer\"\nname = \"peer\"\n{rest}")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("x.toml:1: {reason}")), "{error}");
    }
}

#[test]
fn what_a_peer_tells_is_cut_to_what_a_person_reads() {
    let long =
        Host { packages: Packages { busy: vec!["x".repeat(1 << 20)], ..Packages::default() }, ..host("a") };
    let answer = Bench::new().ends(host("a"), long).ask(PACKAGES);
    assert_eq!((answer.verdict, answer.evidence.chars().count()), (Verdict::Refuse, 1001));
}
