//! A sender that does not keep to the conversation: it goes on where it must stop, stops where it must go on, and
//! says of the standby's inodes what is not so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use syncore::delta::Region;
use syncore::monitor::Silent;
use syncore::plan::{Change, Item, Plan};
use syncore::rules::{Action, Origin, Rule};
use syncore::session::{AgentLimits, serve};
use syncore::tree::{Attributes, Entry, Kind, LinkGroup, RelPath, Timestamp};
use syncore::wire::{
    CONTENT_LANES, CONTROL, Compression, Connection, Message, Open, Part, SmallFile, Start, pair,
};

const NEW: &[u8] = b"new";

/// A standby with an ordinary file.
fn standby() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("ordinary"), "old").unwrap();
    root
}

fn item(path: &str, change: Change, kind: Kind) -> Item {
    let size_bytes = if kind == Kind::File { NEW.len() as u64 } else { 0 };
    let entry = Entry { mode: 0o600, size_bytes, ..Entry::new(kind) };
    Item { path: RelPath::new(path).unwrap(), change, entry, link_to: None, moved_from: None }
}

fn update(path: &str) -> Item {
    item(path, Change::Update(Attributes::CONTENT), Kind::File)
}

fn small(item: u32, content: &[u8]) -> Message {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(content).as_bytes()[..16]);
    let mtime = Timestamp { seconds: 1, nanoseconds: 0 };
    Message::Files(vec![SmallFile { item, mtime, hash, content: content.to_vec() }])
}

/// Everything that such a sender says.
struct Attack<'a> {
    limits: AgentLimits,
    dry_run: bool,
    in_place: bool,
    rules: Vec<Rule>,
    plan: &'a [Item],
    /// What follows the plan on the first content lane.
    content: Vec<Message>,
}

impl<'a> Attack<'a> {
    fn with(plan: &'a [Item], content: Vec<Message>) -> Self {
        let limits = AgentLimits::default();
        Self { limits, dry_run: false, in_place: false, rules: Vec::new(), plan, content }
    }

    /// Says it all without waiting for an answer, and gives what the agent serving `root` says to it.
    fn on(self, root: &Path) -> Vec<Message> {
        let (here, there) = pair().unwrap();
        let limits = self.limits;
        let agent = std::thread::spawn(move || serve(there.reader, there.writer, &limits, &Silent));
        let mut sender = Connection::over(here, Compression::Off, None, Duration::from_secs(20)).unwrap();
        let mut plan = Plan::default();
        self.plan.iter().for_each(|item| plan.push(item).unwrap());
        let mut said = vec![
            (
                CONTROL,
                Message::Open(Open {
                    part: Part::Receiver,
                    root: root.as_os_str().as_bytes().to_vec(),
                    dry_run: self.dry_run,
                }),
            ),
            (
                CONTROL,
                Message::Start(Start {
                    rules: self.rules,
                    boundaries: syncore::scan::Boundaries::default(),
                    checksum: false,
                    slice: None,
                    delete: true,
                    durable: false,
                    in_place: self.in_place,
                    whole: None,
                    limits: None,
                    approved: None,
                    delta: false,
                    names: syncore::tree::NameKey::default(),
                }),
            ),
        ];
        said.extend(plan.pieces(1000).map(|piece| (CONTROL, Message::PlanPart(piece.to_vec()))));
        said.push((CONTROL, Message::PlanEnd { id: plan.id(), entries: 1, tree: [0; 16] }));
        said.extend(self.content.into_iter().map(|message| (1, message)));
        said.extend((1..=CONTENT_LANES).map(|lane| (lane, Message::LaneEnd)));
        said.push((CONTROL, Message::LaneEnd));
        for (lane, message) in said {
            // An agent that has hung up is as good an answer as any.
            if sender.outgoing.send(lane, message).is_err() {
                break;
            }
        }
        let mut heard = Vec::new();
        while let Ok(message) = sender.lanes[0].receive(&Silent) {
            let last = matches!(message, Message::Finished { .. } | Message::Failed(..));
            heard.push(message);
            if last {
                break;
            }
        }
        sender.close();
        let _ = agent.join().unwrap();
        heard
    }
}

fn is_finished(heard: &[Message]) -> bool {
    heard.iter().any(|message| matches!(message, Message::Finished { .. }))
}

/// Whether the agent said that everything was done, and said of nothing that it was not.
fn is_success(heard: &[Message]) -> bool {
    is_finished(heard)
        && !heard.iter().any(|message| matches!(message, Message::Problems(p) if !p.is_empty()))
}

/// Names, modes, times, link counts and content of everything below `root`.
fn listing(root: &Path) -> Vec<(String, u32, i64, u64, Vec<u8>)> {
    let entries = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().map(|entry| {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        let content = if metadata.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
        let path = entry.path().strip_prefix(root).unwrap().display().to_string();
        (path, metadata.mode(), metadata.ctime_nsec(), metadata.nlink(), content)
    });
    entries.collect()
}

fn everything() -> Vec<Item> {
    vec![
        item("made", Change::Create, Kind::Directory),
        item("made/file", Change::Create, Kind::File),
        item("ordinary", Change::Update(Attributes::CONTENT | Attributes::MODE), Kind::File),
        item("zlink", Change::Create, Kind::Fifo),
        item("directory/inside", Change::Delete(Kind::File), Kind::File),
        item("directory", Change::Delete(Kind::Directory), Kind::Directory),
    ]
}

#[test]
fn a_sender_that_keeps_to_the_conversation_is_served() {
    let root = standby();
    let heard = Attack::with(&[update("ordinary")], vec![small(0, NEW)]).on(root.path());
    assert!(is_success(&heard), "{heard:?}");
    assert_eq!(fs::read(root.path().join("ordinary")).unwrap(), NEW);
}

#[test]
fn a_dry_run_that_is_carried_out_all_the_same_changes_nothing() {
    for read_only in [false, true] {
        let root = standby();
        fs::create_dir(root.path().join("directory")).unwrap();
        fs::write(root.path().join("directory/inside"), "stays").unwrap();
        let before = listing(root.path());
        let plan = everything();
        let limits = AgentLimits { read_only, ..AgentLimits::default() };
        let content = vec![small(1, NEW), small(2, NEW)];
        let attack = Attack { limits, dry_run: true, ..Attack::with(&plan, content) };
        let heard = attack.on(root.path());
        assert_eq!(listing(root.path()), before, "read-only: {read_only}: {heard:?}");
        assert!(!is_finished(&heard), "read-only: {read_only}: {heard:?}");
    }
}

#[test]
fn a_dry_run_that_is_carried_out_all_the_same_does_not_make_the_root() {
    for read_only in [false, true] {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("not-there");
        let plan = [item("file", Change::Create, Kind::File)];
        let limits = AgentLimits { read_only, ..AgentLimits::default() };
        let attack = Attack { limits, dry_run: true, ..Attack::with(&plan, vec![small(0, NEW)]) };
        let heard = attack.on(&root);
        assert!(!root.exists(), "read-only: {read_only}: {heard:?}");
        assert!(!is_finished(&heard), "read-only: {read_only}: {heard:?}");
    }
}

#[test]
fn an_agent_that_only_reads_takes_no_plan() {
    let root = standby();
    let before = listing(root.path());
    let plan = [update("ordinary")];
    let limits = AgentLimits { read_only: true, ..AgentLimits::default() };
    let heard = Attack { limits, ..Attack::with(&plan, vec![small(0, NEW)]) }.on(root.path());
    assert_eq!(listing(root.path()), before, "{heard:?}");
    assert!(!is_finished(&heard), "{heard:?}");
}

/// A sender may claim that all names of an inode are in its group; how many there are and which of them are protected
/// is for the standby to see.
#[test]
fn an_inode_with_a_protected_name_is_not_changed_through_another_name() {
    let protect = |pattern: &str| Rule {
        action: Action::Protect,
        pattern: pattern.as_bytes().to_vec(),
        origin: Origin { file: "test".to_owned(), line: 1 },
        treatment: Default::default(),
    };
    let attributes = [
        Attributes::MODE,
        Attributes::UID,
        Attributes::MTIME,
        Attributes::MODE | Attributes::UID | Attributes::MTIME | Attributes::LINKS,
        Attributes::CONTENT,
        Attributes::CONTENT | Attributes::MODE,
    ];
    for claimed in [None, Some(2), Some(3)] {
        for attributes in attributes {
            for in_place in [false, true] {
                let root = standby();
                let (own, other) = (root.path().join("own"), root.path().join("z"));
                fs::write(&own, "own").unwrap();
                fs::set_permissions(&own, fs::Permissions::from_mode(0o640)).unwrap();
                fs::hard_link(&own, &other).unwrap();
                let before = fs::metadata(&own).unwrap();
                let mut changed = item("z", Change::Update(attributes), Kind::File);
                changed.entry.mode = 0o4777;
                changed.entry.uid = 12345;
                changed.entry.links = claimed.map(|members| LinkGroup { key: [7; 16], members });
                let mut plan = vec![changed];
                let content = if plan[0].needs_content() { vec![small(0, NEW)] } else { Vec::new() };
                if claimed.is_some() {
                    // Another name of that group, as an honest sender would have one.
                    let mut link = item("zz", Change::Create, Kind::File);
                    link.entry = plan[0].entry.clone();
                    link.link_to = Some(plan[0].path.clone());
                    plan.push(link);
                }
                let rules = vec![protect("/own")];
                let attack = Attack { in_place, rules, ..Attack::with(&plan, content) };
                let heard = attack.on(root.path());
                let what = format!("{claimed:?} {attributes:?} in place: {in_place}: {heard:?}");
                let after = fs::metadata(&own).unwrap();
                let seen = |m: &fs::Metadata| (m.ino(), m.mode(), m.uid(), m.mtime(), m.mtime_nsec());
                assert_eq!(seen(&after), seen(&before), "{what}");
                assert_eq!(fs::read(&own).unwrap(), b"own", "{what}");
            }
        }
    }
}

fn region(offset: u64, length: u32) -> Region {
    Region { offset, length, by_page: true }
}

#[test]
fn questions_about_more_than_is_answered_at_once_end_the_run() {
    let begin = Message::Begin { item: 0, size_bytes: 3, mtime: Timestamp { seconds: 1, nanoseconds: 0 } };
    for (what, regions) in [
        ("too many", vec![region(0, 1); 257]),
        ("too long", vec![region(0, u32::MAX)]),
        ("too long together", vec![region(0, 4 << 20); 9]),
    ] {
        for by_page in [false, true] {
            let root = standby();
            let regions = regions.iter().map(|region| Region { by_page, ..*region }).collect();
            let content = vec![begin.clone(), Message::Refine(0, regions)];
            let heard = Attack::with(&[update("ordinary")], content).on(root.path());
            assert!(!is_finished(&heard), "{what}: {heard:?}");
            assert_eq!(fs::read(root.path().join("ordinary")).unwrap(), b"old", "{what}");
        }
    }
}

#[test]
fn content_of_impossible_length_is_no_success() {
    let begin =
        |size_bytes| Message::Begin { item: 0, size_bytes, mtime: Timestamp { seconds: 1, nanoseconds: 0 } };
    let nothing = || Message::End(*blake3::hash(b"").as_bytes());
    let attacks: Vec<(&str, Vec<Message>)> = vec![
        ("one hole", vec![begin(u64::MAX), Message::Hole(u64::MAX), nothing()]),
        (
            "past the end of numbers",
            vec![begin(u64::MAX), Message::Hole(u64::MAX), Message::Hole(1), nothing()],
        ),
        (
            "data past the end of numbers",
            vec![begin(u64::MAX), Message::Hole(u64::MAX), Message::Data(vec![1; 10]), nothing()],
        ),
        ("back to the start", vec![begin(0), Message::Hole(u64::MAX), Message::Hole(1), nothing()]),
        ("of which nothing comes", vec![begin(u64::MAX), nothing()]),
        ("copied", vec![begin(u64::MAX), Message::Copy(u64::MAX, u64::MAX), nothing()]),
        ("copied to the end", vec![begin(u64::MAX), Message::Copy(1, u64::MAX), nothing()]),
        (
            "patched",
            vec![begin(u64::MAX), Message::Patch(u64::MAX, u32::MAX, u32::MAX, vec![0; 4]), nothing()],
        ),
        ("asked of", vec![begin(u64::MAX), Message::Refine(0, vec![region(u64::MAX, 4 << 20)]), nothing()]),
    ];
    for (what, content) in attacks {
        for in_place in [false, true] {
            let root = standby();
            let plan = [update("ordinary")];
            let heard = Attack { in_place, ..Attack::with(&plan, content.clone()) }.on(root.path());
            assert!(!is_success(&heard), "{what}, in place: {in_place}: {heard:?}");
            if !in_place {
                assert_eq!(fs::read(root.path().join("ordinary")).unwrap(), b"old", "{what}");
            }
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "{what}: something is left behind");
        }
    }
}

#[test]
fn lanes_that_end_before_the_content_came_are_an_error() {
    let begin = Message::Begin { item: 0, size_bytes: 3, mtime: Timestamp { seconds: 1, nanoseconds: 0 } };
    let attacks: Vec<(&str, Vec<Message>)> = vec![
        ("nothing at all", Vec::new()),
        ("begun", vec![begin.clone()]),
        ("not ended", vec![begin, Message::Data(NEW.to_vec())]),
        ("one of two", vec![small(0, NEW)]),
    ];
    for (what, content) in attacks {
        let root = standby();
        fs::write(root.path().join("other"), "old").unwrap();
        fs::write(root.path().join("deleted"), "not while something is missing").unwrap();
        let plan =
            [update("ordinary"), update("other"), item("deleted", Change::Delete(Kind::File), Kind::File)];
        let heard = Attack::with(&plan, content).on(root.path());
        assert!(!is_finished(&heard), "{what}: {heard:?}");
        assert_eq!(fs::read(root.path().join("other")).unwrap(), b"old", "{what}");
        assert!(root.path().join("deleted").exists(), "{what}: deleted all the same");
    }
}

#[test]
fn content_that_nobody_asked_for_is_an_error() {
    let root = standby();
    let before = fs::metadata(root.path().join("ordinary")).unwrap().ino();
    let plan = [item("made", Change::Create, Kind::Directory), update("ordinary")];
    for content in [vec![small(0, NEW)], vec![small(7, NEW)], vec![Message::Abandon(7)]] {
        let heard = Attack::with(&plan, content).on(root.path());
        assert!(!is_finished(&heard), "{heard:?}");
        assert_eq!(fs::metadata(root.path().join("ordinary")).unwrap().ino(), before);
        let _ = fs::remove_dir(root.path().join("made"));
    }
}

/// Content that comes again must not count for content that never came.
#[test]
fn one_file_twice_is_not_two_files() {
    let root = standby();
    fs::write(root.path().join("other"), "old").unwrap();
    let plan = [update("ordinary"), update("other")];
    for content in [vec![small(0, NEW), small(0, NEW)], vec![Message::Abandon(0), Message::Abandon(0)]] {
        let heard = Attack::with(&plan, content).on(root.path());
        assert!(!is_finished(&heard), "{heard:?}");
        assert_eq!(fs::read(root.path().join("other")).unwrap(), b"old");
    }
}
