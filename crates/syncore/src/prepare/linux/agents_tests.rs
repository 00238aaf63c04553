//! Identities towards other machines.

use super::super::testing::{Tree, own};
use super::*;
use crate::prepare::{Options, Weight};

fn tree() -> Tree {
    Tree::new(&[
        ("etc/hostname", "db1\n"),
        ("var/lib/systemd/random-seed", "seed"),
        ("var/lib/systemd/credential.secret", "secret"),
        ("etc/credstore.encrypted/token", "x"),
        ("etc/salt/pki/minion/minion.pem", "key"),
        ("etc/salt/minion_id", "db1"),
        ("etc/krb5.keytab", "keytab"),
        ("var/lib/cloud/instances/i-1/obj.pkl", "x"),
        ("var/lib/cloud/seed/nocloud/user-data", "kept"),
        ("etc/cloud/cloud.cfg", ""),
        ("etc/popularity-contest.conf", "PARTICIPATE=\"yes\"\nMY_HOSTID=\"0123\"\n"),
        ("var/lib/mysql/auto.cnf", "[auto]\n"),
        ("home/u/.ssh/id_ed25519", "kept"),
    ])
}

#[test]
fn identities_go_and_production_data_stays() {
    let tree = tree();
    tree.link("var/lib/cloud/instance", "instances/i-1");
    let report = tree.prepare(&own("db2"));
    for gone in [
        "var/lib/systemd/random-seed",
        "var/lib/systemd/credential.secret",
        "etc/salt/pki/minion/minion.pem",
        "etc/salt/minion_id",
        "etc/krb5.keytab",
        "var/lib/cloud/instance",
        "var/lib/cloud/instances/i-1",
        "var/lib/mysql/auto.cnf",
    ] {
        assert!(!tree.is(gone), "{gone}");
    }
    assert!(tree.is("etc/salt/pki/minion") && tree.is("var/lib/cloud/seed/nocloud/user-data"));
    assert!(tree.is("etc/cloud/cloud-init.disabled") && tree.is("home/u/.ssh/id_ed25519"));
    let popularity = tree.text("etc/popularity-contest.conf");
    assert!(popularity.starts_with("PARTICIPATE=\"yes\"\nMY_HOSTID=\"") && !popularity.contains("0123\""));
    assert!(
        report
            .findings
            .iter()
            .any(|found| found.weight == Weight::Pending && found.message.contains("token"))
    );
    assert_eq!(tree.again(&own("db2")).edits, []);
}

#[test]
fn a_takeover_keeps_what_production_is_known_by_and_no_seed() {
    let tree = tree();
    let options = Options { identity: Identity::Takeover, ..Options::default() };
    tree.prepare(&options);
    assert!(tree.is("etc/krb5.keytab") && tree.is("etc/salt/minion_id"));
    assert!(!tree.is("var/lib/systemd/random-seed"));
}

#[test]
fn the_schedule_of_production_is_gone_and_the_standbys_stays() {
    let timer = "etc/systemd/system/clonetool-linux-daily.timer";
    let tree = Tree::new(&[
        ("etc/cron.d/clonetool-linux-hourly-auth", "x"),
        (timer, "[Timer]"),
        ("etc/systemd/system/clonetool-recover.service", "[Service]"),
    ]);
    tree.prepare(&own("b"));
    assert!(!tree.is("etc/cron.d/clonetool-linux-hourly-auth") && !tree.is(timer));
    assert!(tree.is("etc/systemd/system/clonetool-recover.service"));
    tree.file(timer, "[Timer]");
    assert_eq!(tree.again(&own("b")).edits, []);
    assert!(tree.is(timer));
}
