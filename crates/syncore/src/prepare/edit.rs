//! One change of one file, as a value: what a dry run prints and a run carries out.
//!
//! Why: somebody at a rescue prompt has to see what will become of the copy before it does. What can go wrong: a
//! difference that shows a secret; the content of what only root may read is not printed.

use similar::TextDiff;

use crate::rules::Class;
use crate::tree::{RelPath, escape};

/// The longest content whose difference is printed.
const SHOWN_LIMIT_BYTES: usize = 256 * 1024;

/// A change of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Where, all links resolved within the root.
    pub path: RelPath,
    /// The class that the path has for every later sync: [`Class::A`], the standby's own; [`Class::B`], production's
    /// with a substitution; [`Class::G`], held; [`Class::D`], runtime state.
    pub class: Class,
    /// Why, in words for a person.
    pub why: String,
    /// What becomes of it.
    pub change: EditChange,
}

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditChange {
    /// It has this content; owner, mode and attributes stay, or are root's and `mode` when it is new.
    Write {
        /// The content that it has, if it is there.
        before: Option<Vec<u8>>,
        /// The content that it gets.
        after: Vec<u8>,
        /// Permission bits of what is new, or, with [`EditChange::Write::before`], the bits it has.
        mode: u16,
    },
    /// It is a symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
    /// It is an empty directory.
    Directory {
        /// Permission bits.
        mode: u16,
    },
    /// It goes away: a file, a link, or an empty directory.
    Remove,
    /// Everything in the directory goes away, and no original is kept: what it holds is made again.
    Clear,
    /// It has another name, in the same directory.
    Rename {
        /// The new name.
        to: Vec<u8>,
    },
    /// It lies, as it is, below a directory of held things that only root may enter.
    Hold {
        /// Where it lies.
        to: RelPath,
        /// What is in its place.
        instead: Instead,
    },
}

/// What is in the place of something that is held elsewhere. It has the owner, mode and attributes of what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead {
    /// Nothing.
    Nothing,
    /// An empty directory.
    Directory,
    /// A file that does nothing.
    File {
        /// What is held, for the difference.
        before: Vec<u8>,
        /// The content of the file in its place.
        after: Vec<u8>,
    },
}

impl Edit {
    /// The change for a person: a unified difference of what is written, one line for everything else.
    #[must_use]
    pub fn diff(&self) -> String {
        let path = &self.path;
        match &self.change {
            EditChange::Write { before, after, mode } => {
                let old = before.as_deref().unwrap_or_default();
                let from = if before.is_some() { format!("a{path}") } else { "/dev/null".to_owned() };
                let head = format!("--- {from}\n+++ b{path}\n");
                if mode & 0o044 == 0 {
                    return format!("{head}(content not shown: only its owner may read it)\n");
                }
                format!("{head}{}", difference(old, after))
            }
            EditChange::Hold { to, instead: Instead::Nothing } => format!("hold   {path} as {to}\n"),
            EditChange::Hold { to, instead: Instead::Directory } => {
                format!("hold   {path} as {to}, an empty directory in its place\n")
            }
            EditChange::Hold { to, instead: Instead::File { before, after } } => {
                format!("hold   {path} as {to}\n--- a{path}\n+++ b{path}\n{}", difference(before, after))
            }
            EditChange::Symlink { target } => format!("link   {path} -> {}\n", escape(target)),
            EditChange::Directory { mode } => format!("mkdir  {path} mode {mode:04o}\n"),
            EditChange::Remove => format!("remove {path}\n"),
            EditChange::Clear => format!("empty  {path}/\n"),
            EditChange::Rename { to } => format!("rename {path} to {}\n", escape(to)),
        }
    }
}

/// The hunks of a unified difference, or how much there is of what is no text.
fn difference(old: &[u8], new: &[u8]) -> String {
    let text = |content: &[u8]| content.len() <= SHOWN_LIMIT_BYTES && !content.contains(&0);
    if !text(old) || !text(new) {
        return format!("(binary: {} bytes become {})\n", old.len(), new.len());
    }
    let (old, new) = (harmless(old), harmless(new));
    TextDiff::from_lines(&old, &new).unified_diff().context_radius(2).to_string()
}

/// Text that steers no terminal, with its line ends.
fn harmless(content: &[u8]) -> String {
    content
        .split_inclusive(|b| *b == b'\n')
        .map(|line| match line.strip_suffix(b"\n") {
            Some(line) => shown(line) + "\n",
            None => shown(line),
        })
        .collect()
}

/// One line, in which tabs and backslashes stand for themselves: files of configuration are full of them.
fn shown(line: &[u8]) -> String {
    let piece = |piece: &[u8]| piece.split(|b| *b == b'\\').map(escape).collect::<Vec<_>>().join("\\");
    line.split(|b| *b == b'\t').map(piece).collect::<Vec<_>>().join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(change: EditChange) -> Edit {
        Edit { path: RelPath::new("etc/fstab").unwrap(), class: Class::B, why: "devices".into(), change }
    }

    #[test]
    fn a_difference_is_a_unified_one() {
        let write = |mode| EditChange::Write {
            before: Some(b"UUID=1\t/a\\040b ext4\nproc \x1b[31m\n".to_vec()),
            after: b"UUID=2\t/a\\040b ext4\nproc \x1b[31m\n".to_vec(),
            mode,
        };
        assert_eq!(
            edit(write(0o644)).diff(),
            "--- a/etc/fstab\n+++ b/etc/fstab\n@@ -1,2 +1,2 @@\n-UUID=1\t/a\\040b ext4\n+UUID=2\t/a\\040b ext4\n proc \\x1b[31m\n"
        );
        assert!(!edit(write(0o600)).diff().contains("UUID"));
        assert_eq!(edit(EditChange::Remove).diff(), "remove /etc/fstab\n");
    }
}
