//! Replication by what tools are documented to print: `drbdsetup status --json` (drbdsetup(8), DRBD 9,
//! https://docs.linbit.com/docs/users-guide-9.0/), /proc/mdstat (md(4), https://raid.wiki.kernel.org/index.php/Mdstat),
//! `zfs list -H -p` (zfs-list(8), https://openzfs.github.io/openzfs-docs/man/), symrdf and symdg (EMC Solutions Enabler
//! SRDF Family CLI). Only the forms are theirs. PostgreSQL is asked for real in the integration tests.

use super::Verdict;
use super::postgresql::{Server, parse as parse_postgresql};
use super::replication::{State, parse_drbd, parse_mdstat, parse_symdg, parse_zfs};
use super::testing::Bench;

fn drbd(disk: &str, connection: &str, replication: &str, peer_disk: &str) -> String {
    format!(
        "[\n{{\n  \"name\": \"r0\",\n  \"node-id\": 1,\n  \"role\": \"Primary\",\n  \"suspended\": false,\n  \
         \"devices\": [ {{ \"volume\": 0, \"minor\": 1, \"disk-state\": \"{disk}\", \"client\": false }} ],\n  \
         \"connections\": [ {{ \"peer-node-id\": 0, \"name\": \"standby\", \"connection-state\": \"{connection}\", \
         \"peer-role\": \"Secondary\", \"peer_devices\": [ {{ \"volume\": 0, \"replication-state\": \"{replication}\", \
         \"peer-disk-state\": \"{peer_disk}\", \"out-of-sync\": 0, \"percent-in-sync\": 100.00 }} ] }} ]\n}}\n]\n"
    )
}

fn behind(text: &str) -> Option<State> {
    Some(State::Behind(text.to_owned()))
}

fn in_sync(devices: u64, evidence: &str) -> Option<State> {
    Some(State::InSync { devices, evidence: evidence.to_owned() })
}

#[test]
fn drbd_is_in_sync_when_every_disk_is_up_to_date_on_both_sides() {
    let parse = |said: &str| parse_drbd(said.as_bytes(), "r0");
    let well = drbd("UpToDate", "Connected", "Established", "UpToDate");
    assert_eq!(parse(&well), in_sync(1, "r0 is Primary: 1 disks up to date here and at 1 peers"));
    for (said, why) in [
        (drbd("Inconsistent", "Connected", "SyncTarget", "UpToDate"), "r0: the disk here is Inconsistent"),
        (drbd("UpToDate", "Connecting", "Off", "DUnknown"), "r0: the connection to standby is Connecting"),
        (
            drbd("UpToDate", "Connected", "SyncSource", "Inconsistent"),
            "r0: replication to standby is SyncSource, its disk is Inconsistent",
        ),
        (
            "[{\"name\":\"r0\",\"role\":\"Primary\",\"devices\":[{\"disk-state\":\"UpToDate\"}]}]".to_owned(),
            "r0: there is no disk or no peer",
        ),
        (well.replace("\"peer_devices\"", "\"other_devices\""), "r0: standby has 0 of 1 disks"),
    ] {
        assert_eq!(parse(&said), behind(why));
    }
    for garbage in ["", "[]", "r0: No such resource\n", &well[..well.len() - 20]] {
        assert_eq!(parse(garbage), None, "{garbage:?}");
    }
    assert_eq!(parse_drbd(well.as_bytes(), "r1"), None);
}

const MDSTAT: &str = "Personalities : [raid1] [raid6] [raid5] [raid4] \n\
    md0 : active raid1 sdb1[1] sda1[0]\n      1048512 blocks super 1.2 [2/2] [UU]\n      bitmap: 0/1 pages [0KB]\n\n\
    md1 : active raid1 nbd0[1](F) sdc1[0]\n      1048512 blocks super 1.2 [2/1] [U_]\n\n\
    md2 : active raid1 nbd1[2] sdd1[0]\n      1048512 blocks super 1.2 [2/1] [U_]\n      \
    [====>................]  recovery = 20.1% (211200/1048512) finish=0.2min speed=52800K/sec\n\n\
    md3 : inactive sde1[0](S)\n      1047552 blocks super 1.2\n\n\
    md4 : active raid0 sdf1[0] sdg1[1]\n      2095104 blocks super 1.2 512k chunks\n\n\
    md5 : active raid1 sdi1[1] sdh1[0]\n      1048512 blocks [2/2] [UU]\n      [=>...]  resync = 8.0% (1/2)\n\n\
    unused devices: <none>\n";

#[test]
fn an_array_is_in_sync_when_all_its_devices_work_and_none_is_rebuilt() {
    let parse = |array: &str| parse_mdstat(MDSTAT.as_bytes(), array);
    assert_eq!(parse("md0"), in_sync(2, "md0: 2 of 2 devices work"));
    assert_eq!(parse("md1"), behind("md1: 1 of 2 devices work"));
    assert_eq!(parse("md2"), behind("md2: 1 of 2 devices work"));
    assert_eq!(parse("md3"), behind("there is no redundant array md3"));
    assert_eq!(parse("md4"), behind("there is no redundant array md4"));
    assert_eq!(parse("md5"), behind("md5: [=>...]  resync = 8.0% (1/2)"));
    assert_eq!(parse("md"), behind("there is no redundant array md"));
    for garbage in ["", "garbage\n", &MDSTAT[..MDSTAT.len() - 30]] {
        assert_eq!(parse_mdstat(garbage.as_bytes(), "md0"), None, "{garbage:?}");
    }
}

#[test]
fn snapshots_are_in_sync_when_the_newest_is_young() {
    let parse = |said: &str| parse_zfs(said.as_bytes(), 1_000_000, 3600);
    let young = "the newest snapshot, tank/data@b, is 100 seconds old, at most 3600 are allowed";
    assert_eq!(parse("999900\ttank/data@b\n900000\ttank/data@a\n"), in_sync(1, young));
    let old = "the newest snapshot, tank/data@a, is 100000 seconds old, at most 3600 are allowed";
    assert_eq!(parse("900000\ttank/data@a\n"), behind(old));
    assert_eq!(parse(""), behind("there is no snapshot"));
    for garbage in ["x\ttank/data@a\n", "900000 tank/data@a\n", "900000\ttank/da"] {
        assert_eq!(parse(garbage), None);
    }
}

#[test]
fn a_device_group_says_how_many_devices_it_has_once() {
    let line = "    Number of STD Devices in Group               :    4\n";
    let said =
        format!("Group Name:  database\n{line}    Number of Associated GK's                    :    0\n");
    assert_eq!(parse_symdg(said.as_bytes()), Some(4));
    for garbage in
        [String::new(), "Group Name:  database\n".into(), line.repeat(2), said[..said.len() - 1].into()]
    {
        assert_eq!(parse_symdg(garbage.as_bytes()), None, "{garbage:?}");
    }
}

#[test]
fn rows_of_postgresql_are_read_or_nothing_is() {
    let Some(Server::Primary(rows)) =
        parse_postgresql(b"f\nstreaming|0|async|stand|by\ncatchup|-1|async|x\n")
    else {
        panic!("no rows");
    };
    assert_eq!((&rows[0].name[..], rows[0].lag_bytes), ("stand|by", Some(0)));
    assert_eq!(rows[1].lag_bytes, None);
    assert_eq!(parse_postgresql(b"f\n"), Some(Server::Primary(Vec::new())));
    assert_eq!(parse_postgresql(b"t\n"), Some(Server::Standby));
    for garbage in [
        &b""[..],
        b"x\n",
        b"f\nstreaming|0|async\n",
        b"f\nstreaming|many|async|x\n",
        b"f\nstreaming|0|async|x",
        b"\xff\n",
    ] {
        assert_eq!(parse_postgresql(garbage), None);
    }
}

fn keys(method: &str) -> String {
    format!("kind = \"replication\"\nname = \"database\"\nmethod = \"{method}\"\n")
}

fn with(program: &str, script: &str) -> Bench {
    let mut bench = Bench::new();
    bench.program(program, script);
    bench
}

#[test]
fn the_four_answers_of_srdf() {
    let asked = "[ \"$*\" = '-g database -synchronized verify' ] || exit 9";
    let pass = with("symrdf", asked).ask(&keys("srdf"));
    assert_eq!(pass.evidence, "symrdf verifies that all of database is synchronized");
    let refused =
        with("symrdf", "echo 'Not all devices are in the Synchronized state'; exit 4").ask(&keys("srdf"));
    assert_eq!(refused.verdict, Verdict::Refuse);
    assert!(refused.evidence.ends_with("exit code 4: Not all devices are in the Synchronized state"));
    assert_eq!(Bench::new().ask(&keys("srdf")).verdict, Verdict::Error);
    let late = with("symrdf", "exec sleep 1000").ask(&(keys("srdf") + "timeout = \"1s\""));
    assert_eq!(late.verdict, Verdict::TimedOut);
}

#[test]
fn the_four_answers_of_drbd() {
    let said = |state: &str| {
        let report = drbd("UpToDate", "Connected", state, "UpToDate");
        with("drbdsetup", &format!("[ \"$*\" = 'status r0 --json' ] || exit 10\ncat <<'EOF'\n{report}\nEOF"))
    };
    let keys = keys("drbd") + "resource = \"r0\"\n";
    assert_eq!(said("Established").ask(&keys).verdict, Verdict::Pass);
    assert_eq!(said("SyncSource").ask(&keys).verdict, Verdict::Refuse);
    let error = with("drbdsetup", "echo 'r0: No such resource' >&2; exit 10").ask(&keys);
    assert_eq!(error.verdict, Verdict::Error);
    assert_eq!(error.evidence, "drbdsetup knows no r0: exit code 10: r0: No such resource");
    let late = with("drbdsetup", "exec sleep 1000").ask(&(keys + "timeout = \"1s\""));
    assert_eq!(late.verdict, Verdict::TimedOut);
}

#[test]
fn the_four_answers_of_md() {
    let bench = |text: &str| {
        let mut bench = Bench::new();
        std::fs::write(bench.path().join("mdstat"), text).unwrap();
        bench.surroundings.proc = bench.path().to_owned();
        bench
    };
    let keys = |array: &str| keys("md") + &format!("array = \"{array}\"\n");
    assert_eq!(bench(MDSTAT).ask(&keys("md0")).verdict, Verdict::Pass);
    assert_eq!(bench(MDSTAT).ask(&keys("md1")).verdict, Verdict::Refuse);
    assert_eq!(bench("").ask(&keys("md0")).verdict, Verdict::Error);
    let waiting = bench("");
    let path = waiting.path().join("mdstat");
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(waiting.ask(&(keys("md0") + "timeout = \"1s\"")).verdict, Verdict::TimedOut);
}

#[test]
fn the_four_answers_of_zfs() {
    let keys = keys("zfs") + "dataset = \"tank/data\"\nmax-age = \"1h\"\n";
    assert_eq!(with("zfs", "printf \"$(date +%s)\\ttank/data@a\\n\"").ask(&keys).verdict, Verdict::Pass);
    assert_eq!(with("zfs", "printf '1000\\ttank/data@a\\n'").ask(&keys).verdict, Verdict::Refuse);
    assert_eq!(with("zfs", "exit 1").ask(&keys).verdict, Verdict::Error);
    let late = with("zfs", "exec sleep 1000").ask(&(keys + "timeout = \"1s\""));
    assert_eq!(late.verdict, Verdict::TimedOut);
}

#[test]
fn the_four_answers_of_a_command() {
    let keys = |script: &str| keys("command") + &format!("command = [\"/bin/sh\", \"-c\", \"{script}\"]\n");
    assert_eq!(Bench::new().ask(&keys("true")).verdict, Verdict::Pass);
    assert_eq!(Bench::new().ask(&keys("exit 1")).verdict, Verdict::Refuse);
    assert_eq!(Bench::new().ask(&keys("true").replace("/bin/sh", "/nonexistent/sh")).verdict, Verdict::Error);
    let late = Bench::new().ask(&(keys("exec sleep 1000") + "timeout = \"1s\""));
    assert_eq!(late.verdict, Verdict::TimedOut);
}
