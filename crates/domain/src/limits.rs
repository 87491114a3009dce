//! Bounds on everything that comes in. What a caller may configure per endpoint stays within these.

/// Largest payload of a message, in bytes (256 KiB).
pub const PAYLOAD_BYTES: usize = 256 * 1024;
/// Most messages of one batch.
pub const BATCH_ITEMS: usize = 1000;
/// Largest batch, in bytes as it is encoded (4 MiB).
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Longest URL, in bytes.
pub const URL_BYTES: usize = 2048;
/// Longest event type, in bytes.
pub const EVENT_TYPE_BYTES: usize = 128;
/// Longest project id, in bytes.
pub const PROJECT_ID_BYTES: usize = 64;
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES: usize = 256;
/// Longest endpoint description, in bytes.
pub const DESCRIPTION_BYTES: usize = 1024;
/// Most event-type patterns of one endpoint.
pub const EVENT_TYPE_PATTERNS: usize = 128;
/// Most headers that an endpoint adds to its requests.
pub const ENDPOINT_HEADERS: usize = 32;
/// Longest value of an endpoint's header, in bytes.
pub const HEADER_VALUE_BYTES: usize = 4096;
/// Longest name of a header, in bytes.
pub const HEADER_NAME_BYTES: usize = 128;
/// Longest media type of a payload, in bytes.
pub const CONTENT_TYPE_BYTES: usize = 128;
/// Most deliveries that one message fans out to.
pub const FAN_OUT: usize = 1000;
/// Most secrets of one endpoint that sign at the same time.
pub const LIVE_SECRETS: usize = 10;
/// Longest overlap of a rotation, in seconds (7 days).
pub const OVERLAP_SECONDS: u32 = 7 * 24 * 3600;
/// Overlap of a rotation unless it is given, in seconds (24 h).
pub const DEFAULT_OVERLAP_SECONDS: u32 = 24 * 3600;
/// Largest page of a list.
pub const PAGE_SIZE: u32 = 200;
/// Page size unless it is given.
pub const DEFAULT_PAGE_SIZE: u32 = 50;
/// Replays of one project that run at the same time.
pub const RUNNING_REPLAYS: usize = 100;
/// Most deliveries per second of one replay.
pub const REPLAY_RATE: u32 = 10_000;
/// Event types of one project, archived ones too.
pub const EVENT_TYPES: usize = 1000;
/// Longest JSON Schema of an event type, in bytes (64 KiB).
pub const SCHEMA_BYTES: usize = 64 * 1024;
/// Longest example payload of an event type, in bytes (64 KiB).
pub const EXAMPLE_BYTES: usize = 64 * 1024;
/// Most subschemas and `enum` values of a JSON Schema, together.
pub const SCHEMA_PARTS: usize = 1000;
/// Most regular expressions of a JSON Schema.
pub const SCHEMA_PATTERNS: usize = 100;
/// How far one schema of a JSON Schema may apply others to the same value, by `$ref`, `allOf` and the like: so many, one
/// through the other. All that it applies so, counted as often as it does, are at most [`SCHEMA_PARTS`].
pub const SCHEMA_CHAIN: usize = 16;
/// Deepest nesting of a payload that is checked against a JSON Schema.
pub const CHECKED_DEPTH: usize = 64;
