//! A sender that lies: it speaks the protocol perfectly and plans what it must not. The standby, not the sender,
//! decides what may change on the standby.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use syncore::monitor::Silent;
use syncore::plan::{Change, Item, Plan};
use syncore::prepare::{Journal, STATE_DIRECTORY};
use syncore::profile::{Profile, shipped};
use syncore::rules::{Action, Class, Origin, Rule};
use syncore::session::{AgentLimits, serve};
use syncore::tree::{Attributes, Entry, Kind, RelPath};
use syncore::wire::{CONTROL, Compression, Connection, Failure, Message, Open, Part, SmallFile, Start, pair};

const IDENTITY: [(&str, &str); 6] = [
    ("etc/hostname", "standby\n"),
    ("etc/fstab", "UUID=standby / ext4 defaults 0 1\n"),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("etc/ssh/ssh_host_ed25519_key", "the standby's key\n"),
    ("etc/network/interfaces", "iface eth0 inet static\n"),
    ("etc/clonetool/standby.toml", "extends = [\"linux\"]\nprotect = [\"/srv/local/\"]\n"),
];

fn standby() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in IDENTITY {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    std::fs::create_dir_all(root.path().join("srv/local")).unwrap();
    std::fs::write(root.path().join("srv/local/own"), "own").unwrap();
    std::fs::write(root.path().join("ordinary"), "old").unwrap();
    root
}

fn daily() -> Vec<Rule> {
    let (name, text) = shipped().iter().find(|(name, _)| *name == "linux-daily").unwrap();
    Profile::parse(name, text, &|_| None).unwrap().rules()
}

/// Rules by which everything would be plain sync, literally.
fn overruling() -> Vec<Rule> {
    let origin = Origin { file: "sender".to_owned(), line: 1 };
    let row = |(path, _): (&str, &str)| Rule {
        action: Action::Class(Class::S),
        pattern: format!("/{path}").into_bytes(),
        origin: origin.clone(),
        treatment: Default::default(),
    };
    daily().into_iter().chain(IDENTITY.map(row)).collect()
}

fn item(path: &str, change: Change, kind: Kind) -> Item {
    let entry = Entry { mode: 0o600, size_bytes: 3, ..Entry::new(kind) };
    Item { path: RelPath::new(path).unwrap(), change, entry, link_to: None, moved_from: None }
}

/// Plans `items` under `rules` against the agent serving `root`; gives its answer to the plan.
fn attack(root: &Path, rules: Vec<Rule>, items: &[Item]) -> Message {
    let (here, there) = pair().unwrap();
    let agent =
        std::thread::spawn(move || serve(there.reader, there.writer, &AgentLimits::default(), &Silent));
    let mut sender = Connection::over(here, Compression::Off, None, Duration::from_secs(20)).unwrap();
    let root = root.as_os_str().as_bytes().to_vec();
    let mut say = |message| sender.outgoing.send(CONTROL, message).unwrap();
    say(Message::Open(Open { part: Part::Receiver, root, dry_run: false }));
    say(Message::Start(Start {
        rules,
        boundaries: syncore::scan::Boundaries::default(),
        checksum: false,
        slice: None,
        delete: true,
        durable: false,
        in_place: false,
        whole: None,
        limits: None,
        approved: None,
        delta: false,
        names: syncore::tree::NameKey::default(),
    }));
    let mut plan = Plan::default();
    items.iter().for_each(|item| plan.push(item).unwrap());
    for piece in plan.pieces(1000) {
        say(Message::PlanPart(piece.to_vec()));
    }
    say(Message::PlanEnd { id: plan.id(), entries: 1, tree: [0; 16] });
    let answer = loop {
        match sender.lanes[0].receive(&Silent).unwrap() {
            Message::Opened(_) | Message::Scanned { .. } | Message::Problems(_) => {}
            answer => break answer,
        }
    };
    if answer == Message::Decision(true) {
        // Only an honest plan comes so far: its one file is sent.
        let content = b"new".to_vec();
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&content).as_bytes()[..16]);
        let file = SmallFile { item: 0, mtime: items[0].entry.mtime, hash, content };
        sender.outgoing.send(1, Message::Files(vec![file])).unwrap();
        assert_eq!(sender.lanes[0].receive(&Silent).unwrap(), Message::Settled);
        for lane in [1, 2, CONTROL] {
            sender.outgoing.send(lane, Message::LaneEnd).unwrap();
        }
        while !matches!(sender.lanes[0].receive(&Silent).unwrap(), Message::Finished { .. }) {}
    }
    sender.close();
    let _ = agent.join().unwrap();
    answer
}

fn update(path: &str) -> Item {
    item(path, Change::Update(Attributes::CONTENT), Kind::File)
}

#[test]
fn no_plan_reaches_what_belongs_to_the_standby() {
    let linked = Item { link_to: Some(RelPath::new("etc/hostname").unwrap()), ..update("ordinary") };
    let moved = Item {
        moved_from: Some(RelPath::new("etc/hostname").unwrap()),
        ..item("elsewhere", Change::Create, Kind::File)
    };
    let hostile: Vec<(&str, Vec<Item>)> = vec![
        ("hostname", vec![update("etc/hostname")]),
        ("fstab", vec![update("etc/fstab")]),
        ("machine-id", vec![update("etc/machine-id")]),
        ("host key", vec![update("etc/ssh/ssh_host_ed25519_key")]),
        ("network", vec![update("etc/network/interfaces")]),
        ("its own protections", vec![update("etc/clonetool/standby.toml")]),
        ("a locally protected file", vec![update("srv/local/own")]),
        ("a new file in a protected directory", vec![item("srv/local/new", Change::Create, Kind::File)]),
        ("deletion", vec![item("etc/hostname", Change::Delete(Kind::File), Kind::File)]),
        (
            "deletion of a protected directory",
            vec![item("srv/local", Change::Delete(Kind::Directory), Kind::Directory)],
        ),
        ("replacement", vec![item("etc/hostname", Change::Replace(Kind::File), Kind::Symlink)]),
        ("a link to it", vec![linked]),
        ("a move of it", vec![moved]),
        ("hidden behind something honest", vec![update("etc/hostname"), update("ordinary")]),
    ];
    for (what, items) in hostile {
        // Whether the sender admits to the rules or leaves them out makes no difference.
        for rules in [daily(), Vec::new(), overruling()] {
            let root = standby();
            let answer = attack(root.path(), rules, &items);
            assert!(matches!(&answer, Message::Failed(Failure::Failed, _)), "{what}: {answer:?}");
            for (path, content) in IDENTITY {
                assert_eq!(std::fs::read_to_string(root.path().join(path)).unwrap(), content, "{what}");
            }
            assert_eq!(std::fs::read(root.path().join("srv/local/own")).unwrap(), b"own", "{what}");
            assert_eq!(std::fs::read(root.path().join("ordinary")).unwrap(), b"old", "{what}");
        }
    }
}

#[test]
fn no_plan_takes_away_a_file_in_which_something_is_the_standbys_own() {
    let moved = Item {
        moved_from: Some(RelPath::new("etc/fstab").unwrap()),
        ..item("elsewhere", Change::Create, Kind::File)
    };
    let hostile = [
        ("deletion", item("etc/fstab", Change::Delete(Kind::File), Kind::File)),
        ("replacement", item("etc/fstab", Change::Replace(Kind::File), Kind::Symlink)),
        ("a move of it", moved),
    ];
    for (what, item) in hostile {
        for rules in [daily(), Vec::new(), overruling()] {
            let root = standby();
            // Without its own file; what makes it a standby is that it was prepared.
            std::fs::remove_file(root.path().join("etc/clonetool/standby.toml")).unwrap();
            let journal = Journal { hostname: "standby".into(), complete: true, ..Journal::default() };
            let state = root.path().join(STATE_DIRECTORY);
            std::fs::create_dir_all(&state).unwrap();
            std::fs::write(state.join("journal.json"), serde_json::to_vec(&journal).unwrap()).unwrap();
            let answer = attack(root.path(), rules, std::slice::from_ref(&item));
            assert!(matches!(&answer, Message::Failed(Failure::Failed, _)), "{what}: {answer:?}");
            assert_eq!(
                std::fs::read_to_string(root.path().join("etc/fstab")).unwrap(),
                IDENTITY[1].1,
                "{what}"
            );
        }
    }
}

#[test]
fn an_honest_plan_by_the_same_means_is_carried_out() {
    let root = standby();
    assert_eq!(attack(root.path(), daily(), &[update("ordinary")]), Message::Decision(true));
    assert_eq!(std::fs::read(root.path().join("ordinary")).unwrap(), b"new");
}

#[test]
fn a_link_planted_by_the_sender_leads_nowhere() {
    let root = standby();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("way-out")).unwrap();
    attack(root.path(), daily(), &[item("way-out/new", Change::Create, Kind::File)]);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}
