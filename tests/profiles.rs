//! The shipped profiles: the standby's identity stays its own, the auth files go hourly and nothing else does.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use syncore::prepare::{PRODUCTION, STATE_DIRECTORY};

use crate::common::compare::{Identity, assert_untouched, identity, snapshot_ctimes};
use crate::common::plant::{chmod, set_mtime, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{Output, Workdir, clonetool, dir};

/// What makes a host this host. Only paths whose class nobody disputes: the standby's own (A), or edited for it (B).
const IDENTITY: [&str; 17] = [
    "etc/hostname",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "etc/fstab",
    "etc/crypttab",
    "etc/hosts",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/ssh/ssh_host_rsa_key",
    "etc/network/interfaces",
    "etc/network/interfaces.d/eth0",
    "etc/netplan/01-own.yaml",
    "etc/systemd/network/10-own.network",
    "etc/NetworkManager/system-connections/own.nmconnection",
    "boot/grub/grub.cfg",
    "boot/initrd.img-6.1.0",
    "etc/clonetool/standby.toml",
];
/// The authentication set.
const AUTH: [&str; 6] = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid"];
/// Plain files that are synced.
const PLAIN: [&str; 5] =
    ["usr/bin/tool", "etc/motd", "opt/application/etc/hostname", "home/user/.profile", "var/lib/dpkg/status"];

/// Makes a host's root: the same paths everywhere, `host` in the content of each.
fn host(root: &Path, host: &str, own: bool) {
    for path in IDENTITY.iter().chain(&PLAIN) {
        write(&root.join(path), format!("# {path} of {host}\n"));
    }
    write(&root.join("etc/clonetool/standby.toml"), "protect = []\n");
    for name in ["proc", "sys", "dev", "run", "tmp", "root"] {
        fs::create_dir_all(root.join(name)).expect("mkdir");
    }
    let id = if own { 2_001 } else { 1_001 };
    write(
        &root.join("etc/passwd"),
        format!("root:x:0:0:root:/root:/bin/sh\n{host}:x:{id}:{id}::/home/{host}:/bin/sh\n"),
    );
    write(&root.join("etc/group"), format!("root:x:0:\nshadow:x:42:\n{host}:x:{id}:\n"));
    write(&root.join("etc/shadow"), format!("root:*:19000:0:99999:7:::\n{host}:!:19000:0:99999:7:::\n"));
    write(&root.join("etc/gshadow"), format!("root:*::\nshadow:*::\n{host}:!::\n"));
    write(&root.join("etc/subuid"), format!("{host}:{}:65536\n", 100 * id));
    write(&root.join("etc/subgid"), format!("{host}:{}:65536\n", 100 * id));
    for name in ["shadow", "gshadow"] {
        chown(root.join("etc").join(name), Some(0), Some(42)).expect("chown");
        chmod(&root.join("etc").join(name), 0o640);
    }
    chmod(&root.join("etc/ssh/ssh_host_ed25519_key"), 0o600);
}

/// Production and standby, each with an identity of its own.
fn pair(name: &str) -> (Workdir, std::path::PathBuf, std::path::PathBuf) {
    let work = Workdir::new(name);
    let (production, standby) = (work.join("production"), work.join("standby"));
    host(&production, "production", false);
    host(&standby, "standby", true);
    (work, production, standby)
}

fn profile_run(command: &str, profile: &OsStr, from: &Path, to: &OsStr, extra: &[&OsStr]) -> Output {
    let mut args: Vec<&OsStr> = vec![command.as_ref(), "--json".as_ref()];
    args.extend(extra);
    args.extend([profile, "--source".as_ref(), from.as_os_str(), "--destination".as_ref(), to]);
    clonetool(args)
}

fn sync(profile: &str, from: &Path, to: &Path) -> Output {
    profile_run("sync", profile.as_ref(), from, to.as_os_str(), &[])
}

/// Identity and content of each path that must not be touched.
fn own_files(root: &Path, paths: &[&str]) -> BTreeMap<Vec<u8>, (Identity, Vec<u8>)> {
    let of = |path: &&str| {
        let path = root.join(path);
        (path.as_os_str().as_encoded_bytes().to_vec(), (identity(&path), fs::read(&path).expect("read")))
    };
    paths.iter().map(of).collect()
}

#[track_caller]
fn assert_same_content(production: &Path, standby: &Path, paths: &[&str]) {
    for path in paths {
        let (expected, found) = (fs::read(production.join(path)), fs::read(standby.join(path)));
        assert_eq!(found.expect("read"), expected.expect("read"), "{path} was not synced");
    }
}

#[test]
fn the_daily_sync_leaves_the_standbys_identity_and_the_auth_set_alone() {
    let (_work, production, standby) = pair("profiles-daily");
    write(&production.join("usr/bin/new"), "new");
    write(&standby.join("usr/bin/gone"), "deleted on production");
    let before = own_files(&standby, &[&IDENTITY[..], &AUTH[..]].concat());
    // Nothing of ours is there yet, and a plan makes nothing.
    assert!(!standby.join("var/lib/clonetool").exists());
    profile_run("plan", "linux-daily".as_ref(), &production, standby.as_os_str(), &[]).expect_code(0);
    assert!(!standby.join("var/lib/clonetool").exists());
    let run = sync("linux-daily", &production, &standby).expect_code(0);
    assert_untouched(&before, &own_files(&standby, &[&IDENTITY[..], &AUTH[..]].concat()));
    assert_same_content(&production, &standby, &PLAIN);
    assert_same_content(&production, &standby, &["usr/bin/new"]);
    assert!(!standby.join("usr/bin/gone").exists(), "what production deleted is still there");
    assert!(run.count("protected") > 0, "{}", run.describe());
    let synced = snapshot_ctimes(&standby);
    sync("linux-daily", &production, &standby).expect_code(0).expect_no_changes();
    assert_untouched(&synced, &snapshot_ctimes(&standby));
}

#[test]
fn the_daily_sync_over_ssh_leaves_the_standbys_identity_alone() {
    let (work, production, standby) = pair("profiles-daily-ssh");
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let before = own_files(&standby, &IDENTITY);
    for transport in ["ssh", "ssh2"] {
        write(&production.join("etc/motd"), format!("changed for {transport}\n"));
        let args = server.args();
        let mut extra: Vec<&OsStr> = vec!["--transport".as_ref(), transport.as_ref()];
        extra.extend(args.iter().map(AsRef::<OsStr>::as_ref));
        let to = server.remote(&standby);
        profile_run("sync", "linux-daily".as_ref(), &production, &to, &extra).expect_code(0);
        assert_untouched(&before, &own_files(&standby, &IDENTITY));
        assert_same_content(&production, &standby, &PLAIN);
    }
}

#[test]
fn an_identity_file_that_only_one_side_has_is_neither_deleted_nor_brought() {
    let (_work, production, standby) = pair("profiles-one-side");
    for path in ["etc/machine-id", "etc/ssh/ssh_host_rsa_key", "etc/network/interfaces.d/eth0"] {
        fs::remove_file(production.join(path)).expect("remove");
    }
    for path in ["etc/hostname", "etc/ssh/ssh_host_ed25519_key", "etc/fstab"] {
        fs::remove_file(standby.join(path)).expect("remove");
    }
    dir::remove_tree(&production.join("etc/netplan"));
    sync("linux-daily", &production, &standby).expect_one_of(&[0, 4]);
    assert_same_content(&production, &standby, &PLAIN);
    for path in [
        "etc/machine-id",
        "etc/ssh/ssh_host_rsa_key",
        "etc/network/interfaces.d/eth0",
        "etc/netplan/01-own.yaml",
    ] {
        assert!(standby.join(path).exists(), "{path} of the standby was deleted");
    }
    for path in ["etc/hostname", "etc/ssh/ssh_host_ed25519_key", "etc/fstab"] {
        assert!(!standby.join(path).exists(), "{path} of production was brought");
    }
}

#[test]
fn production_cannot_send_identity_through_a_link_or_another_kind() {
    let (_work, production, standby) = pair("profiles-hostile");
    let before = own_files(&standby, &IDENTITY);
    // Another name of the inode that is in scope; a directory become a symlink; a file become a directory.
    fs::hard_link(production.join("etc/hostname"), production.join("usr/bin/hostname-too")).expect("link");
    fs::hard_link(standby.join("etc/hostname"), standby.join("usr/bin/hostname-too")).expect("link");
    let before_linked = fs::read(standby.join("etc/hostname")).expect("read");
    fs::remove_file(production.join("etc/fstab")).expect("remove");
    write(&production.join("etc/fstab/inside"), "a directory now");
    dir::remove_tree(&production.join("etc/network"));
    std::os::unix::fs::symlink("/tmp", production.join("etc/network")).expect("symlink");
    // Refused as a whole, or done but for these paths.
    if sync("linux-daily", &production, &standby).expect_one_of(&[0, 3, 4]).code != 3 {
        assert_same_content(&production, &standby, &PLAIN);
    }
    assert_eq!(fs::read(standby.join("etc/hostname")).expect("read"), before_linked);
    assert_eq!(dir::inode(&standby.join("etc/hostname")), {
        let key = standby.join("etc/hostname");
        before[key.as_os_str().as_encoded_bytes()].0.inode
    });
    let without_hostname = &IDENTITY[1..];
    let kept: BTreeMap<_, _> =
        before.into_iter().filter(|(path, _)| !path.ends_with(b"/etc/hostname")).collect();
    assert_untouched(&kept, &own_files(&standby, without_hostname));
}

#[test]
fn the_hourly_sync_brings_the_six_auth_files_and_nothing_else() {
    let (_work, production, standby) = pair("profiles-hourly");
    write(&standby.join("extra/of-the-standby"), "stays");
    let before = snapshot_ctimes(&standby);
    sync("linux-hourly-auth", &production, &standby).expect_code(0);
    assert_same_content(&production, &standby, &AUTH);
    let mode = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(standby.join(path)).expect("stat");
        (metadata.mode() & 0o7777, metadata.gid())
    };
    assert_eq!(mode("etc/shadow"), (0o640, 42));
    // The six are replaced, which touches their directory; a lock may be taken in it.
    let exempt = |path: &[u8]| {
        AUTH.iter().any(|auth| auth.as_bytes() == path)
            || path == b"etc"
            || path.is_empty()
            || path.ends_with(b".lock")
            // What the run replaced is kept.
            || path == b"var/lib"
            || path.starts_with(b"var/lib/clonetool")
    };
    let others = |snapshot: BTreeMap<Vec<u8>, Identity>| -> BTreeMap<Vec<u8>, Identity> {
        snapshot.into_iter().filter(|(path, _)| !exempt(path)).collect()
    };
    assert_untouched(&others(before), &others(snapshot_ctimes(&standby)));
    let synced = snapshot_ctimes(&standby);
    sync("linux-hourly-auth", &production, &standby).expect_code(0).expect_no_changes();
    assert_untouched(&others(synced), &others(snapshot_ctimes(&standby)));
}

#[test]
fn an_edit_of_an_auth_file_that_keeps_size_and_time_is_seen() {
    let (_work, production, standby) = pair("profiles-auth-silent");
    let shadow = production.join("etc/shadow");
    set_mtime(&shadow, 1_700_000_000, 0);
    sync("linux-hourly-auth", &production, &standby).expect_code(0);
    let edited = fs::read_to_string(&shadow).expect("read").replace("production:!", "production:*");
    write(&shadow, &edited);
    set_mtime(&shadow, 1_700_000_000, 0);
    sync("linux-hourly-auth", &production, &standby).expect_code(0);
    assert_eq!(fs::read_to_string(standby.join("etc/shadow")).expect("read"), edited);
}

#[test]
fn a_broken_auth_set_is_not_brought() {
    let (_work, production, standby) = pair("profiles-auth-broken");
    let before = own_files(&standby, &AUTH);
    // Cut off in the middle, as an editor that ran out of space leaves it.
    write(&production.join("etc/passwd"), "root:x:0:0:ro");
    sync("linux-hourly-auth", &production, &standby).expect_one_of(&[1, 3, 4]);
    assert_untouched(&before, &own_files(&standby, &AUTH));
    write(&production.join("etc/passwd"), "");
    sync("linux-hourly-auth", &production, &standby).expect_one_of(&[1, 3, 4]);
    assert_untouched(&before, &own_files(&standby, &AUTH));
}

#[test]
fn explain_names_class_decision_and_rule() {
    let output = clonetool(["explain", "linux-daily", "/etc/hostname"]).expect_code(0);
    let text = output.stdout.to_lowercase();
    assert!(text.contains("protect"), "no decision\n{}", output.describe());
    assert!(
        output.stdout.split(|c: char| !c.is_alphanumeric()).any(|w| w == "A"),
        "no class\n{}",
        output.describe()
    );
    let names_line = output.stdout.split_whitespace().any(|word| {
        word.split_once("linux.toml:").is_some_and(|(_, line)| line.starts_with(|c: char| c.is_ascii_digit()))
    });
    assert!(names_line, "no file and line of the rule\n{}", output.describe());
    for (path, word) in [("/usr/bin/tool", "include"), ("/etc/passwd", "exclude"), ("/run/anything", "")] {
        let output = clonetool(["explain", "linux-daily", path]).expect_code(0);
        assert!(output.stdout.to_lowercase().contains(word), "{path}: {}", output.describe());
    }
    let auth = clonetool(["explain", "linux-hourly-auth", "/etc/passwd"]).expect_code(0);
    assert!(auth.stdout.to_lowercase().contains("include"), "{}", auth.describe());
}

#[test]
fn the_standbys_own_list_is_honoured_against_any_sender() {
    let (work, production, standby) = pair("profiles-own-list");
    for (root, text) in [(&production, "production"), (&standby, "standby")] {
        write(&root.join("srv/own/deep/file"), text);
        write(&root.join("srv/own.conf"), text);
        write(&root.join("srv/shared"), text);
    }
    write(&standby.join("srv/own/only-here"), "only here");
    write(&standby.join("etc/clonetool/standby.toml"), "protect = [\"/srv/own/\", \"/srv/own.conf\"]\n");
    let paths = ["srv/own/deep/file", "srv/own/only-here", "srv/own.conf", "etc/clonetool/standby.toml"];
    let before = own_files(&standby, &paths);
    sync("linux-daily", &production, &standby).expect_code(0);
    assert_untouched(&before, &own_files(&standby, &paths));
    assert_same_content(&production, &standby, &["srv/shared"]);
    // A profile that protects nothing, and a plain clone over the network, meet the same list.
    write(&production.join("srv/shared"), "changed again");
    let profile = work.join("everything.toml");
    write(&profile, "description = \"everything\"\n[rules]\ninclude = [\"/\"]\n[delete]\nenabled = true\n");
    profile_run("sync", profile.as_os_str(), &production, standby.as_os_str(), &[]).expect_code(0);
    assert_untouched(&before, &own_files(&standby, &paths));
    assert_same_content(&production, &standby, &["srv/shared", "etc/motd"]);
    write(&production.join("srv/shared"), "changed once more");
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let mut args: Vec<std::ffi::OsString> = vec!["clone".into(), "--delete".into()];
    args.extend(server.args());
    args.extend([production.clone().into(), server.remote(&standby)]);
    clonetool(args).expect_code(0);
    assert_untouched(&before, &own_files(&standby, &paths));
    assert_same_content(&production, &standby, &["srv/shared"]);
}

#[test]
fn a_broken_list_of_the_standby_stops_the_run() {
    let (_work, production, standby) = pair("profiles-broken-list");
    write(&standby.join("etc/clonetool/standby.toml"), "protect = [\"/srv/own/\"\n");
    let before = snapshot_ctimes(&standby);
    let output = sync("linux-daily", &production, &standby).expect_one_of(&[1, 2, 3]);
    assert!(output.stderr.contains("standby.toml"), "{}", output.describe());
    assert_untouched(&before, &snapshot_ctimes(&standby));
}

#[test]
fn plan_is_what_sync_would_do_and_touches_nothing() {
    let (_work, production, standby) = pair("profiles-plan");
    let before = snapshot_ctimes(&standby);
    let planned =
        profile_run("plan", "linux-daily".as_ref(), &production, standby.as_os_str(), &[]).expect_code(0);
    let dry: [&OsStr; 1] = ["--dry-run".as_ref()];
    let dried =
        profile_run("sync", "linux-daily".as_ref(), &production, standby.as_os_str(), &dry).expect_code(0);
    assert_untouched(&before, &snapshot_ctimes(&standby));
    assert_eq!(planned.changes(), dried.changes());
    assert!(planned.changes().iter().sum::<u64>() > 0, "{}", planned.describe());
    assert_eq!(sync("linux-daily", &production, &standby).expect_code(0).changes(), planned.changes());
}

#[test]
fn runtime_state_is_made_empty_and_data_that_needs_its_own_replication_is_not_copied() {
    let (_work, production, standby) = pair("profiles-runtime");
    write(&production.join("run/daemon.pid"), "1");
    write(&production.join("tmp/file"), "x");
    chmod(&production.join("tmp"), 0o1777);
    write(&production.join("var/lib/mysql/ibdata1"), "an open database");
    dir::remove_tree(&standby.join("run"));
    sync("linux-daily", &production, &standby).expect_one_of(&[0, 4]);
    assert!(standby.join("run").is_dir(), "the mount point of the runtime state is missing");
    for path in ["run/daemon.pid", "tmp/file", "var/lib/mysql/ibdata1"] {
        assert!(!standby.join(path).exists(), "{path} was copied");
    }
}

#[test]
fn a_verify_by_profile_looks_at_what_is_in_scope() {
    let (_work, production, standby) = pair("profiles-verify");
    sync("linux-daily", &production, &standby).expect_code(0);
    let verify = || {
        let args: [&OsStr; 7] = [
            "verify".as_ref(),
            "--profile".as_ref(),
            "linux-daily".as_ref(),
            "--source".as_ref(),
            production.as_os_str(),
            "--destination".as_ref(),
            standby.as_os_str(),
        ];
        clonetool(args)
    };
    verify().expect_code(0);
    write(&standby.join("usr/bin/tool"), "drifted");
    let found = verify().expect_code(5);
    assert!(found.stdout.contains("usr/bin/tool"), "{}", found.describe());
    assert!(!found.stdout.contains("etc/hostname"), "a protected path is reported\n{}", found.describe());
}

#[test]
fn the_daily_sync_brings_what_is_held_to_where_it_does_not_act() {
    let (work, production, standby) = pair("profiles-held");
    write(&standby.join("etc/fstab"), "UUID=own / ext4 defaults 0 1\n");
    write(
        &production.join("etc/fstab"),
        "UUID=production / ext4 defaults 0 1\n/dev/vg/new /srv xfs ro 0 2\n",
    );
    let state = standby.join(STATE_DIRECTORY);
    write(
        &state.join("journal.json"),
        r#"{"hostname":"standby","source_hostname":"production","machine_id":null,
        "source_machine_id":null,"source_addresses":[],"source_uuids":[],"source_host_keys":[],"complete":true,
        "held":[],"lines":[]}"#,
    );
    write(&production.join("etc/cron.d/backup"), "* * * * * root backup\n");
    write(&production.join("etc/exports"), "/srv *(rw)\n");
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let args = server.args();
    let extra: Vec<&OsStr> = args.iter().map(AsRef::<OsStr>::as_ref).collect();
    let to = server.remote(&standby);
    profile_run("sync", "linux-daily".as_ref(), &production, &to, &extra).expect_code(0);
    for path in ["etc/cron.d/backup", "etc/exports"] {
        assert!(!standby.join(path).exists(), "{path} would act");
        let kept = standby.join(PRODUCTION).join(path);
        assert_eq!(fs::read(kept).expect("kept"), fs::read(production.join(path)).expect("production's"));
    }
    let fstab = fs::read_to_string(standby.join("etc/fstab")).expect("fstab");
    assert_eq!(fstab, "UUID=own / ext4 defaults 0 1\n/dev/vg/new /srv xfs ro,noauto,x-clonetool.held 0 2\n");
    profile_run("sync", "linux-daily".as_ref(), &production, &to, &extra).expect_code(0).expect_no_changes();
}
