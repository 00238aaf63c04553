//! Which units are held, and which start.

use super::super::testing::{Tree, own};
use super::*;

const SERVICE: &str = "[Service]\nExecStart=/bin/true\n";

/// A root with systemd, cron and ssh, whose package database owns what is in the vendor's directory.
fn root() -> Tree {
    let tree = Tree::new(&[
        ("usr/lib/systemd/systemd", ""),
        ("usr/lib/systemd/system/ssh.service", SERVICE),
        ("usr/lib/systemd/system/cron.service", SERVICE),
        ("usr/lib/systemd/system/postgresql.service", SERVICE),
        ("usr/lib/systemd/system/postgresql@.service", SERVICE),
        ("usr/lib/systemd/system/plumb.service", SERVICE),
        (
            "var/lib/dpkg/info/all.list",
            "/lib/systemd/system/ssh.service\n/lib/systemd/system/cron.service\n/usr/lib/systemd/system/plumb.service\n\
             /lib/systemd/system/postgresql.service\n/lib/systemd/system/postgresql@.service\n",
        ),
    ]);
    for unit in ["ssh.service", "cron.service", "postgresql.service"] {
        tree.link(
            &format!("etc/systemd/system/multi-user.target.wants/{unit}"),
            &format!("/lib/systemd/system/{unit}"),
        );
    }
    tree.link(
        "etc/systemd/system/sysinit.target.wants/plumb.service",
        "/usr/lib/systemd/system/plumb.service",
    );
    tree
}

fn held(tree: &Tree) -> Vec<String> {
    let mut names = Vec::new();
    tree.planned(
        &own("b"),
        |_, draft| plan(&Owners::read(draft)?, draft),
        |draft| {
            names = draft.held.iter().map(|held| held.name.clone()).collect();
            for held in &draft.held {
                assert_eq!(held.undo.len(), 1, "{held:?}");
            }
        },
    );
    names.sort();
    names
}

#[test]
fn the_distributions_own_units_start_and_an_application_is_held_with_its_template() {
    assert_eq!(held(&root()), ["postgresql.service", "postgresql@.service"]);
}

#[test]
fn timers_instances_aliases_linked_and_pulled_units_are_held() {
    let tree = root();
    tree.file("etc/systemd/system/pay.timer", "[Timer]\nOnCalendar=*:0\nUnit=payments.service\n");
    tree.file("etc/systemd/system/payments.service", "[Unit]\nWants=ledger@7.service ssh.service\n");
    tree.file("usr/lib/systemd/system/ledger@.service", SERVICE);
    tree.file("srv/app/app.service", SERVICE);
    tree.link("etc/systemd/system/app.service", "/srv/app/app.service");
    tree.link(
        "etc/systemd/system/app.target.wants/worker@1.service",
        "/usr/lib/systemd/system/worker@.service",
    );
    tree.file("usr/lib/systemd/system/worker@.service", SERVICE);
    tree.link("etc/systemd/system/masked.service", "/dev/null");
    tree.file("usr/lib/systemd/system/multi-user.target.wants/handmade.service", "");
    tree.file("usr/lib/systemd/system/handmade.service", SERVICE);
    tree.file("etc/systemd/system/app2.target", "[Unit]\nWants=by-target.service cron.service\n");
    tree.file("etc/systemd/system/cron.service.d/more.conf", "[Unit]\nWants=by-drop-in.service\n");
    tree.file("usr/lib/systemd/system/by-target.service", SERVICE);
    tree.file("usr/lib/systemd/system/by-drop-in.service", SERVICE);
    assert_eq!(
        held(&tree),
        [
            "app.service",
            "by-drop-in.service",
            "by-target.service",
            "handmade.service",
            "ledger@.service",
            "pay.timer",
            "payments.service",
            "postgresql.service",
            "postgresql@.service",
            "worker@.service",
        ]
    );
}

#[test]
fn start_scripts_and_rc_local_are_held_under_systemd() {
    let tree = root();
    tree.file("etc/init.d/legacy", "#!/bin/sh\n");
    tree.link("etc/rc2.d/S20legacy", "../init.d/legacy");
    tree.link("etc/rc2.d/S01cron", "../init.d/cron");
    tree.link("etc/rc0.d/K01legacy", "../init.d/legacy");
    tree.file("etc/rc.local", "#!/bin/sh\n/srv/pay\n");
    assert_eq!(held(&tree), ["legacy.service", "postgresql.service", "postgresql@.service"]);
    tree.mode("etc/rc.local", 0o755);
    assert!(held(&tree).contains(&"rc-local.service".to_owned()));
}

#[test]
fn without_systemd_the_links_of_runlevels_are_moved_away() {
    let tree = Tree::new(&[("etc/init.d/legacy", ""), ("etc/init.d/ssh", ""), ("etc/rc.local", "x")]);
    tree.link("etc/rc2.d/S20legacy", "../init.d/legacy");
    tree.link("etc/rc3.d/S20legacy", "../init.d/legacy");
    tree.link("etc/rc2.d/S02ssh", "../init.d/ssh");
    tree.prepare(&own("b"));
    assert!(
        tree.is("etc/rc2.d/S02ssh") && !tree.is("etc/rc2.d/S20legacy") && !tree.is("etc/rc3.d/S20legacy")
    );
    assert!(!tree.is("etc/rc.local"));
    crate::prepare::release(&tree.path(""), None).unwrap();
    assert!(tree.is("etc/rc2.d/S20legacy") && tree.is("etc/rc3.d/S20legacy") && tree.is("etc/rc.local"));
}

#[test]
fn a_system_service_that_production_changed_starts_and_is_named() {
    let tree = root();
    tree.file("etc/systemd/system/ssh.service", SERVICE);
    tree.file("etc/systemd/system/cron.service.d/own.conf", "[Service]\nExecStartPre=/srv/x\n");
    tree.planned(
        &own("b"),
        |_, draft| plan(&Owners::read(draft)?, draft),
        |draft| {
            assert_eq!(draft.starts, ["cron.service", "ssh.service"]);
            assert_eq!(draft.findings.len(), 2);
        },
    );
}

#[test]
fn a_held_unit_has_a_condition_that_sorts_last_and_a_cloned_promotion_goes() {
    let tree = root();
    tree.file("var/lib/clonetool/promoted", "");
    tree.file("etc/systemd/system/postgresql.service.d/override.conf", "[Unit]\nConditionPathExists=\n");
    tree.prepare(&own("b"));
    assert!(!tree.is("var/lib/clonetool/promoted"));
    let drop_in = tree.text("etc/systemd/system/postgresql.service.d/zz-clonetool-held.conf");
    assert!(drop_in.contains("[Unit]\nConditionPathExists=/var/lib/clonetool/promoted\n"), "{drop_in}");
    let again = tree.again(&own("b"));
    assert_eq!(again.edits, []);
    assert!(again.held.iter().any(|held| held.name == "postgresql.service"));
    crate::prepare::release(&tree.path(""), Some(&["postgresql.service".to_owned()])).unwrap();
    assert!(!tree.is("etc/systemd/system/postgresql.service.d/zz-clonetool-held.conf"));
    assert!(tree.is("etc/systemd/system/postgresql.service.d/override.conf"));
    assert!(tree.is("etc/systemd/system/postgresql@.service.d/zz-clonetool-held.conf"));
}
