use super::super::tests::{Fixture, filesystem};
use super::*;

fn planned(fixture: &Fixture, paths: &[&str]) -> Vec<Option<String>> {
    fixture.with(|task, draft| {
        plan(task, &Seen::default(), draft).unwrap();
        resume(task, draft).unwrap();
        paths.iter().map(|path| draft.text(path).unwrap()).collect()
    })
}

#[test]
fn names_on_a_storage_network_are_the_standbys_own_and_stay_the_same() {
    let fixture = Fixture::new(&[
        ("etc/machine-id", "22222222222222222222222222222222\n"),
        ("etc/iscsi/initiatorname.iscsi", "## note\nInitiatorName=iqn.1993-08.org.debian:01:abcdef\n"),
        ("etc/iscsi/nodes/iqn.target/10.0.0.9,3260,1/default", "x"),
        ("etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:old\n"),
        ("etc/multipath/wwids", "/360/\n"),
        ("etc/zfs/zpool.cache", "x"),
    ]);
    let paths = [
        "/etc/iscsi/initiatorname.iscsi",
        "/etc/nvme/hostnqn",
        "/etc/nvme/hostid",
        "/etc/multipath/wwids",
        "/etc/zfs/zpool.cache",
    ];
    let texts = planned(&fixture, &paths);
    let name = texts[0].clone().unwrap();
    assert!(
        name.starts_with("## note\nInitiatorName=iqn.1993-08.org.debian:01:") && !name.contains("abcdef")
    );
    let id = texts[2].clone().unwrap();
    assert_eq!(texts[1].clone().unwrap(), format!("nqn.2014-08.org.nvmexpress:uuid:{id}"));
    assert_eq!(id.trim().len(), 36);
    assert_eq!(texts[3..], [None, None]);
    assert_eq!(planned(&fixture, &paths), texts);
    fixture.put("etc/machine-id", b"33333333333333333333333333333333\n");
    assert_ne!(planned(&fixture, &paths)[2], texts[2]);
}

#[test]
fn nothing_waits_for_productions_swap() {
    let mut fixture = Fixture::new(&[("etc/initramfs-tools/conf.d/resume", "RESUME=UUID=old-swap\n")]);
    let text = |fixture: &Fixture| planned(fixture, &["/etc/initramfs-tools/conf.d/resume"]).remove(0);
    assert_eq!(text(&fixture).as_deref(), Some("RESUME=none\n"));
    fixture.target.filesystems.push(filesystem("", "swap", "new-swap"));
    assert_eq!(text(&fixture).as_deref(), Some("RESUME=UUID=new-swap\n"));
    fixture.put("etc/initramfs-tools/conf.d/resume", b"RESUME=none\n");
    assert_eq!(text(&fixture).as_deref(), Some("RESUME=none\n"));
}

#[test]
fn a_dump_goes_nowhere_near_production() {
    let fixture = Fixture::new(&[
        ("etc/kdump.conf", "xfs UUID=old-dump\npath /var/crash\nssh user@host\n"),
        ("boot/initramfs-5.14kdump.img", "x"),
    ]);
    let texts = planned(&fixture, &["/etc/kdump.conf", "/boot/initramfs-5.14kdump.img"]);
    assert_eq!(texts, [Some("path /var/crash\nssh user@host\n".to_owned()), None]);
}
