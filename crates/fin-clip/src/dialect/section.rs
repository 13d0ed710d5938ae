//! Parts of a configuration file, with errors that name the field at fault.

use std::path::Path;

use fin_core::{Error, Result};
use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde_json::Value;

/// A section, of which every field has a default; `name` is empty for the whole file.
pub(super) fn read<T>(path: &Path, name: &str, value: &Value) -> Result<T>
where
    T: for<'de> Deserialize<'de>,
{
    // A list of values would be taken for the fields in their order.
    let error = match value.as_object() {
        None => "a list of named fields is expected".to_string(),
        Some(_) => match T::deserialize(value) {
            Ok(found) => return Ok(found),
            Err(error) => error.to_string(),
        },
    };
    // A field that cannot be read where it is the only one is at fault.
    let alone = |(field, value)| {
        let one = MapDeserializer::<_, serde_json::Error>::new(std::iter::once((field, value)));
        let error = T::deserialize(one).err()?;
        Some((field, error.to_string()))
    };
    let fields = value.as_object().into_iter().flatten();
    let fault = fields
        .map(|(field, value)| (field.as_str(), value))
        .find_map(alone);
    let (field, error) = fault.unwrap_or(("", error));
    let dot = match name.is_empty() || field.is_empty() {
        true => "",
        false => ".",
    };
    let reason = format!("cannot be used: {error}");
    match (name, field) {
        ("", "") => Err(Error::invalid(path, reason)),
        _ => Err(Error::config(path, format!("{name}{dot}{field}"), reason)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Numbers {
        first: usize,
        second: Option<Vec<u8>>,
    }

    fn error(name: &str, value: &Value) -> String {
        let found: Result<Numbers> = read(Path::new("a.json"), name, value);
        found.unwrap_err().to_string()
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let value = json!({"first": 3, "second": [1], "third": "x"});
        let expected = Numbers {
            first: 3,
            second: Some(vec![1]),
        };
        assert_eq!(
            read::<Numbers>(Path::new("a.json"), "", &value).unwrap(),
            expected
        );
        for (name, value, field) in [
            ("", json!({"first": 3, "second": [1, 256]}), "`second`"),
            ("top", json!({"first": -3, "second": "x"}), "`top.first`"),
            ("top", json!([3]), "`top`"),
        ] {
            let error = error(name, &value);
            assert!(error.contains("a.json") && error.contains(field), "{error}");
        }
        let error = error("", &json!(7));
        assert!(error.starts_with("a.json: cannot be used"), "{error}");
    }
}
