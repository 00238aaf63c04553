//! Names and patterns as text for rsync and for a Bourne shell.
//!
//! Why: what an administrator, or a file on a disk, may be called is everything but NUL and a slash. What can go wrong:
//! a name that means something to the shell or to rsync. So every name is quoted for the shell whatever is in it, and
//! rsync is given a backslash only where it reads one: in a pattern with wildcards.

use crate::rules::{Filter, Part, Token};
use crate::tree::RelPath;

/// Stands for the end of a line within a rule, where rules end in a NUL.
pub(super) const LINE_END: u8 = 1;

/// A word of the shell that is exactly `text`.
pub(super) fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A path below a root as a word of the shell. Paths come from profiles, which are text.
pub(super) fn path_word(path: &RelPath) -> String {
    word(&String::from_utf8_lossy(path.as_bytes()))
}

/// The lines of rsync for one rule, without their ends.
pub(super) fn rule_lines(filter: &Filter<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for parts in &filter.spellings {
        let text = pattern(parts);
        match (filter.show, filter.directory_only) {
            (true, false) => lines.push(format!("+ {text}")),
            (true, true) => lines.push(format!("+ {text}/")),
            (false, false) => lines.push(format!("- {text}")),
            (false, true) => lines.push(format!("- {text}/")),
        }
    }
    lines
}

/// What keeps the content of directories that a rule with a wildcard leaves out, where production has something else in
/// the place of one. Such a rule names no path that could be looked at beforehand.
pub(super) fn content_lines(filter: &Filter<'_>) -> Vec<String> {
    let is_wild = |parts: &&Vec<Part>| parts.iter().any(|part| !matches!(part, Part::Name(_)));
    let below = |parts: &Vec<Part>| {
        let any = Part::Glob(vec![Token::Many]);
        match &parts[..] {
            // A name at any depth has no slash before it.
            [Part::AnyDepth, last] => pattern(&[last.clone(), any])[1..].to_owned(),
            parts => pattern(&[parts, &[any]].concat()),
        }
    };
    if filter.show || !filter.directory_only {
        return Vec::new();
    }
    filter.spellings.iter().filter(is_wild).map(|parts| format!("- {}", below(parts))).collect()
}

/// A path below a root as rsync's pattern.
pub(super) fn path_pattern(path: &RelPath) -> String {
    let parts: Vec<Part> = path.components().map(|name| Part::Name(name.to_vec())).collect();
    pattern(&parts)
}

/// The pattern for everything in a directory.
pub(super) fn content_pattern(path: &RelPath) -> String {
    let names = path.components().map(|name| Part::Name(name.to_vec()));
    let parts: Vec<Part> = names.chain([Part::Glob(vec![Token::Many])]).collect();
    pattern(&parts)
}

fn pattern(parts: &[Part]) -> String {
    let is_wild = |part: &Part| match part {
        Part::Name(name) => name.iter().any(|byte| b"*?[".contains(byte)),
        _ => true,
    };
    let escapes = match parts {
        [Part::AnyDepth, last] => is_wild(last),
        parts => parts.iter().any(is_wild),
    };
    let one = |part: &Part| match part {
        Part::Name(name) if escapes => escaped(name),
        Part::Name(name) => name.clone(),
        Part::AnyDepth => b"**".to_vec(),
        Part::Glob(tokens) => tokens.iter().flat_map(rsync_token).collect(),
    };
    let text = match parts {
        // Without a slash it is a name at any depth.
        [Part::AnyDepth, last] => one(last),
        parts => parts.iter().flat_map(|part| [&b"/"[..], &one(part)].concat()).collect(),
    };
    let line: Vec<u8> = text.into_iter().map(|byte| if byte == b'\n' { LINE_END } else { byte }).collect();
    String::from_utf8_lossy(&line).into_owned()
}

fn escaped(name: &[u8]) -> Vec<u8> {
    name.iter().flat_map(|byte| rsync_token(&Token::Byte(*byte))).collect()
}

fn rsync_token(token: &Token) -> Vec<u8> {
    match token {
        Token::Byte(byte) if b"*?[]\\".contains(byte) => vec![b'\\', *byte],
        Token::Byte(byte) => vec![*byte],
        Token::One => b"?".to_vec(),
        Token::Many => b"*".to_vec(),
        Token::Class { negated, ranges } => class(*negated, ranges),
    }
}

/// Every member behind a backslash that could be read as anything else.
fn class(negated: bool, ranges: &[(u8, u8)]) -> Vec<u8> {
    let member = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => vec![byte],
        false => vec![b'\\', byte],
    };
    let mut text = if negated { b"[!".to_vec() } else { b"[".to_vec() };
    for (first, last) in ranges {
        text.extend(member(*first));
        if first != last {
            text.push(b'-');
            text.extend(member(*last));
        }
    }
    text.push(b']');
    text
}

/// A pattern of the shell, for `case` or for names: what is no wildcard is quoted.
pub(super) fn shell_pattern(parts: &[Part]) -> String {
    let name = |name: &[u8]| word(&String::from_utf8_lossy(name));
    let one = |part: &Part| match part {
        Part::Name(text) => name(text),
        Part::AnyDepth => "*".to_owned(),
        Part::Glob(tokens) => {
            let text = tokens.iter().map(|token| match token {
                Token::Byte(byte) if byte.is_ascii_alphanumeric() || !byte.is_ascii() => vec![*byte],
                Token::Byte(byte) => name(&[*byte]).into_bytes(),
                token => rsync_token(token),
            });
            String::from_utf8_lossy(&text.collect::<Vec<_>>().concat()).into_owned()
        }
    };
    parts.iter().map(one).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Action, Origin, Rule, RuleSet};

    fn lines(pattern: &str) -> Vec<String> {
        let origin = Origin { file: "test".into(), line: 1 };
        let rules = RuleSet::compile(vec![Rule::new(Action::Exclude, pattern, origin)]).unwrap();
        rules.flatten().unwrap().filters.iter().flat_map(rule_lines).collect()
    }

    #[test]
    fn a_backslash_is_written_where_rsync_reads_one_and_nowhere_else() {
        assert_eq!(lines("/a\\\\b c"), ["- /a\\b c"]);
        assert_eq!(lines("/a\\\\b/*"), ["- /a\\\\b/*"]);
        assert_eq!(lines("/a\\[1\\]/"), ["- /a\\[1\\]/"]);
        assert_eq!(lines("x\\*"), ["- x\\*"]);
        assert_eq!(lines("/x[]!a-c-]"), ["- /x[\\]\\!a-c\\-]"]);
        assert_eq!(lines("/a\nb"), ["- /a\u{1}b"]);
    }

    #[test]
    fn whatever_a_name_holds_is_one_word_of_the_shell() {
        assert_eq!(word("it's $(x) `y` \"z\""), "'it'\\''s $(x) `y` \"z\"'");
        let glob = Part::Glob(vec![Token::Byte(b'$'), Token::Many, Token::Byte(b'\'')]);
        assert_eq!(shell_pattern(&[Part::Name(b"a b".to_vec()), glob]), "'a b'/'$'*''\\'''");
    }
}
