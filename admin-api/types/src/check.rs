//! One value against its type: numbers and words in every form that clients send them.
use crate::document::read_properties;
use crate::intent::Tag;
use crate::kind::Type;
use crate::{Problems, ResourcePath, pointer_join, value};
use ipnetwork::IpNetwork;
use penstock_model::Mac;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Checks `v` and gives it back as it is to be kept, in its wire type; `None` when it is wrong (the problem is recorded) or
/// empty.
pub(crate) fn check(of: &'static Type, v: &Value, at: &str, problems: &mut Problems) -> Option<Value> {
    match of {
        Type::Any | Type::BackRef(_) | Type::BackRefs(_) => Some(v.clone()),
        Type::Object(known) => match v.as_object() {
            Some(map) => Some(Value::Object(read_properties(known, &[], map, at, problems))),
            None => wrong(v, at, "an object", problems),
        },
        Type::List(item) => match v.as_array() {
            Some(items) => Some(Value::Array(
                items
                    .iter()
                    .enumerate()
                    .filter(|(_, v)| !v.is_null())
                    .filter_map(|(i, v)| {
                        let before = problems.0.len();
                        let kept = check(item, v, &pointer_join(at, i), problems);
                        // What is wrong leaves its place empty, so that later problems point at the right items.
                        kept.or_else(|| (problems.0.len() > before).then_some(Value::Null))
                    })
                    .collect(),
            )),
            None => wrong(v, at, "an array", problems),
        },
        Type::Ref(kinds) => check_reference(kinds, v, at, problems),
        scalar => match v {
            // An empty string means absent to several clients.
            Value::String(s) if s.trim().is_empty() => None,
            _ => check_scalar(scalar, v, at, problems),
        },
    }
}

fn check_scalar(of: &Type, v: &Value, at: &str, problems: &mut Problems) -> Option<Value> {
    let kept = match of {
        Type::Bool => value::boolean(v).map(Value::from),
        Type::BoolText(no, yes) => value::boolean(v).map(|b| json!(if b { yes } else { no })),
        Type::Int(min, max) => value::int(v).filter(|n| (*min..=*max).contains(n)).map(Value::from),
        Type::IntText(min, max) => value::int(v).filter(|n| (*min..=*max).contains(n)).map(|n| json!(n.to_string())),
        Type::Text => value::text(v).is_some().then(|| as_text(v)),
        Type::OneOf(words) => v.as_str().and_then(|s| word(words, s.trim())).map(Value::from),
        Type::Ip => parsed::<IpAddr>(v).map(|_| v.clone()),
        Type::Prefix => parsed::<IpNetwork>(v).map(|_| v.clone()),
        Type::Mac => parsed::<Mac>(v).map(|_| v.clone()),
        Type::PortRange => value::text(v).and_then(|s| port_range(&s)).map(|_| as_text(v)),
        Type::AddressPattern => v.as_str().and_then(address_pattern).map(|_| v.clone()),
        Type::Key => v.as_str().and_then(key).map(|_| v.clone()),
        _ => Some(v.clone()),
    };
    kept.or_else(|| wrong(v, at, &expected(of, v), problems))
}

fn expected(of: &Type, v: &Value) -> String {
    match of {
        Type::Bool | Type::BoolText(..) => "a boolean".to_owned(),
        Type::Int(min, i64::MAX) | Type::IntText(min, i64::MAX) => match value::int(v) {
            Some(_) => format!("a whole number of at least {min}"),
            None => "a whole number".to_owned(),
        },
        Type::Int(min, max) | Type::IntText(min, max) => format!("a whole number from {min} to {max}"),
        Type::OneOf(words) => {
            let known = |(i, w): &(usize, &&str)| !words.iter().take(*i).any(|x| x.eq_ignore_ascii_case(w));
            let words: Vec<&str> = words.iter().enumerate().filter(known).map(|(_, w)| *w).collect();
            format!("one of {}", words.join(", "))
        }
        Type::Ip => "an IPv4 or IPv6 address".to_owned(),
        Type::Prefix => "an address prefix such as 10.0.0.0/24 or 2001:db8::/64".to_owned(),
        Type::Mac => "an Ethernet address of 12 hexadecimal digits".to_owned(),
        Type::PortRange => "a port, a range of ports such as 80-81, or *".to_owned(),
        Type::AddressPattern => {
            "*, an address, a prefix, VirtualNetwork, Internet, LoadBalancer, or several separated by commas".to_owned()
        }
        Type::Key => "a key of 32 bytes in base64".to_owned(),
        _ => "text".to_owned(),
    }
}

/// Text stays as it was sent; some clients send numbers bare.
fn as_text(v: &Value) -> Value {
    match v {
        Value::Number(n) => json!(n.to_string()),
        v => v.clone(),
    }
}

/// A published spelling stays; any other becomes the first.
fn word(words: &[&'static str], said: &str) -> Option<&'static str> {
    let exact = words.iter().find(|w| **w == said);
    exact.or_else(|| words.iter().find(|w| w.eq_ignore_ascii_case(said))).copied()
}

fn check_reference(kinds: &'static [&'static str], v: &Value, at: &str, problems: &mut Problems) -> Option<Value> {
    if !v.is_object() {
        return wrong(v, at, "an object with a resourceRef", problems);
    }
    let text = value::reference(v)?;
    let at = pointer_join(at, "resourceRef");
    match ResourcePath::parse(text) {
        Ok(path) if kinds.contains(&path.kind_path()) => {}
        Ok(path) => problems.push(
            at,
            "InvalidJsonReferenceWrongType",
            format!("'{path}' is of kind {}; expected {}", path.kind_path(), kinds.join(" or ")),
        ),
        Err(e) => problems.push(at, "InvalidJsonReferenceFormat", e.to_string()),
    }
    Some(v.clone())
}

fn parsed<T: std::str::FromStr>(v: &Value) -> Option<T> {
    v.as_str().and_then(|s| s.trim().parse().ok())
}

fn wrong(v: &Value, at: &str, expected: &str, problems: &mut Problems) -> Option<Value> {
    let shown: String = v.to_string().chars().take(80).collect();
    let name = at.rsplit('/').next().unwrap_or_default();
    problems.push(
        at,
        "InvalidParameterValue",
        format!("{shown} is not a valid value for '{name}': expected {expected}"),
    );
    None
}

/// `80`, `80-81`, `*`.
pub(crate) fn port_range(s: &str) -> Option<(u16, u16)> {
    let s = s.trim();
    if s == "*" {
        return Some((0, u16::MAX));
    }
    let (first, last) = s.split_once('-').unwrap_or((s, s));
    let range = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

/// Empty: any address.
pub(crate) fn address_pattern(s: &str) -> Option<Addresses> {
    let s = s.trim();
    let mut out = Addresses::default();
    if s == "*" || s.eq_ignore_ascii_case("any") {
        return Some(out);
    }
    for part in s.split(',').map(str::trim) {
        match TAGS.iter().find(|(name, _)| part.eq_ignore_ascii_case(name)) {
            Some((_, tag)) => out.tags.push(tag.clone()),
            None => out.prefixes.push(part.parse().ok()?),
        }
    }
    Some(out)
}

/// What one side of a rule names; nothing: any address.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) prefixes: Vec<IpNetwork>,
    pub(crate) tags: Vec<Tag>,
}

const TAGS: [(&str, Tag); 4] = [
    ("VirtualNetwork", Tag::VirtualNetwork),
    ("Internet", Tag::Internet),
    ("LoadBalancer", Tag::LoadBalancer),
    ("AzureLoadBalancer", Tag::LoadBalancer),
];

/// 32 bytes in standard base64 with padding, as `wg genkey` writes them.
pub(crate) fn key(s: &str) -> Option<[u8; 32]> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(s.trim()).ok()?.try_into().ok()
}
