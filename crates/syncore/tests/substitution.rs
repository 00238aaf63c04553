//! What is made of two files on a standby, through a sync under the catalogue: each kind once, and again.
//!
//! Why: that a line is right is tested where it is made; here it is whether the file gets there, keeps what the standby
//! has, and is left alone by the next run. What can go wrong: a file that only one side has, and one that is no file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use syncore::monitor::Silent;
use syncore::prepare::{Journal, STATE_DIRECTORY};
use syncore::profile::{Profile, catalogues};
use syncore::session::{Approval, Job, Location, Options, Report, run};

fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn get(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap()
}

/// Production, and a standby that was prepared, of one of the two platforms.
struct Pair {
    production: PathBuf,
    standby: PathBuf,
    catalogue: &'static str,
    _temp: tempfile::TempDir,
}

impl Pair {
    fn new(catalogue: &'static str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (production, standby) = (temp.path().join("production"), temp.path().join("standby"));
        for root in [&production, &standby] {
            match catalogue {
                "solaris" => {
                    put(root, "etc/release", "Solaris 8 2/04 s28s_hw4wos_05a SPARC\n");
                    put(root, "etc/path_to_inst", "#path_to_inst_bootstrap_1\n");
                }
                _ => put(root, "etc/os-release", "ID=debian\n"),
            }
        }
        fs::create_dir_all(production.join("var/lib/clonetool")).unwrap();
        let journal = Journal {
            hostname: "db2".into(),
            source_hostname: "db1".into(),
            complete: true,
            ..Journal::default()
        };
        let path = format!("{STATE_DIRECTORY}/journal.json");
        put(&standby, &path, &serde_json::to_string(&journal).unwrap());
        Self { production, standby, catalogue, _temp: temp }
    }

    fn sync(&self) -> Report {
        let (name, text) = catalogues().iter().find(|(name, _)| *name == self.catalogue).unwrap();
        let job = Job {
            source: Location::Local(self.production.clone()),
            destination: Location::Local(self.standby.clone()),
            rules: Profile::parse(name, text, &|_| None).unwrap().rules(),
            options: Options { delete: true, ..Options::default() },
        };
        run(&job, &mut |_| Approval::Run, &Silent).unwrap()
    }

    /// Syncs `path` and looks at it; a second run finds nothing to do.
    fn made(&self, path: &str, production: &str, standby: &str) -> String {
        put(&self.production, path, production);
        put(&self.standby, path, standby);
        assert_eq!(self.sync().problems, []);
        let made = get(&self.standby, path);
        assert!(self.sync().plan.is_none(), "a second run changes more than {made}");
        assert_eq!(get(&self.standby, path), made);
        made
    }

    /// Syncs, and gives the one problem that there has to be.
    fn problem(&self) -> String {
        let report = self.sync();
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        report.problems[0].to_string()
    }
}

#[test]
fn a_parameter_for_the_kernel_comes_without_productions_devices() {
    let pair = Pair::new("linux");
    assert_eq!(
        pair.made(
            "etc/default/grub",
            "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"mitigations=off resume=UUID=p\"\nGRUB_DISABLE_OS_PROBER=false\n",
            "GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX=\"resume=UUID=s\"\nGRUB_DISABLE_OS_PROBER=true\n",
        ),
        "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"mitigations=off resume=UUID=s\"\nGRUB_DISABLE_OS_PROBER=true\n"
    );
    assert_eq!(
        pair.made("etc/kernel/cmdline", "root=UUID=p ro ip=dhcp quiet\n", "root=UUID=s ro\n"),
        "root=UUID=s ro quiet\n"
    );
    // A file that is new on production.
    put(
        &pair.production,
        "etc/default/grub.d/50-x.cfg",
        "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet rd.lvm.lv=vg/p\"\n",
    );
    put(&pair.production, "etc/cmdline.d/10-x.conf", "root=UUID=p\n");
    assert!(
        pair.problem().starts_with("/etc/cmdline.d/10-x.conf: cannot write the content: it says root=, ")
    );
    assert_eq!(get(&pair.standby, "etc/default/grub.d/50-x.cfg"), "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n");
    assert!(!pair.standby.join("etc/cmdline.d/10-x.conf").exists());
}

#[test]
fn a_new_encrypted_volume_is_known_and_not_opened() {
    let pair = Pair::new("linux");
    assert_eq!(
        pair.made(
            "etc/crypttab",
            "root UUID=p none luks,initramfs\ndata UUID=d none luks\n",
            "root UUID=s none luks,initramfs\n",
        ),
        "root UUID=s none luks,initramfs\ndata UUID=d none luks,noauto\n"
    );
}

#[test]
fn solaris_gets_what_is_productions_and_keeps_its_root() {
    let pair = Pair::new("solaris");
    let standby = "/dev/dsk/c1t0d0s0 /dev/rdsk/c1t0d0s0 / ufs 1 no -\n";
    let made = pair.made(
        "etc/vfstab",
        "/dev/md/dsk/d0 /dev/md/rdsk/d0 / ufs 1 no -\n/dev/dsk/c2t0d0s6 /dev/rdsk/c2t0d0s6 /u01 ufs 2 yes -\n",
        standby,
    );
    assert_eq!(made, format!("{standby}/dev/dsk/c2t0d0s6 /dev/rdsk/c2t0d0s6 /u01 ufs 2 no -\n"));
    assert_eq!(
        pair.made(
            "etc/system",
            "set maxusers=80\nrootdev:/pseudo/md@0:0,0,blk\nset vxio:vol_rootdev_is_volume=1\n",
            "set maxusers=40\n",
        ),
        "set maxusers=80\n* rootdev:/pseudo/md@0:0,0,blk\n* set vxio:vol_rootdev_is_volume=1\n"
    );
    put(
        &pair.production,
        "etc/system",
        "* Begin MDD root info (do not edit)\nrootdev:/pseudo/md@0:0,0,blk\n",
    );
    let before = get(&pair.standby, "etc/system");
    assert_eq!(
        pair.problem(),
        "/etc/system: cannot write the content: the block that begins at line 1 does not end"
    );
    assert_eq!(get(&pair.standby, "etc/system"), before);
}

#[test]
fn the_hosts_of_solaris_are_one_file_and_a_link_stays_a_link() {
    let pair = Pair::new("solaris");
    for root in [&pair.production, &pair.standby] {
        put(root, "etc/inet/hosts", "");
        symlink("./inet/hosts", root.join("etc/hosts")).unwrap();
    }
    put(&pair.standby, "etc/hostname.qfe0", "db2-qfe0\n");
    let made = pair.made(
        "etc/inet/hosts",
        "127.0.0.1\tlocalhost\n10.0.0.5\tdb1 loghost\n10.0.0.9\tprinter\n",
        "127.0.0.1\tlocalhost\n10.0.0.5\tdb1\n10.0.0.7\tdb2 loghost\n10.1.0.7 db2-qfe0\n10.1.0.8 db2-old\n",
    );
    assert_eq!(
        made,
        "127.0.0.1\tlocalhost\n10.0.0.7\tdb2 loghost\n10.1.0.7 db2-qfe0\n10.0.0.5\tdb1\n10.0.0.9\tprinter\n"
    );
    assert_eq!(fs::read_link(pair.standby.join("etc/hosts")).unwrap(), Path::new("./inet/hosts"));
    // Where only one of the two is a link, nobody can tell what is whose.
    fs::remove_file(pair.production.join("etc/hosts")).unwrap();
    put(&pair.production, "etc/hosts", "10.0.0.5 db1\n");
    assert!(pair.problem().starts_with("/etc/hosts: "));
    assert_eq!(fs::read_link(pair.standby.join("etc/hosts")).unwrap(), Path::new("./inet/hosts"));
}

#[test]
fn a_file_with_what_is_the_standbys_own_does_not_go() {
    let pair = Pair::new("linux");
    for path in ["etc/crypttab", "etc/default/grub.d/x.cfg", "etc/motd"] {
        put(&pair.standby, path, "root UUID=s none luks\n");
    }
    fs::create_dir_all(pair.production.join("etc/default/grub.d")).unwrap();
    assert_eq!(pair.sync().problems, []);
    assert!(!pair.standby.join("etc/motd").exists());
    assert_eq!(get(&pair.standby, "etc/crypttab"), "root UUID=s none luks\n");
    assert!(pair.standby.join("etc/default/grub.d/x.cfg").exists());
    // Nor with the directory that it is in.
    fs::remove_dir(pair.production.join("etc/default/grub.d")).unwrap();
    pair.sync();
    assert!(pair.standby.join("etc/default/grub.d/x.cfg").exists());
    // Nor for a link that leads to a file of production's.
    put(&pair.production, "etc/elsewhere", "root UUID=p none luks\n");
    symlink("elsewhere", pair.production.join("etc/crypttab")).unwrap();
    pair.sync();
    assert_eq!(get(&pair.standby, "etc/crypttab"), "root UUID=s none luks\n");
    // Nor for another name of one.
    fs::remove_file(pair.production.join("etc/crypttab")).unwrap();
    fs::hard_link(pair.production.join("etc/elsewhere"), pair.production.join("etc/crypttab")).unwrap();
    pair.sync();
    assert_eq!(get(&pair.standby, "etc/crypttab"), "root UUID=s none luks\n");
}

#[test]
fn what_the_preparation_changed_in_a_directory_of_such_files_is_no_less_synced() {
    let pair = Pair::new("linux");
    let path = "etc/default/grub.d/50-cloud.cfg";
    let mut journal: serde_json::Value =
        serde_json::from_str(&get(&pair.standby, &format!("{STATE_DIRECTORY}/journal.json"))).unwrap();
    let line = |path: &str| syncore::prepare::Line {
        path: syncore::tree::RelPath::new(path).unwrap(),
        class: syncore::rules::Class::B,
        why: String::new(),
        before: None,
        after: None,
        original: None,
    };
    journal["lines"] = serde_json::to_value([line(path), line("etc/mkinitcpio.conf")]).unwrap();
    put(&pair.standby, &format!("{STATE_DIRECTORY}/journal.json"), &journal.to_string());
    put(&pair.production, "etc/mkinitcpio.conf", "HOOKS=(autodetect)\n");
    put(&pair.standby, "etc/mkinitcpio.conf", "HOOKS=()\n");
    let made = pair.made(path, "GRUB_CMDLINE_LINUX=\"a resume=p\"\n", "GRUB_CMDLINE_LINUX=\"resume=s\"\n");
    assert_eq!(made, "GRUB_CMDLINE_LINUX=\"a resume=s\"\n");
    assert_eq!(get(&pair.standby, "etc/mkinitcpio.conf"), "HOOKS=()\n");
}
