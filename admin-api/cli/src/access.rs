//! Tokens, and who asked for what.
use crate::arguments::Token;
use crate::error::CliError;
use crate::output::{Output, table};
use clap::ValueEnum;
use penstock_admin_client::Client;
use penstock_admin_types::value;
use serde_json::{Value, json};

pub(crate) async fn token(client: &Client, command: &Token, output: &Output) -> Result<(), CliError> {
    match command {
        Token::Create { name, role, tenant, days } => {
            let role = role.to_possible_value().map(|v| v.get_name().to_owned());
            let wanted = json!({"name": name, "role": role, "tenant": tenant, "expiresInSeconds": days * 86_400});
            let made = client.make_token(&wanted).await?;
            if output.is_json() {
                return output.value(&made);
            }
            output.text(&value::get_text(&made, "token").unwrap_or_default())
        }
        Token::List => {
            let list = client.own("tokens", &[]).await?;
            show(&list, &["id", "name", "role", "tenant", "expires", "author"], output)
        }
        Token::Delete { id } => {
            client.delete_token(id).await?;
            if output.is_json() {
                output.value(&json!({ "deleted": id }))
            } else {
                output.text(&format!("{id} deleted"))
            }
        }
    }
}

pub(crate) async fn audit(client: &Client, limit: u64, output: &Output) -> Result<(), CliError> {
    let list = client.own("audit", &[("$top", limit.to_string())]).await?;
    show(&list, &["time", "who", "from", "method", "url", "status", "decision", "revision"], output)
}

fn show(list: &Value, members: &[&str], output: &Output) -> Result<(), CliError> {
    if output.is_json() {
        return output.value(list);
    }
    let headings: Vec<String> = members.iter().map(|m| m.to_uppercase()).collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let rows = value::list(list, "value")
        .iter()
        .map(|item| members.iter().map(|m| value::get_text(item, m).unwrap_or_else(|| "-".to_owned())).collect());
    output.text(&table(output, &headings, rows))
}
