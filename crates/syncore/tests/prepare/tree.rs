//! The tree of a case, from files and a list of what git does not hold.
//!
//! Why: git knows of files one bit of mode, no owner, and no empty directory. So beside `before/` and `after/` there are
//! `before.txt` and `after.txt`, one line for each name that is not root's, not 0644 (0755 if executable or a
//! directory), an empty directory, a link, or a FIFO:
//!
//! ```text
//! directory 0755 0:0 /tmp
//! file 0400 0:3 /etc/shadow
//! link 0777 0:0 /etc/hosts -> ./inet/hosts
//! fifo 0600 0:0 /etc/initpipe
//! ```
//!
//! What can go wrong: a line for a file that is not there; it is an error. The journal is no part of a tree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::unified;

/// What stands at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory { empty: bool },
    File(Vec<u8>),
    Link(String),
    Fifo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    node: Node,
    mode: u32,
    owner: (u32, u32),
}

/// Names, absolute, and what stands there.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tree(BTreeMap<String, Name>);

impl Tree {
    /// A tree as it is.
    pub(super) fn scan(root: &Path) -> Self {
        let mut tree = Self::default();
        for entry in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
            let entry = entry.unwrap();
            let path =
                format!("/{}", entry.path().strip_prefix(root).unwrap().to_str().expect("names are UTF-8"));
            if path.starts_with("/var/lib/clonetool/prepare") {
                continue;
            }
            let metadata = entry.path().symlink_metadata().unwrap();
            let kind = metadata.file_type();
            let node = if kind.is_dir() {
                Node::Directory { empty: std::fs::read_dir(entry.path()).unwrap().next().is_none() }
            } else if kind.is_symlink() {
                Node::Link(std::fs::read_link(entry.path()).unwrap().to_str().unwrap().to_owned())
            } else if kind.is_fifo() {
                Node::Fifo
            } else {
                Node::File(std::fs::read(entry.path()).unwrap())
            };
            let owner = (metadata.uid(), metadata.gid());
            tree.0.insert(path, Name { node, mode: metadata.mode() & 0o7777, owner });
        }
        // Directories that were made for the journal and hold nothing else.
        for path in ["/var/lib/clonetool", "/var/lib", "/var"] {
            let below = format!("{path}/");
            let alone = !tree.0.keys().any(|other| other.starts_with(&below));
            if alone && tree.0.get(path).is_some_and(|name| name.node == Node::Directory { empty: false }) {
                tree.0.remove(path);
            }
        }
        tree
    }

    /// A tree as it is written in a case.
    pub(super) fn read(files: &Path, list: &Path) -> Self {
        let mut tree = Self::scan(files);
        for name in tree.0.values_mut() {
            (name.mode, name.owner) = (usual_mode(name), (0, 0));
        }
        let list = std::fs::read_to_string(list).unwrap_or_default();
        for line in list.lines() {
            tree.add(line).unwrap_or_else(|| panic!("{line}: no line of a tree"));
        }
        // What is in a list is in directories that it need not name.
        let paths: Vec<String> = tree.0.keys().cloned().collect();
        for path in paths {
            for above in Path::new(&path).ancestors().skip(1).filter(|above| above.parent().is_some()) {
                let node = Node::Directory { empty: false };
                let directory = Name { node: node.clone(), mode: 0o755, owner: (0, 0) };
                tree.0.entry(above.to_str().unwrap().to_owned()).or_insert(directory).node = node;
            }
        }
        tree
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let mut words = line.splitn(4, ' ');
        let (kind, mode, owner, rest) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let mode = u32::from_str_radix(mode, 8).ok()?;
        let (user, group) = owner.split_once(':')?;
        let owner = (user.parse().ok()?, group.parse().ok()?);
        let (path, target) = rest.split_once(" -> ").unwrap_or((rest, ""));
        let node = match kind {
            "directory" => self.0.get(path).map_or(Node::Directory { empty: true }, |name| name.node.clone()),
            "file" => self.0.get(path)?.node.clone(),
            "link" => Node::Link(target.to_owned()),
            "fifo" => Node::Fifo,
            _ => return None,
        };
        self.0.insert(path.to_owned(), Name { node, mode, owner });
        Some(())
    }

    /// Makes the tree.
    pub(super) fn lay_out(&self, root: &Path) {
        std::fs::create_dir_all(root).unwrap();
        for (path, name) in &self.0 {
            let at = root.join(path.trim_start_matches('/'));
            match &name.node {
                Node::Directory { .. } => std::fs::create_dir_all(&at).unwrap(),
                Node::File(content) => std::fs::write(&at, content).unwrap(),
                Node::Link(target) => std::os::unix::fs::symlink(target, &at).unwrap(),
                Node::Fifo => {
                    let mode = rustix::fs::Mode::from_raw_mode(0o600);
                    rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
                }
            }
            std::os::unix::fs::lchown(&at, Some(name.owner.0), Some(name.owner.1)).unwrap();
            if !matches!(name.node, Node::Link(_)) {
                std::fs::set_permissions(&at, Permissions::from_mode(name.mode)).unwrap();
            }
        }
    }

    /// Writes the tree into a case.
    pub(super) fn write(&self, files: &Path, list: &Path) {
        std::fs::create_dir_all(files).unwrap();
        for (path, name) in &self.0 {
            if let Node::File(content) = &name.node {
                let at = files.join(path.trim_start_matches('/'));
                std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                std::fs::write(&at, content).unwrap();
                let mode = 0o644 | if name.mode & 0o100 != 0 { 0o111 } else { 0 };
                std::fs::set_permissions(&at, Permissions::from_mode(mode)).unwrap();
            }
        }
        let lines = self.list();
        if !lines.is_empty() {
            std::fs::write(list, lines).unwrap();
        }
    }

    /// What git does not hold.
    fn list(&self) -> String {
        let mut lines = String::new();
        for (path, name) in &self.0 {
            let (kind, target) = match &name.node {
                Node::Directory { empty: false } | Node::File(_)
                    if name.mode == usual_mode(name) && name.owner == (0, 0) =>
                {
                    continue;
                }
                Node::Directory { .. } => ("directory", String::new()),
                Node::File(_) => ("file", String::new()),
                Node::Link(target) => ("link", format!(" -> {target}")),
                Node::Fifo => ("fifo", String::new()),
            };
            let (user, group) = name.owner;
            writeln!(lines, "{kind} {:04o} {user}:{group} {path}{target}", name.mode).unwrap();
        }
        lines
    }

    pub(super) fn content(&self, path: &str) -> Option<&[u8]> {
        match &self.0.get(path)?.node {
            Node::File(content) => Some(content),
            _ => None,
        }
    }

    /// Puts `word` in place of `random` in every file, link and name; and of all of the file at `path`.
    pub(super) fn mask(&mut self, path: &str, random: &[u8], word: &str) {
        if random.is_empty() {
            return;
        }
        let text = std::str::from_utf8(random).ok();
        let mut masked = BTreeMap::new();
        for (name, mut it) in std::mem::take(&mut self.0) {
            let here = name == path;
            match (&mut it.node, text) {
                (Node::File(content), None) if here => *content = word.as_bytes().to_vec(),
                (Node::File(content), Some(text)) => {
                    *content = replace(content, text.as_bytes(), word.as_bytes());
                }
                (Node::Link(target), Some(text)) => *target = target.replace(text, word),
                _ => {}
            }
            masked.insert(text.map_or(name.clone(), |text| name.replace(text, word)), it);
        }
        self.0 = masked;
    }

    /// In what `found` differs, as a unified difference.
    pub(super) fn difference(&self, found: &Self) -> String {
        let mut text = unified("names", &self.all(), &found.all());
        let paths: std::collections::BTreeSet<&String> = self.0.keys().chain(found.0.keys()).collect();
        for path in paths {
            let readable = |tree: &Self| match tree.content(path) {
                // What is no text is shown as its bytes; CR and a last line without an end are to be seen too.
                Some(content) => {
                    content.split_inclusive(|b| *b == b'\n').fold(String::new(), |text, line| {
                        let ended = line.strip_suffix(b"\n");
                        let shown = ended.unwrap_or(line).escape_ascii().to_string();
                        text + &shown.replace("\\t", "\t").replace("\\'", "'").replace("\\\"", "\"")
                            + if ended.is_some() { "\n" } else { " (no newline)\n" }
                    })
                }
                None => String::new(),
            };
            text += &unified(path, &readable(self), &readable(found));
        }
        text
    }

    /// Every name with kind, mode and owner.
    fn all(&self) -> String {
        let mut lines = String::new();
        for (path, name) in &self.0 {
            let kind = match &name.node {
                Node::Directory { empty: true } => "directory, empty".to_owned(),
                Node::Directory { .. } => "directory".to_owned(),
                Node::File(_) => "file".to_owned(),
                Node::Link(target) => format!("link to {target}"),
                Node::Fifo => "fifo".to_owned(),
            };
            writeln!(lines, "{path} {:04o} {}:{} {kind}", name.mode, name.owner.0, name.owner.1).unwrap();
        }
        lines
    }
}

/// The mode that a name of this kind has unless its list says otherwise.
fn usual_mode(name: &Name) -> u32 {
    match name.node {
        Node::Directory { .. } => 0o755,
        Node::Link(_) => 0o777,
        Node::File(_) if name.mode & 0o100 != 0 => 0o755,
        Node::File(_) | Node::Fifo => 0o644,
    }
}

fn replace(content: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let (mut result, mut at) = (Vec::with_capacity(content.len()), 0);
    while at < content.len() {
        if !old.is_empty() && content[at..].starts_with(old) {
            result.extend_from_slice(new);
            at += old.len();
        } else {
            result.push(content[at]);
            at += 1;
        }
    }
    result
}
