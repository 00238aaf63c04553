//! finish.sh: what only the target can do, written down for it.
//!
//! Why: device trees, boot blocks, boot archives, keys and SMF need programs of that system on that hardware. The
//! script is written to the root, for whoever stands at the target, booted from the network or a CD with the root at
//! `/a`. What can go wrong: a shell of 1997. `/sbin/sh` of Solaris 2.6 knows no `$( )`, no `!`, no `local`, no
//! `export X=Y`, no `test -e`; a loop that is fed by `<` is another process, and a function may take the script's own
//! arguments away. A failure in the middle: the script stops, says what to do, and can be run again.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::super::report::Finding;
use super::super::{Address, AddressSetting, Bootloader, Draft, PrepareError, Solaris, Task, draft::parse};
use super::loader::{self, BootLoader};
use super::{Host, shown};
use crate::rules::Class;

/// Where the script is, below the root.
const PATH: &str = "/var/lib/clonetool/finish.sh";

/// A host key to be made.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) kind: &'static str,
    pub(super) path: String,
    pub(super) program: String,
}

/// What the planners leave for the target.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) keys: Vec<Key>,
    pub(super) services: BTreeSet<String>,
    pub(super) addresses: Vec<Address>,
    pub(super) boot_archive: bool,
    pub(super) boot_path: bool,
    pub(super) boot_loader: BootLoader,
    /// The slice of `/`, as vfstab names it.
    pub(super) root: Option<String>,
}

/// Plans the script.
pub(super) fn plan(
    task: &Task<'_>,
    host: &Host<'_>,
    script: &Script,
    draft: &mut Draft<'_>,
) -> Result<(), PrepareError> {
    let text = text(task, host, script)?;
    draft.write_with_mode(PATH, text, 0o755, Class::A, "what has to be run on the target")?;
    draft.pending.push(vec!["sh".into(), format!("/a{PATH}"), "/a".into()]);
    draft.find(
        Finding::pending(
            "run it on the target before it boots: boot from the network or a CD, mount this root at /a, then \
             sh /a/var/lib/clonetool/finish.sh /a",
        )
        .at(&parse(PATH)?),
    );
    Ok(())
}

/// Everything before the first step.
const HEAD: &str = r#"
PATH=$PATH:/usr/sbin:/usr/bin:/sbin
export PATH

stop() {
    echo "finish.sh: FAILED: $1" >&2
    echo "finish.sh: $2" >&2
    exit 1
}

# run HINT COMMAND...
run() {
    hint=$1
    shift
    echo "+ $*"
    "$@" || stop "$*" "$hint"
}

R=$1
if [ $# -gt 0 ]; then
    shift
fi
DISKS=$*
case "$R" in
/) P= ;;
/*) P=$R ;;
*) stop "no root was given" "run: sh /a/var/lib/clonetool/finish.sh /a [/dev/rdsk/DISK...]" ;;
esac
[ "`uname -s`" = SunOS ] || stop "this is not Solaris" "run it on the machine that is to boot from $R"
case "`id`" in
"uid=0("*) ;;
*) stop "only root can do this" "become root" ;;
esac
[ -f "$P/var/lib/clonetool/finish.sh" ] || stop "$R is not the prepared root" "mount it, and say where"
"#;

/// Devices of the filesystems that a boot needs.
const SLICES: &str = r#"
# The devices of vfstab have to be there, under the names that this machine gives them.
for d in `awk '$1 ~ /^\/dev\/dsk\// && ($3 == "/" || $3 == "/usr" || $3 == "/var" || $3 == "/opt" || $4 == "swap" || $6 == "yes") { print $1 }' "$P/etc/vfstab"`; do
    [ -b "$P$d" ] || stop "$d is not there" "the disk has another name here: see ls -l $P/dev/dsk, change both columns in $P/etc/vfstab, and run this again"
done
"#;

fn text(task: &Task<'_>, host: &Host<'_>, script: &Script) -> Result<String, PrepareError> {
    let mut text = format!(
        "#!/sbin/sh\n\
         # Finishes the preparation of {own} ({system}), on the machine that is to boot from it.\n\
         # Boot that machine from the network or a CD of the same release, mount the prepared root at /a, and run\n\
         #     sh /a{PATH} /a\n\
         # It stops at the first thing that fails and says what to do; it can be run again.\n",
        own = host.own,
        system = comment(&task.system.name),
    );
    text.push_str(HEAD);
    let processor = if host.sparc { "sparc" } else { "i386" };
    let _ = writeln!(
        text,
        "[ \"`uname -p`\" = {processor} ] || stop \"the processor is no {processor}\" \"this root boots on {processor} only\""
    );
    devices(host, &mut text);
    if !host.zfs_root {
        text.push_str(SLICES);
    }
    keys(script, &mut text);
    services(host, script, &mut text);
    loader::boot_path(script, &mut text);
    if script.boot_archive {
        text.push_str(
            "\n# The kernel reads its files from the boot archive: this comes after every change of them.\n\
             run \"see that $R has room, and run this again\" bootadm update-archive -f -R \"$R\"\n",
        );
    }
    if task.options.bootloader != Bootloader::None {
        loader::boot_loader(task, host, script, &mut text)?;
    }
    addresses(host, script, &mut text);
    let _ = write!(
        text,
        "\nif [ \"$R\" != / ]; then\n\
         \x20   run \"make it by hand: touch $P/reconfigure\" touch \"$P/reconfigure\"\n\
         fi\n\
         echo \"finish.sh: done; see that the firmware boots from this disk, and boot it with -rs first\"\n"
    );
    Ok(text)
}

/// A word for a comment or a message: nothing that a shell or a terminal would read.
fn comment(text: &str) -> String {
    shown(text.as_bytes()).chars().filter(|c| !matches!(c, '"' | '`' | '$' | '\\' | '\n')).collect()
}

/// A word that the shell takes as it is.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn devices(host: &Host<'_>, text: &mut String) {
    let programs: &[(&str, &str)] = match host.release {
        Solaris::UpTo26 => &[
            ("drvconfig -r \"$P/devices\"", "it makes /devices from what the kernel found: see its message"),
            ("devlinks -r \"$R\"", "it makes /dev by /etc/devlink.tab: see its message"),
            ("disks -r \"$R\"", "it makes /dev/dsk and /dev/rdsk: see its message"),
            ("tapes -r \"$R\"", "it makes /dev/rmt: see its message"),
            ("ports -r \"$R\"", "it makes /dev/term and /dev/cua: see its message"),
        ],
        Solaris::From7To9 | Solaris::Ten => {
            &[("devfsadm -r \"$R\"", "it makes /dev and /devices: see its message")]
        }
        // The kernel makes both.
        Solaris::Eleven | Solaris::Illumos => &[],
    };
    if programs.is_empty() {
        return;
    }
    text.push_str("\n# Devices: as the kernel that runs here numbers them.\n");
    for (program, hint) in programs {
        let _ = writeln!(text, "run \"{hint}\" {program}");
    }
    if !host.has_devfs() {
        text.push_str(
            "for d in console null zero; do\n\
             \x20   [ -c \"$P/dev/$d\" ] || stop \"$P/dev/$d is not there\" \"without it the root does not boot: is \
             this machine running the release of $R?\"\n\
             done\n",
        );
    }
}

fn keys(script: &Script, text: &mut String) {
    if script.keys.is_empty() {
        return;
    }
    text.push_str(
        "\n# Host keys. One that is there is left.\n\
         key() {\n\
         \x20   if [ -f \"$P$2\" ]; then\n\
         \x20       echo \"finish.sh: $2 is there\"\n\
         \x20   else\n\
         \x20       run \"make it on the running system: $3 -t $1 -f $2\" chroot \"$R\" \"$3\" -q -t \"$1\" -N '' -f \"$2\"\n\
         \x20   fi\n\
         }\n",
    );
    for key in &script.keys {
        let _ = writeln!(text, "key {} {} {}", key.kind, quoted(&key.path), quoted(&key.program));
    }
}

/// What is in the repository of SMF: the name, on Solaris 11, and which services are enabled.
fn services(host: &Host<'_>, script: &Script, text: &mut String) {
    let named = host.release == Solaris::Eleven && !host.takeover;
    if !named && script.services.is_empty() {
        return;
    }
    text.push_str(
        "\n# Properties of services, in the repository of the prepared root.\n\
         if [ \"$R\" != / ]; then\n\
         \x20   SVCCFG_REPOSITORY=$P/etc/svc/repository.db\n\
         \x20   export SVCCFG_REPOSITORY\n\
         fi\n",
    );
    let hint = "the system that runs here has to be of the same release; else boot the root with -s and run this with /";
    if named {
        let _ = writeln!(
            text,
            "run \"{hint}\" svccfg -s system/identity:node setprop config/nodename = astring: {own}\n\
             run \"{hint}\" svccfg -s system/identity:node setprop config/loopback = astring: {own}\n\
             run \"{hint}\" svccfg -s system/identity:node refresh",
            own = host.own
        );
    }
    for service in &script.services {
        let _ = writeln!(
            text,
            "run \"{hint}\" svccfg -s {service} setprop general/enabled = boolean: false\n\
             run \"{hint}\" svccfg -s {service} refresh"
        );
    }
}

/// Addresses, where a program of the running target sets them.
fn addresses(host: &Host<'_>, script: &Script, text: &mut String) {
    if script.addresses.is_empty() {
        return;
    }
    text.push_str(
        "\n# Addresses: only the system that they are for can set them.\n\
         if [ \"$R\" != / ]; then\n\
         \x20   echo \"finish.sh: addresses are set later: boot the root, then run sh /var/lib/clonetool/finish.sh /\"\n\
         else\n",
    );
    let create = if host.release == Solaris::Eleven { "create-ip" } else { "create-if" };
    let hint = "see dladm show-link for the names of the interfaces, and ipadm show-addr for what is set";
    for address in &script.addresses {
        let interface = &address.interface;
        let (object, arguments) = match address.setting {
            AddressSetting::Dhcp => (format!("{interface}/dhcp"), "-T dhcp".to_owned()),
            AddressSetting::Static { address, prefix_bits, .. } => {
                let family = if address.is_ipv6() { "v6" } else { "v4" };
                (format!("{interface}/{family}"), format!("-T static -a {address}/{prefix_bits}"))
            }
        };
        let _ = write!(
            text,
            "\x20   ipadm show-if {interface} >/dev/null 2>&1 || run \"{hint}\" ipadm {create} {interface}\n\
             \x20   ipadm show-addr {object} >/dev/null 2>&1 || run \"{hint}\" ipadm create-addr {arguments} {object}\n"
        );
        if let AddressSetting::Static { gateway: Some(gateway), .. } = address.setting
            && host.release == Solaris::Eleven
        {
            let _ = write!(
                text,
                "\x20   if route -p show | grep 'default.*{gateway}' >/dev/null; then\n\
                 \x20       :\n\
                 \x20   else\n\
                 \x20       run \"see netstat -rn\" route -p add default {gateway}\n\
                 \x20   fi\n"
            );
        }
    }
    text.push_str("fi\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_from_the_tree_is_one_word_to_the_shell() {
        assert_eq!(quoted("/etc/it's"), r"'/etc/it'\''s'");
        assert_eq!(comment("Solaris `reboot` $(x) \"8\"\n"), "Solaris reboot (x) 8x0a");
    }
}
