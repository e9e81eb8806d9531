//! What kinds and members mean: from the same table that the controller validates by. Needs no controller.
use crate::error::CliError;
use crate::output::{Output, Style, table};
use penstock_admin_types::{Function, KINDS, Kind, Property, Rule, Type, about};
use std::fmt::Write;

pub(crate) fn run(name: &str, output: &Output) -> Result<(), CliError> {
    let words: Vec<&str> = name.split(['.', '/']).filter(|w| !w.is_empty()).collect();
    output.text(&explain(name, &words, output)?)
}

fn explain(name: &str, words: &[&str], output: &Output) -> Result<String, CliError> {
    let mut kinds = KINDS;
    let mut found: Option<(&'static Kind, String)> = None;
    for (i, word) in words.iter().enumerate() {
        if let Some(kind) = kinds.iter().find(|k| k.collection.eq_ignore_ascii_case(word)) {
            let path = found.map_or_else(String::new, |(_, path)| format!("{path}/"));
            found = Some((kind, format!("{path}{}", kind.collection)));
            kinds = kind.children;
            continue;
        }
        let unknown = |known: Vec<&str>| CliError::UnknownName {
            name: name.to_owned(),
            hint: format!("there are: {}", known.join(", ")),
        };
        let Some((kind, path)) = &found else {
            return Err(unknown(KINDS.iter().map(|k| k.collection).collect()));
        };
        let rest = words.get(i..).unwrap_or_default();
        return member(kind.properties, rest).map(|p| of_member(p, path, rest, output)).ok_or_else(|| {
            unknown(kind.properties.iter().map(|p| p.name).chain(kind.children.iter().map(|c| c.collection)).collect())
        });
    }
    match found {
        Some((kind, path)) => Ok(of_kind(kind, &path, output)),
        None => Ok(all(output)),
    }
}

fn member(known: &'static [Property], words: &[&str]) -> Option<&'static Property> {
    let (first, rest) = words.split_first()?;
    let found = known.iter().find(|p| p.name.eq_ignore_ascii_case(first))?;
    if rest.is_empty() { Some(found) } else { member(inner(&found.of)?, rest) }
}

/// The members of an object, or of the objects of a list.
fn inner(of: &'static Type) -> Option<&'static [Property]> {
    match of {
        Type::Object(known) => Some(known),
        Type::List(item) => inner(item),
        _ => None,
    }
}

fn all(output: &Output) -> String {
    let rows = KINDS.iter().map(|k| vec![k.collection.to_owned(), about(k.collection).unwrap_or_default().to_owned()]);
    table(output, &["KIND", "WHAT"], rows)
}

fn of_kind(kind: &'static Kind, path: &str, output: &Output) -> String {
    let mut text = output.paint(Style::Bold, path);
    text.push('\n');
    if let Some(about) = about(path) {
        let _ = writeln!(text, "  {about}");
    }
    if kind.function == Function::Stored {
        text.push_str("  Kept and returned; it has no function in this version.\n");
    }
    text.push_str(&members(kind.properties, path, output));
    if !kind.children.is_empty() {
        let rows = kind.children.iter().map(|c| {
            let about = about(&format!("{path}/{}", c.collection)).unwrap_or_default();
            vec![format!("  {}", c.collection), about.to_owned()]
        });
        text.push_str(&table(output, &["  PARTS", ""], rows));
    }
    text
}

fn members(known: &'static [Property], path: &str, output: &Output) -> String {
    if known.is_empty() {
        return String::new();
    }
    let rows = known.iter().map(|p| {
        let about = about(&format!("{path}.{}", p.name)).unwrap_or_default();
        vec![format!("  {}", p.name), rule(p.rule).to_owned(), of_type(&p.of), about.to_owned()]
    });
    table(output, &["  MEMBER", "", "VALUE", ""], rows)
}

fn of_member(p: &'static Property, path: &str, words: &[&str], output: &Output) -> String {
    let mut text = output.paint(Style::Bold, &format!("{path}.{}", words.join(".")));
    let rule = if rule(p.rule).is_empty() { "optional" } else { rule(p.rule) };
    let _ = write!(text, "\n  {}, {rule}\n", of_type(&p.of));
    if let Some(about) = about(&format!("{path}.{}", p.name)) {
        let _ = writeln!(text, "  {about}");
    }
    if let Some(known) = inner(&p.of) {
        text.push_str(&members(known, path, output));
    }
    text
}

fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::Required => "required",
        Rule::Optional => "",
        Rule::ReadOnly => "read-only",
        Rule::WriteOnly => "secret",
    }
}

fn of_type(of: &Type) -> String {
    match of {
        Type::Any => "anything".to_owned(),
        Type::Bool => "true or false".to_owned(),
        Type::BoolText(no, yes) => format!("\"{no}\" or \"{yes}\""),
        Type::Int(min, i64::MAX) => format!("number from {min}"),
        Type::Int(min, max) => format!("number {min} to {max}"),
        Type::IntText(min, i64::MAX) => format!("number from {min}, as text"),
        Type::IntText(min, max) => format!("number {min} to {max}, as text"),
        Type::Text => "text".to_owned(),
        Type::OneOf(words) => {
            let known = |(i, w): &(usize, &&str)| !words.iter().take(*i).any(|x| x.eq_ignore_ascii_case(w));
            words.iter().enumerate().filter(known).map(|(_, w)| *w).collect::<Vec<_>>().join(" | ")
        }
        Type::Ip => "address".to_owned(),
        Type::Prefix => "prefix".to_owned(),
        Type::Mac => "Ethernet address".to_owned(),
        Type::PortRange => "port, range or *".to_owned(),
        Type::AddressPattern => "*, address or prefix".to_owned(),
        Type::Key => "32 bytes in base64".to_owned(),
        Type::Ref(kinds) => format!("-> {}", kinds.join(" or ")),
        Type::BackRef(kinds) => format!("<- {kinds}"),
        Type::BackRefs(kinds) => format!("<- {kinds}, list"),
        Type::List(item) => format!("list of {}", of_type(item)),
        Type::Object([]) => "object".to_owned(),
        Type::Object(known) => format!("{{{}}}", known.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str) -> Result<String, CliError> {
        explain(name, &name.split(['.', '/']).collect::<Vec<_>>(), &Output::plain())
    }

    #[test]
    fn kinds_and_members_are_explained_in_any_letter_case() {
        let text = said("loadbalancers.PROBES").unwrap();
        assert!(text.starts_with("loadBalancers/probes\n  How it is found out"), "{text}");
        assert!(text.contains("requestPath"), "{text}");
        let text = said("loadBalancers.probes.port").unwrap();
        assert_eq!(text, "loadBalancers/probes.port\n  number 1 to 65535, required\n");
        let text = said("VirtualGateways.networkConnections.wireGuardConfiguration.privateKey").unwrap();
        assert!(text.contains("32 bytes in base64, secret"), "{text}");
    }

    #[test]
    fn a_slip_gets_the_names_that_there_are() {
        let error = said("loadBalancers.probes.prt").unwrap_err().to_string();
        assert!(error.contains("requestPath"), "{error}");
        assert!(said("teapots").unwrap_err().to_string().contains("loadBalancers"));
    }
}
