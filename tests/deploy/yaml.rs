//! YAML files as JSON values.

use std::path::Path;
use std::process::Command;

use harness::python;
use serde_json::Value;

/// The documents of a YAML file.
pub(crate) async fn documents(path: &Path) -> Vec<Value> {
    read(&[path.to_str().expect("a text")]).await
}

/// The Kubernetes objects of a YAML file, each of which satisfies its schema.
pub(crate) async fn objects(path: &Path) -> Vec<Value> {
    read(&["--kubernetes", path.to_str().expect("a text")]).await
}

/// Whether the objects of a YAML file satisfy their schemas.
pub(crate) fn is_valid(path: &Path) -> bool {
    let ran = Command::new("python3")
        .arg(harness::workspace().join("tests/deploy/validate.py"))
        .arg("--kubernetes")
        .arg(path)
        .env("PYTHONPATH", harness::workspace().join(".tools/python"))
        .output();
    ran.expect("run python3").status.success()
}

async fn read(arguments: &[&str]) -> Vec<Value> {
    let read = python::run("deploy/validate.py", arguments).await;
    let documents = read.as_object().and_then(|files| files.values().next());
    documents.and_then(Value::as_array).expect("a list").clone()
}

/// The texts of a list.
pub(crate) fn texts(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// The items of a list; none when it is not there.
pub(crate) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The text of a value that must be one.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
