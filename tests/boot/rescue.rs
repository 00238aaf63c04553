//! The rescue system: a machine that does a job on the standby's disk and powers off.
//!
//! It reaches production by SSH to this host. What can go wrong: the job fails in its middle, so each of its steps says
//! how it ended, and the report says which was the last.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::plant::write;
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{CLONETOOL, run};
use crate::image::{Base, filesystem};
use crate::standby::{ADDRESS, ESP_UUID, HOSTNAME, Layout, ROOT_UUID, SWAP_UUID};
use crate::vm::{Disk, Event, Firmware, Kernel, Machine, Vm};

/// What every job shares, and what reports from the booted standby.
const FILES: [(&str, &str); 3] = [
    ("steps", include_str!("guest/steps.sh")),
    ("proof", include_str!("guest/proof.sh")),
    ("proof.service", include_str!("guest/proof.service")),
];
/// Far above what it takes on a busy machine: seven minutes.
const LIMIT: Duration = Duration::from_secs(2400);

/// What the rescue system is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) script: &'a str,
    pub(crate) layout: Layout,
    pub(crate) firmware: Firmware,
    /// The tree that this host serves as production's.
    pub(crate) production: &'a Path,
    /// More variables than every job has.
    pub(crate) config: &'a [(&'a str, &'a str)],
}

/// A rescue system at work.
#[derive(Debug)]
pub(crate) struct Rescue {
    vm: Vm,
    started: Instant,
    /// Served for as long as the job runs.
    _server: Sshd,
}

impl Rescue {
    /// Starts it with `disk` as the standby's; its logs go to `dir`.
    pub(crate) fn start(base: &Base, job: &Job<'_>, disk: &Path, dir: &Path) -> Self {
        let beside = |what: &str| {
            let path = PathBuf::from(format!("{}-{what}", dir.display()));
            let _ = fs::remove_dir_all(&path);
            path
        };
        let server = Sshd::start(&beside("sshd"), &SshdOptions::default());
        let job_disk = pack(&beside("job"), &server, job);
        let (image, initramfs) = base.kernel();
        let command_line = "root=/dev/vda rw init=/rescue console=ttyS0,115200 panic=1".to_owned();
        let machine = Machine {
            firmware: job.firmware,
            disks: vec![
                Disk::Scratch(base.rescue.clone(), "rescue"),
                Disk::Scratch(job_disk, "job"),
                Disk::Virtio(disk.to_owned(), "target"),
            ],
            kernel: Some(Kernel { image, initramfs, command_line }),
            ssh_address: None,
        };
        Self { started: Instant::now(), vm: Vm::start(&machine, dir), _server: server }
    }

    /// Waits until the job is done, and gives its report.
    ///
    /// # Panics
    /// When a step of it failed.
    pub(crate) fn finish(&mut self) -> String {
        let over = |_: &str, report: &str| report.lines().any(|line| line.starts_with("RESCUE "));
        let event = self.vm.wait(LIMIT, over);
        let report = self.vm.report();
        assert!(
            event == Event::Seen && report.lines().any(|line| line.starts_with("RESCUE done 0")),
            "the job of the rescue system failed ({event:?})\n{}",
            self.vm.describe()
        );
        // It powers off by itself, after its last write.
        let event = self.vm.wait(Duration::from_secs(120), |_, _| false);
        assert_eq!(event, Event::Ended, "the rescue system does not power off\n{}", self.vm.describe());
        for line in report.lines().filter(|line| line.starts_with("END ")) {
            println!("    {line}");
        }
        println!("    rescue system: {} s", self.started.elapsed().as_secs());
        report
    }

    /// Pulls the plug as soon as the job says `MARK mark`.
    ///
    /// # Panics
    /// When the job is over without saying so.
    pub(crate) fn cut_at(mut self, mark: &str) {
        let line = format!("MARK {mark}");
        let over =
            |_: &str, report: &str| report.lines().any(|one| one == line || one.starts_with("RESCUE "));
        let event = self.vm.wait(LIMIT, over);
        self.vm.stop();
        let seen = self.vm.report().lines().any(|one| one == line);
        assert!(seen, "the job did not come to {mark} ({event:?})\n{}", self.vm.describe());
    }
}

/// What the report of a job says of `name`.
pub(crate) fn facts(report: &str, name: &str) -> Vec<String> {
    let prefix = format!("FACT {name} ");
    report.lines().filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).collect()
}

/// A disk with everything that the rescue system is to do, beside the tree `tree` that it is made of.
fn pack(tree: &Path, server: &Sshd, job: &Job<'_>) -> PathBuf {
    fs::create_dir_all(tree).expect("make the job");
    let known = fs::read_to_string(server.known_hosts()).expect("read known_hosts");
    write(&tree.join("known_hosts"), known.replace("127.0.0.1", "10.0.2.2"));
    fs::copy(server.identity(), tree.join("client_key")).expect("copy the client's key");
    // Symbols are nine tenths of a debug build.
    let stripped = tree.join("clonetool");
    run("strip", ["-o".as_ref(), stripped.as_os_str(), CLONETOOL.as_ref()]);
    let (port, production) = (server.port().to_string(), job.production.display().to_string());
    let common = [
        ("ROOT_ON", job.layout.name()),
        ("SSH_PORT", &port),
        ("REMOTE_CLONETOOL", CLONETOOL),
        ("PRODUCTION", &production),
        ("STANDBY", HOSTNAME),
        ("ADDRESS", ADDRESS),
        ("ROOT_UUID", ROOT_UUID),
        ("SWAP_UUID", SWAP_UUID),
        ("ESP_UUID", ESP_UUID),
    ];
    let lines: Vec<_> =
        common.iter().chain(job.config).map(|(name, value)| format!("{name}='{value}'\n")).collect();
    write(&tree.join("config"), lines.concat());
    write(&tree.join("layout"), job.layout.table());
    write(&tree.join("run"), job.script);
    for (name, content) in FILES {
        write(&tree.join(name), content);
    }
    let image = tree.with_extension("img");
    filesystem(tree, &image, "ext2", 256 << 20);
    image
}
