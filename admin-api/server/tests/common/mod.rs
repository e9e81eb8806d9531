//! A real controller in this process, spoken to as operators and nodes do.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_admin_server::{ControllerConfig, run};
use penstock_southbound::pki::{DEFAULT_VALIDITY, Pki, Request};
use penstock_southbound::{CredentialFiles, Credentials, Identity, Link, Role};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub struct Lab {
    pub dir: PathBuf,
    pub config: ControllerConfig,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
    pub operator: reqwest::Client,
}

impl Lab {
    pub async fn start() -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("penstock-controller-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let pki = Pki::init(&dir.join("pki"), SystemTime::now()).unwrap();
        for (name, roles) in [
            ("ctl", "controller"),
            ("alice", "operator"),
            ("mux1", "mux"),
            ("mux2", "mux"),
            ("host1", "host"),
            ("host2", "host"),
            ("gw1", "gateway"),
            ("gw2", "gateway"),
        ] {
            let request = Request {
                identity: Identity::new(name.to_owned(), roles).unwrap(),
                addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
                names: vec![],
                validity: DEFAULT_VALIDITY,
            };
            pki.issue(&request, SystemTime::now()).unwrap();
        }
        let config = ControllerConfig {
            listen: TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
            token_listen: Some(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()),
            requests_per_second: penstock_admin_server::DEFAULT_REQUESTS_PER_SECOND,
            southbound_listen: UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
            state_dir: dir.join("state"),
            ca: dir.join("pki/ca.pem"),
            cert: dir.join("pki/ctl.pem"),
            key: dir.join("pki/ctl.key"),
            host_hold_off: penstock_admin_server::DEFAULT_HOST_HOLD_OFF,
            gateway_hold_off: penstock_admin_server::DEFAULT_GATEWAY_HOLD_OFF,
            etcd: None,
            vip_limit: penstock_admin_server::VipLimitTable::default(),
        };
        let operator = client(&dir, "alice");
        let mut lab = Self { dir, config, stop: watch::Sender::new(false), task: None, operator };
        lab.run().await;
        lab
    }

    /// Of another controller with the same authority and operators; its directory goes with the first one's.
    pub fn twin(&self, name: &str) -> Self {
        let dir = self.dir.join("twins").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self {
            dir,
            config: self.config.clone(),
            stop: watch::Sender::new(false),
            task: None,
            operator: self.operator.clone(),
        }
    }

    async fn run(&mut self) {
        self.stop = watch::Sender::new(false);
        let (config, shutdown) = (self.config.clone(), self.stop.subscribe());
        self.task = Some(tokio::spawn(async move { run(config, shutdown).await.unwrap() }));
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(self.config.listen).await.is_ok() {
                return;
            }
            assert!(!self.task.as_ref().unwrap().is_finished(), "the controller ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the controller does not listen");
    }

    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        tokio::time::timeout(Duration::from_secs(10), self.task.take().unwrap()).await.unwrap().unwrap();
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.restart_after_stop().await;
    }

    pub async fn restart_after_stop(&mut self) {
        self.run().await;
    }

    pub fn credentials(&self, name: &str) -> Credentials {
        credentials(&self.dir, name)
    }

    pub fn southbound(&self) -> SocketAddr {
        self.config.southbound_listen
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let (status, _, body) = self.full(method, path, body, &[]).await;
        (status, body)
    }

    pub async fn full(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> (StatusCode, reqwest::header::HeaderMap, Value) {
        let mut request = self.operator.request(method, format!("https://{}{path}", self.config.listen));
        for (name, v) in headers {
            request = request.header(*name, *v);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        (status, headers, body)
    }

    /// An operation, once it is not under way any more.
    pub async fn operation(&self, url: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (status, body) = self.call(Method::GET, url, None).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            if body["status"] != "InProgress" {
                return body;
            }
            assert!(Instant::now() < deadline, "{body}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, &format!("/networking/v1{path}"), None).await;
        assert_eq!(status, StatusCode::OK, "GET {path}: {body}");
        body
    }

    pub async fn put(&self, path: &str, properties: Value) -> Value {
        let body = json!({ "properties": properties });
        let (status, body) = self.call(Method::PUT, &format!("/networking/v1{path}"), Some(&body)).await;
        assert!(status.is_success(), "PUT {path}: {status} {body:#}");
        body
    }

    pub async fn batch(&self, resources: Value) -> (StatusCode, Value) {
        self.call(Method::POST, "/networking/v1/$batch", Some(&json!({ "resources": resources }))).await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A node without a data plane: it gets goals and says what it is told to say.
pub struct Node<R: Role> {
    pub goal: watch::Receiver<Option<Arc<R::Goal>>>,
    pub status: watch::Sender<R::Status>,
    pub stop: watch::Sender<bool>,
}

impl<R: Role> Node<R>
where
    R::Status: Default,
{
    pub fn start(lab: &Lab, name: &str) -> Self {
        Self::following(lab, name, &[lab.southbound()])
    }

    pub fn following(lab: &Lab, name: &str, controllers: &[SocketAddr]) -> Self {
        let controllers = controllers.iter().map(ToString::to_string).collect();
        let link = Link::new(controllers, &lab.credentials(name), lab.dir.join(name)).unwrap();
        let (goals, goal) = watch::channel(None);
        let (status, statuses) = watch::channel(R::Status::default());
        let stop = watch::Sender::new(false);
        let shutdown = stop.subscribe();
        tokio::spawn(async move { link.run::<R>(goals, statuses, shutdown).await });
        Self { goal, status, stop }
    }

    /// The first goal that satisfies `f`, and how long it took to come.
    pub async fn wait(&mut self, f: impl Fn(&R::Goal) -> bool) -> (Arc<R::Goal>, Duration) {
        self.wait_for(f, 10).await
    }

    /// The same, over an election.
    pub async fn wait_long(&mut self, f: impl Fn(&R::Goal) -> bool) -> (Arc<R::Goal>, Duration) {
        self.wait_for(f, 60).await
    }

    async fn wait_for(&mut self, f: impl Fn(&R::Goal) -> bool, seconds: u64) -> (Arc<R::Goal>, Duration) {
        let start = Instant::now();
        let found =
            tokio::time::timeout(Duration::from_secs(seconds), self.goal.wait_for(|g| g.as_deref().is_some_and(&f)));
        let goal = found.await.expect("no such goal").unwrap().clone().unwrap();
        (goal, start.elapsed())
    }
}

impl<R: Role> Drop for Node<R> {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn credentials(dir: &Path, name: &str) -> Credentials {
    let pki = dir.join("pki");
    let files = CredentialFiles {
        ca: pki.join("ca.pem"),
        cert: pki.join(format!("{name}.pem")),
        key: pki.join(format!("{name}.key")),
    };
    files.load().unwrap()
}

pub fn client(dir: &Path, name: &str) -> reqwest::Client {
    let tls = credentials(dir, name).client_config(&[b"h2", b"http/1.1"]).unwrap();
    reqwest::Client::builder().use_preconfigured_tls(tls).timeout(Duration::from_secs(10)).build().unwrap()
}

/// One that goes nowhere else when it is told to.
pub fn client_that_stays(dir: &Path, name: &str) -> reqwest::Client {
    let tls = credentials(dir, name).client_config(&[b"h2", b"http/1.1"]).unwrap();
    let stays = reqwest::redirect::Policy::none();
    reqwest::Client::builder().use_preconfigured_tls(tls).redirect(stays).build().unwrap()
}

/// A client without a certificate.
pub fn anonymous(dir: &Path) -> reqwest::Client {
    reqwest::Client::builder().use_preconfigured_tls(open_tls(dir)).build().unwrap()
}

/// The same, going nowhere else when it is told to.
pub fn anonymous_that_stays(dir: &Path) -> reqwest::Client {
    let stays = reqwest::redirect::Policy::none();
    reqwest::Client::builder().use_preconfigured_tls(open_tls(dir)).redirect(stays).build().unwrap()
}

/// Without a certificate.
pub fn open_tls(dir: &Path) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(dir.join("pki/ca.pem")).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub fn reference(path: &str) -> Value {
    json!({ "resourceRef": path })
}

/// Codes and targets of a refusal.
pub fn targets(body: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut out: Vec<_> = body["error"]["details"]
        .as_array()
        .unwrap_or(&vec![])
        .iter()
        .map(|d| (text(&d["code"]), text(&d["target"])))
        .collect();
    out.sort();
    out
}

/// Two tenants with the same addresses on two hosts, a load balancer with an IPv4 and an IPv6 VIP, a site for each tenant.
pub fn fabric() -> Value {
    let node = |kind: &str, id: &str, address: &str| json!({"kind": kind, "resourceId": id, "properties": {"underlayAddress": address}});
    let mut all = vec![
        node("loadBalancerMuxes", "mux1", "10.1.1.2"),
        node("loadBalancerMuxes", "mux2", "10.1.2.2"),
        node("servers", "host1", "10.1.3.2"),
        node("servers", "host2", "10.1.4.2"),
        json!({"kind": "GatewayPools", "resourceId": "default", "properties": {"type": "All"}}),
        json!({"kind": "gateways", "resourceId": "gw1", "properties": {"underlayAddress": "10.1.5.2", "pool": reference("/gatewayPools/default")}}),
        json!({"kind": "accessControlLists", "resourceId": "web", "properties": {"aclRules": [
            {"resourceId": "http", "properties": {"protocol": "TCP", "destinationPortRange": "80", "action": "Allow", "priority": "200", "type": "Inbound"}},
            {"resourceId": "rest", "properties": {"protocol": "All", "action": "Deny", "priority": 300, "type": "Inbound", "sourceAddressPrefix": "*"}}
        ]}}),
    ];
    for tenant in ["blue", "red"] {
        all.push(json!({"kind": "virtualNetworks", "resourceId": tenant, "properties": {
            "addressSpace": {"addressPrefixes": ["10.0.0.0/16", "fd00:10::/48"]},
            "subnets": [
                {"resourceId": "v4", "properties": {"addressPrefix": "10.0.0.0/24", "accessControlList": reference("/accessControlLists/web")}},
                {"resourceId": "v6", "properties": {"addressPrefix": "fd00:10::/64", "accessControlList": reference("/accessControlLists/web")}}
            ]}}));
        for n in 1..=3 {
            let pools = if tenant == "blue" {
                vec![reference("/loadBalancers/web/backendAddressPools/servers")]
            } else {
                vec![]
            };
            let ip = |id: &str, address: String| {
                json!({"resourceId": id, "properties": {
                    "privateIPAddress": address, "privateIPAllocationMethod": "Static",
                    "subnet": reference(&format!("/virtualNetworks/{tenant}/subnets/{id}")),
                    "loadBalancerBackendAddressPools": pools.clone()
                }})
            };
            all.push(json!({"kind": "networkInterfaces", "resourceId": format!("{tenant}{n}"), "properties": {
                "privateMacAddress": format!("00-15-5D-00-{:02X}-0{n}", tenant.len()),
                "privateMacAllocationMethod": "Static",
                "server": reference(if n == 3 { "/servers/host2" } else { "/servers/host1" }),
                "ipConfigurations": [ip("v4", format!("10.0.0.{}", n + 3)), ip("v6", format!("fd00:10::{}", n + 3))]
            }}));
        }
        all.push(json!({"kind": "VirtualGateways", "resourceId": tenant, "properties": {
            "GatewayPools": [reference("/gatewayPools/default")],
            "gatewaySubnets": [reference(&format!("/virtualNetworks/{tenant}/subnets/v4"))],
            "networkConnections": [{"resourceId": format!("{tenant}-site"), "properties": {
                "connectionType": "WireGuard",
                "outboundKiloBitsPerSecond": 100000, "inboundKiloBitsPerSecond": 100000,
                "wireGuardConfiguration": {"peerPublicKey": "qRCwZSKInrMAq5sepfCdaCsRJaoLe5jhtzfiw7CjbwM=", "presharedKey": "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="},
                "routes": [{"destinationPrefix": "192.168.50.0/24", "nextHop": "0.0.0.0", "metric": 10, "protocol": "Static"}]
            }}]
        }}));
    }
    all.push(json!({"kind": "publicIPAddresses", "resourceId": "vip4", "properties": {"ipAddress": "203.0.113.10", "publicIPAllocationMethod": "Static"}}));
    all.push(json!({"kind": "publicIPAddresses", "resourceId": "vip6", "properties": {"ipAddress": "2001:db8:113::10", "publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv6"}}));
    let rule = |id: &str, frontend: &str, port: u16, protocol: &str, probe: bool| {
        let mut p = json!({
            "frontendIPConfigurations": [reference(&format!("/loadBalancers/web/frontendIPConfigurations/{frontend}"))],
            "backendAddressPool": reference("/loadBalancers/web/backendAddressPools/servers"),
            "protocol": protocol, "frontendPort": port, "backendPort": port,
        });
        if probe {
            p["probe"] = reference("/loadBalancers/web/probes/health");
        }
        json!({"resourceId": id, "properties": p})
    };
    all.push(json!({"kind": "loadBalancers", "resourceId": "web", "properties": {
        "frontendIPConfigurations": [
            {"resourceId": "fe4", "properties": {"publicIPAddress": reference("/publicIPAddresses/vip4")}},
            {"resourceId": "fe6", "properties": {"publicIPAddress": reference("/publicIPAddresses/vip6")}}
        ],
        "backendAddressPools": [{"resourceId": "servers", "properties": {}}],
        "loadBalancingRules": [rule("http", "fe4", 80, "Tcp", true), rule("http6", "fe6", 80, "Tcp", true), rule("echo", "fe4", 7, "Udp", false)],
        "probes": [{"resourceId": "health", "properties": {"protocol": "Http", "port": "80", "requestPath": "/health", "intervalInSeconds": 1, "numberOfProbes": 2}}]
    }}));
    Value::Array(all)
}
