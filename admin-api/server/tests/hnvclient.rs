//! A client that others wrote: python-hnvclient as it is published (0.1.0), against the real controller, by a token.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::Lab;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::process::Command;

/// The interpreter that has it: `PENSTOCK_HNV_PYTHON`, else python3. The package asks for PBR_VERSION when it is loaded.
fn python() -> Option<Command> {
    let interpreter = std::env::var("PENSTOCK_HNV_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let command = || {
        let mut command = Command::new(&interpreter);
        command.env("PBR_VERSION", "0.1.0");
        command
    };
    let there = command().args(["-c", "import hnvclient.client"]).output().is_ok_and(|o| o.status.success());
    there.then(command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_hnvclient_creates_reads_changes_and_deletes_what_it_knows() {
    let Some(mut python) = python() else {
        println!(
            "skipped: no python-hnvclient: PBR_VERSION=0.1.0 pip install python-hnvclient, then PENSTOCK_HNV_PYTHON"
        );
        return;
    };
    let lab = Lab::start().await;
    let wanted = json!({"name": "hnvclient", "role": "operator", "expiresInSeconds": 300});
    let (status, token) = lab.call(Method::POST, "/penstock/v1/tokens", Some(&wanted)).await;
    assert_eq!(status, StatusCode::CREATED, "{token}");
    let netrc = lab.dir.join("netrc");
    let line = format!("machine 127.0.0.1 login anyone password {}\n", token["token"].as_str().unwrap());
    std::fs::write(&netrc, line).unwrap();
    let url = format!("https://{}", lab.config.token_listen.unwrap());
    python
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/drive_hnvclient.py"))
        .arg(url)
        .arg(lab.dir.join("pki/ca.pem"));
    // Where the machine sets them, they win over what the client says.
    python.env("NO_PROXY", "127.0.0.1").env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
    let out = tokio::task::spawn_blocking(move || python.env("NETRC", netrc).output().unwrap()).await.unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.ends_with("all good\n"), "{said}\n{wrong}");
    let (_, history) = lab.call(Method::GET, "/penstock/v1/history?$top=1", None).await;
    let author = format!("token:{}:hnvclient", token["id"].as_str().unwrap());
    assert_eq!(history["value"][0]["author"], author);
}
