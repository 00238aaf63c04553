//! What the shipped profiles and catalogues decide about real paths.

use super::*;
use crate::rules::{Decision, FollowUp, Scope, Substitution, Treatment};

fn profile(name: &str) -> Profile {
    let (_, text) = shipped().iter().find(|(other, _)| *other == name).unwrap();
    Profile::parse(name, text, &|_| None).unwrap()
}

fn ask<T>(set: &RuleSet, path: &str, answer: impl Fn(Decision<'_>) -> T) -> T {
    answer(set.decide(&RelPath::from_absolute(path.as_bytes()).unwrap(), path.ends_with('/')))
}

fn scope(set: &RuleSet, path: &str) -> Scope {
    ask(set, path, |decision| decision.scope)
}

/// Every path that the rules of any shipped profile name without a wildcard.
fn named_paths() -> Vec<String> {
    let mut paths: Vec<String> = shipped()
        .iter()
        .flat_map(|(name, _)| profile(name).rules())
        .filter_map(|rule| String::from_utf8(rule.pattern).ok())
        .filter(|path| !path.contains(['*', '?', '[', '{']))
        .map(|path| path.trim_end_matches('/').to_string())
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

#[test]
fn each_parses_runs_and_has_no_rule_without_effect() {
    for (name, _) in shipped() {
        let profile = profile(name);
        assert!(!profile.description.is_empty(), "{name}");
        let set = RuleSet::compile(profile.rules()).unwrap();
        let idle: Vec<String> = set.never_matching().iter().map(ToString::to_string).collect();
        assert_eq!(idle, [""; 0], "{name}");
    }
}

#[test]
fn each_catalogue_row_says_what_it_is_and_where_that_stands() {
    for (name, text) in catalogues() {
        let extends = format!("extends = [\"{name}\"]");
        let rows = Profile::parse("x", &extends, &|_| None).unwrap().rows;
        assert_eq!(rows.len(), text.lines().filter(|line| *line == "[[row]]").count());
        for row in &rows {
            assert!(row.path.starts_with('/') && !row.path.contains(".."), "{row:?}");
            assert!(row.what.len() > 2 && row.source.len() > 2, "{row:?}");
            assert_eq!(Class::from_letter(&row.class.to_string()), Some(row.class));
            let line = text.lines().nth(row.origin.line as usize - 1).unwrap();
            assert_eq!(line, format!("path = \"{}\"", row.path));
            assert_eq!(row.origin.file, format!("shipped/catalogue/{name}.toml"));
        }
        let mut paths: Vec<&str> = rows.iter().map(|row| row.path.as_str()).collect();
        paths.sort_unstable();
        let all = paths.len();
        paths.dedup();
        assert_eq!(paths.len(), all, "{name} names a path twice");
    }
}

#[test]
fn the_daily_leaves_the_identity_of_the_standby_alone() {
    let set = RuleSet::compile(profile("linux-daily").rules()).unwrap();
    for (path, class) in [
        ("/etc/hostname", Class::A),
        ("/etc/machine-id", Class::A),
        ("/etc/ssh/ssh_host_rsa_key", Class::A),
        ("/etc/ssh/ssh_host_ed25519_key.pub", Class::A),
        ("/etc/ssh/sshd_config.d/10-listen.conf", Class::A),
        ("/etc/network/interfaces", Class::A),
        ("/etc/network/interfaces.d/eth0", Class::A),
        ("/etc/netplan/01-netcfg.yaml", Class::A),
        ("/etc/systemd/network/10-lan.network", Class::A),
        ("/etc/sysconfig/network-scripts/ifcfg-eth0", Class::A),
        ("/boot/grub/grub.cfg", Class::A),
        ("/boot/initrd.img-6.1.0-1-amd64", Class::A),
        ("/etc/systemd/system/app.service", Class::G),
        ("/etc/pki/tls/private/host.key", Class::A),
        ("/etc/cron.d/backup", Class::G),
        ("/var/spool/cron/crontabs/root", Class::G),
        ("/etc/clonetool/standby.toml", Class::A),
        ("/var/lib/clonetool/state", Class::A),
        ("/root/.ssh/authorized_keys", Class::A),
    ] {
        ask(&set, path, |decision| {
            assert_eq!((decision.scope, decision.protected), (Scope::Out, true), "{path}");
            assert_eq!(decision.class, class, "{path}");
        });
    }
    ask(&set, "/etc/hostname", |decision| {
        let origin = &decision.rule.unwrap().origin;
        assert_eq!(origin.file, "shipped/catalogue/linux.toml");
        assert!(origin.line > 1);
    });
}

#[test]
fn what_needs_more_than_a_copy_says_what() {
    let set = RuleSet::compile(profile("linux-daily").rules()).unwrap();
    let boot = || Treatment::Then(vec![FollowUp::Initramfs, FollowUp::BootConfiguration]);
    for (path, treatment) in [
        ("/etc/fstab", Treatment::Substitute(Substitution::Fstab)),
        ("/etc/hosts", Treatment::Substitute(Substitution::Hosts)),
        ("/etc/crypttab", Treatment::Substitute(Substitution::Crypttab)),
        ("/etc/default/grub.d/50-cloud.cfg", Treatment::Substitute(Substitution::Grub)),
        ("/etc/kernel/cmdline", Treatment::Substitute(Substitution::Cmdline)),
        ("/boot/vmlinuz-6.1.0-1-amd64", boot()),
        ("/usr/lib/modules/6.1.0-1-amd64/modules.dep", boot()),
        ("/etc/ld.so.conf.d/local.conf", Treatment::Then(vec![FollowUp::Ldconfig])),
    ] {
        ask(&set, path, |decision| {
            assert_eq!((decision.scope, decision.protected), (Scope::In, false), "{path}");
            assert_eq!(decision.row.unwrap().treatment, treatment, "{path}");
        });
    }
}

#[test]
fn a_catalogue_never_says_b_without_saying_how() {
    for (name, text) in catalogues() {
        for row in Profile::parse(name, text, &|_| None).unwrap().rows {
            let how = matches!(row.treatment, Treatment::Substitute(_));
            assert_eq!(row.class == Class::B, how, "{name}: {}", row.path);
        }
    }
}

#[test]
fn what_is_held_goes_with_the_daily_and_not_with_the_accounts() {
    assert!(profile("linux-hourly-auth").held_rules().is_none());
    let held = RuleSet::compile(profile("linux-daily").held_rules().unwrap()).unwrap();
    for path in ["/etc/cron.d/backup", "/var/spool/cron/crontabs/root", "/etc/exports"] {
        assert_eq!(scope(&held, path), Scope::In, "{path}");
    }
    for path in ["/etc/apt/sources.list", "/etc/fstab", "/usr/bin/x", "/boot/vmlinuz-6.1", "/etc/hostname"] {
        assert_eq!(scope(&held, path), Scope::Out, "{path}");
    }
}

#[test]
fn the_daily_carries_the_rest() {
    let set = RuleSet::compile(profile("linux-daily").rules()).unwrap();
    for path in [
        "/",
        "/etc/",
        "/usr/bin/x",
        "/usr/lib/systemd/libsystemd-shared-252.so",
        "/home/user/.ssh/authorized_keys",
        "/root/.ssh/known_hosts",
        "/etc/apt/sources.list",
        "/var/lib/dpkg/status",
        "/var/log/",
        "/var/cache/",
        "/srv/project/Cargo.lock",
        "/etc/letsencrypt/live/x/privkey.pem",
    ] {
        assert_eq!(scope(&set, path), Scope::In, "{path}");
    }
    for path in
        ["/proc/", "/sys/", "/dev/", "/run/", "/tmp/", "/var/tmp/", "/var/cache/apt/", "/var/log/apache2/"]
    {
        assert_eq!(scope(&set, path), Scope::Empty, "{path}");
    }
    for path in ["/proc/1/", "/var/log/syslog", "/swapfile", "/etc/passwd-", "/etc/.pwd.lock"] {
        assert_eq!(scope(&set, path), Scope::Out, "{path}");
    }
    ask(&set, "/var/lib/postgresql/", |decision| {
        assert_eq!((decision.scope, decision.class, decision.protected), (Scope::Out, Class::R, false));
    });
}

#[test]
fn the_hourly_profiles_carry_the_auth_files_and_nothing_else_and_the_daily_ones_none() {
    let linux = ["/etc/group", "/etc/gshadow", "/etc/passwd", "/etc/shadow", "/etc/subgid", "/etc/subuid"];
    let solaris = ["/etc/group", "/etc/passwd", "/etc/shadow"];
    for (hourly, daily, files) in [
        ("linux-hourly-auth", "linux-daily", &linux[..]),
        ("solaris-hourly-auth", "solaris-daily", &solaris[..]),
    ] {
        assert!(!profile(hourly).delete.enabled);
        let [hourly, daily] = [hourly, daily].map(|name| RuleSet::compile(profile(name).rules()).unwrap());
        let carried: Vec<String> =
            named_paths().into_iter().filter(|path| scope(&hourly, path) == Scope::In).collect();
        assert_eq!(carried, files);
        for path in files {
            assert_eq!(scope(&daily, path), Scope::Out, "{path}");
            assert!(ask(&hourly, path, |decision| decision.auth_set), "{path}");
        }
        // Of directories only the way to the files is walked, and nothing else is in scope in them.
        assert_eq!([scope(&hourly, "/"), scope(&hourly, "/etc/")], [Scope::Implied; 2]);
        for path in
            ["/etc/x", "/etc/x/", "/usr/", "/proc/", "/tmp/", "/var/", "/etc/passwd-", "/etc/passwd/x"]
        {
            let expected = if path.ends_with("passwd/x") { Scope::In } else { Scope::Out };
            assert_eq!(scope(&hourly, path), expected, "{path}");
        }
    }
}

#[test]
fn the_solaris_daily_has_the_lists_of_its_model_without_their_mistakes() {
    let set = RuleSet::compile(profile("solaris-daily").rules()).unwrap();
    for path in [
        "/usr/bin/ls",
        "/etc/init.d/",
        "/etc/init.d/app",
        "/etc/rc2.d/S99app",
        "/etc/lp/printers/x/",
        "/etc/inet/services",
        "/etc/inet/hosts",
        "/etc/vfstab",
        "/etc/system",
        "/etc/opt/app.conf",
        "/etc/ssh/ssh_config",
        "/etc/profile",
        "/etc/resolv.conf",
        "/var/sadm/install/contents",
        "/kernel/drv/pci.conf",
    ] {
        assert_eq!(scope(&set, path), Scope::In, "{path}");
    }
    for path in [
        "/etc/net/ticlts/hosts",
        "/etc/ssh/ssh_host_rsa_key",
        "/usr/local/etc/ssh_host_key",
        "/etc/hostname.hme0",
        "/etc/path_to_inst",
        "/kernel/drv/sd.conf",
        "/dev/",
        "/devices/",
        "/var/spool/cron/crontabs/root",
        "/usr/emc/API/symapi/db/",
    ] {
        let (scope, protected) = ask(&set, path, |decision| (decision.scope, decision.protected));
        assert_eq!((scope, protected), (Scope::Out, true), "{path}");
    }
    assert_eq!(scope(&set, "/etc/"), Scope::Implied);
    assert_eq!(scope(&set, "/etc/nsswitch.conf"), Scope::Out);
    assert_eq!(scope(&set, "/proc/"), Scope::Out);
}

#[test]
fn a_move_takes_accounts_and_history_along_but_no_running_database() {
    let set = RuleSet::compile(profile("linux-migrate").rules()).unwrap();
    for path in ["/etc/passwd", "/etc/shadow", "/var/log/syslog", "/var/log/apache2/", "/home/x"] {
        assert_eq!(scope(&set, path), Scope::In, "{path}");
    }
    for path in ["/etc/hostname", "/etc/machine-id", "/var/lib/postgresql/", "/swapfile"] {
        assert_eq!(scope(&set, path), Scope::Out, "{path}");
    }
    // As its own comment shows.
    let own = "extends = [\"linux-migrate\"]\n[[row]]\npath = \"/var/lib/postgresql\"\nclass = \"S\"\n\
               what = \"database\"\nsource = \"pg_ctl(1)\"\n";
    let last = RuleSet::compile(Profile::parse("last.toml", own, &|_| None).unwrap().rules()).unwrap();
    assert_eq!(scope(&last, "/var/lib/postgresql/15/main/PG_VERSION"), Scope::In);
}

#[test]
fn the_full_profile_shows_every_key_with_its_default() {
    let (_, text) = shipped().iter().find(|(name, _)| *name == "full").unwrap();
    let full = profile("full");
    let bare = Profile::empty("full");
    assert_eq!(full.source, bare.source);
    assert_eq!((&full.standby.root, full.standby.transport), (&bare.standby.root, bare.standby.transport));
    assert_eq!((full.delete, full.commit.mode), (bare.delete, bare.commit.mode));
    assert_eq!(full.commit.keep.generations, bare.commit.keep.generations);
    let waits = |profile: &Profile| (profile.schedule.when_busy, profile.schedule.wait_limit);
    assert_eq!(waits(&full), waits(&bare));
    let keys = [
        "max-entries",
        "max-percent",
        "mode",
        "keep-generations",
        "keep-days",
        "max-space",
        "snapshot",
        "when-busy",
        "wait-limit",
    ];
    for key in keys {
        assert!(text.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
    }
    // Every kind of gate is there, and what is written as a default is one.
    let kinds: std::collections::BTreeSet<&str> = full.gates.iter().map(|gate| gate.check.kind()).collect();
    assert_eq!(kinds.len(), 12, "{kinds:?}");
    let bare = "[[gate]]\nkind = \"peer\"\nname = \"a\"\n[[gate]]\nkind = \"space\"\nname = \"b\"\n\
                [[gate]]\nkind = \"inodes\"\nname = \"c\"\n";
    for bare in Profile::parse("bare.toml", bare, &|_| None).unwrap().gates {
        let shown = full.gates.iter().find(|gate| gate.check.kind() == bare.check.kind()).unwrap();
        assert_eq!(shown.timeout, bare.timeout);
        let mut check = shown.check.clone();
        if let Check::Peer(peer) = &mut check {
            (peer.host, peer.port) = (None, None);
        }
        assert_eq!(check, bare.check);
    }
}
