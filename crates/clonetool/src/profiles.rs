//! Finding and reading profiles: by path, by name in this host's directory, or among the shipped ones.
//!
//! Why: the library reads no files of configuration on its own. What can go wrong: a file that somebody else
//! placed where the operator's profile is looked for; so a bare name is looked up in the one directory that
//! belongs to root, never in the current one, and a profile that others may write names no gate and no on-event, since both run a
//! program. And a profile that says more than this version does is never half
//! obeyed.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use syncore::profile::{Profile, shipped};
use syncore::tree::escape;

use crate::error::CommandError;

/// Where a host keeps its profiles, `NAME.toml` each.
const DIRECTORY: &str = "/etc/clonetool/profiles";

/// No profile is that long; whatever is, is no profile.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// The text of a profile, and what messages call it.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
    /// Whether only root, or who runs this, can have written it.
    trusted: bool,
}

/// Finds a profile and reads its text. What has a slash or ends in `.toml` is a path, everything else a name.
pub(crate) fn find(name: &OsStr) -> Result<Source, CommandError> {
    find_in(Path::new(DIRECTORY), name)
}

fn find_in(directory: &Path, name: &OsStr) -> Result<Source, CommandError> {
    let shown = escape(name.as_encoded_bytes());
    let is_path = as_path(name).is_some();
    let (path, name) = match name.to_str().filter(|_| !is_path).and_then(|name| named(directory, name)) {
        Some(path) => (path, Some(shown.as_str())),
        None => (PathBuf::from(name), None),
    };
    match read_judged(&path) {
        Ok((text, trusted)) => {
            Ok(Source { name: escape(path.as_os_str().as_encoded_bytes()), text, trusted })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_path => Err(CommandError::usage(
            format!("no profile {shown}: there is no such file"),
        )
        .hint(format!(
            "a name, which has no slash and no .toml, is looked up in {DIRECTORY} and among the shipped ones"
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = shipped().iter().find(|(other, _)| Some(*other) == name);
            let found = found.map(|(name, text)| Source {
                name: (*name).to_owned(),
                text: (*text).to_owned(),
                trusted: true,
            });
            found.ok_or_else(|| {
                let names: Vec<&str> = shipped().iter().map(|(name, _)| *name).collect();
                CommandError::usage(format!("no profile {shown}"))
                    .hint(format!("shipped profiles: {}", names.join(", ")))
                    .hint(format!("a name is also looked up in {DIRECTORY}; a path has a slash in it"))
            })
        }
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// The path that an argument is; none for a name.
pub(crate) fn as_path(name: &OsStr) -> Option<&Path> {
    let text = name.as_encoded_bytes();
    (text.contains(&b'/') || text.ends_with(b".toml")).then(|| Path::new(name))
}

/// The file of a name in `directory`; none for what is no name.
fn named(directory: &Path, name: &str) -> Option<PathBuf> {
    let is_name = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    is_name.then(|| directory.join(format!("{name}.toml")))
}

/// Reads a profile and everything it extends.
pub(crate) fn load(name: &OsStr) -> Result<Profile, CommandError> {
    parse(&find(name)?)
}

/// Reads `source` and everything it extends.
pub(crate) fn parse(source: &Source) -> Result<Profile, CommandError> {
    // The library asks for a text or nothing; what could not be read must not pass for what is not there.
    let failed: RefCell<Option<CommandError>> = RefCell::default();
    let untrusted: RefCell<Vec<String>> = RefCell::default();
    if !source.trusted {
        untrusted.borrow_mut().push(source.name.clone());
    }
    let resolver = |name: &str| {
        let path = named(Path::new(DIRECTORY), name)?;
        // A host's profile may have the name of the shipped one that it extends.
        if escape(path.as_os_str().as_encoded_bytes()) == source.name {
            return None;
        }
        match read_judged(&path) {
            Ok((text, trusted)) => {
                if !trusted {
                    untrusted.borrow_mut().push(name.to_owned());
                }
                Some(text)
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    failed.borrow_mut().get_or_insert(unreadable(&path, &error));
                }
                None
            }
        }
    };
    let profile = Profile::parse(&source.name, &source.text, &resolver);
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    let (profile, untrusted) = (profile?, untrusted.into_inner());
    // A gate runs what its profile names, as whoever runs this; so do a snapshot and an event.
    let gates = profile.gates.iter().map(|gate| (&gate.origin.file, "gates"));
    let event = profile.on_event.iter().map(|event| (&event.origin.file, "on-event"));
    let snapshots = profile.source.snapshot.iter().map(|snapshot| (&snapshot.origin.file, "snapshots"));
    match gates.chain(event).chain(snapshots).find(|(file, _)| untrusted.contains(file)) {
        None => Ok(profile),
        Some((file, what)) => {
            Err(CommandError::usage(format!("{file} has {what}, and others than root may write it"))
                .hint("make it root's own: chown root, chmod go-w"))
        }
    }
}

/// Reads a profile, and says whether only root, or who runs this, can have written it.
fn read_judged(path: &Path) -> io::Result<(String, bool)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let owned = metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
    Ok((read_bounded(file)?, owned && metadata.mode() & 0o022 == 0))
}

/// The names of the profiles in this host's directory, sorted.
pub(crate) fn local_names() -> Result<Vec<OsString>, CommandError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(|error| unreadable(Path::new(DIRECTORY), &error))?;
    let paths = entries.into_iter().map(|entry| PathBuf::from(entry.file_name()));
    let profiles = paths.filter(|path| path.extension() == Some(OsStr::new("toml")));
    let mut names: Vec<OsString> =
        profiles.filter_map(|path| path.file_stem().map(OsStr::to_owned)).collect();
    names.sort();
    Ok(names)
}

/// Reads a text that a person wrote.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    read_bounded(File::open(path)?)
}

/// Reads from `file` what is left, as far as a text that a person wrote can go.
pub(crate) fn read_bounded(file: File) -> io::Result<String> {
    let mut text = String::new();
    let length = file.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text)?;
    if length as u64 > FILE_LIMIT_BYTES {
        return Err(io::Error::other(format!("longer than {FILE_LIMIT_BYTES} bytes")));
    }
    Ok(text)
}

/// That a file of configuration cannot be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    CommandError::usage(format!("cannot read {}: {error}", escape(path.as_os_str().as_encoded_bytes())))
}

/// The name that a profile goes by in everything that is kept of its runs, here and on the standby: one file has one,
/// and no other file has it. In this host's directory it is that of the file without its end, elsewhere the whole path.
pub(crate) fn kept_name(given: &OsStr) -> String {
    kept_name_in(Path::new(DIRECTORY), given)
}

fn kept_name_in(directory: &Path, given: &OsStr) -> String {
    let shown = |name: &OsStr| escape(name.as_encoded_bytes());
    let Some(path) = as_path(given) else { return shown(given) };
    // On a standby there is no such file: the path stands for itself.
    let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into());
    let name = path.file_stem().and_then(OsStr::to_str);
    match name.filter(|name| named(directory, name).as_ref() == Some(&path)) {
        Some(name) => shown(OsStr::new(name)),
        None => shown(path.as_os_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_hosts_own_profile_before_the_shipped_one_and_never_a_file_nearby() {
        let directory = tempfile::tempdir().unwrap();
        let (name, text) = shipped()[0];
        let found = find_in(directory.path(), OsStr::new(name)).unwrap();
        assert_eq!((found.name.as_str(), found.text.as_str()), (name, text));
        fs::write(directory.path().join(format!("{name}.toml")), "description = \"ours\"\n").unwrap();
        assert_eq!(find_in(directory.path(), OsStr::new(name)).unwrap().text, "description = \"ours\"\n");
        let path = directory.path().join(format!("{name}.toml"));
        assert_eq!(
            find_in(Path::new("/nowhere"), path.as_os_str()).unwrap().text,
            "description = \"ours\"\n"
        );
        for unknown in ["Cargo.toml.no", "../x", ".hidden", "", "/nowhere/x.toml"] {
            let Err(error) = find_in(directory.path(), OsStr::new(unknown)) else { panic!("{unknown}") };
            assert_eq!(error.exit_code(), 2);
            assert!(error.message.starts_with("no profile "), "{}", error.message);
            let is_file = error.message.ends_with(": there is no such file");
            assert_eq!(is_file, unknown.contains('/'), "{}", error.message);
        }
    }

    #[test]
    fn one_file_has_one_name_and_no_other_file_has_it() {
        let work = tempfile::tempdir().unwrap();
        let (host, other) = (work.path().join("profiles"), work.path().join("other"));
        for directory in [&host, &other] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("daily.toml"), "").unwrap();
        }
        std::os::unix::fs::symlink(&other, work.path().join("link")).unwrap();
        let name = |path: &Path| kept_name_in(&host, path.as_os_str());
        let elsewhere = escape(other.join("daily.toml").as_os_str().as_encoded_bytes());
        assert_eq!(kept_name_in(&host, OsStr::new("daily")), "daily");
        assert_eq!(name(&host.join("daily.toml")), "daily");
        assert_eq!(name(&other.join("../profiles/daily.toml")), "daily");
        assert_eq!(name(&other.join("daily.toml")), elsewhere);
        assert_eq!(name(&work.path().join("link/daily.toml")), elsewhere);
        // What is not there, as a profile of production is not on the standby.
        assert_eq!(kept_name_in(&host, OsStr::new("/nowhere/./daily.toml")), "/nowhere/daily.toml");
    }

    #[test]
    fn a_misspelt_key_is_usage_with_its_line() {
        let text = "description = \"x\"\n[rules]\ninlcude = [\"/\"]\n".to_owned();
        let Err(error) = parse(&Source { name: "a.toml".to_owned(), text, trusted: true }) else {
            panic!("accepted")
        };
        assert_eq!(error.exit_code(), 2);
        assert!(error.message.starts_with("a.toml:3: unknown key `inlcude`"), "{}", error.message);
    }
}
