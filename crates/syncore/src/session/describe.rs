//! The receiver's answers to the sender's questions about the standby.
//!
//! Why: the sender plans, but only the receiver sees the standby. What can go wrong: the sender may ask anything;
//! every path is opened below the root without following links, and only names in scope are described.

use std::collections::HashMap;
use std::sync::Mutex;

use rayon::prelude::*;
use rustix::io::Errno;

use crate::apply::Problems;
use crate::plan::{Line, Listed, bucket_bits, bucket_digests, bucket_of};
use crate::problem::Operation;
use crate::rules::Scope;
use crate::scan::{Detail, Named, Seen, Snapshot, View};
use crate::session::listing::{lines, links_of, read};
use crate::tree::{Kind, RelPath};
use crate::wire::{Answer, Extra, Question, WireError};

/// How many lines, entries or paths go into one message at most; far below a frame.
const LINES_PER_MESSAGE: usize = 16 * 1024;

/// About how many bytes of entries go into one message.
const ENTRY_BYTES_PER_MESSAGE: usize = 256 * 1024;

/// Describes the standby as it was scanned.
pub(crate) struct Describer<'a> {
    view: &'a View,
    snapshot: &'a Snapshot,
    /// What cannot be read now, though it could when it was scanned.
    problems: &'a Problems,
    /// Lines of the directories that were answered by buckets: the next question is about them.
    lines: Mutex<HashMap<RelPath, Vec<Line>>>,
}

/// Takes one part of an answer; true when more follows.
type Emit<'a> = dyn FnMut(Answer, bool) -> Result<(), WireError> + 'a;

impl<'a> Describer<'a> {
    pub(crate) fn new(view: &'a View, snapshot: &'a Snapshot, problems: &'a Problems) -> Self {
        Self { view, snapshot, problems, lines: Mutex::default() }
    }

    /// Answers several questions at once, each in its parts.
    pub(crate) fn answer_all(&self, questions: &[Question]) -> Vec<Vec<(Answer, bool)>> {
        let answer = |question| {
            let mut parts = Vec::new();
            // Collecting cannot fail.
            let _ = self.answer(question, &mut |answer, more| {
                parts.push((answer, more));
                Ok(())
            });
            parts
        };
        questions.par_iter().map(answer).collect()
    }

    /// Answers one question in parts.
    ///
    /// # Errors
    /// Only what `emit` returns: what cannot be read is an answer, too.
    pub(crate) fn answer(&self, question: &Question, emit: &mut Emit<'_>) -> Result<(), WireError> {
        match question {
            Question::Lines(path) => match lines(self.view, self.snapshot, path) {
                Ok(lines) => match bucket_bits(lines.len()) {
                    Some(bits) => {
                        emit_buckets(&lines, bits, emit)?;
                        if let Ok(mut kept) = self.lines.lock() {
                            kept.insert(path.clone(), lines);
                        }
                        Ok(())
                    }
                    None => emit_lines(lines, emit),
                },
                Err(error) => {
                    self.unlisted(path, error);
                    emit(Answer::Gone, false)
                }
            },
            Question::Buckets(path, bits, wanted) => match self.lines_again(path) {
                Ok(mut lines) => {
                    lines.retain(|line| wanted.binary_search(&bucket_of(line, *bits)).is_ok());
                    emit_lines(lines, emit)
                }
                Err(error) => {
                    self.unlisted(path, error);
                    emit(Answer::Gone, false)
                }
            },
            Question::Entries(path, names) => self.entries(path, names, emit),
            Question::Tree(path) => {
                let mut part = Vec::new();
                let mut bytes = 0;
                for found in self.tree(path) {
                    bytes += 24 + found.path.as_bytes().len();
                    if bytes > ENTRY_BYTES_PER_MESSAGE && !part.is_empty() {
                        emit(Answer::Tree(std::mem::take(&mut part)), true)?;
                        bytes = 24 + found.path.as_bytes().len();
                    }
                    part.push(found);
                }
                emit(Answer::Tree(part), false)
            }
        }
    }

    /// Notes that a directory cannot be listed, unless it is just not there any more.
    fn unlisted(&self, path: &RelPath, error: Errno) {
        if !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) {
            self.problems.note(path, Operation::List, std::io::Error::from(error));
        }
    }

    /// The lines that were counted into buckets just now.
    fn lines_again(&self, path: &RelPath) -> rustix::io::Result<Vec<Line>> {
        let kept = self.lines.lock().ok().and_then(|mut kept| kept.remove(path));
        kept.map_or_else(|| lines(self.view, self.snapshot, path), Ok)
    }

    fn entries(&self, path: &RelPath, names: &[[u8; 8]], emit: &mut Emit<'_>) -> Result<(), WireError> {
        let wanted: std::collections::HashSet<u64> =
            names.iter().map(|name| u64::from_be_bytes(*name)).collect();
        let select = |name: &[u8]| wanted.is_empty() || wanted.contains(&self.view.names.hash(name));
        let mut found: Vec<Listed> = Vec::new();
        if path.is_root() && select(b"") {
            match self.view.read_root_in_full() {
                Ok(named) => found.push(self.listed(named)),
                Err(error) => {
                    self.problems.note(path, Operation::ReadMetadata, std::io::Error::from(error));
                }
            }
        }
        // Names that cannot be read are left out.
        let listed = read(self.view, path, Detail::Full, &select, &mut |seen| match seen {
            Seen::Named(named) => found.push(self.listed(named)),
            Seen::Unreadable(_, problem) => self.problems.add(problem),
            Seen::Out(..) | Seen::Leftover(_) => {}
        });
        if let Err(error) = listed {
            self.unlisted(path, error);
        }
        let mut part = Vec::new();
        let mut bytes = 0;
        for listed in found {
            bytes += 128 + listed.name.len() + listed.entry.target.len();
            bytes += listed.entry.xattrs.iter().map(|x| x.name.len() + x.value.len()).sum::<usize>();
            if bytes > ENTRY_BYTES_PER_MESSAGE && !part.is_empty() {
                emit(Answer::Entries(std::mem::take(&mut part)), true)?;
                bytes = 0;
            }
            part.push(listed);
        }
        emit(Answer::Entries(part), false)
    }

    fn listed(&self, named: Named<'_>) -> Listed {
        let mut entry = named.entry;
        entry.links = links_of(self.snapshot, entry.kind, named.scope, &named.inode);
        let (major, minor) = named.inode.identity.device;
        Listed {
            name: named.name.to_bytes().to_vec(),
            in_scope: named.scope == Scope::In,
            entered: named.below.is_some(),
            entry,
            inode: self.view.names.hash(format!("{major}:{minor}:{}", named.inode.identity.inode).as_bytes()),
            links: named.inode.links,
        }
    }

    /// Everything at and below `path`, in order, with what may go. A directory stays when anything in it does.
    fn tree(&self, path: &RelPath) -> Vec<Extra> {
        let top = Extra { path: path.clone(), kind: Kind::Directory, may_go: true, content: None };
        let mut found = vec![top];
        let mut stays: Vec<RelPath> = Vec::new();
        let mut pending = vec![path.clone()];
        while let Some(directory) = pending.pop() {
            let listed = read(self.view, &directory, Detail::Quick, &|_| true, &mut |seen| match seen {
                Seen::Named(named) if named.scope == Scope::In => {
                    let path = directory.join(named.name.to_bytes());
                    match (named.entry.kind, named.below.is_some()) {
                        (Kind::Directory, true) => pending.push(path.clone()),
                        (Kind::Directory, false) => stays.push(path.clone()),
                        _ if self.view.rules.substitution(&path).is_some() => stays.push(path.clone()),
                        _ => {}
                    }
                    let movable = named.entry.kind == Kind::File && named.inode.links == 1;
                    let content = movable.then_some((named.entry.size_bytes, named.entry.mtime));
                    found.push(Extra { path, kind: named.entry.kind, may_go: true, content });
                }
                Seen::Named(named) => {
                    if named.below.is_some() {
                        // Out of scope itself, it stays; what is in scope below it goes with the rest.
                        pending.push(directory.join(named.name.to_bytes()));
                    }
                    stays.push(directory.join(named.name.to_bytes()));
                }
                Seen::Out(name, _) => stays.push(directory.join(name.to_bytes())),
                Seen::Unreadable(name, problem) => {
                    self.problems.add(problem);
                    stays.push(directory.join(name.to_bytes()));
                }
                Seen::Leftover(_) => {}
            });
            if let Err(error) = listed {
                self.unlisted(&directory, error);
                stays.push(directory);
            }
        }
        let mut kept = std::collections::HashSet::new();
        for path in stays {
            let mut at = Some(path);
            while let Some(path) = at {
                let parent = path.parent();
                if !kept.insert(path) {
                    break;
                }
                at = parent;
            }
        }
        for one in &mut found {
            one.may_go = !kept.contains(&one.path);
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }
}

fn emit_lines(mut lines: Vec<Line>, emit: &mut Emit<'_>) -> Result<(), WireError> {
    while lines.len() > LINES_PER_MESSAGE {
        let rest = lines.split_off(LINES_PER_MESSAGE);
        emit(Answer::Lines(std::mem::replace(&mut lines, rest)), true)?;
    }
    emit(Answer::Lines(lines), false)
}

fn emit_buckets(lines: &[Line], bits: u8, emit: &mut Emit<'_>) -> Result<(), WireError> {
    let digests = bucket_digests(lines, bits);
    let mut parts = digests.chunks(LINES_PER_MESSAGE).peekable();
    while let Some(part) = parts.next() {
        emit(Answer::Buckets(bits, part.to_vec()), parts.peek().is_some())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;
    use crate::scan::scan;
    use crate::session::listing::view_of;

    #[test]
    fn a_root_that_cannot_be_read_any_more_is_a_problem_and_not_left_out() {
        let work = tempfile::tempdir().unwrap();
        let snapshot = scan(&view_of(work.path()), 0, &Silent).unwrap().unwrap();
        // Its metadata is to be had as long as the process is there.
        let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let view = view_of(format!("/proc/{}/task", process.id()).as_ref());
        let itself = view.names.hash(b"").to_be_bytes();
        let answer = || {
            let problems = Problems::default();
            let describer = Describer::new(&view, &snapshot, &problems);
            let parts = describer.answer_all(&[Question::Entries(RelPath::root(), vec![itself])]).concat();
            let [(Answer::Entries(found), false)] = &parts[..] else { panic!("{parts:?}") };
            (found.len(), problems.take().iter().map(|problem| problem.path.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(answer(), (1, Vec::new()));
        process.kill().unwrap();
        process.wait().unwrap();
        // One for itself, and one for what cannot be listed either.
        assert_eq!(answer(), (0, vec!["/".to_owned(); 2]));
    }
}
