use proptest::prelude::*;

use super::*;

/// What must be refused, written apart from the table under test: IANA's IPv4 and IPv6 special-purpose registries where
/// they do not say "globally reachable", and what [`ranges::REFUSED`] says it adds.
const REFUSED_V4: [&str; 18] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "233.252.0.0/24",
    "240.0.0.0/4",
    "255.255.255.255/32",
];
const REFUSED_V6: [&str; 25] = [
    "::/128",
    "::1/128",
    "::/96",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "::/3",
    "4000::/2",
    "8000::/1",
];
const CARRIERS: [&str; 6] = [
    "::/96",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "2002::/16",
    "2001::/32",
];

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn all_refused() -> Vec<IpNet> {
    [nets(&REFUSED_V4), nets(&REFUSED_V6)].concat()
}

fn strict() -> EgressPolicy {
    EgressPolicy::default()
}

fn allowing(texts: &[&str]) -> EgressPolicy {
    EgressPolicy {
        allow_cidrs: nets(texts),
        ..strict()
    }
}

/// The address of `net` whose host bits are those of `offset`.
fn inside(net: IpNet, offset: u128) -> IpAddr {
    match net {
        IpNet::V4(net) => {
            Ipv4Addr::from_bits(net.network().to_bits() | offset as u32 & net.hostmask().to_bits()).into()
        }
        IpNet::V6(net) => {
            Ipv6Addr::from_bits(net.network().to_bits() | offset & net.hostmask().to_bits()).into()
        }
    }
}

/// The addresses right before and right after `net`.
fn neighbours(net: IpNet) -> Vec<IpAddr> {
    match net {
        IpNet::V4(net) => {
            let before = net.network().to_bits().checked_sub(1);
            let after = net.broadcast().to_bits().checked_add(1);
            [before, after]
                .into_iter()
                .flatten()
                .map(|bits| Ipv4Addr::from_bits(bits).into())
                .collect()
        }
        IpNet::V6(net) => {
            let before = net.network().to_bits().checked_sub(1);
            let after = net.broadcast().to_bits().checked_add(1);
            [before, after]
                .into_iter()
                .flatten()
                .map(|bits| Ipv6Addr::from_bits(bits).into())
                .collect()
        }
    }
}

/// Every IPv6 form that carries an IPv4 address.
fn carriers_of(address: Ipv4Addr) -> [Ipv6Addr; 6] {
    let bits = u128::from(address.to_bits());
    let prefix = |text: &str| text.parse::<Ipv6Addr>().unwrap().to_bits();
    [
        Ipv6Addr::from_bits(bits),
        Ipv6Addr::from_bits(prefix("::ffff:0:0") | bits),
        Ipv6Addr::from_bits(prefix("::ffff:0:0:0") | bits),
        Ipv6Addr::from_bits(prefix("64:ff9b::") | bits),
        Ipv6Addr::from_bits(prefix("2002::") | bits << 80 | 1),
        Ipv6Addr::from_bits(prefix("2001:0:808:808::") | u128::from(!address.to_bits())),
    ]
}

fn any_refused_net() -> impl Strategy<Value = IpNet> {
    prop::sample::select(all_refused())
}

fn any_refused_v4() -> impl Strategy<Value = Ipv4Addr> {
    (prop::sample::select(nets(&REFUSED_V4)), any::<u128>()).prop_map(|(net, offset)| {
        match inside(net, offset) {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => unreachable!("the networks are of IPv4"),
        }
    })
}

#[test]
fn refusals_name_the_kind_and_the_range() {
    for (address, expected) in [
        ("0.0.0.0", "an address of this network (0.0.0.0/8)"),
        ("10.1.2.3", "a private address (10.0.0.0/8)"),
        ("100.64.0.1", "a carrier-grade NAT address (100.64.0.0/10)"),
        ("100.100.100.200", "a cloud metadata address (100.100.100.200/32)"),
        ("127.0.0.1", "a loopback address (127.0.0.0/8)"),
        ("168.63.129.16", "a cloud metadata address (168.63.129.16/32)"),
        ("169.254.169.254", "a cloud metadata address (169.254.169.254/32)"),
        ("169.254.1.1", "a link-local address (169.254.0.0/16)"),
        ("172.31.255.255", "a private address (172.16.0.0/12)"),
        ("192.168.0.1", "a private address (192.168.0.0/16)"),
        ("198.19.255.255", "a benchmark address (198.18.0.0/15)"),
        ("203.0.113.7", "a documentation address (203.0.113.0/24)"),
        ("239.255.255.255", "a multicast address (224.0.0.0/4)"),
        ("240.0.0.1", "a reserved address (240.0.0.0/4)"),
        ("255.255.255.255", "the broadcast address (255.255.255.255/32)"),
        ("::", "the unspecified address (::/128)"),
        ("::1", "a loopback address (::1/128)"),
        ("::8.8.8.8", "an IPv4-compatible address (::/96)"),
        ("::ffff:8.8.8.8", "an IPv4-mapped address (::ffff:0.0.0.0/96)"),
        ("64:ff9b::8.8.8.8", "a NAT64 address (64:ff9b::/96)"),
        ("64:ff9b:1:2::3", "a local NAT64 address (64:ff9b:1::/48)"),
        ("2001:0:1:2::3", "a Teredo address (2001::/32)"),
        ("2001:2::1", "a benchmark address (2001:2::/48)"),
        ("2001:2f::1", "an ORCHID address (2001:20::/28)"),
        ("2001:1::1", "an IETF protocol address (2001::/23)"),
        ("2001:db8::1", "a documentation address (2001:db8::/32)"),
        ("2002:808:808::1", "a 6to4 address (2002::/16)"),
        ("3fff:fff::1", "a documentation address (3fff::/20)"),
        ("5f00::1", "a segment-routing address (5f00::/16)"),
        ("fd00:ec2::254", "a cloud metadata address (fd00:ec2::254/128)"),
        ("fd12::1", "a unique-local address (fc00::/7)"),
        ("fe80::1", "a link-local address (fe80::/10)"),
        ("fec0::1", "a site-local address (fec0::/10)"),
        ("ff02::1", "a multicast address (ff00::/8)"),
        ("200::1", "a reserved address (::/3)"),
        ("4000::1", "a reserved address (4000::/2)"),
        ("9000::1", "a reserved address (8000::/1)"),
    ] {
        let refused = strict().vet_address(address.parse().unwrap()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("must not point to {expected}"),
            "{address}"
        );
    }
}

#[test]
fn every_range_is_reached() {
    // A range behind one that holds it would never name an address.
    for &(net, kind) in ranges::REFUSED {
        let last = inside(net, u128::MAX);
        let hits = [net.network(), last, inside(net, 0x5555 << 64 | 0x1234_5678)]
            .into_iter()
            .filter_map(ranges::refused)
            .filter(|&hit| hit == (net, kind))
            .count();
        assert_ne!(hits, 0, "{net}");
    }
}

#[test]
fn public_addresses_are_accepted() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "104.16.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450::1",
        "2001:200::1",
    ] {
        assert_eq!(
            strict().vet_address(address.parse().unwrap()),
            Ok(()),
            "{address}"
        );
    }
}

#[test]
fn neighbours_of_every_range_are_judged_by_their_own() {
    let refused = all_refused();
    let mut accepted = 0;
    for &net in &refused {
        for address in neighbours(net) {
            let expected = refused.iter().any(|other| other.contains(&address));
            assert_eq!(
                strict().vet_address(address).is_err(),
                expected,
                "{address} beside {net}"
            );
            accepted += usize::from(!expected);
        }
    }
    assert!(accepted > 30, "only {accepted} borders lead outside");
}

#[test]
fn an_opened_carrier_opens_only_what_it_carries_of_allowed_addresses() {
    let nat64 = allowing(&["64:ff9b::/96"]);
    assert_eq!(nat64.vet_address("64:ff9b::8.8.8.8".parse().unwrap()), Ok(()));
    let refused = nat64
        .vet_address("64:ff9b::10.0.0.1".parse().unwrap())
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "must not point to a private address (10.0.0.0/8)"
    );
    let both = allowing(&["64:ff9b::/96", "10.0.0.0/8"]);
    assert_eq!(both.vet_address("64:ff9b::10.0.0.1".parse().unwrap()), Ok(()));
    // What is open directly is not open through a carrier that is not.
    assert!(
        allowing(&["127.0.0.0/8"])
            .vet_address("::ffff:127.0.0.1".parse().unwrap())
            .is_err()
    );
}

#[test]
fn of_a_resolved_host_the_vetted_addresses_are_used() {
    let [public, private, loopback]: [IpAddr; 3] =
        ["8.8.8.8", "10.0.0.1", "::1"].map(|address| address.parse().unwrap());
    assert_eq!(
        strict().vet_addresses([private, public, loopback]),
        Ok(vec![public])
    );
    let refused = strict().vet_addresses([private, loopback]).unwrap_err();
    assert_eq!(
        (refused.address, refused.range),
        (private, "10.0.0.0/8".parse().unwrap())
    );
    assert_eq!(strict().vet_addresses([]), Ok(vec![]));
    assert_eq!(
        allowing(&["::1/128"]).vet_addresses([private, loopback]),
        Ok(vec![loopback])
    );
}

proptest! {
    #[test]
    fn addresses_in_every_range_are_refused_unless_allowed(net in any_refused_net(), offset: u128) {
        let address = inside(net, offset);
        let refused = strict().vet_address(address).unwrap_err();
        prop_assert!(refused.range.contains(&address));
        prop_assert_eq!(refused.address, address);

        let policy = EgressPolicy { allow_cidrs: vec![net], ..strict() };
        match ranges::carried(address) {
            None => prop_assert_eq!(policy.vet_address(address), Ok(())),
            Some(carried) => {
                prop_assert_eq!(policy.vet_address(address).is_ok(), strict().vet_address(carried.into()).is_ok());
            }
        }
    }

    #[test]
    fn every_ipv4_address_is_judged_by_the_ranges(bits: u32) {
        let address = IpAddr::from(Ipv4Addr::from_bits(bits));
        let expected = nets(&REFUSED_V4).iter().any(|net| net.contains(&address));
        prop_assert_eq!(strict().vet_address(address).is_err(), expected);
    }

    #[test]
    fn every_ipv6_address_is_judged_by_the_ranges(bits: u128) {
        // Anywhere, in global unicast, and in the part of it that holds most ranges.
        for bits in [bits, 0x2 << 124 | bits >> 3, 0x2001 << 112 | bits >> 16] {
            let address = IpAddr::from(Ipv6Addr::from_bits(bits));
            let expected = nets(&REFUSED_V6).iter().any(|net| net.contains(&address));
            prop_assert_eq!(strict().vet_address(address).is_err(), expected);
        }
    }

    #[test]
    fn refused_ipv4_addresses_are_refused_in_every_carrier(address in any_refused_v4()) {
        for carrier in carriers_of(address) {
            prop_assert!(strict().vet_address(carrier.into()).is_err(), "{}", carrier);
            // `::` and `::1` are addresses of their own.
            if carrier.to_bits() > 1 {
                prop_assert!(allowing(&CARRIERS).vet_address(carrier.into()).is_err(), "{}", carrier);
            }
        }
    }

    #[test]
    fn public_ipv4_addresses_pass_through_opened_carriers_only(bits: u32) {
        let address = Ipv4Addr::from_bits(bits);
        prop_assume!(strict().vet_address(address.into()).is_ok());
        for carrier in carriers_of(address) {
            prop_assert!(strict().vet_address(carrier.into()).is_err(), "{}", carrier);
            prop_assert_eq!(allowing(&CARRIERS).vet_address(carrier.into()), Ok(()));
        }
    }
}

mod urls;
