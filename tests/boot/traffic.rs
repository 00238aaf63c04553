//! The packets of a machine's only interface, from qemu's pcap file: which addresses they name.
//!
//! Names and masks can be shown by a program that means well; what counts is what was on the wire.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;
const ETHERNET_BYTES: usize = 14;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;

/// The addresses that a packet of `pcap` comes from, goes to or asks for.
pub(crate) fn addresses(pcap: &[u8]) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut rest = pcap.get(FILE_HEADER_BYTES..).unwrap_or_default();
    while let Some(header) = rest.get(..RECORD_HEADER_BYTES) {
        // Qemu writes its own byte order; the test runs where qemu does.
        let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let body = &rest[RECORD_HEADER_BYTES..];
        // The last packet is cut off when the machine's plug was pulled.
        let Some(packet) = body.get(..length) else { break };
        found.extend(of_packet(packet));
        rest = &body[length..];
    }
    found
}

fn of_packet(packet: &[u8]) -> Vec<Ipv4Addr> {
    let address = |at: usize| {
        let bytes = packet.get(ETHERNET_BYTES + at..ETHERNET_BYTES + at + 4)?;
        Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    };
    let Some(kind) = packet.get(12..ETHERNET_BYTES) else { return Vec::new() };
    let places = match u16::from_be_bytes([kind[0], kind[1]]) {
        IPV4 => [12, 16],
        ARP => [14, 24],
        _ => return Vec::new(),
    };
    places.into_iter().filter_map(address).collect()
}
