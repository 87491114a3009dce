//! The schemas of the tools, taken from the OpenAPI document: a tool takes the arguments of the operation that does the same,
//! wherever they stand in a request, and gives its answer. So they are described once.

use rmcp::model::JsonObject;
use serde_json::{Map, Value, json};

use crate::rest;

/// Where the document keeps what is referred to.
const COMPONENTS: &str = "#/components/schemas/";
const JSON: &str = "application/json";

/// The OpenAPI document of REST.
pub(super) struct Contract(Value);

impl Contract {
    pub(super) fn of_rest() -> Self {
        Self(serde_json::from_str(&rest::openapi()).expect("the document is JSON"))
    }

    /// Of the arguments.
    pub(super) fn input(&self, operation: &str) -> JsonObject {
        let operation = self.operation(operation);
        let body = self.resolved(&operation["requestBody"]["content"][JSON]["schema"]);
        let mut properties = Map::new();
        let mut required = Vec::new();
        for parameter in items(&operation["parameters"]) {
            let Some((name, schema)) = property(parameter) else {
                continue;
            };
            if parameter["required"] == true {
                required.push(Value::from(name));
            }
            properties.insert(name.to_owned(), schema);
        }
        properties.extend(body["properties"].as_object().cloned().unwrap_or_default());
        required.extend(items(&body["required"]).cloned());
        self.complete(json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        }))
    }

    /// Of the answer.
    pub(super) fn output(&self, operation: &str) -> JsonObject {
        let responses = self.operation(operation)["responses"].as_object();
        let done =
            responses.and_then(|responses| responses.iter().find(|(status, _)| status.starts_with('2')));
        let (_, done) = done.expect("an operation can succeed");
        let schema = &done["content"][JSON]["schema"];
        if schema.is_null() {
            return self.complete(deleted());
        }
        let mut schema = self.resolved(schema).clone();
        // A composed one does not say so of itself.
        schema["type"] = "object".into();
        self.complete(schema)
    }

    fn operation(&self, id: &str) -> &Value {
        let paths = self.0["paths"].as_object();
        let mut operations = paths
            .into_iter()
            .flat_map(Map::values)
            .filter_map(Value::as_object)
            .flat_map(Map::values);
        let found = operations.find(|operation| operation["operationId"] == id);
        found.expect("an operation of REST")
    }

    fn component(&self, reference: &str) -> &Value {
        let name = reference.strip_prefix(COMPONENTS).unwrap_or(reference);
        &self.0["components"]["schemas"][name]
    }

    /// What a schema refers to, if it does; of a body that may be left out, what it is otherwise.
    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let choices = items(&schema["oneOf"]);
        let reference = choices.chain([schema]).find_map(|schema| schema["$ref"].as_str());
        reference.map_or(schema, |reference| self.component(reference))
    }

    /// The schema with everything that it refers to, directly or not, beside it.
    fn complete(&self, mut schema: Value) -> JsonObject {
        let mut names = Vec::new();
        localize(&mut schema, &mut names);
        let mut definitions = Map::new();
        while let Some(name) = names.pop() {
            if !definitions.contains_key(&name) {
                let mut definition = self.component(&name).clone();
                localize(&mut definition, &mut names);
                definitions.insert(name, definition);
            }
        }
        if !definitions.is_empty() {
            schema["$defs"] = definitions.into();
        }
        match schema {
            Value::Object(schema) => schema,
            _ => JsonObject::new(),
        }
    }
}

/// The answer of an operation that answers nothing.
fn deleted() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "What was deleted"},
            "deleted": {"const": true},
        },
        "required": ["id", "deleted"],
    })
}

/// A parameter as a property: its name and schema. Headers have names of their own as arguments, if they are any.
fn property(parameter: &Value) -> Option<(&str, Value)> {
    let property = match (parameter["in"].as_str()?, parameter["name"].as_str()?) {
        ("header", "Idempotency-Key") => (
            "idempotency_key",
            json!({
                "type": ["string", "null"],
                "description": "A text of your choice, such as a UUID, kept for 24 hours: the same call with the same \
                                key gives the same answer and changes nothing more; another call with it is refused",
                "maxLength": 256,
            }),
        ),
        ("header", "If-Match") => (
            "revision",
            json!({
                "type": ["integer", "null"],
                "description": "Refuse unless this is still the endpoint's `revision`",
                "minimum": 1,
            }),
        ),
        ("header", _) => return None,
        (_, name) => {
            let mut schema = parameter["schema"].clone();
            schema["description"] = parameter["description"].clone();
            (name, schema)
        }
    };
    Some(property)
}

/// Lets references point into the schema itself, and tells their names.
fn localize(schema: &mut Value, names: &mut Vec<String>) {
    match schema {
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(reference) if key == "$ref" => {
                        if let Some(name) = reference.strip_prefix(COMPONENTS) {
                            names.push(name.to_owned());
                            *reference = format!("#/$defs/{name}");
                        }
                    }
                    member => localize(member, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| localize(item, names)),
        _ => {}
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
