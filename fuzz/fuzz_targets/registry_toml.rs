//! Rows of a catalogue, as users write them.

#![no_main]

use std::path::Path;

use fin_fuzz::{check_error, within_limits};
use fin_registry::Catalogue;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = Path::new("models.toml");
    within_limits(data.len(), || {
        let catalogue = match Catalogue::from_toml(path, text) {
            Ok(catalogue) => catalogue,
            Err(error) => return check_error(&error),
        };
        for row in catalogue.list(None) {
            assert_eq!(catalogue.find(&row.name).unwrap(), row);
            // Names are joined to directories.
            assert!(!row.name.contains(['/', '\\']) && !row.name.starts_with('.'));
        }
        if let Err(error) = Catalogue::embedded().clone().with(catalogue, path) {
            check_error(&error);
        }
        if let Err(error) = Catalogue::embedded().find(text) {
            check_error(&error);
        }
    });
});
