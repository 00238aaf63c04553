//! `/etc/system`: no word of a root that is a volume.
//!
//! Why: `rootdev:` and `set vxio:vol_rootdev_is_volume=1` tell the kernel that its root is where only production has it;
//! one that is left is a panic before the first message. What can go wrong: spellings. system(4) knows no case in its
//! keywords, blanks may stand around `:` and `=`, minors differ from host to host. Every `rootdev:` is put out of
//! force, because a hardware path is production's too. A block that is opened and not closed, and a line that goes
//! on in the next one, are errors.

use super::super::lines::{Lines, is_comment};
use super::super::{Draft, PrepareError};
use super::malformed;
use crate::rules::Class;

const SYSTEM: &str = "/etc/system";
/// What stands before a line that is put out of force, as Veritas' and Sun's own procedures have it.
const COMMENT: &[u8] = b"* ";
const ROOT: (&[u8], &[u8]) = (b"* Begin MDD root info (do not edit)", b"* End MDD root info (do not edit)");
/// DiskSuite 4 had its replicas here.
const DATABASE: (&[u8], &[u8]) =
    (b"* Begin MDD database info (do not edit)", b"* End MDD database info (do not edit)");

/// What a line says that must not be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stale {
    /// Where the root is.
    Rootdev,
    /// That root or swap is a volume of VxVM.
    Encapsulated,
    /// Where replicas of SVM's state database are.
    Replicas,
}

/// Plans the file, and those of `/etc/system.d`.
pub(super) fn plan(root_on_volume: bool, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let mut rootdev = false;
    let mut paths = vec![SYSTEM.to_owned()];
    paths.extend(draft.list("/etc/system.d")?.into_iter().map(|name| format!("/etc/system.d/{name}")));
    for path in &paths {
        let Some(content) = draft.read(path)? else { continue };
        let (after, had) = edit(path, &content)?;
        rootdev |= had;
        draft.write(path, after, Class::B, "the root is no volume and not on production's disk")?;
    }
    // A root on a volume has a rootdev; a spelling of it that was not recognised is still in force.
    if root_on_volume && !rootdev {
        return Err(malformed(SYSTEM, "/ is a volume in /etc/vfstab, and no rootdev: is found here"));
    }
    Ok(())
}

/// The file without what is stale, and whether it had a `rootdev:`.
fn edit(path: &str, content: &[u8]) -> Result<(Vec<u8>, bool), PrepareError> {
    let mut lines = Lines::of(content);
    let mut rootdev = without_block(path, &mut lines, ROOT.0, ROOT.1)?;
    without_block(path, &mut lines, DATABASE.0, DATABASE.1)?;
    let mut continued = false;
    for (at, line) in lines.0.iter_mut().enumerate() {
        let goes_on = line.content.ends_with(b"\\");
        if let Some(stale) = stale(&line.content) {
            if continued || goes_on {
                return Err(malformed(path, format!("line {} is joined to another by a backslash", at + 1)));
            }
            rootdev |= stale == Stale::Rootdev;
            line.content = [COMMENT, &line.content].concat();
        }
        let comment = is_comment(&line.content, b'*') || is_comment(&line.content, b'#');
        continued = goes_on && !comment;
    }
    Ok((lines.to_bytes(), rootdev))
}

/// `/etc/system` of production's without what is stale in it.
pub(crate) fn without_root(content: &[u8]) -> Result<Lines, PrepareError> {
    Ok(Lines::of(&edit(SYSTEM, content)?.0))
}

/// The lines of a standby's `/etc/system` that say where its root is, with the blocks that they stand in: what
/// whoever mirrored it there has put into force again.
pub(crate) fn in_force(content: &[u8]) -> Result<Vec<Vec<u8>>, PrepareError> {
    // That each block ends is checked where they are taken away.
    edit(SYSTEM, content)?;
    let is = |line: &[u8], marks: [&[u8]; 2]| {
        marks.iter().any(|mark| line.trim_ascii().eq_ignore_ascii_case(mark))
    };
    let mut inside = false;
    let lines = Lines::of(content).0.into_iter().map(|line| line.content).filter(|line| {
        let ends = is(line, [ROOT.1, DATABASE.1]);
        inside = !ends && (inside || is(line, [ROOT.0, DATABASE.0]));
        ends || inside || stale(line).is_some()
    });
    Ok(lines.collect())
}

/// What is stale in a line, if it is in force.
fn stale(line: &[u8]) -> Option<Stale> {
    let line = String::from_utf8_lossy(line).trim().to_ascii_lowercase();
    if let Some(rest) = line.strip_prefix("rootdev") {
        return rest.trim_start().starts_with(':').then_some(Stale::Rootdev);
    }
    let set = line.strip_prefix("set")?;
    if !set.starts_with([' ', '\t']) {
        return None;
    }
    let (name, _) = set.split_once('=')?;
    let (module, symbol) = name.split_once(':')?;
    match (module.trim(), symbol.trim()) {
        ("vxio", "vol_rootdev_is_volume" | "vol_swapdev_is_volume") => Some(Stale::Encapsulated),
        ("md", symbol) if symbol.starts_with("mddb_bootlist") => Some(Stale::Replicas),
        _ => None,
    }
}

/// Takes away every block from the line `begin` to the line `end`; whether there was one.
pub(super) fn without_block(
    path: &str,
    lines: &mut Lines,
    begin: &[u8],
    end: &[u8],
) -> Result<bool, PrepareError> {
    let is = |line: &[u8], mark: &[u8]| line.trim_ascii().eq_ignore_ascii_case(mark);
    let mut found = false;
    while let Some(from) = lines.0.iter().position(|line| is(&line.content, begin)) {
        let to =
            lines.0[from + 1..].iter().position(|line| is(&line.content, end) || is(&line.content, begin));
        let to = to.map(|to| from + 1 + to).filter(|to| is(&lines.0[*to].content, end));
        let to = to.ok_or_else(|| {
            malformed(path, format!("the block that begins at line {} does not end", from + 1))
        })?;
        lines.0.drain(from..=to);
        found = true;
    }
    if let Some(stray) = lines.0.iter().position(|line| is(&line.content, end)) {
        return Err(malformed(path, format!("a block ends at line {} that does not begin", stray + 1)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(content: &str) -> (String, bool) {
        let (after, rootdev) = edit(SYSTEM, content.as_bytes()).unwrap();
        (String::from_utf8(after).unwrap(), rootdev)
    }

    #[test]
    fn every_spelling_of_a_root_on_a_volume_is_put_out_of_force() {
        for line in [
            "rootdev:/pseudo/vxio@0:0",
            "rootdev: /pseudo/md@0:0,1,blk",
            "rootdev:\t/pseudo/md@0:0,10,blk",
            "RootDev : /pseudo/md@0:0,0,blk",
            "  ROOTDEV:/sbus@1f,0/SUNW,fas@e,8800000/sd@0,0:a",
        ] {
            assert_eq!(edited(&format!("{line}\n")), (format!("* {line}\n"), true), "{line}");
        }
        for line in [
            "set vxio:vol_rootdev_is_volume=1",
            "set vxio:vol_swapdev_is_volume=1",
            "SET\tvxio : vol_rootdev_is_volume = 1",
            "set md:mddb_bootlist1=\"sd:7:16:id0\"",
        ] {
            assert_eq!(edited(&format!("{line}\n")), (format!("* {line}\n"), false), "{line}");
        }
    }

    #[test]
    fn nothing_else_is_touched() {
        let kept = "* rootdev:/pseudo/vxio@0:0\n# set vxio:vol_rootdev_is_volume=1\n* vxvm_START (do not remove)\n\
                    forceload: drv/vxio\n* vxvm_END (do not remove)\nset xio:vol_rootdev_is_volume=1\n\
                    set vxio:vol_maxio=2048\nset rootdev_x=1\nset shmsys:shminfo_shmmax = \\\n4294967295\nrootfs:ufs\n\
                    setvxio:vol_rootdev_is_volume=1";
        assert_eq!(edited(kept), (kept.to_owned(), false));
    }

    #[test]
    fn the_root_block_goes_whole() {
        let block = "set maxusers=40\r\n* Begin MDD root info (do not edit)\r\nforceload: misc/md_mirror\r\n\
                     rootdev:/pseudo/md@0:0,0,blk\r\n* End MDD root info (do not edit)\r\nset a=1";
        assert_eq!(edited(block), ("set maxusers=40\r\nset a=1".to_owned(), true));
    }

    #[test]
    fn what_cannot_be_told_apart_is_an_error() {
        for content in [
            "* Begin MDD root info (do not edit)\nrootdev:/pseudo/md@0:0,0,blk\n",
            "* End MDD root info (do not edit)\n",
            "* Begin MDD root info (do not edit)\n* Begin MDD root info (do not edit)\n* End MDD root info (do not edit)\n",
            "rootdev:\\\n/pseudo/md@0:0,0,blk\n",
            "set a=1 \\\nrootdev:/pseudo/md@0:0,0,blk\n",
        ] {
            assert!(
                matches!(edit(SYSTEM, content.as_bytes()), Err(PrepareError::Malformed { .. })),
                "{content}"
            );
        }
    }
}
