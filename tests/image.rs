//! Images: what goes into one comes out of it, by clonetool and by plain tar; and one that is not whole comes out of
//! nothing.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::compare::{
    Difference, What, assert_equal, assert_none, assert_untouched, compare, snapshot_ctimes,
};
use crate::common::plant::{chmod, noise, plant, write};
use crate::common::sshd::{Sshd, SshdOptions};
use crate::common::{CLONETOOL, Output, Workdir, clonetool, clonetool_by, is_empty, lacks, mount, run};

fn image<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Output {
    let mut args: Vec<OsString> = vec!["image".into()];
    args.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
    clonetool(args)
}

fn create(source: &Path, file: &Path) -> Output {
    image([OsStr::new("create"), OsStr::new("--json"), source.as_os_str(), file.as_os_str()])
}

fn restore(file: &Path, destination: &Path) -> Output {
    image([OsStr::new("restore"), OsStr::new("--json"), file.as_os_str(), destination.as_os_str()])
}

fn list(file: &Path) -> Output {
    image([OsStr::new("list"), OsStr::new("--json"), file.as_os_str()])
}

/// The three sockets that [`plant`] makes are in no tar archive.
fn is_socket(difference: &Difference) -> bool {
    let sockets: [&[u8]; 3] = [b"kinds/socket", b"links/a/socket", b"links/b/socket"];
    difference.what == What::Presence && sockets.contains(&&difference.path[..])
}

/// Asserts that the copy is the planted tree in everything but its sockets.
#[track_caller]
fn assert_restored(source: &Path, copy: &Path) {
    let (sockets, others): (Vec<_>, Vec<_>) = compare(source, copy).into_iter().partition(is_socket);
    assert_none(&others);
    assert_eq!(sockets.len(), 3);
}

/// A small tree for the tests in which it does not matter what is in it.
fn small_tree(work: &Workdir) -> std::path::PathBuf {
    let source = work.make("source");
    write(&source.join("etc/motd"), "hello");
    write(&source.join("var/data"), noise(1, 300_000));
    source
}

#[test]
fn a_planted_tree_comes_back_whole_as_often_as_it_is_wanted() {
    let work = Workdir::new("image-local");
    let (source, file) = (work.join("source"), work.join("root.img"));
    plant(&source);
    let before = snapshot_ctimes(&source);
    let created = create(&source, &file).expect_code(0);
    assert_untouched(&before, &snapshot_ctimes(&source));
    assert_eq!((created.count("sockets"), created.count("problems"), created.count("torn")), (3, 0, 0));
    assert_eq!(fs::metadata(&file).expect("stat").permissions().mode() & 0o7777, 0o600);
    let first = restore(&file, &work.join("first")).expect_code(0);
    assert_eq!(first.summary()["digest"], created.summary()["digest"]);
    assert_restored(&source, &work.join("first"));
    restore(&file, &work.make("second")).expect_code(0);
    assert_equal(&work.join("first"), &work.join("second"));
    // Made again of what came out, it has the same content, but for the time at which it was made.
    let again = create(&work.join("first"), &work.join("again.img")).expect_code(0);
    assert_eq!(again.count("entries"), created.count("entries"));
}

#[test]
fn plain_tar_extracts_an_image() {
    let test = "image::plain_tar_extracts_an_image";
    if lacks(test, &["tar", "zstd"]) {
        return;
    }
    let work = Workdir::new("image-tar");
    let (source, file, copy) = (work.join("source"), work.join("root.img"), work.make("copy"));
    plant(&source);
    create(&source, &file).expect_code(0);
    // What tar says of paths that are too long for it ends in another exit code than 0.
    let extracted = Command::new("tar")
        .args(["--zstd", "--xattrs", "--xattrs-include=*", "--acls", "-S", "--numeric-owner", "-xpf"])
        .args([file.as_os_str(), OsStr::new("-C"), copy.as_os_str()])
        .env("LC_ALL", "C")
        .output()
        .expect("run tar");
    let manifest = fs::read_to_string(copy.join(".clonetool-image/manifest")).expect("read the manifest");
    let about = fs::read_to_string(copy.join(".clonetool-image/about")).expect("read what it is of");
    assert!(about.contains("program = \"clonetool "), "{about}");
    let (limits, others): (Vec<_>, Vec<_>) = compare(&source, &copy).into_iter().partition(is_limit_of_tar);
    assert_none(&others);
    assert_eq!(limits.iter().filter(|difference| is_socket(difference)).count(), 3);
    let stderr = String::from_utf8_lossy(&extracted.stderr);
    for line in stderr.lines() {
        // Flags, future times, and what it cannot reach below the deep path.
        let known = [
            "'SCHILY.fflags'",
            "in the future",
            "implausibly old",
            "deep/00dddddddd",
            "failure status due to previous errors",
        ];
        assert!(known.iter().any(|words| line.contains(words)), "tar says: {line}");
    }
    // The manifest's digest of a file is what b3sum gives, here for the letter x.
    let line = manifest.lines().find(|line| line.ends_with(" /kinds/one-byte")).expect("a line");
    assert!(line.contains(" 3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5 "), "{line}");
}

/// What GNU tar cannot do with any archive.
fn is_limit_of_tar(difference: &Difference) -> bool {
    match difference.what {
        // What the image says of itself is extracted as well.
        What::Presence if difference.path == b".clonetool-image" => true,
        // It knows no inode flags.
        What::Flags => true,
        // It gives up on paths longer than PATH_MAX.
        What::Presence if difference.path.windows(10).any(|part| part == b"dddddddddd") => true,
        _ => is_socket(difference),
    }
}

#[test]
fn images_go_over_ssh_both_ways() {
    let work = Workdir::new("image-ssh");
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let (source, file) = (work.join("source"), work.join("root.img"));
    plant(&source);
    for transport in ["ssh", "ssh2"] {
        let mut args: Vec<OsString> =
            ["create", "--json", "--force", "--transport", transport].map(OsString::from).to_vec();
        args.extend(server.args());
        args.extend([server.remote(&source), file.clone().into()]);
        let created = image(&args).expect_code(0);
        assert_eq!((created.count("sockets"), created.count("problems")), (3, 0));
        assert_eq!(created.count("image_bytes"), fs::metadata(&file).expect("stat").len());
        list(&file).expect_code(0);
        let copy = work.join(transport);
        let mut args: Vec<OsString> =
            ["restore", "--json", "--transport", transport].map(OsString::from).to_vec();
        args.extend(server.args());
        args.extend([file.clone().into(), server.remote(&copy)]);
        let restored = image(&args).expect_code(0);
        assert_eq!(restored.summary()["digest"], created.summary()["digest"]);
        assert_restored(&source, &copy);
        // And not a second time over what is there.
        image(&args).expect_code(3).expect_stderr("is not empty");
    }
}

#[test]
fn a_damaged_image_is_not_sent_over_ssh() {
    let work = Workdir::new("image-ssh-damaged");
    let server = Sshd::start(&work.join("sshd"), &SshdOptions::default());
    let (file, copy) = (work.join("root.img"), work.join("copy"));
    create(&small_tree(&work), &file).expect_code(0);
    let mut bytes = fs::read(&file).expect("read");
    bytes[200_000] ^= 1;
    fs::write(&file, bytes).expect("write");
    let mut args: Vec<OsString> = vec!["restore".into()];
    args.extend(server.args());
    args.extend([file.into(), server.remote(&copy)]);
    image(&args).expect_code(1).expect_stderr("damaged").expect_stderr("nothing was changed");
    assert!(!copy.exists());
}

#[test]
fn an_agent_keeps_to_its_limits() {
    let work = Workdir::new("image-limits");
    let inside = work.make("inside/source");
    write(&inside.join("file"), "content");
    let command = format!("{CLONETOOL} agent --root {} --read-only", work.join("inside").display());
    let server = Sshd::start(&work.join("sshd"), &SshdOptions { forced_command: Some(command) });
    let ask = |words: [OsString; 3]| {
        let mut args = vec![words[0].clone()];
        args.extend(server.args());
        args.extend_from_slice(&words[1..]);
        image(&args)
    };
    let file = OsString::from(work.join("root.img"));
    ask(["create".into(), server.remote(&inside), file.clone()]).expect_code(0);
    let outside = work.make("outside");
    let refused = ask(["create".into(), server.remote(&outside), work.join("no.img").into()]);
    refused.expect_code(3).expect_stderr("this agent serves only");
    assert!(!work.join("no.img").exists());
    let refused = ask(["restore".into(), file, server.remote(&work.join("inside/copy"))]);
    refused.expect_code(3).expect_stderr("only reads");
    assert!(!work.join("inside/copy").exists());
}

/// Asserts that the file is refused with these words, by `list` and by `restore`, which writes nothing.
#[track_caller]
fn assert_refused(work: &Workdir, bytes: &[u8], words: &str) {
    let (file, copy) = (work.join("bad.img"), work.make("copy"));
    fs::write(&file, bytes).expect("write");
    list(&file).expect_code(1).expect_stderr(words);
    let before = snapshot_ctimes(&copy);
    restore(&file, &copy).expect_code(1).expect_stderr(words).expect_stderr("nothing was changed");
    assert!(is_empty(&copy));
    assert_untouched(&before, &snapshot_ctimes(&copy));
    let missing = work.join("missing");
    restore(&file, &missing).expect_code(1);
    assert!(!missing.exists());
}

#[test]
fn an_image_that_is_not_whole_is_refused_and_nothing_is_written() {
    let test = "image::an_image_that_is_not_whole_is_refused_and_nothing_is_written";
    if lacks(test, &["zstd"]) {
        return;
    }
    let work = Workdir::new("image-damaged");
    let file = work.join("good.img");
    create(&small_tree(&work), &file).expect_code(0);
    let good = fs::read(&file).expect("read");
    for length in [good.len() / 2, good.len() - 1] {
        assert_refused(&work, &good[..length], "it ends too early");
    }
    assert_refused(&work, b"", "it is no image of clonetool");
    for at in [good.len() / 3, good.len() - 2] {
        let mut flipped = good.clone();
        flipped[at] ^= 0x08;
        assert_refused(&work, &flipped, "damaged or was changed");
    }
    // Changed by somebody who makes the sums of zstd right again: the manifest has another digest.
    let plain = run_through(&["zstd", "-dcq"], &good);
    let at = plain.windows(5).position(|window| window == b"hello").expect("the content");
    let mut other = plain.clone();
    other[at] = b'j';
    assert_refused(&work, &run_through(&["zstd", "-cq"], &other), "/etc/motd");
    // An archive of another program.
    let tar =
        Command::new("tar").args(["-C", "/etc", "-cf", "-", "hostname"]).output().expect("run tar").stdout;
    assert_refused(&work, &run_through(&["zstd", "-cq"], &tar), "it is no image of clonetool");
    assert_refused(&work, &noise(7, 10_000), "it is no image of clonetool");
}

/// What a program makes of its standard input.
fn run_through(words: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start it");
    let mut stdin = child.stdin.take().expect("its input");
    let mut stdout = child.stdout.take().expect("its output");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).expect("write to it"));
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).expect("read from it");
        assert!(child.wait().expect("wait").success());
        output
    })
}

#[test]
fn an_image_goes_through_a_pipe_and_one_that_is_cut_is_said_to_be_incomplete() {
    let work = Workdir::new("image-pipe");
    let source = small_tree(&work);
    write(&source.join("var/more"), noise(2, 3 << 20));
    let piped = |cut: &str, copy: &Path| {
        let script = format!(
            "{CLONETOOL} image create {} - {cut} | {CLONETOOL} image restore - {}",
            source.display(),
            copy.display()
        );
        Command::new("sh").args(["-c", &script]).output().expect("run sh")
    };
    let whole = piped("", &work.join("whole"));
    assert!(whole.status.success(), "{whole:?}");
    assert_equal(&source, &work.join("whole"));
    let cut = piped("| head -c 2000000", &work.join("cut"));
    assert_eq!(cut.status.code(), Some(1));
    let words = String::from_utf8_lossy(&cut.stderr).into_owned();
    assert!(words.contains("the destination is incomplete"), "{words}");
    let nothing = piped("| head -c 1000", &work.join("nothing"));
    assert_eq!(nothing.status.code(), Some(1));
    assert!(!work.join("nothing").exists());
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_in_the_image() {
    let test = "image::what_cannot_be_read_is_told_and_the_rest_is_in_the_image";
    if lacks(test, &["setpriv"]) {
        return;
    }
    let work = Workdir::public("image-nobody");
    let program = work.join("clonetool");
    fs::copy(CLONETOOL, &program).expect("copy the program");
    chmod(&program, 0o755);
    let (source, out) = (work.make("source"), work.make("out"));
    chown(&out, Some(65_534), Some(65_534)).expect("chown");
    for name in ["readable", "dir/also-readable", "secret", "closed/inside"] {
        write(&source.join(name), name);
    }
    chmod(&source.join("secret"), 0o600);
    chmod(&source.join("closed"), 0o700);
    let file = out.join("root.img");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let words = [OsStr::new("image"), OsStr::new("create"), OsStr::new("--json")];
    let args = words.into_iter().chain([source.as_os_str(), file.as_os_str()]);
    let created = clonetool_by(&nobody, program.to_str().expect("a path"), args).expect_code(4);
    assert_eq!(created.count("problems"), 2, "{}", created.describe());
    created.expect_stderr("/secret: cannot read the content").expect_stderr("/closed: cannot list");
    let listed = image([OsStr::new("list"), OsStr::new("--files"), OsStr::new("--json"), file.as_os_str()]);
    let paths: Vec<_> = listed
        .expect_code(0)
        .objects()
        .iter()
        .filter_map(|o| o["path"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(paths, ["/", "/readable", "/closed", "/dir", "/dir/also-readable"]);
}

#[test]
fn a_run_that_is_killed_leaves_no_image_and_is_no_hindrance_to_the_next() {
    let work = Workdir::new("image-killed");
    let (source, file) = (work.make("source"), work.join("root.img"));
    write(&source.join("noise"), noise(3, 128 << 20));
    let mut child = Command::new(CLONETOOL)
        .args(["image", "create", "--level", "19"])
        .args([&source, &file])
        .spawn()
        .expect("run clonetool");
    let partial = work.join("root.img.partial");
    while !partial.exists() {
        assert!(child.try_wait().expect("wait").is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    // While it runs, no other one writes the same file.
    create(&source, &file).expect_code(75);
    child.kill().expect("kill it");
    child.wait().expect("wait");
    assert!(!file.exists());
    create(&source, &file).expect_code(0);
    assert!(!partial.exists());
    list(&file).expect_code(0);
}

#[test]
fn a_file_that_is_there_is_replaced_only_when_that_is_asked_for() {
    let work = Workdir::new("image-there");
    let (source, file) = (small_tree(&work), work.join("root.img"));
    write(&file, "precious");
    create(&source, &file).expect_code(3).expect_stderr("--force");
    assert_eq!(fs::read(&file).expect("read"), b"precious");
    let forced = image([OsStr::new("create"), OsStr::new("--force"), source.as_os_str(), file.as_os_str()]);
    forced.expect_code(0);
    list(&file).expect_code(0);
    assert_eq!(fs::metadata(&file).expect("stat").permissions().mode() & 0o7777, 0o600);
}

#[test]
fn an_image_is_no_part_of_itself() {
    let work = Workdir::new("image-inside");
    let source = small_tree(&work);
    let file = source.join("var/root.img");
    create(&source, &file).expect_code(3).expect_stderr("would be part of itself");
    assert!(!file.exists() && !source.join("var/root.img.partial").exists());
    let excluded = ["create", "--exclude", "/var/root.img*"].map(OsStr::new);
    image(excluded.into_iter().chain([source.as_os_str(), file.as_os_str()])).expect_code(0);
    restore(&file, &work.join("copy")).expect_code(0);
    assert!(work.join("copy/var/data").exists() && !work.join("copy/var/root.img").exists());
}

#[test]
fn the_name_that_an_image_uses_itself_is_left_out_and_told() {
    let work = Workdir::new("image-own");
    let (source, file) = (small_tree(&work), work.join("root.img"));
    write(&source.join(".clonetool-image/manifest"), "of another image");
    create(&source, &file).expect_code(4).expect_stderr("/.clonetool-image");
    let excluded = ["create", "--force", "--exclude", "/.clonetool-image"].map(OsStr::new);
    image(excluded.into_iter().chain([source.as_os_str(), file.as_os_str()])).expect_code(0);
}

#[test]
fn only_what_is_in_scope_is_in_an_image() {
    let work = Workdir::new("image-scope");
    let (source, file) = (small_tree(&work), work.join("root.img"));
    mount::tmpfs(&source.join("srv"), "size=1m");
    write(&source.join("srv/other-filesystem"), "");
    let words = ["create", "-x", "--exclude", "/var/"].map(OsStr::new);
    image(words.into_iter().chain([source.as_os_str(), file.as_os_str()])).expect_code(0);
    let listed = image([OsStr::new("list"), OsStr::new("--json"), OsStr::new("--files"), file.as_os_str()]);
    let objects = listed.expect_code(0).objects();
    let paths: Vec<_> = objects.iter().filter_map(|object| object["path"].as_str()).collect();
    assert_eq!(paths, ["/", "/etc", "/etc/motd", "/srv"]);
    let summary = objects.last().expect("a summary");
    assert_eq!((&summary["entries"], &summary["one_file_system"]), (&Value::from(4), &Value::from(true)));
}

#[test]
fn a_destination_that_holds_anything_is_refused() {
    let work = Workdir::new("image-not-empty");
    let (source, file) = (small_tree(&work), work.join("root.img"));
    create(&source, &file).expect_code(0);
    let full = work.make("full");
    write(&full.join("precious"), "");
    restore(&file, &full).expect_code(3).expect_stderr("it holds /precious");
    assert_eq!(fs::read_dir(&full).expect("list").count(), 1);
    // A new filesystem has lost+found; others mounted in it take part when they are empty, too.
    let fresh = work.join("fresh");
    mount::loop_image(&work.join("disk"), "ext4", 16 << 20, &fresh);
    mount::tmpfs(&fresh.join("var"), "size=4m");
    restore(&file, &fresh).expect_code(0);
    assert_eq!(fs::read(fresh.join("var/data")).expect("read"), noise(1, 300_000));
    assert!(fresh.join("lost+found").is_dir());
    run("mountpoint", ["-q", fresh.join("var").to_str().expect("a path")]);
    let other = work.make("other");
    mount::tmpfs(&other.join("var"), "size=4m");
    write(&other.join("var/precious"), "");
    restore(&file, &other).expect_code(3).expect_stderr("it holds /var/precious");
}

#[test]
fn what_has_no_meaning_for_an_image_is_refused() {
    let work = Workdir::new("image-usage");
    let (source, file) = (small_tree(&work), work.join("root.img"));
    let (source, file) = (source.to_str().expect("a path"), file.to_str().expect("a path"));
    for options in [&["--itemize"][..], &["--compress", "3"], &["--bwlimit", "1M"], &["--port", "22"]] {
        let words = ["create"].into_iter().chain(options.iter().copied()).chain([source, file]);
        image(words).expect_code(2);
    }
    image(["create", source, "host:/root.img"]).expect_code(2).expect_stderr("on this host");
    image(["create", "--json", source, "-"]).expect_code(2).expect_stderr("standard output is taken");
    image(["restore", file, source]).expect_one_of(&[1, 3]);
    assert!(!Path::new(file).exists());
}
