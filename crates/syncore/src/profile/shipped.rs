//! The profiles and catalogues that come with the program.
//!
//! Why: a sync works on a host on which nothing but the binary was installed, and the binary and its profiles
//! never differ in age. What can go wrong: a shipped profile that does not parse; a test reads each one.

/// A name and the text of the file.
pub(super) type Named = (&'static str, &'static str);

const PROFILES: [Named; 6] = [
    ("linux-hourly-auth", include_str!("../../../../profiles/linux-hourly-auth.toml")),
    ("linux-daily", include_str!("../../../../profiles/linux-daily.toml")),
    ("linux-migrate", include_str!("../../../../profiles/linux-migrate.toml")),
    ("solaris-hourly-auth", include_str!("../../../../profiles/solaris-hourly-auth.toml")),
    ("solaris-daily", include_str!("../../../../profiles/solaris-daily.toml")),
    ("full", include_str!("../../../../profiles/full.toml")),
];

const CATALOGUES: [Named; 2] = [
    ("linux", include_str!("../../../../profiles/catalogue/linux.toml")),
    ("solaris", include_str!("../../../../profiles/catalogue/solaris.toml")),
];

/// The shipped profiles: name and text.
#[must_use]
pub fn shipped() -> &'static [(&'static str, &'static str)] {
    &PROFILES
}

/// The shipped catalogues, which profiles extend: name and text.
#[must_use]
pub fn catalogues() -> &'static [(&'static str, &'static str)] {
    &CATALOGUES
}

/// The shipped profile or catalogue of this name: the file name for messages, and the text.
pub(super) fn find(name: &str) -> Option<(String, &'static str)> {
    let of = |list: &'static [Named]| list.iter().find(|(other, _)| *other == name).map(|(_, text)| *text);
    let profile = of(&PROFILES).map(|text| (format!("shipped/{name}.toml"), text));
    profile.or_else(|| of(&CATALOGUES).map(|text| (format!("shipped/catalogue/{name}.toml"), text)))
}

/// All names, for suggestions.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().chain(&CATALOGUES).map(|(name, _)| *name)
}
