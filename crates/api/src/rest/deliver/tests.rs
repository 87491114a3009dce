use super::*;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn read_with(headers: &[(&'static str, &str)], body: &str) -> Result<NewMessage, AppError> {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    read(&headers, &Bytes::copy_from_slice(body.as_bytes()))
}

#[test]
fn the_payload_keeps_every_byte() {
    let payload = "{ \"b\":1.500,\n \"a\" : \"\\u00e9é\", \"b\":2e+10 }";
    for body in [
        format!(r#"{{"project_id":"acme","event_type":"a.b","payload":{payload}}}"#),
        format!(r#"{{"projectId":"acme","eventType":"a.b","payload":   {payload}  }}"#),
    ] {
        let message = read_with(&[], &body).unwrap();
        assert_eq!(message.payload, payload);
        assert_eq!(
            (message.project_id.as_str(), message.event_type.as_str()),
            ("acme", "a.b")
        );
    }
}

#[test]
fn the_payload_is_not_copied() {
    let body = Bytes::from_static(br#"{"payload":{"a":1}}"#);
    let message = read(&HeaderMap::new(), &body).unwrap();
    assert_eq!(message.payload.as_ptr(), body[11..].as_ptr());
}

#[test]
fn sdk_events_are_understood() {
    let body = r#"{"endpointId":"ep_x","eventType":"a.b","payload":null,"idempotencyKey":"k"}"#;
    let message = read_with(&[("traceparent", TRACE)], body).unwrap();
    assert_eq!(
        (message.endpoint_id.as_str(), message.idempotency_key.as_str()),
        ("ep_x", "k")
    );
    assert_eq!(
        (&message.payload[..], message.traceparent.as_str()),
        (&b"null"[..], TRACE)
    );
}

#[test]
fn the_idempotency_key_may_be_a_header() {
    let body = r#"{"payload":1,"idempotency_key":"k"}"#;
    for (headers, body, expected) in [
        (&[][..], body, Some("k")),
        (&[("idempotency-key", "h")], r#"{"payload":1}"#, Some("h")),
        (
            &[("x-cuitty-idempotency-key", "h")],
            r#"{"payload":1}"#,
            Some("h"),
        ),
        (
            &[("idempotency-key", "k"), ("x-cuitty-idempotency-key", "k")],
            body,
            Some("k"),
        ),
        (&[("idempotency-key", "")], body, Some("k")),
        (&[("idempotency-key", "other")], body, None),
        (
            &[("idempotency-key", "a"), ("x-cuitty-idempotency-key", "b")],
            r#"{"payload":1}"#,
            None,
        ),
    ] {
        let key = read_with(headers, body)
            .ok()
            .map(|message| message.idempotency_key);
        assert_eq!(key.as_deref(), expected, "{headers:?}");
    }
}

#[test]
fn a_missing_payload_and_unknown_members_are_refused() {
    let faults = read_with(&[], r#"{"event":"a.b"}"#).unwrap().faults;
    let names: Vec<_> = faults.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(names, ["payload", "event"]);
}
