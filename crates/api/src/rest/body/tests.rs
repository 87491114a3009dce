use super::*;
use axum::http::Request as HttpRequest;

fn fields(rejection: Rejection) -> Vec<(String, String)> {
    match rejection {
        Rejection::Invalid(violations) => violations.into_iter().map(|v| (v.field, v.message)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_are_found_in_both_spellings() {
    let mut members = Members::parse(br#"{"projectId":"a","event_type":"b","payload": [1,  2] }"#).unwrap();
    assert_eq!(
        (members.text("project_id"), members.text("event_type")),
        ("a".into(), "b".into())
    );
    assert_eq!(members.required("payload").unwrap().get(), "[1,  2]");
    assert_eq!(members.text("endpoint_id"), "");
    assert_eq!(members.finish(), Ok(()));
}

#[test]
fn null_counts_as_missing_but_for_raw_members() {
    let mut members = Members::parse(br#"{"project_id":null,"payload":null}"#).unwrap();
    assert_eq!(members.text("project_id"), "");
    assert_eq!(members.required("payload").unwrap().get(), "null");
    assert_eq!(members.finish(), Ok(()));
}

#[test]
fn everything_wrong_with_members_is_listed() {
    let mut members =
        Members::parse(br#"{"a":1,"projectId":"x","project_id":"y","endpointid":"z"}"#).unwrap();
    members.text("a");
    members.text("project_id");
    assert!(members.required("payload").is_none());
    let listed = fields(members.finish().unwrap_err());
    let expected = [
        ("project_id", "is given twice"),
        ("a", "must be a string"),
        ("payload", "is required"),
        ("endpointid", "is not known"),
    ];
    assert_eq!(
        listed,
        expected.map(|(field, message)| (field.to_owned(), message.to_owned()))
    );
}

#[test]
fn what_is_not_an_object_is_malformed() {
    for body in [
        &b""[..],
        b"[]",
        b"{",
        b"1",
        b"{}x",
        b"\xff",
        br#"{"a":}"#,
        b"{\"a\":\"\xff\"}",
    ] {
        let code = Members::parse(body).unwrap_err().code();
        assert_eq!(code, "malformed_body", "{body:?}");
    }
}

#[test]
fn the_number_of_members_is_bounded() {
    let body = |count: usize| {
        let members: Vec<_> = (0..count).map(|index| format!("\"m{index}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert!(Members::parse(body(MEMBERS).as_bytes()).is_ok());
    assert_eq!(
        Members::parse(body(MEMBERS + 1).as_bytes()).unwrap_err().code(),
        "malformed_body"
    );
}

#[test]
fn a_name_that_is_empty_is_not_one_that_was_left_out() {
    let mut members = Members::parse(br#"{"endpoint_id":"","event_type":"a.b","project_id":null}"#).unwrap();
    let names = ["endpoint_id", "event_type", "project_id", "other"].map(|name| members.name(name));
    assert_eq!(names, ["", "a.b", "", ""]);
    assert_eq!(
        fields(members.finish().unwrap_err()),
        [("endpoint_id".to_owned(), "must not be empty".to_owned())]
    );
}

#[test]
fn what_is_only_shown_cannot_be_changed() {
    let mut members = Members::parse(br#"{"revision":3,"url":"x","nothing":1}"#).unwrap();
    assert!(members.has("url") && !members.has("id"));
    members.text("url");
    members.fixed(&["id", "revision"]);
    let expected = [("revision", "cannot be changed"), ("nothing", "is not known")];
    assert_eq!(
        fields(members.finish().unwrap_err()),
        expected.map(|(field, message)| (field.to_owned(), message.to_owned()))
    );
}

#[test]
fn pairs_keep_their_order_and_what_is_given_twice() {
    let mut members = Members::parse(br#"{"headers":{"b":"1","a":"2","b":"3"},"other":{"a":1}}"#).unwrap();
    let Pairs(pairs) = members.value("headers", "an object of strings").unwrap();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(pairs, [("b", "1"), ("a", "2"), ("b", "3")]);
    assert!(members.value::<Pairs>("other", "an object of strings").is_none());
    assert_eq!(fields(members.finish().unwrap_err())[0].0, "other");
}

async fn read(content_type: Option<&str>, body: Body) -> Result<Bytes, &'static str> {
    let mut request = HttpRequest::builder();
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    let read = JsonBytes::from_request(request.body(body).unwrap(), &()).await;
    read.map(|JsonBytes(bytes)| bytes).map_err(|error| error.code())
}

#[tokio::test]
async fn bodies_must_be_said_to_be_json() {
    for good in [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
    ] {
        assert_eq!(
            read(Some(good), Body::from("{}")).await.as_deref(),
            Ok(&b"{}"[..]),
            "{good}"
        );
    }
    for bad in [
        None,
        Some("text/plain"),
        Some("application/jsonx"),
        Some("application/grpc"),
    ] {
        assert_eq!(
            read(bad, Body::from("{}")).await,
            Err("unsupported_media_type"),
            "{bad:?}"
        );
    }
    assert_eq!(read(None, Body::empty()).await, Ok(Bytes::new()));
}

#[tokio::test]
async fn bodies_are_bounded_with_and_without_a_length() {
    let json = Some("application/json");
    assert!(read(json, Body::from(vec![b' '; BODY_BYTES])).await.is_ok());
    assert_eq!(
        read(json, Body::from(vec![b' '; BODY_BYTES + 1])).await,
        Err("payload_too_large")
    );
    let endless =
        futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1024])));
    assert_eq!(
        read(json, Body::from_stream(endless)).await,
        Err("payload_too_large")
    );
    let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("reset"))]);
    assert_eq!(read(json, Body::from_stream(broken)).await, Err("malformed_body"));
}
