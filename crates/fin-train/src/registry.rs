//! Making a loss, sampler or schedule from its name and options.

use fin_core::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Options of a loss, sampler or schedule by name, as in a configuration file; those left out
/// have their default.
pub type Options = Map<String, Value>;

/// A name and how the thing of that name is made from options.
pub(crate) type Entry<T> = (&'static str, fn(&'static str, &Options) -> Result<Box<T>>);

/// Looks a name up and makes the thing.
pub(crate) fn from_name<T: ?Sized>(
    kind: &str,
    entries: &[Entry<T>],
    name: &str,
    options: &Options,
) -> Result<Box<T>> {
    match entries.iter().find(|(entry, _)| *entry == name) {
        Some((entry, make)) => make(entry, options),
        None => {
            let names: Vec<_> = entries.iter().map(|(entry, _)| *entry).collect();
            Err(Error::argument(
                kind,
                format!("`{name}` is unknown; accepted are {}", names.join(", ")),
            ))
        }
    }
}

/// Options as a type that derives `Deserialize`; errors name the option.
pub(crate) fn parse<T: DeserializeOwned>(name: &str, options: &Options) -> Result<T> {
    serde_json::from_value(Value::Object(options.clone()))
        .map_err(|e| Error::argument(name, format!("an option cannot be used: {e}")))
}

/// A name with options, written as the name alone or as an object with `name` and the options.
pub(crate) fn named(kind: &str, value: &Value) -> Result<(String, Options)> {
    let invalid = || {
        let reason = format!("{value} is neither a name nor an object with `name` and options");
        Error::argument(kind, reason)
    };
    match value {
        Value::String(name) => Ok((name.clone(), Options::new())),
        Value::Object(object) => {
            let mut options = object.clone();
            match options.remove("name") {
                Some(Value::String(name)) => Ok((name, options)),
                _ => Err(invalid()),
            }
        }
        _ => Err(invalid()),
    }
}

/// The reverse of [`named`], always as an object.
pub(crate) fn to_named(name: &str, options: Options) -> Value {
    let mut object = Options::from_iter([("name".to_string(), Value::from(name))]);
    object.extend(options);
    Value::Object(object)
}

/// Settings as options, to be written down beside a checkpoint.
pub(crate) fn to_options(settings: &impl serde::Serialize) -> Options {
    match serde_json::to_value(settings) {
        Ok(Value::Object(options)) => options,
        _ => Options::new(),
    }
}
