use super::super::tests::{Fixture, filesystem};
use super::*;
use crate::prepare::target::Layer;

fn fixture(fstab: &str) -> Fixture {
    let mut fixture = Fixture::new(&[("etc/fstab", fstab)]);
    fixture.target.filesystems =
        vec![filesystem("", "ext4", "new-root"), filesystem("boot", "ext4", "new-boot")];
    fixture
}

fn planned(fixture: &Fixture) -> String {
    fixture.with(|task, draft| {
        guard(task, draft).unwrap();
        plan(task, draft).unwrap();
        draft.text(FSTAB).unwrap().unwrap()
    })
}

#[test]
fn each_line_is_the_systems_or_held_or_none_of_our_business() {
    let fixture = fixture(
        "# <file system> <mount point>\n\
         UUID=old-root /  ext4 errors=remount-ro 0 1\n\
         /dev/sda1\t/boot\text4\tdefaults\t0\t2\n\
         UUID=old-swap none swap sw 0 0\n\
         /dev/mapper/data-db /srv/db xfs defaults,x-systemd.automount 0 2\n\
         filer:/export /mnt/filer nfs ro,_netdev 0 0\n\
         /srv/db/exported /export none bind 0 0\n\
         /opt/x /opt/y none bind 0 0\n\
         tmpfs /tmp tmpfs size=1g 0 0\n\
         /dev/sr0 /media/cdrom udf,iso9660 user,noauto 0 0\n",
    );
    assert_eq!(
        planned(&fixture),
        "# <file system> <mount point>\n\
         UUID=new-root /  ext4 errors=remount-ro 0 1\n\
         UUID=new-boot\t/boot\text4\tdefaults\t0\t2\n\
         /dev/mapper/data-db /srv/db xfs x-clonetool.automount,noauto,x-clonetool.held 0 2\n\
         filer:/export /mnt/filer nfs ro,_netdev,noauto,x-clonetool.held 0 0\n\
         /srv/db/exported /export none bind,noauto,x-clonetool.held 0 0\n\
         /opt/x /opt/y none bind 0 0\n\
         tmpfs /tmp tmpfs size=1g 0 0\n\
         /dev/sr0 /media/cdrom udf,iso9660 user,noauto 0 0\n"
    );
    fixture.with(|task, draft| {
        plan(task, draft).unwrap();
        let held: Vec<&str> = draft.held.iter().map(|held| held.name.as_str()).collect();
        assert_eq!(
            held,
            ["/srv/db (/dev/mapper/data-db)", "/mnt/filer (filer:/export)", "/export (/srv/db/exported)"]
        );
        assert_eq!(draft.source_ids, ["old-root", "old-swap"]);
        assert!(draft.replaced.iter().any(|row| row.what == "swap" && row.new == "(dropped)"));
    });
}

#[test]
fn planning_what_is_planned_already_edits_nothing() {
    let fixture = fixture(
        "UUID=old-root / ext4 defaults 0 1\nLABEL=data /data ext4\nUUID=s none swap sw 0 0\n/dev/sdb1 /x auto auto",
    );
    let once = planned(&fixture);
    fixture.put("etc/fstab", once.as_bytes());
    fixture.with(|task, draft| {
        plan(task, draft).unwrap();
        assert_eq!(draft.edits(), []);
        assert_eq!(draft.held.len(), 2, "what is held stays listed");
    });
}

#[test]
fn strange_files_keep_what_is_not_meant() {
    // CRLF, no newline at the end, missing fields, escapes, Latin-1, two lines for the root.
    let mut fixture = fixture("");
    fixture.put(
        "etc/fstab",
        b"# \xe9\r\nUUID=old / ext4 defaults 0 1\r\n\r\nlonely\r\n/dev/sda9 /data\\040disk\r\n\
          LABEL=my\\040root / ext4 defaults 0 1\r\nUUID=b /boot/ ext4",
    );
    fixture.target.filesystems[0].label = Some("my root".into());
    fixture.with(|task, draft| {
        plan(task, draft).unwrap();
        assert_eq!(
            draft.read(FSTAB).unwrap().unwrap(),
            b"# \xe9\r\nUUID=new-root / ext4 defaults 0 1\r\n\r\nlonely\r\n\
              /dev/sda9 /data\\040disk auto noauto,x-clonetool.held\r\n\
              LABEL=my\\040root / ext4 defaults 0 1\r\nUUID=new-boot /boot/ ext4"
        );
        let notes: Vec<&str> = draft.findings.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("lonely") && notes[1].contains("2 lines for /"));
    });
    fixture.put("etc/fstab", b"UUID=1 / ext4\n\0\n");
    fixture.with(|task, draft| assert!(matches!(plan(task, draft), Err(PrepareError::Malformed { .. }))));
}

#[test]
fn what_the_system_needs_has_to_be_mounted() {
    for point in ["/boot/efi", "/usr", "/var/", "/efi"] {
        let mut fixture = fixture(&format!("UUID=1 / ext4 defaults 0 1\nUUID=2 {point} ext4 defaults 0 2\n"));
        fixture.with(|task, draft| {
            assert!(
                matches!(guard(task, draft), Err(PrepareError::NotMounted { mount_point, .. }) if mount_point == normal(point))
            );
        });
        // Said to have no counterpart, it is not missed.
        fixture.options.device_map = vec![("UUID=2".into(), None)];
        fixture.with(|task, draft| {
            guard(task, draft).unwrap();
            plan(task, draft).unwrap();
            assert!(!draft.text(FSTAB).unwrap().unwrap().contains("UUID=2"));
        });
    }
}

#[test]
fn a_device_that_was_named_is_taken() {
    let mut fixture =
        fixture("UUID=1 / ext4 defaults 0 1\n/dev/sdb1 /data xfs defaults 0 0\n/dev/sdc1 /old xfs ro 0 0\n");
    fixture.options.device_map =
        vec![("/dev/sdb1".into(), Some("LABEL=my data".into())), ("/dev/sdc1".into(), None)];
    fixture.options.root_device = Some("/dev/vda2".into());
    assert_eq!(
        planned(&fixture),
        "/dev/vda2 / ext4 defaults 0 1\nLABEL=my\\040data /data xfs defaults 0 0\n\
         UUID=new-boot\t/boot\text4\tdefaults\t0 2\n"
    );
}

#[test]
fn what_is_mounted_and_has_no_line_gets_one() {
    let mut fixture = fixture("UUID=1 / ext4 defaults 0 1");
    fixture.target.filesystems.push(filesystem("boot/efi", "vfat", "AAAA-BBBB"));
    assert_eq!(
        planned(&fixture),
        "UUID=new-root / ext4 defaults 0 1\nUUID=new-boot\t/boot\text4\tdefaults\t0 2\n\
         UUID=AAAA-BBBB\t/boot/efi\tvfat\tumask=0077\t0 2\n"
    );
    std::fs::remove_file(fixture.path().join("etc/fstab")).unwrap();
    assert!(planned(&fixture).starts_with("UUID=new-root\t/\text4\tdefaults\t0 1\n"));
}

#[test]
fn another_filesystem_and_another_subvolume_are_said() {
    let mut fixture = fixture(
        "UUID=1 / btrfs subvol=/@,compress=zstd,noatime 0 0\nUUID=1 /home btrfs subvolid=257,noatime 0 0\n",
    );
    fixture.target.filesystems.pop();
    let mut home = filesystem("home", "btrfs", "new-root");
    home.subvolume = Some("/@home2".into());
    fixture.target.filesystems.push(home);
    assert_eq!(
        planned(&fixture),
        "UUID=new-root / ext4 noatime 0 0\nUUID=new-root /home btrfs noatime,subvol=/@home2 0 0\n"
    );
}

#[test]
fn swap_is_the_targets_in_order_and_a_file_when_it_is_there() {
    let mut fixture = fixture(
        "UUID=1 / ext4 defaults 0 1\nUUID=s1 none swap sw 0 0\n/swapfile none swap sw 0 0\n\
         /gone none swap sw 0 0\n/dev/mapper/vg-s2 none swap sw 0 0\n/dev/zram0 none swap sw 0 0\n",
    );
    fixture.target.filesystems.pop();
    fixture.put("swapfile", b"");
    let mut volume = filesystem("", "swap", "new-s2");
    volume.layers = vec![Layer::Lvm { group: "vg0".into(), volume: "swap".into() }];
    fixture.target.filesystems.extend([filesystem("", "swap", "new-s1"), volume]);
    assert_eq!(
        planned(&fixture),
        "UUID=new-root / ext4 defaults 0 1\nUUID=new-s1 none swap sw 0 0\n/swapfile none swap sw 0 0\n\
         /dev/mapper/vg0-swap none swap sw 0 0\n/dev/zram0 none swap sw 0 0\n"
    );
}

#[test]
fn the_check_names_a_device_that_is_not_there() {
    let fixture = fixture("");
    let wrong = |fstab: &str, named: &[String]| wrong_lines(fstab.as_bytes(), &fixture.target, named);
    let good = "UUID=new-root / ext4\nUUID=gone /data ext4 noauto\nproc /proc proc\nfiler:/x /y nfs\n/swapfile none swap\n";
    assert_eq!(wrong(good, &[]), Vec::<String>::new());
    assert_eq!(wrong("UUID=old / ext4\n", &[]).len(), 1);
    assert_eq!(wrong("UUID=old / ext4\n", &["UUID=old".into()]).len(), 0);
    assert_eq!(wrong("UUID=s none swap sw\n", &[]).len(), 1);
    assert_eq!(wrong("UUID=new-boot / ext4\n", &[]).len(), 1, "the right device at the wrong place");
}
