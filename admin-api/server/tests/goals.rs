//! From PUT to the goals of nodes, over the real southbound link.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::{Lab, Node, fabric, reference, targets};
use penstock_gateway_proto::{GatewayGoal, TunnelKind};
use penstock_model::{Overlay, Protocol};
use penstock_mux_proto::MuxGoal;
use penstock_policy::NextHop;
use penstock_slb_host::{HostGoal, HostStatus, ProbeStatus};
use penstock_southbound::{Gateway, Host, Mux};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

async fn lab() -> Lab {
    let lab = Lab::start().await;
    let (status, body) = lab.batch(fabric()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    lab
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_gets_its_part_of_the_fabric() {
    let lab = lab().await;
    let mut mux1 = Node::<Mux>::start(&lab, "mux1");
    let mut mux2 = Node::<Mux>::start(&lab, "mux2");
    let mut host = Node::<Host>::start(&lab, "host1");
    let mut gateway = Node::<Gateway>::start(&lab, "gw1");

    let (goal, _) = mux1.wait(|g: &MuxGoal| !g.services.is_empty()).await;
    let vips: BTreeSet<String> = goal.services.iter().map(|s| format!("{} {} {}", s.vip, s.protocol, s.port)).collect();
    let expected = ["2001:db8:113::10 tcp 80", "203.0.113.10 tcp 80", "203.0.113.10 udp 7"];
    assert_eq!(vips, expected.map(str::to_owned).into());
    assert_ne!(goal.hash_seed, [0, 0]);
    assert_eq!(goal.backends.len(), 6, "three containers, each in both families");
    for service in &goal.services {
        let pool = goal.pools.iter().find(|p| p.id == service.pool).unwrap();
        assert_eq!(pool.table.members.len(), 3);
        for member in &pool.table.members {
            let backend = goal.backends.iter().find(|b| b.id == *member).unwrap();
            assert_eq!(backend.dip.addr.0.is_ipv4(), service.vip.is_ipv4());
            assert_eq!(backend.dip.vni.get(), 4096);
        }
    }
    let (other, _) = mux2.wait(|g: &MuxGoal| !g.services.is_empty()).await;
    assert_eq!(
        (&other.pools, &other.backends, other.hash_seed),
        (&goal.pools, &goal.backends, goal.hash_seed),
        "byte-identical tables"
    );

    let (goal, _) = host.wait(|g: &HostGoal| !g.nat_rules.is_empty()).await;
    let ports: Vec<&str> = goal.ports.iter().map(|p| p.network_interface.as_str()).collect();
    assert_eq!(ports, ["blue1", "blue2", "red1", "red2"]);
    assert_eq!(goal.networks.len(), 2);
    assert_ne!(goal.networks[0].vni, goal.networks[1].vni);
    assert_ne!(goal.networks[0].tenant, goal.networks[1].tenant);
    assert_eq!(goal.nat_rules.len(), 6, "two containers, three services, each in its own family");
    assert_eq!(goal.probes.len(), 4);
    assert_eq!(goal.vteps.len(), 5);
    assert!(matches!(goal.networks[0].routes[0].next_hop, NextHop::Vtep { .. }));
    assert_eq!(goal.acls.len(), 1);
    assert!(goal.ports.iter().all(|p| p.acl.is_some()));

    let (goal, _) = gateway.wait(|g: &GatewayGoal| g.tunnels.len() == 2).await;
    assert_eq!(goal.networks.len(), 2);
    for network in &goal.networks {
        let NextHop::Tunnel(id) = network.routes[0].next_hop else { panic!("{network:?}") };
        let tunnel = goal.tunnels.iter().find(|t| t.id == id).unwrap();
        assert_eq!(tunnel.tenant, network.tenant, "a tenant's route leads into its own tunnel");
        let TunnelKind::WireGuard { private_key, preshared_key, .. } = &tunnel.kind else { panic!() };
        assert!(preshared_key.is_some());
        let cap = Some(100_000_000);
        assert_eq!((tunnel.caps.received, tunnel.caps.transmitted), (cap, cap));
        let connection = lab.get(&format!("/{}", tunnel.name)).await;
        let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(private_key.0));
        use base64::Engine as _;
        let shown = base64::engine::general_purpose::STANDARD.encode(public.as_bytes());
        assert_eq!(connection["properties"]["wireGuardConfiguration"]["publicKey"], shown);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_of_rules_are_the_addresses_that_they_stand_for_in_the_network_of_the_interface() {
    let lab = lab().await;
    let mut host = Node::<Host>::start(&lab, "host1");
    lab.put("/securityTags/web", json!({})).await;
    lab.put("/securityTags/nobody", json!({})).await;
    let rule = |id: &str, priority: &str, side: Value| {
        let mut properties = json!({"protocol": "TCP", "action": "Allow", "type": "Inbound", "priority": priority});
        properties.as_object_mut().unwrap().extend(side.as_object().unwrap().clone());
        json!({"resourceId": id, "properties": properties})
    };
    let rules = json!([
        rule("sites", "100", json!({"sourceAddressPrefix": "VirtualNetwork"})),
        rule("world", "101", json!({"sourceAddressPrefix": "internet, 10.0.0.0/8"})),
        rule("probes", "102", json!({"sourceAddressPrefix": "AzureLoadBalancer"})),
        rule("web", "103", json!({"sourceSecurityTags": [reference("/securityTags/web")]})),
        rule("nobody", "104", json!({"destinationSecurityTags": [reference("/securityTags/nobody")]})),
    ]);
    lab.put("/accessControlLists/tagged", json!({"aclRules": rules})).await;
    let mut nic = lab.get("/networkInterfaces/red1").await["properties"].clone();
    nic["ipConfigurations"][0]["properties"]["accessControlList"] = reference("/accessControlLists/tagged");
    for c in nic["ipConfigurations"].as_array_mut().unwrap() {
        c["properties"]["accessControlList"] = reference("/accessControlLists/tagged");
        c["properties"]["securityTags"] = json!([reference("/securityTags/web")]);
    }
    lab.put("/networkInterfaces/red1", nic).await;

    let (goal, _) = host.wait(|g: &HostGoal| g.acls.iter().any(|a| a.name == "tagged")).await;
    let network = goal.networks.iter().find(|n| n.name == "red").unwrap();
    let port = goal.ports.iter().find(|p| p.network_interface == "red1").unwrap();
    let list = &goal.acls[port.acl.unwrap().0 as usize];
    let src = |name: &str| &list.rules.iter().find(|r| r.name == name).unwrap().src;
    let within = |name: &str, addr: &str| src(name).iter().any(|p| p.contains(addr.parse().unwrap()));
    let own = port.addresses[0].ip().to_string();
    let site = network.routes[0].prefix.network().to_string();
    assert!(within("sites", &own) && within("sites", &site) && !within("sites", "203.0.113.1"));
    assert!(within("world", "203.0.113.1") && within("world", "2001:db8:1::1") && within("world", "10.255.0.1"));
    assert!(within("probes", &penstock_slb_host::PROBE_V4.to_string()));
    let addresses: BTreeSet<_> = port.addresses.iter().map(|a| a.ip()).collect();
    assert_eq!(src("web").iter().map(|p| p.ip()).collect::<BTreeSet<_>>(), addresses);
    let nobody = list.rules.iter().find(|r| r.name == "nobody").unwrap();
    assert_eq!(nobody.dst, ["0.0.0.0/32".parse().unwrap()], "a tag that nobody has is no rule for everybody");

    let both = json!({"sourceAddressPrefix": "*", "sourceSecurityTags": [reference("/securityTags/web")]});
    let body = json!({"properties": {"aclRules": [rule("both", "100", both)]}});
    let (status, body) = lab.call(Method::PUT, "/networking/v1/accessControlLists/both", Some(&body)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_of_a_subnet_reach_hosts_and_gateways_and_an_appliance_needs_an_address_and_leave() {
    use penstock_policy::UserHop;
    let lab = lab().await;
    let (mut host, mut gateway) = (Node::<Host>::start(&lab, "host1"), Node::<Gateway>::start(&lab, "gw1"));
    let nic = lab.get("/networkInterfaces/red2").await["properties"].clone();
    let appliance = nic["ipConfigurations"][0]["properties"]["privateIPAddress"].as_str().unwrap().to_owned();
    let route = |id: &str, properties: Value| json!({"resourceId": id, "properties": properties});
    let chain =
        json!({"addressPrefix": "192.0.2.0/24", "nextHopType": "VirtualAppliance", "nextHopIpAddress": appliance});
    let routes = [
        route("chain", chain.clone()),
        route("nothing", json!({"addressPrefix": "198.51.100.0/24", "nextHopType": "None"})),
        route("out", json!({"addressPrefix": "0.0.0.0/0", "nextHopType": "Internet"})),
    ];
    lab.put("/routeTables/t", json!({"routes": routes})).await;
    let mut network = lab.get("/virtualNetworks/red").await["properties"].clone();
    for subnet in network["subnets"].as_array_mut().unwrap() {
        subnet["properties"]["routeTable"] = reference("/routeTables/t");
    }
    lab.put("/virtualNetworks/red", network).await;
    let subnet = lab.get("/virtualNetworks/red").await;
    assert!(subnet.to_string().contains("'red2' has no ipForwarding"), "{subnet:#}");

    let mut nic = nic;
    nic["ipForwarding"] = json!(true);
    lab.put("/networkInterfaces/red2", nic).await;
    let (goal, _) = host.wait(|g: &HostGoal| g.ports.iter().any(|p| p.forwards)).await;
    assert_eq!(goal.ports.iter().filter(|p| p.forwards).map(|p| &*p.network_interface).collect::<Vec<_>>(), ["red2"]);
    let has_table = |n: &&penstock_policy::VirtualNetwork| !n.tables.is_empty();
    let [red] = goal.networks.iter().filter(has_table).collect::<Vec<_>>()[..] else { panic!("{:?}", goal.networks) };
    let (table, appliance) = (&red.tables[0], Overlay(appliance.parse().unwrap()));
    assert_eq!((red.name.as_str(), table.subnets.len(), table.from_sites), ("red", red.subnets.len(), true));
    let hops: Vec<_> = table.routes.iter().map(|r| (r.name.as_str(), r.next_hop.clone())).collect();
    let expected =
        [("out", UserHop::Internet), ("chain", UserHop::Appliances(vec![appliance])), ("nothing", UserHop::Discard)];
    assert_eq!(hops, expected);
    let (of_gateway, _) = gateway.wait(|g: &GatewayGoal| g.networks.iter().any(|n| has_table(&n))).await;
    assert_eq!(of_gateway.networks.iter().find(has_table).unwrap().tables, red.tables);

    let refuse = async |properties: Value, pointer: &str| {
        let body = json!({"properties": {"routes": [route("chain", chain.clone()), route("bad", properties)]}});
        let (status, body) = lab.call(Method::PUT, "/networking/v1/routeTables/t", Some(&body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body:#}");
        assert!(body.to_string().contains(pointer), "{body:#}");
    };
    refuse(json!({"addressPrefix": "192.0.2.0/24", "nextHopType": "None"}), "addressPrefix").await;
    refuse(json!({"addressPrefix": "10.9.0.0/16", "nextHopType": "VirtualAppliance"}), "nextHopIpAddress").await;
    let two =
        json!({"addressPrefix": "2001:db8::/32", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.0.1"});
    refuse(two, "two families").await;
    let needless = json!({"addressPrefix": "10.9.0.0/16", "nextHopType": "None", "nextHopIpAddress": "10.0.0.1"});
    refuse(needless, "nextHopIpAddress").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gre_connections_reach_their_gateway_and_those_that_cannot_be_told_apart_are_refused() {
    let lab = lab().await;
    let mut gateway = Node::<Gateway>::start(&lab, "gw1");
    let gre = |key: Value, prefix: &str, peer: &str| {
        json!({
            "connectionType": "GRE", "destinationIPAddress": peer,
            "greConfiguration": {"greKey": key, "checksum": true},
            "routes": [{"destinationPrefix": prefix, "nextHop": "0.0.0.0", "metric": 10}]
        })
    };
    let path = |n: &str| format!("/virtualGateways/blue/networkConnections/{n}");
    lab.put(&path("dc"), gre(json!("1234"), "172.16.0.0/12", "11.1.0.2")).await;
    let (goal, _) = gateway.wait(|g: &GatewayGoal| g.tunnels.len() == 3).await;
    let tunnel = goal.tunnels.iter().find(|t| t.name.ends_with("/dc")).unwrap();
    let peer = penstock_model::Underlay("11.1.0.2".parse().unwrap());
    assert_eq!(tunnel.kind, TunnelKind::Gre { peer, key: Some(1234), checksum: true });
    let route = |n: &penstock_policy::VirtualNetwork| n.routes.iter().any(|r| r.next_hop == NextHop::Tunnel(tunnel.id));
    assert!(goal.networks.iter().all(|n| route(n) == (n.tenant == tunnel.tenant)));

    let mut refused = Vec::new();
    for (key, peer) in [(json!("1234"), "11.1.0.2"), (json!("1"), "2001:db8::9"), (json!("4294967296"), "11.1.0.2")] {
        // Another tenant's: what a peer's packets carry is all that they are known by.
        let path = "/networking/v1/virtualGateways/red/networkConnections/dc";
        let body = json!({"properties": gre(key, "172.16.0.0/12", peer)});
        let (status, body) = lab.call(Method::PUT, path, Some(&body)).await;
        refused.push((status, body["error"]["code"].as_str().unwrap_or_default().to_owned()));
    }
    assert!(refused.iter().all(|(s, c)| *s == StatusCode::BAD_REQUEST && !c.is_empty()), "{refused:?}");
    let mut without = gre(json!("5"), "172.16.0.0/12", "11.1.0.2");
    without.as_object_mut().unwrap().remove("destinationIPAddress");
    let body = json!({"properties": without});
    let (status, body) =
        lab.call(Method::PUT, "/networking/v1/virtualGateways/red/networkConnections/dc", Some(&body)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_that_is_put_is_at_the_mux_within_a_second() {
    let lab = lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    mux.wait(|g: &MuxGoal| g.services.len() == 3).await;
    let start = Instant::now();
    lab.put(
        "/loadBalancers/web/loadBalancingRules/tls",
        json!({
            "frontendIPConfigurations": [reference("/loadBalancers/web/frontendIPConfigurations/fe4")],
            "backendAddressPool": reference("/loadBalancers/web/backendAddressPools/servers"),
            "protocol": "Tcp", "frontendPort": 443, "backendPort": 8443
        }),
    )
    .await;
    mux.wait(|g: &MuxGoal| g.services.iter().any(|s| s.port == 443 && s.protocol == Protocol::TCP)).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_probe_takes_the_backend_out_and_moves_nothing_else() {
    let lab = lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let mut host = Node::<Host>::start(&lab, "host1");
    let (before, _) = mux.wait(|g: &MuxGoal| g.services.len() == 3).await;
    host.wait(|g: &HostGoal| !g.probes.is_empty()).await;
    let report = |healthy| HostStatus {
        probes: vec![ProbeStatus {
            name: "loadBalancers/web/probes/health".into(),
            network_interface: "blue1".into(),
            dip: Overlay("10.0.0.4".parse().unwrap()),
            healthy,
            detail: "connection refused".into(),
            changes: 1,
        }],
        ..HostStatus::default()
    };
    host.status.send_replace(report(false));
    let web = |g: &MuxGoal| {
        let service = g.services.iter().find(|s| s.port == 80 && s.vip.is_ipv4()).unwrap();
        g.pools.iter().find(|p| p.id == service.pool).unwrap().clone()
    };
    let (after, _) = mux.wait(|g: &MuxGoal| web(g).table.members.len() == 2).await;
    let owner = |p: &penstock_mux_proto::Pool, slot: usize| p.table.members[usize::from(p.table.slots[slot])];
    let (old, new) = (web(&before), web(&after));
    let gone = *old.table.members.iter().find(|m| !new.table.members.contains(m)).unwrap();
    for slot in 0..old.table.slots.len() {
        assert!(owner(&old, slot) == gone || owner(&old, slot) == owner(&new, slot), "slot {slot} moved");
    }
    assert!(new.version > old.version && after.revision > before.revision);
    let status = lab.call(Method::GET, "/penstock/v1/status", None).await.1;
    let service =
        status["services"].as_array().unwrap().iter().find(|s| s["port"] == 80 && s["vip"] == "203.0.113.10").unwrap();
    let backend = service["backends"].as_array().unwrap().iter().find(|b| b["networkInterface"] == "blue1").unwrap();
    assert_eq!(
        (&backend["healthy"], &backend["detail"], &backend["slots"]),
        (&json!(false), &json!("connection refused"), &json!(0))
    );
    let frontend = lab.get("/loadBalancers/web/frontendIPConfigurations/fe4").await;
    let endpoints = frontend["properties"]["configurationState"]["vipEndpointStates"].as_array().unwrap();
    let http = endpoints.iter().find(|e| e["vipEndpoint"] == "203.0.113.10:80").unwrap();
    let states: Vec<_> =
        http["dipEndpointStates"].as_array().unwrap().iter().map(|d| (&d["dipEndpoint"], &d["state"])).collect();
    assert_eq!(states[0], (&json!("10.0.0.4:80"), &json!("Down")));
    assert_eq!(states.len(), 3);
    host.status.send_replace(report(true));
    mux.wait(|g: &MuxGoal| web(g).table.members.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_of_a_host_whose_link_is_gone_are_taken_out_while_another_is_there() {
    let mut lab = lab().await;
    lab.config.host_hold_off = 1;
    lab.restart().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let host1 = Node::<Host>::start(&lab, "host1");
    let host2 = Node::<Host>::start(&lab, "host2");
    let members = |g: &MuxGoal, port: u16| {
        let service = g.services.iter().find(|s| s.port == port && s.vip.is_ipv4()).unwrap();
        g.pools.iter().find(|p| p.id == service.pool).unwrap().table.members.len()
    };
    mux.wait(|g: &MuxGoal| g.services.len() == 3 && members(g, 80) == 3).await;
    let gone = Instant::now();
    drop(host1);
    mux.wait(|g: &MuxGoal| members(g, 80) == 1).await;
    assert!(gone.elapsed() >= Duration::from_secs(1), "{:?}", gone.elapsed());
    let status = lab.call(Method::GET, "/penstock/v1/status", None).await.1;
    let text = status.to_string();
    assert!(text.contains(" s; its probed backends count as failed"), "{status:#}");
    let service = status["services"].as_array().unwrap().iter().find(|s| s["port"] == 80).unwrap();
    let backend = service["backends"].as_array().unwrap().iter().find(|b| b["networkInterface"] == "blue1").unwrap();
    let detail = backend["detail"].as_str().unwrap();
    assert!(backend["healthy"] == false && detail.starts_with("host1 is not connected since "), "{backend:#}");

    // The last one is not taken for dead: then it is the controller that is cut off.
    drop(host2);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    mux.wait(|g: &MuxGoal| members(g, 80) == 1).await;

    // Back, but out until its probes have said something.
    let mut host1 = Node::<Host>::start(&lab, "host1");
    let (goal, _) = host1.wait(|g: &HostGoal| !g.probes.is_empty()).await;
    let healthy = |p: &penstock_slb_host::Probe| ProbeStatus {
        name: p.name.clone(),
        network_interface: p.network_interface.clone(),
        dip: p.dip,
        healthy: true,
        detail: "200 OK".into(),
        changes: 1,
    };
    host1
        .status
        .send_replace(HostStatus { probes: goal.probes.iter().map(healthy).collect(), ..HostStatus::default() });
    // And now it is the other that is gone.
    let back = |g: &MuxGoal| {
        let service = g.services.iter().find(|s| s.port == 80 && s.vip.is_ipv4()).unwrap();
        let pool = g.pools.iter().find(|p| p.id == service.pool).unwrap();
        let members = g.backends.iter().filter(|b| pool.table.members.contains(&b.id));
        members.map(|b| b.name.as_str()).collect::<BTreeSet<_>>() == ["blue1", "blue2"].into()
    };
    mux.wait(back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_one_tenant_leaves_the_others_epoch_and_a_restart_leaves_all() {
    let mut lab = lab().await;
    let epochs = |g: &HostGoal| g.networks.iter().map(|n| (n.name.clone(), n.epoch)).collect::<Vec<_>>();
    let mut host = Node::<Host>::start(&lab, "host1");
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let (before, _) = host.wait(|g: &HostGoal| g.networks.len() == 2).await;
    let (tables, _) = mux.wait(|g: &MuxGoal| g.services.len() == 3).await;
    let red3 = lab.get("/networkInterfaces/red3").await;
    let mut moved = red3.clone();
    moved["properties"]["server"] = reference("/servers/host1");
    lab.call(Method::PUT, "/networking/v1/networkInterfaces/red3", Some(&moved)).await;
    let (after, _) = host.wait(|g: &HostGoal| g.ports.len() == 5).await;
    assert_eq!(epochs(&before)[0], epochs(&after)[0], "blue is untouched");
    assert_ne!(epochs(&before)[1], epochs(&after)[1]);
    lab.restart().await;
    let (again, _) = host.wait(|g: &HostGoal| g.revision > after.revision).await;
    assert_eq!(HostGoal { revision: after.revision, ..(*again).clone() }, *after);
    let (same, _) = mux.wait(|g: &MuxGoal| g.revision > tables.revision).await;
    assert_eq!((&same.pools, same.hash_seed), (&tables.pools, tables.hash_seed), "the same tables after a restart");
}

async fn trace(lab: &Lab, question: Value) -> Value {
    // A goal is compiled in another task: it is asked until it is there.
    for _ in 0..50 {
        let (status, answer) = lab.call(Method::POST, "/penstock/v1/trace", Some(&question)).await;
        assert_eq!(status, StatusCode::OK, "{answer:#}");
        if !answer["verdict"].as_str().unwrap().contains("no goal") {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no goal");
}

fn roles(answer: &Value) -> Vec<&str> {
    answer["hops"].as_array().unwrap().iter().map(|h| h["role"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_follows_the_packet_from_node_to_node() {
    let lab = lab().await;
    let vip = json!({"source": "198.51.100.7", "destination": "203.0.113.10", "protocol": "tcp", "sourcePort": 40000, "destinationPort": 80});
    let answer = trace(&lab, vip).await;
    assert_eq!(roles(&answer), ["mux", "host"], "{answer:#}");
    assert_eq!(answer["delivered"], true, "{answer:#}");
    assert!(answer["verdict"].as_str().unwrap().contains("behind blue"), "{answer:#}");

    let vip6 = json!({"source": "2001:db8:7::1", "destination": "2001:db8:113::10", "destinationPort": 80});
    assert_eq!(trace(&lab, vip6).await["delivered"], true);

    let closed = json!({"source": "198.51.100.7", "destination": "203.0.113.10", "destinationPort": 81});
    let answer = trace(&lab, closed).await;
    assert_eq!((&answer["delivered"], roles(&answer)), (&json!(false), vec!["mux"]), "{answer:#}");

    let site = json!({"source": "192.168.50.9", "destination": "10.0.0.6", "destinationPort": 80, "networkConnection": "red-site"});
    let answer = trace(&lab, site.clone()).await;
    assert_eq!(roles(&answer), ["gateway", "host"], "{answer:#}");
    assert!(answer["verdict"].as_str().unwrap().ends_with("behind red3"), "{answer:#}");

    let mut denied = site;
    denied["destinationPort"] = json!(22);
    let answer = trace(&lab, denied).await;
    assert_eq!((&answer["delivered"], roles(&answer)), (&json!(false), vec!["gateway"]), "{answer:#}");

    let out = json!({"source": "10.0.0.4", "destination": "192.168.50.9", "destinationPort": 443, "networkInterface": "blue1"});
    let answer = trace(&lab, out).await;
    assert_eq!(roles(&answer), ["host", "gateway"], "{answer:#}");
    assert!(answer["verdict"].as_str().unwrap().contains("blue-site"), "{answer:#}");

    let across =
        json!({"source": "10.0.0.4", "destination": "10.0.0.6", "destinationPort": 80, "networkInterface": "blue1"});
    let answer = trace(&lab, across).await;
    assert_eq!(roles(&answer), ["host", "host"], "{answer:#}");
    assert!(answer["verdict"].as_str().unwrap().ends_with("behind blue3"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_labs_declaration_is_accepted_and_has_no_warnings() {
    let lab = Lab::start().await;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/lab/lab.json");
    // The sites' keys are made when the lab is set up.
    let key = "qRCwZSKInrMAq5sepfCdaCsRJaoLe5jhtzfiw7CjbwM=";
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replace("@BRANCH_A_PUBLIC_KEY@", key).replace("@BRANCH_B_PUBLIC_KEY@", key);
    let declared: Value = serde_json::from_str(&text).unwrap();
    let (status, body) = lab.batch(declared["resources"].clone()).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    for resource in body["value"].as_array().unwrap() {
        let warned = resource["properties"]["configurationState"]["status"] == "Warning";
        assert!(!warned, "{}: {:#}", resource["resourceRef"], resource["properties"]["configurationState"]);
    }
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    mux.wait(|g: &MuxGoal| !g.services.is_empty() && g.pools.iter().all(|p| !p.table.members.is_empty())).await;
}

fn from_frontend(more: Value) -> Value {
    let mut rule = json!({"frontendIPConfigurations": [reference("/loadBalancers/web/frontendIPConfigurations/fe4")]});
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rule
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outbound_rules_lease_ports_and_more_of_them_to_who_runs_short() {
    let lab = lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let mut host = Node::<Host>::start(&lab, "host1");
    let pool = reference("/loadBalancers/web/backendAddressPools/servers");
    let rule = from_frontend(json!({"backendAddressPool": pool, "protocol": "All"}));
    lab.put("/loadBalancers/web/outboundNatRules/out", rule.clone()).await;
    let (goal, _) = mux.wait(|g: &MuxGoal| !g.snat.is_empty()).await;
    let owners: BTreeSet<_> = goal.snat.iter().map(|b| b.backend).collect();
    assert_eq!((goal.snat.len(), owners.len()), (3 * 16, 3), "each of the IPv4 members has 1024 ports");
    let (goal, _) = host.wait(|g: &HostGoal| g.snat.len() == 2).await;
    let leases: Vec<_> =
        goal.snat.iter().map(|l| (l.network_interface.as_str(), l.dip.0.to_string(), l.count)).collect();
    assert_eq!(leases, [("blue1", "10.0.0.4".to_owned(), 1024), ("blue2", "10.0.0.5".to_owned(), 1024)]);

    let short = penstock_slb_host::SnatUse {
        network_interface: "blue2".to_owned(),
        dip: goal.snat[1].dip,
        ports: 1024,
        claims: 2000,
        strained: 700,
        exhausted: 3,
    };
    host.status.send_replace(HostStatus { snat: vec![short], ..HostStatus::default() });
    let (goal, _) = host.wait(|g: &HostGoal| g.snat.iter().map(|l| u32::from(l.count)).sum::<u32>() == 3072).await;
    assert!(goal.snat.iter().filter(|l| l.network_interface == "blue2").map(|l| l.count).sum::<u16>() == 2048);
    mux.wait(|g: &MuxGoal| g.snat.len() == 4 * 16).await;

    let path = "/networking/v1/loadBalancers/web/outboundNatRules/twice";
    let (status, body) = lab.call(Method::PUT, path, Some(&json!({"properties": rule}))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert!(body.to_string().contains("is the outbound rule of"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbound_nat_rule_leads_to_the_one_address_that_names_it() {
    let lab = lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let mut host = Node::<Host>::start(&lab, "host1");
    let rule = from_frontend(json!({"protocol": "Tcp", "frontendPort": 2222, "backendPort": 22}));
    lab.put("/loadBalancers/web/inboundNatRules/ssh", rule).await;
    let naming = |address: &str| {
        json!({
            "privateIPAddress": address, "privateIPAllocationMethod": "Static",
            "subnet": reference("/virtualNetworks/red/subnets/v4"),
            "loadBalancerInboundNatRules": [reference("/loadBalancers/web/inboundNatRules/ssh")]
        })
    };
    lab.put("/networkInterfaces/red1/ipConfigurations/v4", naming("10.0.0.4")).await;
    let (goal, _) = mux.wait(|g: &MuxGoal| g.services.iter().any(|s| s.port == 2222 && g.backends.len() == 7)).await;
    let service = goal.services.iter().find(|s| s.port == 2222).unwrap();
    let pool = goal.pools.iter().find(|p| p.id == service.pool).unwrap();
    let target = goal.backends.iter().find(|b| b.id == pool.table.members[0]).unwrap();
    assert_eq!(
        (pool.table.members.len(), target.name.as_str(), target.dip.addr.0.to_string().as_str()),
        (1, "red1", "10.0.0.4")
    );
    let (goal, _) = host.wait(|g: &HostGoal| g.nat_rules.iter().any(|r| r.vip_port == 2222)).await;
    let rule = goal.nat_rules.iter().find(|r| r.vip_port == 2222).unwrap();
    assert_eq!((rule.network_interface.as_str(), rule.dip_port), ("red1", 22));

    let path = "/networking/v1/networkInterfaces/red2/ipConfigurations/v4";
    let (status, body) = lab.call(Method::PUT, path, Some(&json!({"properties": naming("10.0.0.5")}))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert!(body.to_string().contains("both name the rule"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mux_is_told_its_routers_and_their_key_is_shown_to_nobody() {
    let lab = lab().await;
    let mut mux = Node::<Mux>::start(&lab, "mux1");
    let url = "/networking/v1/loadBalancerMuxes/mux1";
    let with = |router: Value| json!({"properties": {"underlayAddress": "10.1.1.2", "routerConfiguration": router}});
    let router = json!({"localASN": 0, "localASN4": 4_200_000_000_u32, "tcpMd5Key": "hush-hush", "peerRouterConfigurations": [
        {"routerName": "tor", "routerIPAddress": "10.1.1.1", "peerASN": 65001, "id": "x", "maximumHops": 1, "bfd": {"detectMultiplier": 5}},
        {"routerIPAddress": "fd00::1", "localIPAddress": "fd00::2", "peerASN": 65001, "holdTimeInSeconds": 9}]});
    assert_eq!(lab.call(Method::PUT, url, Some(&with(router))).await.0, StatusCode::OK);
    let (goal, _) = mux.wait(|g: &MuxGoal| g.router.is_some()).await;
    let router = goal.router.clone().unwrap();
    let (one, two) = (&router.peers[0], &router.peers[1]);
    assert_eq!(
        (router.local_as, one.name.as_str(), one.remote_as, one.hops),
        (4_200_000_000, "tor 10.1.1.1", 65001, Some(1))
    );
    assert_eq!(
        (one.local_address, two.local_address),
        (Some("10.1.1.2".parse().unwrap()), Some("fd00::2".parse().unwrap()))
    );
    assert_eq!(one.bfd.map(|b| (b.interval_ms, b.multiplier)), Some((100, 5)));
    assert_eq!((two.bfd, two.hold_seconds), (None, 9));
    assert!(router.peers.iter().all(|p| p.import.is_none() && p.md5_key.as_ref().is_some_and(|k| k.0 == "hush-hush")));
    assert!(!lab.get(url).await.to_string().contains("hush") && !format!("{goal:?}").contains("hush"));

    let refused = async |router: Value| targets(&lab.call(Method::PUT, url, Some(&with(router))).await.1).remove(0).1;
    let at = |rest: &str| format!("/properties/routerConfiguration/{rest}");
    let peer = json!({"routerIPAddress": "10.1.1.1", "peerASN": 65001});
    assert!(refused(json!({"peerRouterConfigurations": [peer]})).await.ends_with(&at("localASN")));
    let twice = json!({"localASN": 1, "peerRouterConfigurations": [peer, peer]});
    assert!(refused(twice).await.ends_with(&at("peerRouterConfigurations/1/routerIPAddress")));
    let no_as = json!({"localASN": 1, "peerRouterConfigurations": [{"routerIPAddress": "10.1.1.1"}]});
    assert!(refused(no_as).await.ends_with(&at("peerRouterConfigurations/0/peerASN")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_takes_secrets_back_that_were_not_there() {
    let lab = lab().await;
    let (mut mux, mut gateway) = (Node::<Mux>::start(&lab, "mux1"), Node::<Gateway>::start(&lab, "gw1"));
    let with = |key: Value| {
        json!({"properties": {"underlayAddress": "10.1.1.2", "routerConfiguration": {"localASN": 1, "tcpMd5Key": key,
            "peerRouterConfigurations": [{"routerIPAddress": "10.1.1.1", "peerASN": 65001}]}}})
    };
    let url = "/networking/v1/loadBalancerMuxes/mux1";
    let signed = |g: &MuxGoal| g.router.as_ref().map(|r| r.peers.iter().all(|p| p.md5_key.is_some()));
    assert_eq!(lab.call(Method::PUT, url, Some(&with(Value::Null))).await.0, StatusCode::OK);
    mux.wait(|g: &MuxGoal| signed(g) == Some(false)).await;
    let waits = format!("{url}?confirmWithin=2");
    assert_eq!(lab.call(Method::PUT, &waits, Some(&with(json!("hush")))).await.0, StatusCode::OK);
    mux.wait(|g: &MuxGoal| signed(g) == Some(true)).await;
    // Nobody confirms: the router without a key is to be reached again.
    mux.wait(|g: &MuxGoal| signed(g) == Some(false)).await;

    let path = "/VirtualGateways/red/networkConnections/more";
    let key = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";
    let site = |preshared: Value| {
        json!({"connectionType": "WireGuard", "routes": [{"destinationPrefix": "172.16.0.0/12"}],
            "wireGuardConfiguration": {"peerPublicKey": key, "presharedKey": preshared}})
    };
    let shared = |g: &GatewayGoal| {
        let tunnel = g.tunnels.iter().find(|t| t.name.ends_with("/more"))?;
        Some(matches!(&tunnel.kind, TunnelKind::WireGuard { preshared_key: Some(_), .. }))
    };
    lab.put(path, site(Value::Null)).await;
    gateway.wait(|g: &GatewayGoal| shared(g) == Some(false)).await;
    let (_, history) = lab.call(Method::GET, "/penstock/v1/history?$top=1", None).await;
    lab.put(path, site(json!(key))).await;
    gateway.wait(|g: &GatewayGoal| shared(g) == Some(true)).await;
    let back = json!({"revision": history["value"][0]["revision"]});
    assert_eq!(lab.call(Method::POST, "/penstock/v1/rollback", Some(&back)).await.0, StatusCode::OK);
    gateway.wait(|g: &GatewayGoal| shared(g) == Some(false)).await;
}
