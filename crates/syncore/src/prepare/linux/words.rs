//! The words of a kernel's command line, which of them are a host's own, and the assignments of a shell that hold them.
//!
//! Why: `prepare-root` has these words name the standby's devices, and every sync after it has to leave the same words
//! alone; so it is said once which they are. What can go wrong: a quote that does not end on its line. What it holds is
//! then not known, and whoever asks has to say what he does about it.

/// Whether `key` names what lies below the root: volumes, headers, arrays (dracut.cmdline(7), mkinitcpio(8)).
pub(super) fn is_layer(key: &str) -> bool {
    matches!(
        key,
        "rd.lvm.lv"
            | "rd.lvm.vg"
            | "rd.luks.uuid"
            | "rd.luks.name"
            | "rd.luks.options"
            | "rd.luks.key"
            | "luks.uuid"
            | "luks.name"
            | "luks.options"
            | "luks.key"
            | "rd.md.uuid"
            | "cryptdevice"
            | "rd.lvm"
            | "rd.luks"
            | "rd.md"
    )
}

/// Whether `key` sets up a network before anything else runs.
pub(super) fn is_network(key: &str) -> bool {
    matches!(
        key,
        "ip" | "ifname"
            | "rd.route"
            | "nameserver"
            | "bootdev"
            | "BOOTIF"
            | "netroot"
            | "rd.neednet"
            | "rd.iscsi.initiator"
            | "iscsi_initiator"
            | "rd.znet"
    )
}

/// Whether a word says something of one host's devices, ids or network.
pub(crate) fn is_own(word: &str) -> bool {
    let key = key_of(word);
    is_layer(key)
        || is_network(key)
        || matches!(
            key,
            "root"
                | "rootfstype"
                | "rootflags"
                | "resume"
                | "resume_offset"
                | "systemd.machine_id"
                | "BOOT_IMAGE"
        )
}

/// What a word sets.
pub(crate) fn key_of(word: &str) -> &str {
    word.trim_start_matches('"').split('=').next().unwrap_or_default()
}

/// Whether a setting of GRUB's defaults, but for the command lines, says something of one host's devices.
pub(crate) fn is_own_setting(name: &str) -> bool {
    matches!(
        name,
        "GRUB_DEVICE"
            | "GRUB_DEVICE_UUID"
            | "GRUB_DEVICE_PARTUUID"
            | "GRUB_DEVICE_BOOT"
            | "GRUB_DEVICE_BOOT_UUID"
            | "GRUB_FORCE_PARTUUID"
            | "GRUB_DISABLE_LINUX_UUID"
            | "GRUB_DISABLE_UUID"
            | "GRUB_DISABLE_OS_PROBER"
            | "GRUB_ENABLE_CRYPTODISK"
    )
}

/// The words of a command line; blanks between double quotes separate nothing.
pub(crate) fn split(line: &str) -> Vec<&str> {
    let (mut words, mut start, mut quoted) = (Vec::new(), None, false);
    for (at, c) in line.char_indices() {
        if c.is_ascii_whitespace() && !quoted {
            words.extend(start.take().map(|start| &line[start..at]));
        } else {
            start.get_or_insert(at);
            quoted ^= c == '"';
        }
    }
    words.extend(start.map(|start| &line[start..]));
    words
}

/// `NAME=value`, as a line of a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Assignment<'a> {
    /// Blanks, and `export`.
    pub(crate) before: &'a str,
    pub(crate) name: &'a str,
    /// All behind the equals sign, quotes and comment with it.
    pub(crate) value: &'a str,
}

/// The value of an assignment, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value<'a> {
    /// What it is quoted with.
    pub(crate) quote: Option<char>,
    pub(crate) inner: &'a str,
    /// What stands behind it.
    pub(crate) rest: &'a str,
}

impl<'a> Assignment<'a> {
    /// None of a line that is something else.
    pub(crate) fn of(line: &'a str) -> Option<Self> {
        let trimmed = line.trim_start();
        let trimmed = trimmed.strip_prefix("export ").unwrap_or(trimmed).trim_start();
        let (name, value) = trimmed.split_once('=')?;
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        is_name(name.strip_suffix('+').unwrap_or(name)).then_some(Self {
            before: &line[..line.len() - trimmed.len()],
            name,
            value,
        })
    }

    /// None when it goes on in the next line.
    pub(crate) fn value(&self) -> Option<Value<'a>> {
        let value = self.value;
        let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
            let end = value.find([' ', '\t']).unwrap_or(value.len());
            return Some(Value { quote: None, inner: &value[..end], rest: &value[end..] });
        };
        let mut escaped = false;
        let end = value.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = quote == '"' && *c == '\\' && !escaped;
            ends
        });
        let (end, _) = end?;
        Some(Value { quote: Some(quote), inner: &value[1..end], rest: &value[end + 1..] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_taken_apart_as_the_shell_does() {
        let value = |line| Assignment::of(line).unwrap().value();
        let of = |quote, inner, rest| Some(Value { quote, inner, rest });
        assert_eq!(value("A=\"a b\" # c"), of(Some('"'), "a b", " # c"));
        assert_eq!(value("A='a \"b'"), of(Some('\''), "a \"b", ""));
        assert_eq!(value(r#"A="x=\"y z\" b""#), of(Some('"'), r#"x=\"y z\" b"#, ""));
        assert_eq!(value("A=a # b"), of(None, "a", " # b"));
        assert_eq!(value("A="), of(None, "", ""));
        assert_eq!(value("A=\"a \\"), None);
        assert_eq!(value("A='a\\"), None);
        let there = Assignment::of("  export GRUB_X+=\"a\"").unwrap();
        assert_eq!((there.before, there.name, there.value), ("  export ", "GRUB_X+", "\"a\""));
        for line in ["#A=b", "if [ a = b ]; then", "=a", "", "echo A=b"] {
            assert_eq!(Assignment::of(line), None, "{line}");
        }
    }

    #[test]
    fn a_word_is_known_by_its_key() {
        for word in
            ["root=UUID=1", "\"root=LABEL=a b\"", "rd.lvm=0", "ip=dhcp", "resume=/dev/sda2", "rootflags=x"]
        {
            assert!(is_own(word), "{word}");
        }
        for word in [
            "ro",
            "quiet",
            "rootwait",
            "rootdelay=5",
            "console=ttyS0",
            "noresume",
            "rd.shell=0",
            "ipv6.disable=1",
            "",
        ] {
            assert!(!is_own(word), "{word}");
        }
        assert_eq!(split("  a  b=\"c d\"\te "), ["a", "b=\"c d\"", "e"]);
    }
}
