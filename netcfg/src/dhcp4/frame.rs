//! The IPv4 and UDP headers around a DHCP message while there is no address yet.
//!
//! Without an address the kernel's UDP cannot be used: we write and read whole IPv4 packets.
//! RFC 791, RFC 768 and, for the sum, RFC 1071.

use std::net::Ipv4Addr;

/// RFC 2131, section 4.1.
pub const SERVER_PORT: u16 = 67;
/// RFC 2131, section 4.1.
pub const CLIENT_PORT: u16 = 68;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

/// Whether the UDP checksum of a received packet means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// It was on a wire: check it.
    Complete,
    /// It comes from a virtual machine or container on this host, whose kernel left the sum to a
    /// network card that does not exist (`TP_STATUS_CSUMNOTREADY`).
    Partial,
}

/// A broadcast from the client without an address to all servers.
pub fn build(payload: &[u8]) -> Option<Vec<u8>> {
    let (source, destination) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    let udp_length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let total = u16::try_from(IP_HEADER + UDP_HEADER + payload.len()).ok()?;

    let mut ip = Vec::with_capacity(usize::from(total));
    // Version 4, five words; precedence "internetwork control", as routing protocols have it.
    ip.extend([0x45, 0xc0]);
    ip.extend(total.to_be_bytes());
    // Identification 0, do not fragment; a time to live that a relay may count down.
    ip.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    ip.extend(source.octets());
    ip.extend(destination.octets());
    let sum = finish(add(0, &ip));
    ip.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());

    let mut udp = Vec::with_capacity(usize::from(udp_length));
    udp.extend(CLIENT_PORT.to_be_bytes());
    udp.extend(SERVER_PORT.to_be_bytes());
    udp.extend(udp_length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend_from_slice(payload);
    // Zero means "no checksum" (RFC 768); a sum of zero is sent as all ones.
    let sum = match finish(add(pseudo(source, destination, udp_length), &udp)) {
        0 => 0xffff,
        sum => sum,
    };
    udp.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());

    ip.extend(udp);
    Some(ip)
}

/// The DHCP message in a received IPv4 packet, if it is one for a client and undamaged.
pub fn parse(packet: &[u8], checksum: Checksum) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header_length = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header_length < IP_HEADER {
        return None;
    }
    let header = packet.get(..header_length)?;
    let total = usize::from(be16(header, 2)?);
    // A fragment (more to come, or not the first) is no message.
    if be16(header, 6)? & 0x3fff != 0 || header.get(9) != Some(&UDP) {
        return None;
    }
    if finish(add(0, header)) != 0 {
        return None;
    }
    // Ethernet pads short packets: the total length says where this one ends.
    let udp = packet.get(header_length..total)?;
    if be16(udp, 2)? != CLIENT_PORT {
        return None;
    }
    let udp_length = be16(udp, 4)?;
    let udp = udp.get(..usize::from(udp_length))?;
    if checksum == Checksum::Complete && be16(udp, 6)? != 0 {
        let source: [u8; 4] = header.get(12..16)?.try_into().ok()?;
        let destination: [u8; 4] = header.get(16..20)?.try_into().ok()?;
        if finish(add(
            pseudo(source.into(), destination.into(), udp_length),
            udp,
        )) != 0
        {
            return None;
        }
    }
    udp.get(UDP_HEADER..)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(pair.try_into().ok()?))
}

/// The part of the UDP sum that covers the addresses.
fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, udp_length: u16) -> u32 {
    let sum = add(add(0, &source.octets()), &destination.octets());
    sum + u32::from(UDP) + u32::from(udp_length)
}

/// Adds big-endian words; a last odd byte counts as the high half. No packet of 64 KiB can
/// overflow 32 bits.
fn add(sum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(sum, |sum, word| {
        let low = word.get(1).copied().unwrap_or(0);
        sum + u32::from(u16::from_be_bytes([word[0], low]))
    })
}

/// Folds the carries and inverts.
fn finish(sum: u32) -> u16 {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded & 0xffff).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet as a server sends it: ours with the ports swapped and the sums made again.
    pub fn to_client(payload: &[u8]) -> Vec<u8> {
        let mut packet = build(payload).expect("fits");
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        packet
    }

    #[test]
    fn a_packet_survives_the_way_back() {
        // Swapping the two ports does not change a sum of words.
        for payload in [&b"hello"[..], b"", b"even", &[255; 1000]] {
            let packet = to_client(payload);
            assert_eq!(parse(&packet, Checksum::Complete), Some(payload));
            let padded = [&packet[..], &[0; 30]].concat();
            assert_eq!(parse(&padded, Checksum::Complete), Some(payload));
        }
    }

    #[test]
    fn damage_is_seen() {
        let packet = to_client(b"a DHCP message");
        for at in 0..packet.len() {
            let mut damaged = packet.clone();
            damaged[at] ^= 0x21;
            assert_eq!(parse(&damaged, Checksum::Complete), None, "byte {at}");
        }
        for cut in 0..packet.len() {
            assert_eq!(
                parse(&packet[..cut], Checksum::Complete),
                None,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_partial_or_absent_sum_is_not_checked() {
        let mut packet = to_client(b"from a neighbour on this host");
        packet[26..28].copy_from_slice(&[0x12, 0x34]);
        assert_eq!(parse(&packet, Checksum::Complete), None);
        assert!(parse(&packet, Checksum::Partial).is_some());
        packet[26..28].copy_from_slice(&[0, 0]);
        assert!(parse(&packet, Checksum::Complete).is_some());
    }

    #[test]
    fn other_ports_and_fragments_are_not_ours() {
        let ours = build(b"x").expect("fits");
        assert_eq!(parse(&ours, Checksum::Partial), None, "to a server");
        let mut fragment = to_client(b"x");
        fragment[6] |= 0x20;
        let sum_fix = finish(add(
            0,
            &[&fragment[..10], &[0, 0], &fragment[12..20]].concat(),
        ));
        fragment[10..12].copy_from_slice(&sum_fix.to_be_bytes());
        assert_eq!(parse(&fragment, Checksum::Partial), None);
    }
}
