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
    called: String,
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

    /// As it stands in the audit log: the id comes first, which no other token has.
    fn name(&self) -> String {
        let id = self.token.split('_').nth(1).unwrap();
        format!("token:{id}:{}", self.called)
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
    named(lab, &format!("{role}-{}", tenant.unwrap_or("site")), role, tenant, 60).await
}

async fn named(lab: &Lab, name: &str, role: &str, tenant: Option<&str>, seconds: u64) -> Program {
    let wanted = json!({"name": name, "role": role, "tenant": tenant, "expiresInSeconds": seconds});
    let (status, made) = lab.call(Method::POST, "/penstock/v1/tokens", Some(&wanted)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    Program {
        http: anonymous(&lab.dir),
        base: base(lab),
        token: made["token"].as_str().unwrap().to_owned(),
        called: name.to_owned(),
    }
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
    // `pst_ID_SECRET`, and the secret may have a `_` of its own.
    let secret = auditor.token.splitn(3, '_').last().unwrap().as_bytes();
    assert!(secret.len() > 16);
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
            let open =
                ["/networking/discovery", "/penstock/v1/openapi.json", "/penstock/v1/usage"].contains(&url.as_str());
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
            &json!(viewer.name()),
            &json!("denied"),
            &json!("/networking/v1/virtualNetworks/x?comment=why"),
            &json!("127.0.0.1")
        )
    );
    assert_eq!((&put["who"], &put["status"], &put["revision"]), (&json!("alice"), &json!(201), &json!(1)));
    assert_eq!(denied["previous"], put["hash"]);
    // Few, so that a slow machine is refused, too.
    lab.config.requests_per_second = 30;
    lab.restart().await;
    let (_, again) = lab.call(Method::GET, "/penstock/v1/audit?$top=2", None).await;
    assert_eq!(again, audit);

    // A tenant has a tenth.
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

/// Who guesses from an address is not looked up in the store any more; who had a good token there before is served all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_cost_no_reads_of_the_store_and_keep_no_good_token_out() {
    let lab = Lab::start().await;
    let url = "/networking/v1/virtualNetworks";
    let before = program(&lab, "auditor", None).await;
    assert_eq!(before.status(Method::GET, url, None).await, 200);
    let wrong = Program { token: format!("pst_{}_x", "0".repeat(16)), ..named(&lab, "w", "auditor", None, 60).await };
    let mut kept_out = false;
    for _ in 0..20 {
        // One that was never used: whether it is looked up shows whether others are.
        let late = named(&lab, "late", "auditor", None, 60).await;
        let asked = futures::future::join_all((0..16).map(|_| wrong.status(Method::GET, url, None))).await;
        assert!(asked.iter().all(|status| [401, 429].contains(status)), "{asked:?}");
        kept_out |= late.status(Method::GET, url, None).await == 429;
        assert_eq!(before.status(Method::GET, url, None).await, 200);
    }
    assert!(kept_out, "its token was looked up");
}

/// An interface of blue's, placed by the operator, in a network of blue's.
async fn placed(lab: &Lab, blue: &Program) -> Value {
    assert_eq!(lab.batch(fabric()).await.0, StatusCode::OK);
    let (status, made) = blue.call(Method::PUT, "/networking/v1/virtualNetworks/mine", Some(&network())).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let interface = json!({"resourceMetadata": {"tenantId": "blue"}, "properties": {"server": reference("/servers/host1"),
        "ipConfigurations": [{"resourceId": "c", "properties": {"subnet": reference("/virtualNetworks/mine/subnets/s")}}]}});
    let (status, made) = lab.call(Method::PUT, "/networking/v1/networkInterfaces/nic", Some(&interface)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_changes_an_interface_that_the_operator_has_placed_and_does_not_move_it() {
    let lab = Lab::start().await;
    let blue = program(&lab, "tenant-admin", Some("blue")).await;
    let mut interface = placed(&lab, &blue).await;
    let url = "/networking/v1/networkInterfaces/nic";
    let (_, mut own) = blue.call(Method::GET, url, None).await;
    assert_eq!(own["properties"]["server"], Value::Null);
    own["tags"] = json!({"round": "trip"});
    let (status, kept) = blue.call(Method::PUT, url, Some(&own)).await;
    assert_eq!(status, StatusCode::OK, "{kept}");
    assert_eq!(lab.get("/networkInterfaces/nic").await["properties"]["server"], reference("/servers/host1"));
    interface["tags"] = json!({"owner": "me"});
    let (status, kept) = blue.call(Method::PUT, url, Some(&interface)).await;
    assert_eq!((status, &kept["tags"]["owner"]), (StatusCode::OK, &json!("me")), "{kept}");
    interface["properties"]["server"] = reference("/servers/host2");
    assert!(blue.status(Method::PUT, url, Some(&interface)).await >= 400, "it stays where it is");
    interface["properties"]["server"] = reference("/servers/host1");
    interface["properties"]["other"] = reference("/servers/host1");
    assert!(blue.status(Method::PUT, url, Some(&interface)).await >= 400, "only what stood there stays");
    assert_eq!(lab.get("/networkInterfaces/nic").await["properties"]["server"], reference("/servers/host1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_told_no_name_of_the_sites_machines() {
    let lab = Lab::start().await;
    let mut all = fabric();
    let own = [
        "accessControlLists",
        "loadBalancers",
        "networkInterfaces",
        "publicIPAddresses",
        "VirtualGateways",
        "virtualNetworks",
    ];
    for resource in all.as_array_mut().unwrap().iter_mut().filter(|r| own.contains(&r["kind"].as_str().unwrap())) {
        resource["resourceMetadata"] = json!({"tenantId": "blue"});
    }
    assert_eq!(lab.batch(all).await.0, StatusCode::OK);
    let (blue, auditor) = (program(&lab, "tenant-admin", Some("blue")).await, program(&lab, "auditor", None).await);
    let operator = program(&lab, "operator", None).await;
    let mut said = [String::new(), String::new()];
    for kind in own {
        for (program, said) in [&blue, &auditor].into_iter().zip(&mut said) {
            let (status, body) = program.call(Method::GET, &format!("/networking/v1/{kind}"), None).await;
            assert!(status == StatusCode::OK && !body["value"].as_array().unwrap().is_empty(), "{kind}: {body}");
            said.push_str(&body.to_string());
        }
    }
    for path in ["networkInterfaces/blue1", "VirtualGateways/blue"] {
        for (program, said) in [&blue, &operator].into_iter().zip(&mut said) {
            let url = format!("/networking/v1/{path}?whatIf=true");
            let (status, body) = program.call(Method::DELETE, &url, None).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            said.push_str(&body.to_string());
        }
    }
    for name in ["host1", "host2", "10.1.3.2", "gw1", "hostId", "/servers/"] {
        assert_eq!(said.each_ref().map(|s| s.contains(name)), [false, true], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_no_more_than_its_quota_and_can_see_how_much_that_is() {
    let lab = Lab::start().await;
    let blue = program(&lab, "tenant-admin", Some("blue")).await;
    let red = program(&lab, "tenant-admin", Some("red")).await;
    let quota = async |tenant: &str, limits: Value| {
        let body = json!({ "limits": limits });
        lab.call(Method::PUT, &format!("/penstock/v1/quotas/{tenant}"), Some(&body)).await
    };
    assert_eq!(quota("*", json!({"securityTags": 1})).await.0, StatusCode::OK);
    let (status, kept) = quota("blue", json!({"virtualnetworks": 2, "virtualNetworks/Subnets": 3, "*": 5})).await;
    let limits = json!({"virtualNetworks": 2, "virtualNetworks/subnets": 3, "*": 5});
    assert_eq!((status, &kept), (StatusCode::OK, &json!({"tenant": "blue", "limits": limits})));
    for bad in [json!({"servers": 1}), json!({"virtualNetworks/x": 1}), json!({"*": -1}), json!({"*": 2_000_000})] {
        assert_eq!(quota("blue", bad.clone()).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
    let put = async |p: &Program, path: &str, body: &Value| {
        let (status, body) = p.call(Method::PUT, &format!("/networking/v1{path}"), Some(body)).await;
        (status.as_u16(), body["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let (fine, over) = ((201, String::new()), (409, "QuotaExceeded".to_owned()));
    let subnet = json!({"properties": {"addressPrefix": "10.0.1.0/24"}});
    let tag = json!({"properties": {}});
    assert_eq!(put(&blue, "/virtualNetworks/a", &network()).await, fine);
    assert_eq!(put(&blue, "/virtualNetworks/b", &network()).await, fine);
    assert_eq!(put(&blue, "/virtualNetworks/c?whatIf=true", &network()).await, over, "of a kind");
    assert_eq!(put(&blue, "/virtualNetworks/a/subnets/t", &subnet).await, fine);
    assert_eq!(put(&blue, "/virtualNetworks/b/subnets/t", &subnet).await, over, "of children");
    assert_eq!(put(&blue, "/securityTags/t", &tag).await, over, "in all");
    let many = json!({"resources": [{"resourceRef": "/virtualNetworks/a", "method": "DELETE"},
        {"resourceRef": "/securityTags/t", "properties": {}}, {"resourceRef": "/securityTags/u", "properties": {}}]});
    assert_eq!(blue.status(Method::POST, "/networking/v1/$batch", Some(&many)).await, 200, "in exchange");
    assert_eq!(put(&red, "/securityTags/v", &tag).await, fine);
    assert_eq!(put(&red, "/securityTags/w", &tag).await, over, "a quota for all");
    let operators = json!({"resourceMetadata": {"tenantId": "red"}, "properties": {}});
    let (status, _) = lab.call(Method::PUT, "/networking/v1/securityTags/w", Some(&operators)).await;
    assert_eq!(status, StatusCode::CREATED, "the operator may give more");
    assert_eq!(put(&red, "/securityTags/v", &json!({"tags": {"a": "b"}, "properties": {}})).await.0, 200);

    let used = json!({"*": 4, "virtualNetworks": 1, "virtualNetworks/subnets": 1, "securityTags": 2});
    let one = json!({"tenant": "blue", "used": used, "limits": limits});
    let (_, own) = blue.call(Method::GET, "/penstock/v1/usage", None).await;
    assert_eq!(own["value"], json!([one]));
    let two = json!({"tenant": "red", "used": {"*": 2, "securityTags": 2}, "limits": {"securityTags": 1}});
    let (_, all) = lab.call(Method::GET, "/penstock/v1/usage", None).await;
    assert_eq!(all["value"], json!([one, two]));
    assert_eq!(blue.status(Method::PUT, "/penstock/v1/quotas/blue", Some(&json!({"limits": {}}))).await, 403);
    let delete = async || lab.call(Method::DELETE, "/penstock/v1/quotas/blue", None).await.0;
    assert_eq!((delete().await, delete().await), (StatusCode::NO_CONTENT, StatusCode::NOT_FOUND));
    let (_, list) = lab.call(Method::GET, "/penstock/v1/quotas", None).await;
    assert_eq!(list["value"], json!([{"tenant": "*", "limits": {"securityTags": 1}}]));
    assert_eq!(put(&blue, "/securityTags/x", &tag).await, over, "that for all is blue's now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_one_name_are_two_callers() {
    let lab = Lab::start().await;
    let (blue, red) = (
        named(&lab, "ci", "tenant-viewer", Some("blue"), 60).await,
        named(&lab, "ci", "tenant-viewer", Some("red"), 60).await,
    );
    let url = "/networking/v1/virtualNetworks";
    let mut last = 200;
    for _ in 0..400 {
        last = blue.status(Method::GET, url, None).await;
        if last == 429 {
            break;
        }
    }
    assert_eq!(
        (last, red.status(Method::GET, url, None).await),
        (429, 200),
        "one does not use up the other's requests"
    );
    assert_eq!(red.status(Method::DELETE, "/networking/v1/virtualNetworks/x", None).await, 403);
    let (_, audit) = lab.call(Method::GET, "/penstock/v1/audit?$top=2", None).await;
    assert_eq!((&audit["value"][0]["who"], &audit["value"][1]["who"]), (&json!(red.name()), &json!(blue.name())));
    assert_eq!((&audit["value"][1]["status"], &audit["value"][1]["method"]), (&json!(429), &json!("GET")));
    assert_ne!(red.name(), blue.name());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_token_and_a_caller_has_only_so_many() {
    let lab = Lab::start().await;
    let open = async |program: &Program| {
        let url = format!("{}/networking/v1/securityTags?watch=true", program.base);
        program.http.get(url).bearer_auth(&program.token).send().await.unwrap()
    };
    let told = async |response: &mut reqwest::Response| {
        tokio::time::timeout(std::time::Duration::from_secs(5), response.chunk())
            .await
            .expect("it says nothing")
            .unwrap()
    };
    let short = named(&lab, "short", "auditor", None, 2).await;
    let mut stream = open(&short).await;
    assert!(told(&mut stream).await.is_some(), "synchronized");
    assert_eq!(told(&mut stream).await, None, "its time is over");

    let auditor = program(&lab, "auditor", None).await;
    let mut stream = open(&auditor).await;
    assert!(told(&mut stream).await.is_some());
    let id = auditor.token.split('_').nth(1).unwrap();
    assert_eq!(lab.call(Method::DELETE, &format!("/penstock/v1/tokens/{id}"), None).await.0, StatusCode::NO_CONTENT);
    lab.put("/securityTags/secret", json!({})).await;
    assert_eq!(told(&mut stream).await, None, "it is told nothing any more");

    let many = program(&lab, "auditor", None).await;
    let mut streams = Vec::new();
    let refused = loop {
        // More than one connection bears.
        let other =
            Program { http: anonymous(&lab.dir), base: base(&lab), token: many.token.clone(), called: String::new() };
        for _ in 0..20 {
            streams.push(open(&other).await);
        }
        if let Some(last) = streams.iter().find(|s| s.status() != StatusCode::OK) {
            break last.status();
        }
        assert!(streams.len() < 200, "no end of them");
    };
    assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
    drop(streams);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(open(&many).await.status(), StatusCode::OK, "those that ended count no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_names_what_is_not_the_tenants() {
    let lab = Lab::start().await;
    let blue = program(&lab, "tenant-admin", Some("blue")).await;
    placed(&lab, &blue).await;
    let put =
        async |path: &str, body: &Value| blue.call(Method::PUT, &format!("/networking/v1{path}"), Some(body)).await;
    // The operator's, in the tenant's network, and a name made to break out of quotes.
    let foreign = json!({"ipConfigurations": [{"resourceId": "c", "properties": {
        "subnet": reference("/virtualNetworks/mine/subnets/s"), "privateIPAddress": "10.0.0.77"}}]});
    lab.put("/networkInterfaces/it's hidden", foreign).await;

    let (status, refused) = blue.call(Method::DELETE, "/networking/v1/virtualNetworks/mine", None).await;
    assert_eq!((status, refused.to_string().contains("hidden")), (StatusCode::CONFLICT, false), "{refused}");
    assert!(refused.to_string().contains("nic") && refused.to_string().contains("2 resource(s)"), "{refused}");

    let (_, seen) = blue.call(Method::GET, "/networking/v1/virtualNetworks/mine/subnets/s", None).await;
    assert!(seen.to_string().contains("nic") && !seen.to_string().contains("hidden"), "{seen}");
    assert!(lab.get("/virtualNetworks/mine/subnets/s").await.to_string().contains("hidden"));

    let same = json!({"properties": {"ipConfigurations": [{"resourceId": "c", "properties": {
        "subnet": reference("/virtualNetworks/mine/subnets/s"), "privateIPAddress": "10.0.0.77"}}]}});
    for id in ["a", "z"] {
        let (status, refused) = put(&format!("/networkInterfaces/{id}"), &same).await;
        assert_eq!((status, refused.to_string().contains("hidden")), (StatusCode::BAD_REQUEST, false), "{refused}");
    }
    // What is there for others and what is nowhere are answered alike.
    let to = |subnet: &str| json!({"properties": {"gatewaySubnets": [reference(subnet)], "GatewayPools": [reference("/GatewayPools/default")]}});
    let (_, there) = put("/VirtualGateways/g", &to("/virtualNetworks/blue/subnets/v4")).await;
    let (_, nowhere) = put("/VirtualGateways/g", &to("/virtualNetworks/nope/subnets/v4")).await;
    assert_eq!(there.to_string().replace("/blue/", "/nope/"), nowhere.to_string());

    // With an item that nobody can read, too.
    let batch =
        json!({"resources": [{"kind": "nonsense"}, {"resourceRef": "/virtualNetworks/red", "method": "DELETE"}]});
    let (status, refused) = blue.call(Method::POST, "/networking/v1/$batch", Some(&batch)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{refused}");

    let waits = "/networking/v1/securityTags/t?confirmWithin=60";
    assert_eq!(lab.call(Method::PUT, waits, Some(&json!({"properties": {}}))).await.0, StatusCode::CREATED);
    let (status, refused) = put("/securityTags/u", &json!({"properties": {}})).await;
    assert_eq!((status, refused.to_string().contains("alice")), (StatusCode::CONFLICT, false), "{refused}");
}
