//! The northbound interface over real TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, anonymous, client, fabric, reference, targets};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

fn network() -> Value {
    json!({"properties": {
        "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"resourceId": "s", "properties": {"addressPrefix": "10.0.0.0/24"}}]
    }})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_operators_are_served() {
    let lab = Lab::start().await;
    let url = format!("https://{}/networking/v1/servers", lab.config.listen);
    let refused = client(&lab.dir, "mux1").get(&url).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(anonymous(&lab.dir).get(&url).send().await.is_err(), "no certificate, no connection");
    assert_eq!(lab.get("/servers").await, json!({"value": [], "nextLink": ""}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_is_put_read_listed_and_deleted() {
    let lab = Lab::start().await;
    let url = "/Networking/V5/VirtualNetworks/blue";
    let (status, headers, body) = lab.full(Method::PUT, url, Some(&network()), &[]).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert_eq!(headers["etag"], body["etag"].as_str().unwrap());
    assert_eq!(body["resourceRef"], "/virtualNetworks/blue");
    assert_eq!(body["properties"]["provisioningState"], "Succeeded");
    assert_eq!(body["properties"]["encapsulationId"], 4096);
    assert_eq!(body["properties"]["subnets"][0]["properties"]["VirtualSubnetId"], 4096);
    let operation = headers["azure-asyncoperation"].to_str().unwrap().to_owned();
    let done = lab.operation(&operation).await;
    assert_eq!(done["status"], "Succeeded");
    assert_eq!(done["properties"]["detail"], "revision 1 is live on 0 of 0 nodes");
    let unknown = operation.replace("operations/0000", "operations/7777");
    assert_eq!(lab.call(Method::GET, &unknown, None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(lab.get("/virtualNetworks/blue").await, body);
    assert_eq!(lab.get("/virtualNetworks/").await["value"], json!([body]));
    assert_eq!(
        lab.get("/virtualnetworks/blue/subnets").await["value"][0]["resourceRef"],
        "/virtualNetworks/blue/subnets/s"
    );

    let subnet = body["properties"]["subnets"][0]["instanceId"].as_str().unwrap();
    let found = lab.get(&format!("/internalResourceInstances/{subnet}")).await;
    assert_eq!(found["properties"]["resourceReference"], "/virtualNetworks/blue/subnets/s");

    // A whole body that comes back changes nothing.
    let (status, again) = lab.call(Method::PUT, url, Some(&body)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(again, body);

    let (status, headers, _) = lab.full(Method::DELETE, url, None, &[]).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let result = headers["location"].to_str().unwrap().to_owned();
    lab.operation(&result.replace("operationResults", "operations")).await;
    assert_eq!(lab.call(Method::GET, &result, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(lab.call(Method::GET, url, None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(lab.call(Method::DELETE, url, None).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etags_decide_as_the_specification_says() {
    let lab = Lab::start().await;
    let url = "/networking/v1/virtualNetworks/blue";
    let body = network();
    let status = async |method: Method, headers: &[(&str, &str)]| lab.full(method, url, Some(&body), headers).await.0;
    assert_eq!(status(Method::PUT, &[("if-match", "*")]).await, 412);
    assert_eq!(status(Method::PUT, &[("if-match", "W/\"x\"")]).await, 412);
    assert_eq!(status(Method::DELETE, &[("if-match", "*")]).await, 204);
    assert_eq!(status(Method::PUT, &[("if-none-match", "*")]).await, 201);
    assert_eq!(status(Method::PUT, &[("if-none-match", "*")]).await, 412);
    assert_eq!(status(Method::PUT, &[("if-match", "")]).await, 200);
    assert_eq!(status(Method::PUT, &[("if-match", "*")]).await, 200);
    assert_eq!(status(Method::PUT, &[("if-match", "W/\"x\"")]).await, 412);
    let etag = lab.get("/virtualNetworks/blue").await["etag"].as_str().unwrap().to_owned();
    assert_eq!(status(Method::PUT, &[("if-match", &etag)]).await, 200);
    assert_eq!(status(Method::DELETE, &[("if-match", "W/\"x\"")]).await, 412);
    assert_eq!(status(Method::DELETE, &[("if-match", &etag)]).await, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_is_a_part_of_its_parent_and_has_a_path_of_its_own() {
    let lab = Lab::start().await;
    lab.put("/loadBalancers/lb", json!({})).await;
    let before = lab.get("/loadBalancers/lb").await;
    let probe = lab.put("/loadBalancers/lb/probes/p", json!({"protocol": "Tcp", "port": 80})).await;
    let after = lab.get("/loadBalancers/lb").await;
    assert_ne!(after["etag"], before["etag"], "a change of a child is a change of its parent");
    assert_eq!(after["instanceId"], before["instanceId"]);
    assert_eq!(after["properties"]["probes"][0], probe);
    let (status, body) = lab
        .call(
            Method::PUT,
            "/networking/v1/loadBalancers/none/probes/p",
            Some(&json!({"properties": {"protocol": "Tcp", "port": 80}})),
        )
        .await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("NotFound")));
    let (status, _) = lab.call(Method::DELETE, "/networking/v1/loadBalancers/lb/probes/p", None).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(lab.get("/loadBalancers/lb").await["properties"]["probes"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_refer_to_is_not_deleted_and_back_references_are_filled() {
    let lab = Lab::start().await;
    let (status, body) = lab.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    let (status, body) = lab.call(Method::DELETE, "/networking/v1/servers/host2", None).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(body["error"]["code"], "InUseServerCannotBeDeleted");
    let referrers: Vec<String> = targets(&body).into_iter().map(|(_, t)| t).collect();
    assert_eq!(referrers, ["/networkInterfaces/blue3", "/networkInterfaces/red3"]);
    let (status, _) =
        lab.call(Method::DELETE, "/networking/v1/loadBalancers/web/backendAddressPools/servers", None).await;
    assert_eq!(status, StatusCode::CONFLICT);

    let pool = lab.get("/loadBalancers/web/backendAddressPools/servers").await;
    assert_eq!(pool["properties"]["backendIPConfigurations"].as_array().unwrap().len(), 6);
    assert_eq!(pool["properties"]["loadBalancingRules"].as_array().unwrap().len(), 3);
    let subnet = lab.get("/virtualNetworks/blue/subnets/v4").await;
    assert_eq!(subnet["properties"]["ipConfigurations"][0], reference("/networkInterfaces/blue1/ipConfigurations/v4"));
    assert_eq!(lab.get("/gatewayPools/default").await["properties"]["gateways"], json!([reference("/gateways/gw1")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_all_errors_and_nothing_is_half_applied() {
    let lab = Lab::start().await;
    let (status, body) = lab.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    let before = lab.get("/networkInterfaces").await;

    let (status, body) = lab
        .batch(json!([
            {"kind": "teapots", "resourceId": "x", "properties": {}},
            {"kind": "publicIPAddresses", "resourceId": "x", "properties": {"ipAddress": "203.0.113.10"}},
            {"kind": "publicIPAddresses", "resourceId": "y", "properties": {"ipAddress": "203.0.113.300"}}
        ]))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let pointers: Vec<String> = targets(&body).into_iter().map(|(_, t)| t).collect();
    for expected in ["/resources/0/kind", "/resources/1/properties/ipAddress", "/resources/2/properties/ipAddress"] {
        assert!(pointers.iter().any(|p| p == expected), "{expected} in {pointers:?}");
    }

    let bad = json!([
        {"kind": "virtualNetworks", "resourceId": "green", "properties": {"addressSpace": {"addressPrefixes": ["10.9.0.0/16"]}}},
        {"resourceRef": "/networkInterfaces/bad", "properties": {
            "privateMacAddress": "00155d00ff01",
            "ipConfigurations": [
                {"resourceId": "a", "properties": {"privateIPAddress": "10.77.0.1", "subnet": reference("/virtualNetworks/blue/subnets/v4")}},
                {"resourceId": "b", "properties": {"privateIPAddress": "10.0.0.4", "subnet": reference("/virtualNetworks/blue/subnets/v4")}},
                {"resourceId": "c", "properties": {"privateIPAddress": "10.0.0.9", "subnet": reference("/virtualNetworks/none/subnets/x")}}
            ]}},
        {"kind": "loadBalancers", "resourceId": "second", "properties": {
            "frontendIPConfigurations": [{"resourceId": "f", "properties": {"privateIPAddress": "203.0.113.10"}}],
            "backendAddressPools": [{"resourceId": "p", "properties": {}}],
            "loadBalancingRules": [{"resourceId": "r", "properties": {
                "frontendIPConfigurations": [reference("/loadBalancers/second/frontendIPConfigurations/f")],
                "backendAddressPool": reference("/loadBalancers/second/backendAddressPools/p"),
                "protocol": "Tcp", "frontendPort": 80}}]}}
    ]);
    let (status, body) = lab.batch(bad).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let found = targets(&body);
    for (code, target) in [
        ("PrivateIPAddressNotInSubnet", "/resources/1/properties/ipConfigurations/0/properties/privateIPAddress"),
        ("InvalidResourceReference", "/resources/1/properties/ipConfigurations/2/properties/subnet/resourceRef"),
    ] {
        assert!(found.contains(&(code.into(), target.into())), "{code} {target} in {found:#?}");
    }
    let has = |code: &str, part: &str| found.iter().any(|(c, t)| c == code && t.contains(part));
    assert!(has("PrivateIPAddressInUse", "ipConfigurations/"), "{found:#?}");
    assert!(has("RulesUseSameFrontendPort", "frontendPort"), "{found:#?}");

    // A wrong type hides nothing else: not of the same resource, not of another, not beside one without a name.
    let rule = |pool: &str, port: Value| {
        json!({"resourceId": pool, "properties": {
            "frontendIPConfigurations": [reference("/loadBalancers/third/frontendIPConfigurations/none")],
            "backendAddressPool": reference(&format!("/loadBalancers/third/backendAddressPools/{pool}")),
            "protocol": "Tcp", "frontendPort": port}})
    };
    let third = json!({"kind": "loadBalancers", "resourceId": "third", "properties": {
        "loadBalancingRules": [rule("missing", json!("many")), rule("gone", json!(80))]}});
    let other = json!({"kind": "networkInterfaces", "resourceId": "n", "properties": {"isPrimary": "maybe", "server": reference("/servers/none")}});
    for first in [
        json!({"kind": "teapots", "resourceId": "x"}),
        json!({"kind": "probes"}),
        json!({"kind": "routeTables", "resourceId": "x", "properties": {}}),
    ] {
        let (status, body) = lab.batch(json!([first, third, other])).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let pointers: Vec<String> = targets(&body).into_iter().map(|(_, t)| t).collect();
        for expected in [
            "/resources/1/properties/loadBalancingRules/0/properties/frontendPort",
            "/resources/1/properties/loadBalancingRules/0/properties/backendAddressPool/resourceRef",
            "/resources/1/properties/loadBalancingRules/0/properties/frontendIPConfigurations/0/resourceRef",
            "/resources/1/properties/loadBalancingRules/1/properties/backendAddressPool/resourceRef",
            "/resources/2/properties/isPrimary",
            "/resources/2/properties/server/resourceRef",
        ] {
            assert!(pointers.iter().any(|p| p == expected), "{expected} in {pointers:#?}");
        }
    }
    // What may be the one without a name is not called missing.
    let (_, body) = lab.batch(json!([{"kind": "servers", "properties": {}}, other])).await;
    let mut pointers: Vec<String> = targets(&body).into_iter().map(|(_, t)| t).collect();
    pointers.sort();
    assert_eq!(pointers, ["/resources/0/kind", "/resources/1/properties/isPrimary"]);

    let wrong_types = json!({"properties": {"probes": [{"resourceId": "p", "properties": {"protocol": 7, "port": "many"}}], "loadBalancingRules": {}}});
    let (status, body) = lab.call(Method::PUT, "/networking/v1/loadBalancers/x", Some(&wrong_types)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let pointers: Vec<String> = targets(&body).into_iter().map(|(_, t)| t).collect();
    for expected in [
        "/properties/loadBalancingRules",
        "/properties/probes/0/properties/protocol",
        "/properties/probes/0/properties/port",
    ] {
        assert!(pointers.iter().any(|p| p == expected), "{expected} in {pointers:?}");
    }
    assert_eq!(lab.get("/networkInterfaces").await, before);
    assert_eq!(lab.call(Method::GET, "/networking/v1/virtualNetworks/green", None).await.0, StatusCode::NOT_FOUND);
    let (status, body) = lab.call(Method::PUT, "/networking/v1/teapots/x", Some(&json!({}))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("NotFound")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_sealed_kept_and_never_returned() {
    let mut lab = Lab::start().await;
    let (status, body) = lab.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    let path = "/virtualGateways/blue/networkConnections/blue-site";
    let connection = lab.get(path).await;
    let wireguard = &connection["properties"]["wireGuardConfiguration"];
    assert!(wireguard.get("privateKey").is_none() && wireguard.get("presharedKey").is_none(), "{wireguard}");
    assert_eq!(wireguard["publicKey"].as_str().unwrap().len(), 44);
    assert_eq!(wireguard["listenPort"], 51820);
    assert_eq!(
        lab.get("/virtualGateways/red").await["properties"]["networkConnections"][0]["properties"]["wireGuardConfiguration"]
            ["listenPort"],
        51821
    );
    // Put back without its secrets, it keeps them.
    let (status, again) = lab.call(Method::PUT, &format!("/networking/v1{path}"), Some(&connection)).await;
    assert_eq!(status, StatusCode::OK, "{again:#}");
    assert_eq!(again["properties"]["wireGuardConfiguration"]["publicKey"], wireguard["publicKey"]);
    lab.stop().await;
    let file = std::fs::read(lab.config.state_dir.join("store.db")).unwrap();
    let wal = std::fs::read(lab.config.state_dir.join("store.db-wal")).unwrap_or_default();
    for bytes in [&file, &wal] {
        assert!(!bytes.windows(44).any(|w| w == b"FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="));
    }
    lab.restart_after_stop().await;
    let kept = lab.get(path).await;
    assert_eq!(kept["properties"]["wireGuardConfiguration"]["publicKey"], wireguard["publicKey"]);
}

/// What was sent is in what came back; numbers, words and names as they were.
fn contains(got: &Value, sent: &Value, at: &str, missing: &mut Vec<String>) {
    const SECRET: &[&str] = &["RadiusSecret", "SharedSecret", "value"];
    match (got, sent) {
        (Value::Object(g), Value::Object(s)) => {
            for (name, v) in s {
                // Identities and reports are the server's.
                if matches!(name.as_str(), "etag" | "instanceId" | "resourceRef")
                    && !at.ends_with("Ref")
                    && s.contains_key("properties")
                {
                    continue;
                }
                if SECRET.contains(&name.as_str()) && at.contains("onfiguration") || name == "RadiusSecret" {
                    continue;
                }
                match g.get(name) {
                    Some(g) => contains(g, v, &format!("{at}/{name}"), missing),
                    None => missing.push(format!("{at}/{name}")),
                }
            }
        }
        (Value::Array(g), Value::Array(s)) if g.len() == s.len() => {
            for (i, (g, s)) in g.iter().zip(s).enumerate() {
                contains(g, s, &format!("{at}/{i}"), missing);
            }
        }
        // Back references are the server's own, in its own letter case.
        (Value::String(g), Value::String(s)) if at.ends_with("/resourceRef") && g.eq_ignore_ascii_case(s) => {}
        (g, s) if g == s => {}
        (g, s) => missing.push(format!("{at}: {g} instead of {s}")),
    }
}

/// The path that an example of the specification is put to, by its section.
fn place(section: &str, collection: &str, body: &Value) -> String {
    let id = body["resourceId"].as_str().unwrap_or("example").to_owned();
    let child = |parent: &str, child: &str| format!("/{collection}/{parent}/{child}/{id}");
    match section {
        "3.1.5.1.2.1" => child("parent", "aclRules"),
        "3.1.5.10.2.1" => child("parent", "routes"),
        "3.1.5.15.2.1" => child("parent", "networkInterfaces"),
        "3.1.5.5.2.1" => format!("{POOLS_BALANCER}/backendAddressPools/{id}"),
        "3.1.5.5.4.1" => "/loadBalancers/0df23cd2-633f-4322-a9e6-c4388c023e32/inboundNatRules/rule".to_owned(),
        "3.1.5.5.5.1" => "/loadBalancers/0df23cd2-633f-4322-a9e6-c4388c023e32/loadBalancingRules/rule".to_owned(),
        "3.1.5.8.2.2" => "/logicalNetworks/parent/subnets/parent/ipPools/".to_owned() + &id,
        "3.1.5.8.2.3" => "/logicalNetworks/parent/subnets/parent/routes/".to_owned() + &id,
        "3.1.5.17.4.1" => "/VirtualGateways/VirtualGatewayTenant_1/networkConnections/".to_owned() + &id,
        "3.1.5.19.1.1" | "3.1.5.20.1.1" | "3.1.5.34.1.1" => format!("/{collection}/configuration"),
        "3.1.5.22.1.1" => "/diagnostics/ConnectivityCheck".to_owned(),
        "3.1.5.29.1.1" => "/SubnetEgressReset".to_owned(),
        _ => format!("/{collection}/{id}"),
    }
}

const POOLS_BALANCER: &str = "/loadBalancers/6fb51980-ae9f-40c0-a0a0-bccdea506b0f";

/// What refers to the pool of 3.1.5.5.2.1: its lists of rules are back references, which follow from the rules.
async fn refer_to_pool(lab: &Lab) {
    let pool = reference(&format!("{POOLS_BALANCER}/backendAddressPools/b32b5ef0-5332-49a8-b383-f91090135f71"));
    let rule = json!({"protocol": "Tcp", "frontendPort": 80, "backendAddressPool": pool,
        "frontendIPConfigurations": [reference(&format!("{POOLS_BALANCER}/frontendIPConfigurations/f"))]});
    lab.put(
        POOLS_BALANCER,
        json!({
            "frontendIPConfigurations": [{"resourceId": "f", "properties": {"privateIPAddress": "10.0.21.23"}}],
            "backendAddressPools": [{"resourceId": "b32b5ef0-5332-49a8-b383-f91090135f71", "properties": {}}],
            "loadBalancingRules": [{"resourceId": "36c02dfc-9462-4484-b539-cb2dfd317f86", "properties": rule}],
            "outboundNatRules": [{"resourceId": "b056293e-8bf0-4de4-b51c-497422b81433", "properties": rule}]
        }),
    )
    .await;
}

/// All references of a body.
fn references(v: &Value, out: &mut Vec<String>) {
    match v {
        Value::Object(map) => {
            if let (Some(r), false) = (map.get("resourceRef").and_then(Value::as_str), map.contains_key("properties")) {
                out.push(r.to_owned());
            }
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

/// The least that a resource of a kind can be.
fn stub(path: &str) -> Value {
    let kinds: Vec<String> = path.split('/').filter(|s| !s.is_empty()).step_by(2).map(str::to_lowercase).collect();
    let properties = match kinds.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["virtualnetworks"] => json!({"addressSpace": {"addressPrefixes": ["0.0.0.0/0"]}}),
        // The example interface of 3.1.5.11.1.1 is at 20.168.0.126, that of 3.1.5.11.2.1 at 13.168.101.21.
        ["virtualnetworks", "subnets"] if path.contains("29d028bc") => json!({"addressPrefix": "20.168.0.0/24"}),
        ["virtualnetworks", "subnets"] => json!({"addressPrefix": "13.168.0.0/16"}),
        ["credentials"] => json!({"type": "usernamePassword"}),
        ["loadbalancers", "frontendipconfigurations"] => json!({"privateIPAddress": "10.0.21.23"}),
        ["loadbalancers", "inboundnatrules" | "outboundnatrules"] => {
            json!({"protocol": "Tcp", "frontendIPConfigurations": []})
        }
        _ => json!({}),
    };
    json!({ "properties": properties })
}

/// Makes what an example refers to, parents first.
async fn prepare(lab: &Lab, path: &str) {
    let segments: Vec<&str> = path.split('/').map(str::trim).filter(|s| !s.is_empty()).collect();
    for end in (2..=segments.len()).step_by(2) {
        let part = format!("/{}", segments[..end].join("/"));
        let url = format!("/networking/v1{}", part.replace(' ', "%20"));
        if lab.call(Method::GET, &url, None).await.0 == StatusCode::OK {
            continue;
        }
        let (status, body) = lab.call(Method::PUT, &url, Some(&stub(&part))).await;
        assert!(status.is_success(), "{part}: {body:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_put_example_of_the_specification_is_accepted_and_returned_faithfully() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../types/tests/examples");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 26);
    for file in files {
        // Each in a controller of its own: they use the same addresses for different things.
        let lab = Lab::start().await;
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let sent: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let (section, rest) = name.split_once('-').unwrap();
        let path = place(section, rest.trim_end_matches("-put"), &sent);
        if section == "3.1.5.5.2.1" {
            refer_to_pool(&lab).await;
        }
        if let Some((parent, _)) =
            path.rsplit_once('/').and_then(|(p, _)| p.rsplit_once('/')).filter(|(p, _)| !p.is_empty())
        {
            prepare(&lab, parent).await;
        }
        let mut refs = Vec::new();
        references(&sent, &mut refs);
        let own = |r: &String| r.to_lowercase().starts_with(&path.to_lowercase());
        for r in refs.iter().filter(|r| !own(r)) {
            prepare(&lab, r).await;
        }
        let url = format!("/networking/v1{}", path.replace('{', "%7B").replace('}', "%7D"));
        let (status, put) = lab.call(Method::PUT, &url, Some(&sent)).await;
        assert!(status.is_success(), "{name} to {path}: {status} {put:#}");
        let (_, got) = lab.call(Method::GET, &url, None).await;
        assert_eq!(got, put, "{name}");
        let mut missing = Vec::new();
        contains(&got, &sent, "", &mut missing);
        assert!(missing.is_empty(), "{name}: {missing:#?}\n{got:#}");
        assert_eq!(got["properties"]["provisioningState"], "Succeeded");
        assert!(got["etag"].as_str().unwrap().starts_with("W/\""));
        let (status, again) = lab.call(Method::PUT, &url, Some(&got)).await;
        assert_eq!(
            (status, &again["etag"]),
            (StatusCode::OK, &got["etag"]),
            "{name}: a whole body put back changes nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_survive_a_restart() {
    let mut lab = Lab::start().await;
    lab.batch(fabric()).await;
    let before = lab.get("/loadBalancers/web").await;
    lab.restart().await;
    assert_eq!(lab.get("/loadBalancers/web").await, before);
    assert_eq!(lab.get("/networkInterfaces").await["value"].as_array().unwrap().len(), 6);
}
