//! Host keys, made by the ssh-keygen of this host.

use std::os::unix::fs::MetadataExt;

use super::super::testing::{Tree, own};
use super::*;
use crate::prepare::{Journal, Options};

/// An ed25519 key pair of production's, made for this test.
const PUBLIC: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g root@db1\n";

fn journal(tree: &Tree) -> Journal {
    let root = crate::scan::Root::open(&tree.path("")).unwrap();
    Journal::read(&std::sync::Arc::new(root)).unwrap().unwrap()
}

fn tree() -> Tree {
    let tree = Tree::new(&[
        ("etc/hostname", "db1\n"),
        ("etc/hosts", "10.0.0.5 db1\n"),
        (
            "etc/ssh/sshd_config",
            "Include /etc/ssh/sshd_config.d/*.conf\nListenAddress 10.0.0.5:22\nListenAddress 10.0.0.50\n",
        ),
        (
            "etc/ssh/sshd_config.d/keys.conf",
            "HostKey /srv/keys/special\nHostCertificate /etc/ssh/host-cert.pub\n",
        ),
        ("etc/ssh/ssh_host_ed25519_key", "old"),
        ("etc/ssh/ssh_host_ed25519_key.pub", PUBLIC),
        ("etc/ssh/ssh_host_dsa_key", "old"),
        ("etc/ssh/host-cert.pub", "cert"),
        ("srv/keys/special", "old"),
        ("srv/keys/special.pub", PUBLIC),
        ("usr/local/etc/ssh_host_ecdsa_key", "old"),
        ("home/u/.ssh/known_hosts", "kept"),
    ]);
    tree.mode("etc/ssh/ssh_host_ed25519_key", 0o400);
    tree
}

#[test]
fn every_configured_key_is_new_and_production_s_is_remembered() {
    if program().is_none() {
        return;
    }
    let tree = tree();
    let report = tree.prepare(&own("db2"));
    let mut paths: Vec<String> = report.host_keys.iter().map(|key| key.path.to_string()).collect();
    paths.sort();
    assert_eq!(
        paths,
        ["/etc/ssh/ssh_host_ed25519_key", "/srv/keys/special", "/usr/local/etc/ssh_host_ecdsa_key"]
    );
    let public = tree.text("etc/ssh/ssh_host_ed25519_key.pub");
    assert!(public.starts_with("ssh-ed25519 ") && public != PUBLIC && public.trim().ends_with("root@db2"));
    assert!(!tree.is("etc/ssh/ssh_host_dsa_key") && !tree.is("etc/ssh/host-cert.pub"));
    // The old one was for its owner alone, and so is the new one.
    assert_eq!(std::fs::metadata(tree.path("etc/ssh/ssh_host_ed25519_key")).unwrap().mode() & 0o7777, 0o400);
    let journal = journal(&tree);
    assert!(journal.source_host_keys.contains(&fingerprint(PUBLIC.as_bytes()).unwrap()));
    for key in &report.host_keys {
        assert!(!journal.source_host_keys.contains(&key.fingerprint));
        assert!(key.known_hosts_line.starts_with("db2 "), "{}", key.known_hosts_line);
        assert_eq!(journal.line(&key.path).map(|line| line.class), Some(Class::A));
    }
    assert!(tree.is("home/u/.ssh/known_hosts"));
    // A second time they stay.
    let again = tree.again(&own("db2"));
    assert_eq!((again.edits.len(), again.host_keys.len()), (0, 0), "{:?}", again.edits);
    assert_eq!(tree.text("etc/ssh/ssh_host_ed25519_key.pub"), public);
}

#[test]
fn the_server_does_not_listen_on_productions_address() {
    let tree = tree();
    tree.prepare(&own("db2"));
    assert_eq!(
        tree.text("etc/ssh/sshd_config"),
        "Include /etc/ssh/sshd_config.d/*.conf\n# on production: ListenAddress 10.0.0.5:22\nListenAddress 10.0.0.50\n"
    );
}

#[test]
fn a_takeover_keeps_the_keys() {
    let tree = tree();
    let report = tree.prepare(&Options { identity: Identity::Takeover, ..Options::default() });
    assert_eq!(tree.text("etc/ssh/ssh_host_ed25519_key"), "old");
    assert!(tree.is("etc/ssh/host-cert.pub") && report.host_keys.is_empty());
}

#[test]
fn no_link_leads_a_new_key_out_of_the_root() {
    if program().is_none() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let tree = Tree::new(&[("etc/hostname", "db1\n"), ("keys/ssh_host_rsa_key", "old")]);
    // Absolute, so within the root it means /keys and outside it the directory of this test.
    tree.link("etc/ssh", "/keys");
    tree.link("usr/local/etc", outside.path().to_str().unwrap());
    std::fs::write(outside.path().join("ssh_host_rsa_key"), "another host's").unwrap();
    tree.prepare(&own("db2"));
    assert_eq!(std::fs::read_to_string(outside.path().join("ssh_host_rsa_key")).unwrap(), "another host's");
    assert!(tree.text("keys/ssh_host_rsa_key").contains("PRIVATE KEY"));
}

#[test]
fn a_fingerprint_is_the_one_that_ssh_keygen_prints() {
    let Some(program) = program() else { return };
    let temp = tempfile::tempdir().unwrap();
    let key = temp.path().join("k");
    let made =
        std::process::Command::new(program).args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    let printed = std::process::Command::new(program).arg("-lf").arg(&key).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let public = std::fs::read(temp.path().join("k.pub")).unwrap();
    let print = fingerprint(&public).unwrap();
    assert!(printed.contains(&print), "{printed} {print}");
    assert_eq!(fingerprint_of_private(&std::fs::read(&key).unwrap()), Some(print));
    for broken in [&b""[..], b"-----BEGIN-----\nAAAA\n", b"b3BlbnNzaC1rZXktdjEA/////w=="] {
        assert_eq!(fingerprint_of_private(broken), None);
    }
}
