//! The committed description of the API is that of the code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_admin_types::openapi;
use serde_json::Value;
use std::collections::BTreeSet;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json");

fn document() -> Value {
    openapi(env!("CARGO_PKG_VERSION"))
}

#[test]
fn the_committed_document_is_what_is_served() {
    let now = format!("{:#}\n", document());
    if std::env::var_os("PENSTOCK_WRITE_OPENAPI").is_some() {
        std::fs::write(FILE, &now).unwrap();
    }
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        committed == now,
        "the API has changed: write it down in CHANGELOG.md, and in admin-api/openapi.json by \
         PENSTOCK_WRITE_OPENAPI=1 cargo test -p penstock-admin-types --test openapi"
    );
}

fn references(v: &Value, out: &mut BTreeSet<String>) {
    match v {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_its_own_name() {
    let document = document();
    let mut all = BTreeSet::new();
    references(&document, &mut all);
    assert!(all.len() > 50);
    for r in all {
        assert!(document.pointer(r.trim_start_matches('#')).is_some(), "{r}");
    }
    let mut names = BTreeSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for method in ["get", "put", "post", "delete"] {
            if let Some(operation) = item.get(method) {
                assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
                assert!(operation["responses"]["default"].is_object());
            }
        }
    }
    assert!(names.len() > 150, "{}", names.len());
}

#[test]
fn each_parameter_of_a_path_is_described() {
    for (path, item) in document()["paths"].as_object().unwrap() {
        let mut described = BTreeSet::new();
        let mut shared: Vec<&Value> = item["parameters"].as_array().into_iter().flatten().collect();
        for method in ["get", "post", "delete"] {
            shared.extend(item.get(method).and_then(|p| p["parameters"].as_array()).into_iter().flatten());
        }
        for p in shared {
            let name = p["name"].as_str().or_else(|| p["$ref"].as_str().and_then(|r| r.rsplit('/').next()));
            described.insert(name.unwrap().to_owned());
        }
        for part in path.split('/').filter(|p| p.starts_with('{')) {
            assert!(described.contains(part.trim_matches(['{', '}'])), "{path}: {part}");
        }
    }
}
