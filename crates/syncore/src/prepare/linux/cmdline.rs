//! What the kernel is told: one command line, in whichever of five files a distribution keeps it.
//!
//! Why: `root=` is only the best known of the words that name production's disks; `resume=` waits for a swap area that
//! is not there, `rd.lvm.lv=` for a volume group, `ip=` takes production's address before anything else runs. What can
//! go wrong: a word that is not known stays, and the search for production's ids at the end finds what it holds.

use super::super::draft::Draft;
use super::super::lines::{Lines, is_comment};
use super::super::target::{Filesystem, Layer};
use super::super::{PrepareError, Task};
use super::devices::{Needed, id_of, mapper_name, name_like, root_like};
use super::words::{Assignment, Value, is_layer, is_network, split};
use crate::rules::Class;

/// How much of what the kernel is told a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it: a root that is not named is added, and what has to be there before it.
    Whole,
    /// All but the root, which somebody else adds.
    Layers,
    /// Some words.
    Words,
}

/// What the words of a command line become.
#[derive(Debug)]
pub(super) struct Rewriter<'a> {
    task: &'a Task<'a>,
    needed: Needed,
    dracut: bool,
    /// Ids of production's that were found.
    pub(super) ids: Vec<String>,
    /// Words that were dropped because they set up production's network.
    pub(super) network: Vec<String>,
}

impl<'a> Rewriter<'a> {
    /// `dracut` says that the copy's initramfs is dracut's, and generic: without being told, it activates every volume
    /// group, assembles every array and asks for the passphrase of every header that it sees.
    pub(super) fn new(task: &'a Task<'a>, dracut: bool) -> Self {
        let needed = Needed::of(task.target, &["/", "/usr"]);
        Self { task, needed, dracut, ids: Vec::new(), network: Vec::new() }
    }

    /// The words of a command line as they are to be.
    pub(super) fn rewrite(&mut self, line: &str, part: Part) -> Result<String, PrepareError> {
        let mut words: Vec<String> = Vec::new();
        let (mut seen_root, mut seen_layers) = (false, false);
        for word in split(line) {
            let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
            let bare = value.unwrap_or_default().trim_matches('"');
            match key {
                "root" => {
                    seen_root = true;
                    self.ids.extend(id_of(bare));
                    words.push(format!("root={}", root_like(self.task, bare)?));
                }
                "rootfstype" => match self.root() {
                    Some(root) => words.push(format!("rootfstype={}", root.kind)),
                    None => words.push(word.to_owned()),
                },
                "rootflags" => self.flags(bare, &mut words),
                "resume" => {
                    self.ids.extend(id_of(bare));
                    if let Some(area) = self.task.target.swaps().next() {
                        words.push(format!("resume={}", name_like(bare, area)?));
                    }
                }
                "resume_offset" | "systemd.machine_id" | "BOOT_IMAGE" => {}
                _ if is_layer(key) => {
                    self.ids.extend(
                        bare.split(['=', ':'])
                            .filter(|part| part.contains('-') && part.len() == 36)
                            .map(|id| id.trim_start_matches("luks-").to_owned()),
                    );
                    if !std::mem::replace(&mut seen_layers, true) {
                        self.layers(key, &mut words);
                    }
                }
                _ if is_network(key) => {
                    self.network.push(word.to_owned());
                }
                _ => words.push(word.to_owned()),
            }
        }
        if part == Part::Whole && !seen_root {
            words.insert(0, format!("root={}", root_like(self.task, "")?));
        }
        if part != Part::Words && !seen_layers {
            self.layers("rd.lvm.lv", &mut words);
        }
        Ok(words.join(" "))
    }

    fn root(&self) -> Option<&Filesystem> {
        self.task.target.at("/").filter(|_| self.task.options.root_device.is_none())
    }

    fn flags(&self, value: &str, words: &mut Vec<String>) {
        let Some(root) = self.root() else {
            words.push(format!("rootflags={value}"));
            return;
        };
        let mut flags: Vec<String> = value
            .split(',')
            .filter(|flag| !flag.starts_with("subvol=") && !flag.starts_with("subvolid="))
            .map(str::to_owned)
            .collect();
        if let Some(subvolume) = root.subvolume.as_ref().filter(|path| *path != "/") {
            flags.push(format!("subvol={subvolume}"));
        }
        flags.retain(|flag| !flag.is_empty());
        if !flags.is_empty() {
            words.push(format!("rootflags={}", flags.join(",")));
        }
    }

    /// What names the layers below the root, in the words of whoever reads `key`.
    fn layers(&self, key: &str, words: &mut Vec<String>) {
        if key == "cryptdevice" {
            // mkinitcpio's encrypt hook knows one.
            words.extend(
                self.needed
                    .headers
                    .iter()
                    .take(1)
                    .map(|(name, uuid)| format!("cryptdevice=UUID={uuid}:{name}")),
            );
            return;
        }
        if self.dracut {
            let empty = [
                ("rd.md=0", self.needed.arrays.is_empty()),
                ("rd.luks=0", self.needed.headers.is_empty()),
                ("rd.lvm=0", self.needed.volumes.is_empty()),
            ];
            words.extend(empty.iter().filter(|(_, empty)| *empty).map(|(word, _)| (*word).to_owned()));
        }
        words.extend(self.needed.arrays.iter().map(|uuid| format!("rd.md.uuid={uuid}")));
        words.extend(self.needed.headers.iter().map(|(_, uuid)| format!("rd.luks.uuid={uuid}")));
        words.extend(self.needed.volumes.iter().map(|(group, volume)| format!("rd.lvm.lv={group}/{volume}")));
    }
}

/// Plans the files that hold a command line and nothing of a boot loader's.
pub(super) fn plan(
    task: &Task<'_>,
    rewriter: &mut Rewriter<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let mut files = vec![("/etc/kernel/cmdline".to_owned(), Part::Whole)];
    for name in draft.list("/etc/cmdline.d")? {
        if name.ends_with(".conf") {
            files.push((format!("/etc/cmdline.d/{name}"), Part::Words));
        }
    }
    for (path, part) in files {
        let Some(content) = draft.text(&path)? else { continue };
        let mut lines = Lines::of(content.as_bytes());
        for line in &mut lines.0 {
            if !is_comment(&line.content, b'#') {
                line.content = rewriter.rewrite(&String::from_utf8_lossy(&line.content), part)?.into_bytes();
            }
        }
        draft.write(
            &path,
            lines.to_bytes(),
            Class::B,
            "the kernel finds its root on the standby's devices",
        )?;
    }
    default_grub(task, rewriter, draft)
}

/// `/etc/default/grub` and what is below `grub.d`: assignments of a shell.
fn default_grub(
    task: &Task<'_>,
    rewriter: &mut Rewriter<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let mut files = vec!["/etc/default/grub".to_owned()];
    for name in draft.list("/etc/default/grub.d")? {
        if name.ends_with(".cfg") {
            files.push(format!("/etc/default/grub.d/{name}"));
        }
    }
    for path in &files {
        let Some(content) = draft.read(path)? else { continue };
        let mut lines = Lines::of(&content);
        let mut kept = Vec::new();
        for mut line in std::mem::take(&mut lines.0) {
            let text = String::from_utf8_lossy(&line.content).into_owned();
            match grub_line(task, rewriter, &text)? {
                Some(new) if new != text => {
                    line.content = new.into_bytes();
                    kept.push(line);
                }
                Some(_) => kept.push(line),
                None => {}
            }
        }
        lines.0 = kept;
        draft.write(
            path,
            lines.to_bytes(),
            Class::B,
            "the boot loader's configuration is made for the standby's devices",
        )?;
    }
    let encrypted =
        |filesystem: &Filesystem| filesystem.layers.iter().any(|layer| matches!(layer, Layer::Luks { .. }));
    if super::devices::boot_of(task.target).is_some_and(encrypted)
        && let Some(content) = draft.read("/etc/default/grub")?
    {
        let mut lines = Lines::of(&content);
        if !lines.0.iter().any(|line| line.content.starts_with(b"GRUB_ENABLE_CRYPTODISK=y")) {
            lines.push(b"GRUB_ENABLE_CRYPTODISK=y");
            draft.write("/etc/default/grub", lines.to_bytes(), Class::B, "/boot is encrypted")?;
        }
    }
    Ok(())
}

/// One line of grub's defaults; none if it is dropped.
fn grub_line(
    task: &Task<'_>,
    rewriter: &mut Rewriter<'_>,
    line: &str,
) -> Result<Option<String>, PrepareError> {
    let Some(assignment) = Assignment::of(line) else { return Ok(Some(line.to_owned())) };
    let Assignment { before, name, value } = assignment;
    if name.starts_with("GRUB_CMDLINE_") {
        // When it goes on in the next line, what it holds is found at the end.
        let Some(Value { quote, inner, rest }) = assignment.value() else { return Ok(Some(line.to_owned())) };
        let quote = quote.unwrap_or('"');
        let part = if name == "GRUB_CMDLINE_LINUX" && rewriter.dracut { Part::Layers } else { Part::Words };
        let new = rewriter.rewrite(inner, part)?;
        if new.split_ascii_whitespace().eq(inner.split_ascii_whitespace()) {
            return Ok(Some(line.to_owned()));
        }
        return Ok(Some(format!("{before}{name}={quote}{new}{quote}{rest}")));
    }
    let bare = value.trim_matches(['"', '\'']);
    match name {
        // grub-mkconfig finds these itself, on the standby's devices.
        "GRUB_DEVICE"
        | "GRUB_DEVICE_UUID"
        | "GRUB_DEVICE_PARTUUID"
        | "GRUB_DEVICE_BOOT"
        | "GRUB_DEVICE_BOOT_UUID" => {
            rewriter.ids.push(bare.to_owned());
            Ok(None)
        }
        // Debian's cloud images boot without an initramfs from it.
        "GRUB_FORCE_PARTUUID" => {
            rewriter.ids.push(bare.to_owned());
            let uuid = task.target.at("/").and_then(|root| root.partition_uuid.as_ref());
            Ok(uuid.map(|uuid| format!("{before}{name}={uuid}")))
        }
        // What a disk is called here says nothing of what it will be called there.
        "GRUB_DISABLE_LINUX_UUID" | "GRUB_DISABLE_UUID" if bare == "true" => {
            Ok(Some(format!("{before}{name}=false")))
        }
        // It would look for other systems on every volume that the standby sees.
        "GRUB_DISABLE_OS_PROBER" if bare != "true" => Ok(Some(format!("{before}{name}=true"))),
        _ => Ok(Some(line.to_owned())),
    }
}

/// The words that a boot entry's command line must have for the standby's root, for the check at the end.
pub(super) fn root_words(task: &Task<'_>) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(spec) = &task.options.root_device {
        words.push(format!("root={spec}"));
        words.push(format!("root={}", spec.replace('=', "=\"")));
        return words;
    }
    let Some(root) = task.target.at("/") else { return words };
    words.extend(root.uuid.iter().map(|uuid| format!("root=UUID={uuid}")));
    words.extend(root.uuid.iter().map(|uuid| format!("root=/dev/disk/by-uuid/{uuid}")));
    words.extend(root.partition_uuid.iter().map(|uuid| format!("root=PARTUUID={uuid}")));
    words.extend(root.label.iter().map(|label| format!("root=LABEL={label}")));
    match root.layers.first() {
        Some(Layer::Lvm { group, volume }) => {
            words.push(format!("root=/dev/mapper/{}", mapper_name(group, volume)));
            words.push(format!("root=/dev/{group}/{volume}"));
        }
        Some(Layer::Luks { name, .. }) => words.push(format!("root=/dev/mapper/{name}")),
        _ => {}
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, filesystem};
    use super::*;

    fn rewrite(fixture: &Fixture, line: &str, whole: bool) -> String {
        let part = if whole { Part::Whole } else { Part::Words };
        fixture.with(|task, _| Rewriter::new(task, false).rewrite(line, part).unwrap())
    }

    #[test]
    fn every_word_that_names_a_device_names_the_standbys() {
        let mut fixture = Fixture::new(&[]);
        fixture.target.filesystems.push(filesystem("", "ext4", "new"));
        assert_eq!(
            rewrite(
                &fixture,
                "root=UUID=old ro quiet resume=UUID=swap resume_offset=5 console=ttyS0,115200",
                true
            ),
            "root=UUID=new ro quiet console=ttyS0,115200"
        );
        assert_eq!(rewrite(&fixture, "ro quiet", true), "root=UUID=new ro quiet");
        assert_eq!(rewrite(&fixture, "ro quiet", false), "ro quiet");
        assert_eq!(
            rewrite(
                &fixture,
                "rd.lvm.lv=rhel/root rd.luks.uuid=luks-1 ip=10.0.0.5::10.0.0.1:::eth0:none dyndbg=\"a b\"",
                false
            ),
            "dyndbg=\"a b\""
        );
        fixture.target.filesystems[0].layers = vec![
            Layer::Lvm { group: "vg".into(), volume: "root".into() },
            Layer::Luks { name: "crypt".into(), uuid: "0a3407de-014b-458b-b5c1-848e92a327a3".into() },
        ];
        assert_eq!(
            rewrite(&fixture, "root=/dev/mapper/rhel-root rd.lvm.lv=rhel/root rd.lvm.lv=rhel/swap", true),
            "root=/dev/mapper/vg-root rd.luks.uuid=0a3407de-014b-458b-b5c1-848e92a327a3 rd.lvm.lv=vg/root"
        );
        assert!(rewrite(&fixture, "root=UUID=old", true).ends_with("rd.lvm.lv=vg/root"));
        assert_eq!(
            rewrite(&fixture, "cryptdevice=UUID=0:root", false),
            "cryptdevice=UUID=0a3407de-014b-458b-b5c1-848e92a327a3:crypt"
        );
    }

    #[test]
    fn dracut_is_told_to_leave_alone_what_the_system_does_not_lie_on() {
        let mut fixture = Fixture::new(&[("etc/default/grub", "GRUB_CMDLINE_LINUX=\"quiet\"\n")]);
        fixture.target.filesystems.push(filesystem("", "ext4", "new"));
        let all = |fixture: &Fixture, line: &str| {
            fixture.with(|task, _| Rewriter::new(task, true).rewrite(line, Part::Layers).unwrap())
        };
        assert_eq!(all(&fixture, "quiet rd.lvm.lv=rhel/root"), "quiet rd.md=0 rd.luks=0 rd.lvm=0");
        assert_eq!(all(&fixture, "quiet rd.md=0 rd.luks=0 rd.lvm=0"), "quiet rd.md=0 rd.luks=0 rd.lvm=0");
        fixture.target.filesystems[0].layers = vec![Layer::Lvm { group: "vg".into(), volume: "root".into() }];
        assert_eq!(all(&fixture, "rd.lvm=0 quiet"), "rd.md=0 rd.luks=0 rd.lvm.lv=vg/root quiet");
        fixture.with(|task, draft| {
            plan(task, &mut Rewriter::new(task, true), draft).unwrap();
            assert_eq!(
                draft.text("/etc/default/grub").unwrap().unwrap(),
                "GRUB_CMDLINE_LINUX=\"quiet rd.md=0 rd.luks=0 rd.lvm.lv=vg/root\"\n"
            );
        });
    }

    #[test]
    fn a_subvolume_is_the_one_that_is_mounted() {
        let mut fixture = Fixture::new(&[]);
        let mut root = filesystem("", "btrfs", "new");
        root.subvolume = Some("/@standby".into());
        fixture.target.filesystems.push(root);
        assert_eq!(
            rewrite(&fixture, "root=UUID=old rootflags=subvol=@,compress=zstd rootfstype=btrfs", false),
            "root=UUID=new rootflags=compress=zstd,subvol=/@standby rootfstype=btrfs"
        );
    }

    #[test]
    fn grubs_defaults_keep_their_quotes_and_everything_else() {
        let mut fixture = Fixture::new(&[
            (
                "etc/default/grub",
                "# Set\nGRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet splash\"\n\
                 GRUB_CMDLINE_LINUX='resume=UUID=swap rd.lvm.lv=rhel/root crashkernel=256M' # why\n\
                 GRUB_DISABLE_OS_PROBER=false\nGRUB_DEVICE=/dev/sda1\nGRUB_CMDLINE_XEN=\"open\n",
            ),
            ("etc/default/grub.d/40-force-partuuid.cfg", "GRUB_FORCE_PARTUUID=77f2a6a6-01\n"),
            ("etc/kernel/cmdline", "root=UUID=old quiet\r\n"),
        ]);
        fixture.target.filesystems.push(filesystem("", "ext4", "new"));
        let files = fixture.with(|task, draft| {
            let mut rewriter = Rewriter::new(task, false);
            plan(task, &mut rewriter, draft).unwrap();
            assert!(rewriter.ids.contains(&"77f2a6a6-01".to_owned()));
            ["/etc/default/grub", "/etc/default/grub.d/40-force-partuuid.cfg", "/etc/kernel/cmdline"]
                .map(|path| draft.text(path).unwrap().unwrap())
        });
        assert_eq!(
            files[0],
            "# Set\nGRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet splash\"\n\
             GRUB_CMDLINE_LINUX='crashkernel=256M' # why\nGRUB_DISABLE_OS_PROBER=true\nGRUB_CMDLINE_XEN=\"open\n"
        );
        assert_eq!(files[1], "");
        assert_eq!(files[2], "root=UUID=new quiet\r\n");
    }
}
