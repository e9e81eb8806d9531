//! Several controllers on a real etcd, in this process. What becomes of them when they are killed, held or cut off is tested with the
//! binary, in namespaces (deploy/penstock/tests/controllers.rs).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "../../store/tests/support/etcd.rs"]
mod etcd;

use common::{Lab, Node, fabric};
use etcd::Cluster;
use penstock_admin_server::{EtcdTable, migrate};
use penstock_southbound::Mux;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

fn table(cluster: &Cluster, lab: &Lab) -> EtcdTable {
    EtcdTable {
        endpoints: cluster.endpoints(),
        prefix: "/site".into(),
        ca: None,
        cert: None,
        key: None,
        max_operations: 128,
        max_request_bytes: 1_400_000,
        leader_ttl: 2,
        quota_bytes: 2 << 30,
        advertise: format!("https://{}", lab.config.listen),
        advertise_tokens: lab.config.token_listen.map(|at| format!("https://{at}")),
    }
}

/// A controller beside others of the same site.
async fn beside(first: &Lab, name: &str, cluster: &Cluster) -> Lab {
    let mut lab = first.twin(name);
    lab.config.listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    lab.config.token_listen = Some(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    lab.config.southbound_listen = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    lab.config.state_dir = first.dir.join(name);
    std::fs::create_dir_all(&lab.config.state_dir).unwrap();
    let key = first.config.state_dir.join("secrets.key");
    std::fs::copy(key, lab.config.state_dir.join("secrets.key")).unwrap();
    lab.config.etcd = Some(table(cluster, &lab));
    lab.restart_after_stop().await;
    lab
}

async fn soon<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < LONG, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The status of a controller that leads; others answer 307.
async fn leads(lab: &Lab) -> bool {
    lab.call(Method::GET, "/penstock/v1/status", None).await.0 == StatusCode::OK
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_moves_to_etcd_and_three_controllers_serve_it() {
    if !etcd::is_installed() {
        return;
    }
    let cluster = Cluster::start(1);
    let mut a = Lab::start().await;
    let (status, body) = a.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    a.put("/virtualServers/one", json!({})).await;
    let (_, history) = a.call(Method::GET, "/penstock/v1/history", None).await;
    a.stop().await;

    a.config.etcd = Some(table(&cluster, &a));
    assert!(migrate(&a.config).await.unwrap() > 20);
    assert!(migrate(&a.config).await.is_err(), "the file has been moved away");
    a.restart_after_stop().await;
    let (_, moved) = a.call(Method::GET, "/penstock/v1/history", None).await;
    assert_eq!(moved, history, "revisions are kept");
    soon("a leads", || leads(&a)).await;

    let (mut b, c) = (beside(&a, "b", &cluster).await, beside(&a, "c", &cluster).await);
    let mut mux = Node::<Mux>::following(&a, "mux1", &[b.southbound(), c.southbound(), a.southbound()]);
    mux.wait(|g| !g.services.is_empty()).await;

    // Any of them takes changes, and a reader of any other sees them.
    for (writer, reader, name) in [(&b, &c, "two"), (&c, &a, "three"), (&a, &b, "four")] {
        let path = format!("/networking/v1/virtualServers/{name}");
        let (status, headers, put) = writer.full(Method::PUT, &path, Some(&json!({"properties": {}})), &[]).await;
        assert_eq!(status, StatusCode::CREATED, "{put:#}");
        // The leader knows an operation as soon as anybody can ask for it.
        let operation = headers["azure-asyncoperation"].to_str().unwrap();
        assert_eq!(a.call(Method::GET, operation, None).await.0, StatusCode::OK);
        soon("a change is seen", || async move {
            let url = format!("/networking/v1/virtualServers/{name}");
            reader.call(Method::GET, &url, None).await.0 == StatusCode::OK
        })
        .await;
        assert_eq!(reader.get(&format!("/virtualServers/{name}")).await["etag"], put["etag"]);
    }
    let writes = |lab: &Lab, from: usize| {
        let (client, base) = (lab.operator.clone(), format!("https://{}", lab.config.listen));
        tokio::spawn(async move {
            for i in from..from + 10 {
                let url = format!("{base}/networking/v1/virtualServers/race{i}");
                let answer = client.put(url).json(&json!({"properties": {}})).send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::CREATED);
            }
        })
    };
    for task in [writes(&a, 0), writes(&b, 10), writes(&c, 20)] {
        task.await.unwrap();
    }
    let before = history["value"][0]["revision"].as_u64().unwrap();
    let reader = &c;
    soon("each change has its number, without gaps, and is seen", || async move {
        let (_, latest) = reader.call(Method::GET, "/penstock/v1/history?$top=1", None).await;
        latest["value"][0]["revision"] == json!(before + 33)
    })
    .await;

    // What nodes report, the leader knows: the client is sent there, and gets its answer.
    let no_redirects = common::client_that_stays(&a.dir, "alice");
    let url = format!("https://{}/penstock/v1/status", b.config.listen);
    let answer = no_redirects.get(&url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.headers()["location"], format!("https://{}/penstock/v1/status", a.config.listen));
    let status: Value = a.operator.get(&url).send().await.unwrap().json().await.unwrap();
    assert!(status.to_string().contains("mux1"), "{status}");

    // Who comes with a token is sent to where tokens are taken.
    let wanted = json!({"name": "ci", "role": "auditor", "expiresInSeconds": 600});
    let (_, made) = b.call(Method::POST, "/penstock/v1/tokens", Some(&wanted)).await;
    let token = made["token"].as_str().unwrap();
    let program = common::anonymous_that_stays(&a.dir);
    let url = format!("https://{}/penstock/v1/status?x=1", b.config.token_listen.unwrap());
    let answer = program.get(url).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    let location = answer.headers()["location"].to_str().unwrap();
    assert_eq!(location, format!("https://{}/penstock/v1/status?x=1", a.config.token_listen.unwrap()));
    let answer = program.get(location).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);

    // The leader stops: another is elected at once, the mux finds it, and a change arrives.
    let term = mux.goal.borrow().as_ref().map(|g| g.revision.0 >> 32).unwrap();
    let start = Instant::now();
    a.stop().await;
    c.put("/publicIPAddresses/vip9", json!({"ipAddress": "203.0.113.99", "publicIPAllocationMethod": "Static"})).await;
    mux.wait_long(|g| g.revision.0 >> 32 > term).await;
    println!("from the stop of the leader to the next leader's goal at a node: {:?}", start.elapsed());
    assert!(!mux.goal.borrow().as_ref().unwrap().services.is_empty(), "and it is a whole one");

    // A controller with another key for secrets is not let in.
    b.stop().await;
    std::fs::remove_file(b.config.state_dir.join("secrets.key")).unwrap();
    let refused =
        penstock_admin_server::run(b.config.clone(), tokio::sync::watch::Sender::new(false).subscribe()).await;
    assert!(refused.unwrap_err().to_string().contains("secrets.key"));
}

/// Nothing that happens to the store makes a controller take its site for an empty one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_gone_or_has_lost_its_data_makes_no_goal_empty() {
    if !etcd::is_installed() {
        return;
    }
    let mut cluster = Cluster::start(1);
    let mut a = Lab::start().await;
    a.stop().await;
    a.config.etcd = Some(table(&cluster, &a));
    a.restart_after_stop().await;
    let (status, body) = a.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    let mut mux = Node::<Mux>::start(&a, "mux1");
    let goal = mux.wait(|g| !g.services.is_empty()).await.0;

    cluster.members[0].kill();
    let (status, _) = a.call(Method::PUT, "/networking/v1/virtualServers/x", Some(&json!({"properties": {}}))).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(a.get("/virtualNetworks").await["value"].as_array().unwrap().len() > 1, "what is known can be read");

    cluster.forget();
    cluster.members[0].start();
    soon("etcd is there again", || async {
        let body = json!({"properties": {}});
        let (status, body) = a.call(Method::PUT, "/networking/v1/virtualServers/x", Some(&body)).await;
        status == StatusCode::SERVICE_UNAVAILABLE && body.to_string().contains("not the one that it was")
    })
    .await;
    // It is not elected with what is not its store, or gives the goals that it had.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(mux.goal.borrow().as_ref().unwrap().services, goal.services);
    assert!(a.get("/virtualNetworks").await["value"].as_array().unwrap().len() > 1);
}
