//! What the controller chooses where operators leave it open: ids, VNIs, addresses, keys. Written into the documents, so it is
//! stable while the resource lives and free again with it.
use crate::secrets::{Sealer, SecretError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnetwork::IpNetwork;
use penstock_admin_types::intent::Allocated;
use penstock_admin_types::{ALLOCATED, Documents, Kind, ResourcePath, node_at, value};
use penstock_model::Mac;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The first VNI that is given: those below belong to the provider ([MS-NCNBI] virtualSubnetIdRange).
const FIRST_VNI: u32 = 4096;
/// The first UDP port given to WireGuard.
const FIRST_WIREGUARD_PORT: u32 = 51820;

/// Completes the documents at `touched`.
pub(crate) fn complete(
    documents: &mut Documents,
    touched: &BTreeSet<ResourcePath>,
    sealer: &Sealer,
) -> Result<(), SecretError> {
    let mut used = Used::scan(documents);
    for path in touched {
        let Some(document) = documents.get(path) else { continue };
        let mut document = Arc::unwrap_or_clone(document.clone());
        match path.kind_path() {
            "virtualNetworks" => network(&mut document, &mut used),
            "loadBalancers" => balancer(&mut document, documents, &mut used),
            "publicIPAddresses" => public_address(&mut document, documents, &mut used),
            "networkInterfaces" => interface(&mut document, documents, &mut used),
            "VirtualGateways" => {
                for node in children(&mut document, "networkConnections") {
                    connection(node, &mut used, sealer)?;
                }
            }
            _ => continue,
        }
        documents.insert(path.clone(), Arc::new(document));
    }
    Ok(())
}

/// Takes back what a client only repeats: a body that was read and put back says what had been allocated, and does not thereby
/// choose it.
pub(crate) fn unsay(kind: &'static Kind, new: &mut Value, old: &Value) {
    if let Some(given) = old.get(ALLOCATED).cloned()
        && let Some(properties) = new.get_mut("properties")
    {
        let before = value::properties(old);
        for (property, name) in [
            ("encapsulationId", "vni"),
            ("privateMacAddress", "mac"),
            ("privateIPAddress", "address"),
            ("ipAddress", "address"),
        ] {
            unsay_one(properties, before, property, given.get(name));
        }
        let inner = value::get(before, "wireGuardConfiguration").unwrap_or(&Value::Null);
        if let Some(wireguard) = properties.get_mut("wireGuardConfiguration") {
            unsay_one(wireguard, inner, "listenPort", given.get("port"));
        }
    }
    for child in kind.children {
        let before = value::list(value::properties(old), child.collection);
        for node in children(new, child.collection) {
            if let Some(old) = before.iter().find(|b| b.get("resourceId") == node.get("resourceId")) {
                unsay(child, node, old);
            }
        }
    }
}

fn unsay_one(properties: &mut Value, before: &Value, property: &str, given: Option<&Value>) {
    let (Some(map), Some(given)) = (properties.as_object_mut(), given) else { return };
    let same = map.get(property).is_some_and(|said| plain(said) == plain(given));
    if same && value::get(before, property).is_none() {
        map.remove(property);
    }
}

/// A number or an address, however it is written.
fn plain(v: &Value) -> String {
    let text = value::text(v).unwrap_or_default();
    let address = text.parse::<IpAddr>().map(|a| a.to_string());
    address.or_else(|_| text.parse::<Mac>().map(|m| m.to_string())).unwrap_or(text)
}

/// What is taken, over all documents.
struct Used {
    numbers: BTreeMap<&'static str, BTreeSet<u32>>,
    macs: BTreeSet<Mac>,
    vips: BTreeSet<IpAddr>,
    /// By virtual network.
    addresses: BTreeSet<(ResourcePath, IpAddr)>,
}

const NUMBERS: &[&str] = &["tenant", "vni", "tunnel", "port"];

impl Used {
    fn scan(documents: &Documents) -> Self {
        let mut used =
            Self { numbers: BTreeMap::new(), macs: BTreeSet::new(), vips: BTreeSet::new(), addresses: BTreeSet::new() };
        for (path, document) in documents {
            used.walk(document);
            match path.kind_path() {
                "virtualNetworks" => used.take("vni", value::get_int(value::properties(document), "encapsulationId")),
                "networkInterfaces" => used.interface(document),
                "publicIPAddresses" => used.vips.extend(effective(document, "ipAddress")),
                "loadBalancers" => {
                    let frontends = value::list(value::properties(document), "frontendIPConfigurations");
                    used.vips.extend(frontends.iter().filter_map(|f| effective(f, "privateIPAddress")));
                }
                _ => {}
            }
        }
        used
    }

    fn walk(&mut self, v: &Value) {
        match v {
            Value::Array(items) => items.iter().for_each(|i| self.walk(i)),
            Value::Object(map) => {
                for (name, inner) in map {
                    if name != ALLOCATED {
                        self.walk(inner);
                        // Ports that operators chose themselves.
                        if name.eq_ignore_ascii_case("listenPort") {
                            self.take("port", value::int(inner));
                        }
                        continue;
                    }
                    for number in NUMBERS {
                        self.take(number, inner.get(number).and_then(Value::as_i64));
                    }
                }
            }
            _ => {}
        }
    }

    fn interface(&mut self, document: &Value) {
        let said: Option<Mac> =
            value::get_text(value::properties(document), "privateMacAddress").and_then(|s| s.parse().ok());
        self.macs.extend(said.or_else(|| allocated(document).parsed("mac")));
        for c in value::list(value::properties(document), "ipConfigurations") {
            if let (Some(network), Some(address)) = (network_of(c), effective(c, "privateIPAddress")) {
                self.addresses.insert((network, address));
            }
        }
    }

    fn take(&mut self, name: &'static str, n: Option<i64>) {
        if let Some(n) = n.and_then(|n| u32::try_from(n).ok()) {
            self.numbers.entry(name).or_default().insert(n);
        }
    }

    /// The lowest free number.
    fn next(&mut self, name: &'static str, from: u32) -> u32 {
        let taken = self.numbers.entry(name).or_default();
        let mut free = from;
        for n in taken.range(from..) {
            if *n != free {
                break;
            }
            free += 1;
        }
        taken.insert(free);
        free
    }
}

fn allocated(node: &Value) -> Allocated<'_> {
    Allocated(node.get(ALLOCATED).unwrap_or(&Value::Null))
}

/// The address that was said, or else the one that was given.
fn effective(node: &Value, property: &str) -> Option<IpAddr> {
    let said = value::get_text(value::properties(node), property).and_then(|s| s.parse().ok());
    said.or_else(|| allocated(node).parsed("address"))
}

fn subnet_of(node: &Value) -> Option<ResourcePath> {
    let reference = value::get(value::properties(node), "subnet").and_then(value::reference)?;
    ResourcePath::parse(reference).ok()
}

fn network_of(ip_configuration: &Value) -> Option<ResourcePath> {
    subnet_of(ip_configuration)?.parent()
}

fn children<'a>(document: &'a mut Value, collection: &str) -> &'a mut [Value] {
    document
        .get_mut("properties")
        .and_then(|p| p.get_mut(collection))
        .and_then(Value::as_array_mut)
        .map_or(&mut [], |v| v.as_mut_slice())
}

fn slot(node: &mut Value) -> Option<&mut Map<String, Value>> {
    node.as_object_mut()?.entry(ALLOCATED).or_insert_with(|| json!({})).as_object_mut()
}

fn number(node: &mut Value, used: &mut Used, name: &'static str, from: u32) {
    if allocated(node).number(name) == 0 {
        let n = used.next(name, from);
        if let Some(slot) = slot(node) {
            slot.insert(name.to_owned(), json!(n));
        }
    }
}

fn set(node: &mut Value, name: &str, v: impl Into<Value>) {
    if let Some(slot) = slot(node) {
        slot.insert(name.to_owned(), v.into());
    }
}

fn network(document: &mut Value, used: &mut Used) {
    number(document, used, "tenant", 1);
    if value::get_int(value::properties(document), "encapsulationId").is_none() {
        number(document, used, "vni", FIRST_VNI);
    }
}

fn balancer(document: &mut Value, documents: &Documents, used: &mut Used) {
    for frontend in children(document, "frontendIPConfigurations") {
        let public = value::get(value::properties(frontend), "publicIPAddress").is_some();
        if public || effective(frontend, "privateIPAddress").is_some() {
            continue;
        }
        let subnet = subnet_of(frontend).filter(|s| s.kind_path() == "logicalNetworks/subnets");
        if let Some(vip) = subnet.and_then(|s| from_pools(&pools_of_subnet(documents, &s), true, used)) {
            set(frontend, "address", vip.to_string());
        }
    }
}

fn public_address(document: &mut Value, documents: &Documents, used: &mut Used) {
    if effective(document, "ipAddress").is_some() {
        return;
    }
    let version = value::get_text(value::properties(document), "publicIPAddressVersion").unwrap_or_default();
    let pools: Vec<(IpAddr, IpAddr)> = documents
        .iter()
        .filter(|(p, _)| p.kind_path() == "loadBalancerManager")
        .flat_map(|(_, m)| value::list(value::properties(m), "vipIpPools"))
        .filter_map(|r| pool_bounds(documents, &ResourcePath::parse(value::reference(r)?).ok()?))
        .collect();
    if let Some(vip) = from_pools(&pools, !version.eq_ignore_ascii_case("IPv6"), used) {
        set(document, "address", vip.to_string());
    }
}

fn pool_bounds(documents: &Documents, path: &ResourcePath) -> Option<(IpAddr, IpAddr)> {
    bounds(node_at(documents.get(&path.document())?, path)?)
}

fn bounds(pool: &Value) -> Option<(IpAddr, IpAddr)> {
    let end = |name| value::get_text(value::properties(pool), name)?.parse().ok();
    Some((end("startIpAddress")?, end("endIpAddress")?))
}

fn pools_of_subnet(documents: &Documents, subnet: &ResourcePath) -> Vec<(IpAddr, IpAddr)> {
    let node = documents.get(&subnet.document()).and_then(|d| node_at(d, subnet));
    node.map_or(&[][..], |n| value::list(value::properties(n), "ipPools")).iter().filter_map(bounds).collect()
}

fn from_pools(pools: &[(IpAddr, IpAddr)], v4: bool, used: &mut Used) -> Option<IpAddr> {
    let free = pools
        .iter()
        .filter(|(start, _)| start.is_ipv4() == v4)
        .find_map(|(start, end)| between(*start, *end).find(|a| !used.vips.contains(a)))?;
    used.vips.insert(free);
    Some(free)
}

/// Addresses from `start` to `end`; of a long range the first million.
fn between(start: IpAddr, end: IpAddr) -> impl Iterator<Item = IpAddr> {
    let number = |a: IpAddr| match a {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    let v4 = start.is_ipv4();
    (number(start)..=number(end)).take(1 << 20).map(move |n| match u32::try_from(n) {
        Ok(n) if v4 => IpAddr::V4(n.into()),
        _ => IpAddr::V6(n.into()),
    })
}

fn interface(document: &mut Value, documents: &Documents, used: &mut Used) {
    let said = value::get_text(value::properties(document), "privateMacAddress").is_some();
    if !said && allocated(document).parsed::<Mac>("mac").is_none() {
        // Locally administered, in a range of its own.
        let mac = (0..=0x00ff_ffff_u32)
            .map(|n| {
                let [_, a, b, c] = n.to_be_bytes();
                Mac([0x02, 0x50, 0x4e, a, b, c])
            })
            .find(|mac| !used.macs.contains(mac));
        if let Some(mac) = mac {
            used.macs.insert(mac);
            set(document, "mac", mac.to_string());
        }
    }
    for node in children(document, "ipConfigurations") {
        if effective(node, "privateIPAddress").is_some() {
            continue;
        }
        let Some((subnet, network)) = subnet_of(node).and_then(|s| Some((s.clone(), s.parent()?))) else { continue };
        let prefix = documents
            .get(&network)
            .and_then(|d| node_at(d, &subnet))
            .and_then(|n| value::get_text(value::properties(n), "addressPrefix"))
            .and_then(|s| s.parse::<IpNetwork>().ok());
        let Some(prefix) = prefix else { continue };
        let reserved = penstock_admin_types::intent::reserved(prefix);
        let free = between(prefix.network(), prefix.broadcast())
            .find(|a| !reserved.contains(a) && !used.addresses.contains(&(network.clone(), *a)));
        if let Some(free) = free {
            used.addresses.insert((network, free));
            set(node, "address", free.to_string());
        }
    }
}

fn connection(node: &mut Value, used: &mut Used, sealer: &Sealer) -> Result<(), SecretError> {
    number(node, used, "tunnel", 1);
    let Some(said) = value::get(value::properties(node), "wireGuardConfiguration").cloned() else { return Ok(()) };
    if value::get(&said, "listenPort").is_none() {
        number(node, used, "port", FIRST_WIREGUARD_PORT);
    }
    let sealed = match value::get(&said, "privateKey").or_else(|| node.get(ALLOCATED)?.get("privateKey")) {
        Some(sealed) => sealed.clone(),
        None => {
            let mut key = Zeroizing::new([0_u8; 32]);
            SystemRandom::new().fill(key.as_mut_slice()).map_err(|_| SecretError::Random)?;
            let sealed = sealer.seal(&Zeroizing::new(STANDARD.encode(key.as_slice())))?;
            set(node, "privateKey", sealed.clone());
            sealed
        }
    };
    // A key that was found wrong has been reported by its reader already.
    if let Ok(key) = sealer.open_key(&sealed) {
        let public = PublicKey::from(&StaticSecret::from(key));
        set(node, "publicKey", STANDARD.encode(public.as_bytes()));
    }
    Ok(())
}
