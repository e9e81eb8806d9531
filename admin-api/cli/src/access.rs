//! Tokens, quotas, and who asked for what.
use crate::arguments::{Quota, Token};
use crate::error::CliError;
use crate::output::{Output, table};
use clap::ValueEnum;
use penstock_admin_client::Client;
use penstock_admin_types::value;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

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

pub(crate) async fn quota(client: &Client, command: &Quota, output: &Output) -> Result<(), CliError> {
    let done = |tenant: &str, text: &str| match output.is_json() {
        true => output.value(&json!({ text: tenant })),
        false => output.text(&format!("{tenant} {text}")),
    };
    match command {
        Quota::List => usage(&client.own("usage", &[]).await?, output),
        Quota::Set { tenant, limits } => {
            let limits: Map<String, Value> = limits.iter().map(|(kind, n)| (kind.clone(), json!(n))).collect();
            client.set_quota(tenant, &json!({ "limits": limits })).await?;
            done(tenant, "set")
        }
        Quota::Delete { tenant } => {
            client.delete_quota(tenant).await?;
            done(tenant, "deleted")
        }
    }
}

/// A line for each kind that a tenant has or has a limit for.
fn usage(list: &Value, output: &Output) -> Result<(), CliError> {
    if output.is_json() {
        return output.value(list);
    }
    let number = |of: &Value, kind: &str| of.get(kind).and_then(Value::as_u64);
    let rows = value::list(list, "value").iter().flat_map(|item| {
        let tenant = value::get_text(item, "tenant").unwrap_or_default();
        let (used, limits) = (&item["used"], &item["limits"]);
        let names = [used, limits].into_iter().filter_map(Value::as_object).flat_map(Map::keys);
        let kinds: BTreeSet<&String> = names.collect();
        kinds.into_iter().map(move |kind| {
            let limit = number(limits, kind).map_or_else(|| "-".to_owned(), |n| n.to_string());
            vec![tenant.clone(), kind.clone(), number(used, kind).unwrap_or(0).to_string(), limit]
        })
    });
    output.text(&table(output, &["TENANT", "KIND", "USED", "LIMIT"], rows))
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
