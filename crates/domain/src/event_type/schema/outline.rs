//! What of a schema decides how long checking takes, and the bounds on it.
//!
//! Checking a value costs at most its schema's parts for each value in it: results of the targets of `$ref` are kept while
//! a payload is checked, so that neither a schema that refers to itself nor one that refers twice at each of many levels is
//! followed again and again. What would defeat that, or exhaust the stack, is refused here.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::limits;
use crate::rejection::FieldViolation;

/// Keywords that hold a schema of the same value.
const SAME: [&str; 4] = ["not", "if", "then", "else"];
/// Keywords that hold a list of schemas of the same value.
const SAME_LIST: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords that hold schemas of the same value by the name of a member. In `dependencies` there may be lists of names, too.
const SAME_MAP: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords that hold a schema of every member or item.
const EACH: [&str; 7] = [
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "unevaluatedItems",
    "contains",
    "contentSchema",
];
/// Keywords that hold schemas by name.
const MAPS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords that are not taken.
const REFUSED: [&str; 4] = [
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
];
/// Keywords that look at the same value a second time. Inside one another, each doubles the work.
const UNEVALUATED: [&str; 2] = ["unevaluatedProperties", "unevaluatedItems"];
/// Most of those inside one another.
const UNEVALUATED_NESTED: usize = 6;
/// The one draft that is spoken.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// What is said of a reference that leads out of the schema, or that is not by place.
const ELSEWHERE: &str =
    "must be `#` or a JSON Pointer into this schema, as `#/$defs/…`: nothing else is looked up";

/// Where a schema stands in the whole one, as a JSON Pointer.
type Place = String;

/// A schema, walked through once.
#[derive(Default)]
pub(super) struct Outline {
    parts: usize,
    patterns: usize,
    /// Every schema, with those that apply to the same value when it does.
    same: BTreeMap<Place, Vec<Place>>,
    /// Where a `$ref` stands, and where it leads.
    references: Vec<(Place, Place)>,
    faults: Vec<(Place, String)>,
}

impl Outline {
    /// `schema` satisfies the metaschema.
    pub(super) fn of(schema: &Value) -> Self {
        let mut outline = Self::default();
        outline.walk(schema, Place::new(), 0);
        outline
    }

    /// Refuses what would take too long or lead elsewhere.
    pub(super) fn check(mut self, field: &str) -> Result<(), Vec<FieldViolation>> {
        // Of a schema with too many parts not every place is known.
        let is_whole = self.parts <= limits::SCHEMA_PARTS;
        for (at, target) in self.references.iter().filter(|_| is_whole) {
            if !self.same.contains_key(target) {
                self.faults
                    .push((at.clone(), "leads to nothing that is a schema".into()));
            }
        }
        let mut at_most = |count: usize, limit: usize, what: &str| {
            if count > limit {
                let message = format!("has more than {limit} {what}");
                self.faults.push((Place::new(), message));
            }
        };
        at_most(self.parts, limits::SCHEMA_PARTS, "subschemas and enum values");
        at_most(self.patterns, limits::SCHEMA_PATTERNS, "regular expressions");
        if self.faults.is_empty()
            && let Some(fault) = self.endless()
        {
            self.faults.push(fault);
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        let violation = |(at, message)| FieldViolation::new(format!("{field}{at}"), message);
        Err(self.faults.into_iter().map(violation).collect())
    }

    fn walk(&mut self, schema: &Value, at: Place, unevaluated: usize) {
        self.parts += 1;
        if self.parts > limits::SCHEMA_PARTS {
            // It is refused anyway, and to remember every place might take much memory.
            return;
        }
        let mut same = Vec::new();
        if let Value::Object(members) = schema {
            let unevaluated =
                unevaluated + usize::from(UNEVALUATED.iter().any(|&keyword| members.contains_key(keyword)));
            if unevaluated > UNEVALUATED_NESTED {
                let text =
                    format!("has unevaluated… inside others, at most {UNEVALUATED_NESTED} deep is taken");
                self.faults.push((at.clone(), text));
            }
            self.walk_members(members, &at, &mut same, unevaluated);
        }
        self.same.insert(at, same);
    }

    fn walk_members(
        &mut self,
        members: &Map<String, Value>,
        at: &Place,
        same: &mut Vec<Place>,
        unevaluated: usize,
    ) {
        for (keyword, value) in members {
            let place = below(at, keyword);
            let name = keyword.as_str();
            match (name, value) {
                ("$ref", Value::String(reference)) => match target(reference) {
                    Some(target) => {
                        same.push(target.clone().into_owned());
                        self.references.push((place, target.into_owned()));
                    }
                    None => self.fault(place, ELSEWHERE),
                },
                ("$schema", Value::String(draft)) if draft.trim_end_matches('#') != DRAFT => {
                    self.fault(place, &format!("must be `{DRAFT}`"));
                }
                ("$id", _) if !at.is_empty() => self.fault(place, "may not stand in a part of a schema"),
                ("enum", Value::Array(values)) => self.parts += values.len(),
                ("pattern", Value::String(_)) => self.patterns += 1,
                (_, value) if SAME.contains(&name) => {
                    same.push(place.clone());
                    self.walk(value, place, unevaluated);
                }
                (_, Value::Array(schemas)) if SAME_LIST.contains(&name) || name == "prefixItems" => {
                    for (index, schema) in schemas.iter().enumerate() {
                        let place = format!("{place}/{index}");
                        if name != "prefixItems" {
                            same.push(place.clone());
                        }
                        self.walk(schema, place, unevaluated);
                    }
                }
                (_, Value::Object(schemas)) if SAME_MAP.contains(&name) || MAPS.contains(&name) => {
                    if name == "patternProperties" {
                        self.patterns += schemas.len();
                    }
                    for (name, schema) in schemas.iter().filter(|(_, schema)| is_schema(schema)) {
                        let place = below(&place, name);
                        if SAME_MAP.contains(&keyword.as_str()) {
                            same.push(place.clone());
                        }
                        self.walk(schema, place, unevaluated);
                    }
                }
                (_, value) if EACH.contains(&name) => self.walk(value, place, unevaluated),
                _ if REFUSED.contains(&name) => self.fault(place, "is not supported"),
                _ => {}
            }
        }
    }

    fn fault(&mut self, at: Place, message: &str) {
        self.faults.push((at, message.into()));
    }

    /// A schema that applies through itself to the same value, or through too many others.
    fn endless(&self) -> Option<(Place, String)> {
        let mut reaches = HashMap::new();
        self.same
            .keys()
            .find_map(|place| self.reach(place, &mut reaches, 0).err())
            .map(|(place, message)| (place.clone(), message))
    }

    /// What applies to the same value when the schema at `place` does, `before` others having led there. In `reaches` it is
    /// `None` while it is being found out.
    fn reach<'a>(
        &'a self,
        place: &'a Place,
        reaches: &mut HashMap<&'a Place, Option<Reach>>,
        before: usize,
    ) -> Result<Reach, (&'a Place, String)> {
        match reaches.get(place) {
            Some(Some(reach)) => return Ok(*reach),
            Some(None) => {
                return Err((
                    place,
                    "applies through itself to the same value, without end".into(),
                ));
            }
            None => {}
        }
        reaches.insert(place, None);
        let mut reach = Reach::default();
        // A chain that is too long is not followed to its end: it may be as long as the schema has parts.
        if before <= limits::SCHEMA_CHAIN {
            for next in self.same.get(place).into_iter().flatten() {
                let next = self.reach(next, reaches, before + 1)?;
                reach.chain = reach.chain.max(next.chain + 1);
                reach.count = reach.count.saturating_add(next.count).saturating_add(1);
            }
        }
        if before + reach.chain > limits::SCHEMA_CHAIN || reach.count > limits::SCHEMA_PARTS {
            let (chain, count) = (limits::SCHEMA_CHAIN, limits::SCHEMA_PARTS);
            let message = format!(
                "applies to the same value through more than {chain} others, or more than {count} times, by `$ref`, \
                 `allOf` and the like"
            );
            return Err((place, message));
        }
        reaches.insert(place, Some(reach));
        Ok(reach)
    }
}

/// The schemas that one applies to the same value.
#[derive(Debug, Clone, Copy, Default)]
struct Reach {
    /// Most of them one through the other.
    chain: usize,
    /// All of them, each as often as it is applied.
    count: usize,
}

fn is_schema(value: &Value) -> bool {
    matches!(value, Value::Object(_) | Value::Bool(_))
}

/// The place that a reference leads to; `None` when that is not in this schema, or is named by other means.
fn target(reference: &str) -> Option<Cow<'_, str>> {
    let pointer = reference.strip_prefix('#')?;
    (pointer.is_empty() || pointer.starts_with('/'))
        .then(|| percent_decode_str(pointer).decode_utf8().ok())?
}

fn below(at: &str, name: &str) -> Place {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Takes the steps that checking `value` against `schema`, which is a part of `whole`, takes at most without keeping any
/// result; `None` when that is more than there are left.
pub(super) fn steps(whole: &Value, schema: &Value, value: &Value, left: &mut usize) -> Option<()> {
    *left = left.checked_sub(1)?;
    let Value::Object(members) = schema else {
        return Some(());
    };
    for (keyword, given) in members {
        let name = keyword.as_str();
        match (name, given) {
            ("$ref", Value::String(reference)) => {
                let target = target(reference).and_then(|target| whole.pointer(&target))?;
                steps(whole, target, value, left)?;
            }
            ("enum", Value::Array(values)) => *left = left.checked_sub(values.len())?,
            (_, schema) if SAME.contains(&name) => steps(whole, schema, value, left)?,
            ("prefixItems", Value::Array(schemas)) => {
                for (schema, item) in schemas.iter().zip(value.as_array().into_iter().flatten()) {
                    steps(whole, schema, item, left)?;
                }
            }
            (_, Value::Array(schemas)) if SAME_LIST.contains(&name) => {
                for schema in schemas {
                    steps(whole, schema, value, left)?;
                }
            }
            (_, Value::Object(schemas)) if SAME_MAP.contains(&name) => {
                for schema in schemas.values() {
                    steps(whole, schema, value, left)?;
                }
            }
            ("properties", Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    if let Some(member) = value.get(name) {
                        steps(whole, schema, member, left)?;
                    }
                }
            }
            ("patternProperties", Value::Object(schemas)) => {
                for schema in schemas.values() {
                    for member in below_of(value) {
                        steps(whole, schema, member, left)?;
                    }
                }
            }
            (_, schema) if EACH.contains(&name) => {
                for member in below_of(value) {
                    steps(whole, schema, member, left)?;
                }
            }
            _ => {}
        }
    }
    Some(())
}

/// The members or items of a value.
fn below_of(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(members) => Box::new(members.values()),
        _ => Box::new(std::iter::empty()),
    }
}
