//! The network of each family.

use super::super::testing::{Tree, own};
use super::*;
use crate::prepare::Options;

fn with(interface: &str, address: &str) -> Options {
    let setting = AddressSetting::Static {
        address: address.parse().unwrap(),
        prefix_bits: 24,
        gateway: Some("10.9.0.1".parse().unwrap()),
    };
    let addresses = vec![Address { interface: interface.to_owned(), setting }];
    Options { addresses, ..own("db2") }
}

fn debian(files: &[(&str, &str)]) -> Tree {
    Tree::new(&[&[("etc/hostname", "db1\n")], files].concat())
}

fn family(id: &str, files: &[(&str, &str)]) -> Tree {
    let tree = debian(files);
    tree.file("etc/os-release", &format!("ID={id}\n"));
    tree
}

/// No address of production's is left in `path`.
fn free_of_production(tree: &Tree, path: &str) {
    let text = tree.text(path);
    assert!(!text.contains("10.0.0.5") && !text.to_lowercase().contains("52:54:00"), "{path}: {text}");
}

const INTERFACES: &str = "# The network\r\nsource /etc/network/interfaces.d/*\r\nauto lo bond0\r\niface lo inet loopback\r\n\
    \tup ip addr add 10.0.0.55/32 dev lo\r\nallow-hotplug eth3\r\niface bond0 inet static\r\n    address 10.0.0.5\r\n    netmask 255.255.255.0\r\n\
    \tgateway 10.0.0.1\r\n    hwaddress ether 52:54:00:11:22:33\r\n    bond-slaves eth0 eth1\r\n    bond-mode 1\r\n    mtu 9000\r\n\
    \tpost-up ip route add 10.7.0.0/16 \\\r\n        via 10.0.0.5\r\niface bond0 inet6 static\r\n    address fd00::5/64\r\n\
    auto eth0\r\niface eth0 inet manual\r\nauto eth3\r\niface eth3 inet static\r\n    address 10.0.0.51/24";

#[test]
fn ifupdown_without_an_address_has_loopback_only() {
    let tree = debian(&[
        ("etc/network/interfaces", INTERFACES),
        ("etc/network/interfaces.d/vip", "iface eth0:1 inet static\n address 10.0.0.5\n"),
    ]);
    let report = tree.prepare(&own("db2"));
    assert_eq!(
        tree.text("etc/network/interfaces"),
        "# The network\r\nsource /etc/network/interfaces.d/*\r\nauto lo\r\niface lo inet loopback\r\n"
    );
    assert!(!tree.is("etc/network/interfaces.d/vip"));
    assert!(report.replaced.iter().any(|row| row.what == "addresses" && row.old.contains("10.0.0.5")));
    assert_eq!(tree.again(&own("db2")).edits, []);
}

#[test]
fn ifupdown_keeps_what_a_bond_is_made_of() {
    let tree = debian(&[("etc/network/interfaces", INTERFACES)]);
    tree.prepare(&with("bond0", "10.9.0.6"));
    assert_eq!(
        tree.text("etc/network/interfaces"),
        "# The network\r\nsource /etc/network/interfaces.d/*\r\nauto lo bond0\r\niface lo inet loopback\r\n\
         iface bond0 inet static\r\n    address 10.9.0.6/24\r\n    gateway 10.9.0.1\r\n    bond-slaves eth0 eth1\r\n\
         \x20   bond-mode 1\r\n    mtu 9000\r\nauto eth0\r\niface eth0 inet manual\r\n"
    );
    assert_eq!(tree.again(&with("bond0", "10.9.0.6")).edits, []);
}

#[test]
fn an_interface_that_no_file_has_gets_a_stanza() {
    let tree = debian(&[("etc/network/interfaces", "auto lo\niface lo inet loopback\niface eth0 inet dhcp")]);
    tree.prepare(&with("ens3", "10.9.0.6"));
    let text = tree.text("etc/network/interfaces");
    assert!(
        text.ends_with("auto ens3\niface ens3 inet static\n    address 10.9.0.6/24\n    gateway 10.9.0.1\n"),
        "{text}"
    );
    assert!(!text.contains("eth0"));
    assert_eq!(tree.again(&with("ens3", "10.9.0.6")).edits, []);
}

#[test]
fn netplan_is_written_anew() {
    let yaml = "network:\n  renderer: networkd\n  ethernets:\n    eth0:\n      match: {macaddress: \"52:54:00:11:22:33\"}\n      addresses:\n        - 10.0.0.5/24\n";
    let tree = debian(&[("etc/netplan/01-netcfg.yaml", yaml)]);
    let report = tree.prepare(&with("eth0", "10.9.0.6"));
    assert!(!tree.is("etc/netplan/01-netcfg.yaml"));
    assert_eq!(
        tree.text("etc/netplan/60-clonetool.yaml"),
        "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    eth0:\n      addresses: [\"10.9.0.6/24\"]\n      \
         routes:\n      - to: \"0.0.0.0/0\"\n        via: \"10.9.0.1\"\n"
    );
    assert!(report.replaced.iter().any(|row| row.what == "address eth0" && row.old == "10.0.0.5"));
    assert_eq!(tree.again(&with("eth0", "10.9.0.6")).edits, []);
}

#[test]
fn networkd_keeps_ports_and_strips_hardware() {
    let files = [
        (
            "etc/systemd/network/eth0.network",
            "[Match]\nName=eth0\nMACAddress=52:54:00:11:22:33\n[Network]\nBond=bond0\n",
        ),
        (
            "etc/systemd/network/bond0.netdev",
            "[NetDev]\nName=bond0\nKind=bond\nMACAddress=52:54:00:11:22:33\n",
        ),
        (
            "etc/systemd/network/bond0.network",
            "[Match]\nName=bond0\n[Network]\nDNS=10.0.0.2\nAddress=10.0.0.5/24\n[Route]\nGateway=10.0.0.1\n",
        ),
        ("etc/systemd/network/bond0.network.d/more.conf", "[Network]\nAddress=10.0.0.5/24\nDNS=10.0.0.3\n"),
        ("etc/systemd/network/eth5.network", "[Match]\nName=eth5\n[Network]\nDHCP=yes\n"),
        ("etc/systemd/network/10-mac.link", "[Match]\nMACAddress=52:54:00:11:22:33\n[Link]\nName=lan\n"),
        ("etc/systemd/network/wg0.netdev", "[NetDev]\nName=wg0\nKind=wireguard\n[WireGuard]\nPrivateKey=x\n"),
    ];
    let tree = family("arch", &files);
    tree.prepare(&with("bond0", "10.9.0.6"));
    assert_eq!(tree.text("etc/systemd/network/eth0.network"), "[Match]\nName=eth0\n[Network]\nBond=bond0\n");
    assert_eq!(
        tree.text("etc/systemd/network/bond0.network"),
        "[Match]\nName=bond0\n[Network]\nAddress=10.9.0.6/24\nGateway=10.9.0.1\nDNS=10.0.0.2\n"
    );
    assert_eq!(tree.text("etc/systemd/network/bond0.network.d/more.conf"), "[Network]\nDNS=10.0.0.3\n");
    free_of_production(&tree, "etc/systemd/network/bond0.netdev");
    for gone in ["eth5.network", "10-mac.link", "wg0.netdev"] {
        assert!(!tree.is(&format!("etc/systemd/network/{gone}")), "{gone}");
    }
    assert_eq!(tree.again(&with("bond0", "10.9.0.6")).edits, []);
}

#[test]
fn an_interface_without_an_address_makes_no_boot_wait() {
    let tree = family(
        "arch",
        &[
            ("usr/lib/systemd/systemd", ""),
            ("etc/systemd/network/eth5.network", "[Match]\nName=eth5\n[Network]\nDHCP=yes\n"),
        ],
    );
    tree.link(
        "etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service",
        "/usr/lib/systemd/system/systemd-networkd-wait-online.service",
    );
    let report = tree.prepare(&own("db2"));
    assert!(report.held.iter().any(|held| held.name == "systemd-networkd-wait-online.service"));
}

#[test]
fn network_manager_asks_nobody_for_an_address_that_was_not_given() {
    let files = [
        (
            "etc/NetworkManager/system-connections/lan.nmconnection",
            "[connection]\nid=lan\nuuid=1\ntype=ethernet\ninterface-name=eth0\n\n[ethernet]\nmac-address=52:54:00:11:22:33\nmtu=9000\n\n[ipv4]\naddress1=10.0.0.5/24,10.0.0.1\nmethod=manual\n\n[ipv6]\nmethod=auto\n",
        ),
        (
            "etc/NetworkManager/system-connections/office.nmconnection",
            "[connection]\ntype=wireguard\ninterface-name=wg0\n",
        ),
        ("var/lib/NetworkManager/secret_key", "x"),
        ("var/lib/NetworkManager/internal-1.lease", "x"),
        ("usr/sbin/NetworkManager", ""),
        ("etc/udev/rules.d/70-persistent-net.rules", "x"),
        ("var/lib/dhcp/dhclient.leases", "x"),
    ];
    let tree = family("fedora", &files);
    tree.mode("etc/NetworkManager/system-connections/lan.nmconnection", 0o600);
    let report = tree.prepare(&with("eth0", "10.9.0.6"));
    let text = tree.text("etc/NetworkManager/system-connections/lan.nmconnection");
    assert!(
        text.contains("mtu=9000")
            && text.contains("address1=10.9.0.6/24,10.9.0.1")
            && !text.contains("method=auto"),
        "{text}"
    );
    free_of_production(&tree, "etc/NetworkManager/system-connections/lan.nmconnection");
    assert!(report.replaced.iter().any(|row| row.old == "10.0.0.5"), "{:?}", report.replaced);
    for gone in [
        "etc/NetworkManager/system-connections/office.nmconnection",
        "var/lib/NetworkManager/secret_key",
        "var/lib/NetworkManager/internal-1.lease",
        "etc/udev/rules.d/70-persistent-net.rules",
        "var/lib/dhcp/dhclient.leases",
    ] {
        assert!(!tree.is(gone), "{gone}");
    }
    assert!(tree.text("etc/NetworkManager/conf.d/90-clonetool.conf").contains("no-auto-default=*"));
    assert_eq!(tree.again(&with("eth0", "10.9.0.6")).edits, []);
    let down = family("fedora", &files);
    down.prepare(&own("db2"));
    assert!(!down.is("etc/NetworkManager/system-connections/lan.nmconnection"));
}

#[test]
fn ifcfg_of_red_hat_loses_hardware_and_address() {
    let files = [
        ("etc/sysconfig/network-scripts/ifcfg-lo", "DEVICE=lo\nIPADDR=127.0.0.1\n"),
        (
            "etc/sysconfig/network-scripts/ifcfg-eth0",
            "DEVICE=eth0\nHWADDR=52:54:00:11:22:33\nIPADDR=10.0.0.5\nPREFIX=24\nONBOOT=yes\nMTU=9000",
        ),
        ("etc/sysconfig/network-scripts/ifcfg-eth0:1", "DEVICE=eth0:1\nIPADDR=10.0.0.77\n"),
        ("etc/sysconfig/network-scripts/route-eth0", "10.7.0.0/16 via 10.0.0.1\n"),
        ("etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=db1\nGATEWAY=10.0.0.1\n"),
    ];
    let tree = family("rhel", &files);
    tree.prepare(&own("db2"));
    assert_eq!(
        tree.text("etc/sysconfig/network-scripts/ifcfg-eth0"),
        "DEVICE=eth0\nMTU=9000\nONBOOT=no\nBOOTPROTO=none\n"
    );
    assert!(tree.text("etc/sysconfig/network-scripts/ifcfg-lo").contains("127.0.0.1"));
    assert!(
        !tree.is("etc/sysconfig/network-scripts/ifcfg-eth0:1")
            && !tree.is("etc/sysconfig/network-scripts/route-eth0")
    );
    assert_eq!(tree.text("etc/sysconfig/network"), "NETWORKING=yes\nHOSTNAME=db2\n");
    assert_eq!(tree.again(&own("db2")).edits, []);
    let up = family("rhel", &files);
    up.prepare(&with("eth0", "10.9.0.6"));
    assert_eq!(
        up.text("etc/sysconfig/network-scripts/ifcfg-eth0"),
        "DEVICE=eth0\nMTU=9000\nONBOOT=yes\nBOOTPROTO=none\nIPADDR=10.9.0.6\nPREFIX=24\nGATEWAY=10.9.0.1\n"
    );
}

#[test]
fn ifcfg_of_suse_has_its_route_beside_it() {
    let files = [
        (
            "etc/sysconfig/network/ifcfg-eth0",
            "BOOTPROTO='static'\nIPADDR='10.0.0.5/24'\nLLADDR='52:54:00:11:22:33'\nSTARTMODE='auto'\nMTU='9000'\n",
        ),
        ("etc/sysconfig/network/routes", "default 10.0.0.1 - -\n10.7.0.0/16 10.0.0.2 - eth0\n"),
        ("etc/sysconfig/network/dhcp", "DHCLIENT_CLIENT_ID=\"db1\"\nDHCLIENT_DEBUG=\"no\"\n"),
        ("var/lib/wicked/duid.xml", "x"),
    ];
    let tree = family("sles", &files);
    tree.prepare(&with("eth0", "10.9.0.6"));
    assert_eq!(
        tree.text("etc/sysconfig/network/ifcfg-eth0"),
        "MTU='9000'\nSTARTMODE='auto'\nBOOTPROTO='static'\nIPADDR='10.9.0.6/24'\n"
    );
    assert_eq!(tree.text("etc/sysconfig/network/ifroute-eth0"), "default 10.9.0.1 - eth0\n");
    assert_eq!(tree.text("etc/sysconfig/network/routes"), "10.7.0.0/16 10.0.0.2 - eth0\n");
    assert_eq!(tree.text("etc/sysconfig/network/dhcp"), "DHCLIENT_DEBUG=\"no\"\n");
    assert!(!tree.is("var/lib/wicked/duid.xml"));
    assert_eq!(tree.again(&with("eth0", "10.9.0.6")).edits, []);
    let down = family("sles", &files);
    down.prepare(&own("db2"));
    assert_eq!(
        down.text("etc/sysconfig/network/ifcfg-eth0"),
        "MTU='9000'\nSTARTMODE='off'\nBOOTPROTO='none'\n"
    );
}

#[test]
fn an_initramfs_does_not_come_up_with_productions_address() {
    let tree = debian(&[
        ("etc/hosts", "10.0.0.5 db1\n"),
        (
            "etc/initramfs-tools/initramfs.conf",
            "MODULES=most\nIP=10.0.0.5::10.0.0.1:255.255.255.0::eth0:off\n",
        ),
        ("etc/initramfs-tools/conf.d/more", "IP=dhcp\n"),
        ("etc/cmdline.d/10-net.conf", "ip=10.0.0.5::10.0.0.1:255.255.255.0:db1:eth0:none\n"),
        ("etc/cmdline.d/20-net.conf", "ip=10.0.0.55::10.0.0.1:255.255.255.0:x:eth0:none\n"),
    ]);
    let report = tree.prepare(&own("db2"));
    assert_eq!(tree.text("etc/initramfs-tools/initramfs.conf"), "MODULES=most\nIP=off\n");
    assert_eq!(tree.text("etc/initramfs-tools/conf.d/more"), "IP=dhcp\n");
    let pending = report.findings.iter().filter(|found| found.weight == crate::prepare::Weight::Pending);
    assert_eq!(pending.filter(|found| found.message.contains("cmdline.d/10-net.conf")).count(), 1);
    assert!(!report.findings.iter().any(|found| found.message.contains("20-net.conf")));
}
