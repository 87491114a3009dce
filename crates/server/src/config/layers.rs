//! Putting the layers together, each value beside where it comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Tag, Value};

use super::{Config, DEFAULTS, ENV_PREFIX, Problem};

/// Keys whose values are secrets or may hold one; each may come from the file that `<key>_file` names.
pub(super) const SECRETS: [&str; 5] = [
    "api.admin_key",
    "history.url",
    "log.url",
    "sealing.keys",
    "telemetry.otlp_headers",
];

/// What a configuration is made of, beside the embedded defaults.
#[derive(Clone, Default)]
pub struct Sources {
    /// What the command sets before anybody is asked, as `dev` does: keys and their texts.
    pub preset: Vec<(String, String)>,
    /// The file of `--config`.
    pub file: Option<PathBuf>,
    /// The environment, whole.
    pub environment: Vec<(String, String)>,
    /// Keys that flags set, and their texts.
    pub flags: Vec<(String, String)>,
}

impl fmt::Debug for Sources {
    /// Names only: any value may be a secret, one of the environment also somebody else's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        f.debug_struct("Sources")
            .field("preset", &names(&self.preset))
            .field("file", &self.file)
            .field("environment", &names(&self.environment))
            .field("flags", &names(&self.flags))
            .finish()
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The embedded defaults.
    Default,
    /// Set by the command.
    Preset,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset => f.write_str("set by the command"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// The value of every key, by its dotted name.
#[derive(Clone)]
pub struct Settings(pub(super) BTreeMap<String, Setting>);

impl fmt::Debug for Settings {
    /// As [`Settings::show`] does, without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl Settings {
    /// Merges the layers, a later one over an earlier one.
    pub(super) fn merge(sources: &Sources, problems: &mut Vec<Problem>) -> Self {
        let defaults = flatten(defaults(), &Origin::Default);
        let mut merged = Self(defaults.clone());
        let preset = sources
            .preset
            .iter()
            .map(|(key, text)| (key.clone(), text.as_str(), Origin::Preset));
        merged.add(texts(preset, &defaults, problems), &defaults, problems);
        if let Some(path) = &sources.file {
            let layer = read(path, problems);
            merged.add(flatten(layer, &Origin::File(path.clone())), &defaults, problems);
        }
        let environment = sources.environment.iter().filter_map(|(name, text)| {
            let key = name.strip_prefix(ENV_PREFIX)?.to_lowercase().replace("__", ".");
            Some((key, text.as_str(), Origin::Environment(name.clone())))
        });
        merged.add(texts(environment, &defaults, problems), &defaults, problems);
        let flags = sources
            .flags
            .iter()
            .map(|(key, text)| (key.clone(), text.as_str(), Origin::Flag));
        merged.add(texts(flags, &defaults, problems), &defaults, problems);
        merged
    }

    /// Where `key`'s value comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.0
            .get(key)
            .map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// Whether anybody but the defaults has set `key`.
    pub fn is_set(&self, key: &str) -> bool {
        self.origin(key) != Origin::Default
    }

    /// The configuration, with the default in place of every value that cannot be used.
    pub(super) fn parse(&mut self, problems: &mut Vec<Problem>) -> Config {
        let defaults = flatten(defaults(), &Origin::Default);
        loop {
            let error = match self.to_value().deserialize::<Config>() {
                Ok(config) => return config,
                Err(error) => error,
            };
            // The path may end in an item of a list.
            let mut path = error.path.clone();
            while !path.is_empty() && !defaults.contains_key(&path.join(".")) {
                path.pop();
            }
            let key = path.join(".");
            let origin = self.origin(&key);
            assert!(
                origin != Origin::Default,
                "config.default.toml, which a test parses, is wrong: {error}"
            );
            self.0.insert(key.clone(), defaults[&key].clone());
            let message = match error.kind {
                // What was found instead may be the secret itself.
                Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected)
                    if SECRETS.contains(&key.as_str()) =>
                {
                    format!("must be {expected}")
                }
                kind => kind.to_string(),
            };
            problems.push(Problem { key, origin, message });
        }
    }

    /// As nested tables. Texts that are empty are left out: that is how a key is not set.
    fn to_value(&self) -> Value {
        let mut root = Dict::new();
        for (key, setting) in &self.0 {
            let value = (setting.value.as_str() != Some("")).then(|| setting.value.clone());
            insert(&mut root, key, value);
        }
        Value::from(root)
    }

    /// Lays a layer over what is there: unknown keys are problems, `<key>_file` is read.
    fn add(
        &mut self,
        mut layer: BTreeMap<String, Setting>,
        defaults: &BTreeMap<String, Setting>,
        problems: &mut Vec<Problem>,
    ) {
        for secret in SECRETS {
            let Some(file) = layer.remove(&format!("{secret}_file")) else {
                continue;
            };
            let message = if layer.contains_key(secret) {
                format!("{secret} is set too; set one of them")
            } else {
                match read_secret(&file.value) {
                    Ok(text) => {
                        let value = coerce(&text, &defaults[secret].value).unwrap_or_else(|_| text.into());
                        layer.insert(
                            secret.into(),
                            Setting {
                                value,
                                origin: file.origin,
                            },
                        );
                        continue;
                    }
                    Err(message) => message,
                }
            };
            problems.push(Problem {
                key: format!("{secret}_file"),
                origin: file.origin,
                message,
            });
        }
        for (key, setting) in layer {
            if defaults.contains_key(&key) {
                self.0.insert(key, setting);
            } else {
                let message = suggestion(&key, defaults);
                problems.push(Problem {
                    key,
                    origin: setting.origin,
                    message,
                });
            }
        }
    }
}

fn defaults() -> Dict {
    Toml::from_str(DEFAULTS).expect("config.default.toml is parsed by a test")
}

fn read(path: &Path, problems: &mut Vec<Problem>) -> Dict {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let parsed = text.and_then(|text| {
        // Not as the error shows itself, for it quotes the line, which may hold a secret.
        Toml::from_str(&text).map_err(|error| match error.span() {
            Some(span) => format!("{}: {}", position(&text, span.start), error.message()),
            None => error.message().to_owned(),
        })
    });
    parsed.unwrap_or_else(|message| {
        problems.push(Problem {
            key: "--config".into(),
            origin: Origin::File(path.to_owned()),
            message: message.trim_end().replace('\n', "\n    "),
        });
        Dict::new()
    })
}

/// `line L, column C` of a byte of `text`, both from 1.
fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

/// Puts `value` into the tables that the dots of `key` stand for. The tables are there even if there is no value.
fn insert(table: &mut Dict, key: &str, value: Option<Value>) {
    match key.split_once('.') {
        None => table.extend(value.map(|value| (key.to_owned(), value))),
        Some((name, rest)) => {
            let inner = table
                .entry(name.to_owned())
                .or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// The content of a secret's file, without the white space around it.
fn read_secret(file: &Value) -> Result<String, String> {
    let path = file.as_str().ok_or("must be the path of a file")?;
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    match text.trim() {
        "" => Err(format!("{path} is empty")),
        text => Ok(text.to_owned()),
    }
}

/// Nested tables as `section.key`.
fn flatten(layer: Dict, origin: &Origin) -> BTreeMap<String, Setting> {
    let mut flat = BTreeMap::new();
    for (name, value) in layer {
        match value {
            Value::Dict(_, inner) => {
                let inner = flatten(inner, origin).into_iter();
                flat.extend(inner.map(|(key, setting)| (format!("{name}.{key}"), setting)));
            }
            value => {
                flat.insert(
                    name,
                    Setting {
                        value,
                        origin: origin.clone(),
                    },
                );
            }
        }
    }
    flat
}

/// Keys given as texts, each read as what its default is.
fn texts<'a>(
    pairs: impl Iterator<Item = (String, &'a str, Origin)>,
    defaults: &BTreeMap<String, Setting>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Setting> {
    let mut layer = BTreeMap::new();
    for (key, text, origin) in pairs {
        let value = match defaults.get(&key) {
            Some(default) => coerce(text, &default.value),
            None => Ok(text.into()),
        };
        match value {
            Ok(value) => {
                layer.insert(key, Setting { value, origin });
            }
            Err(message) => problems.push(Problem { key, origin, message }),
        }
    }
    layer
}

/// Reads `text` as a value of the same type as `like`; a list is separated by commas.
fn coerce(text: &str, like: &Value) -> Result<Value, String> {
    let text = text.trim();
    match like {
        Value::Bool(..) => text
            .parse::<bool>()
            .map(Value::from)
            .map_err(|_| "must be true or false".into()),
        Value::Num(..) => number(text).ok_or_else(|| "must be a number".into()),
        Value::Array(..) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(
                Tag::Default,
                items
                    .map(|item| number(item).unwrap_or_else(|| item.into()))
                    .collect(),
            ))
        }
        _ => Ok(text.into()),
    }
}

fn number(text: &str) -> Option<Value> {
    let integer = text.parse::<i64>().ok().map(Value::from);
    integer.or_else(|| {
        text.parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
            .map(Value::from)
    })
}

/// What to say of a key that does not exist.
fn suggestion(key: &str, defaults: &BTreeMap<String, Setting>) -> String {
    let name = |key: &str| {
        key.rsplit_once('.')
            .map_or_else(|| key.to_owned(), |(_, name)| name.to_owned())
    };
    match defaults.keys().find(|known| name(known) == name(key)) {
        Some(known) => format!("there is no such key; did you mean {known}?"),
        None => "there is no such key".into(),
    }
}
