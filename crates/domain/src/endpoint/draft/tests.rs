use proptest::prelude::*;

use super::*;

fn valid() -> EndpointDraft {
    EndpointDraft {
        url: "https://example.com/hook".into(),
        ..EndpointDraft::default()
    }
}

fn validated(draft: EndpointDraft) -> Result<EndpointSettings, Rejection> {
    draft.validate(&EgressPolicy::default(), Some(&"acme".parse().unwrap()))
}

/// Fields and messages of what is wrong with `draft`.
fn violations(draft: &EndpointDraft) -> Vec<(String, String)> {
    match validated(draft.clone()) {
        Ok(_) => Vec::new(),
        Err(Rejection::Invalid(violations)) => violations.into_iter().map(|v| (v.field, v.message)).collect(),
        Err(other) => panic!("{other}"),
    }
}

fn assert_violations(draft: &EndpointDraft, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|&(field, message)| (field.to_owned(), message.to_owned()))
        .collect();
    assert_eq!(violations(draft), expected, "{draft:?}");
}

fn with_headers(headers: &[(&str, &str)]) -> EndpointDraft {
    let headers = headers
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    EndpointDraft { headers, ..valid() }
}

const NAME: &str = "name must be 1 to 128 letters, digits or characters of !#$%&'*+-.^_`|~";
const SLACK_ENVELOPE: &str = "must be false with kind `slack`, whose messages are made from the payload";
const VALUE: &str = "value must be at most 4096 bytes of visible ASCII, spaces and tabs";

#[test]
fn defaults_need_a_url_only() {
    let settings = validated(valid()).unwrap();
    let expected = EndpointSettings {
        kind: EndpointKind::Http,
        url: "https://example.com/hook".into(),
        event_types: vec![],
        description: String::new(),
        headers: vec![],
        signature_header: None,
        timeout: Duration::from_secs(15),
        max_in_flight: 64,
        rate_limit_per_second: None,
        ordered: false,
        retry_schedule_seconds: vec![],
        envelope: false,
    };
    assert_eq!(settings, expected);
    assert_violations(
        &EndpointDraft::default(),
        &[("url", "must be an absolute URL (relative URL without a base)")],
    );
}

#[test]
fn settings_are_normalised() {
    let draft = EndpointDraft {
        url: "HTTPS://Example.com:443/hook".into(),
        event_types: vec!["budget.*".into(), "api_key.revoked".into()],
        headers: vec![
            ("X-Team".into(), " core\t".into()),
            ("authorization".into(), String::new()),
        ],
        signature_header: "X-Modelux-Signature".into(),
        rate_limit_per_second: 5,
        ..valid()
    };
    let settings = validated(draft).unwrap();
    assert_eq!(settings.url, "https://example.com/hook");
    assert_eq!(
        settings.event_types,
        ["budget.*".parse().unwrap(), "api_key.revoked".parse().unwrap()]
    );
    let header = |name: &str, value: &str| Header {
        name: name.into(),
        value: value.into(),
    };
    assert_eq!(
        settings.headers,
        [header("x-team", "core"), header("authorization", "")]
    );
    assert_eq!(settings.signature_header.as_deref(), Some("X-Modelux-Signature"));
    assert_eq!(settings.rate_limit_per_second, Some(5));
}

#[test]
fn everything_wrong_is_listed_at_once() {
    let draft = EndpointDraft {
        kind: Some(EndpointKind::Slack),
        envelope: true,
        url: "http://169.254.169.254/".into(),
        event_types: vec!["budget.*".into(), "a..b".into(), "a b".into()],
        description: "d".repeat(1025),
        headers: vec![("host".into(), "a".into()), ("x-ok".into(), "a\r\nb".into())],
        signature_header: "webhook-signature".into(),
        timeout_ms: 999,
        max_in_flight: 0,
        rate_limit_per_second: 10_001,
        retry_schedule_seconds: vec![1, 0, 86_401],
        ..valid()
    };
    let pattern = "must be an event type, an event type's prefix and `.*`, or `*`, at most 128 bytes";
    assert_violations(
        &draft,
        &[
            (
                "url",
                "must not point to a cloud metadata address (169.254.169.254/32)",
            ),
            ("event_types[1]", pattern),
            ("event_types[2]", pattern),
            ("description", "must be at most 1024 bytes"),
            ("headers.host", "name is reserved"),
            ("headers.x-ok", VALUE),
            ("signature_header", "name is reserved"),
            ("timeout_ms", "must be 1000 to 60000"),
            ("max_in_flight", "must be 1 to 256"),
            ("rate_limit_per_second", "must be 0 (unlimited) to 10000"),
            ("retry_schedule_seconds[1]", "must be 1 to 86400"),
            ("retry_schedule_seconds[2]", "must be 1 to 86400"),
            ("envelope", SLACK_ENVELOPE),
        ],
    );
}

#[test]
fn bounds_are_inclusive() {
    for (timeout_ms, max_in_flight, rate_limit_per_second, delay) in
        [(1_000, 1, 0, 1), (60_000, 256, 10_000, 86_400)]
    {
        let draft = EndpointDraft {
            timeout_ms,
            max_in_flight,
            rate_limit_per_second,
            retry_schedule_seconds: vec![delay; MAX_RETRIES],
            description: "d".repeat(limits::DESCRIPTION_BYTES),
            event_types: vec!["*".into(); limits::EVENT_TYPE_PATTERNS],
            headers: (0..limits::ENDPOINT_HEADERS)
                .map(|n| (format!("x-{n:0>126}"), "v".repeat(limits::HEADER_VALUE_BYTES)))
                .collect(),
            ..valid()
        };
        assert_violations(&draft, &[]);
    }
    for (timeout_ms, max_in_flight) in [(999, 0), (60_001, 257)] {
        let draft = EndpointDraft {
            timeout_ms,
            max_in_flight,
            ..valid()
        };
        assert_violations(
            &draft,
            &[
                ("timeout_ms", "must be 1000 to 60000"),
                ("max_in_flight", "must be 1 to 256"),
            ],
        );
    }
}

#[test]
fn counts_are_bounded() {
    let draft = EndpointDraft {
        event_types: vec!["*".into(); limits::EVENT_TYPE_PATTERNS + 1],
        headers: (0..=limits::ENDPOINT_HEADERS)
            .map(|n| (format!("x-{n}"), String::new()))
            .collect(),
        retry_schedule_seconds: vec![1; MAX_RETRIES + 1],
        ..valid()
    };
    assert_violations(
        &draft,
        &[
            ("event_types", "must be at most 128"),
            ("headers", "must be at most 32"),
            ("retry_schedule_seconds", "must be at most 24 delays"),
        ],
    );
}

#[test]
fn headers_that_frame_route_or_sign_are_reserved() {
    for name in [
        "host",
        "HOST",
        "content-length",
        "Content-Type",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
        "expect",
        "user-agent",
        "traceparent",
        "webhook-id",
        "Webhook-Signature",
        "webhook-anything",
        "x-cuitty-attempt",
        "proxy-authorization",
    ] {
        assert_violations(
            &with_headers(&[(name, "a")]),
            &[(&format!("headers.{}", name.to_lowercase()), "name is reserved")],
        );
    }
}

#[test]
fn headers_that_would_break_the_request_are_refused() {
    for (name, field) in [
        ("", "headers."),
        ("x y", "headers.x y"),
        ("x:y", "headers.x:y"),
        (":authority", "headers.:authority"),
        ("x\r\nhost", r"headers.x\r\nhost"),
        ("x\0", r"headers.x\u{0}"),
        ("x-é", r"headers.x-\u{e9}"),
    ] {
        assert_violations(&with_headers(&[(name, "a")]), &[(field, NAME)]);
    }
    let long = "n".repeat(129);
    assert_violations(
        &with_headers(&[(&long, "a")]),
        &[(&format!("headers.{long}"), NAME)],
    );
    for value in [
        "a\r\nhost: evil",
        "a\nb",
        "a\rb",
        "a\0b",
        "\x7f",
        "é",
        &"v".repeat(4097),
    ] {
        assert_violations(&with_headers(&[("x-a", value)]), &[("headers.x-a", VALUE)]);
    }
    assert_violations(
        &with_headers(&[("x-a", "1"), ("X-A", "2")]),
        &[("headers.x-a", "is given twice")],
    );
}

#[test]
fn the_signature_header_is_a_header_of_its_own() {
    let with = |name: &str, headers: &[(&str, &str)]| EndpointDraft {
        signature_header: name.into(),
        ..with_headers(headers)
    };
    for name in [
        "X-Cuitty-Signature",
        "x-cuitty-signature",
        "X-Modelux-Signature",
        "x-hub-signature-256",
    ] {
        assert_violations(&with(name, &[("x-a", "1")]), &[]);
    }
    for name in ["host", "webhook-signature", "X-Cuitty-Attempt"] {
        assert_violations(&with(name, &[]), &[("signature_header", "name is reserved")]);
    }
    for name in ["x y", "x\r\ny", "é"] {
        assert_violations(&with(name, &[]), &[("signature_header", NAME)]);
    }
    assert_violations(
        &with("X-Sig", &[("x-sig", "1")]),
        &[(
            "signature_header",
            "would send x-sig, which is set in headers too",
        )],
    );
    assert_violations(
        &with("X-Sig", &[("X-Sig-Previous", "1")]),
        &[(
            "signature_header",
            "would send x-sig-previous, which is set in headers too",
        )],
    );
    assert_violations(&with("x-sig", &[("x-sig-next", "1"), ("x", "2")]), &[]);
}

#[test]
fn setting_fields_are_the_drafts_fields() {
    let draft = format!("{:?}", EndpointDraft::default());
    for field in SETTING_FIELDS {
        assert!(draft.contains(&format!(" {field}: ")), "{field}");
    }
    assert_eq!(draft.matches(": ").count(), SETTING_FIELDS.len());
}

#[test]
fn the_url_tells_the_kind_that_is_not_given() {
    use EndpointKind::{Http, Nats, Slack};
    let subject = "nats:cuitty.notifications.acme.billing";
    let hook = "https://hooks.slack.com/services/T0/B0/x";
    for (url, given, expected) in [
        ("https://example.com/hook", None, Http),
        ("https://hooks.slack.com.example.com/", None, Http),
        ("https://example.com/hooks.slack.com", None, Http),
        (hook, None, Slack),
        ("https://HOOKS.slack.COM:443/services/x", None, Slack),
        (subject, None, Nats),
        // What is given stands: the payload itself to Slack, a Slack message to another product.
        (hook, Some(Http), Http),
        ("https://chat.example.com/hooks/x", Some(Slack), Slack),
        (subject, Some(Nats), Nats),
    ] {
        let draft = EndpointDraft {
            kind: given,
            url: url.into(),
            ..EndpointDraft::default()
        };
        assert_eq!(validated(draft).unwrap().kind, expected, "{url} {given:?}");
    }
    let form = "must be nats:<subject> or nats:<subject>?reply";
    for (url, kind, message) in [
        (subject, Http, "must start with http:// or https://"),
        (subject, Slack, "must start with http:// or https://"),
        (hook, Nats, form),
        (
            "nats:cuitty.notifications.other.billing",
            Nats,
            "must name a subject below cuitty.notifications.acme.",
        ),
    ] {
        let draft = EndpointDraft {
            kind: Some(kind),
            url: url.into(),
            ..EndpointDraft::default()
        };
        assert_violations(&draft, &[("url", message)]);
    }
    // Of a project that is none, nothing is one's own.
    let draft = EndpointDraft {
        url: subject.into(),
        ..EndpointDraft::default()
    };
    let refused = draft.validate(&EgressPolicy::default(), None);
    assert_eq!(refused, Err(Rejection::field("url", "needs a project")));
}

#[test]
fn settings_that_make_no_sense_for_a_kind_are_refused() {
    let slack = EndpointDraft {
        kind: Some(EndpointKind::Slack),
        envelope: true,
        ..valid()
    };
    assert_violations(&slack, &[("envelope", SLACK_ENVELOPE)]);
    let nats = EndpointDraft {
        url: "nats:cuitty.notifications.acme.x".into(),
        signature_header: "Nats-Msg-Id".into(),
        envelope: true,
        ..with_headers(&[("Nats-Rollup", "all"), ("x-team", "core")])
    };
    assert_violations(
        &nats,
        &[
            ("headers.nats-rollup", "name is reserved"),
            ("signature_header", "name is reserved"),
        ],
    );
    let http = EndpointDraft {
        url: valid().url,
        ..nats
    };
    assert_violations(&http, &[]);
}

proptest! {
    #[test]
    fn valid_settings_stay_valid_and_the_same(
        path in "[a-z/]{0,20}",
        event_types in proptest::collection::vec("[a-z]{1,8}(\\.[a-z]{1,8}){0,3}(\\.\\*)?", 0..5),
        values in proptest::collection::vec("[ -~\t]{0,20}", 0..5),
        timeout_ms in 1_000u32..=60_000,
        rate_limit_per_second in 0u32..=10_000,
    ) {
        let draft = EndpointDraft {
            url: format!("https://example.com/{path}"),
            event_types,
            headers: values.into_iter().enumerate().map(|(n, value)| (format!("X-{n}"), value)).collect(),
            signature_header: "X-Signature".into(),
            timeout_ms,
            rate_limit_per_second,
            ..valid()
        };
        let settings = validated(draft).unwrap();
        prop_assert_eq!(validated(EndpointDraft::from(&settings)), Ok(settings));
    }

    #[test]
    fn what_passes_can_be_sent(name in "\\PC{0,12}", value in "\\PC{0,12}|[\\x00-\\x7f]{0,12}") {
        if let Ok(settings) = validated(with_headers(&[(&name, &value)])) {
            for header in settings.headers {
                prop_assert!(header.name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
                prop_assert!(!header.name.contains(':'));
                prop_assert!(header.value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')));
                prop_assert_eq!(header.value.trim(), &header.value);
            }
        }
    }
}
