//! Hard negatives of training data: which columns they are in, and their texts.

use std::path::Path;

use serde_json::Value;

use super::Column;
use super::record::{Content, Key, Record, Records, Role};
use crate::error::Result;

/// Which columns are negatives.
pub(super) enum Negatives {
    /// These.
    Keys(Vec<Key>),
    /// The keys of a JSON object with the names of negatives.
    Named,
    /// The elements of a JSON array after the second.
    Rest,
}

impl Negatives {
    pub(super) fn new(
        records: &Records,
        roles: &[Role<'_>],
        chosen: Option<&[Column]>,
    ) -> Result<Self> {
        if let Some(columns) = chosen {
            let keys = columns
                .iter()
                .map(|column| records.key(column))
                .collect::<Result<_>>()?;
            return Ok(Self::Keys(keys));
        }
        if records.is_object() {
            return Ok(Self::Named);
        }
        let by_position =
            roles.iter().all(|(column, _)| column.is_none()) && !records.has_names(roles);
        if let Some(Record {
            content: Content::Json(_),
            ..
        }) = records.first()
            && records.header().is_none()
        {
            return Ok(if by_position {
                Self::Rest
            } else {
                Self::Keys(Vec::new())
            });
        }
        let names = records.header().unwrap_or_default();
        let mut indices: Vec<_> = (0..names.len())
            .filter(|&index| is_negative(&names[index]))
            .collect();
        if indices.is_empty() && by_position {
            indices = (roles.len()..records.width()).collect();
        }
        Ok(Self::Keys(
            indices.into_iter().map(|index| records.at(index)).collect(),
        ))
    }

    pub(super) fn texts(&self, path: &Path, record: &Record) -> Result<Vec<String>> {
        let values: Vec<(String, Value)> = match (self, &record.content) {
            (Self::Keys(keys), _) => keys
                .iter()
                .map(|key| Ok((key.name.clone(), record.value(path, key)?)))
                .collect::<Result<_>>()?,
            (Self::Named, Content::Json(Value::Object(fields))) => fields
                .iter()
                .filter(|(name, _)| is_negative(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            (Self::Rest, Content::Json(Value::Array(elements))) => elements
                .iter()
                .enumerate()
                .skip(2)
                .map(|(index, value)| (index.to_string(), value.clone()))
                .collect(),
            // Not a row like the first: taking the anchor from it has failed already.
            (Self::Named | Self::Rest, _) => Vec::new(),
        };
        let mut texts = Vec::new();
        for (name, value) in values {
            match value {
                Value::Null => {}
                Value::Array(elements) => {
                    for element in elements {
                        texts.push(record.expect_text(path, &name, element)?);
                    }
                }
                value => texts.push(record.expect_text(path, &name, value)?),
            }
        }
        texts.retain(|text| !text.is_empty());
        Ok(texts)
    }
}

/// Whether a column without a chosen role holds negatives by its name.
fn is_negative(name: &str) -> bool {
    matches!(name, "negative" | "negatives") || name.starts_with("negative_")
}
