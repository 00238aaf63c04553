use super::super::tests::{Fixture, filesystem};
use super::*;
use crate::prepare::target::{Disk, Table};

const OLD: &str = "11111111111111111111111111111111";
const NEW: &str = "22222222222222222222222222222222";

fn fixture(files: &[(&str, &str)]) -> Fixture {
    let mut fixture = Fixture::new(files);
    fixture.put("etc/machine-id", format!("{NEW}\n").as_bytes());
    fixture.machine_id = Some(OLD.into());
    fixture.target.filesystems =
        vec![filesystem("", "xfs", "new-root"), filesystem("boot/efi", "vfat", "AAAA-BBBB")];
    fixture
}

fn planned(fixture: &Fixture, paths: &[&str]) -> Vec<Option<String>> {
    fixture.with(|task, draft| {
        plan(task, &mut Rewriter::new(task, false), draft).unwrap();
        paths.iter().map(|path| draft.text(path).unwrap()).collect()
    })
}

fn block(lines: &str) -> String {
    let text = format!("{BLOCK_HEAD}{lines}");
    format!("{text}{}", "#".repeat(BLOCK_BYTES - text.len()))
}

#[test]
fn a_boot_entry_gets_the_new_machine_id_and_the_new_root() {
    let old = format!("/boot/loader/entries/{OLD}-5.14.0.conf");
    let new = format!("/boot/loader/entries/{NEW}-5.14.0.conf");
    let rescue = format!("/boot/loader/entries/{OLD}-0-rescue.conf");
    let fixture = fixture(&[
        (
            &old[1..],
            &format!(
                "title RHEL\nlinux /{OLD}/5.14.0/linux\noptions root=UUID=old ro $tuned_params\nid {OLD}\n"
            ),
        ),
        (&rescue[1..], "options root=UUID=old\n"),
        (&format!("boot/vmlinuz-0-rescue-{OLD}"), "kernel"),
        ("boot/loader/entries/arch.conf", "title Arch\noptions root=PARTUUID=x rw"),
    ]);
    let texts = planned(
        &fixture,
        &[&old, &new, &rescue, "/boot/loader/entries/arch.conf", &format!("/boot/vmlinuz-0-rescue-{OLD}")],
    );
    assert_eq!(texts[0], None);
    assert_eq!(
        texts[1].as_deref().unwrap(),
        format!(
            "title RHEL\nlinux /{NEW}/5.14.0/linux\noptions root=UUID=new-root ro $tuned_params\nid {NEW}\n"
        )
    );
    assert_eq!((&texts[2], &texts[4]), (&None, &None));
    assert_eq!(texts[3].as_deref().unwrap(), "title Arch\noptions root=UUID=new-root rw");
}

#[test]
fn grubs_environment_keeps_its_length() {
    let mut fixture = fixture(&[
        (
            "boot/grub2/grubenv",
            &block(&format!("saved_entry={OLD}-4.18\nkernelopts=root=UUID=old ro\nboot_success=1\n")),
        ),
        ("boot/grub/grubenv", &block("saved_entry=gnulinux-advanced-old>x\nnext_entry=3\n")),
    ]);
    let texts = planned(&fixture, &["/boot/grub2/grubenv", "/boot/grub/grubenv"]);
    let wanted = format!("saved_entry={NEW}-4.18\nkernelopts=root=UUID=new-root ro\nboot_success=1\n");
    assert_eq!(texts[0].as_deref().unwrap(), block(&wanted));
    assert_eq!(texts[1].as_deref().unwrap(), block(""));
    fixture.put("boot/grub/grubenv", b"no block");
    fixture.with(|task, draft| {
        let error = plan(task, &mut Rewriter::new(task, false), draft).unwrap_err();
        assert!(matches!(error, PrepareError::Malformed { .. }));
    });
    let long = block(&format!("kernelopts={}\n", "x".repeat(980)));
    fixture.target.filesystems[0].uuid = Some("a-uuid-that-makes-it-too-long-for-its-block".into());
    fixture.put("boot/grub/grubenv", long.as_bytes());
    fixture.with(|task, draft| assert!(plan(task, &mut Rewriter::new(task, false), draft).is_err()));
}

#[test]
fn stubs_on_the_efi_partition_find_the_new_filesystem() {
    let fixture = fixture(&[
        (
            "boot/efi/EFI/redhat/grub.cfg",
            "search --no-floppy --fs-uuid --set=dev 0a3407de-014b-458b-b5c1-848e92a327a3\nset prefix=($dev)/grub2\n",
        ),
        (
            "boot/efi/EFI/full/grub.cfg",
            "menuentry 'x' { search --fs-uuid 0a3407de-014b-458b-b5c1-848e92a327a3 }\n",
        ),
        ("boot/grub2/device.map", "(hd0) /dev/sda\n"),
    ]);
    let texts = planned(
        &fixture,
        &["/boot/efi/EFI/redhat/grub.cfg", "/boot/efi/EFI/full/grub.cfg", "/boot/grub2/device.map"],
    );
    // Production had a /boot of its own, and the standby has none.
    assert_eq!(
        texts[0].as_deref().unwrap(),
        "search --no-floppy --fs-uuid --set=dev new-root\nset prefix=($dev)/boot/grub2\n"
    );
    assert!(texts[1].as_deref().unwrap().contains("0a3407de"));
    assert_eq!(texts[2], None);
}

#[test]
fn the_disk_that_is_remembered_is_the_standbys() {
    let mut fixture = fixture(&[
        (
            "var/cache/debconf/config.dat",
            "Name: grub-pc/install_devices\nTemplate: grub-pc/install_devices\nValue: /dev/disk/by-id/old\n\n\
             Name: grub2/force_efi_extra_removable\nValue: false\n\nName: other\nValue: kept\n",
        ),
        ("etc/default/grub_installdevice", "/dev/disk/by-id/old\nactivate\ngeneric_mbr\n"),
    ]);
    fixture.target.disks = vec![Disk {
        device: "/dev/vda".into(),
        table: Some(Table::Mbr { gap_sectors: 2047 }),
        by_id: Some("/dev/disk/by-id/new".into()),
    }];
    let texts = planned(&fixture, &["/var/cache/debconf/config.dat", "/etc/default/grub_installdevice"]);
    assert_eq!(
        texts[0].as_deref().unwrap(),
        "Name: grub-pc/install_devices\nTemplate: grub-pc/install_devices\nValue: /dev/disk/by-id/new\n\n\
         Name: grub2/force_efi_extra_removable\nValue: true\n\nName: other\nValue: kept\n"
    );
    assert_eq!(texts[1].as_deref().unwrap(), "/dev/disk/by-id/new\nactivate\ngeneric_mbr\n");
}

#[test]
fn a_copy_without_any_of_it_is_left_as_it_is() {
    let fixture = fixture(&[]);
    fixture.with(|task, draft| {
        plan(task, &mut Rewriter::new(task, false), draft).unwrap();
        assert_eq!(draft.edits(), []);
    });
}
