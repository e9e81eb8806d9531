//! Tolerant readers: any letter case of names, numbers and booleans as strings, null as absent.
use serde_json::{Map, Value};

/// The member of that name in any letter case, unless null.
#[must_use]
pub fn find<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.get(name)
        .or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v))
        .filter(|v| !v.is_null())
}

/// A member of an object value.
#[must_use]
pub fn get<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_object().and_then(|m| find(m, name))
}

#[must_use]
pub fn properties(node: &Value) -> &Value {
    get(node, "properties").unwrap_or(&Value::Null)
}

#[must_use]
pub fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as i64)),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

#[must_use]
pub fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::String(s) if s.trim().eq_ignore_ascii_case("true") => Some(true),
        Value::String(s) if s.trim().eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Trimmed text that is not empty; numbers too, since some clients send them bare.
#[must_use]
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) if !s.trim().is_empty() => Some(s.trim().to_owned()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// The target of `{"resourceRef": "..."}`; empty is none.
#[must_use]
pub fn reference(value: &Value) -> Option<&str> {
    get(value, "resourceRef").and_then(Value::as_str).map(str::trim).filter(|s| !s.is_empty())
}

#[must_use]
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    get(value, name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[must_use]
pub fn get_int(value: &Value, name: &str) -> Option<i64> {
    get(value, name).and_then(int)
}

#[must_use]
pub fn get_bool(value: &Value, name: &str) -> Option<bool> {
    get(value, name).and_then(boolean)
}

#[must_use]
pub fn get_text(value: &Value, name: &str) -> Option<String> {
    get(value, name).and_then(text)
}
