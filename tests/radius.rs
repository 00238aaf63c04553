//! How much a run may delete: what is refused, what lifts the limit for one run, and what does not count.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::plant::write;
use crate::common::{CLONETOOL, Output, Workdir, clonetool};

const PROFILE: &str = "description = \"limited\"\n[rules]\ninclude = [\"/\"]\n[delete]\nenabled = true\n";

struct Pair {
    dir: Workdir,
    source: PathBuf,
    standby: PathBuf,
    profile: PathBuf,
}

impl Pair {
    /// A source with what `plant` makes, and a standby that is like it.
    fn new(name: &str, plant: impl Fn(&Path)) -> Self {
        let dir = Workdir::new(name);
        let (source, standby, profile) = (dir.make("source"), dir.make("standby"), dir.join("daily.toml"));
        write(&profile, PROFILE);
        fs::create_dir_all(source.join("var/lib")).unwrap();
        plant(&source);
        let pair = Self { dir, source, standby, profile };
        pair.run("sync", &[]).expect_code(0);
        pair
    }

    fn run(&self, command: &str, more: &[&str]) -> Output {
        let text = |path: &Path| path.display().to_string();
        let (profile, source, standby) = (text(&self.profile), text(&self.source), text(&self.standby));
        let always = [command, &profile, "--source", &source, "--destination", &standby];
        clonetool(always.iter().chain(more))
    }
}

fn files(dir: &Path, count: usize) {
    fs::create_dir_all(dir).unwrap();
    (0..count).for_each(|number| write(&dir.join(format!("file-{number}")), format!("{number}\n")));
}

fn present(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn a_plan_that_deletes_much_is_refused_until_it_was_read() {
    let pair = Pair::new("radius-refused", |root| files(&root.join("srv/data"), 1000));
    for number in 0..600 {
        fs::remove_file(pair.source.join(format!("srv/data/file-{number}"))).unwrap();
    }
    let refused = pair.run("sync", &[]).expect_code(3);
    assert!(refused.stderr.contains("deletes 600 entries, 600 of 1002 in /srv"), "{}", refused.describe());
    assert_eq!(present(&pair.standby.join("srv/data")), 1000);
    let planned = pair.run("plan", &["--json"]).expect_code(0);
    let id = planned.summary()["plan"].as_str().unwrap().to_owned();
    assert!(refused.stderr.contains(&format!("--approve {id}")), "{}", refused.describe());
    // What was approved is that plan and no other.
    write(&pair.source.join("srv/new"), "new\n");
    pair.run("sync", &["--approve", &id]).expect_code(3).expect_stderr("something changed since it was read");
    fs::remove_file(pair.source.join("srv/new")).unwrap();
    let planned = pair.run("plan", &["--json"]).expect_code(0);
    let id = planned.summary()["plan"].as_str().unwrap().to_owned();
    pair.run("sync", &["--approve", &id]).expect_code(0);
    assert_eq!(present(&pair.standby.join("srv/data")), 400);
}

#[test]
fn a_plan_says_for_what_its_run_would_be_refused_whichever_end_asks() {
    let pair = Pair::new("radius-foretold", |root| files(&root.join("srv/data"), 1000));
    for number in 0..600 {
        fs::remove_file(pair.source.join(format!("srv/data/file-{number}"))).unwrap();
    }
    let told = "warning: a run would be refused: the plan deletes 600 entries, 600 of 1002 in /srv";
    pair.run("plan", &[]).expect_code(0).expect_stderr(told);
    let here = |path: &Path| path.display().to_string();
    let there = |path: &Path| format!("peer:{}", path.display());
    let by_path = pair.dir.join("by-path.toml");
    write(&by_path, format!("{PROFILE}[commit]\nmode = \"file\"\n"));
    let (profile, by_path, shell) = (here(&pair.profile), here(&by_path), here(&pair.dir.remote_shell()));
    for (profile, source, standby) in [
        (&profile, here(&pair.source), there(&pair.standby)),
        (&profile, there(&pair.source), here(&pair.standby)),
        (&by_path, here(&pair.source), there(&pair.standby)),
    ] {
        let ends = ["--source", &source, "--destination", &standby, "-e", &shell, "--remote-path", CLONETOOL];
        clonetool(["plan", profile].iter().chain(&ends)).expect_code(0).expect_stderr(told);
        let compared = clonetool(["verify", "--profile", profile].iter().chain(&ends)).expect_code(5);
        assert_eq!(compared.stderr, "", "nobody asked what a run would do: {}", compared.describe());
    }
    let allowed = pair.run("sync", &["--dry-run", "--allow-deletes", "600"]).expect_code(0);
    assert!(!allowed.stderr.contains("would be refused"), "{}", allowed.describe());
}

#[test]
fn a_limit_can_be_lifted_for_one_run() {
    let pair = Pair::new("radius-allowed", |root| files(&root.join("srv/data"), 800));
    fs::remove_dir_all(pair.source.join("srv/data")).unwrap();
    pair.run("sync", &["--allow-deletes", "800"]).expect_code(3);
    pair.run("sync", &["--allow-deletes", "801"]).expect_code(0);
    assert!(!pair.standby.join("srv/data").exists());
}

#[test]
fn few_deletions_and_a_small_part_of_a_directory_are_nothing_special() {
    let pair = Pair::new("radius-few", |root| {
        files(&root.join("srv/few"), 500);
        (0..11).for_each(|number| files(&root.join(format!("home/{number}")), 1000));
    });
    for number in 0..500 {
        fs::remove_file(pair.source.join(format!("srv/few/file-{number}"))).unwrap();
    }
    pair.run("sync", &[]).expect_code(0);
    for number in 0..540 {
        fs::remove_file(pair.source.join(format!("home/3/file-{number}"))).unwrap();
    }
    pair.run("sync", &[]).expect_code(0);
    assert_eq!(present(&pair.standby.join("home/3")), 460);
}

#[test]
fn what_only_moves_is_no_deletion() {
    let pair = Pair::new("radius-moved", |root| files(&root.join("srv/old"), 700));
    fs::rename(pair.source.join("srv/old"), pair.source.join("srv/new")).unwrap();
    pair.run("sync", &[]).expect_code(0);
    assert_eq!(present(&pair.standby.join("srv/new")), 700);
}

#[test]
fn what_the_package_manager_removed_does_not_count() {
    let plant = |root: &Path| {
        files(&root.join("usr/share/large"), 700);
        let names = (0..700).map(|number| format!("/usr/share/large/file-{number}\n")).collect::<String>();
        fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
        write(&root.join("var/lib/dpkg/info/large.list"), format!("/.\n/usr\n{names}/usr/share/large\n"));
    };
    let pair = Pair::new("radius-package", plant);
    fs::remove_dir_all(pair.source.join("usr/share/large")).unwrap();
    // Files alone are gone: that is no package manager's doing.
    pair.run("sync", &[]).expect_code(3);
    fs::remove_file(pair.source.join("var/lib/dpkg/info/large.list")).unwrap();
    pair.run("sync", &[]).expect_code(0);
    assert!(!pair.standby.join("usr/share/large").exists());
}

#[test]
fn a_kernel_may_go_while_another_one_stays() {
    let plant = |root: &Path| {
        for release in ["6.1-a", "6.1-b"] {
            files(&root.join(format!("usr/lib/modules/{release}")), 600);
            fs::create_dir_all(root.join("boot")).unwrap();
            write(&root.join(format!("boot/vmlinuz-{release}")), release);
        }
    };
    let remove = |root: &Path, release: &str| {
        fs::remove_file(root.join(format!("boot/vmlinuz-{release}"))).unwrap();
        fs::remove_dir_all(root.join(format!("usr/lib/modules/{release}"))).unwrap();
    };
    let pair = Pair::new("radius-kernel", plant);
    remove(&pair.source, "6.1-a");
    pair.run("sync", &[]).expect_code(0);
    assert!(!pair.standby.join("usr/lib/modules/6.1-a").exists());
    remove(&pair.source, "6.1-b");
    pair.run("sync", &[]).expect_code(3);
    assert!(pair.standby.join("boot/vmlinuz-6.1-b").exists());
}

#[test]
fn files_that_become_directories_are_counted_apart() {
    let pair = Pair::new("radius-replaced", |root| files(&root.join("srv/data"), 600));
    for number in 0..600 {
        let path = pair.source.join(format!("srv/data/file-{number}"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    let refused = pair.run("sync", &[]).expect_code(3);
    assert!(
        refused.stderr.contains("replaces 600 entries by something of another kind"),
        "{}",
        refused.describe()
    );
}
