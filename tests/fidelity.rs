//! A copy is the source: every inode kind and attribute, locally and over a real sshd, the first time and after
//! changes; and a run that has nothing to do touches nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::common::compare::{
    Difference, assert_equal, assert_none, assert_untouched, compare, snapshot_ctimes,
};
use crate::common::plant::{mutate, noise, plant, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{Output, Workdir, clone_json, clonetool, debian, dir, rsync, rsync_limit};

/// Clones over `server`; push when `to` is the remote end, pull otherwise.
fn clone_over(server: &Sshd, transport: &str, extra: &[&str], from: &Path, to: &Path, push: bool) -> Output {
    let mut args: Vec<OsString> =
        vec!["clone".into(), "--json".into(), "--transport".into(), transport.into()];
    args.extend(extra.iter().map(OsString::from));
    args.extend(server.args());
    if push {
        args.extend([from.into(), server.remote(to)]);
    } else {
        args.extend([server.remote(from), to.into()]);
    }
    clonetool(args)
}

/// The whole promise for one pair of roots: equal after the first run, untouched by the second.
#[track_caller]
fn clones_whole_and_then_nothing(source: &Path, copy: &Path, run: &dyn Fn() -> Output) {
    let before = snapshot_ctimes(source);
    let first = run().expect_code(0);
    assert_eq!(first.count("problems"), 0, "{}", first.describe());
    assert_eq!(
        first.count("updated") + first.count("deleted") + first.count("moved"),
        0,
        "{}",
        first.describe()
    );
    assert_equal(source, copy);
    let copied = snapshot_ctimes(copy);
    run().expect_code(0).expect_no_changes();
    assert_untouched(&copied, &snapshot_ctimes(copy));
    assert_untouched(&before, &snapshot_ctimes(source));
}

#[test]
fn a_planted_tree_is_cloned_locally() {
    let work = Workdir::new("fidelity-local");
    let (source, copy) = (work.join("source"), work.make("copy"));
    plant(&source);
    clones_whole_and_then_nothing(&source, &copy, &|| clone_json(&[], &source, &copy));
}

#[test]
fn a_checksum_run_over_an_equal_tree_changes_nothing() {
    let work = Workdir::new("fidelity-checksum");
    let (source, copy) = (work.join("source"), work.make("copy"));
    plant(&source);
    clone_json(&[], &source, &copy).expect_code(0);
    let copied = snapshot_ctimes(&copy);
    clone_json(&["--checksum"], &source, &copy).expect_code(0).expect_no_changes();
    assert_untouched(&copied, &snapshot_ctimes(&copy));
}

#[test]
fn only_a_checksum_run_sees_content_that_changed_behind_equal_metadata() {
    let work = Workdir::new("fidelity-silent");
    let (source, copy) = (work.join("source"), work.make("copy"));
    write(&source.join("file"), noise(1, 300_000));
    clone_json(&[], &source, &copy).expect_code(0);
    let mut flipped = noise(1, 300_000);
    flipped[222_222] ^= 0x40;
    let time = std::fs::metadata(source.join("file")).expect("stat").modified().expect("mtime");
    write(&copy.join("file"), flipped);
    std::fs::File::options()
        .write(true)
        .open(copy.join("file"))
        .and_then(|file| file.set_modified(time))
        .expect("set the time");
    clone_json(&[], &source, &copy).expect_code(0).expect_no_changes();
    let run = clone_json(&["-c"], &source, &copy).expect_code(0);
    assert_eq!(run.count("updated"), 1, "{}", run.describe());
    assert_equal(&source, &copy);
}

fn planted_over(transport: &str, push: bool) {
    let direction = if push { "push" } else { "pull" };
    let work = Workdir::new(&format!("fidelity-{transport}-{direction}"));
    let (source, copy) = (work.join("source"), work.make("copy"));
    plant(&source);
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let run = || clone_over(&server, transport, &[], &source, &copy, push);
    clones_whole_and_then_nothing(&source, &copy, &run);
}

#[test]
fn a_planted_tree_is_pushed_by_the_system_ssh() {
    planted_over("ssh", true);
}

#[test]
fn a_planted_tree_is_pulled_by_the_system_ssh() {
    planted_over("ssh", false);
}

#[test]
fn a_planted_tree_is_pushed_by_the_built_in_ssh() {
    planted_over("ssh2", true);
}

#[test]
fn a_planted_tree_is_pulled_by_the_built_in_ssh() {
    planted_over("ssh2", false);
}

#[test]
fn a_debian_root_is_cloned_over_both_transports_and_differs_from_rsync_only_in_its_limits() {
    let work = Workdir::new("fidelity-debian");
    let source = work.join("source");
    debian::copy_to(&source);
    plant(&source.join("srv/planted"));
    let entries = snapshot_ctimes(&source).len();
    assert!(entries >= debian::ENTRIES, "only {entries} entries");
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let by_rsync = work.join("by-rsync");
    rsync(&source, &by_rsync);
    for transport in ["ssh", "ssh2"] {
        let copy = work.make(transport);
        let run = || clone_over(&server, transport, &[], &source, &copy, true);
        clones_whole_and_then_nothing(&source, &copy, &run);
        let second = run();
        let wire = second.count("wire_sent_bytes") + second.count("wire_received_bytes");
        assert!(wire <= 4 << 10, "{wire} bytes to find that nothing changed\n{}", second.describe());
        let scanned = usize::try_from(second.count("entries_scanned")).expect("a count");
        // The root itself may be counted or not.
        assert!(scanned + 1 >= entries, "{scanned} of {entries} entries were scanned");
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        let mut unexplained: Vec<Difference> = Vec::new();
        for difference in compare(&copy, &by_rsync) {
            match rsync_limit(&difference) {
                Some(reason) => *reasons.entry(reason).or_default() += 1,
                None => unexplained.push(difference),
            }
        }
        assert_none(&unexplained);
        eprintln!("clonetool over {transport} against rsync: {reasons:?}");
        dir::remove_tree(&copy);
    }
}

#[test]
fn an_update_follows_every_change() {
    let work = Workdir::new("fidelity-update");
    let (source, copy) = (work.join("source"), work.make("copy"));
    plant(&source);
    clone_json(&[], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
    mutate(&source);
    let update = || clone_json(&["--delete"], &source, &copy);
    let run = update().expect_code(0);
    assert_equal(&source, &copy);
    for key in ["created", "updated", "deleted", "metadata_only"] {
        assert!(run.count(key) > 0, "nothing counted as {key}\n{}", run.describe());
    }
    let updated = snapshot_ctimes(&copy);
    update().expect_code(0).expect_no_changes();
    assert_untouched(&updated, &snapshot_ctimes(&copy));
}

fn update_over(transport: &str, push: bool) {
    let work = Workdir::new(&format!("fidelity-update-{transport}"));
    let (source, copy) = (work.join("source"), work.make("copy"));
    plant(&source);
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let update = || clone_over(&server, transport, &["--delete"], &source, &copy, push);
    update().expect_code(0);
    mutate(&source);
    update().expect_code(0);
    assert_equal(&source, &copy);
    update().expect_code(0).expect_no_changes();
}

#[test]
fn an_update_follows_every_change_over_the_system_ssh() {
    update_over("ssh", true);
}

#[test]
fn an_update_follows_every_change_over_the_built_in_ssh() {
    update_over("ssh2", false);
}

#[test]
fn an_update_in_place_follows_every_change_and_keeps_the_inodes() {
    let work = Workdir::new("fidelity-in-place");
    let (source, copy) = (work.join("source"), work.make("copy"));
    plant(&source);
    clone_json(&[], &source, &copy).expect_code(0);
    let inode = dir::inode(&copy.join("kinds/3m"));
    mutate(&source);
    clone_json(&["--delete", "--in-place"], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
    assert_eq!(dir::inode(&copy.join("kinds/3m")), inode);
}

#[test]
fn a_small_change_of_a_large_file_sends_little() {
    let work = Workdir::new("fidelity-delta");
    let (source, copy) = (work.join("source"), work.make("copy"));
    let mut bytes = noise(60, 16 << 20);
    write(&source.join("file"), &bytes);
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let run = || clone_over(&server, "ssh", &[], &source, &copy, true).expect_code(0);
    run();
    // A page changed and a few bytes inserted at an odd place: both must cost about what they are.
    bytes[3 << 20..(3 << 20) + 8192].copy_from_slice(&noise(61, 8192));
    bytes.splice(9_000_001..9_000_001, *b"some inserted bytes");
    write(&source.join("file"), &bytes);
    let update = run();
    assert_equal(&source, &copy);
    let literal = update.count("literal_bytes");
    assert!(literal >= 8192, "less was sent than has changed\n{}", update.describe());
    let sent = update.count("wire_sent_bytes") + update.count("wire_received_bytes");
    assert!(sent < 2 << 20, "{sent} bytes on the wire for 8 KiB of changes\n{}", update.describe());
    assert!(update.count("copied_bytes") > 14 << 20, "{}", update.describe());
}

#[test]
fn without_delete_what_is_extra_stays() {
    let work = Workdir::new("fidelity-extra");
    let (source, copy) = (work.make("source"), work.make("copy"));
    write(&source.join("file"), "file");
    write(&copy.join("extra/inside"), "extra");
    write(&copy.join("file"), "old");
    let extra = snapshot_ctimes(&copy.join("extra"));
    let run = clone_json(&[], &source, &copy).expect_code(0);
    assert_eq!(run.count("deleted"), 0, "{}", run.describe());
    assert_untouched(&extra, &snapshot_ctimes(&copy.join("extra")));
    assert_eq!(std::fs::read(copy.join("file")).expect("read"), b"file");
    let run = clone_json(&["--delete"], &source, &copy).expect_code(0);
    assert_eq!(run.count("deleted"), 2, "{}", run.describe());
    assert_equal(&source, &copy);
}

#[test]
fn the_root_itself_may_be_named_in_any_way() {
    let work = Workdir::new("fidelity-names");
    let source = work.join("-so\nurce: é");
    write(&source.join("file"), "file");
    let copy = work.make(OsStr::new("co py;$(id)"));
    clone_json(&[], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    for transport in ["ssh", "ssh2"] {
        let far = work.make(format!("fa r'\"{transport}$(touch pwned)"));
        clone_over(&server, transport, &[], &source, &far, true).expect_code(0);
        assert_equal(&source, &far);
    }
}
