//! Entries of the Boot Loader Specification for kernels that came or went with a sync.
//!
//! Why: where the boot loader reads entries, no `grub-mkconfig` makes them, and production's carry production's
//! machine id and root. kernel-install(8) makes them from the command line of whatever kernel runs, which in a root
//! that is only mounted is another host's. So an entry for a new kernel is the standby's own last one with the other
//! release in it: its machine id, its root, its parameters. What can go wrong: a standby whose entries name no kernel
//! in `/boot`; then there is nothing to go by, and that is said.

use std::io;

use super::inside::Inside;
use super::journal;
use crate::durable;

/// Where entries are, as far as GRUB reads them; those on an EFI partition are for kernels that lie there.
const ENTRIES: &str = "boot/loader/entries";

/// What the images of kernels in `/boot` are called before their release.
const IMAGE: &str = "vmlinuz-";

/// An entry: the name of its file, and what is in it.
type File = (String, String);

/// Makes the entries those of the kernels that are in `/boot`.
///
/// # Errors
/// In words; nothing was taken away then.
pub(super) fn settle(inside: &Inside) -> Result<(), String> {
    let (boot, entries) = (journal::path("boot"), journal::path(ENTRIES));
    let text = |error: io::Error| format!("/{ENTRIES}: {error}");
    let names = |path| -> Result<Vec<String>, String> {
        Ok(inside
            .list(path)
            .map_err(text)?
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok())
            .collect())
    };
    let mut files: Vec<File> = Vec::new();
    for name in names(&entries)?.into_iter().filter(|name| name.ends_with(".conf")) {
        let content = inside.read(&entries.join(name.as_bytes())).map_err(text)?;
        // One that is no text names no kernel of ours.
        if let Some(content) = content.and_then(|content| String::from_utf8(content).ok()) {
            files.push((name, content));
        }
    }
    if files.is_empty() {
        return Ok(());
    }
    let kernels: Vec<String> =
        names(&boot)?.iter().filter_map(|name| name.strip_prefix(IMAGE)).map(str::to_owned).collect();
    let new = missing(&files, &kernels)?;
    let opened = inside.resolve(&entries).and_then(|real| Ok(inside.root().open_directory(&real)?));
    let directory = opened.map_err(text)?;
    for (name, content) in new {
        durable::replace(&directory, &name, content.as_bytes(), 0o600, None).map_err(text)?;
    }
    for name in left_over(&files, &kernels) {
        rustix::fs::unlinkat(&directory, name, rustix::fs::AtFlags::empty()).map_err(|e| text(e.into()))?;
    }
    Ok(())
}

/// The release of the kernel in `/boot` that an entry starts.
fn release_of(content: &str) -> Option<&str> {
    content.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["linux", image, ..] = words[..] else { return None };
        image.rsplit('/').next()?.strip_prefix(IMAGE)
    })
}

/// Entries for the kernels that have none.
fn missing(files: &[File], kernels: &[String]) -> Result<Vec<File>, String> {
    let has = |kernel: &str| files.iter().any(|(_, content)| release_of(content) == Some(kernel));
    let is_rescue = |kernel: &str| kernel.starts_with("0-rescue");
    let wanted = kernels.iter().filter(|kernel| !is_rescue(kernel) && !has(kernel));
    // Any of them would do; the last by name is always the same.
    let mut patterns: Vec<(&File, &str)> = files
        .iter()
        .filter_map(|file| Some((file, release_of(&file.1)?)))
        .filter(|((name, _), release)| !is_rescue(release) && name.contains(release))
        .collect();
    patterns.sort();
    wanted
        .map(|kernel| {
            let ((name, content), release) = patterns.last().ok_or_else(|| {
                format!(
                    "/{ENTRIES} has no entry to go by for kernel {kernel}: make one with kernel-install add"
                )
            })?;
            Ok((name.replace(release, kernel), content.replace(release, kernel)))
        })
        .collect()
}

/// Entries whose kernel is gone.
fn left_over<'a>(files: &'a [File], kernels: &[String]) -> Vec<&'a str> {
    let gone =
        |content: &str| release_of(content).is_some_and(|release| !kernels.iter().any(|k| k == release));
    files.iter().filter(|(_, content)| gone(content)).map(|(name, _)| &name[..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn entry(release: &str) -> File {
        let content = format!(
            "title Fedora Linux ({release}) 41\nversion {release}\nlinux /vmlinuz-{release}\ninitrd /initramfs-{release}.img\noptions root=UUID=s ro\n"
        );
        (format!("{ID}-{release}.conf"), content)
    }

    #[test]
    fn a_new_kernel_is_started_as_the_last_one_is() {
        let rescue = (format!("{ID}-0-rescue.conf"), format!("linux /vmlinuz-0-rescue-{ID}\n"));
        let other = ("windows.conf".to_owned(), "efi /EFI/x\n".to_owned());
        let files = [entry("6.1-1.x86_64"), entry("6.9-1.x86_64"), rescue, other];
        let kernels = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let now = kernels(&["6.9-1.x86_64", "6.11-2.x86_64", &format!("0-rescue-{ID}")]);
        assert_eq!(missing(&files, &now).unwrap(), [entry("6.11-2.x86_64")]);
        assert_eq!(left_over(&files, &now), [entry("6.1-1.x86_64").0]);
        assert!(missing(&files[2..], &now).unwrap_err().contains("kernel-install add"));
        assert_eq!(missing(&files, &kernels(&["6.1-1.x86_64"])).unwrap(), []);
    }

    #[test]
    fn the_entries_of_a_root_are_those_of_its_kernels() {
        let temp = tempfile::tempdir().unwrap();
        let inside = Inside::new(std::sync::Arc::new(crate::scan::Root::open(temp.path()).unwrap()));
        settle(&inside).unwrap();
        let entries = temp.path().join(ENTRIES);
        std::fs::create_dir_all(&entries).unwrap();
        std::fs::write(temp.path().join("boot/vmlinuz-6.9-1.x86_64"), "").unwrap();
        settle(&inside).unwrap();
        assert!(std::fs::read_dir(&entries).unwrap().next().is_none(), "whoever has none reads none");
        std::fs::write(entries.join(entry("6.1-1.x86_64").0), entry("6.1-1.x86_64").1).unwrap();
        settle(&inside).unwrap();
        assert_eq!(
            std::fs::read_to_string(entries.join(entry("6.9-1.x86_64").0)).unwrap(),
            entry("6.9-1.x86_64").1
        );
        assert_eq!(std::fs::read_dir(&entries).unwrap().count(), 1);
    }
}
