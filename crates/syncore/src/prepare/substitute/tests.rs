//! What holds for every kind of file, whatever is in it.

use proptest::prelude::*;

use super::*;
use crate::profile::{Profile, catalogues};
use crate::rules::RuleSet;
use crate::tree::RelPath;

const KINDS: [Substitution; 7] = [
    Substitution::Fstab,
    Substitution::Hosts,
    Substitution::Cmdline,
    Substitution::Grub,
    Substitution::Crypttab,
    Substitution::Vfstab,
    Substitution::System,
];

/// Lines of every kind of file, right and wrong.
fn line() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "UUID=a / ext4 defaults 0 1",
        "UUID=b /srv/data xfs defaults 0 2",
        "UUID=c none swap sw 0 0",
        "127.0.0.1 localhost",
        "127.0.1.1 db1.example.org db1",
        "10.0.0.1\tdb1 loghost # production",
        "10.0.0.2 db2 loghost",
        "root=UUID=a ro  quiet resume=UUID=c",
        "quiet rd.lvm.lv=vg/root -- single",
        "GRUB_CMDLINE_LINUX=\"rd.luks=0 rhgb  quiet\"",
        "GRUB_CMDLINE_LINUX_DEFAULT='resume=UUID=c splash'",
        "GRUB_CMDLINE_LINUX=\"open",
        "GRUB_DISABLE_OS_PROBER=false",
        "root UUID=a none luks,initramfs",
        "data UUID=b none luks",
        "other UUID=c none noauto",
        "/dev/dsk/c0t0d0s0 /dev/rdsk/c0t0d0s0 / ufs 1 no -",
        "/dev/dsk/c0t0d0s1 - - swap - no -",
        "/dev/md/dsk/d50 /dev/md/rdsk/d50 /export ufs 2 yes -",
        "rootdev:/pseudo/md@0:0,0,blk",
        "* Begin MDD root info (do not edit)",
        "* End MDD root info (do not edit)",
        "set maxusers=40",
        "# a comment",
        "* another",
        "",
        "word",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[ -~]{0,20}"]
}

fn file() -> impl Strategy<Value = String> {
    (prop::collection::vec(line(), 0..8), prop::sample::select(vec!["\n", "\r\n"]), any::<bool>())
        .prop_map(|(lines, end, ended)| lines.join(end) + if ended && !lines.is_empty() { end } else { "" })
}

fn names() -> Names {
    Names::new(&["db2"], &["db1"])
}

/// What a file says, line by line, in any order and without its line ends.
fn sorted(content: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = String::from_utf8_lossy(content).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

proptest! {
    #[test]
    fn what_was_made_is_made_again(production in file(), standby in file()) {
        for kind in KINDS {
            let made = |own: &[u8]| substitute(kind, production.as_bytes(), own, &names());
            if let Ok(once) = made(standby.as_bytes()) {
                prop_assert_eq!(made(&once).map(|twice| sorted(&twice)), Ok(sorted(&once)), "{:?}", kind);
                prop_assert_eq!(made(&once), Ok(once), "{:?}", kind);
            }
        }
    }

    #[test]
    fn no_bytes_make_it_fall_over(production: Vec<u8>, standby: Vec<u8>) {
        for kind in KINDS {
            let _ = substitute(kind, &production, &standby, &names());
        }
    }

    #[test]
    fn what_names_no_device_and_no_host_comes_byte_for_byte(lines in prop::collection::vec("[#*]?x[a-z]{0,4}[ \t]{0,2}(x[a-z]{0,4})?", 0..8)) {
        // A line of its own for each kind, that the standby has otherwise.
        let frame = |kind, device: &str| match kind {
            Substitution::Fstab => format!("UUID={device} / ext4 defaults 0 1\n"),
            Substitution::Vfstab => format!("/dev/dsk/{device} /dev/rdsk/{device} / ufs 1 no -\n"),
            Substitution::Hosts => format!("10.0.0.{} db2\n", device.len()),
            Substitution::Cmdline => format!("root=UUID={device}\n"),
            Substitution::Grub => format!("GRUB_CMDLINE_LINUX=\"resume=UUID={device}\"\n"),
            Substitution::Crypttab => format!("root UUID={device} none luks\n"),
            Substitution::System => format!("rootdev:/{device}\n"),
        };
        for kind in KINDS {
            // Where half a line is an error, or held, all of them are comments.
            let strict = matches!(kind, Substitution::Fstab | Substitution::Vfstab | Substitution::Crypttab);
            let mark = if strict { "#" } else { "" };
            let body: String = lines.iter().map(|line| format!("{mark}{line}\n")).collect();
            let production = body.clone() + &frame(kind, "PP");
            let own = frame(kind, "s");
            let made = substitute(kind, production.as_bytes(), own.as_bytes(), &names()).unwrap();
            let made = String::from_utf8(made).unwrap();
            prop_assert!(made.contains(&own), "{:?}: {}", kind, made);
            prop_assert!(!made.replace("* rootdev:/PP\n", "").contains("PP") , "{:?}: {}", kind, made);
            let left = made.replacen(&own, "", 1).replace("* rootdev:/PP\n", "");
            prop_assert_eq!(left, body, "{:?}", kind);
        }
    }
}

/// Lines in any order, each with its words in any order.
fn said(content: &[u8]) -> Vec<Vec<String>> {
    let mut lines: Vec<Vec<String>> = String::from_utf8_lossy(content)
        .lines()
        .map(|line| {
            let words = line.split(|c: char| c.is_whitespace() || c == '"').filter(|word| !word.is_empty());
            let mut words: Vec<String> = words.map(str::to_owned).collect();
            words.sort();
            words
        })
        .collect();
    lines.sort();
    lines
}

/// Every file below `root`, with its path there.
fn files(root: &std::path::Path) -> Vec<RelPath> {
    let entries = walkdir::WalkDir::new(root).into_iter().filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.filter_map(|file| RelPath::new(file.path().strip_prefix(root).ok()?.to_str()?).ok()).collect()
}

#[test]
fn a_sync_after_a_preparation_leaves_what_that_made() {
    let (mut compared, mut wrong) = (0, Vec::new());
    for case in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/prepare")).unwrap() {
        let case = case.unwrap().path();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let catalogue = if name.starts_with("linux") { "linux" } else { "solaris" };
        let (_, text) = catalogues().iter().find(|(name, _)| *name == catalogue).unwrap();
        let rules = RuleSet::compile(Profile::parse(catalogue, text, &|_| None).unwrap().rules()).unwrap();
        let (before, after) = (case.join("before"), case.join("after"));
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
        let asked = read(&case.join("case.toml"));
        let production = read(&before.join("etc/hostname")) + &read(&before.join("etc/nodename"));
        let own =
            asked.lines().find_map(|line| line.strip_prefix("hostname = ")).unwrap_or(production.trim());
        let mut names = Names::new(&[own.trim_matches('"')], &[production.trim()]);
        for file in std::fs::read_dir(after.join("etc")).into_iter().flatten() {
            let file = file.unwrap();
            let name = file.file_name().to_string_lossy().into_owned();
            if let Some((_, interface)) = name.split_once('.').filter(|_| name.starts_with("hostname")) {
                names = names.with_interface(interface, read(&file.path()).as_bytes());
            }
        }
        for path in if after.is_dir() { files(&after) } else { Vec::new() } {
            let at =
                |root: &std::path::Path| std::fs::read(root.join(path.to_string().trim_start_matches('/')));
            let (Some(kind), Ok(production), Ok(own)) = (rules.substitution(&path), at(&before), at(&after))
            else {
                continue;
            };
            compared += 1;
            match substitute(kind, &production, &own, &names) {
                Ok(made) if said(&made) == said(&own) => {}
                Ok(made) => wrong.push(format!("{name}: {path}:\n{}", String::from_utf8_lossy(&made))),
                Err(why) => wrong.push(format!("{name}: {path}: {why}")),
            }
        }
    }
    // A line that mount(8) ignores is kept by a preparation, which says so; a sync has nobody to say it to.
    wrong.retain(|wrong| !wrong.ends_with("a line has fewer than three fields: UUID=alone"));
    // What --map-device dropped altogether comes back, out of force.
    wrong.retain(|wrong| !wrong.starts_with("solaris-8-map-device: /etc/vfstab:"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 40, "{compared} files are few");
}

#[test]
fn a_file_that_a_power_cut_has_emptied_makes_nothing() {
    for kind in KINDS {
        assert!(substitute(kind, b"a b c\n\0\0\0", b"", &names()).is_err());
        assert!(substitute(kind, b"a b c\n", b"\0", &names()).unwrap_err().contains("the standby's own"));
    }
}

#[test]
fn production_is_known_by_its_name_with_and_without_a_domain() {
    let names = Names::new(&["db2.example.org"], &["db1.example.org"]);
    for name in ["db1", "DB1.example.org", "db1.other"] {
        assert!(names.is_production(name.as_bytes()), "{name}");
    }
    for name in ["db10", "db2", "x.db1", ""] {
        assert!(!names.is_production(name.as_bytes()), "{name}");
    }
    let names = names.with_interface("hme1", b"db2-qfe0 netmask + up\naddif db2-x/64 up db20-y -failover");
    for name in ["db2-qfe0", "DB2-x", "db2-hme1"] {
        assert!(names.is_own(name.as_bytes()), "{name}");
    }
    assert!(!names.is_own(b"db20-y") && !names.is_own(b"up") && !names.is_own(b"db2-z"));
    assert!(names.is_own(b"DB2") && names.is_own(b"db2.example.org") && !names.is_own(b"db2.other"));
}
