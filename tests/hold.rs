//! What a prepared root holds: `clonetool hold` shows it and puts it back, also from a filesystem of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use syncore::monitor::Silent;
use syncore::prepare::{self, Options, Target};

use crate::common::plant::{chattr, chmod, set_xattr, write};
use crate::common::{Workdir, clonetool, lacks, mount};

fn prepared(root: &Path) {
    write(&root.join("etc/os-release"), "ID=debian\n");
    write(&root.join("etc/hostname"), "production\n");
    write(&root.join("usr/lib/systemd/systemd"), "");
    write(&root.join("etc/cron.d/pay"), "* * * * * root /srv/pay\n");
    write(&root.join("etc/systemd/system/pay.service"), "[Service]\nExecStart=/srv/pay\n");
    fs::create_dir_all(root.join("etc/systemd/system/multi-user.target.wants")).expect("mkdir");
    symlink("../pay.service", root.join("etc/systemd/system/multi-user.target.wants/pay.service"))
        .expect("link");
    let (hostname, root_device) = (Some("standby".into()), Some("/dev/vda1".into()));
    let options = Options { hostname, root_device, ..Options::default() };
    let plan = prepare::plan(root, &Target::default(), &options).expect("plan");
    plan.carry_out(&Silent).expect("prepare");
}

#[test]
fn the_list_names_what_is_held_and_a_release_puts_it_back() {
    let work = Workdir::new("hold-list");
    let root = work.make("root");
    prepared(&root);
    assert!(!root.join("etc/cron.d/pay").exists());
    let list = clonetool(["hold".as_ref(), "list".as_ref(), root.as_os_str()]).expect_code(0);
    assert_eq!(
        list.stdout,
        "cron  /etc/cron.d/pay: moved away\nunit  pay.service: a condition keeps it from starting\n"
    );
    let release = |arguments: &[&str]| {
        let mut all: Vec<&std::ffi::OsStr> = ["hold", "release", "--root"].map(AsRef::as_ref).to_vec();
        all.push(root.as_os_str());
        all.extend(arguments.iter().map(std::ffi::OsStr::new));
        clonetool(all)
    };
    release(&["nothing"]).expect_code(2).expect_stderr("nothing that is held is called nothing");
    write(&root.join("etc/cron.d/pay"), "the standby's own\n");
    let kept = release(&["--all"]).expect_code(4);
    assert!(
        kept.stdout.contains("released   pay.service\n")
            && kept.stdout.contains("still held /etc/cron.d/pay: ")
    );
    assert!(!root.join("etc/systemd/system/pay.service.d").exists());
    fs::remove_file(root.join("etc/cron.d/pay")).expect("remove");
    release(&["/etc/cron.d/pay"]).expect_code(0);
    assert_eq!(fs::read_to_string(root.join("etc/cron.d/pay")).expect("read"), "* * * * * root /srv/pay\n");
    let list = clonetool(["hold".as_ref(), "list".as_ref(), root.as_os_str()]).expect_code(0);
    assert_eq!(list.stdout, "nothing is held\n");
}

#[test]
fn what_lies_on_another_filesystem_is_held_there_with_all_its_attributes() {
    if lacks("hold::what_lies_on_another_filesystem_is_held_there_with_all_its_attributes", &["mkfs.ext4"]) {
        return;
    }
    let work = Workdir::new("hold-elsewhere");
    let root = work.make("root");
    fs::create_dir_all(root.join("var/spool")).expect("mkdir");
    mount::loop_image(&work.join("spool.img"), "ext4", 16 << 20, &root.join("var/spool"));
    let crontab = root.join("var/spool/cron/crontabs/app");
    write(&crontab, "* * * * * /srv/pay\n");
    chmod(&crontab, 0o400);
    set_xattr(&crontab, "user.owner", b"ops");
    chattr("+i", &crontab);
    let before = fs::metadata(&crontab).expect("stat");
    prepared(&root);
    assert!(!crontab.exists());
    let held = root.join("var/spool/.clonetool-held/var/spool/cron/crontabs/app");
    assert_eq!(fs::read_to_string(&held).expect("read"), "* * * * * /srv/pay\n");
    assert_eq!(fs::metadata(root.join("var/spool/.clonetool-held")).expect("stat").mode() & 0o7777, 0o700);
    clonetool(["hold".as_ref(), "release".as_ref(), "--all".as_ref(), "--root".as_ref(), root.as_os_str()])
        .expect_code(0);
    let after = fs::metadata(&crontab).expect("stat");
    assert_eq!(
        (after.ino(), after.mode(), after.mtime_nsec()),
        (before.ino(), before.mode(), before.mtime_nsec())
    );
    assert!(fs::remove_file(&crontab).is_err(), "it is still immutable");
    chattr("-i", &crontab);
    assert!(!root.join("var/spool/.clonetool-held").exists());
}
