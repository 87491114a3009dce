//! The addresses that are not public: IANA's special-purpose registries of IPv4 and IPv6, what was deprecated from them,
//! and where clouds serve metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A network and the kind of its addresses, with its article.
pub(super) type Range = (IpNet, &'static str);

const BENCHMARK: &str = "a benchmark address";
const DOCUMENTATION: &str = "a documentation address";
const LINK_LOCAL: &str = "a link-local address";
const LOOPBACK: &str = "a loopback address";
const METADATA: &str = "a cloud metadata address";
const MULTICAST: &str = "a multicast address";
const PRIVATE: &str = "a private address";
const PROTOCOL: &str = "an IETF protocol address";
const RESERVED: &str = "a reserved address";

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, kind: &'static str) -> Range {
    (
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)),
        kind,
    )
}

/// `leading` are the segments before the `::` that ends the address.
const fn v6(leading: &[u16], prefix: u8, kind: &'static str) -> Range {
    let mut bits = 0;
    let mut index = 0;
    while index < leading.len() {
        bits |= (leading[index] as u128) << (112 - 16 * index);
        index += 1;
    }
    (
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), prefix)),
        kind,
    )
}

/// What is refused. The first match counts, so a range stands before one that holds it.
pub(super) static REFUSED: &[Range] = &[
    v4(0, 0, 0, 0, 8, "an address of this network"),
    v4(10, 0, 0, 0, 8, PRIVATE),
    v4(100, 100, 100, 200, 32, METADATA),
    v4(100, 64, 0, 0, 10, "a carrier-grade NAT address"),
    v4(127, 0, 0, 0, 8, LOOPBACK),
    // Azure's host agent: the only one in public space.
    v4(168, 63, 129, 16, 32, METADATA),
    v4(169, 254, 169, 254, 32, METADATA),
    v4(169, 254, 170, 2, 32, METADATA),
    v4(169, 254, 0, 0, 16, LINK_LOCAL),
    v4(172, 16, 0, 0, 12, PRIVATE),
    v4(192, 0, 0, 192, 32, METADATA),
    v4(192, 0, 0, 0, 24, PROTOCOL),
    v4(192, 0, 2, 0, 24, DOCUMENTATION),
    v4(192, 88, 99, 0, 24, "a 6to4 relay address"),
    v4(192, 168, 0, 0, 16, PRIVATE),
    v4(198, 18, 0, 0, 15, BENCHMARK),
    v4(198, 51, 100, 0, 24, DOCUMENTATION),
    v4(203, 0, 113, 0, 24, DOCUMENTATION),
    v4(224, 0, 0, 0, 4, MULTICAST),
    v4(255, 255, 255, 255, 32, "the broadcast address"),
    v4(240, 0, 0, 0, 4, RESERVED),
    v6(&[], 128, "the unspecified address"),
    v6(&[0, 0, 0, 0, 0, 0, 0, 1], 128, LOOPBACK),
    v6(&[], 96, "an IPv4-compatible address"),
    v6(&[0, 0, 0, 0, 0, 0xffff], 96, "an IPv4-mapped address"),
    v6(&[0, 0, 0, 0, 0xffff], 96, "an IPv4-translated address"),
    v6(&[0x64, 0xff9b], 96, "a NAT64 address"),
    v6(&[0x64, 0xff9b, 1], 48, "a local NAT64 address"),
    v6(&[0x100], 64, "a discard-only address"),
    v6(&[0x100, 0, 0, 1], 64, "a dummy address"),
    v6(&[0x2001], 32, "a Teredo address"),
    v6(&[0x2001, 2], 48, BENCHMARK),
    v6(&[0x2001, 0x10], 28, "an ORCHID address"),
    v6(&[0x2001, 0x20], 28, "an ORCHID address"),
    v6(&[0x2001], 23, PROTOCOL),
    v6(&[0x2001, 0xdb8], 32, DOCUMENTATION),
    v6(&[0x2002], 16, "a 6to4 address"),
    v6(&[0x3fff], 20, DOCUMENTATION),
    v6(&[0x5f00], 16, "a segment-routing address"),
    v6(&[0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, METADATA),
    v6(&[0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, METADATA),
    v6(&[0xfc00], 7, "a unique-local address"),
    v6(&[0xfe80], 10, LINK_LOCAL),
    v6(&[0xfec0], 10, "a site-local address"),
    v6(&[0xff00], 8, MULTICAST),
    // Global unicast is 2000::/3; the rest is not assigned to anybody.
    v6(&[], 3, RESERVED),
    v6(&[0x4000], 2, RESERVED),
    v6(&[0x8000], 1, RESERVED),
];

/// The range that refuses `address`, if one does.
pub(super) fn refused(address: IpAddr) -> Option<Range> {
    REFUSED.iter().find(|(net, _)| net.contains(&address)).copied()
}

/// The IPv4 address that a packet to `address` ends up at, when the form says so: mapped, compatible, translated, NAT64
/// (RFC 6052, well-known prefix), 6to4 and Teredo. The layout of a local NAT64 prefix is its operator's.
pub(super) fn carried(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    if address.is_unspecified() || address.is_loopback() {
        return None;
    }
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => (high, low),
        [0x2001, 0, _, _, _, _, high, low] => (!high, !low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}
