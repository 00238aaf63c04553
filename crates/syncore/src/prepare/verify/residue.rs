//! Searches the prepared root for what is production's: ids in the boot path, names and addresses elsewhere.
//!
//! Why: nobody can list every file that names a disk; a search for the ids themselves finds the ones that no planner
//! knew. What can go wrong: a short name that is also a word (a name counts only between characters that are not of
//! names), and files that may name production rightly (they are listed, and do not fail).

use std::collections::BTreeMap;

use super::{Prepared, in_boot_path, initramfs};
use crate::prepare::report::Finding;
use crate::tree::{Kind, RelPath};

/// Larger files are no configuration.
const FILE_LIMIT_BYTES: u64 = 4 << 20;
/// More files than any /etc has; what is beyond is not searched, and said.
const FILES_LIMIT: usize = 200_000;
/// As many files are named in one finding.
const NAMED: usize = 20;
/// Below /etc, what the boot itself reads.
const BOOT_PATH: [&str; 12] = [
    "etc/fstab",
    "etc/crypttab",
    "etc/default/grub",
    "etc/default/grub.d",
    "etc/kernel",
    "etc/cmdline.d",
    "etc/initramfs-tools",
    "etc/dracut.conf",
    "etc/dracut.conf.d",
    "etc/mdadm",
    "etc/mdadm.conf",
    "etc/machine-id",
];
/// These name production because its address and name have to be known.
const MAY_NAME: [&str; 2] = ["etc/hosts", "etc/ssh/ssh_known_hosts"];

/// Searches /etc, /boot and the EFI partition.
pub(super) fn search(prepared: &Prepared<'_>, findings: &mut Vec<Finding>) {
    let needles = needles(prepared);
    let journal = prepared.journal;
    let mut names: Vec<&str> = journal.source_addresses.iter().map(String::as_str).collect();
    if journal.source_hostname != journal.hostname && !journal.source_hostname.is_empty() {
        names.push(&journal.source_hostname);
    }
    let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut files = 0;
    let mut waiting: Vec<RelPath> =
        ["etc", "boot", "efi"].iter().filter_map(|name| RelPath::new(*name).ok()).collect();
    while let Some(directory) = waiting.pop() {
        let Ok(children) = prepared.inside.list(&directory) else {
            findings.push(Finding::note("it cannot be read, and was not searched").at(&directory));
            continue;
        };
        for name in children {
            let path = directory.join(&name);
            let Ok(Some(entry)) = prepared.inside.own_entry(&path) else { continue };
            files += 1;
            if files > FILES_LIMIT {
                findings.push(
                    Finding::note("there are too many files; the rest was not searched").at(&directory),
                );
                return;
            }
            let boot = is_boot_path(&path) && !is_left_over(&name);
            if boot {
                for (what, needle) in &needles {
                    if contains(&name, needle.as_bytes()) {
                        findings.push(in_boot_path(
                            prepared,
                            &path,
                            format!("its name has production's {what} {needle}"),
                        ));
                    }
                }
            }
            match entry.kind {
                Kind::Directory => waiting.push(path),
                Kind::File if boot && !path.as_bytes().starts_with(b"etc/") && initramfs::is_one(&name) => {
                    image(prepared, &path, &needles, findings);
                }
                Kind::File if entry.size_bytes <= FILE_LIMIT_BYTES && !is_kernel(&name) => {
                    let Ok(Some(content)) = prepared.inside.read(&path) else {
                        findings.push(Finding::note("it cannot be read, and was not searched").at(&path));
                        continue;
                    };
                    let text = if boot && !path.as_bytes().starts_with(b"etc/") {
                        content
                    } else {
                        without_comments(&content)
                    };
                    for (what, needle) in &needles {
                        if !contains(&text, needle.as_bytes()) {
                            continue;
                        }
                        if boot {
                            findings.push(in_boot_path(
                                prepared,
                                &path,
                                format!("it still has production's {what} {needle}"),
                            ));
                        } else {
                            listed
                                .entry(format!("production's {what} {needle}"))
                                .or_default()
                                .push(path.to_string());
                        }
                    }
                    if MAY_NAME.iter().all(|known| path.as_bytes() != known.as_bytes()) {
                        for name in names.iter().filter(|name| has_word(&text, name.as_bytes())) {
                            listed
                                .entry(format!("production's name or address {name}"))
                                .or_default()
                                .push(path.to_string());
                        }
                    }
                }
                _ => {}
            }
        }
    }
    for (what, paths) in listed {
        let more = paths.len().saturating_sub(NAMED);
        let mut shown = paths[..paths.len().min(NAMED)].join(", ");
        if more > 0 {
            shown.push_str(&format!(" and {more} more"));
        }
        findings.push(Finding::note(format!("{what} is still in {shown}")));
    }
}

/// What production alone has: ids of its filesystems, and its machine id.
fn needles(prepared: &Prepared<'_>) -> Vec<(&'static str, String)> {
    let uuids = prepared.journal.source_uuids.iter().filter(|uuid| uuid.len() >= 8);
    let mut needles: Vec<_> = uuids.map(|uuid| ("UUID", uuid.clone())).collect();
    needles.extend(prepared.journal.source_machine_id.iter().map(|id| ("machine id", id.clone())));
    needles
}

fn is_boot_path(path: &RelPath) -> bool {
    let bytes = path.as_bytes();
    let at_or_below = |known: &str| {
        bytes.strip_prefix(known.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    at_or_below("boot") || at_or_below("efi") || BOOT_PATH.iter().any(|known| at_or_below(known))
}

/// A copy that an editor or a package left, which nothing reads.
fn is_left_over(name: &[u8]) -> bool {
    const ENDS: [&[u8]; 8] =
        [b"~", b".bak", b".old", b".orig", b".rpmsave", b".rpmnew", b".dpkg-old", b".dpkg-dist"];
    ENDS.iter().any(|end| name.ends_with(end))
}

fn is_kernel(name: &[u8]) -> bool {
    [&b"vmlinu"[..], b"System.map", b"config-", b"symvers", b"Image-"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn image(
    prepared: &Prepared<'_>,
    path: &RelPath,
    needles: &[(&'static str, String)],
    findings: &mut Vec<Finding>,
) {
    let texts: Vec<&[u8]> = needles.iter().map(|(_, needle)| needle.as_bytes()).collect();
    match initramfs::search(prepared.inside, path, &texts) {
        Ok(hits) => findings.extend(hits.into_iter().map(|hit| {
            let (what, needle) = &needles[hit.needle];
            in_boot_path(
                prepared,
                path,
                format!("{} in it still has production's {what} {needle}", hit.member),
            )
        })),
        Err(error) => {
            findings
                .push(Finding::note(format!("it cannot be read, and was not searched: {error}")).at(path));
        }
    }
}

/// The lines that mean something.
fn without_comments(content: &[u8]) -> Vec<u8> {
    let comment = |line: &&[u8]| {
        line.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|first| matches!(first, b'#' | b';'))
    };
    content.split_inclusive(|b| *b == b'\n').filter(|line| !comment(line)).collect::<Vec<_>>().concat()
}

/// Whether `needle` is in `haystack`, in either case.
pub(super) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let (lower, upper) = (first.to_ascii_lowercase(), first.to_ascii_uppercase());
    let last = haystack.len().saturating_sub(rest.len());
    haystack[..last].iter().enumerate().any(|(at, byte)| {
        (*byte == lower || *byte == upper) && haystack[at + 1..at + 1 + rest.len()].eq_ignore_ascii_case(rest)
    })
}

/// Whether `word` is there and not as part of a longer name or number.
fn has_word(text: &[u8], word: &[u8]) -> bool {
    let of_a_name = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let ends = text.len().checked_sub(word.len());
    let Some(last) = ends.filter(|_| !word.is_empty()) else { return false };
    (0..=last).any(|at| {
        let (before, after) = (at.checked_sub(1).and_then(|at| text.get(at)), &text[at + word.len()..]);
        // 10.0.0.1 is not in 10.0.0.1.2, and db1 is in db1.example.org.
        let number_goes_on = word[0].is_ascii_digit() && matches!(after, [b'.', b'0'..=b'9', ..]);
        text[at..at + word.len()].eq_ignore_ascii_case(word)
            && !(of_a_name(before) || of_a_name(after.first()) || number_goes_on)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_as_a_word() {
        assert!(has_word(b"host db1.example.org", b"db1"));
        assert!(has_word(b"DB1", b"db1"));
        assert!(!has_word(b"db10 mydb1 db1-2", b"db1"));
        assert!(has_word(b"a=10.0.0.1;", b"10.0.0.1"));
        assert!(!has_word(b"10.0.0.1.2 10.0.0.10", b"10.0.0.1"));
        assert!(!has_word(b"", b"x") && !has_word(b"x", b""));
    }

    #[test]
    fn an_id_is_found_in_either_case_and_at_the_end() {
        assert!(contains(b"UUID=ABCD-1234", b"abcd-1234"));
        assert!(!contains(b"ABCD-123", b"abcd-1234"));
        assert!(!contains(b"", b"a") && contains(b"a", b"a"));
    }

    #[test]
    fn the_boot_path_is_what_the_boot_reads() {
        let is = |path: &str| is_boot_path(&RelPath::new(path).unwrap());
        assert!(is("boot/grub/grub.cfg") && is("efi/EFI") && is("etc/fstab") && is("etc/default/grub.d/x"));
        assert!(!is("etc/fstab.old") && !is("etc/hosts") && !is("bootx"));
    }
}
