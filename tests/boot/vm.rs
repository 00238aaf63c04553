//! A virtual machine: qemu without acceleration, its two serial ports and its network in files.
//!
//! `/dev/kvm` can exist and hang, so it is never used. What can go wrong: the machine is silent for ever, so every
//! wait has a limit, and `timeout` ends qemu even when the test itself was killed; two machines at once starve each
//! other's timers, so callers run one after the other.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// After this qemu is ended, whatever it does: longer than any wait.
const LIFE_LIMIT_SECONDS: &str = "3600";
/// How often the logs are read.
const POLL: Duration = Duration::from_millis(200);
/// Where the distributions keep the firmware, code and empty variables.
const UEFI: [(&str, &str); 3] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
];

/// What starts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// `SeaBIOS`: reads the first sector of the disk.
    Bios,
    /// OVMF with nothing in its variables: only the fallback path of an ESP can be found.
    Uefi,
}

impl Firmware {
    /// Whether this host has it; qemu brings the other one along.
    pub(crate) fn installed(self) -> bool {
        self == Self::Bios || UEFI.iter().any(|(code, _)| Path::new(code).exists())
    }
}

/// How a disk is attached.
#[derive(Debug, Clone)]
pub(crate) enum Disk {
    /// virtio (`vda` and so on), found by its serial number; what is written is thrown away.
    Scratch(PathBuf, &'static str),
    /// virtio, and what is written stays.
    Virtio(PathBuf, &'static str),
    /// SCSI (`sda`), and what is written stays.
    Scsi(PathBuf),
}

/// A kernel that is started without a boot loader.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) command_line: String,
}

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) firmware: Firmware,
    pub(crate) disks: Vec<Disk>,
    pub(crate) kernel: Option<Kernel>,
    /// The address in the guest whose port 22 is reached at [`Vm::ssh_port`].
    pub(crate) ssh_address: Option<&'static str>,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// What was waited for is there.
    Seen,
    /// The machine has ended without it.
    Ended,
    /// Neither within the limit.
    Overdue,
}

/// A running machine; ended when dropped.
#[derive(Debug)]
pub(crate) struct Vm {
    child: Child,
    dir: PathBuf,
    ssh_port: u16,
}

impl Vm {
    /// Starts `machine`; its logs go to `dir`, which is made and stays.
    pub(crate) fn start(machine: &Machine, dir: &Path) -> Self {
        // What an earlier machine said must not be taken for this one's words.
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).expect("make the machine's directory");
        let ssh_port = free_port();
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--kill-after=10", LIFE_LIMIT_SECONDS, "qemu-system-x86_64"]);
        command.args(arguments(machine, dir, ssh_port));
        let log = fs::File::create(dir.join("qemu.log")).expect("create qemu's log");
        let errors = log.try_clone().expect("share qemu's log");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("run timeout");
        Self { child, dir: dir.to_owned(), ssh_port }
    }

    /// The port of this host that leads to the guest's sshd.
    pub(crate) fn ssh_port(&self) -> u16 {
        self.ssh_port
    }

    /// What firmware, loader, kernel and init have printed.
    pub(crate) fn console(&self) -> String {
        without_escapes(&read(&self.dir.join("console.log")))
    }

    /// What the test's own scripts have printed.
    pub(crate) fn report(&self) -> String {
        without_escapes(&read(&self.dir.join("report.log")))
    }

    /// Every packet, as a pcap file; whole only after [`Vm::stop`].
    pub(crate) fn packets(&self) -> Vec<u8> {
        fs::read(self.dir.join("packets.pcap")).unwrap_or_default()
    }

    /// Waits until `seen` says yes to the console and the report, for at most `limit`.
    pub(crate) fn wait(&mut self, limit: Duration, seen: impl Fn(&str, &str) -> bool) -> Event {
        let deadline = Instant::now() + limit;
        loop {
            // Asked first: what the machine said last is read after it has ended.
            let ended = self.child.try_wait().expect("wait for qemu").is_some();
            if seen(&self.console(), &self.report()) {
                return Event::Seen;
            }
            if ended {
                return Event::Ended;
            }
            if Instant::now() > deadline {
                return Event::Overdue;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends the machine, as by pulling its plug.
    pub(crate) fn stop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Not killed: `timeout` passes this on, and a killed one would leave qemu behind.
            let pid = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }

    /// The end of each log, for a failure message.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("logs: {}\n", self.dir.display());
        let logs = [
            ("qemu", read(&self.dir.join("qemu.log"))),
            ("console", self.console()),
            ("report", self.report()),
        ];
        for (name, log) in logs {
            let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = &lines[lines.len().saturating_sub(25)..];
            let _ = writeln!(text, "--- {name}, last lines\n{}", last.join("\n"));
        }
        text
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn arguments(machine: &Machine, dir: &Path, ssh_port: u16) -> Vec<String> {
    let mut list: Vec<String> = [
        "-machine",
        "pc,graphics=off",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "1024",
        "-nodefaults",
        "-display",
        "none",
        "-vga",
        "none",
        "-no-reboot",
        "-device",
        "virtio-scsi-pci,id=scsi",
    ]
    .map(Into::into)
    .into();
    let mut add = |option: &str, value: String| list.extend([option.to_owned(), value]);
    for log in ["console.log", "report.log"] {
        add("-serial", format!("file:{}", dir.join(log).display()));
    }
    if machine.firmware == Firmware::Uefi {
        let found = UEFI.iter().find(|(code, _)| Path::new(code).exists());
        let (code, variables) = found.expect("UEFI firmware (package ovmf)");
        let own = dir.join("variables.fd");
        fs::copy(variables, &own).expect("copy the empty variables");
        add("-drive", format!("if=pflash,format=raw,readonly=on,file={code}"));
        add("-drive", format!("if=pflash,format=raw,file={}", own.display()));
    }
    let forward = machine.ssh_address.map(|guest| format!(",hostfwd=tcp:127.0.0.1:{ssh_port}-{guest}:22"));
    add("-netdev", format!("user,id=net{}", forward.unwrap_or_default()));
    // Before the disks, which take the next free slots: slot 3 gives the interface its name, ens3. Without a ROM no firmware boots from the network.
    add("-device", "virtio-net-pci,netdev=net,addr=0x3,romfile=".to_owned());
    add("-object", format!("filter-dump,id=dump,netdev=net,file={}", dir.join("packets.pcap").display()));
    for (number, disk) in machine.disks.iter().enumerate() {
        let (path, device, snapshot) = match disk {
            Disk::Scratch(path, serial) => (path, format!("virtio-blk-pci,serial={serial}"), "on"),
            Disk::Virtio(path, serial) => (path, format!("virtio-blk-pci,serial={serial}"), "off"),
            Disk::Scsi(path) => (path, "scsi-hd,bus=scsi.0,bootindex=0".to_owned(), "off"),
        };
        let file = path.display();
        add(
            "-drive",
            format!("if=none,id=d{number},format=raw,cache=unsafe,snapshot={snapshot},file={file}"),
        );
        add("-device", format!("{device},drive=d{number}"));
    }
    if let Some(kernel) = &machine.kernel {
        add("-kernel", kernel.image.display().to_string());
        add("-initrd", kernel.initramfs.display().to_string());
        add("-append", kernel.command_line.clone());
    }
    list
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The text without colours and cursor movements: `ESC [ parameters letter`, or `ESC` and one character.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' if characters.peek() == Some(&'[') => {
                characters.next();
                while characters.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
            }
            '\u{1b}' => {
                characters.next();
            }
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
    listener.local_addr().expect("address").port()
}
