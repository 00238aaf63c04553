//! Holding and releasing, on real files.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::super::linux::testing::Tree;
use super::super::{Draft, PrepareError, release};
use super::*;
use crate::monitor::Silent;
use crate::prepare::{Journal, carry};
use crate::scan::Root;

/// Holds what `plan` says, through the draft, the journal and the disk.
fn hold(tree: &Tree, plan: impl Fn(&mut Draft<'_>) -> Result<(), PrepareError>) {
    let inside = Inside::new(std::sync::Arc::new(Root::open(&tree.path("")).unwrap()));
    let mut draft = Draft::new(&inside);
    plan(&mut draft).unwrap();
    let mut journal = Journal { held: draft.held.clone(), complete: true, ..Journal::default() };
    carry::carry_out(&inside, &draft.into_edits(), &mut journal, &Silent).unwrap();
}

fn away(path: &'static str, instead: Instead) -> impl Fn(&mut Draft<'_>) -> Result<(), PrepareError> {
    move |draft| {
        let undo = draft.put_away(path, instead.clone(), "it acts")?;
        draft.hold("test", path, "moved away", undo.into_iter().collect());
        Ok(())
    }
}

fn note(before: &str) -> Instead {
    Instead::File { before: before.into(), after: b"# held\n".to_vec() }
}

#[test]
fn what_is_released_is_the_same_inode_with_the_same_mode_and_time() {
    let tree = Tree::new(&[("var/spool/cron/crontabs/app", "* * * * * /srv/pay\r\nno end")]);
    tree.mode("var/spool/cron/crontabs/app", 0o400);
    let before = std::fs::metadata(tree.path("var/spool/cron/crontabs/app")).unwrap();
    hold(&tree, away("/var/spool/cron/crontabs/app", Instead::Nothing));
    assert!(!tree.is("var/spool/cron/crontabs/app"));
    assert_eq!(
        tree.text("var/lib/clonetool/held/var/spool/cron/crontabs/app"),
        "* * * * * /srv/pay\r\nno end"
    );
    let state = std::fs::metadata(tree.path("var/lib/clonetool/held")).unwrap();
    assert_eq!(state.permissions().mode() & 0o7777, 0o700);
    let released = release(&tree.path(""), None).unwrap();
    assert_eq!((released.released.len(), released.kept.len()), (1, 0));
    let after = std::fs::metadata(tree.path("var/spool/cron/crontabs/app")).unwrap();
    assert_eq!(
        (after.ino(), after.mode(), after.mtime_nsec()),
        (before.ino(), before.mode(), before.mtime_nsec())
    );
    assert!(!tree.is("var/lib/clonetool/held"));
    assert!(
        Journal::read(&std::sync::Arc::new(Root::open(&tree.path("")).unwrap()))
            .unwrap()
            .unwrap()
            .held
            .is_empty()
    );
}

#[test]
fn a_note_or_an_empty_directory_has_the_owner_and_mode_of_what_is_held() {
    let tree = Tree::new(&[("etc/exports", "/srv *(rw)\n"), ("var/spool/postfix/deferred/A/A1", "mail")]);
    tree.mode("etc/exports", 0o640);
    tree.mode("var/spool/postfix/deferred", 0o700);
    std::os::unix::fs::chown(tree.path("var/spool/postfix/deferred"), Some(101), Some(102)).unwrap();
    hold(&tree, |draft| {
        away("/etc/exports", note("/srv *(rw)\n"))(draft)?;
        away("/var/spool/postfix/deferred", Instead::Directory)(draft)
    });
    let mode = |path: &str| std::fs::metadata(tree.path(path)).unwrap().mode() & 0o7777;
    assert_eq!((tree.text("etc/exports"), mode("etc/exports")), ("# held\n".to_owned(), 0o640));
    let queue = std::fs::metadata(tree.path("var/spool/postfix/deferred")).unwrap();
    assert_eq!((queue.uid(), queue.gid(), queue.mode() & 0o7777), (101, 102, 0o700));
    assert_eq!(std::fs::read_dir(tree.path("var/spool/postfix/deferred")).unwrap().count(), 0);
    // The standby queued mail of its own: both are there afterwards.
    tree.file("var/spool/postfix/deferred/A/A2", "own");
    let released = release(&tree.path(""), None).unwrap();
    assert_eq!(released.kept, []);
    assert_eq!((tree.text("etc/exports"), mode("etc/exports")), ("/srv *(rw)\n".to_owned(), 0o640));
    assert_eq!(tree.text("var/spool/postfix/deferred/A/A1"), "mail");
    assert_eq!(tree.text("var/spool/postfix/deferred/A/A2"), "own");
}

#[test]
fn nothing_that_was_made_meanwhile_is_overwritten() {
    let tree = Tree::new(&[("etc/cron.d/a", "a"), ("etc/exports", "x"), ("etc/cron.d/b", "b")]);
    hold(&tree, |draft| {
        away("/etc/cron.d/a", Instead::Nothing)(draft)?;
        away("/etc/exports", note("x"))(draft)?;
        away("/etc/cron.d/b", Instead::Nothing)(draft)
    });
    tree.file("etc/cron.d/a", "the standby's");
    tree.file("etc/exports", "the standby's");
    let released = release(&tree.path(""), None).unwrap();
    assert_eq!(released.released.iter().map(|held| &held.name[..]).collect::<Vec<_>>(), ["/etc/cron.d/b"]);
    assert_eq!(released.kept.len(), 2);
    assert_eq!(
        (tree.text("etc/cron.d/a"), tree.text("etc/exports")),
        ("the standby's".into(), "the standby's".into())
    );
    assert_eq!(tree.text("var/lib/clonetool/held/etc/cron.d/a"), "a");
    // Once the place is free, it goes on.
    std::fs::remove_file(tree.path("etc/cron.d/a")).unwrap();
    std::fs::remove_file(tree.path("etc/exports")).unwrap();
    assert_eq!(release(&tree.path(""), None).unwrap().kept, []);
    assert_eq!((tree.text("etc/cron.d/a"), tree.text("etc/exports")), ("a".into(), "x".into()));
}

#[test]
fn one_is_released_by_name_and_an_unknown_name_is_an_error() {
    let tree = Tree::new(&[("etc/cron.d/a", "a"), ("etc/cron.d/b", "b")]);
    hold(&tree, |draft| {
        away("/etc/cron.d/a", Instead::Nothing)(draft)?;
        away("/etc/cron.d/b", Instead::Nothing)(draft)
    });
    assert!(release(&tree.path(""), Some(&["/etc/cron.d/c".to_owned()])).is_err());
    release(&tree.path(""), Some(&["/etc/cron.d/b".to_owned()])).unwrap();
    assert!(tree.is("etc/cron.d/b") && !tree.is("etc/cron.d/a"));
    let left = crate::prepare::held(&tree.path("")).unwrap();
    assert_eq!(left.iter().map(|held| &held.name[..]).collect::<Vec<_>>(), ["/etc/cron.d/a"]);
}

#[test]
fn a_drop_in_goes_and_its_directory_stays_if_it_has_others() {
    let tree = Tree::new(&[("etc/systemd/system/b.service.d/own.conf", "[Unit]\n")]);
    hold(&tree, |draft| {
        for unit in ["a", "b", "c"] {
            let path = format!("/etc/systemd/system/{unit}.service.d/zz.conf");
            let undo = draft.block(&path, "[Unit]\n#\n", "held")?;
            draft.hold("unit", unit, "blocked", vec![undo]);
        }
        Ok(())
    });
    tree.file("etc/systemd/system/c.service.d/zz.conf", "changed");
    let released = release(&tree.path(""), None).unwrap();
    assert_eq!((released.released.len(), released.kept.len()), (2, 1));
    assert!(!tree.is("etc/systemd/system/a.service.d"));
    assert!(tree.is("etc/systemd/system/b.service.d/own.conf"));
    assert!(tree.is("etc/systemd/system/c.service.d/zz.conf"));
}

#[test]
fn a_link_is_held_itself_and_what_it_leads_to_stays() {
    let tree = Tree::new(&[("srv/crontab", "x")]);
    tree.link("etc/cron.d/a", "../../srv/crontab");
    tree.link("etc/cron.d/out", "../../../../../../etc/passwd");
    hold(&tree, |draft| {
        away("/etc/cron.d/a", Instead::Nothing)(draft)?;
        away("/etc/cron.d/out", Instead::Nothing)(draft)
    });
    assert!(tree.is("srv/crontab") && !tree.is("etc/cron.d/a") && !tree.is("etc/cron.d/out"));
    release(&tree.path(""), None).unwrap();
    assert_eq!(
        std::fs::read_link(tree.path("etc/cron.d/a")).unwrap(),
        std::path::Path::new("../../srv/crontab")
    );
}

#[test]
fn held_things_of_an_earlier_life_are_not_overwritten() {
    let tree = Tree::new(&[("etc/cron.d/a", "new"), ("var/lib/clonetool/held/etc/cron.d/a", "old")]);
    hold(&tree, away("/etc/cron.d/a", Instead::Nothing));
    assert_eq!(tree.text("var/lib/clonetool/held/etc/cron.d/a"), "old");
    release(&tree.path(""), None).unwrap();
    assert_eq!(tree.text("etc/cron.d/a"), "new");
}
