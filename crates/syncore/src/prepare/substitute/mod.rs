//! Files that are production's but for what is the standby's own in them (class B).
//!
//! Why: a new data volume belongs into the standby's fstab, and production's root device does not. So such a file is
//! made on the standby, from what arrives and what is there. What can go wrong: a file of which half is not
//! understood; then nothing is made and the standby keeps what it has, because a guess is a host that does not boot.

mod cmdline;
mod crypttab;
mod fstab;
mod grub;
mod hosts;
mod system;
mod vfstab;

use super::PrepareError;
use crate::rules::{FollowUp, Substitution};

/// Who is who.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// The standby's, with and without a domain.
    own: Vec<String>,
    /// Production's, as far as they are known; none of them is the standby's.
    production: Vec<String>,
}

impl Names {
    /// Those of the hosts that are called `own` and `production`, with and without their domains.
    pub(crate) fn new(own: &[&str], production: &[&str]) -> Self {
        let all = |names: &[&str]| {
            let mut all: Vec<String> = names
                .iter()
                .flat_map(|name| [*name, name.split('.').next().unwrap_or_default()])
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect();
            all.sort();
            all.dedup();
            all
        };
        let own = all(own);
        // A standby that took over production's name is who it is.
        let production = all(production).into_iter().filter(|name| !is_one(name.as_bytes(), &own)).collect();
        Self { own, production }
    }

    /// With the names of one of the standby's interfaces, `db2-qfe0`: the one that `prepare-root` gives it, and those in
    /// its file, `hostname.*` of Solaris. Its addresses are looked up by them when it boots.
    pub(crate) fn with_interface(mut self, interface: &str, file: &[u8]) -> Self {
        let file = String::from_utf8_lossy(file);
        let words = file.split_whitespace().map(|word| word.split('/').next().unwrap_or_default());
        let is_of =
            |word: &str, own: &String| word.strip_prefix(&own[..]).is_some_and(|rest| rest.starts_with('-'));
        let mut names: Vec<String> = self.own.iter().map(|own| format!("{own}-{interface}")).collect();
        names.extend(words.filter(|word| self.own.iter().any(|own| is_of(word, own))).map(str::to_owned));
        self.own.append(&mut names);
        self
    }

    fn is_own(&self, name: &[u8]) -> bool {
        is_one(name, &self.own)
    }

    fn is_production(&self, name: &[u8]) -> bool {
        let head = name.split(|b| *b == b'.').next().unwrap_or_default();
        !self.is_own(name) && (is_one(name, &self.production) || is_one(head, &self.production))
    }
}

fn is_one(name: &[u8], names: &[String]) -> bool {
    names.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(name))
}

/// Makes the standby's file from `production`'s and the `standby`'s own; an empty one where it has none and
/// [`may_be_new`] says that it need not.
///
/// # Errors
/// In words, when one of the two is not what it should be.
pub(crate) fn substitute(
    kind: Substitution,
    production: &[u8],
    standby: &[u8],
    names: &Names,
) -> Result<Vec<u8>, String> {
    // What a power cut leaves of a file that was being written; no line of it is what somebody wrote.
    if production.contains(&0) {
        return Err("there are NUL bytes in it".to_owned());
    }
    if standby.contains(&0) {
        return Err("there are NUL bytes in the standby's own".to_owned());
    }
    match kind {
        Substitution::Fstab => fstab::fstab(production, standby),
        Substitution::Hosts => hosts::hosts(production, standby, names),
        Substitution::Cmdline => cmdline::cmdline(production, standby),
        Substitution::Grub => grub::grub(production, standby),
        Substitution::Crypttab => Ok(crypttab::crypttab(production, standby)),
        Substitution::Vfstab => vfstab::vfstab(production, standby),
        Substitution::System => system::system(production, standby),
    }
}

/// Whether a standby without such a file may get one: nothing in it is needed for its own devices.
pub(crate) const fn may_be_new(kind: Substitution) -> bool {
    matches!(kind, Substitution::Cmdline | Substitution::Grub | Substitution::Crypttab | Substitution::System)
}

/// What has to follow before a file that was made so has its effect.
pub(crate) const fn then(kind: Substitution) -> &'static [FollowUp] {
    match kind {
        Substitution::Grub => &[FollowUp::BootConfiguration],
        // dracut takes /etc/cmdline.d along into the initramfs.
        Substitution::Cmdline => &[FollowUp::Initramfs],
        _ => &[],
    }
}

/// Why a planner of `prepare-root` does not understand a file; which one it is, the run says.
fn reason(error: PrepareError) -> String {
    match error {
        PrepareError::Malformed { reason, .. } => reason,
        other => other.to_string(),
    }
}

/// The same of the file that the standby has.
fn own_reason(error: PrepareError) -> String {
    format!("the standby's own: {}", reason(error))
}

#[cfg(test)]
mod tests;
