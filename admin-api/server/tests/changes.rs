//! What becomes of a change: planned, recorded, watched, confirmed, undone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, Node, fabric, reference};
use penstock_southbound::Mux;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

const BATCH: &str = "/networking/v1/$batch";

async fn own(lab: &Lab, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
    lab.call(method, &format!("/penstock/v1{path}"), body).await
}

async fn revision(lab: &Lab) -> u64 {
    own(lab, Method::GET, "/export", None).await.1["revision"].as_u64().unwrap()
}

async fn fabric_lab() -> Lab {
    let lab = Lab::start().await;
    let (status, body) = lab.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    lab
}

/// A mux that says what it has applied and no more: the change is live when it says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_goes_on_until_the_nodes_hold_the_change() {
    let lab = fabric_lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let goal = mux.wait(|g| !g.services.is_empty()).await.0;
    mux.status.send_modify(|s| s.applied = goal.revision);
    let vip = json!({"properties": {"ipAddress": "203.0.113.77", "publicIPAllocationMethod": "Static"}});
    let frontend = json!({"properties": {"publicIPAddress": reference("/publicIPAddresses/vip7")}});
    lab.call(Method::PUT, "/networking/v1/publicIPAddresses/vip7", Some(&vip)).await;
    let path = "/networking/v1/loadBalancers/web/frontendIPConfigurations/fe7";
    let (status, _, body) = lab.full(Method::PUT, path, Some(&frontend), &[]).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let rule = json!({"properties": {
        "frontendIPConfigurations": [reference("/loadBalancers/web/frontendIPConfigurations/fe7")],
        "backendAddressPool": reference("/loadBalancers/web/backendAddressPools/servers"),
        "protocol": "Tcp", "frontendPort": 81, "backendPort": 81}});
    let path = "/networking/v1/loadBalancers/web/loadBalancingRules/seven";
    let (status, headers, body) = lab.full(Method::PUT, path, Some(&rule), &[]).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let operation = headers["azure-asyncoperation"].to_str().unwrap().to_owned();
    let next = mux.wait(|g| g.services.len() > goal.services.len()).await.0;
    let (_, under_way) = lab.call(Method::GET, &operation, None).await;
    assert_eq!(under_way["status"], "InProgress", "{under_way}");
    assert_eq!(under_way["properties"]["waiting"], json!(["mux mux1"]));
    let result = operation.replace("operations", "operationResults");
    let (status, headers, _) = lab.full(Method::GET, &result, None, &[]).await;
    assert_eq!((status, headers["location"].to_str().unwrap()), (StatusCode::ACCEPTED, result.as_str()));
    assert_eq!(headers["retry-after"], "1");

    mux.status.send_modify(|s| s.goal_error = Some("no room for it".to_owned()));
    let refused = lab.operation(&operation).await;
    assert_eq!(refused["status"], "Failed");
    assert_eq!(refused["properties"]["refused"], json!(["mux mux1: no room for it"]));
    mux.status.send_modify(|s| (s.applied, s.goal_error) = (next.revision, None));
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while lab.operation(&operation).await["status"] != "Succeeded" {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let done = lab.operation(&operation).await;
    assert!(done["properties"]["detail"].as_str().unwrap().contains("is live on 1 of "), "{done}");
}

/// Server-sent events, as they come in.
struct Events {
    response: reqwest::Response,
    text: String,
}

#[derive(Debug, PartialEq)]
struct Event {
    name: String,
    id: Option<u64>,
    data: Value,
}

impl Events {
    async fn open(lab: &Lab, path: &str, last: Option<u64>) -> Self {
        let url = format!("https://{}/networking/v1{path}", lab.config.listen);
        let mut request = lab.operator.get(url).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Self { response, text: String::new() }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
                let Some(name) = field("event: ") else { continue };
                let data = serde_json::from_str(&field("data: ").unwrap()).unwrap();
                return Event { name, id: field("id: ").map(|i| i.parse().unwrap()), data };
            }
            let chunk = tokio::time::timeout(Duration::from_secs(5), self.response.chunk()).await.unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&chunk.expect("the stream goes on")).unwrap());
        }
    }

    async fn until_synchronized(&mut self) -> (Vec<String>, u64) {
        let mut names = Vec::new();
        loop {
            let event = self.next().await;
            match event.name.as_str() {
                "added" => names.push(event.data["resourceRef"].as_str().unwrap().to_owned()),
                "synchronized" => return (names, event.id.unwrap()),
                other => panic!("{other}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_what_is_there_then_every_change_and_resumes_by_revision() {
    let lab = fabric_lab().await;
    let mut all = Events::open(&lab, "/publicIPAddresses", None).await;
    let mut child = Events::open(&lab, "/loadBalancers/web/probes", None).await;
    let (names, start) = all.until_synchronized().await;
    assert_eq!(names, ["/publicIPAddresses/vip4", "/publicIPAddresses/vip6"]);
    assert_eq!(child.until_synchronized().await.0, ["/loadBalancers/web/probes/health"]);

    lab.put("/publicIPAddresses/new", json!({"ipAddress": "203.0.113.77"})).await;
    lab.put("/publicIPAddresses/new", json!({"ipAddress": "203.0.113.78"})).await;
    lab.call(Method::DELETE, "/networking/v1/publicIPAddresses/new", None).await;
    lab.put("/loadBalancers/web/probes/health", json!({"protocol": "Tcp", "port": 81})).await;
    lab.put("/loadBalancers/web/probes/second", json!({"protocol": "Tcp", "port": 82})).await;

    let told = [all.next().await, all.next().await, all.next().await];
    let names: Vec<&str> = told.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["added", "modified", "deleted"]);
    assert_eq!(told[1].data["properties"]["ipAddress"], "203.0.113.78");
    assert_eq!(told[2].data, reference("/publicIPAddresses/new"));
    assert_eq!(told.each_ref().map(|e| e.id), [Some(start + 1), Some(start + 2), Some(start + 3)]);
    let event = child.next().await;
    assert_eq!((event.name.as_str(), &event.data["properties"]["port"]), ("modified", &json!(81)));
    assert_eq!(child.next().await.data["resourceId"], "second");

    let mut resumed = Events::open(&lab, "/publicIPAddresses", Some(start + 1)).await;
    assert_eq!(resumed.next().await, told[1]);
    assert_eq!(resumed.next().await, told[2]);
    lab.put("/publicIPAddresses/later", json!({"ipAddress": "203.0.113.79"})).await;
    assert_eq!(resumed.next().await.data["resourceId"], "later");

    let url = "/networking/v1/publicIPAddresses?watch=true&since=999999";
    assert_eq!(lab.call(Method::GET, url, None).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_several_events_is_resumed_whole() {
    let lab = Lab::start().await;
    let mut events = Events::open(&lab, "/securityTags", None).await;
    let start = events.until_synchronized().await.1;
    let tags: Vec<Value> =
        (0..3).map(|n| json!({"kind": "securityTags", "resourceId": format!("t{n}"), "properties": {}})).collect();
    lab.batch(json!(tags)).await;
    let told = [events.next().await, events.next().await, events.next().await];
    assert_eq!(told.map(|e| e.id), [None, None, Some(start + 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_says_who_changed_what_and_a_rollback_restores_it() {
    let mut lab = fabric_lab().await;
    let before = lab.get("/loadBalancers/web").await;
    let secret = lab.get("/virtualGateways/blue").await;
    let first = revision(&lab).await;
    let (status, _) = lab
        .call(
            Method::PUT,
            "/networking/v1/loadBalancers/web/probes/health?comment=the%20new+port",
            Some(&json!({"properties": {"protocol": "Tcp", "port": 81}})),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let delete = json!([
        {"resourceRef": "/virtualGateways/blue", "method": "DELETE"},
        {"kind": "securityTags", "resourceId": "t", "properties": {"type": "x"}}]);
    assert_eq!(lab.batch(delete).await.0, StatusCode::OK);
    lab.restart().await;

    let (_, history) = own(&lab, Method::GET, "/history?$top=2", None).await;
    let latest = &history["value"][0];
    assert_eq!((&latest["revision"], &latest["author"]), (&json!(first + 2), &json!("alice")));
    assert_eq!(
        latest["resources"],
        json!([{"resourceRef": "/securityTags/t", "change": "created"},
               {"resourceRef": "/VirtualGateways/blue", "change": "deleted"}])
    );
    assert_eq!(history["value"][1]["comment"], "the new port");
    let next = history["nextLink"].as_str().unwrap();
    let (_, rest) = lab.call(Method::GET, next, None).await;
    assert_eq!(rest["value"][0]["revision"], first);
    let (_, change) = own(&lab, Method::GET, &format!("/history/{}", first + 1), None).await;
    assert_eq!(change["changes"][0]["resourceRef"], "/loadBalancers/web/probes/health");
    let fields = change["changes"][0]["fields"].as_array().unwrap();
    assert!(fields.contains(&json!({"path": "/properties/port", "was": 80, "is": 81})), "{fields:#?}");

    let body = json!({"revision": first});
    let (status, plan) = own(&lab, Method::POST, "/rollback?whatIf=true", Some(&body)).await;
    assert_eq!((status, &plan["whatIf"]), (StatusCode::OK, &json!(true)));
    assert_eq!(revision(&lab).await, first + 2);
    let (status, done) = own(&lab, Method::POST, "/rollback", Some(&body)).await;
    assert_eq!((status, &done["revision"]), (StatusCode::OK, &json!(first + 3)), "{done:#}");
    assert_eq!(done["changes"], plan["changes"]);
    let after = lab.get("/loadBalancers/web").await;
    assert_ne!(after["etag"], before["etag"], "it was changed twice");
    assert_eq!(after["properties"]["probes"][0]["properties"], before["properties"]["probes"][0]["properties"]);
    let gateway = lab.get("/virtualGateways/blue").await;
    let key = |g: &Value| {
        g["properties"]["networkConnections"][0]["properties"]["wireGuardConfiguration"]["publicKey"].clone()
    };
    assert_eq!(key(&gateway), key(&secret), "with its private key");
    assert_eq!(lab.call(Method::GET, "/networking/v1/securityTags/t", None).await.0, StatusCode::NOT_FOUND);
    let (status, _) = own(&lab, Method::POST, "/rollback", Some(&json!({"revision": 999}))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_if_says_the_difference_and_the_impact_and_changes_nothing() {
    let lab = fabric_lab().await;
    let before = revision(&lab).await;
    let rules = lab.get("/loadBalancers/web").await;
    let mut body = rules.clone();
    body["properties"]["loadBalancingRules"].as_array_mut().unwrap().retain(|r| r["resourceId"] != "http6");
    let (status, plan) = lab.call(Method::PUT, "/networking/v1/loadBalancers/web?whatIf=true", Some(&body)).await;
    assert_eq!(status, StatusCode::OK, "{plan:#}");
    let changed: Vec<&Value> = plan["changes"].as_array().unwrap().iter().map(|c| &c["resourceRef"]).collect();
    assert_eq!(changed, ["/loadBalancers/web/loadBalancingRules/http6"]);
    assert_eq!(plan["impact"]["virtualAddressesWithdrawn"], json!(["2001:db8:113::10"]));
    assert_eq!(plan["impact"]["servicesRemoved"][0]["port"], 80);

    let plan = json!({"resources": [{"resourceRef": "/virtualGateways/red", "method": "DELETE"}]});
    let (_, plan) = lab.call(Method::POST, &format!("{BATCH}?whatIf=true"), Some(&plan)).await;
    assert_eq!(
        plan["impact"]["sessionsInterrupted"],
        json!([{"networkConnection": "/VirtualGateways/red/networkConnections/red-site", "gateway": "/gateways/gw1"}])
    );
    let (status, plan) = lab.call(Method::DELETE, "/networking/v1/networkInterfaces/blue1?whatIf=true", None).await;
    assert_eq!(status, StatusCode::OK);
    let gone = plan["impact"]["backendsRemoved"].as_array().unwrap();
    assert_eq!(gone.len(), 2, "{gone:#?}");
    assert_eq!(revision(&lab).await, before);
    assert_eq!(lab.get("/loadBalancers/web").await, rules);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_confirmed_is_undone_by_itself() {
    let mut lab = fabric_lab().await;
    let url = "/networking/v1/loadBalancers/web/probes/health?confirmWithin=3";
    let body = |port: u16| json!({"properties": {"protocol": "Tcp", "port": port}});
    let port = async |lab: &Lab| lab.get("/loadBalancers/web/probes/health").await["properties"]["port"].clone();
    assert_eq!(lab.call(Method::PUT, url, Some(&body(81))).await.0, StatusCode::OK);
    let (_, pending) = own(&lab, Method::GET, "/confirm", None).await;
    assert_eq!((&pending["pending"], &pending["author"]), (&json!(true), &json!("alice")));
    let (status, refused) =
        lab.call(Method::PUT, "/networking/v1/securityTags/t", Some(&json!({"properties": {}}))).await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("AnotherOperationInProgress")));
    assert_eq!(port(&lab).await, 81);
    // Confirmed, it stays.
    assert_eq!(own(&lab, Method::POST, "/confirm", None).await.0, StatusCode::OK);
    assert_eq!(own(&lab, Method::POST, "/confirm", None).await.0, StatusCode::NOT_FOUND);
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_eq!(port(&lab).await, 81);

    // Locked out: nobody can say anything any more, the controller itself is restarted meanwhile.
    assert_eq!(lab.call(Method::PUT, url, Some(&body(82))).await.0, StatusCode::OK);
    lab.restart().await;
    assert_eq!(port(&lab).await, 82);
    tokio::time::sleep(Duration::from_millis(4000)).await;
    assert_eq!(port(&lab).await, 81);
    let (_, history) = own(&lab, Method::GET, "/history?$top=1", None).await;
    assert_eq!(history["value"][0]["author"], "penstock");
    assert!(history["value"][0]["comment"].as_str().unwrap().contains("not confirmed"), "{history:#}");
    assert_eq!(lab.call(Method::PUT, "/networking/v1/securityTags/t", Some(&json!({"properties": {}}))).await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_is_one_and_its_collection_is_read_in_pages() {
    let lab = Lab::start().await;
    let tags: Vec<Value> = (0..2500)
        .map(|n| json!({"kind": "securityTags", "resourceId": format!("t{n:04}"), "properties": {"type": "x"}}))
        .collect();
    let (status, body) = lab.batch(json!(tags)).await;
    assert_eq!(status, StatusCode::OK, "{}", body["error"]);
    assert_eq!(revision(&lab).await, 1);
    let (mut seen, mut pages, mut url) = (Vec::new(), 0, "/networking/v5/securityTags".to_owned());
    while !url.is_empty() {
        let (status, page) = lab.call(Method::GET, &url, None).await;
        assert_eq!(status, StatusCode::OK);
        seen.extend(page["value"].as_array().unwrap().iter().map(|t| t["resourceId"].as_str().unwrap().to_owned()));
        url = page["nextLink"].as_str().unwrap().to_owned();
        pages += 1;
    }
    assert_eq!((seen.len(), pages), (2500, 3));
    assert!(seen.is_sorted());
    let (_, page) = lab.call(Method::GET, "/networking/v5/securityTags?$top=7", None).await;
    assert_eq!(page["value"].as_array().unwrap().len(), 7);
    let (status, _) = lab.call(Method::GET, "/networking/v5/securityTags?$top=many", None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_a_batch_that_changes_nothing_here_and_builds_the_same_elsewhere() {
    let lab = fabric_lab().await;
    let (_, export) = own(&lab, Method::GET, "/export", None).await;
    let text = export.to_string();
    for hidden in ["etag", "instanceId", "$sealed", "$allocated", "presharedKey", "provisioningState", "\"publicKey"] {
        assert!(!text.contains(hidden), "{hidden}");
    }
    let (status, body) = lab.call(Method::POST, BATCH, Some(&export)).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    assert!(body["outcomes"].as_array().unwrap().iter().all(|o| o == "unchanged"), "{}", body["outcomes"]);
    let other = Lab::start().await;
    let (status, body) = other.call(Method::POST, BATCH, Some(&export)).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    let (_, mut again) = own(&other, Method::GET, "/export", None).await;
    again["revision"] = export["revision"].clone();
    assert_eq!(again, export);
}
