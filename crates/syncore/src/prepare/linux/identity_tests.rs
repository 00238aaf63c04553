//! Names and ids, on trees of a few files.

use proptest::prelude::*;

use super::super::testing::{Tree, own};
use super::*;
use crate::prepare::EditChange;

#[test]
fn production_keeps_its_line_in_hosts_and_the_standby_gets_one() {
    let names = Names::new("db1", "db2", b"10.0.0.5 db1.example.org db1\n");
    let hosts = b"127.0.0.1 localhost\r\n127.0.1.1\tdb1.example.org db1 # db1\r\n10.0.0.5 db1.example.org db1\r\n10.0.0.10 db10";
    let after = own_hosts(hosts, &names, Some("10.0.0.6"));
    assert_eq!(
        String::from_utf8(after.clone()).unwrap(),
        "127.0.0.1 localhost\r\n127.0.1.1\tdb2.example.org db2 # db1\r\n10.0.0.5 db1.example.org db1\r\n\
         10.0.0.10 db10\r\n10.0.0.6\tdb2.example.org db2\r\n"
    );
    assert_eq!(own_hosts(&after, &names, Some("10.0.0.6")), after);
    // Its address of old becomes the one it has; a host of a longer name keeps its own.
    let known = own_hosts(b"10.0.0.9 db2 web\n10.0.0.20 db20\n", &names, Some("10.0.0.6"));
    assert_eq!(known, b"10.0.0.6 db2 web\n10.0.0.20 db20\n");
    assert_eq!(own_hosts(b"", &names, None), b"127.0.1.1\tdb2.example.org db2\n");
}

#[test]
fn names_of_mail_and_machine_follow() {
    let tree = Tree::new(&[
        ("etc/hostname", "db1\n"),
        ("etc/hosts", "10.0.0.5 db1.example.org db1\n"),
        ("etc/mailname", "db1.example.org"),
        ("etc/machine-info", "PRETTY_HOSTNAME=\"The database\"\nDEPLOYMENT=production\n"),
        (
            "etc/postfix/main.cf",
            "myhostname = db1.example.org\nmydestination = $myhostname,\n  db1, localhost\nrelayhost = db1\n# db1\n",
        ),
        ("etc/exim4/update-exim4.conf.conf", "dc_other_hostnames='db1;db10'\ndc_smarthost='db1'\n"),
    ]);
    tree.planned(&own("db2"), plan, |draft| {
        let text = |path: &str| draft.text(path).unwrap().unwrap();
        assert_eq!(text("/etc/hostname"), "db2\n");
        assert_eq!(text("/etc/mailname"), "db2.example.org");
        assert_eq!(text("/etc/machine-info"), "PRETTY_HOSTNAME=\"db2\"\nDEPLOYMENT=production\n");
        assert_eq!(
            text("/etc/postfix/main.cf"),
            "myhostname = db2.example.org\nmydestination = $myhostname,\n  db2, localhost\nrelayhost = db1\n# db1\n"
        );
        assert_eq!(text("/etc/exim4/update-exim4.conf.conf"), "dc_other_hostnames='db2;db10'\ndc_smarthost='db1'\n");
        assert!(draft.replaced.iter().any(|row| (&row.old[..], &row.new[..]) == ("db1", "db2")));
    });
}

#[test]
fn the_machine_id_is_new_and_valid_and_d_bus_links_to_it() {
    let old = "0123456789abcdef0123456789abcdef";
    let tree =
        Tree::new(&[("etc/hostname", "a\n"), ("etc/machine-id", old), ("var/lib/dbus/machine-id", old)]);
    tree.planned(&own("b"), plan, |draft| {
        let id = draft.text("/etc/machine-id").unwrap().unwrap();
        assert!(is_machine_id(id.trim()) && id.trim() != old, "{id}");
        assert_eq!(draft.machine_id.as_deref(), Some(id.trim()));
        let link =
            draft.edits().iter().find(|edit| edit.path.as_bytes() == b"var/lib/dbus/machine-id").unwrap();
        assert_eq!(link.change, EditChange::Symlink { target: b"/etc/machine-id".to_vec() });
    });
}

#[test]
fn a_machine_id_that_is_a_link_to_d_buss_becomes_a_file() {
    let old = "0123456789abcdef0123456789abcdef";
    let tree = Tree::new(&[("etc/hostname", "a\n"), ("var/lib/dbus/machine-id", old)]);
    tree.link("etc/machine-id", "/var/lib/dbus/machine-id");
    let report = tree.prepare(&own("b"));
    let id = std::fs::read_to_string(tree.path("etc/machine-id")).unwrap();
    assert!(std::fs::symlink_metadata(tree.path("etc/machine-id")).unwrap().is_file());
    assert!(is_machine_id(id.trim()) && id.trim() != old);
    assert!(report.edits.iter().all(|edit| edit.path.as_bytes() != b"uninitialized"));
    // The second time, it is kept.
    tree.again(&own("b"));
    assert_eq!(std::fs::read_to_string(tree.path("etc/machine-id")).unwrap(), id);
}

#[test]
fn a_uninitialized_machine_id_does_not_stay() {
    let tree = Tree::new(&[
        ("etc/hostname", "a\n"),
        ("etc/machine-id", "uninitialized\n"),
        ("etc/hostid", "\u{1}\u{2}\u{3}\u{4}"),
    ]);
    tree.planned(&own("b"), plan, |draft| {
        assert!(is_machine_id(draft.text("/etc/machine-id").unwrap().unwrap().trim()));
        let host_id = draft.read("/etc/hostid").unwrap().unwrap();
        assert!(host_id.len() == 4 && host_id != [1, 2, 3, 4]);
    });
}

proptest! {
    #[test]
    fn a_line_that_names_neither_host_is_not_touched(
        lines in proptest::collection::vec("[0-9.:]{0,9}[ \t]{0,2}(db1|db2|db10|x db1x|#[a-z ]{0,3})?[ \tx]{0,3}", 0..8),
        given in proptest::bool::ANY,
    ) {
        let names = Names::new("db1", "db2", b"");
        let content = lines.join("\n");
        let address = given.then_some("10.9.9.9");
        let after = own_hosts(content.as_bytes(), &names, address);
        let after_lines = Lines::of(&after);
        for (index, line) in Lines::of(content.as_bytes()).0.iter().enumerate() {
            let named = words_of(&line.content).iter().skip(1).any(|word| names.is_source(word) || names.is_own(word));
            if !named {
                prop_assert_eq!(&after_lines.0[index].content, &line.content);
            }
        }
        prop_assert_eq!(own_hosts(&after, &names, address), after);
    }
}
