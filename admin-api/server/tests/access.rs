//! Who may do what: tokens, roles, tenants; and what is written down of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, anonymous, fabric, reference};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// A program with a token.
struct Program {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Program {
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    async fn status(&self, method: Method, path: &str, body: Option<&Value>) -> u16 {
        self.call(method, path, body).await.0.as_u16()
    }

    async fn ids(&self, collection: &str) -> Vec<String> {
        let (status, body) = self.call(Method::GET, &format!("/networking/v1/{collection}"), None).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["value"].as_array().unwrap().iter().map(|r| r["resourceId"].as_str().unwrap().to_owned()).collect()
    }
}

fn base(lab: &Lab) -> String {
    format!("https://{}", lab.config.token_listen.unwrap())
}

async fn program(lab: &Lab, role: &str, tenant: Option<&str>) -> Program {
    let wanted = json!({"name": format!("{role}-{}", tenant.unwrap_or("site")), "role": role, "tenant": tenant, "expiresInSeconds": 60});
    let (status, made) = lab.call(Method::POST, "/penstock/v1/tokens", Some(&wanted)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    Program { http: anonymous(&lab.dir), base: base(lab), token: made["token"].as_str().unwrap().to_owned() }
}

fn network() -> Value {
    json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"resourceId": "s", "properties": {"addressPrefix": "10.0.0.0/24"}}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_until_it_ends_and_its_secret_is_nowhere() {
    let mut lab = Lab::start().await;
    let auditor = program(&lab, "auditor", None).await;
    assert_eq!(auditor.status(Method::GET, "/penstock/v1/status", None).await, 200);
    assert_eq!(
        auditor.status(Method::PUT, "/networking/v1/securityTags/t", Some(&json!({"properties": {}}))).await,
        403
    );
    assert_eq!(auditor.status(Method::POST, "/penstock/v1/tokens", Some(&json!({}))).await, 403);
    // As the password of clients that know no other way.
    let http = anonymous(&lab.dir);
    let url = format!("{}/networking/v1/servers", base(&lab));
    let basic = http.get(&url).basic_auth("anyone", Some(&auditor.token)).send().await.unwrap();
    assert_eq!(basic.status(), StatusCode::OK);
    let none = http.get(&url).send().await.unwrap();
    assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
    assert!(none.headers().contains_key("www-authenticate"));
    let mut wrong = auditor.token.clone();
    wrong.replace_range(wrong.len() - 4.., "AAAA");
    assert_eq!(http.get(&url).bearer_auth(&wrong).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);

    let (_, list) = lab.call(Method::GET, "/penstock/v1/tokens", None).await;
    assert!(!list.to_string().contains("hash") && list["value"][0]["role"] == "auditor", "{list}");
    for bad in [
        json!({"name": "x", "role": "tenant-admin", "expiresInSeconds": 5}),
        json!({"name": "x", "role": "operator", "tenant": "blue", "expiresInSeconds": 5}),
        json!({"name": "x", "role": "operator", "expiresInSeconds": 0}),
        json!({"name": "", "role": "operator", "expiresInSeconds": 5}),
        json!({"name": "x", "role": "king", "expiresInSeconds": 5}),
    ] {
        assert_eq!(lab.call(Method::POST, "/penstock/v1/tokens", Some(&bad)).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
    let short = json!({"name": "short", "role": "operator", "expiresInSeconds": 1});
    let (_, short) = lab.call(Method::POST, "/penstock/v1/tokens", Some(&short)).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let ended = http.get(&url).bearer_auth(short["token"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(ended.status(), StatusCode::UNAUTHORIZED);
    let id = list["value"][0]["id"].as_str().unwrap();
    assert_eq!(lab.call(Method::DELETE, &format!("/penstock/v1/tokens/{id}"), None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(auditor.status(Method::GET, "/penstock/v1/status", None).await, 401);

    lab.stop().await;
    let secret = auditor.token.rsplit_once('_').unwrap().1.as_bytes();
    for file in ["store.db", "store.db-wal", "audit.log"] {
        let bytes = std::fs::read(lab.config.state_dir.join(file)).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sees_and_changes_its_own_and_nothing_of_others() {
    let lab = Lab::start().await;
    assert_eq!(lab.batch(fabric()).await.0, StatusCode::OK);
    let blue = program(&lab, "tenant-admin", Some("blue")).await;
    let red = program(&lab, "tenant-admin", Some("red")).await;
    let put = async |p: &Program, path: &str, body: &Value| {
        p.call(Method::PUT, &format!("/networking/v1{path}"), Some(body)).await
    };

    let (status, made) = put(&blue, "/virtualNetworks/mine", &network()).await;
    assert_eq!((status, &made["resourceMetadata"]["tenantId"]), (StatusCode::CREATED, &json!("blue")), "{made}");
    assert_eq!(put(&red, "/virtualNetworks/other", &network()).await.0, StatusCode::CREATED);
    assert_eq!(blue.ids("virtualNetworks").await, ["mine"]);
    assert_eq!(red.ids("virtualNetworks").await, ["other"]);
    assert_eq!(blue.ids("servers").await, [""; 0]);
    let subnet = json!({"properties": {"addressPrefix": "10.0.0.0/24"}});
    for path in ["/virtualNetworks/other", "/virtualNetworks/blue", "/virtualNetworks/other/subnets/s"] {
        let url = format!("/networking/v1{path}");
        assert_eq!(blue.status(Method::GET, &url, None).await, 404);
        let body = if path.contains("subnets") { &subnet } else { &network() };
        let (status, refused) = put(&blue, path, body).await;
        assert_eq!(
            (status, &refused["error"]["code"]),
            (StatusCode::NOT_FOUND, &json!("NotFound")),
            "{path} {refused}"
        );
        assert_eq!(blue.status(Method::DELETE, &url, None).await, 204, "as if it were not there");
    }
    assert_eq!(red.ids("virtualNetworks").await, ["other"]);
    assert_eq!(blue.ids("virtualNetworks/mine/subnets").await, ["s"]);
    assert_eq!(blue.status(Method::GET, "/networking/v1/virtualNetworks/other/subnets", None).await, 404);

    // It cannot give its own to others, take what is the site's, or lead into what is not its own.
    let mut theirs = network();
    theirs["resourceMetadata"] = json!({"tenantId": "red"});
    let (_, kept) = put(&blue, "/virtualNetworks/mine", &theirs).await;
    assert_eq!(kept["resourceMetadata"]["tenantId"], "blue");
    let mut vni = network();
    vni["properties"]["encapsulationId"] = json!(5000);
    assert_eq!(put(&blue, "/virtualNetworks/vni", &vni).await.0, StatusCode::FORBIDDEN);
    assert_eq!(put(&blue, "/servers/host9", &json!({"properties": {}})).await.0, StatusCode::FORBIDDEN);
    let gateway = |subnet: &str| json!({"properties": {"GatewayPools": [reference("/gatewayPools/default")], "gatewaySubnets": [reference(subnet)]}});
    let (status, refused) = put(&blue, "/VirtualGateways/g", &gateway("/virtualNetworks/other/subnets/s")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(refused.to_string().contains("does not exist"), "{refused}");
    assert_eq!(
        put(&blue, "/VirtualGateways/g", &gateway("/virtualNetworks/mine/subnets/s")).await.0,
        StatusCode::CREATED
    );
    let address = json!({"properties": {"ipAddress": "203.0.113.10"}});
    let (status, refused) = put(&blue, "/publicIPAddresses/vip", &address).await;
    assert!(status.is_client_error() && !refused.to_string().contains("vip4"), "no names of others: {refused}");
    let address = json!({"properties": {"ipAddress": "198.51.100.10"}});
    assert_eq!(put(&blue, "/publicIPAddresses/vip", &address).await.0, StatusCode::FORBIDDEN, "without VIP pools");
    let batch = json!({"resources": [{"resourceRef": "/virtualNetworks/other", "method": "DELETE"}]});
    assert_eq!(blue.status(Method::POST, "/networking/v1/$batch", Some(&batch)).await, 404);
    assert_eq!(blue.status(Method::DELETE, "/networking/v1/VirtualGateways/g", None).await, 202);
    let waits = "/networking/v1/virtualNetworks/mine?confirmWithin=60";
    assert_eq!(blue.status(Method::PUT, waits, Some(&network())).await, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_is_not_given_is_denied_at_every_endpoint() {
    let lab = Lab::start().await;
    assert_eq!(lab.batch(fabric()).await.0, StatusCode::OK);
    let viewer = program(&lab, "tenant-viewer", Some("blue")).await;
    let (_, document) = lab.call(Method::GET, "/penstock/v1/openapi.json", None).await;
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let url: Vec<&str> = path
            .split('/')
            .map(|part| match part {
                "{version}" => "v1",
                part if part.starts_with('{') => "blue",
                part => part,
            })
            .collect();
        let url = url.join("/");
        for (name, method) in
            [("get", Method::GET), ("put", Method::PUT), ("post", Method::POST), ("delete", Method::DELETE)]
        {
            if item.get(name).is_none() {
                continue;
            }
            // A second's worth of requests of a tenant.
            if asked % 90 == 89 {
                tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
            }
            asked += 1;
            let (status, body) = viewer.call(method, &url, Some(&json!({"properties": {}}))).await;
            let open = ["/networking/discovery", "/penstock/v1/openapi.json"].contains(&url.as_str());
            match status.as_u16() {
                200 if open => {}
                200 => assert_eq!((name, &body["value"]), ("get", &json!([])), "{url}: {body}"),
                404 => assert_eq!(name, "get", "{url}"),
                other => {
                    assert!(other == 403 && (name != "get" || url.starts_with("/penstock")), "{name} {url}: {other}")
                }
            }
        }
    }
    assert!(asked > 150, "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_written_down_and_limited() {
    let mut lab = Lab::start().await;
    let viewer = program(&lab, "tenant-viewer", Some("blue")).await;
    lab.put("/securityTags/t", json!({})).await;
    assert_eq!(viewer.status(Method::DELETE, "/networking/v1/virtualNetworks/x?comment=why", None).await, 403);
    let (_, audit) = lab.call(Method::GET, "/penstock/v1/audit?$top=2", None).await;
    let (denied, put) = (&audit["value"][0], &audit["value"][1]);
    assert_eq!(
        (&denied["who"], &denied["decision"], &denied["url"], &denied["from"]),
        (
            &json!("token:tenant-viewer-blue"),
            &json!("denied"),
            &json!("/networking/v1/virtualNetworks/x?comment=why"),
            &json!("127.0.0.1")
        )
    );
    assert_eq!((&put["who"], &put["status"], &put["revision"]), (&json!("alice"), &json!(201), &json!(1)));
    assert_eq!(denied["previous"], put["hash"]);
    lab.restart().await;
    let (_, again) = lab.call(Method::GET, "/penstock/v1/audit?$top=2", None).await;
    assert_eq!(again, audit);

    // A tenant has a hundred a second.
    let mut refused = None;
    for _ in 0..400 {
        let url = format!("{}/networking/v1/virtualNetworks", base(&lab));
        let response = viewer.http.get(url).bearer_auth(&viewer.token).send().await.unwrap();
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = response.headers().get("retry-after").cloned();
            break;
        }
    }
    assert_eq!(refused.expect("never refused"), "1");
    assert_eq!(lab.get("/securityTags").await["value"].as_array().unwrap().len(), 1, "others are served");
}
