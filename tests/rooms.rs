//! The table of rooms, enforced: a room of the library may name only rooms above it.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in the order of the table: each may use those before it.
const ROOMS: [&str; 19] = [
    "tree", "rules", "delta", "schedule", "role", "profile", "scan", "plan", "process", "frozen", "gate",
    "wire", "apply", "verify", "record", "prepare", "watch", "session", "image",
];
/// Files that every room may name.
const LEAVES: [&str; 3] = ["monitor", "problem", "durable"];
/// What a leaf file may name itself: paths, and the plan that a monitor is shown.
const LEAF_MAY_USE: [(&str, &str); 3] = [("monitor", "plan"), ("monitor", "tree"), ("problem", "tree")];

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../syncore/src")
}

/// The code of a file as the library ships it: without the unit tests at its end.
fn shipped(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("read a source file");
    let code = code(&text);
    code.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
}

/// Every Rust file of the library with the room that it belongs to.
fn files() -> Vec<(String, PathBuf)> {
    let root = library();
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(&root) {
        let entry = entry.expect("walk the library");
        if entry.path().extension().is_some_and(|extension| extension == "rs")
            && entry.file_name() != "tests.rs"
        {
            let below = entry.path().strip_prefix(&root).expect("below the root");
            let first =
                below.components().next().expect("a component").as_os_str().to_string_lossy().into_owned();
            files.push((first.trim_end_matches(".rs").to_owned(), entry.into_path()));
        }
    }
    assert!(files.len() > 5, "the library is not where it should be: {files:?}");
    files
}

/// Source text without comments and without what strings hold.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            '/' if rest.peek() == Some(&'*') => {
                let (mut depth, mut last) = (0_u32, '/');
                for c in rest.by_ref() {
                    match (last, c) {
                        ('/', '*') => depth += 1,
                        ('*', '/') => depth -= 1,
                        _ => {}
                    }
                    last = c;
                    if depth == 0 {
                        break;
                    }
                }
            }
            'r' if matches!(rest.peek(), Some('"' | '#')) && !code.ends_with(is_word) => {
                raw_string(&mut rest);
            }
            '"' => {
                while let Some(c) = rest.next() {
                    match c {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                code.push_str("\"\"");
            }
            // A character literal that would be taken for the beginning of a string.
            '\'' if rest.peek() == Some(&'"') => drop(rest.next()),
            _ => code.push(c),
        }
    }
    code
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn raw_string(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let mut hashes = 0;
    while rest.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    if rest.next_if_eq(&'"').is_none() {
        return;
    }
    while let Some(c) = rest.next() {
        if c == '"' && (0..hashes).all(|_| rest.next_if_eq(&'#').is_some()) {
            return;
        }
    }
}

/// The library's modules that `code` names by `crate::…`, with the braces of `use crate::{a, b::C}` opened.
fn named_modules(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        // `$crate::` is as good as `crate::`; `other_crate::` is none.
        if before.is_some_and(is_word) {
            continue;
        }
        let after = &code[at + "crate::".len()..];
        if let Some(group) = after.strip_prefix('{') {
            names.extend(heads_of_group(group));
        } else {
            names.push(after.chars().take_while(|c| is_word(*c)).collect());
        }
    }
    names
}

/// The first word of each element of a use group, whose opening brace is already read.
fn heads_of_group(group: &str) -> Vec<String> {
    let (mut heads, mut depth, mut head, mut open) = (Vec::new(), 1, String::new(), true);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                heads.push(std::mem::take(&mut head));
                open = true;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if is_word(c) && open && depth == 1 {
            head.push(c);
        } else if !c.is_whitespace() {
            open = false;
        }
    }
    heads.push(head);
    heads.retain(|head| !head.is_empty());
    heads
}

/// Why `room` may not name `target`; none if it may.
fn objection(room: &str, target: &str) -> Option<String> {
    if room == "lib" || room == target || LEAVES.contains(&target) {
        return None;
    }
    let of = |name: &str| ROOMS.iter().position(|room| *room == name);
    let Some(target_at) = of(target) else {
        // A macro, type or function re-exported at the root is no room.
        return None;
    };
    if LEAVES.contains(&room) {
        let allowed = LEAF_MAY_USE.contains(&(room, target));
        return (!allowed).then(|| format!("{room} is a leaf and names {target}"));
    }
    match of(room) {
        None => Some(format!("{room} is not in the table of rooms")),
        Some(room_at) if room_at <= target_at => Some(format!("{room} names {target}, which is below it")),
        Some(_) => None,
    }
}

#[test]
fn each_room_names_only_rooms_above_it() {
    let mut wrong = Vec::new();
    for (room, path) in files() {
        let known = room == "lib" || ROOMS.contains(&room.as_str()) || LEAVES.contains(&room.as_str());
        if !known {
            wrong.push(format!("{}: {room} is not in the table of rooms", path.display()));
        }
        for target in named_modules(&shipped(&path)) {
            if let Some(objection) = objection(&room, &target) {
                wrong.push(format!("{}: {objection}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "the table of rooms is broken:\n{}", wrong.join("\n"));
}

#[test]
fn the_library_is_silent_and_safe() {
    let banned = ["println!", "print!", "eprintln!", "eprint!", "dbg!", "std::env", "unsafe", "home_dir"];
    let mut wrong = Vec::new();
    for (_, path) in files() {
        let code = shipped(&path);
        // The one reviewed exception, with its proof in the file.
        let excepted = path.ends_with("scan/listxattrat.rs");
        for word in banned.into_iter().filter(|word| !excepted || *word != "unsafe") {
            let used = code.match_indices(word).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                let after = code[at + word.len()..].chars().next();
                !before.is_some_and(is_word) && !after.is_some_and(is_word)
            });
            if used {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "the library may not use these:\n{}", wrong.join("\n"));
}

#[test]
fn the_check_of_the_rooms_sees_what_it_must() {
    let text = r##"
        // use crate::session::NotThis;
        /* crate::session /* crate::session */ crate::session */
        const S: &str = "crate::session \" crate::session";
        const R: &str = r#"crate::session"#;
        const Q: char = '"';
        use crate::{tree::{RelPath, Kind}, problem, plan::Plan};
        fn f() -> crate::wire::Frame { other_crate::apply::g() }
    "##;
    let named = named_modules(&code(text));
    assert_eq!(named, ["tree", "problem", "plan", "wire"]);
    assert!(objection("tree", "plan").is_some());
    assert!(objection("plan", "tree").is_none());
    assert!(objection("apply", "session").is_some());
    assert!(objection("tree", "problem").is_none());
    assert!(objection("monitor", "plan").is_none());
    assert!(objection("problem", "plan").is_some());
    assert!(objection("novelty", "tree").is_some());
}
