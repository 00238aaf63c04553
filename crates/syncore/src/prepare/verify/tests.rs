//! Each check, with what it is there to find planted.

use std::sync::Arc;

use super::*;
use crate::prepare::target::Filesystem;
use crate::scan::Root;

const OLD_UUID: &str = "11111111-2222-3333-4444-555555555555";
const OLD_ID: &str = "99999999999999999999999999999999";

struct Tree {
    directory: tempfile::TempDir,
    target: Target,
    journal: Journal,
    checks: Checks,
    pending: bool,
}

/// A root on which nothing is wrong.
fn good() -> Tree {
    let root = Filesystem {
        mount_point: Some(RelPath::root()),
        kind: "ext4".into(),
        device: "/dev/vda1".into(),
        uuid: Some("new-uuid".into()),
        label: None,
        partition_uuid: None,
        subvolume: None,
        layers: Vec::new(),
        disks: Vec::new(),
    };
    let tree = Tree {
        directory: tempfile::tempdir().unwrap(),
        target: Target { filesystems: vec![root], ..Target::default() },
        journal: Journal {
            hostname: "standby".into(),
            source_hostname: "prod".into(),
            source_machine_id: Some(OLD_ID.into()),
            source_addresses: vec!["10.0.0.5".into()],
            source_uuids: vec![OLD_UUID.into()],
            ..Journal::default()
        },
        checks: Checks {
            root_words: vec!["root=UUID=new-uuid".into()],
            installed: Installed {
                files: vec!["/boot/efi/EFI/BOOT/BOOTX64.EFI".into()],
                entries: vec!["/boot/grub/grub.cfg".into()],
                initramfs: vec!["/boot/initrd.img-6.1".into()],
                ..Installed::default()
            },
            bootloader: true,
            ..Checks::default()
        },
        pending: false,
    };
    tree.put("etc/machine-id", b"88888888888888888888888888888888\n");
    tree.put("etc/fstab", format!("# was {OLD_UUID}\nUUID=new-uuid / ext4 defaults 0 1\n").as_bytes());
    tree.put("etc/hosts", b"10.0.0.5 prod\n");
    tree.put("etc/ssh/ssh_host_ed25519_key.pub", b"new key");
    tree.put("boot/efi/EFI/BOOT/BOOTX64.EFI", b"MZ");
    tree.put(
        "boot/grub/grub.cfg",
        b"menuentry 'x' {\n\tlinux /boot/vmlinuz-6.1 root=UUID=new-uuid ro quiet\n}\n",
    );
    tree.put("boot/initrd.img-6.1", &initramfs::tests::archive(&[("conf/param.conf", b"x")]));
    tree
}

impl Tree {
    fn put(&self, path: &str, content: &[u8]) {
        let path = self.directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn findings(&self) -> Vec<Finding> {
        let inside = Inside::new(Arc::new(Root::open(self.directory.path()).unwrap()));
        let prepared = Prepared {
            inside: &inside,
            target: &self.target,
            journal: &self.journal,
            since: SystemTime::now() - Duration::from_secs(60),
            pending: self.pending,
            bootloader: self.checks.bootloader,
        };
        let old_keys = [(
            RelPath::new("etc/ssh/ssh_host_ed25519_key.pub").unwrap(),
            blake3::hash(b"old key").to_hex().to_string(),
        )];
        check(&prepared, &self.checks, &old_keys)
    }

    #[track_caller]
    fn expect(&self, weight: Weight, text: &str) {
        let findings = self.findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].weight, weight);
        assert!(findings[0].message.contains(text), "{findings:?}");
    }
}

#[test]
fn nothing_is_said_of_a_root_with_nothing_wrong() {
    assert_eq!(good().findings(), []);
}

#[test]
fn productions_machine_id_is_seen() {
    let tree = good();
    tree.put("etc/machine-id", format!("{OLD_ID}\n").as_bytes());
    let messages: Vec<String> = tree.findings().into_iter().map(|finding| finding.message).collect();
    assert!(messages.contains(&"/etc/machine-id is production's".to_owned()), "{messages:?}");
}

#[test]
fn productions_host_key_is_seen_unless_it_is_to_be_taken_over() {
    let mut tree = good();
    tree.put("etc/ssh/ssh_host_ed25519_key.pub", b"old key");
    tree.expect(Weight::Failure, "host key");
    tree.checks.identity = Identity::Takeover;
    assert_eq!(tree.findings(), []);
}

#[test]
fn a_device_of_fstab_that_is_not_there_is_seen() {
    let tree = good();
    tree.put("etc/fstab", b"UUID=new-uuid / ext4 defaults 0 1\nUUID=gone /boot ext4 defaults 0 2\n");
    tree.expect(Weight::Failure, "/boot is to be mounted from UUID=gone");
}

#[test]
fn a_menu_without_an_entry_for_the_root_is_seen() {
    let tree = good();
    // As update-grub writes it for a root on /dev/loop0, and says nothing.
    tree.put("boot/grub/grub.cfg", b"set timeout=5\n# linux root=UUID=new-uuid\n");
    tree.expect(Weight::Failure, "no boot entry");
    tree.put("boot/grub/grub.cfg", b"linux /vmlinuz root=UUID=new-uuid-2\n");
    tree.expect(Weight::Failure, "no boot entry");
}

#[test]
fn entries_may_be_files_of_their_own_or_in_grubs_environment() {
    let mut tree = good();
    tree.checks.installed.entries = vec!["/boot/loader/entries".into()];
    tree.put("boot/loader/entries/a.conf", b"options $kernelopts\n");
    tree.expect(Weight::Failure, "no boot entry");
    tree.put("boot/grub2/grubenv", b"# GRUB Environment Block\nkernelopts=root=UUID=new-uuid ro\n###");
    assert_eq!(tree.findings(), []);
}

#[test]
fn an_initramfs_that_is_missing_or_old_is_seen() {
    let tree = good();
    let path = tree.directory.path().join("boot/initrd.img-6.1");
    let old = std::fs::FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(3600));
    std::fs::File::options().write(true).open(&path).unwrap().set_times(old).unwrap();
    tree.expect(Weight::Failure, "was not made anew");
    std::fs::remove_file(path).unwrap();
    tree.expect(Weight::Failure, "there is no /boot/initrd.img-6.1");
}

#[test]
fn a_missing_fallback_path_is_seen() {
    let mut tree = good();
    std::fs::remove_file(tree.directory.path().join("boot/efi/EFI/BOOT/BOOTX64.EFI")).unwrap();
    tree.expect(Weight::Failure, "BOOTX64.EFI");
    tree.checks.bootloader = false;
    assert_eq!(tree.findings(), []);
    // Nobody reads the menu then; what it names is only worth knowing.
    tree.put("boot/grub/grub.cfg", format!("linux / root=UUID={OLD_UUID}\n").as_bytes());
    tree.expect(Weight::Note, "still has production's UUID");
}

#[test]
fn a_disk_without_a_boot_loader_is_seen() {
    let mut tree = good();
    tree.put("disk", &[0; 512]);
    tree.checks.installed.disks = vec![tree.directory.path().join("disk")];
    tree.expect(Weight::Failure, "first sector");
    tree.put("disk", &[&[0; 100][..], b"GRUB ", &[0; 407]].concat());
    assert_eq!(tree.findings(), []);
}

#[test]
fn an_id_in_the_boot_path_fails_and_elsewhere_is_listed() {
    for path in
        ["boot/grub/custom.cfg", "boot/efi/EFI/debian/grub.cfg", "etc/default/grub.d/x.cfg", "efi/x.conf"]
    {
        let tree = good();
        tree.put(path, format!("search --fs-uuid {}\n", OLD_UUID.to_uppercase()).as_bytes());
        tree.expect(Weight::Failure, "still has production's UUID");
    }
    let tree = good();
    tree.put("etc/smartd.conf", format!("/dev/disk/by-uuid/{OLD_UUID} -a\n").as_bytes());
    tree.expect(Weight::Note, "still in /etc/smartd.conf");
    let tree = good();
    tree.put("boot/grub/grub.cfg.bak", OLD_UUID.as_bytes());
    tree.expect(Weight::Note, "still in /boot/grub/grub.cfg.bak");
    let tree = good();
    tree.put(&format!("boot/{OLD_ID}/linux"), b"");
    tree.expect(Weight::Failure, "its name has production's machine id");
}

#[test]
fn an_id_inside_the_initramfs_fails() {
    let tree = good();
    let crypttab = format!("root UUID={OLD_UUID} none\n");
    let image = initramfs::tests::archive(&[("a", b""), ("cryptroot/crypttab", crypttab.as_bytes())]);
    tree.put("boot/initrd.img-6.1", &zstd::encode_all(&image[..], 3).unwrap());
    tree.expect(Weight::Failure, "cryptroot/crypttab in it still has production's UUID");
}

#[test]
fn a_name_and_an_address_are_listed_and_do_not_fail() {
    let tree = good();
    tree.put("etc/app.conf", b"# prod\nlisten 10.0.0.5:80\nserver prod.example.org\n");
    let findings = tree.findings();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.weight == Weight::Note));
}

#[test]
fn what_a_command_that_is_left_will_make_is_pending() {
    let mut tree = good();
    tree.pending = true;
    tree.put("boot/grub/grub.cfg", format!("linux / root=UUID={OLD_UUID}\n").as_bytes());
    let findings = tree.findings();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.weight == Weight::Pending), "{findings:?}");
}
