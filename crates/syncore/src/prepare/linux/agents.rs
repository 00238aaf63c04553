//! Ids and secrets by which other machines know this host: agents, subscriptions, directories, seeds of randomness.
//!
//! Why: a standby that reports with production's id overwrites production's state wherever it reports to, or is locked
//! out together with it. What can go wrong: an agent that is not in the table; its unit is held with all that is not the
//! system's, so it does not report before somebody has looked.

use crate::prepare::draft::Draft;
use crate::prepare::{Finding, Identity, PrepareError, Task};
use crate::rules::Class;
use crate::tree::Kind;

/// Files that go, and directories that are emptied, whoever the copy is: path, and what it is.
const ALWAYS: [(&str, &str); 12] = [
    ("/var/lib/systemd/random-seed", "the same randomness on two hosts"),
    ("/var/lib/urandom/random-seed", "the same randomness on two hosts"),
    ("/var/lib/misc/random-seed", "the same randomness on two hosts"),
    ("/var/lib/random-seed", "the same randomness on two hosts"),
    ("/boot/efi/loader/random-seed", "the same randomness on two hosts"),
    ("/boot/loader/random-seed", "the same randomness on two hosts"),
    ("/efi/loader/random-seed", "the same randomness on two hosts"),
    ("/etc/blkid.tab", "devices of production's"),
    ("/etc/blkid/blkid.tab", "devices of production's"),
    ("/var/lib/mysql/auto.cnf", "two servers with one id cannot replicate"),
    ("/etc/docker/key.json", "the id of a container engine"),
    ("/var/lib/docker/engine-id", "the id of a container engine"),
];

/// As above, of what production is known by; in a takeover it stays: path, and what has to be done.
const OWN: [(&str, &str); 46] = [
    ("/var/lib/cloud/instance", "cloud-init"),
    ("/var/lib/cloud/instances", "cloud-init"),
    ("/var/lib/cloud/data", "cloud-init"),
    ("/var/lib/cloud/sem", "cloud-init"),
    ("/var/lib/tailscale", "tailscale: log in again"),
    ("/var/lib/zerotier-one/identity.public", "ZeroTier: join again"),
    ("/var/lib/zerotier-one/identity.secret", "ZeroTier: join again"),
    ("/etc/salt/minion_id", "salt: accept the minion's new key"),
    ("/etc/salt/pki/minion", "salt: accept the minion's new key"),
    ("/etc/puppetlabs/puppet/ssl", "puppet: sign the agent's new certificate"),
    ("/var/lib/puppet/ssl", "puppet: sign the agent's new certificate"),
    ("/etc/puppet/ssl", "puppet: sign the agent's new certificate"),
    ("/etc/chef/client.pem", "chef: register the client again"),
    ("/etc/cinc/client.pem", "chef: register the client again"),
    ("/etc/pki/consumer", "subscription: subscription-manager register"),
    ("/etc/pki/entitlement", "subscription: subscription-manager register"),
    ("/var/lib/rhsm/facts", "subscription: subscription-manager register"),
    ("/var/lib/rhsm/cache", "subscription: subscription-manager register"),
    ("/etc/sysconfig/rhn/systemid", "subscription: register again"),
    ("/etc/sysconfig/rhn/osad-auth.conf", "subscription: register again"),
    ("/etc/insights-client/machine-id", "insights: insights-client --register"),
    ("/etc/insights-client/.registered", "insights: insights-client --register"),
    ("/etc/zypp/credentials.d", "subscription: SUSEConnect"),
    ("/etc/SUSEConnect", "subscription: SUSEConnect"),
    ("/var/lib/landscape/client", "landscape: landscape-config"),
    ("/var/lib/ubuntu-advantage/private", "Ubuntu Pro: pro attach"),
    ("/var/lib/yum/uuid", ""),
    ("/etc/machine-uuid", ""),
    ("/etc/smolt/uuid", ""),
    ("/etc/krb5.keytab", "Kerberos: join the realm under the standby's name"),
    ("/var/lib/sss/db", "Kerberos: join the realm under the standby's name"),
    ("/var/lib/sss/secrets", "Kerberos: join the realm under the standby's name"),
    ("/etc/ipa/default.conf", "Kerberos: join the realm under the standby's name"),
    ("/var/lib/ipa-client/sysrestore", "Kerberos: join the realm under the standby's name"),
    ("/var/lib/samba/private/secrets.tdb", "samba: net ads join under the standby's name"),
    ("/var/lib/samba/private/secrets.ldb", "samba: net ads join under the standby's name"),
    ("/etc/samba/secrets.tdb", "samba: net ads join under the standby's name"),
    ("/etc/wireguard", "WireGuard: a key pair of the standby's own"),
    ("/var/lib/kubelet/pki", "kubelet: kubeadm join"),
    ("/etc/kubernetes/kubelet.conf", "kubelet: kubeadm join"),
    ("/etc/rancher/node/password", "k3s: join again"),
    ("/var/lib/teleport", "teleport: join again"),
    ("/var/lib/amazon/ssm", "SSM agent: register again"),
    ("/var/lib/waagent", "Azure agent: provision again"),
    ("/opt/CrowdStrike/falconstore", "CrowdStrike: register again"),
    ("/var/lib/teamviewer/config", "TeamViewer: a new id"),
];

/// Removes what starts production's own syncs: here they would read this host and write to whatever answers as the
/// standby. What a standby that was prepared before has was made for it, and stays.
fn own_schedule(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    let why = "production's syncs are not started by its standby";
    for name in draft.list("/etc/cron.d")?.iter().filter(|name| name.starts_with("clonetool")) {
        draft.remove(&format!("/etc/cron.d/{name}"), Class::A, why)?;
    }
    for directory in ["/etc/systemd/system/timers.target.wants", "/etc/systemd/system"] {
        for name in draft.list(directory)? {
            if name.starts_with("clonetool-") && name.ends_with(".timer") {
                draft.remove(&format!("{directory}/{name}"), Class::A, why)?;
            }
        }
    }
    Ok(())
}

/// Plans what becomes of agents and seeds.
pub(super) fn plan(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    if task.earlier.is_none() {
        own_schedule(draft)?;
    }
    for (path, what) in ALWAYS {
        gone(path, what, draft)?;
    }
    credential_secret(draft)?;
    popularity(task, draft)?;
    if draft.exists("/usr/bin/cloud-init")? || draft.exists("/etc/cloud/cloud.cfg")? {
        let why = "at an instance it does not know, cloud-init makes names, keys, users and networks anew";
        draft.write("/etc/cloud/cloud-init.disabled", "", Class::A, why)?;
    }
    if draft.exists("/var/lib/snapd/state.json")? {
        let message =
            "snapd keeps production's serial and its login: snap logout, then a new serial from the store";
        draft.find(Finding::note(message));
    }
    if draft.exists("/etc/pacman.d/gnupg/pubring.gpg")? {
        draft.find(Finding::note(
            "/etc/pacman.d/gnupg holds production's local master key: pacman-key --init",
        ));
    }
    let mut todo: Vec<&str> = Vec::new();
    for (path, what) in OWN {
        if task.options.identity == Identity::Takeover {
            if draft.own_entry(path)?.is_some() {
                draft.find(Finding::note(format!("{path} is production's, and stays for a takeover")));
            }
        } else if gone(path, "an identity of production's", draft)? && what.contains(": ") {
            todo.push(what);
        }
    }
    todo.dedup();
    for what in todo {
        draft.find(Finding::note(format!("{what}; the standby starts without production's identity")));
    }
    if task.options.identity == Identity::Own {
        named_after_production(draft)?;
    }
    Ok(())
}

/// Removes a file or link, or everything in a directory; the originals are with the journal.
fn gone(path: &str, why: &str, draft: &mut Draft<'_>) -> Result<bool, PrepareError> {
    let Some(entry) = draft.own_entry(path)? else { return Ok(false) };
    if entry.kind != Kind::Directory {
        draft.remove(path, Class::A, why)?;
        return Ok(true);
    }
    if draft.list(path)?.is_empty() {
        return Ok(false);
    }
    draft.remove_below(path, Class::A, why)?;
    Ok(true)
}

/// The key of systemd's encrypted credentials: a new one is made at the first boot, which cannot read the old ones.
fn credential_secret(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    const SECRET: &str = "/var/lib/systemd/credential.secret";
    if draft.own_entry(SECRET)?.is_none() {
        return Ok(());
    }
    draft.remove(SECRET, Class::A, "the key of production's credentials")?;
    let mut encrypted = Vec::new();
    for directory in ["/etc/credstore.encrypted", "/usr/lib/credstore.encrypted"] {
        encrypted.extend(draft.list(directory)?);
    }
    if !encrypted.is_empty() {
        draft.find(Finding::pending(format!(
            "credentials that only production can decrypt ({}): encrypt them again on the standby with systemd-creds",
            encrypted.join(", ")
        )));
    }
    Ok(())
}

/// Debian's popularity contest counts hosts by a random id.
fn popularity(task: &Task<'_>, draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    const FILE: &str = "/etc/popularity-contest.conf";
    let done = task.earlier.is_some_and(|earlier| {
        earlier.lines.iter().any(|line| line.path.as_bytes() == b"etc/popularity-contest.conf")
    });
    if done {
        return Ok(());
    }
    let id: [u8; 16] = super::identity::random()?;
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    super::identity::edit_values(draft, FILE, &["MY_HOSTID"], "an id of its own", Class::A, |_| {
        format!("\"{id}\"").into_bytes()
    })
}

/// Files that are named after the host they belong to.
fn named_after_production(draft: &mut Draft<'_>) -> Result<(), PrepareError> {
    for (directory, what) in
        [("/etc/letsencrypt/live", "certificates"), ("/etc/pki/tls/private", "private keys")]
    {
        let names = draft.list(directory)?;
        if names.iter().any(|name| name != "README" && name != "localhost.key") {
            draft.find(Finding::note(format!(
                "{what} in {directory} are production's, and stay for its services"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "agents_tests.rs"]
mod tests;
