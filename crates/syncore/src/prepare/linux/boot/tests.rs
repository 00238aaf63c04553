use super::super::tests::{Fixture, filesystem};
use super::*;
use crate::prepare::report::Weight;
use crate::prepare::target::Disk;

fn fixture(programs: &[&str], files: &[(&str, &str)]) -> Fixture {
    let mut fixture = Fixture::new(files);
    fixture.put("lib/modules/6.1.0/modules.dep", b"");
    fixture.put("boot/vmlinuz-6.1.0", b"");
    fixture.put("lib/modules/5.0-removed/modules.dep", b"");
    for program in programs {
        fixture.program(program);
    }
    fixture.target.filesystems = vec![filesystem("", "ext4", "new")];
    fixture.target.disks =
        vec![Disk { device: "/dev/vda".into(), table: Some(Table::Gpt { bios_boot: true }), by_id: None }];
    fixture
}

/// The commands in the order in which they are run, and the weights of what was found.
fn planned(fixture: &Fixture, family: Family) -> (Vec<String>, Vec<Weight>, Installed) {
    fixture.with(|task, draft| {
        let installed = plan(task, family, draft).unwrap();
        draft.commands.sort_by_key(|command| command.step);
        let commands = draft.commands.iter().map(|command| command.argv.join(" ")).collect();
        (commands, draft.findings.iter().map(|finding| finding.weight).collect(), installed)
    })
}

const DEBIAN: [(&str, &str); 4] = [
    ("etc/initramfs-tools/initramfs.conf", "MODULES=most\n"),
    ("usr/lib/grub/i386-pc/modinfo.sh", ""),
    ("usr/lib/grub/x86_64-efi/modinfo.sh", ""),
    ("boot/grub/grub.cfg", ""),
];

#[test]
fn debian_gets_both_loaders_where_both_can_be() {
    let mut fixture = fixture(&["update-initramfs", "grub-install", "grub-mkconfig"], &DEBIAN);
    fixture.target.filesystems.push(filesystem("boot/efi", "vfat", "AAAA-BBBB"));
    let (commands, found, installed) = planned(&fixture, Family::Debian);
    assert_eq!(
        commands,
        [
            "depmod -a 6.1.0",
            "update-initramfs -c -k 6.1.0",
            "grub-install --target=i386-pc /dev/vda",
            "grub-install --target=x86_64-efi --efi-directory=/boot/efi --no-nvram",
            "grub-mkconfig -o /boot/grub/grub.cfg",
            "grub-install --target=x86_64-efi --efi-directory=/boot/efi --no-nvram --removable",
        ]
    );
    assert_eq!(found, []);
    assert_eq!(installed.files, ["/boot/efi/EFI/BOOT/BOOTX64.EFI"]);
    assert_eq!(installed.entries, ["/boot/grub/grub.cfg"]);
    assert_eq!(installed.initramfs, ["/boot/initrd.img-6.1.0"]);
}

#[test]
fn it_is_put_there_again_in_the_form_in_which_it_was_first() {
    let mut fixture = fixture(&["update-initramfs", "grub-install", "grub-mkconfig"], &DEBIAN);
    fixture.target.filesystems.push(filesystem("boot/efi", "vfat", "AAAA-BBBB"));
    fixture.put("etc/os-release", b"ID=debian\n");
    let is_loader = |command: &String| command.starts_with("grub-install");
    let first: Vec<String> = planned(&fixture, Family::Debian).0.into_iter().filter(is_loader).collect();
    let again = fixture.with(|task, draft| loader_commands(draft.inside(), task.target)).unwrap();
    assert_eq!(again.iter().map(|command| command.argv.join(" ")).collect::<Vec<_>>(), first);
    assert_eq!(first.len(), 3);
    fixture.target.filesystems.pop();
    fixture.target.disks.clear();
    let none = fixture.with(|task, draft| loader_commands(draft.inside(), task.target));
    assert!(none.unwrap_err().contains("no boot loader can be installed"));
}

#[test]
fn a_disk_without_room_is_said_and_is_a_failure_when_there_is_no_other_way() {
    let mut fixture = fixture(&["update-initramfs", "grub-install", "grub-mkconfig"], &DEBIAN);
    for table in [None, Some(Table::Gpt { bios_boot: false }), Some(Table::Mbr { gap_sectors: 62 })] {
        fixture.target.disks[0].table = table;
        let (commands, found, _) = planned(&fixture, Family::Debian);
        assert!(!commands.iter().any(|command| command.starts_with("grub-install")));
        assert_eq!(found, [Weight::Failure], "{table:?}");
    }
    fixture.target.filesystems.push(filesystem("boot/efi", "vfat", "AAAA-BBBB"));
    assert_eq!(planned(&fixture, Family::Debian).1, [Weight::Note]);
    fixture.target.filesystems.pop();
    fixture.target.disks.clear();
    assert_eq!(planned(&fixture, Family::Debian).1, [Weight::Failure]);
    fixture.options.bootloader = Bootloader::None;
    let (commands, found, _) = planned(&fixture, Family::Debian);
    assert_eq!(found, [Weight::Note]);
    assert_eq!(
        commands.last().unwrap(),
        "grub-mkconfig -o /boot/grub/grub.cfg",
        "the old menu names production's root"
    );
}

#[test]
fn mirrors_get_a_loader_each() {
    let mut fixture = fixture(&["update-initramfs", "grub-install", "grub-mkconfig"], &DEBIAN);
    let second =
        Disk { device: "/dev/vdb".into(), table: Some(Table::Mbr { gap_sectors: 2047 }), by_id: None };
    fixture.target.disks.push(second);
    let (commands, _, installed) = planned(&fixture, Family::Debian);
    assert_eq!(
        commands.iter().filter(|command| command.starts_with("grub-install --target=i386-pc")).count(),
        2
    );
    assert_eq!(installed.disks.len(), 2);
}

#[test]
fn a_choice_of_production_for_its_hardware_is_overruled() {
    let fixture = fixture(&["update-initramfs", "grub-install", "grub-mkconfig"], &DEBIAN);
    fixture.put("etc/initramfs-tools/conf.d/driver-policy", b"MODULES=dep\n");
    fixture.put("boot/initrd.img-6.1.0", b"");
    fixture.with(|task, draft| {
        plan(task, Family::Debian, draft).unwrap();
        assert_eq!(
            draft.text("/etc/initramfs-tools/conf.d/zz-clonetool").unwrap().as_deref(),
            Some("MODULES=most\n")
        );
        assert!(
            draft.commands.iter().any(|command| command.argv == ["update-initramfs", "-u", "-k", "6.1.0"])
        );
    });
    fixture.put("etc/initramfs-tools/conf.d/zz-clonetool", b"MODULES=most\n");
    fixture.with(|task, draft| {
        plan(task, Family::Debian, draft).unwrap();
        assert_eq!(draft.edits(), []);
    });
}

#[test]
fn red_hat_keeps_its_signed_loader() {
    let mut fixture = fixture(
        &["dracut", "grub2-install", "grub2-mkconfig"],
        &[
            ("usr/lib/grub/i386-pc/modinfo.sh", ""),
            ("usr/lib/grub/x86_64-efi/modinfo.sh", ""),
            ("boot/grub2/grub.cfg", ""),
            ("boot/efi/EFI/redhat/shimx64.efi", ""),
            ("boot/efi/EFI/redhat/grubx64.efi", ""),
            ("boot/efi/EFI/redhat/mmx64.efi", ""),
            ("boot/efi/EFI/BOOT/fbx64.efi", ""),
            ("boot/loader/entries/x.conf", "options root=UUID=old"),
        ],
    );
    fixture.target.filesystems.push(filesystem("boot/efi", "vfat", "AAAA-BBBB"));
    let (commands, found, installed) = planned(&fixture, Family::RedHat);
    assert_eq!(
        commands,
        [
            "depmod -a 6.1.0",
            "dracut --regenerate-all --force --no-hostonly",
            "grub2-install --target=i386-pc /dev/vda",
            "grub2-mkconfig -o /boot/grub2/grub.cfg",
            "mkdir -p /boot/efi/EFI/BOOT",
            "cp --no-preserve=all /boot/efi/EFI/redhat/shimx64.efi /boot/efi/EFI/BOOT/BOOTX64.EFI",
            "cp --no-preserve=all /boot/efi/EFI/redhat/grubx64.efi /boot/efi/EFI/BOOT/grubx64.efi",
            "cp --no-preserve=all /boot/efi/EFI/redhat/mmx64.efi /boot/efi/EFI/BOOT/mmx64.efi",
            "rm -f /boot/efi/EFI/BOOT/fbx64.efi",
        ]
    );
    assert_eq!(found, []);
    assert_eq!(installed.entries, ["/boot/grub2/grub.cfg", "/boot/loader/entries"]);
    assert_eq!(installed.initramfs, ["/boot/initramfs-6.1.0.img"]);
}

#[test]
fn red_hat_without_its_signed_loader_gets_no_unsigned_one() {
    let mut fixture = fixture(
        &["dracut", "grub2-install", "grub2-mkconfig"],
        &[("usr/lib/grub/x86_64-efi/modinfo.sh", ""), ("boot/grub2/grub.cfg", "")],
    );
    fixture.target.filesystems.push(filesystem("boot/efi", "vfat", "AAAA-BBBB"));
    let (commands, found, _) = planned(&fixture, Family::RedHat);
    assert!(!commands.iter().any(|command| command.contains("x86_64-efi")));
    assert_eq!(found, [Weight::Failure]);
}

#[test]
fn suse_takes_the_menu_beside_its_loader_along() {
    let mut fixture = fixture(
        &["dracut", "grub2-install", "grub2-mkconfig"],
        &[
            ("boot/grub2/grub.cfg", ""),
            ("boot/efi/EFI/opensuse/shim.efi", ""),
            ("boot/efi/EFI/opensuse/grub.efi", ""),
            ("boot/efi/EFI/opensuse/grub.cfg", "search"),
        ],
    );
    fixture.target.filesystems.push(filesystem("boot/efi", "vfat", "AAAA-BBBB"));
    let (commands, _, installed) = planned(&fixture, Family::Suse);
    assert!(commands.contains(
        &"cp --no-preserve=all /boot/efi/EFI/opensuse/shim.efi /boot/efi/EFI/BOOT/BOOTX64.EFI".to_owned()
    ));
    assert!(commands.contains(
        &"cp --no-preserve=all /boot/efi/EFI/opensuse/grub.cfg /boot/efi/EFI/BOOT/grub.cfg".to_owned()
    ));
    assert_eq!(installed.initramfs, ["/boot/initrd-6.1.0"]);
}

#[test]
fn arch_loses_autodetect_and_may_have_systemd_boot() {
    let mut fixture = fixture(
        &["mkinitcpio", "bootctl"],
        &[
            ("etc/mkinitcpio.conf", "# HOOKS=(autodetect)\nHOOKS=(base udev autodetect modconf block)\n"),
            ("efi/loader/loader.conf", ""),
            ("efi/EFI/systemd/systemd-bootx64.efi", ""),
            ("efi/loader/entries/arch.conf", "options root=UUID=old"),
        ],
    );
    fixture.target.filesystems.push(filesystem("efi", "vfat", "AAAA-BBBB"));
    let (commands, found, installed) = planned(&fixture, Family::Arch);
    assert_eq!(commands, ["depmod -a 6.1.0", "mkinitcpio -P", "bootctl --no-variables install"]);
    assert_eq!(found, [Weight::Note]);
    assert_eq!(installed.files, ["/efi/EFI/BOOT/BOOTX64.EFI"]);
    assert_eq!(installed.entries, ["/efi/loader/entries"]);
    fixture.with(|task, draft| {
        plan(task, Family::Arch, draft).unwrap();
        assert_eq!(
            draft.text("/etc/mkinitcpio.conf").unwrap().as_deref(),
            Some("# HOOKS=(autodetect)\nHOOKS=(base udev modconf block)\n")
        );
    });
}

#[test]
fn what_is_not_there_is_pending_or_a_failure_by_name() {
    let mut fixture = fixture(&[], &[]);
    assert_eq!(planned(&fixture, Family::Debian).1, [Weight::Pending, Weight::Failure]);
    fixture.target.architecture = "s390x".into();
    fixture.with(|task, draft| {
        plan(task, Family::RedHat, draft).unwrap();
        assert!(draft.findings.last().unwrap().message.contains("s390x"));
    });
    std::fs::remove_file(fixture.path().join("boot/vmlinuz-6.1.0")).unwrap();
    assert_eq!(planned(&fixture, Family::Debian).1, [Weight::Failure, Weight::Pending, Weight::Failure]);
}

#[test]
fn labels_are_set_here_or_at_the_next_boot() {
    let fixture = fixture(&[], &[("etc/selinux/config", "# x\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")]);
    fixture.with(|_, draft| {
        labels(draft).unwrap();
        assert!(draft.exists("/.autorelabel").unwrap());
        assert_eq!(draft.findings[0].weight, Weight::Pending);
    });
    fixture.program("setfiles");
    fixture.put("etc/selinux/targeted/contexts/files/file_contexts", b"");
    fixture.with(|_, draft| {
        labels(draft).unwrap();
        assert_eq!(draft.findings, []);
        assert_eq!(
            draft.commands[0].argv[..4],
            ["setfiles", "-F", "/etc/selinux/targeted/contexts/files/file_contexts", "/etc"]
        );
    });
    fixture.put("etc/selinux/config", b"SELINUX=disabled\n");
    fixture.with(|_, draft| {
        labels(draft).unwrap();
        assert!(draft.commands.is_empty() && draft.edits().is_empty());
    });
}
