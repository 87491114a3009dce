use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::destination::tests::delivery;
use crate::limits::PAYLOAD_BYTES;

fn formatted(event_type: &str, payload: impl Into<Bytes>, content_type: &str) -> Value {
    let (delivery, payload) = (delivery(event_type), payload.into());
    let requested_at: DateTime<Utc> = "2026-11-22T08:57:41.25Z".parse().unwrap();
    let bytes = message(&Message {
        delivery: &delivery,
        payload: &payload,
        content_type,
        requested_at,
    });
    serde_json::from_slice(&bytes).unwrap()
}

fn of_json(payload: &str) -> Value {
    let message = formatted("budget.exceeded", payload.to_owned(), "application/json");
    assert_acceptable(&message);
    message
}

/// Holds a message against the limits that Slack publishes for messages and blocks.
fn assert_acceptable(message: &Value) {
    let text_of = |object: &Value, most: usize| {
        let text = object["text"].as_str().expect("a text");
        let length = text.encode_utf16().count();
        assert!(
            (1..=most).contains(&length) && !is_blank(text),
            "{length}: {text}"
        );
        // Escaped, so that only these three sequences begin with an ampersand, and nothing is in angle brackets.
        if object["type"] != "plain_text" {
            assert!(!text.contains(['<', '>']), "{text}");
            let entities = ["amp;", "lt;", "gt;"];
            assert!(
                text.split('&')
                    .skip(1)
                    .all(|rest| entities.iter().any(|entity| rest.starts_with(entity))),
                "{text}"
            );
        }
        length
    };
    let mut total = text_of(message, 4_000);
    let blocks = message["blocks"].as_array().expect("blocks");
    assert!((2..=50).contains(&blocks.len()));
    for block in blocks {
        match block["type"].as_str().expect("a type") {
            "header" => {
                assert_eq!(block["text"]["type"], "plain_text");
                total += text_of(&block["text"], 150);
            }
            "section" => {
                if let Some(text) = block.get("text") {
                    total += text_of(text, 3_000);
                }
                if let Some(fields) = block.get("fields") {
                    let fields = fields.as_array().unwrap();
                    assert!((1..=10).contains(&fields.len()));
                    total += fields.iter().map(|field| text_of(field, 2_000)).sum::<usize>();
                }
                assert!(block.get("text").or(block.get("fields")).is_some());
            }
            "context" => {
                let elements = block["elements"].as_array().unwrap();
                assert!((1..=10).contains(&elements.len()));
                total += elements
                    .iter()
                    .map(|element| text_of(element, 2_000))
                    .sum::<usize>();
            }
            other => panic!("{other}"),
        }
    }
    assert!(total <= 12_000, "{total}");
}

/// The texts of a message's sections, in order.
fn values(message: &Value) -> Vec<&str> {
    let blocks = message["blocks"].as_array().unwrap();
    let sections = blocks.iter().filter(|block| block["type"] == "section");
    sections
        .flat_map(|section| {
            let fields = section["fields"].as_array().map_or(&[][..], Vec::as_slice);
            section.get("text").into_iter().chain(fields)
        })
        .map(|text| text["text"].as_str().unwrap())
        .collect()
}

#[test]
fn an_event_becomes_a_message_that_people_read() {
    let payload = r#"{"budget":{"id":"bud_7","limit_usd":1000},"spent_usd":1000.5,"resets_at":"2026-12-01T00:00:00Z",
        "notified":true,"owner":null,"tags":["prod","eu"],"note":"first line\nsecond line"}"#;
    // What comes out is what is signed: a change of it needs a look at `destination::bodies`.
    let plain = |text: &str| json!({"type": "plain_text", "text": text, "emoji": false});
    let mrkdwn = |text: &str| json!({"type": "mrkdwn", "text": text, "verbatim": true});
    let delivery_id = delivery("budget.exceeded").delivery_id.to_string();
    let expected = json!({
        "text": "Budget exceeded\nbudget.id: bud_7\nbudget.limit_usd: 1000\nspent_usd: 1000.5\n\
                 resets_at: 2026-12-01 00:00:00 UTC\nnotified: yes\nowner: none\ntags: prod, eu\n\
                 note: first line\nsecond line",
        "blocks": [
            {"type": "header", "text": plain("Budget exceeded")},
            {"type": "section", "fields": [
                mrkdwn("*budget.id*\nbud_7"),
                mrkdwn("*budget.limit_usd*\n1000"),
                mrkdwn("*spent_usd*\n1000.5"),
                mrkdwn("*resets_at*\n2026-12-01 00:00:00 UTC"),
                mrkdwn("*notified*\nyes"),
                mrkdwn("*owner*\nnone"),
                mrkdwn("*tags*\nprod, eu"),
            ]},
            {"type": "section", "text": mrkdwn("*note*\nfirst line\nsecond line")},
            {"type": "context", "elements": [
                plain("budget.exceeded in acme"),
                plain("2026-11-22 08:57:41 UTC"),
                plain(&delivery_id),
            ]},
        ],
    });
    assert_eq!(of_json(payload), expected);
}

#[test]
fn titles_are_the_event_type_in_words() {
    for (event_type, title) in [
        ("budget.threshold_reached", "Budget threshold reached"),
        ("routing_config.created", "Routing config created"),
        ("api_key.revoked", "API key revoked"),
        ("order.invoicePaid-v2", "Order invoicePaid v2"),
        ("http.tls_expired", "HTTP TLS expired"),
        ("_-._", "_-._"),
    ] {
        let message = formatted(event_type, "{}", "application/json");
        assert_eq!(message["blocks"][0]["text"]["text"], title);
        assert_eq!(message["text"], title);
        assert_acceptable(&message);
    }
}

#[test]
fn nobody_is_mentioned_and_nothing_is_a_link() {
    let message = of_json(
        r#"{"a":"<!channel> <@U012AB3CD> <#C1> <!subteam^S1> <https://evil.example|click> & &lt;","<!here>":1,"*b*\n":"@here"}"#,
    );
    assert_eq!(
        values(&message),
        [
            "*a*\n&lt;!channel&gt; &lt;@U012AB3CD&gt; &lt;#C1&gt; &lt;!subteam^S1&gt; &lt;https://evil.example|click&gt; &amp; &amp;lt;",
            "*&lt;!here&gt;*\n1",
            "*b*\n@here",
        ]
    );
    let fallback = message["text"].as_str().unwrap();
    assert!(
        !fallback.contains("@here") && !fallback.contains("@U0"),
        "{fallback}"
    );
    let text = formatted("a.b", "<!channel> @here", "text/plain");
    assert_acceptable(&text);
    assert_eq!(values(&text), ["&lt;!channel&gt; @here"]);
}

#[test]
fn payloads_that_are_no_object_are_shown_whole() {
    for (payload, content_type, expected) in [
        (&b"42"[..], "", "42"),
        (b"\" \"", "application/json", "(empty)"),
        (b"[1,[2]]", "application/json", "1, [2]"),
        (b"{broken", "application/json", "{broken"),
        (b"a\tb\0c\nd", "text/plain", "a b c\nd"),
        (b"", "text/plain", "(empty)"),
        (&[0xff, 0xfe], "image/png", "2 bytes of image/png"),
    ] {
        let message = formatted("a.b", payload, content_type);
        assert_acceptable(&message);
        assert_eq!(values(&message), [expected]);
    }
    assert_eq!(values(&of_json("{}")), [""; 0]);
    assert_eq!(
        values(&of_json(r#"{"":{},"\u200b":[]}"#)),
        ["*(no name)*\n(empty)", "*(no name)*\n(empty list)"]
    );
}

#[test]
fn what_does_not_fit_is_shortened_and_counted() {
    let long = of_json(&json!({"long": "\u{1f600}".repeat(1_000)}).to_string());
    assert_eq!(
        values(&long),
        [format!("*long*\n{}\u{2026}", "\u{1f600}".repeat(299))]
    );
    // An entity is never cut in two.
    let ampersands = of_json(&json!({"long": "&".repeat(121)}).to_string());
    assert_eq!(
        values(&ampersands),
        [format!("*long*\n{}\u{2026}", "&amp;".repeat(119))]
    );
    let fits = of_json(&json!({"long": "&".repeat(120)}).to_string());
    assert_eq!(values(&fits), [format!("*long*\n{}", "&amp;".repeat(120))]);

    let many = |count: usize| {
        let object: serde_json::Map<_, _> = (0..count).map(|n| (format!("k{n:04}"), n.into())).collect();
        of_json(&Value::Object(object).to_string())
    };
    let hidden = |message: &Value| {
        let context = message["blocks"].as_array().unwrap().last().unwrap().clone();
        context["elements"][0]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(values(&many(40)).len(), 40);
    assert_eq!(hidden(&many(40)), "budget.exceeded in acme");
    assert_eq!(hidden(&many(41)), "1 more value");
    assert_eq!(
        (values(&many(5_000)).len(), &*hidden(&many(5_000))),
        (40, "4960 more values")
    );
    let deep = of_json(&format!("{}1{}", r#"{"a":"#.repeat(100), "}".repeat(100)));
    assert!(values(&deep)[0].starts_with("*a.a.a.a.a.a.a.a*\n{\"a\":{\"a\":"));
    // Deeper than JSON is read: shown as text.
    let deeper = of_json(&format!("{}{}", "[".repeat(130_000), "]".repeat(130_000)));
    assert!(values(&deeper)[0].starts_with("[[[["));
}

fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "\\PC{0,40}",
        "[<>&@!*_`~ \\n\\t\u{0}\u{200b}a]{0,800}",
        "[\u{1f600}&]{0,700}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(10, 300, 60, move |inner| {
        let key = prop_oneof![4 => "[a-z_.]{0,12}", 1 => "[<&*\\n\u{200b} ]{0,150}", 1 => "\\PC{0,20}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..60).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..60)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_json_becomes_an_acceptable_message(payload in any_json(), event_type in "[a-zA-Z0-9_-]{1,40}(\\.[a-zA-Z0-9_-]{1,40}){0,2}") {
        assert_acceptable(&formatted(&event_type, payload.to_string(), "application/json"));
    }

    #[test]
    fn any_bytes_become_an_acceptable_message(payload in proptest::collection::vec(any::<u8>(), 0..300), content_type in "[ -~]{0,128}") {
        assert_acceptable(&formatted("a.b", payload.clone(), &content_type));
        assert_acceptable(&formatted("a.b", payload, "application/json"));
    }

    #[test]
    fn the_largest_payloads_become_acceptable_messages(unit in prop_oneof![
        Just(r#""k<":"&&&&","#), Just(r#""k":{"a":[{}]},"#), Just(r#""":null,"#), Just("\"<@U1>\":\"\u{1f600}\","),
    ], is_one_value in any::<bool>()) {
        let room = PAYLOAD_BYTES - 16;
        let payload = if is_one_value {
            let inner = unit.replace('"', "'").repeat(room / unit.len());
            format!(r#"{{"all":"{inner}"}}"#)
        } else {
            format!(r#"{{{}"z":1}}"#, unit.repeat(room / unit.len()))
        };
        assert!(payload.len() <= PAYLOAD_BYTES);
        assert_acceptable(&formatted("a.b", payload, "application/json"));
    }
}
