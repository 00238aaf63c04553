//! Volume managers that do not run here, by what they are documented to print: `vxdg list` and `vxdisk list` (VxVM
//! Administrator's Guide; vxdg(1M), vxdisk(1M), https://sort.veritas.com/public/documents/), `zpool list -H`
//! (zpool-list(8), https://openzfs.github.io/openzfs-docs/man/), `metaset -s` (metaset(1M),
//! https://docs.oracle.com/cd/E26505_01/html/816-5166/metaset-1m.html), `vgs --reportformat json` (lvmreport(7)).
//! Only the forms are theirs. LVM is asked for real in the integration tests.

use super::Verdict;
use super::device_count::{count_metaset, count_vxdisk};
use super::testing::{Bench, gate};
use super::volume_group::{Group, count_vgs, parse_metaset, parse_vgs, parse_vxdg, parse_zpool};

const VXDG: &str = "NAME         STATE           ID\n\
                    rootdg       enabled              1025941105.10.prod\n\
                    database     enabled,cds          1286892006.172.prod\n\
                    broken       disabled             1286892007.173.prod\n";
const ZPOOL: &str = "rpool\tONLINE\ndata\tDEGRADED\n";

fn metaset(owner: &str) -> String {
    let yes = |host: &str| if host == owner { "Yes" } else { "" };
    format!(
        "\nSet name = database, Set number = 1\n\nHost                Owner\n  prod               {}\n  \
         standby            {}\n\nDrive    Dbase\n\nc1t6d0   Yes\n\nc2t6d0   Yes\n",
        yes("prod"),
        yes("standby"),
    )
}

fn vgs(groups: &[(&str, &str, &str, u64, u64)]) -> String {
    let row = |(name, exported, partial, missing, disks): &(&str, &str, &str, u64, u64)| {
        format!(
            "{{\"vg_name\":\"{name}\", \"vg_attr\":\"wz--n-\", \"vg_exported\":\"{exported}\", \
             \"vg_partial\":\"{partial}\", \"vg_missing_pv_count\":\"{missing}\", \"pv_count\":\"{disks}\"}}"
        )
    };
    let rows: Vec<String> = groups.iter().map(row).collect();
    format!("  {{\n      \"report\": [\n {{ \"vg\": [ {} ] }}\n ]\n  }}\n", rows.join(",\n"))
}

fn not(text: &str) -> Option<Group> {
    Some(Group::Not(text.to_owned()))
}

fn imported(text: &str) -> Option<Group> {
    Some(Group::Imported(text.to_owned()))
}

#[test]
fn a_disk_group_is_imported_when_it_is_listed_as_enabled() {
    assert_eq!(parse_vxdg(VXDG.as_bytes(), "database"), imported("enabled,cds"));
    assert_eq!(parse_vxdg(VXDG.as_bytes(), "broken"), not("disabled"));
    // A deported group is not in the list, and a part of a name is no name.
    assert_eq!(parse_vxdg(VXDG.as_bytes(), "data"), Some(Group::Unknown));
    assert_eq!(parse_vxdg(b"", "database"), Some(Group::Unknown));
    for garbage in [&VXDG.as_bytes()[..VXDG.len() - 3], b"VxVM vxdg ERROR V-5-1-684\n", b"\xff\n"] {
        assert_eq!(parse_vxdg(garbage, "database"), None, "{:?}", String::from_utf8_lossy(garbage));
    }
}

#[test]
fn a_pool_is_imported_when_its_health_is_online() {
    assert_eq!(parse_zpool(ZPOOL.as_bytes(), "rpool"), imported("health ONLINE"));
    assert_eq!(parse_zpool(ZPOOL.as_bytes(), "data"), not("imported with health DEGRADED"));
    assert_eq!(parse_zpool(b"", "data"), Some(Group::Unknown));
    for garbage in [&b"data\tONLI"[..], b"data ONLINE\n", b"data\tWELL\n"] {
        assert_eq!(parse_zpool(garbage, "data"), None);
    }
}

#[test]
fn a_disk_set_is_imported_when_this_host_owns_it() {
    let parse = |said: &str, host: &str| parse_metaset(said.as_bytes(), host);
    assert_eq!(parse(&metaset("prod"), "prod.example.org"), imported("owned by prod"));
    assert_eq!(parse(&metaset("standby"), "prod"), not("owned by standby"));
    assert_eq!(parse(&metaset("nobody"), "prod"), not("owned by no host"));
    assert_eq!(parse(&metaset("nobody"), "other"), not("none of this host's"));
    for garbage in ["", "metaset: prod: setname \"x\": no such set\n", &metaset("prod")[..60]] {
        assert_eq!(parse(garbage, "prod"), None, "{garbage:?}");
    }
    assert_eq!(count_metaset(metaset("prod").as_bytes()), Some(2));
    assert_eq!(count_metaset(b""), None);
}

#[test]
fn a_volume_group_is_imported_when_it_is_neither_exported_nor_lacks_a_volume() {
    let parse = |said: &str| parse_vgs(said.as_bytes(), "vg0");
    let well = vgs(&[("vg0", "", "", 0, 2)]);
    assert_eq!(parse(&well), imported("2 physical volumes, none missing"));
    assert_eq!(parse(&vgs(&[("vg0", "exported", "", 0, 2)])), not("exported"));
    assert_eq!(
        parse(&vgs(&[("vg0", "", "partial", 1, 2)])),
        not("incomplete: 1 of 2 physical volumes are missing")
    );
    assert_eq!(parse(&vgs(&[("vg1", "", "", 0, 2)])), Some(Group::Unknown));
    let twice = vgs(&[("vg0", "", "", 0, 1), ("vg0", "exported", "", 0, 1)]);
    assert_eq!(parse(&twice), not("the name of more than one volume group"));
    for garbage in ["", "  WARNING: nothing\n", &well[..well.len() - 9], "{\"report\": [{\"vg\": [{}]}]}"] {
        assert_eq!(parse(garbage), None, "{garbage:?}");
    }
    assert_eq!(count_vgs(well.as_bytes(), "vg0"), Some(2));
    assert_eq!(count_vgs(twice.as_bytes(), "vg0"), None);
}

#[test]
fn disks_of_a_disk_group_are_counted_by_line() {
    let said = "c1t0d0s2     auto:sliced     disk01       database     online\n\
                -            -         disk02       database     failed was:c1t1d0s2\n";
    assert_eq!(count_vxdisk(said.as_bytes(), "database"), Some(2));
    assert_eq!(count_vxdisk(b"", "database"), Some(0));
    assert_eq!(count_vxdisk(said.as_bytes(), "other"), None);
    assert_eq!(count_vxdisk(b"VxVM vxdisk ERROR\n", "database"), None);
}

const KEYS: &str = "kind = \"volume-group\"\nname = \"database\"\nmanager = \"vxvm\"";

fn vxdg(script: &str) -> Bench {
    let mut bench = Bench::new();
    bench.program("vxdg", script);
    bench
}

#[test]
fn the_four_answers_of_a_volume_group() {
    let listed =
        |group: &str| format!("[ \"$*\" = '-q list' ] && echo '{group} enabled,cds 1286892006.172.prod'");
    let pass = vxdg(&listed("database")).ask(KEYS);
    assert_eq!((pass.verdict, &pass.evidence[..]), (Verdict::Pass, "database is imported here: enabled,cds"));
    let refused = vxdg(&listed("rootdg")).ask(KEYS);
    assert_eq!((refused.verdict, &refused.evidence[..]), (Verdict::Refuse, "database is not imported here"));
    assert!(refused.next.contains("sync only from the host that has it"), "{}", refused.next);
    let error = vxdg("echo what is this").ask(KEYS);
    assert_eq!(error.verdict, Verdict::Error);
    let missing = Bench::new().ask(KEYS);
    assert_eq!(missing.verdict, Verdict::Error);
    assert!(missing.evidence.starts_with("there is no vxdg in /usr/sbin, "), "{}", missing.evidence);
    let late = vxdg("exec sleep 1000").ask(&format!("{KEYS}\ntimeout = \"1s\""));
    assert_eq!(late.verdict, Verdict::TimedOut);
}

#[test]
fn a_tool_that_fails_has_said_nothing_good() {
    let failing = vxdg("echo 'database enabled 1.2.prod'; exit 1").ask(KEYS);
    assert_eq!(failing.verdict, Verdict::Refuse);
    let elsewhere = Bench::new().program_at("tool", "echo 'data\tONLINE'");
    let keys = format!(
        "kind = \"volume-group\"\nname = \"pool\"\nmanager = \"zfs\"\ngroup = \"data\"\nprogram = \"{}\"",
        elsewhere.1.display()
    );
    assert_eq!(elsewhere.0.ask(&keys).evidence, "data is imported here: health ONLINE");
}

#[test]
fn the_four_answers_of_a_device_count() {
    const KEYS: &str = "kind = \"device-count\"\nname = \"database\"\nmanager = \"vxvm\"\nmethod = \"srdf\"";
    let bench = |disks: usize, devices: &str| {
        let mut bench = Bench::new();
        let line = "c1t0d0s2 auto:sliced disk01 database online\\n";
        bench.program("vxdisk", &format!("printf '{}'", line.repeat(disks)));
        bench.program("symdg", devices);
        bench
    };
    let said = "echo '    Number of STD Devices in Group               :    2'";
    let pass = bench(2, said).ask(KEYS);
    assert_eq!(pass.evidence, "database has 2 disks, and 2 devices are replicated");
    assert!(pass.passed());
    let refused = bench(3, said).ask(KEYS);
    assert_eq!(refused.verdict, Verdict::Refuse);
    assert_eq!(refused.evidence, "database has 3 disks, and 2 devices are replicated");
    assert_eq!(bench(0, "echo 'Number of STD Devices in Group : 0'").ask(KEYS).verdict, Verdict::Refuse);
    for broken in ["true", "echo garbage", "echo 'Number of STD Devices in Group : x'", "exit 1"] {
        assert_eq!(bench(2, broken).ask(KEYS).verdict, Verdict::Error, "{broken}");
    }
    assert_eq!(
        bench(2, "exec sleep 1000").ask(&format!("{KEYS}\ntimeout = \"1s\"")).verdict,
        Verdict::TimedOut
    );
    let pool = gate(&KEYS.replace("vxvm", "zfs")).unwrap_err().to_string();
    assert_eq!(pool, "x.toml:4: unknown value `zfs`");
}
