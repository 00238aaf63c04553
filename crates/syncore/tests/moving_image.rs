//! Trees that move while an image of them is made. The monitor's own call-backs are the hooks, so nothing here waits or
//! races.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use syncore::image::{CreateOptions, Done, ImageError, ImageFile, create, list, restore};
use syncore::monitor::{Monitor, Silent};
use syncore::session::{Location, SessionError};
use syncore::tree::RelPath;

/// More than is read at once before anything is said of a file.
const LARGE_BYTES: usize = 20 << 20;

/// Calls a function once, when it is asked for the `when`th time whether to stop.
struct Meanwhile<F: Fn() -> bool + Send + Sync> {
    asked: AtomicUsize,
    when: usize,
    function: F,
}

impl<F: Fn() -> bool + Send + Sync> Monitor for Meanwhile<F> {
    fn cancelled(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed) == self.when && (self.function)()
    }
}

/// Makes an image of a tree with one large file, while `function` is called in the middle of it.
fn image_while(base: &Path, function: impl Fn() -> bool + Send + Sync) -> Result<Done, ImageError> {
    let source = base.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), content()).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    let monitor = Meanwhile { asked: AtomicUsize::new(0), when: 20, function };
    let file = ImageFile::Path(base.join("image"));
    create(&Location::Local(source), &file, &CreateOptions::default(), &monitor)
}

fn content() -> Vec<u8> {
    (0..=255).cycle().take(LARGE_BYTES).collect()
}

fn restored(base: &Path) -> Done {
    let file = ImageFile::Path(base.join("image"));
    let to = Location::Local(base.join("copy"));
    restore(&file, &to, false, Duration::from_secs(60), &Silent).unwrap()
}

#[test]
fn a_log_that_grows_is_taken_as_long_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let large = temp.path().join("source/large");
    let done = image_while(temp.path(), || {
        OpenOptions::new().append(true).open(&large).unwrap().write_all(b"more").unwrap();
        false
    })
    .unwrap();
    assert!(done.problems.is_empty() && done.contents.torn.is_empty(), "{done:?}");
    restored(temp.path());
    assert!(fs::read(temp.path().join("copy/large")).unwrap() == content());
}

#[test]
fn a_file_that_is_rewritten_is_a_problem_here_and_wherever_the_image_is_used() {
    for shorter in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let large = temp.path().join("source/large");
        let done = image_while(temp.path(), || {
            let file = OpenOptions::new().write(true).open(&large).unwrap();
            match shorter {
                true => file.set_len(6_000_000).unwrap(),
                false => file.write_all_at(b"elsewhere", 100).unwrap(),
            }
            false
        })
        .unwrap();
        let torn = [RelPath::new("large").unwrap()];
        assert_eq!(done.contents.torn, torn, "shorter: {shorter}");
        assert!(done.problems.len() == 1 && done.problems[0].path == torn[0], "{done:?}");
        // The archive around it is whole, and what it has of the file is as long as was said.
        let listed = list(&ImageFile::Path(temp.path().join("image")), &mut |_, _, _| (), &Silent).unwrap();
        assert_eq!(listed.contents, done.contents);
        assert!(restored(temp.path()).problems.iter().any(|problem| problem.path == torn[0]));
        assert_eq!(fs::metadata(temp.path().join("copy/large")).unwrap().len(), LARGE_BYTES as u64);
        assert_eq!(fs::read(temp.path().join("copy/small")).unwrap(), b"small");
    }
}

#[test]
fn a_run_that_is_told_to_stop_leaves_no_image() {
    let temp = tempfile::tempdir().unwrap();
    let stopped = image_while(temp.path(), || true);
    assert!(matches!(stopped, Err(ImageError::Session(SessionError::Cancelled))), "{stopped:?}");
    let left: Vec<_> = fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["source"]);
}
