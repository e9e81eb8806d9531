//! A controller that cannot do its work says so, and clients without a certificate do nothing to it that lasts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, Node, anonymous};
use penstock_admin_server::{backup, run};
use penstock_southbound::Mux;
use reqwest::{Method, StatusCode};
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// More than the controller serves at once.
const IDLE: usize = 300;

#[tokio::test]
async fn idle_connections_without_a_handshake_do_not_hold_up_the_end() {
    let mut lab = Lab::start().await;
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(tokio::net::TcpStream::connect(lab.config.listen).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    lab.stop().await;
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_southbound_address_that_is_taken_is_an_error_at_the_start() {
    let mut lab = Lab::start().await;
    lab.stop().await;
    let _other = std::net::UdpSocket::bind(lab.config.southbound_listen).unwrap();
    let (_go_on, shutdown) = watch::channel(false);
    let ended = tokio::time::timeout(Duration::from_secs(5), run(lab.config.clone(), shutdown)).await;
    let error = ended.expect("it ends by itself").unwrap_err().to_string();
    assert!(error.starts_with("southbound: cannot listen on UDP 127.0.0.1:"), "{error}");
}

/// A client that says byte by byte what it wants to, over TLS without a certificate.
async fn raw(lab: &Lab) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(&lab.config.ca).unwrap()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = lab.config.token_listen.unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(tls)).connect(address.ip().into(), stream).await.unwrap()
}

async fn token(lab: &Lab, role: &str) -> String {
    token_of(lab, role, None).await
}

async fn token_of(lab: &Lab, role: &str, tenant: Option<&str>) -> String {
    let wanted = json!({"name": role, "role": role, "tenant": tenant, "expiresInSeconds": 600});
    let (status, made) = lab.call(Method::POST, "/penstock/v1/tokens", Some(&wanted)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made["token"].as_str().unwrap().to_owned()
}

/// The beginning of what comes, in that time; nothing: the other side ended the connection.
async fn answer(stream: &mut TlsStream<TcpStream>, within: Duration) -> String {
    let mut buffer = [0; 4096];
    let read = tokio::time::timeout(within, stream.read(&mut buffer)).await.expect("nothing comes");
    String::from_utf8_lossy(&buffer[..read.unwrap_or(0)]).into_owned()
}

fn put(token: Option<&str>, length: usize) -> Vec<u8> {
    let token = token.map_or_else(String::new, |t| format!("authorization: Bearer {t}\r\n"));
    format!("PUT /networking/v1/securityTags/t HTTP/1.1\r\nhost: x\r\n{token}content-length: {length}\r\n\r\n").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_from_who_may_not_say_it() {
    let lab = Lab::start().await;
    let auditor = token(&lab, "auditor").await;
    let operator = token(&lab, "operator").await;
    // None of the body is sent: the answer does not wait for it.
    for (token, length, status) in
        [(None, 16 << 20, "401"), (Some(&auditor), 16 << 20, "403"), (Some(&operator), (16 << 20) + 1, "413")]
    {
        let mut stream = raw(&lab).await;
        stream.write_all(&put(token.map(String::as_str), length)).await.unwrap();
        let answer = answer(&mut stream, Duration::from_secs(3)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let mut slow = raw(&lab).await;
    slow.write_all(&put(Some(&operator), 100)).await.unwrap();
    let answer = answer(&mut slow, Duration::from_secs(40)).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

/// Bodies without a length count as the largest that may be: one that never sends them holds up nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_has_all_the_room_for_bodies() {
    let lab = Lab::start().await;
    let tenant = token_of(&lab, "tenant-admin", Some("blue")).await;
    let begin = |mut stream: TlsStream<TcpStream>| async {
        let head = format!(
            "PUT /networking/v1/securityTags/t HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant}\r\n\
             transfer-encoding: chunked\r\n\r\n1\r\n{{\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut begun = [0; 12];
        let answered = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut begun)).await;
        let refused = answered.is_ok_and(|read| read.is_ok()) && &begun == b"HTTP/1.1 429";
        (stream, refused)
    };
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(begin(raw(&lab).await));
    }
    let begun = futures::future::join_all(streams).await;
    assert_eq!(begun.iter().filter(|(_, refused)| *refused).count(), 18);
    let body = json!({"properties": {}});
    let operator = lab.call(Method::PUT, "/networking/v1/securityTags/u", Some(&body));
    let (status, _) = tokio::time::timeout(Duration::from_secs(5), operator).await.expect("it is served at once");
    assert_eq!(status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_on_which_nobody_says_who_it_is() {
    let lab = Lab::start().await;
    let operator = token(&lab, "operator").await;
    let mut known = raw(&lab).await;
    let get =
        |token: &str| format!("GET /networking/discovery HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    known.write_all(get(&operator).as_bytes()).await.unwrap();
    assert!(answer(&mut known, Duration::from_secs(3)).await.starts_with("HTTP/1.1 200"));
    let (mut silent, mut wrong) = (raw(&lab).await, raw(&lab).await);
    let start = Instant::now();
    let asking = async {
        // As often as it likes: it is no better known for it.
        while start.elapsed() < Duration::from_secs(20) {
            wrong.write_all(get("pst_0_0").as_bytes()).await.ok()?;
            let said = tokio::time::timeout(Duration::from_secs(3), wrong.read(&mut [0; 4096])).await.ok()?.ok()?;
            (said > 0).then_some(())?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("it goes on and on");
        #[allow(unreachable_code)]
        Some(())
    };
    let (_, said) = tokio::join!(asking, answer(&mut silent, Duration::from_secs(15)));
    assert_eq!(said, "");
    assert!(start.elapsed() < Duration::from_secs(16), "{:?}", start.elapsed());
    known.write_all(get(&operator).as_bytes()).await.unwrap();
    assert!(answer(&mut known, Duration::from_secs(3)).await.starts_with("HTTP/1.1 200"), "who is known may pause");
}

/// The copy is from before: what leads with it has a term that the nodes have left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_a_controller_that_was_restored_from_a_backup() {
    let mut lab = Lab::start().await;
    lab.put("/loadBalancerMuxes/mux1", json!({"underlayAddress": "10.1.1.2"})).await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    mux.wait(|g| g.revision.0 >> 32 == 1).await;
    let copy = lab.dir.join("copy.db");
    let (config, to) = (lab.config.clone(), copy.clone());
    tokio::task::spawn_blocking(move || backup(&config, &to)).await.unwrap().unwrap();
    for term in 2..=4 {
        lab.restart().await;
        mux.wait_long(|g| g.revision.0 >> 32 == term).await;
    }
    lab.stop().await;
    // Its store is closed by a thread of its own: of a process that has ended nothing would be left.
    let lock = std::fs::File::open(lab.config.state_dir.join("store.db.lock")).unwrap();
    tokio::task::spawn_blocking(move || lock.lock().unwrap()).await.unwrap();
    for name in ["store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(lab.config.state_dir.join(name));
    }
    std::fs::copy(&copy, lab.config.state_dir.join("store.db")).unwrap();
    lab.restart_after_stop().await;
    mux.wait_long(|g| g.revision.0 >> 32 == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_line_of_the_audit_log_does_not_keep_the_controller_from_starting() {
    let mut lab = Lab::start().await;
    lab.put("/securityTags/t", json!({})).await;
    lab.stop().await;
    let path = lab.config.state_dir.join("audit.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes.extend_from_within(..half);
    std::fs::write(&path, bytes).unwrap();
    lab.restart_after_stop().await;
    lab.put("/securityTags/u", json!({})).await;
    lab.restart().await;
    let (_, audit) = lab.call(Method::GET, "/penstock/v1/audit?$top=9", None).await;
    let ends = |i: usize, end: &str| audit["value"][i]["url"].as_str().is_some_and(|url| url.ends_with(end));
    assert!(ends(0, "/securityTags/u") && ends(1, "/securityTags/t") && audit["value"][2].is_null(), "{audit:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knocks_without_end_does_not_fill_the_audit_log() {
    let lab = Lab::start().await;
    let url = format!("https://{}/networking/v1/servers?{}", lab.config.token_listen.unwrap(), "x".repeat(3000));
    let http = anonymous(&lab.dir);
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(http.get(&url).send().await.unwrap().status().as_u16());
    }
    assert!(statuses.contains(&401) && statuses.contains(&429), "{statuses:?}");
    let (_, audit) = lab.call(Method::GET, "/penstock/v1/audit?$top=100", None).await;
    let lines: Vec<&Value> = audit["value"].as_array().unwrap().iter().filter(|l| l["status"] == 429).collect();
    assert!((1..20).contains(&lines.len()), "{}", lines.len());
    assert!(lines.iter().all(|l| l["decision"] == "denied" && l["url"].as_str().unwrap().len() == 1024), "{audit:#}");
}
