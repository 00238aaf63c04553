//! A standby that lies: it answers as an agent does, and with its own rules reaches for what the source keeps to
//! itself. A standby may take away from what is sent to it, never add.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use syncore::delta::BlockSums;
use syncore::monitor::Silent;
use syncore::plan::{Line, Listed, Plan};
use syncore::profile::{Profile, shipped};
use syncore::rules::{Action, Class, Origin, Rule};
use syncore::session::{Approval, Job, Location, Options, run};
use syncore::tree::{Entry, Kind, NameKey};
use syncore::wire::{
    Answer, ByteStream, CONTROL, Compression, Connection, Facts, Message, Question, Remote, TransportKind,
};

fn rule(action: Action, pattern: &str) -> Rule {
    let origin = Origin { file: "test".to_owned(), line: 1 };
    Rule::new(action, pattern, origin)
}

fn daily() -> Vec<Rule> {
    let (name, text) = shipped().iter().find(|(name, _)| *name == "linux-daily").unwrap();
    Profile::parse(name, text, &|_| None).unwrap().rules()
}

/// A remote shell that carries bytes from and to two FIFOs, at whose other ends this process plays the agent.
fn shell(directory: &Path) -> Remote {
    let (said, heard) = (directory.join("said"), directory.join("heard"));
    for fifo in [&said, &heard] {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }
    let script = directory.join("shell");
    fs::write(&script, format!("cat {} &\nexec cat > {}\n", said.display(), heard.display())).unwrap();
    Remote {
        host: "standby".to_owned(),
        user: None,
        port: None,
        identity: None,
        known_hosts: None,
        remote_shell: Some(vec!["sh".to_owned(), script.display().to_string()]),
        remote_path: None,
        transport: TransportKind::default(),
        connect_timeout: Duration::from_secs(20),
        home: None,
        agent_socket: None,
    }
}

/// Answers, and says what it wants when the plan is there, until the other end hangs up.
fn play(
    directory: &Path,
    rules: &[Rule],
    answer: fn(&Question, NameKey) -> Message,
    planned: fn() -> Vec<Message>,
) {
    let writer = File::options().write(true).open(directory.join("said")).unwrap();
    let reader = File::open(directory.join("heard")).unwrap();
    let stream = ByteStream {
        reader: Box::new(reader),
        writer: Box::new(writer),
        finish: Box::new(|| None),
        abort: std::sync::Arc::new(|| ()),
    };
    let mut peer = Connection::over(stream, Compression::Off, None, Duration::from_secs(20)).unwrap();
    let mut names = NameKey::default();
    while let Ok(message) = peer.lanes[0].receive(&Silent) {
        let answers = match message {
            Message::Open(_) => vec![Message::Opened(Facts {
                root: b"/standby".to_vec(),
                boot_id: b"another host".to_vec(),
                mounts: Vec::new(),
                rules: rules.to_vec(),
                standby: false,
                empty: false,
                recovered: None,
            })],
            Message::Start(start) => {
                names = start.names;
                vec![Message::Scanned { digest: [1; 16], entries: 0, protected: 0 }]
            }
            Message::Ask(questions) => questions.iter().map(|question| answer(question, names)).collect(),
            Message::PlanEnd { .. } => planned(),
            _ => Vec::new(),
        };
        for answer in answers {
            if peer.outgoing.send(CONTROL, answer).is_err() {
                return;
            }
        }
    }
}

/// An empty root and nothing else.
fn nothing(question: &Question, names: NameKey) -> Message {
    let answer = match question {
        Question::Lines(path) if path.is_root() => {
            Answer::Lines(vec![Line::new(names.hash(b""), &[0; 16], None, None)])
        }
        Question::Entries(path, _) if path.is_root() => {
            let entry = Entry { mode: 0o700, ..Entry::new(Kind::Directory) };
            let name = Vec::new();
            Answer::Entries(vec![Listed { name, in_scope: true, entered: true, entry, inode: 0, links: 2 }])
        }
        _ => Answer::Gone,
    };
    Message::Answer(answer, false)
}

/// The paths that would be sent to a standby with rules of its own, which are `theirs`.
fn planned(source: PathBuf, ours: Vec<Rule>, theirs: Vec<Rule>) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let remote = shell(directory.path());
    let path = directory.path().to_owned();
    let peer = std::thread::spawn(move || play(&path, &theirs, nothing, Vec::new));
    let job = Job {
        source: Location::Local(source),
        destination: Location::Remote(Box::new(remote), PathBuf::from("/standby")),
        rules: ours,
        options: Options { timeout: Duration::from_secs(20), ..Options::default() },
    };
    let mut paths = None;
    let mut approve = |plan: &Plan| {
        paths = Some(plan.items().map(|item| item.path.to_string()).collect());
        Approval::Refuse("seen".to_owned())
    };
    let result = run(&job, &mut approve, &Silent);
    let paths = paths.unwrap_or_else(|| panic!("no plan: {result:?}"));
    peer.join().unwrap();
    paths
}

fn source() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for name in ["plain", "secret", "hidden/file", "guarded", "etc/hostname", "etc/motd", "etc/machine-id"] {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "content").unwrap();
    }
    root
}

#[test]
fn a_standby_cannot_ask_for_what_the_source_does_not_send() {
    let ours = vec![
        rule(Action::Exclude, "/secret"),
        rule(Action::Exclude, "/hidden/"),
        rule(Action::Protect, "/guarded"),
    ];
    let source = source();
    let reaching = |action: Action| {
        let patterns = ["/secret", "/hidden/", "/hidden/file", "/hidden/**", "/guarded"];
        patterns.map(|pattern| rule(action, pattern)).to_vec()
    };
    let everything = vec![rule(Action::Include, "/**")];
    for theirs in [Vec::new(), reaching(Action::Include), reaching(Action::Class(Class::S)), everything] {
        let paths = planned(source.path().to_owned(), ours.clone(), theirs.clone());
        assert!(paths.contains(&"/plain".to_owned()), "{theirs:?}: {paths:?}");
        for kept in ["/secret", "/hidden", "/hidden/file", "/guarded"] {
            assert!(!paths.contains(&kept.to_owned()), "{theirs:?}: {kept} would be sent");
        }
    }
}

#[test]
fn a_standby_cannot_ask_for_the_identity_of_the_source() {
    let source = source();
    let identity = ["/etc/hostname", "/etc/machine-id"];
    for action in [Action::Include, Action::Class(Class::S)] {
        let theirs = identity.map(|pattern| rule(action, pattern)).to_vec();
        let paths = planned(source.path().to_owned(), daily(), theirs);
        assert!(paths.contains(&"/etc/motd".to_owned()), "{action}: {paths:?}");
        for kept in identity {
            assert!(!paths.contains(&kept.to_owned()), "{action}: {kept} would be sent");
        }
    }
}

#[test]
fn a_standby_may_take_away() {
    let source = source();
    let theirs = vec![rule(Action::Protect, "/secret"), rule(Action::Protect, "/hidden/")];
    let paths = planned(source.path().to_owned(), Vec::new(), theirs);
    assert!(paths.contains(&"/plain".to_owned()), "{paths:?}");
    for kept in ["/secret", "/hidden", "/hidden/file"] {
        assert!(!paths.contains(&kept.to_owned()), "{kept} would be sent");
    }
}

/// Why a run ends whose standby is played so: with these answers, and these messages when the plan is there.
fn ended(answer: fn(&Question, NameKey) -> Message, planned: fn() -> Vec<Message>) -> String {
    let source = source();
    let directory = tempfile::tempdir().unwrap();
    let remote = shell(directory.path());
    let path = directory.path().to_owned();
    let peer = std::thread::spawn(move || play(&path, &[], answer, planned));
    let job = Job {
        source: Location::Local(source.path().to_owned()),
        destination: Location::Remote(Box::new(remote), PathBuf::from("/standby")),
        rules: Vec::new(),
        options: Options { timeout: Duration::from_secs(20), ..Options::default() },
    };
    let error = run(&job, &mut |_| Approval::Run, &Silent).unwrap_err().to_string();
    peer.join().unwrap();
    error
}

#[test]
fn an_answer_without_end_ends_the_run() {
    // Two buckets are announced, and more come than any directory of that many could have.
    let error = ended(|_, _| Message::Answer(Answer::Buckets(1, vec![[0; 8]; 1000]), true), Vec::new);
    assert!(error.contains("more buckets than were announced"), "{error}");
}

#[test]
fn bases_that_are_begun_and_never_ended_end_the_run() {
    let begun = || {
        let bases = (0..100).map(|number| Message::Basis(number, BlockSums::default(), true));
        [Message::Decision(true)].into_iter().chain(bases).collect()
    };
    let error = ended(nothing, begun);
    assert!(error.contains("too many bases at once"), "{error}");
}
