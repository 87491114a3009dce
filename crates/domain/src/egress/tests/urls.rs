//! URLs, in every spelling that hides where they lead.

use super::*;

fn vetted(text: &str) -> Result<String, UrlRefused> {
    strict().vet_url(text).map(String::from)
}

/// The range that refuses the URL's literal address.
fn refused_range(text: &str) -> String {
    match vetted(text) {
        Err(UrlRefused::Address(refused)) => refused.range.to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn public_urls_are_normalised() {
    for (text, expected) in [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://EXAMPLE.com:443/Hook?a=B", "https://example.com/Hook?a=B"),
        ("http://example.com:8080/a/../b", "http://example.com:8080/b"),
        ("https://example.com./hook", "https://example.com/hook"),
        ("https://my_host-1.example.com/", "https://my_host-1.example.com/"),
        ("https://bücher.example/é", "https://xn--bcher-kva.example/%C3%A9"),
        ("https://ＥＸＡＭＰＬＥ。com/", "https://example.com/"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://134744072/", "https://8.8.8.8/"),
        (
            "https://[2606:4700:0::1111]:8443/",
            "https://[2606:4700::1111]:8443/",
        ),
        ("https:example.com", "https://example.com/"),
        (r"https:\\example.com\hook", "https://example.com/hook"),
    ] {
        assert_eq!(vetted(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn hidden_addresses_are_seen() {
    for (text, range) in [
        ("http://127.0.0.1/", "127.0.0.0/8"),
        ("http://127.0.0.1./", "127.0.0.0/8"),
        ("http://127.1/", "127.0.0.0/8"),
        ("http://127.0.1/", "127.0.0.0/8"),
        ("http://2130706433/", "127.0.0.0/8"),
        ("http://0x7f000001/", "127.0.0.0/8"),
        ("http://0x7f.0.0.0x1/", "127.0.0.0/8"),
        ("http://0177.0.0.1/", "127.0.0.0/8"),
        ("http://017700000001/", "127.0.0.0/8"),
        ("http://%31%32%37.0.0.1/", "127.0.0.0/8"),
        ("http://１２７.０.０.１/", "127.0.0.0/8"),
        ("http://①②⑦.⓪.⓪.①/", "127.0.0.0/8"),
        ("http://127。0。0。1/", "127.0.0.0/8"),
        ("http://0/", "0.0.0.0/8"),
        ("http://0.0.0.0:8080/", "0.0.0.0/8"),
        ("http:10.0.0.1", "10.0.0.0/8"),
        (r"http:\\10.0.0.1\", "10.0.0.0/8"),
        ("http://012.0.0.1/", "10.0.0.0/8"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254/32"),
        ("http://2852039166/", "169.254.169.254/32"),
        ("http://0xA9FEA9FE/", "169.254.169.254/32"),
        ("http://0251.0376.0251.0376/", "169.254.169.254/32"),
        ("http://[::1]/", "::1/128"),
        ("http://[0:0:0:0:0:0:0:1]/", "::1/128"),
        ("http://[::]/", "::/128"),
        ("http://[::127.0.0.1]/", "::/96"),
        ("http://[::ffff:127.0.0.1]/", "::ffff:0.0.0.0/96"),
        ("http://[::ffff:7f00:1]/", "::ffff:0.0.0.0/96"),
        ("http://[64:ff9b::a9fe:a9fe]/", "64:ff9b::/96"),
        ("http://[2002:7f00:1::]/", "2002::/16"),
        ("http://[fd00:ec2::254]/", "fd00:ec2::254/128"),
        ("http://[fe80::1]/", "fe80::/10"),
        ("http://localhost/", "127.0.0.0/8"),
        ("http://LOCALHOST.:3000/", "127.0.0.0/8"),
        ("http://a.localhost/", "127.0.0.0/8"),
    ] {
        assert_eq!(refused_range(text), range, "{text}");
    }
}

#[test]
fn malformed_urls_are_refused() {
    for (text, expected) in [
        ("ftp://example.com/", UrlRefused::Scheme),
        ("file:///etc/passwd", UrlRefused::Scheme),
        ("gopher://example.com/", UrlRefused::Scheme),
        ("javascript:alert(1)", UrlRefused::Scheme),
        ("https://user@example.com/", UrlRefused::UserInfo),
        ("https://user:password@example.com/", UrlRefused::UserInfo),
        ("https://:password@example.com/", UrlRefused::UserInfo),
        ("https://example.com@10.0.0.1/", UrlRefused::UserInfo),
        ("https://example.com/#part", UrlRefused::Fragment),
        ("https://example.com/#", UrlRefused::Fragment),
        ("https://example.com:0/", UrlRefused::Port(0)),
        ("https://example.com../", UrlRefused::Host),
        ("https://1.2.3.4../", UrlRefused::Host),
        ("https://./", UrlRefused::Host),
        ("https://a..b/", UrlRefused::Host),
        ("https://.example.com/", UrlRefused::Host),
        ("https://exa$mple.com/", UrlRefused::Host),
        ("https://*.example.com/", UrlRefused::Host),
        (&format!("https://{}.com/", "a".repeat(64)), UrlRefused::Host),
        (
            &format!("https://{}com/", "abcdefghi.".repeat(26)),
            UrlRefused::Host,
        ),
        (
            &format!("https://example.com/{}", "a".repeat(2048)),
            UrlRefused::TooLong,
        ),
        (
            &format!("https://example.com/{}", "é".repeat(1000)),
            UrlRefused::TooLong,
        ),
        ("https://exam\tple.com/", UrlRefused::WhiteSpace),
        ("https://example.com/\r\nhost: evil", UrlRefused::WhiteSpace),
        ("https://example.com/a b", UrlRefused::WhiteSpace),
        (" https://example.com/", UrlRefused::WhiteSpace),
        ("https://example.com/\0", UrlRefused::WhiteSpace),
        ("https://example.com/\u{85}", UrlRefused::WhiteSpace),
        ("", UrlRefused::Malformed(url::ParseError::RelativeUrlWithoutBase)),
        (
            "example.com/hook",
            UrlRefused::Malformed(url::ParseError::RelativeUrlWithoutBase),
        ),
        (
            "//example.com/hook",
            UrlRefused::Malformed(url::ParseError::RelativeUrlWithoutBase),
        ),
        ("https://", UrlRefused::Malformed(url::ParseError::EmptyHost)),
        ("https://:443/", UrlRefused::Malformed(url::ParseError::EmptyHost)),
        (
            "https://example.com:65536/",
            UrlRefused::Malformed(url::ParseError::InvalidPort),
        ),
        (
            "https://1.2.3.4.5/",
            UrlRefused::Malformed(url::ParseError::InvalidIpv4Address),
        ),
        (
            "https://256.0.0.1/",
            UrlRefused::Malformed(url::ParseError::InvalidIpv4Address),
        ),
        (
            "https://[::1/",
            UrlRefused::Malformed(url::ParseError::InvalidIpv6Address),
        ),
        (
            "https://[fe80::1%25eth0]/",
            UrlRefused::Malformed(url::ParseError::InvalidIpv6Address),
        ),
        (
            "https://exa<mple.com/",
            UrlRefused::Malformed(url::ParseError::IdnaError),
        ),
    ] {
        assert_eq!(vetted(text), Err(expected), "{text:?}");
    }
}

#[test]
fn refusals_end_a_sentence() {
    for (refused, expected) in [
        (UrlRefused::TooLong, "must be at most 2048 bytes"),
        (UrlRefused::Scheme, "must start with http:// or https://"),
        (UrlRefused::Port(25), "must not use port 25"),
        (
            UrlRefused::Malformed(url::ParseError::EmptyHost),
            "must be an absolute URL (empty host)",
        ),
        (
            vetted("http://10.0.0.1/").unwrap_err(),
            "must not point to a private address (10.0.0.0/8)",
        ),
    ] {
        assert_eq!(refused.to_string(), expected);
    }
}

#[test]
fn ports_are_held_to_the_policy() {
    let policy = EgressPolicy {
        ports: vec![443, 8443],
        ..strict()
    };
    for text in [
        "https://example.com/",
        "https://example.com:8443/",
        "http://example.com:443/",
    ] {
        assert!(policy.vet_url(text).is_ok(), "{text}");
    }
    assert_eq!(policy.vet_url("http://example.com/"), Err(UrlRefused::Port(80)));
    assert_eq!(
        policy.vet_url("https://example.com:22/"),
        Err(UrlRefused::Port(22))
    );
}

#[test]
fn allowed_networks_win() {
    let policy = allowing(&["127.0.0.0/8", "::1/128", "10.1.0.0/16"]);
    for text in [
        "http://127.0.0.1:3000/",
        "http://[::1]/",
        "http://2130706433/",
        "http://localhost/",
        "http://10.1.2.3/",
    ] {
        assert!(policy.vet_url(text).is_ok(), "{text}");
    }
    for text in [
        "http://10.2.0.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/",
    ] {
        assert!(
            matches!(policy.vet_url(text), Err(UrlRefused::Address(_))),
            "{text}"
        );
    }
    assert!(allowing(&["::1/128"]).vet_url("http://localhost/").is_ok());
}

proptest! {
    #[test]
    fn every_spelling_of_a_refused_address_is_refused(address in any_refused_v4()) {
        let [a, b, c, d] = address.octets();
        let bits = address.to_bits();
        for host in [
            format!("{address}"),
            format!("{address}."),
            format!("{bits}"),
            format!("{bits:#x}"),
            format!("0{bits:o}"),
            format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
            format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
            format!("{a}.{}", bits & 0xff_ffff),
            format!("{a}.{b}.{}", bits & 0xffff),
            format!("[::ffff:{address}]"),
            format!("[::{address}]"),
            format!("[64:ff9b::{address}]"),
        ] {
            let refused = strict().vet_url(&format!("http://{host}:8080/hook"));
            prop_assert!(matches!(refused, Err(UrlRefused::Address(_))), "{}: {:?}", host, refused);
        }
    }

    #[test]
    fn what_was_vetted_is_vetted_again_and_stays(text in "https?://[a-z0-9.:%\\[\\]\u{ff10}-\u{ff19}é]{0,40}(/\\PC{0,20})?") {
        if let Ok(url) = strict().vet_url(&text) {
            prop_assert_eq!(strict().vet_url(url.as_str()), Ok(url));
        }
    }

    #[test]
    fn vetting_never_panics(text in "\\PC{0,200}") {
        let _ = strict().vet_url(&text);
        let _ = strict().vet_url(&format!("http://{text}"));
    }
}
