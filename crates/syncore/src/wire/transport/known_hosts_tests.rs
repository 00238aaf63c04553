//! Files written by ssh-keygen, and files that must be refused.

use super::*;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFLnZ5ZoPJzA6ene3Bgd40qBINgQmxIUlXKwKTY5BRha";
const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICUBqbw/IyMvI1hhPSP3t4lqe5K34xkOb2VXF4LOf+FT";
const FINGERPRINT: &str = "ssh-ed25519 SHA256:E6uyA/RMUadSDdeZ/LpVeJfAQSxbjL4P7etYaWhYZJE";
/// `ssh-keygen -H` of `host.example` and of `[host.example]:2222`.
const HASHED: &str = "|1|I+lu10XmL29XCJilSKovGnmhxDc=|ziegazRUbxdvqkK9zInfHG88oCs=";
const HASHED_2222: &str = "|1|osy4sA7UG556gn8fex2AKivjPhk=|UttG7HABxu3c+n9WGeNxseyekE4=";

fn key(line: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap()
}

fn check(text: &str, host: &str, port: u16) -> Result<(), TransportError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known_hosts");
    std::fs::write(&file, text).unwrap();
    KnownKeys::read(&[file], host, port)?.check(&key(KEY))
}

#[test]
fn fingerprints_are_those_of_openssh() {
    assert_eq!(fingerprint(&key(KEY)), FINGERPRINT);
}

#[test]
fn plain_listed_ported_and_hashed_names_match() {
    for (names, host, port) in [
        ("host.example", "Host.Example", 22),
        ("10.0.0.1,HOST.example", "host.example", 22),
        ("[host.example]:2222", "host.example", 2222),
        ("host.example", "host.example", 2222),
        (HASHED, "host.example", 22),
        (HASHED_2222, "host.example", 2222),
    ] {
        check(&format!("# comment\n\n{names} {KEY} x\n"), host, port).unwrap();
        let unknown = check(&format!("{names} {KEY}\n"), "other.example", port);
        assert!(matches!(unknown, Err(TransportError::HostKeyUnknown { .. })), "{names}");
    }
    let other_port = check(&format!("[host.example]:2222 {KEY}\n"), "host.example", 22);
    assert!(matches!(other_port, Err(TransportError::HostKeyUnknown { .. })));
}

#[test]
fn an_unknown_host_names_the_fingerprint_and_the_file() {
    let Err(TransportError::HostKeyUnknown { host, key, file }) = check("", "h", 2222) else { panic!() };
    assert_eq!((host.as_str(), key.as_str()), ("[h]:2222", FINGERPRINT));
    assert!(file.ends_with("/known_hosts"));
}

#[test]
fn a_changed_key_names_both_fingerprints_and_the_line() {
    let Err(TransportError::HostKeyChanged { offered, known, place, .. }) =
        check(&format!("#\nh {OTHER}\n"), "h", 22)
    else {
        panic!()
    };
    assert_eq!(offered, FINGERPRINT);
    assert_eq!(known, fingerprint(&key(OTHER)));
    assert!(place.ends_with("known_hosts:2"), "{place}");
    // A record without the port can vouch for a key on another port, but not call another key changed.
    assert!(matches!(check(&format!("h {OTHER}\n"), "h", 2222), Err(TransportError::HostKeyUnknown { .. })));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_file_and_line() {
    for line in [
        format!("@revoked * {KEY}"),
        format!("@cert-authority *.example {KEY}"),
        format!("*.example {KEY}"),
        format!("h?st.example {KEY}"),
        format!("host.example,!10.* {KEY}"),
    ] {
        let Err(TransportError::KnownHosts { place, .. }) =
            check(&format!("host.example {KEY}\n{line}\n"), "host.example", 22)
        else {
            panic!("{line}")
        };
        assert!(place.ends_with("known_hosts:2"), "{place}");
    }
    check(&format!("*.elsewhere {KEY}\nhost.example {KEY}\n"), "host.example", 22).unwrap();
}

#[test]
fn lines_that_lie_about_their_type_or_are_cut_record_nothing() {
    for line in ["host.example", "host.example ssh-rsa", "host.example ssh-ed25519 !!!!"] {
        assert!(matches!(check(line, "host.example", 22), Err(TransportError::HostKeyUnknown { .. })));
    }
    let lie = format!("host.example {}", KEY.replace("ssh-ed25519 ", "ssh-rsa "));
    assert!(matches!(check(&lie, "host.example", 22), Err(TransportError::HostKeyUnknown { .. })));
}

#[test]
fn a_missing_file_records_nothing_and_an_unreadable_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(KnownKeys::read(&[directory.path().join("absent")], "h", 22).is_ok());
    let refused = KnownKeys::read(&[directory.path().to_owned()], "h", 22);
    assert!(matches!(refused, Err(TransportError::KnownHosts { .. })));
}
