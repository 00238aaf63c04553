use super::super::crypttab;
use super::super::fstab::Seen;
use super::super::tests::{Fixture, filesystem};
use super::*;
use crate::prepare::target::Layer;

const LUKS: &str = "0a3407de-014b-458b-b5c1-848e92a327a3";

fn planned(fixture: &Fixture, seen: &Seen, paths: &[&str]) -> Vec<Option<String>> {
    fixture.with(|task, draft| {
        let needed = Needed::of(task.target, &[]);
        crypttab::plan(task, seen, &needed, draft).unwrap();
        mdadm(&needed, draft).unwrap();
        lvm(&needed, draft).unwrap();
        paths.iter().map(|path| draft.text(path).unwrap()).collect()
    })
}

fn seen(system: &[&str]) -> Seen {
    Seen { system: system.iter().map(|spec| (*spec).to_owned()).collect(), ..Seen::default() }
}

fn encrypted() -> Fixture {
    let mut fixture = Fixture::new(&[]);
    let mut root = filesystem("", "ext4", "new-root");
    root.layers = vec![
        Layer::Lvm { group: "vg".into(), volume: "root".into() },
        Layer::Luks { name: "crypt".into(), uuid: LUKS.into() },
    ];
    fixture.target.filesystems.push(root);
    fixture
}

#[test]
fn crypttab_opens_the_system_and_nothing_else() {
    let fixture = encrypted();
    fixture.put(
        "etc/crypttab",
        b"# name\nroot_crypt UUID=old-luks none luks,initramfs\nswap /dev/sda3 /dev/urandom swap,cipher=aes\n\
          data UUID=data-luks /etc/keys/data luks\nmore /dev/sdd\n",
    );
    let text = planned(&fixture, &seen(&[]), &["/etc/crypttab"]).remove(0).unwrap();
    assert_eq!(
        text,
        format!(
            "# name\nroot_crypt UUID={LUKS} none luks,initramfs\n\
             data UUID=data-luks /etc/keys/data luks,noauto\nmore /dev/sdd none noauto\n"
        )
    );
    fixture.put("etc/crypttab", text.as_bytes());
    fixture.with(|task, draft| {
        crypttab::plan(task, &seen(&[]), &Needed::of(task.target, &[]), draft).unwrap();
        assert_eq!(draft.edits(), []);
        assert_eq!(draft.held.len(), 2);
    });
}

#[test]
fn a_plain_standby_does_not_ask_for_a_passphrase() {
    let mut fixture = Fixture::new(&[("etc/crypttab", "root UUID=old none luks\n")]);
    fixture.target.filesystems.push(filesystem("", "ext4", "new-root"));
    assert_eq!(planned(&fixture, &seen(&["/dev/mapper/root"]), &["/etc/crypttab"])[0].as_deref(), Some(""));
}

#[test]
fn an_encrypted_standby_of_a_plain_host_gets_a_line() {
    let fixture = encrypted();
    assert_eq!(
        planned(&fixture, &seen(&[]), &["/etc/crypttab"])[0].as_deref(),
        Some(format!("crypt UUID={LUKS} none luks\n").as_str())
    );
}

#[test]
fn only_the_systems_arrays_are_assembled() {
    let mut fixture = Fixture::new(&[(
        "etc/mdadm/mdadm.conf",
        "HOMEHOST <system>\nAUTO +1.x\nARRAY /dev/md/0 UUID=old:0:0:0\n   name=prod:0\nARRAY /dev/md/1 uuid=NEW:1:1:1\nMAILADDR root\n",
    )]);
    let mut root = filesystem("", "ext4", "new-root");
    root.layers = vec![Layer::Md { uuid: "new:1:1:1".into() }, Layer::Disk];
    fixture.target.filesystems.push(root);
    let text = planned(&fixture, &seen(&[]), &["/etc/mdadm/mdadm.conf"]).remove(0).unwrap();
    assert_eq!(text, "HOMEHOST <system>\nARRAY /dev/md/1 uuid=NEW:1:1:1\nMAILADDR root\nAUTO -all\n");
    fixture.put("etc/mdadm/mdadm.conf", text.as_bytes());
    assert_eq!(planned(&fixture, &seen(&[]), &["/etc/mdadm/mdadm.conf"])[0].as_deref(), Some(text.as_str()));
}

#[test]
fn only_the_systems_volume_groups_come_up() {
    let fixture = encrypted();
    let shipped = "config {\n\tchecks = 1\n}\nactivation {\n\t# auto_activation_volume_list = [ \"vg1\" ]\n\tchecks = 0\n}\n";
    fixture.put("etc/lvm/lvm.conf", shipped.as_bytes());
    fixture.put("etc/lvm/devices/system.devices", b"IDTYPE=sys_wwid");
    fixture.put("etc/lvm/backup/data", b"x");
    let paths = ["/etc/lvm/lvm.conf", "/etc/lvm/devices/system.devices", "/etc/lvm/backup/data"];
    let texts = planned(&fixture, &seen(&[]), &paths);
    let text = texts[0].clone().unwrap();
    assert_eq!(
        text,
        "config {\n\tchecks = 1\n}\nactivation {\n\tauto_activation_volume_list = [ \"vg\" ]\n\
         \t# auto_activation_volume_list = [ \"vg1\" ]\n\tchecks = 0\n}\n"
    );
    assert_eq!(texts[1..], [None, None]);
    fixture.put("etc/lvm/lvm.conf", text.as_bytes());
    assert_eq!(planned(&fixture, &seen(&[]), &paths)[0].as_deref(), Some(text.as_str()));
}

#[test]
fn a_system_without_lvm_activates_no_volume_group() {
    let mut fixture = Fixture::new(&[("etc/lvm/lvmlocal.conf", "")]);
    fixture.target.filesystems.push(filesystem("", "ext4", "new-root"));
    assert_eq!(
        planned(&fixture, &seen(&[]), &["/etc/lvm/lvm.conf"])[0].as_deref(),
        Some("activation {\n\tauto_activation_volume_list = [ ]\n}\n")
    );
}
