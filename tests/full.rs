//! Standbys without room: a run that changes everything or nothing changes nothing then, and can be run when there is room.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::common::compare::{assert_equal, assert_none};
use crate::common::plant::{noise, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{CLONETOOL, clonetool, clonetool_by, mount};
use crate::whole::{Pair, differences, staged};

/// A pair whose standby is a small ext4 of its own.
fn small(name: &str, size_bytes: u64) -> Pair {
    let pair = Pair::new(name);
    mount::loop_image(&pair.dir.join("image"), "ext4", size_bytes, &pair.standby);
    fs::remove_dir(pair.standby.join("lost+found")).unwrap();
    fs::create_dir_all(pair.standby.join("var/lib")).unwrap();
    pair
}

/// Leaves so much free on the filesystem of `root`, in a file that no run looks at.
fn leave_bytes(root: &Path, left: u64) {
    let filler = root.join("var/lib/clonetool/filler");
    fs::create_dir_all(filler.parent().unwrap()).unwrap();
    // As much as there is, and then so much less: what a filesystem keeps back for itself is in no number.
    let file = fs::File::create(&filler).unwrap();
    let (mut length, mut step) = (0_u64, 64_u64 << 20);
    while step >= 4096 {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), length, step) {
            Ok(()) => length += step,
            Err(_) => step /= 2,
        }
    }
    file.set_len(length.saturating_sub(left)).unwrap();
    drop(file);
    rustix::fs::syncfs(fs::File::open(root).unwrap()).unwrap();
}

fn make_room(root: &Path) {
    fs::remove_file(root.join("var/lib/clonetool/filler")).unwrap();
}

/// Many directories, some files: more names than content.
fn plant_names(root: &Path) {
    for number in 0..300 {
        let dir = root.join(format!("srv/tree/branch-{}/directory-{number}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        write(&dir.join("leaf"), noise(number, 3000));
    }
}

#[test]
fn whatever_room_there_is_a_run_is_all_or_nothing() {
    let (mut done, mut refused) = (0, 0);
    for left_kib in [256, 1024, 1400, 1800, 2200, 2600, 3000, 3400, 3800, 4600, 6000, 9000] {
        let pair = small("full-levels", 24 << 20);
        plant_names(&pair.source);
        fs::create_dir_all(pair.source.join("var/lib")).unwrap();
        leave_bytes(&pair.standby, left_kib << 10);
        let output = clonetool(pair.sync(&pair.standby)).expect_one_of(&[0, 1]);
        let there = pair.standby.join("srv").exists();
        assert_eq!(there, output.code == 0, "{left_kib} KiB: a part\n{}", output.describe());
        let journal = pair.standby.join("var/lib/clonetool/run/journal");
        assert!(!journal.exists(), "{left_kib} KiB: it is to be completed\n{}", output.describe());
        if output.code == 0 {
            done += 1;
        } else {
            refused += 1;
            let output = output.expect_stderr("nothing was changed").expect_stderr("room");
            assert_eq!(staged(&pair.standby), 0, "{left_kib} KiB\n{}", output.describe());
        }
        make_room(&pair.standby);
        clonetool(pair.sync(&pair.standby)).expect_code(0);
        assert_equal(&pair.source.join("srv"), &pair.standby.join("srv"));
    }
    assert!(done > 1 && refused > 3, "{done} done, {refused} refused");
}

#[test]
fn a_change_that_does_not_fit_leaves_the_old_and_no_part_of_the_new() {
    for remote in [false, true] {
        let pair = small("full-changes", 48 << 20);
        fs::create_dir_all(pair.source.join("var/lib")).unwrap();
        let plant = |from: u64| {
            for number in 0..16 {
                write(&pair.source.join(format!("opt/file-{number:02}")), noise(from + number, 1 << 20));
            }
        };
        plant(100);
        clonetool(pair.sync(&pair.standby)).expect_code(0);
        let before = pair.copy("before");
        plant(200);
        leave_bytes(&pair.standby, 5 << 20);
        let server = remote.then(|| Sshd::start(&pair.dir.join("sshd"), &SshdOptions::default()));
        let sync = || {
            let mut words: Vec<OsString> = pair.sync(&pair.standby).into_iter().map(Into::into).collect();
            if let Some(server) = &server {
                words.pop();
                words.push(server.remote(&pair.standby));
                words.extend(server.args());
            }
            clonetool(words)
        };
        let output = sync();
        let code = if remote { 6 } else { 1 };
        let output = output.expect_code(code).expect_stderr("there is no room for /opt/file-");
        let output = output.expect_stderr("nothing was changed");
        assert_eq!(staged(&pair.standby), 0, "what was staged takes the room\n{}", output.describe());
        make_room(&pair.standby);
        let bare = pair.dir.join("bare");
        crate::whole::bare(&before, &bare);
        let now = pair.copy("now");
        assert_none(&differences(&bare, &now));
        sync().expect_code(0);
        assert_equal(&pair.source.join("opt"), &pair.standby.join("opt"));
    }
}

#[test]
fn one_file_that_does_not_fit_ends_a_remote_run_at_once() {
    let pair = small("full-one", 24 << 20);
    write(&pair.source.join("opt/big"), noise(5, 40 << 20));
    let shell = pair.dir.remote_shell();
    let mut words: Vec<OsString> = pair.sync(&pair.standby).into_iter().map(Into::into).collect();
    let mut to = OsString::from("standby:");
    to.push(words.pop().unwrap());
    words.extend([to, "--remote-path".into(), CLONETOOL.into(), "-e".into(), shell.into()]);
    // One lane has nothing to do; it must hear of it, too.
    let output = clonetool_by(&["timeout", "60"], CLONETOOL, words).expect_code(6);
    output.expect_stderr("there is no room for /opt/big");
    assert_eq!(staged(&pair.standby), 0);
    assert!(!pair.standby.join("opt").exists());
}
