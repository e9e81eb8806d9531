//! The read-only parts of resources: what was allocated, and what became of them.
use crate::access::Caller;
use crate::hub::GoalHub;
use crate::state::State;
use crate::tenant;
use penstock_admin_types::intent::{Allocated, Service, Warning};
use penstock_admin_types::{ALLOCATED, Function, Render, ResourcePath, Type, value};
use penstock_clock::MonotonicClock;
use penstock_gateway_proto::TunnelState;
use penstock_routing_proto::{RouterStatus, SessionState};
use penstock_slb_host::ProbeStatus;
use penstock_southbound::{NodeReport, NodeRole};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Renders resources as one client sees them; made once for a request.
pub(crate) struct Observer<'a> {
    state: &'a State,
    hub: &'a GoalHub,
    caller: &'a Caller,
    probes: Vec<ProbeStatus>,
    /// By frontend.
    services: BTreeMap<&'a ResourcePath, Vec<&'a Service>>,
}

impl<'a> Observer<'a> {
    pub(crate) fn new(state: &'a State, hub: &'a GoalHub, caller: &'a Caller) -> Self {
        let mut services: BTreeMap<_, Vec<&Service>> = BTreeMap::new();
        for s in &state.intent.services {
            services.entry(&s.frontend).or_default().push(s);
        }
        let mut probes = hub.probes(MonotonicClock::now());
        probes.sort_by(|a, b| probe_key(a).cmp(&probe_key(b)));
        Self { state, hub, caller, probes, services }
    }

    pub(crate) fn render(&self, path: &ResourcePath, node: &Value) -> Value {
        let is_tenants = self.caller.role.is_tenants();
        let observed = |path: &ResourcePath, node: &Value| {
            let mut out = observed(self.state, self.hub, path, node);
            if is_tenants {
                // Which gateway a connection ends at is the site's.
                out.remove("gateway");
            }
            if let Some(services) = self.services.get(path) {
                out.insert("configurationState".to_owned(), self.frontend(path, services));
            }
            out
        };
        let shown = |path: &ResourcePath| self.caller.may_see(&self.state.documents, path);
        let mut rendered = Render { index: &self.state.index, shown: &shown, observed: &observed }.node(path, node);
        if is_tenants {
            tenant::hide(path, &mut rendered);
        }
        rendered
    }

    /// A frontend's VIP endpoints, and the state of the backends of each.
    fn frontend(&self, path: &ResourcePath, services: &[&Service]) -> Value {
        let mut endpoints = Vec::new();
        let mut dead = Vec::new();
        for service in services {
            let backends = self.backends(service);
            if !backends.iter().any(|b| b.get("state") != Some(&json!("Down"))) {
                dead.push(detail(
                    source(path),
                    "HostUnreachable",
                    &format!("'{}' has no healthy backend", service.path),
                ));
            }
            endpoints.push(json!({
                "vipEndpoint": SocketAddr::new(service.vip, service.port).to_string(),
                "dipEndpointStates": backends,
            }));
        }
        let status = if dead.is_empty() { "Success" } else { "Failure" };
        json!({"status": status, "detailedInfo": dead, "vipEndpointStates": endpoints})
    }

    fn backends(&self, service: &Service) -> Vec<Value> {
        let members =
            self.state.index.to(&service.pool).filter(|r| r.owner.kind_path() == "networkInterfaces/ipConfigurations");
        members.filter_map(|r| self.backend(service, &r.owner)).collect()
    }

    fn backend(&self, service: &Service, member: &ResourcePath) -> Option<Value> {
        let interface = self.state.intent.interfaces.get(&member.parent()?)?;
        let c = interface.ip_configurations.iter().find(|c| c.path == *member)?;
        if c.address.is_ipv4() != service.vip.is_ipv4() {
            return None;
        }
        let server = interface.server.as_ref().and_then(|s| self.state.intent.servers.get(s))?;
        let probe = service.probe.as_ref().map(|p| p.path.name());
        let key = (probe.unwrap_or_default(), interface.path.id(), c.address);
        let result = self.probes.binary_search_by(|p| probe_key(p).cmp(&key)).ok().and_then(|i| self.probes.get(i));
        let state = match result.map(|r| r.healthy) {
            Some(true) => "Up",
            Some(false) => "Down",
            None => "Unknown",
        };
        let mut out = json!({
            "dipEndpoint": SocketAddr::new(c.address, service.backend_port).to_string(),
            "AdapterId": interface.mac.to_string().replace(':', "").to_uppercase(),
            "ProbeRule": probe,
            "state": state,
            "detail": result.map(|r| &r.detail),
        });
        if let Some(map) = out.as_object_mut() {
            if !self.caller.role.is_tenants() {
                map.insert("hostIPAddress".to_owned(), json!(server.address));
                map.insert("hostId".to_owned(), json!(server.name));
            } else if let Some(rest) = result.and_then(|r| r.detail.strip_prefix(&server.name)) {
                // What is said of a host that is gone begins with its name.
                map.insert("detail".to_owned(), json!(format!("its host{rest}")));
            }
        }
        Some(out)
    }
}

fn probe_key(p: &ProbeStatus) -> (&str, &str, IpAddr) {
    (&p.name, &p.network_interface, p.dip.0)
}

fn observed(state: &State, hub: &GoalHub, path: &ResourcePath, node: &Value) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |name: &str, v: Value| drop(out.insert(name.to_owned(), v));
    let said = |name: &str| value::get(value::properties(node), name).is_some();
    let allocated = Allocated(node.get(ALLOCATED).unwrap_or(&Value::Null));
    let text = |name: &str| allocated.parsed::<String>(name);
    match path.kind_path() {
        "virtualNetworks" => {
            if let Some(network) = state.intent.networks.get(path) {
                put("encapsulationId", json!(network.vni.get()));
            }
        }
        "virtualNetworks/subnets" => {
            if let Some(network) = path.parent().and_then(|p| state.intent.networks.get(&p)) {
                put("VirtualSubnetId", json!(network.vni.get()));
            }
        }
        "networkInterfaces" if !said("privateMacAddress") => {
            if let Some(mac) = text("mac") {
                // As the specification writes them: 12 digits, no separators.
                put("privateMacAddress", json!(mac.replace(':', "").to_uppercase()));
            }
        }
        "networkInterfaces/ipConfigurations" | "loadBalancers/frontendIPConfigurations"
            if !said("privateIPAddress") =>
        {
            if let Some(address) = text("address") {
                put("privateIPAddress", json!(address));
            }
        }
        "publicIPAddresses" if !said("ipAddress") => {
            if let Some(address) = text("address") {
                put("ipAddress", json!(address));
            }
        }
        "VirtualGateways/networkConnections" => out.extend(connection(state, hub, path, allocated)),
        "VirtualGateways/bgpRouters" => out.extend(site_router(state, hub, path)),
        "VirtualGateways/bgpRouters/bgpPeers" => out.extend(site_peer(state, hub, path)),
        _ => {}
    }
    // Clients walk lists without looking whether they are there.
    let kind = path.kind();
    let lists = kind.properties.iter().filter(|p| matches!(p.of, Type::List(Type::Ref(_)))).map(|p| p.name);
    for name in lists.chain(kind.children.iter().map(|c| c.collection)) {
        if value::get(value::properties(node), name).is_none() {
            out.insert(name.to_owned(), json!([]));
        }
    }
    if let Some(configuration) = configuration_state(state, hub, path) {
        out.insert("configurationState".to_owned(), configuration);
    }
    out
}

fn connection(state: &State, hub: &GoalHub, path: &ResourcePath, allocated: Allocated<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    if let Some(key) = allocated.parsed::<String>("publicKey") {
        let mut wireguard = json!({"publicKey": key});
        if let (port @ 1.., Some(map)) = (allocated.number("port"), wireguard.as_object_mut()) {
            map.insert("listenPort".to_owned(), json!(port));
        }
        out.insert("wireGuardConfiguration".to_owned(), wireguard);
    }
    let Some(found) = state.intent.connections.iter().find(|c| c.path == *path) else { return out };
    out.insert("gateway".to_owned(), json!({"resourceRef": found.gateway.as_str()}));
    let report = hub.report_of(NodeRole::Gateway, found.gateway.id());
    let tunnel = match report.as_deref() {
        Some(NodeReport::Gateway(status)) => status.tunnels.iter().find(|t| t.id == found.id),
        _ => None,
    };
    let word = match tunnel.map(|t| t.state) {
        Some(TunnelState::Connected) => "Connected",
        Some(TunnelState::Connecting) => "Connecting",
        Some(TunnelState::Failed) | None => "Disconnected",
    };
    out.insert("connectionState".to_owned(), json!(word));
    if let Some(t) = tunnel {
        let statistics = json!({"inboundBytes": t.received_bytes, "outboundBytes": t.transmitted_bytes});
        out.insert("statistics".to_owned(), statistics);
    }
    out
}

/// As the gateway tells of a tenant's router.
fn router_status(state: &State, hub: &GoalHub, router: &ResourcePath) -> Option<RouterStatus> {
    let found = state.intent.site_routers.iter().find(|r| r.path == *router)?;
    match hub.report_of(NodeRole::Gateway, found.gateway.id()).as_deref() {
        Some(NodeReport::Gateway(status)) => {
            status.routers.iter().find(|r| r.name == router.name()).map(|r| r.status.clone())
        }
        _ => None,
    }
}

fn site_router(state: &State, hub: &GoalHub, path: &ResourcePath) -> Map<String, Value> {
    let status = router_status(state, hub, path);
    let routes = status.iter().flat_map(|s| &s.routes).map(crate::routers::route).collect();
    Map::from_iter([("learnedRoutes".to_owned(), Value::Array(routes))])
}

fn site_peer(state: &State, hub: &GoalHub, path: &ResourcePath) -> Map<String, Value> {
    let mut out = Map::new();
    let status = path.parent().and_then(|router| router_status(state, hub, &router));
    let peer = status.as_ref().and_then(|s| s.peers.iter().find(|p| p.name == path.name()));
    let is_up = peer.is_some_and(|p| p.state == SessionState::Established);
    out.insert("connectionState".to_owned(), json!(if is_up { "Connected" } else { "Disconnected" }));
    if let Some(p) = peer {
        let statistics = json!({
            "tcpConnectionEstablished": p.established,
            "messagesReceived": p.messages_received,
            "messagesSent": p.messages_sent,
            "routesReceived": p.received,
            "routesAdvertised": p.advertised,
            "lastError": p.last_error,
        });
        out.insert("statistics".to_owned(), statistics);
    }
    out
}

/// Of every top-level resource, and of children that have something to say.
fn configuration_state(state: &State, hub: &GoalHub, path: &ResourcePath) -> Option<Value> {
    if path.kind().function == Function::Stored {
        let message = "Kept and returned; resources of this kind have no function in this version.";
        return Some(shape("Uninitialized", vec![detail("ResourceGlobal", "NotImplemented", message)]));
    }
    if let Some((role, node)) = role_of(path) {
        return Some(node_state(hub, role, node, own_warnings(state, path)));
    }
    let warnings: Vec<&Warning> = if path.is_top() {
        state
            .intent
            .warnings
            .range(path.clone()..)
            .take_while(|(p, _)| p.as_str().starts_with(path.as_str()))
            .filter(|(p, _)| p.is_within(path))
            .flat_map(|(_, w)| w)
            .collect()
    } else {
        own_warnings(state, path)
    };
    if !warnings.is_empty() {
        return Some(shape("Warning", details(path, &warnings)));
    }
    path.is_top().then(|| shape("Success", vec![detail(source(path), "Success", "")]))
}

fn own_warnings<'a>(state: &'a State, path: &ResourcePath) -> Vec<&'a Warning> {
    state.intent.warnings.get(path).into_iter().flatten().collect()
}

fn role_of(path: &ResourcePath) -> Option<(NodeRole, &str)> {
    let role = match path.kind_path() {
        "servers" => NodeRole::Host,
        "loadBalancerMuxes" => NodeRole::Mux,
        "gateways" => NodeRole::Gateway,
        _ => return None,
    };
    Some((role, path.id()))
}

fn node_state(hub: &GoalHub, role: NodeRole, node: &str, warnings: Vec<&Warning>) -> Value {
    if !warnings.is_empty() {
        let all = warnings.iter().map(|w| detail("ResourceGlobal", w.code, &w.message)).collect();
        return shape("Warning", all);
    }
    let mut found = None;
    let mut gone = String::new();
    hub.each(|r, name, state| {
        if r == role && name == node {
            let goal = state.goal.borrow().as_ref().map(|g| g.revision());
            found = Some((state.connected, state.report.as_ref().map(|r| r.revision()), goal));
            gone = state.absence(&format!("The {role}"), MonotonicClock::now());
        }
    });
    match found {
        Some((true, Some(applied), Some(goal))) if applied == goal => shape(
            "Success",
            vec![detail("ResourceGlobal", "Success", &format!("The {role} is connected and has applied its goal."))],
        ),
        Some((true, _, _)) => shape(
            "InProgress",
            vec![detail(
                "ResourceGlobal",
                "Unknown",
                &format!("The {role} is connected and has not applied its goal yet."),
            )],
        ),
        _ => shape("Failure", vec![detail("ResourceGlobal", "HostNotConnectedToController", &format!("{gone}."))]),
    }
}

fn details(path: &ResourcePath, warnings: &[&Warning]) -> Vec<Value> {
    warnings.iter().map(|w| detail(source(path), w.code, &w.message)).collect()
}

fn source(path: &ResourcePath) -> &'static str {
    match path.document().kind_path() {
        "loadBalancers" | "loadBalancerMuxes" | "loadBalancerManager" | "publicIPAddresses" => {
            "SoftwareLoadBalancerManager"
        }
        "virtualNetworks" | "logicalNetworks" => "VirtualNetwork",
        "accessControlLists" => "Firewall",
        "networkInterfaces" => "VirtualSwitch",
        _ => "ResourceGlobal",
    }
}

fn detail(source: &str, code: &str, message: &str) -> Value {
    json!({"source": source, "code": code, "message": message})
}

fn shape(status: &str, detailed: Vec<Value>) -> Value {
    json!({"status": status, "detailedInfo": detailed})
}
