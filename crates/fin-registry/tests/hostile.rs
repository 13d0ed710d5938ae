//! Catalogues that ask for more than they hold.

#[path = "../../fin-core/tests/hostile/counting.rs"]
mod counting;

use std::path::Path;

use fin_registry::Catalogue;

fn refused(text: &str, reason: &str) {
    let parse = || Catalogue::from_toml(Path::new("models.toml"), text);
    let error = counting::within_limits(text.len(), parse).unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("models.toml: "), "{error}");
    assert!(error.contains(reason), "{error}");
}

/// As many of these as the largest catalogue takes.
fn most(unit: &str) -> String {
    format!("a=[{}]", unit.repeat(((96 << 10) - 8) / unit.len()))
}

#[test]
fn catalogues_are_held_to_a_size() {
    refused(&most("0,"), "unknown field");
    refused(
        &most("{a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t=0},"),
        "unknown field",
    );
    refused(&"[[model]]\n".repeat(9_000), "missing field");
    refused(&most("0,").repeat(2), "are too many for a catalogue");
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 40).unwrap();
    let error = Catalogue::read(file.path()).unwrap_err().to_string();
    assert!(error.contains("are too many for a catalogue"), "{error}");
}

#[test]
fn nesting_ends_somewhere() {
    for open in ["[", "{a=", "{a.a="] {
        refused(&format!("a={}", open.repeat(15_000)), "recurs");
    }
    refused(&format!("{}a=1", "a.".repeat(40_000)), "recursion limit");
    refused(&format!("[{}a]", "a.".repeat(40_000)), "recursion limit");
    refused("[[model]]\n[[model.model]]\n", "field");
}
