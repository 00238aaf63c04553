//! Snapshots of logical volumes. The kernel of a test machine need not have device-mapper, and without it no snapshot
//! can be made. So the program of LVM is a mock here: a script in its place that writes down how it is called, and
//! whose snapshots are copies of the filesystem's image, taken while the filesystem is frozen. Filesystems, mounts and
//! everything of ours are real.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Pair, attempt};
use crate::common::plant::{chmod, write};
use crate::common::{lacks, mount, run};

/// Stands for lvm(8): lvs, lvcreate and lvremove of one volume group `vg` whose one volume `data` is the source.
const MOCK: &str = r#"#!/bin/sh
cd STATE || exit 5
name=${0##*/}
echo "$name $*" >>calls
for last; do :; done
case "$name" in
lvs)
    asked=$(($(cat asked 2>/dev/null || echo 0) + 1))
    echo $asked >asked
    printf '{"report":[{"lv":['
    comma=
    for row in rows/*; do
        [ -e "$row" ] || continue
        read -r volume device attr pool tags <"$row"
        [ "$attr" != swi-a-s--- ] || [ $asked -lt "$(cat full-after 2>/dev/null || echo 99)" ] || attr=swi-I-s---
        number=$(stat -c '0x%t 0x%T' "$device")
        printf '%s{"vg_name":"vg","lv_name":"%s","lv_path":"%s","lv_kernel_major":"%d","lv_kernel_minor":"%d","lv_attr":"%s","pool_lv":"%s","lv_tags":"%s"}' \
            "$comma" "$volume" "$device" ${number% *} ${number#* } "$attr" "${pool#-}" "${tags#-}"
        comma=,
    done
    printf ']}]}'
    ;;
lvcreate)
    [ ! -e no-room ] || { echo '  Volume group "vg" has insufficient free space' >&2; exit 5; }
    while [ $# -gt 0 ]; do
        case "$1" in
        --name) volume=$2 ;;
        --addtag) tags=$2 ;;
        esac
        shift
    done
    fsfreeze -f SOURCE && cp --sparse=always IMAGE "$volume.img"
    fsfreeze -u SOURCE
    device=$(losetup -f --show "$volume.img") || exit 5
    echo "$volume $device swi-a-s--- - $tags" >"rows/$volume"
    ;;
lvremove)
    volume=${last#vg/}
    read -r _ device _ <"rows/$volume" || exit 5
    losetup -d "$device"
    # A device that is mounted stays; one that somebody only looks at, as other tests do, goes when he has.
    tries=0
    while losetup "$device" >/dev/null 2>&1; do
        [ $((tries += 1)) -le 100 ] || { echo '  Logical volume in use' >&2; exit 5; }
        sleep 0.05
    done
    rm "rows/$volume" "$volume.img"
    ;;
esac
"#;

struct Lvm {
    pair: Pair,
    state: PathBuf,
}

impl Lvm {
    /// A source with a filesystem of `kind`; none where a tool is missing.
    fn new(test: &str, kind: &str) -> Option<Self> {
        let mkfs = format!("mkfs.{kind}");
        if lacks(test, &["lvm", "lvs", "losetup", "fsfreeze", "unshare", &mkfs]) {
            return None;
        }
        let mut pair = Pair::new("snapshots-lvm");
        let (image, state) = (pair.work.join("source.img"), pair.work.make("lvm"));
        fs::create_dir(state.join("rows")).unwrap();
        mount::loop_image(&image, kind, 320 << 20, &pair.source);
        write(&pair.source.join("etc/file"), "before");
        let device = run("findmnt", ["-n", "-o", "SOURCE", pair.source.to_str().unwrap()]);
        write(&state.join("rows/data"), format!("data {} -wi-ao---- - -\n", device.trim()));
        let mock = pair.work.join("mock");
        let text = MOCK
            .replace("STATE", state.to_str().unwrap())
            .replace("SOURCE", pair.source.to_str().unwrap())
            .replace("IMAGE", image.to_str().unwrap());
        write(&mock, text);
        chmod(&mock, 0o755);
        let script = format!("mount --bind {} /usr/sbin/lvm && exec \"$@\"", mock.display());
        pair.prefix = ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).into();
        Some(Self { pair, state })
    }

    /// The calls that change something, since the last time; the volume of the test's profile is `SNAP`.
    fn changes(&self) -> Vec<String> {
        let _ = fs::remove_file(self.state.join("asked"));
        let calls = fs::read_to_string(self.state.join("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.state.join("calls"));
        let calls = calls.lines().filter(|call| !call.starts_with("lvs "));
        calls.map(|call| call.replace(&format!("clonetool.{}", self.pair.mark()), "SNAP")).collect()
    }

    fn snapshots(&self) -> usize {
        fs::read_dir(self.state.join("rows")).unwrap().count() - 1
    }
}

impl Drop for Lvm {
    fn drop(&mut self) {
        let attached = Command::new("losetup").args(["-n", "-O", "NAME,BACK-FILE"]).output().unwrap().stdout;
        let attached = String::from_utf8_lossy(&attached).into_owned();
        for line in attached.lines().filter(|line| line.contains(self.state.to_str().unwrap())) {
            attempt("losetup", &["-d", line.split_whitespace().next().unwrap()]);
        }
    }
}

const CREATE: &str = "lvcreate --yes --snapshot --name SNAP.0 --addtag SNAP --extents 10%ORIGIN vg/data";
const REMOVE: &str = "lvremove --yes vg/SNAP.0";

#[test]
fn a_logical_volume_is_read_as_it_was() {
    for kind in ["ext4", "xfs"] {
        let Some(lvm) = Lvm::new("snapshots::lvm::a_logical_volume_is_read_as_it_was", kind) else { return };
        let pair = &lvm.pair;
        let rewrite = format!("printf later >{}/etc/file", pair.source.display());
        pair.plan("snapshot = \"lvm\"", &rewrite);
        assert_eq!(pair.sync(&[]).expect_code(0).stderr, "");
        assert_eq!(fs::read(pair.standby.join("etc/file")).unwrap(), b"before", "{kind}");
        assert_eq!(lvm.changes(), [CREATE, REMOVE]);
        pair.plan("snapshot = \"lvm\"\nsnapshot-size = \"64MiB\"", "");
        pair.sync(&[]).expect_code(0);
        assert_eq!(fs::read(pair.standby.join("etc/file")).unwrap(), b"later", "{kind}");
        let sized = CREATE.replace("--extents 10%ORIGIN", "--size 67108864b");
        assert_eq!(lvm.changes(), [&sized[..], REMOVE]);
        // A thin volume takes its room from the pool.
        let row = fs::read_to_string(lvm.state.join("rows/data")).unwrap();
        write(&lvm.state.join("rows/data"), row.replace(" - -", " pool -"));
        pair.sync(&["--json"]).expect_code(0).expect_no_changes();
        let thin = CREATE.replace("--extents 10%ORIGIN", "--setactivationskip n");
        assert_eq!(lvm.changes(), [&thin[..], REMOVE]);
    }
}

#[test]
fn no_volume_is_left_and_none_of_anybody_else_is_removed() {
    let test = "snapshots::lvm::no_volume_is_left_and_none_of_anybody_else_is_removed";
    let Some(lvm) = Lvm::new(test, "ext4") else { return };
    let pair = &lvm.pair;
    for (end, code) in Pair::ENDS {
        pair.plan("snapshot = \"lvm\"", end);
        pair.sync(&[]).expect_code(code);
        assert_eq!(lvm.snapshots(), usize::from(code == -1), "{end}");
        assert!(!pair.standby.join("etc").exists(), "{end}");
    }
    let ours = format!("clonetool.{}", pair.mark());
    let row = fs::read_to_string(lvm.state.join(format!("rows/{ours}.0"))).unwrap();
    // The name alone, the tag alone, and those of another profile.
    for (name, tag) in [
        (format!("{ours}.7"), "-"),
        ("backup".to_owned(), &ours[..]),
        (format!("{ours}x.0"), &format!("{ours}x")),
    ] {
        let text =
            row.replace(&format!("{ours}.0"), &name).replace(&format!(" {ours}\n"), &format!(" {tag}\n"));
        write(&lvm.state.join("rows").join(name), text);
    }
    lvm.changes();
    pair.plan("snapshot = \"lvm\"", "");
    pair.sync(&[])
        .expect_code(0)
        .expect_stderr(&format!("removed the snapshot vg/{ours}.0, which a run that was cut off had left"));
    assert_eq!(lvm.changes(), [REMOVE, CREATE, REMOVE]);
    assert_eq!(lvm.snapshots(), 3);
}

#[test]
fn a_snapshot_that_ran_full_changes_nothing() {
    let test = "snapshots::lvm::a_snapshot_that_ran_full_changes_nothing";
    let Some(mut lvm) = Lvm::new(test, "ext4") else { return };
    lvm.pair.mode = "run";
    let pair = &lvm.pair;
    pair.plan("snapshot = \"lvm\"", "");
    write(&pair.standby.join("kept"), "kept");
    // What is left, the origin, the new one, and the fourth question is whether it held.
    write(&lvm.state.join("full-after"), "4");
    pair.sync(&[]).expect_code(1).expect_stderr(&format!(
        "the snapshot vg/clonetool.{}.0 is full, and what is read of it is worth nothing",
        pair.mark()
    ));
    assert!(pair.standby.join("kept").exists() && !pair.standby.join("etc").exists());
    assert_eq!(lvm.changes(), [CREATE, REMOVE]);
    // When all is read and nothing is committed it is asked once more.
    write(&lvm.state.join("full-after"), "5");
    pair.sync(&[]).expect_code(1).expect_stderr(".0 is full");
    assert!(pair.standby.join("kept").exists() && !pair.standby.join("etc").exists());
    assert_eq!((lvm.changes(), lvm.snapshots()), (vec![CREATE.to_owned(), REMOVE.to_owned()], 0));
    // What is committed path by path is there by then, and the run is no good one all the same.
    lvm.pair.mode = "file";
    lvm.pair.plan("snapshot = \"lvm\"", "");
    lvm.pair.sync(&[]).expect_code(1).expect_stderr(".0 is full");
}

#[test]
fn what_lvm_cannot_do_is_said() {
    let Some(lvm) = Lvm::new("snapshots::lvm::what_lvm_cannot_do_is_said", "ext4") else { return };
    let pair = &lvm.pair;
    pair.plan("snapshot = \"lvm\"", "");
    write(&lvm.state.join("no-room"), "");
    pair.sync(&[])
        .expect_code(1)
        .expect_stderr("/lvcreate: exit status: 5: Volume group \"vg\" has insufficient free space");
    assert!(!pair.standby.join("etc").exists());
    fs::remove_file(lvm.state.join("rows/data")).unwrap();
    pair.sync(&[]).expect_code(3).expect_stderr(
        "no snapshot can be made of /: what is mounted there is no logical volume; see source.snapshot-except",
    );
    let (inner, profile) = (pair.source.join("etc"), pair.profile());
    let text = fs::read_to_string(&profile).unwrap();
    write(
        &profile,
        text.replace(&format!("\"{}\"", pair.source.display()), &format!("\"{}\"", inner.display())),
    );
    pair.sync(&[])
        .expect_code(3)
        .expect_stderr("no filesystem is mounted there, and a snapshot is of a whole one");
    assert!(fs::read_dir(&pair.standby).unwrap().next().is_none());
}
