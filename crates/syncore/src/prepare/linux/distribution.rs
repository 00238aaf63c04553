//! What belongs to the distribution, and not to what production does.
//!
//! Why: the standby must come up as a host: network, SSH, logs, cron, time, storage. Everything else on it is
//! production's work, packaged or not, and is held. So what may act is a list of names, and what is not on it is held,
//! shown, and released by name where that was too careful; the other way about, a queue worker from an unknown package
//! would run twice. The package database can only take away from the list: a job called `logrotate` that no package
//! owns is not the distribution's. What can go wrong: RPM's database is binary; there the names alone decide.

use std::collections::HashSet;

use crate::prepare::PrepareError;
use crate::prepare::draft::Draft;

/// Units without their suffix, `*` for anything, that make a host and do none of production's work.
const UNITS: &str = "\
    systemd-* dbus* getty* serial-getty@* autovt@* console-getty console-setup keyboard-setup kbd kmod* procps rc \
    rcS user@* user-runtime-dir@* polkit* udev udisks2 upower accounts-daemon acpid acpi-support irqbalance haveged \
    rngd rng-tools* jitterentropy tuned* ktune power-profiles-daemon thermald microcode* fwupd* packagekit* \
    binfmt-support rtkit-daemon switcheroo-control bolt low-memory-monitor getty-static purge-kernels kdump* kexec* \
    quota* apparmor selinux-* auditd audit-rules mcelog rasdaemon abrt* apport* whoopsie kerneloops pstore plymouth* \
    hwclock* urandom bootlogd bootlogs bootmisc.sh checkfs.sh checkroot* hostname.sh mountall* mountdevsubfs.sh \
    mountkernfs.sh mountnfs* umount* halt reboot single killall killprocs sendsigs stop-bootlogd* sudo resolvconf* \
    brightness sysstat* grub-* grub2-* boot-complete initrd-* import-state loadmodules rhel-* fedora-* readonly-root \
    nis-domainname vgauth* vboxadd* vmtoolsd open-vm-tools qemu-guest-agent spice-vdagent* hv-* hv_* hypervkvpd \
    hypervvssd xe-* xe-linux-distribution dracut-* issue-* cnf-* detect-part-* display-manager gdm* lightdm sddm \
    cloud-init* cloud-config cloud-final wtmpdb-* lastlog2-* soft-reboot-* lvm2* blk-availability dm-event* \
    multipath* mdmonitor* mdadm* mdcheck* iscsi* open-iscsi iscsid iscsiuio nvme* nvmf* fcoe* lldpad smartd \
    smartmontools e2scrub* xfs_scrub* fstrim btrfs* snapper* zfs-import* zfs-mount* zfs-zed zfs-volume* zfs-load* \
    cryptdisks* raid-check stratis* remote-fs nfs-client* nfs-utils nfs-common rpcbind rpc-statd* rpc-gssd gssproxy \
    autofs networking network ifupdown* ifup@* NetworkManager* ModemManager netplan* wicked* wpa_supplicant* \
    dhcpcd@* dns-clean pppd-dns ssh ssh@* sshd* sshd-* dropbear* rescue-ssh* nscd unscd nslcd sssd* oddjobd \
    chrony* ntp ntpd ntpdate ntpsec* ntp-* openntpd ptp4l phc2sys timemaster firewalld nftables iptables* ip6tables* \
    ebtables ufw netfilter-persistent shorewall* susefirewall2* fail2ban sshguard rsyslog* syslog* syslog-ng* \
    journald-* klogd logrotate* cron crond cronie anacron* atd* postfix* exim4* exim sendmail* sm-client* opensmtpd \
    nullmailer apt-* dpkg-* unattended-upgrades* motd-news* ua-* ubuntu-* esm-cache update-notifier-* man-db* mandb* \
    plocate-* mlocate-* updatedb* dnf-* dnf5-* yum-* rhsmcertd unbound-anchor ca-certificates* backup-rpmdb* \
    backup-sysconfig* check-battery* shadow* pacman-* archlinux-keyring-* reflector* snapd* secureboot-db finalrd \
    setvtrgb lm-sensors lm_sensors sensord fancontrol debug-shell emergency* rescue* clonetool*";

/// Jobs in the directories of cron that keep a host in order.
const CRON_JOBS: &str = "\
    .placeholder 0anacron 0hourly anacron apport apt apt-compat aptitude bsdmainutils btrfs* clonetool* \
    cracklib-runtime debsums dpkg e2scrub_all exim4-base google-chrome locate logrotate makewhatis* man-db \
    man-db.cron mdadm mlocate ntp ntpsec passwd plocate popularity-contest quota quotacheck raid-check rhsmd \
    rkhunter shadow snapper* suse* sysstat tmpreaper tmpwatch ubuntu-advantage-tools update-notifier-common updatedb \
    xfs* zfsutils-linux prelink readahead* cups certwatch";

/// Programs in directories of hooks that packages of the base system put there.
const HOOKS: &str = "\
    01-ifupdown 04-iscsi 10-ifcfg-rh-routes.sh 10-sendmail 11-dhclient 20-chrony* 90-console-login* 90-nm-* avahi-* \
    ethtool ifenslave bridge vlan ip mountnfs openssh-server postfix resolved resolvconf upstart wireless-tools \
    wpasupplicant nfs sssd netconfig samba hook-network-manager hook-nscd ntp* chrony timesyncd debug \
    rfc3442-classless-routes no-wait.d pre-down.d pre-up.d clonetool* 000resolvconf grub-once network pcp dhclient*";

/// Whether `name` is what `pattern` says, with one `*` at most.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
        None => pattern == name,
    }
}

fn listed(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|pattern| matches(pattern, name))
}

/// Whether a unit makes the host and does none of production's work.
pub(super) fn is_system_unit(name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    listed(UNITS, stem) || listed(UNITS, name)
}

/// As [`is_system_unit`], of a job in a directory of cron.
pub(super) fn is_system_job(name: &str) -> bool {
    listed(CRON_JOBS, name)
}

/// As [`is_system_unit`], of a program in a directory of hooks.
pub(super) fn is_system_hook(name: &str) -> bool {
    listed(HOOKS, name)
}

/// Which files packages own, as far as the database can be read.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Absolute paths below `/usr`, not `/lib`; none when the database is not one that we read.
    paths: Option<HashSet<String>>,
}

impl Owners {
    /// Reads the database of dpkg or pacman.
    pub(super) fn read(draft: &Draft<'_>) -> Result<Self, PrepareError> {
        let mut paths = HashSet::new();
        let mut add = |path: &str| {
            // Only what is asked for later; a database has a million paths.
            if path.contains("/systemd/") || path.contains("/etc/") || path.starts_with("etc/") {
                paths.insert(merged(path.trim_start_matches('/')));
            }
        };
        for name in draft.list("/var/lib/dpkg/info")? {
            if name.ends_with(".list") {
                let list = draft.text(&format!("/var/lib/dpkg/info/{name}"))?.unwrap_or_default();
                list.lines().for_each(&mut add);
            }
        }
        for package in draft.list("/var/lib/pacman/local")? {
            let files = draft.text(&format!("/var/lib/pacman/local/{package}/files"))?.unwrap_or_default();
            files.lines().for_each(&mut add);
        }
        Ok(Self { paths: (!paths.is_empty()).then_some(paths) })
    }

    /// Whether it is known that no package owns `path`.
    pub(super) fn disown(&self, path: &str) -> bool {
        self.paths.as_ref().is_some_and(|paths| !paths.contains(&merged(path.trim_start_matches('/'))))
    }

    /// Whether it can be known at all.
    pub(super) fn known(&self) -> bool {
        self.paths.is_some()
    }
}

/// A path of a merged `/usr`, without its first slash: packages of both times name the same file.
fn merged(path: &str) -> String {
    if path.starts_with("lib/") { format!("usr/{path}") } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    #[test]
    fn what_makes_a_host_is_listed_and_what_does_its_work_is_not() {
        for unit in [
            "ssh.service",
            "sshd@.service",
            "getty@tty1.service",
            "systemd-networkd.service",
            "cron.service",
            "NetworkManager.service",
            "apt-daily.timer",
            "clonetool-linux-daily.timer",
            "lvm2-monitor.service",
        ] {
            assert!(is_system_unit(unit), "{unit}");
        }
        for unit in [
            "postgresql.service",
            "mariadb.service",
            "docker.service",
            "nginx.service",
            "pay.timer",
            "supervisor.service",
            "keepalived.service",
            "smbd.service",
            "nfs-server.service",
            "rabbitmq-server.service",
            "puppet.service",
            "dhcpcd.service",
            "isc-dhcp-server.service",
            "zabbix-agent.service",
            "redis-server.service",
            "pcsd.service",
        ] {
            assert!(!is_system_unit(unit), "{unit}");
        }
        assert!(is_system_job("logrotate") && !is_system_job("logrotate2") && !is_system_job("backup"));
    }

    #[test]
    fn the_package_database_takes_away_and_never_adds() {
        let tree = Tree::new(&[(
            "var/lib/dpkg/info/ssh:amd64.list",
            "/.\n/lib/systemd/system/ssh.service\n/etc/cron.daily/dpkg\n",
        )]);
        tree.planned(
            &super::super::testing::own("b"),
            |_, _| Ok(()),
            |draft| {
                let owners = Owners::read(draft).unwrap();
                assert!(!owners.disown("/usr/lib/systemd/system/ssh.service"));
                assert!(!owners.disown("/etc/cron.daily/dpkg"));
                assert!(owners.disown("/etc/cron.daily/logrotate"));
            },
        );
        let unknown = Tree::new(&[]);
        unknown.planned(
            &super::super::testing::own("b"),
            |_, _| Ok(()),
            |draft| {
                let owners = Owners::read(draft).unwrap();
                assert!(!owners.known() && !owners.disown("/etc/cron.daily/anything"));
            },
        );
    }
}
