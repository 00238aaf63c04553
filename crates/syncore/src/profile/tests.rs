//! Profiles as people write them, right and wrong.

use super::*;

fn none(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Profile, ProfileError> {
    Profile::parse("my.toml", text, &none)
}

/// The message for a wrong profile.
fn wrong(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn reads_every_key() {
    let profile = parse(
        r#"
description = "mine"
[source]
root = "/export"
one-file-system = false
also = ["/export/var", "/home/"]
[standby]
address = "root@standby"
root = "/a"
transport = "ssh2"
[rules]
include = ["/"]
exclude = [
    "/etc/",
    "*.o",
]
protect = ["/srv/own"]
[delete]
enabled = true
[commit]
mode = "file"
keep-days = 14
max-space = "20GiB"
[schedule]
calendar = "*/5 * * * *"
rpo = "26h"
when-busy = "wait"
wait-limit = "45m"
[[row]]
path = "/x"
class = "D"
what = "scratch"
source = "x(1)"
"#,
    )
    .unwrap();
    assert_eq!(profile.source.root.to_str(), Some("/export"));
    assert!(!profile.source.one_file_system);
    assert_eq!(profile.source.also[1], RelPath::new("home").unwrap());
    assert_eq!(profile.standby.address.as_deref(), Some("root@standby"));
    assert_eq!(profile.standby.transport, Transport::Ssh2);
    assert!(profile.delete.enabled);
    assert_eq!(profile.schedule.rpo, Some(Duration::from_secs(26 * 3600)));
    let keep = Keep { generations: 3, max_age_seconds: Some(14 * 86_400), max_bytes: Some(20 << 30) };
    assert_eq!(profile.commit.keep, keep);
    assert_eq!(profile.schedule.patience(), Duration::from_secs(45 * 60));
    let rules = profile.rules();
    let lines: Vec<String> = rules.iter().map(|rule| format!("{} {}", rule.action, rule.origin)).collect();
    let expected = [
        "class D my.toml:30",
        "include my.toml:12",
        "exclude my.toml:14",
        "exclude my.toml:15",
        "protect my.toml:17",
    ];
    assert_eq!(lines, expected);
    assert_eq!(profile.row(&rules[0]).unwrap().what, "scratch");
    assert_eq!(profile.row(&rules[1]), None);
}

#[test]
fn an_empty_profile_has_the_defaults() {
    let profile = parse("").unwrap();
    assert_eq!(
        profile.source,
        Source { root: "/".into(), one_file_system: true, also: vec![], snapshot: None }
    );
    assert_eq!(profile.standby.address, None);
    assert_eq!((profile.delete.enabled, profile.commit.mode), (false, CommitMode::Run));
    assert_eq!((profile.commit.keep.generations, profile.delete.limits.max_entries), (3, 500));
    assert!(profile.rules().is_empty());
}

#[test]
fn a_misspelt_key_is_an_error_with_its_line_and_a_suggestion() {
    for (text, message) in [
        ("\ndescripton = \"x\"", "my.toml:2: unknown key `descripton`; did you mean `description`?"),
        ("[rules]\ninclude = []\nexlude = []", "my.toml:3: unknown key `exlude`; did you mean `exclude`?"),
        ("[delete]\nmax_entries = 5", "my.toml:2: unknown key `max_entries`; did you mean `max-entries`?"),
        ("[rules]\ncompletely-other = 1", "my.toml:2: unknown key `completely-other`"),
        ("[ruls]\n", "my.toml:1: unknown key `ruls`; did you mean `rules`?"),
        ("[standby]\ntransport = \"shh\"", "my.toml:2: unknown value `shh`; did you mean `ssh`?"),
        (
            "[[gate]]\nkind = \"command\"\nname = \"y\"\ncommand = [\"/x\"]\ntimout = \"3s\"",
            "my.toml:5: unknown key `timout`; did you mean `timeout`?",
        ),
    ] {
        assert_eq!(wrong(text), message);
    }
}

#[test]
fn a_value_that_cannot_be_meant_is_an_error_with_its_line() {
    for (text, start) in [
        ("[schedule]\nrpo = \"26\"", "my.toml:2: bad schedule.rpo `26`: write a number with a unit"),
        (
            "[schedule]\ncalendar = \"30 2 * *\"",
            "my.toml:2: bad schedule.calendar `30 2 * *`: it has 4 fields",
        ),
        ("[source]\nroot = \"srv\"", "my.toml:2: bad source.root `srv`: it is not an absolute path"),
        ("[source]\nalso = [\"/a/../b\"]", "my.toml:2: bad source.also `/a/../b`: "),
        ("[standby]\naddress = \"-oProxyCommand=x\"", "my.toml:2: bad standby.address"),
        ("[delete]\nmax-percent = 101", "my.toml:2: bad delete.max-percent `101`"),
        ("[rules]\nexclude = [\n \"/a\",\n \"/a/../b\"]", "my.toml:4: bad pattern /a/../b: "),
        (
            "[[row]]\npath = \"/[\"\nclass = \"A\"\nwhat = \"w\"\nsource = \"s\"",
            "my.toml:2: bad pattern /[: ",
        ),
        (
            "[[row]]\npath = \"/a\"\nclass = \"X\"\nwhat = \"w\"\nsource = \"s\"",
            "my.toml:3: unknown value `X`",
        ),
        ("[[row]]\npath = \"/a\"\nclass = \"A\"", "my.toml:1: missing field `what`"),
        ("[delete]\nenabled = 1", "my.toml:2: invalid type"),
        ("[delete\n", "my.toml:1: "),
    ] {
        let message = wrong(text);
        assert!(message.starts_with(start), "{message:?} does not start with {start:?}");
        assert!(!message.contains('\n'), "{message:?}");
    }
}

#[test]
fn what_is_extended_comes_first_and_what_extends_it_wins() {
    let base = "description = \"base\"\n[standby]\naddress = \"one\"\nroot = \"/a\"\n[rules]\nexclude = [\"/x\"]\n\
                [[row]]\npath = \"/x\"\nclass = \"A\"\nwhat = \"w\"\nsource = \"s\"\n";
    let resolver = |name: &str| (name == "base").then(|| base.to_string());
    let text = "extends = [\"base\", \"base\"]\n[standby]\naddress = \"two\"\n[rules]\nexclude = [\"/y\"]\n\
                [[row]]\npath = \"/x\"\nclass = \"S\"\nwhat = \"w\"\nsource = \"s\"\n";
    let profile = Profile::parse("my.toml", text, &resolver).unwrap();
    assert_eq!(profile.standby.address.as_deref(), Some("two"));
    assert_eq!(profile.standby.root.to_str(), Some("/a"));
    assert_eq!(profile.description, "");
    let rules = profile.rules();
    let origins: Vec<String> = rules.iter().map(|rule| rule.origin.to_string()).collect();
    assert_eq!(origins, ["base:8", "my.toml:7", "base:6", "my.toml:5"]);
    let set = RuleSet::compile(rules).unwrap();
    assert_eq!(set.decide(&RelPath::new("x").unwrap(), false).class, Class::S);
}

#[test]
fn a_local_file_may_have_the_name_of_the_shipped_one_it_extends() {
    let local = "extends = [\"linux-daily\"]\n[rules]\nprotect = [\"/srv/own\"]\n";
    let resolver = |name: &str| (name == "linux-daily").then(|| local.to_string());
    let profile = Profile::parse("linux-daily", local, &resolver).unwrap();
    assert!(profile.delete.enabled);
    assert_eq!(profile.rules().iter().filter(|rule| rule.action == Action::Protect).count(), 1);
    let last = profile.rules().pop().unwrap();
    assert_eq!(last.origin.to_string(), "linux-daily:3");
    // Also when it is extended by a third.
    let third = Profile::parse("third.toml", "extends = [\"linux-daily\"]", &resolver).unwrap();
    assert_eq!(third.rules(), profile.rules());
}

#[test]
fn a_profile_that_extends_nothing_or_itself_is_an_error() {
    let message = wrong("\nextends = [\"linx\"]");
    assert_eq!(message, "my.toml:2: no profile or catalogue `linx`; did you mean `linux`?");
    assert!(wrong("extends = [\"../secret\"]").starts_with("my.toml:1: bad extends"));
    let resolver = |name: &str| match name {
        "a" => Some("extends = [\"b\"]".to_string()),
        "b" => Some("extends = [\"a\"]".to_string()),
        _ => None,
    };
    let error = Profile::parse("my.toml", "extends = [\"a\"]", &resolver).unwrap_err();
    assert_eq!(error.to_string(), "b:1: `a` extends itself");
}

#[test]
fn the_standbys_own_file_only_protects() {
    let rules =
        parse_standby_file("standby.toml", "description = \"x\"\nprotect = [\n  \"/srv/\",\n]\n").unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!((rules[0].action, rules[0].origin.to_string()), (Action::Protect, "standby.toml:3".into()));
    assert_eq!(parse_standby_file("standby.toml", "").unwrap(), []);
    let error = parse_standby_file("standby.toml", "include = []").unwrap_err().to_string();
    assert!(error.starts_with("standby.toml:1: unknown key `include`"), "{error}");
    assert!(parse_standby_file("standby.toml", "protect = [\"a/..\"]").is_err());
}
