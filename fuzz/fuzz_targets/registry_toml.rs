//! Rows of a catalogue, as users write them.

#![no_main]

use fin_fuzz::within_limits;
use fin_registry::ModelRow;
use libfuzzer_sys::fuzz_target;

#[derive(serde::Deserialize)]
struct Catalogue {
    model: Vec<ModelRow>,
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    within_limits(data.len(), || {
        if let Ok(catalogue) = toml::from_str::<Catalogue>(text) {
            for row in catalogue.model {
                assert_eq!(row, row.clone());
            }
        }
    });
});
