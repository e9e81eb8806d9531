use crate::arguments::{Proto, Question};
use crate::error::CliError;
use crate::output::{Output, Style};
use penstock_admin_client::Client;
use penstock_admin_types::value;
use serde_json::{Value, json};
use std::fmt::Write;

pub(crate) async fn run(client: &Client, question: &Question, output: &Output) -> Result<(), CliError> {
    let answer = client.trace(&body(question)).await?;
    if output.is_json() { output.value(&answer) } else { output.text(&render(&answer, output)) }
}

fn body(question: &Question) -> Value {
    let protocol = match question.proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Icmp => "icmp",
    };
    let mut body = json!({
        "source": question.src,
        "destination": question.dst,
        "protocol": protocol,
        "sourcePort": question.sport,
        "destinationPort": question.dport.unwrap_or(0),
        "established": question.established,
    });
    if let Some(map) = body.as_object_mut() {
        let from = [("networkInterface", &question.from), ("networkConnection", &question.from_tunnel)];
        map.extend(from.into_iter().filter_map(|(name, id)| Some((name.to_owned(), json!(id.as_ref()?)))));
    }
    body
}

/// One block a hop: the node, then a line for each layer that had a say.
fn render(answer: &Value, output: &Output) -> String {
    let mut text = String::new();
    for (number, hop) in value::list(answer, "hops").iter().enumerate() {
        let (node, role) = (word(hop, "node"), word(hop, "role"));
        let heading = output.paint(Style::Bold, &format!("{} {node}", number + 1));
        let _ = writeln!(text, "{heading} {}", output.paint(Style::Dim, &format!("({role})")));
        for step in value::list(hop, "steps") {
            let layer = output.paint(Style::Dim, &format!("{:>14}:", word(step, "layer")));
            let _ = writeln!(text, "{layer} {}", word(step, "text"));
        }
        let _ = writeln!(text, "{:>14}  {}", "", ending(hop, output));
    }
    let _ = writeln!(text, "{}", verdict(answer, output));
    text
}

fn ending(hop: &Value, output: &Output) -> String {
    let ending = word(hop, "ending");
    let style = if ending.starts_with("drop") { Style::Bad } else { Style::Good };
    output.paint(style, &format!("-> {ending}"))
}

fn verdict(answer: &Value, output: &Output) -> String {
    let style = if value::get_bool(answer, "delivered") == Some(true) { Style::Good } else { Style::Bad };
    output.paint(style, &word(answer, "verdict"))
}

fn word(node: &Value, name: &str) -> String {
    value::get_text(node, name).unwrap_or_else(|| "?".to_owned())
}
