//! Work, pinned by counts: bytes on the wire, literal bytes, system calls. Seconds are for the benchmarks.
//!
//! The remote end is the program itself behind a remote shell that goes nowhere, so all that is counted is the
//! protocol's own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use syncore::session::SCANS;

use crate::bare::nothing_can_be_known;
use crate::common::compare::{assert_equal, assert_untouched, snapshot_ctimes};
use crate::common::plant::{chmod, noise, set_mtime, set_xattr, write};
use crate::common::{CLONETOOL, Output, Workdir, clone_json, clonetool, dir, lacks, mount, skip};

const FILES: u64 = 5_000;
const FILES_PER_DIRECTORY: u64 = 200;
const MIB: u64 = 1 << 20;
const LARGE_BYTES: u64 = 64 * MIB;
const PAGE_BYTES: u64 = 4096;

/// Entries of [`many`]: files and directories.
const ENTRIES: u64 = FILES + FILES / FILES_PER_DIRECTORY;

fn many_file(root: &Path, number: u64) -> PathBuf {
    let (directory, file) = (number / FILES_PER_DIRECTORY, number % FILES_PER_DIRECTORY);
    root.join(format!("directory-{directory:02}/file-{file:03}"))
}

fn many(root: &Path) {
    for number in 0..FILES {
        write(&many_file(root, number), format!("content of file {number}\n"));
    }
}

/// Clones to a remote end that is on this host.
fn clone_remote(work: &Workdir, extra: &[&str], source: &Path, copy: &Path) -> Output {
    let shell = work.remote_shell();
    let mut to = OsString::from("standby:");
    to.push(copy);
    let mut args: Vec<OsString> =
        ["clone", "--json", "--no-durable", "--remote-path", CLONETOOL, "-e"].map(Into::into).into();
    args.push(shell.into());
    args.extend(extra.iter().map(OsString::from));
    args.extend([source.as_os_str().to_owned(), to]);
    clonetool(args)
}

fn wire_bytes(output: &Output) -> u64 {
    output.count("wire_sent_bytes") + output.count("wire_received_bytes")
}

#[test]
fn an_unchanged_tree_costs_four_kilobytes_whatever_is_in_it() {
    let work = Workdir::new("work-unchanged");
    let (source, copy) = (work.make("source"), work.make("copy"));
    many(&source);
    clone_remote(&work, &[], &source, &copy).expect_code(0);
    let before = snapshot_ctimes(&copy);
    for compression in ["auto", "off"] {
        let again = clone_remote(&work, &["--delete", "--compress", compression], &source, &copy);
        let again = again.expect_code(0).expect_no_changes();
        assert_eq!(again.count("entries_scanned"), 2 * ENTRIES, "{}", again.describe());
        let bytes = wire_bytes(&again);
        assert!(bytes <= 4096, "{bytes} bytes, compression {compression}\n{}", again.describe());
    }
    assert_untouched(&before, &snapshot_ctimes(&copy));
}

#[test]
fn a_changed_file_costs_itself_and_its_neighbourhood() {
    let work = Workdir::new("work-one");
    let (source, copy) = (work.make("source"), work.make("copy"));
    many(&source);
    clone_remote(&work, &[], &source, &copy).expect_code(0);
    // Noise, so that what compression saves elsewhere is not saved here.
    let content = noise(7, 1_000);
    write(&many_file(&source, 2_345), &content);
    let output = clone_remote(&work, &["--delete", "--compress", "off"], &source, &copy).expect_code(0);
    assert_eq!(output.changes(), [0, 1, 0, 0, 0], "{}", output.describe());
    assert_eq!(output.count("literal_bytes"), content.len() as u64);
    let beyond = wire_bytes(&output) - content.len() as u64;
    assert!(beyond < 8192, "{beyond} bytes beyond the content\n{}", output.describe());
    assert_equal(&source, &copy);
}

/// Clones a large file, lets `change` change it, and gives the output of the run after that.
fn after_a_change(name: &str, change: impl FnOnce(&Path)) -> Output {
    let work = Workdir::new(name);
    let (source, copy) = (work.make("source"), work.make("copy"));
    let file = source.join("large");
    write(&file, noise(1, usize::try_from(LARGE_BYTES).expect("a length")));
    set_mtime(&file, 1_000_000_000, 0);
    clone_remote(&work, &["--compress", "off"], &source, &copy).expect_code(0);
    change(&file);
    let output = clone_remote(&work, &["--compress", "off"], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
    output
}

#[test]
fn edited_pages_cost_little_more_than_themselves() {
    let pages = LARGE_BYTES / PAGE_BYTES;
    let output = after_a_change("work-pages", |path| {
        let file = fs::File::options().write(true).open(path).expect("open");
        for edit in 0..pages / 100 {
            // One in each hundred, never at the same place of it.
            let page = edit * 100 + edit * 37 % 100;
            let content = noise(1_000 + edit, usize::try_from(PAGE_BYTES).expect("a length"));
            file.write_all_at(&content, page * PAGE_BYTES).expect("write");
        }
    });
    let literal = output.count("literal_bytes");
    assert_eq!(literal, pages / 100 * PAGE_BYTES, "{}", output.describe());
    // What is asked and answered to find that out has its bound, too.
    let beyond = wire_bytes(&output) - literal;
    assert!(beyond < 48 * 1024, "{beyond} bytes beyond the literal ones\n{}", output.describe());
}

#[test]
fn an_insertion_costs_little_more_than_itself() {
    let inserted = 12_345;
    let output = after_a_change("work-insertion", |path| {
        let mut content = fs::read(path).expect("read");
        content.splice(20_000_003..20_000_003, noise(2, inserted));
        fs::write(path, content).expect("write");
    });
    let literal = output.count("literal_bytes");
    assert!(literal < 8 * 1024 + inserted as u64, "{literal} literal bytes");
}

#[test]
fn a_touch_of_a_large_file_sends_none_of_it() {
    let output = after_a_change("work-touch", |path| set_mtime(path, 1_100_000_000, 5));
    assert_eq!(output.count("literal_bytes"), 0, "{}", output.describe());
    let bytes = wire_bytes(&output);
    assert!(bytes < 64 * 1024, "{bytes} bytes\n{}", output.describe());
}

/// Edits at random places, of all kinds: every file must come out right at the first try, or it would be sent whole.
#[test]
fn any_edits_cost_about_what_they_touch() {
    const FILES: u64 = 12;
    let mut state = 20_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("a number") % limit
    };
    let work = Workdir::new("work-edits");
    let (source, copy) = (work.make("source"), work.make("copy"));
    for number in 0..FILES {
        write(&source.join(number.to_string()), noise(number + 1, 3_000_000 + below(3_000_000)));
    }
    clone_remote(&work, &[], &source, &copy).expect_code(0);
    let mut touched = 0;
    for number in 0..FILES {
        let path = source.join(number.to_string());
        let mut content = fs::read(&path).expect("read");
        for edit in 0..1 + below(5) {
            let at = below(content.len());
            let length = [1, 17, 4096, 70_000, 1_500_000][below(5)].min(content.len() - at);
            let new = noise(1_000 + number * 10 + edit as u64, length);
            touched += length as u64;
            match below(3) {
                0 => content[at..at + length].copy_from_slice(&new),
                1 => drop(content.splice(at..at, new)),
                _ => drop(content.drain(at..at + length)),
            }
        }
        fs::write(&path, content).expect("write");
        set_mtime(&path, 1_500_000_000, 0);
    }
    let output = clone_remote(&work, &["--compress", "off"], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
    let literal = output.count("literal_bytes");
    assert!(literal < touched + FILES * 5 * 64 * 1024, "{literal} for {touched}\n{}", output.describe());
    // The same way back, in place, where only what lies ahead can be copied.
    for number in 0..FILES {
        let path = source.join(number.to_string());
        write(&path, noise(number + 1, 3_500_000));
        set_mtime(&path, 1_600_000_000, 0);
    }
    clone_remote(&work, &["--in-place"], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
}

/// Holes on both ends, on one of them, and data that are zeros: what is a hole at the source is one on the copy.
#[test]
fn holes_of_a_large_file_cost_nothing_and_stay_what_they_are() {
    const LENGTH: u64 = 8 << 30;
    for extra in [&[][..], &["--in-place"]] {
        let work = Workdir::new("work-sparse");
        let (source, copy) = (work.make("source"), work.make("copy"));
        let path = source.join("sparse");
        let file = fs::File::create(&path).expect("create");
        file.set_len(LENGTH).expect("set the length");
        let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).expect("write");
        for (at, seed) in [(0, 1), (LENGTH / 2, 2), (LENGTH - MIB, 3)] {
            put(at, &noise(seed, 1 << 20));
        }
        set_mtime(&path, 1_000_000_000, 0);
        clone_remote(&work, &[], &source, &copy).expect_code(0);
        put(LENGTH / 4, &noise(4, 8192));
        put(LENGTH / 2 + 8192, &noise(5, 4096));
        // Zeros that are there, where the copy has a hole.
        put(LENGTH / 8, &vec![0; 300_000]);
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, punch, 0, MIB / 2).expect("punch a hole");
        set_mtime(&path, 1_100_000_000, 0);
        let output = clone_remote(&work, extra, &source, &copy).expect_code(0);
        assert_equal(&source, &copy);
        let literal = output.count("literal_bytes");
        assert!(literal < 128 * 1024, "{literal} literal bytes\n{}", output.describe());
        let bytes = wire_bytes(&output);
        assert!(bytes < 256 * 1024, "{bytes} bytes\n{}", output.describe());
    }
}

/// How often a local run makes each system call; none where the test must be skipped.
fn calls_of_a_run(test: &str, work: &Workdir, source: &Path, copy: &Path) -> Option<BTreeMap<String, u64>> {
    if lacks(test, &["strace"]) {
        return None;
    }
    let trace = work.join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-s", "0", "-o"]).arg(&trace);
    command.args([CLONETOOL, "clone", "--delete", "--no-durable", "-q"]).args([source, copy]);
    // Cargo sets it, and the loader looks for each library in every directory of it, for every generation of processors.
    command.env_remove("LD_LIBRARY_PATH");
    let output = command.output().expect("run strace");
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("PTRACE") && stderr.contains("not permitted") {
        skip(test, "tracing is not permitted here");
        return None;
    }
    assert!(output.status.success(), "{stderr}");
    // Every line is a process, a call and its arguments. `strace -c` leaves out calls that are younger than itself.
    let mut calls: BTreeMap<String, u64> = BTreeMap::new();
    for line in fs::read_to_string(&trace).expect("read the trace").lines() {
        if let Some((call, _)) =
            line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').split_once('(')
            && !line.contains(" resumed>")
        {
            *calls.entry(call.to_owned()).or_default() += 1;
        }
    }
    Some(calls)
}

#[test]
fn an_unchanged_entry_costs_two_calls_on_each_end() {
    let test = "work::an_unchanged_entry_costs_two_calls_on_each_end";
    let work = Workdir::new("work-calls");
    let (source, copy) = (work.make("source"), work.make("copy"));
    many(&source);
    clone_json(&[], &source, &copy).expect_code(0);
    let Some(calls) = calls_of_a_run(test, &work, &source, &copy) else { return };
    let per_entry = |count: u64| count as f64 / (2 * ENTRIES) as f64;
    // One for the metadata; the other lists extended attributes, under a name that depends on the kernel.
    let statx = per_entry(calls["statx"]);
    assert!((1.0..=1.1).contains(&statx), "{statx} calls of statx an entry and end\n{calls:#?}");
    // How often threads wait for each other depends on the scheduler; nothing else does.
    let waits = ["futex", "sched_yield"];
    let all =
        per_entry(calls.iter().filter(|(call, _)| !waits.contains(&call.as_str())).map(|(_, n)| n).sum());
    assert!((2.0..=2.2).contains(&all), "{all} calls an entry and end\n{calls:#?}");
}

#[test]
fn an_unchanged_entry_that_is_known_costs_one_call_on_each_end() {
    const FILES: u64 = 10_200;
    let test = "work::an_unchanged_entry_that_is_known_costs_one_call_on_each_end";
    if nothing_can_be_known(test) {
        return;
    }
    let work = Workdir::new("work-calls-known");
    // Of all filesystems, one of those that are believed.
    mount::loop_image(&work.join("image"), "ext4", 320 << 20, &work.join("mounted"));
    let (source, copy) = (work.make("mounted/source"), work.make("mounted/copy"));
    for number in 0..FILES {
        write(&many_file(&source, number), "");
    }
    clone_json(&[], &source, &copy).expect_code(0);
    // Where this host has no runs of its own, there is no such place yet.
    let state = Path::new(SCANS).parent().expect("a directory");
    let made = !state.exists();
    fs::create_dir_all(state).expect("make the directory");
    let mut per_entry = f64::MAX;
    // What changed in the last two seconds is asked each time; a run takes a good part of one.
    for _ in 0..20 {
        let Some(calls) = calls_of_a_run(test, &work, &source, &copy) else { break };
        let waits = ["futex", "sched_yield"];
        let all: u64 = calls.iter().filter(|(call, _)| !waits.contains(&call.as_str())).map(|(_, n)| n).sum();
        let entries = FILES + FILES / FILES_PER_DIRECTORY;
        per_entry = all as f64 / (2 * entries) as f64;
        if per_entry < 1.2 {
            break;
        }
    }
    if made {
        dir::remove_tree(state);
    }
    // Not asked at all, where nothing can be traced.
    assert!((1.0..1.2).contains(&per_entry) || per_entry == f64::MAX, "{per_entry} calls an entry and end");
}

#[test]
fn an_entry_with_attributes_costs_a_call_more_for_each() {
    let test = "work::an_entry_with_attributes_costs_a_call_more_for_each";
    let work = Workdir::new("work-calls-attributes");
    let (source, copy) = (work.make("source"), work.make("copy"));
    const LABELLED: usize = 500;
    for number in 0..LABELLED {
        let path = source.join(number.to_string());
        fs::write(&path, "").expect("write");
        set_xattr(&path, "user.label", b"one");
    }
    clone_json(&[], &source, &copy).expect_code(0);
    let Some(calls) = calls_of_a_run(test, &work, &source, &copy) else { return };
    let waits = ["futex", "sched_yield"];
    let all: u64 = calls.iter().filter(|(call, _)| !waits.contains(&call.as_str())).map(|(_, n)| n).sum();
    // statx, the list and the value; after the first the list is not asked for its length.
    let per_entry = all as f64 / (2 * LABELLED) as f64;
    assert!((3.0..=3.7).contains(&per_entry), "{per_entry} calls an entry and end\n{calls:#?}");
}

#[test]
fn what_is_unchanged_in_a_changed_directory_is_read_once() {
    let test = "work::what_is_unchanged_in_a_changed_directory_is_read_once";
    let work = Workdir::new("work-calls-changed");
    let (source, copy) = (work.make("source"), work.make("copy"));
    many(&source);
    clone_json(&[], &source, &copy).expect_code(0);
    // One file in every directory, so that every directory differs.
    let directories = FILES / FILES_PER_DIRECTORY;
    for directory in 0..directories {
        chmod(&many_file(&source, directory * FILES_PER_DIRECTORY + 7), 0o600);
    }
    let Some(calls) = calls_of_a_run(test, &work, &source, &copy) else { return };
    assert_equal(&source, &copy);
    // Reading the directories a second time would double this; what changed costs some calls of its own.
    let beyond = calls["statx"] - 2 * ENTRIES;
    assert!(beyond < 40 * directories, "{beyond} calls of statx beyond one an entry and end\n{calls:#?}");
}

#[test]
fn a_local_clone_reads_and_writes_a_file_once() {
    let test = "work::a_local_clone_reads_and_writes_a_file_once";
    let work = Workdir::new("work-calls-clone");
    let (source, copy) = (work.make("source"), work.make("copy"));
    many(&source);
    write(&source.join("large"), noise(3, 8 << 20));
    let Some(calls) = calls_of_a_run(test, &work, &source, &copy) else { return };
    assert_equal(&source, &copy);
    // Two pieces of 256 KiB would show as two calls: the large file is copied by the kernel, the small ones through memory.
    assert_eq!(calls["copy_file_range"], 32, "{calls:#?}");
    let per_file = |call: &str| calls[call] as f64 / FILES as f64;
    for call in ["pread64", "pwrite64"] {
        assert!((1.0..=1.1).contains(&per_file(call)), "{call}: {} a file\n{calls:#?}", per_file(call));
    }
}

#[test]
fn files_in_common_are_sent_once() {
    let work = Workdir::new("work-common");
    let (source, copy) = (work.make("source"), work.make("copy"));
    // The same mebibyte of noise far apart, with others between: only a long memory finds it.
    for number in 0..12 {
        write(&source.join(format!("{number:02}-own")), noise(100 + number, 1 << 20));
        write(&source.join(format!("{number:02}-same")), noise(99, 1 << 20));
    }
    let output = clone_remote(&work, &[], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
    let bytes = wire_bytes(&output);
    assert!(bytes < 15 * MIB, "{bytes} bytes for thirteen mebibytes of noise\n{}", output.describe());
}

#[test]
fn a_renamed_directory_costs_its_names() {
    let work = Workdir::new("work-renamed");
    let (source, copy) = (work.make("source"), work.make("copy"));
    for number in 0..200 {
        write(&source.join(format!("old/{number:03}")), noise(number, 20_000));
    }
    clone_remote(&work, &[], &source, &copy).expect_code(0);
    fs::rename(source.join("old"), source.join("new")).expect("rename");
    let output = clone_remote(&work, &["--delete"], &source, &copy).expect_code(0);
    assert_equal(&source, &copy);
    assert_eq!((output.count("moved"), output.count("literal_bytes")), (200, 0), "{}", output.describe());
    let bytes = wire_bytes(&output);
    assert!(bytes < 200 * 150, "{bytes} bytes for 200 names\n{}", output.describe());
}
