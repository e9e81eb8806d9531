//! The client against a TLS server that demands a certificate, over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_admin_client::{Client, ClientError, Manner, Settings};
use penstock_southbound::pki::{DEFAULT_VALIDITY, Pki, Request};
use penstock_southbound::{CredentialFiles, Identity};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

struct Authority(PathBuf, Pki);

impl Authority {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("pst-client-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(unique);
        let pki = Pki::init(&dir, SystemTime::now()).unwrap();
        Self(dir, pki)
    }

    fn issue(&self, name: &str, role: &str, ip: &str) -> CredentialFiles {
        let request = Request {
            identity: Identity::new(name.to_owned(), role).unwrap(),
            addresses: vec![ip.parse().unwrap()],
            names: vec![],
            validity: DEFAULT_VALIDITY,
        };
        let issued = self.1.issue(&request, SystemTime::now()).unwrap();
        CredentialFiles { ca: self.1.ca(), cert: issued.cert, key: issued.key }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers each request with what `answer` makes of its first line (and If-Match) and body.
async fn serve(
    credentials: &CredentialFiles,
    answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
) -> SocketAddr {
    let tls = credentials.load().unwrap().server_config(&[b"http/1.1"]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            let request = read_request(&mut stream).await;
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            let line = head.lines().filter(|l| l.starts_with("if-match") || l.ends_with("HTTP/1.1"));
            let (status, text) = answer(&line.collect::<Vec<_>>().join(" "), body);
            let response =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
            let _ = stream.write_all(response.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut all = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "the request ends early: {text}");
        all.extend_from_slice(&buffer[..n]);
    }
}

fn client(address: SocketAddr, credentials: CredentialFiles) -> Client {
    Client::new(&Settings { server: format!("https://{address}"), credentials }).unwrap()
}

#[tokio::test]
async fn calls_have_the_paths_of_the_interface_and_ids_are_escaped() {
    let authority = Authority::new();
    let server = authority.issue("ctl", "controller", "127.0.0.1");
    let address =
        serve(&server, |line, body| (200, json!({ "line": line, "body": body, "value": [] }).to_string())).await;
    let client = client(address, authority.issue("op", "operator", "127.0.0.1"));
    let line =
        async |answer: Result<serde_json::Value, ClientError>| answer.unwrap()["line"].as_str().unwrap().to_owned();
    assert_eq!(line(client.get("servers/a b%2F").await).await, "GET /networking/v1/servers/a%20b%252F HTTP/1.1");
    assert_eq!(line(client.delete("servers/../x").await).await, "DELETE /networking/v1/servers/x HTTP/1.1");
    assert_eq!(line(client.status().await).await, "GET /penstock/v1/status HTTP/1.1");
    assert_eq!(line(client.trace(&json!({})).await).await, "POST /penstock/v1/trace HTTP/1.1");
    let batch = client.batch(&[json!({"resourceRef": "/servers/a"})], &Manner::default()).await.unwrap();
    assert_eq!(batch["line"], "POST /networking/v1/$batch HTTP/1.1");
    assert_eq!(batch["body"], json!({"resources": [{"resourceRef": "/servers/a"}]}).to_string());
    let manner = Manner { comment: Some("why".to_owned()), confirm_within: Some(60), what_if: true };
    let put = client.put("servers/a", &json!({}), Some("tag"), &manner).await;
    let whole = "PUT /networking/v1/servers/a?whatIf=true&confirmWithin=60&comment=why HTTP/1.1 if-match: tag";
    assert_eq!(line(put).await, whole, "the etag goes with whatever else is asked");
    assert!(client.list("servers").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_carries_every_detail() {
    let authority = Authority::new();
    let body = json!({"error": {"code": "C", "message": "m", "details": [
        {"code": "A", "message": "first", "target": "/resources/0"},
        {"code": "B", "message": "second", "target": "/resources/1/properties/x"}]}});
    let server = authority.issue("ctl", "controller", "127.0.0.1");
    let address = serve(&server, move |_, _| (400, body.to_string())).await;
    let client = client(address, authority.issue("op", "operator", "127.0.0.1"));
    let Err(ClientError::Refused(refusal)) = client.batch(&[], &Manner::default()).await else { panic!("not refused") };
    assert!(refusal.is_validation());
    let targets: Vec<&str> = refusal.error.details.iter().map(|d| d.target.as_str()).collect();
    assert_eq!(targets, ["/resources/0", "/resources/1/properties/x"]);
}

#[tokio::test]
async fn another_authority_or_another_address_is_not_trusted_and_the_error_says_so() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let operator = ours.issue("op", "operator", "127.0.0.1");
    let reason = async |server: &CredentialFiles| {
        let address = serve(server, |_, _| (200, "{}".to_owned())).await;
        match client(address, operator.clone()).status().await {
            Err(ClientError::Transport { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    };
    let foreign = reason(&theirs.issue("ctl", "controller", "127.0.0.1")).await;
    assert!(foreign.contains("UnknownIssuer"), "{foreign}");
    let elsewhere = reason(&ours.issue("ctl", "controller", "127.0.0.2")).await;
    assert!(elsewhere.contains("not valid for name"), "{elsewhere}");
    let mut forged = theirs.issue("op", "operator", "127.0.0.1");
    forged.ca = operator.ca.clone();
    let server = ours.issue("ctl2", "controller", "127.0.0.1");
    let address = serve(&server, |_, _| (200, "{}".to_owned())).await;
    assert!(matches!(client(address, forged).status().await, Err(ClientError::Transport { .. })));
}

#[test]
fn only_https_is_spoken() {
    let authority = Authority::new();
    let credentials = authority.issue("op", "operator", "127.0.0.1");
    for server in ["http://127.0.0.1", "127.0.0.1:443", "", "https://"] {
        let settings = Settings { server: server.to_owned(), credentials: credentials.clone() };
        assert!(matches!(Client::new(&settings), Err(ClientError::Server(_))), "{server}");
    }
}
