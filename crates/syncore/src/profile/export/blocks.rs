//! The parts of the script that the rules of a profile make.
//!
//! Why: each is a few lines for every path that a rule names, and the script has the functions that they call. What can
//! go wrong: a path that becomes part of the script; every one goes through `text`.

use std::fmt::Write;

use super::text::{content_lines, content_pattern, path_pattern, path_word, rule_lines, shell_pattern, word};
use crate::profile::Profile;
use crate::rules::{Filter, Flat, Part, Token, Top};
use crate::tree::{RelPath, escape};

/// What the parts are made of.
pub(super) struct Blocks<'a> {
    pub(super) profile: &'a Profile,
    pub(super) name: &'a str,
    pub(super) flat: &'a Flat<'a>,
}

impl Blocks<'_> {
    pub(super) fn settings(&self) -> String {
        let Profile { source, standby, delete, .. } = self.profile;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name: String = self.name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        let delete_option = if delete.enabled { "--delete-after" } else { "" };
        let zero = if self.has_line_ends() { "--from0" } else { "" };
        format!(
            "PROFILE={}\n\
             # The standby as ssh understands it; empty when it is a path on this host.\nHOST={}\n\
             SOURCE={}\nDESTINATION={}\n\
             # Empty: nothing is deleted on the standby.\ndelete={delete_option}\n\
             # A run that would delete more entries is refused.\nDELETES={}\n\
             RSH='ssh -o BatchMode=yes'\nRSYNC=rsync\nREMOTE_RSYNC=rsync\n\
             # Logs, a file a day, and the lock. No profile carries it.\nSTATE=/var/lib/clonetool/rsync\nKEEP_DAYS=35\n\
             # Seconds for which rsync may hear nothing from the other end.\nSILENCE=3600\n\
             # For rules with an end of line in them.\nzero={zero}",
            word(&name),
            word(standby.address.as_deref().unwrap_or_default()),
            word(&source.root.to_string_lossy()),
            word(&standby.root.to_string_lossy()),
            delete.limits.max_entries,
        )
    }

    fn has_line_ends(&self) -> bool {
        let has = |filter: &Filter<'_>| filter.rule.pattern.iter().any(|b| b"\r\n".contains(b));
        let in_path = |path: &RelPath| path.as_bytes().iter().any(|b| b"\r\n".contains(b));
        self.flat.filters.iter().any(has) || self.flat.tops.iter().any(|top| in_path(&top.path))
    }

    /// The cases of `in_scope`, the deepest first.
    pub(super) fn turns(&self) -> String {
        let mut turns: Vec<_> = self.flat.turns.iter().collect();
        turns.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        let answer = |is_in: bool| u8::from(!is_in);
        let mut text = String::new();
        for (path, is_in) in turns {
            let _ = writeln!(text, "    {}/*) return {} ;;", path_word(path), answer(*is_in));
        }
        let _ = writeln!(text, "    *) return {} ;;", answer(self.flat.root));
        text
    }

    pub(super) fn listed(&self) -> String {
        let paths: Vec<String> =
            self.profile.source.also.iter().map(|path| escape(path.as_bytes())).collect();
        format!("LISTED={}", word(&paths.join(" ")))
    }

    pub(super) fn spell(&self) -> String {
        let command = if self.has_line_ends() { "tr '\\012\\001' '\\000\\012'" } else { "cat" };
        format!("    {command}")
    }

    pub(super) fn filters(&self) -> String {
        let mut lines: Vec<String> =
            self.flat.auth_set.iter().map(|path| format!("- {}", path_pattern(path))).collect();
        let content: Vec<String> = self.flat.filters.iter().flat_map(content_lines).collect();
        if !content.is_empty() {
            // Where a walk begins is in scope, whatever is above it.
            lines.extend(self.flat.tops.iter().flat_map(top_lines));
        }
        lines.extend(self.flat.filters.iter().flat_map(rule_lines));
        lines.extend(content);
        lines.join("\n")
    }

    pub(super) fn directory_rules(&self) -> String {
        let mut text = String::new();
        for path in &self.flat.no_directories {
            let rule = word(&format!("- {}", path_pattern(path)));
            let _ = writeln!(text, "    (hold_directory {} {rule})", path_word(path));
        }
        text
    }

    pub(super) fn trees(&self) -> String {
        const COPY: &str = "    copy -r -x $delete $zero --exclude-from=\"$WORK/filter\"";
        let mut text = String::new();
        if self.flat.root {
            let _ = writeln!(text, "{COPY} ./");
        }
        let mut also: Vec<&RelPath> = self.profile.source.also.iter().collect();
        also.sort();
        for path in also.into_iter().filter(|path| self.is_in(path)) {
            let _ = writeln!(text, "{COPY} -R --no-implied-dirs -- {}", word_here(path));
        }
        text.push_str("    :\n");
        text
    }

    /// Whether a directory is in scope as far as rules without wildcards say.
    fn is_in(&self, path: &RelPath) -> bool {
        let above = self.flat.turns.iter().filter(|(turn, _)| path.starts_with(turn));
        above.max_by_key(|(turn, _)| turn.components().count()).map_or(self.flat.root, |(_, is_in)| *is_in)
    }

    pub(super) fn tops(&self) -> String {
        let mut text = String::new();
        for top in &self.flat.tops {
            let kind = kind(top);
            let (path, here) = (path_word(&top.path), word_here(&top.path));
            let _ = writeln!(text, "    if (is_top {kind} {path}); then set \"$@\" {here}; fi");
        }
        text
    }

    pub(super) fn vanished(&self) -> String {
        let mut text = String::new();
        for top in &self.flat.tops {
            let above = ancestors(&top.path);
            let parent = above.last().cloned().unwrap_or_default();
            let path = path_word(&top.path);
            let _ = writeln!(
                text,
                "    if (is_gone {path}); then\n        forget {} <<'RULES'",
                path_word(&parent)
            );
            for directory in &above {
                let _ = writeln!(text, "+ {}/", path_pattern(directory));
            }
            for line in top_lines(top) {
                let _ = writeln!(text, "{line}");
            }
            for directory in above.iter().rev() {
                let _ = writeln!(text, "- {}", content_pattern(directory));
            }
            text.push_str("- /*\nRULES\n    fi\n");
        }
        text
    }

    /// Directories that are only made when production has something that is to be in them.
    pub(super) fn implied(&self) -> String {
        let mut text = String::new();
        for path in &self.flat.implied {
            let below = self.flat.tops.iter().filter(|top| top.path.starts_with(path));
            let any: Vec<String> =
                below.map(|top| format!("(is_top {} {})", kind(top), path_word(&top.path))).collect();
            if !any.is_empty() {
                let (word, here) = (path_word(path), word_here(path));
                let any = any.join(" ||\n        ");
                let _ = writeln!(
                    text,
                    "    if (is_top directory {word}) && {{ {any}; }}; then\n        set \"$@\" {here}\n    fi"
                );
            }
        }
        text
    }

    pub(super) fn empty(&self) -> String {
        let mut text = directories(self.flat.empty.iter());
        for matching in &self.flat.empty_matching {
            for parts in &matching.spellings {
                let pattern = shell_pattern(parts);
                // The wildcard of a shell passes over names that begin with a dot.
                let hidden =
                    matches!(parts.last(), Some(Part::Glob(tokens)) if tokens.first() == Some(&Token::Many));
                let dotted = match pattern.rsplit_once('/') {
                    Some((above, name)) if hidden => format!(" {above}/.[!.]{name} {above}/..?{name}"),
                    None if hidden => format!(" .[!.]{pattern} ..?{pattern}"),
                    _ => String::new(),
                };
                let _ = writeln!(text, "    for path in {pattern}{dotted}; do\n        case $path in");
                for other in &matching.except {
                    let _ = writeln!(text, "        {}) continue ;;", shell_pattern(other));
                }
                text.push_str("        esac\n        if (is_top directory \"$path\"); then set \"$@\" \"./$path\"; fi\n    done\n");
            }
        }
        text
    }

    pub(super) fn auth(&self) -> String {
        if self.flat.auth_set.is_empty() {
            return "auth_ready() {\n    :\n}\n\nauth_set() {\n    :\n}".to_owned();
        }
        let words: Vec<String> = self.flat.auth_set.iter().map(path_word).collect();
        let (words, mut set) = (words.join(" "), String::new());
        for path in &self.flat.auth_set {
            let _ =
                writeln!(set, "    if (exists {}); then set \"$@\" {}; fi", path_word(path), word_here(path));
        }
        AUTH.replace("@WORDS@", &words).replace("@SET@\n", &set)
    }
}

const AUTH: &str = r#"# The account files: see the head of this script.
EDITED='etc/ptmp etc/stmp etc/passwd.lock etc/shadow.lock etc/group.lock etc/gshadow.lock etc/subuid.lock etc/subgid.lock'

auth_ready() {
    for lock in $EDITED; do
        test ! -f "./$lock" || end 75 "the accounts of this host are being edited: /$lock is there"
    done
    remote "for lock in $EDITED; do test ! -f $to/\$lock || exit 9; done; exit 0"
    case $? in
    0) ;;
    9) end 75 "the accounts of the standby are being edited" ;;
    *) end 6 "the standby does not say whether its accounts are being edited" ;;
    esac
    for file in @WORDS@; do
        (exists "$file") || continue
        if test -f "./$file" && test ! -h "./$file"; then :; else end 3 "/$file is no file; nothing was changed"; fi
        case $file in
        etc/passwd|etc/shadow) grep '^root:' "./$file" >/dev/null || end 3 "/$file has no line for root; nothing was changed" ;;
        etc/group) test -s "./$file" || end 3 "/$file is empty; nothing was changed" ;;
        esac
    done
}

auth_sum() {
    cksum @WORDS@ 2>/dev/null
}

auth_pass() {
    set x
@SET@
    shift
    test $# -eq 0 || copy -c --delay-updates -R --no-implied-dirs -- "$@"
}

auth_set() {
    before=`auth_sum`
    auth_pass
    test "$before" = "`auth_sum`" && return 0
    before=`auth_sum`
    auth_pass
    test "$before" = "`auth_sum`" || { problems=yes; log "the accounts changed while they were brought"; }
}"#;

/// What shows a place where a walk begins, and nothing else.
fn top_lines(top: &Top) -> Vec<String> {
    let pattern = path_pattern(&top.path);
    match kind(top) {
        "directory" => vec![format!("+ {pattern}/")],
        "other" => vec![format!("- {pattern}/"), format!("+ {pattern}")],
        _ => vec![format!("+ {pattern}")],
    }
}

fn kind(top: &Top) -> &'static str {
    match (top.directory, top.file) {
        (true, true) => "any",
        (true, false) => "directory",
        (false, _) => "other",
    }
}

/// The directories above a path, from the top down, without the root.
fn ancestors(path: &RelPath) -> Vec<RelPath> {
    let mut all = Vec::new();
    let mut at = path.parent();
    while let Some(directory) = at.filter(|directory| !directory.is_root()) {
        at = directory.parent();
        all.push(directory);
    }
    all.reverse();
    all
}

/// A path for rsync and the shell, which take it for nothing else.
fn word_here(path: &RelPath) -> String {
    let path = path_word(path);
    format!("'./'{path}").replacen("'./''", "'./", 1)
}

fn directories<'a>(paths: impl Iterator<Item = &'a RelPath>) -> String {
    let mut text = String::new();
    for path in paths {
        let (path, here) = (path_word(path), word_here(path));
        let _ = writeln!(text, "    if (is_top directory {path}); then set \"$@\" {here}; fi");
    }
    text
}
