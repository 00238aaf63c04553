//! What holds for every kind of file, whatever is in it.

use proptest::prelude::*;

use super::*;

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
    assert!(names.is_own(b"DB2") && names.is_own(b"db2.example.org") && !names.is_own(b"db2.other"));
}
