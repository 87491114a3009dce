use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn compiled(schema: &Value) -> PayloadSchema {
    PayloadSchema::compile("schema", &schema.to_string()).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// The fields at fault, and what is said of them.
fn told(result: Result<(), Vec<FieldViolation>>) -> Vec<(String, String)> {
    let violations = result.err().unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| (violation.field, violation.message))
        .collect()
}

fn fields(result: Result<(), Vec<FieldViolation>>) -> Vec<String> {
    told(result).into_iter().map(|(field, _)| field).collect()
}

fn refused(schema: &Value) -> Vec<String> {
    fields(PayloadSchema::compile("schema", &schema.to_string()).map(drop))
}

fn check(schema: &Value, payload: &Value) -> Vec<(String, String)> {
    told(compiled(schema).check("payload", payload.to_string().as_bytes()))
}

/// As much stack as a thread of the service has.
fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work);
    thread.unwrap().join().unwrap()
}

/// How long it takes, in a build that is not optimised.
#[expect(clippy::disallowed_methods, reason = "time that passes is what is measured")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed())
}

const BRIEF: Duration = Duration::from_secs(20);

#[test]
fn each_place_that_is_wrong_is_named_with_what_it_must_be() {
    let schema = json!({
        "type": "object",
        "required": ["order", "kind"],
        "additionalProperties": false,
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "order": {
                "type": "object",
                "required": ["id"],
                "properties": {
                    "id": {"type": "string", "pattern": "^o-[0-9]+$", "maxLength": 5},
                    "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/line"}},
                    "a/b": {"const": 7}
                }
            },
            "note": {"type": ["string", "null"]}
        },
        "$defs": {"line": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}}
    });
    let says = |payload: Value, expected: &[(&str, &str)]| {
        let mut told = check(&schema, &payload);
        told.sort();
        let told: Vec<_> = told
            .iter()
            .map(|(field, message)| (field.as_str(), message.as_str()))
            .collect();
        assert_eq!(told, expected, "{payload}");
    };
    says(
        json!({"kind": "a", "order": {"id": "o-1", "lines": [{"n": 1}]}, "note": null}),
        &[],
    );
    says(json!([]), &[("payload", "must be of type object")]);
    says(
        json!({"kind": "c", "order": {}, "secret": 1}),
        &[
            ("payload/kind", r#"must be one of ["a","b"]"#),
            ("payload/order/id", "is required"),
            ("payload/secret", "is not allowed"),
        ],
    );
    says(
        json!({"kind": "a", "order": {"id": "o-12345", "lines": [{"n": 1}, {"n": 0}, 3], "a/b": 8}, "note": 1}),
        &[
            ("payload/note", "must be of type null or string"),
            ("payload/order/a~1b", "must be 7"),
            ("payload/order/id", "must have at most 5 characters"),
            ("payload/order/lines/1/n", "must be at least 1"),
            ("payload/order/lines/2", "must be of type object"),
        ],
    );
}

#[test]
fn no_message_repeats_a_value_of_the_payload() {
    let secret = "hunter2-hunter2";
    let leaf = json!([secret, secret]);
    for schema in [
        json!({"type": "null"}),
        json!({"const": 1}),
        json!({"enum": [1]}),
        json!({"not": {}}),
        json!(false),
        json!({"anyOf": [{"type": "null"}, {"type": "object"}]}),
        json!({"oneOf": [{"type": "null"}, {"type": "object"}]}),
        json!({"oneOf": [{}, {}]}),
        json!({"uniqueItems": true}),
        json!({"maxItems": 1}),
        json!({"minItems": 3}),
        json!({"contains": {"type": "null"}}),
        json!({"prefixItems": [true], "items": false}),
        json!({"prefixItems": [true], "unevaluatedItems": false}),
        json!({"items": {"pattern": "^x"}}),
        json!({"items": {"maxLength": 2}}),
        json!({"items": {"minLength": 99}}),
        json!({"if": {}, "then": false}),
    ] {
        let told = check(&schema, &leaf);
        assert!(!told.is_empty(), "{schema}");
        assert!(!format!("{told:?}").contains("hunter2"), "{schema}: {told:?}");
    }
    for schema in [
        json!({"additionalProperties": false}),
        json!({"propertyNames": {"maxLength": 1}}),
        json!({"maxProperties": 0}),
        json!({"dependentRequired": {"name": ["other"]}}),
        json!({"unevaluatedProperties": false}),
        json!({"patternProperties": {"^n": {"type": "null"}}}),
    ] {
        let told = check(&schema, &json!({"name": secret}));
        assert!(!told.is_empty(), "{schema}");
        assert!(!format!("{told:?}").contains("hunter2"), "{schema}: {told:?}");
    }
}

#[test]
fn at_most_sixteen_places_are_named() {
    let schema = json!({"items": {"type": "null"}});
    assert_eq!(check(&schema, &json!(vec![1; 16])).len(), 16);
    assert_eq!(check(&schema, &json!(vec![1; 17])).len(), 16);
}

#[test]
fn what_is_no_schema_is_refused_where_it_is_wrong() {
    for (text, expected) in [
        ("{", "schema"),
        ("7", "schema"),
        (r#"{"type": "strong"}"#, "schema/type"),
        (
            r#"{"properties": {"a": {"minimum": "1"}}}"#,
            "schema/properties/a/minimum",
        ),
        (
            r#"{"$schema": "http://json-schema.org/draft-07/schema#"}"#,
            "schema/$schema",
        ),
        (r##"{"$ref": "#/$defs/none"}"##, "schema/$ref"),
        (
            r#"{"properties": {"a": {"$id": "x"}}}"#,
            "schema/properties/a/$id",
        ),
        (r##"{"$dynamicRef": "#a"}"##, "schema/$dynamicRef"),
    ] {
        assert_eq!(
            fields(PayloadSchema::compile("schema", text).map(drop)),
            [expected],
            "{text}"
        );
    }
    for text in [
        "true",
        "{}",
        r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/order"}"#,
        r##"{"$defs": {"a b": {"type": "null"}}, "$ref": "#/$defs/a%20b"}"##,
        r#"{"enum": [{"$ref": "https://example.com/is-data"}], "x-note": {"$ref": "x"}}"#,
    ] {
        assert!(PayloadSchema::compile("schema", text).is_ok(), "{text}");
    }
}

#[test]
fn references_that_lead_out_of_the_schema_are_refused() {
    for reference in [
        "https://example.com/schema.json",
        "http://127.0.0.1:1/x#/a",
        "file:///etc/passwd",
        "other.json",
        "//example.com/x",
        "https://json-schema.org/draft/2020-12/schema",
        "#name",
        "",
    ] {
        let schema = json!({"properties": {"a": {"$ref": reference}}});
        assert_eq!(refused(&schema), ["schema/properties/a/$ref"], "{reference}");
    }
}

#[test]
fn sizes_are_bounded() {
    let sized = |bytes: usize| {
        let empty = r#"{"description":""}"#.len();
        let text = format!(r#"{{"description":"{}"}}"#, "x".repeat(bytes - empty));
        fields(PayloadSchema::compile("schema", &text).map(drop))
    };
    assert!(sized(limits::SCHEMA_BYTES).is_empty());
    assert_eq!(sized(limits::SCHEMA_BYTES + 1), ["schema"]);

    let parts = |count: usize| refused(&json!({"enum": (1..count).collect::<Vec<_>>()}));
    assert!(parts(limits::SCHEMA_PARTS).is_empty());
    assert_eq!(parts(limits::SCHEMA_PARTS + 1), ["schema"]);

    let patterns = |count: usize| {
        refused(&json!({"allOf": (0..count).map(|n| json!({"pattern": n.to_string()})).collect::<Vec<_>>()}))
    };
    assert!(patterns(limits::SCHEMA_PATTERNS).is_empty());
    assert_eq!(patterns(limits::SCHEMA_PATTERNS + 1), ["schema"]);

    let deep = |depth: usize| format!("{}true{}", r#"{"items":"#.repeat(depth), "}".repeat(depth));
    assert!(PayloadSchema::compile("schema", &deep(100)).is_ok());
    assert_eq!(
        fields(PayloadSchema::compile("schema", &deep(1000)).map(drop)),
        ["schema"]
    );
}

#[test]
fn expressions_that_backtrack_or_are_large_are_refused_and_the_rest_is_linear() {
    for pattern in ["(?=a)b", "(a)\\1", "(", &format!("({}){{500}}", "\\w".repeat(50))] {
        assert_eq!(
            refused(&json!({"pattern": pattern})),
            ["schema/pattern"],
            "{pattern}"
        );
        let by_name = refused(&json!({"patternProperties": {pattern: true}}));
        assert_eq!(by_name.len(), 1, "{pattern}");
        assert!(by_name[0].starts_with("schema/patternProperties"), "{by_name:?}");
    }
    let schema = compiled(&json!({"pattern": "^(a+)+$"}));
    let payload = json!(format!("{}!", "a".repeat(200_000))).to_string();
    let (told, took) = timed(|| fields(schema.check("payload", payload.as_bytes())));
    assert_eq!(told, ["payload"]);
    assert!(took < BRIEF, "{took:?}");
}

#[test]
fn what_applies_through_itself_to_the_same_value_is_refused() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"anyOf": [{"type": "null"}, {"not": {"$ref": "#"}}]}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
    ] {
        assert_eq!(refused(&schema).len(), 1, "{schema}");
    }
    let list = json!({"type": "object", "required": ["value"], "properties": {"next": {"$ref": "#"}}});
    assert!(check(&list, &json!({"value": 1, "next": {"value": 2}})).is_empty());
    assert_eq!(
        check(&list, &json!({"value": 1, "next": {"value": 2, "next": {}}}))[0].0,
        "payload/next/next/value"
    );
}

/// `#/$defs/0` refers to `#/$defs/1` and so on, `length` times.
fn chain(length: usize, link: impl Fn(usize) -> Value) -> Value {
    let mut definitions: serde_json::Map<_, _> = (0..length).map(|n| (n.to_string(), link(n + 1))).collect();
    definitions.insert(length.to_string(), json!({"type": "null"}));
    json!({"$defs": definitions, "$ref": "#/$defs/0"})
}

fn reference(number: usize) -> Value {
    json!({"$ref": format!("#/$defs/{number}")})
}

#[test]
fn chains_on_one_value_are_bounded_and_chains_into_the_value_are_not() {
    // The reference at the root is the first link.
    assert!(refused(&chain(limits::SCHEMA_CHAIN - 1, reference)).is_empty());
    assert!(!refused(&chain(limits::SCHEMA_CHAIN, reference)).is_empty());
    assert!(!refused(&chain(490, reference)).is_empty());
    let long = on_a_small_stack(|| {
        let schema = compiled(&chain(490, |next| json!({"items": reference(next)})));
        schema.check("payload", b"[[[[[]]]]]").is_ok()
    });
    assert!(long);
}

/// A payload that holds `{"c":{"c":…}}`, `depth` deep.
fn nested(depth: usize) -> String {
    format!("{}1{}", r#"{"c":"#.repeat(depth), "}".repeat(depth))
}

#[test]
fn what_multiplies_on_one_value_is_counted_as_often_as_it_applies() {
    let fan = |width: usize, levels: usize| {
        let mut schema = chain(levels, |next| json!({"allOf": vec![reference(next); width]}));
        schema["unevaluatedProperties"] = false.into();
        schema
    };
    // 2 · (1 + 3 + 9 + 27 + 81) and 2 · 243 of the last level, and the reference at the root.
    assert!(refused(&fan(3, 5)).is_empty());
    assert!(!refused(&fan(3, 6)).is_empty());
    assert!(!refused(&fan(60, 7)).is_empty());
}

#[test]
fn what_is_checked_may_be_nested_so_deep_and_no_deeper() {
    let schema = compiled(&json!({"type": "object"}));
    assert!(
        schema
            .check("payload", nested(limits::CHECKED_DEPTH).as_bytes())
            .is_ok()
    );
    for depth in [limits::CHECKED_DEPTH + 1, 127, 128, 100_000] {
        let told = on_a_small_stack(move || {
            let schema = compiled(&json!({"type": "object"}));
            fields(schema.check("payload", nested(depth).as_bytes()))
        });
        assert_eq!(told, ["payload"], "{depth}");
    }
}

#[test]
fn the_deepest_payload_through_the_longest_chains_fits_on_the_stack() {
    let told = on_a_small_stack(|| {
        let mut schema = chain(
            limits::SCHEMA_CHAIN / 2 - 1,
            |next| json!({"allOf": [reference(next)]}),
        );
        let last = (limits::SCHEMA_CHAIN / 2 - 1).to_string();
        schema["$defs"][last] = json!({"type": "object", "properties": {"c": {"$ref": "#/$defs/0"}}});
        let schema = compiled(&schema);
        fields(schema.check("payload", nested(limits::CHECKED_DEPTH).as_bytes()))
    });
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].len(), "payload".len() + 2 * limits::CHECKED_DEPTH);
}

#[test]
fn no_schema_within_the_bounds_keeps_the_service_busy() {
    let twice = |schema: Value| json!({"allOf": [schema.clone(), schema]});
    // Each level refers twice to the next one: followed blindly, 2 to the power of the depth.
    let doubling = json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {"anyOf": [
            {"type": "object", "properties": {"c": twice(json!({"$ref": "#/$defs/node"}))}, "required": ["none"]},
            {"type": "object", "properties": {"c": twice(json!({"$ref": "#/$defs/node"}))}, "required": ["neither"]},
        ]}}
    });
    let unevaluated = json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {
            "anyOf": [{"properties": {"c": {"$ref": "#/$defs/node"}}}, {"properties": {"c": {"$ref": "#/$defs/node"}}}],
            "unevaluatedProperties": false,
            "minProperties": 2,
        }}
    });
    let mut inline = json!({"type": "null"});
    for _ in 0..UNEVALUATED_LEVELS {
        inline = json!({"anyOf": [{"properties": {"c": inline}}], "unevaluatedProperties": false});
    }
    // Every item but the last one is right, by the last alternative.
    let mut alternatives = vec![json!({"type": "string"}); limits::SCHEMA_PARTS - 4];
    alternatives.push(json!({"const": 1}));
    let wide = json!({"items": {"anyOf": alternatives}});
    let ones = format!("[{}null]", "1,".repeat(130_000));
    let mut options: Vec<_> = (0..limits::SCHEMA_PARTS - 3).map(|n| json!([n])).collect();
    options.push(json!([]));
    let bulky = json!({"items": {"enum": options}});
    let lists = format!("[{}null]", "[],".repeat(87_000));
    let numbers: String = (0..40_000).fold(String::from("["), |mut text, n| {
        let _ = write!(text, "{n},");
        text
    }) + "0]";
    for (name, schema, payload) in [
        ("doubling", doubling, nested(limits::CHECKED_DEPTH)),
        ("unevaluated", unevaluated, nested(limits::CHECKED_DEPTH)),
        ("inline", inline, nested(20)),
        ("wide", wide, ones),
        ("bulky", bulky, lists),
        ("unique", json!({"uniqueItems": true}), numbers),
    ] {
        let schema = compiled(&schema);
        let (told, took) = timed(|| fields(schema.check("payload", payload.as_bytes())));
        assert!(!told.is_empty(), "{name}");
        assert!(took < BRIEF, "{name}: {took:?}");
    }
}

const UNEVALUATED_LEVELS: usize = 6;

fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(true)),
        Just(json!({"type": "object"})),
        Just(json!({"type": ["string", "null"]})),
        Just(json!({"enum": [1, "a"]})),
        Just(json!({"$ref": "#"})),
        Just(json!({"$ref": "#/$defs/a"})),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({"allOf": [a, b]})),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({"anyOf": [a, b]})),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({"properties": {"a": a, "b": b}})),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({"items": a, "not": b})),
            (inner.clone(), inner).prop_map(|(a, b)| json!({"$defs": {"a": a}, "additionalProperties": b})),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(json!(null)), Just(json!(1)), Just(json!("a"))];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_taken_as_a_schema_checks_any_payload_as_the_validator_alone_would(
        schema in any_schema(),
        payload in any_value(),
    ) {
        if let Ok(compiled) = PayloadSchema::compile("schema", &schema.to_string()) {
            let told = fields(compiled.check("payload", payload.to_string().as_bytes()));
            prop_assert_eq!(told.is_empty(), jsonschema::is_valid(&schema, &payload), "{}", schema);
            prop_assert!(told.iter().all(|field| field.starts_with("payload")));
        }
    }

    #[test]
    fn no_text_makes_compiling_or_checking_panic(schema in "\\PC{0,60}", payload in "\\PC{0,60}") {
        let _ = PayloadSchema::compile("schema", &schema).map(|schema| schema.check("payload", payload.as_bytes()));
    }
}
