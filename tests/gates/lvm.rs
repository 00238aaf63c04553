//! `volume-group` and `device-count` against the real LVM: its metadata on loop devices, without device-mapper.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Pair;
use crate::common::{lacks, run};

/// Loop devices with a volume group on them; taken away when dropped.
struct Disks {
    devices: Vec<PathBuf>,
    /// The wrapper that stands for vgs: the real one, told that there is no device-mapper and to look nowhere else.
    vgs: PathBuf,
    system: PathBuf,
}

impl Disks {
    /// None when the kernel gives no loop device.
    fn new(pair: &Pair, count: usize) -> Option<Self> {
        let (system, vgs) = (pair.work.make("lvm"), pair.work.join("vgs"));
        let mut disks = Self { devices: Vec::new(), vgs, system };
        for n in 0..count {
            let image = pair.work.join(format!("disk{n}"));
            File::create(&image).unwrap().set_len(32 << 20).unwrap();
            let attached = Command::new("losetup").args(["-f", "--show"]).arg(&image).output().ok()?;
            let device = String::from_utf8(attached.stdout).ok().filter(|_| attached.status.success())?;
            disks.devices.push(device.trim().into());
        }
        disks.configure();
        Some(disks)
    }

    fn configure(&self) {
        let accept: Vec<String> =
            self.devices.iter().map(|device| format!("\"a|^{}$|\"", device.display())).collect();
        let text = format!(
            "devices {{ use_devicesfile=0 filter=[{}, \"r|.*|\"] }}\nbackup {{ backup=0 archive=0 }}\n",
            accept.join(", ")
        );
        fs::write(self.system.join("lvm.conf"), text).unwrap();
        let script = format!(
            "#!/bin/sh\nLVM_SYSTEM_DIR={} LVM_SUPPRESS_FD_WARNINGS=1 exec vgs --driverloaded n \"$@\"\n",
            self.system.display()
        );
        fs::write(&self.vgs, script).unwrap();
        run("chmod", ["755", self.vgs.to_str().unwrap()]);
    }

    fn lvm(&self, program: &str, words: &[&str]) {
        let mut command = Command::new(program);
        command.env("LVM_SYSTEM_DIR", &self.system).args(["--driverloaded", "n", "-qq"]).args(words);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn detach(&mut self) {
        let device = self.devices.pop().unwrap();
        run("losetup", ["-d", device.to_str().unwrap()]);
        self.configure();
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for device in &self.devices {
            let _ = Command::new("losetup").arg("-d").arg(device).status();
        }
    }
}

fn gates(vgs: &Path, group: &str) -> String {
    format!(
        "[[gate]]\nkind = \"volume-group\"\nname = \"database\"\nmanager = \"lvm\"\ngroup = \"{group}\"\nprogram = \"{}\"\n",
        vgs.display()
    )
}

#[test]
fn a_volume_group_that_is_exported_or_incomplete_or_elsewhere_keeps_a_sync_away() {
    let test = "gates::a_volume_group_that_is_exported_or_incomplete_or_elsewhere_keeps_a_sync_away";
    if lacks(test, &["vgs", "losetup"]) {
        return;
    }
    let pair = Pair::new("gates-lvm", "");
    let Some(mut disks) = Disks::new(&pair, 2) else {
        return crate::common::skip(test, "the kernel gives no loop device");
    };
    let group = format!("ctgates{}", std::process::id());
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, text + &gates(&disks.vgs, &group)).unwrap();
    let refused = |evidence: &str| {
        let run = pair.sync(&[]).expect_code(3);
        assert!(run.stderr.contains(evidence), "no {evidence:?}: {}", run.describe());
        assert!(pair.nothing_changed());
    };
    refused(&format!("vgs knows no usable {group} here: exit code 5: "));
    let devices: Vec<String> = disks.devices.iter().map(|device| device.display().to_string()).collect();
    disks.lvm("vgcreate", &[&group, &devices[0], &devices[1]]);
    let told = pair.gates(&[]).expect_code(0).stdout;
    assert!(told.contains(&format!("{group} is imported here: 2 physical volumes, none missing")), "{told}");
    disks.lvm("vgexport", &[&group]);
    refused(&format!("{group} is exported"));
    disks.lvm("vgimport", &[&group]);
    pair.gates(&[]).expect_code(0);
    // Its disks are counted against an array that has another number of them.
    let count = format!(
        "[[gate]]\nkind = \"device-count\"\nname = \"count\"\nmanager = \"lvm\"\ngroup = \"{group}\"\n\
         program = \"{}\"\nmethod = \"srdf\"\nreplication-program = \"{}\"\n",
        disks.vgs.display(),
        pair.work.join("symdg").display()
    );
    let symdg = |devices: u64| {
        let script =
            format!("#!/bin/sh\necho '    Number of STD Devices in Group               :    {devices}'\n");
        fs::write(pair.work.join("symdg"), script).unwrap();
        run("chmod", ["755", pair.work.join("symdg").to_str().unwrap()]);
    };
    let text = fs::read_to_string(&pair.profile).unwrap();
    fs::write(&pair.profile, text + &count).unwrap();
    symdg(3);
    refused(&format!("{group} has 2 disks, and 3 devices are replicated"));
    symdg(2);
    pair.gates(&[]).expect_code(0);
    disks.detach();
    refused(&format!("{group} is incomplete: 1 of 2 physical volumes are missing"));
}
