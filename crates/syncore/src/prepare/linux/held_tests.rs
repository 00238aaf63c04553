//! What is moved away, and what stays.

use proptest::prelude::*;

use super::super::testing::{Tree, own};
use super::*;
use crate::prepare::release;

#[test]
fn crontabs_at_jobs_and_lingering_users_are_held_in_every_familys_place() {
    let tree = Tree::new(&[
        ("var/spool/cron/crontabs/app", "* * * * * a\n"),
        ("var/spool/cron/root", "* * * * * b\n"),
        ("var/spool/cron/tabs/web", "* * * * * c\n"),
        ("var/spool/cron/atjobs/a0001", "x"),
        ("var/spool/cron/atjobs/.SEQ", "1"),
        ("var/spool/at/a0002", "x"),
        ("var/spool/at/spool/out", "x"),
        ("var/lib/systemd/linger/app", ""),
    ]);
    let report = tree.prepare(&own("b"));
    for gone in ["cron/crontabs/app", "cron/root", "cron/tabs/web", "cron/atjobs/a0001", "at/a0002"] {
        assert!(!tree.is(&format!("var/spool/{gone}")), "{gone}");
        assert!(report.held.iter().any(|held| held.name == format!("/var/spool/{gone}")), "{gone}");
    }
    assert!(!tree.is("var/lib/systemd/linger/app"));
    assert!(tree.is("var/spool/cron/atjobs/.SEQ") && tree.is("var/spool/at/spool/out"));
    assert_eq!(tree.again(&own("b")).edits, []);
    assert_eq!(release(&tree.path(""), None).unwrap().kept, []);
    assert_eq!(tree.text("var/spool/cron/root"), "* * * * * b\n");
    assert!(tree.is("var/spool/at/a0002") && tree.is("var/lib/systemd/linger/app"));
}

#[test]
fn of_the_jobs_of_cron_those_of_the_distribution_stay() {
    let tree = Tree::new(&[
        ("etc/cron.d/e2scrub_all", "x"),
        ("etc/cron.d/backup", "x"),
        ("etc/cron.daily/logrotate", "x"),
        ("etc/cron.daily/dpkg", "x"),
        ("etc/cron.daily/0pay", "x"),
        ("var/lib/dpkg/info/a.list", "/etc/cron.d/e2scrub_all\n/etc/cron.daily/dpkg\n/etc/cron.d/backup\n"),
    ]);
    tree.prepare(&own("b"));
    for stays in ["cron.d/e2scrub_all", "cron.daily/dpkg"] {
        assert!(tree.is(&format!("etc/{stays}")), "{stays}");
    }
    // Not even a package's: it does production's work. And a system name that no package owns is no system job.
    for gone in ["cron.d/backup", "cron.daily/0pay", "cron.daily/logrotate"] {
        assert!(!tree.is(&format!("etc/{gone}")), "{gone}");
    }
}

#[test]
fn a_job_in_the_system_crontab_becomes_a_comment_and_comes_back() {
    let crontab = "SHELL=/bin/sh\r\n# m h\r\n17 * * * *\troot\tcd / && run-parts --report /etc/cron.hourly\r\n\
        25 6 * * * root test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }\r\n\
        -*/15 * * * * root test -x /usr/lib/cron/run-crons && /usr/lib/cron/run-crons >/dev/null 2>&1\r\n\
        5 5 * * * root run-parts /srv/jobs\r\n* * * * * app /srv/pay --day=1";
    let tree = Tree::new(&[("etc/crontab", crontab)]);
    tree.mode("etc/crontab", 0o400);
    tree.prepare(&own("b"));
    let after = tree.text("etc/crontab");
    let held: Vec<&str> = after.lines().filter(|line| line.starts_with("# held by clonetool: ")).collect();
    assert_eq!(held.len(), 2, "{after}");
    assert!(held[0].ends_with("run-parts /srv/jobs") && held[1].ends_with("app /srv/pay --day=1"));
    assert_eq!(tree.again(&own("b")).edits, []);
    release(&tree.path(""), None).unwrap();
    assert_eq!(tree.text("etc/crontab"), crontab);
}

#[test]
fn queued_mail_and_exports_are_held_and_empty_queues_are_left_alone() {
    let tree = Tree::new(&[
        ("var/spool/postfix/deferred/A/A1", "mail"),
        ("var/spool/postfix-out/active/B1", "mail"),
        ("srv/queue/hold/C1", "mail"),
        ("etc/postfix/main.cf", "queue_directory = /srv/queue\n"),
        ("var/spool/exim4/input/1-D", "mail"),
        ("etc/exports", "# all\n/srv *(rw)\n"),
        ("etc/exports.d/x.exports", "/srv2 *(rw)\n"),
        ("var/mail/root", "kept"),
    ]);
    std::fs::create_dir_all(tree.path("var/spool/postfix/incoming")).unwrap();
    tree.prepare(&own("b"));
    for queue in [
        "var/spool/postfix/deferred",
        "var/spool/postfix-out/active",
        "srv/queue/hold",
        "var/spool/exim4/input",
    ] {
        assert_eq!(std::fs::read_dir(tree.path(queue)).unwrap().count(), 0, "{queue}");
    }
    assert!(!tree.is("var/lib/clonetool/held/var/spool/postfix/incoming") && tree.is("var/mail/root"));
    assert_eq!(tree.text("etc/exports"), "# all\n# held by clonetool: /srv *(rw)\n");
    assert!(!tree.is("etc/exports.d/x.exports"));
    assert_eq!(release(&tree.path(""), None).unwrap().kept, []);
    assert_eq!(tree.text("var/spool/postfix/deferred/A/A1"), "mail");
    assert_eq!(tree.text("etc/exports"), "# all\n/srv *(rw)\n");
}

#[test]
fn hooks_that_no_package_owns_are_held_and_data_is_named() {
    let tree = Tree::new(&[
        ("etc/network/if-up.d/openssh-server", "x"),
        ("etc/network/if-up.d/vip", "ip addr add 10.0.0.5/24 dev eth0"),
        ("etc/NetworkManager/dispatcher.d/99-vip", "x"),
        ("etc/systemd/system-generators/gen", "x"),
        ("var/lib/mysql/ibdata1", "x"),
    ]);
    let report = tree.prepare(&own("b"));
    assert!(tree.is("etc/network/if-up.d/openssh-server"));
    assert!(!tree.is("etc/network/if-up.d/vip") && !tree.is("etc/NetworkManager/dispatcher.d/99-vip"));
    assert!(!tree.is("etc/systemd/system-generators/gen") && tree.is("var/lib/mysql/ibdata1"));
    assert!(report.held.iter().any(|held| held.kind == "data" && held.name == "/var/lib/mysql"));
}

proptest! {
    #[test]
    fn no_job_of_production_survives_in_a_crontab(content in "([ \\t]{0,2}([*] ){5}(root )?(cd / && )?(run-parts )?(/srv/[a-z./]{0,5}|/etc/cron[.]daily/[.][.]/x|[$]X)?\r?\n?){0,4}") {
        let after = without_jobs(content.as_bytes());
        for line in Lines::of(&after).0 {
            prop_assert!(is_comment(&line.content, b'#') || is_run_parts(&line.content));
            prop_assert!(is_comment(&line.content, b'#') || !String::from_utf8_lossy(&line.content).contains("/srv"));
        }
        prop_assert_eq!(without_jobs(&after), after);
    }
}
